//! `store-index` as people and programs meet it: what it prints, what it leaves on disk, how it exits.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use store_index::address::FileHasher;
use store_index::address::Framing;
use store_index::digest::{Algorithm, Digest};
use store_index::links::LinkName;
use store_index::nix32;

/// A private home, and folders to index.
struct Env {
    temporary: tempfile::TempDir,
}

impl Env {
    fn new() -> Self {
        Self {
            temporary: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.temporary.path().canonicalize().unwrap().join(relative)
    }

    fn write(&self, relative: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(relative);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, content).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_store-index"));
        command
            .env_clear()
            .env("HOME", self.path("home"))
            .current_dir(self.path(""))
            .args(args);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Answer {
        Answer::of(self.command(args).output().unwrap())
    }

    fn ok(&self, args: &[&str]) -> Answer {
        let answer = self.run(args);
        assert_eq!(answer.code, 0, "{args:?}: {answer:?}");
        answer
    }

    /// Returns the paths that `lookup` finds, sorted.
    fn look_up(&self, args: &[&str]) -> Vec<String> {
        let answer = self.run(&[&["lookup", "--json"], args].concat());
        assert!([0, 3].contains(&answer.code), "{args:?}: {answer:?}");
        let mut paths: Vec<String> = answer
            .json()
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["path"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(answer.code == 0, !paths.is_empty(), "{answer:?}");
        paths.sort();
        paths
    }

    /// Makes a store with the items of valid paths, and links for some contents.
    fn store(&self, items: &[(&str, &str)], links: &[&str]) -> PathBuf {
        let store = self.path("store");
        fs_err::create_dir_all(store.join(".links")).unwrap();
        for (path, content) in items {
            self.write(&format!("store/{path}"), content);
        }
        for content in links {
            fs_err::write(
                store.join(".links").join(link_name(content).to_string()),
                content,
            )
            .unwrap();
        }
        for (path, _) in items {
            make_valid(&store.join(path.split('/').next().unwrap()));
        }
        store
    }
}

#[derive(Debug)]
struct Answer {
    code: i32,
    out: String,
    err: String,
}

impl Answer {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Gives everything below a path the modification time of valid store items.
fn make_valid(path: &Path) {
    if path.is_dir() {
        for entry in fs_err::read_dir(path).unwrap() {
            make_valid(&entry.unwrap().path());
        }
    }
    let one = std::time::UNIX_EPOCH + Duration::from_secs(1);
    fs_err::File::open(path)
        .unwrap()
        .into_file()
        .set_modified(one)
        .unwrap();
}

fn digest(framing: Framing, algorithm: Algorithm, content: &str) -> Digest {
    let mut hasher = FileHasher::new(framing, algorithm, content.len() as u64);
    hasher.update(content.as_bytes());
    hasher.finish().unwrap()
}

fn sha256(content: &str) -> String {
    digest(Framing::Flat, Algorithm::Sha256, content).to_hex()
}

fn link_name(content: &str) -> LinkName {
    let nar = digest(Framing::NarPlain, Algorithm::Sha256, content);
    LinkName(nar.as_bytes().try_into().unwrap())
}

fn item(seed: u8, name: &str) -> String {
    format!("{}-{name}", nix32::encode(&[seed; 20]))
}

/// Returns name and bytes of every file of an index, directory links left out.
fn bytes_of(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs_err::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| {
            (
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                fs_err::read(path).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

/// Returns path and target of every directory link of an index.
fn links_of(directory: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut links = Vec::new();
    for kind in ["nar-sha256", "git-sha1"] {
        let folder = directory.join("dirlinks").join(kind);
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let target = fs_err::read_link(&path).unwrap();
            links.push((path.strip_prefix(directory).unwrap().to_owned(), target));
        }
    }
    links.sort();
    links
}

#[test]
fn a_folder_is_indexed_found_and_kept_up_to_date() {
    let env = Env::new();
    let one = env.write("folder/one", "one\n");
    let two = env.write("folder/sub/two", "two\n");
    env.write("folder/.store-index/manifest", "not to be indexed\n");
    symlink("/etc/passwd", env.path("folder/link")).unwrap();
    let answer = env.ok(&["update", "folder", "--index", "index", "--json"]);
    let root = &answer.json()["roots"][0];
    assert_eq!(
        (root["files"].as_u64(), root["added"].as_u64()),
        (Some(2), Some(2)),
        "{answer:?}"
    );
    let found = env
        .ok(&["lookup", &sha256("one\n"), "--index", "index", "--json"])
        .json();
    let expected = serde_json::json!([{
        "root": env.path("folder"), "kind": "media", "path": one, "hint": false, "mounted": true, "label": null,
    }]);
    assert_eq!(found, expected);

    let answer = env.ok(&["update", "folder", "--index", "index", "--json"]);
    assert_eq!(
        answer.json()["roots"][0]["hashed_bytes"].as_u64(),
        Some(0),
        "nothing is read again: {answer:?}"
    );

    fs_err::write(&one, "changed\n").unwrap();
    fs_err::remove_file(two).unwrap();
    env.write("folder/sub-three", "three\n");
    let answer = env.ok(&["update", "folder", "--index", "index", "--json"]);
    let root = &answer.json()["roots"][0];
    assert_eq!(
        (root["added"].as_u64(), root["removed"].as_u64()),
        (Some(2), Some(2)),
        "{answer:?}"
    );
    assert_eq!(
        env.look_up(&[&sha256("one\n"), "--index", "index"]),
        [""; 0]
    );
    assert_eq!(
        env.look_up(&[&sha256("two\n"), "--index", "index"]),
        [""; 0]
    );
    assert_eq!(
        env.look_up(&[&sha256("changed\n"), "--index", "index"]),
        [one.to_str().unwrap()]
    );
    env.ok(&["check", "--content", "--index", "index"]);
}

#[test]
fn every_algorithm_is_found_under_its_method() {
    let env = Env::new();
    let file = env.write("folder/file", "content\n");
    env.ok(&[
        "update",
        "folder",
        "--index",
        "index",
        "--algorithms",
        "md5,sha1,sha512,blake3,git,nar",
    ]);
    let path = [file.to_str().unwrap()];
    for algorithm in Algorithm::ALL {
        let hash = format!(
            "{algorithm}:{}",
            digest(Framing::Flat, algorithm, "content\n").to_hex()
        );
        assert_eq!(env.look_up(&[&hash, "--index", "index"]), path, "{hash}");
        assert_eq!(
            env.look_up(&[&hash, "--mode", "nar", "--index", "index"]),
            [""; 0],
            "{hash} is flat"
        );
    }
    let blob = digest(Framing::GitBlob, Algorithm::Sha1, "content\n").to_hex();
    assert_eq!(
        env.look_up(&[&format!("swh:1:cnt:{blob}"), "--index", "index"]),
        path
    );
    for framing in [Framing::NarPlain, Framing::NarExecutable] {
        let nar = digest(framing, Algorithm::Sha256, "content\n").to_sri();
        assert_eq!(
            env.look_up(&[&nar, "--mode", "recursive", "--index", "index"]),
            path,
            "{framing:?}"
        );
    }
}

#[test]
fn algorithms_that_are_added_are_taken_of_old_files_too_and_stay() {
    let env = Env::new();
    env.write("folder/file", "content\n");
    let sha1 = digest(Framing::Flat, Algorithm::Sha1, "content\n").to_hex();
    env.ok(&["update", "folder", "--index", "index"]);
    assert_eq!(env.look_up(&[&sha1, "--index", "index"]).len(), 0);
    env.ok(&[
        "update",
        "folder",
        "--index",
        "index",
        "--algorithms",
        "sha1",
    ]);
    assert_eq!(env.look_up(&[&sha1, "--index", "index"]).len(), 1);
    env.write("folder/new", "new\n");
    env.ok(&["update", "folder", "--index", "index"]);
    let sha1 = digest(Framing::Flat, Algorithm::Sha1, "new\n").to_hex();
    assert_eq!(env.look_up(&[&sha1, "--index", "index"]).len(), 1);
}

#[test]
fn a_store_is_found_through_links_and_items() {
    let env = Env::new();
    let (tree, flat) = (item(1, "tree"), item(2, "hello.txt"));
    let store = env.store(
        &[
            (&format!("{tree}/sub/file"), "inside\n"),
            (&flat, "hello\n"),
        ],
        &["linked\n"],
    );
    let links = store.join(".links");
    fs_err::create_dir(links.join(nix32::encode(&[1; 32]))).unwrap();
    symlink("elsewhere", links.join(nix32::encode(&[2; 32]))).unwrap();
    fs_err::write(links.join("odd name"), "odd\n").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        links.join(nix32::encode(&[3; 32])),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    // Linked files are not indexed twice.
    fs_err::hard_link(
        links.join(link_name("linked\n").to_string()),
        store.join(&tree).join("linked"),
    )
    .unwrap();
    make_valid(&store.join(&tree));
    let named = format!("/nix/store={}", store.display());
    let answer = env.ok(&["update", "--store", &named, "--index", "index", "--json"]);
    let root = &answer.json()["roots"][0];
    assert_eq!(
        (root["links"].as_u64(), root["files"].as_u64()),
        (Some(1), Some(2)),
        "{answer:?}"
    );
    assert_eq!(
        (root["kind"].as_str(), root["root"].as_str()),
        (Some("store"), Some("/nix/store"))
    );
    let at = |path: &str| vec![store.join(path).to_str().unwrap().to_owned()];
    let look_up = |content: &str| env.look_up(&[&sha256(content), "--index", "index"]);
    assert_eq!(look_up("inside\n"), at(&format!("{tree}/sub/file")));
    assert_eq!(look_up("hello\n"), at(&flat));
    assert_eq!(
        look_up("linked\n"),
        at(&format!(".links/{}", link_name("linked\n")))
    );
    let nar = link_name("linked\n").nar_hash().0.to_sri();
    assert_eq!(
        env.look_up(&[&nar, "--mode", "nar", "--index", "index"])
            .len(),
        1
    );
    assert!(
        env.ok(&["status", "--index", "index"])
            .out
            .contains("complete and up to date")
    );
    env.ok(&["check", "--content", "--index", "index"]);

    // The collector takes an item and a link; an unfinished build lies beside.
    fs_err::remove_file(store.join(&flat)).unwrap();
    fs_err::remove_file(links.join(link_name("linked\n").to_string())).unwrap();
    env.write(&format!("store/{}", item(3, "building")), "half\n");
    let answer = env.ok(&["update", "--store", &named, "--index", "index", "--json"]);
    let root = &answer.json()["roots"][0];
    assert_eq!(
        (root["removed"].as_u64(), root["unfinished_items"].as_u64()),
        (Some(2), Some(1)),
        "{answer:?}"
    );
    let status = env.ok(&["status", "--index", "index"]);
    assert!(
        status.out.contains("items that were being made"),
        "{status:?}"
    );
    assert_eq!(
        (
            look_up("hello\n"),
            look_up("half\n"),
            look_up("inside\n").len()
        ),
        (vec![], vec![], 1)
    );

    // The build succeeds, and the item that was gone comes back with other content.
    make_valid(&store.join(item(3, "building")));
    env.write(&format!("store/{flat}"), "hello again\n");
    make_valid(&store.join(&flat));
    env.ok(&["update", "--store", &named, "--index", "index"]);
    assert_eq!(
        (
            look_up("half\n").len(),
            look_up("hello again\n").len(),
            look_up("hello\n").len()
        ),
        (1, 1, 0)
    );
}

#[test]
fn the_bytes_depend_on_nothing_but_the_root() {
    let env = Env::new();
    for n in 0..300 {
        env.write(
            &format!("folder/dir{}/file{n}", n % 7),
            format!("{}\n", n / 2),
        );
    }
    for jobs in ["1", "2", "16"] {
        env.ok(&[
            "update",
            "folder",
            "--index",
            &format!("index{jobs}"),
            "--jobs",
            jobs,
            "--algorithms",
            "nar,git",
        ]);
    }
    let expected = bytes_of(&env.path("index1"));
    assert_eq!(
        expected
            .iter()
            .filter(|(name, _)| name.ends_with(".segment"))
            .count(),
        1
    );
    assert_eq!(bytes_of(&env.path("index2")), expected);
    assert_eq!(bytes_of(&env.path("index16")), expected);
    let links = links_of(&env.path("index1"));
    // Seven directories under both kinds, and the root.
    assert_eq!(links.len(), 2 * 7 + 1);
    assert_eq!(links_of(&env.path("index16")), links);
    env.write("folder/dir0/later", "later\n");
    env.ok(&["update", "folder", "--index", "index1"]);
    fs_err::remove_file(env.path("folder/dir0/later")).unwrap();
    env.ok(&["update", "folder", "--index", "index1"]);
    env.ok(&["update", "folder", "--index", "index1", "--rebuild"]);
    assert_eq!(
        bytes_of(&env.path("index1")),
        expected,
        "a rebuild gives the same again"
    );
    assert_eq!(links_of(&env.path("index1")), links);
}

#[test]
fn files_are_readable_by_all_whatever_the_umask() {
    let env = Env::new();
    env.write("folder/file", "content\n");
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg("umask 077; exec \"$0\" \"$@\"")
        .arg(env!("CARGO_BIN_EXE_store-index"));
    shell
        .args(["update", "folder", "--index", "new/index"])
        .current_dir(env.path(""));
    assert!(shell.status().unwrap().success());
    for (name, _) in bytes_of(&env.path("new/index")) {
        let mode = fs_err::metadata(env.path("new/index").join(&name))
            .unwrap()
            .mode()
            & 0o777;
        // Any open descriptor can take the lock, so that others must not open it.
        assert_eq!(mode, if name == "lock" { 0o600 } else { 0o644 }, "{name}");
    }
    assert_eq!(
        fs_err::metadata(env.path("new/index")).unwrap().mode() & 0o777,
        0o755
    );
}

#[test]
fn places_follow_the_rules() {
    let env = Env::new();
    env.write("a/file", "a\n");
    env.write("b/file", "b\n");
    // Several roots: a folder of indexes.
    env.ok(&["update", "a", "b", "--index", "both"]);
    assert_eq!(fs_err::read_dir(env.path("both")).unwrap().count(), 2);
    assert_eq!(env.look_up(&[&sha256("b\n"), "--index", "both"]).len(), 1);
    // On the tree itself, found when the tree is named.
    env.ok(&["update", "--in-place", "a"]);
    assert!(env.path("a/.store-index/manifest").exists());
    assert_eq!(env.look_up(&[&sha256("a\n"), "--media", "a"]).len(), 1);
    // The index of another root is not overwritten.
    let before = bytes_of(&env.path("a/.store-index"));
    let answer = env.run(&["update", "b", "--index", "a/.store-index"]);
    assert_eq!(answer.code, 7);
    assert!(
        answer.err.contains(env.path("a").to_str().unwrap()),
        "it says whose it is: {answer:?}"
    );
    assert_eq!(bytes_of(&env.path("a/.store-index")), before);
    // By environment.
    let index = env.path("by-variable");
    let mut command = env.command(&["update"]);
    command
        .env("FETCH_INDEX", &index)
        .env("FETCH_MEDIA", env.path("b"));
    assert!(command.status().unwrap().success());
    let mut command = env.command(&["lookup", &sha256("b\n")]);
    assert!(
        command
            .env("FETCH_INDEX", format!("/nowhere:{}", index.display()))
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn mistakes_have_their_exit_codes() {
    let env = Env::new();
    env.write("folder/file", "content\n");
    env.ok(&["update", "folder", "--index", "index"]);
    let missing = "0".repeat(64);
    let in_the_users_form = format!("{missing} is not in the index");
    let cases: [(&[&str], i32, &str); 12] = [
        (
            &["lookup", &missing, "--index", "index"],
            3,
            &in_the_users_form,
        ),
        (&["lookup", "zzz", "--index", "index"], 2, "--hash-algo"),
        (&["lookup", &"0".repeat(32), "--index", "index"], 2, "md5"),
        (
            &["lookup", &missing, "--mode", "tar"],
            2,
            "flat, nar and git",
        ),
        (&["lookup", &missing, "--hash-algo", "sha3"], 2, "sha512"),
        (&["update", "nowhere", "--index", "other"], 7, "nowhere"),
        (
            &["update", "folder/file", "--index", "other"],
            7,
            "not a directory",
        ),
        (
            &["update", "folder", "--index", "folder/file"],
            7,
            "folder/file",
        ),
        (&["update", "folder", "--algorithms", "crc32"], 2, "crc32"),
        (&["update", "folder", "--jobs", "0"], 2, "1 to"),
        (
            &["update", "--store", "nowhere", "--index", "other"],
            7,
            "nowhere",
        ),
        (&["frobnicate"], 2, "frobnicate"),
    ];
    for (args, code, words) in cases {
        let answer = env.run(args);
        assert_eq!(answer.code, code, "{args:?}: {answer:?}");
        assert!(answer.err.contains(words), "{args:?}: {answer:?}");
        assert_eq!(answer.out, "", "{args:?}");
    }
    assert_eq!(
        env.run(&["lookup", &missing, "--index", "index", "--json"])
            .json(),
        serde_json::json!([])
    );
}

#[test]
fn unusable_indexes_are_left_out_with_a_warning_and_made_again() {
    let env = Env::new();
    env.write("folder/file", "content\n");
    env.ok(&["update", "folder", "--index", "index"]);
    let good = bytes_of(&env.path("index"));
    let manifest = env.path("index/manifest");
    let hash = sha256("content\n");
    for damage in ["", "junk", "store-index 1 0000\n{}\n"] {
        fs_err::write(&manifest, damage).unwrap();
        let answer = env.run(&["lookup", &hash, "--index", "index"]);
        assert_eq!(answer.code, 3, "{answer:?}");
        assert!(
            answer.err.contains("warning: ") && answer.err.contains("--rebuild"),
            "{answer:?}"
        );
        assert_eq!(env.run(&["check", "--index", "index"]).code, 1);
        env.ok(&["update", "folder", "--index", "index"]);
        assert_eq!(bytes_of(&env.path("index")), good);
    }
    fs_err::write(&manifest, "store-index 7 0000\n{}\n").unwrap();
    let answer = env.run(&["update", "folder", "--index", "index"]);
    assert_eq!(answer.code, 7);
    assert!(
        answer.err.contains("version 7") && answer.err.contains("--rebuild"),
        "{answer:?}"
    );
    env.ok(&["update", "folder", "--index", "index", "--rebuild"]);
    assert_eq!(bytes_of(&env.path("index")), good);
    let segment = env.path("index").join(
        &good
            .iter()
            .find(|(name, _)| name.ends_with(".segment"))
            .unwrap()
            .0,
    );
    fs_err::write(&segment, "short").unwrap();
    assert_eq!(env.run(&["lookup", &hash, "--index", "index"]).code, 3);
    env.ok(&["update", "folder", "--index", "index"]);
    assert_eq!(bytes_of(&env.path("index")), good);
}

#[test]
fn check_names_what_is_wrong() {
    let env = Env::new();
    let file = env.write("folder/file", "content\n");
    env.ok(&["update", "folder", "--index", "index"]);
    env.ok(&["check", "--index", "index"]);
    fs_err::write(&file, "CONTENT\n").unwrap();
    env.ok(&["check", "--index", "index"]);
    let answer = env.run(&["check", "--content", "--index", "index"]);
    assert_eq!(answer.code, 1);
    assert!(answer.out.contains(file.to_str().unwrap()), "{answer:?}");
    let (name, mut bytes) = bytes_of(&env.path("index"))
        .into_iter()
        .find(|(name, _)| name.ends_with(".segment"))
        .unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs_err::write(env.path("index").join(&name), bytes).unwrap();
    let answer = env.run(&["check", "--index", "index", "--json"]);
    assert_eq!(answer.code, 1);
    assert!(
        answer.json()[0]["findings"][0]["path"]
            .as_str()
            .unwrap()
            .ends_with(&name),
        "{answer:?}"
    );
}

#[test]
fn a_damaged_link_is_found_by_check() {
    let env = Env::new();
    let store = env.store(&[], &["linked\n"]);
    let named = format!("/nix/store={}", store.display());
    env.ok(&["update", "--store", &named, "--index", "index"]);
    let link = store.join(".links").join(link_name("linked\n").to_string());
    fs_err::write(&link, "LINKED\n").unwrap();
    let answer = env.run(&["check", "--content", "--index", "index"]);
    assert_eq!(answer.code, 1);
    assert!(answer.out.contains(link.to_str().unwrap()), "{answer:?}");
}

#[test]
fn where_a_store_was_read_is_known_from_everywhere() {
    let env = Env::new();
    env.store(&[], &["linked\n"]);
    std::os::unix::fs::symlink("store", env.path("link")).unwrap();
    env.ok(&["update", "--store", "/nix/store=link", "--index", "index"]);
    let manifest = fs_err::read_to_string(env.path("index/manifest")).unwrap();
    let real = fs_err::canonicalize(env.path("store")).unwrap();
    assert!(manifest.contains(real.to_str().unwrap()), "{manifest}");
    let answer = env.ok(&["check", "--content", "--index", "index", "--json"]);
    assert_eq!(answer.json()[0]["compared"], true);
    let answer = env.ok(&["check", "--index", "index", "--json"]);
    assert_eq!(answer.json()[0]["compared"], false);
}

#[test]
fn odd_names_and_unreadable_files_do_not_stop_an_update() {
    let env = Env::new();
    let odd = std::ffi::OsStr::from_bytes(b"folder/\xff \n\x1b[2J%41");
    fs_err::create_dir_all(env.path("folder")).unwrap();
    fs_err::write(env.path("").join(odd), "odd\n").unwrap();
    env.write("folder/good", "good\n");
    let closed = env.write("folder/closed/file", "closed\n");
    fs_err::set_permissions(
        closed.parent().unwrap(),
        std::fs::Permissions::from_mode(0o000),
    )
    .unwrap();
    let answer = env.run(&["update", "folder", "--index", "index"]);
    fs_err::set_permissions(
        closed.parent().unwrap(),
        std::fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    assert_eq!(answer.code, 0, "{answer:?}");
    if !rustix::process::geteuid().is_root() {
        assert!(
            answer.err.contains("warning: ") && answer.err.contains("closed"),
            "{answer:?}"
        );
    }
    let answer = env.ok(&["lookup", &sha256("odd\n"), "--index", "index"]);
    assert!(
        !answer
            .out
            .trim_end_matches('\n')
            .contains(|c: char| c.is_control()),
        "{answer:?}"
    );
    assert_eq!(
        env.look_up(&[&sha256("good\n"), "--index", "index"]).len(),
        1
    );
}

#[test]
fn a_killed_update_leaves_an_index_and_the_next_one_goes_on() {
    let env = Env::new();
    for n in 0..2_000 {
        env.write(&format!("folder/{n}"), n.to_string());
    }
    for round in 0..12_u64 {
        env.write(&format!("folder/new{round}"), format!("new {round}"));
        let mut child = env
            .command(&["update", "folder", "--index", "index", "--jobs", "2"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(round * 4));
        child.kill().unwrap();
        child.wait().unwrap();
        let answer = env.run(&["check", "--index", "index"]);
        let none_yet = !env.path("index/manifest").exists();
        assert!(none_yet || answer.code == 0, "round {round}: {answer:?}");
    }
    env.ok(&["update", "folder", "--index", "index"]);
    for content in ["0", "1999", "new 11"] {
        assert_eq!(
            env.look_up(&[&sha256(content), "--index", "index"]).len(),
            1,
            "{content}"
        );
    }
    let left_over = bytes_of(&env.path("index"))
        .into_iter()
        .filter(|(name, _)| name.starts_with(".tmp-"));
    assert_eq!(left_over.count(), 0);
    env.ok(&["check", "--content", "--index", "index"]);
}

#[test]
fn an_interrupted_update_keeps_what_it_has_and_exits_130() {
    let env = Env::new();
    for n in 0..20 {
        env.write(&format!("folder/{n}"), n.to_string());
    }
    // Sparse and long: hashing it takes many seconds.
    let big = fs_err::File::create(env.path("folder/big")).unwrap();
    big.set_len(1 << 40).unwrap();
    let child = env
        .command(&["update", "folder", "--index", "index"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let answer = Answer::of(child.wait_with_output().unwrap());
    assert_eq!(answer.code, 130, "{answer:?}");
    assert_eq!(
        env.look_up(&[&sha256("7"), "--index", "index"]).len(),
        1,
        "what was hashed is kept"
    );
    assert!(
        env.ok(&["status", "--index", "index"])
            .out
            .contains("not complete")
    );
}

#[test]
fn two_updates_at_once_do_not_harm_each_other() {
    let env = Env::new();
    for n in 0..500 {
        env.write(&format!("folder/{n}"), n.to_string());
    }
    let children: Vec<_> = (0..4)
        .map(|_| {
            env.command(&["update", "folder", "--index", "index", "--json"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let added = children.into_iter().map(|child| {
        let answer = Answer::of(child.wait_with_output().unwrap());
        assert_eq!(answer.code, 0, "{answer:?}");
        answer.json()["roots"][0]["added"].as_u64().unwrap()
    });
    assert_eq!(
        added.sum::<u64>(),
        500,
        "the others find nothing left to do"
    );
    env.ok(&["check", "--content", "--index", "index"]);
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let env = Env::new();
    env.write("folder/file", "content\n");
    env.ok(&["update", "folder", "--index", "index"]);
    let mut command = env.command(&["status", "--index", "index"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}
