//! Which names does a container ask for in vain? Queries over UDP that its device sends, each matched to its answer.
//!
//! No hook of its own: the two of packets (`hops`) have each of them in hand, and know whose it is.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, LruPerCpuHashMap},
};
use tracer_common::{
    UNKNOWN_U64,
    dns::{IN_TIME_NS, Query, QueryKey, Server, ServerKey},
    hops::Address,
};

use crate::kernel::{
    cgroup,
    emit::now,
    layout,
    packet::{self, Buffer, Ip, Udp},
    read::{Ptr, follow},
};

/// Not an LRU map: what it has no room for must be counted. User space takes out what waited too long.
#[map]
static DNS_QUERIES: HashMap<QueryKey, Query> = HashMap::with_max_entries(1, 0);

#[map]
static DNS_SERVERS: LruPerCpuHashMap<ServerKey, Server> = LruPerCpuHashMap::with_max_entries(1, 0);

const PORT: u16 = 53;

/// Of a UDP header.
const PORTS: u64 = 8;
/// … and of it with what is read of a message of DNS, whose own header is longer.
const MESSAGE: u64 = 12;
/// … and of IPv4 and UDP together.
const LONGEST_HEADERS: u64 = 60 + PORTS;
const SHORTEST: u16 = 20;

/// A device of the container sends a packet.
#[inline(always)]
pub fn sent(buffer: &Buffer, netns: u32, ip: &Ip, header: Ptr) {
    if ip.may_be_udp(PORT, 1)
        && let Some(udp) = ip.udp(buffer, header)
        && udp.readable >= PORTS
        && udp.destination == PORT
        && udp.length >= SHORTEST
        && !(udp.readable >= MESSAGE && udp.is_answer)
    {
        let outcome = asked(buffer.skb, netns, ip, &udp);
        if outcome != NO_NEWS {
            let cgroup = cgroup::id(follow(follow(buffer.skb, &layout::SKB_SK), &layout::SOCK_CGROUP));
            count_query(cgroup, netns, ip, outcome);
        }
    }
}

/// What becomes of a query.
const NO_NEWS: u64 = 0;
const WAITS: u64 = 1;
const NO_ROOM: u64 = 2;
const UNREADABLE: u64 = 3;

/// Functions of their own, here and below, one after the other: their keys are on the stack, as those of hops are, and all calls
/// that wait for each other have 512 bytes together, each rounded up to 32 by older kernels.
#[inline(never)]
fn asked(skb: Ptr, netns: u32, ip: &Ip, udp: &Udp) -> u64 {
    // Not what it only forwards for others, whose own device sent it before.
    let sock = follow(skb, &layout::SKB_SK);
    if packet::netns(follow(sock, &layout::SOCK_NET)) != netns {
        return NO_NEWS;
    }
    if udp.readable < MESSAGE {
        return UNREADABLE;
    }
    let key = key(netns, ip.source(), ip.destination(), udp.source, udp.id);
    let now_ns = now();
    if let Some(known) = DNS_QUERIES.get_ptr_mut(key) {
        // Asked again, or on its way through another device: one query, whose answer is waited for from now on.
        // SAFETY: the map's value; one word.
        unsafe { (*known).sent_ns = now_ns };
        return NO_NEWS;
    }
    let query = Query { cgroup: cgroup::id(follow(sock, &layout::SOCK_CGROUP)), sent_ns: now_ns };
    if DNS_QUERIES.insert(key, query, 0).is_ok() { WAITS } else { NO_ROOM }
}

#[inline(never)]
fn count_query(cgroup: u64, netns: u32, ip: &Ip, outcome: u64) {
    let Some(server) = server(cgroup, ip.destination(), netns) else { return };
    // SAFETY: this CPU's own value.
    let server = unsafe { &mut *server };
    server.queries += 1;
    server.lost += u64::from(outcome == NO_ROOM);
    server.unreadable += u64::from(outcome == UNREADABLE);
}

/// A device of the container receives one.
#[inline(always)]
pub fn received(buffer: &Buffer, netns: u32, ip: &Ip, header: Ptr) {
    // What cannot be read may be anything.
    if !ip.may_be_udp(PORT, 0) && buffer.linear(header) >= LONGEST_HEADERS {
        return;
    }
    let Some(udp) = ip.udp(buffer, header) else { return };
    if udp.readable >= MESSAGE {
        if udp.source == PORT && udp.is_answer {
            answered(netns, ip, &udp);
        }
    } else if udp.readable < PORTS || (udp.source == PORT && udp.length >= SHORTEST) {
        answered_unread(netns, ip);
    }
}

/// Whose answer it is, if it is one, is not known.
#[inline(never)]
fn answered_unread(netns: u32, ip: &Ip) {
    if let Some(server) = server(UNKNOWN_U64, ip.source(), netns) {
        // SAFETY: this CPU's own value.
        unsafe { (*server).unreadable += 1 };
    }
}

#[inline(never)]
fn answered(netns: u32, ip: &Ip, udp: &Udp) {
    let key = key(netns, ip.destination(), ip.source(), udp.destination, udp.id);
    let Some(query) = DNS_QUERIES.get_ptr(key) else { return };
    // SAFETY: the map's value, copied out at once.
    let query = unsafe { *query };
    if DNS_QUERIES.remove(key).is_err() {
        return; // user space took it for missing meanwhile
    }
    let Some(server) = server(query.cgroup, key.server, netns) else { return };
    let in_time = now().wrapping_sub(query.sent_ns) < IN_TIME_NS;
    // SAFETY: this CPU's own value.
    let server = unsafe { &mut *server };
    server.answers += u64::from(in_time);
    server.late += u64::from(!in_time);
}

#[inline(always)]
fn key(netns: u32, client: Address, server: Address, client_port: u16, id: u16) -> QueryKey {
    QueryKey { client, server, netns, client_port, id }
}

#[inline(always)]
fn server(cgroup: u64, server: Address, netns: u32) -> Option<*mut Server> {
    let key = ServerKey { cgroup, server, netns, reserved: 0 };
    if let Some(known) = DNS_SERVERS.get_ptr_mut(key) {
        return Some(known);
    }
    let nothing: &Server = &NOTHING;
    let _ = DNS_SERVERS.insert(key, nothing, 0);
    DNS_SERVERS.get_ptr_mut(key)
}

/// From here and not from the stack, which it would fill.
static NOTHING: Server = Server { queries: 0, answers: 0, late: 0, lost: 0, unreadable: 0 };
