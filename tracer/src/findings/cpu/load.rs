//! The load average as Linux computes it, per container (kernel/sched/loadavg.c).

use std::{collections::BTreeMap, sync::Arc};

use super::{blocked::Tasks, window::Window};
use crate::{containers::is_within, findings::World};

const MINUTE_NS: f64 = 60e9;

/// Runnable and uninterruptible tasks, averaged over a minute: by the container's cgroup; `None`: of the host.
#[derive(Debug, Default)]
pub struct Loads {
    average: BTreeMap<Option<Arc<str>>, f64>,
}

/// What one owner adds to the load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Running or waiting to, on average since the last reading.
    pub runnable: f64,
    /// In uninterruptible sleep now.
    pub blocked: u64,
    pub minute: f64,
}

/// One step of the average: what it was, the tasks since, and the time that they took. With the kernel's own five seconds
/// this is the kernel's own formula.
pub fn step(average: f64, tasks: f64, ns: u64) -> f64 {
    let keep = (-(ns as f64) / MINUTE_NS).exp();
    average * keep + tasks * (1.0 - keep)
}

impl Loads {
    /// Nothing where the kernel side sees no waits: then the runnable are not known.
    pub fn advance(&mut self, window: &Window, tasks: &Tasks, world: &World) -> BTreeMap<Option<Arc<str>>, Load> {
        let Some(host_waited) = window.waited(None, world) else { return BTreeMap::new() };
        let mut found: Vec<(Option<Arc<str>>, f64)> = Vec::new();
        let mut used_by_containers = 0.0;
        for group in &window.new.groups {
            let (Some(used), Some(waited)) = (window.used(group), window.waited(Some(&group.cgroup), world)) else {
                continue;
            };
            let inner = window
                .new
                .groups
                .iter()
                .any(|other| other.cgroup != group.cgroup && is_within(&group.cgroup, &other.cgroup));
            used_by_containers += if inner { 0.0 } else { used.total };
            found.push((Some(Arc::clone(&group.cgroup)), window.demand(used.total, &waited)));
        }
        let host = window.host();
        let busy = host.sum().saturating_sub(host.idle.saturating_add(host.iowait)) as f64 / window.ns().max(1) as f64;
        found.push((None, window.demand((busy - used_by_containers).max(0.0), &host_waited)));
        let loads: BTreeMap<_, _> = found
            .into_iter()
            .map(|(owner, runnable)| {
                let blocked = tasks.count(owner.as_deref(), world);
                let tasks = runnable + blocked as f64;
                // Of what was before the first reading nothing is known: as if it had been so for long.
                let before = self.average.get(&owner).copied().unwrap_or(tasks);
                let minute = step(before, tasks, window.ns());
                (owner, Load { runnable, blocked, minute })
            })
            .collect();
        self.average = loads.iter().map(|(owner, load)| (owner.clone(), load.minute)).collect();
        loads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// calc_load() of the kernel, in its fixed point.
    fn kernel(load: u64, active: u64) -> u64 {
        const EXP_1: u64 = 1884;
        let active = active.saturating_mul(2048);
        let mut sum = load.saturating_mul(EXP_1).saturating_add(active.saturating_mul(2048 - EXP_1));
        if active >= load {
            sum += 2047;
        }
        sum / 2048
    }

    #[test]
    fn the_average_is_the_kernels() {
        let (mut own, mut kernels) = (0.0, 0);
        for tasks in [0, 3, 3, 3, 7, 7, 0, 0, 0, 1, 12, 12, 12, 12, 12, 12, 0, 0, 2, 2, 2, 2, 2, 2] {
            own = step(own, f64::from(tasks), 5_000_000_000);
            kernels = kernel(kernels, u64::from(tasks as u32));
            let shown = kernels as f64 / 2048.0;
            assert!((own - shown).abs() < 0.02, "{own} against {shown}");
        }
        assert!(own > 1.0, "{own}");
    }
}
