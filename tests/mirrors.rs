//! Where to ask: sites behind `mirror://`, servers that name files by their hashes, and who may know a password.

use store_index::nix32;

use crate::support::server::{Answer, Server};
use crate::support::{Run, TestEnv, digest, noise, sri};

const HELLO: &str = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
const HELLO_HEX: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

fn hello(env: &TestEnv) -> Run<'_> {
    env.fetch_hash(HELLO)
        .args(["--name", "hello", "--force", "--no-local"])
        .args(["--retry-budget", "0"])
}

fn hello_nix32() -> String {
    let digest = digest(store_index::digest::Algorithm::Sha256, b"hello\n");
    nix32::encode(digest.as_bytes())
}

#[test]
fn sites_are_replaced_by_the_environment() {
    let env = TestEnv::new();
    let server = Server::with("/second/hello/hello-2.10", Answer::body("hello\n"));
    let mirrors = format!("{} {}", server.url("/first/"), server.url("/second"));
    let report = hello(&env)
        .variable("NIX_MIRRORS_gnu", mirrors)
        .arg("mirror://gnu/hello/hello-2.10")
        .json(0);
    let locations = ["/first/hello/hello-2.10", "/second/hello/hello-2.10"];
    report.tried("url", "absent", &server.url(locations[0]));
    assert_eq!(report.location(), server.url(locations[1]));
    // The built-in ones are told without asking them.
    let explained = env
        .fetch([
            "explain",
            HELLO,
            "--no-local",
            "mirror://gnu/hello/hello-2.10",
        ])
        .go();
    assert!(
        explained
            .stdout
            .contains("https://ftp.gnu.org/pub/gnu/hello/hello-2.10, https://"),
        "{explained}"
    );
    fs_err::remove_file(env.out("hello")).unwrap();
    hello(&env)
        .args(["--offline", "mirror://gnu/hello/hello-2.10"])
        .go()
        .exits(3);
}

#[test]
fn hashed_mirrors_come_before_the_urls_and_are_verified() {
    let env = TestEnv::new();
    let upstream = Server::with("/hello", Answer::body("hello\n"));
    let layouts = [
        format!("/mirror/sha256/{HELLO_HEX}"),
        format!("/mirror/sha256/{}", hello_nix32()),
        format!("/mirror/file/hello/sha256/{}", hello_nix32()),
    ];
    for layout in &layouts {
        for base in ["/mirror", "/mirror/"] {
            let mirror = Server::with(layout, Answer::body("hello\n"));
            let report = hello(&env)
                .args(["--mirror", &mirror.url(base)])
                .arg(upstream.url("/hello"))
                .json(0);
            assert_eq!(report.kind(), "hashed-mirror");
            assert_eq!(report.location(), mirror.url(layout));
            fs_err::remove_file(env.out("hello")).unwrap();
        }
    }
    assert_eq!(upstream.requests().len(), 0);
    // A lying mirror costs one candidate.
    let liar = Server::with(&layouts[0], Answer::body("other\n"));
    let empty = Server::start();
    let report = hello(&env)
        .variable(
            "FETCH_MIRROR",
            format!("{}  {}", liar.url("/mirror"), empty.url("")),
        )
        .arg(upstream.url("/hello"))
        .json(0);
    report.tried("hashed-mirror", "mismatch", &liar.url(&layouts[0]));
    assert_eq!(report.kind(), "url");
    assert_eq!(empty.requests().len(), 3);
    // Without a URL it is enough, and offline it is not asked.
    let mirror = Server::with(&layouts[0], Answer::body("hello\n"));
    fs_err::remove_file(env.out("hello")).unwrap();
    let alone = || hello(&env).args(["--mirror", &mirror.url("/mirror")]);
    alone().arg("--offline").go().exits(3);
    assert_eq!(mirror.connections(), 0);
    assert_eq!(alone().json(0).kind(), "hashed-mirror");
    for bad in ["ftp://host/", "no URL", "mirror://gnu/"] {
        hello(&env).args(["--mirror", bad]).go().exits(2);
    }
}

/// Only files have flat hashes.
#[test]
fn hashed_mirrors_are_not_asked_for_trees() {
    let env = TestEnv::new();
    let mirror = Server::start();
    env.fetch_hash(sri(b"a tree"))
        .args(["--mode", "nar", "--name", "tree", "--mirror"])
        .arg(mirror.url("/mirror"))
        .go()
        .exits(3);
    assert_eq!(mirror.connections(), 0);
}

/// A partial download goes on at a mirror that names files otherwise.
#[test]
fn a_hashed_mirror_goes_on_where_a_url_broke_off() {
    let env = TestEnv::new();
    let body = noise(5, 3 << 20);
    let upstream = Server::with("/big", Answer::file(body.clone()).cut_after(2 << 20));
    let run = || {
        env.fetch_hash(sri(&body))
            .args(["-o", "big", "--retry-budget", "0"])
            .arg(upstream.url("/big"))
    };
    run().go().exits(5);
    let hex = digest(store_index::digest::Algorithm::Sha256, &body).to_hex();
    let mirror = Server::with(&format!("/sha256/{hex}"), Answer::file(body.clone()));
    run().args(["--mirror", &mirror.url("")]).go().exits(0);
    assert_eq!(mirror.sent_bytes(), 1 << 20);
    assert!(env.output("big") == body);
}

/// Passwords of netrc go to the host they are for, and nowhere else.
#[test]
fn netrc() {
    let env = TestEnv::new();
    let elsewhere = Server::with("/hello", Answer::body("hello\n"));
    let server = Server::with("/hello", Answer::body("hello\n"));
    server.route("/away", Answer::redirect(302, &elsewhere.url("/hello")));
    let entry = |server: &Server, user: &str| {
        format!(
            "machine 127.0.0.1:{}\n  login {user}\n  password s3cret\n",
            server.port()
        )
    };
    env.write(
        "home/.netrc",
        entry(&server, "maria") + &entry(&elsewhere, "elsewhere"),
    );
    let authorized = |server: &Server| {
        let requests = server.requests();
        let last = requests.last().unwrap();
        last.header("authorization").map(str::to_owned)
    };
    let outcome = hello(&env)
        .args(["-v", &server.url("/hello")])
        .go()
        .exits(0);
    assert!(!outcome.stderr.contains("s3cret"), "{outcome}");
    // maria:s3cret
    assert_eq!(
        authorized(&server).as_deref(),
        Some("Basic bWFyaWE6czNjcmV0")
    );
    // What stands in the URL wins.
    fs_err::remove_file(env.out("hello")).unwrap();
    hello(&env)
        .arg(server.url_with_user("you:other", "/hello"))
        .go()
        .exits(0);
    assert_eq!(authorized(&server).as_deref(), Some("Basic eW91Om90aGVy"));
    // A redirect brings nobody a password, not even his own.
    fs_err::remove_file(env.out("hello")).unwrap();
    hello(&env).arg(server.url("/away")).go().exits(0);
    assert_eq!(authorized(&elsewhere), None);
    // $NETRC replaces the file at home.
    let other = env.write("other", entry(&server, "anna"));
    fs_err::remove_file(env.out("hello")).unwrap();
    hello(&env)
        .arg(server.url("/hello"))
        .variable("NETRC", &other)
        .go()
        .exits(0);
    // anna:s3cret
    assert_eq!(
        authorized(&server).as_deref(),
        Some("Basic YW5uYTpzM2NyZXQ=")
    );
}
