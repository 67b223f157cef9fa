//! Writers that the kernel paused because too much is dirty (mm/page-writeback.c).

use bytemuck::{Pod, Zeroable};

use crate::task::Task;

/// Key of the map `PAUSES`: whose write() it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct PauseKey {
    /// The writer's own cgroup, in the hierarchy that carries the key.
    pub cgroup: u64,
    pub tgid: u32,
    pub reserved: u32,
}

/// Buckets of the histogram: below 1 ms, then doubling, the last without an end.
pub const BUCKETS: usize = 12;
pub const FIRST_BOUND_NS: u64 = 1_000_000;

/// Its value, on each CPU. The last of the pauses tells what the kernel went by: numbers in pages, and pages a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Pauses {
    /// The first thread of the process that was paused; zeros on CPUs that did not see it.
    pub who: Task,
    pub count: u64,
    pub total_ns: u64,
    pub worst_ns: u64,
    /// The longest that one call was kept so far, several pauses in a row.
    pub worst_call_ns: u64,
    pub histogram: [u32; BUCKETS],
    /// When the last one began.
    pub last_ns: u64,
    pub dirty: u64,
    pub threshold: u64,
    pub background: u64,
    pub device_dirty: u64,
    pub device_threshold: u64,
    /// What the device writes.
    pub bandwidth: u64,
    /// What this writer may.
    pub task_rate: u64,
    /// 1: the limits are a memory cgroup's own share; 0: the host's; `UNKNOWN_U32`: this kernel does not say.
    pub in_memcg: u32,
    pub reserved: u32,
    /// `major:minor` as the kernel names the device's writeback; NUL-padded.
    pub device: [u8; 16],
}
const _: () = assert!(size_of::<Pauses>() == 232);
