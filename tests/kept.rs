//! What is kept for later on request: wrong bodies for a look, copies of what was downloaded; and trees that were
//! delivered and still lie there.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use store_index::digest::Algorithm;

use crate::support::server::{Answer, Server};
use crate::support::{Run, TestEnv, digest, mode, names_in, nar_sri, noise, portrait, sri};

/// Packs a tree with the tar of this machine.
fn packed(env: &TestEnv, folder: &str) -> Vec<u8> {
    let output = std::process::Command::new("tar")
        .args(["-C", env.path("").to_str().unwrap(), "-cf", "-", folder])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn tree_sri(env: &TestEnv, folder: &str) -> String {
    crate::unpack::tree_sri(&env.path(folder))
}

fn hex(body: &[u8]) -> String {
    digest(Algorithm::Sha256, body).to_hex()
}

/// What programs are told by `fetch cache`, and what is said of a folder that is not used.
#[test]
fn each_command_of_the_cache_speaks_json() {
    let env = TestEnv::new();
    let server = Server::with("/hello", Answer::body("hello\n"));
    let run = env.fetch_hash(sri(b"hello\n")).arg("--keep-copies");
    run.arg(server.url("/hello")).go().exits(0);
    let cache = |words: &[&str], code| {
        let run = env.fetch(["cache"]).args(words);
        run.json(code).object
    };
    assert_eq!(cache(&["status"], 0)["deliveries"], 1);
    let checked = cache(&["verify"], 0);
    assert_eq!(
        (&checked["deliveries"], &checked["copies"]),
        (&1.into(), &1.into())
    );
    let copies = env.path("cache/fetch/copies");
    let copy = copies.join(&names_in(&copies)[0]);
    fs_err::write(copy.join("content"), "other\n").unwrap();
    let checked = cache(&["verify"], 1);
    assert_eq!(checked["damaged"][0], copy.to_str().unwrap());
    fs_err::remove_file(env.out("hello")).unwrap();
    let gone = cache(&["gc"], 0);
    assert_eq!(
        (&gone["deliveries"], &gone["copies"]),
        (&1.into(), &0.into())
    );
    assert_eq!(cache(&["forget"], 0)["version"], 1);

    let folder = env.path("cache/fetch");
    fs_err::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    env.fetch(["cache", "status"])
        .go()
        .exits(0)
        .says("is not used: it is open to others");
}

#[test]
fn a_wrong_body_is_kept_on_request() {
    let env = TestEnv::new();
    let page = "<html>please log in";
    let server = Server::with("/hello-1.0.tar.gz", Answer::body(page));
    let wrong = env.path("wrong");
    let fetch = || {
        env.fetch_hash(sri(b"hello\n"))
            .arg(server.url("/hello-1.0.tar.gz"))
            .arg("--keep-wrong")
            .arg(&wrong)
            .umask(0o022)
    };
    let file = wrong.join(format!("{}-hello-1.0.tar.gz", hex(page.as_bytes())));
    let told = format!(
        "{} ({} bytes, {})",
        file.display(),
        page.len(),
        sri(page.as_bytes())
    );
    fetch().go().exits(4).says(&format!("kept:   {told}"));
    assert_eq!(fs_err::read(&file).unwrap(), page.as_bytes());
    assert_eq!((mode(&wrong), mode(&file)), (0o700, 0o600));
    let report = fetch().json(4);
    let reason = report.object["attempts"][0]["reason"].as_str().unwrap();
    assert!(reason.ends_with(&format!("kept as {told}")), "{reason}");
    assert_eq!(names_in(&wrong).len(), 1, "the same lies there once");

    // Nothing is replaced, whatever it is, and a link leads nowhere.
    let elsewhere = env.write("elsewhere", "mine");
    fs_err::write(&file, "changed").unwrap();
    let second = PathBuf::from(format!("{}.2", file.display()));
    symlink(&elsewhere, &second).unwrap();
    fetch().go().exits(4).says(".3 (");
    assert_eq!(fs_err::read(&file).unwrap(), b"changed");
    assert_eq!(fs_err::read(&elsewhere).unwrap(), b"mine");
    let third = format!("{}.3", file.display());
    assert_eq!(fs_err::read(third).unwrap(), page.as_bytes());
    assert_eq!(names_in(&wrong).len(), 3);
    assert!(env.outputs().is_empty());

    // Neither what broke off nor what is right is kept.
    server.route("/hello-1.0.tar.gz", Answer::claiming(100, "short"));
    let before = portrait(&wrong);
    fetch().args(["--retry-budget", "0"]).go().exits(5);
    server.route("/hello-1.0.tar.gz", Answer::body("hello\n"));
    fetch().go().exits(0);
    assert_eq!(portrait(&wrong), before);
}

#[test]
fn a_wrong_archive_is_kept_as_it_came() {
    let env = TestEnv::new();
    env.write("tree/file", "other");
    let archive = packed(&env, "tree");
    let server = Server::with("/x.tar", Answer::body(&archive));
    env.fetch_hash(nar_sri(b"nothing", false))
        .args(["--unpack", &server.url("/x.tar")])
        .variable("FETCH_KEEP_WRONG", env.path("wrong"))
        .go()
        .exits(4);
    let name = format!("{}-x.tar", hex(&archive));
    assert_eq!(names_in(&env.path("wrong")), [name.as_str()]);
    assert!(fs_err::read(env.path("wrong").join(name)).unwrap() == archive);
}

/// Where it cannot be kept, that is said, and changes nothing.
#[test]
fn a_folder_that_cannot_be_made_is_said() {
    let env = TestEnv::new();
    let server = Server::with("/x", Answer::body("wrong"));
    env.fetch_hash(sri(b"hello\n"))
        .arg(server.url("/x"))
        .args(["--keep-wrong", "/no/such/folder"])
        .go()
        .exits(4)
        .says("cannot be kept in /no/such/folder");
}

/// A world in which something was downloaded, and a copy kept.
struct Kept {
    env: TestEnv,
    server: Server,
    body: Vec<u8>,
}

impl Kept {
    fn new() -> Self {
        let kept = Self {
            env: TestEnv::new(),
            server: Server::start(),
            body: noise(1, 300_000),
        };
        let answer = Answer::body(&kept.body);
        kept.server.route("/hello-1.0.tar.gz", answer);
        kept
    }

    fn fetch(&self) -> Run<'_> {
        self.fetch_as("/hello-1.0.tar.gz")
    }

    fn fetch_as(&self, path: &str) -> Run<'_> {
        drop(fs_err::remove_file(self.env.out("out")));
        self.env
            .fetch_hash(sri(&self.body))
            .args(["-o", "out"])
            .arg(self.server.url(path))
    }

    fn folder(&self) -> PathBuf {
        let name = format!("sha256-flat-{}", hex(&self.body));
        self.env.path("cache/fetch/copies").join(name)
    }

    fn copies(&self) -> Vec<String> {
        match self.env.path("cache/fetch/copies") {
            folder if folder.exists() => names_in(&folder),
            _ => Vec::new(),
        }
    }

    /// Says that the copy was used so many days ago.
    fn unused_for_days(&self, days: u64) {
        let about = fs_err::File::open(self.folder().join("about.json")).unwrap();
        let used = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
        about.file().set_modified(used).unwrap();
    }
}

/// A kept copy serves when the output has gone, under its own name, and nobody else may read it.
#[test]
fn a_copy_serves_when_the_output_has_gone() {
    let kept = Kept::new();
    kept.fetch().go().exits(0);
    assert_eq!(kept.copies(), [""; 0], "nobody asked for one");
    kept.fetch().arg("--keep-copies").json(0);
    assert_eq!(kept.copies().len(), 1);
    assert_eq!(mode(&kept.env.path("cache/fetch/copies")), 0o700);
    let report = kept.fetch().arg("--offline").json(0);
    let content = kept.folder().join("content");
    report.tried("ledger", "ok", content.to_str().unwrap());
    assert!(kept.env.output("out") == kept.body);
    assert_eq!(kept.server.requests().len(), 2);
    // The output that came of it is an earlier output now, and asked first.
    let again = kept.env.fetch_hash(sri(&kept.body));
    let again = again.args(["-o", "again", "--offline"]).json(0);
    assert_eq!(again.location(), kept.env.out("out").to_str().unwrap());
    // Nobody who wants no local source gets one; and the hash of another version may be stale.
    fs_err::remove_file(kept.env.out("again")).unwrap();
    assert_eq!(kept.fetch().arg("--no-local").json(0).kind(), "url");
    let stale = kept.fetch_as("/hello-2.0.tar.gz").go().exits(3);
    stale.says("stale hash?");
    // What others can change is no copy of ours.
    fs_err::set_permissions(kept.env.path("cache/fetch"), Permissions::from_mode(0o755)).unwrap();
    let unused = kept.fetch().arg("--offline").json(3);
    assert_eq!(unused.error(), "not-found");
}

#[test]
fn the_configuration_asks_for_copies() {
    let kept = Kept::new();
    kept.env
        .write("config/fetch/fetch.toml", "[copies]\nkeep = true\n");
    kept.fetch()
        .variable("FETCH_KEEP_COPIES", "0")
        .go()
        .exits(0);
    assert_eq!(kept.copies(), [""; 0]);
    kept.fetch().go().exits(0);
    assert_eq!(kept.copies().len(), 1);
    // Within the bounds that are configured: the next one takes the place of this one.
    let bounds = "[copies]\nkeep = true\nmax_bytes = 400000\n";
    kept.env.write("config/fetch/fetch.toml", bounds);
    kept.unused_for_days(1);
    let other = noise(2, 200_000);
    kept.server.route("/other", Answer::body(&other));
    let fetch = kept.env.fetch_hash(sri(&other));
    fetch.arg(kept.server.url("/other")).go().exits(0);
    assert_eq!(kept.copies(), [format!("sha256-flat-{}", hex(&other))]);
}

/// A copy that is damaged is removed, and said to be; the content comes from elsewhere, and is kept anew.
#[test]
fn a_damaged_copy_is_removed() {
    let kept = Kept::new();
    kept.fetch().arg("--keep-copies").go().exits(0);
    let content = kept.folder().join("content");
    let mut bytes = kept.body.clone();
    bytes[1000] ^= 1;
    fs_err::write(&content, &bytes).unwrap();
    let report = kept.fetch().json(0);
    assert_eq!(report.kind(), "url");
    report.tried("ledger", "mismatch", content.to_str().unwrap());
    let words = "was damaged, and is removed";
    assert!(report.stderr.contains(words), "{}", report.stderr);
    assert_eq!(kept.copies(), [""; 0]);
    // So do those that have lost their record, or were cut.
    for damage in ["about.json", "content"] {
        kept.fetch().arg("--keep-copies").go().exits(0);
        fs_err::write(kept.folder().join(damage), "{").unwrap();
        assert_eq!(kept.fetch().arg("--keep-copies").json(0).kind(), "url");
        let report = kept.fetch().arg("--offline").json(0);
        assert_eq!(report.kind(), "ledger", "{damage}");
    }
    fs_err::write(&content, &bytes).unwrap();
    let verified = kept.env.fetch(["cache", "verify"]).go().exits(1);
    assert!(verified.stdout.contains(words), "{verified}");
    assert_eq!(kept.copies(), [""; 0]);
}

#[test]
fn copies_go_by_age_and_size_and_not_in_use() {
    let kept = Kept::new();
    kept.fetch().arg("--keep-copies").go().exits(0);
    let gc = |args: &[&str]| kept.env.fetch(["cache", "gc"]).args(args).go().exits(0);
    let status = kept.env.fetch(["cache", "status"]).json(0).object;
    assert_eq!(
        (&status["copies"], &status["copy_bytes"]),
        (&1.into(), &300_000.into())
    );
    gc(&[]);
    kept.unused_for_days(89);
    gc(&["--copies-bytes", "300000"]);
    assert_eq!(kept.copies().len(), 1);
    // A use makes it young again.
    kept.unused_for_days(89);
    kept.fetch().arg("--offline").go().exits(0);
    gc(&["--copies-days", "1"]);
    assert_eq!(kept.copies().len(), 1);
    kept.unused_for_days(91);
    let user = fs_err::File::open(kept.folder()).unwrap();
    rustix::fs::flock(user.file(), FlockOperation::LockShared).unwrap();
    for args in [&[][..], &["--all"], &["--copies-bytes", "0"]] {
        gc(args);
        assert_eq!(kept.copies().len(), 1, "it is in use");
    }
    drop(user);
    let collected = gc(&[]);
    assert!(
        collected.stdout.contains("1 kept copies (292.97 KiB)"),
        "{collected}"
    );
    assert_eq!(kept.copies(), [""; 0]);
    for too_small in [&["--copies-bytes", "299999"][..], &["--all"]] {
        kept.fetch().arg("--keep-copies").go().exits(0);
        gc(too_small);
        assert_eq!(kept.copies(), [""; 0], "{too_small:?}");
    }
    for bad in [["--copies-bytes", "many"], ["--copies-days", "-1"]] {
        kept.env.fetch(["cache", "gc"]).args(bad).go().exits(2);
    }
}

/// What a killed process left of a copy counts for nothing, and goes.
#[test]
fn half_a_copy_is_none() {
    let kept = Kept::new();
    let half = kept.env.path("cache/fetch/copies/.fetch-0123456789abcdef");
    fs_err::create_dir_all(&half).unwrap();
    fs_err::set_permissions(kept.env.path("cache/fetch"), Permissions::from_mode(0o700)).unwrap();
    fs_err::write(half.join("content"), &kept.body).unwrap();
    // And one that was being removed.
    fs_err::create_dir_all(kept.folder()).unwrap();
    fs_err::write(kept.folder().join("content"), "half").unwrap();
    assert_eq!(kept.fetch().arg("--keep-copies").json(0).kind(), "url");
    assert_eq!(kept.copies().len(), 1);
    assert_eq!(names_in(&kept.folder()), ["about.json", "content"]);
    assert_eq!(kept.fetch().arg("--offline").json(0).kind(), "ledger");
}

#[test]
fn a_tree_is_kept_as_a_tree() {
    let env = TestEnv::new();
    env.write("tree/sub/file", "content\n");
    env.write("tree/run", "#!/bin/sh\n");
    fs_err::set_permissions(env.path("tree/run"), Permissions::from_mode(0o755)).unwrap();
    symlink("run", env.path("tree/link")).unwrap();
    let wanted = tree_sri(&env, "tree");
    let server = Server::with("/x.tar", Answer::body(packed(&env, "tree")));
    let fetch = || {
        env.fetch_hash(&wanted)
            .args(["--unpack", "-o", "out", "--keep-copies"])
            .arg(server.url("/x.tar"))
    };
    fetch().go().exits(0);
    fs_err::remove_dir_all(env.out("out")).unwrap();
    let report = fetch().arg("--offline").json(0);
    report.tried("ledger", "ok", "/copies/sha256-nar-");
    assert_eq!(tree_sri(&env, "out/out"), wanted);
    let sound = env.fetch(["cache", "verify"]).go().exits(0);
    assert!(sound.stdout.contains("1 kept copies"), "{sound}");
    let copies = env.path("cache/fetch/copies");
    let copy = copies.join(&names_in(&copies)[0]);
    fs_err::write(copy.join("content/sub/file"), "damaged\n").unwrap();
    fs_err::remove_dir_all(env.out("out")).unwrap();
    assert_eq!(fetch().json(0).kind(), "url");
    fs_err::remove_dir_all(env.out("out")).unwrap();
    assert_eq!(fetch().arg("--offline").json(0).kind(), "ledger");
}

/// A tree that was delivered serves the next request, as long as it is what it was.
#[test]
fn an_earlier_tree_is_a_source() {
    let env = TestEnv::new();
    env.write("tree/sub/file", "content\n");
    let wanted = tree_sri(&env, "tree");
    let server = Server::with("/x-1.0.tar", Answer::body(packed(&env, "tree")));
    let fetch = |output: &str| {
        env.fetch_hash(&wanted)
            .args(["--unpack", "-o", output])
            .arg(server.url("/x-1.0.tar"))
    };
    let earlier = || env.fetch(["cache", "status"]).json(0).object["deliveries"].clone();
    fetch("first").go().exits(0);
    let second = fetch("second").arg("--offline").json(0);
    assert_eq!(second.kind(), "ledger");
    assert_eq!(second.location(), env.out("first").to_str().unwrap());
    assert_eq!(tree_sri(&env, "out/second"), wanted);
    assert_eq!(earlier(), 2);
    // Its root does not show what has changed below: that is found out, and forgotten.
    fs_err::write(env.out("second/sub/file"), "changed\n").unwrap();
    fs_err::rename(env.out("first"), env.out("moved")).unwrap();
    let third = fetch("third").json(0);
    assert_eq!(third.kind(), "url");
    third.tried("ledger", "mismatch", "/out/second");
    assert_eq!(earlier(), 1, "the new one alone");
    let fourth = fetch("fourth").json(0);
    assert_eq!(fourth.location(), env.out("third").to_str().unwrap());
    // A name of its root more or less is seen at once.
    for output in ["third", "fourth"] {
        fs_err::write(env.out(output).join("more"), "").unwrap();
    }
    let fifth = fetch("fifth").json(0);
    assert_eq!(fifth.kind(), "url");
    fifth.tried("ledger", "absent", "earlier downloads");
    let checked = env.fetch(["cache", "verify"]).go().exits(0);
    assert!(
        checked
            .stdout
            .contains("1 earlier downloads are what they were"),
        "{checked}"
    );
}
