//! How full a file system may become. Other programs on it break when it is full, and so do we: asked before a body
//! comes, it is an answer; found out at its end, it is a day's download lost.

use std::fs::File;
use std::io;

use store_index::watch::Unit;

/// What stays free, in bytes, or [`RESERVE_PER_CENT`] of a file system for which that is less.
const RESERVE_BYTES: u64 = 1 << 30;

/// See [`RESERVE_BYTES`].
const RESERVE_PER_CENT: u64 = 1;

/// Files below this size may come whatever is free: they do not fill a disk.
const SMALL_BYTES: u64 = 1024 * 1024;

/// Returns true if there was no room for what was written, or will be none.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// Refuses so many more bytes beside a file if they would leave less than the reserve: that of the configuration, or
/// the usual one.
pub(crate) fn leave_reserve(
    file: &File,
    more_bytes: u64,
    configured: Option<u64>,
) -> io::Result<()> {
    if more_bytes < SMALL_BYTES {
        return Ok(());
    }
    // A file system that does not tell is asked by writing to it.
    let Ok(space) = rustix::fs::fstatvfs(file) else {
        return Ok(());
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let whole = space.f_blocks.saturating_mul(space.f_frsize);
    let usual = RESERVE_BYTES.min(whole / 100 * RESERVE_PER_CENT);
    let reserve = configured.unwrap_or(usual);
    if more_bytes.saturating_add(reserve) <= free {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::StorageFull,
        format!(
            "not enough space: {} are to come, {} are free, and {} stay free",
            show(more_bytes),
            show(free),
            show(reserve)
        ),
    ))
}

fn show(bytes: u64) -> String {
    store_index::terminal::amount(bytes, None, Unit::Bytes)
}
