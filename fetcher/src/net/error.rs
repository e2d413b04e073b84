//! What goes wrong on the network, in words for people and in classes for the driver.

use std::error::Error;
use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::range;
use super::redirect::is_redirect;
use super::rules::Blocked;
use crate::source_url::SourceUrl;

/// Why a transfer brought nothing. Messages are fragments that fit after "failed: "; they hold no credentials and no
/// query.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// No connection: refused, unreachable, reset or closed before an answer.
    #[error("{reason}")]
    Connect {
        /// For example "connection refused".
        reason: String,
    },
    /// The host's name has no address, or nobody could be asked.
    #[error("{reason}")]
    Dns {
        /// For example "name not found".
        reason: String,
    },
    /// No trusted connection.
    #[error("{reason}")]
    Tls {
        /// For example "certificate has expired".
        reason: String,
        /// The server's certificate is the cause, and nothing else.
        of_certificate: bool,
    },
    /// Waited too long before the body.
    #[error("{phase} timed out after {} s", limit.as_secs_f32())]
    Timeout {
        /// What was waited for.
        phase: Phase,
        /// The limit that ran out.
        limit: Duration,
    },
    /// The body came too slowly.
    #[error(
        "stalled at {got_bytes} bytes: less than {bytes_per_second} bytes/s over {} s", window.as_secs_f32()
    )]
    Stall {
        /// Bytes that had come.
        got_bytes: u64,
        /// The least speed accepted.
        bytes_per_second: u64,
        /// The time over which it was measured.
        window: Duration,
    },
    /// The body ended before its end.
    #[error("short body: {reason} after {got_bytes}{} bytes", of_wanted(*wanted_bytes))]
    Short {
        /// Bytes that had come.
        got_bytes: u64,
        /// Bytes announced, if they were.
        wanted_bytes: Option<u64>,
        /// For example "connection closed".
        reason: String,
    },
    /// The body is, or claims to be, longer than allowed.
    #[error("body is longer than the limit of {limit_bytes} bytes{}", announced(*announced_bytes))]
    TooLong {
        /// [`super::Limits::max_bytes`].
        limit_bytes: u64,
        /// The length claimed before the body; `None` if it ran over the limit instead.
        announced_bytes: Option<u64>,
    },
    /// The server answered, but not with the content.
    #[error("the server answered {code}{}{}", status_text(*code), wished_pause(*retry_after))]
    Status {
        /// The HTTP status code.
        code: u16,
        /// How long it asks us to stay away (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// A redirect led back to a URL already asked.
    #[error("redirect loop")]
    RedirectLoop,
    /// Redirects without end.
    #[error("more than {limit} redirects")]
    TooManyRedirects {
        /// [`super::Limits::max_redirects`].
        limit: u32,
    },
    /// A redirect to nowhere.
    #[error("redirect {reason}")]
    BadRedirect {
        /// For example "without a location".
        reason: &'static str,
    },
    /// A redirect from https to http.
    #[error("redirect from https to http")]
    Downgrade,
    /// A redirect to what a rule of the configuration forbids to ask.
    #[error("{0}")]
    Blocked(Blocked),
    /// The body is compressed, though we asked for it as it is.
    #[error("the server sent the body with content encoding {encoding:?}, which was not asked for")]
    Encoding {
        /// The `Content-Encoding` of the answer.
        encoding: String,
    },
    /// The answer is not HTTP, or not within its rules.
    #[error("invalid answer: {reason}")]
    Protocol {
        /// For example "head is too large".
        reason: String,
    },
    /// The answer to a request for a part is something else: there may be nothing wrong with the whole.
    #[error("asked for a part, {reason}")]
    NotThePart {
        /// For example "the server answered 200".
        reason: String,
    },
    /// The interrupt flag was set.
    #[error("interrupted")]
    Interrupted,
    /// The receiver of the body failed, for example because the disk is full.
    #[error("{0}")]
    Sink(io::Error),
    /// This machine could not set up a transfer.
    #[error("cannot set up the network client: {reason}")]
    Setup {
        /// For example "too many open files".
        reason: String,
    },
    /// A redirect led to a host that wants to be left alone, as it has told before.
    #[error("its host is to be left alone for {} s", pause.as_secs())]
    LeftAlone {
        /// For how long yet.
        pause: Duration,
    },
    /// An error of another URL, to which the one asked for had led.
    #[error("redirected to {url}: {error}")]
    Redirected {
        /// The URL that failed.
        url: Box<SourceUrl>,
        /// Its error, never itself `Redirected`.
        error: Box<Self>,
    },
    /// Anything else.
    #[error("{reason}")]
    Other {
        /// The innermost cause.
        reason: String,
    },
}

/// What was waited for when time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Name lookup, TCP and TLS.
    Connect,
    /// From the request to the head of the answer.
    FirstByte,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::FirstByte => "waiting for an answer",
        })
    }
}

/// What an error means to somebody who has other URLs left to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetClass {
    /// The server says that it does not have the content: 404, 410.
    Gone,
    /// The user wants to stop.
    Interrupted,
    /// This machine is at fault; another URL would not help.
    Local,
    /// Everything else: another URL or another time may do.
    Trouble,
}

/// How long a server is left alone that has too much to do and does not say for how long.
pub(crate) const PAUSE_OF_OVERLOAD: Duration = Duration::from_secs(5);

/// How a repetition may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The server has too much to do: asking soon again makes it worse.
    pub is_overload: bool,
    /// How long the server wants to be left alone.
    pub at_least: Option<Duration>,
}

impl Retry {
    /// Returns how long nobody asks the host: as long as it wants, or for a while if it has too much to do and does not
    /// say.
    pub(crate) fn pause_for_all(self) -> Option<Duration> {
        let ours = self.is_overload.then_some(PAUSE_OF_OVERLOAD);
        self.at_least.or(ours)
    }
}

impl NetError {
    /// Returns what the error means to somebody who has other URLs left to ask.
    pub fn class(&self) -> NetClass {
        match self.innermost() {
            Self::Status {
                code: 404 | 410, ..
            } => NetClass::Gone,
            Self::Interrupted => NetClass::Interrupted,
            Self::Sink(_) | Self::Setup { .. } => NetClass::Local,
            _ => NetClass::Trouble,
        }
    }

    /// Returns how a repetition may help; `None` where it cannot: what a server has understood and refused, it will
    /// refuse again.
    pub fn retry(&self) -> Option<Retry> {
        let retry = |is_overload, at_least| {
            Some(Retry {
                is_overload,
                at_least,
            })
        };
        match *self.innermost() {
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Stall { .. }
            | Self::Short { .. }
            | Self::NotThePart { .. }
            | Self::Other { .. } => retry(false, None),
            Self::LeftAlone { pause } => retry(false, Some(pause)),
            Self::Dns { ref reason } if reason != NAME_NOT_FOUND => retry(false, None),
            Self::Status { code, retry_after } => match code {
                429 | 503 => retry(true, retry_after),
                501 | 505 => None,
                408 | 500..=599 => retry(false, retry_after),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns what the user can do, where it is not to try again later.
    pub fn advice(&self) -> Option<&'static str> {
        match self.innermost() {
            Self::Status {
                code: 401 | 403, ..
            } => Some(
                "if it wants a user and a password, name them in the URL or a netrc file; else give another URL",
            ),
            Self::Status { code: 407, .. } => {
                Some("name the user and the password that the proxy wants in its URL")
            }
            Self::TooLong { .. } => Some("--max-bytes sets the limit"),
            Self::Tls {
                of_certificate: true,
                ..
            } => Some(
                "if the certificate is in order, name the bundle that vouches for it in SSL_CERT_FILE; else give another URL",
            ),
            _ => None,
        }
    }

    /// Returns true if the host is the cause, whatever it is asked for.
    pub fn is_of_host(&self) -> bool {
        match self.innermost() {
            // Without a network, and without name servers, no host answers.
            Self::Connect { reason } => reason != NETWORK_UNREACHABLE,
            Self::Dns { reason } => reason == NAME_NOT_FOUND,
            Self::Tls { .. } | Self::Timeout { .. } => true,
            Self::Status { code, .. } => matches!(code, 429 | 500..=599),
            _ => false,
        }
    }

    /// Returns the URL that failed, if a redirect had led to another than the one asked for.
    pub fn redirected_to(&self) -> Option<&SourceUrl> {
        match self {
            Self::Redirected { url, .. } => Some(url),
            _ => None,
        }
    }

    /// Returns true if a server would be asked that nothing vouches for.
    pub fn is_of_trust(&self) -> bool {
        matches!(
            self.innermost(),
            Self::Downgrade
                | Self::Tls {
                    of_certificate: true,
                    ..
                }
        )
    }

    /// Sorts an error of a request for a part, where somebody may have nothing against a request for the whole.
    pub(super) fn of_part(self) -> Self {
        match self {
            Self::Status { code, .. }
                if code == 200 || is_redirect(code) || range::is_about_range(code) =>
            {
                let reason = self.to_string();
                Self::NotThePart { reason }
            }
            Self::Protocol { reason } => Self::NotThePart { reason },
            other => other,
        }
    }

    /// Returns the error itself, without the redirect that led to it.
    pub fn innermost(&self) -> &Self {
        match self {
            Self::Redirected { error, .. } => error.innermost(),
            other => other,
        }
    }

    pub(super) fn of_lookup(failed: &LookupError) -> Self {
        let reason = lookup_reason(&failed.0);
        match is_full(&failed.0) {
            true => Self::Setup { reason },
            false => Self::Dns { reason },
        }
    }

    /// Sorts an error of a socket that carries no HTTP.
    pub(crate) fn of_socket(error: &io::Error) -> Self {
        Self::no_connection(error, error)
    }

    /// Sorts what kept a connection from being made: `io`, with its circumstances.
    fn no_connection(error: &(dyn Error + 'static), io: &io::Error) -> Self {
        let reason = reason(error);
        match is_full(io) {
            true => Self::Setup { reason },
            false => Self::Connect { reason },
        }
    }

    /// Sorts an error from before the head of an answer. `connect_timeout` is the limit reqwest was given.
    pub(super) fn from_request(error: &reqwest::Error, connect_timeout: Duration) -> Self {
        if let Some(failed) = find::<LookupError>(error) {
            return Self::of_lookup(failed);
        }
        if let Some(tls) = find::<rustls::Error>(error) {
            return Self::Tls {
                reason: tls_reason(tls),
                of_certificate: matches!(tls, rustls::Error::InvalidCertificate(_)),
            };
        }
        if error.is_connect() && error.is_timeout() {
            return Self::Timeout {
                phase: Phase::Connect,
                limit: connect_timeout,
            };
        }
        if let Some(cause) = find::<hyper::Error>(error) {
            if cause.is_parse() {
                return Self::Protocol {
                    reason: reason(cause),
                };
            }
            if cause.is_incomplete_message() {
                return Self::Connect {
                    reason: "connection closed without an answer".into(),
                };
            }
        }
        let io = chain(error)
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .last();
        if let Some(io) = io {
            return Self::no_connection(error, io);
        }
        if error.is_connect() {
            return Self::Connect {
                reason: reason(error),
            };
        }
        Self::Other {
            reason: reason(error),
        }
    }

    /// Sorts an error from within a body.
    pub(super) fn from_body(
        error: &reqwest::Error,
        got_bytes: u64,
        wanted_bytes: Option<u64>,
    ) -> Self {
        let closed = find::<io::Error>(error)
            .is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
            || find::<hyper::Error>(error).is_some_and(hyper::Error::is_incomplete_message);
        let reason = if closed {
            "connection closed".into()
        } else {
            reason(error)
        };
        Self::Short {
            got_bytes,
            wanted_bytes,
            reason,
        }
    }
}

/// Marks a failed name lookup, which reqwest's own errors tell apart by text only.
#[derive(Debug, thiserror::Error)]
#[error("name lookup failed")]
pub(super) struct LookupError(#[source] pub(super) io::Error);

/// Finds a cause by its type. `io::Error` hides the error inside it from `source()`, so it is asked itself.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    chain(error).find_map(|cause| cause.downcast_ref::<T>())
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause| {
        match cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => cause.source(),
        }
    })
}

/// Flattens a chain of causes into the one that says most: the last.
fn reason(error: &(dyn Error + 'static)) -> String {
    if let Some(tls) = find::<rustls::Error>(error) {
        return tls_reason(tls);
    }
    if let Some(text) = chain(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .find_map(io_reason)
    {
        return text.into();
    }
    tidy(&chain(error).last().unwrap_or(error).to_string())
}

/// Returns true if no file could be opened, so that no server could be asked, whichever.
fn is_full(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

/// Puts the common I/O errors into words without numbers.
fn io_reason(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => "connection reset",
        io::ErrorKind::BrokenPipe => "connection closed",
        io::ErrorKind::HostUnreachable => "host unreachable",
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => NETWORK_UNREACHABLE,
        io::ErrorKind::TimedOut => "connection timed out",
        _ => return None,
    })
}

/// There is no way out of this machine.
const NETWORK_UNREACHABLE: &str = "network unreachable";

/// The resolver's final word; everything else it says may be different in a minute.
const NAME_NOT_FOUND: &str = "name not found";

fn lookup_reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.rsplit(": ").next().unwrap_or_default();
    match text {
        // In the words of glibc, then of musl.
        "Name or service not known"
        | "No address associated with hostname"
        | "Name does not resolve"
        | "Name has no usable address" => NAME_NOT_FOUND.into(),
        other => format!("name lookup failed: {}", tidy(other)),
    }
}

fn tls_reason(error: &rustls::Error) -> String {
    use rustls::CertificateError as Certificate;
    let text = match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            Certificate::Expired | Certificate::ExpiredContext { .. } => "certificate has expired",
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                "certificate is not valid yet"
            }
            Certificate::UnknownIssuer => "certificate is from an unknown issuer",
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                "certificate is for another host"
            }
            Certificate::Revoked => "certificate is revoked",
            // The way of OpenSSL's `req -x509`; webpki's errors have no words but their names.
            Certificate::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
                "certificate is a CA's own, which no server may show as its own"
            }
            other => return format!("bad certificate: {}", tidy(&other.to_string())),
        },
        rustls::Error::InvalidMessage(_) => "the server does not speak TLS",
        rustls::Error::AlertReceived(alert) => return format!("the server refused TLS: {alert:?}"),
        rustls::Error::General(text) => return tidy(text),
        other => return format!("TLS: {}", tidy(&other.to_string())),
    };
    text.into()
}

/// Makes a library's message a fragment of one line: lower case at the start, no errno, nothing unprintable.
fn tidy(text: &str) -> String {
    if let Some(tunnel) = text.strip_prefix("tunnel error: ") {
        return match tunnel {
            "unsuccessful" => "the proxy opened no tunnel".into(),
            other => format!("the proxy opened no tunnel: {other}"),
        };
    }
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut characters = text.chars().map(|character| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    });
    let Some(first) = characters.next() else {
        return "unknown error".into();
    };
    let rest: String = characters.collect();
    // "TLS ..." keeps its capitals.
    if rest.starts_with(char::is_uppercase) {
        format!("{first}{rest}")
    } else {
        format!("{}{rest}", first.to_lowercase())
    }
}

fn of_wanted(wanted_bytes: Option<u64>) -> String {
    wanted_bytes.map_or_else(String::new, |wanted| format!(" of {wanted}"))
}

fn announced(announced_bytes: Option<u64>) -> String {
    announced_bytes.map_or_else(String::new, |announced| {
        format!(" (announced: {announced})")
    })
}

fn wished_pause(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |pause| {
        format!(" and asks for a pause of {} s", pause.as_secs())
    })
}

fn status_text(code: u16) -> String {
    reqwest::StatusCode::from_u16(code)
        .ok()
        .and_then(|status| status.canonical_reason())
        .map_or_else(String::new, |text| format!(" {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_here_is_not_held_against_a_host() {
        let of_socket =
            |errno: Errno| NetError::of_socket(&io::Error::from_raw_os_error(errno.raw_os_error()));
        for errno in [Errno::MFILE, Errno::NFILE] {
            assert_eq!(of_socket(errno).class(), NetClass::Local, "{errno}");
        }
        for errno in [Errno::NETUNREACH, Errno::NETDOWN] {
            let error = of_socket(errno);
            assert!(!error.is_of_host() && error.retry().is_some(), "{error}");
        }
        assert!(of_socket(Errno::CONNREFUSED).is_of_host());
        let of_lookup = |text: &str| {
            let text = format!("failed to lookup address information: {text}");
            NetError::of_lookup(&LookupError(io::Error::other(text)))
        };
        for text in ["Temporary failure in name resolution", "Try again"] {
            let error = of_lookup(text);
            assert!(!error.is_of_host() && error.retry().is_some(), "{error}");
        }
        for text in ["Name or service not known", "Name does not resolve"] {
            let error = of_lookup(text);
            assert!(error.is_of_host() && error.retry().is_none(), "{error}");
        }
        let full = io::Error::from_raw_os_error(Errno::MFILE.raw_os_error());
        let full = NetError::of_lookup(&LookupError(full));
        assert_eq!(full.class(), NetClass::Local);
    }
}
