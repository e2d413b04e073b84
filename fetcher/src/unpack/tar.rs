//! Tar: v7, ustar, GNU and pax. The crate reads a header's fields; the loop over the entries is ours, so that long
//! names and pax records stay bounded.

use std::io::Read;

use tar::{EntryType, Header};

use super::writer::Writer;
use super::{Stop, UnpackError, has_suffix};

const BLOCK_LEN: usize = 512;

/// The longest long name or pax record block, in bytes: a path of the greatest depth and names is 64 KiB.
const MAX_EXTENSION_LEN: u64 = 1 << 20;

/// The most headers that only say something of the entry that follows: tools write three at most, and a comment on
/// all that follows.
const MAX_RECORDS_OF_ENTRY: usize = 16;

/// How much is skipped at a time, in bytes.
const SKIPPED_LEN: usize = 64 * 1024;

/// Returns whether this is a header: older archives have no magic, but each header has a checksum.
pub(super) fn is_header(block: &[u8]) -> bool {
    let Some(block) = block.first_chunk::<BLOCK_LEN>() else {
        return false;
    };
    !is_end(block) && has_checksum(Header::from_byte_slice(block))
}

/// Returns whether this block ends an archive.
pub(super) fn is_end(block: &[u8]) -> bool {
    block == [0; BLOCK_LEN]
}

/// Returns whether a file of this name should be a tar archive, packed or not.
pub(super) fn is_name(name: &str) -> bool {
    const SUFFIXES: &[&str] = &[
        ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tbz", ".tar.zst",
        ".tzst", ".tar.lz", ".tlz",
    ];
    has_suffix(name, SUFFIXES)
}

fn has_checksum(header: &Header) -> bool {
    let bytes = header.as_bytes();
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    // The checksum's own field counts as blanks.
    let sum = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
    header.cksum().is_ok_and(|recorded| recorded == sum)
}

/// What records before a header say about the entry in its stead.
#[derive(Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Overrides {
    /// Reads pax records: `LEN KEY=VALUE\n`, the length that of the whole record.
    fn pax(&mut self, mut records: &[u8]) -> Option<()> {
        while !records.is_empty() {
            let blank = records.iter().position(|&byte| byte == b' ')?;
            let len: usize = std::str::from_utf8(&records[..blank]).ok()?.parse().ok()?;
            let (record, rest) = records.split_at_checked(len)?;
            let record = record.get(blank + 1..)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|&byte| byte == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_owned()),
                b"linkpath" => self.link = Some(value.to_owned()),
                b"size" => self.size = Some(std::str::from_utf8(value).ok()?.parse().ok()?),
                _ => self.sparse |= key.starts_with(b"GNU.sparse."),
            }
            records = rest;
        }
        Some(())
    }
}

pub(super) fn unpack(
    reader: &mut dyn Read,
    stop: &Stop,
    writer: &mut Writer<'_>,
) -> Result<(), UnpackError> {
    let mut archive = Archive { reader, stop };
    let mut overrides = Overrides::default();
    let mut records = 0;
    while let Some(header) = archive.header()? {
        // What is read may have been unpacked long before: packed headers are a thousand to the block.
        if writer.interrupted() {
            return Err(UnpackError::Interrupted);
        }
        records += 1;
        if records > MAX_RECORDS_OF_ENTRY + 1 {
            return Err(UnpackError::Limit(format!(
                "more than {MAX_RECORDS_OF_ENTRY} headers in it speak of one entry"
            )));
        }
        let size = header
            .entry_size()
            .map_err(|error| UnpackError::Broken(error.to_string()))?;
        match header.entry_type() {
            EntryType::XHeader => {
                let records = archive.extension(size)?;
                let read = overrides.pax(&records);
                read.ok_or_else(|| broken("a pax record cannot be read"))?;
            }
            EntryType::GNULongName => overrides.path = Some(archive.long_name(size)?),
            EntryType::GNULongLink => overrides.link = Some(archive.long_name(size)?),
            // Comments, such as the commit in archives of git.
            EntryType::XGlobalHeader => archive.skip(padded(size))?,
            kind => {
                records = 0;
                let said = std::mem::take(&mut overrides);
                archive.entry(&header, kind, said, size, writer)?;
            }
        }
    }
    Ok(())
}

struct Archive<'a> {
    reader: &'a mut dyn Read,
    stop: &'a Stop,
}

fn broken(what: &str) -> UnpackError {
    UnpackError::Broken(what.to_owned())
}

/// Up to a whole number of blocks.
fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK_LEN as u64)
        .saturating_mul(BLOCK_LEN as u64)
}

impl Archive<'_> {
    /// Reads the next header; `None` at the end, with or without the blocks that mark it.
    fn header(&mut self) -> Result<Option<Header>, UnpackError> {
        let mut header = Header::new_old();
        let len = self.fill(header.as_mut_bytes())?;
        if len == 0 || is_end(header.as_bytes()) {
            return Ok(None);
        }
        if len < BLOCK_LEN {
            return Err(broken("it ends within a header"));
        }
        if !has_checksum(&header) {
            return Err(broken("the checksum of a header is wrong"));
        }
        Ok(Some(header))
    }

    /// Reads as much as there is.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, UnpackError> {
        let mut len = 0;
        while len < buffer.len() {
            match self.reader.read(&mut buffer[len..]) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.stop.explain(&error)),
            }
        }
        Ok(len)
    }

    fn skip(&mut self, mut len: u64) -> Result<(), UnpackError> {
        let mut buffer = vec![0; SKIPPED_LEN.min(usize::try_from(len).unwrap_or(SKIPPED_LEN))];
        while len > 0 {
            let part = buffer
                .len()
                .min(usize::try_from(len).unwrap_or(SKIPPED_LEN));
            if self.fill(&mut buffer[..part])? < part {
                return Err(broken("it ends within an entry"));
            }
            len -= part as u64;
        }
        Ok(())
    }

    /// Reads what belongs to the next entry.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > MAX_EXTENSION_LEN {
            return Err(UnpackError::Limit(format!(
                "a name or pax record in it has {size} bytes, and {MAX_EXTENSION_LEN} are the limit"
            )));
        }
        let mut content = vec![0; padded(size) as usize];
        if self.fill(&mut content)? < content.len() {
            return Err(broken("it ends within a name"));
        }
        content.truncate(size as usize);
        Ok(content)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        let mut name = self.extension(size)?;
        if let Some(end) = name.iter().position(|&byte| byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        said: Overrides,
        size: u64,
        writer: &mut Writer<'_>,
    ) -> Result<(), UnpackError> {
        let path = said
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = said.link.or_else(|| Some(header.link_name_bytes()?.into()));
        let link = link.unwrap_or_default();
        let size = said.size.unwrap_or(size);
        if said.sparse {
            return Err(UnpackError::refused(&path, "is a sparse file"));
        }
        match kind {
            // As v7 had it.
            EntryType::Regular if path.ends_with(b"/") => writer.directory(&path)?,
            EntryType::Regular | EntryType::Continuous => {
                let executable = header.mode().is_ok_and(|mode| mode & 0o100 != 0);
                let mut content = (&mut *self.reader).take(size);
                let len = writer.file(&path, executable, &mut content, self.stop)?;
                if len < size {
                    return Err(broken("it ends within a file"));
                }
                return self.skip(padded(size) - size);
            }
            EntryType::Directory => writer.directory(&path)?,
            EntryType::Symlink => writer.symlink(&path, &link)?,
            // Some say a size and have no content: as GNU tar reads it.
            EntryType::Link => return writer.hard_link(&path, &link),
            EntryType::Block | EntryType::Char | EntryType::Fifo => {
                let reason = "is a device or a named pipe";
                return Err(UnpackError::refused(&path, reason));
            }
            EntryType::GNUSparse => return Err(UnpackError::refused(&path, "is a sparse file")),
            // A volume's label.
            kind if kind.as_byte() == b'V' => {}
            _ => return Err(UnpackError::refused(&path, "is of an unknown type")),
        }
        self.skip(padded(size))
    }
}
