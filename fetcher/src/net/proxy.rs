//! The proxies that the environment names. reqwest reads the same variables, but there an empty one hides its twin in
//! the other case; and Nix sets every variable that a build may see, empty where its own environment has none.

use reqwest::{NoProxy, Proxy};

/// Returns true if the environment names a proxy with a user or a password.
pub(super) fn some_has_credentials() -> bool {
    const VARIABLES: [&str; 3] = ["http_proxy", "https_proxy", "all_proxy"];
    VARIABLES.iter().any(|&lower| {
        [lower.to_owned(), lower.to_uppercase()].iter().any(|name| {
            std::env::var_os(name).is_some_and(|value| value.as_encoded_bytes().contains(&b'@'))
        })
    })
}

/// Returns them in the order in which they are asked. One that cannot be read is left out, as every other program does.
pub(super) fn from_environment() -> Vec<Proxy> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let either = |lower: &str| variable(lower).or_else(|| variable(&lower.to_uppercase()));
    // Of a CGI program whoever sends a request sets HTTP_PROXY, by a header of that name.
    let is_cgi = std::env::var_os("REQUEST_METHOD").is_some();
    let http = match is_cgi {
        true => variable("http_proxy"),
        false => either("http_proxy"),
    };
    let not_for = either("no_proxy").and_then(|list| NoProxy::from_string(&list));
    let made = [
        http.map(Proxy::http),
        either("https_proxy").map(Proxy::https),
        either("all_proxy").map(Proxy::all),
    ];
    made.into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|proxy| proxy.no_proxy(not_for.clone()))
        .collect()
}
