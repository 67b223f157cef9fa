//! `ctrace caps`: what a container needs of what it was given.

use tracer_common::caps::{CALLS, CHECKS, OUTCOMES, PROCESSES, WANT_WATCHED, WATCHED};

use super::{Lens, Registered};
use crate::{
    events::Event,
    findings::{
        World,
        caps::{Reading, Rule},
    },
    kernel::plan,
    pipeline::{Answer, Output},
};

pub static LENS: Registered = Registered {
    name: "caps",
    about: "Capabilities: what was used, what was refused, what was never asked for",
    // Who ends is watched before who is: an id that was kept would be another's later.
    probes: &[&plan::EXIT, &plan::CAP_FORK, &plan::CAP_EXEC, &plan::CAP_MOVE, &plan::CAP_OUTCOME, &plan::CAP_CHECK],
    on_demand: &[&plan::CAP_FORK, &plan::CAP_EXEC, &plan::CAP_MOVE, &plan::CAP_OUTCOME, &plan::CAP_CHECK],
    wants: &[("WANT_CAPS", WANT_WATCHED)],
    maps: &[
        ("CAP_WATCHED", WATCHED),
        ("CAP_PROCESSES", PROCESSES),
        ("CAP_CHECKS", CHECKS),
        ("CAP_OUTCOMES", OUTCOMES),
        ("CAP_CALLS", CALLS),
        ("CAP_UNCOUNTED", WATCHED),
        ("CAP_ASKED", CALLS),
    ],
    ring_kib: 1024,
    in_overview: false,
    make: || Box::new(Caps::default()),
};

#[derive(Default)]
struct Caps {
    rule: Rule,
}

impl Lens for Caps {
    fn event(&mut self, event: &Event, world: &World, out: &mut Vec<Output>) {
        self.rule.event(event, world, out);
    }

    fn answer(&mut self, answer: &Answer, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        if let Answer::Caps(reading) = answer {
            self.rule.reading(reading, now_ns, world, out);
        }
    }

    fn tick(&mut self, now_ns: u64, _: &World, out: &mut Vec<Output>) {
        self.rule.tick(now_ns, out);
    }

    fn finish(&mut self, now_ns: u64, _: &World, out: &mut Vec<Output>) {
        self.rule.finish(now_ns, out);
    }

    fn so_far(&self) -> Option<Answer> {
        let so_far = self.rule.so_far()?;
        Some(Answer::Caps(Box::new(Reading::SoFar(Box::new(so_far)))))
    }

    fn next_ns(&self) -> Option<u64> {
        self.rule.next_ns()
    }
}
