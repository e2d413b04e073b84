//! Derivations get the fixed outputs that they lack from what is here under other names.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use crate::support::nix::{NIX, NixStore};
use crate::support::{Run, TestEnv, lacks, names_in, nar_sri, noise, sri};

fn add_fixed<'env>(env: &'env TestEnv, store: &NixStore) -> Run<'env> {
    env.fetch(["add-fixed", "--no-media"]).with_nix(store)
}

/// A derivation that needs four sources, one of them twice removed, and the files that they are, under other names.
struct Graph {
    env: TestEnv,
    store: NixStore,
    drv: String,
}

impl Graph {
    fn new() -> Self {
        let env = TestEnv::new();
        let store = NixStore::new(&env);
        let (flat, long, script) = (noise(1, 9000), noise(2, 9000), b"#!/bin/sh\necho hello\n");
        env.write("sources/one", &flat);
        let two = env.write("sources/two", &long);
        let program = env.write("sources/three", script);
        fs_err::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        env.write("sources/tree/.git/config", "");
        env.write("sources/tree/README", "read me\n");
        let plain = env.write("plain/README", "read me\n");
        let sha512 = [
            "hash",
            "file",
            "--sri",
            "--type",
            "sha512",
            two.to_str().unwrap(),
        ];
        let sha512 = store.nix("nix", &sha512);
        let tree = store.nar_hash(plain.parent().unwrap());
        let expression = format!(
            r#"
            let
              fetch = attrs: derivation ({{
                system = "builtin"; builder = "builtin:fetchurl";
              }} // attrs);
              build = name: inputs: derivation {{
                inherit name inputs; system = builtins.currentSystem; builder = "/bin/sh";
                args = [ "-c" "for i in $inputs; do echo $i; done > $out" ];
              }};
              flat = fetch {{
                name = "flat-1.0.tar.gz"; url = "http://127.0.0.1:1/flat-1.0.tar.gz"; outputHash = "{}";
                outputHashMode = "flat";
              }};
              long = fetch {{
                name = "long.tar.gz"; urls = [ "http://127.0.0.1:1/x" "mirror://gnu/long.tar.gz" ];
                url = "http://127.0.0.1:1/x"; outputHash = "{sha512}"; outputHashMode = "flat";
              }};
              script = fetch {{
                name = "script"; url = "http://127.0.0.1:1/script"; executable = true; outputHash = "{}";
                outputHashMode = "recursive";
              }};
              tree = fetch {{
                name = "source"; url = "http://127.0.0.1:1/source.nar"; unpack = true; outputHash = "{tree}";
                outputHashMode = "recursive";
              }};
              inner = build "inner" [ flat tree ];
            in build "outer" [ inner script long flat ]
            "#,
            sri(&flat),
            nar_sri(script, true),
        );
        let file = env.write("graph.nix", expression);
        let drv = store.nix("nix-instantiate", &[file.to_str().unwrap()]);
        let drv = drv.lines().last().unwrap().to_owned();
        Self { env, store, drv }
    }

    fn index(&self) {
        let index = self.env.path("index");
        let update = ["update", "--algorithms", "sha512,nar", "--index"];
        let update = self.env.store_index(update).arg(index);
        drop(update.arg(self.env.path("sources")).go().exits(0));
    }

    fn add_fixed(&self) -> Run<'_> {
        add_fixed(&self.env, &self.store)
            .arg("--index")
            .arg(self.env.path("index"))
            .arg(&self.drv)
    }

    fn builds(&self) -> bool {
        self.store.try_nix("nix-store", &["--realise", &self.drv]).0
    }
}

/// Returns the names of the outputs behind a word, sorted.
fn named(lines: &str, word: &str) -> Vec<String> {
    let mut names: Vec<_> = lines
        .lines()
        .filter_map(|line| line.strip_prefix(word))
        .map(|rest| rest.split_whitespace().next().unwrap())
        .map(|path| path.trim_end_matches(':').rsplit('/').next().unwrap()[33..].to_owned())
        .collect();
    names.sort();
    names
}

const ALL: [&str; 4] = ["flat-1.0.tar.gz", "long.tar.gz", "script", "source"];

#[test]
fn a_build_finds_all_that_its_graph_lacks() {
    if lacks("add-fixed and a build", NIX, false) {
        return;
    }
    let graph = Graph::new();
    let outcome = graph.add_fixed().go().exits(3);
    assert_eq!(named(&outcome.stdout, "not here "), ALL);
    assert!(!graph.builds());
    graph.index();
    let outcome = graph.add_fixed().arg("--dry-run").go().exits(0);
    assert_eq!(named(&outcome.stdout, "would add"), ALL);
    assert!(!graph.builds(), "a dry run adds nothing");
    let report = graph.add_fixed().json(0);
    let sources = graph.env.path("sources");
    for output in report.object["outputs"].as_array().unwrap() {
        assert_eq!(output["result"], "added", "{output}");
        assert!(output["hash"].is_string() && output["reason"].is_null());
        let location = output["source"]["location"].as_str().unwrap();
        assert!(location.starts_with(sources.to_str().unwrap()), "{output}");
    }
    let outcome = graph.add_fixed().go().exits(0);
    assert_eq!(named(&outcome.stdout, "present  "), ALL);
    assert!(graph.builds());
    assert!(names_in(&graph.env.path("tmp")).is_empty() && graph.env.outputs().is_empty());
    // Once it is built, nothing is needed any more.
    assert_eq!(graph.add_fixed().go().exits(0).stdout, "");
}

#[test]
fn what_is_missing_is_told_and_the_rest_added() {
    if lacks("add-fixed with something missing", NIX, false) {
        return;
    }
    let graph = Graph::new();
    fs_err::remove_file(graph.env.path("sources/three")).unwrap();
    graph.index();
    let outcome = graph.add_fixed().go().exits(3);
    assert_eq!(named(&outcome.stdout, "not here "), ["script"]);
    let added = ["flat-1.0.tar.gz", "long.tar.gz", "source"];
    assert_eq!(named(&outcome.stdout, "added    "), added);
}

#[test]
fn the_name_of_another_version_is_not_used_unless_asked_for() {
    if lacks("add-fixed and a stale hash", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let content = noise(3, 500);
    store.add_fixed("sha256", false, &env.write("hello-2.10.tar.gz", &content));
    let expression = format!(
        r#"derivation {{ name = "hello-2.11.tar.gz"; system = "builtin"; builder = "builtin:fetchurl";
            url = "http://127.0.0.1:1/hello-2.11.tar.gz"; outputHash = "{}"; outputHashMode = "flat"; }}"#,
        sri(&content)
    );
    let file = env.write("stale.nix", expression);
    let drv = store.nix("nix-instantiate", &[file.to_str().unwrap()]);
    let drv = drv.lines().last().unwrap();
    let outcome = add_fixed(&env, &store).arg(drv).go().exits(3);
    assert!(outcome.stdout.contains("stale hash?"), "{outcome}");
    let ignoring = add_fixed(&env, &store).args([drv, "--stale-hash", "ignore"]);
    let outcome = ignoring.go().exits(0);
    assert_eq!(named(&outcome.stdout, "added    "), ["hello-2.11.tar.gz"]);
}

/// Writes a derivation into the store's folder, as nobody but root and daemons can.
fn drv(store: &NixStore, digit: char, outputs: &str, inputs: &str) -> String {
    let name = format!("{}-x.drv", digit.to_string().repeat(32));
    let path = store.dir().join(name);
    let text = format!("Derive([{outputs}],[{inputs}],[],\"x\",\"y\",[],[])");
    fs_err::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn hostile_derivations_end() {
    if lacks("hostile derivations", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let dir = store.dir();
    let dir = dir.to_str().unwrap();
    let output = |digit: char| {
        let digest = digit.to_string().repeat(32);
        format!(r#"("out","{dir}/{digest}-o","","")"#)
    };
    let with_input = |input: &str| {
        let input = format!(r#"("{input}",["out"])"#);
        drv(&store, '2', &output('2'), &input)
    };
    let run = |drv: &str| add_fixed(&env, &store).arg(drv).go();
    // Round and round.
    let other = format!("{dir}/{}-x.drv", "1".repeat(32));
    let cycle = drv(
        &store,
        '0',
        &output('0'),
        &format!(r#"("{other}",["out"])"#),
    );
    drv(
        &store,
        '1',
        &output('1'),
        &format!(r#"("{cycle}",["out"])"#),
    );
    assert_eq!(run(&cycle).exits(0).stdout, "");
    // Out of the store, by path or by link.
    let outside = env.write("outside.drv", "Derive([],[],[],\"x\",\"y\",[],[])");
    for input in [
        outside.to_str().unwrap().to_owned(),
        format!("{dir}/../../outside.drv"),
        format!("{dir}/{}-x/../../../outside.drv", "1".repeat(32)),
        format!("{dir}/.links/{}-x.drv", "1".repeat(32)),
        format!("{dir}/{}-x", "1".repeat(32)),
        "/etc/shadow".to_owned(),
        String::new(),
    ] {
        let drv = with_input(&input);
        drop(run(&drv).exits(7).says("no derivation in the store"));
    }
    let link = format!("{dir}/{}-x.drv", "3".repeat(32));
    symlink(&outside, &link).unwrap();
    let to_link = with_input(&link);
    drop(run(&to_link).exits(7).says("cannot read the derivation"));
    // Inputs that are not there, that are no derivations, that are no files.
    fs_err::remove_file(&link).unwrap();
    drop(run(&to_link).exits(7).says("cannot read the derivation"));
    fs_err::write(&link, "Derive(\u{1b}[31m").unwrap();
    let outcome = run(&to_link).exits(7).says("not a derivation");
    assert!(!outcome.stderr.contains('\u{1b}'));
    fs_err::remove_file(&link).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &link, rustix::fs::Mode::RUSR).unwrap();
    drop(run(&to_link).exits(7).says("cannot read the derivation"));
    drop(run(env.path("out").to_str().unwrap()).exits(7));
    drop(run("/nowhere.drv").exits(7).says("/nowhere.drv"));
    // A million inputs, and a file without an end.
    let many: Vec<_> = (0..1_000_000).map(|n| format!(r#"("/{n}",[])"#)).collect();
    let many = drv(&store, '4', &output('4'), &many.join(","));
    drop(run(&many).exits(7));
    let endless = env.path("endless.drv");
    let file = fs_err::File::create(&endless).unwrap();
    file.set_len(1 << 40).unwrap();
    drop(run(endless.to_str().unwrap()).exits(7));
}

#[test]
fn outputs_that_lie_are_not_added() {
    if lacks("fixed outputs that lie", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let dir = store.dir();
    let dir = dir.to_str().unwrap();
    let file = env.write("content", noise(4, 500));
    store.add_fixed("sha256", false, &file);
    let hex = ["--flat", "--type", "sha256", file.to_str().unwrap()];
    let hex = store.nix("nix-hash", &hex);
    let names = || names_in(&store.dir());
    let digest = "0".repeat(32);
    let blob = "ce013625030ba8dba906f756967f9e9ca394464a";
    for (path, method, hash) in [
        (format!("{dir}/{digest}-content"), "sha256", &*hex),
        (format!("{}/a", env.path("out").display()), "sha256", &hex),
        (format!("{dir}/{digest}-../../../out/a"), "sha256", &hex),
        (format!("{dir}/{digest}-a b"), "sha256", &hex),
        (String::new(), "sha256", &hex),
        (format!("{dir}/{digest}-content"), "sha256", "00"),
        (format!("{dir}/{digest}-content"), "sha3-256", &hex),
        (format!("{dir}/{digest}-content"), "git:sha1", blob),
    ] {
        let output = format!(r#"("out","{path}","{method}","{hash}")"#);
        let drv = drv(&store, '1', &output, "");
        let before = names();
        let outcome = add_fixed(&env, &store).arg(&drv).go().exits(3);
        assert!(outcome.stdout.starts_with("not here "), "{outcome}");
        assert_eq!(names(), before);
    }
    assert!(env.outputs().is_empty());
}

#[test]
fn derivations_of_guix_are_read_too() {
    if lacks("add-fixed for Guix", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::at(&env, "gnu");
    let content = noise(5, 100);
    let other = env.write("other", &content);
    store.add_fixed("sha256", false, &other);
    let hex = ["--flat", "--type", "sha256", other.to_str().unwrap()];
    let hex = store.nix("nix-hash", &hex);
    let path = ["--print-fixed-path", "sha256", &hex, "a-1.0.tar.gz"];
    let path = store.nix("nix-store", &path);
    let text = format!(
        r#"Derive([("out","{path}","sha256","{hex}")],[],[],"x86_64-linux","builtin:download",[],[("url","(\"http://127.0.0.1:1/a-1.0.tar.gz\" \"mirror://gnu/a\")")])"#
    );
    let drv = env.write("a.drv", text);
    let guix = env.write("bin/guix", crate::prefetch::STAND_IN);
    fs_err::set_permissions(&guix, std::fs::Permissions::from_mode(0o755)).unwrap();
    let outcome = add_fixed(&env, &store)
        .variable("FETCH_GUIX", &guix)
        .variable("GUIX_LOG", env.path("log"))
        .arg(&drv)
        .go()
        .exits(0);
    assert_eq!(named(&outcome.stdout, "added    "), ["a-1.0.tar.gz"]);
    assert_eq!(fs_err::read(Path::new(&path)).unwrap(), content);
}
