//! Dead lists: which objects of a segment no longer count.

use std::sync::OnceLock;

use super::{SegmentError, Source};
use crate::format::{
    DEAD_HEADER_LEN, FormatError, OBJECT_LEN, decode_dead_header, encode_dead_header, u32_at,
};

/// Lists up to this length are kept in memory at their first use; longer ones are searched on disk.
const KEEP_LEN: u64 = 64 * 1024;

/// How much of a list is read at a time when all of it is wanted.
const CHUNK_LEN: u64 = 256 * 1024;

/// An opened dead list.
#[derive(Debug)]
pub(crate) struct DeadList {
    source: Source,
    count: u64,
    numbers: OnceLock<Vec<u32>>,
}

impl DeadList {
    pub(crate) fn open(source: Source) -> Result<Self, SegmentError> {
        let len = source.len()?;
        let mut header = [0; DEAD_HEADER_LEN];
        if len >= DEAD_HEADER_LEN as u64 {
            source.read(&mut header, 0)?;
        }
        let count = decode_dead_header(&header, len).map_err(|error| source.damaged(error))?;
        Ok(Self {
            source,
            count,
            numbers: OnceLock::new(),
        })
    }

    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// Returns true if the object is dead.
    pub(crate) fn has(&self, object: u32) -> Result<bool, SegmentError> {
        if let Some(numbers) = self.numbers.get() {
            return Ok(numbers.binary_search(&object).is_ok());
        }
        if self.count * OBJECT_LEN as u64 <= KEEP_LEN {
            let numbers = self.all()?;
            return Ok(self
                .numbers
                .get_or_init(|| numbers)
                .binary_search(&object)
                .is_ok());
        }
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            let mut bytes = [0; OBJECT_LEN];
            self.source.read(
                &mut bytes,
                DEAD_HEADER_LEN as u64 + middle * OBJECT_LEN as u64,
            )?;
            match u32_at(&bytes, 0).cmp(&object) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(true),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(false)
    }

    /// Reads all numbers and checks their order. The list is as long as its file, which bounds the memory.
    pub(crate) fn all(&self) -> Result<Vec<u32>, SegmentError> {
        let mut numbers: Vec<u32> = Vec::new();
        let end = DEAD_HEADER_LEN as u64 + self.count * OBJECT_LEN as u64;
        let mut offset = DEAD_HEADER_LEN as u64;
        let mut buffer = Vec::new();
        while offset < end {
            buffer.resize((end - offset).min(CHUNK_LEN) as usize, 0);
            self.source.read(&mut buffer, offset)?;
            numbers.extend(
                buffer
                    .chunks_exact(OBJECT_LEN)
                    .map(|bytes| u32_at(bytes, 0)),
            );
            offset += buffer.len() as u64;
        }
        if numbers.is_sorted_by(|a, b| a < b) {
            Ok(numbers)
        } else {
            Err(self
                .source
                .damaged(FormatError::Contradiction("dead objects are out of order")))
        }
    }
}

/// Returns the bytes of a dead list; the numbers are ascending and unique.
pub(crate) fn encode(numbers: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DEAD_HEADER_LEN + numbers.len() * OBJECT_LEN);
    bytes.extend(encode_dead_header(numbers.len() as u64));
    for number in numbers {
        bytes.extend(number.to_le_bytes());
    }
    bytes
}
