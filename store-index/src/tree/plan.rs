//! The listing end of a walk: which entries there are, in order, and who reads the files.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::Sender;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::read_ahead::{self, Batch, Job};
use super::{MAX_DEPTH, MAX_ENTRIES, Obstacle, Skip};
use crate::beneath::Reach;
use crate::watch::Watch;

/// How many files a batch has at most. Threads that hand over every file by itself spend more time on waking each other
/// than on small files.
const BATCH_FILES: usize = 32;

/// How many steps a batch has at most: names, so that memory is no question.
const BATCH_STEPS: usize = 512;

/// From how many directories the files of a batch come at most: each is a descriptor held open.
const BATCH_DIRECTORIES: usize = 8;

/// What comes next in a walk.
#[derive(Debug)]
pub(super) enum Step {
    /// A directory; the root has no name.
    Enter(Option<CString>),
    /// The innermost directory is over.
    Leave,
    /// A symbolic link and its target.
    Symlink(CString, CString),
    /// A regular file in a directory; its bytes come with the batch.
    File(Arc<OwnedFd>, CString),
}

/// How a listing ends.
#[derive(Debug)]
pub(super) enum End {
    /// The root is over, and so many entries are metadata.
    Whole(u64),
    /// It goes no further, at an entry of the innermost directory or in it.
    Stop(Option<CString>, Obstacle),
}

/// Lists a tree.
pub(super) struct Planner<'a> {
    pub(super) skip: Skip,
    pub(super) reach: Reach,
    pub(super) watch: Watch<'a>,
    pub(super) batches: Sender<Batch>,
    pub(super) jobs: Sender<Job>,
    pub(super) plan: Plan,
    pub(super) entries: u64,
    /// Entries that some form of a tree leaves out.
    pub(super) metadata: u64,
}

/// The batch that is being made.
#[derive(Debug, Default)]
pub(super) struct Plan {
    steps: Vec<Step>,
    files: usize,
    /// Directories that files of it are in, or some more.
    directories: usize,
}

/// Nobody waits for the rest.
pub(super) struct Unwanted;

type Planned = Result<(), Unwanted>;

impl Planner<'_> {
    pub(super) fn run(mut self, root: OwnedFd) {
        // Whoever stopped listening needs no answer.
        if self.directory(None, root, 0).is_ok() {
            self.hand_over(Some(End::Whole(self.metadata))).ok();
        }
    }

    fn push(&mut self, step: Step) -> Planned {
        let plan = &mut self.plan;
        match step {
            // Behind a directory comes the rest of another one.
            Step::Enter(_) | Step::Leave => plan.directories += 1,
            Step::File(..) => plan.files += 1,
            Step::Symlink(..) => {}
        }
        plan.steps.push(step);
        let is_full = plan.files >= BATCH_FILES
            || plan.steps.len() >= BATCH_STEPS
            || (plan.directories >= BATCH_DIRECTORIES && plan.files > 0);
        if is_full {
            self.hand_over(None)
        } else {
            Ok(())
        }
    }

    fn hand_over(&mut self, end: Option<End>) -> Planned {
        let plan = std::mem::take(&mut self.plan);
        let (batch, job) = read_ahead::batch(plan.steps, end);
        if plan.files > 0 {
            self.jobs.send(job).map_err(|_| Unwanted)?;
        }
        self.batches.send(batch).map_err(|_| Unwanted)
    }

    fn stop(&mut self, name: Option<&CStr>, obstacle: impl Into<Obstacle>) -> Planned {
        let stop = End::Stop(name.map(CStr::to_owned), obstacle.into());
        self.hand_over(Some(stop))?;
        Err(Unwanted)
    }

    fn directory(&mut self, name: Option<CString>, directory: OwnedFd, depth: usize) -> Planned {
        self.push(Step::Enter(name))?;
        if depth >= MAX_DEPTH {
            return self.stop(None, Obstacle::TooDeep);
        }
        let names = match self.list(&directory) {
            Ok(names) => names,
            Err(obstacle) => return self.stop(None, obstacle),
        };
        let directory = Arc::new(directory);
        for (name, file_type) in names {
            if self.watch.interrupted() {
                return self.stop(None, Obstacle::Interrupted);
            }
            self.entry(&directory, name, file_type, depth)?;
        }
        self.push(Step::Leave)
    }

    fn list(&mut self, directory: &OwnedFd) -> Result<Vec<(CString, FileType)>, Obstacle> {
        let mut names = Vec::new();
        if self.reach == Reach::Public {
            self.reach.check(&rustix::fs::fstat(directory)?)?;
        }
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if Skip::Metadata.passes_over(name.to_bytes()) {
                self.metadata += 1;
                if self.skip == Skip::Metadata {
                    continue;
                }
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(Obstacle::TooManyEntries);
            }
            names.push((name.to_owned(), entry.file_type()));
        }
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    }

    fn entry(
        &mut self,
        directory: &Arc<OwnedFd>,
        name: CString,
        file_type: FileType,
        depth: usize,
    ) -> Planned {
        let file_type = match file_type {
            // Some file systems do not tell the type in the listing.
            FileType::Unknown => {
                match rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(error) => return self.stop(Some(&name), error),
                }
            }
            known => known,
        };
        match file_type {
            FileType::RegularFile => self.push(Step::File(Arc::clone(directory), name)),
            FileType::Directory => match open(directory, &name, OFlags::DIRECTORY) {
                Ok(child) => self.directory(Some(name), child, depth + 1),
                Err(error) => self.stop(Some(&name), error),
            },
            FileType::Symlink => match rustix::fs::readlinkat(directory, &name, Vec::new()) {
                Ok(target) => self.push(Step::Symlink(name, target)),
                Err(error) => self.stop(Some(&name), error),
            },
            _ => self.stop(Some(&name), Obstacle::Special),
        }
    }
}

/// Opens an entry of a directory without following it.
pub(super) fn open(
    directory: &OwnedFd,
    name: &CStr,
    flags: OFlags,
) -> Result<OwnedFd, rustix::io::Errno> {
    // NONBLOCK and NOCTTY: the name may have become a pipe or terminal since it was listed.
    let flags = flags
        | OFlags::RDONLY
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC
        | OFlags::NONBLOCK
        | OFlags::NOCTTY;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}
