//! Lets a download land: the network stack is built at the first one, and its bytes are hashed as they are written.

use std::fs::File;
use std::io::{self, Write as _};

use store_index::watch::{Progress, Watch};

use crate::net::{BodySink, Client, Limits, NetClass, NetError};
use crate::request::Request;
use crate::source_url::SourceUrl;
use crate::verify::{FileCheck, Verdict};

/// Downloads for one run.
#[derive(Debug)]
pub(crate) struct Downloader {
    limits: Limits,
    client: Option<Client>,
}

/// Why a download did not land.
#[derive(Debug)]
pub(crate) enum DownloadError {
    /// The server says that it is not there.
    Gone(String),
    /// Anything else that the network did.
    Trouble(String),
    /// The staging file cannot be written or read.
    Write(io::Error),
    /// This machine does not let us: no descriptor, no thread.
    Local(String),
    /// Told to stop.
    Interrupted,
}

impl Downloader {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            client: None,
        }
    }

    /// Returns the network stack.
    pub(crate) fn client(&mut self) -> Result<&Client, DownloadError> {
        Ok(match &mut self.client {
            Some(client) => client,
            none => none.insert(Client::new(self.limits).map_err(DownloadError::from)?),
        })
    }

    /// Downloads into the empty file `staged` and compares.
    pub(crate) fn land(
        &mut self,
        url: &SourceUrl,
        request: &Request,
        staged: &File,
        watch: Watch<'_>,
    ) -> Result<Verdict, DownloadError> {
        let client = self.client()?;
        let check = FileCheck::new(&request.address, request.executable, false, None);
        let mut landing = Landing {
            staged,
            check: Some(check),
            request,
            progress: watch.progress,
        };
        client.get(url, &mut landing, watch.interrupt)?;
        let check = landing.check.take().expect("the check is taken only here");
        check.finish(staged).map_err(DownloadError::Write)
    }
}

impl DownloadError {
    /// Trouble that another try would meet again.
    pub(crate) fn trouble(reason: impl Into<String>) -> Self {
        Self::Trouble(reason.into())
    }

    /// Says more about what a server or the network did.
    pub(crate) fn explained(self, explain: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Gone(reason) => Self::Gone(explain(reason)),
            Self::Trouble(reason) => Self::Trouble(explain(reason)),
            other => other,
        }
    }
}

impl From<NetError> for DownloadError {
    fn from(error: NetError) -> Self {
        match (error.class(), error) {
            (_, NetError::Sink(error)) => Self::Write(error),
            (NetClass::Interrupted, _) => Self::Interrupted,
            (NetClass::Local, error) => Self::Local(error.to_string()),
            (NetClass::Gone, error) => Self::Gone(error.to_string()),
            (_, error) => Self::Trouble(error.to_string()),
        }
    }
}

struct Landing<'a> {
    staged: &'a File,
    check: Option<FileCheck>,
    request: &'a Request,
    progress: &'a dyn Progress,
}

impl BodySink for Landing<'_> {
    fn start(&mut self, length_bytes: Option<u64>) -> io::Result<()> {
        if let Some(length) = length_bytes {
            self.progress.set_total(length);
        }
        self.check = Some(FileCheck::new(
            &self.request.address,
            self.request.executable,
            false,
            length_bytes,
        ));
        Ok(())
    }

    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        let mut staged = self.staged;
        staged.write_all(chunk)?;
        if let Some(check) = &mut self.check {
            check.update(chunk);
        }
        self.progress.advance(chunk.len() as u64);
        Ok(())
    }
}
