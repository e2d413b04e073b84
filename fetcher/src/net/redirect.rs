//! The way from the URL asked for to the one that answers, and who may see the credentials on it.
//!
//! reqwest's own policy is not used: it would pass on headers that it does not know to be secret, and send a Referer.

use std::collections::HashSet;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use url::Url;

use super::Trust;
use super::error::NetError;
use super::{Access, netrc};
use crate::source_url::{SourceUrl, SourceUrlError};

/// Where we are, and where we have been.
#[derive(Clone, Debug)]
pub(super) struct Route {
    current: SourceUrl,
    credentials: Option<Credentials>,
    visited: HashSet<Url>,
    max_redirects: u32,
    trust: Trust,
    access: Arc<Access>,
}

/// A user name and a password, decoded. Not printable.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// Returns true for the status codes that name another place for the same content.
pub(super) const fn is_redirect(code: u16) -> bool {
    matches!(code, 301 | 302 | 303 | 307 | 308)
}

impl Route {
    pub(super) fn new(
        start: &SourceUrl,
        max_redirects: u32,
        trust: Trust,
        access: Arc<Access>,
    ) -> Result<Self, NetError> {
        let mut route = Self::led_to(start, max_redirects, trust, access)?;
        if route.credentials.is_none() && trust == Trust::Verified {
            route.credentials = netrc::credentials(start.url(), route.access.netrc.as_deref());
        }
        Ok(route)
    }

    /// Begins where an earlier redirect led: no credentials but those in the URL.
    pub(super) fn led_to(
        start: &SourceUrl,
        max_redirects: u32,
        trust: Trust,
        access: Arc<Access>,
    ) -> Result<Self, NetError> {
        // Nothing secret is told to anybody.
        let may_tell = start.has_credentials() && trust == Trust::Verified;
        let credentials = may_tell.then(|| Credentials {
            user: decoded(start.url().username()),
            password: start.url().password().map(decoded),
        });
        let current = bare(start.url().clone())?;
        let visited = HashSet::from([current.url().clone()]);
        Ok(Self {
            current,
            credentials,
            visited,
            max_redirects,
            trust,
            access,
        })
    }

    /// Returns the URL to ask now, without credentials and fragment.
    pub(super) const fn current(&self) -> &SourceUrl {
        &self.current
    }

    /// Returns what the current origin may know of who asks.
    pub(super) const fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Returns true once a redirect was followed.
    pub(super) fn was_redirected(&self) -> bool {
        self.visited.len() > 1
    }

    /// Goes where a `Location` points. Credentials that another origin made us drop do not come back, and those in
    /// the `Location` are ignored.
    pub(super) fn follow(&mut self, location: Option<&[u8]>) -> Result<(), NetError> {
        let bad = |reason| NetError::BadRedirect { reason };
        let location = location.ok_or_else(|| bad("without a location"))?;
        let location =
            str::from_utf8(location).map_err(|_| bad("to a location that is not UTF-8"))?;
        let from = self.current.url();
        let target = from.join(location).map_err(|_| bad("to an invalid URL"))?;
        match (from.scheme(), target.scheme()) {
            ("https", "http") if self.trust == Trust::Verified => return Err(NetError::Downgrade),
            (_, "http" | "https") => {}
            _ => return Err(bad("to something other than http and https")),
        }
        let named = bare(target)?;
        let target = self.access.rules.apply(&named);
        let target = bare(target.map_err(NetError::Blocked)?.url().clone())?;
        let same_origin = from.origin() == target.url().origin();
        if self.visited.contains(target.url()) {
            return Err(NetError::RedirectLoop);
        }
        if self.visited.len() > self.max_redirects as usize {
            return Err(NetError::TooManyRedirects {
                limit: self.max_redirects,
            });
        }
        if !same_origin {
            self.credentials = None;
        }
        self.visited.insert(target.url().clone());
        self.current = target;
        Ok(())
    }
}

/// Takes away what is not sent as part of a request's target.
fn bare(mut url: Url) -> Result<SourceUrl, NetError> {
    url.set_fragment(None);
    // Both fail only for URLs that have no host, which http and https URLs always have.
    let cleared = url.set_password(None).and_then(|()| url.set_username(""));
    if cleared.is_err() {
        return Err(NetError::BadRedirect {
            reason: "to a URL without a host",
        });
    }
    SourceUrl::from_url(url).map_err(|error| NetError::BadRedirect {
        reason: match error {
            SourceUrlError::TooLong => "to an over-long URL",
            _ => "to an invalid URL",
        },
    })
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(start: &str) -> Route {
        let access = Arc::new(Access::default());
        let start = SourceUrl::parse(start).unwrap();
        Route::new(&start, 20, Trust::Verified, access).unwrap()
    }

    fn followed(start: &str, location: &str) -> Result<String, NetError> {
        let mut route = route(start);
        route.follow(Some(location.as_bytes()))?;
        Ok(route.current().url().to_string())
    }

    #[test]
    fn locations_are_relative_to_the_current_url() {
        let start = "https://h/a/b?c#d";
        for (location, target) in [
            ("x", "https://h/a/x"),
            ("/x", "https://h/x"),
            ("//i/x", "https://i/x"),
            ("?x", "https://h/a/b?x"),
            ("https://i/x y#z", "https://i/x%20y"),
            ("../../x", "https://h/x"),
        ] {
            assert_eq!(followed(start, location).unwrap(), target, "{location}");
        }
        assert_eq!(
            followed("http://h/a", "https://h/a").unwrap(),
            "https://h/a"
        );
    }

    #[test]
    fn bad_targets_are_refused() {
        assert!(matches!(
            followed("https://h/a", "http://h/b"),
            Err(NetError::Downgrade)
        ));
        assert!(matches!(
            followed("https://h/a", "#other-part"),
            Err(NetError::RedirectLoop)
        ));
        for location in [
            "file:///etc/passwd",
            "ftp://h/a",
            "http://",
            "data:,x",
            &format!("/{}", "a".repeat(9000)),
        ] {
            assert!(
                matches!(
                    followed("http://h/a", location),
                    Err(NetError::BadRedirect { .. })
                ),
                "{location}"
            );
        }
        assert!(matches!(
            route("http://h/a").follow(None),
            Err(NetError::BadRedirect { .. })
        ));
        assert!(matches!(
            route("http://h/a").follow(Some(b"/\xff")),
            Err(NetError::BadRedirect { .. })
        ));
    }

    #[test]
    fn who_trusts_anybody_tells_nobody_anything() {
        let start = SourceUrl::parse("https://me:secret@h/a").unwrap();
        let mut route = Route::new(&start, 20, Trust::Anybody, Arc::default()).unwrap();
        assert!(route.credentials().is_none());
        route.follow(Some(b"http://h/b")).unwrap();
        assert_eq!(route.current().url().as_str(), "http://h/b");
    }

    #[test]
    fn loops_and_endless_chains_end() {
        let mut around = route("http://h/a");
        around.follow(Some(b"/b")).unwrap();
        assert!(matches!(
            around.follow(Some(b"/a")),
            Err(NetError::RedirectLoop)
        ));

        let mut endless = route("http://h/0");
        for step in 1..=20 {
            endless.follow(Some(format!("/{step}").as_bytes())).unwrap();
        }
        assert!(matches!(
            endless.follow(Some(b"/21")),
            Err(NetError::TooManyRedirects { limit: 20 })
        ));
    }

    #[test]
    fn credentials_stay_with_their_origin() {
        let start = "https://me:p%40ss@h/a";
        let mut same = route(start);
        assert_eq!(same.current().url().as_str(), "https://h/a");
        same.follow(Some(b"/b")).unwrap();
        let credentials = same.credentials().unwrap();
        assert_eq!(
            (credentials.user.as_str(), credentials.password.as_deref()),
            ("me", Some("p@ss"))
        );

        for other in ["https://i/a", "https://h:8443/a"] {
            let mut away = route(start);
            away.follow(Some(other.as_bytes())).unwrap();
            assert!(away.credentials().is_none(), "{other}");
            away.follow(Some(b"https://h/back")).unwrap();
            assert!(away.credentials().is_none(), "{other} and back");
        }
        let mut given = route("https://h/a");
        given.follow(Some(b"https://you:secret@h/b")).unwrap();
        assert!(given.credentials().is_none());
        assert_eq!(given.current().url().as_str(), "https://h/b");
    }
}
