//! What is asked without being named, and what is not: repositories on discs, discs that are elsewhere, servers that
//! are dead.

use std::io::Write as _;
use std::process::{Child, ChildStdin, Stdio};

use super::*;
use crate::support::git::{GIT, Repository, file, nar_of};
use crate::support::server::{Answer, Server};

#[test]
fn a_repository_on_a_disc_that_nobody_named_has_the_commit() {
    let test = "a_repository_on_a_disc_that_nobody_named_has_the_commit";
    if lacks(test, &ISO_TOOLS, true) || lacks(test, GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "tree/git/some.git");
    let commit = bare.commit("main", &[file("a", b"a\n"), file("b/c", b"c\n")]);
    let tree = bare.git(&["rev-parse", &format!("{commit}^{{tree}}")]);
    let hash = bare.nar_of_clone(&env, &commit);
    // An alternate that leads from the disc to a folder of this machine, where the second commit is.
    let secret = Repository::bare(&env, "secret.git");
    let elsewhere = secret.commit("main", &[file("secret", b"secret\n")]);
    let secret_hash = secret.nar_of_clone(&env, &elsewhere);
    let alternates = format!("{}\n", text(&secret.path().join("objects")));
    env.write("tree/git/some.git/objects/info/alternates", alternates);
    make_iso(&env.path("tree"), &env.path("disc.iso"));
    let disc = Mounted::iso(&env.path("disc.iso"), &env.path("disc"));

    let url = "https://git.example.org/some.git";
    let fetch = |options: &[&str], revision: &str, hash: &str| {
        let output = env.out("out");
        if output.exists() {
            fs_err::remove_dir_all(&output).unwrap();
        }
        env.fetch(["--no-store", "--offline", "-o", "out", "--hash", hash])
            .args(["--git", url, "--rev", revision])
            .args(options)
    };
    let report = fetch(&[], &commit, &hash).json(0);
    assert_eq!(report.kind(), "directories");
    assert!(report.location().ends_with("disc/git/some.git"));
    assert_eq!(nar_of(&env.out("out")), hash);
    // A branch of that name may be in any repository.
    fetch(&[], "main", &hash).json(3);
    fetch(&["--no-media"], &commit, &hash).json(3);
    // It leads nowhere else, though what it leads to may be named and asked itself.
    let report = fetch(&[], &elsewhere, &secret_hash).json(3);
    report.tried("directories", "unavailable", "disc");
    let report = fetch(&["--media", text(secret.path())], &elsewhere, &secret_hash).json(0);
    report.tried("directories", "ok", "secret.git");

    fs_err::remove_dir_all(env.out("out")).unwrap();
    let report = env
        .fetch([
            "--no-store",
            "--offline",
            "-o",
            "out",
            "--mode",
            "git",
            "--hash",
            &tree,
        ])
        .json(0);
    assert!(report.location().ends_with("disc/git/some.git"));
    disc.take_out();
}

#[test]
fn an_absent_disc_is_named_where_the_network_fails_too() {
    let env = TestEnv::new();
    env.write("mirror/file-1.0", "on the disc\n");
    let hash = sri(b"on the disc\n");
    let done = update(&env, &env.path("mirror"), &[]);
    env.store_index([
        "media",
        "rename",
        done["id"].as_str().unwrap(),
        "The shelf",
        "--index",
    ])
    .arg(env.path("index"))
    .go()
    .exits(0);
    fs_err::rename(env.path("mirror"), env.path("gone")).unwrap();
    let fetch = |url: &str| {
        env.fetch_hash(&hash)
            .arg("--index")
            .arg(env.path("index"))
            .arg(url)
    };
    let server = Server::with("/file-1.0", Answer::hang_up());
    let report = fetch(&server.url("/file-1.0")).json(5);
    assert_eq!(report.error(), "network");
    let hint = report.object["error"]["hint"].as_str().unwrap();
    assert_eq!(hint, "insert «The shelf», and run this again");
    report.tried("media", "unavailable", "The shelf");
    fetch(&server.url("/file-1.0"))
        .go()
        .exits(5)
        .says("it is on «The shelf», which is not mounted");
    // Wrong bytes are still what they are.
    let server = Server::with("/file-1.0", Answer::body("other"));
    let report = fetch(&server.url("/file-1.0")).json(4);
    assert!(
        report.object["error"]["hint"]
            .as_str()
            .unwrap()
            .contains("«The shelf»")
    );
}

/// A network mount whose server has died: whoever asks it for anything waits until the mount goes.
struct DeadServer {
    holder: Child,
    stdin: Option<ChildStdin>,
    at: PathBuf,
}

impl DeadServer {
    /// Mounts it in the way of sshfs, with a descriptor that nobody answers on.
    fn mount(at: &Path) -> Self {
        fs_err::create_dir_all(at).unwrap();
        let script = "exec 3<>/dev/fuse && mount -i -t fuse.sshfs \
                      -o fd=3,rootmode=40000,user_id=0,group_id=0 dead:/ \"$1\" && echo mounted && read -r _";
        let mut holder = Command::new("sh")
            .args(["-c", script, "sh", text(at)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = holder.stdin.take();
        let mut line = String::new();
        let mut stdout = std::io::BufReader::new(holder.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        assert_eq!(line, "mounted\n", "mount failed");
        Self {
            holder,
            stdin,
            at: at.to_owned(),
        }
    }
}

impl Drop for DeadServer {
    fn drop(&mut self) {
        // With its descriptor goes the connection, and whoever waits gets an error.
        if let Some(mut stdin) = self.stdin.take() {
            stdin.write_all(b"\n").ok();
        }
        self.holder.wait().unwrap();
        let status = Command::new("umount").arg("-l").arg(&self.at).status();
        assert!(status.unwrap().success() || std::thread::panicking());
    }
}

impl DeadServer {
    /// Sees that it is dead indeed.
    fn is_dead(&self) {
        let status = Command::new("timeout")
            .args(["-s", "KILL", "1", "ls"])
            .arg(&self.at)
            .status();
        assert!(!status.unwrap().success());
    }
}

fn lacks_fuse(test: &str) -> bool {
    if lacks(test, &["mount", "umount", "timeout", "ls"], true) {
        return true;
    }
    if !Path::new("/dev/fuse").exists() {
        skipped(test, "needs /dev/fuse");
        return true;
    }
    false
}

#[track_caller]
fn bounded(outcome: Outcome) -> Outcome {
    assert!(outcome.took.as_secs() < 20, "{outcome}");
    outcome
}

#[test]
fn a_dead_network_mount_is_not_asked() {
    if lacks_fuse("a_dead_network_mount_is_not_asked") {
        return;
    }
    let env = TestEnv::new();
    let dead = DeadServer::mount(&env.path("server"));
    dead.is_dead();

    let missing = sri(b"nowhere");
    let fetch = ["--no-store", "--offline", "-o", "x", "--hash", &missing];
    bounded(env.fetch(fetch).go().exits(3));
    let tree = "0123456789abcdef0123456789abcdef01234567";
    bounded(
        env.fetch([
            "--no-store",
            "--offline",
            "-o",
            "x",
            "--hash",
            tree,
            "--mode",
            "git",
        ])
        .go()
        .exits(3),
    );
    bounded(env.fetch(["explain", "--no-store", &missing]).go().exits(3));
    bounded(env.store_index(["lookup", &missing]).go().exits(3));
    bounded(env.store_index(["media", "list"]).go().exits(0));
    drop(dead);
}

#[test]
fn a_dead_network_mount_below_what_was_named_is_left_out_and_told() {
    if lacks_fuse("a_dead_network_mount_below_what_was_named_is_left_out_and_told") {
        return;
    }
    let env = TestEnv::new();
    env.write("mirror/a/file-1.0", "beside the mount\n");
    env.write("mirror/b/deep/z", "behind it\n");
    let repository = Repository::bare(&env, "mirror/b/some.git");
    let commit = repository.commit("main", &[file("f", b"f\n")]);
    let nar = repository.nar_of_clone(&env, &commit);
    // At the places where one looks by name, in the way of a search, and where the id of a medium is made.
    let dead =
        ["distfiles", "b/deep/server"].map(|at| DeadServer::mount(&env.path("mirror").join(at)));
    dead.iter().for_each(DeadServer::is_dead);
    let mirror = env.path("mirror");
    let warns = |outcome: Outcome| {
        let told = outcome.stderr.matches("is not touched").count();
        assert_eq!(told, 1, "{outcome}");
        outcome.says(text(&mirror.join("distfiles")))
    };

    let fetch = |hash: &str, options: &[&str]| {
        let out = env.out("out");
        if out.is_dir() {
            fs_err::remove_dir_all(&out).unwrap();
        } else if out.exists() {
            fs_err::remove_file(&out).unwrap();
        }
        env.fetch([
            "--no-store",
            "--offline",
            "-o",
            "out",
            "--hash",
            hash,
            "--media",
        ])
        .arg(&mirror)
        .args(options)
    };
    let url = "https://example.org/file-1.0";
    let (here, missing) = (sri(b"beside the mount\n"), sri(b"nowhere"));
    let git = [
        "--git",
        "https://git.example.org/some.git",
        "--rev",
        &commit,
    ];
    warns(bounded(fetch(&here, &[url]).go().exits(0)));
    warns(bounded(fetch(&missing, &[url]).go().exits(3)));
    // Nor by a symbolic link that leads there.
    std::os::unix::fs::symlink("distfiles", mirror.join("gnu")).unwrap();
    bounded(fetch(&missing, &["mirror://gnu/hello/x"]).go().exits(3));
    bounded(fetch(&nar, &git).go().exits(0));
    bounded(
        env.fetch(["explain", "--no-store", &missing, url, "--media"])
            .arg(&mirror)
            .go()
            .exits(0),
    );

    for way in ["--media", ""] {
        let index = env.path(format!("index{way}"));
        let update = || {
            let options = ["update", "--algorithms", "nar,git", "--index", text(&index)];
            env.store_index(options)
                .args([way].iter().filter(|way| !way.is_empty()))
                .arg(&mirror)
        };
        warns(bounded(update().go().exits(0)));
        let done = update().json(0);
        let root = &done.object["roots"][0];
        assert_eq!(
            (&root["unreadable"], &root["complete"]),
            (&0.into(), &true.into()),
            "{root}"
        );
        // Trees around the mounts are another thing than what is indexed of them, those beside them are not.
        let lookup = |path: &str, code| {
            let nar = nar_of(&env.path("mirror").join(path));
            let lookup =
                env.store_index(["lookup", "--mode", "nar", &nar, "--index", text(&index)]);
            bounded(lookup.go().exits(code));
        };
        lookup("a", 0);
        lookup("a/file-1.0", 0);
        let fetched = fetch(&here, &["--name", "other", "--index", text(&index)]);
        bounded(fetched.go().exits(0));
    }
    bounded(
        env.store_index(["update", "--in-place", "--media"])
            .arg(&mirror)
            .go()
            .exits(0),
    );
    drop(dead);
}

/// What an index says of a folder on a server that has died since is told, and nobody waits.
#[test]
fn the_root_of_an_index_may_be_on_a_dead_network_mount() {
    if lacks_fuse("the_root_of_an_index_may_be_on_a_dead_network_mount") {
        return;
    }
    let env = TestEnv::new();
    env.write("shelf/file-1.0", "on the shelf\n");
    env.write("other/deep/file-1.0", "below\n");
    env.write("store/.links/x", "");
    let [shelf, other, index, store] =
        ["shelf", "other", "index", "store"].map(|name| env.path(name));
    env.store_index(["update", "--index"])
        .arg(&index)
        .args([&shelf, &other])
        .arg("--store")
        .arg(&store)
        .go()
        .exits(0);
    let dead = [shelf.clone(), other.join("deep"), store].map(|at| DeadServer::mount(&at));
    dead.iter().for_each(DeadServer::is_dead);

    let run = |command: &str, words: &[&str], code| {
        let run = env.store_index([command]).args(words);
        bounded(run.arg("--index").arg(&index).go().exits(code))
    };
    let hash = sri(b"on the shelf\n");
    let told = run("lookup", &[&hash], 0);
    assert_eq!(told.stdout, format!("{}\n", text(&shelf.join("file-1.0"))));
    assert_eq!(told.stderr.matches("is not touched").count(), 1, "{told}");
    let told = run("lookup", &[&sri(b"below\n")], 0);
    assert!(told.stdout.contains("other/deep/file-1.0"), "{told}");
    run("status", &[], 0).says("is not touched");
    run("check", &[], 0);
    // What lies below the mount cannot be compared.
    run("check", &["--content"], 1).says("is not touched");
    drop(dead);
}
