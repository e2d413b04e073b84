//! Real TCP over a wire with a delay, which loses packets or goes dark.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::nginx::{NGINX, Nginx};
use crate::support::wire::{Quality, SERVER, WIRE, Wire};
use crate::support::{Run, Running, TestEnv, lacks, names_in, noise, skipped, sri, wait_until};

/// 20 ms each way, and 100 Mbit/s.
const FAR: Quality = Quality {
    delay: Duration::from_millis(20),
    bytes_per_second: Some(12_500_000),
    loss: 0.0,
};

/// What headers of packets and requests add, and packets that are sent again: of 1 % lost, none twice in vain.
const OVERHEAD: f64 = 1.15;

/// What eight connections have under way when the path goes dark, in bytes.
const MAX_UNDER_WAY: u64 = 400_000;

struct World {
    env: TestEnv,
    wire: Wire,
    nginx: Nginx,
    body: Vec<u8>,
}

impl World {
    /// Returns `None`, and says so aloud, where there can be no such wire.
    fn new(test: &str, loss: f64, len: usize) -> Option<Self> {
        if lacks(test, &[WIRE, NGINX].concat(), true) {
            return None;
        }
        if !Path::new("/dev/net/tun").exists() {
            skipped(test, "needs /dev/net/tun");
            return None;
        }
        let env = TestEnv::new();
        let body = noise(41, len);
        env.write("www/big", &body);
        let wire = Wire::new(Quality { loss, ..FAR }).unwrap();
        let nginx = wire.server.within(|| Nginx::at(SERVER, &env, ""));
        Some(Self {
            env,
            wire,
            nginx,
            body,
        })
    }

    fn fetch(&self) -> Run<'_> {
        self.env
            .fetch_hash(sri(&self.body))
            .args(["-o", "big"])
            .arg(self.nginx.url("/big"))
    }

    fn start(&self, run: Run<'_>) -> Running {
        self.wire.client.within(|| run.start())
    }

    /// Expects the server not to have sent much more than the file, and what was lost besides.
    #[track_caller]
    fn sent_once(&self, lost_bytes: u64) {
        let (sent, whole) = (self.wire.sent_bytes(), self.body.len() as f64);
        let most = (whole * OVERHEAD) as u64 + lost_bytes;
        assert!(sent <= most, "{sent} bytes sent of {whole}");
    }

    #[track_caller]
    fn is_done(&self) {
        assert!(self.env.output("big") == self.body, "other bytes");
        assert_eq!(self.env.outputs(), ["big"]);
        assert_eq!(names_in(&self.env.path("cache/fetch/spool")), [""; 0]);
    }
}

/// One connection gets some 400 kB/s here, and would need 15 s.
#[test]
fn several_connections_where_packets_are_lost() {
    let test = "several_connections_where_packets_are_lost";
    let Some(world) = World::new(test, 0.01, 6_000_000) else {
        return;
    };
    let outcome = world.start(world.fetch()).wait().exits(0);
    world.is_done();
    assert!(outcome.took < Duration::from_secs(10), "{outcome}");
    let requests = world.nginx.requests();
    assert!(requests.len() >= 4, "{requests:?}");
    world.sent_once(0);
}

/// It ends soon, and what had come by one or several connections is not asked for again once there is a path again.
#[test]
fn a_path_that_goes_dark_for_good() {
    let goes_dark = |connections: &str, len: usize, when: u64| {
        let test = "a_path_that_goes_dark_for_good";
        let world = World::new(test, 0.01, len)?;
        let impatient = ["--stall-timeout", "2", "--first-byte-timeout", "2"];
        let once = ["--retry-budget", "0", "--connections", connections];
        let running = world.start(world.fetch().args(impatient).args(once));
        wait_until("part of it is there", || world.wire.sent_bytes() > when);
        world.wire.go_dark(true);
        let dark = Instant::now();
        let outcome = running.wait().exits(5);
        let took = dark.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}\n{outcome}");
        assert_eq!(world.env.outputs(), [""; 0]);
        world.wire.go_dark(false);
        world.start(world.fetch()).wait().exits(0);
        world.is_done();
        world.sent_once(MAX_UNDER_WAY);
        Some(outcome)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| goes_dark("8", 5_000_000, 4_000_000));
        if let Some(outcome) = goes_dark("1", 2_000_000, 1_000_000) {
            outcome.says("stalled at ");
        }
    });
}

/// Neither heavy losses nor two seconds of nothing are a reason to give up.
#[test]
fn a_bad_path_is_borne_with() {
    let test = "a_bad_path_is_borne_with";
    let Some(world) = World::new(test, 0.1, 100_000) else {
        return;
    };
    let running = world.start(world.fetch().args(["--retry-budget", "0"]));
    wait_until("part of it is there", || world.wire.sent_bytes() > 30_000);
    world.wire.go_dark(true);
    std::thread::sleep(Duration::from_secs(2));
    world.wire.go_dark(false);
    running.wait().exits(0);
    world.is_done();
}
