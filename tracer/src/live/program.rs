//! The capabilities that a program's file gives whoever executes it: its extended attribute `security.capability`.
//!
//! The file is a container's, and its file system may be one whose server never answers: which one it is, is read from the
//! mount table first.

use std::{
    ffi::CStr,
    fs,
    io::Read,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::Mode,
};

use super::place::{may_hang, mount_of};
use crate::{
    containers::{Mount, unescape},
    findings::caps::FileSets,
};

const ATTRIBUTE: &CStr = c"security.capability";

/// A process may have a hundred thousand mounts.
const LONGEST: u64 = 4 << 20;

/// `None`: its file gives none.
pub fn capabilities(pid: u32) -> Result<Option<FileSets>, String> {
    let path = format!("/proc/{pid}/exe");
    let failed = |errno: Errno| format!("{path}: {}", errno.desc());
    // Only a handle on it: nothing is read, nobody asked.
    let file: OwnedFd = open(path.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
    let info = text(&format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let mount = mount(&info, &text(&format!("/proc/{pid}/mountinfo"))?)
        .ok_or_else(|| "its program's file is on no mount that it sees".to_owned())?;
    // An overlay passes the question on to its layers.
    let layers = if mount.kind == "overlay" { layers(&mount, &text("/proc/self/mountinfo")?) } else { Vec::new() };
    if let Some(kind) = [mount.kind].into_iter().chain(layers).find(|kind| may_hang(kind)) {
        return Err(format!("its program's file is on {kind}, which is not asked: it may not answer"));
    }
    let mut value = [0_u8; 24];
    let name = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|_| "a NUL".to_owned())?;
    // SAFETY: two strings that end, and a place of that size.
    let size = unsafe { libc::getxattr(name.as_ptr(), ATTRIBUTE.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    match usize::try_from(size) {
        Ok(size) => {
            parse(&value[..size.min(value.len())]).map(Some).ok_or_else(|| "of a form not known here".to_owned())
        }
        Err(_) => match Errno::last() {
            Errno::ENODATA | Errno::EOPNOTSUPP => Ok(None),
            errno => Err(failed(errno)),
        },
    }
}

/// A file of /proc, as far as a container may make it long.
fn text(name: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = fs::File::open(name).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
    read.map_err(|error| format!("{name}: {error}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The types of the file systems that an overlay's layers are on, as the host sees them.
fn layers(overlay: &Mount, host_mounts: &str) -> Vec<String> {
    let options = overlay.options.split(',');
    let layers = options.filter_map(|option| {
        option.split_once('=').filter(|(name, _)| name.ends_with("dir") || name.ends_with("dir+"))
    });
    layers
        .flat_map(|(_, paths)| paths.split(':'))
        .filter_map(|path| mount_of(host_mounts, &unescape(path)))
        .map(|mount| mount.kind)
        .collect()
}

/// The mount that a descriptor is of.
fn mount(fdinfo: &str, mountinfo: &str) -> Option<Mount> {
    let id = fdinfo.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let line = mountinfo.lines().find(|line| line.split(' ').next() == Some(id))?;
    Mount::of(line)
}

/// `struct vfs_cap_data` of revision 1 to 3 (include/uapi/linux/capability.h).
fn parse(value: &[u8]) -> Option<FileSets> {
    let word = |at: usize| Some(u64::from(u32::from_le_bytes(value.get(at * 4..at * 4 + 4)?.try_into().ok()?)));
    let magic = word(0)?;
    let words = match magic >> 24 {
        1 => 1,
        2 | 3 => 2,
        _ => return None,
    };
    let set = |first: usize| -> Option<u64> {
        (0..words).try_fold(0, |set, at| Some(set | word(first + 2 * at)? << (32 * at)))
    };
    Some(FileSets { permitted: set(1)?, inheritable: set(2)?, effective: magic & 1 != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attribute_in_each_revision() {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let net_raw = FileSets { permitted: 1 << 13, inheritable: 0, effective: true };
        assert_eq!(parse(&words(&[0x0200_0001, 1 << 13, 0, 0, 0])), Some(net_raw));
        assert_eq!(parse(&words(&[0x0300_0001, 1 << 13, 0, 0, 0, 1000])), Some(net_raw), "of a user namespace's root");
        assert_eq!(parse(&words(&[0x0100_0001, 1 << 13, 0])), Some(net_raw));
        let late = FileSets { permitted: 1 << 39, inheritable: 1, effective: false };
        assert_eq!(parse(&words(&[0x0200_0000, 0, 1, 1 << 7, 0])), Some(late));
        assert_eq!(parse(&words(&[0x0400_0000, 0, 1, 0, 0])), None);
        assert_eq!(parse(&words(&[0x0200_0000, 0, 1])), None);
        assert_eq!(parse(&[]), None);
    }

    #[test]
    fn the_file_system_of_a_descriptor() {
        let mounts = "21 1 0:20 / / rw - ext4 /dev/vda rw\n131 21 0:52 / /mnt rw - fuse.x host: rw,user_id=0\n";
        assert_eq!(mount("pos:\t0\nmnt_id:\t131\n", mounts).map(|mount| mount.kind).as_deref(), Some("fuse.x"));
        assert_eq!(mount("pos:\t0\nmnt_id:\t13\n", mounts), None, "not the beginning of another's");
        assert!(may_hang("fuse.x") && !may_hang("ext4"));
        let overlay = "140 21 0:60 / / rw - overlay overlay rw,lowerdir=/lib/a:/mnt/b,upperdir=/lib/u,workdir=/lib/w";
        let overlay = Mount::of(overlay).expect("a mount");
        assert_eq!(layers(&overlay, mounts), ["ext4", "fuse.x", "ext4", "ext4"]);
    }

    #[test]
    fn of_this_program() {
        assert_eq!(capabilities(std::process::id()), Ok(None));
    }
}
