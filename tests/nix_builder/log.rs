//! The log of a build: what Nix makes of our lines.

use std::time::Duration;

use serde_json::Value;

use super::{How, World, cannot_build};
use crate::support::server::{Answer, Server};
use crate::support::{TestEnv, noise, sri};

#[test]
fn nix_shows_the_progress() {
    if cannot_build("nix_shows_the_progress") {
        return;
    }
    let world = World::new(&[]);
    let bytes = noise(30, 3_000_000);
    let server = Server::with("/file", Answer::body(&bytes));
    let url = server.url("/file");
    let hash = sri(&bytes);
    let attributes = [
        ("name", "file"),
        ("url", url.as_str()),
        ("outputHash", hash.as_str()),
        ("outputHashAlgo", ""),
    ];
    let how = How {
        options: &["--log-format", "internal-json"],
        ..How::default()
    };
    let built = world.build_with(&attributes, &how).delivers(&bytes);
    let events: Vec<Value> = built
        .log
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("@nix ")?).ok())
        .collect();
    let start = events
        .iter()
        .find(|event| event["action"] == "start" && event["type"] == 101)
        .unwrap_or_else(|| panic!("{}", built.log));
    assert_eq!(
        start["text"],
        format!("downloading {}", server.url("/file")).as_str()
    );
    let of_ours = |action: &str| -> Vec<&Value> {
        let is_ours = |event: &&Value| event["action"] == action && event["id"] == start["id"];
        events.iter().filter(is_ours).collect()
    };
    let progress = of_ours("result");
    let last = &progress.last().unwrap()["fields"];
    assert_eq!((&last[0], &last[1]), (&3_000_000.into(), &3_000_000.into()));
    assert_eq!(of_ours("stop").len(), 1);
}

/// Other numbers than whole ones make a build fail; more than a person can read only cost time.
#[test]
fn lines_for_nix_are_few_and_whole() {
    let env = TestEnv::new();
    let server = Server::with("/drip", Answer::drip(Duration::from_millis(2)));
    let outcome = env
        .fetch(["builder"])
        .variable("out", env.out("given"))
        .variable("outputHash", sri(b"x"))
        .variable("url", server.url("/drip"))
        .variable("FETCH_MAX_BYTES", "400")
        .go()
        .exits(1);
    let lines: Vec<&str> = outcome
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("@nix "))
        .collect();
    let results = lines.iter().filter(|line| line.contains("result")).count();
    let most = usize::try_from(outcome.took.as_millis() / 100 + 2).unwrap();
    assert!(
        (2..=most).contains(&results),
        "{results} of {most}\n{outcome}"
    );
    for line in lines {
        assert!(
            !line.contains(' ') || line.contains("downloading"),
            "{line}"
        );
        let event: Value = serde_json::from_str(line).unwrap();
        for field in event["fields"].as_array().into_iter().flatten() {
            assert!(field.is_u64() || field.is_string(), "{line}");
        }
        for key in match event["action"].as_str().unwrap() {
            "start" => ["id", "level", "type", "text", "parent"].as_slice(),
            "result" => ["id", "type", "fields"].as_slice(),
            _ => ["id"].as_slice(),
        } {
            assert!(!event[key].is_null(), "{key} in {line}");
        }
    }
    assert!(!outcome.stderr.contains('\r'));
}

/// A corrupt link is told with what repairs it, and the build goes on.
#[test]
fn a_corrupt_store_is_told() {
    if cannot_build("a_corrupt_store_is_told") {
        return;
    }
    let world = World::open(TestEnv::new(), "sandbox = false");
    let bytes = noise(31, 2_000);
    let server = Server::with("/file", Answer::body(&bytes));
    let item = world
        .nix
        .add_fixed("sha256", true, &world.env.write("first", &bytes));
    world.nix.optimise();
    let link = world
        .nix
        .dir()
        .join(".links")
        .join(world.nix.link_name(&item));
    let run = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs_err::set_permissions(&link, run(0o644)).unwrap();
    fs_err::write(&link, noise(32, 2_000)).unwrap();
    fs_err::set_permissions(&link, run(0o444)).unwrap();
    world
        .build(&[
            ("name", "second"),
            ("url", &server.url("/file")),
            ("outputHash", &crate::support::nar_sri(&bytes, false)),
            ("outputHashMode", "recursive"),
        ])
        .delivers(&bytes)
        .says("is corrupt")
        .says("nix-store --verify --check-contents --repair");
    assert_eq!(server.requests().len(), 1);
}
