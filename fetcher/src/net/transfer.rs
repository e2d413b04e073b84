//! One body, from the socket to the sink, on the calling thread.
//!
//! It begins on one connection. Where that is slow, [`super::wide`] goes on with several.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{ACCEPT_RANGES, CONTENT_ENCODING};

use super::error::NetError;
use super::redirect::Route;
use super::wait::{POLL_INTERVAL, StallWatch};
use super::wide::{self, Whole};
use super::{BodySink, BodyStart, Client, Limits, hosts, range};
use crate::source_url::SourceUrl;

/// How a body ended, or where it is when others shall help.
enum Read {
    Whole(u64),
    Slow {
        response: reqwest::Response,
        got_bytes: u64,
        bytes_per_second: f64,
    },
}

/// Reads from the head of a 206 answer how long the whole is, if that is told. An error if it does not bring what is
/// missing between `from_bytes` and what is `there`.
pub(super) fn length_of_whole(
    response: &reqwest::Response,
    url: &SourceUrl,
    (from_bytes, there): (u64, &[Range<u64>]),
) -> Result<Option<u64>, NetError> {
    check_encoding(response, url)?;
    let part_bytes = response.content_length();
    let headers = response.headers();
    let [first, ..] = there else {
        let told = range::whole_length(headers, from_bytes, part_bytes)?;
        return Ok(told.or(part_bytes.map(|part| part.saturating_add(from_bytes))));
    };
    let total = range::part_of(headers, from_bytes..first.start, part_bytes)?;
    if there.iter().any(|part| part.end > total) {
        return Err(NetError::Protocol {
            reason: format!("the server has {total} bytes, and more are here"),
        });
    }
    Ok(Some(total))
}

/// Passes the body of a 200 answer, or of a 206 answer that begins at `from_bytes`, to `sink`, and returns the length
/// of the whole in bytes, which may have been announced. `there` are the parts behind that which need not come.
pub(super) fn receive(
    client: &Client,
    response: reqwest::Response,
    route: &Route,
    (from_bytes, there, length_bytes): (u64, &[Range<u64>], Option<u64>),
    sink: &mut dyn BodySink,
    interrupt: &AtomicBool,
) -> Result<u64, NetError> {
    let (url, limits) = (route.current(), &client.limits);
    check_encoding(&response, url)?;
    let headers = response.headers();
    if length_bytes.is_some_and(|length| length > limits.max_bytes) {
        return Err(NetError::TooLong {
            limit_bytes: limits.max_bytes,
            announced_bytes: length_bytes,
        });
    }
    let validator = range::validator(headers);
    let knows_ranges = response.status().as_u16() == 206
        || headers
            .get(ACCEPT_RANGES)
            .is_some_and(|units| units == "bytes");
    let start = BodyStart {
        from_bytes,
        length_bytes,
        url: url.clone(),
        validator: validator.clone(),
    };
    sink.start(&start).map_err(NetError::Sink)?;
    let whole = length_bytes
        .filter(|_| knows_ranges)
        .map(|length_bytes| Whole {
            client,
            route,
            validator,
            length_bytes,
            interrupt,
        });
    let _counted = hosts::count(url);

    client.runtime().block_on(async {
        let (response, got_bytes, rate) = match (&whole, there) {
            (Some(_), [_, ..]) => (response, from_bytes, None),
            _ => {
                let lengths = (from_bytes, length_bytes);
                let pace = whole.as_ref().filter(|_| limits.widening.connections > 1);
                let pace = pace.map(|_| Pace::new(limits));
                match read_chunks(response, lengths, pace, sink, limits, interrupt).await? {
                    Read::Whole(length) => return Ok(length),
                    Read::Slow {
                        response,
                        got_bytes,
                        bytes_per_second,
                    } => (response, got_bytes, Some(bytes_per_second)),
                }
            }
        };
        let Some(whole) = whole else {
            return Err(NetError::Other {
                reason: "a part came of a whole of unknown length".into(),
            });
        };
        let length = whole.length_bytes;
        let rate = match sink.widen(got_bytes).map_err(NetError::Sink)? {
            true => rate,
            // One place after the other is all that the sink can do.
            false => {
                let lengths = (got_bytes, Some(length));
                read_chunks(response, lengths, None, sink, limits, interrupt).await?;
                return Ok(length);
            }
        };
        wide::receive(&whole, response, got_bytes, there, rate, sink).await?;
        Ok(length)
    })
}

/// Refuses a body that was compressed on the way: its hash would be that of other bytes.
///
/// Many servers say `gzip` of a `.tar.gz` as it lies on their disk. That label describes the file, nothing was done to
/// it on the way, and its hash will tell.
pub(super) fn check_encoding(
    response: &reqwest::Response,
    url: &SourceUrl,
) -> Result<(), NetError> {
    for value in response.headers().get_all(CONTENT_ENCODING) {
        let encoding = String::from_utf8_lossy(value.as_bytes())
            .trim()
            .to_ascii_lowercase();
        let own_suffixes: &[&str] = match encoding.as_str() {
            "" | "identity" => continue,
            "gzip" | "x-gzip" => &[".gz", ".tgz"],
            "bzip2" | "x-bzip2" => &[".bz2", ".tbz2", ".tbz"],
            "xz" | "x-xz" => &[".xz", ".txz"],
            "zstd" => &[".zst"],
            "br" => &[".br"],
            "compress" | "x-compress" => &[".Z"],
            _ => &[],
        };
        if !own_suffixes
            .iter()
            .any(|suffix| url.url().path().ends_with(suffix))
        {
            return Err(NetError::Encoding { encoding });
        }
    }
    Ok(())
}

/// Notices a connection on which the rest would take long.
struct Pace {
    since: Instant,
    bytes: u64,
    limits: Limits,
}

impl Pace {
    fn new(limits: &Limits) -> Self {
        Self {
            since: Instant::now(),
            bytes: 0,
            limits: *limits,
        }
    }

    /// Adds what came; returns the rate in bytes a second once it is known to be slow for what is left.
    fn slow(&mut self, bytes: u64, left_bytes: u64) -> Option<f64> {
        self.bytes += bytes;
        let took = self.since.elapsed();
        let widening = self.limits.widening;
        if took < widening.measure_for {
            return None;
        }
        let rate = self.bytes as f64 / took.as_secs_f64();
        (self.since, self.bytes) = (Instant::now(), 0);
        widening.is_slow(rate, left_bytes).then_some(rate)
    }
}

async fn read_chunks(
    mut response: reqwest::Response,
    (from_bytes, length_bytes): (u64, Option<u64>),
    mut pace: Option<Pace>,
    sink: &mut dyn BodySink,
    limits: &Limits,
    interrupt: &AtomicBool,
) -> Result<Read, NetError> {
    let mut stall = StallWatch::new(limits.stall_bytes_per_second, limits.stall_window);
    let mut got_bytes = from_bytes;
    loop {
        let asked = Instant::now();
        let chunk = match tokio::time::timeout(POLL_INTERVAL, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => break,
            Ok(Err(error)) => return Err(NetError::from_body(&error, got_bytes, length_bytes)),
            Err(_nothing_yet) => Bytes::new(),
        };
        if interrupt.load(Ordering::Relaxed) {
            return Err(NetError::Interrupted);
        }
        let chunk_bytes = chunk.len() as u64;
        if stall.stalled_after(asked.elapsed(), chunk_bytes) {
            return Err(NetError::Stall {
                got_bytes,
                bytes_per_second: limits.stall_bytes_per_second,
                window: limits.stall_window,
            });
        }
        if chunk_bytes > limits.max_bytes.saturating_sub(got_bytes) {
            return Err(NetError::TooLong {
                limit_bytes: limits.max_bytes,
                announced_bytes: None,
            });
        }
        if chunk_bytes > 0 {
            got_bytes += chunk_bytes;
            // This blocks the runtime, which has nothing else to do: the kernel goes on filling the sockets' buffers.
            sink.write(chunk).map_err(NetError::Sink)?;
        }
        if let (Some(pace), Some(length)) = (&mut pace, length_bytes)
            && let Some(bytes_per_second) = pace.slow(chunk_bytes, length.saturating_sub(got_bytes))
        {
            return Ok(Read::Slow {
                response,
                got_bytes,
                bytes_per_second,
            });
        }
    }
    match length_bytes {
        Some(wanted) if wanted != got_bytes => Err(NetError::Short {
            got_bytes,
            wanted_bytes: length_bytes,
            reason: "connection closed".into(),
        }),
        _ => Ok(Read::Whole(got_bytes)),
    }
}

/// When several connections are tried for one body, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widening {
    /// The most connections to one host, of this process; 1 is never more than one for a body.
    pub connections: u32,
    /// Not for less than this, in bytes: connections are slow at their beginning.
    pub above_bytes: u64,
    /// A connection that brings the rest within this is fast enough.
    pub unless_done_in: Duration,
    /// How long a rate is measured.
    pub measure_for: Duration,
}

impl Widening {
    /// Returns true if more connections may pay for what is left, at a rate in bytes a second.
    pub(super) fn is_slow(&self, bytes_per_second: f64, left_bytes: u64) -> bool {
        left_bytes >= self.above_bytes
            && left_bytes as f64 > bytes_per_second * self.unless_done_in.as_secs_f64()
    }
}

impl Default for Widening {
    fn default() -> Self {
        Self {
            connections: super::CONNECTIONS,
            above_bytes: super::WIDEN_ABOVE_BYTES,
            unless_done_in: super::FAST_ENOUGH,
            measure_for: super::MEASURE_FOR,
        }
    }
}
