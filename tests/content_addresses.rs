//! Our digests, text forms, NAR bytes, git ids and store paths, against Nix and git themselves.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use store_index::address::{ContentAddress, FileHasher, Framing, Method};
use store_index::beneath::Beneath;
use store_index::digest::{Algorithm, Digest};
use store_index::git_tree::GitHasher;
use store_index::hash_text::{Base, HashForm, parse};
use store_index::nar::Encoder;
use store_index::store_path::{FixedOutput, ItemName};
use store_index::tree::{self, Visitor};
use store_index::watch::{NoProgress, Watch};

use crate::support::nix::{NIX, NixStore};
use crate::support::{TestEnv, digest, lacks, noise};

/// The algorithms that Debian's Nix knows: blake3 came to Nix later.
const NIX_ALGORITHMS: [Algorithm; 4] = [
    Algorithm::Md5,
    Algorithm::Sha1,
    Algorithm::Sha256,
    Algorithm::Sha512,
];

/// Lengths around every block and padding boundary of the hashes and of a NAR.
const LENGTHS: [usize; 12] = [0, 1, 7, 8, 9, 55, 56, 64, 111, 112, 128, 70_000];

fn base_name(store: &str, method: Method, digest: Digest, name: &str) -> String {
    let address = ContentAddress::new(method, digest).unwrap();
    FixedOutput::new(store, &address).base_name(&ItemName::new(name).unwrap())
}

fn framed(framing: Framing, algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = FileHasher::new(framing, algorithm, bytes.len().try_into().unwrap());
    hasher.update(bytes);
    hasher.finish().unwrap()
}

fn visit(path: &Path, visitor: &mut dyn Visitor) {
    let interrupt = AtomicBool::new(false);
    let watch = Watch {
        interrupt: &interrupt,
        progress: &NoProgress,
    };
    let folder = Beneath::open(path.parent().unwrap()).unwrap();
    let node = folder
        .open_node(Path::new(path.file_name().unwrap()))
        .unwrap();
    tree::walk(node, visitor, watch).unwrap();
}

/// `hello\n` as `hello.txt` in /nix/store, as Nix 2.8 gave it for each method and algorithm.
#[test]
fn the_known_paths_of_hello() {
    let hello = b"hello\n";
    let known = [
        (
            Algorithm::Sha256,
            "gy454w1cxaq731grqwylhzf4pp9r5izh",
            "i9pmrzmpshapij2kin22pff6fc2adavx",
        ),
        (
            Algorithm::Sha1,
            "svdva85yi507g9vncgsaxvnd1r808h4w",
            "hzq8n5jpi3g2d0xhlvqd8q1gx5c9s6i3",
        ),
        (
            Algorithm::Md5,
            "dra1cz5vbrhclpv4y1q0psnbkxz581bk",
            "l2ycihp9r6lnfifs72r40m62fwicg5iz",
        ),
        (
            Algorithm::Sha512,
            "9a8mxachqmcv8x2cfijdps9dyxgyyrzm",
            "8xkszhbayigjg9vbrrxfa1hp9qflbh6b",
        ),
    ];
    for (algorithm, flat, recursive) in known {
        assert_eq!(
            base_name(
                "/nix/store",
                Method::Flat,
                framed(Framing::Flat, algorithm, hello),
                "hello.txt"
            ),
            format!("{flat}-hello.txt")
        );
        assert_eq!(
            base_name(
                "/nix/store",
                Method::Nar,
                framed(Framing::NarPlain, algorithm, hello),
                "hello.txt"
            ),
            format!("{recursive}-hello.txt")
        );
    }
}

/// Every method, every algorithm Nix has, names at the edges of what is allowed, another store.
#[test]
fn paths_agree_with_nix() {
    if lacks("paths_agree_with_nix", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let longest = "n".repeat(211);
    let names = ["hello-2.10.tar.gz", "a", "0", "+-._?=Zz9", &longest];
    for (seed, name) in names.into_iter().enumerate() {
        let bytes = noise(seed as u64, 100 + seed);
        for algorithm in NIX_ALGORITHMS {
            let digest = digest(algorithm, &bytes);
            for (method, flag) in [(Method::Flat, None), (Method::Nar, Some("--recursive"))] {
                let hex = digest.to_hex();
                let mut args = vec!["--print-fixed-path"];
                args.extend(flag);
                args.extend([algorithm.name(), &hex, name]);
                let dir = store.dir();
                let dir = dir.to_str().unwrap();
                assert_eq!(
                    format!("{dir}/{}", base_name(dir, method, digest, name)),
                    store.nix("nix-store", &args),
                    "{method} {algorithm} {name}"
                );
            }
        }
    }
}

/// What we refuse as a name, Nix refuses.
#[test]
fn names_agree_with_nix() {
    if lacks("names_agree_with_nix", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let hex = digest(Algorithm::Sha256, b"").to_hex();
    let too_long = "n".repeat(212);
    for bad in ["a/b", "a b", "", &too_long, "a~", "ä", "a\\b", "a@b"] {
        assert!(ItemName::new(bad).is_err(), "{bad:?}");
        let (works, _) = store.try_nix("nix-store", &["--print-fixed-path", "sha256", &hex, bad]);
        assert!(!works, "Nix takes {bad:?}");
    }
}

/// Digests of files flat and as NAR, and every base Nix can print them in, there and back.
#[test]
fn digests_and_their_text_agree_with_nix() {
    if lacks("digests_and_their_text_agree_with_nix", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let contents: Vec<_> = LENGTHS
        .iter()
        .enumerate()
        .map(|(seed, &len)| noise(seed as u64, len))
        .collect();
    let files: Vec<String> = contents
        .iter()
        .enumerate()
        .map(|(number, bytes)| {
            env.write(format!("{number}"), bytes)
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let nix = |args: &[&str], more: &[String]| -> Vec<String> {
        let words: Vec<&str> = args[1..]
            .iter()
            .copied()
            .chain(more.iter().map(String::as_str))
            .collect();
        store
            .nix(args[0], &words)
            .lines()
            .map(str::to_owned)
            .collect()
    };
    for algorithm in NIX_ALGORITHMS {
        let name = algorithm.name();
        for (framing, flags) in [
            (Framing::Flat, &["nix-hash", "--flat", "--type", name][..]),
            (Framing::NarPlain, &["nix-hash", "--type", name][..]),
        ] {
            let ours: Vec<_> = contents
                .iter()
                .map(|bytes| framed(framing, algorithm, bytes))
                .collect();
            let hex = nix(flags, &files);
            assert_eq!(
                ours.iter().map(Digest::to_hex).collect::<Vec<_>>(),
                hex,
                "{framing:?} {algorithm}"
            );
            let forms = [
                (
                    nix(&["nix-hash", "--type", name, "--to-base32"], &hex),
                    HashForm::Named(Base::Nix32),
                ),
                (
                    nix(&["nix", "hash", "to-sri", "--type", name], &hex),
                    HashForm::Sri,
                ),
            ];
            for (digest, hex) in ours.iter().zip(&hex) {
                assert_eq!(parse(hex, Some(algorithm)).unwrap().digest, *digest);
                let upper = hex.to_uppercase();
                assert_eq!(
                    parse(&format!("{name}:{upper}"), None).unwrap().digest,
                    *digest
                );
            }
            for (texts, form) in forms {
                assert_eq!(texts.len(), ours.len());
                for (digest, text) in ours.iter().zip(texts) {
                    // Nix prints base 32 bare and SRI named.
                    let text = if form == HashForm::Sri {
                        text
                    } else {
                        format!("{name}:{text}")
                    };
                    assert_eq!(digest.in_form(form).to_string(), text);
                    let parsed = parse(&text, None).unwrap();
                    assert_eq!((parsed.digest, parsed.form), (*digest, form));
                    if form == HashForm::Sri {
                        assert_eq!(
                            parse(text.trim_end_matches('='), None).unwrap().digest,
                            *digest,
                            "without padding"
                        );
                        let colon = text.replacen('-', ":", 1);
                        assert_eq!(parse(&colon, None).unwrap().digest, *digest, "{colon}");
                        let back = nix(&["nix", "hash", "to-base16"], &[colon]);
                        assert_eq!(back, [digest.to_hex()], "base64 as Nix reads it");
                    }
                }
            }
        }
    }
}

/// A name in `.links` is the NAR hash of the file with its executable bit.
#[test]
fn link_names_are_nar_hashes() {
    let name = |executable, bytes: &[u8]| {
        let digest = framed(Framing::nar(executable), Algorithm::Sha256, bytes);
        store_index::nix32::encode(digest.as_bytes())
    };
    assert_eq!(
        name(false, b"hello\n"),
        "04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw"
    );
    assert_eq!(
        name(true, b"hello\n"),
        "1yhh619m3cy1mird7f0l7zsmiv9rayqn075zinda2g7rscwn0hv5"
    );
    assert_eq!(
        name(false, b""),
        "0ip26j2h11n1kgkz36rl4akv694yz65hr72q4kv4b3lxcbi65b3p"
    );
}

/// A tree with all that a NAR can hold and that is easy to get wrong.
fn plant(env: &TestEnv) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    for (number, len) in LENGTHS.into_iter().enumerate() {
        env.write(format!("tree/files/{len}"), noise(number as u64, len));
    }
    // Sorted by bytes: `a-b` before `a.b` before `a/…` (as git sorts) but `a` first in a NAR.
    for name in [
        "tree/a/x",
        "tree/a-b",
        "tree/a.b",
        "tree/a0",
        "tree/B",
        "tree/ü",
        "tree/deep/er/and/deeper/still",
    ] {
        env.write(name, name);
    }
    let executable = env.write("tree/run.sh", "#!/bin/sh\n");
    fs_err::set_permissions(executable, std::fs::Permissions::from_mode(0o755)).unwrap();
    let group_only = env.write("tree/group", "the owner's bit counts, not this one");
    fs_err::set_permissions(group_only, std::fs::Permissions::from_mode(0o654)).unwrap();
    fs_err::os::unix::fs::symlink("a/x", env.path("tree/link")).unwrap();
    fs_err::os::unix::fs::symlink("nowhere/at all", env.path("tree/dangling")).unwrap();
    fs_err::os::unix::fs::symlink("a", env.path("tree/to-directory")).unwrap();
    env.path("tree")
}

#[test]
fn nar_bytes_agree_with_nix() {
    if lacks("nar_bytes_agree_with_nix", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let tree = plant(&env);
    fs_err::create_dir(tree.join("empty")).unwrap();
    for path in [
        tree.clone(),
        tree.join("run.sh"),
        tree.join("a0"),
        tree.join("link"),
        tree.join("empty"),
    ] {
        let mut encoder = Encoder::new(Vec::new()).unwrap();
        visit(&path, &mut encoder);
        let nix = store.nix_bytes("nix-store", &["--dump", path.to_str().unwrap()]);
        assert!(encoder.into_inner() == nix, "NAR of {}", path.display());
    }
}

#[test]
fn git_ids_agree_with_git() {
    if lacks("git_ids_agree_with_git", &["git"], false) {
        return;
    }
    let env = TestEnv::new();
    let tree = plant(&env);
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .arg("--git-dir")
            .arg(env.path("repository"))
            .arg("--work-tree")
            .arg(&tree)
            .args(args)
            .env("HOME", env.path("home"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .current_dir(&tree)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "git {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "-q"]);
    git(&["add", "-A", "."]);
    let mut hasher = GitHasher::new(Algorithm::Sha1);
    visit(&tree, &mut hasher);
    assert_eq!(hasher.finish().unwrap().to_hex(), git(&["write-tree"]));
    let file = tree.join("files/70000");
    let mut hasher = GitHasher::new(Algorithm::Sha1);
    visit(&file, &mut hasher);
    assert_eq!(
        hasher.finish().unwrap().to_hex(),
        git(&["hash-object", "--no-filters", file.to_str().unwrap()])
    );
}
