//! Why a fetch ended without its output, as people and other programs see it.

use std::fmt;

/// The exit codes, which other programs rely on.
pub mod exit_code {
    /// The output is there and verified.
    pub const OK: u8 = 0;
    /// `fetch cache verify`: something that was delivered has changed.
    pub const CHANGED: u8 = 1;
    /// A download for a daemon failed: daemons know one failure only.
    pub const DAEMON_FAILURE: u8 = 1;
    /// Bad hash, bad option, no usable URL left.
    pub const USAGE: u8 = 2;
    /// No local source has it, and every server asked answered 404 or 410, or none was asked.
    pub const NOT_FOUND: u8 = 3;
    /// A network source delivered a complete wrong body, and nothing had the right one.
    pub const MISMATCH: u8 = 4;
    /// Another network trouble.
    pub const NETWORK: u8 = 5;
    /// Another process downloads the same content, and was not to be waited for any longer.
    pub const HELD: u8 = 6;
    /// Permission, disk full, output exists.
    pub const LOCAL: u8 = 7;
    /// Interrupted, cleaned up.
    pub const INTERRUPTED: u8 = 130;
}

/// What kind of end it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request makes no sense.
    Usage,
    /// Nobody has the content.
    NotFound,
    /// Somebody sent something else.
    Mismatch,
    /// The network did not let us find out.
    Network,
    /// Another process downloads it.
    Held,
    /// This machine did not let us.
    Local,
    /// Told to stop.
    Interrupted,
}

impl ErrorKind {
    /// Returns the name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::NotFound => "not-found",
            Self::Mismatch => "mismatch",
            Self::Network => "network",
            Self::Held => "held",
            Self::Local => "local",
            Self::Interrupted => "interrupted",
        }
    }

    /// Returns the program's exit code.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Usage => exit_code::USAGE,
            Self::NotFound => exit_code::NOT_FOUND,
            Self::Mismatch => exit_code::MISMATCH,
            Self::Network => exit_code::NETWORK,
            Self::Held => exit_code::HELD,
            Self::Local => exit_code::LOCAL,
            Self::Interrupted => exit_code::INTERRUPTED,
        }
    }
}

/// The end of a fetch that did not succeed: what was wanted, what was found, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchError {
    /// What kind it is, which fixes the exit code.
    pub kind: ErrorKind,
    /// What happened; may have several lines.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl FetchError {
    /// Makes an error without a hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A mistake on the command line or in the environment.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// Trouble on this machine.
    pub fn local(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Local, message)
    }

    /// The end by a signal.
    pub fn interrupted() -> Self {
        Self::new(
            ErrorKind::Interrupted,
            "interrupted; nothing was left beside the output",
        )
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for FetchError {}
