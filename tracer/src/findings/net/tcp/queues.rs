//! `net.refused`: queues and tables of a network namespace that had no room.

use super::{
    reading::{ACCEPT_QUEUE, CONNTRACK, Queue, Queues, SYN_QUEUE},
    refused::REFUSED,
    sharers, whose,
};
use crate::{
    findings::{net::Seen, numbers::Numbers, state::Conditions, window::Window},
    model::{Finding, Severity},
};

pub fn judge(queues: &Window<Queue, u64>, seen: &Seen, conditions: &mut Conditions) -> Vec<Finding> {
    let nothing = Queues::default();
    let mut findings = Vec::new();
    for (queue, count) in queues.within(|_| true) {
        let found = seen.counts.tcp.queues.get(&queue.netns).unwrap_or(&nothing);
        // `drop` counts packets that lost a race for one entry as well: the table has room then.
        let room = found.conntrack_entries.zip(found.conntrack_max).is_some_and(|(now, max)| now < max / 10 * 9);
        if queue.what == CONNTRACK && room {
            continue;
        }
        let (subject, owner) = whose(seen, u64::MAX, queue.netns);
        let about = format!("{} {}", subject.name, queue.what);
        let Some(news) = conditions.holds(REFUSED, &about, count, seen.counts.at_ns) else { continue };
        let mut evidence = Numbers::default();
        evidence.set("reason", queue.what);
        evidence.set("count", count);
        evidence.set("window_ns", queues.length_ns());
        let (summary, why, fix) = match queue.what {
            ACCEPT_QUEUE => accept_queue(count, found, &mut evidence),
            SYN_QUEUE => syn_queue(count, found, &mut evidence),
            _ => conntrack(count, found, &mut evidence),
        };
        evidence.set("shared_with", sharers(seen, &subject, &owner));
        evidence.set("cgroup", &subject.name);
        findings.push(Finding {
            code: REFUSED,
            severity: Severity::Warning,
            id: news.id,
            state: Some(news.state),
            time: seen.world.at(seen.counts.at_ns),
            container: owner,
            process: None,
            summary,
            evidence: evidence.values,
            why: why.to_owned(),
            fix: fix.into_iter().map(str::to_owned).collect(),
            refers_to: None,
            unknown: evidence.unknown,
        });
    }
    findings
}

type Said = (String, &'static str, Vec<&'static str>);

fn accept_queue(count: u64, found: &Queues, evidence: &mut Numbers) -> Said {
    let fullest = found.listeners.iter().max_by_key(|(_, waiting)| *waiting);
    let unknown = "no listener has connections waiting any more";
    evidence.put("port", fullest.map(|(port, _)| port), unknown);
    evidence.put("waiting", fullest.map(|(_, waiting)| waiting), unknown);
    let at =
        fullest.map_or_else(String::new, |(port, waiting)| format!(" of port {port} ({waiting} wait to be accepted)"));
    (
        format!("the accept queue{at} is full: {count} connections were dropped"),
        "the program accepts slower than connections come: the kernel drops what has no room in listen()'s backlog, and clients \
         see timeouts",
        vec![
            "let the program accept faster: more workers, no long work between two accept() calls",
            "raise the backlog of listen() and, as its ceiling, net.core.somaxconn of that network namespace",
        ],
    )
}

fn syn_queue(count: u64, found: &Queues, evidence: &mut Numbers) -> Said {
    evidence.put("syn_cookies", found.syn_cookies, "/proc/PID/net/netstat has no TCPReqQFullDoCookies");
    (
        format!("the SYN queue is full: {count} SYNs were dropped"),
        "more handshakes are open than the backlog allows, and SYN cookies are off: clients try again after a second",
        vec![
            "turn SYN cookies on: net.ipv4.tcp_syncookies=1 in that network namespace",
            "raise net.ipv4.tcp_max_syn_backlog and the backlog of listen()",
        ],
    )
}

fn conntrack(count: u64, found: &Queues, evidence: &mut Numbers) -> Said {
    evidence.put("entries", found.conntrack_entries, "/proc/PID/net/stat/nf_conntrack could not be read");
    evidence.put("limit", found.conntrack_max, "/proc/sys/net/netfilter/nf_conntrack_max could not be read");
    let of = found.conntrack_max.map_or_else(String::new, |max| format!(" of {max}"));
    (
        format!("the table of connections{of} is full: {count} packets were dropped"),
        "each connection through NAT or a stateful rule has an entry in conntrack: where no more fit, packets of new connections \
         are dropped",
        vec![
            "raise net.netfilter.nf_conntrack_max (some 300 bytes each)",
            "shorten net.netfilter.nf_conntrack_tcp_timeout_established, or leave traffic out by `notrack`",
        ],
    )
}
