//! Any bytes as a `sources.json` and as lists of checksums: errors are fine, panics are bugs, and no output lies outside
//! the folder that outputs go into.

#![no_main]

use std::ffi::OsStr;
use std::sync::LazyLock;

use fetcher::batch::fuzzing::plan;
use fetcher::source_url::SourceUrl;
use libfuzzer_sys::fuzz_target;

static BASE: LazyLock<SourceUrl> =
    LazyLock::new(|| SourceUrl::parse("https://example.org/pool").expect("it is one"));

fuzz_target!(|bytes: &[u8]| {
    for (name, base) in [
        ("sources.json", None),
        ("SHA256SUMS", Some(&*BASE)),
        ("a.md5", None),
    ] {
        let _entries = plan(OsStr::new(name), bytes, base);
    }
});
