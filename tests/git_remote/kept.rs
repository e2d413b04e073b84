//! What is kept of repositories, and what that saves.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::fetch_nar;
use crate::support::git::{File, GIT, Repository, file, nar_of, nar_of_recursive_clone};
use crate::support::git_server::{Answers, Daemon, HttpBackend, Manners};
use crate::support::{TestEnv, lacks, mode, names_in, noise, sri, wait_until};

/// The repositories that are kept.
fn kept(env: &TestEnv) -> Vec<PathBuf> {
    let cache = env.path("cache/fetch/git");
    let names = names_in(&cache);
    let paths = names.iter().map(|name| cache.join(name));
    paths.filter(|path| path.is_dir()).collect()
}

#[test]
fn the_next_commit_costs_its_difference() {
    if lacks("the_next_commit_costs_its_difference", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let (big, other) = (noise(1, 400_000), noise(2, 20_000));
    // Of text git sends the difference to what we have.
    let text =
        |word: &str| -> String { (0..9000).map(|line| format!("{line} {word}\n")).collect() };
    let files = |small: &'static [u8], text: &str| {
        bare.commit(
            "main",
            &[
                file("big", &big),
                file("text", text.as_bytes()),
                file("small", small),
            ],
        )
    };
    let first = files(b"1\n", &text("a"));
    let changed = text("a").replace("77 ", "78 ");
    let second = files(b"2\n", &changed);
    let third = bare.commit("main", &[file("big", &big), file("new", &other)]);
    let hash = |commit: &str| bare.nar_of_clone(&env, commit);
    let plain = HttpBackend::start(&env, "srv");
    let manners = Manners {
        only_v0: true,
        ..Manners::default()
    };
    bare.git(&["config", "uploadpack.allowReachableSHA1InWant", "true"]);
    let old_fashioned = HttpBackend::with(&env, "srv", manners);
    for server in [&plain, &old_fashioned] {
        let url = server.url("some.git");
        fetch_nar(&env, &url, &first, &hash(&first));
        assert!(server.take_sent_bytes() > 400_000);
        fetch_nar(&env, &url, &second, &hash(&second));
        let sent = server.take_sent_bytes();
        assert!(sent < 5_000, "{sent}");
        // By its name it costs a list of references.
        let report = fetch_nar(&env, &url, "main", &hash(&third));
        let sent = server.take_sent_bytes();
        assert!((20_000..25_000).contains(&sent), "{sent}");
        let reason = report.object["attempts"]
            .as_array()
            .unwrap()
            .last()
            .unwrap()["reason"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(reason.contains("the rest was kept"), "{reason}");
        // What was there once costs no socket.
        for commit in [&first, &second, &third] {
            fetch_nar(&env, &url, commit, &hash(commit));
        }
        assert_eq!(server.take_sent_bytes(), 0);
        env.fetch_hash(hash(&first))
            .args(["--offline", "--git", &url, "--rev", &first, "-o", "offline"])
            .go()
            .exits(0);
        fs_err::remove_dir_all(env.out("offline")).unwrap();
    }
    let daemon = Daemon::start(&env, "srv");
    fetch_nar(&env, &daemon.url("some.git"), &first, &hash(&first));
    fetch_nar(&env, &daemon.url("some.git"), "main", &hash(&third));
    // What would be used is explained; nobody is asked.
    for (commit, is_kept) in [(&first, true), (&"0".repeat(40), false)] {
        let explained = env
            .fetch(["explain", &sri(b"x"), "--no-store", "--no-media"])
            .args(["--git", &plain.url("some.git"), "--rev", commit])
            .go();
        assert_eq!(explained.stdout.contains("found"), is_kept, "{explained}");
        assert!(explained.stdout.contains("would ask"), "{explained}");
    }
    assert_eq!(plain.take_sent_bytes(), 0);
    // Nobody else may look; the password is no part of a name.
    assert_eq!(mode(&env.path("cache/fetch/git")), 0o700);
    assert_eq!(kept(&env).len(), 3);
    let url = plain.url("some.git").replace("://", "://me:secret@");
    env.fetch_hash(hash(&first))
        .args(["--offline", "--git", &url, "--rev", &first, "-o", "offline"])
        .go()
        .exits(0);
}

#[test]
fn what_is_kept_is_not_believed() {
    if lacks("what_is_kept_is_not_believed", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let commit = bare.commit("main", &[file("a", &noise(1, 50_000))]);
    let hash = bare.nar_of_clone(&env, &commit);
    let http = HttpBackend::start(&env, "srv");
    let url = http.url("some.git");
    fetch_nar(&env, &url, &commit, &hash);
    let pack = || {
        let folder = kept(&env)[0].join("objects/pack");
        let names = names_in(&folder);
        folder.join(names.iter().find(|name| name.ends_with(".pack")).unwrap())
    };
    for damage in [0_usize, 1, 2] {
        let path = pack();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let mut bytes = fs_err::read(&path).unwrap();
        match damage {
            0 => bytes.truncate(1000),
            1 => bytes.iter_mut().skip(500).for_each(|byte| *byte ^= 0x55),
            _ => bytes.clear(),
        }
        fs_err::write(&path, bytes).unwrap();
        fetch_nar(&env, &url, &commit, &hash);
        // It is whole again.
        http.take_sent_bytes();
        fetch_nar(&env, &url, &commit, &hash);
        assert_eq!(http.take_sent_bytes(), 0);
    }
    // What a killed run left is in nobody's way.
    for left in ["shallow.lock", "objects/pack/.tmpAbCdEf"] {
        fs_err::write(kept(&env)[0].join(left), "").unwrap();
    }
    // A difference to something that is there no more.
    let lines: String = (0..5000).map(|line| format!("{line}\n")).collect();
    let before = bare.commit("main", &[file("text", lines.as_bytes())]);
    fetch_nar(&env, &url, &before, &bare.nar_of_clone(&env, &before));
    assert!(!kept(&env)[0].join("objects/pack/.tmpAbCdEf").exists());
    for name in names_in(&kept(&env)[0].join("objects/pack")) {
        fs_err::remove_file(kept(&env)[0].join("objects/pack").join(name)).unwrap();
    }
    let after = bare.commit(
        "main",
        &[file("text", lines.replace("77\n", "x\n").as_bytes())],
    );
    fetch_nar(&env, &url, &after, &bare.nar_of_clone(&env, &after));
    // A list that claims more than there is.
    let missing = bare.commit("main", &[file("b", b"b\n")]);
    fs_err::write(kept(&env)[0].join("tips"), format!("{missing}\n")).unwrap();
    fetch_nar(&env, &url, &missing, &bare.nar_of_clone(&env, &missing));
    fs_err::write(kept(&env)[0].join("tips"), "nonsense\n\u{0}\n").unwrap();
    fetch_nar(&env, &url, &commit, &hash);
    // A name that is not there leaves it as it is.
    fs_err::remove_dir_all(env.out("out")).unwrap();
    env.fetch_hash(&hash)
        .args(["--git", &url, "--rev", "no-such", "-o", "out"])
        .go()
        .exits(3);
    http.take_sent_bytes();
    fetch_nar(&env, &url, &commit, &hash);
    assert_eq!(http.take_sent_bytes(), 0);
    // A wrong hash is the user's mistake after all, and told with the right one.
    fs_err::remove_dir_all(env.out("out")).unwrap();
    env.fetch_hash(sri(b"x"))
        .args(["--git", &url, "--rev", &commit, "-o", "out"])
        .go()
        .exits(4)
        .says(&hash);
}

/// Overwrites all packs of what is kept, behind their headers.
fn damage(env: &TestEnv) {
    for repository in kept(env) {
        let folder = repository.join("objects/pack");
        for name in names_in(&folder) {
            let path = folder.join(&name);
            if name.ends_with(".pack") {
                fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
                let mut bytes = fs_err::read(&path).unwrap();
                bytes.iter_mut().skip(12).for_each(|byte| *byte ^= 0x55);
                fs_err::write(&path, bytes).unwrap();
            }
        }
    }
}

#[test]
fn what_is_here_of_submodules_is_not_believed() {
    if lacks("what_is_here_of_submodules_is_not_believed", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let leaf = Repository::bare(&env, "srv/leaf.git");
    let pinned = leaf.commit("main", &[file("b", b"b\n")]);
    let bare = Repository::bare(&env, "srv/some.git");
    bare.git(&["config", "uploadpack.allowFilter", "true"]);
    let modules = b"[submodule \"x\"]\n\tpath = x\n\turl = ../leaf.git\n".as_slice();
    let module = File {
        path: "x",
        mode: "160000",
        content: pinned.as_bytes(),
    };
    let commit = bare.commit("main", &[file(".gitmodules", modules), module]);
    let http = HttpBackend::start(&env, "srv");
    let url = http.url("some.git");
    let hash = nar_of_recursive_clone(&env, &url, &commit);
    let ask = |media: Option<&str>| {
        drop(fs_err::remove_dir_all(env.out("out")));
        let mut run = env
            .fetch_hash(&hash)
            .args(["--git", &url, "--rev", &commit, "--submodules"])
            .args(["-o", "out"]);
        if let Some(folder) = media {
            run = run.arg("--media").arg(env.path(folder));
        }
        run.go().exits(0);
        assert_eq!(nar_of(&env.out("out")), hash);
    };
    // A clone that has the commit, and of the files nothing.
    fs_err::create_dir_all(env.path("src")).unwrap();
    let git = Repository::at(&env, "src");
    git.git(&[
        "clone",
        "-q",
        "--no-checkout",
        "--filter=blob:none",
        &url,
        "a",
    ]);
    ask(Some("src"));
    ask(None);
    damage(&env);
    ask(None);
    // What was kept of all of them needs no server, and no turn either: another process may be adding to it.
    let cache = env.path("cache/fetch/git");
    let locks: Vec<_> = names_in(&cache)
        .iter()
        .filter(|name| name.ends_with(".lock"))
        .map(|name| {
            let lock = fs_err::File::open(cache.join(name)).unwrap();
            lock.file().lock().unwrap();
            lock
        })
        .collect();
    assert_eq!(locks.len(), 2);
    drop(http);
    fs_err::remove_dir_all(env.out("out")).unwrap();
    env.fetch_hash(&hash)
        .args(["--offline", "--git", &url, "--rev", &commit])
        .args(["--submodules", "-o", "out"])
        .go()
        .exits(0);
    assert_eq!(nar_of(&env.out("out")), hash);
}

#[test]
fn a_kept_repository_that_lacks_files_is_not_believed_either() {
    let name = "a_kept_repository_that_lacks_files_is_not_believed_either";
    if lacks(name, GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    bare.git(&["config", "uploadpack.allowFilter", "true"]);
    let big = noise(1, 50_000);
    let commit = bare.commit("main", &[file("a/big", &big), file("small", b"a\n")]);
    let hash = bare.nar_of_clone(&env, &commit);
    env.write("here/x", &big);
    env.store_index(["update", "--in-place", "--algorithms", "git"])
        .arg(env.path("here"))
        .go()
        .exits(0);
    let http = HttpBackend::start(&env, "srv");
    let ask = || {
        drop(fs_err::remove_dir_all(env.out("out")));
        env.fetch_hash(&hash)
            .args(["--git", &http.url("some.git"), "--rev", &commit])
            .args(["-o", "out", "--media"])
            .arg(env.path("here"))
            .go()
            .exits(0);
        assert_eq!(nar_of(&env.out("out")), hash);
    };
    ask();
    assert!(http.take_sent_bytes() < 20_000);
    assert!(kept(&env)[0].join("partial").exists());
    damage(&env);
    ask();
}

#[test]
fn without_a_cache_nothing_is_left() {
    if lacks("without_a_cache_nothing_is_left", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let commit = bare.commit("main", &[file("a", b"a\n")]);
    let hash = bare.nar_of_clone(&env, &commit);
    let http = HttpBackend::start(&env, "srv");
    let url = http.url("some.git");
    // A folder that others may read is not ours alone.
    fs_err::create_dir_all(env.path("cache/fetch/git")).unwrap();
    fs_err::set_permissions(
        env.path("cache/fetch/git"),
        std::fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    fetch_nar(&env, &url, &commit, &hash);
    assert_eq!(names_in(&env.path("cache/fetch/git")), Vec::<String>::new());
    fs_err::remove_dir_all(env.out("out")).unwrap();
    env.fetch_hash(&hash)
        .args(["--git", &url, "--rev", &commit, "-o", "out"])
        .variable("XDG_CACHE_HOME", "")
        .variable("HOME", "")
        .go()
        .exits(0);
    assert_eq!(nar_of(&env.out("out")), hash);
    assert_eq!(env.outputs(), ["out"]);
}

#[test]
fn several_at_once_wait_for_each_other() {
    if lacks("several_at_once_wait_for_each_other", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let commit = bare.commit("main", &[file("a", &noise(1, 200_000))]);
    let hash = bare.nar_of_clone(&env, &commit);
    let http = HttpBackend::start(&env, "srv");
    let url = http.url("some.git");
    let running: Vec<_> = (0..4)
        .map(|number| {
            env.fetch_hash(&hash)
                .args(["--git", &url, "--rev", &commit])
                .args(["-o", &format!("out{number}")])
                .start()
        })
        .collect();
    for one in running {
        one.wait().exits(0);
    }
    let sent = http.take_sent_bytes();
    assert!(sent < 300_000, "one of them fetched it: {sent}");
}

/// `fetch cache` counts repositories, removes what is old and not in use, and finds what is damaged.
#[test]
fn the_cache_commands_see_to_repositories() {
    if lacks("the_cache_commands_see_to_repositories", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let commit = bare.commit("main", &[file("a", &noise(1, 50_000))]);
    let hash = bare.nar_of_clone(&env, &commit);
    let http = HttpBackend::start(&env, "srv");
    let url = http.url("some.git");
    let cache = |args: &[&str]| env.fetch(["cache"]).args(args).go();
    let fetched = || drop(fetch_nar(&env, &url, &commit, &hash));
    fetched();
    let status = env.fetch(["cache", "status"]).json(0).object;
    assert_eq!(status["repositories"], 1);
    let bytes = status["repository_bytes"].as_u64().unwrap();
    assert!((50_000..60_000).contains(&bytes), "{bytes}");

    let sound = cache(&["verify"]).exits(0);
    assert!(sound.stdout.contains("1 repositories are whole"), "{sound}");
    let packs = kept(&env)[0].join("objects/pack");
    for name in names_in(&packs) {
        let path = packs.join(name);
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let mut bytes = fs_err::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs_err::write(&path, bytes).unwrap();
        let damaged = cache(&["verify"]).exits(1);
        assert!(
            damaged.stdout.contains("was damaged, and is removed"),
            "{damaged}"
        );
        assert!(kept(&env).is_empty());
        fetched();
    }

    let unused_for_days = |days: u64| {
        let tips = fs_err::File::open(kept(&env)[0].join("tips")).unwrap();
        let used = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 86_400);
        tips.file().set_modified(used).unwrap();
    };
    unused_for_days(89);
    cache(&["gc"]).exits(0);
    assert_eq!(kept(&env).len(), 1);
    unused_for_days(91);
    let lock = fs_err::File::open(kept(&env)[0].with_extension("lock")).unwrap();
    rustix::fs::flock(lock.file(), rustix::fs::FlockOperation::LockShared).unwrap();
    for args in [&["gc"][..], &["gc", "--all"]] {
        cache(args).exits(0);
        assert_eq!(kept(&env).len(), 1, "it is in use");
    }
    drop(lock);
    let collected = cache(&["gc"]).exits(0);
    assert!(
        collected.stdout.contains("and 1 repositories ("),
        "{collected}"
    );
    assert!(kept(&env).is_empty());
    fetched();
    cache(&["gc", "--all"]).exits(0);
    assert!(kept(&env).is_empty());
}

/// The same lock as for files: whoever comes second does not connect at all.
#[test]
fn whoever_comes_second_waits_for_the_first_and_uses_what_it_kept() {
    let name = "whoever_comes_second_waits_for_the_first_and_uses_what_it_kept";
    if lacks(name, GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let commit = bare.commit("main", &[file("a", &noise(1, 60_000))]);
    let hash = bare.nar_of_clone(&env, &commit);
    let manners = Manners {
        answers: Answers::Slow,
        ..Manners::default()
    };
    let http = HttpBackend::with(&env, "srv", manners);
    let url = http.url("some.git");
    let ask = |output: &str| {
        env.fetch_hash(&hash)
            .args(["--git", &url, "--rev", &commit, "-o", output])
    };
    let first = ask("first").start();
    wait_until("the pack is on its way", || http.exchanges().len() == 2);
    ask("third").args(["--lock", "fail"]).go().exits(6);
    let second = ask("second").json(0);
    let waited = format!("waiting for process {} on ", first.id());
    assert!(second.stderr.contains(&waited), "{}", second.stderr);
    first.wait().exits(0);
    assert_eq!(env.outputs(), ["first", "second"]);
    assert_eq!(nar_of(&env.out("second")), hash);
    assert_eq!(http.take_connections(), 2, "those of the first");
}
