//! Brings together what several lines say of one file.

use super::{ListError, Listed, Out};
use crate::digest::Digest;

/// The most lines that are held back to be brought together: more than any package has, little enough memory. What
/// comes after them counts as another list, so that a digest and a size may stay apart.
const MAX_ROWS: usize = 16 * 1024;

/// The most bytes of names that are held back.
const MAX_NAME_BYTES: usize = 4 * 1024 * 1024;

/// What one line says.
pub(super) struct Row {
    pub(super) name: Vec<u8>,
    pub(super) size: Option<u64>,
    pub(super) digest: Option<Digest>,
}

/// The lines of one package.
#[derive(Default)]
pub(super) struct Gathered {
    rows: Vec<Row>,
    name_bytes: usize,
}

impl Gathered {
    /// Adds a line. Returns true if the rows must be handed out before the next one.
    #[must_use = "the rows must be handed out once they are full"]
    pub(super) fn add(&mut self, row: Row) -> bool {
        self.name_bytes += row.name.len();
        self.rows.push(row);
        self.rows.len() >= MAX_ROWS || self.name_bytes >= MAX_NAME_BYTES
    }

    /// Hands out a file for each name that has a digest, under the path that `place` makes of the name. Files that
    /// are contradicted are left out, and counted.
    pub(super) fn hand_out(
        &mut self,
        out: &mut Out<'_>,
        name_only: bool,
        place: impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<(), ListError> {
        self.name_bytes = 0;
        self.rows.sort_by(|a, b| a.name.cmp(&b.name));
        for rows in self.rows.chunk_by(|a, b| a.name == b.name) {
            let Some((size, digests)) = merge(rows) else {
                out.skip();
                continue;
            };
            // A size alone, or digests that we do not know: nothing is wrong, and nothing is to be had.
            if digests.is_empty() {
                continue;
            }
            match place(&rows[0].name) {
                Some(path) => out.entry(Listed {
                    path,
                    name_only,
                    size,
                    digests,
                })?,
                None => out.skip(),
            }
        }
        self.rows.clear();
        Ok(())
    }
}

/// Brings the lines of one name together; `None` if they contradict each other.
fn merge(rows: &[Row]) -> Option<(Option<u64>, Vec<Digest>)> {
    let mut size = None;
    let mut digests: Vec<Digest> = Vec::new();
    for row in rows {
        if row.size.is_some() && size.is_some() && row.size != size {
            return None;
        }
        size = size.or(row.size);
        let Some(digest) = row.digest else { continue };
        match digests
            .iter()
            .find(|known| known.algorithm() == digest.algorithm())
        {
            Some(known) if *known != digest => return None,
            Some(_) => {}
            None => digests.push(digest),
        }
    }
    digests.sort_unstable();
    Some((size, digests))
}
