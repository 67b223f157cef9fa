//! The OOM killer: what was decided, who was hit, and who died with them.

use bytemuck::{Pod, Zeroable};

use crate::{Header, record, task::Task};

/// Levels of the memory hierarchy that a record can carry, the victim's own first.
pub const MAX_LEVELS: usize = 16;

/// Statistics that a victim's record carries, as indices into [`Victim::stats`]; the unit is the kernel's own.
pub const STAT_ANON: usize = 0;
pub const STAT_FILE: usize = 1;
pub const STAT_SHMEM: usize = 2;
pub const STAT_KMEM: usize = 3;
pub const STAT_SWAP: usize = 4;
pub const STAT_SLAB_RECLAIMABLE: usize = 5;
pub const STAT_SLAB_UNRECLAIMABLE: usize = 6;
pub const STAT_KERNEL_STACK: usize = 7;
pub const STAT_PERCPU: usize = 8;
pub const STAT_SOCK: usize = 9;
pub const STATS: usize = 10;

/// The victim belongs to a decision that `oom_kill_process` announced.
pub const VICTIM_ANNOUNCED: u32 = 1;
/// The kernel sent SIGKILL just before the mark; without it the victim was dying already, and nobody killed it.
pub const VICTIM_KILLED: u32 = 2;

/// `oom_kill_process` was entered: one record per decision. `header.cgroup` is the cgroup whose limit was hit, or
/// `UNKNOWN_U64` where it was the host's memory (`oc->memcg` is null; then `host` is 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Decision {
    pub header: Header,
    /// The task that asked for memory.
    pub trigger: Task,
    pub trigger_cgroup: u64,
    /// Process id of the one chosen.
    pub chosen: u32,
    /// `enum oom_constraint`: 0 none, 1 cpuset, 2 mempolicy, 3 memcg.
    pub constraint: u32,
    pub order: u32,
    /// 1: the host's memory ran out, not a cgroup's.
    pub host: u32,
    /// Pages that the decision was about: the limit, or the host's memory and swap.
    pub total_pages: u64,
    /// The counters of the cgroup whose limit was hit, in pages.
    pub level: Level,
}
record!(Decision, OomDecision, 168);

/// One level of the memory hierarchy: page counters, in pages. `max` is huge where there is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Level {
    pub cgroup: u64,
    pub usage: u64,
    pub max: u64,
    /// v2: swap; v1: memory and swap together.
    pub swap_usage: u64,
    pub swap_max: u64,
    /// 1: `memory.oom.group` is set; 255: unread.
    pub oom_group: u32,
    pub reserved: u32,
}

/// `oom:mark_victim`: one process is to die. `header.cgroup` is the victim's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Victim {
    pub header: Header,
    pub victim: Task,
    /// The task on whose behalf the kernel acts: the one that asked for memory. Where the decision was announced only who it
    /// is: the rest stands in [`Decision`].
    pub trigger: Task,
    pub trigger_cgroup: u64,
    /// Names the address space; only compared, never followed.
    pub mm: u64,
    /// Resident pages of the address space, as the kernel's own report counts them; below zero where unread, or where
    /// a per-CPU counter dips (the kernel reads that as 0).
    pub rss_anon_pages: i64,
    pub rss_file_pages: i64,
    pub rss_shmem_pages: i64,
    pub oom_score_adj: i32,
    /// `VICTIM_*`.
    pub flags: u32,
    /// How many of `levels` are filled.
    pub depth: u32,
    pub reserved: u32,
    /// The cgroup that `stats` describe: the one whose limit was hit, as the decision said or as its counters show.
    /// `UNKNOWN_U64`: none is at its limit, so it was the host.
    pub stats_cgroup: u64,
    pub stats: [i64; STATS],
    pub levels: [Level; MAX_LEVELS],
}
record!(Victim, OomVictim, 1064);

/// The kernel kills another process of the same decision: it shares the victim's memory (`vfork`, `CLONE_VM`), and no
/// `mark_victim` announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Sharer {
    pub header: Header,
    pub victim: Task,
    pub mm: u64,
    /// Thread of the one that asked, which ties this to its decision.
    pub trigger_tid: u32,
    pub oom_score_adj: i32,
}
record!(Sharer, OomSharer, 104);

/// `oom_kill_process` returned: the decision is complete. `header.cgroup` is as in [`Decision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Done {
    pub header: Header,
    pub trigger_tid: u32,
    pub reserved: u32,
}
record!(Done, OomDone, 32);
