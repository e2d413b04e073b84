//! The text of `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use super::Mount;

/// Reads a mount table. Lines that are none are passed over.
///
/// ```
/// let table = b"36 35 98:0 / /media/my\\040disc ro,noatime shared:1 - iso9660 /dev/sr0 ro\n";
/// let mounts = store_index::mounts::parse(table);
/// assert_eq!(mounts[0].mount_point.to_str(), Some("/media/my disc"));
/// assert!(mounts[0].read_only);
/// ```
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mount> {
    // id, parent, device, root, mount point, options, any number of optional fields, "-", type, source, options
    let mut fields = line.split(|&byte| byte == b' ');
    let device = number_pair(fields.nth(2)?)?;
    let mount_point = unescape(fields.nth(1)?);
    let options = fields.next()?;
    fields.find(|field| *field == b"-")?;
    let fs_type = unescape(fields.next()?).into_string().ok()?;
    let source = unescape(fields.next()?);
    let super_options = fields.next().unwrap_or_default();
    let says_read_only = |options: &[u8]| {
        options
            .split(|&byte| byte == b',')
            .any(|option| option == b"ro")
    };
    Some(Mount {
        mount_point: mount_point.into(),
        fs_type,
        source: source.into(),
        read_only: says_read_only(options) || says_read_only(super_options),
        device,
    })
}

fn number_pair(text: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Reverses the octal escapes of blanks, backslashes and the like.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        match rest {
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ] => {
                plain.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    #[test]
    fn every_shape_of_line() {
        let table = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
            40 27 7:3 /sub /media/a\\040b\\011c\\012d\\134e\\0439 rw shared:5 master:2 unbindable - squashfs /dev/loop3 ro\n\
            41 27 0:50 / /mnt/iso ro,nosuid - fuse.fuseiso fuseiso rw,user_id=0\n\
            42 27 0:51 / /mnt/dash rw - tmpfs - rw\n\
            43 27 0:52 / /mnt/empty rw - tmpfs  rw\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 6);
        assert_eq!(mounts[1].device, (254, 0));
        assert!(!mounts[1].read_only);
        assert_eq!(mounts[2].mount_point, Path::new("/media/a b\tc\nd\\e#9"));
        assert!(mounts[2].read_only, "by the file system's own options");
        assert_eq!(mounts[3].fs_type, "fuse.fuseiso");
        assert!(mounts[3].read_only, "by the mount's options");
        assert_eq!(mounts[4].source, Path::new("-"));
        assert_eq!(mounts[5].source, Path::new(""));
    }

    #[test]
    fn what_is_no_line_is_passed_over() {
        for line in [
            &b""[..],
            b"22",
            b"22 27 0:21 / /proc rw,relatime",
            b"22 27 0:21 / /proc rw,relatime -",
            b"22 27 0:21 / /proc rw,relatime - proc",
            b"22 27 x:21 / /proc rw - proc proc rw",
            b"22 27 0 / /proc rw - proc proc rw",
            b"\xff\xfe\xfd",
        ] {
            assert_eq!(parse(line), [], "{line:?}");
        }
        assert_eq!(unescape(b"a\\04").into_vec(), b"a\\04");
        assert_eq!(unescape(b"\\777\\").into_vec(), b"\\777\\");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes);
        }

        #[test]
        fn every_name_survives(name in proptest::collection::vec(1u8.., 1..40)) {
            let mut escaped = Vec::new();
            for byte in &name {
                escaped.extend(format!("\\{byte:03o}").bytes());
            }
            prop_assert_eq!(unescape(&escaped).into_vec(), name);
        }
    }
}
