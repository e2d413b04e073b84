//! The store's own database: a real Nix store, one as Guix has it, writers at work, and what is no database.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod lacks;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::lacks::{is_root, lacks};
use rusqlite::Connection;
use store_index::address::{ContentAddress, Method, NarHash};
use store_index::digest::{Digest, sha256};
use store_index::store_database::{DatabaseError, StoreDatabase, ValidItem, default_path};

/// Tells a child process which database to read; see [`read_by_nobody`].
const DATABASE_VARIABLE: &str = "FETCH_TESTS_DATABASE";

/// The uid and gid of nobody.
const NOBODY: &str = "65534";

/// A folder that everybody may enter.
fn open_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    allow(dir.path(), 0o755);
    dir
}

fn allow(path: &Path, mode: u32) {
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The names in a folder, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs_err::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn base_name(number: u32) -> String {
    format!("{:0>32}-item-{number}", number)
}

fn nar_hash(number: u32) -> NarHash {
    NarHash(Digest::sha256(sha256(&number.to_le_bytes())))
}

/// A database as Guix has it, with three items; open, as a daemon has it.
fn guix_database(path: &Path) -> Connection {
    let writer = Connection::open(path).unwrap();
    writer.pragma_update(None, "journal_mode", "wal").unwrap();
    writer
        .execute_batch(
            "CREATE TABLE ValidPaths (id integer primary key autoincrement not null, path text unique not null, \
             hash text not null, registrationTime integer not null, deriver text, narSize integer)",
        )
        .unwrap();
    for number in 1..=3 {
        insert(&writer, number);
    }
    writer
}

fn insert(writer: &Connection, number: u32) {
    let path = format!("/gnu/store/{}", base_name(number));
    let hash = format!("sha256:{}", nar_hash(number).0.to_hex());
    writer
        .execute(
            "INSERT INTO ValidPaths (path, hash, registrationTime, narSize) VALUES (?1, ?2, 1, ?3)",
            (path, hash, number * 100),
        )
        .unwrap();
}

fn open(path: &Path) -> StoreDatabase {
    StoreDatabase::open("/gnu/store", path)
        .unwrap()
        .expect("the database is there")
}

fn valid(database: &StoreDatabase) -> Vec<ValidItem> {
    let mut items = Vec::new();
    let skipped = database.for_each_valid(|item| items.push(item)).unwrap();
    assert_eq!(skipped, 0);
    items.sort_by(|a, b| a.base_name.cmp(&b.base_name));
    items
}

/// Runs [`child`] as nobody on a database and returns how many items it saw, or why it did not.
fn read_by_nobody(path: &Path) -> String {
    let dir = open_folder();
    let program = dir.path().join("test");
    fs_err::copy(std::env::current_exe().unwrap(), &program).unwrap();
    allow(&program, 0o755);
    let output = Command::new("setpriv")
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
        .arg(&program)
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(DATABASE_VARIABLE, path)
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{stdout}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
        .lines()
        .find_map(|line| line.split_once("SAW ").map(|(_, saw)| saw.to_owned()))
        .expect("the child says what it saw")
}

#[test]
fn child() {
    let Some(path) = std::env::var_os(DATABASE_VARIABLE) else {
        return;
    };
    let saw = match StoreDatabase::open("/gnu/store", Path::new(&path)) {
        Ok(Some(mut database)) => {
            assert!(database.is_valid(&base_name(1)).unwrap());
            format!("{} items", valid(&database).len())
        }
        Ok(None) => "none".to_owned(),
        Err(_) => "an error".to_owned(),
    };
    std::io::Write::write_all(&mut std::io::stdout(), format!("\nSAW {saw}\n").as_bytes()).unwrap();
}

#[test]
fn a_guix_database_is_read_idle_and_while_it_is_written() {
    let dir = open_folder();
    let path = dir.path().join("db.sqlite");
    let writer = guix_database(&path);
    insert(&writer, 4);
    let beside = names(dir.path());
    assert_eq!(beside, ["db.sqlite", "db.sqlite-shm", "db.sqlite-wal"]);
    let mut database = open(&path);
    let items = valid(&database);
    assert_eq!(items.len(), 4, "what is only in the log counts");
    assert_eq!(
        items[0],
        ValidItem {
            base_name: base_name(1),
            nar_hash: nar_hash(1),
            nar_size: Some(100),
            content_address: None,
        }
    );
    insert(&writer, 5);
    assert_eq!(
        database.items_with_nar_hash(&nar_hash(5)).unwrap(),
        [base_name(5)]
    );
    assert!(database.is_valid(&base_name(5)).unwrap());
    assert!(!database.is_valid(&base_name(6)).unwrap());
    assert!(!database.is_valid("' OR 1 --").unwrap());
    drop(database);
    assert_eq!(names(dir.path()), beside);

    writer.close().unwrap();
    assert_eq!(names(dir.path()), ["db.sqlite"]);
    let mut database = open(&path);
    assert_eq!(valid(&database).len(), 5);
    assert!(
        database
            .items_with_nar_hash(&nar_hash(9))
            .unwrap()
            .is_empty()
    );
    drop(database);
    assert_eq!(
        names(dir.path()),
        ["db.sqlite"],
        "nothing is created beside it"
    );
}

#[test]
fn a_writer_that_comes_later_is_noticed() {
    let dir = open_folder();
    let path = dir.path().join("db.sqlite");
    guix_database(&path).close().unwrap();
    let mut database = open(&path);
    assert!(!database.is_valid(&base_name(7)).unwrap());
    let writer = Connection::open(&path).unwrap();
    insert(&writer, 7);
    assert!(
        database.is_valid(&base_name(7)).unwrap(),
        "still in the log"
    );
    let mut database = open(&path);
    drop(writer);
    insert(&Connection::open(&path).unwrap(), 8);
    assert_eq!(
        database.items_with_nar_hash(&nar_hash(8)).unwrap(),
        [base_name(8)]
    );
}

#[test]
fn a_scan_of_a_database_that_was_changed_says_so() {
    let dir = open_folder();
    let path = dir.path().join("db.sqlite");
    guix_database(&path).close().unwrap();
    let database = open(&path);
    let writer = Connection::open(&path).unwrap();
    insert(&writer, 7);
    let result = database.for_each_valid(|_| ());
    assert!(
        matches!(result, Err(DatabaseError::Changed(_))),
        "{result:?}"
    );
}

#[test]
fn files_of_a_crashed_writer_do_no_harm() {
    let dir = open_folder();
    let path = dir.path().join("db.sqlite");
    let writer = guix_database(&path);
    writer
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))
        .unwrap();
    insert(&writer, 4);
    let crashed = dir.path().join("crashed");
    fs_err::create_dir(&crashed).unwrap();
    allow(&crashed, 0o755);
    for name in names(dir.path())
        .iter()
        .filter(|name| name.starts_with("db"))
    {
        fs_err::copy(dir.path().join(name), crashed.join(name)).unwrap();
    }
    let copy = crashed.join("db.sqlite");
    let before = names(&crashed);
    assert!(valid(&open(&copy)).len() >= 3);
    if is_root() {
        let saw = read_by_nobody(&copy);
        assert!(["3 items", "4 items"].contains(&saw.as_str()), "{saw}");
    }
    assert_eq!(names(&crashed), before);
    fs_err::write(crashed.join("db.sqlite-shm"), "garbage").unwrap();
    fs_err::write(crashed.join("db.sqlite-wal"), "garbage").unwrap();
    assert_eq!(valid(&open(&copy)).len(), 3);
}

#[test]
fn anybody_can_read_it() {
    if lacks("anybody_can_read_it", &["setpriv"], true) {
        return;
    }
    let dir = open_folder();
    let path = dir.path().join("db.sqlite");
    let writer = guix_database(&path);
    for name in names(dir.path()) {
        allow(&dir.path().join(name), 0o644);
    }
    assert_eq!(
        read_by_nobody(&path),
        "3 items",
        "while a writer has it open"
    );
    writer.close().unwrap();
    assert_eq!(
        read_by_nobody(&path),
        "3 items",
        "in a folder that nobody may write to"
    );
    assert_eq!(names(dir.path()), ["db.sqlite"]);
    // Where nobody may write, SQLite could create files, and must not.
    allow(dir.path(), 0o777);
    allow(&path, 0o666);
    assert_eq!(read_by_nobody(&path), "3 items");
    assert_eq!(names(dir.path()), ["db.sqlite"]);
    allow(&path, 0o600);
    assert_eq!(read_by_nobody(&path), "an error");
    allow(dir.path(), 0o700);
    assert_eq!(read_by_nobody(&path), "an error");
}

#[test]
fn what_is_no_store_database_is_an_error_or_none() {
    let dir = open_folder();
    let at = |name: &str| dir.path().join(name);
    assert!(
        StoreDatabase::open("/gnu/store", &at("absent"))
            .unwrap()
            .is_none()
    );
    assert!(
        StoreDatabase::open("/gnu/store", &at("absent/db.sqlite"))
            .unwrap()
            .is_none()
    );

    let refused = |name: &str| StoreDatabase::open("/gnu/store", &at(name)).unwrap_err();
    fs_err::write(
        at("garbage"),
        "this is no database at all, but it is long enough to look".repeat(40),
    )
    .unwrap();
    assert!(matches!(refused("garbage"), DatabaseError::Read { .. }));
    fs_err::write(at("empty"), "").unwrap();
    assert!(matches!(refused("empty"), DatabaseError::NoTable(_)));
    assert!(matches!(refused("."), DatabaseError::NotAFile(_)));
    let pipe = at("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert!(matches!(refused("pipe"), DatabaseError::NotAFile(_)));

    let tables = [
        ("other", "CREATE TABLE Other (path)"),
        ("columns", "CREATE TABLE ValidPaths (id, path)"),
        (
            "view",
            "CREATE VIEW ValidPaths AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
             SELECT i AS path, i AS hash, i AS narSize FROM n",
        ),
    ];
    for (name, sql) in tables {
        Connection::open(at(name))
            .unwrap()
            .execute_batch(sql)
            .unwrap();
        assert!(matches!(refused(name), DatabaseError::NoTable(_)), "{name}");
    }
    let before: Vec<_> = names(dir.path());
    assert_eq!(
        before,
        ["columns", "empty", "garbage", "other", "pipe", "view"]
    );
}

#[test]
fn a_damaged_database_never_panics() {
    let dir = open_folder();
    let path = dir.path().join("db.sqlite");
    guix_database(&path).close().unwrap();
    let whole = fs_err::read(&path).unwrap();
    for damaged in 0..whole.len().min(9000) / 31 {
        let mut bytes = whole.clone();
        bytes[damaged * 31] ^= 0xff;
        if damaged % 3 == 0 {
            bytes.truncate(bytes.len() - damaged);
        }
        fs_err::write(&path, bytes).unwrap();
        if let Ok(Some(mut database)) = StoreDatabase::open("/gnu/store", &path) {
            let mut count = 0;
            let _result = database.for_each_valid(|_| count += 1);
            assert!(count <= 1000, "{count}");
            let _result = database.is_valid(&base_name(1));
            let _result = database.items_with_nar_hash(&nar_hash(1));
        }
        assert_eq!(names(dir.path()), ["db.sqlite"]);
    }
}

#[test]
fn rows_that_make_no_sense_are_left_out() {
    let dir = open_folder();
    let path = dir.path().join("db.sqlite");
    let writer = guix_database(&path);
    let good = base_name(9);
    let hash = format!("sha256:{}", nar_hash(9).0.to_hex());
    for (path, hash) in [
        (format!("/gnu/store/{good}/../../../etc"), hash.as_str()),
        (format!("/nix/store/{good}"), &hash),
        ("/gnu/store/.links".to_owned(), &hash),
        (format!("/gnu/store/{good}\n"), &hash),
        (format!("/gnu/store/{good}"), "sha256:zz"),
    ] {
        writer
            .execute(
                "INSERT INTO ValidPaths (path, hash, registrationTime) VALUES (?1, ?2, 1)",
                (path, hash),
            )
            .unwrap();
    }
    writer
        .execute("INSERT INTO ValidPaths (path, hash, registrationTime, narSize) VALUES (x'00ff', 1.5, 1, 'x')", ())
        .unwrap();
    let mut count = 0;
    assert_eq!(open(&path).for_each_valid(|_| count += 1).unwrap(), 6);
    assert_eq!(count, 3);
    assert!(
        open(&path)
            .items_with_nar_hash(&nar_hash(9))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_real_nix_store() {
    if lacks(
        "a_real_nix_store",
        &["nix-store", "nix-hash", "timeout"],
        false,
    ) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap().join("nix");
    let store = root.join("store");
    let nix = |args: &[&str]| {
        // Under a limit, and never through a daemon: Nix 2.8 without a state folder forks without end.
        let output = Command::new("timeout")
            .arg("60")
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", dir.path())
            .env("NIX_REMOTE", "local")
            .env("NIX_STORE_DIR", &store)
            .env("NIX_STATE_DIR", root.join("var/nix"))
            .env("NIX_LOG_DIR", root.join("var/log/nix"))
            .env("NIX_CONF_DIR", root.join("etc"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{args:?} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    };
    fs_err::create_dir_all(root.join("etc")).unwrap();
    fs_err::write(
        root.join("etc/nix.conf"),
        "build-users-group =\nsandbox = false\n",
    )
    .unwrap();
    nix(&["nix-store", "--init"]);
    let hello = dir.path().join("hello.txt");
    fs_err::write(&hello, "hello\n").unwrap();
    let tree = dir.path().join("tree");
    fs_err::create_dir(&tree).unwrap();
    fs_err::write(tree.join("file"), "in a tree").unwrap();
    let item = |path: String| {
        Path::new(&path)
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    let flat = item(nix(&[
        "nix-store",
        "--add-fixed",
        "sha1",
        hello.to_str().unwrap(),
    ]));
    let added = item(nix(&["nix-store", "--add", tree.to_str().unwrap()]));
    let hash = |path: &Path| {
        let hex = nix(&["nix-hash", "--type", "sha256", path.to_str().unwrap()]);
        NarHash(Digest::sha256(
            hex::decode(hex).unwrap().try_into().unwrap(),
        ))
    };

    let logical = store.to_str().unwrap();
    let path = default_path(&store, &store, None).unwrap();
    let before = names(path.parent().unwrap());
    let mut database = StoreDatabase::open(logical, &path).unwrap().unwrap();
    let items = valid(&database);
    assert_eq!(items.len(), 2);
    for found in items {
        let (expected, content_hash, method) = if found.base_name == flat {
            (
                hash(&hello),
                "f572d396fae9206628714fb2ce00f72e94f2258f".to_owned(),
                Method::Flat,
            )
        } else {
            assert_eq!(found.base_name, added);
            (hash(&tree), hash(&tree).0.to_hex(), Method::Nar)
        };
        assert_eq!(found.nar_hash, expected);
        let address: ContentAddress = found.content_address.unwrap();
        assert_eq!(
            (address.method(), address.digest().to_hex()),
            (method, content_hash)
        );
        assert!(
            found
                .nar_size
                .is_some_and(|size| size > 100 && size % 8 == 0)
        );
    }
    assert_eq!(
        database.items_with_nar_hash(&hash(&tree)).unwrap(),
        [added.as_str()]
    );
    assert!(database.is_valid(&added).unwrap() && database.is_valid(&flat).unwrap());
    drop(database);
    assert_eq!(
        names(path.parent().unwrap()),
        before,
        "nothing is created beside it"
    );
    nix(&[
        "nix-store",
        "--delete",
        store.join(&added).to_str().unwrap(),
    ]);
    let before = names(path.parent().unwrap());
    let mut database = StoreDatabase::open(logical, &path).unwrap().unwrap();
    assert!(!database.is_valid(&added).unwrap());
    drop(database);
    assert_eq!(
        names(path.parent().unwrap()),
        before,
        "nothing is created beside it"
    );
}
