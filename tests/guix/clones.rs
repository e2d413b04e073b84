//! Repositories that are not on this machine: cloned by us, or by the real guix.

use std::process::{Command, Stdio};

use store_index::address::{ContentAddress, Method};
use store_index::digest::{Algorithm, Digest};

use crate::bad_input::SmallDisk;
use crate::support::git::{File, GIT, Repository, file, nar_of, nar_of_recursive_clone};
use crate::support::git_server::{Answers, Daemon, HttpBackend, Manners};
use crate::support::guix::{Drv, GuixStore, HANDED_OVER, flat, mode, of_sri, options};
use crate::support::nginx::Nginx;
use crate::support::server::Server;
use crate::support::{TestEnv, lacks, names_in, noise, skipped, wait_until};

/// What the real derivations name.
const SAVANNAH: &str = "https://git.savannah.gnu.org/git/hello.git";
const EXAMPLE: &str = "https://example.org/r.git";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A real derivation of the tag `v2.10`, with another repository.
fn of_tag(store: &GuixStore<'_>, hash: &Digest, url: &str) -> Drv {
    store.derivation("git-nonrecursive.drv", hash, None, &[(SAVANNAH, url)])
}

#[test]
fn a_commit_is_cloned_for_the_daemon() {
    if lacks("a_commit_is_cloned_for_the_daemon", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let bare = Repository::bare(&env, "srv/hello.git");
    let script = File {
        path: "run",
        mode: "100755",
        content: b"#!/bin/sh\n",
    };
    let text = file("eol", b"one\ntwo\n");
    let attributes = file(".gitattributes", b"eol text eol=crlf\n");
    let commit = bare.commit("main", &[script, text, attributes]);
    bare.git(&["tag", "-a", "-m", "x", "v2.10", &commit]);
    bare.commit("main", &[script]);
    let hash = of_sri(&bare.nar_of_clone(&env, &commit));
    let http = HttpBackend::start(&env, "srv");
    let daemon = Daemon::start(&env, "srv");
    for url in [http.url("hello.git"), daemon.url("hello.git")] {
        let drv = of_tag(&store, &hash, &url);
        let traced = options(&["untrusted-print-extended-build-trace=1"]);
        let outcome = store
            .perform(&drv)
            .variable("_NIX_OPTIONS", traced)
            .go()
            .exits(0);
        assert_eq!(of_sri(&nar_of(&drv.output)), hash);
        let (output, said) = (drv.output.display(), &outcome.stdout);
        for words in [
            format!("\nStarting download of {output}\nFrom {url}...\n"),
            format!("@ download-started {output} {url} -\n"),
            format!("@ download-succeeded {output} {url} "),
        ] {
            assert!(said.contains(&words), "{words}\n{outcome}");
        }
        assert!(!outcome.stderr.contains("@ "), "{outcome}");
        fs_err::remove_dir_all(&drv.output).unwrap();
    }
    // Its id, by any hash that a daemon knows.
    let tree = bare.nar_of_clone(&env, &commit);
    let drv = store.derivation(
        "git-methods.drv",
        &of_sri(&tree),
        None,
        &[
            (EXAMPLE, &http.url("hello.git")),
            (COMMIT, &commit),
            ("(swh nar)", "(upstream)"),
        ],
    );
    store.perform(&drv).go().exits(0);
    assert_eq!(nar_of(&drv.output), tree);
    assert_eq!(store.handed_over(), None);
    // Nothing is kept, and the daemon's folder for temporary files is as it was.
    assert_eq!(names_in(&env.path("tmp")), [""; 0]);
    assert_eq!(names_in(&env.path("cache")), [""; 0]);
}

/// A server sees which files it is asked for. Those that are here and private are asked for as if they were not.
#[test]
fn a_server_does_not_see_which_private_files_are_here() {
    let name = "a_server_does_not_see_which_private_files_are_here";
    if lacks(name, GIT, true) {
        return;
    }
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let bare = Repository::bare(&env, "srv/hello.git");
    bare.git(&["config", "uploadpack.allowFilter", "true"]);
    let (public, private) = (noise(1, 5000), noise(2, 5000));
    let commit = bare.commit("main", &[file("a", &public), file("b", &private)]);
    bare.git(&["tag", "v2.10", &commit]);
    env.write("folder/x", &public);
    let place = env.write("folder/y", &private);
    env.store_index(["update", "--algorithms", "git", "--index"])
        .arg(env.path("index"))
        .arg(env.path("folder"))
        .go()
        .exits(0);
    mode(&place, 0o600);
    let http = HttpBackend::start(&env, "srv");
    let hash = of_sri(&bare.nar_of_clone(&env, &commit));
    let drv = of_tag(&store, &hash, &http.url("hello.git"));
    store
        .perform(&drv)
        .variable("FETCH_MEDIA", env.path("folder"))
        .variable("FETCH_INDEX", env.path("index"))
        .go()
        .exits(0);
    assert_eq!(of_sri(&nar_of(&drv.output)), hash);
    let asked: String = http.exchanges().into_iter().map(|it| it.body).collect();
    let blob = |name: &str| bare.git(&["rev-parse", &format!("{commit}:{name}")]);
    assert!(asked.contains(&blob("b")), "{asked}");
    assert!(!asked.contains(&blob("a")), "{asked}");
}

/// As for the repository itself: the keys would be the daemon's.
#[test]
fn ssh_is_not_run_for_submodules_either() {
    if lacks("ssh_is_not_run_for_submodules_either", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let bare = Repository::bare(&env, "srv/r.git");
    let modules = b"[submodule \"x\"]\n\tpath = x\n\turl = ssh://me@127.0.0.1:1/leaf.git\n";
    let module = File {
        path: "x",
        mode: "160000",
        content: COMMIT.as_bytes(),
    };
    let commit = bare.commit("main", &[file(".gitmodules", modules), module]);
    let http = HttpBackend::start(&env, "srv");
    let marker = env.path("ssh-was-run");
    let ssh = env.write(
        "ssh",
        format!("#!/bin/sh\ntouch {}\nexit 1\n", marker.display()),
    );
    mode(&ssh, 0o755);
    let hash = of_sri(&crate::support::sri(b"x"));
    let drv = store.derivation(
        "git-recursive.drv",
        &hash,
        None,
        &[(EXAMPLE, &http.url("r.git")), (COMMIT, &commit)],
    );
    store
        .perform(&drv)
        .variable("GIT_SSH", &ssh)
        .go()
        .exits(HANDED_OVER);
    assert!(!marker.exists());
}

#[test]
fn submodules_are_cloned_if_they_are_asked_for() {
    let name = "submodules_are_cloned_if_they_are_asked_for";
    if lacks(name, GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let leaf = Repository::bare(&env, "srv/leaf.git");
    let pinned = leaf.commit("main", &[file("b", b"b\n")]);
    let bare = Repository::bare(&env, "srv/r.git");
    let modules = b"[submodule \"x\"]\n\tpath = x\n\turl = ../leaf.git\n";
    let module = File {
        path: "x",
        mode: "160000",
        content: pinned.as_bytes(),
    };
    let commit = bare.commit("main", &[file(".gitmodules", modules), module]);
    let http = HttpBackend::start(&env, "srv");
    let url = http.url("r.git");
    let (without, with) = (
        bare.nar_of_clone(&env, &commit),
        nar_of_recursive_clone(&env, &url, &commit),
    );
    assert_ne!(without, with);
    for (recursive, hash) in [("#f", without), ("#t", with)] {
        let drv = store.derivation(
            "git-recursive.drv",
            &of_sri(&hash),
            None,
            &[(EXAMPLE, &url), (COMMIT, &commit), ("#t", recursive)],
        );
        store.perform(&drv).go().exits(0);
        assert_eq!(nar_of(&drv.output), hash);
    }
    assert_eq!(store.handed_over(), None);
}

/// Whoever packages something states a hash of zeros, and reads the right one in the daemon's message.
#[test]
fn a_wrong_hash_leaves_the_tree_to_the_daemon() {
    if lacks("a_wrong_hash_leaves_the_tree_to_the_daemon", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let bare = Repository::bare(&env, "srv/hello.git");
    bare.git(&["config", "uploadpack.allowFilter", "true"]);
    let big = noise(1, 100_000);
    let commit = bare.commit("main", &[file("a", b"a\n"), file("big", &big)]);
    bare.git(&["tag", "v2.10", &commit]);
    let right = bare.nar_of_clone(&env, &commit);
    let http = HttpBackend::start(&env, "srv");
    let drv = of_tag(&store, &flat(b"x"), &http.url("hello.git"));
    // A folder without an index knows no files; a repository in it is not this one.
    env.write("plain/other", &big);
    let leave = |media: &str| {
        let outcome = store
            .perform(&drv)
            .variable("FETCH_MEDIA", media)
            .go()
            .exits(0)
            .says("is left to the daemon, which tells its hash");
        assert_eq!(nar_of(&drv.output), right, "{outcome}");
        assert_eq!(store.handed_over(), None);
        assert_eq!(names_in(&env.path("tmp")), [""; 0]);
        fs_err::remove_dir_all(&drv.output).unwrap();
    };
    for media in ["", env.path("plain").to_str().unwrap()] {
        leave(media);
        assert!((100_000..110_000).contains(&http.take_sent_bytes()));
        assert_eq!(http.take_connections(), 3, "a list, its answer, a pack");
    }
    // What is on this machine is no part of what is left, whoever may read it: the server sent all of it.
    env.write("folder/other", &big);
    env.store_index(["update", "--in-place", "--algorithms", "git"])
        .arg(env.path("folder"))
        .go()
        .exits(0);
    leave(env.path("folder").to_str().unwrap());
    let sent = http.take_sent_bytes();
    assert!((100_000..115_000).contains(&sent), "{sent}");
    let asked_twice = of_tag(&store, &of_sri(&right), &http.url("hello.git"));
    store
        .perform(&asked_twice)
        .variable("FETCH_MEDIA", env.path("folder"))
        .go()
        .exits(0);
    assert!(http.take_sent_bytes() < 10_000, "what is here is not sent");
}

#[test]
fn what_we_cannot_clone_the_real_guix_gets() {
    if lacks("what_we_cannot_clone_the_real_guix_gets", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let bare = Repository::bare(&env, "srv/r.git");
    let commit = bare.commit("main", &[file("a", b"a\n")]);
    let http = HttpBackend::start(&env, "srv");
    let manners = Manners {
        authorization: Some("Basic eDp5"),
        ..Manners::default()
    };
    let refusing = HttpBackend::with(&env, "srv", manners);
    let broken = Server::start();
    let handed_over = |url: &str, commit: &str, methods: &str| {
        let drv = store.derivation(
            "git-methods.drv",
            &flat(b"x"),
            None,
            &[(EXAMPLE, url), (COMMIT, commit), ("(swh nar)", methods)],
        );
        let outcome = store
            .perform(&drv)
            .variable("FETCH_RETRY_BUDGET", "0")
            .go()
            .exits(HANDED_OVER);
        assert!(!drv.output.exists());
        let record = store.handed_over().unwrap();
        let expected = format!(
            "argv <perform-download> <{}> <{}>\n",
            drv.path.display(),
            drv.output.display()
        );
        assert!(record.starts_with(&expected), "{record}");
        fs_err::remove_file(env.path("tmp/handed-over")).unwrap();
        outcome
    };
    let url = http.url("r.git");
    // Its server has not got it, or does not give it; Software Heritage may have it.
    for (url, commit) in [
        (url.as_str(), COMMIT),
        (&url, "v1"),
        (&url, &commit[..12]),
        (&http.url("none.git"), &commit),
        (&refusing.url("r.git"), &commit),
        (&broken.url("/r.git"), &commit),
        ("http://127.0.0.1:1/r.git", &commit),
    ] {
        handed_over(url, commit, "(upstream)").says("failed to download");
    }
    http.take_sent_bytes();
    // Beyond us, or not for us: nobody is asked.
    for (url, commit, methods) in [
        (url.as_str(), commit.as_str(), "(swh nar)"),
        (&url, "main~0", "(upstream)"),
        ("ssh://127.0.0.1:1/r.git", &commit, "(upstream)"),
        ("ftp://127.0.0.1:1/r.git", &commit, "(upstream)"),
    ] {
        handed_over(url, commit, methods).does_not_say("mismatch");
    }
    assert_eq!(http.take_sent_bytes(), 0);
}

/// What is here would only be compared with itself.
#[test]
fn a_check_of_a_repository_asks_its_server() {
    if lacks("a_check_of_a_repository_asks_its_server", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let bare = Repository::bare(&env, "srv/hello.git");
    let commit = bare.commit("main", &[file("a", b"a\n")]);
    bare.git(&["tag", "v2.10", &commit]);
    let hash = of_sri(&bare.nar_of_clone(&env, &commit));
    let address = ContentAddress::new(Method::Nar, hash).unwrap();
    let item = store.fixed_path(&address, "there-already");
    fs_err::create_dir(&item).unwrap();
    fs_err::write(item.join("a"), "a\n").unwrap();
    assert_eq!(of_sri(&nar_of(&item)), hash);
    let http = HttpBackend::start(&env, "srv");
    let mut drv = of_tag(&store, &hash, &http.url("hello.git"));
    drv.output = store
        .dir()
        .join("0mxnx8l4fgigvd7gakwdk6hc6im4wnai-hello-git-1.0-checkout");
    store.perform(&drv).go().exits(0);
    assert_eq!(of_sri(&nar_of(&drv.output)), hash);
    assert!(http.take_sent_bytes() > 0);
    // For what is not for us, the real guix asks.
    let mut drv = store.derivation("git-methods.drv", &hash, None, &[]);
    drv.output = store
        .dir()
        .join("1mxnx8l4fgigvd7gakwdk6hc6im4wnai-m-checkout");
    store
        .perform(&drv)
        .go()
        .exits(HANDED_OVER)
        .says("this is a check");
}

#[test]
fn any_hash_of_a_tree_will_do() {
    if lacks("any_hash_of_a_tree_will_do", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let bare = Repository::bare(&env, "srv/r.git");
    let commit = bare.commit("main", &[file("a", b"a\n")]);
    let http = HttpBackend::start(&env, "srv");
    env.write("tree/a", "a\n");
    let by_nix = Command::new("nix-hash")
        .args(["--type", "sha512"])
        .arg(env.path("tree"))
        .output()
        .unwrap();
    let hex = String::from_utf8(by_nix.stdout).unwrap();
    let hash = store_index::hash_text::parse(hex.trim(), Some(Algorithm::Sha512)).unwrap();
    let drv = store.derivation(
        "git-sha512.drv",
        &hash.digest,
        None,
        &[(EXAMPLE, &http.url("r.git")), (COMMIT, &commit)],
    );
    store.perform(&drv).go().exits(0);
    assert_eq!(fs_err::read(drv.output.join("a")).unwrap(), b"a\n");
}

/// Guix clones into the output itself, which lies where there is room.
#[test]
fn a_full_folder_for_temporary_files_is_no_failure() {
    let name = "a_full_folder_for_temporary_files_is_no_failure";
    if lacks(name, &[GIT, &["mount", "setpriv"]].concat(), true) {
        return;
    }
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let Some(disk) = SmallDisk::new(env.path("small"), "1m") else {
        return skipped(name, "cannot mount a tmpfs");
    };
    mode(&env.path("small"), 0o1777);
    let bare = Repository::bare(&env, "srv/hello.git");
    let commit = bare.commit("main", &[file("big", &noise(1, 2_000_000))]);
    bare.git(&["tag", "v2.10", &commit]);
    let http = HttpBackend::start(&env, "srv");
    let hash = of_sri(&bare.nar_of_clone(&env, &commit));
    let drv = of_tag(&store, &hash, &http.url("hello.git"));
    store
        .perform(&drv)
        .variable("TMPDIR", env.path("small"))
        .go()
        .exits(HANDED_OVER)
        .says("cannot be written");
    assert!(!drv.output.exists());
    assert_eq!(names_in(&env.path("small")), [""; 0]);
    drop(disk);
}

/// guix-daemon kills builds, removes the folder that they run in, and names none for temporary files.
#[test]
fn repositories_lie_in_the_folder_of_the_build() {
    let name = "repositories_lie_in_the_folder_of_the_build";
    if lacks(name, &[GIT, &["setpriv"]].concat(), true) {
        return;
    }
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let bare = Repository::bare(&env, "srv/hello.git");
    let commit = bare.commit("main", &[file("big", &noise(1, 50_000))]);
    bare.git(&["tag", "v2.10", &commit]);
    let manners = Manners {
        answers: Answers::Stuck,
        ..Manners::default()
    };
    let http = HttpBackend::with(&env, "srv", manners);
    let drv = of_tag(&store, &flat(b"x"), &http.url("hello.git"));
    let folder = env.path("guix-build-hello-0");
    fs_err::create_dir(&folder).unwrap();
    mode(&folder, 0o700);
    std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).unwrap();
    let mut child = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .args([
            env.path("bin/guix").as_os_str(),
            "perform-download".as_ref(),
        ])
        .args([&drv.path, &drv.output])
        .env_clear()
        .env("NIX_STORE", store.dir())
        .current_dir(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("a repository is there", || {
        names_in(&folder)
            .iter()
            .any(|name| name.starts_with(".fetch-"))
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

/// As git does there: the hash decides, and nobody is told anything.
#[test]
fn a_repositorys_certificate_need_not_be_in_order() {
    let name = "a_repositorys_certificate_need_not_be_in_order";
    if lacks(name, &[GIT, &["nginx", "openssl"]].concat(), false) {
        return;
    }
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let bare = Repository::bare(&env, "srv/r.git");
    let commit = bare.commit("main", &[file("a", b"a\n")]);
    let hash = of_sri(&bare.nar_of_clone(&env, &commit));
    let http = HttpBackend::start(&env, "srv");
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    drop(held);
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args(["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=x"])
        .current_dir(env.path(""))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let folder = env.path("").display().to_string();
    let _nginx = Nginx::configured(
        &env,
        &format!(
            "listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/cert.pem;
             ssl_certificate_key {folder}/key.pem; location /git/ {{ proxy_pass {}; }}",
            http.url("")
        ),
    );
    let url = format!("https://127.0.0.1:{port}/git/r.git");
    let perform = |hash: &Digest, url: &str| {
        let real = [
            (EXAMPLE, url),
            (COMMIT, &commit),
            ("(swh nar)", "(upstream)"),
        ];
        let drv = store.derivation("git-methods.drv", hash, None, &real);
        drop(fs_err::remove_dir_all(&drv.output));
        (store.perform(&drv).go(), drv)
    };
    let (outcome, drv) = perform(&hash, &url);
    outcome
        .exits(0)
        .says("it is asked again without verification, since the hash decides");
    assert_eq!(of_sri(&nar_of(&drv.output)), hash);
    // Not where something secret would be told; and what such a server sends is no answer to who asks for the hash.
    let secret = url.replace("https://", "https://me:secret@");
    let (outcome, _) = perform(&hash, &secret);
    outcome
        .exits(HANDED_OVER)
        .does_not_say("without verification");
    let (outcome, drv) = perform(&flat(b"something else"), &url);
    outcome.exits(HANDED_OVER).says("without verification");
    assert!(!drv.output.exists());
}
