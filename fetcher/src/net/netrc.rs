//! User names and passwords from `$NETRC`, the configured file or `~/.netrc`, for the hosts of the URLs that were asked for.
//!
//! A redirect never brings a host its entry: whoever sends us elsewhere would decide where passwords go. An entry may
//! name a port (`machine example.org:8080`), and then counts for that alone.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use netrc::Netrc;
use url::Url;

use super::redirect::Credentials;

/// The longest file that is read, in bytes.
const MAX_NETRC_BYTES: u64 = 1024 * 1024;

/// Returns what the file says of a URL's host. A file that cannot be read or understood says nothing.
pub(super) fn credentials(url: &Url, configured: Option<&Path>) -> Option<Credentials> {
    let mut text = String::new();
    let file = fs_err::File::open(path(configured)?).ok()?;
    file.take(MAX_NETRC_BYTES).read_to_string(&mut text).ok()?;
    find(&text, url)
}

fn path(configured: Option<&Path>) -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    match set("NETRC") {
        Some(path) => Some(path.into()),
        None if configured.is_some() => configured.map(Path::to_owned),
        None => Some(PathBuf::from(set("HOME")?).join(".netrc")),
    }
}

fn find(text: &str, url: &Url) -> Option<Credentials> {
    let netrc: Netrc = text.parse().ok()?;
    let host = url.host_str()?;
    let with_port = url
        .port_or_known_default()
        .map(|port| format!("{host}:{port}"));
    let entry = with_port
        .and_then(|name| netrc.hosts.get(&name))
        .or_else(|| netrc.hosts.get(host))
        .or_else(|| netrc.hosts.get("default"))?;
    let is_empty = entry.login.is_empty() && entry.password.is_empty();
    (!is_empty).then(|| Credentials {
        user: entry.login.clone(),
        password: Some(entry.password.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_by_host_and_port() {
        let text = "# mine\nmachine h login me password secret\nmachine h:8080\n  login other\n  password p2\n";
        let user = |text: &str, url: &str| {
            find(text, &Url::parse(url).unwrap()).map(|credentials| credentials.user)
        };
        assert_eq!(user(text, "https://h/a").as_deref(), Some("me"));
        assert_eq!(user(text, "http://h:8080/a").as_deref(), Some("other"));
        assert_eq!(user(text, "http://h:8081/a").as_deref(), Some("me"));
        assert_eq!(user(text, "https://sub.h/a"), None);
        assert_eq!(user(text, "https://hh/a"), None);
        let with_default = format!("{text}default login anyone password none\n");
        assert_eq!(user(&with_default, "https://i/").as_deref(), Some("anyone"));
        assert_eq!(user("machine h login", "https://h/"), None);
        assert_eq!(user("this is no netrc", "https://h/"), None);
    }
}
