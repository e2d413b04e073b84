//! A server on the loopback with bad manners, each of them scripted.
//!
//! ```ignore
//! let server = Server::start();
//! server.route("/short", Answer::claiming(10, b"12345"));
//! fetch(server.url("/short"));
//! assert_eq!(server.requests()[0].line, "GET /short HTTP/1.1");
//! ```
//!
//! One request a connection, answered by path (the query is left out); other paths get a 404 with a page. It listens
//! on 127.0.0.1 only, is bounded in connections, bytes and time, and ends when dropped.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Connections served at a time; more are closed at once.
const MAX_OPEN: usize = 64;
/// The longest a connection lives, whatever the client does.
const MAX_LIFE: Duration = Duration::from_secs(60);
/// The most an endless answer sends.
const MAX_SENT_BYTES: u64 = 1 << 30;
/// The longest request read.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// How often a waiting connection looks whether it should end.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    bytes: Vec<u8>,
    then: Then,
    file: Option<ServedFile>,
}

/// A file that is served in parts too.
#[derive(Clone, Debug)]
struct ServedFile {
    body: Arc<Vec<u8>>,
    /// Header lines, each with its end.
    headers: String,
    manner: Manner,
    /// The connection is closed when so much of an answer's body was sent.
    cut_after: Option<usize>,
    /// Nothing more comes when so much of an answer's body was sent, and the connection stays open.
    hang_after: Option<usize>,
    /// So much at a time, with a pause after each.
    pace: Option<(usize, Duration)>,
    /// All connections together have the pace of one.
    in_turn: Option<Arc<Mutex<()>>>,
}

/// What becomes of a request for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// The part that was asked for, or all if `If-Range` names another version.
    Honest,
    /// All, with 200.
    Whole,
    /// The same, and no word about its length.
    Unannounced,
    /// 416, whatever was asked.
    Refusing,
    /// Another status, whatever was asked.
    Failing(u16),
    /// A part that begins one byte before the one that was asked for.
    WrongStart,
    /// The part that was asked for, whatever version `If-Range` names.
    Careless,
    /// The right bytes, and no word about which.
    Silent,
    /// The right bytes, of a whole that is said to be longer.
    OtherTotal,
}

/// What happens once the bytes of an answer are sent.
#[derive(Clone, Debug)]
enum Then {
    /// The connection is closed.
    Close,
    /// Nothing, until the client goes.
    Silence,
    /// These bytes again and again, with a pause before each, until the client goes.
    Repeat(Vec<u8>, Duration),
}

impl Answer {
    /// Anything at all, even what is no HTTP; then the connection is closed.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            bytes: bytes.into(),
            then: Then::Close,
            file: None,
        }
    }

    /// 200 with a body, or the part of it that is asked for.
    pub(crate) fn file(body: impl Into<Vec<u8>>) -> Self {
        Self {
            file: Some(ServedFile {
                body: Arc::new(body.into()),
                headers: String::new(),
                manner: Manner::Honest,
                cut_after: None,
                hang_after: None,
                pace: None,
                in_turn: None,
            }),
            ..Self::raw("")
        }
    }

    fn change_file(mut self, change: impl FnOnce(&mut ServedFile)) -> Self {
        change(self.file.as_mut().expect("only a file has these"));
        self
    }

    /// A file with one more header line.
    pub(crate) fn header(self, line: &str) -> Self {
        self.change_file(|file| file.headers.push_str(&format!("{line}\r\n")))
    }

    /// A file that treats ranges so.
    pub(crate) fn manner(self, manner: Manner) -> Self {
        self.change_file(|file| file.manner = manner)
    }

    /// A file whose transfer breaks off.
    pub(crate) fn cut_after(self, bytes: usize) -> Self {
        self.change_file(|file| file.cut_after = Some(bytes))
    }

    /// A file whose transfer comes to a standstill.
    pub(crate) fn hang_after(self, bytes: usize) -> Self {
        self.change_file(|file| file.hang_after = Some(bytes))
    }

    /// A file that comes slowly.
    pub(crate) fn paced(self, bytes: usize, pause: Duration) -> Self {
        self.change_file(|file| file.pace = Some((bytes, pause)))
    }

    /// A file that comes slowly, however many connections bring it.
    pub(crate) fn paced_in_all(self, bytes: usize, pause: Duration) -> Self {
        self.paced(bytes, pause)
            .change_file(|file| file.in_turn = Some(Arc::default()))
    }

    /// Another status with one more header line, and an empty body.
    pub(crate) fn status_with(code: u16, header: &str) -> Self {
        Self::with_head(
            &format!("{code} Whatever\r\n{header}\r\nContent-Length: 0"),
            b"",
        )
    }

    fn with_head(head: &str, body: &[u8]) -> Self {
        let mut bytes = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").into_bytes();
        bytes.extend_from_slice(body);
        Self::raw(bytes)
    }

    /// 200 with a body and its length.
    pub(crate) fn body(body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        Self::claiming(body.len() as u64, body)
    }

    /// 200 with a body and a length that may be wrong.
    pub(crate) fn claiming(length: u64, body: impl AsRef<[u8]>) -> Self {
        Self::with_head(
            &format!("200 OK\r\nContent-Length: {length}"),
            body.as_ref(),
        )
    }

    /// 200 with one more header line.
    pub(crate) fn labelled(header: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        Self::with_head(
            &format!("200 OK\r\n{header}\r\nContent-Length: {}", body.len()),
            body,
        )
    }

    /// 200 and a body that ends with the connection.
    pub(crate) fn until_close(body: impl AsRef<[u8]>) -> Self {
        Self::with_head("200 OK", body.as_ref())
    }

    /// 200 and a whole body in one chunk, which must not be empty.
    pub(crate) fn chunked(body: impl AsRef<[u8]>) -> Self {
        let mut answer = Self::chunked_broken_off(body);
        answer.bytes.extend_from_slice(b"0\r\n\r\n");
        answer
    }

    /// The same without the chunk that ends it.
    pub(crate) fn chunked_broken_off(body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut chunk = format!("{:x}\r\n", body.len()).into_bytes();
        chunk.extend_from_slice(body);
        chunk.extend_from_slice(b"\r\n");
        Self::with_head("200 OK\r\nTransfer-Encoding: chunked", &chunk)
    }

    /// Another status, with a page, as servers send with a 404.
    pub(crate) fn status(code: u16, page: &str) -> Self {
        let head = format!(
            "{code} Whatever\r\nContent-Type: text/html\r\nContent-Length: {}",
            page.len()
        );
        Self::with_head(&head, page.as_bytes())
    }

    /// A redirect with this code to this location.
    pub(crate) fn redirect(code: u16, location: &str) -> Self {
        Self::with_head(
            &format!("{code} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0"),
            b"",
        )
    }

    /// The request is read, the connection closed.
    pub(crate) fn hang_up() -> Self {
        Self::raw("")
    }

    /// The request is read and never answered.
    pub(crate) fn silence() -> Self {
        Self {
            then: Then::Silence,
            ..Self::raw("")
        }
    }

    /// 200, a length, the beginning of the body, then nothing more, with the connection left open.
    pub(crate) fn stopping_after(length: u64, beginning: impl AsRef<[u8]>) -> Self {
        Self {
            then: Then::Silence,
            ..Self::claiming(length, beginning)
        }
    }

    /// 200 and a body without length and end.
    pub(crate) fn endless() -> Self {
        Self {
            then: Then::Repeat(vec![b'e'; 64 * 1024], Duration::ZERO),
            ..Self::until_close("")
        }
    }

    /// 200 and an endless body of one byte every so often.
    pub(crate) fn drip(pause: Duration) -> Self {
        Self {
            then: Then::Repeat(b"d".to_vec(), pause),
            ..Self::until_close("")
        }
    }

    /// 200 with a head of at least this many bytes.
    pub(crate) fn huge_head(bytes: usize) -> Self {
        let line = format!("X-Filler: {}\r\n", "x".repeat(60_000));
        Self::raw(format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            line.repeat(bytes / line.len() + 1)
        ))
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// For example `GET /a?b HTTP/1.1`.
    pub(crate) line: String,
    headers: Vec<(String, String)>,
    /// How many were being answered, with this one.
    pub(crate) at_a_time: usize,
}

impl Request {
    fn parse(head: &str) -> Self {
        let mut lines = head.lines();
        let line = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self {
            line,
            headers,
            at_a_time: 0,
        }
    }

    /// Returns the first header of this name, which is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns the requested path, or the whole URL if the client takes us for a proxy; without the query.
    fn path(&self) -> &str {
        let target = self.line.split(' ').nth(1).unwrap_or_default();
        target.split('?').next().unwrap_or_default()
    }
}

/// The server; ends when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    routes: Mutex<HashMap<String, Vec<Answer>>>,
    requests: Mutex<Vec<Request>>,
    /// Bytes of files' bodies.
    sent_bytes: AtomicU64,
    connections: AtomicUsize,
    /// Requests being answered.
    busy: AtomicUsize,
    /// Files that are being sent, and how many were at a time.
    serving: AtomicUsize,
    most_serving: AtomicUsize,
    stopping: AtomicBool,
}

impl Server {
    /// Starts on a free port.
    pub(crate) fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST)
    }

    /// Starts on a free port of an address of the loopback: each counts as another host.
    pub(crate) fn start_at(address: Ipv4Addr) -> Self {
        assert!(address.is_loopback());
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept_all(&shared, &listener))
        };
        Self {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// Starts with one path.
    pub(crate) fn with(path: &str, answer: Answer) -> Self {
        let server = Self::start();
        server.route(path, answer);
        server
    }

    /// Says how a path, which begins with a slash, is answered from now on.
    pub(crate) fn route(&self, path: &str, answer: Answer) {
        self.route_in_turn(path, [answer]);
    }

    /// Says how it is answered the first time, the second time, ...; the last answer stays.
    pub(crate) fn route_in_turn(&self, path: &str, answers: impl IntoIterator<Item = Answer>) {
        let mut answers: Vec<_> = answers.into_iter().collect();
        answers.reverse();
        self.shared
            .routes
            .lock()
            .unwrap()
            .insert(path.to_owned(), answers);
    }

    /// Returns where it listens, as it is named in messages.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many bytes of files' bodies were sent.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.shared.sent_bytes.load(Ordering::SeqCst)
    }

    /// Returns how many files are being sent.
    pub(crate) fn serving(&self) -> usize {
        self.shared.serving.load(Ordering::SeqCst)
    }

    /// Returns how many files were sent at a time at most.
    pub(crate) fn most_serving(&self) -> usize {
        self.shared.most_serving.load(Ordering::SeqCst)
    }

    /// Returns the URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The same with `user:password`.
    pub(crate) fn url_with_user(&self, user: &str, path: &str) -> String {
        format!("http://{user}@{}{path}", self.address)
    }

    /// Returns the port.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns the requests so far, in the order they came.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Returns how many connections were made, with or without a request.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then sees the flag.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            // Its panic, on top of a failed test's, would abort and hide the reason.
            drop(acceptor.join());
        }
    }
}

fn accept_all(shared: &Arc<Shared>, listener: &TcpListener) {
    let mut open: Vec<JoinHandle<()>> = Vec::new();
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            break;
        }
        let Ok(stream) = stream else { continue };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        open.retain(|thread| !thread.is_finished());
        if open.len() < MAX_OPEN {
            let connection = Connection {
                stream,
                shared: Arc::clone(shared),
                ends: Instant::now() + MAX_LIFE,
            };
            // The errors are those of clients that went away, as many tests want them to.
            open.push(thread::spawn(move || drop(connection.serve())));
        }
    }
    for thread in open {
        drop(thread.join());
    }
}

/// A request that is being answered.
struct Busy {
    shared: Arc<Shared>,
    /// How many there are with it.
    count: usize,
}

impl Busy {
    fn new(shared: &Arc<Shared>) -> Self {
        let count = shared.busy.fetch_add(1, Ordering::SeqCst) + 1;
        let shared = Arc::clone(shared);
        Self { shared, count }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Connection {
    stream: TcpStream,
    shared: Arc<Shared>,
    ends: Instant,
}

impl Connection {
    fn serve(mut self) -> io::Result<()> {
        self.stream.set_read_timeout(Some(POLL_INTERVAL))?;
        self.stream.set_write_timeout(Some(POLL_INTERVAL))?;
        let Some(head) = self.read_head()? else {
            return Ok(());
        };
        let request = Request::parse(&head);
        let answer = self
            .shared
            .routes
            .lock()
            .unwrap()
            .get_mut(request.path())
            .and_then(|answers| match answers.len() {
                0 | 1 => answers.last().cloned(),
                _ => answers.pop(),
            });
        let busy = Busy::new(&self.shared);
        let request = Request {
            at_a_time: busy.count,
            ..request
        };
        self.shared.requests.lock().unwrap().push(request.clone());
        let answer = answer.unwrap_or_else(|| Answer::status(404, "<html>not found</html>"));
        if let Some(file) = &answer.file {
            let now = self.shared.serving.fetch_add(1, Ordering::SeqCst) + 1;
            self.shared.most_serving.fetch_max(now, Ordering::SeqCst);
            let served = self.serve_file(file, &request);
            self.shared.serving.fetch_sub(1, Ordering::SeqCst);
            return served;
        }
        self.send(&answer.bytes)?;
        match answer.then {
            Then::Close => Ok(()),
            Then::Silence => self.wait_for_the_end(),
            Then::Repeat(bytes, pause) => {
                let mut sent_bytes = 0;
                while sent_bytes < MAX_SENT_BYTES && !self.is_over() {
                    thread::sleep(pause);
                    self.send(&bytes)?;
                    sent_bytes += bytes.len() as u64;
                }
                Ok(())
            }
        }
    }

    fn serve_file(&mut self, file: &ServedFile, request: &Request) -> io::Result<()> {
        let whole = file.body.len();
        let is_changed = file.manner != Manner::Careless
            && request
                .header("if-range")
                .is_some_and(|validator| !file.headers.contains(validator));
        let knows_none = matches!(file.manner, Manner::Whole | Manner::Unannounced);
        let range: Option<(usize, usize)> = request
            .header("range")
            .filter(|_| !is_changed && !knows_none)
            .and_then(|range| {
                let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
                let end = match last {
                    "" => whole,
                    last => last.parse::<usize>().ok()? + 1,
                };
                Some((first.parse().ok()?, end.min(whole)))
            });
        let end = range.map_or(whole, |(_, end)| end);
        let (head, from) = match range.map(|(from, _)| from) {
            Some(_) if let Manner::Failing(code) = file.manner => {
                (format!("{code} Whatever\r\nContent-Length: 0"), whole)
            }
            Some(from) if from >= whole || file.manner == Manner::Refusing => (
                format!("416 Out Of Range\r\nContent-Range: bytes */{whole}\r\nContent-Length: 0"),
                whole,
            ),
            Some(from) => {
                let from = from - usize::from(file.manner == Manner::WrongStart);
                let range = match file.manner {
                    Manner::Silent => String::new(),
                    manner => {
                        let total = whole + usize::from(manner == Manner::OtherTotal);
                        format!("Content-Range: bytes {from}-{}/{total}\r\n", end - 1)
                    }
                };
                let length = end - from;
                (format!("206 Part\r\n{range}Content-Length: {length}"), from)
            }
            None if file.manner == Manner::Unannounced => ("200 OK".to_owned(), 0),
            None => (format!("200 OK\r\nContent-Length: {whole}"), 0),
        };
        let head = format!(
            "HTTP/1.1 {head}\r\nAccept-Ranges: bytes\r\n{}Connection: close\r\n\r\n",
            file.headers
        );
        self.send(head.as_bytes())?;
        // A 416 has nothing.
        let mut body = &file.body[from..end.max(from)];
        if let Some(cut) = file.cut_after.or(file.hang_after) {
            body = &body[..cut.min(body.len())];
        }
        let (step, pause) = file.pace.unwrap_or((64 * 1024, Duration::ZERO));
        for part in body.chunks(step) {
            if self.is_over() {
                break;
            }
            self.shared
                .sent_bytes
                .fetch_add(part.len() as u64, Ordering::SeqCst);
            self.send(part)?;
            let turn = file.in_turn.as_ref().map(|turn| turn.lock().unwrap());
            thread::sleep(pause);
            drop(turn);
        }
        match file.hang_after {
            Some(_) => self.wait_for_the_end(),
            None => Ok(()),
        }
    }

    /// Reads up to the empty line; `None` if the client goes before, or sends something else than HTTP.
    fn read_head(&mut self) -> io::Result<Option<String>> {
        let mut head = Vec::new();
        let mut buffer = [0; 4096];
        while !self.is_over() && head.len() < MAX_REQUEST_BYTES {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => head.extend_from_slice(&buffer[..count]),
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
            if head.ends_with(b"\r\n\r\n") {
                return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
            }
        }
        Ok(None)
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() && !self.is_over() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wait_for_the_end(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while !self.is_over() {
            match self.stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.shared.stopping.load(Ordering::SeqCst) || Instant::now() > self.ends
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
