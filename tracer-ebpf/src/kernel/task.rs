//! Who a task is (include/linux/sched.h, include/linux/pid.h).

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_comm, bpf_get_current_task, bpf_probe_read_kernel},
    },
    programs::RawTracePointContext,
};
use tracer_common::{UNKNOWN_U32, UNKNOWN_U64, task::Task};

use super::{
    layout,
    read::{NOWHERE, Ptr, follow, i16_at, pair_at, place, u32_at, u64_at},
};

const PF_EXITING: u32 = 0x4;
const PF_EXITING_SHIFT: u32 = PF_EXITING.trailing_zeros();
/// `sizeof(struct upid)`: an int, padding and a pointer, on every 64-bit kernel.
const UPID_SIZE: u64 = 16;

#[inline(always)]
pub fn current() -> Ptr {
    // SAFETY: takes no argument and cannot fail.
    unsafe { bpf_get_current_task() }
}

/// The current thread, in the host's pid namespace.
#[inline(always)]
pub fn current_tid() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// A pointer argument of a raw tracepoint.
#[inline(always)]
pub fn argument(ctx: &RawTracePointContext, n: usize) -> Ptr {
    ctx.arg::<u64>(n)
}

/// An argument of a raw tracepoint whose place depends on the kernel: the verifier lets nobody compute an address in a
/// context, but lets a helper read there.
#[inline(always)]
pub fn argument_at(ctx: &RawTracePointContext, n: u64) -> u64 {
    u64_at((ctx.as_ptr() as u64).wrapping_add(8 * n))
}

#[inline(always)]
pub fn tgid(task: Ptr) -> u32 {
    u32_at(place(task, &layout::TASK_TGID))
}

#[inline(always)]
pub fn tid(task: Ptr) -> u32 {
    u32_at(place(task, &layout::TASK_PID))
}

/// `current->files->fdt->fd[number]`.
#[inline(always)]
pub fn file(current: Ptr, number: i32) -> Ptr {
    let table = follow(follow(current, &layout::TASK_FILES), &layout::FILES_FDT);
    if number < 0 || number as u32 >= u32_at(place(table, &layout::FDT_MAX)) {
        return NOWHERE;
    }
    u64_at(follow(table, &layout::FDT_FD).wrapping_add(number as u64 * 8))
}

/// The number of a `struct pid` in its innermost namespace: `pid->numbers[pid->level]`.
#[inline(always)]
pub fn number(pid: Ptr) -> u32 {
    let level = u32_at(place(pid, &layout::PID_LEVEL));
    u32_at(place(place(pid, &layout::PID_NUMBERS).wrapping_add(u64::from(level) * UPID_SIZE), &layout::UPID_NR))
}

/// Fills `out` with what can be read of `task`. Each field is written, so that no stale byte of the ring leaves.
///
/// # Safety
/// `out` points at a `Task` within a reserved record.
#[inline(always)]
pub unsafe fn describe(task: Ptr, out: *mut Task) {
    let leader = follow(task, &layout::TASK_GROUP_LEADER);
    // The leader's pid in its innermost namespace: `pid->numbers[pid->level]`.
    let pid = follow(leader, &layout::TASK_THREAD_PID);
    let level = u32_at(place(pid, &layout::PID_LEVEL));
    let upid = place(pid, &layout::PID_NUMBERS).wrapping_add(u64::from(level) * UPID_SIZE);
    let (ns_pid, ns) = if layout::UPID_NR.load() == 0 && layout::UPID_NS.load() == 8 {
        let [number, ns] = pair_at::<u64>(upid);
        (number as u32, ns)
    } else {
        (u32_at(place(upid, &layout::UPID_NR)), follow(upid, &layout::UPID_NS))
    };
    let (thread, process) = if layout::TASK_TGID.load() == layout::TASK_PID.load().wrapping_add(4) {
        let [tid, tgid] = pair_at::<u32>(place(task, &layout::TASK_PID));
        (tid, tgid)
    } else {
        (tid(task), tgid(task))
    };
    let reaper = follow(ns, &layout::PIDNS_CHILD_REAPER);
    let cred = follow(task, &layout::TASK_REAL_CRED);
    // SAFETY: as the caller promised; the fields are plain numbers.
    unsafe {
        (*out).tgid = process;
        (*out).tid = thread;
        (*out).ns_pid = ns_pid;
        (*out).ns_level = level;
        (*out).ppid = tgid(follow(leader, &layout::TASK_REAL_PARENT));
        (*out).uid = u32_at(place(cred, &layout::CRED_UID));
        (*out).init = tgid(reaper);
        (*out).init_exiting = u32_at(place(reaper, &layout::TASK_FLAGS)) >> PF_EXITING_SHIFT & 1;
        (*out).start_ns = u64_at(place(leader, &layout::TASK_START_BOOTTIME));
        (*out).pidns = u32_at(place(ns, &layout::PIDNS_INUM));
        (*out).flags = u32_at(place(leader, &layout::TASK_FLAGS));
        // On failure the helper zeroes what it was given.
        bpf_probe_read_kernel((&raw mut (*out).comm).cast(), 16, place(task, &layout::TASK_COMM) as *const _);
    }
}

/// Of the current task what the kernel says without a look into its structures; all else is unknown.
///
/// # Safety
/// `out` points at a `Task` within a reserved record.
#[inline(always)]
pub unsafe fn name_current(out: *mut Task) {
    let ids = bpf_get_current_pid_tgid();
    // SAFETY: as the caller promised; the fields are plain numbers, and the helper writes what it is given.
    unsafe {
        *out = Task {
            tgid: (ids >> 32) as u32,
            tid: ids as u32,
            ns_pid: UNKNOWN_U32,
            ns_level: UNKNOWN_U32,
            ppid: UNKNOWN_U32,
            uid: UNKNOWN_U32,
            init: UNKNOWN_U32,
            init_exiting: UNKNOWN_U32,
            start_ns: UNKNOWN_U64,
            pidns: UNKNOWN_U32,
            flags: UNKNOWN_U32,
            comm: [0; 16],
        };
        bpf_get_current_comm((&raw mut (*out).comm).cast(), 16);
    }
}

/// `signal->oom_score_adj`; -1 also where it cannot be read, which no kernel that has a `signal_struct` does.
#[inline(always)]
pub fn oom_score_adj(task: Ptr) -> i32 {
    i32::from(i16_at(place(follow(task, &layout::TASK_SIGNAL), &layout::SIGNAL_OOM_SCORE_ADJ)))
}
