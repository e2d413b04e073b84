//! Lists as `sha256sum` and its kin write them: a line a file, in the GNU or the BSD form, or a digest alone.

use std::io::BufRead;

use super::lines::{Line, Lines};
use super::path::{self, Empty};
use super::{Format, ListError, Listed, Out, Summary, hex_digest};
use crate::digest::{Algorithm, Digest};

/// The words by which file names say their algorithm; `b3sum` calls blake3 so.
const NAMED: [(&str, Algorithm); 5] = [
    ("md5", Algorithm::Md5),
    ("sha1", Algorithm::Sha1),
    ("sha256", Algorithm::Sha256),
    ("sha512", Algorithm::Sha512),
    ("b3", Algorithm::Blake3),
];

/// Recognises `SHA256SUMS`, `sha256sums.txt`, `md5sum.txt` and the like, and `*.sha256`, `*.sha256sum` and the like.
pub(super) fn recognise(file_name: &[u8]) -> Option<Format> {
    let name = std::str::from_utf8(file_name).ok()?;
    let lower = name.to_ascii_lowercase();
    let stem = lower.strip_suffix(".txt").unwrap_or(&lower);
    for (word, algorithm) in NAMED {
        let end = stem.strip_prefix(word);
        if matches!(end, Some("sum" | "sums")) {
            return Some(Format::Sums {
                algorithm,
                describes: None,
            });
        }
        let described = lower
            .strip_suffix("sum")
            .unwrap_or(&lower)
            .strip_suffix(word)
            .and_then(|rest| rest.strip_suffix('.'));
        if let Some(described) = described.filter(|described| !described.is_empty()) {
            return Some(Format::Sums {
                algorithm,
                // Lower-casing ASCII keeps lengths.
                describes: Some(file_name[..described.len()].to_vec()),
            });
        }
    }
    None
}

/// Reads a list of one algorithm. `describes` is the file in the same directory that a digest without a name is of.
pub(super) fn read<R: BufRead>(
    algorithm: Algorithm,
    describes: Option<&[u8]>,
    base_dir: &[u8],
    mut lines: Lines<R>,
    mut out: Out<'_>,
) -> Result<Summary, ListError> {
    while let Some(line) = lines.next()? {
        let line = match line {
            Line::Whole(line) => line,
            Line::Overlong(_) => {
                out.skip();
                continue;
            }
        };
        if line.iter().all(u8::is_ascii_whitespace) || line[0] == b'#' {
            continue;
        }
        let listed = entry(algorithm, line)
            .or_else(|| {
                Some((
                    hex_digest(algorithm, line.trim_ascii())?,
                    describes?.to_vec(),
                ))
            })
            .and_then(|(digest, name)| {
                Some(Listed {
                    path: path::below(base_dir, &name, Empty::Refused)?,
                    name_only: false,
                    size: None,
                    digests: vec![digest],
                })
            });
        match listed {
            Some(listed) => out.entry(listed)?,
            None => out.skip(),
        }
    }
    Ok(out.summary)
}

/// Reads a line with a name.
fn entry(algorithm: Algorithm, line: &[u8]) -> Option<(Digest, Vec<u8>)> {
    let (escaped, line) = match line.strip_prefix(b"\\") {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (digest, name) = gnu(algorithm, line).or_else(|| bsd(algorithm, line))?;
    let name = if escaped {
        unescape(name)?
    } else {
        name.to_vec()
    };
    Some((digest, name))
}

/// `<hex> <name>`, with a second blank or a star that says how the file was read.
fn gnu(algorithm: Algorithm, line: &[u8]) -> Option<(Digest, &[u8])> {
    let line = line.trim_ascii_start();
    let (hex, rest) = line.split_at_checked(algorithm.digest_len() * 2)?;
    let digest = hex_digest(algorithm, hex)?;
    let rest = rest.strip_prefix(b" ").or(rest.strip_prefix(b"\t"))?;
    let name = match rest {
        [b' ' | b'*', name @ ..] if !name.is_empty() => name,
        name => name,
    };
    (!name.is_empty()).then_some((digest, name))
}

/// `SHA256 (<name>) = <hex>`; OpenSSL writes it without blanks before the bracket and the sign.
fn bsd(algorithm: Algorithm, line: &[u8]) -> Option<(Digest, &[u8])> {
    let bracket = line.iter().position(|&byte| byte == b'(')?;
    if !tag_names(line[..bracket].trim_ascii_end(), algorithm) {
        return None;
    }
    let line = line.trim_ascii_end();
    let split = line.len().checked_sub(algorithm.digest_len() * 2)?;
    let (before, hex) = line.split_at_checked(split)?;
    let digest = hex_digest(algorithm, hex)?;
    let name = before
        .get(bracket + 1..)?
        .trim_ascii_end()
        .strip_suffix(b"=")?
        .trim_ascii_end()
        .strip_suffix(b")")?;
    (!name.is_empty()).then_some((digest, name))
}

/// Says whether a tag such as `SHA256` or `SHA2-256` names an algorithm.
pub(super) fn tag_names(tag: &[u8], algorithm: Algorithm) -> bool {
    let tags: &[&str] = match algorithm {
        Algorithm::Md5 => &["MD5"],
        Algorithm::Sha1 => &["SHA1"],
        Algorithm::Sha256 => &["SHA256", "SHA2-256"],
        Algorithm::Sha512 => &["SHA512", "SHA2-512"],
        Algorithm::Blake3 => &["BLAKE3"],
    };
    tags.iter()
        .any(|known| tag.eq_ignore_ascii_case(known.as_bytes()))
}

/// Reverses the escapes of a line that begins with a backslash.
fn unescape(name: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            },
            plain => plain,
        });
    }
    Some(plain)
}
