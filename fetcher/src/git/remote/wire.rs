//! git's protocol over a bare stream: `git://`, and the pipes of a program such as ssh.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;

use super::line::Line;
use crate::net::{Limits, NetError, Phase, StallWatch, UNHURRIED_BYTES};
use crate::staging::StagedFile;

/// How often a wait looks whether it should end.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The last words of a program that are repeated, in bytes.
const MAX_LAST_WORDS: u64 = 2000;

/// One direction of a connection; waits end when told to, or when nothing comes for too long.
#[derive(Debug)]
pub(super) struct Wire<'a, S> {
    stream: S,
    line: &'a Line<'a>,
    pace: Rc<RefCell<Pace>>,
}

/// How fast an answer comes; another begins when something is asked.
#[derive(Debug)]
struct Pace {
    stall: StallWatch,
    got_bytes: u64,
}

impl Pace {
    fn new(limits: &Limits) -> Self {
        Self {
            stall: StallWatch::new(limits.stall_bytes_per_second, limits.stall_window),
            got_bytes: 0,
        }
    }

    /// Returns true if what comes has become too slow. A server may take its time before it really answers.
    fn is_stalled_after(&mut self, waited: Duration, bytes: u64) -> bool {
        self.got_bytes += bytes;
        self.got_bytes > UNHURRIED_BYTES && self.stall.stalled_after(waited, bytes)
    }
}

/// A stream whose waits can be bounded.
pub(super) trait Stream: Read + Write + AsFd + Sized {
    fn duplicate(&self) -> io::Result<Self>;
    fn bound_waits(&self, limit: Duration) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn duplicate(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn bound_waits(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }
}

impl Stream for UnixStream {
    fn duplicate(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn bound_waits(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }
}

impl<'a, S: Stream> Wire<'a, S> {
    /// Returns both directions.
    pub(super) fn pair(stream: S, line: &'a Line<'a>) -> io::Result<(Self, Self)> {
        stream.bound_waits(POLL_INTERVAL)?;
        let other = stream.duplicate()?;
        let pace = Rc::new(RefCell::new(Pace::new(&line.limits)));
        Ok((
            Self {
                stream,
                line,
                pace: Rc::clone(&pace),
            },
            Self {
                stream: other,
                line,
                pace,
            },
        ))
    }

    /// Repeats a step that may block, until it is done or time is up.
    fn wait(&mut self, mut step: impl FnMut(&mut S) -> io::Result<usize>) -> io::Result<usize> {
        let started = Instant::now();
        let limit = self.line.limits.first_byte_timeout;
        loop {
            if self.line.watch.interrupted() {
                return Err(self.line.failed(NetError::Interrupted));
            }
            match step(&mut self.stream) {
                Ok(done) => return Ok(done),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::TimedOut
                            | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(self.line.failed(NetError::of_socket(&error))),
            }
            if started.elapsed() > limit {
                let phase = Phase::FirstByte;
                return Err(self.line.failed(NetError::Timeout { phase, limit }));
            }
        }
    }
}

impl<S: Stream> Read for Wire<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (line, pace) = (self.line, Rc::clone(&self.pace));
        let mut looked = Instant::now();
        // What ends a wait that is too long is no answer of the stream.
        let mut is_stalled = false;
        let count = self.wait(|stream| {
            let read = stream.read(buffer);
            let bytes = *read.as_ref().unwrap_or(&0) as u64;
            is_stalled = pace.borrow_mut().is_stalled_after(looked.elapsed(), bytes);
            looked = Instant::now();
            if is_stalled { Ok(0) } else { read }
        })?;
        if is_stalled {
            return Err(line.failed(NetError::Stall {
                got_bytes: line.got_bytes(),
                bytes_per_second: line.limits.stall_bytes_per_second,
                window: line.limits.stall_window,
            }));
        }
        line.got(count)?;
        Ok(count)
    }
}

impl<S: Stream> Write for Wire<'_, S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        *self.pace.borrow_mut() = Pace::new(&self.line.limits);
        self.wait(|stream| write_or_hear(stream, buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes, as far as anybody listens. A server that refuses says so and hangs up in the middle of what is asked: if it
/// said something, that is what is to be heard of it.
fn write_or_hear(stream: &mut impl Stream, buffer: &[u8]) -> io::Result<usize> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    stream.write(buffer).or_else(|error| {
        let mut byte = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let said = rustix::net::recv(stream.as_fd(), &mut byte, flags);
        match (error.kind(), said) {
            (BrokenPipe | ConnectionReset, Ok((1.., _))) => Ok(buffer.len()),
            _ => Err(error),
        }
    })
}

/// A program on the other end; ended when dropped.
#[derive(Debug)]
pub(super) struct Program {
    child: Child,
    /// What it says to people. A file, since a pipe that nobody reads would block it.
    said: File,
}

impl Program {
    /// Starts it with a socket as its standard input and output.
    pub(super) fn start(mut command: Command) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let input = OwnedFd::from(theirs.try_clone()?);
        let said = StagedFile::temporary()?.file;
        let child = command
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::from(said.try_clone()?))
            .spawn()?;
        Ok((Self { child, said }, ours))
    }

    /// Ends it, and returns the beginning of what it said to people.
    pub(super) fn last_words(mut self) -> String {
        let mut words = Vec::new();
        // It may have ended by itself.
        let _gone = self.child.kill();
        if self.said.rewind().is_ok() {
            drop((&self.said).take(MAX_LAST_WORDS).read_to_end(&mut words));
        }
        let words = String::from_utf8_lossy(&words);
        let lines = words
            .lines()
            .map(|line| line.trim().escape_debug().to_string());
        lines
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("; ")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_the_other_side_hung_up_is_heard() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"ERR not our ref").unwrap();
        drop(theirs);
        for words in ["want something", "done"] {
            let written = write_or_hear(&mut ours, words.as_bytes());
            assert_eq!(written.unwrap(), words.len());
        }
        let mut said = String::new();
        ours.read_to_string(&mut said).unwrap();
        assert_eq!(said, "ERR not our ref");
        let error = write_or_hear(&mut ours, b"again").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
