//! Which packets does the kernel drop, whose, where, and why? (net/core/skbuff.c)

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel,
    macros::{btf_tracepoint, map, raw_tracepoint},
    maps::LruPerCpuHashMap,
    programs::{BtfTracePointContext, RawTracePointContext},
};
use tracer_common::{
    UNKNOWN_U32,
    dropped::{DropKey, Drops, INWARD, MULTICAST, NO_CARRIER, OUTWARD, SAMPLE},
    hops::OUT,
};

use crate::flow;
use crate::kernel::{
    layout,
    packet::{self, At, Buffer, Ip},
    read::{NOWHERE, Ptr, follow, known, place, u64_at},
};

#[map]
static DROPS: LruPerCpuHashMap<DropKey, Drops> = LruPerCpuHashMap::with_max_entries(1, 0);

/// `skb:kfree_skb(struct sk_buff *skb, void *location[, enum skb_drop_reason reason[, struct sock *rx_sk]])`: consumed
/// packets have a tracepoint of their own.
#[btf_tracepoint(function = "kfree_skb")]
pub fn packet_drop_typed(ctx: BtfTracePointContext) -> i32 {
    let skb: Ptr = ctx.arg(0);
    let reason = if layout::DROP_HAS_REASON.load() == 1 { ctx.arg(2) } else { UNKNOWN_U32 };
    // SAFETY: an argument of a typed tracepoint, and what it leads to.
    unsafe {
        let (device, sock) = (known::u64(skb, &layout::SKB_DEV), known::u64(skb, &layout::SKB_SK));
        let state = known::u64(device, &layout::DEVICE_STATE);
        // Newer kernels want to see that it is asked whether there is one.
        let socks = if sock == 0 { UNKNOWN_U32 } else { packet::netns_typed(sock, &layout::SOCK_NET) };
        dropped(&Buffer::typed(skb), packet::at_typed(device), state, socks, ctx.arg(1), reason);
    }
    0
}

#[raw_tracepoint(tracepoint = "kfree_skb")]
pub fn packet_drop(ctx: RawTracePointContext) -> i32 {
    let skb = ctx.arg::<u64>(0);
    let reason = if layout::DROP_HAS_REASON.load() == 1 { ctx.arg::<u32>(2) } else { UNKNOWN_U32 };
    let at = packet::at(follow(skb, &layout::SKB_DEV));
    let state = u64_at(place(at.device, &layout::DEVICE_STATE));
    let has_none = at.netns == UNKNOWN_U32;
    let socks =
        if has_none { packet::netns(follow(follow(skb, &layout::SKB_SK), &layout::SOCK_NET)) } else { UNKNOWN_U32 };
    dropped(&Buffer::of(skb), at, state, socks, ctx.arg(1), reason);
    0
}

/// `state`: the device's; `socks`: the namespace of the packet's socket.
#[inline(always)]
fn dropped(buffer: &Buffer, at: At, state: u64, socks: u32, location: u64, reason: u32) {
    let netns = if at.netns == UNKNOWN_U32 { socks } else { at.netns };
    let header = buffer.network_header();
    let ip = packet::ip(buffer, header);
    let (container, way) = whose(buffer, &ip, netns);
    packet::land(buffer.skb);
    let key = DropKey {
        location,
        container,
        netns,
        ifindex: at.ifindex,
        reason,
        // Those that somebody may miss; the rest is one.
        protocol: match ip.ethertype {
            0x0800 | 0x0806 | 0x86dd => ip.ethertype,
            _ => 0,
        },
        flags: u32::from(ip.is_multicast()) * MULTICAST + u32::from(at.is_down(state)) * NO_CARRIER + way,
    };
    flow::dropped(buffer, at, &ip, (container, key.flags), reason, key.location);
    let nothing: &Drops = &NOTHING;
    let known = DROPS.get_ptr_mut(key);
    if known.is_none() {
        let _ = DROPS.insert(key, nothing, 0);
    }
    let Some(drops) = known.or_else(|| DROPS.get_ptr_mut(key)) else { return };
    // SAFETY: this CPU's own value.
    let drops = unsafe { &mut *drops };
    // What is in the place of a device where there is none is a number that means nothing.
    let device = if at.ifindex == UNKNOWN_U32 { NOWHERE } else { at.device };
    if packet::is_to_look_at(&drops.met, device) {
        // SAFETY: this CPU's own value.
        let is_another = unsafe { packet::look(device, &raw mut drops.met, &raw mut drops.device) };
        if is_another {
            drops.packets = 0;
        }
    }
    drops.packets += 1;
    if drops.packets > 1 {
        return;
    }
    let linear = buffer.linear(header);
    drops.readable = if linear < SAMPLE as u64 { linear } else { SAMPLE as u64 };
    // SAFETY: the helper checks the address itself, and zeroes what it cannot read; the device's is this CPU's own value.
    unsafe {
        bpf_probe_read_kernel(drops.first.as_mut_ptr().cast(), SAMPLE as u32, header as *const _);
        packet::describe(packet::next_device(buffer.skb), &raw mut drops.next);
    }
}

/// The container's namespace, 0 where it is none's, and the way, which is 0 where that is not known. A function of its own, for the
/// stack.
#[inline(always)]
fn whose(buffer: &Buffer, ip: &Ip, netns: u32) -> (u32, u32) {
    let whose = find_owner(buffer, ip, netns);
    ((whose >> 32) as u32, whose as u32)
}

#[inline(never)]
fn find_owner(buffer: &Buffer, ip: &Ip, netns: u32) -> u64 {
    let (container, way) = if packet::is_containers(netns) {
        (
            netns,
            if ip.is_from(netns) {
                OUTWARD
            } else if ip.is_to(netns) {
                INWARD
            } else {
                0
            },
        )
    } else {
        let (container, flow, _) = packet::owner(packet::flight(buffer.skb, ip), ip);
        let way = if flow == OUT { OUTWARD } else { INWARD };
        (container, if container == 0 { 0 } else { way })
    };
    u64::from(container) << 32 | u64::from(way)
}

/// From here and not from the stack, which it would fill.
// SAFETY: plain numbers, for which zeros are a value.
static NOTHING: Drops = unsafe { core::mem::zeroed() };
