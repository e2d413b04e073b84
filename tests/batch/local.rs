//! What this machine has of many entries: a store without an index, and what git servers need not send.

use serde_json::json;
use store_index::address::{ContentAddress, Method};
use store_index::digest::Algorithm;
use store_index::store_path::{FixedOutput, ItemName};

use super::{batch, line, sources_json};
use crate::support::git::{GIT, Repository, file};
use crate::support::git_server::HttpBackend;
use crate::support::{TestEnv, digest, lacks, names_in, noise};

/// A store that has no index is listed once for all entries, whatever its items are called.
#[test]
fn a_store_without_an_index_is_listed_once() {
    const ENTRIES: usize = 200;
    const HERE: usize = 150;
    if lacks(
        "a_store_without_an_index_is_listed_once",
        &["strace"],
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let store = env.path("gnu/store");
    let mut list = String::new();
    for number in 0..ENTRIES {
        let content = format!("content {number}");
        list += &line(&format!("file-{number}"), &content);
        let digest = digest(Algorithm::Sha256, content.as_bytes());
        let address = ContentAddress::new(Method::Flat, digest).unwrap();
        // Names that nobody would guess, of which items with other contents have the same.
        let name = ItemName::new(&format!("other-{}", number % 7)).unwrap();
        let item = FixedOutput::new("/gnu/store", &address).base_name(&name);
        if number < HERE {
            env.write(format!("gnu/store/{item}"), &content);
        }
    }
    let list = env.write("SHA256SUMS", list);
    let log = env.path("opened");
    let outcome = env
        .fetch(["batch", "--offline", "--no-media", "--into"])
        .arg(env.out("into"))
        .arg(&list)
        .arg("--store")
        .arg(format!("/gnu/store={}", store.to_str().unwrap()))
        .traced_calls("openat,open", &log)
        .go()
        .exits(3);
    assert_eq!(names_in(&env.out("into")).len(), HERE, "{outcome}");
    let log = fs_err::read_to_string(log).unwrap();
    let store = format!("\"{}\"", store.to_str().unwrap());
    let listed = log
        .lines()
        .filter(|call| call.contains(&store) && call.contains("O_DIRECTORY"));
    let count = listed.count();
    // Once to see that it is a store, once to hold it open, once for all entries.
    assert!((1..=4).contains(&count), "opened {count} times");
}

/// Files that an index knows need not be sent to a batch either.
#[test]
fn git_servers_need_not_send_what_is_here() {
    if lacks("git_servers_need_not_send_what_is_here", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    bare.git(&["config", "uploadpack.allowFilter", "true"]);
    let (big, small) = (noise(1, 300_000), noise(2, 20_000));
    let commit = bare.commit("main", &[file("big", &big), file("small", &small)]);
    let tree = bare.nar_of_clone(&env, &commit);
    env.write("here/under-another-name", &big);
    env.store_index(["update", "--algorithms", "git"])
        .arg(env.path("here"))
        .go()
        .exits(0);
    let http = HttpBackend::start(&env, "srv");
    let list = sources_json(
        &env,
        &[json!({
            "type": "git", "git_url": http.url("some.git"), "git_ref": commit, "integrity": tree,
            "outputHashMode": "recursive",
        })],
    );
    let report = batch(&env, &list)
        .arg("--media")
        .arg(env.path("here"))
        .json(0);
    assert_eq!(report.count("downloaded"), 1);
    let sent = http.take_sent_bytes();
    assert!((20_000..30_000).contains(&sent), "{sent}");
}
