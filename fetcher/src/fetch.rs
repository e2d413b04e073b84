//! The walk: ask the sources in order, let a candidate land, verify, publish; on a mismatch the next candidate.

use std::collections::HashSet;
use std::io::{self, Seek as _, Write as _};
use std::time::Instant;

use store_index::address::ContentAddress;
use store_index::beneath::Node;
use store_index::digest::Digest;
use store_index::tree::TreeError;
use store_index::watch::{Unit, Watch};

use crate::copy::{self, CopyError};
use crate::download::Downloader;
use crate::error::{ErrorKind, FetchError};
use crate::net::Limits;
use crate::output::{self, Found};
use crate::places::Places;
use crate::publish::{self, Published};
use crate::report::{Attempt, AttemptResult, Listener, Report, Success};
use crate::request::{Request, Target};
use crate::source::{self, Candidate, CandidatePlace, KnownNames, Lookup, Source, printable_path};
use crate::staging::{Place, StagedFile, StagedTree};
use crate::stale_hash::{self, StaleHash};
use crate::tree_copy;
use crate::verify::{FileCheck, Verdict, Verified};

/// After this many wrong candidates a source is left out: its index is stale or lies.
const MAX_WRONG_CANDIDATES: usize = 3;

/// How a fetch is to be done, apart from what is wanted.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Open no socket.
    pub offline: bool,
    /// Replace what stands at the output.
    pub force: bool,
    /// What to do about names of other versions.
    pub stale_hash: StaleHash,
    /// Bounds of downloads.
    pub limits: Limits,
}

/// Fetches.
pub fn run(
    request: &Request,
    places: &Places,
    policy: &Policy,
    listener: &dyn Listener,
    watch: Watch<'_>,
) -> Report {
    let started = Instant::now();
    let mut walk = Walk {
        request,
        policy,
        listener,
        watch,
        attempts: Vec::new(),
        tried: HashSet::new(),
        suspicious: Vec::new(),
        downloader: Downloader::new(policy.limits),
        network: NetworkSummary::default(),
    };
    let result = walk.run(places);
    Report {
        attempts: walk.attempts,
        result,
        took: started.elapsed(),
    }
}

/// What the network sources said, of which the exit code is made.
#[derive(Debug, Default)]
struct NetworkSummary {
    /// A server was asked.
    asked: bool,
    /// A complete wrong body came: from where, and what it was.
    wrong: Option<(String, Option<Digest>, u64)>,
    /// The last trouble that was not a plain "not there".
    trouble: Option<String>,
    /// URLs of unsupported schemes.
    unusable: usize,
}

struct Walk<'a> {
    request: &'a Request,
    policy: &'a Policy,
    listener: &'a dyn Listener,
    watch: Watch<'a>,
    attempts: Vec<Attempt>,
    /// Local places that were tried, since several sources may lead to one.
    tried: HashSet<String>,
    /// Candidates that the guard passed over.
    suspicious: Vec<Candidate>,
    downloader: Downloader,
    network: NetworkSummary,
}

/// What trying one candidate led to.
enum Tried {
    Delivered(Verified),
    /// It is not the wanted content; the walk goes on.
    NotIt {
        result: AttemptResult,
        reason: String,
        bytes: u64,
    },
}

/// Where content lands.
struct Room {
    /// `None` for standard output.
    place: Option<Place>,
    file: StagedFile,
}

impl Walk<'_> {
    fn run(&mut self, places: &Places) -> Result<Success, FetchError> {
        let mut room = match &self.request.target {
            Target::Stdout => None,
            Target::Path(path) => {
                let place = Place::open(path).map_err(|error| self.folder_error(&error))?;
                if let Some(done) = self.output_already_there(&place)? {
                    return Ok(done);
                }
                Some(place)
            }
        };
        let file = match &room {
            Some(place) => StagedFile::beside(place),
            None => StagedFile::temporary(),
        };
        let mut room = Room {
            place: room.take(),
            file: file.map_err(|error| self.folder_error(&error))?,
        };
        for mut source in source::in_order(places, self.request) {
            if source.is_network() && self.policy.offline {
                let reason = Some("the network is off (--offline)".to_owned());
                let (kind, location) = (source.kind(), source.location());
                self.record(
                    kind,
                    location,
                    AttemptResult::Skipped,
                    reason,
                    0,
                    Instant::now(),
                );
                continue;
            }
            if let Some(done) = self.ask(source.as_mut(), &mut room)? {
                return Ok(done);
            }
        }
        if self.policy.offline && self.policy.stale_hash == StaleHash::Auto {
            for candidate in std::mem::take(&mut self.suspicious) {
                self.listener.warning(&format!(
                    "using {} although its version is not the one asked for: is the hash stale? (--stale-hash refuse prevents this)",
                    candidate.location
                ));
                if let Some(done) = self.attempt(&candidate, &mut room)? {
                    return Ok(done);
                }
                self.suspicious.push(candidate);
            }
        }
        Err(self.verdict())
    }

    fn output_already_there(&mut self, place: &Place) -> Result<Option<Success>, FetchError> {
        let started = Instant::now();
        let location = printable_path(&place.path);
        match output::examine(self.request, place, self.watch)? {
            Found::Nothing => Ok(None),
            Found::Right(verified) => {
                let kind = source::SourceKind::Output;
                self.record(
                    kind,
                    location.clone(),
                    AttemptResult::Ok,
                    None,
                    verified.bytes(),
                    started,
                );
                Ok(Some(success(kind, location, &verified)))
            }
            Found::Wrong(_) if self.policy.force => Ok(None),
            Found::Wrong(what) => Err(FetchError::local(format!(
                "the output {location} is already there: {what}"
            ))
            .with_hint("remove it, choose another path with -o, or replace it with --force")),
            Found::FullDirectory(what) => Err(FetchError::local(format!(
                "the output {location} is already there: {what}"
            ))
            .with_hint("remove it or choose another path with -o; a directory is never replaced")),
        }
    }

    fn folder_error(&self, error: &io::Error) -> FetchError {
        let folder = match &self.request.target {
            Target::Path(path) => path.parent().map_or_else(|| ".".to_owned(), printable_path),
            Target::Stdout => printable_path(&std::env::temp_dir()),
        };
        let hint = match error.kind() {
            io::ErrorKind::NotFound => {
                "the output's folder must exist: make it, or choose another path with -o"
            }
            _ => "choose another path with -o",
        };
        FetchError::local(format!(
            "cannot write in the output's folder {folder}: {error}"
        ))
        .with_hint(hint)
    }

    /// Asks one source and tries what it names.
    fn ask(
        &mut self,
        source: &mut dyn Source,
        room: &mut Room,
    ) -> Result<Option<Success>, FetchError> {
        let started = Instant::now();
        let lookup = source.look_up(self.request, self.watch);
        self.stop_if_interrupted()?;
        let (result, reason) = match lookup {
            Lookup::Found(candidates) => return self.try_all(source, candidates, room),
            Lookup::Absent(reason) => (AttemptResult::Absent, reason),
            Lookup::Unavailable(reason) => (AttemptResult::Unavailable, Some(reason)),
            Lookup::Skipped(reason) => (AttemptResult::Skipped, Some(reason)),
        };
        if result == AttemptResult::Skipped {
            let reason = reason.as_deref().unwrap_or_default();
            self.listener
                .warning(&format!("{} is skipped: {reason}", source.location()));
            self.network.unusable += usize::from(source.is_network());
        }
        self.record(source.kind(), source.location(), result, reason, 0, started);
        Ok(None)
    }

    fn try_all(
        &mut self,
        source: &mut dyn Source,
        candidates: Vec<Candidate>,
        room: &mut Room,
    ) -> Result<Option<Success>, FetchError> {
        let mut wrong = 0;
        for candidate in candidates {
            if wrong >= MAX_WRONG_CANDIDATES {
                self.listener.warning(&format!(
                    "{} named {wrong} places with other content and is left out: store-index update brings its index up to date",
                    source.location()
                ));
                break;
            }
            if matches!(candidate.place, CandidatePlace::Local { .. })
                && !self.tried.insert(candidate.location.clone())
            {
                continue;
            }
            if self.pass_over(source, &candidate) {
                continue;
            }
            if let Some(done) = self.attempt(&candidate, room)? {
                return Ok(Some(done));
            }
            wrong += usize::from(
                self.attempts
                    .last()
                    .is_some_and(|last| last.result == AttemptResult::Mismatch),
            );
        }
        Ok(None)
    }

    /// The stale-hash guard: true if the candidate is not to be used now.
    fn pass_over(&mut self, source: &mut dyn Source, candidate: &Candidate) -> bool {
        let guarded = !matches!(candidate.names, KnownNames::NotGuarded)
            && self.policy.stale_hash != StaleHash::Ignore
            && self
                .request
                .asked_names
                .iter()
                .any(|name| stale_hash::has_version(name));
        if !guarded {
            return false;
        }
        let started = Instant::now();
        let known = source.learn_names(candidate);
        if !stale_hash::is_suspicious(&self.request.asked_names, &known) {
            return false;
        }
        let reason = format!(
            "known as {}, asked for as {}",
            known.join(", "),
            self.request.asked_names.join(", ")
        );
        self.listener.warning(&format!(
            "{} has the wanted hash, but is {reason}: is the hash stale?",
            candidate.location
        ));
        self.record(
            candidate.kind,
            candidate.location.clone(),
            AttemptResult::Suspicious,
            Some(reason),
            0,
            started,
        );
        self.suspicious.push(candidate.clone());
        true
    }

    /// Lets one candidate land, and publishes it if it is right.
    fn attempt(
        &mut self,
        candidate: &Candidate,
        room: &mut Room,
    ) -> Result<Option<Success>, FetchError> {
        let started = Instant::now();
        room.file
            .empty()
            .map_err(|error| self.write_error(&error))?;
        let tried = match &candidate.place {
            CandidatePlace::Local { root, path, size } => match root.open_node(path) {
                Ok(Node::File(file)) => self.land_file(candidate, &file, *size, room),
                Ok(Node::Directory(directory)) => {
                    return self.land_tree(candidate, directory, room, started);
                }
                Ok(Node::Symlink(_)) => Ok(not_it(
                    AttemptResult::Failed,
                    "a symbolic link, which is not followed",
                )),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Ok(not_it(AttemptResult::Absent, "it has vanished"))
                }
                Err(error) => Ok(not_it(AttemptResult::Failed, error.to_string())),
            },
            CandidatePlace::Url(url) => {
                self.network.asked = true;
                self.watch.progress.begin(
                    &format!("downloading {}", candidate.location),
                    None,
                    Unit::Bytes,
                );
                let landed = self
                    .downloader
                    .land(url, self.request, &room.file.file, self.watch);
                self.watch.progress.end();
                self.judge_download(candidate, landed)
            }
        }?;
        match tried {
            Tried::Delivered(verified) => {
                let bytes = verified.bytes();
                let success = success(candidate.kind, candidate.location.clone(), &verified);
                self.publish_file(verified, room)?;
                self.record(
                    candidate.kind,
                    candidate.location.clone(),
                    AttemptResult::Ok,
                    None,
                    bytes,
                    started,
                );
                Ok(Some(success))
            }
            Tried::NotIt {
                result,
                reason,
                bytes,
            } => {
                self.record(
                    candidate.kind,
                    candidate.location.clone(),
                    result,
                    Some(reason),
                    bytes,
                    started,
                );
                Ok(None)
            }
        }
    }

    fn land_file(
        &mut self,
        candidate: &Candidate,
        file: &std::fs::File,
        indexed_size: Option<u64>,
        room: &Room,
    ) -> Result<Tried, FetchError> {
        let metadata = match file.metadata() {
            Ok(metadata) => metadata,
            Err(error) => return Ok(not_it(AttemptResult::Failed, error.to_string())),
        };
        let size = metadata.len();
        if let Some(indexed) = indexed_size.filter(|&indexed| indexed != size) {
            let reason = format!("it has {size} bytes, and had {indexed} when it was indexed");
            return Ok(not_it(AttemptResult::Mismatch, reason));
        }
        let executable = publish::is_executable(&metadata);
        let check = FileCheck::new(
            &self.request.address,
            self.request.executable,
            executable,
            Some(size),
        );
        self.watch.progress.begin(
            &format!("copying {}", candidate.location),
            Some(size),
            Unit::Bytes,
        );
        let copied = copy::copy(file, size, &room.file.file, check, self.watch);
        self.watch.progress.end();
        match copied {
            Ok(Verdict::Right(verified)) => Ok(Tried::Delivered(verified)),
            Ok(Verdict::Wrong { got, bytes }) => Ok(Tried::NotIt {
                result: AttemptResult::Mismatch,
                reason: self.describe_wrong(got.as_ref()),
                bytes,
            }),
            Err(CopyError::Interrupted) => Err(FetchError::interrupted()),
            Err(CopyError::Write(error)) => Err(self.write_error(&error)),
            Err(error @ CopyError::Changed { .. }) => {
                Ok(not_it(AttemptResult::Failed, error.to_string()))
            }
            Err(error @ CopyError::Read(_)) => Ok(not_it(AttemptResult::Failed, error.to_string())),
        }
    }

    fn land_tree(
        &mut self,
        candidate: &Candidate,
        directory: std::os::fd::OwnedFd,
        room: &Room,
        started: Instant,
    ) -> Result<Option<Success>, FetchError> {
        let (kind, location) = (candidate.kind, candidate.location.clone());
        if matches!(self.request.address, ContentAddress::Flat(_)) {
            let reason = "a directory, and a file is wanted".to_owned();
            self.record(
                kind,
                location,
                AttemptResult::Mismatch,
                Some(reason),
                0,
                started,
            );
            return Ok(None);
        }
        let Some(place) = &room.place else {
            let reason = "a directory, which cannot go to standard output".to_owned();
            self.record(
                kind,
                location,
                AttemptResult::Skipped,
                Some(reason),
                0,
                started,
            );
            return Ok(None);
        };
        let staged = StagedTree::beside(place).map_err(|error| self.write_error(&error))?;
        let target = staged
            .directory()
            .map_err(|error| self.write_error(&error))?;
        self.watch
            .progress
            .begin(&format!("copying {location}"), None, Unit::Bytes);
        let copied = tree_copy::copy(&self.request.address, directory, target, self.watch);
        self.watch.progress.end();
        let (result, reason, bytes) = match copied {
            Ok(Verdict::Right(verified)) => {
                let (bytes, success) =
                    (verified.bytes(), success(kind, location.clone(), &verified));
                match publish::tree(staged, verified, place, self.policy.force) {
                    Ok(Published::Done) => {}
                    Ok(Published::Taken) => self.accept_what_appeared(place)?,
                    Err(error) => return Err(self.write_error(&error)),
                }
                self.record(kind, location, AttemptResult::Ok, None, bytes, started);
                return Ok(Some(success));
            }
            Ok(Verdict::Wrong { got, bytes }) => (
                AttemptResult::Mismatch,
                self.describe_wrong(got.as_ref()),
                bytes,
            ),
            Err(TreeError::Interrupted) => return Err(FetchError::interrupted()),
            // The hashes of git refuse content that was made to collide.
            Err(TreeError::Visit { source, .. }) if source.kind() == io::ErrorKind::InvalidData => {
                (AttemptResult::Mismatch, source.to_string(), 0)
            }
            Err(TreeError::Visit { path, source }) => {
                let place = format!("{}: {source}", printable_path(&path));
                return Err(self.write_error(&io::Error::new(source.kind(), place)));
            }
            Err(error) => (AttemptResult::Failed, error.to_string(), 0),
        };
        self.record(kind, location, result, Some(reason), bytes, started);
        Ok(None)
    }

    fn judge_download(
        &mut self,
        candidate: &Candidate,
        landed: Result<Verdict, crate::download::DownloadError>,
    ) -> Result<Tried, FetchError> {
        use crate::download::DownloadError;
        match landed {
            Ok(Verdict::Right(verified)) => Ok(Tried::Delivered(verified)),
            Ok(Verdict::Wrong { got, bytes }) => {
                let reason = self.describe_wrong(got.as_ref());
                self.network
                    .wrong
                    .get_or_insert((candidate.location.clone(), got, bytes));
                Ok(Tried::NotIt {
                    result: AttemptResult::Mismatch,
                    reason,
                    bytes,
                })
            }
            Err(DownloadError::Interrupted) => Err(FetchError::interrupted()),
            Err(DownloadError::Write(error)) => Err(self.write_error(&error)),
            Err(DownloadError::Gone(reason)) => Ok(not_it(AttemptResult::Absent, reason)),
            Err(DownloadError::Trouble(reason)) => {
                self.network.trouble = Some(format!("{}: {reason}", candidate.location));
                Ok(not_it(AttemptResult::Failed, reason))
            }
        }
    }

    fn publish_file(&mut self, verified: Verified, room: &mut Room) -> Result<(), FetchError> {
        let Some(place) = &room.place else {
            return write_to_stdout(&mut room.file).map_err(|error| {
                FetchError::local(format!(
                    "the content is right, but standard output takes no more: {error}"
                ))
            });
        };
        match publish::file(&mut room.file, verified, place, self.policy.force) {
            Ok(Published::Done) => Ok(()),
            Ok(Published::Taken) => self.accept_what_appeared(place),
            Err(error) => Err(self.write_error(&error)),
        }
    }

    /// Another process was faster. If it brought the same content, all is well.
    fn accept_what_appeared(&self, place: &Place) -> Result<(), FetchError> {
        match output::examine(self.request, place, self.watch)? {
            Found::Right(_) => Ok(()),
            Found::Nothing | Found::Wrong(_) | Found::FullDirectory(_) => {
                Err(FetchError::local(format!(
                    "while this ran, something else appeared at the output {}",
                    printable_path(&place.path)
                ))
                .with_hint("nothing was replaced; use --force to replace it"))
            }
        }
    }

    fn write_error(&self, error: &io::Error) -> FetchError {
        let output = match &self.request.target {
            Target::Path(path) => printable_path(path),
            Target::Stdout => "a temporary file for standard output".to_owned(),
        };
        let hint = match error.kind() {
            io::ErrorKind::StorageFull => {
                "make room on that file system, or choose another with -o"
            }
            _ => "choose another path with -o",
        };
        FetchError::local(format!(
            "cannot write {output}: {error}; nothing was left behind"
        ))
        .with_hint(hint)
    }

    fn describe_wrong(&self, got: Option<&Digest>) -> String {
        let wanted = self.request.wanted();
        match got {
            Some(got) => format!("wanted {wanted}, got {}", got.in_form(self.request.form)),
            None => format!("wanted {wanted}, got content that has no such hash"),
        }
    }

    fn stop_if_interrupted(&self) -> Result<(), FetchError> {
        if self.watch.interrupted() {
            Err(FetchError::interrupted())
        } else {
            Ok(())
        }
    }

    fn record(
        &mut self,
        kind: source::SourceKind,
        location: String,
        result: AttemptResult,
        reason: Option<String>,
        bytes: u64,
        started: Instant,
    ) {
        let attempt = Attempt {
            kind,
            location,
            result,
            reason,
            bytes,
            took: started.elapsed(),
        };
        self.listener.attempt(&attempt);
        self.attempts.push(attempt);
    }

    /// Why nothing was delivered.
    fn verdict(&self) -> FetchError {
        let what = match &self.request.name {
            Some(name) => format!("{} ({name})", self.request.wanted()),
            None => self.request.wanted(),
        };
        let network = &self.network;
        let error = if let Some((location, got, bytes)) = &network.wrong {
            let got = got.map_or_else(
                || "content that has no such hash".to_owned(),
                |got| got.in_form(self.request.form).to_string(),
            );
            FetchError::new(
                ErrorKind::Mismatch,
                format!("hash mismatch\n  wanted: {what}\n  got:    {got} ({bytes} bytes)\n  from:   {location}"),
            )
            .with_hint("check that URL and hash belong together; if upstream replaced the file, the hash needs a change")
        } else if let Some(trouble) = &network.trouble {
            FetchError::new(
                ErrorKind::Network,
                format!("cannot download {what}\n  {trouble}"),
            )
            .with_hint("try again later, or give another URL")
        } else if !self.policy.offline
            && network.unusable > 0
            && !network.asked
            && self.only_unsupported_urls()
        {
            FetchError::usage(format!(
                "no usable URL is left for {what}, and no local source has it"
            ))
            .with_hint("http:// and https:// URLs can be downloaded")
        } else {
            let searched = match (network.asked, self.policy.offline) {
                (true, _) => {
                    "no local source has it, and every server answered that it is not there"
                }
                (false, true) => "no local source has it, and the network is off (--offline)",
                (false, false) => "no local source has it, and there was no URL to ask",
            };
            FetchError::new(ErrorKind::NotFound, format!("not found: {what}\n  {searched}"))
                .with_hint("store-index update makes more of this machine's files findable; fetch explain shows what was asked")
        };
        if self.suspicious.is_empty() {
            return error;
        }
        let locations: Vec<_> = self
            .suspicious
            .iter()
            .map(|candidate| candidate.location.as_str())
            .collect();
        FetchError {
            message: format!(
                "{}\n  stale hash? it is here under the name of another version: {}",
                error.message,
                locations.join(", ")
            ),
            ..error
        }
        .with_hint("if the hash is right, --stale-hash ignore uses what is here; if not, put in the new version's hash")
    }

    fn only_unsupported_urls(&self) -> bool {
        use crate::source_url::Scheme;
        self.request
            .urls
            .iter()
            .all(|url| matches!(url.scheme(), Scheme::Other(_)))
    }
}

fn success(kind: source::SourceKind, location: String, verified: &Verified) -> Success {
    Success {
        kind,
        location,
        bytes: verified.bytes(),
        executable: verified.executable(),
    }
}

fn not_it(result: AttemptResult, reason: impl Into<String>) -> Tried {
    Tried::NotIt {
        result,
        reason: reason.into(),
        bytes: 0,
    }
}

fn write_to_stdout(staged: &mut StagedFile) -> io::Result<()> {
    staged.file.rewind()?;
    let mut stdout = io::stdout().lock();
    io::copy(&mut staged.file, &mut stdout)?;
    stdout.flush()
}
