//! Any bytes as manifest, segment and dead list, then every accessor: errors are fine, panics are bugs.

#![no_main]

#[path = "../../../tests/support/every_accessor.rs"]
mod every_accessor;

use libfuzzer_sys::fuzz_target;

/// Where a segment's header has its checksum.
const CHECKSUM_AT: usize = 992;

fuzz_target!(|bytes: &[u8]| {
    drop(store_index::manifest::Manifest::decode(bytes));
    every_accessor::exercise(bytes, Some(bytes));
    // The same as a hostile disc would have it: with a header checksum that fits, so that what lies behind is reached.
    if bytes.len() >= CHECKSUM_AT + 32 {
        let mut mended = bytes.to_vec();
        mended[..8].copy_from_slice(b"stidxseg");
        mended[8..12].copy_from_slice(&1_u32.to_le_bytes());
        let len = mended.len() as u64;
        mended[16..24].copy_from_slice(&len.to_le_bytes());
        let checksum = blake3::hash(&mended[..CHECKSUM_AT]);
        mended[CHECKSUM_AT..CHECKSUM_AT + 32].copy_from_slice(checksum.as_bytes());
        every_accessor::exercise(&mended, None);
    }
});
