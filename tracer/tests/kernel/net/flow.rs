//! One flow, packet by packet.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::fd::FromRawFd,
};

use nix::libc;
use serde_json::Value;

use super::{
    path::on_one_cpu,
    street::{INSIDE, OUTSIDE, OUTSIDE6, PORT, Street},
};
use crate::{
    harness::Test,
    support::{
        cgroups::{Group, Tree},
        ctrace::{Ctrace, Line, command},
    },
};

pub static TESTS: &[Test] = &[
    Test::core("net::flow::dropped", dropped),
    Test::full("net::flow::ipv6", ipv6),
    Test::full("net::flow::translated", translated),
    Test::full("net::flow::translated_twice", translated_twice),
    Test::full("net::flow::icmp", icmp),
    Test::full("net::flow::fragments", fragments),
    Test::full("net::flow::without_ports", without_ports),
    Test::full("net::flow::buffer_of_one_that_was_dropped", buffer_of_one_that_was_dropped),
    Test::full("net::flow::buffer_of_one_that_arrived", buffer_of_one_that_arrived),
];

const PACKETS: usize = 5;

fn follow(flow: &str, of: &Group) -> Ctrace {
    // With that container it is not ready before the kernel side knows whose packets are meant.
    Ctrace::ready(command(&["net", "--json", "--flow", flow, "--container", of.name()]))
}

/// The rows of packets so far.
fn packets(ctrace: &Ctrace) -> Vec<Value> {
    let lines = ctrace.lines().into_iter().map(|line| line.json);
    lines.filter(|json| json["event"] == "packet").collect()
}

fn wait_for(ctrace: &Ctrace, what: &str, count: usize) -> Vec<Value> {
    ctrace.wait_for(what, |line: &Line| line.json["event"] == "packet" && packets(ctrace).len() >= count);
    packets(ctrace)
}

/// `eth0 xmit`, in order.
fn hops(packet: &Value) -> Vec<String> {
    let hops = packet["hops"].as_array().expect("hops").iter();
    let text = |hop: &Value, key: &str| hop[key].as_str().unwrap_or("?").to_owned();
    hops.map(|hop| format!("{} {}", text(hop, "device"), text(hop, "direction"))).collect()
}

/// Each packet's way ends where the fault is; another flow's packets are not shown.
fn dropped() {
    let tree = Tree::new();
    let container = tree.container();
    let street = Street::new(&container);
    street.run("h", "iptables -P FORWARD DROP");
    let ctrace = follow(&format!("udp/{OUTSIDE}/{PORT}"), &container);
    street.send_to(PACKETS, OUTSIDE, PORT + 1);
    street.send_to(PACKETS, "10.97.0.1", PORT);
    street.send_to(PACKETS, OUTSIDE, PORT);
    let found = wait_for(&ctrace, "each packet's way", PACKETS);
    for (number, packet) in found.iter().enumerate() {
        assert_eq!(hops(packet), ["eth0 xmit", "port receive", "br0 receive"], "{packet:#}");
        let names: Vec<_> = packet["hops"].as_array().into_iter().flatten().map(|hop| &hop["hop"]).collect();
        assert_eq!(names, ["container device", "host veth", "bridge"], "{packet:#}");
        assert_eq!((&packet["packet"], &packet["flow"]), (&(number + 1).into(), &"out".into()), "{packet:#}");
        assert_eq!((&packet["source"], &packet["destination"]), (&INSIDE.into(), &OUTSIDE.into()), "{packet:#}");
        assert_eq!(
            (&packet["length_bytes"], &packet["container"]["cgroup"]),
            (&128.into(), &container.path.clone().into())
        );
        let stopped = &packet["stopped"];
        assert_eq!((&stopped["hop"], &stopped["device"]), (&"netfilter".into(), &"br0".into()), "{packet:#}");
        assert!(stopped["reason"].is_null() || stopped["reason"] == "NETFILTER_DROP", "{packet:#}");
        assert!(stopped["location"].is_string() && stopped["lost"] == true, "{packet:#}");
        let hops = packet["hops"].as_array().into_iter().flatten().chain([stopped]);
        let since: Vec<_> = hops.map(|hop| hop["since_first_ns"].as_u64().expect("a time")).collect();
        assert!(since[0] == 0 && since.is_sorted(), "{packet:#}");
    }
    // Of others nothing is told, at the end neither.
    let said = ctrace.stop();
    let told: Vec<_> = said.lines.iter().map(|line| &line.json).filter(|json| json["event"] == "packet").collect();
    assert_eq!(told.len(), PACKETS, "{told:#?}");
    assert!(told.iter().all(|packet| packet["destination_port"] == PORT), "{told:#?}");
}

/// The same way with IPv6, which nothing stops.
fn ipv6() {
    let tree = Tree::new();
    let container = tree.container();
    let street = Street::new(&container);
    street.with_ipv6();
    let server = street.at("o", || UdpSocket::bind((OUTSIDE6, PORT)).expect("a port")).join().expect("a socket");
    // The first ones wait for neighbours, for longer than a packet is waited for.
    street.send_to(PACKETS, OUTSIDE6, PORT);
    for _ in 0..PACKETS {
        server.recv(&mut [0; 200]).expect("a packet");
    }
    let ctrace = follow(&format!("udp/{OUTSIDE6}/{PORT}"), &container);
    // One after another, so that each has the buffer of the one before, which may be another flow's.
    let other = street.at("o", || UdpSocket::bind((OUTSIDE6, PORT + 1)).expect("a port")).join().expect("a socket");
    let socket = street.at("c", || UdpSocket::bind("[::]:0").expect("a socket")).join().expect("a socket");
    for _ in 0..PACKETS {
        for (port, receiver) in [(PORT, &server), (PORT + 1, &other)] {
            socket.send_to(&[7; 100], (OUTSIDE6, port)).expect("a packet");
            receiver.recv(&mut [0; 200]).expect("a packet");
        }
    }
    for packet in wait_for(&ctrace, "each packet's way", PACKETS) {
        assert_eq!(hops(&packet)[..3], ["eth0 xmit", "port receive", "br0 receive"], "{packet:#}");
        assert!(hops(&packet).contains(&"up0 xmit".to_owned()) && packet["stopped"].is_null(), "{packet:#}");
        assert_eq!((&packet["destination"], &packet["destination_port"]), (&OUTSIDE6.into(), &PORT.into()));
        assert!(packet["continues"].is_null(), "{packet:#}");
    }
    drop((server, other));
    let said = ctrace.stop();
    let told = said.lines.iter().filter(|line| line.json["event"] == "packet").count();
    assert_eq!(told, PACKETS, "{:#?}", said.lines);
}

/// Both ways of a connection; what NAT made of its address is told where it did.
fn translated() {
    let tree = Tree::new();
    let container = tree.container();
    let street = Street::new(&container);
    street.run("h", "iptables -t nat -A POSTROUTING -o up0 -j MASQUERADE");
    let ctrace = follow(&format!("tcp/{OUTSIDE}/{PORT}"), &container);
    let listener = street.at("o", || TcpListener::bind((OUTSIDE, PORT)).expect("a port")).join().expect("a socket");
    assert!(street.connect().join().expect("the container's thread"), "a connection");
    let is_way = |packet: &Value, flow: &str, device: &str| {
        packet["flow"] == flow && packet["hops"].as_array().into_iter().flatten().any(|hop| hop["device"] == device)
    };
    let of = |flow: &str, device: &str| {
        let what = format!("a packet {flow} by {device}");
        ctrace.wait_for(&what, |line| line.json["event"] == "packet" && is_way(&line.json, flow, device)).json
    };
    let out = of("out", "up0");
    assert_eq!((&out["source"], &out["protocol"]), (&INSIDE.into(), &"tcp".into()), "{out:#}");
    let up0 = out["hops"].as_array().into_iter().flatten().find(|hop| hop["device"] == "up0").expect("found");
    assert_eq!((&up0["hop"], &up0["source"]), (&"uplink".into(), &"10.98.0.1".into()), "{out:#}");
    let back = of("in", "eth0");
    assert_eq!((&back["source"], &back["source_port"]), (&OUTSIDE.into(), &PORT.into()), "{back:#}");
    drop(listener);
    ctrace.stop();
}

/// The one end on the host, then the other one outside: it is the same packet still.
fn translated_twice() {
    const BEHIND: &str = "10.99.0.9";
    let tree = Tree::new();
    let container = tree.container();
    let street = Street::new(&container);
    street.knows_its_neighbours();
    street.run("h", &format!("iptables -t nat -A PREROUTING -p udp --dport {PORT} -j DNAT --to-destination {BEHIND}"));
    street.ip("h", &format!("route add 10.99.0.0/24 via {OUTSIDE}"));
    street.ip("o", "link add far0 type veth peer name far1");
    street.ip("o", "addr add 10.99.0.1/24 dev far0");
    for device in ["far0", "far1"] {
        street.ip("o", &format!("link set {device} up"));
    }
    street.ip("o", &format!("neigh replace {BEHIND} lladdr 02:00:00:00:00:09 dev far0 nud permanent"));
    street.set("o", "net.ipv4.ip_forward=1");
    street.run("o", "iptables -t nat -A POSTROUTING -o far0 -j MASQUERADE");
    let ctrace = follow(&format!("udp/{OUTSIDE}/{PORT}"), &container);
    street.send_to(PACKETS, OUTSIDE, PORT);
    for packet in wait_for(&ctrace, "each packet's way", PACKETS) {
        assert_eq!(hops(&packet)[..4], ["eth0 xmit", "port receive", "br0 receive", "up0 xmit"], "{packet:#}");
        let far = packet["hops"].as_array().into_iter().flatten().find(|hop| hop["device"] == "far0");
        let far = far.unwrap_or_else(|| panic!("it got that far: {packet:#}"));
        assert_eq!((&far["source"], &far["destination"]), (&"10.99.0.1".into(), &BEHIND.into()), "{packet:#}");
    }
    let said = ctrace.stop();
    let told = said.lines.iter().filter(|line| line.json["event"] == "packet").count();
    assert_eq!(told, PACKETS, "{:#?}", said.lines);
}

/// A closed port is told of by ICMP, of either IP; the packets that went there are another protocol's.
fn icmp() {
    let tree = Tree::new();
    let container = tree.container();
    let street = Street::new(&container);
    street.with_ipv6();
    for (address, protocol) in [(OUTSIDE, "icmp"), (OUTSIDE6, "icmpv6")] {
        let ctrace = follow(&format!("icmp/{address}"), &container);
        street.send_to(PACKETS, address, PORT);
        let is_refusal = |packet: &Value| packet["destination"] == if protocol == "icmp" { INSIDE } else { "fd97::2" };
        // Neighbours are asked for by ICMP, too, where IP is 6.
        ctrace.wait_for("what came back", |line| line.json["event"] == "packet" && is_refusal(&line.json));
        let said = ctrace.stop();
        let told: Vec<_> = said.lines.iter().map(|line| &line.json).filter(|json| json["event"] == "packet").collect();
        assert!(told.iter().all(|packet| packet["protocol"] == protocol), "{told:#?}");
        let back = told.iter().find(|packet| is_refusal(packet)).expect("it was told");
        assert_eq!(back["flow"], "in", "{back:#}");
        assert!(hops(back).contains(&"eth0 receive".to_owned()), "{back:#}");
    }
}

/// A later fragment has no ports, whatever stands in their place: the first one alone is known to be of the flow.
fn fragments() {
    let tree = Tree::new();
    let container = tree.container();
    let street = Street::new(&container);
    let servers = [PORT, PORT + 1].map(|port| {
        street.at("o", move || UdpSocket::bind((OUTSIDE, port)).expect("a port")).join().expect("a socket")
    });
    let socket = street.at("c", || UdpSocket::bind("0.0.0.0:0").expect("a socket")).join().expect("a socket");
    let ctrace = follow(&format!("udp/{OUTSIDE}/{PORT}"), &container);
    for (server, port) in servers.iter().zip([PORT, PORT + 1]).rev().cycle().take(2 * PACKETS) {
        socket.send_to(&PORT.to_be_bytes().repeat(1500), (OUTSIDE, port)).expect("a packet");
        assert_eq!(server.recv(&mut [0; 4000]).expect("a packet"), 3000);
    }
    for packet in wait_for(&ctrace, "each packet's way", PACKETS) {
        assert_eq!((&packet["destination_port"], &packet["length_bytes"]), (&PORT.into(), &1500.into()), "{packet:#}");
    }
    let said = ctrace.stop();
    let told: Vec<_> = said.lines.iter().map(|line| &line.json).filter(|json| json["event"] == "packet").collect();
    assert_eq!(told.len(), PACKETS, "{told:#?}");
}

/// A packet that ends before its ports, in the buffer of one of the flow: what stands behind its end is that one's.
fn without_ports() {
    let tree = Tree::new();
    let container = tree.container();
    let street = Street::new(&container);
    on_one_cpu();
    street.knows_its_neighbours();
    let server = street.at("o", || UdpSocket::bind((OUTSIDE, PORT)).expect("a port")).join().expect("a socket");
    let socket = street.at("c", || UdpSocket::bind("0.0.0.0:0").expect("a socket")).join().expect("a socket");
    let raw = street.at("c", raw_socket).join().expect("a socket");
    let ctrace = follow(&format!("udp/{OUTSIDE}/{PORT}"), &container);
    // The kernel writes its length, its source and its checksum.
    let header = [&[0x45, 0, 0, 0, 0, 7, 0, 0, 64, libc::IPPROTO_UDP as u8, 0, 0, 0, 0, 0, 0], &outside()[..]].concat();
    for _ in 0..PACKETS {
        socket.send_to(&[7; 20], (OUTSIDE, PORT)).expect("a packet");
        server.recv(&mut [0; 200]).expect("a packet");
        raw.send_to(&header, (OUTSIDE, 0)).expect("a header");
    }
    wait_for(&ctrace, "each packet's way", PACKETS);
    let said = ctrace.stop();
    let told: Vec<_> = said.lines.iter().map(|line| &line.json).filter(|json| json["event"] == "packet").collect();
    assert_eq!(told.len(), PACKETS, "{told:#?}");
    assert!(told.iter().all(|packet| packet["length_bytes"] == 48), "{told:#?}");
}

fn outside() -> [u8; 4] {
    OUTSIDE.parse::<Ipv4Addr>().expect("an address").octets()
}

/// What is sent by it has its IP header already.
fn raw_socket() -> UdpSocket {
    // SAFETY: a plain system call; the descriptor is nobody else's.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW);
        assert!(socket >= 0, "a socket: {}", std::io::Error::last_os_error());
        UdpSocket::from_raw_fd(socket)
    }
}

/// The host sends what looks the same to the same end, in the buffer of the container's dropped packet: it is another packet.
fn buffer_of_one_that_was_dropped() {
    // What arrives is not seen to be gone: the host's are dropped as well.
    by_turns_with_the_host(|street| drop(street.run("o", "iptables -P INPUT DROP")));
}

/// … and the container sends in the buffer that the host's had, which arrived.
fn buffer_of_one_that_arrived() {
    by_turns_with_the_host(|_| {});
}

fn by_turns_with_the_host(prepare: fn(&Street)) {
    let tree = Tree::new();
    let container = tree.container();
    let street = Street::new(&container);
    on_one_cpu();
    street.knows_its_neighbours();
    street.run("h", "iptables -P FORWARD DROP");
    prepare(&street);
    let server = street.at("o", || UdpSocket::bind((OUTSIDE, PORT)).expect("a port")).join().expect("a socket");
    server.set_nonblocking(true).expect("an option");
    let ctrace = follow(&format!("udp/{OUTSIDE}/{PORT}"), &container);
    for _ in 0..PACKETS {
        street.send(1, 100);
        street.send_from("h", 1, 100);
        // Its buffer is free now, if it is there.
        let _ = server.recv(&mut [0; 200]);
    }
    // The host's own are no container's, and not told.
    for packet in wait_for(&ctrace, "each packet's way", PACKETS) {
        assert_eq!(hops(&packet), ["eth0 xmit", "port receive", "br0 receive"], "{packet:#}");
        assert_eq!(packet["stopped"]["hop"], "netfilter", "{packet:#}");
    }
    ctrace.stop();
}
