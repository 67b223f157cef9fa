//! What the net lens reads of DNS: who asks whom, and which queries waited too long for an answer.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use tracer_common::dns::{IN_TIME_NS, Query, QueryKey, Server, ServerKey};

use crate::{
    findings::net::tcp::DnsTotal,
    kernel::{host, load::Kernel, plan},
    lenses::net::{DNS_QUERIES, DNS_SERVERS, LENS},
};

/// What was read before.
#[derive(Debug, Default)]
pub struct Reader {
    /// Queries that were given up.
    given_up: BTreeMap<ServerKey, u64>,
}

impl Reader {
    /// Takes out of the kernel side's table what waits no longer: so there is room, and an answer that comes later is none.
    pub fn read(&mut self, kernel: &mut Kernel) -> Result<Vec<(ServerKey, DnsTotal)>> {
        if !kernel.attached(&plan::PACKET_RECEIVED) {
            return Ok(Vec::new()); // no answer is seen: none is missing
        }
        // While nobody listens, answers come unseen.
        let most = if kernel.is_idle(LENS.on_demand) { 0 } else { DNS_QUERIES as usize };
        // Two readings of one entry, while others come and go, are one.
        let waiting: BTreeMap<QueryKey, Query> = kernel.entries("DNS_QUERIES", most)?.into_iter().collect();
        let now_ns = host::boottime_ns();
        let mut fresh = BTreeSet::new();
        for (key, query) in waiting.into_iter().filter(|(_, query)| is_over(query, now_ns)) {
            if !kernel.remove::<QueryKey, Query>("DNS_QUERIES", key)? {
                continue; // answered just now, and counted there
            }
            let asked = ServerKey { cgroup: query.cgroup, server: key.server, netns: key.netns, reserved: 0 };
            *self.given_up.entry(asked).or_default() += 1;
            fresh.insert(asked);
        }
        let mut servers: BTreeMap<ServerKey, Server> = BTreeMap::new();
        for (key, values) in kernel.entries_per_cpu::<ServerKey, Server>("DNS_SERVERS", DNS_SERVERS as usize)? {
            servers.insert(key, values.iter().fold(Server::default(), |sum, own| plus(&sum, own)));
        }
        // The kernel side may have had to forget who was asked: it was in vain all the same.
        for key in &fresh {
            let forgotten = Server { queries: self.given_up.get(key).copied().unwrap_or(0), ..Server::default() };
            servers.entry(*key).or_insert(forgotten);
        }
        self.given_up.retain(|key, _| servers.contains_key(key));
        Ok(servers.into_iter().map(|(key, server)| (key, self.total(&key, &server))).collect())
    }

    fn total(&self, key: &ServerKey, server: &Server) -> DnsTotal {
        let given_up = self.given_up.get(key).copied().unwrap_or(0);
        DnsTotal {
            queries: server.queries,
            answers: server.answers,
            unanswered: server.late.saturating_add(given_up),
            lost: server.lost,
            unreadable: server.unreadable,
        }
    }
}

/// A resolver asks again when the time is up: that is the same query still, and the next moment shows whether it does.
const GIVE_UP_NS: u64 = IN_TIME_NS + 1_000_000_000;

fn is_over(query: &Query, now_ns: u64) -> bool {
    now_ns.saturating_sub(query.sent_ns) >= GIVE_UP_NS
}

fn plus(a: &Server, b: &Server) -> Server {
    Server {
        queries: a.queries.saturating_add(b.queries),
        answers: a.answers.saturating_add(b.answers),
        late: a.late.saturating_add(b.late),
        lost: a.lost.saturating_add(b.lost),
        unreadable: a.unreadable.saturating_add(b.unreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_ask_again_after_five_seconds_has_given_up() {
        let query = Query { cgroup: 1, sent_ns: 7 };
        assert!(is_over(&query, 7 + GIVE_UP_NS));
        assert!(!is_over(&query, 6 + GIVE_UP_NS));
        assert!(!is_over(&query, 7 + IN_TIME_NS), "that is when it asks again");
        assert!(!is_over(&query, 0), "sent after the clock was read");
    }

    #[test]
    fn late_and_given_up_are_unanswered() {
        let key = ServerKey { cgroup: 1, server: [0; 16], netns: 2, reserved: 0 };
        let reader = Reader { given_up: [(key, 2)].into() };
        let server = Server { queries: 9, answers: 5, late: 1, lost: 1, unreadable: 4 };
        let total = DnsTotal { queries: 9, answers: 5, unanswered: 3, lost: 1, unreadable: 4 };
        assert_eq!(reader.total(&key, &server), total);
        assert_eq!(reader.total(&ServerKey { netns: 3, ..key }, &server).unanswered, 1, "another's");
    }
}
