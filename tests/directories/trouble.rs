//! Links that lie, trees that change or cannot be read, updates that are killed.

use super::*;

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
