//! The ways in which a sandbox is shown the store and media: each answers without a request.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use store_index::root::Root;

use super::{Built, How, World, build_users, cannot_build, quoted};
use crate::support::server::{Answer, Server};
use crate::support::{TestEnv, noise, sri};

/// A build of `content` under a name that the store does not have, whose only URL is the server's.
struct Wanted<'a> {
    content: &'a [u8],
    url: String,
    hash: String,
}

impl<'a> Wanted<'a> {
    fn new(content: &'a [u8], server: &Server) -> Self {
        Self {
            content,
            url: server.url("/second"),
            hash: sri(content),
        }
    }

    fn build(&self, world: &World, more: &[(&str, &str)], how: &How<'_>) -> Built {
        let mut attributes = vec![
            ("name", "second"),
            ("url", self.url.as_str()),
            ("outputHash", self.hash.as_str()),
            ("outputHashAlgo", ""),
        ];
        attributes.extend(more);
        world.build_with(&attributes, how)
    }

    /// Builds it and expects a copy and no request.
    #[track_caller]
    fn is_copied(&self, world: &World, server: &Server, more: &[(&str, &str)], how: &How<'_>) {
        self.build(world, more, how)
            .delivers(self.content)
            .says("not downloaded, copied from");
        assert_eq!(server.connections(), 0);
        world.nix.nix("nix-store", &["--gc"]);
    }
}

/// Puts content into the store as a file in a tree, so that only `.links` has it by itself; and indexes it.
fn fill(world: &World, content: &[u8]) -> String {
    world.env.write("tree/first", content);
    let item = world.nix.add(&world.env.path("tree"));
    world.nix.optimise();
    // The collector is called between builds.
    let roots = world.nix.root().join("var/nix/gcroots");
    std::os::unix::fs::symlink(item, roots.join("kept")).unwrap();
    let index = world.env.path("index");
    world
        .env
        .store_index(["update", "--algorithms", "sha256", "--index"])
        .arg(&index)
        .arg("--store")
        .arg(world.nix.dir())
        .go()
        .exits(0);
    index.to_str().unwrap().to_owned()
}

/// With and without build users, since the sandbox's root differs.
fn users(env: &TestEnv) -> [(&'static str, String); 2] {
    [
        ("build-users-group =", String::new()),
        ("build-users-group = fetchbld", build_users(env)),
    ]
}

#[test]
fn impure_host_deps() {
    if cannot_build("impure_host_deps") {
        return;
    }
    let content = noise(1, 300_000);
    let server = Server::with("/second", Answer::body(&content));
    let wanted = Wanted::new(&content, &server);
    let env = TestEnv::new();
    for (line, mounts) in users(&env) {
        let env = TestEnv::new();
        let allowed = format!(
            "{line}\nallowed-impure-host-deps = {0}/nix/store/.links {0}/index",
            env.path("").display()
        );
        let world = World::configured(env, &[], &allowed);
        let index = fill(&world, &content);
        let deps = format!("[ \"{}/.links\" \"{index}\" ]", world.store());
        let more = [
            ("FETCH_INDEX", index.as_str()),
            ("__impureHostDeps", deps.as_str()),
        ];
        let how = How {
            mounts: &mounts,
            ..How::default()
        };
        wanted.is_copied(&world, &server, &more, &how);
    }
}

#[test]
fn links_mounted_by_another_spelling() {
    if cannot_build("links_mounted_by_another_spelling") {
        return;
    }
    let content = noise(2, 300_000);
    let server = Server::with("/second", Answer::body(&content));
    let wanted = Wanted::new(&content, &server);
    let env = TestEnv::new();
    for (line, mounts) in users(&env) {
        let env = TestEnv::new();
        let root = env.path("home").parent().unwrap().display().to_string();
        // Where root's `store-index update` puts it, and where it is looked for without a word.
        let id = Root::store(&format!("{root}/nix/store")).id();
        let paths = [
            format!("{root}/nix/store/.links={root}/nix/./store/.links"),
            format!("/var/lib/store-index/{id}={root}/index?"),
        ];
        let world = World::configured(env, &paths, line);
        fill(&world, &content);
        let how = How {
            mounts: &mounts,
            ..How::default()
        };
        wanted.is_copied(&world, &server, &[], &how);
    }
}

#[test]
fn the_whole_store_read_only_at_another_place() {
    if cannot_build("the_whole_store_read_only_at_another_place") {
        return;
    }
    let content = noise(3, 300_000);
    let server = Server::with("/second", Answer::body(&content));
    let wanted = Wanted::new(&content, &server);
    let env = TestEnv::new();
    for (line, mounts) in users(&env) {
        let env = TestEnv::new();
        let alias = env.path("alias");
        fs_err::create_dir(&alias).unwrap();
        let paths = [
            format!("/host/store={}", alias.display()),
            format!("/var/lib/index={}?", env.path("index").display()),
        ];
        let world = World::configured(env, &paths, line);
        let (from, to) = (quoted(&world.nix.dir()), quoted(&alias));
        let mounts = format!("{mounts}mount --bind {from} {to}\nmount -o remount,ro,bind {to}\n");
        let how = How {
            mounts: &mounts,
            ..How::default()
        };
        let store = ("FETCH_STORE", "=/host/store");
        // An item under another name needs no index.
        let item = world
            .nix
            .add_fixed("sha256", false, &world.env.write("first", &content));
        wanted.is_copied(&world, &server, &[store], &how);
        assert!(!item.exists(), "the collector was called");
        // A file in a tree does.
        fill(&world, &content);
        let more = [store, ("FETCH_INDEX", "/var/lib/index")];
        wanted.is_copied(&world, &server, &more, &how);
    }
}

#[test]
fn a_tree_from_the_store_at_another_place() {
    if cannot_build("a_tree_from_the_store_at_another_place") {
        return;
    }
    let env = TestEnv::new();
    let paths = [format!(
        "/host/store={}/nix/./store",
        env.path("").display()
    )];
    let world = World::configured(env, &paths, "");
    world.env.write("first/deep/down", "deep\n");
    let run = world.env.write("first/run", "#!/bin/sh\n");
    fs_err::set_permissions(run, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("deep/down", world.env.path("first/link")).unwrap();
    let item = world.nix.add(&world.env.path("first"));
    let hash = world.nix.nar_hash(&item);
    let built = world.build(&[
        ("name", "second"),
        ("outputHash", &hash),
        ("outputHashMode", "recursive"),
        ("FETCH_STORE", "=/host/store"),
    ]);
    assert_eq!(built.code, Some(0), "{}", built.log);
    assert_eq!(world.nix.nar_hash(&built.output), hash);
    assert_ne!(built.output, item);
}

#[test]
fn a_hook_that_mounts_for_our_builds_only() {
    if cannot_build("a_hook_that_mounts_for_our_builds_only") {
        return;
    }
    let content = noise(4, 300_000);
    let server = Server::with("/second", Answer::body(&content));
    let wanted = Wanted::new(&content, &server);
    let env = TestEnv::new();
    let hook = env.write(
        "hook",
        format!(
            "#!/bin/sh\n# $1 is the derivation. Its text names its builder.\ngrep -q '\"/fetch\",\\[\"builder\"\\]' \"$1\" || exit 0\n\
             echo extra-sandbox-paths\necho /host/store={0}/nix/./store\necho\n",
            env.path("").display()
        ),
    );
    fs_err::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let line = format!("pre-build-hook = {}", hook.display());
    let world = World::configured(env, &[], &line);
    world
        .nix
        .add_fixed("sha256", false, &world.env.write("first", &content));
    let store = ("FETCH_STORE", "=/host/store");
    wanted.is_copied(&world, &server, &[store], &How::default());
}

#[test]
fn without_a_sandbox() {
    if cannot_build("without_a_sandbox") {
        return;
    }
    let content = noise(5, 300_000);
    let server = Server::with("/second", Answer::body(&content));
    let wanted = Wanted::new(&content, &server);
    for line in ["sandbox = false", "sandbox = relaxed"] {
        let world = World::open(TestEnv::new(), line);
        world
            .nix
            .add_fixed("sha256", false, &world.env.write("first", &content));
        let no_chroot = [("__noChroot", "true")];
        wanted.is_copied(&world, &server, &no_chroot, &How::default());
    }
}

#[test]
fn a_medium_in_the_sandbox() {
    if cannot_build("a_medium_in_the_sandbox") {
        return;
    }
    let content = noise(6, 300_000);
    let server = Server::with("/second", Answer::body(&content));
    let wanted = Wanted::new(&content, &server);
    let env = TestEnv::new();
    let dvd = env.write("dvd/pool/first.orig", &content);
    let dvd = dvd.parent().unwrap().parent().unwrap().to_owned();
    let paths = [
        format!("/media/dvd={}", dvd.display()),
        "/media/absent=/media/absent-from-this-machine?".to_owned(),
    ];
    let world = World::configured(env, &paths, "");
    world
        .env
        .store_index(["update", "--in-place", "--media"])
        .arg(&dvd)
        .go()
        .exits(0);
    let media = ("FETCH_MEDIA", "/media/absent:/media/dvd");
    wanted.is_copied(&world, &server, &[media], &How::default());
    wanted
        .build(&world, &[media], &How::default())
        .says("copied from a local copy (media)")
        .does_not_say("first.orig");
}

/// Whoever writes a derivation chooses the hash, and learns from the result whether the content is here: of files that
/// not everybody may read, nothing.
#[test]
fn private_files_are_not_served() {
    if cannot_build("private_files_are_not_served") {
        return;
    }
    let content = noise(7, 5_000);
    let server = Server::start();
    let wanted = Wanted::new(&content, &server);
    let env = TestEnv::new();
    let secret = env.write("folder/secret", &content);
    let folder = env.path("folder");
    let index = env.path("index");
    env.store_index(["update", "--index"])
        .arg(&index)
        .arg(&folder)
        .go()
        .exits(0);
    fs_err::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    // Without a sandbox and without build users, the builder is root.
    let world = World::open(env, "sandbox = false");
    let more = [
        ("FETCH_MEDIA", folder.to_str().unwrap()),
        ("FETCH_INDEX", index.to_str().unwrap()),
    ];
    let built = wanted.build(&world, &more, &How::default()).ends(1);
    assert_eq!(server.requests().len(), 1);
    let log = built.does_not_say("secret").does_not_say("5000").log;

    let control = |path: &Path, mode| {
        fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    control(&secret, 0o644);
    wanted
        .build(&world, &more, &How::default())
        .delivers(&content);
    assert_eq!(server.requests().len(), 1, "{log}");
}
