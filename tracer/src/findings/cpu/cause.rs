//! What an uninterruptible sleep is for.

/// What it waits for, as the functions on its stack tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    Vfork,
    Nfs,
    Fuse,
    Fsync,
    DirtyPages,
    Reclaim,
    Disk,
    Lock,
    Other,
}

/// The only sleep of that kind in there that is its own.
const VFORK: [&str; 3] = ["kernel_clone", "_do_fork", "wait_for_vfork_done"];

/// The first that a function on the stack begins with decides: what is special before what it is made of.
const CAUSES: &[(Cause, &[&str])] = &[
    (Cause::Nfs, &["nfs_", "nfs2_", "nfs3_", "nfs4_", "nfs40_", "nfs41_", "nfs42_", "rpc_", "__rpc_"]),
    (Cause::Fuse, &["fuse_", "request_wait_answer"]),
    (
        Cause::Fsync,
        &[
            "do_fsync",
            "__x64_sys_fsync",
            "__x64_sys_fdatasync",
            "vfs_fsync",
            "ksys_sync",
            "sync_filesystem",
            "jbd2_log_wait_commit",
        ],
    ),
    (Cause::DirtyPages, &["balance_dirty_pages"]),
    (
        Cause::Reclaim,
        &[
            "try_to_free_",
            "shrink_node",
            "shrink_lruvec",
            "shrink_slab",
            "shrink_folio_list",
            "shrink_page_list",
            "shrink_inactive_list",
            "do_try_to_free_pages",
            "mem_cgroup_handle_over_high",
            "reclaim_throttle",
            "mem_cgroup_oom",
        ],
    ),
    (
        Cause::Disk,
        &[
            "io_schedule",
            "blk_",
            "submit_bio",
            "folio_wait",
            "wait_on_page",
            "__lock_page",
            "folio_lock",
            "dm_",
            "bdev_",
            "blkdev_",
            "iomap_",
            "__iomap_",
            "dio_",
            "do_blockdev_direct_IO",
            "submit_bio_wait",
            "__wait_on_buffer",
            "xfs_buf_iowait",
            "put_and_wait_on_page",
            "generic_file_",
            "read_pages",
            "filemap_",
        ],
    ),
    (
        Cause::Lock,
        &["__mutex_lock", "mutex_lock", "rwsem_", "down_read", "down_write", "down_", "rt_mutex", "percpu_down"],
    ),
];

impl Cause {
    /// Of a task that waits at `place`. A page of a file is waited for in the same functions, whoever is to bring it: the
    /// file system tells those apart.
    pub fn of_task(place: Option<&str>, functions: &[&str], file_system: Option<&str>) -> Self {
        if place.is_some_and(|place| VFORK.contains(&place)) {
            return Self::Vfork;
        }
        match (Self::of(&functions.iter().copied()), file_system) {
            (Self::Disk | Self::Other, Some(kind)) if kind.starts_with("fuse") => Self::Fuse,
            (Self::Disk | Self::Other, Some(kind)) if kind.starts_with("nfs") => Self::Nfs,
            (cause, _) => cause,
        }
    }

    pub fn of<'a>(functions: &(impl Iterator<Item = &'a str> + Clone)) -> Self {
        let on = |prefixes: &[&str]| {
            functions.clone().any(|function| prefixes.iter().any(|prefix| function.starts_with(prefix)))
        };
        CAUSES.iter().find(|(_, prefixes)| on(prefixes)).map_or(Self::Other, |(cause, _)| *cause)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Vfork => "vfork",
            Self::Nfs => "nfs",
            Self::Fuse => "fuse",
            Self::Fsync => "fsync",
            Self::DirtyPages => "dirty-pages",
            Self::Reclaim => "reclaim",
            Self::Disk => "disk",
            Self::Lock => "lock",
            Self::Other => "other",
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Self::Vfork => "its vfork child, which has neither exec'd nor ended",
            Self::Nfs => "an NFS server",
            Self::Fuse => "a FUSE file system",
            Self::Fsync => "an fsync",
            Self::DirtyPages => "dirty pages to be written",
            Self::Reclaim => "memory to be reclaimed",
            Self::Disk => "a disk",
            Self::Lock => "a lock in the kernel",
            Self::Other => "something in the kernel",
        }
    }

    pub fn fix(self) -> &'static str {
        match self {
            Self::Vfork => {
                "look at the child of that process: what it does between vfork and exec holds its parent; posix_spawn with less in between, or fork"
            }
            Self::Nfs => {
                "look at the NFS server and the way to it (nfsstat -c, mountstats); soft mounts give up in the end, hard ones never"
            }
            Self::Fuse => {
                "look at the process that serves the FUSE mount: it is the one that does not answer (/sys/fs/fuse/connections/*/waiting)"
            }
            Self::Fsync | Self::Disk => "look at the disk (iostat -x 1: await, %util), or at who else writes to it",
            Self::DirtyPages => {
                "write less at a time, or see who fills the page cache: the writer is held until pages are on disk"
            }
            Self::Reclaim => "give the cgroup more memory: its own tasks reclaim it, and wait for that",
            Self::Lock => {
                "find the holder: another task in the same function's file system or address space, blocked itself; `echo w > /proc/sysrq-trigger` lists all"
            }
            Self::Other => "the stack says where it waits",
        }
    }
}
