//! `net.refused`: names that are asked for in vain.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde_json::json;
use tracer_common::{
    UNKNOWN_U64,
    dns::{IN_TIME_NS, ServerKey},
    hops::{Address, HopKey, RECEIVE},
};

use super::{Subject, address, reading::DnsTotal, refused::REFUSED, sharers, whose};
use crate::{
    findings::{
        net::Seen,
        numbers::Numbers,
        state::{Conditions, News},
        window::{Total, Window},
    },
    model::{Finding, Owner, Severity, span},
};

/// A resolver that asks again does so after five seconds.
pub const WINDOW_NS: u64 = 5_000_000_000;
const NO_ANSWER: &str = "dns-timeout";
/// Servers that a finding names.
const NAMED: usize = 5;
const PORT: u16 = 53;
/// Index of `lo` in each namespace.
const LOOPBACK: u32 = 1;

#[derive(Default)]
struct Asked {
    owner: Owner,
    sum: DnsTotal,
    servers: BTreeMap<IpAddr, DnsTotal>,
}

pub fn judge(dns: &Window<ServerKey, DnsTotal>, seen: &Seen, conditions: &mut Conditions) -> Vec<Finding> {
    let hearing = hearing(seen);
    let unread = unread(seen);
    let mut groups: BTreeMap<Subject, Asked> = BTreeMap::new();
    for (key, total) in dns.within(|_| true) {
        let (subject, owner) = whose(seen, key.cgroup, key.netns);
        // Who is gone was not there to hear the answer.
        if owner.is_none() || !seen.owners.contains_key(&key.netns) || !hearing.contains(&key.netns) {
            continue;
        }
        if unread.contains(&(key.netns, key.server)) {
            continue;
        }
        let group = groups.entry(subject).or_default();
        group.owner = owner;
        group.sum.add(&total);
        group.servers.entry(address(&key.server)).or_default().add(&total);
    }
    let mut findings = Vec::new();
    for (subject, group) in groups {
        let about = format!("{} {:?} {NO_ANSWER}", subject.name, subject.netns);
        let number = group.sum.unanswered;
        if number > 0
            && let Some(news) = conditions.holds(REFUSED, &about, number, seen.counts.at_ns)
        {
            findings.push(finding(seen, news, &subject, group, dns.length_ns()));
        }
    }
    findings
}

/// The namespaces in which anything is seen to arrive at a device. What a macvlan or ipvlan device gets passes the hook by
/// (`RX_HANDLER_ANOTHER` in net/core/dev.c): no answer would ever be seen.
fn hearing(seen: &Seen) -> BTreeSet<u32> {
    let is_own = |key: &HopKey| key.netns == key.container && key.direction == RECEIVE && key.ifindex != LOOPBACK;
    let arrived = seen.counts.hops.iter().filter(|(key, hop)| is_own(key) && hop.packets > 0);
    arrived.map(|(key, _)| key.netns).collect()
}

/// Who in which namespace was sent packets that may be answers, by which server: none of its queries is known to be in vain.
fn unread(seen: &Seen) -> BTreeSet<(u32, Address)> {
    let answers = seen.counts.tcp.dns.iter().filter(|(key, total)| key.cgroup == UNKNOWN_U64 && total.unreadable > 0);
    answers.map(|(key, _)| (key.netns, key.server)).collect()
}

fn finding(seen: &Seen, news: News, subject: &Subject, group: Asked, window_ns: u64) -> Finding {
    let Asked { owner, sum, servers } = group;
    let mut silent: Vec<_> = servers.into_iter().filter(|(_, of)| of.unanswered > 0).collect();
    silent.sort_by_key(|(_, of)| Reverse(of.unanswered));
    let peers: Vec<_> = silent
        .iter()
        .take(NAMED)
        .map(|(ip, of)| {
            json!({
                "address": ip.to_string(), "port": PORT, "count": of.unanswered, "queries": of.queries, "answers": of.answers,
            })
        })
        .collect();
    let mut evidence = Numbers::default();
    evidence.set("reason", NO_ANSWER);
    evidence.set("count", sum.unanswered);
    evidence.set("queries", sum.queries);
    evidence.set("answers", sum.answers);
    evidence.set("timeout_ns", IN_TIME_NS);
    evidence.set("peers", peers);
    evidence.set("window_ns", window_ns);
    evidence.set("shared_with", sharers(seen, subject, &owner));
    evidence.set("cgroup", &subject.name);
    let more = if silent.len() > 1 { format!(" and {} more", silent.len() - 1) } else { String::new() };
    let to = silent.first().map_or_else(String::new, |(ip, _)| format!(" to {ip}{more}"));
    // Who answers some is alive.
    let answers = silent.iter().any(|(_, of)| of.answers > 0);
    let queries = if sum.unanswered == 1 { "query" } else { "queries" };
    let summary = format!(
        "{} DNS {queries}{to} got no answer within {}{}",
        sum.unanswered,
        span(IN_TIME_NS),
        if answers { format!(", {} did", sum.answers) } else { String::new() },
    );
    Finding {
        code: REFUSED,
        severity: Severity::Warning,
        id: news.id,
        state: Some(news.state),
        time: seen.world.at(seen.counts.at_ns),
        container: owner,
        process: None,
        summary,
        evidence: evidence.values,
        why: if answers { SOME_WHY } else { NONE_WHY }.to_owned(),
        fix: fixes(silent.first().map(|(ip, _)| *ip), answers),
        refers_to: None,
        unknown: evidence.unknown,
    }
}

const NONE_WHY: &str = "no answer came back to the container's device: the server is down or not there, a firewall drops packets on \
    the way, or the way back is missing; programs wait five seconds for each try, and most hang in every lookup";

const SOME_WHY: &str = "the server answers others, so these got lost: it is overloaded, packets are dropped on the way, or two queries \
    of one socket at once (A and AAAA) met in conntrack, which lets one of them through; programs wait five seconds, then ask again";

fn fixes(server: Option<IpAddr>, answers: bool) -> Vec<String> {
    let server = server.map_or_else(|| "SERVER".to_owned(), |server| server.to_string());
    let mut fixes = vec![
        "see whether this host drops them: `ctrace net` names the hop and the reason".to_owned(),
        format!("ask by hand, in the container's network namespace: nsenter -t PID -n dig @{server} NAME"),
    ];
    if answers {
        fixes.push(
            "see whether conntrack lost them (conntrack -S: insert_failed grows); `options single-request-reopen` in resolv.conf, or a \
             cache on the node, spares that"
                .to_owned(),
        );
    } else {
        fixes.push("see whether that is a server at all: the container's /etc/resolv.conf".to_owned());
    }
    fixes
}
