//! Media as they are mounted: a real ISO image through fuseiso and on a loop device, a real squashfs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod lacks;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lacks::lacks;
use store_index::mounts::{
    Mount, is_default_medium, label_and_uuid, medium_identity, mount_of, mounted,
};

const LABEL: &str = "FETCH TEST DISC";
const INFO: &str = "Sources of the tests, disc 1";

#[track_caller]
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

/// Ends a mount or a loop device when the test does, failed or not.
struct Undo(&'static str, Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let _status = Command::new(self.0).args(&self.1).status();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder with a disc's content and room for mount points with odd names.
fn disc() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs_err::create_dir_all(tree.join(".disk")).unwrap();
    fs_err::create_dir_all(tree.join("pool/main/h/hello")).unwrap();
    fs_err::write(tree.join(".disk/info"), format!("{INFO}\n")).unwrap();
    fs_err::write(tree.join("README.sources"), "read me\n").unwrap();
    fs_err::write(tree.join("pool/file with blanks"), [7; 5000]).unwrap();
    fs_err::write(
        tree.join("pool/main/h/hello/hello_2.10.orig.tar.gz"),
        "hello",
    )
    .unwrap();
    std::os::unix::fs::symlink("README.sources", tree.join("link")).unwrap();
    (dir, tree)
}

fn mount_point(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    fs_err::create_dir(&path).unwrap();
    fs_err::canonicalize(path).unwrap()
}

#[track_caller]
fn mount_at(path: &Path) -> Mount {
    let mounts = mounted().unwrap();
    let mount = mount_of(&mounts, path).unwrap().clone();
    assert_eq!(mount.mount_point, path);
    mount
}

fn iso(dir: &Path, tree: &Path) -> PathBuf {
    let image = dir.join("disc.iso");
    run(
        "xorriso",
        &[
            "-as",
            "mkisofs",
            "-quiet",
            "-R",
            "-J",
            "-V",
            LABEL,
            "-o",
            text(&image),
            text(tree),
        ],
    );
    image
}

#[test]
fn an_iso_image_through_fuseiso() {
    if lacks(
        "an_iso_image_through_fuseiso",
        &["xorriso", "fuseiso", "umount"],
        true,
    ) {
        return;
    }
    let (dir, tree) = disc();
    let image = iso(dir.path(), &tree);
    let at = mount_point(dir.path(), "my disc\\1");
    run("fuseiso", &[text(&image), text(&at)]);
    let _mounted = Undo("umount", vec![text(&at).to_owned()]);
    let mount = mount_at(&at);
    assert_eq!(mount.fs_type, "fuse.fuseiso");
    assert!(is_default_medium(&mount));
    assert_eq!(label_and_uuid(&mount), (Some(INFO.to_owned()), None));
    assert_eq!(
        medium_identity(&at, true).unwrap(),
        medium_identity(&tree, true).unwrap(),
        "the same content under another file system"
    );
}

#[test]
fn a_squashfs_on_a_loop_device() {
    if lacks(
        "a_squashfs_on_a_loop_device",
        &["mksquashfs", "mount", "umount"],
        true,
    ) {
        return;
    }
    let (dir, tree) = disc();
    let image = dir.path().join("disc.squashfs");
    run(
        "mksquashfs",
        &[text(&tree), text(&image), "-quiet", "-no-progress"],
    );
    let at = mount_point(dir.path(), "squash");
    run("mount", &["-o", "loop,ro", text(&image), text(&at)]);
    let _mounted = Undo("umount", vec![text(&at).to_owned()]);
    let mount = mount_at(&at);
    assert_eq!(
        (mount.fs_type.as_str(), mount.read_only),
        ("squashfs", true)
    );
    assert!(is_default_medium(&mount));
    assert_eq!(label_and_uuid(&mount), (Some(INFO.to_owned()), None));
    let id = medium_identity(&at, true).unwrap();
    assert_eq!(id, medium_identity(&tree, true).unwrap());

    // What is mounted over it hides it.
    run("mount", &["-t", "tmpfs", "none", text(&at)]);
    let _hiding = Undo("umount", vec![text(&at).to_owned()]);
    assert_eq!(mount_at(&at).fs_type, "tmpfs");
    assert!(!is_default_medium(&mount_at(&at)));
}

/// The kernel may lack iso9660, so the mount is described as it would stand in the table.
#[test]
fn the_label_of_an_iso_image_on_a_loop_device() {
    let test = "the_label_of_an_iso_image_on_a_loop_device";
    if lacks(test, &["xorriso", "losetup", "blkid"], true) {
        return;
    }
    let (dir, tree) = disc();
    let image = iso(dir.path(), &tree);
    let device = run(
        "losetup",
        &["--find", "--show", "--read-only", text(&image)],
    );
    let _attached = Undo("losetup", vec!["--detach".to_owned(), device.clone()]);
    let numbers = run("losetup", &["--noheadings", "--output", "MAJ:MIN", &device]);
    let (major, minor) = numbers.trim().split_once(':').unwrap();
    let mount = |source: &str, mount_point: &Path| Mount {
        mount_point: mount_point.to_owned(),
        fs_type: "iso9660".into(),
        source: source.into(),
        read_only: true,
        device: (major.parse().unwrap(), minor.parse().unwrap()),
    };
    let known = run(
        "blkid",
        &[
            "--probe",
            "--output",
            "value",
            "--match-tag",
            "UUID",
            &device,
        ],
    );
    let expected = (Some(LABEL.to_owned()), Some(known));
    assert_eq!(
        label_and_uuid(&mount(&device, &tree)),
        expected,
        "from the device"
    );
    assert_eq!(
        label_and_uuid(&mount("/dev/absent", &tree)),
        expected,
        "from the image behind the device"
    );
    let other = Mount {
        device: (0, 77),
        ..mount("/dev/absent", &tree)
    };
    assert_eq!(label_and_uuid(&other), (Some(INFO.to_owned()), None));
}

/// ext4, because squashfs says of a directory that it cannot read that it is empty.
#[test]
fn a_disc_that_is_pulled_out_is_an_error() {
    let test = "a_disc_that_is_pulled_out_is_an_error";
    if lacks(test, &["mke2fs", "mount", "umount"], true) {
        return;
    }
    let (dir, tree) = disc();
    for number in 0..3000 {
        let name = format!("pool/{number}-{}", "x".repeat(100));
        fs_err::write(tree.join(name), number.to_string()).unwrap();
    }
    let image = dir.path().join("disc.ext4");
    run(
        "mke2fs",
        &["-q", "-t", "ext4", "-d", text(&tree), text(&image), "64M"],
    );
    let at = mount_point(dir.path(), "disk");
    run(
        "mount",
        &["-o", "loop,ro,errors=continue", text(&image), text(&at)],
    );
    let _mounted = Undo("umount", vec![text(&at).to_owned()]);
    fs_err::OpenOptions::new()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(4096)
        .unwrap();
    fs_err::write("/proc/sys/vm/drop_caches", "3").unwrap();
    assert!(medium_identity(&at, true).is_err());
    assert_eq!(label_and_uuid(&mount_at(&at)), (None, None));
}
