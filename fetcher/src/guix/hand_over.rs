//! The real guix takes over: this process becomes it, with the same arguments, environment and descriptors.
//!
//! guix-daemon runs us as root for much of what it delegates. Nothing is done then but to find the program and to
//! execute it: no file is read, no handler installed, no thread started.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use store_index::path_text::printable;

/// The variable by which the administrator names the real guix.
pub const VARIABLE: &str = "FETCH_GUIX";

/// Counts in the environment how often guix was handed over to: by a wrapper that leads back to us it would be for
/// ever. The only thing that is changed.
pub const COUNT_VARIABLE: &str = "FETCH_GUIX_HANDED_OVER";

/// The most times. A guix that runs a guix is honest, and nests a few levels.
const MAX_COUNT: u32 = 16;

/// Where guix is if nobody says so: of Guix System, of a foreign distribution, of root, of a package.
const USUAL_PLACES: [&str; 5] = [
    "/run/current-system/profile/bin/guix",
    "/var/guix/profiles/per-user/root/current-guix/bin/guix",
    "/root/.config/guix/current/bin/guix",
    "/usr/local/bin/guix",
    "/usr/bin/guix",
];

/// What the real guix is called with in front.
const NAME: &str = "guix";

/// Why the real guix does not take over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandOverError {
    /// The one that was named is of no use.
    #[error(
        "the real guix cannot be {}: {reason}; FETCH_GUIX is to name it",
        printable(path)
    )]
    Unusable {
        /// What was named.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// None was named, and none found.
    #[error(
        "the real guix is not at any of the usual places; name it with FETCH_GUIX in the daemon's environment"
    )]
    NotFound,
    /// We were called by what we called.
    #[error(
        "the real guix leads back here ({MAX_COUNT} times); FETCH_GUIX is to name it, not a wrapper of this program"
    )]
    Loop,
    /// It cannot be executed.
    #[error("cannot execute {}: {source}", printable(path))]
    Exec {
        /// What.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Returns true if we were called as `guix`, by `argv[0]`.
pub fn is_called_guix(program: Option<&OsStr>) -> bool {
    program.and_then(|program| Path::new(program).file_name()) == Some(OsStr::new(NAME))
}

/// Finds the real guix: the one that is named, else the first at the usual places. Never this program itself.
pub fn find(named: Option<&Path>) -> Result<PathBuf, HandOverError> {
    let own = OwnProgram::find();
    match named {
        Some(path) => match own.examine(path) {
            Ok(()) => Ok(path.to_owned()),
            Err(reason) => Err(HandOverError::Unusable {
                path: path.to_owned(),
                reason,
            }),
        },
        None => USUAL_PLACES
            .iter()
            .map(Path::new)
            .find(|path| own.examine(path).is_ok())
            .map(Path::to_owned)
            .ok_or(HandOverError::NotFound),
    }
}

/// Becomes the real guix, with these arguments behind its name. Returns only if that fails.
pub fn exec(named: Option<&Path>, args: &[OsString]) -> HandOverError {
    let count = std::env::var(COUNT_VARIABLE)
        .ok()
        .and_then(|count| count.parse::<u32>().ok())
        .unwrap_or_default();
    if count >= MAX_COUNT {
        return HandOverError::Loop;
    }
    let path = match find(named) {
        Ok(path) => path,
        Err(error) => return error,
    };
    let source = Command::new(&path)
        .arg0(NAME)
        .args(args)
        .env(COUNT_VARIABLE, (count + 1).to_string())
        .exec();
    HandOverError::Exec { path, source }
}

/// What must not be taken for the real guix.
struct OwnProgram {
    path: Option<PathBuf>,
    /// Device and inode, which a hard link shares.
    identity: Option<(u64, u64)>,
}

impl OwnProgram {
    fn find() -> Self {
        let exe = Path::new("/proc/self/exe");
        Self {
            path: std::env::current_exe().ok(),
            identity: fs_err::metadata(exe).ok().map(|own| (own.dev(), own.ino())),
        }
    }

    fn examine(&self, path: &Path) -> Result<(), String> {
        if !path.is_absolute() {
            return Err("it is not an absolute path".to_owned());
        }
        let metadata = fs_err::metadata(path).map_err(|error| error.to_string())?;
        if !metadata.is_file() || metadata.mode() & 0o111 == 0 {
            return Err("it is not a program".to_owned());
        }
        let resolved = fs_err::canonicalize(path).ok();
        let is_own = self.identity == Some((metadata.dev(), metadata.ino()))
            || (resolved.is_some() && resolved == self.path);
        if is_own {
            return Err("it is this program itself".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_that_of_argv_0() {
        for (name, expected) in [
            ("guix", true),
            ("/usr/local/bin/guix", true),
            ("./guix", true),
            ("fetch", false),
            ("guix-daemon", false),
            ("/guix/fetch", false),
            ("", false),
        ] {
            assert_eq!(is_called_guix(Some(OsStr::new(name))), expected, "{name}");
        }
        assert!(!is_called_guix(None));
    }

    #[test]
    fn it_is_never_itself() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::env::current_exe().unwrap();
        let link = dir.path().join("guix");
        std::os::unix::fs::symlink(&own, &link).unwrap();
        let linked = dir.path().join("hard");
        // On another file system there is no hard link to be mistaken for it.
        drop(fs_err::hard_link(&own, &linked));
        for path in [own, link, linked].iter().filter(|path| path.exists()) {
            let error = find(Some(path)).unwrap_err().to_string();
            assert!(error.contains("it is this program itself"), "{error}");
        }
        let error = find(Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains("it is not a program"), "{error}");
        let error = find(Some(&dir.path().join("none"))).unwrap_err();
        assert!(matches!(error, HandOverError::Unusable { .. }), "{error}");
        assert!(find(Some(Path::new("guix"))).is_err());
        assert_eq!(
            find(Some(Path::new("/bin/sh"))).unwrap(),
            Path::new("/bin/sh")
        );
    }
}
