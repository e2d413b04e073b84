//! The configuration files: the system's, which the builtin modes read too, and the user's.
//!
//! What a file says counts where neither an option nor a variable says anything, and the user's file goes before the
//! system's, key by key: lists are replaced, not joined. `docs/configuration.md` describes every key.

mod text;

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::OFlags;
use store_index::mounts::MountPattern;
use store_index::path_text::printable;
use store_index::store_option::StoreOption;
use store_index::terminal::ProgressMode;

use self::text::{Read, TextFile};
use crate::archives::Archive;
use crate::error::FetchError;
use crate::fetch::LockPolicy;
use crate::mirrors::MirrorSites;
use crate::net::{Limits, Rules, Widening};
use crate::source_url::SourceUrl;
use crate::stale_hash::StaleHash;

/// The administrator's file.
pub const SYSTEM_FILE: &str = "/etc/fetch/fetch.toml";

/// The user's file below `$XDG_CONFIG_HOME`.
const USER_FILE: &str = "fetch/fetch.toml";

/// The largest file that is read, in bytes: thousands of paths. More is no configuration.
const MAX_FILE_LEN: u64 = 1 << 20;

/// The longest time that may be given for a timeout: more is a mistake in the unit.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// What the files say; `None` where they say nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configuration {
    /// Stores instead of the default ones.
    pub stores: Option<Vec<StoreOption>>,
    /// Indexes, or folders of indexes.
    pub indexes: Option<Vec<PathBuf>>,
    /// Folders and media.
    pub media: Option<Vec<PathBuf>>,
    /// Which mounted file systems are asked like a disc.
    pub media_globs: Option<Vec<MountPattern>>,
    /// No store but those named.
    pub no_store: Option<bool>,
    /// No medium but those named.
    pub no_media: Option<bool>,
    /// No local source at all.
    pub no_local: Option<bool>,
    /// Open no socket.
    pub offline: Option<bool>,
    /// What to do about names of other versions.
    pub stale_hash: Option<StaleHash>,
    /// How progress is shown.
    pub progress: Option<ProgressMode>,
    /// Say nothing but errors.
    pub quiet: Option<bool>,
    /// Say what each source answered.
    pub verbose: Option<bool>,
    /// The real guix.
    pub guix: Option<PathBuf>,
    /// Servers that name files by their hashes.
    pub mirrors: Option<Vec<SourceUrl>>,
    /// The sites of `mirror://` URLs that are not the built-in ones.
    pub mirror_sites: Option<MirrorSites>,
    /// Public archives that are asked last.
    pub archives: Option<Vec<Archive>>,
    /// Which URLs are asked, and which in place of others.
    pub url_rules: Option<Rules>,
    /// User names and passwords for servers.
    pub netrc: Option<PathBuf>,
    /// What to do while another process downloads the same content.
    pub lock: Option<LockPolicy>,
    /// Where builds keep what they keep: it holds a folder for each uid.
    pub state_dir: Option<PathBuf>,
    /// Bounds of downloads.
    pub limits: ConfiguredLimits,
    /// Copies of what was downloaded.
    pub copies: ConfiguredCopies,
}

/// The table `[copies]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfiguredCopies {
    /// Whether they are kept.
    pub keep: Option<bool>,
    /// How much they may be in all, in bytes.
    pub max_bytes: Option<u64>,
    /// How long one stays that is not used.
    pub max_age: Option<Duration>,
}

impl ConfiguredCopies {
    fn over(self, below: Self) -> Self {
        Self {
            keep: self.keep.or(below.keep),
            max_bytes: self.max_bytes.or(below.max_bytes),
            max_age: self.max_age.or(below.max_age),
        }
    }
}

/// What the system's file says to the builtin modes.
#[derive(Debug)]
pub struct System {
    /// What is right in it.
    pub configuration: Configuration,
    /// What is to be said of the rest.
    pub warnings: Vec<String>,
    /// The first mistake, if there is one: something that the file says may be missing.
    pub mistake: Option<FetchError>,
}

/// The table `[limits]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfiguredLimits {
    /// Longest time to connect.
    pub connect_timeout: Option<Duration>,
    /// Longest wait for the first byte.
    pub first_byte_timeout: Option<Duration>,
    /// Longest time below the least speed.
    pub stall_timeout: Option<Duration>,
    /// The least speed, in bytes a second.
    pub stall_bytes_per_second: Option<u64>,
    /// Longest download, in bytes.
    pub max_bytes: Option<u64>,
    /// What stays free on a disk, in bytes.
    pub disk_reserve: Option<u64>,
    /// Most connections to one host.
    pub connections: Option<u32>,
    /// Most redirects.
    pub max_redirects: Option<u32>,
    /// How often a URL is asked in all.
    pub tries: Option<u32>,
    /// Longest wait between tries, all in all.
    pub retry_budget: Option<Duration>,
}

impl ConfiguredLimits {
    /// Returns the bounds, with the usual ones where nothing was said.
    pub fn or_default(&self) -> Limits {
        let usual = Limits::default();
        Limits {
            connect_timeout: self.connect_timeout.unwrap_or(usual.connect_timeout),
            first_byte_timeout: self.first_byte_timeout.unwrap_or(usual.first_byte_timeout),
            stall_window: self.stall_timeout.unwrap_or(usual.stall_window),
            stall_bytes_per_second: self
                .stall_bytes_per_second
                .unwrap_or(usual.stall_bytes_per_second),
            max_bytes: self.max_bytes.unwrap_or(usual.max_bytes),
            disk_reserve: self.disk_reserve.or(usual.disk_reserve),
            widening: Widening {
                connections: self.connections.unwrap_or(usual.widening.connections),
                ..usual.widening
            },
            max_redirects: self.max_redirects.unwrap_or(usual.max_redirects),
            tries: self.tries.unwrap_or(usual.tries),
            retry_budget: self.retry_budget.unwrap_or(usual.retry_budget),
        }
    }
}

/// Returns a timeout of so many seconds, if it is a sensible one.
pub(crate) fn timeout(seconds: f64) -> Option<Duration> {
    let duration = Duration::try_from_secs_f64(seconds).ok()?;
    (!duration.is_zero() && duration <= MAX_TIMEOUT).then_some(duration)
}

/// Returns a wait of so many seconds, which may be none, if it is a sensible one.
pub(crate) fn wait(seconds: f64) -> Option<Duration> {
    let duration = Duration::try_from_secs_f64(seconds).ok()?;
    (duration <= MAX_TIMEOUT).then_some(duration)
}

/// Returns so many days, if that is a sensible time.
pub(crate) fn days_of(days: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(days * 24.0 * 60.0 * 60.0).ok()
}

impl Configuration {
    /// Reads the system's file alone, for the builtin modes: neither a caller nor a derivation can point elsewhere.
    /// A mistake in it must not stop every build, nor allow what the file may forbid.
    pub fn system() -> System {
        let path = Path::new(SYSTEM_FILE);
        match read(path, None) {
            Ok(read) => read.lenient(path),
            Err(error) => System {
                configuration: Self {
                    offline: Some(true),
                    ..Self::default()
                },
                warnings: vec![format!(
                    "{error}; it may say that no socket is to be opened, so none is"
                )],
                mistake: Some(error),
            },
        }
    }

    /// Reads the system's file and, over it, the user's. Keys that are not known are errors.
    pub fn of_user(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, FetchError> {
        let directory = |name: &str| {
            variable(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let home = directory("HOME");
        let folder =
            directory("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        let system = read(Path::new(SYSTEM_FILE), None)?.strict()?;
        let Some(folder) = folder else {
            return Ok(system);
        };
        let reader = User {
            home: home.as_deref(),
        };
        let user = read(&folder.join(USER_FILE), Some(reader))?.strict()?;
        Ok(user.over(system))
    }

    fn over(self, below: Self) -> Self {
        Self {
            stores: self.stores.or(below.stores),
            indexes: self.indexes.or(below.indexes),
            media: self.media.or(below.media),
            media_globs: self.media_globs.or(below.media_globs),
            no_store: self.no_store.or(below.no_store),
            no_media: self.no_media.or(below.no_media),
            no_local: self.no_local.or(below.no_local),
            offline: self.offline.or(below.offline),
            stale_hash: self.stale_hash.or(below.stale_hash),
            progress: self.progress.or(below.progress),
            quiet: self.quiet.or(below.quiet),
            verbose: self.verbose.or(below.verbose),
            guix: self.guix.or(below.guix),
            mirrors: self.mirrors.or(below.mirrors),
            mirror_sites: self.mirror_sites.or(below.mirror_sites),
            archives: self.archives.or(below.archives),
            url_rules: self.url_rules.or(below.url_rules),
            netrc: self.netrc.or(below.netrc),
            lock: self.lock.or(below.lock),
            // A user's own is in the usual place.
            state_dir: below.state_dir,
            limits: self.limits.over(below.limits),
            copies: self.copies.over(below.copies),
        }
    }
}

impl ConfiguredLimits {
    fn over(self, below: Self) -> Self {
        Self {
            connect_timeout: self.connect_timeout.or(below.connect_timeout),
            first_byte_timeout: self.first_byte_timeout.or(below.first_byte_timeout),
            stall_timeout: self.stall_timeout.or(below.stall_timeout),
            stall_bytes_per_second: self.stall_bytes_per_second.or(below.stall_bytes_per_second),
            max_bytes: self.max_bytes.or(below.max_bytes),
            disk_reserve: self.disk_reserve.or(below.disk_reserve),
            connections: self.connections.or(below.connections),
            max_redirects: self.max_redirects.or(below.max_redirects),
            tries: self.tries.or(below.tries),
            retry_budget: self.retry_budget.or(below.retry_budget),
        }
    }
}

/// Whose file it is, if it is not the system's.
#[derive(Clone, Copy, Debug)]
struct User<'a> {
    /// What `~` stands for.
    home: Option<&'a Path>,
}

/// Reads a file; one that is not there says nothing.
fn read(path: &Path, user: Option<User<'_>>) -> Result<Read, FetchError> {
    let unusable = |what: &dyn std::fmt::Display| {
        FetchError::local(format!(
            "the configuration file {} cannot be used: {what}",
            printable(path)
        ))
    };
    // A pipe must not hold us.
    let opened = fs_err::OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Read::default());
        }
        Err(error) => return Err(unusable(&error)),
    };
    let metadata = file.metadata().map_err(|error| unusable(&error))?;
    if !metadata.is_file() {
        return Err(unusable(&"it is no file"));
    }
    // The system's file is the administrator's affair.
    if user.is_some() {
        let owner = metadata.uid();
        if owner != 0 && owner != rustix::process::geteuid().as_raw() {
            return Err(unusable(&"it belongs to somebody else")
                .with_hint("it says which programs are run and what is read; make it your own"));
        }
        if metadata.mode() & 0o002 != 0 {
            return Err(unusable(&"everybody can write it").with_hint("chmod o-w"));
        }
    }
    let mut text = String::new();
    let read = (&mut file).take(MAX_FILE_LEN + 1).read_to_string(&mut text);
    let length = read.map_err(|error| unusable(&error))?;
    if length as u64 > MAX_FILE_LEN {
        return Err(unusable(&format!(
            "it has more than {MAX_FILE_LEN} bytes, which no configuration has"
        )));
    }
    let file = TextFile {
        path,
        text: &text,
        home: user.and_then(|user| user.home),
    };
    Ok(file.parse())
}
