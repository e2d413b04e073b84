//! Checks an index against itself, and against the files that it speaks of.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};

use crate::beneath::Beneath;
use crate::digest::Digest;
use crate::directory_links::{self, Base, Expected};
use crate::format::{CELL_LEN, SectionKind, bucket_of, compare_paths, u32_at};
use crate::hash_file::{BUFFER_LEN, NotHashed, Purpose, hash};
use crate::index::read_manifest;
use crate::key::{Digests, KeyKind};
use crate::manifest::{Manifest, SegmentEntry};
use crate::mounts;
use crate::path_text;
use crate::places::IN_PLACE_DIR;
use crate::read_at::open_regular;
use crate::root::RootKind;
use crate::segment::SegmentError;
use crate::segment::reader::{Object, Segment};
use crate::tree::Skip;
use crate::watch::{Unit, Watch};

/// The most findings that are described: a rotten disk has millions.
const MAX_FINDINGS: usize = 100;

/// How many objects' digests are held in memory while files are read.
const OBJECTS_AT_ONCE: u32 = 65_536;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which file: of the index directory, or below the root.
    pub place: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The first things that are wrong.
    pub findings: Vec<Finding>,
    /// How many there are.
    pub wrong: u64,
    /// Objects of the index that were looked at.
    pub objects: u64,
    /// Files that were read and hashed.
    pub files_read: u64,
    /// True if the check was broken off.
    pub interrupted: bool,
}

impl Report {
    pub(crate) fn add(&mut self, place: impl Into<PathBuf>, what: impl Into<String>) {
        self.wrong += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding {
                place: place.into(),
                what: what.into(),
            });
        }
    }
}

/// Checks the index in a directory; with the real path of its root also the content of every file.
pub fn check(directory: &Path, content: Option<&Path>, watch: Watch<'_>) -> Report {
    let mut report = Report::default();
    let manifest = match read_manifest(directory) {
        Ok(manifest) => manifest,
        Err(error) => {
            report.add(
                directory.join(crate::manifest::FILE_NAME),
                error.to_string(),
            );
            return report;
        }
    };
    watch.progress.begin(
        &format!("checking {}", path_text::printable(directory)),
        None,
        Unit::Bytes,
    );
    let mut segments = Vec::new();
    for entry in &manifest.segments {
        match check_segment(directory, entry, &mut report, watch) {
            Ok(segment) => segments.push(segment),
            Err(error) => report.add(directory.join(&entry.file), error.to_string()),
        }
        if watch.interrupted() {
            report.interrupted = true;
        }
    }
    if let Some(real) = content.filter(|_| !report.interrupted) {
        check_content(&manifest, &segments, real, &mut report, watch);
    }
    if !report.interrupted {
        check_directories(directory, &manifest, content, &mut report, watch);
    }
    watch.progress.end();
    report
}

/// Checks the directory links; that they lead somewhere, if the root is there.
fn check_directories(
    directory: &Path,
    manifest: &Manifest,
    content: Option<&Path>,
    report: &mut Report,
    watch: Watch<'_>,
) {
    let is_store = manifest.root.kind() == RootKind::Store;
    let canonical = fs_err::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let around = canonical
        .parent()
        .filter(|_| !is_store && canonical.file_name() == Some(OsStr::new(IN_PLACE_DIR)));
    let recorded = manifest
        .real
        .as_deref()
        .unwrap_or_else(|| manifest.root.path());
    let real = content.or(around).unwrap_or(recorded);
    // Who wants contents compared has said which roots may be touched.
    let may_touch = content.is_some() || {
        let mounts = mounts::mounted().unwrap_or_default();
        !mounts::may_hang_at(&mounts, real, &[&canonical])
    };
    let root = may_touch.then(|| Beneath::open(real).ok()).flatten();
    let expected = Expected {
        index_dir: directory,
        base: match around {
            Some(_) => Base::InPlace,
            None => Base::Root(manifest.root.path().to_owned()),
        },
        root: root.as_ref(),
        skip: if is_store {
            Skip::Nothing
        } else {
            Skip::Metadata
        },
        content: content.is_some(),
    };
    directory_links::check(&expected, report, watch);
}

fn check_segment(
    directory: &Path,
    entry: &SegmentEntry,
    report: &mut Report,
    watch: Watch<'_>,
) -> Result<Segment, SegmentError> {
    check_bytes(
        directory,
        &entry.file,
        entry.bytes,
        &entry.checksum,
        report,
        watch,
    );
    if let Some(dead) = &entry.dead {
        check_bytes(
            directory,
            &dead.file,
            dead.bytes,
            &dead.checksum,
            report,
            watch,
        );
    }
    let segment = Segment::open(
        directory,
        &entry.file,
        entry.dead.as_ref().map(|dead| dead.file.as_str()),
    )?;
    let place = directory.join(&entry.file);
    let header = segment.header();
    if (header.links, header.files, header.items) != (entry.links, entry.files, entry.items) {
        report.add(&place, "the manifest has other numbers of objects");
    }
    if segment.dead_count() != entry.dead_count() {
        report.add(&place, "the manifest has another number of dead objects");
    }
    if segment
        .dead_objects()?
        .last()
        .is_some_and(|&last| u64::from(last) >= header.objects())
    {
        report.add(&place, "the dead list names objects that do not exist");
    }
    report.objects += header.objects();
    for section in &header.sections {
        if section.kind.record_shape().is_some() {
            check_table(&segment, section.kind, &place, report)?;
        }
    }
    check_files(&segment, &place, report)?;
    Ok(segment)
}

/// Compares length and checksum of a file of the index with what the manifest says.
fn check_bytes(
    directory: &Path,
    name: &str,
    len: u64,
    checksum: &str,
    report: &mut Report,
    watch: Watch<'_>,
) {
    let place = directory.join(name);
    let hashed = open_regular(&place).and_then(|mut file| {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER_LEN];
        let mut seen = 0;
        while !watch.interrupted() {
            let count = std::io::Read::read(&mut file, &mut buffer)?;
            if count == 0 {
                break;
            }
            seen += count as u64;
            hasher.update(&buffer[..count]);
            watch.progress.advance(count as u64);
        }
        Ok((seen, hasher.finalize()))
    });
    match hashed {
        _ if watch.interrupted() => {}
        Err(error) => report.add(place, error.to_string()),
        Ok((seen, _)) if seen != len => report.add(
            place,
            format!("it has {seen} bytes, the manifest says {len}"),
        ),
        Ok((_, found)) if found.to_hex().as_str() != checksum => {
            report.add(place, "its checksum is wrong")
        }
        Ok(_) => {}
    }
}

/// Checks order, fan-out and object numbers of a table; stops at the first thing that is wrong.
fn check_table(
    segment: &Segment,
    kind: SectionKind,
    place: &Path,
    report: &mut Report,
) -> Result<(), SegmentError> {
    let (Some(section), Some(shape)) =
        (segment.header().section(kind).copied(), kind.record_shape())
    else {
        return Ok(());
    };
    let objects = segment.header().links + segment.header().files;
    let mut cells = vec![0_u32; (1 << section.fan_out_bits) + 1];
    let mut last: Vec<u8> = Vec::new();
    if let Some(mut cursor) = segment.records(kind)? {
        while let Some(record) = cursor.record() {
            let (digest, payload) = record.split_at(shape.digest);
            let key = matches!(kind, SectionKind::Keys(_));
            let in_order = last.is_empty() || {
                let (last_digest, last_payload) = last.split_at(shape.digest);
                let by_digest = last_digest.cmp(digest);
                by_digest.is_lt()
                    || (key && by_digest.is_eq() && u32_at(last_payload, 0) < u32_at(payload, 0))
            };
            if !in_order {
                report.add(
                    place,
                    format!(
                        "{} are out of order at record {}",
                        name(kind),
                        cursor.position()
                    ),
                );
                return Ok(());
            }
            if key && u64::from(u32_at(payload, 0)) >= objects {
                report.add(
                    place,
                    format!(
                        "record {} of {} leads to no object",
                        cursor.position(),
                        name(kind)
                    ),
                );
                return Ok(());
            }
            cells[bucket_of(digest, section.fan_out_bits) as usize + 1] += 1;
            last.clear();
            last.extend_from_slice(record);
            cursor.advance()?;
        }
    }
    let mut sum = 0;
    let mut bytes = vec![0; cells.len() * CELL_LEN];
    segment.source().read(
        &mut bytes,
        section.offset + section.count * shape.len() as u64,
    )?;
    for (at, (count, found)) in cells.iter().zip(bytes.chunks_exact(CELL_LEN)).enumerate() {
        sum += count;
        if u32_at(found, 0) != sum {
            report.add(
                place,
                format!("fan-out cell {at} of {} is wrong", name(kind)),
            );
            break;
        }
    }
    Ok(())
}

fn name(kind: SectionKind) -> String {
    match kind {
        SectionKind::Links => "links".to_owned(),
        SectionKind::Items => "items".to_owned(),
        SectionKind::Files => "files".to_owned(),
        SectionKind::Paths => "paths".to_owned(),
        SectionKind::Keys(kind) => format!("{kind} keys"),
    }
}

fn check_files(segment: &Segment, place: &Path, report: &mut Report) -> Result<(), SegmentError> {
    let mut files = segment.files()?;
    let mut last: Vec<u8> = Vec::new();
    while let Some((position, file)) = files.next_file()? {
        if position > 0 && !compare_paths(&last, &file.path).is_lt() {
            report.add(
                place,
                format!("files are out of order at record {position}"),
            );
            return Ok(());
        }
        last = file.path;
    }
    Ok(())
}

/// Reads all live files and compares all digests.
fn check_content(
    manifest: &Manifest,
    segments: &[Segment],
    real: &Path,
    report: &mut Report,
    watch: Watch<'_>,
) {
    let beneath = match Beneath::open(real) {
        Ok(beneath) => beneath,
        Err(error) => {
            return report.add(
                real,
                format!("the {} cannot be read: {error}", manifest.root.kind()),
            );
        }
    };
    for segment in segments {
        let objects = (segment.header().links + segment.header().files) as u32;
        for first in (0..objects).step_by(OBJECTS_AT_ONCE as usize) {
            let range = first..objects.min(first.saturating_add(OBJECTS_AT_ONCE));
            if let Err(error) = check_objects(segment, range, &beneath, report, watch) {
                report.add(segment.name(), error.to_string());
                break;
            }
            if watch.interrupted() {
                report.interrupted = true;
                return;
            }
        }
    }
}

fn check_objects(
    segment: &Segment,
    range: std::ops::Range<u32>,
    beneath: &Beneath,
    report: &mut Report,
    watch: Watch<'_>,
) -> Result<(), SegmentError> {
    let mut expected = vec![Digests::default(); range.len()];
    for kind in segment.kinds().iter() {
        let Some(mut cursor) = segment.records(SectionKind::Keys(kind))? else {
            continue;
        };
        while let Some(record) = cursor.record() {
            let (bytes, object) = record.split_at(kind.digest_len());
            let object = u32_at(object, 0);
            if range.contains(&object)
                && let Some(digest) = Digest::new(kind.recipe().1, bytes)
            {
                expected[(object - range.start) as usize].set(kind, &digest);
            }
            cursor.advance()?;
        }
    }
    let findings: Vec<Result<Option<Finding>, SegmentError>> = range
        .clone()
        .into_par_iter()
        .filter(|_| !watch.interrupted())
        .map_init(
            || vec![0; BUFFER_LEN],
            |buffer, object| {
                let digests = &expected[(object - range.start) as usize];
                check_object(segment, object, digests, beneath, buffer, watch)
            },
        )
        .collect();
    for finding in findings {
        report.files_read += 1;
        if let Some(finding) = finding? {
            report.add(finding.place, finding.what);
        }
    }
    Ok(())
}

fn check_object(
    segment: &Segment,
    object: u32,
    expected: &Digests,
    beneath: &Beneath,
    buffer: &mut [u8],
    watch: Watch<'_>,
) -> Result<Option<Finding>, SegmentError> {
    if !segment.is_live(object)? {
        return Ok(None);
    }
    let (relative, size, link) = match segment.object(object)? {
        Object::Link { name, size } => (name.relative_path(), size, Some(name)),
        Object::File(file) => {
            use std::os::unix::ffi::OsStringExt as _;
            (
                PathBuf::from(std::ffi::OsString::from_vec(file.path)),
                file.size,
                None,
            )
        }
        Object::Item { .. } => return Ok(None),
    };
    let wrong = |what: String| {
        Ok(Some(Finding {
            place: beneath.path().join(&relative),
            what,
        }))
    };
    let file = match beneath.open_file(&relative) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return wrong("it is gone; `store-index update` drops it".to_owned());
        }
        Err(error) => return wrong(error.to_string()),
    };
    let kinds = match link {
        // A link's own NAR hash is its name, so both forms are taken and compared.
        Some(_) => segment
            .kinds()
            .with(KeyKind::NarPlain)
            .with(KeyKind::NarExecutable),
        None => segment.kinds(),
    };
    let executable = file
        .metadata()
        .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::mode(&metadata) & 0o100 != 0);
    let hashed = match hash(file, Purpose::Immutable, kinds, buffer, watch) {
        Ok(hashed) => hashed,
        Err(NotHashed::Interrupted) => return Ok(None),
        Err(NotHashed::Changed) => return wrong("it changed while it was read".to_owned()),
        Err(NotHashed::Unreadable(error)) => return wrong(error.to_string()),
    };
    if hashed.size != size {
        return wrong(format!(
            "it has {} bytes, the index says {size}",
            hashed.size
        ));
    }
    if let Some(name) = link {
        let own = if executable {
            KeyKind::NarExecutable
        } else {
            KeyKind::NarPlain
        };
        if hashed.digests.get(own) != Some(&name.0[..]) {
            return wrong(
                "its content is not what its name says: the store is damaged there".to_owned(),
            );
        }
    }
    for (kind, digest) in expected.iter() {
        if hashed.digests.get(kind) != Some(digest) {
            let found = hashed
                .digests
                .get(kind)
                .map(hex::encode)
                .unwrap_or_default();
            return wrong(format!(
                "its {kind} is {found}, the index says {}",
                hex::encode(digest)
            ));
        }
    }
    Ok(None)
}
