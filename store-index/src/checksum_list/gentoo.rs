//! Gentoo's `Manifest`: `DIST <name> <size> <ALGORITHM> <hex>…`, a line a file of the distfiles folder.

use std::io::BufRead;

use super::lines::{Line, Lines};
use super::path;
use super::{ListError, Listed, Out, Summary, hex_digest, number, words};
use crate::digest::{Algorithm, Digest};

/// Reads the lines of distfiles; those of the package's own files are passed over.
pub(super) fn read<R: BufRead>(
    mut lines: Lines<R>,
    mut out: Out<'_>,
) -> Result<Summary, ListError> {
    while let Some(line) = lines.next()? {
        match line {
            Line::Whole(line) if line.starts_with(b"DIST ") => match entry(line) {
                Some(listed) if listed.digests.is_empty() => {}
                Some(listed) => out.entry(listed)?,
                None => out.skip(),
            },
            Line::Overlong(start) if start.starts_with(b"DIST ") => out.skip(),
            Line::Whole(_) | Line::Overlong(_) => {}
        }
    }
    Ok(out.summary)
}

fn entry(line: &[u8]) -> Option<Listed> {
    let mut parts = words(line).skip(1);
    let path = path::name_below(b"", parts.next()?)?;
    let size = number(parts.next()?)?;
    let mut digests: Vec<Digest> = Vec::new();
    while let Some(tag) = parts.next() {
        let hex = parts.next()?;
        let algorithm = match tag {
            b"MD5" => Algorithm::Md5,
            b"SHA1" => Algorithm::Sha1,
            b"SHA256" => Algorithm::Sha256,
            b"SHA512" => Algorithm::Sha512,
            // BLAKE2B, WHIRLPOOL and what may come.
            _ => continue,
        };
        if digests.iter().any(|known| known.algorithm() == algorithm) {
            return None;
        }
        digests.push(hex_digest(algorithm, hex)?);
    }
    digests.sort_unstable();
    Some(Listed {
        path,
        name_only: true,
        size: Some(size),
        digests,
    })
}
