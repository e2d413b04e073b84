//! `distinfo` of the BSD ports trees: `SHA256 (<name>) = <digest>` and `SIZE (<name>) = <bytes>`.
//!
//! FreeBSD writes the lines of a file together, OpenBSD all digests (in base64) before all sizes.

use std::io::BufRead;

use data_encoding::BASE64;

use super::gather::{Gathered, Row};
use super::lines::{Line, Lines};
use super::path::{self, Empty};
use super::sums::tag_names;
use super::{ListError, Out, Summary, hex_digest, number};
use crate::digest::{Algorithm, Digest};

/// What a line holds.
enum Entry {
    Row(Row),
    /// A digest of an algorithm that is none of ours.
    Unknown,
}

/// Reads a `distinfo`. The files lie in the folder of distfiles, wherever that is.
pub(super) fn read<R: BufRead>(
    mut lines: Lines<R>,
    mut out: Out<'_>,
) -> Result<Summary, ListError> {
    let mut files = Gathered::default();
    while let Some(line) = lines.next()? {
        let entry = match line {
            Line::Whole(line)
                if line.iter().all(u8::is_ascii_whitespace)
                    || line.starts_with(b"TIMESTAMP")
                    || line.starts_with(b"$NetBSD") =>
            {
                continue;
            }
            Line::Whole(line) => entry(line),
            Line::Overlong(_) => None,
        };
        match entry {
            Some(Entry::Row(row)) => {
                if files.add(row) {
                    files.hand_out(&mut out, true, place)?;
                }
            }
            Some(Entry::Unknown) => {}
            None => out.skip(),
        }
    }
    files.hand_out(&mut out, true, place)?;
    Ok(out.summary)
}

fn place(name: &[u8]) -> Option<Vec<u8>> {
    path::below(b"", name, Empty::Refused)
}

fn entry(line: &[u8]) -> Option<Entry> {
    let open = line.iter().position(|&byte| byte == b'(')?;
    let tag = line[..open].trim_ascii();
    // The last bracket before the sign: names may have brackets.
    let close = line.windows(4).rposition(|window| window == b") = ")?;
    let name = line.get(open + 1..close)?;
    let value = line[close + 4..].trim_ascii();
    let row = |size, digest| {
        Some(Entry::Row(Row {
            name: name.to_vec(),
            size,
            digest,
        }))
    };
    if tag.eq_ignore_ascii_case(b"SIZE") {
        // NetBSD's pkgsrc says "bytes" behind it.
        let size = value.strip_suffix(b" bytes").unwrap_or(value);
        return row(Some(number(size)?), None);
    }
    match Algorithm::ALL
        .into_iter()
        .find(|algorithm| tag_names(tag, *algorithm))
    {
        Some(algorithm) => row(None, Some(digest(algorithm, value)?)),
        None => Some(Entry::Unknown),
    }
}

fn digest(algorithm: Algorithm, text: &[u8]) -> Option<Digest> {
    hex_digest(algorithm, text).or_else(|| Digest::new(algorithm, &BASE64.decode(text).ok()?))
}
