//! Fills the store beforehand, so that a build finds its source there: with a hash a fetch like any other, without one
//! a download that tells it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use store_index::address::{ContentAddress, Method};
use store_index::beneath::Beneath;
use store_index::hash_text::{Base, HashForm};
use store_index::path_text::printable;
use store_index::store_path::ItemName;
use store_index::tree::TreeError;
use store_index::watch::{Unit, Watch};

use crate::copy::{self, CopyError};
use crate::download::{DownloadError, Downloader};
use crate::error::{ErrorKind, FetchError};
use crate::fetch::{self, Policy};
use crate::own_folder::OwnFolder;
use crate::places::Places;
use crate::present_store::PresentStore;
use crate::publish;
use crate::report::{
    Attempt, AttemptResult, JSON_VERSION, JsonAttempt, JsonError, JsonSource, Listener, Success,
    milliseconds,
};
use crate::request::{Request, Target};
use crate::source::SourceKind;
use crate::source_url::{Scheme, SourceUrl};
use crate::staging::StagedFile;
use crate::tree_copy;
use crate::verify::{FileCheck, Verdict};

/// An item that the store has.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its path.
    pub path: String,
    /// What it is named by.
    pub address: ContentAddress,
    /// Whence it came; `None` if it was there before.
    pub source: Option<Success>,
}

/// Everything that is to be told of one run.
#[derive(Debug)]
pub struct Report {
    /// The name that it has in the store.
    pub name: ItemName,
    /// How it is hashed.
    pub method: Method,
    /// What was tried, in order.
    pub attempts: Vec<Attempt>,
    /// How it ended.
    pub result: Result<Item, FetchError>,
    /// How long it took.
    pub took: Duration,
}

/// What is wanted, for the store.
#[derive(Clone, Debug)]
pub struct Wish {
    /// What; without a known hash, the digest in it is of nothing, and only method and algorithm count.
    pub request: Request,
    /// Whether the hash was given.
    pub hash_is_known: bool,
    /// The name that the build will use.
    pub name: ItemName,
}

/// Brings something into the store.
pub fn run(
    wish: &Wish,
    store: &PresentStore,
    places: &Places,
    policy: &Policy,
    listener: &dyn Listener,
    watch: Watch<'_>,
) -> Report {
    let started = Instant::now();
    let mut attempts = Vec::new();
    let result = if let Err(error) = store.accepts(&wish.request.address) {
        Err(error)
    } else if wish.hash_is_known {
        known(wish, store, places, policy, listener, watch, &mut attempts)
    } else {
        let mut downloads = Downloads {
            wish,
            listener,
            watch,
            attempts: &mut attempts,
        };
        downloads
            .first(policy)
            .and_then(|landed| landed.add(wish, store))
    };
    Report {
        name: wish.name.clone(),
        method: wish.request.address.method(),
        attempts,
        result: result.map_err(|error| unless_interrupted(error, watch)),
        took: started.elapsed(),
    }
}

/// With a hash: what is valid already is done, and the rest is fetched, from here first.
fn known(
    wish: &Wish,
    store: &PresentStore,
    places: &Places,
    policy: &Policy,
    listener: &dyn Listener,
    watch: Watch<'_>,
    attempts: &mut Vec<Attempt>,
) -> Result<Item, FetchError> {
    let address = wish.request.address;
    let path = store.path(&address, &wish.name);
    if store.missing(std::slice::from_ref(&path))?.is_empty() {
        return Ok(Item {
            path,
            address,
            source: None,
        });
    }
    let folder = OwnFolder::new()?;
    let landing = folder.path(&wish.name);
    let request = Request {
        target: Target::Path(landing.clone()),
        ..wish.request.clone()
    };
    let report = fetch::run(&request, places, policy, listener, watch);
    *attempts = report.attempts;
    let source = report.result.map_err(OwnFolder::explain)?;
    let path = store.add(&address, &wish.name, &landing)?;
    Ok(Item {
        path,
        address,
        source: Some(source),
    })
}

/// Adds the output of a fetch. Returns its path in the store, and whether it was there before.
pub fn add_output(
    request: &Request,
    name: &ItemName,
    store: &PresentStore,
    watch: Watch<'_>,
) -> Result<(String, bool), FetchError> {
    let Target::Path(output) = &request.target else {
        return Err(FetchError::usage(
            "only an output that is a file or directory can be added to the store",
        ));
    };
    let path = store.path(&request.address, name);
    if store.missing(std::slice::from_ref(&path))?.is_empty() {
        return Ok((path, true));
    }
    let folder = OwnFolder::new()?;
    let content = folder.copy_output(request, output, name, watch)?;
    let path = store
        .add(&request.address, name, &content)
        .map_err(|error| unless_interrupted(error, watch))?;
    Ok((path, false))
}

/// What came of one URL: the hash and the length, or why nothing.
type Download = Result<(ContentAddress, u64), (AttemptResult, String)>;

/// A signal of the terminal ends the store's tools too, which is no fault of theirs.
pub(crate) fn unless_interrupted(error: FetchError, watch: Watch<'_>) -> FetchError {
    if watch.interrupted() {
        FetchError::interrupted()
    } else {
        error
    }
}

/// Hears what is told again in other words.
struct Unheard;

impl Listener for Unheard {
    fn warning(&self, _message: &str) {}
    fn loud_warning(&self, _message: &str) {}
    fn attempt(&self, _attempt: &Attempt) {}
}

/// Downloads of something whose hash is not known.
struct Downloads<'a> {
    wish: &'a Wish,
    listener: &'a dyn Listener,
    watch: Watch<'a>,
    attempts: &'a mut Vec<Attempt>,
}

/// A download that landed, and the hash that it has.
struct Landed {
    folder: OwnFolder,
    address: ContentAddress,
    source: Success,
}

impl Landed {
    fn add(self, wish: &Wish, store: &PresentStore) -> Result<Item, FetchError> {
        let content = self.folder.path(&wish.name);
        let path = store.add(&self.address, &wish.name, &content)?;
        Ok(Item {
            path,
            address: self.address,
            source: Some(self.source),
        })
    }
}

impl Downloads<'_> {
    /// Takes the first that comes whole.
    fn first(&mut self, policy: &Policy) -> Result<Landed, FetchError> {
        if policy.offline {
            return Err(FetchError::usage(
                "without a hash there is nothing to look for here, and the network is off (--offline)",
            )
            .with_hint("say with --hash what is wanted"));
        }
        if self.wish.request.unpack {
            return self.first_unpacked(policy);
        }
        let folder = OwnFolder::new()?;
        let mut downloader = Downloader::new(policy.limits, Arc::clone(&policy.access));
        let mut trouble = None;
        let request = &self.wish.request;
        let urls = request.urls.iter().flat_map(|url| {
            let mirrors = request.mirror_sites.expand(url);
            if mirrors.is_empty() {
                vec![url.clone()]
            } else {
                mirrors
            }
        });
        for url in &urls.collect::<Vec<_>>() {
            let started = Instant::now();
            let asked = match policy.access.rules.apply(url) {
                Ok(asked) => self.download(&asked, &mut downloader, &folder)?,
                Err(blocked) => Err((AttemptResult::Skipped, blocked.to_string())),
            };
            let (result, reason) = match asked {
                Ok((address, bytes)) => {
                    self.record(url, AttemptResult::Ok, None, bytes, started);
                    let source = Success {
                        kind: SourceKind::Url,
                        location: url.to_string(),
                        bytes,
                        executable: self.wish.request.executable,
                    };
                    return Ok(Landed {
                        folder,
                        address,
                        source,
                    });
                }
                Err(not) => not,
            };
            // The worst of it decides on the exit code: that it is not there is said only if all say so.
            let kind = match result {
                AttemptResult::Absent => ErrorKind::NotFound,
                AttemptResult::Skipped => ErrorKind::Usage,
                _ => ErrorKind::Network,
            };
            trouble = match trouble {
                Some((ErrorKind::Network, _)) if kind != ErrorKind::Network => trouble,
                Some((ErrorKind::NotFound, _)) if kind == ErrorKind::Usage => trouble,
                _ => Some((kind, format!("{url}: {reason}"))),
            };
            self.record(url, result, Some(reason), 0, started);
        }
        Err(match trouble {
            Some((kind, reason)) => FetchError::new(
                kind,
                format!("cannot download {}\n  {reason}", self.wish.name),
            )
            .with_hint("give another URL, or try again later"),
            None => FetchError::usage("neither a hash nor a URL says what is wanted"),
        })
    }

    /// Unpacks the first archive that comes whole: what a daemon would be left, whose hash then tells what it is.
    fn first_unpacked(&mut self, policy: &Policy) -> Result<Landed, FetchError> {
        if self.wish.request.urls.is_empty() {
            return Err(FetchError::usage(
                "neither a hash nor a URL says what is wanted",
            ));
        }
        let folder = OwnFolder::new()?;
        let policy = Policy {
            leave_wrong: true,
            ..policy.clone()
        };
        let mut trouble = None;
        for url in &self.wish.request.urls {
            let request = Request {
                target: Target::Given(folder.path(&self.wish.name)),
                urls: vec![url.clone()],
                ..self.wish.request.clone()
            };
            let report = fetch::run(&request, &Places::default(), &policy, &Unheard, self.watch);
            for mut attempt in report.attempts {
                // Nothing can have a hash that nobody knows.
                if report.left.as_deref() == Some(attempt.location.as_str()) {
                    attempt.result = AttemptResult::Ok;
                    attempt.reason = None;
                }
                self.listener.attempt(&attempt);
                self.attempts.push(attempt);
            }
            match (report.left, report.result) {
                (Some(location), _) => return self.hash_tree(folder, location),
                (None, Err(error))
                    if matches!(error.kind, ErrorKind::Local | ErrorKind::Interrupted) =>
                {
                    return Err(error);
                }
                (None, Err(error)) => trouble = Some(error.kind),
                (None, Ok(_)) => return Err(no_such_hash()),
            }
        }
        Err(FetchError::new(
            trouble.unwrap_or(ErrorKind::Mismatch),
            format!("no URL of {} delivered an archive", self.wish.name),
        )
        .with_hint("-v says why; without --unpack files are taken as they are"))
    }

    /// Hashes what was unpacked.
    fn hash_tree(&self, folder: OwnFolder, location: String) -> Result<Landed, FetchError> {
        let node = Beneath::open(folder.root())
            .and_then(|root| root.open_node(Path::new(self.wish.name.as_str())))
            .map_err(|error| FetchError::local(error.to_string()))?;
        let address = &self.wish.request.address;
        match tree_copy::hash(address, node, self.watch) {
            Ok(Verdict::Wrong {
                got: Some(got),
                bytes,
            }) => Ok(Landed {
                folder,
                address: ContentAddress::new(address.method(), got).ok_or_else(no_such_hash)?,
                source: Success {
                    kind: SourceKind::Url,
                    location,
                    bytes,
                    executable: false,
                },
            }),
            Ok(_) => Err(no_such_hash()),
            Err(TreeError::Interrupted) => Err(FetchError::interrupted()),
            Err(error) => Err(FetchError::local(error.to_string())),
        }
    }

    /// Downloads from one place.
    fn download(
        &self,
        url: &SourceUrl,
        downloader: &mut Downloader,
        folder: &OwnFolder,
    ) -> Result<Download, FetchError> {
        match url.scheme() {
            Scheme::Http | Scheme::Https => {}
            Scheme::Mirror => {
                let reason = "no mirrors are known for that site".to_owned();
                return Ok(Err((AttemptResult::Skipped, reason)));
            }
            Scheme::Other(scheme) => {
                let reason = format!("the scheme {scheme}:// is not supported");
                return Ok(Err((AttemptResult::Skipped, reason)));
            }
        }
        let path = folder.path(&self.wish.name);
        let cannot_write = |error: std::io::Error| {
            OwnFolder::explain(FetchError::local(format!(
                "cannot write {}: {error}",
                printable(&path)
            )))
        };
        // Over what a broken download left.
        let file = fs_err::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(cannot_write)?
            .into_file();
        let what = format!("downloading {url}");
        self.watch.progress.begin(&what, None, Unit::Bytes);
        let mut room = StagedFile { file, hidden: None };
        let landed = downloader.land_archive(url, &mut room, None, self.watch);
        self.watch.progress.end();
        let file = room.file;
        match landed {
            Ok((bytes, _)) => {
                publish::set_mode(&file, self.wish.request.executable).map_err(cannot_write)?;
                Ok(Ok((self.hash(&file, bytes)?, bytes)))
            }
            Err(DownloadError::Interrupted) => Err(FetchError::interrupted()),
            Err(DownloadError::Write(error)) => Err(cannot_write(error)),
            Err(DownloadError::Local(reason)) => Err(FetchError::local(reason)),
            Err(DownloadError::Gone(reason)) => Ok(Err((AttemptResult::Absent, reason))),
            Err(DownloadError::Trouble { reason, .. }) => Ok(Err((AttemptResult::Failed, reason))),
        }
    }

    fn hash(&self, file: &File, bytes: u64) -> Result<ContentAddress, FetchError> {
        let address = &self.wish.request.address;
        let executable = self.wish.request.executable;
        let check = FileCheck::new(address, executable, executable, Some(bytes));
        self.watch
            .progress
            .begin("hashing what came", Some(bytes), Unit::Bytes);
        let verdict = {
            use std::io::Seek as _;
            let mut start = file;
            start
                .rewind()
                .map_err(CopyError::Read)
                .and_then(|()| copy::hash(file, bytes, check, self.watch))
        };
        self.watch.progress.end();
        match verdict {
            Ok(Verdict::Right(_)) => Ok(*address),
            Ok(Verdict::Wrong { got: Some(got), .. }) => {
                ContentAddress::new(address.method(), got).ok_or_else(no_such_hash)
            }
            Ok(Verdict::Wrong { got: None, .. }) => Err(no_such_hash()),
            Err(CopyError::Interrupted) => Err(FetchError::interrupted()),
            Err(error) => Err(FetchError::local(format!(
                "cannot read what was downloaded: {error}"
            ))),
        }
    }

    fn record(
        &mut self,
        url: &SourceUrl,
        result: AttemptResult,
        reason: Option<String>,
        bytes: u64,
        started: Instant,
    ) {
        let attempt = Attempt {
            kind: SourceKind::Url,
            location: url.to_string(),
            result,
            reason,
            bytes,
            took: started.elapsed(),
        };
        self.listener.attempt(&attempt);
        self.attempts.push(attempt);
    }
}

fn no_such_hash() -> FetchError {
    FetchError::local("what was downloaded has no hash of the kind that is wanted")
}

#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    path: Option<&'a str>,
    name: &'a str,
    method: &'static str,
    hash: Option<String>,
    hashes: Option<JsonHashes>,
    /// Whether the store had it before.
    present: Option<bool>,
    bytes: Option<u64>,
    source: Option<JsonSource<'a>>,
    attempts: Vec<JsonAttempt<'a>>,
    ms: u64,
    error: Option<JsonError<'a>>,
}

#[derive(Serialize)]
struct JsonHashes {
    sri: String,
    hex: String,
    nix32: String,
    base64: String,
}

impl JsonHashes {
    fn of(address: &ContentAddress) -> Self {
        let digest = address.digest();
        let bare = |base| digest.in_form(HashForm::Bare(base)).to_string();
        Self {
            sri: digest.to_sri(),
            hex: bare(Base::Hex),
            nix32: bare(Base::Nix32),
            base64: bare(Base::Base64),
        }
    }
}

impl Report {
    /// The report of a run that could not begin.
    pub fn failed(wish: &Wish, error: FetchError) -> Self {
        Self {
            name: wish.name.clone(),
            method: wish.request.address.method(),
            attempts: Vec::new(),
            result: Err(error),
            took: Duration::ZERO,
        }
    }

    /// Returns the program's exit code.
    pub fn exit_code(&self) -> u8 {
        match &self.result {
            Ok(_) => crate::error::exit_code::OK,
            Err(error) => error.kind.exit_code(),
        }
    }

    /// Returns the lines for people: the path, then the hash as SRI, hexadecimal, nix-base32 and base64.
    pub fn to_text(&self) -> String {
        let Ok(item) = &self.result else {
            return String::new();
        };
        let hashes = JsonHashes::of(&item.address);
        let lines = [
            &item.path,
            &hashes.sri,
            &hashes.hex,
            &hashes.nix32,
            &hashes.base64,
        ];
        lines
            .iter()
            .flat_map(|line| [line.as_str(), "\n"])
            .collect()
    }

    /// Returns the JSON object of `--json`: every key is always there, `null` when unknown.
    pub fn to_json(&self) -> String {
        let item = self.result.as_ref().ok();
        let source = item.and_then(|item| item.source.as_ref());
        let json = Json {
            version: JSON_VERSION,
            path: item.map(|item| item.path.as_str()),
            name: self.name.as_str(),
            method: self.method.name(),
            hash: item.map(|item| item.address.digest().to_sri()),
            hashes: item.map(|item| JsonHashes::of(&item.address)),
            present: item.map(|item| item.source.is_none()),
            bytes: source.map(|source| source.bytes),
            source: source.map(JsonSource::from),
            attempts: self.attempts.iter().map(JsonAttempt::from).collect(),
            ms: milliseconds(self.took),
            error: self.result.as_ref().err().map(JsonError::from),
        };
        serde_json::to_string(&json).expect("strings and numbers always serialise")
    }
}
