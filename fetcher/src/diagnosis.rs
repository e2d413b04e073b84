//! Guesses what a wrong body is, so that people need not look: the hash decides, this only explains.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use store_index::address::{ContentAddress, FileHasher, Framing};
use store_index::watch::Watch;

use crate::request::Request;
use crate::source_url::SourceUrl;
use crate::unpack;
use crate::verify;

/// How much of a body is looked at, in bytes.
const HEAD_LEN: usize = 1024;

/// The longest body that is hashed again under another method, in bytes: a guess is not worth minutes.
const MAX_HASHED_AGAIN: u64 = 256 << 20;

/// How much of what is packed is looked at to see whether it was cut off, in bytes.
const MAX_UNPACKED: u64 = 1 << 30;

/// How compressed files begin.
const MAGIC: [(&str, &[u8]); 6] = [
    (".gz", b"\x1f\x8b"),
    (".tgz", b"\x1f\x8b"),
    (".xz", b"\xfd7zXZ\0"),
    (".bz2", b"BZh"),
    (".zst", b"\x28\xb5\x2f\xfd"),
    (".zip", b"PK"),
];

/// Returns what the body in `staged` is in other words, such as "an HTML page", if it is recognised.
pub(crate) fn of_body(
    staged: &File,
    bytes: u64,
    url: &SourceUrl,
    request: &Request,
    watch: Watch<'_>,
) -> Option<String> {
    let mut head = vec![0; HEAD_LEN];
    // What cannot be read again is not explained.
    let len = staged.read_at(&mut head, 0).ok()?;
    head.truncate(len);
    if bytes == 0 {
        return Some("nothing: the body is empty".to_owned());
    }
    if let Some(method) = other_method(staged, bytes, request) {
        return Some(method);
    }
    if is_html(&head) {
        return Some("an HTML page, such as a login or an error that claims success".to_owned());
    }
    if head.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Some("a git-lfs pointer, not the file it stands for".to_owned());
    }
    if request.unpack {
        // What an archive is packed with was told from its bytes.
        return None;
    }
    let path = url.to_string();
    let is_other =
        |(suffix, magic): &&(&str, &[u8])| path.ends_with(suffix) && !head.starts_with(magic);
    if let Some((suffix, _)) = MAGIC.iter().find(is_other) {
        return Some(format!(
            "not what {suffix} files begin with: was it decompressed on the way?"
        ));
    }
    let is_cut = bytes <= MAX_HASHED_AGAIN && unpack::ends_early(staged, MAX_UNPACKED, watch);
    is_cut.then(|| format!("cut off after {bytes} bytes: what is packed in it goes on"))
}

fn is_html(head: &[u8]) -> bool {
    let text = head
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(head)
        .trim_ascii_start();
    let begins = |tag: &[u8]| {
        text.get(..tag.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(tag))
    };
    begins(b"<!doctype html") || begins(b"<html")
}

/// The right file, and its hash taken by another method than the one asked for.
fn other_method(staged: &File, bytes: u64, request: &Request) -> Option<String> {
    if bytes > MAX_HASHED_AGAIN {
        return None;
    }
    let wanted = request.address.digest();
    let has = |framing| {
        let hasher = FileHasher::new(framing, wanted.algorithm(), bytes);
        verify::hash_again(staged, hasher).ok().flatten().as_ref() == Some(wanted)
    };
    match request.address {
        ContentAddress::Flat(_) if has(Framing::NarPlain) || has(Framing::NarExecutable) => {
            Some("the right file: the hash is its NAR hash, use --mode nar".to_owned())
        }
        ContentAddress::Nar(_)
            if request.unpack && (has(Framing::NarPlain) || has(Framing::NarExecutable)) =>
        {
            Some("the right file as it is: leave out --unpack".to_owned())
        }
        ContentAddress::Nar(_) if has(Framing::Flat) && request.unpack => Some(
            "the right file: the hash is that of its bytes, use --mode flat without --unpack"
                .to_owned(),
        ),
        ContentAddress::Nar(_) if has(Framing::Flat) => {
            Some("the right file: the hash is that of its bytes, use --mode flat".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_told_from_other_markup() {
        for page in [
            "<!DOCTYPE html>",
            "\n <html lang=en>",
            "\u{feff}<!doctype HTML PUBLIC",
        ] {
            assert!(is_html(page.as_bytes()), "{page:?}");
        }
        for other in ["", "<", "<?xml version=\"1.0\"?><svg/>", "text <html>"] {
            assert!(!is_html(other.as_bytes()), "{other:?}");
        }
    }
}
