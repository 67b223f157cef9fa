//! The kernel's layout, found in its BTF, as the globals that the kernel side reads.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use tracer_common::{ABSENT, kernel_facts, kernel_fields, layout as shape};

use super::{
    btf::{Btf, Shape},
    btf_file::{self, BtfFile},
    plan::Hook,
    targets::{Target, Wanted},
};

macro_rules! table {
    ($($name:ident = $path:literal;)*) => { &[$((stringify!($name), $path)),*] };
}
/// (global, paths): every field that the kernel side reads.
pub const FIELDS: &[(&str, &str)] = kernel_fields!(table);

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => { &[$(stringify!($name)),*] };
}
/// Every other global of the kernel side.
pub const FACTS: &[&str] = kernel_facts!(names);

/// Types beyond those of `FIELDS` that are asked for.
const FURTHER: &[&str] = &[
    "cgroup_subsys_id",
    "node_stat_item",
    "memcg_stat_item",
    "k_sigaction",
    "thread_union",
    "pt_regs",
    "page",
    "req_flag_bits",
    "BIO_PAGE_PINNED",
    "rtnl_link_stats64",
    CAST,
    "btf_trace_mark_victim",
    "btf_trace_sched_process_exit",
    "btf_trace_balance_dirty_pages",
    "btf_trace_block_rq_issue",
    "btf_trace_sched_switch",
    "btf_trace_kfree_skb",
    "btf_trace_tcp_retransmit_skb",
];

/// Takes an address for a pointer to a type of the kernel's, which its BTF names (kernel/bpf/helpers.c, since 6.2).
pub const CAST: &str = "bpf_rdonly_cast";

/// `THREAD_SIZE` of x86-64 without KASAN.
const X86_STACK: u32 = 16 << 10;

/// Values for the kernel side's globals; a global that is missing here stays `ABSENT`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    globals: BTreeMap<&'static str, u32>,
    /// Why something is absent, where a person can act on it: global to reason.
    pub absent: BTreeMap<&'static str, String>,
    /// What hooks are attached by, of those that were asked for.
    pub targets: Vec<Target>,
    /// Where the kernel has it.
    pub cast: Option<Cast>,
}

/// [`CAST`] by its id, and a type that holds nothing but words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    pub function: u32,
    pub words: u32,
}

impl Layout {
    /// Of the running kernel, with what these hooks are attached by.
    ///
    /// # Errors
    /// Its BTF cannot be read, with what to do.
    pub fn of_this_kernel(hooks: &[Hook]) -> Result<Self> {
        let data = BtfFile::of_this_kernel().with_context(|| {
            format!("{} cannot be read: ctrace needs a kernel built with CONFIG_DEBUG_INFO_BTF=y", btf_file::PATH)
        })?;
        Self::from_btf(&data, hooks)
    }

    /// From the bytes of a BTF file: pure.
    ///
    /// # Errors
    /// They are no BTF.
    pub fn from_btf(data: &[u8], hooks: &[Hook]) -> Result<Self> {
        let targets: Vec<Wanted> = hooks.iter().flat_map(Wanted::of).collect();
        let mut wanted: Vec<&str> = FURTHER.to_vec();
        wanted.extend(FIELDS.iter().flat_map(|(_, paths)| paths.split('|')).filter_map(|path| path.split('.').next()));
        wanted.extend(targets.iter().map(Wanted::name));
        wanted.sort_unstable();
        wanted.dedup();
        let btf = Btf::parse(data, &wanted)?;
        let targets = targets.into_iter().filter_map(|wanted| wanted.found_in(&btf)).collect();
        let mut layout = Self { targets, ..Self::default() };
        for (global, paths) in FIELDS {
            match btf.first_member(paths) {
                Some(member) => layout.set(global, member.offset),
                None => layout.lack(global, format!("this kernel has no {paths}")),
            }
        }
        layout.controllers(&btf);
        layout.shapes(&btf);
        layout.requests(&btf);
        layout.statistics(&btf);
        layout.tracepoints(&btf);
        // That type is part of the kernel's API.
        let cast = btf.function(CAST).zip(btf.structure("rtnl_link_stats64"));
        layout.cast = cast.map(|(function, words)| Cast { function, words });
        Ok(layout)
    }

    pub fn get(&self, global: &str) -> u32 {
        self.globals.get(global).copied().unwrap_or(ABSENT)
    }

    pub fn set(&mut self, global: &'static str, value: u32) {
        self.globals.insert(global, value);
    }

    /// (global, value) of all that the kernel side declares.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u32)> {
        FIELDS.iter().map(|(global, _)| *global).chain(FACTS.iter().copied()).map(|global| (global, self.get(global)))
    }

    fn lack(&mut self, global: &'static str, why: String) {
        self.absent.insert(global, why);
    }

    fn controllers(&mut self, btf: &Btf) {
        match btf.enumerator("cgroup_subsys_id", "memory_cgrp_id") {
            Some(index) => self.set("MEMORY_SUBSYS", index as u32),
            None => self.lack("MEMORY_SUBSYS", "this kernel has no memory controller (CONFIG_MEMCG)".to_owned()),
        }
        if let Some(index) = btf.enumerator("cgroup_subsys_id", "pids_cgrp_id") {
            self.set("PIDS_SUBSYS", index as u32);
        }
    }

    fn shapes(&mut self, btf: &Btf) {
        if let Some(member) = btf.member("mem_cgroup.vmstats") {
            self.set(
                "VMSTATS_SHAPE",
                match btf.shape(member) {
                    Shape::Array { .. } => shape::VMSTATS_ARRAY,
                    Shape::Struct => shape::VMSTATS_STRUCT,
                    Shape::Pointer => shape::VMSTATS_POINTER,
                    Shape::Other => ABSENT,
                },
            );
        }
        if let Some(member) = btf.member("mm_struct.rss_stat") {
            // `struct mm_rss_stat { atomic_long_t count[]; }` until 6.1; `struct percpu_counter rss_stat[]` since 6.2.
            match btf.shape(member) {
                Shape::Array { .. } if btf.element_shape(member) == Some(Shape::Struct) => {
                    self.set("RSS_SHAPE", shape::RSS_PERCPU);
                }
                Shape::Struct => self.set("RSS_SHAPE", shape::RSS_ARRAY),
                _ => self.lack(
                    "RSS_SHAPE",
                    "this kernel keeps its RSS counters in a way that ctrace has not met".to_owned(),
                ),
            }
        }
        if let Some(size) = btf.size("percpu_counter") {
            self.set("RSS_STRIDE", size);
        }
        if let Some(size) = btf.size("k_sigaction") {
            self.set("KSIGACTION_SIZE", size);
        }
        // Only asked for where the kernel has no helper for it (before 5.15), when nothing was kept above the registers.
        let stack = btf.size("thread_union").or(cfg!(target_arch = "x86_64").then_some(X86_STACK));
        if let Some((stack, registers)) = stack.zip(btf.size("pt_regs")) {
            self.set("REGS_IN_STACK", stack - registers);
        }
    }

    fn requests(&mut self, btf: &Btf) {
        if let Some(bit) = btf.enumerator("req_flag_bits", "__REQ_SWAP").and_then(|bit| 1_u32.checked_shl(bit as u32)) {
            self.set("RQ_SWAP", bit);
        }
        let pinned = btf.enumerator("BIO_PAGE_PINNED", "BIO_PAGE_PINNED");
        if let Some(bit) = pinned.and_then(|bit| 1_u32.checked_shl(bit as u32)) {
            self.set("BIO_PINNED", bit);
        }
        // `compound_info_has_mask`, include/linux/page-flags.h: where pages lie so that a mask can do it.
        let has_mask = btf.member("page.compound_info").is_some();
        let is_aligned = btf.size("page").is_some_and(u32::is_power_of_two);
        self.set("PAGE_HEAD_IS_MASK", u32::from(has_mask && is_aligned));
    }

    fn tracepoints(&mut self, btf: &Btf) {
        let has_task = arguments_of(btf, "mark_victim")
            .is_some_and(|arguments| arguments.first().copied().flatten() == Some("task_struct"));
        self.set("MARK_VICTIM_HAS_TASK", u32::from(has_task));
        if !has_task {
            self.lack("MARK_VICTIM_HAS_TASK", "oom:mark_victim gives only a pid on this kernel".to_owned());
        }
        let group_dead = arguments_of(btf, "sched_process_exit").is_some_and(|arguments| arguments.len() >= 2);
        self.set("EXIT_HAS_GROUP_DEAD", u32::from(group_dead));
        if let Some(arguments) = arguments_of(btf, "block_rq_issue")
            && let Some(at) = arguments.iter().position(|pointee| *pointee == Some("request"))
        {
            self.set("RQ_ISSUE_ARGUMENT", at as u32);
        }
        let reason = arguments_of(btf, "kfree_skb").is_some_and(|arguments| arguments.len() >= 3);
        self.set("DROP_HAS_REASON", u32::from(reason));
        let error = arguments_of(btf, "tcp_retransmit_skb").is_some_and(|arguments| arguments.len() >= 3);
        self.set("RESENT_HAS_ERROR", u32::from(error));
        // A prototype that ctrace has not met is told by its length: 12 numbers, or 8 arguments with the control.
        if let Some(arguments) = arguments_of(btf, "balance_dirty_pages") {
            match (arguments.len(), arguments.get(1).copied().flatten()) {
                (12, None) => self.set("PAUSE_HAS_CONTROL", 0),
                (8, Some("dirty_throttle_control")) => self.set("PAUSE_HAS_CONTROL", 1),
                _ => self.lack(
                    "PAUSE_HAS_CONTROL",
                    "writeback:balance_dirty_pages has arguments that ctrace has not met".to_owned(),
                ),
            }
        }
        let switch = arguments_of(btf, "sched_switch").unwrap_or_default();
        match switch[..] {
            [_, Some("task_struct"), Some("task_struct"), ref more @ ..] => {
                self.set("SWITCH_HAS_STATE", u32::from(!more.is_empty()));
            }
            _ => self
                .lack("SWITCH_HAS_STATE", "sched:sched_switch has arguments here that ctrace has not met".to_owned()),
        }
    }

    /// Where a memcg's statistics stand in its array. Since 6.10 or so the array holds only the items that memcgs use, in
    /// the order of the two enums (`memcg_node_stat_items`, `memcg_stat_items` in mm/memcontrol.c): its length tells
    /// whether the list known here is this kernel's.
    fn statistics(&mut self, btf: &Btf) {
        let Some((node, memcg)) = btf.enumerators("node_stat_item").zip(btf.enumerators("memcg_stat_item")) else {
            return self.lack("STAT_INDEX_ANON", "this kernel's BTF has no memcg statistics".to_owned());
        };
        let value =
            |items: &[(&str, i64)], name: &str| items.iter().find(|(found, _)| *found == name).map(|(_, value)| *value);
        let full = value(&memcg, "MEMCG_NR_STAT").unwrap_or(i64::MAX);
        let state = match self.get("VMSTATS_SHAPE") {
            shape::VMSTATS_ARRAY => btf.member("mem_cgroup.vmstats"),
            _ => btf.member("memcg_vmstats.state"),
        };
        let Some(Shape::Array { elements }) = state.map(|member| btf.shape(member)) else {
            return self.lack(
                "STAT_INDEX_ANON",
                "this kernel keeps memcg statistics in a way that ctrace has not met".to_owned(),
            );
        };
        let compact = i64::from(elements) < full;
        let order = if compact { compact_order(&node, &memcg, elements as usize) } else { Some(Vec::new()) };
        let Some(order) = order else {
            return self.lack(
                "STAT_INDEX_ANON",
                format!("this kernel keeps {elements} memcg statistics in an order that ctrace has not met"),
            );
        };
        for (global, item) in STATISTICS {
            let index = if compact {
                order.iter().position(|name| name == item).map(|at| at as i64)
            } else {
                value(&node, item).or_else(|| value(&memcg, item))
            };
            if let Some(index) = index.filter(|index| (0..i64::from(elements)).contains(index)) {
                self.set(global, index as u32);
            }
        }
    }
}

const STATISTICS: &[(&str, &str)] = &[
    ("STAT_INDEX_ANON", "NR_ANON_MAPPED"),
    ("STAT_INDEX_FILE", "NR_FILE_PAGES"),
    ("STAT_INDEX_SHMEM", "NR_SHMEM"),
    ("STAT_INDEX_KMEM", "MEMCG_KMEM"),
    ("STAT_INDEX_SWAP", "MEMCG_SWAP"),
    ("STAT_INDEX_SLAB_RECLAIMABLE", "NR_SLAB_RECLAIMABLE_B"),
    ("STAT_INDEX_SLAB_UNRECLAIMABLE", "NR_SLAB_UNRECLAIMABLE_B"),
    ("STAT_INDEX_KERNEL_STACK", "NR_KERNEL_STACK_KB"),
    ("STAT_INDEX_PERCPU", "MEMCG_PERCPU_B"),
    ("STAT_INDEX_SOCK", "MEMCG_SOCK"),
];

/// Items of `node_stat_item` that memcgs do not count (`memcg_node_stat_items` leaves them out).
const NODE_ONLY: &[&str] = &[
    "NR_LRU_BASE",
    "NR_ISOLATED_ANON",
    "NR_ISOLATED_FILE",
    "WORKINGSET_NODES",
    "WORKINGSET_REFAULT_BASE",
    "WORKINGSET_ACTIVATE_BASE",
    "WORKINGSET_RESTORE_BASE",
    "NR_WRITEBACK_TEMP",
    "NR_SHMEM_PMDMAPPED",
    "NR_FILE_PMDMAPPED",
    "NR_VMSCAN_IMMEDIATE",
    "NR_DIRTIED",
    "NR_WRITTEN",
    "NR_THROTTLED_WRITTEN",
    "NR_KERNEL_MISC_RECLAIMABLE",
    "NR_FOLL_PIN_ACQUIRED",
    "NR_FOLL_PIN_RELEASED",
    "NR_IOMMU_PAGES",
    "PGPROMOTE_CANDIDATE",
    "PGPROMOTE_CANDIDATE_NRL",
    "NR_MEMMAP",
    "NR_MEMMAP_BOOT",
    "NR_BALLOON_PAGES",
    "NR_KERNEL_FILE_PAGES",
    "NR_GPU_ACTIVE",
    "NR_GPU_RECLAIM",
    "NR_VM_NODE_STAT_ITEMS",
];

/// Items that newer kernels count for memcgs and older ones do not, in the order in which they came.
const LATECOMERS: &[&str] = &["NR_VMSCAN_WRITE"];

/// The items of a compacted array of `elements`, in order; `None` where no list known here is that long. Enumerators
/// that alias an earlier value count once.
fn compact_order<'a>(node: &[(&'a str, i64)], memcg: &[(&'a str, i64)], elements: usize) -> Option<Vec<&'a str>> {
    let list = |without: &[&str]| {
        let mut order: Vec<(&str, i64)> = node
            .iter()
            .chain(memcg)
            .filter(|(name, _)| !NODE_ONLY.contains(name) && !without.contains(name) && *name != "MEMCG_NR_STAT")
            .copied()
            .collect();
        order.sort_by_key(|(_, value)| *value);
        order.dedup_by_key(|(_, value)| *value);
        order.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    (0..=LATECOMERS.len()).map(|known| list(&LATECOMERS[known..])).find(|order| order.len() == elements)
}

/// [`Btf::tracepoint_arguments`] finds only what was looked for.
fn arguments_of<'a>(btf: &'a Btf<'_>, tracepoint: &str) -> Option<Vec<Option<&'a str>>> {
    debug_assert!(FURTHER.contains(&format!("btf_trace_{tracepoint}").as_str()), "{tracepoint} is not looked for");
    btf.tracepoint_arguments(tracepoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_what_oom_stands_on() {
        let Ok(data) = BtfFile::of_this_kernel() else { return };
        let layout = Layout::from_btf(&data, &[]).unwrap();
        for global in [
            "TASK_TGID",
            "TASK_CGROUPS",
            "KERNFS_ID",
            "MEMCG_MEMORY_USAGE",
            "MEMORY_SUBSYS",
            "RSS_SHAPE",
            "STAT_INDEX_ANON",
        ] {
            assert_ne!(layout.get(global), ABSENT, "{global}: {:?}", layout.absent);
        }
        assert_eq!(layout.get("NO_SUCH_GLOBAL"), ABSENT);
    }
}
