//! Zip: entry by entry of the central directory, which is never held in memory as a whole.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

use store_index::nar::read::MAX_TARGET_LEN;
use zip::read::{Config, ZipReadOptions};
use zip::unstable::read::ZipIterable;

use super::input::Input;
use super::writer::Writer;
use super::{Stop, UnpackError, has_suffix};

/// How the last record begins.
const END: &[u8] = b"PK\x05\x06";

/// The longest last record, in bytes: 22, and a comment whose length has 16 bits.
const MAX_END_LEN: usize = 22 + 0xffff;

/// Returns whether a file begins as zip files do, empty ones too.
pub(super) fn is_zip(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06")
}

/// Returns true if the record is missing with which zip files end, before a comment.
pub(super) fn lacks_end(file: &File) -> bool {
    let read = || {
        let len = file.metadata()?.len();
        let end_len = len.min(MAX_END_LEN as u64);
        let mut end = vec![0; end_len as usize];
        file.read_exact_at(&mut end, len - end_len)?;
        Ok::<_, io::Error>(!end.windows(END.len()).any(|word| word == END))
    };
    read().unwrap_or(false)
}

/// Returns whether a file of this name should be a zip file.
pub(super) fn is_name(name: &str) -> bool {
    has_suffix(name, &[".zip"])
}

pub(super) fn unpack<'a>(
    input: &dyn Fn() -> Input<'a>,
    stop: &Stop,
    writer: &mut Writer<'_>,
) -> Result<(), UnpackError> {
    let mut archive =
        ZipIterable::try_new(input(), Config::default()).map_err(|error| stop.explain(&error))?;
    // One reader for the directory and one for the contents: neither throws away what the other has read ahead.
    let mut entries = archive
        .files_with_reader(input(), ZipReadOptions::new())
        .map_err(|error| stop.explain(&error))?;
    while let Some(entry) = entries.next() {
        let mut entry = entry.map_err(|error| stop.explain(&error))?;
        let path = entry.name_raw().to_owned();
        let mode = entry.unix_mode().unwrap_or(0);
        match mode & 0o170_000 {
            _ if path.ends_with(b"/") => writer.directory(&path)?,
            0o040_000 => writer.directory(&path)?,
            0o120_000 => {
                let mut target = Vec::new();
                // One more than is allowed tells which are too long.
                (&mut entry)
                    .take(MAX_TARGET_LEN as u64 + 1)
                    .read_to_end(&mut target)
                    .map_err(|error| stop.explain(&error))?;
                writer.symlink(&path, &target)?;
            }
            0 | 0o100_000 => {
                writer.file(&path, mode & 0o100 != 0, &mut entry, stop)?;
            }
            _ => return Err(UnpackError::refused(&path, "is a device or a named pipe")),
        }
    }
    Ok(())
}
