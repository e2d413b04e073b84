//! What a medium is called, for people who look for the disc.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, major, minor};

use super::{Mount, block_device};
use crate::beneath::Beneath;

/// The longest label that is shown, in characters; longer ones are cut.
pub const MAX_LABEL_CHARS: usize = 120;

/// How much of `.disk/info` is read, in bytes: its first line.
const MAX_INFO_LEN: u64 = 1024;

/// Where the primary volume descriptor of an ISO 9660 file system lies, in bytes, and its length.
const ISO_DESCRIPTOR_OFFSET: u64 = 0x8000;
const ISO_DESCRIPTOR_LEN: usize = 2048;

/// The fields of the descriptor: offset within it, and length.
const ISO_LABEL: std::ops::Range<usize> = 40..72;
const ISO_CREATED: std::ops::Range<usize> = 813..829;
const ISO_MODIFIED: std::ops::Range<usize> = 830..846;

/// The file systems whose device carries an ISO descriptor: on DVDs with UDF too, most have both.
const ISO_FILE_SYSTEMS: [&str; 2] = ["iso9660", "udf"];

/// Returns the label and the UUID of a medium, as far as they can be read: from the device, or the image that is
/// mounted, from udev's links, and the label else from the first line of `.disk/info`.
pub fn label_and_uuid(mount: &Mount) -> (Option<String>, Option<String>) {
    let (mut label, mut uuid) = (None, None);
    if ISO_FILE_SYSTEMS.contains(&mount.fs_type.as_str()) {
        (label, uuid) = read_iso(mount).unwrap_or_default();
    }
    // The source of a FUSE mount is whatever its user says; it is not looked at.
    if !mount.fs_type.starts_with("fuse.") {
        label = label.or_else(|| by_link(mount, Path::new("/dev/disk/by-label")));
        uuid = uuid.or_else(|| by_link(mount, Path::new("/dev/disk/by-uuid")));
    }
    (label.or_else(|| disk_info(&mount.mount_point)), uuid)
}

fn read_iso(mount: &Mount) -> Option<(Option<String>, Option<String>)> {
    let mut descriptor = [0; ISO_DESCRIPTOR_LEN];
    // Users may rarely read the device, and more often the image behind a loop device.
    [Some(mount.source.clone()), backing_file(mount)]
        .into_iter()
        .flatten()
        .filter_map(|path| open_image(&path))
        .find_map(|image| {
            image
                .read_exact_at(&mut descriptor, ISO_DESCRIPTOR_OFFSET)
                .ok()
        })?;
    iso_label_and_uuid(&descriptor)
}

/// Returns the file behind a loop device.
fn backing_file(mount: &Mount) -> Option<PathBuf> {
    let (major, minor) = block_device(mount)?;
    let path = format!("/sys/dev/block/{major}:{minor}/loop/backing_file");
    let text = fs_err::read(path).ok()?;
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(text)))
}

fn open_image(path: &Path) -> Option<File> {
    if !path.is_absolute() {
        return None;
    }
    // NONBLOCK: a drive opens without a disc in it, and a pipe without a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let file_type = file.metadata().ok()?.file_type();
    (file_type.is_file() || file_type.is_block_device()).then_some(file)
}

/// Reads the label and the UUID, made of the time of modification as blkid does, out of a volume descriptor.
fn iso_label_and_uuid(
    descriptor: &[u8; ISO_DESCRIPTOR_LEN],
) -> Option<(Option<String>, Option<String>)> {
    if &descriptor[..6] != b"\x01CD001" {
        return None;
    }
    let time = |range| {
        let digits: &[u8] = &descriptor[range];
        let is_set =
            digits.iter().all(u8::is_ascii_digit) && digits.iter().any(|&digit| digit != b'0');
        let digits = std::str::from_utf8(digits).ok().filter(|_| is_set)?;
        // Year, month, day, hour, minute, second, hundredths.
        let parts = [0..4, 4..6, 6..8, 8..10, 10..12, 12..14, 14..16].map(|part| &digits[part]);
        Some(parts.join("-"))
    };
    let label = presentable(&String::from_utf8_lossy(&descriptor[ISO_LABEL]));
    Some((label, time(ISO_MODIFIED).or_else(|| time(ISO_CREATED))))
}

/// Finds the name of a link in a folder of udev's that leads to the device.
fn by_link(mount: &Mount, folder: &Path) -> Option<String> {
    let device = block_device(mount)?;
    for entry in fs_err::read_dir(folder).ok()?.flatten() {
        let Ok(metadata) = fs_err::metadata(entry.path()) else {
            continue;
        };
        let number = metadata.rdev();
        if metadata.file_type().is_block_device() && (major(number), minor(number)) == device {
            return presentable(&unescape_udev(entry.file_name().to_str()?));
        }
    }
    None
}

/// Reverses udev's `\x20`.
fn unescape_udev(name: &str) -> String {
    let mut plain = Vec::new();
    let mut rest = name.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = rest
            .strip_prefix(b"\\x")
            .and_then(|rest| rest.split_at_checked(2))
            .and_then(|(digits, after)| Some((hex::decode(digits).ok()?, after)));
        match escaped {
            Some((byte, after)) => {
                plain.extend(byte);
                rest = after;
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Reads the first line of what Debian's discs say about themselves.
fn disk_info(root: &Path) -> Option<String> {
    let info = Beneath::open(root)
        .and_then(|root| root.open_file(Path::new(".disk/info")))
        .ok()?;
    let mut text = Vec::new();
    info.take(MAX_INFO_LEN).read_to_end(&mut text).ok()?;
    let line = text.split(|&byte| byte == b'\n').next()?;
    presentable(&String::from_utf8_lossy(line))
}

/// Makes hostile text safe to print; `None` if nothing is left.
fn presentable(text: &str) -> Option<String> {
    let shown: String = text
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .take(MAX_LABEL_CHARS)
        .collect();
    // Labels are padded with blanks, some with NUL.
    let shown = shown.trim_matches(['\u{fffd}', ' ']);
    (!shown.is_empty()).then(|| shown.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(label: &[u8], modified: &[u8], created: &[u8]) -> [u8; ISO_DESCRIPTOR_LEN] {
        let mut bytes = [b' '; ISO_DESCRIPTOR_LEN];
        bytes[..6].copy_from_slice(b"\x01CD001");
        bytes[ISO_LABEL][..label.len()].copy_from_slice(label);
        bytes[ISO_MODIFIED].copy_from_slice(modified);
        bytes[ISO_CREATED].copy_from_slice(created);
        bytes
    }

    #[test]
    fn iso_descriptors() {
        let unset = b"0000000000000000";
        let set = b"2023061010094200";
        let uuid = Some("2023-06-10-10-09-42-00".to_owned());
        let label = Some("Debian 12.0.0 n".to_owned());
        assert_eq!(
            iso_label_and_uuid(&descriptor(b"Debian 12.0.0 n", set, unset)),
            Some((label.clone(), uuid.clone()))
        );
        assert_eq!(
            iso_label_and_uuid(&descriptor(b"", unset, set)),
            Some((None, uuid)),
            "the time of creation where nothing was modified"
        );
        assert_eq!(
            iso_label_and_uuid(&descriptor(
                b"Debian 12.0.0 n\0\0",
                unset,
                b"garbage, no time"
            )),
            Some((label, None))
        );
        assert_eq!(iso_label_and_uuid(&[0; ISO_DESCRIPTOR_LEN]), None);
    }

    #[test]
    fn labels_cannot_drive_the_terminal() {
        assert_eq!(
            presentable("a\x1b[31mb\n").as_deref(),
            Some("a\u{fffd}[31mb")
        );
        assert_eq!(presentable(" \0\0 "), None);
        assert_eq!(
            presentable(&"ä".repeat(500)).unwrap().chars().count(),
            MAX_LABEL_CHARS
        );
        assert_eq!(
            unescape_udev(r"My\x20Disc\xc3\xa4\x2\xzz"),
            r"My Discä\x2\xzz"
        );
    }

    #[test]
    fn debians_discs_say_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let mount = Mount {
            mount_point: dir.path().to_owned(),
            fs_type: "fuse.fuseiso".into(),
            source: "fuseiso".into(),
            read_only: true,
            device: (0, 99),
        };
        assert_eq!(label_and_uuid(&mount), (None, None));
        fs_err::create_dir(dir.path().join(".disk")).unwrap();
        let info = dir.path().join(".disk/info");
        std::os::unix::fs::symlink("/proc/self/environ", &info).unwrap();
        assert_eq!(
            label_and_uuid(&mount),
            (None, None),
            "nothing outside is read"
        );
        fs_err::remove_file(&info).unwrap();
        fs_err::write(
            &info,
            "Debian GNU/Linux 12 \"Bookworm\" - Source DVD 1\nmore",
        )
        .unwrap();
        let label = "Debian GNU/Linux 12 \"Bookworm\" - Source DVD 1";
        assert_eq!(label_and_uuid(&mount), (Some(label.to_owned()), None));
    }
}
