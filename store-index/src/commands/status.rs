//! `store-index status`.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use store_index::index::Index;
use store_index::path_text;
use store_index::root::{Root, RootKind};
use store_index::segment::reader::Counts;

use super::{
    DONE, Failure, Located, Locator, open_indexes, print, print_json, shown, warn_unusable,
};
use crate::cli::{StatusArgs, Talk};
use store_index::terminal::say;

pub(crate) fn status(args: &StatusArgs, talk: &Talk) -> Result<u8, Failure> {
    let locator = Locator::new(&args.places)?;
    let mut all = Vec::new();
    let mut text = String::new();
    for index in open_indexes(&args.places)? {
        match index {
            Ok(index) => {
                let state = State::of(&index, locator.locate(&index));
                state.located.warn_untouched(talk);
                all.push(state.json(&index));
                state.describe(&index, &mut text);
            }
            Err(error) => {
                warn_unusable(&error, talk.quiet);
                all.push(serde_json::json!({
                    "index": path_text::printable(error.directory()),
                    "error": error.to_string(),
                    "hint": error.hint(),
                }));
            }
        }
    }
    if args.json {
        print_json(&serde_json::Value::Array(all))?;
    } else {
        print(&text)?;
        if text.is_empty() && !talk.quiet {
            say("there is no index; make one with `store-index update`");
        }
    }
    Ok(DONE)
}

/// What there is to say of an index.
struct State {
    counts: Counts,
    bytes: u64,
    /// Files of a medium that nobody has read.
    hints: u64,
    located: Located,
    /// Whether the store directory is as it was; unknown for folders, which have no such mark.
    fresh: Option<bool>,
}

impl State {
    fn of(index: &Index, located: Located) -> Self {
        let manifest = index.manifest();
        let (mut counts, mut hints) = (Counts::default(), 0);
        for segment in index.segments() {
            // A damaged dead list is the business of `check`.
            let live = segment.live_counts().unwrap_or_default();
            counts.links += live.links;
            counts.files += live.files;
            counts.items += live.items;
            if manifest.root.kind() == RootKind::Medium {
                hints += segment.live_hints().unwrap_or(0);
            }
        }
        let len = |entry: &store_index::manifest::SegmentEntry| {
            entry.bytes + entry.dead.as_ref().map_or(0, |dead| dead.bytes)
        };
        let store_mtime = || {
            let metadata = fs_err::metadata(&located.real).ok()?;
            Some(
                metadata
                    .mtime()
                    .saturating_mul(1_000_000_000)
                    .saturating_add(metadata.mtime_nsec()),
            )
        };
        Self {
            counts,
            bytes: manifest.segments.iter().map(len).sum(),
            hints,
            fresh: (manifest.root.kind() == RootKind::Store && !located.untouched)
                .then(|| store_mtime().is_some_and(|mtime| index.is_fresh_for(mtime))),
            located,
        }
    }

    fn json(&self, index: &Index) -> serde_json::Value {
        let (root, manifest) = (index.root(), index.manifest());
        serde_json::json!({
            "root": path_text::printable(self.shown_root(&root)),
            "kind": root.kind().name(),
            "id": root.id().to_string(),
            "index": path_text::printable(index.directory()),
            "links": self.counts.links,
            "files": self.counts.files,
            "items": self.counts.items,
            "entries": self.counts.links + self.counts.files,
            "algorithms": manifest.kinds.names(),
            "segments": manifest.segments.len(),
            "bytes": self.bytes,
            "complete": manifest.finished,
            "fresh": self.fresh,
            "hints": self.hints,
            "mounted": self.located.mounted,
            "trusted": index.root_is_trusted(),
            "label": self.located.label,
            "error": null,
        })
    }

    /// Returns the path that a root is known by: of a medium, where it is or was.
    fn shown_root<'a>(&'a self, root: &'a Root) -> &'a Path {
        match root.kind() {
            RootKind::Medium => &self.located.real,
            RootKind::Store | RootKind::Folder => root.path(),
        }
    }

    fn describe(&self, index: &Index, text: &mut String) {
        let (root, manifest) = (index.root(), index.manifest());
        let freshness = match (manifest.finished, self.located.mounted, self.fresh) {
            (false, _, _) => "not complete yet: run `store-index update`",
            (true, false, _) => "complete; the root is not there",
            (true, true, None) => "complete as of its last update",
            (true, true, Some(true)) => "complete and up to date",
            (true, true, Some(false)) if manifest.store_mtime_ns.is_none() => {
                "complete but for items that were being made: run `store-index update` again"
            }
            (true, true, Some(false)) => "the store has changed since: run `store-index update`",
        };
        let mut entries = format!("{} links, {} files", self.counts.links, self.counts.files);
        if self.hints > 0 {
            write!(entries, ", {} of them by checksum lists alone", self.hints).ok();
        }
        let size = format!(
            "{} in {} segments",
            indicatif::HumanBytes(self.bytes),
            manifest.segments.len()
        );
        let lines = [
            ("index", shown(index.directory())),
            ("entries", entries),
            ("digests", manifest.kinds.names().join(", ")),
            ("size", size),
            ("state", freshness.to_owned()),
        ];
        // Writing to a string cannot fail.
        let label = self.located.label.as_ref();
        let label = label.map(|label| format!(" «{label}»")).unwrap_or_default();
        writeln!(
            text,
            "{}{label} {}",
            root.kind(),
            shown(self.shown_root(&root))
        )
        .ok();
        for (name, value) in lines {
            writeln!(text, "  {name:<8} {value}").ok();
        }
    }
}
