//! Filling the store beforehand: the build that follows finds its source and asks nobody.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::git::{File, GIT, Repository, file, nar_of, nar_of_recursive_clone};
use crate::support::git_server::HttpBackend;
use crate::support::nix::{NIX, NixStore};
use crate::support::server::{Answer, Server};
use crate::support::{Run, TestEnv, lacks, names_in, nar_sri, noise, sri};

fn prefetch<'env>(env: &'env TestEnv, store: &NixStore) -> Run<'env> {
    env.fetch(["prefetch", "--no-media"]).with_nix(store)
}

/// Builds what Nix downloads by itself, if it has to.
fn build(env: &TestEnv, store: &NixStore, name: &str, url: &str, hash: &str, mode: &str) -> String {
    let expression = format!(
        r#"derivation {{
            name = "{name}"; system = "builtin"; builder = "builtin:fetchurl"; url = "{url}";
            outputHash = "{hash}"; outputHashMode = "{mode}"; executable = {};
        }}"#,
        mode == "recursive"
    );
    let file = env.write("fetch.nix", expression);
    store.nix("nix-build", &["--no-out-link", file.to_str().unwrap()])
}

#[test]
fn a_build_finds_what_was_prefetched_without_a_hash() {
    if lacks("prefetch and nix-build", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let content = noise(1, 70_000);
    let server = Server::with("/hello-1.0.tar.gz", Answer::body(&content));
    let url = server.url("/hello-1.0.tar.gz");
    let outcome = prefetch(&env, &store).arg(&url).go().exits(0);
    let lines: Vec<_> = outcome.stdout.lines().collect();
    let [path, in_sri, hex, nix32, base64] = lines[..] else {
        panic!("five lines are wanted\n{outcome}");
    };
    assert_eq!(fs_err::read(path).unwrap(), content);
    assert_eq!(in_sri, sri(&content));
    assert_eq!(base64, &in_sri["sha256-".len()..]);
    // By Nix's own word.
    let by_nix = |more: &[&str]| {
        let args = ["--flat", "--type", "sha256", path];
        store.nix("nix-hash", &[&args, more].concat())
    };
    assert_eq!((hex, nix32), (&*by_nix(&[]), &*by_nix(&["--base32"])));
    assert_eq!(server.requests().len(), 1);
    drop(server);
    assert_eq!(
        build(&env, &store, "hello-1.0.tar.gz", &url, in_sri, "flat"),
        path
    );
    assert!(names_in(&env.path("tmp")).is_empty() && env.outputs().is_empty());
}

#[test]
fn an_archive_is_unpacked_and_its_tree_told() {
    if lacks("an_archive_is_unpacked_and_its_tree_told", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    env.write("hello-1.0/src/hello.c", "int main;\n");
    let archive = packed(&env, "hello-1.0");
    let server = Server::with("/page", Answer::body("<html>no archive</html>"));
    server.route(
        "/hello-1.0.tar.gz",
        Answer::body(fs_err::read(&archive).unwrap()),
    );
    let urls = ["/page", "/hello-1.0.tar.gz"].map(|path| server.url(path));
    let outcome = prefetch(&env, &store)
        .args(["--unpack", "--name", "source"])
        .args(&urls)
        .go()
        .exits(0);
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(
        fs_err::read(format!("{}/src/hello.c", lines[0])).unwrap(),
        b"int main;\n"
    );
    let by_nix = store.nix("nix-hash", &["--type", "sha256", lines[0]]);
    assert_eq!(lines[2], by_nix);
    // Now that it is known, it is here.
    let known = prefetch(&env, &store)
        .args(["--unpack", "--name", "source", "--hash", lines[1], &urls[1]])
        .go()
        .exits(0);
    assert_eq!(known.stdout.lines().next(), Some(lines[0]));
    assert_eq!(server.requests().len(), 2);
    // Nothing is an archive.
    prefetch(&env, &store)
        .args(["--unpack", "--name", "source", &urls[0]])
        .go()
        .exits(4)
        .says("archive");
    assert!(names_in(&env.path("tmp")).is_empty() && env.outputs().is_empty());
}

/// A body for which there is no room costs one URL, as a fetch with a hash has it.
#[test]
fn what_has_no_room_is_passed_over() {
    if lacks("what_has_no_room_is_passed_over", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let content = noise(1, 7_000);
    env.write("hello-1.0/hello.c", "int main;\n");
    let archive = packed(&env, "hello-1.0");
    let server = Server::with("/hello-1.0.tar.gz", Answer::claiming(1 << 59, b"some"));
    server.route("/flat/hello-1.0.tar.gz", Answer::body(&content));
    let packed = fs_err::read(&archive).unwrap();
    server.route("/packed/hello-1.0.tar.gz", Answer::body(packed));
    let run = |more: &[&str]| {
        let run = prefetch(&env, &store).args(["--max-bytes", "1152921504606846976"]);
        run.args(more).arg(server.url("/hello-1.0.tar.gz"))
    };
    for unpack in [&[][..], &["--unpack", "--name", "source"]] {
        run(unpack).go().exits(7).says("not enough space");
    }
    let flat = run(&[]).arg(server.url("/flat/hello-1.0.tar.gz"));
    let flat = flat.go().exits(0).says("not enough space");
    assert_eq!(flat.stdout.lines().nth(1), Some(&*sri(&content)));
    let tree = run(&["--unpack", "--name", "source"]);
    let tree = tree.arg(server.url("/packed/hello-1.0.tar.gz"));
    let tree = tree.go().exits(0);
    let hash = crate::unpack::tree_sri(&env.path("hello-1.0"));
    assert_eq!(tree.stdout.lines().nth(1), Some(&*hash));
    assert!(names_in(&env.path("tmp")).is_empty() && env.outputs().is_empty());
}

/// A file:// URL of the command line names a file of this machine, whether its hash is known or not.
#[test]
fn files_of_this_machine_are_prefetched() {
    if lacks("files_of_this_machine_are_prefetched", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let content = noise(1, 70_000);
    let file = env.write("a folder/hello-1.0.bin", &content);
    env.write("hello-1.0/hello.c", "int main;\n");
    let archive = packed(&env, "hello-1.0");
    let url = |path: &Path| format!("file://{}", path.to_str().unwrap().replace(' ', "%20"));
    let run = |more: &[&str]| prefetch(&env, &store).args(more).arg("--offline");
    let outcome = run(&[&url(&file)]).go().exits(0);
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert!(lines[0].ends_with("-hello-1.0.bin"), "{outcome}");
    assert_eq!(fs_err::read(lines[0]).unwrap(), content);
    assert_eq!(lines[1], sri(&content));
    let outcome = run(&["--executable", "--name", "hello", &url(&file)]);
    let outcome = outcome.go().exits(0);
    assert_eq!(
        outcome.stdout.lines().nth(1),
        Some(&*nar_sri(&content, true))
    );
    let hash = crate::unpack::tree_sri(&env.path("hello-1.0"));
    for known in [&[][..], &["--hash", &hash]] {
        // Another name is another item.
        let name = format!("source-{}", known.len());
        let unpack = ["--unpack", "--name", &name, &url(&archive)];
        let outcome = run(&unpack).args(known).go().exits(0);
        let lines: Vec<_> = outcome.stdout.lines().collect();
        assert_eq!(lines[1], hash);
        let hello = fs_err::read(format!("{}/hello.c", lines[0])).unwrap();
        assert_eq!(hello, b"int main;\n");
    }
    // What is no archive, or not there, is passed over; of the network nothing is asked.
    let server = Server::with("/hello", Answer::body("hello"));
    let missing = url(&env.path("missing"));
    let unpack = ["--unpack", "--name", "again"];
    let tried = run(&unpack).args([&missing, &url(&file), &server.url("/x.tar"), &url(&archive)]);
    assert_eq!(tried.go().exits(0).stdout.lines().nth(1), Some(&*hash));
    let tried = run(&[]).args([&missing, &server.url("/hello"), &url(&file)]);
    assert_eq!(
        tried.go().exits(0).stdout.lines().nth(1),
        Some(&*sri(&content))
    );
    run(&[&missing]).go().exits(3);
    run(&unpack).arg(&missing).go().exits(3);
    assert_eq!(server.connections(), 0);
    assert!(names_in(&env.path("tmp")).is_empty() && env.outputs().is_empty());
}

/// Packs a folder of the test.
fn packed(env: &TestEnv, folder: &str) -> std::path::PathBuf {
    let archive = env.path(format!("{folder}.tar.gz"));
    let packed = Command::new("tar")
        .args(["-C", env.path("").to_str().unwrap(), "-czf"])
        .args([&archive, Path::new(folder)])
        .status();
    assert!(packed.unwrap().success());
    archive
}

#[test]
fn what_is_here_under_another_name_is_not_downloaded() {
    if lacks("prefetch from the store", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let content = noise(2, 5000);
    let other = store.add_fixed("sha256", false, &env.write("other-name", &content));
    let server = Server::start();
    let url = server.url("/hello.tar.gz");
    let run = || prefetch(&env, &store).args(["--hash", &sri(&content), &url]);
    let report = run().json(0);
    assert_eq!(report.kind(), "store");
    assert_eq!(Path::new(report.location()), other);
    let path = report.object["path"].as_str().unwrap().to_owned();
    assert!(path.ends_with("-hello.tar.gz"), "{path}");
    assert_eq!(report.object["present"], false);
    assert_eq!(report.object["hashes"]["sri"], report.object["hash"]);
    for key in [
        "version", "path", "name", "method", "hash", "hashes", "present", "bytes", "source",
        "attempts", "ms", "error",
    ] {
        assert!(report.object.get(key).is_some(), "{key}");
    }
    // Once more: it is there, and nothing is looked for.
    let report = run().json(0);
    assert_eq!(report.object["present"], true);
    assert_eq!(report.object["path"], path);
    assert!(report.attempts().is_empty());
    assert_eq!(server.connections(), 0);
    assert_eq!(
        build(&env, &store, "hello.tar.gz", &url, &sri(&content), "flat"),
        path
    );
    assert_eq!(server.connections(), 0);
}

#[test]
fn what_merely_lies_in_the_store_is_not_taken_for_valid() {
    if lacks("prefetch beside a leftover", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let content = noise(3, 500);
    let server = Server::with("/a", Answer::body(&content));
    // As a build leaves it that was killed.
    let path = store.nix(
        "nix-store",
        &["--print-fixed-path", "sha256", &sri(&content)[7..], "a"],
    );
    fs_err::write(&path, "half").unwrap();
    let run = || prefetch(&env, &store).args(["--hash", &sri(&content), &server.url("/a")]);
    let outcome = run().go().exits(0);
    assert_eq!(outcome.stdout.lines().next(), Some(&*path));
    assert_eq!(fs_err::read(&path).unwrap(), content);
    store.nix("nix-store", &["--check-validity", &path]);
}

#[test]
fn names_algorithms_and_the_executable_bit() {
    if lacks("prefetch of other kinds", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let content = noise(4, 3000);
    let server = Server::with("/run%20me", Answer::body(&content));
    let url = server.url("/run%20me");
    prefetch(&env, &store)
        .arg(&url)
        .go()
        .exits(2)
        .says("--name");
    prefetch(&env, &store)
        .args([&*url, "--name", ".-a"])
        .go()
        .exits(2)
        .says("--name");
    assert_eq!(server.connections(), 0);
    let outcome = prefetch(&env, &store)
        .args([&*url, "--name", "run-me", "--executable"])
        .go()
        .exits(0);
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines[1], nar_sri(&content, true));
    let mode = fs_err::metadata(lines[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0o111);
    assert_eq!(
        build(
            &env,
            &store,
            "run-me",
            "http://127.0.0.1:1/",
            lines[1],
            "recursive"
        ),
        lines[0]
    );
    let outcome = prefetch(&env, &store)
        .args([&*url, "--name=-dash", "--hash-algo", "sha512"])
        .go()
        .exits(0);
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert!(lines[1].starts_with("sha512-"));
    assert_eq!(
        build(
            &env,
            &store,
            "-dash",
            "http://127.0.0.1:1/",
            lines[1],
            "flat"
        ),
        lines[0]
    );
}

#[test]
fn a_tree_of_this_machine() {
    if lacks("prefetch of a tree", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    env.write("some/tree/file", "content\n");
    fs_err::create_dir(env.path("some/tree/empty")).unwrap();
    let hash = store.nar_hash(&env.path("some/tree"));
    let other = store.add(&env.path("some/tree"));
    let outcome = prefetch(&env, &store)
        .args([
            "--offline",
            "--mode",
            "nar",
            "--name",
            "source",
            "--hash",
            &hash,
        ])
        .go()
        .exits(0);
    let path = outcome.stdout.lines().next().unwrap();
    assert_ne!(Path::new(path), other);
    assert_eq!(store.nar_hash(Path::new(path)), hash);
    store.nix("nix-store", &["--check-validity", path]);
}

#[test]
fn add_adds_the_output_under_its_name_in_the_store() {
    if lacks("fetch --add", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let content = noise(5, 3000);
    let server = Server::with("/hello.tar.gz", Answer::body(&content));
    let url = server.url("/hello.tar.gz");
    let fetch = || {
        env.fetch(["--no-media", "--add", "--hash", &sri(&content), &url])
            .with_nix(&store)
    };
    let outcome = fetch().args(["-o", "elsewhere"]).go().exits(0);
    assert_eq!(
        outcome.stdout,
        format!("{}\n", env.out("elsewhere").display())
    );
    assert_eq!(env.output("elsewhere"), content);
    let path = store.nix(
        "nix-store",
        &[
            "--print-fixed-path",
            "sha256",
            &sri(&content)[7..],
            "hello.tar.gz",
        ],
    );
    let mut said = format!("fetch: added to the store: {path}\n");
    let prefetched = env
        .fetch(["prefetch", "--no-media", "--hash", &sri(&content), &url])
        .with_nix(&store)
        .json(0);
    assert_eq!(prefetched.object["path"], path);
    for form in ["sri", "hex", "nix32", "base64"] {
        let hash = prefetched.object["hashes"][form].as_str().unwrap();
        said.push_str(&format!("fetch: {form}: {hash}\n"));
    }
    outcome.says(&said);
    assert_eq!(fs_err::read(&path).unwrap(), content);
    store.nix("nix-store", &["--check-validity", &path]);
    let report = fetch().args(["-o", "elsewhere"]).json(0);
    assert!(
        report.stderr.contains("the store has it"),
        "{}",
        report.stderr
    );
    for key in ["path", "hashes", "present"] {
        assert_eq!(report.object["added"][key], prefetched.object[key], "{key}");
    }
    let report = env
        .fetch_hash(sri(&content))
        .args(["-o", "elsewhere"])
        .json(0);
    assert!(report.object["added"].is_null(), "{}", report.object);
    // Trees and executable files too.
    let tree = env.write("some/tree/file", "content\n");
    fs_err::set_permissions(&tree, std::fs::Permissions::from_mode(0o755)).unwrap();
    let hash = store.nar_hash(&env.path("some/tree"));
    let other = store.add(&env.path("some/tree"));
    let outcome = env
        .fetch([
            "--no-media",
            "--offline",
            "--add",
            "--mode",
            "nar",
            "--name",
            "source",
            "-o",
            "t",
            "--hash",
            &hash,
        ])
        .with_nix(&store)
        .go()
        .exits(0);
    let added = outcome
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("fetch: added to the store: "));
    assert_ne!(Path::new(added.unwrap()), other);
    assert_eq!(store.nar_hash(Path::new(added.unwrap())), hash);
    fetch().args(["-o", "-"]).go().exits(2).says("--add");
    env.fetch(["--add", "--hash", &sri(&content), "-o", "with space"])
        .with_nix(&store)
        .go()
        .exits(2)
        .says("--name");
    assert!(names_in(&env.path("tmp")).is_empty());
}

/// `nix-prefetch-git`, as it were: the commit's tree, its hash in all forms, and the item that `fetchgit` will look for.
#[test]
fn a_commit_is_prefetched_with_and_without_a_hash() {
    let needed = [NIX, GIT].concat();
    let name = "a_commit_is_prefetched_with_and_without_a_hash";
    if lacks(name, &needed, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let leaf = Repository::bare(&env, "srv/leaf.git");
    let pinned = leaf.commit("main", &[file("b", b"b\n")]);
    let bare = Repository::bare(&env, "srv/some.git");
    let module = File {
        path: "x",
        mode: "160000",
        content: pinned.as_bytes(),
    };
    let modules = b"[submodule \"x\"]\n\tpath = x\n\turl = ../leaf.git\n";
    let commit = bare.commit("main", &[file(".gitmodules", modules), module]);
    bare.git(&["tag", "v1.0", &commit]);
    // A branch of the same name is not what git would take.
    bare.commit("v1.0", &[file("a", b"a\n")]);
    let http = HttpBackend::start(&env, "srv");
    let url = http.url("some.git");
    let (plain, whole) = (
        bare.nar_of_clone(&env, &commit),
        nar_of_recursive_clone(&env, &url, &commit),
    );
    let named = |name: &str, more: &[&str]| {
        prefetch(&env, &store)
            .args(["--git", &url, "--name", name])
            .args(more)
    };
    let run = |more: &[&str]| named("source", more);
    for (more, hash) in [
        (vec!["--rev", "v1.0"], &plain),
        (vec!["--rev", &commit, "--submodules"], &whole),
    ] {
        let outcome = run(&more).go().exits(0);
        let lines: Vec<_> = outcome.stdout.lines().collect();
        assert_eq!((lines.len(), lines[1]), (5, hash.as_str()), "{outcome}");
        let path = lines[0];
        assert!(path.ends_with("-source"), "{path}");
        assert_eq!(&nar_of(path.as_ref()), hash);
        let nix32 = store.nix("nix-hash", &["--type", "sha256", "--base32", path]);
        assert_eq!(lines[3], nix32);
        // Nix knows the item by that hash, and so does whoever states it.
        let fixed = [
            "--print-fixed-path",
            "--recursive",
            "sha256",
            &nix32,
            "source",
        ];
        assert_eq!(store.nix("nix-store", &fixed), path);
        store.nix("nix-store", &["--check-validity", path]);
        http.take_connections();
        let known = run(&more).args(["--hash", hash]).json(0);
        assert_eq!(known.object["present"], true);
        assert_eq!(known.object["path"], path);
        assert_eq!(http.take_connections(), 0);
        // Under a name that the store has not got it is a fetch like any other.
        let other = named("other", &more).args(["--hash", hash]).json(0);
        assert_eq!(other.object["present"], false);
        assert_eq!(
            &nar_of(other.object["path"].as_str().unwrap().as_ref()),
            hash
        );
    }
    // The default is the repository's name; what is known of a run is told.
    let report = prefetch(&env, &store)
        .args(["--git", &url, "--rev", "v1.0"])
        .json(0);
    assert!(report.object["path"].as_str().unwrap().ends_with("-some"));
    assert_eq!((report.kind(), report.location()), ("git", url.as_str()));
    assert_eq!(report.object["method"], "nar");
    // A repository of this machine, and no network.
    let local = format!("file://{}", bare.path().display());
    let outcome = prefetch(&env, &store)
        .args(["--offline", "--git", &local, "--rev", &commit])
        .go()
        .exits(0);
    assert_eq!(outcome.stdout.lines().nth(1), Some(plain.as_str()));
    for (args, exit) in [
        (["--git", &url, "--rev", "v2.0"], 3),
        (["--git", &http.url("none.git"), "--rev", "v1.0"], 3),
        (["--git", "http://127.0.0.1:1/x.git", "--rev", "v1.0"], 5),
        (["--git", "ftp://127.0.0.1:1/x.git", "--rev", "v1.0"], 2),
    ] {
        prefetch(&env, &store).args(args).go().exits(exit);
    }
    run(&["--rev", "v1.0", "--offline"]).go().exits(2);
    assert!(names_in(&env.path("tmp")).is_empty() && env.outputs().is_empty());
}

#[test]
fn what_cannot_be_done_is_said_before_a_download() {
    let env = TestEnv::new();
    let content = noise(6, 10);
    let server = Server::with("/a", Answer::body(&content));
    let url = server.url("/a");
    let prefetch = || env.fetch(["prefetch", &url]);
    prefetch().arg("--offline").go().exits(2).says("--hash");
    env.fetch(["prefetch"]).go().exits(2).says("--name");
    env.fetch(["prefetch", "--name", "a"])
        .go()
        .exits(2)
        .says("neither a hash nor a URL");
    prefetch().args(["--hash", "sha256-"]).go().exits(2);
    // A store that is mounted somewhere else has its daemon somewhere else.
    let elsewhere = format!("/nix/store={}", env.path("out").display());
    prefetch()
        .args(["--store", &elsewhere])
        .go()
        .exits(2)
        .says("nothing can be added");
    // No tool, no store.
    let report = prefetch()
        .args([
            "--store",
            env.path("out").to_str().unwrap(),
            "--hash",
            &sri(&content),
        ])
        .variable("PATH", env.path("home"))
        .json(7);
    assert_eq!(report.error(), "local");
    assert!(report.stderr.contains("nix-store"), "{}", report.stderr);
    let git = "swh:1:cnt:ce013625030ba8dba906f756967f9e9ca394464a";
    prefetch()
        .args(["--store", env.path("out").to_str().unwrap(), "--hash", git])
        .go()
        .exits(2)
        .says("--mode nar");
    assert_eq!(server.connections(), 0);
}

#[test]
fn another_store_than_the_tools_is_noticed() {
    if lacks("prefetch into another store", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let content = noise(7, 10);
    let server = Server::with("/a", Answer::body(&content));
    fs_err::create_dir(env.path("another")).unwrap();
    for hash in [Some(sri(&content)), None] {
        let mut run = prefetch(&env, &store)
            .arg("--store")
            .arg(env.path("another"))
            .arg(server.url("/a"));
        if let Some(hash) = hash {
            run = run.args(["--hash", &hash]);
        }
        run.go().exits(7).says("another");
    }
    assert!(names_in(&env.path("another")).is_empty());
}

#[test]
fn downloads_that_fail_have_the_codes_of_a_fetch() {
    if lacks("prefetch that fails", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let server = Server::start();
    server.route("/short", Answer::claiming(10, "hello\n"));
    server.route("/broken", Answer::status(500, "sorry"));
    server.route("/right", Answer::body("hello\n"));
    let prefetch = |paths: &[&str]| {
        let urls = paths.iter().map(|path| server.url(path));
        prefetch(&env, &store).args(["--name", "a"]).args(urls)
    };
    prefetch(&["/none"]).go().exits(3).says("404");
    prefetch(&["/none", "/broken"]).go().exits(5).says("500");
    prefetch(&["/short", "/none"]).go().exits(5);
    env.fetch(["prefetch", "gopher://h/a"])
        .with_nix(&store)
        .go()
        .exits(2);
    // What a broken download left is not part of the next.
    let report = prefetch(&["/none", "/short", "/right"]).json(0);
    report
        .tried("url", "absent", "/none")
        .tried("url", "failed", "/short")
        .tried("url", "ok", "/right");
    assert_eq!(report.object["hash"], sri(b"hello\n"));
    // With a hash it is a fetch.
    let wrong = prefetch(&["/right"]).args(["--hash", &sri(b"other")]);
    wrong.go().exits(4).says("hash mismatch");
    assert!(names_in(&env.path("tmp")).is_empty());
}

/// A `guix` that knows `guix repl -q -- SCRIPT ARGUMENT...` and has the store's rules from Nix's tools, whose store is
/// at the same place. It writes down how it was called.
pub(crate) const STAND_IN: &str = r#"#!/bin/sh
printf '%s\n' "$*" >>"$GUIX_LOG"
[ "$1 $2 $3" = "repl -q --" ] || exit 9
grep -q add-to-store "$4" && grep -q 'valid-path?' "$4" || exit 8
shift 4
case "$1" in
missing) shift; exec nix-store --check-validity --print-invalid "$@" ;;
add)
    [ "$(basename "$5")" = "$2" ] || exit 7
    case "$3" in
    nar) exec nix-store --add-fixed --recursive "$4" "$5" ;;
    flat) exec nix-store --add-fixed "$4" "$5" ;;
    esac ;;
esac
exit 6
"#;

#[test]
fn guix_adds_to_its_own_store() {
    if lacks("prefetch for Guix", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::at(&env, "gnu");
    let guix = env.write("bin/guix-of-root", STAND_IN);
    fs_err::set_permissions(&guix, std::fs::Permissions::from_mode(0o755)).unwrap();
    let log = env.path("log");
    let content = noise(8, 100);
    let server = Server::with("/hello.tar.gz", Answer::body(&content));
    let url = server.url("/hello.tar.gz");
    let prefetch = || prefetch(&env, &store).variable("GUIX_LOG", &log).arg(&url);
    // By the variable, and by the configuration.
    let outcome = prefetch().variable("FETCH_GUIX", &guix).go().exits(0);
    let path = outcome.stdout.lines().next().unwrap().to_owned();
    assert_eq!(fs_err::read(&path).unwrap(), content);
    assert!(
        path.contains("/gnu/store/") && path.ends_with("-hello.tar.gz"),
        "{path}"
    );
    let calls = fs_err::read_to_string(&log).unwrap();
    assert!(calls.contains(" add hello.tar.gz flat sha256 "), "{calls}");
    env.write(
        "config/fetch/fetch.toml",
        format!("guix = '{}'\n", guix.display()),
    );
    let report = prefetch().args(["--hash", &sri(&content)]).json(0);
    assert_eq!(report.object["present"], true);
    let report = prefetch()
        .args(["--executable", "--hash", &nar_sri(&content, true)])
        .json(0);
    assert_eq!(report.object["present"], false);
    let calls = fs_err::read_to_string(&log).unwrap();
    assert!(calls.contains(" add hello.tar.gz nar sha256 "), "{calls}");
    // What the tool says is repeated, and what it did not do is no success.
    let broken = env.write("bin/broken", "#!/bin/sh\necho 'no daemon' >&2\nexit 1\n");
    fs_err::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).unwrap();
    prefetch()
        .variable("FETCH_GUIX", &broken)
        .go()
        .exits(7)
        .says("no daemon");
    let liar = env.write("bin/liar", "#!/bin/sh\necho /gnu/store/elsewhere\n");
    fs_err::set_permissions(&liar, std::fs::Permissions::from_mode(0o755)).unwrap();
    prefetch()
        .variable("FETCH_GUIX", &liar)
        .go()
        .exits(7)
        .says("/gnu/store/elsewhere");
    assert!(names_in(&env.path("tmp")).is_empty());
}

/// A `nix-daemon` on a store; it ends with the test.
struct Daemon(std::process::Child);

impl Daemon {
    fn start(store: &NixStore) -> Self {
        use std::os::unix::process::CommandExt as _;
        // Its own store by its own hands, and a limit: one that takes itself for its daemon forks without end.
        let child = std::process::Command::new("timeout")
            .args(["--kill-after=1", "60", "nix-daemon"])
            .envs(store.variables())
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let socket = store.root().join("var/nix/daemon-socket/socket");
        crate::support::wait_until("the daemon listens", || socket.exists());
        Self(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        drop(self.0.wait());
    }
}

#[test]
fn an_ordinary_user_fills_the_store_through_the_daemon() {
    let needed = [NIX, &["nix-daemon", "setpriv"]].concat();
    if lacks("prefetch through a daemon", &needed, true) {
        return;
    }
    let env = TestEnv::new();
    env.open_to_everybody();
    let store = NixStore::new(&env);
    let daemon = Daemon::start(&store);
    let content = noise(9, 5000);
    let server = Server::with("/hello.tar.gz", Answer::body(&content));
    let run = |args: &[&str]| {
        let run = env.fetch(args).with_nix(&store).by_nobody();
        run.variable("NIX_REMOTE", "daemon").go()
    };
    let url = server.url("/hello.tar.gz");
    let outcome = run(&["prefetch", "--no-media", &url]).exits(0);
    let path = outcome.stdout.lines().next().unwrap().to_owned();
    assert_eq!(fs_err::read(&path).unwrap(), content);
    // From one name to another, by the words of a derivation.
    let expression = format!(
        r#"derivation {{ name = "other"; system = "builtin"; builder = "builtin:fetchurl";
            url = "http://127.0.0.1:1/other"; outputHash = "{}"; outputHashMode = "flat"; }}"#,
        sri(&content)
    );
    let file = env.write("other.nix", expression);
    let drv = store.nix("nix-instantiate", &[file.to_str().unwrap()]);
    let drv = drv.lines().last().unwrap();
    let outcome = run(&["add-fixed", "--no-media", drv]).exits(0);
    assert!(
        outcome.stdout.contains(&format!("from {path}")),
        "{outcome}"
    );
    store.nix("nix-store", &["--realise", drv]);
    assert_eq!(server.requests().len(), 1);
    drop(daemon);
    // Without the daemon there is no way in, and no harm.
    let outcome = run(&["prefetch", "--no-media", "--name", "third", &url]).exits(7);
    drop(outcome.says("nix-store could not do it"));
}

/// A configuration speaks of what is often there, and the environment of what is there now.
#[test]
fn a_configured_store_that_is_absent_or_elsewhere_is_passed_over() {
    if lacks("a_configured_store_that_is_absent", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let content = noise(9, 50);
    let server = Server::with("/a", Answer::body(&content));
    env.write(
        "config/fetch/fetch.toml",
        format!(
            "stores = ['/absent/store', '/nix/store={}', '{}']\n",
            env.path("out").display(),
            env.path("tmp").display()
        ),
    );
    let outcome = prefetch(&env, &store).arg(server.url("/a")).go().exits(0);
    let path = Path::new(outcome.stdout.lines().next().unwrap());
    assert_eq!(path.parent(), Some(&*store.dir()), "{outcome}");
    // Named on the command line, one at home counts, whichever it is.
    let elsewhere = format!("/nix/store={}", env.path("out").display());
    let outcome = prefetch(&env, &store)
        .args(["--store", &elsewhere, "--store"])
        .arg(store.dir())
        .arg(server.url("/a"))
        .go()
        .exits(0);
    assert_eq!(Path::new(outcome.stdout.lines().next().unwrap()), path);
}

/// A signal of the terminal reaches the store's tool too, whose end is then no trouble of this machine.
#[test]
fn an_interruption_while_the_store_is_asked_is_one() {
    let env = TestEnv::new();
    let content = noise(10, 50);
    env.write("folder/hello", &content);
    let asked = env.path("tmp/asked");
    let tool = env.write(
        "tools/nix-store",
        format!("#!/bin/sh\n: >'{}'\nexec sleep 60\n", asked.display()),
    );
    fs_err::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        env.path("tools").display(),
        std::env::var("PATH").unwrap()
    );
    let fetch = env
        .fetch(["--offline", "--no-store", "--add", "--name", "hello"])
        .args(["--hash", &sri(&content), "-o", "hello", "--media"])
        .arg(env.path("folder"));
    let prefetch = env
        .fetch(["prefetch", "--offline", "--name", "hello"])
        .args(["--hash", &sri(&content)]);
    for run in [fetch, prefetch] {
        drop(fs_err::remove_file(&asked));
        let mut running = run
            .variable("PATH", &path)
            .variable("NIX_STORE_DIR", env.path("out"))
            .start();
        while !asked.exists() {
            assert!(running.is_running(), "{}", running.wait());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        running.signal(rustix::process::Signal::INT);
        running.wait().exits(130);
    }
}
