//! The ways in for the fuzz targets, which see public items only; not there in any other build.

use std::io::{self, Write as _};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use gix::ObjectId;
use store_index::beneath::Beneath;
use store_index::tree::Visitor;
use store_index::watch::{NoProgress, Watch};

use super::attributes::Attributes;
use super::{Checkout, Folder, Form, Repository, Revision, Roots, inflate};

/// More bytes of one checkout are not looked at: trees that contain each other describe any amount.
const MAX_VISITED: usize = 1 << 20;

/// Applies a delta.
pub fn apply_delta(base: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
    inflate::apply_delta(base, delta).ok()
}

/// Converts content as two levels of `.gitattributes` say. Returns how long it then is.
pub fn convert(top: &[u8], below: &[u8], name: &[u8], content: &[u8]) -> Option<usize> {
    let mut attributes = Attributes::new();
    attributes.enter(Path::new(""), top);
    attributes.enter(Path::new("below"), below);
    let path = [b"below/", name].concat();
    let id = ObjectId::from([7; 20]);
    let converted = attributes.of(path.as_slice().into()).apply(&id, content);
    attributes.leave();
    converted.ok().map(|converted| converted.len())
}

/// Packs bytes as the objects of a repository are.
pub fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut out =
        gix::zlib::stream::deflate::Write::new(Vec::new(), gix::zlib::Compression::BEST_SPEED);
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .expect("memory takes everything");
    out.into_inner()
}

/// Asks the repository in a folder for a name and an id, and checks out whatever it says to have, both ways.
pub fn ask_repository(folder: &Path, name: &str, id: [u8; 20]) -> io::Result<()> {
    let root = Rc::new(Beneath::open(folder)?);
    let interrupt = AtomicBool::new(false);
    let watch = Watch {
        interrupt: &interrupt,
        progress: &NoProgress,
    };
    let roots = Roots::new([&root]);
    let repository = Rc::new(Repository::open(&Folder::new(&root, ""), &roots)?);
    let id = ObjectId::from(id);
    let mut trees = Vec::new();
    if repository.has_tree(&id).unwrap_or(false) {
        trees.push(id);
    }
    for revision in [Revision::parse(name).ok(), Some(Revision::Id(id))] {
        let Some(revision) = revision else { continue };
        trees.extend(repository.trees_of(&revision).unwrap_or_default());
    }
    for tree in trees {
        for form in [Form::Raw, Form::Converted] {
            let checkout = Checkout::new(&repository, tree, form);
            checkout.walk(&mut Eater(0), watch).ok();
        }
    }
    Ok(())
}

/// Takes everything up to a limit, and sees that no name leads elsewhere.
struct Eater(usize);

impl Eater {
    fn eat(&mut self, amount: usize) -> io::Result<()> {
        self.0 += amount + 1;
        if self.0 > MAX_VISITED {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }
}

impl Visitor for Eater {
    fn directory_start(&mut self) -> io::Result<()> {
        self.eat(0)
    }
    fn entry_start(&mut self, name: &[u8]) -> io::Result<()> {
        assert!(!matches!(name, b"" | b"." | b".." | b".git"));
        assert!(!name.contains(&b'/') && !name.contains(&0));
        self.eat(name.len())
    }
    fn entry_end(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn directory_end(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn symlink(&mut self, target: &[u8]) -> io::Result<()> {
        assert!(!target.is_empty() && !target.contains(&0));
        self.eat(target.len())
    }
    fn file_start(&mut self, _executable: bool, _size: u64) -> io::Result<()> {
        self.eat(0)
    }
    fn file_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.eat(bytes.len())
    }
    fn file_end(&mut self) -> io::Result<()> {
        Ok(())
    }
}
