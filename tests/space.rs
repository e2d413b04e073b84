//! Where there is room and where not: a lie about a length costs one candidate, and what fits somewhere gets there.

use std::path::PathBuf;

use crate::bad_input::SmallDisk;
use crate::support::server::{Answer, Manner, Server};
use crate::support::{Run, TestEnv, digest, lacks, names_in, noise, sri};
use store_index::digest::Algorithm;

const MIB: usize = 1 << 20;

/// A length that no disk has, and a limit above it.
const CLAIMED: u64 = 1 << 59;
const MAX_BYTES: [&str; 2] = ["--max-bytes", "1152921504606846976"];

fn fetch<'env>(env: &'env TestEnv, body: &[u8]) -> Run<'env> {
    env.fetch_hash(sri(body)).args(["--retry-budget", "0"])
}

/// Puts bytes where the beginning of a content lies.
fn spool(env: &TestEnv, content: &[u8], bytes: &[u8]) -> PathBuf {
    let server = Server::with("/any", Answer::body("any"));
    // Whoever is first makes the folders.
    fetch(env, b"any")
        .args(["--force", "-o"])
        .arg(env.out("any"))
        .arg(server.url("/any"))
        .go()
        .exits(0);
    fs_err::remove_file(env.out("any")).unwrap();
    let name = format!(
        "sha256-flat-{}.part",
        digest(Algorithm::Sha256, content).to_hex()
    );
    let part = env.path("cache/fetch/spool").join(name);
    fs_err::write(&part, bytes).unwrap();
    part
}

#[test]
fn a_lie_about_a_length_costs_one_candidate() {
    let env = TestEnv::new();
    let body = noise(1, 3 * MIB);
    let liar = Server::with("/big", Answer::claiming(CLAIMED, &body));
    let honest = Server::with("/big", Answer::file(body.clone()));
    let alone = fetch(&env, &body).args(MAX_BYTES).args(["-o", "big"]);
    let alone = alone.arg(liar.url("/big")).json(7);
    assert!(
        alone.stderr.contains("not enough space"),
        "{}",
        alone.stderr
    );
    // What had come before is not given up for a lie.
    let part = spool(&env, &body, &body[..2 * MIB]);
    let run = || fetch(&env, &body).args(MAX_BYTES).args(["-o", "big"]);
    run().arg(liar.url("/big")).go().exits(7);
    assert_eq!(fs_err::metadata(&part).unwrap().len(), 2 * MIB as u64);
    let both = [liar.url("/big"), honest.url("/big")];
    run().args(both).go().exits(0);
    assert!(env.output("big") == body);
    assert_eq!(honest.sent_bytes(), MIB as u64);
}

/// What has no end is not kept for the next to go on with.
#[test]
fn a_body_without_an_end_leaves_nothing() {
    let env = TestEnv::new();
    let body = noise(1, 3 * MIB);
    let endless = Server::with("/big", Answer::endless());
    let honest = Server::with("/big", Answer::file(body.clone()));
    let run = |urls: &[String]| {
        let run = fetch(&env, &body).args(["-o", "big", "--max-bytes", "4194304"]);
        run.args(urls).go()
    };
    run(&[endless.url("/big")])
        .exits(5)
        .says("longer than the limit");
    assert_eq!(names_in(&env.path("cache/fetch/spool")), [""; 0]);
    run(&[endless.url("/big"), honest.url("/big")]).exits(0);
    assert!(env.output("big") == body);
    assert_eq!(honest.requests()[0].header("range"), None);
}

/// A partial download that fits no more makes way for what is sent in its place.
#[test]
fn what_was_there_makes_room() {
    if lacks("space::what_was_there_makes_room", &["mount"], true) {
        return;
    }
    for manner in [Manner::Whole, Manner::Honest] {
        let env = TestEnv::new();
        fs_err::create_dir_all(env.path("cache")).unwrap();
        let Some(_disk) = SmallDisk::new(env.path("cache"), "12m") else {
            return crate::support::skipped("space::what_was_there_makes_room", "cannot mount");
        };
        let body = noise(1, 7 * MIB);
        // Of another file: with the rest of this one it is wrong.
        spool(&env, &body, &noise(2, 6 * MIB));
        let server = Server::with("/big", Answer::file(body.clone()).manner(manner));
        let output = env.path("cache/big");
        fetch(&env, &body)
            .arg("-o")
            .arg(&output)
            .arg(server.url("/big"))
            .go()
            .exits(0);
        assert!(fs_err::read(&output).unwrap() == body, "{manner:?}");
    }
}

/// A small whole does not land behind the garbage that it replaces.
#[test]
fn a_small_whole_after_a_wrong_one() {
    let env = TestEnv::new();
    let body = noise(1, 800_000);
    spool(&env, &body, &noise(2, 500_000));
    let server = Server::with("/small", Answer::file(body.clone()));
    let run = fetch(&env, &body).args(["-o", "small"]);
    run.arg(server.url("/small")).go().exits(0);
    assert!(env.output("small") == body);
    assert_eq!(server.requests().len(), 2);
}

/// What is here under the name and has no room may be something else: others are asked.
#[test]
fn a_local_file_without_room_costs_one_candidate() {
    let name = "space::a_local_file_without_room_costs_one_candidate";
    if lacks(name, &["mount"], true) {
        return;
    }
    let env = TestEnv::new();
    let Some(disk) = SmallDisk::new(env.path("small"), "4m") else {
        return crate::support::skipped(name, "cannot mount a tmpfs");
    };
    let body = noise(1, 300_000);
    env.write("shelf/it", noise(2, 6 * MIB));
    let server = Server::with("/it", Answer::file(body.clone()));
    let output = env.path("small/it");
    let run = |path: &str| {
        fetch(&env, &body)
            .arg("--media")
            .arg(env.path("shelf"))
            .arg("-o")
            .arg(&output)
            .arg(server.url(path))
    };
    run("/nothing/it").go().exits(7).says("space");
    assert_eq!(names_in(&env.path("small")), [""; 0]);
    run("/it").go().exits(0);
    assert!(fs_err::read(&output).unwrap() == body);
    fs_err::remove_file(&output).unwrap();
    // So in a batch, whether or not there is somebody else.
    let list = env.write(
        "list",
        format!("{}  it\n", digest(Algorithm::Sha256, &body).to_hex()),
    );
    let batch = |path: Option<&str>| {
        let run = env.fetch(["batch", "--retry-budget", "0", "--no-store", "--media"]);
        let run = run
            .arg(env.path("shelf"))
            .arg("--into")
            .arg(env.path("small"))
            .arg(&list);
        match path {
            Some(path) => run.arg("--base-url").arg(server.url(path)),
            None => run,
        }
    };
    batch(None).go().exits(7).says("space");
    batch(Some("/nothing/")).go().exits(7).says("space");
    batch(Some("/")).go().exits(0);
    assert!(fs_err::read(&output).unwrap() == body);
    drop(disk);
}

/// What is to stay free on a disk stays free of copies, too, which are not worth an error.
#[test]
fn the_reserve_holds_for_kept_copies() {
    let name = "space::the_reserve_holds_for_kept_copies";
    if lacks(name, &["mount"], true) {
        return;
    }
    let env = TestEnv::new();
    let Some(_disk) = SmallDisk::new(env.path("cache"), "40m") else {
        return crate::support::skipped(name, "cannot mount a tmpfs");
    };
    let body = noise(1, 3 * MIB);
    let server = Server::with("/big", Answer::file(body.clone()));
    for (keys, kept) in [("[limits]\ndisk_reserve = 40000000\n", 0), ("", 1)] {
        env.write("config/fetch/fetch.toml", keys);
        let run = fetch(&env, &body).args(["--keep-copies", "-o", "big"]);
        let outcome = run.arg(server.url("/big")).go().exits(0);
        let said = outcome.stderr.contains("no copy of");
        assert_eq!(said, kept == 0, "{outcome}");
        let copies = env.path("cache/fetch/copies");
        assert_eq!(names_in(&copies).len(), kept, "{outcome}");
        fs_err::remove_file(env.out("big")).unwrap();
        fs_err::remove_dir_all(env.path("cache/fetch/ledger")).unwrap();
    }
}

/// A folder for partial downloads that is too small for this one is no reason not to have it.
#[test]
fn a_small_spool() {
    if lacks("space::a_small_spool", &["mount"], true) {
        return;
    }
    let (large, larger) = (noise(1, 6 * MIB), vec![7; 70 * MIB]);
    for (size, there, body, answer) in [
        ("4m", 2 * MIB, &large, Answer::file(large.clone())),
        // Without a length it shows late that there is too little.
        ("68m", 0, &larger, Answer::until_close(&larger)),
    ] {
        let env = TestEnv::new();
        let Some(_disk) = SmallDisk::new(env.path("cache"), size) else {
            return crate::support::skipped("space::a_small_spool", "cannot mount a tmpfs");
        };
        let part = spool(&env, body, &body[..there]);
        let server = Server::with("/big", answer);
        let run = fetch(&env, body).args(["-o", "big"]);
        let outcome = run.arg(server.url("/big")).go().exits(0);
        outcome.says("no room for partial downloads");
        assert!(env.output("big") == *body);
        assert!(!part.exists());
        assert_eq!(server.requests().len(), 2);
    }
}
