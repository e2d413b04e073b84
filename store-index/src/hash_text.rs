//! The text forms of a hash, read and printed.
//!
//! Accepted are SRI (`sha256-…=`, padding optional), `algo:` with hex, nix-base32 or base64, bare digests whose
//! length says the algorithm, and SWHIDs of contents and directories. What Nix refuses is refused here.

use std::fmt;

use data_encoding::{BASE64, BASE64_NOPAD};

use crate::address::{ContentAddress, FlatHash, GitHash, GitObject, Method, NarHash};
use crate::digest::{Algorithm, Digest, MAX_DIGEST_LEN};
use crate::nix32;

/// The longest text that can be a hash: a SWHID with qualifiers, which are dropped. Longer ones are not read.
pub const MAX_HASH_TEXT_LEN: usize = 4096;

/// How the bytes of a digest are spelt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// Lower-case hexadecimal.
    Hex,
    /// Nix's base-32.
    Nix32,
    /// Base64 with padding.
    Base64,
}

/// The form in which a hash was given, so that answers can use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashForm {
    /// `sha256-…=`
    Sri,
    /// `sha256:…`
    Named(Base),
    /// The digest alone.
    Bare(Base),
    /// `swh:1:cnt:…` or `swh:1:dir:…`
    Swhid(GitObject),
}

/// A hash as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParsedHash {
    /// The digest.
    pub digest: Digest,
    /// How it was spelt.
    pub form: HashForm,
}

/// Why a text is no hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HashError {
    /// Nothing there.
    #[error("the hash is empty")]
    Empty,
    /// Longer than [`MAX_HASH_TEXT_LEN`].
    #[error("the hash is longer than {MAX_HASH_TEXT_LEN} bytes")]
    TooLong,
    /// Not one of [`Algorithm::ALL`].
    #[error("unknown hash algorithm '{0}'")]
    UnknownAlgorithm(String),
    /// A length that no digest of the algorithm has in any base.
    #[error("'{text}' has {len} characters, which is no length of {algorithm} (hex {hex}, nix-base32 {nix32}, base64 {base64})",
        hex = algorithm.digest_len() * 2, nix32 = nix32::encoded_len(algorithm.digest_len()),
        base64 = BASE64.encode_len(algorithm.digest_len()))]
    Length {
        /// The digest part.
        text: String,
        /// Its length in characters.
        len: usize,
        /// The algorithm it was read for.
        algorithm: Algorithm,
    },
    /// A bare digest whose length says nothing.
    #[error("'{text}' has {len} characters, which does not say what algorithm it is")]
    Ambiguous {
        /// The digest.
        text: String,
        /// Its length in characters.
        len: usize,
    },
    /// A character outside the base's alphabet.
    #[error("'{text}': the character '{character}' at position {position} is not {base}", position = offset + 1)]
    Character {
        /// The digest part.
        text: String,
        /// The character.
        character: char,
        /// Where, in bytes from the start of the digest part.
        offset: usize,
        /// What was read.
        base: &'static str,
    },
    /// Padding or left-over bits that no printer makes.
    #[error("'{text}' is not well-formed {base}: padding or unused bits are wrong")]
    Malformed {
        /// The digest part.
        text: String,
        /// What was read.
        base: &'static str,
    },
    /// The text names one algorithm and the caller another.
    #[error("the hash names {named}, but {wanted} was asked for")]
    AlgorithmsDisagree {
        /// In the hash.
        named: Algorithm,
        /// By the caller.
        wanted: Algorithm,
    },
    /// Several hashes or `?options` in one SRI text.
    #[error("'{0}' holds more than one hash or options; one hash is wanted")]
    SeveralSri(String),
    /// `swh:…` that is not well-formed.
    #[error("'{0}' is not a SWHID of the form swh:1:cnt:<40 hex> or swh:1:dir:<40 hex>")]
    Swhid(String),
    /// A SWHID of a revision, release or snapshot, which is no content.
    #[error("'{0}' names a revision, a release or a snapshot, not the content of one")]
    SwhidOfHistory(String),
    /// A method that cannot have this digest.
    #[error("method {method} cannot have a {algorithm} digest")]
    Method {
        /// The method.
        method: Method,
        /// The digest's algorithm.
        algorithm: Algorithm,
    },
    /// A SWHID under another method than git.
    #[error("a SWHID is a git id; method {0} contradicts it")]
    SwhidMethod(Method),
}

impl HashError {
    /// Returns what to do about it, if there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Ambiguous { len: 32, .. } => Some(
                "it could be md5 in hex or sha1 in nix-base32: say which with --hash-algo md5 or --hash-algo sha1",
            ),
            Self::Ambiguous { .. } => {
                Some("name the algorithm with --hash-algo, or write it as algo:digest")
            }
            Self::UnknownAlgorithm(_) => {
                Some("known are md5, sha1, sha256, sha512 and blake3, in lower case")
            }
            Self::SwhidOfHistory(_) => Some("to fetch a commit, use --git URL --rev REV"),
            Self::Method { .. } => Some("git ids are sha1 or sha256"),
            _ => None,
        }
    }
}

/// Reads a hash. `wanted` is the algorithm of a bare digest, and must agree with one that the text names.
///
/// ```
/// use store_index::hash_text::parse;
/// let hash = parse("sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=", None)?;
/// assert_eq!(hash.digest.to_hex(), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
/// # Ok::<(), store_index::hash_text::HashError>(())
/// ```
pub fn parse(text: &str, wanted: Option<Algorithm>) -> Result<ParsedHash, HashError> {
    if text.is_empty() {
        return Err(HashError::Empty);
    }
    if text.len() > MAX_HASH_TEXT_LEN {
        return Err(HashError::TooLong);
    }
    let parsed = if text.starts_with("swh:") {
        parse_swhid(text)?
    } else if let Some((name, digest)) = text.split_once(':') {
        let algorithm = Algorithm::from_name(name)
            .ok_or_else(|| HashError::UnknownAlgorithm(printable(name)))?;
        let (digest, base) = parse_digest(digest, algorithm)?;
        ParsedHash {
            digest,
            form: HashForm::Named(base),
        }
    } else if let Some((name, digest)) = text.split_once('-') {
        let algorithm = Algorithm::from_name(name)
            .ok_or_else(|| HashError::UnknownAlgorithm(printable(name)))?;
        ParsedHash {
            digest: parse_sri_digest(digest, algorithm)?,
            form: HashForm::Sri,
        }
    } else {
        let algorithm = match (wanted, text.len()) {
            (Some(algorithm), _) => algorithm,
            (None, 64 | 52 | 44) => Algorithm::Sha256,
            (None, 40) => Algorithm::Sha1,
            (None, 128) => Algorithm::Sha512,
            (None, len) => {
                return Err(HashError::Ambiguous {
                    text: printable(text),
                    len,
                });
            }
        };
        let (digest, base) = parse_digest(text, algorithm)?;
        ParsedHash {
            digest,
            form: HashForm::Bare(base),
        }
    };
    match wanted {
        Some(wanted) if wanted != parsed.digest.algorithm() => Err(HashError::AlgorithmsDisagree {
            named: parsed.digest.algorithm(),
            wanted,
        }),
        _ => Ok(parsed),
    }
}

impl ParsedHash {
    /// Makes a content address of it. Without a method a SWHID is git and anything else flat.
    pub fn into_address(self, method: Option<Method>) -> Result<ContentAddress, HashError> {
        let disagree = |method| HashError::Method {
            method,
            algorithm: self.digest.algorithm(),
        };
        match (self.form, method) {
            (HashForm::Swhid(object), None | Some(Method::Git)) => {
                GitHash::new(self.digest, object)
                    .map(ContentAddress::Git)
                    .ok_or_else(|| disagree(Method::Git))
            }
            (HashForm::Swhid(_), Some(method)) => Err(HashError::SwhidMethod(method)),
            (_, None | Some(Method::Flat)) => Ok(ContentAddress::Flat(FlatHash(self.digest))),
            (_, Some(Method::Nar)) => Ok(ContentAddress::Nar(NarHash(self.digest))),
            (_, Some(Method::Git)) => GitHash::new(self.digest, GitObject::Any)
                .map(ContentAddress::Git)
                .ok_or_else(|| disagree(Method::Git)),
        }
    }
}

/// Reads a digest whose base is told by its length.
fn parse_digest(text: &str, algorithm: Algorithm) -> Result<(Digest, Base), HashError> {
    let len = algorithm.digest_len();
    let mut bytes = [0; MAX_DIGEST_LEN];
    let bytes = &mut bytes[..len];
    let base = if text.len() == len * 2 {
        hex::decode_to_slice(text, bytes).map_err(|error| match error {
            hex::FromHexError::InvalidHexCharacter { index, .. } => {
                character(text, index, "hexadecimal")
            }
            _ => HashError::Malformed {
                text: printable(text),
                base: "hexadecimal",
            },
        })?;
        Base::Hex
    } else if text.len() == nix32::encoded_len(len) {
        nix32::decode_into(text.as_bytes(), bytes)
            .map_err(|offset| character(text, offset, "nix-base32"))?;
        Base::Nix32
    } else if text.len() == BASE64.encode_len(len) {
        decode_base64(text, bytes)?;
        Base::Base64
    } else {
        return Err(HashError::Length {
            text: printable(text),
            len: text.chars().count(),
            algorithm,
        });
    };
    let digest = Digest::new(algorithm, bytes).expect("the slice has the algorithm's length");
    Ok((digest, base))
}

fn parse_sri_digest(text: &str, algorithm: Algorithm) -> Result<Digest, HashError> {
    if text.contains([' ', '?', '\t', '\n']) {
        return Err(HashError::SeveralSri(printable(text)));
    }
    let len = algorithm.digest_len();
    if text.len() != BASE64.encode_len(len) && text.len() != BASE64_NOPAD.encode_len(len) {
        return Err(HashError::Length {
            text: printable(text),
            len: text.chars().count(),
            algorithm,
        });
    }
    let mut bytes = [0; MAX_DIGEST_LEN];
    decode_base64(text, &mut bytes[..len])?;
    Ok(Digest::new(algorithm, &bytes[..len]).expect("the slice has the algorithm's length"))
}

/// Reads base64 of exactly `bytes.len()` bytes, with or without padding; the caller has checked the text's length.
fn decode_base64(text: &str, bytes: &mut [u8]) -> Result<(), HashError> {
    let unpadded_len = BASE64_NOPAD.encode_len(bytes.len());
    let malformed = || HashError::Malformed {
        text: printable(text),
        base: "base64",
    };
    let (digits, padding) = text
        .as_bytes()
        .split_at_checked(unpadded_len)
        .ok_or_else(malformed)?;
    if let Some(offset) = digits
        .iter()
        .position(|&byte| !(byte.is_ascii_alphanumeric() || b"+/".contains(&byte)))
    {
        return Err(character(text, offset, "base64"));
    }
    if padding.iter().any(|&byte| byte != b'=') {
        return Err(malformed());
    }
    // Decoding asks for its own estimate of the room, which for a length of 2 or 3 digits over is exact.
    BASE64_NOPAD
        .decode_mut(digits, bytes)
        .map_err(|_| malformed())?;
    Ok(())
}

fn parse_swhid(text: &str) -> Result<ParsedHash, HashError> {
    let core = text.split(';').next().unwrap_or_default();
    let malformed = || HashError::Swhid(printable(text));
    let (kind, hex) = core
        .strip_prefix("swh:1:")
        .and_then(|rest| rest.split_once(':'))
        .ok_or_else(malformed)?;
    let object = match kind {
        "cnt" => GitObject::Blob,
        "dir" => GitObject::Tree,
        "rev" | "rel" | "snp" => return Err(HashError::SwhidOfHistory(printable(core))),
        _ => return Err(malformed()),
    };
    // The SWHID standard has lower-case digits only.
    if hex.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(malformed());
    }
    let mut bytes = [0; 20];
    hex::decode_to_slice(hex, &mut bytes).map_err(|_| malformed())?;
    let digest = Digest::new(Algorithm::Sha1, &bytes).ok_or_else(malformed)?;
    Ok(ParsedHash {
        digest,
        form: HashForm::Swhid(object),
    })
}

fn character(text: &str, offset: usize, base: &'static str) -> HashError {
    match text.get(offset..).and_then(|rest| rest.chars().next()) {
        Some(character) => HashError::Character {
            text: printable(text),
            character: if character.is_control() {
                '\u{fffd}'
            } else {
                character
            },
            offset,
            base,
        },
        None => HashError::Malformed {
            text: printable(text),
            base,
        },
    }
}

/// Makes hostile text safe to print: control characters replaced, at most 160 characters.
fn printable(text: &str) -> String {
    const MAX_SHOWN: usize = 160;
    let mut shown: String = text
        .chars()
        .take(MAX_SHOWN)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().count() > MAX_SHOWN {
        shown.push('…');
    }
    shown
}

/// Prints a digest in a form; see [`Digest::in_form`].
#[derive(Clone, Copy, Debug)]
pub struct DigestInForm<'a> {
    digest: &'a Digest,
    form: HashForm,
}

impl Digest {
    /// Returns the digest in a form, ready to print.
    pub const fn in_form(&self, form: HashForm) -> DigestInForm<'_> {
        DigestInForm { digest: self, form }
    }

    /// Returns the digest as SRI.
    pub fn to_sri(&self) -> String {
        self.in_form(HashForm::Sri).to_string()
    }

    fn in_base(&self, base: Base) -> String {
        match base {
            Base::Hex => self.to_hex(),
            Base::Nix32 => nix32::encode(self.as_bytes()),
            Base::Base64 => BASE64.encode(self.as_bytes()),
        }
    }
}

impl fmt::Display for DigestInForm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = self.digest.algorithm();
        match self.form {
            HashForm::Sri => write!(f, "{algorithm}-{}", self.digest.in_base(Base::Base64)),
            HashForm::Named(base) => write!(f, "{algorithm}:{}", self.digest.in_base(base)),
            HashForm::Bare(base) => f.write_str(&self.digest.in_base(base)),
            HashForm::Swhid(GitObject::Tree) => write!(f, "swh:1:dir:{}", self.digest.to_hex()),
            HashForm::Swhid(GitObject::Blob | GitObject::Any) => {
                write!(f, "swh:1:cnt:{}", self.digest.to_hex())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HELLO_HEX: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

    #[test]
    fn one_digest_in_every_form() {
        for (text, form) in [
            (
                "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=",
                HashForm::Sri,
            ),
            (
                "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
                HashForm::Named(Base::Hex),
            ),
            (
                "sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq",
                HashForm::Named(Base::Nix32),
            ),
            (
                "sha256:WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=",
                HashForm::Named(Base::Base64),
            ),
            (HELLO_HEX, HashForm::Bare(Base::Hex)),
            (
                "00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq",
                HashForm::Bare(Base::Nix32),
            ),
            (
                "WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=",
                HashForm::Bare(Base::Base64),
            ),
        ] {
            let parsed = parse(text, None).unwrap();
            assert_eq!(
                (parsed.digest.to_hex().as_str(), parsed.form),
                (HELLO_HEX, form),
                "{text}"
            );
            assert_eq!(parsed.digest.in_form(form).to_string(), text);
        }
        for text in [
            &HELLO_HEX.to_uppercase(),
            "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM",
        ] {
            assert_eq!(
                parse(text, None).unwrap().digest.to_hex(),
                HELLO_HEX,
                "{text}"
            );
        }
    }

    #[test]
    fn lengths_say_the_algorithm_or_nothing() {
        assert_eq!(
            parse(&"0".repeat(40), None).unwrap().digest.algorithm(),
            Algorithm::Sha1
        );
        assert_eq!(
            parse(&"0".repeat(128), None).unwrap().digest.algorithm(),
            Algorithm::Sha512
        );
        let ambiguous = parse(&"0".repeat(32), None).unwrap_err();
        assert!(ambiguous.hint().unwrap().contains("--hash-algo"));
        assert_eq!(
            parse(&"0".repeat(32), Some(Algorithm::Md5)).unwrap().form,
            HashForm::Bare(Base::Hex)
        );
        assert_eq!(
            parse(&"0".repeat(32), Some(Algorithm::Sha1)).unwrap().form,
            HashForm::Bare(Base::Nix32)
        );
        assert_eq!(
            parse(HELLO_HEX, Some(Algorithm::Blake3))
                .unwrap()
                .digest
                .algorithm(),
            Algorithm::Blake3
        );
    }

    #[test]
    fn what_nix_refuses_is_refused() {
        for text in [
            "",
            "sha256-",
            "sha256:",
            "SHA256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
            "sha3:00",
            "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgN=", // bits left over
            "sha256:WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM",  // no padding outside SRI
            "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM= sha512-x",
            "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=?ct=x",
            " 5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be0g",
            "00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4ae",
            "swh:1:dir:4b825dc642cb6eb9a060e54bf8d69288fbee490",
            "swh:1:dir:4B825DC642CB6EB9A060E54BF8D69288FBEE4904",
            "swh:2:dir:4b825dc642cb6eb9a060e54bf8d69288fbee4904",
        ] {
            assert!(parse(text, None).is_err(), "{text}");
        }
        let disagree = parse(
            "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=",
            Some(Algorithm::Sha512),
        );
        assert!(matches!(
            disagree,
            Err(HashError::AlgorithmsDisagree { .. })
        ));
        assert_eq!(
            parse(
                "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be0g",
                None
            )
            .unwrap_err()
            .to_string(),
            "'5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be0g': the character 'g' at position 64 is not hexadecimal"
        );
    }

    #[test]
    fn swhids_are_git_ids() {
        let text = "swh:1:dir:4b825dc642cb6eb9a060e54bf8d69288fbee4904";
        let parsed = parse(&format!("{text};origin=https://example.org"), None).unwrap();
        assert_eq!(
            parsed.digest.in_form(parsed.form).to_string(),
            text,
            "qualifiers are dropped"
        );
        assert_eq!(parsed.into_address(None).unwrap().method(), Method::Git);
        assert!(parsed.into_address(Some(Method::Nar)).is_err());
        let history =
            parse("swh:1:rev:4b825dc642cb6eb9a060e54bf8d69288fbee4904", None).unwrap_err();
        assert!(history.hint().unwrap().contains("--git URL --rev REV"));
    }

    #[test]
    fn git_has_no_md5() {
        let md5 = parse("md5:d41d8cd98f00b204e9800998ecf8427e", None).unwrap();
        assert!(md5.into_address(Some(Method::Git)).is_err());
        assert!(md5.into_address(Some(Method::Nar)).is_ok());
    }

    proptest! {
        #[test]
        fn printing_and_reading_are_inverse(bytes in proptest::collection::vec(any::<u8>(), 64), algorithm in 0..5usize) {
            let algorithm = Algorithm::ALL[algorithm];
            let digest = Digest::new(algorithm, &bytes[..algorithm.digest_len()]).unwrap();
            let bases = [Base::Hex, Base::Nix32, Base::Base64];
            for form in std::iter::once(HashForm::Sri).chain(bases.map(HashForm::Named)).chain(bases.map(HashForm::Bare)) {
                let text = digest.in_form(form).to_string();
                prop_assert_eq!(parse(&text, Some(algorithm)), Ok(ParsedHash { digest, form }));
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,140}") {
            for wanted in [None, Some(Algorithm::Md5), Some(Algorithm::Sha512)] {
                if let Ok(parsed) = parse(&text, wanted) {
                    prop_assert_eq!(parse(&parsed.digest.in_form(parsed.form).to_string(), wanted), Ok(parsed));
                }
            }
        }
    }
}
