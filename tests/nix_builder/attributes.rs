//! What a derivation may say, and how.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use store_index::address::Method;
use store_index::digest::Algorithm;
use store_index::hash_text::parse;
use store_index::store_path::{FixedOutput, ItemName};

use super::{How, World, cannot_build};
use crate::support::server::{Answer, Server};
use crate::support::{TestEnv, digest, lacks, nar_sri, noise, sri};

#[test]
fn every_form_of_a_hash() {
    if cannot_build("every_form_of_a_hash") {
        return;
    }
    let world = World::new(&[]);
    let bytes = noise(10, 2_000);
    let file = world.env.write("file", &bytes);
    let server = Server::with("/file", Answer::body(&bytes));
    let url = server.url("/file");
    let mut number = 0;
    for (algorithm, name) in [
        (Algorithm::Sha256, "sha256"),
        (Algorithm::Sha512, "sha512"),
        (Algorithm::Sha1, "sha1"),
        (Algorithm::Md5, "md5"),
    ] {
        let sri = digest(algorithm, &bytes).to_sri();
        let hex = digest(algorithm, &bytes).to_hex();
        let base64 = sri.split_once('-').unwrap().1.to_owned();
        let args = ["--flat", "--base32", "--type", name, file.to_str().unwrap()];
        let nix32 = world.nix.nix("nix-hash", &args);
        for (hash, algorithm) in [
            (sri.clone(), ""),
            (sri.clone(), name),
            (hex.clone(), name),
            (hex.to_uppercase(), name),
            (nix32.clone(), name),
            (base64, name),
            (format!("{name}:{hex}"), ""),
            (format!("{name}:{nix32}"), ""),
        ] {
            // Equal fixed outputs of one name would be one.
            number += 1;
            let attributes = [
                ("name", format!("file-{number}")),
                ("url", url.clone()),
                ("outputHash", hash),
                ("outputHashAlgo", algorithm.to_owned()),
            ];
            let attributes: Vec<_> = attributes.iter().map(|(n, v)| (*n, v.as_str())).collect();
            world.build(&attributes).delivers(&bytes);
        }
    }
    assert_eq!(server.requests().len(), number);
}

#[test]
fn files_and_executables_by_their_nar() {
    if cannot_build("files_and_executables_by_their_nar") {
        return;
    }
    let world = World::new(&[]);
    let bytes = noise(11, 2_000);
    let server = Server::with("/tool", Answer::body(&bytes));
    let url = server.url("/tool");
    for executable in [false, true] {
        let hash = nar_sri(&bytes, executable);
        for mode in ["recursive", "nar"] {
            let built = world.build(&[
                ("name", &format!("tool-{mode}")),
                ("urls", &format!("[ \"{url}\" ]")),
                ("outputHash", &hash),
                ("outputHashMode", mode),
                ("executable", if executable { "true" } else { "false" }),
            ]);
            // The Nix here knows the new word only where it is spelt the old way.
            if mode == "nar" && built.log.contains("invalid value 'nar'") {
                continue;
            }
            let built = built.delivers(&bytes);
            assert_eq!(world.nix.nar_hash(&built.output), hash);
        }
    }
}

/// The archive's content is the output, without the folder around it; of a NAR, what is in it.
#[test]
fn archives_are_unpacked() {
    if cannot_build("archives_are_unpacked") || lacks("archives_are_unpacked", &["tar"], false) {
        return;
    }
    let world = World::new(&[]);
    world.env.write("hello-2.10/src/main.c", noise(18, 2_000));
    let run = world.env.write("hello-2.10/configure", "#!/bin/sh\n");
    fs_err::set_permissions(run, PermissionsExt::from_mode(0o755)).unwrap();
    let tree = world.env.path("hello-2.10");
    let hash = world.nix.nar_hash(&tree);
    let packed = Command::new("tar")
        .args(["-czf", "hello.tar.gz", "hello-2.10"])
        .current_dir(world.env.path(""))
        .status()
        .unwrap();
    assert!(packed.success());
    let archive = fs_err::read(world.env.path("hello.tar.gz")).unwrap();
    let nar = world
        .nix
        .nix_bytes("nix-store", &["--dump", tree.to_str().unwrap()]);
    let server = Server::with("/hello.tar.gz", Answer::body(archive));
    server.route("/hello.nar", Answer::body(nar));
    for path in ["/hello.tar.gz", "/hello.nar"] {
        let url = server.url(path);
        let attributes = |name, hash| {
            [
                ("name", name),
                ("url", url.as_str()),
                ("unpack", "true"),
                ("outputHash", hash),
                ("outputHashAlgo", "sha256"),
                ("outputHashMode", "recursive"),
            ]
        };
        let before = server.requests().len();
        let name = &path[1..];
        world
            .build(&attributes(name, ""))
            .ends(102)
            .says(&format!("got:    {hash}"));
        // Only the hash was wrong, so nothing is downloaded again.
        let built = world.build(&attributes(name, &hash)).ends(0);
        assert_eq!(world.nix.nar_hash(&built.output), hash);
        assert_eq!(server.requests().len(), before + 1);
        let other = format!("other-{name}");
        let built = world.build(&attributes(&other, &hash)).ends(0);
        assert_eq!(world.nix.nar_hash(&built.output), hash);
    }
}

#[test]
fn structured_attributes() {
    if cannot_build("structured_attributes") {
        return;
    }
    let bytes = noise(12, 2_000);
    let server = Server::with("/a/file", Answer::body(&bytes));
    let (bad, good) = (server.url("/absent"), server.url("/a/file"));
    let dvd = TestEnv::new();
    dvd.open_to_everybody();
    dvd.write("dvd/here", &bytes);
    let world = World::new(&[format!("/dvd={}", dvd.path("dvd").display())]);
    let urls = format!("[ \"{bad}\" \"{good}\" ]");
    world
        .build(&[
            ("name", "first"),
            ("__structuredAttrs", "true"),
            ("urls", &urls),
            ("executable", "true"),
            ("outputHash", &nar_sri(&bytes, true)),
            ("outputHashMode", "recursive"),
        ])
        .delivers(&bytes);
    assert_eq!(server.requests().len(), 2);
    // Places come the same way; a file there is found by the name that is wanted.
    world
        .build(&[
            ("name", "here"),
            ("__structuredAttrs", "true"),
            ("urls", &urls),
            ("FETCH_MEDIA", "[ \"/dvd\" ]"),
            ("outputHash", &sri(&bytes)),
            ("outputHashAlgo", ""),
        ])
        .delivers(&bytes);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn attributes_passed_as_files() {
    if cannot_build("attributes_passed_as_files") {
        return;
    }
    let world = World::new(&[]);
    let bytes = noise(13, 2_000);
    let server = Server::with("/file", Answer::body(&bytes));
    let urls = [server.url("/absent"), server.url("/file")].join(" ");
    world
        .build(&[
            ("name", "file"),
            ("urls", &urls),
            ("passAsFile", "[ \"urls\" ]"),
            ("outputHash", &sri(&bytes)),
            ("outputHashAlgo", ""),
        ])
        .delivers(&bytes);
}

/// As `nix-build` shows it; the hash is the right one's only where the content is.
#[test]
fn a_program_of_the_store_is_a_builder_too() {
    if cannot_build("a_program_of_the_store_is_a_builder_too") {
        return;
    }
    let world = World::new(&[]);
    let bytes = noise(14, 2_000);
    let server = Server::with("/file", Answer::body(&bytes));
    let program = world
        .env
        .write("fetch-static", fs_err::read(super::static_fetch()).unwrap());
    fs_err::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let expression = format!(
        "derivation {{ name = \"file\"; system = builtins.currentSystem; builder = {}; args = [ \"builder\" ]; \
         url = \"{}\"; sha256 = \"\"; outputHash = \"{}\"; outputHashAlgo = null; }}",
        program.display(),
        server.url("/file"),
        sri(&bytes)
    );
    let output = world
        .nix
        .nix("nix-build", &["--no-out-link", "-E", &expression]);
    assert_eq!(fs_err::read(output).unwrap(), bytes);
}

/// What is no derivation's environment is told, with exit code 1: a build knows no other.
#[test]
fn mistakes_are_told() {
    let env = TestEnv::new();
    env.write("tmp/attributes", "[]");
    env.write("tmp/broken", "{");
    let hash = sri(b"hello\n");
    let out = env.out("given");
    let out = out.to_str().unwrap();
    let url = "http://127.0.0.1:1/x";
    let attributes = env.path("tmp/attributes");
    let broken = env.path("tmp/broken");
    let private = env.path("home/list");
    for (variables, words) in [
        (vec![], "`out` is not set"),
        (vec![("out", out)], "no hash was given"),
        (
            vec![("out", "given"), ("outputHash", &hash)],
            "no absolute path",
        ),
        (
            vec![("out", "/a/../b"), ("outputHash", &hash)],
            "no absolute path",
        ),
        (
            vec![("out", out), ("outputHash", "sha256-x")],
            "outputHash cannot be used",
        ),
        (
            vec![
                ("out", out),
                ("outputHash", &hash),
                ("outputHashAlgo", "sha1"),
            ],
            "the hash names sha256, but sha1 was asked for",
        ),
        (
            vec![
                ("out", out),
                ("outputHash", &hash),
                ("outputHashAlgo", "sha\u{1b}1"),
            ],
            "unknown hash algorithm 'sha\\u{1b}1'",
        ),
        (
            vec![
                ("out", out),
                ("outputHash", &hash),
                ("outputHashMode", "text"),
            ],
            "unknown outputHashMode 'text'",
        ),
        (
            vec![
                ("out", out),
                ("outputHash", &hash),
                ("executable", "yes please"),
            ],
            "executable is 'yes please'",
        ),
        (
            vec![
                ("out", out),
                ("outputHash", &hash),
                ("url", "file:///etc/passwd"),
            ],
            "only a command line may name a file:// URL",
        ),
        (
            vec![
                ("out", out),
                ("outputHash", &hash),
                ("urls", "http:// nonsense"),
            ],
            "a URL is skipped",
        ),
        (
            vec![
                ("out", out),
                ("outputHash", &hash),
                ("url", "http://a/b\nc"),
            ],
            "a URL is skipped: the URL contains blanks",
        ),
        (
            vec![("out", out), ("outputHash", &hash), ("unpack", "1")],
            "outputHashMode must be recursive",
        ),
        (
            vec![
                ("out", out),
                ("outputHash", &hash),
                ("NIX_CONNECT_TIMEOUT", "soon"),
            ],
            "'soon' is no number of seconds",
        ),
        (
            vec![
                ("out", out),
                ("outputHash", &hash),
                ("FETCH_MAX_BYTES", "many"),
            ],
            "is no number of bytes",
        ),
        (
            vec![("out", out), ("NIX_ATTRS_JSON_FILE", "/nowhere/attrs.json")],
            "cannot read attributes",
        ),
        (
            vec![("NIX_ATTRS_JSON_FILE", attributes.to_str().unwrap())],
            "are no JSON object",
        ),
        (
            vec![("NIX_ATTRS_JSON_FILE", broken.to_str().unwrap())],
            "are no JSON: EOF",
        ),
        (
            vec![
                ("out", out),
                ("outputHash", &hash),
                ("passAsFile", "urls"),
                ("urlsPath", private.to_str().unwrap()),
                ("NIX_BUILD_TOP", "/build"),
            ],
            "is not in the build's folder",
        ),
        (
            vec![("out", out), ("outputHash", &hash), ("url", url)],
            "error: cannot download",
        ),
        (
            vec![
                ("out", out),
                ("outputHash", &hash),
                ("url", url),
                ("FETCH_OFFLINE", "1"),
            ],
            "the network is off",
        ),
    ] {
        let mut run = env.fetch(["builder"]);
        for (name, value) in &variables {
            run = run.variable(name, value);
        }
        let outcome = run.go().exits(1).says(words);
        assert!(!outcome.stderr.contains('\u{1b}'), "{outcome}");
        assert_eq!(outcome.stdout, "");
        assert!(env.outputs().is_empty(), "{variables:?}");
    }
}

/// JSON can say what no variable of the environment can.
#[test]
fn hostile_structured_attributes() {
    let env = TestEnv::new();
    let (hash, out) = (sri(b"hello\n"), env.out("given"));
    let server = Server::start();
    let many = vec![server.url("/absent"); 300_000];
    for (attributes, words) in [
        (
            json!({"outputs": {"out": format!("{}\0x", out.display())}}),
            "error: ",
        ),
        (json!({"outputs": {"out": ["/x"]}}), "`out` is not set"),
        (
            json!({"outputs": {"out": out}, "outputHash": {"a": 1}}),
            "no hash was given",
        ),
        (
            json!({"outputs": {"out": out}, "outputHash": "sha256-\0\u{1b}"}),
            "outputHash cannot be used",
        ),
        (
            json!({"outputs": {"out": out}, "outputHash": hash, "name": "a\0/../\u{1b}[2J", "FETCH_MEDIA": "/a\0b"}),
            "error: not found",
        ),
        (
            json!({"outputs": {"out": out}, "outputHash": hash, "urls": [1, null, {}, "mirror://\0/x", "http://\u{1b}/"]}),
            "a URL is skipped",
        ),
        (
            json!({"outputs": {"out": out}, "outputHash": hash, "urls": many}),
            "URLs are skipped: there are more than 1000",
        ),
        (
            json!({"outputs": {"out": out}, "outputHash": hash, "fill": "x".repeat(17 << 20)}),
            "are longer than",
        ),
    ] {
        let file = env.write("attributes.json", attributes.to_string());
        let outcome = env
            .fetch(["builder"])
            .variable("NIX_ATTRS_JSON_FILE", file)
            .go()
            .exits(1)
            .says(words);
        assert!(!outcome.stderr.contains(['\u{1b}', '\0']), "{outcome}");
        assert!(env.outputs().is_empty(), "{outcome}");
    }
    // Equal URLs are one.
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn an_output_that_is_there_is_left_alone() {
    let env = TestEnv::new();
    let server = Server::with("/x", Answer::body("hello\n"));
    let elsewhere = env.write("elsewhere", "mine");
    for case in ["file", "link", "dangling", "directory"] {
        let out = env.out(case);
        match case {
            "file" => fs_err::write(&out, "mine").unwrap(),
            "link" => std::os::unix::fs::symlink(&elsewhere, &out).unwrap(),
            "dangling" => std::os::unix::fs::symlink(env.path("made"), &out).unwrap(),
            _ => fs_err::create_dir(&out).unwrap(),
        }
        env.fetch(["builder"])
            .variable("out", &out)
            .variable("outputHash", sri(b"hello\n"))
            .variable("url", server.url("/x"))
            .go()
            .exits(1)
            .says("File exists");
    }
    assert_eq!(env.output("file"), b"mine");
    assert_eq!(fs_err::read(&elsewhere).unwrap(), b"mine");
    assert!(!env.path("made").exists());
    assert_eq!(server.connections(), 0);
}

/// A check compares what upstream has now with what is in the store, which must not answer itself.
#[test]
fn a_check_asks_the_network() {
    if cannot_build("a_check_asks_the_network") {
        return;
    }
    let bytes = noise(15, 2_000);
    let server = Server::with("/file", Answer::body(&bytes));
    let (url, hash) = (server.url("/file"), sri(&bytes));
    let env = TestEnv::new();
    let paths = [format!(
        "/host/store={}/nix/./store",
        env.path("").display()
    )];
    let worlds = [
        World::configured(env, &paths, ""),
        World::open(TestEnv::new(), "sandbox = false"),
    ];
    for world in worlds {
        let before = server.requests().len();
        let attributes = [
            ("name", "file"),
            ("url", url.as_str()),
            ("outputHash", hash.as_str()),
            ("outputHashAlgo", ""),
            ("FETCH_STORE", "=/host/store"),
        ];
        // Under another name it is there, and copied.
        world
            .nix
            .add_fixed("sha256", false, &world.env.write("other", &bytes));
        world.build(&attributes).delivers(&bytes);
        assert_eq!(server.requests().len(), before);
        let check = How {
            options: &["--check"],
            ..How::default()
        };
        world
            .build_with(&attributes, &check)
            .delivers(&bytes)
            .says("only the network is asked");
        assert_eq!(server.requests().len(), before + 1);
    }
}

/// What another machine's store has, mounted here as one more place to look, is copied like anything else.
#[test]
fn a_store_of_another_machine_makes_no_check() {
    let env = TestEnv::new();
    env.open_to_everybody();
    let server = Server::start();
    let store = env.path("store");
    fs_err::create_dir(&store).unwrap();
    let hash = parse(&sri(b"hello\n"), None).unwrap();
    let address = hash.into_address(Some(Method::Flat)).unwrap();
    let fixed = FixedOutput::new(store.to_str().unwrap(), &address);
    let item = fixed.base_name(&ItemName::new("hello").unwrap());
    env.write(format!("other/{item}"), "hello\n");
    let build = |out: &Path| {
        env.fetch(["builder"])
            .variable("NIX_STORE", &store)
            .variable("out", out)
            .variable("name", "hello")
            .variable("outputHash", sri(b"hello\n"))
            .variable("url", server.url("/x"))
            .variable(
                "FETCH_STORE",
                format!("{}={}", store.display(), env.path("other").display()),
            )
            .go()
    };
    let out = store.join(&item);
    let outcome = build(&out).exits(0).says("not downloaded");
    assert!(!outcome.stderr.contains("check"), "{outcome}");
    assert_eq!(fs_err::read(&out).unwrap(), b"hello\n");
    assert_eq!(server.connections(), 0);
    // Where Nix has locked this very output, the store is the build's own.
    fs_err::remove_file(&out).unwrap();
    env.write(format!("other/{item}.lock"), "");
    build(&out).exits(1).says("only the network is asked");
    assert_eq!(server.requests().len(), 1);
}
