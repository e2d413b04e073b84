//! A pack as it comes: counted, bounded, checked and indexed by gix.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Write as _};

use gix::objs::{Data, Find};
use gix::odb::pack::Bundle;
use gix::odb::pack::bundle::write::Options;
use gix::odb::pack::data::input::Mode;
use gix::progress::Discard;

use super::line::Line;
use super::session::Destination;
use super::survey::Survey;
use crate::git::inflate::MAX_OBJECT_BYTES;
use crate::git::{OBJECT_HASH, Repository};
use crate::net::NetError;

/// The most objects of one pack: twice those of Linux with its history. Each costs some 100 bytes of memory, half of it
/// as soon as a server claims to send it.
const MAX_OBJECTS: u32 = 25_000_000;

/// `PACK`, the version and the number of objects.
pub(super) const HEADER_LEN: usize = 12;

/// How much is looked at at a time, in bytes.
const BUFFER_LEN: usize = 64 << 10;

/// Resolving deltas takes a chain of objects into memory for each thread.
const MAX_THREADS: usize = 4;

/// What comes, until it is whole: so much of it as came is not asked for again.
pub(super) const INCOMING: &str = "objects/pack/incoming";

/// What came, while it is made a pack of. Whoever finds it was killed by that, and removes it.
const TRIED: &str = "objects/pack/incoming.tried";

/// Writes a pack and its index.
pub(super) fn pack(
    pack: &mut dyn BufRead,
    into: Destination<'_>,
    line: &Line<'_>,
) -> gix::Result<()> {
    line.expect_pack();
    let path = into.folder.join(INCOMING);
    let copy = match into.is_kept {
        true => Some(fs_err::File::create(&path).map_err(gix::Error::from_error)?),
        false => None,
    };
    let copy_to = copy.as_ref().map(fs_err::File::file);
    let (written, was_cut) = write(pack, copy_to, Mode::Verify, into, line);
    if was_cut && line.is_well() && !line.watch.interrupted() {
        let _error = line.failed(NetError::Short {
            got_bytes: line.got_bytes(),
            wanted_bytes: None,
            reason: "the pack broke off".into(),
        });
    }
    // What is wrong is not to be met again.
    if !was_cut && copy.is_some() {
        drop(fs_err::remove_file(&path));
    }
    written?;
    line.expect_talk();
    Ok(())
}

/// Makes a pack of the whole objects that came before one was cut off. Returns true if there are any.
pub(super) fn salvage(into: Destination<'_>, line: &Line<'_>) -> bool {
    let (path, tried) = (into.folder.join(INCOMING), into.folder.join(TRIED));
    let renamed = fs_err::rename(&path, &tried);
    let Ok(incoming) = renamed.and_then(|()| fs_err::File::open(&tried)) else {
        return false;
    };
    let mut incoming = BufReader::new(incoming);
    let (written, _) = write(&mut incoming, None, Mode::Restore, into, line);
    drop(match line.watch.interrupted() {
        true => fs_err::rename(&tried, &path),
        false => fs_err::remove_file(&tried),
    });
    written.is_ok_and(|objects| objects > 0)
}

/// Writes what is in a pack, and copies it as it comes. Returns how many objects there are, and whether it was cut off.
fn write(
    pack: &mut dyn BufRead,
    copy: Option<&File>,
    mode: Mode,
    into: Destination<'_>,
    line: &Line<'_>,
) -> (gix::Result<u32>, bool) {
    let mut was_cut = false;
    let written = try_write(pack, copy, mode, into, line, &mut was_cut);
    let is_cut = written.is_err() && (was_cut || line.watch.interrupted());
    (written, is_cut)
}

fn try_write(
    pack: &mut dyn BufRead,
    copy: Option<&File>,
    mode: Mode,
    into: Destination<'_>,
    line: &Line<'_>,
    was_cut: &mut bool,
) -> gix::Result<u32> {
    let mut header = [0; HEADER_LEN];
    pack.read_exact(&mut header)
        .map_err(gix::Error::from_error)?;
    if let Some(mut copy) = copy {
        copy.write_all(&header).map_err(gix::Error::from_error)?;
    }
    let count = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    if count > MAX_OBJECTS {
        let what = format!("a pack of {count} objects is over the limit of {MAX_OBJECTS}");
        return Err(gix::Error::from_error(std::io::Error::other(what)));
    }
    let packs = into.folder.join("objects/pack");
    let folder = fs_err::File::open(&packs).map_err(gix::Error::from_error)?;
    let reserve = (folder.file(), line.limits.disk_reserve);
    // A pack that needs none is written as it comes, instead of being put together anew.
    let needs_bases = !into.haves.is_empty() || mode == Mode::Restore;
    // Whom gix does not ask has no base: then it is looked for in the pack, whatever else we have.
    let ours =
        |id: &gix::oid| needs_bases && matches!(into.repository.database.kind(id), Ok(Some(_)));
    let bases = needs_bases.then_some(Bases(into.repository));
    let survey = Survey::new(pack, count, reserve, (copy, was_cut), ours);
    let survey = match needs_bases {
        true => survey,
        false => survey.written_at_once(),
    };
    let mut whole = BufReader::with_capacity(BUFFER_LEN, header.as_slice().chain(survey));
    let written = Bundle::write_to_directory(
        &mut whole,
        Some(&packs),
        &mut Discard,
        line.watch.interrupt,
        bases,
        OBJECT_HASH,
        Options {
            thread_limit: Some(MAX_THREADS),
            iteration_mode: mode,
            alloc_limit_bytes: usize::try_from(MAX_OBJECT_BYTES).ok(),
            ..Options::default()
        },
    )?;
    if let Some(keep) = written.keep_path {
        // It keeps git's collector away, and no collector comes here.
        drop(fs_err::remove_file(keep));
    }
    Ok(written.index.num_objects)
}

/// Bases that a thin pack leaves out because we have them.
struct Bases<'a>(&'a Repository);

impl Find for Bases<'_> {
    fn try_find<'b>(
        &self,
        id: &gix::oid,
        buffer: &'b mut Vec<u8>,
    ) -> gix::Result<Option<Data<'b>>> {
        let found = self.0.database.find(id);
        let Some(object) = found.map_err(gix::Error::from_error)? else {
            return Ok(None);
        };
        buffer.clear();
        buffer.extend_from_slice(&object.data);
        Ok(Some(Data {
            kind: object.kind,
            object_hash: OBJECT_HASH,
            data: buffer,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use gix::ObjectId;
    use gix::odb::pack::data::entry::Header;
    use store_index::watch::{NoProgress, Watch};

    use super::super::room;
    use super::super::survey::tests::Made;
    use super::*;
    use crate::net::Limits;

    /// A little below what a chain may have.
    const BASE_BYTES: u64 = 400 << 20;

    #[test]
    fn what_we_have_bounds_a_chain_only_where_it_is_its_base() {
        let folder = tempfile::tempdir().unwrap();
        room::make_bare(folder.path()).unwrap();
        let ids: Vec<ObjectId> = (0..8u8)
            .map(|number| {
                let id = gix::objs::compute_hash(OBJECT_HASH, gix::objs::Kind::Blob, &[number]);
                let (id, level) = (id.unwrap(), gix::zlib::Compression::BEST_SPEED);
                let hex = id.to_string();
                let path = folder.path().join("objects").join(&hex[..2]);
                fs_err::create_dir_all(&path).unwrap();
                let file = fs_err::File::create(path.join(&hex[2..])).unwrap();
                let mut stream = gix::zlib::stream::deflate::Write::new(file, level);
                stream
                    .write_all(&[b"blob 1\0".as_slice(), &[number]].concat())
                    .unwrap();
                stream.flush().unwrap();
                id
            })
            .collect();
        let mut made = Made::default();
        for base_id in &ids {
            made.delta(Header::RefDelta { base_id: *base_id }, BASE_BYTES, 25);
        }
        let repository = room::open(folder.path()).unwrap();
        let interrupt = AtomicBool::new(false);
        let watch = Watch {
            interrupt: &interrupt,
            progress: &NoProgress,
        };
        let line = Line::new(Limits::default(), watch, false);
        let error_with = |haves: &[ObjectId]| {
            let into = Destination {
                folder: folder.path(),
                repository: &repository,
                haves,
                is_kept: false,
            };
            let bytes = made.whole();
            let error = pack(&mut bytes.as_slice(), into, &line).unwrap_err();
            let causes = error.iter_errors().map(|cause| cause.to_string());
            causes.collect::<Vec<_>>().join(": ")
        };
        // One may follow upon the other then.
        let error = error_with(&[]);
        assert!(error.contains("a chain of deltas are larger"), "{error}");
        // What was put in as a base is no longer any other's.
        let error = error_with(&ids[..1]);
        assert!(!error.contains("a chain of deltas are larger"), "{error}");
    }
}
