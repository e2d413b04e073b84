//! Bundles: a pack with references before it, in a file. The system's git takes them apart.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::line::Line;
use super::room::Room;
use super::{is_local, system};
use crate::download::DownloadError;
use crate::git::Revision;
use crate::source_url::SourceUrl;

/// How bundles of all versions begin.
const START: &[u8; 3] = b"# v";

/// The longest list of references before a pack, in bytes: half a million.
const MAX_HEADER_BYTES: u64 = 64 << 20;

/// The reference that is no branch and no tag.
const HEAD: &str = "HEAD";

/// What it becomes in our repository, whose own leads elsewhere.
const OUR_HEAD: &str = "refs/bundle/HEAD";

/// Returns true if a `file://` URL names a bundle instead of a repository.
pub(crate) fn is_bundle(url: &SourceUrl) -> bool {
    path_of(url).is_some()
}

/// Returns the path of the bundle that a `file://` URL names.
pub(super) fn path_of(url: &SourceUrl) -> Option<PathBuf> {
    let path = is_local(url).then(|| url.file_path().ok())??;
    let mut start = [0; START.len()];
    // What is no regular file may do something when it is opened.
    let mut file = path.is_file().then(|| fs_err::File::open(&path).ok())??;
    file.read_exact(&mut start).ok()?;
    (start == *START).then_some(path)
}

/// Says of a server's refusal that it may be due to a bundle.
pub(super) fn explained(error: DownloadError, url: &SourceUrl) -> DownloadError {
    if !url.url().path().ends_with(".bundle") {
        return error;
    }
    error.explained(|what| {
        format!("{what}; a bundle is read as a file only: download it, and name it as file:///…")
    })
}

/// Fetches everything from a bundle into an empty repository, and returns what a revision is called there.
pub(super) fn unpack(
    path: &Path,
    room: &Room,
    revision: &Revision,
    line: &Line<'_>,
) -> Result<Revision, DownloadError> {
    let has_head = has_head(path).map_err(|error| DownloadError::trouble(error.to_string()))?;
    let head = has_head.then(|| format!("+{HEAD}:{OUR_HEAD}"));
    system::fetch_bundle(room.path(), path, head.as_deref(), line)?;
    match revision {
        Revision::Name(name) if name == HEAD && has_head => Ok(Revision::Name(OUR_HEAD.to_owned())),
        Revision::Name(name) if name == HEAD => {
            let what = "the bundle has no HEAD; a tag, a branch or a commit's full id can be named";
            Err(DownloadError::Gone(what.into()))
        }
        other => Ok(other.clone()),
    }
}

/// Looks through the references, of which each line is one; an empty one ends them.
fn has_head(path: &Path) -> io::Result<bool> {
    let mut header = BufReader::new(fs_err::File::open(path)?).take(MAX_HEADER_BYTES);
    let mut line = Vec::new();
    loop {
        line.clear();
        header.read_until(b'\n', &mut line)?;
        let name = line.split(|&byte| byte == b' ').nth(1);
        match name.map(<[u8]>::trim_ascii_end) {
            Some(name) if name == HEAD.as_bytes() && line[0] != b'-' => return Ok(true),
            _ if line.trim_ascii_end().is_empty() => return Ok(false),
            _ => {}
        }
    }
}
