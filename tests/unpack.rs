//! `--unpack`: what real tools pack comes out as they would unpack it, and what hostile senders pack does no harm.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use fetcher::error::ErrorKind;
use fetcher::report::Report;
use store_index::address::Method;
use store_index::beneath::Node;
use store_index::digest::Algorithm;
use store_index::nar::{Encoder, NarHasher};
use store_index::tree;
use store_index::watch::{NoProgress, Progress, Unit, Watch};

use crate::bad_input::SmallDisk;
use crate::support::nix::{NIX, NixStore};
use crate::support::server::{Answer, Server};
use crate::support::{Outcome, TestEnv, daemon, lacks, mode, names_in, nar_sri, noise, sri};

/// A hash that nothing has.
const NOTHING: &str = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

const PACKERS: &[&str] = &["tar", "gzip", "xz", "bzip2", "zstd", "lzip", "zip"];

fn node(path: &Path) -> Node {
    let metadata = fs_err::symlink_metadata(path).unwrap();
    if metadata.is_symlink() {
        let target = fs_err::read_link(path).unwrap();
        return Node::Symlink(target.into_os_string().into_encoded_bytes());
    }
    let file = std::fs::File::from(fs_err::File::open(path).unwrap());
    if metadata.is_dir() {
        Node::Directory(file.into())
    } else {
        Node::File(file)
    }
}

fn watch<R>(use_it: impl FnOnce(Watch<'_>) -> R) -> R {
    let interrupt = AtomicBool::new(false);
    use_it(Watch {
        interrupt: &interrupt,
        progress: &NoProgress,
    })
}

/// The SRI sha256 of a tree's NAR.
pub(crate) fn tree_sri(path: &Path) -> String {
    let mut hasher = NarHasher::hashing(Algorithm::Sha256);
    watch(|watch| tree::walk(node(path), &mut hasher, watch)).unwrap();
    hasher.finish().0.to_sri()
}

/// The NAR of a file, tree or symbolic link.
fn nar(path: &Path) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new()).unwrap();
    watch(|watch| tree::walk(node(path), &mut encoder, watch)).unwrap();
    encoder.into_inner()
}

/// Runs a shell command in a folder.
#[track_caller]
fn shell(folder: &Path, command: &str) {
    let output = Command::new("sh")
        .args(["-euc", command])
        .current_dir(folder)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {stderr}");
}

/// Gives bytes to a packer and returns what it makes of them.
fn piped(command: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(bytes).unwrap());
        child.wait_with_output().unwrap().stdout
    })
}

/// A tree with everything that a NAR can tell apart, below one root.
fn packable(env: &TestEnv) -> PathBuf {
    let root = env.path("packed/hello-1.0");
    let long = format!("packed/hello-1.0/{}/{}", "d".repeat(90), "f".repeat(90));
    env.write(&long, noise(1, 200_000));
    env.write("packed/hello-1.0/hello-1.0/inner", "of the root's own name");
    env.write("packed/hello-1.0/a\nb", "a name with a newline");
    env.write("packed/hello-1.0/run", "#!/bin/sh\n");
    env.write("packed/hello-1.0/empty file", "");
    fs_err::create_dir(root.join("empty")).unwrap();
    symlink("hello-1.0/inner", root.join("link")).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    symlink("hello-1.0", root.join("directory link")).unwrap();
    shell(&root, "chmod 4755 run; ln run linked; chmod 700 empty");
    root
}

fn unpack<'env>(env: &'env TestEnv, hash: &str, url: &str) -> crate::support::Run<'env> {
    env.fetch_hash(hash).args(["--unpack", "-o", "out", url])
}

/// Expects an archive to be refused with these words, and nothing of it left.
#[track_caller]
fn refused(env: &TestEnv, body: Vec<u8>, words: &str) -> Outcome {
    refused_with(env, 4, body, words)
}

/// The same for one of which nobody knows what is in it, since it goes beyond a limit.
#[track_caller]
fn too_much(env: &TestEnv, body: Vec<u8>, words: &str) -> Outcome {
    refused_with(env, 5, body, words)
}

#[track_caller]
fn refused_with(env: &TestEnv, code: i32, body: Vec<u8>, words: &str) -> Outcome {
    let server = Server::with("/x.tar", Answer::body(body));
    let outcome = unpack(env, NOTHING, &server.url("/x.tar")).go();
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    let outcome = outcome.exits(code).says(words);
    assert!(env.outputs().is_empty(), "{:?}", env.outputs());
    outcome
}

#[test]
fn what_real_tools_pack_is_unpacked_as_they_would() {
    if lacks(
        "unpack::what_real_tools_pack_is_unpacked_as_they_would",
        PACKERS,
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let root = packable(&env);
    let packed = env.path("packed");
    let server = Server::start();
    let lists = [
        ("gnu.tar", "tar cf ../A hello-1.0"),
        ("pax.tar", "tar -H pax -cf ../A ./hello-1.0"),
        ("ustar.tar", "tar -H ustar -cf ../A hello-1.0"),
        ("x.tar.gz", "tar czf ../A hello-1.0"),
        ("x.tar.xz", "tar cJf ../A hello-1.0"),
        ("x.tar.bz2", "tar cjf ../A hello-1.0"),
        ("x.tar.zst", "tar c hello-1.0 | zstd -q --ultra -22 >../A"),
        ("x.tar.lz", "tar c hello-1.0 | lzip -b 100000 >../A"),
        (
            "x.zip",
            "zip -qry ../A hello-1.0 && [ -e ../A ] || mv ../A.zip ../A",
        ),
        (
            "b.zip",
            "zip -Z bzip2 -qry ../A hello-1.0 && [ -e ../A ] || mv ../A.zip ../A",
        ),
        // The name does not matter.
        ("download", "tar cJf ../A hello-1.0"),
        (
            "two.tar.gz",
            "{ tar c hello-1.0 | head -c 5000 | gzip; tar c hello-1.0 | tail -c +5001 | gzip; } >../A",
        ),
    ];
    let wanted = tree_sri(&root);
    let outer = tree_sri(&packed);
    for (name, command) in lists {
        let archive = format!("archive-{name}");
        shell(&packed, &command.replace("../A", &format!("../{archive}")));
        server.route(
            &format!("/{name}"),
            Answer::body(fs_err::read(env.path(&archive)).unwrap()),
        );
        let url = server.url(&format!("/{name}"));
        let report = unpack(&env, &wanted, &url).umask(0o022).json(0);
        assert_eq!(report.object["method"], "nar");
        report.tried("url", "ok", name);
        assert_eq!(tree_sri(&env.out("out")), wanted, "{name}");
        assert_eq!(mode(&env.out("out/run")), 0o755, "{name}");
        assert_eq!(mode(&env.out("out/empty file")), 0o644, "{name}");
        assert_eq!(env.outputs(), ["out"], "{name}");
        fs_err::remove_dir_all(env.out("out")).unwrap();
        // The hash may be that of the tree with its root.
        unpack(&env, &outer, &url).go().exits(0);
        assert_eq!(names_in(&env.out("out")), ["hello-1.0"], "{name}");
        fs_err::remove_dir_all(env.out("out")).unwrap();
    }
}

#[test]
fn the_hash_is_the_one_that_nix_takes() {
    let programs: Vec<_> = NIX.iter().chain(PACKERS).copied().collect();
    if lacks(
        "unpack::the_hash_is_the_one_that_nix_takes",
        &programs,
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    packable(&env);
    shell(&env.path("packed"), "tar czf ../x.tar.gz hello-1.0");
    shell(&env.path(""), "mkdir by-tar && tar xf x.tar.gz -C by-tar");
    let store = NixStore::new(&env);
    let unpacked = env.path("by-tar/hello-1.0");
    let wanted = store.nar_hash(&unpacked);
    let body = fs_err::read(env.path("x.tar.gz")).unwrap();
    let server = Server::with("/x.tar.gz", Answer::body(body));
    unpack(&env, &wanted, &server.url("/x.tar.gz"))
        .go()
        .exits(0);
    assert_eq!(store.nar_hash(&env.out("out")), wanted);

    // A NAR by Nix itself.
    let dumped = store.nix_bytes("nix-store", &["--dump", unpacked.to_str().unwrap()]);
    server.route("/x.nar.xz", Answer::body(piped(&["xz"], &dumped)));
    fs_err::remove_dir_all(env.out("out")).unwrap();
    unpack(&env, &wanted, &server.url("/x.nar.xz"))
        .go()
        .exits(0);
    assert_eq!(store.nar_hash(&env.out("out")), wanted);

    // What nixpkgs has unpacked before lies in the store as `source`.
    let served = server.connections();
    fs_err::rename(&unpacked, env.path("source")).unwrap();
    store.add_fixed("sha256", true, &env.path("source"));
    fs_err::remove_dir_all(env.out("out")).unwrap();
    let url = server.url("/hello-2.0.tar.gz");
    let args = [
        "--no-media",
        "--unpack",
        "-o",
        "out",
        "--hash",
        &wanted,
        &url,
    ];
    let run = env.fetch(["--store"]).arg(store.dir()).args(args);
    run.json(0).tried("store", "ok", "-source");
    assert_eq!(server.connections(), served);
}

#[test]
fn only_a_single_directory_is_a_root() {
    let env = TestEnv::new();
    let server = Server::start();
    let cases: &[(&str, Entries<'_>)] = &[
        ("one-file", &[("file", b'0', "content")]),
        ("two", &[("a/x", b'0', "1"), ("b/x", b'0', "2")]),
        ("link", &[("link", b'2', "nowhere")]),
        ("nothing", &[]),
        (
            "only-dot",
            &[("./", b'5', ""), ("./a", b'0', "1"), ("./b", b'0', "")],
        ),
    ];
    for (name, entries) in cases {
        let expected = env.path(format!("expected-{name}"));
        fs_err::create_dir(&expected).unwrap();
        let mut archive = Vec::new();
        for (path, kind, content) in *entries {
            archive.extend(entry(path, *kind, content));
            let to = expected.join(path);
            match kind {
                b'2' => symlink(content, to).unwrap(),
                b'5' => {}
                _ => drop(env.write(to, content)),
            }
        }
        archive.extend([0; 1024]);
        server.route(&format!("/{name}.tar"), Answer::body(archive));
        let url = server.url(&format!("/{name}.tar"));
        unpack(&env, &tree_sri(&expected), &url).go().exits(0);
        assert_eq!(names_in(&env.out("out")), names_in(&expected), "{name}");
        fs_err::remove_dir_all(env.out("out")).unwrap();
    }
}

#[test]
fn a_nar_may_be_a_file_or_a_symbolic_link() {
    let env = TestEnv::new();
    let server = Server::start();
    let file = env.write("file", "#!/bin/sh\n");
    shell(&env.path(""), "chmod 755 file; ln -s /no/where link");
    server.route("/file.nar", Answer::body(nar(&file)));
    server.route("/link.nar", Answer::body(nar(&env.path("link"))));
    let wanted = tree_sri(&file);
    let report = unpack(&env, &wanted, &server.url("/file.nar")).json(0);
    assert_eq!(report.object["executable"], true);
    assert_eq!(env.output("out"), b"#!/bin/sh\n");
    assert_eq!(mode(&env.out("out")) & 0o100, 0o100);
    fs_err::remove_file(env.out("out")).unwrap();
    let wanted = tree_sri(&env.path("link"));
    unpack(&env, &wanted, &server.url("/link.nar"))
        .go()
        .exits(0);
    assert_eq!(
        fs_err::read_link(env.out("out")).unwrap(),
        Path::new("/no/where")
    );
    fs_err::remove_file(env.out("out")).unwrap();
    // A NAR has no root to strip: its directory is the content.
    env.write("tree/only/x", "x");
    server.route("/tree.nar", Answer::body(nar(&env.path("tree"))));
    let inner = tree_sri(&env.path("tree/only"));
    unpack(&env, &inner, &server.url("/tree.nar")).go().exits(4);
    let outer = tree_sri(&env.path("tree"));
    unpack(&env, &outer, &server.url("/tree.nar")).go().exits(0);
    assert_eq!(env.outputs(), ["out"]);
}

/// Path, type and content of entries of a tar archive.
type Entries<'a> = &'a [(&'a str, u8, &'a str)];

/// One entry of a tar archive; what a link has for content is its target.
fn entry(path: &str, kind: u8, content: &str) -> Vec<u8> {
    raw_entry(
        path.as_bytes(),
        kind,
        content.as_bytes(),
        content.len() as u64,
    )
}

fn raw_entry(path: &[u8], kind: u8, content: &[u8], size: u64) -> Vec<u8> {
    let mut header = [0; 512];
    header[..path.len()].copy_from_slice(path);
    header[100..107].copy_from_slice(b"0000644");
    let is_link = matches!(kind, b'1' | b'2');
    let size = if is_link { 0 } else { size };
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[156] = kind;
    if is_link {
        header[157..157 + content.len()].copy_from_slice(content);
    }
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut entry = header.to_vec();
    if !is_link {
        entry.extend(content);
        entry.resize(entry.len().next_multiple_of(512), 0);
    }
    entry
}

fn tar(entries: Entries<'_>) -> Vec<u8> {
    let mut archive: Vec<u8> = entries
        .iter()
        .flat_map(|(path, kind, content)| entry(path, *kind, content))
        .collect();
    archive.extend([0; 1024]);
    archive
}

#[test]
fn nothing_is_written_outside() {
    let env = TestEnv::new();
    env.write("outside/precious", "precious");
    let outside = env.path("outside");
    let outside = outside.to_str().unwrap();
    let absolute = format!("{outside}/evil");
    let precious = format!("{outside}/precious");
    let cases: &[(Entries<'_>, &str)] = &[
        (&[("../evil", b'0', "x")], "leads out of the archive"),
        (&[("a/../../evil", b'0', "x")], "leads out of the archive"),
        (&[("a/..", b'5', "")], "leads out of the archive"),
        (&[(&absolute, b'0', "x")], "absolute path"),
        (
            &[("l", b'2', outside), ("l/evil", b'0', "x")],
            "no directory",
        ),
        (
            &[("l", b'2', outside), ("l/evil/", b'5', "")],
            "no directory",
        ),
        (
            &[("l", b'2', "../../outside"), ("l/evil", b'2', "x")],
            "no directory",
        ),
        (&[("h", b'1', &precious)], "hard link"),
        (&[("h", b'1', "../../outside/precious")], "hard link"),
        (
            &[("l", b'2', outside), ("h", b'1', "l/precious")],
            "hard link",
        ),
        (&[("d/", b'5', ""), ("h", b'1', "d")], "hard link"),
        (&[("h", b'1', "later"), ("later", b'0', "x")], "hard link"),
        (&[("f", b'0', "x"), ("f/evil", b'0', "x")], "no directory"),
        (
            &[("d/x", b'0', "x"), ("d", b'0', "x")],
            "a directory that has entries",
        ),
        (&[("null", b'3', "")], "device or a named pipe"),
        (&[("disk", b'4', "")], "device or a named pipe"),
        (&[("pipe", b'6', "")], "device or a named pipe"),
        (&[("hole", b'S', "")], "sparse"),
        (&[("what", b'Q', "")], "unknown type"),
        (&[("", b'0', "x")], "has no name"),
        (&[("a\x1b[2J\n", b'3', "")], "'a%1B[2J%0A'"),
        (&[("l", b'2', "")], "symbolic link to what is no path"),
    ];
    for (entries, words) in cases {
        let outcome = refused(&env, tar(entries), words);
        assert!(!outcome.stderr.contains('\x1b'), "{outcome}");
        assert_eq!(names_in(Path::new(outside)), ["precious"], "{entries:?}");
        assert_eq!(fs_err::read(&precious).unwrap(), b"precious");
    }
}

#[test]
fn the_later_entry_counts() {
    let env = TestEnv::new();
    env.write("outside/precious", "precious");
    let precious = env.path("outside/precious");
    let archive = tar(&[
        ("r/a", b'0', "first"),
        ("r/d/", b'5', ""),
        ("r/d/x", b'0', "kept"),
        ("r/a", b'0', "second"),
        ("r/d/", b'5', ""),
        // A symbolic link is replaced, not written through.
        ("r/l", b'2', precious.to_str().unwrap()),
        ("r/l", b'0', "a file"),
        ("r/e/", b'5', ""),
        ("r/e", b'2', "a"),
        ("r/s", b'2', "d"),
        ("r/s/", b'5', ""),
        ("r/h", b'1', "r/a"),
        ("r/h2", b'1', "r/e"),
        // What was linked is a file of its own.
        ("r/a", b'0', "third"),
    ]);
    env.write("expected/a", "third");
    env.write("expected/h", "second");
    env.write("expected/d/x", "kept");
    env.write("expected/l", "a file");
    shell(&env.path("expected"), "mkdir s; ln -s a e; ln -s a h2");
    let server = Server::with("/x.tar", Answer::body(archive));
    let wanted = tree_sri(&env.path("expected"));
    unpack(&env, &wanted, &server.url("/x.tar")).go().exits(0);
    assert_eq!(fs_err::read(&precious).unwrap(), b"precious");
}

#[test]
fn long_names_and_deep_trees_are_bounded() {
    let env = TestEnv::new();
    let long = |name: &[u8]| {
        let mut archive = raw_entry(b"././@LongLink", b'L', name, name.len() as u64);
        archive.extend(entry("short", b'0', "x"));
        archive
    };
    let deep = |depth: usize| "d/".repeat(depth) + "f";
    refused(&env, long(deep(300).as_bytes()), "too many directories");
    refused(&env, long(&[b'n'; 256]), "no file system takes");
    too_much(&env, long(&vec![b'n'; 2 << 20]), "1048576 are the limit");
    // One that says that it is longer than any memory.
    let mut huge = raw_entry(b"././@LongLink", b'L', b"", (1 << 33) - 1);
    huge.extend([0; 1024]);
    too_much(&env, huge, "1048576 are the limit");
    refused(
        &env,
        raw_entry(b"f", b'0', b"short", 100_000),
        "ends within",
    );
    let pax = |record: &[u8]| {
        let mut archive = raw_entry(b"x", b'x', record, record.len() as u64);
        archive.extend(entry("short", b'0', "x"));
        archive
    };
    refused(&env, pax(b"17 path=../../a\n"), "pax record");
    refused(&env, pax(b"16 path=../../a\n"), "leads out");
    refused(&env, pax(b"9999999 path=a\n"), "pax record");
    refused(&env, pax(b"12 path=a\0b\n"), "NUL byte");
    refused(&env, pax(b"22 GNU.sparse.major=1\n"), "sparse");

    env.write(format!("expected/{}", deep(200)), "x");
    let server = Server::with("/x.tar", Answer::body(long(deep(200).as_bytes())));
    let wanted = tree_sri(&env.path("expected"));
    unpack(&env, &wanted, &server.url("/x.tar")).go().exits(0);
}

#[test]
fn bombs_go_out() {
    if lacks("unpack::bombs_go_out", PACKERS, false) {
        return;
    }
    let env = TestEnv::new();
    let folder = env.path("");
    // A file of nothing but zeroes, and no block of it on the disk.
    shell(&folder, "mkdir bomb; truncate -s 400M bomb/zeroes");
    for (packer, words) in [
        ("tar c bomb | gzip -9", "more than 1000 times"),
        ("tar c bomb | xz -1", "more than 1000 times"),
        ("tar c bomb | bzip2 -9", "more than 1000 times"),
        ("tar c bomb | zstd -q -19", "more than 1000 times"),
        ("tar c bomb | lzip -0", "more than 1000 times"),
        ("zip -q -Z bzip2 - bomb/zeroes", "more than 1000 times"),
    ] {
        shell(&folder, &format!("{{ {packer}; }} >packed"));
        too_much(&env, fs_err::read(env.path("packed")).unwrap(), words);
    }
    shell(&folder, "tar c bomb | xz -1 | gzip >packed");
    let packed = fs_err::read(env.path("packed")).unwrap();
    // A bomb within a bomb is no archive.
    refused(&env, packed, "neither tar nor NAR");
    // Within the ratio, and beyond what was allowed.
    shell(
        &folder,
        "head -c 3000000 /dev/zero >bomb/zeroes; tar cf packed bomb",
    );
    let body = fs_err::read(env.path("packed")).unwrap();
    let gzip = piped(&["gzip"], &body);
    let server = Server::with("/x.tgz", Answer::body(gzip));
    unpack(&env, NOTHING, &server.url("/x.tgz"))
        .args(["--max-bytes", "2000000"])
        .go()
        .exits(5)
        .says("more than 2000000 bytes (--max-bytes)");
    // A file of a mebibyte, and two thousand copies of it in 512 bytes each.
    let mut linked = raw_entry(b"f", b'0', &vec![7; 1 << 20], 1 << 20);
    for i in 0..2000 {
        linked.extend(entry(&format!("copy{i}"), b'1', "f"));
    }
    too_much(&env, piped(&["gzip"], &linked), "more than 1000 times");
}

/// Unpacks where no more address space is to be had, in MiB: whoever asks for more dies.
/// What is in an archive shows when it is unpacked: one that has no room costs one candidate.
#[test]
fn an_archive_without_room_costs_one_candidate() {
    let name = "unpack::an_archive_without_room_costs_one_candidate";
    if lacks(name, &["mount", "gzip"], true) {
        return;
    }
    let env = TestEnv::new();
    let Some(disk) = SmallDisk::new(env.path("small"), "4m") else {
        return crate::support::skipped(name, "cannot mount a tmpfs");
    };
    env.write("right/a", "right");
    let hash = tree_sri(&env.path("right"));
    let zeroes = "0".repeat(9 << 20);
    let large = piped(&["gzip"], &tar(&[("r/a", b'0', &zeroes)]));
    let server = Server::with("/large.tgz", Answer::body(large));
    server.route("/right.tar", Answer::body(tar(&[("r/a", b'0', "right")])));
    let output = env.path("small/out");
    let run = |urls: &[&str]| {
        env.fetch_hash(&hash)
            .args(["--unpack", "--retry-budget", "0", "-o"])
            .arg(&output)
            .args(urls.iter().map(|path| server.url(path)))
    };
    let report = run(&["/large.tgz", "/nothing.tar"]).json(7);
    report.tried("url", "failed", "/large.tgz");
    assert!(report.stderr.contains("space"), "{}", report.stderr);
    assert_eq!(names_in(&env.path("small")), [""; 0]);
    run(&["/large.tgz", "/right.tar"]).go().exits(0);
    assert_eq!(tree_sri(&output), hash);
    drop(disk);
}

fn unpack_in_mib(env: &TestEnv, mib: u64, hash: &str, url: &str) -> Outcome {
    let limit = format!("--as={}", mib << 20);
    env.run(Path::new("prlimit"), [&limit, env!("CARGO_BIN_EXE_fetch")])
        // A thread's own arena takes address space, and no memory.
        .variable("MALLOC_ARENA_MAX", "1")
        .args(["--no-store", "--no-media", "--hash", hash])
        .args(["--unpack", "-o", "out", url])
        .go()
}

/// The largest dictionary that is allowed fits in, filled, and a second one does not, nor does one that is larger.
#[test]
fn memory_is_bounded_whatever_the_dictionary() {
    /// More than the largest dictionary, so that it gets full.
    const FILLING_LEN: usize = 140 << 20;
    let name = "unpack::memory_is_bounded_whatever_the_dictionary";
    if lacks(name, &["prlimit", "xz", "lzip", "zstd"], false) {
        return;
    }
    let env = TestEnv::new();
    env.write("tree/a", "x");
    let wanted = tree_sri(&env.path("tree"));
    let archive = tar(&[("r/a", b'0', "x")]);
    let xz = |dictionary: &str, bytes: &[u8]| {
        let filter = format!("--lzma2=preset=0,dict={dictionary}");
        piped(&["xz", "--check=none", &filter], bytes)
    };
    // A comment, which is passed over and not written, packed in two streams with a dictionary each.
    let mut filling = vec![0; FILLING_LEN];
    for (number, block) in filling.chunks_mut(64 * 1024).enumerate() {
        // So that it does not pack as a bomb does.
        block[..128].copy_from_slice(&noise(number as u64, 128));
    }
    let comment = raw_entry(b"pax_global_header", b'g', b"", 2 * FILLING_LEN as u64);
    let first = [&comment[..512], &filling].concat();
    filling.extend(&archive);
    let streams = [xz("128MiB", &first), xz("128MiB", &filling)].concat();
    drop((first, filling));
    let server = Server::with("/streams", Answer::body(streams));
    unpack_in_mib(&env, 240, &wanted, &server.url("/streams")).exits(0);
    fs_err::remove_dir_all(env.out("out")).unwrap();
    // Else nothing would be shown by that.
    let short = unpack_in_mib(&env, 120, &wanted, &server.url("/streams"));
    assert!(!short.status.success(), "{short}");

    let small = xz("128MiB", &archive);
    let mut lzip = piped(&["lzip"], &archive);
    lzip[5] = 29;
    let mut zstd = piped(&["zstd", "-q", "--no-check"], &archive);
    // A frame whose window is of 2 GiB, which says no other size.
    zstd.splice(4.., [0b0000_0000, 21 << 3]);
    for (body, code, words) in [
        (xz("192MiB", &archive), 5, "dictionary of more than 128 MiB"),
        (
            xz("1536MiB", &archive),
            5,
            "dictionary of more than 128 MiB",
        ),
        (lzip, 5, "dictionary of more than 128 MiB"),
        (zstd, 5, "dictionary of more than 128 MiB"),
        (with_lzma2_filters(&small, 2), 4, "the archive is broken"),
        (with_lzma2_filters(&small, 4), 4, "the archive is broken"),
    ] {
        server.route("/x", Answer::body(body));
        let outcome = unpack_in_mib(&env, 240, NOTHING, &server.url("/x"));
        outcome.exits(code).says(words);
        assert!(env.outputs().iter().all(|name| name.starts_with(".fetch-")));
    }
}

/// Puts several filters of LZMA2 into the header of the first block, each with the dictionary of the only one.
fn with_lzma2_filters(packed: &[u8], count: usize) -> Vec<u8> {
    let mut bytes = packed.to_vec();
    // Behind the header of the stream: the header's length, flags, the filter's id, the length of what it is told, the
    // dictionary.
    let header = &packed[12..24];
    assert_eq!(header[..4], [2, 0, 0x21, 1], "{header:x?}");
    let mut longer = vec![0, (count - 1) as u8];
    longer.extend(header[2..5].repeat(count));
    longer.resize(longer.len().next_multiple_of(4), 0);
    longer[0] = (longer.len() / 4) as u8;
    let mut crc = flate2::Crc::new();
    crc.update(&longer);
    longer.extend(crc.sum().to_le_bytes());
    bytes.splice(12..24, longer);
    bytes
}

/// Headers that belong to an entry are told from entries: few are normal, many are not.
#[test]
fn headers_without_an_entry_are_bounded() {
    let env = TestEnv::new();
    let comment = raw_entry(b"pax_global_header", b'g', b"13 comment=a\n", 13);
    let with_comments = |count: usize| {
        let mut archive = comment.repeat(count);
        archive.extend(tar(&[("r/a", b'0', "x")]));
        archive
    };
    env.write("tree/a", "x");
    let server = Server::with("/x.tar", Answer::body(with_comments(16)));
    let wanted = tree_sri(&env.path("tree"));
    unpack(&env, &wanted, &server.url("/x.tar")).go().exits(0);
    fs_err::remove_dir_all(env.out("out")).unwrap();
    too_much(&env, with_comments(17), "more than 16 headers");
    too_much(&env, with_comments(100_000), "more than 16 headers");
}

/// Told to stop, it stops, even where all that is left has been read already.
#[test]
fn unpacking_ends_at_once_when_told_to() {
    let env = TestEnv::new();
    let entries: Vec<u8> = (0..20_000)
        .flat_map(|number| entry(&format!("r/{number}"), b'5', ""))
        .collect();
    let packed = zstd::encode_all(&*entries, 19).unwrap();
    assert!(packed.len() < 64 * 1024, "it is read at once");
    let archive = env.write("x.tar.zst", packed);
    let target = env.path("target");
    fs_err::create_dir(&target).unwrap();
    let interrupt = AtomicBool::new(false);
    let stop = StopWhenRead {
        interrupt: &interrupt,
        reads: AtomicUsize::new(0),
    };
    let watch = Watch {
        interrupt: &interrupt,
        progress: &stop,
    };
    let directory = std::os::fd::OwnedFd::from(fs_err::File::open(&target).unwrap().into_file());
    let file = fs_err::File::open(&archive).unwrap().into_file();
    let ended = fetcher::unpack::unpack(&file, "x.tar.zst", directory, u64::MAX, watch);
    assert!(
        matches!(ended, Err(fetcher::unpack::UnpackError::Interrupted)),
        "{ended:?}"
    );
    assert_eq!(names_in(&target), [""; 0]);
}

/// Sets the flag as soon as all has been read: once to tell what it is, and once to unpack it.
struct StopWhenRead<'a> {
    interrupt: &'a AtomicBool,
    reads: AtomicUsize,
}

impl Progress for StopWhenRead<'_> {
    fn begin(&self, _what: &str, _total: Option<u64>, _unit: Unit) {}
    fn set_total(&self, _total: u64) {}
    fn advance(&self, _amount: u64) {
        if self.reads.fetch_add(1, Ordering::Relaxed) == 1 {
            self.interrupt.store(true, Ordering::Relaxed);
        }
    }
    fn end(&self) {}
    fn note(&self, _line: &str) {}
}

#[test]
fn a_million_entries_are_too_many() {
    let programs = &["zstd"];
    if lacks("unpack::a_million_entries_are_too_many", programs, false) {
        return;
    }
    let env = TestEnv::new();
    let one = entry("r/", b'5', "");
    let sum: u32 = one[..148]
        .iter()
        .chain(&one[156..])
        .map(|&byte| u32::from(byte))
        .sum();
    let mut archive = Vec::with_capacity(one.len() * 1_000_001);
    for i in 0..1_000_001 {
        // Bytes that do not pack, where nobody looks: the ratio is not what is tried here.
        let filling = noise(i, 32);
        let filled = filling.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        let at = archive.len();
        archive.extend_from_slice(&one);
        archive[at + 400..at + 432].copy_from_slice(&filling);
        let sum = sum + 8 * u32::from(b' ') + filled;
        archive[at + 148..at + 155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
    let packed = piped(&["zstd", "-q", "-1"], &archive);
    too_much(&env, packed, "more than 1000000 entries");
}

#[test]
fn what_is_cut_or_bent_is_never_delivered() {
    let programs = PACKERS;
    if lacks(
        "unpack::what_is_cut_or_bent_is_never_delivered",
        programs,
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    env.write("tree/a/b", noise(3, 3000));
    env.write("tree/c", "c");
    let folder = env.path("");
    shell(
        &folder,
        "tar czf x.tar.gz tree; tar cf x.tar tree; zip -qr x.zip tree",
    );
    shell(
        &folder,
        "tar cJf x.tar.xz tree; tar c tree | lzip >x.tar.lz; tar c tree | zstd -q >x.tar.zst",
    );
    fs_err::write(env.path("x.nar"), nar(&env.path("tree"))).unwrap();
    let wanted = tree_sri(&env.path("tree"));
    let server = Server::start();
    for name in [
        "x.tar.gz",
        "x.tar",
        "x.zip",
        "x.tar.xz",
        "x.tar.lz",
        "x.tar.zst",
        "x.nar",
    ] {
        let whole = fs_err::read(env.path(name)).unwrap();
        let path = format!("/{name}");
        let mut bodies: Vec<Vec<u8>> = Vec::new();
        for i in 0..16 {
            bodies.push(whole[..whole.len() * i / 16].to_vec());
            let mut bent = whole.clone();
            let at = (whole.len() - 1) * i / 15;
            bent[at] ^= 1 << (i % 8);
            bodies.push(bent);
        }
        for body in bodies {
            server.route(&path, Answer::body(body));
            let outcome = unpack(&env, &wanted, &server.url(&path)).go();
            assert!(!outcome.stderr.contains("panicked"), "{outcome}");
            // What is bent in a field that nobody reads does no harm.
            if outcome.status.success() {
                assert_eq!(tree_sri(&env.out("out")), wanted, "{name}");
                fs_err::remove_dir_all(env.out("out")).unwrap();
            } else {
                outcome.exits(4);
            }
            assert!(env.outputs().is_empty(), "{name}");
        }
    }
}

#[test]
fn a_wrong_body_is_explained() {
    let env = TestEnv::new();
    refused(&env, b"<!doctype html>".to_vec(), "an HTML page");
    refused(&env, b"plain text".to_vec(), "not an archive");
    refused(&env, Vec::new(), "the body is empty");
    let archive = tar(&[("r/a", b'0', "x")]);
    env.write("r/a", "x");
    refused(&env, archive.clone(), &tree_sri(&env.path("r")));
    let server = Server::with("/x.tar", Answer::body(&archive));
    for (hash, words) in [
        (nar_sri(&archive, false), "leave out --unpack"),
        (sri(&archive), "use --mode flat without --unpack"),
    ] {
        unpack(&env, &hash, &server.url("/x.tar"))
            .go()
            .exits(4)
            .says(words);
    }
}

#[test]
fn what_cannot_go_together_is_said() {
    let env = TestEnv::new();
    let url = "http://127.0.0.1:1/x.tar";
    let git = "swh:1:dir:4b825dc642cb6eb9a060e54bf8d69288fbee4904";
    let cases: &[(&[&str], &str)] = &[
        (&[NOTHING, "--mode", "flat", url], "the method is flat"),
        (&[NOTHING, "--mode", "git", url], "git"),
        (&[git, url], "git"),
        (&[NOTHING, "-o", "-", url], "standard output"),
        (&[NOTHING, "--executable", url], "--executable"),
        (
            &[NOTHING, "--git", "https://127.0.0.1/x.git", "--rev", "main"],
            "--git",
        ),
    ];
    for (args, words) in cases {
        let (hash, rest) = args.split_first().unwrap();
        env.fetch_hash(hash)
            .arg("--unpack")
            .args(rest)
            .go()
            .exits(2)
            .says(words);
        env.fetch_hash(hash)
            .args(rest)
            .variable("FETCH_UNPACK", "1")
            .go()
            .exits(2)
            .says(words);
    }
    assert!(env.outputs().is_empty());
}

/// Unpacks into an output that a daemon gave.
fn deliver(env: &TestEnv, hash: &str, urls: &[String]) -> Report {
    let mut request = daemon::request(env, Method::Nar, hash, "source", urls);
    request.unpack = true;
    daemon::deliver(env, &request, &[])
}

#[test]
fn a_daemons_output_is_filled_at_once_or_with_what_is_wrong() {
    let env = TestEnv::new();
    env.write("right/a", "right");
    env.write("wrong/a", "wrong");
    let server = Server::with("/page.tar", Answer::body("<html>"));
    server.route("/wrong.tar", Answer::body(tar(&[("w/a", b'0', "wrong")])));
    server.route("/other.tar", Answer::body(tar(&[("w/a", b'0', "other")])));
    server.route("/right.tar", Answer::body(tar(&[("r/a", b'0', "right")])));
    server.route("/file.nar", Answer::body(nar(&env.path("right/a"))));
    let urls = ["/page.tar", "/wrong.tar", "/other.tar", "/right.tar"].map(|url| server.url(url));

    let wanted = tree_sri(&env.path("right"));
    let report = deliver(&env, &wanted, &urls);
    assert!(report.result.is_ok() && report.left.is_none());
    assert_eq!(env.output("given/a"), b"right");
    fs_err::remove_dir_all(env.out("given")).unwrap();

    let report = deliver(&env, &wanted, &urls[..3]);
    assert_eq!(report.result.unwrap_err().kind, ErrorKind::Mismatch);
    assert_eq!(report.left.as_ref(), Some(&urls[1]));
    // Stripped: the daemon's message is about the hash that is to be put in.
    assert_eq!(tree_sri(&env.out("given")), tree_sri(&env.path("wrong")));
    fs_err::remove_dir_all(env.out("given")).unwrap();

    let report = deliver(&env, &wanted, &urls[..1]);
    assert!(report.left.is_none() && env.outputs().is_empty());

    let file = [server.url("/file.nar")];
    let wanted_file = tree_sri(&env.path("right/a"));
    assert!(deliver(&env, &wanted_file, &file).result.is_ok());
    assert_eq!(env.output("given"), b"right");
    fs_err::remove_file(env.out("given")).unwrap();
    assert_eq!(deliver(&env, &wanted, &file).left.as_ref(), Some(&file[0]));
    assert_eq!(env.output("given"), b"right");
    assert_eq!(env.outputs(), ["given"]);
    fs_err::remove_file(env.out("given")).unwrap();

    symlink("/no/where", env.path("link")).unwrap();
    server.route("/link.nar", Answer::body(nar(&env.path("link"))));
    let link = [server.url("/link.nar")];
    assert_eq!(deliver(&env, &wanted, &link).left.as_ref(), Some(&link[0]));
    let target = fs_err::read_link(env.out("given")).unwrap();
    assert_eq!(target, Path::new("/no/where"));
}

/// An archive that broke off goes on as any download does, but not with another archive of the same content.
#[test]
fn an_archive_that_broke_off_goes_on() {
    const CUT: usize = 2 << 20;
    let env = TestEnv::new();
    let letters = noise(1, 3 << 20).into_iter();
    let content: String = letters.map(|byte| char::from(b'a' + byte % 26)).collect();
    env.write("tree/big", &content);
    let bytes = tar(&[("r/big", b'0', &content)]);
    let hash = tree_sri(&env.path("tree"));
    let server = Server::start();
    let run = |path: &str| unpack(&env, &hash, &server.url(path)).args(["--retry-budget", "0"]);
    let begin = || {
        server.route("/a.tar", Answer::file(bytes.clone()).cut_after(CUT));
        run("/a.tar").go().exits(5);
        assert!(env.outputs().is_empty());
    };
    for (path, changed, sent) in [
        ("/a.tar", false, bytes.len() - CUT),
        ("/mirror/a.tar", false, bytes.len() - CUT),
        ("/b.tar", false, bytes.len()),
        // What is there does not fit, and the whole is asked for.
        ("/a.tar", true, 2 * bytes.len() - CUT),
    ] {
        begin();
        if changed {
            let part = names_in(&env.path("cache/fetch/spool"))
                .into_iter()
                .find(|name| name.ends_with(".part"))
                .unwrap();
            let part = env.path("cache/fetch/spool").join(part);
            fs_err::write(part, noise(2, CUT)).unwrap();
        }
        server.route(path, Answer::file(bytes.clone()));
        let before = server.sent_bytes();
        run(path).go().exits(0);
        assert_eq!(server.sent_bytes() - before, sent as u64, "{path}");
        assert!(fs_err::read(env.out("out/big")).unwrap() == content.as_bytes());
        assert_eq!(names_in(&env.path("cache/fetch/spool")), [""; 0]);
        fs_err::remove_dir_all(env.out("out")).unwrap();
    }
}
