//! Nix's base-32: the digest read as a little-endian number, printed most significant digit first.
//!
//! Alphabet and order are those of Nix's and Guix's `nix-base32`; no general base-32 library has them.

/// The 32 digits; `e`, `o`, `u` and `t` are left out.
const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Marks bytes in [`VALUES`] that are no digit.
const NO_DIGIT: u8 = 0xff;

/// From a byte to its value.
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 32 {
        values[ALPHABET[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};

/// Returns how many characters `bytes` bytes take.
pub const fn encoded_len(bytes: usize) -> usize {
    if bytes == 0 {
        0
    } else {
        (bytes * 8 - 1) / 5 + 1
    }
}

/// Prints bytes as nix-base32.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(encoded_len(bytes.len()));
    for position in (0..encoded_len(bytes.len())).rev() {
        let (byte, shift) = (position * 5 / 8, position * 5 % 8);
        let low = u16::from(bytes[byte]);
        let high = bytes.get(byte + 1).map_or(0, |&next| u16::from(next));
        text.push(char::from(
            ALPHABET[usize::from(((high << 8 | low) >> shift) & 31)],
        ));
    }
    text
}

/// Reads nix-base32 into `bytes`, all of it. Returns the offset of the first bad character;
/// an offset equal to the text's length says that the text is too short, too long or has bits left over.
pub fn decode_into(text: &[u8], bytes: &mut [u8]) -> Result<(), usize> {
    if text.len() != encoded_len(bytes.len()) {
        return Err(text.len());
    }
    // Eight digits are five bytes: whole groups from the end, since the last digit is the lowest.
    for (bytes, digits) in bytes.chunks_mut(5).zip(text.rchunks(8)) {
        let (mut number, mut seen) = (0_u64, 0);
        for &digit in digits {
            let value = VALUES[usize::from(digit)];
            number = number << 5 | u64::from(value & 31);
            seen |= value;
        }
        if seen == NO_DIGIT {
            let is_bad = |&digit: &u8| VALUES[usize::from(digit)] == NO_DIGIT;
            return Err(text.iter().position(is_bad).unwrap_or(text.len()));
        }
        let number = number.to_le_bytes();
        let (wanted, left_over) = number.split_at(bytes.len());
        if left_over.iter().any(|&byte| byte != 0) {
            return Err(text.len());
        }
        bytes.copy_from_slice(wanted);
    }
    Ok(())
}

/// Reads nix-base32 of a fixed length.
pub fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    decode_into(text, &mut bytes).ok().map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_nix() {
        let digest = crate::digest::sha256(b"hello\n");
        assert_eq!(
            encode(&digest),
            "00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq"
        );
        assert_eq!(
            decode(b"00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq"),
            Some(digest)
        );
    }

    #[test]
    fn refuses_what_would_not_print_the_same() {
        assert_eq!(
            decode::<32>(b"z0xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq"),
            None,
            "bits left over"
        );
        assert_eq!(
            decode::<32>(b"00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aqq"),
            None,
            "too long"
        );
        let mut bytes = [0; 32];
        let bad = decode_into(
            b"00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4ae",
            &mut bytes,
        );
        assert_eq!(bad, Err(51), "e is no digit");
    }
}
