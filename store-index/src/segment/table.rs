//! Looking digests up in a table of a segment: two cells, one bucket.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{SegmentError, Source};
use crate::format::{CELL_LEN, FormatError, RecordShape, Section, bucket_of, u32_at, u64_at};

/// How many records are read at a time: nearly every bucket in one go.
const WINDOW_RECORDS: u64 = 64;

/// Room for a window of the longest records.
const WINDOW_LEN: usize = WINDOW_RECORDS as usize * 72;

/// After so many questions a table is worth keeping in memory; one `fetch` asks fewer.
const KEEP_AFTER: u32 = 16;

/// Tables up to this length are kept whole, so that small segments beside a big one cost next to nothing.
const KEEP_TABLE_LEN: u64 = 128 * 1024;

/// Of longer tables the cells are kept up to this length, which is that of 32 million records.
const KEEP_CELLS_LEN: u64 = 4 * 1024 * 1024;

/// The most records with one digest that are looked at; a folder may hold a million empty files.
const MAX_EQUAL: u64 = 4096;

/// A table and what of it is kept in memory.
#[derive(Debug)]
pub(super) struct Table {
    section: Section,
    shape: RecordShape,
    asked: AtomicU32,
    records: OnceLock<Vec<u8>>,
    cells: OnceLock<Vec<u8>>,
}

impl Table {
    /// Takes a section of a checked header; `None` if its kind is no table.
    pub(super) fn new(section: Section) -> Option<Self> {
        Some(Self {
            section,
            shape: section.kind.record_shape()?,
            asked: AtomicU32::new(0),
            records: OnceLock::new(),
            cells: OnceLock::new(),
        })
    }

    pub(super) const fn section(&self) -> &Section {
        &self.section
    }

    pub(super) const fn shape(&self) -> RecordShape {
        self.shape
    }

    fn cells_offset(&self) -> u64 {
        self.section.offset + self.section.count * self.shape.len() as u64
    }

    /// Calls `each` with position and payload of the records that have a digest, until it returns false.
    pub(super) fn find(
        &self,
        source: &Source,
        digest: &[u8],
        mut each: impl FnMut(u64, u64) -> Result<bool, SegmentError>,
    ) -> Result<(), SegmentError> {
        if self.section.count == 0 || digest.len() != self.shape.digest {
            return Ok(());
        }
        if self.asked.fetch_add(1, Ordering::Relaxed) == KEEP_AFTER {
            self.keep(source)?;
        }
        let (mut low, end) = self.bucket(source, digest)?;
        if let Some(records) = self.records.get() {
            let len = self.shape.len();
            let bucket = &records[low as usize * len..end as usize * len];
            return self.find_in(bucket, low, digest, &mut each).map(drop);
        }
        let mut window = [0; WINDOW_LEN];
        let mut high = end;
        while high - low > WINDOW_RECORDS {
            let middle = low.midpoint(high);
            let record = self.read(source, middle, 1, &mut window)?;
            if &record[..self.shape.digest] < digest {
                low = middle
            } else {
                high = middle
            }
        }
        // Equal digests share a bucket, so that they end where it ends.
        let end = end.min(low.saturating_add(MAX_EQUAL));
        while low < end {
            let count = (end - low).min(WINDOW_RECORDS);
            let records = self.read(source, low, count, &mut window)?;
            if !self.find_in(records, low, digest, &mut each)? {
                break;
            }
            low += count;
        }
        Ok(())
    }

    /// Goes through the equal digests in some records, the first of which has a position. Returns true if there may
    /// be more behind them.
    fn find_in(
        &self,
        records: &[u8],
        first: u64,
        digest: &[u8],
        each: &mut impl FnMut(u64, u64) -> Result<bool, SegmentError>,
    ) -> Result<bool, SegmentError> {
        let len = self.shape.len();
        let record = |at: usize| &records[at * len..(at + 1) * len];
        let (mut low, mut high) = (0, records.len() / len);
        while low < high {
            let middle = low.midpoint(high);
            if &record(middle)[..self.shape.digest] < digest {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        for at in low..(records.len() / len).min(low + MAX_EQUAL as usize) {
            let equal = &record(at)[..self.shape.digest] == digest;
            if !equal || !each(first + at as u64, self.payload(record(at)))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the payload of a record.
    pub(super) fn payload(&self, record: &[u8]) -> u64 {
        match self.shape.payload {
            8 => u64_at(record, self.shape.digest),
            _ => u64::from(u32_at(record, self.shape.digest)),
        }
    }

    /// Reads one record.
    pub(super) fn record(&self, source: &Source, position: u64) -> Result<Vec<u8>, SegmentError> {
        let mut buffer = vec![0; self.shape.len()];
        self.read(source, position, 1, &mut buffer)
            .map(<[u8]>::to_vec)
    }

    fn bucket(&self, source: &Source, digest: &[u8]) -> Result<(u64, u64), SegmentError> {
        let at = bucket_of(digest, self.section.fan_out_bits) as usize * CELL_LEN;
        let mut pair = [0; 2 * CELL_LEN];
        match self.cells.get() {
            Some(cells) => pair.copy_from_slice(&cells[at..at + 2 * CELL_LEN]),
            None => source.read(&mut pair, self.cells_offset() + at as u64)?,
        }
        let (low, high) = (
            u64::from(u32_at(&pair, 0)),
            u64::from(u32_at(&pair, CELL_LEN)),
        );
        if low <= high && high <= self.section.count {
            Ok((low, high))
        } else {
            Err(source.damaged(FormatError::Contradiction("a fan-out cell points nowhere")))
        }
    }

    /// Reads some records, at most a window of them, which lie in the table.
    fn read<'a>(
        &self,
        source: &Source,
        first: u64,
        count: u64,
        buffer: &'a mut [u8],
    ) -> Result<&'a [u8], SegmentError> {
        let start = first * self.shape.len() as u64;
        let len = count as usize * self.shape.len();
        source.read(&mut buffer[..len], self.section.offset + start)?;
        Ok(&buffer[..len])
    }

    /// Reads into memory what is worth keeping.
    fn keep(&self, source: &Source) -> Result<(), SegmentError> {
        let records_len = self.section.count * self.shape.len() as u64;
        let cells_len = self.section.len - records_len;
        let load = |offset: u64, len: u64| {
            let mut bytes = vec![0; len as usize];
            source.read(&mut bytes, offset).map(|()| bytes)
        };
        if cells_len <= KEEP_CELLS_LEN {
            let bytes = load(self.cells_offset(), cells_len)?;
            self.cells.get_or_init(|| bytes);
        }
        if self.section.len <= KEEP_TABLE_LEN {
            let bytes = load(self.section.offset, records_len)?;
            self.records.get_or_init(|| bytes);
        }
        Ok(())
    }
}
