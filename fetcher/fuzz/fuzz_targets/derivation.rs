//! Any bytes as a derivation, and what a derivation of Guix comes to: errors are fine, panics are bugs, and what is
//! refused is refused before a file is read.

#![no_main]

use std::path::Path;

use fetcher::derivation::Derivation;
use fetcher::guix::request::{self, Store};
use libfuzzer_sys::fuzz_target;
use store_index::beneath::Beneath;

const OUTPUT: &str = "/gnu/store/dc2lq5rsfi1lqvygld9vfan9l66ywp29-trace1";

fuzz_target!(|bytes: &[u8]| {
    let Ok(derivation) = Derivation::parse(bytes) else {
        return;
    };
    drop(derivation.fixed_output());
    // An empty folder plays the store: what a derivation names is not there.
    let files = Beneath::open(Path::new("/proc/self/task")).expect("there is a folder to open");
    let store = Store {
        directory: "/gnu/store",
        files: &files,
    };
    if let Ok(work) = request::of(&derivation, OUTPUT, &store) {
        assert!(work.request.urls.iter().all(|url| !url.is_file()));
    }
});
