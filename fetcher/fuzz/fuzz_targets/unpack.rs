//! Any bytes as an archive: errors are fine, panics are bugs, and nothing appears beside the directory.

#![no_main]

use std::fs::{self, File};
use std::io::Write as _;
use std::sync::atomic::AtomicBool;

use fetcher::unpack::unpack;
use libfuzzer_sys::fuzz_target;
use store_index::watch::{NoProgress, Watch};

/// The most that comes out, in bytes: what is looked for needs no large files.
const MAX_BYTES: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let room = std::env::temp_dir().join(format!("fuzz-unpack-{}", std::process::id()));
    let inside = room.join("inside");
    fs::create_dir_all(&inside).expect("a folder for temporary files");
    let path = room.join("archive");
    let mut file = File::create_new(&path).expect("it was removed");
    file.write_all(bytes).expect("room on the disk");
    let archive = File::open(&path).expect("it was just written");
    let interrupt = AtomicBool::new(false);
    let watch = Watch {
        interrupt: &interrupt,
        progress: &NoProgress,
    };
    let target = File::open(&inside).expect("it was just made").into();
    let _result = unpack(&archive, "x.tar", target, MAX_BYTES, watch);
    let names = fs::read_dir(&room).expect("it is ours").count();
    assert_eq!(names, 2, "something appeared beside the directory");
    assert_eq!(
        fs::read(&path).expect("it is ours"),
        bytes,
        "the archive was written to"
    );
    fs::remove_dir_all(&room).expect("nothing in it is out of reach");
});
