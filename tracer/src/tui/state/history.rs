//! What was found, as long as the budget holds it: the oldest go first, and are counted.

use std::{collections::VecDeque, sync::Arc};

use serde_json::Value;

use super::overview::Samples;
use crate::{
    findings,
    model::{Code, Container, Finding, Severity, State},
    pipeline::EventRow,
    views::rows,
};

/// In the place of codes: what events are.
const EXIT: Code = Code("exit");
const SIGNAL: Code = Code("signal");

/// A line of a list: a finding, and what was found because of it (`refers_to`).
#[derive(Clone, Debug)]
pub struct Row {
    /// The order of arrival, which names the row for ever.
    pub number: u64,
    pub finding: Arc<Finding>,
    pub followers: Vec<Arc<Finding>>,
    /// Of the finding as it is now, and of each follower: how many had been told before it.
    pub(super) told: Vec<u64>,
    /// Of a container's row: the newest numbers of each lens.
    pub samples: Samples,
    pub standing: Standing,
    pub(super) bytes: usize,
}

/// Of a container's row: is it here?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Here,
    Gone,
    Host,
}

impl Row {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Which lens says this.
    pub fn lens(&self) -> &'static str {
        lens(&self.finding)
    }

    /// Gives the container its name, if it is this one.
    pub(super) fn rename(&mut self, container: &Arc<Container>) -> bool {
        let mut renamed = false;
        for finding in std::iter::once(&mut self.finding).chain(&mut self.followers) {
            let is_it =
                finding.container.as_ref().is_some_and(|own| own.cgroup == container.cgroup && own != container);
            if is_it {
                Arc::make_mut(finding).container = Some(Arc::clone(container));
                renamed = true;
            }
        }
        renamed
    }
}

fn lens(finding: &Finding) -> &'static str {
    match finding.code {
        EXIT => return "exits",
        SIGNAL => return "signals",
        _ => {}
    }
    let known = findings::all().find(|explained| explained.code == finding.code);
    known.map_or_else(|| finding.code.0.split('.').next().unwrap_or_default(), |explained| explained.lens)
}

#[derive(Debug)]
pub struct History {
    /// In the order of arrival.
    rows: VecDeque<Row>,
    next: u64,
    told: u64,
    bytes: usize,
    budget: usize,
    /// Findings that are no longer held.
    pub gone: u64,
}

impl History {
    /// Rows are numbered from `first` on.
    pub fn new(budget: usize, first: u64) -> Self {
        Self { rows: VecDeque::new(), next: first, told: 0, bytes: 0, budget, gone: 0 }
    }

    pub fn rows(&self) -> impl DoubleEndedIterator<Item = &Row> {
        self.rows.iter()
    }

    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.rows.iter_mut()
    }

    /// What the rows weigh, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many were told until now, each state of a finding for itself.
    pub fn told(&self) -> u64 {
        self.told
    }

    /// Of the first `told` those that are over. What lasted then is none of them: its rule comes to it again. By when it was
    /// told and not by its own time: a finding may be told long after what it is about.
    pub fn told_before(&self, told: u64) -> impl Iterator<Item = &Finding> {
        let findings = self.rows().flat_map(|row| std::iter::once(&row.finding).chain(&row.followers).zip(&row.told));
        let over = move |(finding, at): &(&Arc<Finding>, &u64)| {
            **at < told && matches!(finding.state, None | Some(State::Closed)) && !finding.id.is_empty()
        };
        findings.filter(over).map(|(finding, _)| &**finding)
    }

    /// Takes a finding in: the newer state of a row, a follower of one, or a row of its own.
    pub fn push(&mut self, finding: &Finding) {
        let bytes = weight(finding);
        let finding = Arc::new(finding.clone());
        let told = self.told;
        self.told += 1;
        if let Some(row) = self.row_of(&finding) {
            if row.finding.id == finding.id {
                let before = weight(&row.finding);
                row.bytes = row.bytes - before + bytes;
                row.finding = finding;
                row.told.first_mut().into_iter().for_each(|at| *at = told);
                self.bytes = self.bytes - before + bytes;
            } else {
                row.bytes += bytes;
                row.followers.push(finding);
                row.told.push(told);
                self.bytes += bytes;
            }
        } else {
            self.append(finding, told, bytes);
        }
        self.forget();
    }

    /// Takes an event in, as a row that is no finding.
    pub fn event(&mut self, event: &EventRow) {
        let finding = as_finding(event);
        let bytes = weight(&finding);
        self.append(Arc::new(finding), self.told, bytes);
        self.forget();
    }

    fn append(&mut self, finding: Arc<Finding>, told: u64, bytes: usize) {
        let (samples, standing) = (Samples::new(), Standing::Here);
        let (number, followers, told) = (self.next, Vec::new(), vec![told]);
        self.rows.push_back(Row { number, finding, followers, told, samples, standing, bytes });
        self.next += 1;
        self.bytes += bytes;
    }

    fn forget(&mut self) {
        // The newest stays, whatever it weighs: it is what the user is waiting for.
        while self.bytes > self.budget && self.rows.len() > 1 {
            let Some(row) = self.rows.pop_front() else { break };
            self.bytes -= row.bytes;
            self.gone += 1 + row.followers.len() as u64;
        }
    }

    fn row_of(&mut self, finding: &Finding) -> Option<&mut Row> {
        // Newest first: what is referred to has just been told.
        let mut rows = self.rows.iter_mut().rev();
        match (&finding.state, &finding.refers_to) {
            (Some(_), _) => rows.find(|row| row.finding.id == finding.id),
            (None, Some(other)) => rows.find(|row| row.finding.id == *other),
            (None, None) => None,
        }
    }
}

/// An event in a finding's place: it has no verdict, and no code to explain.
fn as_finding(event: &EventRow) -> Finding {
    let mut evidence = event.fields.clone();
    if let Some(cgroup) = &event.cgroup {
        evidence.insert("cgroup".to_owned(), Value::String(cgroup.clone()));
    }
    Finding {
        code: if event.event == EXIT.0 { EXIT } else { SIGNAL },
        severity: Severity::Info,
        id: String::new(),
        state: None,
        time: event.time,
        container: event.container.clone(),
        process: event.process.clone(),
        summary: rows::summary(event),
        evidence,
        why: String::new(),
        fix: Vec::new(),
        refers_to: None,
        unknown: event.unknown.clone(),
    }
}

/// The memory that a finding takes, about: what is on the heap, and the places that hold it.
fn weight(finding: &Finding) -> usize {
    let texts = [&finding.id, &finding.summary, &finding.why];
    size_of::<Row>()
        + size_of::<Finding>()
        + texts.into_iter().chain(&finding.fix).map(|text| text.capacity() + size_of::<String>()).sum::<usize>()
        + finding.process.as_ref().map_or(0, |process| process.comm.capacity())
        + finding.unknown.values().map(|reason| reason.capacity() + NODE).sum::<usize>()
        + finding.evidence.iter().map(|(key, value)| entry(key, value)).sum::<usize>()
}

/// A place in a map, with its share of what is kept free for growth.
const NODE: usize = 64;

fn entry(key: &str, value: &Value) -> usize {
    key.len() + size_of::<Value>() + NODE + heap(value)
}

fn heap(value: &Value) -> usize {
    match value {
        Value::String(text) => text.capacity(),
        Value::Array(values) => values.iter().map(|value| size_of::<Value>() + heap(value)).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| entry(key, value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}
