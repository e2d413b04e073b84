//! Servers that have not got it, refuse, hang or lie.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::git::{GIT, Repository, file};
use crate::support::git_server::{Daemon, HttpBackend, Manners};
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
    let port = http.port();
    drop(http);
    fails(
        &env,
        &format!("http://127.0.0.1:{port}/some.git"),
        "main",
        &hash,
        5,
    );
    fails(
        &env,
        &format!("git://127.0.0.1:{port}/some.git"),
        "main",
        &hash,
        5,
    );
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
    let commit = bare.commit("main", &[file("a", b"a\n")]);
    let manners = Manners {
        silent: true,
        ..Manners::default()
    };
    let http = HttpBackend::with(&env, "srv", manners);
    let hung = Server::start();
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = mute.local_addr().unwrap().port();
    hung.route("/some.git/info/refs", Answer::silence());
    for url in [
        http.url("some.git"),
        hung.url("/some.git"),
        format!("git://127.0.0.1:{port}/some.git"),
    ] {
        let running = env
            .fetch_hash(sri(b"x"))
            .args(["--git", &url, "--rev", &commit, "-o", "out"])
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
