//! What is measured: one function for each group of rows.

mod batch;
mod far;
pub(crate) mod git;
mod media;
mod trees;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Result;
use crate::fixtures::{self, LOGICAL_STORE};
use crate::measure::{Job, Series, Spread, WARM_UPS, once, take_turns};
use crate::nginx::Nginx;
use crate::report::{Bound, Row, show};

/// Reasons that hold on any machine, for targets that were missed on one.
const KEEPS_FILE: &str = "SHA-256 of the bytes alone is about half of the peer's processor time, and we also write the output, which this peer throws away; \
                          the peer that keeps it is in the row with `tee`.";
const TWO_INODES: &str = "for each file `curl` makes one, and we make two (the output and the content's lock), hash it, and write down where it lies; every one of \
                          them is a few system calls. Where a server is not on this machine its latency hides that.";
const ONE_STREAM: &str = "one SHA-256 is one thread's work and cannot be divided: the time for hashing the same amount from memory, in the row below, is the limit, \
                          and reading and writing already happen beside it. Where the processor hashes nearly as fast as it reads, overlapping gains little; where other work leaves less than two cores \
                          free, the parts add up instead.";
const TWO_CORES: &str = "the two threads need two cores; where other work leaves less, their parts add up instead of overlapping.";
const COPIES_PAGES: &str = "the peer hashes one buffer that never leaves the cache. Reading a cached file copies every page out of the kernel first; the row below has \
                            threads that do only that and hash.";
const FLUSHES: &str = "two flushes to disk and two renames make nearly all of it, so the disk decides, and whoever else writes to it.";
const COLD_PAGES: &str = "a handful of single reads, so the latency of the disk decides; our program's own pages are cold too, and are read meanwhile.";
const DISK_WRITES: &str = "everything is written twice, in batches and merged into one segment, and flushed both times: the disk decides, and whoever else writes to it.";

const MIB: u64 = 1024 * 1024;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Runs of what takes milliseconds.
    short_runs: usize,
    /// Runs of what takes seconds.
    long_runs: usize,
    /// Runs over a wire that is slow.
    far_runs: usize,
    /// Runs of what takes ten seconds and more.
    git_runs: usize,
    indexed_files: u64,
    store_items: [u64; 2],
    index_entries: u64,
    copied_bytes: u64,
    tree_files: u64,
    tree_bytes: u64,
    links: u64,
    downloaded_bytes: u64,
    batch_files: u64,
    far_bytes: u64,
    repository_files: u64,
    repository_commits: u64,
    pub(crate) built_bytes: [u64; 3],
    source_files: u64,
    medium_files: u64,
}

impl Sizes {
    pub(crate) const FULL: Self = Self {
        short_runs: 101,
        long_runs: 7,
        far_runs: 5,
        git_runs: 3,
        indexed_files: 2_000_000,
        store_items: [100_000, 1_000_000],
        index_entries: 10_000_000,
        copied_bytes: 500 * MIB,
        tree_files: 3_000,
        tree_bytes: 3_000_000_000,
        links: 1_000_000,
        downloaded_bytes: 1024 * MIB,
        batch_files: 500,
        far_bytes: 10_000_000,
        repository_files: 50_000,
        repository_commits: 2_000,
        built_bytes: [1024, 10 * MIB, 500 * MIB],
        source_files: 90_000,
        medium_files: 100_000,
    };

    /// To see that everything works; the numbers say nothing.
    pub(crate) const QUICK: Self = Self {
        short_runs: 3,
        long_runs: 2,
        far_runs: 2,
        git_runs: 2,
        indexed_files: 2_000,
        store_items: [500, 1_000],
        index_entries: 20_000,
        copied_bytes: 5 * MIB,
        tree_files: 50,
        tree_bytes: 5_000_000,
        links: 1_000,
        downloaded_bytes: 10 * MIB,
        batch_files: 20,
        far_bytes: 6_000_000,
        repository_files: 300,
        repository_commits: 20,
        built_bytes: [1024, MIB, 2 * MIB],
        source_files: 500,
        medium_files: 500,
    };

    /// A build takes a tenth of a second, or seconds if it is large.
    pub(crate) const fn build_runs(&self, bytes: u64) -> usize {
        if bytes < 100 * MIB {
            3 * self.long_runs
        } else {
            self.long_runs
        }
    }
}

/// What all groups need.
#[derive(Debug)]
pub(crate) struct Bench {
    scratch: PathBuf,
    pub(crate) sizes: Sizes,
    cores: usize,
    fetch: PathBuf,
    store_index: PathBuf,
    ourselves: PathBuf,
}

/// Rows that belong together.
pub(crate) struct Group {
    /// For `--only`; also the name of its scratch folder.
    pub(crate) name: &'static str,
    /// What the reader has to know about the numbers.
    pub(crate) how: &'static str,
    pub(crate) measure: fn(&Bench, &Path) -> Result<Vec<Row>>,
}

/// In the order of the page.
pub(crate) const GROUPS: &[Group] = &[
    Group {
        name: "start",
        how: "Every time is that of a whole process, from before it is started until it has been waited for; processor time and peak memory are the kernel's own \
              accounting (`wait4`). Runs take turns, A B A B, after one that is not counted; shown are the median and, in parentheses, least and most. Ratios are \
              taken pair by pair and then sorted, so the median ratio need not be the ratio of the medians. A shared machine shows in the range.",
        measure: start,
    },
    Group {
        name: "hit",
        how: "Local hit through the index: the index is written by the library with synthetic entries; only the link that is asked for exists. The store's \
              modification time is the recorded one.",
        measure: hit,
    },
    Group {
        name: "listing",
        how: "Local hit without an index: the items are hard links to a few files under names of the usual form, and the content is there under another name than \
              the one asked for. The plain listing is a bare `readdir` loop in a process of its own, which prints the count.",
        measure: listing,
    },
    Group {
        name: "lookup",
        how: "Index of many entries: links with SHA-256 keys, written by the library as `store-index update` does, in batches and with the final merge, \
              flushed to disk; random digests that are there. \"Cold\" drops the page cache before each run (as root). The added entries are a session of the \
              writer with its lock, two flushes and the renamed manifest.",
        measure: lookup,
    },
    Group {
        name: "copy",
        how: "Verified copy: one file in a store, warm, without an index; before each run the output is removed and everything dirty written back. Reflink: a \
              loop-mounted XFS; what is written is the loss of free space.",
        measure: copy,
    },
    Group {
        name: "tree",
        how: "Indexing a folder: into an empty index each time. `xargs` has as many processes as there are cores, 32 files each. What the cores hash is the same \
              hash function over a buffer that stays in the cache, a thread for each core.",
        measure: tree,
    },
    Group {
        name: "medium",
        how: "Indexing a medium: a folder with a `SHA256SUMS` of all its files, into an empty index each time: by the list, which reads no file, and all of it. The \
              peers read every file too; nobody but us has a use for the list without reading.",
        measure: media::index,
    },
    Group {
        name: "whole-trees",
        how: "Hash of a tree: `fetch --mode nar|git -o TREE` of an output that is there and right, which is nothing but the hash of it. `git hash-object` hashes the \
              blobs alone, in a fresh repository, told all paths on standard input, and writes nothing. Copy: from a store that has the tree under another name, \
              without an index; the output is removed and everything dirty written back before each run.",
        measure: trees::measure,
    },
    Group {
        name: "ten-media",
        how: "Lookup in ten media: ten folders, each with its index of files that do not exist, and one that does on the last.",
        measure: media::lookup,
    },
    Group {
        name: "refresh",
        how: "Refresh: `.links` holds hard links to a few small files; the first update, which reads every one, is not counted.",
        measure: refresh,
    },
    Group {
        name: "download",
        how: "Download: nginx on the loopback with `sendfile`, one file that lies in the page cache. We write the output to disk while hashing; the first peer only \
              hashes, the other two also keep the file.",
        measure: download,
    },
    Group {
        name: "batch",
        how: "Many small files: the same server; `fetch batch` with a list of checksums, 25 at a time, which is its default; `curl --parallel` has 50. `aria2c` gets the \
              hashes too and verifies them; `curl` verifies nothing, so `sha256sum --check` follows it in one row. Folders of outputs and what is kept between runs are \
              new in each run.",
        measure: batch::measure,
    },
    Group {
        name: "far",
        how: "Servers far away: nginx and the clients in two network namespaces, and between them a wire of the benchmark's own, which takes 20 ms each way. Losses \
              are random in both directions, but the same in the n-th run of each program; what waits for the line for more than 50 ms is lost too. The server's TCP \
              has cubic, and remembers nothing between connections. `fetch` begins with one connection and takes more when it has found that slow, `aria2c` begins \
              with eight; both verify. The line of the small files takes any amount; `curl --parallel` has 50 of them at a time if not told otherwise, `fetch batch` 25, the others 16.",
        measure: far::measure,
    },
    Group {
        name: "git",
        how: "Commits: `git daemon` on the loopback, of a repository with a history of thousands of commits. The peer is what fetchers of Nix and Guix do: a \
              shallow clone, `.git` removed, hashed; it keeps nothing for the next commit, in which one file in a hundred differs. Where most files are in the store, \
              they are so under any name, known to its index by their git ids. All go through a relay on the loopback, which counts what the server sends in the \
              run that is not timed.",
        measure: git::git,
    },
    Group {
        name: "nix",
        how: "Builds of Nix: `nix-build` of one fixed output in the sandbox, on private stores, without build users; before each run the output is deleted and \
              everything dirty written back. \"Copied\" finds the content under another name in the store, which is mounted at another place in the sandbox. A \
              good part of each time is Nix's own: starting, making the sandbox, and hashing the output once more.",
        measure: crate::nix_builds::builds,
    },
];

impl Bench {
    pub(crate) fn new(scratch: &Path, sizes: Sizes) -> Result<Self> {
        let fetch = PathBuf::from(env!("CARGO_BIN_EXE_fetch"));
        let store_index = fetch.with_file_name("store-index");
        if !store_index.exists() {
            return Err("store-index is not built: cargo build --release --workspace".into());
        }
        Ok(Self {
            scratch: scratch.to_owned(),
            sizes,
            cores: std::thread::available_parallelism()?.get(),
            fetch,
            store_index,
            ourselves: std::env::current_exe()?,
        })
    }

    /// What `fetch` keeps between runs.
    fn kept(&self) -> PathBuf {
        self.scratch.join("cache/fetch")
    }

    pub(crate) fn turns(&self, runs: usize, jobs: &[Job<'_>]) -> Result<Vec<Series>> {
        take_turns(&self.scratch, WARM_UPS, runs, jobs)
    }

    /// This program itself, as one of its parts.
    fn part<'a, S: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = S>) -> Job<'a> {
        let mut words: Vec<OsString> = vec![self.ourselves.clone().into(), "--child".into()];
        words.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        Job::new(name, words)
    }

    /// `fetch` of content that a store under this directory has under another name; the output is removed before.
    fn fetch_from_store<'a>(&self, store: &Path, hash: &str, output: &'a Path) -> Job<'a> {
        let mut place = OsString::from(format!("{LOGICAL_STORE}="));
        place.push(store);
        let words: [&OsStr; 10] = [
            self.fetch.as_ref(),
            "--store".as_ref(),
            &place,
            "--no-media".as_ref(),
            "--offline".as_ref(),
            "--hash".as_ref(),
            hash.as_ref(),
            "-o".as_ref(),
            output.as_ref(),
            "--stale-hash=ignore".as_ref(),
        ];
        Job::new("fetch", words).prepared_by(|| clear(output))
    }
}

/// Removes what a run left, and writes back what it made dirty.
fn clear(path: &Path) -> Result<()> {
    match fs_err::metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs_err::remove_dir_all(path)?,
        Ok(_) => fs_err::remove_file(path)?,
        Err(_) => return Ok(()),
    }
    Ok(())
}

/// Puts away into a folder what a run left, and writes back what is dirty. It is not removed: ext4 passes over lately
/// removed inodes one by one when new ones are made, which would be most of what is measured.
fn put_away(path: &Path, folder: &Path) -> Result<()> {
    static PUT_AWAY: AtomicU32 = AtomicU32::new(0);
    if path.exists() {
        let number = PUT_AWAY.fetch_add(1, Ordering::Relaxed);
        fs_err::rename(path, folder.join(format!("old-{number}")))?;
    }
    rustix::fs::sync();
    Ok(())
}

fn clear_and_sync(path: &Path) -> Result<()> {
    clear(path)?;
    rustix::fs::sync();
    Ok(())
}

fn mib(bytes: u64) -> Spread {
    Spread::of([bytes as f64 / MIB as f64])
}

fn start(bench: &Bench, _folder: &Path) -> Result<Vec<Row>> {
    let fetch = bench.fetch.as_os_str();
    let version = OsStr::new("--version");
    let jobs = [
        Job::new("fetch", [fetch, version]),
        Job::new("/bin/true", ["/bin/true"]),
        Job::new("curl", ["curl", "--version"]),
        Job::new("nix-store", ["nix-store", "--version"]),
    ];
    let series = bench.turns(bench.sizes.short_runs, &jobs)?;
    let what = "start-up: `--version`";
    Ok(series[1..]
        .iter()
        .map(|peer| Row::times(what, &series[0], peer, Bound::None))
        .collect())
}

fn hit(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    let (store, index, output) = (
        folder.join("store"),
        folder.join("index"),
        folder.join("output"),
    );
    let content = [7; 1024];
    fixtures::link(&store, &content)?;
    let hash = format!("sha256:{}", hex(&store_index::digest::sha256(&content)));
    // In a process of its own: what we have ever used counts as the peak memory of our children.
    let files = bench.sizes.indexed_files.to_string();
    let words = [
        OsStr::new("index"),
        index.as_os_str(),
        store.as_os_str(),
        files.as_ref(),
    ];
    once(&bench.scratch, &bench.part("index", words))?;
    let with_index = bench
        .fetch_from_store(&store, &hash, &output)
        .with(["--index".as_ref(), index.as_os_str()]);
    let miss_output = folder.join("missed");
    let absent = format!("sha256:{}", hex(&[9; 32]));
    let miss = bench
        .fetch_from_store(&store, &absent, &miss_output)
        .with(["--index".as_ref(), index.as_os_str()])
        .exits_with(3);
    let series = bench.turns(
        bench.sizes.short_runs,
        &[with_index, Job::new("/bin/true", ["/bin/true"]), miss],
    )?;
    let files = count(bench.sizes.indexed_files);
    Ok(vec![
        Row::above(
            &format!("local hit, 1 KiB, fresh index of {files} files"),
            &series[0],
            &series[1],
            Bound::AtMost(2.0),
        ),
        Row::above(
            "local miss, the same index",
            &series[2],
            &series[1],
            Bound::None,
        ),
    ])
}

fn listing(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for items in bench.sizes.store_items {
        let (store, output) = (folder.join("store"), folder.join("output"));
        fs_err::create_dir(&store)?;
        fixtures::item_names(&store, items)?;
        let content = [8; 1024];
        let digest = store_index::digest::sha256(&content);
        fs_err::write(store.join(item_name("other-name-1.0", &digest)?), content)?;
        let ours = bench.fetch_from_store(&store, &format!("sha256:{}", hex(&digest)), &output);
        let plain = bench.part("plain listing", [OsStr::new("list"), store.as_os_str()]);
        let ls = Job::new(
            "`ls -f`",
            [OsStr::new("ls"), "-f".as_ref(), store.as_os_str()],
        );
        let runs = bench.sizes.long_runs * 3;
        let series = bench.turns(runs, &[ours, plain, ls])?;
        let what = format!(
            "local hit, 1 KiB, no index, store of {} items",
            count(items)
        );
        rows.push(Row::times(
            &what,
            &series[0],
            &series[1],
            Bound::AtMost(1.7),
        ));
        rows.push(Row::times(&what, &series[0], &series[2], Bound::None));
        fs_err::remove_dir_all(&store)?;
    }
    Ok(rows)
}

fn lookup(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    let (one, eight) = (folder.join("one"), folder.join("eight"));
    let entries = bench.sizes.index_entries;
    let (entries_text, shown) = (entries.to_string(), count(entries));
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let build = bench.part(
        "index",
        ["index", &path(&one), &path(folder), &entries_text],
    );
    let build = once(&bench.scratch, &build)?;
    let per_entry = build.printed("seconds")?.median / entries as f64 * 1e6;

    let first = |name| {
        bench
            .part(name, ["first-lookup", &path(&one)])
            .prepared_by(|| {
                if fixtures::drop_caches() {
                    Ok(())
                } else {
                    Err("not root".into())
                }
            })
    };
    let mut rows = vec![
        Row::value(
            &format!("index bookkeeping, {shown} ready entries"),
            Spread::of([per_entry]),
            " µs an entry",
            Bound::AtMost(1.0),
        )
        .if_missed(DISK_WRITES),
        Row::value(
            &format!("the same, peak memory ({shown} entries, batches of 1,000,000)"),
            mib(build.peak_bytes()),
            " MiB",
            Bound::None,
        ),
    ];
    let what = format!("index of {shown} entries, cold: open and first lookup");
    if fixtures::drop_caches() {
        let cold = &bench.turns(bench.sizes.long_runs, &[first("cold")])?[0];
        let seconds = cold.printed("seconds")?;
        rows.push(
            Row::value(&what, in_ms(seconds), " ms", Bound::AtMost(1.0)).if_missed(COLD_PAGES),
        );
    } else {
        rows.push(Row::not_measured(
            &what,
            "only root can drop the page cache",
        ));
    }

    // The files never change, so both indexes can share the big one.
    fs_err::create_dir(&eight)?;
    for entry in fs_err::read_dir(&one)? {
        let entry = entry?;
        if entry.file_name() != "lock" {
            fs_err::hard_link(entry.path(), eight.join(entry.file_name()))?;
        }
    }
    let mut added = Vec::new();
    for number in 0..7 {
        let first = (entries + number * 1000).to_string();
        let add = bench.part("add", ["add", &path(&eight), &first, "1000"]);
        let add = once(&bench.scratch, &add)?;
        added.push(add.printed("seconds")?.median);
    }
    rows.push(
        Row::value(
            &format!("adding 1,000 entries to {shown}"),
            in_ms(Spread::of(added)),
            " ms",
            Bound::AtMost(10.0),
        )
        .if_missed(FLUSHES),
    );
    fixtures::warm(folder)?;
    let part =
        |name: &str, index: &Path| bench.part(name, ["lookups", &path(index), &entries_text]);
    let series = bench.turns(
        bench.sizes.long_runs,
        &[part("eight segments", &eight), part("one segment", &one)],
    )?;
    let each = [series[0].printed("seconds")?, series[1].printed("seconds")?];
    let rate = Spread {
        min: 1.0 / each[1].max,
        median: 1.0 / each[1].median,
        max: 1.0 / each[1].min,
    };
    rows.push(Row::value(
        &format!("index of {shown} entries, warm: lookups that hit"),
        rate,
        " a second",
        Bound::AtLeast(400_000.0),
    ));
    let micros = |spread: Spread| {
        let micros = |seconds: f64| seconds * 1e6;
        let spread = Spread {
            min: micros(spread.min),
            median: micros(spread.median),
            max: micros(spread.max),
        };
        format!("{} µs", show(spread))
    };
    let ratio = Spread::of([each[0].median / each[1].median]);
    rows.push(
        Row::value(
            "the same with seven segments of 1,000 beside it",
            ratio,
            "×",
            Bound::AtMost(1.5),
        )
        .showing(
            micros(each[0]),
            format!("one segment: {}", micros(each[1])),
            format!("{}×", show(ratio)),
        ),
    );
    Ok(rows)
}

fn copy(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    let len = bench.sizes.copied_bytes;
    let shown = format!("{} MiB", len / MIB);
    let (store, output, peer_output) = (
        folder.join("store"),
        folder.join("output"),
        folder.join("copy"),
    );
    fs_err::create_dir(&store)?;
    let (item, hash) = big_item(&store, len)?;
    let ours = bench
        .fetch_from_store(&store, &hash, &output)
        .prepared_by(|| clear_and_sync(&output));
    let read = bench
        .part("read and hash", [OsStr::new("hash"), item.as_os_str()])
        .prepared_by(|| clear_and_sync(&output));
    let cp = Job::shell(
        "`cp && openssl dgst`",
        "cp \"$1\" \"$2\" && openssl dgst -sha256 \"$2\"",
        [&item, &peer_output],
    )
    .prepared_by(|| clear_and_sync(&peer_output));
    let len_text = len.to_string();
    let memory = bench.part("hash alone, from memory", ["hash-rate", "1", &len_text]);
    let series = bench.turns(bench.sizes.long_runs, &[ours, read, cp, memory])?;
    let what = format!("verified copy of {shown}");
    let mut rows = vec![
        Row::times(&what, &series[0], &series[1], Bound::AtMost(0.9)).if_missed(ONE_STREAM),
        Row::faster(&what, &series[0], &series[2], Bound::AtLeast(1.4)).if_missed(ONE_STREAM),
        Row::times(&what, &series[0], &series[3], Bound::None),
        Row::value(
            "the same, peak memory",
            mib(series[0].peak_bytes()),
            " MiB",
            Bound::AtMost(64.0),
        ),
    ];
    clear(&output)?;
    clear(&peer_output)?;
    let what = format!("reflinked copy of {shown}");
    match Mounted::xfs(folder, len) {
        Ok(mounted) => rows.extend(reflink(bench, &mounted.point, &what)?),
        Err(error) => rows.push(Row::not_measured(&what, &error.to_string())),
    }
    Ok(rows)
}

fn reflink(bench: &Bench, folder: &Path, what: &str) -> Result<Vec<Row>> {
    let (store, output) = (folder.join("store"), folder.join("output"));
    fs_err::create_dir(&store)?;
    let (item, hash) = big_item(&store, bench.sizes.copied_bytes)?;
    let ours = || {
        bench
            .fetch_from_store(&store, &hash, &output)
            .prepared_by(|| clear_and_sync(&output))
    };
    let read = bench
        .part("read and hash", [OsStr::new("hash"), item.as_os_str()])
        .prepared_by(|| clear_and_sync(&output));
    let series = bench.turns(bench.sizes.long_runs, &[ours(), read])?;
    clear_and_sync(&output)?;
    let free = || -> Result<u64> {
        rustix::fs::sync();
        let stat = rustix::fs::statvfs(folder)?;
        Ok(stat.f_bfree * stat.f_frsize)
    };
    let before = free()?;
    once(&bench.scratch, &ours())?;
    let written = before.saturating_sub(free()?);
    Ok(vec![
        Row::times(what, &series[0], &series[1], Bound::None),
        Row::value(
            "the same, data written",
            mib(written),
            " MiB",
            Bound::AtMost(1.0),
        ),
    ])
}

/// Puts a file into a store as an item, under another name than the one that will be asked for.
fn big_item(store: &Path, len: u64) -> Result<(PathBuf, String)> {
    let unnamed = store.join("unnamed");
    let hash = fixtures::file(&unnamed, len, 1)?;
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(hash.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair)?, 16)?;
    }
    let item = store.join(item_name("big-file-1.0", &digest)?);
    fs_err::rename(unnamed, &item)?;
    rustix::fs::sync();
    Ok((item, format!("sha256:{hash}")))
}

fn item_name(name: &str, sha256: &[u8; 32]) -> Result<String> {
    use store_index::address::{ContentAddress, Method};
    use store_index::digest::Digest;
    use store_index::store_path::{FixedOutput, ItemName};
    let address = ContentAddress::new(Method::Flat, Digest::sha256(*sha256)).ok_or("no address")?;
    Ok(FixedOutput::new(LOGICAL_STORE, &address).base_name(&ItemName::new(name)?))
}

/// A file system in a file.
struct Mounted {
    point: PathBuf,
}

impl Mounted {
    fn xfs(folder: &Path, content: u64) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can mount".into());
        }
        let (image, point) = (folder.join("xfs.image"), folder.join("mnt"));
        // XFS wants 300 MiB for itself.
        let file = fs_err::File::create(&image)?;
        file.set_len(content * 2 + 400 * MIB)?;
        fs_err::create_dir(&point)?;
        call("mkfs.xfs", [OsStr::new("-q"), image.as_os_str()])?;
        call(
            "mount",
            [
                OsStr::new("-o"),
                "loop".as_ref(),
                image.as_os_str(),
                point.as_os_str(),
            ],
        )?;
        Ok(Self { point })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        call("umount", [&self.point]).ok();
    }
}

fn call<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Result<()> {
    let done = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!(
        "{program}: {}",
        String::from_utf8_lossy(&done.stderr).trim()
    )
    .into())
}

fn tree(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    let (root, index) = (folder.join("tree"), folder.join("index"));
    let bytes = fixtures::tree(&root, bench.sizes.tree_files, bench.sizes.tree_bytes)?;
    let shown = format!(
        "index {:.1} GB in {} files",
        bytes as f64 / 1e9,
        count(bench.sizes.tree_files)
    );
    let cores = bench.cores.to_string();
    let jobs = |prepare: fn(&Path) -> Result<()>| {
        let words = [
            bench.store_index.as_os_str(),
            "update".as_ref(),
            root.as_os_str(),
            "--index".as_ref(),
            index.as_os_str(),
        ];
        let ours =
            Job::new("store-index", words).prepared_by(move || prepare(&folder.join("index")));
        let peer = Job::shell(
            "`xargs -P openssl`",
            "find \"$1\" -type f -print0 | xargs -0 -P \"$2\" -n 32 openssl dgst -sha256",
            [root.as_os_str(), cores.as_ref()],
        )
        .prepared_by(move || prepare(&folder.join("index")));
        [ours, peer]
    };
    fixtures::warm(&root)?;
    let mut warm = Vec::from(jobs(clear_and_sync));
    let per_core = (bytes / bench.cores as u64).to_string();
    warm.push(bench.part(
        "what the cores hash",
        ["hash-rate", cores.as_str(), &per_core],
    ));
    warm.push(bench.part(
        "threads that read and hash",
        [OsStr::new("hash-tree"), cores.as_ref(), root.as_os_str()],
    ));
    let series = bench.turns(bench.sizes.long_runs, &warm)?;
    let what = format!("{shown}, warm");
    let mut rows = vec![
        Row::faster(&what, &series[0], &series[1], Bound::AtLeast(1.2)),
        Row::faster(&what, &series[0], &series[2], Bound::AtLeast(0.95)).if_missed(COPIES_PAGES),
        Row::faster(&what, &series[0], &series[3], Bound::None),
        Row::value(
            "the same, peak memory",
            mib(series[0].peak_bytes()),
            " MiB",
            Bound::AtMost(256.0),
        ),
    ];
    let what = format!("{shown}, cold");
    if fixtures::drop_caches() {
        let cold = jobs(|path| {
            clear(path)?;
            fixtures::drop_caches();
            Ok(())
        });
        let series = bench.turns(bench.sizes.long_runs.div_ceil(2), &cold)?;
        rows.push(Row::faster(
            &what,
            &series[0],
            &series[1],
            Bound::AtLeast(1.4),
        ));
    } else {
        rows.push(Row::not_measured(
            &what,
            "only root can drop the page cache",
        ));
    }
    Ok(rows)
}

fn refresh(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    let (store, index) = (folder.join("store"), folder.join("index"));
    fixtures::link_names(&store, bench.sizes.links)?;
    let mut place = OsString::from(format!("{LOGICAL_STORE}="));
    place.push(&store);
    let update = || {
        Job::new(
            "store-index",
            [
                bench.store_index.as_os_str(),
                "update".as_ref(),
                "--store".as_ref(),
                &place,
                "--index".as_ref(),
                index.as_os_str(),
            ],
        )
    };
    let first = once(&bench.scratch, &update())?;
    let links = store.join(".links");
    let plain = bench.part("plain listing", [OsStr::new("list"), links.as_os_str()]);
    let series = bench.turns(bench.sizes.long_runs, &[update(), plain])?;
    let shown = count(bench.sizes.links);
    Ok(vec![
        Row::times(
            &format!("refresh, nothing changed, {shown} links"),
            &series[0],
            &series[1],
            Bound::AtMost(1.5),
        )
        .if_missed(TWO_CORES),
        Row::value(
            "the same, peak memory",
            mib(series[0].peak_bytes()),
            " MiB",
            Bound::None,
        ),
        Row::value(
            &format!("first update, {shown} links of a few bytes"),
            first.wall(),
            " s",
            Bound::None,
        ),
    ])
}

fn download(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    let (output, peer_output) = (folder.join("output"), folder.join("peer"));
    fs_err::create_dir(folder.join("www"))?;
    let len = bench.sizes.downloaded_bytes;
    let hash = fixtures::file(&folder.join("www/file"), len, 2)?;
    let server = Nginx::start(folder)?;
    let url = server.url("file");
    let digest = hash;
    let hash = format!("sha256:{digest}");
    let words: [&OsStr; 8] = [
        bench.fetch.as_ref(),
        "--no-store".as_ref(),
        "--no-media".as_ref(),
        "--hash".as_ref(),
        hash.as_ref(),
        "-o".as_ref(),
        output.as_ref(),
        url.as_ref(),
    ];
    let ours = Job::new("fetch", words).prepared_by(|| clear_and_sync(&output));
    let shell = |name, line| {
        let args = [
            OsStr::new(&url),
            peer_output.as_os_str(),
            OsStr::new(&digest),
        ];
        Job::shell(name, line, args).prepared_by(|| clear_and_sync(&peer_output))
    };
    let jobs = [
        ours,
        shell(
            "`curl | openssl dgst`",
            "curl -sS \"$1\" | openssl dgst -sha256",
        ),
        shell(
            "`curl | tee | openssl dgst`",
            "curl -sS \"$1\" | tee \"$2\" | openssl dgst -sha256",
        ),
        shell(
            "`curl -o && openssl dgst`",
            "curl -sS -o \"$2\" \"$1\" && openssl dgst -sha256 \"$2\"",
        ),
        shell(
            "`aria2c -x1`",
            "exec aria2c -q --no-conf -x1 --file-allocation=none --checksum=sha-256=\"$3\" \
             -d \"${2%/*}\" -o \"${2##*/}\" \"$1\"",
        ),
    ];
    let series = bench.turns(bench.sizes.long_runs, &jobs)?;
    let what = format!("download {} MiB, loopback http, hashed", len / MIB);
    let processor = format!("{what}, processor time");
    Ok(vec![
        Row::times(&what, &series[0], &series[1], Bound::AtMost(0.75)).if_missed(TWO_CORES),
        Row::cpu(&processor, &series[0], &series[1], Bound::AtMost(0.6)).if_missed(KEEPS_FILE),
        Row::times(&what, &series[0], &series[2], Bound::None),
        Row::cpu(&processor, &series[0], &series[2], Bound::None),
        Row::times(&what, &series[0], &series[3], Bound::None),
        Row::times(&what, &series[0], &series[4], Bound::None),
        Row::cpu(&processor, &series[0], &series[4], Bound::None),
        Row::memory(&format!("{what}, peak memory"), &series[0], &series[4]),
        Row::value(
            "the same, peak memory",
            mib(series[0].peak_bytes()),
            " MiB",
            Bound::AtMost(64.0),
        ),
    ])
}

fn in_ms(seconds: Spread) -> Spread {
    Spread {
        min: seconds.min * 1e3,
        median: seconds.median * 1e3,
        max: seconds.max * 1e3,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A number of bytes, in words.
pub(crate) fn in_words(bytes: u64) -> String {
    match bytes / MIB {
        0 => format!("{} KiB", bytes / 1024),
        mib => format!("{mib} MiB"),
    }
}

/// A number of things, in words where that is shorter.
fn count(number: u64) -> String {
    match number {
        number if number >= 1_000_000 && number.is_multiple_of(1_000_000) => {
            format!("{} million", number / 1_000_000)
        }
        number if number >= 10_000 => format!("{},{:03}", number / 1000, number % 1000),
        number => number.to_string(),
    }
}
