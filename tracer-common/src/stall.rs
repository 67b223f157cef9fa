//! Time that a task spends finding memory: reclaim at a limit, reclaim for the host, the wait above memory.high.

use bytemuck::{Pod, Zeroable};

use crate::task::Task;

/// Reclaim because a cgroup was at its limit.
pub const LIMIT: u32 = 1;
/// … because the host ran short of memory.
pub const HOST: u32 = 2;
/// Above memory.high: reclaim on the way back to user mode, and the wait that the kernel adds.
pub const HIGH: u32 = 3;

/// Whose time it was: key of the map `STALLS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct StallKey {
    /// The task's own cgroup, in the hierarchy that carries the key.
    pub cgroup: u64,
    pub tgid: u32,
    /// [`LIMIT`], [`HOST`] or [`HIGH`].
    pub kind: u32,
}

/// Its value, on each CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Stall {
    /// The first thread of the process that stalled; zeros on CPUs that did not see it.
    pub who: Task,
    pub count: u64,
    pub total_ns: u64,
    pub worst_ns: u64,
}
const _: () = assert!(size_of::<Stall>() == 88);

/// A stall that has begun: key of the map `STALLING`, whose value is its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Stalling {
    pub tid: u32,
    pub kind: u32,
}
