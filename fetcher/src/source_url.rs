//! A URL that content may be fetched from: parsed once, and unable to print its secrets.

use std::fmt;
use std::io;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use url::Url;

/// The longest URL accepted, in bytes. Servers refuse about as much (8 KiB is the usual limit of a request line),
/// so a longer one is a mistake.
pub const MAX_URL_BYTES: usize = 8 * 1024;

/// Where the content of a request may be fetched from.
///
/// `Display` and `Debug` leave out user name, password, query and fragment, since those carry tokens.
///
/// ```
/// use fetcher::source_url::SourceUrl;
///
/// let url = SourceUrl::parse("https://me:secret@example.org/a/b%20c.tar.gz?token=1").unwrap();
/// assert_eq!(url.to_string(), "https://example.org/a/b%20c.tar.gz");
/// assert_eq!(url.default_name().unwrap(), "b c.tar.gz");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SourceUrl {
    url: Url,
    scheme: Scheme,
    /// The text ended in a `.` or `..` segment, which parsing resolves and so hides.
    ends_in_dots: bool,
    /// The path is one below the user's home, as in `user@host:path`.
    below_home: bool,
}

/// What a URL's scheme means to us.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http://`.
    Http,
    /// `https://`.
    Https,
    /// `mirror://SITE/PATH`, which a list of mirrors turns into real URLs.
    Mirror,
    /// A scheme that nothing here fetches from, in lower case.
    Other(String),
}

/// Why a text is no usable URL. The message never repeats the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceUrlError {
    /// Blanks, line breaks or control characters: two URLs in one argument, or a broken copy and paste.
    #[error("the URL contains blanks or control characters (write a blank as %20)")]
    Blank,
    /// Longer than [`MAX_URL_BYTES`].
    #[error("the URL is longer than {MAX_URL_BYTES} bytes")]
    TooLong,
    /// No host after the scheme.
    #[error("the URL has no host")]
    NoHost,
    /// A path or a bare name instead of a URL.
    #[error("not a URL: it has no scheme such as https://")]
    NoScheme,
    /// Any other fault of syntax.
    #[error("not a URL: {0}")]
    Syntax(#[source] url::ParseError),
}

/// Why a URL gives no file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The path is empty or `/`.
    #[error("the URL ends in no file name: give one with -o or --name")]
    Missing,
    /// The name would be `.` or `..`.
    #[error("the URL ends in `.` or `..`, which is no file name: give one with -o or --name")]
    Dots,
    /// The name holds `/`, NUL or another control character once decoded.
    #[error(
        "the URL's file name contains a slash or a control character: give one with -o or --name"
    )]
    Character,
    /// The name is not UTF-8 once decoded.
    #[error("the URL's file name is not UTF-8: give one with -o or --name")]
    NotUtf8,
}

impl SourceUrl {
    /// Parses a URL as a user or a derivation gives it.
    pub fn parse(text: &str) -> Result<Self, SourceUrlError> {
        if text.len() > MAX_URL_BYTES {
            return Err(SourceUrlError::TooLong);
        }
        if text
            .chars()
            .any(|character| character.is_whitespace() || character.is_control())
        {
            return Err(SourceUrlError::Blank);
        }
        let url = Url::parse(text).map_err(|error| match error {
            url::ParseError::EmptyHost => SourceUrlError::NoHost,
            url::ParseError::RelativeUrlWithoutBase => SourceUrlError::NoScheme,
            other => SourceUrlError::Syntax(other),
        })?;
        let parsed = Self::from_url(url)?;
        Ok(Self {
            ends_in_dots: ends_in_dots(text),
            ..parsed
        })
    }

    /// Parses the URL of a git repository, or git's short form of an ssh URL, `user@host:path`.
    pub fn parse_repository(text: &str) -> Result<Self, SourceUrlError> {
        match text.split_once(':') {
            Some((host, path)) if host.contains('@') && !host.contains('/') => {
                // In this form nothing is escaped, and nothing but the path stands behind the colon.
                let escaped = path
                    .trim_start_matches('/')
                    .replace('%', "%25")
                    .replace('?', "%3F")
                    .replace('#', "%23");
                let url = Self::parse(&format!("ssh://{host}/{escaped}"))?;
                Ok(Self {
                    below_home: !path.starts_with('/'),
                    ..url
                })
            }
            _ => Self::parse(text),
        }
    }

    /// Takes a URL that a server sent, under the same limits.
    pub(crate) fn from_url(url: Url) -> Result<Self, SourceUrlError> {
        if url.as_str().len() > MAX_URL_BYTES {
            return Err(SourceUrlError::TooLong);
        }
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "mirror" => Scheme::Mirror,
            other => Scheme::Other(other.to_owned()),
        };
        if !matches!(scheme, Scheme::Other(_)) && url.host_str().is_none_or(str::is_empty) {
            return Err(SourceUrlError::NoHost);
        }
        Ok(Self {
            url,
            scheme,
            ends_in_dots: false,
            below_home: false,
        })
    }

    /// Returns what the scheme means to us.
    pub const fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Returns true for `http://` and `https://`, which [`crate::net::Client`] fetches.
    pub const fn is_http(&self) -> bool {
        matches!(self.scheme, Scheme::Http | Scheme::Https)
    }

    /// Returns true for `file://`, which names a file of this machine.
    pub fn is_file(&self) -> bool {
        matches!(&self.scheme, Scheme::Other(scheme) if scheme == "file")
    }

    /// Returns the path on this machine that a `file://` URL names.
    pub(crate) fn file_path(&self) -> io::Result<PathBuf> {
        let path = self.url.to_file_path();
        path.map_err(|()| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "a file:// URL has a path on this machine",
            )
        })
    }

    /// Returns the host, if the scheme has one.
    pub fn host(&self) -> Option<&str> {
        self.url.host_str().filter(|host| !host.is_empty())
    }

    /// Returns true if the URL carries a user name or a password.
    pub fn has_credentials(&self) -> bool {
        !self.url.username().is_empty() || self.url.password().is_some()
    }

    /// Returns true for git's short form with a path that does not begin with a slash.
    pub(crate) const fn is_below_home(&self) -> bool {
        self.below_home
    }

    /// Takes another URL of the same kind, whose path begins where this one's does.
    pub(crate) fn with_path_of(&self, url: Url) -> Result<Self, SourceUrlError> {
        Ok(Self {
            below_home: self.below_home,
            ..Self::from_url(url)?
        })
    }

    /// Returns the site and the path (without its first slash) of `mirror://SITE/PATH`.
    pub fn mirror(&self) -> Option<(&str, &str)> {
        match self.scheme {
            Scheme::Mirror => Some((
                self.url.host_str()?,
                self.url.path().trim_start_matches('/'),
            )),
            _ => None,
        }
    }

    /// Returns the name the content gets when nobody names it: the last non-empty segment of the path, without
    /// query and fragment, percent-decoded once.
    pub fn default_name(&self) -> Result<String, NameError> {
        if self.ends_in_dots {
            return Err(NameError::Dots);
        }
        let segment = last_segment(self.url.path());
        if segment.is_empty() {
            return Err(NameError::Missing);
        }
        let name = percent_decode_str(segment)
            .decode_utf8()
            .map_err(|_| NameError::NotUtf8)?;
        if name == "." || name == ".." {
            return Err(NameError::Dots);
        }
        if name
            .chars()
            .any(|character| character == '/' || character.is_control())
        {
            return Err(NameError::Character);
        }
        Ok(name.into_owned())
    }

    /// Returns the URL of a path below this one, whether it ends in a slash or not.
    pub(crate) fn join(&self, path: &str) -> Option<Self> {
        let mut below = self.url.clone();
        below
            .path_segments_mut()
            .ok()?
            .pop_if_empty()
            .extend(path.split('/'));
        Self::from_url(below).ok()
    }

    /// Returns the whole URL, secrets included: for the request, never for a message.
    pub(crate) const fn url(&self) -> &Url {
        &self.url
    }
}

fn last_segment(path: &str) -> &str {
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default()
}

/// Looks at the text as it was given, because parsing turns `/a/..` into `/`.
fn ends_in_dots(text: &str) -> bool {
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let decoded = percent_decode_str(last_segment(path)).collect::<Vec<u8>>();
    decoded == b"." || decoded == b".."
}

/// Writes scheme, host, port and path; what is no printable ASCII is percent-escaped.
impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without a `//` nothing tells a password from a path (`svn:user:password@host`).
        if !self.url.has_authority() {
            return write!(f, "{}:...", self.url.scheme());
        }
        write!(f, "{}://", self.url.scheme())?;
        write_escaped(f, self.url.host_str().unwrap_or_default())?;
        if let Some(port) = self.url.port() {
            write!(f, ":{port}")?;
        }
        write_escaped(f, self.url.path())
    }
}

impl fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceUrl({self})")
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for byte in text.bytes() {
        if byte.is_ascii_graphic() {
            write!(f, "{}", char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Result<String, NameError> {
        SourceUrl::parse(text).unwrap().default_name()
    }

    #[test]
    fn nothing_is_escaped_in_the_short_form_of_ssh() {
        let url = SourceUrl::parse_repository("me@h:a%20b?c#d").unwrap();
        let path = percent_decode_str(url.url().path()).collect::<Vec<u8>>();
        assert_eq!(path, b"/a%20b?c#d");
        assert_eq!((url.url().query(), url.url().fragment()), (None, None));
    }

    #[test]
    fn knows_schemes() {
        let scheme = |text: &str| SourceUrl::parse(text).unwrap().scheme().clone();
        assert_eq!(scheme("http://h/a"), Scheme::Http);
        assert_eq!(scheme("HTTPS://h/a"), Scheme::Https);
        assert_eq!(
            scheme("mirror://gnu/hello/hello-2.10.tar.gz"),
            Scheme::Mirror
        );
        assert_eq!(scheme("gopher://h/a"), Scheme::Other("gopher".into()));
        assert_eq!(scheme("file:///etc/passwd"), Scheme::Other("file".into()));
        assert_eq!(scheme("data:text/plain,a"), Scheme::Other("data".into()));
    }

    #[test]
    fn splits_mirror_urls() {
        let url = SourceUrl::parse("mirror://gnu/hello/hello-2.10.tar.gz").unwrap();
        assert_eq!(url.mirror(), Some(("gnu", "hello/hello-2.10.tar.gz")));
        assert_eq!(url.to_string(), "mirror://gnu/hello/hello-2.10.tar.gz");
        assert_eq!(
            SourceUrl::parse("https://gnu/hello").unwrap().mirror(),
            None
        );
    }

    #[test]
    fn rejects_what_is_no_url() {
        let error = |text: &str| SourceUrl::parse(text).unwrap_err();
        for text in [
            "",
            "hello",
            "/etc/passwd",
            "hello-2.10.tar.gz",
            "//host/path",
        ] {
            assert_eq!(error(text), SourceUrlError::NoScheme, "{text}");
        }
        for text in [
            "http://h/a b",
            "http://h/a\n",
            " http://h/",
            "http://h/\u{7f}",
            "http://h/\u{85}",
            "http://h/\0",
        ] {
            assert_eq!(error(text), SourceUrlError::Blank, "{text:?}");
        }
        for text in [
            "http://",
            "https:///",
            "mirror:///hello",
            "mirror:gnu",
            "http://user@",
        ] {
            assert_eq!(error(text), SourceUrlError::NoHost, "{text}");
        }
        assert!(matches!(
            error("http://user:pa/ss@host/"),
            SourceUrlError::Syntax(_)
        ));
        assert!(matches!(error("http://[::1/"), SourceUrlError::Syntax(_)));
        assert_eq!(
            error(&format!("http://h/{}", "a".repeat(MAX_URL_BYTES))),
            SourceUrlError::TooLong
        );
    }

    #[test]
    fn shows_no_secret() {
        for (text, shown) in [
            (
                "https://me:hunter2@example.org:8443/a?token=x#y",
                "https://example.org:8443/a",
            ),
            ("https://hunter2@example.org/", "https://example.org/"),
            ("https://me:hun@ter2@example.org/a", "https://example.org/a"),
            (
                "svn+ssh://me:hunter2@example.org/a?x",
                "svn+ssh://example.org/a",
            ),
            ("svn:me:hunter2@example.org/a", "svn:..."),
            ("http://h/\u{e9}'\"", "http://h/%C3%A9'%22"),
        ] {
            let url = SourceUrl::parse(text).unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("SourceUrl({shown})"));
        }
    }

    #[test]
    fn names_come_from_the_last_segment() {
        for (text, expected) in [
            ("https://h/a/hello-2.10.tar.gz", "hello-2.10.tar.gz"),
            ("https://h/a/hello.tar.gz?download=1#top", "hello.tar.gz"),
            ("https://h/a/b//", "b"),
            ("https://h/a%20b", "a b"),
            ("https://h/a%2520b", "a%20b"),
            ("https://h/%C3%A9", "\u{e9}"),
            ("https://h/\u{e9}", "\u{e9}"),
            ("https://h/a%", "a%"),
            ("https://h/...", "..."),
            ("mirror://gnu/hello/hello.tar.gz", "hello.tar.gz"),
        ] {
            assert_eq!(name(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn bad_names_ask_for_one() {
        for (text, expected) in [
            ("https://h", NameError::Missing),
            ("https://h/?a=b", NameError::Missing),
            ("mirror://gnu", NameError::Missing),
            ("https://h/a/..", NameError::Dots),
            ("https://h/a/../", NameError::Dots),
            ("https://h/a/.", NameError::Dots),
            ("https://h/a/%2e%2e", NameError::Dots),
            ("https://h/a/%2E.?x", NameError::Dots),
            ("https://h/a%2Fb", NameError::Character),
            ("https://h/a%00b", NameError::Character),
            ("https://h/a%0Ab", NameError::Character),
            ("https://h/%FF", NameError::NotUtf8),
        ] {
            let error = name(text).unwrap_err();
            assert_eq!(error, expected, "{text}");
            assert!(error.to_string().contains("-o"));
        }
    }

    proptest! {
        #[test]
        fn parse_never_panics(text in "\\PC*") {
            if let Ok(url) = SourceUrl::parse(&text) {
                prop_assert!(url.to_string().bytes().all(|byte| byte.is_ascii_graphic()));
                if let Ok(name) = url.default_name() {
                    prop_assert!(!name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']));
                }
            }
        }

        #[test]
        fn parse_never_panics_behind_a_scheme(scheme in "(https?|mirror|ftp|x)(:|:/|://)", rest in any::<String>()) {
            if let Ok(url) = SourceUrl::parse(&format!("{scheme}{rest}")) {
                prop_assert!(url.to_string().bytes().all(|byte| byte.is_ascii_graphic()));
                let has_query = format!("{url:?}").contains('?');
                prop_assert!(!has_query);
            }
        }

        // SECRET and TOKEN stand in upper case where everything else is lower case.
        #[test]
        fn display_never_contains_password_or_query(
            scheme in "(https?|mirror|ftp|svn)(:|://)",
            user in "[a-z:@%]{0,4}",
            host in "[a-z]{1,8}",
            path in "[a-z/%.]{0,12}",
        ) {
            let text = format!("{scheme}{user}SECRET@{host}/{path}?a=TOKEN#TOKEN");
            match SourceUrl::parse(&text) {
                Ok(url) => {
                    let shown = format!("{url} {url:?}");
                    prop_assert!(!shown.contains("SECRET") && !shown.contains("TOKEN"), "{}", shown);
                }
                Err(error) => {
                    let shown = format!("{error} {error:?}");
                    prop_assert!(!shown.contains("SECRET") && !shown.contains("TOKEN"), "{}", shown);
                }
            }
        }
    }
}
