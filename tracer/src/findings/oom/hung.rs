//! `oom.hung`: a v1 cgroup at its limit whose OOM killer is off. A state, which no hook tells of: it is polled.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::World;
use crate::{
    history::counters::OomControl,
    model::{Code, Evidence, Finding, Severity, State, Timestamp, Unknown, size},
};

/// Cgroups whose OOM killer is off are looked at this often…
const WATCH_NS: u64 = 1_000_000_000;
/// … and all of them, for new ones with it off, this often: it takes a small file each.
const SWEEP_NS: u64 = 10_000_000_000;

/// What `memory.oom_control` of one cgroup said, and where it stands if it is under OOM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    pub cgroup: Arc<str>,
    /// `None`: it is gone.
    pub control: Option<OomControl>,
    pub limit_bytes: Option<u64>,
    pub usage_bytes: Option<u64>,
}

/// Which cgroups hang.
#[derive(Debug, Default)]
pub struct Hung {
    watch_ns: u64,
    sweep_ns: u64,
    /// Those with the OOM killer off.
    switched_off: BTreeSet<Arc<str>>,
    /// Those that hang, as it was said.
    open: BTreeMap<Arc<str>, Finding>,
}

impl Hung {
    /// The cgroups to read now; none on v2, which has no such switch.
    pub fn ask(&mut self, now_ns: u64, world: &World) -> Vec<Arc<str>> {
        if world.host.cgroup_version != 1 || now_ns < self.watch_ns {
            return Vec::new();
        }
        self.watch_ns = now_ns.saturating_add(WATCH_NS);
        if now_ns < self.sweep_ns {
            return self.switched_off.iter().cloned().collect();
        }
        self.sweep_ns = now_ns.saturating_add(SWEEP_NS);
        world.containers.paths().map(Arc::from).collect()
    }

    pub fn readings(&mut self, readings: &[Reading], now_ns: u64, world: &World) -> Vec<Finding> {
        let mut findings = Vec::new();
        for reading in readings {
            let control = reading.control.unwrap_or_default();
            if control.oom_kill_disable {
                self.switched_off.insert(Arc::clone(&reading.cgroup));
            } else {
                self.switched_off.remove(&reading.cgroup);
            }
            let hangs = control.oom_kill_disable && control.under_oom;
            if hangs && !self.open.contains_key(&reading.cgroup) {
                let finding = opened(reading, world, world.at(now_ns));
                self.open.insert(Arc::clone(&reading.cgroup), finding.clone());
                findings.push(finding);
            } else if !hangs && let Some(finding) = self.open.remove(&reading.cgroup) {
                findings.push(closed(finding, reading, world.at(now_ns)));
            }
        }
        findings
    }
}

fn opened(reading: &Reading, world: &World, time: Timestamp) -> Finding {
    let mut evidence = Evidence::new();
    let mut unknown = Unknown::new();
    for (key, number) in [("limit_bytes", reading.limit_bytes), ("usage_bytes", reading.usage_bytes)] {
        if number.is_none() {
            unknown.insert(key, "its file could not be read".to_owned());
        }
        evidence.insert(key.to_owned(), json!(number));
    }
    evidence.insert("limiting_cgroup".to_owned(), json!(reading.cgroup));
    evidence.insert("cgroup".to_owned(), json!(reading.cgroup));
    evidence.insert("oom_kill_disable".to_owned(), json!(true));
    evidence.insert("under_oom".to_owned(), json!(true));
    let limit = reading.limit_bytes.map_or_else(String::new, |limit| format!(" of {}", size(limit)));
    Finding {
        code: Code("oom.hung"),
        severity: Severity::Critical,
        id: format!("oom-hung-{}", reading.cgroup),
        state: Some(State::Open),
        time,
        container: world.containers.owner_of_path(&reading.cgroup),
        process: None,
        summary: format!(
            "hung at its memory limit{limit}: the OOM killer is off (oom_kill_disable), so nobody is killed and all wait"
        ),
        evidence,
        why: "memory.oom_control says oom_kill_disable 1 and under_oom 1: each task that asks for memory sleeps until some is freed".to_owned(),
        fix: vec![
            format!("raise the limit: echo BYTES > memory.limit_in_bytes in {}", reading.cgroup),
            "or let the kernel choose: echo 0 > memory.oom_control (docker: without --oom-kill-disable)".to_owned(),
        ],
        refers_to: None,
        unknown,
    }
}

fn closed(mut finding: Finding, reading: &Reading, time: Timestamp) -> Finding {
    let seconds = time.0.saturating_sub(finding.time.0) / 1_000_000_000;
    let how = match reading.control {
        None => "the cgroup is gone",
        Some(control) if !control.oom_kill_disable => "the OOM killer is on again",
        Some(_) => "memory was freed, or the limit raised",
    };
    finding.summary = format!("no longer hung at its memory limit, after {seconds} s: {how}");
    finding.state = Some(State::Closed);
    finding.evidence.insert("under_oom".to_owned(), json!(false));
    finding.time = time;
    finding
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::fixture::{Host, SECOND, T, WEB},
        *,
    };

    fn reading(disabled: bool, under_oom: bool) -> Reading {
        let control = OomControl { oom_kill_disable: disabled, under_oom, oom_kill: Some(0) };
        Reading {
            cgroup: Arc::from(WEB),
            control: Some(control),
            limit_bytes: Some(64 << 20),
            usage_bytes: Some(64 << 20),
        }
    }

    #[test]
    fn it_opens_once_and_closes_with_the_reason() {
        let mut host = Host::new();
        host.facts.cgroup_version = 1;
        let world = host.world();
        let mut hung = Hung::default();
        let mut at = |reading: Reading, after_s: u64| hung.readings(&[reading], T + after_s * SECOND, &world);
        assert_eq!(at(reading(true, false), 0), []);
        assert_eq!(at(reading(false, true), 1), [], "the killer is at work");
        let opened = at(reading(true, true), 2).remove(0);
        assert_eq!((opened.state, opened.code.0), (Some(State::Open), "oom.hung"));
        assert!(opened.summary.contains("64.0 MiB") && opened.container.is_some());
        assert_eq!(at(reading(true, true), 3), [], "said already");
        let closed = at(reading(true, false), 7).remove(0);
        assert_eq!((closed.state, &closed.id), (Some(State::Closed), &opened.id));
        assert!(closed.summary.contains("after 5 s") && closed.summary.contains("freed"), "{}", closed.summary);
        at(reading(true, true), 8);
        let gone = at(Reading { control: None, ..reading(true, true) }, 9).remove(0);
        assert!(gone.summary.contains("gone"));
    }

    #[test]
    fn only_those_without_a_killer_are_read_each_second() {
        let mut host = Host::new();
        let mut hung = Hung::default();
        assert_eq!(hung.ask(T, &host.world()), [], "v2 has no such switch");
        host.facts.cgroup_version = 1;
        let world = host.world();
        assert!(hung.ask(T, &world).len() > 1);
        assert_eq!(hung.ask(T + SECOND / 2, &world), []);
        hung.readings(&[reading(true, false)], T, &world);
        assert_eq!(hung.ask(T + SECOND, &world), [Arc::from(WEB)]);
        assert!(hung.ask(T + 10 * SECOND, &world).len() > 1);
    }
}
