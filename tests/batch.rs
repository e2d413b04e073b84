//! `fetch batch`: everything that a list names, from where it is cheapest, and told in one report.

mod lists;
mod local;
mod many;
mod network;

use std::path::PathBuf;

use serde_json::{Value, json};
use store_index::digest::Algorithm;

use crate::support::server::Server;
use crate::support::{Report, Run, TestEnv, digest, sri};

/// A batch that knows no store, index or medium but those it is given.
fn batch<'env>(env: &'env TestEnv, list: &PathBuf) -> Run<'env> {
    env.fetch(["batch", "--no-store", "--no-media", "--into"])
        .arg(env.out("into"))
        .arg(list)
}

/// A line of `sha256sum`.
fn line(name: &str, content: impl AsRef<[u8]>) -> String {
    let digest = digest(Algorithm::Sha256, content.as_ref());
    format!("{}  {name}\n", digest.to_hex())
}

/// A source as Guix writes it.
fn source(urls: &[String], content: impl AsRef<[u8]>) -> Value {
    json!({
        "type": "url", "urls": urls, "integrity": sri(content.as_ref()),
        "outputHashAlgo": "sha256", "outputHashMode": "flat",
    })
}

fn sources_json(env: &TestEnv, sources: &[Value]) -> PathBuf {
    let list = json!({"version": "1", "revision": "0123456789", "sources": sources});
    env.write("sources.json", list.to_string())
}

impl Report {
    /// Returns a number of the report's `counts`.
    #[track_caller]
    fn count(&self, what: &str) -> u64 {
        self.object["counts"][what].as_u64().unwrap()
    }

    /// Returns what is told of the entry with this name.
    #[track_caller]
    fn entry(&self, name: &str) -> &Value {
        let entries = self.object["entries"].as_array().unwrap();
        let mut named = entries.iter().filter(|entry| entry["name"] == name);
        let entry = named
            .next()
            .unwrap_or_else(|| panic!("no {name}: {:#}", self.object));
        assert!(named.next().is_none(), "{name} twice: {:#}", self.object);
        entry
    }
}

/// Names the files that came, with what is in them.
fn came(env: &TestEnv) -> Vec<(String, Vec<u8>)> {
    let into = env.out("into");
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(&into).sort_by_file_name() {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            let name = entry.path().strip_prefix(&into).unwrap();
            let name = name.to_str().unwrap().to_owned();
            files.push((name, fs_err::read(entry.path()).unwrap()));
        }
    }
    files
}

/// Serves the content of `name` at `/name`.
fn serve(server: &Server, files: &[(&str, &str)]) {
    use crate::support::server::Answer;
    for (name, content) in files {
        server.route(&format!("/{name}"), Answer::file(*content));
    }
}
