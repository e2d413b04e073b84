//! A pack as it comes: counted, bounded, checked and indexed by gix.

use std::io::{BufRead, BufReader, Read as _};

use gix::objs::{Data, Find};
use gix::odb::pack::Bundle;
use gix::odb::pack::bundle::write::Options;
use gix::progress::Discard;

use super::line::Line;
use super::session::Destination;
use super::survey::Survey;
use crate::git::inflate::MAX_OBJECT_BYTES;
use crate::git::{OBJECT_HASH, Repository};

/// The most objects of one pack: twice those of Linux with its history. Each costs some 100 bytes of memory, half of it
/// as soon as a server claims to send it.
const MAX_OBJECTS: u32 = 25_000_000;

/// `PACK`, the version and the number of objects.
pub(super) const HEADER_LEN: usize = 12;

/// How much is looked at at a time, in bytes.
const BUFFER_LEN: usize = 64 << 10;

/// Resolving deltas takes a chain of objects into memory for each thread.
const MAX_THREADS: usize = 4;

/// Writes a pack and its index.
pub(super) fn pack(
    pack: &mut dyn BufRead,
    into: Destination<'_>,
    line: &Line<'_>,
) -> gix::Result<()> {
    line.expect_pack();
    let mut header = [0; HEADER_LEN];
    pack.read_exact(&mut header)
        .map_err(gix::Error::from_error)?;
    let count = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    if count > MAX_OBJECTS {
        let what = format!("a pack of {count} objects is over the limit of {MAX_OBJECTS}");
        return Err(gix::Error::from_error(std::io::Error::other(what)));
    }
    let ours = |id: &gix::oid| matches!(into.repository.database.kind(id), Ok(Some(_)));
    let packs = into.folder.join("objects/pack");
    let folder = fs_err::File::open(&packs).map_err(gix::Error::from_error)?;
    let survey = Survey::new(pack, count, folder.file(), ours);
    let mut whole = BufReader::with_capacity(BUFFER_LEN, header.as_slice().chain(survey));
    let written = Bundle::write_to_directory(
        &mut whole,
        Some(&packs),
        &mut Discard,
        line.watch.interrupt,
        Some(Bases(into.repository)),
        OBJECT_HASH,
        Options {
            thread_limit: Some(MAX_THREADS),
            alloc_limit_bytes: usize::try_from(MAX_OBJECT_BYTES).ok(),
            ..Options::default()
        },
    )?;
    if let Some(keep) = written.keep_path {
        // It keeps git's collector away, and no collector comes here.
        drop(fs_err::remove_file(keep));
    }
    line.expect_talk();
    Ok(())
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
