//! The way of a container's packets: through which devices they pass, summed in the kernel.

use bytemuck::{Pod, Zeroable};

/// A network address: IPv6, or IPv4 as `::ffff:a.b.c.d`. Key of the map `ADDRESSES`, whose value is the inode of the
/// container's network namespace that has it.
pub type Address = [u8; 16];

/// The device gives the packet to its driver (`net_dev_start_xmit`).
pub const XMIT: u32 = 0;
/// The device has got it (`netif_receive_skb`).
pub const RECEIVE: u32 = 1;

/// From the container.
pub const OUT: u32 = 0;
/// To it.
pub const IN: u32 = 1;

/// Whose packets, where: key of the map `HOPS`. Namespaces are their inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct HopKey {
    /// The container's.
    pub container: u32,
    /// The device's.
    pub netns: u32,
    pub ifindex: u32,
    /// [`XMIT`] or [`RECEIVE`].
    pub direction: u32,
    /// [`OUT`] or [`IN`].
    pub flow: u32,
    /// EtherType, and above it the protocol within IP: 0 where it is no IP.
    pub protocol: u32,
    /// Index of the container's own device by which they left, or came in; 0: not known, as on the way to it.
    #[cfg_attr(feature = "serde", serde(default))]
    pub through: u32,
}
const _: () = assert!(size_of::<HopKey>() == 28);

/// Bucket `n` holds times of 2^n to 2^(n+1) times 256 ns, the first those below as well, the last those above.
pub const BUCKETS: usize = 24;
pub const FIRST_BUCKET_SHIFT: u32 = 8;

/// What has passed a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Passed {
    /// Buffers: what devices count.
    pub packets: u64,
    /// Packets on a wire: a buffer of segmentation offload is many.
    pub segments: u64,
    /// With their link headers.
    pub bytes: u64,
    /// Those that came straight from the container's own device: this is its other end.
    pub direct: u64,
    /// Those that still have the container's own address as their source: nothing has translated it. Counted where another
    /// device than the container's sends them.
    pub untranslated: u64,
}

impl Passed {
    pub const NOTHING: Self = Self { packets: 0, segments: 0, bytes: 0, direct: 0, untranslated: 0 };

    #[inline]
    pub fn add(&mut self, more: &Self) {
        self.packets = self.packets.wrapping_add(more.packets);
        self.segments = self.segments.wrapping_add(more.segments);
        self.bytes = self.bytes.wrapping_add(more.bytes);
        self.direct = self.direct.wrapping_add(more.direct);
        self.untranslated = self.untranslated.wrapping_add(more.untranslated);
    }
}

/// Its value, on each CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Hop {
    pub passed: Passed,
    /// Time since the container's own device had them, of those that were recognised.
    pub since_ns: u64,
    pub since_count: u64,
    pub since: [u32; BUCKETS],
    pub device: Device,
    pub met: Met,
}
const _: () = assert!(size_of::<Hop>() == 56 + 4 * BUCKETS + 40 + 16);

/// Which device a CPU has met: an index is given again once its device is gone, to another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Met {
    /// Where it is in the kernel's memory; 0: there was none.
    pub address: u64,
    /// When it was looked at last, in jiffies.
    pub looked: u64,
}

/// What a device is called, and what kind it is (`veth`, `bridge`; empty: hardware).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Device {
    pub name: [u8; 16],
    pub kind: [u8; 16],
    /// The largest packet that it takes; `UNKNOWN_U32`: unread, 0: no device.
    pub mtu: u32,
    pub reserved: u32,
}
const _: () = assert!(size_of::<Device>() == 40);

/// A packet on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Flight {
    /// Its buffer's address; 0: none.
    pub packet: u64,
    /// What no hop changes in it: buffers are used again, and another packet is not this one.
    pub signature: u64,
    /// When the container's device sent it, in jiffies; …
    pub sent: u64,
    /// … and by the clock; 0: it is none of those that are timed.
    pub sent_ns: u64,
    pub container: u32,
    /// As in [`HopKey`].
    pub through: u32,
    /// Times that a device has received it since.
    pub received: u32,
    pub reserved: u32,
}
const _: () = assert!(size_of::<Flight>() == 48);

/// The map `FLIGHTS` has as many places as this many bits tell apart, …
pub const FLIGHTS_BITS: u32 = 14;

/// … each of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Berth {
    pub flight: Flight,
    /// When one that had this place went to the map `MOVED_FLIGHTS` last, in jiffies.
    pub moved: u64,
}
const _: () = assert!(size_of::<Berth>() == 56);

/// The map `KNOWN_DEVICES` likewise.
pub const KNOWN_BITS: u32 = 8;

/// A device that a CPU has met in this tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct KnownDevice {
    /// Where it is in the kernel's memory.
    pub device: u64,
    /// In jiffies.
    pub tick: u64,
    pub netns: u32,
    pub ifindex: u32,
    /// 1: its namespace is one of those that the kernel side was told.
    pub is_containers: u32,
    /// Packets of a container that it sent in this tick, on this CPU: …
    pub packets: u32,
}
const _: () = assert!(size_of::<KnownDevice>() == 32);

/// The map `SUMS` has twice as many places as this many bits tell apart: one for each direction.
pub const SUMS_BITS: u32 = 6;

/// What a CPU counted of one kind of hop in this tick, and has not added to `HOPS` yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Sum {
    pub key: HopKey,
    pub reserved: u32,
    /// Where the device is in the kernel's memory.
    pub device: u64,
    /// In jiffies.
    pub tick: u64,
    pub passed: Passed,
}
const _: () = assert!(size_of::<Sum>() == 88);

/// … so many of them are timed, each, …
pub const TIMED_FIRST: u32 = 32;
/// … and of the rest every so many. A prime: whoever sends by turns has both of what he sends among them.
pub const TIMED_EACH: u32 = 17;
