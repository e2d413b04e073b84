//! Any bytes as the expression of content-addressed mirrors: bounded in time, memory and stack.

#![no_main]

use fetcher::guix::content_addressed::urls;
use libfuzzer_sys::fuzz_target;
use store_index::digest::Digest;

fuzz_target!(|bytes: &[u8]| {
    drop(urls(bytes, "hello-2.10.tar.gz", &Digest::sha256([7; 32])));
});
