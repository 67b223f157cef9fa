//! `pids.limit`: a fork was refused. One state finding per cgroup whose limit it was.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};
use tracer_common::pids::{ForkRefused, NO_LIMIT};

use super::{
    reading::{Counts, Level, binding},
    zombies::Zombies,
};
use crate::{
    containers::is_within,
    events::{known64, process},
    findings::{World, numbers::grow},
    model::{Code, Evidence, Finding, Owner, Process, ProcessIn, Runtime, Severity, State, Unknown},
};

/// An update comes at most once a second.
const UPDATE_NS: u64 = 900_000_000;
/// Without a refusal for this long it is over.
const OVER_NS: u64 = 10_000_000_000;
/// Between the count of a refusal and its record's time passes less.
const RACE_NS: u64 = 10_000_000;

#[derive(Debug, Default)]
pub struct Limits {
    /// Refusals since the hierarchy was last read.
    pending: Vec<Refusal>,
    /// By the pids cgroup of those who asked.
    askers: HashMap<u64, Asker>,
    /// Counted by the kernel side, but no record came of it: lost, or still in the ring.
    silent: HashSet<u64>,
    /// What the events files counted when they were last read, by level.
    polled: Option<HashMap<u64, u64>>,
    /// By the level whose limit it is.
    open: BTreeMap<u64, Open>,
    /// When the kernel side's counts were last read.
    read_ns: u64,
    /// What the kernel side had counted before the records began.
    before: BTreeMap<u64, u64>,
    told: u64,
}

#[derive(Debug)]
struct Asker {
    count: u64,
    limiting: u64,
}

/// One refusal, or several of one cgroup's at once.
#[derive(Clone, Debug)]
struct Refusal {
    time_ns: u64,
    times: u64,
    /// As the record had it; without one, as the events file's level stands.
    level: Level,
    /// No level was found without room: it is the nearest to its limit.
    guess: bool,
    /// The pids cgroup of who asked.
    from: u64,
    asker: Option<Process>,
    /// The key of the asker's cgroup.
    key: Option<u64>,
}

#[derive(Debug)]
struct Open {
    id: String,
    refused: u64,
    said: u64,
    said_ns: u64,
    last: Refusal,
}

impl Limits {
    /// Takes a record in. True: the hierarchy is to be read, for a cgroup that was not refused anything until now.
    pub fn refused(&mut self, record: &ForkRefused) -> bool {
        let refusal = Refusal::of(record);
        // Counts of before the last reading, and such as another CPU overtook, are part of what is known. One that begins
        // anew, because the kernel side had to forget the cgroup, begins with 1.
        let times = match self.askers.get(&refusal.from) {
            Some(asker) if record.count < asker.count => {
                let anew = record.count == 1 && refusal.time_ns > self.read_ns.saturating_add(RACE_NS);
                if anew { self.more(refusal.from, 1) } else { 0 }
            }
            _ => self.more(refusal.from, record.count),
        };
        self.askers
            .entry(refusal.from)
            .and_modify(|asker| asker.limiting = refusal.level.id)
            .or_insert(Asker { count: record.count, limiting: refusal.level.id });
        let refusal = Refusal { times, ..refusal };
        if let Some(open) = self.open.get_mut(&refusal.level.id) {
            open.add(refusal);
            return false;
        }
        self.pending.push(refusal);
        self.pending.len() == 1
    }

    /// How many that is more than was known of.
    fn more(&mut self, from: u64, count: u64) -> u64 {
        let Some(asker) = self.askers.get_mut(&from) else {
            return count.saturating_sub(self.before.get(&from).copied().unwrap_or(0));
        };
        // A smaller count began anew.
        let more = if count < asker.count { count } else { count - asker.count };
        asker.count = count;
        more
    }

    /// The hierarchy was read.
    pub fn counted(&mut self, counts: &Counts, zombies: &Zombies, now_ns: u64, world: &World) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut refusals = std::mem::take(&mut self.pending);
        if self.read_ns == 0 && world.host.began_later {
            self.before.clone_from(&counts.refusals);
        }
        refusals.extend(self.of_kernel(counts));
        refusals.extend(self.of_files(counts));
        for refusal in refusals {
            if let Some(open) = self.open.get_mut(&refusal.level.id) {
                open.add(refusal);
                continue;
            }
            self.told += 1;
            let refused = refusal.times.max(1);
            let id = format!("pids-limit-{}", self.told);
            let open = Open { id, refused, said: refused, said_ns: now_ns, last: refusal };
            findings.push(open.finding(State::Open, counts, zombies, world));
            self.open.insert(open.last.level.id, open);
        }
        self.open.retain(|_, open| {
            if now_ns.saturating_sub(open.last.time_ns) >= OVER_NS {
                findings.push(open.finding(State::Closed, counts, zombies, world));
                return false;
            }
            if open.refused > open.said && now_ns.saturating_sub(open.said_ns) >= UPDATE_NS {
                (open.said, open.said_ns) = (open.refused, now_ns);
                findings.push(open.finding(State::Update, counts, zombies, world));
            }
            true
        });
        findings
    }

    /// Does a level of this pids cgroup refuse forks at this time?
    pub fn is_full(&self, from: u64, counts: &Counts) -> bool {
        counts
            .levels
            .iter()
            .find(|level| level.id == from)
            .is_some_and(|from| counts.chain(&from.path).any(|level| self.open.contains_key(&level.id)))
    }

    /// What the kernel side counted and did not send: it sends one record in 100 ms.
    fn of_kernel(&mut self, counts: &Counts) -> Vec<Refusal> {
        let mut found = Vec::new();
        self.read_ns = counts.at_ns;
        let silent = std::mem::take(&mut self.silent);
        for (&from, &count) in &counts.refusals {
            let known = self.askers.get(&from).map(|asker| asker.limiting);
            if known.is_none() && !silent.contains(&from) {
                self.silent.insert(from);
                continue;
            }
            let times = self.more(from, count);
            if times == 0 {
                continue;
            }
            if let Some(open) = known.and_then(|limiting| self.open.get_mut(&limiting)) {
                grow(&mut open.refused, times);
                open.last.time_ns = open.last.time_ns.max(counts.at_ns);
                continue;
            }
            let Some(level) = counts.level(from) else { continue };
            let Some(refusal) = Refusal::read(level, counts, times) else { continue };
            self.askers.insert(from, Asker { count, limiting: refusal.level.id });
            found.push(refusal);
        }
        found
    }

    /// What the events files counted, where there is no hook. The first reading is where counting starts.
    fn of_files(&mut self, counts: &Counts) -> Vec<Refusal> {
        let count = |level: &Level| level.refused_here.or(level.refused);
        if !counts.events {
            return Vec::new();
        }
        let now: HashMap<u64, u64> = counts.levels.iter().filter_map(|level| Some((level.id, count(level)?))).collect();
        let Some(before) = self.polled.replace(now) else { return Vec::new() };
        let mut found = Vec::new();
        for level in &counts.levels {
            let Some(times) = count(level).map(|now| now.saturating_sub(before.get(&level.id).copied().unwrap_or(0)))
            else {
                continue;
            };
            if times == 0 {
                continue;
            }
            if level.refused_here.is_some() {
                found.push(Refusal::new(level.clone(), false, level.id, counts.at_ns, times));
            } else {
                found.extend(Refusal::read(level, counts, times));
            }
        }
        found
    }
}

impl Refusal {
    fn new(level: Level, guess: bool, from: u64, time_ns: u64, times: u64) -> Self {
        Self { time_ns, times, level, guess, from, asker: None, key: None }
    }

    fn of(record: &ForkRefused) -> Self {
        let levels: Vec<Level> = record
            .levels
            .iter()
            .take(record.depth as usize)
            .map(|level| Level {
                id: level.cgroup,
                current: level.current,
                limit: (level.limit < NO_LIMIT).then_some(level.limit),
                ..Level::default()
            })
            .collect();
        let from = record.levels[0].cgroup;
        let (level, guess) = binding(levels.iter())
            .map_or_else(|| (Level { id: from, ..Level::default() }, true), |(level, guess)| (level.clone(), guess));
        let refusal = Self::new(level, guess, from, record.header.time_ns, 1);
        Self { asker: Some(process(&record.asker)), key: known64(record.header.cgroup), ..refusal }
    }

    /// Of tasks in `from`, which is all that is known.
    fn read(from: &Level, counts: &Counts, times: u64) -> Option<Self> {
        let (level, guess) = binding(counts.chain(&from.path))?;
        Some(Self::new(level.clone(), guess, from.id, counts.at_ns, times))
    }
}

/// Where a refusal stands, in words and paths.
struct Place {
    container: Owner,
    /// Of the asker, in the hierarchy of the key.
    cgroup: Option<String>,
    /// Path of the level whose limit it is, in the pids hierarchy.
    limiting: Option<String>,
    own: bool,
}

impl Open {
    fn add(&mut self, refusal: Refusal) {
        grow(&mut self.refused, refusal.times);
        let time_ns = self.last.time_ns.max(refusal.time_ns);
        let asker = refusal.asker.is_some();
        // A record knows more than a count.
        if asker || self.last.asker.is_none() {
            self.last = refusal;
        }
        self.last.time_ns = time_ns;
    }

    fn place(&self, counts: &Counts, world: &World) -> Place {
        let Refusal { level, from, key, .. } = &self.last;
        let from = counts.level(*from);
        let cgroup = match key {
            Some(key) => world.containers.path(*key).map(ToString::to_string),
            None => from.map(|from| counts.key_path(from).to_owned()),
        };
        let container = match key {
            Some(key) => world.containers.owner(*key),
            None => cgroup.as_deref().and_then(|cgroup| world.containers.owner_of_path(cgroup)),
        };
        let read = counts.level(level.id).map(|level| level.path.clone());
        let seen = || counts.same.then(|| world.containers.path(level.id).map(ToString::to_string)).flatten();
        let limiting = read.or_else(seen);
        let own = match (&container, &limiting) {
            (Some(container), Some(limiting)) => is_within(limiting, &counts.pids_path(&container.cgroup)),
            _ => level.id == self.last.from,
        };
        Place { container, cgroup, limiting, own }
    }

    fn finding(&self, state: State, counts: &Counts, zombies: &Zombies, world: &World) -> Finding {
        let place = self.place(counts, world);
        let Refusal { level, guess, asker, .. } = &self.last;
        let now = counts.level(level.id);
        let mut unknown = Unknown::new();
        if level.limit.is_none() {
            let reason =
                "no level of the asker's cgroup has a limit: the fork went into another cgroup (CLONE_INTO_CGROUP)";
            unknown.insert("limit", reason.to_owned());
            unknown.insert("limiting_cgroup", reason.to_owned());
        } else if place.limiting.is_none() {
            unknown.insert("limiting_cgroup", "the cgroup was gone before its path was read".to_owned());
        }
        if asker.is_none() {
            let reason = if counts.events {
                "no hook on pids_can_fork here: pids.events counts refusals and does not say who asked"
            } else {
                "the record of the refusal was lost"
            };
            unknown.insert("asker", reason.to_owned());
        }
        // A cgroup of the host may hold anything: its zombies are not this cgroup's alone.
        let dead = place.cgroup.as_deref().map(|cgroup| {
            zombies.within(place.container.as_ref().map_or(cgroup, |container| container.cgroup.as_str()))
        });
        let parent = dead.as_ref().and_then(|dead| dead.worst.clone());
        let zombies = dead.map_or(0, |dead| dead.count);
        if parent.is_none() {
            let reason = if zombies == 0 { "there are no zombies here" } else { "it was gone before it was read" };
            unknown.insert("parent", reason.to_owned());
        }
        let current = if state == State::Closed { now.map(|level| level.current) } else { Some(level.current) };
        let mut evidence = Evidence::new();
        evidence.insert("what".to_owned(), json!("pids.max"));
        evidence.insert("limit".to_owned(), json!(level.limit));
        evidence.insert("current".to_owned(), json!(current.filter(|_| level.limit.is_some())));
        evidence.insert("limiting_cgroup".to_owned(), json!(place.limiting.as_ref().filter(|_| level.limit.is_some())));
        evidence.insert("whose".to_owned(), json!(if place.own { "own" } else { "parent" }));
        evidence.insert("inferred".to_owned(), json!(guess));
        evidence.insert("refused".to_owned(), json!(self.refused));
        evidence.insert("zombies".to_owned(), json!(zombies));
        evidence.insert("parent".to_owned(), parent.as_ref().map_or(Value::Null, |parent| json!({"process": parent})));
        let by =
            asker.as_ref().map(|process| ProcessIn { process: process.clone(), container: place.container.clone() });
        evidence.insert("asker".to_owned(), json!(by));
        evidence.insert("pid_max".to_owned(), json!(counts.host.pid_max));
        evidence.insert("host_threads".to_owned(), json!(counts.host.threads));
        evidence.insert("cgroup".to_owned(), json!(place.cgroup));
        Finding {
            code: Code("pids.limit"),
            severity: Severity::Critical,
            id: self.id.clone(),
            state: Some(state),
            time: world.at(if state == State::Open { self.last.time_ns } else { world.now_ns }),
            summary: self.summary(state, &place, current),
            why: why(level, *guess, &place, zombies, asker.as_ref()),
            fix: fix(level, &place, zombies, parent.as_ref()),
            container: place.container,
            process: asker.clone(),
            evidence,
            refers_to: None,
            unknown,
        }
    }

    fn summary(&self, state: State, place: &Place, current: Option<u64>) -> String {
        let level = &self.last.level;
        let Some(limit) = level.limit else {
            return format!("{} refused, by a cgroup that the fork was to go into", forks(self.refused));
        };
        let whose = if place.own {
            "its own limit".to_owned()
        } else {
            format!("the limit of its parent {}", place.limiting.as_deref().unwrap_or("cgroup"))
        };
        let used = current.map_or_else(|| "unknown".to_owned(), |current| current.to_string());
        let all = self.refused;
        if state == State::Closed {
            return format!(
                "no fork was refused for 10 s: {used} of {limit} pids are in use, {whose}; {all} refused in all"
            );
        }
        let asker = self.last.asker.as_ref();
        let who = asker.map_or_else(String::new, |who| format!(", last to {} (pid {})", who.comm, who.pid));
        let refused = forks(all);
        if self.last.guess {
            return format!("{refused} refused{who}: {whose} is {limit} pids ({used} in use when that was read)");
        }
        format!("{refused} refused{who}: {used} of {limit} pids are in use, {whose}")
    }
}

fn forks(count: u64) -> String {
    if count == 1 { "a fork was".to_owned() } else { format!("{count} forks were") }
}

fn why(level: &Level, guess: bool, place: &Place, zombies: u64, asker: Option<&Process>) -> String {
    let Some(limit) = level.limit else {
        return "pids_can_fork said EAGAIN, and no level of the asker's own cgroup has a limit".to_owned();
    };
    let limiting = place.limiting.as_deref().unwrap_or("a cgroup that is gone");
    let mut why = format!(
        "every process and thread counts, zombies too: pids.max of {limiting} is {limit}, so fork and clone fail with EAGAIN \
         (\"Resource temporarily unavailable\")"
    );
    why.push_str(if place.own {
        " in the whole container"
    } else {
        " in everything below that parent, whatever its own limit"
    });
    if guess {
        why.push_str("; the level is inferred: it was the nearest to its limit when that was read");
    }
    if zombies > 0 {
        why.push_str(&format!("; {zombies} of them are zombies that nobody reaps"));
    }
    if asker.is_none() {
        why.push_str("; who asked is not known");
    }
    why
}

fn fix(level: &Level, place: &Place, zombies: u64, parent: Option<&Process>) -> Vec<String> {
    let mut fix = Vec::new();
    let limit = level.limit.unwrap_or(0);
    if let Some(parent) = parent.filter(|_| zombies >= 10 || zombies.saturating_mul(2) >= limit.max(1)) {
        fix.push(format!(
            "let {} (pid {}) wait for its children, or run the container with an init that does (docker run --init, tini): that frees {zombies} pids",
            parent.comm, parent.pid
        ));
    } else {
        fix.push(
            "find what multiplies: `ps -eLf --forest` (threads count as well); a pool without a bound, or a fork bomb"
                .to_owned(),
        );
    }
    let Some(limiting) = place.limiting.as_deref().filter(|_| level.limit.is_some()) else { return fix };
    let more = limit.saturating_mul(2).max(64);
    let name = place.container.as_ref().map(|container| container.label());
    let runtime = place.container.as_ref().and_then(|container| container.runtime);
    let pod = place.container.as_ref().is_some_and(|container| container.namespace.is_some())
        || limiting.contains("kubepods");
    fix.push(match (runtime, name) {
        _ if pod => format!("if the need is real: raise podPidsLimit in the kubelet's configuration above {limit} (it is {limiting}'s limit)"),
        (Some(Runtime::Docker), Some(name)) if place.own => {
            format!("if the need is real: docker update --pids-limit {more} {name}")
        }
        (Some(Runtime::Podman), Some(name)) if place.own => {
            format!("if the need is real: podman update --pids-limit {more} {name}")
        }
        (Some(Runtime::Systemd), Some(name)) if place.own => {
            format!("if the need is real: systemctl set-property {name} TasksMax={more}")
        }
        _ => format!("if the need is real: raise pids.max of {limiting} above {limit} (it can be written at any time)"),
    });
    fix
}
