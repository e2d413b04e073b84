//! What each source says to a request, with its cost, without reading content and without a socket.

use std::time::Instant;

use serde::Serialize;
use store_index::address::ContentAddress;
use store_index::watch::Watch;

use crate::net::Rules;
use crate::places::Places;
use crate::request::Request;
use crate::source::{self, Candidate, CandidatePlace, Lookup};
use crate::stale_hash;
use crate::state::Failures;

/// The answer of one source; of one that would ask the network, one for each URL.
#[derive(Debug, Serialize)]
pub struct Answer {
    kind: &'static str,
    location: String,
    /// `found`, `absent`, `unavailable`, `skipped`, `suspicious` or `would ask`.
    answer: &'static str,
    reason: Option<String>,
    /// The size of the file found, in bytes.
    bytes: Option<u64>,
    /// How long the question took, in milliseconds.
    ms: f64,
}

/// The answers of all sources.
#[derive(Debug, Serialize)]
pub struct Explanation {
    version: u32,
    hash: String,
    method: &'static str,
    answers: Vec<Answer>,
}

/// Asks every source.
pub fn explain(request: &Request, places: &Places, rules: &Rules, watch: Watch<'_>) -> Explanation {
    let mut answers = Vec::new();
    let failures = places.state.failures();
    for mut source in source::in_order(places, request) {
        if watch.interrupted() {
            break;
        }
        let started = Instant::now();
        let lookup = source.look_up(request, watch);
        // To the microsecond: the rest is noise.
        let ms = started.elapsed().as_micros() as f64 / 1000.0;
        let mut push = |kind, location, answer, reason, bytes| {
            answers.push(Answer {
                kind,
                location,
                answer,
                reason,
                bytes,
                ms,
            });
        };
        let (kind, location) = (source.kind().name(), source.location());
        match lookup {
            Lookup::Found(candidates) if source.is_network() => {
                for candidate in candidates {
                    let (answer, location, reason) =
                        asked(&candidate, rules, &failures, &request.address);
                    push(kind, location, answer, reason, None);
                }
            }
            Lookup::Found(candidates) => {
                for candidate in candidates {
                    let known = source.learn_names(&candidate);
                    let suspicious = stale_hash::is_suspicious(&request.asked_names, &known);
                    let reason = (!known.is_empty())
                        .then(|| format!("known as {}", known.join(", ").escape_debug()));
                    let answer = if suspicious { "suspicious" } else { "found" };
                    let bytes = size(&candidate);
                    push(
                        candidate.kind.name(),
                        candidate.location.clone(),
                        answer,
                        reason,
                        bytes,
                    );
                }
            }
            Lookup::Absent(reason) => push(kind, location, "absent", reason, None),
            Lookup::Elsewhere(discs) => {
                for disc in discs {
                    let reason = Some(disc.advice());
                    push(kind, disc.whereabouts(), "unavailable", reason, None);
                }
            }
            Lookup::Unavailable(reason) => push(kind, location, "unavailable", Some(reason), None),
            Lookup::Skipped(reason) => push(kind, location, "skipped", Some(reason), None),
        }
    }
    let (hash, method) = (
        request.address.digest().to_sri(),
        request.address.method().name(),
    );
    Explanation {
        version: 1,
        hash,
        method,
        answers,
    }
}

/// Returns what would become of a URL, the one that would be asked by the rules of the configuration, and why, or what
/// is remembered of it.
fn asked(
    candidate: &Candidate,
    rules: &Rules,
    failures: &Failures,
    address: &ContentAddress,
) -> (&'static str, String, Option<String>) {
    let location = candidate.location.clone();
    let (url, mut reasons) = match &candidate.place {
        CandidatePlace::Url(url) => (url, Vec::new()),
        CandidatePlace::MirrorOf(url) => {
            let why = "says how the mirror names files, if it has none by the names above";
            (url, vec![why.to_owned()])
        }
        CandidatePlace::Clone(clone) => (&clone.source.url, Vec::new()),
        _ => return ("would ask", location, None),
    };
    let (answer, location, url) = match rules.apply(url) {
        Ok(asked) if asked == *url => ("would ask", location, asked),
        Ok(asked) => {
            reasons.push(format!("in place of {location}"));
            ("would ask", asked.to_string(), asked)
        }
        Err(blocked) => return ("skipped", location, Some(blocked.to_string())),
    };
    reasons.extend(failures.describe(&url, address));
    let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
    (answer, location, reason)
}

/// Returns the size of a candidate that is a file, in bytes.
fn size(candidate: &Candidate) -> Option<u64> {
    match &candidate.place {
        CandidatePlace::Local { root, path, .. } => {
            if root.may_hang(path) {
                return None;
            }
            let metadata = fs_err::symlink_metadata(root.path().join(path)).ok()?;
            metadata.is_file().then_some(metadata.len())
        }
        CandidatePlace::Tree { .. }
        | CandidatePlace::Checkout(_)
        | CandidatePlace::Url(_)
        | CandidatePlace::MirrorOf(_)
        | CandidatePlace::Clone(_) => None,
    }
}

impl Explanation {
    /// Returns true if a local source may have it.
    pub fn found(&self) -> bool {
        self.answers
            .iter()
            .any(|answer| matches!(answer.answer, "found" | "suspicious"))
    }

    /// Returns the JSON object of `--json`.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialise")
    }

    /// Returns a line for each answer.
    pub fn to_text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for answer in &self.answers {
            let mut line = format!(
                "{:<11} {:<11} {}",
                answer.kind, answer.answer, answer.location
            );
            if let Some(bytes) = answer.bytes {
                write!(line, " ({bytes} bytes to copy and hash)")
                    .expect("writing to a string cannot fail");
            }
            if let Some(reason) = &answer.reason {
                write!(line, ": {reason}").expect("writing to a string cannot fail");
            }
            writeln!(text, "{line} [{:.1} ms]", answer.ms)
                .expect("writing to a string cannot fail");
        }
        text
    }
}
