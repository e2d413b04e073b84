//! Several downloads at a time: how many, what becomes of trouble, and of batches that are ended.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use store_index::digest::Algorithm;

use super::{batch, came, line, serve, source, sources_json};
use crate::support::server::{Answer, Server};
use crate::support::{TestEnv, digest, names_in, noise, wait_until};

const STEP: usize = 64 * 1024;

/// One poisoned entry, one that is gone and one whose server is dead cost themselves and nothing else; the exit code is
/// that of the worst.
#[test]
fn the_worst_decides_over_the_exit_code_and_over_nothing_else() {
    let env = TestEnv::new();
    let server = Server::start();
    serve(
        &server,
        &[("good", "good"), ("also", "also"), ("poisoned", "poison")],
    );
    server.route("/refused", Answer::status(403, ""));
    let fine = line("good", "good") + &line("also", "also");
    let gone = line("gone", "gone");
    let poisoned = line("poisoned", "healthy");
    let refused = line("refused", "refused");
    let malformed = "nonsense\n".to_owned();
    for (code, bad) in [
        (0, vec![]),
        (2, vec![&malformed]),
        (3, vec![&gone, &malformed]),
        (4, vec![&poisoned, &gone]),
        (5, vec![&refused, &poisoned, &gone, &malformed]),
    ] {
        let bad: String = bad.into_iter().map(String::as_str).collect();
        let list = env.write("SHA256SUMS", bad + &fine);
        let run = batch(&env, &list).arg("--base-url").arg(server.url("/"));
        let report = run.args(["--retry-budget", "0"]).json(code);
        assert_eq!(report.count("downloaded"), 2, "{code}: {:#}", report.object);
        assert_eq!(names_in(&env.out("into")), ["also", "good"]);
        fs_err::remove_dir_all(env.out("into")).unwrap();
        fs_err::remove_dir_all(env.path("cache/fetch")).unwrap();
    }
    let list = env.write("SHA256SUMS", poisoned + &gone);
    let outcome = batch(&env, &list)
        .arg("--base-url")
        .arg(server.url("/"))
        .go()
        .exits(4);
    for words in [
        "failed poisoned: hash mismatch",
        "failed gone: not found",
        "2 failed",
    ] {
        assert!(outcome.stdout.contains(words), "{words}: {outcome}");
    }
}

/// A list of small files, and a server that takes a moment for each.
fn many(server: &Server, count: usize) -> (String, Vec<String>) {
    let names: Vec<String> = (0..count)
        .map(|number| format!("file-{number:03}"))
        .collect();
    for name in &names {
        server.route(&format!("/{name}"), slow(name));
    }
    let list = names.iter().map(|name| line(name, name)).collect();
    (list, names)
}

/// The name comes in two parts.
fn slow(name: &str) -> Answer {
    Answer::file(name).paced(4, Duration::from_millis(20))
}

/// Many at a time as long as all is well, few while errors come, many again when they are over.
#[test]
fn errors_make_it_slower_and_it_recovers() {
    let env = TestEnv::new();
    let server = Server::start();
    let (list, names) = many(&server, 300);
    // A burst in the middle; each comes when it is asked again.
    for name in &names[60..90] {
        server.route_in_turn(&format!("/{name}"), [slow(name).cut_after(6), slow(name)]);
    }
    let list = env.write("SHA256SUMS", list);
    batch(&env, &list)
        .arg("--base-url")
        .arg(server.url("/"))
        .args(["--jobs", "16"])
        .go()
        .exits(0);
    assert_eq!(came(&env).len(), names.len());
    let at_a_time: Vec<usize> = server
        .requests()
        .iter()
        .map(|request| request.at_a_time)
        .collect();
    assert_eq!(at_a_time.len(), 330, "each that failed was asked once more");
    let most = |of: &[usize]| of.iter().copied().max().unwrap();
    let before = most(&at_a_time[..60]);
    let least = at_a_time[60..].windows(8).map(most).min().unwrap();
    let after = most(&at_a_time[300..]);
    // The server takes a moment more than its clients know.
    assert!((8..=34).contains(&before), "{at_a_time:?}");
    assert!(least <= before / 3, "{least} of {before}: {at_a_time:?}");
    assert!((8..=34).contains(&after), "{at_a_time:?}");
}

/// A server in trouble is asked a few times, put off, and then asked by one at a time; what others have comes meanwhile.
#[test]
fn a_server_in_trouble_is_left_alone() {
    const FILES: usize = 100;
    let env = TestEnv::new();
    let bad = Server::start();
    let good = Server::start();
    let mut sources = Vec::new();
    for number in 0..FILES {
        let name = format!("bad-{number:03}");
        bad.route(&format!("/{name}"), Answer::status(403, ""));
        sources.push(source(&[bad.url(&format!("/{name}"))], &name));
        let name = format!("good-{number:03}");
        good.route(&format!("/{name}"), slow(&name));
        sources.push(source(&[good.url(&format!("/{name}"))], &name));
    }
    let list = sources_json(&env, &sources);
    let running = batch(&env, &list).arg("--json").start();
    wait_until("the good server has given all", || {
        good.requests().len() == FILES
    });
    let meanwhile = bad.requests().len();
    assert!(meanwhile <= 40, "{meanwhile} vain requests meanwhile");
    let outcome = running.wait().exits(5);
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["counts"]["downloaded"], FILES);
    assert_eq!(report["counts"]["failed"], FILES);
    assert_eq!(came(&env).len(), FILES);
    let at_a_time: Vec<usize> = bad
        .requests()
        .iter()
        .map(|request| request.at_a_time)
        .collect();
    assert!(at_a_time.len() <= FILES + 40, "{at_a_time:?}");
    // The server may see the next one before it is quite done with the last.
    assert!(
        at_a_time[40..].iter().all(|&count| count <= 2),
        "{at_a_time:?}"
    );
}

/// What came before `kill -9` is there or goes on where it ended: nothing is sent twice but what was under way.
#[test]
fn a_killed_batch_goes_on() {
    const LEN: usize = 2 << 20;
    const FILES: usize = 24;
    let env = TestEnv::new();
    let server = Server::start();
    let mut list = String::new();
    for number in 0..FILES {
        let (name, body) = (format!("file-{number}"), noise(number as u64, LEN));
        list.push_str(&line(&name, &body));
        let answer = Answer::file(body).paced(STEP, Duration::from_millis(10));
        server.route(&format!("/{name}"), answer);
    }
    let list = env.write("SHA256SUMS", list);
    let fetch = || batch(&env, &list).arg("--base-url").arg(server.url("/"));
    let all = (FILES * LEN) as u64;
    for part in 1..=3 {
        let running = fetch().start();
        wait_until("some have come", || server.sent_bytes() >= all * part / 4);
        running.signal(Signal::KILL);
        assert!(running.wait().was_killed(), "too late");
    }
    let done = came(&env).len() as u64;
    let report = fetch().json(0);
    assert_eq!(report.count("present"), done);
    assert_eq!(report.count("downloaded"), FILES as u64 - done);
    for (number, (name, content)) in came(&env).into_iter().enumerate() {
        let seed: u64 = name.strip_prefix("file-").unwrap().parse().unwrap();
        assert!(content == noise(seed, LEN), "{number}: {name} is wrong");
    }
    assert_eq!(came(&env).len(), FILES);
    let sent = server.sent_bytes();
    // At each kill so many were under way, of each of which some steps were in the sockets.
    let most = all + (3 * 16 * 4 * STEP) as u64;
    assert!(sent <= most, "{sent} bytes sent, at most {most} wanted");
    assert_eq!(
        names_in(&env.out("into")).len(),
        FILES,
        "nothing is left over"
    );
    assert_eq!(names_in(&env.path("cache/fetch/spool")), [""; 0]);
}

/// Ctrl-C ends all downloads at once, tells how far it came, and leaves nothing half.
#[test]
fn an_interrupted_batch_leaves_nothing_half() {
    let env = TestEnv::new();
    let server = Server::start();
    let (list, names) = many(&server, 300);
    let list = env.write("SHA256SUMS", list);
    let fetch = || batch(&env, &list).arg("--base-url").arg(server.url("/"));
    let running = fetch().start();
    wait_until("some have come", || server.requests().len() > 60);
    running.signal(Signal::INT);
    let outcome = running.wait().exits(130);
    outcome
        .says("of 300 entries are done")
        .says("run this again");
    let done = came(&env);
    assert!((1..300).contains(&done.len()), "{}", done.len());
    for (name, content) in &done {
        assert_eq!(content, name.as_bytes());
    }
    let before = server.requests().len();
    let report = fetch().json(0);
    assert_eq!(report.count("present"), done.len() as u64);
    assert_eq!(came(&env).len(), names.len());
    assert_eq!(server.requests().len() - before, names.len() - done.len());
}

/// Two batches that run at the same time fetch each content once, and neither waits while there is something to do.
#[test]
fn two_batches_share_the_work() {
    let env = TestEnv::new();
    let server = Server::start();
    let (list, names) = many(&server, 120);
    let list = env.write("SHA256SUMS", list);
    let fetch = |into: &str| {
        env.fetch(["batch", "--no-store", "--no-media", "--into"])
            .arg(env.out(into))
            .arg(&list)
            .arg("--base-url")
            .arg(server.url("/"))
            .start()
    };
    for running in [fetch("one"), fetch("two")] {
        running.wait().exits(0);
    }
    assert_eq!(names_in(&env.out("one")), names);
    assert_eq!(names_in(&env.out("two")), names);
    assert_eq!(server.requests().len(), names.len());
}

/// An archive learns what is wanted by being asked: only when the others have had all their tries, and if one was named.
#[test]
fn archives_are_asked_last() {
    let env = TestEnv::new();
    let server = Server::start();
    serve(&server, &[("there", "there")]);
    server.route("/broken", Answer::status(500, ""));
    let archive = Server::start();
    for content in ["gone", "broken"] {
        let digest = digest(Algorithm::Sha256, content.as_bytes()).to_hex();
        let path = format!("/api/1/content/sha256:{digest}/raw/");
        archive.route(&path, Answer::body(content));
    }
    let list = ["there", "gone", "broken"].map(|name| line(name, name));
    let list = env.write("SHA256SUMS", list.concat());
    let fetch = || {
        batch(&env, &list)
            .args(["--retry-budget", "1"])
            .arg("--base-url")
            .arg(server.url("/"))
    };
    fetch().json(5);
    assert_eq!(archive.connections(), 0);
    let named = format!("software-heritage={}", archive.url(""));
    let report = fetch().args(["--archive", &named]).json(0);
    for name in ["gone", "broken"] {
        assert_eq!(report.entry(name)["source"]["kind"], "archive", "{name}");
    }
    assert_eq!(archive.requests().len(), 2);
}
