//! Any text as a hash: what is read prints as something that reads as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use store_index::digest::Algorithm;
use store_index::hash_text::parse;

fuzz_target!(|text: &str| {
    for algorithm in [None].into_iter().chain(Algorithm::ALL.map(Some)) {
        if let Ok(parsed) = parse(text, algorithm) {
            let printed = parsed.digest.in_form(parsed.form).to_string();
            assert_eq!(parse(&printed, algorithm).expect("what was printed can be read"), parsed);
            drop(parsed.into_address(None));
        }
    }
});
