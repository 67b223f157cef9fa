//! Every container in a row, the worst first: what was found in it, and the newest numbers of each lens.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use super::{History, Row, history::Standing};
use crate::{
    model::{Code, Container, Evidence, Finding, Owner, Runtime, Severity, State, Timestamp, Unknown},
    pipeline::{EventRow, SampleRow},
    views::rows,
};

/// A point in time stays the worst of its container this long; a state as long as it is open.
const FRESH_NS: i64 = 15 * 60 * 1_000_000_000;
/// The code of a row in which nothing was found.
pub const QUIET: Code = Code("");

/// Of how many containers ends are kept at once; those that are gone make room.
const KEPT: usize = 512;
/// Ends that are kept of each container.
const ENDS: usize = 100;

/// How a process of a container ended.
#[derive(Clone, Debug)]
pub struct End {
    pub time: Timestamp,
    /// `java 4711: SIGKILL after 3m02s`; not escaped.
    pub text: String,
}

/// The newest numbers of one container, by lens.
pub type Samples = BTreeMap<&'static str, Arc<SampleRow>>;

#[derive(Debug, Default)]
pub struct Overview {
    rows: Vec<Row>,
    /// By cgroup; the host's by "".
    samples: HashMap<String, Samples>,
    /// By cgroup; the newest first.
    ends: HashMap<String, VecDeque<End>>,
    /// A row's number, for as long as the run lasts: what is chosen stays chosen.
    numbers: HashMap<String, u64>,
    containers: Vec<Arc<Container>>,
    /// Something came that `rows` do not show yet.
    is_stale: bool,
}

impl Overview {
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn sample(&mut self, sample: &SampleRow) {
        let key = sample.container.as_ref().map_or("", |container| &container.cgroup);
        // Of one container the highest level is told last, or alone.
        let of = self.samples.entry(key.to_owned()).or_default();
        of.insert(sample.sample, Arc::new(sample.clone()));
        self.is_stale = true;
    }

    /// Keeps how a process of a container ended.
    pub fn ended(&mut self, event: &EventRow) {
        let Some(container) = &event.container else { return };
        if self.ends.len() >= KEPT && !self.ends.contains_key(&container.cgroup) {
            let here: BTreeSet<&str> = self.containers.iter().map(|own| own.cgroup.as_str()).collect();
            self.ends.retain(|cgroup, _| here.contains(cgroup.as_str()));
            if self.ends.len() >= KEPT {
                return;
            }
        }
        let who = event.process.as_ref().map_or_else(String::new, |own| format!("{} {}: ", own.comm, own.pid));
        let ends = self.ends.entry(container.cgroup.clone()).or_default();
        ends.push_front(End { time: event.time, text: who + &rows::summary(event) });
        ends.truncate(ENDS);
    }

    /// The last ends in a container, the newest first.
    pub fn ends(&self, container: &Owner) -> impl Iterator<Item = &End> {
        self.ends.get(key(container)).into_iter().flatten()
    }

    pub fn stale(&mut self) {
        self.is_stale = true;
    }

    /// The containers that are here. What was sampled of others is forgotten.
    pub fn containers(&mut self, containers: Vec<Arc<Container>>) {
        if self.containers != containers {
            self.samples.retain(|cgroup, _| {
                cgroup.is_empty() || containers.iter().any(|container| container.cgroup == *cgroup)
            });
            self.containers = containers;
            self.is_stale = true;
        }
    }

    /// `true`: the rows have changed.
    pub fn refresh(&mut self, history: &History, now: Timestamp) -> bool {
        if !std::mem::take(&mut self.is_stale) {
            return false;
        }
        let mut found: HashMap<&str, Vec<&Row>> = HashMap::new();
        for row in history.rows() {
            found.entry(key(&row.finding.container)).or_default().push(row);
        }
        let here: Vec<&Arc<Container>> = self
            .containers
            .iter()
            .filter(|container| {
                container.runtime != Some(Runtime::Systemd) || found.contains_key(container.cgroup.as_str())
            })
            .collect();
        let mut rows = Vec::new();
        for container in &here {
            let findings = found.remove(container.cgroup.as_str()).unwrap_or_default();
            rows.push((Some(Arc::clone(container)), findings, Standing::Here));
        }
        // The host has its row once something was found in it.
        for findings in found.into_values() {
            let container = findings.first().and_then(|row| row.finding.container.clone());
            let standing = if container.is_some() { Standing::Gone } else { Standing::Host };
            if standing == Standing::Gone && !findings.iter().any(|row| counts(&row.finding, now)) {
                continue;
            }
            rows.push((container, findings, standing));
        }
        let mut made: Vec<Row> = rows.into_iter().map(|row| self.row(row, now)).collect();
        made.sort_by_cached_key(|row| (std::cmp::Reverse(urgency(&row.finding)), row.number));
        self.rows = made;
        true
    }

    fn row(&mut self, (container, findings, standing): (Owner, Vec<&Row>, Standing), now: Timestamp) -> Row {
        let key = key(&container).to_owned();
        let next = self.numbers.len() as u64;
        let number = *self.numbers.entry(key.clone()).or_insert(next);
        let mut all: Vec<&Arc<Finding>> =
            findings.iter().flat_map(|row| std::iter::once(&row.finding).chain(&row.followers)).collect();
        let worst = all
            .iter()
            .filter(|finding| counts(finding, now))
            .max_by_key(|finding| urgency(finding))
            .map(|at| (*at).clone());
        all.sort_by_key(|finding| std::cmp::Reverse(finding.time));
        Row {
            number,
            finding: worst.unwrap_or_else(|| Arc::new(quiet(container, now))),
            followers: all.into_iter().cloned().collect(),
            samples: self.samples.get(&key).cloned().unwrap_or_default(),
            standing,
            told: Vec::new(),
            bytes: 0,
        }
    }
}

fn key(container: &Owner) -> &str {
    container.as_ref().map_or("", |container| &container.cgroup)
}

/// Does it still say how the container is?
fn counts(finding: &Finding, now: Timestamp) -> bool {
    match finding.state {
        Some(State::Closed) => false,
        Some(State::Open | State::Update) => true,
        None => now.0.saturating_sub(finding.time.0) <= FRESH_NS,
    }
}

/// The graver is worse, and among equals the newer.
pub fn urgency(finding: &Finding) -> (u8, i64) {
    let severity = match finding.severity {
        _ if finding.code == QUIET => 0,
        Severity::Info => 1,
        Severity::Warning => 2,
        Severity::Critical => 3,
    };
    (severity, if severity == 0 { 0 } else { finding.time.0 })
}

fn quiet(container: Owner, now: Timestamp) -> Finding {
    Finding {
        code: QUIET,
        severity: Severity::Info,
        id: String::new(),
        state: None,
        time: now,
        container,
        process: None,
        summary: String::new(),
        evidence: Evidence::new(),
        why: String::new(),
        fix: Vec::new(),
        refers_to: None,
        unknown: Unknown::new(),
    }
}
