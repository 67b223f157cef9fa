//! OOM kills: the records of one decision are put together here, and judged in `judge`.

mod explain;
mod hung;
mod judge;
mod past;

use std::collections::HashMap;

use tracer_common::{
    oom::{Decision, Sharer, VICTIM_ANNOUNCED, VICTIM_KILLED, Victim},
    task::Task,
};

pub use explain::EXPLAINED;
pub use hung::{Hung, Reading as HungReading};
pub use past::past;

use super::World;
use crate::{
    events::{Event, identity},
    model::Finding,
};

/// A decision is told when its victims are gone and whoever waits for them had time to react…
const SETTLE_NS: u64 = 150_000_000;
/// … or after this, whatever still lives.
const PATIENCE_NS: u64 = 800_000_000;
/// Without `oom_kill_process` to bracket it: marks by one thread this close together, of one `memory.oom.group`, are
/// one decision.
const GROUP_GAP_NS: u64 = 50_000_000;
/// The kernel may mark a process that is dying again.
const REMARK_NS: u64 = 10_000_000_000;

/// Everything seen of one decision of the OOM killer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Case {
    /// Of this run; the finding's id is made of it.
    number: u64,
    trigger_tid: u32,
    decision: Option<Decision>,
    victims: Vec<Victim>,
    sharers: Vec<Sharer>,
    /// `oom_kill_process` has returned.
    done: bool,
    first_ns: u64,
    last_ns: u64,
    /// Of the victims and of PID 1: (pid, start) of those that are gone.
    gone: Vec<(u32, u64)>,
    /// The last exit of a victim.
    gone_ns: u64,
}

/// Puts decisions together and judges them.
#[derive(Debug, Default)]
pub struct Rule {
    open: Vec<Case>,
    /// Processes marked lately: (pid, start) to when.
    marked: HashMap<(u32, u64), u64>,
    /// Who was killed by which decision, as long as their exits are awaited: (pid, start) to (number, when).
    killed: HashMap<(u32, u64), (u64, u64)>,
    cases: u64,
}

impl Rule {
    pub fn event(&mut self, event: &Event, world: &World) {
        match event {
            Event::OomDecision(decision) => self.decision(decision),
            Event::OomVictim(victim) => self.victim(victim, world),
            Event::OomSharer(sharer) => self.sharer(sharer),
            Event::OomDone(done) => {
                for case in self.open.iter_mut().filter(|case| case.trigger_tid == done.trigger_tid) {
                    case.done = true;
                    case.last_ns = done.header.time_ns;
                }
            }
            Event::Exit(exit) => self.exit(&exit.task, exit.header.time_ns),
            _ => {}
        }
    }

    /// Findings that are ripe at `now_ns`, by the records' clock.
    pub fn tick(&mut self, now_ns: u64, world: &World) -> Vec<Finding> {
        self.marked.retain(|_, at| now_ns.saturating_sub(*at) < REMARK_NS);
        self.killed.retain(|_, (_, at)| now_ns.saturating_sub(*at) < REMARK_NS);
        let (ripe, open) = std::mem::take(&mut self.open).into_iter().partition(|case: &Case| case.ripe(now_ns));
        self.open = open;
        let mut findings = Vec::new();
        for case in ripe.iter().filter(|case: &&Case| !case.victims.is_empty()) {
            findings.extend(judge::judge(case, world));
        }
        findings
    }

    /// The id of the finding about the decision that killed this process (which may be told a moment later), and when.
    pub fn killed_by(&self, task: &Task) -> Option<(String, u64)> {
        self.killed.get(&identity(task)).map(|(number, at)| (judge::id(*number), *at))
    }

    /// When the next decision will be ripe, if nothing more is heard of it.
    pub fn next_ns(&self) -> Option<u64> {
        self.open.iter().map(Case::ripe_at).min()
    }

    fn decision(&mut self, decision: &Decision) {
        let time = decision.header.time_ns;
        // A former decision of the same thread is over, even if the record of its end was lost.
        for case in self.open.iter_mut().filter(|case| case.trigger_tid == decision.trigger.tid) {
            case.done = true;
        }
        self.cases += 1;
        self.open.push(Case {
            number: self.cases,
            trigger_tid: decision.trigger.tid,
            decision: Some(*decision),
            first_ns: time,
            last_ns: time,
            ..Case::default()
        });
    }

    fn victim(&mut self, victim: &Victim, world: &World) {
        let time = victim.header.time_ns;
        let announced = victim.flags & VICTIM_ANNOUNCED != 0;
        // Marked, but killed by nobody: it was dying already, and only gets at the reserves.
        let killed = victim.flags & VICTIM_KILLED != 0 || !world.attached("oom_sharer");
        let again = self.marked.insert(identity(&victim.victim), time).is_some();
        if again || !killed || (!announced && world.attached("oom_decision")) {
            return;
        }
        let tid = victim.trigger.tid;
        let case = self.open.iter_mut().rev().find(|case| {
            case.trigger_tid == tid
                && !case.done
                && if announced {
                    true
                } else {
                    time.saturating_sub(case.last_ns) < GROUP_GAP_NS
                        && case.victims.last().is_some_and(|last| same_group(last, victim))
                }
        });
        let number = if let Some(case) = case {
            case.last_ns = time;
            case.sharers.retain(|sharer| identity(&sharer.victim) != identity(&victim.victim));
            case.victims.push(*victim);
            case.number
        } else {
            self.cases += 1;
            self.open.push(Case {
                number: self.cases,
                trigger_tid: tid,
                first_ns: time,
                last_ns: time,
                victims: vec![*victim],
                ..Case::default()
            });
            self.cases
        };
        self.killed.insert(identity(&victim.victim), (number, time));
    }

    fn sharer(&mut self, sharer: &Sharer) {
        let who = identity(&sharer.victim);
        let case = self.open.iter_mut().rev().find(|case| {
            case.trigger_tid == sharer.trigger_tid && case.victims.iter().any(|victim| victim.mm == sharer.mm)
        });
        if let Some(case) = case
            && case.victims.iter().all(|victim| identity(&victim.victim) != who)
            && case.sharers.iter().all(|other| identity(&other.victim) != who)
        {
            case.sharers.push(*sharer);
            self.killed.insert(who, (case.number, sharer.header.time_ns));
        }
    }

    fn exit(&mut self, task: &Task, time: u64) {
        let who = identity(task);
        for case in &mut self.open {
            if case.victims.iter().any(|victim| identity(&victim.victim) == who) {
                case.gone_ns = time;
                case.gone.push(who);
            } else if case.victims.iter().any(|victim| victim.victim.init == task.tgid) {
                case.gone.push(who);
            }
        }
    }
}

impl Case {
    fn ripe(&self, now_ns: u64) -> bool {
        now_ns >= self.ripe_at()
    }

    fn ripe_at(&self) -> u64 {
        let latest = self.first_ns.saturating_add(PATIENCE_NS);
        let whole = self.done || self.decision.is_none();
        let over = whole && !self.victims.is_empty() && self.victims.iter().all(|victim| self.is_gone(&victim.victim));
        if over { latest.min(self.gone_ns.max(self.last_ns).saturating_add(SETTLE_NS)) } else { latest }
    }

    fn is_gone(&self, task: &Task) -> bool {
        self.gone.contains(&identity(task))
    }
}

/// Are both below one cgroup that has `memory.oom.group`?
fn same_group(a: &Victim, b: &Victim) -> bool {
    let groups = |victim: &Victim| {
        victim
            .levels
            .iter()
            .take(victim.depth as usize)
            .filter(|level| level.oom_group == 1)
            .map(|level| level.cgroup)
            .collect::<Vec<_>>()
    };
    let of_a = groups(a);
    groups(b).iter().any(|cgroup| of_a.contains(cgroup))
}

#[cfg(test)]
mod tests;
