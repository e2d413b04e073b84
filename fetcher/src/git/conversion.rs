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
    /// Others, as far as the web and the C library have the same bytes for them.
    Web {
        encoding: &'static WebEncoding,
        /// Bytes without a meaning stand for control characters on the web, and for nothing in the C library.
        has_gaps: bool,
    },
    /// One that git may know.
    Unknown,
}

/// The encodings of which all characters were compared with those of the C library. It has others under names that the
/// web knows, and means other bytes: Shift_JIS, EUC-JP, EUC-KR, GBK and GB18030, Big5, KOI8-U.
const SAME_ON_THE_WEB: [&str; 25] = [
    "WINDOWS-1250",
    "WINDOWS-1251",
    "WINDOWS-1252",
    "WINDOWS-1253",
    "WINDOWS-1254",
    "WINDOWS-1256",
    "WINDOWS-1257",
    "CP1250",
    "CP1251",
    "CP1252",
    "CP1253",
    "CP1254",
    "CP1256",
    "CP1257",
    "ISO-8859-2",
    "ISO-8859-3",
    "ISO-8859-4",
    "ISO-8859-5",
    "ISO-8859-6",
    "ISO-8859-7",
    "ISO-8859-10",
    "ISO-8859-13",
    "ISO-8859-14",
    "ISO-8859-15",
    "KOI8-R",
];

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
            converted = Cow::Owned(match self.is_streamed() {
                true => expand_ident_streamed(id, content),
                false => expand_ident(id, content),
            });
        }
        let mut buffer = Vec::new();
        let configuration = eol::Configuration::default();
        if eol::convert_to_worktree(&converted, self.eol, &mut buffer, configuration)
            .map_err(|error| corrupt(error.to_string()))?
        {
            converted = Cow::Owned(buffer);
        }
        let text = std::str::from_utf8(&converted).ok();
        if let (Some(encoding), Some(text)) = (self.encoding, text.filter(|text| !text.is_empty()))
        {
            if matches!(encoding, Encoding::Unknown) {
                return Err(corrupt(
                    "its working-tree-encoding is one of those that only git knows",
                ));
            }
            // Git warns of what cannot be encoded, and leaves it as it is.
            if let Some(encoded) = encoding.encode(text) {
                converted = Cow::Owned(encoded);
            }
        }
        Ok(converted)
    }
}

impl Conversion {
    /// Returns true if git writes such a file as it reads it. What needs to be seen whole it takes into memory first.
    fn is_streamed(&self) -> bool {
        let sees_all = [AttributesDigest::TextAuto, AttributesDigest::TextAutoCrlf];
        self.encoding.is_none() && !sees_all.contains(&self.eol)
    }
}

/// The same as [`expand_ident`], as git does it in a stream, which is not quite the same: it never looks back.
fn expand_ident_streamed(id: &oid, content: &[u8]) -> Vec<u8> {
    let expanded = format!("$Id: {id} $");
    let mut out = Vec::with_capacity(content.len() + expanded.len());
    let mut rest = content;
    // What git has not passed on yet where an id follows at once: it is lost with the old id.
    let mut held = None;
    while let Some(dollar) = rest.find_byte(b'$') {
        let (before, behind) = rest.split_at(dollar);
        out.extend(before);
        let held_here = held.take().filter(|_| before.is_empty());
        let len = match behind {
            [b'$', b'I', b'd', b'$', ..] => {
                out.extend(expanded.bytes());
                rest = &behind[4..];
                continue;
            }
            [b'$', b'I', b'd', b':', text @ ..] => {
                let end = text.find_byteset(b"$\n");
                end.map_or(behind.len(), |end| 4 + end + 1)
            }
            // What does not match is passed on with the byte that says so, though that may be a dollar sign.
            [b'$', b'I', b'd', 0, ..] => 5,
            [b'$', b'I', b'd', ..] => {
                held = held_here.or(Some(out.len()));
                4
            }
            [b'$', b'I', ..] => 3,
            _ => 2,
        };
        let (old, behind) = behind.split_at(len.min(behind.len()));
        let is_old = old.starts_with(b"$Id:") && old.ends_with(b"$");
        if is_old && (held_here.is_some() || !is_foreign(old)) {
            out.truncate(held_here.unwrap_or(out.len()));
            out.extend(expanded.bytes());
        } else {
            out.extend(old);
        }
        rest = behind;
    }
    out.extend(rest);
    out
}

/// Returns true for the id of another system.
fn is_foreign(old: &[u8]) -> bool {
    let is_blank = |byte: &u8| b" \t\r\n".contains(byte);
    let text = old.strip_prefix(b"$Id: ").unwrap_or_default();
    // To git it is text of C.
    let text = text.split_inclusive(|&byte| byte == 0).next();
    let mut pairs = text.unwrap_or_default().array_windows();
    pairs.any(|[byte, next]| is_blank(byte) && *next != b'$')
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
    /// Finds an encoding; `None` for those that leave UTF-8 as it is.
    pub(super) fn from_name(name: &BStr) -> Option<Self> {
        let upper = name.to_ascii_uppercase();
        let upper = upper.to_str().unwrap_or_default();
        // Git and the C library know these with a dash and without.
        let plain = match upper.strip_prefix("UTF") {
            Some(rest) => format!("UTF{}", rest.replacen('-', "", 1)),
            None => upper.to_owned(),
        };
        let wide = |unit, order, mark| Some(Self::Wide { unit, order, mark });
        match plain.as_str() {
            // What is not ASCII cannot be encoded, and stays.
            "UTF8" | "ASCII" | "US-ASCII" => None,
            // The C library writes a mark, and its machine's order.
            "UTF16" => wide(Unit::Utf16, NATIVE, true),
            "UTF32" => wide(Unit::Utf32, NATIVE, true),
            "UTF16LE" => wide(Unit::Utf16, Order::Little, false),
            "UTF16BE" => wide(Unit::Utf16, Order::Big, false),
            "UTF32LE" => wide(Unit::Utf32, Order::Little, false),
            "UTF32BE" => wide(Unit::Utf32, Order::Big, false),
            "UTF16LE-BOM" => wide(Unit::Utf16, Order::Little, true),
            "UTF16BE-BOM" => wide(Unit::Utf16, Order::Big, true),
            "ISO-8859-1" | "ISO8859-1" | "ISO88591" | "LATIN1" | "LATIN-1" => Some(Self::Latin1),
            _ => Some(Self::on_the_web(upper).unwrap_or(Self::Unknown)),
        }
    }

    fn on_the_web(upper: &str) -> Option<Self> {
        if !SAME_ON_THE_WEB.contains(&upper) {
            return None;
        }
        Some(Self::Web {
            encoding: WebEncoding::for_label(upper.as_bytes())?,
            has_gaps: upper.contains('W') || upper.starts_with("CP"),
        })
    }

    /// Encodes a text; `None` if it has a character that the encoding has not.
    fn encode(self, text: &str) -> Option<Vec<u8>> {
        // The C library leaves out tags where they have no bytes of their own.
        let is_tag = |character: &char| ('\u{e0000}'..='\u{e007f}').contains(character);
        match self {
            Self::Unknown => None,
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
                .filter(|character| !is_tag(character))
                .map(|character| u8::try_from(u32::from(character)).ok())
                .collect(),
            Self::Web { encoding, has_gaps } => {
                let is_gap = |character: char| ('\u{80}'..='\u{9f}').contains(&character);
                if has_gaps && text.chars().any(is_gap) {
                    return None;
                }
                let text: String = text.chars().filter(|it| !is_tag(it)).collect();
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
        let shown = |expanded: Vec<u8>| {
            let text = String::from_utf8(expanded).unwrap();
            text.replace(&id.to_string(), "X")
        };
        let expand = |text: &str| shown(expand_ident(&id, text.as_bytes()));
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
        let streamed = |text: &str| shown(expand_ident_streamed(&id, text.as_bytes()));
        for (text, expanded) in [
            ("$Id$", "$Id: X $"),
            ("a $Id$ b $Id$ c", "a $Id: X $ b $Id: X $ c"),
            ("$Id: old $$Id:old$", "$Id: X $$Id: X $"),
            ("$Id: foo.c,v 1.2 $", "$Id: foo.c,v 1.2 $"),
            ("$Id:a b $", "$Id: X $"),
            ("$Id: a\rb$", "$Id: a\rb$"),
            ("$Id: a\0 b$", "$Id: X $"),
            ("$Id: a\nb $Id$", "$Id: a\nb $Id: X $"),
            ("$Id: open", "$Id: open"),
            ("$$Id$ $I$Id$", "$$Id$ $I$Id$"),
            ("$Idx$Id$", "$Idx$Id: X $"),
            ("a$Idx$Idy$Id: b c $", "a$Id: X $"),
            ("$Idx $Id: b $", "$Idx $Id: X $"),
            ("$Id\0$Id$", "$Id\0$Id$"),
            ("$ $I $Id", "$ $I $Id"),
        ] {
            assert_eq!(streamed(text), expanded, "{text:?}");
        }
    }

    #[test]
    fn wide_encodings_have_their_marks() {
        let encode = |name: &str, text: &str| {
            Encoding::from_name(name.into()).and_then(|encoding| encoding.encode(text))
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
        assert_eq!(encode("US-ASCII", "a"), None);
        assert_eq!(encode("windows-1252", "\u{20ac}").unwrap(), b"\x80");
        assert_eq!(encode("windows-1252", "\u{81}"), None);
        assert_eq!(encode("ISO-8859-15", "\u{20ac}\u{e0041}").unwrap(), b"\xa4");
    }

    /// What the web takes for another encoding, and what only git can know, is not made up.
    #[test]
    fn encodings_that_only_git_knows_are_refused() {
        let id = gix::ObjectId::null(gix::hash::Kind::Sha1);
        let apply = |name: &str, text: &[u8]| {
            let conversion = Conversion {
                eol: AttributesDigest::Binary,
                ident: false,
                encoding: Encoding::from_name(name.into()),
            };
            conversion.apply(&id, text).map(Cow::into_owned)
        };
        let names = [
            "CP437",
            "UTF-7",
            "GB2312",
            "ISO-8859-9",
            "SHIFT-JIS",
            "Big5",
            "no-such",
            "UTF_16",
        ];
        for name in names {
            assert!(apply(name, b"a").is_err(), "{name}");
            // These git leaves as they are, whatever the encoding.
            for same in [b"".as_slice(), b"\xff"] {
                assert_eq!(apply(name, same).unwrap(), same, "{name}");
            }
        }
        for name in SAME_ON_THE_WEB {
            assert_eq!(apply(name, b"a").unwrap(), b"a", "{name}");
        }
    }
}
