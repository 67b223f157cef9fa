//! `ctrace exits`: how every process ended, and why.

use tracer_common::signal::SCOPE_FATAL;

use super::{Lens, Registered};
use crate::{
    events::Event,
    findings::{
        World,
        exits::{Rule, Told},
    },
    kernel::plan,
    pipeline::{Answer, Output, Question},
};

pub static LENS: Registered = Registered {
    name: "exits",
    about: "Exits: how every process ended, and why",
    probes: &[&plan::SIGNAL, &plan::OOM_SHARER, &plan::OOM_DECISION, &plan::OOM_DONE, &plan::OOM_VICTIM, &plan::EXIT],
    on_demand: &[],
    wants: &[("WANT_ALL_EXITS", 1), ("WANT_SIGNALS", SCOPE_FATAL)],
    maps: &[],
    ring_kib: 512,
    in_overview: true,
    make: || Box::new(Exits::default()),
};

#[derive(Default)]
struct Exits {
    rule: Rule,
}

impl Lens for Exits {
    fn event(&mut self, event: &Event, world: &World, out: &mut Vec<Output>) {
        say(self.rule.event(event, world), out);
    }

    fn answer(&mut self, answer: &Answer, now_ns: u64, _: &World, _: &mut Vec<Output>) {
        if let Answer::Ancestry(pid, ancestors) = answer {
            self.rule.ancestry(*pid, ancestors, now_ns);
        }
    }

    fn tick(&mut self, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        say(self.rule.tick(now_ns, world), out);
    }

    fn next_ns(&self) -> Option<u64> {
        self.rule.next_ns()
    }
}

fn say(told: Told, out: &mut Vec<Output>) {
    out.extend(told.ask.into_iter().map(|pid| Output::Ask(Question::Ancestry(pid))));
    out.extend(told.rows.into_iter().map(|row| Output::Event(Box::new(row))));
    out.extend(told.findings.into_iter().map(|finding| Output::Finding(Box::new(finding))));
}
