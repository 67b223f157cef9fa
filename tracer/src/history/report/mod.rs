//! The kernel's own OOM reports, parsed from its log (`mm/oom_kill.c` `oom_kill_process`, `mm/memcontrol.c`
//! `mem_cgroup_print_oom_meminfo`).
//!
//! One decision is one report, with one victim or, under memory.oom.group, several. Reports never interleave with each
//! other (the kernel writes them under `oom_lock`), but other lines get between theirs. The header (who asked, numbers,
//! task table) is rate-limited to 10 in 5 s; the `Killed process` lines are not: past the limit a decision is one bare
//! line, without any cgroup. Sharers of the victim's mm are killed without a line: a report can't know them.

mod assemble;
mod line;

use std::collections::BTreeMap;

use serde::Serialize;

use super::kmsg::Record;

/// Why memory could not be had (`oom_constraint_text`, `mm/oom_kill.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Constraint {
    /// The host ran out.
    None,
    /// The NUMA nodes that a cpuset allows ran out.
    Cpuset,
    MemoryPolicy,
    /// A memory cgroup was at its limit.
    Memcg,
}

/// How much of a report the log had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Header {
    Whole,
    /// Its beginning was overwritten: what stands in the rest is there.
    Cut,
    /// The kernel's rate limit left only the kill lines.
    #[default]
    Suppressed,
}

/// A page counter and its limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Charge {
    pub usage_bytes: u64,
    /// `None`: no limit.
    pub limit_bytes: Option<u64>,
    /// On v2 this is the count of `max` in memory.events.
    pub failcnt: Option<u64>,
}

/// A `Killed process` line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Victim {
    /// A thread id: the thread of the victim that still had the mm, nearly always the leader.
    pub pid: u32,
    /// From the task table.
    pub tgid: Option<u32>,
    /// Not escaped.
    pub comm: String,
    pub uid: Option<u32>,
    pub total_vm_bytes: Option<u64>,
    pub anon_bytes: Option<u64>,
    pub file_bytes: Option<u64>,
    pub shmem_bytes: Option<u64>,
    pub pgtables_bytes: Option<u64>,
    pub oom_score_adj: Option<i16>,
    /// The `oom_reaper` took its memory before it exited by itself.
    pub reaped: bool,
}

/// A row of the task table: the candidates. Memory in pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TaskRow {
    pub pid: u32,
    pub uid: u32,
    pub tgid: u32,
    pub total_vm_pages: u64,
    pub rss_pages: u64,
    /// Some kernels split it (6.12 does, 6.1 does not).
    pub anon_pages: Option<u64>,
    pub file_pages: Option<u64>,
    pub shmem_pages: Option<u64>,
    pub pgtables_bytes: Option<u64>,
    pub swap_pages: u64,
    pub oom_score_adj: i16,
    pub comm: String,
}

/// One kill decision as the kernel log tells it. What the log did not have is `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OomReport {
    /// Of the first line that was found.
    pub seq: u64,
    /// Of the first kill line, else of the first line: microseconds of the log's clock.
    pub usec: u64,
    pub header: Header,
    /// The thread that asked for memory: it may be of another cgroup than the victim.
    pub trigger_pid: Option<u32>,
    pub trigger_comm: Option<String>,
    pub trigger_oom_score_adj: Option<i16>,
    pub gfp_mask: Option<String>,
    pub order: Option<i32>,
    pub constraint: Option<Constraint>,
    pub nodemask: Option<String>,
    /// The asking task's.
    pub cpuset: Option<String>,
    pub mems_allowed: Option<String>,
    /// The cgroup at its limit; `None` where the host or a set of nodes ran out.
    pub oom_memcg: Option<String>,
    /// The victim's.
    pub task_memcg: Option<String>,
    pub memory: Option<Charge>,
    /// v2.
    pub swap: Option<Charge>,
    /// v1: memory and swap together.
    pub memsw: Option<Charge>,
    /// v1.
    pub kmem: Option<Charge>,
    /// memory.stat of `oom_memcg` and all below it, by the kernel's names, in bytes where that file has bytes.
    pub stats: BTreeMap<String, u64>,
    /// The host's memory by the names of `Mem-Info:`, in pages (`active_anon`, `shmem`, …, `ram`, `reserved`), and
    /// `swap_total_kb`, `swap_free_kb`. Only where the host or its nodes ran out.
    pub host: BTreeMap<String, u64>,
    pub tasks: Vec<TaskRow>,
    /// The chosen one first; each process once.
    pub victims: Vec<Victim>,
    /// The cgroup whose memory.oom.group took the others along.
    pub group: Option<String>,
    /// The kernel writes and *counts* (memory.events) the chosen victim of a group kill twice, if it still lives when the
    /// group's turn comes: so many kills did this decision add to the counters.
    pub counted: u64,
    /// `Out of memory and no killable processes`: nobody died.
    pub no_victim: bool,
}

/// All that a log tells of OOM kills, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reports {
    pub reports: Vec<OomReport>,
    /// Headers that the kernel says it suppressed; their decisions are among `reports`, bare.
    pub suppressed: u64,
}

/// Parses the kernel's records, in the log's order. Records that user space wrote are not believed.
pub fn reports<'a>(records: impl IntoIterator<Item = &'a Record>) -> Reports {
    let mut parser = assemble::Assembler::default();
    for record in records {
        parser.push(record);
    }
    parser.finish()
}

impl OomReport {
    /// Anonymous memory in the cgroup at its limit and below, bytes.
    pub fn anon_bytes(&self) -> Option<u64> {
        self.stat(&["anon", "rss"])
    }

    /// Page cache, shared memory and tmpfs included, as memory.stat has it.
    pub fn file_bytes(&self) -> Option<u64> {
        self.stat(&["file", "cache"])
    }

    pub fn shmem_bytes(&self) -> Option<u64> {
        self.stat(&["shmem"])
    }

    /// The kernel's memory: on v2 said from 5.18 on, on v1 always. Before, only parts of it are said (in `stats`), by
    /// counters that lag: their sum would be far too small a number.
    pub fn kernel_bytes(&self) -> Option<u64> {
        self.kmem.as_ref().map(|charge| charge.usage_bytes).or_else(|| self.stat(&["kernel"]))
    }

    pub fn swap_bytes(&self) -> Option<u64> {
        match (&self.swap, &self.memsw, &self.memory) {
            (Some(swap), _, _) => Some(swap.usage_bytes),
            (None, Some(both), Some(memory)) => Some(both.usage_bytes.saturating_sub(memory.usage_bytes)),
            _ => self.stat(&["swap"]),
        }
    }

    /// The first of `names` that the dump has. On v1 the plain name is the cgroup's own, and `total_` the tree's.
    fn stat(&self, names: &[&str]) -> Option<u64> {
        let total = names.iter().find_map(|name| self.stats.get(&format!("total_{name}")));
        total.or_else(|| names.iter().find_map(|name| self.stats.get(*name))).copied()
    }
}
