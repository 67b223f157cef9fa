//! The hops of a way, their order and their times.

use super::*;

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
    // What costs less, and at which price.
    assert!(finding.fix[1].contains("macvlan") && finding.fix[1].contains("iptables"), "{:?}", finding.fix);
    assert_eq!(told(19, 100_000), [], "too few");
    assert_eq!(told(20, 99_999), [], "some microseconds are no wait");
    let mut bench = Bench::new();
    bench.read(1, Vec::new(), way(0, 0));
    bench.read(2, Vec::new(), way(20, 200_000));
    let closed = bench.read(30, Vec::new(), way(20, 200_000)).0;
    assert_eq!(closed.iter().map(|finding| finding.state).collect::<Vec<_>>(), [Some(State::Closed)]);
}

/// Some that waited for a neighbour's address make a large mean, and no slow way.
#[test]
fn a_few_that_waited_are_no_slow_way() {
    let told = |slow: usize| {
        let hops = |packets: u64| {
            let mut hops = way(packets, 100_000);
            let uplink = &mut hops.last_mut().expect("the uplink").1;
            uplink.since[9] = uplink.since[9].min(slow as u64);
            uplink.since[1] = packets - uplink.since[9];
            hops
        };
        let mut bench = Bench::new();
        bench.read(1, Vec::new(), hops(0));
        bench.read(2, Vec::new(), hops(20)).0.len()
    };
    assert_eq!((told(10), told(9)), (1, 0));
}

/// Nobody is known to be in that namespace: the container is gone, or is none.
#[test]
fn a_slow_way_of_nobody_is_not_told() {
    let of_nobody = |packets| {
        let hops = way(packets, 200_000).into_iter();
        hops.map(|(key, total)| (HopKey { container: 77, ..key }, total)).collect()
    };
    let mut bench = Bench::new();
    bench.read(1, Vec::new(), of_nobody(0));
    assert_eq!(bench.read(2, Vec::new(), of_nobody(20)).0, []);
}

/// The hop of each device on the way to the container, and by which of its own they come.
fn inward(hops: Vec<(HopKey, HopTotal)>) -> Vec<String> {
    let (_, samples) = Bench::new().read(1, Vec::new(), hops);
    let web = samples.into_iter().find(|sample| sample.cgroup.as_deref() == Some(WEB)).expect("a sample");
    let row = |hop: &serde_json::Value| {
        let text = |key: &str| hop[key].as_str().unwrap_or("?").to_owned();
        format!("{} {} {}", text("device"), text("hop"), text("through"))
    };
    let hops = web.fields["hops"].as_array().expect("hops").iter();
    hops.filter(|hop| hop["flow"] == "in").map(row).collect()
}

/// What only goes to the container has no packet that came straight from it.
#[test]
fn an_end_by_which_packets_only_go_to_the_container() {
    let own = || hop(IN, RECEIVE, WEB_NETNS, 2, "veth", 7);
    let veth = || hop(IN, XMIT, HOST_NETNS, VETH, "veth", 7);
    // The host itself sends it: it came by no device.
    assert_eq!(inward(vec![veth(), own()]), ["dev11 host veth dev2", "dev2 container device dev2"]);
    // Somebody in another namespace sends it: his device is no end of the container's pair.
    let (outside, sent) = hop(IN, XMIT, 9, 50, "veth", 7);
    assert_eq!(
        inward(vec![(outside, sent), veth(), own()]),
        ["dev50 uplink dev2", "dev11 host veth dev2", "dev2 container device dev2"]
    );
    // It comes by that device, too: a router's, which sends it back where it came from.
    let back = [hop(IN, RECEIVE, HOST_NETNS, UPLINK, "veth", 7), hop(IN, XMIT, HOST_NETNS, UPLINK, "veth", 7)];
    assert_eq!(
        inward([back.to_vec(), vec![own()]].concat()),
        ["dev13 uplink dev2", "dev13 uplink dev2", "dev2 container device dev2"]
    );
}

/// What it sends to itself says nothing of the way that others come by.
#[test]
fn loopback_is_no_way() {
    let to_itself = hop(IN, RECEIVE, WEB_NETNS, 1, "", 5);
    let hops = vec![to_itself, hop(IN, RECEIVE, HOST_NETNS, UPLINK, "", 7), hop(IN, RECEIVE, WEB_NETNS, 2, "veth", 7)];
    assert_eq!(inward(hops)[0], "dev13 uplink dev2");
}

/// A pair of the host's that packets passed, where the container's own is not known.
#[test]
fn where_packets_passed_it_is_no_end_of_the_containers() {
    let stopped = |ifindex| {
        let key = DropKey { flags: OUTWARD, ..drop_at(QDISC_DROP, HOST_NETNS, ifindex) };
        let hops = vec![hop(OUT, XMIT, HOST_NETNS, UPLINK, "veth", 9)];
        Bench::new().read(1, vec![(key, total(3, "dev", "veth"))], hops).0[0].evidence["hop"].clone()
    };
    assert_eq!((stopped(UPLINK), stopped(VETH)), ("uplink".into(), "host veth".into()));
}

/// Hops that nobody counts, and hops that nobody can tell apart, are not none.
#[test]
fn a_row_without_hops_says_why() {
    let row = |netns, is_idle| {
        let netns = [(Arc::from(WEB), netns)].into();
        let counts = Counts { at_ns: T + SECOND, is_idle, netns, host: Some(HOST_NETNS), ..Counts::default() };
        let (mut bench, mut out) = (Bench::new(), Vec::new());
        bench.rule.reading(&Reading::Counts(counts), T + SECOND, &bench.host.world(), &mut out);
        let rows = out.into_iter().filter_map(|output| match output {
            Output::Sample(row) if row.cgroup.as_deref() == Some(WEB) => Some(row),
            _ => None,
        });
        let rows: Vec<_> = rows.collect();
        let [row] = &rows[..] else { panic!("{rows:?}") };
        let why = row.unknown.get("hops").map(|why| why.contains("host's network"));
        (row.fields["network"].clone(), row.fields["hops"].is_null(), why)
    };
    assert_eq!(row(HOST_NETNS, false), ("host".into(), true, Some(true)));
    assert_eq!(row(WEB_NETNS, true), ("own".into(), true, Some(false)));
    assert_eq!(row(WEB_NETNS, false), ("own".into(), false, None));
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

/// What comes to such a device is seen at its uplink alone, but for a few that were sent to all.
#[test]
fn what_comes_to_a_macvlan_is_not_known() {
    let by = |(key, total): (HopKey, HopTotal)| (HopKey { through: 2, ..key }, total);
    let sent = vec![by(hop(OUT, XMIT, WEB_NETNS, 2, "macvlan", 5)), by(hop(OUT, XMIT, HOST_NETNS, UPLINK, "", 5))];
    let came = hop(IN, RECEIVE, HOST_NETNS, UPLINK, "", 7);
    let to_all = by(hop(IN, RECEIVE, WEB_NETNS, 2, "macvlan", 1));
    for hops in [[sent.clone(), vec![came.clone()]].concat(), [sent, vec![came, to_all]].concat()] {
        let (_, samples) = Bench::new().read(1, Vec::new(), hops);
        let web = samples.iter().find(|sample| sample.cgroup.as_deref() == Some(WEB)).expect("a sample");
        let hops = web.fields["hops"].as_array().expect("hops");
        let said: Vec<_> = hops.iter().map(|hop| (&hop["hop"], &hop["through"], &hop["packets"])).collect();
        let (own, uplink, dev) = ("container device".into(), "uplink".into(), "dev2".into());
        let (five, seven, unknown) = (5.into(), 7.into(), serde_json::Value::Null);
        assert_eq!(
            said,
            [(&own, &dev, &five), (&uplink, &dev, &five), (&uplink, &dev, &seven), (&own, &dev, &unknown)]
        );
        assert!(hops[3]["unknown"]["packets_per_s"].is_string() && hops[3]["packets_per_s"].is_null());
        assert!(hops[..3].iter().all(|hop| hop["unknown"].is_null() && hop["packets_per_s"].is_u64()));
    }
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

/// Nor those of a device whose index another one has.
#[test]
fn hops_of_a_device_that_is_replaced_are_not_forgotten() {
    let mut bench = Bench::new();
    let mut lost = |second, name: &str, protocols: &[u32]| {
        let hops = protocols.iter().map(|protocol| {
            let (key, total) = hop(OUT, XMIT, HOST_NETNS, UPLINK, "", 5);
            let device = Device { name: name.to_owned(), ..total.device };
            (HopKey { protocol: *protocol, ..key }, HopTotal { device, ..total })
        });
        let netns = [(Arc::from(WEB), WEB_NETNS)].into();
        let counts = Counts { at_ns: T + second * SECOND, netns, hops: hops.collect(), ..Counts::default() };
        let mut out = Vec::new();
        bench.rule.reading(&Reading::Counts(counts), T + second * SECOND, &bench.host.world(), &mut out);
        out.iter().any(|output| matches!(output, Output::Loss(_)))
    };
    assert!(!lost(1, "up0", &[0, IPV4 | TCP]));
    assert!(!lost(2, "up9", &[IPV4 | TCP]), "what up0 counted is gone with it");
    assert!(lost(3, "up9", &[0]), "up9's own is not");
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
