//! What `fetch cache` says and does: how much is kept, and what of it goes.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Dir;
use serde::Serialize;
use store_index::address::ContentAddress;
use store_index::beneath::Node;
use store_index::path_text::printable;
use store_index::terminal::amount;
use store_index::tree::TreeError;
use store_index::watch::{Unit, Watch};

use super::{COPY_CONTENT, CopyBounds, LOCKS, SPOOL, State, copies, ledger, spool};
use crate::copy::{self, CopyError};
use crate::git::remote;
use crate::publish;
use crate::tree_copy;
use crate::verify::{FileCheck, Verdict};

/// Where repositories are kept, beside everything else.
pub(crate) const GIT_FOLDER: &str = "git";

/// How much is kept.
#[derive(Debug, Serialize)]
pub struct Usage {
    version: u32,
    folder: Option<String>,
    partial_downloads: usize,
    partial_bytes: u64,
    deliveries: usize,
    copies: usize,
    copy_bytes: u64,
    repositories: usize,
    repository_bytes: u64,
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

/// A number of things, and their length in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Amount {
    count: usize,
    bytes: u64,
}

impl Amount {
    fn less(self, rest: Self) -> Self {
        Self {
            count: self.count.saturating_sub(rest.count),
            bytes: self.bytes.saturating_sub(rest.bytes),
        }
    }

    fn to_text(self) -> String {
        let bytes = amount(self.bytes, None, Unit::Bytes);
        format!("{} ({bytes})", self.count)
    }
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Collected {
    partial_downloads: Amount,
    copies: Amount,
    repositories: Amount,
    /// Deliveries that lie no more where they were.
    deliveries: usize,
}

/// What hashing all that is kept has shown.
#[derive(Debug, Default)]
pub struct Checked {
    /// How many deliveries are what they were.
    right: usize,
    /// Those that have the same size and time, and another content.
    wrong: Vec<PathBuf>,
    /// How many are forgotten, those that are gone among them.
    forgotten: usize,
    /// How many copies are what they were.
    right_copies: usize,
    /// How many repositories are whole.
    right_repositories: usize,
    /// Copies and repositories that are damaged, and are removed.
    damaged: Vec<PathBuf>,
}

impl State {
    /// Says how much is kept.
    pub fn usage(&self) -> Usage {
        let failures = self.failures();
        let partial_downloads = self.partial_downloads();
        let (copies, repositories) = (self.copies_amount(), self.repositories());
        let (hosts, failing_urls) = failures.summary();
        Usage {
            version: 1,
            folder: self.path.as_deref().map(printable),
            partial_downloads: partial_downloads.count,
            partial_bytes: partial_downloads.bytes,
            deliveries: self.buckets().iter().map(ledger::count).sum(),
            copies: copies.count,
            copy_bytes: copies.bytes,
            repositories: repositories.count,
            repository_bytes: repositories.bytes,
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

    fn partial_downloads(&self) -> Amount {
        let spool = self.folder(SPOOL);
        let parts = spool.map(|spool| spool::parts(&spool)).unwrap_or_default();
        Amount {
            count: parts.len(),
            bytes: parts.iter().map(|(_, bytes)| bytes).sum(),
        }
    }

    fn copies_amount(&self) -> Amount {
        let folder = self.folder(copies::FOLDER);
        let copies = folder
            .map(|copies| copies::list(&copies))
            .unwrap_or_default();
        Amount {
            count: copies.len(),
            bytes: copies.iter().map(|copy| copy.bytes).sum(),
        }
    }

    fn repositories(&self) -> Amount {
        let (count, bytes) = self
            .git()
            .map(|git| remote::usage(&git))
            .unwrap_or_default();
        Amount { count, bytes }
    }

    /// Returns where repositories are kept, if the folder is ours.
    fn git(&self) -> Option<PathBuf> {
        self.folder(GIT_FOLDER)?;
        Some(self.path.as_ref()?.join(GIT_FOLDER))
    }

    /// Removes partial downloads, copies and repositories that are old or too much (with `all`, every one that nobody
    /// uses), and forgets deliveries that lie no more where they were.
    pub fn collect(&self, all: bool, copy_bounds: &CopyBounds) -> Collected {
        let before = (
            self.partial_downloads(),
            self.copies_amount(),
            self.repositories(),
        );
        if let (Some(spool), Some(locks)) = (self.folder(SPOOL), self.folder(LOCKS)) {
            spool::trim(&spool, &locks, None, all);
        }
        if let Some(folder) = self.folder(copies::FOLDER) {
            let nothing = CopyBounds {
                bytes: 0,
                age: Duration::ZERO,
            };
            copies::trim(&folder, if all { &nothing } else { copy_bounds });
        }
        if let Some(git) = self.git() {
            remote::collect(&git, all);
        }
        let mut collected = Collected {
            partial_downloads: before.0.less(self.partial_downloads()),
            copies: before.1.less(self.copies_amount()),
            repositories: before.2.less(self.repositories()),
            deliveries: 0,
        };
        for mut bucket in self.buckets() {
            collected.deliveries += ledger::forget(&mut bucket, |_, _| true).unwrap_or_default();
        }
        collected
    }

    /// Forgets what failed.
    pub fn forget(&self) -> io::Result<()> {
        self.forget_failures()
    }

    /// Hashes what was delivered, as far as it still lies where it was, and forgets what is something else by now; and
    /// copies and repositories, and removes those that are damaged.
    pub fn check(&self, watch: Watch<'_>) -> Checked {
        let mut checked = Checked::default();
        for mut bucket in self.buckets() {
            let forgotten = ledger::forget(&mut bucket, |address, delivery| {
                // What was not looked at is not forgotten.
                if watch.interrupted() {
                    return true;
                }
                match hashes_to(address, &delivery.path, watch) {
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
        self.check_copies(&mut checked, watch);
        // What comes of an interruption is not asked for.
        if let Some(Ok((sound, damaged))) = self.git().map(|git| remote::verify(&git, watch)) {
            checked.right_repositories = sound;
            checked.damaged.extend(damaged);
        }
        checked
    }

    fn check_copies(&self, checked: &mut Checked, watch: Watch<'_>) {
        let folder = self.folder(copies::FOLDER);
        for listed in folder.iter().flat_map(|folder| copies::list(folder)) {
            let Some(copy) = self.copy_of(&listed.address) else {
                continue;
            };
            match hashes_to(&listed.address, &copy.path.join(COPY_CONTENT), watch) {
                Ok(true) => checked.right_copies += 1,
                Err(CopyError::Interrupted) => return,
                Ok(false) | Err(_) => {
                    drop(self.remove_copy(&listed.address));
                    checked.damaged.push(copy.path);
                }
            }
        }
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

/// Returns whether a file or tree still has the content.
fn hashes_to(address: &ContentAddress, path: &Path, watch: Watch<'_>) -> Result<bool, CopyError> {
    let what = format!("checking {}", printable(path));
    let file = fs_err::File::open(path).map_err(CopyError::Read)?;
    let metadata = file.metadata().map_err(CopyError::Read)?;
    let (file, size) = (file.into_file(), metadata.len());
    if metadata.is_dir() {
        watch.progress.begin(&what, None, Unit::Bytes);
        let verdict = tree_copy::hash(address, Node::Directory(file.into()), watch);
        watch.progress.end();
        return match verdict {
            Ok(verdict) => Ok(matches!(verdict, Verdict::Right(_))),
            Err(TreeError::Interrupted) => Err(CopyError::Interrupted),
            Err(error) => Err(CopyError::Read(io::Error::other(error.to_string()))),
        };
    }
    watch.progress.begin(&what, Some(size), Unit::Bytes);
    let executable = publish::is_executable(&metadata);
    let check = FileCheck::new(address, false, executable, Some(size));
    let verdict = copy::hash(&file, size, check, watch);
    watch.progress.end();
    Ok(matches!(verdict?, Verdict::Right(_)))
}

impl Checked {
    /// Returns the JSON object of `--json`.
    pub fn to_json(&self) -> String {
        let shown =
            |paths: &[PathBuf]| paths.iter().map(|path| printable(path)).collect::<Vec<_>>();
        serde_json::json!({
            "version": 1,
            "deliveries": self.right,
            "forgotten": self.forgotten,
            "copies": self.right_copies,
            "repositories": self.right_repositories,
            "changed": shown(&self.wrong),
            "damaged": shown(&self.damaged),
        })
        .to_string()
    }

    /// Returns lines for people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for path in &self.wrong {
            writeln!(text, "{} has another content now", printable(path))
                .expect("writing to a string cannot fail");
        }
        for path in &self.damaged {
            writeln!(text, "{} was damaged, and is removed", printable(path))
                .expect("writing to a string cannot fail");
        }
        writeln!(
            text,
            "{} earlier downloads are what they were, {} are forgotten\n{} kept copies and {} repositories are whole",
            self.right, self.forgotten, self.right_copies, self.right_repositories
        )
        .expect("writing to a string cannot fail");
        text
    }

    /// Returns true if nothing has changed without its size and time showing it.
    pub fn is_sound(&self) -> bool {
        self.wrong.is_empty() && self.damaged.is_empty()
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
        let of = |count, bytes| Amount { count, bytes }.to_text();
        line(
            "partial downloads",
            &of(self.partial_downloads, self.partial_bytes),
        );
        line("earlier downloads", &self.deliveries.to_string());
        line("kept copies", &of(self.copies, self.copy_bytes));
        line(
            "repositories",
            &of(self.repositories, self.repository_bytes),
        );
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
    /// Returns the JSON object of `--json`.
    pub fn to_json(&self) -> String {
        serde_json::json!({
            "version": 1,
            "partial_downloads": self.partial_downloads.count,
            "partial_bytes": self.partial_downloads.bytes,
            "copies": self.copies.count,
            "copy_bytes": self.copies.bytes,
            "repositories": self.repositories.count,
            "repository_bytes": self.repositories.bytes,
            "deliveries": self.deliveries,
        })
        .to_string()
    }

    /// Returns a line for people.
    pub fn to_text(&self) -> String {
        let told = |what: &str, amount: Amount| {
            let bytes = store_index::terminal::amount(amount.bytes, None, Unit::Bytes);
            format!("{} {what} ({bytes})", amount.count)
        };
        format!(
            "removed {}, {} and {}, forgot {} earlier downloads that are gone\n",
            told("partial downloads", self.partial_downloads),
            told("kept copies", self.copies),
            told("repositories", self.repositories),
            self.deliveries
        )
    }
}
