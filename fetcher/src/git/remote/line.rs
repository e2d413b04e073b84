//! What all connections to one repository have in common: limits, the interruption flag, and what went wrong.

use std::cell::{Cell, RefCell};
use std::io;

use store_index::watch::Watch;

use crate::net::{Limits, NetClass, NetError, Retry};

/// The most that a server may say before it sends a pack, in bytes: half a million references.
const MAX_TALK_BYTES: u64 = 64 << 20;

/// Counts what comes, and remembers the first trouble, whose kind gix's errors would hide.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) watch: Watch<'a>,
    pub(super) limits: Limits,
    /// Nobody is there to be asked for a password.
    pub(super) is_build: bool,
    got_bytes: Cell<u64>,
    most_bytes: Cell<u64>,
    /// How much of it were packs.
    pack_bytes: Cell<u64>,
    is_pack: Cell<bool>,
    trouble: RefCell<Option<NetError>>,
    is_well: Cell<bool>,
    is_damaged: Cell<bool>,
}

impl<'a> Line<'a> {
    pub(super) const fn new(limits: Limits, watch: Watch<'a>, is_build: bool) -> Self {
        Self {
            watch,
            limits,
            is_build,
            got_bytes: Cell::new(0),
            most_bytes: Cell::new(MAX_TALK_BYTES),
            pack_bytes: Cell::new(0),
            is_pack: Cell::new(false),
            trouble: RefCell::new(None),
            is_well: Cell::new(true),
            is_damaged: Cell::new(false),
        }
    }

    /// What comes from now on is a pack.
    pub(super) fn expect_pack(&self) {
        self.most_bytes.set(self.limits.max_bytes);
        self.is_pack.set(true);
        // The first of it came with the last of the talk.
        self.pack_bytes.set(self.pack_bytes.get() + 1);
    }

    /// What comes from now on is talk again.
    pub(super) fn expect_talk(&self) {
        self.is_pack.set(false);
        self.most_bytes
            .set(self.got_bytes.get().saturating_add(MAX_TALK_BYTES));
    }

    /// Counts what came.
    pub(super) fn got(&self, bytes: usize) -> io::Result<()> {
        let bytes = bytes as u64;
        self.watch.progress.advance(bytes);
        self.got_bytes.set(self.got_bytes.get() + bytes);
        if self.is_pack.get() {
            self.pack_bytes.set(self.pack_bytes.get() + bytes);
        }
        if self.got_bytes.get() > self.most_bytes.get() {
            return Err(self.failed(NetError::TooLong {
                limit_bytes: self.most_bytes.get(),
                announced_bytes: None,
            }));
        }
        Ok(())
    }

    /// Returns how much came in all.
    pub(super) fn got_bytes(&self) -> u64 {
        self.got_bytes.get()
    }

    /// Returns how much of that were packs, roughly; nothing if there was none.
    pub(super) fn pack_bytes(&self) -> u64 {
        self.pack_bytes.get()
    }

    /// Remembers trouble, and makes an error of it that ends what reads.
    pub(super) fn failed(&self, error: NetError) -> io::Error {
        let what = error.to_string();
        self.is_well.set(false);
        self.trouble.borrow_mut().get_or_insert(error);
        io::Error::other(what)
    }

    /// Returns true if nothing went wrong on the network so far.
    pub(super) fn is_well(&self) -> bool {
        self.is_well.get()
    }

    /// Remembers that something that was here cannot be read.
    pub(super) fn set_damaged(&self, is_damaged: bool) {
        self.is_damaged.set(is_damaged);
    }

    /// Returns true if something that was here cannot be read.
    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged.get()
    }

    /// Returns true while a pack is being received.
    pub(super) fn is_pack(&self) -> bool {
        self.is_pack.get()
    }

    /// Forgets trouble, so that something else can be asked for. Returns false if it is not over with that: who is
    /// overloaded wants to be left alone, and an interruption is the user's.
    pub(super) fn forgive(&self) -> bool {
        let mut trouble = self.trouble.borrow_mut();
        let is_lasting = trouble.as_ref().is_some_and(|trouble| {
            let wants_pause = |retry: Retry| retry.is_overload || retry.at_least.is_some();
            trouble.class() != NetClass::Trouble && trouble.class() != NetClass::Gone
                || trouble.retry().is_some_and(wants_pause)
        });
        if is_lasting || self.watch.interrupted() {
            return false;
        }
        *trouble = None;
        self.is_well.set(true);
        true
    }

    /// Returns the first trouble.
    pub(super) fn take_trouble(&self) -> Option<NetError> {
        self.trouble.borrow_mut().take()
    }
}
