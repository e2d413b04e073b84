//! One immutable file of an index: how it is read, written and merged.

pub mod batch;
pub mod cursor;
pub mod dead;
pub mod merge;
pub mod reader;
mod table;
pub mod writer;

use std::io;

use crate::format::FormatError;

/// Why a segment or dead list cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The operating system said no.
    #[error("cannot read {file}: {source}")]
    Read {
        /// Which file of the index directory.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write {file}: {source}")]
    Write {
        /// Which file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// The bytes are not what they should be.
    #[error("{file} is damaged: {error}")]
    Damaged {
        /// Which file of the index directory.
        file: String,
        /// How.
        error: FormatError,
    },
    /// More objects than a segment can number.
    #[error("more than {} objects in one segment", u32::MAX)]
    TooManyObjects,
}

/// A file of the index under its name, so that every error can say which it was.
pub(crate) struct Source {
    pub(crate) bytes: Box<dyn crate::read_at::ReadAt>,
    pub(crate) name: String,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Source {
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), SegmentError> {
        self.bytes
            .read_exact_at(buffer, offset)
            .map_err(|source| match source.kind() {
                // Shorter than it was when it was opened: cut off under our hands, or a driver that reads short.
                io::ErrorKind::UnexpectedEof => self.damaged(FormatError::Truncated {
                    wanted: offset.saturating_add(buffer.len() as u64),
                    found: self.bytes.total_len().unwrap_or(0),
                }),
                _ => SegmentError::Read {
                    file: self.name.clone(),
                    source,
                },
            })
    }

    pub(crate) fn len(&self) -> Result<u64, SegmentError> {
        self.bytes.total_len().map_err(|source| SegmentError::Read {
            file: self.name.clone(),
            source,
        })
    }

    pub(crate) fn damaged(&self, error: FormatError) -> SegmentError {
        SegmentError::Damaged {
            file: self.name.clone(),
            error,
        }
    }
}
