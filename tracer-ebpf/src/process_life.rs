//! How did a process end? (kernel/exit.c)

use aya_ebpf::{Global, macros::raw_tracepoint, programs::RawTracePointContext};
use tracer_common::task::Exit;

use crate::{
    kernel::{
        cgroup,
        diagnose::diagnose,
        emit::emit,
        layout,
        read::{Ptr, follow, i32_at, place, u32_at, u64_at},
        task,
    },
    oom, origin, pids,
};

const SIGNAL_GROUP_EXIT: u32 = 0x4;

/// `sched:sched_process_exit(struct task_struct *p)`, with `bool group_dead` since 6.18: fires per thread; the process
/// ends with the last. Before that argument came, `signal->live` is already decremented; two racing threads may both
/// see 0, and user space keeps one record per process and start time.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn exit(ctx: RawTracePointContext) -> i32 {
    let current = task::argument(&ctx, 0);
    let signal = follow(current, &layout::TASK_SIGNAL);
    let last = if layout::EXIT_HAS_GROUP_DEAD.load() == 1 {
        ctx.arg::<u64>(1) & 0xff != 0
    } else {
        i32_at(place(signal, &layout::SIGNAL_LIVE)) == 0
    };
    if !last {
        return 0;
    }
    let cgroup = cgroup::of_current(current);
    pids::left(current, cgroup);
    diagnose!(ctx, "exit of process {} in cgroup {}", task::tgid(current), cgroup);
    origin::left(current);
    if layout::WANT_ALL_EXITS.load() != 1 && !oom::hit_lately(cgroup) {
        return 0;
    }
    emit::<Exit>(cgroup, |record| {
        // SAFETY: a reserved record of this type.
        unsafe {
            task::describe(current, &raw mut (*record).task);
            (*record).status = status(current, signal);
            (*record).reserved = 0;
            (*record).utime_ns = sum(signal, &layout::SIGNAL_UTIME, current, &layout::TASK_UTIME);
            (*record).stime_ns = sum(signal, &layout::SIGNAL_STIME, current, &layout::TASK_STIME);
            (*record).peak_rss_pages = u64_at(place(signal, &layout::SIGNAL_MAXRSS));
        }
    });
    0
}

/// The process's status as its parent will see it: the group's where the whole group was ended, else the leader's own.
#[inline(always)]
fn status(current: Ptr, signal: Ptr) -> u32 {
    let leader = follow(current, &layout::TASK_GROUP_LEADER);
    if u32_at(place(signal, &layout::SIGNAL_FLAGS)) & SIGNAL_GROUP_EXIT == 0 {
        u32_at(place(leader, &layout::TASK_EXIT_CODE))
    } else {
        u32_at(place(signal, &layout::SIGNAL_GROUP_EXIT_CODE))
    }
}

/// The dead threads' time, kept in the signal struct, and the last thread's own. The times of a kernel without one of
/// the fields come out as nonsense near 2^64, which user space takes for unknown.
#[inline(always)]
fn sum(signal: Ptr, dead: &Global<u32>, current: Ptr, own: &Global<u32>) -> u64 {
    u64_at(place(signal, dead)).wrapping_add(u64_at(place(current, own)))
}
