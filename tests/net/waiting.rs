//! Servers that let us wait, and users who do not want to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fetcher::net::{Client, Limits, NetClass, NetError, Phase};

use crate::server::{Answer, Server};
use crate::{Kept, LIMITS, get_with, url};

const SOON: Duration = Duration::from_millis(300);
/// Far more than anything here should take, and less than the limits that must not be what ended it.
const LATE: Duration = Duration::from_secs(8);

#[test]
fn a_silent_server_is_left() {
    let server = Server::with("/a", Answer::silence());
    let (result, _) = get_with(
        Limits {
            first_byte_timeout: SOON,
            ..LIMITS
        },
        &server.url("/a"),
    );
    let error = result.unwrap_err();
    assert!(
        matches!(
            error,
            NetError::Timeout {
                phase: Phase::FirstByte,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        "waiting for an answer timed out after 0.3 s"
    );
}

#[test]
fn a_handshake_without_end_is_left() {
    let server = Server::start();
    let (result, _) = get_with(
        Limits {
            connect_timeout: SOON,
            ..LIMITS
        },
        &server.url("/a").replace("http:", "https:"),
    );
    let error = result.unwrap_err();
    assert!(
        matches!(
            error,
            NetError::Timeout {
                phase: Phase::Connect,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "connecting timed out after 0.3 s");
}

#[test]
fn a_stalled_body_is_left() {
    let limits = Limits {
        stall_window: SOON,
        ..LIMITS
    };
    for answer in [
        Answer::stopping_after(10_000, "beginning"),
        Answer::drip(Duration::from_millis(20)),
    ] {
        let server = Server::with("/a", answer);
        let (result, kept) = get_with(limits, &server.url("/a"));
        let error = result.unwrap_err();
        assert!(matches!(error, NetError::Stall { .. }), "{error:?}");
        assert!(!kept.bytes.is_empty(), "what came before was passed on");
    }
}

/// Interrupts a running transfer and expects it to end for that reason.
fn interrupt(text: &str) {
    let client = Client::new(Limits {
        max_bytes: u64::MAX,
        ..LIMITS
    })
    .unwrap();
    let flag = Arc::new(AtomicBool::new(false));
    let setter = {
        let flag = Arc::clone(&flag);
        thread::spawn(move || {
            thread::sleep(SOON);
            flag.store(true, Ordering::SeqCst);
        })
    };
    let started = Instant::now();
    let error = client
        .get(&url(text), None, &mut Discarding, &flag)
        .unwrap_err();
    assert!(matches!(error, NetError::Interrupted), "{error:?}");
    assert_eq!(error.class(), NetClass::Interrupted);
    assert!(started.elapsed() < LATE);
    setter.join().unwrap();
}

struct Discarding;

impl fetcher::net::BodySink for Discarding {
    fn start(&mut self, _start: &fetcher::net::BodyStart) -> std::io::Result<()> {
        Ok(())
    }

    fn write(&mut self, _chunk: bytes::Bytes) -> std::io::Result<()> {
        thread::sleep(Duration::from_millis(1));
        Ok(())
    }
}

#[test]
fn an_interrupt_ends_every_phase() {
    let server = Server::with("/silent", Answer::silence());
    server.route("/stopping", Answer::stopping_after(10_000, "beginning"));
    server.route("/endless", Answer::endless());
    interrupt(&server.url("/silent").replace("http:", "https:"));
    interrupt(&server.url("/silent"));
    interrupt(&server.url("/stopping"));
    interrupt(&server.url("/endless"));
}

#[test]
fn an_interrupt_from_before_opens_no_socket() {
    let server = Server::with("/a", Answer::body(b"here"));
    let error = Client::new(LIMITS)
        .unwrap()
        .get(
            &url(&server.url("/a")),
            None,
            &mut Kept::default(),
            &true.into(),
        )
        .unwrap_err();
    assert!(matches!(error, NetError::Interrupted), "{error:?}");
    assert_eq!(server.connections(), 0);
}
