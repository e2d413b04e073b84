//! Any bytes as Scheme data: what is read prints as something that reads as the same. And as a list of mirrors.

#![no_main]

use fetcher::guix::datum::Datum;
use fetcher::guix::mirrors::Mirrors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(datum) = Datum::parse(bytes) {
        let printed = datum.to_string();
        assert_eq!(
            Datum::parse(printed.as_bytes()).expect("what was printed can be read"),
            datum
        );
    }
    if let Ok(mirrors) = Mirrors::parse(bytes) {
        drop(mirrors.expand(&["mirror://gnu/hello/hello-2.10.tar.gz", "https://example.org/a"]));
    }
});
