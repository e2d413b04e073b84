//! One body over several connections, each of which brings a part of it.
//!
//! Servers and paths that give each connection little give several of them more: the number is doubled as long as
//! that makes the whole faster, and taken back if it does not. They go to the server that began and to others that are
//! said to have the same content, wherever there are the fewest. Parts of one server are taken from the same version of
//! its file (`If-Range`), and the length of the whole must agree everywhere; that they fit is proved by the hash of the
//! whole alone. Whoever lies, stalls or refuses costs its connection.

mod gauge;
mod job;
mod places;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use self::gauge::{Gauge, UNKNOWN, Verdict};
pub(crate) use self::job::LeftAlone;
use self::job::{Begun, Event, Job, Question};
use self::places::{OWN, Place, Speed, is_one_server};
use super::error::NetError;
use super::hosts::{self, Counted};
use super::redirect::Route;
use super::wait::{POLL_INTERVAL, StallWatch};
use super::{BodySink, Client};
use crate::source_url::SourceUrl;

/// Parts are not made smaller, in bytes: at the end of one a connection waits for a round trip or two, and brings
/// nothing. One that brought less before it broke off was not worth it.
const MIN_PART_BYTES: u64 = 128 * 1024;

/// So often more connections are tried that are not worth it: once elsewhere and once where it began tells whether the
/// narrow place is here.
const MAX_VAIN: u32 = 2;

/// A part that needs longer is brought by a faster connection in the end.
const TAKE_OVER_ABOVE: Duration = Duration::from_secs(2);

/// Which must be so many times as fast.
const TAKE_OVER_FASTER: f64 = 2.0;

/// How often that is done for one body; each time the slowest is gone.
const MAX_TAKE_OVERS: u32 = 16;

/// Chunks that wait for the sink.
const QUEUE_CHUNKS: usize = 8;

/// Where else parts of a body may come from.
#[derive(Clone, Default)]
pub struct Others {
    /// In the order in which they are asked. All are said to have the same content.
    pub(crate) urls: Vec<SourceUrl>,
    /// Which hosts want to be left alone.
    pub(crate) left_alone: Option<LeftAlone>,
}

impl std::fmt::Debug for Others {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Others")
            .field("urls", &self.urls)
            .finish_non_exhaustive()
    }
}

impl Others {
    fn is_left_alone(&self, url: &SourceUrl) -> bool {
        let pause = self.left_alone.as_ref().and_then(|pause| pause(url));
        pause.is_some()
    }
}

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
    place: usize,
    /// How far it would go by itself.
    asked_to: u64,
    /// It has brought something.
    brings: bool,
    speed: Speed,
    task: AbortHandle,
    _counted: Option<Counted>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Receives what is missing behind `got_bytes`, but for what is there. `response` brings the first part, at
/// `bytes_per_second` if that was measured.
pub(super) async fn receive(
    whole: &Whole<'_>,
    others: Others,
    response: reqwest::Response,
    (got_bytes, there): (u64, &[Range<u64>]),
    bytes_per_second: Option<f64>,
    sink: &mut dyn BodySink,
) -> Result<(), NetError> {
    let (events, mut incoming) = mpsc::channel(QUEUE_CHUNKS);
    let places = places(whole, &others);
    let mut wide = Wide {
        whole,
        parts: missing(got_bytes, there, whole.length_bytes),
        events,
        workers: 0,
        width: 1,
        gauge: Gauge::new(whole.client.limits),
        before: (0..places.len())
            .map(|place| u32::from(place == OWN))
            .collect(),
        places,
        left_alone: others.left_alone,
        vain: 0,
        take_overs: 0,
        own_error: None,
        sink,
    };
    match bytes_per_second {
        Some(rate) => wide.width = wide.gauge.began_slow(rate),
        None => wide.gauge.begin(UNKNOWN, 1),
    }
    if !wide.parts.is_empty() {
        wide.begin(0, OWN, Begun::Answered(response), None);
    }
    let limits = whole.client.limits;
    // New connections do not excuse that nothing comes over any of them.
    let mut stall = StallWatch::new(limits.stall_bytes_per_second, limits.stall_window);
    let mut missing_bytes = wide.missing_bytes();
    while !wide.parts.is_empty() {
        wide.fill_up();
        let asked = Instant::now();
        let event = tokio::time::timeout(POLL_INTERVAL, incoming.recv()).await;
        let waited = asked.elapsed();
        if whole.interrupt.load(Ordering::Relaxed) {
            return Err(NetError::Interrupted);
        }
        match event {
            Ok(Some(Event::Answered(id, route, validator))) => wide.answered(id, *route, validator),
            Ok(Some(Event::Bytes(id, bytes))) => wide.take(id, bytes)?,
            Ok(Some(Event::End(id, url, end))) => wide.end(id, &url, end)?,
            // The sender is ours: the queue does not close.
            Ok(None) | Err(_) => {}
        }
        let came = missing_bytes - wide.missing_bytes();
        missing_bytes -= came;
        if stall.stalled_after(waited, came) && missing_bytes > 0 {
            return Err(NetError::Stall {
                got_bytes: whole.length_bytes - missing_bytes,
                bytes_per_second: limits.stall_bytes_per_second,
                window: limits.stall_window,
            });
        }
        wide.adapt(missing_bytes);
    }
    Ok(())
}

/// Returns where parts may come from.
fn places(whole: &Whole<'_>, others: &Others) -> Vec<Place> {
    let connections = whole.client.limits.widening.connections;
    // One is there already, whatever its host wants.
    let most = match others.is_left_alone(whole.route.current()) {
        true => 1,
        false => connections,
    };
    let mut own = Place::new(whole.route.clone(), whole.validator.clone(), most);
    own.brings = true;
    let mut places = vec![own];
    for url in &others.urls {
        if others.is_left_alone(url) {
            continue;
        }
        if let Ok(route) = whole.client.route(url) {
            places.push(Place::new(route, None, connections));
        }
    }
    places
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
    places: Vec<Place>,
    left_alone: Option<LeftAlone>,
    events: mpsc::Sender<Event>,
    /// How many there have been: the next one's number.
    workers: u64,
    /// How many there are to be at a time.
    width: u32,
    gauge: Gauge,
    /// How many each place had when the last ones were added.
    before: Vec<u32>,
    /// How often more were not worth it.
    vain: u32,
    take_overs: u32,
    /// Why the server that began did not go on, if it did not.
    own_error: Option<NetError>,
    sink: &'w mut dyn BodySink,
}

impl Wide<'_, '_> {
    fn working(&self) -> impl Iterator<Item = &Worker> {
        self.parts.iter().filter_map(|part| part.worker.as_ref())
    }

    fn active(&self) -> u32 {
        u32::try_from(self.working().count()).unwrap_or(u32::MAX)
    }

    fn active_at(&self, place: usize) -> u32 {
        let there = self.working().filter(|worker| worker.place == place);
        u32::try_from(there.count()).unwrap_or(u32::MAX)
    }

    fn missing_bytes(&self) -> u64 {
        (0..self.parts.len()).map(|index| self.left(index)).sum()
    }

    /// Returns where the next connection goes: the first of the places with the fewest, if there is one that is not
    /// paused.
    fn next_place(&self) -> Option<usize> {
        let with_room = (0..self.places.len())
            .map(|place| (self.places[place].is_paused(), self.active_at(place), place))
            .filter(|&(_, active, place)| active < self.places[place].most);
        // If nobody is left, it is for the one that began to say why.
        let last = (self.active() == 0).then_some(OWN);
        with_room.min().map(|(.., place)| place).or(last)
    }

    /// Returns true if the next connection waits until a pause is over.
    fn is_waiting(&self) -> bool {
        let next = self.next_place();
        self.active() < self.width && next.is_some_and(|place| self.places[place].is_paused())
    }

    /// Lets somebody bring a part, unless all places have as many connections as they may have.
    fn start(&mut self, index: usize) -> bool {
        while let Some(place) = self.next_place() {
            if let Some(counted) = self.count(place) {
                let question = self.question(place);
                self.begin(index, place, Begun::NotYet(question), counted);
                return true;
            }
        }
        self.width = self.active();
        false
    }

    /// Counts one more connection to a place's host. That of the body that began is counted as long as it comes.
    fn count(&mut self, place: usize) -> Option<Option<Counted>> {
        if place == OWN && self.active_at(OWN) == 0 {
            return Some(None);
        }
        let most = self.whole.client.limits.widening.connections;
        let counted = hosts::one_more(self.places[place].route.current(), most);
        if counted.is_none() {
            self.places[place].most = self.active_at(place);
        }
        counted.map(Some)
    }

    fn question(&self, place: usize) -> Question {
        Question {
            // Streams of one HTTP/2 connection would share what that connection gets.
            http: self.whole.client.one_connection_each().clone(),
            validator: self.places[place].validator.clone(),
            left_alone: self.left_alone.clone(),
        }
    }

    fn begin(&mut self, index: usize, place: usize, begun: Begun, counted: Option<Counted>) {
        let (id, part) = (self.workers, self.parts[index].left.clone());
        self.workers += 1;
        let asked_to = part.end;
        let job = Job {
            id,
            begun: Some(begun),
            route: self.places[place].route.clone(),
            may_move: place != OWN,
            part,
            length_bytes: self.whole.length_bytes,
            limits: self.whole.client.limits,
        };
        let task = tokio::spawn(job.run(self.events.clone()));
        self.parts[index].worker = Some(Worker {
            id,
            place,
            asked_to,
            brings: false,
            speed: Speed::new(),
            task: task.abort_handle(),
            _counted: counted,
        });
    }

    /// Starts as many workers as there are to be: at parts that nobody brings, else at the second half of the longest.
    fn fill_up(&mut self) {
        while self.active() < self.width && !self.is_waiting() {
            let idle = self.parts.iter().position(|part| part.worker.is_none());
            let Some(index) = idle.or_else(|| self.split()) else {
                self.take_over();
                return;
            };
            if !self.start(index) {
                self.give_back(index);
                return;
            }
        }
    }

    /// Makes two parts of the longest; returns the second.
    fn split(&mut self) -> Option<usize> {
        if self.next_place().is_none() {
            self.width = self.active();
            return None;
        }
        let longest = (0..self.parts.len()).max_by_key(|&index| self.left(index))?;
        if self.left(longest) < 2 * MIN_PART_BYTES {
            return None;
        }
        let Range { start, end } = self.parts[longest].left;
        let middle = start + (end - start) / 2;
        self.parts[longest].left.end = middle;
        self.parts.push(Part {
            left: middle..end,
            worker: None,
        });
        Some(self.parts.len() - 1)
    }

    /// Nothing is left that is worth being split: what would take longest is brought by somebody faster.
    fn take_over(&mut self) {
        let needs = |index: usize| {
            let rate = self.parts[index].worker.as_ref()?.speed.now()?;
            Some((self.left(index) as f64 / rate, rate, index))
        };
        let slowest = (0..self.parts.len())
            .filter_map(needs)
            .max_by(|one, other| one.0.total_cmp(&other.0));
        let Some((seconds, rate, index)) = slowest else {
            return;
        };
        if seconds <= TAKE_OVER_ABOVE.as_secs_f64() || self.take_overs >= MAX_TAKE_OVERS {
            return;
        }
        let Some(slow) = self.parts[index].worker.take() else {
            return;
        };
        let best = (0..self.places.len())
            .filter(|&place| self.active_at(place) < self.places[place].most)
            .filter(|&place| !self.places[place].is_paused())
            .max_by(|&one, &other| {
                let rate = |place: usize| self.places[place].bytes_per_second;
                rate(one).total_cmp(&rate(other))
            })
            .filter(|&place| self.places[place].bytes_per_second > rate * TAKE_OVER_FASTER);
        let counted = best.and_then(|place| Some((place, self.count(place)?)));
        match counted {
            Some((place, counted)) => {
                drop(slow);
                self.take_overs += 1;
                let question = self.question(place);
                self.begin(index, place, Begun::NotYet(question), counted);
            }
            None => self.parts[index].worker = Some(slow),
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

    /// From now on a place is asked where it answered. The one that began stays where it is.
    fn answered(&mut self, id: u64, route: Route, validator: Option<String>) {
        let index = self.of_worker(id);
        let Some(worker) = index.and_then(|index| self.parts[index].worker.as_ref()) else {
            return;
        };
        let place = &mut self.places[worker.place];
        if place.route.current() != route.current() || !place.brings {
            (place.route, place.validator) = (route, validator);
        }
    }

    /// Passes on what a worker brought, as far as it still is its part.
    fn take(&mut self, id: u64, mut bytes: Bytes) -> Result<(), NetError> {
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
            let place = &mut self.places[worker.place];
            if !place.brings {
                self.sink.helped(place.route.current());
            }
            let rate = worker.speed.add(count);
            place.brought(rate, worker.speed.bytes() >= MIN_PART_BYTES);
        }
        self.gauge.got(count);
        if count == left {
            // If somebody else brings what follows, the worker must not go on.
            self.parts.swap_remove(index);
        }
        self.sink.write_at(at, bytes).map_err(NetError::Sink)
    }

    /// A worker is done, or cannot go on. What it did not bring is brought by another one, as long as there are others.
    fn end(&mut self, id: u64, url: &SourceUrl, end: Result<(), NetError>) -> Result<(), NetError> {
        let Some(index) = self.of_worker(id) else {
            return Ok(());
        };
        let Some(worker) = self.parts[index].worker.take() else {
            return Ok(());
        };
        let short = |got_bytes| NetError::Short {
            got_bytes,
            wanted_bytes: Some(self.whole.length_bytes),
            reason: "connection closed".into(),
        };
        let error = end
            .err()
            .unwrap_or_else(|| short(self.parts[index].left.start));
        let retry = error.retry();
        let overload = retry.filter(|retry| retry.is_overload);
        let has_no_parts = matches!(error, NetError::NotThePart { .. });
        let is_final = retry.is_none() || overload.is_some() || has_no_parts;
        let is_last = self.active() == 0;
        // The others have just broken off, and are replaced soon.
        let is_waiting = is_last && self.is_waiting();
        if worker.place == OWN && is_last && (is_final || !is_waiting) {
            return Err(error);
        }
        if let Some(retry) = overload {
            self.leave_alone(url);
            self.sink.refused(url, retry);
        }
        if is_last && !is_waiting {
            // What somebody else did is no fault of the one that began.
            let of_own = self.own_error.take();
            return Err(of_own.unwrap_or_else(|| short(self.parts[index].left.start)));
        }
        self.give_back(index);
        let at_place = self.active_at(worker.place);
        let was_fruitful = worker.speed.bytes() >= MIN_PART_BYTES;
        self.places[worker.place].broke_off(was_fruitful, is_final, at_place);
        // That it refused one more is no reason to give it up.
        if worker.place == OWN && retry.is_some() && !has_no_parts {
            self.own_error = Some(error);
        }
        if !worker.brings || self.next_place().is_none() {
            self.try_others();
        }
        Ok(())
    }

    /// No more connections to a server.
    fn leave_alone(&mut self, url: &SourceUrl) {
        for index in 0..self.places.len() {
            if is_one_server(self.places[index].route.current(), url) {
                self.places[index].most = self.active_at(index);
            }
        }
    }

    /// Measures others in place of those that do not help; if there are none, the rest is enough.
    fn try_others(&mut self) {
        if self.next_place().is_some() {
            self.gauge.again();
        } else {
            self.width = self.active();
            self.gauge.settle();
        }
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
    fn adapt(&mut self, left: u64) {
        if self.is_waiting() {
            // Fewer than there are to be say nothing.
            self.gauge.again();
            return;
        }
        let all_bring = self.working().all(|worker| worker.brings);
        match self.gauge.verdict(self.width, left, all_bring) {
            Verdict::Wait => {}
            Verdict::More(width) => {
                self.width = width;
                self.before = (0..self.places.len())
                    .map(|place| self.active_at(place).max(u32::from(place == OWN)))
                    .collect();
            }
            // If all are silent, it is for their time limits to say so.
            Verdict::Silent if self.working().any(|worker| worker.brings) => {
                self.drop_where(|worker, _| !worker.brings);
                self.try_others();
            }
            Verdict::Silent => {}
            // Those that bring it in place of the one that began are not too many.
            Verdict::Vain(_) if self.active_at(OWN) == 0 => {
                self.width = self.active();
                self.gauge.settle();
            }
            Verdict::Vain(fewer) => {
                self.vain += 1;
                let before = std::mem::take(&mut self.before);
                self.drop_where(|worker, earlier| earlier >= before[worker.place]);
                self.before = before;
                if self.vain < MAX_VAIN && self.next_place().is_some() {
                    self.gauge.again();
                } else {
                    self.width = fewer;
                    self.gauge.settle();
                }
            }
        }
    }

    /// Ends connections, by what they are and how many of their place bring earlier parts, which can be hashed first.
    /// Their places get no more than are left.
    fn drop_where(&mut self, is_dropped: impl Fn(&Worker, u32) -> bool) {
        let mut active: Vec<_> = (0..self.parts.len())
            .filter(|&index| self.parts[index].worker.is_some())
            .collect();
        active.sort_by_key(|&index| self.parts[index].left.start);
        let mut kept = vec![0; self.places.len()];
        let mut dropped = Vec::new();
        for &index in &active {
            let Some(worker) = &self.parts[index].worker else {
                continue;
            };
            let place = worker.place;
            if is_dropped(worker, kept[place]) {
                self.parts[index].worker = None;
                dropped.push(place);
            } else {
                kept[place] += 1;
            }
        }
        for place in dropped {
            self.places[place].most = kept[place];
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
