//! Lets a download land: the network stack is built at the first one, and its bytes are hashed as they are written.
//!
//! What is small lands in the room beside the output, the rest in the spool ([`crate::state`]), where it stays when it
//! breaks off. A whole that was put together from several answers and is wrong proves nothing about the URL: it is
//! thrown away, and the URL asked once more from the beginning.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::HeaderMap;
use store_index::watch::{Progress, Watch};

use crate::disk;
use crate::hashing::Hashing;
use crate::mirror_layout::{LAYOUT_FILE, Layout, MAX_LAYOUT_BYTES};
use crate::net::{
    self, Access, BodySink, BodyStart, Client, Delivered, Limits, NetClass, NetError, Others,
    Resume, Retry, Trust,
};
use crate::request::Request;
use crate::source_url::SourceUrl;
use crate::staging::StagedFile;
use crate::state::{Claim, Memory, Partial, Parts, SPOOL_ABOVE_BYTES};
use crate::verify::{FileCheck, Verdict};

/// How much may come of a body without a length before the disk is looked at again, in bytes.
pub(crate) const LOOK_AT_DISK_EVERY: u64 = 64 * 1024 * 1024;

/// The network stack of one run or of many, built at the first download.
#[derive(Clone, Debug, Default)]
pub struct SharedClient {
    client: Arc<OnceLock<Client>>,
    /// Threads use it side by side.
    of_many: bool,
}

impl SharedClient {
    /// One for many threads at a time.
    pub(crate) fn of_many() -> Self {
        Self {
            of_many: true,
            ..Self::default()
        }
    }

    fn get(&self, limits: Limits, access: &Arc<Access>) -> Result<&Client, NetError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let access = Arc::clone(access);
        let made = if self.of_many {
            Client::shared(limits, access)
        } else {
            Client::with_access(Trust::Verified, limits, access)
        }?;
        // If two threads make one, the first is used.
        Ok(self.client.get_or_init(|| made))
    }
}

/// How much is read at a time of what came before its turn, in bytes.
const CATCH_UP_LEN: usize = 256 * 1024;

/// Downloads for one run.
#[derive(Debug)]
pub(crate) struct Downloader {
    limits: Limits,
    access: Arc<Access>,
    client: SharedClient,
    /// Servers that nothing vouches for may be asked, where nothing secret is told to them.
    may_trust_anybody: bool,
    /// Asks those.
    trusting: Option<Client>,
    /// The last answer came from one.
    came_from_anybody: bool,
    memory: Option<Memory>,
    /// Who else may have parts of what is asked for.
    others: Vec<SourceUrl>,
    /// What several servers brought did not fit together once: from then on they are asked one at a time.
    one_at_a_time: bool,
    /// What is worth saying of what landed.
    remark: Option<String>,
}

/// Why a download did not land.
#[derive(Debug)]
pub(crate) enum DownloadError {
    /// The server says that it is not there.
    Gone(String),
    /// Anything else that the network did.
    Trouble {
        /// What.
        reason: String,
        /// How another try may help.
        retry: Option<Retry>,
        /// Whether the host is the cause, whatever it is asked for.
        of_host: bool,
        /// Whether a server would be asked that nothing vouches for.
        of_trust: bool,
        /// Where a redirect had led, if that is what failed.
        redirected_to: Option<Box<SourceUrl>>,
        /// What the user can do about it.
        advice: Option<&'static str>,
    },
    /// The staging file cannot be written or read.
    Write(io::Error),
    /// This machine does not let us: no descriptor, no thread.
    Local(String),
    /// Told to stop.
    Interrupted,
}

impl Downloader {
    pub(crate) fn new(limits: Limits, client: SharedClient, access: Arc<Access>) -> Self {
        Self {
            limits,
            access,
            client,
            may_trust_anybody: false,
            trusting: None,
            came_from_anybody: false,
            memory: None,
            others: Vec::new(),
            one_at_a_time: false,
            remark: None,
        }
    }

    /// Lets it ask servers that nothing vouches for: the hash must be one that nobody can forge.
    pub(crate) const fn trusting_anybody(mut self, yes: bool) -> Self {
        self.may_trust_anybody = yes;
        self
    }

    /// Lets it take only what is of one version of a file, where no hash proves that.
    pub(crate) const fn one_at_a_time(mut self) -> Self {
        self.one_at_a_time = true;
        self
    }

    /// Returns true if nothing vouched for the server that answered last.
    pub(crate) const fn came_from_anybody(&self) -> bool {
        self.came_from_anybody
    }

    /// Tells it which hosts are to be left alone.
    pub(crate) fn set_memory(&mut self, memory: Memory) {
        self.memory = Some(memory);
    }

    /// Tells it who else may have parts of what is asked for next.
    pub(crate) fn set_others(&mut self, others: Vec<SourceUrl>) {
        self.others = others;
    }

    /// Returns what is worth saying of what landed last.
    pub(crate) const fn take_remark(&mut self) -> Option<String> {
        self.remark.take()
    }

    /// Returns the network stack.
    pub(crate) fn client(&self) -> Result<&Client, DownloadError> {
        self.client
            .get(self.limits, &self.access)
            .map_err(DownloadError::from)
    }

    /// Asks a mirror how it names files.
    pub(crate) fn layout_of(
        &mut self,
        mirror: &SourceUrl,
        watch: Watch<'_>,
    ) -> Result<Layout, DownloadError> {
        let Some(url) = mirror.join(LAYOUT_FILE) else {
            return Ok(Layout::flat());
        };
        let url = self.access.rules.apply(&url);
        let url = url.map_err(|blocked| DownloadError::trouble(blocked.to_string()))?;
        let client = self.client()?;
        let told = client
            .exchange(&url, &HeaderMap::new(), None, false, watch.interrupt)
            .and_then(|mut answer| {
                let mut text = Vec::new();
                loop {
                    let chunk = answer.next()?;
                    if chunk.is_empty() || text.len() > MAX_LAYOUT_BYTES {
                        return Ok(text);
                    }
                    text.extend_from_slice(&chunk);
                }
            });
        match told {
            Ok(text) if text.len() > MAX_LAYOUT_BYTES => Ok(Layout::flat()),
            Ok(text) => Ok(Layout::parse(&String::from_utf8_lossy(&text))),
            Err(error) if error.class() == NetClass::Gone => Ok(Layout::flat()),
            Err(error) => Err(error.into()),
        }
    }

    /// Downloads and compares. `room` is empty; what it is afterwards has the content, be it right or wrong.
    pub(crate) fn land(
        &mut self,
        url: &SourceUrl,
        request: &Request,
        room: &mut StagedFile,
        claim: Option<&Claim>,
        watch: Watch<'_>,
    ) -> Result<Verdict, DownloadError> {
        self.remark = None;
        let partial = claim.and_then(Claim::partial);
        let (verdict, mut origin) = self.land_behind(partial, url, request, room, claim, watch)?;
        match verdict {
            Verdict::Wrong { .. } if origin.is_spliced() => {
                let wrong = self.doubt(url, &origin);
                watch
                    .progress
                    .note(&format!("{wrong}: {url} is asked for the whole"));
                if let Some(claim) = claim {
                    claim.clear();
                }
                match origin.beside.take() {
                    Some(beside) => *room = beside,
                    // What comes next would land behind it.
                    None => room.empty().map_err(DownloadError::Write)?,
                }
                let landed = self.land_behind(None, url, request, room, claim, watch);
                landed.map(|(verdict, _)| verdict)
            }
            verdict => Ok(verdict),
        }
    }

    /// Remembers that a whole that was put together is wrong, which proves nothing about anybody: what comes now comes from
    /// one server, so that it can be blamed. Returns what to say.
    pub(crate) fn doubt(&mut self, url: &SourceUrl, origin: &Origin) -> String {
        self.one_at_a_time = true;
        if origin.helpers.is_empty() {
            return "what has come in parts does not fit together".to_owned();
        }
        let servers = origin.helpers.join(", ");
        let remark = format!(
            "what came in parts from {} and {servers} does not fit together",
            server(url)
        );
        self.remark = Some(remark.clone());
        remark
    }

    /// Downloads what is missing behind what is there. Returns also how it came together.
    fn land_behind(
        &mut self,
        partial: Option<Partial>,
        url: &SourceUrl,
        request: &Request,
        room: &mut StagedFile,
        claim: Option<&Claim>,
        watch: Watch<'_>,
    ) -> Result<(Verdict, Origin), DownloadError> {
        let mut check = FileCheck::new(&request.address, request.executable, false, None);
        if let (Some(partial), Some(claim)) = (&partial, claim) {
            if let Some(length) = claim.length() {
                watch.progress.set_total(length);
            }
            // Of what was hashed for the last who was asked, only what he brought is left.
            let known = claim.hashed();
            check = known
                .filter(|known| known.bytes() <= partial.bytes)
                .unwrap_or(check);
            match check.go_on_behind(partial.file(), partial.bytes, watch) {
                Ok(()) => claim.set_hashed(Some(check.clone())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    return Err(DownloadError::Interrupted);
                }
                Err(error) => {
                    watch.progress.note(&format!(
                        "what was there of an earlier download cannot be read ({error}): {url} is asked for the whole"
                    ));
                    claim.clear();
                    return self.land_behind(None, url, request, room, None, watch);
                }
            }
        }
        let mut landing = self.landing(
            url,
            room,
            (claim, partial),
            Some((Hashing::new(check), request)),
            watch,
        );
        self.get(&mut landing, watch)?;
        let origin = landing.origin();
        let Landing { room, check, .. } = landing;
        let (check, _) = check.expect("the check stays");
        self.note_helpers(&origin);
        match check.finish().finish(&room.file) {
            Ok(verdict) => Ok((verdict, origin)),
            Err(error) => {
                // What cannot be read now cannot be read by the next run either.
                if let Some(claim) = claim {
                    claim.clear();
                }
                Err(own_error(error))
            }
        }
    }

    /// Says whose parts are in what landed.
    fn note_helpers(&mut self, origin: &Origin) {
        if !origin.helpers.is_empty() {
            let helpers = origin.helpers.join(", ");
            self.remark = Some(format!("parts of it came from {helpers}"));
        }
    }

    /// Downloads what is to be unpacked. `room` is empty; what it is afterwards has the archive. Returns its length in
    /// bytes, and how it came together.
    pub(crate) fn land_archive(
        &mut self,
        url: &SourceUrl,
        room: &mut StagedFile,
        claim: Option<&Claim>,
        watch: Watch<'_>,
    ) -> Result<(u64, Origin), DownloadError> {
        // Several archives have the same content: only one of that name is gone on with.
        let name = url.default_name().ok();
        self.others
            .retain(|other| name.is_some() && other.default_name().ok() == name);
        let partial = claim
            .filter(|claim| claim.is_of(url))
            .and_then(Claim::partial);
        let mut landing = self.landing(url, room, (claim, partial), None, watch);
        self.get(&mut landing, watch)?;
        let origin = landing.origin();
        let metadata = room.file.metadata().map_err(DownloadError::Write)?;
        self.note_helpers(&origin);
        Ok((metadata.len(), origin))
    }

    /// Nothing has landed yet.
    fn landing<'a>(
        &self,
        url: &'a SourceUrl,
        room: &'a mut StagedFile,
        (claim, partial): (Option<&'a Claim>, Option<Partial>),
        check: Option<(Hashing, &'a Request)>,
        watch: Watch<'a>,
    ) -> Landing<'a> {
        Landing {
            url,
            room,
            claim,
            partial,
            check,
            progress: watch.progress,
            unlooked_bytes: None,
            reserve: self.limits.disk_reserve,
            memory: self.memory.clone(),
            others: match self.one_at_a_time {
                true => Vec::new(),
                false => self.others.clone(),
            },
            one_at_a_time: self.one_at_a_time,
            helpers: Vec::new(),
            parts: None,
            hashed_bytes: 0,
            interrupt: watch.interrupt,
            has_validator: false,
            has_begun: false,
            is_mixed: false,
            went_on: false,
            beside: None,
            is_spool_full: false,
        }
    }

    /// Gets the rest of what is there, or the whole.
    fn get(&mut self, landing: &mut Landing<'_>, watch: Watch<'_>) -> Result<(), DownloadError> {
        let (url, claim) = (landing.url, landing.claim);
        let from_bytes = landing.partial.as_ref().map(|partial| partial.bytes);
        let there = landing
            .partial
            .as_ref()
            .map(|partial| partial.there.clone());
        let there = there.unwrap_or_default();
        if from_bytes.is_some() && claim.and_then(Claim::length) == from_bytes {
            // All had come when the last run ended.
            return landing.go_on().map_err(own_error);
        }
        let validator_of = |url: &SourceUrl| claim.and_then(|claim| claim.validator(url));
        let resume = from_bytes.map(|from_bytes| Resume {
            from_bytes,
            there: &there,
            validator_of: &validator_of,
        });
        let mut got = self.get_trusting(url, resume, landing, watch)?;
        if let Err(error) = &got {
            landing.forget_what_has_no_end(error);
        }
        if landing.is_spool_full {
            watch.progress.note(&format!(
                "there is no room for partial downloads: {url} is asked for the whole, which lands beside the output"
            ));
            landing.leave_spool();
            got = self.get_trusting(url, None, landing, watch)?;
        }
        got?;
        if landing.is_whole().map_err(own_error)? {
            return Ok(());
        }
        // The record is of another file: the next run must not meet it again.
        if let Some(claim) = claim {
            claim.clear();
        }
        Err(DownloadError::Trouble {
            reason: "what is here of an earlier download does not fit".into(),
            retry: Some(Retry {
                is_overload: false,
                at_least: None,
            }),
            of_host: false,
            of_trust: false,
            redirected_to: None,
            advice: None,
        })
    }

    /// Asks once more without verification if that is what it failed for, and nothing is lost by it.
    fn get_trusting(
        &mut self,
        url: &SourceUrl,
        resume: Option<Resume<'_>>,
        landing: &mut Landing<'_>,
        watch: Watch<'_>,
    ) -> Result<Result<Delivered, NetError>, DownloadError> {
        self.came_from_anybody = false;
        let answer = self.client()?.get(url, resume, landing, watch.interrupt);
        match answer {
            Err(error)
                if error.is_of_trust() && !landing.has_begun && self.may_trust_anybody(url) =>
            {
                landing.others.clear();
                let client = self.trusting_client(url, &error.to_string(), watch)?;
                Ok(client.get(url, resume, landing, watch.interrupt))
            }
            answer => Ok(answer),
        }
    }

    /// Returns true if a server may be asked that nothing vouches for.
    pub(crate) fn may_trust_anybody(&self, url: &SourceUrl) -> bool {
        self.may_trust_anybody && !net::has_credentials(url, &self.access)
    }

    /// Returns what asks such a server, after saying why. It tells nobody anything that is secret.
    pub(crate) fn trusting_client(
        &mut self,
        url: &SourceUrl,
        reason: &str,
        watch: Watch<'_>,
    ) -> Result<&Client, DownloadError> {
        watch.progress.note(&format!(
            "warning: {url}: {reason}; it is asked again without verification, since the hash decides"
        ));
        self.came_from_anybody = true;
        let access = Arc::clone(&self.access);
        Ok(match &mut self.trusting {
            Some(client) => client,
            none => none.insert(Client::with_access(Trust::Anybody, self.limits, access)?),
        })
    }

    /// Returns the most bytes that a download may have, and what is unpacked from one.
    pub(crate) const fn max_bytes(&self) -> u64 {
        self.limits.max_bytes
    }
}

/// An error of ours, from reading what is there.
fn own_error(error: io::Error) -> DownloadError {
    if error.kind() == io::ErrorKind::Interrupted {
        DownloadError::Interrupted
    } else {
        DownloadError::Write(error)
    }
}

impl DownloadError {
    /// Trouble that another try would meet again.
    pub(crate) fn trouble(reason: impl Into<String>) -> Self {
        Self::Trouble {
            reason: reason.into(),
            retry: None,
            of_host: false,
            of_trust: false,
            redirected_to: None,
            advice: None,
        }
    }

    /// Says more about what a server or the network did.
    pub(crate) fn explained(self, explain: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Gone(reason) => Self::Gone(explain(reason)),
            Self::Trouble {
                reason,
                retry,
                of_host,
                of_trust,
                redirected_to,
                advice,
            } => Self::Trouble {
                reason: explain(reason),
                retry,
                of_host,
                of_trust,
                redirected_to,
                advice,
            },
            other => other,
        }
    }
}

impl From<NetError> for DownloadError {
    fn from(error: NetError) -> Self {
        match (error.class(), error) {
            (_, NetError::Sink(error)) => Self::Write(error),
            (NetClass::Interrupted, _) => Self::Interrupted,
            (NetClass::Local, error) => Self::Local(error.to_string()),
            (NetClass::Gone, error) => Self::Gone(error.to_string()),
            (_, error) => Self::Trouble {
                reason: error.to_string(),
                retry: error.retry(),
                of_host: error.is_of_host(),
                of_trust: error.is_of_trust(),
                redirected_to: error.redirected_to().cloned().map(Box::new),
                advice: error.advice(),
            },
        }
    }
}

/// How a whole came together.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// What was there before is part of it.
    went_on: bool,
    /// It came in parts that nothing says are of one version of the file.
    is_mixed: bool,
    /// The servers that brought parts, but for the one that was asked.
    helpers: Vec<String>,
    /// The room beside the output, if it did not land there.
    beside: Option<StagedFile>,
}

impl Origin {
    /// Returns true if a wrong whole proves nothing about the URL.
    pub(crate) const fn is_spliced(&self) -> bool {
        self.went_on || self.is_mixed
    }
}

/// Names a server for people.
fn server(url: &SourceUrl) -> String {
    let host = url.host().unwrap_or_default();
    match url.url().port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

struct Landing<'a> {
    /// What is asked, before any redirect.
    url: &'a SourceUrl,
    room: &'a mut StagedFile,
    claim: Option<&'a Claim>,
    /// What is there and was not gone on with yet.
    partial: Option<Partial>,
    /// Has seen what is there; `None` for what is hashed later.
    check: Option<(Hashing, &'a Request)>,
    progress: &'a dyn Progress,
    /// How much came since the disk was looked at, where nobody said how much will come.
    unlooked_bytes: Option<u64>,
    /// What came where, if it came over several connections.
    parts: Option<Parts>,
    /// How much of that has been hashed.
    hashed_bytes: u64,
    interrupt: &'a AtomicBool,
    /// Whether the server gives what tells versions of its file apart.
    has_validator: bool,
    /// A server has answered with a body.
    has_begun: bool,
    /// It came over several connections without that, or from several servers.
    is_mixed: bool,
    /// What stays free on the disk, if that was configured.
    reserve: Option<u64>,
    memory: Option<Memory>,
    /// Who else may have parts of it.
    others: Vec<SourceUrl>,
    /// Nothing is taken that may be of several versions.
    one_at_a_time: bool,
    /// The servers that brought parts, but for the one that was asked.
    helpers: Vec<String>,
    /// What was there became part of the whole.
    went_on: bool,
    /// The room beside the output, while the spool is the room.
    beside: Option<StagedFile>,
    /// The spool has no room for it, and lies elsewhere than the output.
    is_spool_full: bool,
}

impl Landing<'_> {
    fn origin(&mut self) -> Origin {
        Origin {
            went_on: self.went_on,
            is_mixed: self.is_mixed,
            helpers: std::mem::take(&mut self.helpers),
            beside: self.beside.take(),
        }
    }

    /// Goes on behind what is there.
    fn go_on(&mut self) -> io::Result<()> {
        if let (Some(claim), Some(partial)) = (self.claim, self.partial.take()) {
            let (bytes, there) = (partial.bytes, partial.there.clone());
            let room = claim.go_on(partial, &self.room.file)?;
            self.move_to(room);
            self.went_on = true;
            if !there.is_empty() {
                self.parts = Some(Parts::new(bytes, &there, Some(claim))?);
                self.hashed_bytes = bytes;
                for part in there {
                    self.progress.advance(part.end - part.start);
                }
            }
        }
        Ok(())
    }

    /// Hashes what lies behind what was hashed, as far as there is no hole.
    fn catch_up(&mut self) -> io::Result<()> {
        let Some(parts) = &self.parts else {
            return Ok(());
        };
        loop {
            let reach = parts.reach(self.hashed_bytes);
            if reach == self.hashed_bytes {
                return Ok(());
            }
            let Some((check, _)) = &mut self.check else {
                self.hashed_bytes = reach;
                continue;
            };
            while self.hashed_bytes < reach {
                if self.interrupt.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let left = reach - self.hashed_bytes;
                let wanted =
                    usize::try_from(left).map_or(CATCH_UP_LEN, |left| left.min(CATCH_UP_LEN));
                let mut buffer = BytesMut::zeroed(wanted);
                let read = self.room.file.read_at(&mut buffer, self.hashed_bytes)?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                buffer.truncate(read);
                check.update(buffer.freeze());
                self.hashed_bytes += read as u64;
            }
        }
    }

    /// Returns true if nothing is missing of what came in parts, nor too much.
    fn is_whole(&self) -> io::Result<bool> {
        Ok(self.parts.is_none() || self.room.file.metadata()?.len() == self.hashed_bytes)
    }

    /// Remembers whether it is the spool that has no room.
    fn not_written(&mut self, error: io::Error) -> io::Error {
        let beside = self.beside.as_ref().filter(|_| self.room.is_in_spool());
        self.is_spool_full = disk::is_full(&error)
            && beside.is_some_and(|beside| !is_on_one_disk(&beside.file, &self.room.file));
        error
    }

    fn move_to(&mut self, room: StagedFile) {
        self.beside = Some(std::mem::replace(self.room, room));
    }

    /// Gives up what is in the spool; what comes lands beside the output.
    fn leave_spool(&mut self) {
        self.is_spool_full = false;
        self.partial = None;
        if let Some(claim) = self.claim.take() {
            claim.clear();
        }
        if let Some(beside) = self.beside.take() {
            *self.room = beside;
        }
    }

    /// Looks whether there is room for the rest, where the beginning lies.
    fn check_room_for_rest(&mut self, start: &BodyStart) -> io::Result<()> {
        let (Some(partial), Some(length)) = (&self.partial, start.length_bytes) else {
            return Ok(());
        };
        let missing = length.saturating_sub(start.from_bytes);
        let beside = &self.room.file;
        let is_elsewhere = !is_on_one_disk(partial.file(), beside);
        let rest = disk::leave_reserve(partial.file(), missing, self.reserve);
        if is_elsewhere {
            // There the whole has to go in the end.
            disk::leave_reserve(beside, length, self.reserve)?;
            self.is_spool_full = rest.is_err();
        }
        rest
    }

    /// A body without a length that became too much is not kept: neither has it a worth, nor the next one a place.
    fn forget_what_has_no_end(&self, error: &NetError) {
        let is_too_much = match error.innermost() {
            NetError::TooLong {
                announced_bytes, ..
            } => announced_bytes.is_none(),
            NetError::Sink(error) => disk::is_full(error) && self.unlooked_bytes.is_some(),
            _ => false,
        };
        if let Some(claim) = self.claim.filter(|_| is_too_much) {
            claim.clear();
        }
    }

    /// Makes the place where a whole body lands.
    fn begin(&mut self, length: Option<u64>) -> io::Result<()> {
        if let Some(length) = length {
            // What is there goes first. It does not, if that were not enough.
            let freed = self
                .claim
                .map_or(0, |claim| claim.taken_beside(&self.room.file));
            let more = length.saturating_sub(freed);
            disk::leave_reserve(&self.room.file, more, self.reserve)?;
        }
        self.partial = None;
        self.parts = None;
        self.went_on = false;
        if let Some((check, request)) = &mut self.check {
            let fresh = FileCheck::new(&request.address, request.executable, false, length);
            *check = Hashing::new(fresh);
        }
        let Some(claim) = self.claim else {
            return Ok(());
        };
        claim.clear();
        if length.is_none_or(|length| length >= SPOOL_ABOVE_BYTES)
            && let Ok(room) = claim.begin(&self.room.file)
            // Where there is no room to keep it, it comes all the same.
            && disk::leave_reserve(&room.file, length.unwrap_or(LOOK_AT_DISK_EVERY), self.reserve).is_ok()
        {
            self.move_to(room);
        }
        Ok(())
    }

    fn write_staged(&mut self, chunk: &[u8]) -> io::Result<()> {
        let mut staged: &File = &self.room.file;
        if let Some(unlooked) = &mut self.unlooked_bytes {
            *unlooked += chunk.len() as u64;
            if *unlooked >= LOOK_AT_DISK_EVERY {
                *unlooked = 0;
                disk::leave_reserve(staged, LOOK_AT_DISK_EVERY, self.reserve)?;
            }
        }
        staged.write_all(chunk)
    }
}

/// Returns true if what one file takes is missing for the other.
fn is_on_one_disk(one: &File, other: &File) -> bool {
    match (rustix::fs::fstat(one), rustix::fs::fstat(other)) {
        (Ok(one), Ok(other)) => one.st_dev == other.st_dev,
        _ => true,
    }
}

impl BodySink for Landing<'_> {
    fn left_alone(&self, url: &SourceUrl) -> Option<Duration> {
        self.memory.as_ref()?.failures().pause(url)
    }

    fn start(&mut self, start: &BodyStart) -> io::Result<()> {
        if let Some(length) = start.length_bytes {
            self.progress.set_total(length);
        }
        if start.from_bytes == 0 {
            if self.has_begun {
                // What was gone on with is of no use: its room must not take the whole.
                self.leave_spool();
                self.is_mixed = false;
                self.helpers.clear();
            }
            self.begin(start.length_bytes)?;
        } else {
            self.check_room_for_rest(start)?;
            self.go_on()?;
        }
        self.unlooked_bytes = start.length_bytes.is_none().then_some(0);
        self.has_validator = start.validator.is_some();
        self.has_begun = true;
        if self.room.is_in_spool()
            && let Some(claim) = self.claim
        {
            claim.note(self.url, start);
        }
        Ok(())
    }

    fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        let length = chunk.len() as u64;
        if let Err(error) = self.write_staged(&chunk) {
            return Err(self.not_written(error));
        }
        if let Some((check, _)) = &mut self.check {
            check.update(chunk);
        }
        self.progress.advance(length);
        Ok(())
    }

    fn widen(&mut self, got_bytes: u64) -> io::Result<Option<Others>> {
        if self.parts.is_none() {
            if self.one_at_a_time && !self.has_validator {
                return Ok(None);
            }
            let claim = self.claim.filter(|_| self.room.is_in_spool());
            // Without a record holes would count as content in the next run.
            self.is_mixed |= !self.has_validator;
            self.parts = Parts::new(got_bytes, &[], claim).ok();
            self.hashed_bytes = got_bytes;
        }
        if self.parts.is_none() {
            return Ok(None);
        }
        let mut others = Others {
            urls: self.others.clone(),
            ..Others::default()
        };
        if let Some(memory) = &self.memory {
            let failures = memory.read_again();
            others.left_alone = Some(Arc::new(move |url| failures.pause(url)));
        }
        Ok(Some(others))
    }

    fn helped(&mut self, url: &SourceUrl) {
        self.is_mixed = true;
        self.helpers.push(server(url));
    }

    fn refused(&mut self, url: &SourceUrl, retry: Retry) {
        if let (Some(memory), Some(pause)) = (&self.memory, retry.pause_for_all()) {
            memory.note_pause(url, pause);
        }
    }

    fn write_at(&mut self, offset: u64, chunk: Bytes) -> io::Result<()> {
        let length = chunk.len() as u64;
        let written = self.room.file.write_all_at(&chunk, offset);
        let noted = written.and_then(|()| match &mut self.parts {
            Some(parts) => parts.add(offset..offset + length),
            None => Ok(()),
        });
        if let Err(error) = noted {
            return Err(self.not_written(error));
        }
        if offset == self.hashed_bytes {
            if let Some((check, _)) = &mut self.check {
                check.update(chunk);
            }
            self.hashed_bytes += length;
        }
        self.progress.advance(length);
        self.catch_up()
    }
}
