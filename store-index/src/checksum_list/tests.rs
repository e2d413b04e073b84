use super::*;
use proptest::prelude::*;

const MD5: &str = "b1946ac92492d2347c6235b4d2611184";
const SHA1: &str = "f572d396fae9206628714fb2ce00f72e94f2258f";
const SHA256: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
const SHA512: &str = "e7c22b994c59d9cf2b48e549b1e24666636045930d3da7c1acb299d1c3b7f931\
                      f94aae41edda2c2b207a36e10f8bcb8d45223e54878f5b316e7ce3b6bc019629";

fn list(file_name: &str, base_dir: &str, text: &str) -> (Vec<Listed>, Summary) {
    let kind = recognise(file_name.as_bytes()).unwrap();
    let mut found = Vec::new();
    let summary = read(&kind, base_dir.as_bytes(), text.as_bytes(), &mut |listed| {
        found.push(listed);
    })
    .unwrap();
    assert_eq!(summary.entries, found.len() as u64);
    (found, summary)
}

/// Path, size and algorithms of each file, and how much was left out.
fn short(file_name: &str, base_dir: &str, text: &str) -> (Vec<String>, u64) {
    let (found, summary) = list(file_name, base_dir, text);
    let shown = found.iter().map(|listed| {
        let algorithms: Vec<_> = listed
            .digests
            .iter()
            .map(|digest| {
                let hello = [MD5, SHA1, SHA256, SHA512];
                assert!(hello.contains(&digest.to_hex().as_str()), "{digest:?}");
                digest.algorithm().name()
            })
            .collect();
        let name_only = if listed.name_only { "*/" } else { "" };
        let size = listed.size.map_or("-".to_owned(), |size| size.to_string());
        let path = String::from_utf8_lossy(&listed.path)
            .escape_debug()
            .to_string();
        format!("{name_only}{path} {size} {}", algorithms.join(","))
    });
    (shown.collect(), summary.skipped)
}

#[test]
fn lists_are_known_by_their_names() {
    for name in [
        "Sources",
        "Sources.gz",
        "Sources.xz",
        "hello_2.10-3.dsc",
        "SHA256SUMS",
        "SHA512SUMS",
        "SHA1SUMS",
        "MD5SUMS",
        "md5sum.txt",
        "sha256sums.txt",
        "foo.tar.gz.sha256",
        "foo.tar.gz.SHA512",
        "foo.sha1",
        "foo.md5",
        "foo.iso.sha256sum",
        "B3SUMS",
        "Manifest",
        "distinfo",
    ] {
        assert!(recognise(name.as_bytes()).is_some(), "{name}");
    }
    for name in [
        "",
        ".dsc",
        ".sha256",
        "sha256",
        "Sources.bz2",
        "sources",
        "Packages.gz",
        "SHA256SUMS.gpg",
        "SHA256SUMS.sign",
        "foo.sha256.asc",
        "checksum",
        "manifest",
        "x.sha224",
        "mysha256sums",
    ] {
        assert!(recognise(name.as_bytes()).is_none(), "{name}");
    }
    assert!(recognise(b"\xff.sha256").is_none() && recognise(&[0xff; 8]).is_none());
}

#[test]
fn debian_sources() {
    let text = format!(
        "Package: hello\n\
         Binary: hello,\n hello-udeb\n\
         Files:\n {MD5} 6 hello_2.10.orig.tar.gz\n {MD5} 6 hello_2.10-3.dsc\n\
         Checksums-Sha1:\n {SHA1} 6 hello_2.10.orig.tar.gz\n\
         Checksums-Sha256:\n {SHA256} 6 hello_2.10.orig.tar.gz\n {SHA256} 6 hello_2.10-3.dsc\n\
         Directory: pool/main/h/hello\n\
         Priority: source\n\n\n\
         Package: next\nDirectory: ./pool/main/n\nchecksums-sha256:\n\t{SHA256}  6\tnext.tar\n"
    );
    let (found, skipped) = short("Sources", "debian/dists/bookworm/main/source", &text);
    assert_eq!(
        found,
        [
            "debian/pool/main/h/hello/hello_2.10-3.dsc 6 md5,sha256",
            "debian/pool/main/h/hello/hello_2.10.orig.tar.gz 6 md5,sha1,sha256",
            "debian/pool/main/n/next.tar 6 sha256",
        ]
    );
    assert_eq!(skipped, 0);
}

#[test]
fn debian_sources_that_lie() {
    let text = format!(
        "Package: a\nDirectory: ../../etc\nChecksums-Sha256:\n {SHA256} 6 passwd\n\n\
         Package: b\nDirectory: pool\nChecksums-Sha256:\n {SHA256} 6 ../x\n {SHA256} 6 b/c\n {SHA256} six d\n\
          \x20deadbeef 6 e\n {SHA256} 6 f g\n {SHA256} 6 good\n\n\
         no field\nDirectory: /abs\nFiles:\n {MD5} 6 y\n\n\
         Directory: pool\nFiles:\n {MD5} 6 z\nChecksums-Sha256:\n {SHA256} 7 z\n"
    );
    let (found, skipped) = short("Sources", "", &text);
    assert_eq!(found, ["pool/good 6 sha256"]);
    assert_eq!(skipped, 1 + 5 + 2 + 1);
}

#[test]
fn debian_control_files_signed_or_not() {
    let body = format!(
        "Format: 3.0 (quilt)\nSource: hello\nDirectory: elsewhere\n\
         Checksums-Sha256:\n {SHA256} 6 hello_2.10.orig.tar.gz\nFiles:\n {MD5} 6 hello_2.10.orig.tar.gz\n"
    );
    let signed = format!(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{body}\n\
         -----BEGIN PGP SIGNATURE-----\n\niQIzBAEBCAAdFiEE\n=abcd\n-----END PGP SIGNATURE-----\n"
    );
    for text in [&body, &signed] {
        assert_eq!(
            short("hello_2.10-3.dsc", "pool/main/h/hello", text),
            (
                vec!["pool/main/h/hello/hello_2.10.orig.tar.gz 6 md5,sha256".to_owned()],
                0
            )
        );
    }
}

#[test]
fn sums_in_every_form() {
    let text = format!(
        "# comment\n\n\
         {SHA256}  plain\r\n{SHA256} *./binary\n{SHA256} one blank\n{upper}\tTAB\n\
         \\{SHA256}  a\\nb\\\\c\n\
         SHA256 (b s d (1)) = {SHA256}\nSHA256(openssl)= {SHA256}\nSHA2-256(new)= {SHA256}\n\
         \\SHA256 (e\\nf) = {SHA256}\n",
        upper = SHA256.to_uppercase()
    );
    let (found, skipped) = short("SHA256SUMS", "sub", &text);
    let names = [
        "plain",
        "binary",
        "one blank",
        "TAB",
        "a\\nb\\\\c",
        "b s d (1)",
        "openssl",
        "new",
        "e\\nf",
    ];
    assert_eq!(found, names.map(|name| format!("sub/{name} - sha256")));
    assert_eq!(skipped, 0);
}

#[test]
fn sums_that_lie() {
    let text = format!(
        "{SHA1}  of another algorithm\n{SHA256}\n{SHA256} \n{SHA256}  /etc/passwd\n{SHA256}  ../up\n\
         {SHA256}  a//b\nMD5 (x) = {SHA256}\nSHA256 (x) {SHA256}\nSHA256 () = {SHA256}\n\\{SHA256}  a\\tb\n\
         {SHA256}x  y\nnonsense\n(\n)(\n{}\n{SHA256}  good\n",
        "x".repeat(3 * MAX_LINE_LEN)
    );
    let (found, skipped) = short("SHA256SUMS", "", &text);
    assert_eq!(found, ["good - sha256"]);
    assert_eq!(skipped, 15);
}

#[test]
fn a_digest_alone_is_of_the_file_that_the_list_is_named_after() {
    for text in [SHA256.to_owned(), format!(" {SHA256} \r\n")] {
        assert_eq!(
            short("Foo.tar.gz.SHA256", "dir", &text).0,
            ["dir/Foo.tar.gz - sha256"]
        );
    }
    assert_eq!(short("a.sha256", "", MD5), (vec![], 1));
    assert_eq!(
        short("a.sha256sum", "", &format!("{SHA256}  other\n")).0,
        ["other - sha256"]
    );
    assert_eq!(short("a.md5", "", MD5).0, ["a - md5"]);
    assert_eq!(short("a.b.sha1", "", SHA1).0, ["a.b - sha1"]);
    assert_eq!(short("a.sha512", "", SHA512).0, ["a - sha512"]);
}

#[test]
fn gentoo_manifests() {
    let text = format!(
        "AUX fix.patch 10 BLAKE2B 00 SHA512 {SHA512}\n\
         DIST hello-2.10.tar.gz 6 BLAKE2B {SHA512} SHA512 {SHA512} SHA256 {SHA256}\n\
         DIST odd.tar 6 BLAKE2B {SHA512}\n\
         DIST ../../x 6 SHA256 {SHA256}\nDIST y six SHA256 {SHA256}\nDIST z 6 SHA256\nDIST w 6 SHA256 00\n\
         DIST v 6 SHA256 {SHA256} SHA256 {SHA256}\nDIST \n"
    );
    let (found, skipped) = short("Manifest", "app-misc/hello", &text);
    assert_eq!(found, ["*/hello-2.10.tar.gz 6 sha256,sha512"]);
    assert_eq!(skipped, 6);
}

#[test]
fn distinfo_of_three_bsds() {
    let free = format!(
        "TIMESTAMP = 1614253823\nSHA256 (gnu/a.tar.gz) = {SHA256}\nSIZE (gnu/a.tar.gz) = 6\n"
    );
    assert_eq!(
        short("distinfo", "misc/a", &free),
        (vec!["*/gnu/a.tar.gz 6 sha256".to_owned()], 0)
    );
    let base64 = data_encoding::BASE64.encode(&hex::decode(SHA256).unwrap());
    let open = format!(
        "SHA256 (b.tgz) = {base64}\nSHA256 (a.tgz) = {base64}\nSIZE (b.tgz) = 6\nSIZE (a.tgz) = 7\n"
    );
    assert_eq!(
        short("distinfo", "", &open).0,
        ["*/a.tgz 7 sha256", "*/b.tgz 6 sha256"]
    );
    let net = format!(
        "$NetBSD: distinfo,v 1.2 Exp $\n\nBLAKE2s (a.tgz) = 00\nSHA512 (a.tgz) = {SHA512}\nSize (a.tgz) = 6 bytes\n"
    );
    assert_eq!(
        short("distinfo", "", &net),
        (vec!["*/a.tgz 6 sha512".to_owned()], 0)
    );
    let bad = format!(
        "SHA256 (a) = {SHA1}\nSIZE (b) = -1\nSIZE (b) = 5\nSHA256 (/c) = {SHA256}\nSHA256 (d = {SHA256}\n\
         SHA256 (e) = {SHA256}\nSIZE (e) = 1\nSIZE (e) = 2\n"
    );
    assert_eq!(short("distinfo", "", &bad), (vec![], 5));
}

#[test]
fn packages_beyond_every_measure_need_no_more_memory() {
    let mut text = String::from("Directory: pool\nChecksums-Sha256:\n");
    for number in 0..40_000 {
        text.push_str(&format!(" {SHA256} 6 file-{number}\n"));
    }
    let (found, skipped) = short("Sources", "", &text);
    assert_eq!((found.len(), skipped), (40_000, 0));
}

#[test]
fn the_lists_own_directory_is_checked() {
    let kind = recognise(b"SHA256SUMS").unwrap();
    for base_dir in ["/abs", "a/../b", "a//b"] {
        let result = read(&kind, base_dir.as_bytes(), &b""[..], &mut |_| ());
        assert!(
            matches!(result, Err(ListError::BaseDirectory)),
            "{base_dir}"
        );
    }
}

#[test]
fn what_came_before_an_error_is_handed_out() {
    struct Failing;
    impl io::Read for Failing {
        fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disc is gone"))
        }
    }
    let good = format!("{SHA256}  good\n");
    let reader = io::BufReader::new(io::Read::chain(good.as_bytes(), Failing));
    let mut found = 0;
    let result = read(&recognise(b"SHA256SUMS").unwrap(), b"", reader, &mut |_| {
        found += 1
    });
    assert!(matches!(result, Err(ListError::Read(_))));
    assert_eq!(found, 1);
}

fn plain(path: &[u8]) -> bool {
    !path.contains(&0)
        && path
            .split(|&byte| byte == b'/')
            .all(|part| !matches!(part, b"" | b"." | b".."))
}

/// Text that is nearly a list, so that properties reach beyond the first check.
fn nearly_a_list() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        Just(SHA256.to_owned()),
        Just(MD5.to_owned()),
        Just(SHA512.to_owned()),
        Just("\n".to_owned()),
        Just("\n\n".to_owned()),
        Just("Directory: ".to_owned()),
        Just("\nChecksums-Sha256:\n ".to_owned()),
        Just("\nFiles:\n ".to_owned()),
        Just("DIST ".to_owned()),
        Just("SHA256 (".to_owned()),
        Just(") = ".to_owned()),
        Just("SIZE (".to_owned()),
        Just("\\".to_owned()),
        Just(" 6 ".to_owned()),
        Just("../".to_owned()),
        "[ -~\u{0}]{0,6}",
    ];
    proptest::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat().into_bytes())
}

proptest! {
    #[test]
    fn nothing_panics_and_nothing_leads_out(text in prop_oneof![
        nearly_a_list(),
        proptest::collection::vec(any::<u8>(), 0..300),
    ]) {
        for name in ["Sources", "Sources.gz", "Sources.xz", "a.dsc", "SHA256SUMS", "a.md5", "Manifest", "distinfo"] {
            let mut bad = None;
            let kind = recognise(name.as_bytes()).unwrap();
            let _summary = read(&kind, b"base", &text[..], &mut |listed| {
                if !plain(&listed.path) || listed.digests.is_empty() {
                    bad = Some(listed);
                }
            });
            prop_assert_eq!(bad, None);
        }
    }

    #[test]
    fn every_name_survives_the_escaped_form(name in "[ -~\n\\\\]{1,40}") {
        prop_assume!(plain(name.as_bytes()) && !name.starts_with([' ', '*']));
        let escaped = name.replace('\\', "\\\\").replace('\n', "\\n");
        let (found, _) = list("SHA256SUMS", "", &format!("\\{SHA256}  {escaped}\n"));
        prop_assert_eq!(&found[0].path, name.as_bytes());
    }
}
