//! The pids controller: forks that it refused, and processes that nobody reaped yet.

use bytemuck::{Pod, Zeroable};

use crate::{Header, record, task::Task};

/// Levels of the pids hierarchy that a record can carry, the asker's own first.
pub const MAX_LEVELS: usize = 16;

/// `PIDS_MAX` is `PID_MAX_LIMIT + 1`: a level that stands there, or higher, has no limit.
pub const NO_LIMIT: u64 = 4 * 1024 * 1024 + 1;

/// One level of the pids hierarchy, in tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Level {
    /// Its id in the pids hierarchy: on v1 another hierarchy than the one that carries the key.
    pub cgroup: u64,
    pub current: u64,
    pub limit: u64,
}

/// `pids_can_fork` said -EAGAIN. `header.cgroup` is the key of the task that asked. Folded: the first refusal of a
/// cgroup comes at once, then one record per 100 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ForkRefused {
    pub header: Header,
    pub asker: Task,
    /// Refusals to tasks of `levels[0]` so far. Starts again at 1 where the kernel side had to forget the cgroup.
    pub count: u64,
    /// How many of `levels` are filled.
    pub depth: u32,
    pub reserved: u32,
    pub levels: [Level; MAX_LEVELS],
}
record!(ForkRefused, ForkRefused, 488);

/// A fork was refused with -EAGAIN, and no level of the asker's pids cgroup is at its limit: a limit of the user's, of the
/// pid namespace's or of the host's. `header.cgroup` is the key of the task that asked. Folded as [`ForkRefused`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ForkFailed {
    pub header: Header,
    pub asker: Task,
    /// Refusals of this kind to tasks of `from` so far. Starts again at 1 where the kernel side had to forget it.
    pub count: u64,
    /// The asker's pids cgroup.
    pub from: u64,
    /// Ids in use in the pid namespace of the asker's children.
    pub pids: u32,
    /// Its own `kernel.pid_max`, since 6.14; `UNKNOWN_U32`: the host's holds.
    pub pid_max: u32,
}
record!(ForkFailed, ForkFailed, 112);

/// Refusals to the tasks of one pids cgroup: what the kernel side folds them by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Refusals {
    pub count: u64,
    /// When the last record was sent.
    pub told_ns: u64,
}

/// A process whose last thread ended and whose task is still there: value of the map `UNREAPED`, by process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Unreaped {
    /// When it started, which tells it from a later process of the same id.
    pub start_ns: u64,
    pub exit_ns: u64,
    /// The key of its cgroup: /proc does not tell it any more on v1.
    pub cgroup: u64,
    /// Its parent at the exit, by process id.
    pub parent: u32,
    pub reserved: u32,
}
const _: () = assert!(size_of::<Unreaped>() == 32);
