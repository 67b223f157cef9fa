mod dropped;
mod flow;
mod ways;

use std::sync::Arc;

use bytemuck::Zeroable;
use tracer_common::{
    Header, UNKNOWN_U32,
    dropped::{INWARD, MULTICAST, NO_CARRIER, OUTWARD, SAMPLE},
    flow::{self as steps, Step},
    hops::{BUCKETS, IN, OUT, XMIT},
};

use super::*;
use crate::findings::fixture::{Host, OTHER, SECOND, T, WEB};
use crate::model::State;

const HOST_NETNS: u32 = 1;
const WEB_NETNS: u32 = 2;
const OTHER_NETNS: u32 = 3;
const IPV4: u32 = 0x0800;
const ARP: u32 = 0x0806;
const TCP: u32 = 6 << 16;

/// Indices of the host's devices.
const VETH: u32 = 11;
const BRIDGE: u32 = 12;
const UPLINK: u32 = 13;

const NETFILTER_DROP: u32 = 6;
const QDISC_DROP: u32 = 7;
const NO_SOCKET: u32 = 3;
const NEIGH_FAILED: u32 = 8;
const NOT_SPECIFIED: u32 = 2;
const IP_INHDR: u32 = 9;
const PKT_TOO_BIG: u32 = 10;

struct Bench {
    rule: Rule,
    host: Host,
}

impl Bench {
    fn new() -> Self {
        Self { rule: Rule::default(), host: Host::new() }
    }

    /// What a reading says, and what its samples are.
    fn read(
        &mut self,
        second: u64,
        drops: Vec<(DropKey, DropTotal)>,
        hops: Vec<(HopKey, HopTotal)>,
    ) -> (Vec<Finding>, Vec<crate::pipeline::SampleRow>) {
        self.read_renewed(second, drops, hops, &[])
    }

    /// … where another container's had the number of these namespaces until now.
    fn read_renewed(
        &mut self,
        second: u64,
        drops: Vec<(DropKey, DropTotal)>,
        hops: Vec<(HopKey, HopTotal)>,
        renewed: &[u32],
    ) -> (Vec<Finding>, Vec<crate::pipeline::SampleRow>) {
        let place = |path: &str, netns| (Arc::from(path), netns);
        let names = [
            (NETFILTER_DROP, "NETFILTER_DROP"),
            (QDISC_DROP, "QDISC_DROP"),
            (NO_SOCKET, "NO_SOCKET"),
            (NEIGH_FAILED, "NEIGH_FAILED"),
            (NOT_SPECIFIED, "NOT_SPECIFIED"),
            (IP_INHDR, "IP_INHDR"),
            (PKT_TOO_BIG, "PKT_TOO_BIG"),
        ];
        let counts = Counts {
            at_ns: T + second * SECOND,
            netns: [place(WEB, WEB_NETNS), place(OTHER, OTHER_NETNS), place("/", HOST_NETNS)].into(),
            renewed: renewed.iter().copied().collect(),
            host: Some(HOST_NETNS),
            drops,
            hops,
            functions: [(100, "nf_hook_slow".to_owned()), (101, "br_handle_frame".to_owned())].into(),
            reasons: names.map(|(value, name)| (value, name.to_owned())).into(),
            ..Counts::default()
        };
        let mut out = Vec::new();
        self.rule.reading(&Reading::Counts(counts), T + second * SECOND, &self.host.world(), &mut out);
        let (mut findings, mut samples) = (Vec::new(), Vec::new());
        for output in out {
            match output {
                Output::Finding(finding) => findings.push(*finding),
                Output::Sample(sample) => samples.push(*sample),
                _ => {}
            }
        }
        (findings, samples)
    }

    fn drops(&mut self, second: u64, drops: &[(DropKey, u64)]) -> Vec<Finding> {
        self.read(
            second,
            drops.iter().map(|(key, packets)| (*key, total(*packets, "eth0", "veth"))).collect(),
            Vec::new(),
        )
        .0
    }
}

fn drop_at(reason: u32, netns: u32, ifindex: u32) -> DropKey {
    DropKey { location: 100, container: WEB_NETNS, netns, ifindex, reason, protocol: IPV4, flags: 0 }
}

fn total(packets: u64, name: &str, kind: &str) -> DropTotal {
    let mut first = [0; SAMPLE];
    first[..20].copy_from_slice(&[0x45, 0, 0, 84, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    first[20..24].copy_from_slice(&[0x30, 0x39, 0, 53]);
    DropTotal {
        packets,
        first,
        readable: None,
        device: Device { name: name.to_owned(), kind: kind.to_owned(), mtu: None },
        next: Device::default(),
    }
}

fn hop(flow: u32, direction: u32, netns: u32, ifindex: u32, kind: &str, packets: u64) -> (HopKey, HopTotal) {
    let key = HopKey { container: WEB_NETNS, netns, ifindex, direction, flow, protocol: IPV4 | TCP, through: 0 };
    let device = Device { name: format!("dev{ifindex}"), kind: kind.to_owned(), mtu: Some(1500) };
    (key, HopTotal { packets, segments: packets, bytes: packets * 100, device, ..HopTotal::default() })
}

/// A way out whose uplink had each packet after that time.
fn way(packets: u64, since_ns: u64) -> Vec<(HopKey, HopTotal)> {
    let timed = |(key, total): (HopKey, HopTotal), since_ns: u64| {
        let mut since = [0; BUCKETS];
        since[if since_ns < 65_536 { 1 } else { 9 }] = packets;
        (key, HopTotal { since_ns: since_ns * packets, since_count: packets, since, ..total })
    };
    let pair = hop(OUT, RECEIVE, HOST_NETNS, VETH, "veth", packets);
    let pair = (pair.0, HopTotal { direct: packets, ..pair.1 });
    vec![
        hop(OUT, XMIT, WEB_NETNS, 2, "veth", packets),
        timed(pair, 4_000),
        timed(hop(OUT, RECEIVE, HOST_NETNS, BRIDGE, "bridge", packets), 6_000),
        timed(hop(OUT, XMIT, HOST_NETNS, UPLINK, "", packets), since_ns),
    ]
}
