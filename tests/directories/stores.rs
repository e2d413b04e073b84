//! Items of stores, found through the store's own database: Nix's and Guix's, while somebody writes, and as another user.

use super::*;

/// The program that makes and holds databases; see [`guix_database`].
const SQLITE: &str = "sqlite3";

#[track_caller]
fn update_store(env: &TestEnv, store: &Path, index: &Path) -> serde_json::Value {
    let report = env
        .store_index(["update", "--index"])
        .arg(index)
        .in_store(store)
        .json(0);
    report.object["roots"][0].clone()
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
fn the_environment_says_where_the_state_of_a_store_is() {
    let lacking = "the_environment_says_where_the_state_of_a_store_is";
    if lacks(lacking, NIX, false) || lacks(lacking, &["cp"], false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let item = add_otherwise(&store, &fill(&env, "tree"));
    let hash = store.nar_hash(&item);
    let states = env.path("states");
    fs_err::create_dir(&states).unwrap();
    let fetch = |store: &std::ffi::OsStr| {
        let run = env.fetch_hash(&hash).nar().to("out").arg("--store");
        run.arg(store)
    };
    let dir = store.dir();
    fetch(dir.as_os_str()).json(0);
    fs_err::remove_dir_all(env.out("out")).unwrap();
    fs_err::rename(store.root().join("var/nix"), states.join("own")).unwrap();
    fetch(dir.as_os_str()).json(3);
    // As Nix and Guix name it: the directory itself, or the one that has it.
    fs_err::create_dir(states.join("local")).unwrap();
    symlink(states.join("own"), states.join("local/nix")).unwrap();
    fs_err::create_dir(states.join("local-guix")).unwrap();
    symlink(states.join("own"), states.join("local-guix/guix")).unwrap();
    for (variable, value) in [
        ("NIX_STATE_DIR", "own"),
        ("GUIX_STATE_DIRECTORY", "own"),
        ("NIX_LOCALSTATE_DIR", "local"),
        ("NIX_LOCALSTATE_DIR", "local-guix"),
    ] {
        let value = states.join(value);
        let report = fetch(dir.as_os_str()).variable(variable, &value).json(0);
        assert_eq!(report.kind(), "directories", "{variable}");
        fs_err::remove_dir_all(env.out("out")).unwrap();
        // An index is made of it as well.
        let index = env.path(format!("index-{variable}"));
        let run = env.store_index(["update", "--index"]).arg(&index);
        let run = run.in_store(&dir).variable(variable, &value);
        assert_eq!(run.json(0).object["roots"][0]["directories"], 1);
        fs_err::remove_dir_all(&index).unwrap();
        fetch(dir.as_os_str())
            .variable(variable, env.path("nowhere"))
            .json(3);
    }
    // Another system's store, mounted elsewhere, has a state of its own.
    let status = Command::new("cp")
        .arg("-a")
        .arg(&dir)
        .arg(env.path("elsewhere"))
        .status();
    assert!(status.unwrap().success());
    let mut option = dir.into_os_string();
    option.push("=");
    option.push(env.path("elsewhere"));
    fetch(&option)
        .variable("NIX_STATE_DIR", states.join("own"))
        .json(3);
}

#[test]
fn the_database_knows_the_names_of_a_link() {
    let lacking = "the_database_knows_the_names_of_a_link";
    if lacks(lacking, NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let file = env.write("foo-1.2.tar.gz", noise(9, 20_000));
    let item = store.add_fixed("sha512", true, &file);
    // Only equal files get a link.
    let file = env.write("foo-1.2.tgz", noise(9, 20_000));
    let other = store.add_fixed("sha512", true, &file);
    store.optimise();
    // No name in the listing has the link's inode any more.
    for item in [&item, &other] {
        let content = fs_err::read(item).unwrap();
        fs_err::remove_file(item).unwrap();
        fs_err::write(item, content).unwrap();
    }
    let hash = store.nar_hash(&item);
    let ask = |name: &str, output: &str| {
        let run = env.fetch_hash(&hash).nar().in_store(&store.dir());
        run.args(["--name", name]).to(output).json(0)
    };
    ask("foo-1.2.tar.gz", "same").tried("links", "ok", ".links");
    let report = ask("foo-1.3.tar.gz", "other");
    report.tried("links", "suspicious", ".links");
    let mut attempts = report.object["attempts"].as_array().unwrap().iter();
    let link = attempts.find(|attempt| attempt["kind"] == "links").unwrap();
    let reason = link["reason"].as_str().unwrap();
    assert!(
        reason.contains("foo-1.2.tar.gz") && reason.contains("foo-1.2.tgz"),
        "{reason}"
    );
}
