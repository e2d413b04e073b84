//! Where content is when nobody names its place: the sites behind `mirror://SITE/PATH`, and the layouts of servers that
//! name files by their hashes.

use std::collections::BTreeMap;

use store_index::address::ContentAddress;
use store_index::digest::Algorithm;
use store_index::nix32;

use crate::request::Request;
use crate::source_url::SourceUrl;

/// The sites that Nixpkgs knows, each with the beginnings of its URLs in the order to be tried. All end in a slash.
/// `NIX_MIRRORS_<site>` replaces one.
const SITES: [(&str, &[&str]); 31] = [
    ("alsa", &["https://www.alsa-project.org/files/pub/"]),
    (
        "apache",
        &[
            "https://downloads.apache.org/",
            "https://archive.apache.org/dist/",
        ],
    ),
    ("bioc", &["https://bioconductor.org/packages/"]),
    ("bitlbee", &["https://get.bitlbee.org/"]),
    (
        "cpan",
        &["https://www.cpan.org/", "https://backpan.perl.org/"],
    ),
    ("cran", &["https://cran.r-project.org/src/contrib/"]),
    ("dub", &["https://code.dlang.org/packages/"]),
    ("gcc", &["https://gcc.gnu.org/pub/gcc/"]),
    ("gentoo", &["http://distfiles.gentoo.org/"]),
    ("gnome", &["https://download.gnome.org/"]),
    (
        "gnu",
        &["https://ftp.gnu.org/pub/gnu/", "https://ftpmirror.gnu.org/"],
    ),
    ("gnupg", &["https://gnupg.org/ftp/gcrypt/"]),
    ("hackage", &["https://hackage.haskell.org/package/"]),
    ("ibiblioPubLinux", &["https://www.ibiblio.org/pub/Linux/"]),
    ("kde", &["https://download.kde.org/"]),
    ("kernel", &["https://cdn.kernel.org/pub/"]),
    ("luarocks", &["https://luarocks.org/"]),
    ("maven", &["https://repo1.maven.org/maven2/"]),
    ("mozilla", &["https://archive.mozilla.org/pub/"]),
    ("mysql", &["https://cdn.mysql.com/Downloads/"]),
    ("openbsd", &["https://cdn.openbsd.org/pub/OpenBSD/"]),
    ("osdn", &["https://mirrors.dotsrc.org/osdn/"]),
    ("qt", &["https://download.qt.io/"]),
    (
        "sageupstream",
        &[
            "https://sagemath.mirror.ac.za/spkg/upstream/",
            "https://mirror.ufs.ac.za/sagemath/spkg/upstream/",
        ],
    ),
    ("samba", &["https://download.samba.org/pub/"]),
    (
        "savannah",
        &["https://download-mirror.savannah.gnu.org/releases/"],
    ),
    ("sourceforge", &["https://downloads.sourceforge.net/"]),
    (
        "tcsh",
        &[
            "https://astron.com/pub/tcsh/",
            "https://astron.com/pub/tcsh/old/",
        ],
    ),
    (
        "ubuntu",
        &[
            "https://archive.ubuntu.com/ubuntu/",
            "https://old-releases.ubuntu.com/ubuntu/",
        ],
    ),
    ("xfce", &["https://archive.xfce.org/"]),
    ("xorg", &["https://www.x.org/releases/"]),
];

/// The sites of `mirror://` URLs, as far as they differ from the built-in ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorSites(BTreeMap<String, Vec<String>>);

impl MirrorSites {
    /// Gives a site other URLs.
    pub fn replace(&mut self, site: &str, urls: Vec<String>) {
        self.0.insert(site.to_owned(), urls);
    }

    /// Returns true if a site has URLs that are not the built-in ones.
    pub(crate) fn has_own(&self, site: &str) -> bool {
        self.0.contains_key(site)
    }

    /// Returns the URLs behind a `mirror://` URL: none if it is another kind of URL, or its site is unknown. A mirror
    /// that makes no URL is left out.
    pub fn expand(&self, url: &SourceUrl) -> Vec<SourceUrl> {
        let Some((site, path)) = url.mirror() else {
            return Vec::new();
        };
        let with_path = |base: &str| {
            let slash = if base.ends_with('/') { "" } else { "/" };
            let query = url.url().query().map(|query| format!("?{query}"));
            let query = query.unwrap_or_default();
            SourceUrl::parse(&format!("{base}{slash}{path}{query}")).ok()
        };
        match self.0.get(site) {
            Some(own) => own.iter().filter_map(|base| with_path(base)).collect(),
            None => SITES
                .iter()
                .find(|(known, _)| *known == site)
                .map(|(_, bases)| bases.iter().filter_map(|base| with_path(base)).collect())
                .unwrap_or_default(),
        }
    }
}

/// Returns where a server that names files by their flat hashes may have the content, in the layouts that are in use:
/// `ALGORITHM/HEX` (what Nix asks its hashed mirrors for), `ALGORITHM/NIX32` (tarballs.nixos.org), and
/// `file/NAME/sha256/NIX32` (`guix publish`). None for other hashes: nobody serves files by those.
pub fn hashed_urls(mirror: &SourceUrl, request: &Request) -> Vec<SourceUrl> {
    let ContentAddress::Flat(hash) = &request.address else {
        return Vec::new();
    };
    let digest = hash.0;
    let algorithm = digest.algorithm();
    let nix32 = nix32::encode(digest.as_bytes());
    let mut paths = vec![
        format!("{algorithm}/{}", digest.to_hex()),
        format!("{algorithm}/{nix32}"),
    ];
    let name = request.item_names.first();
    if let (Algorithm::Sha256, Some(name)) = (algorithm, name) {
        paths.push(format!("file/{name}/sha256/{nix32}"));
    }
    paths.iter().filter_map(|path| mirror.join(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(sites: &MirrorSites, url: &str) -> Vec<String> {
        let urls = sites.expand(&SourceUrl::parse(url).unwrap());
        urls.iter().map(|url| url.url().to_string()).collect()
    }

    #[test]
    fn sites_become_urls() {
        let mut sites = MirrorSites::default();
        assert_eq!(
            expanded(&sites, "mirror://cpan/authors/id/A/B.tar.gz?x=1"),
            [
                "https://www.cpan.org/authors/id/A/B.tar.gz?x=1",
                "https://backpan.perl.org/authors/id/A/B.tar.gz?x=1"
            ]
        );
        assert_eq!(expanded(&sites, "mirror://nowhere/a"), [""; 0]);
        assert_eq!(expanded(&sites, "https://cpan/a"), [""; 0]);
        sites.replace("cpan", vec!["http://here/cpan".into(), "no URL".into()]);
        assert_eq!(expanded(&sites, "mirror://cpan/a"), ["http://here/cpan/a"]);
    }

    #[test]
    fn the_table_is_sound() {
        for (site, bases) in SITES {
            assert!(!bases.is_empty(), "{site}");
            for base in bases {
                assert!(base.ends_with('/'), "{base}");
                assert!(SourceUrl::parse(base).unwrap().is_http(), "{base}");
            }
        }
    }
}
