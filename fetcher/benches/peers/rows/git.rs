//! Commits from a git server.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Bench, clear, mib};
use crate::Result;
use crate::measure::{Job, once};
use crate::report::{Bound, Row};

/// How often we look whether the server answers, every 20 ms.
const ATTEMPTS: u32 = 250;

/// One file in so many differs in the second commit.
const CHANGED: u64 = 100;

/// What a fetcher of Nix or Guix does.
const PEER: &str = "rm -rf \"$2\" && git clone -q --depth 1 --branch \"$3\" \"$1\" \"$2\" 2>/dev/null && rm -rf \"$2/.git\" && nix-hash --type sha256 \"$2\"";

pub(super) fn git(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    let files = bench.sizes.repository_files;
    repository(&folder.join("srv/some.git"), files)?;
    let daemon = Daemon::start(&folder.join("srv"))?;
    let url = format!("git://127.0.0.1:{}/some.git", daemon.port);
    let (output, peer_output) = (folder.join("output"), folder.join("peer"));
    let cache = bench.scratch.join("cache/fetch/git");
    let begin_cold = || {
        clear(&cache)?;
        clear(&output)
    };
    let peer = |tag: &str| {
        let args = [url.as_ref(), peer_output.as_os_str(), tag.as_ref()];
        Job::shell("`git clone --depth 1`, `nix-hash`", PEER, args)
    };
    let hash = |tag: &str| -> Result<String> {
        let series = once(&bench.scratch, &peer(tag))?;
        Ok(format!("sha256:{}", series.samples[0].output.trim()))
    };
    let fetch = |tag: &str, hash: &str| {
        let words = [
            bench.fetch.as_os_str(),
            "--no-store".as_ref(),
            "--no-media".as_ref(),
            "--hash".as_ref(),
            hash.as_ref(),
            "--git".as_ref(),
            url.as_ref(),
            "--rev".as_ref(),
            tag.as_ref(),
            "-o".as_ref(),
            output.as_ref(),
        ];
        Job::new("fetch --git", words)
    };
    let (first, second) = (hash("v1")?, hash("v2")?);
    let runs = bench.sizes.long_runs;
    let cold = [fetch("v1", &first).prepared_by(begin_cold), peer("v1")];
    let cold = bench.turns(runs, &cold)?;
    // The first commit is kept again before each run; the peer has nothing to keep.
    let keep_first = || {
        begin_cold()?;
        let args = [
            "--no-store",
            "--no-media",
            "--hash",
            &first,
            "--git",
            &url,
            "--rev",
            "v1",
        ];
        let kept = Command::new(&bench.fetch)
            .args(args)
            .arg("-o")
            .arg(&output)
            .env("XDG_CACHE_HOME", bench.scratch.join("cache"))
            .stdout(Stdio::null())
            .status()?;
        if !kept.success() {
            return Err(format!("fetch: {kept}").into());
        }
        clear(&output)
    };
    let next = [fetch("v2", &second).prepared_by(keep_first), peer("v2")];
    let next = bench.turns(runs, &next)?;
    let what = format!("commit of {files} files, git daemon on the loopback");
    Ok(vec![
        Row::times(&what, &cold[0], &cold[1], Bound::None),
        Row::cpu(
            &format!("{what}, processor time"),
            &cold[0],
            &cold[1],
            Bound::None,
        ),
        Row::value(
            "the same, peak memory",
            mib(cold[0].peak_bytes()),
            " MiB",
            Bound::None,
        ),
        Row::value(
            "`git clone`, peak memory",
            mib(cold[1].peak_bytes()),
            " MiB",
            Bound::None,
        ),
        Row::times(
            &format!("the next commit, {} files changed", files.div_ceil(CHANGED)),
            &next[0],
            &next[1],
            Bound::None,
        ),
    ])
}

/// Makes a repository of two commits, tagged `v1` and `v2`.
fn repository(path: &Path, files: u64) -> Result<()> {
    fs_err::create_dir_all(path)?;
    run(Command::new("git").args(["init", "-q", "--bare"]).arg(path))?;
    let mut stream = String::new();
    for (commit, step) in [("v1", 1), ("v2", CHANGED)] {
        writeln!(
            stream,
            "commit refs/heads/main\ncommitter A <a@example.org> 1767225600 +0000\ndata 1\nx"
        )?;
        for number in (0..files).step_by(usize::try_from(step)?) {
            let content = format!("{commit} {number}\n").repeat(50);
            let (folder, len) = (number / 100, content.len());
            writeln!(
                stream,
                "M 100644 inline {folder}/{number}\ndata {len}\n{content}"
            )?;
        }
        writeln!(stream, "reset refs/tags/{commit}\nfrom refs/heads/main\n")?;
    }
    let mut child = Command::new("git")
        .arg("--git-dir")
        .arg(path)
        .args(["fast-import", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()?;
    let input = child.stdin.take();
    input.ok_or("no input")?.write_all(stream.as_bytes())?;
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("git fast-import: {status}").into());
    }
    Ok(())
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
