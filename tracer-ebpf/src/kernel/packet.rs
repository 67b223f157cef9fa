//! What a packet is, and whose (include/linux/skbuff.h, include/linux/netdevice.h).

use aya_ebpf::{
    helpers::generated::{bpf_jiffies64, bpf_probe_read_kernel, bpf_probe_read_kernel_str},
    macros::map,
    maps::{HashMap, LruHashMap},
};
use tracer_common::{
    UNKNOWN_U32,
    hops::{Address, Device, Flight, IN, Met, OUT},
};

use super::{
    layout,
    read::{NOWHERE, Ptr, follow, place, u16_at, u32_at, u64_at},
};

/// Network namespaces of containers, by inode: user space fills it.
#[map]
static NETNS: HashMap<u32, u32> = HashMap::with_max_entries(1, 0);

/// Their addresses, likewise.
#[map]
static ADDRESSES: HashMap<Address, u32> = HashMap::with_max_entries(1, 0);

/// Packets that a container sent, while they are on their way. What never arrives is pushed out by others.
#[map]
pub static FLIGHT: LruHashMap<u64, Flight> = LruHashMap::with_max_entries(1, 0);

/// A packet that is older is another one in the same buffer. The longest wait is that for a neighbour's address, 3 s.
pub const FLIGHT_NS: u64 = 5_000_000_000;

const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
const UDP: u8 = 17;

/// `sk_buff.network_header` and `mac_header` that are not set.
pub const NO_HEADER: u16 = u16::MAX;

/// The device of a packet: meaningful only where its namespace is.
#[derive(Clone, Copy)]
pub struct At {
    pub device: Ptr,
    pub netns: u32,
    pub ifindex: u32,
}

#[inline(always)]
pub fn at(device: Ptr) -> At {
    let netns = netns(follow(device, &layout::DEVICE_NET));
    // A packet that was just made has no device yet; one that waits in a socket has other bits in its place.
    let ifindex = if netns == UNKNOWN_U32 { UNKNOWN_U32 } else { u32_at(place(device, &layout::DEVICE_IFINDEX)) };
    At { device, netns, ifindex }
}

/// `__LINK_STATE_START` and `__LINK_STATE_NOCARRIER` of include/linux/netdevice.h: bits of `net_device.state`.
const STATE_START: u64 = 1;
const STATE_NO_CARRIER: u64 = 4;

impl At {
    #[inline(always)]
    pub fn is_down(&self) -> bool {
        let state = u64_at(place(self.device, &layout::DEVICE_STATE));
        self.netns != UNKNOWN_U32 && state & (STATE_START | STATE_NO_CARRIER) != STATE_START
    }
}

/// The inode of a `struct net`.
#[inline(always)]
pub fn netns(net: Ptr) -> u32 {
    u32_at(place(net, &layout::NET_INUM))
}

#[inline(always)]
pub fn is_containers(netns: u32) -> bool {
    NETNS.get_ptr(netns).is_some()
}

/// Where the packet's buffer begins.
#[inline(always)]
pub fn head(skb: Ptr) -> Ptr {
    follow(skb, &layout::SKB_HEAD)
}

/// Where the packet's network header is, where that is set.
#[inline(always)]
pub fn network_header(skb: Ptr, head: Ptr) -> Ptr {
    let header = u16_at(place(skb, &layout::SKB_NETWORK_HEADER));
    if header == NO_HEADER { NOWHERE } else { head.wrapping_add(u64::from(header)) }
}

/// The start of an IP header; zeros where the packet is none, or cannot be read.
#[derive(Clone, Copy)]
pub struct Ip {
    bytes: [u8; 40],
    pub ethertype: u32,
}

#[inline(always)]
pub fn ethertype(skb: Ptr) -> u32 {
    u32::from(u16::from_be(u16_at(place(skb, &layout::SKB_PROTOCOL))))
}

#[inline(always)]
pub fn ip(skb: Ptr, header: Ptr) -> Ip {
    let mut ip = Ip { bytes: [0; 40], ethertype: ethertype(skb) };
    if ip.ethertype == IPV4 || ip.ethertype == IPV6 {
        // SAFETY: the helper checks the address itself, and zeroes what it cannot read.
        unsafe { bpf_probe_read_kernel(ip.bytes.as_mut_ptr().cast(), 40, header as *const _) };
    }
    ip
}

/// Of a packet over UDP.
#[derive(Clone, Copy)]
pub struct Udp {
    pub source: u16,
    pub destination: u16,
    /// Of it all, as its header says.
    pub length: u16,
    /// Of DNS: the query's number, as it stands there; …
    pub id: u16,
    /// … and whether it is an answer.
    pub is_answer: bool,
    /// How many of its bytes stand where they can be read: ports and length in the first 8, what is of DNS in the 4 behind.
    pub readable: u64,
}

impl Ip {
    /// The protocol within.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        if self.ethertype == IPV4 { self.bytes[9] } else { self.bytes[6] }
    }

    /// The size of its header; `None`: no IP, or a later fragment, which begins with no other header.
    #[inline(always)]
    fn size(&self) -> Option<u64> {
        let b = &self.bytes;
        match self.ethertype {
            // Below three flags stands the offset.
            IPV4 if u16::from_be_bytes([b[6], b[7]]) << 3 == 0 => Some(u64::from(b[0] & 0xf) * 4),
            IPV6 => Some(40),
            _ => None,
        }
    }

    /// Source and destination port; `None`: it has none, or they are where they cannot be read.
    #[inline(always)]
    pub fn ports(&self, skb: Ptr, head: Ptr, header: Ptr) -> Option<(u16, u16)> {
        let at = header.wrapping_add(self.size()?);
        if linear(skb, head, at) < 4 {
            return None;
        }
        Some((u16::from_be(u16_at(at)), u16::from_be(u16_at(at.wrapping_add(2)))))
    }

    /// The UDP header and the start of what it carries; `None`: no UDP, or a later fragment.
    #[inline(always)]
    pub fn udp(&self, skb: Ptr, head: Ptr, header: Ptr) -> Option<Udp> {
        if self.protocol() != UDP {
            return None;
        }
        let size = self.size()?;
        let mut start = [0_u8; 12];
        let at = header.wrapping_add(size);
        // SAFETY: the helper checks the address itself, and zeroes what it cannot read.
        unsafe { bpf_probe_read_kernel(start.as_mut_ptr().cast(), 12, at as *const _) };
        Some(Udp {
            source: u16::from_be_bytes([start[0], start[1]]),
            destination: u16::from_be_bytes([start[2], start[3]]),
            length: u16::from_be_bytes([start[4], start[5]]),
            id: u16::from_ne_bytes([start[8], start[9]]),
            is_answer: start[10] & 0x80 != 0,
            readable: linear(skb, head, at),
        })
    }

    /// What routers and NAT leave alone: IPv4's length, identification and protocol; IPv6's flow, length and next header.
    #[inline(always)]
    pub fn signature(&self) -> u64 {
        let b = &self.bytes;
        if self.ethertype == IPV4 {
            u64::from_ne_bytes([b[2], b[3], b[4], b[5], b[9], 4, 0, 0])
        } else {
            u64::from_ne_bytes([b[1], b[2], b[3], b[4], b[5], b[6], 6, 0])
        }
    }

    #[inline(always)]
    pub fn source(&self) -> Address {
        self.address(12, 8)
    }

    #[inline(always)]
    pub fn destination(&self) -> Address {
        self.address(16, 24)
    }

    #[inline(always)]
    fn address(&self, v4: usize, v6: usize) -> Address {
        let mut address = [0; 16];
        if self.ethertype == IPV4 {
            address[10] = 0xff;
            address[11] = 0xff;
            address[12] = self.bytes[v4];
            address[13] = self.bytes[v4 + 1];
            address[14] = self.bytes[v4 + 2];
            address[15] = self.bytes[v4 + 3];
        } else {
            address.copy_from_slice(&self.bytes[v6..v6 + 16]);
        }
        address
    }

    /// To a group, or to all on the link.
    #[inline(always)]
    pub fn is_multicast(&self) -> bool {
        match self.ethertype {
            IPV4 => self.bytes[16] >> 4 == 0xe || self.bytes[16..20] == [0xff; 4],
            IPV6 => self.bytes[24] == 0xff,
            _ => false,
        }
    }

    /// Is its source an address of that container?
    #[inline(always)]
    pub fn is_from(&self, container: u32) -> bool {
        // SAFETY: the map's values are numbers that user space replaces as a whole.
        (self.ethertype == IPV4 || self.ethertype == IPV6)
            && ADDRESSES.get_ptr(self.source()).is_some_and(|netns| unsafe { *netns } == container)
    }

    /// … and its destination?
    #[inline(always)]
    pub fn is_to(&self, container: u32) -> bool {
        // SAFETY: as above.
        (self.ethertype == IPV4 || self.ethertype == IPV6)
            && ADDRESSES.get_ptr(self.destination()).is_some_and(|netns| unsafe { *netns } == container)
    }

    /// The container that has one of its addresses, and which way it goes.
    #[inline(always)]
    fn owner(&self) -> Option<(u32, u32)> {
        if self.ethertype != IPV4 && self.ethertype != IPV6 {
            return None;
        }
        // SAFETY: the map's values are numbers that user space replaces as a whole.
        let found = |address: Address| ADDRESSES.get_ptr(address).map(|netns| unsafe { *netns });
        if let Some(netns) = found(self.source()) {
            return Some((netns, OUT));
        }
        found(self.destination()).map(|netns| (netns, IN))
    }
}

/// The packet's flight, where it is that packet.
#[inline(always)]
pub fn flight(skb: Ptr, ip: &Ip, now_ns: u64) -> Option<*mut Flight> {
    let flight = FLIGHT.get_ptr_mut(skb)?;
    // SAFETY: the map's value; only who has the packet writes it.
    let same = unsafe { (*flight).signature == ip.signature() && now_ns.wrapping_sub((*flight).sent_ns) < FLIGHT_NS };
    same.then_some(flight)
}

/// Whose packet it is that is on none of a container's devices, which way it goes, and by which of them it left.
#[inline(always)]
pub fn owner(flight: Option<*mut Flight>, ip: &Ip) -> Option<(u32, u32, u32)> {
    match flight {
        // SAFETY: as in `flight`.
        Some(flight) => Some(unsafe { ((*flight).container, OUT, (*flight).through) }),
        None => ip.owner().map(|(container, flow)| (container, flow, 0)),
    }
}

/// Bytes from there on that are the packet's and stand in its buffer: what lies behind is in pages, or another's.
/// `sk_buff.tail` counts from `head` on 64 bits.
#[inline(always)]
pub fn linear(skb: Ptr, head: Ptr, from: Ptr) -> u64 {
    let end = head.wrapping_add(u64::from(u32_at(place(skb, &layout::SKB_TAIL))));
    let bytes = end.wrapping_sub(from);
    if bytes < MOST_LINEAR { bytes } else { 0 }
}

/// No buffer is larger: what is, is an address behind its end, or one that was not read.
const MOST_LINEAR: u64 = 1 << 20;

const LOOK_EVERY_NS: u64 = 100_000_000;

/// Is that another device than the one that was met, or is it time to look whether it is? Its memory is used again, too.
#[inline(always)]
pub fn is_to_look_at(met: &Met, device: Ptr) -> bool {
    met.address != device || jiffies().wrapping_sub(met.looked) * u64::from(layout::TICK_NS.load()) >= LOOK_EVERY_NS
}

/// Looks at the device; whether it is another one than that which was described there.
///
/// # Safety
/// Both are ones that nobody else writes.
#[inline(always)]
pub unsafe fn look(device: Ptr, met: *mut Met, out: *mut Device) -> bool {
    // SAFETY: as the caller promised.
    unsafe {
        let before = ((*met).address, u128::from_ne_bytes((*out).name));
        describe(device, out);
        *met = Met { address: device, looked: jiffies() };
        before != (device, u128::from_ne_bytes((*out).name))
    }
}

#[inline(always)]
fn jiffies() -> u64 {
    // SAFETY: takes no argument and cannot fail.
    unsafe { bpf_jiffies64() }
}

/// Bytes from the link header on. `received`: where the data of one begins from which that was taken off already.
#[inline(always)]
pub fn bytes(skb: Ptr, head: Ptr, received: Option<Ptr>) -> u64 {
    let len = u64::from(u32_at(place(skb, &layout::SKB_LEN)));
    let Some(data) = received else { return len };
    let link = data.wrapping_sub(head).wrapping_sub(u64::from(u16_at(place(skb, &layout::SKB_MAC_HEADER))));
    if link < 64 { len + link } else { len }
}

/// Packets on a wire that it makes: 1, or more with segmentation offload. `sk_buff.end` counts from `head` on 64 bits.
#[inline(always)]
pub fn segments(skb: Ptr, head: Ptr) -> u64 {
    let end = u64::from(u32_at(place(skb, &layout::SKB_END)));
    let shared = head.wrapping_add(end);
    let segments = u16_at(place(shared, &layout::SHARED_GSO_SEGS));
    if segments == 0 || segments == u16::MAX { 1 } else { u64::from(segments) }
}

/// The device that a packet's route leads to (include/net/dst.h); the lowest bit says who counts references.
#[inline(always)]
pub fn next_device(skb: Ptr) -> Ptr {
    follow(follow(skb, &layout::SKB_DST) & !1, &layout::DST_DEV)
}

/// # Safety
/// `out` is one that nobody else writes.
#[inline(always)]
pub unsafe fn describe(device: Ptr, out: *mut Device) {
    let kind = follow(follow(device, &layout::DEVICE_LINK_OPS), &layout::LINK_KIND);
    // SAFETY: as the caller promised; the helper checks the addresses, and zeroes what it cannot read.
    unsafe {
        bpf_probe_read_kernel((&raw mut (*out).name).cast(), 16, place(device, &layout::DEVICE_NAME) as *const _);
        bpf_probe_read_kernel_str((&raw mut (*out).kind).cast(), 16, kind as *const _);
        (&raw mut (*out).mtu).write(u32_at(place(device, &layout::DEVICE_MTU)));
    }
}
