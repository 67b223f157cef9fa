//! `pids.zombies`: a parent that does not reap. One state finding per parent.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::reading::{Counts, Dead, Level, Sweep, Waiting};
use crate::{
    containers::is_within,
    findings::{World, numbers::total},
    model::{Code, Evidence, Finding, Process, Severity, State, Unknown},
    pipeline::Ancestor,
};

/// Below one parent, so many …
const MANY: usize = 10;
/// … older than this. A parent may be busy for a moment.
const OLD_NS: u64 = 3_000_000_000;
/// What came within this tells how fast they come.
const WINDOW_NS: u64 = 60_000_000_000;
/// They come no more, where none came for this long and for three times the usual gap.
const PAUSE_NS: u64 = 2_000_000_000;
/// An update comes when the number changed by a tenth, but not within a second, …
const SOON_NS: u64 = 900_000_000;
/// … or when it changed at all, after this.
const LATE_NS: u64 = 5_000_000_000;

#[derive(Debug, Default)]
pub struct Zombies {
    /// By process id and start, which name one process for ever.
    seen: BTreeMap<(u32, u64), Seen>,
    /// Of those that ended a moment ago: parent, and when.
    young: Vec<(u32, u64)>,
    parents: HashMap<u32, Ancestor>,
    /// By process id of the parent.
    open: BTreeMap<u32, Open>,
    told: u64,
}

#[derive(Debug)]
struct Seen {
    parent: u32,
    exit_ns: Option<u64>,
    /// When it ended, or was first seen.
    since_ns: u64,
    /// Since when it is this parent's to reap: orphans come late to whom they go to.
    parent_ns: u64,
    /// In the hierarchy of the key.
    cgroup: Option<String>,
}

#[derive(Debug)]
struct Open {
    id: String,
    said: usize,
    said_ns: u64,
    cgroup: Option<String>,
    parent: Option<Process>,
}

/// The zombies of a cgroup.
#[derive(Debug, Default)]
pub struct Within {
    pub count: u64,
    /// The parent that has most of them.
    pub worst: Option<Process>,
}

impl Zombies {
    /// Those that are to be looked at again.
    pub fn known(&self) -> Vec<u32> {
        self.seen.keys().map(|(pid, _)| *pid).collect()
    }

    /// Those in a cgroup and below it, of any age.
    pub fn within(&self, cgroup: &str) -> Within {
        let mut by_parent: BTreeMap<u32, u64> = BTreeMap::new();
        for seen in self.seen.values().filter(|seen| seen.cgroup.as_deref().is_some_and(|own| is_within(own, cgroup))) {
            *by_parent.entry(seen.parent).or_default() += 1;
        }
        let worst = by_parent.iter().max_by_key(|(_, count)| **count).map(|(parent, _)| *parent);
        Within {
            count: total(by_parent.values()),
            worst: worst.and_then(|parent| Some(self.parents.get(&parent)?.process.clone())),
        }
    }

    pub fn count(&self) -> u64 {
        self.seen.len() as u64
    }

    /// A sweep found them: also those that ended before anybody looked.
    pub fn swept(&mut self, sweep: &Sweep, now_ns: u64) {
        for dead in sweep.dead.iter().filter(|dead| dead.stat.is_zombie()) {
            self.seen.entry((dead.stat.pid, dead.stat.start_ticks)).or_insert_with(|| Seen {
                parent: dead.stat.ppid,
                exit_ns: None,
                since_ns: now_ns,
                parent_ns: now_ns,
                cgroup: dead.cgroup.clone(),
            });
        }
    }

    /// Those that were known, and those that the kernel side knows, were looked at.
    pub fn waiting(&mut self, waiting: &Waiting, counts: Option<&Counts>, now_ns: u64, world: &World) -> Vec<Finding> {
        let mut before = std::mem::take(&mut self.seen);
        self.parents = waiting.parents.iter().map(|parent| (parent.process.pid, parent.clone())).collect();
        for dead in waiting.dead.iter().filter(|dead| dead.stat.is_zombie()) {
            let identity = (dead.stat.pid, dead.stat.start_ticks);
            let before = before.remove(&identity);
            let since_ns = dead.exit_ns.or(before.as_ref().map(|seen| seen.since_ns)).unwrap_or(now_ns);
            let parent_ns = match &before {
                Some(seen) if seen.parent == dead.stat.ppid => seen.parent_ns,
                // As good as ever since, unless another parent had it at its end.
                None if dead.parent.is_none_or(|parent| parent == dead.stat.ppid) => since_ns,
                _ => now_ns,
            };
            let cgroup = self.cgroup(dead, world).or_else(|| before.and_then(|seen| seen.cgroup));
            let parent = dead.stat.ppid;
            self.seen.insert(identity, Seen { parent, exit_ns: dead.exit_ns, since_ns, parent_ns, cgroup });
        }
        self.young.clone_from(&waiting.young);
        self.judge(counts, now_ns, world)
    }

    fn cgroup(&self, dead: &Dead, world: &World) -> Option<String> {
        let by_key = dead.key.and_then(|key| world.containers.path(key)).map(ToString::to_string);
        by_key.or_else(|| dead.cgroup.clone()).or_else(|| self.parents.get(&dead.stat.ppid)?.cgroup.clone())
    }

    fn judge(&mut self, counts: Option<&Counts>, now_ns: u64, world: &World) -> Vec<Finding> {
        let mut old: BTreeMap<u32, Vec<&Seen>> = BTreeMap::new();
        for seen in self.seen.values().filter(|seen| now_ns.saturating_sub(seen.parent_ns) >= OLD_NS) {
            old.entry(seen.parent).or_default().push(seen);
        }
        let mut findings = Vec::new();
        for (&pid, dead) in old.iter().filter(|(_, dead)| dead.len() >= MANY) {
            let growth = growth(dead, self.young.iter().filter(|(parent, _)| *parent == pid), now_ns);
            let facts = Facts { pid, dead, growth, counts, now_ns, world };
            if let Some(open) = self.open.get_mut(&pid) {
                let waited = now_ns.saturating_sub(open.said_ns);
                let changed = open.said.abs_diff(dead.len());
                if changed > 0 && (waited >= LATE_NS || (waited >= SOON_NS && changed.saturating_mul(10) >= open.said))
                {
                    (open.said, open.said_ns) = (dead.len(), now_ns);
                    findings.push(facts.finding(State::Update, open));
                }
                continue;
            }
            self.told += 1;
            let open = Open {
                id: format!("pids-zombies-{}", self.told),
                said: dead.len(),
                said_ns: now_ns,
                cgroup: dead.iter().find_map(|seen| seen.cgroup.clone()),
                parent: self.parents.get(&pid).map(|parent| parent.process.clone()),
            };
            findings.push(facts.finding(State::Open, &open));
            self.open.insert(pid, open);
        }
        self.open.retain(|&pid, open| {
            let left = old.get(&pid).map_or(&[][..], Vec::as_slice);
            if left.len() < MANY {
                let facts = Facts { pid, dead: left, growth: Some(0.0), counts, now_ns, world };
                findings.push(facts.finding(State::Closed, open));
            }
            left.len() >= MANY
        });
        findings
    }
}

/// How many came a second lately; `None` where nobody saw them end.
fn growth<'a>(dead: &[&Seen], young: impl Iterator<Item = &'a (u32, u64)>, now_ns: u64) -> Option<f64> {
    let old = dead.iter().filter_map(|seen| seen.exit_ns);
    let mut ends: Vec<u64> =
        old.chain(young.map(|(_, end)| *end)).filter(|end| now_ns.saturating_sub(*end) < WINDOW_NS).collect();
    ends.sort_unstable();
    let (Some(first), Some(last)) = (ends.first(), ends.last()) else {
        return dead.iter().all(|seen| now_ns.saturating_sub(seen.since_ns) > WINDOW_NS).then_some(0.0);
    };
    let gaps = ends.len() as u64 - 1;
    let usual = last.saturating_sub(*first) / gaps.max(1);
    if now_ns.saturating_sub(*last) > PAUSE_NS.max(3 * usual) {
        return Some(0.0);
    }
    Some(gaps as f64 / (last.saturating_sub(*first).max(1_000_000_000) as f64 / 1e9))
}

/// What one verdict rests on.
struct Facts<'a> {
    pid: u32,
    dead: &'a [&'a Seen],
    growth: Option<f64>,
    counts: Option<&'a Counts>,
    now_ns: u64,
    world: &'a World<'a>,
}

/// The level that has the least room for them.
struct Nearest {
    limit: u64,
    current: u64,
    /// `None`: the host's own.
    cgroup: Option<String>,
}

impl Facts<'_> {
    fn nearest(&self, cgroup: Option<&str>) -> Option<Nearest> {
        let counts = self.counts?;
        let path = cgroup.map(|cgroup| counts.pids_path(cgroup));
        let levels = path.iter().flat_map(|path| counts.chain(path));
        let of_level = |level: &Level| {
            Some(Nearest { limit: level.limit?, current: level.current, cgroup: Some(level.path.clone()) })
        };
        let host = counts.host.pid_max.into_iter().chain(counts.host.threads_max).min();
        let host = host.zip(counts.host.threads).map(|(limit, current)| Nearest { limit, current, cgroup: None });
        levels.filter_map(of_level).chain(host).min_by_key(|nearest| nearest.limit.saturating_sub(nearest.current))
    }

    fn finding(&self, state: State, open: &Open) -> Finding {
        let cgroup = open.cgroup.as_deref();
        let container = cgroup.and_then(|cgroup| self.world.containers.owner_of_path(cgroup));
        let nearest = self.nearest(cgroup);
        let room = nearest.as_ref().map(|nearest| nearest.limit.saturating_sub(nearest.current));
        let to_limit = self.growth.filter(|growth| *growth > 0.0).zip(room).map(|(growth, room)| room as f64 / growth);
        let mut unknown = Unknown::new();
        if nearest.is_none() {
            unknown.insert("limit", "the pids hierarchy was not read yet".to_owned());
        } else if nearest.as_ref().is_some_and(|nearest| nearest.cgroup.is_none()) {
            unknown.insert("limiting_cgroup", "the host's kernel.pid_max or kernel.threads-max is nearest".to_owned());
        }
        if self.growth.is_none() {
            unknown.insert("growth_per_s", "they ended before ctrace looked".to_owned());
        }
        if to_limit.is_none() {
            unknown.insert("time_to_limit_ns", "they do not grow now, or it is not known how fast".to_owned());
        }
        if open.parent.is_none() {
            unknown.insert("parent", "it was gone before it was read".to_owned());
        }
        if self.dead.is_empty() {
            unknown.insert("oldest_ns", "none is left".to_owned());
        }
        let oldest = self.dead.iter().map(|seen| self.now_ns.saturating_sub(seen.since_ns)).max();
        let mut evidence = Evidence::new();
        evidence.insert("limit".to_owned(), json!(nearest.as_ref().map(|nearest| nearest.limit)));
        evidence.insert("current".to_owned(), json!(nearest.as_ref().map(|nearest| nearest.current)));
        evidence.insert(
            "limiting_cgroup".to_owned(),
            json!(nearest.as_ref().and_then(|nearest| nearest.cgroup.as_deref())),
        );
        evidence.insert("zombies".to_owned(), json!(self.dead.len()));
        evidence.insert("oldest_ns".to_owned(), json!(oldest));
        evidence.insert("growth_per_s".to_owned(), json!(self.growth.map(|growth| (growth * 100.0).round() / 100.0)));
        evidence.insert("time_to_limit_ns".to_owned(), json!(to_limit.map(|seconds| (seconds * 1e9) as u64)));
        evidence
            .insert("parent".to_owned(), open.parent.as_ref().map_or(Value::Null, |parent| json!({"process": parent})));
        evidence.insert("cgroup".to_owned(), json!(cgroup));
        Finding {
            code: Code("pids.zombies"),
            severity: Severity::Warning,
            id: open.id.clone(),
            state: Some(state),
            time: self.world.at(self.now_ns),
            container,
            summary: self.summary(state, open, nearest.as_ref(), to_limit),
            why: self.why(open, nearest.as_ref()),
            fix: self.fix(state, open),
            process: open.parent.clone(),
            evidence,
            refers_to: None,
            unknown,
        }
    }

    fn who(&self, open: &Open) -> String {
        open.parent
            .as_ref()
            .map_or_else(|| format!("pid {}", self.pid), |parent| format!("{} (pid {})", parent.comm, parent.pid))
    }

    fn summary(&self, state: State, open: &Open, nearest: Option<&Nearest>, to_limit: Option<f64>) -> String {
        let count = self.dead.len();
        let who = self.who(open);
        if state == State::Closed {
            return format!("{who} has {count} zombies now: fewer than {MANY}");
        }
        let trend = match self.growth {
            None => "whether they grow is not known yet".to_owned(),
            Some(growth) if growth > 0.0 => format!("growing by {growth:.1} a second"),
            Some(_) => "stable".to_owned(),
        };
        let room = nearest
            .map_or_else(String::new, |nearest| format!("; {} of {} pids are in use", nearest.current, nearest.limit));
        let soon = to_limit.map_or_else(String::new, |seconds| format!(", the limit is reached in {}", span(seconds)));
        format!("{count} zombies: {who} does not reap its children; {trend}{room}{soon}")
    }

    fn why(&self, open: &Open, nearest: Option<&Nearest>) -> String {
        let holds = nearest.map_or_else(
            || "each holds a pid".to_owned(),
            |nearest| {
                let of = nearest.cgroup.as_deref().unwrap_or("the host (kernel.pid_max)");
                format!("each holds one of the {} pids of {of}", nearest.limit)
            },
        );
        format!(
            "a dead child stays until its parent waits for it; {} has not: {holds}, and at the limit no fork succeeds",
            self.who(open)
        )
    }

    fn fix(&self, state: State, open: &Open) -> Vec<String> {
        let who = self.who(open);
        if state == State::Closed {
            return vec![format!("nothing now; should they come again: let {who} wait for its children")];
        }
        let is_init = open.parent.as_ref().is_some_and(|parent| parent.ns_pid == Some(1) && parent.pid != 1);
        let init = "run the container with an init that reaps: docker run --init, tini or dumb-init as entrypoint; in a pod shareProcessNamespace: true";
        let wait = format!(
            "let {who} wait for its children (waitpid at SIGCHLD, or SIGCHLD set to SIG_IGN: then the kernel reaps)"
        );
        let restart = format!("killing a zombie does nothing; when {who} ends, all {} go", self.dead.len());
        if is_init { vec![init.to_owned(), wait, restart] } else { vec![wait, init.to_owned(), restart] }
    }
}

/// `28 s`, `4 min`, `3 h`.
fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}
