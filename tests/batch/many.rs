//! What is there is done, what is on this machine is copied, what is on a disc is told; and thousands cost no memory.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{batch, came, line, serve, source, sources_json};
use crate::support::server::{Answer, Server};
use crate::support::{TestEnv, lacks, names_in, noise, portrait, sri};

/// What was done is verified, and neither asked for nor written again.
#[test]
fn what_is_there_is_done() {
    let env = TestEnv::new();
    let server = Server::start();
    serve(&server, &[("a", "a"), ("b", "b"), ("sub/c", "c")]);
    let list = line("a", "a") + &line("b", "b") + &line("sub/c", "c");
    let list = env.write("SHA256SUMS", list);
    let fetch = || batch(&env, &list).arg("--base-url").arg(server.url("/"));
    assert_eq!(fetch().json(0).count("downloaded"), 3);
    let before = portrait(&env.out("into"));
    assert_eq!(fetch().json(0).count("present"), 3);
    assert_eq!(server.requests().len(), 3);
    // Reading sets no time but that of access.
    assert_eq!(portrait(&env.out("into")), before);
    // Wrong content is never replaced unasked, and holds nothing else up.
    fs_err::write(env.out("into/a"), "mine").unwrap();
    fs_err::remove_file(env.out("into/b")).unwrap();
    let report = fetch().json(7);
    assert_eq!(report.entry("a")["error"]["kind"], "local");
    assert_eq!(report.entry("b")["result"], "downloaded");
    assert_eq!(env.output("into/a"), b"mine");
    let report = fetch().arg("--force").json(0);
    assert_eq!(report.count("downloaded"), 1);
    assert_eq!(env.output("into/a"), b"a");
}

/// The same content under several names comes once and is copied; each name is a file of its own.
#[test]
fn a_content_comes_once_whatever_its_names() {
    use std::os::unix::fs::MetadataExt as _;
    let env = TestEnv::new();
    let server = Server::start();
    let names = ["one", "two", "sub/three"];
    for name in names {
        server.route(&format!("/{name}"), Answer::file("same"));
    }
    let list: String = names.map(|name| line(name, "same")).concat();
    let list = env.write("SHA256SUMS", list);
    let fetch = || batch(&env, &list).arg("--base-url").arg(server.url("/"));
    let report = fetch().json(0);
    assert_eq!((report.count("downloaded"), report.count("local")), (1, 2));
    assert_eq!(server.requests().len(), 1);
    // From whichever is there, even if nobody remembers it.
    fs_err::remove_dir_all(env.path("cache")).unwrap();
    fs_err::remove_file(env.out("into/one")).unwrap();
    let report = fetch().json(0);
    assert_eq!((report.count("present"), report.count("local")), (2, 1));
    assert_eq!(server.requests().len(), 1);
    for name in names {
        let metadata = fs_err::metadata(env.out("into").join(name)).unwrap();
        assert_eq!(metadata.nlink(), 1, "{name}");
    }
    // Where all servers fail, all of them have failed.
    let gone = env.write("gone", line("x", "gone") + &line("y", "gone"));
    let report = batch(&env, &gone)
        .arg("--base-url")
        .arg(server.url("/"))
        .json(3);
    assert_eq!(report.count("failed"), 2);
}

/// No socket is opened before the last entry has been looked for on this machine.
#[test]
fn local_sources_come_first_for_all() {
    let env = TestEnv::new();
    let server = Server::start();
    server.route("/far-1.0", Answer::file("far"));
    server.route("/foo-2.0.tar.gz", Answer::status(404, ""));
    env.write("mirror/near", "near");
    env.write("mirror/large", noise(3, 2 << 20));
    env.write("mirror/foo-1.0.tar.gz", "foo");
    env.store_index(["update", "--index"])
        .args([env.path("index"), env.path("mirror")])
        .go()
        .exits(0);
    let url = |path: &str| vec![server.url(path)];
    let list = sources_json(
        &env,
        &[
            source(&url("/far-1.0"), "far"),
            source(&url("/other-name"), "near"),
            source(&url("/large-3"), noise(3, 2 << 20)),
            // The version was raised and the hash forgotten: the network decides.
            source(&url("/foo-2.0.tar.gz"), "foo"),
        ],
    );
    let fetch = || batch(&env, &list).arg("--index").arg(env.path("index"));
    let dry = fetch().arg("--dry-run").json(0);
    for (name, result) in [
        ("far-1.0", "would ask"),
        ("other-name", "would copy"),
        ("foo-2.0.tar.gz", "would ask"),
    ] {
        assert_eq!(dry.entry(name)["result"], result, "{name}");
    }
    assert!(!env.out("into").exists() && server.connections() == 0);
    let report = fetch().json(3);
    for (name, kind) in [
        ("far-1.0", "url"),
        ("other-name", "media"),
        ("large-3", "media"),
    ] {
        assert_eq!(report.entry(name)["source"]["kind"], kind, "{name}");
    }
    // The first of the list came last.
    let written = |name: &str| {
        let metadata = fs_err::metadata(env.out("into").join(name)).unwrap();
        metadata.modified().unwrap()
    };
    assert!(written("far-1.0") >= written("large-3"));
    let stale = report.entry("foo-2.0.tar.gz")["error"]["message"]
        .as_str()
        .unwrap();
    assert!(stale.contains("stale hash?"), "{stale}");
    assert_eq!(server.requests().len(), 2);
    // Offline nobody decides, and it is used with a warning; nothing is opened.
    let offline = fetch().arg("--offline").json(0);
    assert_eq!(offline.count("present"), 3);
    assert_eq!(offline.entry("foo-2.0.tar.gz")["result"], "local");
    assert!(
        offline.stderr.contains("is the hash stale?"),
        "{}",
        offline.stderr
    );
    assert_eq!(server.requests().len(), 2);
}

/// The report ends with the discs that would help, each once, whatever the network did.
#[test]
fn discs_to_insert_are_told_once() {
    let env = TestEnv::new();
    let server = Server::start();
    let mut list = String::new();
    for number in 0..5 {
        let (name, content) = (format!("file-{number}"), format!("content {number}"));
        env.write(format!("mirror/{name}"), &content);
        list.push_str(&line(&name, &content));
    }
    list.push_str(&line("nowhere", "nowhere"));
    server.route("/file-0", Answer::status(403, ""));
    let updated = env
        .store_index(["update", "--json", "--index"])
        .arg(env.path("index"))
        .arg("--media")
        .arg(env.path("mirror"))
        .go()
        .exits(0);
    let updated: Value = serde_json::from_str(&updated.stdout).unwrap();
    let id = updated["roots"][0]["id"]
        .as_str()
        .or(updated["id"].as_str());
    env.store_index(["media", "rename", id.unwrap(), "The shelf", "--index"])
        .arg(env.path("index"))
        .go()
        .exits(0);
    fs_err::rename(env.path("mirror"), env.path("gone")).unwrap();
    let list = env.write("SHA256SUMS", list);
    for options in [
        vec!["--offline".to_owned()],
        vec!["--base-url".to_owned(), server.url("/")],
    ] {
        let code = if options.len() == 1 { 3 } else { 5 };
        let fetch = || {
            batch(&env, &list)
                .arg("--index")
                .arg(env.path("index"))
                .args(&options)
        };
        let outcome = fetch().go().exits(code);
        let last = outcome.stdout.lines().last().unwrap();
        assert_eq!(
            last,
            "insert «The shelf», for 5 entries, and run this again"
        );
        let report = fetch().json(code);
        assert_eq!(
            report.object["discs"][0]["entries"], 5,
            "{:#}",
            report.object
        );
        let message = report.entry("file-3")["error"]["message"].as_str().unwrap();
        assert_eq!(message.matches("The shelf").count(), 1, "{message}");
    }
    fs_err::rename(env.path("gone"), env.path("mirror")).unwrap();
    let report = batch(&env, &list)
        .arg("--media")
        .arg(env.path("mirror"))
        .json(3);
    assert_eq!((report.count("local"), report.count("failed")), (5, 1));
    assert_eq!(came(&env).len(), 5);
}

/// However many are fetched, there is one display.
#[test]
fn progress_is_one_task() {
    let env = TestEnv::new();
    let server = Server::start();
    let files = [("a", "1"), ("b", "22"), ("c", "333")];
    serve(&server, &files);
    let list: String = files.map(|(name, content)| line(name, content)).concat();
    let list = env.write("SHA256SUMS", list);
    let outcome = batch(&env, &list)
        .args(["--progress", "json", "--base-url"])
        .arg(server.url("/"))
        .go()
        .exits(0);
    let events: Vec<Value> = outcome
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |kind: &str| -> Vec<&Value> {
        events
            .iter()
            .filter(|event| event["event"] == kind)
            .collect()
    };
    assert_eq!((of("begin").len(), of("end").len()), (1, 1), "{outcome}");
    assert_eq!(of("end")[0]["done"], 3, "{outcome}");
    assert_eq!(of("end")[0]["total"], 3, "{outcome}");
    assert_eq!(of("end")[0]["unit"], "items", "{outcome}");
}

/// Peak memory in KiB, and the most descriptors that were open.
fn watch_it(running: &mut crate::support::Running) -> (u64, usize) {
    let process = format!("/proc/{}", running.id());
    let (mut peak_kib, mut most_open) = (0, 0);
    while running.is_running() {
        let status = fs_err::read_to_string(format!("{process}/status")).unwrap_or_default();
        let peak = status.lines().find_map(|line| {
            let amount = line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?;
            amount.parse().ok()
        });
        peak_kib = peak_kib.max(peak.unwrap_or(0));
        if let Ok(open) = fs_err::read_dir(format!("{process}/fd")) {
            most_open = most_open.max(open.count());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    (peak_kib, most_open)
}

/// 50,000 entries, of which most are nowhere: what is kept of each is the most then. Some seconds in a debug build.
#[test]
fn fifty_thousand_entries_take_little_memory() {
    const ENTRIES: usize = 50_000;
    const HERE: usize = 2000;
    let env = TestEnv::new();
    let mut list = String::from("{\"version\": \"1\", \"sources\": [");
    for number in 0..ENTRIES {
        let content = format!("content {number}");
        if number < HERE {
            env.write(format!("mirror/{}/{number}", number % 10), &content);
        }
        let comma = if number == 0 { "" } else { "," };
        let path = format!("some/folder/with/a/name/package-{number}.tar.gz");
        writeln!(
            list,
            "{comma}{{\"type\": \"url\", \"integrity\": \"{}\", \"outputHashMode\": \"flat\", \"urls\": \
             [\"https://one.example.org/{path}\", \"https://two.example.org/{path}\"]}}",
            sri(content.as_bytes())
        )
        .unwrap();
    }
    list.push_str("]}");
    let list = env.write("sources.json", list);
    env.store_index(["update", "--index"])
        .args([env.path("index"), env.path("mirror")])
        .go()
        .exits(0);
    let mut running = batch(&env, &list)
        .args(["--offline", "--json", "--index"])
        .arg(env.path("index"))
        .start();
    let (peak_kib, most_open) = watch_it(&mut running);
    let outcome = running.wait().exits(3);
    let counts = format!(
        "\"entries\":{ENTRIES},\"present\":0,\"local\":{HERE},\"downloaded\":0,\"failed\":{}",
        ENTRIES - HERE
    );
    assert!(outcome.stdout.contains(&counts), "no {counts}");
    assert_eq!(names_in(&env.out("into")).len(), HERE);
    // 64 MB were measured; the list itself has 13.
    assert!((1024..128 * 1024).contains(&peak_kib), "{peak_kib} KiB");
    assert!((4..64).contains(&most_open), "{most_open} descriptors");
}

/// A thousand downloads need no more descriptors and memory than those that go on at a time.
#[test]
fn a_thousand_downloads_take_few_descriptors_and_little_memory() {
    const FILES: usize = 1000;
    if lacks(
        "a_thousand_downloads_take_few_descriptors_and_little_memory",
        &["prlimit"],
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let server = Server::start();
    let mut list = String::new();
    for number in 0..FILES {
        let content = noise(number as u64, 4000);
        list += &line(&format!("file-{number}"), &content);
        server.route(&format!("/file-{number}"), Answer::file(content));
    }
    let list = env.write("SHA256SUMS", list);
    let mut running = env
        .run(
            Path::new("prlimit"),
            ["--nofile=192", env!("CARGO_BIN_EXE_fetch"), "batch"],
        )
        .args(["--no-store", "--no-media", "--base-url"])
        .arg(server.url("/"))
        .arg("--into")
        .arg(env.out("into"))
        .arg(&list)
        .start();
    let (peak_kib, _) = watch_it(&mut running);
    running.wait().exits(0);
    assert_eq!(names_in(&env.out("into")).len(), FILES);
    assert_eq!(server.requests().len(), FILES);
    assert!(peak_kib < 64 * 1024, "{peak_kib} KiB");
}
