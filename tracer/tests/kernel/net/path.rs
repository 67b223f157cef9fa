//! Hops and drops: a fault at each hop in turn, and none.

use std::{
    io::Write,
    net::{TcpListener, TcpStream, UdpSocket},
    process::Command,
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde_json::Value;

use super::street::{INSIDE, OUTSIDE, OUTSIDE6, PORT, Street};
use crate::{
    harness::{Lack, Test},
    support::{
        cgroups::{Group, Tree},
        ctrace::{Ctrace, Line, command},
        wait_until,
    },
};

pub static TESTS: &[&[Test]] = &[&[
    Test::core("net::no_fault", no_fault),
    Test::core("net::no_fault_without_types", no_fault_without_types),
    Test::full("net::some_are_timed", some_are_timed),
    Test::full("net::large_buffers", large_buffers),
    Test::full("net::large_buffers_inward", large_buffers_inward),
    Test::full("net::ipv6", ipv6),
    Test::full("net::two_ways", two_ways),
    Test::full("net::another_device", another_device),
    Test::full("net::another_name", another_name),
    Test::full("net::buffer_of_another", buffer_of_another),
    Test::full("net::to_groups", to_groups),
    Test::core("net::rule_in_the_container", rule_in_the_container),
    Test::full("net::rule_against_what_comes", rule_against_what_comes),
    Test::full("net::same_address", same_address),
    Test::full("net::dropped_at_the_other", dropped_at_the_other),
    Test::core("net::bridge_is_down", bridge_is_down),
    Test::core("net::forward_policy", forward_policy),
    Test::full("net::forward_policy_inward", forward_policy_inward),
    Test::full("net::rule_on_the_host", rule_on_the_host),
    Test::full("net::rule_at_the_bridge", rule_at_the_bridge).needs(&[Lack::Nftables]),
    Test::full("net::nothing_translates", nothing_translates),
    Test::full("net::nobody_need_answer", nobody_need_answer),
    Test::full("net::translated", translated),
    Test::full("net::translated_in_vain", translated_in_vain),
    Test::core("net::reverse_path", reverse_path),
    Test::full("net::too_large", too_large),
    Test::full("net::uplink_is_down", uplink_is_down),
    Test::full("net::uplink_has_no_carrier", uplink_has_no_carrier),
    Test::full("net::queue_is_full", queue_is_full),
    Test::core("net::queue_is_slow", queue_is_slow),
    Test::full("net::macvlan", macvlan),
]];

/// Packets of a run.
pub const PACKETS: usize = 7;

/// A container at the end of a street, and `ctrace` that knows it.
pub struct Scene {
    pub street: Street,
    pub ctrace: Ctrace,
    pub container: Group,
    /// Its cgroups live as long.
    pub tree: Tree,
}

impl Scene {
    pub fn new() -> Self {
        Self::seen_by(command(&["net", "--json"]))
    }

    fn seen_by(ctrace: Command) -> Self {
        let tree = Tree::new();
        let container = tree.container();
        let street = Street::new(&container);
        let ctrace = Ctrace::ready(ctrace);
        let scene = Self { street, ctrace, container, tree };
        // With the first sample the kernel side knows whose packets are meant.
        scene.sample("at all", |_| true);
        scene
    }

    pub fn sample(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let wanted =
            |line: &Line| line.json["sample"] == "net" && line.json["cgroup"] == self.container.path && is(&line.json);
        self.ctrace.wait_for(&format!("the hops of {}, {what}", self.container.path), wanted).json
    }

    /// Does that again and again, until the last sample is such a one.
    fn until(&self, what: &str, again: impl Fn(), is: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, || {
            again();
            let mut samples = self.ctrace.lines().into_iter().map(|line| line.json);
            samples
                .rfind(|json| json["sample"] == "net" && json["cgroup"] == self.container.path)
                .filter(|last| is(last))
        })
    }

    /// Waits until so many packets have stopped there: a reading may come between two of them, and what is found then has a
    /// part of them.
    pub fn stops(&self, hop: &str, packets: usize) -> Value {
        let all = |sample: &Value| stopped_at(sample, hop) == packets as u64;
        self.sample(&format!("{packets} packets stopped at {hop}"), all)
    }

    /// Waits for packets that stopped there; the kernel's reason is one of those, where it gives any.
    fn stopped(self, hop: &str, reasons: &[&str]) -> Value {
        let finding = self.ctrace.wait_for(&format!("packets that stop at {hop}"), |line| {
            line.json["code"] == "net.dropped"
                && line.json["container"]["cgroup"] == self.container.path
                && line.json["evidence"]["hop"] == hop
        });
        let evidence = finding.json["evidence"].clone();
        let reason = evidence["reason"].as_str();
        assert!(reason.is_none_or(|reason| reasons.contains(&reason)), "{evidence}");
        if reason.is_none() && evidence["inferred"] == false {
            assert!(evidence["location"].is_string(), "neither a reason nor a place: {evidence}");
        }
        let said = self.ctrace.stop();
        let stops = |finding: &&Value| finding["code"] == "net.dropped";
        let elsewhere = said.about(&self.container).filter(stops).find(|finding| finding["evidence"]["hop"] != hop);
        assert!(elsewhere.is_none(), "one fault, and another hop: {elsewhere:#?}");
        evidence
    }
}

/// A hop of a sample, by its device's name and direction.
pub fn packets(sample: &Value, flow: &str, hop: &str, direction: &str, key: &str) -> u64 {
    let hops = sample["hops"].as_array().into_iter().flatten();
    let meant = hops.filter(|own| own["flow"] == flow && own["hop"] == hop && own["direction"] == direction);
    meant.filter_map(|own| own[key].as_u64()).sum()
}

/// Of those on their way out which that hop received: how many were timed.
fn timed(sample: &Value, hop: &str) -> u64 {
    let hops = sample["hops"].as_array().into_iter().flatten();
    let meant = hops.filter(|own| own["flow"] == "out" && own["hop"] == hop && own["direction"] == "receive");
    meant
        .flat_map(|own| own["since_container"].as_array().into_iter().flatten())
        .filter_map(|one| one["count"].as_u64())
        .sum()
}

/// Packets of late that stopped at that hop.
pub fn stopped_at(sample: &Value, hop: &str) -> u64 {
    let stops = sample["stops"].as_array().into_iter().flatten();
    stops.filter(|stop| stop["hop"] == hop).filter_map(|stop| stop["packets"].as_u64()).sum()
}

fn no_fault() {
    passes(Scene::new());
}

/// Where the kernel does not take the programs that know the types of what they are given, and makes no types of addresses.
fn no_fault_without_types() {
    let mut ctrace = command(&["net", "--json"]);
    ctrace.env("CTRACE_WITHOUT", "packet_sent_typed,packet_received_typed,packet_drop_typed,bpf_rdonly_cast");
    let scene = Scene::seen_by(ctrace);
    let ready = scene.ctrace.wait_for("what is attached", |line| line.json["code"] == "ready");
    for (probe, tracepoint) in [("packet_sent", "net_dev_start_xmit"), ("packet_received", "netif_receive_skb")] {
        assert_eq!(ready.json["probes"][probe], format!("raw tracepoint {tracepoint}"), "{}", ready.json);
    }
    passes(scene);
}

fn passes(scene: Scene) {
    let street = &scene.street;
    let before = street.counters("c", "eth0");
    let server = street.at("o", || UdpSocket::bind((OUTSIDE, PORT)).expect("a port")).join().expect("a socket");
    let listener = street.at("o", || TcpListener::bind((OUTSIDE, PORT)).expect("a port")).join().expect("a socket");
    street.send(PACKETS, 100);
    for _ in 0..PACKETS {
        let mut bytes = [0; 200];
        let (size, from) = server.recv_from(&mut bytes).expect("a packet");
        assert_eq!((size, from.ip().to_string().as_str()), (100, INSIDE));
        server.send_to(&bytes[..size], from).expect("an answer");
    }
    assert!(street.connect().join().expect("the container's thread"), "a connection");
    drop((server, listener));
    // Neighbours are asked again at any time: the counters are read again with each sample.
    let agrees = |sample: &Value| {
        let after = street.counters("c", "eth0");
        let grew = |way: &str, key: &str| after[way][key].as_u64().zip(before[way][key].as_u64()).map(|(a, b)| a - b);
        let same = |flow, direction, way, key| {
            Some(packets(sample, flow, "container device", direction, key)) == grew(way, key)
        };
        // A reading may come between two hops of one packet.
        let out = packets(sample, "out", "container device", "xmit", "packets");
        ["packets", "bytes"].iter().all(|key| same("out", "xmit", "tx", key) && same("in", "receive", "rx", key))
            && out >= PACKETS as u64
            && packets(sample, "out", "host veth", "receive", "packets") == out
            && timed(sample, "host veth") == out
            && packets(sample, "out", "uplink", "xmit", "packets") >= PACKETS as u64
    };
    scene.sample("as many as the device counted, and as many at its other end", agrees);
    let said = scene.ctrace.stop();
    // An emulated machine takes its time on the way.
    let found = said.codes(&scene.container).into_iter().filter(|code| *code != "net.hop-latency");
    assert_eq!(found.collect::<Vec<_>>(), [] as [&str; 0], "no fault, and yet");
}

/// Of many packets at once some are timed: the first of a tick, and some of the rest. All are counted.
fn some_are_timed() {
    let scene = Scene::new();
    let street = &scene.street;
    street.knows_its_neighbours();
    on_one_cpu();
    let is_more =
        |sample: &Value| timed(sample, "host veth") < packets(sample, "out", "host veth", "receive", "packets");
    let sample = scene.until("more packets than are timed", || street.send(2000, 20), is_more);
    let (all, some) = (packets(&sample, "out", "host veth", "receive", "packets"), timed(&sample, "host veth"));
    assert!(some >= 32 && some >= all / 17, "{some} of {all} were timed: {sample:#}");
    let street = &scene.street;
    scene.sample("as many as the device counted", |sample| {
        let own = street.counters("c", "eth0")["tx"]["packets"].as_u64();
        let count = |hop: &str, direction: &str| Some(packets(sample, "out", hop, direction, "packets"));
        // What it sent before it was known is in its counter alone.
        count("host veth", "receive") == count("container device", "xmit")
            && count("container device", "xmit").zip(own).is_some_and(|(seen, own)| seen <= own && seen + 50 > own)
    });
    scene.ctrace.stop();
}

/// Large buffers leave the container's device, and packets of a wire the uplink: both are counted, as the devices do.
fn large_buffers() {
    let scene = Scene::new();
    let street = &scene.street;
    street.ip("h", "link set up0 gso_max_segs 1");
    street.knows_its_neighbours();
    let (device, uplink) = (street.counters("c", "eth0"), street.counters("h", "up0"));
    let listener = street.at("o", || TcpListener::bind((OUTSIDE, PORT)).expect("a port")).join().expect("a socket");
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        std::io::copy(&mut stream, &mut std::io::sink()).expect("all of it")
    });
    let sent = street.at("c", || {
        let mut stream = TcpStream::connect((OUTSIDE, PORT)).expect("a connection");
        stream.write_all(&vec![7; 4 << 20]).expect("4 MiB");
    });
    sent.join().expect("the container's thread");
    assert_eq!(reader.join().expect("the reader"), 4 << 20);
    let grew = |now: &Value, before: &Value, key: &str| {
        now["tx"][key].as_u64().zip(before["tx"][key].as_u64()).map(|(now, before)| now - before)
    };
    let agrees = |sample: &Value| {
        let (own, up) = (street.counters("c", "eth0"), street.counters("h", "up0"));
        let hop = |hop: &str, key: &str| Some(packets(sample, "out", hop, "xmit", key));
        hop("container device", "packets") == grew(&own, &device, "packets")
            && hop("container device", "bytes") == grew(&own, &device, "bytes")
            && hop("container device", "segments") == grew(&up, &uplink, "packets")
            && hop("uplink", "packets") == grew(&up, &uplink, "packets")
            && hop("uplink", "bytes") == grew(&up, &uplink, "bytes")
            && hop("uplink", "segments") == hop("uplink", "packets")
    };
    let sample = scene.sample("as many as both devices counted", agrees);
    let count = |key: &str| packets(&sample, "out", "container device", "xmit", key);
    assert!(count("segments") > count("packets") * 2, "large buffers: {sample:#}");
    scene.ctrace.stop();
}

/// The same inward: the host's devices get large buffers, and the container packets of a wire.
fn large_buffers_inward() {
    let scene = Scene::new();
    let street = &scene.street;
    street.ip("h", "link set port gso_max_segs 1");
    street.knows_its_neighbours();
    let (device, uplink) = (street.counters("c", "eth0"), street.counters("h", "up0"));
    let listener = street.at("c", || TcpListener::bind((INSIDE, PORT)).expect("a port")).join().expect("a socket");
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        std::io::copy(&mut stream, &mut std::io::sink()).expect("all of it")
    });
    let sent = street.at("o", || {
        let mut stream = TcpStream::connect((INSIDE, PORT)).expect("a connection");
        stream.write_all(&vec![7; 4 << 20]).expect("4 MiB");
    });
    sent.join().expect("the thread outside");
    assert_eq!(reader.join().expect("the reader"), 4 << 20);
    let grew = |now: &Value, before: &Value, key: &str| {
        now["rx"][key].as_u64().zip(before["rx"][key].as_u64()).map(|(now, before)| now - before)
    };
    let agrees = |sample: &Value| {
        let (own, up) = (street.counters("c", "eth0"), street.counters("h", "up0"));
        let hop = |hop: &str, key: &str| Some(packets(sample, "in", hop, "receive", key));
        hop("uplink", "packets") == grew(&up, &uplink, "packets")
            && hop("uplink", "bytes") == grew(&up, &uplink, "bytes")
            && hop("uplink", "segments") == grew(&own, &device, "packets")
            && hop("container device", "packets") == grew(&own, &device, "packets")
            && hop("container device", "bytes") == grew(&own, &device, "bytes")
            && hop("container device", "segments") == hop("container device", "packets")
    };
    let sample = scene.sample("as many as both devices counted", agrees);
    let count = |key: &str| packets(&sample, "in", "uplink", "receive", key);
    assert!(count("segments") > count("packets") * 2, "large buffers: {sample:#}");
    scene.ctrace.stop();
}

/// The same way with IPv6: counted at each hop, and stopped by a rule.
fn ipv6() {
    let scene = Scene::new();
    let street = &scene.street;
    street.with_ipv6();
    let server = street.at("o", || UdpSocket::bind((OUTSIDE6, PORT)).expect("a port")).join().expect("a socket");
    let send = || street.send_to(PACKETS, OUTSIDE6, PORT);
    let exchange = || {
        send();
        for _ in 0..PACKETS {
            let mut bytes = [0; 200];
            let (size, from) = server.recv_from(&mut bytes).expect("a packet");
            assert_eq!((size, from.ip().to_string().as_str()), (100, "fd97::2"));
            server.send_to(&bytes[..size], from).expect("an answer");
        }
    };
    let all = PACKETS as u64;
    // The kernel side is told the container's address some time after it has it: until then what comes to it is anybody's.
    scene.until("on the uplink, and back", exchange, |sample| {
        let out = [("container device", "xmit"), ("host veth", "receive"), ("uplink", "xmit")];
        out.iter().all(|(hop, direction)| packets(sample, "out", hop, direction, "packets") >= all)
            && packets(sample, "in", "host veth", "xmit", "packets") >= all
    });
    street.run("h", "ip6tables -P FORWARD DROP");
    send();
    scene.stops("netfilter", PACKETS);
    let evidence = scene.stopped("netfilter", &["NETFILTER_DROP"]);
    assert_eq!(evidence["first_packet"]["destination"], OUTSIDE6);
}

/// A second network, by which the container answers what comes by the first.
fn two_ways() {
    let scene = Scene::new();
    let street = &scene.street;
    street.second_network();
    // Nobody asks who has the container's first address: it sends nothing there.
    let inside = street.hardware("c", "eth0");
    street.ip("h", &format!("neigh replace {INSIDE} lladdr {inside} dev br0 nud permanent"));
    let server = street.at("c", || UdpSocket::bind((INSIDE, PORT)).expect("a port")).join().expect("a socket");
    let client = street.at("o", || UdpSocket::bind((OUTSIDE, 0)).expect("a port")).join().expect("a socket");
    for _ in 0..PACKETS {
        client.send_to(&[7; 100], (INSIDE, PORT)).expect("a packet");
        let mut bytes = [0; 200];
        let (size, from) = server.recv_from(&mut bytes).expect("a packet");
        server.send_to(&bytes[..size], from).expect("an answer");
        client.recv_from(&mut bytes).expect("an answer");
    }
    // It sends by the first as well: which one a packet left by is not told by there being one alone.
    let near = street.at("h", || UdpSocket::bind(("10.97.0.1", PORT)).expect("a port")).join().expect("a socket");
    server.send_to(&[7; 100], ("10.97.0.1", PORT)).expect("a packet");
    near.recv(&mut [0; 200]).expect("a packet");
    let all = PACKETS as u64;
    let at = |sample: &Value, flow: &str, device: &str| {
        let hops = sample["hops"].as_array().into_iter().flatten();
        // Who is outside has a device of that name as well.
        let is_inside = |hop: &Value| device != "eth0" || hop["netns"] == sample["netns"];
        let mut here = hops.filter(|hop| hop["flow"] == flow && hop["device"] == device && is_inside(hop));
        here.find(|hop| hop["packets"].as_u64().is_some_and(|packets| packets >= all)).cloned()
    };
    let passed = [
        ("out", "eth1", "container device", "eth1"),
        ("out", "port1", "host veth", "eth1"),
        ("out", "up0", "uplink", "eth1"),
        ("in", "port", "host veth", "eth0"),
        ("in", "eth0", "container device", "eth0"),
    ];
    let sample = scene.sample("by two ways", |sample| {
        packets(sample, "out", "container device", "xmit", "packets") > all
            && passed.iter().all(|(flow, device, ..)| at(sample, flow, device).is_some())
    });
    for (flow, device, hop, through) in passed {
        let found = at(&sample, flow, device).unwrap_or_else(|| panic!("no {flow} {device} in {sample:#}"));
        assert_eq!(found["hop"], hop, "{found}");
        // Whose an answer about neighbours is blurs the way to the container.
        assert!(found["through"] == through || (device == "port" && found["through"].is_null()), "{found}");
    }
    assert!(at(&sample, "in", "up0").is_some_and(|hop| hop["through"] != "eth1"), "{sample:#}");
    let said = scene.ctrace.stop();
    let found = said.codes(&scene.container).into_iter().filter(|code| *code != "net.hop-latency");
    assert_eq!(found.collect::<Vec<_>>(), [] as [&str; 0], "no fault, and yet");
}

/// What this thread and those that it starts send has each hop on one CPU: each CPU counts for itself.
pub fn on_one_cpu() {
    let mut cpus = CpuSet::new();
    cpus.set(0).expect("there is a first one");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("this thread's own");
}

/// An index is given again once its device is gone.
fn another_device() {
    let scene = Scene::new();
    let street = &scene.street;
    on_one_cpu();
    let full = "root tbf rate 8kbit burst 1600 limit 3000";
    street.send(40, 100);
    scene.sample("of all", |sample| packets(sample, "out", "uplink", "xmit", "packets") >= 40);
    street.run("h", &format!("tc qdisc add dev up0 {full}"));
    street.send(40, 1400);
    scene.ctrace.wait_for("drops on the first", |line| {
        line.json["code"] == "net.dropped" && line.json["evidence"]["device"] == "up0"
    });
    let first = scene.sample("on the first", |sample| packets(sample, "out", "uplink", "xmit", "packets") > 0);
    let up0 = first["hops"].as_array().into_iter().flatten().find(|hop| hop["device"] == "up0");
    let ifindex = up0.and_then(|hop| hop["ifindex"].as_u64()).expect("its index");
    street.ip("h", "link del up0");
    street.another_uplink("up9", ifindex);
    street.run("h", &format!("tc qdisc add dev up9 {full}"));
    street.send(40, 1400);
    let finding = scene.ctrace.wait_for("drops on the second", |line| {
        line.json["code"] == "net.dropped" && line.json["evidence"]["device"] == "up9"
    });
    assert!(finding.json["evidence"]["packets"].as_u64().is_some_and(|packets| packets <= 40), "{}", finding.json);
    let count = |sample: &Value| {
        street.counters("h", "up9")["tx"]["packets"]
            .as_u64()
            .zip(Some(packets(sample, "out", "uplink", "xmit", "packets")))
    };
    // The device's own counter has the host's questions for neighbours, too.
    let has = |sample: &Value, device: &str| {
        sample["hops"].as_array().into_iter().flatten().any(|hop| hop["device"] == device && hop["direction"] == "xmit")
    };
    let sample = scene.sample("on the second", |sample| {
        has(sample, "up9") && count(sample).is_some_and(|(own, seen)| seen > 0 && seen <= own)
    });
    let devices: Vec<_> = sample["hops"].as_array().into_iter().flatten().map(|hop| &hop["device"]).collect();
    assert!(!devices.contains(&&"up0".into()), "{devices:?}");
    scene.ctrace.stop();
}

/// A device keeps its index and its place in memory when it gets another name.
fn another_name() {
    let scene = Scene::new();
    let street = &scene.street;
    let server = street.at("o", || UdpSocket::bind((OUTSIDE, PORT)).expect("a port")).join().expect("a socket");
    on_one_cpu();
    let send = || {
        street.send(PACKETS, 100);
        for _ in 0..PACKETS {
            server.recv(&mut [0; 200]).expect("a packet");
        }
    };
    send();
    let names = |sample: &Value| {
        let hops = sample["hops"].as_array().into_iter().flatten();
        let sends = hops.filter(|hop| hop["hop"] == "uplink" && hop["direction"] == "xmit");
        sends.map(|hop| hop["device"].as_str().unwrap_or("?").to_owned()).collect::<Vec<_>>()
    };
    scene.sample("by the first name", |sample| {
        names(sample) == ["up0"] && packets(sample, "out", "uplink", "xmit", "packets") >= PACKETS as u64
    });
    // Older kernels rename none that is up.
    street.ip("h", "link set up0 down");
    street.ip("h", "link set up0 name new0");
    street.ip("h", "link set new0 up");
    // Names are looked at ten times a second, where there are packets.
    let sample = scene.until("the second name alone", send, |sample| names(sample) == ["new0"]);
    let count = |hop: &str| packets(&sample, "out", hop, "xmit", "packets");
    assert!(count("uplink") + PACKETS as u64 <= count("container device"), "it counts from nothing: {sample:#}");
    scene.ctrace.stop();
}

/// After packets of the container the host sends some, which get the buffers that are free now: they are not the container's,
/// whether the first arrived, and are of another size, or were dropped, and are of the same.
fn buffer_of_another() {
    let scene = Scene::new();
    let street = &scene.street;
    on_one_cpu();
    street.knows_its_neighbours();
    let server = street.at("o", || UdpSocket::bind((OUTSIDE, PORT)).expect("a port")).join().expect("a socket");
    for _ in 0..PACKETS {
        street.send(1, 100);
        server.recv(&mut [0; 200]).expect("the container's packet");
        street.send_from("h", 1, 150);
        server.recv(&mut [0; 200]).expect("the host's packet");
    }
    let all = PACKETS as u64;
    let sent = |sample: &Value, all: u64| packets(sample, "out", "container device", "xmit", "packets") >= all;
    let left = |sample: &Value| packets(sample, "out", "uplink", "xmit", "packets");
    let sample = scene.sample("of each that it sent", |sample| sent(sample, all) && left(sample) >= all);
    assert_eq!(left(&sample), all, "{sample:#}");
    street.run("h", "iptables -P FORWARD DROP");
    for _ in 0..PACKETS {
        street.send(1, 100);
        street.send_from("h", 1, 100);
        server.recv(&mut [0; 200]).expect("the host's packet");
    }
    let sample = scene.sample("of each that was dropped", |sample| sent(sample, 2 * all));
    assert_eq!(left(&sample), all, "{sample:#}");
    scene.ctrace.stop();
}

/// What goes to a group or to all need have nobody who listens.
fn to_groups() {
    let scene = Scene::new();
    let street = &scene.street;
    let sent = street.at("c", || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.set_broadcast(true).expect("an option");
        for _ in 0..PACKETS {
            for to in ["239.1.2.3", "255.255.255.255", "10.97.0.255"] {
                socket.send_to(&[7; 100], (to, PORT)).expect("a packet");
            }
        }
    });
    sent.join().expect("the container's thread");
    let drops = |sample: &Value| sample["other_drops"].as_u64().unwrap_or(0) + sample["refused"].as_u64().unwrap_or(0);
    let sample = scene.sample("drops that mean nothing", |sample| drops(sample) >= PACKETS as u64);
    assert_eq!(sample["dropped"], 0, "{sample:#}");
    let said = scene.ctrace.stop();
    assert!(!said.codes(&scene.container).contains(&"net.dropped"), "nobody misses them");
}

/// From outside to the container, which has asked for none of it.
fn send_inward(street: &Street) {
    let sent = street.at("o", || {
        let socket = UdpSocket::bind((OUTSIDE, 0)).expect("a socket");
        for _ in 0..PACKETS {
            socket.send_to(&[7; 100], (INSIDE, PORT)).expect("a packet");
        }
    });
    sent.join().expect("the thread outside");
}

/// What comes to the container, stopped within it.
fn rule_against_what_comes() {
    let scene = Scene::new();
    let street = &scene.street;
    street.run("c", "iptables -A INPUT -p udp -j DROP");
    send_inward(street);
    let sample = scene.stops("netfilter", PACKETS);
    let stop = &sample["stops"][0];
    assert_eq!(
        (&stop["flow"], &stop["device"], &stop["netns"]),
        (&"in".into(), &"eth0".into(), &sample["netns"]),
        "{stop}"
    );
    let evidence = scene.stopped("netfilter", &["NETFILTER_DROP"]);
    assert_eq!(evidence["first_packet"]["source"], OUTSIDE);
}

fn rule_in_the_container() {
    let scene = Scene::new();
    scene.street.run("c", "iptables -A OUTPUT -p udp -j DROP");
    scene.street.send(PACKETS, 100);
    let sample = scene.stops("netfilter", PACKETS);
    assert_eq!(sample["stops"][0]["flow"], "out", "{sample:#}");
    scene.stopped("netfilter", &["NETFILTER_DROP"]);
}

/// Two containers have one address: by the socket's namespace alone it is known whose packet never got to a device.
fn same_address() {
    let scene = Scene::new();
    let other = scene.tree.container();
    let twin = Street::new(&other);
    let known = |line: &Line| line.json["sample"] == "net" && line.json["cgroup"] == other.path;
    scene.ctrace.wait_for("numbers of the other", known);
    scene.street.run("c", "iptables -A OUTPUT -p udp -j DROP");
    scene.street.send(PACKETS, 100);
    scene.stops("netfilter", PACKETS);
    let said = scene.ctrace.stop();
    assert!(said.codes(&scene.container).contains(&"net.dropped"));
    assert!(!said.codes(&other).contains(&"net.dropped"), "it sent nothing");
    drop(twin);
}

/// From one container to another, which lets nothing in: it is that one's.
fn dropped_at_the_other() {
    let scene = Scene::new();
    let other = scene.tree.container();
    let _other = scene.street.play("o", &other, &["pause"]);
    let of_other = |line: &Line| line.json["sample"] == "net" && line.json["cgroup"] == other.path;
    scene.ctrace.wait_for("numbers of the other", of_other);
    scene.street.run("o", "iptables -A INPUT -p udp -j DROP");
    scene.street.send(PACKETS, 100);
    let all = |line: &Line| of_other(line) && stopped_at(&line.json, "netfilter") == PACKETS as u64;
    let sample = scene.ctrace.wait_for("that all stopped at the other", all).json;
    assert_eq!(sample["stops"][0]["flow"], "in", "{sample:#}");
    let said = scene.ctrace.stop();
    assert!(said.codes(&other).contains(&"net.dropped"));
    assert!(!said.codes(&scene.container).contains(&"net.dropped"), "what it sent was stopped by the other");
}

fn bridge_is_down() {
    let scene = Scene::new();
    // It answers no more, and is asked again and again.
    scene.street.ip("h", "link set br0 down");
    scene.street.send(PACKETS, 100);
    let evidence = scene.stopped("bridge", &["BRIDGE_INGRESS_STP_STATE", "NOT_SPECIFIED"]);
    assert_eq!(evidence["protocol"], "ARP");
}

fn forward_policy() {
    let scene = Scene::new();
    scene.street.run("h", "iptables -P FORWARD DROP");
    scene.street.send(PACKETS, 100);
    let sample = scene.stops("netfilter", PACKETS);
    assert_eq!(sample["stops"][0]["flow"], "out", "{sample:#}");
    let evidence = scene.stopped("netfilter", &["NETFILTER_DROP"]);
    assert_eq!(evidence["device"], "br0");
    assert_eq!(evidence["first_packet"]["destination"], OUTSIDE);
}

/// By its address alone it is known whom a packet goes to that no device of a container has met.
fn forward_policy_inward() {
    let scene = Scene::new();
    let street = &scene.street;
    street.run("h", "iptables -P FORWARD DROP");
    send_inward(street);
    let sample = scene.stops("netfilter", PACKETS);
    assert_eq!(sample["stops"][0]["flow"], "in", "{sample:#}");
    let came = |sample: &Value| {
        let hops = sample["hops"].as_array().into_iter().flatten();
        let up0 = hops.filter(|hop| hop["flow"] == "in" && hop["device"] == "up0" && hop["direction"] == "receive");
        up0.filter_map(|hop| hop["packets"].as_u64()).sum::<u64>() == PACKETS as u64
    };
    scene.sample("on the way in", came);
    let evidence = scene.stopped("netfilter", &["NETFILTER_DROP"]);
    assert_eq!(evidence["first_packet"]["destination"], INSIDE);
}

/// What the container sends to the host itself.
fn rule_on_the_host() {
    let scene = Scene::new();
    let street = &scene.street;
    street.run("h", "iptables -A INPUT -p udp -j DROP");
    street.send_to(PACKETS, "10.97.0.1", PORT);
    let sample = scene.stops("netfilter", PACKETS);
    assert_eq!(sample["stops"][0]["flow"], "out", "{sample:#}");
    let evidence = scene.stopped("netfilter", &["NETFILTER_DROP"]);
    assert_eq!((&evidence["device"], &evidence["first_packet"]["destination"]), (&"br0".into(), &"10.97.0.1".into()));
}

/// A rule of the bridge's own, before anything is routed.
fn rule_at_the_bridge() {
    let scene = Scene::new();
    let street = &scene.street;
    street.run("h", "nft add table bridge own");
    street.run("h", "nft add chain bridge own up { type filter hook input priority 0 ; }");
    street.run("h", "nft add rule bridge own up ip protocol udp drop");
    street.send(PACKETS, 100);
    let sample = scene.stops("netfilter", PACKETS);
    assert_eq!(sample["stops"][0]["flow"], "out", "{sample:#}");
    let evidence = scene.stopped("netfilter", &["NETFILTER_DROP"]);
    assert_eq!((&evidence["device"], &evidence["first_packet"]["destination"]), (&"br0".into(), &OUTSIDE.into()));
}

fn nothing_translates() {
    let scene = Scene::new();
    // As anywhere else outside: what is private here has no way there.
    scene.street.ip("o", "route del 10.97.0.0/24");
    scene.street.ip("o", "route add blackhole 10.97.0.0/24");
    let connection = scene.street.connect();
    let evidence = scene.stopped("uplink", &[]);
    assert_eq!((&evidence["inferred"], &evidence["device"]), (&true.into(), &"up0".into()));
    assert!(!connection.join().expect("the container's thread"), "nobody answers");
}

/// Over UDP it need not be a fault that nothing comes back.
fn nobody_need_answer() {
    let scene = Scene::new();
    let street = &scene.street;
    // Not even an answer to a question for a neighbour.
    street.knows_its_neighbours();
    street.ip("o", "route del 10.97.0.0/24");
    street.ip("o", "route add blackhole 10.97.0.0/24");
    let server = street.at("o", || UdpSocket::bind((OUTSIDE, PORT)).expect("a port")).join().expect("a socket");
    street.send(PACKETS, 100);
    for _ in 0..PACKETS {
        server.recv(&mut [0; 200]).expect("a packet");
    }
    let left = |sample: &Value| packets(sample, "out", "uplink", "xmit", "untranslated") == PACKETS as u64;
    scene.sample("each of them untranslated on the uplink", left);
    let said = scene.ctrace.stop();
    assert!(!said.codes(&scene.container).contains(&"net.dropped"), "all that was sent has arrived");
}

/// The same with NAT: packets on the uplink are still the container's.
fn translated() {
    let scene = Scene::new();
    scene.street.ip("o", "route del 10.97.0.0/24");
    scene.street.run("h", "iptables -t nat -A POSTROUTING -o up0 -j MASQUERADE");
    let listener =
        scene.street.at("o", || TcpListener::bind((OUTSIDE, PORT)).expect("a port")).join().expect("a socket");
    assert!(scene.street.connect().join().expect("the container's thread"), "a connection");
    scene.sample("on the uplink", |sample| packets(sample, "out", "uplink", "xmit", "packets") > 0);
    drop(listener);
    let said = scene.ctrace.stop();
    assert!(said.codes(&scene.container).is_empty(), "no fault");
}

/// Nobody answers what was translated: that its address means nothing outside is not the reason.
fn translated_in_vain() {
    let scene = Scene::new();
    scene.street.run("h", "iptables -t nat -A POSTROUTING -o up0 -j MASQUERADE");
    // What comes there arrives; no answer has a way back.
    scene.street.knows_its_neighbours();
    scene.street.ip("o", "route add blackhole 10.98.0.1");
    let connection = scene.street.connect();
    let reason = |line: &Line| line.json["evidence"]["reason"] == "timed-out";
    scene.ctrace.wait_for("that nobody answers", |line| line.json["code"] == "net.refused" && reason(line));
    assert!(!connection.join().expect("the container's thread"), "nobody answers");
    scene.sample("on the uplink", |sample| packets(sample, "out", "uplink", "xmit", "packets") >= 3);
    let said = scene.ctrace.stop();
    assert!(!said.codes(&scene.container).contains(&"net.dropped"), "it was translated");
}

fn reverse_path() {
    let scene = Scene::new();
    let street = &scene.street;
    let bridge = street.hardware("h", "br0");
    street.ip("c", &format!("neigh replace 10.97.0.1 lladdr {bridge} dev eth0"));
    // The way back to the container leads elsewhere.
    street.ip("h", "addr del 10.97.0.1/24 dev br0");
    street.ip("h", "route add 10.97.0.0/24 dev up0");
    street.set("h", "net.ipv4.conf.all.rp_filter=1");
    street.send(PACKETS, 100);
    scene.stops("routing", PACKETS);
    scene.stopped("routing", &["IP_RPFILTER"]);
}

fn too_large() {
    let scene = Scene::new();
    scene.street.ip("h", "link set up0 mtu 1000");
    scene.street.send(PACKETS, 1400);
    let evidence = scene.stopped("routing", &["PKT_TOO_BIG"]);
    assert_eq!(evidence["first_packet"]["length_bytes"], 1428);
    assert_eq!((&evidence["next_device"], &evidence["next_mtu_bytes"]), (&"up0".into(), &1000.into()));
    assert_eq!((&evidence["container_device"], &evidence["container_mtu_bytes"]), (&"eth0".into(), &1500.into()));
}

fn uplink_is_down() {
    let scene = Scene::new();
    // Its routes go with it.
    scene.street.ip("h", "link set up0 down");
    scene.street.send(PACKETS, 100);
    scene.stopped("routing", &["IP_INNOROUTES", "IP_INADDRERRORS", "NOT_SPECIFIED"]);
}

fn uplink_has_no_carrier() {
    let scene = Scene::new();
    let street = &scene.street;
    let outside = street.hardware("o", "eth0");
    street.ip("h", &format!("neigh replace {OUTSIDE} lladdr {outside} dev up0"));
    street.ip("o", "link set eth0 down");
    street.send(PACKETS, 100);
    scene.ctrace.wait_for("that no queue is full, but its device down", |line| {
        line.json["code"] == "net.dropped" && line.json["summary"].as_str().is_some_and(|text| text.contains("is down"))
    });
    let evidence = scene.stopped("uplink", &["QDISC_DROP"]);
    assert_eq!(evidence["device"], "up0");
}

/// Nothing is lost: 40 packets wait for their turn at 1 Mbit/s, the last for some 400 ms.
fn queue_is_slow() {
    let scene = Scene::new();
    scene.street.run("h", "tc qdisc add dev up0 root tbf rate 1mbit burst 1600 limit 200000");
    scene.street.send(40, 1400);
    let finding = scene.ctrace.wait_for("packets that wait at the uplink", |line| {
        line.json["code"] == "net.hop-latency" && line.json["container"]["cgroup"] == scene.container.path
    });
    let evidence = &finding.json["evidence"];
    assert_eq!((&evidence["hop"], &evidence["device"]), (&"uplink".into(), &"up0".into()), "{evidence}");
    let mean = evidence["since_container_ns"].as_u64();
    assert!(mean.is_some_and(|mean| (50_000_000..5_000_000_000).contains(&mean)), "{evidence}");
    let said = scene.ctrace.stop();
    assert!(!said.codes(&scene.container).contains(&"net.dropped"), "a packet that waits is not lost");
}

fn queue_is_full() {
    let scene = Scene::new();
    scene.street.run("h", "tc qdisc add dev up0 root tbf rate 8kbit burst 1600 limit 3000");
    scene.street.send(40, 1400);
    scene.sample("most of them stopped at the uplink", |sample| (30..=40).contains(&stopped_at(sample, "uplink")));
    scene.stopped("uplink", &["QDISC_DROP", "QDISC_OVERLIMIT"]);
}

/// A device of the container's own on the uplink: neither a pair nor a bridge on the way.
fn macvlan() {
    let scene = Scene::new();
    let street = &scene.street;
    street.with_macvlan();
    let server = street.at("o", || UdpSocket::bind((OUTSIDE, PORT)).expect("a port")).join().expect("a socket");
    street.send(PACKETS, 100);
    for _ in 0..PACKETS {
        server.recv(&mut [0; 200]).expect("a packet");
    }
    let sample = scene.sample("as many on the uplink", |sample| {
        let own = packets(sample, "out", "container device", "xmit", "packets");
        own >= PACKETS as u64 && packets(sample, "out", "uplink", "xmit", "packets") == own
    });
    let hops = sample["hops"].as_array().into_iter().flatten();
    let devices: Vec<_> = hops.filter(|hop| hop["flow"] == "out" && hop["direction"] == "xmit").collect();
    assert!(devices.iter().all(|hop| hop["device"] == "own0" || hop["device"] == "up0"), "{devices:#?}");
    let own = |hop: &&Value| hop["flow"] == "in" && hop["device"] == "own0";
    let came = sample["hops"].as_array().into_iter().flatten().find(own).expect("the device that packets come to");
    assert!(came["packets"].is_null() && came["unknown"]["packets"].is_string(), "{came}");
    street.run("h", "tc qdisc add dev up0 root tbf rate 8kbit burst 1600 limit 3000");
    street.send(40, 1400);
    scene.sample("most of them stopped at the uplink", |sample| (30..=40).contains(&stopped_at(sample, "uplink")));
    let evidence = scene.stopped("uplink", &["QDISC_DROP", "QDISC_OVERLIMIT"]);
    assert_eq!(evidence["device"], "up0");
}
