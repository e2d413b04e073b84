//! What a pack becomes once its deltas are resolved, found out while it comes: a few bytes may describe any amount. The
//! disk is looked at too.
//!
//! gix resolves deltas after the last byte came, and holds a chain's objects in memory while others need them as
//! bases. It bounds each, and not their sum.

use std::fs::File;
use std::io::{self, Read, Write as _};

use gix::odb::pack::data::Entry;
use gix::odb::pack::data::entry::Header;
use gix::oid;
use gix::zlib::{Decompress, FlushDecompress, Status};

use super::receive::HEADER_LEN;
use crate::disk;
use crate::download::LOOK_AT_DISK_EVERY;
use crate::git::inflate::{self, MAX_OBJECT_BYTES};
use crate::git::objects::MAX_DELTA_CHAIN;
use crate::git::pack::MAX_ENTRY_HEADER_LEN;
use crate::git::{OBJECT_HASH, corrupt};

/// The most bytes in the objects of one chain, which may all be in memory at once: fifty versions of 20 MiB. Each
/// thread has a chain of its own.
const MAX_CHAIN_BYTES: u64 = MAX_OBJECT_BYTES;

/// How much larger than a pack its objects may be. Linux with its history is a hundred times as large.
const MAX_RATIO: u64 = 1000;

/// What the objects of any pack may be in all, in bytes: half a minute for the hash.
const MIN_TOTAL_BYTES: u64 = 16 << 30;

/// The sizes at a delta's beginning, in bytes.
const SIZES_LEN: usize = 20;

/// How much is decompressed at a time, in bytes.
const SCRATCH_LEN: usize = 64 << 10;

/// An entry that came: others may be differences to it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    offset: u64,
    /// The sizes of what its chain consists of, itself included, in KiB, which two pages of text are.
    chain_kib: u32,
    depth: u16,
    /// The base at the beginning of its chain is in the pack, nobody knows where yet.
    is_adrift: bool,
}

/// What is being read.
#[derive(Debug)]
enum State {
    /// The header of an entry.
    Head(Vec<u8>),
    /// What stands behind it, with the beginning of a delta.
    Body(Entry, Vec<u8>),
    /// The checksum.
    End,
}

/// Passes a pack on, from behind its header, for as long as it is within bounds.
pub(super) struct Survey<'a, R, F> {
    pack: R,
    /// Where it is written.
    folder: &'a File,
    /// What is left free there, as configured.
    reserve: Option<u64>,
    /// gix puts it together anew, entry by entry, so that others' objects can be put into it.
    is_put_together: bool,
    /// Where what came is kept until all came.
    copy: Option<&'a File>,
    /// Set when no more comes, and not all came.
    was_cut: &'a mut bool,
    /// Says whether we have an object, which then is the base rather than one of the pack.
    is_ours: F,
    state: State,
    stream: Decompress,
    scratch: Vec<u8>,
    offset: u64,
    left: u32,
    seen: Vec<Seen>,
    total_bytes: u64,
    longest_kib: u32,
    adrift_kib: u64,
    unlooked_bytes: u64,
}

impl<'a, R: Read, F: Fn(&oid) -> bool> Survey<'a, R, F> {
    pub(super) fn new(
        pack: R,
        count: u32,
        (folder, reserve): (&'a File, Option<u64>),
        (copy, was_cut): (Option<&'a File>, &'a mut bool),
        is_ours: F,
    ) -> Self {
        Self {
            pack,
            folder,
            reserve,
            is_put_together: true,
            copy,
            was_cut,
            is_ours,
            state: State::Head(Vec::new()),
            stream: Decompress::new(),
            scratch: vec![0; SCRATCH_LEN],
            offset: HEADER_LEN as u64,
            left: count,
            seen: Vec::new(),
            total_bytes: 0,
            longest_kib: 0,
            adrift_kib: 0,
            unlooked_bytes: 0,
        }
    }

    /// Says that it is written as it comes.
    pub(super) const fn written_at_once(mut self) -> Self {
        self.is_put_together = false;
        self
    }

    /// Rather has the pack whole than half of it twice.
    fn give_up_copy(&mut self) {
        if let Some(copy) = self.copy.take() {
            drop(copy.set_len(0));
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() && self.left > 0 {
            let taken = match std::mem::replace(&mut self.state, State::End) {
                State::Head(head) => self.head(head, bytes)?,
                State::Body(entry, start) => self.body(entry, start, bytes)?,
                State::End => bytes.len(),
            };
            self.offset += taken as u64;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Takes one byte more of a header, whose length only its bytes tell.
    fn head(&mut self, mut head: Vec<u8>, bytes: &[u8]) -> io::Result<usize> {
        head.extend(bytes.first());
        let start = self.offset + 1 - head.len() as u64;
        let id_len = OBJECT_HASH.len_in_bytes();
        self.state = match Entry::from_read(&mut head.as_slice(), start, id_len) {
            Ok(entry) => {
                self.stream.reset();
                State::Body(entry, Vec::new())
            }
            Err(error)
                if error.kind() == io::ErrorKind::UnexpectedEof
                    && head.len() < MAX_ENTRY_HEADER_LEN =>
            {
                State::Head(head)
            }
            Err(error) => return Err(corrupt(format!("an entry of the pack: {error}"))),
        };
        Ok(1)
    }

    fn body(&mut self, entry: Entry, mut start: Vec<u8>, bytes: &[u8]) -> io::Result<usize> {
        let (in_before, out_before) = (self.stream.total_in(), self.stream.total_out());
        let status = self
            .stream
            .decompress(bytes, &mut self.scratch, FlushDecompress::None)
            .map_err(|_| corrupt("a compressed stream is damaged"))?;
        let taken = (self.stream.total_in() - in_before) as usize;
        let made = (self.stream.total_out() - out_before) as usize;
        let wanted = SIZES_LEN - start.len();
        start.extend(&self.scratch[..made.min(wanted)]);
        if status == Status::StreamEnd {
            self.left -= 1;
            self.add(&entry, &start, taken)?;
            self.state = State::Head(Vec::new());
        } else if taken + made == 0 {
            return Err(corrupt("a compressed stream is damaged"));
        } else {
            self.state = State::Body(entry, start);
        }
        Ok(taken)
    }

    fn add(&mut self, entry: &Entry, start: &[u8], last_taken: usize) -> io::Result<()> {
        let sizes =
            || inflate::delta_sizes(start).ok_or_else(|| corrupt("a delta of the pack is damaged"));
        let offset = entry.pack_offset();
        let (size, base) = match entry.header {
            Header::OfsDelta { base_distance } => {
                let at = offset.checked_sub(base_distance);
                let at = at.and_then(|at| self.seen.binary_search_by_key(&at, |it| it.offset).ok());
                let base = at.map(|at| self.seen[at]);
                let base = base.ok_or_else(|| corrupt("the base of a delta is not in its pack"))?;
                (sizes()?.1, Some(base))
            }
            Header::RefDelta { base_id } => {
                let (base_bytes, size) = sizes()?;
                let base = Seen {
                    offset: 0,
                    chain_kib: kib(base_bytes)?,
                    depth: 0,
                    is_adrift: !(self.is_ours)(&base_id),
                };
                (size, Some(base))
            }
            _ => (entry.decompressed_size, None),
        };
        let own_kib = kib(size)?;
        let seen = Seen {
            offset,
            chain_kib: base
                .map_or(0, |base| base.chain_kib)
                .saturating_add(own_kib),
            depth: base.map_or(0, |base| base.depth + 1),
            is_adrift: base.is_some_and(|base| base.is_adrift),
        };
        self.seen.push(seen);
        self.total_bytes = self.total_bytes.saturating_add(size);
        if base.is_some() {
            self.longest_kib = self.longest_kib.max(seen.chain_kib);
        }
        if seen.is_adrift {
            // They may all follow upon each other.
            self.adrift_kib += u64::from(own_kib);
        }
        self.judge(seen, last_taken)
    }

    fn judge(&self, seen: Seen, last_taken: usize) -> io::Result<()> {
        if usize::from(seen.depth) > MAX_DELTA_CHAIN {
            let what = format!("a chain of more than {MAX_DELTA_CHAIN} deltas");
            return Err(corrupt(what));
        }
        let chain_kib = u64::from(self.longest_kib) + self.adrift_kib;
        if chain_kib > MAX_CHAIN_BYTES >> 10 {
            return Err(corrupt(format!(
                "the objects of a chain of deltas are larger than {MAX_CHAIN_BYTES} bytes"
            )));
        }
        let pack_bytes = self.offset + last_taken as u64;
        let limit_bytes = pack_bytes.saturating_mul(MAX_RATIO).max(MIN_TOTAL_BYTES);
        if self.total_bytes > limit_bytes {
            return Err(corrupt(format!(
                "{pack_bytes} bytes of a pack become more than {limit_bytes}"
            )));
        }
        Ok(())
    }
}

/// Rounds up, so that many small ones count too.
fn kib(bytes: u64) -> io::Result<u32> {
    let bytes = inflate::bounded(bytes)?;
    Ok(u32::try_from(bytes >> 10).unwrap_or(u32::MAX) + 1)
}

impl<R: Read, F: Fn(&oid) -> bool> Read for Survey<'_, R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.pack.read(buffer);
        *self.was_cut = match &read {
            Ok(count) => *count == 0 && self.left > 0,
            Err(_) => true,
        };
        let count = read?;
        self.take(&buffer[..count])?;
        if let Some(mut copy) = self.copy
            && copy.write_all(&buffer[..count]).is_err()
        {
            self.give_up_copy();
        }
        let times = if self.copy.is_some() { 2 } else { 1 };
        self.unlooked_bytes += times * count as u64;
        if self.unlooked_bytes >= LOOK_AT_DISK_EVERY {
            self.unlooked_bytes = 0;
            // Where gix puts a pack together anew it writes an entry when it is whole.
            let unwritten = match &self.state {
                State::Body(entry, _) if self.is_put_together => self.offset - entry.pack_offset(),
                _ => 0,
            };
            let look = |survey: &Self| {
                let bytes = LOOK_AT_DISK_EVERY + unwritten;
                disk::leave_reserve(survey.folder, bytes, survey.reserve)
            };
            if self.copy.is_some() && look(self).is_err() {
                self.give_up_copy();
            }
            look(self)?;
        }
        Ok(count)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use gix::ObjectId;

    use super::*;

    /// A pack without its header.
    #[derive(Default)]
    pub(in super::super) struct Made {
        bytes: Vec<u8>,
        count: u32,
    }

    impl Made {
        fn offset(&self) -> u64 {
            (HEADER_LEN + self.bytes.len()) as u64
        }

        fn add(&mut self, header: Header, content: &[u8]) -> u64 {
            let offset = self.offset();
            header
                .write_to(content.len() as u64, &mut self.bytes)
                .unwrap();
            let level = gix::zlib::Compression::BEST_SPEED;
            let mut stream = gix::zlib::stream::deflate::Write::new(&mut self.bytes, level);
            stream.write_all(content).unwrap();
            stream.flush().unwrap();
            drop(stream);
            self.count += 1;
            offset
        }

        /// A delta that repeats the first bytes of its base.
        pub(in super::super) fn delta(&mut self, base: Header, base_bytes: u64, times: u64) -> u64 {
            let mut delta = Vec::new();
            for mut size in [base_bytes, times * 0xff_ffff] {
                while size >= 0x80 {
                    delta.push(size as u8 | 0x80);
                    size >>= 7;
                }
                delta.push(size as u8);
            }
            for _ in 0..times {
                delta.extend([0xf0, 0xff, 0xff, 0xff]);
            }
            self.add(base, &delta)
        }

        /// The pack with its header, without the checksum.
        pub(in super::super) fn whole(&self) -> Vec<u8> {
            let header = [b"PACK".as_slice(), &[0, 0, 0, 2], &self.count.to_be_bytes()];
            [header.concat(), self.bytes.clone()].concat()
        }

        fn survey(&self, chunk: usize) -> io::Result<u64> {
            let folder = File::open(std::env::temp_dir()).unwrap();
            let mut was_cut = false;
            let mut survey = Survey::new(
                self.bytes.as_slice(),
                self.count,
                (&folder, None),
                (None, &mut was_cut),
                |_: &oid| false,
            );
            let mut buffer = vec![0; chunk];
            while survey.read(&mut buffer)? > 0 {}
            assert_eq!(survey.left, 0);
            Ok(survey.total_bytes)
        }
    }

    const BASE: u64 = 0xff_ffff;

    fn behind(made: &Made, base: u64) -> Header {
        Header::OfsDelta {
            base_distance: made.offset() - base,
        }
    }

    #[test]
    fn objects_are_counted_however_the_bytes_come() {
        let mut made = Made::default();
        let base = made.add(Header::Blob, &vec![7; BASE as usize]);
        made.add(Header::Blob, b"");
        let header = behind(&made, base);
        let second = made.delta(header, BASE, 3);
        let header = behind(&made, second);
        made.delta(header, 3 * BASE, 1);
        made.add(Header::Commit, b"tree ");
        for chunk in [1, 7, 1000, 1 << 20] {
            assert_eq!(made.survey(chunk).unwrap(), 5 * BASE + 5, "{chunk}");
        }
        made.bytes[20] ^= 0xff;
        made.survey(1000).unwrap_err();
    }

    #[test]
    fn small_packs_do_not_become_anything() {
        let bomb = |links: u64, times: u64, by_id: bool| {
            let mut made = Made::default();
            let mut base = made.add(Header::Blob, &vec![7; BASE as usize]);
            let mut size = BASE;
            for _ in 0..links {
                let header = match by_id {
                    true => Header::RefDelta {
                        base_id: ObjectId::null(OBJECT_HASH),
                    },
                    false => behind(&made, base),
                };
                base = made.delta(header, size, times);
                size = times * BASE;
            }
            assert!(made.bytes.len() < 1 << 20);
            made.survey(4096).map_err(|error| error.to_string())
        };
        for by_id in [false, true] {
            assert!(bomb(10, 4, by_id).is_ok());
            let error = bomb(20, 4, by_id).unwrap_err();
            assert!(error.contains("a chain of deltas"), "{error}");
            assert!(bomb(1, 65, by_id).unwrap_err().contains("larger than"));
        }
        // Next to each other they cost time instead.
        let mut made = Made::default();
        let base = made.add(Header::Blob, &vec![7; BASE as usize]);
        for _ in 0..40 {
            let header = behind(&made, base);
            made.delta(header, BASE, 32);
        }
        let error = made.survey(4096).unwrap_err().to_string();
        assert!(error.contains("become more than"), "{error}");
    }
}
