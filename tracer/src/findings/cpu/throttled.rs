//! `cpu.throttled`: its own quota, or a parent's, held a container back. One state finding per container.

use serde_json::Value;

use super::{
    Judge,
    reading::{Group, Quota, Waited, Worst},
    rounded, span,
    window::{Throttle, Window},
};
use crate::{
    containers::is_within,
    findings::{World, numbers},
    model::{Code, Finding, Severity, State},
};

/// Share of the periods, in percent, from which on it is said.
pub const THROTTLED_PCT: f64 = 5.0;
/// Whoever used less of a CPU was not held back by a parent's quota: others were.
const USED_CPUS: f64 = 0.005;

/// Whoever uses less than this part of the quota on average is stopped by it in bursts.
const BELOW: f64 = 0.9;

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
    /// Whoever waited longest.
    longest: Option<Worst>,
    /// Its own threads that a throttled period stopped, on average: as many waits as were as long as a stop.
    threads: Option<f64>,
    /// How much of the saved up was used in it.
    burst_used_ns: Option<u64>,
}

impl Numbers {
    /// How many CPUs would have been enough: more than can run at once are of no use.
    fn enough(&self) -> Option<f64> {
        self.demand.map(|demand| (demand.min(self.cpus) * 10.0).ceil() / 10.0)
    }

    /// When so many threads, as many as CPUs at the most, have used the quota up, and how long they wait then.
    fn run_out(&self) -> Option<(u64, u64)> {
        let quota = self.quota?;
        let at_once = self.threads?.round().clamp(1.0, self.cpus);
        let after = (quota.quota_ns as f64 / at_once) as u64;
        let rest = quota.period_ns.checked_sub(after)?;
        (rest > 0).then_some((after, rest))
    }

    /// Not the average meets the quota, the bursts do.
    fn is_bursty(&self) -> bool {
        self.used.zip(self.quota).is_some_and(|(used, quota)| used < quota.cpus() * BELOW)
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
        let cpus = self.window.cpus(self.group);
        Numbers {
            quota,
            used,
            demand,
            least: waited.is_none(),
            cpus,
            threads: self.held(waited.as_ref(), cpus),
            longest: waited.and_then(|waited| waited.worst),
            burst_used_ns: self.throttle.and_then(|throttle| throttle.was.burst_used_ns),
        }
    }

    /// A stop takes as long as cpu.stat says, and no less than that by all CPUs: a wait of half of that is one, since a
    /// turn among its own threads is shorter. Below a parent others' stops are in cpu.stat as well.
    fn held(&self, waited: Option<&Waited>, cpus: f64) -> Option<f64> {
        let (waited, throttle) = (waited?, self.throttle?);
        let own = self.group.cpu_path.as_deref() == Some(&*throttle.path);
        let was = &throttle.was;
        if !own || was.throttled == 0 {
            return None;
        }
        let stop = was.throttled_ns as f64 / was.throttled as f64 / cpus;
        let held = waited.longer_than((stop / 2.0) as u64) as f64 / was.throttled as f64;
        // Many more than there are: on few CPUs turns among them take as long, and cannot be told from stops.
        let processes = self.window.new.processes.iter().filter(|one| is_within(&one.cgroup, &self.group.cgroup));
        let there_are = processes.fold(0_u64, |sum, one| sum.saturating_add(one.stat.threads));
        let there_are = if there_are == 0 { f64::INFINITY } else { there_are as f64 };
        (held <= 2.0 * there_are).then_some(held.min(there_are))
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
        let no_threads = if numbers.least {
            "waits are not seen here"
        } else {
            "others below the parent use its quota up as well, its threads' turns take as long as a stop, or it was not throttled"
        };
        values.put("threads", numbers.threads.map(rounded), no_threads);
        let run_out = numbers.run_out();
        values.put("run_out_ns", run_out.map(|(after, _)| after), no_threads);
        values.put("then_wait_ns", run_out.map(|(_, rest)| rest), no_threads);
        let no_burst = "this kernel does not count it, or no level throttled it any more";
        values.put("burst_used_ns", numbers.burst_used_ns, no_burst);
        let longest = numbers.longest.as_ref().map(longest_json);
        values.put("longest", longest, if numbers.least { no_threads } else { "it did not wait lately" });
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
        let mut why = format!("the quota is {ns} of CPU time in each {period}");
        if quota.burst_ns > 0 {
            let used = self.burst_used_ns.map_or_else(String::new, |used| format!(", {} of that was used", span(used)));
            why.push_str(&format!(" (and up to {} saved up{used})", span(quota.burst_ns)));
        }
        if let Some((after, rest)) = self.run_out() {
            let threads = self.threads.unwrap_or(1.0).round().max(1.0);
            let (s, run) = if threads > 1.0 { ("s", "run") } else { ("", "runs") };
            let on = if threads > self.cpus { format!(" on {:.0} CPUs", self.cpus) } else { String::new() };
            why.push_str(&format!(
                ": {threads:.0} thread{s}{on} {run} that out in {}, then wait{} {}, whatever the host has idle",
                span(after),
                if threads > 1.0 { "" } else { "s" },
                span(rest)
            ));
        } else {
            why.push_str(": whoever has used it up waits for the next period, whatever the host has idle");
        }
        if self.is_bursty() {
            let used = self.used.unwrap_or(0.0);
            why.push_str(&format!(
                "; on average it uses {used:.2} of its {:.2} CPUs: a burst meets the quota of one period, not the average",
                quota.cpus()
            ));
        }
        if let Some(longest) = &self.longest {
            let pid = longest.pid.map_or_else(String::new, |pid| format!(" of process {pid}"));
            let comm = longest.comm.as_deref().unwrap_or("a thread that is gone");
            why.push_str(&format!(
                "; the longest wait for a CPU was {}: {comm} ({}{pid}); cpu.stat counts for the whole cgroup, not for each process",
                span(longest.wait_ns),
                longest.tid
            ));
        }
        why
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
        let burst = if self.is_bursty() {
            // A quota's worth more is what cpu.max.burst can hold at most.
            let most = span(quota.quota_ns);
            format!(
                "or let it save up for its bursts: its average is below the quota (cpu.max.burst, on v1 cpu.cfs_burst_us; {most} at the most)"
            )
        } else {
            "saving up (cpu.max.burst) will not help: it wants more than the quota all the time".to_owned()
        };
        fixes.push(burst);
        fixes.push("or take the quota away: the weight alone shares a full host fairly".to_owned());
        fixes
    }
}

fn longest_json(worst: &Worst) -> Value {
    let mut values = numbers::Numbers::default();
    values.set("wait_ns", worst.wait_ns);
    values.set("tid", worst.tid);
    values.put("pid", worst.pid, "it was gone before it was read");
    values.put("comm", worst.comm.as_ref(), "it was gone before it was read");
    if !values.unknown.is_empty() {
        let unknown = std::mem::take(&mut values.unknown);
        values.set("unknown", unknown);
    }
    Value::Object(values.values)
}
