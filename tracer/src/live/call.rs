//! What a sleeping task's system call is about: the file system of the file that it was given, by the text of the mount
//! table alone. No file is touched, since whoever serves it may not answer.

use crate::{
    containers::{Files, HostFiles, Mount},
    findings::cpu::Mounted,
};

/// Their first argument is a file.
const TAKE_A_FILE: [i64; 20] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_sync_file_range,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_fstat,
    libc::SYS_getdents64,
    libc::SYS_ioctl,
    libc::SYS_close,
];

pub fn file_system(tid: u32, files: &HostFiles) -> Result<Mounted, String> {
    let read = |name: &str| {
        let path = format!("/proc/{tid}/{name}");
        let content = files.read(&path).map_err(|error| format!("{path}: {error}"))?;
        Ok::<_, String>(String::from_utf8_lossy(&content.bytes).into_owned())
    };
    let fd = file(&read("syscall")?).ok_or("it is in no system call that was given a file")?;
    let mount = mount_id(&read(&format!("fdinfo/{fd}"))?).ok_or("its file is on no mount")?;
    let mounted =
        mounted(&read("mountinfo")?, mount).ok_or_else(|| "its file is not on a mount that it sees".to_owned())?;
    // Where a device's name is says nothing of the device.
    if is_of_devices(&mounted) { Err("its file is a device".to_owned()) } else { Ok(mounted) }
}

/// From /proc/TID/syscall: `0 0x3 0x7ffc…`.
fn file(text: &str) -> Option<u32> {
    let mut words = text.split_whitespace();
    let call: i64 = words.next()?.parse().ok()?;
    let first = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    TAKE_A_FILE.contains(&call).then(|| u32::try_from(first).ok())?
}

fn mount_id(text: &str) -> Option<u32> {
    text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

fn mounted(mountinfo: &str, id: u32) -> Option<Mounted> {
    let line = mountinfo.lines().find(|line| line.split(' ').next().and_then(|own| own.parse().ok()) == Some(id))?;
    let mount = Mount::of(line)?;
    Some(Mounted { kind: mount.kind, at: mount.at })
}

fn is_of_devices(mounted: &Mounted) -> bool {
    mounted.kind == "devtmpfs" || mounted.at == "/dev"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_call() {
        assert_eq!(file("0 0x3 0x7ffd 0x1000 0x0 0x0 0x0 0x7ffd 0x7f00\n"), Some(3));
        assert_eq!(file("74 0x11 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7f00"), Some(17), "fsync");
        assert_eq!(file("56 0x11 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7f00"), None, "clone is given no file");
        assert_eq!(file("0 0xffffffffffffffff 0x0"), None);
        assert_eq!(file("running\n"), None);
        assert_eq!(file("-1 0x7ffd 0x7f00"), None, "a page fault");
    }

    #[test]
    fn the_mount_of_a_file() {
        let mountinfo = "31 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                         131 31 0:52 / /mnt/a\\040b rw - fuse.sshfs host: rw,user_id=0\n";
        assert_eq!(mount_id("pos:\t0\nflags:\t0100000\nmnt_id:\t131\nino:\t5\n"), Some(131));
        let sshfs = Mounted { kind: "fuse.sshfs".to_owned(), at: "/mnt/a b".to_owned() };
        assert!(!is_of_devices(&sshfs));
        assert!(is_of_devices(&Mounted { kind: "tmpfs".to_owned(), at: "/dev".to_owned() }));
        assert_eq!(mounted(mountinfo, 131), Some(sshfs));
        assert_eq!(mounted(mountinfo, 13), None);
    }
}
