//! `ctrace mem`: cache or leak, how near to which limit, and who stalls for memory.

use super::{Lens, Registered};
use crate::{
    events::Event,
    findings::{World, mem::Rule},
    kernel::plan,
    pipeline::{Answer, Output},
};

pub static LENS: Registered = Registered {
    name: "mem",
    about: "Memory: cache or leak, how near to which limit, reclaim, swap and stalls",
    // What ends a stall is hooked before what begins one.
    probes: &[
        &plan::RECLAIM_END,
        &plan::RECLAIM_BEGIN,
        &plan::HOST_RECLAIM_END,
        &plan::HOST_RECLAIM_BEGIN,
        &plan::OVER_HIGH_END,
        &plan::OVER_HIGH_BEGIN,
    ],
    on_demand: &[],
    wants: &[],
    maps: &[("STALLS", STALLS), ("STALLING", STALLS)],
    ring_kib: 512,
    in_overview: true,
    make: || Box::new(Mem::default()),
};

/// Processes whose stalls are counted apart, and threads that may stall at once.
pub const STALLS: u32 = 4096;

#[derive(Default)]
struct Mem {
    rule: Rule,
}

impl Lens for Mem {
    fn event(&mut self, event: &Event, _: &World, _: &mut Vec<Output>) {
        self.rule.event(event);
    }

    fn answer(&mut self, answer: &Answer, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        if let Answer::Mem(reading) = answer {
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
