//! The git blob ids that an index has, asked for in the order of paths, so that no file is read for them.

use std::sync::Arc;

use crate::digest::{Algorithm, Digest};
use crate::format::{SectionKind, compare_paths, u32_at};
use crate::key::KeyKind;
use crate::segment::SegmentError;
use crate::segment::reader::{Files, IndexedFile, Segment};

/// The length of a blob id in bytes.
const ID_LEN: usize = 20;

/// How many objects' ids are in memory for a segment: ids lie in the order of digests, and are wanted in that of
/// paths, so that each window costs a pass over the table.
const WINDOW_LEN: u64 = 2 << 20;

/// The live files of an index with their ids.
#[derive(Debug)]
pub(super) struct BlobIds<'s> {
    /// Oldest first.
    heads: Vec<Head<'s>>,
}

#[derive(Debug)]
struct Head<'s> {
    segment: &'s Segment,
    files: Files<'s>,
    next: Option<(u64, IndexedFile)>,
    dead: Vec<u32>,
    window: Window,
}

/// Ids of objects with consecutive numbers.
#[derive(Debug, Default)]
struct Window {
    first: u64,
    ids: Vec<Option<[u8; ID_LEN]>>,
}

impl<'s> BlobIds<'s> {
    pub(super) fn new(segments: &'s [Arc<Segment>]) -> Result<Self, SegmentError> {
        let heads = segments.iter().map(|segment| {
            let mut head = Head {
                segment,
                files: segment.files()?,
                next: None,
                dead: segment.dead_objects()?,
                window: Window::default(),
            };
            head.advance()?;
            Ok(head)
        });
        Ok(Self {
            heads: heads.collect::<Result<_, SegmentError>>()?,
        })
    }

    /// Returns the file with this path and its id. Paths are asked for in ascending order.
    pub(super) fn find(
        &mut self,
        path: &[u8],
    ) -> Result<Option<(IndexedFile, Digest)>, SegmentError> {
        let mut found = None;
        for head in &mut self.heads {
            while head
                .next
                .as_ref()
                .is_some_and(|(_, file)| compare_paths(&file.path, path).is_lt())
            {
                head.advance()?;
            }
            if let Some((position, file)) = head.next.take_if(|(_, file)| file.path == path) {
                let id = head.id(position)?;
                // The newest segment decides.
                found = id.map(|id| (file, id)).or(found);
                head.advance()?;
            }
        }
        Ok(found)
    }
}

impl Head<'_> {
    const fn object(&self, position: u64) -> u64 {
        self.segment.header().links + position
    }

    fn advance(&mut self) -> Result<(), SegmentError> {
        loop {
            self.next = self.files.next_file()?;
            match self.next {
                Some((position, _))
                    if self
                        .dead
                        .binary_search(&(self.object(position) as u32))
                        .is_ok() => {}
                _ => return Ok(()),
            }
        }
    }

    fn id(&mut self, position: u64) -> Result<Option<Digest>, SegmentError> {
        let object = self.object(position);
        if object >= self.window.first + self.window.ids.len() as u64 {
            self.window = Window::read(self.segment, object)?;
        }
        let at = (object - self.window.first) as usize;
        let id = self.window.ids.get(at).copied().flatten();
        Ok(id.and_then(|id| Digest::new(Algorithm::Sha1, &id)))
    }
}

impl Window {
    fn read(segment: &Segment, first: u64) -> Result<Self, SegmentError> {
        let header = segment.header();
        let len = (header.links + header.files - first).min(WINDOW_LEN);
        let mut ids = vec![None; len as usize];
        if let Some(mut cursor) = segment.records(SectionKind::Keys(KeyKind::GitSha1))? {
            while let Some(record) = cursor.record() {
                let object = u64::from(u32_at(record, ID_LEN));
                if let Some(at) = object.checked_sub(first).filter(|&at| at < len) {
                    ids[at as usize] = record.first_chunk().copied();
                }
                cursor.advance()?;
            }
        }
        Ok(Self { first, ids })
    }
}
