//! Names of commits: `HEAD`, and `refs` as files of their own or in `packed-refs`.

use std::io::{self, BufRead as _, BufReader, Read as _};

use gix::ObjectId;
use rustix::fs::FileType;

use super::folder::{Folder, is_absent};

/// The longest reference, in bytes: an id, or another reference's name.
const MAX_REFERENCE_BYTES: u64 = 4096;

/// How often a reference may refer to another, as in git.
const MAX_SYMBOLIC: usize = 5;

/// The most of `packed-refs` that is read, in bytes: some 4 million references.
const MAX_PACKED_BYTES: u64 = 256 << 20;

/// The longest line of it, in bytes.
const MAX_LINE_BYTES: u64 = 8192;

/// The most remotes whose branches are looked at.
const MAX_REMOTES: usize = 64;

/// Returns the ids that a name may stand for, the likeliest first: a tag, a branch, a branch of a remote, because in
/// a clone the branches of the original are those of the remote.
pub(super) fn resolve(
    git_dir: &Folder,
    common_dir: &Folder,
    name: &str,
) -> io::Result<Vec<ObjectId>> {
    let names = if name == "HEAD" || name.starts_with("refs/") {
        vec![name.to_owned()]
    } else {
        let mut names = vec![format!("refs/tags/{name}"), format!("refs/heads/{name}")];
        for remote in remotes(common_dir)? {
            names.push(format!("refs/remotes/{remote}/{name}"));
        }
        names
    };
    let mut ids = Vec::new();
    for name in names {
        if let Some(id) = follow(git_dir, common_dir, name)?
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// `origin` first; it may have packed references only.
fn remotes(common_dir: &Folder) -> io::Result<Vec<String>> {
    let mut remotes = vec!["origin".to_owned()];
    let entries = match common_dir.join("refs/remotes").list(MAX_REMOTES) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => Vec::new(),
        Err(error) => return Err(error),
    };
    for (name, file_type) in entries {
        if file_type == FileType::Directory
            && let Some(name) = name.to_str()
            && name != "origin"
        {
            remotes.push(name.to_owned());
        }
    }
    Ok(remotes)
}

fn follow(git_dir: &Folder, common_dir: &Folder, name: String) -> io::Result<Option<ObjectId>> {
    let mut name = name;
    for _ in 0..=MAX_SYMBOLIC {
        let folder = if name.starts_with("refs/") {
            common_dir
        } else {
            git_dir
        };
        let loose = match folder.read(&name, MAX_REFERENCE_BYTES) {
            Ok(loose) => loose,
            // `refs/heads/a` may be a folder while `a` is wanted.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => None,
            Err(error) => return Err(error),
        };
        let Some(loose) = loose else {
            return packed(common_dir, &name);
        };
        let loose = loose.trim_ascii();
        let Some(target) = loose.strip_prefix(b"ref:") else {
            return Ok(ObjectId::from_hex(loose).ok());
        };
        let target = target.trim_ascii();
        match gix::validate::reference::name(target.into()) {
            Ok(target) => name = target.to_string(),
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

/// Each line of `packed-refs` is an id and a name; comments and peeled tags begin otherwise.
fn packed(common_dir: &Folder, name: &str) -> io::Result<Option<ObjectId>> {
    let file = match common_dir.open_file("packed-refs") {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut reader = BufReader::new(file.take(MAX_PACKED_BYTES));
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut reader)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)?
            == 0
        {
            return Ok(None);
        }
        let mut parts = line.trim_ascii_end().splitn(2, |&byte| byte == b' ');
        if let (Some(id), Some(found)) = (parts.next(), parts.next())
            && found == name.as_bytes()
            && let Ok(id) = ObjectId::from_hex(id)
        {
            return Ok(Some(id));
        }
    }
}
