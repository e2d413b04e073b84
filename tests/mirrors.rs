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

/// Returns the URLs that `fetch explain` says would be asked, in its order.
fn urls_to_ask(explained: &str) -> Vec<String> {
    let asked = explained
        .lines()
        .filter_map(|line| line.split_once("would ask"));
    let url = asked.map(|(_, rest)| rest.trim().split([' ', '[']).next().unwrap());
    url.map(|url| url.trim_end_matches(':').to_owned())
        .collect()
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
    let asked: Vec<_> = urls_to_ask(&explained.stdout);
    let path = "hello/hello-2.10";
    assert_eq!(
        asked,
        [
            format!("https://ftp.gnu.org/pub/gnu/{path}"),
            format!("https://ftpmirror.gnu.org/{path}")
        ]
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
    let asked: Vec<_> = empty
        .requests()
        .into_iter()
        .map(|asked| asked.line)
        .collect();
    assert_eq!(asked.len(), 5, "{asked:?}");
    assert_eq!(
        asked[3..],
        ["GET /layout.conf HTTP/1.1", "GET /hello HTTP/1.1"]
    );
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

/// Mirrors of Gentoo say in a file how they lay out theirs, and are asked for it once.
#[test]
fn layouts_of_gentoos_mirrors() {
    let env = TestEnv::new();
    // `printf hello | b2sum`, `printf hello | sha512sum`, `echo hello | sha512sum`
    let by_name = "/distfiles/e4/hello";
    let content = "e7c22b994c59d9cf2b48e549b1e24666636045930d3da7c1acb299d1c3b7f931f94aae41edda2c2b207a36e10f8bcb8d45223e54878f5b316e7ce3b6bc019629";
    let by_content = format!("/distfiles/e7/c22/{content}");
    for (conf, hash, path) in [
        (
            "[structure]\n0=filename-hash BLAKE2B 8\n1=flat\n",
            HELLO,
            by_name,
        ),
        (
            "[structure]\n0=filename-hash SHA512 8:8\n",
            HELLO,
            "/distfiles/9b/71/hello",
        ),
        ("[structure]\n0=flat\n", HELLO, "/distfiles/hello"),
        (
            "[structure]\n0=content-hash SHA512 8:12\n1=filename-hash BLAKE2B 8\n",
            &format!("sha512:{content}"),
            &by_content,
        ),
        // Of which content it is cannot be known from another algorithm's digest.
        (
            "[structure]\n0=content-hash SHA512 8:12\n1=filename-hash BLAKE2B 8\n",
            HELLO,
            by_name,
        ),
    ] {
        let mirror = Server::with("/distfiles/layout.conf", Answer::body(conf));
        mirror.route(path, Answer::body("hello\n"));
        let report = env
            .fetch_hash(hash)
            .args(["--name", "hello", "--force", "--no-local", "--mirror"])
            .arg(mirror.url("/distfiles"))
            .json(0);
        assert_eq!(report.kind(), "hashed-mirror");
        assert_eq!(report.location(), mirror.url(path), "{conf}");
        fs_err::remove_file(env.out("hello")).unwrap();
    }
    // Without that file the mirror is a flat one; one that is in trouble is asked again.
    let flat = Server::with("/hello", Answer::body("hello\n"));
    flat.route_in_turn(
        "/layout.conf",
        [Answer::status(500, "oops"), Answer::status(404, "")],
    );
    let report = env
        .fetch_hash(HELLO)
        .args(["--name", "hello", "--no-local", "--mirror", &flat.url("")])
        .json(0);
    report.tried("hashed-mirror", "failed", &flat.url("/layout.conf"));
    report.tried("hashed-mirror", "absent", &flat.url("/layout.conf"));
    assert_eq!(report.location(), flat.url("/hello"));
}

/// Archives learn the hash: they are asked when nobody else has it, and only if somebody said so.
#[test]
fn archives_are_asked_last() {
    let env = TestEnv::new();
    let upstream = Server::with("/hello", Answer::status(500, "oops"));
    let heritage = Server::with(
        &format!("/api/1/content/sha256:{HELLO_HEX}/raw/"),
        Answer::body("hello\n"),
    );
    let named = format!("software-heritage={}", heritage.url(""));
    let fetch = || {
        env.fetch_hash(HELLO)
            .args(["--name", "hello", "--no-local", "--force"])
            .arg(upstream.url("/hello?token=1"))
    };
    fetch().args(["--retry-budget", "0"]).go().exits(5);
    assert_eq!(heritage.connections(), 0);
    let report = fetch().args(["--archive", &named]).json(0);
    assert_eq!(report.kind(), "archive");
    // Every try of the others came before.
    assert_eq!(upstream.requests().len(), 1 + 4);
    fs_err::remove_file(env.out("hello")).unwrap();
    // One of the configuration, for the first URL that is no other archive's.
    let web = Server::start();
    env.write(
        "config/fetch/fetch.toml",
        format!("archives = ['internet-archive={}']\n", web.url("/")),
    );
    let quick = || fetch().args(["--retry-budget", "0"]);
    quick().go().exits(5);
    let [asked] = &web.requests()[..] else {
        panic!("{:?}", web.requests());
    };
    let wanted = format!("id_/{} HTTP/1.1", upstream.url("/hello?token=1"));
    let digits = asked
        .line
        .strip_prefix("GET /web/")
        .unwrap()
        .strip_suffix(&wanted);
    assert_eq!(digits.map(str::len), Some(14), "{}", asked.line);
    // Other hashes are not known there, and explain says so without asking.
    let explained = env
        .fetch(["explain", HELLO, "--no-local", "--name", "hello"])
        .args(["--mirror", "http://mirror.example/"])
        .args(["--archive", &named, "--archive", "internet-archive"])
        .arg(upstream.url("/hello?token=1"))
        .go();
    let asked = urls_to_ask(&explained.stdout);
    let nix32 = hello_nix32();
    let mirror = [
        format!("sha256/{HELLO_HEX}"),
        format!("sha256/{nix32}"),
        format!("file/hello/sha256/{nix32}"),
        "layout.conf".to_owned(),
    ];
    let mut expected = mirror
        .map(|path| format!("http://mirror.example/{path}"))
        .to_vec();
    expected.push(upstream.url("/hello"));
    expected.push(heritage.url(&format!("/api/1/content/sha256:{HELLO_HEX}/raw/")));
    let (internet, others) = asked.split_last().unwrap();
    assert_eq!(others, expected, "{explained}");
    let archived = format!("id_/{}", upstream.url("/hello"));
    assert!(
        internet.starts_with("https://web.archive.org/web/2") && internet.ends_with(&archived),
        "{explained}"
    );
    assert!(!explained.stdout.contains("token"), "{explained}");
    for bad in ["swh", "software-heritage=ftp://h/"] {
        quick().args(["--archive", bad]).go().exits(2);
    }
}

/// A file:// URL is a file of this machine.
#[test]
fn file_urls() {
    let env = TestEnv::new();
    let file = env.write("a folder/hello", "hello\n");
    let url = format!("file://{}", file.to_str().unwrap().replace(' ', "%20"));
    let fetch = |url: &str| {
        env.fetch_hash(HELLO)
            .args(["--no-local", "--force", "--offline"])
            .arg(url)
    };
    let report = fetch(&url).json(0);
    assert_eq!(
        (report.kind(), report.location()),
        ("url", file.to_str().unwrap())
    );
    fs_err::write(&file, "other\n").unwrap();
    fs_err::remove_file(env.out("hello")).unwrap();
    let report = fetch(&url).json(3);
    report.tried("url", "mismatch", file.to_str().unwrap());
    fs_err::remove_file(&file).unwrap();
    fetch(&url).go().exits(3);
    // Servers name none.
    let server = Server::with("/hello", Answer::redirect(302, &url));
    env.write("a folder/hello", "hello\n");
    env.fetch_hash(HELLO)
        .args(["--no-local", "--retry-budget", "0"])
        .arg(server.url("/hello"))
        .go()
        .exits(5)
        .says("redirect to something other than http and https");
}

/// Rules say who is asked, of every URL and every redirect, in the order of the file.
#[test]
fn url_rules() {
    let env = TestEnv::new();
    let (inside, outside) = (Server::start(), Server::start());
    inside.route("/proxy/pub/hello", Answer::body("hello\n"));
    inside.route(
        "/away",
        Answer::redirect(302, &outside.url("/secret/hello")),
    );
    inside.route("/moved", Answer::redirect(302, &outside.url("/pub/hello")));
    let file = env.write(
        "config/fetch/fetch.toml",
        format!(
            "url_rules = [\n  'rewrite {outside}pub/ {inside}proxy/pub/',\n  'block {outside}',\n]\n",
            outside = outside.url("/"),
            inside = inside.url("/")
        ),
    );
    let rule = format!("blocked by the rule at {}:3", file.display());
    let with_mirror = |url: &str, more: &[&str]| {
        let run = env
            .fetch_hash(HELLO)
            .args(["--name", "hello", "--no-local"]);
        run.args(["--force", "--retry-budget", "0"])
            .args(more)
            .arg(url)
    };
    // In place of the URL, without its password, and in place of a redirect's target.
    for url in [
        outside.url_with_user("me:secret", "/pub/hello"),
        inside.url("/moved"),
    ] {
        with_mirror(&url, &[]).go().exits(0);
        let requests = inside.requests();
        assert_eq!(
            requests.last().unwrap().line,
            "GET /proxy/pub/hello HTTP/1.1"
        );
        assert_eq!(requests.last().unwrap().header("authorization"), None);
        fs_err::remove_file(env.out("hello")).unwrap();
    }
    // What is blocked is skipped; alone it is no usable URL, as a redirect's target it is trouble.
    with_mirror(&outside.url("/hello"), &[])
        .go()
        .exits(2)
        .says(&rule);
    let report = with_mirror(&inside.url("/none"), &["--mirror", &outside.url("/m")]).json(3);
    let skipped = outside.url("/m/layout.conf");
    report.tried("hashed-mirror", "skipped", &skipped);
    with_mirror(&inside.url("/away"), &[])
        .go()
        .exits(5)
        .says(&rule);
    // What a mirror's layout leads to is a URL like any other.
    let flat = Server::with("/m/hello", Answer::body("hello\n"));
    env.write(
        "config/fetch/fetch.toml",
        format!("url_rules = ['block {}']\n", flat.url("/m/hello")),
    );
    let url = inside.url("/none");
    let report = with_mirror(&url, &["--mirror", &flat.url("/m")]).json(3);
    report.tried("hashed-mirror", "skipped", &flat.url("/m/hello"));
    env.write(
        "config/fetch/fetch.toml",
        format!(
            "\n\nurl_rules = ['rewrite {0}pub/ {1}proxy/pub/', 'block {0}']\n",
            outside.url("/"),
            inside.url("/")
        ),
    );
    // And a repository.
    env.fetch_hash(sri(b"a tree"))
        .args([
            "--no-local",
            "--name",
            "tree",
            "--rev",
            &"1".repeat(40),
            "--git",
        ])
        .arg(outside.url("/repository.git"))
        .go()
        .says(&rule);
    assert_eq!(outside.connections(), 0);
    let explained = env
        .fetch(["explain", HELLO, "--no-local"])
        .args([outside.url("/hello"), outside.url("/pub/hello")])
        .go();
    assert!(explained.stdout.contains(&rule), "{explained}");
    let instead = format!(
        "{}: in place of {}",
        inside.url("/proxy/pub/hello"),
        outside.url("/pub/hello")
    );
    assert!(explained.stdout.contains(&instead), "{explained}");
}
