//! What is told of a source that was put into the store.

use std::time::Duration;

use serde::Serialize;
use store_index::address::Method;
use store_index::store_path::ItemName;

use super::{Item, Wish};
use crate::error::FetchError;
use crate::report::{
    Attempt, HashForms, JSON_VERSION, JsonAttempt, JsonError, JsonSource, milliseconds,
};

/// Everything that is to be told of one run.
#[derive(Debug)]
pub struct Report {
    /// The name that it has in the store.
    pub name: ItemName,
    /// How it is hashed.
    pub method: Method,
    /// What was tried, in order.
    pub attempts: Vec<Attempt>,
    /// How it ended.
    pub result: Result<Item, FetchError>,
    /// How long it took.
    pub took: Duration,
}

#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    path: Option<&'a str>,
    name: &'a str,
    method: &'static str,
    hash: Option<String>,
    hashes: Option<HashForms>,
    /// Whether the store had it before.
    present: Option<bool>,
    bytes: Option<u64>,
    source: Option<JsonSource<'a>>,
    attempts: Vec<JsonAttempt<'a>>,
    ms: u64,
    error: Option<JsonError<'a>>,
}

impl Report {
    /// The report of a run that could not begin.
    pub fn failed(wish: &Wish, error: FetchError) -> Self {
        Self {
            name: wish.name.clone(),
            method: wish.request.address.method(),
            attempts: Vec::new(),
            result: Err(error),
            took: Duration::ZERO,
        }
    }

    /// Returns the program's exit code.
    pub fn exit_code(&self) -> u8 {
        match &self.result {
            Ok(_) => crate::error::exit_code::OK,
            Err(error) => error.kind.exit_code(),
        }
    }

    /// Returns the lines for people: the path, then the hash as SRI, hexadecimal, nix-base32 and base64.
    pub fn to_text(&self) -> String {
        let Ok(item) = &self.result else {
            return String::new();
        };
        let hashes = HashForms::of(&item.address);
        let lines = std::iter::once(item.path.as_str()).chain(hashes.named().map(|(_, form)| form));
        lines.flat_map(|line| [line, "\n"]).collect()
    }

    /// Returns the JSON object of `--json`: every key is always there, `null` when unknown.
    pub fn to_json(&self) -> String {
        let item = self.result.as_ref().ok();
        let source = item.and_then(|item| item.source.as_ref());
        let json = Json {
            version: JSON_VERSION,
            path: item.map(|item| item.path.as_str()),
            name: self.name.as_str(),
            method: self.method.name(),
            hash: item.map(|item| item.address.digest().to_sri()),
            hashes: item.map(|item| HashForms::of(&item.address)),
            present: item.map(|item| item.source.is_none()),
            bytes: source.map(|source| source.bytes),
            source: source.map(JsonSource::from),
            attempts: self.attempts.iter().map(JsonAttempt::from).collect(),
            ms: milliseconds(self.took),
            error: self.result.as_ref().err().map(JsonError::from),
        };
        serde_json::to_string(&json).expect("strings and numbers always serialise")
    }
}
