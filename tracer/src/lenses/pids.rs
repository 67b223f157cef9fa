//! `ctrace pids`: why can't it fork, and who does not reap.

use super::{Lens, Registered};
use crate::{
    events::Event,
    findings::{World, pids::Rule},
    kernel::plan,
    pipeline::{Answer, Output},
};

pub static LENS: Registered = Registered {
    name: "pids",
    about: "refused forks, zombies, and process counts against every limit",
    // Who is reaped is watched before who ends, or the map would keep some for ever.
    probes: &[&plan::FORK_REFUSED, &plan::FORK_FAILED, &plan::PROCESS_FREE, &plan::EXIT],
    on_demand: &[],
    wants: &[("WANT_UNREAPED", 1)],
    maps: &[("UNREAPED", UNREAPED)],
    ring_kib: 512,
    in_overview: true,
    make: || Box::new(Pids::default()),
};

/// Processes that may wait to be reaped at once; the sweep of /proc finds those beyond.
pub const UNREAPED: u32 = 16_384;

#[derive(Default)]
struct Pids {
    rule: Rule,
}

impl Lens for Pids {
    fn event(&mut self, event: &Event, world: &World, out: &mut Vec<Output>) {
        self.rule.event(event, world, out);
    }

    fn answer(&mut self, answer: &Answer, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        if let Answer::Pids(reading) = answer {
            self.rule.reading(reading, now_ns, world, out);
        }
    }

    fn tick(&mut self, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        self.rule.tick(now_ns, world, out);
    }

    /// What it says comes of readings, once a second: nothing is ripe between.
    fn next_ns(&self) -> Option<u64> {
        None
    }
}
