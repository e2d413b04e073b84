//! What stands in lists: what is fetched of it, under which name, and what is refused.

use std::path::Path;

use serde_json::json;
use store_index::digest::Algorithm;

use super::{batch, came, line, serve, source, sources_json};
use crate::support::git::{GIT, Repository, file, nar_of};
use crate::support::git_server::HttpBackend;
use crate::support::server::{Answer, Server};
use crate::support::{TestEnv, digest, lacks, names_in, nar_sri, sri};

/// Every kind of entry that Guix's list has, and its noise.
#[test]
fn a_sources_json_as_guix_publishes_it() {
    if lacks("a_sources_json_as_guix_publishes_it", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/tool.git");
    let commit = bare.commit("main", &[file("a", b"a\n"), file("b/c", b"c\n")]);
    bare.git(&["tag", "v1.2"]);
    let tree = bare.nar_of_clone(&env, &commit);
    let git = HttpBackend::start(&env, "srv");
    let server = Server::start();
    serve(
        &server,
        &[
            ("gnu/hello-2.10.tar.gz", "hello"),
            ("pub/dead-1.0.tar.gz", "dead or alive"),
            ("one/archive/v1.0.tar.gz", "one"),
            ("two/archive/v1.0.tar.gz", "two"),
            ("tool", "#!/bin/sh\n"),
        ],
    );
    let url = |path: &str| server.url(path);
    let archive = env.write("pack/top/file", "in the archive\n");
    let packed = env.path("packed.tar");
    let folder = archive.parent().unwrap().parent().unwrap();
    let tar = std::process::Command::new("tar")
        .arg("-cf")
        .arg(&packed)
        .arg("-C")
        .arg(folder)
        .arg("top")
        .status();
    assert!(tar.unwrap().success());
    server.route("/packed.tar", Answer::file(fs_err::read(&packed).unwrap()));
    let list = sources_json(
        &env,
        &[
            source(&["mirror://ours/hello-2.10.tar.gz".into()], "hello"),
            source(
                &[url("/gone/dead-1.0.tar.gz"), url("/pub/dead-1.0.tar.gz")],
                "dead or alive",
            ),
            source(&[url("/one/archive/v1.0.tar.gz")], "one"),
            source(&[url("/two/archive/v1.0.tar.gz")], "two"),
            // Duplicates happen.
            source(&[url("/two/archive/v1.0.tar.gz")], "two"),
            json!({
                "type": "url", "urls": [url("/tool")], "integrity": nar_sri(b"#!/bin/sh\n", true),
                "outputHashAlgo": "sha256", "outputHashMode": "recursive",
            }),
            json!({
                "type": "url", "urls": [url("/packed.tar")],
                "integrity": nar_of(archive.parent().unwrap()), "outputHashMode": "recursive",
            }),
            json!({
                "type": "git", "git_url": git.url("tool.git"), "git_ref": "v1.2", "integrity": tree,
                "outputHashAlgo": "sha256", "outputHashMode": "recursive", "submodule": false,
            }),
            json!({"type": "git", "git_url": git.url("tool.git"), "git_ref": commit}),
            json!({"type": "hg", "hg_url": "https://hg.example.org/x", "hg_changeset": "0123abcd"}),
            json!({"type": "svn", "svn_url": "svn://svn.example.org/y", "svn_revision": 7, "svn_files": []}),
            json!({"type": "hg", "hg_url": "https://hg.example.org/z", "hg_changeset": "4567",
                   "integrity": tree, "outputHashMode": "recursive"}),
            json!({"type": "no-origin", "name": "bootstrap"}),
            json!({"type": null}),
            json!({"type": false}),
            json!({"type": "url", "urls": [], "integrity": sri(b"#!/bin/sh\n")}),
            json!({"type": "url", "urls": ["no/scheme.tar.gz"], "integrity": sri(b"nobody")}),
            json!({"type": "url", "urls": [url("/x.git")], "integrity": sri(b"a repository")}),
            json!({"type": "url", "urls": [url("/x")], "integrity": "sha256-broken"}),
            json!({"type": "url", "urls": [url("/x")]}),
            json!({"type": "git", "git_url": "file:///etc", "git_ref": "v1", "integrity": tree}),
            json!({"type": "git", "git_url": git.url("tool.git"), "git_ref": "--upload-pack=x", "integrity": tree}),
            json!(["no", "object"]),
        ],
    );
    let report = batch(&env, &list)
        .variable("NIX_MIRRORS_ours", server.url("/gnu/"))
        .json(3);
    let hex = |content: &str| digest(Algorithm::Sha256, content.as_bytes()).to_hex();
    let ambiguous = |content: &str| format!("{}-v1.0.tar.gz", &hex(content)[..16]);
    for (name, result) in [
        ("hello-2.10.tar.gz", "downloaded"),
        ("dead-1.0.tar.gz", "downloaded"),
        (&ambiguous("one"), "downloaded"),
        (&ambiguous("two"), "downloaded"),
        ("tool", "downloaded"),
        ("packed.tar", "downloaded"),
        ("tool-v1.2", "downloaded"),
        // It has the hash of what the other one brought.
        ("z-4567", "local"),
        (&format!("sha256-{}", hex("#!/bin/sh\n")), "failed"),
        (&format!("sha256-{}", hex("nobody")), "failed"),
        (&format!("sha256-{}", hex("a repository")), "failed"),
    ] {
        assert_eq!(report.entry(name)["result"], result, "{name}");
    }
    for (what, count) in [
        ("entries", 11),
        ("downloaded", 7),
        ("local", 1),
        ("failed", 3),
        ("refused", 8),
        ("left_out", 3),
        ("twice", 1),
    ] {
        assert_eq!(report.count(what), count, "{what}");
    }
    let refused = report.object["refused"].to_string();
    for words in [
        "Mercurial",
        "Subversion",
        "no hash",
        "git_ref",
        "only https://, http:// and git://",
    ] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    assert_eq!(nar_of(&env.out("into/tool-v1.2")), tree);
    assert_eq!(nar_of(&env.out("into/z-4567")), tree);
    assert_eq!(
        fs_err::read(env.out("into/packed.tar/file")).unwrap(),
        b"in the archive\n"
    );
    assert_eq!(fs_err::read(env.out("into/tool")).unwrap(), b"#!/bin/sh\n");
    let of_two = server.requests().into_iter();
    assert_eq!(
        of_two.filter(|asked| asked.line.contains("/two/")).count(),
        1
    );
}

/// The GNU and the BSD form, several algorithms, folders, blanks: each at its path below the URL.
#[test]
fn a_list_of_checksums() {
    let env = TestEnv::new();
    let server = Server::start();
    serve(
        &server,
        &[
            ("dist/plain", "plain"),
            ("dist/sub/folder/deep", "deep"),
            ("dist/with%20blank%23", "blank"),
            ("dist/bsd", "bsd"),
            ("dist/both", "both"),
            ("dist/long", "long"),
        ],
    );
    let hex = |algorithm, content: &str| digest(algorithm, content.as_bytes()).to_hex();
    let list = [
        "# a comment\n\n".to_owned(),
        line("plain", "plain"),
        line("./sub/folder/deep", "deep"),
        line("with blank#", "blank").replace("  with", " *with"),
        format!("SHA256 (bsd) = {}\r\n", hex(Algorithm::Sha256, "bsd")),
        // One file by two algorithms is no contradiction.
        format!("MD5 (both) = {}\n", hex(Algorithm::Md5, "both")),
        format!("SHA256 (both) = {}\n", hex(Algorithm::Sha256, "both")),
        format!("{}  long\n", hex(Algorithm::Sha512, "long")),
    ];
    let list = env.write("SHA256SUMS", list.concat());
    let outcome = batch(&env, &list)
        .arg("--base-url")
        .arg(server.url("/dist"))
        .go()
        .exits(0);
    for words in [
        "6 entries in ",
        "       6 downloaded (url), 25 B",
        "stood there twice",
    ] {
        assert!(outcome.stdout.contains(words), "{words}: {outcome}");
    }
    let expected = [
        "both",
        "bsd",
        "long",
        "plain",
        "sub/folder/deep",
        "with blank#",
    ];
    let contents = ["both", "bsd", "long", "plain", "deep", "blank"];
    let expected: Vec<_> = expected
        .iter()
        .zip(contents)
        .map(|(name, content)| ((*name).to_owned(), content.as_bytes().to_vec()))
        .collect();
    assert_eq!(came(&env), expected);
    // Without a URL and without a copy, nobody has it; standard input is a list too.
    let other = env.write("other", line("elsewhere", "elsewhere"));
    let outcome = env
        .run(
            Path::new("sh"),
            [
                "-c",
                "\"$0\" batch --no-store --no-media --into there - < \"$1\"",
            ],
        )
        .arg(env!("CARGO_BIN_EXE_fetch"))
        .arg(&other)
        .go()
        .exits(3);
    let reason = "failed elsewhere: not found";
    assert!(outcome.stdout.contains(reason), "{outcome}");
}

/// Nothing is asked for and nothing written where a list contradicts itself.
#[test]
fn a_list_that_contradicts_itself_is_refused_whole() {
    let env = TestEnv::new();
    let server = Server::start();
    for (list, words) in [
        (line("a", "one") + &line("a", "two"), "a: sha256-"),
        (line("a", "one") + &line("a/b", "two"), "a/b"),
        (line("a/b/c", "one") + &line("./a", "two"), "a/b/c"),
    ] {
        let list = env.write("SHA256SUMS", line("fine", "fine") + &list);
        let outcome = batch(&env, &list)
            .arg("--base-url")
            .arg(server.url("/"))
            .go()
            .exits(2);
        outcome.says("the list contradicts itself").says(words);
    }
    assert_eq!(env.outputs(), [""; 0]);
    assert_eq!(server.connections(), 0);
}

/// Names that lead out of the folder, or would be swept away, are refused one by one; the rest is fetched.
#[test]
fn hostile_names_are_refused_and_told() {
    let env = TestEnv::new();
    let server = Server::start();
    server.route("/ok", Answer::file("ok"));
    let digest = digest(Algorithm::Sha256, b"evil").to_hex();
    let absolute = env.path("evil");
    let absolute = absolute.to_str().unwrap();
    let hostile = [
        "../evil",
        "a/../../evil",
        absolute,
        "..",
        "a//b",
        "b/",
        ".fetch-0123456789abcdef",
        "\u{1b}[2Jevil",
        "nul\0",
        &"x".repeat(300),
    ];
    let mut list: String = hostile.map(|name| format!("{digest}  {name}\n")).concat();
    list.push_str(&format!("\\{digest}  new\\nline\n"));
    list.push_str(&format!("{}\n", "y".repeat(20_000)));
    list.push_str(&line("ok", "ok"));
    let list = env.write("SHA256SUMS", list);
    let report = batch(&env, &list)
        .arg("--base-url")
        .arg(server.url("/"))
        .json(2);
    assert_eq!(report.count("refused"), 12, "{:#}", report.object);
    assert_eq!(report.count("downloaded"), 1);
    assert_eq!(server.requests().len(), 1);
    let outcome = batch(&env, &list).arg("--offline").go().exits(2);
    assert!(!outcome.stdout.contains('\u{1b}'), "{outcome}");
    for words in [
        "refused line 1, ",
        "below this folder",
        "control characters",
        "swept away",
        "longer than",
    ] {
        assert!(outcome.stdout.contains(words), "{words}: {outcome}");
    }
    // Names that are made of URLs.
    let url = |path: &str| server.url(path);
    let list = sources_json(
        &env,
        &[
            source(&[url("/a%2f..%2fevil")], "1"),
            source(&[url("/%2e%2e")], "2"),
            source(&[url("/.fetch-0123456789abcdef")], "3"),
            source(&[url("/evil%0a")], "4"),
        ],
    );
    let report = batch(&env, &list).json(3);
    assert_eq!(report.count("refused"), 1, "{:#}", report.object);
    // The others are called by their hashes.
    let named = report.object["entries"].as_array().unwrap();
    assert!(
        named
            .iter()
            .all(|entry| entry["name"].as_str().unwrap().starts_with("sha256-")),
        "{:#}",
        report.object
    );
    assert_eq!(names_in(&env.out("into")), ["ok"]);
    assert!(!env.path("evil").exists());
}

/// A folder of the list must not be a symbolic link that is there, whoever made it.
#[test]
fn no_link_leads_out_of_the_folder() {
    let env = TestEnv::new();
    let server = Server::start();
    server.route("/sub/evil", Answer::file("evil"));
    fs_err::create_dir(env.path("elsewhere")).unwrap();
    fs_err::create_dir(env.out("into")).unwrap();
    std::os::unix::fs::symlink(env.path("elsewhere"), env.out("into/sub")).unwrap();
    let list = env.write("SHA256SUMS", line("sub/evil", "evil"));
    let outcome = batch(&env, &list)
        .arg("--base-url")
        .arg(server.url("/"))
        .go()
        .exits(7);
    assert!(
        outcome.stdout.contains("it is there and no folder"),
        "{outcome}"
    );
    assert_eq!(names_in(&env.path("elsewhere")), [""; 0]);
    assert_eq!(server.connections(), 0);
}

#[test]
fn what_is_no_list_is_told() {
    let env = TestEnv::new();
    for (content, words) in [
        ("{\"version\": \"1\"}", "has no \"sources\""),
        ("{\"sources\": {}}", "a list of sources"),
        ("{\"sources\": [", "cannot be read as a sources.json"),
        (
            "{\"sources\": []} trailing",
            "cannot be read as a sources.json",
        ),
        ("[1, 2]", "neither a sources.json nor a list of checksums"),
        (
            "<html>no</html>",
            "neither a sources.json nor a list of checksums",
        ),
    ] {
        let list = env.write("list", content);
        batch(&env, &list).go().exits(2).says(words);
    }
    batch(&env, &env.path("missing"))
        .go()
        .exits(7)
        .says("missing");
    // Depth and length of what is in it cost nothing.
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let list = env.write("list", format!("{{\"other\": {deep}, \"sources\": []}}"));
    batch(&env, &list).go().exits(0);
    let less = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let list = env.write(
        "list",
        format!("{{\"sources\": [{deep}, {less}, 1, \"x\"]}}"),
    );
    let report = batch(&env, &list).json(2);
    assert_eq!(report.count("refused"), 4, "{:#}", report.object);
    // Nothing to do is done.
    let empty = env.write("list", "\n# nothing\n");
    batch(&env, &empty).go().exits(0);
    let list = env.write("list", line("a", "a"));
    for (option, value, words) in [
        ("--jobs", "0", "no number from 1 to 64"),
        ("--jobs", "65", "no number from 1 to 64"),
        ("--base-url", "nonsense", "cannot be used"),
    ] {
        batch(&env, &list)
            .args([option, value])
            .go()
            .exits(2)
            .says(words);
    }
    // The options have variables.
    let variables = |jobs: &str| {
        env.fetch(["batch", "--no-store", "--no-media", "list"])
            .variable("FETCH_INTO", "else\u{e9}where")
            .variable("FETCH_JOBS", jobs)
            .variable("FETCH_BASE_URL", "http://127.0.0.1:1/")
            .variable("FETCH_RETRY_BUDGET", "0")
            .go()
    };
    fs_err::copy(&list, env.out("list")).unwrap();
    variables("none").exits(2);
    variables("2").exits(5);
    assert!(env.out("else\u{e9}where").is_dir());
    let sources = sources_json(&env, &[]);
    let own = batch(&env, &sources).args(["--base-url", "https://example.org/"]);
    own.go()
        .exits(2)
        .says("--base-url is for lists of checksums");
}
