//! Servers of git repositories on the loopback: git's own `http-backend` behind a small CGI server, and `git daemon`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{TestEnv, wait_until};

/// The longest that a connection waits for its client.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How a [`HttpBackend`] behaves apart from serving.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manners {
    /// The server never hears that the client knows newer versions of the protocol.
    pub(crate) only_v0: bool,
    /// `Authorization` must be this.
    pub(crate) authorization: Option<&'static str>,
    /// Whoever asks for objects without saying how deep, as for files one by one, gets this status.
    pub(crate) only_with_depth: Option<&'static str>,
    /// The files of the repositories are served as they are, without the smart protocol.
    pub(crate) dumb: bool,
    /// How an answer to a POST comes, which is a pack or a list of references.
    pub(crate) answers: Answers,
}

/// How long answers come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Answers {
    #[default]
    Whole,
    /// Never.
    Silent,
    /// A bit at a time.
    Slow,
    /// Half of it, and then nothing, with the connection left open.
    Stuck,
    /// Half of it.
    Cut,
    /// With some of its bytes changed.
    Damaged,
    /// The pack says that it has so many objects.
    Claiming(u32),
}

/// One request, and how long the answer was.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// What the client sent behind the headers, if that was text.
    pub(crate) body: String,
    pub(crate) sent_bytes: usize,
}

/// `git http-backend` for the repositories below a folder; ends when dropped.
#[derive(Debug)]
pub(crate) struct HttpBackend {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    home: PathBuf,
    manners: Manners,
    exchanges: Mutex<Vec<Exchange>>,
    stopping: AtomicBool,
    connections: AtomicUsize,
}

impl HttpBackend {
    /// Serves the repositories below a folder of the test's.
    pub(crate) fn start(env: &TestEnv, root: &str) -> Self {
        Self::with(env, root, Manners::default())
    }

    pub(crate) fn with(env: &TestEnv, root: &str, manners: Manners) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            root: env.path(root),
            home: env.path("home"),
            manners,
            exchanges: Mutex::default(),
            stopping: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut open = Vec::new();
                for stream in listener.incoming() {
                    if shared.stopping.load(Ordering::SeqCst) {
                        break;
                    }
                    let Ok(stream) = stream else { continue };
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    let shared = Arc::clone(&shared);
                    // The errors are those of clients that went away.
                    open.push(std::thread::spawn(move || drop(shared.serve(stream))));
                }
                for thread in open {
                    drop(thread.join());
                }
            })
        };
        Self {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns what was asked so far.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.shared.exchanges.lock().unwrap().clone()
    }

    /// Returns how many connections there were since this was last called.
    pub(crate) fn take_connections(&self) -> usize {
        self.shared.connections.swap(0, Ordering::SeqCst)
    }

    /// Forgets what was asked so far, and returns how much was sent.
    pub(crate) fn take_sent_bytes(&self) -> usize {
        let exchanges = std::mem::take(&mut *self.shared.exchanges.lock().unwrap());
        exchanges.iter().map(|exchange| exchange.sent_bytes).sum()
    }
}

impl Drop for HttpBackend {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then sees the flag.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(MAX_WAIT))?;
        stream.set_write_timeout(Some(MAX_WAIT))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut headers = Vec::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let header = |name: &str| {
            headers
                .iter()
                .find(|(found, _)| found == name)
                .map_or("", |(_, value)| value.as_str())
        };
        let length = header("content-length").parse().unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap_or("/"));
        // A whole URL, if the client takes us for a proxy.
        let target = match target.strip_prefix("http://") {
            Some(rest) => &rest[rest.find('/').unwrap_or(0)..],
            None => target,
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let answers = match method {
            "POST" => self.manners.answers,
            _ => Answers::Whole,
        };
        let answer = if self
            .manners
            .authorization
            .is_some_and(|wanted| header("authorization") != wanted)
        {
            b"Status: 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\r\n".to_vec()
        } else if answers == Answers::Silent {
            self.wait_for_the_end();
            return Ok(());
        } else if let Some(status) = self.manners.only_with_depth
            && String::from_utf8_lossy(&body).contains("want ")
            && !String::from_utf8_lossy(&body).contains("deepen ")
        {
            format!("Status: {status}\r\n\r\n").into_bytes()
        } else if self.manners.dumb {
            match fs_err::read(self.root.join(path.trim_start_matches('/'))) {
                Ok(bytes) => [b"\r\n".as_slice(), &bytes].concat(),
                Err(_) => b"Status: 404 Not Found\r\n\r\n".to_vec(),
            }
        } else {
            let version = if self.manners.only_v0 {
                ""
            } else {
                header("git-protocol")
            };
            let mut child = Command::new("git")
                .arg("http-backend")
                .env_clear()
                .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                .env("HOME", &self.home)
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .env("GIT_PROJECT_ROOT", &self.root)
                .env("GIT_HTTP_EXPORT_ALL", "1")
                .env("GIT_PROTOCOL", version)
                .env("REQUEST_METHOD", method)
                .env("PATH_INFO", path)
                .env("QUERY_STRING", query)
                .env("CONTENT_TYPE", header("content-type"))
                .env("CONTENT_LENGTH", length.to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()?;
            let mut input = child.stdin.take().unwrap();
            drop(input.write_all(&body));
            drop(input);
            child.wait_with_output()?.stdout
        };
        self.exchanges.lock().unwrap().push(Exchange {
            body: String::from_utf8_lossy(&body).into_owned(),
            sent_bytes: answer.len(),
        });
        let status = answer.strip_prefix(b"Status: ".as_slice());
        let (status, rest) = match status {
            Some(rest) => {
                let end = rest.iter().position(|&byte| byte == b'\r').unwrap();
                (
                    String::from_utf8_lossy(&rest[..end]).into_owned(),
                    &rest[end + 2..],
                )
            }
            None => ("200 OK".to_owned(), answer.as_slice()),
        };
        let mut stream = stream;
        write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n")?;
        let half = &rest[..rest.len() / 2];
        match answers {
            Answers::Whole | Answers::Silent => stream.write_all(rest),
            Answers::Cut => stream.write_all(half),
            Answers::Stuck => {
                stream.write_all(half)?;
                self.wait_for_the_end();
                Ok(())
            }
            Answers::Damaged => {
                let mut rest = rest.to_vec();
                let middle = rest.len() / 2;
                rest[middle] ^= 0x55;
                stream.write_all(&rest)
            }
            Answers::Claiming(count) => {
                let mut rest = rest.to_vec();
                let header = b"PACK\0\0\0\x02";
                let at = rest.windows(header.len()).position(|bytes| bytes == header);
                let at = at.unwrap() + header.len();
                rest[at..at + 4].copy_from_slice(&count.to_be_bytes());
                stream.write_all(&rest)
            }
            Answers::Slow => {
                for chunk in rest.chunks(500) {
                    if self.stopping.load(Ordering::SeqCst) {
                        break;
                    }
                    stream.write_all(chunk)?;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(())
            }
        }
    }

    fn wait_for_the_end(&self) {
        while !self.stopping.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// `git daemon` for the repositories below a folder; ends when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    port: u16,
}

impl Daemon {
    pub(crate) fn start(env: &TestEnv, root: &str) -> Self {
        let root = env.path(root);
        // Another process may take the port between our look and the daemon's start: then the next one.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let log = env.path(format!("git-daemon-{port}"));
            let mut child = daemon(&root, &env.path("home"), port)
                .stderr(fs_err::File::create(&log).unwrap().into_file())
                .spawn()
                .unwrap();
            let said = || fs_err::read_to_string(&log).unwrap();
            let mut ended = None;
            // Whoever answers at the port may be somebody else.
            wait_until("git daemon is ready", || {
                ended = child.try_wait().unwrap();
                ended.is_some() || said().contains("Ready to rumble")
            });
            if ended.is_none() {
                return Self { child, port };
            }
            assert!(said().contains("unable to allocate"), "{}", said());
        }
        panic!("no free port in five tries");
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("git://127.0.0.1:{}/{path}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// Not `git daemon`: git would start a child, and be killed in its place.
fn daemon(root: &Path, home: &Path, port: u16) -> Command {
    let folder = Command::new("git").arg("--exec-path").output().unwrap();
    let folder = String::from_utf8(folder.stdout).unwrap();
    let mut command = Command::new(Path::new(folder.trim()).join("git-daemon"));
    command
        .args(["--listen=127.0.0.1", "--reuseaddr", "--export-all"])
        .arg("--verbose")
        .arg(format!("--port={port}"))
        .arg(format!("--base-path={}", root.display()))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
