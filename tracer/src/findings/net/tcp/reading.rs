//! What was read of TCP: the kernel side's sums, and what namespaces have no room for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tracer_common::{
    dns::ServerKey,
    tcp::{FlowKey, RefusalKey},
};

use crate::{findings::window::Total, model::Process};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reading {
    /// Since attach.
    pub flows: Vec<(FlowKey, FlowTotal)>,
    pub refusals: Vec<(RefusalKey, RefusalTotal)>,
    /// Connection attempts that wait for an answer now, by what their repeated SYNs are counted as.
    #[serde(default)]
    pub waiting: Vec<(RefusalKey, u64)>,
    #[serde(default)]
    pub dns: Vec<(ServerKey, DnsTotal)>,
    /// Of each namespace.
    pub queues: BTreeMap<u32, Queues>,
    /// Of the namespaces with connections here.
    pub rps: BTreeMap<u32, Rps>,
}

/// Retransmissions of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTotal {
    pub fast: u64,
    pub timeouts: u64,
    pub probes: u64,
    /// Segments.
    pub sent: u64,
    pub resent: u64,
    /// Segments that the peer says came twice.
    pub dsacks: u64,
    pub reorderings: u64,
    pub degree: u64,
    pub unanswered: u64,
    pub rtt_ns: u64,
}

impl FlowTotal {
    pub fn retransmits(&self) -> u64 {
        self.fast.saturating_add(self.timeouts).saturating_add(self.probes)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalTotal {
    pub count: u64,
    /// SYNs that were sent again, of attempts that there was no room to follow.
    #[serde(default)]
    pub lost: u64,
    pub who: Option<Process>,
}

/// Queries over UDP to one server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsTotal {
    pub queries: u64,
    /// In time, whatever they say.
    pub answers: u64,
    /// No answer came in time.
    pub unanswered: u64,
    /// There was no room to wait for their answers.
    pub lost: u64,
    /// Their text could not be read; in a row of no cgroup: of answers.
    #[serde(default)]
    pub unreadable: u64,
}

/// One of the counts of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queue {
    pub netns: u32,
    pub what: &'static str,
}

pub const ACCEPT_QUEUE: &str = "accept-queue-full";
pub const SYN_QUEUE: &str = "syn-queue-full";
pub const CONNTRACK: &str = "conntrack-full";

/// What a namespace has no more room for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queues {
    /// Connections that no room was left for in a listener's queue (`ListenOverflows`).
    pub accept_overflows: Option<u64>,
    /// SYNs that were dropped because too many were open (`TCPReqQFullDrop`), or answered by a cookie.
    pub syn_drops: Option<u64>,
    pub syn_cookies: Option<u64>,
    /// Packets of connections that the table of connections had no room for.
    pub conntrack_drops: Option<u64>,
    pub conntrack_entries: Option<u64>,
    /// Of the whole kernel.
    pub conntrack_max: Option<u64>,
    /// Listeners with connections that wait to be accepted: port, and how many; read where there were overflows.
    pub listeners: Vec<(u16, u64)>,
}

/// How the host's end of a container's pair spreads packets over CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rps {
    pub device: String,
    /// The mask of its first receive queue; zeros: off.
    pub cpus: String,
}

impl Reading {
    pub fn queue_counts(&self) -> Vec<(Queue, u64)> {
        let of = |(netns, queues): (&u32, &Queues)| {
            let counts = [
                (ACCEPT_QUEUE, queues.accept_overflows),
                (SYN_QUEUE, queues.syn_drops),
                (CONNTRACK, queues.conntrack_drops),
            ];
            let netns = *netns;
            counts.map(|(what, count)| (Queue { netns, what }, count))
        };
        self.queues.iter().flat_map(of).filter_map(|(queue, count)| Some((queue, count?))).collect()
    }
}

impl Total for FlowTotal {
    /// What the peer reports after the last of them counts as well.
    fn count(&self) -> u64 {
        self.retransmits().saturating_add(self.dsacks)
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            fast: self.fast.saturating_sub(before.fast),
            timeouts: self.timeouts.saturating_sub(before.timeouts),
            probes: self.probes.saturating_sub(before.probes),
            sent: self.sent.saturating_sub(before.sent),
            resent: self.resent.saturating_sub(before.resent),
            dsacks: self.dsacks.saturating_sub(before.dsacks),
            reorderings: self.reorderings.saturating_sub(before.reorderings),
            ..self.clone()
        }
    }

    fn add(&mut self, more: &Self) {
        self.fast = self.fast.saturating_add(more.fast);
        self.timeouts = self.timeouts.saturating_add(more.timeouts);
        self.probes = self.probes.saturating_add(more.probes);
        self.sent = self.sent.saturating_add(more.sent);
        self.resent = self.resent.saturating_add(more.resent);
        self.dsacks = self.dsacks.saturating_add(more.dsacks);
        self.reorderings = self.reorderings.saturating_add(more.reorderings);
        self.degree = self.degree.max(more.degree);
        self.unanswered = self.unanswered.max(more.unanswered);
        self.rtt_ns = self.rtt_ns.max(more.rtt_ns);
    }
}

impl Total for RefusalTotal {
    fn count(&self) -> u64 {
        self.count
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            count: self.count.saturating_sub(before.count),
            lost: self.lost.saturating_sub(before.lost),
            who: self.who.clone(),
        }
    }

    fn add(&mut self, more: &Self) {
        self.count = self.count.saturating_add(more.count);
        self.lost = self.lost.saturating_add(more.lost);
        if self.who.is_none() {
            self.who.clone_from(&more.who);
        }
    }
}

impl Total for DnsTotal {
    /// Each of them may grow alone.
    fn count(&self) -> u64 {
        self.queries.saturating_add(self.answers).saturating_add(self.unanswered).saturating_add(self.unreadable)
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            queries: self.queries.saturating_sub(before.queries),
            answers: self.answers.saturating_sub(before.answers),
            unanswered: self.unanswered.saturating_sub(before.unanswered),
            lost: self.lost.saturating_sub(before.lost),
            unreadable: self.unreadable.saturating_sub(before.unreadable),
        }
    }

    fn add(&mut self, more: &Self) {
        self.queries = self.queries.saturating_add(more.queries);
        self.answers = self.answers.saturating_add(more.answers);
        self.unanswered = self.unanswered.saturating_add(more.unanswered);
        self.lost = self.lost.saturating_add(more.lost);
        self.unreadable = self.unreadable.saturating_add(more.unreadable);
    }
}

impl Total for u64 {
    fn count(&self) -> u64 {
        *self
    }

    fn since(&self, before: &Self) -> Self {
        self.saturating_sub(*before)
    }

    fn add(&mut self, more: &Self) {
        *self = self.saturating_add(*more);
    }
}
