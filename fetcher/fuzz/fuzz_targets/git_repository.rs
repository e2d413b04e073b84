//! A repository of hostile files: loose objects, a pack and its index, packed references, alternates. Errors are fine,
//! panics are bugs, and no name that is handed out leads elsewhere.

#![no_main]

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use fetcher::git::fuzzing::{ask_repository, deflate};
use libfuzzer_sys::{arbitrary, fuzz_target};

/// Ids that every index and every object may speak of.
const ID: [u8; 20] = [0x11; 20];

#[derive(arbitrary::Arbitrary, Debug)]
struct Input<'a> {
    /// The tree that is asked for: modes, names and the last bytes of ids.
    root: Vec<(Mode, &'a [u8], u8)>,
    references: &'a [u8],
    alternates: Option<&'a [u8]>,
    /// Objects by the last byte of their ids, with a sensible header or packed as they are.
    objects: Vec<(u8, Kind, &'a [u8])>,
    /// Entries of the pack, all found by the index.
    entries: Vec<(u8, &'a [u8], &'a [u8])>,
    index: Option<&'a [u8]>,
}

#[derive(arbitrary::Arbitrary, Clone, Copy, Debug)]
enum Kind {
    Commit,
    Tree,
    Blob,
    Tag,
    /// The bytes are the stream, header included.
    Plain,
    /// The bytes are the file.
    Raw,
}

#[derive(arbitrary::Arbitrary, Clone, Copy, Debug)]
enum Mode {
    File,
    Executable,
    Directory,
    Link,
    Submodule,
}

impl Mode {
    fn digits(self) -> &'static [u8] {
        match self {
            Self::File => b"100644 ",
            Self::Executable => b"100755 ",
            Self::Directory => b"40000 ",
            Self::Link => b"120000 ",
            Self::Submodule => b"160000 ",
        }
    }
}

thread_local! {
    static FOLDER: OnceCell<PathBuf> = const { OnceCell::new() };
}

fn id(last: u8) -> [u8; 20] {
    let mut id = ID;
    id[19] = last;
    id
}

fn hex(id: [u8; 20]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fuzz_target!(|input: Input<'_>| {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| {
            let memory = Path::new("/dev/shm");
            let parent = if memory.is_dir() {
                memory.to_owned()
            } else {
                std::env::temp_dir()
            };
            parent.join(format!("fetcher-fuzz-{}", std::process::id()))
        });
        build(folder, &input).expect("the folder can be written");
        ask_repository(folder, "main", id(0)).ok();
        fs::remove_dir_all(folder).expect("the folder is ours");
    });
});

fn build(folder: &Path, input: &Input<'_>) -> std::io::Result<()> {
    let objects = folder.join("objects");
    let hex_id = hex(ID);
    for path in [
        folder.join("refs/heads"),
        objects.join("pack"),
        objects.join("info"),
        objects.join(&hex_id[..2]),
    ] {
        fs::create_dir_all(path)?;
    }
    fs::write(folder.join("HEAD"), "ref: refs/heads/main\n")?;
    let references = [
        input.references,
        b"\n",
        hex(id(1)).as_bytes(),
        b" refs/heads/main\n",
    ]
    .concat();
    fs::write(folder.join("packed-refs"), references)?;
    if let Some(alternates) = input.alternates {
        fs::write(objects.join("info/alternates"), alternates)?;
    }
    let mut root = Vec::new();
    for (mode, name, last) in &input.root {
        root.extend([mode.digits(), name, b"\0", &id(*last)].concat());
    }
    let commit = format!("tree {}\n\nx\n", hex(id(0)));
    let sound = [
        (0, Kind::Tree, root.as_slice()),
        (1, Kind::Commit, commit.as_bytes()),
    ];
    for (last, kind, bytes) in sound.iter().chain(&input.objects) {
        let name = match kind {
            Kind::Commit => "commit",
            Kind::Tree => "tree",
            Kind::Blob => "blob",
            Kind::Tag => "tag",
            Kind::Plain | Kind::Raw => "",
        };
        let file = match kind {
            Kind::Raw => bytes.to_vec(),
            Kind::Plain => deflate(bytes),
            _ => deflate(&[format!("{name} {}\0", bytes.len()).as_bytes(), bytes].concat()),
        };
        let name = hex(id(*last));
        fs::write(objects.join(&name[..2]).join(&name[2..]), file)?;
    }
    if input.entries.is_empty() && input.index.is_none() {
        return Ok(());
    }
    let mut pack = b"PACK\0\0\0\x02\0\0\0\0".to_vec();
    let mut found: Vec<(u8, u32)> = Vec::new();
    for (last, header, data) in &input.entries {
        found.push((*last, pack.len() as u32));
        pack.extend_from_slice(header);
        pack.extend(deflate(data));
    }
    fs::write(objects.join("pack/pack-a.pack"), pack)?;
    found.sort_unstable();
    let mut index = b"\xfftOc\0\0\0\x02".to_vec();
    for first in 0..=255_u32 {
        let count = if first < 0x11 { 0 } else { found.len() as u32 };
        index.extend(count.to_be_bytes());
    }
    for (last, _) in &found {
        index.extend(id(*last));
    }
    index.extend(vec![0; found.len() * 4]);
    for (_, offset) in &found {
        index.extend(offset.to_be_bytes());
    }
    index.extend([0; 40]);
    let index = input.index.map_or(index, <[u8]>::to_vec);
    fs::write(objects.join("pack/pack-a.idx"), index)
}
