//! Puts every question to a segment, whatever its bytes are. Shared by the tests and the fuzzer.

use store_index::format::SectionKind;
use store_index::key::KeyKind;
use store_index::links::LinkName;
use store_index::segment::reader::Segment;

/// How many records of each kind are looked at; hostile headers cannot claim more than the file holds.
const MAX_RECORDS: usize = 2_000;

/// Opens a segment and its dead list from bytes and asks for everything. Errors are fine; panics are bugs.
pub fn exercise(bytes: &[u8], dead: Option<&[u8]>) {
    let dead = dead.map(|bytes| Box::new(bytes.to_vec()) as Box<_>);
    let Ok(segment) = Segment::from_bytes("bytes", Box::new(bytes.to_vec()), dead) else {
        return;
    };
    // More often than tables need to be kept in memory, so that both ways of reading are taken.
    for round in 0..40_u8 {
        let mut name = [round; 32];
        name[0] = round.wrapping_mul(7);
        drop(segment.find_link(&LinkName(name)));
        for kind in KeyKind::ALL {
            drop(segment.find(kind, &name[..kind.digest_len().min(32)], 8));
        }
    }
    drop(segment.live_counts());
    drop(segment.dead_objects());
    drop(segment.first_file_from(b"a/b"));
    for object in (0..MAX_RECORDS as u32).chain([u32::MAX]) {
        drop(segment.is_live(object));
        drop(segment.object(object));
        drop(segment.file(u64::from(object)));
    }
    if let Ok(mut files) = segment.files() {
        for _ in 0..MAX_RECORDS {
            match files.next_file() {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
    }
    let tables = [SectionKind::Links, SectionKind::Items].into_iter();
    for kind in tables.chain(KeyKind::ALL.map(SectionKind::Keys)) {
        let Ok(Some(mut cursor)) = segment.records(kind) else {
            continue;
        };
        for _ in 0..MAX_RECORDS {
            let Some(record) = cursor.record() else { break };
            if let SectionKind::Keys(kind) = kind {
                drop(segment.find(kind, &record[..kind.digest_len()], 8));
            }
            if cursor.advance().is_err() {
                break;
            }
        }
    }
    drop(store_index::segment::merge::merge(
        &[&segment],
        std::io::sink(),
    ));
}
