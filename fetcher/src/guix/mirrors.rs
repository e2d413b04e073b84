//! Guix's lists of mirrors, and the URLs that `mirror://KIND/PATH` stands for.

use super::datum::{Datum, DatumError};

/// How a URL begins that a list of mirrors is needed for.
const SCHEME: &str = "mirror://";

/// The most URLs that a derivation may come to. Guix has a dozen mirrors of a kind, and most derivations one URL.
pub const MAX_URLS: usize = 1000;

/// Which mirrors there are of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirrors(Vec<(String, Vec<String>)>);

/// Why a list of mirrors, or a URL that needs one, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MirrorError {
    /// Not a datum.
    #[error(transparent)]
    Datum(#[from] DatumError),
    /// Not a list of lists.
    #[error("a list of mirrors is a list of lists, each a symbol and URLs in strings")]
    Shape,
    /// A kind that the list does not have.
    #[error("the list of mirrors has none of the kind '{}'", .0.escape_debug())]
    UnknownKind(String),
    /// More than [`MAX_URLS`].
    #[error("the derivation comes to more than {MAX_URLS} URLs")]
    TooMany,
}

impl Mirrors {
    /// Reads `((gnu "https://…/" …) …)`.
    pub fn parse(bytes: &[u8]) -> Result<Self, MirrorError> {
        let datum = Datum::parse(bytes)?;
        let kinds = datum.as_list().ok_or(MirrorError::Shape)?;
        let kinds = kinds.iter().map(|entry| {
            let (kind, urls) = entry.as_list()?.split_first()?;
            let urls = urls.iter().map(|url| url.as_string().map(str::to_owned));
            Some((kind.as_symbol()?.to_owned(), urls.collect::<Option<_>>()?))
        });
        let kinds = kinds.collect::<Option<_>>().ok_or(MirrorError::Shape)?;
        Ok(Self(kinds))
    }

    /// Replaces each `mirror://` URL in place by those of all mirrors of its kind.
    pub fn expand(&self, urls: &[&str]) -> Result<Vec<String>, MirrorError> {
        let mut expanded = Vec::new();
        for &url in urls {
            // Before they are made: a long list of mirrors makes megabytes of each URL.
            let room = MAX_URLS - expanded.len();
            match url.strip_prefix(SCHEME) {
                None if room == 0 => return Err(MirrorError::TooMany),
                None => expanded.push(url.to_owned()),
                Some(rest) => {
                    // The query and the fragment are no part of the path, and stock drops them too.
                    let rest = rest.split(['?', '#']).next().unwrap_or_default();
                    let (kind, path) = rest.split_once('/').unwrap_or((rest, ""));
                    let path = path.trim_matches('/');
                    let bases = self.of_kind(kind)?;
                    if bases.len() > room {
                        return Err(MirrorError::TooMany);
                    }
                    expanded.extend(
                        bases
                            .iter()
                            .map(|base| format!("{}/{path}", base.trim_end_matches('/'))),
                    );
                }
            }
        }
        Ok(expanded)
    }

    fn of_kind(&self, wanted: &str) -> Result<&[String], MirrorError> {
        self.0
            .iter()
            .find(|(kind, _)| kind == wanted)
            .map(|(_, urls)| urls.as_slice())
            .filter(|urls| !urls.is_empty())
            .ok_or_else(|| MirrorError::UnknownKind(wanted.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors() -> Mirrors {
        Mirrors::parse(
            br#"((gnu "https://ftpmirror.gnu.org/gnu/" "ftp://ftp.cs.tu-berlin.de/pub/gnu")
                 (sourceforge "http://downloads.sourceforge.net/project//") (none))"#,
        )
        .unwrap()
    }

    #[test]
    fn mirrors_take_the_place_of_their_url() {
        let urls = [
            "https://first.example/a",
            "mirror://gnu/hello/hello-2.10.tar.gz",
            "mirror://sourceforge//libpng/zlib.tar.gz/?x#y",
        ];
        assert_eq!(
            mirrors().expand(&urls).unwrap(),
            [
                "https://first.example/a",
                "https://ftpmirror.gnu.org/gnu/hello/hello-2.10.tar.gz",
                "ftp://ftp.cs.tu-berlin.de/pub/gnu/hello/hello-2.10.tar.gz",
                "http://downloads.sourceforge.net/project/libpng/zlib.tar.gz",
            ]
        );
        assert_eq!(
            mirrors().expand(&["mirror://gnu"]).unwrap()[0],
            "https://ftpmirror.gnu.org/gnu/"
        );
    }

    #[test]
    fn an_unknown_kind_is_an_error() {
        for kind in ["nosuch", "none", ""] {
            let error = mirrors()
                .expand(&["https://h/a", &format!("mirror://{kind}/a")])
                .unwrap_err();
            assert_eq!(error, MirrorError::UnknownKind(kind.to_owned()));
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        for text in [
            "gnu",
            "\"gnu\"",
            "(gnu)",
            "((\"gnu\" \"https://h/\"))",
            "((gnu https))",
            "((gnu (\"https://h/\")))",
            "(())",
        ] {
            assert_eq!(
                Mirrors::parse(text.as_bytes()),
                Err(MirrorError::Shape),
                "{text}"
            );
        }
    }

    #[test]
    fn their_number_is_bounded() {
        let many = vec!["mirror://gnu/a"; MAX_URLS / 2 + 1];
        assert_eq!(mirrors().expand(&many), Err(MirrorError::TooMany));
        assert_eq!(
            mirrors()
                .expand(&vec!["mirror://gnu/a"; MAX_URLS / 2])
                .map(|urls| urls.len()),
            Ok(MAX_URLS)
        );
        let plain = vec!["http://h/a"; MAX_URLS + 1];
        assert_eq!(mirrors().expand(&plain), Err(MirrorError::TooMany));
        let wide = Mirrors(vec![(
            "wide".into(),
            vec!["http://h/".into(); MAX_URLS + 1],
        )]);
        assert_eq!(wide.expand(&["mirror://wide/a"]), Err(MirrorError::TooMany));
    }
}
