//! `store-index media`: the discs that this machine knows.

use store_index::index::{Index, find_named};
use store_index::index_writer::forget;
use store_index::media::{self, MAX_LABEL_LEN, Medium, Remembered};
use store_index::path_text;
use store_index::root::RootKind;
use store_index::segment::SegmentError;
use store_index::terminal::say;

use super::{DONE, Failure, print, print_json, shown, warn_unusable};
use crate::cli::{MediaArgs, MediaCommand, Talk, Usage};

/// The fewest characters of an id that stand for it: fewer are a slip of the finger.
const MIN_ID_CHARS: usize = 4;

pub(crate) fn media(args: &MediaArgs, talk: &Talk) -> Result<u8, Failure> {
    let known = known(args, talk);
    match &args.command {
        None | Some(MediaCommand::List) => list(&known, args.json, talk),
        Some(MediaCommand::Rename { id, label }) => rename(find(&known, id)?, label, talk),
        Some(MediaCommand::Forget { id }) => forget_medium(find(&known, id)?, talk),
    }
}

/// Returns the media that have an index in the places that were named, or in the usual ones.
fn known(args: &MediaArgs, talk: &Talk) -> Vec<Remembered> {
    let named = args.indexes();
    let of_medium = |index: &Index| index.root().kind() == RootKind::Medium;
    let all: Vec<_> = if named.is_empty() {
        media::remembered().collect()
    } else {
        let indexes = named.iter().flat_map(|path| find_named(path));
        indexes.map(|index| index.map(Remembered::of)).collect()
    };
    let mut known = Vec::new();
    for remembered in all {
        match remembered {
            Ok(remembered) if of_medium(&remembered.index) => known.push(remembered),
            Ok(_) => {}
            Err(error) => warn_unusable(&error, talk.quiet),
        }
    }
    known
}

/// Finds a medium by its id or the beginning of it.
fn find<'a>(known: &'a [Remembered], id: &str) -> Result<&'a Remembered, Failure> {
    let is_it = |remembered: &&Remembered| {
        let own = remembered.index.root().id().to_string();
        own == id || (id.len() >= MIN_ID_CHARS && own.starts_with(id))
    };
    let shown_id = id.escape_debug();
    let mut found = known.iter().filter(is_it);
    match (found.next(), found.next()) {
        (Some(remembered), None) => Ok(remembered),
        (Some(_), Some(_)) => Err(Usage::new(format!("several media begin with '{shown_id}'"))
            .with_hint("give more of the id")
            .into()),
        (None, _) => Err(Usage::new(format!("no medium has the id '{shown_id}'"))
            .with_hint("`store-index media list` shows those that are known")
            .into()),
    }
}

fn list(known: &[Remembered], json: bool, talk: &Talk) -> Result<u8, Failure> {
    // Looking for media that are mounted costs a listing of each.
    let mounted = if known.is_empty() {
        Vec::new()
    } else {
        media::mounted()
    };
    if json {
        let all = known
            .iter()
            .map(|remembered| describe(remembered, &mounted));
        print_json(&all.collect())?;
        return Ok(DONE);
    }
    for remembered in known {
        let root = remembered.index.root();
        let state = match (remembered.place(&mounted), remembered.note.last_path()) {
            (Some(place), _) => format!("mounted at {}", shown(&place)),
            (None, Some(last)) => format!("not mounted, last at {}", shown(&last)),
            (None, None) => "not mounted".to_owned(),
        };
        let counts = Counts::of(&remembered.index).unwrap_or_default();
        let hints = match counts.hints {
            0 => String::new(),
            hints => format!(" ({hints} by checksum lists alone)"),
        };
        print(&format!(
            "{}  {} files{hints}  «{}»  {state}\n",
            root.id(),
            counts.files,
            remembered.label(),
        ))?;
    }
    if known.is_empty() && !talk.quiet {
        say("no medium is known; `store-index update --media DIR` indexes one");
    }
    Ok(DONE)
}

#[derive(Default)]
struct Counts {
    files: u64,
    hints: u64,
}

impl Counts {
    fn of(index: &Index) -> Result<Self, SegmentError> {
        let mut counts = Self::default();
        for segment in index.segments() {
            counts.files += segment.live_counts()?.files;
            counts.hints += segment.live_hints()?;
        }
        Ok(counts)
    }
}

fn describe(remembered: &Remembered, mounted: &[Medium]) -> serde_json::Value {
    let Remembered { index, note } = remembered;
    let place = remembered.place(mounted);
    let counts = Counts::of(index);
    serde_json::json!({
        "id": index.root().id().to_string(),
        "label": remembered.label(),
        "uuid": note.uuid,
        "index": path_text::printable(index.directory()),
        "mounted": place.is_some(),
        "path": place.as_deref().map(path_text::printable),
        "last_path": note.last_path().as_deref().map(path_text::printable),
        "entries": counts.as_ref().ok().map(|counts| counts.files),
        "hints": counts.as_ref().ok().map(|counts| counts.hints),
        "complete": index.manifest().is_whole(),
    })
}

fn rename(remembered: &Remembered, label: &str, talk: &Talk) -> Result<u8, Failure> {
    if label.len() > MAX_LABEL_LEN {
        return Err(Usage::new(format!("the label is longer than {MAX_LABEL_LEN} bytes")).into());
    }
    if label.contains(char::is_control) {
        return Err(Usage::new("a label is one line of text").into());
    }
    let mut note = remembered.note.clone();
    note.name = Some(label.to_owned()).filter(|label| !label.is_empty());
    note.write(remembered.index.directory())
        .map_err(|error| Failure::Local {
            message: format!("cannot rename the medium: {error}"),
            hint: Some("whoever made its index can".to_owned()),
        })?;
    if !talk.quiet {
        let label = note.label_or_id(&remembered.index.root());
        say(&format!("it is called «{label}» now"));
    }
    Ok(DONE)
}

fn forget_medium(remembered: &Remembered, talk: &Talk) -> Result<u8, Failure> {
    let directory = remembered.index.directory();
    forget(directory).map_err(|error| Failure::Local {
        message: format!("cannot forget «{}»: {error}", remembered.label()),
        hint: Some("whoever made its index can, while no update of it runs".to_owned()),
    })?;
    if !talk.quiet {
        say(&format!("«{}» is forgotten", remembered.label()));
    }
    Ok(DONE)
}
