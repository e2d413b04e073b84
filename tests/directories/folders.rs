//! Checkouts and other directories in folders and on media, found through the links of an index.

use super::*;

/// The git id of a directory with nothing in it.
const EMPTY_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

#[test]
fn ids_of_checkouts_and_all_their_directories_are_those_of_git() {
    if lacks(
        "ids_of_checkouts_and_all_their_directories_are_those_of_git",
        &["git"],
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let repository = fill(&env, "sources/repository");
    let id = commit_all(&repository);
    let ids = tree_ids(&repository);
    let (sources, index) = (env.path("sources"), env.path("index"));
    update(&env, &sources, &index, "git");
    let linked = links(&index, "git-sha1");
    assert_eq!(linked[&id], repository);
    assert!(ids.len() >= 4, "{ids:?}");
    for (path, id) in &ids {
        assert_eq!(&linked[id], &repository.join(path));
    }
    for hash in [id.clone(), format!("swh:1:dir:{id}")] {
        let output = hash.replace(':', "_");
        let report = env
            .fetch_hash(&hash)
            .git()
            .in_medium(&sources)
            .with_index(&index)
            .to(&output)
            .json(0);
        assert_eq!(report.kind(), "directories");
        assert_eq!(report.location(), repository.to_str().unwrap());
        assert_eq!(content(&env.out(&output)), content(&repository));
        assert!(!env.out(&output).join(".git").exists());
    }
    assert_eq!(checks(&env, &index, 0), "");
    // A change makes new ids from bottom to top, and the old ones go.
    env.write("sources/repository/deep/er/data", "changed\n");
    allow(&repository.join("a/x"), 0o755);
    update(&env, &sources, &index, "git");
    let changed = commit_all(&repository);
    let linked = links(&index, "git-sha1");
    assert!(linked.contains_key(&changed) && !linked.contains_key(&id));
    for id in tree_ids(&repository).values() {
        assert!(linked.contains_key(id), "{id}");
    }
    // The repository still has the old tree, and would be asked next.
    fs_err::rename(repository.join(".git"), env.path("git")).unwrap();
    env.fetch_hash(&id)
        .git()
        .in_medium(&sources)
        .with_index(&index)
        .to("gone")
        .json(3);
}

#[test]
fn random_trees_have_the_ids_that_git_gives_them() {
    if lacks(
        "random_trees_have_the_ids_that_git_gives_them",
        &["git"],
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let mut wanted = Vec::new();
    for seed in 0..12 {
        let tree = env.path(format!("trees/{seed}"));
        fs_err::create_dir_all(&tree).unwrap();
        grow(&tree, &mut noise(seed, 4_000).into_iter(), 0);
        wanted.push((commit_all(&tree), tree_ids(&tree), tree));
    }
    let index = env.path("index");
    update(&env, &env.path("trees"), &index, "git,nar");
    let linked = links(&index, "git-sha1");
    for (id, ids, tree) in wanted {
        assert!(linked.contains_key(&id), "{}", tree.display());
        for (path, id) in ids {
            assert!(linked.contains_key(&id), "{}/{path}", tree.display());
        }
    }
    assert_eq!(checks(&env, &index, 0), "");
}

/// Fills a directory as the bytes say.
fn grow(dir: &Path, bytes: &mut impl Iterator<Item = u8>, depth: usize) {
    const NAMES: [&[u8]; 10] = [
        b"a",
        b"a.b",
        b"a0",
        b"a-",
        b"A",
        b"\xff\xfe",
        b"\n",
        b" ",
        b"-rf",
        "ü".as_bytes(),
    ];
    let next = |bytes: &mut dyn Iterator<Item = u8>| bytes.next().unwrap_or(0);
    let entries = 1 + usize::from(next(bytes)) % 6;
    for _ in 0..entries {
        let name = NAMES[usize::from(next(bytes)) % NAMES.len()];
        let (what, len) = (next(bytes), next(bytes));
        let path = dir.join(std::ffi::OsStr::from_bytes(name));
        if fs_err::symlink_metadata(&path).is_ok() {
            continue;
        }
        match what % 8 {
            0 => symlink("target", &path).unwrap(),
            1 | 2 if depth < 5 => {
                fs_err::create_dir(&path).unwrap();
                // Git cannot keep an empty one.
                fs_err::write(path.join("z"), [len]).unwrap();
                grow(&path, bytes, depth + 1);
            }
            _ => {
                fs_err::write(&path, vec![what; usize::from(len)]).unwrap();
                allow(&path, if what & 0x80 == 0 { 0o644 } else { 0o755 });
            }
        }
    }
}

#[test]
fn nar_hashes_are_those_of_nix_without_any_git_directory() {
    if lacks(
        "nar_hashes_are_those_of_nix_without_any_git_directory",
        NIX,
        false,
    ) {
        return;
    }
    let env = TestEnv::new();
    let nix = NixStore::new(&env);
    let unpacked = fill(&env, "shelf/unpacked-1.0");
    let nested = fill(&env, "shelf/group/projects/checkout");
    env.write("shelf/group/projects/checkout/only-here", "x\n");
    let outside = nix.nar_hash(&env.path("shelf/group"));
    let (whole, inner) = (nix.nar_hash(&unpacked), nix.nar_hash(&nested));
    env.write(
        "shelf/group/projects/checkout/.git/HEAD",
        "ref: refs/heads/main\n",
    );
    // As a submodule has it.
    env.write(
        "shelf/group/projects/checkout/deep/.git",
        "gitdir: ../.git/modules/deep\n",
    );
    let (shelf, index) = (env.path("shelf"), env.path("index"));
    update(&env, &shelf, &index, "nar");
    for (hash, place) in [
        (&whole, &unpacked),
        (&inner, &nested),
        (&outside, &env.path("shelf/group")),
    ] {
        let output = place.file_name().unwrap().to_str().unwrap();
        let report = env
            .fetch_hash(hash)
            .nar()
            .in_medium(&shelf)
            .with_index(&index)
            .to(output)
            .json(0);
        assert_eq!(
            (report.kind(), report.location()),
            ("directories", place.to_str().unwrap())
        );
        assert_eq!(&nix.nar_hash(&env.out(output)), hash);
    }
    // The directory of the submodule is a checkout too; nothing else below is.
    assert_eq!(links(&index, "nar-sha256").len(), 4);
    assert_eq!(checks(&env, &index, 0), "");
}

#[test]
fn an_unchanged_tree_is_not_read_again_and_a_rebuild_believes_nothing() {
    let env = TestEnv::new();
    let tree = fill(&env, "shelf/tree");
    let data = tree.join("deep/er/data");
    let (shelf, index) = (env.path("shelf"), env.path("index"));
    update(&env, &shelf, &index, "nar");
    let before = links(&index, "nar-sha256");
    // Other bytes behind the same size, time and inode: only who reads them can know.
    let modified = fs_err::metadata(&data).unwrap().modified().unwrap();
    let file = fs_err::OpenOptions::new().write(true).open(&data).unwrap();
    std::os::unix::fs::FileExt::write_all_at(file.file(), b"changed", 0).unwrap();
    file.file().set_modified(modified).unwrap();
    update(&env, &shelf, &index, "nar");
    assert_eq!(links(&index, "nar-sha256"), before);
    assert!(checks(&env, &index, 1).contains("has the digest"));
    env.store_index(["update", "--rebuild", "--algorithms", "nar", "--index"])
        .arg(&index)
        .arg(&shelf)
        .go()
        .exits(0);
    assert_ne!(links(&index, "nar-sha256"), before);
    assert_eq!(checks(&env, &index, 0), "");
    // Everything else that a tree consists of is noticed.
    let mut seen = links(&index, "nar-sha256");
    let changes: [&dyn Fn(); 4] = [
        &|| allow(&tree.join("a0"), 0o755),
        &|| fs_err::create_dir(tree.join("new")).unwrap(),
        &|| fs_err::rename(tree.join("a.b"), tree.join("a.c")).unwrap(),
        &|| {
            fs_err::remove_file(tree.join("out")).unwrap();
            symlink("elsewhere", tree.join("out")).unwrap();
        },
    ];
    for change in changes {
        change();
        update(&env, &shelf, &index, "nar");
        let now = links(&index, "nar-sha256");
        assert_ne!(now, seen);
        assert_eq!(checks(&env, &index, 0), "");
        seen = now;
    }
}

#[test]
fn links_on_a_medium_go_where_it_goes() {
    if lacks("links_on_a_medium_go_where_it_goes", &["git"], false) {
        return;
    }
    let env = TestEnv::new();
    let repository = fill(&env, "disc/repository");
    let id = commit_all(&repository);
    fs_err::create_dir(env.path("disc/nothing")).unwrap();
    env.store_index(["update", "--in-place", "--algorithms", "git,nar"])
        .arg(env.path("disc"))
        .go()
        .exits(0);
    let moved = env.path("mnt/elsewhere");
    fs_err::create_dir(env.path("mnt")).unwrap();
    fs_err::rename(env.path("disc"), &moved).unwrap();
    let index = moved.join(".store-index");
    // Any tool can follow them.
    let link = index.join("dirlinks/git-sha1").join(&id);
    assert_eq!(
        fs_err::read_link(&link).unwrap(),
        Path::new("../../../repository")
    );
    assert_eq!(fs_err::read(link.join("a/x")).unwrap(), b"x\n");
    let report = env
        .fetch_hash(&id)
        .git()
        .in_medium(&moved)
        .to("tree")
        .json(0);
    assert_eq!(
        report.location(),
        moved.join("repository").to_str().unwrap()
    );
    let report = env
        .fetch_hash(EMPTY_TREE)
        .git()
        .in_medium(&moved)
        .to("empty")
        .json(0);
    assert_eq!(report.location(), moved.join("nothing").to_str().unwrap());
    assert_eq!(names_in(&env.out("empty")), [""; 0]);
    assert_eq!(checks(&env, &index, 0), "");
    // The whole medium is a tree too, without the index on it.
    let root = links(&index, "git-sha1")
        .into_iter()
        .find(|(_, target)| target == Path::new("../../.."));
    let report = env
        .fetch_hash(root.unwrap().0)
        .git()
        .in_medium(&moved)
        .to("root")
        .json(0);
    assert_eq!(report.location(), moved.to_str().unwrap());
    assert!(!env.out("root/.store-index").exists() && env.out("root/repository/a/x").exists());
}

#[test]
fn equal_trees_have_one_link_to_the_first() {
    if lacks("equal_trees_have_one_link_to_the_first", &["git"], false) {
        return;
    }
    let env = TestEnv::new();
    for name in ["b/2", "a.b", "a/z", "c"] {
        fill(&env, &format!("disc/{name}"));
    }
    let id = commit_all(&env.path("disc/c"));
    let index = env.path("index");
    update(&env, &env.path("disc"), &index, "git");
    // In the order of a walk, where a directory's own entries come first.
    assert_eq!(links(&index, "git-sha1")[&id], env.path("disc/a/z"));
    fs_err::remove_dir_all(env.path("disc/a")).unwrap();
    update(&env, &env.path("disc"), &index, "git");
    assert_eq!(links(&index, "git-sha1")[&id], env.path("disc/a.b"));
    assert_eq!(checks(&env, &index, 0), "");
}
