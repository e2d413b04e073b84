//! Downloads and clones of something whose hash is not known: the first that comes whole tells it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use store_index::address::ContentAddress;
use store_index::beneath::Beneath;
use store_index::path_text::printable;
use store_index::tree::TreeError;
use store_index::watch::{Unit, Watch};

use super::{Item, Wish};
use crate::copy::{self, CopyError};
use crate::disk;
use crate::download::{DownloadError, Downloader};
use crate::error::{ErrorKind, FetchError};
use crate::fetch::{self, Policy};
use crate::git::remote::{self, Rooms};
use crate::own_folder::OwnFolder;
use crate::places::Places;
use crate::present_store::PresentStore;
use crate::publish;
use crate::report::{Attempt, AttemptResult, Listener, Success};
use crate::request::{GitSource, Request, Target};
use crate::source::SourceKind;
use crate::source_url::{Scheme, SourceUrl};
use crate::staging::{Place, StagedFile};
use crate::tree_copy;
use crate::verify::{FileCheck, Verdict};

/// What came of one URL: the hash and the length, or why nothing.
pub(super) type Download = Result<(ContentAddress, u64), (AttemptResult, String)>;

/// Hears what is told again in other words.
struct Unheard;

impl Listener for Unheard {
    fn warning(&self, _message: &str) {}
    fn loud_warning(&self, _message: &str) {}
    fn attempt(&self, _attempt: &Attempt) {}
}

/// Downloads of something whose hash is not known.
pub(super) struct Downloads<'a> {
    pub(super) wish: &'a Wish,
    pub(super) listener: &'a dyn Listener,
    pub(super) watch: Watch<'a>,
    pub(super) attempts: &'a mut Vec<Attempt>,
    /// What is said if nothing comes that there is room for.
    pub(super) no_room: Option<FetchError>,
}

/// A download that landed, and the hash that it has.
pub(super) struct Landed {
    folder: OwnFolder,
    address: ContentAddress,
    source: Success,
}

impl Landed {
    pub(super) fn add(self, wish: &Wish, store: &PresentStore) -> Result<Item, FetchError> {
        let content = self.folder.path(&wish.name);
        let path = store.add(&self.address, &wish.name, &content)?;
        Ok(Item {
            path,
            address: self.address,
            source: Some(self.source),
        })
    }
}

impl Downloads<'_> {
    /// Takes the first that comes whole.
    pub(super) fn first(&mut self, policy: &Policy) -> Result<Landed, FetchError> {
        let request = &self.wish.request;
        let is_here = |git: &GitSource| remote::is_local(&git.url) && !git.submodules;
        let is_of_here = request.git.as_ref().is_some_and(is_here)
            || request.urls.iter().any(SourceUrl::is_file);
        if policy.offline && !is_of_here {
            return Err(FetchError::usage(
                "without a hash there is nothing to look for here, and the network is off (--offline)",
            )
            .with_hint("say with --hash what is wanted"));
        }
        if let Some(git) = &request.git {
            return self.commit(git, policy);
        }
        if request.unpack {
            return self.first_unpacked(policy);
        }
        let folder = OwnFolder::new()?;
        let mut downloader = Downloader::new(
            policy.limits,
            policy.client.clone(),
            Arc::clone(&policy.access),
        )
        .one_at_a_time();
        let mut trouble = None;
        let urls = request.urls.iter().flat_map(|url| {
            let mirrors = request.mirror_sites.expand(url);
            if mirrors.is_empty() {
                vec![url.clone()]
            } else {
                mirrors
            }
        });
        for url in &urls.collect::<Vec<_>>() {
            let started = Instant::now();
            let asked = match policy.access.rules.apply(url) {
                _ if url.is_file() => self.copy_here(url, &folder)?,
                Ok(_) if policy.offline => {
                    let reason = "the network is off (--offline)".to_owned();
                    Err((AttemptResult::Skipped, reason))
                }
                Ok(asked) => self.download(&asked, &mut downloader, &folder)?,
                Err(blocked) => Err((AttemptResult::Skipped, blocked.to_string())),
            };
            let (result, reason) = match asked {
                Ok((address, bytes)) => {
                    self.record(
                        SourceKind::Url,
                        url,
                        AttemptResult::Ok,
                        None,
                        bytes,
                        started,
                    );
                    let source = Success {
                        kind: SourceKind::Url,
                        location: url.to_string(),
                        bytes,
                        executable: self.wish.request.executable,
                    };
                    return Ok(Landed {
                        folder,
                        address,
                        source,
                    });
                }
                Err(not) => not,
            };
            // The worst of it decides on the exit code: that it is not there is said only if all say so.
            let kind = match result {
                AttemptResult::Absent => ErrorKind::NotFound,
                AttemptResult::Skipped => ErrorKind::Usage,
                _ => ErrorKind::Network,
            };
            trouble = match trouble {
                Some((ErrorKind::Network, _)) if kind != ErrorKind::Network => trouble,
                Some((ErrorKind::NotFound, _)) if kind == ErrorKind::Usage => trouble,
                _ => Some((kind, format!("{url}: {reason}"))),
            };
            self.record(SourceKind::Url, url, result, Some(reason), 0, started);
        }
        if let Some(no_room) = self.no_room.take() {
            return Err(no_room);
        }
        Err(match trouble {
            Some((kind, reason)) => FetchError::new(
                kind,
                format!("cannot download {}\n  {reason}", self.wish.name),
            )
            .with_hint("give another URL, or try again later"),
            None => FetchError::usage("neither a hash nor a URL says what is wanted"),
        })
    }

    /// Checks a commit out. All of it comes from the repository that was named: without a hash nothing says whether
    /// what is kept or known of it is right. A name may be that of a tag and a branch; as to git, it is the tag's.
    fn commit(&mut self, git: &GitSource, policy: &Policy) -> Result<Landed, FetchError> {
        if !remote::is_supported(&git.url) {
            return Err(FetchError::usage(format!(
                "repositories are not fetched from {}:// URLs",
                git.url.url().scheme()
            )));
        }
        let folder = OwnFolder::new()?;
        let path = folder.path(&self.wish.name);
        let cannot_write = |error: std::io::Error| cannot_write(&path, &error);
        let place = Place::open(&path).map_err(cannot_write)?;
        let started = Instant::now();
        let mut rooms = Rooms::new(None, &place, None);
        let what = format!("fetching {}", git.url);
        self.watch.progress.begin(&what, None, Unit::Bytes);
        let downloader = Downloader::new(
            policy.limits,
            policy.client.clone(),
            Arc::clone(&policy.access),
        );
        let fetched = downloader
            .client()
            .and_then(|client| remote::fetch(git, None, &mut rooms, client, self.watch));
        self.watch.progress.end();
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(error) => {
                let (result, reason) = self.not_downloaded(error, cannot_write)?;
                let kind = match result {
                    AttemptResult::Absent => ErrorKind::NotFound,
                    _ => ErrorKind::Network,
                };
                let message = format!("cannot fetch {}\n  {}: {reason}", self.wish.name, git.url);
                self.record(SourceKind::Git, &git.url, result, Some(reason), 0, started);
                return Err(FetchError::new(kind, message)
                    .with_hint("see that URL and revision are right, or try again later"));
            }
        };
        let checkout = fetched.checkouts.first().ok_or_else(no_such_hash)?;
        fs_err::create_dir(&path).map_err(cannot_write)?;
        let directory = fs_err::File::open(&path).map_err(cannot_write)?;
        let address = &self.wish.request.address;
        let what = format!("checking out {}", git.url);
        self.watch.progress.begin(&what, None, Unit::Bytes);
        let checked_out =
            tree_copy::check_out(address, checkout, directory.into_file().into(), self.watch);
        self.watch.progress.end();
        let (address, bytes) = self.hash_of(checked_out)?;
        self.record(
            SourceKind::Git,
            &git.url,
            AttemptResult::Ok,
            Some(fetched.remark()),
            bytes,
            started,
        );
        Ok(Landed {
            folder,
            address,
            source: Success {
                kind: SourceKind::Git,
                location: git.url.to_string(),
                bytes,
                executable: false,
            },
        })
    }

    /// Unpacks the first archive that comes whole: what a daemon would be left, whose hash then tells what it is.
    fn first_unpacked(&mut self, policy: &Policy) -> Result<Landed, FetchError> {
        if self.wish.request.urls.is_empty() {
            return Err(FetchError::usage(
                "neither a hash nor a URL says what is wanted",
            ));
        }
        let folder = OwnFolder::new()?;
        let policy = Policy {
            leave_wrong: true,
            // Nothing is wrong as long as nobody knows the hash.
            keep_wrong: None,
            keep_copies: None,
            ..policy.clone()
        };
        let mut trouble = None;
        let mut no_room = None;
        for url in &self.wish.request.urls {
            if url.is_file() {
                let started = Instant::now();
                match self.unpack_here(url, &policy, &folder)? {
                    Ok(location) => {
                        let ok = AttemptResult::Ok;
                        self.record(SourceKind::Url, url, ok, None, 0, started);
                        return self.hash_tree(folder, location);
                    }
                    Err((result, reason)) => {
                        trouble = Some(ErrorKind::NotFound);
                        self.record(SourceKind::Url, url, result, Some(reason), 0, started);
                    }
                }
                continue;
            }
            let request = Request {
                target: Target::Given(folder.path(&self.wish.name)),
                urls: vec![url.clone()],
                ..self.wish.request.clone()
            };
            let report = fetch::run(&request, &Places::default(), &policy, &Unheard, self.watch);
            // A body that there is no room for is one URL's; what keeps us from writing at all is met by none.
            let is_of_url = report.attempts.iter().any(|attempt| {
                attempt.kind == SourceKind::Url && attempt.result == AttemptResult::Failed
            });
            for mut attempt in report.attempts {
                // Nothing can have a hash that nobody knows.
                if report.left.as_deref() == Some(attempt.location.as_str()) {
                    attempt.result = AttemptResult::Ok;
                    attempt.reason = None;
                }
                self.listener.attempt(&attempt);
                self.attempts.push(attempt);
            }
            match (report.left, report.result) {
                (Some(location), _) => return self.hash_tree(folder, location),
                (None, Err(error)) if error.kind == ErrorKind::Local && is_of_url => {
                    no_room = Some(error);
                }
                (None, Err(error))
                    if matches!(error.kind, ErrorKind::Local | ErrorKind::Interrupted) =>
                {
                    return Err(error);
                }
                (None, Err(error)) => trouble = Some(error.kind),
                (None, Ok(_)) => return Err(no_such_hash()),
            }
        }
        if let Some(no_room) = no_room {
            return Err(no_room);
        }
        Err(FetchError::new(
            trouble.unwrap_or(ErrorKind::Mismatch),
            format!("no URL of {} delivered an archive", self.wish.name),
        )
        .with_hint("-v says why; without --unpack files are taken as they are"))
    }

    /// Hashes what was unpacked.
    fn hash_tree(&self, folder: OwnFolder, location: String) -> Result<Landed, FetchError> {
        let node = Beneath::open(folder.root())
            .and_then(|root| root.open_node(Path::new(self.wish.name.as_str())))
            .map_err(|error| FetchError::local(error.to_string()))?;
        let hashed = tree_copy::hash(&self.wish.request.address, node, self.watch);
        let (address, bytes) = self.hash_of(hashed)?;
        Ok(Landed {
            folder,
            address,
            source: Success {
                kind: SourceKind::Url,
                location,
                bytes,
                executable: false,
            },
        })
    }

    /// Returns the hash that a tree has, which is not that of nothing.
    fn hash_of(
        &self,
        hashed: Result<Verdict, TreeError>,
    ) -> Result<(ContentAddress, u64), FetchError> {
        let method = self.wish.request.address.method();
        match hashed {
            Ok(Verdict::Wrong {
                got: Some(got),
                bytes,
            }) => Ok((
                ContentAddress::new(method, got).ok_or_else(no_such_hash)?,
                bytes,
            )),
            Ok(_) => Err(no_such_hash()),
            Err(TreeError::Interrupted) => Err(FetchError::interrupted()),
            Err(error) => Err(FetchError::local(error.to_string())),
        }
    }

    /// Opens an empty file where content gets its name, over what a broken download left.
    pub(super) fn room(&self, folder: &OwnFolder) -> Result<File, FetchError> {
        let path = folder.path(&self.wish.name);
        let opened = fs_err::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path);
        let file = opened.map_err(|error| cannot_write(&path, &error))?;
        Ok(file.into_file())
    }

    /// Another URL may have less to send where this one has too much for the disk.
    pub(super) fn no_room_or(
        &mut self,
        said: FetchError,
        error: &std::io::Error,
    ) -> Result<(AttemptResult, String), FetchError> {
        if !disk::is_full(error) {
            return Err(said);
        }
        self.no_room = Some(said);
        Ok((AttemptResult::Failed, error.to_string()))
    }

    /// Downloads from one place.
    fn download(
        &mut self,
        url: &SourceUrl,
        downloader: &mut Downloader,
        folder: &OwnFolder,
    ) -> Result<Download, FetchError> {
        match url.scheme() {
            Scheme::Http | Scheme::Https => {}
            Scheme::Mirror => {
                let reason = "no mirrors are known for that site".to_owned();
                return Ok(Err((AttemptResult::Skipped, reason)));
            }
            Scheme::Other(scheme) => {
                let reason = format!("the scheme {scheme}:// is not supported");
                return Ok(Err((AttemptResult::Skipped, reason)));
            }
        }
        let file = self.room(folder)?;
        let what = format!("downloading {url}");
        self.watch.progress.begin(&what, None, Unit::Bytes);
        let mut room = StagedFile { file, hidden: None };
        let landed = downloader.land_archive(url, &mut room, None, self.watch);
        self.watch.progress.end();
        let file = room.file;
        let path = folder.path(&self.wish.name);
        match landed {
            Ok((bytes, _)) => {
                publish::set_mode(&file, self.wish.request.executable)
                    .map_err(|error| cannot_write(&path, &error))?;
                Ok(Ok((self.hash(&file, bytes)?, bytes)))
            }
            Err(DownloadError::Write(error)) => self
                .no_room_or(cannot_write(&path, &error), &error)
                .map(Err),
            Err(error) => self
                .not_downloaded(error, |error| cannot_write(&path, &error))
                .map(Err),
        }
    }

    /// Tells what another URL may replace from what ends the run.
    fn not_downloaded(
        &self,
        error: DownloadError,
        cannot_write: impl FnOnce(std::io::Error) -> FetchError,
    ) -> Result<(AttemptResult, String), FetchError> {
        match error {
            DownloadError::Interrupted => Err(FetchError::interrupted()),
            DownloadError::Write(error) => Err(cannot_write(error)),
            DownloadError::Local(reason) => Err(FetchError::local(reason)),
            DownloadError::Gone(reason) => Ok((AttemptResult::Absent, reason)),
            DownloadError::Trouble { reason, .. } => Ok((AttemptResult::Failed, reason)),
        }
    }

    fn hash(&self, file: &File, bytes: u64) -> Result<ContentAddress, FetchError> {
        let address = &self.wish.request.address;
        let executable = self.wish.request.executable;
        let check = FileCheck::new(address, executable, executable, Some(bytes));
        self.watch
            .progress
            .begin("hashing what came", Some(bytes), Unit::Bytes);
        let verdict = {
            use std::io::Seek as _;
            let mut start = file;
            start
                .rewind()
                .map_err(CopyError::Read)
                .and_then(|()| copy::hash(file, bytes, check, self.watch))
        };
        self.watch.progress.end();
        self.address_of(verdict)
    }

    /// Returns what the hash of a file is.
    pub(super) fn address_of(
        &self,
        verdict: Result<Verdict, CopyError>,
    ) -> Result<ContentAddress, FetchError> {
        let address = &self.wish.request.address;
        match verdict {
            Ok(Verdict::Right(_)) => Ok(*address),
            Ok(Verdict::Wrong { got: Some(got), .. }) => {
                ContentAddress::new(address.method(), got).ok_or_else(no_such_hash)
            }
            Ok(Verdict::Wrong { got: None, .. }) => Err(no_such_hash()),
            Err(CopyError::Interrupted) => Err(FetchError::interrupted()),
            Err(error) => Err(FetchError::local(format!(
                "cannot read what was downloaded: {error}"
            ))),
        }
    }

    fn record(
        &mut self,
        kind: SourceKind,
        url: &SourceUrl,
        result: AttemptResult,
        reason: Option<String>,
        bytes: u64,
        started: Instant,
    ) {
        let attempt = Attempt {
            kind,
            location: url.to_string(),
            result,
            reason,
            bytes,
            took: started.elapsed(),
        };
        self.listener.attempt(&attempt);
        self.attempts.push(attempt);
    }
}

pub(super) fn cannot_write(path: &Path, error: &std::io::Error) -> FetchError {
    OwnFolder::explain(FetchError::local(format!(
        "cannot write {}: {error}",
        printable(path)
    )))
}

pub(super) fn no_such_hash() -> FetchError {
    FetchError::local("what was downloaded has no hash of the kind that is wanted")
}
