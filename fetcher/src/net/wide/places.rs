//! Where the parts of a body come from: the server that began it, and others that may have the same file.

use std::time::{Duration, Instant};

use super::super::redirect::Route;
use crate::source_url::SourceUrl;

/// The server that began.
pub(super) const OWN: usize = 0;

/// Connections that broke off are replaced, but for so many in a row that brought little.
const MAX_FRUITLESS: u32 = 3;

/// How long a place is left alone when a connection broke off; each in a row that brought little doubles it.
const PAUSE_OF_BREAK: Duration = Duration::from_millis(500);

/// A connection that brings nothing for so long counts as one that stands still, once others have nothing else to do.
const STANDS_STILL_AFTER: Duration = Duration::from_secs(2);

/// One of them.
#[derive(Debug)]
pub(super) struct Place {
    /// Where redirects led when it last answered.
    pub(super) route: Route,
    /// What tells its version of the file from others, if anything does.
    pub(super) validator: Option<String>,
    /// No more connections than these from now on.
    pub(super) most: u32,
    /// It has brought something.
    pub(super) brings: bool,
    /// How many connections in a row ended that had brought little.
    fruitless: u32,
    /// Gets no connection before.
    paused_until: Option<Instant>,
    /// What a connection brought lately, in bytes a second.
    pub(super) bytes_per_second: f64,
}

impl Place {
    pub(super) const fn new(route: Route, validator: Option<String>, most: u32) -> Self {
        Self {
            route,
            validator,
            most,
            brings: false,
            fruitless: 0,
            paused_until: None,
            bytes_per_second: 0.0,
        }
    }

    /// A connection brought something, which is worth the connection or not.
    pub(super) const fn brought(&mut self, bytes_per_second: f64, is_fruitful: bool) {
        self.brings = true;
        self.bytes_per_second = bytes_per_second;
        if is_fruitful {
            self.fruitless = 0;
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        let until = self.paused_until;
        until.is_some_and(|until| Instant::now() < until)
    }

    /// A connection broke off; `left` are those that work. Where that is final, or nothing has come, they are enough.
    pub(super) fn broke_off(&mut self, was_fruitful: bool, is_final: bool, left: u32) {
        self.fruitless = if was_fruitful { 0 } else { self.fruitless + 1 };
        let pause = PAUSE_OF_BREAK * (1 << self.fruitless.min(MAX_FRUITLESS));
        self.paused_until = Some(Instant::now() + pause);
        if is_final || !self.brings || self.fruitless >= MAX_FRUITLESS {
            self.most = left;
        }
    }
}

/// Returns true if two URLs are of one server.
pub(super) fn is_one_server(one: &SourceUrl, other: &SourceUrl) -> bool {
    let server = |url: &SourceUrl| (url.host().map(str::to_owned), port(url));
    server(one) == server(other)
}

fn port(url: &SourceUrl) -> Option<u16> {
    url.url().port_or_known_default()
}

/// How fast a connection is.
#[derive(Debug)]
pub(super) struct Speed {
    since: Instant,
    last: Instant,
    bytes: u64,
}

impl Speed {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            since: now,
            last: now,
            bytes: 0,
        }
    }

    /// Returns how much has come.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds what came, and returns the rate in bytes a second.
    pub(super) fn add(&mut self, bytes: u64) -> f64 {
        self.bytes += bytes;
        self.last = Instant::now();
        self.rate()
    }

    fn rate(&self) -> f64 {
        let seconds = self.since.elapsed().as_secs_f64().max(0.001);
        self.bytes as f64 / seconds
    }

    /// Returns the rate in bytes a second, 0 for one that stands still; `None` if it has just begun.
    pub(super) fn now(&self) -> Option<f64> {
        if self.last.elapsed() >= STANDS_STILL_AFTER {
            return Some(0.0);
        }
        (self.bytes > 0).then(|| self.rate())
    }
}
