//! One body, from the socket to the sink: read on the calling thread, written and hashed on another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::{Receiver, SendTimeoutError, Sender};
use reqwest::header::CONTENT_ENCODING;

use super::engine::Engine;
use super::error::NetError;
use super::wait::{POLL_INTERVAL, StallWatch};
use super::{BodySink, BodyStart, Limits, range};
use crate::source_url::SourceUrl;

/// Chunks that may wait for the sink. A chunk of plain HTTP is at most 408 KiB (the largest read of hyper), so this is
/// 6.5 MiB at most; more did not make a transfer faster.
const QUEUE_CHUNKS: usize = 16;

/// Passes the body of a 200 answer, or of a 206 answer that begins at `from_bytes`, to `sink`, and returns the length
/// of the whole in bytes.
pub(super) fn receive(
    runtime: &Engine,
    response: reqwest::Response,
    (url, from_bytes): (&SourceUrl, u64),
    sink: &mut (dyn BodySink + Send),
    limits: &Limits,
    interrupt: &AtomicBool,
) -> Result<u64, NetError> {
    check_encoding(&response, url)?;
    let part_bytes = response.content_length();
    let told_bytes = match from_bytes {
        0 => None,
        from => range::whole_length(response.headers(), from, part_bytes)?,
    };
    let length_bytes = told_bytes.or(part_bytes.map(|part| part.saturating_add(from_bytes)));
    if length_bytes.is_some_and(|length| length > limits.max_bytes) {
        return Err(NetError::TooLong {
            limit_bytes: limits.max_bytes,
            announced_bytes: length_bytes,
        });
    }
    let start = BodyStart {
        from_bytes,
        length_bytes,
        url: url.clone(),
        validator: range::validator(response.headers()),
    };
    sink.start(&start).map_err(NetError::Sink)?;

    let (sender, receiver) = crossbeam_channel::bounded(QUEUE_CHUNKS);
    thread::scope(|scope| {
        let writer = thread::Builder::new()
            .name("body".into())
            .spawn_scoped(scope, move || write_chunks(receiver, sink, interrupt))
            .map_err(|error| NetError::Setup {
                reason: format!("no thread: {error}"),
            })?;
        let read = runtime.block_on(read_chunks(
            response,
            (from_bytes, length_bytes),
            sender,
            limits,
            interrupt,
        ));
        let written = writer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A writer that stops early closes the queue and so ends the reading; its reason is the one that counts.
        written.and(read)
    })
}

/// Refuses a body that was compressed on the way: its hash would be that of other bytes.
///
/// Many servers say `gzip` of a `.tar.gz` as it lies on their disk. That label describes the file, nothing was done to
/// it on the way, and its hash will tell.
fn check_encoding(response: &reqwest::Response, url: &SourceUrl) -> Result<(), NetError> {
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

async fn read_chunks(
    mut response: reqwest::Response,
    (from_bytes, length_bytes): (u64, Option<u64>),
    queue: Sender<Bytes>,
    limits: &Limits,
    interrupt: &AtomicBool,
) -> Result<u64, NetError> {
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
            hand_over(&queue, chunk, interrupt)?;
        }
    }
    match length_bytes {
        Some(wanted) if wanted != got_bytes => Err(NetError::Short {
            got_bytes,
            wanted_bytes: length_bytes,
            reason: "connection closed".into(),
        }),
        _ => Ok(got_bytes),
    }
}

/// Queues a chunk, waiting for the sink if it lags. This blocks the runtime, which has nothing else to do: the kernel
/// goes on filling the socket's buffer.
fn hand_over(queue: &Sender<Bytes>, chunk: Bytes, interrupt: &AtomicBool) -> Result<(), NetError> {
    let mut waiting = chunk;
    loop {
        match queue.send_timeout(waiting, POLL_INTERVAL) {
            Ok(()) => return Ok(()),
            Err(SendTimeoutError::Timeout(chunk)) => waiting = chunk,
            Err(SendTimeoutError::Disconnected(_)) => {
                return Err(NetError::Other {
                    reason: "the sink ended early".into(),
                });
            }
        }
        if interrupt.load(Ordering::Relaxed) {
            return Err(NetError::Interrupted);
        }
    }
}

/// Drains the queue into the sink, until the reader hangs up, the sink fails or the user wants to stop. The queue closes
/// with it, by which the reader learns of a failure.
fn write_chunks(
    queue: Receiver<Bytes>,
    sink: &mut (dyn BodySink + Send),
    interrupt: &AtomicBool,
) -> Result<(), NetError> {
    for chunk in queue {
        if interrupt.load(Ordering::Relaxed) {
            return Err(NetError::Interrupted);
        }
        sink.write(&chunk).map_err(NetError::Sink)?;
    }
    Ok(())
}
