//! What the end-to-end tests stand on: an empty world to run the programs in, and real tools to compare with.

pub(crate) mod daemon;
pub(crate) mod git;
pub(crate) mod git_server;
pub(crate) mod guix;
#[path = "../lacks.rs"]
mod lacks;
pub(crate) mod nginx;
pub(crate) mod nix;
pub(crate) mod relay;
pub(crate) mod server;
pub(crate) mod sshd;
pub(crate) mod tls;
#[expect(dead_code, reason = "the benchmark also begins anew")]
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use store_index::address::Framing;
use store_index::digest::{Algorithm, Digest, Hasher};

pub(crate) use self::lacks::{is_root, lacks, skipped};

/// No program under test may take longer: a test that hangs would say nothing.
const RUN_LIMIT: Duration = Duration::from_secs(90);

/// The name and the numeric id of the user that runs what must not run as root.
pub(crate) const NOBODY: u32 = 65534;

/// A folder that goes when the test ends, and programs that see nothing but it.
#[derive(Debug)]
pub(crate) struct TestEnv {
    root: PathBuf,
    /// Removes the folder; `None` if it is to stay for a look (`FETCH_TESTS_KEEP`).
    _dir: Option<tempfile::TempDir>,
}

impl TestEnv {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("fetch-test-")
            .tempdir()
            .unwrap();
        // Canonical, since Nix refuses a store below a symbolic link.
        let root = fs_err::canonicalize(dir.path()).unwrap();
        let env = if std::env::var_os("FETCH_TESTS_KEEP").is_some() {
            let _kept: PathBuf = dir.keep();
            Self { root, _dir: None }
        } else {
            Self {
                root,
                _dir: Some(dir),
            }
        };
        for folder in ["home", "cache", "config", "tmp", "out"] {
            fs_err::create_dir(env.path(folder)).unwrap();
        }
        env
    }

    /// Returns a path in the test's folder.
    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// Writes a file in the test's folder, with its parents.
    pub(crate) fn write(&self, relative: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(relative);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, content).unwrap();
        path
    }

    /// Returns where the output of that name comes to lie: every program starts in `out`.
    pub(crate) fn out(&self, name: &str) -> PathBuf {
        self.path("out").join(name)
    }

    /// Reads an output.
    pub(crate) fn output(&self, name: &str) -> Vec<u8> {
        fs_err::read(self.out(name)).unwrap()
    }

    /// Lists the names in the output folder, hidden ones too.
    pub(crate) fn outputs(&self) -> Vec<String> {
        names_in(&self.path("out"))
    }

    /// A run of `fetch` with these arguments.
    pub(crate) fn fetch<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run<'_> {
        self.run(Path::new(env!("CARGO_BIN_EXE_fetch")), args)
    }

    /// `fetch --hash HASH` that knows no store, index or medium but those it is given.
    pub(crate) fn fetch_hash(&self, hash: impl AsRef<OsStr>) -> Run<'_> {
        self.fetch(["--no-store", "--no-media", "--hash"]).arg(hash)
    }

    /// A run of `store-index` with these arguments.
    pub(crate) fn store_index<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Run<'_> {
        self.run(store_index_program(), args)
    }

    /// A run of any program with these arguments.
    pub(crate) fn run<S: AsRef<OsStr>>(
        &self,
        program: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Run<'_> {
        Run {
            env: self,
            program: program.to_owned(),
            args: args
                .into_iter()
                .map(|arg| arg.as_ref().to_owned())
                .collect(),
            variables: BTreeMap::new(),
            wrapper: Vec::new(),
            umask: None,
        }
    }

    /// Makes the folder passable for everybody and copies the programs into it, so that [`Run::by_nobody`] finds them.
    pub(crate) fn open_to_everybody(&self) {
        fs_err::set_permissions(&self.root, std::fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["home", "cache", "config", "tmp", "out"] {
            fs_err::set_permissions(self.path(folder), std::fs::Permissions::from_mode(0o777))
                .unwrap();
        }
        let bin = self.path("bin");
        fs_err::create_dir_all(&bin).unwrap();
        for program in [
            Path::new(env!("CARGO_BIN_EXE_fetch")),
            store_index_program(),
        ] {
            // A process of its own: a descriptor open for writing here may be inherited by what another test starts
            // meanwhile, and then the program is "busy".
            let copied = Command::new("cp").arg(program).arg(&bin).status().unwrap();
            assert!(copied.success(), "cp {}", program.display());
        }
    }

    /// What differs from run to run, for insta: the test's folder, ports, times, and digests that depend on them.
    pub(crate) fn filters(&self) -> Vec<(String, &'static str)> {
        let root = self.root.to_str().unwrap().replace('.', r"\.");
        vec![
            (root, "[DIR]"),
            (r"127\.0\.0\.1:\d+".into(), "127.0.0.1:[PORT]"),
            (r#""ms":( ?)[\d.]+"#.into(), r#""ms":$1[MS]"#),
            (r"[\d.]+ ms".into(), "[MS] ms"),
            (r"/[0-9a-df-np-sv-z]{32}-".into(), "/[DIGEST]-"),
            (r#""[0-9a-df-np-sv-z]{32}""#.into(), r#""[ROOT ID]""#),
        ]
    }
}

/// A program about to be run.
#[derive(Debug)]
#[must_use = "nothing runs before `go` or `start`"]
pub(crate) struct Run<'env> {
    env: &'env TestEnv,
    program: PathBuf,
    args: Vec<OsString>,
    variables: BTreeMap<OsString, OsString>,
    wrapper: Vec<OsString>,
    umask: Option<u32>,
}

impl Run<'_> {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(crate) fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.variables
            .insert(name.into(), value.as_ref().to_owned());
        self
    }

    /// Runs it where this is the store that Nix's tools know.
    pub(crate) fn with_nix(mut self, store: &nix::NixStore) -> Self {
        for (name, value) in store.variables() {
            self = self.variable(name, value);
        }
        self
    }

    pub(crate) fn umask(mut self, umask: u32) -> Self {
        self.umask = Some(umask);
        self
    }

    /// Runs it as `nohup` does, for which hanging up is nothing, or as a terminal does, however the tests were started.
    pub(crate) fn hangup_ignored(mut self, ignored: bool) -> Self {
        let how = if ignored {
            "--ignore-signal=HUP"
        } else {
            "--default-signal=HUP"
        };
        self.wrapper = ["env", how].map(OsString::from).into();
        self
    }

    /// Runs it below `strace`, which writes the network system calls into `log`.
    pub(crate) fn traced(self, log: &Path) -> Self {
        self.traced_calls("network", log)
    }

    /// Runs it below `strace`, which writes such system calls into `log`.
    pub(crate) fn traced_calls(mut self, calls: &str, log: &Path) -> Self {
        let calls = format!("trace={calls}");
        self.wrapper = ["strace", "-f", "-qq", "-e", &calls, "-o"]
            .map(OsString::from)
            .into();
        self.wrapper.push(log.into());
        self
    }

    /// Runs it where `/etc` holds this configuration file and nothing else. For root.
    pub(crate) fn with_system_file(self, file: &Path) -> Self {
        let script =
            "mount -t tmpfs none /etc && mkdir /etc/fetch && cp \"$1\" /etc/fetch/fetch.toml";
        self.in_own_mounts(script, &[file])
    }

    /// Runs it where `folder` is also mounted at `point`. For root.
    pub(crate) fn with_mount(self, folder: &Path, point: &Path) -> Self {
        self.in_own_mounts("mount --bind \"$1\" \"$2\"", &[folder, point])
    }

    /// Runs it after a shell has mounted something that nobody else sees.
    fn in_own_mounts(mut self, script: &str, args: &[&Path]) -> Self {
        let script = format!("{script} && shift {} && exec \"$@\"", args.len());
        let inner = std::mem::take(&mut self.wrapper);
        self.wrapper = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
        ]
        .map(OsString::from)
        .into();
        self.wrapper.extend([script.into(), "sh".into()]);
        self.wrapper.extend(args.iter().map(OsString::from));
        self.wrapper.extend(inner);
        self
    }

    /// Runs it as an ordinary user, when the tests are run by root. See [`TestEnv::open_to_everybody`].
    pub(crate) fn by_nobody(mut self) -> Self {
        if is_root() {
            let id = NOBODY.to_string();
            self.wrapper = vec![
                "setpriv".into(),
                format!("--reuid={id}").into(),
                format!("--regid={id}").into(),
                "--clear-groups".into(),
                "--".into(),
            ];
            self.program = self.env.path("bin").join(self.program.file_name().unwrap());
        }
        self
    }

    /// Starts it and comes back at once.
    pub(crate) fn start(self) -> Running {
        let mut words = self.wrapper.clone();
        words.push(self.program.clone().into());
        words.extend(self.args.iter().cloned());
        let mut command = match self.umask {
            // The shell sets it: between fork and exec is no place for safe code.
            Some(umask) => {
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", &format!("umask {umask:03o}; exec \"$@\""), "sh"])
                    .args(&words);
                shell
            }
            None => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command
            }
        };
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.env.path("home"))
            .env("XDG_CACHE_HOME", self.env.path("cache"))
            .env("XDG_CONFIG_HOME", self.env.path("config"))
            .env("TMPDIR", self.env.path("tmp"))
            .env("LC_ALL", "C.UTF-8")
            .envs(&self.variables)
            .current_dir(self.env.path("out"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: a signal meant for the program reaches nobody else, and the wrapper's child too.
            .process_group(0);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", words[0].display()));
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        Running {
            child,
            stdout,
            stderr,
            shown: format!("{words:?}"),
            started: Instant::now(),
        }
    }

    /// Runs it to its end.
    pub(crate) fn go(self) -> Outcome {
        self.start().wait()
    }

    /// Runs it with `--json`, expects this exit code and returns the object.
    #[track_caller]
    pub(crate) fn json(self, exit: i32) -> Report {
        let outcome = self.arg("--json").go().exits(exit);
        let object = serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("stdout is not one JSON object: {error}\n{outcome}"));
        Report {
            object,
            stderr: outcome.stderr,
        }
    }
}

fn collect(mut pipe: impl std::io::Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// A program that runs.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
    shown: String,
    started: Instant,
}

impl Running {
    /// Sends a signal to it (and to what it started).
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let group = rustix::process::Pid::from_child(&self.child);
        // One that has just ended is fine: the tests that send signals race on purpose.
        match rustix::process::kill_process_group(group, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => (),
            Err(error) => panic!("kill: {error}"),
        }
    }

    /// Returns its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Says whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Says whether it has a handler for a signal.
    pub(crate) fn catches(&self, signal: rustix::process::Signal) -> bool {
        let status = fs_err::read_to_string(format!("/proc/{}/status", self.id()));
        let status = status.unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        caught.is_some_and(|caught| {
            let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
            caught & (1 << (signal.as_raw() - 1)) != 0
        })
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Outcome {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if self.started.elapsed() > RUN_LIMIT {
                self.signal(rustix::process::Signal::KILL);
                let status = self.child.wait().unwrap();
                let outcome = self.outcome(status);
                panic!("still running after {RUN_LIMIT:?}\n{outcome}");
            }
            std::thread::sleep(Duration::from_millis(3));
        };
        self.outcome(status)
    }

    fn outcome(self, status: ExitStatus) -> Outcome {
        let text = |thread: JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&thread.join().unwrap()).into_owned()
        };
        Outcome {
            status,
            stdout: text(self.stdout),
            stderr: text(self.stderr),
            took: self.started.elapsed(),
            shown: self.shown,
        }
    }
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
    shown: String,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n{}", self.shown, self.status)?;
        write!(
            f,
            "--- stdout\n{}\n--- stderr\n{}",
            self.stdout, self.stderr
        )
    }
}

impl Outcome {
    /// Expects an exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "exit code\n{self}");
        self
    }

    /// Expects words in what went to stderr.
    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        assert!(
            self.stderr.contains(words),
            "stderr lacks {words:?}\n{self}"
        );
        self
    }

    /// Says whether SIGKILL ended it.
    pub(crate) fn was_killed(&self) -> bool {
        self.status.signal() == Some(rustix::process::Signal::KILL.as_raw())
    }
}

/// The object that `--json` printed, and what stood on stderr.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) object: Value,
    pub(crate) stderr: String,
}

impl Report {
    /// Returns `source.kind`, empty if there is no source.
    pub(crate) fn kind(&self) -> &str {
        self.object["source"]["kind"].as_str().unwrap_or_default()
    }

    /// Returns `source.location`, empty if there is no source.
    pub(crate) fn location(&self) -> &str {
        self.object["source"]["location"]
            .as_str()
            .unwrap_or_default()
    }

    /// Returns `error.kind`, empty if there was none.
    pub(crate) fn error(&self) -> &str {
        self.object["error"]["kind"].as_str().unwrap_or_default()
    }

    /// Returns kind, result and location of each attempt.
    pub(crate) fn attempts(&self) -> Vec<(&str, &str, &str)> {
        self.object["attempts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|attempt| {
                let field = |name: &str| attempt[name].as_str().unwrap_or_default();
                (field("kind"), field("result"), field("location"))
            })
            .collect()
    }

    /// Expects an attempt of this kind, with this result, at a place that contains `location`.
    #[track_caller]
    pub(crate) fn tried(&self, kind: &str, result: &str, location: &str) -> &Self {
        assert!(
            self.attempts()
                .iter()
                .any(|&(k, r, l)| k == kind && r == result && l.contains(location)),
            "no attempt {kind} {result} …{location}…\n{:#}\n{}",
            self.object,
            self.stderr
        );
        self
    }
}

/// Finds `store-index` beside `fetch`, and has cargo build it if only the fetcher was built.
pub(crate) fn store_index_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let path = Path::new(env!("CARGO_BIN_EXE_fetch")).with_file_name("store-index");
        if !path.exists() {
            let built = Command::new(env!("CARGO"))
                .args(["build", "--workspace", "--bins", "--locked"])
                .args((!cfg!(debug_assertions)).then_some("--release"))
                .current_dir(repository())
                .status()
                .unwrap();
            assert!(
                built.success() && path.exists(),
                "no {}: run `cargo build --workspace --bins`",
                path.display()
            );
        }
        path
    })
}

/// Returns the top of the source tree.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Returns the digest of bytes.
pub(crate) fn digest(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish().unwrap()
}

/// Returns the SRI sha256 of bytes.
pub(crate) fn sri(bytes: &[u8]) -> String {
    digest(Algorithm::Sha256, bytes).to_sri()
}

/// Returns the SRI sha256 of the NAR of one file.
pub(crate) fn nar_sri(bytes: &[u8], executable: bool) -> String {
    let mut hasher = store_index::address::FileHasher::new(
        Framing::nar(executable),
        Algorithm::Sha256,
        bytes.len().try_into().unwrap(),
    );
    hasher.update(bytes);
    hasher.finish().unwrap().to_sri()
}

/// Makes bytes that no compressor and no other seed gives.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Lists a folder's names, sorted.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs_err::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What an outsider can tell about everything below a folder: whoever writes there changes it.
pub(crate) fn portrait(folder: &Path) -> String {
    let mut lines = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs_err::symlink_metadata(&path).unwrap();
        lines.push(format!(
            "{} mode {:o} links {} size {} inode {} mtime {}.{} ctime {}.{}",
            path.display(),
            meta.mode(),
            meta.nlink(),
            meta.size(),
            meta.ino(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        ));
        if meta.is_dir() {
            open.extend(
                fs_err::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    lines.sort();
    lines.join("\n")
}

/// Returns the permission bits.
pub(crate) fn mode(path: &Path) -> u32 {
    fs_err::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Waits until something is so; at most ten seconds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "waited in vain until {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
