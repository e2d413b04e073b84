//! Gives derivations the fixed outputs that they lack and whose content is here under other names, so that a build
//! needs neither a network nor a configuration.

mod graph;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use store_index::address::ContentAddress;
use store_index::hash_text::HashForm;
use store_index::store_path::{ItemName, split_base_name};
use store_index::watch::Watch;

use self::graph::Wanted;
use crate::error::{ErrorKind, FetchError, exit_code};
use crate::fetch::{self, Policy};
use crate::mirrors::MirrorSites;
use crate::own_folder::OwnFolder;
use crate::places::Places;
use crate::prefetch::unless_interrupted;
use crate::present_store::PresentStore;
use crate::report::{JSON_VERSION, JsonError, JsonSource, Listener, Success, milliseconds};
use crate::request::{Request, Target};
use crate::source_url::SourceUrl;
use crate::stale_hash::StaleHash;

/// What became of a fixed output.
#[derive(Clone, Debug)]
pub enum Fate {
    /// The store has it.
    Present,
    /// It was added, from there.
    Added(Success),
    /// It is here and would be added, from there.
    WouldAdd(Success),
    /// It is not here, because.
    NotHere(String),
}

/// A fixed output that a build needs.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its path, ready to print.
    pub path: String,
    /// What it is to contain; `None` if that cannot be said.
    pub address: Option<ContentAddress>,
    /// What became of it.
    pub fate: Fate,
}

/// Everything that is to be told of one run.
#[derive(Debug)]
pub struct Report {
    /// The fixed outputs, in the order in which a walk from the derivations meets them.
    pub outputs: Vec<Output>,
    /// Why the run did not come to its end.
    pub error: Option<FetchError>,
    /// How long it took.
    pub took: Duration,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The derivations, wherever they lie.
    pub derivations: Vec<PathBuf>,
    /// Say what would be added, and add nothing.
    pub dry_run: bool,
    /// What to do about names of other versions. Nobody is asked what is right, so only `ignore` uses them.
    pub stale_hash: StaleHash,
}

/// Adds what is here.
pub fn run(
    wish: &Wish,
    store: &PresentStore,
    places: &Places,
    listener: &dyn Listener,
    watch: Watch<'_>,
) -> Report {
    let started = Instant::now();
    let mut outputs = Vec::new();
    let mut addition = Addition {
        wish,
        store,
        places,
        listener,
        watch,
        warned_of_weak_hashes: false,
    };
    let error = graph::wanted(&wish.derivations, store, watch)
        .and_then(|wanted| {
            wanted
                .into_iter()
                .try_for_each(|wanted| addition.settle(wanted).map(|output| outputs.push(output)))
        })
        .err()
        .map(|error| unless_interrupted(error, watch));
    Report {
        outputs,
        error,
        took: started.elapsed(),
    }
}

struct Addition<'a> {
    wish: &'a Wish,
    store: &'a PresentStore,
    places: &'a Places,
    listener: &'a dyn Listener,
    watch: Watch<'a>,
    warned_of_weak_hashes: bool,
}

impl Addition<'_> {
    /// Decides on one output. An error ends the run.
    fn settle(&mut self, wanted: Wanted) -> Result<Output, FetchError> {
        if self.watch.interrupted() {
            return Err(FetchError::interrupted());
        }
        let output = |address, fate| Output {
            path: wanted.path.escape_debug().to_string(),
            address,
            fate,
        };
        let address = match &wanted.address {
            Ok(address) => *address,
            Err(reason) => return Ok(output(None, Fate::NotHere(reason.clone()))),
        };
        if wanted.is_valid {
            return Ok(output(Some(address), Fate::Present));
        }
        let no = |reason: &str| Ok(output(Some(address), Fate::NotHere(reason.to_owned())));
        if let Err(error) = self.store.accepts(&address) {
            return no(&error.message);
        }
        let name = wanted
            .path
            .rsplit('/')
            .next()
            .and_then(split_base_name)
            .and_then(|(_, name)| ItemName::new(name).ok());
        let Some(name) = name.filter(|name| self.store.path(&address, name) == wanted.path) else {
            return no("its path is not the one that its hash and name have in this store");
        };
        self.warn_of_weak_hash(&address);
        let fate = self.look_for(&wanted, address, name)?;
        Ok(output(Some(address), fate))
    }

    fn look_for(
        &self,
        wanted: &Wanted,
        address: ContentAddress,
        name: ItemName,
    ) -> Result<Fate, FetchError> {
        let folder = OwnFolder::new()?;
        let landing = folder.path(&name);
        let request = request(wanted, address, &name, landing.clone());
        let policy = Policy {
            offline: true,
            stale_hash: match self.wish.stale_hash {
                StaleHash::Ignore => StaleHash::Ignore,
                StaleHash::Auto | StaleHash::Refuse => StaleHash::Refuse,
            },
            ..Policy::default()
        };
        let report = fetch::run(&request, self.places, &policy, self.listener, self.watch);
        match report.result {
            Ok(success) if self.wish.dry_run => Ok(Fate::WouldAdd(success)),
            Ok(success) => {
                self.store.add(&address, &name, &landing)?;
                Ok(Fate::Added(success))
            }
            Err(error) if error.kind == ErrorKind::NotFound => {
                // The first lines say what is wanted and that the network is off, which is no news.
                let more: Vec<_> = error.message.lines().skip(2).map(str::trim).collect();
                let said = if more.is_empty() {
                    "no local source has it".to_owned()
                } else {
                    more.join("; ")
                };
                Ok(Fate::NotHere(said))
            }
            Err(error) => Err(OwnFolder::explain(error)),
        }
    }

    fn warn_of_weak_hash(&mut self, address: &ContentAddress) {
        if address.algorithm().is_weak() && !self.warned_of_weak_hashes {
            self.warned_of_weak_hashes = true;
            self.listener.warning(&format!(
                "{} hashes can be forged: a match does not prove that the content is the right one",
                address.algorithm()
            ));
        }
    }
}

fn request(wanted: &Wanted, address: ContentAddress, name: &ItemName, landing: PathBuf) -> Request {
    let url_names = wanted.urls.iter().map(SourceUrl::default_name);
    let mut asked_names = vec![name.as_str().to_owned()];
    asked_names.extend(url_names.filter_map(Result::ok));
    let mut item_names = vec![name.clone()];
    for name in asked_names
        .iter()
        .filter_map(|name| ItemName::new(name).ok())
    {
        if !item_names.contains(&name) {
            item_names.push(name);
        }
    }
    Request {
        address,
        form: HashForm::Sri,
        name: Some(name.as_str().to_owned()),
        item_names,
        asked_names,
        urls: wanted.urls.clone(),
        mirror_sites: MirrorSites::default(),
        hashed_urls: Vec::new(),
        git: None,
        unpack: false,
        executable: false,
        target: Target::Path(landing),
    }
}

#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    outputs: Vec<JsonOutput<'a>>,
    ms: u64,
    error: Option<JsonError<'a>>,
}

#[derive(Serialize)]
struct JsonOutput<'a> {
    path: &'a str,
    method: Option<&'static str>,
    hash: Option<String>,
    result: &'static str,
    source: Option<JsonSource<'a>>,
    reason: Option<&'a str>,
}

impl Fate {
    const fn name(&self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Added(_) => "added",
            Self::WouldAdd(_) => "would add",
            Self::NotHere(_) => "not here",
        }
    }
}

impl Report {
    /// The report of a run that could not begin.
    pub fn failed(error: FetchError) -> Self {
        Self {
            outputs: Vec::new(),
            error: Some(error),
            took: Duration::ZERO,
        }
    }

    /// Returns the program's exit code: a dry run ends as the run itself would.
    pub fn exit_code(&self) -> u8 {
        let lacks = |output: &Output| matches!(output.fate, Fate::NotHere(_));
        match &self.error {
            Some(error) => error.kind.exit_code(),
            None if self.outputs.iter().any(lacks) => exit_code::NOT_FOUND,
            None => exit_code::OK,
        }
    }

    /// Returns a line for each output.
    pub fn to_text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for output in &self.outputs {
            let (name, path) = (output.fate.name(), &output.path);
            match &output.fate {
                Fate::Present => writeln!(text, "{name:<9} {path}"),
                Fate::Added(source) | Fate::WouldAdd(source) => {
                    writeln!(text, "{name:<9} {path} from {}", source.location)
                }
                Fate::NotHere(reason) => writeln!(text, "{name:<9} {path}: {reason}"),
            }
            .expect("writing to a string cannot fail");
        }
        text
    }

    /// Returns the JSON object of `--json`.
    pub fn to_json(&self) -> String {
        let outputs = self.outputs.iter().map(|output| {
            let (source, reason) = match &output.fate {
                Fate::Present => (None, None),
                Fate::Added(source) | Fate::WouldAdd(source) => {
                    (Some(JsonSource::from(source)), None)
                }
                Fate::NotHere(reason) => (None, Some(reason.as_str())),
            };
            JsonOutput {
                path: &output.path,
                method: output.address.map(|address| address.method().name()),
                hash: output.address.map(|address| address.digest().to_sri()),
                result: output.fate.name(),
                source,
                reason,
            }
        });
        let json = Json {
            version: JSON_VERSION,
            outputs: outputs.collect(),
            ms: milliseconds(self.took),
            error: self.error.as_ref().map(JsonError::from),
        };
        serde_json::to_string(&json).expect("strings and numbers always serialise")
    }
}
