//! A real Nix store in the test's folder, filled by Nix's own tools.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use super::{TestEnv, repository};

/// The programs a [`NixStore`] needs; see [`super::lacks`].
pub(crate) const NIX: &[&str] = &["nix", "nix-store", "nix-hash", "timeout"];

/// A store with its own state and configuration, laid out as below `/nix`.
#[derive(Debug)]
pub(crate) struct NixStore {
    /// What `/nix` is elsewhere.
    root: PathBuf,
}

impl NixStore {
    /// Makes an empty store.
    pub(crate) fn new(env: &TestEnv) -> Self {
        Self::configured(env, "")
    }

    /// Makes an empty store with more lines in its nix.conf.
    pub(crate) fn configured(env: &TestEnv, configuration: &str) -> Self {
        Self::make(env, "nix", configuration)
    }

    /// Makes an empty store at `ROOT/store`.
    pub(crate) fn at(env: &TestEnv, root: &str) -> Self {
        Self::make(env, root, "")
    }

    fn make(env: &TestEnv, root: &str, configuration: &str) -> Self {
        let store = Self {
            root: env.path(root),
        };
        env.write(
            format!("{root}/etc/nix.conf"),
            format!("build-users-group =\nsandbox = false\nsubstituters =\nexperimental-features = nix-command\n{configuration}\n"),
        );
        store.nix("nix-store", &["--init"]);
        store
    }

    /// Returns the store directory.
    pub(crate) fn dir(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Returns what `/nix` is elsewhere: the store with Nix's state beside it.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Runs one of Nix's tools on this store and returns what it printed, without the last line's end.
    #[track_caller]
    pub(crate) fn nix(&self, program: &str, args: &[&str]) -> String {
        String::from_utf8(self.nix_bytes(program, args))
            .unwrap()
            .trim_end()
            .to_owned()
    }

    /// The same for output that is no text.
    #[track_caller]
    pub(crate) fn nix_bytes(&self, program: &str, args: &[&str]) -> Vec<u8> {
        let output = self.output(program, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program} {args:?}: {}\n{stderr}",
            output.status
        );
        output.stdout
    }

    /// The same where it may fail: whether it worked, and what it complained of.
    pub(crate) fn try_nix(&self, program: &str, args: &[&str]) -> (bool, String) {
        let output = self.output(program, args);
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    fn output(&self, program: &str, args: &[&str]) -> Output {
        self.command(program).args(args).output().unwrap()
    }

    /// A run of one of Nix's tools on this store.
    pub(crate) fn command(&self, program: &str) -> Command {
        // Under a limit, and never through a daemon: Nix 2.8 without a state folder forks without end.
        let mut command = Command::new("timeout");
        command
            .args(["60", program])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.root)
            .envs(self.variables());
        command
    }

    /// What tells Nix's tools that this is their store.
    pub(crate) fn variables(&self) -> [(&'static str, PathBuf); 5] {
        [
            ("NIX_REMOTE", "local".into()),
            ("NIX_STORE_DIR", self.dir()),
            ("NIX_STATE_DIR", self.root.join("var/nix")),
            ("NIX_LOG_DIR", self.root.join("var/log/nix")),
            ("NIX_CONF_DIR", self.root.join("etc")),
        ]
    }

    /// Adds a file as a fixed output, its name being the file's.
    #[track_caller]
    pub(crate) fn add_fixed(&self, algorithm: &str, recursive: bool, file: &Path) -> PathBuf {
        let mut args = vec!["--add-fixed"];
        args.extend(recursive.then_some("--recursive"));
        args.extend([algorithm, file.to_str().unwrap()]);
        self.nix("nix-store", &args).into()
    }

    /// Adds a file or tree as a source, its name being the file's.
    #[track_caller]
    pub(crate) fn add(&self, path: &Path) -> PathBuf {
        self.nix("nix-store", &["--add", path.to_str().unwrap()])
            .into()
    }

    /// Replaces equal files by hard links into `.links`.
    #[track_caller]
    pub(crate) fn optimise(&self) {
        self.nix("nix-store", &["--optimise"]);
    }

    /// Deletes one path, and the links that only it had.
    #[track_caller]
    pub(crate) fn delete(&self, path: &Path) {
        self.nix("nix-store", &["--delete", path.to_str().unwrap()]);
    }

    /// Returns the name in `.links` of the file's content: Nix's own NAR hash in Nix's own base 32.
    #[track_caller]
    pub(crate) fn link_name(&self, file: &Path) -> String {
        self.nix(
            "nix-hash",
            &["--type", "sha256", "--base32", file.to_str().unwrap()],
        )
    }

    /// Returns the SRI sha256 of the NAR of a file or tree, by Nix.
    #[track_caller]
    pub(crate) fn nar_hash(&self, path: &Path) -> String {
        self.nix(
            "nix",
            &[
                "hash",
                "path",
                "--sri",
                "--type",
                "sha256",
                path.to_str().unwrap(),
            ],
        )
    }
}

/// Returns `fetch` as one static file, as builds need it: `FETCH_STATIC_BINARY`, or built now.
pub(crate) fn static_fetch() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(program) = std::env::var_os("FETCH_STATIC_BINARY") {
            return program.into();
        }
        let built = Command::new(repository().join("contrib/static-build"))
            .arg("sandbox")
            .output()
            .unwrap();
        assert!(
            built.status.success(),
            "contrib/static-build: {}",
            String::from_utf8_lossy(&built.stderr)
        );
        String::from_utf8(built.stdout).unwrap().trim_end().into()
    })
}
