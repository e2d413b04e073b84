//! Any attributes and any content: errors are fine, panics are bugs.

#![no_main]

use fetcher::git::fuzzing::convert;
use libfuzzer_sys::fuzz_target;

const ALL: [&[u8]; 5] = [
    b"* text eol=crlf ident\n",
    b"* text=auto eol=crlf working-tree-encoding=UTF-16\n",
    b"* ident working-tree-encoding=UTF-32\n",
    b"* working-tree-encoding=SHIFT-JIS eol=crlf\n",
    b"* crlf=input working-tree-encoding=ISO-8859-1\n",
];

fuzz_target!(|input: (&[u8], &[u8], &[u8], &[u8])| {
    let (top, below, name, content) = input;
    // No tree with an entry of such a name is checked out, and what matches the patterns relies on it.
    if name.is_empty() || name.contains(&b'/') {
        return;
    }
    convert(top, below, name, content);
    for attributes in ALL {
        // No conversion makes more than four bytes of one and a mark, but an id of `$Id$`.
        if let Some(len) = convert(attributes, below, b"a", content)
            && below.is_empty()
        {
            assert!(len <= content.len() * 60 + 4, "{len}");
        }
    }
});
