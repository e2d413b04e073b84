//! One body over several connections, each of which brings a part of it.
//!
//! Servers and paths that give each connection little give several of them more: the number is doubled as long as
//! that makes the whole faster, and taken back if it does not. Parts are taken from the same version of the file
//! (`If-Range`, and the length of the whole must agree); that they fit is proved by the hash of the whole alone.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use reqwest::header::{IF_RANGE, RANGE};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::error::{NetError, Phase};
use super::hosts::{self, Counted};
use super::redirect::Route;
use super::transfer::check_encoding;
use super::wait::{POLL_INTERVAL, StallWatch};
use super::{BodySink, Client, Limits, range};
use crate::source_url::SourceUrl;

/// Parts are not made smaller, in bytes: at the end of one a connection waits for a round trip or two, and brings
/// nothing.
const MIN_PART_BYTES: u64 = 128 * 1024;

/// A greater number of connections must make the whole so much faster, or it is taken back.
const PAYS_ABOVE: f64 = 1.2;

/// Connections that broke off are replaced, but for so many in a row that brought nothing.
const MAX_FRUITLESS: u32 = 3;

/// The rate of no connection: it is yet to be measured what one brings.
const UNKNOWN: f64 = 0.0;

/// Chunks that wait for the sink.
const QUEUE_CHUNKS: usize = 8;

/// A body, and how its parts are asked for.
pub(super) struct Whole<'a> {
    pub(super) client: &'a Client,
    pub(super) route: &'a Route,
    /// What tells this version of the file from others, if anything does.
    pub(super) validator: Option<String>,
    pub(super) length_bytes: u64,
    pub(super) interrupt: &'a AtomicBool,
}

/// A part that is to come.
#[derive(Debug)]
struct Part {
    left: Range<u64>,
    worker: Option<Worker>,
}

#[derive(Debug)]
struct Worker {
    id: u64,
    /// How far it would go by itself.
    asked_to: u64,
    /// It has brought something.
    brings: bool,
    task: AbortHandle,
    _counted: Option<Counted>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a worker says.
enum Event {
    Bytes(u64, Bytes),
    /// Its part is over, or it cannot go on.
    End(u64, Result<(), NetError>),
}

/// Receives what is missing behind `got_bytes`, but for what is there. `response` brings the first part, at
/// `bytes_per_second` if that was measured.
pub(super) async fn receive(
    whole: &Whole<'_>,
    response: reqwest::Response,
    got_bytes: u64,
    there: &[Range<u64>],
    bytes_per_second: Option<f64>,
    sink: &mut dyn BodySink,
) -> Result<(), NetError> {
    let (events, mut incoming) = mpsc::channel(QUEUE_CHUNKS);
    let mut wide = Wide {
        whole,
        parts: missing(got_bytes, there, whole.length_bytes),
        events,
        workers: 0,
        width: 1,
        gauge: Gauge::new(whole.client.limits),
        fruitless: 0,
    };
    match bytes_per_second {
        Some(rate) => wide.width = wide.gauge.began_slow(rate),
        None => wide.gauge.begin(UNKNOWN, 1),
    }
    if let Some(first) = wide.parts.first().map(|part| part.left.clone()) {
        wide.start(0, first, Some(response));
    }
    while !wide.parts.is_empty() {
        wide.fill_up();
        let event = tokio::time::timeout(POLL_INTERVAL, incoming.recv()).await;
        if whole.interrupt.load(Ordering::Relaxed) {
            return Err(NetError::Interrupted);
        }
        match event {
            Ok(Some(Event::Bytes(id, bytes))) => wide.take(id, bytes, sink)?,
            Ok(Some(Event::End(id, end))) => wide.end(id, end)?,
            // The sender is ours: the queue does not close.
            Ok(None) | Err(_) => {}
        }
        wide.adapt();
    }
    Ok(())
}

/// Returns what is not there.
fn missing(got_bytes: u64, there: &[Range<u64>], length_bytes: u64) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut at = got_bytes;
    let end = length_bytes..length_bytes;
    for part in there.iter().chain(std::iter::once(&end)) {
        if part.start > at {
            parts.push(Part {
                left: at..part.start,
                worker: None,
            });
        }
        at = at.max(part.end);
    }
    parts
}

struct Wide<'a, 'w> {
    whole: &'w Whole<'a>,
    /// In no order; one that has come whole is taken out.
    parts: Vec<Part>,
    events: mpsc::Sender<Event>,
    /// How many there have been: the next one's number.
    workers: u64,
    /// How many there are to be at a time.
    width: u32,
    gauge: Gauge,
    /// How many broke off since anything came.
    fruitless: u32,
}

impl Wide<'_, '_> {
    fn active(&self) -> u32 {
        let workers = self.parts.iter().filter(|part| part.worker.is_some());
        u32::try_from(workers.count()).unwrap_or(u32::MAX)
    }

    /// Lets a worker begin with a part.
    fn start(&mut self, index: usize, part: Range<u64>, response: Option<reqwest::Response>) {
        // The first one was counted when it came.
        let counted = match &response {
            Some(_) => None,
            None if self.active() == 0 => None,
            None => {
                let most = self.whole.client.limits.widening.connections;
                match hosts::one_more(self.whole.route.current(), most) {
                    Some(counted) => Some(counted),
                    None => {
                        self.width = self.active();
                        return;
                    }
                }
            }
        };
        let (id, events) = (self.workers, self.events.clone());
        let asked_to = part.end;
        self.workers += 1;
        let job = Job {
            request: match response {
                Some(response) => Begun::Answered(response),
                None => Begun::NotYet(Box::new(self.whole.request(&part))),
            },
            url: self.whole.route.current().clone(),
            part,
            length_bytes: self.whole.length_bytes,
            limits: self.whole.client.limits,
        };
        let task = tokio::spawn(async move {
            let end = job.run(id, &events).await;
            // Nobody listens any more if all is there, or lost.
            drop(events.send(Event::End(id, end)).await);
        });
        self.parts[index].worker = Some(Worker {
            id,
            asked_to,
            brings: false,
            task: task.abort_handle(),
            _counted: counted,
        });
    }

    /// Starts as many workers as there are to be: at parts that nobody brings, else at the second half of the longest.
    fn fill_up(&mut self) {
        while self.active() < self.width {
            let idle = self.parts.iter().position(|part| part.worker.is_none());
            let index = match idle {
                Some(index) => index,
                None => {
                    let longest = (0..self.parts.len()).max_by_key(|&index| self.left(index));
                    let Some(longest) =
                        longest.filter(|&index| self.left(index) >= 2 * MIN_PART_BYTES)
                    else {
                        return;
                    };
                    let Range { start, end } = self.parts[longest].left;
                    let middle = start + (end - start) / 2;
                    self.parts[longest].left.end = middle;
                    self.parts.push(Part {
                        left: middle..end,
                        worker: None,
                    });
                    self.parts.len() - 1
                }
            };
            let before = self.active();
            self.start(index, self.parts[index].left.clone(), None);
            if self.active() == before {
                return;
            }
        }
    }

    fn left(&self, index: usize) -> u64 {
        let left = &self.parts[index].left;
        left.end - left.start
    }

    fn of_worker(&self, id: u64) -> Option<usize> {
        let is_of = |part: &Part| part.worker.as_ref().is_some_and(|worker| worker.id == id);
        self.parts.iter().position(is_of)
    }

    /// Passes on what a worker brought, as far as it still is its part.
    fn take(&mut self, id: u64, mut bytes: Bytes, sink: &mut dyn BodySink) -> Result<(), NetError> {
        let Some(index) = self.of_worker(id) else {
            return Ok(());
        };
        let left = self.left(index);
        bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let count = bytes.len() as u64;
        let part = &mut self.parts[index];
        let at = part.left.start;
        part.left.start += count;
        if let Some(worker) = &mut part.worker {
            worker.brings = true;
        }
        self.gauge.got(count);
        self.fruitless = 0;
        if count == left {
            // If somebody else brings what follows, the worker must not go on.
            self.parts.swap_remove(index);
        }
        sink.write_at(at, bytes).map_err(NetError::Sink)
    }

    /// A worker is done, or cannot go on. What it did not bring is brought by another one, as long as there are others.
    fn end(&mut self, id: u64, end: Result<(), NetError>) -> Result<(), NetError> {
        let Some(index) = self.of_worker(id) else {
            return Ok(());
        };
        self.parts[index].worker = None;
        let error = end.err().unwrap_or_else(|| NetError::Short {
            got_bytes: self.parts[index].left.start,
            wanted_bytes: Some(self.whole.length_bytes),
            reason: "connection closed".into(),
        });
        self.fruitless += 1;
        let others = self.active();
        if others == 0 {
            return Err(error);
        }
        self.give_back(index);
        // Refused, or lied to: those that work are enough.
        if error.retry().is_none() || self.fruitless >= MAX_FRUITLESS {
            self.width = others;
            self.gauge.settle();
        }
        Ok(())
    }

    /// Gives a part that nobody has brought anything of back to the worker that it was taken from, which may be the
    /// only one that can bring it.
    fn give_back(&mut self, index: usize) {
        let Range { start, end } = self.parts[index].left;
        let goes_on = |part: &Part| {
            let worker = part.worker.as_ref();
            part.left.end == start && worker.is_some_and(|worker| worker.asked_to >= end)
        };
        if let Some(before) = self.parts.iter().position(goes_on) {
            self.parts[before].left.end = end;
            self.parts.swap_remove(index);
        }
    }

    /// Measures, and changes the number of workers.
    fn adapt(&mut self) {
        let left = self
            .parts
            .iter()
            .map(|part| part.left.end - part.left.start);
        let mut workers = self.parts.iter().filter_map(|part| part.worker.as_ref());
        let all_bring = workers.all(|worker| worker.brings);
        match self.gauge.verdict(self.width, left.sum(), all_bring) {
            Some(width) if width < self.width => {
                self.width = width;
                let mut active: Vec<_> = (0..self.parts.len())
                    .filter(|&index| self.parts[index].worker.is_some())
                    .collect();
                // The first parts are those that can be hashed first.
                active.sort_by_key(|&index| self.parts[index].left.start);
                for &index in active.iter().skip(width as usize) {
                    self.parts[index].worker = None;
                }
            }
            Some(width) => self.width = width,
            None => {}
        }
    }
}

/// Measures whether more connections pay.
#[derive(Debug)]
struct Gauge {
    limits: Limits,
    /// The rate of fewer connections, and how many they were; `None` once it is decided.
    before: Option<(f64, u32)>,
    since: Instant,
    bytes: u64,
    /// Connections that have just begun say nothing.
    warming_up: bool,
}

impl Gauge {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            before: None,
            since: Instant::now(),
            bytes: 0,
            warming_up: false,
        }
    }

    /// One connection was slow; returns how many are tried.
    fn began_slow(&mut self, bytes_per_second: f64) -> u32 {
        self.begin(bytes_per_second, 1);
        self.most().min(2)
    }

    fn most(&self) -> u32 {
        self.limits.widening.connections
    }

    fn begin(&mut self, bytes_per_second: f64, connections: u32) {
        self.before = Some((bytes_per_second, connections));
        self.since = Instant::now();
        self.bytes = 0;
        self.warming_up = true;
    }

    fn got(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Leaves the number as it is.
    fn settle(&mut self) {
        self.before = None;
    }

    /// Returns how many connections there are to be from now on, when that is known.
    fn verdict(&mut self, connections: u32, left_bytes: u64, all_bring: bool) -> Option<u32> {
        let (before, fewer) = self.before?;
        let took = self.since.elapsed();
        let measure_for = self.limits.widening.measure_for;
        if self.warming_up {
            // Not for ever: one that hangs must not keep the others from being measured.
            if (all_bring && took >= measure_for / 4) || took >= measure_for * 4 {
                self.since = Instant::now();
                self.bytes = 0;
                self.warming_up = false;
            }
            return None;
        }
        if took < measure_for {
            return None;
        }
        let now = self.bytes as f64 / took.as_secs_f64();
        if before == UNKNOWN && !self.limits.widening.is_slow(now, left_bytes) {
            self.begin(UNKNOWN, connections);
            return None;
        }
        if now <= before * PAYS_ABOVE {
            self.settle();
            return Some(fewer);
        }
        let more = connections.saturating_mul(2).min(self.most());
        if more == connections {
            self.settle();
            return None;
        }
        self.begin(now, connections);
        Some(more)
    }
}

/// What a worker does.
struct Job {
    request: Begun,
    url: SourceUrl,
    part: Range<u64>,
    length_bytes: u64,
    limits: Limits,
}

enum Begun {
    Answered(reqwest::Response),
    NotYet(Box<reqwest::RequestBuilder>),
}

impl Whole<'_> {
    /// Asks for a part, and for no byte behind it.
    fn request(&self, part: &Range<u64>) -> reqwest::RequestBuilder {
        // Streams of one HTTP/2 connection would share what that connection gets.
        let http = self.client.one_connection_each();
        let range = format!("bytes={}-{}", part.start, part.end - 1);
        let mut request = http
            .get(self.route.current().url().clone())
            .header(RANGE, range);
        if let Some(validator) = &self.validator {
            request = request.header(IF_RANGE, validator);
        }
        if let Some(credentials) = self.route.credentials() {
            request = request.basic_auth(&credentials.user, credentials.password.as_ref());
        }
        request
    }
}

impl Job {
    async fn run(self, id: u64, events: &mpsc::Sender<Event>) -> Result<(), NetError> {
        let limits = self.limits;
        let mut response = match self.request {
            Begun::Answered(response) => response,
            Begun::NotYet(request) => {
                let sending = tokio::time::timeout(limits.first_byte_timeout, request.send());
                let response = sending
                    .await
                    .map_err(|_| NetError::Timeout {
                        phase: Phase::FirstByte,
                        limit: limits.first_byte_timeout,
                    })?
                    .map_err(|error| NetError::from_request(&error, limits.connect_timeout))?;
                let code = response.status().as_u16();
                if code != 206 {
                    let retry_after = range::retry_after(response.headers());
                    return Err(NetError::Status { code, retry_after });
                }
                check_encoding(&response, &self.url)?;
                let length = response.content_length();
                let total = range::part_of(response.headers(), self.part.clone(), length)?;
                if total != self.length_bytes {
                    let reason =
                        format!("the whole has {total} bytes, and had {}", self.length_bytes);
                    return Err(NetError::Protocol { reason });
                }
                response
            }
        };
        let mut stall = StallWatch::new(limits.stall_bytes_per_second, limits.stall_window);
        let mut at = self.part.start;
        loop {
            let asked = Instant::now();
            let chunk = match tokio::time::timeout(POLL_INTERVAL, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => {
                    return Err(NetError::from_body(&error, at, Some(self.length_bytes)));
                }
                Err(_nothing_yet) => Bytes::new(),
            };
            let bytes = chunk.len() as u64;
            if stall.stalled_after(asked.elapsed(), bytes) {
                return Err(NetError::Stall {
                    got_bytes: at,
                    bytes_per_second: limits.stall_bytes_per_second,
                    window: limits.stall_window,
                });
            }
            at += bytes;
            if bytes > 0 && events.send(Event::Bytes(id, chunk)).await.is_err() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_does_not_come_again() {
        let left = |got, there: &[Range<u64>]| {
            let parts = missing(got, there, 100);
            parts.into_iter().map(|part| part.left).collect::<Vec<_>>()
        };
        assert_eq!(left(10, &[]).first(), Some(&(10..100)));
        assert_eq!(left(10, &[20..30, 50..100]), [10..20, 30..50]);
        assert_eq!(left(100, &[]), [0..0; 0]);
    }
}
