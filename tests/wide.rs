//! Several connections for one large file: when one is slow, as long as more make it faster, and never at the price of
//! a wrong byte.

mod mirrors;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::server::{Answer, Manner, Server};
use crate::support::{Run, TestEnv, names_in, noise, sri, wait_until};

/// A MiB a second: 32 of these.
const STEP: usize = 32 * 1024;
const PAUSE: Duration = Duration::from_millis(31);

struct World {
    env: TestEnv,
    server: Server,
    body: Vec<u8>,
}

impl World {
    fn new(mebibytes: usize) -> Self {
        Self {
            env: TestEnv::new(),
            server: Server::start(),
            body: noise(21, mebibytes << 20),
        }
    }

    /// Kills a download that has brought parts over two connections.
    fn killed_among_parts(&self) {
        let running = self.fetch().start();
        wait_until("two connections are at work", || self.server.serving() >= 2);
        wait_until("parts have come", || self.server.sent_bytes() > 2 << 20);
        running.signal(Signal::KILL);
        running.wait();
    }

    /// What each connection gets slowly.
    fn file(&self) -> Answer {
        Answer::file(self.body.clone())
            .header("ETag: \"one\"")
            .paced(STEP, PAUSE)
    }

    fn fetch(&self) -> Run<'_> {
        self.env
            .fetch_hash(sri(&self.body))
            .args(["-o", "big", "--retry-budget", "0"])
            .arg(self.server.url("/big"))
    }

    fn spool(&self) -> PathBuf {
        self.env.path("cache/fetch/spool")
    }

    #[track_caller]
    fn is_done(&self) {
        assert!(self.env.output("big") == self.body, "other bytes");
        assert_eq!(self.env.outputs(), ["big"]);
        assert_eq!(names_in(&self.spool()), [""; 0]);
    }

    /// What a connection may have sent that nobody took: what was on its way when it was closed.
    #[track_caller]
    fn sent_once(&self, closed: usize) {
        let (sent, whole) = (self.server.sent_bytes(), self.body.len() as u64);
        let most = whole + (closed * 3 * STEP) as u64;
        assert!(
            sent >= whole && sent <= most,
            "{sent} bytes sent of {whole}"
        );
    }
}

/// Each connection has a rate of its own, as with servers that limit them, and on lossy paths.
#[test]
fn more_connections_are_faster() {
    let world = World::new(16);
    world.server.route("/big", world.file());
    let started = Instant::now();
    world.fetch().go().exits(0);
    let took = started.elapsed();
    world.is_done();
    // One alone needs 16 s.
    assert!(took < Duration::from_secs(9), "{took:?}");
    let most = world.server.most_serving();
    assert!((4..=8).contains(&most), "{most} connections");
    let requests = world.server.requests();
    for request in &requests[1..] {
        assert_eq!(request.header("if-range"), Some("\"one\""));
    }
    world.sent_once(requests.len());
}

/// The path is shared: a second connection does not help, and goes.
#[test]
fn what_does_not_pay_is_taken_back() {
    let world = World::new(16);
    let file = Answer::file(world.body.clone()).header("ETag: \"one\"");
    world
        .server
        .route("/big", file.paced_in_all(128 * 1024, PAUSE));
    world.fetch().go().exits(0);
    world.is_done();
    assert_eq!(world.server.most_serving(), 2);
    let requests = world.server.requests().len();
    // The second, and the one that brings its part in the end.
    assert!((2..=3).contains(&requests), "{requests} requests");
}

#[test]
fn one_connection_where_that_was_said_and_for_what_is_soon_there() {
    let world = World::new(5);
    world.server.route("/big", world.file());
    world.fetch().args(["--connections", "1"]).go().exits(0);
    world.is_done();
    assert_eq!(world.server.requests().len(), 1);
    fs_err::remove_file(world.env.out("big")).unwrap();
    // 8 MiB a second.
    let quick = Answer::file(world.body.clone()).paced(256 * 1024, PAUSE);
    world.server.route("/big", quick);
    world.fetch().go().exits(0);
    assert_eq!(world.server.requests().len(), 2);
    world.fetch().args(["--connections", "0"]).go().exits(2);
}

/// A server that has no parts, or other ones than it was asked for: what one connection brings is enough.
#[test]
fn lies_cost_nothing_but_themselves() {
    // Each takes 6 seconds, all of them pauses of the server.
    std::thread::scope(|scope| {
        for manner in [
            Manner::Whole,
            Manner::Refusing,
            Manner::WrongStart,
            Manner::Silent,
            Manner::OtherTotal,
        ] {
            scope.spawn(move || {
                let world = World::new(6);
                world.server.route("/big", world.file().manner(manner));
                world.fetch().go().exits(0);
                world.is_done();
                assert_eq!(world.server.requests().len(), 2, "{manner:?}");
            });
        }
    });
}

/// The file changes while it comes: the parts of the new one are not taken, and the old one goes on.
#[test]
fn a_file_that_changes_meanwhile() {
    let world = World::new(6);
    let new = Answer::file(noise(22, 6 << 20)).header("ETag: \"two\"");
    world.server.route_in_turn("/big", [world.file(), new]);
    world.fetch().go().exits(0);
    world.is_done();
    assert_eq!(world.server.requests().len(), 2);
}

/// A part of another version is not taken from a server that sends it all the same, nor from where it leads meanwhile.
#[test]
fn another_version_is_not_mixed_in() {
    std::thread::scope(|scope| {
        for leads_elsewhere in [false, true] {
            scope.spawn(move || {
                let world = World::new(6);
                let new = Answer::file(noise(22, 6 << 20)).header("ETag: \"two\"");
                let then = match leads_elsewhere {
                    true => Answer::redirect(302, "/new"),
                    false => new.clone().manner(Manner::Careless),
                };
                world.server.route("/new", new);
                world.server.route_in_turn("/big", [world.file(), then]);
                let outcome = world.fetch().go().exits(0);
                world.is_done();
                assert_eq!(world.server.requests().len(), 2, "{leads_elsewhere}");
                assert!(!outcome.stderr.contains("fit"), "{outcome}");
            });
        }
    });
}

/// Nothing tells versions apart: what was mixed is asked for once more, and is no proof against the URL.
#[test]
fn a_mixture_is_asked_for_again() {
    let world = World::new(6);
    let other = Answer::file(noise(22, 6 << 20));
    let old = Answer::file(world.body.clone()).paced(STEP, PAUSE);
    let right = Answer::file(world.body.clone());
    world
        .server
        .route_in_turn("/big", [old, other.clone(), right]);
    world.fetch().go().exits(0).says("does not fit together");
    world.is_done();
}

/// A connection that breaks off is replaced by another one, and what it brought counts.
#[test]
fn broken_connections_are_replaced() {
    let world = World::new(12);
    let broken = world.file().cut_after(1 << 20);
    world
        .server
        .route_in_turn("/big", [world.file(), broken.clone(), broken, world.file()]);
    world.fetch().go().exits(0);
    world.is_done();
    world.sent_once(world.server.requests().len());
}

/// A connection that brings next to nothing is replaced a few times, and not as fast as the path allows.
#[test]
fn a_path_that_breaks_connections_is_not_hammered() {
    let world = World::new(6);
    let broken = world.file().cut_after(16 * 1024);
    world.server.route_in_turn("/big", [world.file(), broken]);
    // The first one did its part, and so there is nobody left.
    world.fetch().go().exits(5);
    let requests = world.server.requests().len();
    assert!((3..=16).contains(&requests), "{requests} requests");
    world.server.route("/big", world.file());
    world.fetch().go().exits(0);
    world.is_done();
    world.sent_once(world.server.requests().len());
}

/// Each connection brings a little and stands still: new ones do not make a download of that which lasts for ever.
#[test]
fn trickling_connections_are_a_stall() {
    let world = World::new(16);
    let stops = |bytes| world.file().hang_after(bytes);
    let answers = [stops(1 << 20), stops(1 << 20), stops(1)];
    world.server.route_in_turn("/big", answers);
    let started = Instant::now();
    let outcome = world.fetch().args(["--stall-timeout", "2"]).go().exits(5);
    outcome.says("stalled at ");
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(world.env.outputs(), [""; 0]);
}

/// Killed when parts have come in no order, again and again: the next run asks for the gaps, and for nothing else.
#[test]
fn killed_with_holes() {
    let world = World::new(24);
    world.server.route("/big", world.file());
    for (kill, beyond) in [6_u64, 11, 15].into_iter().enumerate() {
        let running = world.fetch().start();
        wait_until("several connections are at work", || {
            world.server.serving() >= 3 && world.server.sent_bytes() > beyond << 20
        });
        running.signal(Signal::KILL);
        assert!(running.wait().was_killed(), "kill {kill}");
        assert_eq!(world.env.outputs(), [""; 0]);
        let names = names_in(&world.spool());
        assert!(
            names.iter().any(|name| name.ends_with(".parts")),
            "{names:?}"
        );
        wait_until("the server has noticed", || world.server.serving() == 0);
    }
    world.fetch().go().exits(0);
    world.is_done();
    world.sent_once(world.server.requests().len());
}

/// A server behind the same name has another version, and says so when the second gap is asked for: it is asked for the
/// whole.
#[test]
fn gaps_that_nobody_fills_cost_what_was_there() {
    let world = World::new(8);
    world.server.route("/big", world.file());
    world.killed_among_parts();
    let before = world.server.requests().len();
    let same = Answer::file(world.body.clone());
    let (one, two) = (
        same.clone().header("ETag: \"one\""),
        same.header("ETag: \"two\""),
    );
    world.server.route_in_turn("/big", [one, two]);
    world.fetch().go().exits(0);
    world.is_done();
    let requests = &world.server.requests()[before..];
    let ranges: Vec<_> = requests
        .iter()
        .map(|request| request.header("range").is_some())
        .collect();
    assert_eq!(ranges, [true, true, false]);
}

/// A record that says more than is there costs the download, not the truth.
#[test]
fn a_record_of_parts_is_not_believed() {
    let world = World::new(8);
    world.server.route("/big", world.file());
    world.killed_among_parts();
    let names = names_in(&world.spool());
    let parts = names.iter().find(|name| name.ends_with(".parts")).unwrap();
    let lie = [0_u64, 3 << 20, 4 << 20, 5 << 20]
        .map(u64::to_le_bytes)
        .concat();
    fs_err::write(world.spool().join(parts), lie).unwrap();
    world.server.route(
        "/big",
        Answer::file(world.body.clone()).header("ETag: \"one\""),
    );
    world.fetch().go().exits(0);
    world.is_done();
}
