//! Walks over small trees that have what makes walks difficult.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use super::read_ahead::CHUNK_LEN;
use super::*;
use crate::beneath::Beneath;
use crate::watch::{NoProgress, Progress, Unit};

/// Writes down what it is shown.
#[derive(Default)]
struct Diary {
    lines: Vec<String>,
    /// Fails at the entry of this name.
    fails_at: Option<&'static str>,
}

impl Visitor for Diary {
    fn directory_start(&mut self) -> io::Result<()> {
        self.lines.push("(".into());
        Ok(())
    }
    fn entry_start(&mut self, name: &[u8]) -> io::Result<()> {
        let name = String::from_utf8_lossy(name).into_owned();
        if self.fails_at == Some(name.as_str()) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.lines.push(name);
        Ok(())
    }
    fn entry_end(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn directory_end(&mut self) -> io::Result<()> {
        self.lines.push(")".into());
        Ok(())
    }
    fn symlink(&mut self, target: &[u8]) -> io::Result<()> {
        self.lines
            .push(format!("-> {}", String::from_utf8_lossy(target)));
        Ok(())
    }
    fn file_start(&mut self, executable: bool, size: u64) -> io::Result<()> {
        self.lines.push(format!("{executable} {size}"));
        Ok(())
    }
    fn file_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let seen: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
        match self.lines.last_mut().filter(|line| line.starts_with('#')) {
            Some(line) => {
                let before: u64 = line[1..].parse().unwrap();
                *line = format!("#{}", before + seen);
            }
            None => self.lines.push(format!("#{seen}")),
        }
        Ok(())
    }
    fn file_end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn walk_in(root: &Path, skip: Skip, diary: &mut Diary) -> Result<u64, TreeError> {
    walk_within(Reach::Own, root, skip, diary)
}

fn walk_within(reach: Reach, root: &Path, skip: Skip, diary: &mut Diary) -> Result<u64, TreeError> {
    let interrupt = AtomicBool::new(false);
    let watch = Watch {
        interrupt: &interrupt,
        progress: &NoProgress,
    };
    let node = Node::Directory(Beneath::open(root).unwrap().open_root().unwrap());
    walk_without(skip, reach, node, diary, watch)
}

#[test]
fn everything_comes_in_order_whatever_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = [0, 1, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 5 * CHUNK_LEN];
    let mut expected = vec!["(".to_owned()];
    for (number, size) in sizes.into_iter().enumerate() {
        fs_err::write(dir.path().join(number.to_string()), vec![1; size]).unwrap();
        expected.extend([number.to_string(), format!("false {size}")]);
        expected.extend((size > 0).then(|| format!("#{size}")));
    }
    fs_err::create_dir(dir.path().join("empty")).unwrap();
    symlink("/", dir.path().join("link")).unwrap();
    let rest = ["empty", "(", ")", "link", "-> /", ")"];
    expected.extend(rest.map(str::to_owned));
    let mut diary = Diary::default();
    assert_eq!(walk_in(dir.path(), Skip::Nothing, &mut diary).unwrap(), 0);
    assert_eq!(diary.lines, expected);
}

#[test]
fn more_files_than_are_read_ahead_in_more_directories_than_one() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..700 {
        let folder = dir.path().join(format!("{:02}", number / 20));
        fs_err::create_dir_all(&folder).unwrap();
        fs_err::write(folder.join(format!("n{number:03}")), vec![1; number]).unwrap();
    }
    let mut diary = Diary::default();
    walk_in(dir.path(), Skip::Nothing, &mut diary).unwrap();
    let names: Vec<_> = diary
        .lines
        .iter()
        .filter(|line| line.starts_with('n'))
        .collect();
    assert_eq!(names.len(), 700);
    assert!(names.is_sorted());
}

#[test]
fn metadata_is_counted_and_left_out_on_request() {
    let dir = tempfile::tempdir().unwrap();
    for path in [".git/HEAD", "sub/x", ".gitignore", ".store-index/manifest"] {
        let path = dir.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, "").unwrap();
    }
    fs_err::write(dir.path().join("sub/.git"), "gitdir: elsewhere").unwrap();
    let mut diary = Diary::default();
    assert_eq!(walk_in(dir.path(), Skip::Metadata, &mut diary).unwrap(), 3);
    let expected = [
        "(",
        ".gitignore",
        "false 0",
        "sub",
        "(",
        "x",
        "false 0",
        ")",
        ")",
    ];
    assert_eq!(diary.lines, expected);
    let mut whole = Diary::default();
    assert_eq!(walk_in(dir.path(), Skip::Nothing, &mut whole).unwrap(), 3);
    assert!(whole.lines.len() > diary.lines.len());
}

#[test]
fn what_is_in_the_way_is_named_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let sub = dir.path().join("sub");
    fs_err::create_dir(&sub).unwrap();
    fs_err::write(sub.join("a"), "x").unwrap();
    let pipe = sub.join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    let error = walk_in(dir.path(), Skip::Nothing, &mut Diary::default()).unwrap_err();
    assert!(matches!(error, TreeError::Special(path) if path == Path::new("sub/pipe")));
    fs_err::remove_file(pipe).unwrap();
    let mut failing = Diary {
        fails_at: Some("a"),
        ..Diary::default()
    };
    let error = walk_in(dir.path(), Skip::Nothing, &mut failing).unwrap_err();
    assert!(matches!(error, TreeError::Visit { path, .. } if path == Path::new("sub/a")));
    // As deep as may be, and one level more.
    let mut deepest = dir.path().to_owned();
    for _ in 1..MAX_DEPTH {
        deepest.push("d");
    }
    fs_err::create_dir_all(&deepest).unwrap();
    walk_in(dir.path(), Skip::Nothing, &mut Diary::default()).unwrap();
    fs_err::create_dir(deepest.join("d")).unwrap();
    let error = walk_in(dir.path(), Skip::Nothing, &mut Diary::default()).unwrap_err();
    assert!(matches!(error, TreeError::TooDeep(_)), "{error}");
}

/// Stops the walk that it is told of.
struct Stopper<'a>(&'a AtomicBool);

impl Progress for Stopper<'_> {
    fn begin(&self, _what: &str, _total: Option<u64>, _unit: Unit) {}
    fn set_total(&self, _total: u64) {}
    fn advance(&self, _amount: u64) {
        self.0.store(true, Ordering::Relaxed);
    }
    fn end(&self) {}
    fn note(&self, _line: &str) {}
}

#[test]
fn an_interrupted_walk_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..300 {
        let file = dir.path().join(number.to_string());
        fs_err::write(file, vec![1; 3 * CHUNK_LEN]).unwrap();
    }
    let interrupt = AtomicBool::new(false);
    let stopper = Stopper(&interrupt);
    let watch = Watch {
        interrupt: &interrupt,
        progress: &stopper,
    };
    let node = Node::Directory(Beneath::open(dir.path()).unwrap().open_root().unwrap());
    let mut diary = Diary::default();
    let error = walk(node, &mut diary, watch).unwrap_err();
    assert!(matches!(error, TreeError::Interrupted));
    assert!(diary.lines.len() < 6, "{:?}", diary.lines);
}

#[test]
fn one_private_file_or_directory_puts_a_tree_out_of_reach() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (file, folder) = (dir.path().join("folder/file"), dir.path().join("folder"));
    fs_err::create_dir(&folder).unwrap();
    fs_err::write(&file, "x").unwrap();
    let walk = || {
        walk_within(
            Reach::Public,
            dir.path(),
            Skip::Nothing,
            &mut Diary::default(),
        )
    };
    let mode = |path: &Path, mode| {
        fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(dir.path(), 0o755);
    assert!(walk().is_ok());
    mode(&file, 0o640);
    assert!(matches!(walk(), Err(TreeError::Read { .. })));
    mode(&file, 0o644);
    mode(&folder, 0o711);
    assert!(matches!(walk(), Err(TreeError::Read { .. })));
}
