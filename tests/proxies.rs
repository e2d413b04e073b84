//! Downloads by way of a real proxy, which wants a password.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::support::nginx::{NGINX_WITH_TLS, Nginx};
use crate::support::{TestEnv, lacks, sri, wait_until};

/// A tinyproxy on the loopback; stopped when dropped.
struct Tinyproxy {
    child: Child,
    port: u16,
}

impl Tinyproxy {
    /// Tunnels to one port only.
    fn start(env: &TestEnv, https_port: u16) -> Self {
        // Another process may take the port between our look and the proxy's start: then the next one.
        for _ in 0..5 {
            let held = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = held.local_addr().unwrap().port();
            drop(held);
            let log = env.path("proxy.log");
            let configuration = env.write(
                "proxy.conf",
                format!(
                    "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 20\nMaxClients 10\n\
                     BasicAuth me s3cret\nConnectPort {https_port}\nLogFile \"{}\"\nLogLevel Connect\n",
                    log.display()
                ),
            );
            let mut child = Command::new("tinyproxy")
                .arg("-d")
                .arg("-c")
                .arg(configuration)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut ended = false;
            wait_until("the proxy answers", || {
                ended = child.try_wait().unwrap().is_some();
                ended || TcpStream::connect(("127.0.0.1", port)).is_ok()
            });
            if !ended {
                return Self { child, port };
            }
        }
        panic!("no free port in five tries");
    }

    fn url(&self, user: &str) -> String {
        format!("http://{user}@127.0.0.1:{}", self.port)
    }
}

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Requests go through it, tunnels too; its password goes to nobody else, and into no message.
#[test]
fn a_real_proxy_is_used() {
    let programs = [NGINX_WITH_TLS, &["tinyproxy"]].concat();
    if lacks("a_real_proxy_is_used", &programs, false) {
        return;
    }
    let env = TestEnv::new();
    let (nginx, https_port, certificate) = Nginx::with_tls(&env);
    env.write("www/hello", "hello\n");
    let proxy = Tinyproxy::start(&env, https_port);
    let plain = nginx.url("/hello");
    let secure = format!("https://127.0.0.1:{https_port}/hello");
    let fetch = |url: &str, variable: &str, user: &str| {
        drop(fs_err::remove_file(env.out("hello")));
        env.fetch_hash(sri(b"hello\n"))
            .args(["--retry-budget", "0", url])
            .variable(variable, proxy.url(user))
            .variable("SSL_CERT_FILE", &certificate)
            .go()
    };
    let log = || fs_err::read_to_string(env.path("proxy.log")).unwrap();
    for (url, variable) in [(&plain, "http_proxy"), (&secure, "https_proxy")] {
        let before = log().matches("Established connection").count();
        fetch(url, variable, "me:s3cret").exits(0);
        let after = log().matches("Established connection").count();
        assert_eq!(after, before + 1, "{url} went through the proxy: {}", log());
        let refused = fetch(url, variable, "me:wr0ng").exits(5);
        assert!(!refused.stderr.contains("wr0ng"), "{refused}");
        assert!(!env.out("hello").exists());
    }
    assert!(
        log().contains(&format!("CONNECT 127.0.0.1:{https_port}")),
        "{}",
        log()
    );
    assert_eq!(nginx.requests().len(), 2, "{:?}", nginx.requests());
}
