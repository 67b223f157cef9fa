//! Processes against their limits: refused forks, zombies, counts. What is read for it is asked for, and comes back as
//! a [`Reading`].

mod explain;
mod host;
mod limit;
pub mod reading;
mod sample;
#[cfg(test)]
mod tests;
mod zombies;

pub use explain::EXPLAINED;
pub use reading::{Ask, Asker, Counts, Dead, Group, HostPids, Level, Reading, Stat, States, Sweep, Waiting};

use tracer_common::pids::ForkFailed;

use self::{host::HostLimits, limit::Limits, zombies::Zombies};
use super::{
    World,
    pace::{EVERY_NS, Pace},
};
use crate::{
    events::Event,
    model::Finding,
    pipeline::{Output, Question},
};

/// All of /proc is read this often, for zombies that the kernel side could not see end.
const SWEEP_NS: u64 = 10_000_000_000;

/// The state of the lens.
#[derive(Debug, Default)]
pub struct Rule {
    limits: Limits,
    host_limits: HostLimits,
    zombies: Zombies,
    counts: Option<Counts>,
    /// The host's processes by state, as the last sweep saw them.
    host_states: Option<States>,
    counts_pace: Pace,
    waiting_pace: Pace,
    sweep_pace: Pace,
}

impl Rule {
    pub fn event(&mut self, event: &Event, world: &World, out: &mut Vec<Output>) {
        if let Event::ForkRefused(refused) = event
            && self.limits.refused(refused)
        {
            // The first of its cgroup: how its hierarchy looks is read at once.
            out.push(self.ask_counts(world, refused.header.time_ns));
        }
        if let Event::ForkFailed(failed) = event
            && self.host_limits.failed(failed)
        {
            let ForkFailed { asker, from, .. } = failed;
            out.push(Output::Ask(Question::Pids(Ask::Asker { pid: asker.tgid, from: *from, uid: asker.uid })));
        }
    }

    pub fn tick(&mut self, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        if self.waiting_pace.is_due(now_ns) {
            self.waiting_pace.asked(now_ns, EVERY_NS);
            out.push(Output::Ask(Question::Pids(Ask::Unreaped { known: self.zombies.known() })));
        }
        // After that: what a sweep finds is looked at the next time, and not forgotten by a reading that did not ask for it.
        if self.sweep_pace.is_due(now_ns) {
            self.sweep_pace.asked(now_ns, SWEEP_NS);
            out.push(Output::Ask(Question::Pids(Ask::Sweep)));
        }
        if self.counts_pace.is_due(now_ns) {
            out.push(self.ask_counts(world, now_ns));
        }
    }

    pub fn reading(&mut self, reading: &Reading, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        match reading {
            Reading::Counts(counts) => {
                self.counts_pace.came(now_ns, counts.took_ns);
                let findings = self.limits.counted(counts, &self.zombies, now_ns, world);
                said(findings, out);
                let is_full = |from| self.limits.is_full(from, counts);
                said(self.host_limits.counted(counts, is_full, now_ns, world), out);
                let states = self.host_states.as_ref();
                out.extend(sample::rows(counts, &self.zombies, states, now_ns, world));
                self.counts = Some(counts.clone());
            }
            Reading::Unreaped(waiting) => {
                self.waiting_pace.came(now_ns, waiting.took_ns);
                said(self.zombies.waiting(waiting, self.counts.as_ref(), now_ns, world), out);
            }
            Reading::Sweep(sweep) => {
                self.sweep_pace.came(now_ns, sweep.took_ns);
                self.host_states = Some(sweep.states);
                self.zombies.swept(sweep, now_ns);
            }
            Reading::Asker(asker) => said(self.host_limits.looked(asker, now_ns, world).into_iter().collect(), out),
        }
    }

    fn ask_counts(&mut self, world: &World, now_ns: u64) -> Output {
        self.counts_pace.asked(now_ns, EVERY_NS);
        Output::Ask(Question::Pids(Ask::Counts { of: world.owned_paths(), events: !world.attached("fork_refused") }))
    }
}

fn said(findings: Vec<Finding>, out: &mut Vec<Output>) {
    out.extend(findings.into_iter().map(|finding| Output::Finding(Box::new(finding))));
}
