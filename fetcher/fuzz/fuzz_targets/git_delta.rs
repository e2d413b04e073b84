//! Any base and any delta: what comes of it is as long as the delta says, or it is an error.

#![no_main]

use fetcher::git::fuzzing::apply_delta;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], u8, &[u8])| {
    let (base, len, commands) = input;
    drop(apply_delta(base, commands));
    // With sizes that fit, so that the commands are reached.
    if base.len() < 128 {
        let delta = [&[base.len() as u8, len & 0x7f], commands].concat();
        if let Some(object) = apply_delta(base, &delta) {
            assert_eq!(object.len(), usize::from(len & 0x7f));
        }
    }
});
