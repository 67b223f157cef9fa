//! What TCP sent again, and which connections and calls were refused, summed in the kernel.

use bytemuck::{Pod, Zeroable};

use crate::task::Task;

pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;

/// A connection, as its own side sees it: key of the map `FLOWS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct FlowKey {
    /// Of the socket, in the default hierarchy: on v1 the root.
    pub cgroup: u64,
    /// Inode of its network namespace.
    pub netns: u32,
    pub family: u16,
    pub local_port: u16,
    /// In network order; of IPv4 the first four bytes.
    pub local: [u8; 16],
    pub remote: [u8; 16],
    pub remote_port: u16,
    pub reserved: [u16; 3],
}
const _: () = assert!(size_of::<FlowKey>() == 56);

/// Its value. A socket is locked while it sends: no two CPUs write one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Flow {
    /// Retransmissions since attach, by what made the kernel do it: duplicate ACKs or SACKs, …
    pub fast: u32,
    /// … a retransmission timeout, …
    pub timeout: u32,
    /// … a tail loss probe.
    pub probe: u32,
    /// `icsk_retransmits` at the last one: timeouts in a row without an answer.
    pub unanswered: u32,
    /// Data segments sent in the connection's life (`data_segs_out`).
    pub sent: u32,
    /// Segments sent again in its life (`total_retrans`), before the first that was seen, and now: a buffer holds several.
    pub resent_before: u32,
    pub resent: u32,
    /// Segments that the peer says came twice (`dsack_dups`), at the first retransmission and now.
    pub dsacks_before: u32,
    pub dsacks: u32,
    /// Reorderings that the sender noticed (`reord_seen`), the same way.
    pub reorderings_before: u32,
    pub reorderings: u32,
    /// How many segments late a segment may be before it counts as lost (`reordering`): 3 without any reordering.
    pub degree: u32,
    /// Smoothed round trip (`srtt_us`), µs.
    pub rtt_us: u32,
}
const _: () = assert!(size_of::<Flow>() == 52);

/// A connection attempt that ended without a connection; `errno` is the socket's, 0: its owner gave up.
pub const ATTEMPT: u32 = 1;
/// An attempt that goes on: its SYN was sent for the third time at least.
pub const WAITING: u32 = 2;
/// A call that failed at once.
pub const CONNECT_CALL: u32 = 3;
pub const BIND_CALL: u32 = 4;
pub const LISTEN_CALL: u32 = 5;
pub const SEND_CALL: u32 = 6;

/// What was refused to whom: key of the map `NET_REFUSALS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct RefusalKey {
    /// Of a call: the caller's, in the hierarchy that carries the key. Of a connection: as in [`FlowKey`].
    pub cgroup: u64,
    /// Of a connection; 0 of a call.
    pub netns: u32,
    /// 0 where it is not known.
    pub family: u16,
    pub port: u16,
    /// The peer's; of bind the own. In network order.
    pub address: [u8; 16],
    /// [`ATTEMPT`] and the rest.
    pub kind: u32,
    pub errno: u32,
}
const _: () = assert!(size_of::<RefusalKey>() == 40);

/// Its value, on each CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Refusal {
    pub count: u64,
    /// Of [`WAITING`]: repeated SYNs of attempts that `SYN_WAITERS` had no room for.
    pub lost: u64,
    /// Who made the first such call here; zeros of a connection, whose end may come in anybody's time.
    pub who: Task,
}
const _: () = assert!(size_of::<Refusal>() == 16 + size_of::<Task>());

/// A connection attempt that waits for an answer to its repeated SYN: value of the map `SYN_WAITERS`, by its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Waiter {
    /// Of kind [`WAITING`].
    pub key: RefusalKey,
    /// When the last SYN was sent.
    pub last_ns: u64,
}
const _: () = assert!(size_of::<Waiter>() == 48);

pub const ENETDOWN: u32 = 100;
pub const EADDRINUSE: u32 = 98;
pub const EADDRNOTAVAIL: u32 = 99;
pub const ENETUNREACH: u32 = 101;
pub const EHOSTUNREACH: u32 = 113;
