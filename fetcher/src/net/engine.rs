//! What drives the sockets: the thread that waits for them, or one for many threads that wait.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use super::wait::{GaveUp, POLL_INTERVAL, interruptible};

/// Runs futures to their end.
pub(super) struct Engine {
    kind: Kind,
}

enum Kind {
    /// Whoever waits drives. Taken by `drop` only.
    Own(Option<Runtime>),
    /// A thread drives for all. One that waits may be held up by its disk, and must not hold up the others.
    Shared {
        handle: Handle,
        /// Its drop ends the thread.
        _stop: oneshot::Sender<()>,
    },
}

impl Engine {
    /// Makes one for a thread.
    pub(super) fn own() -> io::Result<Self> {
        Ok(Self {
            kind: Kind::Own(Some(runtime()?)),
        })
    }

    /// Makes one for many threads.
    pub(super) fn shared() -> io::Result<Self> {
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        thread::Builder::new()
            .name("network".into())
            .spawn(move || {
                drop(runtime.block_on(stopped));
                runtime.shutdown_background();
            })?;
        Ok(Self {
            kind: Kind::Shared {
                handle,
                _stop: stop,
            },
        })
    }

    /// Waits for a future.
    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        match &self.kind {
            Kind::Own(runtime) => runtime
                .as_ref()
                .expect("the runtime is there until the engine is dropped")
                .block_on(future),
            Kind::Shared { handle, .. } => handle.block_on(future),
        }
    }

    /// Returns true if another thread drives: each step that is waited for here costs two changes of threads.
    pub(super) const fn is_shared(&self) -> bool {
        matches!(self.kind, Kind::Shared { .. })
    }

    /// Runs a future to its end on the thread that drives, so that whoever waits for it is woken once; or until
    /// `interrupt` is set.
    pub(super) fn run<F>(&self, future: F, interrupt: &AtomicBool) -> Result<F::Output, GaveUp>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let Kind::Shared { handle, .. } = &self.kind else {
            return self.block_on(interruptible(pin!(future), interrupt));
        };
        let (sender, receiver) = mpsc::sync_channel(1);
        let task = handle.spawn(async move { drop(sender.send(future.await)) });
        while !interrupt.load(Ordering::Relaxed) {
            match receiver.recv_timeout(POLL_INTERVAL) {
                Ok(output) => return Ok(output),
                Err(RecvTimeoutError::Timeout) => {}
                // The thread that drives is gone: that is when the program ends.
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        task.abort();
        Err(GaveUp::Interrupted)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A name lookup cannot be cancelled; a plain drop of the runtime would wait for it.
        if let Kind::Own(runtime) = &mut self.kind
            && let Some(runtime) = runtime.take()
        {
            runtime.shutdown_background();
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
}
