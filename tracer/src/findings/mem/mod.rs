//! Memory that is cache, memory that runs out, and time spent finding some. What is read for it is asked for, and comes
//! back as a [`Reading`].

mod explain;
mod judge;
mod past;
pub mod reading;
mod sample;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

pub use explain::EXPLAINED;
pub use reading::{Ask, Level, Psi, Reading, StallTotal, Stat};

use self::past::{Past, Stalls};
use super::{
    World,
    pace::{EVERY_NS, Pace},
    state::Conditions,
};
use crate::{
    events::Event,
    model::Finding,
    pipeline::{Output, Question},
};

/// A cgroup that is read for the first time is new, if it was made within this.
const YOUNG_NS: u64 = 10_000_000_000;

/// The state of the lens.
#[derive(Debug, Default)]
pub struct Rule {
    past: BTreeMap<Arc<str>, Past>,
    /// Cgroups that were made lately, by id: when.
    born: BTreeMap<u64, u64>,
    stalls: Stalls,
    conditions: Conditions,
    /// What was last said of each, to close it with.
    said: BTreeMap<String, Finding>,
    pace: Pace,
}

impl Rule {
    pub fn event(&mut self, event: &Event) {
        if let Event::CgroupMkdir(mkdir) = event {
            self.born.insert(mkdir.header.cgroup, mkdir.header.time_ns);
        }
    }

    pub fn tick(&mut self, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        if !self.pace.is_due(now_ns) {
            return;
        }
        self.pace.asked(now_ns, EVERY_NS);
        out.push(Output::Ask(Question::Mem(Ask { of: world.owners() })));
    }

    pub fn reading(&mut self, reading: &Reading, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        self.pace.came(now_ns, reading.took_ns);
        self.past.retain(|path, _| reading.levels.contains_key(path));
        // Those that came since the reading before had all their counts at 0 then.
        self.born.retain(|_, born_ns| now_ns.saturating_sub(*born_ns) < YOUNG_NS);
        let born: BTreeMap<&str, u64> =
            self.born.iter().filter_map(|(id, born_ns)| Some((&**world.containers.path(*id)?, *born_ns))).collect();
        for (path, level) in &reading.levels {
            let new = || born.get(&**path).map_or_else(Past::default, |born_ns| Past::since(*born_ns));
            self.past.entry(path.clone()).or_insert_with(new).take(reading.at_ns, level);
        }
        self.stalls.take_in(world, reading.at_ns, &reading.stalls);
        let seen = judge::Seen { reading, past: &self.past, stalls: &self.stalls, world };
        let findings = judge::judge(&seen, &mut self.conditions, &mut self.said);
        out.extend(sample::rows(&seen));
        out.extend(findings.into_iter().map(|finding| Output::Finding(Box::new(finding))));
    }
}
