//! Who needs which capability? (security/commoncap.c)
//!
//! A check is asked tens of thousands of times a second: it is counted by its kind, and only the first of a kind is a
//! record. Whether a process is the container's own or its runtime is followed from fork to exec.

use aya_ebpf::EbpfContext;
use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_get_stack},
    macros::{fexit, kprobe, kretprobe, map, raw_tracepoint},
    maps::{HashMap, LruHashMap, PerCpuHashMap},
    programs::{FExitContext, ProbeContext, RawTracePointContext, RetProbeContext},
};
use tracer_common::{
    ABSENT,
    caps::{
        Call, Check, CheckKey, Count, FRAMES, Origin, Outcome, OutcomeKey, Process, Relation, Start, WANT_NEW, Watched,
        how,
    },
};

use crate::kernel::{
    cgroup,
    emit::emit,
    layout,
    read::{Ptr, follow, place, u32_at, u64_at},
    syscall, task,
};

/// Cgroups whose checks are wanted. User space fills it; `WANT_NEW` adds those that are made.
#[map]
static CAP_WATCHED: HashMap<u64, Watched> = HashMap::with_max_entries(1, 0);

#[map]
static CAP_PROCESSES: LruHashMap<u32, Process> = LruHashMap::with_max_entries(1, 0);

#[map]
static CAP_CHECKS: PerCpuHashMap<CheckKey, Count> = PerCpuHashMap::with_max_entries(1, 0);

#[map]
static CAP_OUTCOMES: PerCpuHashMap<OutcomeKey, Count> = PerCpuHashMap::with_max_entries(1, 0);

#[map]
static CAP_CALLS: LruHashMap<u32, Call> = LruHashMap::with_max_entries(1, 0);

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
    let _ = CAP_ASKED.insert(thread(), Asked { cred, namespace, capability, options }, 0);
    0
}

/// … and what it returned.
#[kretprobe]
pub fn cap_checked_return(ctx: RetProbeContext) -> u32 {
    let thread = thread();
    // SAFETY: copied out at once.
    let Some(asked) = (unsafe { CAP_ASKED.get(thread) }).copied() else { return 0 };
    let _ = CAP_ASKED.remove(thread);
    checked(&ctx, &asked, (asked.options & OPTIONS) as u8, ctx.ret::<i32>());
    0
}

#[inline(always)]
fn thread() -> u32 {
    // SAFETY: takes no argument and cannot fail.
    unsafe { bpf_get_current_pid_tgid() as u32 }
}

#[inline(always)]
fn process() -> u32 {
    // SAFETY: as above.
    unsafe { (bpf_get_current_pid_tgid() >> 32) as u32 }
}

#[inline(always)]
fn checked<C: EbpfContext>(ctx: &C, asked: &Asked, options: u8, result: i32) {
    let current = task::current();
    let cgroup = cgroup::of(current);
    let Some(watched) = CAP_WATCHED.get_ptr(cgroup) else { return };
    // SAFETY: the map's value; fields are read one by one, and none is trusted.
    let watched = unsafe { &*watched };
    let own = identified(current, watched);
    let denied = result != 0;
    let capability = asked.capability as u8;
    let borrowed = asked.cred != follow(current, &layout::TASK_REAL_CRED);
    let key = CheckKey {
        cgroup,
        image: own.image,
        syscall: syscall::number(current),
        capability,
        origin: own.origin as u8,
        relation: relation(asked, watched) as u8,
        how: options | if denied { how::DENIED } else { 0 } | if borrowed { how::BORROWED } else { 0 },
    };
    if !borrowed {
        note(1 << (capability & 63), denied);
    }
    if let Some(count) = CAP_CHECKS.get_ptr_mut(key) {
        // SAFETY: this CPU's own slot, and a BPF program is not preempted by another use of it.
        unsafe { (*count).count += 1 };
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
    let thread = thread();
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
    }
}

/// The namespace that was asked about, against the container's.
#[inline(always)]
fn relation(asked: &Asked, watched: &Watched) -> Relation {
    let inum = u32_at(place(asked.namespace, &layout::USERNS_INUM));
    let (own, own_level) = if watched.userns == 0 {
        let credentials = follow(asked.cred, &layout::CRED_USER_NS);
        (u32_at(place(credentials, &layout::USERNS_INUM)), u32_at(place(credentials, &layout::USERNS_LEVEL)))
    } else {
        (watched.userns, watched.userns_level)
    };
    if inum == own {
        Relation::Own
    } else if u32_at(place(asked.namespace, &layout::USERNS_LEVEL)) <= own_level {
        Relation::Outer
    } else {
        Relation::Inner
    }
}

/// What the current process is to its container. One that nobody saw fork came from outside: before the watch began it
/// was the container's own already, later it is the runtime's.
#[inline(always)]
fn identified(current: Ptr, watched: &Watched) -> Process {
    let pid = process();
    // SAFETY: copied out at once.
    if let Some(known) = unsafe { CAP_PROCESSES.get(pid) } {
        return *known;
    }
    let leader = follow(current, &layout::TASK_GROUP_LEADER);
    let old = u64_at(place(leader, &layout::TASK_START_BOOTTIME)) < watched.since_ns;
    let origin = if old { Origin::Application } else { Origin::Runtime };
    let process = Process { image: image(current), origin: origin as u32, reserved: 0 };
    let _ = CAP_PROCESSES.insert(pid, process, 0);
    process
}

/// The inode number of the program's file.
#[inline(always)]
fn image(task: Ptr) -> u64 {
    let file = follow(follow(task, &layout::TASK_MM), &layout::MM_EXE_FILE);
    u64_at(place(follow(file, &layout::FILE_INODE), &layout::INODE_INO))
}

/// `sched:sched_process_fork(struct task_struct *parent, struct task_struct *child)`: a child is what its parent is.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn cap_fork(ctx: RawTracePointContext) -> i32 {
    let child = task::argument(&ctx, 1);
    let tgid = task::tgid(child);
    if tgid != task::tid(child) {
        return 0; // a thread
    }
    let cgroup = cgroup::of(child);
    let Some(watched) = CAP_WATCHED.get_ptr(cgroup) else { return 0 };
    let parent = task::argument(&ctx, 0);
    if cgroup::of(parent) != cgroup {
        return 0; // CLONE_INTO_CGROUP: it came from outside
    }
    // SAFETY: as in `checked`.
    let own = identified(parent, unsafe { &*watched });
    let _ = CAP_PROCESSES.insert(tgid, own, 0);
    0
}

/// `sched:sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`: the first program of a
/// container's PID 1 is its own; one that another process from outside starts later came by `exec`. As long as a
/// process is still in its parent's mount namespace it is the runtime, starting itself again, or a hook of it.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn cap_exec(ctx: RawTracePointContext) -> i32 {
    let current = task::argument(&ctx, 0);
    let cgroup = cgroup::of(current);
    let Some(watched) = CAP_WATCHED.get_ptr_mut(cgroup) else { return 0 };
    // SAFETY: the map's value; two CPUs that race for it agree on what they write.
    let watched = unsafe { &mut *watched };
    let before = identified(current, watched);
    let mut origin = before.origin;
    if origin == Origin::Runtime as u32 {
        let pid = follow(follow(current, &layout::TASK_GROUP_LEADER), &layout::TASK_THREAD_PID);
        let init = task::number(pid) == 1 && u32_at(place(pid, &layout::PID_LEVEL)) > 0;
        let parent = follow(follow(current, &layout::TASK_GROUP_LEADER), &layout::TASK_REAL_PARENT);
        let inside = mounts(current) != mounts(parent);
        // "systemd-executor" sets a unit up and execs its program.
        let comm = place(current, &layout::TASK_COMM);
        let executor = u64_at(comm) == u64::from_le_bytes(*b"systemd-")
            && u32_at(comm.wrapping_add(8)) == u32::from_le_bytes(*b"exec");
        if init || inside || (watched.plain == 1 && !executor) {
            origin = if watched.started == 0 || init { Origin::Application } else { Origin::Exec } as u32;
        }
    }
    let own = Process { image: image(current), origin, reserved: 0 };
    let _ = CAP_PROCESSES.insert(task::tgid(current), own, 0);
    if watched.started == 0 && origin == Origin::Application as u32 {
        let namespace = follow(follow(current, &layout::TASK_REAL_CRED), &layout::CRED_USER_NS);
        watched.userns = u32_at(place(namespace, &layout::USERNS_INUM));
        watched.userns_level = u32_at(place(namespace, &layout::USERNS_LEVEL));
        watched.started = 1;
        emit::<Start>(cgroup, |record| {
            // SAFETY: a reserved record of this type.
            unsafe { task::describe(current, &raw mut (*record).task) };
        });
    }
    0
}

/// The mount namespace of a task.
#[inline(always)]
fn mounts(task: Ptr) -> Ptr {
    follow(follow(task, &layout::TASK_NSPROXY), &layout::NSPROXY_MNT)
}

/// `raw_syscalls:sys_exit(struct pt_regs *regs, long ret)`: what came of a call that was refused a capability, and the
/// EPERM of which no capability is the reason.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn cap_outcome(ctx: RawTracePointContext) -> i32 {
    let result = ctx.arg::<i64>(1);
    let thread = thread();
    // SAFETY: copied out at once.
    let call = unsafe { CAP_CALLS.get(thread) }.copied();
    let (denied, granted) = match call {
        Some(call) => {
            let _ = CAP_CALLS.remove(thread);
            (call.denied, call.granted)
        }
        None if result == i64::from(EPERM) => (0, 0),
        None => return 0,
    };
    let current = task::current();
    let cgroup = cgroup::of(current);
    let Some(watched) = CAP_WATCHED.get_ptr(cgroup) else { return 0 };
    // SAFETY: as in `checked`.
    let own = identified(current, unsafe { &*watched });
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

/// A process ended: its id may be another's soon.
#[inline(always)]
pub fn left(current: Ptr) {
    if wanted() {
        let _ = CAP_PROCESSES.remove(task::tgid(current));
    }
}

/// A cgroup was made: one below a watched one is that one's.
#[inline(always)]
pub fn made(cgroup: u64, parent: u64) {
    if !wanted() {
        return;
    }
    // SAFETY: copied out at once.
    let watched = match unsafe { CAP_WATCHED.get(parent) }.copied() {
        Some(watched) => watched,
        None if layout::WANT_CAPS.load() & WANT_NEW != 0 => {
            // Whoever enters it was somewhere else before: a runtime, mostly.
            Watched { since_ns: 0, userns: 0, userns_level: 0, started: 0, plain: 0 }
        }
        None => return,
    };
    let _ = CAP_WATCHED.insert(cgroup, watched, 0);
}

/// … and removed.
#[inline(always)]
pub fn gone(cgroup: u64) {
    if wanted() {
        let _ = CAP_WATCHED.remove(cgroup);
    }
}

#[inline(always)]
fn wanted() -> bool {
    !matches!(layout::WANT_CAPS.load(), 0 | ABSENT)
}
