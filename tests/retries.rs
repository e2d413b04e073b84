//! What may be different in a moment is asked again, in the end; what failed lately is asked last.

use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::server::{Answer, Server};
use crate::support::{Run, TestEnv, noise, sri, wait_until};

const HELLO: &str = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

fn hello(env: &TestEnv) -> Run<'_> {
    env.fetch_hash(HELLO)
        .args(["--name", "hello", "--no-local", "--force"])
}

/// Returns the paths asked for, in order.
fn asked(server: &Server) -> Vec<String> {
    let requests = server.requests();
    let path = |line: &str| line.split(' ').nth(1).unwrap().to_owned();
    requests.iter().map(|request| path(&request.line)).collect()
}

#[test]
fn every_url_once_before_any_again() {
    let env = TestEnv::new();
    let server = Server::start();
    server.route_in_turn(
        "/a",
        [
            Answer::status(500, ""),
            Answer::claiming(10, "hello\n"),
            Answer::hang_up(),
            Answer::body("hello\n"),
        ],
    );
    server.route("/b", Answer::status(502, ""));
    server.route("/gone", Answer::status(404, ""));
    let urls = ["/a", "/b", "/gone"].map(|path| server.url(path));
    let report = hello(&env).args(&urls).json(0);
    let asked = asked(&server);
    assert_eq!(asked[..3], ["/a", "/b", "/gone"]);
    assert_eq!(asked.iter().filter(|path| *path == "/a").count(), 4);
    assert_eq!(asked.iter().filter(|path| *path == "/gone").count(), 1);
    assert!(report.stderr.contains("try 2: "), "{}", report.stderr);
    assert_eq!(env.output("hello"), b"hello\n");
}

/// Four tries of what may change, one of what will not.
#[test]
fn what_is_asked_again() {
    for (answer, tries) in [
        (Answer::hang_up(), 4),
        (Answer::status(408, ""), 4),
        (Answer::status(500, ""), 4),
        (Answer::status(404, ""), 1),
        (Answer::status(410, ""), 1),
        (Answer::status(401, ""), 1),
        (Answer::status(403, ""), 1),
        (Answer::status(501, ""), 1),
        (Answer::status(505, ""), 1),
        (Answer::body("other\n"), 1),
        (Answer::redirect(302, "/hello"), 1),
        (Answer::raw("no HTTP\r\n\r\n"), 1),
    ] {
        let env = TestEnv::new();
        let server = Server::with("/hello", answer.clone());
        let outcome = hello(&env).arg(server.url("/hello")).go();
        assert_ne!(outcome.status.code(), Some(0), "{outcome}");
        assert_eq!(server.requests().len(), tries, "{answer:?}\n{outcome}");
    }
}

/// A server's own wish is the least, in seconds and as a date; what is longer than the budget is not waited for.
#[test]
fn a_wish_to_be_left_alone_is_kept() {
    let date = |seconds| {
        let at = SystemTime::now() + Duration::from_secs(seconds);
        format!("Retry-After: {}", httpdate::fmt_http_date(at))
    };
    for wish in ["Retry-After: 3".to_owned(), date(4)] {
        let env = TestEnv::new();
        let server = Server::start();
        server.route_in_turn(
            "/hello",
            [Answer::status_with(503, &wish), Answer::body("hello\n")],
        );
        let started = Instant::now();
        let outcome = hello(&env).arg(server.url("/hello")).go().exits(0);
        // A date has whole seconds, of which part is gone.
        assert!(
            started.elapsed() >= Duration::from_millis(2500),
            "{outcome}"
        );
        outcome.says("waiting");
    }
    let env = TestEnv::new();
    let server = Server::with("/hello", Answer::status_with(429, "Retry-After: 100000000"));
    let outcome = hello(&env).arg(server.url("/hello")).go().exits(5);
    assert!(outcome.took < Duration::from_secs(20), "{outcome}");
    assert_eq!(server.requests().len(), 1);
    outcome.says("--retry-budget");
}

/// No clock counts so far, and no budget has room for it.
#[test]
fn a_wish_for_ever_is_not_kept() {
    for wish in ["18446744073709551615", "Fri, 31 Dec 9999 23:59:59 GMT"] {
        for budget in ["0", "120"] {
            let env = TestEnv::new();
            let wish = format!("Retry-After: {wish}");
            let server = Server::with("/hello", Answer::status_with(503, &wish));
            let mirror = Server::with("/hello", Answer::status_with(404, ""));
            let urls = [server.url("/hello"), mirror.url("/hello")];
            let run = hello(&env).args(urls).args(["--retry-budget", budget]);
            run.go().exits(5);
            assert_eq!((asked(&server).len(), asked(&mirror).len()), (1, 1));
        }
    }
}

/// A server that has too much to do, and does not say for how long, is left alone by others as well.
#[test]
fn an_overloaded_host_is_left_alone_by_all() {
    let env = TestEnv::new();
    let server = Server::with("/hello", Answer::status_with(429, "X-Wish: none"));
    server.route("/other", Answer::body("hello\n"));
    let impatient = ["--retry-budget", "0"];
    let first = hello(&env).arg(server.url("/hello"));
    first.args(impatient).go().exits(5);
    let other = || hello(&env).arg(server.url("/other"));
    let waited = other().go().exits(0);
    waited.says("s before http://127.0.0.1");
    // Whoever does not want to wait asks once all the same.
    fs_err::remove_file(env.out("hello")).unwrap();
    let again = hello(&env).arg(server.url("/hello"));
    again.args(impatient).go().exits(5);
    other().args(impatient).go().exits(0);
}

/// Another process keeps away as well, until it is told to forget; another host is asked meanwhile.
#[test]
fn a_wish_to_be_left_alone_is_kept_by_all() {
    let env = TestEnv::new();
    let server = Server::with("/hello", Answer::status_with(429, "Retry-After: 600"));
    let mirror = Server::with("/hello", Answer::body("hello\n"));
    hello(&env).arg(server.url("/hello")).go().exits(5);
    server.route("/other", Answer::body("hello\n"));
    let outcome = hello(&env).arg(server.url("/other")).go().exits(5);
    assert_eq!(asked(&server), ["/hello"], "{outcome}");
    outcome.says("is to be left alone");
    let explained = env
        .fetch(["explain", HELLO, "--no-local"])
        .arg(server.url("/other"))
        .go();
    assert!(
        explained.stdout.contains("wants to be left alone"),
        "{explained}"
    );
    // Both are named: the one that may be asked is, and at once.
    let both = [server.url("/other"), mirror.url("/hello")];
    let outcome = hello(&env).args(both).go().exits(0);
    assert!(outcome.took < Duration::from_secs(20), "{outcome}");
    assert_eq!(asked(&server), ["/hello"]);
    let status = env.fetch(["cache", "status"]).go().exits(0);
    assert!(status.stdout.contains("failing host"), "{status}");
    env.fetch(["cache", "forget"]).go().exits(0);
    fs_err::remove_file(env.out("hello")).unwrap();
    hello(&env).arg(server.url("/other")).go().exits(0);
    assert_eq!(asked(&server), ["/hello", "/other"]);
}

/// What fails behind a redirector is held against the server that failed: the redirector may lead elsewhere.
#[test]
fn a_redirector_is_not_blamed() {
    let env = TestEnv::new();
    let busy = Server::with("/hello", Answer::status_with(503, "Retry-After: 600"));
    let mirror = Server::with("/hello", Answer::body("hello\n"));
    let redirector = Server::with("/a", Answer::redirect(302, &busy.url("/hello")));
    redirector.route("/b", Answer::redirect(302, &mirror.url("/hello")));
    redirector.route("/c", Answer::redirect(302, &busy.url("/hello")));
    let run = |path: &str| hello(&env).arg(redirector.url(path)).go();
    run("/a").exits(5).says("asks for a pause of 600 s");
    let status = env.fetch(["cache", "status"]).go().exits(0);
    let [to_blame, blameless] = [&busy, &redirector].map(|server| format!(":{}", server.port()));
    assert!(status.stdout.contains(&to_blame), "{status}");
    assert!(!status.stdout.contains(&blameless), "{status}");
    // The wish is kept, wherever it is that leads there.
    run("/c").exits(5).says("is to be left alone");
    assert_eq!(asked(&busy), ["/hello"]);
    run("/b").exits(0);
    assert_eq!(asked(&redirector), ["/a", "/c", "/b"]);
}

/// A URL that failed often, or cannot succeed, is asked after the others, and no less.
#[test]
fn what_failed_lately_comes_last() {
    let env = TestEnv::new();
    let server = Server::start();
    server.route("/bad", Answer::claiming(10, "hello\n"));
    server.route("/gone", Answer::status(404, ""));
    server.route("/good", Answer::body("hello\n"));
    let urls = ["/bad", "/gone", "/good"].map(|path| server.url(path));
    let once = ["--retry-budget", "0"];
    let run = || {
        let before = server.requests().len();
        hello(&env).args(once).args(&urls).go().exits(0);
        fs_err::remove_file(env.out("hello")).unwrap();
        asked(&server)[before..].to_vec()
    };
    assert_eq!(run(), ["/bad", "/gone", "/good"]);
    assert_eq!(run(), ["/bad", "/good"], "what is not there is asked last");
    assert_eq!(run(), ["/bad", "/good"]);
    assert_eq!(run(), ["/good"], "three failures");
    let status = env.fetch(["cache", "status", "--json"]).go().exits(0);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["failing_urls"], 2, "{status}");
    server.route("/good", Answer::status(404, ""));
    let before = server.requests().len();
    hello(&env).args(once).args(&urls).go().exits(5);
    assert_eq!(asked(&server)[before..], ["/good", "/bad", "/gone"]);
}

/// Whatever lies in the file of failures, nothing breaks.
#[test]
fn a_damaged_memory_is_forgotten() {
    let env = TestEnv::new();
    let server = Server::with("/hello", Answer::body("hello\n"));
    server.route("/gone", Answer::status(404, ""));
    hello(&env).arg(server.url("/gone")).go().exits(3);
    let file = env.path("cache/fetch/failures.json");
    for damage in [
        &b""[..],
        b"{\"version\":1,\"hosts\":{",
        b"{\"version\":99,\"hosts\":{},\"urls\":{}}",
        b"{\"version\":1,\"hosts\":{\"127.0.0.1\":{\"count\":1e999,\"at\":18446744073709551615}},\"urls\":{}}",
        &[0xff; 5000],
    ] {
        fs_err::write(&file, damage).unwrap();
        let urls = [server.url("/gone"), server.url("/hello")];
        hello(&env).args(urls).go().exits(0);
        fs_err::remove_file(env.out("hello")).unwrap();
        let status = env.fetch(["cache", "status"]).go().exits(0);
        assert!(status.stdout.contains("failing URLs       1"), "{status}");
    }
    fs_err::write(&file, [0xff; 50]).unwrap();
    env.fetch(["cache", "forget"]).go().exits(0);
    assert!(fs_err::read_to_string(&file).unwrap().contains("version"));
}

/// What `nohup` started outlives its terminal; what it did not ends.
#[test]
fn a_hangup_that_is_ignored() {
    for (ignored, exit) in [(true, 0), (false, 130)] {
        let env = TestEnv::new();
        let body = noise(5, 3 << 20);
        let slow = Answer::file(body.clone()).paced(1 << 20, Duration::from_millis(300));
        let server = Server::with("/slow", slow);
        let run = env.fetch_hash(sri(&body)).args(["--name", "slow"]);
        let run = run.arg(server.url("/slow"));
        let running = run.hangup_ignored(ignored).start();
        wait_until("the download has begun", || server.sent_bytes() > 0);
        running.signal(Signal::HUP);
        running.wait().exits(exit);
    }
}

/// A pause ends with the user's patience.
#[test]
fn a_pause_can_be_interrupted() {
    let env = TestEnv::new();
    let server = Server::with("/hello", Answer::status_with(503, "Retry-After: 60"));
    let running = hello(&env).arg(server.url("/hello")).start();
    wait_until("the server was asked", || !server.requests().is_empty());
    std::thread::sleep(Duration::from_millis(300));
    let told = Instant::now();
    running.signal(Signal::INT);
    running.wait().exits(130);
    assert!(told.elapsed() < Duration::from_secs(5));
}
