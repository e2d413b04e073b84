//! Scheme data, as Guile's `write` prints them into derivations and lists of mirrors.
//!
//! Strings, symbols, booleans, lists and quotes, and nothing else: what begins with `#` and is no boolean is refused,
//! so that neither `#.` nor any reader extension means anything here. Reading is all that is ever done with a datum;
//! what looks like code is run by nobody but [`super::content_addressed`].

use std::fmt;

/// The longest text, in bytes. The list of all mirrors of Guix has some 15 KiB.
pub const MAX_BYTES: usize = 1 << 20;

/// The deepest nesting. The deepest that Guix writes is 8; each level costs a call here, and the stack is finite.
pub const MAX_DEPTH: usize = 64;

/// One datum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datum {
    /// `"text"`.
    String(String),
    /// `name`.
    Symbol(String),
    /// `#t` or `#f`.
    Boolean(bool),
    /// `(a b c)`; `'a` is `(quote a)`.
    List(Vec<Self>),
}

/// Why a text is no datum, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a datum that is understood here: at byte {offset}, {fault}")]
pub struct DatumError {
    /// How many bytes stand before the fault.
    pub offset: usize,
    /// What it is.
    pub fault: DatumFault,
}

/// What is wrong with a datum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatumFault {
    /// Longer than [`MAX_BYTES`].
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Deeper than [`MAX_DEPTH`].
    #[error("it is nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// Not UTF-8.
    #[error("it is not UTF-8")]
    NotText,
    /// The text ends within a datum.
    #[error("it ends too early")]
    Unfinished,
    /// Something behind the datum.
    #[error("something follows the datum")]
    Trailing,
    /// `#.` and all other reader syntax.
    #[error("a '#' begins something else than #t or #f, which is refused")]
    ReaderSyntax,
    /// A character that begins nothing we know.
    #[error("'{}' is not expected", .0.escape_debug())]
    Character(char),
    /// An escape in a string that `write` never prints.
    #[error("a string has an unknown escape")]
    Escape,
    /// A number or a dot.
    #[error("'{}' is neither a string, a symbol nor a list", .0.escape_debug())]
    Token(String),
}

impl Datum {
    /// Reads the one datum of a text.
    ///
    /// ```
    /// use fetcher::guix::datum::Datum;
    ///
    /// let datum = Datum::parse(br#"("http://h/a" "mirror://gnu/a")"#).unwrap();
    /// assert_eq!(datum.strings(), Some(vec!["http://h/a", "mirror://gnu/a"]));
    /// assert!(Datum::parse(b"#.(system \"id\")").is_err());
    /// ```
    pub fn parse(bytes: &[u8]) -> Result<Self, DatumError> {
        if bytes.len() > MAX_BYTES {
            return Err(DatumError {
                offset: MAX_BYTES,
                fault: DatumFault::TooLong,
            });
        }
        let text = std::str::from_utf8(bytes).map_err(|error| DatumError {
            offset: error.valid_up_to(),
            fault: DatumFault::NotText,
        })?;
        let mut reader = Reader { text, offset: 0 };
        let datum = reader.datum(0)?;
        reader.skip_blanks();
        match reader.peek() {
            None => Ok(datum),
            Some(_) => Err(reader.fail(DatumFault::Trailing)),
        }
    }

    /// Returns the strings of a list of strings, or the one string.
    pub fn strings(&self) -> Option<Vec<&str>> {
        match self {
            Self::String(string) => Some(vec![string]),
            Self::List(list) => list.iter().map(Self::as_string).collect(),
            _ => None,
        }
    }

    /// Returns a string's text.
    pub fn as_string(&self) -> Option<&str> {
        match self {
            Self::String(string) => Some(string),
            _ => None,
        }
    }

    /// Returns a symbol's name.
    pub fn as_symbol(&self) -> Option<&str> {
        match self {
            Self::Symbol(name) => Some(name),
            _ => None,
        }
    }

    /// Returns a list's elements.
    pub fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }
}

/// Prints it so that it can be read again, and shown: other than with `write`, what is no ASCII is escaped.
impl fmt::Display for Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(string) => {
                f.write_str("\"")?;
                for character in string.chars() {
                    match character {
                        '"' | '\\' => write!(f, "\\{character}")?,
                        ' '..='~' => write!(f, "{character}")?,
                        other => write!(f, "\\U{:06x}", u32::from(other))?,
                    }
                }
                f.write_str("\"")
            }
            Self::Symbol(name) => f.write_str(name),
            Self::Boolean(true) => f.write_str("#t"),
            Self::Boolean(false) => f.write_str("#f"),
            Self::List(list) => {
                f.write_str("(")?;
                for (position, datum) in list.iter().enumerate() {
                    let blank = if position == 0 { "" } else { " " };
                    write!(f, "{blank}{datum}")?;
                }
                f.write_str(")")
            }
        }
    }
}

/// The characters of symbols that `write` prints without further ado.
const fn is_symbol_character(character: char) -> bool {
    character.is_ascii_alphanumeric()
        || matches!(
            character,
            '!' | '$'
                | '%'
                | '&'
                | '*'
                | '/'
                | ':'
                | '<'
                | '='
                | '>'
                | '?'
                | '^'
                | '_'
                | '~'
                | '+'
                | '-'
                | '.'
                | '@'
        )
}

struct Reader<'a> {
    text: &'a str,
    offset: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.offset..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.offset += next.len_utf8();
        Some(next)
    }

    fn fail(&self, fault: DatumFault) -> DatumError {
        DatumError {
            offset: self.offset,
            fault,
        }
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        let blanks = rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
        self.offset += blanks;
    }

    fn datum(&mut self, depth: usize) -> Result<Datum, DatumError> {
        if depth > MAX_DEPTH {
            return Err(self.fail(DatumFault::TooDeep));
        }
        self.skip_blanks();
        match self.peek() {
            None => Err(self.fail(DatumFault::Unfinished)),
            Some('(') => {
                self.next();
                let mut list = Vec::new();
                loop {
                    self.skip_blanks();
                    if self.peek() == Some(')') {
                        self.next();
                        return Ok(Datum::List(list));
                    }
                    list.push(self.datum(depth + 1)?);
                }
            }
            Some('\'') => {
                self.next();
                let quoted = self.datum(depth + 1)?;
                Ok(Datum::List(vec![Datum::Symbol("quote".to_owned()), quoted]))
            }
            Some('"') => self.string(),
            Some('#') => {
                let rest = &self.rest()[1..];
                let token = rest
                    .find(|c| !is_symbol_character(c))
                    .map_or(rest, |end| &rest[..end]);
                let value = match token {
                    "t" | "true" => true,
                    "f" | "false" => false,
                    _ => return Err(self.fail(DatumFault::ReaderSyntax)),
                };
                // Behind it only what may end a token: "#t#.x" is no boolean.
                match rest[token.len()..].chars().next() {
                    None | Some(' ' | '\t' | '\n' | '\r' | '(' | ')') => {}
                    Some(_) => return Err(self.fail(DatumFault::ReaderSyntax)),
                }
                self.offset += 1 + token.len();
                Ok(Datum::Boolean(value))
            }
            Some(first) if is_symbol_character(first) => {
                let rest = self.rest();
                let name = rest
                    .find(|c| !is_symbol_character(c))
                    .map_or(rest, |end| &rest[..end]);
                let mut letters = name.trim_start_matches(['+', '-', '.']).chars();
                let is_symbol = match letters.next() {
                    None => matches!(name, "+" | "-" | "..."),
                    Some(letter) => !letter.is_ascii_digit(),
                };
                if !is_symbol {
                    return Err(self.fail(DatumFault::Token(name.to_owned())));
                }
                let name = name.to_owned();
                self.offset += name.len();
                Ok(Datum::Symbol(name))
            }
            Some(other) => Err(self.fail(DatumFault::Character(other))),
        }
    }

    fn string(&mut self) -> Result<Datum, DatumError> {
        self.next();
        let mut string = String::new();
        loop {
            match self.next() {
                None => return Err(self.fail(DatumFault::Unfinished)),
                Some('"') => return Ok(Datum::String(string)),
                Some('\\') => string.push(self.escape()?),
                Some(plain) => string.push(plain),
            }
        }
    }

    fn escape(&mut self) -> Result<char, DatumError> {
        let Some(kind) = self.next() else {
            return Err(self.fail(DatumFault::Unfinished));
        };
        let digits = match kind {
            '"' | '\\' => return Ok(kind),
            'n' => return Ok('\n'),
            't' => return Ok('\t'),
            'r' => return Ok('\r'),
            'a' => return Ok('\x07'),
            'b' => return Ok('\x08'),
            'v' => return Ok('\x0b'),
            'f' => return Ok('\x0c'),
            '0' => return Ok('\0'),
            'x' => 2,
            'u' => 4,
            'U' => 6,
            _ => return Err(self.fail(DatumFault::Escape)),
        };
        let character = self
            .rest()
            .get(..digits)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(char::from_u32);
        let character = character.ok_or_else(|| self.fail(DatumFault::Escape))?;
        self.offset += digits;
        Ok(character)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Datum, DatumFault> {
        Datum::parse(text.as_bytes()).map_err(|error| error.fault)
    }

    fn string(text: &str) -> Datum {
        Datum::String(text.to_owned())
    }

    fn symbol(text: &str) -> Datum {
        Datum::Symbol(text.to_owned())
    }

    #[test]
    fn reads_what_guile_writes() {
        for (text, expected) in [
            (r#""http://h/a""#, string("http://h/a")),
            (
                r#""https://example.org/a%20b?x=\"q\"&y=\\z""#,
                string("https://example.org/a%20b?x=\"q\"&y=\\z"),
            ),
            (
                r#""\a\n\t\x7f\u00e9\U01f600""#,
                string("\x07\n\t\x7f\u{e9}\u{1f600}"),
            ),
            ("\"\u{e9}\"", string("\u{e9}")),
            ("#t", Datum::Boolean(true)),
            (" #f\n", Datum::Boolean(false)),
            ("()", Datum::List(Vec::new())),
            ("(swh nar)", Datum::List(vec![symbol("swh"), symbol("nar")])),
            (
                "'(a ->b)",
                Datum::List(vec![
                    symbol("quote"),
                    Datum::List(vec![symbol("a"), symbol("->b")]),
                ]),
            ),
            (
                "((gnu \"a\"\n\"b\")(x))",
                Datum::List(vec![
                    Datum::List(vec![symbol("gnu"), string("a"), string("b")]),
                    Datum::List(vec![symbol("x")]),
                ]),
            ),
        ] {
            assert_eq!(read(text).as_ref(), Ok(&expected), "{text}");
            assert_eq!(read(&expected.to_string()), Ok(expected));
        }
    }

    /// Printed by `write` of Guile 3.0.8, but that the letters it prints as they are stand here as escapes of Rust.
    #[test]
    fn reads_every_escape_of_guile() {
        let written =
            "\"a\\a\\n\\t\\r\\x7f\u{e9}\u{1f600}\\x00\\b\\v\\f\\x85\\u200b\u{20ac},\\\"\\\\\\x1b\"";
        let expected =
            "a\x07\n\t\r\x7f\u{e9}\u{1f600}\0\x08\x0b\x0c\u{85}\u{200b}\u{20ac},\"\\\x1b";
        assert_eq!(read(written), Ok(string(expected)));
    }

    #[test]
    fn refuses_everything_else() {
        for (text, expected) in [
            ("", DatumFault::Unfinished),
            ("(a", DatumFault::Unfinished),
            ("\"a", DatumFault::Unfinished),
            ("\"a\\", DatumFault::Unfinished),
            ("'", DatumFault::Unfinished),
            ("a b", DatumFault::Trailing),
            ("()#t", DatumFault::Trailing),
            ("#.(system \"id\")", DatumFault::ReaderSyntax),
            ("(#.a)", DatumFault::ReaderSyntax),
            ("#t#.a", DatumFault::ReaderSyntax),
            ("#tx", DatumFault::ReaderSyntax),
            ("#,(a)", DatumFault::ReaderSyntax),
            ("#`a", DatumFault::ReaderSyntax),
            ("#(1)", DatumFault::ReaderSyntax),
            ("#\\a", DatumFault::ReaderSyntax),
            ("#:key", DatumFault::ReaderSyntax),
            ("#{a}#", DatumFault::ReaderSyntax),
            ("#!eof", DatumFault::ReaderSyntax),
            ("#|a|# a", DatumFault::ReaderSyntax),
            ("; a\na", DatumFault::Character(';')),
            ("`a", DatumFault::Character('`')),
            (",a", DatumFault::Character(',')),
            ("[a]", DatumFault::Character('[')),
            (")", DatumFault::Character(')')),
            ("|a b|", DatumFault::Character('|')),
            ("\u{e9}", DatumFault::Character('\u{e9}')),
            ("(a . b)", DatumFault::Token(".".to_owned())),
            ("12", DatumFault::Token("12".to_owned())),
            ("-1.5", DatumFault::Token("-1.5".to_owned())),
            ("\"\\q\"", DatumFault::Escape),
            ("\"\\xg0\"", DatumFault::Escape),
            ("\"\\x+1\"", DatumFault::Escape),
            ("\"\\ud800\"", DatumFault::Escape),
            ("\"\\x4\u{e9}\"", DatumFault::Escape),
        ] {
            assert_eq!(read(text), Err(expected), "{text}");
        }
        let error = Datum::parse(b"(\"\xff\")").unwrap_err();
        assert_eq!((error.offset, error.fault), (2, DatumFault::NotText));
    }

    #[test]
    fn limits_hold() {
        let nested = |levels: usize| read(&format!("{}{}", "(".repeat(levels), ")".repeat(levels)));
        assert!(nested(MAX_DEPTH + 1).is_ok());
        assert_eq!(nested(MAX_DEPTH + 2), Err(DatumFault::TooDeep));
        assert_eq!(nested(MAX_BYTES / 2), Err(DatumFault::TooDeep));
        assert_eq!(read(&"'".repeat(MAX_BYTES)), Err(DatumFault::TooDeep));
        assert_eq!(nested(MAX_BYTES), Err(DatumFault::TooLong));
    }

    fn any_datum() -> impl Strategy<Value = Datum> {
        let leaf = prop_oneof![
            any::<String>().prop_map(Datum::String),
            "[a-z][a-z0-9->!?]{0,8}".prop_map(Datum::Symbol),
            any::<bool>().prop_map(Datum::Boolean),
        ];
        leaf.prop_recursive(6, 40, 5, |inner| {
            proptest::collection::vec(inner, 0..5).prop_map(Datum::List)
        })
    }

    proptest! {
        #[test]
        fn any_datum_goes_both_ways(datum in any_datum()) {
            prop_assert_eq!(Datum::parse(datum.to_string().as_bytes()), Ok(datum));
        }

        #[test]
        fn nothing_panics(text in "[()'\"#\\\\ a-zU0-9.\u{e9}]{0,80}") {
            drop(Datum::parse(text.as_bytes()));
        }
    }
}
