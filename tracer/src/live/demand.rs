//! When hot hooks are worth their price on the overview, those of the scheduler, of each packet and of each system call: while somebody looks at
//! what they tell, or while files say that there is something to see.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use anyhow::Result;
use tracer_common::{
    cpu::Blocked,
    dns::{Query, QueryKey},
};

use crate::{
    findings::cpu::{Sleepers, Usage},
    kernel::{host as machine, load::Kernel},
    lenses::{
        Registered,
        cpu::{self, BLOCKED},
        io,
        net::{self, DNS_QUERIES},
    },
    privileges,
};

/// What was seen is watched for this long: what it came of may come again.
const HOLD_NS: u64 = 10_000_000_000;
/// Of the CPUs that its cpuset gives it, in percent: who uses more may wait for them.
const FULL_PCT: u64 = 90;

/// Is there somebody who may wait for a CPU, or is blocked? As far as files tell, which are read anyway.
#[derive(Debug, Default)]
pub struct Signs {
    until_ns: u64,
    /// When it was read last.
    at_ns: u64,
    used_ns: HashMap<Arc<str>, u64>,
    throttled: BTreeMap<String, u64>,
}

impl Signs {
    pub fn used(&mut self, usage: &Usage) {
        let cpus = usage.host.each.len() as u64;
        // One of them reads this.
        let crowded = usage.host.runnable.is_some_and(|tasks| tasks > cpus + 1);
        let length_ns = usage.at_ns.saturating_sub(self.at_ns);
        let (mut used_ns, mut throttled) = (HashMap::new(), BTreeMap::new());
        let mut full = false;
        for group in &usage.groups {
            let Some(total_ns) = group.used.as_ref().map(|used| used.total_ns) else { continue };
            let own = group.cpus.as_ref().map_or(cpus, |list| list.len() as u64);
            let before = self.used_ns.get(&group.cgroup);
            let used = before.map_or(0, |before| total_ns.saturating_sub(*before));
            full |=
                own < cpus && u128::from(used) * 100 > u128::from(own) * u128::from(length_ns) * u128::from(FULL_PCT);
            used_ns.insert(Arc::clone(&group.cgroup), total_ns);
        }
        let mut held = false;
        for level in &usage.levels {
            let Some(bandwidth) = &level.bandwidth else { continue };
            held |= self.throttled.get(&level.path).is_some_and(|before| bandwidth.throttled > *before);
            throttled.insert(level.path.clone(), bandwidth.throttled);
        }
        (self.at_ns, self.used_ns, self.throttled) = (usage.at_ns, used_ns, throttled);
        if crowded || full || held {
            self.until_ns = usage.at_ns.saturating_add(HOLD_NS);
        }
    }

    pub fn slept(&mut self, sleepers: &Sleepers, now_ns: u64) {
        if sleepers.tasks.iter().any(|task| !task.frozen) {
            self.until_ns = now_ns.saturating_add(HOLD_NS);
        }
    }

    pub fn are_there(&self, now_ns: u64) -> bool {
        now_ns < self.until_ns
    }
}

/// Attaches and detaches a lens' hooks as they are needed.
#[derive(Debug)]
pub struct Demand {
    lens: &'static Registered,
    /// Where they are looked at.
    pub tabs: &'static [&'static str],
    /// What cannot be seen without them.
    what: &'static str,
    /// Makes void what the kernel side holds from before nobody listened.
    forget: fn(&mut Kernel) -> Result<()>,
    /// When somebody looked last.
    looked_ns: u64,
    /// The kernel refused: that is said once.
    refused: bool,
}

impl Demand {
    pub fn of_the_scheduler() -> Self {
        Self::of(&cpu::LENS, &["cpu"], "who waits for a CPU", forget_blocked)
    }

    pub fn of_packets() -> Self {
        Self::of(&net::LENS, &["net", "hops"], "the hops of packets", forget_queries)
    }

    /// Where functions can be hooked, theirs stay. What ends a wait is always seen, so nothing is left over from before.
    pub fn of_syncs() -> Self {
        Self::of(&io::LENS, &["io"], "who waits in fsync and its like", |_| Ok(()))
    }

    fn of(
        lens: &'static Registered,
        tabs: &'static [&'static str],
        what: &'static str,
        forget: fn(&mut Kernel) -> Result<()>,
    ) -> Self {
        Self { lens, tabs, what, forget, looked_ns: 0, refused: false }
    }

    /// `looked`: somebody looks now; `signs`: there is something to see. What could not be done is told once.
    pub fn follow(&mut self, looked: bool, signs: bool, kernel: &mut Kernel) -> Option<String> {
        let (now_ns, probes) = (machine::boottime_ns(), self.lens.on_demand);
        if looked {
            self.looked_ns = now_ns;
        }
        let recent = self.looked_ns != 0 && now_ns.saturating_sub(self.looked_ns) < HOLD_NS;
        let wanted = recent || signs;
        if wanted != kernel.is_idle(probes) || (wanted && self.refused) {
            return None;
        }
        if !wanted {
            kernel.end(probes);
            return None;
        }
        let begun = privileges::with(privileges::ATTACH, || {
            (self.forget)(kernel)?;
            kernel.begin(probes)
        });
        let error = begun.err()?;
        self.refused = true;
        Some(format!("{} cannot be watched: {error:#}", self.what))
    }
}

fn forget_blocked(kernel: &mut Kernel) -> Result<()> {
    kernel.set("HEARD_SINCE", machine::boottime_ns())?;
    for (tid, _) in kernel.entries::<u32, Blocked>("BLOCKED", BLOCKED as usize)? {
        kernel.remove::<u32, Blocked>("BLOCKED", tid)?;
    }
    Ok(())
}

/// Their answers may have come while nobody saw it.
fn forget_queries(kernel: &mut Kernel) -> Result<()> {
    for (key, _) in kernel.entries::<QueryKey, Query>("DNS_QUERIES", DNS_QUERIES as usize)? {
        kernel.remove::<QueryKey, Query>("DNS_QUERIES", key)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::cpu::{Bandwidth, Group, HostCpu, Level, Times, Used};

    const SECOND: u64 = 1_000_000_000;

    /// A reading of a machine of four CPUs.
    fn usage(second: u64, runnable: u64) -> Usage {
        let host = HostCpu { each: vec![Times::default(); 4], runnable: Some(runnable), ..HostCpu::default() };
        Usage { at_ns: second * SECOND, host, ..Usage::default() }
    }

    fn seen(readings: impl IntoIterator<Item = Usage>) -> bool {
        let mut signs = Signs::default();
        let mut at_ns = 0;
        for usage in readings {
            signs.used(&usage);
            at_ns = usage.at_ns;
        }
        signs.are_there(at_ns)
    }

    #[test]
    fn more_tasks_than_cpus() {
        assert!(!seen([usage(1, 5)]), "the reader is one of the five");
        assert!(seen([usage(1, 6)]));
        assert!(seen([usage(1, 6), usage(10, 1)]), "it is watched on for a while");
        assert!(!seen([usage(1, 6), usage(11, 1)]));
    }

    #[test]
    fn a_full_cpuset() {
        let with = |second: u64, used_ns: u64, cpus: &[u32]| {
            let used = Some(Used { total_ns: used_ns, ..Used::default() });
            let group = Group { cgroup: "/web".into(), used, cpus: Some(cpus.to_vec()), ..Group::default() };
            Usage { groups: vec![group], ..usage(second, 2) }
        };
        assert!(seen([with(1, 0, &[1]), with(2, SECOND * 95 / 100, &[1])]));
        assert!(!seen([with(1, 0, &[1]), with(2, SECOND * 85 / 100, &[1])]));
        assert!(!seen([with(1, 0, &[1, 2]), with(2, SECOND, &[1, 2])]));
        assert!(!seen([with(1, 0, &[0, 1, 2, 3]), with(2, 4 * SECOND, &[0, 1, 2, 3])]), "all CPUs: the tasks tell");
        assert!(!seen([with(9, SECOND, &[1])]), "nothing is known of before");
    }

    #[test]
    fn a_quota_that_holds() {
        let with = |second: u64, throttled: u64| {
            let bandwidth = Some(Bandwidth { throttled, ..Bandwidth::default() });
            let level = Level { path: "/web".to_owned(), bandwidth, ..Level::default() };
            Usage { levels: vec![level], ..usage(second, 1) }
        };
        assert!(seen([with(1, 7), with(2, 8)]));
        assert!(!seen([with(1, 7), with(2, 7)]));
        assert!(!seen([with(1, 7)]));
    }
}
