//! Who a task is (include/linux/sched.h, include/linux/pid.h).

use aya_ebpf::{helpers::generated::bpf_get_current_task, programs::RawTracePointContext};
use tracer_common::{UNKNOWN_U32, UNKNOWN_U64, task::Task};

use super::{
    layout,
    read::{Ptr, field, follow, place},
};

const PF_EXITING: u32 = 0x4;
/// `sizeof(struct upid)`: an int, padding and a pointer, on every 64-bit kernel.
const UPID_SIZE: u32 = 16;
/// Deepest nesting of pid namespaces (`MAX_PID_NS_LEVEL`).
const MAX_PID_LEVEL: u32 = 32;

#[inline(always)]
pub fn current() -> Ptr {
    // SAFETY: takes no argument and cannot fail.
    unsafe { bpf_get_current_task() as Ptr }
}

/// A pointer argument of a raw tracepoint.
#[inline(always)]
pub fn argument(ctx: &RawTracePointContext, n: usize) -> Ptr {
    ctx.arg::<u64>(n) as Ptr
}

#[inline(always)]
pub fn tgid(task: Ptr) -> Option<u32> {
    field(task, &layout::TASK_TGID)
}

#[inline(always)]
pub fn tid(task: Ptr) -> Option<u32> {
    field(task, &layout::TASK_PID)
}

/// Fills `out` with what can be read of `task`. Each field is written, so that no stale byte of the ring leaves.
#[inline(always)]
pub fn describe(task: Ptr, out: *mut Task) {
    let leader = follow(task, &layout::TASK_GROUP_LEADER).unwrap_or(task);
    let (mut ns_pid, mut ns_level, mut pidns, mut init, mut init_exiting) =
        (UNKNOWN_U32, UNKNOWN_U32, UNKNOWN_U32, UNKNOWN_U32, UNKNOWN_U32);
    if let Some(pid) = follow(leader, &layout::TASK_THREAD_PID)
        && let Some(level) = field::<u32>(pid, &layout::PID_LEVEL)
        && level <= MAX_PID_LEVEL
        && let Some(numbers) = place(pid, &layout::PID_NUMBERS)
    {
        let upid = numbers.wrapping_add((level * UPID_SIZE) as usize);
        ns_level = level;
        ns_pid = field(upid, &layout::UPID_NR).unwrap_or(UNKNOWN_U32);
        if let Some(ns) = follow(upid, &layout::UPID_NS) {
            pidns = field(ns, &layout::PIDNS_INUM).unwrap_or(UNKNOWN_U32);
            if let Some(reaper) = follow(ns, &layout::PIDNS_CHILD_REAPER) {
                init = tgid(reaper).unwrap_or(UNKNOWN_U32);
                init_exiting =
                    field::<u32>(reaper, &layout::TASK_FLAGS).map_or(UNKNOWN_U32, |flags| u32::from(flags & PF_EXITING != 0));
            }
        }
    }
    let ppid = follow(leader, &layout::TASK_REAL_PARENT).and_then(tgid).unwrap_or(UNKNOWN_U32);
    let uid = follow(task, &layout::TASK_REAL_CRED).and_then(|cred| field(cred, &layout::CRED_UID)).unwrap_or(UNKNOWN_U32);
    // SAFETY: `out` points into a reserved ring record, as large as `Task`; the fields are plain numbers.
    unsafe {
        (*out).tgid = tgid(task).unwrap_or(UNKNOWN_U32);
        (*out).tid = tid(task).unwrap_or(UNKNOWN_U32);
        (*out).ns_pid = ns_pid;
        (*out).ns_level = ns_level;
        (*out).ppid = ppid;
        (*out).uid = uid;
        (*out).init = init;
        (*out).init_exiting = init_exiting;
        (*out).start_ns = field(leader, &layout::TASK_START_BOOTTIME).unwrap_or(UNKNOWN_U64);
        (*out).pidns = pidns;
        (*out).flags = field(leader, &layout::TASK_FLAGS).unwrap_or(0);
        (*out).comm = field(task, &layout::TASK_COMM).unwrap_or([0; 16]);
    }
}

/// `signal->oom_score_adj`.
#[inline(always)]
pub fn oom_score_adj(task: Ptr) -> i32 {
    follow(task, &layout::TASK_SIGNAL)
        .and_then(|signal| field::<i16>(signal, &layout::SIGNAL_OOM_SCORE_ADJ))
        .map_or(i32::MIN, i32::from)
}
