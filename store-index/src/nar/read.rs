//! Reads a NAR as a stream and hands what is in it to a visitor.
//!
//! Only the one spelling that Nix writes is taken: names strictly sorted, padding of zeroes, nothing behind the end. So
//! what is read serialises to the same bytes again.

use std::io::{self, Read};

use crate::tree::{MAX_DEPTH, MAX_ENTRIES, Visitor};

use super::ALIGNMENT;

/// The longest name of an entry, in bytes: no file system here takes a longer one.
pub const MAX_NAME_LEN: usize = 255;

/// The longest target of a symbolic link, in bytes: Linux takes none of `PATH_MAX`, its end counted.
pub const MAX_TARGET_LEN: usize = 4095;

/// What every NAR begins with: the length of the magic word, and the word.
pub const MAGIC: &[u8] = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0";

/// How much of a file is handed on at a time, in bytes.
const BUFFER_LEN: usize = 64 * 1024;

/// Why a NAR could not be read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NarError {
    /// Reading failed, or the bytes end too early.
    #[error("at byte {at}: {source}")]
    Read {
        /// How many bytes had been read.
        at: u64,
        /// Why.
        source: io::Error,
    },
    /// The visitor failed.
    #[error("{0}")]
    Visit(io::Error),
    /// Something else stands there than a NAR has there.
    #[error("at byte {at}: {wanted} was expected")]
    Syntax {
        /// How many bytes had been read.
        at: u64,
        /// What belongs there.
        wanted: &'static str,
    },
    /// A name that no entry may have.
    #[error("'{}' is no name of an entry", .0.escape_ascii())]
    Name(Vec<u8>),
    /// The names of a directory are not sorted, or one is there twice.
    #[error("'{}' is not in order", .0.escape_ascii())]
    Order(Vec<u8>),
    /// More than [`MAX_DEPTH`] directories deep.
    #[error("it is more than {MAX_DEPTH} directories deep")]
    TooDeep,
    /// More than [`MAX_ENTRIES`] entries.
    #[error("it has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
}

/// Reads one NAR and nothing behind it.
pub fn read(reader: &mut dyn Read, visitor: &mut dyn Visitor) -> Result<(), NarError> {
    let mut parser = Parser {
        reader,
        visitor,
        at: 0,
        word: Vec::new(),
        entries: 0,
    };
    parser.expect(b"nix-archive-1", "the word nix-archive-1")?;
    parser.node(0)?;
    match parser.some(&mut [0])? {
        0 => Ok(()),
        _ => Err(parser.syntax("the end")),
    }
}

struct Parser<'a> {
    reader: &'a mut dyn Read,
    visitor: &'a mut dyn Visitor,
    at: u64,
    /// The word read last.
    word: Vec<u8>,
    entries: u64,
}

impl Parser<'_> {
    fn syntax(&self, wanted: &'static str) -> NarError {
        NarError::Syntax {
            at: self.at,
            wanted,
        }
    }

    /// Reads what comes next; 0 at the end.
    fn some(&mut self, buffer: &mut [u8]) -> Result<usize, NarError> {
        loop {
            match self.reader.read(buffer) {
                Ok(count) => {
                    self.at += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(NarError::Read {
                        at: self.at,
                        source,
                    });
                }
            }
        }
    }

    fn exact(&mut self, mut buffer: &mut [u8]) -> Result<(), NarError> {
        while !buffer.is_empty() {
            let count = self.some(buffer)?;
            if count == 0 {
                return Err(NarError::Read {
                    at: self.at,
                    source: io::ErrorKind::UnexpectedEof.into(),
                });
            }
            buffer = &mut buffer[count..];
        }
        Ok(())
    }

    fn len(&mut self) -> Result<u64, NarError> {
        let mut len = [0; 8];
        self.exact(&mut len)?;
        Ok(u64::from_le_bytes(len))
    }

    fn padding(&mut self, len: u64) -> Result<(), NarError> {
        let mut padding = [0; ALIGNMENT as usize];
        let padding = &mut padding[..super::padding(len).len()];
        self.exact(padding)?;
        if padding.iter().any(|&byte| byte != 0) {
            return Err(self.syntax("padding of zeroes"));
        }
        Ok(())
    }

    /// Reads a word of at most `max` bytes.
    fn word(&mut self, max: usize, wanted: &'static str) -> Result<(), NarError> {
        let len = self.len()?;
        if len > max as u64 {
            return Err(self.syntax(wanted));
        }
        let mut word = std::mem::take(&mut self.word);
        word.resize(len as usize, 0);
        self.exact(&mut word)?;
        self.word = word;
        self.padding(len)
    }

    fn expect(&mut self, expected: &[u8], wanted: &'static str) -> Result<(), NarError> {
        self.word(expected.len(), wanted)?;
        if self.word != expected {
            return Err(self.syntax(wanted));
        }
        Ok(())
    }

    fn visit(
        &mut self,
        step: impl FnOnce(&mut dyn Visitor) -> io::Result<()>,
    ) -> Result<(), NarError> {
        step(self.visitor).map_err(NarError::Visit)
    }

    fn node(&mut self, depth: usize) -> Result<(), NarError> {
        self.expect(b"(", "the word (")?;
        self.expect(b"type", "the word type")?;
        self.word(b"directory".len(), "one of regular, symlink and directory")?;
        match self.word.as_slice() {
            b"regular" => self.file(),
            b"symlink" => {
                self.expect(b"target", "the word target")?;
                self.word(MAX_TARGET_LEN, "a target of a usual length")?;
                if self.word.is_empty() || self.word.contains(&0) {
                    return Err(self.syntax("a target of a symbolic link"));
                }
                let target = std::mem::take(&mut self.word);
                self.visit(|visitor| visitor.symlink(&target))?;
                self.expect(b")", "the word )")
            }
            b"directory" if depth >= MAX_DEPTH => Err(NarError::TooDeep),
            b"directory" => self.directory(depth),
            _ => Err(self.syntax("one of regular, symlink and directory")),
        }
    }

    fn file(&mut self) -> Result<(), NarError> {
        const WANTED: &str = "one of executable and contents";
        self.word(b"executable".len(), WANTED)?;
        let executable = self.word == b"executable";
        if executable {
            self.expect(b"", "an empty word")?;
            self.word(b"contents".len(), "the word contents")?;
        }
        if self.word != b"contents" {
            return Err(self.syntax(WANTED));
        }
        let size = self.len()?;
        self.visit(|visitor| visitor.file_start(executable, size))?;
        let mut buffer = vec![0; BUFFER_LEN];
        let mut left = size;
        while left > 0 {
            let part = left.min(BUFFER_LEN as u64) as usize;
            self.exact(&mut buffer[..part])?;
            self.visit(|visitor| visitor.file_bytes(&buffer[..part]))?;
            left -= part as u64;
        }
        self.visit(|visitor| visitor.file_end())?;
        self.padding(size)?;
        self.expect(b")", "the word )")
    }

    fn directory(&mut self, depth: usize) -> Result<(), NarError> {
        self.visit(|visitor| visitor.directory_start())?;
        let mut previous: Option<Vec<u8>> = None;
        loop {
            self.word(b"entry".len(), "one of entry and )")?;
            match self.word.as_slice() {
                b")" => break,
                b"entry" => {}
                _ => return Err(self.syntax("one of entry and )")),
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(NarError::TooManyEntries);
            }
            self.expect(b"(", "the word (")?;
            self.expect(b"name", "the word name")?;
            self.word(MAX_NAME_LEN, "a name of a usual length")?;
            let name = std::mem::take(&mut self.word);
            let is_name = !matches!(name.as_slice(), b"" | b"." | b"..");
            if !is_name || name.iter().any(|&byte| byte == b'/' || byte == 0) {
                return Err(NarError::Name(name));
            }
            if previous.is_some_and(|previous| previous >= name) {
                return Err(NarError::Order(name));
            }
            self.expect(b"node", "the word node")?;
            self.visit(|visitor| visitor.entry_start(&name))?;
            self.node(depth + 1)?;
            self.visit(|visitor| visitor.entry_end())?;
            self.expect(b")", "the word )")?;
            previous = Some(name);
        }
        self.visit(|visitor| visitor.directory_end())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Encoder, push, push_all};
    use super::*;

    /// Reads a NAR and writes it again.
    fn round(bytes: &[u8]) -> Result<Vec<u8>, NarError> {
        let mut encoder = Encoder::new(Vec::new()).unwrap();
        read(&mut &*bytes, &mut encoder)?;
        Ok(encoder.into_inner())
    }

    fn nar(words: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        push(&mut out, b"nix-archive-1");
        push_all(&mut out, words);
        out
    }

    fn directory(names: &[&[u8]]) -> Vec<u8> {
        let mut words: Vec<&[u8]> = vec![b"(", b"type", b"directory"];
        for name in names {
            words.extend([&b"entry"[..], b"(", b"name", name, b"node"]);
            words.extend([&b"("[..], b"type", b"symlink", b"target", b"/x", b")", b")"]);
        }
        words.push(b")");
        nar(&words)
    }

    #[test]
    fn only_the_one_spelling_is_read() {
        let good = directory(&[b"a", b"a b\n", b"b"]);
        assert_eq!(round(&good).unwrap(), good);
        assert!(good.starts_with(MAGIC));
        for names in [&[&b"b"[..], b"a"][..], &[b"a", b"a"]] {
            let error = round(&directory(names)).unwrap_err();
            assert!(matches!(error, NarError::Order(_)), "{error}");
        }
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            let error = round(&directory(&[name])).unwrap_err();
            assert!(matches!(error, NarError::Name(_)), "{error}");
        }
        assert!(round(&directory(&[&[b'x'; MAX_NAME_LEN]])).is_ok());
        assert!(round(&directory(&[&[b'x'; MAX_NAME_LEN + 1]])).is_err());
        let mut longer = good.clone();
        longer.push(0);
        assert!(matches!(round(&longer), Err(NarError::Syntax { .. })));
        // The padding behind the magic word.
        let mut padded = good;
        padded[MAGIC.len() - 1] = 1;
        assert!(matches!(round(&padded), Err(NarError::Syntax { .. })));
        let marked: &[&[u8]] = &[b"(", b"type", b"regular", b"executable", b"x"];
        assert!(round(&nar(marked)).is_err());
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let nested = |depth: usize| {
            let mut words: Vec<&[u8]> = Vec::new();
            for _ in 0..depth {
                words.extend([&b"("[..], b"type", b"directory", b"entry", b"("]);
                words.extend([&b"name"[..], b"d", b"node"]);
            }
            words.extend([&b"("[..], b"type", b"directory", b")"]);
            for _ in 0..depth {
                words.extend([&b")"[..], b")"]);
            }
            nar(&words)
        };
        assert!(round(&nested(MAX_DEPTH - 1)).is_ok());
        assert!(matches!(round(&nested(MAX_DEPTH)), Err(NarError::TooDeep)));
        // A length that memory does not have.
        let mut huge = nar(&[b"(", b"type"]);
        huge.extend(u64::MAX.to_le_bytes());
        assert!(matches!(round(&huge), Err(NarError::Syntax { .. })));
    }

    proptest! {
        #[test]
        fn a_damaged_nar_is_refused_or_means_what_it_says(
            cut in 0_usize..500,
            flips in proptest::collection::vec((0_usize..500, any::<u8>()), 0..4),
        ) {
            let mut encoder = Encoder::new(Vec::new()).unwrap();
            encoder.directory_start().unwrap();
            encoder.entry_start(b"file").unwrap();
            encoder.file_start(true, 11).unwrap();
            encoder.file_bytes(b"hello world").unwrap();
            encoder.file_end().unwrap();
            encoder.entry_end().unwrap();
            encoder.entry_start(b"link").unwrap();
            encoder.symlink(b"file").unwrap();
            encoder.entry_end().unwrap();
            encoder.directory_end().unwrap();
            let whole = encoder.into_inner();
            prop_assert_eq!(&round(&whole).unwrap(), &whole);
            let mut damaged = whole.clone();
            for (at, byte) in flips {
                let at = at % damaged.len();
                damaged[at] = byte;
            }
            if let Ok(again) = round(&damaged) {
                prop_assert_eq!(again, damaged);
            }
            prop_assert!(round(&whole[..cut % whole.len()]).is_err());
        }
    }
}
