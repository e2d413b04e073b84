//! Whole trees: found by the store's own database and by the directory links of an index, whatever they are called.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::nix::{NIX, NixStore};
use crate::support::{Run, TestEnv, lacks, mode, names_in, noise, wait_until};

/// The program that makes and holds databases; see [`guix_database`].
const SQLITE: &str = "sqlite3";

/// The git id of a directory with nothing in it.
const EMPTY_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

impl Run<'_> {
    fn in_store(self, dir: &Path) -> Self {
        self.arg("--store").arg(dir)
    }

    fn in_medium(self, dir: &Path) -> Self {
        self.arg("--media").arg(dir)
    }

    fn with_index(self, index: &Path) -> Self {
        self.arg("--index").arg(index)
    }

    fn nar(self) -> Self {
        self.args(["--mode", "nar"])
    }

    fn git(self) -> Self {
        self.args(["--mode", "git"])
    }

    fn to(self, name: &str) -> Self {
        self.args(["--offline", "-o", name])
    }
}

/// Runs git without anybody's configuration and returns what it printed.
#[track_caller]
fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=somebody",
            "-c",
            "user.email=somebody@example.org",
        ])
        .args([
            "-c",
            "core.autocrlf=false",
            "-c",
            "core.fileMode=true",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .current_dir(dir)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {args:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

/// Makes a repository of what is in a directory and returns the id of its tree.
fn commit_all(dir: &Path) -> String {
    git(dir, &["init", "-q"]);
    git(dir, &["add", "-A", "-f"]);
    git(dir, &["commit", "-q", "--allow-empty", "-m", "all"]);
    git(dir, &["rev-parse", "HEAD^{tree}"])
}

/// Returns the ids of all directories of a repository's commit, by path.
fn tree_ids(dir: &Path) -> BTreeMap<String, String> {
    let listing = git(dir, &["ls-tree", "-r", "-t", "-z", "HEAD"]);
    listing
        .split('\0')
        .filter_map(|line| {
            let (what, path) = line.split_once('\t')?;
            let id = what.strip_prefix("040000 tree ")?;
            Some((path.to_owned(), id.to_owned()))
        })
        .collect()
}

/// A tree with everything in it that a tree can have and git can keep.
fn fill(env: &TestEnv, at: &str) -> PathBuf {
    env.write(format!("{at}/a/x"), "x\n");
    env.write(format!("{at}/a.b"), "sorts before a/\n");
    env.write(format!("{at}/a0"), "sorts after a/\n");
    env.write(format!("{at}/deep/er/data"), noise(1, 300_000));
    env.write(format!("{at}/line\nbreak/n\n"), "newlines\n");
    env.write(format!("{at}/empty"), "");
    let run = env.write(format!("{at}/deep/run"), noise(2, 5_000));
    allow(&run, 0o755);
    symlink("../a/x", env.path(format!("{at}/deep/link"))).unwrap();
    symlink("/etc/passwd", env.path(format!("{at}/out"))).unwrap();
    symlink("nowhere", env.path(format!("{at}/dangling"))).unwrap();
    env.path(at)
}

fn allow(path: &Path, mode: u32) {
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Describes everything below a directory but `.git`: types, executable bits, contents.
fn content(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(below) = open.pop() {
        let path = dir.join(&below);
        let meta = fs_err::symlink_metadata(&path).unwrap();
        let what = if meta.is_symlink() {
            format!("-> {}", fs_err::read_link(&path).unwrap().display())
        } else if meta.is_dir() {
            let names = fs_err::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            open.extend(
                names
                    .filter(|name| name != ".git")
                    .map(|name| below.join(name)),
            );
            "directory".into()
        } else {
            format!("{} {:?}", mode(&path) & 0o100, fs_err::read(&path).unwrap())
        };
        found.insert(below, what);
    }
    found
}

/// Indexes a folder.
#[track_caller]
fn update(env: &TestEnv, folder: &Path, index: &Path, algorithms: &str) {
    env.store_index(["update", "--algorithms", algorithms, "--index"])
        .arg(index)
        .arg(folder)
        .go()
        .exits(0);
}

#[track_caller]
fn update_store(env: &TestEnv, store: &Path, index: &Path) -> serde_json::Value {
    let report = env
        .store_index(["update", "--index"])
        .arg(index)
        .in_store(store)
        .json(0);
    report.object["roots"][0].clone()
}

#[track_caller]
fn checks(env: &TestEnv, index: &Path, exit: i32) -> String {
    let outcome = env
        .store_index(["check", "--content", "--index"])
        .arg(index)
        .go();
    outcome.exits(exit).stdout
}

/// Returns the links of an index with their targets.
fn links(index: &Path, kind: &str) -> BTreeMap<String, PathBuf> {
    let folder = index.join("dirlinks").join(kind);
    if !folder.exists() {
        return BTreeMap::new();
    }
    names_in(&folder)
        .into_iter()
        .map(|name| {
            let target = fs_err::read_link(folder.join(&name)).unwrap();
            (name, target)
        })
        .collect()
}

/// Adds a tree to a store in a way that its path says nothing of its NAR's SHA-256.
fn add_otherwise(store: &NixStore, tree: &Path) -> PathBuf {
    store.add_fixed("sha512", true, tree)
}

#[test]
fn the_database_knows_a_tree_under_another_name() {
    let lacking = "the_database_knows_a_tree_under_another_name";
    if lacks(lacking, NIX, false) || lacks(lacking, &[SQLITE], false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let tree = fill(&env, "foo-1.2-checkout");
    let item = add_otherwise(&store, &tree);
    let hash = store.nar_hash(&item);
    // Without an index the database itself is asked, after everything cheaper.
    let report = env
        .fetch_hash(&hash)
        .nar()
        .in_store(&store.dir())
        .to("one")
        .json(0);
    assert_eq!(report.kind(), "directories");
    assert_eq!(report.location(), item.to_str().unwrap());
    assert_eq!(content(&env.out("one")), content(&tree));
    // While somebody writes.
    let database = store.root().join("var/nix/db/db.sqlite");
    let mut writer = Writer::on(&database);
    let report = env
        .fetch_hash(&hash)
        .nar()
        .in_store(&store.dir())
        .to("two")
        .json(0);
    assert_eq!(report.kind(), "directories");
    // With an index its link is found first.
    let index = env.path("index");
    let updated = update_store(&env, &store.dir(), &index);
    assert_eq!(updated["directories"], 1);
    writer.end();
    assert_eq!(
        links(&index, "nar-sha256")
            .into_values()
            .collect::<Vec<_>>(),
        std::slice::from_ref(&item)
    );
    let explained = env
        .fetch([
            "explain",
            "--no-store",
            "--no-media",
            "--mode",
            "nar",
            &hash,
        ])
        .in_store(&store.dir())
        .with_index(&index)
        .go()
        .exits(0);
    assert!(
        explained.stdout.contains("directories found"),
        "{explained}"
    );
    let report = env
        .fetch_hash(&hash)
        .nar()
        .in_store(&store.dir())
        .with_index(&index)
        .to("three")
        .json(0);
    assert_eq!(report.attempts().last().unwrap().0, "directories");
    assert!(
        report.attempts().len() < 5,
        "the database was asked too: {report:?}"
    );
    assert_eq!(checks(&env, &index, 0), "");
    // Nothing changed: nothing is written.
    let before = crate::support::portrait(&index.join("dirlinks"));
    update_store(&env, &store.dir(), &index);
    assert_eq!(crate::support::portrait(&index.join("dirlinks")), before);
    // The item goes, its link with it.
    store.delete(&item);
    assert_eq!(update_store(&env, &store.dir(), &index)["directories"], 0);
    assert!(!index.join("dirlinks").exists());
    env.fetch_hash(&hash)
        .nar()
        .in_store(&store.dir())
        .with_index(&index)
        .to("four")
        .json(3);
}

/// Holds a transaction that writes.
struct Writer {
    child: std::process::Child,
    stdin: Option<std::process::ChildStdin>,
}

impl Writer {
    fn on(database: &Path) -> Self {
        let mut child = Command::new(SQLITE)
            .arg(database)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let script =
            "PRAGMA journal_mode=WAL;\nBEGIN IMMEDIATE;\nCREATE TABLE held (x);\n.print holding\n";
        std::io::Write::write_all(&mut stdin, script.as_bytes()).unwrap();
        let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("holding") {
            line.clear();
            assert!(std::io::BufRead::read_line(&mut stdout, &mut line).unwrap() > 0);
        }
        Self {
            child,
            stdin: Some(stdin),
        }
    }

    fn end(&mut self) {
        // It ends with its input.
        drop(self.stdin.take());
        self.child.wait().unwrap();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

/// Makes a store as Guix has it, with one valid item, and returns the store and the item's name.
fn guix_store(env: &TestEnv, name: &str, nar_hex: &str) -> PathBuf {
    let store = env.path("host/gnu/store");
    let database = env.path("host/var/guix/db/db.sqlite");
    fs_err::create_dir_all(database.parent().unwrap()).unwrap();
    // The schema of guix-daemon: no column for content addresses.
    let script = format!(
        "PRAGMA journal_mode=WAL;
         CREATE TABLE ValidPaths (id integer primary key autoincrement not null, path text unique not null,
             hash text not null, registrationTime integer not null, deriver text, narSize integer);
         INSERT INTO ValidPaths (path, hash, registrationTime, narSize)
             VALUES ('/gnu/store/{name}', 'sha256:{nar_hex}', 1, 1);"
    );
    let status = Command::new(SQLITE)
        .arg(&database)
        .arg(script)
        .output()
        .unwrap()
        .status;
    assert!(status.success());
    store
}

#[test]
fn a_guix_store_mounted_elsewhere_is_asked_through_its_own_database() {
    let lacking = "a_guix_store_mounted_elsewhere_is_asked_through_its_own_database";
    if lacks(lacking, NIX, false) || lacks(lacking, &[SQLITE], false) {
        return;
    }
    let env = TestEnv::new();
    let name = "0123456789abcdfghijklmnpqrsvwxyz-hello-checkout";
    let tree = fill(&env, &format!("host/gnu/store/{name}"));
    let nix = NixStore::new(&env);
    let hash = nix.nar_hash(&tree);
    let hex = nix.nix("nix-hash", &["--type", "sha256", tree.to_str().unwrap()]);
    let store = guix_store(&env, name, &hex);
    let option = format!("/gnu/store={}", store.display());
    let report = env
        .fetch_hash(&hash)
        .nar()
        .args(["--store", &option])
        .to("one")
        .json(0);
    assert_eq!(report.kind(), "directories");
    assert_eq!(content(&env.out("one")), content(&tree));
    let index = env.path("index");
    env.store_index(["update", "--store", &option, "--index"])
        .arg(&index)
        .go()
        .exits(0);
    // The target is the store's own spelling, wherever its files are.
    let logical = PathBuf::from(format!("/gnu/store/{name}"));
    assert_eq!(
        links(&index, "nar-sha256")
            .into_values()
            .collect::<Vec<_>>(),
        [logical]
    );
    let report = env
        .fetch_hash(&hash)
        .nar()
        .args(["--store", &option])
        .with_index(&index)
        .to("two")
        .json(0);
    assert_eq!(report.attempts().last().unwrap().0, "directories");
    assert_eq!(report.location(), tree.to_str().unwrap());
}

#[test]
fn another_user_may_ask_and_without_a_database_there_are_no_links() {
    let lacking = "another_user_may_ask_and_without_a_database_there_are_no_links";
    if lacks(lacking, NIX, true) || lacks(lacking, &["setpriv"], true) {
        return;
    }
    let env = TestEnv::new();
    env.open_to_everybody();
    let store = NixStore::new(&env);
    let item = add_otherwise(&store, &fill(&env, "tree"));
    let hash = store.nar_hash(&item);
    let report = env
        .fetch_hash(&hash)
        .nar()
        .in_store(&store.dir())
        .to("one")
        .by_nobody()
        .json(0);
    assert_eq!(report.kind(), "directories");
    let state = names_in(&store.root().join("var/nix/db"));
    assert!(
        !state
            .iter()
            .any(|name| name.ends_with("-wal") || name.ends_with("-shm")),
        "{state:?}"
    );
    let index = env.path("cache/index");
    env.store_index(["update", "--index"])
        .arg(&index)
        .in_store(&store.dir())
        .by_nobody()
        .go()
        .exits(0);
    assert_eq!(links(&index, "nar-sha256").len(), 1);
    fs_err::remove_dir_all(store.root().join("var")).unwrap();
    let fresh = env.path("fresh");
    let updated = update_store(&env, &store.dir(), &fresh);
    assert_eq!(updated["directories"], 0);
    assert_eq!(updated["warnings"], serde_json::json!([]));
    assert!(
        updated["notes"][0]
            .as_str()
            .unwrap()
            .contains("no database"),
        "{updated}"
    );
    env.fetch_hash(&hash)
        .nar()
        .in_store(&store.dir())
        .with_index(&fresh)
        .to("two")
        .json(3);
}

#[test]
fn the_database_knows_all_names_of_a_tree() {
    if lacks("the_database_knows_all_names_of_a_tree", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let item = add_otherwise(&store, &fill(&env, "foo-1.2"));
    let hash = store.nar_hash(&item);
    let index = env.path("index");
    update_store(&env, &store.dir(), &index);
    let ask = |output: &str| {
        env.fetch_hash(&hash)
            .nar()
            .in_store(&store.dir())
            .with_index(&index)
            .args(["--name", "foo-1.3"])
            .to(output)
    };
    // Only under another version's name: offline it is used, with a warning.
    let report = ask("one").json(0);
    report.tried("directories", "suspicious", "foo-1.2");
    // The same tree under the wanted version's name too, which only the database knows.
    fs_err::rename(env.path("foo-1.2"), env.path("foo-1.3")).unwrap();
    add_otherwise(&store, &env.path("foo-1.3"));
    let report = ask("two").json(0);
    assert!(
        report
            .attempts()
            .iter()
            .all(|attempt| attempt.1 != "suspicious"),
        "{report:?}"
    );
}

#[test]
fn ids_of_checkouts_and_all_their_directories_are_those_of_git() {
    if lacks(
        "ids_of_checkouts_and_all_their_directories_are_those_of_git",
        &["git"],
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let repository = fill(&env, "sources/repository");
    let id = commit_all(&repository);
    let ids = tree_ids(&repository);
    let (sources, index) = (env.path("sources"), env.path("index"));
    update(&env, &sources, &index, "git");
    let linked = links(&index, "git-sha1");
    assert_eq!(linked[&id], repository);
    assert!(ids.len() >= 4, "{ids:?}");
    for (path, id) in &ids {
        assert_eq!(&linked[id], &repository.join(path));
    }
    for hash in [id.clone(), format!("swh:1:dir:{id}")] {
        let output = hash.replace(':', "_");
        let report = env
            .fetch_hash(&hash)
            .git()
            .in_medium(&sources)
            .with_index(&index)
            .to(&output)
            .json(0);
        assert_eq!(report.kind(), "directories");
        assert_eq!(report.location(), repository.to_str().unwrap());
        assert_eq!(content(&env.out(&output)), content(&repository));
        assert!(!env.out(&output).join(".git").exists());
    }
    assert_eq!(checks(&env, &index, 0), "");
    // A change makes new ids from bottom to top, and the old ones go.
    env.write("sources/repository/deep/er/data", "changed\n");
    allow(&repository.join("a/x"), 0o755);
    update(&env, &sources, &index, "git");
    let changed = commit_all(&repository);
    let linked = links(&index, "git-sha1");
    assert!(linked.contains_key(&changed) && !linked.contains_key(&id));
    for id in tree_ids(&repository).values() {
        assert!(linked.contains_key(id), "{id}");
    }
    env.fetch_hash(&id)
        .git()
        .in_medium(&sources)
        .with_index(&index)
        .to("gone")
        .json(3);
}

#[test]
fn random_trees_have_the_ids_that_git_gives_them() {
    if lacks(
        "random_trees_have_the_ids_that_git_gives_them",
        &["git"],
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let mut wanted = Vec::new();
    for seed in 0..12 {
        let tree = env.path(format!("trees/{seed}"));
        fs_err::create_dir_all(&tree).unwrap();
        grow(&tree, &mut noise(seed, 4_000).into_iter(), 0);
        wanted.push((commit_all(&tree), tree_ids(&tree), tree));
    }
    let index = env.path("index");
    update(&env, &env.path("trees"), &index, "git,nar");
    let linked = links(&index, "git-sha1");
    for (id, ids, tree) in wanted {
        assert!(linked.contains_key(&id), "{}", tree.display());
        for (path, id) in ids {
            assert!(linked.contains_key(&id), "{}/{path}", tree.display());
        }
    }
    assert_eq!(checks(&env, &index, 0), "");
}

/// Fills a directory as the bytes say.
fn grow(dir: &Path, bytes: &mut impl Iterator<Item = u8>, depth: usize) {
    const NAMES: [&[u8]; 10] = [
        b"a",
        b"a.b",
        b"a0",
        b"a-",
        b"A",
        b"\xff\xfe",
        b"\n",
        b" ",
        b"-rf",
        "ü".as_bytes(),
    ];
    let next = |bytes: &mut dyn Iterator<Item = u8>| bytes.next().unwrap_or(0);
    let entries = 1 + usize::from(next(bytes)) % 6;
    for _ in 0..entries {
        let name = NAMES[usize::from(next(bytes)) % NAMES.len()];
        let (what, len) = (next(bytes), next(bytes));
        let path = dir.join(std::ffi::OsStr::from_bytes(name));
        if fs_err::symlink_metadata(&path).is_ok() {
            continue;
        }
        match what % 8 {
            0 => symlink("target", &path).unwrap(),
            1 | 2 if depth < 5 => {
                fs_err::create_dir(&path).unwrap();
                // Git cannot keep an empty one.
                fs_err::write(path.join("z"), [len]).unwrap();
                grow(&path, bytes, depth + 1);
            }
            _ => {
                fs_err::write(&path, vec![what; usize::from(len)]).unwrap();
                allow(&path, if what & 0x80 == 0 { 0o644 } else { 0o755 });
            }
        }
    }
}

#[test]
fn nar_hashes_are_those_of_nix_without_any_git_directory() {
    if lacks(
        "nar_hashes_are_those_of_nix_without_any_git_directory",
        NIX,
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let nix = NixStore::new(&env);
    let unpacked = fill(&env, "shelf/unpacked-1.0");
    let nested = fill(&env, "shelf/group/projects/checkout");
    env.write("shelf/group/projects/checkout/only-here", "x\n");
    let outside = nix.nar_hash(&env.path("shelf/group"));
    let (whole, inner) = (nix.nar_hash(&unpacked), nix.nar_hash(&nested));
    env.write(
        "shelf/group/projects/checkout/.git/HEAD",
        "ref: refs/heads/main\n",
    );
    // As a submodule has it.
    env.write(
        "shelf/group/projects/checkout/deep/.git",
        "gitdir: ../.git/modules/deep\n",
    );
    let (shelf, index) = (env.path("shelf"), env.path("index"));
    update(&env, &shelf, &index, "nar");
    for (hash, place) in [
        (&whole, &unpacked),
        (&inner, &nested),
        (&outside, &env.path("shelf/group")),
    ] {
        let output = place.file_name().unwrap().to_str().unwrap();
        let report = env
            .fetch_hash(hash)
            .nar()
            .in_medium(&shelf)
            .with_index(&index)
            .to(output)
            .json(0);
        assert_eq!(
            (report.kind(), report.location()),
            ("directories", place.to_str().unwrap())
        );
        assert_eq!(&nix.nar_hash(&env.out(output)), hash);
    }
    // The directory of the submodule is a checkout too; nothing else below is.
    assert_eq!(links(&index, "nar-sha256").len(), 4);
    assert_eq!(checks(&env, &index, 0), "");
}

#[test]
fn a_store_item_with_a_git_directory_is_taken_as_it_is() {
    if lacks(
        "a_store_item_with_a_git_directory_is_taken_as_it_is",
        NIX,
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let tree = fill(&env, "left");
    let without = store.nar_hash(&tree);
    env.write("left/.git/HEAD", "deterministic\n");
    let item = add_otherwise(&store, &tree);
    let hash = store.nar_hash(&item);
    assert_ne!(hash, without);
    let index = env.path("index");
    update_store(&env, &store.dir(), &index);
    env.fetch_hash(&hash)
        .nar()
        .in_store(&store.dir())
        .with_index(&index)
        .to("whole")
        .json(0);
    assert!(env.out("whole/.git/HEAD").exists());
    // A link that says another hash than the item has leads to the tree without it, if that is what was wanted.
    let folder = index.join("dirlinks/nar-sha256");
    let name = store.nix("nix-hash", &["--to-base32", "--type", "sha256", &without]);
    symlink(&item, folder.join(name)).unwrap();
    env.fetch_hash(&without)
        .nar()
        .in_store(&store.dir())
        .with_index(&index)
        .to("less")
        .json(0);
    assert!(!env.out("less/.git").exists());
}

#[test]
fn an_unchanged_tree_is_not_read_again_and_a_rebuild_believes_nothing() {
    let env = TestEnv::new();
    let tree = fill(&env, "shelf/tree");
    let data = tree.join("deep/er/data");
    let (shelf, index) = (env.path("shelf"), env.path("index"));
    update(&env, &shelf, &index, "nar");
    let before = links(&index, "nar-sha256");
    // Other bytes behind the same size, time and inode: only who reads them can know.
    let modified = fs_err::metadata(&data).unwrap().modified().unwrap();
    let file = fs_err::OpenOptions::new().write(true).open(&data).unwrap();
    std::os::unix::fs::FileExt::write_all_at(file.file(), b"changed", 0).unwrap();
    file.file().set_modified(modified).unwrap();
    update(&env, &shelf, &index, "nar");
    assert_eq!(links(&index, "nar-sha256"), before);
    assert!(checks(&env, &index, 1).contains("has the digest"));
    env.store_index(["update", "--rebuild", "--algorithms", "nar", "--index"])
        .arg(&index)
        .arg(&shelf)
        .go()
        .exits(0);
    assert_ne!(links(&index, "nar-sha256"), before);
    assert_eq!(checks(&env, &index, 0), "");
    // Everything else that a tree consists of is noticed.
    let mut seen = links(&index, "nar-sha256");
    let changes: [&dyn Fn(); 4] = [
        &|| allow(&tree.join("a0"), 0o755),
        &|| fs_err::create_dir(tree.join("new")).unwrap(),
        &|| fs_err::rename(tree.join("a.b"), tree.join("a.c")).unwrap(),
        &|| {
            fs_err::remove_file(tree.join("out")).unwrap();
            symlink("elsewhere", tree.join("out")).unwrap();
        },
    ];
    for change in changes {
        change();
        update(&env, &shelf, &index, "nar");
        let now = links(&index, "nar-sha256");
        assert_ne!(now, seen);
        assert_eq!(checks(&env, &index, 0), "");
        seen = now;
    }
}

#[test]
fn links_on_a_medium_go_where_it_goes() {
    if lacks("links_on_a_medium_go_where_it_goes", &["git"], false) {
        return;
    }
    let env = TestEnv::new();
    let repository = fill(&env, "disc/repository");
    let id = commit_all(&repository);
    fs_err::create_dir(env.path("disc/nothing")).unwrap();
    env.store_index(["update", "--in-place", "--algorithms", "git,nar"])
        .arg(env.path("disc"))
        .go()
        .exits(0);
    let moved = env.path("mnt/elsewhere");
    fs_err::create_dir(env.path("mnt")).unwrap();
    fs_err::rename(env.path("disc"), &moved).unwrap();
    let index = moved.join(".store-index");
    // Any tool can follow them.
    let link = index.join("dirlinks/git-sha1").join(&id);
    assert_eq!(
        fs_err::read_link(&link).unwrap(),
        Path::new("../../../repository")
    );
    assert_eq!(fs_err::read(link.join("a/x")).unwrap(), b"x\n");
    let report = env
        .fetch_hash(&id)
        .git()
        .in_medium(&moved)
        .to("tree")
        .json(0);
    assert_eq!(
        report.location(),
        moved.join("repository").to_str().unwrap()
    );
    let report = env
        .fetch_hash(EMPTY_TREE)
        .git()
        .in_medium(&moved)
        .to("empty")
        .json(0);
    assert_eq!(report.location(), moved.join("nothing").to_str().unwrap());
    assert_eq!(names_in(&env.out("empty")), [""; 0]);
    assert_eq!(checks(&env, &index, 0), "");
    // The whole medium is a tree too, without the index on it.
    let root = links(&index, "git-sha1")
        .into_iter()
        .find(|(_, target)| target == Path::new("../../.."));
    let report = env
        .fetch_hash(root.unwrap().0)
        .git()
        .in_medium(&moved)
        .to("root")
        .json(0);
    assert_eq!(report.location(), moved.to_str().unwrap());
    assert!(!env.out("root/.store-index").exists() && env.out("root/repository/a/x").exists());
}

#[test]
fn a_link_that_leads_elsewhere_is_a_miss() {
    if lacks("a_link_that_leads_elsewhere_is_a_miss", &["git"], false) {
        return;
    }
    let env = TestEnv::new();
    let id = commit_all(&fill(&env, "secret"));
    env.write("disc/file", "x\n");
    env.store_index(["update", "--in-place", "--algorithms", "git"])
        .arg(env.path("disc"))
        .go()
        .exits(0);
    let index = env.path("disc/.store-index");
    let link = index.join("dirlinks/git-sha1").join(&id);
    let secret = env.path("secret");
    for target in [
        secret.to_str().unwrap(),
        "../../../../secret",
        "../../../x/../../secret",
        "../../..//",
        "../../../file",
        "../../../gone",
        "/proc/self/root",
    ] {
        fs_err::remove_file(&link).ok();
        symlink(target, &link).unwrap();
        env.fetch_hash(&id)
            .git()
            .in_medium(&env.path("disc"))
            .to("tree")
            .json(3);
        assert!(checks(&env, &index, 1).contains(&id), "{target}");
    }
    // Through a symbolic link on the disc nothing leads out either.
    symlink("../secret", env.path("disc/way-out")).unwrap();
    fs_err::remove_file(&link).unwrap();
    symlink("../../../way-out", &link).unwrap();
    env.fetch_hash(&id)
        .git()
        .in_medium(&env.path("disc"))
        .to("tree")
        .json(3);
    fs_err::remove_file(&link).unwrap();
    fs_err::write(&link, "no link").unwrap();
    env.fetch_hash(&id)
        .git()
        .in_medium(&env.path("disc"))
        .to("tree")
        .json(3);
    assert!(checks(&env, &index, 1).contains("no symbolic link"));
    // The next update that has something to do takes them away.
    env.store_index(["update", "--in-place", "--rebuild"])
        .arg(env.path("disc"))
        .go()
        .exits(0);
    assert_eq!(checks(&env, &index, 0), "");
}

#[test]
fn a_wrong_tree_costs_a_candidate_and_the_walk_goes_on() {
    if lacks(
        "a_wrong_tree_costs_a_candidate_and_the_walk_goes_on",
        &["git"],
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let mut id = String::new();
    for name in ["piped", "changed", "vanished", "good"] {
        id = commit_all(&fill(&env, &format!("{name}/tree")));
        env.store_index(["update", "--in-place", "--algorithms", "git"])
            .arg(env.path(name))
            .go()
            .exits(0);
    }
    let made = Command::new("mkfifo")
        .arg(env.path("piped/tree/a/pipe"))
        .status()
        .unwrap();
    assert!(made.success());
    env.write("changed/tree/a/x", "y\n");
    fs_err::remove_dir_all(env.path("vanished/tree")).unwrap();
    let mut run = env.fetch_hash(&id).git();
    for name in ["piped", "changed", "vanished", "good"] {
        run = run.in_medium(&env.path(name));
    }
    let report = run.to("tree").json(0);
    report
        .tried("directories", "failed", "piped/tree")
        .tried("directories", "mismatch", "changed/tree")
        .tried("directories", "absent", "vanished/tree")
        .tried("directories", "ok", "good/tree");
    assert_eq!(env.outputs(), ["tree"]);
    // Directories around a pipe have no id; the others keep theirs.
    env.store_index(["update", "--in-place"])
        .arg(env.path("piped"))
        .go()
        .exits(0);
    let targets: Vec<_> = links(&env.path("piped/.store-index"), "git-sha1")
        .into_values()
        .collect();
    assert!(
        targets.contains(&PathBuf::from("../../../tree/deep")),
        "{targets:?}"
    );
    assert!(
        !targets.contains(&PathBuf::from("../../../tree")),
        "{targets:?}"
    );
}

#[test]
fn a_tree_that_changes_while_it_is_copied_is_right_or_nothing() {
    if lacks(
        "a_tree_that_changes_while_it_is_copied_is_right_or_nothing",
        &["git"],
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let tree = fill(&env, "disc/tree");
    let (restless, right) = (tree.join("deep/er/data"), noise(1, 300_000));
    let id = commit_all(&tree);
    env.store_index(["update", "--in-place", "--algorithms", "git"])
        .arg(env.path("disc"))
        .go()
        .exits(0);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for bytes in [&right[..], &noise(7, 300_000), &right[..100_000]] {
                    fs_err::write(&restless, bytes).unwrap();
                }
            }
        });
        for turn in 0..25 {
            let output = format!("tree-{turn}");
            let outcome = env
                .fetch_hash(&id)
                .git()
                .in_medium(&env.path("disc"))
                .to(&output)
                .go();
            match outcome.status.code() {
                Some(0) => assert_eq!(
                    fs_err::read(env.out(&output).join("deep/er/data")).unwrap(),
                    right
                ),
                Some(3) => assert!(!env.out(&output).exists()),
                _ => panic!("{outcome}"),
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(
        env.outputs().iter().all(|name| name.starts_with("tree-")),
        "{:?}",
        env.outputs()
    );
}

#[test]
fn ten_thousand_levels_end_in_warnings_and_the_rest_is_there() {
    let env = TestEnv::new();
    // Each level is put around what is there: nobody holds a path open that is too long to be printed, at which Nix
    // in other tests would stumble.
    let (top, around) = (env.path("disc/deep"), env.path("disc/around"));
    fs_err::create_dir_all(&top).unwrap();
    for _ in 0..10_000 {
        fs_err::create_dir(&around).unwrap();
        fs_err::rename(&top, around.join("d")).unwrap();
        fs_err::rename(&around, &top).unwrap();
    }
    env.write("disc/side/file", "x\n");
    let index = env.path("index");
    update(&env, &env.path("disc"), &index, "git,nar");
    let targets: Vec<_> = links(&index, "git-sha1").into_values().collect();
    assert_eq!(targets, [env.path("disc/side")]);
    assert_eq!(checks(&env, &index, 0), "");
    while top.join("d").exists() {
        fs_err::rename(top.join("d"), &around).unwrap();
        fs_err::remove_dir(&top).unwrap();
        fs_err::rename(&around, &top).unwrap();
    }
}

#[test]
fn equal_trees_have_one_link_to_the_first() {
    if lacks("equal_trees_have_one_link_to_the_first", &["git"], false) {
        return;
    }
    let env = TestEnv::new();
    for name in ["b/2", "a.b", "a/z", "c"] {
        fill(&env, &format!("disc/{name}"));
    }
    let id = commit_all(&env.path("disc/c"));
    let index = env.path("index");
    update(&env, &env.path("disc"), &index, "git");
    // In the order of a walk, where a directory's own entries come first.
    assert_eq!(links(&index, "git-sha1")[&id], env.path("disc/a/z"));
    fs_err::remove_dir_all(env.path("disc/a")).unwrap();
    update(&env, &env.path("disc"), &index, "git");
    assert_eq!(links(&index, "git-sha1")[&id], env.path("disc/a.b"));
    assert_eq!(checks(&env, &index, 0), "");
}

#[test]
fn a_killed_update_leaves_links_that_are_true() {
    let env = TestEnv::new();
    for number in 0..1_500 {
        env.write(format!("disc/{number}/file"), number.to_string());
    }
    let (disc, index) = (env.path("disc"), env.path("index"));
    let mut killed = 0;
    for turn in 0_u64..24 {
        // Different names each time, so that links come and go.
        env.write(format!("disc/{turn}/more"), turn.to_string());
        fs_err::remove_dir_all(disc.join((1_400 + turn).to_string())).unwrap();
        let running = env
            .store_index(["update", "--algorithms", "git,nar", "--index"])
            .arg(&index)
            .arg(&disc)
            .start();
        std::thread::sleep(std::time::Duration::from_millis(turn * 12));
        running.signal(rustix::process::Signal::KILL);
        killed += usize::from(running.wait().was_killed());
        for (name, target) in links(&index, "git-sha1") {
            assert!(target.starts_with(&disc), "{name}");
        }
    }
    assert!(killed > 0, "no update was killed");
    update(&env, &disc, &index, "git,nar");
    assert_eq!(checks(&env, &index, 0), "");
    assert!(
        links(&index, "git-sha1")
            .keys()
            .all(|name| name.len() == 40)
    );
    wait_until("the links are all there", || {
        links(&index, "nar-sha256").len() == 1_476
    });
}
