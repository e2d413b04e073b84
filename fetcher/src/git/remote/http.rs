//! git's smart protocol over HTTP, by the client that downloads use: the same trust, redirects, proxies and limits.

use std::any::Any;
use std::cell::RefCell;
use std::io::{self, BufRead, Cursor, Read, Write};
use std::rc::Rc;

use bytes::{Buf as _, Bytes};
use gix_transport::client::blocking_io::http::{GetResponse, Http, PostBodyDataKind, PostResponse};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::line::Line;
use crate::net::{Answer, Client, NetError};
use crate::source_url::SourceUrl;

/// What a server's list of references stands at, behind the repository's URL.
pub(super) const INFO_REFS: &str = "/info/refs";

/// Makes a URL below a repository's. gix's own text has neither credentials nor a redirect in it.
pub(super) fn below(base: &SourceUrl, tail: &str, query: Option<&str>) -> SourceUrl {
    let mut url = base.url().clone();
    let path = format!("{}{tail}", url.path().trim_end_matches('/'));
    url.set_path(&path);
    url.set_query(query);
    SourceUrl::from_url(url).unwrap_or_else(|_| base.clone())
}

/// Speaks HTTP for one repository.
#[derive(Debug)]
pub(super) struct GitHttp<'a> {
    client: &'a Client,
    line: &'a Line<'a>,
    /// The repository, with credentials.
    base: SourceUrl,
    /// It is of another origin than the one that was named.
    is_led: bool,
}

impl<'a> GitHttp<'a> {
    pub(super) const fn new(client: &'a Client, line: &'a Line<'a>, base: SourceUrl) -> Self {
        Self {
            client,
            line,
            base,
            is_led: false,
        }
    }

    /// Later requests go where the first was led, if that is the same place in another repository. Credentials do not
    /// go to another origin.
    fn move_to(&mut self, asked: &SourceUrl, answered: &SourceUrl) -> Result<(), NetError> {
        let mut bare = asked.url().clone();
        // Both fail only for URLs without a host.
        let _ = bare.set_password(None).and_then(|()| bare.set_username(""));
        if bare == *answered.url() {
            return Ok(());
        }
        let mut url = answered.url().clone();
        let Some(path) = url.path().strip_suffix(INFO_REFS).map(str::to_owned) else {
            return Err(NetError::BadRedirect {
                reason: "to something that is no repository",
            });
        };
        url.set_path(&path);
        url.set_query(None);
        if url.origin() == self.base.url().origin() {
            let old = self.base.url();
            let _ = url.set_username(old.username());
            let _ = url.set_password(old.password());
        } else {
            self.is_led = true;
        }
        self.base = SourceUrl::from_url(url).map_err(|_| NetError::BadRedirect {
            reason: "to an invalid URL",
        })?;
        Ok(())
    }
}

/// Takes over the headers that git wants, and not the name that gix gives itself.
fn headers(lines: impl IntoIterator<Item = impl AsRef<str>>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some((name, value)) = line.as_ref().split_once(':') else {
            continue;
        };
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value.trim()),
        ) && name != reqwest::header::USER_AGENT
        {
            headers.insert(name, value);
        }
    }
    headers
}

impl<'a> Http for GitHttp<'a> {
    type Headers = Headers<'a>;
    type ResponseBody = Body<'a>;
    type PostBody = PostBody<'a>;

    fn get(
        &mut self,
        url: &str,
        _base_url: &str,
        lines: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix::Result<GetResponse<Self::Headers, Self::ResponseBody>> {
        let query = url.split_once('?').map(|(_, query)| query);
        let url = below(&self.base, INFO_REFS, query);
        let answer = self
            .client
            .exchange(
                &url,
                &headers(lines),
                None,
                self.is_led,
                self.line.watch.interrupt,
            )
            .and_then(|answer| self.move_to(&url, answer.url()).map(|()| answer))
            .map_err(|error| gix::Error::from_error(self.line.failed(error)))?;
        let exchange = Exchange::shared(self.line, Stage::Open(answer));
        Ok(GetResponse {
            headers: Headers::new(&exchange),
            body: Body::new(exchange),
        })
    }

    fn post(
        &mut self,
        url: &str,
        base_url: &str,
        lines: impl IntoIterator<Item = impl AsRef<str>>,
        _kind: PostBodyDataKind,
    ) -> gix::Result<PostResponse<Self::Headers, Self::ResponseBody, Self::PostBody>> {
        let tail = url.strip_prefix(base_url).unwrap_or("git-upload-pack");
        let call = Call {
            client: self.client,
            url: below(
                &self.base,
                &format!("/{}", tail.trim_start_matches('/')),
                None,
            ),
            headers: headers(lines),
            is_led: self.is_led,
            body: Vec::new(),
        };
        let exchange = Exchange::shared(self.line, Stage::Asking(call));
        Ok(PostResponse {
            post_body: PostBody(Rc::clone(&exchange)),
            headers: Headers::new(&exchange),
            body: Body::new(exchange),
        })
    }

    fn configure(&mut self, _config: &dyn Any) -> gix::Result {
        Ok(())
    }
}

/// A request that is still being written.
#[derive(Debug)]
struct Call<'a> {
    client: &'a Client,
    url: SourceUrl,
    headers: HeaderMap,
    is_led: bool,
    body: Vec<u8>,
}

#[derive(Debug)]
enum Stage<'a> {
    Asking(Call<'a>),
    Open(Answer<'a>),
    /// It failed before.
    Broken,
}

/// A request and its answer: what is written is sent when the answer is first looked at.
#[derive(Debug)]
struct Exchange<'a> {
    line: &'a Line<'a>,
    stage: Stage<'a>,
}

impl<'a> Exchange<'a> {
    fn shared(line: &'a Line<'a>, stage: Stage<'a>) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self { line, stage }))
    }

    fn answer(&mut self) -> io::Result<&mut Answer<'a>> {
        if let Stage::Asking(call) = &mut self.stage {
            let body = std::mem::take(&mut call.body);
            let interrupt = self.line.watch.interrupt;
            let sent =
                call.client
                    .exchange(&call.url, &call.headers, Some(body), call.is_led, interrupt);
            self.stage = Stage::Broken;
            self.stage = Stage::Open(sent.map_err(|error| self.line.failed(error))?);
        }
        match &mut self.stage {
            Stage::Open(answer) => Ok(answer),
            Stage::Asking(_) | Stage::Broken => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn next(&mut self) -> io::Result<Bytes> {
        let line = self.line;
        let chunk = self.answer()?.next().map_err(|error| line.failed(error))?;
        line.got(chunk.len())?;
        Ok(chunk)
    }
}

/// Takes the body of a request.
#[derive(Debug)]
pub(super) struct PostBody<'a>(Rc<RefCell<Exchange<'a>>>);

impl Write for PostBody<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0.borrow_mut().stage {
            Stage::Asking(call) => {
                call.body.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            Stage::Open(_) | Stage::Broken => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The headers of an answer that gix looks at: one.
#[derive(Debug)]
pub(super) struct Headers<'a> {
    exchange: Rc<RefCell<Exchange<'a>>>,
    text: Option<Cursor<Vec<u8>>>,
}

impl<'a> Headers<'a> {
    fn new(exchange: &Rc<RefCell<Exchange<'a>>>) -> Self {
        Self {
            exchange: Rc::clone(exchange),
            text: None,
        }
    }

    fn text(&mut self) -> io::Result<&mut Cursor<Vec<u8>>> {
        if self.text.is_none() {
            let mut exchange = self.exchange.borrow_mut();
            let content_type = exchange.answer()?.content_type();
            let line = [b"content-type: ", content_type, b"\n"].concat();
            self.text = Some(Cursor::new(line));
        }
        Ok(self.text.get_or_insert_default())
    }
}

impl Read for Headers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.text()?.read(buffer)
    }
}

impl BufRead for Headers<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.text()?.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if let Some(text) = &mut self.text {
            text.consume(amount);
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Body<'a> {
    exchange: Rc<RefCell<Exchange<'a>>>,
    chunk: Bytes,
}

impl<'a> Body<'a> {
    const fn new(exchange: Rc<RefCell<Exchange<'a>>>) -> Self {
        Self {
            exchange,
            chunk: Bytes::new(),
        }
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Body<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.chunk.is_empty() {
            self.chunk = self.exchange.borrow_mut().next()?;
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        self.chunk.advance(amount);
    }
}
