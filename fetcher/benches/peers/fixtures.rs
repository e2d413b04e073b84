//! What the programs are let loose on: files, stores and indexes of our own making, the same in every run.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::UNIX_EPOCH;

use store_index::digest::{Algorithm, Hasher};
use store_index::index_writer::IndexWriter;
use store_index::key::{Digests, KeyKind, KeySet};
use store_index::links::{self, LinkName};
use store_index::root::Root;
use store_index::segment::batch::Batch;
use store_index::segment::reader::IndexedFile;
use store_index::watch::{NoProgress, Watch};
use store_index::{nar, nix32};

use crate::Result;

/// The store directory that the paths of our stores are computed with.
pub(crate) const LOGICAL_STORE: &str = "/bench/store";

/// ext4 takes 65,000 hard links to a file.
const NAMES_A_FILE: u64 = 60_000;

/// A segment is written when so many objects wait, as `store-index update` does by memory.
const BATCH_LEN: u64 = 1_000_000;

/// Numbers without a pattern, the same in every run (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.draw().to_le_bytes()[..part.len()]);
        }
    }
}

/// The digest of the entry with this number in an index without files behind it.
pub(crate) fn digest(number: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    Numbers::new(number.wrapping_mul(0x5851_f42d_4c95_7f2d)).fill(&mut bytes);
    bytes
}

/// Writes a file of `len` bytes and returns the SHA-256 of it in hex.
pub(crate) fn file(path: &Path, len: u64, seed: u64) -> Result<String> {
    let mut numbers = Numbers::new(seed);
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 1024 * 1024];
    let mut file = fs_err::File::create(path)?;
    let mut left = len;
    while left > 0 {
        let part = &mut buffer[..left.min(1024 * 1024) as usize];
        numbers.fill(part);
        hasher.update(part);
        file.write_all(part)?;
        left -= part.len() as u64;
    }
    let digest = hasher.finish().ok_or("no digest")?;
    Ok(digest.to_hex())
}

/// Makes a folder of about `bytes` bytes in `files` files, most of them small and most bytes in large ones.
pub(crate) fn tree(root: &Path, files: u64, bytes: u64) -> Result<u64> {
    let mut numbers = Numbers::new(3);
    // The square of a number between 0 and 1 is a third on average.
    let largest = bytes / files * 3;
    let mut written = 0;
    for number in 0..files {
        let folder = root.join(format!("part-{:02}", number % 50));
        fs_err::create_dir_all(&folder)?;
        let part = (numbers.draw() >> 40) as f64 / (1u64 << 24) as f64;
        let len = (largest as f64 * part * part) as u64 + 1;
        file(
            &folder.join(format!("file-{number:05}.tar.gz")),
            len,
            number,
        )?;
        written += len;
    }
    Ok(written)
}

/// Makes a tree like that of a large program's source: so many files of 13 kB on average, a hundred to a folder.
/// Returns how many bytes that is.
pub(crate) fn source_tree(root: &Path, files: u64) -> Result<u64> {
    /// The square of a number between 0 and 1 is a third on average.
    const LARGEST: f64 = 39_000.0;
    let mut numbers = Numbers::new(6);
    let mut content = vec![0; 1024 * 1024];
    numbers.fill(&mut content);
    let mut written = 0;
    for number in 0..files {
        let folder = root.join(format!("part-{:02}/{:03}", number / 3000, number / 100));
        if number.is_multiple_of(100) {
            fs_err::create_dir_all(&folder)?;
        }
        let part = (numbers.draw() >> 40) as f64 / (1u64 << 24) as f64;
        let len = (LARGEST * part * part) as usize;
        let start = (numbers.draw() % 1_000_000) as usize;
        fs_err::write(
            folder.join(format!("file-{number:05}.c")),
            &content[start..(start + len).min(content.len())],
        )?;
        written += len as u64;
    }
    Ok(written)
}

/// Writes a checksum list of all files of a folder, as `sha256sum` does.
pub(crate) fn checksums(root: &Path) -> Result<()> {
    let done = std::process::Command::new("sh")
        .args(["-c", "cd \"$1\" && find . -type f -print0 | xargs -0 openssl dgst -sha256 -r | tr '*' ' ' >SHA256SUMS.new && mv SHA256SUMS.new SHA256SUMS", "sh"])
        .arg(root)
        .status()?;
    if done.success() {
        Ok(())
    } else {
        Err("cannot make checksums".into())
    }
}

/// Writes an index of a folder with so many files that do not exist, as of a medium, and with those that do.
pub(crate) fn folder_index(directory: &Path, root: &Path, first: u64, count: u64) -> Result<()> {
    let interrupt = std::sync::atomic::AtomicBool::new(false);
    let watch = Watch {
        interrupt: &interrupt,
        progress: &NoProgress,
    };
    let kinds = Some(KeySet::always());
    let mut writer = IndexWriter::open(directory, &Root::folder(root)?, kinds, false, watch)?;
    let mut batch = Batch::new(KeySet::always());
    let mut push = |path: String, size, flat| -> Result<()> {
        let file = IndexedFile {
            path: path.into_bytes(),
            size,
            mtime_ns: 0,
            inode: 0,
            hint: false,
        };
        batch.push_file(file, &digests(flat)?);
        Ok(())
    };
    for entry in fs_err::read_dir(root)? {
        let entry = entry?;
        let content = fs_err::read(entry.path())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        push(
            name,
            content.len() as u64,
            store_index::digest::sha256(&content),
        )?;
    }
    for number in first..first + count {
        let path = format!("pool/main/{:03}/file-{number:07}.tar.gz", number / 1000);
        push(path, number, digest(number))?;
    }
    writer.append(&batch)?;
    writer.finish(None)?;
    Ok(())
}

/// Makes a directory that looks like a store with so many items: names of the usual form, hard links to a few files.
pub(crate) fn item_names(store: &Path, count: u64) -> Result<()> {
    let mut numbers = Numbers::new(4);
    hard_links(store, count, |number| {
        let mut digest = [0; 20];
        numbers.fill(&mut digest);
        let words = ["lib", "python3.12-", "source-", "perl5.40-", "texlive-"];
        let word = words[number as usize % words.len()];
        let (major, minor) = (numbers.draw() % 10, numbers.draw() % 100);
        format!(
            "{}-{word}package{}-{major}.{minor}",
            nix32::encode(&digest),
            number % 5000
        )
    })
}

/// Makes a `.links` with so many names.
pub(crate) fn link_names(store: &Path, count: u64) -> Result<()> {
    let links = store.join(".links");
    fs_err::create_dir_all(&links)?;
    hard_links(&links, count, |number| nix32::encode(&digest(number)))
}

fn hard_links(folder: &Path, count: u64, mut name: impl FnMut(u64) -> String) -> Result<()> {
    let mut first = None;
    for number in 0..count {
        let path = folder.join(name(number));
        match &first {
            Some(first) if number % NAMES_A_FILE != 0 => fs_err::hard_link(first, &path)?,
            _ => {
                fs_err::write(&path, format!("file {number}\n"))?;
                first = Some(path);
            }
        }
    }
    Ok(())
}

/// Puts a file into the store's `.links`.
pub(crate) fn link(store: &Path, content: &[u8]) -> Result<()> {
    let mut serialised = nar::file_prefix(false, content.len() as u64);
    serialised.extend(content);
    serialised.extend(nar::file_suffix(content.len() as u64));
    let name = LinkName(store_index::digest::sha256(&serialised));
    let links = store.join(".links");
    fs_err::create_dir_all(&links)?;
    Ok(fs_err::write(links.join(name.to_string()), content)?)
}

/// Writes an index of a store with `count` links that do not exist and those that do, as of the store's present
/// modification time. Returns the seconds it took.
pub(crate) fn index(directory: &Path, store: &Path, count: u64) -> Result<f64> {
    let begun = std::time::Instant::now();
    let interrupt = std::sync::atomic::AtomicBool::new(false);
    let mut writer = open(directory, &interrupt)?;
    let mut batch = Batch::new(KeySet::always());
    for number in 0..count {
        // A link's name is another digest than that of its bytes.
        batch.push_link(LinkName(digest(!number)), number, &digests(digest(number))?);
        if batch.len() as u64 == BATCH_LEN {
            writer.append(&batch)?;
            batch = Batch::new(KeySet::always());
        }
    }
    let mut real = Vec::new();
    links::for_each(store, |name, _inode| real.push(name))?;
    for name in real {
        let content = fs_err::read(store.join(name.relative_path()))?;
        let flat = store_index::digest::sha256(&content);
        batch.push_link(name, content.len() as u64, &digests(flat)?);
    }
    writer.append(&batch)?;
    let modified = fs_err::metadata(store)?.modified()?;
    let modified_ns = modified.duration_since(UNIX_EPOCH)?.as_nanos();
    writer.finish(Some(i64::try_from(modified_ns)?))?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Adds links that do not exist to an index. Returns the seconds it took.
pub(crate) fn add(directory: &Path, first: u64, count: u64) -> Result<f64> {
    let begun = std::time::Instant::now();
    let interrupt = std::sync::atomic::AtomicBool::new(false);
    let mut writer = open(directory, &interrupt)?;
    let mut batch = Batch::new(KeySet::always());
    for number in first..first + count {
        batch.push_link(LinkName(digest(!number)), number, &digests(digest(number))?);
    }
    writer.append(&batch)?;
    writer.finish(None)?;
    Ok(begun.elapsed().as_secs_f64())
}

fn open(directory: &Path, interrupt: &std::sync::atomic::AtomicBool) -> Result<IndexWriter> {
    let watch = Watch {
        interrupt,
        progress: &NoProgress,
    };
    Ok(IndexWriter::open(
        directory,
        &Root::store(LOGICAL_STORE),
        Some(KeySet::always()),
        false,
        watch,
    )?)
}

fn digests(flat: [u8; 32]) -> Result<Digests> {
    let mut digests = Digests::default();
    let set = digests.set(
        KeyKind::FlatSha256,
        &store_index::digest::Digest::sha256(flat),
    );
    set.then_some(digests).ok_or_else(|| "not a SHA-256".into())
}

/// Reads every file below a folder, so that it is in the page cache.
pub(crate) fn warm(folder: &Path) -> Result<()> {
    let mut buffer = vec![0; 1024 * 1024];
    for entry in walkdir::WalkDir::new(folder) {
        let entry = entry?;
        if entry.file_type().is_file() {
            let mut file = fs_err::File::open(entry.path())?;
            while file.read(&mut buffer)? > 0 {}
        }
    }
    Ok(())
}

/// Writes back what is dirty and forgets what is cached. Returns false if that is not allowed.
pub(crate) fn drop_caches() -> bool {
    rustix::fs::sync();
    fs_err::write("/proc/sys/vm/drop_caches", "3").is_ok()
}
