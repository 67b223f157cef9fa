//! Where packets stop.

use super::*;

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
    assert_eq!(bench.read(1, vec![(key, spent.clone())], Vec::new()).0, []);
    let by_rule = (drop_at(NETFILTER_DROP, HOST_NETNS, BRIDGE), spent);
    assert_eq!(Bench::new().read(1, vec![by_rule], Vec::new()).0.len(), 1, "that is not why a rule drops it");
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

/// Another container's question says nothing of this one's packets.
#[test]
fn a_question_is_of_the_container_that_asked() {
    let waiting = drop_at(NEIGH_FAILED, WEB_NETNS, 2);
    let other = DropKey { container: OTHER_NETNS, ..drop_at(NOT_SPECIFIED, HOST_NETNS, VETH) };
    let question = DropKey { location: 101, protocol: ARP, ..other };
    let found = Bench::new().drops(1, &[(waiting, 3), (question, 3)]);
    let whose: Vec<_> = found.iter().map(|finding| finding.container.as_ref().map(|own| own.cgroup.as_str())).collect();
    assert_eq!(whose, [Some(WEB), Some(OTHER)]);
    assert_eq!(Bench::new().drops(1, &[(waiting, 2), (question, 1)]), [], "too few of each");
}

/// The kernel side gives no container where it does not know the namespace yet: its device is in it all the same.
#[test]
fn a_drop_in_the_containers_namespace_is_its_own() {
    let found = Bench::new().drops(1, &[(DropKey { container: 0, ..drop_at(NETFILTER_DROP, WEB_NETNS, 2) }, 3)]);
    assert_eq!(found[0].container.as_ref().map(|own| own.cgroup.as_str()), Some(WEB));
}

#[test]
fn who_shares_the_network_is_named() {
    let shared = |other: u32| {
        let netns = [(Arc::from(WEB), WEB_NETNS), (Arc::from(OTHER), other)].into();
        let drops = vec![(drop_at(NETFILTER_DROP, WEB_NETNS, 2), total(3, "eth0", "veth"))];
        let counts = Counts { at_ns: T + SECOND, netns, drops, ..Counts::default() };
        let (mut bench, mut out) = (Bench::new(), Vec::new());
        bench.rule.reading(&Reading::Counts(counts), T + SECOND, &bench.host.world(), &mut out);
        let finding = out.into_iter().find_map(|output| match output {
            Output::Finding(finding) => Some(finding),
            _ => None,
        });
        finding.expect("net.dropped").evidence.get("shared_with").and_then(|shared| shared.as_array().map(Vec::len))
    };
    assert_eq!((shared(WEB_NETNS), shared(OTHER_NETNS)), (Some(1), None));
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
    let of_another = (HopKey { container: OTHER_NETNS, ..answer.0 }, answer.1.clone());
    assert_eq!(Bench::new().read(1, Vec::new(), vec![out(4), of_another]).0.len(), 1, "another's answers");
    assert_eq!(Bench::new().read(1, Vec::new(), vec![out(4), answer]).0, [], "it is answered");
    let (bridge, passed) = hop(OUT, XMIT, HOST_NETNS, BRIDGE, "bridge", 4);
    let passed = (bridge, HopTotal { untranslated: 4, ..passed });
    assert_eq!(Bench::new().read(1, Vec::new(), vec![passed]).0, [], "it did not leave");
    assert_eq!(Bench::new().read(1, Vec::new(), vec![out(0)]).0, [], "it is translated: answers have another address");
    assert_eq!(Bench::new().read(1, Vec::new(), vec![out(2)]).0, [], "too few");
    let (mut key, total) = out(4);
    key.protocol = IPV4 | 17 << 16;
    assert_eq!(Bench::new().read(1, Vec::new(), vec![(key, total)]).0, [], "nobody need answer UDP");
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
