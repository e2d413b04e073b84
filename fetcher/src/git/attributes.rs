//! `.gitattributes` of a tree, as far as they change what a checkout writes.

use std::path::Path;

use gix::attrs::StateRef;
use gix::attrs::search::{MetadataCollection, Outcome};
use gix::bstr::{BStr, ByteSlice as _};
use gix::filter::plumbing::eol::{AttributesDigest, Mode};
use gix::glob::pattern::Case;

use super::conversion::{Conversion, Encoding};

/// Larger files of attributes are ignored, as git does, in bytes.
const MAX_FILE_BYTES: usize = 100 << 20;

/// Longer lines are ignored, as git does, in bytes.
const MAX_LINE_BYTES: usize = 2048;

/// What is asked of each file. `filter` is not: filters are programs, and none is configured in a fresh clone.
const NAMES: [&str; 5] = ["crlf", "text", "eol", "ident", "working-tree-encoding"];

/// The attributes of the directories that a walk is in.
#[derive(Default)]
pub(super) struct Attributes {
    search: gix::attrs::Search,
    names: MetadataCollection,
    outcome: Outcome,
}

impl Attributes {
    /// Starts with what git has built in.
    pub(super) fn new() -> Self {
        let mut attributes = Self::default();
        attributes.add(b"[attr]binary -diff -merge -text", Path::new(""), true);
        attributes
    }

    /// Enters a directory, with the content of its `.gitattributes`.
    pub(super) fn enter(&mut self, directory: &Path, content: &[u8]) {
        // git takes a byte order mark for a part of the first pattern; gix would leave it out.
        let mut lines = vec![b'\n'];
        if content.len() <= MAX_FILE_BYTES {
            for line in content.lines_with_terminator() {
                if line.strip_suffix(b"\n").unwrap_or(line).len() < MAX_LINE_BYTES {
                    lines.extend(line);
                }
            }
        }
        let is_top = directory.as_os_str().is_empty();
        self.add(&lines, directory, is_top);
    }

    fn add(&mut self, content: &[u8], directory: &Path, macros: bool) {
        // In memory nothing fails but paths that are no Unix paths.
        let source = directory.join(".gitattributes");
        let root = Some(Path::new(""));
        drop(
            self.search
                .add_patterns_buffer(content, source, root, &mut self.names, macros),
        );
        self.outcome.initialize_with_selection(&self.names, NAMES);
    }

    /// Leaves the directory entered last.
    pub(super) fn leave(&mut self) {
        self.search.pop_pattern_list();
    }

    /// Returns what a checkout does to a file.
    pub(super) fn of(&mut self, path: &BStr) -> Conversion {
        self.outcome.reset();
        self.search.pattern_matching_relative_path(
            path,
            Case::Sensitive,
            Some(false),
            &mut self.outcome,
        );
        let mut states = [StateRef::Unspecified; NAMES.len()];
        for (state, found) in states.iter_mut().zip(self.outcome.iter_selected()) {
            *state = found.assignment.state;
        }
        let [crlf, text, eol, ident, encoding] = states;
        Conversion {
            eol: line_ends(crlf, text, eol),
            // A value is not what git looks for.
            ident: ident == StateRef::Set,
            encoding: value(encoding).and_then(Encoding::from_name),
        }
    }
}

fn value(state: StateRef<'_>) -> Option<&BStr> {
    match state {
        StateRef::Value(value) => Some(value.as_bstr()),
        _ => None,
    }
}

/// What `text`, its old name `crlf`, and `eol` say together, as in git's `convert_attrs`.
fn line_ends(crlf: StateRef<'_>, text: StateRef<'_>, eol: StateRef<'_>) -> AttributesDigest {
    let is_text = |state| match state {
        StateRef::Set => Some(AttributesDigest::Text),
        StateRef::Unset => Some(AttributesDigest::Binary),
        _ if value(state).is_some_and(|value| value == "input") => {
            Some(AttributesDigest::TextInput)
        }
        _ if value(state).is_some_and(|value| value == "auto") => Some(AttributesDigest::TextAuto),
        _ => None,
    };
    let eol = match value(eol) {
        Some(value) if value == "lf" => Some(Mode::Lf),
        Some(value) if value == "crlf" => Some(Mode::CrLf),
        _ => None,
    };
    match (is_text(text).or_else(|| is_text(crlf)), eol) {
        (Some(AttributesDigest::Binary), _) | (None, None) => AttributesDigest::Binary,
        (Some(AttributesDigest::TextAuto), Some(Mode::Lf)) => AttributesDigest::TextAutoInput,
        (Some(AttributesDigest::TextAuto), Some(Mode::CrLf)) => AttributesDigest::TextAutoCrlf,
        (_, Some(mode)) => mode.into(),
        // The line ends of this system are those of the repository.
        (Some(AttributesDigest::Text), None) => AttributesDigest::TextInput,
        (Some(other), None) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_line_is_that_of_git() {
        let converts = |len: usize, end: &str| {
            let line = format!("{:1$}{end}", "x eol=crlf", len);
            let mut attributes = Attributes::new();
            attributes.enter(Path::new(""), line.as_bytes());
            attributes.of("x".into()).eol != AttributesDigest::Binary
        };
        for end in ["", "\n"] {
            assert!(converts(2047, end));
            assert!(!converts(2048, end));
        }
    }
}
