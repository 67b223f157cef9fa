//! The capabilities of each container that is watched, as rows: what was asked for, and what nobody asked for.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{Row, Standing, overview::Samples};
use crate::{
    findings::caps::{Evidence, Report, VERDICTS, position},
    model::{Code, Container, Finding, Process, Severity, Timestamp, Unknown},
    views::caps::{pasted, seen},
};

/// In the place of a code: the row is no finding.
pub const ASKED_FOR: Code = Code("capabilities");

#[derive(Debug, Default)]
pub struct Capabilities {
    rows: Vec<Row>,
    /// Of each container, by its cgroup: the newest report but for when it was made, and its rows.
    of: BTreeMap<String, (Report, Vec<Row>)>,
    /// A row's number, for as long as the run lasts: what is chosen stays chosen.
    numbers: HashMap<(String, String), u64>,
}

impl Capabilities {
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Is there a report of the container with this cgroup?
    pub fn has(&self, cgroup: &str) -> bool {
        self.of.contains_key(cgroup)
    }

    /// The newest of a container takes the place of what was known of it. `true`: it says something else.
    pub fn take(&mut self, report: &Report, now: Timestamp) -> bool {
        let container = serde_json::from_value::<Container>(report.container.clone()).ok().map(Arc::new);
        let cgroup = container.as_ref().map_or_else(String::new, |container| container.cgroup.clone());
        let report = &Report { watched_ns: coarse(report.watched_ns), ..report.clone() };
        let timeless = Report { time: Value::Null, ..report.clone() };
        if self.of.get(&cgroup).is_some_and(|(before, _)| *before == timeless) {
            return false;
        }
        let mut kinds: BTreeMap<(u32, String), Vec<&Evidence>> = BTreeMap::new();
        for name in &report.granted {
            kinds.entry(position(name)).or_default();
        }
        for row in report.evidence.iter().chain(&report.not_a_capability) {
            // What no capability is the reason of has a row for each call.
            let call = || (u32::MAX, row.syscall.clone().unwrap_or_default());
            kinds.entry(row.capability.as_deref().map_or_else(call, position)).or_default().push(row);
        }
        let set = pasted(report);
        let mut rows = Vec::new();
        for ((_, name), asks) in kinds {
            let next = self.numbers.len() as u64;
            let number = *self.numbers.entry((cgroup.clone(), name.clone())).or_insert(next);
            let finding = Arc::new(finding(report, &name, &asks, &set, container.clone(), now));
            let (followers, samples) = (Vec::new(), Samples::new());
            rows.push(Row {
                number,
                finding,
                followers,
                samples,
                standing: Standing::Here,
                told: Vec::new(),
                bytes: 0,
            });
        }
        self.of.insert(cgroup, (timeless, rows));
        self.rows = self.of.values().flat_map(|(_, rows)| rows).cloned().collect();
        true
    }
}

/// Time that passes is no news: whole seconds at first, then tens of seconds, then minutes.
fn coarse(ns: u64) -> u64 {
    let second = 1_000_000_000;
    let step = match ns / second {
        0..10 => second,
        10..60 => 10 * second,
        _ => 60 * second,
    };
    ns / step * step
}

fn finding(
    report: &Report,
    name: &str,
    asks: &[&Evidence],
    set: &str,
    container: Option<Arc<Container>>,
    now: Timestamp,
) -> Finding {
    let rank = |ask: &&&Evidence| VERDICTS.iter().position(|verdict| *verdict == ask.verdict).unwrap_or(VERDICTS.len());
    // The gravest verdict is the row's, and of those the first: the most frequent.
    let first = asks.iter().min_by_key(rank);
    let verdict = first.map_or("unused", |ask| ask.verdict.as_str());
    let same = asks.iter().filter(|ask| ask.verdict == verdict);
    let evidence = json!({
        "capability": name,
        "verdict": verdict,
        "count": same.fold(0_u64, |sum, ask| sum.saturating_add(ask.count)),
        "comm": first.and_then(|ask| ask.comm.as_deref()),
        "syscall": first.and_then(|ask| ask.syscall.as_deref()),
        "granted": report.granted.iter().any(|own| own == name),
        "asks": asks,
        "root": report.equal_root.get(name),
        "set": set,
        "seen": seen(report),
        "ended": report.ended,
        "warnings": report.warnings.iter().map(|warning| &warning.summary).collect::<Vec<_>>(),
        "cgroup": container.as_ref().map(|container| &container.cgroup),
    });
    Finding {
        code: ASKED_FOR,
        severity: match verdict {
            "denied" | "not_a_capability" => Severity::Critical,
            "needed" => Severity::Warning,
            _ => Severity::Info,
        },
        id: String::new(),
        state: None,
        time: now,
        container,
        process: first.and_then(|ask| process(ask)),
        summary: first.map_or_else(|| "granted, and nobody asked for it so far".to_owned(), |ask| ask.reason.clone()),
        evidence: evidence.as_object().cloned().unwrap_or_default(),
        why: String::new(),
        fix: vec![set.to_owned()],
        refers_to: None,
        unknown: Unknown::new(),
    }
}

/// Who asked first.
fn process(ask: &Evidence) -> Option<Process> {
    let pid = ask.pid?;
    Some(Process { pid, tid: pid, ns_pid: None, ppid: None, comm: ask.comm.clone()?, uid: None })
}
