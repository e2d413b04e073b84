//! Several processes that want the same content: one downloads, the others take what it brought.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use store_index::address::{ContentAddress, Method};
use store_index::store_path::{FixedOutput, ItemName};

use crate::support::server::{Answer, Manner, Server};
use crate::support::{Run, TestEnv, names_in, noise, sri, wait_until};

const STEP: usize = 64 * 1024;

fn fetch<'env>(env: &'env TestEnv, server: &Server, body: &[u8], output: &str) -> Run<'env> {
    env.fetch_hash(sri(body))
        .args(["-o", output])
        .arg(server.url("/big"))
}

/// Waits until a download has begun to come.
fn wait_for_bytes(server: &Server, bytes: u64) {
    wait_until("the download has begun", || server.sent_bytes() > bytes);
}

/// As with a larger body; this one takes long enough for all of them to begin.
#[test]
fn one_download_serves_64_processes() {
    const PROCESSES: usize = 64;
    let env = TestEnv::new();
    let body = noise(3, 16 << 20);
    let server = Server::with(
        "/big",
        Answer::file(body.clone()).paced(1 << 20, Duration::from_millis(100)),
    );
    let running: Vec<_> = (0..PROCESSES)
        // Some want it at the same place.
        .map(|number| fetch(&env, &server, &body, &format!("big-{}", number.min(12))).start())
        .collect();
    for process in running {
        process.wait().exits(0);
    }
    for number in 0..=12 {
        assert!(env.output(&format!("big-{number}")) == body, "{number}");
    }
    assert_eq!(server.sent_bytes(), body.len() as u64);
    assert_eq!(server.requests().len(), 1);
    assert_eq!(names_in(&env.path("cache/fetch/spool")), [""; 0]);
    assert_eq!(env.outputs().len(), 13);
}

/// A follower says whom it waits for, and of what it took the content.
#[test]
fn a_follower_says_whom_it_waits_for() {
    let env = TestEnv::new();
    let body = noise(3, 4 << 20);
    let server = Server::with(
        "/big",
        Answer::file(body.clone()).paced(STEP, Duration::from_millis(80)),
    );
    let leader = fetch(&env, &server, &body, "first")
        .arg(server.url("/big?token=t0ken"))
        .start();
    wait_for_bytes(&server, 1 << 20);
    let report = fetch(&env, &server, &body, "second").json(0);
    let id = leader.id();
    leader.wait().exits(0);
    assert_eq!(report.kind(), "ledger");
    assert_eq!(report.location(), env.out("first").to_str().unwrap());
    for words in [
        &format!("waiting for process {id} on ") as &str,
        "MiB so far",
    ] {
        assert!(report.stderr.contains(words), "{words}: {}", report.stderr);
    }
    assert!(!report.stderr.contains("t0ken"), "{}", report.stderr);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn whoever_does_not_want_to_wait_is_told() {
    let env = TestEnv::new();
    let body = noise(3, 4 << 20);
    let server = Server::with(
        "/big",
        // Until it is killed.
        Answer::file(body.clone()).paced(STEP, Duration::from_millis(500)),
    );
    let leader = fetch(&env, &server, &body, "first").start();
    wait_for_bytes(&server, STEP as u64);
    let held = fetch(&env, &server, &body, "second")
        .args(["--lock", "fail"])
        .json(6);
    assert_eq!(held.error(), "held");
    let held = fetch(&env, &server, &body, "second")
        .args(["--lock", "0.3"])
        .go()
        .exits(6);
    held.says(&format!("process {}", leader.id()));
    fetch(&env, &server, &body, "second")
        .variable("FETCH_LOCK", "fail")
        .go()
        .exits(6);
    for bad in ["soon", "-1", "", "1e99"] {
        let outcome = fetch(&env, &server, &body, "second")
            .arg(format!("--lock={bad}"))
            .go();
        outcome.exits(2);
    }
    // Another content is another matter.
    server.route("/small", Answer::body("hello\n"));
    env.fetch_hash(sri(b"hello\n"))
        .args(["--lock", "fail"])
        .arg(server.url("/small"))
        .go()
        .exits(0);
    assert_eq!(env.outputs(), ["small"], "nothing of the others");
    leader.signal(Signal::KILL);
    leader.wait();
}

/// A killed leader is succeeded at once by a follower, which goes on where it ended.
#[test]
fn a_killed_leader_is_succeeded() {
    let env = TestEnv::new();
    let body = noise(3, 6 << 20);
    let server = Server::with(
        "/big",
        Answer::file(body.clone()).paced(STEP, Duration::from_millis(20)),
    );
    let leader = fetch(&env, &server, &body, "first").start();
    wait_for_bytes(&server, STEP as u64);
    let followers: Vec<_> = (0..4)
        .map(|number| fetch(&env, &server, &body, &format!("next-{number}")).start())
        .collect();
    wait_for_bytes(&server, body.len() as u64 / 2);
    leader.signal(Signal::KILL);
    assert!(leader.wait().was_killed());
    for follower in followers {
        follower.wait().exits(0);
    }
    assert_eq!(env.outputs(), ["next-0", "next-1", "next-2", "next-3"]);
    for name in env.outputs() {
        assert!(env.output(&name) == body, "{name}");
    }
    assert_eq!(server.requests().len(), 2, "the leader and one successor");
    let sent = server.sent_bytes();
    // What the server was sending when its client was killed.
    let most = (body.len() + 4 * STEP) as u64;
    assert!(sent <= most, "{sent} bytes sent, at most {most} wanted");
}

/// A follower that waits for a leader that fails asks by itself.
#[test]
fn a_leader_that_fails_is_succeeded() {
    let env = TestEnv::new();
    let body = noise(3, 2 << 20);
    let server = Server::start();
    server.route_in_turn(
        "/big",
        [
            Answer::file(body.clone())
                .paced(STEP, Duration::from_millis(30))
                .cut_after(1 << 20),
            Answer::file(body.clone()),
        ],
    );
    let leader = fetch(&env, &server, &body, "first")
        .args(["--retry-budget", "0"])
        .start();
    wait_for_bytes(&server, STEP as u64);
    fetch(&env, &server, &body, "second").go().exits(0);
    leader.wait().exits(5);
    assert!(env.output("second") == body);
    assert_eq!(server.sent_bytes(), body.len() as u64);
}

/// What goes to standard output lies nowhere afterwards: for those who wait it stays in the spool, whole.
#[test]
fn standard_output_is_downloaded_once_too() {
    let env = TestEnv::new();
    let body: Vec<u8> = b"0123456789abcde\n".repeat(3 << 16);
    let server = Server::start();
    let file = Answer::file(body.clone()).paced(STEP, Duration::from_millis(25));
    for manner in [Manner::Honest, Manner::Unannounced] {
        server.route("/big", file.clone().manner(manner));
        let before = server.requests().len();
        let to_stdout = || fetch(&env, &server, &body, "-").start();
        let leader = to_stdout();
        wait_until("the download has begun", || {
            server.requests().len() > before
        });
        let followers: Vec<_> = (0..3).map(|_| to_stdout()).collect();
        for process in std::iter::once(leader).chain(followers) {
            let outcome = process.wait().exits(0);
            assert!(outcome.stdout.as_bytes() == body, "other bytes");
        }
        let requests = server.requests().len() - before;
        assert_eq!(requests, 1, "{manner:?}");
        assert_eq!(names_in(&env.path("cache/fetch/spool")), [""; 0]);
        assert_eq!(names_in(&env.path("cache/fetch/locks")), [""; 0]);
    }
    // Nobody waits: nothing stays.
    fetch(&env, &server, &body, "-").go().exits(0);
    assert_eq!(names_in(&env.path("cache/fetch/spool")), [""; 0]);
}

/// Those who waited for a leader that failed fail soon after it, not each with all tries and pauses.
#[test]
fn many_fail_almost_at_once() {
    let env = TestEnv::new();
    let body = noise(3, 1000);
    let server = Server::with("/big", Answer::status(500, ""));
    let leader = fetch(&env, &server, &body, "first").start();
    wait_until("the leader is at it", || !server.requests().is_empty());
    let followers: Vec<_> = (0..4)
        .map(|number| fetch(&env, &server, &body, &format!("next-{number}")).start())
        .collect();
    leader.wait().exits(5);
    for follower in followers {
        follower.wait().exits(5);
    }
    assert_eq!(server.requests().len(), 4 + 4);
    // Nobody was waited for, and all tries are due again.
    fetch(&env, &server, &body, "last").go().exits(5);
    assert_eq!(server.requests().len(), 4 + 4 + 4);
}

/// Trees too are downloaded once.
#[test]
fn one_archive_serves_all() {
    let env = TestEnv::new();
    let content = noise(3, 3 << 20);
    let tree = env.path("tree");
    fs_err::create_dir(&tree).unwrap();
    fs_err::write(tree.join("file"), &content).unwrap();
    let archive = env.path("x.tar");
    let packed = std::process::Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(env.path(""))
        .arg("tree")
        .status();
    assert!(packed.unwrap().success());
    let archive = fs_err::read(archive).unwrap();
    let server = Server::with(
        "/x.tar",
        Answer::file(archive).paced(STEP, Duration::from_millis(20)),
    );
    let hash = crate::unpack::tree_sri(&tree);
    let running: Vec<_> = (0..4)
        .map(|number| {
            let output = format!("tree-{number}");
            let run = env.fetch_hash(&hash).args(["--unpack", "-o", &output]);
            run.arg(server.url("/x.tar")).start()
        })
        .collect();
    for process in running {
        process.wait().exits(0);
    }
    for number in 0..4 {
        let file = env.out(&format!("tree-{number}")).join("file");
        assert!(fs_err::read(file).unwrap() == content, "{number}");
    }
    assert_eq!(server.requests().len(), 1);
}

/// What has come into the store while the leader was waited for is not downloaded: what is prefetched lies nowhere else.
#[test]
fn the_store_is_asked_again_after_a_wait() {
    let env = TestEnv::new();
    let body = noise(3, 2 << 20);
    let server = Server::with(
        "/big",
        Answer::file(body.clone()).paced(STEP, Duration::from_millis(500)),
    );
    let store = env.path("store");
    fs_err::create_dir(&store).unwrap();
    let digest = crate::support::digest(store_index::digest::Algorithm::Sha256, &body);
    let address = ContentAddress::new(Method::Flat, digest).unwrap();
    let item = FixedOutput::new(store.to_str().unwrap(), &address)
        .base_name(&ItemName::new("big").unwrap());
    let leader = fetch(&env, &server, &body, "first").start();
    wait_for_bytes(&server, 0);
    let follower = env
        .fetch([
            "--no-media",
            "--hash",
            &sri(&body),
            "-o",
            "second",
            "--json",
        ])
        .arg("--store")
        .arg(&store)
        .arg(server.url("/big"))
        .start();
    // Long enough to have looked into the store before.
    std::thread::sleep(Duration::from_millis(1500));
    fs_err::write(store.join(item), &body).unwrap();
    leader.signal(Signal::KILL);
    leader.wait();
    let outcome = follower.wait().exits(0);
    assert!(outcome.stdout.contains("\"store\""), "{outcome}");
    assert!(env.output("second") == body);
    assert_eq!(server.requests().len(), 1);
}

/// An earlier output serves the next request, as long as it is what it was; and its name is not forgotten.
#[test]
fn an_earlier_output_is_a_source() {
    let env = TestEnv::new();
    let server = Server::with("/hello-1.0.tar.gz", Answer::body("hello\n"));
    server.route("/hello-2.0.tar.gz", Answer::status(404, ""));
    let fetch = |output: &str, name: &str| {
        env.fetch_hash(sri(b"hello\n"))
            .args(["-o", output])
            .arg(server.url(name))
    };
    fetch("first", "/hello-1.0.tar.gz").json(0);
    let second = fetch("second", "/hello-1.0.tar.gz").json(0);
    assert_eq!(second.kind(), "ledger");
    assert_eq!(server.requests().len(), 1);
    let offline = fetch("third", "/hello-1.0.tar.gz").arg("--offline").json(0);
    assert_eq!(offline.kind(), "ledger");
    // The hash of another version was forgotten: the network decides.
    let stale = fetch("fourth", "/hello-2.0.tar.gz").go().exits(3);
    stale.says("stale hash?");
    assert_eq!(server.requests().len(), 2);
    // Changed, replaced or moved, it does not count.
    fs_err::write(env.out("third"), "hullo\n").unwrap();
    fs_err::write(env.out("second"), "hullo, world\n").unwrap();
    fs_err::remove_file(env.out("first")).unwrap();
    let last = fetch("last", "/hello-1.0.tar.gz").json(0);
    assert_eq!(last.kind(), "url");
    // Nobody who wants no local source gets one.
    let upstream = fetch("upstream", "/hello-1.0.tar.gz").arg("--no-local");
    assert_eq!(upstream.json(0).kind(), "url");
    let collected = env.fetch(["cache", "gc"]).go().exits(0);
    assert!(
        collected.stdout.contains("forgot 3 earlier downloads"),
        "{collected}"
    );
}

/// `fetch cache gc` removes what is old, and nothing that somebody works at.
#[test]
fn old_partial_downloads_are_removed() {
    let env = TestEnv::new();
    let body = noise(3, 2 << 20);
    let server = Server::with("/big", Answer::file(body.clone()).cut_after(1 << 20));
    let once = ["--retry-budget", "0"];
    fetch(&env, &server, &body, "out").args(once).go().exits(5);
    let spool = env.path("cache/fetch/spool");
    assert_eq!(names_in(&spool).len(), 2);
    env.fetch(["cache", "gc"]).go().exits(0);
    assert_eq!(names_in(&spool).len(), 2, "it is not old");
    let old = std::time::SystemTime::now() - Duration::from_secs(15 * 24 * 60 * 60);
    for name in names_in(&spool) {
        let file = fs_err::File::open(spool.join(name)).unwrap();
        file.file().set_modified(old).unwrap();
    }
    // The next large download looks after it as well.
    let other = noise(4, 2 << 20);
    server.route(
        "/big",
        Answer::file(other.clone()).paced(STEP, Duration::from_millis(30)),
    );
    let running = fetch(&env, &server, &other, "other").start();
    wait_until("the new one is there alone", || {
        names_in(&spool)
            .iter()
            .all(|name| !name.contains(&hex(&body)))
    });
    env.fetch(["cache", "gc", "--all"]).go().exits(0);
    assert!(part_of(&spool, &other).is_some(), "somebody works at it");
    running.wait().exits(0);
    assert!(env.output("other") == other);
    assert_eq!(server.requests().len(), 2);
    // What nobody works at goes.
    server.route("/big", Answer::file(body.clone()).cut_after(1 << 20));
    fetch(&env, &server, &body, "out").args(once).go().exits(5);
    assert!(part_of(&spool, &body).is_some());
    env.fetch(["cache", "gc"])
        .variable("FETCH_ALL", "1")
        .go()
        .exits(0);
    assert_eq!(names_in(&spool), [""; 0]);
}

fn part_of(spool: &Path, body: &[u8]) -> Option<String> {
    let is_it = |name: &String| name.contains(&hex(body)) && name.ends_with(".part");
    names_in(spool).into_iter().find(is_it)
}

fn hex(body: &[u8]) -> String {
    crate::support::digest(store_index::digest::Algorithm::Sha256, body).to_hex()
}

/// `fetch cache verify` finds what has changed and looks the same.
#[test]
fn earlier_downloads_are_hashed_again() {
    let env = TestEnv::new();
    let server = Server::start();
    for name in ["one", "two", "gone"] {
        server.route(&format!("/{name}"), Answer::body(name));
        env.fetch_hash(sri(name.as_bytes()))
            .arg(server.url(&format!("/{name}")))
            .go()
            .exits(0);
    }
    fs_err::remove_file(env.out("gone")).unwrap();
    let verify = || env.fetch(["cache", "verify"]).go();
    let sound = verify().exits(0);
    assert!(
        sound
            .stdout
            .contains("2 earlier downloads are what they were, 1 are forgotten"),
        "{sound}"
    );
    let time = fs_err::metadata(env.out("two"))
        .unwrap()
        .modified()
        .unwrap();
    fs_err::write(env.out("two"), "owt").unwrap();
    let file = fs_err::OpenOptions::new()
        .write(true)
        .open(env.out("two"))
        .unwrap();
    file.file().set_modified(time).unwrap();
    let changed = verify().exits(1);
    let two = env.out("two");
    assert!(
        changed.stdout.contains(two.to_str().unwrap())
            && changed.stdout.contains("1 are forgotten"),
        "{changed}"
    );
    verify().exits(0);
    // The next request does not fall for it either way.
    let report = env
        .fetch_hash(sri(b"two"))
        .args(["-o", "again"])
        .arg(server.url("/two"))
        .json(0);
    assert_eq!(report.kind(), "url");
}
