//! Commits of repositories, as `fetchgit` wants them.

use super::{World, cannot_build};
use crate::support::git::{File, GIT, Repository, file, nar_of, nar_of_recursive_clone};
use crate::support::git_server::{HttpBackend, Manners};
use crate::support::sshd::{SSHD, Sshd};
use crate::support::{TestEnv, lacks, repository};

const FAKE: &str = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn cannot_clone(test: &str) -> bool {
    lacks(test, GIT, false) || cannot_build(test)
}

/// A repository with a submodule, a tag, a pointer of LFS and text with its own line ends; its URL and commit.
struct Upstream {
    http: HttpBackend,
    bare: Repository,
    url: String,
    commit: String,
}

impl Upstream {
    fn new(env: &TestEnv) -> Self {
        let leaf = Repository::bare(env, "srv/leaf.git");
        let pinned = leaf.commit("main", &[file("b", b"b\n")]);
        let bare = Repository::bare(env, "srv/some.git");
        let commit = bare.commit(
            "main",
            &[
                file("a.txt", b"one\ntwo\n"),
                file(
                    ".gitattributes",
                    b"*.txt text eol=crlf\n*.bin filter=lfs -text\n",
                ),
                file(
                    "big.bin",
                    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
                ),
                file(
                    ".gitmodules",
                    b"[submodule \"x\"]\n\tpath = x\n\turl = ../leaf.git\n",
                ),
                File {
                    path: "x",
                    mode: "160000",
                    content: pinned.as_bytes(),
                },
            ],
        );
        bare.git(&["tag", "v1.0", &commit]);
        bare.commit("main", &[file("a.txt", b"later\n")]);
        let http = HttpBackend::start(env, "srv");
        Self {
            url: http.url("some.git"),
            http,
            bare,
            commit,
        }
    }
}

/// What Nixpkgs' `fetchgit` gives its builder when nothing special is wanted.
fn attributes<'a>(url: &'a str, rev: &'a str, hash: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("name", "some"),
        ("url", url),
        ("rev", rev),
        ("outputHash", hash),
        ("outputHashAlgo", ""),
        ("outputHashMode", "recursive"),
        ("fetchSubmodules", "false"),
        ("leaveDotGit", "false"),
        ("deepClone", "false"),
        ("fetchLFS", "false"),
        ("sparseCheckout", ""),
        ("branchName", "null"),
        ("postFetch", ""),
    ]
}

#[test]
fn a_commit_is_cloned_in_the_sandbox() {
    if cannot_clone("a_commit_is_cloned_in_the_sandbox") {
        return;
    }
    let world = World::new(&[]);
    let upstream = Upstream::new(&world.env);
    let (url, commit) = (upstream.url.as_str(), upstream.commit.as_str());
    let plain = upstream.bare.nar_of_clone(&world.env, commit);
    let whole = nar_of_recursive_clone(&world.env, url, commit);
    for (rev, hash, more) in [
        (commit, &plain, vec![]),
        ("v1.0", &plain, vec![("name", "tag")]),
        (
            "refs/tags/v1.0",
            &whole,
            vec![("name", "whole"), ("fetchSubmodules", "true")],
        ),
        (
            commit,
            &plain,
            vec![
                ("name", "structured"),
                ("__structuredAttrs", "true"),
                ("sparseCheckout", "[ ]"),
            ],
        ),
    ] {
        let mut all = attributes(url, rev, hash);
        for (name, value) in more {
            all.retain(|(known, _)| *known != name);
            all.push((name, value));
        }
        upstream.http.take_sent_bytes();
        let built = world.build(&all).ends(0).says(&format!("trying {url}"));
        assert_eq!(&nar_of(&built.output), hash, "{}", built.log);
        assert!(upstream.http.take_sent_bytes() > 0);
    }
}

/// How packagers work.
#[test]
fn a_fake_hash_of_a_commit_tells_the_right_one() {
    if cannot_clone("a_fake_hash_of_a_commit_tells_the_right_one") {
        return;
    }
    let world = World::new(&[]);
    let upstream = Upstream::new(&world.env);
    let (url, commit) = (upstream.url.as_str(), upstream.commit.as_str());
    let right = upstream.bare.nar_of_clone(&world.env, commit);
    world
        .build(&attributes(url, commit, FAKE))
        .ends(102)
        .says("hash mismatch in fixed-output derivation")
        .says(&format!("got:    {right}"));
    // With the right hash there is nothing left to clone, nor to build.
    upstream.http.take_sent_bytes();
    let built = world.build(&attributes(url, commit, &right)).ends(0);
    assert_eq!(nar_of(&built.output), right);
    assert_eq!(upstream.http.take_sent_bytes(), 0);
    // What is not there leaves nothing.
    world
        .build(&attributes(url, "v2.0", FAKE))
        .ends(1)
        .says("it has no tag or branch 'refs/tags/v2.0'");
}

#[test]
fn what_is_here_is_not_cloned() {
    if cannot_clone("what_is_here_is_not_cloned") {
        return;
    }
    let env = TestEnv::new();
    let root = env.path("home").parent().unwrap().display().to_string();
    let paths = [
        format!("/host/store={root}/nix/./store"),
        format!("/src={root}/src?"),
    ];
    let world = World::configured(env, &paths, "");
    let upstream = Upstream::new(&world.env);
    let (url, commit) = (upstream.url.as_str(), upstream.commit.as_str());
    let hash = nar_of_recursive_clone(&world.env, url, commit);
    // A checkout of another package, under another name.
    let clone = world.env.path("checkout");
    let git = Repository::at(&world.env, "");
    git.git(&["clone", "-q", url, clone.to_str().unwrap()]);
    let work = Repository::at(&world.env, "checkout");
    work.git(&["checkout", "-q", "--detach", commit]);
    work.git(&["submodule", "--quiet", "update", "--init"]);
    fs_err::remove_dir_all(clone.join(".git")).unwrap();
    fs_err::remove_file(clone.join("x/.git")).unwrap();
    world.nix.add(&clone);
    upstream.http.take_connections();
    let with = |more: &[(&'static str, &'static str)]| {
        let mut all = attributes(url, commit, &hash);
        all.retain(|(name, _)| *name != "fetchSubmodules");
        all.push(("fetchSubmodules", "true"));
        all.extend(more);
        let built = world
            .build(&all)
            .ends(0)
            .says("not downloaded, copied from");
        assert_eq!(nar_of(&built.output), hash);
        assert_eq!(upstream.http.take_connections(), 0);
    };
    with(&[("FETCH_STORE", "=/host/store")]);
    // A mirror of the repositories, seen by the build.
    world.nix.nix("nix-store", &["--gc"]);
    for name in ["some.git", "leaf.git"] {
        let from = world.env.path("srv").join(name);
        let to = world.env.path("src").join(name);
        git.git(&[
            "clone",
            "-q",
            "--mirror",
            from.to_str().unwrap(),
            to.to_str().unwrap(),
        ]);
    }
    with(&[("FETCH_MEDIA", "/src")]);
}

#[test]
fn what_only_git_does_is_refused_with_a_word() {
    if cannot_clone("what_only_git_does_is_refused_with_a_word") {
        return;
    }
    let world = World::new(&[]);
    let upstream = Upstream::new(&world.env);
    let (url, commit) = (upstream.url.as_str(), upstream.commit.as_str());
    for (name, value, words) in [
        (
            "leaveDotGit",
            "true",
            "leaveDotGit is set, which is not done here",
        ),
        ("deepClone", "true", "deepClone is set"),
        ("fetchLFS", "true", "the pointers to them stay"),
        ("sparseCheckout", "src\ndoc", "sparseCheckout is set"),
        ("rootDir", "src", "rootDir is set"),
        ("postFetch", "rm -r $out/x", "no script is run"),
        ("rev", "--upload-pack=id", "begins with '-'"),
        ("tag", "v1.0", "rev and tag name two commits"),
        ("executable", "true", "rev delivers a tree"),
        ("outputHashMode", "flat", "rev delivers a tree"),
        ("urls", "http://127.0.0.1:1/x", "those of files"),
        ("url", "file:///srv/some.git", "cannot be fetched"),
        ("url", "ext::sh -c id", "cannot be used"),
        ("url", "ftp://127.0.0.1:1/x", "cannot be fetched"),
        (
            "url",
            "ssh://me@127.0.0.1:1/x",
            "ssh cannot be run: there is no such program",
        ),
    ] {
        let mut all = attributes(url, commit, FAKE);
        all.retain(|(known, _)| *known != name);
        all.push((name, value));
        world.build(&all).ends(1).says(words);
    }
    assert_eq!(upstream.http.take_sent_bytes(), 0);
    // A server of plain files: the sandbox has no git.
    upstream.bare.git(&["update-server-info"]);
    let manners = Manners {
        dumb: true,
        ..Manners::default()
    };
    let dumb = HttpBackend::with(&world.env, "srv", manners);
    world
        .build(&attributes(&dumb.url("some.git"), commit, FAKE))
        .ends(1)
        .says("the program git could fetch from it, and is not installed");
}

/// Nixpkgs as far as the overlay looks at it; its `fetchgit` marks what it is called for.
fn overlaid() -> String {
    format!(
        "let prev = {{ path = /none; stdenv.buildPlatform.system = builtins.currentSystem; fetchurl = null; \
         fetchgit = args: {{ original = args; name = \"named-by-nixpkgs\"; }}; }}; \
         overlay = import {0}/contrib/nix/overlay.nix {{ fetch = \"/fetch\"; }}; fetchgit = (overlay {{ }} prev).fetchgit; \
         plain = import {0}/contrib/nix/fetchgit.nix {{ fetch = \"/fetch\"; }}; in ",
        repository().display()
    )
}

#[test]
fn fetchgit_is_that_of_nixpkgs() {
    if cannot_clone("fetchgit_is_that_of_nixpkgs") {
        return;
    }
    let world = World::new(&[]);
    let upstream = Upstream::new(&world.env);
    let (url, commit) = (&upstream.url, &upstream.commit);
    let plain = upstream.bare.nar_of_clone(&world.env, commit);
    let whole = nar_of_recursive_clone(&world.env, url, commit);
    let build = |call: &str| {
        let expression = format!("{} {call}", overlaid());
        let args = ["--no-out-link", "-E", &expression];
        world.nix.nix("nix-build", &args)
    };
    let short = &commit[..7];
    for (call, name, hash) in [
        // Submodules are wanted unless it is said otherwise.
        (
            format!("plain {{ url = \"{url}\"; rev = \"{commit}\"; hash = \"{whole}\"; }}"),
            format!("some-{short}"),
            &whole,
        ),
        (
            format!(
                "plain {{ url = \"{url}/\"; tag = \"v1.0\"; sha256 = \"{plain}\"; fetchSubmodules = false; leaveDotGit = false; sparseCheckout = [ ]; }}"
            ),
            "some".to_owned(),
            &plain,
        ),
        (
            format!(
                "fetchgit {{ url = \"{url}\"; rev = \"v1.0\"; hash = \"{plain}\"; fetchSubmodules = false; }}"
            ),
            "named-by-nixpkgs".to_owned(),
            &plain,
        ),
        (
            format!(
                "fetchgit {{ name = \"source\"; url = \"{url}\"; rev = \"{commit}\"; outputHash = \"{whole}\"; }}"
            ),
            "source".to_owned(),
            &whole,
        ),
    ] {
        let output = build(&call);
        assert!(output.ends_with(&format!("-{name}")), "{output}");
        assert_eq!(&nar_of(output.as_ref()), hash);
    }
    // No hash at all is the fake one.
    let expression = format!(
        "{} plain {{ url = \"{url}\"; rev = \"{commit}\"; }}",
        overlaid()
    );
    let (built, said) = world
        .nix
        .try_nix("nix-build", &["--no-out-link", "-E", &expression]);
    assert!(
        !built && said.contains(&format!("got:    {whole}")),
        "{said}"
    );
    let eval = |text: &str| {
        let expression = format!("{} {text}", overlaid());
        let args = ["--eval", "--strict", "--json", "-E", &expression];
        world.nix.nix("nix-instantiate", &args)
    };
    for more in [
        "leaveDotGit = true;",
        "deepClone = true;",
        "fetchLFS = true;",
        "sparseCheckout = [ \"src\" ];",
        "postFetch = \"rm x\";",
        "something = \"unheard of\";",
    ] {
        let call = format!("{{ url = \"{url}\"; rev = \"v1.0\"; hash = \"\"; {more} }}");
        assert_eq!(
            eval(&format!("(fetchgit {call}) ? original")),
            "true",
            "{more}"
        );
    }
    for ssh in ["ssh://h/some.git", "me@h:some.git"] {
        let call = format!("(fetchgit {{ url = \"{ssh}\"; rev = \"v1.0\"; }}) ? original");
        assert_eq!(eval(&call), "true", "{ssh}");
    }
    let attributes = format!(
        "(let d = fetchgit {{ url = \"{url}\"; tag = \"v1.0\"; hash = \"{plain}\"; }}; in [ d.url d.gitRepoUrl d.tag d.rev ])"
    );
    assert_eq!(
        eval(&attributes),
        format!("[\"{url}\",\"{url}\",\"v1.0\",\"refs/tags/v1.0\"]")
    );
}

/// There is none in a sandbox; a derivation may bring its own.
#[test]
fn ssh_in_the_path_of_a_derivation_is_used() {
    let name = "ssh_in_the_path_of_a_derivation_is_used";
    if cannot_clone(name) || lacks(name, SSHD, true) {
        return;
    }
    let world = World::open(TestEnv::new(), "");
    let upstream = Upstream::new(&world.env);
    let hash = upstream.bare.nar_of_clone(&world.env, &upstream.commit);
    let sshd = Sshd::start(&world.env);
    let ssh = Sshd::command(&world.env, "user", "host", &[sshd.port()]);
    let path = std::env::var("PATH").unwrap();
    let url = format!(
        "ssh://127.0.0.1:{}{}",
        sshd.port(),
        upstream.bare.path().display()
    );
    let mut all = attributes(&url, &upstream.commit, &hash);
    all.extend([("PATH", path.as_str()), ("GIT_SSH_COMMAND", &ssh)]);
    let built = world.build(&all).ends(0);
    assert_eq!(nar_of(&built.output), hash);
}
