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

#[test]
fn three_packets_at_one_hop() {
    let mut bench = Bench::new();
    assert_eq!(bench.drops(1, &[(drop_at(NETFILTER_DROP, WEB_NETNS, 2), 2)]), [], "two may be chance");
    let found = bench.drops(2, &[(drop_at(NETFILTER_DROP, WEB_NETNS, 2), 5)]);
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!((finding.code.0, finding.state), ("net.dropped", Some(State::Open)));
    assert_eq!(finding.container.as_ref().map(|container| container.cgroup.as_str()), Some(WEB));
    assert_eq!(finding.evidence["hop"], "netfilter");
    assert_eq!(finding.evidence["reason"], "NETFILTER_DROP");
    assert_eq!(finding.evidence["location"], "nf_hook_slow");
    assert_eq!(finding.evidence["packets"], 5);
    assert_eq!(finding.evidence["device"], "eth0");
    assert_eq!(finding.evidence["first_packet"]["destination_port"], 53);
    assert!(finding.fix[0].contains("nft list ruleset"), "{:?}", finding.fix);
    let found = bench.drops(20, &[(drop_at(NETFILTER_DROP, WEB_NETNS, 2), 5)]);
    assert_eq!(found.iter().map(|finding| finding.state).collect::<Vec<_>>(), [Some(State::Closed)]);
}

/// What the one that had that number before sent, and what was stopped of it, is not the next one's.
#[test]
fn a_namespace_whose_number_is_given_again() {
    let dropped = |packets| vec![(drop_at(NETFILTER_DROP, HOST_NETNS, BRIDGE), total(packets, "br0", "bridge"))];
    let sent = |packets| vec![hop(OUT, XMIT, WEB_NETNS, 2, "veth", packets)];
    let of_web = |samples: &[crate::pipeline::SampleRow], key: &str| {
        let web = samples.iter().find(|sample| sample.cgroup.as_deref() == Some(WEB)).expect("a sample");
        web.fields[key].clone()
    };
    for renewed in [&[][..], &[WEB_NETNS]] {
        let mut bench = Bench::new();
        let (found, _) = bench.read(1, dropped(2), sent(50));
        assert_eq!(found, []);
        // One more, which with the two before would be three; its packets count from nothing.
        let (found, samples) =
            bench.read_renewed(2, dropped(if renewed.is_empty() { 3 } else { 1 }), sent(60), renewed);
        let is_one = renewed.is_empty();
        assert_eq!(found.iter().any(|finding| finding.code.0 == "net.dropped"), is_one, "{found:?}");
        assert_eq!(of_web(&samples, "dropped"), if is_one { 3 } else { 1 });
        let window = of_web(&samples, "window_ns").as_u64().expect("a window");
        let rate = of_web(&samples, "hops")[0]["packets_per_s"].as_u64().expect("a rate");
        assert_eq!(rate, 60 * SECOND / window);
    }
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

#[test]
fn a_slow_way_is_told_with_its_slowest_hop() {
    let told = |packets: u64, since_ns: u64| {
        let mut bench = Bench::new();
        bench.read(1, Vec::new(), way(0, since_ns));
        bench.read(2, Vec::new(), way(packets, since_ns)).0
    };
    let found = told(20, 100_000);
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!((finding.code.0, finding.severity), ("net.hop-latency", crate::model::Severity::Info));
    assert_eq!((&finding.evidence["hop"], &finding.evidence["device"]), (&"uplink".into(), &"dev13".into()));
    assert_eq!(
        (&finding.evidence["took_ns"], &finding.evidence["since_container_ns"]),
        (&94_000.into(), &100_000.into())
    );
    assert!(finding.fix[0].contains("tc -s qdisc"), "{:?}", finding.fix);
    assert_eq!(told(19, 100_000), [], "too few");
    assert_eq!(told(20, 99_999), [], "some microseconds are no wait");
    let mut bench = Bench::new();
    bench.read(1, Vec::new(), way(0, 0));
    bench.read(2, Vec::new(), way(20, 200_000));
    let closed = bench.read(30, Vec::new(), way(20, 200_000)).0;
    assert_eq!(closed.iter().map(|finding| finding.state).collect::<Vec<_>>(), [Some(State::Closed)]);
}

/// A recording that was begun while ctrace ran: what had been counted by then is no news.
#[test]
fn what_was_counted_before_the_records_began_is_not_told() {
    let mut bench = Bench::new();
    bench.host.facts.began_later = true;
    let key = drop_at(NETFILTER_DROP, WEB_NETNS, 2);
    assert_eq!(bench.drops(1, &[(key, 5000)]), []);
    let found = bench.drops(2, &[(key, 5003)]);
    assert_eq!(found.iter().map(|finding| &finding.evidence["packets"]).collect::<Vec<_>>(), [3]);
}

/// A router tells the sender of a packet that has no hops left: traceroute.
#[test]
fn hops_that_are_used_up_are_no_loss() {
    let mut bench = Bench::new();
    let key = drop_at(IP_INHDR, HOST_NETNS, BRIDGE);
    let mut spent = total(9, "br0", "bridge");
    spent.first[8] = 1;
    assert_eq!(bench.read(1, vec![(key, spent)], Vec::new()).0, []);
    assert_eq!(Bench::new().drops(1, &[(key, 9)]).len(), 1, "with hops left it is");
}

#[test]
fn what_is_not_lost_is_not_told() {
    let mut bench = Bench::new();
    let key = drop_at(NETFILTER_DROP, WEB_NETNS, 2);
    let near_misses = [
        drop_at(NO_SOCKET, WEB_NETNS, 2),
        DropKey { flags: MULTICAST, ..key },
        DropKey { protocol: 0x88cc, ..key },
        DropKey { location: 7, ..drop_at(NOT_SPECIFIED, WEB_NETNS, 2) },
        DropKey { container: 0, netns: HOST_NETNS, ..key },
        DropKey { container: 0, netns: UNKNOWN_U32, ifindex: UNKNOWN_U32, ..key },
    ];
    assert_eq!(bench.drops(1, &near_misses.map(|key| (key, 10))), []);
    let (_, samples) = bench.read(2, near_misses.map(|key| (key, total(20, "eth0", "veth"))).into(), Vec::new());
    let web = samples.iter().find(|sample| sample.cgroup.as_deref() == Some(WEB)).expect("a sample");
    assert_eq!((&web.fields["refused"], &web.fields["dropped"]), (&20.into(), &0.into()));
    assert_eq!(web.fields["other_drops"], 60);
    let host = samples.iter().find(|sample| sample.container.is_none()).expect("a sample");
    assert_eq!(host.fields["other_drops"], 40);
}

#[test]
fn the_device_decides_the_hop() {
    let hops = vec![
        (
            hop(OUT, RECEIVE, HOST_NETNS, VETH, "veth", 9).0,
            HopTotal { direct: 9, ..hop(OUT, RECEIVE, HOST_NETNS, VETH, "veth", 9).1 },
        ),
        hop(OUT, XMIT, HOST_NETNS, UPLINK, "veth", 9),
    ];
    for (ifindex, netns, kind, expected) in [
        (2, WEB_NETNS, "veth", "container device"),
        (VETH, HOST_NETNS, "veth", "host veth"),
        (BRIDGE, HOST_NETNS, "bridge", "bridge"),
        (UPLINK, HOST_NETNS, "veth", "uplink"),
        (UPLINK + 1, HOST_NETNS, "", "uplink"),
        // Nothing passed there, and the container's own pair is known.
        (UPLINK + 2, HOST_NETNS, "veth", "uplink"),
    ] {
        let mut bench = Bench::new();
        let key = drop_at(QDISC_DROP, netns, ifindex);
        let (found, _) = bench.read(1, vec![(key, total(3, "dev", kind))], hops.clone());
        let [finding] = &found[..] else { panic!("{expected}: {found:?}") };
        assert_eq!(finding.evidence["hop"], expected);
        assert!(finding.summary.contains("queue is full"), "{}", finding.summary);
    }
    let mut bench = Bench::new();
    let found = bench.drops(1, &[(DropKey { flags: NO_CARRIER, ..drop_at(QDISC_DROP, WEB_NETNS, 2) }, 3)]);
    assert!(found[0].summary.contains("no carrier"), "{}", found[0].summary);
}

#[test]
fn an_unanswered_question_is_told_by_where_it_stopped() {
    let mut bench = Bench::new();
    let waiting = drop_at(NEIGH_FAILED, WEB_NETNS, 2);
    let question = DropKey { location: 101, protocol: ARP, ..drop_at(NOT_SPECIFIED, HOST_NETNS, VETH) };
    let found = bench.drops(1, &[(waiting, 3), (question, 3)]);
    assert_eq!(found.iter().map(|finding| finding.evidence["hop"].as_str()).collect::<Vec<_>>(), [Some("bridge")]);
    let found = Bench::new().drops(1, &[(waiting, 2), (question, 1)]);
    assert_eq!(found.len(), 1, "one question, and two packets that waited for its answer: {found:?}");
    assert_eq!(found[0].evidence["hop"], "bridge");
    assert_eq!(Bench::new().drops(1, &[(waiting, 1), (question, 1)]), [], "too few");
    let found = Bench::new().drops(1, &[(waiting, 3)]);
    assert_eq!(found[0].evidence["hop"], "container device", "nobody stopped the question: nobody has the address");
}

#[test]
fn untranslated_and_unanswered() {
    let out = |untranslated| {
        let (key, total) = hop(OUT, XMIT, HOST_NETNS, UPLINK, "", 4);
        (key, HopTotal { untranslated, ..total })
    };
    let (found, _) = Bench::new().read(1, Vec::new(), vec![out(4)]);
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!((&finding.evidence["hop"], &finding.evidence["inferred"]), (&"uplink".into(), &true.into()));
    assert!(finding.unknown.contains_key("reason"));
    let answer = hop(IN, RECEIVE, HOST_NETNS, UPLINK, "", 1);
    assert_eq!(Bench::new().read(1, Vec::new(), vec![out(4), answer]).0, [], "it is answered");
    assert_eq!(Bench::new().read(1, Vec::new(), vec![out(0)]).0, [], "it is translated: answers have another address");
    assert_eq!(Bench::new().read(1, Vec::new(), vec![out(2)]).0, [], "too few");
    let (mut key, total) = out(4);
    key.protocol = IPV4 | 17 << 16;
    assert_eq!(Bench::new().read(1, Vec::new(), vec![(key, total)]).0, [], "nobody need answer UDP");
}

#[test]
fn hops_stand_in_the_order_of_the_way() {
    let (key, veth) = hop(OUT, RECEIVE, HOST_NETNS, VETH, "veth", 5);
    let hops = vec![
        hop(OUT, XMIT, HOST_NETNS, UPLINK, "", 5),
        hop(OUT, XMIT, WEB_NETNS, 2, "veth", 5),
        (key, HopTotal { direct: 5, since: [1; BUCKETS], since_ns: 500, since_count: 5, ..veth }),
        hop(IN, RECEIVE, WEB_NETNS, 2, "veth", 7),
        hop(IN, RECEIVE, HOST_NETNS, UPLINK, "", 7),
        hop(OUT, RECEIVE, HOST_NETNS, BRIDGE, "bridge", 5),
    ];
    let (_, samples) = Bench::new().read(1, Vec::new(), hops);
    let web = samples.iter().find(|sample| sample.cgroup.as_deref() == Some(WEB)).expect("a sample");
    let way: Vec<String> = web.fields["hops"]
        .as_array()
        .expect("hops")
        .iter()
        .map(|hop| format!("{} {} {}", hop["flow"].as_str().unwrap(), hop["hop"].as_str().unwrap(), hop["packets"]))
        .collect();
    assert_eq!(
        way,
        [
            "out container device 5",
            "out host veth 5",
            "out bridge 5",
            "out uplink 5",
            "in uplink 7",
            "in container device 7"
        ]
    );
    assert_eq!(web.fields["hops"][1]["since_container_ns"], 100);
}

/// An index is given again: what the first device counted is none of the second's, nor is it forgotten.
#[test]
fn a_device_in_anothers_place_is_not_called_by_its_name() {
    let key = drop_at(QDISC_DROP, HOST_NETNS, UPLINK);
    let (passed, one) = hop(OUT, XMIT, HOST_NETNS, UPLINK, "", 50);
    let at = |name: &str, drops: u64, packets: u64| {
        let device = Device { name: name.to_owned(), ..one.device.clone() };
        (vec![(key, total(drops, name, ""))], vec![(passed, HopTotal { packets, device, ..one.clone() })])
    };
    let mut bench = Bench::new();
    let mut told = |second, (drops, hops)| {
        let found = bench.read(second, drops, hops).0;
        let told =
            found.iter().map(|finding| (finding.evidence["device"].clone(), finding.evidence["packets"].clone()));
        told.collect::<Vec<_>>()
    };
    assert_eq!(told(1, at("up0", 5, 50)), [("up0".into(), 5.into())]);
    // More of them than of the first, within one window.
    assert_eq!(told(2, at("up9", 7, 60)), [("up9".into(), 7.into())]);
}

/// A container whose packets leave by one network, and come by the other.
#[test]
fn two_networks_two_ways() {
    const SECOND_VETH: u32 = 21;
    const SECOND_BRIDGE: u32 = 22;
    let by = |through: u32, (key, total): (HopKey, HopTotal)| (HopKey { through, ..key }, total);
    let direct = |(key, total): (HopKey, HopTotal)| (key, HopTotal { direct: total.packets, ..total });
    let hops = vec![
        by(3, hop(OUT, XMIT, WEB_NETNS, 3, "veth", 5)),
        by(3, direct(hop(OUT, RECEIVE, HOST_NETNS, SECOND_VETH, "veth", 5))),
        by(3, hop(OUT, RECEIVE, HOST_NETNS, SECOND_BRIDGE, "bridge", 5)),
        by(3, hop(OUT, XMIT, HOST_NETNS, UPLINK, "", 5)),
        hop(IN, RECEIVE, HOST_NETNS, UPLINK, "", 7),
        hop(IN, XMIT, HOST_NETNS, BRIDGE, "bridge", 7),
        hop(IN, XMIT, HOST_NETNS, VETH, "veth", 7),
        by(2, hop(IN, RECEIVE, WEB_NETNS, 2, "veth", 7)),
    ];
    let ways = |hops: Vec<(HopKey, HopTotal)>| {
        let (_, samples) = Bench::new().read(1, Vec::new(), hops);
        let web = samples.into_iter().find(|sample| sample.cgroup.as_deref() == Some(WEB)).expect("a sample");
        let row = |hop: &serde_json::Value| {
            let text = |key: &str| hop[key].as_str().unwrap_or("?").to_owned();
            format!("{} {} {} {}", text("flow"), text("through"), text("hop"), hop["ifindex"])
        };
        web.fields["hops"].as_array().expect("hops").iter().map(row).collect::<Vec<_>>()
    };
    assert_eq!(
        ways(hops.clone()),
        [
            "out dev3 container device 3",
            "out dev3 host veth 21",
            "out dev3 bridge 22",
            "out dev3 uplink 13",
            "in dev2 uplink 13",
            "in dev2 bridge 12",
            "in dev2 host veth 11",
            "in dev2 container device 2",
        ]
    );
    // Where both receive something, whose the rest is is not known: not that one's by which the others left.
    let answer = by(3, hop(IN, RECEIVE, WEB_NETNS, 3, "veth", 1));
    assert_eq!(
        ways([hops, vec![answer]].concat())[4..],
        [
            "in ? uplink 13",
            "in ? bridge 12",
            "in ? host veth 11",
            "in dev2 container device 2",
            "in dev3 container device 3",
        ]
    );
}

/// The times of one network say nothing of the other.
#[test]
fn each_way_has_its_own_times() {
    let by = |through: u32, hops: Vec<(HopKey, HopTotal)>| {
        hops.into_iter().map(move |(key, total)| (HopKey { through, ..key }, total))
    };
    let both = |packets: u64| {
        let fast = by(2, way(packets, 110_000));
        let slow = by(3, way(packets, 150_000)).map(|(key, total)| {
            let ifindex = if key.netns == HOST_NETNS { key.ifindex + 10 } else { 3 };
            (HopKey { ifindex, ..key }, total)
        });
        fast.chain(slow).collect()
    };
    let mut bench = Bench::new();
    bench.read(1, Vec::new(), both(0));
    let found = bench.read(2, Vec::new(), both(20)).0;
    let took: Vec<_> = found.iter().map(|finding| finding.evidence["took_ns"].as_u64()).collect();
    assert_eq!(took, [Some(104_000), Some(144_000)], "{found:?}");
}

/// Nothing passed there, and yet it is no uplink.
#[test]
fn where_packets_to_the_container_stop_at_a_pair_it_is_the_containers() {
    let at = |flags: u32| {
        let key = DropKey { flags, ..drop_at(QDISC_DROP, HOST_NETNS, 99) };
        let (mut passed, total_passed) = hop(OUT, RECEIVE, HOST_NETNS, VETH, "veth", 9);
        passed.through = 2;
        let hops = vec![(passed, HopTotal { direct: 9, ..total_passed })];
        Bench::new().read(1, vec![(key, total(3, "veth9", "veth"))], hops).0[0].evidence["hop"].clone()
    };
    assert_eq!((at(INWARD), at(OUTWARD)), ("host veth".into(), "uplink".into()));
}

/// What lies behind the bytes that could be read is not the packet's.
#[test]
fn ports_that_cannot_be_read_are_not_told() {
    let told = |readable| {
        let drops = DropTotal { readable, ..total(3, "eth0", "veth") };
        let found = Bench::new().read(1, vec![(drop_at(NETFILTER_DROP, WEB_NETNS, 2), drops)], Vec::new()).0;
        (found[0].evidence["protocol"].clone(), found[0].evidence["first_packet"]["destination_port"].clone())
    };
    assert_eq!(told(Some(28)), ("udp to 10.0.0.1:53".into(), 53.into()));
    assert_eq!(told(Some(20)), ("udp to 10.0.0.1".into(), serde_json::Value::Null));
    assert_eq!(told(Some(0)).0, "ethertype 0x0800");
    assert_eq!(told(None).1, 53, "an old recording");
}

/// A buffer that was taken for another one makes no pair; and what was an end once need not be one for ever.
#[test]
fn an_odd_packet_makes_no_host_veth() {
    let at = |packets, direct| {
        let (key, total) = hop(OUT, RECEIVE, HOST_NETNS, UPLINK, "", packets);
        (key, HopTotal { direct, ..total })
    };
    let stopped = |bench: &mut Bench, second, hops, packets| {
        let key = drop_at(QDISC_DROP, HOST_NETNS, UPLINK);
        bench.read(second, vec![(key, total(packets, "up0", ""))], hops).0[0].evidence["hop"].clone()
    };
    assert_eq!(stopped(&mut Bench::new(), 1, vec![at(100, 1)], 3), "uplink");
    assert_eq!(stopped(&mut Bench::new(), 1, vec![at(100, 50)], 3), "host veth");
    let mut bench = Bench::new();
    assert_eq!(stopped(&mut bench, 1, vec![at(100, 100)], 3), "host veth");
    assert_eq!(stopped(&mut bench, 20, vec![at(140, 101)], 9), "uplink", "of late it is none");
    assert_eq!(stopped(&mut bench, 40, vec![at(140, 101)], 15), "host veth", "nothing came of late: by all that came");
}

#[test]
fn hops_and_drops_that_were_forgotten_are_a_loss() {
    let mut bench = Bench::new();
    let mut lost = |second, devices: std::ops::Range<u32>| {
        let hops = devices.clone().map(|ifindex| hop(OUT, XMIT, HOST_NETNS, ifindex, "", 5)).collect();
        let drops = devices.map(|ifindex| (drop_at(NO_SOCKET, WEB_NETNS, ifindex), total(1, "eth0", "veth"))).collect();
        let netns = [(Arc::from(WEB), WEB_NETNS)].into();
        let counts = Counts { at_ns: T + second * SECOND, netns, hops, drops, ..Counts::default() };
        let mut out = Vec::new();
        bench.rule.reading(&Reading::Counts(counts), T + second * SECOND, &bench.host.world(), &mut out);
        let lost = out.into_iter().filter_map(|output| match output {
            Output::Loss(LossNote { event, count, .. }) => Some((event, count)),
            _ => None,
        });
        lost.collect::<Vec<_>>()
    };
    assert_eq!(lost(1, 0..3), []);
    assert_eq!(lost(2, 0..4), []);
    assert_eq!(lost(3, 1..4), [("packet_drop", 1), ("packet_hop", 1)]);
}

/// The kernel side's counts of a container that is gone are taken out.
#[test]
fn hops_of_who_is_gone_are_not_forgotten() {
    let mut bench = Bench::new();
    let mut lost = |second, netns: u32, hops: Vec<(HopKey, HopTotal)>| {
        let netns = [(Arc::from(OTHER), netns)].into();
        let counts = Counts { at_ns: T + second * SECOND, netns, hops, ..Counts::default() };
        let mut out = Vec::new();
        bench.rule.reading(&Reading::Counts(counts), T + second * SECOND, &bench.host.world(), &mut out);
        out.iter().any(|output| matches!(output, Output::Loss(_)))
    };
    assert!(!lost(1, WEB_NETNS, vec![hop(OUT, XMIT, WEB_NETNS, 2, "veth", 5)]));
    assert!(!lost(2, OTHER_NETNS, Vec::new()), "it is gone");
    assert!(!lost(3, WEB_NETNS, vec![hop(OUT, XMIT, WEB_NETNS, 2, "veth", 5)]));
    assert!(lost(4, WEB_NETNS, Vec::new()), "it is here");
}

#[test]
fn stops_have_a_way_and_a_place() {
    let out = DropKey { flags: OUTWARD, ..drop_at(NETFILTER_DROP, HOST_NETNS, BRIDGE) };
    let drops = [out, DropKey { flags: INWARD, ..out }, DropKey { flags: 0, ifindex: UNKNOWN_U32, ..out }];
    let drops = drops.map(|key| (key, total(3, "br0", "bridge"))).into();
    let (_, samples) = Bench::new().read(1, drops, Vec::new());
    let web = samples.iter().find(|sample| sample.cgroup.as_deref() == Some(WEB)).expect("a sample");
    let stops = web.fields["stops"].as_array().expect("stops");
    let flows: Vec<_> = stops.iter().map(|stop| (stop["flow"].as_str(), stop["device"].as_str())).collect();
    assert_eq!(flows, [(None, None), (Some("in"), Some("br0")), (Some("out"), Some("br0"))]);
    assert!(stops.iter().all(|stop| stop["hop"] == "netfilter" && stop["packets"] == 3), "{stops:?}");
    assert_eq!(web.fields["dropped"], 9);
}

#[test]
fn who_takes_no_large_packets_is_named() {
    let said = |next: Device| {
        let mut drops = total(3, "br0", "bridge");
        drops.next = next;
        let found = Bench::new().read(1, vec![(drop_at(PKT_TOO_BIG, HOST_NETNS, BRIDGE), drops)], Vec::new()).0;
        (found[0].evidence["next_mtu_bytes"].clone(), found[0].fix[0].clone())
    };
    let (mtu, fix) = said(Device { name: "up0".to_owned(), kind: String::new(), mtu: Some(1000) });
    assert_eq!(mtu, 1000);
    assert!(fix.contains("of which up0 takes 1000 bytes (the first was 84 bytes)"), "{fix}");
    let (mtu, fix) = said(Device::default());
    assert!(mtu.is_null() && !fix.contains("takes"), "{fix}");
}

/// Where its route led is not always known: the packets that passed tell which device takes the least.
#[test]
fn the_smallest_mtu_of_the_way_is_named() {
    let narrow = |(key, total): (HopKey, HopTotal), mtu| {
        let device = Device { mtu: Some(mtu), ..total.device };
        (key, HopTotal { device, ..total })
    };
    let hops = vec![
        hop(OUT, XMIT, WEB_NETNS, 2, "veth", 5),
        narrow(hop(OUT, RECEIVE, HOST_NETNS, BRIDGE, "bridge", 5), 1450),
        narrow(hop(OUT, XMIT, HOST_NETNS, UPLINK, "", 5), 1400),
        narrow(hop(IN, RECEIVE, HOST_NETNS, 50, "", 5), 500),
    ];
    let key = drop_at(PKT_TOO_BIG, HOST_NETNS, BRIDGE);
    let found = Bench::new().read(1, vec![(key, total(3, "br0", "bridge"))], hops).0;
    let evidence = &found[0].evidence;
    assert_eq!((&evidence["next_device"], &evidence["next_mtu_bytes"]), (&"dev13".into(), &1400.into()));
    assert_eq!((&evidence["container_device"], &evidence["container_mtu_bytes"]), (&"dev2".into(), &1500.into()));
    assert!(found[0].fix[0].contains("of which dev13 takes 1400 bytes"), "{:?}", found[0].fix);
}

#[test]
fn where_forwarded_packets_were_to_go_is_told() {
    let said = |next: &str, reason| {
        let next = Device { name: next.to_owned(), ..Device::default() };
        let drops = DropTotal { next, ..total(3, "br0", "bridge") };
        let found = Bench::new().read(1, vec![(drop_at(reason, HOST_NETNS, BRIDGE), drops)], Vec::new()).0;
        (found[0].summary.clone(), found[0].evidence.get("next_device").cloned())
    };
    let (summary, next) = said("up0", NETFILTER_DROP);
    assert!(summary.contains("at netfilter on br0, on the way to up0: "), "{summary}");
    assert_eq!(next, Some("up0".into()));
    assert_eq!(said("br0", NETFILTER_DROP).1, None, "that is where it is");
    assert!(!said("up0", QDISC_DROP).0.contains("on the way"), "a queue is the device's own");
}

/// A packet of the container's at a device, so long after the first second.
fn step(packet: u64, what: u32, netns: u32, ifindex: u32, after_us: u64) -> Step {
    let time_ns = T + after_us * 1000;
    let mut step = Step {
        header: Header { time_ns, ..Header::zeroed() },
        packet,
        first_ns: T,
        location: 100,
        reason: NETFILTER_DROP,
        what,
        container: WEB_NETNS,
        flags: OUTWARD,
        netns,
        ifindex,
        protocol: IPV4,
        readable: 28,
        bytes: total(1, "", "").first,
        ..Step::zeroed()
    };
    step.device.name[..4].copy_from_slice(b"dev0");
    step
}

impl Bench {
    fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            let mut out = Vec::new();
            self.rule.event(&Event::PacketStep(Box::new(*step)), &self.host.world(), &mut out);
            assert_eq!(out, []);
        }
    }

    /// The packets that a reading tells.
    fn packets(&mut self, second: u64) -> Vec<serde_json::Map<String, serde_json::Value>> {
        let functions = [(100, "nf_hook_slow".to_owned())].into();
        let netns = [(Arc::from(WEB), WEB_NETNS)].into();
        let reasons = [(NETFILTER_DROP, "NETFILTER_DROP".to_owned())].into();
        let counts = Counts {
            at_ns: T + second * SECOND,
            netns,
            host: Some(HOST_NETNS),
            functions,
            reasons,
            hops: way(1, 9),
            ..Counts::default()
        };
        let mut out = Vec::new();
        self.rule.reading(&Reading::Counts(counts), T + second * SECOND, &self.host.world(), &mut out);
        let rows = out.into_iter().filter_map(|output| match output {
            Output::Event(row) => {
                let cgroup = row.container.map(|container| container.cgroup.clone());
                assert_eq!((row.event, cgroup.as_deref()), ("packet", Some(WEB)));
                Some(row.fields)
            }
            _ => None,
        });
        rows.collect()
    }
}

#[test]
fn a_packet_that_is_followed_is_told_where_it_stops() {
    let mut bench = Bench::new();
    let way = [
        step(1, XMIT, WEB_NETNS, 2, 0),
        step(2, XMIT, WEB_NETNS, 2, 1),
        step(1, RECEIVE, HOST_NETNS, VETH, 3),
        step(1, steps::DROPPED, HOST_NETNS, VETH, 10),
    ];
    bench.steps(&way);
    let told = bench.packets(0);
    let [packet] = &told[..] else { panic!("the other one may go on: {told:?}") };
    assert_eq!(
        (&packet["packet"], &packet["flow"], &packet["destination_port"]),
        (&1.into(), &"out".into(), &53.into())
    );
    let hops: Vec<_> =
        packet["hops"].as_array().expect("hops").iter().map(|hop| (&hop["hop"], &hop["took_ns"])).collect();
    assert_eq!(hops, [(&"container device".into(), &serde_json::Value::Null), (&"host veth".into(), &3000.into())]);
    let stopped = &packet["stopped"];
    assert_eq!((&stopped["hop"], &stopped["lost"]), (&"netfilter".into(), &true.into()));
    assert_eq!((&stopped["reason"], &stopped["location"]), (&"NETFILTER_DROP".into(), &"nf_hook_slow".into()));
    assert_eq!((&stopped["since_first_ns"], &stopped["took_ns"]), (&10_000.into(), &7000.into()));
    assert_eq!(bench.packets(0).len(), 0);
    let told = bench.packets(2);
    let [packet] = &told[..] else { panic!("it was not seen for a second: {told:?}") };
    assert_eq!((&packet["packet"], packet.get("stopped")), (&2.into(), None));
    // What waited for a neighbour goes on.
    bench.steps(&[step(2, steps::DROPPED, WEB_NETNS, 2, 3_000_000)]);
    let told = bench.packets(3);
    let [packet] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&packet["packet"], &packet["continues"]), (&2.into(), &true.into()));
    assert_eq!(packet["stopped"]["took_ns"], 2_999_999_000_u64);
    assert_eq!(bench.packets(30).len(), 0);
}

#[test]
fn what_nat_made_of_a_packet_is_told() {
    let mut bench = Bench::new();
    let mut translated = step(1, XMIT, HOST_NETNS, UPLINK, 5);
    translated.bytes[12..16].copy_from_slice(&[192, 0, 2, 1]);
    bench.steps(&[step(1, XMIT, WEB_NETNS, 2, 0), translated, step(1, RECEIVE, 9, 9, 6)]);
    let packet = &bench.packets(2)[0];
    assert_eq!((&packet["source"], &packet["hops"][0]["source"]), (&"10.0.0.2".into(), &serde_json::Value::Null));
    assert_eq!((&packet["hops"][1]["source"], &packet["hops"][1]["hop"]), (&"192.0.2.1".into(), &"uplink".into()));
    assert_eq!(packet["hops"][2]["source"], "10.0.0.2", "and back");
}

#[test]
fn at_the_end_what_is_held_is_told() {
    let mut bench = Bench::new();
    let mut out = Vec::new();
    bench.rule.finish(&bench.host.world(), &mut out);
    assert_eq!(out, [], "nothing is held");
    bench.steps(&[step(1, XMIT, WEB_NETNS, 2, 0)]);
    bench.rule.finish(&bench.host.world(), &mut out);
    assert!(matches!(out[..], [Output::Ask(Question::Net(_))]), "{out:?}");
    assert_eq!(bench.packets(0).len(), 1);
}

#[test]
fn packets_beyond_those_that_are_held_are_a_loss() {
    let mut bench = Bench::new();
    let many: Vec<Step> = (0..4100).map(|packet| step(packet, XMIT, WEB_NETNS, 2, packet)).collect();
    bench.steps(&many);
    let mut out = Vec::new();
    let counts = Counts { at_ns: T + SECOND, ..Counts::default() };
    bench.rule.reading(&Reading::Counts(counts), T + SECOND, &bench.host.world(), &mut out);
    let lost = out.iter().find_map(|output| match output {
        Output::Loss(loss) => Some((loss.event, loss.count)),
        _ => None,
    });
    assert_eq!(lost, Some(("packet_step", 4)));
}
