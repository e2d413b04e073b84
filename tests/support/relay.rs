//! A relay on the loopback that counts what a server sends through it; the benchmark has it too.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The longest that either side may be silent.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Passes connections on to a server; ends when dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    connections: AtomicU64,
    sent_bytes: AtomicU64,
    /// After how many bytes more of the server's a connection breaks off; 0 for never.
    break_after: AtomicU64,
}

impl Relay {
    /// Makes one to a port of the loopback.
    pub(crate) fn to(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let acceptor = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut open = Vec::new();
                for stream in listener.incoming() {
                    if shared.stopping.load(Ordering::SeqCst) {
                        break;
                    }
                    let Ok(client) = stream else { continue };
                    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
                        continue;
                    };
                    // What is passed on waits for nothing, or short questions and answers would take 40 ms each.
                    for stream in [&client, &server] {
                        drop(stream.set_nodelay(true));
                    }
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    let (Ok(from), Ok(to)) = (server.try_clone(), client.try_clone()) else {
                        continue;
                    };
                    open.push(std::thread::spawn(move || pass(client, server, |_| true)));
                    let shared = Arc::clone(&shared);
                    open.push(std::thread::spawn(move || {
                        pass(from, to, |bytes| {
                            shared.sent_bytes.fetch_add(bytes, Ordering::SeqCst);
                            let left = shared.break_after.load(Ordering::SeqCst);
                            let after = left.saturating_sub(bytes);
                            shared.break_after.store(after, Ordering::SeqCst);
                            left == 0 || after > 0
                        });
                    }));
                }
                for thread in open {
                    drop(thread.join());
                }
            })
        };
        Ok(Self {
            address,
            shared,
            acceptor: Some(acceptor),
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Breaks a connection off when the server has sent so many bytes more.
    #[allow(dead_code, reason = "the benchmark has no use for it")]
    pub(crate) fn break_after(&self, bytes: u64) {
        self.shared.break_after.store(bytes, Ordering::SeqCst);
    }

    /// Returns how much the server sent since this was last called.
    pub(crate) fn take_sent_bytes(&self) -> u64 {
        self.shared.sent_bytes.swap(0, Ordering::SeqCst)
    }

    /// Returns how many connections there were since this was last called.
    pub(crate) fn take_connections(&self) -> u64 {
        self.shared.connections.swap(0, Ordering::SeqCst)
    }
}

/// Passes bytes on until one side has no more, or whoever counts has enough; then it hangs up.
fn pass(mut from: TcpStream, mut to: TcpStream, mut count: impl FnMut(u64) -> bool) {
    let mut buffer = [0; 64 * 1024];
    drop(from.set_read_timeout(Some(MAX_WAIT)));
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if !count(read as u64) {
            drop(to.shutdown(Shutdown::Both));
            drop(from.shutdown(Shutdown::Both));
            break;
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // The other direction may have more to say, or be in the middle of it.
    drop(to.shutdown(Shutdown::Write));
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then sees the flag.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}
