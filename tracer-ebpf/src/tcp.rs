//! What does TCP send again, and which connections come to nothing? (net/ipv4/tcp_output.c, net/ipv4/tcp_timer.c)

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel,
    macros::{map, raw_tracepoint},
    maps::{HashMap, LruHashMap},
    programs::RawTracePointContext,
};
use tracer_common::tcp::{AF_INET, ATTEMPT, Flow, FlowKey, RefusalKey, WAITING, Waiter};

use crate::{
    kernel::{
        cgroup,
        emit::now,
        layout,
        read::{Ptr, follow, place, u8_at, u16_at, u32_at},
    },
    refusals::refuse,
};

#[map]
static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(1, 0);

/// Attempts that go on: the next SYN may be a minute away. Not an LRU map: what it has no room for must be counted. User space
/// takes out what waits no longer and was not seen to end.
#[map]
static SYN_WAITERS: HashMap<u64, Waiter> = HashMap::with_max_entries(1, 0);

/// include/net/tcp_states.h.
const SYN_SENT: u8 = 2;
const CLOSE: i32 = 7;
/// `enum tcp_ca_state`, five bits.
const RECOVERY: u8 = 3;
const LOSS: u8 = 4;
const CA_STATE: u8 = 0x1f;
/// A SYN that was sent again once may have met a neighbour that was not known yet.
const RESENT_SYNS: u32 = 2;

/// `tcp:tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb)`: once for each buffer, after it was sent and
/// counted. With `int err` since 6.17: also where it was not, for which a full queue of this host is enough.
#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
pub fn tcp_resent(ctx: RawTracePointContext) -> i32 {
    let sock = ctx.arg::<u64>(0);
    if u8_at(place(sock, &layout::SOCK_STATE)) == SYN_SENT {
        if u32_at(place(sock, &layout::TCP_TOTAL_RETRANS)) >= RESENT_SYNS {
            let key = attempt(sock, WAITING, 0);
            let kept = SYN_WAITERS.insert(sock, Waiter { key, last_ns: now() }, 0).is_ok();
            refuse(key, None, u64::from(!kept));
        }
        return 0;
    }
    if layout::RESENT_HAS_ERROR.load() == 1 && ctx.arg::<i32>(2) != 0 {
        return 0;
    }
    let key = flow(sock);
    let dsacks = u32_at(place(sock, &layout::TCP_DSACKS));
    let reorderings = u32_at(place(sock, &layout::TCP_REORD_SEEN));
    let mut known = FLOWS.get_ptr_mut(key);
    if known.is_none() {
        // This one is counted already.
        let resent = u32_at(place(sock, &layout::TCP_TOTAL_RETRANS)).wrapping_sub(1);
        let new = Flow { resent_before: resent, dsacks_before: dsacks, reorderings_before: reorderings, ..NOTHING };
        let _ = FLOWS.insert(key, new, 0);
        known = FLOWS.get_ptr_mut(key);
    }
    let Some(flow) = known else { return 0 };
    // SAFETY: the map's value; the kernel holds the socket's lock.
    let flow = unsafe { &mut *flow };
    match u8_at(place(sock, &layout::ICSK_CA_STATE)) & CA_STATE {
        RECOVERY => flow.fast += 1,
        LOSS => flow.timeout += 1,
        _ => flow.probe += 1,
    }
    flow.unanswered = u32::from(u8_at(place(sock, &layout::ICSK_RETRANSMITS)));
    look(sock, flow);
    0
}

/// `sock:inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`, also of other protocols.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn tcp_closed(ctx: RawTracePointContext) -> i32 {
    let sock = ctx.arg::<u64>(0);
    let was_waiting = ctx.arg::<i32>(1) == i32::from(SYN_SENT);
    if was_waiting {
        let _ = SYN_WAITERS.remove(sock);
    }
    if ctx.arg::<i32>(2) != CLOSE {
        return 0;
    }
    if u16_at(place(sock, &layout::SOCK_PROTOCOL)) != TCP {
        return 0;
    }
    if was_waiting {
        let errno = u32_at(place(sock, &layout::SOCK_ERR));
        // Whoever closes before an answer had time to come was not refused anything.
        if errno != 0 || u32_at(place(sock, &layout::TCP_TOTAL_RETRANS)) > 0 {
            refuse(attempt(sock, ATTEMPT, errno), None, 0);
        }
        return 0;
    }
    // What the peer said of the last retransmissions came after them.
    if let Some(flow) = FLOWS.get_ptr_mut(flow(sock)) {
        // SAFETY: as above.
        look(sock, unsafe { &mut *flow });
    }
    0
}

const TCP: u16 = 6;

#[inline(always)]
fn look(sock: Ptr, flow: &mut Flow) {
    flow.sent = u32_at(place(sock, &layout::TCP_DATA_SEGS_OUT));
    flow.resent = u32_at(place(sock, &layout::TCP_TOTAL_RETRANS));
    flow.dsacks = u32_at(place(sock, &layout::TCP_DSACKS));
    flow.reorderings = u32_at(place(sock, &layout::TCP_REORD_SEEN));
    flow.degree = u32_at(place(sock, &layout::TCP_REORDERING));
    // Kept eight times as large.
    flow.rtt_us = u32_at(place(sock, &layout::TCP_SRTT)) >> 3;
}

#[inline(always)]
fn flow(sock: Ptr) -> FlowKey {
    let mut key = FlowKey {
        cgroup: cgroup::id(follow(sock, &layout::SOCK_CGROUP)),
        netns: netns(sock),
        family: u16_at(place(sock, &layout::SOCK_FAMILY)),
        local_port: u16::from_be(u16_at(place(sock, &layout::INET_SPORT))),
        local: [0; 16],
        remote: [0; 16],
        remote_port: u16::from_be(u16_at(place(sock, &layout::SOCK_DPORT))),
        reserved: [0; 3],
    };
    if key.family == AF_INET {
        address(&mut key.local, 4, place(sock, &layout::SOCK_LOCAL));
        address(&mut key.remote, 4, place(sock, &layout::SOCK_REMOTE));
    } else {
        address(&mut key.local, 16, place(sock, &layout::SOCK_LOCAL6));
        address(&mut key.remote, 16, place(sock, &layout::SOCK_REMOTE6));
    }
    key
}

#[inline(always)]
fn attempt(sock: Ptr, kind: u32, errno: u32) -> RefusalKey {
    let mut key = RefusalKey {
        cgroup: cgroup::id(follow(sock, &layout::SOCK_CGROUP)),
        netns: netns(sock),
        family: u16_at(place(sock, &layout::SOCK_FAMILY)),
        port: u16::from_be(u16_at(place(sock, &layout::SOCK_DPORT))),
        address: [0; 16],
        kind,
        errno,
    };
    if key.family == AF_INET {
        address(&mut key.address, 4, place(sock, &layout::SOCK_REMOTE));
    } else {
        address(&mut key.address, 16, place(sock, &layout::SOCK_REMOTE6));
    }
    key
}

#[inline(always)]
fn netns(sock: Ptr) -> u32 {
    u32_at(place(follow(sock, &layout::SOCK_NET), &layout::NET_INUM))
}

#[inline(always)]
fn address(out: &mut [u8; 16], bytes: u32, at: Ptr) {
    // SAFETY: the helper checks the address itself, writes at most that much, and zeroes it where it fails.
    unsafe { bpf_probe_read_kernel(out.as_mut_ptr().cast(), bytes, at as *const _) };
}

const NOTHING: Flow = Flow {
    fast: 0,
    timeout: 0,
    probe: 0,
    unanswered: 0,
    sent: 0,
    resent_before: 0,
    resent: 0,
    dsacks_before: 0,
    dsacks: 0,
    reorderings_before: 0,
    reorderings: 0,
    degree: 0,
    rtt_us: 0,
};
