//! Whose is a process: the container's, its runtime's, or of what came by `docker exec`? Followed from fork to exec, for the
//! cgroups of which capability checks are wanted (kernel/fork.c, fs/exec.c, kernel/cgroup/cgroup.c).

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str,
    macros::{map, raw_tracepoint},
    maps::{Array, HashMap, LruHashMap},
    programs::RawTracePointContext,
};
use tracer_common::{
    ABSENT,
    caps::{Origin, Process, Start, WANT_NEW, Watched},
};

use crate::kernel::{
    cgroup,
    emit::{emit, now},
    layout,
    read::{Ptr, follow, place, u32_at, u64_at},
    task,
};

/// Cgroups whose checks are wanted. User space fills it; `WANT_NEW` adds those that are made.
#[map]
pub static CAP_WATCHED: HashMap<u64, Watched> = HashMap::with_max_entries(1, 0);

#[map]
static CAP_PROCESSES: LruHashMap<u32, Process> = LruHashMap::with_max_entries(1, 0);

/// When something changed last of what was known of a process (boot time, ns): what was concluded from it before holds no
/// longer.
#[map]
pub static CAP_CHANGED: Array<u64> = Array::with_max_entries(1, 0);

/// To be called after the change.
#[inline(always)]
pub fn changed() {
    if let Some(changed) = CAP_CHANGED.get_ptr_mut(0) {
        // SAFETY: the map's value. Of two CPUs that race for it, either's time is another one than before.
        unsafe { *changed = now() };
    }
}

/// What the current process is to its container; `None` where nobody watches it. Read once, and kept until it execs,
/// moves or ends.
#[inline(always)]
pub fn identified(task: Ptr, pid: u32) -> Option<*mut Process> {
    if let Some(known) = CAP_PROCESSES.get_ptr_mut(pid) {
        // SAFETY: the map's value.
        if unsafe { (*known).cgroup } != 0 {
            return Some(known);
        }
    }
    let cgroup = cgroup::of_current(task);
    // SAFETY: the map's value; user space writes it whole.
    let watched = unsafe { &*CAP_WATCHED.get_ptr(cgroup)? };
    meet(task, pid, cgroup, watched);
    CAP_PROCESSES.get_ptr_mut(pid)
}

/// One that nobody saw fork: before the watch began it was the container's own already, unless user space knows better.
/// Later it came from outside, and is the runtime's; or the map had no room to keep it, or its fork was missed: then its
/// parent tells.
#[inline(always)]
fn meet(task: Ptr, pid: u32, cgroup: u64, watched: &Watched) {
    let leader = follow(task, &layout::TASK_GROUP_LEADER);
    let old = u64_at(place(leader, &layout::TASK_START_BOOTTIME)) < watched.since_ns;
    let mut origin = if old { Origin::Application } else { Origin::Runtime } as u32;
    if let Some(known) = CAP_PROCESSES.get_ptr(pid) {
        // SAFETY: the map's value.
        origin = unsafe { (*known).origin };
    } else if !old && watched.started != 0 {
        let parent = follow(leader, &layout::TASK_REAL_PARENT);
        if is_init(leader) {
            origin = Origin::Application as u32;
        } else if cgroup::of(parent) == cgroup {
            // SAFETY: the map's value.
            let known = CAP_PROCESSES.get_ptr(task::tgid(parent)).map(|known| unsafe { (*known).origin });
            origin = known.unwrap_or(Origin::Application as u32);
        }
    }
    let _ = CAP_PROCESSES.insert(pid, described(task, cgroup, origin, watched.userns), 0);
}

/// PID 1 of a pid namespace below the host's.
#[inline(always)]
fn is_init(leader: Ptr) -> bool {
    let numbers = follow(leader, &layout::TASK_THREAD_PID);
    task::number(numbers) == 1 && u32_at(place(numbers, &layout::PID_LEVEL)) > 0
}

#[inline(always)]
fn described(task: Ptr, cgroup: u64, origin: u32, userns: u32) -> Process {
    let namespace = follow(follow(task, &layout::TASK_REAL_CRED), &layout::CRED_USER_NS);
    let own = userns == 0 || u32_at(place(namespace, &layout::USERNS_INUM)) == userns;
    Process { cgroup, image: image(task), namespace: if own { namespace } else { 0 }, origin, refused: 0 }
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
    let parent = task::argument(&ctx, 0);
    let Some(own) = identified(parent, task::tgid(parent)) else { return 0 };
    // SAFETY: the map's value, copied out at once.
    let own = unsafe { *own };
    if cgroup::of(child) == own.cgroup {
        // Else CLONE_INTO_CGROUP: it comes from outside.
        let _ = CAP_PROCESSES.insert(tgid, Process { refused: 0, ..own }, 0);
    }
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
    let pid = task::tgid(current);
    let Some(before) = identified(current, pid) else { return 0 };
    // SAFETY: the map's value.
    let mut origin = unsafe { (*before).origin };
    if origin == Origin::Runtime as u32 {
        let leader = follow(current, &layout::TASK_GROUP_LEADER);
        let init = is_init(leader);
        let parent = follow(leader, &layout::TASK_REAL_PARENT);
        let inside = mounts(current) != mounts(parent);
        // "systemd-executor" sets a unit up and execs its program.
        let comm = place(current, &layout::TASK_COMM);
        let executor = u64_at(comm) == u64::from_le_bytes(*b"systemd-")
            && u32_at(comm.wrapping_add(8)) == u32::from_le_bytes(*b"exec");
        if init || inside || (watched.plain == 1 && !executor) {
            origin = if watched.started == 0 || init { Origin::Application } else { Origin::Exec } as u32;
        }
    }
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
    let _ = CAP_PROCESSES.insert(pid, described(current, cgroup, origin, watched.userns), 0);
    changed();
    0
}

/// `cgroup:cgroup_attach_task(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup)`,
/// after the move: once for each hierarchy.
#[raw_tracepoint(tracepoint = "cgroup_attach_task")]
pub fn cap_move(ctx: RawTracePointContext) -> i32 {
    let moved = task::argument(&ctx, 2);
    let pid = task::tgid(moved);
    let Some(known) = CAP_PROCESSES.get_ptr_mut(pid) else { return 0 };
    let cgroup = cgroup::of(moved);
    if CAP_WATCHED.get_ptr(cgroup).is_some() {
        // SAFETY: the map's value.
        unsafe { (*known).cgroup = cgroup };
    } else {
        let _ = CAP_PROCESSES.remove(pid);
    }
    changed();
    0
}

/// The mount namespace of a task.
#[inline(always)]
fn mounts(task: Ptr) -> Ptr {
    follow(follow(task, &layout::TASK_NSPROXY), &layout::NSPROXY_MNT)
}

/// A process ended: its id may be another's soon.
#[inline(always)]
pub fn left(current: Ptr) {
    if wanted() && CAP_PROCESSES.remove(task::tgid(current)).is_ok() {
        changed();
    }
}

/// A cgroup was made, of this name: one below a watched one is that one's.
#[inline(always)]
pub fn made(cgroup: u64, parent: u64, name: Ptr) {
    if !wanted() {
        return;
    }
    // SAFETY: copied out at once.
    let watched = match unsafe { CAP_WATCHED.get(parent) }.copied() {
        Some(watched) => watched,
        None if layout::WANT_CAPS.load() & WANT_NEW != 0 => {
            // Whoever enters it was somewhere else before: a runtime, mostly.
            Watched { since_ns: 0, userns: 0, userns_level: 0, started: 0, plain: u32::from(is_unit(name)) }
        }
        None => return,
    };
    let _ = CAP_WATCHED.insert(cgroup, watched, 0);
}

/// Is a cgroup of this name a systemd service's?
#[inline(always)]
fn is_unit(name: Ptr) -> bool {
    let mut text = [0_u8; 128];
    // SAFETY: within the buffer; the helper checks the source itself.
    let len = unsafe { bpf_probe_read_kernel_str(text.as_mut_ptr().cast(), text.len() as u32, name as *const _) };
    // With its NUL. What is longer than the buffer does not end there.
    u64_at(name.wrapping_add(len as u64).wrapping_sub(9)) == u64::from_le_bytes(*b".service") && len > 9
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
