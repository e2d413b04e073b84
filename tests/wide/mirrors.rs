//! Parts of one large file from several servers that are said to have it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::{PAUSE, STEP, World};
use crate::support::server::{Answer, Manner, Server};
use crate::support::{Run, digest, noise, sri, wait_until};
use store_index::digest::Algorithm;

/// Another host of the loopback.
fn other_host(number: u8) -> Server {
    Server::start_at(Ipv4Addr::new(127, 0, 0, number))
}

impl World {
    /// What all connections together get slowly: only another server helps.
    fn narrow(&self) -> Answer {
        let file = Answer::file(self.body.clone()).header("ETag: \"one\"");
        file.paced_in_all(STEP, PAUSE)
    }

    fn fetch_with<'a>(&'a self, mirrors: &[&Server]) -> Run<'a> {
        self.fetch()
            .args(mirrors.iter().map(|mirror| mirror.url("/big")))
    }
}

/// Returns how a server is named in reports.
fn name(server: &Server) -> String {
    server.address().to_string()
}

#[test]
fn mirrors_bring_parts() {
    let world = World::new(16);
    let mirrors = [other_host(2), other_host(3)];
    world.server.route("/big", world.narrow());
    for mirror in &mirrors {
        mirror.route("/big", world.narrow());
    }
    // Some lead elsewhere.
    let moved = Answer::redirect(302, &mirrors[1].url("/big"));
    world.server.route("/moved/big", moved);
    let started = Instant::now();
    let run = world.fetch_with(&[&mirrors[0]]);
    let report = run.arg(world.server.url("/moved/big")).json(0);
    let took = started.elapsed();
    world.is_done();
    // One alone needs 16 s.
    assert!(took < Duration::from_secs(11), "{took:?}");
    assert_eq!(report.location(), world.server.url("/big"));
    let all = [&world.server, &mirrors[0], &mirrors[1]];
    let sent: Vec<u64> = all.iter().map(|server| server.sent_bytes()).collect();
    assert!(sent.iter().all(|&sent| sent > 1 << 20), "{sent:?}");
    let requests: usize = all.iter().map(|server| server.requests().len()).sum();
    let (sum, whole) = (sent.iter().sum::<u64>(), world.body.len() as u64);
    assert!(
        sum <= whole + (requests * 3 * STEP) as u64,
        "{sum} of {whole}"
    );
    for mirror in &mirrors {
        assert!(
            report.object.to_string().contains(&name(mirror)),
            "{}",
            report.object
        );
        // No server's validator is shown to another before it has given one itself.
        assert_eq!(mirror.requests()[0].header("if-range"), None);
        assert!(mirror.requests()[0].header("range").is_some());
    }
}

/// What one connection brings soon is asked of nobody else, and by no second connection.
#[test]
fn a_fast_path_has_one_connection() {
    let world = World::new(32);
    let mirror = other_host(2);
    // 32 MiB a second, for longer than is measured.
    let file = Answer::file(world.body.clone()).paced(1 << 20, PAUSE);
    world.server.route("/big", file.clone());
    mirror.route("/big", file);
    world.fetch_with(&[&mirror]).go().exits(0);
    world.is_done();
    assert_eq!(world.server.connections(), 1);
    assert_eq!(mirror.connections(), 0);
}

/// The narrow place is on our side: neither another server nor another connection brings more, and both go.
#[test]
fn what_brings_no_more_is_given_up() {
    let world = World::new(16);
    let mirror = other_host(2);
    // One pace for both.
    let file = world.narrow().paced(128 * 1024, PAUSE);
    world.server.route("/big", file.clone());
    mirror.route("/big", file);
    world.fetch_with(&[&mirror]).go().exits(0);
    world.is_done();
    assert_eq!(mirror.most_serving(), 1);
    assert!(world.server.most_serving() <= 2);
    // Each was tried once, and what they left was asked for again.
    let requests = world.server.requests().len() + mirror.requests().len();
    assert!((3..=5).contains(&requests), "{requests} requests");
}

/// Whoever does not have the file, has another one or no parts of it costs a connection, and the next one helps.
#[test]
fn lies_of_mirrors_cost_nothing_but_themselves() {
    std::thread::scope(|scope| {
        let manners = [
            Some(Manner::Whole),
            Some(Manner::Refusing),
            Some(Manner::WrongStart),
            Some(Manner::Silent),
            Some(Manner::OtherTotal),
            Some(Manner::Failing(404)),
            None,
        ];
        for manner in manners {
            scope.spawn(move || {
                let world = World::new(8);
                let (liar, honest) = (other_host(2), other_host(3));
                world.server.route("/big", world.narrow());
                honest.route("/big", world.narrow());
                let url = liar.url("/big");
                match manner {
                    Some(manner) => liar.route("/big", world.narrow().manner(manner)),
                    // Nobody is there.
                    None => drop(liar),
                }
                let run = world.fetch().args([url, honest.url("/big")]);
                let outcome = run.go().exits(0);
                world.is_done();
                assert!(honest.sent_bytes() > 1 << 20, "{manner:?}");
                assert!(!outcome.stderr.contains("fit"), "{manner:?}: {outcome}");
            });
        }
    });
}

/// One that is silent, or comes to a standstill, keeps nobody waiting for the little that it was to bring.
#[test]
fn mirrors_that_stall_are_passed_over() {
    std::thread::scope(|scope| {
        for stalls_after in [None, Some(600 * 1024)] {
            scope.spawn(move || {
                let world = World::new(12);
                let mirror = other_host(2);
                world.server.route("/big", world.narrow());
                mirror.route(
                    "/big",
                    match stalls_after {
                        Some(bytes) => world.narrow().hang_after(bytes),
                        None => Answer::silence(),
                    },
                );
                let started = Instant::now();
                world.fetch_with(&[&mirror]).go().exits(0);
                world.is_done();
                // 12 s are what the one alone takes; time limits end after 30 and 120.
                let took = started.elapsed();
                assert!(took < Duration::from_secs(24), "{stalls_after:?}: {took:?}");
            });
        }
    });
}

/// Nobody knows who brought what is wrong: the first is asked for the whole, and nobody helps any more.
#[test]
fn other_bytes_of_the_same_length() {
    let world = World::new(6);
    let (liar, other) = (other_host(2), noise(22, 6 << 20));
    world
        .server
        .route_in_turn("/big", [world.narrow(), world.narrow()]);
    liar.route("/big", Answer::file(other).paced(STEP, PAUSE));
    let run = world.fetch_with(&[&liar]).arg("--json").start();
    wait_until("the whole is asked for again", || {
        let requests = world.server.requests();
        let wholes = requests
            .iter()
            .filter(|request| request.header("range").is_none());
        wholes.count() == 2
    });
    let asked = liar.requests().len();
    let outcome = run.wait().exits(0);
    world.is_done();
    let said = format!(
        "what came in parts from {} and {} does not fit together",
        name(&world.server),
        name(&liar)
    );
    assert!(outcome.stdout.contains(&said), "{outcome}");
    assert!(outcome.stderr.contains(&said), "{outcome}");
    assert_eq!(liar.requests().len(), asked);
}

/// Whoever can forge a hash could choose what fits to the parts of others.
#[test]
fn no_parts_for_a_weak_hash() {
    let world = World::new(5);
    let mirror = other_host(2);
    world.server.route("/big", world.narrow());
    mirror.route("/big", world.narrow());
    let run = world
        .env
        .fetch_hash(digest(Algorithm::Sha1, &world.body).to_sri());
    run.args(["-o", "big", "--connections", "2"])
        .args([world.server.url("/big"), mirror.url("/big")])
        .go()
        .exits(0);
    world.is_done();
    assert_eq!(mirror.connections(), 0);
}

/// An extra connection that is told to stay away is an answer for every process, while the first goes on, and no more
/// are tried.
#[test]
fn a_host_that_has_enough_is_left_alone_by_all() {
    std::thread::scope(|scope| {
        for (refusal, is_long) in [
            (Answer::status_with(429, "Retry-After: 700"), true),
            (Answer::status_with(503, "X: y"), false),
        ] {
            scope.spawn(move || {
                let world = World::new(8);
                world.server.route_in_turn("/big", [world.file(), refusal]);
                world.server.route("/other", Answer::body("other"));
                let running = world.fetch().start();
                wait_until("a second connection was refused", || {
                    world.server.requests().len() == 2
                });
                wait_until("it is remembered", || {
                    let status = world.env.fetch(["cache", "status"]).go().exits(0);
                    status.stdout.contains(&name(&world.server))
                });
                let other = world.env.fetch_hash(sri(b"other"));
                let other = other.args(["--retry-budget", "0", "-o", "other"]);
                let other = other.arg(world.server.url("/other")).go();
                if is_long {
                    other.exits(5).says("is to be left alone");
                }
                running.wait().exits(0);
                assert!(world.env.output("big") == world.body);
                let big = world.server.requests();
                let big = big.iter().filter(|request| request.line.contains("/big"));
                assert_eq!(big.count(), 2);
            });
        }
    });
}

/// Nobody asks a mirror for parts that wants to be left alone.
#[test]
fn a_mirror_that_has_enough_is_not_asked_for_parts() {
    let world = World::new(6);
    let mirror = other_host(2);
    mirror.route("/busy", Answer::status_with(429, "Retry-After: 700"));
    mirror.route("/big", world.narrow());
    let run = world.env.fetch_hash(sri(b"busy"));
    run.args(["-o", "busy", "--retry-budget", "0"])
        .arg(mirror.url("/busy"))
        .go()
        .exits(5);
    world.server.route("/big", world.narrow());
    world.fetch_with(&[&mirror]).go().exits(0);
    world.is_done();
    assert_eq!(mirror.requests().len(), 1);
}
