//! The system's git, for servers that only serve the files of a repository ("dumb" HTTP), and for bundles: everything is
//! fetched.
//!
//! It runs without anybody's configuration, without hooks, and may use HTTP only, or read the bundle only. What it
//! brings is read as any other repository.

use std::ffi::OsString;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use gix::ObjectId;
use reqwest::header::HeaderMap;
use rustix::process::{Pid, Signal};

use super::http::{INFO_REFS, below};
use super::kept::size_of;
use super::line::Line;
use crate::disk;
use crate::download::{DownloadError, LOOK_AT_DISK_EVERY};
use crate::git::Revision;
use crate::net::{Client, NetError};
use crate::source_url::SourceUrl;
use crate::staging::StagedFile;

/// The revision that is a file of its own.
const HEAD: &str = "HEAD";

/// How often it is looked whether git should end.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How often the size of what came is looked at, in polls.
const POLLS_A_LOOK: u32 = 20;

/// The most of git's last words that is repeated, in bytes.
const MAX_LAST_WORDS: u64 = 2000;

/// What git is told before anything else.
const CONFIGURATION: [&str; 7] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "protocol.allow=never",
    "credential.helper=",
    "gc.auto=0",
    "maintenance.auto=false",
    "http.followRedirects=false",
];

/// With a server behind it.
const OVER_HTTP: [&str; 2] = ["protocol.http.allow=always", "protocol.https.allow=always"];

/// With a bundle, which it takes for a file's.
const OF_BUNDLE: [&str; 1] = ["protocol.file.allow=always"];

/// What git is told to do; then come the place and the references.
const FETCH: [&str; 7] = [
    "fetch",
    "--quiet",
    // What is there no more must not be found, nor stand in the way of `a/b` where `a` was.
    "--prune",
    "--no-tags",
    "--no-recurse-submodules",
    "--no-write-fetch-head",
    "--",
];

const ALL_BRANCHES: &str = "+refs/heads/*:refs/heads/*";

const ALL_TAGS: &str = "+refs/tags/*:refs/tags/*";

/// Sees that there is a list of references: git would take a page for a repository without any.
pub(super) fn check(
    client: &Client,
    url: &SourceUrl,
    line: &Line<'_>,
) -> Result<(), DownloadError> {
    let list = below(url, INFO_REFS, None);
    let chunk = client
        .exchange(&list, &HeaderMap::new(), None, false, line.watch.interrupt)
        .and_then(|mut answer| answer.next())?;
    let id = chunk.split(|&byte| byte == b'\t').next();
    if id.is_some_and(|id| ObjectId::from_hex(id).is_ok()) {
        return Ok(());
    }
    Err(DownloadError::trouble(
        "the server does not speak git's smart protocol, and has no list of references",
    ))
}

/// Returns what a revision is on the server: `HEAD` is a file there, and ours leads elsewhere.
pub(super) fn named(
    client: &Client,
    url: &SourceUrl,
    revision: &Revision,
    line: &Line<'_>,
) -> Result<Revision, DownloadError> {
    if !matches!(revision, Revision::Name(name) if name == HEAD) {
        return Ok(revision.clone());
    }
    let head = below(url, "/HEAD", None);
    let chunk = client
        .exchange(&head, &HeaderMap::new(), None, false, line.watch.interrupt)
        .and_then(|mut answer| answer.next())?;
    let text = std::str::from_utf8(&chunk).unwrap_or_default().trim();
    Revision::parse(text.strip_prefix("ref: ").unwrap_or(text)).map_err(|_| {
        DownloadError::trouble("the file HEAD of the server names neither a commit nor a branch")
    })
}

/// Fetches all branches and tags of a server into a bare repository.
pub(super) fn fetch(folder: &Path, url: &SourceUrl, line: &Line<'_>) -> Result<(), DownloadError> {
    let what = "the server does not speak git's smart protocol";
    let limits = line.limits;
    let mut command = command(folder, &OVER_HTTP);
    for (name, value) in [
        ("http.lowSpeedLimit", limits.stall_bytes_per_second),
        ("http.lowSpeedTime", limits.stall_window.as_secs()),
    ] {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    let bundle = ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"]
        .into_iter()
        .filter_map(std::env::var_os)
        .find(|path| Path::new(path).exists());
    if let Some(bundle) = bundle {
        command.env("GIT_SSL_CAINFO", bundle);
    }
    command
        .args(FETCH)
        .args(["origin", ALL_BRANCHES, ALL_TAGS])
        // Everybody can see command lines.
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "remote.origin.url")
        .env("GIT_CONFIG_VALUE_0", url.url().as_str());
    run(command, folder, line, what).map_err(|error| match error {
        DownloadError::Trouble { reason, .. } if reason.contains("not found") => {
            DownloadError::Gone("there is no such repository".into())
        }
        // git repeats URLs, passwords included.
        DownloadError::Trouble { .. } if url.has_credentials() => {
            DownloadError::trouble(format!("{what}, and the program git failed"))
        }
        other => other,
    })
}

/// Fetches everything of a bundle into a bare repository.
pub(super) fn fetch_bundle(
    folder: &Path,
    path: &Path,
    more: Option<&str>,
    line: &Line<'_>,
) -> Result<(), DownloadError> {
    let mut command = command(folder, &OF_BUNDLE);
    command.args(FETCH).arg(path).arg("+refs/*:refs/*");
    command.args(more);
    run(command, folder, line, "it is a bundle")
}

/// Runs git, and tells what it said if it failed.
fn run(
    mut command: Command,
    folder: &Path,
    line: &Line<'_>,
    what: &str,
) -> Result<(), DownloadError> {
    let mut said = StagedFile::temporary().map_err(DownloadError::Write)?.file;
    let child = said
        .try_clone()
        .and_then(|said| command.stderr(Stdio::from(said)).spawn())
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DownloadError::trouble(format!(
                "{what}; the program git could fetch from it, and is not installed"
            )),
            _ => DownloadError::Local(format!("git cannot be run: {error}")),
        })?;
    let status = Group(child)
        .wait(folder, line)
        .map_err(|error| match line.take_trouble() {
            Some(trouble) => trouble.into(),
            None => DownloadError::Local(error.to_string()),
        })?;
    if status.success() {
        return Ok(());
    }
    let mut words = Vec::new();
    if said.rewind().is_ok() {
        drop(said.take(MAX_LAST_WORDS).read_to_end(&mut words));
    }
    let words = String::from_utf8_lossy(&words);
    Err(DownloadError::trouble(format!(
        "{what}, and the program git failed ({status}): {}",
        words.trim().escape_debug()
    )))
}

/// Prepares git for a bare repository.
fn command(folder: &Path, allowed: &[&str]) -> Command {
    let mut command = Command::new("git");
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"GIT_") {
            command.env_remove(name);
        }
    }
    command.arg("--git-dir").arg(folder);
    for setting in CONFIGURATION.iter().chain(allowed) {
        command.args(["-c", setting]);
    }
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ASKPASS", OsString::from("false"))
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // It starts others, which end with it.
        .process_group(0);
    command
}

/// A program and all that it starts; ended when dropped.
struct Group(Child);

impl Group {
    fn wait(mut self, folder: &Path, line: &Line<'_>) -> io::Result<ExitStatus> {
        let disk = fs_err::File::open(folder)?;
        for poll in 0_u32.. {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if line.watch.interrupted() {
                return Err(line.failed(NetError::Interrupted));
            }
            let limit_bytes = line.limits.max_bytes;
            let is_look = poll % POLLS_A_LOOK == POLLS_A_LOOK - 1;
            if is_look && size_of(&folder.join("objects")) > limit_bytes {
                return Err(line.failed(NetError::TooLong {
                    limit_bytes,
                    announced_bytes: None,
                }));
            }
            if is_look {
                disk::leave_reserve(disk.file(), LOOK_AT_DISK_EVERY, line.limits.disk_reserve)?;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let group = Pid::from_child(&self.0);
            let _gone = rustix::process::kill_process_group(group, Signal::KILL);
            let _reaped = self.0.wait();
        }
    }
}
