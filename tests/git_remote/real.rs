//! The servers that people run: sshd, nginx with git's own program behind it, git daemon; and a repository as large as
//! those of distributions.

use std::fmt::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::fetch_nar;
use crate::support::git::{GIT, Repository, file, nar_of};
use crate::support::git_server::{Daemon, HttpBackend, Manners};
use crate::support::nginx::Nginx;
use crate::support::relay::Relay;
use crate::support::sshd::{SSHD, Sshd};
use crate::support::{Outcome, TestEnv, lacks, noise, sri, wait_until};

#[test]
fn a_real_sshd_serves_commits() {
    if lacks("a_real_sshd_serves_commits", &[GIT, SSHD].concat(), false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some thing.git");
    let big = noise(1, 300_000);
    let first = bare.commit("main", &[file("big", &big), file("a", b"a\n")]);
    let second = bare.commit("main", &[file("big", &big), file("a", b"b\n")]);
    let hash = |commit: &str| bare.nar_of_clone(&env, commit);
    let sshd = Sshd::start(&env);
    let relay = Relay::to(sshd.port()).unwrap();
    let ports = [sshd.port(), relay.port()];
    let known = Sshd::command(&env, "user", "host", &ports);
    let (folder, relayed) = (env.path("srv").display().to_string(), relay.port());
    let ask = |ssh: &str, path: &str, revision: &str, hash: &str| -> Outcome {
        drop(fs_err::remove_dir_all(env.out("out")));
        env.fetch_hash(hash)
            .args(["--git", &format!("ssh://127.0.0.1:{relayed}{path}")])
            .args(["--rev", revision, "-o", "out"])
            .variable("GIT_SSH_COMMAND", ssh)
            .go()
    };
    let path = format!("{folder}/some%20thing.git");
    ask(&known, &path, &first, &hash(&first)).exits(0);
    assert_eq!(nar_of(&env.out("out")), hash(&first));
    let sent = relay.take_sent_bytes();
    assert!((300_000..330_000).contains(&sent), "{sent}");
    // The next one costs its difference; what was there once, no connection.
    ask(&known, &path, "main", &hash(&second)).exits(0);
    assert_eq!(nar_of(&env.out("out")), hash(&second));
    let sent = relay.take_sent_bytes();
    assert!(sent < 20_000, "{sent}");
    relay.take_connections();
    ask(&known, &path, &first, &hash(&first)).exits(0);
    assert_eq!(relay.take_connections(), 0);
    let missing = format!("{folder}/none.git");
    ask(&known, &missing, "main", &sri(b"x")).exits(3);
    ask(&known, &path, "no-such", &sri(b"x")).exits(3);
    let stranger = Sshd::command(&env, "stranger", "host", &ports);
    ask(&stranger, &path, "main", &sri(b"x"))
        .exits(5)
        .says("Permission denied");
    // Whoever has another host's key is somebody else.
    let other = Sshd::command(&env, "user", "user", &ports);
    ask(&other, &path, "main", &sri(b"x"))
        .exits(5)
        .says("Host key verification failed");
}

/// git's program behind nginx, by FastCGI; ends when dropped.
struct Wrapped {
    child: Child,
    nginx: Nginx,
}

impl Wrapped {
    fn start(env: &TestEnv, root: &Path) -> Self {
        let socket = env.path("fcgi");
        let child = Command::new("fcgiwrap")
            .args(["-c", "2", "-s", &format!("unix:{}", socket.display())])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", env.path("home"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // It starts others, which would stay.
            .process_group(0)
            .spawn()
            .unwrap();
        wait_until("fcgiwrap listens", || socket.exists());
        let programs = Command::new("git").arg("--exec-path").output().unwrap();
        let programs = String::from_utf8(programs.stdout).unwrap();
        let location = format!(
            "location ~ ^/git(/.*)$ {{
                client_max_body_size 0;
                fastcgi_pass unix:{socket};
                fastcgi_param SCRIPT_FILENAME {programs}/git-http-backend;
                fastcgi_param GIT_PROJECT_ROOT {root};
                fastcgi_param GIT_HTTP_EXPORT_ALL 1;
                fastcgi_param GIT_PROTOCOL $http_git_protocol;
                fastcgi_param PATH_INFO $1;
                fastcgi_param QUERY_STRING $query_string;
                fastcgi_param REQUEST_METHOD $request_method;
                fastcgi_param CONTENT_TYPE $content_type;
                fastcgi_param CONTENT_LENGTH $content_length;
            }}",
            socket = socket.display(),
            programs = programs.trim(),
            root = root.display()
        );
        let nginx = Nginx::configured(env, &location);
        Self { child, nginx }
    }
}

impl Drop for Wrapped {
    fn drop(&mut self) {
        let id = rustix::process::Pid::from_child(&self.child);
        let ended = rustix::process::kill_process_group(id, rustix::process::Signal::TERM);
        let _gone: Result<(), rustix::io::Errno> = ended;
        drop(self.child.wait());
    }
}

#[test]
fn nginx_serves_commits_by_gits_own_program() {
    let needed = [GIT, &["nginx", "fcgiwrap"]].concat();
    if lacks("nginx_serves_commits_by_gits_own_program", &needed, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let big = noise(1, 300_000);
    let first = bare.commit("main", &[file("big", &big), file("a", b"a\n")]);
    let second = bare.commit("main", &[file("big", &big), file("a", b"b\n")]);
    let wrapped = Wrapped::start(&env, &env.path("srv"));
    let relay = Relay::to(wrapped.nginx.port()).unwrap();
    let url = format!("http://127.0.0.1:{}/git/some.git", relay.port());
    let hash = |commit: &str| bare.nar_of_clone(&env, commit);
    fetch_nar(&env, &url, &first, &hash(&first));
    let sent = relay.take_sent_bytes();
    assert!((300_000..320_000).contains(&sent), "{sent}");
    fetch_nar(&env, &url, &second, &hash(&second));
    let sent = relay.take_sent_bytes();
    assert!(sent < 10_000, "{sent}");
    assert_eq!(
        wrapped.nginx.requests(),
        [
            "GET /git/some.git/info/refs?service=git-upload-pack HTTP/1.1 200",
            "POST /git/some.git/git-upload-pack HTTP/1.1 200"
        ]
        .repeat(2)
    );
    drop(fs_err::remove_dir_all(env.out("out")));
    let none = url.replace("some", "none");
    env.fetch_hash(sri(b"x"))
        .args(["--git", &none, "--rev", "main", "-o", "out"])
        .go()
        .exits(3);
}

/// What saves bytes is refused, and then it costs them, and nothing else.
#[test]
fn servers_that_refuse_filters_and_hidden_ids_serve_all_the_same() {
    let name = "servers_that_refuse_filters_and_hidden_ids_serve_all_the_same";
    if lacks(name, GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/some.git");
    let (big, other) = (noise(1, 300_000), noise(2, 100_000));
    let hidden = bare.commit("main", &[file("big", &big)]);
    bare.commit("main", &[file("big", &big), file("other", &other)]);
    let hash = bare.nar_of_clone(&env, &hidden);
    env.write("here/x", &big);
    env.store_index(["update", "--in-place", "--algorithms", "git"])
        .arg(env.path("here"))
        .go()
        .exits(0);
    let daemon = Daemon::start(&env, "srv");
    let relay = Relay::to(daemon.port()).unwrap();
    let url = format!("git://127.0.0.1:{}/some.git", relay.port());
    let manners = Manners {
        only_v0: true,
        ..Manners::default()
    };
    let old_fashioned = HttpBackend::with(&env, "srv", manners);
    // Whether it can leave out files, and what range of bytes it costs.
    for (filters, url, range) in [
        ("true", &url, 0..5_000),
        ("false", &url, 300_000..310_000),
        // It gives out what it shows, and then all of that: the newer file too.
        ("false", &old_fashioned.url("some.git"), 400_000..420_000),
    ] {
        bare.git(&["config", "uploadpack.allowFilter", filters]);
        drop(fs_err::remove_dir_all(env.path("cache/fetch/git")));
        drop(fs_err::remove_dir_all(env.out("out")));
        env.fetch_hash(&hash)
            .args(["--git", url, "--rev", &hidden, "-o", "out"])
            .arg("--media")
            .arg(env.path("here"))
            .go()
            .exits(0);
        assert_eq!(nar_of(&env.out("out")), hash);
        let sent = relay.take_sent_bytes() + old_fashioned.take_sent_bytes() as u64;
        assert!(range.contains(&sent), "{filters} {url}: {sent}");
    }
}

/// Text that differs from file to file and from change to change, and of which a difference is short.
fn content(file: u64, change: u64) -> String {
    let mut text = format!("file {file}, change {change}\n");
    for line in 0..20 {
        let number = (file * 31 + line).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        writeln!(text, "{number:016x}").unwrap();
    }
    text
}

#[test]
fn the_second_revision_of_a_large_repository_costs_its_difference() {
    const FILES: u64 = 5_000;
    const COMMITS: u64 = 2_000;
    /// How many files each commit changes.
    const CHANGED: u64 = 3;
    let name = "the_second_revision_of_a_large_repository_costs_its_difference";
    if lacks(name, GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "srv/large.git");
    let mut stream = String::new();
    for commit in 0..COMMITS {
        write!(
            stream,
            "commit refs/heads/main\ncommitter A <a@example.org> 1767225600 +0000\ndata 1\nx\n"
        )
        .unwrap();
        let changed = if commit == 0 { FILES } else { CHANGED };
        for number in 0..changed {
            let file = (commit * 7 + number * 997) % FILES;
            let file = if commit == 0 { number } else { file };
            let text = content(file, commit);
            let len = text.len();
            write!(
                stream,
                "M 100644 inline {}/{file}\ndata {len}\n{text}\n",
                file / 100
            )
            .unwrap();
        }
    }
    bare.git_fed(&["fast-import", "--quiet"], stream.as_bytes());
    let (first, second) = (
        bare.git(&["rev-parse", "main~50"]),
        bare.git(&["rev-parse", "main"]),
    );
    let daemon = Daemon::start(&env, "srv");
    let relay = Relay::to(daemon.port()).unwrap();
    let url = format!("git://127.0.0.1:{}/large.git", relay.port());
    fetch_nar(&env, &url, &first, &bare.nar_of_clone(&env, &first));
    let whole = relay.take_sent_bytes();
    fetch_nar(&env, &url, &second, &bare.nar_of_clone(&env, &second));
    let difference = relay.take_sent_bytes();
    // 50 commits of three files: some 150 files of 400 bytes, and the folders that they lie in.
    assert!(whole > 500_000, "{whole}");
    assert!(difference < whole / 10, "{difference} of {whole}");
}
