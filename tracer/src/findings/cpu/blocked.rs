//! `load.blocked`: tasks in uninterruptible sleep, which Linux counts as load though they use no CPU. One state finding
//! per container, and one for the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    cause::Cause,
    reading::{Sleeper, Sleepers},
    span,
};
use crate::{
    containers::is_within,
    findings::{
        World,
        numbers::{Numbers, total},
    },
    model::{Code, Finding, Severity, State},
};

/// From here on it is said …
const BLOCKED_NS: u64 = 1_000_000_000;
/// … and from here on shown in the samples.
pub const SHOWN_NS: u64 = 100_000_000;
/// An update comes when the tasks are others, or after this.
const LATE_NS: u64 = 10_000_000_000;
/// Tasks that evidence names: those blocked longest.
const NAMED: usize = 32;

/// By the container's cgroup; `None`: the host.
type Key = Option<Arc<str>>;

#[derive(Debug, Default)]
pub struct Tasks {
    /// By thread id.
    seen: BTreeMap<u32, Seen>,
    /// How many there are now, by the key of their cgroup, as the kernel side has them.
    now: Option<BTreeMap<u64, u64>>,
    open: BTreeMap<Key, Open>,
    told: u64,
}

#[derive(Debug)]
pub struct Seen {
    pub task: Sleeper,
    /// When it was found asleep.
    first_ns: u64,
    pub blocked_ns: u64,
    owner: Key,
}

#[derive(Debug)]
struct Open {
    id: String,
    said_ns: u64,
    /// Whose sleep was said.
    said: BTreeSet<u32>,
}

impl Seen {
    /// It slept already when it was found.
    fn at_least(&self) -> bool {
        self.task.since_ns.is_none()
    }

    /// `kernel_clone`: the innermost function that is not the scheduler's.
    pub fn place(&self) -> Option<&str> {
        self.task.wchan.as_deref().or_else(|| Some(self.task.stack.as_ref().ok()?.first()?.as_str()))
    }

    pub fn cause(&self) -> Cause {
        let stack = self.task.stack.as_deref().unwrap_or_default();
        let functions: Vec<&str> = stack.iter().map(String::as_str).chain(self.task.wchan.as_deref()).collect();
        let file_system = self.task.file_system.as_ref().ok().map(|mounted| mounted.kind.as_str());
        Cause::of_task(self.place(), &functions, file_system)
    }

    pub fn json(&self) -> Value {
        let mut values = Numbers::default();
        values.set("process", &self.task.process);
        values.set("blocked_ns", self.blocked_ns);
        values.set("at_least", self.at_least());
        values.set("cause", self.cause().name());
        values.put("wchan", self.task.wchan.as_ref(), "the kernel does not tell");
        let why = self.task.stack.as_ref().err().map_or("", String::as_str);
        values.put("stack", self.task.stack.as_ref().ok(), why);
        let why = self.task.file_system.as_ref().err().map_or("", String::as_str);
        let mounted = self.task.file_system.as_ref().ok();
        values.put("file_system", mounted.map(|mounted| json!({"type": mounted.kind, "mounted_at": mounted.at})), why);
        if !values.unknown.is_empty() {
            let unknown = std::mem::take(&mut values.unknown);
            values.set("unknown", unknown);
        }
        Value::Object(values.values)
    }
}

impl Tasks {
    /// Those that are to be looked at again.
    pub fn known(&self) -> Vec<u32> {
        self.seen.keys().copied().collect()
    }

    /// Asleep for longer than [`SHOWN_NS`], the longest first; of the host where `cgroup` is `None`.
    pub fn shown(&self, cgroup: Option<&str>) -> Vec<&Seen> {
        let of = |seen: &&Seen| match (cgroup, seen.owner.as_deref()) {
            (Some(cgroup), Some(own)) => is_within(own, cgroup),
            (None, None) => true,
            _ => false,
        };
        let mut shown: Vec<&Seen> = self.seen.values().filter(of).filter(|seen| seen.blocked_ns >= SHOWN_NS).collect();
        shown.sort_by_key(|seen| std::cmp::Reverse(seen.blocked_ns));
        shown
    }

    /// How many there are now.
    pub fn count(&self, cgroup: Option<&str>, world: &World) -> u64 {
        let Some(now) = &self.now else { return self.shown(cgroup).len() as u64 };
        let of = |key: u64| match cgroup {
            Some(cgroup) => world.containers.path(key).is_some_and(|path| is_within(path, cgroup)),
            None => world.containers.owner(key).is_none(),
        };
        let known = total(now.iter().filter(|(key, _)| of(**key)).map(|(_, count)| count));
        known.saturating_add(self.shown(cgroup).iter().filter(|seen| seen.at_least()).count() as u64)
    }

    pub fn read(&mut self, sleepers: &Sleepers, now_ns: u64, world: &World) -> Vec<Finding> {
        let mut before = std::mem::take(&mut self.seen);
        self.now.clone_from(&sleepers.now);
        for task in sleepers.tasks.iter().filter(|task| !task.frozen) {
            let tid = task.process.tid;
            let same = before.remove(&tid).filter(|seen| match (seen.task.since_ns, task.since_ns) {
                (Some(before), Some(now)) => before == now,
                (_, None) => seen.task.switches == task.switches,
                (None, Some(_)) => false,
            });
            let first_ns = task.since_ns.or(same.map(|seen| seen.first_ns)).unwrap_or(now_ns);
            let owner = task.cgroup.as_deref().and_then(|path| world.containers.owner_of_path(path));
            let owner = owner.map(|container| container.cgroup.as_str().into());
            let blocked_ns = now_ns.saturating_sub(first_ns);
            self.seen.insert(tid, Seen { task: task.clone(), first_ns, blocked_ns, owner });
        }
        self.judge(now_ns, world)
    }

    fn judge(&mut self, now_ns: u64, world: &World) -> Vec<Finding> {
        let mut long: BTreeMap<Key, Vec<&Seen>> = BTreeMap::new();
        for seen in self.seen.values().filter(|seen| seen.blocked_ns >= BLOCKED_NS) {
            long.entry(seen.owner.clone()).or_default().push(seen);
        }
        let mut findings = Vec::new();
        for (owner, tasks) in &mut long {
            tasks.sort_by_key(|seen| std::cmp::Reverse(seen.blocked_ns));
            let who: BTreeSet<u32> = tasks.iter().map(|seen| seen.task.process.tid).collect();
            let facts = Facts { owner, tasks, now_ns, world };
            if let Some(open) = self.open.get_mut(owner) {
                if open.said != who || now_ns.saturating_sub(open.said_ns) >= LATE_NS {
                    (open.said, open.said_ns) = (who, now_ns);
                    findings.push(facts.finding(State::Update, &open.id));
                }
                continue;
            }
            self.told += 1;
            let id = format!("load-blocked-{}", self.told);
            findings.push(facts.finding(State::Open, &id));
            self.open.insert(owner.clone(), Open { id, said_ns: now_ns, said: who });
        }
        self.open.retain(|owner, open| {
            let over = !long.contains_key(owner);
            if over {
                findings.push(Facts { owner, tasks: &[], now_ns, world }.finding(State::Closed, &open.id));
            }
            !over
        });
        findings
    }
}

/// What one verdict rests on.
struct Facts<'a> {
    owner: &'a Key,
    /// Blocked longest first; none: it is over.
    tasks: &'a [&'a Seen],
    now_ns: u64,
    world: &'a World<'a>,
}

impl Facts<'_> {
    fn finding(&self, state: State, id: &str) -> Finding {
        let longest = self.tasks.first();
        let mut values = Numbers::default();
        values.set("tasks", self.tasks.iter().take(NAMED).map(|seen| seen.json()).collect::<Vec<_>>());
        values.set("blocked", self.tasks.len());
        values.set("blocked_ns", longest.map_or(0, |seen| seen.blocked_ns));
        values.put("cause", longest.map(|seen| seen.cause().name()), "no task is blocked any more");
        let cgroup = self.owner.as_deref().or_else(|| longest?.task.cgroup.as_deref());
        values.put("cgroup", cgroup, "the host's tasks, in whatever cgroup");
        Finding {
            code: Code("load.blocked"),
            severity: Severity::Warning,
            id: id.to_owned(),
            state: Some(state),
            time: self.world.at(self.now_ns),
            container: self.owner.as_deref().and_then(|cgroup| self.world.containers.owner_of_path(cgroup)),
            process: longest.map(|seen| seen.task.process.clone()),
            summary: self.summary(),
            evidence: values.values,
            why: self.why(),
            fix: longest.map_or_else(|| vec!["nothing now".to_owned()], |seen| vec![seen.cause().fix().to_owned()]),
            refers_to: None,
            unknown: values.unknown,
        }
    }

    fn summary(&self) -> String {
        let Some(longest) = self.tasks.first() else {
            return "no task of it is blocked for 1 s any more".to_owned();
        };
        let (count, process) = (self.tasks.len(), &longest.task.process);
        let least = if longest.at_least() { "at least " } else { "" };
        let mounted = longest.task.file_system.as_ref().ok();
        let on = mounted.map_or_else(String::new, |mounted| format!(": {} at {}", mounted.kind, mounted.at));
        let place = longest.place().map_or_else(String::new, |place| format!(" ({place})"));
        format!(
            "{count} task{} in uninterruptible sleep: {} ({}) for {least}{} waits for {}{on}{place}; adds {count} to the load, uses no CPU",
            if count == 1 { "" } else { "s" },
            process.comm,
            process.tid,
            span(longest.blocked_ns),
            longest.cause().words(),
        )
    }

    fn why(&self) -> String {
        let mut by: BTreeMap<Cause, usize> = BTreeMap::new();
        for seen in self.tasks {
            *by.entry(seen.cause()).or_default() += 1;
        }
        let parts: Vec<String> = by.iter().map(|(cause, count)| format!("{count} for {}", cause.words())).collect();
        let parts = if parts.is_empty() { "none is left".to_owned() } else { parts.join(", ") };
        format!(
            "Linux counts runnable and uninterruptible tasks as load: this part is no work for a CPU, and more CPU will not help. They wait: {parts}"
        )
    }
}
