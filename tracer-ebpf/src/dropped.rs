//! Which packets does the kernel drop, where, and why? (net/core/skbuff.c)

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel,
    macros::{map, raw_tracepoint},
    maps::LruPerCpuHashMap,
    programs::RawTracePointContext,
};
use tracer_common::{
    UNKNOWN_U32,
    dropped::{DropKey, Drops, SAMPLE},
};

use crate::kernel::{
    layout,
    read::{NOWHERE, Ptr, follow, place, u16_at, u32_at},
};

#[map]
static DROPS: LruPerCpuHashMap<DropKey, Drops> = LruPerCpuHashMap::with_max_entries(1, 0);

/// `sk_buff.network_header` that is not set.
const NO_HEADER: u16 = u16::MAX;

/// `skb:kfree_skb(struct sk_buff *skb, void *location[, enum skb_drop_reason reason[, struct sock *rx_sk]])`: consumed
/// packets have a tracepoint of their own.
#[raw_tracepoint(tracepoint = "kfree_skb")]
pub fn packet_drop(ctx: RawTracePointContext) -> i32 {
    let skb = ctx.arg::<u64>(0);
    let reason = if layout::DROP_HAS_REASON.load() == 1 { ctx.arg::<u32>(2) } else { UNKNOWN_U32 };
    let device = follow(skb, &layout::SKB_DEV);
    let of_device = netns(follow(device, &layout::DEVICE_NET));
    // A packet that was just made has no device yet; one that waits in a socket has other bits in its place.
    let has_device = of_device != UNKNOWN_U32;
    let of_socket = netns(follow(follow(skb, &layout::SKB_SK), &layout::SOCK_NET));
    let key = DropKey {
        location: ctx.arg::<u64>(1),
        netns: if has_device { of_device } else { of_socket },
        ifindex: if has_device { u32_at(place(device, &layout::DEVICE_IFINDEX)) } else { UNKNOWN_U32 },
        reason,
        protocol: u32::from(u16::from_be(u16_at(place(skb, &layout::SKB_PROTOCOL)))),
    };
    let nothing: &Drops = &NOTHING;
    let known = DROPS.get_ptr_mut(key);
    if known.is_none() {
        let _ = DROPS.insert(key, nothing, 0);
    }
    let Some(drops) = known.or_else(|| DROPS.get_ptr_mut(key)) else { return 0 };
    // SAFETY: this CPU's own value.
    let drops = unsafe { &mut *drops };
    drops.packets += 1;
    if drops.packets > 1 {
        return 0;
    }
    let header = u16_at(place(skb, &layout::SKB_NETWORK_HEADER));
    let head = follow(skb, &layout::SKB_HEAD);
    let at = if header == NO_HEADER { NOWHERE } else { head.wrapping_add(u64::from(header)) };
    // SAFETY: the helper checks the address itself, and zeroes what it cannot read.
    unsafe { bpf_probe_read_kernel(drops.first.as_mut_ptr().cast(), SAMPLE as u32, at as *const _) };
    0
}

#[inline(always)]
fn netns(net: Ptr) -> u32 {
    u32_at(place(net, &layout::NET_INUM))
}

/// From here and not from the stack, which it would fill.
static NOTHING: Drops = Drops { packets: 0, first: [0; SAMPLE] };
