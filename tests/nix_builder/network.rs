//! The network as a build has it: mirrors, proxies, names and certificates in the sandbox.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use store_index::digest::Algorithm;

use super::{How, World, cannot_build};
use crate::support::server::{Answer, Server};
use crate::support::tls::{GOOD, TlsServer};
use crate::support::{TestEnv, digest, noise, skipped, sri};

/// The variables that Nixpkgs' `fetchurl` lets in.
const IMPURE: &str = "[ \"http_proxy\" \"https_proxy\" \"ftp_proxy\" \"all_proxy\" \"no_proxy\" \"HTTP_PROXY\" \
                      \"HTTPS_PROXY\" \"FTP_PROXY\" \"ALL_PROXY\" \"NO_PROXY\" \"NIX_SSL_CERT_FILE\" \"NIX_HASHED_MIRRORS\" \
                      \"NIX_CONNECT_TIMEOUT\" \"NIX_MIRRORS_gnu\" \"NIX_MIRRORS_none\" ]";

#[test]
fn mirror_urls_are_expanded() {
    if cannot_build("mirror_urls_are_expanded") {
        return;
    }
    let world = World::new(&[]);
    let bytes = noise(40, 2_000);
    let server = Server::with("/b/hello/hello-2.10.tar", Answer::body(&bytes));
    let mirrors = [server.url("/a/"), server.url("/b/")].join(" ");
    let how = How {
        variables: &[("NIX_MIRRORS_gnu", &mirrors)],
        ..How::default()
    };
    let urls = "mirror://none/x mirror://gnu mirror://gnu/hello/hello-2.10.tar";
    let hash = sri(&bytes);
    let attributes = [
        ("name", "hello.tar"),
        ("urls", urls),
        ("outputHash", hash.as_str()),
        ("outputHashAlgo", ""),
        ("impureEnvVars", IMPURE),
    ];
    world
        .build_with(&attributes, &how)
        .delivers(&bytes)
        .says("unknown mirror:// site `none'")
        .says("mirror:// wants a site and a path");
    let lines: Vec<_> = server
        .requests()
        .into_iter()
        .map(|request| request.line)
        .collect();
    assert_eq!(
        lines,
        [
            "GET /a/hello/hello-2.10.tar HTTP/1.1",
            "GET /b/hello/hello-2.10.tar HTTP/1.1"
        ]
    );
}

#[test]
fn hashed_mirrors_are_asked_last() {
    if cannot_build("hashed_mirrors_are_asked_last") {
        return;
    }
    let world = World::new(&[]);
    let bytes = noise(41, 2_000);
    let path = format!(
        "/by-hash/sha512/{}",
        digest(Algorithm::Sha512, &bytes).to_hex()
    );
    let server = Server::with(&path, Answer::body(&bytes));
    let how = How {
        variables: &[("NIX_HASHED_MIRRORS", &server.url("/by-hash"))],
        ..How::default()
    };
    let url = server.url("/file");
    let hash = digest(Algorithm::Sha512, &bytes).to_sri();
    let attributes = [
        ("name", "file"),
        ("url", url.as_str()),
        ("outputHash", hash.as_str()),
        ("outputHashAlgo", ""),
        ("impureEnvVars", IMPURE),
    ];
    world.build_with(&attributes, &how).delivers(&bytes);
    let lines: Vec<_> = server
        .requests()
        .into_iter()
        .map(|request| request.line)
        .collect();
    assert_eq!(
        lines,
        [
            "GET /file HTTP/1.1".to_owned(),
            format!("GET {path} HTTP/1.1")
        ]
    );
}

/// Nix sets all of them, empty where its own environment has none.
#[test]
fn proxies_are_used() {
    if cannot_build("proxies_are_used") {
        return;
    }
    let bytes = noise(42, 2_000);
    let proxy = Server::with("http://origin.invalid/file", Answer::body(&bytes));
    let address = format!("http://127.0.0.1:{}", proxy.port());
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        let world = World::new(&[]);
        let how = How {
            variables: &[(name, &address)],
            ..How::default()
        };
        let hash = sri(&bytes);
        let attributes = [
            ("name", "file"),
            ("url", "http://origin.invalid/file"),
            ("outputHash", hash.as_str()),
            ("outputHashAlgo", ""),
            ("impureEnvVars", IMPURE),
        ];
        world.build_with(&attributes, &how).delivers(&bytes);
    }
    assert_eq!(proxy.requests().len(), 4);
}

/// Names are looked up by the resolver in the program itself: the sandbox has no library to load.
#[test]
fn names_are_looked_up_in_the_sandbox() {
    if cannot_build("names_are_looked_up_in_the_sandbox") {
        return;
    }
    let dns = match NameServer::start() {
        Ok(dns) => dns,
        Err(error) => {
            let reason = format!(
                "needs the port of names on {}: {error}",
                NameServer::ADDRESS
            );
            return skipped("names_are_looked_up_in_the_sandbox", &reason);
        }
    };
    let bytes = noise(43, 2_000);
    let server = Server::with("/file", Answer::body(&bytes));
    let env = TestEnv::new();
    let resolv = env.write(
        "resolv.conf",
        format!("nameserver {}\n", NameServer::ADDRESS),
    );
    let world = World::configured(env, &[format!("/etc/resolv.conf={}", resolv.display())], "");
    for (number, host) in ["localhost", "mirror.example"].into_iter().enumerate() {
        world
            .build(&[
                ("name", &format!("file-{number}")),
                ("url", &format!("http://{host}:{}/file", server.port())),
                ("outputHash", &sri(&bytes)),
                ("outputHashAlgo", ""),
            ])
            .delivers(&bytes);
    }
    assert_eq!(server.requests().len(), 2);
    assert!(dns.was_asked());
}

/// The embedded roots do not know the server's; a bundle that Nix's environment names does, if the sandbox has it.
#[test]
fn certificates_are_verified_in_the_sandbox() {
    if cannot_build("certificates_are_verified_in_the_sandbox") {
        return;
    }
    let Some(tls) = TlsServer::start("certificates_are_verified_in_the_sandbox") else {
        return;
    };
    let world = World::new(&[format!("/ca.pem={}", tls.path("ca.pem").display())]);
    let (url, hash) = (tls.url(GOOD, "/a"), sri(b"over TLS"));
    let attributes = [
        ("name", "file"),
        ("url", url.as_str()),
        ("outputHash", hash.as_str()),
        ("outputHashAlgo", ""),
        ("impureEnvVars", IMPURE),
        // What Nixpkgs sets where the hash is a real one.
        ("SSL_CERT_FILE", "/no-cert-file.crt"),
    ];
    world
        .build(&attributes)
        .ends(1)
        .says("certificate is from an unknown issuer");
    let how = How {
        variables: &[("NIX_SSL_CERT_FILE", "/ca.pem")],
        ..How::default()
    };
    world.build_with(&attributes, &how).delivers(b"over TLS");
}

/// Says that every name is 127.0.0.1.
struct NameServer {
    stopping: Arc<AtomicBool>,
    asked: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// No other server is there, and `resolv.conf` knows no ports.
    const ADDRESS: &str = "127.0.0.77";

    fn start() -> io::Result<Self> {
        let socket = UdpSocket::bind((Self::ADDRESS, 53))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stopping = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicBool::new(false));
        let flags = (Arc::clone(&stopping), Arc::clone(&asked));
        let thread = std::thread::spawn(move || {
            let mut query = [0; 512];
            while !flags.0.load(Ordering::SeqCst) {
                if let Ok((len, from)) = socket.recv_from(&mut query) {
                    flags.1.store(true, Ordering::SeqCst);
                    drop(socket.send_to(&answer(&query[..len]), from));
                }
            }
        });
        Ok(Self {
            stopping,
            asked,
            thread: Some(thread),
        })
    }

    fn was_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The question with one answer for type A, and none for other types.
fn answer(query: &[u8]) -> Vec<u8> {
    let Some(end) = query[12..]
        .iter()
        .position(|&byte| byte == 0)
        .map(|at| 12 + at + 5)
    else {
        return Vec::new();
    };
    let is_a = query[end - 4..end - 2] == [0, 1];
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend(&query[12..end]);
    if is_a {
        // The name is that of the question; A, IN, 60 s, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    answer
}
