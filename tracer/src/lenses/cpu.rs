//! `ctrace cpu`: throttled by a quota, contended by others, or blocked and no matter of CPU at all.

use tracer_common::cpu::SLOTS;

use super::{Lens, Registered};
use crate::{
    events::Event,
    findings::{World, cpu::Rule},
    kernel::plan,
    pipeline::{Answer, Output},
};

pub static LENS: Registered = Registered {
    name: "cpu",
    about: "CPU throttled by a quota or contended by others, and what the load average is made of",
    probes: &[&plan::SCHED_WAKEUP, &plan::SCHED_WAKEUP_NEW, &plan::SCHED_SWITCH],
    on_demand: &[&plan::SCHED_WAKEUP, &plan::SCHED_WAKEUP_NEW, &plan::SCHED_SWITCH],
    wants: &[],
    maps: &[("TASKS", SLOTS), ("WAITS", WAITS), ("BLOCKED", BLOCKED), ("SLEEPS", SLEEPS), ("STACKS", STACKS)],
    ring_kib: 512,
    in_overview: true,
    make: || Box::new(Cpu::default()),
};

/// Cgroups whose waits are kept; beyond, those that waited last.
pub const WAITS: u32 = 1024;
/// Tasks in uninterruptible sleep, likewise.
pub const BLOCKED: u32 = 4096;
/// Kinds of such sleeps, by cgroup and stack, likewise.
pub const SLEEPS: u32 = 2048;
/// Stacks that are kept, of 1 KiB each: beyond, a sleep has none.
const STACKS: u32 = 2048;

#[derive(Default)]
struct Cpu {
    rule: Rule,
}

impl Lens for Cpu {
    fn event(&mut self, _: &Event, _: &World, _: &mut Vec<Output>) {}

    fn answer(&mut self, answer: &Answer, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        if let Answer::Cpu(reading) = answer {
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
