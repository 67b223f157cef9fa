//! CPU that is throttled, contended, or not the problem at all: use against every ceiling, waits for a CPU, and the load
//! average taken apart. What is read for it is asked for, and comes back as a [`Reading`].

mod blocked;
mod cause;
mod contended;
mod explain;
mod load;
pub mod reading;
mod sample;
#[cfg(test)]
mod tests;
mod throttled;
mod window;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

pub use explain::EXPLAINED;
pub use reading::{
    Ask, Bandwidth, Group, HostCpu, Level, Mounted, ProcessTime, Quota, Reading, Sleeper, Sleepers, Slept, Stack,
    Times, Usage, Used, Waited, Worst,
};

use self::{blocked::Tasks, contended::Contended, load::Loads, throttled::Throttled, window::Window};
use super::{
    World,
    pace::{EVERY_NS, Pace},
};
use crate::{
    model::{Finding, State},
    pipeline::{Output, Question},
};

/// All of /proc is read this often: for those that slept before the hook was there, and those whose switch was not traced.
const SWEEP_NS: u64 = 10_000_000_000;
/// A state holds for this long before it is said. Two readings are never exactly that far apart.
const OPENS_NS: u64 = 1_950_000_000;
/// It is over when it did not hold for this long.
const CLOSES_NS: u64 = 3_950_000_000;

/// The state of the lens.
#[derive(Debug, Default)]
pub struct Rule {
    /// The latest last.
    readings: VecDeque<Usage>,
    throttled: States,
    contended: States,
    tasks: Tasks,
    loads: Loads,
    usage_pace: Pace,
    blocked_pace: Pace,
    sweep_pace: Pace,
}

impl Rule {
    pub fn tick(&mut self, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        if self.blocked_pace.is_due(now_ns) {
            self.blocked_pace.asked(now_ns, EVERY_NS);
            let sweep = self.sweep_pace.is_due(now_ns);
            if sweep {
                self.sweep_pace.asked(now_ns, SWEEP_NS);
            }
            out.push(Output::Ask(Question::Cpu(Ask::Blocked { known: self.tasks.known(), sweep })));
        }
        if self.usage_pace.is_due(now_ns) {
            self.usage_pace.asked(now_ns, EVERY_NS);
            let containers = world.containers;
            let mut of: Vec<Arc<str>> =
                containers.containers().map(|entry| entry.container.cgroup.as_str().into()).collect();
            of.sort_unstable();
            out.push(Output::Ask(Question::Cpu(Ask::Usage { of, within: world.owned_paths() })));
        }
    }

    pub fn reading(&mut self, reading: &Reading, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        match reading {
            Reading::Blocked(sleepers) => {
                self.blocked_pace.came(now_ns, sleepers.took_ns);
                said(self.tasks.read(sleepers, now_ns, world), out);
            }
            Reading::Usage(usage) => {
                self.usage_pace.came(now_ns, usage.took_ns);
                self.used(usage, world, out);
            }
        }
    }

    fn used(&mut self, usage: &Usage, world: &World, out: &mut Vec<Output>) {
        let at_ns = usage.at_ns;
        let since = |age: u64| move |old: &&Usage| at_ns.saturating_sub(old.at_ns) >= age;
        let window = |old| Window { old, new: usage };
        if let Some(last) = self.readings.back().map(window) {
            let loads = self.loads.advance(&last, &self.tasks, world);
            out.extend(sample::rows(&last, &self.tasks, &loads, world));
        }
        let short = self.readings.iter().rev().find(since(OPENS_NS)).map(window);
        let long = self.readings.iter().rev().find(since(CLOSES_NS)).map(window);
        if let Some(short) = short {
            said(self.throttled.judge(&Throttled { world }, &short, long.as_ref()), out);
            said(self.contended.judge(&Contended { world }, &short, long.as_ref()), out);
        }
        // One more than the longest window needs.
        while self.readings.get(1).as_ref().is_some_and(since(CLOSES_NS)) {
            self.readings.pop_front();
        }
        self.readings.push_back(usage.clone());
    }
}

fn said(findings: Vec<Finding>, out: &mut Vec<Output>) {
    out.extend(findings.into_iter().map(|finding| Output::Finding(Box::new(finding))));
}

/// The states of one kind that hold, by the container's cgroup.
#[derive(Debug, Default)]
struct States {
    open: BTreeMap<Arc<str>, Open>,
    told: u64,
}

/// What makes such a state, and what is said of it.
trait Judge {
    /// How a finding's id begins.
    const ID: &'static str;
    type Cause;
    /// Does it hold for the container within this window?
    fn cause(&self, window: &Window, group: &Group) -> Option<Self::Cause>;
    /// What is left of it, once it is over.
    fn left(&self, window: &Window, group: &Group) -> Option<Self::Cause>;
    /// Its number, in percent.
    fn pct(cause: &Self::Cause) -> f64;
    fn finding(&self, window: &Window, group: &Group, cause: Option<&Self::Cause>, state: State, id: &str) -> Finding;
}

impl States {
    /// Those that open in the short window, whose number moved, and those that did not hold in either.
    fn judge<J: Judge>(&mut self, judge: &J, short: &Window, long: Option<&Window>) -> Vec<Finding> {
        let now_ns = short.new.at_ns;
        let mut findings = Vec::new();
        for group in &short.new.groups {
            let Some(cause) = judge.cause(short, group) else { continue };
            if let Some(open) = self.open.get_mut(&group.cgroup) {
                if open.again(J::pct(&cause), now_ns) {
                    findings.push(judge.finding(short, group, Some(&cause), State::Update, &open.id));
                }
                continue;
            }
            self.told += 1;
            let id = format!("{}-{}", J::ID, self.told);
            findings.push(judge.finding(short, group, Some(&cause), State::Open, &id));
            self.open.insert(Arc::clone(&group.cgroup), Open { id, said_ns: now_ns, said_pct: J::pct(&cause) });
        }
        self.open.retain(|cgroup, open| {
            let group = short.group(cgroup);
            let over = group.is_none_or(|group| {
                judge.cause(short, group).is_none() && long.is_some_and(|long| judge.cause(long, group).is_none())
            });
            if over {
                let gone = Group { cgroup: Arc::clone(cgroup), ..Group::default() };
                let group = group.unwrap_or(&gone);
                let left = judge.left(short, group);
                findings.push(judge.finding(short, group, left.as_ref(), State::Closed, &open.id));
            }
            !over
        });
        findings
    }
}

/// A state that was said.
#[derive(Debug)]
struct Open {
    id: String,
    said_ns: u64,
    said_pct: f64,
}

/// An update comes when the share has moved by this many points, but not within …
const MOVED_PCT: f64 = 5.0;
const SOON_NS: u64 = 4_900_000_000;
/// … and in any case after this.
const LATE_NS: u64 = 60_000_000_000;

impl Open {
    /// Is it time to say the number again?
    fn again(&mut self, pct: f64, now_ns: u64) -> bool {
        let age = now_ns.saturating_sub(self.said_ns);
        let due = (age >= SOON_NS && (pct - self.said_pct).abs() >= MOVED_PCT) || age >= LATE_NS;
        if due {
            (self.said_ns, self.said_pct) = (now_ns, pct);
        }
        due
    }
}

/// For JSON: two digits behind the point.
fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// `12 ms`, `3.4 s`, `4 min`.
fn span(ns: u64) -> String {
    match ns as f64 / 1e9 {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 120.0 => format!("{s:.1} s"),
        s => format!("{:.0} min", s / 60.0),
    }
}
