//! What the environment decides: trusted certificates and proxies. Each case runs in a process of its own, since a
//! program's environment cannot be changed safely while its threads run.

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use fetcher::net::{Client, Limits};

use crate::server::{Answer, Server};
use crate::tls::{CA_ITSELF, ELSEWHERE, EXPIRED, GOOD, PLAIN, TlsServer};
use crate::{Kept, LIMITS};

/// Names the URL that the child is to get.
const CHILD_URL: &str = "FETCH_TESTS_CHILD_URL";

/// Set if the child is to give up connecting soon.
const CHILD_HURRIES: &str = "FETCH_TESTS_CHILD_HURRIES";

/// What a child must not inherit.
const CLEARED: [&str; 11] = [
    "NIX_SSL_CERT_FILE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

/// The child's side of [`get_in`]; alone it does nothing.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn child() {
    let Ok(url) = std::env::var(CHILD_URL) else {
        return;
    };
    let hurries = std::env::var_os(CHILD_HURRIES).is_some();
    let limits = if hurries {
        Limits {
            connect_timeout: Duration::from_millis(500),
            ..LIMITS
        }
    } else {
        LIMITS
    };
    let mut kept = Kept::default();
    let result =
        Client::new(limits)
            .unwrap()
            .get(&crate::url(&url), None, &mut kept, &false.into());
    let outcome = match result {
        Ok(_) => format!("delivered {}", String::from_utf8(kept.bytes).unwrap()),
        Err(error) => format!("failed: {error}"),
    };
    // By hand: `println` is caught by the test runner.
    writeln!(std::io::stdout(), "\nOUTCOME {outcome}").unwrap();
}

/// Gets a URL in a process with these variables, and returns `delivered BODY` or `failed: REASON`.
fn get_in(variables: &[(&str, &str)], url: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "net::environment::child",
        "--ignored",
        "--nocapture",
    ]);
    for name in CLEARED {
        command.env_remove(name);
    }
    let output = command
        .envs(variables.iter().copied())
        .env(CHILD_URL, url)
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let outcome = stdout
        .lines()
        .find_map(|line| line.strip_prefix("OUTCOME "));
    outcome
        .unwrap_or_else(|| panic!("{stdout}{}", String::from_utf8_lossy(&output.stderr)))
        .to_owned()
}

#[test]
fn a_proxy_from_the_environment_is_used() {
    let proxy = Server::with("http://origin.invalid/a", Answer::body("by proxy"));
    let address = format!("http://me:secret@127.0.0.1:{}", proxy.port());
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        assert_eq!(
            get_in(&[(name, &address)], "http://origin.invalid/a"),
            "delivered by proxy",
            "{name}"
        );
    }
    let requests = proxy.requests();
    assert_eq!(requests.len(), 4);
    assert_eq!(requests[0].line, "GET http://origin.invalid/a HTTP/1.1");
    assert_eq!(
        requests[0].header("proxy-authorization"),
        Some("Basic bWU6c2VjcmV0")
    ); // me:secret
}

/// Nix sets all of them in a build, empty where it has none itself.
#[test]
fn an_empty_variable_hides_no_proxy() {
    let proxy = Server::with("http://origin.invalid/a", Answer::body("by proxy"));
    let address = format!("http://127.0.0.1:{}", proxy.port());
    for (name, empty) in [
        ("http_proxy", ["HTTP_PROXY", "ALL_PROXY"]),
        ("HTTP_PROXY", ["http_proxy", "all_proxy"]),
        ("all_proxy", ["ALL_PROXY", "http_proxy"]),
        ("ALL_PROXY", ["all_proxy", "HTTP_PROXY"]),
    ] {
        let variables = [(name, address.as_str()), (empty[0], ""), (empty[1], "")];
        assert_eq!(
            get_in(&variables, "http://origin.invalid/a"),
            "delivered by proxy",
            "{name}"
        );
    }
    let origin = Server::with("/a", Answer::body("direct"));
    let variables = [
        ("http_proxy", address.as_str()),
        ("NO_PROXY", ""),
        ("no_proxy", "127.0.0.1"),
    ];
    assert_eq!(get_in(&variables, &origin.url("/a")), "delivered direct");
}

#[test]
fn no_proxy_is_heeded() {
    let proxy = Server::start();
    let origin = Server::with("/a", Answer::body("direct"));
    let address = format!("http://127.0.0.1:{}", proxy.port());
    for name in ["no_proxy", "NO_PROXY"] {
        let variables = [
            ("http_proxy", address.as_str()),
            (name, "example.org,127.0.0.0/8"),
        ];
        assert_eq!(
            get_in(&variables, &origin.url("/a")),
            "delivered direct",
            "{name}"
        );
    }
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn https_goes_through_a_tunnel() {
    let proxy = Server::start();
    for name in ["https_proxy", "HTTPS_PROXY"] {
        let address = format!("http://127.0.0.1:{}", proxy.port());
        let outcome = get_in(&[(name, &address)], "https://origin.invalid/a?token=secret");
        assert_eq!(outcome, "failed: the proxy opened no tunnel");
    }
    let lines: Vec<_> = proxy
        .requests()
        .into_iter()
        .map(|request| request.line)
        .collect();
    assert_eq!(lines, ["CONNECT origin.invalid:443 HTTP/1.1"; 2]);
}

#[test]
fn a_socks_proxy_is_not_spoken_to_in_http() {
    let proxy = Server::start();
    let address = format!("socks5h://127.0.0.1:{}", proxy.port());
    // The server sees no HTTP and waits for more; the interest is in what it was sent.
    let outcome = get_in(
        &[("all_proxy", &address), (CHILD_HURRIES, "1")],
        "http://origin.invalid/a",
    );
    assert!(
        outcome.starts_with("failed: connecting timed out"),
        "{outcome}"
    );
    assert_eq!((proxy.connections(), proxy.requests().len()), (1, 0));
}

#[test]
fn certificates_are_verified() {
    let Some(tls) = TlsServer::start("certificates_are_verified") else {
        return;
    };
    let (ours, other) = (tls.path("ca.pem"), tls.path("other-ca.pem"));
    let (ours, other) = (ours.to_str().unwrap(), other.to_str().unwrap());

    for variables in [
        &[("SSL_CERT_FILE", ours)][..],
        &[("NIX_SSL_CERT_FILE", ours), ("SSL_CERT_FILE", other)],
        // What Nix sets in pure shells.
        &[
            ("NIX_SSL_CERT_FILE", "/no-cert-file.crt"),
            ("SSL_CERT_FILE", ours),
        ],
        // The machine's own roots, asked once the embedded ones do not know the issuer.
        &[("SSL_CERT_DIR", tls.path("roots").to_str().unwrap())],
    ] {
        assert_eq!(
            get_in(variables, &tls.url(GOOD, "/a")),
            "delivered over TLS",
            "{variables:?}"
        );
    }

    let unknown = "failed: certificate is from an unknown issuer";
    assert_eq!(
        get_in(&[("SSL_CERT_FILE", other)], &tls.url(GOOD, "/a")),
        unknown
    );
    assert_eq!(
        get_in(
            &[("NIX_SSL_CERT_FILE", other), ("SSL_CERT_FILE", ours)],
            &tls.url(GOOD, "/a")
        ),
        unknown
    );
    let empty = tls.path("empty");
    assert_eq!(
        get_in(
            &[("SSL_CERT_DIR", empty.to_str().unwrap())],
            &tls.url(GOOD, "/a")
        ),
        unknown
    );

    let ours = [("SSL_CERT_FILE", ours)];
    assert_eq!(
        get_in(&ours, &tls.url(EXPIRED, "/a")),
        "failed: certificate has expired"
    );
    assert_eq!(
        get_in(&ours, &tls.url(ELSEWHERE, "/a")),
        "failed: certificate is for another host"
    );
    assert_eq!(
        get_in(&ours, &tls.url(PLAIN, "/a")),
        "failed: the server does not speak TLS"
    );

    assert_eq!(
        get_in(&ours, &tls.url(CA_ITSELF, "/a")),
        "failed: certificate is a CA's own, which no server may show as its own"
    );

    let nothing = tls.path("leaf.csr");
    let outcome = get_in(
        &[("SSL_CERT_FILE", nothing.to_str().unwrap())],
        &tls.url(GOOD, "/a"),
    );
    assert_eq!(
        outcome,
        format!("failed: no certificates in {}", nothing.display())
    );
}

#[test]
fn https_is_never_downgraded() {
    let Some(tls) = TlsServer::start("https_is_never_downgraded") else {
        return;
    };
    let ours = tls.path("ca.pem");
    let ours = [("SSL_CERT_FILE", ours.to_str().unwrap())];
    assert_eq!(
        get_in(&ours, &tls.url(GOOD, "/down")),
        "failed: redirect from https to http"
    );
    // The other way is welcome.
    let plain = Server::with("/up", Answer::redirect(302, &tls.url(GOOD, "/a")));
    assert_eq!(get_in(&ours, &plain.url("/up")), "delivered over TLS");
    let log = fs_err::read_to_string(tls.path("access.log")).unwrap();
    assert_eq!(
        log.lines().collect::<Vec<_>>(),
        ["GET /down HTTP/2.0", "GET /a HTTP/2.0"]
    );
}
