//! Requests to block devices, summed in the kernel.

use bytemuck::{Pod, Zeroable};

pub const READ: u32 = 0;
pub const WRITE: u32 = 1;
/// Discards, flushes and the rest.
pub const OTHER: u32 = 2;

/// Whose requests to which device: key of the map `DEVICE_IO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct IoKey {
    /// The cgroup that the request is charged to, in the hierarchy of the io (v1: blkio) controller; `UNKNOWN_U64`: none.
    pub cgroup: u64,
    /// The whole disk.
    pub major: u32,
    pub minor: u32,
    /// [`READ`], [`WRITE`] or [`OTHER`].
    pub op: u32,
    pub reserved: u32,
}

/// Buckets of the histogram: below 16 µs, then doubling, the last without an end.
pub const BUCKETS: usize = 20;
pub const FIRST_BOUND_NS: u64 = 16_000;

/// Its value, on each CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Io {
    pub count: u64,
    pub bytes: u64,
    /// From issue to completion: the device's time.
    pub device_ns: u64,
    pub worst_ns: u64,
    /// From the request's making to its issue. Where a queue keeps no statistics (queue/iostats) the time is an older request's:
    /// user space leaves it out.
    pub queued_ns: u64,
    /// Of [`READ`] and [`WRITE`]: of a process's own memory, and of the page cache. What is in neither is not told.
    pub direct_bytes: u64,
    pub buffered_bytes: u64,
    pub histogram: [u32; BUCKETS],
}
const _: () = assert!(size_of::<Io>() == 136);

/// Places for requests under way: a power of two.
pub const REQUESTS_BITS: u32 = 14;

/// A request under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Issued {
    /// Its address; 0: the place is free.
    pub request: u64,
    pub at_ns: u64,
}
const _: () = assert!(size_of::<Issued>() == 16);

/// Places for charges that were met a moment ago: a power of two.
pub const CHARGES_BITS: u32 = 6;
/// So long what they stand for is not read again. The memory of a charge is another's only after two RCU grace periods, each
/// of several times that.
pub const CHARGE_NS: u64 = 1_000_000;

/// What a request is charged to (a `struct blkcg_gq`: one cgroup's share of one queue), and what that stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Charge {
    /// Its address; 0 or `UNKNOWN_U64`: none.
    pub charge: u64,
    /// The address of the queue; 0: nothing is known here.
    pub queue: u64,
    pub read_ns: u64,
    pub cgroup: u64,
    pub major: u32,
    pub minor: u32,
}
const _: () = assert!(size_of::<Charge>() == 40);
