//! What an archive is packed with, unpacked as a stream under limits of memory, length and ratio.

use std::cell::Cell;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::input::Input;
use super::lzip::Lzip;
use super::{MAX_RATIO, RATIO_GRACE_LEN, Stop, UnpackError};

/// The largest dictionary or window, in bytes: what `zstd --ultra` uses and twice what `xz -9` does. With the rest of
/// the program it stays below 192 MiB.
pub(super) const MAX_DICTIONARY_LEN: u32 = 1 << MAX_WINDOW_LOG;

const MAX_WINDOW_LOG: u32 = 27;

/// The most memory for a decoder of xz, in KiB: the dictionary, and the tables beside it.
const XZ_MEMORY_KIB: u32 = (MAX_DICTIONARY_LEN >> 10) + 2 * 1024;

/// How much is unpacked at a time, in bytes.
const BUFFER_LEN: usize = 64 * 1024;

/// What a file is packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Gzip,
    Xz,
    Bzip2,
    Zstd,
    Lzip,
}

impl Codec {
    /// Tells it from what the file begins with.
    pub(super) fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            // A frame, or one to be skipped before it.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'L', b'Z', b'I', b'P', ..] => Self::Lzip,
            _ => Self::None,
        }
    }
}

/// Opens the stream of what is packed in `input`.
pub(super) fn open<'a>(
    codec: Codec,
    input: Input<'a>,
    max_bytes: u64,
    stop: &Stop,
) -> Result<impl Read + use<'a>, UnpackError> {
    let packed = input.position();
    let decoder: Box<dyn Read + 'a> = match codec {
        Codec::None => Box::new(input),
        Codec::Gzip => Box::new(MultiGzDecoder::new(input)),
        Codec::Xz => Box::new(XzReader::new_mem_limit(input, true, XZ_MEMORY_KIB)),
        Codec::Bzip2 => Box::new(MultiBzDecoder::new(input)),
        Codec::Zstd => {
            let decoder =
                zstd::stream::read::Decoder::with_buffer(input).and_then(|mut decoder| {
                    decoder.window_log_max(MAX_WINDOW_LOG)?;
                    Ok(decoder)
                });
            Box::new(decoder.map_err(|error| UnpackError::Broken(error.to_string()))?)
        }
        Codec::Lzip => Box::new(Lzip::new(input)),
    };
    let limited = Limited {
        decoder,
        packed,
        unpacked: 0,
        // Headers and padding are no content: an archive of the most bytes has some of them, too.
        max_bytes: max_bytes.saturating_mul(2),
        stop: stop.clone(),
    };
    Ok(BufReader::with_capacity(BUFFER_LEN, limited))
}

/// Counts what goes in and out, and ends with an error where it is too much.
struct Limited<'a> {
    decoder: Box<dyn Read + 'a>,
    packed: Rc<Cell<u64>>,
    unpacked: u64,
    max_bytes: u64,
    stop: Stop,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(buffer).map_err(|error| {
            if wants_memory(&error) {
                self.stop.with(UnpackError::Limit(format!(
                    "it is packed with a dictionary of more than {} MiB",
                    MAX_DICTIONARY_LEN >> 20
                )))
            } else {
                error
            }
        })?;
        self.unpacked += count as u64;
        check_ratio(self.unpacked, self.packed.get()).map_err(|error| self.stop.with(error))?;
        if self.unpacked > self.max_bytes.max(RATIO_GRACE_LEN) {
            let limit = "far more comes out of it than --max-bytes allows".to_owned();
            return Err(self.stop.with(UnpackError::Limit(limit)));
        }
        Ok(count)
    }
}

/// Tells a dictionary beyond the limit from an archive that is broken.
fn wants_memory(error: &io::Error) -> bool {
    // The decoder of zstd has words for it alone.
    error.kind() == io::ErrorKind::OutOfMemory || error.to_string().contains("too much memory")
}

/// Refuses what has been packed beyond any purpose but one.
pub(super) fn check_ratio(unpacked: u64, packed: u64) -> Result<(), UnpackError> {
    if unpacked > RATIO_GRACE_LEN && unpacked / MAX_RATIO > packed {
        return Err(UnpackError::Limit(format!(
            "more than {MAX_RATIO} times the bytes that go in come out of it"
        )));
    }
    Ok(())
}
