//! Checksum lists as the real tools write them, packed by the real packers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod lacks;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::lacks::lacks;
use store_index::checksum_list::{ListError, Listed, MAX_RATIO, RATIO_GRACE_LEN, read, recognise};
use store_index::digest::{Algorithm, Digest, Hasher};

/// Runs a program in a folder and returns what it printed.
#[track_caller]
fn run(dir: &Path, program: &str, args: &[&str], stdin: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let stdin = stdin.to_owned();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut pipe, &stdin));
    let output = child.wait_with_output().unwrap();
    let _written = writer.join().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    output.stdout
}

#[track_caller]
fn list(name: &str, base_dir: &str, text: &[u8]) -> BTreeMap<String, Listed> {
    let mut found = BTreeMap::new();
    let kind = recognise(name.as_bytes()).unwrap();
    let summary = read(&kind, base_dir.as_bytes(), text, &mut |listed| {
        let path = String::from_utf8(listed.path.clone()).unwrap();
        assert_eq!(found.insert(path, listed), None);
    })
    .unwrap();
    assert_eq!(summary.skipped, 0, "{}", String::from_utf8_lossy(text));
    found
}

fn digest(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish().unwrap()
}

/// Files with names that lists have trouble with.
fn files() -> (tempfile::TempDir, Vec<&'static str>) {
    let dir = tempfile::tempdir().unwrap();
    let names = vec![
        "plain.tar.gz",
        "with blanks",
        "with (brackets) = sign",
        "back\\slash",
        "new\nline",
        "sub/file",
        "ünïcode",
    ];
    fs_err::create_dir(dir.path().join("sub")).unwrap();
    for name in &names {
        fs_err::write(dir.path().join(name), format!("content of {name}")).unwrap();
    }
    (dir, names)
}

#[test]
fn the_sums_of_coreutils_and_openssl() {
    let programs = ["md5sum", "sha1sum", "sha256sum", "sha512sum", "openssl"];
    if lacks("the_sums_of_coreutils_and_openssl", &programs, false) {
        return;
    }
    let (dir, names) = files();
    let mut dotted: Vec<String> = names.iter().map(|name| format!("./{name}")).collect();
    dotted.sort();
    for algorithm in [
        Algorithm::Md5,
        Algorithm::Sha1,
        Algorithm::Sha256,
        Algorithm::Sha512,
    ] {
        let program = format!("{algorithm}sum");
        let list_name = format!("{}S", program.to_uppercase());
        for option in ["--text", "--binary", "--tag"] {
            let mut args = vec![option, "--"];
            args.extend(dotted.iter().map(String::as_str));
            let text = run(dir.path(), &program, &args, b"");
            let found = list(&list_name, "disc", &text);
            assert_eq!(found.len(), names.len(), "{option}");
            for name in &names {
                let expected = digest(algorithm, format!("content of {name}").as_bytes());
                assert_eq!(
                    found[&format!("disc/{name}")].digests,
                    [expected],
                    "{option}"
                );
            }
        }
        let option = format!("-{algorithm}");
        let text = run(dir.path(), "openssl", &["dgst", &option, "sub/file"], b"");
        assert_eq!(
            list(&list_name, "", &text).len(),
            1,
            "{}",
            String::from_utf8_lossy(&text)
        );
    }
}

/// Some stanzas as Debian's are, with a file a package.
fn sources(packages: u32) -> String {
    let mut text = String::new();
    for number in 0..packages {
        let content = number.to_string();
        let name = format!("package-{number}_1.0.orig.tar.xz");
        let size = content.len();
        text.push_str(&format!(
            "Package: package-{number}\nBinary: package-{number}\nVersion: 1.0-1\nFormat: 3.0 (quilt)\n\
             Files:\n {} {size} {name}\nChecksums-Sha256:\n {} {size} {name}\nDirectory: pool/main/p/package-{number}\n\n",
            digest(Algorithm::Md5, content.as_bytes()).to_hex(),
            digest(Algorithm::Sha256, content.as_bytes()).to_hex(),
        ));
    }
    text
}

#[test]
fn packed_lists() {
    if lacks("packed_lists", &["gzip", "xz"], false) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let text = sources(3000);
    let base_dir = "dists/trixie/main/source";
    let plain = list("Sources", base_dir, text.as_bytes());
    assert_eq!(plain.len(), 3000);
    let one = &plain["pool/main/p/package-42/package-42_1.0.orig.tar.xz"];
    assert_eq!(one.size, Some(2));
    assert_eq!(
        one.digests,
        [
            digest(Algorithm::Md5, b"42"),
            digest(Algorithm::Sha256, b"42")
        ]
    );
    let gzip = run(dir.path(), "gzip", &["-9"], text.as_bytes());
    assert_eq!(list("Sources.gz", base_dir, &gzip), plain);
    for args in [
        &["-9"][..],
        &["-0", "--check=sha256"],
        &["-T2", "--block-size=64KiB"],
    ] {
        let xz = run(dir.path(), "xz", args, text.as_bytes());
        assert_eq!(list("Sources.xz", base_dir, &xz), plain, "{args:?}");
    }
    let half = text.find("Package: package-1500").unwrap();
    for (program, name) in [("gzip", "Sources.gz"), ("xz", "Sources.xz")] {
        let parts = [&text[..half], &text[half..]];
        let joined = parts
            .map(|part| run(dir.path(), program, &["-c"], part.as_bytes()))
            .concat();
        assert_eq!(
            list(name, base_dir, &joined),
            plain,
            "two archives in one file"
        );
    }
}

#[test]
fn hostile_archives() {
    if lacks("hostile_archives", &["gzip", "xz"], false) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let bomb = vec![b'\n'; usize::try_from(RATIO_GRACE_LEN * MAX_RATIO / 20).unwrap()];
    let refused = |name: &str, packed: &[u8]| {
        read(
            &recognise(name.as_bytes()).unwrap(),
            b"",
            packed,
            &mut |_| (),
        )
        .unwrap_err()
    };
    let gzip = run(dir.path(), "gzip", &["-9"], &bomb);
    assert!(matches!(refused("Sources.gz", &gzip), ListError::Ratio));
    let xz = run(dir.path(), "xz", &["-9"], &bomb);
    assert!(matches!(refused("Sources.xz", &xz), ListError::Ratio));
    let wide = run(
        dir.path(),
        "xz",
        &["--lzma2=preset=6,dict=512MiB"],
        b"small",
    );
    let error = refused("Sources.xz", &wide);
    assert!(
        matches!(error, ListError::Read(_)),
        "a dictionary beyond the limit: {error}"
    );

    // Cut and damaged anywhere: an error or an answer, and whatever was handed out is well-formed.
    for (name, packed) in [
        (
            "Sources.gz",
            run(dir.path(), "gzip", &["-9"], sources(20).as_bytes()),
        ),
        (
            "Sources.xz",
            run(dir.path(), "xz", &["-9"], sources(20).as_bytes()),
        ),
    ] {
        let kind = recognise(name.as_bytes()).unwrap();
        for at in 0..packed.len() {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x55;
            let _summary = read(&kind, b"", &damaged[..], &mut |listed| {
                assert!(!listed.digests.is_empty());
            });
            let cut = read(&kind, b"", &packed[..at], &mut |_| ());
            assert!(at == 0 || cut.is_err(), "{name} cut at {at}");
        }
    }
}

#[test]
fn what_dpkg_makes_of_a_source_package() {
    let programs = ["dpkg-source", "dpkg-scansources"];
    if lacks("what_dpkg_makes_of_a_source_package", &programs, false) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let package = dir.path().join("greeting-1.0");
    let debian = package.join("debian");
    fs_err::create_dir_all(debian.join("source")).unwrap();
    fs_err::write(package.join("hello.c"), "int main() { return 0; }\n").unwrap();
    fs_err::write(debian.join("source/format"), "3.0 (native)\n").unwrap();
    fs_err::write(
        debian.join("control"),
        "Source: greeting\nSection: misc\nPriority: optional\nMaintainer: Nobody <nobody@example.org>\n\
         Standards-Version: 4.6.2\n\nPackage: greeting\nArchitecture: all\nDescription: greets\n Nothing else.\n",
    )
    .unwrap();
    fs_err::write(
        debian.join("changelog"),
        "greeting (1.0) unstable; urgency=low\n\n  * First.\n\n -- Nobody <nobody@example.org>  Sat, 01 Jan 2022 00:00:00 +0000\n",
    )
    .unwrap();
    let pool = dir.path().join("archive/pool/g");
    fs_err::create_dir_all(&pool).unwrap();
    run(
        &pool,
        "dpkg-source",
        &["-b", package.to_str().unwrap()],
        b"",
    );
    let tarball = fs_err::read(pool.join("greeting_1.0.tar.xz")).unwrap();
    let check = |found: &BTreeMap<String, Listed>| {
        let listed = &found["archive/pool/g/greeting_1.0.tar.xz"];
        assert_eq!(listed.size, Some(tarball.len() as u64));
        let expected = [Algorithm::Md5, Algorithm::Sha1, Algorithm::Sha256]
            .map(|algorithm| digest(algorithm, &tarball));
        assert_eq!(listed.digests, expected);
    };
    let control = fs_err::read(pool.join("greeting_1.0.dsc")).unwrap();
    check(&list("greeting_1.0.dsc", "archive/pool/g", &control));
    let sources = run(
        &dir.path().join("archive"),
        "dpkg-scansources",
        &["pool"],
        b"",
    );
    check(&list("Sources", "archive", &sources));
    let found = list("Sources", "archive/dists/stable/main/source", &sources);
    check(&found);
    assert_eq!(found.len(), 2, "the tarball and the .dsc");
}
