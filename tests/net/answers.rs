//! What a server may send, and what becomes of it.

use fetcher::net::{Limits, NetClass, NetError};

use crate::server::{Answer, Server};
use crate::{Kept, LIMITS, get, get_with, refused, url};

#[track_caller]
fn delivers(answer: Answer, length_bytes: Option<u64>, body: &[u8]) {
    let server = Server::with("/a", answer);
    let (result, kept) = get(&server.url("/a"));
    let delivered = result.unwrap();
    assert_eq!(delivered.bytes, body.len() as u64);
    assert_eq!(delivered.final_url, url(&server.url("/a")));
    assert_eq!(kept.starts, [length_bytes]);
    assert_eq!(kept.bytes, body);
}

#[track_caller]
fn fails(answer: Answer) -> (NetError, Kept) {
    let server = Server::with("/a", answer);
    let (result, kept) = get(&server.url("/a"));
    (result.unwrap_err(), kept)
}

#[test]
fn whole_bodies_are_delivered() {
    let long: Vec<u8> = (0..900_000u32)
        .flat_map(|number| number.to_le_bytes())
        .take(900_000)
        .collect();
    delivers(Answer::body(&long), Some(900_000), &long);
    delivers(Answer::body(b""), Some(0), b"");
    delivers(Answer::chunked(&long), None, &long);
    delivers(Answer::until_close(&long), None, &long);
    delivers(Answer::until_close(b""), None, b"");
    delivers(Answer::raw("HTTP/1.0 200 OK\r\n\r\nold"), None, b"old");
    // The rest of a connection is no part of a body whose length is known: the hash decides.
    delivers(Answer::claiming(3, b"12345"), Some(3), b"123");
}

#[test]
fn the_request_asks_for_plain_bytes_and_tells_nothing() {
    let server = Server::with("/a", Answer::labelled("Content-Type: text/plain", b"hello"));
    let (result, _) = get(&server.url("/a?query=1#fragment"));
    assert_eq!(result.unwrap().content_type.as_deref(), Some("text/plain"));
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    let request = &requests[0];
    assert_eq!(request.line, "GET /a?query=1 HTTP/1.1");
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert!(request.header("user-agent").unwrap().starts_with("fetch/"));
    for absent in ["referer", "cookie", "authorization", "range"] {
        assert_eq!(request.header(absent), None, "{absent}");
    }
}

#[test]
fn only_200_is_content() {
    for (code, class, text) in [
        (404, NetClass::Gone, "the server answered 404 Not Found"),
        (410, NetClass::Gone, "the server answered 410 Gone"),
        (403, NetClass::Trouble, "the server answered 403 Forbidden"),
        (
            429,
            NetClass::Trouble,
            "the server answered 429 Too Many Requests",
        ),
        (
            500,
            NetClass::Trouble,
            "the server answered 500 Internal Server Error",
        ),
        (
            203,
            NetClass::Trouble,
            "the server answered 203 Non Authoritative Information",
        ),
        (
            206,
            NetClass::Trouble,
            "the server answered 206 Partial Content",
        ),
        (
            300,
            NetClass::Trouble,
            "the server answered 300 Multiple Choices",
        ),
        (599, NetClass::Trouble, "the server answered 599"),
    ] {
        let server = Server::with("/a", Answer::status(code, "<html>a page</html>"));
        let error = refused(&server.url("/a"));
        assert!(
            matches!(error, NetError::Status { code: got, .. } if got == code),
            "{error:?}"
        );
        assert_eq!((error.class(), error.to_string().as_str()), (class, text));
    }
}

#[test]
fn short_bodies_are_told() {
    let (error, kept) = fails(Answer::claiming(10, b"12345"));
    assert!(
        matches!(
            error,
            NetError::Short {
                got_bytes: 5,
                wanted_bytes: Some(10),
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        "short body: connection closed after 5 of 10 bytes"
    );
    assert_eq!(kept.bytes, b"12345");

    let (error, _) = fails(Answer::chunked_broken_off(b"12345"));
    assert!(
        matches!(
            error,
            NetError::Short {
                got_bytes: 5,
                wanted_bytes: None,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        "short body: connection closed after 5 bytes"
    );

    // Broken off inside a chunk.
    let (error, _) = fails(Answer::raw(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n12345",
    ));
    assert!(
        matches!(error, NetError::Short { got_bytes: 5, .. }),
        "{error:?}"
    );
}

#[test]
fn no_answer_at_all_is_told() {
    let server = Server::with("/a", Answer::hang_up());
    let error = refused(&server.url("/a"));
    assert!(matches!(error, NetError::Connect { .. }), "{error:?}");
    assert_eq!(error.to_string(), "connection closed without an answer");

    let gone = server.url("/a");
    drop(server);
    let error = refused(&gone);
    assert!(matches!(error, NetError::Connect { .. }), "{error:?}");
    assert_eq!(error.to_string(), "connection refused");
}

#[test]
fn unknown_names_are_told() {
    // `.invalid` never exists (RFC 2606); which of the two it is depends on whether there is a name server.
    let error = refused("http://no-such-host.invalid/a");
    assert!(matches!(error, NetError::Dns { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text == "name not found" || text.starts_with("name lookup failed: "),
        "{text}"
    );
}

#[test]
fn what_is_no_http_is_told() {
    for answer in [
        Answer::raw("\0\u{1}\u{2} SSH-2.0-OpenSSH\r\n\r\n"),
        Answer::raw("HTTP/1.1 2xx OK\r\n\r\n"),
        Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nhello"),
        Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        Answer::huge_head(4 << 20),
    ] {
        let server = Server::with("/a", answer);
        let error = refused(&server.url("/a"));
        assert!(matches!(error, NetError::Protocol { .. }), "{error:?}");
        assert!(error.to_string().starts_with("invalid answer: "), "{error}");
    }
}

#[test]
fn long_bodies_end_at_the_limit() {
    let limits = Limits {
        max_bytes: 1000,
        ..LIMITS
    };
    let server = Server::with("/announced", Answer::claiming(1001, vec![0; 1001]));
    let (result, kept) = get_with(limits, &server.url("/announced"));
    assert!(matches!(
        result,
        Err(NetError::TooLong {
            limit_bytes: 1000,
            announced_bytes: Some(1001)
        })
    ));
    assert!(kept.starts.is_empty());

    server.route("/exact", Answer::until_close(vec![0; 1000]));
    assert_eq!(
        get_with(limits, &server.url("/exact")).0.unwrap().bytes,
        1000
    );

    server.route("/unannounced", Answer::until_close(vec![0; 1001]));
    let (result, kept) = get_with(limits, &server.url("/unannounced"));
    assert!(matches!(
        result,
        Err(NetError::TooLong {
            limit_bytes: 1000,
            announced_bytes: None
        })
    ));
    assert!(kept.bytes.len() <= 1000);

    server.route("/endless", Answer::endless());
    let (result, kept) = get(&server.url("/endless"));
    assert!(matches!(result, Err(NetError::TooLong { .. })));
    assert!(kept.bytes.len() as u64 <= LIMITS.max_bytes);
}

#[test]
fn bodies_compressed_on_the_way_are_refused() {
    let server = Server::start();
    for encoding in ["gzip", "br", "x-unheard-of", "identity, gzip"] {
        server.route(
            "/a.tar",
            Answer::labelled(&format!("Content-Encoding: {encoding}"), b"squeezed"),
        );
        let error = refused(&server.url("/a.tar"));
        assert!(
            matches!(&error, NetError::Encoding { encoding: got } if got == encoding),
            "{error:?}"
        );
    }
    server.route(
        "/a.tar",
        Answer::labelled("Content-Encoding: identity", b"plain"),
    );
    assert_eq!(get(&server.url("/a.tar")).1.bytes, b"plain");
    // This label describes the file itself.
    server.route(
        "/a.tar.gz",
        Answer::labelled("Content-Encoding: x-gzip", b"a gzip file"),
    );
    assert_eq!(get(&server.url("/a.tar.gz")).1.bytes, b"a gzip file");
}

#[test]
fn a_full_disk_ends_the_transfer() {
    let server = Server::with("/a", Answer::endless());
    let client = fetcher::net::Client::new(Limits {
        max_bytes: 1 << 30,
        ..LIMITS
    })
    .unwrap();
    let mut kept = Kept {
        room_bytes: Some(100_000),
        ..Kept::default()
    };
    let error = client
        .get(&url(&server.url("/a")), None, &mut kept, &false.into())
        .unwrap_err();
    assert!(
        matches!(&error, NetError::Sink(cause) if cause.kind() == std::io::ErrorKind::StorageFull),
        "{error:?}"
    );
    assert_eq!(error.class(), NetClass::Local);
}

#[test]
fn other_schemes_are_refused() {
    for text in ["ftp://127.0.0.1/a", "mirror://gnu/a", "file:///etc/passwd"] {
        assert!(matches!(refused(text), NetError::Other { .. }));
    }
}
