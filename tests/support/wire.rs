//! A wire between two network namespaces, with a delay, a rate and losses; the benchmark has it too.
//!
//! The kernel's own emulator is not in every kernel. Here the only way out of either namespace is a TUN device, and two
//! threads carry the packets from one to the other: real TCP meets real losses. Namespaces and devices have no names
//! outside of each other and are held by descriptors alone, so that they go with the process, whatever ends it.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, SyncDevice};

/// The programs that a [`Wire`] needs; root and `/dev/net/tun` besides.
pub(crate) const WIRE: &[&str] = &["ip", "unshare"];

/// Where servers listen, and where clients come from: addresses that are nobody's.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// The device's name in both namespaces.
const DEVICE: &str = "wire";

/// Longest packet in bytes, as on Ethernet.
const MAX_PACKET_BYTES: u16 = 1500;

/// What waits for us at a device, in packets: more than a sender has under way, so that only the wire loses any.
const MAX_WAITING_PACKETS: u32 = 10_000;

/// What waits for the line, in time: what comes when more waits is lost, as at a router.
const MAX_QUEUED: Duration = Duration::from_millis(50);

/// How often a carrier without work looks whether it should end.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What a wire does to packets, in either direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quality {
    /// How long a packet is under way.
    pub(crate) delay: Duration,
    /// What the line takes in bytes a second, headers included; `None` takes all.
    pub(crate) bytes_per_second: Option<u64>,
    /// The part of the packets that is lost, from 0 to 1.
    pub(crate) loss: f64,
}

/// Two namespaces and what is between them; ends when dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    shared: Arc<Shared>,
    carriers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stopping: AtomicBool,
    dark: AtomicBool,
    up: Direction,
    down: Direction,
}

/// One direction of the wire.
#[derive(Debug)]
struct Direction {
    quality: Quality,
    /// Decides which packets are lost.
    dice: Mutex<fastrand::Rng>,
    /// What was put on the wire, lost or not.
    sent_bytes: AtomicU64,
}

impl Wire {
    pub(crate) fn new(quality: Quality) -> io::Result<Self> {
        let (client, server) = (Namespace::new()?, Namespace::new()?);
        let near = client.within(|| device(CLIENT, SERVER))?;
        let far = server.within(|| device(SERVER, CLIENT))?;
        let shared = Arc::new(Shared {
            stopping: AtomicBool::new(false),
            dark: AtomicBool::new(false),
            up: Direction::new(quality),
            down: Direction::new(quality),
        });
        let devices = Arc::new([near, far]);
        let carrier = |carry: fn(&Shared, &[SyncDevice; 2]) -> io::Result<()>| {
            let (shared, devices) = (Arc::clone(&shared), Arc::clone(&devices));
            // Without a device nothing comes through any more, which whoever waits will say.
            std::thread::spawn(move || drop(carry(&shared, &devices)))
        };
        let carriers = vec![
            carrier(|shared, [near, far]| shared.up.carry(shared, near, far)),
            carrier(|shared, [near, far]| shared.down.carry(shared, far, near)),
        ];
        Ok(Self {
            client,
            server,
            shared,
            carriers,
        })
    }

    /// Lets the same packets be lost as after any other call with this number.
    pub(crate) fn begin_anew(&self, seed: u64) {
        for direction in [&self.shared.up, &self.shared.down] {
            *direction.dice() = fastrand::Rng::with_seed(seed);
        }
    }

    /// From now on nothing comes through, or what does by the quality of the wire.
    pub(crate) fn go_dark(&self, dark: bool) {
        self.shared.dark.store(dark, Ordering::SeqCst);
    }

    /// Returns how much the server has put on the wire, headers and what was lost and all.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.shared.down.sent_bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for carrier in self.carriers.drain(..) {
            drop(carrier.join());
        }
    }
}

impl Direction {
    fn new(quality: Quality) -> Self {
        Self {
            quality,
            dice: Mutex::new(fastrand::Rng::with_seed(0)),
            sent_bytes: AtomicU64::new(0),
        }
    }

    fn dice(&self) -> std::sync::MutexGuard<'_, fastrand::Rng> {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry(&self, shared: &Shared, from: &SyncDevice, to: &SyncDevice) -> io::Result<()> {
        // When each packet arrives: in the order they were sent in.
        let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
        let mut line_is_free = Instant::now();
        let mut buffer = [0; MAX_PACKET_BYTES as usize];
        while !shared.stopping.load(Ordering::SeqCst) {
            let now = Instant::now();
            while let Some((_, packet)) = under_way.pop_front_if(|(arrives, _)| *arrives <= now) {
                // A device that takes no more loses it, as any would.
                to.send(&packet).ok();
            }
            match from.recv(&mut buffer) {
                Ok(count) => {
                    let packet = &buffer[..count];
                    if let Some(arrives) = self.send(packet, shared, now, &mut line_is_free) {
                        under_way.push_back((arrives, packet.to_vec()));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let next = under_way.front().map(|(arrives, _)| *arrives - now);
                    let wait = next.unwrap_or(POLL_INTERVAL).min(POLL_INTERVAL);
                    let wait = Timespec::try_from(wait).map_err(io::Error::other)?;
                    let mut readable = [PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN)];
                    poll(&mut readable, Some(&wait))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Puts a packet on the wire; returns when it arrives, if it does.
    fn send(
        &self,
        packet: &[u8],
        shared: &Shared,
        now: Instant,
        line_is_free: &mut Instant,
    ) -> Option<Instant> {
        // The kernel also says its IPv6 to whoever may be there, at times of its own: the dice are not for that.
        if packet.first().is_none_or(|byte| byte >> 4 != 4) {
            return None;
        }
        let len = packet.len() as u64;
        self.sent_bytes.fetch_add(len, Ordering::SeqCst);
        let lost = self.dice().f64() < self.quality.loss;
        if lost || shared.dark.load(Ordering::SeqCst) {
            return None;
        }
        if let Some(rate) = self.quality.bytes_per_second {
            let begins = now.max(*line_is_free);
            if begins - now > MAX_QUEUED {
                return None;
            }
            *line_is_free = begins + Duration::from_secs_f64(len as f64 / rate as f64);
        }
        Some(now.max(*line_is_free) + self.quality.delay)
    }
}

/// A network of its own, empty but for the wire.
#[derive(Debug)]
pub(crate) struct Namespace(OwnedFd);

impl Namespace {
    fn new() -> io::Result<Self> {
        // A process makes it, and holds it until it is open here: when its input ends, which it does with us too.
        let mut holder = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "ip link set lo up && echo made && read end",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut made = String::new();
        if let Some(output) = holder.stdout.take() {
            BufReader::new(output).read_line(&mut made)?;
        }
        let file = fs_err::File::open(format!("/proc/{}/ns/net", holder.id()));
        let said = holder.wait_with_output()?.stderr;
        if made != "made\n" {
            let said = String::from_utf8_lossy(&said);
            return Err(io::Error::other(format!("unshare --net: {}", said.trim())));
        }
        Ok(Self(file?.into_file().into()))
    }

    /// Does something in a thread that is in this network, as is everything it starts: threads, sockets, programs.
    pub(crate) fn within<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                .unwrap_or_else(|error| panic!("cannot enter a network namespace: {error}"));
            what()
        };
        let done = std::thread::scope(|scope| scope.spawn(inside).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Makes this namespace's end of the wire.
fn device(own: Ipv4Addr, other: Ipv4Addr) -> io::Result<SyncDevice> {
    let device = DeviceBuilder::new()
        .name(DEVICE)
        .mtu(MAX_PACKET_BYTES)
        .tx_queue_len(MAX_WAITING_PACKETS)
        .build_sync()?;
    device.set_nonblocking(true)?;
    ip(&format!("address add {own}/32 dev {DEVICE}"))?;
    // Most servers have cubic, whatever this machine has: with others losses matter less.
    ip(&format!(
        "route add {other}/32 dev {DEVICE} src {own} congctl cubic"
    ))?;
    // What one connection found out about the path must not help the next one.
    fs_err::write("/proc/sys/net/ipv4/tcp_no_metrics_save", "1")?;
    Ok(device)
}

fn ip(words: &str) -> io::Result<()> {
    let done = Command::new("ip").args(words.split(' ')).output()?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("ip {words}: {}", said.trim())))
}
