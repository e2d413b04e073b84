//! Files of this machine that a server need not send.

use crate::support::git::{File, GIT, Repository, file, nar_of, nar_of_recursive_clone};
use crate::support::git_server::HttpBackend;
use crate::support::{Report, TestEnv, lacks, noise};

#[track_caller]
fn fetch(env: &TestEnv, url: &str, commit: &str, hash: &str, media: &[&str]) -> Report {
    let output = env.out("out");
    if output.exists() {
        fs_err::remove_dir_all(&output).unwrap();
    }
    let mut run = env
        .fetch_hash(hash)
        .args(["--git", url, "--rev", commit, "-o", "out"]);
    for folder in media {
        run = run.arg("--media").arg(env.path(folder));
    }
    let report = run.json(0);
    assert_eq!(report.kind(), "git", "{}", report.stderr);
    assert_eq!(nar_of(&output), hash);
    report
}

#[test]
fn files_that_are_here_are_not_sent() {
    if lacks("files_that_are_here_are_not_sent", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    bare.git(&["config", "uploadpack.allowFilter", "true"]);
    let (big, second, third) = (noise(1, 300_000), noise(2, 200_000), noise(3, 5_000));
    let text = b"a\nb\n".as_slice();
    let link = File {
        path: "link",
        mode: "120000",
        content: b"text.crlf",
    };
    let common = [
        file(".gitattributes", b"*.crlf text eol=crlf\n"),
        file("deep/er/big", &big),
        file("again", &big),
        file("second", &second),
        file("text.crlf", text),
        link,
    ];
    let commit = bare.commit("main", &common);
    let mut changed = common.to_vec();
    changed.push(file("third", &third));
    let next = bare.commit("main", &changed);
    let (hash, next_hash) = (
        bare.nar_of_clone(&env, &commit),
        bare.nar_of_clone(&env, &next),
    );
    // What is here has other names, and one of the files is on no list.
    env.write("here/x", &big);
    env.write("here/y/z", text);
    let index = |folder: &str, algorithms: &str| {
        env.store_index(["update", "--in-place", "--algorithms", algorithms])
            .arg(env.path(folder))
            .go()
            .exits(0);
    };
    index("here", "git");
    let http = HttpBackend::start(&env, "srv");
    let url = http.url("some.git");
    let report = fetch(&env, &url, &commit, &hash, &["here"]);
    let sent = http.take_sent_bytes();
    assert!((200_000..210_000).contains(&sent), "{sent}");
    let said = report.object["attempts"].to_string();
    assert!(said.contains("files were here already"), "{said}");
    // The next commit costs its difference, and again the same commit nothing.
    fetch(&env, &url, &next, &next_hash, &["here"]);
    let sent = http.take_sent_bytes();
    assert!((5_000..10_000).contains(&sent), "{sent}");
    fetch(&env, &url, &commit, &hash, &["here"]);
    assert_eq!(http.take_sent_bytes(), 0);
    // Without the folder it is the one file that is missing.
    fetch(&env, &url, &commit, &hash, &[]);
    let sent = http.take_sent_bytes();
    assert!((300_000..310_000).contains(&sent), "{sent}");

    // An index that is wrong makes it slower, and nothing else.
    fs_err::remove_dir_all(env.path("cache/fetch")).unwrap();
    env.write("here/x", noise(9, 300_000));
    fetch(&env, &url, &next, &next_hash, &["here"]);
    assert!(http.take_sent_bytes() > 500_000);
    fetch(&env, &url, &next, &next_hash, &["here"]);
    assert_eq!(http.take_sent_bytes(), 0);

    // A server that cannot leave out anything is asked for all of it.
    fs_err::remove_dir_all(env.path("cache/fetch")).unwrap();
    env.write("here/x", &big);
    bare.git(&["config", "uploadpack.allowFilter", "false"]);
    fetch(&env, &url, &next, &next_hash, &["here"]);
    assert!(http.take_sent_bytes() > 500_000);
}

/// An index knows files by their content, and directories with all that is in them: symbolic links too.
#[test]
fn directories_that_are_here_are_not_sent() {
    if lacks("directories_that_are_here_are_not_sent", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    bare.git(&["config", "uploadpack.allowFilter", "true"]);
    let targets: Vec<(String, String)> = (0..40)
        .map(|number| {
            let digits = noise(number, 2000);
            let target: String = digits.iter().map(|byte| format!("{byte:02x}")).collect();
            (format!("some/where/{number}"), target[..4000].to_owned())
        })
        .collect();
    fs_err::create_dir_all(env.path("here/else/deep")).unwrap();
    let mut files = vec![file("a", b"a\n"), file("some/where/deep/file", b"b\n")];
    env.write("here/else/deep/file", b"b\n");
    for (path, target) in &targets {
        files.push(File {
            path,
            mode: "120000",
            content: target.as_bytes(),
        });
        let name = path.rsplit('/').next().unwrap();
        fs_err::os::unix::fs::symlink(target, env.path("here/else").join(name)).unwrap();
    }
    let commit = bare.commit("main", &files);
    let hash = bare.nar_of_clone(&env, &commit);
    env.store_index(["update", "--in-place", "--algorithms", "git"])
        .arg(env.path("here"))
        .go()
        .exits(0);
    let http = HttpBackend::start(&env, "srv");
    let url = http.url("some.git");
    fetch(&env, &url, &commit, &hash, &["here"]);
    let sent = http.take_sent_bytes();
    assert!(sent < 10_000, "{sent}");
    fetch(&env, &url, &commit, &hash, &["here"]);
    assert_eq!(http.take_sent_bytes(), 0);
    // What is there no more is asked for, and what has become something else too.
    fs_err::remove_file(env.path("here/else/7")).unwrap();
    fs_err::remove_file(env.path("here/else/8")).unwrap();
    fs_err::os::unix::fs::symlink("other", env.path("here/else/8")).unwrap();
    fetch(&env, &url, &commit, &hash, &["here"]);
    assert!(http.take_sent_bytes() > 4_000);
}

/// Of what a repository on this machine has, nothing comes: a fork, an older clone, or what is kept of another URL.
#[test]
fn what_other_repositories_have_is_not_sent() {
    if lacks("what_other_repositories_have_is_not_sent", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let contents: Vec<_> = (0..30)
        .map(|number| (format!("dir/{number}"), noise(number, 20_000)))
        .collect();
    let files = |changed: &'static [u8]| {
        let all = contents.iter().map(|(path, content)| file(path, content));
        all.chain([file("changed", changed)]).collect::<Vec<_>>()
    };
    let old = bare.commit("main", &files(b"old\n"));
    // Clones, as a work tree that has been packed, and as loose objects.
    fs_err::create_dir_all(env.path("src")).unwrap();
    let source = bare.path().display().to_string();
    Repository::at(&env, "src").git(&["clone", "-q", "--no-hardlinks", &source, "clone"]);
    Repository::at(&env, "src/clone").git(&["repack", "-adq"]);
    let loose = Repository::bare(&env, "loose/fork.git");
    for (_, content) in &contents {
        loose.object("blob", content);
    }
    fs_err::create_dir_all(env.path("nothing")).unwrap();
    Repository::bare(&env, "other/other.git").commit("main", &[file("a", b"other\n")]);
    let new = bare.commit("main", &files(b"new\n"));
    let hash = bare.nar_of_clone(&env, &new);
    bare.git(&["config", "uploadpack.allowFilter", "true"]);
    let http = HttpBackend::start(&env, "srv");
    let url = http.url("some.git");
    let forget = || fs_err::remove_dir_all(env.path("cache/fetch")).unwrap();
    for folder in ["src", "loose"] {
        let report = fetch(&env, &url, &new, &hash, &[folder]);
        let sent = http.take_sent_bytes();
        assert!(sent < 5_000, "{folder}: {sent}");
        let said = report.object["attempts"].to_string();
        assert!(said.contains("30 files were here already"), "{said}");
        // It stays so without the folder, once what was missing came.
        fetch(&env, &url, &new, &hash, &[]);
        assert!((600_000..620_000).contains(&http.take_sent_bytes()));
        fetch(&env, &url, &new, &hash, &[]);
        assert_eq!(http.take_sent_bytes(), 0);
        forget();
    }
    // A repository that has nothing of it is in nobody's way.
    fetch(&env, &url, &new, &hash, &["other"]);
    let sent = http.take_sent_bytes();
    assert!((600_000..620_000).contains(&sent), "{sent}");
    // What is kept of a URL serves others that end alike.
    fs_err::create_dir_all(env.path("srv/fork")).unwrap();
    Repository::at(&env, "srv").git(&["clone", "-q", "--bare", &source, "fork/some.git"]);
    let fork = Repository::at(&env, "srv/fork/some.git");
    fork.git(&["config", "uploadpack.allowFilter", "true"]);
    let forked = fork.commit("main", &files(b"forked\n"));
    let forked_hash = fork.nar_of_clone(&env, &forked);
    fetch(&env, &http.url("fork/some.git"), &forked, &forked_hash, &[]);
    let sent = http.take_sent_bytes();
    assert!(sent < 5_000, "{sent}");
    // When that is thrown away, it is asked for.
    let cache = env.path("cache/fetch/git");
    for name in crate::support::names_in(&cache) {
        let path = cache.join(name);
        let has_all = path.is_dir() && !path.join("partial").exists();
        if has_all {
            fs_err::remove_dir_all(path).unwrap();
        }
    }
    fetch(&env, &http.url("fork/some.git"), &forked, &forked_hash, &[]);
    assert!(http.take_sent_bytes() > 600_000);
    forget();
    // One that is damaged costs a second try, and nothing else.
    let packs = env.path("src/clone/.git/objects/pack");
    for name in crate::support::names_in(&packs) {
        if name.ends_with(".pack") {
            let path = packs.join(name);
            let mut bytes = fs_err::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle..middle + 100].fill(0x55);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            fs_err::set_permissions(&path, mode).unwrap();
            fs_err::write(&path, bytes).unwrap();
        }
    }
    fetch(
        &env,
        &url,
        &old,
        &bare.nar_of_clone(&env, &old),
        &["nothing"],
    );
    forget();
    http.take_sent_bytes();
    fetch(&env, &url, &new, &hash, &["src"]);
    assert!(http.take_sent_bytes() > 600_000);
}

/// What a clone has of a submodule, at another commit than the one that is pinned.
#[test]
fn what_submodules_have_is_not_sent() {
    if lacks("what_submodules_have_is_not_sent", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let below = Repository::bare(&env, "srv/below.git");
    let big = noise(1, 300_000);
    let old = below.commit("main", &[file("big", &big)]);
    let top = Repository::bare(&env, "srv/top.git");
    let modules = b"[submodule \"x\"]\n\tpath = x\n\turl = ../below.git\n".as_slice();
    let pinned = |commit: &str| {
        let link = File {
            path: "x",
            mode: "160000",
            content: commit.as_bytes(),
        };
        top.commit("main", &[file(".gitmodules", modules), link])
    };
    pinned(&old);
    fs_err::create_dir_all(env.path("src")).unwrap();
    let source = top.path().display().to_string();
    let args = ["clone", "-q", "--recursive", &source, "work"];
    Repository::at(&env, "src").git(&args);
    let commit = pinned(&below.commit("main", &[file("big", &big), file("a", b"a\n")]));
    below.git(&["config", "uploadpack.allowFilter", "true"]);
    let http = HttpBackend::start(&env, "srv");
    let url = http.url("top.git");
    let hash = nar_of_recursive_clone(&env, &source, &commit);
    env.fetch_hash(&hash)
        .args(["--git", &url, "--rev", &commit, "-o", "out"])
        .args(["--submodules", "--media"])
        .arg(env.path("src"))
        .go()
        .exits(0);
    assert_eq!(nar_of(&env.out("out")), hash);
    let sent = http.take_sent_bytes();
    assert!(sent < 10_000, "{sent}");
}
