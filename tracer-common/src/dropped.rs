//! Packets that the kernel dropped, summed in the kernel.

use bytemuck::{Pod, Zeroable};

use crate::hops::{Device, Met};

/// Whose, where and why: key of the map `DROPS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct DropKey {
    /// The instruction that let the packet go.
    pub location: u64,
    /// Inode of the container's network namespace; 0: of no container that is known.
    pub container: u32,
    /// Inode of the network namespace of the packet's device, else of its socket; `UNKNOWN_U32`: it had neither.
    pub netns: u32,
    /// Of the packet's device; `UNKNOWN_U32`: it had none (yet).
    pub ifindex: u32,
    /// A value of this kernel's `enum skb_drop_reason`; `UNKNOWN_U32`: this kernel gives none (before 5.17).
    pub reason: u32,
    /// Its EtherType; 0 where it is not set yet.
    pub protocol: u32,
    /// Bits: [`MULTICAST`], [`NO_CARRIER`]; [`OUTWARD`] or [`INWARD`] where that is known.
    pub flags: u32,
}
const _: () = assert!(size_of::<DropKey>() == 32);

/// To a group, or to all.
pub const MULTICAST: u32 = 1;
/// Its device is down, or has no carrier: whatever is queued there is thrown away.
pub const NO_CARRIER: u32 = 2;
/// From the container, …
pub const OUTWARD: u32 = 4;
/// … or to it.
pub const INWARD: u32 = 8;

/// Of a packet, from its network header on: IPv6 and the ports fit.
pub const SAMPLE: usize = 64;

/// Its value, on each CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Drops {
    pub packets: u64,
    /// The first packet that this CPU dropped; zeros where it could not be read.
    pub first: [u8; SAMPLE],
    pub device: Device,
    /// Where the first one's route led; zeros: it had none (yet).
    pub next: Device,
    pub met: Met,
    /// How many bytes of `first` are the packet's: what lies behind is in pages, or another's.
    pub readable: u64,
}
const _: () = assert!(size_of::<Drops>() == 176);
