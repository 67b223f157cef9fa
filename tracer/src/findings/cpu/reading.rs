//! What is read for the cpu lens: records like the kernel's own, so that a recording replays them.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tracer_common::cpu::BUCKETS;

use crate::{
    findings::{numbers::total, pids::Stat},
    model::{Process, recorded},
};

/// Something to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The cpu hierarchy's files, /proc/stat, and what the kernel side counted.
    Usage {
        /// The containers' own cgroups, in the hierarchy of the key.
        of: Vec<Arc<str>>,
        /// Every cgroup in a container: whose processes are read.
        within: Vec<Arc<str>>,
    },
    /// Who is in uninterruptible sleep: those that the kernel side knows, and those that are known to.
    Blocked {
        known: Vec<u32>,
        /// Look at every thread in /proc as well.
        sweep: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    Usage(Box<Usage>),
    Blocked(Sleepers),
}

/// All counters at one time. What is `None` could not be read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub at_ns: u64,
    /// How long it took to read: what takes long is read less often.
    pub took_ns: u64,
    pub host: HostCpu,
    pub groups: Vec<Group>,
    /// Of the cpu hierarchy: the containers' own cgroups and all above them.
    pub levels: Vec<Level>,
    pub processes: Vec<ProcessTime>,
    /// By the key of the cgroup; `None`: nothing is hooked, or not now.
    pub waits: Option<BTreeMap<u64, Waited>>,
    /// Uninterruptible sleeps that ended, by the key of the cgroup and of the stack.
    #[serde(with = "recorded::pairs")]
    pub sleeps: BTreeMap<(u64, u32), Slept>,
    /// The stacks of those that sum up to something.
    pub stacks: BTreeMap<u32, Stack>,
    /// What would be hooked is not attached now: nobody looks, and no file says that there is something to see.
    #[serde(default)]
    pub is_idle: bool,
}

/// Functions, innermost first; else why they are not known.
pub type Stack = Result<Arc<[String]>, Arc<str>>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slept {
    pub count: u64,
    pub total_ns: u64,
}

/// /proc/stat and /proc/loadavg.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostCpu {
    pub all: Times,
    pub each: Vec<Times>,
    pub load: Option<[f64; 3]>,
    /// Tasks that run or would like to, the reader's own included.
    #[serde(default)]
    pub runnable: Option<u64>,
}

/// Where the time of a CPU went, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    pub user: u64,
    pub nice: u64,
    pub system: u64,
    pub idle: u64,
    pub iowait: u64,
    pub irq: u64,
    pub softirq: u64,
    pub steal: u64,
}

/// A container's own cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// In the hierarchy of the key.
    pub cgroup: Arc<str>,
    /// In that of the cpu controller.
    pub cpu_path: Option<String>,
    pub used: Option<Used>,
    /// The CPUs that it may use; `None`: all, or not told.
    pub cpus: Option<Vec<u32>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    pub total_ns: u64,
    pub user_ns: u64,
    pub system_ns: u64,
}

/// A cgroup of the cpu hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    pub path: String,
    /// `None`: no limit, or the controller is off here.
    pub quota: Option<Quota>,
    /// v2 `cpu.weight`, v1 `cpu.shares`.
    pub weight: Option<u64>,
    /// `None`: the controller is off here.
    pub bandwidth: Option<Bandwidth>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    pub quota_ns: u64,
    pub period_ns: u64,
    pub burst_ns: u64,
}

/// From cpu.stat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    pub periods: u64,
    pub throttled: u64,
    /// Summed over CPUs.
    pub throttled_ns: u64,
    /// Periods that ran on what was saved up, and how much of that; `None`: before 5.15.
    pub bursts: Option<u64>,
    pub burst_used_ns: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessTime {
    pub stat: Stat,
    /// In the hierarchy of the key.
    pub cgroup: Arc<str>,
}

/// What the tasks of one cgroup waited for a CPU, as the kernel side counted it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    pub count: u64,
    /// Of waits that ended.
    pub total_ns: u64,
    /// Uninterruptible sleeps that ended.
    pub blocked: u64,
    pub blocked_ns: u64,
    pub worst: Option<Worst>,
    pub histogram: [u64; BUCKETS],
}

/// The longest wait of the last seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worst {
    pub wait_ns: u64,
    pub tid: u32,
    /// Its process, where it still lived.
    pub pid: Option<u32>,
    pub comm: Option<String>,
    /// Who had run until then.
    pub instead_tid: u32,
    pub instead_comm: String,
}

/// Tasks in uninterruptible sleep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sleepers {
    pub took_ns: u64,
    /// All that were looked at and are in it.
    pub tasks: Vec<Sleeper>,
    /// How many the kernel side has in it now, by the key of their cgroup; `None`: nothing is hooked.
    pub now: Option<BTreeMap<u64, u64>>,
}

/// A task in uninterruptible sleep that counts as load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sleeper {
    pub process: Process,
    /// In the hierarchy of the key.
    pub cgroup: Option<String>,
    /// From the kernel side, where it saw the beginning.
    pub since_ns: Option<u64>,
    /// How often it was switched so far: another number, another sleep.
    pub switches: Option<u64>,
    /// Its v1 freezer cgroup holds it: /proc shows D for that as well, and it is no load.
    pub frozen: bool,
    /// The function that it waits in.
    pub wchan: Option<String>,
    /// Innermost first.
    pub stack: Result<Vec<String>, String>,
    /// That of the file which its system call was given.
    pub file_system: Result<Mounted, String>,
}

/// Where a file system is, as the task sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// `ext4`, `fuse.sshfs`.
    pub kind: String,
    pub at: String,
}

impl Quota {
    pub fn cpus(&self) -> f64 {
        self.quota_ns as f64 / self.period_ns.max(1) as f64
    }
}

impl Times {
    /// From the numbers of a `cpu` line of /proc/stat.
    pub fn parse(line: &str, tick_ns: u64) -> Option<Self> {
        let mut numbers = line.split_whitespace().skip(1).map(|word| word.parse::<u64>().ok());
        let mut next = || Some(numbers.next()??.saturating_mul(tick_ns));
        Some(Self {
            user: next()?,
            nice: next()?,
            system: next()?,
            idle: next()?,
            iowait: next()?,
            irq: next()?,
            softirq: next()?,
            steal: next()?,
        })
    }

    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            nice: self.nice.saturating_sub(before.nice),
            system: self.system.saturating_sub(before.system),
            idle: self.idle.saturating_sub(before.idle),
            iowait: self.iowait.saturating_sub(before.iowait),
            irq: self.irq.saturating_sub(before.irq),
            softirq: self.softirq.saturating_sub(before.softirq),
            steal: self.steal.saturating_sub(before.steal),
        }
    }

    pub fn sum(&self) -> u64 {
        total(self.all().iter().map(|(_, ns)| ns))
    }

    /// (the name of its share, ns), in the order to show.
    pub fn all(&self) -> [(&'static str, u64); 8] {
        [
            ("user_pct", self.user),
            ("nice_pct", self.nice),
            ("system_pct", self.system),
            ("idle_pct", self.idle),
            ("iowait_pct", self.iowait),
            ("irq_pct", self.irq),
            ("softirq_pct", self.softirq),
            ("steal_pct", self.steal),
        ]
    }
}

impl HostCpu {
    /// From the texts of /proc/stat and /proc/loadavg.
    pub fn parse(stat: &str, loadavg: &str, tick_ns: u64) -> Self {
        let mut host = Self::default();
        for line in stat.lines().take_while(|line| line.starts_with("cpu")) {
            let Some(times) = Times::parse(line, tick_ns) else { continue };
            if line.starts_with("cpu ") { host.all = times } else { host.each.push(times) }
        }
        let mut loads = loadavg.split_whitespace().map_while(|word| word.parse().ok());
        host.load = loads.next().zip(loads.next()).zip(loads.next()).map(|((one, five), fifteen)| [one, five, fifteen]);
        host.runnable = loadavg.split_whitespace().nth(3).and_then(|tasks| tasks.split_once('/')?.0.parse().ok());
        host
    }
}

impl Bandwidth {
    /// From the text of cpu.stat, of v1 or v2; `None` where the controller is off.
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
        };
        let throttled_ns = field("throttled_time").or_else(|| field("throttled_usec")?.checked_mul(1000));
        Some(Self {
            periods: field("nr_periods")?,
            throttled: field("nr_throttled")?,
            throttled_ns: throttled_ns?,
            bursts: field("nr_bursts"),
            burst_used_ns: field("burst_time").or_else(|| field("burst_usec")?.checked_mul(1000)),
        })
    }
}

/// `0-2,5` as the kernel writes it; `None` where it is none, or wider than any machine.
pub fn cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last > 1 << 16 {
            return None;
        }
        cpus.extend(first..=last);
    }
    (!cpus.is_empty()).then_some(cpus)
}

/// The functions of /proc/PID/stack: `[<0>] kernel_clone+0x1af/0x3e0 [module]` a line.
pub fn frames(text: &str) -> Vec<String> {
    let frames = text.lines().filter_map(|line| {
        let after = line.split_once("] ").map_or(line, |(_, after)| after).trim();
        let name = after.split(['+', ' ']).next()?;
        (!name.is_empty()).then(|| name.to_owned())
    });
    frames.take(MAX_FRAMES).collect()
}

const MAX_FRAMES: usize = 24;
