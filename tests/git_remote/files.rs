//! Files of this machine that a server need not send.

use crate::support::git::{File, GIT, Repository, file, nar_of};
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
