//! Names that are asked for in vain, and those whose answer takes its time.

use crate::{
    harness::Test,
    support::{
        cgroups::Tree,
        ctrace::{Ctrace, command},
        tcp::{Link, PEER},
    },
};

pub static TESTS: &[Test] = &[Test::core("net::dns::no_answer", no_answer)];

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
    let finding = ctrace.wait_for("net.refused: dns-timeout", |line| {
        line.json["code"] == "net.refused" && line.json["evidence"]["reason"] == "dns-timeout"
    });
    let evidence = &finding.json["evidence"];
    assert_eq!(finding.json["container"]["cgroup"], container.path);
    assert_eq!((&evidence["count"], &evidence["answers"]), (&3.into(), &0.into()), "{evidence}");
    assert_eq!((&evidence["peers"][0]["address"], &evidence["peers"][0]["count"]), (&PEER.into(), &3.into()));
    heard.said("heard");
    // Its queries would be given up by now.
    ctrace.wait_for("the end of it", |line| line.json["code"] == "net.refused" && line.json["state"] == "closed");
    let said = ctrace.stop();
    assert_eq!(said.codes(&other), [] as [&str; 0], "an answer is an answer");
}
