//! Which parts of a partial download are there, where it came over several connections: the file then has holes, and
//! its length says nothing.
//!
//! The record lies beside the file: a pair of numbers for each part, where it begins and where it ends, 8 bytes each
//! with the lowest first. A part that grows is written over in its place, after its bytes; a `kill -9` between the two
//! costs what was just written. A download without such a record is there up to its length.

use std::fs::File;
use std::io::{self, Read as _};
use std::iter;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use rustix::fs::OFlags;

use super::lock::Claim;
use super::open_file;

/// The ending of the record's name.
pub(super) const PARTS: &str = ".parts";

/// The ending of one that is being made.
pub(super) const NEW_PARTS: &str = ".parts-new";

/// How long a pair is, in bytes.
const PAIR_LEN: usize = 16;

/// The most parts that are read; a download has a few for each connection.
const MAX_PARTS: usize = 4096;

/// Parts of a download that goes on, and their record.
#[derive(Debug)]
pub(crate) struct Parts {
    parts: Vec<Range<u64>>,
    /// `None` where nothing is kept.
    record: Option<File>,
}

impl Parts {
    /// Begins with what is there from the beginning, and with parts behind it.
    pub(crate) fn new(bytes: u64, there: &[Range<u64>], claim: Option<&Claim>) -> io::Result<Self> {
        let parts: Vec<_> = iter::once(0..bytes).chain(there.iter().cloned()).collect();
        let record = claim.map(|claim| claim.make_parts(&parts)).transpose()?;
        Ok(Self { parts, record })
    }

    /// Adds bytes that were written at a place.
    pub(crate) fn add(&mut self, added: Range<u64>) -> io::Result<()> {
        let grown = self.parts.iter().position(|part| part.end == added.start);
        let index = match grown {
            Some(index) => {
                self.parts[index].end = added.end;
                index
            }
            None => {
                self.parts.push(added);
                self.parts.len() - 1
            }
        };
        self.note(index)
    }

    /// Returns how far there is no hole behind `from`.
    pub(crate) fn reach(&self, from: u64) -> u64 {
        let behind = self.parts.iter().filter(|part| part.contains(&from));
        behind.map(|part| part.end).max().unwrap_or(from)
    }

    fn note(&self, index: usize) -> io::Result<()> {
        let Some(record) = &self.record else {
            return Ok(());
        };
        record.write_all_at(&pair(&self.parts[index]), (index * PAIR_LEN) as u64)
    }
}

fn pair(part: &Range<u64>) -> [u8; PAIR_LEN] {
    let mut pair = [0; PAIR_LEN];
    pair[..8].copy_from_slice(&part.start.to_le_bytes());
    pair[8..].copy_from_slice(&part.end.to_le_bytes());
    pair
}

impl Claim {
    fn parts_name(&self) -> String {
        format!("{}{PARTS}", self.key)
    }

    /// Makes the record, in place of one that may be there: at any moment there is one that is true.
    fn make_parts(&self, parts: &[Range<u64>]) -> io::Result<File> {
        let (new, name) = (format!("{}{NEW_PARTS}", self.key), self.parts_name());
        let record = open_file(&self.spool, &new, OFlags::CREATE | OFlags::TRUNC)?;
        let pairs: Vec<u8> = parts.iter().flat_map(pair).collect();
        record.write_all_at(&pairs, 0)?;
        rustix::fs::renameat(&*self.spool, &new, &*self.spool, &name)?;
        Ok(record)
    }

    /// Returns what is there of a file of so many bytes, joined and in order; `None` without a record. Neither is
    /// believed: what lies outside the file is not there.
    pub(super) fn read_parts(&self, file_bytes: u64) -> Option<Vec<Range<u64>>> {
        let record = open_file(&self.spool, &self.parts_name(), OFlags::empty()).ok()?;
        let mut bytes = Vec::new();
        let most = (MAX_PARTS * PAIR_LEN) as u64;
        record.take(most).read_to_end(&mut bytes).ok()?;
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or(0);
        let pairs = bytes.chunks_exact(PAIR_LEN);
        let parts = pairs.map(|pair| number(&pair[..8])..number(&pair[8..]));
        Some(joined(
            parts.filter(|part| part.end <= file_bytes).collect(),
        ))
    }
}

/// Joins parts that touch.
fn joined(mut parts: Vec<Range<u64>>) -> Vec<Range<u64>> {
    parts.retain(|part| !part.is_empty());
    parts.sort_by_key(|part| part.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for part in parts {
        match joined.last_mut() {
            Some(last) if part.start <= last.end => last.end = last.end.max(part.end),
            _ => joined.push(part),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_joined_where_they_touch() {
        assert_eq!(
            joined(vec![20..30, 5..5, 0..10, 10..20, 40..50]),
            [0..30, 40..50]
        );
        assert_eq!(joined(vec![0..100, 20..30, 90..110]), vec![0..110]);
        assert_eq!(joined(vec![]), vec![]);
    }

    #[test]
    fn the_end_of_what_is_whole_is_found() {
        let mut parts = Parts::new(10, &[20..30, 50..60], None).unwrap();
        assert_eq!(parts.reach(10), 10);
        parts.add(10..20).unwrap();
        assert_eq!((parts.reach(10), parts.reach(20)), (20, 30));
        parts.add(30..40).unwrap();
        parts.add(45..50).unwrap();
        assert_eq!((parts.reach(20), parts.reach(40)), (40, 40));
        parts.add(40..45).unwrap();
        assert_eq!(
            (parts.reach(40), parts.reach(45), parts.reach(50)),
            (45, 50, 60)
        );
    }
}
