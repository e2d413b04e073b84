//! The archive's file, read at offsets: the position is nobody else's, and a jump within the buffer costs nothing.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;

use store_index::watch::Watch;

use super::{Stop, UnpackError};

/// How much is read at a time, in bytes.
const BUFFER_LEN: usize = 64 * 1024;

pub(super) struct Input<'a> {
    file: &'a File,
    stop: Stop,
    watch: Watch<'a>,
    buffer: Vec<u8>,
    /// Where the buffer's bytes stand in the file.
    start: u64,
    /// Where the reader is, shared with who measures.
    position: Rc<Cell<u64>>,
    /// The farthest place that was read, for progress.
    reached: u64,
}

impl<'a> Input<'a> {
    pub(super) fn new(file: &'a File, stop: Stop, watch: Watch<'a>) -> Self {
        Self {
            file,
            stop,
            watch,
            buffer: Vec::new(),
            start: 0,
            position: Rc::default(),
            reached: 0,
        }
    }

    /// How many bytes of the archive have been taken, as long as nobody seeks.
    pub(super) fn position(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.position)
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let position = self.position.get();
        let end = self.start + self.buffer.len() as u64;
        if !(self.start..end).contains(&position) {
            if self.watch.interrupted() {
                return Err(self.stop.with(UnpackError::Interrupted));
            }
            self.buffer.resize(BUFFER_LEN, 0);
            let count = loop {
                match self.file.read_at(&mut self.buffer, position) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    answer => break answer,
                }
            };
            // Whatever happened, the buffer is no longer what it was.
            self.buffer.truncate(*count.as_ref().unwrap_or(&0));
            self.start = position;
            let end = position + count? as u64;
            if end > self.reached {
                self.watch
                    .progress
                    .advance(end - self.reached.max(position));
                self.reached = end;
            }
        }
        Ok(&self.buffer[(position - self.start) as usize..])
    }

    fn consume(&mut self, count: usize) {
        self.position.set(self.position.get() + count as u64);
    }
}

impl Read for Input<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(out.len());
        out[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl Seek for Input<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(offset) => self.position.get().checked_add_signed(offset),
            SeekFrom::End(offset) => self.file.metadata()?.len().checked_add_signed(offset),
        };
        // Beyond what the system's offsets can say there is nothing, as behind any end.
        let position = position.filter(|&position| i64::try_from(position).is_ok());
        let position = position.ok_or(io::ErrorKind::InvalidInput)?;
        self.position.set(position);
        Ok(position)
    }
}
