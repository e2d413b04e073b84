//! What `fetch cache` says and does: how much is kept, and what of it goes.

use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::Dir;
use serde::Serialize;
use store_index::address::ContentAddress;
use store_index::path_text::printable;
use store_index::terminal::amount;
use store_index::watch::{Unit, Watch};

use super::ledger::Delivery;
use super::{State, ledger, open_folder, spool};
use crate::copy::{self, CopyError};
use crate::publish;
use crate::verify::{FileCheck, Verdict};

/// How much is kept.
#[derive(Debug, Serialize)]
pub struct Usage {
    version: u32,
    folder: Option<String>,
    partial_downloads: usize,
    partial_bytes: u64,
    deliveries: usize,
    hosts: Vec<Host>,
    failing_urls: usize,
}

/// A host that failed lately.
#[derive(Debug, Serialize)]
struct Host {
    host: String,
    /// Faded by time.
    failures: f64,
    /// How long it is to be left alone, in seconds.
    pause: u64,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Collected {
    /// Partial downloads.
    pub partial_downloads: usize,
    /// Their length in bytes.
    pub partial_bytes: u64,
    /// Deliveries that lie no more where they were.
    pub deliveries: usize,
}

/// What hashing the deliveries again has shown.
#[derive(Debug, Default)]
pub struct Checked {
    /// How many are what they were.
    right: usize,
    /// Those that have the same size and time, and another content.
    wrong: Vec<PathBuf>,
    /// How many are forgotten, those that are gone among them.
    forgotten: usize,
}

impl State {
    /// Says how much is kept.
    pub fn usage(&self) -> Usage {
        let failures = self.failures();
        let parts = self
            .folder("spool")
            .map(|spool| spool::parts(&spool))
            .unwrap_or_default();
        let (hosts, failing_urls) = failures.summary();
        Usage {
            version: 1,
            folder: self.path.as_deref().map(printable),
            partial_downloads: parts.len(),
            partial_bytes: parts.iter().map(|(_, bytes)| bytes).sum(),
            deliveries: self.buckets().iter().map(ledger::count).sum(),
            hosts: hosts
                .into_iter()
                .map(|(host, failures, pause)| Host {
                    host,
                    failures: (failures * 10.0).round() / 10.0,
                    pause,
                })
                .collect(),
            failing_urls,
        }
    }

    /// Removes partial downloads that are old or too much (with `all`, every one that nobody works at), and forgets
    /// deliveries that lie no more where they were.
    pub fn collect(&self, all: bool) -> Collected {
        let mut collected = Collected::default();
        if let (Some(spool), Some(locks)) = (self.folder("spool"), self.folder("locks")) {
            let before = spool::parts(&spool);
            spool::trim(&spool, &locks, None, all);
            let after = spool::parts(&spool);
            let bytes = |parts: &[(String, u64)]| parts.iter().map(|(_, bytes)| bytes).sum::<u64>();
            collected.partial_downloads = before.len().saturating_sub(after.len());
            collected.partial_bytes = bytes(&before).saturating_sub(bytes(&after));
        }
        for mut bucket in self.buckets() {
            collected.deliveries += ledger::forget(&mut bucket, |_, _| true).unwrap_or_default();
        }
        collected
    }

    /// Forgets what failed.
    pub fn forget(&self) -> io::Result<()> {
        self.forget_failures()
    }

    /// Hashes what was delivered, as far as it still lies where it was, and forgets what is something else by now.
    pub fn check(&self, watch: Watch<'_>) -> Checked {
        let mut checked = Checked::default();
        for mut bucket in self.buckets() {
            let forgotten = ledger::forget(&mut bucket, |address, delivery| {
                // What was not looked at is not forgotten.
                if watch.interrupted() {
                    return true;
                }
                match hashes_to(address, delivery, watch) {
                    Ok(true) => {
                        checked.right += 1;
                        true
                    }
                    Ok(false) => {
                        checked.wrong.push(delivery.path.clone());
                        false
                    }
                    Err(CopyError::Interrupted) => true,
                    Err(_unreadable) => false,
                }
            });
            checked.forgotten += forgotten.unwrap_or_default();
        }
        checked
    }

    fn folder(&self, name: &str) -> Option<OwnedFd> {
        open_folder(&*self.there()?, name).ok()
    }

    fn buckets(&self) -> Vec<std::fs::File> {
        let Some(folder) = self.folder(ledger::FOLDER) else {
            return Vec::new();
        };
        let Ok(listing) = Dir::read_from(&folder) else {
            return Vec::new();
        };
        listing
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .filter(|name| !name.starts_with('.'))
            .filter_map(|name| super::open_file(&folder, &name, rustix::fs::OFlags::empty()).ok())
            .collect()
    }
}

/// Returns whether a file still has the content.
fn hashes_to(
    address: &ContentAddress,
    delivery: &Delivery,
    watch: Watch<'_>,
) -> Result<bool, CopyError> {
    let file = fs_err::File::open(&delivery.path).map_err(CopyError::Read)?;
    let metadata = file.metadata().map_err(CopyError::Read)?;
    let (file, size) = (file.into_file(), metadata.len());
    let what = format!("checking {}", printable(&delivery.path));
    watch.progress.begin(&what, Some(size), Unit::Bytes);
    let executable = publish::is_executable(&metadata);
    let check = FileCheck::new(address, false, executable, Some(size));
    let verdict = copy::hash(&file, size, check, watch);
    watch.progress.end();
    Ok(matches!(verdict?, Verdict::Right(_)))
}

impl Checked {
    /// Returns lines for people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for path in &self.wrong {
            writeln!(text, "{} has another content now", printable(path))
                .expect("writing to a string cannot fail");
        }
        writeln!(
            text,
            "{} earlier downloads are what they were, {} are forgotten",
            self.right, self.forgotten
        )
        .expect("writing to a string cannot fail");
        text
    }

    /// Returns true if no file has changed without its size and time showing it.
    pub fn is_sound(&self) -> bool {
        self.wrong.is_empty()
    }
}

impl Usage {
    /// Returns the JSON object of `--json`.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialise")
    }

    /// Returns lines for people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            writeln!(text, "{name:<18} {value}").expect("writing to a string cannot fail");
        };
        line(
            "folder",
            self.folder
                .as_deref()
                .unwrap_or("none: neither HOME nor XDG_CACHE_HOME is set"),
        );
        let bytes = amount(self.partial_bytes, None, Unit::Bytes);
        line(
            "partial downloads",
            &format!("{} ({bytes})", self.partial_downloads),
        );
        line("earlier downloads", &self.deliveries.to_string());
        line("failing URLs", &self.failing_urls.to_string());
        for host in &self.hosts {
            let pause = match host.pause {
                0 => String::new(),
                pause => format!(", wants to be left alone for another {pause} s"),
            };
            let name = host.host.escape_debug();
            line(
                "failing host",
                &format!("{name}: {:.1}{pause}", host.failures),
            );
        }
        text
    }
}

impl Collected {
    /// Returns a line for people.
    pub fn to_text(self) -> String {
        format!(
            "removed {} partial downloads ({}), forgot {} earlier downloads that are gone\n",
            self.partial_downloads,
            amount(self.partial_bytes, None, Unit::Bytes),
            self.deliveries
        )
    }
}
