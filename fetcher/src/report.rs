//! What happened, for people and for programs.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use store_index::address::ContentAddress;
use store_index::hash_text::{Base, HashForm};
use store_index::path_text::printable;

use crate::error::FetchError;
use crate::request::{Request, Target};
use crate::source::{Candidate, SourceKind};

/// The version of the JSON object.
pub(crate) const JSON_VERSION: u32 = 1;

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// The content came from there.
    Ok,
    /// It is not there.
    Absent,
    /// Something else is there.
    Mismatch,
    /// It could not be asked.
    Unavailable,
    /// It was asked and broke down.
    Failed,
    /// It is not for us.
    Skipped,
    /// It has the content under the name of another version.
    Suspicious,
}

impl AttemptResult {
    /// Returns the name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Absent => "absent",
            Self::Mismatch => "mismatch",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Suspicious => "suspicious",
        }
    }
}

/// One source asked, or one candidate tried.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The kind of source.
    pub kind: SourceKind,
    /// A path, or a URL without userinfo and query.
    pub location: String,
    /// How it ended.
    pub result: AttemptResult,
    /// Why, where the result does not say all.
    pub reason: Option<String>,
    /// How many bytes were copied or received.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// A fetch that succeeded.
#[derive(Clone, Debug)]
pub struct Success {
    /// The kind of source that had it.
    pub kind: SourceKind,
    /// Where it was.
    pub location: String,
    /// The sum of the sizes of its regular files, in bytes.
    pub bytes: u64,
    /// Whether the output is an executable file.
    pub executable: bool,
}

/// An output that the store has as well.
#[derive(Clone, Debug)]
pub struct Added {
    /// Its path there.
    pub path: String,
    /// Whether the store had it before.
    pub present: bool,
}

/// Everything that is to be told about one fetch.
#[derive(Debug)]
pub struct Report {
    /// What was tried, in order.
    pub attempts: Vec<Attempt>,
    /// How it ended.
    pub result: Result<Success, FetchError>,
    /// Whence the wrong content came that was left at a daemon's output after a failure.
    pub left: Option<String>,
    /// Where the output was added to the store, if that was wanted.
    pub added: Option<Added>,
    /// How long it took.
    pub took: Duration,
}

#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    output: Option<String>,
    name: Option<&'a str>,
    method: &'static str,
    hash: String,
    bytes: Option<u64>,
    executable: Option<bool>,
    source: Option<JsonSource<'a>>,
    added: Option<JsonAdded<'a>>,
    attempts: Vec<JsonAttempt<'a>>,
    ms: u64,
    error: Option<JsonError<'a>>,
}

/// With the keys that `prefetch` has.
#[derive(Serialize)]
struct JsonAdded<'a> {
    path: &'a str,
    hashes: HashForms,
    present: bool,
}

#[derive(Serialize)]
pub(crate) struct JsonSource<'a> {
    kind: &'static str,
    location: &'a str,
}

#[derive(Serialize)]
pub(crate) struct JsonAttempt<'a> {
    kind: &'static str,
    location: &'a str,
    result: &'static str,
    reason: Option<&'a str>,
    bytes: u64,
    ms: u64,
}

#[derive(Serialize)]
pub(crate) struct JsonError<'a> {
    kind: &'static str,
    message: &'a str,
    hint: Option<&'a str>,
}

/// A hash in all the forms that people paste.
#[derive(Serialize)]
pub(crate) struct HashForms {
    sri: String,
    hex: String,
    nix32: String,
    base64: String,
}

impl HashForms {
    pub(crate) fn of(address: &ContentAddress) -> Self {
        let digest = address.digest();
        let bare = |base| digest.in_form(HashForm::Bare(base)).to_string();
        Self {
            sri: digest.to_sri(),
            hex: bare(Base::Hex),
            nix32: bare(Base::Nix32),
            base64: bare(Base::Base64),
        }
    }

    /// Returns the forms with their names, in the order of printing.
    pub(crate) fn named(&self) -> [(&'static str, &str); 4] {
        [
            ("sri", &self.sri),
            ("hex", &self.hex),
            ("nix32", &self.nix32),
            ("base64", &self.base64),
        ]
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Report {
    /// The report of a fetch that could not begin.
    pub fn failed(error: FetchError) -> Self {
        Self {
            attempts: Vec::new(),
            result: Err(error),
            left: None,
            added: None,
            took: Duration::ZERO,
        }
    }

    /// Returns the program's exit code.
    pub fn exit_code(&self) -> u8 {
        self.result.as_ref().map_or_else(
            |error| error.kind.exit_code(),
            |_| crate::error::exit_code::OK,
        )
    }

    /// Returns lines for people on what was added to the store: the path, and the hash in all forms.
    pub fn added_text(&self, request: &Request) -> Vec<String> {
        let Some(added) = &self.added else {
            return Vec::new();
        };
        let verb = match added.present {
            true => "the store has it",
            false => "added to the store",
        };
        let mut lines = vec![format!("{verb}: {}", added.path)];
        let hashes = HashForms::of(&request.address);
        lines.extend(hashes.named().map(|(name, form)| format!("{name}: {form}")));
        lines
    }

    /// Returns the JSON object of `--json`: every key is always there, `null` when unknown.
    pub fn to_json(&self, request: &Request) -> String {
        let success = self.result.as_ref().ok();
        let output = match &request.target {
            Target::Path(path) | Target::Given(path) => Some(printable(path)),
            Target::Stdout => None,
        };
        let json = Json {
            version: JSON_VERSION,
            output,
            name: request.name.as_deref(),
            method: request.address.method().name(),
            hash: request.address.digest().to_sri(),
            bytes: success.map(|success| success.bytes),
            executable: success.map(|success| success.executable),
            source: success.map(JsonSource::from),
            added: self.added.as_ref().map(|added| JsonAdded {
                path: &added.path,
                hashes: HashForms::of(&request.address),
                present: added.present,
            }),
            attempts: self.attempts.iter().map(JsonAttempt::from).collect(),
            ms: milliseconds(self.took),
            error: self.result.as_ref().err().map(JsonError::from),
        };
        serde_json::to_string(&json).expect("strings and numbers always serialise")
    }
}

impl<'a> From<&'a Success> for JsonSource<'a> {
    fn from(success: &'a Success) -> Self {
        Self {
            kind: success.kind.name(),
            location: &success.location,
        }
    }
}

impl<'a> From<&'a FetchError> for JsonError<'a> {
    fn from(error: &'a FetchError) -> Self {
        Self {
            kind: error.kind.name(),
            message: &error.message,
            hint: error.hint.as_deref(),
        }
    }
}

impl<'a> From<&'a Attempt> for JsonAttempt<'a> {
    fn from(attempt: &'a Attempt) -> Self {
        Self {
            kind: attempt.kind.name(),
            location: &attempt.location,
            result: attempt.result.name(),
            reason: attempt.reason.as_deref(),
            bytes: attempt.bytes,
            ms: milliseconds(attempt.took),
        }
    }
}

/// Hears about a fetch while it goes on.
pub trait Listener {
    /// Something is not as it should be, and the fetch goes on.
    fn warning(&self, message: &str);
    /// The same, and it must be heard even by those who asked for silence.
    fn loud_warning(&self, message: &str);
    /// A candidate is about to be tried.
    fn trying(&self, _candidate: &Candidate) {}
    /// A source was asked or a candidate tried.
    fn attempt(&self, attempt: &Attempt);
}

/// Returns the path that standard output shows.
pub fn output_path(request: &Request) -> Option<&PathBuf> {
    match &request.target {
        Target::Path(path) | Target::Given(path) => Some(path),
        Target::Stdout => None,
    }
}
