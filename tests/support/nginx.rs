//! A real nginx on a free port of the loopback.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{TestEnv, wait_until};

/// The programs an [`Nginx`] needs; see [`super::lacks`].
pub(crate) const NGINX: &[&str] = &["nginx"];

/// The programs that [`Nginx::with_tls`] needs.
pub(crate) const NGINX_WITH_TLS: &[&str] = &["nginx", "openssl"];

/// A server of the files below `www`; stopped when dropped.
#[derive(Debug)]
pub(crate) struct Nginx {
    child: Child,
    address: Ipv4Addr,
    port: u16,
    folder: PathBuf,
}

impl Nginx {
    /// Serves `www` of the test's folder.
    pub(crate) fn new(env: &TestEnv) -> Self {
        Self::configured(env, "")
    }

    /// The same with more lines in the `server` block.
    pub(crate) fn configured(env: &TestEnv, server: &str) -> Self {
        Self::at(Ipv4Addr::LOCALHOST, env, server)
    }

    /// The same at another address of this machine.
    pub(crate) fn at(address: Ipv4Addr, env: &TestEnv, server: &str) -> Self {
        let folder = env.path("nginx");
        for name in ["www", "nginx/tmp"] {
            fs_err::create_dir_all(env.path(name)).unwrap();
        }
        // Another process may take the port between our look and nginx's start: then the next one.
        for _ in 0..5 {
            let held = TcpListener::bind((address, 0)).unwrap();
            let listen = held.local_addr().unwrap();
            let port = listen.port();
            drop(held);
            env.write(
                "nginx/nginx.conf",
                configuration(&folder, &env.path("www"), listen, server),
            );
            let child = Command::new("nginx")
                .args([
                    "-p",
                    folder.to_str().unwrap(),
                    "-c",
                    "nginx.conf",
                    "-e",
                    "error.log",
                ])
                .env_clear()
                .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut nginx = Self {
                child,
                address,
                port,
                folder: folder.clone(),
            };
            let mut ended = None;
            wait_until("nginx answers", || {
                ended = nginx.child.try_wait().unwrap();
                ended.is_some() || TcpStream::connect(listen).is_ok()
            });
            if ended.is_none() {
                return nginx;
            }
            let mut said = String::new();
            nginx
                .child
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut said)
                .unwrap();
            assert!(said.contains("Address already in use"), "nginx: {said}");
        }
        panic!("no free port in five tries");
    }

    /// Serves `www` over https too, with a certificate for 127.0.0.1 that nobody else vouches for. Returns the port of
    /// that, and the certificate.
    pub(crate) fn with_tls(env: &TestEnv) -> (Self, u16, PathBuf) {
        let [key, certificate] = ["key.pem", "certificate.pem"].map(|name| env.path(name));
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ])
            .args([
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-addext",
            ])
            .args(["basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let server = format!(
            "listen 127.0.0.1:{port} ssl; ssl_certificate {}; ssl_certificate_key {};",
            certificate.display(),
            key.display()
        );
        (Self::configured(env, &server), port, certificate)
    }

    /// Returns the URL of a path that begins with a slash.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}:{}{path}", self.address, self.port)
    }

    /// The same with user and password.
    pub(crate) fn url_with_user(&self, user: &str, path: &str) -> String {
        format!("http://{user}@{}:{}{path}", self.address, self.port)
    }

    /// Returns the port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the request lines so far, each with the status it got, e.g. `GET /a HTTP/1.1 200`.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log = self.folder.join("access.log");
        if !log.exists() {
            return Vec::new();
        }
        fs_err::read_to_string(log)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers on SIGTERM; on SIGKILL it would leave them.
        let ended = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        );
        // It may be gone already: the port was taken.
        let _gone: Result<(), rustix::io::Errno> = ended;
        self.child.wait().unwrap();
    }
}

fn configuration(folder: &Path, www: &Path, listen: SocketAddr, server: &str) -> String {
    let folder = folder.display();
    // As root the workers would become somebody who cannot enter the test's folder.
    let user = if super::is_root() {
        "user root root;"
    } else {
        ""
    };
    format!(
        r#"{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 128; }}
http {{
    log_format request '$request $status';
    access_log {folder}/access.log request;
    client_body_temp_path {folder}/tmp/body;
    proxy_temp_path {folder}/tmp/proxy;
    fastcgi_temp_path {folder}/tmp/fastcgi;
    uwsgi_temp_path {folder}/tmp/uwsgi;
    scgi_temp_path {folder}/tmp/scgi;
    default_type application/octet-stream;
    server {{
        listen {listen};
        root {www};
        location /slow/ {{ alias {www}/; limit_rate 200k; }}
        location /gone/ {{ return 410; }}
        location /broken/ {{ return 500; }}
        location /redirect/ {{ rewrite ^/redirect/(.*)$ /$1 redirect; }}
        location /loop/ {{ rewrite ^/loop/(.*)$ /loop/$1 redirect; }}
        location /private/ {{ alias {www}/; auth_basic "private"; auth_basic_user_file {folder}/users; }}
        {server}
    }}
}}
"#,
        www = www.display()
    )
}
