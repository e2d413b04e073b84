//! The rest of a body: asked for by a range, and taken only if it begins where ours ends.
//!
//! A range with a validator (`If-Range`) is answered with the rest if the server still has the very same file, else
//! with the whole. Without one (another mirror, a server that gives none) the rest is asked for all the same: the whole
//! is hashed in the end, and what does not fit is thrown away then.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use reqwest::header::{
    CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, RETRY_AFTER,
};

use super::error::NetError;
use crate::source_url::SourceUrl;

/// The longest validator that is kept, in bytes; those of real servers have less than a hundred.
const MAX_VALIDATOR_LEN: usize = 256;

/// A `Last-Modified` names one version of a file only if it was old when it was sent: RFC 9110, 8.8.2.2, says a second,
/// and clocks and coarse timestamps want more.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// The longest pause that a server is understood to ask for: what is more counts as this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Where a body is to go on.
#[derive(Clone, Copy)]
pub struct Resume<'a> {
    /// How many bytes are there already, at least one.
    pub from_bytes: u64,
    /// What is there behind that, in order and with gaps: of a body that came over several connections.
    pub there: &'a [Range<u64>],
    /// Returns the validator that a URL gave, if it did.
    pub validator_of: &'a dyn Fn(&SourceUrl) -> Option<String>,
}

impl std::fmt::Debug for Resume<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resume")
            .field("from_bytes", &self.from_bytes)
            .finish_non_exhaustive()
    }
}

/// What is known of a body before its first byte.
#[derive(Clone, Debug)]
pub struct BodyStart {
    /// Where it begins in the whole: 0, or where it was to go on.
    pub from_bytes: u64,
    /// Length of the whole in bytes, if it was announced.
    pub length_bytes: Option<u64>,
    /// Who sends it, without credentials.
    pub url: SourceUrl,
    /// What tells this version of the file from every other, as `If-Range` wants it.
    pub validator: Option<String>,
}

/// Reads the `Content-Range` of a 206 answer. Returns the length of the whole, if it is told.
pub(super) fn whole_length(
    headers: &HeaderMap,
    from_bytes: u64,
    part_bytes: Option<u64>,
) -> Result<Option<u64>, NetError> {
    let value = text(headers, CONTENT_RANGE);
    let wrong = |what: &str| NetError::Protocol {
        reason: format!("asked for the bytes from {from_bytes} on, the server sends {what}"),
    };
    let Some(value) = value else {
        return Err(wrong("a part and does not say which"));
    };
    let shown = || wrong(&format!("'{}'", value.escape_debug()));
    let (first, last, total) = parse(value).ok_or_else(shown)?;
    let is_consistent = first == from_bytes
        && last >= first
        && total.is_none_or(|total| total > last)
        && part_bytes.is_none_or(|part| part.checked_sub(1) == Some(last - first));
    if is_consistent {
        Ok(total)
    } else {
        Err(shown())
    }
}

/// Reads the `Content-Range` of an answer to a request for a part, which must be that part. Returns the length of the
/// whole.
pub(super) fn part_of(
    headers: &HeaderMap,
    wanted: Range<u64>,
    part_bytes: Option<u64>,
) -> Result<u64, NetError> {
    let value = text(headers, CONTENT_RANGE).unwrap_or_default();
    let part = match parse(value) {
        Some((first, last, Some(total))) if last < total => (first..last + 1, total),
        _ => (0..0, 0),
    };
    let length = wanted.end - wanted.start;
    if part.0 == wanted && part_bytes.is_none_or(|part| part == length) {
        return Ok(part.1);
    }
    Err(NetError::Protocol {
        reason: format!(
            "asked for the bytes from {} to {}, the server sends '{}'",
            wanted.start,
            wanted.end.saturating_sub(1),
            value.escape_debug()
        ),
    })
}

/// Returns true if a server that answers so may have nothing against the request but the range in it. What is gone, or
/// too much at the moment, has nothing to do with that.
pub(super) const fn is_about_range(code: u16) -> bool {
    matches!(code, 400..=403 | 405..=407 | 409 | 411..=428 | 430..=499 | 501)
}

/// Reads `bytes FIRST-LAST/TOTAL`; the total may be `*`.
fn parse(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((first.parse().ok()?, last.parse().ok()?, total))
}

/// Returns what tells this version of a file from every other: a strong entity tag, or an old enough date.
pub(super) fn validator(headers: &HeaderMap) -> Option<String> {
    let short = |text: &&str| text.len() <= MAX_VALIDATOR_LEN;
    if let Some(tag) = text(headers, ETAG) {
        return Some(tag)
            .filter(|tag| tag.starts_with('"'))
            .filter(short)
            .map(str::to_owned);
    }
    let modified = text(headers, LAST_MODIFIED).filter(short)?;
    let at = |text: &str| httpdate::parse_http_date(text).ok();
    let age = at(text(headers, DATE)?)?
        .duration_since(at(modified)?)
        .ok()?;
    (age >= SETTLED_AFTER).then(|| modified.to_owned())
}

/// Returns true if an answer says that it is of another version than the one a validator tells. What says nothing is
/// believed: the server was asked for that version.
pub(super) fn is_other_version(headers: &HeaderMap, validator: &str) -> bool {
    // As they are: a weak tag, or a date that is too young to be a validator, may differ as well.
    let name = match validator.starts_with('"') {
        true => ETAG,
        false => LAST_MODIFIED,
    };
    text(headers, name).is_some_and(|told| told != validator)
}

/// Reads `Retry-After`, in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = text(headers, RETRY_AFTER)?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    // The server's own clock says how long it means, if it tells it.
    let now = text(headers, DATE)
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .unwrap_or_else(SystemTime::now);
    let pause = until.duration_since(now).unwrap_or_default();
    Some(pause.min(MAX_RETRY_AFTER))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(HeaderValue::to_str)?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn a_part_must_begin_where_ours_ends() {
        let answer = |range: &str, part| {
            whole_length(&headers(&[(CONTENT_RANGE, range)]), 100, part).map_err(|_| ())
        };
        assert_eq!(answer("bytes 100-199/200", Some(100)), Ok(Some(200)));
        assert_eq!(answer("bytes 100-149/200", None), Ok(Some(200)));
        assert_eq!(answer("bytes 100-199/*", Some(100)), Ok(None));
        for range in [
            "bytes 0-199/200",
            "bytes 99-199/200",
            "bytes 101-199/200",
            "bytes 100-99/200",
            "bytes 100-200/200",
            "bytes */200",
            "bytes 100-/200",
            "100-199/200",
            "bytes 100-199",
            "items 100-199/200",
            "bytes 100-99999999999999999999/*",
            "",
        ] {
            assert_eq!(answer(range, None), Err(()), "{range}");
        }
        assert_eq!(answer("bytes 100-199/200", Some(99)), Err(()), "its length");
        assert!(whole_length(&HeaderMap::new(), 100, None).is_err());
    }

    #[test]
    fn a_part_must_be_the_one_that_was_asked_for() {
        let answer = |range: &str, part| {
            part_of(&headers(&[(CONTENT_RANGE, range)]), 100..150, part).map_err(|_| ())
        };
        assert_eq!(answer("bytes 100-149/200", Some(50)), Ok(200));
        assert_eq!(answer("bytes 100-149/200", None), Ok(200));
        for range in [
            "bytes 100-199/200",
            "bytes 100-148/200",
            "bytes 101-149/200",
            "bytes 100-149/*",
            "bytes 100-149/149",
            "bytes 100-18446744073709551615/18446744073709551615",
            "",
        ] {
            assert_eq!(answer(range, None), Err(()), "{range}");
        }
        assert_eq!(
            answer("bytes 100-149/200", Some(100)),
            Err(()),
            "its length"
        );
        assert!(part_of(&HeaderMap::new(), 100..150, None).is_err());
    }

    #[test]
    fn only_strong_validators_count() {
        let of = |lines: &[(HeaderName, &str)]| validator(&headers(lines));
        let date = (DATE, "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(of(&[(ETAG, "\"a\"")]).as_deref(), Some("\"a\""));
        assert_eq!(of(&[(ETAG, "W/\"a\"")]), None);
        let old = "Sat, 05 Nov 1994 08:49:37 GMT";
        assert_eq!(
            of(&[(LAST_MODIFIED, old), date.clone()]).as_deref(),
            Some(old)
        );
        assert_eq!(of(&[(LAST_MODIFIED, old)]), None, "how old was it?");
        let fresh = "Sun, 06 Nov 1994 08:49:30 GMT";
        assert_eq!(of(&[(LAST_MODIFIED, fresh), date]), None);
        let long = format!("\"{}\"", "x".repeat(300));
        assert_eq!(of(&[(ETAG, &long)]), None);
    }

    #[test]
    fn pauses_in_seconds_and_dates() {
        let of = |lines: &[(HeaderName, &str)]| retry_after(&headers(lines));
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(of(&[(RETRY_AFTER, "7")]), seconds(7));
        let date = (DATE, "Sun, 06 Nov 1994 08:49:37 GMT");
        let later = (RETRY_AFTER, "Sun, 06 Nov 1994 08:50:07 GMT");
        assert_eq!(of(&[later, date.clone()]), seconds(30));
        let past = (RETRY_AFTER, "Sun, 06 Nov 1994 08:49:07 GMT");
        assert_eq!(of(&[past, date]), seconds(0));
        let most = Some(MAX_RETRY_AFTER);
        for text in ["18446744073709551615", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(of(&[(RETRY_AFTER, text)]), most, "{text}");
        }
        for text in ["", "-1", "soon", "1.5"] {
            assert_eq!(of(&[(RETRY_AFTER, text)]), None, "{text}");
        }
    }
}
