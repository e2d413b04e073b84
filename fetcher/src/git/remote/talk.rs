//! One repository's turn: connected to, asked for as little as it gives out, and for more where it gives no less.

use std::io;
use std::rc::Rc;

use gix::ObjectId;
use gix_transport::client::blocking_io::Transport;

use super::connect::connect;
use super::line::Line;
use super::room::{self, Room};
use super::session::{Depth, Destination, Failure, Session, Wanted};
use super::wire::Program;
use super::{missing, system};
use crate::download::DownloadError;
use crate::git::{Here, Revision};
use crate::net::{Client, NetClass};
use crate::source_url::SourceUrl;

/// How many files one request asks for: servers read a request into memory.
const MAX_BLOBS_ASKED: usize = 20_000;

/// Fetches what a revision stands for. Returns under what it is found, and which commits are there now with all that
/// belongs to them.
pub(super) fn fetch_into(
    room: &Room,
    url: &SourceUrl,
    revision: &Revision,
    client: &Client,
    (line, here): (&Line<'_>, Option<&Rc<dyn Here>>),
) -> Result<(Vec<Revision>, Vec<ObjectId>), DownloadError> {
    let mut attempt = Attempt::default();
    loop {
        let connected = connect(url, client, line);
        let (transport, program) = connected.map_err(|failure| sorted(failure, line, None))?;
        let answer = converse(transport, room, (url, revision), attempt, (line, here));
        let failure = match answer {
            Ok(ids) => return Ok((ids.iter().copied().map(Revision::Id).collect(), ids)),
            // Once more, since the server hung up.
            Err((Failure::Refused, Some(next))) => {
                attempt = next;
                continue;
            }
            Err((Failure::Dumb, _)) if line.is_well() => {
                system::check(client, url, line)?;
                let named = system::named(client, url, revision, line)?;
                system::fetch(room.path(), url, line)?;
                return Ok((vec![named], Vec::new()));
            }
            Err((failure, _)) => failure,
        };
        let said = program.map(Program::last_words);
        return Err(sorted(failure, line, said));
    }
}

/// What is asked for, once a server refused something.
#[derive(Clone, Copy, Debug, Default)]
struct Attempt {
    depth: Option<Depth>,
    /// It gives out no files one by one.
    only_commits: bool,
}

impl Attempt {
    /// What is left to ask for when a commit is refused.
    fn after(self, depth: Depth) -> Option<Self> {
        let next = Self {
            depth: Some(Depth::Everything),
            ..self
        };
        (depth != Depth::Everything).then_some(next)
    }
}

/// Holds one conversation. A failure comes with what is to be asked for if it was refused.
fn converse<'a>(
    transport: Box<dyn Transport + 'a>,
    room: &Room,
    (url, revision): (&SourceUrl, &Revision),
    attempt: Attempt,
    (line, here): (&'a Line<'a>, Option<&Rc<dyn Here>>),
) -> Result<Vec<ObjectId>, (Failure, Option<Attempt>)> {
    let mut session = Session::begin(transport, line).map_err(|failure| (failure, None))?;
    let tips = session
        .resolve(revision)
        .map_err(|failure| (failure, None))?;
    let ids: Vec<_> = tips.iter().map(|tip| tip.commit).collect();
    let shown: Vec<_> = tips.iter().map(|tip| tip.shown).collect();
    let is_known = ids.iter().all(|id| room.tips().contains(id));
    if is_known && !room.is_partial() {
        return Ok(ids);
    }
    let depth = attempt.depth.unwrap_or_else(|| match revision {
        Revision::Id(id) => session.depth_for(id),
        Revision::Name(_) if session.knows_shallow() => Depth::One,
        Revision::Name(_) => Depth::Full,
    });
    let knows_blobs = || here.is_some_and(|here| here.may_have_blobs(url, line.watch));
    // Whoever has all blobs of an earlier commit gets less as a difference to it.
    let leaves_out = room.is_partial() || (room.tips().is_empty() && knows_blobs());
    let gives_blobs = session.gives_blobs() && depth == Depth::One && !attempt.only_commits;
    let is_partial = leaves_out && gives_blobs && session.knows_partial();
    let unusable = |error: io::Error| {
        line.set_damaged(true);
        (Failure::Other(error.to_string()), None)
    };
    let lacking = || missing::of(room.path(), &ids, (here, url), line.watch);
    // All trees may have come before something broke off.
    let known = match room.is_partial() && gives_blobs {
        true => lacking().ok(),
        false => None,
    };
    let missing = match known {
        Some(missing) => {
            room.set_shallow(&ids).map_err(unusable)?;
            missing
        }
        None => {
            let repository = room::open(room.path()).map_err(unusable)?;
            let wanted = Wanted {
                ids: &shown,
                depth,
                blobs: !is_partial,
            };
            let destination = Destination {
                folder: room.path(),
                repository: &repository,
                // Of a partial repository it would be a lie.
                haves: if room.is_partial() && !is_partial {
                    &[]
                } else {
                    room.tips()
                },
                is_kept: room.is_kept(),
            };
            if is_partial {
                room.set_partial().map_err(unusable)?;
            }
            session
                .fetch(wanted, destination)
                .map_err(|failure| (failure, attempt.after(depth)))?;
            match is_partial {
                true => lacking().map_err(unusable)?,
                false => Vec::new(),
            }
        }
    };
    for ids in missing.chunks(MAX_BLOBS_ASKED) {
        let repository = room::open(room.path()).map_err(unusable)?;
        let wanted = Wanted {
            ids,
            depth: Depth::Full,
            blobs: true,
        };
        let destination = Destination {
            folder: room.path(),
            repository: &repository,
            haves: &[],
            is_kept: room.is_kept(),
        };
        let next = Attempt {
            only_commits: true,
            ..attempt
        };
        session
            .fetch(wanted, destination)
            .map_err(|failure| match failure {
                Failure::Absent(_) => (Failure::Refused, Some(next)),
                // Some refuse in other words, or hang up; whatever it is must not meet us in every run.
                Failure::Dumb | Failure::Other(_) if !line.is_pack() && line.forgive() => {
                    (Failure::Refused, Some(next))
                }
                other => (other, Some(next)),
            })?;
    }
    let all = [room.tips(), &ids].concat();
    if room.is_partial() && missing::is_none(room.path(), &all, line.watch) {
        room.set_whole().map_err(unusable)?;
    }
    // Among all that a server shows it may not be; then nothing is remembered.
    let opened = room::open(room.path());
    let is_there = |id: &ObjectId| {
        let trees = opened.as_ref().ok()?.trees_of(&Revision::Id(*id)).ok()?;
        (!trees.is_empty()).then_some(*id)
    };
    let found: Vec<_> = ids.iter().filter_map(is_there).collect();
    if found.is_empty() {
        return Err((Failure::Refused, None));
    }
    Ok(found)
}

/// Gives a failure the kind that exit codes are made of.
fn sorted(failure: Failure, line: &Line<'_>, said: Option<String>) -> DownloadError {
    if line.watch.interrupted() {
        return DownloadError::Interrupted;
    }
    let said = said.filter(|said| !said.is_empty());
    if let Some(trouble) = line.take_trouble() {
        return match (trouble.class(), said) {
            (NetClass::Trouble, Some(said)) => told(said),
            _ => trouble.into(),
        };
    }
    match failure {
        Failure::Absent(what) => DownloadError::Gone(what),
        Failure::Refused => DownloadError::Gone("it gives out no such commit".into()),
        Failure::Dumb => DownloadError::trouble("the server does not speak git's smart protocol"),
        Failure::Unwritable(what) => {
            DownloadError::Local(format!("what the server sends cannot be written: {what}"))
        }
        Failure::Other(what) => match said {
            Some(said) => told(said),
            None => DownloadError::trouble(what),
        },
    }
}

/// What ssh or the program behind it said.
fn told(said: String) -> DownloadError {
    if said.contains("does not appear to be a git repository") {
        return DownloadError::Gone(said);
    }
    DownloadError::trouble(said)
}
