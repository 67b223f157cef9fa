//! Rules about TCP, each with a trigger and a near miss.

use std::collections::BTreeSet;

use bytemuck::Zeroable;
use tracer_common::dns::ServerKey;
use tracer_common::hops::{HopKey, RECEIVE, XMIT};
use tracer_common::tcp::{AF_INET, AF_INET6, ATTEMPT, BIND_CALL, CONNECT_CALL, FlowKey, RefusalKey, WAITING};

use super::{DnsTotal, FlowTotal, Queues, Reading, RefusalTotal, Rps};
use crate::{
    findings::{
        fixture::{Host, OTHER, SECOND, T, WEB, WEB_CGROUP},
        net::{self, Counts, HopTotal},
    },
    model::{Finding, State},
    pipeline::{LossNote, Output},
};

const NETNS: u32 = 42;

struct Run {
    host: Host,
    rule: net::Rule,
    at_ns: u64,
    /// Where packets of the container are counted.
    passed: HopKey,
    /// Who is in the namespace.
    residents: &'static [&'static str],
    /// Another container's had the namespace's number until now.
    is_renewed: bool,
}

impl Run {
    fn new() -> Self {
        Self {
            host: Host::new(),
            rule: net::Rule::default(),
            at_ns: T,
            passed: arrives(NETNS),
            residents: &[WEB],
            is_renewed: false,
        }
    }

    /// What is said of a reading that comes a second later.
    fn says(&mut self, tcp: Reading) -> Vec<Finding> {
        self.outputs(tcp)
            .into_iter()
            .filter_map(|output| match output {
                Output::Finding(finding) => Some(*finding),
                _ => None,
            })
            .collect()
    }

    fn loses(&mut self, tcp: Reading) -> Vec<(&'static str, u64)> {
        let lost = self.outputs(tcp).into_iter().filter_map(|output| match output {
            Output::Loss(LossNote { event, count, .. }) => Some((event, count)),
            _ => None,
        });
        lost.collect()
    }

    fn outputs(&mut self, tcp: Reading) -> Vec<Output> {
        self.at_ns += SECOND;
        let netns = self.residents.iter().map(|path| ((*path).into(), NETNS)).collect();
        // The kernel side may still have counts of who is gone.
        let hops = [self.passed, arrives(NETNS + 1)];
        let hops = hops.map(|key| (key, HopTotal { packets: 1, ..HopTotal::default() })).into();
        let renewed = self.is_renewed.then_some(NETNS).into_iter().collect();
        let counts = Counts { at_ns: self.at_ns, netns, renewed, host: Some(1), hops, tcp, ..Counts::default() };
        let mut out = Vec::new();
        self.rule.reading(&net::Reading::Counts(counts), self.at_ns, &self.host.world(), &mut out);
        out
    }

    fn says_of_flow(&mut self, flow: FlowTotal) -> Vec<&'static str> {
        let key = FlowKey { cgroup: WEB_CGROUP, netns: NETNS, family: AF_INET, ..FlowKey::zeroed() };
        let rps = Rps { device: "veth1".to_owned(), cpus: "0".to_owned() };
        let rps = [(NETNS, rps)].into_iter().collect();
        let findings = self.says(Reading { flows: vec![(key, flow)], rps, ..Reading::default() });
        assert!(findings.iter().all(|finding| finding.container.as_ref().is_some_and(|web| web.cgroup == WEB)));
        findings.iter().map(|finding| finding.code.0).collect()
    }

    fn says_of_refusal(&mut self, key: RefusalKey) -> Vec<Finding> {
        let total = RefusalTotal { count: 3, ..RefusalTotal::default() };
        self.says(Reading { refusals: vec![(key, total)], ..Reading::default() })
    }
}

/// At a device of that namespace's own.
fn arrives(netns: u32) -> HopKey {
    HopKey { container: netns, netns, ifindex: 2, direction: RECEIVE, ..HopKey::zeroed() }
}

fn refusal(kind: u32, errno: u32) -> RefusalKey {
    let address = [10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    RefusalKey { cgroup: u64::MAX, netns: NETNS, family: AF_INET, port: 80, address, kind, errno }
}

#[test]
fn loss_is_many_and_one_percent() {
    let lossy = FlowTotal { fast: 9, timeouts: 1, resent: 10, sent: 1000, ..FlowTotal::default() };
    assert_eq!(Run::new().says_of_flow(lossy.clone()), ["net.retransmits"]);
    assert!(Run::new().says_of_flow(FlowTotal { sent: 1001, ..lossy.clone() }).is_empty());
    assert!(Run::new().says_of_flow(FlowTotal { fast: 8, ..lossy }).is_empty());
    let dead = FlowTotal { timeouts: 3, resent: 3, sent: 5000, unanswered: 3, ..FlowTotal::default() };
    assert_eq!(Run::new().says_of_flow(dead.clone()), ["net.retransmits"]);
    assert!(Run::new().says_of_flow(FlowTotal { unanswered: 2, ..dead }).is_empty());
}

/// What the one that had that number before lost is not the next one's.
#[test]
fn a_namespace_whose_number_is_given_again_begins_anew() {
    for is_renewed in [false, true] {
        let of = |fast| FlowTotal { fast, resent: fast, sent: 100, ..FlowTotal::default() };
        let mut run = Run::new();
        assert!(run.says_of_flow(of(9)).is_empty());
        run.is_renewed = is_renewed;
        assert_eq!(run.says_of_flow(of(10)).is_empty(), is_renewed);
    }
}

#[test]
fn needless_ones_are_reordering() {
    let some = |fast| FlowTotal { fast, resent: fast, sent: 1000, dsacks: fast, ..FlowTotal::default() };
    assert_eq!(Run::new().says_of_flow(some(5)), ["net.reordering"]);
    assert!(Run::new().says_of_flow(some(4)).is_empty(), "the sender adapts by itself");
    let needless = FlowTotal { fast: 20, resent: 20, sent: 1000, dsacks: 18, ..FlowTotal::default() };
    assert_eq!(Run::new().says_of_flow(needless.clone()), ["net.reordering"]);
    // Probes are answered by DSACKs as well, and are no reordering.
    let probes = FlowTotal { probes: 9, ..needless.clone() };
    assert_eq!(Run::new().says_of_flow(probes), ["net.retransmits"]);
    let late = FlowTotal { timeouts: 9, ..needless.clone() };
    assert_eq!(Run::new().says_of_flow(late), ["net.retransmits"]);
    // Of lost buffers of many segments a few come twice: that is no reordering.
    let large = FlowTotal { fast: 1951, resent: 8125, sent: 195_963, dsacks: 1982, ..FlowTotal::default() };
    assert_eq!(Run::new().says_of_flow(large), ["net.retransmits"]);
    // Half of it was lost: that is known when the peer had the time to say what was not.
    let both =
        |second: u64| FlowTotal { fast: 40 * second, resent: 40 * second, dsacks: 20 * second, ..needless.clone() };
    let mut run = Run::new();
    let said: BTreeSet<_> = (1..=4).flat_map(|second| run.says_of_flow(both(second))).collect();
    assert_eq!(said, ["net.reordering", "net.retransmits"].into());
}

/// What was sent again last, the peer has yet to call needless.
#[test]
fn needless_ones_are_no_loss_before_the_peer_said_so() {
    let mut run = Run::new();
    let all = |second: u64, missing: u64| FlowTotal {
        fast: 100 * second,
        resent: 100 * second,
        sent: 1000,
        dsacks: 100 * second - missing,
        ..FlowTotal::default()
    };
    for second in 1..=4 {
        let said = run.says_of_flow(all(second, 30));
        assert!(!said.contains(&"net.retransmits"), "second {second}: {said:?}");
        assert_eq!(second == 1, said.contains(&"net.reordering"), "{said:?}");
    }
}

#[test]
fn the_command_names_the_pair() {
    let mut run = Run::new();
    let key = FlowKey { cgroup: WEB_CGROUP, netns: NETNS, family: AF_INET, ..FlowKey::zeroed() };
    let flow = FlowTotal { fast: 20, resent: 20, sent: 1000, dsacks: 18, ..FlowTotal::default() };
    let rps = [(NETNS, Rps { device: "veth1".to_owned(), cpus: "0".to_owned() })].into_iter().collect();
    let found = run.says(Reading { flows: vec![(key, flow)], rps, ..Reading::default() });
    let command = "for q in /sys/class/net/veth1/queues/rx-*; do echo 3 > $q/rps_cpus; done";
    assert!(found[0].fix[0].contains(command), "{:?}", found[0].fix);
    // Where it is on already it does not help.
    let flow = FlowTotal { fast: 20, resent: 20, sent: 1000, dsacks: 18, ..FlowTotal::default() };
    let rps = [(NETNS, Rps { device: "veth1".to_owned(), cpus: "3".to_owned() })].into_iter().collect();
    let found = Run::new().says(Reading { flows: vec![(key, flow)], rps, ..Reading::default() });
    assert!(found[0].fix[0].contains("RPS is on at veth1"), "{:?}", found[0].fix);
}

/// Without any IPv6 address a connect to one fails for want of a source: programs go on with IPv4. And paths of AF_UNIX
/// are no ports.
#[test]
fn what_is_tried_first_is_not_told() {
    let ipv6 = RefusalKey { family: AF_INET6, address: [0x20; 16], ..refusal(CONNECT_CALL, 99) };
    assert!(Run::new().says_of_refusal(ipv6).is_empty());
    let unix = RefusalKey { family: 1, ..refusal(BIND_CALL, 98) };
    assert!(Run::new().says_of_refusal(unix).is_empty());
}

#[test]
fn refusals_have_reasons() {
    for (kind, errno, reason) in [
        (ATTEMPT, 111, "refused"),
        (ATTEMPT, 110, "timed-out"),
        (ATTEMPT, 0, "timed-out"),
        (WAITING, 0, "timed-out"),
        (ATTEMPT, 113, "no-route"),
        (CONNECT_CALL, 101, "no-route"),
        (CONNECT_CALL, 100, "no-route"),
        (CONNECT_CALL, 99, "no-local-port"),
        (BIND_CALL, 99, "no-such-address"),
        (BIND_CALL, 98, "port-in-use"),
    ] {
        let found = Run::new().says_of_refusal(refusal(kind, errno));
        assert_eq!(found[0].evidence["reason"], reason, "{kind} {errno}");
        assert_eq!(found[0].container.as_ref().map(|web| web.cgroup.as_str()), Some(WEB));
    }
    // Closed by its own program, and IPv6 where there is none.
    assert!(Run::new().says_of_refusal(refusal(ATTEMPT, 104)).is_empty());
    let v6 = RefusalKey { family: AF_INET6, address: [0x20; 16], ..refusal(CONNECT_CALL, 101) };
    assert!(Run::new().says_of_refusal(v6).is_empty());
    let v4_in_v6 = RefusalKey { address: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 9], ..v6 };
    assert_eq!(Run::new().says_of_refusal(v4_in_v6)[0].evidence["reason"], "no-route");
    // No port is meant, and none was asked for.
    assert!(Run::new().says_of_refusal(RefusalKey { port: 0, ..refusal(CONNECT_CALL, 99) }).is_empty());
    assert!(Run::new().says_of_refusal(refusal(ATTEMPT, 98)).is_empty());
}

#[test]
fn queues_count_from_the_first_reading_on() {
    let full = |overflows: u64| Reading {
        queues: [(NETNS, Queues { accept_overflows: Some(overflows), ..Queues::default() })].into_iter().collect(),
        ..Reading::default()
    };
    let mut run = Run::new();
    assert!(run.says(full(70)).is_empty());
    assert!(run.says(full(70)).is_empty());
    let found = run.says(full(72));
    assert_eq!((&found[0].evidence["reason"], &found[0].evidence["count"]), (&"accept-queue-full".into(), &2.into()));
}

#[test]
fn a_backlog_of_syns_and_a_table_of_connections() {
    let mut run = Run::new();
    let mut found = |syns, conntrack, entries| {
        let queues = Queues {
            syn_drops: Some(syns),
            conntrack_drops: Some(conntrack),
            conntrack_entries: Some(entries),
            conntrack_max: Some(100),
            ..Queues::default()
        };
        let found = run.says(Reading { queues: [(NETNS, queues)].into_iter().collect(), ..Reading::default() });
        let told = found.iter().map(|finding| (finding.evidence["reason"].clone(), finding.evidence["count"].clone()));
        told.collect::<Vec<_>>()
    };
    assert_eq!(found(7, 7, 100), []);
    assert_eq!(found(9, 7, 100), [("syn-queue-full".into(), 2.into())]);
    // Two packets of one new connection met: one of them is counted as dropped.
    assert_eq!(found(9, 9, 89), []);
    assert_eq!(found(9, 10, 90), [("conntrack-full".into(), 3.into())]);
}

/// Between two SYNs of one attempt there is up to a minute in which nothing is counted.
#[test]
fn an_attempt_that_waits_is_not_over() {
    let mut run = Run::new();
    let key = refusal(WAITING, 0);
    let syns = |count, waiting| Reading {
        refusals: vec![(key, RefusalTotal { count, ..RefusalTotal::default() })],
        waiting: vec![(key, waiting)],
        ..Reading::default()
    };
    let opened = run.says(syns(1, 1));
    assert_eq!((opened[0].state, &opened[0].evidence["waiting"]), (Some(State::Open), &1.into()));
    for second in 0..60 {
        assert_eq!(run.says(syns(1, 1)), [], "{second} s later");
    }
    let states: Vec<_> = (0..10).flat_map(|_| run.says(Reading { waiting: Vec::new(), ..syns(1, 0) })).collect();
    assert_eq!(states.iter().map(|finding| finding.state).collect::<Vec<_>>(), [Some(State::Closed)]);
}

/// A call does not say its namespace, and the end of a connection does: both are of one container. And of one attempt, where the
/// call waited for its end.
#[test]
fn calls_and_connections_are_one_condition() {
    let call = RefusalKey { cgroup: WEB_CGROUP, netns: 0, ..refusal(CONNECT_CALL, 113) };
    let other = RefusalKey { port: 81, ..call };
    let no_route = |counts: &[(RefusalKey, u64)]| {
        let total = |count| RefusalTotal { count, ..RefusalTotal::default() };
        let refusals = counts.iter().map(|(key, count)| (*key, total(*count))).collect();
        let found = Run::new().says(Reading { refusals, ..Reading::default() });
        let [finding] = &found[..] else { panic!("{found:?}") };
        assert_eq!(finding.evidence["reason"], "no-route");
        finding.evidence["count"].as_u64().zip(finding.evidence["peers"][0]["count"].as_u64())
    };
    assert_eq!(no_route(&[(refusal(ATTEMPT, 113), 3), (call, 3)]), Some((3, 3)));
    assert_eq!(no_route(&[(refusal(ATTEMPT, 113), 5), (call, 3)]), Some((5, 5)), "two did not wait");
    assert_eq!(no_route(&[(call, 3)]), Some((3, 3)), "no attempt came of it");
    assert_eq!(no_route(&[(refusal(ATTEMPT, 113), 3), (other, 3)]), Some((6, 3)), "another port's");
    assert_eq!(no_route(&[(refusal(ATTEMPT, 113), 3), (RefusalKey { errno: 101, ..call }, 3)]), Some((6, 6)));
}

/// On v1 a socket's cgroup is an id of the default hierarchy, which may be any container's: the namespace says whose it is, and
/// who else may be meant.
#[test]
fn a_socket_is_its_namespaces_on_v1() {
    let said = |version| {
        let mut run = Run { residents: &[WEB, OTHER], ..Run::new() };
        run.host.facts.cgroup_version = version;
        let key = FlowKey { cgroup: WEB_CGROUP, netns: NETNS, family: AF_INET, ..FlowKey::zeroed() };
        let lossy = FlowTotal { fast: 10, resent: 10, sent: 100, ..FlowTotal::default() };
        let found = run.says(Reading { flows: vec![(key, lossy)], ..Reading::default() });
        let shared = found[0].evidence["shared_with"].as_array().map(Vec::len);
        (found[0].container.as_ref().map(|own| own.cgroup.clone()), shared)
    };
    assert_eq!(said(2), (Some(WEB.to_owned()), Some(0)));
    assert_eq!(said(1), (Some(OTHER.to_owned()), Some(1)), "the first of both");
}

/// Whom most is sent again need not be who is silent.
#[test]
fn who_is_silent_is_named() {
    let to = |last: u8| {
        let mut key = FlowKey { cgroup: WEB_CGROUP, netns: NETNS, family: AF_INET, ..FlowKey::zeroed() };
        key.remote[..4].copy_from_slice(&[10, 0, 0, last]);
        key
    };
    let lossy = FlowTotal { fast: 5, resent: 5, sent: 5000, ..FlowTotal::default() };
    let silent = FlowTotal { timeouts: 3, resent: 3, sent: 10, unanswered: 3, ..FlowTotal::default() };
    let found = Run::new().says(Reading { flows: vec![(to(1), lossy), (to(2), silent)], ..Reading::default() });
    assert_eq!(found[0].summary, "no answer to 10.0.0.2: 3 timeouts in a row");
    assert!(found[0].fix[1].contains("10.0.0.2"), "{:?}", found[0].fix);
}

#[test]
fn connections_that_were_forgotten_are_a_loss() {
    let of = |ports: std::ops::Range<u16>| {
        let flow = FlowTotal { fast: 1, resent: 1, sent: 1000, ..FlowTotal::default() };
        let flows = ports.map(|local_port| (FlowKey { local_port, netns: NETNS, ..FlowKey::zeroed() }, flow.clone()));
        Reading { flows: flows.collect(), ..Reading::default() }
    };
    let mut run = Run::new();
    assert_eq!(run.loses(of(0..3)), []);
    assert_eq!(run.loses(of(0..5)), []);
    assert_eq!(run.loses(of(2..6)), [("tcp_flow", 2)]);
    assert_eq!(run.loses(of(2..6)), []);
}

const SERVER: ServerKey = ServerKey {
    cgroup: WEB_CGROUP,
    server: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 53],
    netns: NETNS,
    reserved: 0,
};

fn dns(totals: &[(ServerKey, [u64; 3])]) -> Reading {
    let total =
        |[queries, answers, unanswered]: [u64; 3]| DnsTotal { queries, answers, unanswered, ..DnsTotal::default() };
    Reading { dns: totals.iter().map(|(key, numbers)| (*key, total(*numbers))).collect(), ..Reading::default() }
}

#[test]
fn names_without_an_answer() {
    let mut run = Run::new();
    assert_eq!(run.says(dns(&[(SERVER, [2, 0, 0])])), [], "both may still come");
    for _ in 0..4 {
        assert_eq!(run.says(dns(&[(SERVER, [2, 0, 0])])), []);
    }
    let found = run.says(dns(&[(SERVER, [2, 0, 2])]));
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!((finding.code.0, finding.state), ("net.refused", Some(State::Open)));
    assert_eq!(finding.container.as_ref().map(|web| web.cgroup.as_str()), Some(WEB));
    assert_eq!((&finding.evidence["reason"], &finding.evidence["count"]), (&"dns-timeout".into(), &2.into()));
    assert_eq!(finding.evidence["peers"][0]["address"], "10.0.0.53");
    assert_eq!(finding.summary, "2 DNS queries to 10.0.0.53 got no answer within 5.0 s");
    assert!(finding.why.contains("down or not there"), "{}", finding.why);
    let closed: Vec<_> = (0..12).flat_map(|_| run.says(dns(&[(SERVER, [2, 0, 2])]))).collect();
    assert_eq!(closed.iter().map(|finding| finding.state).collect::<Vec<_>>(), [Some(State::Closed)]);
}

#[test]
fn answered_names_are_no_finding() {
    let mut run = Run::new();
    for second in 0..10 {
        assert_eq!(run.says(dns(&[(SERVER, [second * 9, second * 9 - second.min(1), 0])])), []);
    }
    // Nobody is there any more to hear the answer.
    let gone = ServerKey { cgroup: u64::MAX, netns: NETNS + 1, ..SERVER };
    assert_eq!(Run::new().says(dns(&[(gone, [2, 0, 2])])), []);
    // Its cgroup is remembered, and its namespace has nobody.
    let ended = ServerKey { netns: NETNS + 1, ..SERVER };
    assert_eq!(Run::new().says(dns(&[(ended, [2, 0, 2])])), []);
    // No container is in that namespace.
    let mut hosts = Run { residents: &["/"], ..Run::new() };
    assert_eq!(hosts.says(dns(&[(ServerKey { cgroup: u64::MAX, ..SERVER }, [2, 0, 2])])), []);
    // A macvlan device: nothing is seen to arrive but on lo.
    for passed in [HopKey { ifindex: 1, ..arrives(NETNS) }, HopKey { direction: XMIT, ..arrives(NETNS) }] {
        let mut deaf = Run { passed, ..Run::new() };
        assert_eq!(deaf.says(dns(&[(SERVER, [2, 0, 2])])), [], "{passed:?}");
    }
}

#[test]
fn a_server_that_answers_others_is_alive() {
    let dead = ServerKey { server: [0x20; 16], ..SERVER };
    let found = Run::new().says(dns(&[(SERVER, [9, 8, 1]), (dead, [5, 0, 5])]));
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!(finding.evidence["count"], 6);
    assert_eq!(finding.evidence["peers"][0]["count"], 5, "the worst first");
    assert!(finding.why.contains("conntrack"), "{}", finding.why);
}

/// A container on a network device whose buffers hold only headers: its answers come, and cannot be told.
#[test]
fn what_may_have_been_an_answer_is_no_missing_one() {
    let unread = |key: ServerKey, unreadable| (key, DnsTotal { unreadable, ..DnsTotal::default() });
    let asked = (SERVER, DnsTotal { queries: 2, unanswered: 2, ..DnsTotal::default() });
    let of = |more: (ServerKey, DnsTotal)| Reading { dns: vec![asked.clone(), more], ..Reading::default() };
    let answers = ServerKey { cgroup: u64::MAX, ..SERVER };
    assert_eq!(Run::new().says(of(unread(answers, 2))), []);
    assert_eq!(Run::new().says(of(unread(answers, 0))).len(), 1, "none of them was unreadable");
    let another = ServerKey { server: [0x20; 16], ..answers };
    assert_eq!(Run::new().says(of(unread(another, 2))).len(), 1, "another server");
    assert_eq!(Run::new().loses(of(unread(answers, 2))), [("dns_query", 2)]);
}

/// As many as there is room for are followed; the others are counted.
#[test]
fn attempts_without_room_are_a_loss() {
    let syns = |lost| {
        let total = RefusalTotal { count: 2000, lost, who: None };
        Reading { refusals: vec![(refusal(WAITING, 0), total)], ..Reading::default() }
    };
    let mut run = Run::new();
    assert_eq!(run.loses(syns(0)), []);
    let more = |lost, count| Reading {
        refusals: vec![(refusal(WAITING, 0), RefusalTotal { count, lost, who: None })],
        ..Reading::default()
    };
    assert_eq!(run.loses(more(7, 2010)), [("syn_waiter", 7)]);
    assert_eq!(run.loses(more(7, 2010)), []);
}

/// Who asks whom is no more known of servers that were asked longest ago.
#[test]
fn servers_that_were_forgotten_are_a_loss() {
    let of = |servers: std::ops::Range<u8>| {
        let dns = servers.map(|last| (ServerKey { server: [last; 16], ..SERVER }, [1, 1, 0]));
        dns.collect::<Vec<_>>()
    };
    let mut run = Run::new();
    assert_eq!(run.loses(dns(&of(0..3))), []);
    assert_eq!(run.loses(dns(&of(2..4))), [("dns_server", 2)]);
}

#[test]
fn queries_without_room_are_a_loss() {
    let with = |lost| {
        let total = DnsTotal { queries: 5000 + lost, answers: 900, lost, ..DnsTotal::default() };
        Reading { dns: vec![(SERVER, total)], ..Reading::default() }
    };
    let mut run = Run::new();
    assert_eq!(run.loses(with(0)), []);
    assert_eq!(run.loses(with(7)), [("dns_query", 7)]);
    assert_eq!(run.loses(with(7)), []);
    assert_eq!(run.loses(with(9)), [("dns_query", 2)]);
}
