//! A real nginx on a free port.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

/// How often we look whether it answers, every 20 ms.
const ATTEMPTS: u32 = 250;

/// A server of one folder; ended when dropped.
#[derive(Debug)]
pub(crate) struct Nginx {
    child: Child,
    address: SocketAddr,
}

impl Nginx {
    /// Serves `folder/www` on the loopback.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        Self::at(Ipv4Addr::LOCALHOST, folder)
    }

    /// The same at another address of this machine.
    pub(crate) fn at(address: Ipv4Addr, folder: &Path) -> Result<Self> {
        let address = TcpListener::bind((address, 0))?.local_addr()?;
        let shown = folder.display();
        // As root the workers would become somebody who cannot enter our folder.
        let user = if rustix::process::geteuid().is_root() {
            "user root root;"
        } else {
            ""
        };
        let configuration = format!(
            "{user} daemon off; worker_processes 1; pid {shown}/pid; error_log {shown}/error.log;
            events {{ worker_connections 64; }}
            http {{
                access_log off; sendfile on; tcp_nopush on; default_type application/octet-stream;
                client_body_temp_path {shown}/body; proxy_temp_path {shown}/proxy; fastcgi_temp_path {shown}/fastcgi;
                uwsgi_temp_path {shown}/uwsgi; scgi_temp_path {shown}/scgi;
                server {{ listen {address}; root {shown}/www; }}
            }}"
        );
        fs_err::write(folder.join("nginx.conf"), configuration)?;
        let child = Command::new("nginx")
            .arg("-p")
            .arg(folder)
            .args(["-c", "nginx.conf", "-e", "error.log"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot run nginx: {error}"))?;
        let mut server = Self { child, address };
        for _ in 0..ATTEMPTS {
            if TcpStream::connect(address).is_ok() {
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("nginx: {status}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err("nginx does not answer".into())
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers on SIGTERM; on SIGKILL it would leave them. It may be gone already.
        kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        self.child.wait().ok();
    }
}
