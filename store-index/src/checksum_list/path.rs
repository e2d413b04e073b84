//! Paths as lists spell them, made safe.

/// The longest path that is entered, in bytes: Linux's own limit.
pub const MAX_PATH_LEN: usize = 4096;

/// The longest part of a path, in bytes: the limit of every file system on media.
pub const MAX_PART_LEN: usize = 255;

/// Whether nothing at all is a path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Empty {
    /// It is the directory itself.
    Allowed,
    /// A file must be named.
    Refused,
}

/// Joins a path onto a directory and drops the parts that are `.`. `None` if it is absolute, has a part that is
/// empty, `..` or too long, or a NUL.
pub(super) fn below(directory: &[u8], path: &[u8], empty: Empty) -> Option<Vec<u8>> {
    let mut joined = directory.to_vec();
    let mut named = false;
    if !path.is_empty() {
        for part in path.split(|&byte| byte == b'/') {
            if part.is_empty()
                || part == b".."
                || part.len() > MAX_PART_LEN
                || part.contains(&0)
                || joined.len() + part.len() >= MAX_PATH_LEN
            {
                return None;
            }
            if part == b"." {
                continue;
            }
            if !joined.is_empty() {
                joined.push(b'/');
            }
            joined.extend_from_slice(part);
            named = true;
        }
    }
    (named || empty == Empty::Allowed).then_some(joined)
}

/// The same for one name, in which a slash is refused too.
pub(super) fn name_below(directory: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    if name.contains(&b'/') {
        return None;
    }
    below(directory, name, Empty::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_pass() {
        for (directory, path, joined) in [
            ("", "a", "a"),
            ("", "./a/b", "a/b"),
            ("pool", "././x", "pool/x"),
            ("pool", "...", "pool/..."),
        ] {
            let got = below(directory.as_bytes(), path.as_bytes(), Empty::Refused);
            assert_eq!(got.as_deref(), Some(joined.as_bytes()), "{path}");
        }
        let long = "x".repeat(256);
        for path in [
            "", ".", "./", "/a", "a//b", "a/", "..", "a/../b", "a\0", "//", &long,
        ] {
            assert_eq!(below(b"d", path.as_bytes(), Empty::Refused), None, "{path}");
        }
        let deep = "abc/".repeat(1100) + "f";
        assert_eq!(
            below(b"", deep.as_bytes(), Empty::Refused),
            None,
            "too long"
        );
        assert_eq!(
            below(b"d", b".", Empty::Allowed).as_deref(),
            Some(&b"d"[..])
        );
        assert_eq!(name_below(b"d", b"a/b"), None);
    }
}
