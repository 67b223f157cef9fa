//! `ctrace signals`: who sends which signal to whom, and what the kernel makes of it.

use tracer_common::signal::SCOPE_ALL;

use super::{Lens, Registered};
use crate::{
    events::Event,
    findings::{World, signals::Rule},
    kernel::plan,
    pipeline::{Answer, Output, Question},
};

pub static LENS: Registered = Registered {
    name: "signals",
    about: "Signals: sender, target, and what the kernel made of each",
    probes: &[&plan::SIGNAL, &plan::SIGNAL_DROPPED],
    on_demand: &[],
    wants: &[("WANT_SIGNALS", SCOPE_ALL)],
    maps: &[],
    ring_kib: 1024,
    in_overview: true,
    make: || Box::new(Signals::default()),
};

/// How often the counts of folded signals are asked for.
const COUNT_EVERY_NS: u64 = 1_000_000_000;

#[derive(Default)]
struct Signals {
    rule: Rule,
    asked_ns: u64,
}

impl Lens for Signals {
    fn event(&mut self, event: &Event, world: &World, out: &mut Vec<Output>) {
        let finding = match event {
            Event::Signal(record) => {
                let (row, finding) = self.rule.event(record, world);
                out.push(Output::Event(Box::new(row)));
                finding
            }
            Event::SignalDropped(record) => self.rule.dropped(record, world),
            _ => None,
        };
        out.extend(finding.map(|finding| Output::Finding(Box::new(finding))));
    }

    fn answer(&mut self, answer: &Answer, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        if let Answer::SignalTotals(totals) = answer {
            out.extend(self.rule.totals(totals, now_ns, world).into_iter().map(|row| Output::Event(Box::new(row))));
        }
    }

    fn tick(&mut self, now_ns: u64, _: &World, out: &mut Vec<Output>) {
        if now_ns.saturating_sub(self.asked_ns) >= COUNT_EVERY_NS {
            self.asked_ns = now_ns;
            let open = self.rule.open(now_ns);
            if !open.is_empty() {
                out.push(Output::Ask(Question::SignalTotals(open)));
            }
        }
    }

    fn next_ns(&self) -> Option<u64> {
        None
    }
}
