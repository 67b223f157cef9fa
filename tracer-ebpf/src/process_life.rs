//! How did a process end, and what does it run? (kernel/exit.c, fs/exec.c)

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use tracer_common::{
    UNKNOWN_U32, UNKNOWN_U64,
    task::{Exec, Exit},
};

use crate::{
    kernel::{
        cgroup,
        emit::emit,
        layout,
        read::{Ptr, field, follow},
        task,
    },
    oom,
};

const SIGNAL_GROUP_EXIT: u32 = 0x4;

/// `sched:sched_process_exit(struct task_struct *p)`, with `bool group_dead` since 6.18: fires per thread; the process
/// ends with the last. Before that argument came, `signal->live` is already decremented; two racing threads may both
/// see 0, and user space keeps one record per process and start time.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn exit(ctx: RawTracePointContext) -> i32 {
    let current = task::argument(&ctx, 0);
    let Some(signal) = follow(current, &layout::TASK_SIGNAL) else { return 0 };
    let last = if layout::EXIT_HAS_GROUP_DEAD.load() == 1 {
        ctx.arg::<u64>(1) & 0xff != 0
    } else {
        field::<i32>(signal, &layout::SIGNAL_LIVE).unwrap_or(0) == 0
    };
    if !last {
        return 0;
    }
    let cgroup = cgroup::of(current);
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
            (*record).peak_rss_pages = field(signal, &layout::SIGNAL_MAXRSS).unwrap_or(UNKNOWN_U64);
        }
    });
    0
}

/// The process's status as its parent will see it: the group's where the whole group was ended, else the leader's own.
#[inline(always)]
fn status(current: Ptr, signal: Ptr) -> u32 {
    let flags: u32 = field(signal, &layout::SIGNAL_FLAGS).unwrap_or(0);
    let group: Option<u32> = field(signal, &layout::SIGNAL_GROUP_EXIT_CODE);
    let leader = follow(current, &layout::TASK_GROUP_LEADER).unwrap_or(current);
    let own: Option<u32> = field(leader, &layout::TASK_EXIT_CODE);
    let code = if flags & SIGNAL_GROUP_EXIT != 0 { group } else { own };
    code.unwrap_or(UNKNOWN_U32)
}

/// The dead threads' time, kept in the signal struct, and the last thread's own.
#[inline(always)]
fn sum(signal: Ptr, dead: &aya_ebpf::Global<u32>, current: Ptr, own: &aya_ebpf::Global<u32>) -> u64 {
    match (field::<u64>(signal, dead), field::<u64>(current, own)) {
        (Some(dead), Some(own)) => dead.wrapping_add(own),
        _ => UNKNOWN_U64,
    }
}

/// `sched:sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn exec(ctx: RawTracePointContext) -> i32 {
    let current = task::argument(&ctx, 0);
    emit::<Exec>(cgroup::of(current), |record| {
        // SAFETY: a reserved record of this type.
        unsafe {
            task::describe(current, &raw mut (*record).task);
            (*record).old_tid = ctx.arg::<u32>(1);
            (*record).reserved = 0;
        }
    });
    0
}
