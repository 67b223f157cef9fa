//! `net.retransmits`: packets are lost. `net.reordering`: they are not, but come in another order, and are sent again for
//! nothing.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde_json::Value;
use tracer_common::tcp::FlowKey;

use super::{FlowTotal, Rps, Subject, address_of, sharers, whose};
use crate::{
    findings::{
        net::Seen,
        numbers::Numbers,
        state::{Conditions, News},
        window::{Total, Window},
    },
    model::{Code, Finding, Owner, Severity, span},
    network::advice::{is_set, rps_mask},
};

pub const RETRANSMITS: Code = Code("net.retransmits");
pub const REORDERING: Code = Code("net.reordering");

/// Within the window: fewer are the price of finding out how fast a path is.
const MANY: u64 = 10;
/// One segment in so many: at 1 % loss a connection is held to some twelve segments a round trip (Mathis et al.).
const SHARE: u64 = 100;
/// Timeouts in a row without an answer: the path is dead, however little is sent.
const DEAD: u64 = 3;
/// Fast retransmissions within the window, half of their segments needless: fewer and the sender has adapted by itself.
const NEEDLESS: u64 = 5;
/// Where packets come in another order, those that are lost as well are looked for among what was sent again within this, but for
/// the last second, against all that is known to be needless by now: of what was sent last the peer has yet to say so.
pub const SETTLING_NS: u64 = 5_000_000_000;
/// Peers that a finding names.
const NAMED: usize = 5;

/// What one owner's connections sent again within the window.
#[derive(Default)]
struct Resent {
    owner: Owner,
    sum: FlowTotal,
    /// Segments that were sent again a while ago and that nobody said were needless.
    settled: u64,
    peers: BTreeMap<IpAddr, (FlowTotal, BTreeSet<(u16, u16)>)>,
}

impl Resent {
    /// Segments that were sent again though they had arrived.
    fn needless(&self) -> u64 {
        needless(&self.sum)
    }

    fn is_reordering(&self) -> bool {
        self.sum.fast >= NEEDLESS && self.needless().saturating_mul(2) >= self.sum.resent
    }

    fn is_loss(&self) -> bool {
        let segments = if self.is_reordering() {
            self.sum.resent.saturating_sub(self.needless()).min(self.settled)
        } else {
            self.sum.resent
        };
        // A buffer holds many segments (GSO): of the buffers the same part was lost.
        let lost = u128::from(self.sum.retransmits()) * u128::from(segments) / u128::from(self.sum.resent.max(1));
        (lost >= MANY.into() && segments.saturating_mul(SHARE) >= self.sum.sent) || self.sum.unanswered >= DEAD
    }
}

/// The peer says so of each segment (DSACK). It does as well of probes and timeouts.
fn needless(sum: &FlowTotal) -> u64 {
    sum.dsacks.saturating_sub(sum.probes.saturating_add(sum.timeouts)).min(sum.resent)
}

/// What is gone of late, and what has settled.
pub fn judge(
    (flows, settling): (&Window<FlowKey, FlowTotal>, &Window<FlowKey, FlowTotal>),
    seen: &Seen,
    conditions: &mut Conditions,
) -> Vec<Finding> {
    let mut by_subject: BTreeMap<Subject, Resent> = BTreeMap::new();
    for (key, total) in flows.within(|_| true) {
        let (subject, owner) = whose(seen, key.cgroup, key.netns);
        let resent = by_subject.entry(subject).or_default();
        resent.owner = owner;
        resent.sum.add(&total);
        let (sum, connections) = resent.peers.entry(peer(&key)).or_default();
        sum.add(&total);
        connections.insert((key.local_port, key.remote_port));
    }
    let mut said: BTreeMap<Subject, FlowTotal> = BTreeMap::new();
    for (key, total) in settling.within(|_| true) {
        said.entry(whose(seen, key.cgroup, key.netns).0).or_default().add(&total);
    }
    for (key, total) in settling.settled() {
        if let Some(resent) = by_subject.get_mut(&whose(seen, key.cgroup, key.netns).0) {
            resent.settled = resent.settled.saturating_add(total.resent);
        }
    }
    for (subject, resent) in &mut by_subject {
        resent.settled = resent.settled.saturating_sub(said.get(subject).map_or(0, needless));
    }
    let mut findings = Vec::new();
    for (subject, resent) in &by_subject {
        let number = resent.sum.retransmits();
        // One cgroup may have sockets in several namespaces: each has a pair of its own.
        let about = format!("{} {:?}", subject.name, subject.netns);
        for (code, holds) in [(REORDERING, resent.is_reordering()), (RETRANSMITS, resent.is_loss())] {
            if holds && let Some(news) = conditions.holds(code, &about, number, seen.counts.at_ns) {
                let window_ns = flows.length_ns();
                findings.push(finding(seen, code, news, subject, resent, window_ns));
            }
        }
    }
    findings
}

fn peer(key: &FlowKey) -> IpAddr {
    address_of(key.family, &key.remote)
}

fn finding(seen: &Seen, code: Code, news: News, subject: &Subject, resent: &Resent, window_ns: u64) -> Finding {
    let sum = &resent.sum;
    let mut worst: Vec<_> = resent.peers.iter().collect();
    worst.sort_by_key(|(_, (sum, _))| Reverse(sum.retransmits()));
    let peers = worst.iter().take(NAMED).map(|(peer, (sum, connections))| {
        let mut row = numbers(sum);
        row.set("address", peer.to_string());
        row.set("connections", connections.len());
        Value::Object(row.values)
    });
    let mut evidence = numbers(sum);
    evidence.set("window_ns", window_ns);
    evidence.set("peers", peers.collect::<Vec<_>>());
    evidence.set("shared_with", sharers(seen, subject, &resent.owner));
    evidence.set("cgroup", &subject.name);
    let to = worst.first().map_or_else(String::new, |(peer, _)| format!(" to {peer}"));
    let (summary, why, fix) = if code == REORDERING {
        let rps = subject.netns.and_then(|netns| seen.counts.tcp.rps.get(&netns));
        let unknown = "which device of the host is its pair's other end is not known";
        evidence.put("device", rps.map(|rps| rps.device.as_str()), unknown);
        evidence.put("rps_cpus", rps.map(|rps| rps.cpus.as_str()), unknown);
        let summary = format!(
            "{} of {} segments sent again{to} had arrived: packets come in another order, they are not lost",
            resent.needless(),
            sum.resent
        );
        (summary, REORDERING_WHY.to_owned(), reordering_fix(seen, rps))
    } else {
        // Whom most is sent again need not be who is silent.
        let silent = resent.peers.iter().max_by_key(|(_, (sum, _))| sum.unanswered);
        let is_dead = sum.unanswered >= DEAD && sum.retransmits() < MANY;
        let to = silent.filter(|_| is_dead).map_or(to, |(peer, _)| format!(" to {peer}"));
        let summary = if is_dead {
            format!("no answer{to}: {} timeouts in a row", sum.unanswered)
        } else {
            let kinds = format!("{} fast, {} by timeout, {} probes", sum.fast, sum.timeouts, sum.probes);
            let (count, within) = (sum.retransmits(), span(window_ns));
            format!("{count} retransmissions in {within} ({:.1} % of segments: {kinds}), most{to}", share(sum))
        };
        let fix = vec![
            "look where they are lost: `ctrace net` names the hop and the reason of packets that this host drops"
                .to_owned(),
            format!("if no hop here drops them, the way{to} does: mtr or the switches' error counters tell where"),
        ];
        (summary, LOSS_WHY.to_owned(), fix)
    };
    Finding {
        code,
        severity: Severity::Warning,
        id: news.id,
        state: Some(news.state),
        time: seen.world.at(seen.counts.at_ns),
        container: resent.owner.clone(),
        process: None,
        summary,
        evidence: evidence.values,
        why,
        fix,
        refers_to: None,
        unknown: evidence.unknown,
    }
}

const LOSS_WHY: &str = "segments or their acknowledgements do not arrive: after three later ones were acknowledged TCP sends again \
    at once (fast), else after a timeout of 200 ms and more, which it doubles each time";

const REORDERING_WHY: &str = "later segments overtook earlier ones, so the receiver acknowledged out of order and the sender took \
    that for loss; the receiver then reported what came twice (DSACK). Packets of one connection that are handled by several CPUs at \
    a veth pair do that";

fn reordering_fix(seen: &Seen, rps: Option<&Rps>) -> Vec<String> {
    let all = rps_mask(seen.world.host.cpus);
    let device = rps.map_or("VETH", |rps| rps.device.as_str());
    let is_on = rps.is_some_and(|rps| is_set(&rps.cpus));
    let elsewhere =
        "if it goes on, the order is lost on the way: bonding in round-robin mode, or several paths".to_owned();
    if is_on {
        return vec![format!("RPS is on at {device}: the order is lost elsewhere"), elsewhere];
    }
    let whose = if rps.is_none() { " (VETH: the host's end of the container's pair)" } else { "" };
    vec![
        format!(
            "keep each connection on one CPU by RPS at the host's end{whose}: for q in /sys/class/net/{device}/queues/rx-*; do echo {all} > $q/rps_cpus; done"
        ),
        elsewhere,
    ]
}

fn share(sum: &FlowTotal) -> f64 {
    sum.resent as f64 * 100.0 / sum.sent.max(1) as f64
}

fn numbers(sum: &FlowTotal) -> Numbers {
    let mut numbers = Numbers::default();
    numbers.set("retransmits", sum.retransmits());
    numbers.set("fast", sum.fast);
    numbers.set("timeouts", sum.timeouts);
    numbers.set("probes", sum.probes);
    numbers.set("resent_segments", sum.resent);
    numbers.set("sent_segments", sum.sent);
    numbers.set("retransmit_pct", (share(sum) * 10.0).round() / 10.0);
    numbers.set("needless", needless(sum));
    numbers.set("dsacks", sum.dsacks);
    numbers.set("reorderings", sum.reorderings);
    numbers.set("reordering_degree", sum.degree);
    numbers.set("unanswered", sum.unanswered);
    numbers.set("rtt_ns", sum.rtt_ns);
    numbers
}
