//! Names that are asked for in vain, and those whose answer takes its time.

use crate::{
    harness::Test,
    support::{
        cgroups::Tree,
        ctrace::{Ctrace, Line, command},
        tcp::{Link, PEER},
    },
};

pub static TESTS: &[Test] = &[
    Test::core("net::dns::no_answer", no_answer),
    Test::full("net::dns::asked_again", asked_again),
    Test::full("net::dns::text_in_pages", text_in_pages),
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
    let line = ctrace.wait_for("that they are lost, or in vain", |line| is_lost(line) || is_told(line)).json;
    let count = if line["type"] == "loss" { &line["count"] } else { &line["evidence"]["count"] };
    assert_eq!(count, 3, "{line}");
    let said = ctrace.stop();
    assert!(line["type"] != "loss" || said.codes(&container).is_empty(), "{:?}", said.codes(&container));
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
