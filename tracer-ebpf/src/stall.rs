//! How long do tasks stall for memory, and whose are they? (mm/vmscan.c, mm/memcontrol.c)
//!
//! Aggregated here: a container at its limit reclaims thousands of times a second.

use aya_ebpf::{
    macros::{kprobe, kretprobe, map, raw_tracepoint},
    maps::{LruHashMap, LruPerCpuHashMap},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext},
};
use tracer_common::{
    stall::{HIGH, HOST, LIMIT, Stall, StallKey, Stalling},
    task::Task,
};

use crate::kernel::{
    cgroup,
    emit::now,
    layout,
    read::{place, u32_at},
    task,
};

/// Stalls that have begun. What never ends (a task that is killed in it does end it) is pushed out by others.
#[map]
static STALLING: LruHashMap<Stalling, u64> = LruHashMap::with_max_entries(1, 0);

#[map]
static STALLS: LruPerCpuHashMap<StallKey, Stall> = LruPerCpuHashMap::with_max_entries(1, 0);

/// `vmscan:mm_vmscan_memcg_reclaim_begin`, in the task that needs the memory. Its arguments changed their order; none is
/// needed.
#[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_begin")]
pub fn reclaim_begin(_: RawTracePointContext) -> i32 {
    begin(LIMIT);
    0
}

/// `vmscan:mm_vmscan_memcg_reclaim_end`.
#[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_end")]
pub fn reclaim_end(_: RawTracePointContext) -> i32 {
    end(LIMIT);
    0
}

/// `vmscan:mm_vmscan_direct_reclaim_begin`.
#[raw_tracepoint(tracepoint = "mm_vmscan_direct_reclaim_begin")]
pub fn host_reclaim_begin(_: RawTracePointContext) -> i32 {
    begin(HOST);
    0
}

/// `vmscan:mm_vmscan_direct_reclaim_end`.
#[raw_tracepoint(tracepoint = "mm_vmscan_direct_reclaim_end")]
pub fn host_reclaim_end(_: RawTracePointContext) -> i32 {
    end(HOST);
    0
}

/// `void mem_cgroup_handle_over_high(gfp_t gfp_mask)`, on the way back to user mode; newer kernels call it
/// `__mem_cgroup_handle_over_high`, and only where there is something to do.
#[kprobe]
pub fn over_high_begin(_: ProbeContext) -> u32 {
    let over = u32_at(place(task::current(), &layout::TASK_OVER_HIGH));
    if over != 0 {
        begin(HIGH);
    }
    0
}

#[kretprobe]
pub fn over_high_end(_: RetProbeContext) -> u32 {
    end(HIGH);
    0
}

#[inline(always)]
fn begin(kind: u32) {
    let tid = task::current_tid();
    // Reclaim above memory.high is part of that stall.
    if kind == LIMIT && STALLING.get_ptr(Stalling { tid, kind: HIGH }).is_some() {
        return;
    }
    let _ = STALLING.insert(Stalling { tid, kind }, now(), 0);
}

#[inline(always)]
fn end(kind: u32) {
    let key = Stalling { tid: task::current_tid(), kind };
    let Some(start) = STALLING.get_ptr(key) else { return };
    // SAFETY: the map's value, which only this task writes.
    let took = now().wrapping_sub(unsafe { *start });
    let _ = STALLING.remove(key);
    let current = task::current();
    let key = StallKey { cgroup: cgroup::of(current), tgid: task::tgid(current), kind };
    if let Some(stall) = STALLS.get_ptr_mut(key) {
        // SAFETY: this CPU's own value.
        let stall = unsafe { &mut *stall };
        stall.count += 1;
        stall.total_ns += took;
        if took > stall.worst_ns {
            stall.worst_ns = took;
        }
        return;
    }
    let mut first = Stall { who: NOBODY, count: 1, total_ns: took, worst_ns: took };
    // SAFETY: a `Task` of this function's own.
    unsafe { task::describe(current, &raw mut first.who) };
    let _ = STALLS.insert(key, first, 0);
}

const NOBODY: Task = Task {
    tgid: 0,
    tid: 0,
    ns_pid: 0,
    ns_level: 0,
    ppid: 0,
    uid: 0,
    init: 0,
    init_exiting: 0,
    start_ns: 0,
    pidns: 0,
    flags: 0,
    comm: [0; 16],
};
