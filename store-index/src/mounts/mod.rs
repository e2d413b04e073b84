//! Mounted file systems: which of them are media, what they are called, and how a disc is known again.

mod identity;
mod label;
mod table;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

use crate::path_text::printable;

pub use self::identity::{MAX_IDENTITY_ENTRIES, medium_identity};
pub use self::label::{MAX_LABEL_CHARS, label_and_uuid};
pub use self::table::parse;

/// The longest mount table that is read, in bytes: a hundred thousand mounts.
const MAX_TABLE_LEN: u64 = 16 << 20;

/// File systems that are media wherever they come from.
const MEDIA_FILE_SYSTEMS: [&str; 5] = ["iso9660", "udf", "fuse.fuseiso", "squashfs", "erofs"];

/// Stores, and where the parts of one are mounted: what lies there is found as a store's.
const STORE_DIRS: [&str; 2] = ["/nix", "/gnu"];

/// File systems whose server may be gone, so that whoever touches them waits for it, and the triggers of automatic
/// mounts. Those in user space, `fuse.*`, are meant too.
const MAY_HANG: [&str; 14] = [
    "9p", "afs", "autofs", "beegfs", "ceph", "cifs", "coda", "fuse", "gpfs", "lustre", "nfs",
    "nfs4", "smb3", "smbfs",
];

/// Snaps: a squashfs a program, and no sources in it.
const SNAP_DIRS: [&str; 2] = ["/snap", "/var/lib/snapd"];

/// The running system, which may well lie on a removable device or a squashfs, but is no medium.
const SYSTEM_DIRS: [&str; 9] = [
    "/",
    "/boot",
    "/boot/efi",
    "/efi",
    "/etc",
    "/home",
    "/sysroot",
    "/usr",
    "/var",
];

/// Where desktops and people mount what they plug in. USB disks say of themselves that they are not removable, so
/// there it is enough to hang on USB.
const PLUGGED_IN_DIRS: [&str; 3] = ["/media", "/run/media", "/mnt"];

/// A pattern of mount points that are media because somebody says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPattern(glob::Pattern);

/// Why a text is no pattern of mount points.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MountPatternError {
    /// It could match anything, depending on where one stands.
    #[error("a pattern that begins with '/' is wanted")]
    NotAbsolute,
    /// It is no pattern.
    #[error("it is no pattern: {0}")]
    Syntax(&'static str),
}

impl MountPattern {
    /// Reads a pattern: `*` and `?` match within one part of a path, `**` over several.
    pub fn new(text: &str) -> Result<Self, MountPatternError> {
        if !text.starts_with('/') {
            return Err(MountPatternError::NotAbsolute);
        }
        glob::Pattern::new(text)
            .map(Self)
            .map_err(|error| MountPatternError::Syntax(error.msg))
    }

    /// Says whether a mount is meant. A network file system may be, since it was named; a store never is, and
    /// neither is the trigger of an automatic mount, which would be everything below it.
    pub fn matches(&self, mount: &Mount) -> bool {
        const WITHIN_PARTS: glob::MatchOptions = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: false,
        };
        mount.fs_type != "autofs"
            && !STORE_DIRS
                .iter()
                .any(|dir| mount.mount_point.starts_with(dir))
            && self.0.matches_path_with(&mount.mount_point, WITHIN_PARTS)
    }
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub mount_point: PathBuf,
    /// Its type as the kernel says it, such as `iso9660` or `fuse.fuseiso`.
    pub fs_type: String,
    /// What was mounted, as the one who did it says.
    pub source: PathBuf,
    /// True if nothing can be written to it here.
    pub read_only: bool,
    /// The device, major and minor number; major 0 where there is none.
    pub device: (u32, u32),
}

/// Returns what is mounted now, in the kernel's order, without what lies hidden under another mount of the same
/// directory.
pub fn mounted() -> io::Result<Vec<Mount>> {
    use std::io::Read as _;
    let mut text = Vec::new();
    fs_err::File::open("/proc/self/mountinfo")?
        .take(MAX_TABLE_LEN)
        .read_to_end(&mut text)?;
    let mut seen = std::collections::HashSet::new();
    let mut mounts = parse(&text);
    mounts.reverse();
    mounts.retain(|mount| seen.insert(mount.mount_point.clone()));
    mounts.reverse();
    Ok(mounts)
}

/// Returns the mount that a path lies in.
pub fn mount_of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.components().count())
}

/// Says whether a mount may hang when it is touched: network file systems, and FUSE except for images of discs.
pub fn may_hang(mount: &Mount) -> bool {
    let fs_type = mount.fs_type.as_str();
    let in_user_space = fs_type.starts_with("fuse.") && !MEDIA_FILE_SYSTEMS.contains(&fs_type);
    MAY_HANG.contains(&fs_type) || in_user_space
}

/// Says whether a path lies on a mount that may hang and that nobody has touched yet: what lies beside one of the paths
/// `touched`, or beside `/`, hangs no more than they did. The path itself is not touched, so that it should have no
/// symbolic links in it.
pub fn may_hang_at(mounts: &[Mount], path: &Path, touched: &[&Path]) -> bool {
    mount_of(mounts, path).is_some_and(|mount| {
        let mut touched = touched.iter().copied().chain([Path::new("/")]);
        may_hang(mount) && touched.all(|touched| mount_of(mounts, touched) != Some(mount))
    })
}

/// Returns where something that may hang is mounted below a directory, relative to it. Nothing below the directory is
/// touched. Without a mount table there is nothing to be known.
pub fn hanging_below(root: &Path) -> Vec<PathBuf> {
    let mut mounts = mounted().unwrap_or_default();
    mounts.retain(may_hang);
    if mounts.is_empty() {
        return Vec::new();
    }
    // The table knows no symbolic links.
    let Ok(root) = fs_err::canonicalize(root) else {
        return Vec::new();
    };
    hanging_among(&mounts, &root)
}

/// Returns a warning that what may hang is left out below a root, if anything is.
pub fn warning_of_hanging(root: &Path, hanging: &[PathBuf]) -> Option<String> {
    let (first, others) = hanging.split_first()?;
    let others = match others.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "{}{others} below {} is left out: a network or FUSE mount that was not named itself is not touched, since it hangs when its server is gone; name it if it shall be looked at",
        printable(&root.join(first)),
        printable(root),
    ))
}

fn hanging_among(mounts: &[Mount], root: &Path) -> Vec<PathBuf> {
    let below = mounts
        .iter()
        .filter(|mount| may_hang(mount))
        .filter_map(|mount| {
            let relative = mount.mount_point.strip_prefix(root).ok()?;
            (!relative.as_os_str().is_empty()).then(|| relative.to_owned())
        });
    below.collect()
}

/// Says whether a mount is looked at without being named: discs and images of discs, and removable block devices;
/// never a store, the running system, a network or FUSE file system, except fuseiso.
pub fn is_default_medium(mount: &Mount) -> bool {
    is_default_medium_if(mount, drive_of)
}

/// What the kernel knows of the drive that a device is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Drive {
    /// Its medium can be taken out, as with a stick or a card reader.
    removable: bool,
    /// It hangs on USB.
    usb: bool,
}

fn is_default_medium_if(mount: &Mount, drive_of: impl Fn(&Mount) -> Option<Drive>) -> bool {
    let below = |dirs: &[&str]| dirs.iter().any(|dir| mount.mount_point.starts_with(dir));
    if below(&STORE_DIRS)
        || below(&SNAP_DIRS)
        || SYSTEM_DIRS
            .iter()
            .any(|dir| mount.mount_point == Path::new(dir))
    {
        return false;
    }
    if MEDIA_FILE_SYSTEMS.contains(&mount.fs_type.as_str()) {
        return true;
    }
    // `fuseblk` is a block device that only root can mount, such as a stick with NTFS. Network file systems and
    // autofs have no device.
    if mount.fs_type == "fuse" || mount.fs_type.starts_with("fuse.") || mount.fs_type == "autofs" {
        return false;
    }
    drive_of(mount).is_some_and(|drive| drive.removable || drive.usb && below(&PLUGGED_IN_DIRS))
}

/// Returns what the kernel says of the drive under a mount.
fn drive_of(mount: &Mount) -> Option<Drive> {
    let (major, minor) = block_device(mount)?;
    // A link to .../usb1/.../block/sdb/sdb1.
    let device = fs_err::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let disk = if device.join("partition").exists() {
        device.parent()?
    } else {
        &device
    };
    let removable = fs_err::read_to_string(disk.join("removable")).ok()?;
    Some(Drive {
        removable: removable.trim_end() == "1",
        usb: disk.components().any(|part| {
            part.as_os_str()
                .to_str()
                .and_then(|part| part.strip_prefix("usb"))
                .is_some_and(|bus| !bus.is_empty() && bus.bytes().all(|byte| byte.is_ascii_digit()))
        }),
    })
}

/// Returns the block device of a mount. Btrfs shows a number of its own, so the source is asked.
fn block_device(mount: &Mount) -> Option<(u32, u32)> {
    if mount.device.0 != 0 {
        return Some(mount.device);
    }
    if !mount.source.starts_with("/dev") {
        return None;
    }
    let metadata = fs_err::metadata(&mount.source).ok()?;
    let number = metadata.rdev();
    (number != 0).then(|| (major(number), minor(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(mount_point: &str, fs_type: &str) -> Mount {
        Mount {
            mount_point: mount_point.into(),
            fs_type: fs_type.into(),
            source: "/dev/sdb1".into(),
            read_only: true,
            device: (8, 17),
        }
    }

    #[test]
    fn media_are_told_from_everything_else() {
        let stick = Drive {
            removable: true,
            usb: true,
        };
        let usb_disk = Drive {
            removable: false,
            usb: true,
        };
        let inside = Drive {
            removable: false,
            usb: false,
        };
        for (mount_point, fs_type, drive, medium) in [
            ("/media/cdrom", "iso9660", None, true),
            ("/media/dvd", "udf", None, true),
            ("/home/me/iso", "fuse.fuseiso", None, true),
            ("/mnt/sources", "squashfs", Some(inside), true),
            ("/mnt/sources", "erofs", None, true),
            ("/snap/core20/1234", "squashfs", None, false),
            ("/var/lib/snapd/snap/core20/1", "squashfs", None, false),
            ("/snapshots/a", "squashfs", None, true),
            ("/nix/store", "erofs", None, false),
            ("/nix/.ro-store", "squashfs", None, false),
            ("/gnu/store", "iso9660", None, false),
            ("/", "squashfs", None, false),
            ("/", "ext4", Some(stick), false),
            ("/boot/efi", "vfat", Some(stick), false),
            ("/mnt/stick", "vfat", Some(stick), true),
            ("/data", "ext4", Some(stick), true),
            ("/run/media/me/DISK", "ext4", Some(usb_disk), true),
            ("/media/me/DISK", "fuseblk", Some(usb_disk), true),
            ("/data", "ext4", Some(usb_disk), false),
            ("/mnt/data", "ext4", Some(inside), false),
            ("/mnt/server", "nfs4", None, false),
            ("/mnt/server", "cifs", None, false),
            ("/mnt/server", "fuse.sshfs", Some(stick), false),
            ("/mnt/any", "fuse", Some(stick), false),
            ("/net", "autofs", None, false),
            ("/tmp", "tmpfs", None, false),
        ] {
            assert_eq!(
                is_default_medium_if(&mount(mount_point, fs_type), |_| drive),
                medium,
                "{mount_point} {fs_type} {drive:?}"
            );
        }
    }

    #[test]
    fn patterns_name_mount_points() {
        for (pattern, mount_point, fs_type, matches) in [
            ("/srv/mirrors/*", "/srv/mirrors/cpan", "ext4", true),
            ("/srv/mirrors/*", "/srv/mirrors/cpan", "nfs4", true),
            ("/srv/mirrors/*", "/srv/mirrors/cpan", "autofs", false),
            ("/srv/mirrors/*", "/srv/mirrors/a/b", "ext4", false),
            ("/srv/mirrors/**", "/srv/mirrors/a/b", "ext4", true),
            ("/srv/mirrors", "/srv/mirrors", "ext4", true),
            ("/srv/mirrors", "/srv/mirrors2", "ext4", false),
            ("/srv/d[0-9]", "/srv/d7", "ext4", true),
            ("/*/*", "/nix/store", "ext4", false),
        ] {
            let pattern = MountPattern::new(pattern).unwrap();
            let mount = mount(mount_point, fs_type);
            assert_eq!(pattern.matches(&mount), matches, "{pattern:?} {mount:?}");
        }
        for wrong in ["mirrors/*", "", "/a[", "/a***"] {
            assert!(MountPattern::new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_path_lies_in_the_innermost_mount() {
        let mounts = [
            mount("/", "ext4"),
            mount("/media/a", "udf"),
            mount("/media/ab", "iso9660"),
        ];
        for (path, mount_point) in [
            ("/media/ab/c", "/media/ab"),
            ("/media/a", "/media/a"),
            ("/media", "/"),
        ] {
            let found = mount_of(&mounts, Path::new(path)).unwrap();
            assert_eq!(found.mount_point, Path::new(mount_point));
        }
    }

    #[test]
    fn what_may_hang_is_told_from_the_rest() {
        let mounts = [
            mount("/srv", "nfs4"),
            mount("/srv/mirror", "ext4"),
            mount("/srv/mirror/nfs", "nfs"),
            mount("/srv/mirror/ssh", "fuse.sshfs"),
            mount("/srv/mirror/auto", "autofs"),
            mount("/srv/mirror/a/iso", "fuse.fuseiso"),
            mount("/srv/mirror/a/ntfs", "fuseblk"),
            mount("/srv/mirror2/nfs", "nfs"),
        ];
        let found = |root: &str| hanging_among(&mounts, Path::new(root));
        assert_eq!(
            found("/srv/mirror"),
            ["nfs", "ssh", "auto"].map(PathBuf::from)
        );
        // What was named is entered, whatever it is.
        assert!(found("/srv/mirror/nfs").is_empty());
        assert_eq!(found("/srv").len(), 4);
    }

    #[test]
    fn what_was_touched_already_does_not_hang() {
        let mounts = [
            mount("/", "fuse.fuse-overlayfs"),
            mount("/srv", "nfs4"),
            mount("/srv/disk", "ext4"),
        ];
        let at = |path: &str, touched: &[&Path]| may_hang_at(&mounts, Path::new(path), touched);
        assert!(at("/srv/mirror", &[]));
        assert!(at("/srv/mirror", &[Path::new("/srv/disk/index")]));
        assert!(!at("/srv/mirror", &[Path::new("/srv/index")]));
        assert!(!at("/srv/disk/mirror", &[]));
        assert!(!at("/home/me", &[]), "we stand on it");
    }

    #[test]
    fn this_machine_has_a_root() {
        let mounts = mounted().unwrap();
        assert!(mount_of(&mounts, Path::new("/")).is_some_and(|root| !is_default_medium(root)));
    }
}
