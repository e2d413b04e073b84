//! One candidate lands in the room beside the output, is hashed on the way, and is published if it is right.

mod archive;
mod clone;

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use store_index::address::ContentAddress;
use store_index::beneath::{Beneath, Node, Reach};
use store_index::digest::Digest;
use store_index::path_text::printable;
use store_index::tree::{Skip, TreeError};
use store_index::watch::{Unit, Watch};

use crate::copy::{self, CopyError};
use crate::diagnosis;
use crate::download::{DownloadError, Downloader};
use crate::error::FetchError;
use crate::fetch::Policy;
use crate::mirror_layout::Layout;
use crate::net::Retry;
use crate::output::{self, Found};
use crate::publish::{self, Published};
use crate::report::AttemptResult;
use crate::request::{Request, Target};
use crate::source::{Candidate, CandidatePlace, SourceKind};
use crate::source_url::SourceUrl;
use crate::staging::{self, Place, StagedFile, StagedTree};
use crate::state::Claim;
use crate::tree_copy;
use crate::verdict;
use crate::verify::{FileCheck, Verdict, Verified};

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
    /// How another try may help.
    pub(crate) retry: Option<Retry>,
    /// Whether a download failed because of its host, whatever it is asked for.
    pub(crate) of_host: bool,
}

impl NotIt {
    fn new(result: AttemptResult, reason: impl Into<String>) -> Self {
        Self {
            result,
            reason: reason.into(),
            bytes: 0,
            got: None,
            seems: None,
            retry: None,
            of_host: false,
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
    /// The first wrong body of the request's own URLs, and whence.
    wrong: Option<(File, String)>,
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
        if let Some(place) = place.as_ref().filter(|place| !place.given) {
            staging::sweep(place);
        }
        let mut landing = Self {
            request,
            force: policy.force,
            watch,
            place,
            staged: None,
            downloader: Downloader::new(policy.limits, Arc::clone(&policy.access)),
            claim: None,
            remark: None,
            leave_wrong: policy.leave_wrong,
            wrong: None,
            untold: None,
        };
        landing
            .room()
            .map_err(|error| folder_error(request, &error))?;
        Ok(landing)
    }

    /// Gives it the right to what was downloaded before, or takes it away.
    pub(crate) fn set_claim(&mut self, claim: Option<Claim>) {
        self.claim = claim;
    }

    /// The room for a file, empty. What is in the spool is left there.
    fn room(&mut self) -> io::Result<&mut StagedFile> {
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
                match self.downloaded(landed)? {
                    Ok(verdict) => self.judge_body(candidate, url, verdict),
                    Err(not_it) => Ok(Landed::NotIt(not_it)),
                }
            }
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
        &self,
        landed: Result<T, DownloadError>,
    ) -> Result<Result<T, NotIt>, FetchError> {
        let not_it = match landed {
            Ok(landed) => return Ok(Ok(landed)),
            Err(DownloadError::Interrupted) => return Err(FetchError::interrupted()),
            Err(DownloadError::Write(error)) => return Err(self.write_error(&error)),
            Err(DownloadError::Local(reason)) => return Err(FetchError::local(reason)),
            Err(DownloadError::Gone(reason)) => NotIt::new(AttemptResult::Absent, reason),
            Err(DownloadError::Trouble {
                reason,
                retry,
                of_host,
            }) => NotIt {
                retry,
                of_host,
                ..NotIt::new(AttemptResult::Failed, reason)
            },
        };
        Ok(Err(not_it))
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
            Err(CopyError::Write(error)) => Err(self.write_error(&error)),
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
            wrong.seems = diagnosis::of_body(&self.landed().file, wrong.bytes, url, self.request);
            if let Some(seems) = &wrong.seems {
                wrong.reason = format!("{}; it is {seems}", wrong.reason);
            }
            if self.leave_wrong && candidate.kind == SourceKind::Url && self.wrong.is_none() {
                match set_aside(&self.landed().file) {
                    Ok(aside) => self.wrong = Some((aside, candidate.location.clone())),
                    Err(error) => self.watch.progress.note(&format!(
                        "the wrong body of {} cannot be kept for the daemon: {error}",
                        candidate.location
                    )),
                }
            }
        }
        // Right or wrong, nothing is to be gone on with.
        if let Some(claim) = &self.claim {
            self.staged = self.staged.take().filter(|staged| !staged.is_in_spool());
            claim.clear();
        }
        Ok(landed)
    }

    /// Nothing was right: leaves the first wrong body to the daemon, if there was one and that is wanted. Returns
    /// whence it came.
    pub(crate) fn leave_wrong(&mut self) -> Result<Option<String>, FetchError> {
        let Some((mut aside, location)) = self.wrong.take() else {
            return Ok(None);
        };
        if self.request.unpack {
            return self.leave_unpacked(aside, location);
        }
        let executable = self.request.executable;
        let left = self.room().and_then(|room| {
            aside.rewind()?;
            io::copy(&mut aside, &mut room.file)
        });
        left.and_then(|_| match self.staged.take() {
            Some(staged) => publish::leave_to_daemon(staged, executable),
            None => Ok(()),
        })
        .map_err(|error| self.write_error(&error))?;
        Ok(Some(location))
    }

    /// Tries a tree in one form after the other, as long as there is something that a form leaves out.
    fn land_tree(
        &mut self,
        candidate: &Candidate,
        source: &OwnedFd,
        reach: Reach,
        forms: &[Skip],
    ) -> Result<Landed, FetchError> {
        let mut landed = None;
        for &form in forms {
            let (tried, metadata) = self.land_tree_without((form, reach), candidate, source)?;
            let is_over = metadata == 0 || matches!(tried, Landed::Delivered { .. });
            // What is said of a wrong tree is said of its first form.
            let answer = match (landed.take(), tried) {
                (Some(first @ Landed::NotIt(_)), Landed::NotIt(_)) => first,
                (_, tried) => tried,
            };
            if is_over {
                return Ok(answer);
            }
            landed = Some(answer);
        }
        let reason = "there is no form in which it could be tried";
        Ok(landed.unwrap_or_else(|| Landed::NotIt(NotIt::new(AttemptResult::Failed, reason))))
    }

    /// Lands one form of a tree; with the number of entries that some form leaves out.
    fn land_tree_without(
        &mut self,
        (skip, reach): (Skip, Reach),
        candidate: &Candidate,
        source: &OwnedFd,
    ) -> Result<(Landed, u64), FetchError> {
        let no = |not_it| Ok((Landed::NotIt(not_it), 0));
        let source = match source.try_clone() {
            Ok(source) => source,
            Err(error) => return no(NotIt::new(AttemptResult::Failed, error.to_string())),
        };
        if self.place.is_none() {
            return Ok((self.refuse_for_stdout(Node::Directory(source))?, 0));
        }
        let (request, watch) = (self.request, self.watch);
        self.fill_tree(candidate, "copying", |target| {
            tree_copy::copy(&request.address, source, target, (skip, reach), watch)
        })
    }

    /// Has a staged directory filled, and publishes it if it is right. The number is passed on.
    fn fill_tree(
        &mut self,
        candidate: &Candidate,
        verb: &str,
        fill: impl FnOnce(OwnedFd) -> Result<(Verdict, u64), TreeError>,
    ) -> Result<(Landed, u64), FetchError> {
        let no = |not_it| Ok((Landed::NotIt(not_it), 0));
        if matches!(self.request.address, ContentAddress::Flat(_)) {
            let reason = "it is a directory, and a file is wanted";
            return no(NotIt::new(AttemptResult::Mismatch, reason));
        }
        let Some(place) = &self.place else {
            let reason = "it is a directory, which cannot go to standard output";
            return no(NotIt::new(AttemptResult::Skipped, reason));
        };
        if place.given {
            // The output itself is the room, and there is one only.
            self.staged = None;
        }
        let staged = StagedTree::beside(place).map_err(|error| self.write_error(&error))?;
        let target = staged
            .directory()
            .map_err(|error| self.write_error(&error))?;
        self.watch
            .progress
            .begin(&format!("{verb} {}", candidate.location), None, Unit::Bytes);
        let filled = fill(target);
        self.watch.progress.end();
        self.judge_tree(staged, place, filled)
    }

    /// Publishes a staged tree if it is right. The number is passed on.
    fn judge_tree(
        &self,
        staged: StagedTree,
        place: &Place,
        filled: Result<(Verdict, u64), TreeError>,
    ) -> Result<(Landed, u64), FetchError> {
        let reason = match filled {
            Ok((Verdict::Right(verified), metadata)) => {
                let bytes = verified.bytes();
                match publish::tree(staged, verified, place, self.force) {
                    Ok(Published::Done) => {}
                    Ok(Published::Taken) => self.accept_what_appeared(place)?,
                    Err(error) => return Err(self.write_error(&error)),
                }
                let delivered = Landed::Delivered {
                    bytes,
                    executable: false,
                };
                return Ok((delivered, metadata));
            }
            Ok((Verdict::Wrong { got, bytes }, metadata)) => {
                let wrong = NotIt::wrong(self.request, got, bytes);
                return Ok((Landed::NotIt(wrong), metadata));
            }
            Err(TreeError::Interrupted) => return Err(FetchError::interrupted()),
            // The hashes of git refuse content that was made to collide.
            Err(TreeError::Visit { source, .. }) if source.kind() == io::ErrorKind::InvalidData => {
                NotIt::new(AttemptResult::Mismatch, source.to_string())
            }
            Err(TreeError::Visit { path, source }) => {
                let place = format!("{}: {source}", printable(&path));
                return Err(self.write_error(&io::Error::new(source.kind(), place)));
            }
            Err(error) => NotIt::new(AttemptResult::Failed, error.to_string()),
        };
        Ok((Landed::NotIt(reason), 0))
    }

    /// A symbolic link has a NAR hash of its own; it is never followed.
    fn land_symlink(&mut self, target: &[u8]) -> Result<Landed, FetchError> {
        if !matches!(self.request.address, ContentAddress::Nar(_)) {
            let reason = "it is a symbolic link, which is not followed";
            return Ok(Landed::NotIt(NotIt::new(AttemptResult::Failed, reason)));
        }
        let Some(place) = &self.place else {
            return self.refuse_for_stdout(Node::Symlink(target.to_vec()));
        };
        match self.judge_in_place(Node::Symlink(target.to_vec()))? {
            Err(not_it) => Ok(Landed::NotIt(not_it)),
            Ok(verified) => {
                if place.given {
                    self.staged = None;
                }
                match publish::symlink(target, verified, place, self.force) {
                    Ok(Published::Done) => {}
                    Ok(Published::Taken) => self.accept_what_appeared(place)?,
                    Err(error) => return Err(self.write_error(&error)),
                }
                Ok(Landed::Delivered {
                    bytes: 0,
                    executable: false,
                })
            }
        }
    }

    /// Only bytes can go to standard output. The right content that has none is worth its own words.
    fn refuse_for_stdout(&self, node: Node) -> Result<Landed, FetchError> {
        match self.judge_in_place(node)? {
            Err(not_it) => Ok(Landed::NotIt(not_it)),
            Ok(_) => Err(no_bytes_for_stdout()),
        }
    }

    /// Hashes a node where it lies.
    fn judge_in_place(&self, node: Node) -> Result<Result<Verified, NotIt>, FetchError> {
        match tree_copy::hash(&self.request.address, node, self.watch) {
            Ok(Verdict::Right(verified)) => Ok(Ok(verified)),
            Ok(Verdict::Wrong { got, bytes }) => Ok(Err(NotIt::wrong(self.request, got, bytes))),
            Err(TreeError::Interrupted) => Err(FetchError::interrupted()),
            Err(error) => Ok(Err(NotIt::new(AttemptResult::Failed, error.to_string()))),
        }
    }

    fn publish_file(&mut self, verified: Verified) -> Result<(), FetchError> {
        let Some(place) = &self.place else {
            return write_to_stdout(&self.landed().file).map_err(|error| {
                FetchError::local(format!(
                    "the content is right, but standard output takes no more: {error}"
                ))
            });
        };
        let staged = self
            .staged
            .as_mut()
            .expect("room is made before a file lands");
        let executable = verified.executable();
        let in_spool = staged.is_in_spool();
        match publish::file(staged, verified, place, self.force) {
            Ok(Published::Done) => Ok(()),
            Ok(Published::Taken) => self.accept_what_appeared(place),
            // Another file system, or one that cannot rename so.
            Err(_) if in_spool => self.publish_from_spool(executable),
            Err(error) => Err(self.write_error(&error)),
        }
    }

    /// The file of the spool cannot be renamed to the output: it is copied, and hashed once more as it lands.
    fn publish_from_spool(&mut self, executable: bool) -> Result<(), FetchError> {
        let spooled = self.staged.take().expect("what is published has landed");
        let copied = self.copy_from_spool(&spooled.file, executable);
        match copied.map_err(|error| self.write_error(&error))? {
            Some(verified) => self.publish_file(verified),
            None => Err(FetchError::local(
                "what was downloaded has changed in the spool before it could be copied",
            )),
        }
    }

    fn copy_from_spool(
        &mut self,
        mut spooled: &File,
        executable: bool,
    ) -> io::Result<Option<Verified>> {
        spooled.rewind()?;
        let size = spooled.metadata()?.len();
        let (request, watch) = (self.request, self.watch);
        let check = FileCheck::new(&request.address, request.executable, executable, Some(size));
        let room = self.room()?;
        match copy::copy(spooled, size, &room.file, check, watch) {
            Ok(Verdict::Right(verified)) => Ok(Some(verified)),
            Ok(Verdict::Wrong { .. }) | Err(CopyError::Changed { .. }) => Ok(None),
            Err(CopyError::Interrupted) => Err(io::ErrorKind::Interrupted.into()),
            Err(CopyError::Read(error) | CopyError::Write(error)) => Err(error),
        }
    }

    /// Another process was faster. If it brought the same content, all is well.
    fn accept_what_appeared(&self, place: &Place) -> Result<(), FetchError> {
        match output::examine(self.request, place, self.watch)? {
            Found::Right(_) => Ok(()),
            Found::Nothing | Found::Wrong(_) | Found::Irreplaceable(_) => {
                let path = printable(&place.path);
                Err(FetchError::local(format!(
                    "while this ran, something else appeared at the output {path}"
                ))
                .with_hint("nothing was replaced; --force replaces a file"))
            }
        }
    }

    fn write_error(&self, error: &io::Error) -> FetchError {
        if error.kind() == io::ErrorKind::Interrupted {
            return FetchError::interrupted();
        }
        let output = match &self.request.target {
            Target::Path(path) | Target::Given(path) => printable(path),
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
        Target::Stdout => printable(&std::env::temp_dir()),
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

/// Copies a body into a file without a name in the folder for temporary files, which in a build is the build's own.
fn set_aside(mut body: &File) -> io::Result<File> {
    let mut aside = StagedFile::temporary()?.file;
    body.rewind()?;
    io::copy(&mut body, &mut aside)?;
    Ok(aside)
}

fn write_to_stdout(mut staged: &File) -> io::Result<()> {
    staged.rewind()?;
    let mut stdout = io::stdout().lock();
    io::copy(&mut staged, &mut stdout)?;
    stdout.flush()
}
