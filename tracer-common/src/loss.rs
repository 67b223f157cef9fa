//! What did not fit: counted where it is lost, shown where the rest is.

use bytemuck::{Pod, Zeroable};

/// Key of the per-CPU map of losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct LossKey {
    /// The cgroup in the record's header.
    pub cgroup: u64,
    /// A `Kind`.
    pub kind: u32,
    /// A [`Cause`].
    pub cause: u32,
}
const _: () = assert!(size_of::<LossKey>() == 16);

/// Why a record was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Cause {
    /// The ring was full.
    Full = 1,
    /// The ring was more than half full, and the cgroup had used its share of it.
    Budget = 2,
}

/// Loss keys that the map can hold; what is lost beyond them is counted by kind alone. The map is allocated per CPU.
pub const LOSS_KEYS: u32 = 1024;

/// A cgroup's use of the ring since user space last drained it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Spent {
    pub epoch: u64,
    pub bytes: u64,
}

/// What user space last said of its reading of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Reader {
    /// Raised each time the ring has been drained.
    pub epoch: u64,
    /// The epoch in which the kernel side last woke it because the ring filled up.
    pub pressed: u64,
    /// 1: it waits to be woken by the next record. 0: it looks by itself, soon.
    pub asleep: u64,
}
