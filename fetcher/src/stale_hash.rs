//! The guard against a forgotten hash: the version in the URL was raised, the hash was not, and the old source would
//! silently be built.
//!
//! A local match is suspicious only if everything speaks for that: every name the content is known by has a version,
//! none of them is a requested one, and the packages are the same or unsaid.

/// Suffixes of archives, the longer ones first.
const ARCHIVE_SUFFIXES: [&str; 34] = [
    ".tar.bz2",
    ".tar.lzma",
    ".tar.zst",
    ".tar.gz",
    ".tar.xz",
    ".tar.lz",
    ".tar.z",
    ".tar",
    ".tbz2",
    ".tbz",
    ".tgz",
    ".txz",
    ".tzst",
    ".tlz",
    ".taz",
    ".zip",
    ".jar",
    ".war",
    ".7z",
    ".gz",
    ".xz",
    ".bz2",
    ".zst",
    ".lz",
    ".lzma",
    ".z",
    ".crate",
    ".gem",
    ".whl",
    ".egg",
    ".deb",
    ".rpm",
    ".nupkg",
    ".cpio",
];

/// Words that say how a source was packed, not which one it is.
const PACKING_SUFFIXES: [&str; 4] = [".orig", "-source", "-src", "-checkout"];

/// The fewest hex digits of a commit in Guix's `VERSION-REVISION.COMMIT`.
const MIN_COMMIT_DIGITS: usize = 7;

/// The most digits of a single number with a letter, as in 2023c; more are part of a commit.
const MAX_LETTERED_DIGITS: usize = 5;

/// What to do about suspicious matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StaleHash {
    /// Let the network decide; offline, use it with a warning.
    #[default]
    Auto,
    /// Never use one.
    Refuse,
    /// Do not look at versions.
    Ignore,
}

impl StaleHash {
    /// Finds a way by name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "refuse" => Some(Self::Refuse),
            "ignore" => Some(Self::Ignore),
            _ => None,
        }
    }
}

/// A name taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    /// Letters and digits of what stands before the version, in lower case.
    package: String,
    version: Version,
}

#[derive(Clone, Debug)]
struct Version {
    /// Without trailing zeroes.
    numbers: Vec<String>,
    /// As the `w` of 1.1.1w.
    letters: String,
    /// As the `4.def5678` of Guix's 1.2-4.def5678.
    revision: String,
}

impl PartialEq for Version {
    /// Letters and revisions count only where both have them.
    fn eq(&self, other: &Self) -> bool {
        let agree = |a: &str, b: &str| a.is_empty() || b.is_empty() || a == b;
        self.numbers == other.numbers
            && agree(&self.letters, &other.letters)
            && agree(&self.revision, &other.revision)
    }
}

impl Eq for Version {}

/// Returns true if content `known` by these names is likely not what was `asked` for.
pub fn is_suspicious(asked: &[String], known: &[String]) -> bool {
    let asked: Vec<Named> = asked.iter().filter_map(|name| take_apart(name)).collect();
    !asked.is_empty()
        && !known.is_empty()
        && known.iter().all(|name| {
            take_apart(name).is_some_and(|known| {
                let same_package = |asked: &&Named| {
                    asked.package.is_empty()
                        || known.package.is_empty()
                        || asked.package == known.package
                };
                asked.iter().all(|asked| asked.version != known.version)
                    && asked.iter().any(|asked| same_package(&asked))
            })
        })
}

/// Returns true if the name carries a version, so that a match without a name is worth asking for one.
pub fn has_version(name: &str) -> bool {
    take_apart(name).is_some()
}

fn take_apart(name: &str) -> Option<Named> {
    let mut stem = name.to_ascii_lowercase();
    let mut was_archive = false;
    loop {
        let archive = ARCHIVE_SUFFIXES
            .iter()
            .find_map(|suffix| stem.strip_suffix(suffix));
        let shorter = archive.or_else(|| {
            PACKING_SUFFIXES
                .iter()
                .find_map(|suffix| stem.strip_suffix(suffix))
        });
        let Some(shorter) = shorter else { break };
        was_archive |= archive.is_some();
        stem = shorter.to_owned();
    }
    // The version is the longest tail that reads as one: the first place from the left.
    let starts =
        std::iter::once((0, 0)).chain(stem.match_indices(['-', '_']).map(|(at, _)| (at, at + 1)));
    starts.into_iter().find_map(|(end_of_package, start)| {
        let version = read_version(&stem[start..], was_archive)?;
        let package = stem[..end_of_package]
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .collect();
        Some(Named { package, version })
    })
}

fn read_version(text: &str, single_number_counts: bool) -> Option<Version> {
    let mut rest = text.strip_prefix('v').unwrap_or(text);
    let mut numbers = vec![take_digits(&mut rest)?];
    while let Some(after) = rest.strip_prefix(['.', '_']) {
        let mut after = after;
        let Some(number) = take_digits(&mut after) else {
            break;
        };
        numbers.push(number);
        rest = after;
    }
    let single = numbers.len() == 1;
    if single && !single_number_counts {
        return None;
    }
    let letters_len = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (letters, rest) = rest.split_at(letters_len);
    // 2023c is a version, 1234567a a commit.
    if single
        && !letters.is_empty()
        && (letters.len() > 1 || numbers[0].len() > MAX_LETTERED_DIGITS)
    {
        return None;
    }
    let revision = match rest.strip_prefix('-') {
        None if rest.is_empty() => "",
        Some(revision) if is_guix_revision(revision) => revision,
        _ => return None,
    };
    while numbers.len() > 1 && numbers.last().is_some_and(|number| number == "0") {
        numbers.pop();
    }
    Some(Version {
        numbers,
        letters: letters.to_owned(),
        revision: revision.to_owned(),
    })
}

/// Takes digits off the front; leading zeroes mean nothing.
fn take_digits(rest: &mut &str) -> Option<String> {
    let (digits, after) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
    if digits.is_empty() {
        return None;
    }
    *rest = after;
    let significant = digits.trim_start_matches('0');
    Some(if significant.is_empty() {
        "0".to_owned()
    } else {
        significant.to_owned()
    })
}

fn is_guix_revision(text: &str) -> bool {
    text.split_once('.').is_some_and(|(revision, commit)| {
        !revision.is_empty()
            && revision.bytes().all(|byte| byte.is_ascii_digit())
            && commit.len() >= MIN_COMMIT_DIGITS
            && commit.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wanted: &str, known: &str) -> bool {
        is_suspicious(&[wanted.to_owned()], &[known.to_owned()])
    }

    #[test]
    fn another_version_of_the_same_package_is_suspicious() {
        for (wanted, known) in [
            ("hello-2.11", "hello-2.10"),
            ("hello-2.11", "hello_2.10.orig"),
            ("hello-2.11.tar.gz", "hello_2.10.orig.tar.gz"),
            ("v1.2.4", "foo-1.2.3"),
            ("v1.2.4.tar.gz", "foo-1.2.3.tar.xz"),
            ("log4j-2.17.1.jar", "log4j-2.17.0.jar"),
            ("systemd-255.tar.gz", "systemd-254.tar.gz"),
            ("openssl-1.1.1w", "openssl-1.1.1v"),
            ("foo-1.3-checkout", "foo-1.2-checkout"),
            ("foo-1.2-4.def5678-checkout", "foo-1.2-3.abc1234-checkout"),
            ("tzdata-2023d.tar.gz", "tzdata-2023c.tar.gz"),
        ] {
            assert!(check(wanted, known), "{wanted} / {known}");
        }
    }

    #[test]
    fn what_may_well_be_right_is_not() {
        for (wanted, known) in [
            ("hello-2.10", "hello_2.10.orig"),
            ("boost_1_81_0", "boost-1.81.0"),
            ("linux-6.1", "linux-6.1.0"),
            ("v1.2.3", "foo-1.2.3"),
            ("sqlite-autoconf-3400100", "sqlite-3.40.1"),
            ("sqlite-autoconf-3400100.tar.gz", "sqlite-3.40.1.tar.gz"),
            ("texlive-20230313-source", "texlive-2023"),
            ("CVE-2022-5678.patch", "fix-CVE-2022-1234.patch"),
            ("gcc-12-fix.patch", "gcc-11-fix.patch"),
            ("bash52-001", "bash51-001"),
            ("python3.11-foo-1.0", "foo-1.0"),
            ("other-2.0", "one-1.0"),
            ("foo-1a2b3c4", "foo-1.0"),
            ("source", "hello-2.10"),
            ("foo-1.2-4.def5678", "foo-1.2"),
            ("openssl-1.1.1w", "openssl-1.1.1"),
            ("foo-1234567a.tar.gz", "foo-7654321b.tar.gz"),
        ] {
            assert!(!check(wanted, known), "{wanted} / {known}");
        }
    }

    #[test]
    fn every_known_name_must_speak_for_it() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let asked = names(&["hello-2.11.tar.gz"]);
        assert!(is_suspicious(
            &asked,
            &names(&["hello-2.10.tar.gz", "hello_2.9.orig.tar.gz"])
        ));
        assert!(
            !is_suspicious(&asked, &names(&["hello-2.10.tar.gz", "hello-2.11.tar.gz"])),
            "one is the asked one"
        );
        assert!(
            !is_suspicious(&asked, &names(&["hello-2.10.tar.gz", "source"])),
            "one has no version"
        );
        assert!(!is_suspicious(&asked, &[]), "nothing is known");
        assert!(
            !is_suspicious(&[], &names(&["hello-2.10.tar.gz"])),
            "nothing was asked"
        );
    }
}
