//! Which digests the index has already, asked for millions of names while a directory is listed.

use std::sync::Arc;

use crate::format::SectionKind;
use crate::segment::SegmentError;
use crate::segment::reader::Segment;

/// How much of a digest tells two apart here. Who could make two links agree in 16 bytes would gain that one of them
/// is not indexed.
const KEY_LEN: usize = 16;

/// How many keys a cell of the fan-out stands for on average.
const BUCKET_KEYS: usize = 8;

/// What a listing says about a name that the index may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Not in the index.
    No,
    /// In the index, with the payload of its record: a link's size, an item's inode.
    Yes(u64),
}

/// The links or the items of all segments, with a mark for each that has been seen in a listing.
#[derive(Debug)]
pub(super) struct KnownSet {
    /// Biggest first, since most names are there.
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    segment: Arc<Segment>,
    keys: Vec<[u8; KEY_LEN]>,
    payloads: Vec<u64>,
    /// Where the keys with given leading bits begin.
    cells: Vec<u32>,
    bits: u32,
    seen: Vec<bool>,
    /// The object number of the first key.
    first: u32,
}

impl KnownSet {
    /// Reads the links or items of segments; payloads only if they are wanted, since links do without.
    pub(super) fn read(segments: &[Arc<Segment>], kind: SectionKind) -> Result<Self, SegmentError> {
        let mut parts = segments
            .iter()
            .map(|segment| Part::read(segment, kind))
            .collect::<Result<Vec<_>, _>>()?;
        parts.retain(|part| !part.keys.is_empty());
        parts.sort_by_key(|part| std::cmp::Reverse(part.keys.len()));
        Ok(Self { parts })
    }

    /// Looks a digest up and marks it as seen.
    pub(super) fn see(&mut self, digest: &[u8]) -> Known {
        for part in &mut self.parts {
            if let Some(at) = part.position(digest) {
                part.seen[at] = true;
                return Known::Yes(part.payloads.get(at).copied().unwrap_or(0));
            }
        }
        Known::No
    }

    /// Takes a mark back: what has this name now is something else.
    pub(super) fn forget(&mut self, digest: &[u8]) {
        for part in &mut self.parts {
            if let Some(at) = part.position(digest) {
                part.seen[at] = false;
            }
        }
    }

    /// Returns the objects that have not been seen, by segment.
    pub(super) fn unseen(&self) -> impl Iterator<Item = (&Arc<Segment>, Vec<u32>)> {
        self.parts.iter().map(|part| {
            let objects = (part.first..).zip(&part.seen).filter(|&(_, &seen)| !seen);
            (&part.segment, objects.map(|(object, _)| object).collect())
        })
    }
}

impl Part {
    fn read(segment: &Arc<Segment>, kind: SectionKind) -> Result<Self, SegmentError> {
        let header = segment.header();
        let (count, first) = match kind {
            SectionKind::Items => (header.items, header.links + header.files),
            _ => (header.links, 0),
        };
        // The header has been checked: so many records are in the file.
        let mut keys = Vec::with_capacity(count as usize);
        let mut payloads = Vec::with_capacity(if kind == SectionKind::Items {
            count as usize
        } else {
            0
        });
        if let Some(mut cursor) = segment.records(kind)? {
            while let Some(record) = cursor.record() {
                keys.push(record.first_chunk().copied().unwrap_or_default());
                if kind == SectionKind::Items {
                    payloads.push(crate::format::u64_at(record, record.len() - 8));
                }
                cursor.advance()?;
            }
        }
        let bits = (keys.len() / BUCKET_KEYS).max(1).ilog2();
        let mut cells = vec![0_u32; (1 << bits) + 1];
        for key in &keys {
            cells[cell(key, bits) + 1] += 1;
        }
        for at in 1..cells.len() {
            cells[at] += cells[at - 1];
        }
        // Dead objects count as seen, so that they are not declared dead again, and are found by nobody.
        let mut seen = vec![false; keys.len()];
        for dead in segment.dead_objects()? {
            if let Some(at) = u64::from(dead)
                .checked_sub(first)
                .map(|at| at as usize)
                .filter(|&at| at < keys.len())
            {
                seen[at] = true;
                keys[at] = DEAD_KEY;
            }
        }
        Ok(Self {
            segment: Arc::clone(segment),
            keys,
            payloads,
            cells,
            bits,
            seen,
            first: first as u32,
        })
    }

    fn position(&self, digest: &[u8]) -> Option<usize> {
        let key: &[u8; KEY_LEN] = digest.first_chunk()?;
        let cell = cell(key, self.bits);
        let (from, to) = (self.cells[cell] as usize, self.cells[cell + 1] as usize);
        self.keys[from..to]
            .iter()
            .position(|known| known == key)
            .map(|at| from + at)
    }
}

/// Stands in the place of a dead object's key; as likely to be a digest as any other that nobody has.
const DEAD_KEY: [u8; KEY_LEN] = *b"no longer counts";

fn cell(key: &[u8; KEY_LEN], bits: u32) -> usize {
    let leading = key
        .first_chunk()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes));
    if bits == 0 {
        0
    } else {
        (leading >> (u32::BITS - bits)) as usize
    }
}
