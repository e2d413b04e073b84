//! The index on disk: what is written can be read, every lookup equals a linear scan, damage is an error and never a
//! panic, and version 1 stays readable.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use store_index::address::{ContentAddress, FlatHash, GitHash, GitObject, NarHash};
use store_index::digest::Digest;
use store_index::format::{SectionKind, compare_paths};
use store_index::index::{Index, Location, OpenError};
use store_index::index_writer::IndexWriter;
use store_index::key::{Digests, KeyKind, KeySet};
use store_index::links::LinkName;
use store_index::root::Root;
use store_index::segment::batch::Batch;
use store_index::segment::merge::merge;
use store_index::segment::reader::{IndexedFile, Segment};
use store_index::watch::{NoProgress, Watch};

#[path = "support/every_accessor.rs"]
#[expect(unreachable_pub, reason = "shared with the fuzzer")]
mod every_accessor;

use every_accessor::exercise;

static NO_INTERRUPT: AtomicBool = AtomicBool::new(false);

fn watch() -> Watch<'static> {
    Watch {
        interrupt: &NO_INTERRUPT,
        progress: &NoProgress,
    }
}

fn all_kinds() -> KeySet {
    KeyKind::ALL.into_iter().fold(KeySet::empty(), KeySet::with)
}

/// One object as a test makes it. Digests are of few distinct values, so that they collide.
#[derive(Clone, Debug)]
enum Entry {
    Link {
        name: [u8; 32],
        size: u64,
        seed: u8,
    },
    File {
        path: String,
        size: u64,
        mtime_ns: i64,
        inode: u64,
        seed: u8,
    },
    Item {
        digest: [u8; 20],
        inode: u64,
    },
}

fn digest(kind: KeyKind, seed: u8) -> Digest {
    let mut bytes = vec![seed.wrapping_mul(61); kind.digest_len()];
    bytes[kind.digest_len() - 1] = kind as u8;
    Digest::new(kind.recipe().1, &bytes).unwrap()
}

fn digests(kinds: impl IntoIterator<Item = KeyKind>, seed: u8) -> Digests {
    let mut digests = Digests::default();
    for kind in kinds {
        assert!(digests.set(kind, &digest(kind, seed)));
    }
    digests
}

/// A link has only that NAR form which is not its name.
fn link_kinds() -> impl Iterator<Item = KeyKind> {
    KeyKind::ALL
        .into_iter()
        .filter(|&kind| kind != KeyKind::NarPlain)
}

fn batch(entries: &[Entry]) -> Batch {
    let mut batch = Batch::new(all_kinds());
    for entry in entries {
        match entry.clone() {
            Entry::Link { name, size, seed } => {
                batch.push_link(LinkName(name), size, &digests(link_kinds(), seed))
            }
            Entry::File {
                path,
                size,
                mtime_ns,
                inode,
                seed,
            } => {
                let file = IndexedFile {
                    path: path.into_bytes(),
                    size,
                    mtime_ns,
                    inode,
                    hint: false,
                };
                batch.push_file(file, &digests(KeyKind::ALL, seed));
            }
            Entry::Item { digest, inode } => batch.push_item(digest, inode),
        }
    }
    batch
}

fn write(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    batch(entries).write(&mut bytes).unwrap();
    bytes
}

fn open(bytes: &[u8]) -> Segment {
    Segment::from_bytes("test", Box::new(bytes.to_vec()), None).unwrap()
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let path = proptest::collection::vec("[a-c.-]{1,3}", 1..4)
        .prop_map(|parts| parts.join("/"))
        .prop_filter("plain", |path| {
            path.split('/').all(|part| !matches!(part, "." | ".."))
        });
    prop_oneof![
        (any::<u8>(), any::<u8>(), any::<u64>(), 0..12_u8).prop_map(|(first, last, size, seed)| {
            let mut name = [7; 32];
            (name[0], name[31]) = (first, last % 3);
            Entry::Link { name, size, seed }
        }),
        (path, any::<u64>(), any::<i64>(), any::<u64>(), 0..12_u8).prop_map(
            |(path, size, mtime_ns, inode, seed)| Entry::File {
                path,
                size,
                mtime_ns,
                inode,
                seed
            }
        ),
        (any::<u8>(), any::<u64>()).prop_map(|(byte, inode)| Entry::Item {
            digest: [byte; 20],
            inode
        }),
    ]
}

/// What the entries mean: of two with one name the later counts.
#[derive(Debug, Default, PartialEq)]
struct Model {
    links: BTreeMap<[u8; 32], (u64, u8)>,
    /// By path with `/` as the smallest byte.
    files: BTreeMap<Vec<u8>, (IndexedFile, u8)>,
    items: BTreeMap<[u8; 20], u64>,
}

impl Model {
    fn of(entries: &[Entry]) -> Self {
        let mut model = Self::default();
        for entry in entries {
            match entry.clone() {
                Entry::Link { name, size, seed } => {
                    model.links.insert(name, (size, seed));
                }
                Entry::File {
                    path,
                    size,
                    mtime_ns,
                    inode,
                    seed,
                } => {
                    let file = IndexedFile {
                        path: path.clone().into_bytes(),
                        size,
                        mtime_ns,
                        inode,
                        hint: false,
                    };
                    model
                        .files
                        .insert(path.replace('/', "\0").into_bytes(), (file, seed));
                }
                Entry::Item { digest, inode } => {
                    model.items.insert(digest, inode);
                }
            }
        }
        model
    }

    /// Reads a segment back through the cursors.
    fn read(segment: &Segment) -> Self {
        let mut seeds: BTreeMap<u32, u8> = BTreeMap::new();
        let mut cursor = segment
            .records(SectionKind::Keys(KeyKind::FlatSha256))
            .unwrap()
            .unwrap();
        while let Some(record) = cursor.record() {
            let seed = (0..12)
                .find(|&seed| digest(KeyKind::FlatSha256, seed).as_bytes() == &record[..32])
                .unwrap();
            seeds.insert(u32::from_le_bytes(record[32..].try_into().unwrap()), seed);
            cursor.advance().unwrap();
        }
        let mut model = Self::default();
        let mut cursor = segment.records(SectionKind::Links).unwrap().unwrap();
        while let Some(record) = cursor.record() {
            let size = u64::from_le_bytes(record[32..].try_into().unwrap());
            model.links.insert(
                record[..32].try_into().unwrap(),
                (size, seeds[&(cursor.position() as u32)]),
            );
            cursor.advance().unwrap();
        }
        let (mut files, mut last) = (segment.files().unwrap(), Vec::new());
        while let Some((position, file)) = files.next_file().unwrap() {
            assert!(
                position == 0 || compare_paths(&last, &file.path).is_lt(),
                "files are sorted"
            );
            last = file.path.clone();
            let key = file
                .path
                .iter()
                .map(|&byte| if byte == b'/' { 0 } else { byte })
                .collect();
            let object = (segment.header().links + position) as u32;
            model.files.insert(key, (file, seeds[&object]));
        }
        let mut cursor = segment.records(SectionKind::Items).unwrap().unwrap();
        while let Some(record) = cursor.record() {
            let inode = u64::from_le_bytes(record[20..].try_into().unwrap());
            model.items.insert(record[..20].try_into().unwrap(), inode);
            cursor.advance().unwrap();
        }
        model
    }

    /// Finds objects by going through all of them.
    fn scan(&self, kind: KeyKind, wanted: &[u8]) -> Vec<u32> {
        let links = self
            .links
            .values()
            .map(|&(_, seed)| (seed, kind != KeyKind::NarPlain));
        let files = self.files.values().map(|&(_, seed)| (seed, true));
        (0..)
            .zip(links.chain(files))
            .filter(|&(_, (seed, has))| has && digest(kind, seed).as_bytes() == wanted)
            .map(|(object, _)| object)
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_in_order(entries in proptest::collection::vec(any_entry(), 0..300)) {
        prop_assert_eq!(Model::read(&open(&write(&entries))), Model::of(&entries));
    }

    #[test]
    fn the_order_of_adding_does_not_show(entries in proptest::collection::vec(any_entry(), 0..100)) {
        // Without two of one name, where the later counts.
        let model = Model::of(&entries);
        let mut unique: Vec<Entry> = model.links.iter()
            .map(|(&name, &(size, seed))| Entry::Link { name, size, seed })
            .chain(model.files.values().map(|(file, seed)| Entry::File {
                path: String::from_utf8(file.path.clone()).unwrap(),
                size: file.size, mtime_ns: file.mtime_ns, inode: file.inode, seed: *seed,
            }))
            .chain(model.items.iter().map(|(&digest, &inode)| Entry::Item { digest, inode }))
            .collect();
        let bytes = write(&unique);
        unique.reverse();
        prop_assert_eq!(write(&unique), bytes);
    }

    #[test]
    fn every_lookup_equals_a_linear_scan(entries in proptest::collection::vec(any_entry(), 0..300)) {
        let (segment, model) = (open(&write(&entries)), Model::of(&entries));
        // The second round asks tables that are kept in memory.
        for _ in 0..2 {
            for kind in KeyKind::ALL {
                for seed in 0..14 {
                    let wanted = digest(kind, seed);
                    let found = segment.find(kind, wanted.as_bytes(), 1000).unwrap();
                    prop_assert_eq!(found, model.scan(kind, wanted.as_bytes()), "{} {}", kind, seed);
                }
            }
            for name in model.links.keys() {
                let (object, size) = segment.find_link(&LinkName(*name)).unwrap().unwrap();
                prop_assert_eq!(size, model.links[name].0);
                prop_assert_eq!(model.links.keys().position(|other| other == name), Some(object as usize));
            }
            prop_assert_eq!(segment.find_link(&LinkName([8; 32])).unwrap(), None);
        }
    }

    #[test]
    fn merging_equals_writing_at_once(
        entries in proptest::collection::vec(any_entry(), 0..200),
        cuts in proptest::collection::vec(0..200_usize, 0..4),
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(entries.len())).collect();
        cuts.extend([0, entries.len()]);
        cuts.sort_unstable();
        let parts: Vec<Segment> = cuts.windows(2).map(|cut| open(&write(&entries[cut[0]..cut[1]]))).collect();
        let mut merged = Vec::new();
        merge(&parts.iter().collect::<Vec<_>>(), &mut merged).unwrap();
        prop_assert_eq!(merged, write(&entries));
    }

    #[test]
    fn flipped_bits_are_errors_or_misses(
        entries in proptest::collection::vec(any_entry(), 1..40),
        flips in proptest::collection::vec(any::<prop::sample::Index>(), 1..8),
        mend_header in any::<bool>(),
    ) {
        let mut bytes = write(&entries);
        for flip in flips {
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        if mend_header {
            // As a hostile disc would: the header's own checksum fits.
            let checksum = blake3::hash(&bytes[..992]);
            bytes[992..1024].copy_from_slice(checksum.as_bytes());
        }
        exercise(&bytes, None);
    }
}

fn some_entries() -> Vec<Entry> {
    let links = (0..40).map(|n| Entry::Link {
        name: [n * 5; 32],
        size: u64::from(n),
        seed: n % 12,
    });
    let files = (0..40).map(|n: u8| Entry::File {
        path: format!("dir{}/file{n}", n % 3),
        size: 5,
        mtime_ns: -1,
        inode: 9,
        seed: n % 12,
    });
    let items = (0..5).map(|n| Entry::Item {
        digest: [n; 20],
        inode: 3,
    });
    links.chain(files).chain(items).collect()
}

#[test]
fn truncation_at_every_byte_is_an_error() {
    let bytes = write(&some_entries());
    for len in 0..bytes.len() {
        let opened = Segment::from_bytes("cut", Box::new(bytes[..len].to_vec()), None);
        assert!(opened.is_err(), "cut at {len}");
    }
}

#[test]
fn a_header_that_fits_a_cut_file_harms_nobody() {
    let bytes = write(&some_entries());
    for len in (1024..bytes.len()).step_by(37) {
        let mut cut = bytes[..len].to_vec();
        cut[16..24].copy_from_slice(&(len as u64).to_le_bytes());
        let checksum = blake3::hash(&cut[..992]);
        cut[992..1024].copy_from_slice(checksum.as_bytes());
        exercise(&cut, None);
    }
}

#[test]
fn huge_numbers_in_a_header_allocate_nothing() {
    let bytes = write(&some_entries());
    for at in (12..832).step_by(4) {
        for value in [u32::MAX, 1 << 31, 27, 28] {
            let mut hostile = bytes.clone();
            hostile[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let checksum = blake3::hash(&hostile[..992]);
            hostile[992..1024].copy_from_slice(checksum.as_bytes());
            exercise(&hostile, None);
        }
    }
}

#[test]
fn hostile_dead_lists_harm_nobody() {
    let bytes = write(&some_entries());
    let mut dead = b"stidxded\x01\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0".to_vec();
    dead.extend(
        [1_u32, 2, u32::MAX]
            .iter()
            .flat_map(|number| number.to_le_bytes()),
    );
    exercise(&bytes, Some(&dead));
    for len in 0..dead.len() {
        exercise(&bytes, Some(&dead[..len]));
    }
    for at in 0..dead.len() {
        let mut damaged = dead.clone();
        damaged[at] ^= 0xff;
        exercise(&bytes, Some(&damaged));
    }
}

/// An index directory with one segment.
fn index_dir() -> (tempfile::TempDir, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("index");
    let mut writer = IndexWriter::open(
        &directory,
        &Root::store("/test/store"),
        Some(all_kinds()),
        false,
        watch(),
    )
    .unwrap();
    writer.append(&batch(&some_entries())).unwrap();
    writer.finish(Some(17)).unwrap();
    (temporary, directory)
}

fn segment_of(directory: &Path) -> PathBuf {
    directory.join(&Index::open(directory).unwrap().manifest().segments[0].file)
}

#[test]
fn damaged_indexes_are_errors_that_say_what_to_do() {
    let (_temporary, directory) = index_dir();
    let (segment, manifest) = (segment_of(&directory), directory.join("manifest"));
    let (good_segment, good_manifest) = (
        fs_err::read(&segment).unwrap(),
        fs_err::read(&manifest).unwrap(),
    );
    let fails = |what: &str| {
        let error = Index::open(&directory).expect_err(what);
        assert!(
            error.hint().contains("store-index update"),
            "{what}: {}",
            error.hint()
        );
        error
    };
    for len in 0..good_manifest.len() {
        fs_err::write(&manifest, &good_manifest[..len]).unwrap();
        fails("cut manifest");
    }
    fs_err::write(&manifest, "store-index 2 0\n{}\n").unwrap();
    assert!(matches!(
        fails("newer manifest"),
        OpenError::NewerVersion { version: 2, .. }
    ));
    fs_err::remove_file(&manifest).unwrap();
    assert!(fails("no manifest").is_absent());
    fs_err::create_dir(&manifest).unwrap();
    fails("a directory");
    fs_err::remove_dir(&manifest).unwrap();
    fs_err::write(&manifest, &good_manifest).unwrap();

    for len in [0, 1, 1023, 1024, good_segment.len() - 1] {
        fs_err::write(&segment, &good_segment[..len]).unwrap();
        fails("cut segment");
    }
    let mut newer = good_segment.clone();
    newer[8] = 9;
    fs_err::write(&segment, &newer).unwrap();
    assert!(fails("newer segment").to_string().contains("version 9"));
    fs_err::remove_file(&segment).unwrap();
    fails("no segment");
    fs_err::write(&segment, &good_segment).unwrap();
    Index::open(&directory).unwrap();
}

#[test]
fn a_segment_that_shrinks_while_it_is_open_is_an_error() {
    let (_temporary, directory) = index_dir();
    let index = Index::open(&directory).unwrap();
    let file = fs_err::OpenOptions::new()
        .write(true)
        .open(segment_of(&directory))
        .unwrap();
    file.set_len(1024).unwrap();
    let address = ContentAddress::Flat(FlatHash(digest(KeyKind::FlatSha256, 1)));
    assert!(index.look_up(&address, 8).is_err());
}

#[test]
fn readers_keep_what_they_opened_while_writers_merge() {
    let (_temporary, directory) = index_dir();
    let before = Index::open(&directory).unwrap();
    let address = ContentAddress::Flat(FlatHash(digest(KeyKind::FlatSha256, 1)));
    let expected = before.look_up(&address, 100).unwrap();
    assert_eq!(expected.len(), 8);
    for round in 0..20_u8 {
        let mut writer = IndexWriter::open(
            &directory,
            &Root::store("/test/store"),
            None,
            false,
            watch(),
        )
        .unwrap();
        let name = [round.wrapping_mul(11).wrapping_add(1); 32];
        writer
            .append(&batch(&[Entry::Link {
                name,
                size: 1,
                seed: 11,
            }]))
            .unwrap();
        writer.finish(None).unwrap();
        assert!(writer.manifest().segments.len() <= 8);
        assert_eq!(before.look_up(&address, 100).unwrap(), expected);
    }
    let after = Index::open(&directory).unwrap();
    assert_eq!(after.look_up(&address, 100).unwrap().len(), expected.len());
    let newest = ContentAddress::Flat(FlatHash(digest(KeyKind::FlatSha256, 11)));
    assert_eq!(after.look_up(&newest, 100).unwrap().len(), 6 + 20);
    assert_eq!(
        store_index::check::check(&directory, None, watch()).findings,
        []
    );
}

#[test]
fn dead_objects_are_not_found_and_go_with_the_next_merge() {
    let (_temporary, directory) = index_dir();
    let address = ContentAddress::Flat(FlatHash(digest(KeyKind::FlatSha256, 1)));
    let mut writer = IndexWriter::open(
        &directory,
        &Root::store("/test/store"),
        None,
        false,
        watch(),
    )
    .unwrap();
    let segment = writer.current_segments().remove(0);
    let dead = segment
        .find(KeyKind::FlatSha256, address.digest().as_bytes(), 3)
        .unwrap();
    writer.declare_dead(&segment, dead);
    writer.finish(None).unwrap();
    drop(writer);
    let index = Index::open(&directory).unwrap();
    assert_eq!(index.manifest().segments[0].dead_count(), 3);
    assert_eq!(index.look_up(&address, 100).unwrap().len(), 8 - 3);
    let mut writer = IndexWriter::open(
        &directory,
        &Root::store("/test/store"),
        None,
        false,
        watch(),
    )
    .unwrap();
    let segment = writer.current_segments().remove(0);
    writer.declare_dead(&segment, 0..60);
    writer.finish(None).unwrap();
    drop(writer);
    let index = Index::open(&directory).unwrap();
    let entry = &index.manifest().segments[0];
    assert_eq!(
        (entry.dead_count(), entry.objects()),
        (0, 85 - 60),
        "mostly dead segments are rewritten"
    );
    assert_eq!(
        store_index::check::check(&directory, None, watch()).findings,
        []
    );
}

#[test]
fn check_finds_any_flipped_bit() {
    let (_temporary, directory) = index_dir();
    let segment = segment_of(&directory);
    let good = fs_err::read(&segment).unwrap();
    for at in (0..good.len()).step_by(101) {
        let mut damaged = good.clone();
        damaged[at] ^= 4;
        fs_err::write(&segment, &damaged).unwrap();
        let report = store_index::check::check(&directory, None, watch());
        assert!(report.wrong > 0, "byte {at}");
        assert!(
            report
                .findings
                .iter()
                .all(|finding| finding.place.starts_with(&directory))
        );
    }
}

/// Written by version 1 and never made again: the promise that it stays readable.
#[test]
fn the_golden_index_stays_readable() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/index-v1");
    let index = Index::open(&directory).unwrap();
    assert_eq!(index.root(), Root::store("/gnu/store"));
    assert_eq!(index.manifest().kinds, all_kinds());
    assert!(index.manifest().finished && index.is_fresh_for(1_234_567_890_123_456_789));
    assert_eq!(
        store_index::check::check(&directory, None, watch()).findings,
        []
    );

    let look_up = |address: ContentAddress| {
        let entries = index.look_up(&address, 10).unwrap();
        entries
            .into_iter()
            .map(|entry| (entry.location, entry.size))
            .collect::<Vec<_>>()
    };
    let sha256 = |hex: &str| Digest::sha256(hex::decode(hex).unwrap().try_into().unwrap());
    let hello = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    let link = LinkName::parse(b"04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw").unwrap();
    let path = PathBuf::from("gy454w1cxaq731grqwylhzf4pp9r5izh-hello.txt");
    let both = vec![(Location::File(path), 6), (Location::Link(link), 6)];
    assert_eq!(look_up(ContentAddress::Flat(FlatHash(sha256(hello)))), both);
    let nar = "1c37d01af40be2e80691de3cc3df44377a699afbb17c68f080964b2fd071fc13";
    let mut nar_only = look_up(ContentAddress::Nar(NarHash(sha256(nar))));
    nar_only.sort_by_key(|(_, size)| *size);
    assert_eq!(nar_only.len(), 2);
    let blob = Digest::new(
        store_index::digest::Algorithm::Sha1,
        &hex::decode("ce013625030ba8dba906f756967f9e9ca394464a").unwrap(),
    );
    let git = GitHash::new(blob.unwrap(), GitObject::Any).unwrap();
    assert_eq!(look_up(ContentAddress::Git(git)), both);
    // Dead in the older segment: sha256 of "gone\n".
    let gone = "4b9f2c32577beb1ebc8ab2a1e226faaa9176a81cd4eedbaa22f8a0db919972b5";
    assert_eq!(look_up(ContentAddress::Flat(FlatHash(sha256(gone)))), []);
}
