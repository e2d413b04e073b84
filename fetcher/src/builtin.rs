//! What is common to the modes in which a daemon runs us, on behalf of somebody who may read less than we may.
//!
//! Such a mode makes a [`Request`](crate::request::Request) whose target is
//! [`Target::Given`](crate::request::Target::Given), opens the places of [`Settings`], and calls
//! [`fetch::run`](crate::fetch::run) with [`Settings::policy`]: content lands in the output itself, local files count
//! only if everybody may read them, and where nothing is right the first wrong body of the request's own URLs is left
//! for the daemon, whose message tells the packager the hash ([`Report::left`](crate::report::Report::left)).

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use store_index::store_option::StoreOption;

use crate::cli::{Environment, NetworkArgs, PlaceArgs, access};
use crate::error::FetchError;
use crate::fetch::{LockPolicy, Policy};
use crate::net::{Access, Limits};
use crate::places::{Named, Places};
use crate::report::{Attempt, AttemptResult, Listener};
use crate::source::SourceKind;
use crate::stale_hash::StaleHash;

/// How long a build waits for another one that downloads the same content, unless that is configured: a daemon may
/// have a time limit of its own.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// What the administrator configured, by the environment of the daemon and by the system's file.
#[derive(Debug)]
pub struct Settings {
    /// The store of the build: what its store paths begin with.
    pub store: String,
    /// The places that may be asked, the store of the build among them.
    pub named: Named,
    /// Open no socket.
    pub offline: bool,
    /// Bounds of downloads.
    pub limits: Limits,
    /// What to do while another build downloads the same content.
    pub lock: LockPolicy,
    /// Which URLs may be asked, and with which passwords.
    pub access: Arc<Access>,
    /// The real guix.
    pub guix: Option<PathBuf>,
}

impl Settings {
    /// Reads them. `default_store` is that of a daemon that names none.
    pub fn read(environment: &Environment<'_>, default_store: &str) -> Result<Self, FetchError> {
        let (mut named, store) = PlaceArgs::default().interpret(environment)?;
        let store = store.unwrap_or_else(|| default_store.to_owned());
        let own = StoreOption::parse(&store, None).map_err(|error| {
            FetchError::usage(format!("the store '{}': {error}", store.escape_debug()))
        })?;
        let store = own.logical.clone();
        // Before it comes the same store where it is mounted as a whole somewhere else: there is all that is here, so
        // an index that was named serves there.
        if !named.stores.contains(&own) {
            named.stores.push(own);
        }
        named.builtin = true;
        // A build's users have no home, and nothing is shared between them.
        // Unless an administrator has made a folder for each of them.
        let uid = rustix::process::geteuid().as_raw();
        let state_dir = environment.configuration.state_dir.as_ref();
        named.state = state_dir.map(|folder| folder.join(uid.to_string()));
        named.no_store = true;
        named.no_media = true;
        Ok(Self {
            store,
            named,
            offline: environment.switch_or(
                false,
                "FETCH_OFFLINE",
                environment.configuration.offline,
            )?,
            limits: NetworkArgs::default().limits(environment)?,
            lock: NetworkArgs::default()
                .lock(environment)?
                .unwrap_or(LockPolicy::WaitFor(LONGEST_WAIT)),
            access: access(environment),
            guix: environment.guix()?,
        })
    }

    /// Opens the places. A check looks at none of them: it is there to ask upstream again.
    pub fn places(&self, is_check: bool) -> Result<Places, FetchError> {
        let named = Named {
            no_local: is_check || self.named.no_local,
            ..self.named.clone()
        };
        Places::open(&named, None)
    }

    /// Returns true if a location, ready to print, is in one of the stores: those count as public.
    pub(crate) fn in_store(&self, location: &str) -> bool {
        let location = Path::new(location);
        let mut stores = self.named.stores.iter();
        stores.any(|store| location.starts_with(&store.real))
    }

    /// How a fetch for a daemon is to be done. A match under the name of another version is never used: nobody would
    /// read the warning.
    pub fn policy(&self) -> Policy {
        Policy {
            offline: self.offline,
            stale_hash: StaleHash::Refuse,
            limits: self.limits,
            lock: self.lock,
            access: Arc::clone(&self.access),
            leave_wrong: true,
            ..Policy::default()
        }
    }
}

/// Says in a build's log what happened, and no more than whoever asked may know: a hash is no proof of possession, so
/// that of a local place only a hit is told, its path only inside the store, and wrong bytes not at all.
pub struct Log<'a> {
    settings: &'a Settings,
    /// The command that repairs the store.
    repair: &'static str,
    say: &'a dyn Fn(&str),
    /// Whether a local place was hit or missed has been told.
    told: Cell<bool>,
}

impl std::fmt::Debug for Log<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<'a> Log<'a> {
    /// Makes one that writes lines with `say`.
    pub fn new(settings: &'a Settings, repair: &'static str, say: &'a dyn Fn(&str)) -> Self {
        Self {
            settings,
            repair,
            say,
            told: Cell::new(false),
        }
    }

    fn told_hit(&self, attempt: &Attempt) {
        let line = if self.settings.in_store(&attempt.location) {
            format!("{} ({} bytes)", attempt.location, attempt.bytes)
        } else {
            format!("a local copy ({})", attempt.kind.name())
        };
        (self.say)(&format!("not downloaded, copied from {line}"));
    }
}

impl Listener for Log<'_> {
    fn warning(&self, _message: &str) {
        // Warnings name local places; what matters to a build comes as an attempt.
    }

    fn loud_warning(&self, message: &str) {
        (self.say)(message);
    }

    fn attempt(&self, attempt: &Attempt) {
        let is_url = matches!(
            attempt.kind,
            SourceKind::Url | SourceKind::HashedMirror | SourceKind::Git | SourceKind::Archive
        );
        let reason = attempt.reason.as_deref().unwrap_or_default();
        match attempt.result {
            AttemptResult::Ok if !is_url => self.told_hit(attempt),
            AttemptResult::Ok => {}
            AttemptResult::Skipped if is_url => {
                (self.say)(&format!("{} is skipped: {reason}", attempt.location));
            }
            _ if is_url => {
                if !self.told.replace(true) {
                    (self.say)("no local copy");
                }
                (self.say)(&format!(
                    "{}: {}: {reason}",
                    attempt.location,
                    attempt.result.name()
                ));
            }
            AttemptResult::Suspicious => {
                (self.say)("a local copy is passed over: it has the name of another version");
            }
            AttemptResult::Mismatch
                if attempt.kind == SourceKind::Links
                    && self.settings.in_store(&attempt.location) =>
            {
                (self.say)(&format!(
                    "warning: {} is corrupt: its content is not what its name or index says; repair the store with `{}`",
                    attempt.location, self.repair
                ));
            }
            _ => {}
        }
    }
}
