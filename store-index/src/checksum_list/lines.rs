//! Lines of bounded length out of a stream.

use std::io::{BufRead, Read as _};

use super::ListError;
use super::unpack::Text;

/// The longest line that is read, in bytes: two digests, a size and a path in which every byte is escaped. What is
/// longer, such as the list of a kernel's binary packages, is passed over unread.
pub const MAX_LINE_LEN: usize = 16 * 1024;

/// The lines of a list.
pub(super) struct Lines<R: BufRead> {
    text: Text<R>,
    line: Vec<u8>,
}

/// One line, without its end.
pub(super) enum Line<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// The beginning of one that is longer than [`MAX_LINE_LEN`].
    Overlong(&'a [u8]),
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(text: Text<R>) -> Self {
        Self {
            text,
            line: Vec::new(),
        }
    }

    /// Returns the next line, `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Line<'_>>, ListError> {
        self.line.clear();
        let limit = MAX_LINE_LEN as u64 + 1;
        self.text
            .by_ref()
            .take(limit)
            .read_until(b'\n', &mut self.line)
            .map_err(ListError::from_unpacking)?;
        if self.line.is_empty() {
            return Ok(None);
        }
        if self.line.last() != Some(&b'\n') && self.line.len() > MAX_LINE_LEN {
            self.text
                .skip_until(b'\n')
                .map_err(ListError::from_unpacking)?;
            return Ok(Some(Line::Overlong(&self.line)));
        }
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        Ok(Some(Line::Whole(line.strip_suffix(b"\r").unwrap_or(line))))
    }
}
