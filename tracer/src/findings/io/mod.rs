//! Writers that are paused, devices and their limits, file systems that are full. What is read for it is asked for, and
//! comes back as a [`Reading`].

mod devices;
mod dirty;
mod explain;
pub mod reading;
mod sample;
mod space;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use tracer_common::{block::IoKey, dirty::PauseKey, space::EROFS};

pub use explain::EXPLAINED;
pub use reading::{Ask, Control, Counts, HostDirty, IoTotal, Limit, PauseTotal, Place, Reading, What, Where};

use self::space::Refusals;
use super::{
    World,
    pace::{EVERY_NS, Pace},
    state::Conditions,
    sysctl,
    window::Window,
};
use crate::{
    events::Event,
    model::{Finding, State},
    pipeline::{Output, Question},
};

/// The state of the lens.
#[derive(Debug, Default)]
pub struct Rule {
    pauses: Window<PauseKey, PauseTotal>,
    requests: Window<IoKey, IoTotal>,
    written: BTreeMap<Arc<str>, devices::Written>,
    refusals: Refusals,
    sysctls: sysctl::Rule,
    conditions: Conditions,
    /// What was last said of each, to close it with.
    said: BTreeMap<String, Finding>,
    pace: Pace,
}

/// What the verdicts of one reading rest on.
struct Seen<'a> {
    counts: &'a Counts,
    pauses: &'a Window<PauseKey, PauseTotal>,
    requests: &'a Window<IoKey, IoTotal>,
    world: &'a World<'a>,
}

impl Rule {
    pub fn event(&mut self, event: &Event, world: &World, out: &mut Vec<Output>) {
        let Event::FileRefused(refused) = event else { return };
        if refused.errno == EROFS {
            out.extend(self.sysctls.event(event, world).map(|finding| Output::Finding(Box::new(finding))));
        } else {
            out.extend(self.refusals.refused(refused, world).map(|place| Output::Ask(Question::Io(Ask::Place(place)))));
        }
    }

    pub fn tick(&mut self, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        out.extend(self.sysctls.tick(now_ns, world).into_iter().map(|finding| Output::Finding(Box::new(finding))));
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
                let seen = Seen { counts, pauses: &self.pauses, requests: &self.requests, world };
                findings.extend(dirty::judge(&seen, &mut self.conditions));
                findings.extend(devices::judge(&seen, &mut self.written, &mut self.conditions));
                out.extend(sample::rows(&seen));
            }
            Reading::Place(place, found) => {
                findings.extend(self.refusals.placed(place, found, now_ns, world, &mut self.conditions));
            }
        }
        out.extend(findings.into_iter().map(|finding| self.say(finding)));
        for (_, _, news) in self.conditions.over(now_ns) {
            let last = self.said.remove(&news.id);
            out.extend(last.map(|last| Output::Finding(Box::new(over(last, now_ns, world)))));
        }
    }

    fn say(&mut self, finding: Finding) -> Output {
        self.said.insert(finding.id.clone(), finding.clone());
        Output::Finding(Box::new(finding))
    }
}

/// The last that was said, ended.
fn over(last: Finding, now_ns: u64, world: &World) -> Finding {
    let summary = match last.code.0 {
        "io.dirty-throttled" => "its writers are no longer paused",
        "io.throttled" => "it is no longer at its limit",
        "io.blkio-v1-buffered" => "it writes no more past its limit",
        _ => "no call was refused for a while",
    };
    Finding { state: Some(State::Closed), time: world.at(now_ns), summary: summary.to_owned(), ..last }
}
