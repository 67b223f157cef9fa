//! `pids.limit` without a cgroup: forks that the user's RLIMIT_NPROC, the pid namespace's or the host's limit refused.
//! The kernel says EAGAIN and not why: which limit it was is inferred from the numbers a moment later.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use tracer_common::pids::ForkFailed;

use super::reading::{Asker, Counts};
use crate::{
    events::{known, process},
    findings::{
        World,
        numbers::{Numbers, grow},
    },
    model::{Code, Finding, ProcessIn, Severity, State},
};

/// An update comes at most once a second.
const UPDATE_NS: u64 = 900_000_000;
/// Without a refusal for this long it is over.
const OVER_NS: u64 = 10_000_000_000;
/// Ids below are not given out again (RESERVED_PIDS, kernel/pid.c).
const RESERVED: u64 = 300;
/// A limit that was reached a moment ago may have room again: it counts from this part of it on.
const NEARLY: f64 = 0.9;

/// By the pids cgroup of those who asked.
#[derive(Debug, Default)]
pub struct HostLimits {
    /// What the kernel side had counted when it was last heard of.
    counted: HashMap<u64, u64>,
    pending: BTreeMap<u64, Open>,
    /// At no limit a moment later: perhaps a cgroup's, which has room again. The next counts tell.
    unexplained: BTreeMap<u64, Open>,
    open: BTreeMap<u64, Open>,
    /// The counts were read before.
    read: bool,
    told: u64,
}

#[derive(Debug)]
struct Open {
    id: String,
    refused: u64,
    said: u64,
    said_ns: u64,
    time_ns: u64,
    last: ForkFailed,
    limit: Option<Reached>,
}

/// The limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    pub what: &'static str,
    pub limit: u64,
    pub current: u64,
}

impl HostLimits {
    /// Takes a record in. True: who asked is to be looked at, before it is gone.
    pub fn failed(&mut self, record: &ForkFailed) -> bool {
        // The kernel side had to forget the cgroup, and begins anew.
        if record.count == 1 {
            self.counted.remove(&record.from);
        }
        let times = self.more(record.from, record.count);
        let at = record.header.time_ns;
        let known = self.open.get_mut(&record.from).or(self.pending.get_mut(&record.from));
        if let Some(open) = known.or(self.unexplained.get_mut(&record.from)) {
            grow(&mut open.refused, times);
            (open.time_ns, open.last) = (at, *record);
            return false;
        }
        let refused = times.max(1);
        let open = Open { id: String::new(), refused, said: 0, said_ns: 0, time_ns: at, last: *record, limit: None };
        self.pending.insert(record.from, open);
        true
    }

    /// How many that is more than was known of. A smaller count is one that a later one overtook.
    fn more(&mut self, from: u64, count: u64) -> u64 {
        let known = self.counted.entry(from).or_insert(0);
        let more = count.saturating_sub(*known);
        grow(known, more);
        more
    }

    /// Who asked was looked at.
    pub fn looked(&mut self, asker: &Asker, now_ns: u64, world: &World) -> Option<Finding> {
        let mut open = self.pending.remove(&asker.from)?;
        open.limit = limit(&open.last, asker);
        if open.limit.is_none() {
            self.unexplained.insert(asker.from, open);
            return None;
        }
        Some(self.tell(asker.from, open, now_ns, world))
    }

    fn tell(&mut self, from: u64, mut open: Open, now_ns: u64, world: &World) -> Finding {
        self.told += 1;
        open.id = format!("pids-limit-host-{}", self.told);
        (open.said, open.said_ns) = (open.refused, now_ns);
        let finding = open.finding(State::Open, world);
        self.open.insert(from, open);
        finding
    }

    /// The kernel side's counts were read: it sends one record in 100 ms. `is_full` says whether a level of a pids cgroup
    /// refuses forks, by what is known with these counts.
    pub fn counted(
        &mut self,
        counts: &Counts,
        is_full: impl Fn(u64) -> bool,
        now_ns: u64,
        world: &World,
    ) -> Vec<Finding> {
        let is_first = !std::mem::replace(&mut self.read, true);
        for (&from, &count) in &counts.failed {
            if is_first && world.host.began_later {
                self.more(from, count);
            }
            if !self.open.contains_key(&from) {
                continue; // its record is still to come, or what it counts is a cgroup's
            }
            let more = self.more(from, count);
            if let Some(open) = self.open.get_mut(&from).filter(|_| more > 0) {
                grow(&mut open.refused, more);
                open.time_ns = open.time_ns.max(counts.at_ns);
            }
        }
        let mut findings = Vec::new();
        for (from, open) in self.unexplained.extract_if(.., |_, open| open.time_ns <= counts.at_ns).collect::<Vec<_>>()
        {
            if !is_full(from) {
                findings.push(self.tell(from, open, now_ns, world));
            }
        }
        self.open.retain(|_, open| {
            let over = now_ns.saturating_sub(open.time_ns) >= OVER_NS;
            if over {
                findings.push(open.finding(State::Closed, world));
            } else if open.refused > open.said && now_ns.saturating_sub(open.said_ns) >= UPDATE_NS {
                (open.said, open.said_ns) = (open.refused, now_ns);
                findings.push(open.finding(State::Update, world));
            }
            !over
        });
        findings
    }
}

/// The one that was reached, in the order in which the kernel asks them (copy_process in kernel/fork.c); else `None`.
pub fn limit(record: &ForkFailed, asker: &Asker) -> Option<Reached> {
    let user = asker.nproc_limit.zip(asker.user_threads).filter(|_| asker.privileged == Some(false));
    let host = &asker.host;
    let own_max = known(record.pid_max).map(u64::from);
    // Bit 31 says that the namespace takes new ones.
    let own = known(record.pids).map(|pids| u64::from(pids & 0x7fff_ffff));
    let candidates = [
        ("RLIMIT_NPROC", user.map(|(limit, current)| (limit, current, limit))),
        ("kernel.threads-max", host.threads_max.zip(host.threads).map(|(limit, current)| (limit, current, limit))),
        ("kernel.pid_max", own_max.or(host.pid_max).zip(own).map(|(limit, current)| (limit, current, ids(limit)))),
        ("kernel.pid_max", host.pid_max.zip(host.threads).map(|(limit, current)| (limit, current, ids(limit)))),
    ];
    let used_to = |part: f64| {
        candidates.iter().find_map(|(what, numbers)| {
            let (limit, current, room) = (*numbers)?;
            (current as f64 >= room as f64 * part).then_some(Reached { what, limit, current })
        })
    };
    // What was counted a moment later may have fallen a little.
    used_to(1.0).or_else(|| used_to(NEARLY))
}

fn ids(pid_max: u64) -> u64 {
    pid_max.saturating_sub(RESERVED)
}

impl Open {
    fn finding(&self, state: State, world: &World) -> Finding {
        let key = self.last.header.cgroup;
        let container = world.containers.owner(key);
        let asker = process(&self.last.asker);
        let mut values = Numbers::default();
        let unread = "no limit that could be read was reached a moment later";
        values.put("what", self.limit.map(|limit| limit.what), unread);
        values.put("limit", self.limit.map(|limit| limit.limit), unread);
        values.put("current", self.limit.map(|limit| limit.current), unread);
        values.put("limiting_cgroup", None::<&str>, "no cgroup's: no level of the asker's is at its pids.max");
        values.set("whose", if self.is_users() { "user" } else { "host" });
        values.set("inferred", true);
        values.set("refused", self.refused);
        values.put("zombies", None::<u64>, "not counted for a limit that is no cgroup's");
        values.put("parent", None::<Value>, "not counted for a limit that is no cgroup's");
        values.set("asker", json!(ProcessIn { process: asker.clone(), container: container.clone() }));
        values.put("cgroup", world.containers.path(key), "it was gone before its path was read");
        Finding {
            code: Code("pids.limit"),
            severity: Severity::Critical,
            id: self.id.clone(),
            state: Some(state),
            time: world.at(if state == State::Open { self.time_ns } else { world.now_ns }),
            container,
            process: Some(asker),
            summary: self.summary(state),
            evidence: values.values,
            why: self.why(),
            fix: self.fix(),
            refers_to: None,
            unknown: values.unknown,
        }
    }

    fn is_users(&self) -> bool {
        self.limit.is_some_and(|limit| limit.what == "RLIMIT_NPROC")
    }

    fn uid(&self) -> String {
        process(&self.last.asker).uid.map_or_else(|| "its user".to_owned(), |uid| format!("uid {uid}"))
    }

    fn summary(&self, state: State) -> String {
        let asker = process(&self.last.asker);
        let refused = if self.refused == 1 { "a fork was".to_owned() } else { format!("{} forks were", self.refused) };
        let by = match self.limit {
            Some(Reached { what, limit, current }) if self.is_users() => {
                format!("{what} of {} is {limit}, and it has {current} threads", self.uid())
            }
            Some(Reached { what, limit, current }) => format!("{what} is {limit}, and {current} are in use"),
            None => "no cgroup's limit, and no other limit is at its end now".to_owned(),
        };
        if state == State::Closed {
            return format!("no fork was refused for 10 s; {} refused in all: {by}", self.refused);
        }
        format!("{refused} refused, last to {} (pid {}): {by}", asker.comm, asker.pid)
    }

    fn why(&self) -> String {
        let what = match self.limit.map(|limit| limit.what) {
            Some("RLIMIT_NPROC") => {
                "RLIMIT_NPROC bounds the threads of a user, in all of its processes and containers together"
            }
            Some("kernel.threads-max") => "kernel.threads-max bounds all threads of the host",
            Some(_) => "kernel.pid_max bounds the ids of a pid namespace, threads and zombies among them",
            None => "the kernel says EAGAIN for every limit alike",
        };
        format!(
            "{what}; no pids.max of the asker's cgroups was reached. The kernel does not say which limit refused: it is inferred from the numbers a moment later"
        )
    }

    fn fix(&self) -> Vec<String> {
        let Some(limit) = self.limit else {
            return vec!["compare ulimit -u, kernel.threads-max and kernel.pid_max with what is in use".to_owned()];
        };
        let more = limit.limit.saturating_mul(2);
        let raise = match limit.what {
            "RLIMIT_NPROC" => format!(
                "raise it (docker --ulimit nproc={more}; LimitNPROC={more}; ulimit -u {more}), or give each container a user of its own"
            ),
            what => format!("raise it: sysctl {what}={more}"),
        };
        vec!["find what multiplies: `ps -eLf --forest` (threads count as well)".to_owned(), raise]
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use tracer_common::UNKNOWN_U32;

    use super::*;
    use crate::findings::pids::HostPids;

    /// PIDNS_ADDING.
    const TAKES_NEW: u32 = 1 << 31;
    const HOST: HostPids = HostPids { pid_max: Some(32_768), threads_max: Some(30_000), threads: Some(200) };

    fn record(pids: u32, pid_max: u32) -> ForkFailed {
        ForkFailed { pids, pid_max, ..ForkFailed::zeroed() }
    }

    fn asker(limit: u64, threads: u64, privileged: bool) -> Asker {
        let (nproc_limit, user_threads) = (Some(limit), Some(threads));
        Asker { nproc_limit, user_threads, privileged: Some(privileged), host: HOST, ..Asker::default() }
    }

    fn reached(record: ForkFailed, asker: Asker) -> Option<(&'static str, u64)> {
        limit(&record, &asker).map(|limit| (limit.what, limit.current))
    }

    /// A reading may be older than a record that was handled before it.
    #[test]
    fn each_refusal_is_counted_once() {
        let mut limits = HostLimits::default();
        let record = |count| ForkFailed { count, from: 7, ..ForkFailed::zeroed() };
        assert!(limits.failed(&record(1)), "the first asks who it was");
        let mut total = 1;
        for (count, more) in [(40, 39), (37, 0), (40, 0), (500, 460)] {
            assert_eq!(limits.more(7, count), more, "{count}");
            grow(&mut total, more);
        }
        assert_eq!(total, 500);
        // Forgotten by the kernel side, and begun anew.
        assert!(!limits.failed(&record(1)));
        assert_eq!(limits.more(7, 3), 2);
    }

    #[test]
    fn the_limit_is_the_one_that_was_reached() {
        let free = record(TAKES_NEW + 40, UNKNOWN_U32);
        assert_eq!(reached(free, asker(5, 5, false)), Some(("RLIMIT_NPROC", 5)));
        assert_eq!(reached(free, asker(5, 5, true)), None, "who is privileged passes");
        assert_eq!(reached(free, asker(50, 5, false)), None, "none is");
        let busy = Asker { host: HostPids { threads: Some(29_990), ..HOST }, ..asker(50, 5, false) };
        assert_eq!(reached(free, busy), Some(("kernel.threads-max", 29_990)));
        // Bit 31 is no count.
        assert_eq!(reached(record(TAKES_NEW + 309, 310), asker(50, 5, false)), Some(("kernel.pid_max", 309)));
        assert_eq!(reached(record(32_600, UNKNOWN_U32), asker(50, 5, false)), Some(("kernel.pid_max", 32_600)));
        let gone = Asker { host: HOST, ..Asker::default() };
        assert_eq!(reached(free, gone), None);
    }
}
