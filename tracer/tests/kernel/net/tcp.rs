//! What TCP sends again, and what is refused: in network namespaces of the test's own.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, TcpListener, TcpStream},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    process::Command,
};

use nix::libc;
use serde_json::Value;
use tracer::kernel::{
    load::{Kernel, Wishes},
    plan::{self, Probe},
};
use tracer_common::tcp::{
    AF_INET, AF_INET6, ATTEMPT, BIND_CALL, CONNECT_CALL, EADDRINUSE, EHOSTUNREACH, ENETUNREACH, Flow, FlowKey,
    LISTEN_CALL, Refusal, RefusalKey, SEND_CALL, WAITING, Waiter,
};

use super::street::{OUTSIDE, PORT, Street};
use crate::{
    harness::{Lack, Test, in_virtual_machine},
    support::{
        cgroups::{Group, Tree},
        ctrace::{Ctrace, Line, command},
        player::Player,
        tcp::{Link, OWN, PEER},
        wait_until,
    },
};

pub static TESTS: &[Test] = &[
    Test::core("net::tcp::loss", loss),
    Test::full("net::tcp::little_loss", little_loss),
    Test::full("net::tcp::never_sent", never_sent),
    Test::core("net::tcp::refused", refused),
    Test::core("net::tcp::no_answer", no_answer),
    Test::core("net::tcp::no_route", no_route),
    Test::core("net::tcp::port_in_use", port_in_use),
    Test::full("net::tcp::no_local_port", no_local_port),
    Test::full("net::tcp::no_such_address", no_such_address),
    Test::core("net::tcp::accept_queue", accept_queue),
    Test::full("net::tcp::syn_queue", syn_queue),
    Test::full("net::tcp::no_room_for_attempts", no_room_for_attempts),
    Test::full("net::tcp::refusals_counted", || refusals_counted(0)),
    Test::full("net::tcp::refusals_counted_by_tracepoints", || refusals_counted(1)),
    Test::full("net::tcp::refusals_counted_at_each_return", || refusals_counted(2)),
    Test::core("net::tcp::sysctl_is_read_only", sysctl_is_read_only),
    Test::full("net::tcp::answered_at_last", answered_at_last),
    Test::full("net::tcp::needless_after_all", needless_after_all),
    Test::full("net::tcp::each_kind_is_counted", each_kind_is_counted),
    Test::full("net::tcp::peer_is_dead", peer_is_dead),
    Test::full("net::tcp::conntrack_is_full", conntrack_is_full).needs(&[Lack::OwnMachine]),
];

pub fn ctrace() -> Ctrace {
    Ctrace::ready(command(&["net", "--json"]))
}

pub fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn at(address: &str, port: u16) -> String {
    format!("{address}:{port}")
}

/// Drops of the peer's: one packet of TCP in so many.
fn drop_one_in(link: &Link, packets: u32) {
    link.in_peer(&format!("iptables -A INPUT -p tcp -m statistic --mode nth --every {packets} --packet 0 -j DROP"));
}

/// Waits for net.refused for that reason.
fn refusal(ctrace: &Ctrace, of: &Group, reason: &str) -> Value {
    let meant = |line: &Line| is_refusal(&line.json, of, reason);
    ctrace.wait_for(&format!("net.refused of {}: {reason}", of.path), meant).json
}

fn is_refusal(finding: &Value, of: &Group, reason: &str) -> bool {
    finding["code"] == "net.refused"
        && finding["container"]["cgroup"] == of.path
        && finding["evidence"]["reason"] == reason
}

/// What it said of a container, but for drops, which are another rule's, and for reordering: where a stream's sender moves from
/// CPU to CPU its pair of veth does reorder.
pub fn none_of_tcp(ctrace: Ctrace, of: &Group) {
    let said = ctrace.stop();
    let mut codes = said.codes(of);
    codes.retain(|code| !["net.dropped", "net.reordering"].contains(code));
    assert!(codes.is_empty(), "{codes:?}");
}

/// More attempts wait than there is room for: the others are counted.
fn no_room_for_attempts() {
    const ROOM: u64 = 3;
    const ATTEMPTS: u64 = 8;
    let (tree, link) = (Tree::new(), Link::new());
    let container = tree.container();
    link.in_peer("iptables -A INPUT -p tcp -j DROP");
    let wishes = Wishes {
        probes: vec![&plan::TCP_RESENT, &plan::TCP_CLOSED],
        ring_bytes: 1 << 16,
        maps: vec![("SYN_WAITERS", ROOM as u32), ("NET_REFUSALS", 1024)],
        ..Wishes::default()
    };
    let kernel = Kernel::attach(&wishes).expect("the kernel side");
    let _waits = link.play(&container, &[&format!("hold={}={ATTEMPTS}", at(PEER, 80)), "pause"]);
    let of_ours = |key: &RefusalKey| key.kind == WAITING && key.address[..4] == [10, 251, 7, 2];
    wait_until("each attempt to be followed, or counted", || {
        let refusals = kernel.entries_per_cpu::<RefusalKey, Refusal>("NET_REFUSALS", 1024).expect("the map");
        let counts = refusals.iter().filter(|(key, _)| of_ours(key)).flat_map(|(_, values)| values);
        let (syns, lost) = counts.fold((0, 0), |sum, one| (sum.0 + one.count, sum.1 + one.lost));
        let followed = kernel.entries::<u64, Waiter>("SYN_WAITERS", ROOM as usize).expect("the map");
        let followed: BTreeMap<u64, Waiter> = followed.into_iter().filter(|(_, waiter)| of_ours(&waiter.key)).collect();
        // Each has to be met; those that found no room are counted again with each further SYN.
        let counted = lost >= ATTEMPTS - ROOM && lost <= syns - ROOM.min(syns);
        (syns >= ATTEMPTS).then(|| assert!(followed.len() as u64 == ROOM && counted, "{syns} {lost} {followed:?}"))
    });
}

/// What the kernel side has counted of one namespace's connections and one cgroup's calls: kind, error, address and port.
fn counted(kernel: &Kernel, netns: u32, group: &Group) -> BTreeMap<(u32, u32, IpAddr, u16), u64> {
    let entries = kernel.entries_per_cpu::<RefusalKey, Refusal>("NET_REFUSALS", 1024).expect("the map");
    // A call does not say its namespace, and on v1 a socket not its cgroup.
    let is_connection = |key: &RefusalKey| [ATTEMPT, WAITING].contains(&key.kind);
    let is_ours = |key: &RefusalKey| {
        if is_connection(key) { key.netns == netns } else { key.cgroup == group.id() && key.netns == 0 }
    };
    let address = |key: &RefusalKey| match (key.family, key.address) {
        (AF_INET, [a, b, c, d, rest @ ..]) if rest == [0; 12] => IpAddr::from([a, b, c, d]),
        (AF_INET6, bytes) => IpAddr::from(bytes),
        (0, bytes) if bytes == [0; 16] => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        other => panic!("no address: {other:?}"),
    };
    let ours = entries.into_iter().filter(|(key, _)| is_ours(key));
    ours.map(|(key, values)| ((key.kind, key.errno, address(&key), key.port), values.iter().map(|one| one.count).sum()))
        .collect()
}

/// A connection of the container with somebody outside: his end and its own, and what the kernel side, which was there before it,
/// has of it in `FLOWS`.
fn watched(street: &Street) -> (TcpStream, TcpStream, impl Fn() -> Option<Flow> + use<>) {
    let wishes = Wishes {
        probes: vec![&plan::TCP_RESENT, &plan::TCP_CLOSED],
        ring_bytes: 1 << 16,
        maps: vec![("FLOWS", 1024)],
        ..Wishes::default()
    };
    let kernel = Kernel::attach(&wishes).expect("the kernel side");
    let listener = street.at("o", || TcpListener::bind((OUTSIDE, PORT)).expect("a port")).join().expect("a socket");
    let connected = street.at("c", || TcpStream::connect((OUTSIDE, PORT)).expect("a connection"));
    let (server, _) = listener.accept().expect("a connection");
    let client = connected.join().expect("the container's thread");
    let port = client.local_addr().expect("its own").port();
    let flow = move || {
        let mut flows = kernel.entries::<FlowKey, Flow>("FLOWS", 1024).expect("the map").into_iter();
        flows.find(|(key, _)| key.local_port == port && key.remote_port == PORT).map(|(_, flow)| flow)
    };
    (server, client, flow)
}

/// What the peer says of the last retransmission comes after it: it is known once the connection ends.
fn needless_after_all() {
    let tree = Tree::new();
    let container = tree.container();
    let street = Street::new(&container);
    street.knows_its_neighbours();
    let (server, mut client, flow) = watched(&street);
    // What it sends arrives, and no answer comes back.
    street.run("c", "iptables -I INPUT -p tcp -j DROP");
    client.write_all(b"something").expect("it is sent");
    wait_until("that it is sent again", &flow);
    street.run("c", "iptables -D INPUT -p tcp -j DROP");
    wait_until("that all is acknowledged", || (unacknowledged(&client) == 0).then_some(()));
    let before = flow().expect("it is known");
    assert_eq!(before.dsacks, before.dsacks_before, "it was sent again no more since the peer said so");
    drop(server);
    drop(client);
    wait_until("what the peer said", || flow().filter(|flow| flow.dsacks > flow.dsacks_before));
}

/// As many of each kind as the kernel itself counts in that namespace: some of a stream are lost, and then nobody answers what is
/// sent last (a probe, and timeouts).
fn each_kind_is_counted() {
    let tree = Tree::new();
    let container = tree.container();
    let street = Street::new(&container);
    street.knows_its_neighbours();
    // The kernel counts segments, and ctrace buffers: one each.
    street.ip("c", "link set eth0 gso_max_segs 1");
    let (mut server, mut client, flow) = watched(&street);
    const BYTES: usize = 2 << 20;
    let reader = std::thread::spawn(move || {
        server.read_exact(&mut vec![0; BYTES]).expect("all of it");
        server
    });
    street.run("o", "iptables -A INPUT -p tcp -m statistic --mode nth --every 50 --packet 0 -j DROP");
    client.write_all(&vec![7; BYTES]).expect("it is sent");
    let server = reader.join().expect("the reader");
    street.run("o", "iptables -F INPUT");
    wait_until("that all is acknowledged", || (unacknowledged(&client) == 0).then_some(()));
    let own = |table: &str, name: &str| netstat(&street.run("c", &format!("cat /proc/net/{table}")), name);
    // Of a stream's probes most are what it had not sent yet.
    let (probes, sent_probes) = (flow().expect("some were lost").probe, own("netstat", "TCPLossProbes"));
    street.run("c", "iptables -I INPUT -p tcp -j DROP");
    client.write_all(b"something").expect("it is sent");
    let (counted, kernels) = wait_until("two timeouts in a row", || {
        let before = own("snmp", "RetransSegs");
        let flow = flow()?;
        let counted = [flow.fast, flow.timeout, flow.probe - probes, flow.resent.wrapping_sub(flow.resent_before)];
        let timeouts = own("netstat", "TCPTimeouts") + own("netstat", "TCPSlowStartRetrans");
        let probed = own("netstat", "TCPLossProbes") - sent_probes;
        let kernels = [own("netstat", "TCPFastRetrans"), timeouts, probed, before];
        // None came in between.
        let is_one = before == own("snmp", "RetransSegs");
        (flow.unanswered >= 2 && is_one).then_some((counted.map(u64::from), kernels))
    });
    assert_eq!(counted, kernels, "fast, by timeout, probes, segments");
    assert!(counted[0] >= 5 && counted[1] >= 2 && counted[2] == 1, "{counted:?}");
    drop(server);
}

/// A counter of the kernel's, of a line of names and one of numbers.
fn netstat(table: &str, name: &str) -> u64 {
    let lines: Vec<&str> = table.lines().collect();
    let at = lines
        .iter()
        .enumerate()
        .find_map(|(line, names)| names.split(' ').position(|other| other == name).map(|column| (line + 1, column)));
    let (line, column) = at.unwrap_or_else(|| panic!("no {name} in {table}"));
    lines[line].split(' ').nth(column).and_then(|number| number.parse().ok()).expect("a number")
}

/// Bytes that were sent, or wait to be, and that the peer has not acknowledged.
pub fn unacknowledged(stream: &TcpStream) -> i32 {
    let mut left: libc::c_int = 0;
    // SAFETY: a request that writes an int, which outlives the call.
    let asked = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut left) };
    assert_eq!(asked, 0, "{}", std::io::Error::last_os_error());
    left
}

/// Each kind of refusal, so often as there was one, and nothing else. `way`: the first that is tried.
fn refusals_counted(way: usize) {
    const REFUSED: u32 = 111;
    let (tree, link) = (Tree::new(), Link::new());
    let container = tree.container();
    link.in_peer("iptables -A INPUT -p tcp --dport 90 -j DROP");
    let call_refused: &'static Probe =
        Box::leak(Box::new(Probe { branches: &plan::CALL_REFUSED.branches[way..], ..plan::CALL_REFUSED }));
    let wishes = Wishes {
        probes: vec![&plan::TCP_RESENT, &plan::TCP_CLOSED, call_refused],
        ring_bytes: 1 << 16,
        wants: vec![("WANT_NET_REFUSALS", 1)],
        maps: vec![("SYN_WAITERS", 16), ("NET_REFUSALS", 1024)],
        ..Wishes::default()
    };
    let kernel = Kernel::attach(&wishes).expect("the kernel side");
    let netns = fs::metadata(format!("/run/netns/{}", link.container)).expect("the namespace").ino() as u32;
    let taken = at(OWN, 91);
    let steps = [
        &format!("connect={}=7", at(PEER, 80)),
        "connect=[::1]:82=3",
        "connect=192.0.2.9:83=2",
        "connect=[2001:db8::9]:84=4",
        "send-to=192.0.2.9:85=5",
        // Nobody has that address: the kernel asks for it in vain.
        "connect=10.251.7.77:86=1",
        &format!("take-port={taken}"),
        &format!("take-port={taken}"),
        &format!("take-port={taken}"),
        &format!("listen-twice={}", at(OWN, 92)),
        "take-path-twice",
        // Its SYN is sent again once: it gives up before that means anything.
        &format!("try-for={}=2000", at(PEER, 90)),
        // And here before any answer is late.
        &format!("try-for={}=100", at(PEER, 90)),
        "say=over",
        "pause",
    ];
    let player = link.play(&container, &steps);
    player.said("over");
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let wanted = BTreeMap::from([
        ((ATTEMPT, REFUSED, ip(PEER), 80), 7),
        ((ATTEMPT, REFUSED, ip("::1"), 82), 3),
        ((CONNECT_CALL, ENETUNREACH, ip("192.0.2.9"), 83), 2),
        ((CONNECT_CALL, ENETUNREACH, ip("2001:db8::9"), 84), 4),
        ((SEND_CALL, ENETUNREACH, ip("192.0.2.9"), 85), 5),
        ((ATTEMPT, EHOSTUNREACH, ip("10.251.7.77"), 86), 1),
        ((CONNECT_CALL, EHOSTUNREACH, ip("10.251.7.77"), 86), 1),
        ((BIND_CALL, EADDRINUSE, ip(OWN), 91), 2),
        ((LISTEN_CALL, EADDRINUSE, ip("::"), 0), 1),
        ((ATTEMPT, 0, ip(PEER), 90), 1),
    ]);
    assert_eq!(counted(&kernel, netns, &container), wanted);
    let waiting = kernel.entries::<u64, Waiter>("SYN_WAITERS", 16).expect("the map");
    let ours = waiting.iter().filter(|(_, waiter)| waiter.key.netns == netns).count();
    assert_eq!(ours, 0, "nobody waits any more: {waiting:?}");
}

/// An attempt that waited long, and had a connection in the end: nobody waits any more, and nothing was refused.
fn answered_at_last() {
    let (tree, link) = (Tree::new(), Link::new());
    let container = tree.container();
    let _server = server(&link, 80);
    link.in_peer("iptables -A INPUT -p tcp -j DROP");
    let wishes = Wishes {
        probes: vec![&plan::TCP_RESENT, &plan::TCP_CLOSED],
        ring_bytes: 1 << 16,
        maps: vec![("SYN_WAITERS", 16), ("NET_REFUSALS", 1024)],
        ..Wishes::default()
    };
    let kernel = Kernel::attach(&wishes).expect("the kernel side");
    let netns = fs::metadata(format!("/run/netns/{}", link.container)).expect("the namespace").ino() as u32;
    let waits = || {
        let waiting = kernel.entries::<u64, Waiter>("SYN_WAITERS", 16).expect("the map");
        waiting.iter().any(|(_, waiter)| waiter.key.netns == netns)
    };
    let _client = link.play(&container, &[&format!("hold={}=1", at(PEER, 80)), "pause"]);
    wait_until("the attempt to wait", || waits().then_some(()));
    link.in_peer("iptables -D INPUT -p tcp -j DROP");
    wait_until("its connection", || sockets(&link).contains(":0050 01 ").then_some(()));
    wait_until("that nobody waits", || (!waits()).then_some(()));
    let counted = counted(&kernel, netns, &container);
    assert!(counted.keys().all(|(kind, ..)| *kind == WAITING), "{counted:?}");
}

/// A stream whose peer is gone: timeouts in a row, each twice as long.
fn peer_is_dead() {
    let (tree, link) = (Tree::new(), Link::new());
    let container = tree.container();
    let _server = server(&link, 80);
    let ctrace = ctrace();
    let _client = link.play(&container, &[&format!("stream={}=400000", at(PEER, 80)), "pause"]);
    wait_until("the stream flows", || sockets(&link).contains(":0050 01 ").then_some(()));
    link.in_peer("iptables -A INPUT -p tcp -j DROP");
    let is_dead = |line: &Line| {
        let (finding, evidence) = (&line.json, &line.json["evidence"]);
        finding["code"] == "net.retransmits"
            && finding["container"]["cgroup"] == container.path
            && number(evidence, "unanswered") >= 3
    };
    let finding = ctrace.wait_for("net.retransmits: nobody answers", is_dead).json;
    let evidence = &finding["evidence"];
    assert!(number(evidence, "timeouts") >= 1 && number(evidence, "rtt_ns") > 0, "{evidence}");
    assert_eq!(evidence["peers"][0]["address"], PEER);
    ctrace.stop();
}

pub fn server(link: &Link, port: u16) -> Player {
    let server = link.play_peer(&[&format!("serve={}", at(PEER, port)), "say=serves", "pause"]);
    server.said("serves");
    server
}

fn loss() {
    let (tree, link) = (Tree::new(), Link::new());
    let (container, other) = (tree.container(), tree.container());
    let clean = Link::new();
    let _servers = (server(&link, 80), server(&clean, 80));
    drop_one_in(&link, 25);
    let ctrace = ctrace();
    let stream = format!("stream={}=400000", at(PEER, 80));
    let _lossy = link.play(&container, &[&stream, "pause"]);
    let clean_stream = clean.play(&other, &[&format!("stream={}=20000", at(PEER, 80)), "say=sent", "pause"]);
    // The first that is told of may have been sent again after a timeout, all of it.
    let is_fast = |line: &Line| {
        let finding = &line.json;
        finding["code"] == "net.retransmits"
            && finding["container"]["cgroup"] == container.path
            && number(&finding["evidence"], "fast") > 0
    };
    let finding = ctrace.wait_for("net.retransmits, some of them fast", is_fast).json;
    let evidence = &finding["evidence"];
    assert_eq!(finding["severity"], "warning");
    assert!(number(evidence, "retransmits") >= 10, "{evidence}");
    assert!(number(evidence, "sent_segments") >= number(evidence, "resent_segments"), "{evidence}");
    assert!(evidence["retransmit_pct"].as_f64().is_some_and(|share| share >= 1.0), "{evidence}");
    assert_eq!(evidence["peers"][0]["address"], PEER);
    clean_stream.said("sent");
    none_of_tcp(ctrace, &other);
}

/// Some segments of thousands are no finding.
fn little_loss() {
    let (tree, link) = (Tree::new(), Link::new());
    let container = tree.container();
    let server = server(&link, 80);
    // A packet holds up to 64 KiB.
    let (one_in, kib) = if in_virtual_machine() { (200, 20_000) } else { (4000, 200_000) };
    drop_one_in(&link, one_in);
    let ctrace = ctrace();
    let stream = format!("stream={}={kib}", at(PEER, 80));
    let player = link.play(&container, &[&stream, "say=sent", "pause"]);
    player.said("sent");
    let refused = format!("connect={}=1", at(PEER, 81));
    let _last = link.play(&container, &[&refused, "pause"]);
    refusal(&ctrace, &container, "refused");
    let said = ctrace.stop();
    assert!(!said.codes(&container).contains(&"net.retransmits"));
    drop(server);
}

/// What this host could not send is not lost on the way, though the kernel tells of it at the same place since 6.17.
fn never_sent() {
    let (tree, link) = (Tree::new(), Link::new());
    let container = tree.container();
    let _server = server(&link, 80);
    let ctrace = ctrace();
    let client = link.play(&container, &[&format!("stream={}=400000", at(PEER, 80)), "pause"]);
    wait_until("the stream flows", || sockets(&link).contains(":0050 01 ").then_some(()));
    link.in_peer("iptables -A INPUT -p tcp -j DROP");
    link.inside("ip route flush dev eth0");
    wait_until("the kernel tried five times", || (retries(&link, ":0050 01 ") >= 5).then_some(()));
    drop(client);
    let refused = format!("connect={}=1", at("127.0.0.1", 81));
    let _last = link.play(&container, &[&refused, "pause"]);
    refusal(&ctrace, &container, "refused");
    let said = ctrace.stop();
    let resent = said.about(&container).find(|finding| finding["code"] == "net.retransmits");
    assert_eq!(resent, None, "nothing was sent");
}

/// The kernel's table of the container's TCP sockets.
fn sockets(link: &Link) -> String {
    let output = Command::new("ip").args(["netns", "exec", &link.container, "cat", "/proc/net/tcp"]).output();
    String::from_utf8_lossy(&output.expect("ip").stdout).into_owned()
}

/// Timeouts in a row of the socket whose line has that (`retrnsmt`, hexadecimal).
fn retries(link: &Link, socket: &str) -> u32 {
    let table = sockets(link);
    let line = table.lines().find(|line| line.contains(socket)).unwrap_or_default();
    line.split_whitespace().nth(6).and_then(|number| u32::from_str_radix(number, 16).ok()).unwrap_or(0)
}

fn refused() {
    let (tree, link) = (Tree::new(), Link::new());
    let (container, other) = (tree.container(), tree.container());
    let fine = Link::new();
    let _server = server(&fine, 5432);
    let ctrace = ctrace();
    let connected = fine.play(&other, &[&format!("connect={}=3", at(PEER, 5432)), "say=connected", "pause"]);
    connected.said("connected");
    let _client = link.play(&container, &[&format!("connect={}=7", at(PEER, 5432)), "pause"]);
    let finding = refusal(&ctrace, &container, "refused");
    let evidence = &finding["evidence"];
    assert_eq!(evidence["peers"][0]["address"], PEER);
    assert_eq!(number(&evidence["peers"][0], "port"), 5432);
    // A reading may come between two of them; that each is counted `refusals_counted` shows.
    assert!((1..=7).contains(&number(evidence, "count")), "{evidence}");
    none_of_tcp(ctrace, &other);
}

/// The SYN is dropped: nobody answers, and the program gives up.
fn no_answer() {
    let (tree, link) = (Tree::new(), Link::new());
    let (container, other) = (tree.container(), tree.container());
    let impatient = Link::new();
    for link in [&link, &impatient] {
        link.in_peer("iptables -A INPUT -p tcp --syn -j DROP");
    }
    let ctrace = ctrace();
    // Gives up before an answer is late.
    let quick = impatient.play(&other, &[&format!("try-for={}=100", at(PEER, 80)), "say=over", "pause"]);
    quick.said("over");
    let client = link.play(&container, &[&format!("try-for={}=4500", at(PEER, 80)), "say=over", "pause"]);
    let waits = refusal(&ctrace, &container, "timed-out");
    assert!(number(&waits["evidence"], "syns_resent") >= 1, "{waits}");
    assert_eq!(waits["evidence"]["peers"][0]["address"], PEER);
    client.said("over");
    ctrace.wait_for("the end of it", |line| {
        is_refusal(&line.json, &container, "timed-out") && line.json["state"] == "closed"
    });
    none_of_tcp(ctrace, &other);
}

fn no_route() {
    let (tree, link) = (Tree::new(), Link::new());
    let (container, other) = (tree.container(), tree.container());
    let fine = Link::new();
    let _server = server(&fine, 80);
    let ctrace = ctrace();
    // Without IPv6 a program tries it all the same.
    let both = ["connect=[2001:db8::1]:80=3", &format!("connect={}=1", at(PEER, 80))];
    let connected = fine.play(&other, &[both[0], both[1], "say=connected", "pause"]);
    connected.said("connected");
    let _client = link.play(&container, &["comm=lost", "connect=192.0.2.9:443=2", "pause"]);
    let finding = refusal(&ctrace, &container, "no-route");
    assert_eq!(finding["evidence"]["peers"][0]["address"], "192.0.2.9");
    assert!((1..=2).contains(&number(&finding["evidence"], "count")), "{finding}");
    assert_eq!(finding["process"]["comm"], "lost");
    none_of_tcp(ctrace, &other);
}

/// However the calls that open files are hooked.
fn sysctl_is_read_only() {
    for without in ["", "call_returned", "call_returned,call_traced"] {
        let tree = Tree::new();
        let (refused, other) = (tree.container(), tree.container());
        let mut ctrace = command(&["net", "--json"]);
        ctrace.env("CTRACE_WITHOUT", without);
        let ctrace = Ctrace::ready(ctrace);
        let open = "open-to-write=/proc/sys/net/core/somaxconn";
        let writer = Player::within(&other, &["mounts", open, "say=opened", "pause"]);
        writer.said("opened");
        let steps = ["mounts", "read-only=/proc/sys", "comm=tuner", open, "pause"];
        let _tuner = Player::within(&refused, &steps);
        let finding = ctrace.finding("net.sysctl-readonly", &refused).json;
        assert_eq!(finding["evidence"]["sysctl"], "net.core.somaxconn", "without {without}");
        assert_eq!(finding["process"]["comm"], "tuner");
        let ready = ctrace.wait_for("what is attached", |line| line.json["code"] == "ready");
        let hook = &ready.json["probes"]["call_refused"];
        let is_last = hook == "raw tracepoint sys_exit";
        assert!(is_last || !without.contains("call_traced"), "{hook}");
        assert!(ctrace.stop().codes(&other).is_empty());
    }
}

fn port_in_use() {
    let (tree, link) = (Tree::new(), Link::new());
    let (container, other) = (tree.container(), tree.container());
    let fine = Link::new();
    let ctrace = ctrace();
    let first = format!("take-port={}", at(OWN, 8080));
    let free = fine.play(&other, &[&first, &format!("take-port={}", at(OWN, 8081)), "say=bound", "pause"]);
    free.said("bound");
    let _second = link.play(&container, &[&first, "comm=second", &first, "pause"]);
    let finding = refusal(&ctrace, &container, "port-in-use");
    assert_eq!(number(&finding["evidence"]["peers"][0], "port"), 8080);
    assert_eq!(finding["process"]["comm"], "second");
    none_of_tcp(ctrace, &other);
}

fn no_local_port() {
    let (tree, link) = (Tree::new(), Link::new());
    let (container, other) = (tree.container(), tree.container());
    let enough = Link::new();
    let servers = (server(&link, 80), server(&enough, 80));
    link.local_ports(40000, 40001);
    enough.local_ports(40000, 40007);
    let ctrace = ctrace();
    let _few = enough.play(&other, &[&format!("hold={}=6", at(PEER, 80)), "pause"]);
    let _client = link.play(&container, &[&format!("hold={}=6", at(PEER, 80)), "pause"]);
    let finding = refusal(&ctrace, &container, "no-local-port");
    assert_eq!(finding["evidence"]["peers"][0]["address"], PEER);
    wait_until("the other's connections", || (sockets(&enough).matches(":0050 01 ").count() == 6).then_some(()));
    none_of_tcp(ctrace, &other);
    drop(servers);
}

/// An address of another namespace, and its own.
fn no_such_address() {
    let (tree, link) = (Tree::new(), Link::new());
    let (container, other) = (tree.container(), tree.container());
    let fine = Link::new();
    let ctrace = ctrace();
    let bound = fine.play(&other, &[&format!("take-port={}", at(OWN, 8080)), "say=bound", "pause"]);
    bound.said("bound");
    let _lost = link.play(&container, &["comm=lost", &format!("take-port={}", at(PEER, 8080)), "pause"]);
    let finding = refusal(&ctrace, &container, "no-such-address");
    assert_eq!(finding["evidence"]["peers"][0]["address"], PEER);
    assert_eq!(finding["process"]["comm"], "lost");
    none_of_tcp(ctrace, &other);
}

/// A listener that never accepts, with room for one and the one that is always let in.
fn accept_queue() {
    let (tree, link) = (Tree::new(), Link::new());
    let (container, other) = (tree.container(), tree.container());
    let roomy = Link::new();
    let listen = |backlog: u32| format!("listen-only={}={backlog}", at(OWN, 8080));
    let full = link.play(&container, &[&listen(1), "say=listens", "pause"]);
    let fine = roomy.play(&other, &[&listen(100), "say=listens", "pause"]);
    full.said("listens");
    fine.said("listens");
    let ctrace = ctrace();
    let seen = |of: &Group| {
        ctrace.wait_for("numbers of both", |line| line.json["sample"] == "net" && line.json["cgroup"] == of.path);
    };
    seen(&container);
    seen(&other);
    let clients = format!("hold={}=6", at(OWN, 8080));
    let _clients = (link.play_peer(&[&clients, "pause"]), roomy.play_peer(&[&clients, "pause"]));
    let finding = refusal(&ctrace, &container, "accept-queue-full");
    let evidence = &finding["evidence"];
    assert!(number(evidence, "count") >= 1, "{evidence}");
    assert_eq!(number(evidence, "port"), 8080);
    // Full with more than the backlog (`sk_acceptq_is_full`). A listener is not locked while a handshake ends, so each CPU that
    // saw the last room may add one (`tcp_v4_syn_recv_sock`).
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
    assert!((2..=1 + cpus).contains(&number(evidence, "waiting")), "{evidence}");
    none_of_tcp(ctrace, &other);
}

/// Both have numbers: what is counted from now on is told.
fn both_are_known(ctrace: &Ctrace, groups: [&Group; 2]) {
    for of in groups {
        ctrace.wait_for("numbers of both", |line| line.json["sample"] == "net" && line.json["cgroup"] == of.path);
    }
}

/// Handshakes that never end, since their answers are dropped, with room for one. The other has room for all.
fn syn_queue() {
    let (tree, link, roomy) = (Tree::new(), Link::new(), Link::new());
    let (container, other) = (tree.container(), tree.container());
    let listen = |backlog: u32| format!("listen-only={}={backlog}", at(OWN, 8080));
    for link in [&link, &roomy] {
        link.inside("sysctl -q -w net.ipv4.tcp_syncookies=0");
        link.in_peer("iptables -A INPUT -p tcp --tcp-flags SYN,ACK SYN,ACK -j DROP");
    }
    let full = link.play(&container, &[&listen(1), "say=listens", "pause"]);
    let fine = roomy.play(&other, &[&listen(100), "say=listens", "pause"]);
    full.said("listens");
    fine.said("listens");
    let ctrace = ctrace();
    both_are_known(&ctrace, [&container, &other]);
    let clients = format!("hold={}=6", at(OWN, 8080));
    let _clients = (link.play_peer(&[&clients, "pause"]), roomy.play_peer(&[&clients, "pause"]));
    let finding = refusal(&ctrace, &container, "syn-queue-full");
    assert!(number(&finding["evidence"], "count") >= 1, "{finding}");
    none_of_tcp(ctrace, &other);
}

/// Connections that last, more than the table has room for: it holds for the whole machine.
fn conntrack_is_full() {
    const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
    struct Put(String);
    impl Drop for Put {
        fn drop(&mut self) {
            let _ = std::fs::write(MAX, &self.0);
        }
    }
    let (tree, link, few) = (Tree::new(), Link::new(), Link::new());
    let (container, other) = (tree.container(), tree.container());
    let _servers = (server(&link, 80), server(&few, 80));
    for link in [&link, &few] {
        link.inside("iptables -A OUTPUT -m conntrack --ctstate NEW -j ACCEPT");
    }
    let _before = Put(std::fs::read_to_string(MAX).expect("the table's size"));
    std::fs::write(MAX, "12").expect("another size");
    let mut own = few.play(&other, &["await", &format!("hold={}=4", at(PEER, 80)), "pause"]);
    let mut many = link.play(&container, &["await", &format!("hold={}=40", at(PEER, 80)), "pause"]);
    let ctrace = ctrace();
    both_are_known(&ctrace, [&container, &other]);
    own.go();
    many.go();
    let finding = refusal(&ctrace, &container, "conntrack-full");
    let evidence = &finding["evidence"];
    assert_eq!(number(evidence, "limit"), 12, "{evidence}");
    assert!(number(evidence, "entries") >= 11, "{evidence}");
    none_of_tcp(ctrace, &other);
}
