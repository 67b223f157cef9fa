//! Packets that are followed one by one.

use super::*;

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

impl Bench {
    /// Steps that there was no room for, by a reading of that second.
    fn lost_steps(&mut self, second: u64) -> Option<u64> {
        let counts = Counts { at_ns: T + second * SECOND, ..Counts::default() };
        let mut out = Vec::new();
        self.rule.reading(&Reading::Counts(counts), T + second * SECOND, &self.host.world(), &mut out);
        out.iter().find_map(|output| match output {
            Output::Loss(loss) if loss.event == "packet_step" => Some(loss.count),
            _ => None,
        })
    }
}

#[test]
fn packets_beyond_those_that_are_held_are_a_loss() {
    let many = |from: u64| (from..from + 4100).map(|packet| step(packet, XMIT, WEB_NETNS, 2, packet));
    let mut bench = Bench::new();
    bench.steps(&many(0).collect::<Vec<_>>());
    assert_eq!(bench.lost_steps(1), Some(4));
    // Those that were told may go on for a while; then there is room again.
    bench.steps(&many(5000).take(10).collect::<Vec<_>>());
    assert_eq!(bench.lost_steps(3), Some(10));
    assert_eq!(bench.lost_steps(10), None);
    bench.steps(&many(6000).take(10).collect::<Vec<_>>());
    assert_eq!(bench.lost_steps(11), None);
}

#[test]
fn steps_of_one_packet_beyond_those_that_are_held_are_a_loss() {
    let mut bench = Bench::new();
    bench.steps(&(0..66).map(|at| step(1, XMIT, WEB_NETNS, 2, at)).collect::<Vec<_>>());
    assert_eq!(bench.lost_steps(1), Some(2));
}
