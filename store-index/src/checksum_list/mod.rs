//! Checksum lists that lie on media: what somebody has hashed before, to be entered as hints without reading a file.
//!
//! A list is recognised by its name and read as a stream. Lists are hostile: no input panics, memory does not grow
//! with the input, and paths that would lead out of the medium are left out. Entries handed out before an error are
//! hints as good as any.
//!
//! ```
//! use store_index::checksum_list::{read, recognise};
//! let kind = recognise(b"SHA1SUMS").expect("a list by its name");
//! let text = b"f572d396fae9206628714fb2ce00f72e94f2258f  ./hello.txt\n";
//! let mut found = Vec::new();
//! read(&kind, b"gnu/hello", &text[..], &mut |listed| found.push(listed))?;
//! assert_eq!(found[0].path, b"gnu/hello/hello.txt");
//! # Ok::<(), store_index::checksum_list::ListError>(())
//! ```

mod bsd;
mod debian;
mod gather;
mod gentoo;
mod lines;
mod path;
mod sums;
mod unpack;

use std::io::{self, BufRead};

use crate::digest::{Algorithm, Digest};

pub use self::lines::MAX_LINE_LEN;
pub use self::path::{MAX_PART_LEN, MAX_PATH_LEN};
pub use self::unpack::{MAX_RATIO, MAX_TEXT_LEN, RATIO_GRACE_LEN, XZ_MEMORY_KIB};

/// The most entries taken from one list. Debian's whole archive has a few hundred thousand.
pub const MAX_ENTRIES: u64 = 10_000_000;

/// What a list says of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where, below the medium's root: not absolute, no `..`, no empty part, no NUL.
    pub path: Vec<u8>,
    /// True if the list does not say where the file lies, as those of ports trees: `path` is its name in whatever
    /// folder such files are kept in, rarely with a subdirectory.
    pub name_only: bool,
    /// The size in bytes, if the list has it.
    pub size: Option<u64>,
    /// The digests of the bytes, at least one and at most one of an algorithm, in the algorithms' order.
    pub digests: Vec<Digest>,
}

/// A list that can be read, told by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListKind {
    format: Format,
    compression: Compression,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Format {
    /// `Sources`: stanzas of source packages.
    DebianSources,
    /// `.dsc`: one such stanza, often signed.
    DebianControl,
    /// A line a file. `describes` is the file that a digest without a name belongs to.
    Sums {
        algorithm: Algorithm,
        describes: Option<Vec<u8>>,
    },
    /// `Manifest` of a Gentoo package.
    GentooManifest,
    /// `distinfo` of a BSD port.
    BsdDistinfo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Xz,
}

/// What came of reading a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files handed out.
    pub entries: u64,
    /// Lines and files left out: malformed, contradictory, or with a path that leads elsewhere.
    pub skipped: u64,
}

/// Why a list was not read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// Reading or unpacking failed.
    #[error("cannot read the list: {0}")]
    Read(#[source] io::Error),
    /// More than [`MAX_TEXT_LEN`].
    #[error("the list is longer than {MAX_TEXT_LEN} bytes")]
    TooLong,
    /// More than [`MAX_RATIO`].
    #[error("the list unpacks to more than {MAX_RATIO} times its size")]
    Ratio,
    /// More than [`MAX_ENTRIES`].
    #[error("the list has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    /// The list's own directory, as the caller gave it, is no path below the medium's root.
    #[error("the list's directory is not a plain path below the medium's root")]
    BaseDirectory,
}

/// Tells by its name whether a file is a checksum list.
pub fn recognise(file_name: &[u8]) -> Option<ListKind> {
    let (format, compression) = match file_name {
        b"Sources" => (Format::DebianSources, Compression::None),
        b"Sources.gz" => (Format::DebianSources, Compression::Gzip),
        b"Sources.xz" => (Format::DebianSources, Compression::Xz),
        b"Manifest" => (Format::GentooManifest, Compression::None),
        b"distinfo" => (Format::BsdDistinfo, Compression::None),
        name if name.len() > 4 && name.ends_with(b".dsc") => {
            (Format::DebianControl, Compression::None)
        }
        name => (sums::recognise(name)?, Compression::None),
    };
    Some(ListKind {
        format,
        compression,
    })
}

/// Reads a list that lies in `base_dir`, a path below the medium's root that is empty for the root itself.
pub fn read(
    kind: &ListKind,
    base_dir: &[u8],
    reader: impl BufRead,
    each: &mut dyn FnMut(Listed),
) -> Result<Summary, ListError> {
    let base_dir =
        path::below(b"", base_dir, path::Empty::Allowed).ok_or(ListError::BaseDirectory)?;
    let text = unpack::text(kind.compression, reader);
    let lines = lines::Lines::new(text);
    let out = Out {
        each,
        summary: Summary::default(),
    };
    match &kind.format {
        Format::DebianSources => debian::read_sources(&base_dir, lines, out),
        Format::DebianControl => debian::read_control(&base_dir, lines, out),
        Format::Sums {
            algorithm,
            describes,
        } => sums::read(*algorithm, describes.as_deref(), &base_dir, lines, out),
        Format::GentooManifest => gentoo::read(lines, out),
        Format::BsdDistinfo => bsd::read(lines, out),
    }
}

/// Where the formats hand their entries to.
struct Out<'a> {
    each: &'a mut dyn FnMut(Listed),
    summary: Summary,
}

impl Out<'_> {
    fn skip(&mut self) {
        self.summary.skipped += 1;
    }

    fn entry(&mut self, listed: Listed) -> Result<(), ListError> {
        if self.summary.entries >= MAX_ENTRIES {
            return Err(ListError::TooManyEntries);
        }
        self.summary.entries += 1;
        (self.each)(listed);
        Ok(())
    }
}

/// Reads a digest in hexadecimal, upper or lower case.
fn hex_digest(algorithm: Algorithm, text: &[u8]) -> Option<Digest> {
    let mut bytes = [0; crate::digest::MAX_DIGEST_LEN];
    let bytes = &mut bytes[..algorithm.digest_len()];
    hex::decode_to_slice(text, bytes).ok()?;
    Digest::new(algorithm, bytes)
}

/// Reads a number of bytes.
fn number(text: &[u8]) -> Option<u64> {
    // The sign that `parse` takes is no part of a size.
    text.first()?.is_ascii_digit().then_some(())?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Splits at runs of blanks and tabs.
fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| matches!(byte, b' ' | b'\t'))
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests;
