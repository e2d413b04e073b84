//! The URLs of a derivation: `mirror://` expanded, and the mirrors that know content by its hash.

use store_index::address::ContentAddress;

use super::attributes::Attributes;
use crate::error::FetchError;
use crate::mirrors::MirrorSites;
use crate::source_url::SourceUrl;

/// The most URLs that are looked at, and tried once mirrors are expanded: the longest list of mirrors known has some
/// twenty.
pub(super) const MAX_URLS: usize = 1000;

/// The longest name of a mirror site, in bytes: it becomes part of a variable's name.
const MAX_SITE_BYTES: usize = 64;

/// URLs that can be tried, and what to say of those that cannot.
#[derive(Debug, Default)]
pub(super) struct Urls {
    pub(super) urls: Vec<SourceUrl>,
    pub(super) warnings: Vec<String>,
}

impl Urls {
    /// Reads the URLs of a derivation as Nixpkgs does: each `mirror://SITE/PATH` stands for `PATH` behind every mirror
    /// in `NIX_MIRRORS_SITE`, else of the site that was configured, else in `FETCH_MIRRORS_SITE`, else of the built-in
    /// site.
    pub(super) fn expand(
        texts: &[String],
        attributes: &Attributes<'_>,
        sites: &MirrorSites,
    ) -> Result<Self, FetchError> {
        let mut urls = Self::default();
        for text in texts {
            match text.strip_prefix("mirror://") {
                None => urls.push(text),
                Some(rest) => urls.push_mirrors(rest, attributes, sites)?,
            }
        }
        Ok(urls)
    }

    fn push_mirrors(
        &mut self,
        rest: &str,
        attributes: &Attributes<'_>,
        sites: &MirrorSites,
    ) -> Result<(), FetchError> {
        let site = rest.split_once('/').filter(|(site, path)| {
            let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            !site.is_empty()
                && site.len() <= MAX_SITE_BYTES
                && site.chars().all(is_name)
                && !path.is_empty()
        });
        let Some((site, path)) = site else {
            self.warnings.push(
                "a URL is skipped: mirror:// wants a site and a path, as in mirror://gnu/hello/hello-2.10.tar.gz"
                    .to_owned(),
            );
            return Ok(());
        };
        let of_nix = attributes.words(&format!("NIX_MIRRORS_{site}"))?;
        let mirrors = match of_nix.is_empty() {
            true if sites.has_own(site) => Vec::new(),
            true => attributes.words(&format!("FETCH_MIRRORS_{site}"))?,
            false => of_nix,
        };
        for mirror in &mirrors {
            self.push(&format!("{mirror}{path}"));
        }
        if mirrors.is_empty() {
            let url = SourceUrl::parse(&format!("mirror://{rest}"));
            let urls = url.map(|url| sites.expand(&url)).unwrap_or_default();
            if urls.is_empty() {
                self.warnings
                    .push(format!("unknown mirror:// site `{site}'"));
            }
            for url in urls {
                self.push_url(url);
            }
        }
        Ok(())
    }

    fn push(&mut self, text: &str) {
        if self.urls.len() >= MAX_URLS {
            return;
        }
        match SourceUrl::parse(text) {
            Ok(url) => self.push_url(url),
            // The text may hold a password, so it is not repeated.
            Err(error) => self.warnings.push(format!("a URL is skipped: {error}")),
        }
    }

    fn push_url(&mut self, url: SourceUrl) {
        if self.urls.len() < MAX_URLS && !self.urls.contains(&url) {
            self.urls.push(url);
        }
    }

    /// Makes the URLs of hashed mirrors, `MIRROR/ALGO/HEX`. They hold plain files, so a tree has none.
    pub(super) fn hashed(
        address: &ContentAddress,
        attributes: &Attributes<'_>,
    ) -> Result<Self, FetchError> {
        let mut urls = Self::default();
        if let ContentAddress::Flat(flat) = address {
            let digest = flat.0;
            for mirror in attributes.overridable("HASHED_MIRRORS")? {
                let mirror = mirror.trim_end_matches('/');
                urls.push(&format!(
                    "{mirror}/{}/{}",
                    digest.algorithm(),
                    digest.to_hex()
                ));
            }
        }
        Ok(urls)
    }
}
