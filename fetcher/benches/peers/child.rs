//! The parts of the work that are measured by themselves: this program runs itself for each, so that every one is a
//! whole process. Results are printed as lines of `name value`.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rustix::fs::{Mode, OFlags, RawDir};
use store_index::address::{ContentAddress, Method};
use store_index::digest::{Algorithm, Digest, Hasher};
use store_index::index::Index;

use crate::rows::git;
use crate::{Result, fixtures};

/// How many lookups are timed together.
const LOOKUPS: u64 = 400_000;

/// As many candidates as `fetch` asks an index for.
const CANDIDATES: usize = 8;

/// As much of a directory as the C library reads at a time, in bytes.
const LISTING_BUFFER_LEN: usize = 32 * 1024;

/// Runs one of them.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let seconds = match args.as_slice() {
        ["list", directory] => return list(Path::new(directory)),
        ["git-repository", path, store, files, commits] => {
            let (path, store) = (Path::new(path), Path::new(store));
            return git::make(path, store, files.parse()?, commits.parse()?);
        }
        ["hash", file] => return hash(Path::new(file)),
        ["hash-rate", threads, bytes] => hash_rate(threads.parse()?, bytes.parse()?)?,
        ["hash-tree", threads, root] => hash_tree(threads.parse()?, Path::new(root))?,
        ["index", directory, store, count] => {
            fixtures::index(Path::new(directory), Path::new(store), count.parse()?)?
        }
        ["add", directory, first, count] => {
            fixtures::add(Path::new(directory), first.parse()?, count.parse()?)?
        }
        ["first-lookup", directory] => first_lookup(Path::new(directory))?,
        ["lookups", directory, entries] => lookups(Path::new(directory), entries.parse()?)?,
        _ => return Err(format!("unknown part {args:?}").into()),
    };
    writeln!(std::io::stdout(), "seconds {seconds}")?;
    Ok(())
}

/// One plain listing of a directory.
fn list(directory: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty())?;
    let mut buffer = Vec::with_capacity(LISTING_BUFFER_LEN);
    let mut entries = 0_u64;
    let mut listing = RawDir::new(opened, buffer.spare_capacity_mut());
    while let Some(entry) = listing.next() {
        std::hint::black_box(entry?.file_name());
        entries += 1;
    }
    writeln!(std::io::stdout(), "entries {entries}")?;
    Ok(())
}

/// Reads and hashes a file, in one thread.
fn hash(path: &Path) -> Result<()> {
    let digest = hash_file(path)?.ok_or("no digest")?;
    writeln!(std::io::stdout(), "sha256 {}", digest.to_hex())?;
    Ok(())
}

fn hash_file(path: &Path) -> std::io::Result<Option<Digest>> {
    let mut file = fs_err::File::open(path)?;
    let mut buffer = vec![0; 256 * 1024];
    let mut hasher = Hasher::new(Algorithm::Sha256);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..count]);
    }
}

/// Hashes what lies in memory, so many bytes in each thread.
fn hash_rate(threads: u64, bytes: u64) -> Result<f64> {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let buffer = vec![7; 256 * 1024];
                let mut hasher = Hasher::new(Algorithm::Sha256);
                for _ in 0..bytes.div_ceil(buffer.len() as u64) {
                    hasher.update(&buffer);
                }
                std::hint::black_box(hasher.finish());
            });
        }
    });
    Ok(begun.elapsed().as_secs_f64())
}

/// Reads and hashes every file below a folder, in so many threads that do nothing else.
fn hash_tree(threads: u64, root: &Path) -> Result<f64> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry?;
        if entry.file_type().is_file() {
            files.push(entry.into_path());
        }
    }
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| -> std::io::Result<()> {
                    while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        std::hint::black_box(hash_file(file)?);
                    }
                    Ok(())
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })?;
    Ok(begun.elapsed().as_secs_f64())
}

fn first_lookup(directory: &Path) -> Result<f64> {
    let begun = Instant::now();
    let index = Index::open(directory)?;
    look_up(&index, 4711)?;
    Ok(begun.elapsed().as_secs_f64())
}

fn lookups(directory: &Path, entries: u64) -> Result<f64> {
    let index = Index::open(directory)?;
    let mut numbers = fixtures::Numbers::new(5);
    let begun = Instant::now();
    for _ in 0..LOOKUPS {
        look_up(&index, numbers.draw() % entries)?;
    }
    Ok(begun.elapsed().as_secs_f64() / LOOKUPS as f64)
}

fn look_up(index: &Index, number: u64) -> Result<()> {
    let digest = Digest::new(Algorithm::Sha256, &fixtures::digest(number)).ok_or("no digest")?;
    let address = ContentAddress::new(Method::Flat, digest).ok_or("no address")?;
    match index.look_up(&address, CANDIDATES)?.as_slice() {
        [_] => Ok(()),
        others => Err(format!("entry {number} is there {} times", others.len()).into()),
    }
}
