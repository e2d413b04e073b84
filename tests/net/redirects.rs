//! Redirects over real connections; the rules themselves are tested beside their code.

use fetcher::net::{NetClass, NetError};

use crate::server::{Answer, Server};
use crate::{get, refused, url};

#[test]
fn all_kinds_of_redirect_are_followed() {
    let server = Server::with("/end", Answer::body(b"here"));
    for code in [301, 302, 303, 307, 308] {
        server.route("/start", Answer::redirect(code, "deeper/middle"));
        server.route(
            "/deeper/middle",
            Answer::redirect(code, &server.url("/end")),
        );
        let (result, kept) = get(&server.url("/start"));
        assert_eq!(
            result.unwrap().final_url,
            url(&server.url("/end")),
            "{code}"
        );
        assert_eq!(kept.bytes, b"here");
    }
}

#[test]
fn chains_end() {
    let server = Server::with("/20", Answer::body(b"here"));
    for step in 0..20 {
        server.route(
            &format!("/{step}"),
            Answer::redirect(302, &format!("/{}", step + 1)),
        );
    }
    assert_eq!(get(&server.url("/0")).1.bytes, b"here");
    assert_eq!(server.requests().len(), 21);

    server.route("/20", Answer::redirect(302, "/21"));
    server.route("/21", Answer::body(b"too far"));
    let error = refused(&server.url("/0"));
    assert!(
        matches!(error.innermost(), NetError::TooManyRedirects { limit: 20 }),
        "{error:?}"
    );
}

#[test]
fn loops_end_at_once() {
    let server = Server::with("/a", Answer::redirect(302, "/b"));
    server.route("/b", Answer::redirect(302, "/a"));
    let error = refused(&server.url("/a?token=secret"));
    // `/a?token=secret` and `/a` differ, so the loop closes two requests later.
    assert!(
        matches!(error.innermost(), NetError::RedirectLoop),
        "{error:?}"
    );
    assert_eq!(server.requests().len(), 3);
    assert_eq!(
        error.to_string(),
        format!("redirected to {}: redirect loop", server.url("/a"))
    );

    server.route("/self", Answer::redirect(301, "/self"));
    assert_eq!(refused(&server.url("/self")).to_string(), "redirect loop");
}

#[test]
fn a_failure_behind_a_redirect_names_its_url() {
    let server = Server::with("/a", Answer::redirect(302, "/gone?token=secret"));
    server.route("/gone", Answer::status(410, "gone"));
    let error = refused(&server.url("/a"));
    assert_eq!(error.class(), NetClass::Gone);
    assert_eq!(
        error.to_string(),
        format!(
            "redirected to {}: the server answered 410 Gone",
            server.url("/gone")
        )
    );
    assert!(!format!("{error:?}").contains("secret"));
}

#[test]
fn redirects_to_nowhere_are_refused() {
    let server = Server::with(
        "/a",
        Answer::raw("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"),
    );
    assert_eq!(
        refused(&server.url("/a")).to_string(),
        "redirect without a location"
    );
    server.route("/a", Answer::redirect(302, "file:///etc/passwd"));
    assert_eq!(
        refused(&server.url("/a")).to_string(),
        "redirect to something other than http and https"
    );
}

#[test]
fn credentials_go_to_their_origin_only() {
    let here = Server::with("/a", Answer::redirect(302, "/b"));
    let there = Server::with("/c", Answer::redirect(302, &here.url("/d")));
    here.route("/b", Answer::redirect(302, &there.url("/c")));
    here.route("/d", Answer::body(b"here"));
    let (result, _) = get(&here.url_with_user("me:p%40ss", "/a"));
    assert_eq!(result.unwrap().final_url, url(&here.url("/d")));

    let basic = Some("Basic bWU6cEBzcw=="); // me:p@ss
    let seen = |server: &Server| -> Vec<Option<String>> {
        server
            .requests()
            .iter()
            .map(|request| request.header("authorization").map(str::to_owned))
            .collect()
    };
    assert_eq!(
        seen(&here).iter().map(Option::as_deref).collect::<Vec<_>>(),
        [basic, basic, None]
    );
    assert_eq!(seen(&there), [None]);
    assert!(
        here.requests()
            .iter()
            .all(|request| !request.line.contains("me") && request.header("referer").is_none())
    );
}
