//! Lzip: the crate decodes a member's stream; header and trailer are read here, since a dictionary beyond the limit
//! must be refused in every member.

use std::io::{self, Read};

use flate2::Crc;
use lzma_rust2::LzmaReader;

use super::stream::MAX_DICTIONARY_LEN;

const MAGIC: &[u8; 4] = b"LZIP";

/// Magic, version, coded size of the dictionary.
const HEADER_LEN: usize = 6;

/// CRC, size of the data, size of the member.
const TRAILER_LEN: usize = 20;

/// What every member of version 1 has: literal context, literal position and position bits.
const LC_LP_PB: (u32, u32, u32) = (3, 0, 2);

pub(super) struct Lzip<R> {
    state: State<R>,
    crc: Crc,
}

enum State<R> {
    Between(Pushback<R>),
    Member(Box<LzmaReader<Pushback<R>>>),
    /// The end, or an error that has been told.
    Over,
}

/// A reader, and what was taken from it too early.
struct Pushback<R> {
    early: io::Cursor<Vec<u8>>,
    reader: R,
}

impl<R: Read> Read for Pushback<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.early.read(buffer)? {
            0 => self.reader.read(buffer),
            count => Ok(count),
        }
    }
}

impl<R: Read> Lzip<R> {
    pub(super) fn new(reader: R) -> Self {
        let early = io::Cursor::default();
        Self {
            state: State::Between(Pushback { early, reader }),
            crc: Crc::new(),
        }
    }

    /// Starts the next member, if there is one. What follows the last one and is none is passed over, as by lzip.
    fn start(&mut self, mut input: Pushback<R>) -> io::Result<()> {
        let mut header = Vec::with_capacity(HEADER_LEN);
        (&mut input)
            .take(HEADER_LEN as u64)
            .read_to_end(&mut header)?;
        let Some([magic @ .., version, coded]) = header.first_chunk::<HEADER_LEN>() else {
            return Ok(());
        };
        if magic != MAGIC {
            return Ok(());
        }
        let base = 1_u32.checked_shl(u32::from(coded & 0x1f)).unwrap_or(0);
        let dictionary_len = base - base / 16 * u32::from(coded >> 5);
        if dictionary_len > MAX_DICTIONARY_LEN {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        if *version != 1 || dictionary_len < 1 << 12 {
            return Err(io::Error::other(format!(
                "a member of lzip version {version} with a dictionary of {dictionary_len} bytes cannot be unpacked"
            )));
        }
        self.crc = Crc::new();
        let (lc, lp, pb) = LC_LP_PB;
        let member = LzmaReader::new(input, u64::MAX, lc, lp, pb, dictionary_len, None)?;
        self.state = State::Member(Box::new(member));
        Ok(())
    }

    fn finish(&mut self, member: LzmaReader<Pushback<R>>) -> io::Result<Pushback<R>> {
        let (mut input, mut unused) = member.into_parts();
        let early_from = input.early.position() as usize;
        unused.extend_from_slice(&input.early.get_ref()[early_from..]);
        input.early = io::Cursor::new(unused);
        let mut trailer = [0; TRAILER_LEN];
        input.read_exact(&mut trailer)?;
        let mut wanted = self.crc.sum().to_le_bytes().to_vec();
        // Of the size only as many bits are known here; the checksum has them all.
        wanted.extend(self.crc.amount().to_le_bytes());
        if !trailer.starts_with(&wanted) {
            return Err(io::Error::other(
                "the checksum of a member of lzip is wrong",
            ));
        }
        Ok(input)
    }
}

impl<R: Read> Read for Lzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Over => return Ok(0),
                State::Between(input) => self.start(input)?,
                State::Member(mut member) => match member.read(buffer)? {
                    0 if !buffer.is_empty() => self.state = State::Between(self.finish(*member)?),
                    count => {
                        self.crc.update(&buffer[..count]);
                        self.state = State::Member(member);
                        return Ok(count);
                    }
                },
            }
        }
    }
}
