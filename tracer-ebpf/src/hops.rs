//! Through which devices do a container's packets go, and how long does that take? (net/core/dev.c)
//!
//! Hot: each read and each lookup is a call of some 35 ns. What stands together is read together, and what was found of a device
//! holds for a tick.

use aya_ebpf::{
    macros::{btf_tracepoint, map, raw_tracepoint},
    maps::{LruPerCpuHashMap, PerCpuArray},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use tracer_common::hops::{
    BUCKETS, FIRST_BUCKET_SHIFT, Hop, HopKey, IN, OUT, Passed, RECEIVE, SUMS_BITS, Sum, TIMED_EACH, TIMED_FIRST, XMIT,
};

use crate::{
    dns, flow,
    kernel::{
        emit::now,
        layout,
        packet::{self, At, Buffer, Ip},
        read::{Ptr, follow, known},
        spread::spread,
    },
};

#[map]
static HOPS: LruPerCpuHashMap<HopKey, Hop> = LruPerCpuHashMap::with_max_entries(1, 0);

/// Packets come in rows of one kind: they are summed here, and looked up once in a tick. By device and direction.
#[map]
static SUMS: PerCpuArray<Sum> = PerCpuArray::with_max_entries(1, 0);

/// `net:net_dev_start_xmit(const struct sk_buff *skb, const struct net_device *dev)`: before the driver has it.
#[btf_tracepoint(function = "net_dev_start_xmit")]
pub fn packet_sent_typed(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: arguments of a typed tracepoint.
    let buffer = unsafe { Buffer::typed(ctx.arg(0)) };
    sent(&buffer, known::number(ctx.arg(1)));
    0
}

#[raw_tracepoint(tracepoint = "net_dev_start_xmit")]
pub fn packet_sent(ctx: RawTracePointContext) -> i32 {
    sent(&Buffer::of(ctx.arg::<u64>(0)), ctx.arg::<u64>(1));
    0
}

#[inline(always)]
fn sent(buffer: &Buffer, device: Ptr) {
    let (at, is_containers, number) = packet::at_work(device, 1);
    let header = buffer.network_header();
    let ip = packet::ip(buffer, header);
    if is_containers {
        dns::sent(buffer, at.netns, &ip, header);
        let is_timed = number <= TIMED_FIRST || number.is_multiple_of(TIMED_EACH);
        packet::depart(buffer.skb, ip.signature(), if is_timed { now() } else { 0 }, at.netns, at.ifindex);
        count(buffer, at, &ip, XMIT, (at.netns, OUT, at.ifindex), None);
        flow::passed(buffer, at, &ip, XMIT, (at.netns, OUT));
        return;
    }
    let flight = packet::flight(buffer.skb, &ip);
    let whose = packet::owner(flight, &ip);
    if whose.0 != 0 {
        // SAFETY: the map's value; who has the packet is here.
        let since = flight.map(|flight| (unsafe { (*flight).sent_ns }, false));
        count(buffer, at, &ip, XMIT, whose, since);
    }
    flow::passed(buffer, at, &ip, XMIT, (whose.0, whose.1));
}

/// `net:netif_receive_skb(struct sk_buff *skb)`: its data begins with the network header, which is not set yet.
#[btf_tracepoint(function = "netif_receive_skb")]
pub fn packet_received_typed(ctx: BtfTracePointContext) -> i32 {
    let skb = ctx.arg(0);
    // SAFETY: an argument of a typed tracepoint.
    let (buffer, device) = unsafe { (Buffer::typed(skb), known::u64(skb, &layout::SKB_DEV)) };
    received(&buffer, known::number(device));
    0
}

#[raw_tracepoint(tracepoint = "netif_receive_skb")]
pub fn packet_received(ctx: RawTracePointContext) -> i32 {
    let skb = ctx.arg::<u64>(0);
    received(&Buffer::of(skb), follow(skb, &layout::SKB_DEV));
    0
}

#[inline(always)]
fn received(buffer: &Buffer, device: Ptr) {
    let (at, is_containers, _) = packet::at_work(device, 0);
    let header = buffer.data;
    let ip = packet::ip(buffer, header);
    if is_containers {
        dns::received(buffer, at.netns, &ip, header);
        count(buffer, at, &ip, RECEIVE, (at.netns, IN, at.ifindex), None);
        flow::passed(buffer, at, &ip, RECEIVE, (at.netns, IN));
        return;
    }
    let flight = packet::flight(buffer.skb, &ip);
    let mut since = None;
    if let Some(flight) = flight {
        // SAFETY: the map's value; who has the packet is here.
        unsafe {
            since = Some(((*flight).sent_ns, (*flight).received == 0));
            (*flight).received += 1;
        }
    }
    let whose = packet::owner(flight, &ip);
    if whose.0 != 0 {
        count(buffer, at, &ip, RECEIVE, whose, since);
    }
    flow::passed(buffer, at, &ip, RECEIVE, (whose.0, whose.1));
}

/// `since`: when the container's device had it, 0 where that is not among those that are timed, and whether it comes straight from
/// there.
#[inline(always)]
fn count(buffer: &Buffer, at: At, ip: &Ip, direction: u32, whose: (u32, u32, u32), since: Option<(u64, bool)>) {
    let (container, flow, through) = whose;
    let (sent_ns, is_direct) = since.unwrap_or((0, false));
    // Who makes up protocols must not push the others out: only TCP is told apart.
    let protocol = if ip.protocol() == 6 { ip.ethertype | 6 << 16 } else { 0 };
    let key = &HopKey { container, netns: at.netns, ifindex: at.ifindex, direction, flow, protocol, through };
    let device = at.device;
    let Some(sum) = SUMS.get_ptr_mut(spread::<SUMS_BITS>(device) << 1 | key.direction & 1) else { return };
    // SAFETY: this CPU's own value, and both hooks run with softirqs off: nothing else of the kind comes in between.
    let sum = unsafe { &mut *sum };
    let tick = packet::jiffies();
    let received = if key.direction == RECEIVE { Some(buffer.data) } else { None };
    // Of interest where packets leave.
    let leaves = key.flow == OUT && key.direction == XMIT && key.netns != key.container;
    let untranslated = u64::from(leaves && ip.is_from(key.container));
    let passed = Passed {
        packets: 1,
        segments: buffer.segments(),
        bytes: buffer.bytes(received),
        direct: u64::from(is_direct),
        untranslated,
    };
    if sum.tick == tick && sum.device == device && is_same(&sum.key, key) {
        if sent_ns == 0 {
            sum.passed.add(&passed);
            return;
        }
    } else {
        settle(sum);
        *sum = Sum { key: *key, reserved: 0, device, tick, passed: Passed::NOTHING };
    }
    let nothing: &Hop = &NOTHING;
    let known = HOPS.get_ptr_mut(key);
    if known.is_none() {
        let _ = HOPS.insert(key, nothing, 0);
    }
    let Some(hop) = known.or_else(|| HOPS.get_ptr_mut(key)) else { return };
    // SAFETY: this CPU's own value.
    let hop = unsafe { &mut *hop };
    if packet::is_to_look_at(&hop.met, device) {
        // SAFETY: likewise.
        let is_another = unsafe { packet::look(device, &raw mut hop.met, &raw mut hop.device) };
        if is_another {
            hop.passed = Passed::NOTHING;
            (hop.since_ns, hop.since_count) = (0, 0);
            hop.since = [0; BUCKETS];
        }
    }
    hop.passed.add(&passed);
    if sent_ns != 0 {
        let ns = now().wrapping_sub(sent_ns);
        hop.since_ns += ns;
        hop.since_count += 1;
        let bucket = ((ns >> FIRST_BUCKET_SHIFT) | 1).ilog2() as usize;
        hop.since[if bucket < BUCKETS { bucket } else { BUCKETS - 1 }] += 1;
    }
}

/// Adds what was summed to the counts of its kind, if they are still those of that device.
#[inline(always)]
fn settle(sum: &Sum) {
    if sum.passed.packets != 0
        && let Some(hop) = HOPS.get_ptr_mut(sum.key)
    {
        // SAFETY: this CPU's own value.
        let hop = unsafe { &mut *hop };
        if hop.met.address == sum.device {
            hop.passed.add(&sum.passed);
        }
    }
}

/// Without a branch for each field.
#[inline(always)]
fn is_same(one: &HopKey, other: &HopKey) -> bool {
    (one.container ^ other.container)
        | (one.netns ^ other.netns)
        | (one.ifindex ^ other.ifindex)
        | (one.direction ^ other.direction)
        | (one.flow ^ other.flow)
        | (one.protocol ^ other.protocol)
        | (one.through ^ other.through)
        == 0
}

/// From here and not from the stack, which it would fill.
// SAFETY: plain numbers, for which zeros are a value.
static NOTHING: Hop = unsafe { core::mem::zeroed() };
