//! One conversation with a server: what it has, what is wanted of it, and the pack that comes.

use std::io;
use std::num::NonZeroU32;
use std::path::Path;

use gix::ObjectId;
use gix::progress::Discard;
use gix::protocol::fetch::negotiate::{Action, Round, one_round};
use gix::protocol::fetch::{Arguments, Context, Negotiate, Options, Response, Shallow, Tags};
use gix::protocol::handshake::Ref;
use gix::protocol::ls_refs::RefPrefixes;
use gix::protocol::{Handshake, LsRefsCommand};
use gix_transport::client::blocking_io::Transport;
use gix_transport::{Protocol, Service};

use super::line::Line;
use super::receive;
use crate::git::{Repository, Revision};

/// The most references that are asked for when only everything will do.
const MAX_WANTS: usize = 100_000;

/// Why a conversation came to nothing, as far as the network is not to blame.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server has no such commit, tag or branch.
    Absent(String),
    /// It does not speak the smart protocol.
    Dumb,
    /// It refused a commit that may be there all the same.
    Refused,
    /// What comes cannot be written.
    Unwritable(String),
    /// Anything else, in words.
    Other(String),
}

/// What is to be had of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// The commits alone.
    One,
    /// With their history, because the server knows no other way.
    Full,
    /// All that it shows, because it does not give out what it does not show.
    Everything,
}

/// A reference that a server shows, or an id that was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tip {
    name: String,
    /// What is asked for: old servers give out what a reference names and nothing behind it, so that it may be a tag.
    pub(super) shown: ObjectId,
    /// What it stands for, tags followed.
    pub(super) commit: ObjectId,
}

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) ids: &'a [ObjectId],
    pub(super) depth: Depth,
    /// Whether the content of files is wanted too.
    pub(super) blobs: bool,
}

/// Where a pack goes, and what is there already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Destination<'a> {
    /// The bare repository.
    pub(super) folder: &'a Path,
    /// Bases for thin packs.
    pub(super) repository: &'a Repository,
    /// Commits that are there, with all that belongs to them.
    pub(super) haves: &'a [ObjectId],
    /// Whether it stays, with what comes of a pack that is cut off.
    pub(super) is_kept: bool,
}

/// A conversation that has begun.
pub(super) struct Session<'a, T: Transport> {
    transport: T,
    line: &'a Line<'a>,
    handshake: Handshake,
}

impl<T: Transport> std::fmt::Debug for Session<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({:?})", self.handshake.capabilities)
    }
}

fn agent() -> (&'static str, Option<String>) {
    let version = concat!("fetch/", env!("CARGO_PKG_VERSION"));
    ("agent", Some(version.to_owned()))
}

impl<'a, T: Transport> Session<'a, T> {
    pub(super) fn begin(mut transport: T, line: &'a Line<'a>) -> Result<Self, Failure> {
        line.expect_talk();
        let handshake = gix::protocol::handshake(
            &mut transport,
            Service::UploadPack,
            |_| Ok(None),
            Vec::new(),
            &mut Discard,
        )
        .map_err(|error| failure(&error))?;
        let format = handshake.capabilities.capability("object-format");
        match format.and_then(|format| format.value().map(ToString::to_string)) {
            Some(format) if format != "sha1" => Err(Failure::Other(format!(
                "its object ids are made with {}, and only SHA-1 repositories can be read",
                format.escape_debug()
            ))),
            _ => Ok(Self {
                transport,
                line,
                handshake,
            }),
        }
    }

    fn is_v2(&self) -> bool {
        self.handshake.server_protocol_version == Protocol::V2
    }

    /// Returns the commits or tags that a revision may mean, the likeliest first.
    pub(super) fn resolve(&mut self, revision: &Revision) -> Result<Vec<Tip>, Failure> {
        let name = match revision {
            Revision::Id(id) => return Ok(vec![self.tip_of(id)]),
            Revision::Name(name) => name,
        };
        let wanted = if name == "HEAD" || name.starts_with("refs/") {
            vec![name.clone()]
        } else {
            vec![format!("refs/tags/{name}"), format!("refs/heads/{name}")]
        };
        let refs = self.refs(&wanted)?;
        let mut tips: Vec<Tip> = Vec::new();
        for wanted in wanted {
            for tip in refs.iter().filter(|tip| tip.name == wanted) {
                if !tips.iter().any(|known| known.commit == tip.commit) {
                    tips.push(tip.clone());
                }
            }
        }
        if tips.is_empty() {
            return Err(Failure::Absent(format!(
                "it has no tag or branch '{}'",
                name.escape_debug()
            )));
        }
        Ok(tips)
    }

    /// Returns what has to be asked for to get an id: an old server may show it behind a tag only.
    fn tip_of(&self, id: &ObjectId) -> Tip {
        let shown = named(self.handshake.refs.as_deref().unwrap_or_default());
        let is_shown = shown.iter().any(|tip| tip.shown == *id);
        let tag = shown.into_iter().find(|tip| !is_shown && tip.commit == *id);
        tag.unwrap_or_else(|| Tip {
            name: String::new(),
            shown: *id,
            commit: *id,
        })
    }

    /// Returns references whose names begin so; a server that can shows no others.
    fn refs(&mut self, prefixes: &[String]) -> Result<Vec<Tip>, Failure> {
        if self.handshake.refs.is_none() && self.is_v2() {
            let mut wanted = RefPrefixes::new();
            wanted.extend(prefixes.iter().map(|prefix| prefix.as_str().into()));
            let capabilities = &self.handshake.capabilities;
            let command = LsRefsCommand::new(Some(wanted), capabilities, agent());
            let refs = command
                .invoke_blocking(&mut self.transport, &mut Discard, false)
                .map_err(|error| failure(&error))?;
            return Ok(named(&refs));
        }
        let mut refs = named(self.handshake.refs.as_deref().unwrap_or_default());
        refs.retain(|tip| prefixes.iter().any(|prefix| tip.name.starts_with(prefix)));
        Ok(refs)
    }

    /// Says what has to be asked for so that a commit comes that was named by its id.
    pub(super) fn depth_for(&mut self, id: &ObjectId) -> Depth {
        let knows_shallow = self.knows_shallow();
        let capabilities = &self.handshake.capabilities;
        let gives_all = self.is_v2()
            || capabilities.contains("allow-reachable-sha1-in-want")
            || capabilities.contains("allow-tip-sha1-in-want");
        let shown = named(self.handshake.refs.as_deref().unwrap_or_default());
        let shows = shown.iter().any(|tip| [tip.shown, tip.commit].contains(id));
        match (gives_all || shows, knows_shallow) {
            (true, true) => Depth::One,
            (true, false) => Depth::Full,
            (false, _) => Depth::Everything,
        }
    }

    /// Says how little can be asked for.
    pub(super) fn knows_shallow(&self) -> bool {
        let capabilities = &self.handshake.capabilities;
        if self.is_v2() {
            let fetch = capabilities.capability("fetch");
            return fetch
                .and_then(|fetch| fetch.supports("shallow"))
                .unwrap_or(false);
        }
        capabilities.contains("shallow")
    }

    /// Says whether the server can leave out the content of files, and give it out one by one.
    pub(super) fn knows_partial(&self) -> bool {
        let fetch = self.handshake.capabilities.capability("fetch");
        let can_filter = fetch.and_then(|fetch| fetch.supports("filter"));
        self.is_v2() && can_filter.unwrap_or(false)
    }

    /// Says whether the server may give out what is asked for one by one, whether it can leave it out or not.
    pub(super) fn gives_blobs(&self) -> bool {
        self.is_v2()
    }

    /// Git itself gives out everything it has, once it speaks the second version: what it has not got is not there.
    fn refusal_is_final(&self) -> bool {
        let agent = self.handshake.capabilities.capability("agent");
        let is_git = agent
            .and_then(|agent| agent.value().map(|value| value.starts_with(b"git/")))
            .unwrap_or(false);
        self.is_v2() && is_git
    }

    /// Has a pack made of what is wanted, and indexes it.
    pub(super) fn fetch(
        &mut self,
        wanted: Wanted<'_>,
        into: Destination<'_>,
    ) -> Result<(), Failure> {
        let wants = match wanted.depth {
            Depth::One | Depth::Full => wanted.ids.to_vec(),
            Depth::Everything => {
                let all = ["refs/heads/".to_owned(), "refs/tags/".to_owned()];
                let mut ids: Vec<_> = self.refs(&all)?.into_iter().map(|tip| tip.shown).collect();
                ids.sort_unstable();
                ids.dedup();
                ids.truncate(MAX_WANTS);
                ids
            }
        };
        if wants.is_empty() {
            return Err(Failure::Absent("the repository is empty".into()));
        }
        let shallow = match wanted.depth {
            Depth::One => Shallow::DepthAtRemote(NonZeroU32::MIN),
            Depth::Full | Depth::Everything => Shallow::NoChange,
        };
        let mut ask = Ask {
            wants: &wants,
            haves: into.haves,
            blobs: wanted.blobs,
        };
        let line = self.line;
        let is_final = self.refusal_is_final();
        let fetched = gix::protocol::fetch(
            &mut ask,
            |pack, _, _| receive::pack(pack, into, line).map(|()| true),
            Discard,
            line.watch.interrupt,
            Context {
                handshake: &mut self.handshake,
                transport: &mut self.transport,
                user_agent: agent(),
                trace_packetlines: false,
            },
            Options {
                shallow_file: into.folder.join("shallow"),
                shallow: &shallow,
                tags: Tags::None,
                reject_shallow_remote: false,
            },
        );
        match fetched {
            Ok(_) => Ok(()),
            Err(error) => Err(match failure(&error) {
                Failure::Refused if is_final => Failure::Absent("it has no such commit".into()),
                Failure::Other(what) if line.is_pack() => Failure::Other(format!(
                    "the pack broke off or is damaged, after {} bytes: {what}",
                    line.got_bytes()
                )),
                other => other,
            }),
        }
    }
}

fn named(refs: &[Ref]) -> Vec<Tip> {
    let tip = |reference: &Ref| {
        let (name, target, peeled) = reference.unpack();
        let shown = target?.to_owned();
        Some(Tip {
            name: name.to_string(),
            shown,
            commit: peeled.map_or(shown, ToOwned::to_owned),
        })
    };
    refs.iter().filter_map(tip).collect()
}

/// Sorts what gix says.
fn failure(error: &gix::Error) -> Failure {
    let causes: Vec<String> = error
        .iter_errors()
        .map(|cause| cause.to_string())
        .filter(|cause| !cause.is_empty())
        .collect();
    let says = |words: &str| causes.iter().any(|cause| cause.contains(words));
    if says("'dumb' protocol") {
        return Failure::Dumb;
    }
    if says("not our ref") || says("unadvertised object") || says("not valid") {
        return Failure::Refused;
    }
    // `git daemon` says no more to somebody who may not know.
    if says("access denied or repository not exported") || says("no such repository") {
        return Failure::Absent("the server says that there is no such repository".into());
    }
    let unwritable = |cause: &&(dyn std::error::Error + 'static)| {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        cause.downcast_ref::<io::Error>().is_some_and(|error| {
            let kind = error.kind();
            [
                StorageFull,
                QuotaExceeded,
                ReadOnlyFilesystem,
                PermissionDenied,
            ]
            .contains(&kind)
        })
    };
    if let Some(cause) = error.iter_errors().find(unwritable) {
        return Failure::Unwritable(cause.to_string());
    }
    let last = causes.last().map_or("unknown trouble", String::as_str);
    Failure::Other(last.escape_debug().to_string())
}

/// Asks for exactly what is wanted, in one round.
struct Ask<'a> {
    wants: &'a [ObjectId],
    haves: &'a [ObjectId],
    blobs: bool,
}

impl Negotiate for Ask<'_> {
    fn mark_complete_and_common_ref(&mut self) -> gix::Result<Action> {
        Ok(Action::MustNegotiate {
            remote_ref_target_known: Vec::new(),
        })
    }

    fn add_wants(&mut self, arguments: &mut Arguments, _known: &[bool]) -> bool {
        for want in self.wants {
            arguments.want(want);
        }
        if !self.blobs && arguments.can_use_filter() {
            arguments.filter("blob:none");
        }
        !self.wants.is_empty()
    }

    fn one_round(
        &mut self,
        _state: &mut one_round::State,
        arguments: &mut Arguments,
        _previous: Option<&Response>,
    ) -> gix::Result<(Round, bool)> {
        for have in self.haves {
            arguments.have(have);
        }
        let round = Round {
            haves_sent: self.haves.len(),
            in_vain: 0,
            haves_to_send: self.haves.len(),
            previous_response_had_at_least_one_in_common: false,
        };
        Ok((round, true))
    }
}
