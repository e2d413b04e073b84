//! Derivations as Nix and Guix write them into `.drv` files.
//!
//! The text is one term, `Derive(outputs,inputs,sources,system,builder,arguments,environment)`, of lists, tuples and
//! strings, nested to a fixed depth. Whoever may add to the store may write one, so nothing in it is trusted: it is
//! read under limits, and the digest it names is the only thing that decides about content.

use std::collections::{BTreeMap, BTreeSet};

use store_index::address::{ContentAddress, Method};
use store_index::digest::{Algorithm, Digest};

/// The longest derivation, in bytes. Scripts and patches in the environment make some of a megabyte.
pub const MAX_BYTES: usize = 16 << 20;

/// The most elements in one list. The largest systems have some ten thousand inputs.
pub const MAX_ELEMENTS: usize = 100_000;

/// The most bytes of what was found that an error shows.
const MAX_SHOWN: usize = 24;

/// What every derivation begins with.
const HEAD: &str = "Derive(";

/// A derivation: what is built, and from what. Strings are bytes, but for store paths and the names of outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derivation {
    /// What is made, in the order of the file.
    pub outputs: Vec<Output>,
    /// The derivations that are needed, with the names of the outputs needed of each.
    pub input_derivations: BTreeMap<String, Vec<String>>,
    /// The store items that are needed and are built by nobody.
    pub input_sources: Vec<String>,
    /// The kind of machine, such as `x86_64-linux`.
    pub system: Vec<u8>,
    /// The program that builds, or a builtin one, such as `builtin:download`.
    pub builder: Vec<u8>,
    /// Its arguments.
    pub args: Vec<Vec<u8>>,
    /// Its environment.
    pub env: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// One output of a derivation, as it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its name, `out` of all that have a fixed hash.
    pub name: String,
    /// Its store path; empty if that is not known before the build.
    pub path: String,
    /// Method and algorithm, such as `sha256` or `r:sha512`; empty if the hash is not known before the build.
    pub method: String,
    /// The digest in hexadecimal, or empty.
    pub hash: String,
}

/// An output whose content is known before it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedOutput<'a> {
    /// Its store path.
    pub path: &'a str,
    /// What it is to contain.
    pub address: ContentAddress,
}

/// Why an output's hash cannot be used. The texts are escaped: they may hold anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// An algorithm or a method that we do not know.
    #[error("the output's hash is of the kind '{}', which is not known here (sha256, r:sha256, … are)", .0.escape_debug())]
    UnknownKind(String),
    /// No digest of that algorithm.
    #[error("'{}' is no {algorithm} digest in hexadecimal", .text.escape_debug())]
    BadDigest {
        /// What it should be a digest of.
        algorithm: Algorithm,
        /// What stands there.
        text: String,
    },
}

/// Why a text is no derivation, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a derivation: at byte {offset}, {fault}")]
pub struct DerivationError {
    /// How many bytes stand before the fault.
    pub offset: usize,
    /// What it is.
    pub fault: Fault,
}

/// What is wrong with a derivation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Something else was to stand there.
    #[error("{wanted} was expected, and there is {found}")]
    Unexpected {
        /// What was expected.
        wanted: &'static str,
        /// What stands there, escaped and cut.
        found: String,
    },
    /// A backslash before a character that is never escaped.
    #[error("'\\{}' is no escape (\\\" \\\\ \\n \\r \\t are)", .0.escape_ascii())]
    Escape(u8),
    /// A path or a name of an output that is no text.
    #[error("a store path or an output's name is not UTF-8")]
    NotText,
    /// The same key twice.
    #[error("'{0}' stands there a second time")]
    Duplicate(String),
    /// Longer than [`MAX_BYTES`].
    #[error("the derivation is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// A list longer than [`MAX_ELEMENTS`].
    #[error("a list has more than {MAX_ELEMENTS} elements")]
    TooMany,
}

impl Derivation {
    /// Reads a derivation.
    ///
    /// ```
    /// use fetcher::derivation::Derivation;
    ///
    /// let text = br#"Derive([("out","/gnu/store/x-a","sha256","00")],[],[],"x86_64-linux","builtin:download",[],[("url","\"http://h/a\"")])"#;
    /// let derivation = Derivation::parse(text).unwrap();
    /// assert_eq!(derivation.builder, b"builtin:download");
    /// assert_eq!(derivation.env[&b"url"[..]], b"\"http://h/a\"");
    /// ```
    pub fn parse(bytes: &[u8]) -> Result<Self, DerivationError> {
        let mut reader = Reader { bytes, offset: 0 };
        if bytes.len() > MAX_BYTES {
            return Err(DerivationError {
                offset: MAX_BYTES,
                fault: Fault::TooLong,
            });
        }
        reader.expect(HEAD)?;
        let (mut outputs, mut names) = (Vec::new(), BTreeSet::new());
        reader.list(|reader| {
            let start = reader.offset;
            reader.expect("(")?;
            let name = reader.text()?;
            reader.expect(",")?;
            let path = reader.text()?;
            reader.expect(",")?;
            let method = reader.text()?;
            reader.expect(",")?;
            let hash = reader.text()?;
            reader.expect(")")?;
            if !names.insert(name.clone()) {
                return Err(duplicate(start, name.as_bytes()));
            }
            outputs.push(Output {
                name,
                path,
                method,
                hash,
            });
            Ok(())
        })?;
        reader.expect(",")?;
        let mut input_derivations = BTreeMap::new();
        reader.list(|reader| {
            let start = reader.offset;
            reader.expect("(")?;
            let path = reader.text()?;
            reader.expect(",")?;
            let mut names = Vec::new();
            reader.list(|reader| {
                names.push(reader.text()?);
                Ok(())
            })?;
            reader.expect(")")?;
            if input_derivations.contains_key(&path) {
                return Err(duplicate(start, path.as_bytes()));
            }
            input_derivations.insert(path, names);
            Ok(())
        })?;
        reader.expect(",")?;
        let mut input_sources = Vec::new();
        reader.list(|reader| {
            input_sources.push(reader.text()?);
            Ok(())
        })?;
        reader.expect(",")?;
        let system = reader.string()?;
        reader.expect(",")?;
        let builder = reader.string()?;
        reader.expect(",")?;
        let mut args = Vec::new();
        reader.list(|reader| {
            args.push(reader.string()?);
            Ok(())
        })?;
        reader.expect(",")?;
        let mut env = BTreeMap::new();
        reader.list(|reader| {
            let start = reader.offset;
            reader.expect("(")?;
            let key = reader.string()?;
            reader.expect(",")?;
            let value = reader.string()?;
            reader.expect(")")?;
            // The daemons and the clients disagree on which of two counts; neither writes two.
            if env.contains_key(&key) {
                return Err(duplicate(start, &key));
            }
            env.insert(key, value);
            Ok(())
        })?;
        reader.expect(")")?;
        if reader.offset != bytes.len() {
            return Err(reader.unexpected("the end"));
        }
        Ok(Self {
            outputs,
            input_derivations,
            input_sources,
            system,
            builder,
            args,
            env,
        })
    }

    /// Returns a variable of the environment.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        self.env.get(name.as_bytes()).map(Vec::as_slice)
    }

    /// Returns the output whose hash is known, which such a derivation has alone and under the name `out`. `None` for
    /// all other derivations: there is nothing that could be looked up.
    pub fn fixed_output(&self) -> Option<Result<FixedOutput<'_>, OutputError>> {
        match self.outputs.as_slice() {
            [output] if output.name == "out" && output.has_hash() => {
                Some(output.address().map(|address| FixedOutput {
                    path: &output.path,
                    address,
                }))
            }
            _ => None,
        }
    }
}

impl Output {
    /// Returns true if a digest stands there: not for outputs that are named after what was built, nor for impure ones.
    fn has_hash(&self) -> bool {
        !self.method.is_empty() && !self.hash.is_empty() && self.hash != "impure"
    }

    fn address(&self) -> Result<ContentAddress, OutputError> {
        let unknown = || OutputError::UnknownKind(self.method.clone());
        let (method, algorithm) = match self.method.split_once(':') {
            None => (Method::Flat, self.method.as_str()),
            Some(("r", algorithm)) => (Method::Nar, algorithm),
            Some(("git", algorithm)) => (Method::Git, algorithm),
            Some(_) => return Err(unknown()),
        };
        let algorithm = Algorithm::from_name(algorithm).ok_or_else(unknown)?;
        let digest = hex::decode(&self.hash)
            .ok()
            .and_then(|bytes| Digest::new(algorithm, &bytes))
            .ok_or_else(|| OutputError::BadDigest {
                algorithm,
                text: self.hash.clone(),
            })?;
        ContentAddress::new(method, digest).ok_or_else(unknown)
    }
}

fn duplicate(offset: usize, key: &[u8]) -> DerivationError {
    DerivationError {
        offset,
        fault: Fault::Duplicate(key.escape_ascii().to_string()),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.offset..]
    }

    fn fail(&self, fault: Fault) -> DerivationError {
        DerivationError {
            offset: self.offset,
            fault,
        }
    }

    fn unexpected(&self, wanted: &'static str) -> DerivationError {
        let rest = self.rest();
        let found = match rest.get(..rest.len().min(MAX_SHOWN)) {
            None | Some([]) => "the end".to_owned(),
            Some(shown) => format!("'{}'", shown.escape_ascii()),
        };
        self.fail(Fault::Unexpected { wanted, found })
    }

    fn expect(&mut self, wanted: &'static str) -> Result<(), DerivationError> {
        if !self.rest().starts_with(wanted.as_bytes()) {
            return Err(self.unexpected(wanted));
        }
        self.offset += wanted.len();
        Ok(())
    }

    /// Reads `[a,b,c]`.
    fn list(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), DerivationError>,
    ) -> Result<(), DerivationError> {
        self.expect("[")?;
        if self.rest().first() == Some(&b']') {
            self.offset += 1;
            return Ok(());
        }
        for _ in 0..MAX_ELEMENTS {
            element(self)?;
            match self.rest().first() {
                Some(b',') => self.offset += 1,
                Some(b']') => {
                    self.offset += 1;
                    return Ok(());
                }
                _ => return Err(self.unexpected("',' or ']'")),
            }
        }
        Err(self.fail(Fault::TooMany))
    }

    fn string(&mut self) -> Result<Vec<u8>, DerivationError> {
        if self.rest().first() != Some(&b'"') {
            return Err(self.unexpected("a string"));
        }
        self.offset += 1;
        let mut string = Vec::new();
        loop {
            let rest = self.rest();
            let plain = rest
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\'))
                .unwrap_or(rest.len());
            string.extend_from_slice(&rest[..plain]);
            let special = rest.get(plain..).and_then(<[u8]>::first).copied();
            let escaped = rest.get(plain + 1).copied();
            self.offset += plain;
            match (special, escaped) {
                (Some(b'"'), _) => {
                    self.offset += 1;
                    return Ok(string);
                }
                (Some(_), Some(escaped)) => {
                    string.push(match escaped {
                        b'"' | b'\\' => escaped,
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        other => return Err(self.fail(Fault::Escape(other))),
                    });
                    self.offset += 2;
                }
                (Some(_), None) | (None, _) => {
                    self.offset = self.bytes.len();
                    return Err(self.unexpected("the end of a string"));
                }
            }
        }
    }

    fn text(&mut self) -> Result<String, DerivationError> {
        let offset = self.offset;
        String::from_utf8(self.string()?).map_err(|_| DerivationError {
            offset,
            fault: Fault::NotText,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use store_index::store_path::{FixedOutput as ComputedPath, ItemName, split_base_name};

    use super::*;

    /// Prints a derivation as the daemons do.
    fn print(derivation: &Derivation) -> Vec<u8> {
        fn string(bytes: &[u8]) -> Vec<u8> {
            let mut text = vec![b'"'];
            for &byte in bytes {
                match byte {
                    b'"' | b'\\' => text.extend([b'\\', byte]),
                    b'\n' => text.extend(b"\\n"),
                    b'\r' => text.extend(b"\\r"),
                    b'\t' => text.extend(b"\\t"),
                    other => text.push(other),
                }
            }
            text.push(b'"');
            text
        }
        fn join(open: &str, close: &str, parts: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
            let parts: Vec<_> = parts.into_iter().collect();
            [open.as_bytes(), &parts.join(&b','), close.as_bytes()].concat()
        }
        let tuple = |parts: Vec<Vec<u8>>| join("(", ")", parts);
        let strings = |list: &[String]| join("[", "]", list.iter().map(|s| string(s.as_bytes())));
        join(
            HEAD,
            ")",
            [
                join(
                    "[",
                    "]",
                    derivation.outputs.iter().map(|output| {
                        let parts = [&output.name, &output.path, &output.method, &output.hash];
                        tuple(parts.map(|part| string(part.as_bytes())).to_vec())
                    }),
                ),
                join(
                    "[",
                    "]",
                    derivation
                        .input_derivations
                        .iter()
                        .map(|(path, names)| tuple(vec![string(path.as_bytes()), strings(names)])),
                ),
                strings(&derivation.input_sources),
                string(&derivation.system),
                string(&derivation.builder),
                join("[", "]", derivation.args.iter().map(|arg| string(arg))),
                join(
                    "[",
                    "]",
                    derivation
                        .env
                        .iter()
                        .map(|(key, value)| tuple(vec![string(key), string(value)])),
                ),
            ],
        )
    }

    fn real(name: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/drvs");
        fs_err::read(folder.join(name)).unwrap()
    }

    /// Every real derivation reads, prints the same bytes again, and its fixed output's path is the one that follows
    /// from its hash and name.
    #[test]
    fn reads_real_derivations() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/drvs");
        let mut fixed = 0;
        let mut read = 0;
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "drv") {
                continue;
            }
            let bytes = fs_err::read(&path).unwrap();
            let derivation = Derivation::parse(&bytes).unwrap();
            assert_eq!(print(&derivation), bytes, "{}", path.display());
            read += 1;
            if let Some(output) = derivation.fixed_output() {
                let output = output.unwrap();
                let (store, base_name) = output.path.rsplit_once('/').unwrap();
                let (_, name) = split_base_name(base_name).unwrap();
                let computed = ComputedPath::new(store, &output.address)
                    .base_name(&ItemName::new(name).unwrap());
                assert_eq!(computed, base_name, "{}", path.display());
                fixed += 1;
            }
        }
        assert_eq!((read, fixed), (18, 16));
    }

    #[test]
    fn tells_the_parts_apart() {
        let derivation = Derivation::parse(&real("nix-fixed-with-inputs.drv")).unwrap();
        let (input, names) = derivation.input_derivations.iter().next().unwrap();
        assert!(input.ends_with("-tool.drv"), "{input}");
        assert_eq!(names, &["dev", "out"]);
        assert_eq!(derivation.args, [b"builder"]);
        assert_eq!(
            derivation.variable("script"),
            Some("line one\nline \"two\"\r\n\ttabs and \\ backslashes, UTF-8: \u{e4}\n".as_bytes())
        );
        let output = derivation.fixed_output().unwrap().unwrap();
        assert_eq!(output.address.method(), Method::Flat);

        let derivation = Derivation::parse(&real("git-sha512.drv")).unwrap();
        let output = derivation.fixed_output().unwrap().unwrap();
        assert_eq!(output.address.method(), Method::Nar);
        assert_eq!(output.address.algorithm(), Algorithm::Sha512);

        let derivation = Derivation::parse(&real("flat-url-list.drv")).unwrap();
        assert_eq!(derivation.input_sources.len(), 3);
        for unknown_before in ["nix-floating.drv", "nix-three-outputs.drv"] {
            let derivation = Derivation::parse(&real(unknown_before)).unwrap();
            assert_eq!(derivation.fixed_output(), None, "{unknown_before}");
        }
    }

    #[test]
    fn hashes_that_are_not_known_are_named() {
        let with = |method: &str, hash: &str| {
            let text = format!(
                r#"Derive([("out","/gnu/store/x-a","{method}","{hash}")],[],[],"","",[],[])"#
            );
            let derivation = Derivation::parse(text.as_bytes()).unwrap();
            derivation
                .fixed_output()
                .map(|output| output.map(|_| ()).map_err(|error| error.to_string()))
        };
        assert_eq!(with("", ""), None);
        assert_eq!(with("r:sha256", "impure"), None);
        for method in ["sha3-256", "text:sha256", "r:", "git:sha512", "R:sha256"] {
            let error = with(method, &"0".repeat(128)).unwrap().unwrap_err();
            assert!(error.contains(method), "{error}");
        }
        let error = with("sha256", "00").unwrap().unwrap_err();
        assert!(error.contains("'00' is no sha256 digest"), "{error}");
    }

    #[test]
    fn faults_are_told_with_their_place() {
        let whole = r#"Derive([("out","/a","","")],[],[],"s","b",[],[("k","v")])"#;
        assert!(Derivation::parse(whole.as_bytes()).is_ok());
        for length in 0..whole.len() {
            let error = Derivation::parse(&whole.as_bytes()[..length]).unwrap_err();
            assert!(
                matches!(&error.fault, Fault::Unexpected { .. }) && error.offset <= length,
                "{length}: {error}"
            );
        }
        for (text, expected) in [
            (
                "DrvWithVersion(\"xp-dyn-drv\"".to_owned(),
                "at byte 0, Derive( was expected, and there is 'DrvWithVersion(\\\"xp-dyn-",
            ),
            (
                format!("{whole}\n"),
                "at byte 57, the end was expected, and there is '\\n'",
            ),
            (
                whole.replace("(\"k\",\"v\")", "(\"k\",\"v\"),(\"k\",\"w\")"),
                "'k' stands there a second time",
            ),
            (whole.replace("\"s\"", r#""\q""#), "'\\q' is no escape"),
            (
                whole.replace("[],[],\"s\"", "[[[[],[],\"s\""),
                "at byte 29, ( was expected",
            ),
        ] {
            let error = Derivation::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = Derivation::parse(b"Derive([(\"\xff\",").unwrap_err();
        assert_eq!((error.offset, error.fault), (9, Fault::NotText));
    }

    #[test]
    fn limits_hold() {
        let error = Derivation::parse(&vec![b' '; MAX_BYTES + 1]).unwrap_err();
        assert_eq!(error.fault, Fault::TooLong);
        let with = |args: usize| {
            let args = vec!["\"\""; args].join(",");
            Derivation::parse(format!(r#"Derive([],[],[],"","",[{args}],[])"#).as_bytes())
        };
        assert!(with(MAX_ELEMENTS).is_ok());
        assert_eq!(with(MAX_ELEMENTS + 1).unwrap_err().fault, Fault::TooMany);
        assert!(Derivation::parse("(".repeat(1 << 20).as_bytes()).is_err());
        assert!(Derivation::parse(format!("{HEAD}{}", "[".repeat(1 << 20)).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_derivation_goes_both_ways(
            outputs in proptest::collection::btree_map(".{0,4}", (".*", ".{0,9}", ".*"), 0..3),
            input_derivations in proptest::collection::btree_map(".*", proptest::collection::vec(".*", 0..3), 0..3),
            input_sources in proptest::collection::vec(".*", 0..3),
            strings in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 2..6),
            env in proptest::collection::btree_map(any::<Vec<u8>>(), any::<Vec<u8>>(), 0..4),
        ) {
            let outputs = outputs
                .into_iter()
                .map(|(name, (path, method, hash))| Output { name, path, method, hash })
                .collect();
            let derivation = Derivation {
                outputs,
                input_derivations,
                input_sources,
                system: strings[0].clone(),
                builder: strings[1].clone(),
                args: strings[2..].to_vec(),
                env,
            };
            prop_assert_eq!(Derivation::parse(&print(&derivation)), Ok(derivation));
        }

        #[test]
        fn nothing_panics(rest in proptest::collection::vec(
            prop_oneof![Just(b'['), Just(b']'), Just(b'('), Just(b')'), Just(b','), Just(b'"'), Just(b'\\'), any::<u8>()],
            0..200,
        )) {
            drop(Derivation::parse(&rest));
            drop(Derivation::parse(&[HEAD.as_bytes(), &rest].concat()));
        }
    }
}
