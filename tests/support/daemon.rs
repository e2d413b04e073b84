//! Fetches as both daemons get them: into an output that was given, with what an administrator configured.

use std::ffi::OsString;
use std::sync::atomic::AtomicBool;

use fetcher::builtin::Settings;
use fetcher::cli::Environment;
use fetcher::configuration::Configuration;
use fetcher::fetch;
use fetcher::mirrors::MirrorSites;
use fetcher::report::{Attempt, Listener, Report};
use fetcher::request::{Request, Target};
use fetcher::source_url::SourceUrl;
use store_index::address::Method;
use store_index::hash_text;
use store_index::watch::{NoProgress, Watch};

use super::TestEnv;

struct Silence;

impl Listener for Silence {
    fn warning(&self, _message: &str) {}
    fn loud_warning(&self, _message: &str) {}
    fn attempt(&self, _attempt: &Attempt) {}
}

/// What is wanted at `given`, under a name.
pub(crate) fn request(
    env: &TestEnv,
    method: Method,
    hash: &str,
    name: &str,
    urls: &[String],
) -> Request {
    let hash = hash_text::parse(hash, None).unwrap();
    let urls = urls.iter().map(|url| SourceUrl::parse(url).unwrap());
    Request {
        form: hash.form,
        address: hash.into_address(Some(method)).unwrap(),
        name: Some(name.to_owned()),
        item_names: Vec::new(),
        asked_names: vec![name.to_owned()],
        urls: urls.collect(),
        hashed_urls: Vec::new(),
        mirror_sites: MirrorSites::default(),
        git: None,
        executable: false,
        unpack: false,
        target: Target::Given(env.out("given")),
    }
}

/// Fetches it, with these variables and a store of nothing.
pub(crate) fn deliver(env: &TestEnv, request: &Request, variables: &[(&str, OsString)]) -> Report {
    deliver_with(env, request, variables, Configuration::default())
}

/// The same with what a system's file would say.
pub(crate) fn deliver_with(
    env: &TestEnv,
    request: &Request,
    variables: &[(&str, OsString)],
    configuration: Configuration,
) -> Report {
    let variable = |name: &str| match name {
        "NIX_STORE" => Some(env.path("store").into()),
        name => {
            let mut variables = variables.iter();
            let found = variables.find(|(known, _)| *known == name);
            found.map(|(_, value)| value.clone())
        }
    };
    let settings = Settings::read(
        &Environment {
            variables: &variable,
            configuration,
        },
        "/nowhere",
    )
    .unwrap();
    let interrupt = AtomicBool::new(false);
    let watch = Watch {
        interrupt: &interrupt,
        progress: &NoProgress,
    };
    let places = settings.places(false).unwrap();
    fetch::run(request, &places, &settings.policy(), &Silence, watch)
}
