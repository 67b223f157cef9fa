//! `cpu.throttled`: its own quota, or a parent's, held a container back. One state finding per container.

use super::{
    Judge,
    reading::{Group, Quota, Waited},
    rounded, span,
    window::{Throttle, Window},
};
use crate::{
    findings::{World, numbers},
    model::{Code, Finding, Severity, State},
};

/// Share of the periods, in percent, from which on it is said.
pub const THROTTLED_PCT: f64 = 5.0;
/// Whoever used less of a CPU was not held back by a parent's quota: others were.
const USED_CPUS: f64 = 0.005;

pub struct Throttled<'a> {
    pub world: &'a World<'a>,
}

/// The level that throttles a container, if one does often enough.
pub fn cause(window: &Window, group: &Group) -> Option<Throttle> {
    let worst = window.worst_throttle(group).filter(|throttle| throttle.pct() >= THROTTLED_PCT)?;
    let own = group.cpu_path.as_deref() == Some(&*worst.path);
    (own || window.used(group).is_some_and(|used| used.total >= USED_CPUS)).then_some(worst)
}

impl Judge for Throttled<'_> {
    const ID: &'static str = "cpu-throttled";
    type Cause = Throttle;

    fn cause(&self, window: &Window, group: &Group) -> Option<Throttle> {
        cause(window, group)
    }

    fn left(&self, window: &Window, group: &Group) -> Option<Throttle> {
        window.worst_throttle(group)
    }

    fn pct(throttle: &Throttle) -> f64 {
        throttle.pct()
    }

    fn finding(&self, window: &Window, group: &Group, throttle: Option<&Throttle>, state: State, id: &str) -> Finding {
        Facts { window, group, throttle, world: self.world }.finding(state, id)
    }
}

/// What one verdict rests on.
struct Facts<'a> {
    window: &'a Window<'a>,
    group: &'a Group,
    /// Of a state that is over: what is left of it.
    throttle: Option<&'a Throttle>,
    world: &'a World<'a>,
}

/// The numbers of it; `None` is unknown.
struct Numbers {
    quota: Option<Quota>,
    used: Option<f64>,
    demand: Option<f64>,
    /// Waits are not seen here: from cpu.stat, which counts a CPU once, however many wait on it.
    least: bool,
    cpus: f64,
}

impl Numbers {
    /// How many CPUs would have been enough: more than can run at once are of no use.
    fn enough(&self) -> Option<f64> {
        self.demand.map(|demand| (demand.min(self.cpus) * 10.0).ceil() / 10.0)
    }
}

impl Facts<'_> {
    fn numbers(&self) -> Numbers {
        let quota = self.throttle.and_then(|throttle| throttle.quota);
        let used = self.window.used(self.group).map(|used| used.total);
        let waited: Option<Waited> = self.window.waited(Some(&self.group.cgroup), self.world);
        let throttled = self.throttle.map_or(0, |throttle| throttle.was.throttled_ns);
        let counted = Waited { total_ns: throttled, ..Waited::default() };
        let demand = used.map(|used| self.window.demand(used, waited.as_ref().unwrap_or(&counted)));
        Numbers { quota, used, demand, least: waited.is_none(), cpus: self.window.cpus(self.group) }
    }

    fn finding(&self, state: State, id: &str) -> Finding {
        let numbers = self.numbers();
        let was = self.throttle.map(|throttle| throttle.was).unwrap_or_default();
        let own = self.throttle.map(|throttle| self.group.cpu_path.as_deref() == Some(&*throttle.path));
        let mut values = numbers::Numbers::default();
        let no_quota = "the quota was taken away, or the container is gone";
        let no_use = "its cgroup has no CPU time of its own, or is gone";
        let no_level = "no level throttled it any more";
        values.put("quota_cpus", numbers.quota.map(|quota| rounded(quota.cpus())), no_quota);
        values.put("quota_ns", numbers.quota.map(|quota| quota.quota_ns), no_quota);
        values.put("period_ns", numbers.quota.map(|quota| quota.period_ns), no_quota);
        values.put("burst_ns", numbers.quota.map(|quota| quota.burst_ns), no_quota);
        values.set("throttled_pct", self.throttle.map_or(0.0, |throttle| rounded(throttle.pct())));
        values.set("throttled_periods", was.throttled);
        values.set("periods", was.periods);
        values.set("throttled_ns", was.throttled_ns);
        values.set("window_ns", self.window.ns());
        values.put("used_cpus", numbers.used.map(rounded), no_use);
        values.put("demand_cpus", numbers.demand.map(rounded), no_use);
        values.set("demand_is_least", numbers.least);
        values.put("enough_cpus", numbers.enough(), no_use);
        values.put("whose", own.map(|own| if own { "own" } else { "parent" }), no_level);
        values.put("limiting_cgroup", self.throttle.map(|throttle| &throttle.path), no_level);
        values.set("cgroup", &self.group.cgroup);
        Finding {
            code: Code("cpu.throttled"),
            severity: Severity::Warning,
            id: id.to_owned(),
            state: Some(state),
            time: self.world.at(self.window.new.at_ns),
            container: self.world.containers.owner_of_path(&self.group.cgroup),
            process: None,
            summary: self.summary(state, &numbers),
            evidence: values.values,
            why: numbers.why(),
            fix: numbers.fix(state),
            refers_to: None,
            unknown: values.unknown,
        }
    }

    fn summary(&self, state: State, numbers: &Numbers) -> String {
        let Some(throttle) = self.throttle.filter(|_| state != State::Closed) else {
            return format!("throttled no more: less than {THROTTLED_PCT:.0} % of its periods in the last 4 s");
        };
        let whose =
            if self.group.cpu_path.as_deref() == Some(&*throttle.path) { "its own quota" } else { "a parent's quota" };
        let quota = numbers.quota.map_or_else(String::new, |quota| format!(" of {:.2} CPUs", quota.cpus()));
        let most = if numbers.least { "at least " } else { "" };
        let asks = numbers.demand.map_or_else(String::new, |demand| format!("; asks for {most}{demand:.1} CPUs"));
        format!(
            "throttled in {:.0} % of the periods by {whose}{quota}, {} in {}{asks}",
            throttle.pct(),
            span(throttle.was.throttled_ns),
            span(self.window.ns())
        )
    }
}

impl Numbers {
    fn why(&self) -> String {
        let Some(quota) = self.quota else {
            return "a quota is a ceiling in each period: whoever has used it up waits for the next one".to_owned();
        };
        let (ns, period) = (span(quota.quota_ns), span(quota.period_ns));
        let at_once = self.demand.unwrap_or(1.0).ceil().clamp(1.0, self.cpus);
        let after = (quota.quota_ns as f64 / at_once) as u64;
        let burst =
            if quota.burst_ns > 0 { format!(" (and {} saved up)", span(quota.burst_ns)) } else { String::new() };
        if at_once > 1.0 && after < quota.period_ns {
            return format!(
                "the quota is {ns} of CPU time in each {period}{burst}: {at_once:.0} threads at once have used it up after {}, and then all wait for the rest of the period, whatever the host has idle",
                span(after)
            );
        }
        format!(
            "the quota is {ns} of CPU time in each {period}{burst}: whoever has used it up waits for the next period, whatever the host has idle"
        )
    }

    fn fix(&self, state: State) -> Vec<String> {
        if state == State::Closed {
            return vec!["nothing now".to_owned()];
        }
        let Some((enough, quota)) = self.enough().zip(self.quota) else {
            return vec!["raise the quota, or take it away and give a weight instead".to_owned()];
        };
        let mut fixes = vec![format!(
            "raise the quota to {enough:.1} CPUs, which would have been enough (docker --cpus {enough:.1}; resources.limits.cpu: {enough:.1}; CPUQuota={:.0}%)",
            enough * 100.0
        )];
        if enough > quota.cpus() {
            fixes.push(format!(
                "or let it run fewer threads at once: {:.0} fit (GOMAXPROCS, -XX:ActiveProcessorCount, worker processes)",
                quota.cpus().ceil()
            ));
        }
        fixes.push("or let it save up for bursts (cpu.max.burst), or take the quota away: the weight alone shares a full host fairly".to_owned());
        fixes
    }
}
