//! What lies in `contrib/`, tried as far as it goes without Nixpkgs: a stand-in has the few attributes that are used.

use std::process::Command;

use super::{World, cannot_build, static_fetch};
use crate::support::server::{Answer, Server};
use crate::support::{TestEnv, digest, lacks, nar_sri, noise, repository, sri};
use store_index::digest::Algorithm;

/// Nixpkgs as far as the overlay looks at it; its `fetchurl` marks what it is called for.
fn stand_in(env: &TestEnv, mirror: &str) -> String {
    env.write(
        "nixpkgs/pkgs/build-support/fetchurl/mirrors.nix",
        format!("{{ gnu = [ \"{mirror}\" ]; hashedMirrors = [ \"http://127.0.0.1:1\" ]; }}"),
    );
    format!(
        "let prev = {{ path = {}; config = {{ }}; stdenv.buildPlatform.system = builtins.currentSystem; \
         fetchurl = args: {{ original = args; overrideAttrs = change: \"changed\"; }}; }}; \
         overlay = import {}/contrib/nix/overlay.nix {{ fetch = \"/fetch\"; environment = {{ FETCH_MEDIA = \"/dvd\"; }}; }}; \
         fetchurl = (overlay {{ }} prev).fetchurl; in ",
        env.path("nixpkgs").display(),
        repository().display()
    )
}

fn eval(world: &World, expression: &str) -> String {
    let args = ["--eval", "--strict", "--json", "-E", expression];
    world.nix.nix("nix-instantiate", &args)
}

#[test]
fn the_overlay_builds_what_plain_calls_want() {
    if cannot_build("the_overlay_builds_what_plain_calls_want") {
        return;
    }
    let dvd = TestEnv::new();
    dvd.open_to_everybody();
    dvd.write("dvd/on-dvd", "on a disc\n");
    let world = World::new(&[format!("/dvd={}", dvd.path("dvd").display())]);
    let bytes = noise(60, 2_000);
    let server = Server::with("/gnu/hello/hello-2.10.tar", Answer::body(&bytes));
    server.route("/other", Answer::body(&bytes));
    let packages = stand_in(&world.env, &server.url("/gnu/"));
    let sha512 = digest(Algorithm::Sha512, &bytes).to_hex();
    let (file_hash, tool_hash, url) = (sri(&bytes), nar_sri(&bytes, true), server.url("/other"));
    let file = world.env.write("hello-2.10.tar", &bytes);
    for (call, name) in [
        (
            format!("{{ url = \"mirror://gnu/hello/hello-2.10.tar\"; hash = \"{file_hash}\"; }}"),
            "hello-2.10.tar",
        ),
        (
            format!(
                "{{ urls = [ \"{url}-not\" \"{url}\" ]; sha512 = \"{sha512}\"; pname = \"hello\"; version = \"2.10\"; }}"
            ),
            "hello-2.10",
        ),
        (
            format!(
                "{{ url = \"{url}\"; outputHash = \"{sha512}\"; outputHashAlgo = \"sha512\"; name = \"named\"; }}"
            ),
            "named",
        ),
        (
            format!(
                "{{ url = \"{url}\"; hash = \"{tool_hash}\"; executable = true; name = \"tool\"; curlOpts = \"\"; postFetch = \"\"; }}"
            ),
            "tool",
        ),
        (
            format!(
                "{{ url = \"http://127.0.0.1:1/on-dvd\"; hash = \"{}\"; meta.description = \"x\"; }}",
                sri(b"on a disc\n")
            ),
            "on-dvd",
        ),
    ] {
        let expression = format!("{packages} fetchurl {call}");
        let output = world
            .nix
            .nix("nix-build", &["--no-out-link", "-E", &expression]);
        assert!(output.ends_with(&format!("-{name}")), "{output}");
    }
    // The path is the one that Nix itself gives to such a file.
    let own = world.nix.add_fixed("sha256", false, &file);
    let expression = format!(
        "{packages} (fetchurl {{ url = \"mirror://gnu/hello/hello-2.10.tar\"; hash = \"{file_hash}\"; }})"
    );
    let path = eval(&world, &format!("{expression}.outPath"));
    assert_eq!(path, format!("{:?}", own.to_str().unwrap()));
    assert_eq!(
        eval(&world, &format!("{expression}.resolvedUrl")),
        format!("{:?}", server.url("/gnu/hello/hello-2.10.tar"))
    );
    assert_eq!(
        eval(&world, &format!("{expression}.overrideAttrs (x: x)")),
        "\"changed\""
    );
    let lines = server.requests().len();
    assert_eq!(lines, 5, "{:?}", server.requests());
}

#[test]
fn the_overlay_passes_on_what_wants_more() {
    if cannot_build("the_overlay_passes_on_what_wants_more") {
        return;
    }
    let world = World::new(&[]);
    let packages = stand_in(&world.env, "http://127.0.0.1:1/");
    for more in [
        "postFetch = \"rm x\";",
        "downloadToTemp = true;",
        "showURLs = true;",
        "curlOpts = \"-k\";",
        "curlOptsList = [ \"-k\" ];",
        "netrcPhase = \"touch netrc\";",
        "nativeBuildInputs = [ 1 ];",
        "something = \"unheard of\";",
    ] {
        let call = format!("{{ url = \"http://127.0.0.1:1/x\"; sha256 = \"\"; {more} }}");
        let passed = eval(&world, &format!("{packages} (fetchurl {call}) ? original"));
        assert_eq!(passed, "true", "{more}");
    }
    let function = eval(
        &world,
        &format!("{packages} (fetchurl (self: {{ }})) ? original"),
    );
    assert_eq!(function, "true");
    let two = "{ url = \"http://127.0.0.1:1/x\"; sha256 = \"a\"; sha1 = \"b\"; }";
    let (evaluated, said) = world.nix.try_nix(
        "nix-instantiate",
        &[
            "--eval",
            "-E",
            &format!("{packages} (fetchurl {two}).outPath"),
        ],
    );
    assert!(!evaluated && said.contains("more than one hash"), "{said}");
}

/// The whole of the first choice in contrib/nix/nix.conf, with a program that comes into the store by itself.
#[test]
fn host_paths_are_asked_for() {
    if cannot_build("host_paths_are_asked_for") {
        return;
    }
    let env = TestEnv::new();
    let root = env.path("home").parent().unwrap().display().to_string();
    let world = World::configured(
        env,
        &[],
        &format!("allowed-impure-host-deps = {root}/media"),
    );
    let bytes = noise(61, 2_000);
    let server = Server::start();
    world.env.write("media/dvd/second", &bytes);
    let copied = Command::new("cp")
        .arg(static_fetch())
        .arg(world.env.path("program"))
        .status()
        .unwrap();
    assert!(copied.success());
    let expression = |hash: &str| {
        format!(
            "(import {}/contrib/nix/fetchurl.nix {{ fetch = {root}/program; hostPaths = [ \"{root}/media/dvd\" ]; \
             environment.FETCH_MEDIA = \"{root}/media/dvd\"; }}) {{ url = \"{}\"; {hash} }}",
            repository().display(),
            server.url("/second")
        )
    };
    let right = expression(&format!("hash = \"{}\";", sri(&bytes)));
    let output = world.nix.nix("nix-build", &["--no-out-link", "-E", &right]);
    assert_eq!(fs_err::read(output).unwrap(), bytes);
    assert_eq!(server.connections(), 0);
    // No hash at all is the fake one.
    server.route("/second", Answer::body(&bytes));
    let (built, said) = world
        .nix
        .try_nix("nix-build", &["--no-out-link", "-E", &expression("")]);
    assert!(
        !built && said.contains(&format!("got:    {}", sri(&bytes))),
        "{said}"
    );
}

#[test]
fn the_units_are_well_formed() {
    if lacks("the_units_are_well_formed", &["systemd-analyze"], false) {
        return;
    }
    let env = TestEnv::new();
    let service =
        fs_err::read_to_string(repository().join("contrib/systemd/store-index.service")).unwrap();
    let timer = fs_err::read(repository().join("contrib/systemd/store-index.timer")).unwrap();
    // The program is not installed where the tests run.
    let installed = "/usr/local/bin/store-index";
    assert!(service.contains(installed));
    let service = env.write(
        "store-index.service",
        service.replace(installed, "/bin/true"),
    );
    let timer = env.write("store-index.timer", timer);
    let verified = Command::new("systemd-analyze")
        .arg("verify")
        .args([service, timer])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{said}");
}
