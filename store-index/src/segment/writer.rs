//! Writes the sections of a segment in order. What goes in is sorted by [`super::batch`] and [`super::merge`].

use std::io::{self, Write};

use crate::format::{
    CELL_LEN, FILE_RECORD_LEN, FileRecord, HEADER_LEN, Header, RecordShape, SectionKind, bucket_of,
};

use super::reader::IndexedFile;

/// How much is collected before it is hashed and written, in bytes.
const BUFFER_LEN: usize = 1024 * 1024;

/// What has been written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The segment's header.
    pub header: Header,
    /// BLAKE3 of the whole file.
    pub checksum: [u8; 32],
}

/// A segment being written. The header comes first, so all counts are known before the first record.
#[derive(Debug)]
pub(super) struct Writer<W> {
    out: W,
    header: Header,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
    /// How many bytes have been taken.
    position: u64,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W, header: Header) -> io::Result<Self> {
        let mut writer = Self {
            out,
            buffer: Vec::with_capacity(BUFFER_LEN + HEADER_LEN),
            hasher: blake3::Hasher::new(),
            position: 0,
            header,
        };
        let header = writer.header.encode();
        writer.put(&header)?;
        Ok(writer)
    }

    /// Starts a table; its records follow in order, then [`Table::end`].
    pub(super) fn table(&mut self, kind: SectionKind) -> io::Result<Table<'_, W>> {
        let section = *self
            .header
            .section(kind)
            .ok_or_else(|| disagree("a table that was not planned"))?;
        let shape = kind
            .record_shape()
            .ok_or_else(|| disagree("a table that is none"))?;
        self.at(section.offset)?;
        let cells = vec![0; (1 << section.fan_out_bits) + 1];
        Ok(Table {
            writer: self,
            shape,
            bits: section.fan_out_bits,
            cells,
        })
    }

    /// Writes the files section.
    pub(super) fn files<'f>(
        &mut self,
        files: impl Iterator<Item = io::Result<FileView<'f>>>,
    ) -> io::Result<()> {
        self.at(self.start_of(SectionKind::Files)?)?;
        let mut path_start = 0;
        for file in files {
            let record = file?.record(path_start);
            path_start += u64::from(record.path_len);
            self.put(&record.encode())?;
        }
        Ok(())
    }

    /// Starts the paths section; the paths follow through [`Writer::put`].
    pub(super) fn paths(&mut self) -> io::Result<()> {
        self.at(self.start_of(SectionKind::Paths)?)
    }

    /// Starts the files section; records follow through [`Writer::put`].
    pub(super) fn file_records(&mut self) -> io::Result<()> {
        self.at(self.start_of(SectionKind::Files)?)
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        self.position += bytes.len() as u64;
        if self.buffer.len() >= BUFFER_LEN {
            self.flush()
        } else {
            Ok(())
        }
    }

    pub(super) fn finish(mut self) -> io::Result<Written> {
        self.at(self.header.file_len)?;
        self.flush()?;
        self.out.flush()?;
        Ok(Written {
            header: self.header,
            checksum: *self.hasher.finalize().as_bytes(),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn start_of(&self, kind: SectionKind) -> io::Result<u64> {
        let section = self
            .header
            .section(kind)
            .ok_or_else(|| disagree("a section that was not planned"))?;
        Ok(section.offset)
    }

    /// Checks that what came before was as long as planned. A merge of damaged segments can be wrong here.
    fn at(&self, offset: u64) -> io::Result<()> {
        if self.position == offset {
            Ok(())
        } else {
            Err(disagree("records that do not match their number"))
        }
    }
}

fn disagree(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the segment has {what}"),
    )
}

/// A file on its way into a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileView<'f>(pub(super) &'f IndexedFile);

impl FileView<'_> {
    pub(super) const fn record(&self, path_start: u64) -> FileRecord {
        FileRecord {
            path_start,
            path_len: self.0.path.len() as u32,
            size: self.0.size,
            mtime_ns: self.0.mtime_ns,
            inode: self.0.inode,
            hint: self.0.hint,
        }
    }
}

const _: () = assert!(FILE_RECORD_LEN == 40);

/// A table being written.
#[derive(Debug)]
pub(super) struct Table<'w, W> {
    writer: &'w mut Writer<W>,
    shape: RecordShape,
    bits: u32,
    /// The number of records in bucket *i*, at *i* + 1.
    cells: Vec<u32>,
}

impl<W: Write> Table<'_, W> {
    pub(super) fn record(&mut self, digest: &[u8], payload: u64) -> io::Result<()> {
        self.cells[bucket_of(digest, self.bits) as usize + 1] += 1;
        let payload = payload.to_le_bytes();
        self.writer.put(digest)?;
        self.writer.put(&payload[..self.shape.payload])
    }

    pub(super) fn end(self) -> io::Result<()> {
        let mut sum = 0_u32;
        for cell in self.cells {
            sum = sum.wrapping_add(cell);
            let bytes: [u8; CELL_LEN] = sum.to_le_bytes();
            self.writer.put(&bytes)?;
        }
        Ok(())
    }
}
