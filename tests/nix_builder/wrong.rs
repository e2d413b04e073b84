//! Wrong hashes and wrong bytes.

use super::{How, World, cannot_build};
use crate::support::server::{Answer, Server};
use crate::support::{noise, sri};

/// How packagers work: a hash of zeros, or none, and the build says the right one.
#[test]
fn a_fake_hash_tells_the_right_one() {
    if cannot_build("a_fake_hash_tells_the_right_one") {
        return;
    }
    let world = World::new(&[]);
    let bytes = noise(20, 2_000);
    let server = Server::with("/file", Answer::body(&bytes));
    let url = server.url("/file");
    let fake = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (name, hash, algorithm) in [
        ("fake", fake, ""),
        ("empty", "", "sha256"),
        ("other", &sri(b"something else"), ""),
    ] {
        let before = server.requests().len();
        let attributes = |hash| {
            [
                ("name", name),
                ("url", url.as_str()),
                ("outputHash", hash),
                ("outputHashAlgo", algorithm),
            ]
        };
        world
            .build(&attributes(hash))
            .ends(102)
            .says("hash mismatch in fixed-output derivation")
            .says(&format!("got:    {}", sri(&bytes)));
        assert_eq!(server.requests().len(), before + 1);
        // With the right hash there is nothing left to download, nor to build.
        world.build(&attributes(&sri(&bytes))).delivers(&bytes);
        assert_eq!(server.requests().len(), before + 1);
    }
}

#[test]
fn a_wrong_body_costs_one_url() {
    if cannot_build("a_wrong_body_costs_one_url") {
        return;
    }
    let world = World::new(&[]);
    let bytes = noise(21, 2_000);
    let server = Server::with("/right", Answer::body(&bytes));
    server.route("/wrong", Answer::body("<html>sorry</html>"));
    server.route("/short", Answer::claiming(2_000, &bytes[..100]));
    let urls = ["/wrong", "/short", "/absent", "/right"].map(|path| server.url(path));
    world
        .build(&[
            ("name", "file"),
            ("urls", &urls.join(" ")),
            ("outputHash", &sri(&bytes)),
            ("outputHashAlgo", ""),
        ])
        .delivers(&bytes)
        .says("mismatch");
    assert_eq!(server.requests().len(), 4);
}

/// Of several wrong bodies Nix gets the first whole one; what broke off or was an error page it never gets.
#[test]
fn the_first_wrong_body_is_left() {
    if cannot_build("the_first_wrong_body_is_left") {
        return;
    }
    let world = World::new(&[]);
    let (first, second) = (noise(22, 500), noise(23, 500));
    let server = Server::with("/first", Answer::body(&first));
    server.route("/second", Answer::body(&second));
    server.route("/short", Answer::claiming(2_000, "short"));
    server.route("/page", Answer::status(500, "<html>"));
    let urls = ["/short", "/page", "/absent", "/first", "/second"].map(|path| server.url(path));
    world
        .build(&[
            ("name", "file"),
            ("urls", &urls.join(" ")),
            ("outputHash", &sri(b"nothing has this")),
            ("outputHashAlgo", ""),
        ])
        .ends(102)
        .says(&format!("got:    {}", sri(&first)))
        .says("is left to Nix");

    let urls = ["/short", "/page", "/absent"].map(|path| server.url(path));
    world
        .build(&[
            ("name", "file"),
            ("urls", &urls.join(" ")),
            ("outputHash", &sri(b"nothing has this")),
            ("outputHashAlgo", ""),
        ])
        .ends(1)
        .does_not_say("hash mismatch");
}

/// A mirror that knows content by its hash has lied or is broken: its page is no hint for a packager.
#[test]
fn what_a_hashed_mirror_sends_is_not_left() {
    if cannot_build("what_a_hashed_mirror_sends_is_not_left") {
        return;
    }
    let world = World::new(&[]);
    let hash = sri(b"nothing has this");
    let hex = crate::support::digest(store_index::digest::Algorithm::Sha256, b"nothing has this")
        .to_hex();
    let server = Server::with(&format!("/by/sha256/{hex}"), Answer::body("a lie"));
    let how = How {
        variables: &[("NIX_HASHED_MIRRORS", &server.url("/by/"))],
        ..How::default()
    };
    let attributes = [
        ("name", "file"),
        ("outputHash", hash.as_str()),
        ("outputHashAlgo", ""),
        ("impureEnvVars", "[ \"NIX_HASHED_MIRRORS\" ]"),
    ];
    world
        .build_with(&attributes, &how)
        .ends(1)
        .says("hash mismatch");
    assert_eq!(server.requests().len(), 1);
}
