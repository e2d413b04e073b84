//! The manifest: what an index is of and which files it consists of. See `docs/index-format.md`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::format::VERSION;
use crate::key::KeySet;
use crate::path_text;
use crate::root::{Root, RootId, RootKind};

/// The file's name in the index directory.
pub const FILE_NAME: &str = "manifest";

/// The first word of the file.
const MAGIC: &str = "store-index";

/// The longest manifest that is read, in bytes: a path of 4095 escaped bytes and 64 segments fit many times.
pub const MAX_LEN: u64 = 1024 * 1024;

/// The most segments that are read. Writers merge above 8; a broken-off merge leaves a few more.
pub const MAX_SEGMENTS: usize = 64;

/// What the names of segments end in.
pub const SEGMENT_SUFFIX: &str = ".segment";

/// What the names of dead lists end in.
pub const DEAD_SUFFIX: &str = ".dead";

/// How many hex digits of the checksum are in a file's name.
const NAME_DIGITS: usize = 32;

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What the index is of.
    pub root: Root,
    /// Where its files were read, if that is not the root's path. For showing and for checks.
    pub real: Option<PathBuf>,
    /// What every object has keys for once `finished` is true.
    pub kinds: KeySet,
    /// True once an update has seen the whole root under these kinds.
    pub finished: bool,
    /// True if the update of a medium left out nothing that is on it.
    pub whole: bool,
    /// The store directory's modification time before a listing of which everything could be indexed.
    pub store_mtime_ns: Option<i64>,
    /// Oldest first.
    pub segments: Vec<SegmentEntry>,
}

/// A segment as the manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentEntry {
    /// Its name in the index directory.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of the file, in hex.
    pub checksum: String,
    /// How many links it holds, dead ones included.
    pub links: u64,
    /// How many files.
    pub files: u64,
    /// How many items.
    pub items: u64,
    /// Which of its objects no longer count.
    pub dead: Option<DeadEntry>,
}

/// A dead list as the manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadEntry {
    /// Its name in the index directory.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of the file, in hex.
    pub checksum: String,
    /// How many numbers it holds.
    pub count: u64,
}

impl SegmentEntry {
    /// Returns the number of objects, dead ones included.
    pub const fn objects(&self) -> u64 {
        self.links
            .saturating_add(self.files)
            .saturating_add(self.items)
    }

    /// Returns the number of dead objects.
    pub fn dead_count(&self) -> u64 {
        self.dead.as_ref().map_or(0, |dead| dead.count)
    }
}

/// Returns the name of a file with this checksum.
pub fn file_name(checksum: &[u8; 32], suffix: &str) -> String {
    format!("{}{suffix}", &hex::encode(checksum)[..NAME_DIGITS])
}

/// Returns true for a name that [`file_name`] can have made, and which therefore lies in the index directory.
pub fn is_file_name(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|digits| {
        digits.len() == NAME_DIGITS
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Why some bytes are no manifest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Written by a later program.
    #[error("it has format version {0}, this program knows {VERSION}")]
    NewerVersion(u64),
    /// Something else altogether.
    #[error("it does not begin as a manifest should")]
    Magic,
    /// Longer than [`MAX_LEN`].
    #[error("it is longer than {MAX_LEN} bytes")]
    TooLong,
    /// Bits have changed, or it was cut off.
    #[error("its checksum is wrong")]
    Checksum,
    /// Not the fields it should have.
    #[error("it cannot be understood: {0}")]
    Fields(String),
}

#[derive(Serialize, Deserialize)]
struct Fields {
    root: RootFields,
    algorithms: Vec<String>,
    finished: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    whole: bool,
    store_mtime_ns: Option<i64>,
    segments: Vec<SegmentEntry>,
}

#[derive(Serialize, Deserialize)]
struct RootFields {
    kind: String,
    path: String,
    #[serde(default)]
    real: Option<String>,
    id: String,
}

impl Manifest {
    /// Starts an index of a root with nothing in it.
    pub const fn new(root: Root, kinds: KeySet) -> Self {
        Self {
            root,
            real: None,
            kinds,
            finished: false,
            whole: false,
            store_mtime_ns: None,
            segments: Vec::new(),
        }
    }

    /// Returns true if an update has seen the whole root and left out nothing.
    pub const fn is_whole(&self) -> bool {
        self.finished && self.whole
    }

    /// Returns the bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let fields = Fields {
            root: RootFields {
                kind: self.root.kind().name().to_owned(),
                path: path_text::encode(self.root.path()),
                real: self.real.as_deref().map(path_text::encode),
                id: self.root.id().to_string(),
            },
            algorithms: self.kinds.names().into_iter().map(str::to_owned).collect(),
            finished: self.finished,
            whole: self.whole,
            store_mtime_ns: self.store_mtime_ns,
            segments: self.segments.clone(),
        };
        let mut json =
            serde_json::to_vec_pretty(&fields).expect("strings and numbers always serialise");
        json.push(b'\n');
        let mut bytes = format!("{MAGIC} {VERSION} {}\n", blake3::hash(&json)).into_bytes();
        bytes.extend(json);
        bytes
    }

    /// Reads the bytes of the file.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MAX_LEN {
            return Err(ManifestError::TooLong);
        }
        let end = bytes
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or(ManifestError::Magic)?;
        let first = std::str::from_utf8(&bytes[..end]).map_err(|_| ManifestError::Magic)?;
        let (magic, rest) = first.split_once(' ').ok_or(ManifestError::Magic)?;
        let (version, checksum) = rest.split_once(' ').unwrap_or((rest, ""));
        let version: u64 = version.parse().map_err(|_| ManifestError::Magic)?;
        if magic != MAGIC || version == 0 {
            return Err(ManifestError::Magic);
        }
        if version > u64::from(VERSION) {
            return Err(ManifestError::NewerVersion(version));
        }
        let json = &bytes[end + 1..];
        if blake3::hash(json).to_hex().as_str() != checksum {
            return Err(ManifestError::Checksum);
        }
        let fields: Fields = serde_json::from_slice(json)
            .map_err(|error| ManifestError::Fields(error.to_string()))?;
        fields.check()
    }
}

impl Fields {
    fn check(self) -> Result<Manifest, ManifestError> {
        let wrong = |what: &str| ManifestError::Fields(what.to_owned());
        let kind =
            RootKind::from_name(&self.root.kind).ok_or_else(|| wrong("unknown kind of root"))?;
        let path = path_text::decode(&self.root.path)
            .ok_or_else(|| wrong("the root's path is malformed"))?;
        let real =
            self.root.real.as_deref().map(|text| {
                path_text::decode(text).ok_or_else(|| wrong("the real path is malformed"))
            });
        let id = RootId::parse(&self.root.id).ok_or_else(|| wrong("the root id is malformed"))?;
        // Names that a later program may know say nothing wrong about those that this one does.
        let kinds = self.algorithms.iter().fold(KeySet::empty(), |kinds, name| {
            kinds.with_named(name).unwrap_or(kinds)
        });
        if self.segments.len() > MAX_SEGMENTS {
            return Err(wrong("too many segments"));
        }
        for segment in &self.segments {
            let dead = segment
                .dead
                .as_ref()
                .is_none_or(|dead| is_file_name(&dead.file, DEAD_SUFFIX));
            if !is_file_name(&segment.file, SEGMENT_SUFFIX) || !dead {
                return Err(wrong("the name of a segment is malformed"));
            }
        }
        Ok(Manifest {
            root: Root::recorded(kind, path, id),
            // A relative one would be another directory for every reader.
            real: real.transpose()?.filter(|real| real.is_absolute()),
            kinds,
            finished: self.finished,
            whole: self.whole,
            store_mtime_ns: self.store_mtime_ns,
            segments: self.segments,
        })
    }
}

/// Reads the manifest file of an index directory, no more than [`MAX_LEN`] of it.
pub(crate) fn read_file(directory: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let file = crate::read_at::open_regular(&directory.join(FILE_NAME))?;
    let mut bytes = Vec::new();
    file.take(MAX_LEN + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let mut manifest = Manifest::new(
            Root::store("/nix/store"),
            KeySet::always().with_named("git").unwrap(),
        );
        let name = |suffix| file_name(&[7; 32], suffix);
        manifest.segments.push(SegmentEntry {
            file: name(SEGMENT_SUFFIX),
            bytes: 1,
            checksum: hex::encode([7; 32]),
            links: 1,
            files: 2,
            items: 3,
            dead: Some(DeadEntry {
                file: name(DEAD_SUFFIX),
                bytes: 28,
                checksum: String::new(),
                count: 1,
            }),
        });
        manifest
    }

    #[test]
    fn goes_both_ways_and_notices_every_flipped_bit_and_cut() {
        let bytes = manifest().encode();
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest());
        for at in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(
                    Manifest::decode(&damaged).is_err(),
                    "bit {bit} of byte {at}"
                );
            }
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage_and_names_cannot_lead_out() {
        let newer = b"store-index 2 whatever\n";
        assert!(matches!(
            Manifest::decode(newer),
            Err(ManifestError::NewerVersion(2))
        ));
        let mut hostile = manifest();
        hostile.segments[0].file = "../../../../etc/passwd.segment".into();
        assert!(matches!(
            Manifest::decode(&hostile.encode()),
            Err(ManifestError::Fields(_))
        ));
    }
}
