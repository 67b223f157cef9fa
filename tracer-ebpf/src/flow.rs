//! Which way does each packet of one flow go, step by step?
//!
//! No hook of its own: those of packets (`hops`, `dropped`) have each of them in hand. Where no flow is asked for the verifier
//! takes all of it out.

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel, macros::map, maps::LruHashMap};
use tracer_common::{
    UNKNOWN_U32, UNKNOWN_U64,
    dropped::{INWARD, OUTWARD, SAMPLE},
    flow::{DROPPED, Followed, ICMP, ICMPV6, Step},
    hops::{Address, OUT, RECEIVE, XMIT},
};

use crate::kernel::{
    emit::{self, now},
    layout,
    packet::{self, At, Buffer, FLIGHT_NS, Ip},
    read::{self, Ptr},
};

#[map]
static FOLLOWED: LruHashMap<u64, Followed> = LruHashMap::with_max_entries(1, 0);

/// Is any flow asked for? Known when the programs are loaded.
#[inline(always)]
pub fn is_wanted() -> bool {
    layout::WANT_FLOW_PROTOCOL.load() != 0
}

/// A step at a device, to or from that container; 0: of nobody's that is known.
#[inline(always)]
pub fn passed(buffer: &Buffer, at: At, ip: &Ip, what: u32, (container, flow): (u32, u32)) {
    // Not by the way alone: where there is none, 6.1 ran the comparison with what stands for that as if it were OUT.
    let flags = if container == 0 {
        0
    } else if flow == OUT {
        OUTWARD
    } else {
        INWARD
    };
    step(buffer, at, ip, (what, container, flags), UNKNOWN_U32, 0);
}

/// The last one: its buffer is free. `flags` as in the counts of drops.
#[inline(always)]
pub fn dropped(buffer: &Buffer, at: At, ip: &Ip, (container, flags): (u32, u32), reason: u32, location: u64) {
    step(buffer, at, ip, (DROPPED, container, flags), reason, location);
    if is_wanted() {
        let _ = FOLLOWED.remove(buffer.skb);
    }
}

#[inline(always)]
fn step(buffer: &Buffer, at: At, ip: &Ip, (what, container, flags): (u32, u32, u32), reason: u32, location: u64) {
    if is_wanted() {
        let first_ns = first_met(buffer, what, ip, at.device, at.netns);
        if first_ns != 0 {
            tell(buffer, u64::from(container) << 32 | u64::from(what << 8 | flags), reason, location, first_ns);
        }
    }
}

/// Functions of their own, here and below, one after the other, to which their callers, whose stack is full, give numbers and
/// pointers alone: `step` is the container, what happened and the flags.
#[inline(never)]
fn tell(buffer: &Buffer, step: u64, reason: u32, location: u64, first_ns: u64) {
    let (container, what, flags) = ((step >> 32) as u32, step as u32 >> 8 & 0xff, step as u32 & 0xff);
    emit::emit::<Step>(UNKNOWN_U64, |step| {
        let device = read::follow(buffer.skb, &layout::SKB_DEV);
        let header = header(buffer, what);
        let linear = buffer.linear(header);
        // SAFETY: a reserved record; every field but the header is written, the last ones by helpers that zero what they cannot
        // read.
        unsafe {
            let at = packet::at(device);
            (*step).netns = at.netns;
            (*step).ifindex = at.ifindex;
            (*step).packet = buffer.skb;
            (*step).first_ns = first_ns;
            (*step).location = location;
            (*step).reason = reason;
            (*step).what = what;
            (*step).container = container;
            (*step).flags = flags;
            (*step).protocol = buffer.ethertype();
            (*step).readable = if linear < SAMPLE as u64 { linear as u32 } else { SAMPLE as u32 };
            (*step).device.reserved = 0;
            packet::describe(device, &raw mut (*step).device);
            bpf_probe_read_kernel((&raw mut (*step).bytes).cast(), SAMPLE as u32, header as *const _);
        }
    });
}

/// Where the packet's network header begins. Of one that was just received that is not set yet: its data begins there.
#[inline(always)]
fn header(buffer: &Buffer, what: u32) -> Ptr {
    if what == RECEIVE { buffer.data } else { buffer.network_header() }
}

/// When that packet was met first, which may be now; 0: it is none of the flow.
#[inline(never)]
fn first_met(buffer: &Buffer, what: u32, ip: &Ip, device: Ptr, netns: u32) -> u64 {
    let skb = buffer.skb;
    let (source_port, destination_port) = ip.ports(buffer, header(buffer, what)).unwrap_or((0, 0));
    let signature = ip.signature();
    let (place, netns) = (device | u64::from(what), u64::from(netns));
    let received = if what == RECEIVE { netns } else { 0 };
    let (source, destination) = (mixed(ip.source(), source_port), mixed(ip.destination(), destination_port));
    let now_ns = now();
    if let Some(known) = FOLLOWED.get_ptr_mut(skb) {
        // SAFETY: the map's value; who has the packet is here.
        let known = unsafe { &mut *known };
        let is_one = known.signature == signature && now_ns.wrapping_sub(known.last_ns) < FLIGHT_NS;
        let arrived = what == XMIT && known.received != 0 && known.received != netns;
        if is_one && !arrived && known.place != place && (known.source == source || known.destination == destination) {
            known.last_ns = now_ns;
            known.source = source;
            known.destination = destination;
            known.received = received;
            return known.first_ns;
        }
    }
    if !is_meant(ip, source_port, destination_port) {
        return 0;
    }
    let new = Followed { signature, first_ns: now_ns, last_ns: now_ns, place, source, destination, received };
    let _ = FOLLOWED.insert(skb, new, 0);
    now_ns
}

/// An end, in one word.
#[inline(always)]
fn mixed(address: Address, port: u16) -> u64 {
    let address = u128::from_ne_bytes(address);
    ((address >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(address as u64) ^ u64::from(port)
}

/// Does it go to the end that was named, or come from there?
#[inline(always)]
fn is_meant(ip: &Ip, source_port: u16, destination_port: u16) -> bool {
    let protocol = layout::WANT_FLOW_PROTOCOL.load();
    let own = u32::from(ip.protocol());
    if own != protocol && !(protocol == ICMP && own == ICMPV6) {
        return false;
    }
    let (to, from) = (is_named(&ip.destination()), is_named(&ip.source()));
    if !to && !from {
        return false;
    }
    if protocol == ICMP {
        return true;
    }
    // Not 0, which is what could not be read.
    let port = layout::WANT_FLOW_PORT.load();
    (to && u32::from(destination_port) == port) || (from && u32::from(source_port) == port)
}

#[inline(always)]
fn is_named(address: &Address) -> bool {
    let word = |at: usize| u32::from_be_bytes([address[at], address[at + 1], address[at + 2], address[at + 3]]);
    word(12) == layout::WANT_FLOW_ADDRESS_3.load()
        && word(8) == layout::WANT_FLOW_ADDRESS_2.load()
        && word(4) == layout::WANT_FLOW_ADDRESS_1.load()
        && word(0) == layout::WANT_FLOW_ADDRESS_0.load()
}
