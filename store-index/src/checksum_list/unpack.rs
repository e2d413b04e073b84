//! The text of a list, unpacked under limits.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::{Compression, ListError};

/// The longest text that is read, in bytes, unpacked or as it lies there. Debian's largest `Sources` has 60 MB.
pub const MAX_TEXT_LEN: u64 = 1 << 30;

/// How many times its packed size a text may have. Real lists, full of digests, reach 10.
pub const MAX_RATIO: u64 = 100;

/// Up to this many bytes the ratio says nothing: a short text of repetitions packs well.
pub const RATIO_GRACE_LEN: u64 = 1 << 20;

/// The most memory for the dictionary of xz, in KiB: what `xz -9` needs, with room for the decoder's own tables.
pub const XZ_MEMORY_KIB: u32 = 66 * 1024;

/// How much is unpacked at a time, in bytes.
const BUFFER_LEN: usize = 64 * 1024;

/// A limit that was reached, on its way through `io::Error`.
#[derive(Debug, thiserror::Error)]
enum Limit {
    #[error("too long")]
    Length,
    #[error("packed too well")]
    Ratio,
}

impl ListError {
    /// Tells a limit from a failure to read.
    pub(super) fn from_unpacking(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(Limit::Length) => Self::TooLong,
            Some(Limit::Ratio) => Self::Ratio,
            None => Self::Read(error),
        }
    }
}

/// The text of a list.
pub(super) type Text<R> = BufReader<Limited<R>>;

/// Counts what goes in and out, and ends with an error where it is too much.
pub(super) struct Limited<R: BufRead> {
    unpacker: Unpacker<R>,
    packed: Rc<Cell<u64>>,
    unpacked: u64,
}

enum Unpacker<R: BufRead> {
    None(Counted<R>),
    Gzip(Box<MultiGzDecoder<Counted<R>>>),
    Xz(Box<XzReader<Counted<R>>>),
}

pub(super) fn text<R: BufRead>(compression: Compression, reader: R) -> Text<R> {
    let packed = Rc::default();
    let counted = Counted {
        reader,
        count: Rc::clone(&packed),
    };
    let unpacker = match compression {
        Compression::None => Unpacker::None(counted),
        Compression::Gzip => Unpacker::Gzip(Box::new(MultiGzDecoder::new(counted))),
        Compression::Xz => Unpacker::Xz(Box::new(XzReader::new_mem_limit(
            counted,
            true,
            XZ_MEMORY_KIB,
        ))),
    };
    let limited = Limited {
        unpacker,
        packed,
        unpacked: 0,
    };
    BufReader::with_capacity(BUFFER_LEN, limited)
}

impl<R: BufRead> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.unpacker {
            Unpacker::None(reader) => reader.read(buffer),
            Unpacker::Gzip(reader) => reader.read(buffer),
            Unpacker::Xz(reader) => reader.read(buffer),
        }?;
        self.unpacked += count as u64;
        if self.unpacked > MAX_TEXT_LEN {
            return Err(io::Error::other(Limit::Length));
        }
        if self.unpacked > RATIO_GRACE_LEN && self.unpacked / MAX_RATIO > self.packed.get() {
            return Err(io::Error::other(Limit::Ratio));
        }
        Ok(count)
    }
}

/// Counts what is taken from a reader.
struct Counted<R> {
    reader: R,
    count: Rc<Cell<u64>>,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.count.set(self.count.get() + count as u64);
        self.reader.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn unpack(compression: Compression, packed: &[u8]) -> Result<u64, ListError> {
        io::copy(&mut text(compression, packed), &mut io::sink()).map_err(ListError::from_unpacking)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn bombs_end_early_and_short_repetitions_do_not() {
        let short = gzip(&vec![0; RATIO_GRACE_LEN as usize]);
        assert_eq!(unpack(Compression::Gzip, &short).unwrap(), RATIO_GRACE_LEN);
        let bomb = gzip(&vec![0; 4 * RATIO_GRACE_LEN as usize]);
        assert!(matches!(
            unpack(Compression::Gzip, &bomb),
            Err(ListError::Ratio)
        ));
    }

    #[test]
    fn an_endless_text_ends() {
        let endless = BufReader::new(io::repeat(b'\n'));
        let mut text = text(Compression::None, endless);
        let error = io::copy(&mut text, &mut io::sink()).unwrap_err();
        assert!(matches!(
            ListError::from_unpacking(error),
            ListError::TooLong
        ));
    }

    #[test]
    fn broken_archives_are_errors() {
        let whole = gzip(b"some text that is long enough to be cut in two");
        for packed in [&whole[..whole.len() - 9], b"no gzip", b""] {
            assert!(
                matches!(unpack(Compression::Gzip, packed), Err(ListError::Read(_)))
                    || packed.is_empty()
            );
        }
        for packed in [
            &b"\xfd7zXZ\0"[..],
            b"\xfd7zXZ\0\0\x01\x69\x22\xde\x36",
            b"no xz",
            b"",
        ] {
            assert!(
                matches!(unpack(Compression::Xz, packed), Err(ListError::Read(_))),
                "{packed:?}"
            );
        }
    }
}
