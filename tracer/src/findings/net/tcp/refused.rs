//! `net.refused`: connections and calls that came to nothing.

use std::{cmp::Reverse, collections::BTreeMap, net::SocketAddr};

use serde_json::{Value, json};
use tracer_common::tcp::{
    AF_INET, AF_INET6, ATTEMPT, BIND_CALL, CONNECT_CALL, EADDRINUSE, EADDRNOTAVAIL, EHOSTUNREACH, ENETDOWN,
    ENETUNREACH, RefusalKey, WAITING,
};

use super::{RefusalTotal, Subject, address_of, sharers, whose};
use crate::{
    findings::{
        net::Seen,
        numbers::{Numbers, grow},
        state::{Conditions, News},
        window::Window,
    },
    model::{Code, Finding, Owner, Process, Severity},
};

pub const REFUSED: Code = Code("net.refused");
/// Peers that a finding names.
const NAMED: usize = 5;

const GAVE_UP: u32 = 0;
const ETIMEDOUT: u32 = 110;
const ECONNREFUSED: u32 = 111;

/// What became of it. The name stands in the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    Refused,
    TimedOut,
    NoRoute,
    PortInUse,
    NoLocalPort,
    NoSuchAddress,
}

impl Reason {
    /// `None`: it means nothing.
    fn of(key: &RefusalKey) -> Option<Self> {
        // 0: a call whose address is not known. Paths and netlink ids are no addresses of the network.
        if ![0, AF_INET, AF_INET6].contains(&key.family) {
            return None;
        }
        Some(match (key.kind, key.errno) {
            (ATTEMPT, ECONNREFUSED) => Self::Refused,
            (ATTEMPT, ETIMEDOUT | GAVE_UP) | (WAITING, _) => Self::TimedOut,
            // A program on a host without IPv6 tries that first, and goes on with IPv4: so do resolvers for each address.
            // Without any IPv6 address it is EADDRNOTAVAIL (ip6_dst_lookup_tail): no port is missing.
            (_, ENETUNREACH | ENETDOWN | EADDRNOTAVAIL)
                if key.family == AF_INET6 && address_of(key.family, &key.address).is_ipv6() =>
            {
                return None;
            }
            (_, EHOSTUNREACH | ENETUNREACH | ENETDOWN) => Self::NoRoute,
            (CONNECT_CALL, EADDRNOTAVAIL) if key.port != 0 => Self::NoLocalPort,
            (BIND_CALL, EADDRNOTAVAIL) => Self::NoSuchAddress,
            (_, EADDRINUSE) if key.kind != ATTEMPT => Self::PortInUse,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed-out",
            Self::NoRoute => "no-route",
            Self::PortInUse => "port-in-use",
            Self::NoLocalPort => "no-local-port",
            Self::NoSuchAddress => "no-such-address",
        }
    }

    fn summary(self, count: u64, syns: u64, to: &str) -> String {
        let times = if count == 1 { "once".to_owned() } else { format!("{count} times") };
        match self {
            Self::Refused => format!("connect{to} was refused {times}"),
            Self::TimedOut if count == 0 && syns == 0 => format!("connect{to} still waits for an answer"),
            Self::TimedOut if count == 0 => format!("connect{to} gets no answer: {syns} SYNs were sent again"),
            Self::TimedOut => format!("connect{to} got no answer {times}"),
            Self::NoRoute => format!("no route{to}, {times}"),
            Self::PortInUse => format!("bind{to} failed {times}: the port is in use"),
            Self::NoLocalPort => format!("connect{to} failed {times}: no local port is free"),
            Self::NoSuchAddress => format!("bind{to} failed {times}: no such address in its network namespace"),
        }
    }

    fn why(self) -> &'static str {
        match self {
            Self::Refused => {
                "the peer answered the SYN with a reset: nothing listens at that address and port, or a firewall rejects it"
            }
            Self::TimedOut => {
                "the SYN got no answer: a firewall drops it, the peer is down, or the way back is missing; Linux sends it again for two minutes"
            }
            Self::NoRoute => {
                "the kernel has no route, the next hop answers no ARP, or a router sent an ICMP error (also a REJECT rule)"
            }
            Self::PortInUse => {
                "another socket of its network namespace has that port, or a socket of its own is still bound"
            }
            Self::NoLocalPort => {
                "every port of net.ipv4.ip_local_port_range is in use towards that address, many of them in TIME_WAIT"
            }
            Self::NoSuchAddress => {
                "a program may only bind to addresses of its own network namespace: the host's are not the container's"
            }
        }
    }

    fn fix(self, peer: Option<SocketAddr>) -> Vec<String> {
        let port = peer.map_or(0, |peer| peer.port());
        let own = "`ctrace containers X` shows its addresses and routes";
        match self {
            Self::Refused => vec![
                format!("see what listens there: ss -ltn 'sport = {port}' in the peer's network namespace"),
                "a server that listens on 127.0.0.1 is reached by nobody outside its own namespace: let it listen on 0.0.0.0".to_owned(),
            ],
            Self::TimedOut => vec![
                "see whether this host drops them: `ctrace net` names the hop and the reason".to_owned(),
                "see whether the peer is up, and whether its firewall lets this port through".to_owned(),
            ],
            Self::NoRoute => vec![
                format!("see the route: ip route get {} in the container's network namespace", peer.map_or_else(|| "ADDRESS".to_owned(), |peer| peer.ip().to_string())),
                own.to_owned(),
            ],
            Self::PortInUse => vec![format!("see who has it: ss -lntup 'sport = {port}' in that network namespace")],
            Self::NoLocalPort => vec![
                "keep connections open and use them again".to_owned(),
                "widen net.ipv4.ip_local_port_range (docker run --sysctl), or net.ipv4.tcp_tw_reuse=1".to_owned(),
            ],
            Self::NoSuchAddress => vec!["bind to 0.0.0.0, or to an address of the container".to_owned(), own.to_owned()],
        }
    }
}

#[derive(Default)]
struct Refused {
    owner: Owner,
    /// Calls say nothing of it.
    netns: Option<u32>,
    count: u64,
    syns: u64,
    /// Attempts that go on.
    waiting: u64,
    peers: BTreeMap<Option<SocketAddr>, u64>,
    /// Attempts without a route, and calls, by peer and error: a call that waits for its attempt fails with the attempt's error.
    unreached: BTreeMap<(Option<SocketAddr>, u32), (u64, u64)>,
    who: Option<Process>,
}

pub fn judge(refusals: &Window<RefusalKey, RefusalTotal>, seen: &Seen, conditions: &mut Conditions) -> Vec<Finding> {
    let mut groups: BTreeMap<(String, Reason), Refused> = BTreeMap::new();
    // Between two SYNs of one attempt there may be a minute in which nothing is counted: it goes on all the same.
    let waiting = seen.counts.tcp.waiting.iter();
    let waiting = waiting.map(|(key, count)| (*key, RefusalTotal::default(), *count));
    let counted = refusals.within(|_| true).into_iter().map(|(key, total)| (key, total, 0));
    for (key, total, waiting) in counted.chain(waiting) {
        let Some(reason) = Reason::of(&key) else { continue };
        let (subject, owner) = whose(seen, key.cgroup, key.netns);
        let group = groups.entry((subject.name, reason)).or_default();
        group.owner = owner;
        group.netns = group.netns.or(subject.netns);
        grow(&mut group.waiting, waiting);
        let peer = (key.family != 0).then(|| SocketAddr::new(address_of(key.family, &key.address), key.port));
        let peers = group.peers.entry(peer).or_default();
        if key.kind == WAITING {
            grow(&mut group.syns, total.count);
        } else if reason == Reason::NoRoute && [ATTEMPT, CONNECT_CALL].contains(&key.kind) {
            let (attempts, calls) = group.unreached.entry((peer, key.errno)).or_default();
            grow(if key.kind == ATTEMPT { attempts } else { calls }, total.count);
        } else {
            grow(&mut group.count, total.count);
            grow(peers, total.count);
        }
        if group.who.is_none() {
            group.who = total.who;
        }
    }
    for group in groups.values_mut() {
        for ((peer, _), (attempts, calls)) in &group.unreached {
            let count = *attempts.max(calls);
            grow(&mut group.count, count);
            grow(group.peers.entry(*peer).or_default(), count);
        }
    }
    let mut findings = Vec::new();
    for ((name, reason), group) in groups {
        let about = format!("{name} {}", reason.name());
        let subject = Subject { name, netns: group.netns };
        let number = group.count.max(1);
        if let Some(news) = conditions.holds(REFUSED, &about, number, seen.counts.at_ns) {
            findings.push(finding(seen, news, &subject, reason, group, refusals.length_ns()));
        }
    }
    findings
}

fn finding(seen: &Seen, news: News, subject: &Subject, reason: Reason, group: Refused, window_ns: u64) -> Finding {
    let mut worst: Vec<_> = group.peers.iter().filter_map(|(peer, count)| Some(((*peer)?, *count))).collect();
    worst.sort_by_key(|(_, count)| Reverse(*count));
    let named = worst.iter().take(NAMED);
    let peers: Vec<Value> = named
        .map(|(peer, count)| json!({"address": peer.ip().to_string(), "port": peer.port(), "count": count}))
        .collect();
    let mut evidence = Numbers::default();
    evidence.set("reason", reason.name());
    evidence.set("count", group.count);
    if reason == Reason::TimedOut {
        evidence.set("syns_resent", group.syns);
        evidence.set("waiting", group.waiting);
    }
    evidence.set("peers", peers);
    evidence.set("window_ns", window_ns);
    evidence.set("shared_with", sharers(seen, subject, &group.owner));
    evidence.set("cgroup", &subject.name);
    let first = worst.first().map(|(peer, _)| *peer);
    let more = if worst.len() > 1 { format!(" and {} more", worst.len() - 1) } else { String::new() };
    let to = first.map_or_else(String::new, |peer| format!(" to {peer}{more}"));
    Finding {
        code: REFUSED,
        severity: Severity::Warning,
        id: news.id,
        state: Some(news.state),
        time: seen.world.at(seen.counts.at_ns),
        summary: reason.summary(group.count, group.syns, &to),
        container: group.owner,
        process: group.who,
        evidence: evidence.values,
        why: reason.why().to_owned(),
        fix: reason.fix(first),
        refers_to: None,
        unknown: evidence.unknown,
    }
}
