//! What a checkout does to the bytes of a file: `$Id$`, line ends, encoding, in git's order.
//!
//! gix has all three, but writes `$Id: <id>$` where git writes `$Id: <id> $`, and UTF-8 where UTF-16 is asked for.

use std::borrow::Cow;
use std::io;

use gix::bstr::{BStr, ByteSlice as _};
use gix::filter::plumbing::encoding::Encoding as WebEncoding;
use gix::filter::plumbing::eol::{self, AttributesDigest};
use gix::filter::plumbing::worktree::encode_to_worktree;
use gix::oid;

use super::corrupt;

/// What is done to one file.
pub(super) struct Conversion {
    pub(super) eol: AttributesDigest,
    pub(super) ident: bool,
    pub(super) encoding: Option<Encoding>,
}

/// A `working-tree-encoding`; in the repository it is UTF-8.
#[derive(Clone, Copy)]
pub(super) enum Encoding {
    /// UTF-16 or UTF-32, with a byte order mark or without.
    Wide {
        unit: Unit,
        order: Order,
        mark: bool,
    },
    /// ISO-8859-1 itself, for which the web takes windows-1252.
    Latin1,
    /// Others, as the web has them.
    Web(&'static WebEncoding),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Utf16,
    Utf32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

impl Conversion {
    /// Converts the content of the blob `id`.
    pub(super) fn apply<'a>(&self, id: &oid, content: &'a [u8]) -> io::Result<Cow<'a, [u8]>> {
        let mut converted = Cow::Borrowed(content);
        if self.ident && content.contains_str("$Id") {
            converted = Cow::Owned(expand_ident(id, content));
        }
        let mut buffer = Vec::new();
        let configuration = eol::Configuration::default();
        if eol::convert_to_worktree(&converted, self.eol, &mut buffer, configuration)
            .map_err(|error| corrupt(error.to_string()))?
        {
            converted = Cow::Owned(buffer);
        }
        // Git warns of what cannot be encoded, and leaves it as it is.
        if let Some(encoded) = self
            .encoding
            .and_then(|encoding| encoding.encode(&converted))
        {
            converted = Cow::Owned(encoded);
        }
        Ok(converted)
    }
}

/// Puts the blob's id into `$Id$`, and into `$Id: ... $` that an older checkout left behind.
fn expand_ident(id: &oid, content: &[u8]) -> Vec<u8> {
    let expanded = format!("Id: {id} $");
    let mut out = Vec::with_capacity(content.len() + expanded.len());
    let mut rest = content;
    while let Some(dollar) = rest.find_byte(b'$') {
        let (before, behind) = rest.split_at(dollar + 1);
        out.extend(before);
        rest = behind;
        if let Some(behind) = behind.strip_prefix(b"Id$") {
            out.extend(expanded.bytes());
            rest = behind;
        } else if let Some(text) = behind.strip_prefix(b"Id:") {
            let Some(end) = text.find_byte(b'$') else {
                break;
            };
            let old = &text[..end];
            // A blank in the middle: the id of another system, which stays. The first byte may be one.
            let blank = old.get(1..).and_then(|old| old.find_byte(b' '));
            let is_foreign = blank.is_some_and(|at| at + 2 < old.len());
            if !old.contains(&b'\n') && !is_foreign {
                out.extend(expanded.bytes());
                rest = &text[end + 1..];
            }
        }
    }
    out.extend(rest);
    out
}

impl Encoding {
    /// Finds an encoding; `None` for UTF-8 and for what is unknown, which git leaves as it is too.
    pub(super) fn from_name(name: &BStr) -> Option<Self> {
        let plain: String = name
            .to_str()
            .ok()?
            .chars()
            .filter(|character| !matches!(character, '-' | '_'))
            .map(|character| character.to_ascii_uppercase())
            .collect();
        let wide = |unit, order, mark| Some(Self::Wide { unit, order, mark });
        match plain.as_str() {
            "UTF8" => None,
            // The C library writes a mark, and its machine's order.
            "UTF16" => wide(Unit::Utf16, NATIVE, true),
            "UTF32" => wide(Unit::Utf32, NATIVE, true),
            "UTF16LE" => wide(Unit::Utf16, Order::Little, false),
            "UTF16BE" => wide(Unit::Utf16, Order::Big, false),
            "UTF32LE" => wide(Unit::Utf32, Order::Little, false),
            "UTF32BE" => wide(Unit::Utf32, Order::Big, false),
            "UTF16LEBOM" => wide(Unit::Utf16, Order::Little, true),
            "UTF16BEBOM" => wide(Unit::Utf16, Order::Big, true),
            "ISO88591" | "LATIN1" => Some(Self::Latin1),
            _ => WebEncoding::for_label(name).map(Self::Web),
        }
    }

    /// Encodes a text; `None` if it is empty, no UTF-8, or has a character that the encoding has not.
    fn encode(self, text: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(text)
            .ok()
            .filter(|text| !text.is_empty())?;
        match self {
            Self::Wide { unit, order, mark } => {
                let mark = mark.then_some('\u{feff}');
                let mut out = Vec::with_capacity(text.len() * 2);
                for character in mark.into_iter().chain(text.chars()) {
                    unit.write(character, order, &mut out);
                }
                Some(out)
            }
            Self::Latin1 => text
                .chars()
                .map(|character| u8::try_from(u32::from(character)).ok())
                .collect(),
            Self::Web(encoding) => {
                let mut out = Vec::new();
                encode_to_worktree(text.as_bytes(), encoding, &mut out).ok()?;
                Some(out)
            }
        }
    }
}

const NATIVE: Order = if cfg!(target_endian = "big") {
    Order::Big
} else {
    Order::Little
};

impl Unit {
    fn write(self, character: char, order: Order, out: &mut Vec<u8>) {
        match (self, order) {
            (Self::Utf32, Order::Little) => out.extend(u32::from(character).to_le_bytes()),
            (Self::Utf32, Order::Big) => out.extend(u32::from(character).to_be_bytes()),
            (Self::Utf16, order) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.extend(match order {
                        Order::Little => unit.to_le_bytes(),
                        Order::Big => unit.to_be_bytes(),
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idents_are_expanded_as_by_git() {
        let id = gix::ObjectId::from_hex(b"0123456789abcdef0123456789abcdef01234567").unwrap();
        let expand = |text: &str| {
            let expanded = expand_ident(&id, text.as_bytes());
            String::from_utf8(expanded)
                .unwrap()
                .replace(&id.to_string(), "X")
        };
        for (text, expanded) in [
            ("$Id$", "$Id: X $"),
            ("a $Id$ b $Id$ c", "a $Id: X $ b $Id: X $ c"),
            ("$Id: old$", "$Id: X $"),
            ("$Id: old $", "$Id: X $"),
            ("$Id:$", "$Id: X $"),
            ("$Id: foo.c,v 1.2 $", "$Id: foo.c,v 1.2 $"),
            ("$Id: a\nb $Id$", "$Id: a\nb $Id: X $"),
            ("$Id: open", "$Id: open"),
            ("$Idea$ $ Id$ $", "$Idea$ $ Id$ $"),
            ("$$Id$", "$$Id: X $"),
        ] {
            assert_eq!(expand(text), expanded, "{text:?}");
        }
    }

    #[test]
    fn wide_encodings_have_their_marks() {
        let encode = |name: &str, text: &str| {
            Encoding::from_name(name.into()).and_then(|encoding| encoding.encode(text.as_bytes()))
        };
        assert_eq!(
            encode("UTF-16LE", "a\u{10000}").unwrap(),
            b"a\0\0\xd8\0\xdc"
        );
        assert_eq!(encode("utf-16be", "a").unwrap(), b"\0a");
        assert_eq!(encode("UTF-16LE-BOM", "a").unwrap(), b"\xff\xfea\0");
        assert_eq!(encode("UTF-32BE", "a").unwrap(), b"\0\0\0a");
        assert_eq!(encode("ISO-8859-1", "\u{e9}").unwrap(), b"\xe9");
        assert_eq!(encode("ISO-8859-1", "\u{20ac}"), None);
        assert_eq!(encode("UTF-8", "a"), None);
        assert_eq!(encode("no-such", "a"), None);
    }
}
