//! Who needs which capability? (security/commoncap.c)
//!
//! A check is asked tens of thousands of times a second: it is counted by its kind, and only the first of a kind is a
//! record.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_get_stack},
    macros::{fexit, kprobe, kretprobe, map, raw_tracepoint},
    maps::{Array, LruHashMap, PerCpuArray, PerCpuHashMap},
    programs::{FExitContext, ProbeContext, RawTracePointContext, RetProbeContext},
};
use tracer_common::{
    UNKNOWN_U64,
    caps::{
        BUSY_NS, BUSY_RETURNS, Busy, Call, Check, CheckKey, Count, FRAMES, Last, NO_SYSCALL, Outcome, OutcomeKey, Pace,
        Relation, how,
    },
};

use crate::{
    kernel::{
        cgroup,
        emit::{emit, emit_at_once, now},
        layout,
        read::{follow, place, u32_at},
        syscall::{self, Caller},
        task,
    },
    origin::{CAP_CHANGED, CAP_WATCHED, changed, identified},
};

#[map]
static CAP_CHECKS: PerCpuHashMap<CheckKey, Count> = PerCpuHashMap::with_max_entries(1, 0);

#[map]
static CAP_LAST: PerCpuArray<Last> = PerCpuArray::with_max_entries(1, 0);

#[map]
static CAP_OUTCOMES: PerCpuHashMap<OutcomeKey, Count> = PerCpuHashMap::with_max_entries(1, 0);

#[map]
static CAP_CALLS: LruHashMap<u32, Call> = LruHashMap::with_max_entries(1, 0);

/// 1: anything was refused at all. Until then no return of a call need be looked up.
#[map]
static CAP_REFUSED: Array<u32> = Array::with_max_entries(1, 0);

/// 1: the returns of calls are looked at. What is refused while they are not is no matter of the call that returns first
/// afterwards.
#[map]
static CAP_RETURNS: Array<u32> = Array::with_max_entries(1, 0);

#[map]
static CAP_PACE: PerCpuArray<Pace> = PerCpuArray::with_max_entries(1, 0);

/// Checks that found no room in `CAP_CHECKS`, by cgroup.
#[map]
static CAP_UNCOUNTED: PerCpuHashMap<u64, Count> = PerCpuHashMap::with_max_entries(1, 0);

/// What a kprobe has seen of the arguments, for the kretprobe: by thread. Checks don't nest.
#[map]
static CAP_ASKED: LruHashMap<u32, Asked> = LruHashMap::with_max_entries(1, 0);

#[derive(Clone, Copy)]
#[repr(C)]
struct Asked {
    cred: u64,
    namespace: u64,
    capability: u32,
    options: u32,
}

const EPERM: i32 = -1;
/// `CAP_OPT_NOAUDIT`, `CAP_OPT_INSETID` (include/linux/security.h), as bits of `how`.
const OPTIONS: u32 = (how::QUIET | how::SETID) as u32;

/// `int cap_capable(const struct cred *cred, struct user_namespace *target_ns, int cap, unsigned int opts)`: what is
/// returned stands behind the arguments.
#[fexit(function = "cap_capable")]
pub fn cap_checked_fexit(ctx: FExitContext) -> i32 {
    let asked = Asked {
        cred: ctx.arg::<u64>(0),
        namespace: ctx.arg::<u64>(1),
        capability: ctx.arg::<u64>(2) as u32,
        options: ctx.arg::<u64>(3) as u32,
    };
    checked(&ctx, &asked, (asked.options & OPTIONS) as u8, ctx.arg::<u64>(4) as i32);
    0
}

/// `capability:cap_capable(const struct cred *cred, struct user_namespace *target_ns, const struct user_namespace
/// *capable_ns, int cap, int ret)`, since 6.14.
#[raw_tracepoint(tracepoint = "cap_capable")]
pub fn cap_checked(ctx: RawTracePointContext) -> i32 {
    let asked =
        Asked { cred: ctx.arg::<u64>(0), namespace: ctx.arg::<u64>(1), capability: ctx.arg::<u32>(3), options: 0 };
    checked(&ctx, &asked, how::OPTIONS_UNKNOWN, ctx.arg::<i32>(4));
    0
}

/// The arguments of `cap_capable`, for where only kprobes are.
#[kprobe]
pub fn cap_checked_return_entry(ctx: ProbeContext) -> u32 {
    // Only of cgroups that are watched: the map is small.
    if CAP_WATCHED.get_ptr(cgroup::of(task::current())).is_none() {
        return 0;
    }
    let (Some(cred), Some(namespace)) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1)) else { return 0 };
    let (Some(capability), Some(options)) = (ctx.arg::<u32>(2), ctx.arg::<u32>(3)) else { return 0 };
    let _ = CAP_ASKED.insert(task::current_tid(), Asked { cred, namespace, capability, options }, 0);
    0
}

/// … and what it returned.
#[kretprobe]
pub fn cap_checked_return(ctx: RetProbeContext) -> u32 {
    let thread = task::current_tid();
    // SAFETY: copied out at once.
    let Some(asked) = (unsafe { CAP_ASKED.get(thread) }).copied() else { return 0 };
    let _ = CAP_ASKED.remove(thread);
    checked(&ctx, &asked, (asked.options & OPTIONS) as u8, ctx.ret::<i32>());
    0
}

/// Process and thread id.
#[inline(always)]
fn current_thread() -> u64 {
    // SAFETY: takes no argument and cannot fail.
    unsafe { bpf_get_current_pid_tgid() }
}

#[inline(always)]
fn checked<C: EbpfContext>(ctx: &C, asked: &Asked, options: u8, result: i32) {
    let Caller { thread, cred, number: syscall } = syscall::caller();
    let Some(last) = CAP_LAST.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own slot, and a BPF program is not preempted by another use of it.
    let last = unsafe { &mut *last };
    let changed_ns = CAP_CHANGED.get(0).copied().unwrap_or_default();
    let same_question = last.thread == thread
        && last.cred == asked.cred
        && last.namespace == asked.namespace
        && u32::from(last.key.capability) == asked.capability
        && last.key.how == options
        && last.changed_ns == changed_ns;
    if same_question && result == 0 && last.key.syscall == syscall && asked.cred == cred {
        last.count += 1;
        return;
    }
    let current = task::current();
    let Some(own) = identified(current, (thread >> 32) as u32) else { return };
    // SAFETY: the map's value; fields are read one by one, and none is trusted.
    let own = unsafe { &mut *own };
    let cgroup = own.cgroup;
    let denied = result != 0;
    let capability = asked.capability as u8;
    let borrowed = asked.cred != cred;
    let key = CheckKey {
        cgroup,
        image: own.image,
        syscall,
        capability,
        origin: own.origin as u8,
        relation: if asked.namespace == own.namespace { Relation::Own } else { relation(asked, cgroup) } as u8,
        how: options | if denied { how::DENIED } else { 0 } | if borrowed { how::BORROWED } else { 0 },
    };
    // What an exception asks (a stack that grows) is not the next call's.
    if !borrowed && syscall != NO_SYSCALL && (denied || own.refused != 0) {
        if own.refused == 0 {
            own.refused = 1;
            changed();
        }
        note(1 << (capability & 63), denied);
    }
    if let Some(count) = CAP_CHECKS.get_ptr_mut(key) {
        // SAFETY: this CPU's own slot.
        unsafe { (*count).count += 1 };
        // What is noted for each call, and what was asked of another's credentials, goes the whole way each time.
        if key.how == options && own.refused == 0 {
            counted(last);
            *last = Last { key, thread, cred: asked.cred, namespace: asked.namespace, changed_ns, count: 0 };
        }
        return;
    }
    if CAP_CHECKS.insert(key, Count { count: 1 }, u64::from(BPF_NOEXIST)).is_err() {
        // Another CPU was faster, or the map is full.
        if let Some(count) = CAP_CHECKS.get_ptr_mut(key) {
            // SAFETY: as above.
            unsafe { (*count).count += 1 };
        } else {
            uncounted(cgroup);
        }
        return;
    }
    emit::<Check>(cgroup, |record| {
        // SAFETY: a reserved record of this type; the helper writes within the stack's size, and what it leaves is zero.
        unsafe {
            task::describe(current, &raw mut (*record).task);
            (*record).key = key;
            (&raw mut (*record).stack).write([0; FRAMES]);
            bpf_get_stack(ctx.as_ptr(), (&raw mut (*record).stack).cast(), (FRAMES * 8) as u32, 0);
        }
    });
}

/// Adds what waits there to what was counted of its kind.
#[inline(always)]
fn counted(last: &Last) {
    if last.count != 0
        && let Some(count) = CAP_CHECKS.get_ptr_mut(last.key)
    {
        // SAFETY: this CPU's own slot.
        unsafe { (*count).count += last.count };
    }
}

#[inline(always)]
fn uncounted(cgroup: u64) {
    if let Some(count) = CAP_UNCOUNTED.get_ptr_mut(cgroup) {
        // SAFETY: this CPU's own slot.
        unsafe { (*count).count += 1 };
    } else {
        let _ = CAP_UNCOUNTED.insert(cgroup, Count { count: 1 }, 0);
    }
}

/// Keeps what was refused until the call returns, and what was granted since.
#[inline(always)]
fn note(bit: u64, denied: bool) {
    if CAP_RETURNS.get(0).is_none_or(|seen| *seen == 0) {
        return;
    }
    let thread = task::current_tid();
    if let Some(call) = CAP_CALLS.get_ptr_mut(thread) {
        // SAFETY: the thread's own.
        let call = unsafe { &mut *call };
        if denied {
            call.denied |= bit;
        } else {
            call.granted |= bit;
        }
    } else if denied {
        let _ = CAP_CALLS.insert(thread, Call { denied: bit, granted: 0 }, 0);
        if let Some(refused) = CAP_REFUSED.get_ptr_mut(0) {
            // SAFETY: the map's value; all write the same.
            unsafe { *refused = 1 };
        }
    }
}

/// The namespace that was asked about, against the container's, where it is not that of the process.
#[inline(always)]
fn relation(asked: &Asked, cgroup: u64) -> Relation {
    let inum = u32_at(place(asked.namespace, &layout::USERNS_INUM));
    // SAFETY: copied out at once.
    let watched = unsafe { CAP_WATCHED.get(cgroup) }.copied();
    let (own, own_level) = match watched {
        Some(watched) if watched.userns != 0 => (watched.userns, watched.userns_level),
        _ => {
            let credentials = follow(asked.cred, &layout::CRED_USER_NS);
            (u32_at(place(credentials, &layout::USERNS_INUM)), u32_at(place(credentials, &layout::USERNS_LEVEL)))
        }
    };
    if inum == own {
        Relation::Own
    } else if u32_at(place(asked.namespace, &layout::USERNS_LEVEL)) <= own_level {
        Relation::Outer
    } else {
        Relation::Inner
    }
}

/// `raw_syscalls:sys_exit(struct pt_regs *regs, long ret)`: what came of a call that was refused a capability, and the
/// EPERM of which no capability is the reason.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn cap_outcome(ctx: RawTracePointContext) -> i32 {
    let result = ctx.arg::<i64>(1);
    keep_pace();
    // This is every return of every call of the machine: hardly any goes on from here.
    if result != i64::from(EPERM) && CAP_REFUSED.get(0).is_none_or(|refused| *refused == 0) {
        return 0;
    }
    let thread = task::current_tid();
    let (mut denied, mut granted) = (0, 0);
    if let Some(call) = CAP_CALLS.get_ptr(thread) {
        // SAFETY: the thread's own.
        (denied, granted) = unsafe { ((*call).denied, (*call).granted) };
        let _ = CAP_CALLS.remove(thread);
    } else if result != i64::from(EPERM) {
        return 0;
    }
    let current = task::current();
    let Some(own) = identified(current, (current_thread() >> 32) as u32) else { return 0 };
    // SAFETY: the map's value.
    let own = unsafe { &*own };
    let cgroup = own.cgroup;
    let key = OutcomeKey {
        cgroup,
        image: own.image,
        denied,
        granted,
        syscall: syscall::at(ctx.arg::<u64>(0)),
        result: if (-4095..0).contains(&result) { result as i32 } else { 0 },
        origin: own.origin,
        reserved: 0,
    };
    if let Some(count) = CAP_OUTCOMES.get_ptr_mut(key) {
        // SAFETY: this CPU's own slot.
        unsafe { (*count).count += 1 };
        return 0;
    }
    if CAP_OUTCOMES.insert(key, Count { count: 1 }, u64::from(BPF_NOEXIST)).is_err() {
        if let Some(count) = CAP_OUTCOMES.get_ptr_mut(key) {
            // SAFETY: as above.
            unsafe { (*count).count += 1 };
        } else {
            uncounted(cgroup);
        }
        return 0;
    }
    emit::<Outcome>(cgroup, |record| {
        // SAFETY: a reserved record of this type.
        unsafe {
            task::describe(current, &raw mut (*record).task);
            (*record).key = key;
        }
    });
    0
}

/// Says when calls return so fast that to look at each of them is too dear: user space gives the CPU a rest.
#[inline(always)]
fn keep_pace() {
    let Some(pace) = CAP_PACE.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own value; whoever is moved to another one in between costs it a count.
    let pace = unsafe { &mut *pace };
    pace.returns += 1;
    if pace.returns.is_multiple_of(BUSY_RETURNS) {
        let now = now();
        let took_ns = now.wrapping_sub(pace.since_ns);
        pace.since_ns = now;
        if took_ns < BUSY_NS {
            emit_at_once::<Busy>(UNKNOWN_U64, |record| {
                // SAFETY: a reserved record of this type.
                unsafe {
                    (*record).returns = BUSY_RETURNS;
                    (*record).took_ns = took_ns;
                }
            });
        }
    }
}
