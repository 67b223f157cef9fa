//! What a packet is, and whose (include/linux/skbuff.h, include/linux/netdevice.h).

use aya_ebpf::{
    Global,
    helpers::generated::{bpf_jiffies64, bpf_probe_read_kernel, bpf_probe_read_kernel_str},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use tracer_common::{
    UNKNOWN_U32,
    hops::{Address, Berth, Device, FLIGHTS_BITS, Flight, IN, KNOWN_BITS, KnownDevice, Met, OUT},
};

use super::{
    layout,
    read::{NOWHERE, Part, Ptr, follow, known, place, u16_at, u32_at},
    spread::spread,
};

/// Network namespaces of containers, by inode: user space fills it.
#[map]
static NETNS: HashMap<u32, u32> = HashMap::with_max_entries(1, 0);

/// Their addresses, likewise.
#[map]
static ADDRESSES: HashMap<Address, u32> = HashMap::with_max_entries(1, 0);

/// Packets that a container sent, each at a place that its buffer's address gives: neither a bucket's lock nor an allocation.
/// Two CPUs that take one place at the same moment lose one of the two.
#[map]
static FLIGHTS: Array<Berth> = Array::with_max_entries(1, 0);

/// … those whose place another one has taken while they may still be on their way, by address. What never arrives is pushed out by
/// others.
#[map]
static MOVED_FLIGHTS: LruHashMap<u64, Flight> = LruHashMap::with_max_entries(1, 0);

/// What each CPU found of the devices that it met in this tick: a device neither goes nor changes its namespace within one.
/// Only for what runs with softirqs off: nothing else of the kind comes in between.
#[map]
static KNOWN_DEVICES: PerCpuArray<KnownDevice> = PerCpuArray::with_max_entries(1, 0);

/// A packet that is older is another one in the same buffer. The longest wait is that for a neighbour's address, 3 s.
pub const FLIGHT_NS: u64 = 5_000_000_000;

const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
const ARP: u32 = 0x0806;
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

/// The same of a device of which the verifier knows the type.
///
/// # Safety
/// As of [`known`].
#[inline(always)]
pub unsafe fn at_typed(device: Ptr) -> At {
    // SAFETY: as the caller promised.
    let (netns, ifindex) =
        unsafe { (netns_typed(device, &layout::DEVICE_NET), known::u32(device, &layout::DEVICE_IFINDEX)) };
    let ifindex = if netns == UNKNOWN_U32 { UNKNOWN_U32 } else { ifindex };
    At { device: known::number(device), netns, ifindex }
}

/// The inode of the `struct net` that a field of this points to; `UNKNOWN_U32`: there is none.
///
/// # Safety
/// As of [`known`].
#[inline(always)]
pub unsafe fn netns_typed(base: Ptr, net: &Global<u32>) -> u32 {
    // SAFETY: as the caller promised.
    match unsafe { known::u32(known::u64(base, net), &layout::NET_INUM) } {
        0 => UNKNOWN_U32,
        inode => inode,
    }
}

/// The same of a device that has a packet in hand, whether it is a container's, and how many this CPU has met there in this
/// tick, with the `more` that this makes.
#[inline(always)]
pub fn at_work(device: Ptr, more: u32) -> (At, bool, u32) {
    let tick = jiffies();
    let Some(known) = KNOWN_DEVICES.get_ptr_mut(spread::<KNOWN_BITS>(device)) else {
        let at = at(device);
        return (at, is_containers(at.netns), more);
    };
    // SAFETY: this CPU's own value.
    let known = unsafe { &mut *known };
    if known.device != device || known.tick != tick {
        let At { netns, ifindex, .. } = at(device);
        let is_containers = u32::from(is_containers(netns));
        *known = KnownDevice { device, tick, netns, ifindex, is_containers, packets: 0 };
    }
    known.packets += more;
    (At { device, netns: known.netns, ifindex: known.ifindex }, known.is_containers != 0, known.packets)
}

/// `__LINK_STATE_START` and `__LINK_STATE_NOCARRIER` of include/linux/netdevice.h: bits of `net_device.state`.
const STATE_START: u64 = 1;
const STATE_NO_CARRIER: u64 = 4;

impl At {
    /// … by its `net_device.state`.
    #[inline(always)]
    pub fn is_down(&self, state: u64) -> bool {
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

/// Of a `struct sk_buff` what is wanted of each packet. Its offsets count from `head` on 64 bits.
pub struct Buffer {
    pub skb: Ptr,
    head: Ptr,
    /// Where its data begins.
    pub data: Ptr,
    len: u32,
    tail: u32,
    end: u32,
    protocol: u16,
    network_header: u16,
    mac_header: u16,
}

impl Buffer {
    #[inline(always)]
    pub fn of(skb: Ptr) -> Self {
        let mut buffer =
            Self { skb, head: 0, data: 0, len: 0, tail: 0, end: 0, protocol: 0, network_header: 0, mac_header: 0 };
        buffer.read();
        buffer
    }

    /// All but the length stand near each other: one read. A function of its own, for the stack.
    #[inline(never)]
    fn read(&mut self) {
        self.len = u32_at(place(self.skb, &layout::SKB_LEN));
        let part = Part::<6>::from(self.skb, &layout::SKB_PROTOCOL);
        self.head = part.u64(&layout::SKB_HEAD);
        self.data = part.u64(&layout::SKB_DATA);
        self.tail = part.u32(&layout::SKB_TAIL);
        self.end = part.u32(&layout::SKB_END);
        self.protocol = part.u16(&layout::SKB_PROTOCOL);
        self.network_header = part.u16(&layout::SKB_NETWORK_HEADER);
        self.mac_header = part.u16(&layout::SKB_MAC_HEADER);
    }

    /// … or no read at all.
    ///
    /// # Safety
    /// As of [`known`].
    #[inline(always)]
    pub unsafe fn typed(skb: Ptr) -> Self {
        // SAFETY: as the caller promised.
        unsafe {
            Self {
                skb: known::number(skb),
                head: known::u64(skb, &layout::SKB_HEAD),
                data: known::u64(skb, &layout::SKB_DATA),
                len: known::u32(skb, &layout::SKB_LEN),
                tail: known::u32(skb, &layout::SKB_TAIL),
                end: known::u32(skb, &layout::SKB_END),
                protocol: known::u16(skb, &layout::SKB_PROTOCOL),
                network_header: known::u16(skb, &layout::SKB_NETWORK_HEADER),
                mac_header: known::u16(skb, &layout::SKB_MAC_HEADER),
            }
        }
    }

    /// Where its network header is, where that is set.
    #[inline(always)]
    pub fn network_header(&self) -> Ptr {
        let header = self.network_header;
        if header == NO_HEADER { NOWHERE } else { self.head.wrapping_add(u64::from(header)) }
    }

    #[inline(always)]
    pub fn ethertype(&self) -> u32 {
        u32::from(u16::from_be(self.protocol))
    }

    /// Bytes from there on that are the packet's and stand in its buffer: what lies behind is in pages, or another's.
    #[inline(always)]
    pub fn linear(&self, from: Ptr) -> u64 {
        let end = self.head.wrapping_add(u64::from(self.tail));
        let bytes = end.wrapping_sub(from);
        if bytes < MOST_LINEAR { bytes } else { 0 }
    }

    /// Bytes from the link header on. `received`: where the data of one begins from which that was taken off already.
    #[inline(always)]
    pub fn bytes(&self, received: Option<Ptr>) -> u64 {
        let len = u64::from(self.len);
        let Some(data) = received else { return len };
        let link = data.wrapping_sub(self.head).wrapping_sub(u64::from(self.mac_header));
        if link < 64 { len + link } else { len }
    }

    /// Packets on a wire that it makes: 1, or more with segmentation offload.
    #[inline(always)]
    pub fn segments(&self) -> u64 {
        if self.len <= ONE_SEGMENT {
            return 1;
        }
        let shared = self.head.wrapping_add(u64::from(self.end));
        let segments = if known::can_be_anywhere() {
            // SAFETY: a pointer of the kernel's making.
            unsafe { known::u16(known::anywhere(shared), &layout::SHARED_GSO_SEGS) }
        } else {
            u16_at(place(shared, &layout::SHARED_GSO_SEGS))
        };
        if segments == 0 || segments == u16::MAX { 1 } else { u64::from(segments) }
    }
}

/// No buffer is larger: what is, is an address behind its end, or one that was not read.
const MOST_LINEAR: u64 = 1 << 20;

/// A buffer of so few bytes is not asked: nobody has the network cut packets that small.
const ONE_SEGMENT: u32 = 128;

/// The start of an IP header, and what follows a short one; or a question or answer of ARP. Zeros where the packet is neither, or
/// cannot be read.
#[derive(Clone, Copy)]
#[repr(align(8))] // else it would be written and read byte by byte
pub struct Ip {
    bytes: [u8; 40],
    pub ethertype: u32,
}

#[inline(always)]
pub fn ip(buffer: &Buffer, header: Ptr) -> Ip {
    let mut ip = Ip { bytes: [0; 40], ethertype: buffer.ethertype() };
    if ip.ethertype == IPV4 || ip.ethertype == IPV6 || ip.ethertype == ARP {
        // SAFETY: the helper checks the address itself, and zeroes what it cannot read; so does the kernel for a pointer of its.
        unsafe {
            if known::can_be_anywhere() {
                ip.bytes = core::mem::transmute::<[u64; 5], [u8; 40]>(known::words(known::anywhere(header)));
            } else {
                bpf_probe_read_kernel(ip.bytes.as_mut_ptr().cast(), 40, header as *const _);
            }
        };
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

/// An IPv4 header without options.
const SHORT: u64 = 20;

impl Ip {
    /// The protocol within.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        match self.ethertype {
            IPV4 => self.bytes[9],
            IPV6 => self.bytes[6],
            _ => 0,
        }
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
    pub fn ports(&self, buffer: &Buffer, header: Ptr) -> Option<(u16, u16)> {
        let at = header.wrapping_add(self.size()?);
        if buffer.linear(at) < 4 {
            return None;
        }
        Some((u16::from_be(u16_at(at)), u16::from_be(u16_at(at.wrapping_add(2)))))
    }

    /// May it be UDP of that port, the first (source) or the second? Behind a short header it stands in what was read anyway, if it is
    /// the packet's own.
    #[inline(always)]
    pub fn may_be_udp(&self, port: u16, which: usize) -> bool {
        let b = &self.bytes;
        let at = SHORT as usize + 2 * which;
        self.protocol() == UDP
            && (self.ethertype != IPV4 || b[0] & 0xf != 5 || u16::from_be_bytes([b[at], b[at + 1]]) == port)
    }

    /// The UDP header and the start of what it carries; `None`: no UDP, or a later fragment.
    #[inline(always)]
    pub fn udp(&self, buffer: &Buffer, header: Ptr) -> Option<Udp> {
        if self.protocol() != UDP {
            return None;
        }
        let size = self.size()?;
        let mut start = [0_u8; 12];
        let at = header.wrapping_add(size);
        if size == SHORT {
            start.copy_from_slice(&self.bytes[SHORT as usize..SHORT as usize + 12]); // read already
        } else {
            // SAFETY: the helper checks the address itself, and zeroes what it cannot read.
            unsafe { bpf_probe_read_kernel(start.as_mut_ptr().cast(), 12, at as *const _) };
        }
        Some(Udp {
            source: u16::from_be_bytes([start[0], start[1]]),
            destination: u16::from_be_bytes([start[2], start[3]]),
            length: u16::from_be_bytes([start[4], start[5]]),
            id: u16::from_ne_bytes([start[8], start[9]]),
            is_answer: start[10] & 0x80 != 0,
            readable: buffer.linear(at),
        })
    }

    /// What routers and NAT leave alone: IPv4's length, identification and protocol; IPv6's flow, length and next header; of ARP who
    /// asks for whom. 0: it looks like any other of its kind, and is not followed.
    #[inline(always)]
    pub fn signature(&self) -> u64 {
        let b = &self.bytes;
        match self.ethertype {
            IPV4 => u64::from_ne_bytes([b[2], b[3], b[4], b[5], b[9], 4, 0, 0]),
            IPV6 => u64::from_ne_bytes([b[1], b[2], b[3], b[4], b[5], b[6], 6, 0]),
            ARP => u64::from_ne_bytes([b[14], b[15], b[16], b[17], b[24], b[25], b[26], b[27]]),
            _ => 0,
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

    /// The namespace of the container that has one of its addresses, and in the lower half which way it goes. A function of its own, for
    /// the stack.
    #[inline(never)]
    fn owner(&self) -> u64 {
        if self.ethertype != IPV4 && self.ethertype != IPV6 {
            return u64::from(UNKNOWN_U32);
        }
        // SAFETY: the map's values are numbers that user space replaces as a whole.
        let found = |address: Address| ADDRESSES.get_ptr(address).map(|netns| u64::from(unsafe { *netns }) << 32);
        if let Some(netns) = found(self.source()) {
            return netns | u64::from(OUT);
        }
        found(self.destination()).map_or(u64::from(UNKNOWN_U32), |netns| netns | u64::from(IN))
    }
}

/// The packet is on its way from that container, by that device of its.
#[inline(always)]
pub fn depart(packet: Ptr, signature: u64, sent_ns: u64, container: u32, through: u32) {
    let Some(berth) = FLIGHTS.get_ptr_mut(spread::<FLIGHTS_BITS>(packet)) else { return };
    let sent = jiffies();
    // SAFETY: the map's value; who has the packet is here, and of two that share the place the last one has it.
    let berth = unsafe { &mut *berth };
    let other = &berth.flight;
    if other.packet != packet && other.packet != 0 && is_recent(other.sent, sent) {
        berth.moved = sent;
        let _ = MOVED_FLIGHTS.insert(other.packet, other, 0);
    }
    berth.flight = Flight { packet, signature, sent, sent_ns, container, through, received: 0, reserved: 0 };
}

/// The packet's flight, where it is that packet.
#[inline(always)]
pub fn flight(packet: Ptr, ip: &Ip) -> Option<*mut Flight> {
    let now = jiffies();
    let flight = entry(packet, now)?;
    // SAFETY: the map's value; only who has the packet writes it.
    let same = unsafe { (*flight).signature == ip.signature() && is_recent((*flight).sent, now) };
    (same && ip.signature() != 0).then_some(flight)
}

/// What is known of the packet that was in this buffer last.
#[inline(always)]
fn entry(packet: Ptr, now: u64) -> Option<*mut Flight> {
    let berth = FLIGHTS.get_ptr_mut(spread::<FLIGHTS_BITS>(packet))?;
    // SAFETY: as in `flight`.
    unsafe {
        if (*berth).flight.packet == packet {
            return Some(&raw mut (*berth).flight);
        }
        if !is_recent((*berth).moved, now) {
            return None; // nobody who may be on the way still was moved from here
        }
    }
    MOVED_FLIGHTS.get_ptr_mut(packet)
}

/// The packet is no more.
#[inline(always)]
pub fn land(packet: Ptr) {
    if let Some(flight) = entry(packet, jiffies()) {
        // SAFETY: as in `flight`: one word, and nobody has sent it ever since.
        unsafe { (*flight).sent = 0 };
    }
}

/// Jiffies begin 5 min before they overflow 32 bits: 0 is never.
#[inline(always)]
fn is_recent(tick: u64, now: u64) -> bool {
    now.wrapping_sub(tick) * u64::from(layout::TICK_NS.load()) < FLIGHT_NS
}

/// Whose packet it is that is on none of a container's devices (0: nobody's), which way it goes, and by which of them it left.
/// Numbers, whether it is anybody's or not: the verifier must not find one that was never set.
#[inline(always)]
pub fn owner(flight: Option<*mut Flight>, ip: &Ip) -> (u32, u32, u32) {
    if let Some(flight) = flight {
        // SAFETY: as in `flight`.
        return unsafe { ((*flight).container, OUT, (*flight).through) };
    }
    let found = ip.owner();
    ((found >> 32) as u32, found as u32, 0)
}

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
pub fn jiffies() -> u64 {
    // SAFETY: takes no argument and cannot fail.
    unsafe { bpf_jiffies64() }
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
