//! Real git repositories in the test's folder, made and checked out by git itself.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use store_index::digest::Algorithm;
use store_index::hash_text::parse;

use super::TestEnv;

/// The programs that a [`Repository`] and its oracle need; see [`super::lacks`].
pub(crate) const GIT: &[&str] = &["git", "nix-hash"];

/// A repository.
#[derive(Debug)]
pub(crate) struct Repository {
    path: PathBuf,
    home: PathBuf,
}

/// A file, symbolic link or submodule of a commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File<'a> {
    pub(crate) path: &'a str,
    pub(crate) mode: &'a str,
    /// The content; the commit's id for a submodule.
    pub(crate) content: &'a [u8],
}

/// A plain file.
pub(crate) const fn file<'a>(path: &'a str, content: &'a [u8]) -> File<'a> {
    File {
        path,
        mode: "100644",
        content,
    }
}

impl Repository {
    /// Makes an empty bare repository at a path in the test's folder.
    pub(crate) fn bare(env: &TestEnv, path: &str) -> Self {
        let repository = Self::at(env, path);
        fs_err::create_dir_all(&repository.path).unwrap();
        repository.git(&["init", "--quiet", "--bare", "--initial-branch=main"]);
        repository
    }

    /// Names a repository that is there.
    pub(crate) fn at(env: &TestEnv, path: &str) -> Self {
        Self {
            path: env.path(path),
            home: env.path("home"),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs git in it, knowing no configuration but the repository's, and returns what it printed.
    #[track_caller]
    pub(crate) fn git(&self, args: &[&str]) -> String {
        self.git_fed(args, b"")
    }

    /// The same with standard input.
    #[track_caller]
    pub(crate) fn git_fed(&self, args: &[&str], input: &[u8]) -> String {
        let mut command = Command::new("git");
        command
            .args(["-c", "protocol.file.allow=always", "-c", "gc.auto=0"])
            .args(["-c", "user.name=A", "-c", "user.email=a@example.org"])
            .args(args)
            .current_dir(&self.path)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z")
            .env("GIT_AUTHOR_DATE", "2026-01-01T00:00:00Z")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "git {args:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    }

    /// Commits exactly these files to a branch, bytes as they are, and returns the commit's id.
    pub(crate) fn commit(&self, branch: &str, files: &[File<'_>]) -> String {
        let mut stream = Vec::new();
        let has_branch = !self
            .git(&["for-each-ref", &format!("refs/heads/{branch}")])
            .is_empty();
        writeln!(stream, "commit refs/heads/{branch}").unwrap();
        writeln!(stream, "committer A <a@example.org> 1767225600 +0000").unwrap();
        writeln!(stream, "data 1\nx").unwrap();
        if has_branch {
            writeln!(stream, "from refs/heads/{branch}^0").unwrap();
        }
        writeln!(stream, "deleteall").unwrap();
        for File {
            path,
            mode,
            content,
        } in files
        {
            let quoted: String = path.bytes().map(|byte| format!("\\{byte:03o}")).collect();
            if *mode == "160000" {
                let id = std::str::from_utf8(content).unwrap();
                writeln!(stream, "M 160000 {id} \"{quoted}\"").unwrap();
            } else {
                writeln!(stream, "M {mode} inline \"{quoted}\"").unwrap();
                writeln!(stream, "data {}", content.len()).unwrap();
                stream.extend_from_slice(content);
                writeln!(stream).unwrap();
            }
        }
        self.git_fed(&["fast-import", "--quiet"], &stream);
        self.git(&["rev-parse", &format!("refs/heads/{branch}")])
    }

    /// Writes an object of a kind, sensible or not, and returns its id.
    pub(crate) fn object(&self, kind: &str, content: &[u8]) -> String {
        let args = ["hash-object", "-t", kind, "-w", "--literally", "--stdin"];
        self.git_fed(&args, content)
    }

    /// Writes a tree of one entry, sensible or not, and returns its id.
    pub(crate) fn tree(&self, entries: &[(&str, &[u8], &str)]) -> String {
        let mut tree = Vec::new();
        for (mode, name, id) in entries {
            tree.extend(mode.bytes().chain([b' ']));
            tree.extend(*name);
            tree.push(0);
            tree.extend(
                id.as_bytes()
                    .chunks(2)
                    .map(|hex| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap()),
            );
        }
        self.object("tree", &tree)
    }

    /// The oracle: the SRI NAR hash of what a fresh clone has at a revision, `.git` removed.
    pub(crate) fn nar_of_clone(&self, env: &TestEnv, revision: &str) -> String {
        let clone = tempfile::tempdir_in(env.path("tmp")).unwrap();
        let path = clone.path().to_str().unwrap();
        let source = self.path.to_str().unwrap();
        self.git(&["clone", "--quiet", "--no-checkout", source, path]);
        let work = Self {
            path: clone.path().to_owned(),
            home: self.home.clone(),
        };
        work.git(&["checkout", "--quiet", "--detach", revision]);
        fs_err::remove_dir_all(work.path.join(".git")).unwrap();
        nar_of(&work.path)
    }
}

/// Returns the SRI NAR hash of a path, by Nix.
#[track_caller]
pub(crate) fn nar_of(path: &Path) -> String {
    let output = Command::new("nix-hash")
        .args(["--type", "sha256"])
        .arg(path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let hex = String::from_utf8(output.stdout).unwrap();
    let hash = parse(hex.trim_end(), Some(Algorithm::Sha256)).unwrap();
    hash.digest.to_sri()
}

/// The oracle: the SRI NAR hash of what a recursive clone by git has, every `.git` removed.
pub(crate) fn nar_of_recursive_clone(env: &TestEnv, url: &str, revision: &str) -> String {
    let folder = tempfile::tempdir_in(env.path("tmp")).unwrap();
    let git = Repository::at(env, "tmp");
    let clone = folder.path().join("clone");
    git.git(&["clone", "-q", url, clone.to_str().unwrap()]);
    let work = Repository::at(
        env,
        clone.strip_prefix(env.path("")).unwrap().to_str().unwrap(),
    );
    work.git(&["checkout", "-q", "--detach", revision]);
    work.git(&["submodule", "--quiet", "update", "--init", "--recursive"]);
    remove_git(&clone);
    nar_of(&clone)
}

fn remove_git(folder: &Path) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        match (
            entry.file_name() == ".git",
            entry.file_type().unwrap().is_dir(),
        ) {
            (true, true) => fs_err::remove_dir_all(&path).unwrap(),
            (true, false) => fs_err::remove_file(&path).unwrap(),
            (false, true) => remove_git(&path),
            (false, false) => {}
        }
    }
}
