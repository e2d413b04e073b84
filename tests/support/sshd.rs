//! A real sshd on the loopback, with keys of its own, for whoever runs the tests.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use super::{TestEnv, is_root, wait_until};

/// The programs an [`Sshd`] needs; see [`super::lacks`].
pub(crate) const SSHD: &[&str] = &["sshd", "ssh", "ssh-keygen", "unshare"];

/// A server for one key; stopped when dropped.
#[derive(Debug)]
pub(crate) struct Sshd {
    child: Child,
    port: u16,
}

impl Sshd {
    pub(crate) fn start(env: &TestEnv) -> Self {
        for name in ["host", "user", "stranger"] {
            let key = env.path("ssh").join(name);
            fs_err::create_dir_all(env.path("ssh")).unwrap();
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&key)
                .status()
                .unwrap();
            assert!(made.success());
        }
        fs_err::copy(env.path("ssh/user.pub"), env.path("ssh/authorized")).unwrap();
        // Another process may take the port between our look and the server's start: then the next one.
        for _ in 0..5 {
            let held = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = held.local_addr().unwrap().port();
            drop(held);
            let mut sshd = Self {
                child: start(env, port),
                port,
            };
            let mut ended = false;
            wait_until("sshd answers", || {
                ended = sshd.child.try_wait().unwrap().is_some();
                ended || TcpStream::connect(("127.0.0.1", port)).is_ok()
            });
            if !ended {
                return sshd;
            }
        }
        let said = fs_err::read_to_string(env.path("ssh/log")).unwrap();
        panic!("sshd does not start: {said}");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What git is to run instead of ssh: ssh that knows this key, and a host's key at these ports.
    pub(crate) fn command(env: &TestEnv, key: &str, host_key: &str, ports: &[u16]) -> String {
        let known = fs_err::read_to_string(env.path(format!("ssh/{host_key}.pub"))).unwrap();
        let known: String = ports
            .iter()
            .map(|port| format!("[127.0.0.1]:{port} {known}"))
            .collect();
        let folder = env.path("ssh").display().to_string();
        env.write(format!("ssh/known-{host_key}"), known);
        env.write(
            format!("ssh/config-{key}-{host_key}"),
            format!(
                "IdentityFile {folder}/{key}\nIdentitiesOnly yes\nIdentityAgent none\nBatchMode yes\n\
                 UserKnownHostsFile {folder}/known-{host_key}\nGlobalKnownHostsFile /dev/null\n\
                 StrictHostKeyChecking yes\nLogLevel ERROR\n"
            ),
        );
        format!("ssh -F {folder}/config-{key}-{host_key}")
    }
}

fn start(env: &TestEnv, port: u16) -> Child {
    let folder = env.path("ssh").display().to_string();
    let path = std::env::var("PATH").unwrap();
    let configuration = env.write(
        "ssh/sshd_config",
        format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n\
             AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             AcceptEnv GIT_PROTOCOL\nSetEnv PATH={path}\n"
        ),
    );
    for key in ["host", "user", "stranger"] {
        let private = std::fs::Permissions::from_mode(0o600);
        fs_err::set_permissions(env.path("ssh").join(key), private).unwrap();
    }
    // As root it wants a folder at a fixed place, which only it shall see.
    let script = if is_root() {
        "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec \"$@\""
    } else {
        "exec \"$@\""
    };
    let mut command = match is_root() {
        true => {
            let mut command = Command::new("unshare");
            command.args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-ec",
                script,
                "sh",
            ]);
            command
        }
        false => {
            let mut command = Command::new("sh");
            command.args(["-ec", script, "sh"]);
            command
        }
    };
    // It starts itself anew for each connection, and wants to know where it is.
    let sshd = ["/usr/sbin/sshd", "/usr/bin/sshd", "/sbin/sshd"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .unwrap_or("/usr/sbin/sshd");
    let log = fs_err::File::create(env.path("ssh/log")).unwrap();
    command
        .arg(sshd)
        .args(["-D", "-e", "-f"])
        .arg(configuration)
        .env_clear()
        .env("PATH", path)
        .env("HOME", env.path("home"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.into_file())
        .spawn()
        .unwrap()
}

impl Drop for Sshd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
