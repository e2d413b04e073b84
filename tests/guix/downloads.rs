//! What has to be downloaded, and what guix-daemon and its clients are told.

use store_index::digest::{Algorithm, Digest};
use store_index::nix32;

use crate::support::guix::{Drv, GuixStore, HANDED_OVER, flat, options};
use crate::support::server::{Answer, Server};
use crate::support::tls::{CA_ITSELF, ELSEWHERE, EXPIRED, GOOD, TlsServer};
use crate::support::{self, TestEnv, digest, noise};

/// What a client saw of a real download by Guix, a failure first, then 300,000 bytes. How many lines there are about
/// progress is a matter of time; that there is one for the end is not.
const REAL_TRACE: &str = "
Starting download of /gnu/store/dc2lq5rsfi1lqvygld9vfan9l66ywp29-trace1
From http://127.0.0.1:18733/nope.bin...

Starting download of /gnu/store/dc2lq5rsfi1lqvygld9vfan9l66ywp29-trace1
From http://127.0.0.1:18733/blob-a.bin...
@ download-started /gnu/store/dc2lq5rsfi1lqvygld9vfan9l66ywp29-trace1 http://127.0.0.1:18733/blob-a.bin 300000
@ download-progress /gnu/store/dc2lq5rsfi1lqvygld9vfan9l66ywp29-trace1 http://127.0.0.1:18733/blob-a.bin 300000 300000
@ download-succeeded /gnu/store/dc2lq5rsfi1lqvygld9vfan9l66ywp29-trace1 http://127.0.0.1:18733/blob-a.bin 300000

";

fn paths(server: &Server) -> Vec<String> {
    server
        .requests()
        .iter()
        .map(|request| {
            let mut words = request.line.split(' ');
            words.nth(1).unwrap_or_default().to_owned()
        })
        .collect()
}

fn traced() -> String {
    options(&["untrusted-print-extended-build-trace=1"])
}

#[test]
fn the_trace_is_that_of_guix() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let content = noise(1, 300_000);
    let server = Server::with("/blob-a.bin", Answer::body(&content));
    let urls = format!(
        "(\\\"{}\\\" \\\"{}\\\")",
        server.url("/nope.bin"),
        server.url("/blob-a.bin")
    );
    let drv = store.derivation(
        "flat-plain.drv",
        &flat(&content),
        Some(&server),
        &[(&format!("\\\"{}\\\"", server.url("/blob-a.bin")), &urls)],
    );
    let outcome = store
        .perform(&drv)
        .variable("_NIX_OPTIONS", traced())
        .go()
        .exits(0);
    assert_eq!(fs_err::read(&drv.output).unwrap(), content);
    let mut lines: Vec<_> = outcome.stdout.lines().collect();
    let last = "300000 300000";
    lines.retain(|line| !line.starts_with("@ download-progress") || line.ends_with(last));
    let expected = REAL_TRACE
        .replace(
            "/gnu/store/dc2lq5rsfi1lqvygld9vfan9l66ywp29-trace1",
            drv.output.to_str().unwrap(),
        )
        .replace(
            "http://127.0.0.1:18733",
            server.url("").trim_end_matches('/'),
        );
    assert_eq!(lines.join("\n") + "\n", expected);
    // No other line may look like an event.
    assert!(!outcome.stderr.contains("\n@ ") && !outcome.stderr.starts_with("@ "));

    fs_err::remove_file(&drv.output).unwrap();
    let untraced = store
        .perform(&drv)
        .variable("_NIX_OPTIONS", options(&["print-extended-build-trace=0"]))
        .go()
        .exits(0);
    assert!(!untraced.stdout.contains("@ "), "{untraced}");
}

#[test]
fn nothing_is_said_to_have_succeeded_that_broke_off() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::with("/blob-a.bin", Answer::claiming(1000, noise(1, 500)));
    let drv = store.derivation("flat-plain.drv", &flat(b"a"), Some(&server), &[]);
    let outcome = store
        .perform(&drv)
        .variable("_NIX_OPTIONS", traced())
        .go()
        .exits(HANDED_OVER);
    assert!(outcome.stdout.contains("@ download-started"), "{outcome}");
    assert!(!outcome.stdout.contains("succeeded"), "{outcome}");
    assert!(!drv.output.exists());
}

/// URLs in their order, each `mirror://` replaced in place, then the mirrors that go by the hash.
#[test]
fn every_url_is_asked_in_the_order_of_guix() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::start();
    store.lists(&server);
    let content = noise(1, 1000);
    let hash = flat(&content);
    let drv = store.derivation("flat-url-list.drv", &hash, Some(&server), &[]);
    store.perform(&drv).go().exits(HANDED_OVER);
    let (base16, base32) = (hash.to_hex(), nix32::encode(hash.as_bytes()));
    let by_name = format!("/file/zlib-1.2.11.tar.gz/sha256/{base32}");
    let expected = [
        "/zlib-1.2.11.tar.gz".to_owned(),
        "/sf/libpng/zlib/1.2.11/zlib-1.2.11.tar.gz".to_owned(),
        "/sf2/libpng/zlib/1.2.11/zlib-1.2.11.tar.gz".to_owned(),
        by_name.clone(),
        format!("/content/sha256:{base16}/raw/"),
    ];
    assert_eq!(paths(&server), expected);
    assert!(!drv.output.exists());

    // A wrong answer of the first is not the last word, as it is with Guix.
    server.route("/zlib-1.2.11.tar.gz", Answer::body("<html>"));
    server.route(&by_name, Answer::body(&content));
    store.perform(&drv).go().exits(0);
    assert_eq!(fs_err::read(&drv.output).unwrap(), content);
}

#[test]
fn methods_that_are_not_allowed_are_not_used() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let content = noise(1, 1000);
    let hash = flat(&content);
    let by_name = format!("/file/bar.tar.gz/sha256/{}", nix32::encode(hash.as_bytes()));
    let server = Server::with(&by_name, Answer::body(&content));
    server.route("/bar.tar.gz", Answer::body(&content));
    store.lists(&server);
    let drv = store.derivation("flat-download-methods.drv", &hash, Some(&server), &[]);
    store.perform(&drv).go().exits(0);
    assert_eq!(paths(&server), [by_name]);

    let only_upstream = [("(content-addressed-mirrors disarchive)", "(upstream)")];
    let server = Server::start();
    let drv = store.derivation(
        "flat-download-methods.drv",
        &flat(b"x"),
        Some(&server),
        &only_upstream,
    );
    store.perform(&drv).go().exits(HANDED_OVER);
    assert_eq!(paths(&server), ["/bar.tar.gz"]);
}

#[test]
fn algorithms_and_executables() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let content = noise(1, 3000);
    let server = Server::with("/foo-1.0.tar.gz", Answer::body(&content));
    server.route("/script.sh", Answer::body(&content));
    store.lists(&server);
    let drv = store.derivation(
        "flat-sha512.drv",
        &digest(Algorithm::Sha512, &content),
        Some(&server),
        &[],
    );
    store.perform(&drv).go().exits(0);
    assert_eq!(support::mode(&drv.output), 0o644);
    let hash = crate::support::guix::of_sri(&support::nar_sri(&content, true));
    let drv = store.derivation("executable-recursive-sha256.drv", &hash, Some(&server), &[]);
    store.perform(&drv).go().exits(0);
    assert_eq!(support::mode(&drv.output), 0o755);
    assert_eq!(paths(&server), ["/foo-1.0.tar.gz", "/script.sh"]);
}

/// A packager who does not know the hash yet writes a wrong one, and the daemon tells the right one of what is left.
#[test]
fn a_fake_hash_leaves_the_first_whole_body() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::start();
    store.lists(&server);
    let drv = store.derivation("flat-url-list.drv", &flat(b"fake"), Some(&server), &[]);
    let short = Answer::claiming(100, "short");
    server.route("/zlib-1.2.11.tar.gz", short.clone());
    server.route(
        "/sf/libpng/zlib/1.2.11/zlib-1.2.11.tar.gz",
        Answer::body("first"),
    );
    server.route(
        "/sf2/libpng/zlib/1.2.11/zlib-1.2.11.tar.gz",
        Answer::body("second"),
    );
    let outcome = store.perform(&drv).go().exits(0);
    assert_eq!(fs_err::read(&drv.output).unwrap(), b"first", "{outcome}");
    assert_eq!(support::mode(&drv.output), 0o644);
    assert_eq!(store.handed_over(), None);
    outcome.says("is left to the daemon, which tells its hash");

    // With the bit that makes it what the derivation wants.
    let server = Server::with("/script.sh", Answer::body("#!/bin/sh\n"));
    store_lists_again(&store, &server);
    let drv = store.derivation(
        "executable-recursive-sha256.drv",
        &flat(b"fake"),
        Some(&server),
        &[],
    );
    store.perform(&drv).go().exits(0);
    assert_eq!(support::mode(&drv.output), 0o755);
}

fn store_lists_again(store: &GuixStore<'_>, server: &Server) {
    for name in [
        "qw8jnq1mlk8f8y6nnyk5p0h5m49dyymf-mirrors",
        "wg1yp2vx8gb7qmcgyibqnwblahpp4bjg-content-addressed-mirrors",
    ] {
        fs_err::remove_file(store.dir().join(name)).unwrap();
    }
    for name in [
        "hdprrnsaa40vl1k63hnq7l1f012jzq2y-mirrors",
        "lv7dc09895a2d7cn0m6ysrdlgkhx5ld8-content-addressed-mirrors",
        "0mxnx8l4fgigvd7gakwdk6hc6im4wnai-disarchive-mirrors",
    ] {
        fs_err::remove_file(store.dir().join(name)).unwrap();
    }
    store.lists(server);
}

/// Neither half a body nor what an archive answers is what the packager asked for.
#[test]
fn what_is_no_answer_of_its_own_urls_is_not_left() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::with("/zlib-1.2.11.tar.gz", Answer::claiming(100, "short"));
    store.lists(&server);
    let hash = flat(b"fake");
    server.route(
        &format!(
            "/file/zlib-1.2.11.tar.gz/sha256/{}",
            nix32::encode(hash.as_bytes())
        ),
        Answer::body("an archive's"),
    );
    let drv = store.derivation("flat-url-list.drv", &hash, Some(&server), &[]);
    store.perform(&drv).go().exits(HANDED_OVER);
    assert!(!drv.output.exists());
}

/// Without a real guix a failure is one.
#[test]
fn without_a_guix_the_failure_is_told() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::start();
    let drv = store.derivation("flat-plain.drv", &flat(b"x"), Some(&server), &[]);
    let none = env.path("bin/no-such-guix");
    store
        .perform(&drv)
        .variable("FETCH_GUIX", &none)
        .go()
        .exits(1)
        .says(&format!(
            "failed to download \"{}\" from \"{}\"",
            drv.output.display(),
            server.url("/blob-a.bin")
        ))
        .says(none.to_str().unwrap());
    assert!(!drv.output.exists());
    let Drv { path, .. } = drv;
    assert!(path.exists());
}

/// As with Guix, but told: whoever answers, the hash decides.
#[test]
fn a_certificate_need_not_be_in_order_where_a_strong_hash_decides() {
    const CONTENT: &[u8] = b"over TLS";
    let test = "a_certificate_need_not_be_in_order_where_a_strong_hash_decides";
    let Some(tls) = TlsServer::start(test) else {
        return;
    };
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::start();
    store.lists(&server);
    let perform = |hash: &Digest, url: &str| {
        let drv = store.derivation(
            match hash.algorithm() {
                Algorithm::Sha1 => "flat-sha1.drv",
                _ => "flat-plain.drv",
            },
            hash,
            Some(&server),
            &[(&server.url(real_path(hash)), url)],
        );
        drop(fs_err::remove_file(&drv.output));
        (store.perform(&drv), drv)
    };
    let right = flat(CONTENT);
    for (port, reason) in [
        (GOOD, "certificate is from an unknown issuer"),
        (EXPIRED, "certificate has expired"),
        (ELSEWHERE, "certificate is for another host"),
        (CA_ITSELF, "certificate is a CA's own"),
    ] {
        let (run, drv) = perform(&right, &tls.url(port, "/a"));
        // With the CA that signed them only that is wrong which is meant to be.
        let run = match port {
            GOOD => run,
            _ => run.variable("SSL_CERT_FILE", readable(&env, &tls)),
        };
        run.go().exits(0).says(&format!(
            "fetch: warning: {}: {reason}",
            tls.url(port, "/a")
        ));
        assert_eq!(fs_err::read(&drv.output).unwrap(), CONTENT);
    }
    // A good one is not told of, but where it leads to http.
    let trusting = |url: &str| {
        let (run, drv) = perform(&right, url);
        let outcome = run.variable("SSL_CERT_FILE", readable(&env, &tls)).go();
        assert_eq!(fs_err::read(&drv.output).unwrap(), CONTENT, "{outcome}");
        outcome.exits(0)
    };
    trusting(&tls.url(GOOD, "/a")).does_not_say("warning");
    trusting(&tls.url(GOOD, "/plain")).says("redirect from https to http");
    assert_eq!(store.handed_over(), None);

    let handed_over = |run: crate::support::Run<'_>, drv: &Drv| {
        let outcome = run
            .go()
            .exits(HANDED_OVER)
            .does_not_say("without verification");
        assert!(!drv.output.exists(), "{outcome}");
    };
    // Not where the hash can be forged, nor where anything secret would be told.
    let (run, drv) = perform(&digest(Algorithm::Sha1, CONTENT), &tls.url(GOOD, "/a"));
    handed_over(run, &drv);
    let secret = tls
        .url(GOOD, "/a")
        .replace("https://", "https://me:secret@");
    let (run, drv) = perform(&right, &secret);
    handed_over(run, &drv);
    let netrc = env.write("netrc", "machine 127.0.0.1 login me password secret\n");
    let (run, drv) = perform(&right, &tls.url(GOOD, "/a"));
    handed_over(run.variable("NETRC", netrc), &drv);
    // What somebody sends of whom nothing is known is no answer to a packager who asks for the hash.
    let (run, drv) = perform(&flat(b"something else"), &tls.url(GOOD, "/a"));
    let outcome = run.go().exits(HANDED_OVER).says("without verification");
    assert!(!drv.output.exists(), "{outcome}");
    // Nobody but a daemon gets that.
    let (url, hash) = (tls.url(GOOD, "/a"), right.to_sri());
    let out = env.path("out").display().to_string();
    for args in [["--hash", &hash, &url], ["prefetch", &url, "--store"]] {
        let more = (args[0] == "prefetch").then_some(&out);
        let run = env.fetch(args).args(more);
        run.go().exits(5).does_not_say("without verification");
    }
}

/// The path of the URL in the derivation that the test takes for a hash.
fn real_path(hash: &Digest) -> &'static str {
    match hash.algorithm() {
        Algorithm::Sha1 => "/foo-0.1.tar.gz",
        _ => "/blob-a.bin",
    }
}

/// The CA's certificate where everybody may read it.
fn readable(env: &TestEnv, tls: &TlsServer) -> std::path::PathBuf {
    let path = env.path("tmp/ca.pem");
    fs_err::copy(tls.path("ca.pem"), &path).unwrap();
    path
}
