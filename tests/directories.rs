//! Whole trees: found by the store's own database and by the directory links of an index, whatever they are called.

mod folders;
mod stores;
mod trouble;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::nix::{NIX, NixStore};
use crate::support::{Run, TestEnv, lacks, mode, names_in, noise, wait_until};

impl Run<'_> {
    fn in_store(self, dir: &Path) -> Self {
        self.arg("--store").arg(dir)
    }

    fn in_medium(self, dir: &Path) -> Self {
        self.arg("--media").arg(dir)
    }

    fn with_index(self, index: &Path) -> Self {
        self.arg("--index").arg(index)
    }

    fn nar(self) -> Self {
        self.args(["--mode", "nar"])
    }

    fn git(self) -> Self {
        self.args(["--mode", "git"])
    }

    fn to(self, name: &str) -> Self {
        self.args(["--offline", "-o", name])
    }
}

/// Runs git without anybody's configuration and returns what it printed.
#[track_caller]
fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=somebody",
            "-c",
            "user.email=somebody@example.org",
        ])
        .args([
            "-c",
            "core.autocrlf=false",
            "-c",
            "core.fileMode=true",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .current_dir(dir)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {args:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

/// Makes a repository of what is in a directory and returns the id of its tree.
fn commit_all(dir: &Path) -> String {
    git(dir, &["init", "-q"]);
    git(dir, &["add", "-A", "-f"]);
    git(dir, &["commit", "-q", "--allow-empty", "-m", "all"]);
    git(dir, &["rev-parse", "HEAD^{tree}"])
}

/// Returns the ids of all directories of a repository's commit, by path.
fn tree_ids(dir: &Path) -> BTreeMap<String, String> {
    let listing = git(dir, &["ls-tree", "-r", "-t", "-z", "HEAD"]);
    listing
        .split('\0')
        .filter_map(|line| {
            let (what, path) = line.split_once('\t')?;
            let id = what.strip_prefix("040000 tree ")?;
            Some((path.to_owned(), id.to_owned()))
        })
        .collect()
}

/// A tree with everything in it that a tree can have and git can keep.
fn fill(env: &TestEnv, at: &str) -> PathBuf {
    env.write(format!("{at}/a/x"), "x\n");
    env.write(format!("{at}/a.b"), "sorts before a/\n");
    env.write(format!("{at}/a0"), "sorts after a/\n");
    env.write(format!("{at}/deep/er/data"), noise(1, 300_000));
    env.write(format!("{at}/line\nbreak/n\n"), "newlines\n");
    env.write(format!("{at}/empty"), "");
    let run = env.write(format!("{at}/deep/run"), noise(2, 5_000));
    allow(&run, 0o755);
    symlink("../a/x", env.path(format!("{at}/deep/link"))).unwrap();
    symlink("/etc/passwd", env.path(format!("{at}/out"))).unwrap();
    symlink("nowhere", env.path(format!("{at}/dangling"))).unwrap();
    env.path(at)
}

fn allow(path: &Path, mode: u32) {
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Describes everything below a directory but `.git`: types, executable bits, contents.
fn content(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(below) = open.pop() {
        let path = dir.join(&below);
        let meta = fs_err::symlink_metadata(&path).unwrap();
        let what = if meta.is_symlink() {
            format!("-> {}", fs_err::read_link(&path).unwrap().display())
        } else if meta.is_dir() {
            let names = fs_err::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            open.extend(
                names
                    .filter(|name| name != ".git")
                    .map(|name| below.join(name)),
            );
            "directory".into()
        } else {
            format!("{} {:?}", mode(&path) & 0o100, fs_err::read(&path).unwrap())
        };
        found.insert(below, what);
    }
    found
}

/// Indexes a folder.
#[track_caller]
fn update(env: &TestEnv, folder: &Path, index: &Path, algorithms: &str) {
    env.store_index(["update", "--algorithms", algorithms, "--index"])
        .arg(index)
        .arg(folder)
        .go()
        .exits(0);
}

#[track_caller]
fn checks(env: &TestEnv, index: &Path, exit: i32) -> String {
    let outcome = env
        .store_index(["check", "--content", "--index"])
        .arg(index)
        .go();
    outcome.exits(exit).stdout
}

/// Returns the links of an index with their targets.
fn links(index: &Path, kind: &str) -> BTreeMap<String, PathBuf> {
    let folder = index.join("dirlinks").join(kind);
    if !folder.exists() {
        return BTreeMap::new();
    }
    names_in(&folder)
        .into_iter()
        .map(|name| {
            let target = fs_err::read_link(folder.join(&name)).unwrap();
            (name, target)
        })
        .collect()
}
