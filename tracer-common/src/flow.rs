//! The steps of each packet of the one flow that is followed.

use bytemuck::{Pod, Zeroable};

use crate::{Header, dropped::SAMPLE, hops::Device, record};

/// ICMP of IPv4; of IPv6 it has another number.
pub const ICMP: u32 = 1;
pub const ICMPV6: u32 = 58;
pub const TCP: u32 = 6;
pub const UDP: u32 = 17;

/// A device gives the packet to its driver, or has got it, as in [`HopKey`](crate::hops::HopKey); or the kernel drops it.
pub const DROPPED: u32 = 2;

/// One step: the packet at a device, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Step {
    /// Its cgroup is unknown: a packet has none.
    pub header: Header,
    /// The packet's buffer, which is used again, …
    pub packet: u64,
    /// … and when that packet was met in it first.
    pub first_ns: u64,
    /// The instruction that let it go; of a drop.
    pub location: u64,
    /// As in [`DropKey`](crate::dropped::DropKey); of a drop.
    pub reason: u32,
    /// [`XMIT`](crate::hops::XMIT), [`RECEIVE`](crate::hops::RECEIVE) or [`DROPPED`].
    pub what: u32,
    /// The container's namespace; 0: of none that is known.
    pub container: u32,
    /// As in [`DropKey`](crate::dropped::DropKey).
    pub flags: u32,
    /// The device's namespace and index; `UNKNOWN_U32`: it had none (yet).
    pub netns: u32,
    pub ifindex: u32,
    /// EtherType.
    pub protocol: u32,
    /// How many bytes of `bytes` are the packet's.
    pub readable: u32,
    pub device: Device,
    /// From its network header on.
    pub bytes: [u8; SAMPLE],
}
record!(Step, PacketStep, 184);

/// A packet that was met: value of the map `FOLLOWED`, by its buffer's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Followed {
    /// As in [`Flight`](crate::hops::Flight).
    pub signature: u64,
    pub first_ns: u64,
    pub last_ns: u64,
    /// Where it was met first: no packet comes there twice, and the next one in this buffer mostly does.
    pub place: u64,
    /// Its ends, mixed: NAT changes one at a time.
    pub source: u64,
    pub destination: u64,
    /// The namespace in which it was just received; 0: its last step was another. It is sent on from there, or not at all: what
    /// another one sends is another packet.
    pub received: u64,
}
