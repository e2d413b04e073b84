//! What is on this machine is not downloaded.

use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::time::Duration;

use store_index::address::{ContentAddress, FileHasher, Framing, Method};
use store_index::digest::{Algorithm, Digest};
use store_index::nix32;

use crate::support::git::{GIT, Repository, file, nar_of};
use crate::support::guix::{GuixStore, HANDED_OVER, flat, mode, of_sri, options};
use crate::support::server::{Answer, Server};
use crate::support::{self, TestEnv, digest, is_root, lacks, noise, skipped};

fn nar(algorithm: Algorithm, bytes: &[u8], executable: bool) -> Digest {
    let mut hasher = FileHasher::new(Framing::nar(executable), algorithm, bytes.len() as u64);
    hasher.update(bytes);
    hasher.finish().unwrap()
}

/// Every flat derivation of a real client, with its content in the store under another name: copied, and no socket.
#[test]
fn real_derivations_are_served_from_the_store() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::start();
    store.lists(&server);
    let real = [
        ("flat-plain.drv", Algorithm::Sha256),
        ("flat-mirror-single.drv", Algorithm::Sha256),
        ("flat-mirror-single-2022.drv", Algorithm::Sha256),
        ("flat-url-list.drv", Algorithm::Sha256),
        ("flat-url-escapes.drv", Algorithm::Sha256),
        ("flat-download-methods.drv", Algorithm::Sha256),
        ("flat-sha1.drv", Algorithm::Sha1),
        ("flat-sha512.drv", Algorithm::Sha512),
    ];
    for (number, (name, algorithm)) in real.into_iter().enumerate() {
        let content = noise(number as u64, 20_000);
        let there = store.flat_item(algorithm, "another-name", &content);
        let drv = store.derivation(name, &digest(algorithm, &content), Some(&server), &[]);
        let outcome = store.perform(&drv).go().exits(0);
        assert_eq!(fs_err::read(&drv.output).unwrap(), content, "{name}");
        assert_eq!(support::mode(&drv.output), 0o644, "{name}");
        let metadata = fs_err::symlink_metadata(&drv.output).unwrap();
        assert_eq!(metadata.nlink(), 1, "a hard link would be rejected");
        let outcome = outcome.says(&format!(
            "fetch: not downloaded, copied from {} (20000 bytes)",
            there.display()
        ));
        assert_eq!(outcome.stdout, "", "{name}");
    }
    assert_eq!(server.connections(), 0);
    assert_eq!(store.handed_over(), None);
}

/// A client that asked for events gets them for a local hit too.
#[test]
fn a_hit_is_told_to_programs() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let content = noise(1, 5000);
    let there = store.flat_item(Algorithm::Sha256, "source", &content);
    let drv = store.derivation("flat-plain.drv", &flat(&content), None, &[]);
    let outcome = store
        .perform(&drv)
        .variable("_NIX_OPTIONS", options(&["print-extended-build-trace=1"]))
        .go()
        .exits(0);
    let (output, url) = (drv.output.display(), format!("file://{}", there.display()));
    assert_eq!(
        outcome.stdout,
        format!(
            "@ download-started {output} {url} 5000\n\
             @ download-progress {output} {url} 5000 5000\n\
             @ download-succeeded {output} {url} 5000\n\n"
        )
    );
}

#[test]
fn executables_come_from_links_and_items() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::start();
    store.lists(&server);
    let content = noise(1, 9000);
    let hash = nar(Algorithm::Sha256, &content, true);
    let link = store
        .dir()
        .join(".links")
        .join(nix32::encode(hash.as_bytes()));
    fs_err::write(&link, &content).unwrap();
    mode(&link, 0o555);
    let drv = store.derivation("executable-recursive-sha256.drv", &hash, Some(&server), &[]);
    store
        .perform(&drv)
        .go()
        .exits(0)
        .says(&format!("copied from {}", link.display()));
    assert_eq!(fs_err::read(&drv.output).unwrap(), content);
    assert_eq!(support::mode(&drv.output), 0o755);

    let hash = nar(Algorithm::Sha512, &content, true);
    let address = ContentAddress::new(Method::Nar, hash).unwrap();
    let item = store.fixed_path(&address, "the-script");
    fs_err::write(&item, &content).unwrap();
    mode(&item, 0o555);
    let drv = store.derivation("executable-recursive-sha512.drv", &hash, Some(&server), &[]);
    store.perform(&drv).go().exits(0);
    assert_eq!(support::mode(&drv.output), 0o755);
    assert_eq!(server.connections(), 0);
}

/// The same by `fetch perform-download`, without the second argument, and with the store in the other variable.
#[test]
fn the_subcommand_does_the_same() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let content = noise(1, 100);
    store.flat_item(Algorithm::Sha256, "source", &content);
    let drv = store.derivation("flat-plain.drv", &flat(&content), None, &[]);
    env.fetch(["perform-download"])
        .arg(&drv.path)
        .variable("NIX_STORE_DIR", store.dir())
        .variable("NIX_STORE", "/nowhere")
        .by_nobody()
        .go()
        .exits(0);
    assert_eq!(fs_err::read(&drv.output).unwrap(), content);
}

#[test]
fn a_corrupt_link_is_reported_with_what_repairs_it() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let content = noise(1, 9000);
    let server = Server::with("/script.sh", Answer::body(&content));
    let hash = nar(Algorithm::Sha256, &content, true);
    let link = store
        .dir()
        .join(".links")
        .join(nix32::encode(hash.as_bytes()));
    fs_err::write(&link, noise(2, 9000)).unwrap();
    mode(&link, 0o555);
    store.lists(&server);
    let drv = store.derivation("executable-recursive-sha256.drv", &hash, Some(&server), &[]);
    let outcome = store.perform(&drv).go().exits(0);
    let outcome = outcome
        .says(&format!("warning: {} is corrupt", link.display()))
        .says("`guix gc --verify=contents,repair`");
    assert_eq!(fs_err::read(&drv.output).unwrap(), content, "{outcome}");
    assert_eq!(support::mode(&drv.output), 0o755);
    assert_eq!(server.requests().len(), 1);
}

/// The usual case: a tarball inside some item, deduplicated, and the administrator's index that knows flat hashes.
#[test]
fn flat_files_come_from_links_through_the_index() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let content = noise(1, 9000);
    let server = Server::with("/blob-a.bin", Answer::body(&content));
    let name = nix32::encode(nar(Algorithm::Sha256, &content, false).as_bytes());
    let link = store.dir().join(".links").join(name);
    fs_err::write(&link, &content).unwrap();
    mode(&link, 0o444);
    env.store_index(["update", "--index"])
        .arg(env.path("index"))
        .arg("--store")
        .arg(store.dir())
        .go()
        .exits(0);
    let drv = store.derivation("flat-plain.drv", &flat(&content), Some(&server), &[]);
    let perform = || {
        store
            .perform(&drv)
            .variable("FETCH_INDEX", env.path("index"))
    };
    perform()
        .go()
        .exits(0)
        .says(&format!("copied from {} (9000 bytes)", link.display()));
    assert_eq!(fs_err::read(&drv.output).unwrap(), content);
    assert_eq!(server.connections(), 0);

    fs_err::remove_file(&drv.output).unwrap();
    mode(&link, 0o644);
    fs_err::write(&link, noise(2, 9000)).unwrap();
    let outcome = perform().go().exits(0);
    let digest_of_wrong = nix32::encode(flat(&noise(2, 9000)).as_bytes());
    outcome
        .says(&format!("warning: {} is corrupt", link.display()))
        .says("`guix gc --verify=contents,repair`")
        .does_not_say(&digest_of_wrong);
    assert_eq!(fs_err::read(&drv.output).unwrap(), content);
    assert_eq!(server.requests().len(), 1);
}

/// `--check` and repair give an output of another name, and are there to ask the network again.
#[test]
fn a_check_asks_the_network() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let content = noise(1, 5000);
    let server = Server::with("/blob-a.bin", Answer::body(&content));
    store.flat_item(Algorithm::Sha256, "blob-a.bin", &content);
    let mut drv = store.derivation("flat-plain.drv", &flat(&content), Some(&server), &[]);
    drv.output = store
        .dir()
        .join("0mxnx8l4fgigvd7gakwdk6hc6im4wnai-blob-a.bin");
    store.perform(&drv).go().exits(0);
    assert_eq!(fs_err::read(&drv.output).unwrap(), content);
    assert_eq!(server.requests().len(), 1);

    let gone = Server::start();
    let mut drv = store.derivation("flat-plain.drv", &flat(&content), Some(&gone), &[]);
    drv.output = store
        .dir()
        .join("1mxnx8l4fgigvd7gakwdk6hc6im4wnai-blob-a.bin");
    store.perform(&drv).go().exits(HANDED_OVER);
    assert_eq!(gone.requests().len(), 1);
}

/// The name of the wanted item says another version than all that is known of the content.
#[test]
fn a_stale_hash_is_for_the_network_to_decide() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let (old, new) = (noise(1, 5000), noise(2, 5000));
    let server = Server::with("/foo-0.1.tar.gz", Answer::body(&new));
    store.lists(&server);
    store.flat_item(Algorithm::Sha1, "foo-0.2.tar.gz", &old);
    let hash = digest(Algorithm::Sha1, &old);
    let drv = store.derivation("flat-sha1.drv", &hash, Some(&server), &[]);
    store
        .perform(&drv)
        .go()
        .exits(0)
        .says("a local copy is passed over: it has the name of another version")
        .says("is left to the daemon, which tells its hash");
    assert_eq!(fs_err::read(&drv.output).unwrap(), new);
}

/// A folder that the administrator names counts as far as everybody may read it; where in it something was is nobody
/// else's business.
#[test]
fn folders_count_as_far_as_everybody_may_read_them() {
    if !is_root() {
        return skipped(
            "folders_count_as_far_as_everybody_may_read_them",
            "needs root",
        );
    }
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::start();
    let (public, private, secret) = (noise(1, 5000), noise(2, 5000), noise(3, 5000));
    env.write("folder/public-place", &public);
    let private_place = env.write("folder/private-place", &private);
    let secret_place = env.write("folder/secret-place", &secret);
    env.store_index(["update", "--index"])
        .arg(env.path("index"))
        .arg(env.path("folder"))
        .go()
        .exits(0);
    // The build user itself could read this one, and whoever asked could not.
    chown(&private_place, Some(65534), Some(65534)).unwrap();
    mode(&private_place, 0o600);
    mode(&secret_place, 0o600);
    let run = |content: &[u8]| {
        let drv = store.derivation("flat-plain.drv", &flat(content), Some(&server), &[]);
        let outcome = store
            .perform(&drv)
            .variable("FETCH_MEDIA", env.path("folder"))
            .variable("FETCH_INDEX", env.path("index"))
            .variable("_NIX_OPTIONS", options(&["print-extended-build-trace=1"]))
            .go();
        (drv, outcome.does_not_say("-place").does_not_say("folder"))
    };
    let (drv, outcome) = run(&public);
    let outcome = outcome
        .exits(0)
        .says("fetch: not downloaded, copied from a local copy (media)");
    assert_eq!(fs_err::read(&drv.output).unwrap(), public);
    assert_eq!(server.connections(), 0);
    // A program that shows the last part of the URL shows the name. How much there is is nobody's business.
    assert!(outcome.stdout.contains("-blob-a.bin -\n"), "{outcome}");
    let outcome = outcome.does_not_say(" 5000");
    drop(outcome);
    for content in [private, secret] {
        let before = server.requests().len();
        let (drv, outcome) = run(&content);
        let outcome = outcome.exits(HANDED_OVER).says("no local copy");
        assert!(!drv.output.exists(), "{outcome}");
        assert_eq!(server.requests().len(), before + 1, "{outcome}");
        let absent = run(&noise(4, 5000)).1;
        assert_eq!(
            without_hash(&outcome.stderr),
            without_hash(&absent.stderr),
            "what may not be read looks like what is not there"
        );
    }
}

/// Leaves out the parts of a log that name the output.
fn without_hash(log: &str) -> String {
    let words = log.split(' ');
    words
        .filter(|word| !word.contains("-blob-a.bin"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn trees_of_git_come_from_the_store_and_from_local_repositories() {
    if lacks(
        "trees_of_git_come_from_the_store_and_from_local_repositories",
        GIT,
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let tree = store.dir().join("tree");
    fs_err::create_dir_all(tree.join("sub")).unwrap();
    fs_err::write(tree.join("sub/file"), noise(1, 100)).unwrap();
    fs_err::write(tree.join("run"), "#!/bin/sh\n").unwrap();
    mode(&tree.join("run"), 0o555);
    symlink("sub/file", tree.join("link")).unwrap();
    let hash = of_sri(&nar_of(&tree));
    let address = ContentAddress::new(Method::Nar, hash).unwrap();
    let item = store.fixed_path(&address, "some-checkout");
    fs_err::rename(&tree, &item).unwrap();
    let drv = store.derivation("git-nonrecursive.drv", &hash, None, &[]);
    store
        .perform(&drv)
        .go()
        .exits(0)
        .says(&format!("copied from {}", item.display()));
    assert_eq!(of_sri(&nar_of(&drv.output)), hash);
    fs_err::remove_dir_all(&item).unwrap();

    let repository = Repository::bare(&env, "folder/r.git");
    let commit = repository.commit("main", &[file("a", b"one\n"), file("b/c", b"two\n")]);
    let hash = of_sri(&repository.nar_of_clone(&env, &commit));
    let drv = store.derivation(
        "git-methods.drv",
        &hash,
        None,
        &[("0123456789abcdef0123456789abcdef01234567", &commit)],
    );
    store
        .perform(&drv)
        .variable("FETCH_MEDIA", env.path("folder"))
        .go()
        .exits(0)
        .says("copied from a local copy (directories)")
        .does_not_say("folder");
    assert_eq!(of_sri(&nar_of(&drv.output)), hash);
    assert_eq!(store.handed_over(), None);
}

/// The daemon kills who is silent for too long.
#[test]
fn long_work_is_not_silent() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::with("/blob-a.bin", Answer::drip(Duration::from_millis(100)));
    let drv = store.derivation("flat-plain.drv", &flat(b""), Some(&server), &[]);
    let outcome = store
        .perform(&drv)
        .variable(
            "_NIX_OPTIONS",
            options(&["untrusted-build-max-silent-time=3"]),
        )
        .variable("FETCH_STALL_TIMEOUT", "4")
        .variable("FETCH_RETRY_BUDGET", "0")
        .go()
        .exits(HANDED_OVER);
    let words = format!("fetch: still working on {}\n", drv.output.display());
    let said = outcome.stderr.matches(&words).count();
    assert!((2..=6).contains(&said), "{said} times\n{outcome}");
}

/// Nobody goes to the network for an administrator who has switched it off: the real guix would.
#[test]
fn without_a_network_nothing_is_handed_over() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::start();
    let flat_drv = store.derivation("flat-plain.drv", &flat(b"x"), Some(&server), &[]);
    let tree_drv = store.derivation("git-nonrecursive.drv", &flat(b"x"), None, &[]);
    let unknown = [("builtin:download", "builtin:unknown")];
    let unknown_drv = store.derivation("flat-plain.drv", &flat(b"y"), None, &unknown);
    for drv in [flat_drv, tree_drv, unknown_drv] {
        store
            .perform(&drv)
            .variable("FETCH_OFFLINE", "1")
            .go()
            .exits(1)
            .says("the network is off (FETCH_OFFLINE)")
            .does_not_say("handing over");
        assert!(!drv.output.exists());
    }
    assert_eq!(server.connections(), 0);
    assert_eq!(store.handed_over(), None);
}

/// What not everybody may read is the real guix's business, not a failure.
#[test]
fn a_private_store_is_left_to_the_real_guix() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let drv = store.derivation("flat-plain.drv", &flat(b"x"), None, &[]);
    mode(&env.path("gnu"), 0o750);
    let outcome = store.perform(&drv).go();
    mode(&env.path("gnu"), 0o755);
    outcome
        .exits(HANDED_OVER)
        .says("the store cannot be read")
        .says("handing over to the real guix");
}
