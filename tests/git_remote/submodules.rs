//! Trees with submodules.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::git::{File, GIT, Repository, file, nar_of, nar_of_recursive_clone};
use crate::support::git_server::{Daemon, HttpBackend};
use crate::support::{Report, TestEnv, lacks, names_in, wait_until};

const fn module<'a>(path: &'a str, commit: &'a str) -> File<'a> {
    File {
        path,
        mode: "160000",
        content: commit.as_bytes(),
    }
}

fn fetch(env: &TestEnv, url: &str, revision: &str, hash: &str, exit: i32) -> Report {
    let output = env.out("out");
    if output.exists() {
        fs_err::remove_dir_all(&output).unwrap();
    }
    let report = env
        .fetch_hash(hash)
        .args(["--git", url, "--rev", revision, "--submodules", "-o", "out"])
        .json(exit);
    assert_eq!(
        names_in(&env.path("cache/fetch/git"))
            .iter()
            .filter(|name| name.starts_with(".fetch-"))
            .count(),
        0
    );
    report
}

#[test]
fn submodules_are_those_of_a_recursive_clone() {
    if lacks("submodules_are_those_of_a_recursive_clone", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let leaf = Repository::bare(&env, "srv/deep/leaf.git");
    let attributes = b"*.txt text eol=crlf\n".as_slice();
    let old_leaf = leaf.commit(
        "main",
        &[file(".gitattributes", attributes), file("a.txt", b"a\n")],
    );
    leaf.commit("main", &[file("b.txt", b"b\n")]);
    let middle = Repository::bare(&env, "srv/middle.git");
    let middle_commit = middle.commit(
        "main",
        &[
            file(
                ".gitmodules",
                b"[submodule \"l\"]\n\tpath = x/leaf\n\turl = ../deep/leaf.git/\n",
            ),
            file("a.txt", b"plain\n"),
            module("x/leaf", &old_leaf),
        ],
    );
    let upper = Repository::bare(&env, "srv/upper.git");
    let http = HttpBackend::start(&env, "srv");
    let absolute = http.url("middle.git");
    let modules = format!(
        "[submodule \"m\"]\n\tpath = sub/middle\n\turl = ./../middle.git\n\
         [submodule \"again\"]\n\tpath = twice\n\turl = {absolute}\n\
         [submodule \"../../evil\"]\n\tpath = ../outside\n\turl = ../middle.git\n\
         [submodule \"off\"]\n\tpath = off\n\turl = ../none.git\n\tupdate = none\n\
         [submodule \"gone\"]\n\tpath = gone\n\turl = ../none.git\n"
    );
    let commit = upper.commit(
        "main",
        &[
            file(".gitmodules", modules.as_bytes()),
            // It does not count in the submodules.
            file(".gitattributes", b"*.txt ident\n"),
            file("a.txt", b"$Id$\n"),
            module("sub/middle", &middle_commit),
            module("twice", &middle_commit),
            module("off", &middle_commit),
        ],
    );
    let hash = nar_of_recursive_clone(&env, &http.url("upper.git"), &commit);
    let report = fetch(&env, &http.url("upper.git"), &commit, &hash, 0);
    assert_eq!(report.kind(), "git");
    assert_eq!(nar_of(&env.out("out")), hash);
    assert_eq!(env.output("out/twice/x/leaf/a.txt"), b"a\r\n");
    assert_eq!(names_in(&env.out("out/off")), Vec::<String>::new());
    assert!(!env.path("outside").exists());
    let daemon = Daemon::start(&env, "srv");
    fetch(&env, &daemon.url("upper.git"), "main", &hash, 0);

    // What is on this machine is not asked for, wherever a clone keeps it.
    let git = Repository::at(&env, "tmp");
    let clone = env.path("src/clone");
    let url = http.url("upper.git");
    git.git(&["clone", "-q", "--recursive", &url, clone.to_str().unwrap()]);
    fs_err::remove_dir_all(env.path("cache/fetch")).unwrap();
    fs_err::remove_dir_all(env.out("out")).unwrap();
    http.take_sent_bytes();
    let report = env
        .fetch_hash(&hash)
        .args(["--git", &url, "--rev", &commit, "--submodules"])
        .args(["--offline", "-o", "out", "--media"])
        .arg(env.path("src"))
        .json(0);
    assert_eq!(report.kind(), "directories");
    assert_eq!(nar_of(&env.out("out")), hash);
    assert_eq!(report.attempts().len(), 1, "{:?}", report.attempts());
    // Without the repository itself its submodules are not asked for either.
    let git_dir = clone.join(".git");
    fs_err::rename(&git_dir, env.path("kept-git")).unwrap();
    fs_err::create_dir_all(env.path("src/other")).unwrap();
    fs_err::rename(env.path("kept-git/modules"), env.path("src/other/modules")).unwrap();
    fs_err::remove_dir_all(env.out("out")).unwrap();
    env.fetch_hash(&hash)
        .args(["--git", &url, "--rev", &commit, "--submodules"])
        .args(["-o", "out", "--media"])
        .arg(env.path("src"))
        .go()
        .exits(0);
    let asked = http.exchanges();
    assert_eq!(asked.len(), 2, "{asked:?}");
    http.take_sent_bytes();
    fs_err::rename(env.path("src/other/modules"), env.path("kept-git/modules")).unwrap();
    fs_err::rename(env.path("kept-git"), &git_dir).unwrap();
    fs_err::remove_dir_all(env.path("cache/fetch")).unwrap();
    fs_err::remove_dir_all(clone.join(".git/modules/again")).unwrap();
    // One that is incomplete makes it slower, and nothing else.
    Repository::at(&env, "src/clone/.git/modules/m").git(&["repack", "-adfq"]);
    for name in names_in(&clone.join(".git/modules/m/objects/pack")) {
        let path = clone.join(".git/modules/m/objects/pack").join(name);
        let len = fs_err::metadata(&path).unwrap().len();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let file = fs_err::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(len * 2 / 3).unwrap();
    }
    fs_err::remove_dir_all(env.out("out")).unwrap();
    env.fetch_hash(&hash)
        .args(["--git", &url, "--rev", &commit, "--submodules"])
        .args(["-o", "out", "--media"])
        .arg(env.path("src"))
        .go()
        .exits(0);
    assert!(http.take_sent_bytes() > 0);

    // Without the option they are empty directories, as in a plain clone.
    fs_err::remove_dir_all(env.out("out")).unwrap();
    env.fetch_hash(upper.nar_of_clone(&env, &commit))
        .args(["--git", &http.url("upper.git"), "--rev", &commit])
        .go()
        .exits(0);
    assert_eq!(names_in(&env.out("upper/twice")), Vec::<String>::new());
}

/// Small trees that hold each other describe any number of paths.
#[test]
fn submodules_are_looked_for_where_they_may_be() {
    let name = "submodules_are_looked_for_where_they_may_be";
    if lacks(name, GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let leaf = Repository::bare(&env, "srv/leaf.git");
    let pinned = leaf.commit("main", &[file("b", b"b\n")]);
    let bare = Repository::bare(&env, "srv/some.git");
    let modules = "[submodule \"x\"]\n\tpath = 0/x\n\turl = ../leaf.git\n";
    let modules = bare.object("blob", modules.as_bytes());
    let mut tree = bare.tree(&[("160000", b"x", &pinned)]);
    let inner = tree.clone();
    for _ in 0..40 {
        tree = bare.tree(&[("40000", b"0", &tree), ("40000", b"1", &tree)]);
    }
    let tree = bare.tree(&[
        ("100644", b".gitmodules", &modules),
        ("40000", b"0", &inner),
        ("40000", b"1", &tree),
    ]);
    let commit = bare.git(&["commit-tree", "-m", "x", &tree]);
    bare.git(&["update-ref", "refs/heads/main", &commit]);
    let http = HttpBackend::start(&env, "srv");
    let running = env
        .fetch_hash(crate::support::sri(b"x"))
        .args(["--git", &http.url("some.git"), "--rev", "main"])
        .args(["--submodules", "-o", "out"])
        .start();
    wait_until("it checks out", || {
        let rooms = env.outputs();
        rooms
            .iter()
            .any(|room| env.out(room).join("0/x/b").exists())
    });
    running.signal(rustix::process::Signal::INT);
    running.wait().exits(130);
}

/// A repository on a disc has a commit of the right name, and another content.
#[test]
fn a_forged_submodule_costs_one_try() {
    if lacks("a_forged_submodule_costs_one_try", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let leaf = Repository::bare(&env, "srv/leaf.git");
    let pinned = leaf.commit("main", &[file("b", b"b\n")]);
    let bare = Repository::bare(&env, "srv/some.git");
    let modules = b"[submodule \"x\"]\n\tpath = x\n\turl = ../leaf.git\n".as_slice();
    let commit = bare.commit(
        "main",
        &[file(".gitmodules", modules), module("x", &pinned)],
    );
    let http = HttpBackend::start(&env, "srv");
    let url = http.url("some.git");
    let hash = nar_of_recursive_clone(&env, &url, &commit);
    let forged = Repository::bare(&env, "disc/leaf.git");
    let other = forged.commit("main", &[file("b", b"other\n")]);
    forged.git(&["-c", "fastimport.unpackLimit=100", "rev-parse", "main"]);
    let loose = |id: &str| forged.path().join("objects").join(&id[..2]).join(&id[2..]);
    if !loose(&other).exists() {
        for name in names_in(&forged.path().join("objects/pack")) {
            let path = forged.path().join("objects/pack").join(&name);
            let bytes = fs_err::read(&path).unwrap();
            fs_err::remove_file(&path).unwrap();
            if name.ends_with(".pack") {
                forged.git_fed(&["unpack-objects", "-q"], &bytes);
            }
        }
    }
    fs_err::create_dir_all(loose(&pinned).parent().unwrap()).unwrap();
    fs_err::rename(loose(&other), loose(&pinned)).unwrap();
    env.fetch_hash(&hash)
        .args(["--git", &url, "--rev", &commit, "--submodules"])
        .args(["-o", "out", "--media"])
        .arg(env.path("disc"))
        .go()
        .exits(0);
    assert_eq!(nar_of(&env.out("out")), hash);
}

#[test]
fn hostile_submodules_lead_nowhere() {
    if lacks("hostile_submodules_lead_nowhere", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let secret = Repository::bare(&env, "secret/some.git");
    let secret_commit = secret.commit("main", &[file("a", b"a\n")]);
    let upper = Repository::bare(&env, "srv/upper.git");
    let http = HttpBackend::start(&env, "srv");
    let path = secret.path().display().to_string();
    let marker = env.path("executed").display().to_string();
    for url in [
        path.clone(),
        format!("file://{path}"),
        format!("ext::touch {marker}"),
        format!("--upload-pack=touch {marker}"),
        format!("ssh://-oProxyCommand=touch%20{marker}/x"),
        "../../../secret/some.git".into(),
        "../../%2e%2e/secret/some.git".into(),
    ] {
        let modules = format!(
            "[submodule \"x\"]\n\tpath = x\n\turl = \"{url}\"\n\tupdate = \"!touch {marker}\"\n"
        );
        let commit = upper.commit(
            "main",
            &[
                file(".gitmodules", modules.as_bytes()),
                module("x", &secret_commit),
            ],
        );
        let hash = upper.nar_of_clone(&env, &commit);
        let failed = env
            .fetch_hash(&hash)
            .args(["--git", &http.url("upper.git"), "--rev", &commit])
            .args(["--submodules", "-o", "out"])
            .go();
        assert!(
            matches!(failed.status.code(), Some(3 | 5)),
            "{url}: {failed}"
        );
        let failed = failed.says("the submodule 'x'");
        assert!(!env.path("executed").exists(), "{failed}");
        assert_eq!(env.outputs(), Vec::<String>::new());
    }
    // Ten to the tenth times the same: what is written has a limit, and what is thought about too.
    let mut commit = upper.commit("main", &[file("a", b"")]);
    let names: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    let mut modules = String::new();
    for name in &names {
        modules.push_str(&format!(
            "[submodule \"{name}\"]\n\tpath = {name}\n\turl = ../upper.git\n"
        ));
    }
    for _ in 0..10 {
        let mut files = vec![file(".gitmodules", modules.as_bytes())];
        files.extend(names.iter().map(|name| module(name, &commit)));
        commit = upper.commit("main", &files);
    }
    let running = env
        .fetch_hash(upper.nar_of_clone(&env, &commit))
        .args(["--git", &http.url("upper.git"), "--rev", &commit])
        .args(["--submodules", "-o", "out"])
        .start();
    wait_until("it checks out", || {
        let rooms = env.outputs();
        rooms
            .iter()
            .any(|room| env.out(room).join("0/0/0").exists())
    });
    running.signal(rustix::process::Signal::INT);
    running.wait().exits(130);
    assert_eq!(env.outputs(), Vec::<String>::new());
    // Nested beyond reason. No commit can hold itself, so there is no circle.
    let mut commit = upper.commit("main", &[file("a", b"")]);
    let modules = b"[submodule \"x\"]\n\tpath = x\n\turl = ../upper.git\n".as_slice();
    for _ in 0..20 {
        commit = upper.commit(
            "main",
            &[file(".gitmodules", modules), module("x", &commit)],
        );
    }
    let hash = upper.nar_of_clone(&env, &commit);
    let report = fetch(&env, &http.url("upper.git"), &commit, &hash, 5);
    assert!(
        report.stderr.contains("nested deeper than 16"),
        "{}",
        report.stderr
    );
}
