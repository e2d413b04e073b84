//! Which URLs are asked, and which others in their place: the rules of the configuration.
//!
//! The first rule that matches decides, in the order of the file; what it rewrites is not looked at again. A URL that no
//! rule matches is asked as it is. The same goes for every place that a redirect names.

use url::Url;

use crate::source_url::SourceUrl;

/// The most rules: somebody wrote them by hand.
pub(crate) const MAX_RULES: usize = 10_000;

/// Rules in the order in which they are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// One rule, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pattern: Pattern,
    action: Action,
    /// The file and the line, ready to print.
    place: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Block,
    /// What stands in place of what matched.
    Rewrite(SourceUrl),
}

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    scheme: Option<String>,
    host: Host,
    port: Option<u16>,
    /// How the path begins, normalised.
    path: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    Exactly(String),
    /// With a dot before it.
    Below(String),
}

/// A rule forbids to ask a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("blocked by the rule at {place}")]
pub struct Blocked {
    /// The file and the line of the rule.
    pub place: String,
}

impl Rules {
    /// Takes rules in their order.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    /// Returns what is to be asked where this is named.
    pub fn apply(&self, url: &SourceUrl) -> Result<SourceUrl, Blocked> {
        let path = normalised(url.url().path());
        let Some((rule, rest)) = self
            .0
            .iter()
            .find_map(|rule| Some((rule, rule.pattern.rest(url.url(), &path)?)))
        else {
            return Ok(url.clone());
        };
        let blocked = || Blocked {
            place: rule.place.clone(),
        };
        match &rule.action {
            Action::Allow => Ok(url.clone()),
            Action::Block => Err(blocked()),
            // One that became too long cannot be asked, and the original must not be.
            Action::Rewrite(target) => replaced(target, rest, url.url()).ok_or_else(blocked),
        }
    }
}

/// Puts what did not match behind another beginning. User name and password were meant for another server.
fn replaced(target: &SourceUrl, rest: &str, original: &Url) -> Option<SourceUrl> {
    let mut url = target.url().clone();
    let beginning = url.path();
    let rest = match beginning.ends_with('/') {
        true => rest.trim_start_matches('/'),
        false => rest,
    };
    let path = format!("{beginning}{rest}");
    url.set_path(&path);
    url.set_query(original.query());
    SourceUrl::from_url(url).ok()
}

impl Rule {
    /// Reads `allow PATTERN`, `block PATTERN` or `rewrite PATTERN URL`. `place` says where it stands.
    pub fn parse(text: &str, place: String) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (pattern, action) = match words[..] {
            ["allow", pattern] => (pattern, Action::Allow),
            ["block", pattern] => (pattern, Action::Block),
            ["rewrite", pattern, target] => {
                let target = SourceUrl::parse(target).map_err(|error| error.to_string())?;
                if !target.is_http() {
                    return Err("what is asked instead begins with http:// or https://".to_owned());
                }
                if target.url().query().is_some() || target.url().fragment().is_some() {
                    return Err("what is asked instead has no '?' and no '#'".to_owned());
                }
                (pattern, Action::Rewrite(target))
            }
            _ => {
                return Err(
                    "'allow PATTERN', 'block PATTERN' or 'rewrite PATTERN URL' is wanted"
                        .to_owned(),
                );
            }
        };
        let pattern = Pattern::parse(pattern)?;
        if matches!(action, Action::Rewrite(_)) && matches!(pattern.host, Host::Below(_)) {
            return Err("which of the hosts is meant? One is wanted, or '*'".to_owned());
        }
        Ok(Self {
            pattern,
            action,
            place,
        })
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None => (None, text),
        };
        let known = |scheme: &String| matches!(scheme.as_str(), "http" | "https" | "git" | "ssh");
        if scheme.as_ref().is_some_and(|scheme| !known(scheme)) {
            return Err(
                "known are http://, https://, git:// and ssh://, or none for all".to_owned(),
            );
        }
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        if authority.is_empty() {
            return Err("there is no host".to_owned());
        }
        if authority.contains('@') || path.contains(['?', '#', '*']) {
            return Err("a pattern is [SCHEME://]HOST[:PORT][/BEGINNING OF A PATH]".to_owned());
        }
        let (host, below) = match authority.strip_prefix("*.") {
            Some(host) => (host, true),
            None => (authority, false),
        };
        // The host and the path in the form in which URLs have them.
        let any = host == "*" || host.starts_with("*:");
        let shown = if any {
            host.replacen('*', "any", 1)
        } else {
            host.to_owned()
        };
        let url = Url::parse(&format!("http://{shown}{path}"))
            .map_err(|error| format!("no host and path: {error}"))?;
        let name = url.host_str().unwrap_or_default();
        if name.contains('*') {
            return Err("'*' stands for every host, '*.HOST' for all below one".to_owned());
        }
        // `url` hides a port that is the scheme's own.
        let port = match shown.rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => {
                Some(port.parse().map_err(|_| format!("'{port}' is no port"))?)
            }
            _ => None,
        };
        Ok(Self {
            scheme,
            host: match (any, below) {
                (true, _) => Host::Any,
                (false, true) => Host::Below(format!(".{name}")),
                (false, false) => Host::Exactly(name.to_owned()),
            },
            port,
            path: if path.is_empty() {
                String::new()
            } else {
                normalised(url.path())
            },
        })
    }

    /// Returns what of a URL's normalised path is left behind the pattern's, if the pattern matches.
    fn rest<'p>(&self, url: &Url, path: &'p str) -> Option<&'p str> {
        let host = url.host_str()?;
        let is_host = match &self.host {
            Host::Any => true,
            Host::Exactly(name) => host.trim_end_matches('.') == name.trim_end_matches('.'),
            Host::Below(name) => host
                .trim_end_matches('.')
                .ends_with(name.trim_end_matches('.')),
        };
        let is_scheme = self
            .scheme
            .as_deref()
            .is_none_or(|scheme| scheme == url.scheme());
        let is_port = self.port.is_none() || url.port_or_known_default() == self.port;
        if is_host && is_scheme && is_port {
            path.strip_prefix(self.path.as_str())
        } else {
            None
        }
    }
}

/// Writes a path so that two that mean the same are the same: what need not be escaped is not.
fn normalised(path: &str) -> String {
    let mut normal = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        normal.push_str(&rest[..at]);
        let escaped = rest.get(at + 1..at + 3);
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                normal.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            Some(byte) => {
                normal.push_str(&format!("%{byte:02X}"));
                rest = &rest[at + 3..];
            }
            None => {
                normal.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    normal.push_str(rest);
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Rules {
        let rule = |(line, text): (usize, &&str)| {
            Rule::parse(text, format!("/f:{}", line + 1))
                .unwrap_or_else(|why| panic!("{text}: {why}"))
        };
        Rules::new(texts.iter().enumerate().map(rule).collect())
    }

    /// What is asked, or the line of the rule that forbids it.
    fn asked(rules: &Rules, url: &str) -> String {
        match rules.apply(&SourceUrl::parse(url).unwrap()) {
            Ok(url) => url.url().to_string(),
            Err(blocked) => blocked.to_string(),
        }
    }

    #[test]
    fn the_first_that_matches_decides() {
        let rules = rules(&[
            "allow https://good.example/pub/",
            "rewrite github.com/ https://me:pw@mirror.example/github/",
            "rewrite http://old.example https://new.example",
            "block good.example",
            "block *.evil.example",
            "allow 127.0.0.1:8080",
            "block 127.0.0.1",
            "allow http://[::1]:80",
            "block [::1]",
            "block */secret",
        ]);
        let blocked = |line: usize| format!("blocked by the rule at /f:{line}");
        let same = |url: &str| assert_eq!(asked(&rules, url), url);
        same("https://good.example/pub/a?b=c");
        assert_eq!(asked(&rules, "https://good.example/public"), blocked(4));
        assert_eq!(asked(&rules, "http://good.example/pub/a"), blocked(4));
        assert_eq!(
            asked(&rules, "https://you:secret@github.com/a/b.tar.gz?token=1#x"),
            "https://me:pw@mirror.example/github/a/b.tar.gz?token=1"
        );
        assert_eq!(
            asked(&rules, "http://old.example/a/b"),
            "https://new.example/a/b"
        );
        same("https://old.example/a");
        assert_eq!(asked(&rules, "git://a.evil.example/x"), blocked(5));
        same("https://evil.example/");
        same("https://notevil.example/");
        assert_eq!(asked(&rules, "https://A.B.Evil.Example./x"), blocked(5));
        same("http://127.0.0.1:8080/");
        assert_eq!(asked(&rules, "http://127.0.0.1/"), blocked(7));
        assert_eq!(
            asked(&rules, "http://0x7f.1/"),
            blocked(7),
            "the same address"
        );
        same("http://[::1]/");
        assert_eq!(asked(&rules, "http://[::1]:81/"), blocked(9));
        for path in [
            "/secret",
            "/secrets",
            "/%73ecret",
            "/a/../secret",
            "/a/%2e%2e/%73ecret/x",
        ] {
            assert_eq!(
                asked(&rules, &format!("https://h{path}")),
                blocked(10),
                "{path}"
            );
        }
        same("https://h/a/secret");
    }

    /// What was rewritten is asked, whatever stands below.
    #[test]
    fn all_else_can_be_blocked() {
        let rules = rules(&["rewrite * https://only.example/proxy", "block *"]);
        assert_eq!(asked(&rules, "https://h/a"), "https://only.example/proxy/a");
        assert_eq!(
            asked(&rules, "https://only.example/proxy/a"),
            "https://only.example/proxy/proxy/a"
        );
    }

    #[test]
    fn mistakes_are_told() {
        for (text, words) in [
            ("", "is wanted"),
            ("deny *", "is wanted"),
            ("block", "is wanted"),
            ("block a b", "is wanted"),
            ("rewrite a", "is wanted"),
            ("rewrite a b", "not a URL"),
            ("rewrite a file:///b", "http:// or https://"),
            ("rewrite a https://b/?c", "no '?'"),
            ("rewrite *.a https://b/", "which of the hosts"),
            ("block ftp://a", "known are"),
            ("block me@a", "a pattern is"),
            ("block a/*", "a pattern is"),
            ("block a*", "'*' stands"),
            ("block a.*.b", "'*' stands"),
            ("block a:b", "no host"),
            ("block ", "is wanted"),
            ("block https:///a", "there is no host"),
        ] {
            let why = Rule::parse(text, "/f:1".to_owned()).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
    }
}
