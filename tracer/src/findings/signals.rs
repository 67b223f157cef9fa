//! Signals: what the kernel made of each, and the verdicts about PID 1.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use tracer_common::signal::{Dropped, FoldKey, IGNORED_BY_DEFAULT, Signal};

use super::{Explained, World, numbers::Numbers};
use crate::{
    events::{is_init, process},
    model::{
        Code, Evidence, Finding, Owner,
        Severity::{self, Warning},
        Unknown, signal_name,
    },
    pipeline::EventRow,
};

const SIGKILL: u32 = 9;
const SIGSTOP: u32 = 19;
const SIGCHLD: u32 = 17;
/// A kind of signal that was silent for this long has its count.
const SETTLED_NS: u64 = 2_000_000_000;
/// The kernel side counts a kind on over any silence, so that what was shown of it is kept for long.
const KEPT_NS: u64 = 600_000_000_000;
/// A verdict is not told again of the same signal from the same sender within this time: a flood would be all there is.
const AGAIN_NS: u64 = 10_000_000_000;
/// Kinds whose counts are followed at once; beyond, each record stands for itself.
const KINDS: usize = 8192;

pub const EXPLAINED: &[Explained] = &[
    Explained {
        code: Code("signal.init-ignored"),
        severity: Warning,
        lens: "signals",
        title: "a signal to PID 1 was dropped: its disposition is the default, and the kernel protects PID 1",
        text: "\
For an ordinary process the default of SIGTERM is to end it. For PID 1 of a pid namespace the kernel drops every signal
whose disposition is the default: nothing happens, no error is returned to the sender. So `docker stop` and `kubectl
delete` wait their whole grace time, and then kill. The usual case is a shell as PID 1 (`CMD start.sh`): it has no handler
for SIGTERM and does not forward it to its children.

A signal that is blocked and waited for (sigwait, signalfd: tini, systemd), handled, or ignored on purpose is none of this.
One that PID 1 has blocked for a moment, as a shell does around each fork, is queued; it is dropped when PID 1 unblocks it
and still has no handler, and said then (`blocked_ns` after it was sent).

What to do: handle the signal in the program; or `exec` it at the end of the entrypoint script; or put a small init in
front (`docker run --init`, tini, `shareProcessNamespace` in a pod).",
    },
    Explained {
        code: Code("signal.init-kill-from-inside"),
        severity: Warning,
        lens: "signals",
        title: "SIGKILL or SIGSTOP to PID 1 from inside its own pid namespace: dropped",
        text: "\
From inside its own pid namespace PID 1 cannot be killed or stopped, not even by root with SIGKILL: the kernel drops both.
From an ancestor namespace (the host) they work.

What to do: kill it from the host (`docker kill`, `kill -9` of the pid that the host sees); from inside, send a signal that
PID 1 handles, such as SIGTERM, if it has a handler.",
    },
];

/// What the kernel did with a signal, in JSON's words.
pub fn result(record: &Signal) -> &'static str {
    match record.result {
        0 if record.blocked == 1 => "blocked",
        0 => "delivered",
        1 => "ignored",
        2 => "pending",
        _ => "lost",
    }
}

/// Did a process send it? Else the kernel made it.
pub fn by_process(record: &Signal) -> bool {
    const SI_USER: i32 = 0;
    const SI_QUEUE: i32 = -1;
    const SI_TKILL: i32 = -6;
    matches!(record.code, SI_USER | SI_QUEUE | SI_TKILL) && record.signal != SIGCHLD
}

/// PID 1 of a pid namespace below the host's.
pub fn to_init(record: &Signal) -> bool {
    is_init(&record.target)
}

pub fn fold_key(record: &Signal) -> FoldKey {
    FoldKey {
        target: record.target.tgid,
        sender: if by_process(record) { record.sender.tgid } else { 0 },
        signal: record.signal,
        result: record.result,
    }
}

/// Turns records into rows and verdicts, and keeps the counts of what was folded.
#[derive(Debug, Default)]
pub struct Rule {
    kinds: HashMap<FoldKey, Kind>,
    told: u64,
    /// When a drop was last told: by process and signal.
    dropped: HashMap<(u32, u32), u64>,
}

#[derive(Debug)]
struct Kind {
    /// How many were shown so far.
    shown: u64,
    last: Box<Signal>,
    last_ns: u64,
    /// When a verdict was last told, and how many were seen by then.
    told: Option<(u64, u64)>,
}

impl Rule {
    pub fn event(&mut self, record: &Signal, world: &World) -> (EventRow, Option<Finding>) {
        let key = fold_key(record);
        let now_ns = record.header.time_ns;
        let shown = self.kinds.get(&key).map_or(0, |kind| kind.shown);
        // The kernel side forgets kinds that were not seen for long, and starts from 1 again.
        let count = if record.total > shown { record.total - shown } else { record.total };
        let before = self.kinds.get(&key).and_then(|kind| kind.told).filter(|_| record.total > shown);
        let is_news = before.is_none_or(|(told_ns, _)| now_ns.saturating_sub(told_ns) >= AGAIN_NS);
        let since = before.map_or(0, |(_, total)| record.total.saturating_sub(total));
        let finding = if is_news { self.verdict(record, since, world) } else { None };
        let told = if finding.is_some() { Some((now_ns, record.total)) } else { before };
        if self.kinds.len() < KINDS || self.kinds.contains_key(&key) {
            self.kinds.insert(key, Kind { shown: record.total, last: Box::new(*record), last_ns: now_ns, told });
        }
        (row(record, count, now_ns, world), finding)
    }

    /// Kinds whose folded ones may not have been shown yet.
    pub fn open(&self, now_ns: u64) -> Vec<FoldKey> {
        let open = |kind: &Kind| now_ns.saturating_sub(kind.last_ns) < SETTLED_NS;
        self.kinds.iter().filter(|(_, kind)| open(kind)).map(|(key, _)| *key).collect()
    }

    /// The totals of kinds that were asked for: what was folded since is a row.
    pub fn totals(&mut self, totals: &[(FoldKey, u64)], now_ns: u64, world: &World) -> Vec<EventRow> {
        let mut rows = Vec::new();
        for (key, total) in totals {
            let Some(kind) = self.kinds.get_mut(key) else { continue };
            if *total > kind.shown {
                rows.push(row(&kind.last, total - kind.shown, now_ns, world));
                kind.shown = *total;
                kind.last_ns = now_ns;
            }
        }
        let keep_ns = if self.kinds.len() > KINDS / 2 { SETTLED_NS } else { KEPT_NS };
        self.kinds.retain(|_, kind| now_ns.saturating_sub(kind.last_ns) < keep_ns);
        rows
    }

    /// PID 1 took a signal off its queue, and the kernel dropped it. Who sent it was said when it was queued.
    pub fn dropped(&mut self, record: &Dropped, world: &World) -> Option<Finding> {
        let now_ns = record.header.time_ns;
        let what = (record.target.tgid, record.signal);
        let again = |told_ns: &u64| now_ns.saturating_sub(*told_ns) < AGAIN_NS;
        if !is_init(&record.target) || self.dropped.get(&what).is_some_and(again) {
            return None;
        }
        self.dropped.retain(|_, told_ns| again(told_ns));
        if self.dropped.len() < KINDS {
            self.dropped.insert(what, now_ns);
        }
        let queued = |(key, kind): (&FoldKey, &Kind)| {
            let is_it = (key.target, key.signal) == what && kind.last.blocked == 1 && kind.last.result == 0;
            is_it.then(|| kind.last.clone())
        };
        let queued = self.kinds.iter().filter_map(queued).max_by_key(|queued| queued.header.time_ns);
        self.told += 1;
        let (target, name) = (process(&record.target), signal_name(record.signal));
        let container = world.containers.owner(record.header.cgroup);
        let sent = queued.as_deref().map(|queued| sender(queued, world));
        let who = sent.as_ref().map_or_else(String::new, |(who, _)| format!(" from {who}"));
        let mut values = Numbers::default();
        let unseen = "it was sent before ctrace came, or its record was lost";
        values.set("signal", name.as_str());
        values.set("count", 1);
        values.put("sender", queued.as_deref().map(|queued| sender_json(queued, world)), unseen);
        values.put("sender_place", sent.map(|(_, place)| place), unseen);
        values.set("target", json!({"process": target, "container": container}));
        values.set("result", "ignored");
        values.set("handler", false);
        let blocked_ns = queued.as_deref().map(|queued| now_ns.saturating_sub(queued.header.time_ns));
        values.put("blocked_ns", blocked_ns, unseen);
        values.put("cgroup", world.containers.path(record.header.cgroup), "it was gone before its path was read");
        Some(Finding {
            code: Code("signal.init-ignored"),
            severity: Severity::Warning,
            id: format!("signal-{}", self.told),
            state: None,
            time: world.at(now_ns),
            container,
            summary: format!(
                "{name}{who} to PID 1 {} was dropped: it had it blocked, and no handler when it took it",
                target.comm
            ),
            why: format!(
                "pid {} blocked {name} for a while, so that it was queued; its disposition is the default, and for PID 1 the kernel drops such signals when they are unblocked. A stop will wait its whole grace time",
                target.pid
            ),
            fix: without_handler(&name, &target.comm),
            process: Some(target),
            evidence: values.values,
            refers_to: None,
            unknown: values.unknown,
        })
    }

    /// `since`: how many there were since the last verdict about this kind, with this one; 0 for the first.
    fn verdict(&mut self, record: &Signal, since: u64, world: &World) -> Option<Finding> {
        if !to_init(record) || record.result != 1 || record.disposition != 0 || record.unkillable != 1 {
            return None;
        }
        let only_kernel = matches!(record.signal, SIGKILL | SIGSTOP);
        if !only_kernel && (IGNORED_BY_DEFAULT >> (record.signal.wrapping_sub(1) & 63)) & 1 == 1 {
            return None;
        }
        self.told += 1;
        let target = process(&record.target);
        let name = signal_name(record.signal);
        let (who, place) = sender(record, world);
        let (code, summary, why, fix) = if only_kernel {
            (
                "signal.init-kill-from-inside",
                format!(
                    "{name} from {who} to PID 1 {} was dropped: PID 1 cannot be killed from inside its own pid namespace",
                    target.comm
                ),
                "the kernel protects PID 1 of a pid namespace from SIGKILL and SIGSTOP that come from inside it"
                    .to_owned(),
                vec![
                    format!("from the host: kill -{} {}", record.signal, target.pid),
                    "from inside: a signal that PID 1 handles (SIGTERM, if it has a handler)".to_owned(),
                ],
            )
        } else {
            (
                "signal.init-ignored",
                format!("{name} from {who} to PID 1 {} was dropped: it has no handler for it", target.comm),
                format!(
                    "the disposition of {name} in pid {} is the default, and for PID 1 the kernel drops such signals; a stop will wait its whole grace time",
                    target.pid
                ),
                without_handler(&name, &target.comm),
            )
        };
        let summary = if since > 1 { format!("{summary} ({since} times since the last was told)") } else { summary };
        let mut evidence = Evidence::new();
        evidence.insert("signal".to_owned(), json!(name));
        evidence.insert("count".to_owned(), json!(since.max(1)));
        evidence.insert("sender".to_owned(), sender_json(record, world));
        evidence.insert("sender_place".to_owned(), json!(place));
        evidence.insert(
            "target".to_owned(),
            json!({"process": target, "container": world.containers.owner(record.header.cgroup)}),
        );
        evidence.insert("result".to_owned(), json!("ignored"));
        evidence.insert("handler".to_owned(), json!(false));
        evidence
            .insert("cgroup".to_owned(), json!(world.containers.path(record.header.cgroup).map(ToString::to_string)));
        Some(Finding {
            code: Code(code),
            severity: Severity::Warning,
            id: format!("signal-{}", self.told),
            state: None,
            time: world.at(record.header.time_ns),
            container: world.containers.owner(record.header.cgroup),
            process: Some(target),
            summary,
            evidence,
            why,
            fix,
            refers_to: None,
            unknown: Unknown::new(),
        })
    }
}

fn without_handler(name: &str, comm: &str) -> Vec<String> {
    vec![
        format!("handle {name} in {comm}, or let the entrypoint exec the program instead of staying its parent"),
        "or run a small init as PID 1: docker run --init, tini; it forwards signals and reaps".to_owned(),
    ]
}

/// `dockerd (812) on the host`, and where that is.
pub fn sender(record: &Signal, world: &World) -> (String, String) {
    if !by_process(record) {
        return ("the kernel".to_owned(), "kernel".to_owned());
    }
    let from = process(&record.sender);
    let owner: Owner = world.containers.owner(record.sender_cgroup);
    let place = owner.as_ref().map_or_else(|| "host".to_owned(), |container| container.label());
    (format!("{} ({}, {place})", from.comm, from.pid), place)
}

pub fn sender_json(record: &Signal, world: &World) -> Value {
    if by_process(record) {
        json!({"process": process(&record.sender), "container": world.containers.owner(record.sender_cgroup)})
    } else {
        json!("kernel")
    }
}

/// The process behind a signal, also where the kernel acted for it (the end of PID 1).
pub fn sender_json_of(record: &Signal, world: &World) -> Value {
    json!({"process": process(&record.sender), "container": world.containers.owner(record.sender_cgroup)})
}

fn row(record: &Signal, count: u64, now_ns: u64, world: &World) -> EventRow {
    let mut unknown = Unknown::new();
    let handler = match record.disposition {
        0 | 1 => Some(false),
        2 => Some(true),
        _ => {
            unknown.insert("handler", "the target's signal handlers could not be read".to_owned());
            None
        }
    };
    let container = world.containers.owner(record.header.cgroup);
    let mut fields = Map::new();
    for (key, value) in [
        ("signal", json!(signal_name(record.signal))),
        ("sender", sender_json(record, world)),
        ("target", json!({"process": process(&record.target), "container": container})),
        ("result", json!(result(record))),
        ("handler", json!(handler)),
        (
            "disposition",
            json!(match record.disposition {
                0 => "default",
                1 => "ignore",
                2 => "handler",
                _ => "unknown",
            }),
        ),
        ("to_init", json!(to_init(record))),
        ("count", json!(count)),
        ("code", json!(record.code)),
    ] {
        fields.insert(key.to_owned(), value);
    }
    EventRow {
        time: world.at(now_ns),
        event: "signal",
        cgroup: world.containers.path(record.header.cgroup).map(ToString::to_string),
        process: Some(process(&record.target)),
        container,
        fields,
        unknown,
    }
}

#[cfg(test)]
#[path = "signals_tests.rs"]
mod tests;
