//! An nginx with certificates of a CA that only the test knows.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::skipped;

/// Which of the ports of a [`TlsServer`].
pub(crate) const GOOD: usize = 0;
pub(crate) const EXPIRED: usize = 1;
pub(crate) const ELSEWHERE: usize = 2;
/// Speaks plain HTTP.
pub(crate) const PLAIN: usize = 3;
/// Shows the CA's certificate instead of one that it signed.
pub(crate) const CA_ITSELF: usize = 4;

/// An nginx with certificates of a test CA; stopped when dropped.
pub(crate) struct TlsServer {
    folder: tempfile::TempDir,
    ports: Vec<u16>,
    nginx: Child,
}

impl TlsServer {
    /// Starts it; `None`, said aloud, where a program is missing.
    pub(crate) fn start(test: &str) -> Option<Self> {
        for program in ["openssl", "nginx"] {
            if Command::new(program)
                .arg("-h")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_err()
            {
                skipped(test, &format!("needs the program {program}"));
                return None;
            }
        }
        let folder = tempfile::Builder::new()
            .prefix("fetch-test-")
            .tempdir()
            .unwrap();
        make_certificates(folder.path());
        // All held at once, so that they differ; another program may still take one before nginx does.
        let held: Vec<_> = (0..5)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let ports: Vec<_> = held
            .iter()
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        drop(held);
        fs_err::write(
            folder.path().join("nginx.conf"),
            nginx_conf(folder.path(), &ports),
        )
        .unwrap();
        let nginx = Command::new("nginx")
            .args([
                "-p",
                folder.path().to_str().unwrap(),
                "-c",
                "nginx.conf",
                "-e",
                "error.log",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut server = Self {
            folder,
            ports,
            nginx,
        };
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", server.ports[PLAIN])).is_err() {
            assert!(server.nginx.try_wait().unwrap().is_none(), "nginx ended");
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "nginx does not answer"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(server)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn url(&self, port: usize, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.ports[port])
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        // The master ends its workers on SIGTERM; on SIGKILL it would leave them.
        let pid = rustix::process::Pid::from_child(&self.nginx);
        let killed = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        assert!(killed.is_ok() || std::thread::panicking(), "nginx was gone");
        drop(self.nginx.wait());
    }
}

fn openssl(folder: &Path, args: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "openssl {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Makes two CAs, of which the first signs a good, an expired and a foreign certificate, all for one key.
fn make_certificates(folder: &Path) {
    for (name, content) in [
        ("index.txt", ""),
        (
            "ca.cnf",
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\n\
             policy=p\nunique_subject=no\n[p]\ncommonName=supplied\n",
        ),
        ("here.ext", "subjectAltName=IP:127.0.0.1\n"),
        ("elsewhere.ext", "subjectAltName=DNS:elsewhere.test\n"),
        ("a", "over TLS"),
    ] {
        fs_err::write(folder.join(name), content).unwrap();
    }
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    for (name, subject) in [("ca", "/CN=Test CA"), ("other-ca", "/CN=Other CA")] {
        let (key_file, certificate) = (format!("{name}.key"), format!("{name}.pem"));
        let own = [
            "req",
            "-x509",
            "-days",
            "2",
            "-subj",
            subject,
            "-keyout",
            &key_file,
            "-out",
            &certificate,
        ];
        openssl(folder, &[&own[..], &key].concat());
    }
    let request = [
        "req", "-subj", "/CN=leaf", "-keyout", "leaf.key", "-out", "leaf.csr",
    ];
    openssl(folder, &[&request[..], &key].concat());
    for (certificate, extensions, end) in [
        ("good.pem", "here.ext", "20491231235959Z"),
        ("expired.pem", "here.ext", "20200102000000Z"),
        ("elsewhere.pem", "elsewhere.ext", "20491231235959Z"),
    ] {
        let own = [
            "ca", "-batch", "-notext", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key",
        ];
        let leaf = [
            "-in",
            "leaf.csr",
            "-out",
            certificate,
            "-extfile",
            extensions,
        ];
        openssl(
            folder,
            &[
                &own[..],
                &leaf,
                &["-startdate", "20200101000000Z", "-enddate", end],
            ]
            .concat(),
        );
    }
    // A folder of roots as the system has it: files are found by the hash of their subject.
    let hash = openssl(folder, &["x509", "-in", "ca.pem", "-noout", "-hash"]);
    fs_err::create_dir(folder.join("empty")).unwrap();
    fs_err::create_dir(folder.join("roots")).unwrap();
    fs_err::copy(
        folder.join("ca.pem"),
        folder.join("roots").join(format!("{hash}.0")),
    )
    .unwrap();
}

fn nginx_conf(folder: &Path, ports: &[u16]) -> String {
    let folder = folder.display();
    // As root the workers would become somebody who cannot enter the test's folder.
    let user = if rustix::process::geteuid().is_root() {
        "user root root;"
    } else {
        ""
    };
    let mut conf = format!(
        "{user}\ndaemon off;\nworker_processes 1;\npid nginx.pid;\nevents {{ worker_connections 64; }}\nhttp {{\n\
         log_format short '$request';\naccess_log {folder}/access.log short;\n\
         client_body_temp_path {folder}/body;\nproxy_temp_path {folder}/proxy;\nfastcgi_temp_path {folder}/fastcgi;\n\
         uwsgi_temp_path {folder}/uwsgi;\nscgi_temp_path {folder}/scgi;\nroot {folder};\n\
         server {{ listen 127.0.0.1:{}; }}\n",
        ports[PLAIN]
    );
    for (port, certificate, key) in [
        (GOOD, "good", "leaf"),
        (EXPIRED, "expired", "leaf"),
        (ELSEWHERE, "elsewhere", "leaf"),
        (CA_ITSELF, "ca", "ca"),
    ] {
        conf.push_str(&format!(
            "server {{ listen 127.0.0.1:{} ssl http2; ssl_certificate {folder}/{certificate}.pem; \
             ssl_certificate_key {folder}/{key}.key; location /down {{ return 302 http://127.0.0.1/a; }} \
             location /plain {{ return 302 http://127.0.0.1:{}/a; }} }}\n",
            ports[port], ports[PLAIN]
        ));
    }
    conf.push_str("}\n");
    conf
}
