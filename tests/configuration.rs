//! The configuration files: who wins, what is refused, and what need not be there.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::server::{Answer, Server};
use crate::support::{TestEnv, is_root, lacks, noise, sri};

/// A folder with a file of this content, which a lookup by name finds there.
fn folder_with(env: &TestEnv, folder: &str, content: &[u8]) -> String {
    env.write(format!("{folder}/hello-1.0.tar"), content);
    env.path(folder).to_str().unwrap().to_owned()
}

#[test]
fn options_win_over_variables_over_the_users_file_over_the_systems() {
    if lacks("configuration levels", &["unshare", "mount"], true) {
        return;
    }
    let env = TestEnv::new();
    let content = noise(1, 3000);
    let folders =
        ["option", "variable", "user", "system"].map(|level| folder_with(&env, level, &content));
    let system = env.write("system.toml", format!("media = ['{}']\n", folders[3]));
    let source = |levels: &[&str]| {
        drop(fs_err::remove_file(env.out("hello-1.0.tar")));
        drop(fs_err::remove_file(env.path("config/fetch/fetch.toml")));
        let mut run = env
            .fetch_hash(sri(&content))
            .args(["--offline", "--name", "hello-1.0.tar"]);
        if levels.contains(&"option") {
            run = run.args(["--media", &folders[0]]);
        }
        if levels.contains(&"variable") {
            run = run.variable("FETCH_MEDIA", &folders[1]);
        }
        if levels.contains(&"user") {
            let text = format!("media = ['{}']\n", folders[2]);
            env.write("config/fetch/fetch.toml", text);
        }
        if levels.contains(&"system") {
            run = run.with_system_file(&system);
        }
        run.json(if levels.is_empty() { 3 } else { 0 })
            .location()
            .to_owned()
    };
    let all = ["option", "variable", "user", "system"];
    for (first, level) in all.iter().enumerate() {
        let expected = env.path(level).join("hello-1.0.tar");
        assert_eq!(
            Path::new(&source(&all[first..])),
            expected,
            "all from {level} on"
        );
        assert_eq!(Path::new(&source(&[level])), expected, "{level} alone");
    }
    assert_eq!(source(&[]), "");
}

#[test]
fn a_variable_switches_off_what_a_file_switches_on() {
    let env = TestEnv::new();
    env.write("config/fetch/fetch.toml", "no_local = true\nquiet = true\n");
    let content = noise(2, 100);
    let folder = folder_with(&env, "folder", &content);
    let fetch = || {
        env.fetch_hash(sri(&content)).args([
            "--offline",
            "--name",
            "hello-1.0.tar",
            "--media",
            &folder,
        ])
    };
    fetch().go().exits(3);
    fetch().variable("FETCH_NO_LOCAL", "0").go().exits(0);
    // An option of the same kind goes before what the file says.
    fs_err::remove_file(env.out("hello-1.0.tar")).unwrap();
    let outcome = fetch()
        .variable("FETCH_NO_LOCAL", "0")
        .arg("--verbose")
        .go();
    outcome.exits(0).says("media");
}

#[test]
fn the_default_place_of_the_users_file_is_below_home() {
    let env = TestEnv::new();
    let content = noise(3, 100);
    folder_with(&env, "home/distfiles", &content);
    env.write("home/.config/fetch/fetch.toml", "media = ['~/distfiles']\n");
    env.fetch_hash(sri(&content))
        .args(["--offline", "--name", "hello-1.0.tar"])
        .variable("XDG_CONFIG_HOME", "")
        .go()
        .exits(0);
}

/// Whoever set a variable in a file of the system long ago must see that it is the variable.
#[test]
fn mistakes_in_variables_name_them() {
    let env = TestEnv::new();
    for (variable, value, option) in [
        ("FETCH_LOCK", "x", "--lock"),
        ("FETCH_MAX_BYTES", "1G", "--max-bytes"),
        ("FETCH_CONNECT_TIMEOUT", "0", "--connect-timeout"),
        ("FETCH_STALE_HASH", "never", "--stale-hash"),
        ("FETCH_PROGRESS", "loud", "--progress"),
        ("FETCH_MODE", "tar", "flat, nar"),
        ("FETCH_HASH_ALGO", "sha3", "sha512"),
    ] {
        env.fetch_hash(sri(b""))
            .args(["--offline", "--name", "a"])
            .variable(variable, value)
            .go()
            .exits(2)
            .says(variable)
            .says(option);
    }
}

#[test]
fn mistakes_end_with_file_and_line() {
    let env = TestEnv::new();
    let fetch = || env.fetch_hash(sri(b"")).args(["--offline", "--name", "a"]);
    let file = env.write("config/fetch/fetch.toml", "offline = true\nfoo = 1\n");
    let place = format!("{}:2: there is no key 'foo'", file.display());
    fetch()
        .go()
        .exits(2)
        .says(&place)
        .says("docs/configuration.md");
    env.write("config/fetch/fetch.toml", b"offline = '\xff'\n");
    fetch().go().exits(7).says("UTF-8");
    env.write("config/fetch/fetch.toml", "#".repeat((1 << 20) + 1));
    fetch().go().exits(7).says("1048576");
    env.write("config/fetch/fetch.toml", "");
    fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o646)).unwrap();
    fetch().go().exits(7).says("everybody can write it");
    fs_err::remove_file(&file).unwrap();
    fs_err::create_dir(&file).unwrap();
    fetch().go().exits(7).says("it is no file");
    fs_err::remove_dir(&file).unwrap();
    // Nobody writes into the pipe, and nobody waits.
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RUSR).unwrap();
    fetch().go().exits(7).says("it is no file");
    // What explains or completes has no use for the file, and what is wrong with it must not be in the way.
    env.fetch(["--help"]).go().exits(0);
}

#[test]
fn somebody_elses_file_is_refused() {
    if lacks("a configuration of somebody else", &["chown"], true) {
        return;
    }
    assert!(is_root());
    let env = TestEnv::new();
    let file = env.write("config/fetch/fetch.toml", "");
    std::os::unix::fs::chown(&file, Some(12345), None).unwrap();
    env.fetch_hash(sri(b""))
        .args(["--offline", "--name", "a"])
        .go()
        .exits(7)
        .says("it belongs to somebody else");
}

#[test]
fn what_a_file_names_need_not_be_there() {
    let env = TestEnv::new();
    let content = noise(4, 100);
    let there = folder_with(&env, "there", &content);
    let gone = env.path("gone");
    env.write(
        "config/fetch/fetch.toml",
        format!(
            "media = ['{}', '{there}']\nstores = ['{}']\n",
            gone.display(),
            gone.display()
        ),
    );
    let fetch = || {
        env.fetch([
            "--no-media",
            "--offline",
            "--name",
            "hello-1.0.tar",
            "--hash",
        ])
        .arg(sri(&content))
    };
    let report = fetch().json(0);
    report
        .tried("media", "unavailable", gone.to_str().unwrap())
        .tried("store", "unavailable", gone.to_str().unwrap());
    // Named on the command line, it would be a mistake.
    fetch()
        .args(["--force", "--media"])
        .arg(&gone)
        .go()
        .exits(7);
}

#[test]
fn what_is_mounted_where_a_pattern_says_is_a_medium() {
    if lacks("media globs", &["unshare", "mount"], true) {
        return;
    }
    let env = TestEnv::new();
    let content = noise(5, 100);
    let folder = folder_with(&env, "mirror", &content);
    for point in ["mnt/a", "mnt/b"] {
        fs_err::create_dir_all(env.path(point)).unwrap();
    }
    let fetch = |pattern: &str| {
        env.write(
            "config/fetch/fetch.toml",
            format!("media_globs = ['{}']\n", env.path(pattern).display()),
        );
        env.fetch([
            "--no-store",
            "--offline",
            "--force",
            "--name",
            "hello-1.0.tar",
            "--hash",
        ])
        .arg(sri(&content))
        .with_mount(Path::new(&folder), &env.path("mnt/a"))
    };
    fetch("mnt/b*").json(3);
    fetch("mnt").json(3);
    let report = fetch("mnt/*").json(0);
    assert_eq!(
        Path::new(report.location()),
        env.path("mnt/a/hello-1.0.tar")
    );
}

#[test]
fn limits_of_a_file_hold() {
    let env = TestEnv::new();
    let content = noise(6, 5000);
    let server = Server::with("/a", Answer::body(&content));
    env.write("config/fetch/fetch.toml", "[limits]\nmax_bytes = 4999\n");
    let fetch = || env.fetch_hash(sri(&content)).arg(server.url("/a"));
    fetch().go().exits(5).says("4999");
    fetch().variable("FETCH_MAX_BYTES", "5000").go().exits(0);
}

/// What is said of the network in a file counts, as an option would.
#[test]
fn keys_of_the_network() {
    let env = TestEnv::new();
    let body = noise(4, 2 << 20);
    let server = Server::with("/busy", Answer::status(500, "oops"));
    server.route("/big", Answer::file(body.clone()));
    server.route("/around", Answer::redirect(302, &server.url("/big")));
    let fetch = |path: &str, keys: &str| {
        env.write("config/fetch/fetch.toml", keys);
        drop(fs_err::remove_file(env.out("big")));
        env.fetch_hash(sri(&body))
            .args(["--name", "big", "--no-local"])
            .arg(server.url(path))
    };
    fetch("/busy", "[limits]\ntries = 2\n").go().exits(5);
    assert_eq!(server.requests().len(), 2);
    fetch("/busy", "[limits]\nretry_budget = 0\n").go().exits(5);
    assert_eq!(server.requests().len(), 3);
    let no_redirects = "[limits]\nmax_redirects = 0\n";
    fetch("/around", no_redirects)
        .go()
        .exits(5)
        .says("more than 0 redirects");
    let all = format!("[limits]\ndisk_reserve = {}\n", 1_u64 << 60);
    fetch("/big", &all).go().exits(7).says("not enough space");
    let netrc = env.write(
        "secrets",
        format!(
            "machine 127.0.0.1:{} login me password s3cret\n",
            server.port()
        ),
    );
    fetch("/big", &format!("netrc = '{}'\n", netrc.display()))
        .go()
        .exits(0);
    let sent = server
        .requests()
        .last()
        .unwrap()
        .header("authorization")
        .map(str::to_owned);
    assert_eq!(sent.as_deref(), Some("Basic bWU6czNjcmV0"), "me:s3cret");
    // Servers that are asked, and the sites behind mirror://.
    let mirrors = format!(
        "mirrors = ['{}']\n[mirror_sites]\ngnu = ['{}']\n",
        server.url("/hashed"),
        server.url("/")
    );
    env.write("config/fetch/fetch.toml", &mirrors);
    fs_err::remove_file(env.out("big")).unwrap();
    env.fetch_hash(sri(&body))
        .args(["--no-local", "mirror://gnu/big"])
        .go()
        .exits(0);
    let asked = server.requests();
    assert!(
        asked
            .iter()
            .any(|asked| asked.line.starts_with("GET /hashed/sha256/"))
    );
    assert_eq!(asked.last().unwrap().line, "GET /big HTTP/1.1");
    // Another process has it: the file says how long is waited.
    server.route(
        "/slow",
        Answer::file(body.clone()).paced(64 << 10, std::time::Duration::from_millis(50)),
    );
    let holder = fetch("/slow", "").start();
    crate::support::wait_until("the other one downloads", || {
        server.requests().last().unwrap().line == "GET /slow HTTP/1.1"
    });
    fetch("/big", "lock = 'fail'\n")
        .args(["-o", "other"])
        .go()
        .exits(6);
    holder.wait().exits(0);
}

#[test]
fn how_much_is_said_is_decided_where_it_is_said_first() {
    let env = TestEnv::new();
    let hash = sri(b"nowhere");
    fs_err::create_dir(env.path("folder")).unwrap();
    let says = |file: &str, variables: &[(&str, &str)], options: &[&str]| {
        env.write("config/fetch/fetch.toml", file);
        let mut run = env
            .fetch_hash(&hash)
            .args(["--offline", "--name", "x", "--media"])
            .arg(env.path("folder"))
            .args(options);
        for (name, value) in variables {
            run = run.variable(name, value);
        }
        run.go().exits(3).stderr.contains("folder: absent")
    };
    let (quiet, verbose) = ("quiet = true\n", "verbose = true\n");
    assert!(!says("", &[], &[]));
    assert!(says(verbose, &[], &[]));
    assert!(says(quiet, &[("FETCH_VERBOSE", "1")], &[]));
    assert!(!says(verbose, &[("FETCH_QUIET", "1")], &[]));
    assert!(says(verbose, &[("FETCH_QUIET", "0")], &[]));
    assert!(!says(verbose, &[("FETCH_VERBOSE", "0")], &[]));
    assert!(says(quiet, &[("FETCH_QUIET", "1")], &["-v"]));
    assert!(!says(verbose, &[("FETCH_VERBOSE", "1")], &["-q"]));
}

/// A mistake must neither stop the builds nor let them do what the file may forbid.
#[test]
fn in_builds_a_mistake_in_the_systems_file_allows_nothing() {
    if lacks(
        "a mistake in the system's file",
        &["unshare", "mount"],
        true,
    ) {
        return;
    }
    let env = TestEnv::new();
    env.open_to_everybody();
    fs_err::create_dir(env.path("store")).unwrap();
    let content = noise(3, 300);
    let folder = folder_with(&env, "folder", &content);
    let server = Server::with("/hello-1.0.tar", Answer::body(&content));
    let build = |file: &str, offline: &str| {
        drop(fs_err::remove_file(env.out("made")));
        let file = env.write("system.toml", file);
        env.fetch(["builder"])
            .with_system_file(&file)
            .variable("NIX_STORE", env.path("store"))
            .variable("FETCH_OFFLINE", offline)
            .variable("out", env.out("made"))
            .variable("name", "made")
            .variable("outputHash", sri(&content))
            .variable("url", server.url("/hello-1.0.tar"))
            .go()
    };
    let media = format!("media = ['{folder}']\n");
    // What is right counts, before and after what is wrong.
    build(&format!("guix = 3\n{media}offline = true\n"), "")
        .exits(0)
        .says("/etc/fetch/fetch.toml:1: guix")
        .says("not downloaded");
    for (wrong, told) in [
        ("media = 3\noffline = true\n", ":1: media"),
        ("offline = yes\n", "offline stands there and cannot be read"),
        ("stores = [\noffline = true\n", "offline stands there"),
        ("\u{0}\n", "fetch.toml:1:"),
    ] {
        let outcome = build(wrong, "");
        if wrong.contains("offline") {
            outcome.exits(1).says(told);
            assert_eq!(server.connections(), 0, "{wrong}");
        } else {
            outcome.exits(0).says(told);
        }
    }
    let before = server.connections();
    // The daemon's environment goes before the file.
    build("offline = yes\n", "0").exits(0);
    assert_eq!(server.connections(), before + 1);
    // What cannot be read at all may forbid it.
    let invalid = env.path("invalid.toml");
    fs_err::write(&invalid, b"\xff\xfe").unwrap();
    drop(fs_err::remove_file(env.out("made")));
    env.fetch(["builder"])
        .with_system_file(&invalid)
        .variable("NIX_STORE", env.path("store"))
        .variable("out", env.out("made"))
        .variable("name", "made")
        .variable("outputHash", sri(&content))
        .variable("url", server.url("/hello-1.0.tar"))
        .go()
        .exits(1)
        .says("may say that no socket is to be opened");
    assert_eq!(server.connections(), before + 1);
}
