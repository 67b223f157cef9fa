//! A path that loses packets, and one that lets some overtake others: TCP sends again on both, and only one has lost any.

use serde_json::Value;

use crate::{
    harness::{Lack, Test},
    support::{
        cgroups::Tree,
        tcp::{Link, PEER},
    },
};

use super::tcp::{ctrace, number, server};

pub static TESTS: &[Test] = &[
    Test::full("net::netem::loss", loss).needs(&[Lack::Netem]),
    Test::full("net::netem::reordering", reordering).needs(&[Lack::Netem]),
];

/// Many connections, one after another: each learns for itself how far packets overtake each other.
fn streams(kib: u32) -> Vec<String> {
    (0..30).map(|_| format!("stream={PEER}:80={kib}")).collect()
}

fn path(words: &str) -> Link {
    let link = Link::new();
    // No large buffers, which are lost and overtake as one; and what one connection learned is not kept for the next.
    link.inside("ip link set eth0 gso_max_segs 1");
    link.inside("sysctl -q -w net.ipv4.tcp_no_metrics_save=1");
    link.inside(&format!("tc qdisc add dev eth0 root netem {words}"));
    link
}

fn loss() {
    let (tree, link) = (Tree::new(), path("delay 5ms loss 5%"));
    let container = tree.container();
    let _server = server(&link, 80);
    let ctrace = ctrace();
    let streams = streams(2000);
    let steps: Vec<&str> = streams.iter().map(String::as_str).chain(["pause"]).collect();
    let _lossy = link.play(&container, &steps);
    let finding = ctrace.finding("net.retransmits", &container).json;
    let evidence = &finding["evidence"];
    assert!(evidence["retransmit_pct"].as_f64().is_some_and(|share| share >= 1.0), "{evidence}");
    let said = ctrace.stop();
    assert!(!said.codes(&container).contains(&"net.reordering"), "nothing was overtaken");
}

fn reordering() {
    let (tree, link) = (Tree::new(), path("delay 10ms reorder 30% 20%"));
    let container = tree.container();
    let _server = server(&link, 80);
    let ctrace = ctrace();
    let streams = streams(2000);
    let steps: Vec<&str> = streams.iter().map(String::as_str).chain(["pause"]).collect();
    let _late = link.play(&container, &steps);
    let finding = ctrace.finding("net.reordering", &container).json;
    let evidence = &finding["evidence"];
    assert!(number(evidence, "fast") >= 5, "{evidence}");
    // Since 6.17 the kernel also tells of what it could not send again yet.
    assert!(number(evidence, "retransmits") <= number(evidence, "resent_segments"), "{evidence}");
    assert!(number(evidence, "needless") * 2 >= number(evidence, "resent_segments"), "{evidence}");
    // What the kernel itself made of it; without any, it takes three to be the farthest that one is overtaken.
    assert!(number(evidence, "reorderings") >= 1 && number(evidence, "reordering_degree") >= 3, "{evidence}");
    let said = ctrace.stop();
    // On a slow machine an answer may be later than the sender waits, and that some came twice be said later than ctrace looks.
    let lost = |finding: &&Value| {
        let evidence = &finding["evidence"];
        let untold = number(evidence, "needless") * 3 < number(evidence, "resent_segments") * 2;
        finding["code"] == "net.retransmits" && evidence["timeouts"] == 0 && untold
    };
    assert_eq!(said.about(&container).find(lost), None, "nothing was lost");
}
