//! `--metrics FILE`: numbers for Prometheus that add up over runs, in a file that is always whole.

use std::collections::BTreeMap;
use std::path::Path;

use store_index::digest::Algorithm;

use crate::support::server::{Answer, Server};
use crate::support::{TestEnv, digest, mode, sri};

/// Reads the text format as strictly as its documentation has it, and returns the value of each series.
#[track_caller]
fn read(path: &Path) -> BTreeMap<String, f64> {
    let text = fs_err::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'), "{text}");
    let (mut types, mut values) = (BTreeMap::new(), BTreeMap::new());
    let mut current = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            current = help.split(' ').next().unwrap().to_owned();
            assert!(!types.contains_key(&current), "one group each: {line}");
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, current, "HELP and TYPE belong together");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            types.insert(name.to_owned(), kind.to_owned());
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(name.chars().all(is_name), "{line}");
        assert!(name.starts_with(&current), "{line} stands below {current}");
        let kind = types[&current].as_str();
        if kind == "counter" {
            assert!(name.ends_with("_total"), "{line}");
        }
        for label in labels
            .trim_end_matches('}')
            .split(',')
            .filter(|l| !l.is_empty())
        {
            let (key, text) = label.split_once("=\"").unwrap();
            assert!(key.chars().all(is_name), "{line}");
            let text = text.strip_suffix('"').unwrap();
            assert!(!text.contains(['"', '\\', '\n']), "{line}");
        }
        let value: f64 = value.parse().unwrap();
        assert!(value.is_finite() && value >= 0.0, "{line}");
        assert!(
            values.insert(series.to_owned(), value).is_none(),
            "twice: {line}"
        );
    }
    values
}

#[test]
fn runs_add_up() {
    let env = TestEnv::new();
    let server = Server::with("/hello", Answer::body("hello\n"));
    server.route("/wrong", Answer::body("other\n"));
    let file = env.path("fetch.prom");
    let fetch = |path: &str| {
        env.fetch_hash(sri(b"hello\n"))
            .args(["-o", "hello", "--retry-budget", "0", "--metrics"])
            .arg(&file)
            .arg(server.url_with_user("me:s3cret", path))
    };
    fetch("/none?token=t0ken").go().exits(3);
    let first = read(&file);
    assert_eq!(first["fetch_runs_total{result=\"not-found\"}"], 1.0);
    assert_eq!(
        first["fetch_attempts_total{source=\"url\",result=\"absent\"}"],
        1.0
    );
    assert_eq!(mode(&file), 0o644);
    fetch("/wrong").go().exits(4);
    fetch("/hello").go().exits(0);
    // It is there already.
    fetch("/hello").go().exits(0);
    let all = read(&file);
    for (series, value) in [
        ("fetch_runs_total{result=\"not-found\"}", 1.0),
        ("fetch_runs_total{result=\"mismatch\"}", 1.0),
        ("fetch_runs_total{result=\"ok\"}", 2.0),
        ("fetch_run_duration_seconds_count", 4.0),
        ("fetch_run_duration_seconds_bucket{le=\"+Inf\"}", 4.0),
        ("fetch_delivered_total{source=\"url\"}", 1.0),
        ("fetch_delivered_total{source=\"output\"}", 1.0),
        ("fetch_delivered_bytes_total{source=\"url\"}", 6.0),
        (
            "fetch_attempts_total{source=\"url\",result=\"mismatch\"}",
            1.0,
        ),
        ("fetch_attempt_bytes_total{source=\"url\"}", 12.0),
    ] {
        assert_eq!(all.get(series), Some(&value), "{series} in {all:#?}");
    }
    assert!(all["fetch_last_run_timestamp_seconds"] > 1.6e9);
    let text = fs_err::read_to_string(&file).unwrap();
    assert!(
        !text.contains("127.0.0.1") && !text.contains("t0ken"),
        "{text}"
    );
    assert_eq!(env.outputs(), ["hello"]);
}

/// Runs that end together lose nothing.
#[test]
fn many_at_once() {
    const RUNS: usize = 8;
    let env = TestEnv::new();
    let file = env.path("fetch.prom");
    let running: Vec<_> = (0..RUNS)
        .map(|run| {
            env.fetch_hash(sri(b"hello\n"))
                .args(["--offline", "-o", &format!("out{run}"), "--metrics"])
                .arg(&file)
                .start()
        })
        .collect();
    for running in running {
        running.wait().exits(3);
    }
    assert_eq!(
        read(&file)["fetch_runs_total{result=\"not-found\"}"],
        RUNS as f64
    );
}

/// A file of somebody else stays as it is, and the fetch is none the worse.
#[test]
fn what_cannot_be_added_to() {
    let env = TestEnv::new();
    let other = env.write("other.prom", "node_load1 0.5\n");
    let server = Server::with("/hello", Answer::body("hello\n"));
    for file in [other.clone(), env.path("nowhere/fetch.prom")] {
        drop(fs_err::remove_file(env.out("hello")));
        env.fetch_hash(sri(b"hello\n"))
            .arg("--metrics")
            .arg(&file)
            .arg(server.url("/hello"))
            .go()
            .exits(0)
            .says("the metrics cannot be added to");
    }
    assert_eq!(fs_err::read(&other).unwrap(), b"node_load1 0.5\n");
}

/// Each entry of a batch counts as a fetch of its own.
#[test]
fn a_batch_adds_up_too() {
    let env = TestEnv::new();
    let server = Server::with("/one", Answer::body("one"));
    server.route("/two", Answer::body("two"));
    let file = env.path("fetch.prom");
    let line = |content: &str| {
        let digest = digest(Algorithm::Sha256, content.as_bytes());
        format!("{}  {content}\n", digest.to_hex())
    };
    let list = env.write("SHA256SUMS", ["one", "two", "three"].map(line).concat());
    env.fetch(["batch", "--no-store", "--no-media", "--metrics"])
        .args([&file, &list])
        .arg("--base-url")
        .arg(server.url("/"))
        .go()
        .exits(3);
    let counted = read(&file);
    assert_eq!(counted["fetch_runs_total{result=\"ok\"}"], 2.0);
    assert_eq!(counted["fetch_runs_total{result=\"not-found\"}"], 1.0);
    assert_eq!(counted["fetch_delivered_bytes_total{source=\"url\"}"], 6.0);
}
