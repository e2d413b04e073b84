//! Media that change while they are read, those that cannot, and whole trees on them.

use super::*;

#[test]
fn a_file_that_changes_while_it_is_copied_costs_a_candidate() {
    let env = TestEnv::new();
    let content = noise(20, 96 << 20);
    env.write("shelf/file", &content);
    // Cut off, and changed behind where the copy is.
    let cut = |file: &fs_err::File| file.set_len(50 << 20).unwrap();
    let overwrite = |file: &fs_err::File| {
        use std::os::unix::fs::FileExt as _;
        file.file()
            .write_all_at(b"changed", (96 << 20) - 100)
            .unwrap();
    };
    type Change<'a> = (&'a str, &'a dyn Fn(&fs_err::File));
    let changes: [Change<'_>; 2] = [("failed", &cut), ("mismatch", &overwrite)];
    for (result, change) in changes {
        let changing = env.write("changing/file", &content);
        let changed = fs_err::OpenOptions::new()
            .write(true)
            .open(&changing)
            .unwrap();
        let mut running = env
            .fetch_hash(sri(&content))
            .args([
                "--offline",
                "--json",
                "--name",
                "file",
                "-o",
                result,
                "--media",
            ])
            .arg(env.path("changing"))
            .arg("--media")
            .arg(env.path("shelf"))
            .start();
        let io = PathBuf::from(format!("/proc/{}/io", running.id()));
        while running.is_running() && read_so_far(&io) < 4 << 20 {}
        change(&changed);
        let outcome = running.wait().exits(0);
        let report = Report {
            object: json(&outcome),
            stderr: outcome.stderr,
        };
        report
            .tried("media", result, "changing/file")
            .tried("media", "ok", "shelf/file");
        assert!(env.output(result) == content);
    }
}

#[test]
fn what_cannot_have_changed_is_not_walked_and_keeps_its_directories() {
    let test = "what_cannot_have_changed_is_not_walked_and_keeps_its_directories";
    if lacks(test, &SQUASHFS_TOOLS, true) {
        return;
    }
    let env = TestEnv::new();
    env.write("tree/folder/file", "content\n");
    make_squashfs(&env.path("tree"), &env.path("disc.squashfs"));
    let disc = Mounted::image(&env.path("disc.squashfs"), &env.path("disc"));
    let first = update(&env, &disc.at, &["--algorithms", "sha256,git"]);
    assert_eq!(
        (&first["added"], &first["complete"]),
        (&1.into(), &true.into())
    );
    assert_eq!(
        first["directories"], 2,
        "the root and the folder: {first:#}"
    );
    let again = update(&env, &disc.at, &[]);
    for key in ["added", "removed", "hashed_bytes"] {
        assert_eq!(again[key], 0, "{key} {again:#}");
    }
    for key in [
        "files",
        "directories",
        "complete",
        "index_bytes",
        "segments",
    ] {
        assert_eq!(again[key], first[key], "{key} {again:#}");
    }
    assert_eq!(again["unchanged"], 1);
}

#[test]
fn trees_are_looked_up_wherever_they_are() {
    let test = "trees_are_looked_up_wherever_they_are";
    if lacks(test, &SQUASHFS_TOOLS, true)
        || lacks(test, crate::support::nix::NIX, false)
        || lacks(test, &["git"], false)
    {
        return;
    }
    use crate::support::git::Repository;
    let env = TestEnv::new();
    env.write("content/checkout/file", "content\n");
    let repository = Repository::at(&env, "content/checkout");
    repository.git(&["init", "-q"]);
    repository.git(&["add", "-A"]);
    let tree = repository.git(&["write-tree"]);
    fs_err::remove_dir_all(env.path("content/checkout/.git")).unwrap();
    let store = crate::support::nix::NixStore::new(&env);
    let item = store.add_fixed("sha512", true, &env.path("content/checkout"));
    let nar = store.nar_hash(&item);
    make_squashfs(&env.path("content"), &env.path("disc.squashfs"));
    let disc = Mounted::image(&env.path("disc.squashfs"), &env.path("disc"));

    let look_up = |index: &str, mode: &str, hash: &str| {
        let outcome = env
            .store_index(["lookup", "--json", "--mode", mode, hash, "--index"])
            .arg(env.path(index))
            .go()
            .exits(0);
        json(&outcome)
    };
    let places = [
        ("in-store", "--store", store.dir(), item.clone()),
        (
            "in-medium",
            "--media",
            disc.at.clone(),
            disc.at.join("checkout"),
        ),
        (
            "in-folder",
            "--",
            env.path("content"),
            env.path("content/checkout"),
        ),
    ];
    for (index, option, root, path) in &places {
        env.store_index(["update", "--algorithms", "sha256,nar,git", "--index"])
            .arg(env.path(index))
            .arg(option)
            .arg(root)
            .go()
            .exits(0);
        for (mode, hash) in [("nar", &nar), ("git", &tree)] {
            // A store's database knows no ids of git.
            if mode == "git" && *index == "in-store" {
                continue;
            }
            let found = look_up(index, mode, hash);
            let found = &found[0];
            assert_eq!(
                (
                    &found["kind"],
                    &found["path"],
                    &found["root"],
                    &found["mounted"]
                ),
                (
                    &"directories".into(),
                    &text(path).into(),
                    &text(root).into(),
                    &true.into()
                ),
                "{index} {mode}"
            );
        }
    }
    // On a disc that is elsewhere it is still known.
    disc.take_out();
    let found = look_up("in-medium", "git", &tree);
    assert_eq!(
        (&found[0]["kind"], &found[0]["mounted"]),
        (&"directories".into(), &false.into()),
        "{found:#}"
    );
}
