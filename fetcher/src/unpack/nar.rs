//! NAR: the reader hands over what is in it, the writer writes it.

use std::fs::File;
use std::io::{self, Read};

use store_index::nar::read::{self, NarError};
use store_index::tree::Visitor;

use super::writer::{ROOT_NAME, Writer};
use super::{Stop, UnpackError, Unpacked};

pub(super) fn unpack(
    reader: &mut dyn Read,
    stop: &Stop,
    writer: &mut Writer<'_>,
) -> Result<Unpacked, UnpackError> {
    let mut unpacker = Unpacker {
        writer,
        names: Vec::new(),
        depth: 0,
        file: None,
        root: Unpacked::NarTree,
        error: None,
    };
    match (read::read(reader, &mut unpacker), unpacker.error) {
        (Ok(()), _) => Ok(unpacker.root),
        (Err(NarError::Visit(_)), Some(error)) => Err(error),
        (Err(error), _) => Err(stop.explain(&error)),
    }
}

struct Unpacker<'w, 'a> {
    writer: &'w mut Writer<'a>,
    /// The path of the entry being visited.
    names: Vec<Vec<u8>>,
    depth: usize,
    file: Option<(Vec<u8>, File)>,
    root: Unpacked,
    /// What the writer said, which an I/O error has no room for.
    error: Option<UnpackError>,
}

impl Unpacker<'_, '_> {
    fn path(&self) -> Vec<u8> {
        if self.names.is_empty() {
            return ROOT_NAME.into();
        }
        self.names.join(&b'/')
    }

    fn keep<T>(&mut self, written: Result<T, UnpackError>) -> io::Result<T> {
        written.map_err(|error| {
            let kept = io::Error::other(error.to_string());
            self.error = Some(error);
            kept
        })
    }
}

impl Visitor for Unpacker<'_, '_> {
    fn directory_start(&mut self) -> io::Result<()> {
        self.depth += 1;
        if self.depth == 1 {
            return Ok(());
        }
        let made = self.writer.directory(&self.path());
        self.keep(made)
    }

    fn entry_start(&mut self, name: &[u8]) -> io::Result<()> {
        self.names.push(name.to_owned());
        Ok(())
    }

    fn entry_end(&mut self) -> io::Result<()> {
        self.names.pop();
        Ok(())
    }

    fn directory_end(&mut self) -> io::Result<()> {
        self.depth -= 1;
        Ok(())
    }

    fn symlink(&mut self, target: &[u8]) -> io::Result<()> {
        if self.depth == 0 {
            self.root = Unpacked::Symlink(target.to_owned());
            return Ok(());
        }
        let made = self.writer.symlink(&self.path(), target);
        self.keep(made)
    }

    fn file_start(&mut self, executable: bool, _size: u64) -> io::Result<()> {
        if self.depth == 0 {
            self.root = Unpacked::File;
        }
        let path = self.path();
        let created = self.writer.create(&path, executable);
        self.file = Some((path, self.keep(created)?));
        Ok(())
    }

    fn file_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some((path, file)) = &self.file else {
            return Ok(());
        };
        let written = self.writer.write(path, file, bytes);
        self.keep(written)
    }

    fn file_end(&mut self) -> io::Result<()> {
        self.file = None;
        Ok(())
    }
}
