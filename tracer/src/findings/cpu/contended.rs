//! `cpu.contended`: runnable, and waiting because others run. One state finding per container.

use serde_json::{Value, json};

use super::{
    Judge,
    reading::{Group, Waited},
    rounded, span, throttled,
    window::{Cpus, Window},
};
use crate::{
    containers::is_within,
    findings::{
        World,
        numbers::{Numbers, total},
    },
    model::{Code, Finding, Severity, State},
};

/// Share of its runnable time, and of the clock's, that it waited.
const WAITED_PCT: f64 = 20.0;
/// Where more of its CPUs' time is idle, it is not the others that it waits for: wake-ups, or threads bound to one CPU.
const IDLE_PCT: f64 = 10.0;
/// Others that are named.
const OTHERS: usize = 3;
/// … from this share on.
const RAN_PCT: f64 = 1.0;
/// From this many times the CPUs on its own threads stand in each other's way.
const CROWDED: f64 = 1.1;
const OWN: &str = "its own threads";

pub struct Contended<'a> {
    pub world: &'a World<'a>,
}

/// What a container waited in a window.
pub struct Wait {
    waited: Waited,
    used: Cpus,
    /// Of its runnable time.
    pct: f64,
}

fn wait(window: &Window, group: &Group, world: &World) -> Option<Wait> {
    let (used, waited) = (window.used(group)?, window.waited(Some(&group.cgroup), world)?);
    let demand = window.demand(used.total, &waited);
    let pct = if demand > 0.0 { (demand - used.total) * 100.0 / demand } else { 0.0 };
    Some(Wait { waited, used, pct })
}

/// Contended, if it is.
fn cause(window: &Window, group: &Group, world: &World) -> Option<Wait> {
    let wait = wait(window, group, world)?;
    let of_clock = wait.waited.total_ns as f64 * 100.0 / window.ns().max(1) as f64;
    let full = window.idle_pct(group.cpus.as_deref()) < IDLE_PCT;
    let by_quota = throttled::cause(window, group).is_some();
    (wait.pct >= WAITED_PCT && of_clock >= WAITED_PCT && full && !by_quota).then_some(wait)
}

impl Judge for Contended<'_> {
    const ID: &'static str = "cpu-contended";
    type Cause = Wait;

    fn cause(&self, window: &Window, group: &Group) -> Option<Wait> {
        cause(window, group, self.world)
    }

    fn left(&self, window: &Window, group: &Group) -> Option<Wait> {
        wait(window, group, self.world)
    }

    fn pct(wait: &Wait) -> f64 {
        wait.pct
    }

    fn finding(&self, window: &Window, group: &Group, wait: Option<&Wait>, state: State, id: &str) -> Finding {
        Facts { window, group, wait, world: self.world }.finding(state, id)
    }
}

/// What one verdict rests on.
struct Facts<'a> {
    window: &'a Window<'a>,
    group: &'a Group,
    wait: Option<&'a Wait>,
    world: &'a World<'a>,
}

/// Its weight beside those that run below the same parent.
struct Weight {
    own: u64,
    all: u64,
}

impl Weight {
    fn pct(&self) -> f64 {
        self.own as f64 * 100.0 / self.all.max(1) as f64
    }
}

impl Facts<'_> {
    fn weight(&self) -> Option<Weight> {
        let path = self.group.cpu_path.as_deref()?;
        let level = |path: &str| self.window.new.levels.iter().find(|level| level.path == path);
        let parent = |path: &str| path.rsplit_once('/').map(|(parent, _)| parent.to_owned());
        let own = level(path)?.weight?;
        let beside = self.window.new.groups.iter().filter(|other| {
            let busy = || self.window.used(other).is_some_and(|used| used.total >= 0.01);
            let path = other.cpu_path.as_deref().filter(|other| *other != path);
            path.is_some_and(|other| parent(other) == parent(path_of(self.group))) && busy()
        });
        let all = total(beside.filter_map(|other| level(other.cpu_path.as_deref()?)?.weight).chain([own]));
        Some(Weight { own, all })
    }

    /// Who ran, and how much of all that did: name, JSON, share.
    fn others(&self) -> Vec<(String, Value, f64)> {
        let ran = self.window.ran().into_iter().filter(|(_, pct)| *pct >= RAN_PCT).map(|(group, pct)| {
            let owner = group.and_then(|group| self.world.containers.owner_of_path(&group.cgroup));
            let own = group.is_some_and(|group| is_within(&self.group.cgroup, &group.cgroup));
            let name = if own {
                OWN.to_owned()
            } else {
                owner.as_ref().map_or_else(|| "the host".to_owned(), |owner| owner.label())
            };
            (name, json!({"container": owner}), pct)
        });
        ran.take(OTHERS).collect()
    }

    /// Whom it waits for most: itself only where it has more to run than there are CPUs.
    fn rival<'a>(&self, demand: Option<f64>, others: &'a [(String, Value, f64)]) -> Option<&'a (String, Value, f64)> {
        let crowded = demand.is_some_and(|demand| demand > self.window.cpus(self.group) * CROWDED);
        others.iter().find(|(name, ..)| name != OWN || crowded)
    }

    fn finding(&self, state: State, id: &str) -> Finding {
        let weight = self.weight();
        let others = self.others();
        let worst = self.wait.and_then(|wait| wait.waited.worst.as_ref());
        let demand = self.wait.map(|wait| self.window.demand(wait.used.total, &wait.waited));
        let mut values = Numbers::default();
        let gone = "the container is gone";
        let no_wait = "it did not wait lately";
        let no_weight = "its cgroup is not in the cpu hierarchy, or the controller is off";
        values.put("wait_pct", self.wait.map(|wait| rounded(wait.pct)), gone);
        values.put("wait_ns", self.wait.map(|wait| wait.waited.total_ns), gone);
        values.put("waits", self.wait.map(|wait| wait.waited.count), gone);
        values.put("wait_p99_ns", self.wait.and_then(|wait| wait.waited.percentile_ns(99)), no_wait);
        values.put("wait_worst_ns", worst.map(|worst| worst.wait_ns), no_wait);
        let worst = worst
            .map(|worst| json!({"tid": worst.tid, "instead": {"tid": worst.instead_tid, "comm": worst.instead_comm}}));
        values.put("worst", worst, no_wait);
        values.set("window_ns", self.window.ns());
        values.put("used_cpus", self.wait.map(|wait| rounded(wait.used.total)), gone);
        values.put("demand_cpus", demand.map(rounded), gone);
        values.set("host_cpus", self.window.new.host.each.len());
        values.set("idle_pct", rounded(self.window.idle_pct(self.group.cpus.as_deref())));
        values.put("weight", weight.as_ref().map(|weight| weight.own), no_weight);
        values.put("weight_pct", weight.as_ref().map(|weight| rounded(weight.pct())), no_weight);
        let ran = others.iter().map(|(_, value, pct)| {
            let mut value = value.clone();
            value["share_pct"] = json!(rounded(*pct));
            value
        });
        values.set("ran_instead", ran.collect::<Vec<_>>());
        values.set("cgroup", &self.group.cgroup);
        Finding {
            code: Code("cpu.contended"),
            severity: Severity::Warning,
            id: id.to_owned(),
            state: Some(state),
            time: self.world.at(self.window.new.at_ns),
            container: self.world.containers.owner_of_path(&self.group.cgroup),
            process: None,
            summary: self.summary(state, demand, &others),
            evidence: values.values,
            why: self.why(weight.as_ref()),
            fix: fix(state, self.rival(demand, &others).map(|(name, ..)| name.as_str())),
            refers_to: None,
            unknown: values.unknown,
        }
    }

    fn summary(&self, state: State, demand: Option<f64>, others: &[(String, Value, f64)]) -> String {
        let Some(wait) = self.wait.filter(|_| state != State::Closed) else {
            return "does not wait for a CPU any more".to_owned();
        };
        let instead = self
            .rival(demand, others)
            .map_or_else(String::new, |(name, _, pct)| format!("; {name} had {pct:.0} % of what ran"));
        format!(
            "waited {:.0} % of its runnable time for a CPU: got {:.2} of the {:.1} CPUs it asks for{instead}",
            wait.pct,
            wait.used.total,
            demand.unwrap_or(0.0)
        )
    }

    fn why(&self, weight: Option<&Weight>) -> String {
        let cpus = self.window.cpus(self.group);
        let full = match &self.group.cpus {
            Some(allowed) if allowed.len() < self.window.new.host.each.len() => {
                format!("the {cpus:.0} CPUs that it may use are full")
            }
            _ => format!("the host's {cpus:.0} CPUs are full"),
        };
        let part = weight.map_or_else(String::new, |weight| {
            let pct = weight.pct();
            format!(
                "; its weight {} is {pct:.0} % of the {} of the containers that run beside it, and means something only now",
                weight.own, weight.all
            )
        });
        let worst = self.wait.and_then(|wait| wait.waited.worst.as_ref());
        let worst = worst.map_or_else(String::new, |worst| {
            format!(
                "; the longest wait of late was {}, while {} ({}) ran",
                span(worst.wait_ns),
                worst.instead_comm,
                worst.instead_tid
            )
        });
        format!("no quota holds it: {full}{part}{worst}")
    }
}

fn fix(state: State, rival: Option<&str>) -> Vec<String> {
    if state == State::Closed {
        return vec!["nothing now".to_owned()];
    }
    if rival == Some(OWN) {
        return vec![
            "let it run fewer threads at once: they mostly wait for each other (GOMAXPROCS, worker processes)"
                .to_owned(),
            "or give it a host with more CPUs".to_owned(),
        ];
    }
    let who = rival.unwrap_or("the others");
    vec![
            "raise its weight (docker --cpu-shares, resources.requests.cpu, CPUWeight=): it counts only against others below the same parent".to_owned(),
            format!("or give {who} a quota, or another host"),
        ]
}

fn path_of(group: &Group) -> &str {
    group.cpu_path.as_deref().unwrap_or_default()
}
