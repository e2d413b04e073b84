//! The delivery that both daemons get: into the output they gave, from files that everybody may read.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use fetcher::configuration::{Configuration, ConfiguredLimits};
use fetcher::error::ErrorKind;
use fetcher::report::{AttemptResult, Report};
use fetcher::request::Request;
use rustix::process::Signal;
use store_index::address::Method;

use crate::support::guix::{GuixStore, HANDED_OVER, flat};
use crate::support::server::{Answer, Server};
use crate::support::{
    NOBODY, Outcome, Run, TestEnv, daemon, lacks, mode, names_in, nar_sri, noise, sri, wait_until,
};

fn request(env: &TestEnv, method: Method, hash: &str, urls: &[String]) -> Request {
    daemon::request(env, method, hash, "hello", urls)
}

/// A store of nothing, and one folder.
fn deliver(env: &TestEnv, request: &Request) -> Report {
    fs_err::set_permissions(env.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    deliver_with(env, request, Configuration::default())
}

fn deliver_with(env: &TestEnv, request: &Request, configuration: Configuration) -> Report {
    let variables = [("FETCH_MEDIA", env.path("folder").into())];
    daemon::deliver_with(env, request, &variables, configuration)
}

fn private(path: &Path) {
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o640)).unwrap();
}

#[test]
fn what_everybody_may_read_is_delivered_and_nothing_else() {
    let env = TestEnv::new();
    let file = env.write("folder/hello", "hello\n");
    let wanted = request(&env, Method::Flat, &sri(b"hello\n"), &[]);
    assert!(deliver(&env, &wanted).result.is_ok());
    assert_eq!(env.output("given"), b"hello\n");
    assert_eq!(mode(&env.out("given")) & 0o777, 0o644);

    fs_err::remove_file(env.out("given")).unwrap();
    private(&file);
    let error = deliver(&env, &wanted).result.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(env.outputs().is_empty(), "nothing is left behind");
}

#[test]
fn what_stands_at_the_output_is_not_touched() {
    let env = TestEnv::new();
    env.write("folder/hello", "hello\n");
    let elsewhere = env.write("elsewhere", "precious");
    fs_err::create_dir_all(env.out("x").parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&elsewhere, env.out("given")).unwrap();
    let wanted = request(&env, Method::Flat, &sri(b"hello\n"), &[]);
    let error = deliver(&env, &wanted).result.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Local);
    assert_eq!(fs_err::read(&elsewhere).unwrap(), b"precious");
}

#[test]
fn the_first_complete_wrong_body_is_left_to_the_daemon() {
    let env = TestEnv::new();
    fs_err::create_dir(env.path("folder")).unwrap();
    let server = Server::with("/short", Answer::claiming(100, "too little"));
    server.route("/first/hello", Answer::body("first"));
    server.route("/second/hello", Answer::body("the second"));
    server.route("/gone", Answer::status(404, "no"));
    let urls = ["/short", "/first/hello", "/second/hello", "/gone"].map(|path| server.url(path));
    for (method, hash) in [
        (Method::Flat, sri(b"right")),
        (Method::Nar, nar_sri(b"right", true)),
    ] {
        let wanted = request(&env, method, &hash, &urls);
        let report = deliver(&env, &wanted);
        assert_eq!(report.result.unwrap_err().kind, ErrorKind::Mismatch);
        assert_eq!(report.left, Some(server.url("/first/hello")));
        assert_eq!(env.output("given"), b"first");
        fs_err::remove_file(env.out("given")).unwrap();
    }
    // One that is right makes the others forgotten.
    server.route("/third/hello", Answer::body("right"));
    let urls = [urls[1].clone(), server.url("/third/hello")];
    let wanted = request(&env, Method::Flat, &sri(b"right"), &urls);
    let report = deliver(&env, &wanted);
    assert!(report.result.is_ok() && report.left.is_none());
    assert_eq!(env.output("given"), b"right");
    assert_eq!(names_in(env.out("given").parent().unwrap()), ["given"]);
}

/// It stays where it landed: the folder for temporary files may be too small for it, or missing.
#[test]
fn a_wrong_body_needs_no_room_for_temporary_files() {
    let env = TestEnv::new();
    let first = noise(1, 3 << 20);
    let server = Server::with("/first", Answer::body(&first));
    server.route("/second", Answer::body("second"));
    server.route("/right", Answer::body("right"));
    let build = |paths: &[&str]| {
        let urls: Vec<_> = paths.iter().map(|path| server.url(path)).collect();
        env.fetch(["builder"])
            .variable("TMPDIR", env.path("nowhere"))
            .variable("NIX_STORE", env.path("store"))
            .variable("name", "hello")
            .variable("out", env.out("given"))
            .variable("urls", urls.join(" "))
            .variable("outputHash", sri(b"right"))
            .variable("outputHashMode", "flat")
            .go()
            .exits(0)
    };
    for paths in [
        &["/first"][..],
        &["/first", "/gone"],
        &["/first", "/second"],
    ] {
        build(paths).says("is left to Nix");
        assert!(env.output("given") == first, "{paths:?}");
        fs_err::remove_file(env.out("given")).unwrap();
    }
    build(&["/first", "/right"]);
    assert_eq!(env.output("given"), b"right");
}

/// Builds where the output's file system has 5 MiB; standard output is what the output has then.
fn build_on_a_small_disk(env: &TestEnv, hash: &str, urls: &[String]) -> Outcome {
    let small = env.path("small");
    fs_err::create_dir_all(&small).unwrap();
    let script = "mount -t tmpfs -o size=5m none \"$1\" && shift && \"$@\" && cat \"$out\"";
    let shell = [
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-ec",
        script,
        "sh",
    ];
    env.run(Path::new("unshare"), shell)
        .arg(&small)
        .arg(env!("CARGO_BIN_EXE_fetch"))
        .arg("builder")
        .variable("NIX_STORE", env.path("store"))
        .variable("name", "hello")
        .variable("out", small.join("given"))
        .variable("urls", urls.join(" "))
        .variable("outputHash", hash)
        .variable("outputHashMode", "flat")
        .go()
        .exits(0)
}

/// A wrong body that fills the disk is given up for one that may be right, and left if none comes.
#[test]
fn a_wrong_body_makes_room_where_the_disk_is_full() {
    let name = "builtin::a_wrong_body_makes_room_where_the_disk_is_full";
    if lacks(name, &["mount", "unshare"], true) {
        return;
    }
    let env = TestEnv::new();
    let (wrong, right) = (noise(1, 3 << 20), noise(2, 3 << 20));
    let server = Server::with("/wrong", Answer::body(&wrong));
    server.route("/right", Answer::body(&right));
    let urls = ["/wrong", "/right", "/gone"].map(|path| server.url(path));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let outcome = build_on_a_small_disk(&env, &sri(&right), &urls).says("is given up");
    assert!(outcome.stdout == text(&right));
    let urls = [urls[0].clone(), urls[2].clone()];
    let outcome = build_on_a_small_disk(&env, &sri(&right), &urls).says("is left to Nix");
    assert!(outcome.stdout == text(&wrong));
}

#[test]
fn a_wrong_file_makes_room_for_the_right_tree() {
    let env = TestEnv::new();
    let server = Server::with("/hello", Answer::body("no tree"));
    env.write("folder/tree/sub/hello", "hello\n");
    env.store_index(["update", "--algorithms", "sha256,git"])
        .arg(env.path("folder"))
        .args(["--in-place"])
        .go()
        .exits(0);
    // What `git write-tree` says of it.
    let id = "swh:1:dir:9684e0eeb87cc9c0a03a288ef4cfefb743ab0bf4";
    let wanted = request(&env, Method::Git, id, &[server.url("/hello")]);
    deliver(&env, &wanted).result.unwrap();
    assert_eq!(
        fs_err::read(env.out("given/sub/hello")).unwrap(),
        b"hello\n"
    );
    assert_eq!(server.connections(), 0);

    fs_err::remove_dir_all(env.out("given")).unwrap();
    private(&env.path("folder/tree/sub/hello"));
    assert!(deliver(&env, &wanted).result.is_err());
    assert!(env.outputs().is_empty(), "nothing is left behind");
}

#[test]
fn of_another_version_nothing_is_told_but_what_everybody_may_know() {
    let env = TestEnv::new();
    let file = env.write("folder/foo-1.0.tar.gz", "hello\n");
    let update = ["update", "--in-place"].map(Into::into);
    env.store_index(update.into_iter().chain([env.path("folder")]))
        .go()
        .exits(0);
    let mut wanted = request(&env, Method::Flat, &sri(b"hello\n"), &[]);
    wanted.asked_names = vec!["foo-2.0.tar.gz".to_owned()];
    let passed_over = |report: &Report| {
        let error = report.result.as_ref().unwrap_err().to_string();
        assert!(!error.contains("foo-1.0"), "{error}");
        let results = report.attempts.iter().map(|attempt| attempt.result);
        results
            .filter(|&result| result == AttemptResult::Suspicious)
            .count()
    };
    assert_eq!(passed_over(&deliver(&env, &wanted)), 1);
    private(&file);
    assert_eq!(passed_over(&deliver(&env, &wanted)), 0);
}

/// Where an administrator has made a folder for the build's user, a download that broke off goes on in the next build.
#[test]
fn a_state_dir_of_the_administrator() {
    let env = TestEnv::new();
    let body = noise(3, 3 << 20);
    let server = Server::start();
    let file = Answer::file(body.clone());
    server.route_in_turn("/big", [file.clone().cut_after(2 << 20), file]);
    let wanted = request(&env, Method::Flat, &sri(&body), &[server.url("/big")]);
    let uid = rustix::process::geteuid().as_raw().to_string();
    let configuration = || Configuration {
        state_dir: Some(env.path("state")),
        limits: ConfiguredLimits {
            tries: Some(1),
            ..ConfiguredLimits::default()
        },
        ..Configuration::default()
    };
    // Nobody but the administrator makes it: without it all is as ever.
    let own = env.path("state").join(&uid);
    fs_err::create_dir_all(&own).unwrap();
    fs_err::set_permissions(&own, std::fs::Permissions::from_mode(0o700)).unwrap();
    let error = deliver_with(&env, &wanted, configuration())
        .result
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Network);
    // What a build leaves at its output is void.
    drop(fs_err::remove_file(env.out("given")));
    let report = deliver_with(&env, &wanted, configuration());
    assert!(report.result.is_ok(), "{report:?}");
    assert!(env.output("given") == body);
    assert_eq!(mode(&env.out("given")) & 0o777, 0o644);
    assert_eq!(env.outputs(), ["given"]);
    assert_eq!(server.sent_bytes(), body.len() as u64);
    assert_eq!(names_in(&own.join("spool")), [""; 0]);
    // Deliveries are nobody else's business.
    assert!(!own.join("ledger").exists());
}

/// Where builds share a `state_dir`, one waits for another that downloads the same content, says so in its log, and no
/// longer than the system's file allows.
#[test]
fn a_build_waits_for_another_as_long_as_it_may() {
    if lacks(
        "the system's file for builds that wait",
        &["unshare", "mount", "setpriv"],
        true,
    ) {
        return;
    }
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let body = noise(3, 4 << 20);
    // For longer than anybody waits here.
    let file = Answer::file(body.clone()).paced(64 * 1024, Duration::from_millis(400));
    let server = Server::with("/blob-a.bin", file);
    for uid in [0, NOBODY] {
        let own = env.path("state").join(uid.to_string());
        fs_err::create_dir_all(&own).unwrap();
        fs_err::set_permissions(&own, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&own, Some(uid), Some(uid)).unwrap();
    }
    let configured = format!("state_dir = '{}'\n", env.path("state").display());
    let patient = env.write("patient.toml", &configured);
    let impatient = env.write("impatient.toml", format!("{configured}lock = 1.5\n"));
    let drv = store.derivation("flat-plain.drv", &flat(&body), Some(&server), &[]);
    let guix = |file: &Path| store.perform(&drv).with_system_file(file);
    let nix = |file: &Path, out: &str| {
        env.fetch(["builder"])
            .with_system_file(file)
            .variable("NIX_STORE", env.path("store"))
            .variable("out", env.out(out))
            .variable("name", "blob")
            .variable("outputHash", sri(&body))
            .variable("url", server.url("/blob-a.bin"))
    };
    let check = |leader: Run<'_>, follower: Run<'_>, code: i32| {
        let before = server.requests().len();
        let leader = leader.start();
        wait_until("the first build is at it", || {
            server.requests().len() > before && server.serving() > 0
        });
        // The daemon gives each build an output of its own.
        drop(fs_err::remove_file(&drv.output));
        let started = Instant::now();
        let outcome = follower.go().exits(code);
        let took = started.elapsed();
        let leaders = format!("process {} on ", leader.id());
        let outcome = outcome.says(&format!("waiting for {leaders}"));
        let last = outcome.stderr.rsplit("so far").next().unwrap();
        assert!(
            last.contains(&leaders) && last.contains("downloads the same content"),
            "{outcome}"
        );
        assert!(took >= Duration::from_millis(1500), "{took:?} {outcome}");
        assert_eq!(server.requests().len(), before + 1, "{outcome}");
        leader.signal(Signal::KILL);
        leader.wait();
        wait_until("the server has noticed", || server.serving() == 0);
    };
    check(nix(&patient, "one"), nix(&impatient, "two"), 1);
    // The real guix has its turn.
    check(guix(&patient), guix(&impatient), HANDED_OVER);
}

/// Nix's own environment goes before the administrator's file, that before the derivation, and the built-in sites last.
#[test]
fn sites_of_mirrors_in_builds() {
    if lacks("the system's file in builds", &["unshare", "mount"], true) {
        return;
    }
    let env = TestEnv::new();
    let server = Server::start();
    let sites = ["nix", "file", "derivation"];
    for site in sites {
        server.route(&format!("/{site}/hello-2.10"), Answer::body("hello\n"));
    }
    let mirrors = |site: &str| server.url(&format!("/{site}/"));
    let configured = env.write(
        "system.toml",
        format!("[mirror_sites]\ngnu = ['{}']\n", mirrors("file")),
    );
    let nothing = env.write("empty.toml", "");
    let build = |file: &Path| {
        drop(fs_err::remove_file(env.out("made")));
        env.fetch(["builder"])
            .with_system_file(file)
            .variable("NIX_STORE", env.path("store"))
            .variable("out", env.out("made"))
            .variable("name", "made")
            .variable("outputHash", sri(b"hello\n"))
            .variable("url", "mirror://gnu/hello-2.10")
    };
    let asked = || {
        let requests = server.requests();
        requests.last().unwrap().line.clone()
    };
    let (nix, derivation) = (mirrors("nix"), mirrors("derivation"));
    let all = build(&configured).variable("FETCH_MIRRORS_gnu", &derivation);
    all.variable("NIX_MIRRORS_gnu", &nix).go().exits(0);
    assert_eq!(asked(), "GET /nix/hello-2.10 HTTP/1.1");
    let two = build(&configured).variable("FETCH_MIRRORS_gnu", &derivation);
    two.go().exits(0);
    assert_eq!(asked(), "GET /file/hello-2.10 HTTP/1.1");
    let one = build(&nothing).variable("FETCH_MIRRORS_gnu", &derivation);
    one.go().exits(0);
    assert_eq!(asked(), "GET /derivation/hello-2.10 HTTP/1.1");
    build(&nothing)
        .variable("FETCH_OFFLINE", "1")
        .go()
        .exits(1)
        .says("https://ftp.gnu.org/pub/gnu/hello-2.10 is skipped");
}
