//! Media: real Debian source packages on a real ISO image and a squashfs, discs that are taken out, that break off, and
//! that mean harm.

mod changing;
mod unasked;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use store_index::digest::Algorithm;

use crate::support::{Outcome, Report, TestEnv, digest, is_root, lacks, noise, skipped, sri};

const ISO_TOOLS: [&str; 3] = ["xorriso", "fuseiso", "umount"];
const SQUASHFS_TOOLS: [&str; 3] = ["mksquashfs", "mount", "umount"];
const INFO: &str = "Sources of the tests, disc 1";

#[track_caller]
fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Something mounted, until the test ends or takes it out.
struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// Mounts an ISO image.
    fn iso(image: &Path, at: &Path) -> Self {
        fs_err::create_dir_all(at).unwrap();
        tool("fuseiso", &[text(image), text(at)]);
        Self { at: at.to_owned() }
    }

    /// Mounts the image of a file system that the kernel knows.
    fn image(image: &Path, at: &Path) -> Self {
        fs_err::create_dir_all(at).unwrap();
        tool("mount", &["-o", "loop,ro", text(image), text(at)]);
        Self { at: at.to_owned() }
    }

    fn take_out(self) {}
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(&self.at).status();
        assert!(status.unwrap().success() || std::thread::panicking());
    }
}

fn make_iso(tree: &Path, image: &Path) {
    tool(
        "xorriso",
        &[
            "-as",
            "mkisofs",
            "-quiet",
            "-R",
            "-V",
            "FETCH_TEST",
            "-o",
            text(image),
            text(tree),
        ],
    );
}

fn make_squashfs(tree: &Path, image: &Path) {
    tool(
        "mksquashfs",
        &[
            text(tree),
            text(image),
            "-quiet",
            "-no-progress",
            "-noappend",
        ],
    );
}

/// Real source packages as a disc has them: `.disk/info`, `pool`, `dists/…/Sources.gz`.
struct Debian {
    tree: PathBuf,
    /// GNU hello's tarball below the tree, as Debian calls it, and what it holds.
    tarball: PathBuf,
    content: Vec<u8>,
}

impl Debian {
    /// The tarball's hash as a package definition has it.
    fn hash(&self) -> String {
        sri(&self.content)
    }

    /// The tarball as GNU calls it.
    fn gnu_name(&self) -> String {
        let name = self.tarball.file_name().unwrap().to_str().unwrap();
        name.replace(".orig", "").replacen('_', "-", 1)
    }
}

/// Downloads hello's source package once for all tests, with a configuration and a state of our own. `None` if the
/// archive cannot be reached.
fn debian() -> Option<&'static Debian> {
    static DEBIAN: OnceLock<Option<Debian>> = OnceLock::new();
    DEBIAN
        .get_or_init(|| {
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian-sources");
            download(&dir).or_else(|| {
                // Half of an earlier download is none.
                fs_err::remove_dir_all(&dir).ok();
                None
            })
        })
        .as_ref()
}

fn download(dir: &Path) -> Option<Debian> {
    fs_err::remove_dir_all(dir).ok();
    for folder in [
        "lists/partial",
        "cache/archives/partial",
        "empty",
        "packages",
    ] {
        fs_err::create_dir_all(dir.join(folder)).unwrap();
    }
    // From where this machine gets its packages.
    let targets = Command::new("apt-get")
        .args(["indextargets", "--format", "$(SITE) $(RELEASE)"])
        .args(["Created-By: Packages", "Component: main"])
        .output()
        .ok()?;
    let targets = String::from_utf8(targets.stdout).ok()?;
    let mut words = targets.lines().next()?.split(' ');
    let (site, suite) = (words.next()?, words.next()?);
    let keys = Path::new("/usr/share/keyrings/debian-archive-keyring.gpg");
    let signed = if keys.exists() {
        format!("Signed-By: {}\n", keys.display())
    } else {
        String::new()
    };
    let sources = dir.join("own.sources");
    let entry =
        format!("Types: deb-src\nURIs: {site}\nSuites: {suite}\nComponents: main\n{signed}");
    fs_err::write(&sources, entry).unwrap();
    let option = |name: &str, value: &Path| format!("-o{name}={}", value.display());
    let options = [
        option("Dir::Etc::sourcelist", &sources),
        option("Dir::Etc::sourceparts", &dir.join("empty")),
        option("Dir::State::lists", &dir.join("lists")),
        option("Dir::Cache", &dir.join("cache")),
        "-oDebug::NoLocking=1".to_owned(),
        "-oAPT::Sandbox::User=".to_owned(),
        "-oAcquire::Languages=none".to_owned(),
        "-oAcquire::Retries=2".to_owned(),
    ];
    let apt = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command
            .args(&options)
            .args(args)
            .current_dir(dir.join("packages"));
        let output = command.output().ok()?;
        output.status.success().then_some(output.stdout)
    };
    apt("apt-get", &["update", "--error-on=any"])?;
    apt("apt-get", &["source", "--download-only", "hello"])?;
    let stanza = apt("apt-cache", &["showsrc", "--only-source", "hello"])?;
    Some(lay_out(dir, &String::from_utf8(stanza).ok()?))
}

/// Puts the files where a disc has them, with the archive's own record of them.
fn lay_out(dir: &Path, stanza: &str) -> Debian {
    let tree = dir.join("tree");
    let field = |name: &str| {
        let line = stanza.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    let pool = tree.join(field("Directory:"));
    let lists = tree.join("dists/stable/main/source");
    for folder in [&pool, &lists, &tree.join(".disk")] {
        fs_err::create_dir_all(folder).unwrap();
    }
    for entry in fs_err::read_dir(dir.join("packages")).unwrap() {
        let entry = entry.unwrap();
        fs_err::copy(entry.path(), pool.join(entry.file_name())).unwrap();
    }
    fs_err::write(tree.join(".disk/info"), format!("{INFO}\n")).unwrap();
    fs_err::write(lists.join("Sources"), stanza).unwrap();
    tool("gzip", &["-n", text(&lists.join("Sources"))]);
    let tarball = fs_err::read_dir(&pool)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_str().unwrap().contains(".orig.tar.") && !text(path).ends_with("asc"))
        .unwrap();
    Debian {
        content: fs_err::read(&tarball).unwrap(),
        tarball: tarball.strip_prefix(&tree).unwrap().to_owned(),
        tree,
    }
}

/// Returns the disc, or says aloud that it cannot be had.
fn debian_or_skip(test: &str) -> Option<&'static Debian> {
    if lacks(test, &["apt-get", "apt-cache", "gzip"], false) {
        return None;
    }
    let debian = debian();
    if debian.is_none() {
        skipped(test, "needs source packages, and apt cannot reach any");
    }
    debian
}

#[track_caller]
fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"))
}

/// Updates the index in `index` of what is mounted; returns what was done.
#[track_caller]
fn update(env: &TestEnv, medium: &Path, options: &[&str]) -> Value {
    let outcome = env
        .store_index(["update", "--json", "--media"])
        .arg(medium)
        .arg("--index")
        .arg(env.path("index"))
        .args(options)
        .go()
        .exits(0);
    json(&outcome)["roots"][0].clone()
}

#[track_caller]
fn look_up(env: &TestEnv, hash: &str) -> Value {
    let outcome = env
        .store_index(["lookup", "--json", hash, "--index"])
        .arg(env.path("index"))
        .go()
        .exits(0);
    json(&outcome)[0].clone()
}

#[test]
fn a_debian_disc_answers_for_gnu_hello_without_having_been_read() {
    let test = "a_debian_disc_answers_for_gnu_hello_without_having_been_read";
    if lacks(test, &ISO_TOOLS, true) {
        return;
    }
    let Some(debian) = debian_or_skip(test) else {
        return;
    };
    let env = TestEnv::new();
    make_iso(&debian.tree, &env.path("disc.iso"));
    let disc = Mounted::iso(&env.path("disc.iso"), &env.path("disc"));

    let done = update(&env, &disc.at, &["--hints-only"]);
    assert_eq!(done["hashed_bytes"], 0, "{done:#}");
    assert!(done["hints"].as_u64().unwrap() >= 3, "{done:#}");
    let place = look_up(&env, &debian.hash());
    assert_eq!(place["hint"], true, "{place:#}");
    assert_eq!(place["mounted"], true);
    assert_eq!(place["label"], INFO);

    // Found by the hash alone, under another name than the one asked for.
    let fetch = |name: &str| {
        env.fetch_hash(debian.hash())
            .args(["--offline", "-o", name, "--index"])
            .arg(env.path("index"))
    };
    let report = fetch("hello").json(0);
    assert_eq!(report.kind(), "media");
    assert!(report.location().ends_with(text(&debian.tarball)));
    assert!(env.output("hello") == debian.content);

    // Now the rest is read, and no more than that.
    let done = update(&env, &disc.at, &[]);
    let read = done["hashed_bytes"].as_u64().unwrap();
    assert!(read > 0 && read < debian.content.len() as u64, "{done:#}");
    assert_eq!(done["complete"], true);
    // Nothing can have changed, so nothing is walked.
    assert_eq!(update(&env, &disc.at, &[])["added"], 0);
    // All is read, and hints become facts.
    let done = update(&env, &disc.at, &["--hash-all"]);
    assert_eq!(done["hints"], 0, "{done:#}");
    assert!(done["hashed_bytes"].as_u64().unwrap() >= debian.content.len() as u64);
    assert_eq!(look_up(&env, &debian.hash())["hint"], false);

    // The disc is taken out: which one is it?
    disc.take_out();
    let place = look_up(&env, &debian.hash());
    assert_eq!(
        (&place["mounted"], &place["label"]),
        (&false.into(), &INFO.into())
    );
    let report = fetch("again").json(3);
    assert_eq!(report.error(), "not-found");
    let hint = report.object["error"]["hint"].as_str().unwrap();
    assert_eq!(hint, format!("insert «{INFO}», and run this again"));
    fetch("again")
        .go()
        .exits(3)
        .says(&format!("insert «{INFO}»"));
    let explained = env
        .fetch([
            "explain",
            "--no-store",
            "--no-media",
            &debian.hash(),
            "--index",
        ])
        .arg(env.path("index"))
        .go()
        .exits(3);
    assert!(
        explained.stdout.contains(&format!("insert «{INFO}»")),
        "{explained}"
    );

    // Elsewhere it is the same disc.
    let _disc = Mounted::iso(&env.path("disc.iso"), &env.path("other place"));
    fetch("again").go().exits(0);
    assert!(env.output("again") == debian.content);
}

#[test]
fn without_an_index_the_name_will_do_as_gnu_or_as_debian_spells_it() {
    let test = "without_an_index_the_name_will_do_as_gnu_or_as_debian_spells_it";
    if lacks(test, &SQUASHFS_TOOLS, true) {
        return;
    }
    let Some(debian) = debian_or_skip(test) else {
        return;
    };
    let env = TestEnv::new();
    let url = format!("http://localhost:9/gnu/hello/{}", debian.gnu_name());
    let fetch = |medium: &Path| {
        let run = env.fetch_hash(debian.hash()).arg(&url);
        run.args(["--offline", "--media"]).arg(medium)
    };
    make_squashfs(&debian.tree, &env.path("disc.squashfs"));
    let disc = Mounted::image(&env.path("disc.squashfs"), &env.path("disc"));
    let report = fetch(&disc.at).json(0);
    assert!(
        report.location().ends_with(text(&debian.tarball)),
        "{report:?}"
    );
    drop(disc);

    // A mirror tree, by the path of a mirror:// URL.
    for folder in ["gnu/hello", "hello", "distfiles"] {
        let name = folder.replace('/', "-");
        let root = env.path("mirror").join(&name);
        fs_err::create_dir_all(root.join(folder)).unwrap();
        fs_err::write(root.join(folder).join(debian.gnu_name()), &debian.content).unwrap();
        let report = env
            .fetch_hash(debian.hash())
            .arg(format!("mirror://gnu/hello/{}", debian.gnu_name()))
            .args(["--offline", "-o", &name, "--media"])
            .arg(&root)
            .json(0);
        assert!(report.location().contains(folder), "{report:?}");
    }
}

#[test]
fn an_index_made_before_burning_is_found_on_the_disc() {
    let test = "an_index_made_before_burning_is_found_on_the_disc";
    if lacks(test, &ISO_TOOLS, true) {
        return;
    }
    let env = TestEnv::new();
    let content = noise(1, 100_000);
    env.write("tree/deep/er/file", &content);
    env.store_index(["update", "--in-place", "--media"])
        .arg(env.path("tree"))
        .go()
        .exits(0);
    let manifest = fs_err::read_to_string(env.path("tree/.store-index/manifest")).unwrap();
    assert!(
        !manifest.contains(text(&env.path(""))),
        "no machine in it: {manifest}"
    );
    make_iso(&env.path("tree"), &env.path("disc.iso"));
    let disc = Mounted::iso(&env.path("disc.iso"), &env.path("disc"));
    // By default, since it is mounted; nothing says so.
    let report = env
        .fetch([
            "--no-store",
            "--offline",
            "-o",
            "x",
            "--hash",
            &sri(&content),
        ])
        .json(0);
    assert!(
        report.location().ends_with("disc/deep/er/file"),
        "{report:?}"
    );
    // It is not asked when no medium is to be.
    env.fetch_hash(sri(&content))
        .args(["--offline", "-o", "y"])
        .go()
        .exits(3);
    // A medium and its tree have one id, and the same bytes are made of them.
    let done = update(&env, &disc.at, &[]);
    assert!(manifest.contains(done["id"].as_str().unwrap()));
}

#[test]
fn media_are_listed_named_and_forgotten() {
    let env = TestEnv::new();
    env.write("mirror/a", "a\n");
    env.write("mirror/b", "b\n");
    let sums = format!("{}  a\n", digest(Algorithm::Sha256, b"a\n").to_hex());
    env.write("mirror/SHA256SUMS", sums);
    let done = update(&env, &env.path("mirror"), &["--hints-only"]);
    let id = done["id"].as_str().unwrap().to_owned();
    let media = |args: &[&str]| {
        let outcome = env
            .store_index(["media"])
            .args(args)
            .arg("--index")
            .arg(env.path("index"))
            .go();
        let dir = env.path("");
        let stable = |text: &str| {
            let text = text.replace(dir.to_str().unwrap().trim_end_matches('/'), "[DIR]");
            text.replace(&id, "[ID]")
        };
        (
            outcome.status.code(),
            stable(&outcome.stdout),
            stable(&outcome.stderr),
        )
    };
    let listed = |state: &str| {
        (
            Some(0),
            format!("[ID]  1 files (1 by checksum lists alone)  {state}\n"),
            String::new(),
        )
    };
    assert_eq!(
        media(&["list"]),
        listed("«[DIR]/mirror»  mounted at [DIR]/mirror")
    );
    assert_eq!(media(&["rename", &id[..6], "The shelf"]).0, Some(0));
    fs_err::rename(env.path("mirror"), env.path("gone")).unwrap();
    assert_eq!(
        media(&[]),
        listed("«The shelf»  not mounted, last at [DIR]/mirror")
    );
    assert_eq!(look_up(&env, &sri(b"a\n"))["label"], "The shelf");
    let (_, text, _) = media(&["list", "--json"]);
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (
            &list[0]["label"],
            &list[0]["mounted"],
            &list[0]["entries"],
            &list[0]["hints"]
        ),
        (&"The shelf".into(), &false.into(), &1.into(), &1.into())
    );
    assert_eq!(media(&["rename", &id, "two\nlines"]).0, Some(2));
    assert_eq!(media(&["forget", "nobody"]).0, Some(2));
    assert_eq!(media(&["forget", &id]).0, Some(0));
    assert!(!env.path("index").exists());
}

#[test]
fn a_disc_that_breaks_off_costs_a_candidate_and_no_more() {
    let test = "a_disc_that_breaks_off_costs_a_candidate_and_no_more";
    if lacks(test, &ISO_TOOLS, true) || lacks(test, &SQUASHFS_TOOLS, true) {
        return;
    }
    let env = TestEnv::new();
    let content = noise(2, 8 << 20);
    env.write("tree/file", &content);
    env.write("shelf/copy", &content);
    make_iso(&env.path("tree"), &env.path("disc.iso"));
    tool(
        "mksquashfs",
        &[
            text(&env.path("tree")),
            text(&env.path("disc.squashfs")),
            "-quiet",
            "-no-progress",
            "-noD",
            "-noF",
            "-noI",
        ],
    );
    let fetch = |medium: &Path| {
        env.fetch_hash(sri(&content))
            .args([
                "--offline",
                "-o",
                medium.file_name().unwrap().to_str().unwrap(),
                "--index",
            ])
            .arg(env.path("index"))
            .arg("--media")
            .arg(medium)
            .arg("--media")
            .arg(env.path("shelf"))
            .json(0)
    };
    env.store_index(["update", "--in-place"])
        .arg(env.path("shelf"))
        .go()
        .exits(0);

    // An image that is cut off under a driver that reads short and says nothing.
    let disc = Mounted::iso(&env.path("disc.iso"), &env.path("disc"));
    update(&env, &disc.at, &[]);
    let image = fs_err::OpenOptions::new()
        .write(true)
        .open(env.path("disc.iso"))
        .unwrap();
    let whole = image.metadata().unwrap().len();
    image.set_len(whole / 2).unwrap();
    drop(disc);
    let disc = Mounted::iso(&env.path("disc.iso"), &env.path("disc"));
    fetch(&disc.at)
        .tried("media", "failed", "disc/file")
        .tried("media", "ok", "shelf/copy");
    let read = update(&env, &disc.at, &["--rebuild", "--hash-all"]);
    assert_eq!(
        (&read["files"], &read["complete"]),
        (&0.into(), &false.into()),
        "{read:#}"
    );
    disc.take_out();
    fs_err::remove_dir_all(env.path("index")).unwrap();

    // A disc with a real I/O error.
    let disc = Mounted::image(&env.path("disc.squashfs"), &env.path("scratched"));
    update(&env, &disc.at, &[]);
    let image = fs_err::OpenOptions::new()
        .write(true)
        .open(env.path("disc.squashfs"))
        .unwrap();
    let table = image.metadata().unwrap().len();
    image.set_len(table / 2).unwrap();
    fs_err::write("/proc/sys/vm/drop_caches", "3").unwrap();
    fetch(&disc.at)
        .tried("media", "failed", "scratched/file")
        .tried("media", "ok", "shelf/copy");
}

#[test]
fn a_disc_pulled_out_while_it_is_copied() {
    let test = "a_disc_pulled_out_while_it_is_copied";
    if lacks(test, &ISO_TOOLS, true) {
        return;
    }
    let env = TestEnv::new();
    let content = noise(3, 96 << 20);
    env.write("tree/file", &content);
    make_iso(&env.path("tree"), &env.path("disc.iso"));
    fs_err::create_dir(env.path("shelf")).unwrap();
    fs_err::rename(env.path("tree/file"), env.path("shelf/file")).unwrap();
    let disc = Mounted::iso(&env.path("disc.iso"), &env.path("disc"));
    update(&env, &disc.at, &[]);
    let mut running = env
        .fetch_hash(sri(&content))
        .args(["--offline", "--name", "file", "--index"])
        .arg(env.path("index"))
        .arg("--media")
        .arg(&disc.at)
        .arg("--media")
        .arg(env.path("shelf"))
        .arg("--json")
        .start();
    // As soon as some of it has been read, its driver is no more.
    let io = PathBuf::from(format!("/proc/{}/io", running.id()));
    while running.is_running() && read_so_far(&io) < 4 << 20 {}
    kill_driver_of(&env.path("disc.iso"));
    let outcome = running.wait().exits(0);
    let report = Report {
        object: json(&outcome),
        stderr: outcome.stderr,
    };
    assert!(env.output("file") == content);
    report
        .tried("media", "failed", "disc/file")
        .tried("media", "ok", "shelf/file");
}

/// Returns how many bytes a process has read, by its file `io` in /proc.
fn read_so_far(io: &Path) -> u64 {
    let text = fs_err::read_to_string(io).unwrap_or_default();
    let read = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    read.and_then(|read| read.parse().ok()).unwrap_or(0)
}

/// Ends the fuseiso that serves an image.
fn kill_driver_of(image: &Path) {
    for entry in fs_err::read_dir("/proc").unwrap().flatten() {
        let line = fs_err::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
        if words.first().is_some_and(|word| word.ends_with(b"fuseiso"))
            && words.contains(&text(image).as_bytes())
        {
            tool("kill", &["-9", entry.file_name().to_str().unwrap()]);
        }
    }
}

#[test]
fn a_medium_that_means_harm_gains_nothing() {
    let env = TestEnv::new();
    let (secret, wanted) = (noise(4, 5_000), noise(5, 6_000));
    env.write("secret", &secret);
    env.write("other/file", &wanted);
    let medium = env.path("medium");
    fs_err::create_dir(&medium).unwrap();
    std::os::unix::fs::symlink(env.path("secret"), medium.join("link")).unwrap();
    std::os::unix::fs::symlink("..", medium.join("up")).unwrap();
    env.write("medium/line\nbreak\u{1b}[2J", &wanted);
    tool("mkfifo", &[text(&medium.join("pipe"))]);
    if is_root() {
        tool("mknod", &[text(&medium.join("zero")), "c", "1", "5"]);
    }
    make_deep(&medium);
    let hex = |bytes: &[u8]| digest(Algorithm::Sha256, bytes).to_hex();
    let lists = format!(
        "{0}  link\n{0}  ../secret\n{0}  /etc/passwd\n{0}  pipe\n{0}  zero\n{0}  up/secret\n{0}  liar\n{1}  nothing\n",
        hex(&secret),
        hex(&wanted)
    );
    env.write("medium/SHA256SUMS", lists);
    env.write("medium/liar", noise(6, 5_000));
    // Millions of lines and a bomb are the business of the lists' own tests; here the walk goes on after one.
    env.write("medium/broken.sha256", noise(7, 10_000));
    env.write("medium/Sources.gz", noise(8, 10_000));
    let done = update(&env, &medium, &[]);
    // `liar` is a hint as good as any, until somebody looks.
    assert_eq!(done["hints"], 1, "{done:#}");
    let places = |hash: &str| {
        let outcome = env
            .store_index(["lookup", "--json", hash, "--index"])
            .arg(env.path("index"))
            .go();
        let places = json(&outcome);
        let places = places.as_array().unwrap().iter();
        places
            .map(|place| place["path"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(places(&sri(&secret)), [text(&medium.join("liar"))]);
    assert_eq!(
        places(&sri(&wanted)),
        [format!("{}/line%0Abreak%1B[2J", medium.display())]
    );
    let report = env
        .fetch_hash(sri(&secret))
        .args(["--offline", "-o", "x", "--media"])
        .arg(&medium)
        .arg("--index")
        .arg(env.path("index"))
        .json(3);
    report.tried("media", "mismatch", "liar");
    assert!(!env.out("x").exists());
    // Read, the lie is gone.
    update(&env, &medium, &["--hash-all"]);
    assert_eq!(places(&sri(&secret)), Vec::<String>::new());

    // An index on it that is of another root is of this one all the same.
    env.store_index(["update", "--in-place", "--media"])
        .arg(env.path("other"))
        .go()
        .exits(0);
    fs_err::rename(env.path("other/.store-index"), medium.join(".store-index")).unwrap();
    let report = env
        .fetch_hash(sri(&wanted))
        .args(["--offline", "-o", "x", "--media"])
        .arg(&medium)
        .json(3);
    report.tried("media", "absent", "medium/file");
}

/// Makes ten thousand directories in each other, from the inside, since no path is that long.
fn make_deep(folder: &Path) {
    use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut inner = open(folder, flags, Mode::empty()).unwrap();
    for _ in 0..10_000 {
        mkdirat(&inner, "d", Mode::RWXU).unwrap();
        inner = openat(&inner, "d", flags, Mode::empty()).unwrap();
    }
}

#[test]
fn an_interrupted_reading_goes_on_where_it_was() {
    let env = TestEnv::new();
    for number in 0..40 {
        env.write(format!("mirror/{number}"), noise(number + 10, 2 << 20));
    }
    let run = || {
        env.store_index(["update", "--hash-all", "--jobs", "1", "--json", "--media"])
            .arg(env.path("mirror"))
            .arg("--index")
            .arg(env.path("index"))
    };
    let mut running = run().start();
    let io = PathBuf::from(format!("/proc/{}/io", running.id()));
    while running.is_running() && read_so_far(&io) < 10 << 20 {}
    running.signal(rustix::process::Signal::INT);
    running.wait().exits(130);
    let done = json(&run().go().exits(0))["roots"][0].clone();
    assert_eq!(
        (&done["files"], &done["complete"]),
        (&40.into(), &true.into())
    );
    assert!(
        done["hashed_bytes"].as_u64().unwrap() < 40 * (2 << 20),
        "{done:#}"
    );
}

/// The disc of a mirror, in a folder of the site's name or as the site itself has it: found by path, not by searching.
#[test]
fn mirror_trees_are_found_by_the_path_of_a_mirror_url() {
    let env = TestEnv::new();
    let cpan = "authors/id/A/AB/ABC/Some-Thing-1.0.tar.gz";
    let pool = "pool/main/libs/libsome/libsome_1.0.orig.tar.gz";
    for (disc, folder, url) in [
        ("of-many", "cpan/", format!("mirror://cpan/{cpan}")),
        ("of-cpan", "", format!("mirror://cpan/{cpan}")),
        ("of-debian", "", format!("mirror://debian/{pool}")),
        ("of-both", "debian/", format!("mirror://debian/{pool}")),
    ] {
        let (_, path) = url["mirror://".len()..].split_once('/').unwrap();
        let content = format!("what is wanted on the disc {disc}\n");
        let file = env.write(format!("{disc}/{folder}{path}"), &content);
        // A search would meet it first, and it would cost an attempt.
        let name = file.file_name().unwrap().to_str().unwrap();
        env.write(format!("{disc}/0/{name}"), "something else\n");
        let report = env
            .fetch_hash(sri(content.as_bytes()))
            .args(["--offline", "-o", disc, &url, "--media"])
            .arg(env.path(disc))
            .json(0);
        assert_eq!(report.location(), text(&file));
        let attempts = report.object["attempts"].as_array().unwrap();
        let of_media = attempts.iter().filter(|attempt| attempt["kind"] == "media");
        assert_eq!(of_media.count(), 1, "{}", report.object);
        assert_eq!(env.output(disc), content.as_bytes());
    }
}

/// How much is read of how much, and how long it will take. It can be broken off.
#[test]
fn reading_a_whole_medium_shows_a_bar_with_the_time_left() {
    let test = "reading_a_whole_medium_shows_a_bar_with_the_time_left";
    if lacks(test, &["script", "timeout", "stty"], false) {
        return;
    }
    let env = TestEnv::new();
    // Nothing on the disk, and more to read than the test has time for.
    fs_err::create_dir(env.path("m")).unwrap();
    let big = fs_err::File::create(env.path("m/big")).unwrap();
    big.set_len(200 << 30).unwrap();
    let command = format!(
        "stty cols 200 && exec timeout --foreground -s INT 2 {} update --hash-all --media m --index index --progress bar",
        text(crate::support::store_index_program())
    );
    let output = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .current_dir(env.path(""))
        .env("HOME", env.path("home"))
        .env("TERM", "xterm")
        .output()
        .unwrap();
    let screen = String::from_utf8_lossy(&output.stdout);
    let bars = screen
        .split('\r')
        .filter(|line| line.contains("/200.00 GiB"));
    // "… 512.00 MiB/200.00 GiB 1.02 GiB/s 3m"
    let time_left = |line: &str| {
        let (_, left) = line.rsplit_once("/s ")?;
        let end = left.find(|c: char| !c.is_ascii_digit())?;
        (end > 0).then(|| "smhd".contains(&left[end..=end]))
    };
    assert!(
        bars.clone().any(|line| time_left(line) == Some(true)),
        "no bar with the time left: {screen:?}"
    );
    // `timeout` ended it, and it ended in good order.
    assert!(screen.contains("interrupted"), "{screen:?}");
    assert_eq!(output.status.code(), Some(124), "{screen:?}");
}
