//! `ctrace net`: the hops that a container's packets pass, and where they stop.

use tracer_common::hops::{FLIGHTS_BITS, KNOWN_BITS, SUMS_BITS};

use super::{Lens, Registered};
use crate::{
    events::Event,
    findings::{World, net::Rule},
    kernel::plan,
    pipeline::{Answer, Output},
};

pub static LENS: Registered = Registered {
    name: "net",
    about: "Network: packets hop by hop, where they stop and why",
    probes: &[
        &plan::PACKET_DROP,
        &plan::PACKET_SENT,
        &plan::PACKET_RECEIVED,
        &plan::TCP_RESENT,
        &plan::TCP_CLOSED,
        &plan::CALL_REFUSED,
    ],
    on_demand: &[&plan::PACKET_SENT, &plan::PACKET_RECEIVED],
    wants: &[("WANT_NET_REFUSALS", 1)],
    maps: &[
        ("DROPS", DROPS),
        ("HOPS", HOPS),
        ("FLIGHTS", 1 << FLIGHTS_BITS),
        ("MOVED_FLIGHTS", 8192),
        ("KNOWN_DEVICES", 1 << KNOWN_BITS),
        ("SUMS", 2 << SUMS_BITS),
        ("NETNS", NETNS),
        ("ADDRESSES", ADDRESSES),
        ("FLOWS", FLOWS),
        ("NET_REFUSALS", REFUSALS),
        ("SYN_WAITERS", WAITERS),
        ("DNS_QUERIES", DNS_QUERIES),
        ("DNS_SERVERS", DNS_SERVERS),
        ("REFUSED", 4096),
    ],
    ring_kib: 512,
    in_overview: true,
    make: || Box::new(Net::default()),
};

/// Places and reasons of drops that are counted apart.
pub const DROPS: u32 = 2048;
/// Containers, devices, directions and protocols that are counted apart.
pub const HOPS: u32 = 4096;
/// Connections with retransmissions.
pub const FLOWS: u32 = 4096;
/// Peers, ports and errors of refusals.
pub const REFUSALS: u32 = 1024;
/// Connection attempts that wait for an answer to a repeated SYN.
pub const WAITERS: u32 = 1024;
/// DNS queries that wait for an answer, all containers' together.
pub const DNS_QUERIES: u32 = 4096;
/// Who asks which server.
pub const DNS_SERVERS: u32 = 1024;
/// Network namespaces of containers.
pub const NETNS: u32 = 4096;
/// Their addresses.
pub const ADDRESSES: u32 = 16_384;

#[derive(Default)]
struct Net {
    rule: Rule,
}

impl Lens for Net {
    fn event(&mut self, event: &Event, world: &World, out: &mut Vec<Output>) {
        self.rule.event(event, world, out);
    }

    fn answer(&mut self, answer: &Answer, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        if let Answer::Net(reading) = answer {
            self.rule.reading(reading, now_ns, world, out);
        }
    }

    fn tick(&mut self, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        self.rule.tick(now_ns, world, out);
    }

    fn finish(&mut self, _now_ns: u64, world: &World, out: &mut Vec<Output>) {
        self.rule.finish(world, out);
    }

    /// What it says comes of readings, once a second: nothing is ripe between.
    fn next_ns(&self) -> Option<u64> {
        None
    }
}
