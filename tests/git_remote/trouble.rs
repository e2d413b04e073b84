//! Servers that have not got it, refuse, hang or lie.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::bad_input::SmallDisk;
use crate::support::git::{File, GIT, Repository, file};
use crate::support::git_server::{Answers, Daemon, HttpBackend, Manners};
use crate::support::server::{Answer, Server};
use crate::support::{Report, TestEnv, lacks, names_in, sri, wait_until};

#[track_caller]
fn fails(env: &TestEnv, url: &str, revision: &str, hash: &str, exit: i32) -> Report {
    let report = env
        .fetch_hash(hash)
        .args(["--git", url, "--rev", revision, "-o", "out"])
        .json(exit);
    assert_eq!(env.outputs(), Vec::<String>::new());
    assert!(
        !env.path("cache/fetch/git").exists()
            || names_in(&env.path("cache/fetch/git"))
                .iter()
                .all(|name| !name.starts_with(".fetch-"))
    );
    report
}

#[test]
fn what_is_not_there_is_told_from_trouble() {
    if lacks("what_is_not_there_is_told_from_trouble", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let commit = bare.commit("main", &[file("a", b"a\n")]);
    Repository::bare(&env, "srv/empty.git");
    let http = HttpBackend::start(&env, "srv");
    let daemon = Daemon::start(&env, "srv");
    let (hash, missing) = (sri(b"x"), "0123456789abcdef0123456789abcdef01234567");
    for server in [http.url(""), daemon.url("")] {
        let some = format!("{server}some.git");
        for revision in ["no-such", "refs/tags/no-such", missing] {
            fails(&env, &some, revision, &hash, 3).tried("git", "absent", "some.git");
        }
        fails(&env, &format!("{server}none.git"), "main", &hash, 3);
        fails(&env, &format!("{server}empty.git"), "main", &hash, 3);
        // The commit is there, and its tree has another hash, which is told.
        let report = fails(&env, &some, &commit, &hash, 4);
        let right = bare.nar_of_clone(&env, &commit);
        assert!(report.stderr.contains(&right), "{}", report.stderr);
    }
    // One with ids that nobody here can read.
    bare.git(&[
        "init",
        "-q",
        "--bare",
        "--object-format=sha256",
        "../long.git",
    ]);
    Repository::at(&env, "srv/long.git").commit("main", &[file("a", b"a\n")]);
    for server in [http.url(""), daemon.url("")] {
        let report = fails(&env, &format!("{server}long.git"), "main", &hash, 5);
        let words = "its object ids are made with sha256";
        assert!(report.stderr.contains(words), "{}", report.stderr);
    }
    // Nobody listens there. A port that was used just now may have another test's server already.
    for scheme in ["http", "git"] {
        let gone = format!("{scheme}://127.0.0.1:1/some.git");
        fails(&env, &gone, "main", &hash, 5);
    }
    fails(&env, "gopher://127.0.0.1/some.git", "main", &hash, 2);
}

#[test]
fn credentials_are_sent_and_never_shown() {
    if lacks("credentials_are_sent_and_never_shown", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let commit = bare.commit("main", &[file("a", b"a\n")]);
    let hash = bare.nar_of_clone(&env, &commit);
    let manners = Manners {
        authorization: Some("Basic bWU6aHVudGVyMg=="),
        ..Manners::default()
    };
    let http = HttpBackend::with(&env, "srv", manners);
    let report = fails(&env, &http.url("some.git"), "main", &hash, 5);
    report.tried("git", "failed", "some.git");
    let url = http.url("some.git").replace("://", "://me:hunter2@");
    for (hash, exit) in [(hash.as_str(), 0), (sri(b"x").as_str(), 4)] {
        let outcome = env
            .fetch_hash(hash)
            .args(["--git", &url, "--rev", "main", "-o", "out", "-v"])
            .go()
            .exits(exit);
        assert!(!format!("{outcome}").replace(&url, "").contains("hunter2"));
        drop(fs_err::remove_dir_all(env.out("out")));
    }
    // So are those of a netrc file, to the server that the user named and to no other.
    let netrc = env.path("netrc");
    let machine = format!("machine 127.0.0.1:{}", http.port());
    fs_err::write(&netrc, format!("{machine} login me password hunter2\n")).unwrap();
    let led = Server::start();
    let to = http.url("some.git/info/refs?service=git-upload-pack");
    led.route("/some.git/info/refs", Answer::redirect(302, &to));
    for (url, exit) in [(http.url("some.git"), 0), (led.url("/some.git"), 5)] {
        env.fetch_hash(&hash)
            .args(["--git", &url, "--rev", "main", "-o", "out"])
            .variable("NETRC", &netrc)
            .go()
            .exits(exit);
        drop(fs_err::remove_dir_all(env.out("out")));
    }
    // A redirect to another origin takes the repository along, and not the password.
    let away = Server::start();
    let to = http.url("some.git/info/refs?service=git-upload-pack");
    away.route("/some.git/info/refs", Answer::redirect(302, &to));
    let url = away.url_with_user("me:hunter2", "/some.git");
    let report = fails(&env, &url, "main", &hash, 5);
    assert!(report.stderr.contains("401"), "{}", report.stderr);
}

#[test]
fn redirects_are_followed_to_repositories_only() {
    if lacks("redirects_are_followed_to_repositories_only", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let commit = bare.commit("main", &[file("a", b"a\n")]);
    let hash = bare.nar_of_clone(&env, &commit);
    let http = HttpBackend::start(&env, "srv");
    let moved = Server::start();
    let to = http.url("some.git/info/refs?service=git-upload-pack");
    moved.route("/old/info/refs", Answer::redirect(301, &to));
    env.fetch_hash(&hash)
        .args(["--git", &moved.url("/old"), "--rev", "main", "-o", "out"])
        .go()
        .exits(0);
    fs_err::remove_dir_all(env.out("out")).unwrap();
    for elsewhere in ["file:///etc/passwd", "ext::sh", &http.url("some.git/HEAD")] {
        moved.route("/old/info/refs", Answer::redirect(301, elsewhere));
        fails(&env, &moved.url("/old"), "main", &hash, 5);
    }
    // Pages, nonsense and servers that break off are the network's fault.
    for answer in [
        Answer::body("<html>Sign in</html>"),
        Answer::hang_up(),
        Answer::labelled(
            "Content-Type: application/x-git-upload-pack-advertisement",
            "zzzz",
        ),
        Answer::labelled(
            "Content-Type: application/x-git-upload-pack-advertisement",
            "",
        ),
    ] {
        moved.route("/old/info/refs", answer);
        fails(&env, &moved.url("/old"), "main", &hash, 5);
    }
}

#[test]
fn an_interruption_ends_it_at_once() {
    if lacks("an_interruption_ends_it_at_once", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    bare.commit("main", &[file("b", &crate::support::noise(1, 500_000))]);
    let serve = |answers| {
        let manners = Manners {
            answers,
            ..Manners::default()
        };
        HttpBackend::with(&env, "srv", manners)
    };
    let (silent, slow) = (serve(Answers::Silent), serve(Answers::Slow));
    let hung = Server::start();
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = mute.local_addr().unwrap().port();
    hung.route("/some.git/info/refs", Answer::silence());
    for url in [
        silent.url("some.git"),
        slow.url("some.git"),
        hung.url("/some.git"),
        format!("git://127.0.0.1:{port}/some.git"),
    ] {
        let running = env
            .fetch_hash(sri(b"x"))
            .args(["--git", &url, "--rev", "main", "-o", "out"])
            .start();
        wait_until("it has made its room", || {
            env.path("cache/fetch/git").exists()
                && !names_in(&env.path("cache/fetch/git")).is_empty()
        });
        std::thread::sleep(Duration::from_millis(200));
        let asked = Instant::now();
        running.signal(Signal::INT);
        running.wait().exits(130);
        assert!(asked.elapsed() < Duration::from_secs(1), "{url}");
        assert_eq!(env.outputs(), Vec::<String>::new());
    }
}

#[test]
fn limits_hold() {
    if lacks("limits_hold", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    bare.commit("main", &[file("a", &crate::support::noise(1, 300_000))]);
    let http = HttpBackend::start(&env, "srv");
    let outcome = env
        .fetch_hash(sri(b"x"))
        .args(["--git", &http.url("some.git"), "--rev", "main", "-o", "out"])
        .args(["--max-bytes", "100000"])
        .go()
        .exits(5);
    assert!(
        outcome.stderr.contains("limit of 100000 bytes"),
        "{outcome}"
    );
    // Without a socket it is not asked at all.
    http.take_sent_bytes();
    env.fetch_hash(sri(b"x"))
        .args(["--git", &http.url("some.git"), "--rev", "main", "-o", "out"])
        .arg("--offline")
        .go()
        .exits(3);
    assert_eq!(http.take_sent_bytes(), 0);
}

#[test]
fn what_may_be_over_in_a_moment_is_tried_again() {
    if lacks("what_may_be_over_in_a_moment_is_tried_again", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let commit = bare.commit("main", &[file("a", b"a\n")]);
    let http = HttpBackend::start(&env, "srv");
    let weak = Server::start();
    let to = http.url("some.git/info/refs?service=git-upload-pack");
    weak.route_in_turn(
        "/some.git/info/refs",
        [Answer::status(500, ""), Answer::redirect(302, &to)],
    );
    let url = weak.url("/some.git");
    let report = env
        .fetch_hash(bare.nar_of_clone(&env, &commit))
        .args(["--git", &url, "--rev", &commit, "-o", "out"])
        .json(0);
    report.tried("git", "failed", "some.git");
    report.tried("git", "ok", "some.git");
    assert_eq!(weak.requests().len(), 2);
}

#[test]
fn packs_that_do_not_come_whole_are_trouble() {
    if lacks("packs_that_do_not_come_whole_are_trouble", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let content = crate::support::noise(1, 300_000);
    let commit = bare.commit("main", &[file("a", &content), file("b", &content[1..])]);
    let hash = bare.nar_of_clone(&env, &commit);
    for answers in [
        Answers::Cut,
        Answers::Damaged,
        Answers::Stuck,
        Answers::Silent,
        Answers::Claiming(24_000_000),
        Answers::Claiming(u32::MAX),
    ] {
        let manners = Manners {
            answers,
            ..Manners::default()
        };
        let http = HttpBackend::with(&env, "srv", manners);
        let began = Instant::now();
        let report = env
            .fetch_hash(&hash)
            .args([
                "--git",
                &http.url("some.git"),
                "--rev",
                &commit,
                "-o",
                "out",
            ])
            .args(["--stall-timeout", "2", "--first-byte-timeout", "2"])
            .args(["--retry-budget", "0"])
            .json(5);
        report.tried("git", "failed", "some.git");
        let words = match answers {
            Answers::Cut | Answers::Damaged | Answers::Claiming(_) => "the pack broke off",
            _ => "timed out after 2 s",
        };
        assert!(report.stderr.contains(words), "{}", report.stderr);
        assert!(began.elapsed() < Duration::from_secs(10), "{answers:?}");
        assert_eq!(env.outputs(), Vec::<String>::new());
    }
}

#[test]
fn a_killed_run_is_in_nobodys_way() {
    if lacks("a_killed_run_is_in_nobodys_way", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let commit = bare.commit("main", &[file("a", &crate::support::noise(1, 100_000))]);
    let hash = bare.nar_of_clone(&env, &commit);
    let manners = Manners {
        answers: Answers::Slow,
        ..Manners::default()
    };
    let slow = HttpBackend::with(&env, "srv", manners);
    let url = slow.url("some.git");
    let fetch = || {
        env.fetch_hash(&hash)
            .args(["--git", &url, "--rev", &commit, "-o", "out"])
    };
    let packs = || {
        let cache = env.path("cache/fetch/git");
        let kept = names_in(&cache)
            .into_iter()
            .find(|name| !name.contains('.'));
        cache.join(kept.unwrap()).join("objects/pack")
    };
    let running = fetch().start();
    wait_until("something has come", || {
        env.path("cache/fetch/git").exists()
            && names_in(&env.path("cache/fetch/git")).len() == 2
            && packs().exists()
            && !names_in(&packs()).is_empty()
    });
    running.signal(Signal::KILL);
    assert!(running.wait().was_killed());
    fetch().go().exits(0);
    assert_eq!(crate::support::git::nar_of(&env.out("out")), hash);
    assert_eq!(env.outputs(), ["out"]);
    assert_eq!(names_in(&packs()).len(), 2);
}

#[test]
fn a_full_disk_is_this_machines_trouble() {
    let name = "a_full_disk_is_this_machines_trouble";
    if lacks(name, &["git", "nix-hash", "mount"], true) {
        return;
    }
    let env = TestEnv::new();
    let Some(_disk) = SmallDisk::new(env.path("cache/fetch"), "1m") else {
        return crate::support::skipped(name, "cannot mount a tmpfs");
    };
    let bare = Repository::bare(&env, "srv/some.git");
    let commit = bare.commit("main", &[file("a", &crate::support::noise(1, 2_000_000))]);
    let http = HttpBackend::start(&env, "srv");
    env.fetch_hash(bare.nar_of_clone(&env, &commit))
        .args([
            "--git",
            &http.url("some.git"),
            "--rev",
            &commit,
            "-o",
            "out",
        ])
        .go()
        .exits(7)
        .says("what the server sends cannot be written");
    assert_eq!(env.outputs(), Vec::<String>::new());
}

/// A relay to a server that, behind so many bytes, passes on one at a time.
fn drip(port: u16, quick: usize) -> u16 {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let server = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
        drop(std::io::copy(
            &mut (&server).take(quick as u64),
            &mut &client,
        ));
        for byte in std::io::BufReader::new(server).bytes() {
            // The client gives up in the end.
            let Ok(byte) = byte else { return };
            if (&client).write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    own
}

#[test]
fn a_daemon_that_drips_is_given_up() {
    if lacks("a_daemon_that_drips_is_given_up", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    bare.commit("main", &[file("a", &crate::support::noise(1, 300_000))]);
    let daemon = Daemon::start(&env, "srv");
    let port = drip(daemon.port(), 100_000);
    let began = Instant::now();
    let outcome = env
        .fetch_hash(sri(b"x"))
        .args(["--git", &format!("git://127.0.0.1:{port}/some.git")])
        .args(["--rev", "main", "-o", "out"])
        .args(["--stall-timeout", "2", "--retry-budget", "0"])
        .go()
        .exits(5);
    let outcome = outcome.says("stalled at 10");
    assert!(began.elapsed() < Duration::from_secs(20), "{outcome}");
}

/// Whoever wrote the repository shall not make this machine look broken.
#[test]
fn names_that_no_file_system_has_are_the_repositorys_trouble() {
    let name = "names_that_no_file_system_has_are_the_repositorys_trouble";
    if lacks(name, GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let http = HttpBackend::start(&env, "srv");
    let long = "n".repeat(300);
    let target = "t".repeat(4096);
    let link = File {
        path: "link",
        mode: "120000",
        content: target.as_bytes(),
    };
    let named = [file(&long, b"a\n")];
    let below = format!("{}/a", "d".repeat(256));
    let deep = [file(&below, b"a\n")];
    for files in [named.as_slice(), &deep, &[link]] {
        let commit = bare.commit("main", files);
        let report = fails(&env, &http.url("some.git"), &commit, &sri(b"x"), 5);
        report.tried("git", "failed", "some.git");
    }
}

/// What stays free on a disk stays free of packs too.
#[test]
fn a_pack_leaves_the_disks_reserve() {
    let name = "a_pack_leaves_the_disks_reserve";
    if lacks(name, &["git", "nix-hash", "mount"], true) {
        return;
    }
    let env = TestEnv::new();
    let Some(_disk) = SmallDisk::new(env.path("cache/fetch"), "100m") else {
        return crate::support::skipped(name, "cannot mount a tmpfs");
    };
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs_err::set_permissions(env.path("cache/fetch"), private).unwrap();
    let bare = Repository::bare(&env, "srv/some.git");
    bare.git(&["config", "core.compression", "0"]);
    let commit = bare.commit("main", &[file("a", &crate::support::noise(1, 98 << 20))]);
    let daemon = Daemon::start(&env, "srv");
    env.fetch_hash(sri(b"x"))
        .args(["--git", &daemon.url("some.git"), "--rev", &commit])
        .args(["-o", "out"])
        .go()
        .exits(7)
        .says("stay free");
}

/// What is remembered of servers of files is remembered of those of repositories.
#[test]
fn a_host_that_wants_to_be_left_alone_is_by_the_next_process_too() {
    let env = TestEnv::new();
    let server = Server::with(
        "/some.git/info/refs",
        Answer::status_with(503, "Retry-After: 600"),
    );
    let url = server.url("/some.git");
    let ask = || {
        env.fetch_hash(sri(b"x"))
            .args(["--git", &url, "--rev", "main", "-o", "out"])
            .args(["--retry-budget", "5"])
    };
    let first = ask().json(5);
    assert!(first.stderr.contains("503"), "{}", first.stderr);
    assert_eq!(server.requests().len(), 1);
    let second = ask().json(5);
    second.tried("git", "unavailable", "some.git");
    assert!(second.stderr.contains("left alone"), "{}", second.stderr);
    assert_eq!(server.requests().len(), 1);
    let explained = env
        .fetch(["explain", &sri(b"x"), "--no-store", "--no-media"])
        .args(["--git", &url, "--rev", "main"])
        .go();
    let words = "its host wants to be left alone";
    assert!(explained.stdout.contains(words), "{explained}");
}
