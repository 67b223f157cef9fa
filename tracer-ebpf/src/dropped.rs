//! Which packets does the kernel drop, whose, where, and why? (net/core/skbuff.c)

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel,
    macros::{map, raw_tracepoint},
    maps::LruPerCpuHashMap,
    programs::RawTracePointContext,
};
use tracer_common::{
    UNKNOWN_U32,
    dropped::{DropKey, Drops, INWARD, MULTICAST, NO_CARRIER, OUTWARD, SAMPLE},
    hops::OUT,
};

use crate::flow;
use crate::kernel::{
    layout,
    packet::{self, Buffer, Ip},
    read::{NOWHERE, follow},
};

#[map]
static DROPS: LruPerCpuHashMap<DropKey, Drops> = LruPerCpuHashMap::with_max_entries(1, 0);

/// `skb:kfree_skb(struct sk_buff *skb, void *location[, enum skb_drop_reason reason[, struct sock *rx_sk]])`: consumed
/// packets have a tracepoint of their own.
#[raw_tracepoint(tracepoint = "kfree_skb")]
pub fn packet_drop(ctx: RawTracePointContext) -> i32 {
    let skb = ctx.arg::<u64>(0);
    let reason = if layout::DROP_HAS_REASON.load() == 1 { ctx.arg::<u32>(2) } else { UNKNOWN_U32 };
    let at = packet::at(follow(skb, &layout::SKB_DEV));
    let netns = if at.netns == UNKNOWN_U32 {
        packet::netns(follow(follow(skb, &layout::SKB_SK), &layout::SOCK_NET))
    } else {
        at.netns
    };
    let buffer = Buffer::of(skb);
    let header = buffer.network_header();
    let ip = packet::ip(&buffer, header);
    let (container, way) = whose(&buffer, &ip, netns);
    packet::land(skb);
    let key = DropKey {
        location: ctx.arg::<u64>(1),
        container,
        netns,
        ifindex: at.ifindex,
        reason,
        // Those that somebody may miss; the rest is one.
        protocol: match ip.ethertype {
            0x0800 | 0x0806 | 0x86dd => ip.ethertype,
            _ => 0,
        },
        flags: u32::from(ip.is_multicast()) * MULTICAST + u32::from(at.is_down()) * NO_CARRIER + way,
    };
    flow::dropped(&buffer, &ip, (container, key.flags), reason, key.location);
    let nothing: &Drops = &NOTHING;
    let known = DROPS.get_ptr_mut(key);
    if known.is_none() {
        let _ = DROPS.insert(key, nothing, 0);
    }
    let Some(drops) = known.or_else(|| DROPS.get_ptr_mut(key)) else { return 0 };
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
        return 0;
    }
    let linear = buffer.linear(header);
    drops.readable = if linear < SAMPLE as u64 { linear } else { SAMPLE as u64 };
    // SAFETY: the helper checks the address itself, and zeroes what it cannot read; the device's is this CPU's own value.
    unsafe {
        bpf_probe_read_kernel(drops.first.as_mut_ptr().cast(), SAMPLE as u32, header as *const _);
        packet::describe(packet::next_device(skb), &raw mut drops.next);
    }
    0
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
