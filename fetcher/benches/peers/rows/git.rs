//! Commits from a git server.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Bench, LOGICAL_STORE, clear, mib, put_away};
use crate::Result;
use crate::fixtures::{self, Numbers};
use crate::measure::{Job, Series, once, take_turns};
use crate::relay::Relay;
use crate::report::{Bound, Row, show};

/// How often we look whether the server answers, every 20 ms.
const ATTEMPTS: u32 = 250;

/// One file in so many differs in the second commit.
const CHANGED: u64 = 100;

/// One file in so many is not in the store.
const NOT_IN_STORE: usize = 20;

/// What a fetcher of Nix or Guix does.
const PEER: &str = "git clone -q --depth 1 --branch \"$3\" \"$1\" \"$2\" 2>/dev/null && rm -rf \"$2/.git\" && \
                    nix --extra-experimental-features nix-command hash path --type sha256 \"$2\"";

/// Where things are.
struct World<'a> {
    bench: &'a Bench,
    folder: &'a Path,
    url: String,
    relay: Relay,
    _daemon: Daemon,
}

pub(super) fn git(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    let files = bench.sizes.repository_files;
    let commits = bench.sizes.repository_commits;
    let (store, index) = (folder.join("store"), folder.join("index"));
    // In a process of its own: what we have ever used counts as the peak memory of our children.
    let (repository, numbers) = (
        folder.join("srv/some.git"),
        [files, commits].map(|n| n.to_string()),
    );
    let words: [&OsStr; 5] = [
        "git-repository".as_ref(),
        repository.as_ref(),
        store.as_ref(),
        numbers[0].as_ref(),
        numbers[1].as_ref(),
    ];
    once(&bench.scratch, &bench.part("git-repository", words))?;
    let daemon = Daemon::start(&folder.join("srv"))?;
    let relay = Relay::to(daemon.port)?;
    let world = World {
        bench,
        folder,
        url: format!("git://127.0.0.1:{}/some.git", relay.port()),
        relay,
        _daemon: daemon,
    };
    let (first, second) = (world.hash("v1")?, world.hash("v2")?);
    let place = format!("{LOGICAL_STORE}={}", store.display());
    let in_store: [&OsStr; 4] = [
        "--store".as_ref(),
        place.as_ref(),
        "--index".as_ref(),
        index.as_ref(),
    ];
    let update = [
        bench.store_index.as_os_str(),
        "update".as_ref(),
        "--algorithms".as_ref(),
        "git".as_ref(),
    ];
    let update = Job::new("store-index update", update).with(in_store);
    once(&bench.scratch, &update)?;
    let what =
        format!("commit of {files} files after {commits} others, git daemon on the loopback");
    let cold = || {
        let job = world.fetch("v1", &first);
        job.prepared_by(|| world.begin_cold())
    };
    let mut rows = world.compare(
        &[&what, "the same, 95 % of the files in the store"],
        vec![cold(), cold().with(in_store), world.peer("v1")],
    )?;
    // The peer has nothing to keep.
    once(&bench.scratch, &cold())?;
    let kept = folder.join("kept");
    copy(&world.kept(), &kept)?;
    let next = world.fetch("v2", &second).prepared_by(|| {
        world.begin_cold()?;
        copy(&kept, &world.kept())
    });
    let what = format!("the next commit, {} files changed", files.div_ceil(CHANGED));
    rows.extend(world.compare(&[&what], vec![next, world.peer("v2")])?);
    Ok(rows)
}

impl World<'_> {
    fn kept(&self) -> PathBuf {
        self.bench.kept().join("git")
    }

    fn begin_cold(&self) -> Result<()> {
        clear(&self.kept())?;
        put_away(&self.folder.join("output"), self.folder)
    }

    fn peer<'j>(&'j self, tag: &str) -> Job<'j> {
        let output = self.folder.join("peer");
        let args = [self.url.as_ref(), output.as_os_str(), tag.as_ref()];
        let job = Job::shell("`git clone --depth 1`, `nix hash path`", PEER, args);
        job.prepared_by(move || put_away(&output, self.folder))
    }

    fn hash(&self, tag: &str) -> Result<String> {
        let series = once(&self.bench.scratch, &self.peer(tag))?;
        Ok(series.samples[0].output.trim().to_owned())
    }

    fn fetch<'j>(&self, tag: &str, hash: &str) -> Job<'j> {
        let output = self.folder.join("output");
        let words: [&OsStr; 11] = [
            self.bench.fetch.as_ref(),
            "--no-store".as_ref(),
            "--no-media".as_ref(),
            "--hash".as_ref(),
            hash.as_ref(),
            "--git".as_ref(),
            self.url.as_ref(),
            "--rev".as_ref(),
            tag.as_ref(),
            "-o".as_ref(),
            output.as_ref(),
        ];
        Job::new("fetch --git", words)
    }

    /// Time, processor time, bytes and memory of each of ours beside those of the peer, which is the last job.
    fn compare(&self, what: &[&str], jobs: Vec<Job<'_>>) -> Result<Vec<Row>> {
        // What the server sends is the same each time: the runs that warm up tell it.
        let sent: Vec<_> = jobs
            .iter()
            .map(|job| self.count(job))
            .collect::<Result<_>>()?;
        let series = take_turns(&self.bench.scratch, 0, self.bench.sizes.git_runs, &jobs)?;
        let (Some((peer, ours)), Some((peer_sent, ours_sent))) =
            (series.split_last(), sent.split_last())
        else {
            return Err("there is no peer".into());
        };
        let mut rows = Vec::new();
        for ((what, ours), ours_sent) in what.iter().zip(ours).zip(ours_sent) {
            let beside = |name: &str, values: [u64; 2]| {
                let [ours, theirs] = values.map(mib);
                let ratio = ours.median / theirs.median;
                let name = format!("{what}, {name}");
                Row::value(&name, ours, " MiB", Bound::None).showing(
                    format!("{} MiB", show(ours)),
                    format!("{}: {} MiB", peer.name, show(theirs)),
                    format!("{ratio:.2}×"),
                )
            };
            let time = format!("{what}, processor time");
            rows.extend([
                Row::times(what, ours, peer, Bound::None),
                Row::cpu(&time, ours, peer, Bound::None),
                beside("sent by the server", [*ours_sent, *peer_sent]),
                beside("peak memory", [ours, peer].map(Series::peak_bytes)),
            ]);
        }
        Ok(rows)
    }

    /// Runs a job, and returns how much the server sent.
    fn count(&self, job: &Job<'_>) -> Result<u64> {
        job.prepare()?;
        self.relay.take_sent_bytes();
        job.run_prepared(&self.bench.scratch)?;
        Ok(self.relay.take_sent_bytes())
    }
}

/// Copies a folder to where none is.
fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-a").args([from, to]))
}

/// Makes a repository with a history and one commit behind it, tagged `v1` and `v2`, and a store with most files of the
/// first.
pub(crate) fn make(path: &Path, store: &Path, files: u64, commits: u64) -> Result<()> {
    fs_err::create_dir_all(path)?;
    run(Command::new("git").args(["init", "-q", "--bare"]).arg(path))?;
    run(Command::new("git").arg("--git-dir").arg(path).args([
        "config",
        "uploadpack.allowFilter",
        "true",
    ]))?;
    let mut history = History {
        stream: String::new(),
        contents: vec![String::new(); usize::try_from(files)?],
        numbers: Numbers::new(7),
    };
    history.commit(0..files)?;
    for commit in 1..commits {
        history.commit([0, 1, 2].map(|file| (commit * 7 + file * 997) % files))?;
    }
    history.tag("v1")?;
    let first = history.contents.clone();
    history.commit((0..files).step_by(usize::try_from(CHANGED)?))?;
    history.tag("v2")?;
    let mut child = Command::new("git")
        .arg("--git-dir")
        .arg(path)
        .args(["fast-import", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()?;
    let input = child.stdin.take();
    input
        .ok_or("no input")?
        .write_all(history.stream.as_bytes())?;
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("git fast-import: {status}").into());
    }
    for (number, content) in first.iter().enumerate() {
        if number % NOT_IN_STORE != 0 {
            fixtures::link(store, content.as_bytes())?;
        }
    }
    Ok(())
}

/// Commits, as `git fast-import` reads them.
struct History {
    stream: String,
    /// What is in the files now.
    contents: Vec<String>,
    numbers: Numbers,
}

impl History {
    /// Gives these files new contents.
    fn commit(&mut self, changed: impl IntoIterator<Item = u64>) -> Result<()> {
        let stream = &mut self.stream;
        writeln!(
            stream,
            "commit refs/heads/main\ncommitter A <a@example.org> 1767225600 +0000\ndata 1\nx"
        )?;
        for number in changed {
            let content = text(number, &mut self.numbers)?;
            let (folder, len) = (number / 100, content.len());
            writeln!(
                stream,
                "M 100644 inline {folder}/{number}\ndata {len}\n{content}"
            )?;
            self.contents[usize::try_from(number)?] = content;
        }
        Ok(())
    }

    fn tag(&mut self, name: &str) -> Result<()> {
        let stream = &mut self.stream;
        Ok(writeln!(
            stream,
            "reset refs/tags/{name}\nfrom refs/heads/main\n"
        )?)
    }
}

/// Text of a kilobyte that compresses as source code does, to about a third.
fn text(number: u64, numbers: &mut Numbers) -> Result<String> {
    let mut text = format!("// file {number}\n");
    for _ in 0..24 {
        let word = numbers.draw();
        let (name, value) = (word >> 48, word & 0xffff_ffff);
        writeln!(text, "    let value_{name:04x} = next({value:08x});")?;
    }
    Ok(text)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    if !status.success() {
        return Err(format!("{command:?}: {status}").into());
    }
    Ok(())
}

/// `git daemon`; ended when dropped.
struct Daemon {
    child: Child,
    port: u16,
}

impl Daemon {
    fn start(root: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let programs = Command::new("git").arg("--exec-path").output()?.stdout;
        let programs = String::from_utf8(programs)?;
        // Not `git daemon`: git would start a child, and be killed in its place.
        let child = Command::new(Path::new(programs.trim()).join("git-daemon"))
            .args(["--listen=127.0.0.1", "--reuseaddr", "--export-all"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", root.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let daemon = Self { child, port };
        for _ in 0..ATTEMPTS {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(daemon);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err("git daemon does not answer".into())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
