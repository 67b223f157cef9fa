//! Which containers can write to a full file system, and what each of them wrote: nobody is asked to walk it.

use std::sync::Arc;

use super::{io::written_by, place};
use crate::{
    containers::{Files, Hierarchy, HostFiles, Mount, unescape},
    findings::io::Writer,
};

/// Of the cgroups whose processes see the file system of that device, or an overlay that lies on it.
pub fn of(device: (u32, u32), of: &[Arc<str>], files: &HostFiles, key: &Hierarchy, host_mounts: &str) -> Vec<Writer> {
    let disk = whole_disk(device, files);
    let writer = |cgroup: &Arc<str>| {
        let directory = key.directory(cgroup);
        let procs = files.text(&format!("{directory}/cgroup.procs")).unwrap_or_default();
        let mounts = procs
            .lines()
            .find_map(|pid| files.text(&format!("/proc/{pid}/mountinfo")).filter(|mounts| !mounts.is_empty()));
        let charged = if key.controller.is_none() {
            files.text(&format!("{directory}/io.stat")).map(|text| charged(&text, disk))
        } else {
            None
        };
        let reaches = mounts.is_some_and(|mounts| reaches(&mounts, device, host_mounts));
        let given = if reaches { written_by(files, &directory) } else { 0 };
        let writer = Writer { cgroup: cgroup.clone(), charged, given };
        (writer.given > 0 || writer.charged.unwrap_or(0) > 0).then_some(writer)
    };
    of.iter().filter_map(writer).collect()
}

/// io.stat is of whole disks.
fn whole_disk((major, minor): (u32, u32), files: &HostFiles) -> (u32, u32) {
    let at = format!("/sys/dev/block/{major}:{minor}");
    let is_part = files.text(&format!("{at}/partition")).is_some();
    let above = is_part.then(|| files.text(&format!("{at}/../dev"))).flatten();
    let numbers = above.and_then(|text| {
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    numbers.unwrap_or((major, minor))
}

/// `8:0 rbytes=0 wbytes=4096 rios=0 …` a line; a disk without one got nothing.
fn charged(text: &str, (major, minor): (u32, u32)) -> u64 {
    let start = format!("{major}:{minor} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    let bytes = line.and_then(|line| line.split(' ').find_map(|word| word.strip_prefix("wbytes=")?.parse().ok()));
    bytes.unwrap_or(0)
}

/// Can who sees these mounts write to the file system of that device?
fn reaches(mounts: &str, device: (u32, u32), host_mounts: &str) -> bool {
    mounts.lines().filter_map(Mount::of).any(|mount| {
        let upper = mount.options.split(',').find_map(|option| option.strip_prefix("upperdir="));
        let below =
            upper.filter(|_| mount.kind == "overlay").and_then(|upper| place::mount_of(host_mounts, &unescape(upper)));
        below.map_or(mount.device, |disk| disk.device) == device
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_for_a_disk() {
        let text = "7:0 rbytes=1 wbytes=2 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=3 wbytes=4096 rios=1\n8:32\n";
        assert_eq!(charged(text, (8, 16)), 4096);
        assert_eq!(charged(text, (7, 0)), 2);
        assert_eq!(charged(text, (8, 32)), 0, "a line without numbers");
        assert_eq!(charged(text, (8, 1)), 0, "8:16 is another");
        assert_eq!(charged("", (8, 1)), 0);
    }

    #[test]
    fn who_can_write_to_a_file_system() {
        let host = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:17 / /var rw - xfs /dev/sdb1 rw\n";
        let overlay = "9 1 0:50 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/var/up\\040per,workdir=/w\n";
        assert!(reaches(overlay, (8, 17), host), "what it writes lies there");
        assert!(!reaches(overlay, (8, 1), host));
        assert!(!reaches(overlay, (0, 50), host), "an overlay has no room of its own");
        let volume = "9 1 8:1 /data /srv rw - ext4 /dev/sda1 rw\n";
        assert!(reaches(volume, (8, 1), host) && !reaches(volume, (8, 17), host));
        assert!(!reaches("", (8, 1), host));
    }
}
