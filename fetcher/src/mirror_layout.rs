//! Mirrors of Gentoo's distfiles: how they lay out files stands in `layout.conf` at their top.
//!
//! Files are named by the BLAKE2b or SHA-512 of their *name* (`filename-hash`), by a hash of their content
//! (`content-hash`), or lie all in one folder (`flat`). A mirror without the file is taken for a flat one, as Portage
//! does.

use std::cell::RefCell;
use std::collections::HashMap;

use blake2::{Blake2b512, Digest as _};
use store_index::address::{ContentAddress, FileHasher, Framing};
use store_index::digest::Algorithm;

use crate::request::Request;
use crate::source_url::SourceUrl;

/// What tells the layout, below the mirror's URL.
pub(crate) const LAYOUT_FILE: &str = "layout.conf";

/// The longest `layout.conf`, in bytes: Gentoo's own has less than a hundred.
pub(crate) const MAX_LAYOUT_BYTES: usize = 64 * 1024;

/// The most layouts of one mirror; there are three kinds.
const MAX_LAYOUTS: usize = 16;

/// The most names that a file is asked for by: its own, and what upstream calls it.
const MAX_NAMES: usize = 2;

/// What the mirrors of this run have said.
#[derive(Debug, Default)]
pub struct Layouts(RefCell<HashMap<SourceUrl, Layout>>);

impl Layouts {
    /// Returns what a mirror has said.
    pub(crate) fn of(&self, mirror: &SourceUrl) -> Option<Layout> {
        self.0.borrow().get(mirror).cloned()
    }

    /// Remembers what it says.
    pub(crate) fn learn(&self, mirror: &SourceUrl, layout: Layout) {
        self.0.borrow_mut().insert(mirror.clone(), layout);
    }
}

/// How a mirror names files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// In the order of the mirror's choice.
    structures: Vec<Structure>,
    /// The mirror has a `layout.conf`, and so no file under another name.
    pub(crate) is_told: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Structure {
    Flat,
    FilenameHash(NameHash, Vec<usize>),
    ContentHash(Algorithm, Vec<usize>),
}

/// Hashes of names that Gentoo's mirrors use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameHash {
    Blake2b,
    Sha512,
}

impl NameHash {
    fn hex(self, name: &str) -> String {
        match self {
            Self::Blake2b => hex::encode(Blake2b512::digest(name)),
            Self::Sha512 => {
                let bytes = name.as_bytes();
                let length = bytes.len() as u64;
                let mut hasher = FileHasher::new(Framing::Flat, Algorithm::Sha512, length);
                hasher.update(bytes);
                hasher
                    .finish()
                    .map(|digest| digest.to_hex())
                    .unwrap_or_default()
            }
        }
    }
}

impl Layout {
    /// A mirror that says nothing.
    pub(crate) fn flat() -> Self {
        Self {
            structures: vec![Structure::Flat],
            is_told: false,
        }
    }

    /// Reads `layout.conf`. What is not understood is left out; if nothing is left, the mirror counts as flat.
    pub(crate) fn parse(text: &str) -> Self {
        let mut in_structure = false;
        let mut numbered = Vec::new();
        for line in text.lines().map(str::trim) {
            if let Some(section) = line.strip_prefix('[') {
                in_structure = section.trim_end_matches(']').trim() == "structure";
            } else if in_structure
                && let Some((number, words)) = line.split_once('=')
                && let Ok(number) = number.trim().parse::<u32>()
                && let Some(structure) = Structure::parse(words)
                && numbered.len() < MAX_LAYOUTS
            {
                numbered.push((number, structure));
            }
        }
        numbered.sort_by_key(|(number, _)| *number);
        let structures: Vec<_> = numbered
            .into_iter()
            .map(|(_, structure)| structure)
            .collect();
        match structures.is_empty() {
            true => Self::flat(),
            false => Self {
                structures,
                is_told: true,
            },
        }
    }

    /// Returns where a mirror of this layout may have the content: in the first of its layouts that is possible.
    pub(crate) fn urls(&self, mirror: &SourceUrl, request: &Request) -> Vec<SourceUrl> {
        let ContentAddress::Flat(hash) = &request.address else {
            return Vec::new();
        };
        let mut names: Vec<&str> = Vec::new();
        for name in request.name.iter().chain(&request.asked_names) {
            if !names.contains(&name.as_str()) && names.len() < MAX_NAMES {
                names.push(name);
            }
        }
        let paths = self.structures.iter().find_map(|structure| {
            let by_name = |path: &dyn Fn(&str) -> String| {
                let paths: Vec<_> = names.iter().map(|name| path(name)).collect();
                (!paths.is_empty()).then_some(paths)
            };
            match structure {
                Structure::Flat => by_name(&|name| name.to_owned()),
                Structure::FilenameHash(hash, cutoffs) => {
                    by_name(&|name| cut(&hash.hex(name), cutoffs) + name)
                }
                Structure::ContentHash(algorithm, cutoffs) => {
                    let hex = hash.0.to_hex();
                    (hash.0.algorithm() == *algorithm).then(|| vec![cut(&hex, cutoffs) + &hex])
                }
            }
        });
        let paths = paths.unwrap_or_default();
        paths.iter().filter_map(|path| mirror.join(path)).collect()
    }
}

impl Structure {
    /// Reads `flat`, `filename-hash ALGORITHM CUTOFFS` or `content-hash ALGORITHM CUTOFFS`.
    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["flat"] => Some(Self::Flat),
            ["filename-hash", algorithm, cutoffs] => {
                let hash = match algorithm.to_ascii_uppercase().as_str() {
                    "BLAKE2B" => NameHash::Blake2b,
                    "SHA512" => NameHash::Sha512,
                    _ => return None,
                };
                Some(Self::FilenameHash(hash, parse_cutoffs(cutoffs)?))
            }
            ["content-hash", algorithm, cutoffs] => {
                let algorithm = Algorithm::from_name(&algorithm.to_ascii_lowercase())?;
                Some(Self::ContentHash(algorithm, parse_cutoffs(cutoffs)?))
            }
            _ => None,
        }
    }
}

/// Reads bits as in `8:8`, into numbers of hexadecimal digits.
fn parse_cutoffs(text: &str) -> Option<Vec<usize>> {
    let digits = |bits: &str| {
        let bits: usize = bits.parse().ok()?;
        bits.is_multiple_of(4).then_some(bits / 4)
    };
    let cutoffs: Vec<usize> = text.split(':').map(digits).collect::<Option<_>>()?;
    // No digest of theirs is longer, and hostile numbers must not overflow.
    let all = cutoffs
        .iter()
        .try_fold(0_usize, |sum, digits| sum.checked_add(*digits))?;
    (all <= 128).then_some(cutoffs)
}

/// Returns the folders that a digest leads to, with a slash behind each.
fn cut(hex: &str, cutoffs: &[usize]) -> String {
    let (mut folders, mut rest) = (String::new(), hex);
    for &digits in cutoffs {
        let (folder, behind) = rest.split_at(digits.min(rest.len()));
        folders.push_str(folder);
        folders.push('/');
        rest = behind;
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_read_as_portage_does() {
        let gentoo = Layout::parse("[structure]\n0=filename-hash BLAKE2B 8\n1=flat\n");
        assert_eq!(
            gentoo.structures,
            [
                Structure::FilenameHash(NameHash::Blake2b, vec![2]),
                Structure::Flat
            ]
        );
        let other = Layout::parse(
            "0 = flat\n[structure]\n 1 = flat\n# 2 = flat\n0 = content-hash SHA512 8:8:4\n3=filename-hash SHA512 12\n",
        );
        assert_eq!(
            other.structures,
            [
                Structure::ContentHash(Algorithm::Sha512, vec![2, 2, 1]),
                Structure::Flat,
                Structure::FilenameHash(NameHash::Sha512, vec![3]),
            ]
        );
        for nothing in [
            "",
            "[structure]\n0=filename-hash MD5 8\n",
            "[structure]\n0=filename-hash SHA512 7\n",
            "[structure]\n0=filename-hash SHA512 516\n",
            "[structure]\n0=content-hash SHA512 18446744073709551612:8\n",
            "[structure]\n0=filename-hash SHA512\n",
            "[other]\n0=flat\n",
            "<html>",
        ] {
            assert_eq!(Layout::parse(nothing), Layout::flat(), "{nothing}");
        }
    }

    /// By `b2sum` and `sha512sum` of the name without a line's end.
    #[test]
    fn names_are_cut_behind_bits() {
        let hex = NameHash::Blake2b.hex("hello-2.10.tar.gz");
        assert_eq!(cut(&hex, &[2]), format!("{}/", &hex[..2]));
        assert_eq!(cut(&hex, &[2, 1]), format!("{}/{}/", &hex[..2], &hex[2..3]));
        assert_eq!(cut("abc", &[2, 2, 2]), "ab/c//");
        assert_eq!(NameHash::Blake2b.hex("a").get(..8), Some("333fcb4e"));
        assert_eq!(NameHash::Sha512.hex("a").get(..8), Some("1f40fc92"));
    }
}
