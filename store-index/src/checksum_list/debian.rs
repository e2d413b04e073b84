//! Debian's lists of source packages: `Sources`, and the `.dsc` of one package.
//!
//! Stanzas of fields; the files stand in three fields with a digest each. In `Sources` their place is `Directory`
//! below the archive's root, in a `.dsc` it is beside the `.dsc`.

use std::io::BufRead;

use super::gather::{Gathered, Row};
use super::lines::{Line, Lines};
use super::path::{self, Empty};
use super::{ListError, Out, Summary, hex_digest, number, words};
use crate::digest::Algorithm;

/// The directory of an archive in which its lists lie, below the root that `Directory` is relative to.
const LISTS_DIR: &[u8] = b"dists";

/// Reads `Sources`.
pub(super) fn read_sources<R: BufRead>(
    base_dir: &[u8],
    lines: Lines<R>,
    out: Out<'_>,
) -> Result<Summary, ListError> {
    Stanzas::new(archive_root(base_dir), true, out).read(lines)
}

/// Reads a `.dsc`.
pub(super) fn read_control<R: BufRead>(
    base_dir: &[u8],
    lines: Lines<R>,
    out: Out<'_>,
) -> Result<Summary, ListError> {
    Stanzas::new(base_dir, false, out).read(lines)
}

/// Returns what `Directory` is relative to: what holds `dists`, or in an archive without it the list's directory.
fn archive_root(base_dir: &[u8]) -> &[u8] {
    let mut end = base_dir.len();
    for part in base_dir.rsplit(|&byte| byte == b'/') {
        let start = end - part.len();
        if part == LISTS_DIR {
            return base_dir[..start].strip_suffix(b"/").unwrap_or_default();
        }
        end = start.saturating_sub(1);
    }
    base_dir
}

/// Which field the lines that begin with a blank belong to.
#[derive(Clone, Copy)]
enum Field {
    Files(Algorithm),
    Other,
}

/// The `Directory` of a stanza.
enum Directory {
    Unsaid,
    Known(Vec<u8>),
    /// Said, but leading elsewhere.
    Bad,
}

struct Stanzas<'a, 'b> {
    root: &'a [u8],
    has_directory: bool,
    out: Out<'b>,
    field: Field,
    directory: Directory,
    files: Gathered,
}

impl<'a, 'b> Stanzas<'a, 'b> {
    fn new(root: &'a [u8], has_directory: bool, out: Out<'b>) -> Self {
        Self {
            root,
            has_directory,
            out,
            field: Field::Other,
            directory: Directory::Unsaid,
            files: Gathered::default(),
        }
    }

    fn read<R: BufRead>(mut self, mut lines: Lines<R>) -> Result<Summary, ListError> {
        while let Some(line) = lines.next()? {
            match line {
                Line::Overlong(start) => self.overlong(start),
                Line::Whole(line) if line.iter().all(u8::is_ascii_whitespace) => self.end()?,
                // What follows is the signature, not ours to judge.
                Line::Whole(b"-----BEGIN PGP SIGNATURE-----") => break,
                // A signed text has "- " before lines that begin with a dash. No field does.
                Line::Whole(line) if line[0] == b' ' || line[0] == b'\t' => self.continued(line)?,
                Line::Whole(line) => self.field(line),
            }
        }
        self.end()?;
        Ok(self.out.summary)
    }

    fn field(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            self.field = Field::Other;
            // Signed texts begin with such a line.
            if !line.starts_with(b"-----") {
                self.out.skip();
            }
            return;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        self.field = match name.to_ascii_lowercase().as_slice() {
            b"files" => Field::Files(Algorithm::Md5),
            b"checksums-sha1" => Field::Files(Algorithm::Sha1),
            b"checksums-sha256" => Field::Files(Algorithm::Sha256),
            b"checksums-sha512" => Field::Files(Algorithm::Sha512),
            b"directory" if self.has_directory => {
                self.directory = match path::below(self.root, value, Empty::Allowed) {
                    Some(directory) => Directory::Known(directory),
                    None => Directory::Bad,
                };
                Field::Other
            }
            _ => Field::Other,
        };
    }

    fn continued(&mut self, line: &[u8]) -> Result<(), ListError> {
        let Field::Files(algorithm) = self.field else {
            return Ok(());
        };
        let mut parts = words(line);
        let row = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(digest), Some(size), Some(name), None) => hex_digest(algorithm, digest)
                .zip(number(size))
                .map(|(digest, size)| Row {
                    name: name.to_vec(),
                    size: Some(size),
                    digest: Some(digest),
                }),
            _ => None,
        };
        match row {
            Some(row) => {
                if self.files.add(row) {
                    self.hand_out()?;
                }
            }
            None => self.out.skip(),
        }
        Ok(())
    }

    fn overlong(&mut self, start: &[u8]) {
        if !matches!(start.first(), Some(b' ' | b'\t')) {
            self.field = Field::Other;
            if start.to_ascii_lowercase().starts_with(b"directory:") {
                self.directory = Directory::Bad;
            }
        } else if matches!(self.field, Field::Files(_)) {
            self.out.skip();
        }
    }

    /// Ends a stanza.
    fn end(&mut self) -> Result<(), ListError> {
        self.hand_out()?;
        self.field = Field::Other;
        self.directory = Directory::Unsaid;
        Ok(())
    }

    fn hand_out(&mut self) -> Result<(), ListError> {
        let directory = match &self.directory {
            Directory::Unsaid => Some(self.root),
            Directory::Known(directory) => Some(directory.as_slice()),
            Directory::Bad => None,
        };
        self.files.hand_out(&mut self.out, false, |name| {
            path::name_below(directory?, name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_root_holds_dists() {
        for (base_dir, root) in [
            ("dists/bookworm/main/source", ""),
            ("debian/dists/bookworm/main/source", "debian"),
            ("a/dists/b/dists/c", "a/dists/b"),
            ("my/packages", "my/packages"),
            ("dists", ""),
            ("", ""),
        ] {
            assert_eq!(
                archive_root(base_dir.as_bytes()),
                root.as_bytes(),
                "{base_dir}"
            );
        }
    }
}
