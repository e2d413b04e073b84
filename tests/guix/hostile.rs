//! Derivations, and files that they name, by somebody who means no good: anybody may hand them to the daemon.

use std::os::unix::fs::symlink;
use std::path::Path;

use store_index::digest::Algorithm;

use crate::support::guix::{Drv, GuixStore, flat};
use crate::support::server::{Answer, Server};
use crate::support::{Outcome, TestEnv, noise};

const MIRRORS: &str = "qw8jnq1mlk8f8y6nnyk5p0h5m49dyymf-mirrors";
const BY_HASH: &str = "wg1yp2vx8gb7qmcgyibqnwblahpp4bjg-content-addressed-mirrors";

/// Nothing is tried, nothing is left, and nobody else is asked to do it.
#[track_caller]
fn refused(store: &GuixStore<'_>, server: &Server, drv: &Drv, words: &str) -> Outcome {
    let outcome = store.perform(drv).go().exits(1).says(words);
    assert_eq!(server.connections(), 0, "{outcome}");
    assert!(fs_err::symlink_metadata(&drv.output).is_err(), "{outcome}");
    assert_eq!(store.handed_over(), None, "{outcome}");
    outcome
}

#[test]
fn hostile_urls_are_refused_before_any_is_tried() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::start();
    let content = noise(1, 500);
    server.route("/blob-a.bin", Answer::body(&content));
    // It is even here: what names a file of this machine is refused all the same.
    store.flat_item(Algorithm::Sha256, "source", &content);
    let good = format!("\\\"{}\\\"", server.url("/blob-a.bin"));
    let deep = "(".repeat(1 << 20);
    let long = format!("\\\"{}\\\"", "a".repeat(2 << 20));
    for (url, words) in [
        (deep.as_str(), "nested deeper"),
        (&long, "longer than"),
        ("#.(system \\\"touch /tmp/x\\\")", "refused"),
        ("(#.(quote a))", "refused"),
        ("\\\"file:///etc/passwd\\\"", "names a file of this machine"),
        ("\\\"FILE:///etc/passwd\\\"", "names a file of this machine"),
        ("\\\"/etc/passwd\\\"", "no scheme"),
        ("\\\"http://h/a\\nHost: evil\\\"", "control characters"),
        ("\\\"http://h/a\\\\nHost: evil\\\"", "control characters"),
        ("(a b)", "neither a string nor a list"),
        ("#t", "neither a string nor a list"),
        ("", "ends too early"),
    ] {
        let drv = store.derivation(
            "flat-plain.drv",
            &flat(&content),
            Some(&server),
            &[(&good, url)],
        );
        refused(&store, &server, &drv, words);
    }
    let list = format!("({good} \\\"file:///etc/passwd\\\")");
    let drv = store.derivation(
        "flat-plain.drv",
        &flat(&content),
        Some(&server),
        &[(&good, &list)],
    );
    let outcome = refused(&store, &server, &drv, "names a file of this machine");
    outcome.does_not_say("root:");
}

#[test]
fn hostile_lists_of_mirrors_are_not_read() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::start();
    store.lists(&server);
    let secret = env.write("secret", "((gnu \"http://127.0.0.1:1/\"))");
    let listed = store.dir().join(MIRRORS);
    let path = listed.to_str().unwrap().to_owned();
    let outside = secret.to_str().unwrap();
    let up = format!("{}/../../secret", store.dir().display());
    let below = format!("{path}/x");
    let links = format!("{}/.links", store.dir().display());
    for other in [outside, "/etc/passwd", &up, &below, &links, ""] {
        let drv = store.derivation(
            "flat-mirror-single.drv",
            &flat(b"x"),
            Some(&server),
            &[(
                &format!("(\"mirrors\",\"{path}\")"),
                &format!("(\"mirrors\",\"{other}\")"),
            )],
        );
        refused(&store, &server, &drv, "no item of the store");
    }
    let drv = store.derivation("flat-mirror-single.drv", &flat(b"x"), Some(&server), &[]);
    for target in [outside, "/etc/passwd", BY_HASH] {
        fs_err::remove_file(&listed).unwrap();
        symlink(target, &listed).unwrap();
        refused(&store, &server, &drv, "symbolic link").does_not_say("root:");
    }
    for (text, words) in [
        ("((kde \"http://h/\"))".to_owned(), "none of the kind 'gnu'"),
        ("((gnu))".to_owned(), "none of the kind 'gnu'"),
        ("#.(system \"id\")".to_owned(), "refused"),
        ("(".repeat(1 << 20), "nested deeper"),
        ("((gnu \"http://h/\")".to_owned(), "ends too early"),
        (" ".repeat((1 << 20) + 1), "longer than"),
    ] {
        fs_err::remove_file(&listed).unwrap();
        store.item(MIRRORS, text);
        refused(&store, &server, &drv, words);
    }
    // A mirror that is a file of this machine is no mirror.
    fs_err::remove_file(&listed).unwrap();
    store.item(MIRRORS, "((gnu \"file:///etc\" \"/etc\"))");
    let drv = store.derivation(
        "flat-mirror-single.drv",
        &flat(&fs_err::read("/etc/passwd").unwrap()),
        None,
        &[("gnu/hello/hello-2.10.tar.gz", "gnu/passwd")],
    );
    let outcome = store.perform(&drv).go().does_not_say("root:");
    assert!(!drv.output.exists(), "{outcome}");
}

/// They are not worth a failure, but nothing of theirs is asked.
#[test]
fn hostile_expressions_are_left_out() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::start();
    store.lists(&server);
    let content = noise(1, 500);
    server.route("/gnu/hello/hello-2.10.tar.gz", Answer::body(&content));
    let touched = env.path("tmp/touched");
    for expression in [
        format!("(list (system \"touch {}\"))", touched.display()),
        format!("(begin #.(system \"touch {}\"))", touched.display()),
        "(begin (define (f x) (f x)) (f 1))".to_owned(),
        "(begin (define (f x) (f x)) (f \"\"))".to_owned(),
        "(".repeat(1 << 20),
        "(list (lambda (file algo hash) \"file:///etc/passwd\"))".to_owned(),
    ] {
        fs_err::remove_file(store.dir().join(BY_HASH)).unwrap();
        store.item(BY_HASH, expression);
        let drv = store.derivation("flat-mirror-single.drv", &flat(&content), None, &[]);
        store.perform(&drv).go().exits(0);
        assert_eq!(fs_err::read(&drv.output).unwrap(), content);
        fs_err::remove_file(&drv.output).unwrap();
    }
    assert!(!touched.exists());
}

#[test]
fn hostile_commits_are_refused() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::start();
    for (old, new, words) in [
        (
            "(\"commit\",\"v2.10\")",
            "(\"commit\",\"--upload-pack=id\")",
            "begins with '-'",
        ),
        (
            "(\"commit\",\"v2.10\")",
            "(\"commit\",\"-\")",
            "begins with '-'",
        ),
        ("(\"commit\",\"v2.10\"),", "", "no commit"),
        (
            "https://git.savannah.gnu.org/git/hello.git",
            "file:///srv/git/private.git",
            "names a file of this machine",
        ),
        (
            "https://git.savannah.gnu.org/git/hello.git",
            "/srv/git/private.git",
            "no scheme",
        ),
        (
            "https://git.savannah.gnu.org/git/hello.git",
            "--upload-pack=id",
            "no scheme",
        ),
        (
            "https://git.savannah.gnu.org/git/hello.git",
            "me@host:private.git",
            "no scheme",
        ),
        (
            "https://git.savannah.gnu.org/git/hello.git",
            "ext::sh%20-c%20id",
            "names a program",
        ),
        (
            "https://git.savannah.gnu.org/git/hello.git",
            "ssh://-oProxyCommand=id/x",
            "begins with '-'",
        ),
        (
            "https://git.savannah.gnu.org/git/hello.git",
            "ssh://%2DoProxyCommand=id@h/x",
            "begins with '-'",
        ),
        ("\"#f\"", "\"#.(a)\"", "refused"),
        ("\"#f\"", "\"maybe\"", "neither #t nor #f"),
    ] {
        let drv = store.derivation("git-nonrecursive.drv", &flat(b"x"), None, &[(old, new)]);
        refused(&store, &server, &drv, words);
    }
}

#[test]
fn hostile_derivations_are_refused() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let server = Server::start();
    let good = store.derivation("flat-plain.drv", &flat(b"x"), Some(&server), &[]);
    for (text, words) in [
        ("(".repeat(1 << 20), "at byte 0"),
        (format!("Derive({}", "[".repeat(1 << 20)), "at byte 8"),
        (" ".repeat((16 << 20) + 1), "longer than"),
        (String::new(), "at byte 0"),
    ] {
        let drv = Drv {
            path: store.drv("bad", text.as_bytes()),
            output: good.output.clone(),
        };
        refused(&store, &server, &drv, words);
    }
    let no_hash = [("\"sha256\"", "\"\"")];
    let drv = store.derivation("flat-plain.drv", &flat(b"x"), Some(&server), &no_hash);
    refused(&store, &server, &drv, "no output whose hash is known");
    let no_url = [("(\"url\"", "(\"uri\"")];
    let drv = store.derivation("flat-plain.drv", &flat(b"x"), Some(&server), &no_url);
    refused(&store, &server, &drv, "has no url");
    let methods = [("(content-addressed-mirrors disarchive)", "upstream")];
    let drv = store.derivation(
        "flat-download-methods.drv",
        &flat(b"x"),
        Some(&server),
        &methods,
    );
    refused(&store, &server, &drv, "no list of symbols");
}

#[test]
fn derivations_and_outputs_lie_in_the_store() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let content = noise(1, 500);
    let server = Server::with("/blob-a.bin", Answer::body(&content));
    let good = store.derivation("flat-plain.drv", &flat(&content), Some(&server), &[]);
    let base_name = good.path.file_name().unwrap();
    let elsewhere = env.path("tmp").join(base_name);
    fs_err::copy(&good.path, &elsewhere).unwrap();
    let linked = store
        .dir()
        .join("0mxnx8l4fgigvd7gakwdk6hc6im4wnai-linked.drv");
    symlink(&elsewhere, &linked).unwrap();
    let undotted = store.item(
        "1mxnx8l4fgigvd7gakwdk6hc6im4wnai-drv",
        fs_err::read(&good.path).unwrap(),
    );
    let folder = store.dir().join("2mxnx8l4fgigvd7gakwdk6hc6im4wnai-a.drv");
    fs_err::create_dir(&folder).unwrap();
    let below = folder.join(base_name);
    fs_err::copy(&good.path, &below).unwrap();
    let up = store.dir().join("..").join("store").join(base_name);
    for path in [
        elsewhere,
        linked,
        undotted,
        below,
        up,
        folder,
        "x.drv".into(),
    ] {
        let drv = Drv {
            path,
            output: good.output.clone(),
        };
        refused(&store, &server, &drv, "fetch: error: ");
    }
    let output_name = good.output.file_name().unwrap();
    for output in [
        env.path("tmp").join(output_name),
        env.path("out").join("x"),
        store.dir().join("../store").join(output_name),
        store.dir().join("plain-name"),
        store.dir().join(".links").join(output_name),
        Path::new("relative").to_owned(),
    ] {
        let drv = Drv {
            path: good.path.clone(),
            output,
        };
        refused(&store, &server, &drv, "is not in the store");
    }
}

/// Whatever stands at the output is left as it is, and what it leads to is not touched.
#[test]
fn an_output_that_is_there_is_not_written_to() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let content = noise(1, 500);
    let server = Server::with("/blob-a.bin", Answer::body(&content));
    let drv = store.derivation("flat-plain.drv", &flat(&content), Some(&server), &[]);
    store.flat_item(Algorithm::Sha256, "source", &content);
    let precious = env.write("tmp/precious", "precious");
    crate::support::guix::mode(&precious, 0o666);
    for target in [&precious, &env.path("tmp/not-there")] {
        symlink(target, &drv.output).unwrap();
        store.perform(&drv).go().exits(1).says("exists");
        assert_eq!(fs_err::read_link(&drv.output).unwrap(), *target);
        assert_eq!(fs_err::read(&precious).unwrap(), b"precious");
        assert!(!env.path("tmp/not-there").exists());
        fs_err::remove_file(&drv.output).unwrap();
    }
    fs_err::write(&drv.output, "older").unwrap();
    crate::support::guix::mode(&drv.output, 0o666);
    store.perform(&drv).go().exits(1);
    assert_eq!(fs_err::read(&drv.output).unwrap(), b"older");
    assert_eq!(
        store.handed_over(),
        None,
        "the real guix would follow the link"
    );
    assert_eq!(server.connections(), 0);
}
