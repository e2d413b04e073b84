//! Fixed-output builds of Nix: our builder beside Nix's own, in the sandbox, on private stores.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::fixtures;
use crate::measure::Job;
use crate::nginx::Nginx;
use crate::report::{Bound, Row};
use crate::rows::{Bench, in_words};

/// Where the sandbox has our program.
const PROGRAM: &str = "/fetch";

/// Names the static program; `tests/bench` builds it.
const PROGRAM_VARIABLE: &str = "FETCH_STATIC_BINARY";

/// What is built.
const NAME: &str = "wanted";

pub(crate) fn builds(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(vec![Row::not_measured(
            "builds of Nix",
            "its sandbox needs root",
        )]);
    }
    let program = std::env::var_os(PROGRAM_VARIABLE).ok_or_else(|| {
        format!("{PROGRAM_VARIABLE} is not set: contrib/static-build builds the program")
    })?;
    fs_err::create_dir(folder.join("www"))?;
    let server = Nginx::start(folder)?;
    let mut rows = Vec::new();
    for (number, len) in bench.sizes.built_bytes.into_iter().enumerate() {
        let file = folder.join(format!("www/file-{number}"));
        let hash = fixtures::file(&file, len, 100 + number as u64)?;
        let url = server.url(&format!("file-{number}"));
        let own = folder.join(number.to_string());
        // One store has the content under another name, the other has nothing.
        let with = Nix::new(&own.join("with"), Path::new(&program))?;
        let without = Nix::new(&own.join("without"), Path::new(&program))?;
        with.call("nix-store", &["--add-fixed", "sha256", text(&file)?])?;
        let wanted = format!(
            "name = \"{NAME}\"; url = \"{url}\"; outputHash = \"{hash}\"; outputHashAlgo = \"sha256\"; outputHashMode = \"flat\";"
        );
        let ours = format!(
            "derivation {{ {wanted} system = builtins.currentSystem; builder = \"{PROGRAM}\"; args = [ \"builder\" ]; "
        );
        let jobs = [
            with.build("copied", &format!("{ours} FETCH_STORE = \"=/host/store\"; }}"), &hash)?,
            without.build("downloaded", &format!("{ours} }}"), &hash)?,
            without.build(
                "`builtin:fetchurl`",
                &format!("derivation {{ {wanted} system = \"builtin\"; builder = \"builtin:fetchurl\"; }}"),
                &hash,
            )?,
        ];
        let series = bench.turns(bench.sizes.build_runs(len), &jobs)?;
        let size = in_words(len);
        rows.extend([
            Row::times(
                &format!("build of {size}, content in the store"),
                &series[0],
                &series[2],
                Bound::None,
            ),
            Row::times(
                &format!("build of {size}, loopback http"),
                &series[1],
                &series[2],
                Bound::None,
            ),
        ]);
        drop(jobs);
        fs_err::remove_dir_all(&own)?;
        fs_err::remove_file(&file)?;
    }
    Ok(rows)
}

/// A private store with its own state and configuration.
struct Nix {
    root: PathBuf,
}

impl Nix {
    fn new(root: &Path, program: &Path) -> Result<Self> {
        fs_err::create_dir_all(root.join("etc"))?;
        let (shown, program) = (text(root)?, text(program)?);
        fs_err::write(
            root.join("etc/nix.conf"),
            format!(
                "build-users-group =\nsandbox = true\nsubstituters =\nsandbox-paths = {PROGRAM}={program} /host/store={shown}/./store\n"
            ),
        )?;
        let nix = Self {
            root: root.to_owned(),
        };
        nix.call("nix-store", &["--init"])?;
        Ok(nix)
    }

    /// The words of a call: never through a daemon, and never without an end.
    fn words(&self, program: &str) -> Vec<OsString> {
        let mut words: Vec<OsString> = ["timeout", "300", "env", "NIX_REMOTE=local"]
            .map(OsString::from)
            .into();
        for (name, folder) in [
            ("NIX_STORE_DIR", "store"),
            ("NIX_STATE_DIR", "var/nix"),
            ("NIX_LOG_DIR", "var/log/nix"),
            ("NIX_CONF_DIR", "etc"),
        ] {
            let mut word = OsString::from(format!("{name}="));
            word.push(self.root.join(folder));
            words.push(word);
        }
        words.push(program.into());
        words
    }

    fn call(&self, program: &str, args: &[&str]) -> Result<String> {
        let words = self.words(program);
        let output = Command::new(&words[0])
            .args(&words[1..])
            .args(args)
            .output()?;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?.trim_end().to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{program} {args:?}: {}\n{said}", output.status).into())
    }

    /// A build, whose output is deleted before.
    fn build(&self, name: &str, expression: &str, hash: &str) -> Result<Job<'_>> {
        let output = self.call("nix-store", &["--print-fixed-path", "sha256", hash, NAME])?;
        let mut words = self.words("nix-build");
        words.extend(["--no-out-link", "-E", expression].map(OsString::from));
        Ok(Job::new(name, words).prepared_by(move || {
            if Path::new(&output).exists() {
                self.call("nix-store", &["--delete", &output])?;
            }
            rustix::fs::sync();
            Ok(())
        }))
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| "a path is not UTF-8".into())
}
