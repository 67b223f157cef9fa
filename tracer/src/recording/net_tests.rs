//! The answers about networks come back from a recording the same.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{array::uniform8, option, prelude::*};
use tracer_common::{
    dns::ServerKey,
    dropped::{DropKey, SAMPLE},
    hops::{BUCKETS, HopKey},
    tcp::{FlowKey, RefusalKey},
};

use super::tests::{answered, process};
use crate::{findings::net, pipeline::Answer};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn net(n in uniform8(any::<u64>()), o: [Option<u64>; 6], text: String, some: Option<String>, first: [u8; 16], who in option::of(process())) {
        let device = net::Device { name: text.clone(), kind: text.clone(), mtu: Some(1500) };
        let mut sample = [0; SAMPLE];
        sample[..16].copy_from_slice(&first);
        let drop = net::DropTotal { packets: n[0], first: sample, readable: Some(n[1]), device: device.clone(), next: device.clone() };
        let hop = net::HopTotal {
            packets: n[0], segments: n[1], bytes: n[2], direct: n[3], untranslated: n[4], since_ns: n[5], since_count: n[6],
            since: [n[7]; BUCKETS], device,
        };
        let flow = net::tcp::FlowTotal {
            fast: n[0], timeouts: n[1], probes: n[2], sent: n[3], resent: n[4], dsacks: n[5], reorderings: n[6], degree: n[7],
            unanswered: n[0], rtt_ns: n[1],
        };
        let queues = net::tcp::Queues {
            accept_overflows: o[0], syn_drops: o[1], syn_cookies: o[2], conntrack_drops: o[3], conntrack_entries: o[4],
            conntrack_max: o[5], listeners: vec![(80, n[2])],
        };
        let tcp = net::tcp::Reading {
            flows: vec![(bytemuck::Zeroable::zeroed(), flow)] as Vec<(FlowKey, _)>,
            refusals: vec![(bytemuck::Zeroable::zeroed(), net::tcp::RefusalTotal { count: n[3], lost: n[4], who })] as Vec<(RefusalKey, _)>,
            waiting: vec![(bytemuck::Zeroable::zeroed(), n[4])],
            dns: vec![(
                ServerKey { server: first, ..bytemuck::Zeroable::zeroed() },
                net::tcp::DnsTotal { queries: n[0], answers: n[1], unanswered: n[2], lost: n[3], unreadable: n[4] },
            )],
            queues: [(7, queues)].into(),
            rps: [(7, net::tcp::Rps { device: text.clone(), cpus: text.clone() })].into(),
        };
        let counts = net::Counts {
            is_idle: true,
            renewed: [n[3] as u32].into(),
            at_ns: n[0], took_ns: n[1], netns: [(Arc::from(text.as_str()), 7)].into(), host: o[0].map(|inode| inode as u32),
            drops: vec![(bytemuck::Zeroable::zeroed(), drop)] as Vec<(DropKey, _)>,
            hops: vec![(bytemuck::Zeroable::zeroed(), hop)] as Vec<(HopKey, _)>,
            tcp,
            functions: BTreeMap::from([(n[2], text.clone())]), nameless: some, reasons: [(2, text)].into(),
        };
        answered(Answer::Net(Box::new(net::Reading::Counts(counts))))?;
    }
}
