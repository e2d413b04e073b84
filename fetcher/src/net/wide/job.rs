//! What one connection does: it asks for its part, sees that the answer is that part, and passes it on.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{HeaderValue, IF_RANGE, LOCATION, RANGE};
use tokio::sync::mpsc;

use super::super::error::{NetError, Phase};
use super::super::hosts::{self, Counted};
use super::super::redirect::{Route, is_redirect};
use super::super::transfer::check_encoding;
use super::super::wait::{POLL_INTERVAL, StallWatch};
use super::super::{Limits, range};
use crate::source_url::SourceUrl;

/// Says for how long the host of a URL is to be left alone.
pub(crate) type LeftAlone = Arc<dyn Fn(&SourceUrl) -> Option<Duration> + Send + Sync>;

/// What a worker says.
pub(super) enum Event {
    /// It was answered with its part, there, and by what tells this version of the file from others.
    Answered(u64, Box<Route>, Option<String>),
    Bytes(u64, Bytes),
    /// Its part is over, or it cannot go on, and who was asked last.
    End(u64, Box<SourceUrl>, Result<(), NetError>),
}

/// A part that is to come.
pub(super) struct Job {
    pub(super) id: u64,
    /// Taken when it runs.
    pub(super) begun: Option<Begun>,
    pub(super) route: Route,
    /// Redirects are followed: what another place has may be another version.
    pub(super) may_move: bool,
    pub(super) part: Range<u64>,
    pub(super) length_bytes: u64,
    pub(super) limits: Limits,
}

pub(super) enum Begun {
    Answered(reqwest::Response),
    NotYet(Question),
}

/// How it is asked for.
pub(super) struct Question {
    pub(super) http: reqwest::Client,
    pub(super) validator: Option<String>,
    pub(super) left_alone: Option<LeftAlone>,
}

impl Job {
    pub(super) async fn run(mut self, events: mpsc::Sender<Event>) {
        let end = self.bring(&events).await;
        let url = Box::new(self.route.current().clone());
        // Nobody listens any more if all is there, or lost.
        drop(events.send(Event::End(self.id, url, end)).await);
    }

    async fn bring(&mut self, events: &mpsc::Sender<Event>) -> Result<(), NetError> {
        let (mut response, _counted) = match self.begun.take() {
            Some(Begun::Answered(response)) => (response, None),
            Some(Begun::NotYet(question)) => self.ask(question).await.map_err(NetError::of_part)?,
            None => return Ok(()),
        };
        let told = Event::Answered(
            self.id,
            Box::new(self.route.clone()),
            range::validator(response.headers()),
        );
        if events.send(told).await.is_err() {
            return Ok(());
        }
        let limits = self.limits;
        let mut stall = StallWatch::new(limits.stall_bytes_per_second, limits.stall_window);
        let mut at = self.part.start;
        loop {
            let asked = Instant::now();
            let chunk = match tokio::time::timeout(POLL_INTERVAL, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => {
                    return Err(NetError::from_body(&error, at, Some(self.length_bytes)));
                }
                Err(_nothing_yet) => Bytes::new(),
            };
            let bytes = chunk.len() as u64;
            if stall.stalled_after(asked.elapsed(), bytes) {
                return Err(NetError::Stall {
                    got_bytes: at,
                    bytes_per_second: limits.stall_bytes_per_second,
                    window: limits.stall_window,
                });
            }
            at += bytes;
            if bytes > 0 && events.send(Event::Bytes(self.id, chunk)).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Asks for the part and for no byte behind it, and takes nothing else for an answer.
    async fn ask(
        &mut self,
        question: Question,
    ) -> Result<(reqwest::Response, Option<Counted>), NetError> {
        let mut validator = question.validator;
        let mut counted = None;
        loop {
            let response = self.send(&question.http, validator.as_deref()).await?;
            let headers = response.headers();
            match response.status().as_u16() {
                206 => {
                    check_encoding(&response, self.route.current())?;
                    let length = response.content_length();
                    let total = range::part_of(headers, self.part.clone(), length)?;
                    if total != self.length_bytes {
                        let reason =
                            format!("the whole has {total} bytes, and had {}", self.length_bytes);
                        return Err(NetError::Protocol { reason });
                    }
                    let asked = validator.as_deref();
                    if asked.is_some_and(|asked| range::is_other_version(headers, asked)) {
                        let reason = "the part is of another version".into();
                        return Err(NetError::Protocol { reason });
                    }
                    return Ok((response, counted));
                }
                code if is_redirect(code) && self.may_move => {
                    self.route
                        .follow(headers.get(LOCATION).map(HeaderValue::as_bytes))?;
                    let url = self.route.current();
                    let pause = question.left_alone.as_ref().and_then(|pause| pause(url));
                    if let Some(pause) = pause {
                        return Err(NetError::LeftAlone { pause });
                    }
                    let most = self.limits.widening.connections;
                    // What was counted for the last host is given back first.
                    drop(counted.take());
                    counted = hosts::one_more(url, most);
                    if counted.is_none() {
                        let reason = "its host has as many connections as it may have".into();
                        return Err(NetError::Other { reason });
                    }
                    // It told versions apart where it came from.
                    validator = None;
                }
                code => {
                    let retry_after = range::retry_after(headers);
                    return Err(NetError::Status { code, retry_after });
                }
            }
        }
    }

    async fn send(
        &self,
        http: &reqwest::Client,
        validator: Option<&str>,
    ) -> Result<reqwest::Response, NetError> {
        let range = format!("bytes={}-{}", self.part.start, self.part.end - 1);
        let mut request = http
            .get(self.route.current().url().clone())
            .header(RANGE, range);
        if let Some(validator) = validator {
            request = request.header(IF_RANGE, validator);
        }
        if let Some(credentials) = self.route.credentials() {
            request = request.basic_auth(&credentials.user, credentials.password.as_ref());
        }
        let limits = self.limits;
        tokio::time::timeout(limits.first_byte_timeout, request.send())
            .await
            .map_err(|_| NetError::Timeout {
                phase: Phase::FirstByte,
                limit: limits.first_byte_timeout,
            })?
            .map_err(|error| NetError::from_request(&error, limits.connect_timeout))
    }
}
