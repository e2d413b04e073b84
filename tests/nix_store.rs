//! `fetch` and `store-index` on a real Nix store: what it has is found, whatever it is called, without a network.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use store_index::digest::Algorithm;

use crate::support::nginx::{NGINX, Nginx};
use crate::support::nix::{NIX, NixStore};
use crate::support::{Run, TestEnv, digest, lacks, mode, nar_sri, noise, portrait, sri};

/// A port on which nothing answers: a request that got as far would fail, not be served.
const NOBODY_THERE: &str = "http://127.0.0.1:1/hello.tar";

impl Run<'_> {
    fn store(self, store: &NixStore) -> Self {
        self.arg("--store").arg(store.dir())
    }

    fn index(self, index: &Path) -> Self {
        self.arg("--index").arg(index)
    }

    fn named(self, name: &str) -> Self {
        self.args(["--name", name])
    }
}

/// A store with a tree in it, optimised: the files are in `.links`, and only inside the tree.
fn store_with_tree(env: &TestEnv) -> (NixStore, PathBuf) {
    let store = NixStore::new(env);
    env.write("tree/deep/down/data", noise(1, 20_000));
    env.write("tree/small", "small\n");
    let run = env.write("tree/run", noise(2, 9_000));
    fs_err::set_permissions(run, std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("deep/down/data", env.path("tree/link")).unwrap();
    let item = store.add(&env.path("tree"));
    store.optimise();
    (store, item)
}

/// Indexes a store and returns the index directory.
fn indexed(env: &TestEnv, store: &NixStore, algorithms: &str) -> PathBuf {
    let index = env.path("index");
    env.store_index(["update", "--algorithms", algorithms, "--index"])
        .arg(&index)
        .store(store)
        .go()
        .exits(0);
    index
}

fn corrupt(path: &Path) {
    let len = fs_err::metadata(path).unwrap().len();
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    fs_err::write(path, noise(99, usize::try_from(len).unwrap())).unwrap();
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o444)).unwrap();
}

#[test]
fn the_same_bytes_under_another_name() {
    if lacks("the_same_bytes_under_another_name", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let bytes = noise(1, 100_000);
    let file = env.write("first.tar", &bytes);
    for (algorithm, name) in [
        (Algorithm::Sha256, "sha256"),
        (Algorithm::Sha1, "sha1"),
        (Algorithm::Sha512, "sha512"),
        (Algorithm::Md5, "md5"),
    ] {
        let item = store.add_fixed(name, false, &file);
        let output = format!("second-{name}.tar");
        let hash = digest(algorithm, &bytes).to_sri();
        let report = env
            .fetch_hash(&hash)
            .store(&store)
            .named(&output)
            .args(["--offline", NOBODY_THERE])
            .json(0);
        assert_eq!(
            (report.kind(), report.location()),
            ("store", item.to_str().unwrap())
        );
        assert_eq!(report.object["hash"], hash);
        assert_eq!(report.object["bytes"], 100_000);
        assert_eq!(env.output(&output), bytes);
        assert_eq!(
            mode(&env.out(&output)),
            0o644,
            "the store's mode is not taken over"
        );
        store.delete(&item);
        let gone = env
            .fetch_hash(&hash)
            .store(&store)
            .named("gone.tar")
            .arg("--offline")
            .json(3);
        assert_eq!(gone.error(), "not-found", "{:#}", gone.object);
    }
}

#[test]
fn the_same_bytes_under_the_same_name() {
    if lacks("the_same_bytes_under_the_same_name", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let bytes = noise(1, 1000);
    let item = store.add_fixed("sha256", false, &env.write("hello.tar", &bytes));
    // No --name: the URL gives it.
    let report = env
        .fetch_hash(sri(&bytes))
        .store(&store)
        .arg(NOBODY_THERE)
        .json(0);
    assert_eq!(
        (report.kind(), report.location()),
        ("store", item.to_str().unwrap())
    );
    assert_eq!(env.output("hello.tar"), bytes);
}

#[test]
fn a_store_that_lies_elsewhere() {
    if lacks("a_store_that_lies_elsewhere", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let bytes = noise(1, 1000);
    let item = store.add_fixed("sha256", false, &env.write("hello.tar", &bytes));
    let moved = env.path("elsewhere");
    fs_err::rename(store.dir(), &moved).unwrap();
    let mapping = format!("{}={}", store.dir().display(), moved.display());
    let report = env
        .fetch_hash(sri(&bytes))
        .args(["--store", &mapping, "--offline", "--name", "other"])
        .json(0);
    assert_eq!(report.kind(), "store");
    assert_eq!(
        report.location(),
        moved.join(item.file_name().unwrap()).to_str().unwrap()
    );
    assert_eq!(env.output("other"), bytes);
    // Its index says so, too.
    let index = env.path("index");
    let update = env.store_index(["update", "--store", &mapping, "--index"]);
    update.arg(&index).go().exits(0);
    let fetch = env.fetch_hash(sri(&bytes)).arg("--index").arg(&index);
    let report = fetch.args(["--offline", "--name", "third"]).json(0);
    let location = report.location();
    assert!(location.starts_with(moved.to_str().unwrap()), "{location}");
}

#[test]
fn a_file_inside_a_tree_by_its_nar_digest() {
    if lacks("a_file_inside_a_tree_by_its_nar_digest", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let (store, item) = store_with_tree(&env);
    for (file, executable) in [("deep/down/data", false), ("run", true), ("small", false)] {
        let file = item.join(file);
        let hash = store.nar_hash(&file);
        assert_eq!(hash, nar_sri(&fs_err::read(&file).unwrap(), executable));
        let report = env
            .fetch_hash(&hash)
            .store(&store)
            .args(["--mode", "nar", "--name", "found", "--offline", "--force"])
            .json(0);
        let link = store.dir().join(".links").join(store.link_name(&file));
        assert_eq!(
            (report.kind(), report.location()),
            ("links", link.to_str().unwrap())
        );
        assert_eq!(report.object["executable"], executable);
        assert_eq!(env.output("found"), fs_err::read(&file).unwrap());
        assert_eq!(
            mode(&env.out("found")),
            if executable { 0o755 } else { 0o644 }
        );
    }
}

#[test]
fn a_file_inside_a_tree_by_its_flat_digests() {
    if lacks("a_file_inside_a_tree_by_its_flat_digests", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let (store, item) = store_with_tree(&env);
    let data = fs_err::read(item.join("deep/down/data")).unwrap();
    let run = fs_err::read(item.join("run")).unwrap();
    let without_index = env
        .fetch_hash(sri(&data))
        .store(&store)
        .named("data")
        .arg("--offline")
        .json(3);
    assert_eq!(without_index.error(), "not-found");

    let index = indexed(&env, &store, "sha256,sha1,sha512,md5,blake3");
    for algorithm in Algorithm::ALL {
        let hash = digest(algorithm, &data).to_sri();
        let report = env
            .fetch_hash(&hash)
            .store(&store)
            .index(&index)
            .args(["--name", "data", "--offline", NOBODY_THERE, "--force"])
            .json(0);
        assert_eq!(report.kind(), "links", "{algorithm}");
        assert_eq!(env.output("data"), data);
        fs_err::remove_file(env.out("data")).unwrap();
    }

    // A flat output is executable only on request, whatever the source's bit.
    env.fetch_hash(sri(&run))
        .store(&store)
        .index(&index)
        .args(["--name", "run", "--offline"])
        .go()
        .exits(0);
    assert_eq!(
        (env.output("run"), mode(&env.out("run"))),
        (run.clone(), 0o644)
    );
    env.fetch_hash(sri(&run))
        .store(&store)
        .index(&index)
        .args(["--name", "run-x", "--offline", "--executable"])
        .go()
        .exits(0);
    assert_eq!((env.output("run-x"), mode(&env.out("run-x"))), (run, 0o755));
}

#[test]
fn a_store_that_optimises_by_itself() {
    if lacks("a_store_that_optimises_by_itself", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::configured(&env, "auto-optimise-store = true");
    let bytes = noise(1, 30_000);
    let item = store.add_fixed("md5", false, &env.write("by-md5", &bytes));
    let link = store.dir().join(".links").join(store.link_name(&item));
    assert!(
        link.exists(),
        "Nix did not optimise: the test means nothing"
    );
    // The item is known to Nix by md5 only; by sha256 nothing but the index leads to it.
    let index = indexed(&env, &store, "sha256");
    let report = env
        .fetch_hash(sri(&bytes))
        .store(&store)
        .index(&index)
        .args(["--name", "by-sha256", "--offline"])
        .json(0);
    assert_eq!(
        (report.kind(), report.location()),
        ("links", link.to_str().unwrap())
    );
    assert_eq!(env.output("by-sha256"), bytes);
}

#[test]
fn a_whole_tree_under_another_name() {
    if lacks("a_whole_tree_under_another_name", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let (store, item) = store_with_tree(&env);
    let by_sha512 = store.add_fixed("sha512", true, &env.path("tree"));
    let sha512 = store.nix(
        "nix",
        &[
            "hash",
            "path",
            "--sri",
            "--type",
            "sha512",
            item.to_str().unwrap(),
        ],
    );
    for (hash, item, name) in [
        (store.nar_hash(&item), item, "copy"),
        (sha512, by_sha512, "copy-by-sha512"),
    ] {
        let report = env
            .fetch_hash(&hash)
            .store(&store)
            .args([
                "--mode",
                "recursive",
                "--name",
                name,
                "--offline",
                NOBODY_THERE,
            ])
            .json(0);
        assert_eq!(
            (report.kind(), report.location()),
            ("store", item.to_str().unwrap())
        );
        assert_eq!(report.object["method"], "nar");
        assert_eq!(report.object["bytes"], 29_006);
        let out = env.out(name);
        assert_eq!(
            store.nar_hash(&out),
            store.nar_hash(&item),
            "Nix finds the same tree"
        );
        assert_eq!(
            fs_err::read_link(out.join("link")).unwrap(),
            Path::new("deep/down/data")
        );
        assert_eq!(
            (mode(&out), mode(&out.join("run")), mode(&out.join("small"))),
            (0o755, 0o755, 0o644)
        );
    }
    assert_eq!(
        env.outputs(),
        ["copy", "copy-by-sha512"],
        "nothing but the outputs"
    );
}

#[test]
fn a_link_that_the_collector_removed() {
    if lacks(
        "a_link_that_the_collector_removed",
        &[NIX, NGINX].concat(),
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let (store, item) = store_with_tree(&env);
    let data = fs_err::read(item.join("deep/down/data")).unwrap();
    let index = indexed(&env, &store, "sha256");
    store.delete(&item);
    assert!(!item.exists());
    let report = env
        .fetch_hash(sri(&data))
        .store(&store)
        .index(&index)
        .args(["--name", "data", "--offline"])
        .json(3);
    assert_eq!(report.error(), "not-found");

    let nginx = Nginx::new(&env);
    env.write("www/data", &data);
    let report = env
        .fetch_hash(sri(&data))
        .store(&store)
        .index(&index)
        .arg(nginx.url("/data"))
        .json(0);
    assert_eq!(report.kind(), "url");
    assert_eq!(env.output("data"), data);
}

/// One link goes, the other has the same flat digest: the walk goes on to it.
#[test]
fn one_of_two_links_is_gone() {
    if lacks("one_of_two_links_is_gone", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let bytes = noise(1, 20_000);
    env.write("plain/file", &bytes);
    let executable = env.write("executable/file", &bytes);
    fs_err::set_permissions(executable, std::fs::Permissions::from_mode(0o755)).unwrap();
    let items = [
        store.add(&env.path("plain")),
        store.add(&env.path("executable")),
    ];
    store.optimise();
    let index = indexed(&env, &store, "sha256");
    let links = items.each_ref().map(|item| {
        store
            .dir()
            .join(".links")
            .join(store.link_name(&item.join("file")))
    });
    assert_ne!(links[0], links[1]);
    for removed in 0..2 {
        let hidden = env.path("hidden");
        fs_err::rename(&links[removed], &hidden).unwrap();
        let report = env
            .fetch_hash(sri(&bytes))
            .store(&store)
            .index(&index)
            .args(["--name", "file", "--offline"])
            .json(0);
        assert_eq!(
            (report.kind(), report.location()),
            ("links", links[1 - removed].to_str().unwrap())
        );
        assert_eq!(
            (env.output("file"), mode(&env.out("file"))),
            (bytes.clone(), 0o644)
        );
        fs_err::remove_file(env.out("file")).unwrap();
        fs_err::rename(&hidden, &links[removed]).unwrap();
    }
}

#[test]
fn a_corrupted_link_of_the_same_size() {
    if lacks(
        "a_corrupted_link_of_the_same_size",
        &[NIX, NGINX].concat(),
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let (store, item) = store_with_tree(&env);
    let file = item.join("deep/down/data");
    let data = fs_err::read(&file).unwrap();
    let by_nar = store.nar_hash(&file);
    let link = store.dir().join(".links").join(store.link_name(&file));
    let index = indexed(&env, &store, "sha256");
    corrupt(&link);

    let offline = env
        .fetch_hash(sri(&data))
        .store(&store)
        .index(&index)
        .args(["--name", "data", "--offline"])
        .json(3);
    offline.tried("links", "mismatch", link.to_str().unwrap());
    assert!(
        offline.stderr.contains(link.to_str().unwrap()),
        "stderr names the bad link: {}",
        offline.stderr
    );
    env.fetch_hash(by_nar)
        .store(&store)
        .args(["--mode", "nar", "--name", "data", "--offline"])
        .json(3)
        .tried("links", "mismatch", link.to_str().unwrap());
    assert_eq!(
        env.outputs(),
        [""; 0],
        "nothing wrong was published, nothing was left"
    );

    let nginx = Nginx::new(&env);
    env.write("www/data", &data);
    let online = env
        .fetch_hash(sri(&data))
        .store(&store)
        .index(&index)
        .arg(nginx.url("/data"))
        .json(0);
    online.tried("links", "mismatch", link.to_str().unwrap());
    assert_eq!(online.kind(), "url");
    assert_eq!(env.output("data"), data);
}

#[test]
fn a_corrupted_item_under_another_name() {
    if lacks(
        "a_corrupted_item_under_another_name",
        &[NIX, NGINX].concat(),
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let bytes = noise(1, 10_000);
    let item = store.add_fixed("sha256", false, &env.write("here", &bytes));
    corrupt(&item);
    let nginx = Nginx::new(&env);
    env.write("www/there", &bytes);
    let report = env
        .fetch_hash(sri(&bytes))
        .store(&store)
        .arg(nginx.url("/there"))
        .json(0);
    report.tried("store", "mismatch", item.to_str().unwrap());
    assert_eq!(report.kind(), "url");
    assert_eq!(env.output("there"), bytes);
}

/// Neither program writes into a store or Nix's state, not even a time stamp.
#[test]
fn nothing_is_written_into_the_store() {
    if lacks("nothing_is_written_into_the_store", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let (store, item) = store_with_tree(&env);
    let data = fs_err::read(item.join("deep/down/data")).unwrap();
    let before = portrait(store.root());
    let index = indexed(&env, &store, "sha256,sha1");
    env.store_index(["status", "--index"])
        .arg(&index)
        .go()
        .exits(0);
    env.store_index(["check", "--content", "--index"])
        .arg(&index)
        .go()
        .exits(0);
    env.fetch_hash(sri(&data))
        .store(&store)
        .index(&index)
        .args(["--name", "data", "--offline"])
        .go()
        .exits(0);
    env.fetch_hash(store.nar_hash(&item))
        .store(&store)
        .args(["--mode", "nar", "--name", "tree", "--offline"])
        .go()
        .exits(0);
    env.fetch_hash(sri(b"nowhere"))
        .store(&store)
        .index(&index)
        .args(["--name", "none", "--offline"])
        .go()
        .exits(3);
    env.fetch(["explain", "--no-store", "--no-media", "--store"])
        .arg(store.dir())
        .index(&index)
        .arg(sri(&data))
        .go()
        .exits(0);
    // An output that is made writable and changed must not reach the store's inode.
    fs_err::set_permissions(env.out("data"), std::fs::Permissions::from_mode(0o777)).unwrap();
    fs_err::write(env.out("data"), "changed").unwrap();
    assert!(before == portrait(store.root()), "the store changed");
}

/// No socket before every local source has answered: none for a hit, none under --offline.
#[test]
fn a_local_hit_opens_no_socket() {
    if lacks(
        "a_local_hit_opens_no_socket",
        &[NIX, NGINX, &["strace"]].concat(),
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let (store, item) = store_with_tree(&env);
    let nginx = Nginx::new(&env);
    let data = fs_err::read(item.join("deep/down/data")).unwrap();
    env.write("www/data", &data);
    env.write("www/elsewhere", "only there");
    let index = indexed(&env, &store, "sha256");
    let log = env.path("strace.log");
    let sockets = || {
        let calls = fs_err::read_to_string(&log).unwrap();
        calls
            .lines()
            .filter(|line| line.contains("socket(") || line.contains("connect("))
            .count()
    };

    let hit = env
        .fetch_hash(sri(&data))
        .store(&store)
        .index(&index)
        .arg(nginx.url("/data"));
    hit.traced(&log).go().exits(0);
    assert_eq!(
        (sockets(), env.output("data")),
        (0, data.clone()),
        "a hit in .links"
    );

    let by_name = env
        .fetch_hash(store.nar_hash(&item))
        .store(&store)
        .args(["--mode", "nar", "--name", "tree"]);
    by_name.arg(nginx.url("/data")).traced(&log).go().exits(0);
    assert_eq!(sockets(), 0, "a hit by name");

    let there = env.fetch_hash(sri(&data)).arg(nginx.url("/data"));
    there.traced(&log).go().exits(0);
    assert_eq!(sockets(), 0, "the output is already right");

    let offline = env
        .fetch_hash(sri(b"only there"))
        .store(&store)
        .arg("--offline")
        .arg(nginx.url("/elsewhere"));
    offline.traced(&log).go().exits(3);
    assert_eq!(sockets(), 0, "offline");

    let explained = env
        .fetch(["explain", "--no-store", "--no-media"])
        .arg(sri(b"only there"))
        .store(&store);
    explained
        .arg(nginx.url("/elsewhere"))
        .traced(&log)
        .go()
        .exits(3);
    assert_eq!(sockets(), 0, "explain");

    env.store_index(["update", "--index"])
        .arg(&index)
        .store(&store)
        .traced(&log)
        .go()
        .exits(0);
    assert_eq!(sockets(), 0, "store-index");
    assert_eq!(nginx.requests(), [""; 0]);

    let online = env
        .fetch_hash(sri(b"only there"))
        .store(&store)
        .arg(nginx.url("/elsewhere"));
    online.traced(&log).go().exits(0);
    assert!(
        sockets() > 0,
        "strace sees sockets when there are some: otherwise the rest means nothing"
    );
    assert_eq!(nginx.requests().len(), 1);
}

/// The local match has another version in its name: not taken silently.
#[test]
fn a_stale_hash_is_noticed() {
    if lacks("a_stale_hash_is_noticed", &[NIX, NGINX].concat(), false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let old = noise(1, 5_000);
    store.add_fixed("sha256", false, &env.write("hello-2.10.tar.gz", &old));
    let nginx = Nginx::new(&env);
    env.write("www/hello-2.11.tar.gz", noise(2, 5_000));
    env.write("www/hello-2.10.tar.gz", &old);
    env.write("www/renamed/hello-2.11.tar.gz", &old);

    // The URL was raised, the hash forgotten: the server's bytes decide.
    let raised = env
        .fetch_hash(sri(&old))
        .store(&store)
        .arg(nginx.url("/hello-2.11.tar.gz"))
        .json(4);
    raised.tried("store", "suspicious", "hello-2.10.tar.gz");
    assert!(
        format!("{:#}", raised.object["error"]).contains("stale"),
        "{:#}",
        raised.object
    );
    assert!(
        raised.stderr.contains("--stale-hash ignore"),
        "{}",
        raised.stderr
    );
    let absent = env
        .fetch_hash(sri(&old))
        .store(&store)
        .arg(nginx.url("/hello-2.12.tar.gz"))
        .go()
        .exits(3);
    absent.says("--stale-hash ignore");
    let unreachable = env
        .fetch_hash(sri(&old))
        .store(&store)
        .arg("http://127.0.0.1:1/hello-2.11.tar.gz")
        .go();
    unreachable.exits(5).says("--stale-hash ignore");
    assert_eq!(env.outputs(), [""; 0]);

    let right_all_along = env
        .fetch_hash(sri(&old))
        .store(&store)
        .arg(nginx.url("/renamed/hello-2.11.tar.gz"))
        .json(0);
    assert_eq!(right_all_along.kind(), "url");
    fs_err::remove_file(env.out("hello-2.11.tar.gz")).unwrap();

    // It is used where it is all there is, aloud; and where the user says so.
    let offline = env
        .fetch_hash(sri(&old))
        .store(&store)
        .args(["--offline", "--name", "hello-2.11.tar.gz"])
        .json(0);
    assert_eq!(offline.kind(), "store");
    assert!(offline.stderr.contains("hello-2.10"), "{}", offline.stderr);
    fs_err::remove_file(env.out("hello-2.11.tar.gz")).unwrap();
    let refused = [
        "--offline",
        "--name",
        "hello-2.11.tar.gz",
        "--stale-hash",
        "refuse",
    ];
    env.fetch_hash(sri(&old))
        .store(&store)
        .args(refused)
        .go()
        .exits(3);
    let ignored =
        env.fetch_hash(sri(&old))
            .store(&store)
            .args(["--stale-hash", "ignore", NOBODY_THERE]);
    assert_eq!(
        ignored.args(["--name", "hello-2.11.tar.gz"]).json(0).kind(),
        "store"
    );

    let same = env
        .fetch_hash(sri(&old))
        .store(&store)
        .arg("http://127.0.0.1:1/hello-2.10.tar.gz")
        .json(0);
    assert_eq!(same.kind(), "store", "the version asked for");
    let none = env
        .fetch_hash(sri(&old))
        .store(&store)
        .arg("http://127.0.0.1:1/download")
        .json(0);
    assert_eq!(none.kind(), "store", "no version asked for");
}

/// A match in `.links` has no name of its own: it learns its item's.
#[test]
fn a_stale_hash_is_noticed_in_links() {
    if lacks("a_stale_hash_is_noticed_in_links", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::configured(&env, "auto-optimise-store = true");
    let old = noise(1, 5_000);
    store.add_fixed("md5", false, &env.write("hello-2.10.tar.gz", &old));
    let index = indexed(&env, &store, "sha256");
    let raised = env
        .fetch_hash(sri(&old))
        .store(&store)
        .index(&index)
        .arg("http://127.0.0.1:1/hello-2.11.tar.gz");
    raised.json(5).tried("links", "suspicious", ".links/");
    let same = env
        .fetch_hash(sri(&old))
        .store(&store)
        .index(&index)
        .arg("http://127.0.0.1:1/hello-2.10.tar.gz");
    assert_eq!(same.json(0).kind(), "links");
}

/// What the database or the listing says about the store comes from files that anybody may read: so may anybody fetch.
#[test]
fn an_ordinary_user_fetches_from_the_store() {
    if lacks(
        "an_ordinary_user_fetches_from_the_store",
        &[NIX, &["setpriv"]].concat(),
        true,
    ) {
        return;
    }
    let env = TestEnv::new();
    let (store, item) = store_with_tree(&env);
    env.open_to_everybody();
    let data = fs_err::read(item.join("deep/down/data")).unwrap();
    let before = portrait(store.root());
    // Without --index: the user's own, in the cache.
    env.store_index(["update"])
        .store(&store)
        .by_nobody()
        .go()
        .exits(0);
    let report = env
        .fetch_hash(sri(&data))
        .store(&store)
        .args(["--name", "data", "--offline"])
        .by_nobody()
        .json(0);
    assert_eq!(report.kind(), "links");
    let tree = env
        .fetch_hash(store.nar_hash(&item))
        .store(&store)
        .args(["--mode", "nar", "--name", "tree"]);
    assert_eq!(tree.arg("--offline").by_nobody().json(0).kind(), "store");
    assert!(before == portrait(store.root()), "the store changed");
}

/// `store-index lookup` and a second `update` on a store.
#[test]
fn the_index_of_a_store_follows_it() {
    if lacks("the_index_of_a_store_follows_it", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let (store, item) = store_with_tree(&env);
    let index = indexed(&env, &store, "sha256");
    let data = fs_err::read(item.join("deep/down/data")).unwrap();
    let later = noise(7, 12_345);
    let look_up = |bytes: &[u8], exit: i32| {
        let found = env
            .store_index(["lookup"])
            .arg(sri(bytes))
            .index(&index)
            .arg("--json")
            .go()
            .exits(exit);
        serde_json::from_str::<serde_json::Value>(&found.stdout).unwrap()
    };
    let link = format!(".links/{}", store.link_name(&item.join("deep/down/data")));
    assert!(
        look_up(&data, 0)[0]["path"]
            .as_str()
            .unwrap()
            .ends_with(&link)
    );
    assert_eq!(look_up(&later, 3), serde_json::json!([]));

    env.write("later/file", &later);
    store.add(&env.path("later"));
    store.optimise();
    indexed(&env, &store, "sha256");
    look_up(&later, 0);
    look_up(&data, 0);

    store.delete(&item);
    indexed(&env, &store, "sha256");
    assert_eq!(
        look_up(&data, 3),
        serde_json::json!([]),
        "entries vanish with their links"
    );
    look_up(&later, 0);
}

/// Stores and indexes come from the environment too, and a store from Nix's own variables.
#[test]
fn stores_from_the_environment() {
    if lacks("stores_from_the_environment", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let (store, item) = store_with_tree(&env);
    let flat = noise(5, 1000);
    store.add_fixed("sha256", false, &env.write("flat", &flat));
    let data = fs_err::read(item.join("deep/down/data")).unwrap();
    let index = indexed(&env, &store, "sha256");
    let fetch = |hash: &str, name: &str| env.fetch(["--hash", hash, "--name", name, "--offline"]);

    for variable in ["NIX_STORE_DIR", "NIX_STORE"] {
        let run = fetch(&sri(&flat), variable).variable(variable, store.dir());
        assert_eq!(run.json(0).kind(), "store", "{variable}");
        // An empty variable counts as not set.
        let run = fetch(&sri(&flat), "none").variable(variable, "");
        run.go().exits(3);
    }
    let several = format!("{}:{}", env.path("home").display(), store.dir().display());
    let indexes = format!("{}:{}", env.path("home").display(), index.display());
    let run = fetch(&sri(&data), "data")
        .variable("FETCH_STORE", several)
        .variable("FETCH_INDEX", indexes);
    assert_eq!(run.json(0).kind(), "links");
    let run = fetch(&sri(&flat), "no-store")
        .variable("NIX_STORE_DIR", store.dir())
        .arg("--no-store");
    run.go().exits(3);
    let run = fetch(&sri(&data), "no-local")
        .store(&store)
        .index(&index)
        .arg("--no-local");
    run.go().exits(3);
}

/// A single file by a recursive hash of another algorithm than sha256, in the executable form.
#[test]
fn an_executable_by_its_recursive_hash() {
    if lacks("an_executable_by_its_recursive_hash", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let file = env.write("run", "#!/bin/sh\n");
    fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    for algorithm in ["md5", "sha1", "sha256", "sha512"] {
        let item = store.add_fixed(algorithm, true, &file);
        let hash = store.nix(
            "nix",
            &[
                "hash",
                "path",
                "--sri",
                "--type",
                algorithm,
                file.to_str().unwrap(),
            ],
        );
        let run = env.fetch_hash(&hash).store(&store).named(algorithm);
        let report = run.args(["--mode", "nar", "--offline"]).json(0);
        assert_eq!(
            (report.kind(), report.location()),
            ("store", item.to_str().unwrap())
        );
        assert_eq!(report.object["executable"], true);
        assert_eq!(mode(&env.out(algorithm)), 0o755);
        assert_eq!(env.output(algorithm), b"#!/bin/sh\n");
    }
}

/// A file inside a store item by its git blob id, which is also its SWHID.
#[test]
fn a_file_by_its_git_id() {
    if lacks("a_file_by_its_git_id", &[NIX, &["git"]].concat(), false) {
        return;
    }
    let env = TestEnv::new();
    let (store, item) = store_with_tree(&env);
    let file = item.join("deep/down/data");
    let output = std::process::Command::new("git")
        .args(["hash-object", "--no-filters"])
        .arg(&file)
        .env("HOME", env.path("home"))
        .output()
        .unwrap();
    let id = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let index = indexed(&env, &store, "git");
    for (name, args) in [
        (
            "swhid",
            vec![format!(
                "swh:1:cnt:{id};origin=https://example.org/repository"
            )],
        ),
        ("id", vec![id, "--mode".into(), "git".into()]),
    ] {
        let run = env
            .fetch_hash(&args[0])
            .args(&args[1..])
            .store(&store)
            .index(&index)
            .named(name);
        assert_eq!(run.arg("--offline").json(0).kind(), "links");
        assert_eq!(env.output(name), fs_err::read(&file).unwrap());
    }
}

/// An index is a hint: content whose link vanished is still found, at once in the listing, and after an update in the
/// index, also inside trees.
#[test]
fn links_that_vanish_hide_nothing() {
    if lacks("links_that_vanish_hide_nothing", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let (store, item) = store_with_tree(&env);
    let data = fs_err::read(item.join("deep/down/data")).unwrap();
    let tarball = env.write("made/hello-2.10.tar.gz", noise(7, 20_000));
    let content = fs_err::read(&tarball).unwrap();
    let flat = store.add_fixed("sha256", false, &tarball);
    store.optimise();
    let index = indexed(&env, &store, "sha256");
    fs_err::rename(store.dir().join(".links"), env.path("links-elsewhere")).unwrap();

    let report = env
        .fetch_hash(sri(&content))
        .store(&store)
        .index(&index)
        .args(["-o", "a", "--offline"])
        .json(0);
    assert_eq!(
        (report.kind(), report.location()),
        ("store", flat.to_str().unwrap())
    );

    let again = indexed(&env, &store, "sha256");
    assert_eq!(again, index);
    let report = env
        .fetch_hash(sri(&data))
        .store(&store)
        .index(&index)
        .args(["-o", "b", "--offline"])
        .json(0);
    assert_eq!(report.kind(), "store");
    assert_eq!(env.output("b"), data);
}

/// A symbolic link is content too, under its NAR hash, and is never followed.
#[test]
fn a_symbolic_link_as_an_item() {
    if lacks("a_symbolic_link_as_an_item", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    fs_err::create_dir_all(env.path("made")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", env.path("made/link")).unwrap();
    let item = store.add_fixed("sha256", true, &env.path("made/link"));
    let report = env
        .fetch_hash(store.nar_hash(&item))
        .store(&store)
        .args(["--mode", "nar", "-o", "copy", "--offline"])
        .json(0);
    assert_eq!(report.location(), item.to_str().unwrap());
    assert_eq!(
        fs_err::read_link(env.out("copy")).unwrap(),
        std::path::Path::new("/etc/passwd")
    );
    assert_eq!(env.outputs(), ["copy"]);
}

/// Only its daemon writes into a store, and a mode is not changed through a hard link.
#[test]
fn outputs_never_touch_a_store() {
    if lacks("outputs_never_touch_a_store", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let file = env.write("made/file", "content of an item");
    let item = store.add_fixed("sha256", false, &file);
    for output in [item.clone(), store.dir().join("new")] {
        let report = env
            .fetch_hash(sri(b"content of an item"))
            .store(&store)
            .args(["--executable", "--offline", "-o"])
            .arg(&output)
            .json(7);
        assert!(report.stderr.contains("the store"), "{}", report.stderr);
    }
    fs_err::hard_link(&item, env.out("linked")).unwrap();
    env.fetch_hash(sri(b"content of an item"))
        .store(&store)
        .args(["--executable", "--offline", "-o", "linked"])
        .json(7);
    assert_eq!(mode(&item), 0o444);
    assert!(!store.dir().join("new").exists());
}
