//! Who did the OOM killer hit, by whose limit, and what filled it? (mm/oom_kill.c, mm/memcontrol.c)

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{kprobe, kretprobe, map, raw_tracepoint},
    maps::{HashMap, LruHashMap},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext},
};
use tracer_common::{
    ABSENT, UNKNOWN_I64, UNKNOWN_U64,
    layout::{RSS_ARRAY, RSS_PERCPU, VMSTATS_ARRAY, VMSTATS_POINTER, VMSTATS_STRUCT},
    oom::{Decision, Done, Level, MAX_LEVELS, STATS, Sharer, VICTIM_ANNOUNCED, VICTIM_KILLED, Victim},
};

use crate::kernel::{
    cgroup,
    diagnose::diagnose,
    emit::{emit, now},
    layout,
    read::{NOWHERE, Ptr, follow, i64_at, place, u8_at, u32_at, u64_at},
    task,
};

/// Decisions under way: by the thread that asked.
#[map]
static DECISIONS: HashMap<u64, Announced> = HashMap::with_max_entries(1024, 0);

#[derive(Clone, Copy)]
struct Announced {
    /// Whose limit was hit; null: the host's memory.
    memcg: Ptr,
    cgroup: u64,
    trigger: Trigger,
}

/// Other threads in whose name the kernel kills. What is there is changed where it stands: to insert costs ten times that.
#[map]
static TRIGGERS: LruHashMap<u64, Trigger> = LruHashMap::with_max_entries(1024, 0);

#[derive(Clone, Copy)]
struct Trigger {
    /// When a victim was last marked, 0: never. The kernel's SIGKILLs since then belong to the same decision.
    marked_ns: u64,
    /// Whom it last sent a SIGKILL in the kernel's own name: `__oom_kill_process` does so just before it marks.
    killed: u64,
}

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
const MM_FILEPAGES: u64 = 0;
const MM_ANONPAGES: u64 = 1;
const MM_SHMEMPAGES: u64 = 3;

/// `static void oom_kill_process(struct oom_control *oc, const char *message)`: once per decision, in the task that
/// asked. Usage and limit are true here; the split is not, on kernels that flush the statistics only for the report.
#[kprobe]
pub fn oom_decision(ctx: ProbeContext) -> u32 {
    let Some(oc) = ctx.arg::<u64>(0) else { return 0 };
    let memcg = follow(oc, &layout::OOM_MEMCG);
    let cgroup = memcg_cgroup(memcg);
    let trigger = Trigger { marked_ns: 0, killed: UNKNOWN_U64 };
    let _ = DECISIONS.insert(bpf_get_current_pid_tgid(), Announced { memcg, cgroup, trigger }, 0);
    emit::<Decision>(cgroup, |record| {
        let current = task::current();
        // SAFETY: a reserved record of this type.
        unsafe {
            task::describe(current, &raw mut (*record).trigger);
            (*record).trigger_cgroup = cgroup::of_current(current);
            (*record).chosen = task::tgid(follow(oc, &layout::OOM_CHOSEN));
            (*record).constraint = u32_at(place(oc, &layout::OOM_CONSTRAINT));
            (*record).order = u32_at(place(oc, &layout::OOM_ORDER));
            (*record).host = u32::from(memcg == 0);
            (*record).total_pages = u64_at(place(oc, &layout::OOM_TOTALPAGES));
            level(memcg, cgroup, &raw mut (*record).level);
        }
    });
    0
}

#[kretprobe]
pub fn oom_done(_: RetProbeContext) -> u32 {
    let current = bpf_get_current_pid_tgid();
    // SAFETY: the value is copied out at once.
    let Some(cgroup) = (unsafe { DECISIONS.get(current) }).map(|announced| announced.cgroup) else { return 0 };
    let _ = DECISIONS.remove(current);
    emit::<Done>(cgroup, |record| {
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
    hit(cgroup, at);
    diagnose!(ctx, "victim {} in cgroup {}", task::tgid(victim), cgroup);
    let killed = marked(current, at);
    emit::<Victim>(cgroup, |record| mark(record, victim, current, killed));
    0
}

fn hit(cgroup: u64, at: u64) {
    if let Some(since) = HIT.get_ptr_mut(cgroup) {
        // SAFETY: the map's value; the later of two CPUs' writes stands.
        unsafe { *since = at };
    } else {
        let _ = HIT.insert(cgroup, at, 0);
    }
}

#[inline(always)]
fn trigger(thread: u64) -> Option<&'static mut Trigger> {
    if let Some(announced) = DECISIONS.get_ptr_mut(thread) {
        // SAFETY: as below.
        return Some(unsafe { &mut (*announced).trigger });
    }
    // SAFETY: a map's value; only the thread itself writes to it.
    TRIGGERS.get_ptr_mut(thread).map(|trigger| unsafe { &mut *trigger })
}

/// Notes that this thread marks a victim. Gives whom it last killed.
fn marked(thread: u64, at: u64) -> u64 {
    if let Some(trigger) = trigger(thread) {
        trigger.marked_ns = at;
        return trigger.killed;
    }
    let _ = TRIGGERS.insert(thread, Trigger { marked_ns: at, killed: UNKNOWN_U64 }, 0);
    UNKNOWN_U64
}

/// Notes that this thread sends a SIGKILL in the kernel's name. Gives when it last marked a victim.
fn killed(thread: u64, process: u32) -> u64 {
    if let Some(trigger) = trigger(thread) {
        trigger.killed = process.into();
        return trigger.marked_ns;
    }
    let _ = TRIGGERS.insert(thread, Trigger { marked_ns: 0, killed: process.into() }, 0);
    0
}

/// The branches come last: each doubles what the verifier has yet to look at.
#[inline(always)]
fn mark(record: *mut Victim, victim: Ptr, current: u64, killed: u64) {
    let mm = follow(victim, &layout::TASK_MM);
    let trigger = task::current();
    // SAFETY: a reserved record of this type; each field is written, of the levels those that there are.
    unsafe {
        task::describe(victim, &raw mut (*record).victim);
        (*record).trigger_cgroup = cgroup::of_current(trigger);
        (*record).mm = mm;
        (*record).rss_anon_pages = rss(mm, MM_ANONPAGES);
        (*record).rss_file_pages = rss(mm, MM_FILEPAGES);
        (*record).rss_shmem_pages = rss(mm, MM_SHMEMPAGES);
        (*record).oom_score_adj = task::oom_score_adj(victim);
        (*record).reserved = 0;
        let (depth, inferred) = levels(victim, &raw mut (*record).levels);
        (*record).depth = depth;
        let mut flags = 0;
        let [memcg, cgroup] = if let Some(announced) = DECISIONS.get(current) {
            flags |= VICTIM_ANNOUNCED;
            // The decision's own record tells the rest.
            task::name_current(&raw mut (*record).trigger);
            [announced.memcg, announced.cgroup]
        } else {
            task::describe(trigger, &raw mut (*record).trigger);
            inferred
        };
        (*record).stats_cgroup = cgroup;
        statistics(memcg, &raw mut (*record).stats);
        if killed == u64::from((*record).victim.tgid) {
            flags |= VICTIM_KILLED;
        }
        (*record).flags = flags;
    }
}

/// The victim's memory cgroup and its ancestors. Gives how many there are, and the lowest that is at its limit with its
/// cgroup's id (null and all ones: none is).
///
/// # Safety
/// `out` points at the levels of a reserved record.
#[inline(always)]
unsafe fn levels(victim: Ptr, out: *mut [Level; MAX_LEVELS]) -> (u32, [u64; 2]) {
    let mut memcg = memcg_of_css(cgroup::css(victim, layout::MEMORY_SUBSYS.load()));
    let (mut depth, mut limiting, mut near) = (0, [0; 2], [0; 2]);
    for i in 0..MAX_LEVELS {
        let cgroup = memcg_cgroup(memcg);
        // The one branch: above the root there is nothing to read.
        if cgroup == UNKNOWN_U64 {
            break;
        }
        // SAFETY: `i` is within the array.
        let slot = unsafe { out.cast::<Level>().add(i) };
        // SAFETY: as above.
        unsafe { level(memcg, cgroup, slot) };
        // No branch for these, see `read`: a flag is a mask of all ones or of none.
        // SAFETY: `level` has filled it.
        let (refused, almost) = unsafe { (below(slot, CHARGE_BATCH), below(slot, CHARGE_HUGE)) };
        note([memcg, cgroup], refused, &mut limiting);
        note([memcg, cgroup], almost, &mut near);
        depth += 1;
        memcg = parent(memcg);
    }
    let [memcg, cgroup] = if limiting[0] == 0 { near } else { limiting };
    (depth, [memcg, cgroup | unset(memcg)])
}

/// Keeps what is masked, unless something is kept already.
#[inline(always)]
fn note(level: [u64; 2], mask: u64, kept: &mut [u64; 2]) {
    let mask = mask & unset(kept[0]);
    kept[0] |= level[0] & mask;
    kept[1] |= level[1] & mask;
}

/// All ones where `pointer` is still null. (A kernel address has its top bit set.)
#[inline(always)]
fn unset(pointer: Ptr) -> u64 {
    (pointer >> 63).wrapping_sub(1)
}

/// All ones where fewer than `pages` are left below a level's limit. On v1 the second counter is memory and swap
/// together, and refuses as well; swap at its limit refuses nothing by itself on v2.
///
/// # Safety
/// `level` points at a filled level.
#[inline(always)]
unsafe fn below(level: *const Level, pages: u64) -> u64 {
    // SAFETY: as the caller promised.
    let level = unsafe { &*level };
    let memory = short(level.usage, level.max, pages);
    if layout::KEY_SUBSYS.load() == ABSENT { memory } else { memory | short(level.swap_usage, level.swap_max, pages) }
}

/// All ones where `max - usage < pages`; none where either is unknown (all ones).
#[inline(always)]
fn short(usage: u64, max: u64, pages: u64) -> u64 {
    let negative = |value: u64| 0_u64.wrapping_sub(value >> 63);
    negative(max.wrapping_sub(usage).wrapping_sub(pages)) & !negative(max) & !negative(usage)
}

/// Fills one level: `struct page_counter` counts pages.
///
/// # Safety
/// `out` points at a level of a reserved record.
#[inline(always)]
unsafe fn level(memcg: Ptr, cgroup: u64, out: *mut Level) {
    // SAFETY: as the caller promised.
    unsafe {
        (*out).cgroup = cgroup;
        (*out).usage = u64_at(place(memcg, &layout::MEMCG_MEMORY_USAGE));
        (*out).max = u64_at(place(memcg, &layout::MEMCG_MEMORY_MAX));
        (*out).swap_usage = u64_at(place(memcg, &layout::MEMCG_SWAP_USAGE));
        (*out).swap_max = u64_at(place(memcg, &layout::MEMCG_SWAP_MAX));
        // A `bool`: 0, 1, or 255 where it could not be read.
        (*out).oom_group = u32::from(u8_at(place(memcg, &layout::MEMCG_OOM_GROUP)));
        (*out).reserved = 0;
    }
}

#[inline(always)]
fn memcg_of_css(css: Ptr) -> Ptr {
    let offset = layout::MEMCG_CSS.load();
    if offset == ABSENT { NOWHERE } else { css.wrapping_sub(u64::from(offset)) }
}

#[inline(always)]
fn memcg_cgroup(memcg: Ptr) -> u64 {
    cgroup::css_id(place(memcg, &layout::MEMCG_CSS))
}

#[inline(always)]
fn parent(memcg: Ptr) -> Ptr {
    memcg_of_css(follow(place(memcg, &layout::MEMCG_CSS), &layout::CSS_PARENT))
}

/// The memcg's statistics in the kernel's own units, as last flushed: the kernel flushes for its own report, just
/// before it marks the first victim.
///
/// # Safety
/// `out` points at the statistics of a reserved record.
#[inline(always)]
unsafe fn statistics(memcg: Ptr, out: *mut [i64; STATS]) {
    let base = match layout::VMSTATS_SHAPE.load() {
        VMSTATS_ARRAY => place(memcg, &layout::MEMCG_VMSTATS),
        VMSTATS_STRUCT => place(place(memcg, &layout::MEMCG_VMSTATS), &layout::VMSTATS_STATE),
        VMSTATS_POINTER => place(follow(memcg, &layout::MEMCG_VMSTATS), &layout::VMSTATS_STATE),
        _ => NOWHERE,
    };
    let indices = [
        &layout::STAT_INDEX_ANON,
        &layout::STAT_INDEX_FILE,
        &layout::STAT_INDEX_SHMEM,
        &layout::STAT_INDEX_KMEM,
        &layout::STAT_INDEX_SWAP,
        &layout::STAT_INDEX_SLAB_RECLAIMABLE,
        &layout::STAT_INDEX_SLAB_UNRECLAIMABLE,
        &layout::STAT_INDEX_KERNEL_STACK,
        &layout::STAT_INDEX_PERCPU,
        &layout::STAT_INDEX_SOCK,
    ];
    let mut i = 0;
    while i < STATS {
        let index = indices[i].load();
        let value = if index == ABSENT { UNKNOWN_I64 } else { i64_at(base.wrapping_add(u64::from(index) * 8)) };
        // SAFETY: `i` is below STATS.
        unsafe { out.cast::<i64>().add(i).write(value) };
        i += 1;
    }
}

/// Resident pages of one kind, as `get_mm_counter` reads them.
#[inline(always)]
fn rss(mm: Ptr, kind: u64) -> i64 {
    let base = place(mm, &layout::MM_RSS_STAT);
    match layout::RSS_SHAPE.load() {
        RSS_ARRAY => i64_at(base.wrapping_add(kind * 8)),
        RSS_PERCPU => {
            let counter = base.wrapping_add(kind * u64::from(layout::RSS_STRIDE.load()));
            i64_at(place(counter, &layout::PERCPU_COUNTER_COUNT))
        }
        _ => UNKNOWN_I64,
    }
}

/// `signal:signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)`:
/// here for the processes that share a victim's memory and die with it.
#[raw_tracepoint(tracepoint = "signal_generate")]
pub fn oom_sharer(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<u32>(0) != SIGKILL || ctx.arg::<u64>(1) != SEND_SIG_PRIV {
        return 0;
    }
    let current = bpf_get_current_pid_tgid();
    let target = task::argument(&ctx, 2);
    let since = killed(current, task::tgid(target));
    if since == 0 || now().wrapping_sub(since) > AFTERMATH_NS {
        return 0;
    }
    emit::<Sharer>(cgroup::of(target), |record| {
        // SAFETY: a reserved record of this type.
        unsafe {
            task::describe(target, &raw mut (*record).victim);
            (*record).mm = follow(target, &layout::TASK_MM);
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
