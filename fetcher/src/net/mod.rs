//! HTTP and HTTPS, for the sources that are asked last.
//!
//! Blocking outside, tokio inside: the driver builds a [`Client`] when the first network source is asked, and never for
//! a local hit. One transfer is one [`Client::get`]; retries, mirrors and what lies in the spool are the business of its
//! callers.

mod engine;
mod error;
mod hosts;
mod netrc;
mod proxy;
mod range;
mod redirect;
mod rules;
mod stream;
mod tls;
mod transfer;
mod wait;
mod wide;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, IF_RANGE, LOCATION, RANGE,
};

use self::engine::Engine;
use self::error::LookupError;
pub(crate) use self::error::PAUSE_OF_OVERLOAD;
pub use self::error::{NetClass, NetError, Phase, Retry};
pub use self::range::{BodyStart, Resume};
use self::redirect::{Route, is_redirect};
pub(crate) use self::rules::MAX_RULES;
pub use self::rules::{Blocked, Rule, Rules};
pub(crate) use self::stream::{Answer, UNHURRIED_BYTES};
use self::transfer::Reply;
pub use self::transfer::Widening;
pub(crate) use self::wait::StallWatch;
pub use self::wide::Others;
use crate::source_url::SourceUrl;

/// Default of [`Limits::connect_timeout`]: two lost SYNs and a slow handshake fit in.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Default of [`Limits::first_byte_timeout`]: forges pack an archive before they send its first byte.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(120);
/// Default of [`Limits::stall_bytes_per_second`]: slower than any modem.
pub const STALL_BYTES_PER_SECOND: u64 = 1024;
/// Default of [`Limits::stall_window`]: Nix's 300 s were found "much too long" by its users.
pub const STALL_WINDOW: Duration = Duration::from_secs(30);
/// Default of [`Limits::max_redirects`]: what browsers allow.
pub const MAX_REDIRECTS: u32 = 20;
/// Default of [`Limits::max_bytes`], 64 GiB: above the largest sources, below what fills a disk unnoticed.
pub const MAX_BYTES: u64 = 64 << 30;

/// Default of [`Limits::retry_budget`]: forges are back after a minute, and nobody watches for longer.
pub const RETRY_BUDGET: Duration = Duration::from_secs(120);

/// Default of [`Limits::tries`]: what three pauses did not mend, a fourth rarely does.
pub const TRIES: u32 = 4;

/// Default of [`Widening::connections`]: what a person would do with several downloads at once.
pub const CONNECTIONS: u32 = 8;
/// Default of [`Widening::above_bytes`], 4 MiB: less comes before several connections have got up to speed.
pub const WIDEN_ABOVE_BYTES: u64 = 4 << 20;
/// Default of [`Widening::unless_done_in`]: what there is to win would not be noticed.
pub const FAST_ENOUGH: Duration = Duration::from_secs(3);
/// Default of [`Widening::measure_for`]: some round trips around the world.
pub const MEASURE_FOR: Duration = Duration::from_millis(500);

/// So often a server may fail when it is asked for a range; then it is asked for the whole, which it may have at hand.
const MAX_RANGE_REFUSALS: u32 = 2;

/// How we present ourselves.
const USER_AGENT: &str = concat!("fetch/", env!("CARGO_PKG_VERSION"));

/// How long and how much we take from a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest time for name lookup, TCP and TLS together.
    pub connect_timeout: Duration,
    /// Longest time from the request to the head of its answer, connecting included; each redirect has its own.
    pub first_byte_timeout: Duration,
    /// Least speed of a body in bytes a second, measured over [`Self::stall_window`]; 0 accepts any.
    pub stall_bytes_per_second: u64,
    /// Time over which [`Self::stall_bytes_per_second`] is measured.
    pub stall_window: Duration,
    /// Most redirects followed, in number.
    pub max_redirects: u32,
    /// Longest body in bytes.
    pub max_bytes: u64,
    /// Longest time that a fetch waits in all between tries; zero asks each URL once.
    pub retry_budget: Duration,
    /// How often a URL is asked in all, at least once.
    pub tries: u32,
    /// How much a download leaves free on a disk, in bytes; `None` is 1 GiB or, where that is less, 1 %.
    pub disk_reserve: Option<u64>,
    /// When several connections are tried for one body.
    pub widening: Widening,
}

/// Who is asked, and who is told a password.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Which URLs are asked, and which in place of others.
    pub rules: Rules,
    /// The file with user names and passwords, unless the environment names one; `None` is `~/.netrc`.
    pub netrc: Option<PathBuf>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: CONNECT_TIMEOUT,
            first_byte_timeout: FIRST_BYTE_TIMEOUT,
            stall_bytes_per_second: STALL_BYTES_PER_SECOND,
            stall_window: STALL_WINDOW,
            max_redirects: MAX_REDIRECTS,
            max_bytes: MAX_BYTES,
            retry_budget: RETRY_BUDGET,
            tries: TRIES,
            disk_reserve: None,
            widening: Widening::default(),
        }
    }
}

/// Takes a body as it comes. An error ends the transfer as [`NetError::Sink`].
pub trait BodySink {
    /// Returns how long the host of a URL to which a redirect leads is to be left alone, if it is.
    fn left_alone(&self, _url: &SourceUrl) -> Option<Duration> {
        None
    }
    /// Called when the server has answered 200 or 206 and before the first byte. A body that begins at 0 replaces
    /// whatever was there, and may come after one that was gone on with and could not be.
    fn start(&mut self, start: &BodyStart) -> io::Result<()>;
    /// Takes the next bytes, at least one. Until it returns nothing more is read.
    fn write(&mut self, chunk: Bytes) -> io::Result<()>;
    /// Called where the body is to go on by several connections at once, when `got_bytes` are there. Says who else
    /// may have parts of it; `None` if only what is next can be taken.
    fn widen(&mut self, _got_bytes: u64) -> io::Result<Option<Others>> {
        Ok(None)
    }
    /// Hears that some of what follows comes from one of those.
    fn helped(&mut self, _url: &SourceUrl) {}
    /// Hears that the server of a URL, which was asked for a part, wants to be left alone.
    fn refused(&mut self, _url: &SourceUrl, _retry: Retry) {}
    /// Takes bytes of any place, each of them once, after [`Self::widen`] has not answered `None`.
    fn write_at(&mut self, _offset: u64, _chunk: Bytes) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A whole body was passed to the sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Length of the whole in bytes, with what was there before.
    pub bytes: u64,
    /// Where it came from in the end, without credentials.
    pub final_url: SourceUrl,
    /// What the server says it is; for diagnosis only.
    pub content_type: Option<String>,
}

/// A network stack: what drives it, its connections and its trust.
pub struct Client {
    engine: Engine,
    http: reqwest::Client,
    /// Made when it is first needed.
    one_connection_each: OnceLock<reqwest::Client>,
    limits: Limits,
    access: Arc<Access>,
    /// How often URLs failed when a range was asked of them.
    range_refusals: Mutex<HashMap<String, u32>>,
    trust: Trust,
}

/// Whom a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Servers whose certificates are in order.
    Verified,
    /// Any, by a redirect from https to http too: for content whose hash alone decides, and for requests that carry
    /// nothing secret.
    Anybody,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Builds the network stack without rules of a configuration.
    pub fn new(limits: Limits) -> Result<Self, NetError> {
        Self::with_access(Trust::Verified, limits, Arc::default())
    }

    /// Builds the network stack; opens no socket. Proxies and trusted certificates come from the environment.
    pub fn with_access(
        trust: Trust,
        limits: Limits,
        access: Arc<Access>,
    ) -> Result<Self, NetError> {
        Self::with_engine(Engine::own(), trust, limits, access)
    }

    /// The same for many threads at a time, which share its connections.
    pub fn shared(limits: Limits, access: Arc<Access>) -> Result<Self, NetError> {
        Self::with_engine(Engine::shared(), Trust::Verified, limits, access)
    }

    fn with_engine(
        engine: io::Result<Engine>,
        trust: Trust,
        limits: Limits,
        access: Arc<Access>,
    ) -> Result<Self, NetError> {
        let engine = engine.map_err(|error| NetError::Setup {
            reason: error.to_string(),
        })?;
        let http = tls::client_config(trust).and_then(|tls| http(tls, &limits))?;
        Ok(Self {
            range_refusals: Mutex::default(),
            engine,
            http,
            one_connection_each: OnceLock::new(),
            limits,
            access,
            trust,
        })
    }

    /// Returns what decides who is asked. Whoever names a URL asks it; of redirects it is seen to here.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Returns a client each of whose requests has a connection of its own, as in HTTP/1.1.
    fn one_connection_each(&self) -> &reqwest::Client {
        self.one_connection_each.get_or_init(|| {
            let made = tls::client_config(self.trust).and_then(|mut tls| {
                tls.alpn_protocols = vec![b"http/1.1".to_vec()];
                http(tls, &self.limits)
            });
            // What could be made once can be made twice; if not, one connection does it.
            made.unwrap_or_else(|_| self.http.clone())
        })
    }

    /// Begins a way that may lead elsewhere.
    fn route(&self, url: &SourceUrl) -> Result<Route, NetError> {
        let access = Arc::clone(&self.access);
        Route::new(url, self.limits.max_redirects, self.trust, access)
    }

    /// Passes the content of an http or https URL to `sink`, following redirects: the rest of it with `resume`, if
    /// the server can do that, else the whole.
    ///
    /// Blocks until the body is whole, something fails or `interrupt` is set, which is noticed within 100 ms in every
    /// phase (a sink that blocks is waited for).
    pub fn get(
        &self,
        url: &SourceUrl,
        resume: Option<Resume<'_>>,
        sink: &mut dyn BodySink,
        interrupt: &AtomicBool,
    ) -> Result<Delivered, NetError> {
        if !url.is_http() {
            return Err(NetError::Other {
                reason: "neither http nor https".into(),
            });
        }
        let mut route = self.route(url)?;
        let delivered = self.deliver(&mut route, resume, sink, interrupt);
        delivered.map_err(|error| match error.class() {
            NetClass::Gone | NetClass::Trouble if route.was_redirected() => NetError::Redirected {
                url: Box::new(route.current().clone()),
                error: Box::new(error),
            },
            _ => error,
        })
    }

    fn deliver(
        &self,
        route: &mut Route,
        mut resume: Option<Resume<'_>>,
        sink: &mut dyn BodySink,
        interrupt: &AtomicBool,
    ) -> Result<Delivered, NetError> {
        loop {
            if self.refusals_of(route.current()) >= MAX_RANGE_REFUSALS {
                resume = None;
            }
            let _counted = hosts::count(route.current());
            let reply = self.ask(route, resume, interrupt)?;
            let response = &reply.response;
            let headers = response.headers();
            match (response.status().as_u16(), resume) {
                (200, _) => {
                    let length_bytes = response.content_length();
                    let whole = (0, &[][..], length_bytes);
                    return self.receive(reply, route, whole, sink, interrupt);
                }
                (206, Some(asked)) => {
                    let there = (asked.from_bytes, asked.there);
                    let validator = (asked.validator_of)(route.current());
                    let is_other =
                        validator.is_some_and(|asked| range::is_other_version(headers, &asked));
                    match transfer::length_of_whole(response, route.current(), there) {
                        Ok(length_bytes) if !is_other => {
                            let rest = (there.0, there.1, length_bytes);
                            match self.receive(reply, route, rest, sink, interrupt) {
                                // One gap was filled, and another one cannot be.
                                Err(NetError::NotThePart { .. }) => resume = None,
                                received => return received,
                            }
                        }
                        // Not what is missing. The whole is proved by its hash, whatever this server makes of ranges.
                        _ => resume = None,
                    }
                }
                // What we have ends where the server's file does, or behind it; or ranges are not to its taste.
                (code, Some(_)) if range::is_about_range(code) => resume = None,
                (code, _) if is_redirect(code) => {
                    route.follow(headers.get(LOCATION).map(HeaderValue::as_bytes))?;
                    if let Some(pause) = sink.left_alone(route.current()) {
                        return Err(NetError::LeftAlone { pause });
                    }
                }
                (code, asked) => {
                    if asked.is_some() && (500..=599).contains(&code) {
                        self.note_refusal(route.current());
                    }
                    return Err(NetError::Status {
                        code,
                        retry_after: range::retry_after(headers),
                    });
                }
            }
        }
    }

    fn refusals_of(&self, url: &SourceUrl) -> u32 {
        let refusals = self.range_refusals();
        refusals.get(url.url().as_str()).copied().unwrap_or(0)
    }

    fn range_refusals(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        let refusals = self.range_refusals.lock();
        refusals.unwrap_or_else(PoisonError::into_inner)
    }

    fn note_refusal(&self, url: &SourceUrl) {
        let url = url.url().as_str().to_owned();
        *self.range_refusals().entry(url).or_default() += 1;
    }

    /// Passes a body to the sink.
    fn receive(
        &self,
        reply: Reply,
        route: &Route,
        there: (u64, &[Range<u64>], Option<u64>),
        sink: &mut dyn BodySink,
        interrupt: &AtomicBool,
    ) -> Result<Delivered, NetError> {
        let headers = reply.response.headers();
        let content_type = headers
            .get(CONTENT_TYPE)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let bytes = transfer::receive(self, reply, route, there, sink, interrupt)?;
        Ok(Delivered {
            bytes,
            final_url: route.current().clone(),
            content_type,
        })
    }

    /// Sends one request and waits for its answer: for the head, and for what is so small that it comes with it.
    fn ask(
        &self,
        route: &Route,
        resume: Option<Resume<'_>>,
        interrupt: &AtomicBool,
    ) -> Result<Reply, NetError> {
        let mut request = self.http.get(route.current().url().clone());
        if let Some(resume) = resume {
            // No byte that is there: the connection could not be used for anything else before all of them came.
            let last = resume
                .there
                .first()
                .map(|part| part.start.saturating_sub(1));
            let last = last.map(|last| last.to_string()).unwrap_or_default();
            request = request.header(RANGE, format!("bytes={}-{last}", resume.from_bytes));
            if let Some(validator) = (resume.validator_of)(route.current()) {
                request = request.header(IF_RANGE, validator);
            }
        }
        if let Some(credentials) = route.credentials() {
            request = request.basic_auth(&credentials.user, credentials.password.as_ref());
        }
        // What was begun is gone on with as it comes, so that a killed process loses as little as possible of it.
        let taken_whole = match self.runtime().is_shared() && resume.is_none() {
            true => transfer::TAKEN_WHOLE_BYTES,
            false => 0,
        };
        let answer = transfer::ask(request, taken_whole, self.limits);
        let answer = self.runtime().run(answer, interrupt);
        answer.unwrap_or(Err(NetError::Interrupted))
    }

    const fn runtime(&self) -> &Engine {
        &self.engine
    }
}

/// Says whether a request for a URL would carry secrets: to its server, or to a proxy.
pub fn has_credentials(url: &SourceUrl, access: &Access) -> bool {
    url.has_credentials()
        || netrc::credentials(url.url(), access.netrc.as_deref()).is_some()
        || proxy::some_has_credentials()
}

/// The system's resolver, as reqwest's own, but with errors that can be told apart by type.
struct SystemResolver;

impl reqwest::dns::Resolve for SystemResolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((name.as_str(), 0))
                .await
                .map_err(LookupError)?;
            let addresses: Box<dyn Iterator<Item = SocketAddr> + Send> =
                Box::new(addresses.collect::<Vec<_>>().into_iter());
            Ok(addresses)
        })
    }
}

/// Makes a client that sends nothing but what it is told to.
fn http(tls: rustls::ClientConfig, limits: &Limits) -> Result<reqwest::Client, NetError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let builder = proxy::from_environment()
        .into_iter()
        .fold(reqwest::Client::builder().no_proxy(), |builder, proxy| {
            builder.proxy(proxy)
        });
    builder
        .tls_backend_preconfigured(tls)
        .dns_resolver(SystemResolver)
        .connect_timeout(limits.connect_timeout)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(USER_AGENT)
        .default_headers(headers)
        .build()
        .map_err(|error| NetError::Setup {
            reason: error.without_url().to_string(),
        })
}
