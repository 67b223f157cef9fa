//! CPU that is throttled, contended, or not the problem at all: use against every ceiling, waits for a CPU, and the load
//! average taken apart. What is read for it is asked for, and comes back as a [`Reading`].

mod blocked;
mod contended;
mod explain;
mod load;
pub mod reading;
mod sample;
#[cfg(test)]
mod tests;
mod throttled;
mod window;

use std::{collections::VecDeque, sync::Arc};

pub use explain::EXPLAINED;
pub use reading::{
    Ask, Bandwidth, Group, HostCpu, Level, ProcessTime, Quota, Reading, Sleeper, Sleepers, Times, Usage, Used, Waited,
    Worst,
};

use serde::Serialize;
use serde_json::{Map, Value, json};

use self::{blocked::Tasks, contended::Contended, load::Loads, throttled::Throttled, window::Window};
use super::World;
use crate::{
    model::{Finding, Unknown},
    pipeline::{Output, Question},
};

/// Readings come this often, and less often where they take long …
const EVERY_NS: u64 = 900_000_000;
/// … so that they cost at most one part in this many of one CPU.
const SHARE: u64 = 50;
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
    throttled: Throttled,
    contended: Contended,
    tasks: Tasks,
    loads: Loads,
    usage_due_ns: u64,
    blocked_due_ns: u64,
    sweep_due_ns: u64,
}

impl Rule {
    pub fn tick(&mut self, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        if now_ns >= self.blocked_due_ns {
            self.blocked_due_ns = now_ns + EVERY_NS;
            let sweep = now_ns >= self.sweep_due_ns;
            if sweep {
                self.sweep_due_ns = now_ns + SWEEP_NS;
            }
            out.push(Output::Ask(Question::Cpu(Ask::Blocked { known: self.tasks.known(), sweep })));
        }
        if now_ns >= self.usage_due_ns {
            self.usage_due_ns = now_ns + EVERY_NS;
            let containers = world.containers;
            let mut of: Vec<Arc<str>> =
                containers.containers().map(|entry| entry.container.cgroup.as_str().into()).collect();
            of.sort_unstable();
            let paths = containers.paths().filter(|path| containers.owner_of_path(path).is_some());
            let mut within: Vec<Arc<str>> = paths.map(Into::into).collect();
            within.sort_unstable();
            out.push(Output::Ask(Question::Cpu(Ask::Usage { of, within })));
        }
    }

    pub fn reading(&mut self, reading: &Reading, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        match reading {
            Reading::Blocked(sleepers) => {
                self.blocked_due_ns = next(self.blocked_due_ns, now_ns, sleepers.took_ns);
                said(self.tasks.read(sleepers, now_ns, world), out);
            }
            Reading::Usage(usage) => {
                self.usage_due_ns = next(self.usage_due_ns, now_ns, usage.took_ns);
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
            said(self.throttled.judge(&short, long.as_ref(), world), out);
            said(self.contended.judge(&short, long.as_ref(), world), out);
        }
        // One more than the longest window needs.
        while self.readings.get(1).as_ref().is_some_and(since(CLOSES_NS)) {
            self.readings.pop_front();
        }
        self.readings.push_back(usage.clone());
    }
}

fn next(due_ns: u64, now_ns: u64, took_ns: u64) -> u64 {
    due_ns.max(now_ns.saturating_add(took_ns.saturating_mul(SHARE)))
}

fn said(findings: Vec<Finding>, out: &mut Vec<Output>) {
    out.extend(findings.into_iter().map(|finding| Output::Finding(Box::new(finding))));
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

/// Values under their keys, and why some of them are null.
#[derive(Default)]
struct Values {
    fields: Map<String, Value>,
    unknown: Unknown,
}

impl Values {
    fn put(&mut self, key: &'static str, value: impl Serialize) {
        self.fields.insert(key.to_owned(), json!(value));
    }

    fn maybe(&mut self, key: &'static str, value: Option<impl Serialize>, why: &str) {
        if value.is_none() {
            self.unknown.insert(key, why.to_owned());
        }
        self.put(key, value);
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
