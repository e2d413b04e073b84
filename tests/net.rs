//! The network module against real sockets: a server with bad manners, nginx with TLS, proxies.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/server.rs"]
mod server;
#[path = "support/tls.rs"]
mod tls;

mod net {
    pub(crate) mod answers;
    pub(crate) mod environment;
    pub(crate) mod redirects;
    pub(crate) mod waiting;
}

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use fetcher::net::{BodySink, BodyStart, Client, Delivered, Limits, NetError, Widening};
use fetcher::source_url::SourceUrl;

/// Short enough for tests, long enough for a machine under load to answer.
const LIMITS: Limits = Limits {
    connect_timeout: Duration::from_secs(10),
    first_byte_timeout: Duration::from_secs(10),
    stall_bytes_per_second: 1024,
    stall_window: Duration::from_secs(10),
    max_redirects: 20,
    max_bytes: 1 << 20,
    tries: 4,
    disk_reserve: None,
    widening: Widening {
        connections: 1,
        above_bytes: 0,
        unless_done_in: Duration::ZERO,
        measure_for: Duration::ZERO,
    },
    retry_budget: Duration::ZERO,
};

/// Keeps what it gets.
#[derive(Debug, Default)]
struct Kept {
    starts: Vec<Option<u64>>,
    bytes: Vec<u8>,
    /// Fails once it holds more than this.
    room_bytes: Option<usize>,
}

impl BodySink for Kept {
    fn start(&mut self, start: &BodyStart) -> io::Result<()> {
        self.starts.push(start.length_bytes);
        Ok(())
    }

    fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        assert!(!chunk.is_empty());
        self.bytes.extend_from_slice(&chunk);
        match self.room_bytes {
            Some(room_bytes) if self.bytes.len() > room_bytes => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

fn url(text: &str) -> SourceUrl {
    SourceUrl::parse(text).unwrap()
}

/// Gets a URL with these limits and returns what came and what was kept of it.
fn get_with(limits: Limits, text: &str) -> (Result<Delivered, NetError>, Kept) {
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        assert!(
            std::env::var_os(name).is_none(),
            "unset {name}: it would send these tests through a proxy"
        );
    }
    let mut kept = Kept::default();
    let result =
        Client::new(limits)
            .unwrap()
            .get(&url(text), None, &mut kept, &AtomicBool::new(false));
    (result, kept)
}

fn get(text: &str) -> (Result<Delivered, NetError>, Kept) {
    get_with(LIMITS, text)
}

/// Expects a failure that no byte reached the sink before.
#[track_caller]
fn refused(text: &str) -> NetError {
    let (result, kept) = get(text);
    assert_eq!(
        (kept.starts.len(), kept.bytes.len()),
        (0, 0),
        "the sink was touched"
    );
    result.unwrap_err()
}

/// Says past the test runner's capture, and in the list that tests/run prints, that a test cannot run here; fails
/// instead with `FETCH_TESTS_REQUIRE_ALL=1`.
fn skipped(test: &str, reason: &str) {
    assert!(
        std::env::var_os("FETCH_TESTS_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "{test} {reason}, and FETCH_TESTS_REQUIRE_ALL=1"
    );
    let line = format!("SKIPPED: {test} {reason}\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
    if let Some(log) = std::env::var_os("FETCH_TESTS_SKIPPED_LOG") {
        let mut log = fs_err::OpenOptions::new()
            .append(true)
            .create(true)
            .open(PathBuf::from(log))
            .unwrap();
        log.write_all(line.as_bytes()).unwrap();
    }
}
