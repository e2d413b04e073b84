//! `fetch builder` in real builds of Nix: in its sandbox, on a private store, beside servers that count.

#[path = "nix_builder/attributes.rs"]
mod attributes;
#[path = "nix_builder/commits.rs"]
mod commits;
#[path = "nix_builder/exposed.rs"]
mod exposed;
#[path = "nix_builder/expressions.rs"]
mod expressions;
#[path = "nix_builder/log.rs"]
mod log;
#[path = "nix_builder/network.rs"]
mod network;
#[path = "nix_builder/wrong.rs"]
mod wrong;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::nix::{NIX, NixStore, static_fetch};
use crate::support::{TestEnv, lacks};

/// Where the sandbox has our program: `sandbox-paths` puts it there.
const PROGRAM: &str = "/fetch";

/// Says whether this machine cannot run builds; Nix's sandbox needs root here.
#[must_use = "the test must end where something is missing"]
fn cannot_build(test: &str) -> bool {
    let mut programs = NIX.to_vec();
    programs.extend(["nix-build", "unshare", "mount"]);
    lacks(test, &programs, true)
}

/// A private Nix with our program in its sandbox.
struct World {
    env: TestEnv,
    nix: NixStore,
    /// The lines of its nix.conf that differ.
    sandboxed: bool,
}

/// How a build ended.
#[derive(Debug)]
struct Built {
    code: Option<i32>,
    log: String,
    output: PathBuf,
}

impl World {
    /// One in whose sandbox is our program, and what the lines of `sandbox_paths` say.
    fn new(sandbox_paths: &[String]) -> Self {
        Self::configured(TestEnv::new(), sandbox_paths, "")
    }

    /// The same with more lines in nix.conf.
    fn configured(env: TestEnv, sandbox_paths: &[String], lines: &str) -> Self {
        env.open_to_everybody();
        let program = static_fetch().display();
        let paths = sandbox_paths.join(" ");
        let nix = NixStore::configured(
            &env,
            &format!("sandbox = true\nsandbox-paths = {PROGRAM}={program} {paths}\n{lines}"),
        );
        Self {
            env,
            nix,
            sandboxed: true,
        }
    }

    /// One without a sandbox.
    fn open(env: TestEnv, lines: &str) -> Self {
        env.open_to_everybody();
        let nix = NixStore::configured(&env, lines);
        Self {
            env,
            nix,
            sandboxed: false,
        }
    }

    fn store(&self) -> String {
        self.nix.dir().to_str().unwrap().to_owned()
    }

    /// A derivation whose builder we are.
    fn derivation(&self, attributes: &[(&str, &str)]) -> String {
        let builder = match self.sandboxed {
            true => PROGRAM,
            false => static_fetch().to_str().unwrap(),
        };
        let mut text = format!(
            "derivation {{ system = builtins.currentSystem; builder = \"{builder}\"; args = [ \"builder\" ];"
        );
        for (name, value) in attributes {
            // Words of the language as they are, anything else as a string.
            let value =
                match value.starts_with(['[', '{']) || ["true", "false", "null"].contains(value) {
                    true => (*value).to_owned(),
                    false => format!("{value:?}"),
                };
            write!(text, " {name} = {value};").unwrap();
        }
        text.push_str(" }");
        text
    }

    /// Builds a derivation with these variables in Nix's own environment.
    fn build_with(&self, attributes: &[(&str, &str)], how: &How<'_>) -> Built {
        let mut command = self.nix.command("nix-build");
        command
            .args(["--no-out-link", "-E", &self.derivation(attributes)])
            .args(how.options)
            .envs(how.variables.iter().copied());
        let mut command = how.wrapped(command);
        let output = command.output().unwrap();
        Built {
            code: output.status.code(),
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
            output: String::from_utf8(output.stdout).unwrap().trim_end().into(),
        }
    }

    fn build(&self, attributes: &[(&str, &str)]) -> Built {
        self.build_with(attributes, &How::default())
    }
}

/// How Nix is called.
#[derive(Clone, Copy, Default)]
struct How<'a> {
    options: &'a [&'a str],
    variables: &'a [(&'a str, &'a str)],
    /// Lines of shell that a mount namespace of its own begins with.
    mounts: &'a str,
}

impl How<'_> {
    fn wrapped(&self, inner: Command) -> Command {
        if self.mounts.is_empty() {
            return inner;
        }
        let script = format!("set -e\n{}\nexec \"$@\"", self.mounts);
        let mut outer = Command::new("unshare");
        outer
            .args(["-m", "sh", "-c", &script, "sh"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .env_clear();
        for (name, value) in inner.get_envs() {
            if let Some(value) = value {
                outer.env(name, value);
            }
        }
        outer
    }
}

impl Built {
    #[track_caller]
    fn delivers(self, content: &[u8]) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.log);
        assert!(
            fs_err::read(&self.output).unwrap() == content,
            "{}",
            self.log
        );
        self
    }

    #[track_caller]
    fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.log);
        self
    }

    #[track_caller]
    fn says(self, words: &str) -> Self {
        assert!(
            self.log.contains(words),
            "{words:?} is not in\n{}",
            self.log
        );
        self
    }

    #[track_caller]
    fn does_not_say(self, words: &str) -> Self {
        assert!(!self.log.contains(words), "{words:?} is in\n{}", self.log);
        self
    }
}

/// Lines of shell that give this machine a group of build users, for one mount namespace. Each has a user of its own:
/// Nix kills whatever runs as a build user before and after a build, a build of another test too.
fn build_users(env: &TestEnv) -> String {
    static USERS: AtomicU32 = AtomicU32::new(0);
    let uid =
        100_000 + std::process::id() % 10_000 * 100 + USERS.fetch_add(1, Ordering::Relaxed) % 100;
    let bind = |name: &str, line: &str| {
        let mut text = fs_err::read_to_string(format!("/etc/{name}")).unwrap();
        text.push_str(line);
        let path = env.write(format!("etc-{name}"), text);
        format!("mount --bind '{}' /etc/{name}\n", path.display())
    };
    let user = format!("fetchbld1:x:{uid}:64000:builds:/var/empty:/usr/sbin/nologin\n");
    bind("passwd", &user) + &bind("group", "fetchbld:x:64000:fetchbld1\n")
}

/// A file's path as it stands in shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

#[test]
fn the_program_is_static() {
    if lacks("the_program_is_static", &["ldd"], false) {
        return;
    }
    let ldd = Command::new("ldd").arg(static_fetch()).output().unwrap();
    let said = String::from_utf8_lossy(&ldd.stdout) + String::from_utf8_lossy(&ldd.stderr);
    assert!(
        said.contains("statically linked") || said.contains("not a dynamic executable"),
        "{said}"
    );
}
