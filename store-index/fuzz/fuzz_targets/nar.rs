//! Any bytes as a NAR: errors are fine, panics are bugs, and what is read serialises to the same bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use store_index::nar::{Encoder, read::read};

fuzz_target!(|bytes: &[u8]| {
    let mut encoder = Encoder::new(Vec::new()).expect("memory takes everything");
    if read(&mut &*bytes, &mut encoder).is_ok() {
        assert_eq!(encoder.into_inner(), bytes);
    }
});
