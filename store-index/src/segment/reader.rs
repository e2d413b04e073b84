//! An opened segment: every question that can be put to it.

use std::path::Path;

use super::cursor::Cursor;
use super::dead::DeadList;
use super::table::Table;
use super::{SegmentError, Source};
use crate::format::{
    FILE_RECORD_LEN, FileRecord, FormatError, HEADER_LEN, Header, Section, SectionKind,
    compare_paths, is_plain_path,
};
use crate::key::{KeyKind, KeySet};
use crate::links::LinkName;
use crate::read_at::{ReadAt, open_regular};
use crate::store_path::PATH_DIGEST_LEN;

/// A segment whose header has been checked. Reading never fails by panic, whatever the bytes behind it are.
#[derive(Debug)]
pub struct Segment {
    source: Source,
    header: Header,
    links: Table,
    items: Table,
    files: Section,
    paths: Section,
    keys: [Option<Table>; KeyKind::ALL.len()],
    dead: Option<DeadList>,
}

/// What an object number stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// An entry of `.links`.
    Link {
        /// Its name.
        name: LinkName,
        /// The file's size in bytes.
        size: u64,
    },
    /// A file below the root.
    File(IndexedFile),
    /// A store item that has been looked at.
    Item {
        /// The digest part of its path.
        digest: [u8; PATH_DIGEST_LEN],
        /// Its inode, 0 if not known.
        inode: u64,
    },
}

/// How many objects of each sort there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries of `.links`.
    pub links: u64,
    /// Files.
    pub files: u64,
    /// Store items.
    pub items: u64,
}

/// A file as it was when it was indexed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedFile {
    /// Relative to the root; plain parts only.
    pub path: Vec<u8>,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last modified, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Its inode, 0 if that says nothing.
    pub inode: u64,
    /// True if its digests come from a checksum list and it has not been read; some kinds may be missing.
    pub hint: bool,
}

impl Segment {
    /// Opens a segment and its dead list in a directory.
    pub fn open(directory: &Path, file: &str, dead: Option<&str>) -> Result<Self, SegmentError> {
        let open = |name: &str| {
            let opened = open_regular(&directory.join(name));
            let bytes = opened.map_err(|source| SegmentError::Read {
                file: name.to_owned(),
                source,
            })?;
            // Before the first read: a lookup touches single pages, and read-ahead would fetch megabytes for each.
            // Advice only, so a refusal does not matter.
            rustix::fs::fadvise(&bytes, 0, None, rustix::fs::Advice::Random).ok();
            Ok(Source {
                bytes: Box::new(bytes),
                name: name.to_owned(),
            })
        };
        Self::from_source(open(file)?, dead.map(open).transpose()?)
    }

    /// Opens a segment that lies anywhere; the names are for messages.
    pub fn from_bytes(
        name: &str,
        bytes: Box<dyn ReadAt>,
        dead: Option<Box<dyn ReadAt>>,
    ) -> Result<Self, SegmentError> {
        let dead = dead.map(|bytes| Source {
            bytes,
            name: format!("dead list of {name}"),
        });
        Self::from_source(
            Source {
                bytes,
                name: name.to_owned(),
            },
            dead,
        )
    }

    fn from_source(source: Source, dead: Option<Source>) -> Result<Self, SegmentError> {
        let len = source.len()?;
        let mut bytes = [0; HEADER_LEN];
        if len >= HEADER_LEN as u64 {
            source.read(&mut bytes, 0)?;
        }
        let header = Header::decode(&bytes[..len.min(HEADER_LEN as u64) as usize], len)
            .map_err(|error| source.damaged(error))?;
        let section = |kind| {
            let missing = || source.damaged(FormatError::Contradiction("a section is missing"));
            header.section(kind).copied().ok_or_else(missing)
        };
        let table = |kind| Ok(header.section(kind).copied().and_then(Table::new));
        let (links, items) = (section(SectionKind::Links)?, section(SectionKind::Items)?);
        let no_table = || source.damaged(FormatError::Contradiction("a table is none"));
        let mut keys = [const { None }; KeyKind::ALL.len()];
        for kind in KeyKind::ALL {
            keys[kind as usize] = table(SectionKind::Keys(kind))?;
        }
        Ok(Self {
            links: Table::new(links).ok_or_else(no_table)?,
            items: Table::new(items).ok_or_else(no_table)?,
            files: section(SectionKind::Files)?,
            paths: section(SectionKind::Paths)?,
            keys,
            dead: dead.map(DeadList::open).transpose()?,
            header,
            source,
        })
    }

    /// Returns the file's name in the index directory.
    pub fn name(&self) -> &str {
        &self.source.name
    }

    /// Returns the header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Returns the key kinds that it keeps.
    pub fn kinds(&self) -> KeySet {
        KeyKind::ALL
            .into_iter()
            .filter(|&kind| self.keys[kind as usize].is_some())
            .fold(KeySet::empty(), KeySet::with)
    }

    /// Returns how many objects are dead.
    pub fn dead_count(&self) -> u64 {
        self.dead.as_ref().map_or(0, DeadList::count)
    }

    /// Returns the numbers of all dead objects.
    pub fn dead_objects(&self) -> Result<Vec<u32>, SegmentError> {
        self.dead.as_ref().map_or(Ok(Vec::new()), DeadList::all)
    }

    /// Returns how many objects count, by sort.
    pub fn live_counts(&self) -> Result<Counts, SegmentError> {
        let Header {
            links,
            files,
            items,
            ..
        } = self.header;
        let mut live = Counts {
            links,
            files,
            items,
        };
        // A damaged list may hold any numbers.
        for dead in self.dead_objects()? {
            match u64::from(dead) {
                link if link < links => live.links -= 1,
                file if file < links + files => live.files -= 1,
                item if item < links + files + items => live.items -= 1,
                _ => {}
            }
        }
        Ok(live)
    }

    /// Returns how many of the files that count are hints.
    pub fn live_hints(&self) -> Result<u64, SegmentError> {
        let dead = self.dead_objects()?;
        let mut records = Cursor::new(
            &self.source,
            self.files.offset,
            self.files.count,
            FILE_RECORD_LEN,
        )?;
        let mut hints = 0;
        while let Some(bytes) = records.record() {
            let object = (self.header.links + records.position()) as u32;
            let hint = self.decode_file(bytes)?.hint;
            hints += u64::from(hint && dead.binary_search(&object).is_err());
            records.advance()?;
        }
        Ok(hints)
    }

    /// Returns true if the object counts.
    pub fn is_live(&self, object: u32) -> Result<bool, SegmentError> {
        self.dead
            .as_ref()
            .map_or(Ok(true), |dead| dead.has(object).map(|dead| !dead))
    }

    /// Returns live objects that have a digest, at most `limit`, in the order of their numbers.
    pub fn find(
        &self,
        kind: KeyKind,
        digest: &[u8],
        limit: usize,
    ) -> Result<Vec<u32>, SegmentError> {
        let mut found = Vec::new();
        let Some(table) = self.keys[kind as usize].as_ref().filter(|_| limit > 0) else {
            return Ok(found);
        };
        table.find(&self.source, digest, |_, object| {
            let object = object as u32;
            if self.is_live(object)? {
                found.push(object);
            }
            Ok(found.len() < limit)
        })?;
        Ok(found)
    }

    /// Returns the number and the file size of a link, dead or not.
    pub fn find_link(&self, name: &LinkName) -> Result<Option<(u32, u64)>, SegmentError> {
        let mut found = None;
        self.links.find(&self.source, &name.0, |position, size| {
            found = Some((position as u32, size));
            Ok(false)
        })?;
        Ok(found)
    }

    /// Reads an object.
    pub fn object(&self, object: u32) -> Result<Object, SegmentError> {
        let number = u64::from(object);
        let first_item = self.header.links + self.header.files;
        if number < self.header.links {
            let record = self.links.record(&self.source, number)?;
            let mut name = [0; 32];
            name.copy_from_slice(&record[..32]);
            Ok(Object::Link {
                name: LinkName(name),
                size: self.links.payload(&record),
            })
        } else if number < first_item {
            self.file(number - self.header.links).map(Object::File)
        } else if number < first_item + self.header.items {
            let record = self.items.record(&self.source, number - first_item)?;
            let mut digest = [0; PATH_DIGEST_LEN];
            digest.copy_from_slice(&record[..PATH_DIGEST_LEN]);
            Ok(Object::Item {
                digest,
                inode: self.items.payload(&record),
            })
        } else {
            Err(self
                .source
                .damaged(FormatError::Contradiction("a key leads to no object")))
        }
    }

    /// Reads the file with this position among the files.
    pub fn file(&self, position: u64) -> Result<IndexedFile, SegmentError> {
        if position >= self.files.count {
            return Err(self
                .source
                .damaged(FormatError::Contradiction("there is no such file record")));
        }
        let mut bytes = [0; FILE_RECORD_LEN];
        self.source.read(
            &mut bytes,
            self.files.offset + position * FILE_RECORD_LEN as u64,
        )?;
        let record = self.decode_file(&bytes)?;
        let mut path = vec![0; record.path_len as usize];
        self.source
            .read(&mut path, self.paths.offset + record.path_start)?;
        self.with_path(&record, path)
    }

    /// Returns the position of the first file whose path is not before `path`.
    pub fn first_file_from(&self, path: &[u8]) -> Result<u64, SegmentError> {
        let (mut low, mut high) = (0, self.files.count);
        while low < high {
            let middle = low.midpoint(high);
            if compare_paths(&self.file(middle)?.path, path).is_lt() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Starts at the first record of a table; nothing if the segment has no such table.
    pub fn records(&self, kind: SectionKind) -> Result<Option<Cursor<'_>>, SegmentError> {
        let table = match kind {
            SectionKind::Links => Some(&self.links),
            SectionKind::Items => Some(&self.items),
            SectionKind::Keys(kind) => self.keys[kind as usize].as_ref(),
            SectionKind::Files | SectionKind::Paths => None,
        };
        let start = |table: &Table| {
            let section = table.section();
            Cursor::new(
                &self.source,
                section.offset,
                section.count,
                table.shape().len(),
            )
        };
        table.map(start).transpose()
    }

    /// Starts at the first file.
    pub fn files(&self) -> Result<Files<'_>, SegmentError> {
        Ok(Files {
            segment: self,
            records: Cursor::new(
                &self.source,
                self.files.offset,
                self.files.count,
                FILE_RECORD_LEN,
            )?,
            paths: PathReader {
                segment: self,
                start: 0,
                chunk: Vec::new(),
            },
        })
    }

    /// Looks a fan-out cell or any other byte range up, for checks.
    pub(crate) const fn source(&self) -> &Source {
        &self.source
    }

    fn decode_file(&self, bytes: &[u8]) -> Result<FileRecord, SegmentError> {
        let bytes = bytes.first_chunk().unwrap_or(&[0; FILE_RECORD_LEN]);
        FileRecord::decode(bytes, self.paths.len).map_err(|error| self.source.damaged(error))
    }

    fn with_path(&self, record: &FileRecord, path: Vec<u8>) -> Result<IndexedFile, SegmentError> {
        if !is_plain_path(&path) {
            return Err(self
                .source
                .damaged(FormatError::Contradiction("a path leads out of the root")));
        }
        Ok(IndexedFile {
            path,
            size: record.size,
            mtime_ns: record.mtime_ns,
            inode: record.inode,
            hint: record.hint,
        })
    }
}

/// Reads all files of a segment in order.
#[derive(Debug)]
pub struct Files<'a> {
    segment: &'a Segment,
    records: Cursor<'a>,
    paths: PathReader<'a>,
}

impl Files<'_> {
    /// Returns position and file, and goes on; `None` behind the last.
    pub fn next_file(&mut self) -> Result<Option<(u64, IndexedFile)>, SegmentError> {
        let Some(bytes) = self.records.record() else {
            return Ok(None);
        };
        let record = self.segment.decode_file(bytes)?;
        let position = self.records.position();
        let path = self.paths.read(&record)?;
        self.records.advance()?;
        Ok(Some((position, self.segment.with_path(&record, path)?)))
    }
}

/// Reads paths through a window that moves forward as a rule.
#[derive(Debug)]
struct PathReader<'a> {
    segment: &'a Segment,
    start: u64,
    chunk: Vec<u8>,
}

/// How much of the paths is read at a time.
const PATH_CHUNK_LEN: u64 = 256 * 1024;

impl PathReader<'_> {
    fn read(&mut self, record: &FileRecord) -> Result<Vec<u8>, SegmentError> {
        let (start, len) = (record.path_start, u64::from(record.path_len));
        if start < self.start || start + len > self.start + self.chunk.len() as u64 {
            let paths = &self.segment.paths;
            self.chunk
                .resize((paths.len - start).min(PATH_CHUNK_LEN) as usize, 0);
            self.segment
                .source
                .read(&mut self.chunk, paths.offset + start)?;
            self.start = start;
        }
        let from = (start - self.start) as usize;
        Ok(self.chunk[from..from + len as usize].to_vec())
    }
}
