//! What TCP sends again and why, and what the network refuses.

mod dns;
mod explain;
mod queues;
pub mod reading;
mod refused;
mod resent;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use tracer_common::{
    dns::ServerKey,
    tcp::{AF_INET, FlowKey, RefusalKey},
};

pub use explain::EXPLAINED;
pub use reading::{DnsTotal, FlowTotal, Queue, Queues, Reading, RefusalTotal, Rps};

use super::TABLE_FULL;
use crate::{
    findings::{net::Seen, state::Conditions, window::Window},
    model::{Finding, Owner},
};

/// What came within the last two seconds; of DNS five.
#[derive(Debug)]
pub struct Rule {
    flows: Window<FlowKey, FlowTotal>,
    /// The same for longer: of what came in another order it takes a while until the peer has said so.
    settling: Window<FlowKey, FlowTotal>,
    refusals: Window<RefusalKey, RefusalTotal>,
    queues: Window<Queue, u64>,
    dns: Window<ServerKey, DnsTotal>,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            flows: Window::default(),
            settling: Window::lasting(resent::SETTLING_NS),
            refusals: Window::default(),
            queues: Window::default(),
            dns: Window::lasting(dns::WINDOW_NS),
        }
    }
}

/// Whose something is: a cgroup's path, `host`, or a namespace of nobody that is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    name: String,
    netns: Option<u32>,
}

/// By the socket's cgroup, which on v1 says nothing; else by its network namespace. Where several share that, the first is
/// meant, by its cgroup.
fn whose(seen: &Seen, cgroup: u64, netns: u32) -> (Subject, Owner) {
    let known = Some(netns).filter(|netns| *netns != 0);
    // Of a socket: an id of the default hierarchy, which means nothing in v1's.
    let cgroup = if known.is_some() && seen.world.host.cgroup_version != 2 { u64::MAX } else { cgroup };
    if let Some(container) = seen.world.containers.owner(cgroup).or_else(|| seen.owner(netns)) {
        return (Subject { name: container.cgroup.clone(), netns: known }, Some(container));
    }
    let path = seen.world.containers.path(cgroup).filter(|path| &***path != "/");
    let name = match known.filter(|netns| Some(*netns) != seen.counts.host) {
        Some(netns) => format!("netns {netns}"),
        None => path.map_or_else(|| "host".to_owned(), ToString::to_string),
    };
    (Subject { name, netns: known }, None)
}

/// Others that are in that namespace, where they may be meant as well.
fn sharers(seen: &Seen, subject: &Subject, owner: &Owner) -> Vec<String> {
    if seen.world.host.cgroup_version == 2 {
        return Vec::new(); // a socket's cgroup is told there
    }
    let owners = subject.netns.and_then(|netns| seen.owners.get(&netns));
    let others = owners.into_iter().flatten().flatten().filter(|other| Some(*other) != owner.as_ref());
    others.map(|other| other.label()).collect()
}

impl Rule {
    pub(super) fn judge(&mut self, seen: &Seen, conditions: &mut Conditions) -> Vec<Finding> {
        let (at_ns, reading) = (seen.counts.at_ns, &seen.counts.tcp);
        self.flows.take_in(seen.world, at_ns, &reading.flows);
        self.settling.take_in(seen.world, at_ns, &reading.flows);
        self.refusals.take_in(seen.world, at_ns, &reading.refusals);
        self.queues.take_grown(at_ns, &reading.queue_counts());
        self.dns.take_in(seen.world, at_ns, &reading.dns);
        let mut findings = resent::judge((&self.flows, &self.settling), seen, conditions);
        findings.extend(refused::judge(&self.refusals, seen, conditions));
        findings.extend(queues::judge(&self.queues, seen, conditions));
        findings.extend(dns::judge(&self.dns, seen, conditions));
        findings
    }

    /// What came of late of namespaces whose number another one has now. The kernel side's sums go on.
    pub(super) fn forget(&mut self, renewed: &BTreeSet<u32>) {
        self.flows.forget(|key| renewed.contains(&key.netns));
        self.settling.forget(|key| renewed.contains(&key.netns));
        self.refusals.forget(|key| renewed.contains(&key.netns));
        self.queues.forget(|queue| renewed.contains(&queue.netns));
        self.dns.forget(|key| renewed.contains(&key.netns));
    }

    /// What the kernel side had no room for since this was last asked: of what, how many, and what is not known therefore.
    pub(super) fn lost(&mut self) -> [(&'static str, u64, &'static str); 6] {
        [
            ("tcp_flow", self.flows.forgotten(), TABLE_FULL),
            ("net_refusal", self.refusals.forgotten(), TABLE_FULL),
            ("syn_waiter", self.refusals.newest(|total| total.lost), "too many waited for a connection at once"),
            ("dns_query", self.dns.newest(|total| total.lost), "too many waited for an answer at once"),
            ("dns_query", self.dns.newest(|total| total.unreadable), "its text is where the kernel side cannot read"),
            ("dns_server", self.dns.forgotten(), TABLE_FULL),
        ]
    }
}

/// What there is to say where one of them is over.
pub fn over(code: &str) -> Option<&'static str> {
    match code {
        "net.retransmits" => {
            Some("nothing was sent again for a while: acknowledged, given up, or the next try is not due yet")
        }
        "net.reordering" => Some("nothing is sent again for want of order any more"),
        "net.refused" => Some("nothing was refused for a while, and nobody waits for an answer that is late"),
        _ => None,
    }
}

/// Of a socket.
fn address_of(family: u16, bytes: &[u8; 16]) -> IpAddr {
    if family == AF_INET { IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]) } else { address(bytes) }
}

fn address(bytes: &[u8; 16]) -> IpAddr {
    IpAddr::from(Ipv6Addr::from(*bytes)).to_canonical()
}
