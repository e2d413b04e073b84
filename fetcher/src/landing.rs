//! One candidate lands in the room beside the output, is hashed on the way, and is published if it is right.

mod archive;
mod aside;
mod clone;
mod delivery;
mod tree;
mod wrong;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use store_index::beneath::{Beneath, Node};
use store_index::digest::Digest;
use store_index::path_text::printable;
use store_index::tree::Skip;
use store_index::watch::{Unit, Watch};

use self::wrong::Wrong;
use crate::copy::{self, CopyError};
use crate::diagnosis;
use crate::disk;
use crate::download::{DownloadError, Downloader};
use crate::error::FetchError;
use crate::fetch::Policy;
use crate::mirror_layout::Layout;
use crate::net::Retry;
use crate::publish;
use crate::report::AttemptResult;
use crate::request::{Request, Target};
use crate::source::{Candidate, CandidatePlace, SourceKind};
use crate::source_url::SourceUrl;
use crate::staging::{self, Place, StagedFile};
use crate::state::{Claim, Memory};
use crate::verdict;
use crate::verify::{FileCheck, Verdict};

/// What a candidate came to.
#[derive(Debug)]
pub(crate) enum Landed {
    /// It is the wanted content, and the output is there.
    Delivered { bytes: u64, executable: bool },
    /// It is not; the walk goes on.
    NotIt(NotIt),
}

/// Why a candidate is not the wanted content.
#[derive(Debug)]
pub(crate) struct NotIt {
    pub(crate) result: AttemptResult,
    pub(crate) reason: String,
    /// How much of it was read, in bytes.
    pub(crate) bytes: u64,
    /// What a wrong content's digest is.
    pub(crate) got: Option<Digest>,
    /// What a wrong body seems to be.
    pub(crate) seems: Option<String>,
    /// Where a wrong body was kept, in words.
    pub(crate) kept: Option<String>,
    /// How another try may help.
    pub(crate) retry: Option<Retry>,
    /// Whether a download failed because of its host, whatever it is asked for.
    pub(crate) of_host: bool,
    /// Where a redirect had led, if that is what failed.
    pub(crate) redirected_to: Option<Box<SourceUrl>>,
    /// What the user can do about it.
    pub(crate) advice: Option<&'static str>,
    /// It had no room here: what is said if nothing else delivers.
    pub(crate) no_room: Option<Box<FetchError>>,
}

impl NotIt {
    fn new(result: AttemptResult, reason: impl Into<String>) -> Self {
        Self {
            result,
            reason: reason.into(),
            bytes: 0,
            got: None,
            seems: None,
            kept: None,
            retry: None,
            of_host: false,
            redirected_to: None,
            advice: None,
            no_room: None,
        }
    }

    fn wrong(request: &Request, got: Option<Digest>, bytes: u64) -> Self {
        let reason = verdict::describe_wrong(request, got.as_ref());
        Self {
            bytes,
            got,
            ..Self::new(AttemptResult::Mismatch, reason)
        }
    }
}

/// Where content lands: beside the output, or in a temporary file for standard output.
#[derive(Debug)]
pub(crate) struct Landing<'a> {
    request: &'a Request,
    force: bool,
    watch: Watch<'a>,
    /// `None` for standard output.
    place: Option<Place>,
    /// The room for files; `None` while a tree has it.
    staged: Option<StagedFile>,
    downloader: Downloader,
    /// The right to download, and to what was downloaded before; `None` where nothing is kept.
    claim: Option<Claim>,
    /// What is worth saying of what was delivered.
    remark: Option<String>,
    leave_wrong: bool,
    /// Where wrong bodies are kept, if they are.
    keep_wrong: Option<PathBuf>,
    /// The first wrong content of the request's own URLs, and whence.
    wrong: Option<(Wrong, String)>,
    /// Why a mirror did not tell how it names files.
    untold: Option<NotIt>,
}

impl<'a> Landing<'a> {
    /// Makes the room, which tells at once whether the output can be written at all.
    pub(crate) fn prepare(
        request: &'a Request,
        place: Option<Place>,
        policy: &Policy,
        watch: Watch<'a>,
    ) -> Result<Self, FetchError> {
        if let Some(place) = place
            .as_ref()
            .filter(|place| !place.given && !policy.of_many)
        {
            staging::sweep(place);
        }
        let mut landing = Self {
            request,
            force: policy.force,
            watch,
            place,
            staged: None,
            downloader: Downloader::new(
                policy.limits,
                policy.client.clone(),
                Arc::clone(&policy.access),
            )
            .trusting_anybody(policy.trust_anybody && !request.address.algorithm().is_weak()),
            claim: None,
            remark: None,
            leave_wrong: policy.leave_wrong,
            keep_wrong: policy.keep_wrong.clone(),
            wrong: None,
            untold: None,
        };
        if !policy.of_many {
            landing
                .room()
                .map_err(|error| folder_error(request, &error))?;
        }
        Ok(landing)
    }

    /// Gives it the right to what was downloaded before, or takes it away.
    pub(crate) fn set_claim(&mut self, claim: Option<Claim>) {
        self.claim = claim;
    }

    /// Tells it which hosts are to be left alone.
    pub(crate) fn set_memory(&mut self, memory: Memory) {
        self.downloader.set_memory(memory);
    }

    /// Tells it who else may have parts of what is asked for next.
    pub(crate) fn set_others(&mut self, others: Vec<SourceUrl>) {
        self.downloader.set_others(others);
    }

    /// Tells those who wait for the right to download that nobody had what is wanted.
    pub(crate) fn note_failure(&self) {
        if let Some(claim) = &self.claim {
            claim.note_failure();
        }
    }

    /// The room for a file, empty. What is in the spool is left there.
    fn room(&mut self) -> io::Result<&mut StagedFile> {
        if let Some((wrong, _)) = &mut self.wrong {
            wrong.make_room();
        }
        let staged = match self.staged.take().filter(|staged| !staged.is_in_spool()) {
            Some(mut staged) => {
                staged.empty()?;
                staged
            }
            None => match &self.place {
                Some(place) => StagedFile::beside(place)?,
                None => StagedFile::temporary()?,
            },
        };
        Ok(self.staged.insert(staged))
    }

    /// The room with what landed in it.
    fn landed(&self) -> &StagedFile {
        self.staged
            .as_ref()
            .expect("room is made before a file lands")
    }

    /// Lets a candidate land. An error ends the fetch; a candidate that is not it does not.
    pub(crate) fn land(&mut self, candidate: &Candidate) -> Result<Landed, FetchError> {
        if let Err(error) = self.room() {
            return Err(self.write_error(&error));
        }
        match &candidate.place {
            CandidatePlace::Local { root, path, .. }
                if self.request.unpack && candidate.kind == SourceKind::Url =>
            {
                self.land_archive_here(candidate, root, path)
            }
            CandidatePlace::Local { root, path, size } => {
                self.land_local(candidate, root, path, *size, &[Skip::Nothing])
            }
            CandidatePlace::Tree { root, path, forms } => {
                self.land_local(candidate, root, path, None, forms)
            }
            // Nothing but a directory comes of it, whichever.
            CandidatePlace::Checkout(_) if self.place.is_none() => Err(no_bytes_for_stdout()),
            CandidatePlace::Checkout(checkout) => self.land_checkout(candidate, checkout),
            CandidatePlace::Clone(_) if self.place.is_none() => Err(no_bytes_for_stdout()),
            CandidatePlace::Clone(clone) => self.land_clone(candidate, clone),
            // Asked how it names files when its turn came, which failed.
            CandidatePlace::MirrorOf(_) => {
                Ok(Landed::NotIt(self.untold.take().unwrap_or_else(|| {
                    NotIt::new(AttemptResult::Failed, "the mirror's layout is not known")
                })))
            }
            CandidatePlace::Url(url) if self.request.unpack => self.land_archive(candidate, url),
            CandidatePlace::Url(url) => {
                let what = format!("downloading {}", candidate.location);
                self.watch.progress.begin(&what, None, Unit::Bytes);
                let room = self
                    .staged
                    .as_mut()
                    .expect("room is made before a file lands");
                let landed =
                    self.downloader
                        .land(url, self.request, room, self.claim.as_ref(), self.watch);
                self.watch.progress.end();
                let remark = self.downloader.take_remark();
                let mut landed = match self.downloaded(landed)? {
                    Ok(verdict) => self.judge_body(candidate, url, verdict)?,
                    Err(not_it) => Landed::NotIt(not_it),
                };
                self.add_remark(&mut landed, remark);
                Ok(landed)
            }
        }
    }

    /// Says with what became of a download how it came together, if that is worth it.
    fn add_remark(&mut self, landed: &mut Landed, remark: Option<String>) {
        match (landed, remark) {
            (Landed::NotIt(not_it), Some(remark)) => {
                not_it.reason = format!("{}; {remark}", not_it.reason);
            }
            (Landed::NotIt(_), None) => {}
            (Landed::Delivered { .. }, remark) => self.remark = remark,
        }
    }

    /// Asks a mirror how it names files. `None` if that failed; landing the mirror then tells why.
    pub(crate) fn layout_of(&mut self, mirror: &SourceUrl) -> Result<Option<Layout>, FetchError> {
        let asked = self.downloader.layout_of(mirror, self.watch);
        match self.downloaded(asked)? {
            Ok(layout) => Ok(Some(layout)),
            Err(not_it) => {
                self.untold = Some(not_it);
                Ok(None)
            }
        }
    }

    /// Tells a download that another place may replace from one that ends the fetch.
    fn downloaded<T>(
        &mut self,
        landed: Result<T, DownloadError>,
    ) -> Result<Result<T, NotIt>, FetchError> {
        let not_it = match landed {
            Ok(landed) => return Ok(Ok(landed)),
            Err(DownloadError::Interrupted) => return Err(FetchError::interrupted()),
            Err(DownloadError::Write(error)) => self.not_written(&error)?,
            Err(DownloadError::Local(reason)) => return Err(FetchError::local(reason)),
            Err(DownloadError::Gone(reason)) => NotIt::new(AttemptResult::Absent, reason),
            Err(DownloadError::Trouble {
                reason,
                retry,
                of_host,
                of_trust: _,
                redirected_to,
                advice,
            }) => NotIt {
                retry,
                of_host,
                redirected_to,
                advice,
                ..NotIt::new(AttemptResult::Failed, reason)
            },
        };
        Ok(Err(not_it))
    }

    /// Tells a candidate that has no room from trouble that ends the fetch: it may be longer than what is wanted, and
    /// others may have less to send.
    fn not_written(&mut self, error: &io::Error) -> Result<NotIt, FetchError> {
        if self.give_up_wrong(error) {
            let retry = Some(Retry {
                is_overload: false,
                at_least: None,
            });
            return Ok(NotIt {
                retry,
                ..NotIt::new(AttemptResult::Failed, error.to_string())
            });
        }
        self.without_room(error)
    }

    /// The same, where nothing that is kept takes the room.
    fn without_room(&self, error: &io::Error) -> Result<NotIt, FetchError> {
        let says = self.write_error(error);
        if !disk::is_full(error) {
            return Err(says);
        }
        Ok(NotIt {
            no_room: Some(Box::new(says)),
            ..NotIt::new(AttemptResult::Failed, error.to_string())
        })
    }

    fn land_local(
        &mut self,
        candidate: &Candidate,
        root: &Beneath,
        path: &Path,
        indexed_size: Option<u64>,
        forms: &[Skip],
    ) -> Result<Landed, FetchError> {
        let reason = match root.open_node_or_root(path) {
            Ok(Node::File(file)) => return self.land_file(candidate, &file, indexed_size),
            Ok(Node::Directory(directory)) => {
                return self.land_tree(candidate, &directory, root.reach(), forms);
            }
            Ok(Node::Symlink(target)) => return self.land_symlink(&target),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                NotIt::new(AttemptResult::Absent, "it has vanished")
            }
            Err(error) => NotIt::new(AttemptResult::Failed, error.to_string()),
        };
        Ok(Landed::NotIt(reason))
    }

    fn land_file(
        &mut self,
        candidate: &Candidate,
        file: &File,
        indexed_size: Option<u64>,
    ) -> Result<Landed, FetchError> {
        let metadata = match file.metadata() {
            Ok(metadata) => metadata,
            Err(error) => {
                return Ok(Landed::NotIt(NotIt::new(
                    AttemptResult::Failed,
                    error.to_string(),
                )));
            }
        };
        let size = metadata.len();
        if let Some(indexed) = indexed_size.filter(|&indexed| indexed != size) {
            let reason = format!("it has {size} bytes, and had {indexed} when it was indexed");
            return Ok(Landed::NotIt(NotIt::new(AttemptResult::Mismatch, reason)));
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
        let copied = copy::copy(file, size, &self.landed().file, check, self.watch);
        self.watch.progress.end();
        match copied {
            Ok(verdict) => self.judge_file(verdict),
            Err(CopyError::Interrupted) => Err(FetchError::interrupted()),
            Err(CopyError::Write(error)) => Ok(Landed::NotIt(self.without_room(&error)?)),
            Err(error @ (CopyError::Changed { .. } | CopyError::Read(_))) => Ok(Landed::NotIt(
                NotIt::new(AttemptResult::Failed, error.to_string()),
            )),
        }
    }

    fn judge_file(&mut self, verdict: Verdict) -> Result<Landed, FetchError> {
        match verdict {
            Verdict::Right(verified) => {
                let (bytes, executable) = (verified.bytes(), verified.executable());
                self.publish_file(verified)?;
                Ok(Landed::Delivered { bytes, executable })
            }
            Verdict::Wrong { got, bytes } => {
                Ok(Landed::NotIt(NotIt::wrong(self.request, got, bytes)))
            }
        }
    }

    fn judge_body(
        &mut self,
        candidate: &Candidate,
        url: &SourceUrl,
        verdict: Verdict,
    ) -> Result<Landed, FetchError> {
        let mut landed = self.judge_file(verdict)?;
        if let Landed::NotIt(wrong) = &mut landed {
            wrong.seems = diagnosis::of_body(
                &self.landed().file,
                wrong.bytes,
                url,
                self.request,
                self.watch,
            );
            if let Some(seems) = &wrong.seems {
                wrong.reason = format!("{}; it is {seems}", wrong.reason);
            }
            self.keep_wrong(wrong, &self.landed().file, url);
            self.remember_wrong(candidate);
        }
        if let Some(claim) = &self.claim {
            let in_spool = self.staged.take_if(|staged| staged.is_in_spool()).is_some();
            let is_wanted = claim.is_wanted();
            match landed {
                Landed::Delivered { bytes, .. }
                    if in_spool && is_wanted && self.place.is_none() =>
                {
                    claim.leave_whole(bytes);
                }
                // Right or wrong, nothing is to be gone on with.
                _ => claim.clear(),
            }
        }
        Ok(landed)
    }

    fn write_error(&self, error: &io::Error) -> FetchError {
        if error.kind() == io::ErrorKind::Interrupted {
            return FetchError::interrupted();
        }
        let output = match &self.request.target {
            Target::Path(path) | Target::Given(path) => printable(path),
            Target::Stdout => "a temporary file for standard output".to_owned(),
        };
        let hint = if disk::is_full(error) {
            "make room on that file system, or choose another with -o"
        } else {
            "choose another path with -o"
        };
        FetchError::local(format!(
            "cannot write {output}: {error}; nothing was left behind"
        ))
        .with_hint(hint)
    }
}

fn no_bytes_for_stdout() -> FetchError {
    FetchError::local(
        "the content is a directory or symbolic link, which cannot go to standard output",
    )
    .with_hint("say where it goes with -o PATH")
}

/// The output's folder is not there or takes nothing.
pub(crate) fn folder_error(request: &Request, error: &io::Error) -> FetchError {
    let folder = match &request.target {
        Target::Path(path) | Target::Given(path) => {
            path.parent().map_or_else(|| ".".to_owned(), printable)
        }
        Target::Stdout => {
            let folder = printable(&std::env::temp_dir());
            return FetchError::local(format!(
                "cannot make a temporary file for standard output in {folder}: {error}"
            ))
            .with_hint("name a folder that is there and takes it in TMPDIR");
        }
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
