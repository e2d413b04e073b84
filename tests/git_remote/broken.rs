//! Packs that break off: what came of them is not sent again.

use rustix::process::Signal;

use super::fetch_nar;
use crate::support::git::{GIT, Repository, file, nar_of};
use crate::support::git_server::{Answers, Daemon, HttpBackend, Manners};
use crate::support::relay::Relay;
use crate::support::{Outcome, TestEnv, lacks, names_in, noise, wait_until};

/// How many files of [`FILE_LEN`] bytes a repository has.
const FILES: u64 = 40;

const FILE_LEN: usize = 50_000;

const ALL: u64 = FILES * FILE_LEN as u64;

/// Commits files that do not compress, and one more with some text in it.
fn commit(bare: &Repository, text: &str) -> String {
    let contents: Vec<_> = (0..FILES)
        .map(|number| (format!("some/where/{number}"), noise(number, FILE_LEN)))
        .collect();
    let mut files: Vec<_> = contents
        .iter()
        .map(|(path, content)| file(path, content))
        .collect();
    files.push(file("text", text.as_bytes()));
    bare.commit("main", &files)
}

fn fetch(env: &TestEnv, url: &str, commit: &str, hash: &str, budget: &str) -> Outcome {
    env.fetch_hash(hash)
        .args(["--git", url, "--rev", commit, "-o", "out", "-v"])
        .args(["--retry-budget", budget])
        .go()
}

#[test]
fn what_came_before_a_break_is_not_sent_again() {
    if lacks("what_came_before_a_break_is_not_sent_again", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let text: String = (0..5000).map(|line| format!("line {line}\n")).collect();
    let first = commit(&bare, &text);
    let second = commit(&bare, &text.replace("77", "78"));
    let hash = |commit: &str| bare.nar_of_clone(&env, commit);
    let (first_hash, second_hash) = (hash(&first), hash(&second));
    let daemon = Daemon::start(&env, "srv");
    let http = HttpBackend::start(&env, "srv");
    // Whether it can leave out files makes no difference.
    for (port, scheme, filters) in [
        (daemon.port(), "git", "false"),
        (daemon.port(), "git", "true"),
        (http.port(), "http", "false"),
    ] {
        bare.git(&["config", "uploadpack.allowFilter", filters]);
        let relay = Relay::to(port).unwrap();
        let url = format!("{scheme}://127.0.0.1:{}/some.git", relay.port());
        relay.break_after(ALL / 2);
        fetch(&env, &url, &first, &first_hash, "0").exits(5);
        let before = relay.take_sent_bytes();
        assert!(before >= ALL / 2, "{before}");
        assert_eq!(env.outputs(), Vec::<String>::new());
        let rest = fetch(&env, &url, &first, &first_hash, "0").exits(0);
        assert_eq!(nar_of(&env.out("out")), first_hash);
        let sent = relay.take_sent_bytes();
        assert!(sent < ALL / 2 + 200_000, "{scheme} {filters}: {sent}");
        assert!(rest.stderr.contains("the rest was kept"), "{rest}");
        // Nothing is missing in what is kept: the same commit costs nothing, and the next one its difference.
        fs_err::remove_dir_all(env.out("out")).unwrap();
        fetch_nar(&env, &url, &first, &first_hash);
        assert_eq!(relay.take_sent_bytes(), 0);
        fetch_nar(&env, &url, &second, &second_hash);
        let sent = relay.take_sent_bytes();
        assert!(sent < 10_000, "{scheme} {filters}: {sent}");
        fs_err::remove_dir_all(env.out("out")).unwrap();
        // So it goes if it breaks again and again, and in one run.
        fs_err::remove_dir_all(env.path("cache/fetch")).unwrap();
        for _ in 0..2 {
            relay.break_after(ALL / 4);
            fetch(&env, &url, &first, &first_hash, "0").exits(5);
        }
        relay.break_after(ALL / 4);
        fetch(&env, &url, &first, &first_hash, "30").exits(0);
        let sent = relay.take_sent_bytes();
        assert!(sent < ALL + 400_000, "{scheme} {filters}: {sent}");
        assert_eq!(nar_of(&env.out("out")), first_hash);
        fs_err::remove_dir_all(env.out("out")).unwrap();
        fs_err::remove_dir_all(env.path("cache/fetch")).unwrap();
    }
}

/// A tag or a tree has no parents that could be missing, and a server answers nothing to whoever says so.
#[test]
fn what_breaks_off_under_the_id_of_a_tag_or_a_tree_is_in_nobodys_way() {
    let name = "what_breaks_off_under_the_id_of_a_tag_or_a_tree_is_in_nobodys_way";
    if lacks(name, GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let first = commit(&bare, "a\n");
    bare.git(&["tag", "-a", "-m", "x", "v1", &first]);
    let ids = [
        bare.git(&["rev-parse", "v1"]),
        bare.git(&["rev-parse", "v1^{tree}"]),
    ];
    let second = commit(&bare, "b\n");
    let (hash, second_hash) = (
        bare.nar_of_clone(&env, &first),
        bare.nar_of_clone(&env, &second),
    );
    let daemon = Daemon::start(&env, "srv");
    for id in ids {
        let relay = Relay::to(daemon.port()).unwrap();
        let url = format!("git://127.0.0.1:{}/some.git", relay.port());
        relay.break_after(ALL / 2);
        fetch(&env, &url, &id, &hash, "0").exits(5);
        fetch(&env, &url, &id, &hash, "0").exits(0);
        assert_eq!(nar_of(&env.out("out")), hash);
        let sent = relay.take_sent_bytes();
        assert!(sent < ALL + 200_000, "{id}: {sent}");
        fetch_nar(&env, &url, &second, &second_hash);
        fs_err::remove_dir_all(env.out("out")).unwrap();
    }
}

/// Files one by one are asked for to save bytes: who does not give them out sends all again.
#[test]
fn servers_that_give_out_no_single_files_send_all_again() {
    let name = "servers_that_give_out_no_single_files_send_all_again";
    if lacks(name, GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let first = commit(&bare, "a\n");
    let hash = bare.nar_of_clone(&env, &first);
    // In words of their own, or without any.
    for status in ["403 Forbidden", "413 Content Too Large", "200 OK"] {
        let manners = Manners {
            only_with_depth: Some(status),
            ..Manners::default()
        };
        let http = HttpBackend::with(&env, "srv", manners);
        let relay = Relay::to(http.port()).unwrap();
        let url = format!("http://127.0.0.1:{}/some.git", relay.port());
        relay.break_after(ALL / 2);
        fetch(&env, &url, &first, &hash, "0").exits(5);
        fetch(&env, &url, &first, &hash, "0").exits(0);
        assert_eq!(nar_of(&env.out("out")), hash);
        fs_err::remove_dir_all(env.out("out")).unwrap();
        // Now nothing is missing.
        relay.take_sent_bytes();
        fetch_nar(&env, &url, &first, &hash);
        assert_eq!(relay.take_sent_bytes(), 0);
        fs_err::remove_dir_all(env.out("out")).unwrap();
        // It would lend to the next one.
        fs_err::remove_dir_all(env.path("cache/fetch")).unwrap();
    }
    // Who has too much to do is not asked for more.
    let manners = Manners {
        only_with_depth: Some("503 Service Unavailable"),
        ..Manners::default()
    };
    let http = HttpBackend::with(&env, "srv", manners);
    let relay = Relay::to(http.port()).unwrap();
    let url = format!("http://127.0.0.1:{}/some.git", relay.port());
    relay.break_after(ALL / 2);
    fetch(&env, &url, &first, &hash, "0").exits(5);
    relay.take_sent_bytes();
    fetch(&env, &url, &first, &hash, "0").exits(5);
    assert!(relay.take_sent_bytes() < ALL / 2);
}

/// Behind an old server nothing is saved, and nothing is lost.
#[test]
fn servers_of_the_old_protocol_send_all_again() {
    if lacks("servers_of_the_old_protocol_send_all_again", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let first = commit(&bare, "a\n");
    let hash = bare.nar_of_clone(&env, &first);
    let manners = Manners {
        only_v0: true,
        ..Manners::default()
    };
    let http = HttpBackend::with(&env, "srv", manners);
    let relay = Relay::to(http.port()).unwrap();
    let url = format!("http://127.0.0.1:{}/some.git", relay.port());
    relay.break_after(ALL / 2);
    fetch(&env, &url, &first, &hash, "0").exits(5);
    fetch(&env, &url, &first, &hash, "0").exits(0);
    assert_eq!(nar_of(&env.out("out")), hash);
    let cache = env.path("cache/fetch/git");
    let kept = names_in(&cache)
        .into_iter()
        .find(|name| !name.contains('.'));
    let packs = names_in(&cache.join(kept.unwrap()).join("objects/pack"));
    assert!(!packs.contains(&"incoming".to_owned()), "{packs:?}");
}

#[test]
fn what_came_before_a_kill_is_not_sent_again() {
    if lacks("what_came_before_a_kill_is_not_sent_again", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let contents: Vec<_> = (0..FILES)
        .map(|number| (number.to_string(), noise(number, 2_000)))
        .collect();
    let files: Vec<_> = contents.iter().map(|(path, it)| file(path, it)).collect();
    let commit = bare.commit("main", &files);
    let hash = bare.nar_of_clone(&env, &commit);
    let manners = Manners {
        answers: Answers::Slow,
        ..Manners::default()
    };
    let http = HttpBackend::with(&env, "srv", manners);
    let url = http.url("some.git");
    let ask = || {
        env.fetch_hash(&hash)
            .args(["--git", &url, "--rev", &commit, "-o", "out"])
    };
    for signal in [Signal::KILL, Signal::INT] {
        let running = ask().start();
        let incoming = || {
            let cache = env.path("cache/fetch/git");
            let mut names = fs_err::read_dir(&cache).ok()?.flatten();
            let kept = names.find(|entry| entry.path().is_dir())?;
            let incoming = kept.path().join("objects/pack/incoming");
            Some(fs_err::metadata(incoming).ok()?.len())
        };
        wait_until("half of it has come", || {
            incoming().is_some_and(|bytes| bytes > 40_000)
        });
        running.signal(signal);
        running.wait();
        http.take_sent_bytes();
        ask().go().exits(0);
        let sent = http.take_sent_bytes();
        assert!(sent < 50_000, "{signal:?}: {sent}");
        assert_eq!(nar_of(&env.out("out")), hash);
        fs_err::remove_dir_all(env.out("out")).unwrap();
        fs_err::remove_dir_all(env.path("cache/fetch")).unwrap();
    }
}
