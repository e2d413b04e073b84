//! zlib streams and deltas, of which objects consist, decompressed within bounds.

use std::io::{self, BufRead};

use gix::zlib::{Decompress, FlushDecompress, Status};

use super::corrupt;

/// The largest object that is read, in bytes: it is held in memory, and a few megabytes can decompress to this much.
pub(super) const MAX_OBJECT_BYTES: u64 = 1 << 30;

/// How much memory is taken at a time for a stream that claims to be large, in bytes.
const GROWTH_BYTES: usize = 4 << 20;

/// Decompresses until the buffer is full or the stream ends; returns how much of the buffer was filled.
pub(super) fn some(
    reader: &mut impl BufRead,
    state: &mut Decompress,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let input = reader.fill_buf()?;
        let at_end = input.is_empty();
        let (in_before, out_before) = (state.total_in(), state.total_out());
        let status = state
            .decompress(input, &mut buffer[filled..], FlushDecompress::None)
            .map_err(|_| corrupt("a compressed stream is damaged"))?;
        let consumed = (state.total_in() - in_before) as usize;
        let written = (state.total_out() - out_before) as usize;
        reader.consume(consumed);
        filled += written;
        if status == Status::StreamEnd {
            break;
        }
        if consumed + written == 0 {
            return Err(corrupt(if at_end {
                "a compressed stream ends early"
            } else {
                "a compressed stream is damaged"
            }));
        }
    }
    Ok(filled)
}

/// Decompresses the `size` bytes that are left, and checks that the stream ends there.
pub(super) fn rest(
    reader: &mut impl BufRead,
    state: &mut Decompress,
    size: u64,
) -> io::Result<Vec<u8>> {
    let size = bounded(size)?;
    let mut bytes: Vec<u8> = Vec::new();
    while bytes.len() < size {
        let start = bytes.len();
        bytes.resize(size.min(start + GROWTH_BYTES.max(start)), 0);
        let filled = some(reader, state, &mut bytes[start..])?;
        if start + filled < bytes.len() {
            return Err(corrupt("an object is shorter than it says"));
        }
    }
    // The checksum stands behind the last byte.
    match some(reader, state, &mut [0; 1])? {
        0 => Ok(bytes),
        _ => Err(corrupt("an object is longer than it says")),
    }
}

/// Returns a size that memory may be taken for.
pub(super) fn bounded(size: u64) -> io::Result<usize> {
    usize::try_from(size)
        .ok()
        .filter(|_| size <= MAX_OBJECT_BYTES)
        .ok_or_else(|| {
            corrupt(format!(
                "an object of {size} bytes is larger than {MAX_OBJECT_BYTES}"
            ))
        })
}

/// Makes the object that a delta describes out of its base.
pub(super) fn apply_delta(base: &[u8], delta: &[u8]) -> io::Result<Vec<u8>> {
    apply(base, Delta(delta)).ok_or_else(|| corrupt("a delta is damaged"))
}

/// Returns the sizes of a delta's base and of what it makes of it; its first 20 bytes are enough.
pub(super) fn delta_sizes(delta: &[u8]) -> Option<(u64, u64)> {
    let mut delta = Delta(delta);
    Some((delta.size()?, delta.size()?))
}

fn apply(base: &[u8], mut delta: Delta<'_>) -> Option<Vec<u8>> {
    if delta.size()? != base.len() as u64 {
        return None;
    }
    let size = bounded(delta.size()?).ok()?;
    let mut object: Vec<u8> = Vec::new();
    while let Some(command) = delta.byte() {
        if command & 0x80 == 0 {
            // So many new bytes follow; none at all is a reserved command.
            let new = delta.bytes(command.into()).filter(|new| !new.is_empty())?;
            object.extend(new);
        } else {
            let start = delta.number(command & 0x0f)?;
            let len = match delta.number(command >> 4 & 0x07)? {
                0 => 0x10000,
                len => len,
            };
            object.extend(base.get(start..start.checked_add(len)?)?);
        }
        if object.len() > size {
            return None;
        }
    }
    (object.len() == size).then_some(object)
}

/// The bytes of a delta that are left.
struct Delta<'a>(&'a [u8]);

impl<'a> Delta<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    /// A size, seven bits a byte, the lowest first.
    fn size(&mut self) -> Option<u64> {
        let mut size = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            size |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(size);
            }
        }
        None
    }

    /// A number of which only those bytes are there whose bit is set.
    fn number(&mut self, present: u8) -> Option<usize> {
        let mut number = 0;
        for index in 0..4 {
            if present & 1 << index != 0 {
                number |= usize::from(self.byte()?) << (8 * index);
            }
        }
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_copy_and_insert() {
        let base = b"0123456789";
        // 10 bytes become 7: copy 3 from offset 2, insert "ab", copy 2 from offset 0.
        let delta = [10, 7, 0x91, 2, 3, 2, b'a', b'b', 0x90, 2];
        assert_eq!(apply_delta(base, &delta).unwrap(), b"234ab01");
        for len in 0..delta.len() {
            assert!(apply_delta(base, &delta[..len]).is_err(), "cut at {len}");
        }
        for wrong in [
            &[9, 1, 1, b'a'][..],                // another base
            &[10, 2, 0x91, 9, 2],                // copies from behind the end
            &[10, 1, 2, b'a', b'b'],             // more than announced
            &[10, 1, 0],                         // the reserved command
            &[10, 0xff, 0xff, 0xff, 0xff, 0x7f], // 32 GiB
        ] {
            assert!(apply_delta(base, wrong).is_err(), "{wrong:?}");
        }
    }
}
