//! Commits fetched from real git servers, against what git and Nix make of them.

mod broken;
mod files;
mod kept;
mod real;
mod submodules;
mod transports;
mod trouble;

use crate::repositories::awkward;
use crate::support::git::{GIT, Repository, file, nar_of};
use crate::support::git_server::{Daemon, HttpBackend, Manners};
use crate::support::{Report, TestEnv, lacks, names_in};

/// Fetches a tree by its NAR hash, and sees that Nix finds the same below the output and nothing else is left.
#[track_caller]
fn fetch_nar(env: &TestEnv, url: &str, revision: &str, hash: &str) -> Report {
    let output = env.out("out");
    if output.exists() {
        fs_err::remove_dir_all(&output).unwrap();
    }
    let report = env
        .fetch_hash(hash)
        .args(["--git", url, "--rev", revision, "-o", "out"])
        .json(0);
    assert_eq!(report.kind(), "git");
    assert_eq!(report.location(), url);
    assert_eq!(nar_of(&output), hash);
    assert_eq!(env.outputs(), ["out"]);
    report
}

#[test]
fn a_commit_from_a_server_is_that_of_a_clone_by_git() {
    if lacks(
        "a_commit_from_a_server_is_that_of_a_clone_by_git",
        GIT,
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/awkward.git");
    let commit = awkward(&bare);
    let hash = bare.nar_of_clone(&env, &commit);
    let http = HttpBackend::start(&env, "srv");
    let daemon = Daemon::start(&env, "srv");
    // An id costs no list of references, and the history is not asked for.
    fetch_nar(&env, &http.url("awkward.git"), &commit, &hash);
    let asked: Vec<_> = http.exchanges();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].body.contains("deepen 1"), "{asked:?}");
    for url in [http.url("awkward.git"), daemon.url("awkward.git")] {
        for revision in [commit.as_str(), "main", "HEAD"] {
            fetch_nar(&env, &url, revision, &hash);
        }
    }
    assert_eq!(names_in(&env.path("tmp")), Vec::<String>::new());
    // By the tree's id come the blobs as they are.
    let tree = bare.git(&["rev-parse", &format!("{commit}:sub")]);
    fs_err::remove_dir_all(env.out("out")).unwrap();
    env.fetch_hash(&tree)
        .args(["--mode", "git", "--git", &http.url("awkward.git")])
        .args(["--rev", &commit, "-o", "out"])
        .go()
        .exits(0);
    assert_eq!(env.output("out/unix.16le"), b"one\ntwo\n");
}

#[test]
fn servers_that_know_less_give_more() {
    if lacks("servers_that_know_less_give_more", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let first = bare.commit("main", &[file("a", b"1\n")]);
    let old = bare.commit("main", &[file("a", b"2\n"), file("b/c", b"x\n")]);
    bare.git(&["tag", "-a", "-m", "x", "v1", &old]);
    let tag = bare.git(&["rev-parse", "v1"]);
    bare.commit("main", &[file("a", b"3\n")]);
    // A branch of the same name, of which git would take the tag.
    bare.git(&["update-ref", "refs/heads/v1", &first]);
    let (first_hash, old_hash) = (
        bare.nar_of_clone(&env, &first),
        bare.nar_of_clone(&env, &old),
    );
    let plain = HttpBackend::start(&env, "srv");
    let manners = Manners {
        only_v0: true,
        ..Manners::default()
    };
    let old_fashioned = HttpBackend::with(&env, "srv", manners);
    for server in [&plain, &old_fashioned] {
        let url = server.url("some.git");
        for revision in ["v1", "refs/tags/v1", &tag, &old] {
            fetch_nar(&env, &url, revision, &old_hash);
        }
        // Behind every branch: with the old protocol it comes only with all of them.
        fetch_nar(&env, &url, &first, &first_hash);
        fetch_nar(&env, &url, "refs/heads/v1", &first_hash);
        // The hash decides what a name means.
        fetch_nar(&env, &url, "v1", &first_hash);
    }
}
