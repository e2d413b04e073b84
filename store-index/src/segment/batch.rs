//! Objects in memory with their digests, in any order, on their way into a segment.

use std::cmp::Ordering;
use std::io::{self, Write};

use rayon::slice::ParallelSliceMut as _;

use super::reader::IndexedFile;
use super::writer::{FileView, Writer, Written};
use crate::format::{Header, SectionKind, compare_paths};
use crate::key::{Digests, KeyKind, KeySet};
use crate::links::LinkName;
use crate::store_path::PATH_DIGEST_LEN;

/// Marks an object that another one with the same name replaces.
const REPLACED: u32 = u32::MAX;

/// What a segment is made of. Digests lie packed, since there may be millions.
#[derive(Debug)]
pub struct Batch {
    kinds: KeySet,
    links: Vec<(LinkName, u64)>,
    files: Vec<IndexedFile>,
    items: Vec<([u8; PATH_DIGEST_LEN], u64)>,
    link_digests: PackedDigests,
    file_digests: PackedDigests,
    path_bytes: usize,
}

impl Batch {
    /// Starts with nothing; digests of other kinds are dropped.
    pub fn new(kinds: KeySet) -> Self {
        let kinds = kinds.union(KeySet::always());
        Self {
            kinds,
            links: Vec::new(),
            files: Vec::new(),
            items: Vec::new(),
            link_digests: PackedDigests::new(kinds),
            file_digests: PackedDigests::new(kinds),
            path_bytes: 0,
        }
    }

    /// Adds an entry of `.links` with its file's size in bytes.
    pub fn push_link(&mut self, name: LinkName, size: u64, digests: &Digests) {
        self.links.push((name, size));
        self.link_digests.push(digests);
    }

    /// Adds a file.
    pub fn push_file(&mut self, file: IndexedFile, digests: &Digests) {
        self.path_bytes += file.path.len();
        self.files.push(file);
        self.file_digests.push(digests);
    }

    /// Adds a store item that has been looked at, with its inode or 0.
    pub fn push_item(&mut self, digest: [u8; PATH_DIGEST_LEN], inode: u64) {
        self.items.push((digest, inode));
    }

    /// Returns the number of objects.
    pub const fn len(&self) -> usize {
        self.links.len() + self.files.len() + self.items.len()
    }

    /// Returns true if there is nothing to write.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns about how much memory it takes, in bytes.
    pub const fn memory(&self) -> usize {
        self.links.len() * size_of::<(LinkName, u64)>()
            + self.files.len() * (size_of::<IndexedFile>() + MALLOC_OVERHEAD)
            + self.items.len() * size_of::<([u8; PATH_DIGEST_LEN], u64)>()
            + self.link_digests.bytes.len()
            + self.file_digests.bytes.len()
            + self.path_bytes
    }

    /// Writes a segment. The bytes do not depend on the order in which things were added.
    pub fn write(&self, out: impl Write) -> io::Result<Written> {
        let links = order(self.links.len(), |a, b| {
            self.links[a].0.cmp(&self.links[b].0)
        });
        let files = order(self.files.len(), |a, b| {
            compare_paths(&self.files[a].path, &self.files[b].path)
        });
        let items = order(self.items.len(), |a, b| {
            self.items[a].0.cmp(&self.items[b].0)
        });
        let numbers = self.numbers(&links, &files);
        let path_bytes: usize = files
            .iter()
            .map(|&file| self.files[file as usize].path.len())
            .sum();
        let mut counts = vec![
            (SectionKind::Links, links.len() as u64),
            (SectionKind::Files, files.len() as u64),
            (SectionKind::Paths, path_bytes as u64),
            (SectionKind::Items, items.len() as u64),
        ];
        for kind in self.kinds.iter() {
            let count = numbers
                .iter()
                .enumerate()
                .filter(|&(from, &to)| to != REPLACED && self.has(from, kind));
            counts.push((SectionKind::Keys(kind), count.count() as u64));
        }
        let header = Header::plan(
            links.len() as u64,
            files.len() as u64,
            items.len() as u64,
            &counts,
        )
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                "too many objects for one segment",
            )
        })?;

        let mut writer = Writer::new(out, header)?;
        let mut table = writer.table(SectionKind::Links)?;
        for &link in &links {
            let (name, size) = &self.links[link as usize];
            table.record(&name.0, *size)?;
        }
        table.end()?;
        writer.files(
            files
                .iter()
                .map(|&file| Ok(FileView(&self.files[file as usize]))),
        )?;
        writer.paths()?;
        for &file in &files {
            writer.put(&self.files[file as usize].path)?;
        }
        let mut table = writer.table(SectionKind::Items)?;
        for &item in &items {
            let (digest, inode) = &self.items[item as usize];
            table.record(digest, *inode)?;
        }
        table.end()?;
        for kind in self.kinds.iter() {
            self.write_keys(&mut writer, kind, &numbers)?;
        }
        writer.finish()
    }

    /// From the order of adding, links first, to object numbers.
    fn numbers(&self, links: &[u32], files: &[u32]) -> Vec<u32> {
        let mut numbers = vec![REPLACED; self.links.len() + self.files.len()];
        for (number, &link) in (0..).zip(links) {
            numbers[link as usize] = number;
        }
        for (number, &file) in (links.len() as u32..).zip(files) {
            numbers[self.links.len() + file as usize] = number;
        }
        numbers
    }

    fn has(&self, from: usize, kind: KeyKind) -> bool {
        self.digest(from, kind).is_some()
    }

    fn digest(&self, from: usize, kind: KeyKind) -> Option<&[u8]> {
        match from.checked_sub(self.links.len()) {
            None => self.link_digests.get(from, kind),
            Some(file) => self.file_digests.get(file, kind),
        }
    }

    fn write_keys<W: Write>(
        &self,
        writer: &mut Writer<W>,
        kind: KeyKind,
        numbers: &[u32],
    ) -> io::Result<()> {
        // Sorting 16-byte handles beats sorting the records: nearly all comparisons end at the leading bytes.
        struct Handle {
            leading: u64,
            number: u32,
            from: u32,
        }
        let mut handles: Vec<Handle> = Vec::with_capacity(numbers.len());
        for (from, &number) in numbers.iter().enumerate() {
            if let Some(digest) = self.digest(from, kind).filter(|_| number != REPLACED) {
                let leading = digest
                    .first_chunk()
                    .map_or(0, |bytes| u64::from_be_bytes(*bytes));
                handles.push(Handle {
                    leading,
                    number,
                    from: from as u32,
                });
            }
        }
        let digest = |handle: &Handle| self.digest(handle.from as usize, kind).unwrap_or_default();
        handles.par_sort_unstable_by(|a, b| {
            let by_digest = || digest(a).cmp(digest(b)).then(a.number.cmp(&b.number));
            a.leading.cmp(&b.leading).then_with(by_digest)
        });
        let mut table = writer.table(SectionKind::Keys(kind))?;
        for handle in &handles {
            table.record(digest(handle), u64::from(handle.number))?;
        }
        table.end()
    }
}

/// What an allocation costs beside its bytes, roughly.
const MALLOC_OVERHEAD: usize = 16;

/// Returns positions in sorted order; of equal ones only that which was added last.
fn order(len: usize, compare: impl Fn(usize, usize) -> Ordering + Sync) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len as u32).collect();
    order.par_sort_unstable_by(|&a, &b| compare(a as usize, b as usize).then(b.cmp(&a)));
    order.dedup_by(|later, first| compare(*later as usize, *first as usize).is_eq());
    order
}

/// Digests of many objects, one behind the other: which kinds are there, then each kind's bytes.
#[derive(Debug)]
struct PackedDigests {
    kinds: KeySet,
    stride: usize,
    /// Where the bytes of a kind begin in an object's part.
    at: [usize; KeyKind::ALL.len()],
    bytes: Vec<u8>,
}

impl PackedDigests {
    fn new(kinds: KeySet) -> Self {
        let (mut at, mut stride) = ([0; KeyKind::ALL.len()], 1);
        for kind in kinds.iter() {
            at[kind as usize] = stride;
            stride += kind.digest_len();
        }
        Self {
            kinds,
            stride,
            at,
            bytes: Vec::new(),
        }
    }

    fn push(&mut self, digests: &Digests) {
        let start = self.bytes.len();
        self.bytes.resize(start + self.stride, 0);
        let part = &mut self.bytes[start..];
        for (kind, digest) in digests.iter().filter(|(kind, _)| self.kinds.has(*kind)) {
            part[0] |= 1 << kind as u8;
            part[self.at[kind as usize]..][..digest.len()].copy_from_slice(digest);
        }
    }

    fn get(&self, object: usize, kind: KeyKind) -> Option<&[u8]> {
        let part = &self.bytes[object * self.stride..][..self.stride];
        (part[0] & 1 << kind as u8 != 0)
            .then(|| &part[self.at[kind as usize]..][..kind.digest_len()])
    }
}
