//! Makes one segment of several by streaming through them: memory is four bytes an object.

use std::io::{self, Write};

use super::SegmentError;
use super::cursor::Cursor;
use super::reader::{Files, IndexedFile, Segment};
use super::writer::{FileView, Writer, Written};
use crate::format::{Header, OBJECT_LEN, SectionKind, compare_paths, u32_at, u64_at};
use crate::key::{KeyKind, KeySet};

/// Marks an object that does not come along.
const DROPPED: u32 = u32::MAX;

/// Merges segments, oldest first; kept are the key kinds that all of them keep. Dead objects are dropped; should two segments have the
/// same link, path or item alive, the newest wins. The bytes depend on nothing but the live objects.
pub fn merge(segments: &[&Segment], out: impl Write) -> Result<Written, MergeError> {
    let plan = Plan::new(segments)?;
    let writer = Writer::new(out, plan.header(segments)?).map_err(MergeError::Write)?;
    plan.write(segments, writer)
}

/// Why segments could not be merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// A segment cannot be read.
    #[error(transparent)]
    Read(#[from] SegmentError),
    /// The new one cannot be written.
    #[error("{0}")]
    Write(io::Error),
    /// Together they have too many objects.
    #[error("together they hold more objects than a segment can number")]
    TooManyObjects,
}

/// Where every object goes.
struct Plan {
    kinds: KeySet,
    /// For each segment from old number to new.
    numbers: Vec<Vec<u32>>,
    links: u64,
    files: u64,
    items: u64,
    path_bytes: u64,
}

impl Plan {
    fn new(segments: &[&Segment]) -> Result<Self, MergeError> {
        let mut plan = Self {
            // A table that some objects are not in would promise too much.
            kinds: segments
                .iter()
                .map(|segment| segment.kinds())
                .reduce(KeySet::intersection)
                .unwrap_or_default(),
            numbers: Vec::new(),
            links: 0,
            files: 0,
            items: 0,
            path_bytes: 0,
        };
        for segment in segments {
            // The header has been checked: the objects fit the length of the file.
            let mut numbers = vec![0; segment.header().objects() as usize];
            for dead in segment.dead_objects()? {
                if let Some(number) = numbers.get_mut(dead as usize) {
                    *number = DROPPED;
                }
            }
            plan.numbers.push(numbers);
        }
        plan.number_table(segments, SectionKind::Links)?;
        plan.number_files(segments)?;
        plan.number_table(segments, SectionKind::Items)?;
        Ok(plan)
    }

    const fn total(&self) -> u64 {
        self.links + self.files + self.items
    }

    /// Gives the next number to an object, and takes it from one with the same name in an older segment.
    fn number(
        &mut self,
        segment: usize,
        object: u64,
        last: &mut Option<(usize, u64)>,
        same: bool,
    ) -> Result<bool, MergeError> {
        let number = if same {
            self.total().wrapping_sub(1)
        } else {
            self.total()
        };
        if number >= u64::from(DROPPED) {
            return Err(MergeError::TooManyObjects);
        }
        if let Some((old_segment, old_object)) = last.filter(|_| same) {
            self.numbers[old_segment][old_object as usize] = DROPPED;
        }
        self.numbers[segment][object as usize] = number as u32;
        *last = Some((segment, object));
        Ok(!same)
    }

    fn number_table(&mut self, segments: &[&Segment], kind: SectionKind) -> Result<(), MergeError> {
        let (mut last, mut last_digest) = (None, Vec::new());
        let mut tables = Tables::new(segments, kind)?;
        while let Some(at) = tables.smallest() {
            let object = tables.object(at);
            if self.numbers[at][object as usize] != DROPPED {
                let (digest, _) = tables.record(at);
                let same = last.is_some() && last_digest == digest;
                if self.number(at, object, &mut last, same)? {
                    match kind {
                        SectionKind::Links => self.links += 1,
                        _ => self.items += 1,
                    }
                }
                last_digest.clear();
                last_digest.extend_from_slice(digest);
            }
            tables.cursors[at].advance()?;
        }
        Ok(())
    }

    fn number_files(&mut self, segments: &[&Segment]) -> Result<(), MergeError> {
        let (mut last, mut last_path) = (None, Vec::new());
        let mut heads = FileHeads::new(segments)?;
        while let Some((at, position, file)) = heads.next_file()? {
            let object = segments[at].header().links + position;
            if self.numbers[at][object as usize] == DROPPED {
                continue;
            }
            let same = last.is_some() && last_path == file.path;
            if self.number(at, object, &mut last, same)? {
                self.files += 1;
                self.path_bytes += file.path.len() as u64;
            }
            last_path = file.path;
        }
        Ok(())
    }

    fn header(&self, segments: &[&Segment]) -> Result<Header, MergeError> {
        let mut counts = vec![
            (SectionKind::Links, self.links),
            (SectionKind::Files, self.files),
            (SectionKind::Paths, self.path_bytes),
            (SectionKind::Items, self.items),
        ];
        for kind in self.kinds.iter() {
            counts.push((SectionKind::Keys(kind), self.count_keys(segments, kind)?));
        }
        Header::plan(self.links, self.files, self.items, &counts).ok_or(MergeError::TooManyObjects)
    }

    fn count_keys(&self, segments: &[&Segment], kind: KeyKind) -> Result<u64, MergeError> {
        let mut count = 0;
        for (segment, numbers) in segments.iter().zip(&self.numbers) {
            let Some(mut cursor) = segment.records(SectionKind::Keys(kind))? else {
                continue;
            };
            while let Some(record) = cursor.record() {
                count += u64::from(new_number(numbers, record) != DROPPED);
                cursor.advance()?;
            }
        }
        Ok(count)
    }

    fn write<W: Write>(
        &self,
        segments: &[&Segment],
        mut writer: Writer<W>,
    ) -> Result<Written, MergeError> {
        self.write_table(segments, SectionKind::Links, &mut writer)?;
        self.write_files(segments, &mut writer)?;
        self.write_table(segments, SectionKind::Items, &mut writer)?;
        for kind in self.kinds.iter() {
            self.write_keys(segments, kind, &mut writer)?;
        }
        writer.finish().map_err(MergeError::Write)
    }

    fn write_table<W: Write>(
        &self,
        segments: &[&Segment],
        kind: SectionKind,
        writer: &mut Writer<W>,
    ) -> Result<(), MergeError> {
        let mut tables = Tables::new(segments, kind)?;
        let mut table = writer.table(kind).map_err(MergeError::Write)?;
        while let Some(at) = tables.smallest() {
            if self.numbers[at][tables.object(at) as usize] != DROPPED {
                let (digest, payload) = tables.record(at);
                table
                    .record(digest, u64_at(payload, 0))
                    .map_err(MergeError::Write)?;
            }
            tables.cursors[at].advance()?;
        }
        table.end().map_err(MergeError::Write)
    }

    fn write_files<W: Write>(
        &self,
        segments: &[&Segment],
        writer: &mut Writer<W>,
    ) -> Result<(), MergeError> {
        let mut path_start = 0;
        let mut heads = FileHeads::new(segments)?;
        writer.file_records().map_err(MergeError::Write)?;
        while let Some((at, position, file)) = heads.next_file()? {
            if self.keeps_file(segments, at, position) {
                let record = FileView(&file).record(path_start);
                path_start += u64::from(record.path_len);
                writer.put(&record.encode()).map_err(MergeError::Write)?;
            }
        }
        let mut heads = FileHeads::new(segments)?;
        writer.paths().map_err(MergeError::Write)?;
        while let Some((at, position, file)) = heads.next_file()? {
            if self.keeps_file(segments, at, position) {
                writer.put(&file.path).map_err(MergeError::Write)?;
            }
        }
        Ok(())
    }

    fn keeps_file(&self, segments: &[&Segment], at: usize, position: u64) -> bool {
        self.numbers[at][(segments[at].header().links + position) as usize] != DROPPED
    }

    fn write_keys<W: Write>(
        &self,
        segments: &[&Segment],
        kind: KeyKind,
        writer: &mut Writer<W>,
    ) -> Result<(), MergeError> {
        let digest_len = kind.digest_len();
        let mut heads = Vec::new();
        for (segment, numbers) in segments.iter().zip(&self.numbers) {
            if let Some(cursor) = segment.records(SectionKind::Keys(kind))? {
                let mut head = KeyHead { cursor, numbers };
                head.skip_dropped()?;
                heads.push(head);
            }
        }
        let mut table = writer
            .table(SectionKind::Keys(kind))
            .map_err(MergeError::Write)?;
        while let Some(at) = smallest(&heads, KeyHead::key) {
            if let Some((digest, number)) = heads[at].key() {
                table
                    .record(&digest[..digest_len], u64::from(number))
                    .map_err(MergeError::Write)?;
            }
            heads[at].cursor.advance()?;
            heads[at].skip_dropped()?;
        }
        table.end().map_err(MergeError::Write)
    }
}

/// A key table being read, with the new numbers of its segment's objects.
struct KeyHead<'s, 'p> {
    cursor: Cursor<'s>,
    numbers: &'p [u32],
}

impl KeyHead<'_, '_> {
    /// Goes on to the next key that comes along. A dropped one has no place in the order of new numbers, and would
    /// hold up those behind it.
    fn skip_dropped(&mut self) -> Result<(), SegmentError> {
        while self.key().is_some_and(|(_, number)| number == DROPPED) {
            self.cursor.advance()?;
        }
        Ok(())
    }

    fn key(&self) -> Option<(&[u8], u32)> {
        let record = self.cursor.record()?;
        Some((
            &record[..record.len() - OBJECT_LEN],
            new_number(self.numbers, record),
        ))
    }
}

/// Returns the new number of the object that a key record leads to.
fn new_number(numbers: &[u32], record: &[u8]) -> u32 {
    let object = u32_at(record, record.len().saturating_sub(OBJECT_LEN)) as usize;
    numbers.get(object).copied().unwrap_or(DROPPED)
}

/// Tables of one kind being read together.
struct Tables<'s> {
    cursors: Vec<Cursor<'s>>,
    digest_len: usize,
    /// The object number of each table's first record.
    first: Vec<u64>,
}

impl<'s> Tables<'s> {
    fn new(segments: &[&'s Segment], kind: SectionKind) -> Result<Self, SegmentError> {
        let first = segments.iter().map(|segment| match kind {
            SectionKind::Links => 0,
            _ => segment.header().links + segment.header().files,
        });
        Ok(Self {
            cursors: segments
                .iter()
                .filter_map(|segment| segment.records(kind).transpose())
                .collect::<Result<_, _>>()?,
            digest_len: kind.record_shape().map_or(0, |shape| shape.digest),
            first: first.collect(),
        })
    }

    /// Returns which table has the smallest record; of equal ones the oldest.
    fn smallest(&self) -> Option<usize> {
        smallest(&self.cursors, |cursor| {
            cursor.record().map(|record| &record[..self.digest_len])
        })
    }

    fn object(&self, at: usize) -> u64 {
        self.first[at] + self.cursors[at].position()
    }

    fn record(&self, at: usize) -> (&[u8], &[u8]) {
        self.cursors[at]
            .record()
            .unwrap_or_default()
            .split_at(self.digest_len)
    }
}

/// The files of several segments being read together.
struct FileHeads<'s> {
    heads: Vec<(Files<'s>, Option<(u64, IndexedFile)>)>,
}

impl<'s> FileHeads<'s> {
    fn new(segments: &[&'s Segment]) -> Result<Self, SegmentError> {
        let mut heads = Vec::new();
        for segment in segments {
            let mut files = segment.files()?;
            let head = files.next_file()?;
            heads.push((files, head));
        }
        Ok(Self { heads })
    }

    /// Returns segment, position and file in the order of paths; of equal ones the oldest first.
    fn next_file(&mut self) -> Result<Option<(usize, u64, IndexedFile)>, SegmentError> {
        let key = |(_, head): &(Files<'s>, Option<(u64, IndexedFile)>)| head.is_some();
        let path = |at: usize| {
            self.heads[at]
                .1
                .as_ref()
                .map_or(&[][..], |(_, file)| &file.path)
        };
        let live = (0..self.heads.len()).filter(|&at| key(&self.heads[at]));
        let Some(at) = live.min_by(|&a, &b| compare_paths(path(a), path(b))) else {
            return Ok(None);
        };
        let (files, head) = &mut self.heads[at];
        let next = files.next_file()?;
        Ok(std::mem::replace(head, next).map(|(position, file)| (at, position, file)))
    }
}

/// Returns the first head with the smallest key. There are few heads, so that a heap would not pay.
fn smallest<'h, H, K: Ord>(heads: &'h [H], key: impl Fn(&'h H) -> Option<K>) -> Option<usize> {
    heads
        .iter()
        .enumerate()
        .filter_map(|(at, head)| Some((key(head)?, at)))
        .min()
        .map(|(_, at)| at)
}
