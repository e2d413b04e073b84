//! Public archives of what others have published: asked last, and only where that was asked for, since asking tells
//! them the hash.

use std::time::SystemTime;

use store_index::address::{ContentAddress, GitObject};
use store_index::digest::Algorithm;

use crate::request::Request;
use crate::source_url::SourceUrl;

/// An archive, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    kind: Kind,
    base: SourceUrl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    SoftwareHeritage,
    InternetArchive,
}

/// The archives that are known, and where they are when nobody names another place.
const KNOWN: [(&str, Kind, &str); 2] = [
    (
        "software-heritage",
        Kind::SoftwareHeritage,
        "https://archive.softwareheritage.org",
    ),
    (
        "internet-archive",
        Kind::InternetArchive,
        "https://web.archive.org",
    ),
];

impl Archive {
    /// Reads `NAME` or `NAME=URL`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, url) = match text.split_once('=') {
            Some((name, url)) => (name, Some(url)),
            None => (text, None),
        };
        let Some((_, kind, usual)) = KNOWN.into_iter().find(|(known, ..)| *known == name) else {
            return Err(
                "known are software-heritage and internet-archive, each with or without =URL"
                    .to_owned(),
            );
        };
        let base = SourceUrl::parse(url.unwrap_or(usual)).map_err(|error| error.to_string())?;
        if !base.is_http() {
            return Err("http:// or https:// is wanted".to_owned());
        }
        Ok(Self { kind, base })
    }

    /// Returns where it is.
    pub(crate) const fn base(&self) -> &SourceUrl {
        &self.base
    }

    /// Returns where it may have the content; the reason if it cannot.
    pub(crate) fn urls(&self, request: &Request) -> Result<Vec<SourceUrl>, &'static str> {
        match self.kind {
            Kind::SoftwareHeritage => {
                let (algorithm, hex) = match &request.address {
                    ContentAddress::Flat(hash) => match hash.0.algorithm() {
                        algorithm @ (Algorithm::Sha1 | Algorithm::Sha256) => {
                            (algorithm.to_string(), hash.0.to_hex())
                        }
                        _ => return Err("files are named by sha1 and sha256 there"),
                    },
                    ContentAddress::Git(git) if git.object() != GitObject::Tree => {
                        ("sha1_git".to_owned(), request.address.digest().to_hex())
                    }
                    _ => return Err("single files are named by their hashes there"),
                };
                let path = format!("api/1/content/{algorithm}:{hex}/raw/");
                Ok(self.base.join(&path).into_iter().collect())
            }
            Kind::InternetArchive => {
                let first = request.urls.iter().find_map(|url| match url.is_http() {
                    true => Some(url.clone()),
                    false => request.mirror_sites.expand(url).into_iter().next(),
                });
                let Some(first) = first else {
                    return Err("it is asked for the first URL, and there is none");
                };
                // Who asks is nobody's business.
                let mut first = first.url().clone();
                first.set_fragment(None);
                let _ = first
                    .set_password(None)
                    .and_then(|()| first.set_username(""));
                let base = self.base.url().as_str().trim_end_matches('/');
                // "id_": as it was, without the archive's own frame and links.
                let url = format!("{base}/web/{}id_/{first}", timestamp(SystemTime::now()));
                Ok(SourceUrl::parse(&url).into_iter().collect())
            }
        }
    }
}

/// Writes a time as the Internet Archive names its copies; the one that is nearest is sent.
fn timestamp(time: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    // "Sun, 06 Nov 1994 08:49:37 GMT"
    let date = httpdate::fmt_http_date(time);
    let words: Vec<&str> = date.split([' ', ':']).collect();
    match words[..] {
        [_, day, month, year, hour, minute, second, _] => {
            let month = MONTHS.iter().position(|name| *name == month).unwrap_or(0) + 1;
            format!("{year}{month:02}{day}{hour}{minute}{second}")
        }
        _ => "2".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_fourteen_digits() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(timestamp(time), "19941106084937");
    }

    #[test]
    fn names_and_places() {
        let archive = Archive::parse("software-heritage").unwrap();
        assert_eq!(
            archive.base().to_string(),
            "https://archive.softwareheritage.org/"
        );
        let own = Archive::parse("internet-archive=http://h:1/x").unwrap();
        assert_eq!(own.base().to_string(), "http://h:1/x");
        for bad in ["", "swh", "internet-archive=", "internet-archive=ftp://h/"] {
            assert!(Archive::parse(bad).is_err(), "{bad}");
        }
    }
}
