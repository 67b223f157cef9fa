//! Names that containers ask for over UDP, and whether anybody answers, summed in the kernel.

use bytemuck::{Pod, Zeroable};

use crate::hops::Address;

/// What resolvers wait for an answer before they ask again (`timeout` of resolv.conf, glibc's default): what comes later
/// helps nobody.
pub const IN_TIME_NS: u64 = 5_000_000_000;

/// A query on its way: key of the map `DNS_QUERIES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct QueryKey {
    pub client: Address,
    pub server: Address,
    /// Inode of the container's network namespace.
    pub netns: u32,
    pub client_port: u16,
    /// Of the query: two of one socket are told apart by it. As it stands in the packet.
    pub id: u16,
}
const _: () = assert!(size_of::<QueryKey>() == 40);

/// Its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Query {
    /// As in [`ServerKey`].
    pub cgroup: u64,
    /// When it was sent last: who asks again waits anew.
    pub sent_ns: u64,
}

/// Who asks whom: key of the map `DNS_SERVERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct ServerKey {
    /// Of the socket that asks, in the default hierarchy: on v1 the root.
    pub cgroup: u64,
    pub server: Address,
    /// As in [`QueryKey`].
    pub netns: u32,
    pub reserved: u32,
}
const _: () = assert!(size_of::<ServerKey>() == 32);

/// Its value, on each CPU, since attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Server {
    pub queries: u64,
    /// Within [`IN_TIME_NS`], whatever they say.
    pub answers: u64,
    /// Answers that came later, and were not taken for missing before.
    pub late: u64,
    /// Queries that `DNS_QUERIES` had no room for: what became of them is not known.
    pub lost: u64,
    /// Queries whose text could not be read: likewise. Of answers, which are no cgroup's ([`UNKNOWN_U64`](crate::UNKNOWN_U64)),
    /// which query they belong to is not known.
    pub unreadable: u64,
}
const _: () = assert!(size_of::<Server>() == 40);
