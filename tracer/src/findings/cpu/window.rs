//! What happened between two readings.

use std::collections::BTreeMap;

use super::reading::{Bandwidth, Group, Level, Quota, Slept, Times, Usage, Used, Waited};
use crate::{
    containers::is_within,
    findings::{
        World,
        numbers::{grow, total},
    },
};

/// Two readings, and the time between.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    pub old: &'a Usage,
    pub new: &'a Usage,
}

/// A level of the cpu hierarchy that held a container back.
#[derive(Clone, Debug, PartialEq)]
pub struct Throttle {
    pub path: String,
    /// As it is now; `None`: taken away meanwhile.
    pub quota: Option<Quota>,
    pub was: Bandwidth,
}

impl Throttle {
    /// Share of the periods in which it was.
    pub fn pct(&self) -> f64 {
        self.was.throttled as f64 * 100.0 / self.was.periods.max(1) as f64
    }
}

/// A container's use of the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpus {
    pub total: f64,
    pub user: f64,
    pub system: f64,
}

impl<'a> Window<'a> {
    pub fn ns(&self) -> u64 {
        self.new.at_ns.saturating_sub(self.old.at_ns)
    }

    fn per_ns(&self, ns: u64) -> f64 {
        ns as f64 / self.ns().max(1) as f64
    }

    pub fn group(&self, cgroup: &str) -> Option<&'a Group> {
        self.new.groups.iter().find(|group| *group.cgroup == *cgroup)
    }

    fn used_ns(&self, group: &Group) -> Option<Used> {
        let before = self.old.groups.iter().find(|old| old.cgroup == group.cgroup)?.used?;
        let now = group.used?;
        Some(Used {
            total_ns: now.total_ns.saturating_sub(before.total_ns),
            user_ns: now.user_ns.saturating_sub(before.user_ns),
            system_ns: now.system_ns.saturating_sub(before.system_ns),
        })
    }

    pub fn used(&self, group: &Group) -> Option<Cpus> {
        let used = self.used_ns(group)?;
        Some(Cpus {
            total: self.per_ns(used.total_ns),
            user: self.per_ns(used.user_ns),
            system: self.per_ns(used.system_ns),
        })
    }

    /// The levels that hold it, its own first.
    pub fn chain(&self, group: &Group) -> impl Iterator<Item = &'a Level> {
        let path = group.cpu_path.clone();
        let mut levels: Vec<&Level> = self
            .new
            .levels
            .iter()
            .filter(|level| path.as_deref().is_some_and(|path| is_within(path, &level.path)))
            .collect();
        levels.sort_by_key(|level| std::cmp::Reverse(level.path.trim_end_matches('/').len()));
        levels.into_iter()
    }

    /// What each level's cpu.stat counted.
    pub fn throttles(&self, group: &Group) -> Vec<Throttle> {
        let delta = |level: &Level| {
            let (now, old) = (level.bandwidth?, self.old.levels.iter().find(|old| old.path == level.path)?.bandwidth?);
            Some(Throttle {
                path: level.path.clone(),
                quota: level.quota,
                was: Bandwidth {
                    periods: now.periods.saturating_sub(old.periods),
                    throttled: now.throttled.saturating_sub(old.throttled),
                    throttled_ns: now.throttled_ns.saturating_sub(old.throttled_ns),
                    bursts: now.bursts.zip(old.bursts).map(|(now, old)| now.saturating_sub(old)),
                    burst_used_ns: now.burst_used_ns.zip(old.burst_used_ns).map(|(now, old)| now.saturating_sub(old)),
                },
            })
        };
        self.chain(group).filter_map(delta).collect()
    }

    /// The level that held it back most often.
    pub fn worst_throttle(&self, group: &Group) -> Option<Throttle> {
        let throttled = self.throttles(group).into_iter().filter(|level| level.was.throttled > 0);
        // The lowest of those that are alike.
        throttled.rev().max_by(|a, b| a.pct().total_cmp(&b.pct()))
    }

    /// The tightest quota that holds it.
    pub fn ceiling(&self, group: &Group) -> Option<(&'a str, Quota)> {
        let quotas = self.chain(group).filter_map(|level| Some((level.path.as_str(), level.quota?)));
        quotas.min_by(|a, b| a.1.cpus().total_cmp(&b.1.cpus()))
    }

    /// What the tasks in a cgroup and below waited; of the host (`None`) those in no container. `None`: nothing is hooked.
    pub fn waited(&self, cgroup: Option<&str>, world: &World) -> Option<Waited> {
        let mut sum = Waited::default();
        for (key, now) in self.new.waits.as_ref()?.iter().filter(|(key, _)| belongs(**key, cgroup, world)) {
            let old = self.old.waits.as_ref()?.get(key);
            sum.add(now, old);
        }
        Some(sum)
    }

    /// The uninterruptible sleeps that ended in it, by stack, those that took most first.
    pub fn slept(&self, cgroup: Option<&str>, world: &World) -> Vec<(u32, Slept)> {
        let mut by_stack: BTreeMap<u32, Slept> = BTreeMap::new();
        for (key, now) in self.new.sleeps.iter().filter(|((key, _), _)| belongs(*key, cgroup, world)) {
            // The kernel side may have had to forget it, and counts from nothing then.
            let old = self.old.sleeps.get(key).filter(|old| old.count <= now.count).copied().unwrap_or_default();
            let sum = by_stack.entry(key.1).or_default();
            grow(&mut sum.count, now.count.saturating_sub(old.count));
            grow(&mut sum.total_ns, now.total_ns.saturating_sub(old.total_ns));
        }
        let mut slept: Vec<_> = by_stack.into_iter().filter(|(_, slept)| slept.count > 0).collect();
        slept.sort_by_key(|(_, slept)| std::cmp::Reverse(slept.total_ns));
        slept
    }

    /// Runnable time as CPUs: what ran, and what waited to.
    pub fn demand(&self, used: f64, waited: &Waited) -> f64 {
        used + self.per_ns(waited.total_ns)
    }

    /// Who ran, largest first: (container, share of all that ran). Of those one in another only the outer ones; the rest
    /// is the host's own (`None`).
    pub fn ran(&self) -> Vec<(Option<&'a Group>, f64)> {
        let times = self.host();
        let all = times.sum().saturating_sub(total([times.idle, times.iowait, times.steal]));
        let groups = &self.new.groups;
        let outer = |group: &&Group| {
            !groups.iter().any(|other| other.cgroup != group.cgroup && is_within(&group.cgroup, &other.cgroup))
        };
        let used = |group: &Group| self.used_ns(group).map_or(0, |used| used.total_ns);
        let mut ran: Vec<(Option<&Group>, u64)> =
            groups.iter().filter(outer).map(|group| (Some(group), used(group))).collect();
        ran.push((None, all.saturating_sub(total(ran.iter().map(|(_, ns)| ns)))));
        // /proc/stat is made of ticks: it may tell less than all that ran.
        let all = total(ran.iter().map(|(_, ns)| ns)).max(1);
        ran.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
        ran.into_iter().map(|(group, ns)| (group, ns as f64 * 100.0 / all as f64)).collect()
    }

    /// Idle share of the CPUs that it may use. Waiting for a disk is idle as well: another could run.
    pub fn idle_pct(&self, cpus: Option<&[u32]>) -> f64 {
        let pairs = self.new.host.each.iter().zip(&self.old.host.each).enumerate();
        let allowed = pairs.filter(|(cpu, _)| cpus.is_none_or(|cpus| cpus.contains(&(*cpu as u32))));
        let (mut idle, mut all) = (0, 0);
        for (_, (now, before)) in allowed {
            let times = now.since(before);
            grow(&mut idle, times.idle.saturating_add(times.iowait));
            grow(&mut all, times.sum());
        }
        idle as f64 * 100.0 / all.max(1) as f64
    }

    pub fn host(&self) -> Times {
        self.new.host.all.since(&self.old.host.all)
    }

    pub fn cpus(&self, group: &Group) -> f64 {
        group.cpus.as_ref().map_or(self.new.host.each.len(), Vec::len).max(1) as f64
    }
}

/// Is a cgroup, by its key, within the container, or in none?
fn belongs(key: u64, container: Option<&str>, world: &World) -> bool {
    match container {
        Some(container) => world.containers.path(key).is_some_and(|path| is_within(path, container)),
        None => world.containers.owner(key).is_none(),
    }
}

/// A counter that the kernel side had to forget began anew.
fn grown(now: u64, before: Option<u64>) -> u64 {
    now.checked_sub(before.unwrap_or(0)).unwrap_or(now)
}

impl Waited {
    fn add(&mut self, now: &Self, old: Option<&Self>) {
        let anew = old.is_some_and(|old| now.count < old.count);
        let old = old.filter(|_| !anew);
        let more = |of: fn(&Self) -> u64| grown(of(now), old.map(of));
        grow(&mut self.total_ns, more(|waited| waited.total_ns));
        grow(&mut self.count, more(|waited| waited.count));
        grow(&mut self.blocked, more(|waited| waited.blocked));
        grow(&mut self.blocked_ns, more(|waited| waited.blocked_ns));
        for (bucket, sum) in self.histogram.iter_mut().enumerate() {
            grow(sum, grown(now.histogram[bucket], old.map(|old| old.histogram[bucket])));
        }
        if now.worst.as_ref().map(|worst| worst.wait_ns) > self.worst.as_ref().map(|worst| worst.wait_ns) {
            self.worst.clone_from(&now.worst);
        }
    }

    /// Waits that were at least so long, or, by the width of a bucket, half of that.
    pub fn longer_than(&self, ns: u64) -> u64 {
        total(self.histogram.iter().enumerate().filter(|(bucket, _)| 2048 << bucket > ns).map(|(_, count)| count))
    }

    /// The wait that this share of all waits did not exceed, as its bucket's upper end; `None`: there were none.
    pub fn percentile_ns(&self, pct: u64) -> Option<u64> {
        let all = total(self.histogram.iter());
        let mut left = all.saturating_mul(pct).div_ceil(100);
        if all == 0 {
            return None;
        }
        for (bucket, count) in self.histogram.iter().enumerate() {
            left = left.saturating_sub(*count);
            if left == 0 {
                return Some(2048 << bucket);
            }
        }
        None
    }
}
