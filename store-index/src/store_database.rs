//! The store's own database: NAR hashes and content addresses of every valid item, without reading one.
//!
//! Nix and Guix keep the table `ValidPaths` in SQLite, in write-ahead mode, world-readable. It is read here beside a
//! daemon that writes, as any user, and without leaving a file behind. What it says is a hint: a stale or torn answer
//! costs a candidate, never correctness, and every error may be taken for a miss.
//!
//! SQLite creates `-wal` and `-shm` files when it opens such a database, even for reading. So while a writer's lie
//! there they are used, and otherwise the database is opened as one that nobody changes; when that turns out wrong
//! it is opened again. Between looking and opening a writer may remove its files, and who may write there would then
//! create them anew: harmless, since the next writer removes them.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row};

use crate::address::{ContentAddress, FlatHash, Method, NarHash};
use crate::hash_text::{Base, HashForm, parse};
use crate::store_path::{ItemName, split_base_name};

/// The longest value that is read, in bytes: signatures and references of an item have a few hundred.
const MAX_VALUE_LEN: i32 = 1 << 20;

/// The most rows that are read: a hundred times the largest stores, and an end where a file is made to have none.
const MAX_ROWS: u64 = 100_000_000;

/// The most items returned for one NAR hash: the same tree under more names helps nobody.
const MAX_ITEMS_OF_A_HASH: u32 = 64;

/// How long a lock of the writer is waited for. Readers meet one only while a crash is being repaired.
const BUSY_TIMEOUT: Duration = Duration::from_millis(250);

/// A valid item of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidItem {
    /// `<digest>-<name>`, checked.
    pub base_name: String,
    /// The NAR hash of the item.
    pub nar_hash: NarHash,
    /// The length of the NAR in bytes, if it is recorded.
    pub nar_size: Option<u64>,
    /// What the item's path was computed from, where Nix recorded it. A text item, which Nix calls `text:`, is told
    /// by the flat hash of its content.
    pub content_address: Option<ContentAddress>,
}

/// Why a database could not be read. Whatever it is, the answer is the same as if there were none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// The file cannot be looked at.
    #[error("cannot open the store's database: {0}")]
    Io(#[source] io::Error),
    /// Something else than a file lies there.
    #[error("the store's database {} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// SQLite failed.
    #[error("cannot read the store's database {}: {source}", .path.display())]
    Read {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A database of something else.
    #[error("{} has no table of valid paths", .0.display())]
    NoTable(PathBuf),
    /// Somebody wrote while it was read as one that nobody changes.
    #[error("{} was changed while it was read", .0.display())]
    Changed(PathBuf),
}

/// The database of a store, open. Not meant to be kept for long: while it is open, a writer cannot tidy up.
#[derive(Debug)]
pub struct StoreDatabase {
    connection: Connection,
    path: PathBuf,
    /// What every path in it begins with: the logical store and a slash.
    prefix: String,
    /// The file as it was when it was opened as one that nobody changes; `None` if it was opened beside a writer.
    frozen: Option<Stamp>,
    /// Guix has no such column.
    has_content_addresses: bool,
}

/// What changes when a database does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Whether both files of a writer lie beside it; after a crash they do without one.
    writers_files: bool,
}

/// Returns where a store's database lies. `logical` is the store as it is written in paths, `real` where its files
/// are; `state_dir` is what `NIX_STATE_DIR` or `GUIX_STATE_DIRECTORY` says, if it does.
pub fn default_path(logical: &Path, real: &Path, state_dir: Option<&Path>) -> Option<PathBuf> {
    const FILE: &str = "db/db.sqlite";
    if let Some(state_dir) = state_dir {
        return Some(state_dir.join(FILE));
    }
    if logical == Path::new("/gnu/store") {
        // Another system's files, mounted at /mnt, have their state in /mnt too.
        let gnu = real.parent().filter(|_| real.ends_with("gnu/store"))?;
        return Some(gnu.parent()?.join("var/guix").join(FILE));
    }
    Some(real.parent()?.join("var/nix").join(FILE))
}

impl StoreDatabase {
    /// Opens the database of the store with a logical directory such as `/nix/store`. `None` if there is none.
    pub fn open(logical: &str, path: &Path) -> Result<Option<Self>, DatabaseError> {
        let path = std::path::absolute(path).map_err(DatabaseError::Io)?;
        let Some(stamp) = stamp(&path)? else {
            return Ok(None);
        };
        let prefix = format!("{}/", logical.trim_end_matches('/'));
        if stamp.writers_files {
            match Self::connect(&path, &prefix, None) {
                Ok(database) => return Ok(Some(database)),
                // Files of a writer that crashed, which only a writer can repair.
                Err(DatabaseError::Read { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Self::connect(&path, &prefix, Some(stamp)).map(Some)
    }

    fn connect(path: &Path, prefix: &str, frozen: Option<Stamp>) -> Result<Self, DatabaseError> {
        let read = |source| DatabaseError::Read {
            path: path.to_owned(),
            source,
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(uri(path, frozen.is_some()), flags)
            .and_then(|connection| restrict(&connection).map(|()| connection))
            .map_err(read)?;
        // A view or virtual table of that name could run for ever; theirs is a plain table.
        let has_table = connection
            .query_row(
                "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'ValidPaths' AND sql LIKE 'CREATE TABLE%'",
                (),
                |_| Ok(()),
            )
            .optional()
            .map_err(read)?
            .is_some();
        if !has_table || !has_columns(&connection, "path, hash, narSize") {
            return Err(DatabaseError::NoTable(path.to_owned()));
        }
        Ok(Self {
            has_content_addresses: has_columns(&connection, "ca"),
            connection,
            path: path.to_owned(),
            prefix: prefix.to_owned(),
            frozen,
        })
    }

    /// Hands out every valid item, in no order. Returns how many rows were left out because they make no sense.
    /// After an error the items handed out before are hints as good as any.
    pub fn for_each_valid(&self, mut each: impl FnMut(ValidItem)) -> Result<u64, DatabaseError> {
        let columns = if self.has_content_addresses {
            "path, hash, narSize, ca"
        } else {
            "path, hash, narSize, NULL"
        };
        let mut skipped = 0;
        let result = (|| {
            let mut statement = self
                .connection
                .prepare(&format!("SELECT {columns} FROM ValidPaths"))?;
            let mut rows = statement.query(())?;
            let mut count = 0;
            while let Some(row) = rows.next()? {
                count += 1;
                if count > MAX_ROWS {
                    break;
                }
                match self.item(row) {
                    Some(item) => each(item),
                    None => skipped += 1,
                }
            }
            Ok(())
        })();
        self.checked(result)?;
        if self.is_outdated() {
            return Err(DatabaseError::Changed(self.path.clone()));
        }
        Ok(skipped)
    }

    /// Returns the base names of items that have this NAR hash. Reads the whole table: it has no index by hash.
    pub fn items_with_nar_hash(&mut self, hash: &NarHash) -> Result<Vec<String>, DatabaseError> {
        let form = |base| hash.0.in_form(HashForm::Named(base)).to_string();
        let (hex, nix32) = (form(Base::Hex), form(Base::Nix32));
        self.ask(Vec::is_empty, |database| {
            let mut statement = database
                .connection
                .prepare("SELECT path FROM ValidPaths WHERE hash IN (?1, ?2) LIMIT ?3")?;
            let mut rows = statement.query((&hex, &nix32, MAX_ITEMS_OF_A_HASH))?;
            let mut names = Vec::new();
            while let Some(row) = rows.next()? {
                names.extend(database.base_name(row.get_ref(0)?));
            }
            Ok(names)
        })
    }

    /// Says whether an item is valid, by its base name.
    pub fn is_valid(&mut self, base_name: &str) -> Result<bool, DatabaseError> {
        let path = format!("{}{base_name}", self.prefix);
        self.ask(
            |valid| !valid,
            |database| {
                let mut statement = database
                    .connection
                    .prepare("SELECT 1 FROM ValidPaths WHERE path = ?1")?;
                statement.exists((&path,))
            },
        )
    }

    /// Asks a question; after an error or a miss once more, if the database was opened as one that nobody changes
    /// and somebody has.
    fn ask<T>(
        &mut self,
        is_miss: impl Fn(&T) -> bool,
        question: impl Fn(&Self) -> Result<T, rusqlite::Error>,
    ) -> Result<T, DatabaseError> {
        let answer = question(self);
        if !answer.as_ref().is_ok_and(|value| !is_miss(value)) && self.is_outdated() {
            let prefix = self.prefix.clone();
            if let Some(again) = Self::open(&prefix, &self.path)? {
                *self = again;
                let answer = question(self);
                return self.checked(answer);
            }
        }
        self.checked(answer)
    }

    /// Returns true if the database was opened as one that nobody changes, and somebody has or is about to.
    fn is_outdated(&self) -> bool {
        self.frozen
            .is_some_and(|then| stamp(&self.path).ok().flatten() != Some(then))
    }

    fn checked<T>(&self, result: Result<T, rusqlite::Error>) -> Result<T, DatabaseError> {
        result.map_err(|source| DatabaseError::Read {
            path: self.path.clone(),
            source,
        })
    }

    fn item(&self, row: &Row<'_>) -> Option<ValidItem> {
        let hash = parse(text(row.get_ref(1).ok()?)?, None).ok()?;
        let nar_size = match row.get_ref(2).ok()? {
            ValueRef::Integer(size) => Some(u64::try_from(size).ok()?),
            _ => None,
        };
        Some(ValidItem {
            base_name: self.base_name(row.get_ref(0).ok()?)?,
            nar_hash: NarHash(hash.digest),
            nar_size,
            content_address: text(row.get_ref(3).ok()?).and_then(content_address),
        })
    }

    fn base_name(&self, value: ValueRef<'_>) -> Option<String> {
        let base_name = text(value)?.strip_prefix(&self.prefix)?;
        let (_, name) = split_base_name(base_name)?;
        ItemName::new(name).ok()?;
        Some(base_name.to_owned())
    }
}

/// Reads the form in which Nix records what a path was computed from, such as `fixed:r:sha256:…`.
fn content_address(text: &str) -> Option<ContentAddress> {
    if let Some(hash) = text.strip_prefix("text:") {
        return Some(ContentAddress::Flat(FlatHash(
            parse(hash, None).ok()?.digest,
        )));
    }
    let rest = text.strip_prefix("fixed:")?;
    let (method, hash) = if let Some(hash) = rest.strip_prefix("r:") {
        (Method::Nar, hash)
    } else if let Some(hash) = rest.strip_prefix("git:") {
        (Method::Git, hash)
    } else {
        (Method::Flat, rest)
    };
    ContentAddress::new(method, parse(hash, None).ok()?.digest)
}

fn text(value: ValueRef<'_>) -> Option<&str> {
    match value {
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// Limits what a database that is none of theirs could make SQLite do.
fn restrict(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_LEN)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    Ok(())
}

fn has_columns(connection: &Connection, columns: &str) -> bool {
    connection
        .prepare(&format!("SELECT {columns} FROM ValidPaths"))
        .is_ok()
}

fn uri(path: &Path, frozen: bool) -> String {
    let mut uri = String::from("file://");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri.push_str(if frozen {
        "?mode=ro&immutable=1"
    } else {
        "?mode=ro"
    });
    uri
}

/// Says whether both files of a writer lie beside the database.
fn has_writers_files(path: &Path) -> bool {
    ["-wal", "-shm"].into_iter().all(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        Path::new(&name).exists()
    })
}

/// Returns the state of the file, `None` if there is none.
fn stamp(path: &Path) -> Result<Option<Stamp>, DatabaseError> {
    let metadata = match fs_err::metadata(path) {
        Ok(metadata) => metadata,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(DatabaseError::Io(error)),
    };
    // Opening a pipe would wait for ever.
    if !metadata.is_file() {
        return Err(DatabaseError::NotAFile(path.to_owned()));
    }
    Ok(Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        writers_files: has_writers_files(path),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_lie_where_their_stores_say() {
        let found = |logical: &str, real: &str, state: Option<&str>| {
            default_path(Path::new(logical), Path::new(real), state.map(Path::new))
                .map(|path| path.display().to_string())
        };
        for (logical, real, state, path) in [
            (
                "/nix/store",
                "/nix/store",
                None,
                "/nix/var/nix/db/db.sqlite",
            ),
            ("/gnu/store", "/gnu/store", None, "/var/guix/db/db.sqlite"),
            (
                "/nix/store",
                "/mnt/nix/store",
                None,
                "/mnt/nix/var/nix/db/db.sqlite",
            ),
            (
                "/gnu/store",
                "/mnt/gnu/store",
                None,
                "/mnt/var/guix/db/db.sqlite",
            ),
            (
                "/home/me/nix/store",
                "/home/me/nix/store",
                None,
                "/home/me/nix/var/nix/db/db.sqlite",
            ),
            (
                "/nix/store",
                "/nix/store",
                Some("/state"),
                "/state/db/db.sqlite",
            ),
        ] {
            assert_eq!(found(logical, real, state).as_deref(), Some(path));
        }
        assert_eq!(found("/gnu/store", "/host/store", None), None);
    }

    #[test]
    fn content_addresses_of_every_kind() {
        let digest = "sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq";
        for (text, method) in [
            (format!("fixed:{digest}"), Some(Method::Flat)),
            (format!("fixed:r:{digest}"), Some(Method::Nar)),
            (format!("fixed:git:{digest}"), Some(Method::Git)),
            (format!("text:{digest}"), Some(Method::Flat)),
            (format!("other:{digest}"), None),
            (
                "fixed:git:md5:d41d8cd98f00b204e9800998ecf8427e".into(),
                None,
            ),
            ("fixed:".into(), None),
            ("".into(), None),
        ] {
            let address = content_address(&text);
            assert_eq!(address.map(|address| address.method()), method, "{text}");
        }
    }

    #[test]
    fn paths_with_odd_characters_are_one_file_name() {
        assert_eq!(
            uri(Path::new("/a b/c?mode=rw#%"), true),
            "file:///a%20b/c%3Fmode%3Drw%23%25?mode=ro&immutable=1"
        );
    }
}
