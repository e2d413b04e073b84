//! What a derivation says to its builder: by the environment, or, with `__structuredAttrs`, by a file of JSON.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};
use store_index::path_text::printable;

use crate::cli::Environment;
use crate::error::FetchError;

/// The longest file of structured attributes, and of one attribute passed as a file, in bytes: thousands of URLs.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The name of the file in the build's folder. Nix before 2.15 names a path that the sandbox does not have.
const FILE_NAME: &str = ".attrs.json";

/// The attributes of a derivation. An empty one counts as absent: Nix sets each variable of `impureEnvVars`, empty
/// where its own environment has none.
#[derive(Debug)]
pub(super) struct Attributes<'a> {
    environment: &'a Environment<'a>,
    structured: Option<Map<String, Value>>,
}

impl<'a> Attributes<'a> {
    /// Reads them.
    pub(super) fn read(environment: &'a Environment<'a>) -> Result<Self, FetchError> {
        let structured = match structured_file(environment) {
            None => None,
            Some(file) => match serde_json::from_str(&read_file(&file)?) {
                Ok(Value::Object(attributes)) => Some(attributes),
                Ok(_) => {
                    return Err(FetchError::usage(format!(
                        "the structured attributes in {} are no JSON object",
                        printable(&file)
                    )));
                }
                Err(error) => {
                    return Err(FetchError::usage(format!(
                        "the structured attributes in {} are no JSON: {error}",
                        printable(&file)
                    )));
                }
            },
        };
        Ok(Self {
            environment,
            structured,
        })
    }

    /// Returns an attribute as a variable of the environment would have it; the environment has what the derivation
    /// does not say, such as the variables of `impureEnvVars`.
    pub(super) fn variable(&self, name: &str) -> Option<OsString> {
        let structured = self.structured.as_ref().and_then(|all| all.get(name));
        match structured.map(text_of) {
            Some(text) => text.filter(|text| !text.is_empty()).map(OsString::from),
            None => (self.environment.variables)(name).filter(|value| !value.is_empty()),
        }
    }

    /// Returns an attribute that is text.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, FetchError> {
        if let Some(value) = self.variable(name) {
            return match value.into_string() {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(FetchError::usage(format!("{name} is not UTF-8 text"))),
            };
        }
        self.passed_as_file(name)
    }

    /// Returns an attribute that is a list of words.
    pub(super) fn words(&self, name: &str) -> Result<Vec<String>, FetchError> {
        // A list may be that of structured attributes, whose elements can have blanks.
        if let Some(Value::Array(list)) = self.structured.as_ref().and_then(|all| all.get(name)) {
            return Ok(list.iter().filter_map(text_of).collect());
        }
        let text = self.text(name)?.unwrap_or_default();
        Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
    }

    /// Returns a list that the derivation states as `FETCH_<name>`, and Nix's own environment may replace by
    /// `NIX_<name>`: that one is always set if it is let in at all, so it cannot be what the derivation says.
    pub(super) fn overridable(&self, name: &str) -> Result<Vec<String>, FetchError> {
        let words = self.words(&format!("NIX_{name}"))?;
        if words.is_empty() {
            return self.words(&format!("FETCH_{name}"));
        }
        Ok(words)
    }

    /// Returns a switch: Nix writes `true` as `1` and `false` as nothing.
    pub(super) fn switch(&self, name: &str) -> Result<bool, FetchError> {
        match self.text(name)?.as_deref() {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(other) => Err(FetchError::usage(format!(
                "{name} is '{}'; true or false is wanted",
                other.escape_debug()
            ))),
        }
    }

    /// Returns the path of the output called `out`.
    pub(super) fn output(&self) -> Result<PathBuf, FetchError> {
        let outputs = self.structured.as_ref().and_then(|all| all.get("outputs"));
        let path = match outputs.and_then(|outputs| outputs.get("out")) {
            Some(Value::String(path)) => PathBuf::from(path),
            _ => match self.variable("out") {
                Some(path) => PathBuf::from(path),
                None => {
                    return Err(FetchError::usage("no output: `out` is not set").with_hint(
                        "`fetch builder` is run by Nix, as the builder of a derivation; fetch --hash is for people",
                    ));
                }
            },
        };
        let is_plain = path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if path.is_absolute() && is_plain {
            Ok(path)
        } else {
            Err(FetchError::usage(format!(
                "the output {} is no absolute path",
                printable(&path)
            )))
        }
    }

    /// Reads an attribute that `passAsFile` names: `xPath` stands for `x`.
    fn passed_as_file(&self, name: &str) -> Result<Option<String>, FetchError> {
        let Some(path) = self.variable(&format!("{name}Path")).map(PathBuf::from) else {
            return Ok(None);
        };
        let listed = self.variable("passAsFile").unwrap_or_default();
        let listed = listed.to_string_lossy();
        if !listed.split_ascii_whitespace().any(|word| word == name) {
            return Ok(None);
        }
        // Whatever else the variable names is not what Nix wrote there.
        let folder = self.variable("NIX_BUILD_TOP").map(PathBuf::from);
        if folder.is_none() || path.parent() != folder.as_deref() {
            return Err(FetchError::usage(format!(
                "the file of {name}, {}, is not in the build's folder",
                printable(&path)
            )));
        }
        Ok(Some(read_file(&path)?))
    }
}

/// Finds the file of structured attributes, if the derivation has them.
fn structured_file(environment: &Environment<'_>) -> Option<PathBuf> {
    let path_in = |name: &str| {
        (environment.variables)(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let named = path_in("NIX_ATTRS_JSON_FILE");
    if path_in("out").is_some() && named.is_none() {
        return None;
    }
    let beside = path_in("NIX_BUILD_TOP").map(|folder| folder.join(FILE_NAME));
    let there = |path: &PathBuf| path.is_file();
    // Where nothing is there the named one is, so that its absence is told.
    named
        .clone()
        .filter(there)
        .or(beside.filter(there))
        .or(named)
}

fn read_file(path: &Path) -> Result<String, FetchError> {
    let read = || {
        let mut text = String::new();
        let file = fs_err::File::open(path)?;
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text: std::io::Result<String> = read();
    let text =
        text.map_err(|error| FetchError::local(format!("cannot read attributes: {error}")))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(FetchError::usage(format!(
            "the attributes in {} are longer than {MAX_FILE_BYTES} bytes",
            printable(path)
        )));
    }
    Ok(text)
}

/// Returns a value as Nix would put it into the environment; `None` for sets, which have no such form.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Bool(false) => Some(String::new()),
        Value::Bool(true) => Some("1".to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => {
            let texts: Option<Vec<_>> = list.iter().map(text_of).collect();
            Some(texts?.join(" "))
        }
        Value::Object(_) => None,
    }
}
