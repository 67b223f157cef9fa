//! One list of past kills from all that tells of them.
//!
//! The log is believed first: it has victims and numbers. A counter adds only what it counted beyond the log's lines.
//! An engine adds only a kill that neither knows; where it knows of the container, its verdict stands beside the kill,
//! so that a view can say where the two differ. Which container a cgroup is, is decided elsewhere.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    counters::CgroupCounts,
    engine::Verdict,
    kmsg,
    report::{Constraint, Header, OomReport, Reports, Victim},
};
use crate::{
    containers::is_within,
    model::{Timestamp, Unknown},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    KernelLog,
    /// Kills that the cgroup counted and no log shows.
    Counter,
    /// The engine alone says so.
    Engine,
}

/// The task that asked for memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trigger {
    /// A thread id.
    pub pid: Option<u32>,
    pub comm: String,
}

/// One decision from before attach (source Counter: `kills` of them, of which nothing else is known).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PastKill {
    pub time: Option<Timestamp>,
    /// The chosen victim's, below the root of the memory hierarchy; `None` where the report's header was suppressed.
    pub cgroup: Option<String>,
    /// `None` where it was not a cgroup's limit (see `constraint`), or is unknown.
    pub limiting_cgroup: Option<String>,
    /// The numbers are those of the limiting cgroup with all below it, at the kill.
    pub limit_bytes: Option<u64>,
    pub usage_bytes: Option<u64>,
    pub anon_bytes: Option<u64>,
    /// Shared memory included, as in memory.stat.
    pub file_bytes: Option<u64>,
    pub shmem_bytes: Option<u64>,
    pub kernel_bytes: Option<u64>,
    pub swap_bytes: Option<u64>,
    /// The chosen one first.
    pub victims: Vec<Victim>,
    /// Killed processes; 1 where only the engine says it.
    pub kills: u64,
    pub trigger: Option<Trigger>,
    pub constraint: Option<Constraint>,
    pub group: bool,
    /// Whose memory.oom.group it was.
    pub group_cgroup: Option<String>,
    pub source: Source,
    /// Of the container that `cgroup` is or lies in, if the kill was in the run that the engine speaks of.
    pub engine: Option<Verdict>,
    /// Why fields are `None`.
    pub unknown: Unknown,
}

/// A kill that ctrace saw as it happened, before log and counters were read: they may tell of it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witnessed {
    /// Its thread and its process: the log names one of them.
    pub pids: [u32; 2],
    pub time: Timestamp,
    pub cgroup: String,
    /// Chosen, and in a cgroup with `memory.oom.group`: the kernel counts it a second time with its group.
    pub twice: bool,
}

impl Witnessed {
    fn is_told_by(&self, report: &OomReport, offset_ns: i64) -> bool {
        let away = kmsg::wall(report.usec, offset_ns).0.abs_diff(self.time.0);
        away < CLOCKS_AGREE_NS && report.victims.iter().any(|victim| self.pids.contains(&victim.pid))
    }
}

/// The log's clock goes its own way between two looks at it; a pid does not come round so soon.
const CLOCKS_AGREE_NS: u64 = 10_000_000_000;

/// Merges. `offset_ns` is wall clock minus the log's clock (`kmsg::offset_now`); `engines` are verdicts by the
/// container's cgroup; `witnessed` are the kills that are told already. Kills with a time first, oldest first.
pub fn merge(
    log: &Reports,
    counters: &[CgroupCounts],
    engines: &[(String, Verdict)],
    witnessed: &[Witnessed],
    offset_ns: i64,
) -> Vec<PastKill> {
    let is_past = |report: &&OomReport| !witnessed.iter().any(|kill| kill.is_told_by(report, offset_ns));
    let mut kills: Vec<PastKill> = log
        .reports
        .iter()
        .filter(|report| !report.victims.is_empty())
        .filter(is_past)
        .map(|report| from_report(report, offset_ns))
        .collect();
    // Where the log says in which cgroup they count they are among its own.
    let unplaced = witnessed.iter().filter(|kill| {
        let report = log.reports.iter().find(|report| kill.is_told_by(report, offset_ns));
        report.is_none_or(|report| report.task_memcg.is_none() && report.group.is_none())
    });
    let missing = unlogged(log, unplaced, counters);
    let bare: Vec<usize> = (0..kills.len()).filter(|at| kills[*at].cgroup.is_none() && !kills[*at].group).collect();
    if let [(cgroup, count)] = missing.as_slice()
        && *count == bare.len() as u64
    {
        // As many kills without a cgroup as one cgroup lacks, and no other lacks any: they are its own.
        for at in bare {
            kills[at].cgroup = Some((*cgroup).to_owned());
            kills[at].unknown.remove("cgroup");
        }
    } else {
        kills.extend(missing.iter().map(|(cgroup, count)| from_counter(cgroup, *count, bare.len())));
    }
    for (cgroup, verdict) in engines {
        let mut known = witnessed.iter().any(|kill| is_within(&kill.cgroup, cgroup));
        for kill in kills.iter_mut().filter(|kill| kill.cgroup.as_deref().is_some_and(|own| is_within(own, cgroup))) {
            let this_run = match (kill.time, verdict.started) {
                (Some(time), Some(started)) => time >= started,
                _ => true,
            };
            if this_run {
                kill.engine = Some(verdict.clone());
                known = true;
            }
        }
        if !known && verdict.oom_killed == Some(true) {
            kills.push(from_engine(cgroup, verdict));
        }
    }
    kills.sort_by_key(|kill| (kill.time.is_none(), kill.time));
    kills
}

/// Own kills of each cgroup that neither a line of the log nor one that was witnessed stands for.
fn unlogged<'a, 'b>(
    log: &'b Reports,
    witnessed: impl Iterator<Item = &'b Witnessed>,
    counters: &'a [CgroupCounts],
) -> Vec<(&'a str, u64)> {
    let mut logged: BTreeMap<&str, u64> = BTreeMap::new();
    for kill in witnessed {
        *logged.entry(&kill.cgroup).or_default() += if kill.twice { 2 } else { 1 };
    }
    let mut groups: Vec<(&str, u64)> = Vec::new();
    for report in log.reports.iter().filter(|report| report.counted > 0) {
        // Where the members of a group lay is not said: somewhere in it. Of a group whose header was suppressed not even
        // where the chosen one lay.
        let placed = u64::from(report.task_memcg.is_some());
        if let Some(cgroup) = &report.task_memcg {
            *logged.entry(cgroup).or_default() += if report.group.is_some() { 1 } else { report.counted };
        }
        if let Some(group) = &report.group {
            groups.push((group, report.counted - placed));
        }
    }
    let mut missing = Vec::new();
    for count in counters {
        let Some(kills) = count.own_kills() else { continue };
        let mut left = kills.saturating_sub(logged.get(count.cgroup.as_str()).copied().unwrap_or(0));
        for (_, members) in groups.iter_mut().filter(|(group, _)| is_within(&count.cgroup, group)) {
            let taken = left.min(*members);
            (left, *members) = (left - taken, *members - taken);
        }
        if left > 0 {
            missing.push((count.cgroup.as_str(), left));
        }
    }
    missing
}

const NUMBERS: [&str; 7] =
    ["limit_bytes", "usage_bytes", "anon_bytes", "file_bytes", "shmem_bytes", "kernel_bytes", "swap_bytes"];

fn empty(source: Source) -> PastKill {
    PastKill {
        time: None,
        cgroup: None,
        limiting_cgroup: None,
        limit_bytes: None,
        usage_bytes: None,
        anon_bytes: None,
        file_bytes: None,
        shmem_bytes: None,
        kernel_bytes: None,
        swap_bytes: None,
        victims: Vec::new(),
        kills: 1,
        trigger: None,
        constraint: None,
        group: false,
        group_cgroup: None,
        source,
        engine: None,
        unknown: Unknown::new(),
    }
}

fn from_report(report: &OomReport, offset_ns: i64) -> PastKill {
    let mut kill = PastKill {
        time: Some(kmsg::wall(report.usec, offset_ns)),
        cgroup: report.task_memcg.clone(),
        limiting_cgroup: report.oom_memcg.clone(),
        limit_bytes: report.memory.as_ref().and_then(|charge| charge.limit_bytes),
        usage_bytes: report.memory.as_ref().map(|charge| charge.usage_bytes),
        anon_bytes: report.anon_bytes(),
        file_bytes: report.file_bytes(),
        shmem_bytes: report.shmem_bytes(),
        kernel_bytes: report.kernel_bytes(),
        swap_bytes: report.swap_bytes(),
        victims: report.victims.clone(),
        kills: report.victims.len() as u64,
        trigger: report.trigger_comm.clone().map(|comm| Trigger { pid: report.trigger_pid, comm }),
        constraint: report.constraint,
        group: report.group.is_some(),
        group_cgroup: report.group.clone(),
        ..empty(Source::KernelLog)
    };
    let why = match report.header {
        Header::Whole if report.constraint.is_some_and(|constraint| constraint != Constraint::Memcg) => {
            "no cgroup's limit was hit, and the kernel's report has no numbers of cgroups then"
        }
        Header::Whole => "the kernel's report does not say it",
        Header::Cut => "the beginning of the kernel's report was overwritten in its log",
        Header::Suppressed => "the kernel suppressed its report: more than 10 in 5 s",
    };
    explain(&mut kill, why);
    kill
}

fn from_counter(cgroup: &str, count: u64, bare: usize) -> PastKill {
    let mut kill = PastKill { cgroup: Some(cgroup.to_owned()), kills: count, ..empty(Source::Counter) };
    let mut why = "counted by the cgroup; the kernel log does not have it (any more)".to_owned();
    if bare > 0 {
        use std::fmt::Write;
        let _ = write!(why, ", unless it is among the {bare} kills without a cgroup there");
    }
    explain(&mut kill, &why);
    kill
}

fn from_engine(cgroup: &str, verdict: &Verdict) -> PastKill {
    let mut kill = PastKill {
        time: verdict.finished,
        cgroup: Some(cgroup.to_owned()),
        engine: Some(verdict.clone()),
        ..empty(Source::Engine)
    };
    explain(&mut kill, "only the engine says that there was a kill; neither log nor counters do (any more)");
    kill
}

/// Gives every field that is `None` the reason.
fn explain(kill: &mut PastKill, why: &str) {
    let numbers = [
        kill.limit_bytes,
        kill.usage_bytes,
        kill.anon_bytes,
        kill.file_bytes,
        kill.shmem_bytes,
        kill.kernel_bytes,
        kill.swap_bytes,
    ];
    let missing = NUMBERS.into_iter().zip(numbers).filter(|(_, number)| number.is_none()).map(|(name, _)| name);
    let others = [
        ("time", kill.time.is_none()),
        ("cgroup", kill.cgroup.is_none()),
        ("limiting_cgroup", kill.limiting_cgroup.is_none()),
        ("victims", kill.victims.is_empty()),
        ("trigger", kill.trigger.is_none()),
        ("constraint", kill.constraint.is_none()),
    ];
    let fields = missing.chain(others.into_iter().filter(|(_, missing)| *missing).map(|(name, _)| name));
    kill.unknown = fields.map(|field| (field, why.to_owned())).collect();
}
