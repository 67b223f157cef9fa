//! Who waits for a CPU, and who sleeps in a way that counts as load.

use bytemuck::{Pod, Zeroable};

/// Entries of the map `TASKS`. A task's slot is its thread id modulo this: no lookup, no allocation in the hottest hook
/// there is. Two tasks that share a slot at the same time cost one of them a measurement, never a wrong one.
pub const SLOTS: u32 = 1 << 16;

/// The slot of a task: what it does, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Slot {
    pub tid: u32,
    /// One of the constants below; 0: asleep, or never seen.
    pub state: u32,
    pub since_ns: u64,
    /// Address of its `css_set` when `cgroup` was read; 0: it was not.
    pub set: u64,
    /// The key of its cgroup.
    pub cgroup: u64,
}
const _: () = assert!(size_of::<Slot>() == 32);

/// Runnable, and not running.
pub const WAITING: u32 = 1;
pub const RUNNING: u32 = 2;
/// In uninterruptible sleep that counts as load.
pub const BLOCKED: u32 = 3;

/// Bucket `n` holds waits of 2^n to 2^(n+1) times 1024 ns, the first those below as well, the last those above.
pub const BUCKETS: usize = 26;

/// What the tasks of one cgroup waited: value of the map `WAITS`, per CPU, by the cgroup's key. All but the worst only
/// grow, until the kernel side has to forget the cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Waits {
    pub count: u64,
    pub total_ns: u64,
    /// Uninterruptible sleeps that ended.
    pub blocked: u64,
    pub blocked_ns: u64,
    /// The longest wait of the window, and which window that is (`time >> WINDOW_SHIFT`).
    pub worst_ns: u64,
    pub worst_window: u64,
    /// Whose it was, and the task that had run until then.
    pub worst_tid: u32,
    pub instead_tid: u32,
    pub instead_comm: [u8; 16],
    pub histogram: [u32; BUCKETS],
}
const _: () = assert!(size_of::<Waits>() == 176);

/// Windows of some 2 s.
pub const WINDOW_SHIFT: u32 = 31;

/// A task in uninterruptible sleep: value of the map `BLOCKED`, by thread id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Blocked {
    pub since_ns: u64,
    pub cgroup: u64,
    /// Key of its stack in the map `STACKS`; [`NO_STACK`].
    pub stack: u32,
    pub reserved: u32,
}
const _: () = assert!(size_of::<Blocked>() == 24);

/// The stack could not be kept: there was none, or another has its place.
pub const NO_STACK: u32 = u32::MAX;

/// Key of the map `SLEEPS`: whose uninterruptible sleeps, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct SleepKey {
    /// The key of the cgroup.
    pub cgroup: u64,
    pub stack: u32,
    pub reserved: u32,
}
const _: () = assert!(size_of::<SleepKey>() == 16);

/// Sleeps that ended: value of the map `SLEEPS`, per CPU. They only grow, until the kernel side has to forget the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Sleeps {
    pub count: u64,
    pub total_ns: u64,
}
const _: () = assert!(size_of::<Sleeps>() == 16);
