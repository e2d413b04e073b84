//! Any bytes as a repository's pack and its index: a tag is looked up in it and the tree checked out. Errors are fine,
//! panics are bugs, and nothing becomes an output whose hash is another.
//!
//! The input is the index's length in two bytes, the index, the pack.

#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use fetcher::fetch::{self, Policy};
use fetcher::git::Revision;
use fetcher::places::{Named, Places};
use fetcher::report::{Attempt, Listener};
use fetcher::request::{GitSource, Request, Target};
use fetcher::source_url::SourceUrl;
use libfuzzer_sys::fuzz_target;
use store_index::address::{ContentAddress, NarHash};
use store_index::digest::Digest;
use store_index::hash_text::HashForm;
use store_index::watch::{NoProgress, Watch};

/// The seed's tag, and where it leads.
const REFS: &str = "748253909f079a6e7dab96d9d8d49bd4c97d6977 refs/tags/v1\n^25177e86995bc214cd18025e9bf78777618c908f\n";

struct Silent;

impl Listener for Silent {
    fn warning(&self, _message: &str) {}
    fn loud_warning(&self, _message: &str) {}
    fn attempt(&self, _attempt: &Attempt) {}
}

/// A bare repository without objects, for this process alone.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("fuzz-repository-{}", std::process::id()));
        let repository = folder.join("media/r.git");
        std::fs::create_dir_all(repository.join("objects/pack")).expect("folders can be made");
        std::fs::create_dir_all(repository.join("refs")).expect("folders can be made");
        std::fs::write(repository.join("HEAD"), "ref: refs/heads/main\n").expect("it can be written");
        std::fs::write(repository.join("packed-refs"), REFS).expect("it can be written");
        folder
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let (index, pack) = rest.split_at(rest.len().min(u16::from_le_bytes(*length).into()));
    let folder = folder();
    let stem = folder.join("media/r.git/objects/pack/pack-1");
    std::fs::write(stem.with_extension("idx"), index).expect("it can be written");
    std::fs::write(stem.with_extension("pack"), pack).expect("it can be written");
    let address = ContentAddress::Nar(NarHash(Digest::sha256([0; 32])));
    let output = folder.join("output");
    let request = Request {
        address,
        form: HashForm::Sri,
        name: None,
        item_names: Vec::new(),
        asked_names: Vec::new(),
        urls: Vec::new(),
        hashed_urls: Vec::new(),
        git: Some(GitSource {
            url: SourceUrl::parse("https://example.org/r.git").expect("a URL"),
            revision: Revision::parse("v1").expect("a revision"),
        }),
        executable: false,
        target: Target::Path(output.clone()),
    };
    let named = Named {
        media: vec![folder.join("media")],
        no_store: true,
        no_media: true,
        ..Named::default()
    };
    let places = Places::open(&named, None).expect("the folder is there");
    let policy = Policy {
        offline: true,
        ..Policy::default()
    };
    let interrupt = AtomicBool::new(false);
    let watch = Watch {
        interrupt: &interrupt,
        progress: &NoProgress,
    };
    let report = fetch::run(&request, &places, &policy, &Silent, watch);
    assert!(report.result.is_err() && !output.exists());
});
