//! What a container needs of the capabilities that it was given: every check counted by its kind, judged by what the
//! kernel asked it for. Pure.

mod explain;
mod judge;
mod refusals;
mod report;
mod returns;
pub mod rules;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use syscalls::Sysno;
use tracer_common::caps::{COMPAT, Check, CheckKey, FRAMES, NO_SYSCALL, Origin, Outcome, OutcomeKey, Relation};

pub use self::{
    explain::EXPLAINED,
    report::{Evidence, FileSets, ProcessSets, ProgramFile, Report, Sets, VERDICTS, Warning, merge, position},
};
use super::World;
use crate::{
    containers::inspect::capability_names,
    events::{self, Event},
    findings::numbers::total,
    model::{Container, Process},
    pipeline::{Output, Question},
};

/// Something to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The sets of the container with this cgroup, and of its processes.
    Sets(String),
    /// What the kernel side counted.
    Totals,
    /// The names of addresses in the kernel.
    Symbols(Vec<u64>),
    /// The returns of calls are to be looked at from now on, or not.
    Returns(bool),
}

/// What was read.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// The kernel side watches this container, from this time on. It ran already, or not.
    Watching {
        container: Arc<Container>,
        since_ns: u64,
        ran: bool,
    },
    /// `None`: it has no process (any more).
    Sets(String, Option<Box<Sets>>),
    Totals(Totals),
    Symbols(Result<HashMap<u64, String>, String>),
    /// From then on they are, or not; why not, where they should be.
    Returns {
        seen: bool,
        at_ns: u64,
        why: Option<String>,
    },
    /// A recording begins here, in the middle of a watch.
    SoFar(Box<SoFar>),
}

/// All that was found out until now, as [`Rule`] holds it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SoFar {
    watched: Vec<Watched>,
    starts: Vec<(String, Vec<u64>)>,
    checks: Vec<(CheckKey, Seen)>,
    outcomes: Vec<(OutcomeKey, Seen)>,
    owners: Vec<(u64, String)>,
    told: Vec<(String, Option<u32>, u32)>,
    findings: u64,
    names: Vec<(u64, String)>,
    asked: Vec<u64>,
    nameless: Option<String>,
    #[serde(default)]
    rests_since: Option<u64>,
    #[serde(default)]
    blind: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    pub checks: Vec<(CheckKey, u64)>,
    pub outcomes: Vec<(OutcomeKey, u64)>,
    /// Checks that found no room, by cgroup.
    pub uncounted: Vec<(u64, u64)>,
}

/// A kind of check, or of what came of a call, and the first of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Seen {
    /// `None`: its record was lost, and its count alone tells of it.
    process: Option<Process>,
    stack: [u64; FRAMES],
    count: u64,
}

impl Seen {
    const LOST: Self = Self { process: None, stack: [0; FRAMES], count: 0 };
}

/// Containers whose starts are kept while it is not known yet which one is meant.
const STARTS: usize = 4096;

/// One container, for as long as it is watched.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Watched {
    container: Arc<Container>,
    since_ns: u64,
    /// It was there before the watch began.
    ran: bool,
    ended_ns: Option<u64>,
    sets: Option<Sets>,
    /// What it runs with was told.
    #[serde(default)]
    sets_told: bool,
    /// So long the returns of calls were not looked at.
    #[serde(default)]
    unseen_ns: u64,
}

#[derive(Default)]
pub struct Rule {
    /// By cgroup path.
    watched: BTreeMap<String, Watched>,
    /// When programs of containers started, by cgroup path.
    starts: BTreeMap<String, Vec<u64>>,
    checks: BTreeMap<CheckKey, Seen>,
    outcomes: BTreeMap<OutcomeKey, Seen>,
    uncounted: BTreeMap<u64, u64>,
    /// Whose cgroups are, by the path of the container's: they may be long gone when the report is made.
    owners: BTreeMap<u64, String>,
    /// What was said of refusals: container, capability (`None`: no capability was refused), call.
    told: BTreeSet<(String, Option<u32>, u32)>,
    findings: u64,
    /// The names of addresses in the kernel; those of `asked` that are not in it have none.
    names: HashMap<u64, String>,
    asked: BTreeSet<u64>,
    /// Why addresses have no names.
    nameless: Option<String>,
    /// Since when the returns of calls are not looked at.
    rests_since: Option<u64>,
    /// When they are to be looked at again; `None`: they are, that was asked for, or it cannot be.
    rests_until: Option<u64>,
    /// Why they cannot be any more.
    blind: Option<String>,
    finishing: bool,
}

impl Rule {
    pub fn event(&mut self, event: &Event, world: &World, out: &mut Vec<Output>) {
        match event {
            Event::CapCheck(check) => self.check(check, world),
            Event::CapOutcome(outcome) => self.outcome(outcome, world, out),
            Event::CapStart(start) => {
                let Some(owner) = world.containers.owner(start.header.cgroup) else { return };
                if self.watched.contains_key(&owner.cgroup) {
                    out.push(sets_of(&owner.cgroup));
                }
                // Its name may come later, and tell only then that it is meant.
                if self.starts.len() < STARTS || self.starts.contains_key(&owner.cgroup) {
                    self.starts.entry(owner.cgroup.clone()).or_default().push(start.header.time_ns);
                }
            }
            Event::CapBusy(_) => self.busy(out),
            Event::CgroupRmdir(rmdir) => {
                if let Some(path) = world.containers.path(rmdir.header.cgroup)
                    && let Some(watched) = self.watched.get_mut(&**path)
                {
                    watched.ended_ns = Some(rmdir.header.time_ns);
                }
            }
            _ => {}
        }
    }

    fn check(&mut self, check: &Check, world: &World) {
        self.owner_of(check.key.cgroup, world);
        let first = || Seen { process: Some(events::process(&check.task)), stack: check.stack, count: 1 };
        self.checks.entry(check.key).or_insert_with(first);
    }

    fn outcome(&mut self, outcome: &Outcome, world: &World, out: &mut Vec<Output>) {
        self.owner_of(outcome.key.cgroup, world);
        let process = Some(events::process(&outcome.task));
        self.outcomes.entry(outcome.key).or_insert_with(|| Seen { process, stack: [0; FRAMES], count: 1 });
        if outcome.key.origin != Origin::Runtime as u32
            && let Some(container) = world.containers.owner(outcome.header.cgroup)
        {
            self.refused(outcome, &container, world, out);
        }
    }

    /// A container's end may be missed, or seen otherwise first: one whose cgroup is here no longer has ended.
    fn miss(&mut self, now_ns: u64, world: &World) {
        let gone = |watched: &&mut Watched| world.containers.id_of_path(&watched.container.cgroup).is_none();
        for watched in self.watched.values_mut().filter(gone) {
            watched.ended_ns.get_or_insert(now_ns);
        }
    }

    fn owner_of(&mut self, cgroup: u64, world: &World) {
        if let Some(owner) = world.containers.owner(cgroup) {
            self.owners.insert(cgroup, owner.cgroup.clone());
        }
    }

    pub fn reading(&mut self, reading: &Reading, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        match reading {
            Reading::Watching { container, since_ns, ran } => {
                let path = container.cgroup.clone();
                // One that comes back under its path is watched on.
                self.watched.entry(path.clone()).and_modify(|watched| watched.ended_ns = None).or_insert(Watched {
                    container: container.clone(),
                    since_ns: *since_ns,
                    ran: *ran,
                    ended_ns: None,
                    sets: None,
                    sets_told: false,
                    unseen_ns: 0,
                });
                out.push(sets_of(&path));
            }
            Reading::Sets(path, sets) => {
                if let (Some(watched), Some(sets)) = (self.watched.get_mut(path), sets) {
                    // Before its own program has started they are those of its runtime, which has all. From then on it is no
                    // matter of watching.
                    let own = watched.ran || self.starts.contains_key(path);
                    if own && !std::mem::replace(&mut watched.sets_told, true) {
                        out.extend(sets.findings.iter().map(|finding| Output::Finding(Box::new(finding.clone()))));
                    }
                    watched.sets = Some((**sets).clone());
                }
            }
            Reading::Totals(totals) => {
                self.miss(now_ns, world);
                // One whose record was lost is known by its count: nothing that was asked for is left out.
                for (key, count) in &totals.checks {
                    self.owner_of(key.cgroup, world);
                    let seen = self.checks.entry(*key).or_insert(Seen::LOST);
                    seen.count = (*count).max(seen.count);
                }
                for (key, count) in &totals.outcomes {
                    self.owner_of(key.cgroup, world);
                    let seen = self.outcomes.entry(*key).or_insert(Seen::LOST);
                    seen.count = (*count).max(seen.count);
                }
                self.uncounted = totals.uncounted.iter().copied().collect();
                totals.uncounted.iter().for_each(|(cgroup, _)| self.owner_of(*cgroup, world));
                let addresses: BTreeSet<u64> = self.checks.values().flat_map(|seen| seen.stack).collect();
                let new = |address: &u64| *address != 0 && !self.asked.contains(address);
                let addresses: Vec<u64> = addresses.into_iter().filter(new).collect();
                if self.finishing || !addresses.is_empty() {
                    out.push(Output::Ask(Question::Caps(Ask::Symbols(addresses))));
                } else {
                    self.reports(now_ns, world, out);
                }
            }
            Reading::Symbols(names) => {
                match names {
                    Ok(names) => {
                        self.asked.extend(self.checks.values().flat_map(|seen| seen.stack));
                        self.names.extend(names.iter().map(|(address, name)| (*address, name.clone())));
                    }
                    Err(why) => self.nameless = Some(why.clone()),
                }
                self.reports(now_ns, world, out);
            }
            Reading::Returns { seen, at_ns, why } => self.returns(*seen, *at_ns, why.as_ref()),
            Reading::SoFar(so_far) => self.resume(so_far),
        }
    }

    /// `None`: nobody is watched.
    pub fn so_far(&self) -> Option<SoFar> {
        let names = self.names.iter().map(|(address, name)| (*address, name.clone()));
        (!self.watched.is_empty()).then(|| SoFar {
            watched: self.watched.values().cloned().collect(),
            starts: self.starts.clone().into_iter().collect(),
            checks: self.checks.clone().into_iter().collect(),
            outcomes: self.outcomes.clone().into_iter().collect(),
            owners: self.owners.clone().into_iter().collect(),
            told: self.told.iter().cloned().collect(),
            findings: self.findings,
            names: names.collect::<BTreeMap<_, _>>().into_iter().collect(),
            asked: self.asked.iter().copied().collect(),
            nameless: self.nameless.clone(),
            rests_since: self.rests_since,
            blind: self.blind.clone(),
        })
    }

    fn resume(&mut self, so_far: &SoFar) {
        let by_path = |watched: &Watched| (watched.container.cgroup.clone(), watched.clone());
        self.watched = so_far.watched.iter().map(by_path).collect();
        self.starts = so_far.starts.iter().cloned().collect();
        self.checks = so_far.checks.iter().cloned().collect();
        self.outcomes = so_far.outcomes.iter().cloned().collect();
        self.owners = so_far.owners.iter().cloned().collect();
        self.told = so_far.told.iter().cloned().collect();
        self.findings = so_far.findings;
        self.names = so_far.names.iter().cloned().collect();
        self.asked = so_far.asked.iter().copied().collect();
        self.nameless.clone_from(&so_far.nameless);
        self.rests_since = so_far.rests_since;
        self.rests_until = None;
        self.blind.clone_from(&so_far.blind);
    }

    /// The end of the run: what was counted is asked for, and the reports come with the answers.
    pub fn finish(&mut self, _: u64, out: &mut Vec<Output>) {
        self.finishing = true;
        let gone = |watched: &&Watched| watched.sets.is_none() && watched.ended_ns.is_none();
        out.extend(self.watched.values().filter(gone).map(|watched| sets_of(&watched.container.cgroup)));
        out.push(Output::Ask(Question::Caps(Ask::Totals)));
    }

    /// What was found out so far; at the end, what was found out.
    fn reports(&mut self, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        for watched in self.watched.values() {
            let path = watched.container.cgroup.as_str();
            let within = |cgroup: u64| match world.containers.owner(cgroup) {
                Some(owner) => owner.cgroup == path,
                None => self.owners.get(&cgroup).is_some_and(|before| before == path),
            };
            let observed = judge::Observed {
                checks: self.checks.iter().filter(|(key, _)| within(key.cgroup)).collect(),
                outcomes: self.outcomes.iter().filter(|(key, _)| within(key.cgroup)).collect(),
                uncounted: total(self.uncounted.iter().filter(|(cgroup, _)| within(**cgroup)).map(|(_, count)| count)),
                names: &self.names,
                nameless: self.nameless.as_deref(),
                starts: self.starts.get(&watched.container.cgroup).map_or(&[], Vec::as_slice),
                outcomes_unknown: if world.attached("cap_outcome") {
                    self.unseen(watched, watched.ended_ns.unwrap_or(now_ns))
                } else {
                    Some("the returns of system calls could not be watched".to_owned())
                },
            };
            // What is known by its name now may have had none when the watch began.
            let owner = watched_owner(world, &watched.container);
            let report = judge::report(watched, &owner, &observed, now_ns, world.at(now_ns));
            if !self.finishing {
                out.push(Output::CapsSoFar(Box::new(report)));
                continue;
            }
            if let Some(finding) = judge::unused(&report, watched, world.at(now_ns)) {
                out.push(Output::Finding(Box::new(finding)));
            }
            out.push(Output::Caps(Box::new(report)));
        }
    }
}

fn watched_owner(world: &World, container: &Arc<Container>) -> Arc<Container> {
    world.containers.owner_of_path(&container.cgroup).unwrap_or_else(|| container.clone())
}

fn sets_of(path: &str) -> Output {
    Output::Ask(Question::Caps(Ask::Sets(path.to_owned())))
}

/// `CAP_CHOWN`; one that is younger than this build is `CAP_41`.
fn capability_name(number: u32) -> String {
    capability_names(1 << (number & 63)).pop().unwrap_or_default()
}

/// `None`: no call (an exception, a task of the kernel), or unreadable.
pub fn syscall_name(number: u32) -> Option<String> {
    if number == NO_SYSCALL {
        return None;
    }
    if number & COMPAT != 0 {
        return Some(format!("32-bit call {}", number & !COMPAT));
    }
    Some(Sysno::new(number as usize).map_or_else(|| format!("call {number}"), |known| known.name().to_owned()))
}

/// `EPERM`.
fn errno_name(result: i32) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(result.saturating_neg()))
}

fn relation(key: &CheckKey) -> Relation {
    match key.relation {
        0 => Relation::Own,
        1 => Relation::Outer,
        _ => Relation::Inner,
    }
}

#[cfg(test)]
mod tests;
