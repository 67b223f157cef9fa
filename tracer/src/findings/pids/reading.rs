//! What is read for the pids lens: records like the kernel's own, so that a recording replays them.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{containers::is_within, findings::numbers::grow, pipeline::Ancestor};

/// Something to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The pids hierarchy's counters, and the processes of these cgroups (paths in the hierarchy of the key).
    Counts {
        of: Vec<Arc<str>>,
        /// Also what `pids.events` counted: nothing else tells of refusals here.
        events: bool,
    },
    /// Who waits to be reaped, as the kernel side knows it, and those that are known to.
    Unreaped { known: Vec<u32> },
    /// All of /proc.
    Sweep,
    /// Who was refused a fork by no cgroup: the process, its pids cgroup, its user.
    Asker { pid: u32, from: u64, uid: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    Counts(Counts),
    Unreaped(Waiting),
    Sweep(Sweep),
    Asker(Asker),
}

/// The pids hierarchy at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// When the kernel side's counts were read, by the records' clock.
    pub at_ns: u64,
    /// How long it took to read: what takes long is read less often.
    pub took_ns: u64,
    pub groups: Vec<Group>,
    /// Parents before their children.
    pub levels: Vec<Level>,
    /// Refusals so far that the kernel side counted, by the asker's pids cgroup.
    pub refusals: BTreeMap<u64, u64>,
    /// … by no cgroup.
    pub failed: BTreeMap<u64, u64>,
    pub host: HostPids,
    /// What `pids.events` counted was asked for.
    pub events: bool,
    /// The pids hierarchy is the one that carries the key.
    pub same: bool,
}

/// What bounds the forks of one process besides cgroups. What is `None` could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    pub from: u64,
    /// Its soft limit; `None` also: unlimited.
    pub nproc_limit: Option<u64>,
    /// Threads of its user.
    pub user_threads: Option<u64>,
    /// Root, or with a capability that passes RLIMIT_NPROC by.
    pub privileged: Option<bool>,
    pub host: HostPids,
}

/// What the host as a whole allows, and has, in tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPids {
    pub pid_max: Option<u64>,
    pub threads_max: Option<u64>,
    pub threads: Option<u64>,
}

/// The living processes of one cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub cgroup: Arc<str>,
    pub states: States,
    pub processes: u64,
    pub threads: u64,
}

/// Processes by state, as ps shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct States {
    pub running: u64,
    pub sleeping: u64,
    pub uninterruptible: u64,
    pub stopped: u64,
    pub zombie: u64,
    pub idle: u64,
}

/// A cgroup of the pids hierarchy, in tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    pub id: u64,
    pub path: String,
    pub current: u64,
    /// `None`: max.
    pub limit: Option<u64>,
    /// `max` of pids.events; `None` where it was not asked for or cannot be read.
    pub refused: Option<u64>,
    /// `max` of pids.events.local (v2 since 6.11): of this level's own limit.
    pub refused_here: Option<u64>,
    /// Where the hierarchies differ: the path, in the other one, of a process in here.
    pub key: Option<String>,
}

/// Processes that ended and are still there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub took_ns: u64,
    pub dead: Vec<Dead>,
    /// Of those that ended a moment ago, and may be reaped yet: parent, and when they ended.
    pub young: Vec<(u32, u64)>,
    pub parents: Vec<Ancestor>,
}

/// Everything in /proc that is no living process, and the host's states.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sweep {
    pub took_ns: u64,
    pub dead: Vec<Dead>,
    pub states: States,
}

/// A process as /proc/PID/stat shows it, said to be dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    pub stat: Stat,
    /// By the kernel side, where it saw the end.
    pub exit_ns: Option<u64>,
    /// Its parent then, likewise.
    pub parent: Option<u32>,
    /// The key of its cgroup, likewise.
    pub key: Option<u64>,
    /// Its cgroup's path, where /proc tells it: v1 does not, of who is dead.
    pub cgroup: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    pub pid: u32,
    pub comm: String,
    /// `R`, `S`, `D`, …
    pub state: char,
    pub ppid: u32,
    pub threads: u64,
    /// Time on a CPU of all its threads, in clock ticks.
    pub user_ticks: u64,
    pub system_ticks: u64,
    /// Clock ticks since boot: with the pid it names one process for ever.
    pub start_ticks: u64,
}

impl Stat {
    /// From the text of /proc/PID/stat. The command stands in parentheses and may hold anything, parentheses too.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(')')?;
        let (pid, comm) = head.split_once(" (")?;
        let fields: Vec<&str> = tail.split_whitespace().collect();
        Some(Self {
            pid: pid.trim().parse().ok()?,
            comm: comm.to_owned(),
            state: fields.first()?.chars().next()?,
            ppid: fields.get(1)?.parse().ok()?,
            user_ticks: fields.get(11)?.parse().ok()?,
            system_ticks: fields.get(12)?.parse().ok()?,
            threads: fields.get(17)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }

    /// Its end is complete, and nobody has waited for it. A leader that ended before its threads shows Z as well.
    pub fn is_zombie(&self) -> bool {
        self.state == 'Z' && self.threads <= 1
    }
}

impl States {
    pub fn add(&mut self, state: char) {
        match state {
            'R' => self.running += 1,
            'S' => self.sleeping += 1,
            'D' => self.uninterruptible += 1,
            'T' | 't' => self.stopped += 1,
            'Z' => self.zombie += 1,
            'I' => self.idle += 1,
            _ => {}
        }
    }

    pub fn merge(&mut self, other: &Self) {
        grow(&mut self.running, other.running);
        grow(&mut self.sleeping, other.sleeping);
        grow(&mut self.uninterruptible, other.uninterruptible);
        grow(&mut self.stopped, other.stopped);
        grow(&mut self.zombie, other.zombie);
        grow(&mut self.idle, other.idle);
    }

    /// (letter, count), in the order to show.
    pub fn all(&self) -> [(&'static str, u64); 6] {
        [
            ("R", self.running),
            ("S", self.sleeping),
            ("D", self.uninterruptible),
            ("T", self.stopped),
            ("Z", self.zombie),
            ("I", self.idle),
        ]
    }
}

impl Level {
    /// Tasks that still fit; `None` without a limit.
    pub fn room(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.current))
    }
}

impl Counts {
    pub fn level(&self, id: u64) -> Option<&Level> {
        self.levels.iter().find(|level| level.id == id)
    }

    /// The level with this path and those above it, lowest first.
    pub fn chain(&self, path: &str) -> impl Iterator<Item = &Level> {
        self.levels.iter().rev().filter(move |level| is_within(path, &level.path))
    }

    /// The path in the pids hierarchy of the cgroup that has this path in the hierarchy of the key.
    pub fn pids_path(&self, key: &str) -> String {
        if self.same {
            return key.to_owned();
        }
        let found = self.levels.iter().find_map(|level| {
            let member = level.key.as_deref()?;
            let below =
                if is_within(member, key) { member.strip_prefix(key.trim_end_matches('/'))? } else { return None };
            Some(level.path.strip_suffix(below)?.to_owned())
        });
        found.filter(|path| !path.is_empty()).unwrap_or_else(|| key.to_owned())
    }

    /// The path, in the hierarchy of the key, of a pids cgroup.
    pub fn key_path<'a>(&'a self, level: &'a Level) -> &'a str {
        level.key.as_deref().unwrap_or(&level.path)
    }
}

/// The lowest level that has no room; else (others ended meanwhile) the one with the least room, which is a guess.
pub fn binding<'a>(levels: impl Iterator<Item = &'a Level>) -> Option<(&'a Level, bool)> {
    let mut least: Option<&Level> = None;
    for level in levels {
        let Some(room) = level.room() else { continue };
        if room == 0 {
            return Some((level, false));
        }
        if least.and_then(Level::room).is_none_or(|least| room < least) {
            least = Some(level);
        }
    }
    least.map(|level| (level, true))
}
