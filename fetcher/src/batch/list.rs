//! Reads the file that names what is wanted: `sources.json`, or a list of checksums.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use store_index::path_text::printable;

use super::entry::Entry;
use super::{sources_json, sums};
use crate::error::FetchError;
use crate::source_url::SourceUrl;

/// The longest file that is read, in bytes. Guix's has 20 MB; what is kept of it is somewhat larger than the file.
pub(super) const MAX_FILE_BYTES: u64 = 128 << 20;

/// The most entries: four times Guix's list today.
pub(super) const MAX_ENTRIES: usize = 200_000;

/// What a file wants.
#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) entries: Vec<Entry>,
    /// What cannot be fetched by anybody.
    pub(super) refused: Vec<Refused>,
    /// What is no source at all, such as `no-origin`.
    pub(super) left_out: usize,
    /// Whether the names were made here, of URLs: then two contents may happen to get one.
    pub(super) names_are_ours: bool,
}

/// An entry that makes no sense, or not to us.
#[derive(Debug)]
pub(super) struct Refused {
    /// Which, for people; printable.
    pub(super) what: String,
    pub(super) reason: String,
}

impl List {
    pub(super) fn refuse(&mut self, what: impl Into<String>, reason: impl Into<String>) {
        self.refused.push(Refused {
            what: what.into(),
            reason: reason.into(),
        });
    }

    /// Returns true if there is no room for another entry.
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() + self.refused.len() >= MAX_ENTRIES
    }
}

/// The error for a list that is too long.
pub(super) fn too_many() -> FetchError {
    FetchError::usage(format!("the list has more than {MAX_ENTRIES} entries"))
        .with_hint("split it, and fetch one part after the other")
}

/// Reads a file; `-` is standard input. What it is, its first character tells.
pub(super) fn read(path: &Path, base_url: Option<&SourceUrl>) -> Result<List, FetchError> {
    let shown = printable(path);
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(path)
            .map_err(|error| FetchError::local(format!("cannot read {shown}: {error}")))?;
        Box::new(file)
    };
    let name = path.file_name().unwrap_or_default();
    read_from(input, name, base_url, &shown)
}

/// Reads what is in a file of this name.
pub(super) fn read_from(
    input: Box<dyn Read + '_>,
    name: &OsStr,
    base_url: Option<&SourceUrl>,
    shown: &str,
) -> Result<List, FetchError> {
    let mut reader = BufReader::new(Limited {
        input,
        left_bytes: MAX_FILE_BYTES,
    });
    let first = first_character(&mut reader)
        .map_err(|error| FetchError::local(format!("cannot read {shown}: {error}")))?;
    if first == Some(b'{') {
        if base_url.is_some() {
            return Err(FetchError::usage(format!(
                "{shown} is a sources.json, which has URLs of its own: --base-url is for lists of checksums"
            )));
        }
        return sources_json::read(reader, shown);
    }
    let list = sums::read(reader, name, base_url, shown)?;
    if list.entries.is_empty() && !list.refused.is_empty() {
        return Err(FetchError::usage(format!(
            "{shown} is neither a sources.json nor a list of checksums: none of its {} lines names a file and its hash",
            list.refused.len()
        ))
        .with_hint("what sha256sum, sha512sum, b2sum's kin and BSD's sha256 write is a list; so is Guix's sources.json"));
    }
    Ok(list)
}

/// Skips blanks and a byte order mark, and returns what follows without taking it.
fn first_character(reader: &mut impl BufRead) -> io::Result<Option<u8>> {
    loop {
        let buffer = reader.fill_buf()?;
        match buffer.first() {
            None => return Ok(None),
            Some(b' ' | b'\t' | b'\r' | b'\n' | 0xef | 0xbb | 0xbf) => reader.consume(1),
            Some(&other) => return Ok(Some(other)),
        }
    }
}

/// Ends with an error where [`MAX_FILE_BYTES`] end.
struct Limited<'r> {
    input: Box<dyn Read + 'r>,
    left_bytes: u64,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.left_bytes = self
            .left_bytes
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other(format!("it is longer than {MAX_FILE_BYTES} bytes")))?;
        Ok(count)
    }
}
