//! ssh, repositories on this machine, servers of plain files, TLS.

use std::os::unix::fs::PermissionsExt as _;

use super::fetch_nar;
use crate::support::git::{File, GIT, Repository, file, nar_of};
use crate::support::git_server::{HttpBackend, Manners};
use crate::support::nginx::Nginx;
use crate::support::server::Server;
use crate::support::{TestEnv, lacks, names_in, noise, sri};

/// A program in the place of ssh that notes how it was called, and runs the command here.
fn false_ssh(env: &TestEnv) -> String {
    let log = env.path("ssh.log");
    let script = format!(
        "#!/bin/sh\necho \"$GIT_PROTOCOL $@\" >> {}\nfor last; do :; done\nexec sh -c \"$last\"\n",
        log.display()
    );
    let path = env.write("false-ssh", script);
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn ssh_is_run_and_given_no_options() {
    if lacks("ssh_is_run_and_given_no_options", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "home/it's a.git");
    let commit = bare.commit("main", &[file("a", b"a\n")]);
    let hash = bare.nar_of_clone(&env, &commit);
    let ssh = false_ssh(&env);
    let home = env.path("home").display().to_string();
    let ask = |url: &str, hash: &str| {
        let output = env.out("out");
        if output.exists() {
            fs_err::remove_dir_all(&output).unwrap();
        }
        env.fetch_hash(hash)
            .args(["--git", url, "--rev", &commit, "-o", "out"])
            .variable("GIT_SSH_COMMAND", format!("{ssh} -q"))
            .go()
    };
    let whole = format!("ssh://me@host:2222{home}/it's%20a.git");
    ask(&whole, &hash).exits(0);
    assert_eq!(nar_of(&env.out("out")), hash);
    let log = fs_err::read_to_string(env.path("ssh.log")).unwrap();
    assert_eq!(
        log,
        format!(
            "version=2 -q -o SendEnv=GIT_PROTOCOL -p 2222 -- me@host git-upload-pack '{home}/it'\\''s a.git'\n"
        )
    );
    // What the other side says is repeated; what is not there is told from what is out of reach.
    ask("ssh://host/no/such.git", &sri(b"x")).exits(3);
    env.fetch_hash(sri(b"x"))
        .args(["--git", "ssh://host/x", "--rev", "main", "-o", "out"])
        .variable("GIT_SSH", "/no/such/ssh")
        .go()
        .exits(5)
        .says("ssh cannot be run");
    env.fetch_hash(sri(b"x"))
        .args(["--git", "me@host:x", "--rev", "main", "-o", "out"])
        .variable(
            "GIT_SSH_COMMAND",
            "sh -c 'echo Permission denied >&2; exit 255'",
        )
        .go()
        .exits(5)
        .says("Permission denied");
    fs_err::remove_file(env.path("ssh.log")).unwrap();
    for url in [
        "ssh://-oProxyCommand=x/y",
        "ssh://-oProxyCommand=x@host/y",
        "me@host:--strict",
        "me@host:%2d-strict",
    ] {
        let refused = ask(url, &sri(b"x"));
        assert_ne!(refused.status.code(), Some(0), "{refused}");
        let log = fs_err::read_to_string(env.path("ssh.log")).unwrap_or_default();
        // In the short form nothing is escaped, so that this is the name of a folder.
        let is_plain = url.ends_with("%2d-strict") && log.contains("'%2d-strict'");
        assert!(log.is_empty() || is_plain, "{log}");
    }
}

/// Most sshd pass on no variables, and then the server speaks the old protocol, which gives out only what a branch or
/// tag points at itself.
#[test]
fn servers_of_the_old_protocol_give_out_tags() {
    if lacks("servers_of_the_old_protocol_give_out_tags", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "home/a.git");
    let tagged = bare.commit("main", &[file("a", b"1\n")]);
    bare.git(&["tag", "-a", "-m", "x", "v1", &tagged]);
    let tag = bare.git(&["rev-parse", "v1"]);
    bare.commit("main", &[file("a", b"2\n")]);
    // What is no branch or tag is nobody's business, even where everything is asked for.
    let hidden = bare.commit("hidden", &[file("big", &noise(1, 200_000))]);
    bare.git(&["update-ref", "refs/pull/1/head", &hidden]);
    bare.git(&["branch", "-D", "hidden"]);
    let behind = bare.commit("main", &[file("a", b"3\n")]);
    bare.commit("main", &[file("a", b"4\n")]);
    let script = "#!/bin/sh\nunset GIT_PROTOCOL\nfor last; do :; done\nexec sh -c \"$last\"\n";
    let ssh = env.write("old-ssh", script);
    fs_err::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
    let url = format!("ssh://host{}/a.git", env.path("home").display());
    let ask = |revision: &str, hash: &str, depth: &str| {
        drop(fs_err::remove_dir_all(env.out("out")));
        drop(fs_err::remove_dir_all(env.path("cache/fetch/git")));
        let log = env.path("packets");
        drop(fs_err::remove_file(&log));
        env.fetch_hash(hash)
            .args(["--git", &url, "--rev", revision, "-o", "out"])
            .variable("GIT_SSH", &ssh)
            .variable("GIT_TRACE_PACKET", &log)
            .go()
            .exits(0);
        assert_eq!(nar_of(&env.out("out")), hash);
        let packets = fs_err::read_to_string(&log).unwrap();
        assert_eq!(packets.contains("deepen 1"), depth == "one", "{packets}");
        assert!(!packets.contains(&format!("want {hidden}")), "{packets}");
    };
    let hash = bare.nar_of_clone(&env, &tagged);
    for revision in ["v1", "refs/tags/v1", &tag, &tagged] {
        ask(revision, &hash, "one");
    }
    ask(&behind, &bare.nar_of_clone(&env, &behind), "all");
}

#[test]
fn a_repository_on_this_machine_needs_no_socket_and_no_copy() {
    let needed = ["git", "nix-hash", "strace"];
    if lacks(
        "a_repository_on_this_machine_needs_no_socket_and_no_copy",
        &needed,
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "some where/bare.git");
    let leaf = Repository::bare(&env, "some where/leaf.git");
    let pinned = leaf.commit("main", &[file("b", b"b\n")]);
    let modules = b"[submodule \"x\"]\n\tpath = x\n\turl = ../leaf.git\n".as_slice();
    let commit = bare.commit(
        "main",
        &[
            file(".gitmodules", modules),
            File {
                path: "x",
                mode: "160000",
                content: pinned.as_bytes(),
            },
        ],
    );
    let hash = bare.nar_of_clone(&env, &commit);
    Repository::at(&env, "some where").git(&["clone", "-q", "bare.git", "work"]);
    let log = env.path("trace");
    for path in ["some%20where/bare.git", "some%20where/work"] {
        let url = format!("file://{}/{path}", env.path("").display());
        env.fetch_hash(&hash)
            .args(["--offline", "--git", &url, "--rev", "main", "-o", "out"])
            .traced(&log)
            .go()
            .exits(0);
        assert_eq!(nar_of(&env.out("out")), hash);
        let trace = fs_err::read_to_string(&log).unwrap();
        assert!(!trace.contains("socket("), "{trace}");
        fs_err::remove_dir_all(env.out("out")).unwrap();
    }
    let url = format!("file://{}/some%20where/bare.git", env.path("").display());
    let args = ["--git", &url, "--rev", "main", "-o", "out"];
    env.fetch_hash(sri(b"x")).args(args).go().exits(4);
    let missing = ["--git", &url, "--rev", "no-such", "-o", "out"];
    env.fetch_hash(sri(b"x")).args(missing).go().exits(3);
    let outcome = env
        .fetch_hash(sri(b"x"))
        .args(args)
        .arg("--submodules")
        .go()
        .exits(4);
    let got = outcome.stderr.split("got:").nth(1).unwrap();
    let got = got.split_whitespace().next().unwrap();
    env.fetch_hash(got)
        .args(args)
        .arg("--submodules")
        .go()
        .exits(0);
    assert_eq!(env.output("out/x/b"), b"b\n");
}

#[test]
fn certificates_are_verified_and_https_stays_https() {
    let needed = ["git", "nix-hash", "nginx", "openssl"];
    let name = "certificates_are_verified_and_https_stays_https";
    if lacks(name, &needed, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let commit = bare.commit("main", &[file("a", b"a\n")]);
    let hash = bare.nar_of_clone(&env, &commit);
    let http = HttpBackend::start(&env, "srv");
    // A certificate of its own, signed by a root of our own.
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2 && \
        openssl req -newkey rsa:2048 -nodes -keyout key.pem -out req.pem -subj /CN=x && \
        printf 'subjectAltName=IP:127.0.0.1\\n' > ext && \
        openssl x509 -req -in req.pem -CA ca.pem -CAkey ca.key -CAcreateserial -extfile ext -out cert.pem -days 2";
    let made = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(env.path(""))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    drop(held);
    let folder = env.path("").display().to_string();
    let server = format!(
        "listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
         location /git/ {{ proxy_pass {}; }}
         location /away/ {{ return 302 {}; }}",
        http.url(""),
        http.url("some.git/info/refs?service=git-upload-pack"),
    );
    let _nginx = Nginx::configured(&env, &server);
    let ask = |path: &str, trusted: &str| {
        env.fetch_hash(&hash)
            .args(["--git", &format!("https://127.0.0.1:{port}/{path}")])
            .args(["--rev", &commit, "-o", "out"])
            .variable("SSL_CERT_FILE", env.path(trusted))
            .go()
    };
    ask("git/some.git", "cert.pem").exits(5).says("certificate");
    ask("away/some.git", "ca.pem")
        .exits(5)
        .says("redirect from https to http");
    ask("git/some.git", "ca.pem").exits(0);
    assert_eq!(nar_of(&env.out("out")), hash);
}

/// gix knows no bundles, and git does.
#[test]
fn bundles_are_taken_apart_by_the_systems_git() {
    let needed = ["git", "nix-hash", "strace"];
    let name = "bundles_are_taken_apart_by_the_systems_git";
    if lacks(name, &needed, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "bare.git");
    let first = bare.commit(
        "main",
        &[file("a", b"1\n"), file("big", &noise(1, 100_000))],
    );
    bare.git(&["tag", "-a", "-m", "x", "v1", &first]);
    let second = bare.commit("main", &[file("a", b"2\n")]);
    let hash = |commit: &str| bare.nar_of_clone(&env, commit);
    let (first_hash, second_hash) = (hash(&first), hash(&second));
    let bundle = |name: &str, args: &[&str]| {
        let path = env.path(name).display().to_string();
        bare.git(&[&["bundle", "create", "-q", &path], args].concat());
        format!("file://{}", path.replace(' ', "%20"))
    };
    let all = bundle("-all of it.bundle", &["--all", "HEAD"]);
    let ask = |url: &str, revision: &str, hash: &str| {
        env.fetch_hash(hash)
            .args(["--git", url, "--rev", revision, "-o", "out"])
    };
    // Nobody's configuration and hooks count, and no server is asked.
    let config = "[core]\n\tautocrlf = true\n\thooksPath = /hooks\n[protocol]\n\tallow = never\n";
    env.write("home/.gitconfig", config);
    let log = env.path("trace");
    for (revision, hash) in [
        (first.as_str(), &first_hash),
        ("v1", &first_hash),
        ("refs/tags/v1", &first_hash),
        ("main", &second_hash),
        ("HEAD", &second_hash),
    ] {
        let run = ask(&all, revision, hash).arg("--offline");
        let outcome = run.traced(&log).go().exits(0);
        assert_eq!(nar_of(&env.out("out")), *hash, "{outcome}");
        assert_eq!(env.outputs(), ["out"]);
        let trace = fs_err::read_to_string(&log).unwrap();
        assert!(!trace.contains("AF_INET"), "{trace}");
        fs_err::remove_dir_all(env.out("out")).unwrap();
    }
    assert_eq!(names_in(&env.path("tmp")), [""; 0]);
    // What is not there, and what is wrong.
    ask(&all, "no-such", &first_hash).go().exits(3);
    let outcome = ask(&all, "main", &first_hash).go().exits(4);
    assert!(outcome.stderr.contains(&second_hash), "{outcome}");
    let branch = bundle("branch.bundle", &["main"]);
    ask(&branch, "HEAD", &second_hash)
        .go()
        .exits(3)
        .says("the bundle has no HEAD");
    ask(&branch, &first, &first_hash).go().exits(0);
    fs_err::remove_dir_all(env.out("out")).unwrap();
    let only_head = bundle("head.bundle", &["HEAD"]);
    ask(&only_head, "HEAD", &second_hash).go().exits(0);
    fs_err::remove_dir_all(env.out("out")).unwrap();
    // One that only says what is new.
    let part = bundle("part.bundle", &["main~1..main"]);
    ask(&part, "main", &second_hash)
        .go()
        .exits(3)
        .says("lacks these prerequisite commits");
    env.write("broken.bundle", "# v2 git bundle\nnonsense\n\nPACK");
    let broken = format!("file://{}", env.path("broken.bundle").display());
    ask(&broken, "main", &second_hash)
        .go()
        .exits(3)
        .says("it is a bundle, and the program git failed");
    ask(&all, "main", &second_hash)
        .variable("PATH", env.path("nowhere"))
        .go()
        .exits(3)
        .says("it is a bundle; the program git could fetch from it, and is not installed");
    assert_eq!(env.outputs(), Vec::<String>::new());
    // From a server it has to be downloaded first.
    let server = Server::start();
    ask(&server.url("/all.bundle"), "main", &second_hash)
        .go()
        .exits(3)
        .says("a bundle is read as a file only: download it");
}

#[test]
fn a_proxy_is_used() {
    if lacks("a_proxy_is_used", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let commit = bare.commit("main", &[file("a", b"a\n")]);
    let hash = bare.nar_of_clone(&env, &commit);
    let http = HttpBackend::start(&env, "srv");
    env.fetch_hash(&hash)
        .args(["--git", "http://no-such-host.invalid/some.git"])
        .args(["--rev", "main", "-o", "out"])
        .variable("http_proxy", http.url(""))
        .go()
        .exits(0);
    assert_eq!(nar_of(&env.out("out")), hash);
}

#[test]
fn plain_files_are_fetched_by_the_systems_git() {
    if lacks("plain_files_are_fetched_by_the_systems_git", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let commit = bare.commit("main", &[file("a", b"a\n")]);
    bare.commit("main", &[file("a", b"b\n")]);
    bare.git(&["update-server-info"]);
    let hash = bare.nar_of_clone(&env, &commit);
    let manners = Manners {
        dumb: true,
        ..Manners::default()
    };
    let http = HttpBackend::with(&env, "srv", manners);
    // Nobody's configuration counts.
    let marker = env.path("executed").display().to_string();
    let hooks = env.path("hooks");
    let hook = env.write(
        "hooks/reference-transaction",
        format!("#!/bin/sh\ntouch {marker}\n"),
    );
    fs_err::set_permissions(hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    env.write(
        "home/.gitconfig",
        format!(
            "[core]\n\thooksPath = {}\n[url \"http://127.0.0.1:1/\"]\n\tinsteadOf = http://\n",
            hooks.display()
        ),
    );
    let url = http.url("some.git");
    fetch_nar(&env, &url, &commit, &hash);
    assert!(!env.path("executed").exists());
    // HEAD is that of the server, and what is there no more is not found, nor in the way of what came in its place.
    let head = bare.nar_of_clone(&env, "main");
    fetch_nar(&env, &url, "HEAD", &head);
    bare.git(&["branch", "side", &commit]);
    bare.git(&["branch", "gone", &commit]);
    bare.git(&["update-server-info"]);
    fetch_nar(&env, &url, "side", &hash);
    bare.git(&["branch", "-D", "side", "gone"]);
    bare.git(&["branch", "side/way", &commit]);
    bare.git(&["update-server-info"]);
    fetch_nar(&env, &url, "side/way", &hash);
    fs_err::remove_dir_all(env.out("out")).unwrap();
    env.fetch_hash(&hash)
        .args(["--git", &url, "--rev", "gone", "-o", "out"])
        .go()
        .exits(3);
    fetch_nar(&env, &url, &commit, &hash);
    let missing = "0123456789abcdef0123456789abcdef01234567";
    fs_err::remove_dir_all(env.out("out")).unwrap();
    env.fetch_hash(&hash)
        .args(["--git", &url, "--rev", missing, "-o", "out"])
        .go()
        .exits(3);
    env.fetch_hash(&hash)
        .args(["--git", &url, "--rev", &commit, "-o", "out"])
        .variable("PATH", env.path("home"))
        .go()
        .exits(5)
        .says("the program git could fetch from it, and is not installed");
}
