//! A slow path to a server on the loopback: each connection gets little, answers come late, and some connections break
//! off. The kernel's own emulator is not there on every machine; this does at the socket what loss does to a connection.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Result;

/// How late everything comes, there and back.
const ROUND_TRIP: Duration = Duration::from_millis(40);

/// What one connection gets, in bytes a second: as much as was measured of TCP with cubic at 40 ms and 1 % loss.
const BYTES_PER_SECOND: u64 = 450_000;

/// How much is passed on at a time, in bytes: a few packets.
const STEP: usize = 8 * 1024;

/// Each connection of which the number divides by this breaks off.
const BREAKS_EACH: usize = 5;

/// When it does, in bytes.
const BREAKS_AFTER: u64 = 1_500_000;

/// The proxy; ends when dropped.
#[derive(Debug)]
pub(crate) struct SlowPath {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    connections: AtomicUsize,
    stopping: AtomicBool,
}

impl SlowPath {
    pub(crate) fn to(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server,
            connections: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        });
        let for_all = Arc::clone(&shared);
        let acceptor = thread::spawn(move || {
            for client in listener.incoming() {
                if for_all.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&for_all);
                if let Ok(client) = client {
                    // A client that goes away is no trouble of ours.
                    thread::spawn(move || drop(shared.pass_on(client)));
                }
            }
        });
        Ok(Self {
            address,
            shared,
            acceptor: Some(acceptor),
        })
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// Lets the same connections break off for the next client as for the last.
    pub(crate) fn begin_anew(&self) {
        self.shared.connections.store(0, Ordering::SeqCst);
    }
}

impl Drop for SlowPath {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then sees the flag.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

impl Shared {
    fn pass_on(&self, client: TcpStream) -> std::io::Result<()> {
        let number = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let most = match number.is_multiple_of(BREAKS_EACH) {
            true => BREAKS_AFTER,
            false => u64::MAX,
        };
        // The handshake.
        thread::sleep(ROUND_TRIP);
        let server = TcpStream::connect(self.server)?;
        let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
        let requests = thread::spawn(move || {
            let mut buffer = [0; STEP];
            while let Ok(count) = from_client.read(&mut buffer) {
                thread::sleep(ROUND_TRIP);
                if count == 0 || to_server.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            drop(to_server.shutdown(Shutdown::Both));
        });
        let passed = pass_slowly(server, &client, most);
        drop(client.shutdown(Shutdown::Both));
        drop(requests.join());
        passed
    }
}

fn pass_slowly(mut server: TcpStream, mut client: &TcpStream, most: u64) -> std::io::Result<()> {
    let mut buffer = [0; STEP];
    let mut passed = 0;
    let mut due = Instant::now();
    while passed < most {
        let count = server.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        // What was not used while nothing came is lost.
        due = due.max(Instant::now())
            + Duration::from_secs_f64(count as f64 / BYTES_PER_SECOND as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        client.write_all(&buffer[..count])?;
        passed += count as u64;
    }
    Ok(())
}
