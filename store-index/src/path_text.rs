//! Paths as text: they are bytes, and neither JSON nor a terminal takes any bytes.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// Returns a text from which [`decode`] makes the path again: bytes that are not UTF-8, control characters and `%` as
/// `%` and two hex digits a byte.
pub fn encode(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '%' || character.is_control() {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    text.push_str(&format!("%{byte:02X}"));
                }
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Returns the path for messages and JSON: as it is if it is text, else as [`encode`] has it, so that nothing in a
/// hostile name moves the cursor or starts a new line, and no two paths look the same.
pub fn printable(path: &Path) -> String {
    match path.to_str() {
        Some(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => encode(path),
    }
}

/// Returns a text of somebody else's for messages, with control characters escaped.
pub fn printable_text(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

/// Reads what [`encode`] wrote.
pub fn decode(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            let mut byte = [0];
            hex::decode_to_slice(digits, &mut byte).ok()?;
            bytes.push(byte[0]);
            rest = after;
        } else {
            bytes.push(first);
        }
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn any_bytes_go_both_ways() {
        for bytes in [
            &b"/a/b"[..],
            b"/100%/\xff\xfe",
            b"/line\nbreak/\x1b[2J",
            "/ä".as_bytes(),
            b"/%41",
        ] {
            let path = Path::new(OsStr::from_bytes(bytes));
            assert_eq!(decode(&encode(path)).as_deref(), Some(path));
            assert!(!printable(path).contains(|c: char| c.is_control()));
        }
        assert_eq!(printable(Path::new("/100%")), "/100%");
        assert_eq!(decode("%4"), None);
    }
}
