//! Trees checked out of local git repositories, against git itself.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use crate::support::git::{File, GIT, Repository, file, nar_of};
use crate::support::{Report, TestEnv, lacks, names_in, noise};

const URL: &str = "https://git.example.org/some/awkward.git";

const ATTRIBUTES: &[u8] = b"\
*.txt text
*.crlf text eol=crlf
*.lf text eol=lf
*.auto text=auto
*.autocrlf text=auto eol=crlf
*.id ident
*.both text eol=crlf ident
*.bin binary eol=crlf
[attr]mine text eol=crlf
*.mine mine
*.lfs filter=lfs diff=lfs merge=lfs -text
oldcrlf crlf
oldinput crlf=input eol=crlf
only-eol eol=crlf
/anchored text eol=crlf
\"quoted \\\"name\" text eol=crlf
*.16 text working-tree-encoding=UTF-16
*.16le text working-tree-encoding=UTF-16LE eol=crlf
*.16be text working-tree-encoding=utf-16be
*.16lebom text working-tree-encoding=UTF-16LE-BOM eol=crlf ident
*.32 working-tree-encoding=UTF-32
*.koi8 working-tree-encoding=KOI8-R
*.latin1 working-tree-encoding=ISO-8859-1
*.same working-tree-encoding=UTF-8
*.cp1252 working-tree-encoding=CP1252
*.15 working-tree-encoding=iso-8859-15
*.ascii working-tree-encoding=US-ASCII
deep/** -ident
deep/**/again.id ident
*.valued ident=yes
*.subst export-subst export-ignore
*.typo text eol=crlf tex/t
*.both-auto text=auto ident
*.both-encoded ident working-tree-encoding=UTF-16LE-BOM
Case text eol=crlf
# crlf, in a comment
  indented text eol=crlf \r
*.negative eol=crlf
!no.negative eol=lf
";

/// What git does to these depends on whether it sees a file whole.
const IDS: &str = "$$Id$ $I$Id$ $Idx$Id: z $\n$Id: a\tb $ $Id:a b $ $Id: \u{e9}$ $Id:$ $Id";

const TEXT: &str = "first $Id$\nsecond \u{e9} $Id: old $\r\nthird $Id: foo,v 1 $\n";

/// One file for each trick that a checkout may play on bytes and names.
pub(crate) fn awkward(repository: &Repository) -> String {
    let unix = b"one\ntwo\n".as_slice();
    let mixed = b"one\r\ntwo\nthree\rfour\n".as_slice();
    let zero = b"one\n\0two\n".as_slice();
    let long = noise(1, 300_000);
    let mut big_text = String::new();
    for line in 0..20_000 {
        big_text.push_str(&format!("line {line} $Id$\n"));
    }
    let nested: Vec<_> = (0..200).map(|_| "n/").collect();
    let nested = format!("{}file.crlf", nested.concat());
    let mut files = vec![
        file(&nested, unix),
        file("ids.valued", IDS.as_bytes()),
        file("ids.id", IDS.as_bytes()),
        file("ids.both", IDS.as_bytes()),
        file("ids.both-auto", IDS.as_bytes()),
        file("ids.both-encoded", IDS.as_bytes()),
        file("a.subst", b"$Format:%H$ $Id$\n"),
        file("a.typo", unix),
        file("indented", unix),
        file("Case", unix),
        file("case", unix),
        file("CASE/case", unix),
        file("no.negative", unix),
        file(
            "marked/.gitattributes",
            b"\xef\xbb\xbfa eol=crlf\nb eol=crlf\n",
        ),
        file("marked/a", unix),
        file("marked/b", unix),
        file(".gitattributes", ATTRIBUTES),
        file(
            ".gitmodules",
            b"[submodule \"x\"]\n\tpath = module\n\turl = ../x\n",
        ),
        file(".gitignore", b"ignored.txt\n"),
        file("ignored.txt", unix),
        file("empty", b""),
        file("empty.16", b""),
        file("oldcrlf", unix),
        file("oldinput", unix),
        file("only-eol", unix),
        file("anchored", unix),
        file("sub/anchored", unix),
        file("quoted \"name", unix),
        file("text.lfs", b"version https://git-lfs.github.com/spec/v1\n"),
        file("invalid.16", b"\xff\xfe no UTF-8\n"),
        file("euro.latin1", "\u{20ac}\n".as_bytes()),
        file("\u{436}.koi8", "\u{416}\u{436}\n".as_bytes()),
        file("euro.cp1252", "\u{20ac}\n".as_bytes()),
        file("gap.cp1252", "\u{81}\n".as_bytes()),
        file("euro.15", "\u{20ac}\n".as_bytes()),
        file("zh.15", "\u{416}\n".as_bytes()),
        file("emoji.16", "\u{1f600}\n".as_bytes()),
        file("long", &long),
        file("big.both", big_text.as_bytes()),
        // Of these names git sorts the directory last, and NAR first.
        file("name/below", unix),
        file("name.txt", unix),
        file("name-", unix),
        file("name0", unix),
        file("-dash", unix),
        file("back\\slash", unix),
        file("line\nbreak", unix),
        file("tr\u{e4}ne", unix),
        file("CON", unix),
        file("deep/er/still/x.id", TEXT.as_bytes()),
        file("deep/er/again.id", TEXT.as_bytes()),
        file(
            "sub/.gitattributes",
            b"*.crlf -text\n[attr]mine -text\n*.lf !text eol=crlf\n*.id !ident\n",
        ),
        file("sub/not-macro.mine", unix),
        file("sub/.gitattributes.d/x.crlf", unix),
    ];
    let contents: [(&str, &[u8]); 4] = [
        ("unix", unix),
        ("mixed", mixed),
        ("zero", zero),
        ("ident", TEXT.as_bytes()),
    ];
    let kinds = [
        "txt", "crlf", "lf", "auto", "autocrlf", "id", "both", "bin", "mine", "16", "16le", "16be",
        "16lebom", "32", "latin1", "same", "cp1252", "15", "ascii",
    ];
    let paths: Vec<(String, &[u8])> = kinds
        .iter()
        .flat_map(|kind| {
            contents.iter().flat_map(move |(name, content)| {
                ["", "sub/"].map(|folder| (format!("{folder}{name}.{kind}"), *content))
            })
        })
        .collect();
    files.extend(paths.iter().map(|(path, content)| file(path, content)));
    let with_mode = |path, mode, content| File {
        path,
        mode,
        content,
    };
    files.extend([
        with_mode("run.crlf", "100755", unix),
        with_mode("bin/run", "100755", b"#!/bin/sh\n".as_slice()),
        with_mode("link", "120000", b"name/below"),
        with_mode("dangling", "120000", b"../../no/where"),
        with_mode("absolute.crlf", "120000", b"/etc/passwd"),
        with_mode(
            "module",
            "160000",
            b"0123456789abcdef0123456789abcdef01234567",
        ),
        with_mode(
            "deep/module",
            "160000",
            b"0123456789abcdef0123456789abcdef01234567",
        ),
    ]);
    // A few revisions before it, so that there are deltas.
    for revision in 0..4 {
        let changed = big_text.replace("line 7", &format!("revision {revision}"));
        let before = [
            file(".gitattributes", b""),
            file("big.both", changed.as_bytes()),
        ];
        repository.commit("main", &before);
    }
    repository.commit("main", &files)
}

fn fetch(env: &TestEnv, media: &Path, revision: &str, hash: &str, exit: i32) -> Report {
    let output = env.out("out");
    if output.exists() {
        fs_err::remove_dir_all(&output).unwrap();
    }
    env.fetch_hash(hash)
        .args(["--offline", "--git", URL, "--rev", revision])
        .args(["--output", "out"])
        .arg("--media")
        .arg(media)
        .json(exit)
}

/// Fetches by NAR hash and sees that Nix finds the same below the output.
#[track_caller]
fn fetch_nar(env: &TestEnv, media: &Path, revision: &str, hash: &str) -> Report {
    let report = fetch(env, media, revision, hash, 0);
    assert_eq!(report.kind(), "directories");
    assert_eq!(nar_of(&env.out("out")), hash);
    report
}

#[test]
fn a_checkout_is_that_of_a_fresh_clone_by_git() {
    if lacks("a_checkout_is_that_of_a_fresh_clone_by_git", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "media/awkward.git");
    let commit = awkward(&bare);
    let hash = bare.nar_of_clone(&env, &commit);
    let media = env.path("media");

    let report = fetch_nar(&env, &media, &commit, &hash);
    assert_eq!(report.location(), bare.path().to_str().unwrap());
    assert!(env.out("out/module").is_dir());
    assert_eq!(names_in(&env.path("out")), ["out"]);
    // The medium may be the repository itself.
    let report = fetch_nar(&env, bare.path(), &commit, &hash);
    assert_eq!(report.location(), bare.path().to_str().unwrap());

    // Packed with deltas, as offsets and as ids, with and without what else git keeps there.
    bare.git(&["repack", "-adfq", "--depth=50", "--window=50"]);
    fetch_nar(&env, &media, &commit, &hash);
    bare.git(&["-c", "repack.useDeltaBaseOffset=false", "repack", "-adfq"]);
    fetch_nar(&env, &media, &commit, &hash);
    bare.git(&["multi-pack-index", "write"]);
    bare.git(&["commit-graph", "write", "--reachable"]);
    bare.git(&["pack-refs", "--all"]);
    fetch_nar(&env, &media, "main", &hash);
}

#[test]
fn revisions_are_found_however_they_are_recorded() {
    if lacks("revisions_are_found_however_they_are_recorded", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "origin/some.git");
    let old = bare.commit("main", &[file("a", b"old")]);
    bare.git(&["tag", "v1", &old]);
    bare.git(&["tag", "-a", "-m", "x", "v1-annotated", &old]);
    bare.git(&["tag", "-a", "-m", "x", "v1-twice", "v1-annotated"]);
    let new = bare.commit("main", &[file("a", b"new"), file("b/c", b"")]);
    bare.commit("side/way", &[file("a", b"side")]);
    // What would be used is explained without being read.
    let explained = env
        .fetch(["explain", &crate::support::sri(b"x"), "--no-store"])
        .args(["--git", URL, "--rev", "v1", "--media"])
        .arg(env.path("origin"))
        .go()
        .exits(0);
    assert!(explained.stdout.contains("directories found"));
    // A name may be both; git prefers the tag, and the hash decides.
    bare.git(&["tag", "side/way", &old]);
    let hash = |revision: &str| bare.nar_of_clone(&env, revision);
    let (old_hash, new_hash, side_hash) = (hash(&old), hash(&new), hash("origin/side/way"));

    let origin = env.path("origin");
    for packed in [false, true] {
        if packed {
            bare.git(&["pack-refs", "--all"]);
        }
        let old_names = ["v1", "refs/tags/v1", "v1-annotated", "v1-twice", "side/way"];
        for name in old_names.into_iter().chain([old.as_str()]) {
            fetch_nar(&env, &origin, name, &old_hash);
        }
        for name in ["main", "HEAD", "refs/heads/main", &new, &new.to_uppercase()] {
            fetch_nar(&env, &origin, name, &new_hash);
        }
        let report = fetch_nar(&env, &origin, "side/way", &side_hash);
        report.tried("directories", "mismatch", "some.git");
    }

    // A work tree; its branches are those of the remote.
    fs_err::create_dir_all(env.path("clones")).unwrap();
    let clones = Repository::at(&env, "clones");
    clones.git(&["clone", "-q", bare.path().to_str().unwrap(), "deep/er/work"]);
    let clones = env.path("clones");
    let report = fetch_nar(&env, &clones, "side/way", &side_hash);
    assert!(report.location().ends_with("clones/deep/er/work/.git"));
    // A work tree linked to it, whose file .git names a folder in the first.
    let work = Repository::at(&env, "clones/deep/er/work");
    work.git(&["worktree", "add", "-q", "../linked", &old]);
    let linked = Repository::at(&env, "clones/deep/er/linked");
    linked.git(&["config", "gc.auto", "0"]);
    for folder in ["clones", "clones/deep/er"] {
        fetch_nar(&env, &env.path(folder), &old, &old_hash);
    }
    // Alone, it leads out of what was named.
    let report = fetch(&env, linked.path(), &old, &old_hash, 3);
    report.tried("directories", "unavailable", "linked");

    let missing = "0123456789abcdef0123456789abcdef01234567";
    for revision in [missing, "no-such", "refs/heads", &new[..8]] {
        let report = fetch(&env, &origin, revision, &old_hash, 3);
        report.tried("directories", "absent", "origin");
    }
}

#[test]
fn a_tree_is_found_by_its_id() {
    if lacks("a_tree_is_found_by_its_id", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "media/awkward.git");
    let commit = awkward(&bare);
    let ask = |args: &[&str], exit| {
        let output = env.out("tree");
        if output.exists() {
            fs_err::remove_dir_all(&output).unwrap();
        }
        env.fetch(["--no-store", "--offline", "-o", "tree"])
            .arg("--media")
            .arg(env.path("media"))
            .args(args)
            .go()
            .exits(exit)
    };
    // The blobs as they are, whatever the attributes say.
    let tree = bare.git(&["rev-parse", &format!("{commit}:sub")]);
    ask(&["--mode", "git", "--hash", &tree], 0);
    let output = env.out("tree");
    let written = fs_err::read(output.join("unix.16le")).unwrap();
    assert_eq!(written, b"one\ntwo\n");
    // What lies there has that id, and is not made again.
    env.fetch(["--no-store", "--offline", "-o", "tree"])
        .args(["--mode", "git", "--hash", &tree])
        .go()
        .exits(0);
    ask(&["--hash", &format!("swh:1:dir:{tree}")], 0);

    // With submodules the id speaks for commits that are not there.
    let tree = bare.git(&["rev-parse", &format!("{commit}^{{tree}}")]);
    ask(&["--mode", "git", "--hash", &tree], 0).says("2 submodules are empty directories");
    assert!(output.join("deep/module").is_dir());
    // A request for the commit as well changes nothing.
    ask(
        &[
            "--mode", "git", "--hash", &tree, "--git", URL, "--rev", &commit,
        ],
        0,
    );
    // Only bytes can go to standard output.
    let to_stdout = ["--mode", "git", "--hash", &tree, "-o", "-", "--media"];
    env.fetch(["--no-store", "--offline"])
        .args(to_stdout)
        .arg(env.path("media"))
        .go()
        .exits(7)
        .says("cannot go to standard output");
    // A commit's id is no tree's.
    ask(&["--mode", "git", "--hash", &commit], 3);

    // Git writes no directory for a tree without files; the raw tree has it.
    let blob = bare.object("blob", b"x");
    let empty = bare.tree(&[]);
    let nested = bare.tree(&[("40000", b"a", &empty), ("40000", b"b", &empty)]);
    let tree = bare.tree(&[("100644", b"file", &blob), ("40000", b"nested", &nested)]);
    ask(&["--mode", "git", "--hash", &tree], 0);
    assert!(output.join("nested/a").is_dir());
    let commit = bare.git(&["commit-tree", "-m", "x", &tree]);
    bare.git(&["update-ref", "refs/heads/empty", &commit]);
    let hash = bare.nar_of_clone(&env, &commit);
    fetch_nar(&env, &env.path("media"), &commit, &hash);
    assert_eq!(names_in(&env.out("out")), ["file"]);
}

/// A file system takes any bytes but two, and so does git.
#[test]
fn names_of_any_bytes_are_names() {
    if lacks("names_of_any_bytes_are_names", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "media/bytes.git");
    let (text, attributes) = (
        bare.object("blob", b"a\n"),
        bare.object(
            "blob",
            b"\"\\377\" text eol=crlf\n\"\\001\" text eol=crlf\nb eol=crlf\n",
        ),
    );
    let all: Vec<[u8; 1]> = (1..=255)
        .filter(|byte| !b"./".contains(byte))
        .map(|byte| [byte])
        .collect();
    let mut entries: Vec<_> = all
        .iter()
        .map(|name| ("100644", name.as_slice(), text.as_str()))
        .collect();
    entries.push(("100644", b".gitattributes", &attributes));
    entries.sort_unstable_by_key(|(_, name, _)| *name);
    let folder = bare.tree(&entries);
    let top = bare.tree(&[("40000", b"x\n\xff", &folder), ("120000", b"\xfe", &text)]);
    let commit = bare.git(&["commit-tree", "-m", "x", &top]);
    bare.git(&["update-ref", "refs/heads/main", &commit]);
    let hash = bare.nar_of_clone(&env, &commit);
    fetch_nar(&env, &env.path("media"), &commit, &hash);
}

#[test]
fn names_that_git_refuses_are_refused() {
    if lacks("names_that_git_refuses_are_refused", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "media/hostile.git");
    let blob = bare.object("blob", b"pwned");
    let up = bare.object("blob", b"../..");
    let folder = bare.tree(&[("100644", b"file", &blob)]);
    let mut trees = Vec::new();
    let names: [&[u8]; 19] = [
        b".git",
        b".GIT",
        b".Git",
        b"git~1",
        b"GIT~1",
        b".git ",
        b".git.",
        b".git . .",
        b".git::$INDEX_ALLOCATION",
        b".",
        b"..",
        b"",
        b"a/b",
        b"../../escaped",
        b"/etc/escaped",
        b".g\xe2\x80\x8cit",
        b".gi\xe2\x80\x8dt",
        b"\xef\xbb\xbf.git",
        b".git\xe2\x80\x8e",
    ];
    for name in names {
        trees.push(bare.tree(&[("100644", name, &blob)]));
        trees.push(bare.tree(&[("40000", name, &folder)]));
        trees.push(bare.tree(&[("120000", name, &up)]));
    }
    // A link and a directory of the same name, to write through the link.
    trees.push(bare.tree(&[("120000", b"a", &up), ("40000", b"a", &folder)]));
    trees.push(bare.tree(&[("100644", b"a", &blob), ("100644", b"a", &blob)]));
    trees.push(bare.tree(&[("120000", b".gitmodules", &up)]));
    // Targets that no link can have.
    let empty = bare.object("blob", b"");
    let zero = bare.object("blob", b"a\0b");
    let long = bare.object("blob", &[b'a'; 5000]);
    for target in [&empty, &zero, &long] {
        trees.push(bare.tree(&[("120000", b"a", target)]));
    }
    // Entries that are something else than they say, or nowhere.
    trees.push(bare.tree(&[("40000", b"a", &blob)]));
    trees.push(bare.tree(&[("100644", b"a", &folder)]));
    trees.push(bare.tree(&[("100644", b"a", "0123456789abcdef0123456789abcdef01234567")]));
    trees.push(bare.object("tree", b"100644 cut\0short"));
    trees.push(bare.object("tree", b"no tree at all"));
    for tree in trees {
        let report = env
            .fetch_hash(&tree)
            .args(["--mode", "git", "--offline", "-o", "out", "--media"])
            .arg(env.path("media"))
            .json(3);
        report.tried("directories", "failed", "hostile.git");
        assert_eq!(env.outputs(), Vec::<String>::new());
    }
    let everything = names_in(&env.path("."));
    assert!(!everything.iter().any(|name| name.contains("escaped")));
}

#[test]
fn trees_that_multiply_are_bounded() {
    if lacks("trees_that_multiply_are_bounded", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "media/bomb.git");
    // Ten to the 30th directories without a file, which git would find empty.
    let mut tree = bare.tree(&[]);
    let names: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    for _ in 0..30 {
        let entries: Vec<_> = names
            .iter()
            .map(|name| ("40000", name.as_bytes(), tree.as_str()))
            .collect();
        tree = bare.tree(&entries);
    }
    let commit = bare.git(&["commit-tree", "-m", "x", &tree]);
    let nothing = env.path("tmp/empty");
    fs_err::create_dir(&nothing).unwrap();
    fetch_nar(&env, &env.path("media"), &commit, &nar_of(&nothing));
    // 300 directories deep.
    for _ in 0..300 {
        tree = bare.tree(&[("40000", b"d", &tree)]);
    }
    let report = fetch(&env, &env.path("media"), &tree, &nar_of(&nothing), 3);
    report.tried("directories", "failed", "bomb.git");
}

#[test]
fn nothing_of_the_repository_is_executed_or_believed() {
    let needed = ["git", "nix-hash", "strace"];
    if lacks(
        "nothing_of_the_repository_is_executed_or_believed",
        &needed,
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let bare = Repository::bare(&env, "media/hostile.git");
    let attributes = b"* filter=evil\n*.txt text\n".as_slice();
    let commit = bare.commit(
        "main",
        &[file(".gitattributes", attributes), file("a.txt", b"a\n")],
    );
    let hash = bare.nar_of_clone(&env, &commit);
    let marker = env.path("executed");
    let touch = format!("touch {}", marker.display());
    env.write("include", format!("[core]\n\tfsmonitor = {touch}\n"));
    let include = env.path("include").display().to_string();
    let keys = [
        ("core.fsmonitor", touch.as_str()),
        ("core.sshCommand", &touch),
        ("core.alternateRefsCommand", &touch),
        ("core.attributesFile", "/dev/stdin"),
        ("core.autocrlf", "true"),
        ("core.eol", "crlf"),
        ("filter.evil.smudge", &touch),
        ("filter.evil.process", &touch),
        ("filter.evil.required", "true"),
        ("include.path", &include),
        ("extensions.partialClone", "evil"),
        ("remote.evil.url", &format!("ext::{touch}")),
        ("remote.evil.promisor", "true"),
    ];
    for (key, value) in keys {
        bare.git(&["config", key, value]);
    }
    for hook in [
        "post-checkout",
        "post-index-change",
        "reference-transaction",
    ] {
        let hook = env.write(
            format!("media/hostile.git/hooks/{hook}"),
            format!("#!/bin/sh\n{touch}\n"),
        );
        fs_err::set_permissions(hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    env.write("media/hostile.git/info/attributes", "*.txt eol=crlf\n");
    // Nor does a configuration that cannot be read keep anybody from the objects.
    let log = env.path("trace");
    for broken in [false, true] {
        if broken {
            env.write("media/hostile.git/config", "[core\n");
        }
        env.fetch_hash(&hash)
            .args(["--git", URL, "--rev", &commit, "-o", "out", "--media"])
            .arg(env.path("media"))
            .traced(&log)
            .go()
            .exits(0);
        assert_eq!(nar_of(&env.out("out")), hash);
        fs_err::remove_dir_all(env.out("out")).unwrap();
        let trace = fs_err::read_to_string(&log).unwrap();
        assert!(!trace.contains("socket("), "{trace}");
    }
    assert!(!marker.exists());
}

#[test]
fn repositories_lead_nowhere_but_to_named_folders() {
    if lacks("repositories_lead_nowhere_but_to_named_folders", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let secret = Repository::bare(&env, "secret/objects.git");
    let commit = secret.commit("main", &[file("a", b"a\n")]);
    let hash = secret.nar_of_clone(&env, &commit);
    let borrower = Repository::bare(&env, "media/borrower.git");
    let objects = secret.path().join("objects");
    for line in [
        objects.to_str().unwrap(),
        "../../../secret/objects.git/objects",
    ] {
        env.write(
            "media/borrower.git/objects/info/alternates",
            format!("# x\n{line}\n"),
        );
        assert_eq!(
            borrower.git(&["cat-file", "-t", &commit]),
            "commit",
            "git itself follows it"
        );
        let report = fetch(&env, &env.path("media"), &commit, &hash, 3);
        report.tried("directories", "unavailable", "media");
        // Named as well, it may be used.
        let named = env
            .fetch_hash(&hash)
            .args([
                "--offline",
                "--git",
                URL,
                "--rev",
                &commit,
                "-o",
                "out",
                "--media",
            ])
            .arg(env.path("media"))
            .arg("--media")
            .arg(env.path("secret"))
            .json(0);
        assert!(named.location().ends_with("borrower.git"));
        fs_err::remove_dir_all(env.out("out")).unwrap();
        // As it may within the same folder.
        fetch_nar(&env, &env.path("."), &commit, &hash);
    }
    fs_err::remove_file(env.path("media/borrower.git/objects/info/alternates")).unwrap();

    // Symbolic links lead out no better, nor does a file .git.
    let real = borrower.path().join("objects");
    fs_err::remove_dir_all(&real).unwrap();
    symlink(&objects, &real).unwrap();
    env.write("media/work/.git", "gitdir: ../../secret/objects.git\n");
    fs_err::create_dir_all(env.path("media/linked/objects")).unwrap();
    fs_err::create_dir_all(env.path("media/linked/refs")).unwrap();
    env.write("media/linked/HEAD", "ref: refs/heads/main\n");
    env.write("media/linked/commondir", "../../secret/objects.git\n");
    fetch(&env, &env.path("media"), &commit, &hash, 3);
    // Pipes in the place of files block nobody.
    let fifos = Repository::bare(&env, "pipes/fifos.git");
    let (first, rest) = commit.split_at(2);
    fs_err::create_dir_all(fifos.path().join("objects").join(first)).unwrap();
    for path in [
        format!("objects/{first}/{rest}"),
        "objects/info/alternates".into(),
        "objects/pack/pack-x.idx".into(),
        "packed-refs".into(),
        "refs/heads/main".into(),
    ] {
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, fifos.path().join(path), fifo, mode, 0).unwrap();
    }
    for revision in [commit.as_str(), "main"] {
        fetch(&env, &env.path("pipes"), revision, &hash, 3);
    }
}

#[test]
fn a_damaged_repository_costs_one_candidate() {
    if lacks("a_damaged_repository_costs_one_candidate", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let good = Repository::bare(&env, "media/z-good.git");
    let big = noise(3, 200_000);
    let commit = good.commit("main", &[file("a", b"a\n"), file("big", &big)]);
    let hash = good.nar_of_clone(&env, &commit);
    good.git(&["repack", "-adfq"]);
    let copy = |name: &str| {
        let path = format!("media/{name}");
        let url = good.path().to_str().unwrap();
        good.git(&[
            "clone",
            "-q",
            "--bare",
            "--no-local",
            url,
            env.path(&path).to_str().unwrap(),
        ]);
        Repository::at(&env, &path)
    };
    let pack_of = |repository: &Repository, suffix: &str| {
        let folder = repository.path().join("objects/pack");
        let name = names_in(&folder)
            .into_iter()
            .find(|name| name.ends_with(suffix))
            .unwrap();
        folder.join(name)
    };
    let change = |path: &Path, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs_err::read(path).unwrap();
        edit(&mut bytes);
        fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
        fs_err::write(path, bytes).unwrap();
    };
    // In the middle lies the big file: the commit is found, and the checkout fails.
    let damaged = copy("a-middle.git");
    change(&pack_of(&damaged, ".pack"), &|bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
    });
    let report = fetch_nar(&env, &env.path("media"), &commit, &hash);
    report.tried("directories", "failed", "a-middle.git");
    report.tried("directories", "ok", "z-good.git");
    fs_err::remove_dir_all(damaged.path()).unwrap();

    // Cut at any place, emptied, or filled with nonsense, packs and indexes are errors at worst.
    for suffix in [".pack", ".idx"] {
        for percent in [0, 1, 10, 50, 90, 99] {
            let damaged = copy("b-cut.git");
            change(&pack_of(&damaged, suffix), &|bytes| {
                bytes.truncate(bytes.len() * percent / 100);
            });
            fetch_nar(&env, &env.path("media"), &commit, &hash);
            fs_err::remove_dir_all(damaged.path()).unwrap();
        }
        let damaged = copy("b-nonsense.git");
        change(&pack_of(&damaged, suffix), &|bytes| {
            let len = bytes.len();
            bytes[12..].copy_from_slice(&noise(5, len - 12));
        });
        fetch_nar(&env, &env.path("media"), &commit, &hash);
        fs_err::remove_dir_all(damaged.path()).unwrap();
    }

    // A good loose copy stands in for a bad packed one.
    let repaired = copy("only/c-repaired.git");
    let other = Repository::bare(&env, "tmp/other.git");
    let blob = other.object("blob", &big);
    let path = Path::new("objects").join(&blob[..2]).join(&blob[2..]);
    let loose = repaired.path().join(&path);
    fs_err::create_dir_all(loose.parent().unwrap()).unwrap();
    fs_err::copy(other.path().join(&path), &loose).unwrap();
    change(&pack_of(&repaired, ".pack"), &|bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
    });
    fetch_nar(&env, &env.path("media/only"), &commit, &hash);
    // A loose object cut short is noticed.
    change(&loose, &|bytes| bytes.truncate(bytes.len() / 2));
    let report = fetch(&env, &env.path("media/only"), &commit, &hash, 3);
    report.tried("directories", "failed", "c-repaired.git");
}

#[test]
fn what_cannot_be_asked_is_said() {
    if lacks("what_cannot_be_asked_is_said", GIT, false) {
        return;
    }
    let env = TestEnv::new();
    let hash = crate::support::sri(b"x");
    let refused = |args: &[&str], words: &str| {
        env.fetch_hash(&hash).args(args).go().exits(2).says(words);
    };
    refused(&["--git", URL], "--git needs --rev");
    refused(&["--rev", "main"], "--rev is of no use without --git");
    refused(&["--submodules"], "--submodules is of no use without --git");
    refused(
        &["--git", URL, "--rev", "--upload-pack=touch x"],
        "it begins with '-'",
    );
    refused(
        &["--git", URL, "--rev", "a..b"],
        "--rev 'a..b' cannot be used",
    );
    refused(
        &["--git", URL, "--rev", "main", "--mode", "flat"],
        "no flat hash",
    );
    refused(
        &["--git", URL, "--rev", "main", "https://example.org/x"],
        "exclude each other",
    );
    refused(&["--git", "/a/path", "--rev", "main"], "--media");
    let report = env
        .fetch_hash(&hash)
        .args(["--git", URL, "--rev", "main", "--offline"])
        .json(3);
    report.tried("git", "skipped", "git.example.org");
    assert!(
        report.object["output"]
            .as_str()
            .unwrap()
            .ends_with("/awkward")
    );
    let report = env
        .fetch_hash(&hash)
        .args([
            "--git",
            "git@example.org:some/short.git",
            "--rev",
            "main",
            "--offline",
        ])
        .json(3);
    report.tried("git", "skipped", "ssh://example.org/some/short.git");
    // The environment does as well.
    let bare = Repository::bare(&env, "media/some.git");
    let commit = bare.commit("main", &[file("a", b"a")]);
    env.fetch_hash(bare.nar_of_clone(&env, &commit))
        .variable("FETCH_GIT", URL)
        .variable("FETCH_REV", "main")
        .variable("FETCH_MEDIA", env.path("media"))
        .go()
        .exits(0);
    assert_eq!(env.outputs(), ["awkward"]);
}
