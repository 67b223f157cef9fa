//! Packets of several kinds through one device, and of one kind through several, as the kernel side counts them.

use std::{
    collections::BTreeMap,
    io::Write,
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
};

use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use serde_json::Value;
use tracer::kernel::{
    load::{Kernel, Wishes},
    plan,
};
use tracer_common::hops::{FLIGHTS_BITS, Hop, HopKey, IN, KNOWN_BITS, OUT, RECEIVE, SUMS_BITS, Sum, XMIT};

use super::{
    path::on_one_cpu,
    street::{OUTSIDE, PORT, Street},
    tcp::unacknowledged,
};
use crate::{
    harness::Test,
    support::{cgroups::Tree, wait_until},
};

pub static TESTS: &[Test] = &[
    Test::full("net::counts::kinds_by_turns", kinds_by_turns),
    Test::full("net::counts::another_of_that_index", another_of_that_index),
];

const HOPS: u32 = 1024;
const ROUNDS: u64 = 200;
/// A second address of who is outside, to which the container has another way.
const FAR: &str = "10.98.0.3";
const TCP: u32 = 0x0800 | 6 << 16;
/// All but TCP is one kind.
const OTHER: u32 = 0;
const LINK: u64 = 14;
const IP_AND_UDP: u64 = 28;

/// Each kind's packets and bytes at one device.
type Kinds = BTreeMap<HopKey, (u64, u64)>;

/// TCP and not, by two devices of one container, of another container and to a third one, in one tick on one CPU: at each device
/// as many of each as it sent or got.
fn kinds_by_turns() {
    let tree = Tree::new();
    let container = tree.container();
    let street = Street::new(&container);
    street.with_neighbour();
    street.second_network();
    street.ip("o", &format!("addr add {FAR}/24 dev eth0"));
    street.ip("c", &format!("route add {FAR} via 10.97.0.1"));
    street.knows_its_neighbours();
    street.knows(("h", "up0"), FAR, ("o", "eth0"));
    street.knows(("c", "eth1"), "10.99.0.1", ("h", "br1"));
    street.knows(("d", "eth0"), "10.97.0.1", ("h", "br0"));
    on_one_cpu();
    let udp = |end: &str| street.at(end, || UdpSocket::bind("0.0.0.0:0").expect("a port")).join().expect("a socket");
    let (own, neighbours, hosts) = (udp("c"), udp("d"), udp("h"));
    // Nobody reads: what has no room there has come all the same.
    let open = street.at("o", || UdpSocket::bind(("0.0.0.0", PORT)).expect("a port")).join().expect("a socket");
    let listener = street.at("o", || TcpListener::bind((FAR, PORT)).expect("a port")).join().expect("a socket");
    let connected = street.at("c", || TcpStream::connect((FAR, PORT)).expect("a connection"));
    let (server, _) = listener.accept().expect("a connection");
    let mut client = connected.join().expect("the container's thread");
    client.set_nodelay(true).expect("an option");

    let mut kernel = kernel(&street, &["c", "d", "o"]);
    for address in [OUTSIDE, FAR] {
        let address = address.parse::<Ipv4Addr>().expect("an address").to_ipv6_mapped().octets();
        kernel.put("ADDRESSES", address, street.netns("o")).expect("the map");
    }
    let (before, uplink) = (street.counters("c", "eth0"), street.counters("h", "up0"));
    // Beside each of the container's first device one that differs in one thing alone: the protocol, the device, whose it is.
    for _ in 0..ROUNDS {
        client.write_all(&[7; 50]).expect("by its first device");
        own.send_to(&[7; 10], (FAR, PORT)).expect("by its first device, too");
        own.send_to(&[7; 20], (OUTSIDE, PORT)).expect("by its second device");
        own.send_to(&[7; 10], (FAR, PORT)).expect("by its first device");
        neighbours.send_to(&[7; 30], (OUTSIDE, PORT)).expect("a packet");
        hosts.send_to(&[7; 40], (OUTSIDE, PORT)).expect("a packet");
    }
    wait_until("that all is acknowledged", || (unacknowledged(&client) == 0).then_some(()));
    let grew = |end: &str, device: &str, before: &Value, key: &str| {
        let now = street.counters(end, device)["tx"][key].as_u64();
        now.zip(before["tx"][key].as_u64()).map(|(now, before)| now - before).expect("counters")
    };
    let datagrams = |packets: u64, bytes: u64| (packets, packets * (bytes + IP_AND_UDP + LINK));
    let (by_first, by_second) = (datagrams(2 * ROUNDS, 10), datagrams(ROUNDS, 20));
    let (neighbours, hosts) = (datagrams(ROUNDS, 30), datagrams(ROUNDS, 40));
    let first = ["packets", "bytes"].map(|key| grew("c", "eth0", &before, key));
    let stream = (first[0] - by_first.0, first[1] - by_first.1);
    let (inside, neighbour, outside) = (street.netns("c"), street.netns("d"), street.netns("o"));
    let (eth0, eth1) = (street.ifindex("c", "eth0"), street.ifindex("c", "eth1"));
    let next_eth0 = street.ifindex("d", "eth0");
    assert_eq!(eth0, next_eth0, "only by whose they are their packets differ");

    let device = at(&street, "h", "up0", XMIT);
    let from = |container: u32, through: u32, protocol: u32| HopKey { container, through, protocol, ..device };
    let kinds = wait_until("as many as the uplink sent", || {
        let kinds = counted(&kernel, &device);
        (sum(kinds.values()) == (grew("h", "up0", &uplink, "packets"), grew("h", "up0", &uplink, "bytes")))
            .then_some(kinds)
    });
    let wanted = Kinds::from([
        (from(inside, eth0, OTHER), by_first),
        (from(inside, eth0, TCP), stream),
        (from(inside, eth1, OTHER), by_second),
        (from(neighbour, next_eth0, OTHER), neighbours),
        (HopKey { flow: IN, ..from(outside, 0, OTHER) }, hosts),
    ]);
    assert_eq!(kinds, wanted, "at the uplink");

    let device = at(&street, "c", "eth0", XMIT);
    let own = HopKey { container: inside, through: eth0, ..device };
    let wanted = Kinds::from([(own, by_first), (HopKey { protocol: TCP, ..own }, stream)]);
    assert_eq!(counted(&kernel, &device), wanted, "at the container's device");

    let device = at(&street, "o", "eth0", RECEIVE);
    let others = HopKey { container: outside, flow: IN, through: device.ifindex, ..device };
    let datagrams = sum(&[by_first, by_second, neighbours, hosts]);
    let wanted = Kinds::from([(others, datagrams), (HopKey { protocol: TCP, ..others }, stream)]);
    assert_eq!(counted(&kernel, &device), wanted, "at the third one's device");
    drop((open, server));
}

fn sum<'a>(counts: impl IntoIterator<Item = &'a (u64, u64)>) -> (u64, u64) {
    counts.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

/// A device is gone, and another one has its index: what a CPU had not added of the first is not the second's.
fn another_of_that_index() {
    const PACKETS: u64 = 7;
    let tree = Tree::new();
    let container = tree.container();
    let street = Street::new(&container);
    street.knows_its_neighbours();
    on_one_cpu();
    let kernel = kernel(&street, &["c"]);
    let device = at(&street, "h", "up0", XMIT);
    let waits = |sum: &Sum| is_there(&sum.key, &device) && sum.passed.packets > 0;
    let sums = || kernel.array_per_cpu::<Sum>("SUMS").expect("the map").into_iter().flatten();
    let first = wait_until("some that are not added yet", || {
        // The first of a tick are timed, and added at once.
        street.send(400, 20);
        sums().find(waits)
    });
    street.ip("h", "link del up0");
    // It has the memory of the first.
    street.ip("h", "link add held0 type veth peer name held1");
    street.another_uplink("up9", device.ifindex.into());
    street.knows(("h", "up9"), OUTSIDE, ("o", "eth0"));
    street.send(PACKETS as usize, 20);
    // What waits is added once any device has its place: they are shared by their addresses.
    let socket = street.at("c", || UdpSocket::bind("0.0.0.0:0").expect("a socket")).join().expect("a socket");
    socket.set_broadcast(true).expect("an option");
    let mut names = (0..1000).map(|number| format!("other{number}"));
    wait_until("another device in its place", || {
        let name = names.next().expect("one of so many");
        street.ip("c", &format!("link add {name} up type bridge"));
        setsockopt(&socket, BindToDevice, &name.into()).expect("its device");
        socket.send_to(&[7; 10], (Ipv4Addr::BROADCAST, PORT)).expect("a packet");
        (!sums().any(|sum| waits(&sum) && sum.device == first.device)).then_some(())
    });
    let counts = kernel.entries_per_cpu::<HopKey, Hop>("HOPS", HOPS as usize).expect("the map");
    let counts = counts.iter().filter(|(key, _)| is_there(key, &device)).flat_map(|(_, cpus)| cpus);
    assert_eq!(counts.map(|hop| hop.passed.packets).sum::<u64>(), PACKETS);
}

/// Packets of nobody at a device.
fn at(street: &Street, end: &str, device: &str, direction: u32) -> HopKey {
    let (netns, ifindex) = (street.netns(end), street.ifindex(end, device));
    HopKey { container: 0, netns, ifindex, direction, flow: OUT, protocol: OTHER, through: 0 }
}

fn is_there(key: &HopKey, device: &HopKey) -> bool {
    (key.netns, key.ifindex, key.direction) == (device.netns, device.ifindex, device.direction)
}

/// It knows those ends for containers.
fn kernel(street: &Street, containers: &[&str]) -> Kernel {
    let wishes = Wishes {
        probes: vec![&plan::PACKET_SENT, &plan::PACKET_RECEIVED],
        ring_bytes: 1 << 16,
        maps: vec![
            ("HOPS", HOPS),
            ("SUMS", 2 << SUMS_BITS),
            ("FLIGHTS", 1 << FLIGHTS_BITS),
            ("MOVED_FLIGHTS", 1024),
            ("KNOWN_DEVICES", 1 << KNOWN_BITS),
            ("NETNS", 16),
            ("ADDRESSES", 16),
        ],
        ..Wishes::default()
    };
    let mut kernel = Kernel::attach(&wishes).expect("the kernel side");
    for end in containers {
        kernel.put("NETNS", street.netns(end), 1_u32).expect("the map");
    }
    kernel
}

/// What is counted of a device, with what each CPU has not added yet.
fn counted(kernel: &Kernel, device: &HopKey) -> Kinds {
    let counts = kernel.entries_per_cpu::<HopKey, Hop>("HOPS", HOPS as usize).expect("the map").into_iter();
    let counts =
        counts.flat_map(|(key, cpus)| cpus.into_iter().map(move |hop| (key, (hop.passed.packets, hop.passed.bytes))));
    let sums = kernel.array_per_cpu::<Sum>("SUMS").expect("the map").into_iter().flatten();
    let mut kinds = Kinds::new();
    for (key, (packets, bytes)) in counts.chain(sums.map(|sum| (sum.key, (sum.passed.packets, sum.passed.bytes)))) {
        if is_there(&key, device) && packets > 0 {
            let sum = kinds.entry(key).or_default();
            *sum = (sum.0 + packets, sum.1 + bytes);
        }
    }
    kinds
}
