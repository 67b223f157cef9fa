//! Names that are asked for in vain, and those whose answer takes its time.

use std::{fs, os::unix::fs::MetadataExt};

use tracer::kernel::{
    load::{Kernel, Wishes},
    plan,
};
use tracer_common::dns::{Query, QueryKey, Server, ServerKey};

use super::street::{OUTSIDE, Street};
use crate::{
    harness::Test,
    support::{
        cgroups::Tree,
        ctrace::{Ctrace, Line, command},
        dns::OTHER_PORT,
        tcp::{Link, PEER},
        wait_until,
    },
};

pub static TESTS: &[Test] = &[
    Test::core("net::dns::no_answer", no_answer),
    Test::full("net::dns::asked_again", asked_again),
    Test::full("net::dns::text_in_pages", text_in_pages),
    Test::full("net::dns::no_query", no_query),
    Test::full("net::dns::answered_late", answered_late),
    Test::full("net::dns::answered_from_pages", answered_from_pages),
    Test::full("net::dns::of_another", of_another),
    Test::full("net::dns::no_room", no_room),
];

/// A resolver asks again after five seconds, with the same number: one query, which is in vain where no try is answered.
fn asked_again() {
    let (tree, silent, deaf) = (Tree::new(), Link::new(), Link::new());
    let (container, other) = (tree.container(), tree.container());
    let server = format!("{PEER}:53");
    let servers = [
        silent.play_peer(&[&format!("be-silent={server}"), "say=serves", "pause"]),
        deaf.play_peer(&[&format!("answer-the-second={server}"), "say=serves", "pause"]),
    ];
    for server in &servers {
        server.said("serves");
    }
    let mut heard = deaf.play(&other, &["await", &format!("resolve={server}=2"), "say=heard", "pause"]);
    let mut unheard = silent.play(&container, &["await", &format!("resolve={server}=2"), "say=unheard", "pause"]);
    let ctrace = Ctrace::ready(command(&["net", "--json"]));
    for group in [&container, &other] {
        ctrace.wait_for("numbers of both", |line| line.json["sample"] == "net" && line.json["cgroup"] == group.path);
    }
    heard.go();
    unheard.go();
    let is_timeout = |line: &Line| line.json["evidence"]["reason"] == "dns-timeout";
    let finding = ctrace.wait_for("net.refused: dns-timeout", is_timeout);
    unheard.said("unheard");
    heard.said("heard");
    let evidence = &finding.json["evidence"];
    assert_eq!((&finding.json["container"]["cgroup"], &evidence["count"]), (&container.path.clone().into(), &1.into()));
    ctrace.wait_for("the end of it", |line| line.json["code"] == "net.refused" && line.json["state"] == "closed");
    let said = ctrace.stop();
    let counts = said.about(&container).filter_map(|finding| finding["evidence"]["count"].as_u64());
    assert!(counts.into_iter().all(|count| count <= 1), "{:#?}", said.about(&container).collect::<Vec<_>>());
    assert_eq!(said.codes(&other), [] as [&str; 0], "the second try was answered");
}

/// What is sent without being copied stands in pages, where the kernel side cannot read it: said to be lost, and no answer of
/// it missing. Kernels before 6.0 copy the beginning.
fn text_in_pages() {
    let (tree, silent) = (Tree::new(), Link::new());
    let container = tree.container();
    let server = format!("{PEER}:53");
    let listener = silent.play_peer(&[&format!("be-silent={server}"), "say=serves", "pause"]);
    listener.said("serves");
    let mut asks = silent.play(&container, &["await", &format!("ask-from-pages={server}=3"), "pause"]);
    let ctrace = Ctrace::ready(command(&["net", "--json"]));
    ctrace.wait_for("its numbers", |line| line.json["sample"] == "net" && line.json["cgroup"] == container.path);
    asks.go();
    let is_lost = |line: &Line| line.json["type"] == "loss" && line.json["event"] == "dns_query";
    let is_told = |line: &Line| line.json["evidence"]["reason"] == "dns-timeout";
    // A reading may come between two of them: what is lost is told in parts then, what is in vain only in part.
    let lost = || {
        let lines = ctrace.lines().into_iter().filter(is_lost);
        lines.filter_map(|line| line.json["count"].as_u64()).sum::<u64>()
    };
    let line =
        ctrace.wait_for("that all are lost, or some in vain", |line| is_told(line) || (is_lost(line) && lost() >= 3));
    if is_told(&line) {
        assert!((1..=3).contains(&line.json["evidence"]["count"].as_u64().unwrap_or(0)), "{}", line.json);
        assert_eq!(lost(), 0, "what could be read is not lost");
        ctrace.stop();
    } else {
        assert_eq!(lost(), 3);
        let said = ctrace.stop();
        assert!(said.codes(&container).is_empty(), "{:?}", said.codes(&container));
    }
}

/// One server is silent; the other takes three seconds to say that there is no such name, which is an answer in time.
fn no_answer() {
    let (tree, silent, slow) = (Tree::new(), Link::new(), Link::new());
    let (container, other) = (tree.container(), tree.container());
    let server = format!("{PEER}:53");
    let servers = [
        silent.play_peer(&[&format!("be-silent={server}"), "say=serves", "pause"]),
        slow.play_peer(&[&format!("answer={server}=3000"), "say=serves", "pause"]),
    ];
    for server in &servers {
        server.said("serves");
    }
    // Before the kernel side is told whose packets are meant, both are nobody's.
    let mut heard = slow.play(&other, &["await", &format!("ask-and-hear={server}=5"), "say=heard", "pause"]);
    let mut unheard = silent.play(&container, &["await", &format!("ask={server}=3"), "pause"]);
    let ctrace = Ctrace::ready(command(&["net", "--json"]));
    for group in [&container, &other] {
        ctrace.wait_for("numbers of both", |line| line.json["sample"] == "net" && line.json["cgroup"] == group.path);
    }
    heard.go();
    unheard.go();
    // They are given up one after the other: what is said first may be of the first alone.
    let finding = ctrace.wait_for("net.refused: dns-timeout of all three", |line| {
        line.json["evidence"]["reason"] == "dns-timeout" && line.json["evidence"]["count"] == 3
    });
    let evidence = &finding.json["evidence"];
    assert_eq!(finding.json["container"]["cgroup"], container.path);
    assert_eq!(evidence["answers"], 0, "{evidence}");
    assert_eq!((&evidence["peers"][0]["address"], &evidence["peers"][0]["count"]), (&PEER.into(), &3.into()));
    heard.said("heard");
    // Its queries would be given up by now.
    ctrace.wait_for("the end of it", |line| line.json["code"] == "net.refused" && line.json["state"] == "closed");
    let said = ctrace.stop();
    assert_eq!(said.codes(&other), [] as [&str; 0], "an answer is an answer");
}

/// What is no query needs no answer: at another port, too short, an answer itself.
fn no_query() {
    let (tree, silent, deaf) = (Tree::new(), Link::new(), Link::new());
    let (container, other) = (tree.container(), tree.container());
    let servers = [&silent, &deaf].map(|link| {
        let (names, others) = (format!("be-silent={PEER}:53"), format!("be-silent={PEER}:{OTHER_PORT}"));
        link.play_peer(&[&names, &others, "say=serves", "pause"])
    });
    for server in &servers {
        server.said("serves");
    }
    let mut asks = silent.play(&container, &["await", &format!("ask-nothing={PEER}"), "say=sent", "pause"]);
    let mut unheard = deaf.play(&other, &["await", &format!("ask={PEER}:53=1"), "pause"]);
    let ctrace = Ctrace::ready(command(&["net", "--json"]));
    for group in [&container, &other] {
        ctrace.wait_for("numbers of both", |line| line.json["sample"] == "net" && line.json["cgroup"] == group.path);
    }
    asks.go();
    asks.said("sent");
    // Asked later, so that what was sent before would be told of by then.
    unheard.go();
    let finding = ctrace.wait_for("net.refused: dns-timeout", |line| line.json["evidence"]["reason"] == "dns-timeout");
    assert_eq!(finding.json["container"]["cgroup"], other.path);
    ctrace.wait_for("the end of it", |line| line.json["code"] == "net.refused" && line.json["state"] == "closed");
    assert_eq!(ctrace.stop().codes(&container), [] as [&str; 0], "nothing was asked");
}

/// An answer that comes after the resolver gave up helps nobody, also where it comes before ctrace gives up.
fn answered_late() {
    let (tree, link) = (Tree::new(), Link::new());
    let container = tree.container();
    let server = link.play_peer(&[&format!("answer={PEER}:53=5400"), "say=serves", "pause"]);
    server.said("serves");
    let mut late = link.play(&container, &["await", &format!("ask-and-hear={PEER}:53=1"), "say=heard", "pause"]);
    let ctrace = Ctrace::ready(command(&["net", "--json"]));
    ctrace.wait_for("its numbers", |line| line.json["sample"] == "net" && line.json["cgroup"] == container.path);
    late.go();
    let finding = ctrace.wait_for("net.refused: dns-timeout", |line| line.json["evidence"]["reason"] == "dns-timeout");
    late.said("heard");
    let evidence = &finding.json["evidence"];
    assert_eq!((&evidence["count"], &evidence["answers"]), (&1.into(), &0.into()), "{evidence}");
    ctrace.stop();
}

/// An answer that cannot be read may be the one that is waited for; what is no answer is not.
fn answered_from_pages() {
    let (tree, answers, misleads) = (Tree::new(), Link::new(), Link::new());
    let (container, other) = (tree.container(), tree.container());
    let servers = [
        answers.play_peer(&[&format!("answer-from-pages={PEER}:53"), "say=serves", "pause"]),
        misleads.play_peer(&[&format!("mislead={PEER}"), "say=serves", "pause"]),
    ];
    for server in &servers {
        server.said("serves");
    }
    let mut heard = answers.play(&container, &["await", &format!("ask-and-hear={PEER}:53=1"), "say=heard", "pause"]);
    let mut misled = misleads.play(&other, &["await", &format!("ask-and-hear={PEER}:53=1"), "say=misled", "pause"]);
    let ctrace = Ctrace::ready(command(&["net", "--json"]));
    for group in [&container, &other] {
        ctrace.wait_for("numbers of both", |line| line.json["sample"] == "net" && line.json["cgroup"] == group.path);
    }
    heard.go();
    heard.said("heard");
    misled.go();
    misled.said("misled");
    let finding = ctrace.wait_for("net.refused: dns-timeout", |line| line.json["evidence"]["reason"] == "dns-timeout");
    assert_eq!(finding.json["container"]["cgroup"], other.path);
    ctrace.wait_for("the end of it", |line| line.json["code"] == "net.refused" && line.json["state"] == "closed");
    assert_eq!(ctrace.stop().codes(&container), [] as [&str; 0], "it was answered");
}

/// A container that forwards another's queries has not asked itself.
fn of_another() {
    let tree = Tree::new();
    let (container, router) = (tree.container(), tree.container());
    let street = Street::new(&container);
    let _router = street.play("h", &router, &["pause"]);
    let _server = street.at("o", || {
        let socket = std::net::UdpSocket::bind((OUTSIDE, 53)).expect("a port");
        std::mem::forget(socket);
    });
    let mut asks = street.play("c", &container, &["await", &format!("ask={OUTSIDE}:53=3"), "pause"]);
    let ctrace = Ctrace::ready(command(&["net", "--json"]));
    for group in [&container, &router] {
        ctrace.wait_for("numbers of both", |line| line.json["sample"] == "net" && line.json["cgroup"] == group.path);
    }
    asks.go();
    let is_timeout = |line: &Line| line.json["evidence"]["reason"] == "dns-timeout";
    let finding = ctrace.wait_for("net.refused: dns-timeout", is_timeout);
    assert_eq!(finding.json["container"]["cgroup"], container.path);
    ctrace.wait_for("the end of it", |line| is_timeout(line) && line.json["state"] == "closed");
    let said = ctrace.stop();
    assert!(!said.codes(&router).contains(&"net.refused"), "{:?}", said.codes(&router));
}

/// More queries wait than there is room for: the others are counted.
fn no_room() {
    const ROOM: usize = 3;
    const QUERIES: u64 = 8;
    let (tree, link) = (Tree::new(), Link::new());
    let container = tree.container();
    let server = link.play_peer(&[&format!("be-silent={PEER}:53"), "say=serves", "pause"]);
    server.said("serves");
    let wishes = Wishes {
        probes: vec![&plan::PACKET_SENT, &plan::PACKET_RECEIVED],
        ring_bytes: 1 << 16,
        maps: vec![("NETNS", 16), ("DNS_QUERIES", ROOM as u32), ("DNS_SERVERS", 64), ("HOPS", 64)],
        ..Wishes::default()
    };
    let mut kernel = Kernel::attach(&wishes).expect("the kernel side");
    let netns = fs::metadata(format!("/run/netns/{}", link.container)).expect("the namespace").ino() as u32;
    kernel.put("NETNS", netns, 1_u32).expect("the map");
    let _asks = link.play(&container, &[&format!("ask={PEER}:53={QUERIES}"), "pause"]);
    wait_until("each query to be counted", || {
        let servers = kernel.entries_per_cpu::<ServerKey, Server>("DNS_SERVERS", 64).expect("the map");
        let ours = servers.iter().filter(|(key, _)| key.netns == netns).flat_map(|(_, values)| values);
        let (queries, lost) = ours.fold((0, 0), |sum, one| (sum.0 + one.queries, sum.1 + one.lost));
        (queries >= QUERIES).then(|| assert_eq!((queries, lost), (QUERIES, QUERIES - ROOM as u64)))
    });
    let waiting = kernel.entries::<QueryKey, Query>("DNS_QUERIES", ROOM).expect("the map");
    assert_eq!(waiting.iter().filter(|(key, _)| key.netns == netns).count(), ROOM);
}
