//! Who did the OOM killer hit, by whose limit, and what filled it? (mm/oom_kill.c, mm/memcontrol.c)

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{kprobe, kretprobe, map, raw_tracepoint},
    maps::{HashMap, LruHashMap},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext},
};
use tracer_common::{
    ABSENT, UNKNOWN_I64, UNKNOWN_U32, UNKNOWN_U64,
    layout::{RSS_ARRAY, RSS_PERCPU, VMSTATS_ARRAY, VMSTATS_POINTER, VMSTATS_STRUCT},
    oom::{Decision, Done, Level, MAX_LEVELS, STATS, Sharer, Victim},
};

use crate::kernel::{
    cgroup,
    emit::{emit, now},
    layout,
    read::{Ptr, at, field, follow, place},
    task,
};

/// Decisions under way: thread that asked, to the memcg whose limit was hit (0: the host's memory).
#[map]
static DECISIONS: HashMap<u64, u64> = HashMap::with_max_entries(1024, 0);

/// Threads in whose name a victim was marked, and when: their kernel-made SIGKILLs belong to that decision.
#[map]
static TRIGGERS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

/// Cgroups that a kill hit lately, and when: what exits there is wanted.
#[map]
static HIT: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

/// How long a kill makes what follows it interesting, ns.
const AFTERMATH_NS: u64 = 10_000_000_000;
/// A charge asks for this many pages at once (`MEMCG_CHARGE_BATCH`), a huge page for 512: where less is left, that
/// level is the one that refused.
const CHARGE_BATCH: u64 = 64;
const CHARGE_HUGE: u64 = 512;
/// `SEND_SIG_PRIV`: a signal from the kernel itself (include/linux/sched/signal.h).
const SEND_SIG_PRIV: u64 = 1;
const SIGKILL: u32 = 9;
const MM_FILEPAGES: u32 = 0;
const MM_ANONPAGES: u32 = 1;
const MM_SHMEMPAGES: u32 = 3;

/// `static void oom_kill_process(struct oom_control *oc, const char *message)`: once per decision, in the task that
/// asked. Usage and limit are true here; the split is not, on kernels that flush the statistics only for the report.
#[kprobe]
pub fn oom_decision(ctx: ProbeContext) -> u32 {
    let Some(oc) = ctx.arg::<u64>(0) else { return 0 };
    let oc = oc as Ptr;
    let memcg = follow(oc, &layout::OOM_MEMCG);
    let _ = DECISIONS.insert(bpf_get_current_pid_tgid(), memcg.map_or(0, |memcg| memcg as u64), 0);
    let limited = memcg.and_then(memcg_cgroup).unwrap_or(UNKNOWN_U64);
    emit::<Decision>(limited, |record| {
        let current = task::current();
        // SAFETY: a reserved record of this type.
        unsafe {
            task::describe(current, &raw mut (*record).trigger);
            (*record).trigger_cgroup = cgroup::of(current);
            (*record).chosen = follow(oc, &layout::OOM_CHOSEN).and_then(task::tgid).unwrap_or(UNKNOWN_U32);
            (*record).constraint = field(oc, &layout::OOM_CONSTRAINT).unwrap_or(UNKNOWN_U32);
            (*record).order = field(oc, &layout::OOM_ORDER).unwrap_or(UNKNOWN_U32);
            (*record).host = u32::from(memcg.is_none());
            (*record).total_pages = field(oc, &layout::OOM_TOTALPAGES).unwrap_or(UNKNOWN_U64);
            level(memcg.unwrap_or(core::ptr::null()), &raw mut (*record).level);
        }
    });
    0
}

#[kretprobe]
pub fn oom_done(_: RetProbeContext) -> u32 {
    let current = bpf_get_current_pid_tgid();
    // SAFETY: the value is copied out at once.
    let Some(memcg) = (unsafe { DECISIONS.get(current) }).copied() else { return 0 };
    let _ = DECISIONS.remove(current);
    let limited = if memcg == 0 { None } else { memcg_cgroup(memcg as Ptr) };
    emit::<Done>(limited.unwrap_or(UNKNOWN_U64), |record| {
        // SAFETY: a reserved record of this type.
        unsafe {
            (*record).trigger_tid = current as u32;
            (*record).reserved = 0;
        }
    });
    0
}

/// `oom:mark_victim(struct task_struct *task, uid_t uid)`, since 6.9 and in the long-term kernels' backports; before
/// that `(int pid)`. Once per victim, in the task that asked.
#[raw_tracepoint(tracepoint = "mark_victim")]
pub fn oom_victim(ctx: RawTracePointContext) -> i32 {
    if layout::MARK_VICTIM_HAS_TASK.load() != 1 {
        return 0;
    }
    let victim = task::argument(&ctx, 0);
    let current = bpf_get_current_pid_tgid();
    let at = now();
    let cgroup = cgroup::of(victim);
    let _ = TRIGGERS.insert(current, at, 0);
    let _ = HIT.insert(cgroup, at, 0);
    // SAFETY: the value is copied out at once.
    let announced = unsafe { DECISIONS.get(current) }.copied();
    emit::<Victim>(cgroup, |record| mark(record, victim, announced));
    0
}

/// The bare pid of old kernels: the task that `oom_kill_process` chose is described instead.
#[inline(always)]
fn mark(record: *mut Victim, victim: Ptr, announced: Option<u64>) {
    let mm = follow(victim, &layout::TASK_MM).unwrap_or(core::ptr::null());
    let trigger = task::current();
    // SAFETY: a reserved record of this type; each field is written.
    unsafe {
        task::describe(victim, &raw mut (*record).victim);
        task::describe(trigger, &raw mut (*record).trigger);
        (*record).trigger_cgroup = cgroup::of(trigger);
        (*record).mm = mm as u64;
        (*record).rss_anon_pages = rss(mm, MM_ANONPAGES);
        (*record).rss_file_pages = rss(mm, MM_FILEPAGES);
        (*record).rss_shmem_pages = rss(mm, MM_SHMEMPAGES);
        (*record).oom_score_adj = task::oom_score_adj(victim);
        (*record).announced = u32::from(announced.is_some());
        let (depth, limiting, inferred) = levels(victim, &raw mut (*record).levels);
        (*record).depth = depth;
        (*record).limiting = limiting;
        let of = match announced {
            Some(0) => None,
            Some(memcg) => Some(memcg as Ptr),
            None => inferred,
        };
        (*record).stats_cgroup = of.and_then(memcg_cgroup).unwrap_or(UNKNOWN_U64);
        statistics(of.unwrap_or(core::ptr::null()), &raw mut (*record).stats);
    }
}

/// The victim's memory cgroup and its ancestors. Gives how many, which of them refused the charge (`UNKNOWN_U32`: none
/// is at its limit), and that one's memcg.
#[inline(always)]
fn levels(victim: Ptr, out: *mut [Level; MAX_LEVELS]) -> (u32, u32, Option<Ptr>) {
    let mut memcg = cgroup::css(victim, layout::MEMORY_SUBSYS.load()).and_then(memcg_of_css).unwrap_or(core::ptr::null());
    let (mut depth, mut limiting, mut limiting_memcg) = (0_u32, UNKNOWN_U32, core::ptr::null::<u8>());
    let (mut near, mut near_memcg) = (UNKNOWN_U32, core::ptr::null::<u8>());
    for i in 0..MAX_LEVELS {
        // SAFETY: `i` is within the array; a null memcg gives a level of unknowns.
        let left = unsafe {
            let slot = out.cast::<Level>().add(i);
            level(memcg, slot);
            room(slot)
        };
        if !memcg.is_null() {
            depth += 1;
            if left < CHARGE_BATCH && limiting == UNKNOWN_U32 {
                (limiting, limiting_memcg) = (i as u32, memcg);
            }
            if left < CHARGE_HUGE && near == UNKNOWN_U32 {
                (near, near_memcg) = (i as u32, memcg);
            }
            memcg = parent(memcg).unwrap_or(core::ptr::null());
        }
    }
    if limiting == UNKNOWN_U32 {
        (limiting, limiting_memcg) = (near, near_memcg);
    }
    (depth, limiting, if limiting_memcg.is_null() { None } else { Some(limiting_memcg) })
}

/// Pages left below a level's limit, of memory or (v1: memory and) swap.
///
/// # Safety
/// `level` points at a filled level.
#[inline(always)]
unsafe fn room(level: *const Level) -> u64 {
    // SAFETY: as the caller promised.
    let level = unsafe { &*level };
    if level.usage == UNKNOWN_U64 || level.max == UNKNOWN_U64 {
        return u64::MAX;
    }
    let memory = level.max.saturating_sub(level.usage);
    // Swap at its limit refuses nothing by itself on v2; on v1 the second counter is memory and swap together.
    if layout::KEY_SUBSYS.load() == ABSENT || level.swap_max == UNKNOWN_U64 || level.swap_usage == UNKNOWN_U64 {
        return memory;
    }
    let both = level.swap_max.saturating_sub(level.swap_usage);
    if both < memory { both } else { memory }
}

/// Fills one level: `struct page_counter` counts pages.
///
/// # Safety
/// `out` points at a level of a reserved record.
#[inline(always)]
unsafe fn level(memcg: Ptr, out: *mut Level) {
    // SAFETY: as the caller promised.
    unsafe {
        (*out).cgroup = memcg_cgroup(memcg).unwrap_or(UNKNOWN_U64);
        (*out).usage = field(memcg, &layout::MEMCG_MEMORY_USAGE).unwrap_or(UNKNOWN_U64);
        (*out).max = field(memcg, &layout::MEMCG_MEMORY_MAX).unwrap_or(UNKNOWN_U64);
        (*out).swap_usage = field(memcg, &layout::MEMCG_SWAP_USAGE).unwrap_or(UNKNOWN_U64);
        (*out).swap_max = field(memcg, &layout::MEMCG_SWAP_MAX).unwrap_or(UNKNOWN_U64);
        (*out).oom_group = field::<u8>(memcg, &layout::MEMCG_OOM_GROUP).map_or(UNKNOWN_U32, |set| u32::from(set != 0));
        (*out).reserved = 0;
    }
}

#[inline(always)]
fn memcg_of_css(css: Ptr) -> Option<Ptr> {
    let offset = layout::MEMCG_CSS.load();
    if offset == ABSENT { None } else { Some(css.wrapping_sub(offset as usize)) }
}

#[inline(always)]
fn memcg_cgroup(memcg: Ptr) -> Option<u64> {
    cgroup::css_id(place(memcg, &layout::MEMCG_CSS)?)
}

#[inline(always)]
fn parent(memcg: Ptr) -> Option<Ptr> {
    follow(place(memcg, &layout::MEMCG_CSS)?, &layout::CSS_PARENT).and_then(memcg_of_css)
}

/// The memcg's statistics in the kernel's own units, as last flushed: the kernel flushes for its own report, just
/// before it marks the first victim.
#[inline(always)]
fn statistics(memcg: Ptr, out: *mut [i64; STATS]) {
    let base = match layout::VMSTATS_SHAPE.load() {
        VMSTATS_ARRAY => place(memcg, &layout::MEMCG_VMSTATS),
        VMSTATS_STRUCT => place(memcg, &layout::MEMCG_VMSTATS).and_then(|stats| place(stats, &layout::VMSTATS_STATE)),
        VMSTATS_POINTER => follow(memcg, &layout::MEMCG_VMSTATS).and_then(|stats| place(stats, &layout::VMSTATS_STATE)),
        _ => None,
    };
    let base = base.unwrap_or(core::ptr::null());
    let indices = [
        layout::STAT_INDEX_ANON.load(),
        layout::STAT_INDEX_FILE.load(),
        layout::STAT_INDEX_SHMEM.load(),
        layout::STAT_INDEX_KMEM.load(),
        layout::STAT_INDEX_SWAP.load(),
        layout::STAT_INDEX_SLAB_RECLAIMABLE.load(),
        layout::STAT_INDEX_SLAB_UNRECLAIMABLE.load(),
        layout::STAT_INDEX_KERNEL_STACK.load(),
        layout::STAT_INDEX_PERCPU.load(),
    ];
    for (i, index) in indices.into_iter().enumerate() {
        let value = if index == ABSENT || base.is_null() { None } else { at::<i64>(base.wrapping_add(index as usize * 8)) };
        // SAFETY: `i` is below STATS, the number of indices.
        unsafe { out.cast::<i64>().add(i).write(value.unwrap_or(UNKNOWN_I64)) };
    }
}

/// Resident pages of one kind, as `get_mm_counter` reads them.
#[inline(always)]
fn rss(mm: Ptr, kind: u32) -> i64 {
    let Some(base) = place(mm, &layout::MM_RSS_STAT) else { return UNKNOWN_I64 };
    let value = match layout::RSS_SHAPE.load() {
        RSS_ARRAY => at::<i64>(base.wrapping_add(kind as usize * 8)),
        RSS_PERCPU => {
            let counter = base.wrapping_add((kind * layout::RSS_STRIDE.load()) as usize);
            field::<i64>(counter, &layout::PERCPU_COUNTER_COUNT)
        }
        _ => None,
    };
    // The kernel reads a counter that dips below zero as zero, too.
    value.map_or(UNKNOWN_I64, |pages| if pages < 0 { 0 } else { pages })
}

/// `signal:signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)`:
/// here for the processes that share a victim's memory and die with it.
#[raw_tracepoint(tracepoint = "signal_generate")]
pub fn oom_sharer(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<u32>(0) != SIGKILL || ctx.arg::<u64>(1) != SEND_SIG_PRIV {
        return 0;
    }
    let current = bpf_get_current_pid_tgid();
    // SAFETY: the value is copied out at once.
    let Some(since) = (unsafe { TRIGGERS.get(current) }).copied() else { return 0 };
    if now().wrapping_sub(since) > AFTERMATH_NS {
        return 0;
    }
    let target = task::argument(&ctx, 2);
    emit::<Sharer>(cgroup::of(target), |record| {
        // SAFETY: a reserved record of this type.
        unsafe {
            task::describe(target, &raw mut (*record).victim);
            (*record).mm = follow(target, &layout::TASK_MM).map_or(0, |mm| mm as u64);
            (*record).trigger_tid = current as u32;
            (*record).oom_score_adj = task::oom_score_adj(target);
        }
    });
    0
}

/// Did a kill hit this cgroup a moment ago?
#[inline(always)]
pub fn hit_lately(cgroup: u64) -> bool {
    // SAFETY: the value is copied out at once.
    unsafe { HIT.get(cgroup) }.copied().is_some_and(|since| now().wrapping_sub(since) <= AFTERMATH_NS)
}
