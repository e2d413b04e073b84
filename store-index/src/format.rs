//! The bytes of segments and dead lists: constants, encoding and decoding on slices, and nothing else.
//! Twin of `docs/index-format.md`; a change here is a change there.

use crate::key::KeyKind;

/// The only version of the format there is.
pub const VERSION: u32 = 1;

/// What a segment begins with.
pub const SEGMENT_MAGIC: [u8; 8] = *b"stidxseg";

/// What a dead list begins with.
pub const DEAD_MAGIC: [u8; 8] = *b"stidxded";

/// The length of a segment's header in bytes, checksum included.
pub const HEADER_LEN: usize = 1024;

/// Where the header's own checksum lies.
const HEADER_CHECKSUM_AT: usize = HEADER_LEN - blake3::OUT_LEN;

/// Where the section table begins.
const SECTIONS_AT: usize = 64;

/// The length of an entry of the section table.
const SECTION_LEN: usize = 4 + 4 + 8 + 8 + 8;

/// The most sections a header has room for: twice what version 1 knows.
pub const MAX_SECTIONS: usize = 24;

const _: () = assert!(SECTIONS_AT + MAX_SECTIONS * SECTION_LEN <= HEADER_CHECKSUM_AT);

/// The most fan-out bits: 2^27 cells suit 2^32 objects, and a hostile number cannot make a shift overflow.
pub const MAX_FAN_OUT_BITS: u32 = 27;

/// How many records a bucket of the fan-out holds on average at most: about one page of the longest records.
pub const BUCKET_RECORDS: u64 = 32;

/// The length of a fan-out cell.
pub const CELL_LEN: usize = 4;

/// The length of a file record: path start, path length, flags, size, mtime, inode.
pub const FILE_RECORD_LEN: usize = 8 + 4 + 4 + 8 + 8 + 8;

/// The longest path that is stored: Linux opens no longer one (`PATH_MAX` less its NUL).
pub const MAX_PATH_LEN: usize = 4095;

/// The length of the payload of a key: an object number.
pub const OBJECT_LEN: usize = 4;

/// The length of the part of a dead list before its numbers.
pub const DEAD_HEADER_LEN: usize = 8 + 4 + 4 + 8;

/// A section's place in the file and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    /// Entries of `.links`.
    Links,
    /// File records.
    Files,
    /// The paths of files.
    Paths,
    /// Store items that have been looked at.
    Items,
    /// Digests of objects.
    Keys(KeyKind),
}

impl SectionKind {
    /// The kinds that every segment has.
    pub const ALWAYS: [Self; 5] = [
        Self::Links,
        Self::Files,
        Self::Paths,
        Self::Items,
        Self::Keys(KeyKind::FlatSha256),
    ];

    /// Returns the number in the section table.
    pub const fn number(self) -> u32 {
        match self {
            Self::Links => 1,
            Self::Files => 2,
            Self::Paths => 3,
            Self::Items => 4,
            Self::Keys(kind) => 16 + kind as u32,
        }
    }

    /// Finds a kind by its number.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Links, Self::Files, Self::Paths, Self::Items]
            .into_iter()
            .chain(KeyKind::ALL.map(Self::Keys))
            .find(|kind| kind.number() == number)
    }

    /// Returns the shape of a table's records; `None` for sections that are no tables.
    pub const fn record_shape(self) -> Option<RecordShape> {
        match self {
            Self::Links => Some(RecordShape {
                digest: 32,
                payload: 8,
            }),
            Self::Items => Some(RecordShape {
                digest: 20,
                payload: 8,
            }),
            Self::Keys(kind) => Some(RecordShape {
                digest: kind.digest_len(),
                payload: OBJECT_LEN,
            }),
            Self::Files | Self::Paths => None,
        }
    }

    /// Returns the length of a section with this many records (tables, files) or bytes (paths).
    pub fn section_len(self, count: u64, fan_out_bits: u32) -> Option<u64> {
        match (self, self.record_shape()) {
            (_, Some(shape)) => {
                if fan_out_bits > MAX_FAN_OUT_BITS {
                    return None;
                }
                let cells = ((1_u64 << fan_out_bits) + 1) * CELL_LEN as u64;
                count.checked_mul(shape.len() as u64)?.checked_add(cells)
            }
            (Self::Files, None) => count.checked_mul(FILE_RECORD_LEN as u64),
            (_, None) => Some(count),
        }
    }
}

/// How long the two parts of a table's record are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordShape {
    /// The digest, by which records are sorted.
    pub digest: usize,
    /// What it leads to.
    pub payload: usize,
}

impl RecordShape {
    /// Returns the length of a record.
    pub const fn len(self) -> usize {
        self.digest + self.payload
    }

    /// Returns true for the shape that no section has.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Returns the fan-out bits for this many records, which are a function of the number so that equal content gives
/// equal bytes.
pub fn fan_out_bits(count: u64) -> u32 {
    (0..MAX_FAN_OUT_BITS)
        .find(|&bits| count <= BUCKET_RECORDS << bits)
        .unwrap_or(MAX_FAN_OUT_BITS)
}

/// Returns the fan-out bucket of a digest, which has at least four bytes.
pub fn bucket_of(digest: &[u8], bits: u32) -> u32 {
    let leading = digest
        .first_chunk()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes));
    if bits == 0 {
        0
    } else {
        leading >> (u32::BITS - bits)
    }
}

/// An entry of the section table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it is.
    pub kind: SectionKind,
    /// See [`fan_out_bits`]; 0 if it is no table.
    pub fan_out_bits: u32,
    /// Where it begins.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
    /// How many records (tables, files) or bytes (paths).
    pub count: u64,
}

/// A segment's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The length of the file in bytes.
    pub file_len: u64,
    /// How many objects are links.
    pub links: u64,
    /// How many objects are files.
    pub files: u64,
    /// How many objects are items.
    pub items: u64,
    /// The sections of known kinds, in order.
    pub sections: Vec<Section>,
}

/// What is wrong with some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Shorter than a header, or than the header says.
    #[error("it has {found} bytes, and should have {wanted}")]
    Truncated {
        /// How long it should be.
        wanted: u64,
        /// How long it is.
        found: u64,
    },
    /// Something else altogether.
    #[error("it does not begin as one should")]
    Magic,
    /// Written by a later program.
    #[error("it has format version {0}, this program knows {VERSION}")]
    NewerVersion(u32),
    /// Bits have changed.
    #[error("its {0} checksum is wrong")]
    Checksum(&'static str),
    /// A number that cannot be.
    #[error("it contradicts itself: {0}")]
    Contradiction(&'static str),
}

impl Header {
    /// Plans a segment from its counts: the kinds in order with their numbers of records or bytes.
    pub fn plan(links: u64, files: u64, items: u64, counts: &[(SectionKind, u64)]) -> Option<Self> {
        let mut offset = HEADER_LEN as u64;
        let mut sections = Vec::with_capacity(counts.len());
        for &(kind, count) in counts {
            let bits = if kind.record_shape().is_some() {
                fan_out_bits(count)
            } else {
                0
            };
            let len = kind.section_len(count, bits)?;
            sections.push(Section {
                kind,
                fan_out_bits: bits,
                offset,
                len,
                count,
            });
            offset = offset.checked_add(len)?;
        }
        let objects = links.checked_add(files)?.checked_add(items)?;
        (objects <= u64::from(u32::MAX)).then_some(Self {
            file_len: offset,
            links,
            files,
            items,
            sections,
        })
    }

    /// Returns the section of a kind.
    pub fn section(&self, kind: SectionKind) -> Option<&Section> {
        self.sections.iter().find(|section| section.kind == kind)
    }

    /// Returns the number of objects.
    pub const fn objects(&self) -> u64 {
        self.links + self.files + self.items
    }

    /// Returns the bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        put(&mut bytes, 0, &SEGMENT_MAGIC);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 12, &(self.sections.len() as u32).to_le_bytes());
        put(&mut bytes, 16, &self.file_len.to_le_bytes());
        put(&mut bytes, 24, &self.links.to_le_bytes());
        put(&mut bytes, 32, &self.files.to_le_bytes());
        put(&mut bytes, 40, &self.items.to_le_bytes());
        for (position, section) in self.sections.iter().enumerate() {
            let at = SECTIONS_AT + position * SECTION_LEN;
            put(&mut bytes, at, &section.kind.number().to_le_bytes());
            put(&mut bytes, at + 4, &section.fan_out_bits.to_le_bytes());
            put(&mut bytes, at + 8, &section.offset.to_le_bytes());
            put(&mut bytes, at + 16, &section.len.to_le_bytes());
            put(&mut bytes, at + 24, &section.count.to_le_bytes());
        }
        let checksum = blake3::hash(&bytes[..HEADER_CHECKSUM_AT]);
        put(&mut bytes, HEADER_CHECKSUM_AT, checksum.as_bytes());
        bytes
    }

    /// Reads the header of a file of `file_len` bytes and checks all that it says of itself.
    pub fn decode(bytes: &[u8], file_len: u64) -> Result<Self, FormatError> {
        let truncated = FormatError::Truncated {
            wanted: HEADER_LEN as u64,
            found: file_len,
        };
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(truncated)?;
        if bytes[..8] != SEGMENT_MAGIC {
            return Err(FormatError::Magic);
        }
        check_version(u32_at(bytes, 8))?;
        if blake3::hash(&bytes[..HEADER_CHECKSUM_AT]) != bytes[HEADER_CHECKSUM_AT..] {
            return Err(FormatError::Checksum("header"));
        }
        let header = Self {
            file_len: u64_at(bytes, 16),
            links: u64_at(bytes, 24),
            files: u64_at(bytes, 32),
            items: u64_at(bytes, 40),
            sections: decode_sections(bytes)?,
        };
        if header.file_len != file_len {
            return Err(FormatError::Truncated {
                wanted: header.file_len,
                found: file_len,
            });
        }
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), FormatError> {
        let objects = self
            .links
            .checked_add(self.files)
            .and_then(|sum| sum.checked_add(self.items));
        if objects.is_none_or(|objects| objects > u64::from(u32::MAX)) {
            return Err(FormatError::Contradiction("too many objects"));
        }
        for kind in SectionKind::ALWAYS {
            let section = self
                .section(kind)
                .ok_or(FormatError::Contradiction("a section is missing"))?;
            let count = match kind {
                SectionKind::Links => self.links,
                SectionKind::Files => self.files,
                SectionKind::Items => self.items,
                SectionKind::Paths | SectionKind::Keys(_) => section.count,
            };
            if section.count != count {
                return Err(FormatError::Contradiction(
                    "a section has another number of records",
                ));
            }
        }
        for section in &self.sections {
            let end = section.offset.checked_add(section.len);
            if section.offset < HEADER_LEN as u64 || end.is_none_or(|end| end > self.file_len) {
                return Err(FormatError::Contradiction(
                    "a section lies outside the file",
                ));
            }
            if section
                .kind
                .section_len(section.count, section.fan_out_bits)
                != Some(section.len)
            {
                return Err(FormatError::Contradiction(
                    "a section's length does not fit its records",
                ));
            }
            if matches!(section.kind, SectionKind::Keys(_))
                && section.count > self.links + self.files
            {
                return Err(FormatError::Contradiction(
                    "there are more keys than objects",
                ));
            }
        }
        Ok(())
    }
}

fn decode_sections(bytes: &[u8; HEADER_LEN]) -> Result<Vec<Section>, FormatError> {
    let count = u32_at(bytes, 12) as usize;
    if count > MAX_SECTIONS {
        return Err(FormatError::Contradiction("too many sections"));
    }
    let mut sections: Vec<Section> = Vec::with_capacity(count);
    let mut last_number = 0;
    for position in 0..count {
        let at = SECTIONS_AT + position * SECTION_LEN;
        let number = u32_at(bytes, at);
        if number <= last_number {
            return Err(FormatError::Contradiction("sections are out of order"));
        }
        last_number = number;
        // Later programs may add sections that this one can do without.
        let Some(kind) = SectionKind::from_number(number) else {
            continue;
        };
        sections.push(Section {
            kind,
            fan_out_bits: u32_at(bytes, at + 4),
            offset: u64_at(bytes, at + 8),
            len: u64_at(bytes, at + 16),
            count: u64_at(bytes, at + 24),
        });
    }
    Ok(sections)
}

/// A file record, without its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// Where its path begins in the paths section.
    pub path_start: u64,
    /// How long its path is, in bytes.
    pub path_len: u32,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last modified, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Its inode, 0 if that says nothing.
    pub inode: u64,
    /// True if its digests come from a checksum list and it has not been read.
    pub hint: bool,
}

/// The flag of a file that has not been read.
const HINT_FLAG: u32 = 1;

impl FileRecord {
    /// Returns the bytes.
    pub fn encode(&self) -> [u8; FILE_RECORD_LEN] {
        let mut bytes = [0; FILE_RECORD_LEN];
        put(&mut bytes, 0, &self.path_start.to_le_bytes());
        put(&mut bytes, 8, &self.path_len.to_le_bytes());
        let flags = if self.hint { HINT_FLAG } else { 0 };
        put(&mut bytes, 12, &flags.to_le_bytes());
        put(&mut bytes, 16, &self.size.to_le_bytes());
        put(&mut bytes, 24, &self.mtime_ns.to_le_bytes());
        put(&mut bytes, 32, &self.inode.to_le_bytes());
        bytes
    }

    /// Reads a record and checks that its path lies in a paths section of this length.
    pub fn decode(bytes: &[u8; FILE_RECORD_LEN], paths_len: u64) -> Result<Self, FormatError> {
        let record = Self {
            path_start: u64_at(bytes, 0),
            path_len: u32_at(bytes, 8),
            size: u64_at(bytes, 16),
            mtime_ns: i64::from_le_bytes(bytes_at(bytes, 24)),
            inode: u64_at(bytes, 32),
            // Flags of later programs are none of ours.
            hint: u32_at(bytes, 12) & HINT_FLAG != 0,
        };
        let end = record.path_start.checked_add(u64::from(record.path_len));
        if record.path_len == 0
            || record.path_len as usize > MAX_PATH_LEN
            || end.is_none_or(|end| end > paths_len)
        {
            return Err(FormatError::Contradiction(
                "a path lies outside its section",
            ));
        }
        Ok(record)
    }
}

/// Returns true for a path that leads to something below a root: no empty part, no `.` or `..`, no NUL.
pub fn is_plain_path(path: &[u8]) -> bool {
    path.len() <= MAX_PATH_LEN
        && !path.contains(&0)
        && path
            .split(|&byte| byte == b'/')
            .all(|part| !matches!(part, b"" | b"." | b".."))
}

/// Compares paths in the order of the files section: by bytes, except that `/` comes before every other byte, which
/// is the order in which a walk that sorts each directory meets them.
pub fn compare_paths(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    // NUL, the only byte before the one that `/` becomes, does not occur in paths.
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    match (a.get(common), b.get(common)) {
        (Some(a), Some(b)) => rank(a).cmp(&rank(b)),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

/// Returns the first bytes of a dead list.
pub fn encode_dead_header(count: u64) -> [u8; DEAD_HEADER_LEN] {
    let mut bytes = [0; DEAD_HEADER_LEN];
    put(&mut bytes, 0, &DEAD_MAGIC);
    put(&mut bytes, 8, &VERSION.to_le_bytes());
    put(&mut bytes, 16, &count.to_le_bytes());
    bytes
}

/// Reads the first bytes of a dead list of `file_len` bytes; returns how many numbers follow.
pub fn decode_dead_header(bytes: &[u8], file_len: u64) -> Result<u64, FormatError> {
    let truncated = FormatError::Truncated {
        wanted: DEAD_HEADER_LEN as u64,
        found: file_len,
    };
    let bytes: &[u8; DEAD_HEADER_LEN] = bytes.first_chunk().ok_or(truncated)?;
    if bytes[..8] != DEAD_MAGIC {
        return Err(FormatError::Magic);
    }
    check_version(u32_at(bytes, 8))?;
    let count = u64_at(bytes, 16);
    let wanted = count
        .checked_mul(OBJECT_LEN as u64)
        .and_then(|len| len.checked_add(DEAD_HEADER_LEN as u64))
        .ok_or(FormatError::Contradiction("too many dead objects"))?;
    if wanted == file_len {
        Ok(count)
    } else {
        Err(FormatError::Truncated {
            wanted,
            found: file_len,
        })
    }
}

/// Refuses every version but this program's.
pub fn check_version(version: u32) -> Result<(), FormatError> {
    match version {
        VERSION => Ok(()),
        0 => Err(FormatError::Contradiction("version 0")),
        newer => Err(FormatError::NewerVersion(newer)),
    }
}

/// Reads a little-endian number; zero if it is not all there, which callers rule out by the slice's length.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

/// The same with eight bytes.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Ordering;

    fn header() -> Header {
        let counts = [
            (SectionKind::Links, 3),
            (SectionKind::Files, 2),
            (SectionKind::Paths, 9),
            (SectionKind::Items, 0),
            (SectionKind::Keys(KeyKind::FlatSha256), 5),
        ];
        Header::plan(3, 2, 0, &counts).unwrap()
    }

    #[test]
    fn headers_go_both_ways_and_any_flipped_bit_is_noticed() {
        let header = header();
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes, header.file_len), Ok(header.clone()));
        assert!(Header::decode(&bytes, header.file_len - 1).is_err());
        for bit in 0..HEADER_LEN * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Header::decode(&damaged, header.file_len).is_err(),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = header().encode();
        bytes[8] = 2;
        assert_eq!(Header::decode(&bytes, 0), Err(FormatError::NewerVersion(2)));
    }

    #[test]
    fn fan_out_follows_the_count() {
        assert_eq!([0, 1, 32, 33, 64, 65].map(fan_out_bits), [0, 0, 0, 1, 1, 2]);
        assert_eq!(fan_out_bits(10_000_000), 19);
        assert_eq!(fan_out_bits(u64::MAX >> 8), MAX_FAN_OUT_BITS);
        assert_eq!(bucket_of(&[0xff, 0x80, 0, 0], 9), 0x1ff);
        assert_eq!(bucket_of(&[0xff; 20], 0), 0);
    }

    #[test]
    fn paths_sort_as_a_walk_meets_them() {
        let sorted: [&[u8]; 6] = [b"a", b"a/x", b"a/x/y", b"a-b", b"a.b", b"b"];
        for pair in sorted.windows(2) {
            assert_eq!(compare_paths(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        for (path, plain) in [
            ("a/b", true),
            ("", false),
            ("/a", false),
            ("a//b", false),
            ("a/../b", false),
            ("a\0", false),
        ] {
            assert_eq!(is_plain_path(path.as_bytes()), plain, "{path}");
        }
    }
}
