//! Calls that wait until what was written is on the device (fs/sync.c, mm/msync.c).

use bytemuck::{Pod, Zeroable};

use crate::{UNKNOWN_U32, task::Task};

pub const FSYNC: u32 = 1;
pub const FDATASYNC: u32 = 2;
/// Of all file systems.
pub const SYNC: u32 = 3;
/// Of one.
pub const SYNCFS: u32 = 4;
/// With one of the flags that make it wait.
pub const SYNC_FILE_RANGE: u32 = 5;
/// With MS_SYNC.
pub const MSYNC: u32 = 6;

/// Key of the map `SYNCS`: who waited, in which call, for which file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct SyncKey {
    /// The caller's own cgroup, in the hierarchy that carries the key.
    pub cgroup: u64,
    pub tgid: u32,
    /// [`FSYNC`] and so on.
    pub call: u32,
    /// The file system's device, as the kernel has it within: 12 bits and 20. `UNKNOWN_U32`: the call names no file.
    pub device: u32,
    pub reserved: u32,
}

impl SyncKey {
    /// Major and minor; `None`: the call names no file.
    pub fn device(&self) -> Option<(u32, u32)> {
        (self.device != UNKNOWN_U32).then_some((self.device >> 20, self.device & 0xf_ffff))
    }
}

/// Places for threads that wait: a power of two.
pub const SYNCING_PLACES: u32 = 1 << 14;

/// A thread that waits; 0: nobody does at this place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Syncing {
    pub tid: u32,
    pub reserved: u32,
    pub at_ns: u64,
}
const _: () = assert!(size_of::<Syncing>() == 16);

/// Buckets of the histogram: below 100 µs, then doubling, the last without an end.
pub const BUCKETS: usize = 16;
pub const FIRST_BOUND_NS: u64 = 100_000;
/// A call that takes so long is slow.
pub const SLOW_NS: u64 = 100_000_000;
pub const NAME_LEN: usize = 32;

/// Its value, on each CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Syncs {
    /// The first thread of the process that called; zeros on CPUs that did not see it.
    pub who: Task,
    pub count: u64,
    pub total_ns: u64,
    pub worst_ns: u64,
    /// Those of [`SLOW_NS`] and more.
    pub slow: u64,
    pub slow_ns: u64,
    pub histogram: [u32; BUCKETS],
    /// The name of the file of the longest call; NUL-terminated, maybe cut.
    pub name: [u8; NAME_LEN],
}
const _: () = assert!(size_of::<Syncs>() == 200);
