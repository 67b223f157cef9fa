//! Writers that are paused, calls that wait for a device, devices and their limits, file systems that are full. What is read for it is asked for, and
//! comes back as a [`Reading`].

mod copy_up;
mod devices;
mod dirty;
mod explain;
pub mod reading;
mod sample;
mod space;
mod syncs;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use tracer_common::{block::IoKey, dirty::PauseKey, space::EROFS, sync::SyncKey};

pub use explain::EXPLAINED;
pub use reading::{
    Ask, Control, Counts, HostDirty, IoTotal, Limit, PauseTotal, Place, Reading, Roots, SyncTotal, Weights, What,
    Where, Writer,
};

use self::space::Refusals;
use super::{
    World,
    pace::{EVERY_NS, Pace},
    state::{Conditions, Said},
    sysctl,
    window::Window,
};
use crate::{
    events::Event,
    model::{Code, Finding},
    pipeline::{Output, Question},
};

/// The state of the lens.
#[derive(Debug, Default)]
pub struct Rule {
    pauses: Window<PauseKey, PauseTotal>,
    requests: Window<IoKey, IoTotal>,
    syncs: Window<SyncKey, SyncTotal>,
    written: BTreeMap<Arc<str>, devices::Written>,
    refusals: Refusals,
    sysctls: sysctl::Rule,
    conditions: Conditions,
    said: Said,
    pace: Pace,
    roots: BTreeMap<Arc<str>, Place>,
    roots_pace: Pace,
    copies: u64,
}

/// How full a container's root is changes slowly.
const ROOTS_EVERY_NS: u64 = 10_000_000_000;

/// What the verdicts of one reading rest on.
struct Seen<'a> {
    counts: &'a Counts,
    pauses: &'a Window<PauseKey, PauseTotal>,
    requests: &'a Window<IoKey, IoTotal>,
    syncs: &'a Window<SyncKey, SyncTotal>,
    roots: &'a BTreeMap<Arc<str>, Place>,
    world: &'a World<'a>,
}

impl Rule {
    pub fn event(&mut self, event: &Event, world: &World, out: &mut Vec<Output>) {
        let refused = match event {
            Event::FileRefused(refused) => refused,
            Event::CopyUp(copy) => {
                let found = copy_up::judge(copy, &mut self.copies, world);
                out.extend(found.map(|finding| Output::Finding(Box::new(finding))));
                return;
            }
            _ => return,
        };
        if refused.errno == EROFS {
            out.extend(self.sysctls.event(event, world).map(|finding| Output::Finding(Box::new(finding))));
        } else {
            out.extend(
                self.refusals
                    .refused(refused, world)
                    .map(|wanted| Output::Ask(Question::Io(Ask::Place { wanted, of: world.owned_paths() }))),
            );
        }
    }

    pub fn tick(&mut self, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        out.extend(self.sysctls.tick(now_ns, world).into_iter().map(|finding| Output::Finding(Box::new(finding))));
        if self.roots_pace.is_due(now_ns) {
            self.roots_pace.asked(now_ns, ROOTS_EVERY_NS);
            let mut of: BTreeMap<Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
            for path in world.owned_paths() {
                if let Some(container) = world.containers.owner_of_path(&path) {
                    of.entry(container.cgroup.as_str().into()).or_default().push(path);
                }
            }
            out.push(Output::Ask(Question::Io(Ask::Roots { of })));
        }
        if !self.pace.is_due(now_ns) {
            return;
        }
        self.pace.asked(now_ns, EVERY_NS);
        out.push(Output::Ask(Question::Io(Ask::Counts { of: world.owners() })));
    }

    pub fn reading(&mut self, reading: &Reading, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        let mut findings = Vec::new();
        match reading {
            Reading::Counts(counts) => {
                self.pace.came(now_ns, counts.took_ns);
                self.pauses.take_in(world, counts.at_ns, &counts.pauses);
                self.requests.take_in(world, counts.at_ns, &counts.requests);
                self.syncs.take_in(world, counts.at_ns, &counts.syncs);
                let seen = Seen {
                    counts,
                    pauses: &self.pauses,
                    requests: &self.requests,
                    syncs: &self.syncs,
                    roots: &self.roots,
                    world,
                };
                findings.extend(dirty::judge(&seen, &mut self.conditions));
                findings.extend(syncs::judge(&seen, &mut self.conditions));
                findings.extend(devices::judge(&seen, &mut self.written, &mut self.conditions));
                out.extend(sample::rows(&seen));
            }
            Reading::Roots(roots) => {
                self.roots_pace.came(now_ns, roots.took_ns);
                self.roots = roots.of.clone();
            }
            Reading::Place(place, found) => {
                findings.extend(self.refusals.placed(place, found, now_ns, world, &mut self.conditions));
            }
        }
        let said: Vec<Finding> = findings.into_iter().map(|finding| self.said.say(finding)).collect();
        let over = self.said.over(&mut self.conditions, now_ns, world, over);
        out.extend(said.into_iter().chain(over).map(|finding| Output::Finding(Box::new(finding))));
    }
}

/// What there is to say where one of them is over.
fn over(code: Code) -> &'static str {
    match code.0 {
        "io.dirty-throttled" => "its writers are no longer paused",
        "io.slow-sync" => "its syncs are fast again, or it makes none",
        "io.throttled" => "it is no longer at its limit",
        "io.blkio-v1-buffered" => "it writes no more past its limit",
        _ => "no call was refused for a while",
    }
}

/// `[{"below_ns": 16000, "count": 3}, …]`, empty ones left out; bounds double, and the last has none.
fn histogram(buckets: &[u64], first_bound_ns: u64) -> Vec<Value> {
    let filled = buckets.iter().enumerate().filter(|(_, count)| **count > 0);
    filled
        .map(|(at, count)| {
            if at + 1 < buckets.len() {
                json!({"below_ns": first_bound_ns << at, "count": count})
            } else {
                json!({"count": count})
            }
        })
        .collect()
}
