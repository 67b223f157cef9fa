//! Who was refused a fork, by whose limit, and whom did nobody reap? (kernel/cgroup/pids.c, kernel/fork.c)

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{kretprobe, map, raw_tracepoint},
    maps::{HashMap, LruHashMap},
    programs::{RawTracePointContext, RetProbeContext},
};
use tracer_common::{
    ABSENT,
    caps::COMPAT,
    pids::{ForkFailed, ForkRefused, Level, MAX_LEVELS, Refusals, Unreaped},
};

use crate::kernel::{
    cgroup,
    emit::{emit, now},
    layout,
    read::{NOWHERE, Ptr, follow, place, u32_at, u64_at},
    syscall, task,
};

/// Refusals by pids cgroup: a fork bomb is refused a million times a second, and must not fill the ring.
#[map]
static REFUSALS: LruHashMap<u64, Refusals> = LruHashMap::with_max_entries(1024, 0);

/// … and by anything but the pids controller.
#[map]
static FORKS_FAILED: LruHashMap<u64, Refusals> = LruHashMap::with_max_entries(1024, 0);

/// Threads that pids_can_fork refused just now: copy_process says so again a moment later.
#[map]
static REFUSED_NOW: LruHashMap<u32, u32> = LruHashMap::with_max_entries(1024, 0);

/// Processes that ended and were not reaped, by process id. Allocated as a whole: user space makes it that large only
/// where it is wanted.
#[map]
static UNREAPED: HashMap<u32, Unreaped> = HashMap::with_max_entries(1, 0);

/// After the first, a cgroup's refusals are told at most this often, ns.
const FOLD_NS: u64 = 100_000_000;
/// `-EAGAIN`, as the register of an `int` holds it.
const REFUSED: i32 = -11;

/// `static int pids_can_fork(struct task_struct *task, struct css_set *cset)`: -EAGAIN where a level is at its limit.
/// The task that asked is current. The charge is undone already: the level that refused is the lowest at its limit.
/// Where the fork was to go into another cgroup (`CLONE_INTO_CGROUP`), none of the levels told here refused.
#[kretprobe]
pub fn fork_refused(ctx: RetProbeContext) -> u32 {
    if ctx.ret::<i32>() != REFUSED {
        return 0;
    }
    let _ = REFUSED_NOW.insert(bpf_get_current_pid_tgid() as u32, 1, 0);
    let current = task::current();
    let css = cgroup::css(current, layout::PIDS_SUBSYS.load());
    let Some(count) = fold(&REFUSALS, cgroup::css_id(css)) else { return 0 };
    emit::<ForkRefused>(cgroup::of(current), |record| {
        // SAFETY: a reserved record of this type; each field is written.
        unsafe {
            task::describe(current, &raw mut (*record).asker);
            (*record).count = count;
            (*record).depth = levels(css, &raw mut (*record).levels);
            (*record).reserved = 0;
        }
    });
    0
}

/// `static struct task_struct *copy_process(…)`: what every fork comes down to.
#[kretprobe]
pub fn fork_failed(ctx: RetProbeContext) -> u32 {
    if ctx.ret::<i64>() == i64::from(REFUSED) {
        failed();
    }
    0
}

/// `raw_syscalls:sys_exit(struct pt_regs *regs, long ret)`, where functions cannot be hooked.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn fork_failed_exit(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<i64>(1) == i64::from(REFUSED) && is_fork(syscall::at(ctx.arg::<u64>(0))) {
        failed();
    }
    0
}

#[inline(always)]
fn is_fork(number: u32) -> bool {
    // clone3 has one number everywhere.
    const CLONE3: u32 = 435;
    if layout::REGS_CS.load() == ABSENT {
        // include/uapi/asm-generic/unistd.h: clone
        return matches!(number, 220 | CLONE3);
    }
    const COMPAT_FORK: u32 = COMPAT + 2;
    const COMPAT_CLONE: u32 = COMPAT + 120;
    const COMPAT_VFORK: u32 = COMPAT + 190;
    const COMPAT_CLONE3: u32 = COMPAT + CLONE3;
    // arch/x86/entry/syscalls: clone, fork, vfork
    matches!(number, 56 | 57 | 58 | CLONE3 | COMPAT_FORK | COMPAT_CLONE | COMPAT_VFORK | COMPAT_CLONE3)
}

/// Current was refused a fork: whatever a level of a pids cgroup did is told elsewhere.
#[inline(always)]
fn failed() {
    if REFUSED_NOW.remove(bpf_get_current_pid_tgid() as u32).is_ok() {
        return;
    }
    // Where pids_can_fork is not hooked.
    let current = task::current();
    let css = cgroup::css(current, layout::PIDS_SUBSYS.load());
    if is_full(css) {
        return;
    }
    let from = cgroup::css_id(css);
    let Some(count) = fold(&FORKS_FAILED, from) else { return };
    let namespace = follow(follow(current, &layout::TASK_NSPROXY), &layout::NSPROXY_PID_FOR_CHILDREN);
    emit::<ForkFailed>(cgroup::of(current), |record| {
        // SAFETY: a reserved record of this type; each field is written.
        unsafe {
            task::describe(current, &raw mut (*record).asker);
            (*record).count = count;
            (*record).from = from;
            (*record).pids = u32_at(place(namespace, &layout::PIDNS_ALLOCATED));
            (*record).pid_max = u32_at(place(namespace, &layout::PIDNS_PID_MAX));
        }
    });
}

/// Is a level at its limit? What cannot be read is all ones, and so no level at all.
#[inline(always)]
fn is_full(css: Ptr) -> bool {
    let mut pids = pids_of_css(css);
    let mut full = 0_u64;
    for _ in 0..MAX_LEVELS {
        let (current, limit) = (u64_at(place(pids, &layout::PIDS_CURRENT)), u64_at(place(pids, &layout::PIDS_LIMIT)));
        full |= u64::from(current >= limit) & u64::from(limit != u64::MAX);
        pids = pids_of_css(follow(place(pids, &layout::PIDS_CSS), &layout::CSS_PARENT));
    }
    full != 0
}

/// Counts a refusal; the count so far where it is to be told now.
#[inline(always)]
fn fold(map: &LruHashMap<u64, Refusals>, cgroup: u64) -> Option<u64> {
    let at = now();
    let Some(refusals) = map.get_ptr_mut(cgroup) else {
        let _ = map.insert(cgroup, Refusals { count: 1, told_ns: at }, 0);
        return Some(1);
    };
    // SAFETY: the map's value; two CPUs may race for it, which can cost a count, and never a cgroup's first.
    let refusals = unsafe { &mut *refusals };
    refusals.count += 1;
    if at.wrapping_sub(refusals.told_ns) < FOLD_NS {
        return None;
    }
    refusals.told_ns = at;
    Some(refusals.count)
}

/// The pids cgroup and its ancestors; how many there are. No branch in here, see `read`.
///
/// # Safety
/// `out` points at the levels of a reserved record.
#[inline(always)]
unsafe fn levels(css: Ptr, out: *mut [Level; MAX_LEVELS]) -> u32 {
    let mut pids = pids_of_css(css);
    let mut depth = 0;
    for i in 0..MAX_LEVELS {
        // SAFETY: `i` is within the array.
        let slot = unsafe { out.cast::<Level>().add(i) };
        let cgroup = cgroup::css_id(place(pids, &layout::PIDS_CSS));
        // SAFETY: as above.
        unsafe {
            (*slot).cgroup = cgroup;
            (*slot).current = u64_at(place(pids, &layout::PIDS_CURRENT));
            (*slot).limit = u64_at(place(pids, &layout::PIDS_LIMIT));
        }
        depth += u32::from(cgroup != u64::MAX);
        pids = pids_of_css(follow(place(pids, &layout::PIDS_CSS), &layout::CSS_PARENT));
    }
    depth
}

#[inline(always)]
fn pids_of_css(css: Ptr) -> Ptr {
    let offset = layout::PIDS_CSS.load();
    if offset == ABSENT { NOWHERE } else { css.wrapping_sub(u64::from(offset)) }
}

/// The last thread of a process ended: from now on it waits for its parent.
#[inline(always)]
pub fn left(current: Ptr, cgroup: u64) {
    if layout::WANT_UNREAPED.load() != 1 {
        return;
    }
    let leader = follow(current, &layout::TASK_GROUP_LEADER);
    let dead = Unreaped {
        start_ns: u64_at(place(leader, &layout::TASK_START_BOOTTIME)),
        exit_ns: now(),
        cgroup,
        parent: task::tgid(follow(leader, &layout::TASK_REAL_PARENT)),
        reserved: 0,
    };
    // Where the map is full, user space's slow sweep of /proc still finds it.
    let _ = UNREAPED.insert(task::tgid(current), dead, 0);
}

/// `sched:sched_process_free(struct task_struct *p)`: its parent has waited for it, or nobody had to. Fires per thread,
/// after a grace period.
#[raw_tracepoint(tracepoint = "sched_process_free")]
pub fn process_free(ctx: RawTracePointContext) -> i32 {
    let freed = task::argument(&ctx, 0);
    let tgid = task::tgid(freed);
    if task::tid(freed) != tgid {
        return 0;
    }
    // SAFETY: the value is copied out at once.
    let Some(dead) = (unsafe { UNREAPED.get(tgid) }).copied() else { return 0 };
    // A process that got the same id within the grace period stays.
    if dead.start_ns == u64_at(place(freed, &layout::TASK_START_BOOTTIME)) {
        let _ = UNREAPED.remove(tgid);
    }
    0
}
