//! Reading all records of a section in order.

use super::{SegmentError, Source};

/// How much is read at a time: enough that a disk streams, with dozens of segments open at once.
const CHUNK_LEN: usize = 256 * 1024;

/// Stands on one record of a section after the other.
#[derive(Debug)]
pub struct Cursor<'a> {
    source: &'a Source,
    record_len: usize,
    /// Where the next chunk begins.
    offset: u64,
    /// How many records have not been read from the file.
    unread: u64,
    chunk: Vec<u8>,
    /// Where the current record begins in the chunk.
    at: usize,
    /// The number of the current record.
    position: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(
        source: &'a Source,
        offset: u64,
        count: u64,
        record_len: usize,
    ) -> Result<Self, SegmentError> {
        let mut cursor = Self {
            source,
            record_len,
            offset,
            unread: count,
            chunk: Vec::new(),
            at: 0,
            position: 0,
        };
        cursor.fill()?;
        Ok(cursor)
    }

    /// Returns the current record; `None` behind the last.
    pub fn record(&self) -> Option<&[u8]> {
        self.chunk.get(self.at..self.at + self.record_len)
    }

    /// Returns the number of the current record.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Goes on to the next record.
    pub fn advance(&mut self) -> Result<(), SegmentError> {
        self.at += self.record_len;
        self.position += 1;
        if self.at >= self.chunk.len() {
            self.fill()
        } else {
            Ok(())
        }
    }

    fn fill(&mut self) -> Result<(), SegmentError> {
        let count = self.unread.min((CHUNK_LEN / self.record_len).max(1) as u64);
        self.chunk.resize(count as usize * self.record_len, 0);
        self.at = 0;
        self.source.read(&mut self.chunk, self.offset)?;
        self.offset += self.chunk.len() as u64;
        self.unread -= count;
        Ok(())
    }
}
