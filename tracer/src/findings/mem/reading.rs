//! What was read for the memory lens: the memory cgroups' files, and the kernel side's stalls.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tracer_common::stall::StallKey;

use crate::model::Process;

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Cgroups of containers; the levels above them are read as well.
    pub of: Vec<Arc<str>>,
}

/// All that was read at one time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reading {
    pub at_ns: u64,
    /// Of a processor.
    pub took_ns: u64,
    /// By path, the root left out.
    pub levels: BTreeMap<Arc<str>, Level>,
    /// Since attach.
    pub stalls: Vec<(StallKey, StallTotal)>,
    /// Swap of the host, bytes; 0: it has none.
    #[serde(default)]
    pub swap_total: Option<u64>,
    /// … of which so much is free.
    pub swap_free: Option<u64>,
}

/// Stalls of one process of one kind so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StallTotal {
    pub who: Option<Process>,
    pub count: u64,
    pub total_ns: u64,
    pub worst_ns: u64,
}

/// One memory cgroup, with all below it. `None`: not read, not here, or no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Level {
    pub usage: Option<u64>,
    pub limit: Option<u64>,
    /// v2: memory.high.
    pub high: Option<u64>,
    pub swap: Option<u64>,
    /// Room for anonymous memory beside the limit: `memory.swap.max - current`, v1 `memsw.limit - memsw.usage`.
    pub swap_room: Option<u64>,
    /// `memory.swappiness`; v1 alone has one for each cgroup.
    pub swappiness: Option<u64>,
    pub kernel: Option<u64>,
    /// v2: `high` of memory.events.
    pub high_events: Option<u64>,
    pub stat: Stat,
    pub psi: Psi,
}

/// Pressure as the kernel counts it: time that some, or all, tasks waited for memory, µs since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Psi {
    On {
        some_us: u64,
        full_us: u64,
    },
    /// Built, and off by default.
    Off,
    #[default]
    Absent,
}

macro_rules! stat {
    ($($(#[$doc:meta])* $field:ident: $v2:literal, $v1:literal;)*) => {
        /// memory.stat: bytes, and counts of pages or events.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Stat {
            $($(#[$doc])* pub $field: Option<u64>,)*
        }

        impl Stat {
            /// From the text of memory.stat; on v1 the numbers that hold what is below as well.
            pub fn parse(text: &str, v1: bool) -> Self {
                let numbers: BTreeMap<&str, u64> = text
                    .lines()
                    .filter_map(|line| line.split_once(' '))
                    .filter_map(|(name, value)| Some((name, value.trim().parse().ok()?)))
                    .collect();
                let of = |v2: &str, v1_name: &str| numbers.get(if v1 { v1_name } else { v2 }).copied();
                Self { $($field: of($v2, $v1),)* }
            }
        }
    };
}
stat! {
    anon: "anon", "total_rss";
    /// With shmem, as the kernel counts it.
    file: "file", "total_cache";
    shmem: "shmem", "total_shmem";
    active_file: "active_file", "total_active_file";
    inactive_file: "inactive_file", "total_inactive_file";
    dirty: "file_dirty", "total_dirty";
    writeback: "file_writeback", "total_writeback";
    slab: "slab", "";
    slab_reclaimable: "slab_reclaimable", "";
    stack: "kernel_stack", "";
    sock: "sock", "";
    kernel: "kernel", "";
    swap: "", "total_swap";
    faults: "pgfault", "total_pgfault";
    major_faults: "pgmajfault", "total_pgmajfault";
    refault_anon: "workingset_refault_anon", "total_workingset_refault_anon";
    refault_file: "workingset_refault_file", "total_workingset_refault_file";
    scanned: "pgscan", "";
    reclaimed: "pgsteal", "";
    swap_in: "pswpin", "total_pswpin";
    swap_out: "pswpout", "total_pswpout";
}

impl Level {
    /// File pages on the lists that reclaim takes from first: shmem is not among them.
    pub fn cache(&self) -> Option<u64> {
        Some(self.stat.active_file?.saturating_add(self.stat.inactive_file?))
    }

    /// What memory can be got back at the limit without killing: cache, slab, and anonymous memory as far as swap has room.
    pub fn reclaimable(&self, swap_free: Option<u64>) -> Option<u64> {
        let anon = self.stat.anon?.saturating_add(self.stat.shmem.unwrap_or(0));
        let room =
            if self.swappiness == Some(0) { 0 } else { swap_free.unwrap_or(0).min(self.swap_room.unwrap_or(u64::MAX)) };
        Some(self.cache()?.saturating_add(self.stat.slab_reclaimable.unwrap_or(0)).saturating_add(anon.min(room)))
    }

    /// Does memory.stat explain usage? The kernel sums it up lazily, and may be late: then nothing is judged by it.
    pub fn stat_is_fresh(&self) -> bool {
        let stat = &self.stat;
        let kernel = stat
            .kernel
            .or(self.kernel)
            .unwrap_or_else(|| [stat.slab, stat.stack, stat.sock].into_iter().flatten().fold(0, u64::saturating_add));
        let parts = stat.anon.zip(stat.file).map(|(anon, file)| anon.saturating_add(file).saturating_add(kernel));
        self.usage.zip(parts).is_some_and(|(usage, parts)| usage.saturating_sub(parts) <= usage / 8)
    }

    /// As the kubelet computes it: usage without inactive file pages.
    pub fn working_set(&self) -> Option<u64> {
        Some(self.usage?.saturating_sub(self.stat.inactive_file?))
    }

    /// What is left below the limit.
    pub fn room(&self) -> Option<u64> {
        Some(self.limit?.saturating_sub(self.usage?))
    }
}

impl Reading {
    /// A cgroup's level and those above it, its own first.
    pub fn chain<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a str, &'a Level)> {
        let above = std::iter::successors(Some(path), |path| path.rsplit_once('/').map(|(parent, _)| parent));
        above.filter_map(|path| self.levels.get_key_value(path).map(|(path, level)| (&**path, level)))
    }

    /// The level with the least room for this cgroup.
    pub fn binding<'a>(&'a self, path: &'a str) -> Option<(&'a str, &'a Level)> {
        self.chain(path).filter(|(_, level)| level.room().is_some()).min_by_key(|(_, level)| level.room())
    }
}
