//! Wrong bodies are kept for a look, for those who ask for it.
//!
//! Each lies in the folder under the SHA-256 of its bytes and its name, so that the same one lies there once and nothing is
//! ever replaced. They are what a server sent instead of what was wanted, so nobody else may read them.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use store_index::address::{FileHasher, Framing};
use store_index::digest::{Algorithm, Digest};
use store_index::path_text::printable;
use store_index::watch::Watch;

use super::{Landing, NotIt};
use crate::copy;
use crate::source_url::SourceUrl;
use crate::verify;

/// How many files of one hash and name that turn out to be something else are passed over.
const MAX_NAME_TRIES: usize = 100;

/// The longest name behind the hash, in bytes: with it and a number, a file name is at most 255 bytes.
const MAX_NAME_LEN: usize = 180;

/// What a body without a name is called.
const NAMELESS: &str = "body";

impl Landing<'_> {
    /// Keeps a wrong body where the user asked for it, and says so. That it cannot be kept changes nothing else.
    pub(super) fn keep_wrong(&self, wrong: &mut NotIt, body: &File, url: &SourceUrl) {
        let Some(folder) = &self.keep_wrong else {
            return;
        };
        let name = url.default_name().ok();
        let name = name.as_deref().unwrap_or(NAMELESS);
        match keep(folder, name, body, self.watch) {
            Ok((path, hash)) => {
                let path = printable(&path);
                let kept = format!("{path} ({} bytes, {})", wrong.bytes, hash.to_sri());
                wrong.reason = format!("{}; kept as {kept}", wrong.reason);
                wrong.kept = Some(kept);
            }
            Err(error) => self.watch.progress.note(&format!(
                "the wrong body of {url} cannot be kept in {}: {error}",
                printable(folder)
            )),
        }
    }
}

/// Copies a body into a folder, which is made if it is not there. Returns where it is, and the hash of its bytes.
fn keep(folder: &Path, name: &str, body: &File, watch: Watch<'_>) -> io::Result<(PathBuf, Digest)> {
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o700);
    match builder.create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let hash = hash(body)?;
    let staged = tempfile::Builder::new()
        .prefix(".fetch-")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    copy::copy_unhashed(body, staged.as_file(), watch)?;
    let end = name.floor_char_boundary(MAX_NAME_LEN);
    let base = format!("{}-{}", hash.to_hex(), &name[..end]);
    let mut staged = staged;
    for number in 1..=MAX_NAME_TRIES {
        let path = match number {
            1 => folder.join(&base),
            _ => folder.join(format!("{base}.{number}")),
        };
        match staged.persist_noclobber(&path) {
            Ok(_) => return Ok((path, hash)),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                staged = error.file;
                if is_the_same(&path, &hash) {
                    return Ok((path, hash));
                }
            }
            Err(error) => return Err(error.error),
        }
    }
    Err(io::Error::other("every name for it is taken"))
}

/// Returns whether a file that is there already has the same bytes.
fn is_the_same(path: &Path, wanted: &Digest) -> bool {
    fs_err::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
        && fs_err::File::open(path)
            .and_then(|file| hash(file.file()))
            .is_ok_and(|hash| hash == *wanted)
}

fn hash(file: &File) -> io::Result<Digest> {
    let hasher = FileHasher::new(Framing::Flat, Algorithm::Sha256, 0);
    let hash = verify::hash_again(file, hasher)?;
    hash.ok_or_else(|| io::Error::other("it has no hash"))
}
