//! Who waits for a CPU, and who sleeps in a way that counts as load? (kernel/sched/core.c)
//!
//! `sched_switch` is the hottest hook there is. A task's state is in an array that is indexed by its thread id, and its
//! cgroup is looked up again only when its `css_set` is another one than last time.

use aya_ebpf::{
    Global,
    bindings::BPF_F_FAST_STACK_CMP,
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
    macros::{btf_tracepoint, map},
    maps::{Array, LruHashMap, LruPerCpuHashMap, StackTrace},
    programs::{BtfTracePointContext, tracing::StackIdContext},
};
use tracer_common::{
    UNKNOWN_U64,
    cpu::{BLOCKED, BUCKETS, Blocked, NO_STACK, RUNNING, SLOTS, SleepKey, Sleeps, Slot, WAITING, WINDOW_SHIFT, Waits},
};

use crate::kernel::{
    cgroup,
    emit::now,
    layout,
    read::{Ptr, known},
};

/// When these programs were attached last: what a slot holds from before is not known to hold still.
#[map]
static HEARD_SINCE: Array<u64> = Array::with_max_entries(1, 0);
/// Made at their sizes only where they are wanted.
#[map]
static TASKS: Array<Slot> = Array::with_max_entries(1, 0);
#[map]
static WAITS: LruPerCpuHashMap<u64, Waits> = LruPerCpuHashMap::with_max_entries(1, 0);
#[map(name = "BLOCKED")]
static IN_D: LruHashMap<u32, Blocked> = LruHashMap::with_max_entries(1, 0);
#[map]
static STACKS: StackTrace = StackTrace::with_max_entries(1, 0);
#[map]
static SLEEPS: LruPerCpuHashMap<SleepKey, Sleeps> = LruPerCpuHashMap::with_max_entries(1, 0);

const TASK_UNINTERRUPTIBLE: u32 = 0x2;
const TASK_NOLOAD: u32 = 0x400;
/// Since 6.1; before, the task's flag.
const TASK_FROZEN: u32 = 0x8000;
const PF_FROZEN: u32 = 0x1_0000;

/// `sched:sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next)`, since 5.18 with `unsigned int
/// prev_state` behind. current is prev.
#[btf_tracepoint(function = "sched_switch")]
pub fn switch(ctx: BtfTracePointContext) -> i32 {
    let at = now();
    let prev_tid = bpf_get_current_pid_tgid() as u32;
    leave(&ctx, prev_tid, at);
    enter(ctx.arg::<u64>(2), prev_tid, at);
    0
}

#[inline(always)]
fn leave(ctx: &BtfTracePointContext, tid: u32, at: u64) {
    if tid == 0 {
        return;
    }
    let Some(slot) = TASKS.get_ptr_mut(tid % SLOTS) else { return };
    // SAFETY: the map's value; nobody else writes to the slot of a task while it is scheduled, but one that shares it.
    let slot = unsafe { &mut *slot };
    let prev = ctx.arg::<u64>(1);
    take(slot, tid);
    let state = if layout::SWITCH_HAS_STATE.load() == 1 { ctx.arg::<u32>(3) } else { field(prev, &layout::TASK_STATE) };
    let preempted = ctx.arg::<u64>(0) & 0xff != 0;
    slot.since_ns = at;
    if preempted || state == 0 {
        slot.state = WAITING;
    } else if state & (TASK_UNINTERRUPTIBLE | TASK_NOLOAD | TASK_FROZEN) == TASK_UNINTERRUPTIBLE {
        slot.state = block(ctx, prev, slot, at);
    } else {
        slot.state = 0;
    }
}

/// Is what the slot holds this task's, and was nothing missed since?
#[inline(always)]
fn holds(slot: &Slot, tid: u32) -> bool {
    slot.tid == tid && HEARD_SINCE.get(0).is_none_or(|since| slot.since_ns >= *since)
}

/// Makes it this task's slot: from another that has it nothing more is heard.
#[inline(always)]
fn take(slot: &mut Slot, tid: u32) {
    if !holds(slot, tid) {
        *slot = Slot { tid, state: 0, since_ns: 0, set: 0, cgroup: UNKNOWN_U64 };
    }
}

/// Off to an uninterruptible sleep: the state that it is in.
#[inline(always)]
fn block(ctx: &BtfTracePointContext, task: Ptr, slot: &mut Slot, at: u64) -> u32 {
    if field(task, &layout::TASK_FLAGS) & PF_FROZEN != 0 {
        return 0;
    }
    // Its own: current is prev. Where another stack has the place, this one is not kept: a key stays what it was.
    let stack = ctx.get_stackid(&STACKS, BPF_F_FAST_STACK_CMP.into());
    let stack = stack.map_or(NO_STACK, |id| id as u32);
    let _ = IN_D.insert(slot.tid, Blocked { since_ns: at, cgroup: cgroup_of(task, slot), stack, reserved: 0 }, 0);
    BLOCKED
}

#[inline(always)]
fn enter(next: Ptr, prev_tid: u32, at: u64) {
    let tid = field(next, &layout::TASK_PID);
    if tid == 0 {
        return;
    }
    let Some(slot) = TASKS.get_ptr_mut(tid % SLOTS) else { return };
    // SAFETY: as in `leave`.
    let slot = unsafe { &mut *slot };
    take(slot, tid);
    if slot.state == WAITING {
        if let Some(waits) = waits_of(cgroup_of(next, slot)) {
            // SAFETY: this CPU's own value, and nothing else uses it before this program ends.
            waited(unsafe { &mut *waits }, tid, at.wrapping_sub(slot.since_ns), prev_tid, at);
        }
    } else if slot.state == BLOCKED {
        let _ = IN_D.remove(tid);
    }
    slot.state = RUNNING;
    slot.since_ns = at;
}

/// The key of a task's cgroup, as it was the last time if that still holds.
#[inline(always)]
fn cgroup_of(task: Ptr, slot: &mut Slot) -> u64 {
    // SAFETY: as in `field`.
    let set = unsafe { known::u64(task, &layout::TASK_CGROUPS) };
    if slot.set != set {
        slot.cgroup = cgroup::of(task);
        slot.set = set;
    }
    slot.cgroup
}

/// A field of a task that the tracepoint gave.
#[inline(always)]
fn field(task: Ptr, offset: &Global<u32>) -> u32 {
    // SAFETY: the verifier knows that it is a task.
    unsafe { known::u32(task, offset) }
}

#[inline(always)]
fn waits_of(cgroup: u64) -> Option<*mut Waits> {
    if cgroup == UNKNOWN_U64 {
        return None;
    }
    WAITS.get_ptr_mut(cgroup).or_else(|| {
        begin(cgroup);
        WAITS.get_ptr_mut(cgroup)
    })
}

/// Rare, and large on the stack.
#[inline(never)]
fn begin(cgroup: u64) -> i32 {
    let empty = Waits {
        count: 0,
        total_ns: 0,
        blocked: 0,
        blocked_ns: 0,
        worst_ns: 0,
        worst_window: 0,
        worst_tid: 0,
        instead_tid: 0,
        instead_comm: [0; 16],
        histogram: [0; BUCKETS],
    };
    i32::from(WAITS.insert(cgroup, empty, 0).is_ok())
}

#[inline(always)]
fn waited(waits: &mut Waits, tid: u32, wait: u64, prev_tid: u32, at: u64) {
    waits.count += 1;
    waits.total_ns += wait;
    let micros = wait >> 10;
    let bucket = (micros | 1).ilog2() as usize;
    waits.histogram[if bucket < BUCKETS { bucket } else { BUCKETS - 1 }] += 1;
    let window = at >> WINDOW_SHIFT;
    if window != waits.worst_window || wait > waits.worst_ns {
        waits.worst_window = window;
        waits.worst_ns = wait;
        waits.worst_tid = tid;
        waits.instead_tid = prev_tid;
        waits.instead_comm = bpf_get_current_comm().unwrap_or([0; 16]);
    }
}

/// `sched:sched_wakeup(struct task_struct *p)`: from now on it waits for a CPU.
#[btf_tracepoint(function = "sched_wakeup")]
pub fn wakeup(ctx: BtfTracePointContext) -> i32 {
    let at = now();
    let woken = ctx.arg::<u64>(0);
    let tid = field(woken, &layout::TASK_PID);
    let Some(slot) = TASKS.get_ptr_mut(tid % SLOTS) else { return 0 };
    // SAFETY: as in `leave`.
    let slot = unsafe { &mut *slot };
    if !holds(slot, tid) {
        // Another task had its slot meanwhile, or nobody listened: how long it slept is not known any more.
        let _ = IN_D.remove(tid);
        take(slot, tid);
    }
    match slot.state {
        // Woken on its way to sleep.
        RUNNING => return 0,
        BLOCKED => {
            slept(tid, at);
            let _ = IN_D.remove(tid);
            if let Some(waits) = waits_of(cgroup_of(woken, slot)) {
                // SAFETY: this CPU's own value.
                let waits = unsafe { &mut *waits };
                waits.blocked += 1;
                waits.blocked_ns += at.wrapping_sub(slot.since_ns);
            }
        }
        // Who waits already is not woken: its last switches were not traced, as happens. Nothing is known of before.
        _ => {}
    }
    slot.state = WAITING;
    slot.since_ns = at;
    0
}

/// Its sleep has ended: it counts where it slept.
#[inline(always)]
fn slept(tid: u32, at: u64) {
    // SAFETY: copied out at once.
    let Some(blocked) = (unsafe { IN_D.get(tid) }).copied() else { return };
    let key = SleepKey { cgroup: blocked.cgroup, stack: blocked.stack, reserved: 0 };
    let ns = at.wrapping_sub(blocked.since_ns);
    if let Some(sleeps) = SLEEPS.get_ptr_mut(key) {
        // SAFETY: this CPU's own value, and nothing else uses it before this program ends.
        let sleeps = unsafe { &mut *sleeps };
        sleeps.count += 1;
        sleeps.total_ns += ns;
    } else {
        let _ = SLEEPS.insert(key, Sleeps { count: 1, total_ns: ns }, 0);
    }
}

/// `sched:sched_wakeup_new(struct task_struct *p)`: a new task. Whoever had its id before was in a cgroup of its own.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn wakeup_new(ctx: BtfTracePointContext) -> i32 {
    let tid = field(ctx.arg::<u64>(0), &layout::TASK_PID);
    if let Some(slot) = TASKS.get_ptr_mut(tid % SLOTS) {
        // SAFETY: as in `leave`.
        unsafe { *slot = Slot { tid, state: WAITING, since_ns: now(), set: 0, cgroup: UNKNOWN_U64 } };
    }
    0
}
