//! Through which devices do a container's packets go, and how long does that take? (net/core/dev.c)
//!
//! Hot: what is on no container's device, in no flight and has no container's address costs two or three lookups.

use aya_ebpf::{
    macros::{map, raw_tracepoint},
    maps::LruPerCpuHashMap,
    programs::RawTracePointContext,
};
use tracer_common::hops::{BUCKETS, FIRST_BUCKET_SHIFT, Flight, Hop, HopKey, IN, OUT, RECEIVE, XMIT};

use crate::{
    dns, flow,
    kernel::{
        emit::now,
        layout,
        packet::{self, At, FLIGHT, Ip},
        read::{Ptr, follow},
    },
};

#[map]
static HOPS: LruPerCpuHashMap<HopKey, Hop> = LruPerCpuHashMap::with_max_entries(1, 0);

/// `net:net_dev_start_xmit(const struct sk_buff *skb, const struct net_device *dev)`: before the driver has it.
#[raw_tracepoint(tracepoint = "net_dev_start_xmit")]
pub fn packet_sent(ctx: RawTracePointContext) -> i32 {
    let skb = ctx.arg::<u64>(0);
    let at = packet::at(ctx.arg::<u64>(1));
    let head = packet::head(skb);
    let header = packet::network_header(skb, head);
    let ip = packet::ip(skb, header);
    let now_ns = now();
    if packet::is_containers(at.netns) {
        dns::sent((skb, head), at.netns, &ip, header, now_ns);
        depart(skb, ip.signature(), at.netns, at.ifindex, now_ns);
        count((skb, head, None), at, &ip, (at.netns, OUT, at.ifindex), None);
        flow::passed(skb, &ip, XMIT, Some((at.netns, OUT, at.ifindex)));
        return 0;
    }
    let flight = packet::flight(skb, &ip, now_ns);
    // SAFETY: the map's value; who has the packet is here.
    let since_ns = flight.map(|flight| now_ns.wrapping_sub(unsafe { (*flight).sent_ns }));
    let whose = packet::owner(flight, &ip);
    if let Some(whose) = whose {
        count((skb, head, None), at, &ip, whose, since_ns.map(|ns| (ns, false)));
    }
    flow::passed(skb, &ip, XMIT, whose);
    0
}

/// The packet is on its way from that container. A function of its own, beside those of DNS, for the stack.
#[inline(never)]
fn depart(skb: Ptr, signature: u64, container: u32, through: u32, sent_ns: u64) {
    let flight = Flight { sent_ns, signature, container, received: 0, through, reserved: 0 };
    // Buffers are used again and again: to write over the last one costs less than an insertion.
    if let Some(known) = FLIGHT.get_ptr_mut(skb) {
        // SAFETY: the map's value; who has the packet is here.
        unsafe { *known = flight };
    } else {
        let _ = FLIGHT.insert(skb, flight, 0);
    }
}

/// `net:netif_receive_skb(struct sk_buff *skb)`: its data begins with the network header, which is not set yet.
#[raw_tracepoint(tracepoint = "netif_receive_skb")]
pub fn packet_received(ctx: RawTracePointContext) -> i32 {
    let skb = ctx.arg::<u64>(0);
    let at = packet::at(follow(skb, &layout::SKB_DEV));
    let head = packet::head(skb);
    let header = follow(skb, &layout::SKB_DATA);
    let ip = packet::ip(skb, header);
    if packet::is_containers(at.netns) {
        dns::received((skb, head), at.netns, &ip, header);
        count((skb, head, Some(header)), at, &ip, (at.netns, IN, at.ifindex), None);
        flow::passed(skb, &ip, RECEIVE, Some((at.netns, IN, at.ifindex)));
        return 0;
    }
    let now_ns = now();
    let flight = packet::flight(skb, &ip, now_ns);
    let mut since = None;
    if let Some(flight) = flight {
        // SAFETY: the map's value; who has the packet is here.
        unsafe {
            since = Some((now_ns.wrapping_sub((*flight).sent_ns), (*flight).received == 0));
            (*flight).received += 1;
        }
    }
    let whose = packet::owner(flight, &ip);
    if let Some(whose) = whose {
        count((skb, head, Some(header)), at, &ip, whose, since);
    }
    flow::passed(skb, &ip, RECEIVE, whose);
    0
}

/// The packet, its buffer, and where its data begins if a device received it. `since`: the time since the container's device
/// had it, and whether it comes straight from there.
#[inline(always)]
fn count(
    (skb, head, received): (Ptr, Ptr, Option<Ptr>),
    at: At,
    ip: &Ip,
    (container, flow, through): (u32, u32, u32),
    since: Option<(u64, bool)>,
) {
    let direction = if received.is_some() { RECEIVE } else { XMIT };
    // Who makes up protocols must not push the others out: only TCP is told apart.
    let protocol = if ip.protocol() == 6 { ip.ethertype | 6 << 16 } else { 0 };
    let key = HopKey { container, netns: at.netns, ifindex: at.ifindex, direction, flow, protocol, through };
    let nothing: &Hop = &NOTHING;
    let known = HOPS.get_ptr_mut(key);
    if known.is_none() {
        let _ = HOPS.insert(key, nothing, 0);
    }
    let Some(hop) = known.or_else(|| HOPS.get_ptr_mut(key)) else { return };
    // SAFETY: this CPU's own value.
    let hop = unsafe { &mut *hop };
    if packet::is_to_look_at(&hop.met, at.device) {
        // SAFETY: likewise.
        let is_another = unsafe { packet::look(at.device, &raw mut hop.met, &raw mut hop.device) };
        if is_another {
            // One by one: a copy of the rest would be on the stack, which is full.
            (hop.packets, hop.segments, hop.bytes, hop.direct, hop.untranslated) = (0, 0, 0, 0, 0);
            (hop.since_ns, hop.since_count) = (0, 0);
            hop.since = [0; BUCKETS];
        }
    }
    hop.packets += 1;
    hop.segments += packet::segments(skb, head);
    hop.bytes += packet::bytes(skb, head, received);
    // Of interest where packets leave.
    if flow == OUT && received.is_none() && at.netns != container {
        hop.untranslated += u64::from(ip.is_from(container));
    }
    if let Some((ns, direct)) = since {
        hop.direct += u64::from(direct);
        hop.since_ns += ns;
        hop.since_count += 1;
        let bucket = ((ns >> FIRST_BUCKET_SHIFT) | 1).ilog2() as usize;
        hop.since[if bucket < BUCKETS { bucket } else { BUCKETS - 1 }] += 1;
    }
}

/// From here and not from the stack, which it would fill.
// SAFETY: plain numbers, for which zeros are a value.
static NOTHING: Hop = unsafe { core::mem::zeroed() };
