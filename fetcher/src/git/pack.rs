//! One pack and its index, read at offsets.

use std::cell::OnceCell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;

use gix::odb::pack::data::Entry;
use gix::oid;
use gix::zlib::Decompress;

use super::folder::Folder;
use super::{OBJECT_HASH, corrupt, inflate};

/// What an index of version 2 begins with: `\377tOc` and the version. Version 1 has not been written since 2007.
const INDEX_MAGIC: [u8; 8] = [0xff, b't', b'O', b'c', 0, 0, 0, 2];

/// Magic and 256 cumulative counts, in bytes.
const TABLES_START: u64 = 8 + 256 * 4;

/// The length of an id, in bytes.
const ID_LEN: u64 = 20;

/// Two checksums end an index, in bytes.
const TRAILER_LEN: u64 = 2 * ID_LEN;

/// An id is searched for by halves until so many are left, which one read brings.
const LAST_IDS: u64 = 256;

/// The longest entry header: a size, then an offset or an id, in bytes.
pub(super) const MAX_ENTRY_HEADER_LEN: usize = 32;

/// How much of a pack is read at a time, in bytes.
const BUFFER_LEN: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Pack {
    folder: Folder,
    stem: String,
    index: File,
    /// How many ids there are up to each first byte.
    counts: Vec<u32>,
    large_offsets: u64,
    data: OnceCell<File>,
}

impl Pack {
    /// Opens `<stem>.idx`; the pack itself when it is needed.
    pub(super) fn open(folder: &Folder, stem: &str) -> io::Result<Self> {
        let index = folder.open_file(format!("{stem}.idx"))?;
        let len = index.metadata()?.len();
        let mut head = [0; TABLES_START as usize];
        index.read_exact_at(&mut head, 0)?;
        let (magic, counts) = head.split_at(INDEX_MAGIC.len());
        if magic != INDEX_MAGIC {
            return Err(corrupt(format!("{stem}.idx is no pack index of version 2")));
        }
        let counts: Vec<u32> = counts
            .as_chunks()
            .0
            .iter()
            .map(|count| u32::from_be_bytes(*count))
            .collect();
        let total = u64::from(counts.last().copied().unwrap_or(0));
        // For each id: the id, a checksum, an offset; then offsets of more than 31 bits.
        let least = TABLES_START + total * (ID_LEN + 4 + 4) + TRAILER_LEN;
        let large = len.checked_sub(least).filter(|rest| rest % 8 == 0);
        let large_offsets = large.map(|rest| rest / 8).filter(|&count| count <= total);
        match large_offsets {
            Some(large_offsets) if counts.is_sorted() => Ok(Self {
                folder: folder.clone(),
                stem: stem.to_owned(),
                index,
                counts,
                large_offsets,
                data: OnceCell::new(),
            }),
            _ => Err(corrupt(format!(
                "{stem}.idx is damaged, or of a repository with SHA-256 ids"
            ))),
        }
    }

    fn total(&self) -> u64 {
        u64::from(self.counts.last().copied().unwrap_or(0))
    }

    /// Returns where the entry of an id begins.
    pub(super) fn offset_of(&self, id: &oid) -> io::Result<Option<u64>> {
        let first = usize::from(id.first_byte());
        let count = |index: usize| u64::from(self.counts[index]);
        let (mut low, mut high) = (first.checked_sub(1).map_or(0, count), count(first));
        let mut probe = [0; ID_LEN as usize];
        while high - low > LAST_IDS {
            let middle = low.midpoint(high);
            self.index
                .read_exact_at(&mut probe, TABLES_START + middle * ID_LEN)?;
            if probe.as_slice() <= id.as_bytes() {
                low = middle;
            } else {
                high = middle;
            }
        }
        let mut ids = vec![0; ((high - low) * ID_LEN) as usize];
        self.index
            .read_exact_at(&mut ids, TABLES_START + low * ID_LEN)?;
        let found = ids
            .as_chunks::<{ ID_LEN as usize }>()
            .0
            .iter()
            .position(|found| found == id.as_bytes());
        found.map(|at| self.offset(low + at as u64)).transpose()
    }

    fn offset(&self, position: u64) -> io::Result<u64> {
        let offsets_start = TABLES_START + self.total() * (ID_LEN + 4);
        let mut small = [0; 4];
        self.index
            .read_exact_at(&mut small, offsets_start + position * 4)?;
        let small = u64::from(u32::from_be_bytes(small));
        let Some(position) = small.checked_sub(1 << 31) else {
            return Ok(small);
        };
        if position >= self.large_offsets {
            return Err(corrupt(format!("{}.idx is damaged", self.stem)));
        }
        let mut large = [0; 8];
        let large_start = offsets_start + self.total() * 4;
        self.index
            .read_exact_at(&mut large, large_start + position * 8)?;
        Ok(u64::from_be_bytes(large))
    }

    fn data(&self) -> io::Result<&File> {
        if let Some(data) = self.data.get() {
            return Ok(data);
        }
        let data = self.folder.open_file(format!("{}.pack", self.stem))?;
        Ok(self.data.get_or_init(|| data))
    }

    /// Reads the header of the entry at an offset.
    pub(super) fn entry(&self, offset: u64) -> io::Result<Entry> {
        let mut header = [0; MAX_ENTRY_HEADER_LEN];
        let mut len = 0;
        while len < header.len() {
            match self
                .data()?
                .read_at(&mut header[len..], offset + len as u64)?
            {
                0 => break,
                count => len += count,
            }
        }
        Entry::from_bytes(&header[..len], offset, OBJECT_HASH)
            .map_err(|error| corrupt(format!("{}.pack at {offset}: {error}", self.stem)))
    }

    /// Decompresses what stands behind an entry's header: an object or a delta.
    pub(super) fn inflate(&self, entry: &Entry) -> io::Result<Vec<u8>> {
        let reader = AtOffset {
            file: self.data()?,
            offset: entry.data_offset,
        };
        let mut reader = BufReader::with_capacity(BUFFER_LEN, reader);
        inflate::rest(&mut reader, &mut Decompress::new(), entry.decompressed_size).map_err(
            |error| {
                let what = format!("{}.pack at {}: {error}", self.stem, entry.pack_offset());
                io::Error::new(error.kind(), what)
            },
        )
    }
}

struct AtOffset<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for AtOffset<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
