//! Every format of checksum list, packed and plain, from hostile bytes: errors are fine, panics are bugs, and nothing
//! that is handed out leads out of the medium.
#![no_main]

use libfuzzer_sys::fuzz_target;
use store_index::checksum_list::{MAX_PATH_LEN, read, recognise};

const NAMES: [&[u8]; 10] = [
    b"Sources",
    b"Sources.gz",
    b"Sources.xz",
    b"a_1.dsc",
    b"SHA256SUMS",
    b"MD5SUMS",
    b"a.tar.gz.sha512",
    b"a.sha1",
    b"Manifest",
    b"distinfo",
];

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, text)) = bytes.split_first() else {
        return;
    };
    let _kind = recognise(text);
    let kind = recognise(NAMES[usize::from(choice) % NAMES.len()]).expect("all are lists");
    let mut entries = 0;
    let result = read(&kind, b"dists/stable/main/source", text, &mut |listed| {
        entries += 1;
        assert!(!listed.digests.is_empty());
        assert!(listed.digests.windows(2).all(|pair| pair[0].algorithm() < pair[1].algorithm()));
        assert!(listed.path.len() <= MAX_PATH_LEN && !listed.path.contains(&0));
        for part in listed.path.split(|&byte| byte == b'/') {
            assert!(!matches!(part, b"" | b"." | b".."));
        }
    });
    if let Ok(summary) = result {
        assert_eq!(summary.entries, entries);
    }
});
