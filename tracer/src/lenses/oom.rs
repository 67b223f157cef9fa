//! `ctrace oom`: who was killed, by whose limit, and why.

use super::{Lens, Registered};
use crate::{
    events::Event,
    findings::{
        World,
        oom::{Hung, Rule},
    },
    kernel::plan,
    pipeline::{Answer, Output, Question},
};

pub static LENS: Registered = Registered {
    name: "oom",
    about: "OOM kills: who was killed, by whose limit, and why",
    probes: &[&plan::OOM_SHARER, &plan::OOM_DECISION, &plan::OOM_DONE, &plan::OOM_VICTIM, &plan::EXIT],
    on_demand: &[],
    wants: &[],
    maps: &[],
    ring_kib: 256,
    in_overview: true,
    make: || Box::new(Oom::default()),
};

#[derive(Default)]
struct Oom {
    rule: Rule,
    hung: Hung,
}

impl Lens for Oom {
    fn event(&mut self, event: &Event, world: &World, _: &mut Vec<Output>) {
        self.rule.event(event, world);
    }

    fn answer(&mut self, answer: &Answer, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        if let Answer::OomControl(readings) = answer {
            let findings = self.hung.readings(readings, now_ns, world);
            out.extend(findings.into_iter().map(|finding| Output::Finding(Box::new(finding))));
        }
    }

    fn tick(&mut self, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        let ask = self.hung.ask(now_ns, world);
        if !ask.is_empty() {
            out.push(Output::Ask(Question::OomControl(ask)));
        }
        out.extend(self.rule.tick(now_ns, world).into_iter().map(|finding| Output::Finding(Box::new(finding))));
    }

    fn next_ns(&self) -> Option<u64> {
        self.rule.next_ns()
    }
}
