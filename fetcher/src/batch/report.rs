//! What became of a batch, for people and for programs.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeSeq as _, Serializer};
use store_index::address::ContentAddress;
use store_index::path_text::printable;
use store_index::terminal;
use store_index::watch::Unit;

use super::list::Refused;
use crate::error::{ErrorKind, FetchError, exit_code};
use crate::report::{JSON_VERSION, JsonError, milliseconds};
use crate::source::SourceKind;

/// What became of one entry.
#[derive(Clone, Debug, Default)]
pub(super) enum Fate {
    /// The run ended before.
    #[default]
    NotDone,
    /// It was there already, and is right.
    Present { bytes: u64 },
    /// It came from this machine.
    Local { from: From, bytes: u64 },
    /// It came from the network.
    Downloaded { from: From, bytes: u64 },
    /// A dry run found something at the output's place.
    IsThere,
    /// A dry run found it.
    WouldCopy { from: From },
    /// A dry run found a server that would be asked.
    WouldAsk { from: From },
    /// It did not come.
    Failed(Box<FetchError>),
}

/// A source.
#[derive(Clone, Debug)]
pub(super) struct From {
    pub(super) kind: SourceKind,
    pub(super) location: Box<str>,
}

impl Fate {
    const fn name(&self) -> &'static str {
        match self {
            Self::NotDone => "not done",
            Self::Present { .. } => "present",
            Self::Local { .. } => "local",
            Self::Downloaded { .. } => "downloaded",
            Self::IsThere => "is there",
            Self::WouldCopy { .. } => "would copy",
            Self::WouldAsk { .. } => "would ask",
            Self::Failed(_) => "failed",
        }
    }

    const fn source(&self) -> Option<&From> {
        match self {
            Self::Local { from, .. }
            | Self::Downloaded { from, .. }
            | Self::WouldCopy { from }
            | Self::WouldAsk { from } => Some(from),
            _ => None,
        }
    }

    const fn bytes(&self) -> Option<u64> {
        match self {
            Self::Present { bytes }
            | Self::Local { bytes, .. }
            | Self::Downloaded { bytes, .. } => Some(*bytes),
            _ => None,
        }
    }

    /// Returns the error, if it ended with one.
    pub(super) fn error(&self) -> Option<&FetchError> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// One entry and what became of it.
#[derive(Debug)]
pub(super) struct Row {
    /// The path beneath the folder of outputs.
    pub(super) path: PathBuf,
    pub(super) address: ContentAddress,
    pub(super) fate: Fate,
}

/// Everything that is to be told about a batch.
#[derive(Debug)]
pub struct Report {
    pub(super) folder: PathBuf,
    pub(super) rows: Vec<Row>,
    pub(super) refused: Vec<Refused>,
    pub(super) left_out: usize,
    pub(super) twice: usize,
    /// What would help, and for which rows.
    pub(super) discs: BTreeMap<String, Vec<usize>>,
    /// Why it ended before its time.
    pub(super) error: Option<FetchError>,
    pub(super) took: Duration,
}

impl Report {
    /// The report of a batch that could not begin.
    pub fn failed(error: FetchError) -> Self {
        Self {
            folder: PathBuf::new(),
            rows: Vec::new(),
            refused: Vec::new(),
            left_out: 0,
            twice: 0,
            discs: BTreeMap::new(),
            error: Some(error),
            took: Duration::ZERO,
        }
    }

    /// Returns why it ended before its time, if it did.
    pub const fn error(&self) -> Option<&FetchError> {
        self.error.as_ref()
    }

    /// Returns the program's exit code: the worst of all entries, which is the largest.
    pub fn exit_code(&self) -> u8 {
        if let Some(error) = &self.error {
            return error.kind.exit_code();
        }
        let failed = self.rows.iter().filter_map(|row| row.fate.error());
        let refused = self.refused.iter().map(|_| exit_code::USAGE);
        failed
            .map(|error| error.kind.exit_code())
            .chain(refused)
            .max()
            .unwrap_or(exit_code::OK)
    }

    /// Writes what people want to know: how many came from where, and each that did not.
    pub fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        if self.rows.is_empty() && self.refused.is_empty() && self.error.is_some() {
            return Ok(());
        }
        let mut groups: BTreeMap<(u8, String), (usize, u64)> = BTreeMap::new();
        for row in &self.rows {
            let what = match &row.fate {
                Fate::Present { .. } => (0, "there already".to_owned()),
                Fate::IsThere => (0, "something is there, to be verified".to_owned()),
                Fate::Local { from, .. } => {
                    (1, format!("from this machine ({})", from.kind.name()))
                }
                Fate::WouldCopy { from } => (1, format!("on this machine ({})", from.kind.name())),
                Fate::Downloaded { from, .. } => (2, format!("downloaded ({})", from.kind.name())),
                Fate::WouldAsk { from } => (2, format!("to be asked for ({})", from.kind.name())),
                Fate::Failed(_) => (3, "failed".to_owned()),
                Fate::NotDone => (4, "not done".to_owned()),
            };
            let group = groups.entry(what).or_default();
            group.0 += 1;
            group.1 += row.fate.bytes().unwrap_or_default();
        }
        writeln!(
            out,
            "{} in {}",
            entries(self.rows.len()),
            printable(&self.folder)
        )?;
        for ((_, what), (count, bytes)) in groups {
            match bytes {
                0 => writeln!(out, "{count:>8} {what}")?,
                bytes => {
                    let amount = terminal::amount(bytes, None, Unit::Bytes);
                    writeln!(out, "{count:>8} {what}, {amount}")?;
                }
            }
        }
        for (count, what) in [
            (self.refused.len(), "refused"),
            (self.twice, "stood there twice"),
            (self.left_out, "left out: no sources"),
        ] {
            if count > 0 {
                writeln!(out, "{count:>8} {what}")?;
            }
        }
        for row in &self.rows {
            if let Some(error) = row.fate.error() {
                let reason = error.message.replace('\n', "\n  ");
                writeln!(out, "failed {}: {reason}", printable(&row.path))?;
            }
        }
        for Refused { what, reason } in &self.refused {
            writeln!(out, "refused {what}: {reason}")?;
        }
        for (advice, rows) in &self.discs {
            writeln!(
                out,
                "{advice}, for {}, and run this again",
                entries(rows.len())
            )?;
        }
        Ok(())
    }

    /// Writes the JSON object of `--json`: every key is always there, `null` when unknown.
    pub fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        let count = |wanted: &str| {
            let rows = self.rows.iter();
            rows.filter(|row| row.fate.name() == wanted).count()
        };
        let folder = Some(&self.folder).filter(|folder| !folder.as_os_str().is_empty());
        let json = Json {
            version: JSON_VERSION,
            folder: folder.map(|folder| printable(folder)),
            counts: Counts {
                entries: self.rows.len(),
                present: count("present"),
                local: count("local"),
                downloaded: count("downloaded"),
                failed: count("failed"),
                refused: self.refused.len(),
                left_out: self.left_out,
                twice: self.twice,
            },
            entries: Rows(self),
            refused: self.refused.iter().map(JsonRefused::from).collect(),
            discs: self
                .discs
                .iter()
                .map(|(advice, rows)| JsonDisc {
                    advice,
                    entries: rows.len(),
                })
                .collect(),
            ms: milliseconds(self.took),
            error: self.error.as_ref().map(JsonError::from),
        };
        serde_json::to_writer(&mut out, &json)?;
        writeln!(out)?;
        out.flush()
    }
}

fn entries(count: usize) -> String {
    match count {
        1 => "1 entry".to_owned(),
        count => format!("{count} entries"),
    }
}

#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    folder: Option<String>,
    counts: Counts,
    entries: Rows<'a>,
    refused: Vec<JsonRefused<'a>>,
    discs: Vec<JsonDisc<'a>>,
    ms: u64,
    error: Option<JsonError<'a>>,
}

#[derive(Serialize)]
struct Counts {
    entries: usize,
    present: usize,
    local: usize,
    downloaded: usize,
    failed: usize,
    refused: usize,
    left_out: usize,
    twice: usize,
}

/// The rows, made into JSON one after the other: all of them at once would double what is in memory.
struct Rows<'a>(&'a Report);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Report { folder, rows, .. } = self.0;
        let mut list = serializer.serialize_seq(Some(rows.len()))?;
        for row in rows {
            list.serialize_element(&JsonRow::new(folder, row))?;
        }
        list.end()
    }
}

#[derive(Serialize)]
struct JsonRow<'a> {
    name: String,
    output: String,
    method: &'static str,
    hash: String,
    result: &'static str,
    bytes: Option<u64>,
    source: Option<JsonFrom<'a>>,
    error: Option<JsonError<'a>>,
}

#[derive(Serialize)]
struct JsonFrom<'a> {
    kind: &'static str,
    location: &'a str,
}

impl<'a> JsonRow<'a> {
    fn new(folder: &Path, row: &'a Row) -> Self {
        Self {
            name: printable(&row.path),
            output: printable(&folder.join(&row.path)),
            method: row.address.method().name(),
            hash: row.address.digest().to_sri(),
            result: row.fate.name(),
            bytes: row.fate.bytes(),
            source: row.fate.source().map(|from| JsonFrom {
                kind: from.kind.name(),
                location: &from.location,
            }),
            error: row.fate.error().map(JsonError::from),
        }
    }
}

#[derive(Serialize)]
struct JsonRefused<'a> {
    entry: &'a str,
    reason: &'a str,
}

impl<'a> std::convert::From<&'a Refused> for JsonRefused<'a> {
    fn from(refused: &'a Refused) -> Self {
        Self {
            entry: &refused.what,
            reason: &refused.reason,
        }
    }
}

#[derive(Serialize)]
struct JsonDisc<'a> {
    advice: &'a str,
    entries: usize,
}

/// The error of a batch that was interrupted.
pub(super) fn interrupted(done: usize, of: usize) -> FetchError {
    FetchError::new(
        ErrorKind::Interrupted,
        format!("interrupted; {done} of {} are done", entries(of)),
    )
    .with_hint("run this again to go on: what is there is verified, not fetched again")
}
