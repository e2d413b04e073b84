//! What bad input gets: a clear message, the right exit code, nothing lost.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::nginx::{NGINX, Nginx};
use crate::support::nix::{NIX, NixStore};
use crate::support::{Outcome, TestEnv, is_root, lacks, mode, names_in, nar_sri, noise, sri};

const HELLO: &str = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

/// Expects an exit code, words on stderr, no panic, nothing on stdout.
#[track_caller]
fn refused(outcome: Outcome, exit: i32, words: &[&str]) {
    let mut outcome = outcome.exits(exit);
    assert_eq!(outcome.stdout, "", "{outcome}");
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    for word in words {
        outcome = outcome.says(word);
    }
}

#[test]
fn hashes() {
    let env = TestEnv::new();
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2v!M="],
            &["character", "'!'"],
        ),
        (
            &["5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6beXX"],
            &["character", "'X'"],
        ),
        (
            &["sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4ae"],
            &["character", "'e'"],
        ),
        (&["sha256:5891b5b5"], &["8 characters"]),
        (
            &["5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be0"],
            &["63 characters", "--hash-algo"],
        ),
        (&["sha256-WJG1tSLV3whtD"], &["characters"]),
        (
            &["sha3:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"],
            &["unknown", "sha3", "blake3"],
        ),
        (
            &["SHA256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM="],
            &["unknown", "lower case"],
        ),
        (&[HELLO, "--hash-algo", "sha1"], &["sha256", "sha1"]),
        (
            &["b1946ac92492d2347c6235b4d2611184"],
            &["md5", "sha1", "--hash-algo"],
        ),
        (&[HELLO, "--hash-algo", "crc32"], &["crc32"]),
        (&[HELLO, "--mode", "tar"], &["tar"]),
        (&[""], &["hash"]),
        (
            &["swh:1:rev:309cf2674ee7a0749978cf8265ab91a60aea0f7d"],
            &["--git", "--rev"],
        ),
        (
            &[
                "swh:1:dir:309cf2674ee7a0749978cf8265ab91a60aea0f7d",
                "--mode",
                "flat",
            ],
            &["git"],
        ),
        (
            &[
                "sha512:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
                "--mode",
                "git",
            ],
            &["sha512"],
        ),
    ];
    for (args, words) in cases {
        let run = env.fetch_hash(args[0]).args(&args[1..]).args([
            "--offline",
            "--json",
            "http://127.0.0.1:1/hello",
        ]);
        refused(run.go(), 2, words);
    }
    let long = "0".repeat(100_000);
    refused(
        env.fetch_hash(&long)
            .args(["--offline", "--name", "x"])
            .go(),
        2,
        &["hash"],
    );
    assert_eq!(env.outputs(), [""; 0]);
}

/// Control characters of the input must not reach the terminal.
#[test]
fn messages_cannot_steer_the_terminal() {
    let env = TestEnv::new();
    for args in [
        ["--hash", "sha256:\x1b[2Jabc", "--name", "x"],
        ["--hash", "\x1b]0;title\x07:abc", "--name", "x"],
        ["--hash", HELLO, "--name", "a\x1b[31mb"],
    ] {
        let outcome = env
            .fetch(args)
            .args(["--no-store", "--no-media", "--offline"])
            .go()
            .exits(2);
        let steering = |c: char| c.is_control() && c != '\n';
        assert!(!outcome.stderr.contains(steering), "{:?}", outcome.stderr);
    }
}

#[test]
fn command_lines() {
    let env = TestEnv::new();
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["--hash"]),
        (&["--hash", HELLO], &["--name"]),
        (
            &["--hash", HELLO, "--hash", HELLO, "--name", "x"],
            &["--hash"],
        ),
        (&["--hash", HELLO, "--colour", "--name", "x"], &["--colour"]),
        (
            &["--hash", HELLO, "--name", "x", "--stale-hash", "maybe"],
            &["maybe"],
        ),
        (
            &["--hash", HELLO, "--name", "x", "--progress", "loud"],
            &["loud"],
        ),
        (&["--name", "x", "http://127.0.0.1:1/x"], &["--hash"]),
        (&["--hash", HELLO, "gopher://127.0.0.1:1/x"], &["gopher"]),
        (&["--hash", HELLO, "not a url"], &["not a url"]),
        (&["--hash", HELLO, "http://"], &["http://"]),
    ];
    for (args, words) in cases {
        refused(
            env.fetch(*args).args(["--no-store", "--no-media"]).go(),
            2,
            words,
        );
    }
    assert_eq!(env.outputs(), [""; 0]);
}

#[test]
fn names() {
    let env = TestEnv::new();
    let too_long = "n".repeat(212);
    let named: &[(&str, &[&str])] = &[
        ("a/b", &["'/'"]),
        ("..", &[".."]),
        (".", &["."]),
        ("", &["empty"]),
        ("a b", &["' '"]),
        ("grün", &["name"]),
        ("-/x", &["'/'"]),
        (&too_long, &["212", "211"]),
    ];
    for (name, words) in named {
        let run = env
            .fetch_hash(HELLO)
            .arg(format!("--name={name}"))
            .args(["--offline", "http://127.0.0.1:1/hello"]);
        refused(run.go(), 2, words);
    }
    // A name from the URL that is none asks for -o.
    for path in [
        "", "/", "///", "/a%2Fb", "/%2E%2E", "/.", "/%00", "/a%0Ab", "/?x=/y",
    ] {
        let run = env
            .fetch_hash(HELLO)
            .args(["--offline".to_owned(), format!("http://127.0.0.1:1{path}")]);
        refused(run.go(), 2, &["-o"]);
    }
    assert_eq!(env.outputs(), [""; 0]);
}

/// A name from the URL that only the store could not have is good enough for a file.
#[test]
fn names_that_only_a_store_refuses() {
    if lacks("names_that_only_a_store_refuses", NGINX, false) {
        return;
    }
    let env = TestEnv::new();
    let nginx = Nginx::new(&env);
    let long = "n".repeat(212);
    for (path, name) in [
        ("with%20blank?query=1#fragment", "with blank"),
        ("gr%C3%BCn", "grün"),
        (&long, &long),
    ] {
        env.write(Path::new("www").join(name), "hello\n");
        // The whole chain is asked, a store too: only the probe by exact name falls away.
        fs_err::create_dir_all(env.path("store")).unwrap();
        let run = env
            .fetch_hash(HELLO)
            .arg("--store")
            .arg(env.path("store"))
            .arg(nginx.url(&format!("/{path}")));
        assert_eq!(run.json(0).object["name"], name);
        assert_eq!(env.output(name), b"hello\n");
    }
}

/// A place that is taken: exit 7 before anything else is asked, and what is there stays.
#[test]
fn outputs_that_are_taken() {
    if lacks("outputs_that_are_taken", NGINX, false) {
        return;
    }
    let env = TestEnv::new();
    let nginx = Nginx::new(&env);
    env.write("www/hello", "hello\n");
    env.write("out/other", "other content\n");
    env.write("out/folder/kept", "kept");
    env.write("target", "hello\n");
    symlink(env.path("target"), env.out("link-to-the-right-content")).unwrap();
    symlink(env.path("nowhere"), env.out("dangling")).unwrap();
    make_fifo(&env.out("fifo"));
    let fetch = |name: &str| {
        env.fetch_hash(HELLO)
            .args(["-o", name])
            .arg(nginx.url("/hello"))
    };

    for name in [
        "other",
        "folder",
        "link-to-the-right-content",
        "dangling",
        "fifo",
    ] {
        let report = fetch(name).json(7);
        assert_eq!(report.object["output"], env.out(name).to_str().unwrap());
        // A folder that holds something is never replaced, so nobody is told to force it.
        let way_out = if name == "folder" { "-o" } else { "--force" };
        assert!(
            report.stderr.contains(name) && report.stderr.contains(way_out),
            "{}",
            report.stderr
        );
    }
    fetch("folder").arg("--force").go().exits(7).says("folder");
    assert_eq!(nginx.requests(), [""; 0], "no source was asked");
    assert_eq!(env.output("other"), b"other content\n");
    assert_eq!(env.output("folder/kept"), b"kept");
    assert_eq!(
        fs_err::read_link(env.out("dangling")).unwrap(),
        env.path("nowhere")
    );
    assert!(!env.path("nowhere").exists());

    for name in ["other", "link-to-the-right-content", "dangling"] {
        fetch(name).arg("--force").go().exits(0);
        assert!(
            fs_err::symlink_metadata(env.out(name)).unwrap().is_file(),
            "{name} is a file of its own now"
        );
        assert_eq!(env.output(name), b"hello\n");
    }
    assert!(
        !env.path("nowhere").exists(),
        "nothing was written through the link"
    );
    assert_eq!(
        fs_err::read_to_string(env.path("target")).unwrap(),
        "hello\n"
    );
    assert_eq!(
        env.outputs(),
        [
            "dangling",
            "fifo",
            "folder",
            "link-to-the-right-content",
            "other"
        ]
    );
}

#[test]
fn the_right_content_is_already_there() {
    let env = TestEnv::new();
    let out = env.write("out/hello", "hello\n");
    let report = env
        .fetch_hash(HELLO)
        .args(["--offline", "--name", "hello"])
        .json(0);
    assert_eq!(
        (report.kind(), report.location()),
        ("output", out.to_str().unwrap())
    );
    env.fetch_hash(HELLO)
        .args(["--offline", "--name", "hello", "--executable"])
        .go()
        .exits(0);
    assert_eq!(mode(&out), 0o755);
    env.fetch_hash(HELLO)
        .args(["--offline", "--name", "hello"])
        .go()
        .exits(0);
    assert_eq!(mode(&out), 0o644, "the executable bit always as requested");
}

#[test]
fn places_that_do_not_exist() {
    if lacks("places_that_do_not_exist", NGINX, false) {
        return;
    }
    let env = TestEnv::new();
    let nginx = Nginx::new(&env);
    env.write("www/hello", "hello\n");
    env.write("out/file", "a file");
    for place in ["missing/hello", "file/hello"] {
        let outcome = env
            .fetch_hash(HELLO)
            .args(["-o", place])
            .arg(nginx.url("/hello"))
            .go();
        refused(outcome, 7, &[place.split('/').next().unwrap()]);
    }
    assert_eq!(env.outputs(), ["file"]);
}

#[test]
fn a_folder_that_cannot_be_written() {
    if lacks(
        "a_folder_that_cannot_be_written",
        &[NGINX, &["setpriv"]].concat(),
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    env.open_to_everybody();
    let nginx = Nginx::new(&env);
    env.write("www/hello", "hello\n");
    fs_err::set_permissions(env.path("out"), std::fs::Permissions::from_mode(0o555)).unwrap();
    let outcome = env
        .fetch_hash(HELLO)
        .arg(nginx.url("/hello"))
        .by_nobody()
        .go();
    fs_err::set_permissions(env.path("out"), std::fs::Permissions::from_mode(0o755)).unwrap();
    refused(
        outcome,
        7,
        &[env.path("out").to_str().unwrap(), "ermission"],
    );
    assert_eq!(env.outputs(), [""; 0]);
}

/// A small file system of its own; unmounted when dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where nothing can be mounted.
    pub(crate) fn new(place: PathBuf, size: &str) -> Option<Self> {
        fs_err::create_dir_all(&place).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(&place)
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self(place))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a program that hangs must not keep the folder for ever.
        let unmounted = Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status()
            .unwrap();
        assert!(
            unmounted.success() || std::thread::panicking(),
            "cannot unmount {}",
            self.0.display()
        );
    }
}

#[test]
fn a_full_disk() {
    if lacks("a_full_disk", &[NIX, NGINX, &["mount"]].concat(), true) {
        return;
    }
    let env = TestEnv::new();
    let Some(disk) = SmallDisk::new(env.path("small"), "1m") else {
        return crate::support::skipped("a_full_disk", "cannot mount a tmpfs");
    };
    let store = NixStore::new(&env);
    let nginx = Nginx::new(&env);
    let bytes = noise(1, 3_000_000);
    store.add_fixed("sha256", false, &env.write("www/big", &bytes));
    fs_err::create_dir(env.path("tree")).unwrap();
    env.write("tree/big", &bytes);
    let tree = store.add(&env.path("tree"));
    let out = disk.0.join("big");

    let local = env
        .fetch_hash(sri(&bytes))
        .args(["--offline", "-o"])
        .arg(&out)
        .arg("--store")
        .arg(store.dir());
    assert!(
        local
            .args(["--name", "other"])
            .json(7)
            .stderr
            .contains("space"),
        "says that it is full"
    );
    let remote = env
        .fetch_hash(sri(&bytes))
        .arg("-o")
        .arg(&out)
        .arg(nginx.url("/big"))
        .json(7);
    assert!(remote.stderr.contains("space"), "{}", remote.stderr);
    let hash = store.nar_hash(&tree);
    let whole = env
        .fetch_hash(hash)
        .args(["--mode", "nar", "--offline", "--name", "tree", "-o"])
        .arg(disk.0.join("tree"));
    whole.arg("--store").arg(store.dir()).json(7);
    assert_eq!(
        names_in(&disk.0),
        [""; 0],
        "nothing is left on the full disk"
    );

    let mut index = env
        .store_index(["update", "--index"])
        .arg(disk.0.join("index"));
    for number in 0..40 {
        // Enough folders of enough small files that their index does not fit.
        for file in 0..250 {
            env.write(format!("many/{number}/{file}"), format!("{number}/{file}"));
        }
    }
    fs_err::write(disk.0.join("filler"), noise(3, 900_000)).unwrap();
    index = index.arg(env.path("many"));
    refused_for(index.go(), 7, "space");
}

#[track_caller]
fn refused_for(outcome: Outcome, exit: i32, word: &str) {
    outcome.exits(exit).says(word);
}

#[test]
fn stores_that_are_not_there() {
    let env = TestEnv::new();
    let missing = env.path("no/such/store");
    let named = env
        .fetch_hash(HELLO)
        .args(["--offline", "--name", "x", "--store"])
        .arg(&missing)
        .json(7);
    assert!(
        named.stderr.contains(missing.to_str().unwrap()),
        "{}",
        named.stderr
    );
    env.store_index(["update", "--index"])
        .arg(env.path("index"))
        .arg("--store")
        .arg(&missing)
        .go()
        .exits(7);
    let file = env.write("file", "no store");
    env.fetch_hash(HELLO)
        .args(["--offline", "--name", "x", "--store"])
        .arg(&file)
        .go()
        .exits(7);
    // A default that is not there is none.
    let by_default = env.fetch(["--no-media", "--offline", "--name", "x", "--hash", HELLO]);
    by_default.variable("NIX_STORE_DIR", &missing).go().exits(3);
}

#[test]
fn stores_that_cannot_be_listed() {
    if lacks("stores_that_cannot_be_listed", &["setpriv"], false) {
        return;
    }
    let env = TestEnv::new();
    env.open_to_everybody();
    let store = env.path("store");
    fs_err::create_dir(&store).unwrap();
    fs_err::set_permissions(&store, std::fs::Permissions::from_mode(0o311)).unwrap();
    let named = env
        .fetch_hash(HELLO)
        .args(["--offline", "--name", "x", "--store"])
        .arg(&store)
        .by_nobody()
        .go();
    let by_default = env.fetch([
        "--no-media",
        "--offline",
        "--name",
        "x",
        "--json",
        "--hash",
        HELLO,
    ]);
    let by_default = by_default
        .variable("NIX_STORE_DIR", &store)
        .by_nobody()
        .go();
    fs_err::set_permissions(&store, std::fs::Permissions::from_mode(0o755)).unwrap();
    refused(named, 7, &[store.to_str().unwrap(), "ermission"]);
    let by_default = by_default.exits(3);
    assert!(
        by_default.stdout.contains(r#""unavailable""#),
        "{by_default}"
    );
}

/// An indexed folder of three files, and what is in them.
fn indexed_folder(env: &TestEnv) -> (PathBuf, [Vec<u8>; 3]) {
    let contents = [noise(1, 3000), noise(2, 10), b"hello\n".to_vec()];
    for (number, bytes) in contents.iter().enumerate() {
        env.write(format!("folder/{number}"), bytes);
    }
    let index = env.path("index");
    env.store_index(["update", "--index"])
        .arg(&index)
        .arg(env.path("folder"))
        .go()
        .exits(0);
    (index, contents)
}

/// Every file below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    files
}

/// The wanted bytes, or an honest miss with a word on what is wrong with the index.
#[track_caller]
fn right_or_missed(env: &TestEnv, index: &Path, wanted: &[u8], what: &str) -> Outcome {
    let run = env
        .fetch_hash(sri(wanted))
        .args(["--offline", "--name", "wanted", "--index"])
        .arg(index);
    let outcome = run.go();
    match outcome.status.code() {
        Some(0) => {
            assert_eq!(env.output("wanted"), wanted, "{what}\n{outcome}");
            fs_err::remove_file(env.out("wanted")).unwrap();
        }
        Some(3) => assert!(
            outcome.stderr.contains("index"),
            "{what}: a miss without a word\n{outcome}"
        ),
        _ => panic!("{what}\n{outcome}"),
    }
    assert!(!outcome.stderr.contains("panicked"), "{what}\n{outcome}");
    assert_eq!(env.outputs(), [""; 0], "{what}");
    outcome
}

#[test]
fn an_index_of_a_folder_finds_it() {
    let env = TestEnv::new();
    let (index, contents) = indexed_folder(&env);
    for (number, wanted) in contents.iter().enumerate() {
        let run = env
            .fetch_hash(sri(wanted))
            .args(["--offline", "--name", "wanted", "--force", "--index"])
            .arg(&index);
        let report = run.json(0);
        let place = env.path(format!("folder/{number}"));
        assert_eq!(
            (report.kind(), report.location()),
            ("media", place.to_str().unwrap())
        );
    }
}

/// Without an index a named folder is still looked into by name.
#[test]
fn a_folder_without_an_index() {
    let env = TestEnv::new();
    env.write("folder/hello.txt", "hello\n");
    env.write("folder/wrong.txt", "other\n");
    let fetch = |name: &str| {
        let run = env
            .fetch_hash(HELLO)
            .args(["--offline", "--name", name, "--media"]);
        run.arg(env.path("folder"))
    };
    let report = fetch("hello.txt").json(0);
    assert_eq!(report.kind(), "media");
    assert_eq!(
        report.location(),
        env.path("folder/hello.txt").to_str().unwrap()
    );
    fetch("wrong.txt")
        .json(3)
        .tried("media", "mismatch", "folder/wrong.txt");
    fetch("missing.txt").json(3);
}

#[test]
fn an_index_cut_short_anywhere() {
    let env = TestEnv::new();
    let (index, [wanted, ..]) = indexed_folder(&env);
    for file in files_below(&index) {
        let whole = fs_err::read(&file).unwrap();
        // Every cut near both ends and a spread between: each is a process.
        let step = (whole.len() / 60).max(1);
        for len in
            (0..whole.len()).filter(|len| *len < 24 || whole.len() - len < 24 || len % step == 0)
        {
            fs_err::write(&file, &whole[..len]).unwrap();
            right_or_missed(
                &env,
                &index,
                &wanted,
                &format!("{} cut at {len} of {}", file.display(), whole.len()),
            );
        }
        fs_err::write(&file, &whole).unwrap();
    }
    let report = env
        .fetch_hash(sri(&wanted))
        .args(["--offline", "--name", "wanted", "--index"])
        .arg(&index)
        .json(0);
    assert_eq!(
        report.kind(),
        "media",
        "restored, it works again: the cuts were what was tested"
    );
}

#[test]
fn an_index_with_flipped_bits() {
    let env = TestEnv::new();
    let (index, [wanted, ..]) = indexed_folder(&env);
    for file in files_below(&index) {
        let whole = fs_err::read(&file).unwrap();
        let step = (whole.len() / 120).max(1);
        for place in (0..whole.len()).step_by(step) {
            let mut damaged = whole.clone();
            damaged[place] ^= 1 << (place % 8);
            fs_err::write(&file, &damaged).unwrap();
            right_or_missed(
                &env,
                &index,
                &wanted,
                &format!("{} flipped at {place}", file.display()),
            );
        }
        fs_err::write(&file, &whole).unwrap();
    }
}

#[test]
fn a_damaged_index_is_rebuilt_by_an_update() {
    let env = TestEnv::new();
    let (index, [wanted, ..]) = indexed_folder(&env);
    let whole: Vec<_> = files_below(&index)
        .into_iter()
        .map(|file| (fs_err::read(&file).unwrap(), file))
        .collect();
    for (bytes, file) in &whole {
        for damaged in [&b""[..], b"junk", &bytes[..bytes.len() / 2]] {
            fs_err::write(file, damaged).unwrap();
            env.store_index(["update", "--index"])
                .arg(&index)
                .arg(env.path("folder"))
                .go()
                .exits(0);
            env.store_index(["check", "--content", "--index"])
                .arg(&index)
                .go()
                .exits(0);
            env.store_index(["lookup", &sri(&wanted), "--index"])
                .arg(&index)
                .go()
                .exits(0);
        }
    }
}

/// An index of a later format is refused with what to do, and left as it is.
#[test]
fn an_index_of_a_newer_version() {
    let env = TestEnv::new();
    let (index, [wanted, ..]) = indexed_folder(&env);
    let lookup = || {
        env.store_index(["lookup", &sri(&wanted), "--index"])
            .arg(&index)
            .go()
    };
    lookup().exits(0);
    let whole: Vec<_> = files_below(&index)
        .into_iter()
        .filter(|file| !file.ends_with("lock"))
        .map(|file| (fs_err::read(&file).unwrap(), file))
        .collect();
    for (bytes, file) in &whole {
        let mut newer = bytes.clone();
        if file.ends_with("manifest") {
            // docs/index-format.md: the version is the word after the name.
            assert!(newer.starts_with(b"store-index 1 "));
            newer[12] = b'2';
        } else {
            // The version is a little-endian number behind eight bytes of magic.
            assert_eq!(newer[8..12], 1u32.to_le_bytes());
            newer[8] = 2;
        }
        fs_err::write(file, &newer).unwrap();
        let outcome = right_or_missed(&env, &index, &wanted, "newer");
        outcome.exits(3).says("version 2").says("rebuild");
        lookup().exits(3).says("version 2").says("rebuild");
        env.store_index(["check", "--index"])
            .arg(&index)
            .go()
            .exits(1);
        assert_eq!(
            fs_err::read(file).unwrap(),
            newer,
            "nothing was overwritten by looking"
        );
        fs_err::write(file, bytes).unwrap();
    }
    lookup().exits(0);
}

#[test]
fn check_finds_damage() {
    let env = TestEnv::new();
    let (index, _) = indexed_folder(&env);
    env.store_index(["check", "--index"])
        .arg(&index)
        .go()
        .exits(0);
    for file in files_below(&index) {
        let whole = fs_err::read(&file).unwrap();
        if whole.is_empty() {
            continue;
        }
        for damaged in [&whole[..whole.len() - 1], b"junk"] {
            fs_err::write(&file, damaged).unwrap();
            env.store_index(["check", "--index"])
                .arg(&index)
                .go()
                .exits(1)
                .says(index.to_str().unwrap());
        }
        fs_err::write(&file, &whole).unwrap();
    }
    // A file that changed under its index: only the content tells.
    env.write("folder/1", noise(9, 10));
    env.store_index(["check", "--content", "--index"])
        .arg(&index)
        .go()
        .exits(1);
}

#[test]
fn things_that_are_no_index() {
    let env = TestEnv::new();
    let (index, [wanted, ..]) = indexed_folder(&env);
    fs_err::create_dir(env.path("empty")).unwrap();
    env.write("junk/manifest", noise(1, 5000));
    env.write("junk/segment", noise(2, 5000));
    env.write("junk/dirlinks/nar-sha256/odd", "");
    symlink("/", env.path("junk/root")).unwrap();
    make_fifo(&env.path("junk/fifo"));
    env.write("file", "no directory");
    // The real names of an index with the worst behind them.
    fs_err::create_dir(env.path("fifos")).unwrap();
    fs_err::create_dir(env.path("folders")).unwrap();
    for file in files_below(&index) {
        let inside = file.strip_prefix(&index).unwrap();
        fs_err::create_dir_all(env.path("fifos").join(inside.parent().unwrap())).unwrap();
        make_fifo(&env.path("fifos").join(inside));
        fs_err::create_dir_all(env.path("folders").join(inside)).unwrap();
    }
    for name in ["empty", "junk", "file", "missing", "fifos", "folders"] {
        let place = env.path(name);
        let outcome = right_or_missed(&env, &place, &wanted, name);
        outcome.exits(3).says(place.to_str().unwrap());
        env.store_index(["lookup", &sri(&wanted), "--index"])
            .arg(&place)
            .go()
            .exits(3);
    }
    // One good index among bad ones is enough.
    let run = env
        .fetch_hash(sri(&wanted))
        .args(["--offline", "--name", "wanted"]);
    let run = ["empty", "junk", "file", "index"]
        .into_iter()
        .fold(run, |run, name| run.arg("--index").arg(env.path(name)));
    assert_eq!(run.json(0).kind(), "media");
}

/// The folder changed since: entries that no longer hold cost a candidate, not the truth.
#[test]
fn an_index_that_is_out_of_date() {
    let env = TestEnv::new();
    let (index, [wanted, ..]) = indexed_folder(&env);
    let file = env.path("folder/0");
    let fetch = || {
        env.fetch_hash(sri(&wanted))
            .args(["--offline", "--name", "wanted", "--index"])
            .arg(&index)
    };

    fs_err::write(&file, noise(9, wanted.len())).unwrap();
    fetch()
        .json(3)
        .tried("media", "mismatch", file.to_str().unwrap());
    fs_err::write(&file, b"shorter").unwrap();
    fetch().json(3);
    fs_err::remove_file(&file).unwrap();
    fetch().json(3);
    env.write("secret", &wanted);
    symlink(env.path("secret"), &file).unwrap();
    fetch().json(3);
    fs_err::remove_file(&file).unwrap();
    make_fifo(&file);
    fetch().json(3);
    fs_err::remove_file(&file).unwrap();
    fs_err::create_dir(&file).unwrap();
    fetch().json(3);
    assert_eq!(env.outputs(), [""; 0]);
}

#[test]
fn an_index_of_another_store() {
    if lacks("an_index_of_another_store", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let bytes = noise(1, 10_000);
    env.write("tree/file", &bytes);
    store.add(&env.path("tree"));
    store.optimise();
    let index = env.path("index");
    env.store_index(["update", "--index"])
        .arg(&index)
        .arg("--store")
        .arg(store.dir())
        .go()
        .exits(0);
    let other = TestEnv::new();
    let other_store = NixStore::new(&other);
    // The store the index belongs to is gone; the one that is asked does not have it.
    let gone = env.path("gone");
    fs_err::rename(store.dir(), &gone).unwrap();
    let run = env
        .fetch_hash(sri(&bytes))
        .args(["--offline", "--name", "x", "--index"])
        .arg(&index);
    run.arg("--store").arg(other_store.dir()).json(3);
    assert_eq!(env.outputs(), [""; 0]);
}

/// Whatever lies in `.links`: no reading from devices or pipes, no following, no hanging.
#[test]
fn a_links_folder_full_of_traps() {
    if lacks("a_links_folder_full_of_traps", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let bytes = noise(1, 10_000);
    env.write("tree/file", &bytes);
    let item = store.add(&env.path("tree"));
    store.optimise();
    let links = store.dir().join(".links");
    // Contents whose names in `.links` are taken by something else.
    let trap = |number: u64| {
        let content = noise(100 + number, 500);
        let path = env.write(format!("trap-{number}"), &content);
        (
            links.join(store.link_name(&path)),
            nar_sri(&content, false),
            path,
        )
    };
    let traps = [trap(0), trap(1), trap(2), trap(3)];
    symlink(&traps[0].2, &traps[0].0).unwrap();
    fs_err::create_dir_all(traps[1].0.join("inner")).unwrap();
    make_fifo(&traps[2].0);
    let _socket = std::os::unix::net::UnixListener::bind(&traps[3].0).ok();
    symlink("/dev/zero", links.join("0".repeat(52))).unwrap();
    symlink("loop", links.join("loop")).unwrap();
    for name in [
        "odd",
        "...",
        "e".repeat(52).as_str(),
        "0".repeat(51).as_str(),
        "with blank",
        "new\nline",
        ".fetch-x",
    ] {
        fs_err::write(links.join(name), "odd").unwrap();
    }
    {
        use std::os::unix::ffi::OsStrExt as _;
        fs_err::write(
            links.join(std::ffi::OsStr::from_bytes(b"\xff\xfe")),
            "no UTF-8",
        )
        .unwrap();
    }

    let index = env.path("index");
    env.store_index(["update", "--index"])
        .arg(&index)
        .arg("--store")
        .arg(store.dir())
        .go()
        .exits(0);
    env.store_index(["check", "--content", "--index"])
        .arg(&index)
        .go()
        .exits(0);
    let found = env
        .fetch_hash(sri(&bytes))
        .args(["--offline", "--name", "file", "--index"])
        .arg(&index);
    assert_eq!(
        found.arg("--store").arg(store.dir()).json(0).kind(),
        "links"
    );
    for (_, nar, _) in &traps {
        let run = env
            .fetch_hash(nar)
            .args(["--mode", "nar", "--offline", "--name", "trap", "--store"])
            .arg(store.dir());
        run.json(3);
    }
    assert_eq!(env.outputs(), ["file"]);
    // With no `.links` at all, or a file in its place, the rest goes on.
    let hash = store.nar_hash(&item);
    let fetch = |name: &str| {
        let run = env
            .fetch_hash(&hash)
            .args(["--mode", "nar", "--offline", "--name", name, "--store"])
            .arg(store.dir());
        run.json(0)
    };
    let elsewhere = env.path("links");
    fs_err::rename(&links, &elsewhere).unwrap();
    assert_eq!(fetch("without").kind(), "store");
    fs_err::write(&links, "a file").unwrap();
    assert_eq!(fetch("file-instead").kind(), "store");
    fs_err::remove_file(&links).unwrap();
    symlink(&elsewhere, &links).unwrap();
    fetch("link-instead");
}

/// As an ordinary user, an index that cannot be written is said to be so.
#[test]
fn an_index_that_cannot_be_written() {
    if lacks("an_index_that_cannot_be_written", &["setpriv"], false) {
        return;
    }
    let env = TestEnv::new();
    env.open_to_everybody();
    env.write("folder/a", "a");
    let place = env.path("locked");
    fs_err::create_dir(&place).unwrap();
    fs_err::set_permissions(&place, std::fs::Permissions::from_mode(0o555)).unwrap();
    let outcome = env
        .store_index(["update", "--index"])
        .arg(place.join("index"))
        .arg(env.path("folder"))
        .by_nobody()
        .go();
    fs_err::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).unwrap();
    refused(outcome, 7, &[place.to_str().unwrap(), "ermission"]);
}

/// Readable by all, written by one, whatever the umask.
#[test]
fn modes_follow_the_umask_for_outputs_and_not_for_indexes() {
    let env = TestEnv::new();
    env.write("folder/a", "hello\n");
    let index = env.path("index");
    env.store_index(["update", "--index"])
        .arg(&index)
        .arg(env.path("folder"))
        .umask(0o077)
        .go()
        .exits(0);
    for file in files_below(&index) {
        // Whoever can open the lock can take it: it is for the writer alone.
        let expected = if file.ends_with("lock") { 0o600 } else { 0o644 };
        assert_eq!(mode(&file), expected, "{}", file.display());
    }
    assert_eq!(mode(&index), 0o755);
    for (umask, expected) in [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)] {
        let name = format!("{umask:o}");
        let run = env
            .fetch_hash(HELLO)
            .args(["--offline", "--name", &name, "--index"])
            .arg(&index);
        run.umask(umask).go().exits(0);
        assert_eq!(mode(&env.out(&name)), expected);
        let name = format!("{umask:o}-x");
        let run = env
            .fetch_hash(HELLO)
            .args(["--offline", "--executable", "--name", &name, "--index"])
            .arg(&index);
        run.umask(umask).go().exits(0);
        assert_eq!(mode(&env.out(&name)), expected | ((expected & 0o444) >> 2));
    }
}

/// `-o -` verifies first: nothing of a wrong body reaches stdout.
#[test]
fn nothing_unverified_reaches_stdout() {
    if lacks("nothing_unverified_reaches_stdout", NGINX, false) {
        return;
    }
    let env = TestEnv::new();
    let nginx = Nginx::new(&env);
    env.write("www/wrong", "wrong\n");
    env.write("www/hello", "hello\n");
    refused(
        env.fetch_hash(HELLO)
            .args(["-o", "-"])
            .arg(nginx.url("/wrong"))
            .go(),
        4,
        &[],
    );
    let right = env
        .fetch_hash(HELLO)
        .args(["-o", "-"])
        .args([nginx.url("/wrong"), nginx.url("/hello")])
        .go()
        .exits(0);
    assert_eq!(right.stdout, "hello\n");
    assert_eq!(env.outputs(), [""; 0]);
    let nowhere = env.fetch_hash(HELLO).args(["-o", "-"]);
    let nowhere = nowhere.variable("TMPDIR", "/no/where").go();
    refused(nowhere, 7, &["/no/where", "TMPDIR"]);
}

fn make_fifo(path: &Path) {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from(0o666),
        0,
    )
    .unwrap();
}

/// The tests above that lower privileges mean nothing if they do not.
#[test]
fn nobody_is_nobody() {
    if !is_root() || lacks("nobody_is_nobody", &["setpriv"], true) {
        return;
    }
    let env = TestEnv::new();
    env.open_to_everybody();
    env.write("folder/a", "hello\n");
    let index = env.path("cache/index");
    env.store_index(["update", "--index"])
        .arg(&index)
        .arg(env.path("folder"))
        .by_nobody()
        .go()
        .exits(0);
    use std::os::unix::fs::MetadataExt as _;
    assert_ne!(fs_err::metadata(&index).unwrap().uid(), 0);
}
