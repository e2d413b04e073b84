//! One request whose answer is read as it comes, for protocols that are spoken over HTTP.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use tokio::net::TcpStream;

use super::error::{LookupError, NetError, Phase};
use super::range;
use super::redirect::{Route, is_redirect};
use super::wait::{GaveUp, POLL_INTERVAL, StallWatch, watched};
use super::{Client, Limits};
use crate::source_url::SourceUrl;

/// The speed of an answer counts only behind so many bytes: before them a server may be counting objects, and sends
/// a few bytes now and then so that nobody thinks that it died.
pub(crate) const UNHURRIED_BYTES: u64 = 64 * 1024;

impl Client {
    /// Sends a GET, or a POST if there is a body, and waits for a 200. Redirects are followed as for downloads, but not
    /// by a POST, whose body was not meant for another place. If `is_led` a redirect of an earlier answer named the
    /// URL: nobody's netrc is looked at for it.
    pub(crate) fn exchange<'a>(
        &'a self,
        url: &SourceUrl,
        headers: &HeaderMap,
        body: Option<Vec<u8>>,
        is_led: bool,
        interrupt: &'a AtomicBool,
    ) -> Result<Answer<'a>, NetError> {
        let begin = if is_led { Route::led_to } else { Route::new };
        let access = Arc::clone(&self.access);
        let mut route = begin(url, self.limits.max_redirects, self.trust, access)?;
        let is_post = body.is_some();
        let answer = self.follow(&mut route, headers, body, interrupt);
        answer.map_err(|error| {
            if route.was_redirected() && !is_post && !matches!(error, NetError::Interrupted) {
                return NetError::Redirected {
                    url: Box::new(route.current().clone()),
                    error: Box::new(error),
                };
            }
            error
        })
    }

    fn follow<'a>(
        &'a self,
        route: &mut Route,
        headers: &HeaderMap,
        body: Option<Vec<u8>>,
        interrupt: &'a AtomicBool,
    ) -> Result<Answer<'a>, NetError> {
        loop {
            let url = route.current().url().clone();
            let mut request = match &body {
                Some(body) => self.http.post(url).body(body.clone()),
                None => self.http.get(url),
            }
            .headers(headers.clone());
            if let Some(credentials) = route.credentials() {
                request = request.basic_auth(&credentials.user, credentials.password.as_ref());
            }
            let response = self.head(request, interrupt)?;
            match response.status().as_u16() {
                200 => {
                    return Ok(Answer {
                        client: self,
                        interrupt,
                        url: route.current().clone(),
                        stall: StallWatch::new(
                            self.limits.stall_bytes_per_second,
                            self.limits.stall_window,
                        ),
                        response,
                        got_bytes: 0,
                        silent: Duration::ZERO,
                    });
                }
                code if is_redirect(code) && body.is_none() => {
                    route.follow(response.headers().get(LOCATION).map(HeaderValue::as_bytes))?;
                }
                code => {
                    return Err(NetError::Status {
                        code,
                        retry_after: range::retry_after(response.headers()),
                    });
                }
            }
        }
    }

    fn head(
        &self,
        request: reqwest::RequestBuilder,
        interrupt: &AtomicBool,
    ) -> Result<reqwest::Response, NetError> {
        let limits = self.limits;
        self.runtime().block_on(async {
            let sending = pin!(request.send());
            match watched(sending, limits.first_byte_timeout, interrupt).await {
                Ok(answer) => {
                    answer.map_err(|error| NetError::from_request(&error, limits.connect_timeout))
                }
                Err(gave_up) => {
                    Err(gave_up.into_error(Phase::FirstByte, limits.first_byte_timeout))
                }
            }
        })
    }

    /// Connects to a port without a word of HTTP; no proxy knows what would be said there.
    pub(crate) fn connect(
        &self,
        host: &str,
        port: u16,
        interrupt: &AtomicBool,
    ) -> Result<std::net::TcpStream, NetError> {
        let limit = self.limits.connect_timeout;
        let refused = |error: std::io::Error| NetError::of_socket(&error);
        let stream = self.runtime().block_on(async {
            let looking = pin!(tokio::net::lookup_host((host, port)));
            let addresses = watched(looking, limit, interrupt)
                .await
                .map_err(|gave_up| gave_up.into_error(Phase::Connect, limit))?
                .map_err(|error| NetError::of_lookup(&LookupError(error)))?;
            let mut answer = Err(NetError::Dns {
                reason: "the name has no address".into(),
            });
            for address in addresses {
                let connecting = pin!(TcpStream::connect(address));
                match watched(connecting, limit, interrupt).await {
                    Ok(Ok(stream)) => return stream.into_std().map_err(refused),
                    Ok(Err(error)) => answer = Err(refused(error)),
                    Err(GaveUp::Interrupted) => return Err(NetError::Interrupted),
                    Err(gave_up) => answer = Err(gave_up.into_error(Phase::Connect, limit)),
                }
            }
            answer
        })?;
        stream.set_nonblocking(false).map_err(refused)?;
        // Requests are many small writes, and then we wait.
        stream.set_nodelay(true).map_err(refused)?;
        Ok(stream)
    }

    pub(crate) const fn limits(&self) -> &Limits {
        &self.limits
    }
}

impl GaveUp {
    const fn into_error(self, phase: Phase, limit: Duration) -> NetError {
        match self {
            Self::Interrupted => NetError::Interrupted,
            Self::Deadline => NetError::Timeout { phase, limit },
        }
    }
}

/// The answer to a request, its body still to be read.
pub(crate) struct Answer<'a> {
    client: &'a Client,
    interrupt: &'a AtomicBool,
    url: SourceUrl,
    response: reqwest::Response,
    stall: StallWatch,
    got_bytes: u64,
    /// How long nothing has come.
    silent: Duration,
}

impl std::fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({})", self.url)
    }
}

impl Answer<'_> {
    /// Returns whence it came in the end, without credentials.
    pub(crate) const fn url(&self) -> &SourceUrl {
        &self.url
    }

    /// Returns what it says it is.
    pub(crate) fn content_type(&self) -> &[u8] {
        self.response
            .headers()
            .get(CONTENT_TYPE)
            .map_or(b"", HeaderValue::as_bytes)
    }

    /// Waits for the next bytes; none at the end.
    pub(crate) fn next(&mut self) -> Result<Bytes, NetError> {
        let limits = self.client.limits;
        loop {
            let asked = Instant::now();
            let chunk = self.client.runtime().block_on(async {
                tokio::time::timeout(POLL_INTERVAL, self.response.chunk()).await
            });
            if self.interrupt.load(Ordering::Relaxed) {
                return Err(NetError::Interrupted);
            }
            let chunk = match chunk {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Ok(Bytes::new()),
                Ok(Err(error)) => return Err(NetError::from_body(&error, self.got_bytes, None)),
                Err(_nothing_yet) => Bytes::new(),
            };
            self.got_bytes += chunk.len() as u64;
            if self.got_bytes > UNHURRIED_BYTES
                && self
                    .stall
                    .stalled_after(asked.elapsed(), chunk.len() as u64)
            {
                return Err(NetError::Stall {
                    got_bytes: self.got_bytes,
                    bytes_per_second: limits.stall_bytes_per_second,
                    window: limits.stall_window,
                });
            }
            if !chunk.is_empty() {
                self.silent = Duration::ZERO;
                return Ok(chunk);
            }
            self.silent += asked.elapsed();
            if self.silent > limits.first_byte_timeout {
                return Err(NetError::Timeout {
                    phase: Phase::FirstByte,
                    limit: limits.first_byte_timeout,
                });
            }
        }
    }
}
