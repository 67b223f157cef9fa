//! The long text behind each code of the io lens.

use crate::{
    findings::Explained,
    model::{
        Code,
        Severity::{Critical, Info, Warning},
    },
};

pub const EXPLAINED: &[Explained] = &[
    Explained {
        code: Code("io.dirty-throttled"),
        severity: Warning,
        lens: "io",
        title: "write() is paused because too much written data waits for the device",
        text: "\
A buffered write goes to the page cache, and flushers bring it to the device later. Above dirty_background_ratio they begin; half
way from there to dirty_ratio the kernel makes the writer itself wait, in balance_dirty_pages, some milliseconds to 200 at a
time and several times in a row: a write() that took microseconds takes a second. On cgroup v2 a container has a share of its
own as well: the same ratio of what it may use as page cache, which a tight memory limit makes small.

It fires at 100 ms within 2 s. `domain` says whose limit it was: the host's, the memory cgroup's (`memcg`), or that of a device
which is held to its own share (`device`: FUSE, strict_limit). Kernels before 6.17 do not say which; there it is told by
comparing the threshold with the host's, and `inferred` is true. Lengths of pauses are those that the kernel
orders; it ends them with a tick, some ms later, and later where CPUs are busy. `worst_ns` is the longest single pause, `worst_call_ns` the
longest that one call was kept; `histogram` counts pauses by length.

What to do: leave room for page cache when sizing memory limits; write in smaller bursts, or past the cache (O_DIRECT, or
fdatasync little by little). On a host with much memory and a slow device the ratios are gigabytes: set vm.dirty_bytes and
vm.dirty_background_bytes to some seconds of what the device writes.",
    },
    Explained {
        code: Code("io.slow-sync"),
        severity: Warning,
        lens: "io",
        title: "fsync, or another call that waits for the device, took 100 ms or more",
        text: "\
fsync, fdatasync, sync, syncfs, msync with MS_SYNC, and sync_file_range with a flag that makes it wait, return when the device has
what was written. A database's commit waits for one. What makes it long: much of the file is still dirty; the device is slow
or busy; a limit on it (io.max, blkio.throttle) holds back the writes, which the caller itself submits; or the file system's journal
must first write what others changed (ext4 in ordered mode writes their data, too).

It fires at one such call of 100 ms or more within 2 s. `calls` names process, call and file, `histogram` counts all calls by length,
`worst_ns` is the longest since ctrace came. `device` is the one that most of the container's own writes went to, `device_ns` what
a write to it took at the device. A call counts when it returns. Writes to files opened with O_SYNC or O_DSYNC, calls of
32-bit programs and of io_uring are not seen.

What to do: sync smaller portions; put what syncs on a file system of its own; use fsync of one file instead of sync or syncfs; a device
whose write cache survives a loss of power answers at once.",
    },
    Explained {
        code: Code("io.throttled"),
        severity: Info,
        lens: "io",
        title: "held back by its own limit on a device",
        text: "\
io.max (v2) or blkio.throttle.* (v1) holds requests back before the device sees them. No tracepoint sees that wait, so ctrace
infers it: the cgroup's requests run at 90 % or more of the limit for 2 s. The device's own time (`device_ns`, from issue to
completion) is measured: where it is short and the application is slow, the limit is what it waits for. On v1 a container is looked
for in the blkio hierarchy by the same path as in that of memory.

What to do: raise the limit, or use a weight instead, which lets an idle device be used in full.",
    },
    Explained {
        code: Code("io.blkio-v1-buffered"),
        severity: Warning,
        lens: "io",
        title: "a v1 blkio limit is set, and buffered writes pass it by",
        text: "\
On cgroup v1 the blkio controller sees who submits a request. Direct I/O is submitted by the process; buffered writes by the
kernel's flushers, which are in no container. So a write limit holds nothing back that goes through the page cache, and nothing
of it is charged to the container.

It fires where a write limit is set and the container's processes gave at least 1 MiB within 2 s to write (write_bytes of
/proc/PID/io) that was not charged to its cgroup at any device.

What to do: cgroup v2 with the io and memory controllers together attributes writeback to whoever dirtied the pages. On v1 only
O_DIRECT obeys.",
    },
    Explained {
        code: Code("fs.no-space"),
        severity: Critical,
        lens: "io",
        title: "a file system had no space, or no inode, for the container",
        text: "\
ENOSPC comes at open, mkdir, write, fallocate, fsync or close, and says only \"No space left on device\". `layer` says what was
full: `tmpfs` (it has a size of its own), `overlay-upper` (what the container writes outside of volumes goes to a directory on
the host's disk), `disk`, or `inodes` (there is room, but too many files). ENOSPC of inotify, epoll, bpf, cgroup and proc files
is about something else, and is left out; so is /dev/full.

The numbers are of the file system that the file is on, read when the call was refused: what is free then may have changed since.
A path that a program hands over is taken by its name in the mount table, links in it are not followed. File systems whose
server might not answer (FUSE, NFS) are not asked. Calls of 32-bit programs and of io_uring are not seen.

Where no quota bounds the container, `writers` names the containers that can write to the same file system, most first: `charged_bytes`
is what io.stat of cgroup v2 charged to each at that disk since it was made; `given_bytes` what its living processes gave to write
(write_bytes of /proc/PID/io), to any file system. What was overwritten or deleted since is in both; the host's own processes are not
among them.

What to do: see what holds the space (`du -x` on the directory shown), and bound each container with a quota, so that one cannot
fill the disk for all.",
    },
    Explained {
        code: Code("fs.quota"),
        severity: Critical,
        lens: "io",
        title: "a quota on the container's directory is used up",
        text: "\
EDQUOT (\"Disk quota exceeded\"), or ENOSPC where XFS enforces a project quota: the disk may have room, the container's directory
has not. Docker sets one by --storage-opt size=… on XFS with pquota; Kubernetes by ephemeral-storage limits where project quotas
are on. `limit_bytes` and `used_bytes` are the quota's, as statfs of the directory tells them.

What to do: raise the quota, or delete what is not needed: `du -x` on the upper directory shows what holds it.",
    },
    Explained {
        code: Code("fs.copy-up"),
        severity: Info,
        lens: "io",
        title: "a large file of the image was copied before it could be written",
        text: "\
The layers of an image are read-only, and all its containers share them. The first time that a container opens a file of them for
writing, or changes its mode or owner, overlayfs copies the whole file to the container's upper directory, and the call waits: a
large database file in an image makes the first write take seconds, and as much room on the disk for each container.

It fires for files of 16 MiB and more, and for copies of 1 MiB and more that took 100 ms. `path` is the file's in the container (on
kernels before 6.1 in the layer); `bytes` is its size, of which holes are not copied. It needs kprobes and the module overlay:
ctrace doctor says where that is missing, as where the module is loaded only after ctrace came. Of copies, some ten at once are seen.

What to do: keep such files in a volume; set mode and owner in the layer that adds the file (COPY --chown, --chmod).",
    },
    Explained {
        code: Code("net.sysctl-readonly"),
        severity: Warning,
        lens: "io",
        title: "the container may not set a sysctl: /proc/sys is read-only",
        text: "\
Runtimes mount /proc/sys read-only in an ordinary container, so that opening a file there for writing fails with EROFS (\"Read-only
file system\"). Settings of the container's own namespaces (net.*, fs.mqueue.*, some of kernel.*) must be given when it starts;
all others are the host's.

What to do: docker run --sysctl NAME=VALUE; securityContext.sysctls of a Kubernetes pod (the unsafe ones must be allowed by the
kubelet: --allowed-unsafe-sysctls); linux.sysctl of an OCI config.json.",
    },
];
