//! Only on a miss it is downloaded, verified and put in place: from servers that are honest, and from others.

use std::time::Duration;

use crate::support::nginx::{NGINX, NGINX_WITH_TLS, Nginx};
use crate::support::server::{Answer, Server};
use crate::support::{Outcome, Run, TestEnv, lacks, mode, nar_sri, noise, sri};

const HELLO: &str = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

/// Where nobody answers: a port that was free a moment ago may have another test's server by now.
const REFUSED: &str = "http://127.0.0.1:1/hello";

impl Run<'_> {
    /// Short enough for a test, long enough for a machine under load.
    fn impatient(self) -> Self {
        self.args([
            "--connect-timeout",
            "5",
            "--first-byte-timeout",
            "2",
            "--stall-timeout",
            "2",
            "--retry-budget",
            "0",
        ])
    }
}

fn hello(env: &TestEnv) -> Run<'_> {
    env.fetch_hash(HELLO).args(["--name", "hello"]).impatient()
}

/// What went wrong decides what is advised.
#[test]
fn what_to_do_fits_what_went_wrong() {
    let env = TestEnv::new();
    let server = Server::with("/hello", Answer::body("hello\n"));
    for (path, code) in [("/locked", 401), ("/forbidden", 403), ("/busy", 500)] {
        server.route(path, Answer::status(code, "no"));
    }
    let hint = |path: &str, more: &[&str]| {
        let report = hello(&env).args(more).arg(server.url(path)).json(5);
        report.object["error"]["hint"].as_str().unwrap().to_owned()
    };
    assert!(hint("/locked", &[]).contains("netrc"));
    assert!(hint("/forbidden", &[]).contains("netrc"));
    assert!(hint("/busy", &[]).contains("again later"));
    assert!(hint("/hello", &["--max-bytes", "5"]).contains("--max-bytes"));
}

/// A path that ends in a slash is printed as one that can be opened.
#[test]
fn an_output_path_may_end_in_a_slash() {
    let env = TestEnv::new();
    let server = Server::with("/hello", Answer::body("hello\n"));
    let outcome = hello(&env)
        .args(["-o", "new/", &server.url("/hello")])
        .go()
        .exits(0);
    let path = outcome.stdout.trim_end();
    assert_eq!(fs_err::read(path).unwrap(), b"hello\n");
    assert_eq!(env.outputs(), ["new"]);
}

#[test]
fn a_download_is_verified_and_put_in_place() {
    if lacks("a_download_is_verified_and_put_in_place", NGINX, false) {
        return;
    }
    let env = TestEnv::new();
    let nginx = Nginx::new(&env);
    for len in [0, 1, 65_536, 5_000_001] {
        let bytes = noise(1, len);
        env.write(format!("www/{len}"), &bytes);
        let name = len.to_string();
        let outcome = env
            .fetch_hash(sri(&bytes))
            .arg(nginx.url(&format!("/{len}")))
            .go()
            .exits(0);
        assert_eq!(
            outcome.stdout,
            format!("{}\n", env.out(&name).display()),
            "the path, absolute, and nothing else"
        );
        assert_eq!((env.output(&name), mode(&env.out(&name))), (bytes, 0o644));
    }
    let requests = nginx.requests();
    assert_eq!(requests.len(), 4, "one request each: {requests:?}");
    // Again: what is there is right, and nobody is asked.
    env.fetch_hash(sri(&noise(1, 1)))
        .arg(nginx.url("/1"))
        .go()
        .exits(0);
    assert_eq!(nginx.requests().len(), 4);
}

#[test]
fn urls_are_asked_in_order_and_each_is_verified() {
    if lacks("urls_are_asked_in_order_and_each_is_verified", NGINX, false) {
        return;
    }
    let env = TestEnv::new();
    let nginx = Nginx::new(&env);
    env.write("www/longer", noise(1, 100_000));
    env.write("www/hello", "hello\n");
    env.write("www/unused", "hello\n");
    let urls = ["/longer", "/missing", "/hello", "/unused"].map(|path| nginx.url(path));
    let report = hello(&env).args(&urls).json(0);
    assert_eq!(
        report
            .attempts()
            .into_iter()
            .filter(|attempt| attempt.0 == "url")
            .collect::<Vec<_>>(),
        [
            ("url", "mismatch", urls[0].as_str()),
            ("url", "absent", urls[1].as_str()),
            ("url", "ok", urls[2].as_str()),
        ]
    );
    assert_eq!(
        (report.kind(), report.location()),
        ("url", urls[2].as_str())
    );
    assert_eq!(
        env.output("hello"),
        b"hello\n",
        "nothing of the longer wrong body is left"
    );
    assert!(
        report.stderr.contains(&urls[0]),
        "the mirror with wrong bytes is named: {}",
        report.stderr
    );
    assert_eq!(nginx.requests().len(), 3);
}

/// What the servers did, and the exit code it must have.
#[test]
fn exit_codes() {
    let env = TestEnv::new();
    let server = Server::start();
    server.route("/right", Answer::body("hello\n"));
    server.route("/wrong", Answer::body("other\n"));
    server.route("/gone", Answer::status(410, "<html>gone</html>"));
    server.route("/page", Answer::status(404, "hello\n"));
    server.route("/forbidden", Answer::status(403, "hello\n"));
    server.route("/login", Answer::status(401, "hello\n"));
    server.route("/not-modified", Answer::status(304, ""));
    server.route("/partial", Answer::status(206, "hello\n"));
    server.route("/short", Answer::claiming(10, "hello\n"));
    server.route("/longer-than-it-says", Answer::claiming(3, "hello\n"));
    server.route("/until-close", Answer::until_close("hello\n"));
    server.route("/chunked", Answer::chunked("hello\n"));
    server.route("/broken-off", Answer::chunked_broken_off("hello\n"));
    server.route("/nothing", Answer::body(""));
    server.route("/empty-until-close", Answer::until_close(""));
    server.route("/no-http", Answer::raw("SSH-2.0-OpenSSH_9.6\r\n"));
    server.route(
        "/two-lengths",
        Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nContent-Length: 7\r\n\r\nhello\n"),
    );
    server.route(
        "/squeezed",
        Answer::labelled("Content-Encoding: gzip", "hello\n"),
    );
    server.route("/loop", Answer::redirect(302, "/loop"));
    server.route(
        "/into-the-file-system",
        Answer::redirect(302, "file:///etc/passwd"),
    );
    server.route("/to-right", Answer::redirect(301, "/right"));
    server.route("/to-gone", Answer::redirect(302, "/gone"));
    server.route("/huge-head", Answer::huge_head(4 << 20));
    let cases: &[(i32, &[&str])] = &[
        (0, &["/right"]),
        (0, &["/until-close"]),
        (0, &["/chunked"]),
        (0, &["/to-right"]),
        (0, &["/wrong", "/page", "/short", "REFUSED", "/right"]),
        (3, &["/missing"]),
        (3, &["/page"]),
        (3, &["/gone"]),
        (3, &["/to-gone"]),
        (3, &["/missing", "/gone"]),
        (4, &["/wrong"]),
        (4, &["/wrong", "/missing"]),
        (4, &["REFUSED", "/wrong"]),
        (4, &["/nothing"]),
        (4, &["/empty-until-close"]),
        (4, &["/longer-than-it-says"]),
        (5, &["REFUSED"]),
        (5, &["/missing", "REFUSED"]),
        (5, &["/forbidden"]),
        (5, &["/login"]),
        (5, &["/not-modified"]),
        (5, &["/partial"]),
        (5, &["/short"]),
        (5, &["/broken-off"]),
        (5, &["/no-http"]),
        (5, &["/two-lengths"]),
        (5, &["/loop"]),
        (5, &["/into-the-file-system"]),
        (5, &["/huge-head"]),
    ];
    for (exit, paths) in cases {
        let urls = paths.iter().map(|&path| {
            if path == "REFUSED" {
                REFUSED.to_owned()
            } else {
                server.url(path)
            }
        });
        let report = hello(&env).args(urls).json(*exit);
        if *exit == 0 {
            assert_eq!(env.output("hello"), b"hello\n", "{paths:?}");
            fs_err::remove_file(env.out("hello")).unwrap();
        } else {
            assert_eq!(report.object["source"], serde_json::Value::Null);
            assert!(!report.stderr.is_empty());
        }
        assert_eq!(env.outputs(), [""; 0], "{paths:?}");
    }
    // A body in an encoding that was not asked for is not the content; as what it counts is open, but it is no hit.
    let squeezed = hello(&env).arg(server.url("/squeezed")).go();
    assert_ne!(squeezed.status.code(), Some(0), "{squeezed}");
}

#[test]
fn a_host_that_does_not_exist() {
    let env = TestEnv::new();
    let report = hello(&env).arg("http://no-such-host.invalid/hello").json(5);
    report.tried("url", "failed", "http://no-such-host.invalid/hello");
}

/// Servers that keep a connection open and send nothing, or never stop: each ends by a limit, and the next is asked.
#[test]
fn servers_without_end() {
    let env = TestEnv::new();
    let server = Server::start();
    server.route("/right", Answer::body("hello\n"));
    server.route("/hung-up", Answer::hang_up());
    server.route("/silent", Answer::silence());
    server.route("/stalling", Answer::stopping_after(1000, "hello\n"));
    server.route("/drip", Answer::drip(Duration::from_millis(50)));
    server.route("/endless", Answer::endless());
    server.route("/claims-much", Answer::claiming(1 << 50, "hello\n"));
    for path in [
        "/hung-up",
        "/silent",
        "/stalling",
        "/drip",
        "/endless",
        "/claims-much",
    ] {
        let both = hello(&env)
            .args(["--max-bytes", "1000000"])
            .args([server.url(path), server.url("/right")])
            .json(0);
        both.tried("url", "failed", path);
        assert_eq!(env.output("hello"), b"hello\n");
        fs_err::remove_file(env.out("hello")).unwrap();
        let alone = hello(&env)
            .args(["--max-bytes", "1000000"])
            .arg(server.url(path))
            .go()
            .exits(5);
        assert!(alone.took < Duration::from_secs(60), "{alone}");
        assert_eq!(env.outputs(), [""; 0], "{path}");
    }
}

/// The limits come from the environment too.
#[test]
fn limits_from_the_environment() {
    let env = TestEnv::new();
    let server = Server::with("/endless", Answer::endless());
    server.route("/silent", Answer::silence());
    let endless = env
        .fetch_hash(HELLO)
        .variable("FETCH_MAX_BYTES", "500000")
        .arg(server.url("/endless"))
        .go();
    endless.exits(5).says("500000");
    env.fetch_hash(HELLO)
        .variable("FETCH_FIRST_BYTE_TIMEOUT", "0.5")
        .arg(server.url("/silent"))
        .go()
        .exits(5);
    let offline = env
        .fetch_hash(HELLO)
        .variable("FETCH_OFFLINE", "1")
        .arg(server.url("/silent"))
        .go();
    offline.exits(3);
}

#[test]
fn redirects_of_a_real_server() {
    if lacks("redirects_of_a_real_server", NGINX, false) {
        return;
    }
    let env = TestEnv::new();
    let nginx = Nginx::new(&env);
    env.write("www/somewhere/else", "hello\n");
    let report = env
        .fetch_hash(HELLO)
        .arg(nginx.url("/redirect/somewhere/else"))
        .json(0);
    assert_eq!(
        (report.kind(), report.object["name"].as_str()),
        ("url", Some("else"))
    );
    // What was delivered just now is not to be the answer.
    let upstream = || env.fetch_hash(HELLO).arg("--no-local");
    upstream()
        .arg(nginx.url("/loop/name"))
        .go()
        .exits(5)
        .says("redirect");
    // A redirect never names: the output is called as the URL given.
    let named = env
        .fetch_hash(HELLO)
        .arg(nginx.url("/redirect/somewhere/else?name=other"))
        .arg("--force");
    assert_eq!(named.json(0).object["name"], "else");
    upstream().arg(nginx.url("/gone/x")).go().exits(3);
    upstream()
        .args(["--retry-budget", "0"])
        .arg(nginx.url("/broken/x"))
        .go()
        .exits(5)
        .says("500");
}

#[test]
fn offline_asks_nobody() {
    let env = TestEnv::new();
    let server = Server::with("/hello", Answer::body("hello\n"));
    let report = hello(&env)
        .args(["--offline", &server.url("/hello")])
        .json(3);
    assert_eq!(report.object["error"]["kind"], "not-found");
    assert_eq!(server.connections(), 0);
}

#[test]
fn schemes() {
    let env = TestEnv::new();
    let server = Server::with("/hello", Answer::body("hello\n"));
    let others = [
        "gopher://127.0.0.1/hello",
        "ftp://127.0.0.1/hello",
        "mirror://no-such-site/hello/hello",
    ];
    for url in others {
        let among = hello(&env).args([url, &server.url("/hello")]).json(0);
        among.tried("url", "skipped", url);
        assert!(
            among.stderr.contains(url),
            "a warning names it: {}",
            among.stderr
        );
        fs_err::remove_file(env.out("hello")).unwrap();
    }
    hello(&env)
        .arg("gopher://127.0.0.1/hello")
        .go()
        .exits(2)
        .says("gopher");
    hello(&env)
        .arg("mirror://no-such-site/hello/hello")
        .go()
        .exits(2)
        .says("NIX_MIRRORS_no-such-site");
}

/// Neither the user's password nor a token in the query is printed anywhere, however it ends.
#[test]
fn secrets_are_never_printed() {
    if lacks("secrets_are_never_printed", NGINX, false) {
        return;
    }
    let env = TestEnv::new();
    let nginx = Nginx::new(&env);
    env.write("www/hello", "hello\n");
    env.write("www/wrong", "wrong\n");
    env.write("nginx/users", "maria:{PLAIN}s3cret\n");
    let refused = REFUSED.replace("http://", "http://maria:s3cret@");
    let url = |path: &str| nginx.url_with_user("maria:s3cret", path) + "?token=t0ken";
    let cases = [
        (0, vec![url("/private/hello")]),
        (
            0,
            vec![
                url("/private/wrong"),
                url("/missing"),
                url("/private/hello"),
            ],
        ),
        (3, vec![url("/private/missing")]),
        (4, vec![url("/private/wrong")]),
        (
            5,
            vec![url("/private/hello").replace("s3cret", "wrong-s3cret")],
        ),
        (5, vec![refused]),
        (5, vec![url("/loop/hello")]),
        (
            5,
            vec!["http://maria:s3cret@no-such-host.invalid/hello?token=t0ken".into()],
        ),
        (
            2,
            vec!["gopher://maria:s3cret@127.0.0.1/hello?token=t0ken".into()],
        ),
        (
            2,
            vec!["http://maria:s3cret@127.0.0.1:99999/hello?token=t0ken".into()],
        ),
        (2, vec!["http://maria:s3cret@[::1/hello?token=t0ken".into()]),
        (2, vec!["maria:s3cret@127.0.0.1/hello?token=t0ken".into()]),
        (2, vec!["http:/maria:s3cret@/hello?token=t0ken".into()]),
    ];
    for (exit, urls) in cases {
        for flags in [
            &[][..],
            &["-q"],
            &["-v", "--progress", "plain"],
            &["--json", "--progress", "json"],
        ] {
            let outcome = hello(&env).args(&urls).args(flags).go();
            no_secret(&outcome);
            outcome.exits(exit);
            if exit == 0 {
                fs_err::remove_file(env.out("hello")).unwrap();
            }
        }
        let explained = env
            .fetch(["explain", HELLO, "--no-store", "--no-media"])
            .args(&urls)
            .go();
        no_secret(&explained);
    }
    let log = nginx.requests().join("\n");
    assert!(
        log.contains("/private/hello?token=t0ken HTTP/1.1 200"),
        "the secrets did reach the server: {log}"
    );
}

#[track_caller]
fn no_secret(outcome: &Outcome) {
    for secret in ["s3cret", "t0ken", "bWFyaWE6czNjcmV0"] {
        assert!(
            !outcome.stdout.contains(secret) && !outcome.stderr.contains(secret),
            "{secret}\n{outcome}"
        );
    }
}

/// Credentials are for the origin they were given for.
#[test]
fn secrets_do_not_follow_a_redirect_elsewhere() {
    let env = TestEnv::new();
    let elsewhere = Server::with("/hello", Answer::body("hello\n"));
    let server = Server::with("/start", Answer::redirect(302, &elsewhere.url("/hello")));
    hello(&env)
        .arg(server.url_with_user("maria:s3cret", "/start"))
        .go()
        .exits(0);
    assert_eq!(
        server.requests()[0].header("authorization"),
        Some("Basic bWFyaWE6czNjcmV0")
    );
    assert_eq!(elsewhere.requests().len(), 1);
    assert_eq!(elsewhere.requests()[0].header("authorization"), None);
}

/// A mismatch says what was wanted, what came, from where, and what it looks like.
#[test]
fn a_mismatch_is_diagnosed() {
    let env = TestEnv::new();
    let server = Server::start();
    server.route(
        "/page",
        Answer::labelled(
            "Content-Type: text/html",
            "<!DOCTYPE html>\n<html><body>Log in</body></html>",
        ),
    );
    let pointer = "version https://git-lfs.github.com/spec/v1\n\
        oid sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03\nsize 6\n";
    server.route("/pointer", Answer::body(pointer));
    server.route("/hello", Answer::body("hello\n"));
    let page = hello(&env)
        .arg(server.url("/page"))
        .go()
        .exits(4)
        .says("HTML")
        .says(&server.url("/page"));
    let wanted = page.says("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
    let got = crate::support::digest(
        store_index::digest::Algorithm::Sha256,
        b"<!DOCTYPE html>\n<html><body>Log in</body></html>",
    );
    wanted.says(&format!("sha256:{}", got.to_hex()));
    hello(&env)
        .arg(server.url("/pointer"))
        .go()
        .exits(4)
        .says("git-lfs");
    let nar = env
        .fetch_hash(nar_sri(b"hello\n", false))
        .arg(server.url("/hello"))
        .go()
        .exits(4);
    nar.says("--mode nar");
    let flat = env
        .fetch_hash(HELLO)
        .args(["--mode", "nar"])
        .arg(server.url("/hello"))
        .go();
    flat.exits(4).says("--mode flat");
    server.route("/nothing", Answer::body(""));
    hello(&env)
        .arg(server.url("/nothing"))
        .go()
        .exits(4)
        .says("empty");
    server.route("/hello.tar.gz", Answer::body("the archive, unpacked"));
    let unpacked = hello(&env).arg(server.url("/hello.tar.gz")).go();
    unpacked.exits(4).says("decompressed on the way");
    // What is not recognised is not guessed at.
    server.route("/other", Answer::body("other\n"));
    let other = hello(&env).arg(server.url("/other")).go().exits(4);
    assert!(!other.stderr.contains("it is"), "{other}");
}

/// A server that does not say how long a body is, and ends too early.
#[test]
fn a_body_that_was_cut_is_told() {
    let packers: &[&[&str]] = &[
        &["gzip"],
        &["xz"],
        &["bzip2"],
        &["zstd", "-q"],
        &["lzip"],
        &["zip", "-q", "-", "content"],
    ];
    let programs = ["gzip", "xz", "bzip2", "zstd", "lzip", "zip"];
    if lacks("network::a_body_that_was_cut_is_told", &programs, false) {
        return;
    }
    let env = TestEnv::new();
    let content = env.write("content", noise(1, 300_000));
    let server = Server::start();
    for packer in packers {
        let packed = std::process::Command::new(packer[0])
            .args(&packer[1..])
            .current_dir(content.parent().unwrap())
            .stdin(fs_err::File::open(&content).unwrap().into_file())
            .output()
            .unwrap()
            .stdout;
        for (length, is_cut) in [(packed.len(), false), (100_000, true)] {
            server.route("/body", Answer::until_close(&packed[..length]));
            let told = hello(&env).arg(server.url("/body")).go().exits(4);
            let words = "cut off after 100000 bytes";
            assert_eq!(told.stderr.contains(words), is_cut, "{packer:?}: {told}");
        }
    }
}

/// `--mode nar` with a URL: one file, in the executable form that matches.
#[test]
fn a_file_by_its_nar_digest() {
    let env = TestEnv::new();
    let server = Server::with("/run", Answer::body("#!/bin/sh\n"));
    for executable in [false, true] {
        let hash = nar_sri(b"#!/bin/sh\n", executable);
        let report = env
            .fetch_hash(hash)
            .args(["--mode", "nar", "--force"])
            .arg(server.url("/run"))
            .json(0);
        assert_eq!(report.object["executable"], executable);
        assert_eq!(
            mode(&env.out("run")),
            if executable { 0o755 } else { 0o644 }
        );
        assert_eq!(env.output("run"), b"#!/bin/sh\n");
        fs_err::remove_file(env.out("run")).unwrap();
    }
    env.fetch_hash(sri(b"#!/bin/sh\n"))
        .args(["--executable"])
        .arg(server.url("/run"))
        .go()
        .exits(0);
    assert_eq!(mode(&env.out("run")), 0o755);
}

/// Weak algorithms work, with one warning a run.
#[test]
fn weak_hashes_work_with_a_warning() {
    let env = TestEnv::new();
    let server = Server::with("/hello", Answer::body("hello\n"));
    for hash in [
        "md5:b1946ac92492d2347c6235b4d2611184",
        "f572d396fae9206628714fb2ce00f72e94f2258f",
    ] {
        let outcome = env
            .fetch_hash(hash)
            .args([server.url("/missing"), server.url("/hello")])
            .arg("-o")
            .arg("hello")
            .go();
        let outcome = outcome.exits(0);
        assert_eq!(
            outcome.stderr.matches("can be forged").count(),
            1,
            "{outcome}"
        );
        fs_err::remove_file(env.out("hello")).unwrap();
    }
    let strong = hello(&env).arg(server.url("/hello")).go().exits(0);
    assert!(!strong.stderr.contains("forged"), "{strong}");
}

/// https is verified, against the certificates the environment names.
#[test]
fn certificates_are_verified() {
    if lacks("certificates_are_verified", NGINX_WITH_TLS, false) {
        return;
    }
    let env = TestEnv::new();
    let (_nginx, port, certificate) = Nginx::with_tls(&env);
    env.write("www/hello", "hello\n");
    let url = format!("https://127.0.0.1:{port}/hello");
    let untrusted = env.fetch_hash(HELLO).arg(&url).go();
    untrusted.exits(5).says("certificate");
    for variable in ["SSL_CERT_FILE", "NIX_SSL_CERT_FILE"] {
        let trusted = env
            .fetch_hash(HELLO)
            .arg(&url)
            .variable(variable, &certificate)
            .go();
        trusted.exits(0);
        fs_err::remove_file(env.out("hello")).unwrap();
    }
    let wrong_name = url.replace("127.0.0.1", "localhost");
    env.fetch_hash(HELLO)
        .arg(wrong_name)
        .variable("SSL_CERT_FILE", &certificate)
        .go()
        .exits(5)
        .says("certificate");
}

/// Several runs for the same output at once: each succeeds or says why not, and the output is whole.
#[test]
fn several_at_once() {
    if lacks("several_at_once", NGINX, false) {
        return;
    }
    let env = TestEnv::new();
    let nginx = Nginx::new(&env);
    let bytes = noise(1, 2_000_000);
    env.write("www/big", &bytes);
    let running: Vec<_> = (0..6)
        .map(|_| env.fetch_hash(sri(&bytes)).arg(nginx.url("/big")).start())
        .collect();
    for run in running {
        run.wait().exits(0);
    }
    assert_eq!(env.output("big"), bytes);
    assert_eq!(env.outputs(), ["big"]);
}
