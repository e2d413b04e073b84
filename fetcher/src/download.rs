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

    /// Downloads into the empty file `staged` and compares.
    pub(crate) fn land(
        &mut self,
        url: &SourceUrl,
        request: &Request,
        staged: &File,
        watch: Watch<'_>,
    ) -> Result<Verdict, DownloadError> {
        let check = FileCheck::new(&request.address, request.executable, false, None);
        let mut landing = Landing {
            staged,
            check: Some((check, request)),
            bytes: 0,
            progress: watch.progress,
        };
        self.get(url, &mut landing, watch)?;
        let (check, _) = landing.check.take().expect("the check is taken only here");
        check.finish(staged).map_err(DownloadError::Write)
    }

    /// Downloads into the empty file `staged` what is hashed later. Returns its length in bytes.
    pub(crate) fn land_archive(
        &mut self,
        url: &SourceUrl,
        staged: &File,
        watch: Watch<'_>,
    ) -> Result<u64, DownloadError> {
        let mut landing = Landing {
            staged,
            check: None,
            bytes: 0,
            progress: watch.progress,
        };
        self.get(url, &mut landing, watch)?;
        Ok(landing.bytes)
    }

    fn get(
        &mut self,
        url: &SourceUrl,
        landing: &mut Landing<'_>,
        watch: Watch<'_>,
    ) -> Result<(), DownloadError> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(Client::new(self.limits).map_err(DownloadError::from)?),
        };
        client.get(url, landing, watch.interrupt)?;
        Ok(())
    }

    /// Returns the most bytes that a download may have, and what is unpacked from one.
    pub(crate) const fn max_bytes(&self) -> u64 {
        self.limits.max_bytes
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
    /// `None` for what is hashed later.
    check: Option<(FileCheck, &'a Request)>,
    bytes: u64,
    progress: &'a dyn Progress,
}

impl BodySink for Landing<'_> {
    fn start(&mut self, length_bytes: Option<u64>) -> io::Result<()> {
        if let Some(length) = length_bytes {
            self.progress.set_total(length);
        }
        if let Some((check, request)) = &mut self.check {
            *check = FileCheck::new(&request.address, request.executable, false, length_bytes);
        }
        self.bytes = 0;
        Ok(())
    }

    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        let mut staged = self.staged;
        staged.write_all(chunk)?;
        if let Some((check, _)) = &mut self.check {
            check.update(chunk);
        }
        self.bytes += chunk.len() as u64;
        self.progress.advance(chunk.len() as u64);
        Ok(())
    }
}
