//! Lists as `sha256sum` and its kin write them, in the GNU and the BSD form.

use std::ffi::OsStr;
use std::io::{self, BufRead, Read as _};
use std::os::unix::ffi::OsStrExt as _;

use store_index::address::{ContentAddress, FlatHash};
use store_index::checksum_list::{self, ListKind, Listed, MAX_LINE_LEN};
use store_index::hash_text::{Base, HashForm};

use super::entry::{Entry, Kind, safe_path};
use super::list::{List, too_many};
use crate::error::FetchError;
use crate::source_url::SourceUrl;

/// Names of lists, for lines whose algorithm the list's own name does not tell. A digest of 64 digits is sha256's.
const KINDS: [&str; 5] = ["SHA256SUMS", "SHA512SUMS", "SHA1SUMS", "MD5SUMS", "B3SUMS"];

/// How much of a line that was refused is shown, in bytes.
const MAX_SHOWN_LEN: usize = 120;

/// Reads a list. Line by line, so that each that is refused can be named; the URL of a file is its path below the base.
pub(super) fn read(
    mut reader: impl BufRead,
    name: &OsStr,
    base_url: Option<&SourceUrl>,
    shown: &str,
) -> Result<List, FetchError> {
    let own = checksum_list::recognise(name.as_bytes());
    let others = KINDS
        .iter()
        .filter_map(|kind| checksum_list::recognise(kind.as_bytes()));
    let kinds: Vec<ListKind> = own.into_iter().chain(others).collect();
    let mut list = List::default();
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        let is_whole = next_line(&mut reader, &mut line)
            .map_err(|error| FetchError::local(format!("cannot read {shown}: {error}")))?;
        let Some(is_whole) = is_whole else {
            return Ok(list);
        };
        number += 1;
        if line.iter().all(u8::is_ascii_whitespace) || line.first() == Some(&b'#') {
            continue;
        }
        if list.is_full() {
            return Err(too_many());
        }
        let entry = match is_whole {
            true => entry(&kinds, &line, base_url),
            false => Err(format!("the line is longer than {MAX_LINE_LEN} bytes")),
        };
        match entry {
            Ok(entry) => list.entries.push(entry),
            Err(reason) => {
                let end = line.len().min(MAX_SHOWN_LEN);
                let shown = line[..end].escape_ascii();
                list.refuse(format!("line {number}, {shown}"), reason);
            }
        }
    }
}

/// Reads a line without its end; `None` at the end of the file, false if the line is cut because it is too long.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let most = MAX_LINE_LEN as u64;
    if reader.by_ref().take(most).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    let is_whole = line.ends_with(b"\n") || (line.len() as u64) < most;
    if !is_whole {
        reader.skip_until(b'\n')?;
    }
    while line.ends_with(b"\n") || line.ends_with(b"\r") {
        line.pop();
    }
    Ok(Some(is_whole))
}

fn entry(kinds: &[ListKind], line: &[u8], base_url: Option<&SourceUrl>) -> Result<Entry, String> {
    let listed = kinds
        .iter()
        .find_map(|kind| listed(kind, line))
        .ok_or("it is no digest with the name of a file below this folder")?;
    let path = safe_path(&listed.path)?;
    let digest = listed.digests.first().ok_or("it has no digest")?;
    let urls = match base_url {
        None => Vec::new(),
        Some(base) => {
            let below = path.to_str().ok_or("no URL can be made of its name")?;
            let url = base.join(below).ok_or("no URL can be made of its name")?;
            vec![url.url().as_str().into()]
        }
    };
    Ok(Entry {
        path,
        address: ContentAddress::Flat(FlatHash(*digest)),
        form: HashForm::Bare(Base::Hex),
        urls,
        kind: Kind::File,
    })
}

fn listed(kind: &ListKind, line: &[u8]) -> Option<Listed> {
    let mut found = None;
    checksum_list::read(kind, b"", line, &mut |listed| found = Some(listed)).ok()?;
    found
}
