//! What a configuration file says, with the line of every mistake.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use store_index::mounts::MountPattern;
use store_index::path_text::{printable, printable_text};
use store_index::store_option::StoreOption;
use store_index::terminal::ProgressMode;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::{Configuration, System, days_of, timeout, wait};
use crate::archives::Archive;
use crate::error::FetchError;
use crate::fetch::LockPolicy;
use crate::mirrors::MirrorSites;
use crate::net::{MAX_RULES, Rule, Rules};
use crate::source_url::SourceUrl;
use crate::stale_hash::StaleHash;

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Read {
    configuration: Configuration,
    /// The line and the name of each key that is not known.
    unknown: Vec<(usize, String)>,
    /// What is wrong beside that; whatever is right is in the configuration all the same.
    mistakes: Vec<FetchError>,
    /// Which of the switches that forbid something stand in the file and cannot be read.
    lost: Lost,
}

/// Switches whose loss would allow what the file may forbid.
#[derive(Clone, Copy, Debug, Default)]
struct Lost {
    offline: bool,
    no_local: bool,
    url_rules: bool,
}

impl Read {
    /// Refuses mistakes, and keys that are not known.
    pub(super) fn strict(mut self) -> Result<Configuration, FetchError> {
        if !self.mistakes.is_empty() {
            return Err(self.mistakes.swap_remove(0));
        }
        self.unknown.sort();
        match self.unknown.into_iter().next() {
            Some((_, unknown)) => Err(FetchError::usage(unknown).with_hint(
                "docs/configuration.md lists the keys; perhaps the file is for a newer version",
            )),
            None => Ok(self.configuration),
        }
    }

    /// Returns what is right. A switch that forbids something, and cannot be read, forbids it.
    pub(super) fn lenient(mut self, path: &Path) -> System {
        self.unknown.sort();
        let mut warnings: Vec<String> = self.unknown.into_iter().map(|(_, text)| text).collect();
        let mistakes = self.mistakes.iter().map(|error| error.message.clone());
        warnings.extend(mistakes);
        let mut configuration = self.configuration;
        for (key, is_lost, switch) in [
            ("offline", self.lost.offline, &mut configuration.offline),
            ("no_local", self.lost.no_local, &mut configuration.no_local),
        ] {
            if is_lost {
                *switch = Some(true);
                warnings.push(format!(
                    "{}: {key} stands there and cannot be read, so it counts as true",
                    printable(path)
                ));
            }
        }
        // Which URLs may be asked is not known, so none is.
        if self.lost.url_rules {
            configuration.offline = Some(true);
            warnings.push(format!(
                "{}: url_rules stands there and cannot be read, so offline counts as true",
                printable(path)
            ));
        }
        System {
            configuration,
            warnings,
            mistake: self.mistakes.into_iter().next(),
        }
    }
}

/// A file that was read, and what its paths may begin with.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextFile<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
    /// What `~` stands for, in a user's own file.
    pub(super) home: Option<&'a Path>,
}

/// Says of what kind a value is to be without the names that types have in programs.
fn in_words(message: &str) -> String {
    let kinds = [
        ("a sequence", "a list"),
        ("a boolean", "true or false"),
        ("f64", "a number"),
        ("u64", "a whole number from 0"),
        ("u32", "a whole number from 0"),
        ("a nonzero u32", "a whole number from 1"),
    ];
    let told = kinds.iter().find_map(|(kind, word)| {
        let found = message.strip_suffix(kind)?.strip_suffix("expected ")?;
        Some(format!("{found}{word} is wanted"))
    });
    told.unwrap_or_else(|| message.to_owned())
}

/// A key's value, and where it stands.
struct Entry<'a> {
    file: TextFile<'a>,
    key: String,
    value: Spanned<DeValue<'a>>,
}

impl<'a> TextFile<'a> {
    /// Makes sense of it, as far as there is any.
    pub(super) fn parse(&self) -> Read {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        let mut read = Read {
            mistakes: errors
                .iter()
                .map(|error| self.wrong(error.span(), error.message()))
                .collect(),
            ..Read::default()
        };
        for (key, value) in table.into_inner() {
            if let Err(error) = self.take(key, value, &mut read) {
                read.mistakes.push(error);
            }
        }
        if !read.mistakes.is_empty() {
            read.lost = Lost {
                offline: self.is_lost("offline", read.configuration.offline),
                no_local: self.is_lost("no_local", read.configuration.no_local),
                url_rules: self.is_lost("url_rules", read.configuration.url_rules.as_ref()),
            };
        }
        read
    }

    /// Says whether a switch stands in a file with mistakes and something else may be meant than was read.
    fn is_lost<T>(&self, key: &str, read: Option<T>) -> bool {
        let begins = |line: &&str| {
            let line = line.trim_start().trim_start_matches(['"', '\'']);
            let rest = line.strip_prefix(key);
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        };
        let lines = self.text.lines().filter(begins).count();
        lines > 1 || lines == 1 && read.is_none()
    }

    fn take(
        &self,
        key: Spanned<Cow<'a, str>>,
        value: Spanned<DeValue<'a>>,
        read: &mut Read,
    ) -> Result<(), FetchError> {
        let span = key.span();
        let entry = self.entry(key.into_inner().into_owned(), value);
        let configuration = &mut read.configuration;
        match entry.key.as_str() {
            "stores" => configuration.stores = Some(entry.list(TextFile::store)?),
            "indexes" => configuration.indexes = Some(entry.list(TextFile::absolute)?),
            "media" => configuration.media = Some(entry.list(TextFile::absolute)?),
            "media_globs" => configuration.media_globs = Some(entry.list(TextFile::pattern)?),
            "no_store" => configuration.no_store = Some(entry.get()?),
            "no_media" => configuration.no_media = Some(entry.get()?),
            "no_local" => configuration.no_local = Some(entry.get()?),
            "offline" => configuration.offline = Some(entry.get()?),
            "stale_hash" => {
                configuration.stale_hash = Some(entry.checked(|_, name: &String| {
                    StaleHash::from_name(name)
                        .ok_or_else(|| "known are auto, refuse and ignore".to_owned())
                })?);
            }
            "progress" => {
                configuration.progress = Some(entry.checked(|_, name: &String| {
                    ProgressMode::from_str(name, false)
                        .map_err(|_| "known are auto, bar, plain, json and none".to_owned())
                })?);
            }
            "quiet" => configuration.quiet = Some(entry.get()?),
            "verbose" => configuration.verbose = Some(entry.get()?),
            "guix" => {
                configuration.guix =
                    Some(entry.checked(|file, text: &String| file.absolute(text))?);
            }
            "mirrors" => configuration.mirrors = Some(entry.list(TextFile::mirror)?),
            "mirror_sites" => configuration.mirror_sites = entry.mirror_sites()?,
            "archives" => {
                configuration.archives = Some(entry.list(|_, text| Archive::parse(text))?);
            }
            "url_rules" => configuration.url_rules = Some(entry.url_rules()?),
            "netrc" => {
                configuration.netrc =
                    Some(entry.checked(|file, text: &String| file.absolute(text))?);
            }
            "lock" => configuration.lock = Some(entry.checked(lock)?),
            "state_dir" => {
                configuration.state_dir =
                    Some(entry.checked(|file, text: &String| file.absolute(text))?);
            }
            "limits" => entry.limits(read)?,
            "copies" => entry.copies(read)?,
            _ => read.unknown.push(self.unknown(span, &entry.key)),
        }
        Ok(())
    }

    fn entry(&self, key: String, value: Spanned<DeValue<'a>>) -> Entry<'a> {
        let file = *self;
        Entry { file, key, value }
    }

    /// Returns the number of the line in which a span begins.
    fn line(&self, span: Option<Range<usize>>) -> usize {
        let end = span.map_or(0, |span| span.start).min(self.text.len());
        let before = &self.text.as_bytes()[..end];
        before.iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    fn wrong(&self, span: Option<Range<usize>>, what: &str) -> FetchError {
        FetchError::usage(format!(
            "{}:{}: {}",
            printable(self.path),
            self.line(span),
            // The parser shows what it did not expect, which may be anything.
            printable_text(&what.replace('\n', "; "))
        ))
    }

    fn unknown(&self, span: Range<usize>, key: &str) -> (usize, String) {
        let (file, line) = (printable(self.path), self.line(Some(span)));
        let message = format!("{file}:{line}: there is no key '{}'", key.escape_debug());
        (line, message)
    }

    /// Takes a path that is one wherever it is read.
    fn absolute(&self, text: &str) -> Result<PathBuf, String> {
        match (text.strip_prefix("~/"), self.home) {
            (Some(below), Some(home)) => Ok(home.join(below)),
            (Some(_), None) => Err("'~' is known in a user's own file alone".to_owned()),
            (None, _) if text.starts_with('/') => Ok(PathBuf::from(text)),
            (None, _) => Err("a path that begins with '/' is wanted".to_owned()),
        }
    }

    fn store(&self, text: &str) -> Result<StoreOption, String> {
        if !text.starts_with('/') {
            return Err("a store's directory, which begins with '/', is wanted".to_owned());
        }
        let mut store = StoreOption::parse(text, None).map_err(|error| error.to_string())?;
        if let Some((_, real)) = text.split_once('=') {
            store.real = self.absolute(real)?;
        }
        Ok(store)
    }

    fn mirror(&self, text: &str) -> Result<SourceUrl, String> {
        let url = SourceUrl::parse(text).map_err(|error| error.to_string())?;
        match url.is_http() {
            true => Ok(url),
            false => Err("http:// or https:// is wanted".to_owned()),
        }
    }

    fn pattern(&self, text: &str) -> Result<MountPattern, String> {
        MountPattern::new(text).map_err(|error| error.to_string())
    }
}

/// What `lock` may be.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lock {
    Seconds(f64),
    Word(String),
}

fn lock(_: &TextFile<'_>, lock: &Lock) -> Result<LockPolicy, String> {
    let policy = match lock {
        Lock::Seconds(seconds) => wait(*seconds).map(LockPolicy::WaitFor),
        Lock::Word(word) => LockPolicy::from_name(word),
    };
    policy.ok_or_else(|| "'wait', 'fail' or a number of seconds up to 86400 is wanted".to_owned())
}

impl<'a> Entry<'a> {
    /// Reads rules, each with its place.
    fn url_rules(self) -> Result<Rules, FetchError> {
        let span = self.value.span();
        let file = self.file;
        let texts: Vec<Spanned<String>> = self.get()?;
        if texts.len() > MAX_RULES {
            let what = format!("url_rules: more than {MAX_RULES} rules");
            return Err(file.wrong(Some(span), &what));
        }
        let rules = texts.iter().map(|text| {
            let place = format!("{}:{}", printable(file.path), file.line(Some(text.span())));
            Rule::parse(text.get_ref(), place).map_err(|why| {
                // A rule may have a password in it.
                let word = text.get_ref().split_whitespace().next().unwrap_or_default();
                let what = format!("url_rules: '{word} …': {why}");
                file.wrong(Some(text.span()), &what)
            })
        });
        Ok(Rules::new(rules.collect::<Result<_, _>>()?))
    }

    /// Reads a table of sites.
    fn mirror_sites(self) -> Result<Option<MirrorSites>, FetchError> {
        let mut sites = MirrorSites::default();
        let file = self.file;
        for (site, value) in self.table()? {
            let site = site.into_inner().into_owned();
            let entry = file.entry(format!("mirror_sites.{site}"), value);
            let bases = entry.list(|_, text| {
                let url = SourceUrl::parse(text).map_err(|error| error.to_string())?;
                url.is_http()
                    .then(|| text.to_owned())
                    .ok_or_else(|| "http:// or https:// is wanted".to_owned())
            })?;
            sites.replace(&site, bases);
        }
        Ok(Some(sites).filter(|sites| *sites != MirrorSites::default()))
    }

    /// Reads a value of its type.
    fn get<T: DeserializeOwned>(self) -> Result<T, FetchError> {
        let span = self.value.span();
        T::deserialize(ValueDeserializer::from(self.value)).map_err(|error| {
            let what = format!("{}: {}", self.key, in_words(error.message()));
            self.file.wrong(error.span().or(Some(span)), &what)
        })
    }

    /// Reads a value that must pass a test.
    fn checked<T: DeserializeOwned, U>(
        self,
        check: impl Fn(&TextFile<'a>, &T) -> Result<U, String>,
    ) -> Result<U, FetchError> {
        let (file, key, span) = (self.file, self.key.clone(), self.value.span());
        let value = self.get()?;
        check(&file, &value).map_err(|why| file.wrong(Some(span), &format!("{key}: {why}")))
    }

    /// Reads a list of texts, each of which must pass a test.
    fn list<U>(
        self,
        check: impl Fn(&TextFile<'a>, &str) -> Result<U, String>,
    ) -> Result<Vec<U>, FetchError> {
        let (file, key) = (self.file, self.key.clone());
        let texts: Vec<Spanned<String>> = self.get()?;
        let checked = texts.iter().map(|text| {
            check(&file, text.get_ref()).map_err(|why| {
                let what = format!("{key}: '{}': {why}", text.get_ref());
                file.wrong(Some(text.span()), &what)
            })
        });
        checked.collect()
    }

    /// Reads a table.
    fn table(self) -> Result<DeTable<'a>, FetchError> {
        let (file, key, span) = (self.file, self.key, self.value.span());
        match self.value.into_inner() {
            DeValue::Table(table) => Ok(table),
            _ => {
                let what = format!("{key}: a table, [{key}], is wanted");
                Err(file.wrong(Some(span), &what))
            }
        }
    }

    fn copies(self, read: &mut Read) -> Result<(), FetchError> {
        let (file, table) = (self.file, self.table()?);
        for (key, value) in table {
            let span = key.span();
            let entry = file.entry(format!("copies.{}", key.get_ref()), value);
            let copies = &mut read.configuration.copies;
            let taken = match key.get_ref().as_ref() {
                "keep" => entry.get().map(|keep| copies.keep = Some(keep)),
                "max_bytes" => entry.get().map(|bytes| copies.max_bytes = Some(bytes)),
                "max_days" => entry
                    .checked(|_, days: &f64| {
                        days_of(*days).ok_or_else(|| "a number of days is wanted".to_owned())
                    })
                    .map(|age| copies.max_age = Some(age)),
                _ => {
                    read.unknown.push(file.unknown(span, &entry.key));
                    Ok(())
                }
            };
            read.mistakes.extend(taken.err());
        }
        Ok(())
    }

    fn limits(self, read: &mut Read) -> Result<(), FetchError> {
        let (file, table) = (self.file, self.table()?);
        for (key, value) in table {
            let span = key.span();
            let entry = file.entry(format!("limits.{}", key.get_ref()), value);
            let limits = &mut read.configuration.limits;
            let taken = match key.get_ref().as_ref() {
                "connect_timeout" => entry.timeout(&mut limits.connect_timeout),
                "first_byte_timeout" => entry.timeout(&mut limits.first_byte_timeout),
                "stall_timeout" => entry.timeout(&mut limits.stall_timeout),
                "stall_bytes_per_second" => entry.set(&mut limits.stall_bytes_per_second),
                "max_bytes" => entry.set(&mut limits.max_bytes),
                "disk_reserve" => entry.set(&mut limits.disk_reserve),
                "max_redirects" => entry.set(&mut limits.max_redirects),
                "connections" => entry.some(&mut limits.connections),
                "tries" => entry.some(&mut limits.tries),
                "retry_budget" => entry.wait(&mut limits.retry_budget),
                _ => {
                    read.unknown.push(file.unknown(span, &entry.key));
                    Ok(())
                }
            };
            read.mistakes.extend(taken.err());
        }
        Ok(())
    }

    fn set<T: DeserializeOwned>(self, value: &mut Option<T>) -> Result<(), FetchError> {
        *value = Some(self.get()?);
        Ok(())
    }

    /// Reads a number of which 0 makes no sense.
    fn some(self, number: &mut Option<u32>) -> Result<(), FetchError> {
        *number = Some(self.get::<NonZeroU32>()?.get());
        Ok(())
    }

    fn wait(self, longest: &mut Option<Duration>) -> Result<(), FetchError> {
        *longest = Some(self.checked(|_, seconds: &f64| {
            wait(*seconds).ok_or_else(|| "a number of seconds from 0 to 86400 is wanted".to_owned())
        })?);
        Ok(())
    }

    fn timeout(self, limit: &mut Option<Duration>) -> Result<(), FetchError> {
        *limit = Some(self.checked(|_, seconds: &f64| {
            timeout(*seconds)
                .ok_or_else(|| "a number of seconds from above 0 to 86400 is wanted".to_owned())
        })?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::{Configuration, ConfiguredCopies, ConfiguredLimits};
    use crate::net::Limits;
    use store_index::store_option::StoreOption;

    const PATH: &str = "/etc/fetch/fetch.toml";

    fn parse(text: &str) -> Read {
        TextFile {
            path: Path::new(PATH),
            text,
            home: Some(Path::new("/home/me")),
        }
        .parse()
    }

    #[test]
    fn the_example_is_right_and_says_nothing_by_itself() {
        let example = include_str!("../../../contrib/fetch.toml");
        assert_eq!(parse(example).strict().unwrap(), Configuration::default());
        // What stands behind "#" are the keys, each with a value that is taken.
        let told: String = example
            .lines()
            .map(|line| {
                line.strip_prefix('#')
                    .filter(|line| !line.starts_with(' '))
                    .unwrap_or(line)
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        let read = parse(&told).strict().unwrap();
        let Configuration {
            stores: Some(_),
            indexes: Some(_),
            media: Some(_),
            media_globs: Some(_),
            no_store: Some(_),
            no_media: Some(_),
            no_local: Some(_),
            offline: Some(_),
            stale_hash: Some(_),
            progress: Some(_),
            quiet: Some(_),
            verbose: Some(_),
            guix: Some(_),
            mirrors: Some(_),
            mirror_sites: Some(_),
            archives: Some(_),
            url_rules: Some(_),
            netrc: Some(_),
            lock: Some(_),
            state_dir: Some(_),
            limits:
                ConfiguredLimits {
                    connect_timeout: Some(_),
                    first_byte_timeout: Some(_),
                    stall_timeout: Some(_),
                    stall_bytes_per_second: Some(_),
                    max_bytes: Some(_),
                    disk_reserve: Some(_),
                    connections: Some(_),
                    max_redirects: Some(_),
                    tries: Some(_),
                    retry_budget: Some(_),
                },
            copies:
                ConfiguredCopies {
                    keep: Some(_),
                    max_bytes: Some(_),
                    max_age: Some(_),
                },
        } = read
        else {
            panic!("contrib/fetch.toml lacks a key: {read:#?}");
        };
    }

    #[test]
    fn the_document_names_every_key_of_the_example() {
        let document = include_str!("../../../docs/configuration.md");
        for line in include_str!("../../../contrib/fetch.toml").lines() {
            if let Some((key, _)) = line.trim_start_matches('#').split_once(" = ")
                && !key.contains(' ')
            {
                assert!(
                    ["", "limits.", "copies.", "mirror_sites."]
                        .iter()
                        .any(|table| document.contains(&format!("`{table}{key}`"))),
                    "{key}"
                );
            }
        }
    }

    #[test]
    fn values_are_read_as_they_are_meant() {
        let read = parse(
            "stores = ['/gnu/store', '/nix/store=/mnt/nix/store', '/gnu/store=~/guix']\nmedia = ['~/distfiles', '/srv/a']\n[limits]\nstall_timeout = 2\nconnect_timeout = 0.5\nmax_bytes = 10\n",
        )
        .strict()
        .unwrap();
        let store = |logical: &str, real: &str| StoreOption {
            logical: logical.to_owned(),
            real: real.into(),
        };
        assert_eq!(
            read.stores,
            Some(vec![
                store("/gnu/store", "/gnu/store"),
                store("/nix/store", "/mnt/nix/store"),
                store("/gnu/store", "/home/me/guix"),
            ])
        );
        assert_eq!(
            read.media,
            Some(vec!["/home/me/distfiles".into(), "/srv/a".into()])
        );
        let limits = read.limits.or_default();
        assert_eq!(limits.stall_window, Duration::from_secs(2));
        assert_eq!(limits.connect_timeout, Duration::from_millis(500));
        assert_eq!(limits.max_bytes, 10);
        assert_eq!(
            limits.first_byte_timeout,
            Limits::default().first_byte_timeout
        );
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, line, words) in [
            ("offline = true\nstore = []\n", 2, "no key 'store'"),
            (
                "[limits]\n\nmax-bytes = 1\n",
                3,
                "no key 'limits.max-bytes'",
            ),
            ("[nothing]\n", 1, "no key 'nothing'"),
            ("a = 1\noffline = \n", 2, ""),
            ("offline = true\noffline = true\n", 2, "duplicate"),
            ("\n\noffline = 'yes'\n", 3, "offline: invalid type: string"),
            ("media = '/a'\n", 1, "media: invalid type: string"),
            (
                "media = [\n '/a',\n 'b',\n]\n",
                3,
                "media: 'b': a path that begins",
            ),
            ("indexes = ['']\n", 1, "indexes: '': a path"),
            ("stores = ['=/a']\n", 1, "a store's directory"),
            ("stores = ['/a=']\n", 1, "nothing stands behind"),
            ("stores = ['/a=b']\n", 1, "a path that begins"),
            ("media_globs = ['*/a']\n", 1, "begins with '/'"),
            ("media_globs = ['/a[']\n", 1, "no pattern"),
            ("stale_hash = 'never'\n", 1, "stale_hash: known are auto"),
            ("progress = 'loud'\n", 1, "progress: known are auto"),
            ("guix = 'guix'\n", 1, "guix: a path"),
            ("limits = 3\n", 1, "[limits]"),
            ("[copies]\nkeep = 1\n", 2, "true or false is wanted"),
            (
                "stores = 1\n",
                1,
                "stores: invalid type: integer `1`, a list",
            ),
            (
                "[limits]\ntries = 0\n",
                2,
                "a whole number from 1 is wanted",
            ),
            ("[limits]\nmax_bytes = '1'\n", 2, "a whole number from 0 is"),
            ("[limits]\nretry_budget = ''\n", 2, "a number is wanted"),
            ("[copies]\nmax_days = -1\n", 2, "a number of days"),
            ("[copies]\ndays = 1\n", 2, "no key 'copies.days'"),
            (
                "[limits]\nconnect_timeout = 0\n",
                2,
                "limits.connect_timeout: a number of seconds",
            ),
            ("[limits]\nstall_timeout = 1e9\n", 2, "a number of seconds"),
            ("[limits]\nstall_timeout = nan\n", 2, "a number of seconds"),
            (
                "mirrors = ['ftp://h/']\n",
                1,
                "mirrors: 'ftp://h/': http://",
            ),
            ("mirror_sites = 1\n", 1, "[mirror_sites]"),
            (
                "[mirror_sites]\ngnu = ['http://a/',\n'b']\n",
                3,
                "mirror_sites.gnu: 'b': not a URL",
            ),
            ("archives = ['swh']\n", 1, "archives: 'swh': known are"),
            (
                "url_rules = [\n'block a',\n'rewrite a https://me:s3cret@b:c/']\n",
                3,
                "url_rules: 'rewrite …': not a URL",
            ),
            ("netrc = 'netrc'\n", 1, "netrc: a path"),
            ("lock = 'never'\n", 1, "lock: 'wait', 'fail' or"),
            ("lock = -1\n", 1, "lock: 'wait', 'fail' or"),
            ("state_dir = 1\n", 1, "state_dir: invalid type"),
            ("[limits]\ntries = 0\n", 2, "limits.tries: "),
            ("[limits]\nretry_budget = -1\n", 2, "from 0 to 86400"),
            ("[limits]\nmax_bytes = -1\n", 2, "limits.max_bytes: "),
            ("\u{1b}[31m = 1\n", 1, ""),
        ] {
            let error = parse(text).strict().unwrap_err();
            assert_eq!(error.kind.exit_code(), 2, "{text}");
            let place = format!("/etc/fetch/fetch.toml:{line}: ");
            let message = &error.message;
            assert!(message.starts_with(&place), "{text}: {message}");
            assert!(message.contains(words), "{text}: {message}");
            assert!(!message.contains(['\n', '\u{1b}']), "{text}: {message}");
        }
    }

    fn leniently(text: &str) -> System {
        parse(text).lenient(Path::new(PATH))
    }

    #[test]
    fn builtin_modes_get_unknown_keys_as_warnings() {
        let system = leniently("offline = true\nnewer = 1\n[limits]\nnewest = 2\n");
        assert_eq!(system.configuration.offline, Some(true));
        assert!(system.mistake.is_none());
        assert_eq!(
            system.warnings,
            [
                "/etc/fetch/fetch.toml:2: there is no key 'newer'",
                "/etc/fetch/fetch.toml:4: there is no key 'limits.newest'"
            ]
        );
    }

    #[test]
    fn in_builtin_modes_a_mistake_costs_its_own_line() {
        let system = leniently(
            "offline = true\nmedia = '/a'\nguix = '/g'\n[limits]\nmax_bytes = 'x'\nstall_timeout = 3\n",
        );
        let configuration = &system.configuration;
        assert_eq!(configuration.offline, Some(true));
        assert_eq!(configuration.media, None);
        assert_eq!(configuration.guix, Some("/g".into()));
        assert_eq!(
            configuration.limits.stall_timeout,
            Some(Duration::from_secs(3))
        );
        assert_eq!(system.warnings.len(), 2, "{:?}", system.warnings);
        assert!(
            system
                .warnings
                .iter()
                .any(|text| text.contains(":2: media"))
        );
        assert!(system.mistake.is_some());
    }

    #[test]
    fn what_may_forbid_forbids() {
        for (text, offline, no_local) in [
            // What is wrong is the switch itself.
            ("offline = yes\n", Some(true), None),
            ("offline = 'false'\nno_local =\n", Some(true), Some(true)),
            ("offline true\n", Some(true), None),
            ("offline = false\noffline = true\n", Some(true), None),
            ("\"offline\" = 1\n", Some(true), None),
            // Something else is, and takes the switch along or not.
            ("stores = [ '/a'\noffline = true\n", Some(true), None),
            ("media = [ '/a' \noffline = false\n", Some(true), None),
            ("[limits\noffline = true\n", Some(true), None),
            ("guix = 'x'\noffline = false\n", Some(false), None),
            ("media = = 3\noffline = true\n", Some(true), None),
            ("media = = 3\n# offline = true\nofflines = 1\n", None, None),
            // Nobody knows which URLs may be asked.
            ("url_rules = ['block a', 'deny b']\n", Some(true), None),
            ("guix = 'x'\nurl_rules = ['block a']\n", None, None),
        ] {
            let system = leniently(text);
            assert!(system.mistake.is_some(), "{text}");
            let got = (system.configuration.offline, system.configuration.no_local);
            assert_eq!(got, (offline, no_local), "{text}: {:?}", system.warnings);
        }
    }

    #[test]
    fn home_is_known_in_the_users_file_alone() {
        let system = TextFile {
            path: Path::new("/etc/fetch/fetch.toml"),
            text: "media = ['~/a']\n",
            home: None,
        };
        assert!(
            system
                .parse()
                .strict()
                .unwrap_err()
                .message
                .contains("'~' is known")
        );
    }

    #[test]
    fn the_users_file_goes_before_the_systems_key_by_key() {
        let parse = |text| parse(text).strict().unwrap();
        let user = parse("media = ['/user']\n[limits]\nmax_bytes = 1\n");
        let system = parse(
            "media = ['/a', '/b']\noffline = true\n[limits]\nmax_bytes = 2\nstall_timeout = 3\n",
        );
        let both = user.over(system);
        assert_eq!(both.media, Some(vec!["/user".into()]));
        assert_eq!(both.offline, Some(true));
        assert_eq!(both.limits.max_bytes, Some(1));
        assert_eq!(both.limits.stall_timeout, Some(Duration::from_secs(3)));
    }
}
