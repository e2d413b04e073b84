//! The NAR serialisation, written and read ([`read`]) as a stream.
//!
//! The format is Nix's: every string is a little-endian 64-bit length, the bytes, and zeroes up to a multiple of
//! eight. Nothing but names, contents, symbolic link targets and the owner's executable bit is in it.

pub mod read;

use std::io::{self, Write};

use crate::address::NarHash;
use crate::digest::{Algorithm, Hasher};
use crate::tree::Visitor;

/// Strings are padded to a multiple of this, in bytes.
const ALIGNMENT: u64 = 8;

fn padding(len: u64) -> &'static [u8] {
    &[0; ALIGNMENT as usize][..(len.wrapping_neg() % ALIGNMENT) as usize]
}

fn push(out: &mut Vec<u8>, string: &[u8]) {
    let len = string.len() as u64;
    out.extend(len.to_le_bytes());
    out.extend(string);
    out.extend(padding(len));
}

fn push_all(out: &mut Vec<u8>, strings: &[&[u8]]) {
    for string in strings {
        push(out, string);
    }
}

fn push_file_start(out: &mut Vec<u8>, executable: bool, size: u64) {
    push_all(out, &[b"(", b"type", b"regular"]);
    if executable {
        push_all(out, &[b"executable", b""]);
    }
    push(out, b"contents");
    out.extend(size.to_le_bytes());
}

/// Returns what stands before the contents in the NAR of one file of `size` bytes.
pub fn file_prefix(executable: bool, size: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    push(&mut out, b"nix-archive-1");
    push_file_start(&mut out, executable, size);
    out
}

/// Returns what stands behind the contents in the NAR of one file of `size` bytes.
pub fn file_suffix(size: u64) -> Vec<u8> {
    let mut out = padding(size).to_vec();
    push(&mut out, b")");
    out
}

/// Serialises the tree it visits into a writer.
#[derive(Debug)]
pub struct Encoder<W> {
    out: W,
    buffer: Vec<u8>,
    /// The size announced for the file being written, in bytes.
    file_size: u64,
}

impl<W: Write> Encoder<W> {
    /// Starts a serialisation.
    pub fn new(out: W) -> io::Result<Self> {
        let mut encoder = Self {
            out,
            buffer: Vec::new(),
            file_size: 0,
        };
        encoder.strings(&[b"nix-archive-1"])?;
        Ok(encoder)
    }

    /// Ends it and gives the writer back.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn strings(&mut self, strings: &[&[u8]]) -> io::Result<()> {
        self.buffer.clear();
        push_all(&mut self.buffer, strings);
        self.out.write_all(&self.buffer)
    }
}

impl<W: Write> Visitor for Encoder<W> {
    fn directory_start(&mut self) -> io::Result<()> {
        self.strings(&[b"(", b"type", b"directory"])
    }

    fn entry_start(&mut self, name: &[u8]) -> io::Result<()> {
        self.strings(&[b"entry", b"(", b"name", name, b"node"])
    }

    fn entry_end(&mut self) -> io::Result<()> {
        self.strings(&[b")"])
    }

    fn directory_end(&mut self) -> io::Result<()> {
        self.strings(&[b")"])
    }

    fn symlink(&mut self, target: &[u8]) -> io::Result<()> {
        self.strings(&[b"(", b"type", b"symlink", b"target", target, b")"])
    }

    fn file_start(&mut self, executable: bool, size: u64) -> io::Result<()> {
        self.file_size = size;
        self.buffer.clear();
        push_file_start(&mut self.buffer, executable, size);
        self.out.write_all(&self.buffer)
    }

    fn file_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    fn file_end(&mut self) -> io::Result<()> {
        self.out.write_all(padding(self.file_size))?;
        self.strings(&[b")"])
    }
}

/// Hashes what is written to it.
#[derive(Debug)]
pub struct HashWriter(Hasher);

impl Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes the NAR serialisation of the tree it visits.
pub type NarHasher = Encoder<HashWriter>;

impl NarHasher {
    /// Starts a hash.
    pub fn hashing(algorithm: Algorithm) -> Self {
        Self::new(HashWriter(Hasher::new(algorithm))).expect("hashing cannot fail")
    }

    /// Ends the hash.
    pub fn finish(self) -> NarHash {
        NarHash(
            self.into_inner()
                .0
                .finish()
                .expect("only collision-detecting hashers can refuse"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{FileHasher, Framing};
    use crate::nix32;

    fn link_name(executable: bool, bytes: &[u8]) -> String {
        let mut hasher = FileHasher::new(
            Framing::nar(executable),
            Algorithm::Sha256,
            bytes.len() as u64,
        );
        hasher.update(bytes);
        nix32::encode(hasher.finish().unwrap().as_bytes())
    }

    /// Names that `nix-store --optimise` gave these files in `.links`.
    #[test]
    fn file_digests_are_link_names() {
        assert_eq!(
            link_name(false, b"hello\n"),
            "04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw"
        );
        assert_eq!(
            link_name(true, b"hello\n"),
            "1yhh619m3cy1mird7f0l7zsmiv9rayqn075zinda2g7rscwn0hv5"
        );
        assert_eq!(
            link_name(false, b""),
            "0ip26j2h11n1kgkz36rl4akv694yz65hr72q4kv4b3lxcbi65b3p"
        );
    }

    #[test]
    fn encoder_and_framing_agree() {
        for (executable, bytes) in [
            (false, &b"hello\n"[..]),
            (true, b""),
            (true, b"12345678"),
            (false, b"123456789"),
        ] {
            let mut encoder = NarHasher::hashing(Algorithm::Sha256);
            encoder.file_start(executable, bytes.len() as u64).unwrap();
            for byte in bytes {
                encoder.file_bytes(&[*byte]).unwrap();
            }
            encoder.file_end().unwrap();
            assert_eq!(
                nix32::encode(encoder.finish().0.as_bytes()),
                link_name(executable, bytes)
            );
        }
    }

    #[test]
    fn symlink_digest_is_link_name() {
        let mut encoder = NarHasher::hashing(Algorithm::Sha256);
        encoder.symlink(b"hello").unwrap();
        assert_eq!(
            nix32::encode(encoder.finish().0.as_bytes()),
            "09c1ai5wvx5pm61qnwh152s2y1fi1bcavnv5fsrbppchynnm7ca6"
        );
    }
}
