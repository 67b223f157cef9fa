//! Who waits until what was written is on the device, and how long? (fs/sync.c, mm/msync.c)
//!
//! `sys_enter` and `sys_exit` are hot: the call's number, and whether this thread waits at all, decide first, and nearly always
//! end it.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str,
    macros::{kprobe, map, raw_tracepoint},
    maps::{Array, LruPerCpuHashMap},
    programs::{ProbeContext, RawTracePointContext},
};
use tracer_common::{
    ABSENT, UNKNOWN_U32,
    sync::{
        BUCKETS, FDATASYNC, FIRST_BOUND_NS, FSYNC, MSYNC, NAME_LEN, SLOW_NS, SYNC, SYNC_FILE_RANGE, SYNCFS,
        SYNCING_PLACES, SyncKey, Syncing, Syncs,
    },
};

use crate::kernel::{
    cgroup,
    emit::now,
    histogram::bucket,
    layout,
    read::{NOWHERE, Ptr, follow, place, u32_at},
    syscall, task,
};

/// Threads that wait, each at a place that its id gives: neither a hash nor an allocation. Of two that share a place, the first
/// one's wait is lost.
#[map]
static SYNCING: Array<Syncing> = Array::with_max_entries(1, 0);

#[map]
static SYNCS: LruPerCpuHashMap<SyncKey, Syncs> = LruPerCpuHashMap::with_max_entries(1, 0);

/// From here and not from the stack, which it would fill.
// SAFETY: plain numbers, for which zeros are a value.
static NOTHING: Syncs = unsafe { core::mem::zeroed() };

/// `raw_syscalls:sys_enter(struct pt_regs *regs, long id)`, where functions cannot be hooked.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn sync_begin(ctx: RawTracePointContext) -> i32 {
    if call_of(ctx.arg::<u64>(1) as u32).is_some() {
        begin(ctx.arg::<u64>(0));
    }
    0
}

/// `long __x64_sys_fsync(const struct pt_regs *regs)` and its like: no other call pays for it.
#[kprobe]
pub fn sync_begin_call(ctx: ProbeContext) -> u32 {
    begin(ctx.arg::<u64>(0).unwrap_or(NOWHERE));
    0
}

#[inline(always)]
fn begin(regs: Ptr) {
    // A 32-bit program's numbers are others: with the bit of compatibility they are none of these.
    if call_of(syscall::at(regs)).is_some() {
        let tid = task::current_tid();
        if let Some(place) = SYNCING.get_ptr_mut(tid % SYNCING_PLACES) {
            // SAFETY: the map's value; two threads that share it may lose one's wait.
            unsafe { *place = Syncing { tid, reserved: 0, at_ns: now() } };
        }
    }
}

/// From `raw_syscalls:sys_exit` (`space.rs`), where none of these calls returns more than 0. A kretprobe has places for some ten
/// that wait at once.
#[inline(always)]
pub fn end(regs: Ptr, returned: i64) {
    let tid = task::current_tid();
    let Some(place) = SYNCING.get_ptr_mut(tid % SYNCING_PLACES) else { return };
    // SAFETY: the map's value, which this thread alone writes while it names it.
    let place = unsafe { &mut *place };
    if place.tid != tid {
        return;
    }
    let took = now().wrapping_sub(place.at_ns);
    place.tid = 0;
    let Some(call) = call_of(syscall::at(regs)) else { return };
    const EBADF: i64 = -9;
    const EINVAL: i64 = -22;
    if returned == EBADF || returned == EINVAL || !waits(call, regs) {
        return;
    }
    count(call, took, regs);
}

#[inline(always)]
fn count(call: u32, took: u64, regs: Ptr) {
    let current = task::current();
    let names_file = call != SYNC && call != MSYNC;
    let dentry = if names_file {
        follow(task::file(current, syscall::argument(regs, 0) as i32), &layout::FILE_DENTRY)
    } else {
        NOWHERE
    };
    let device =
        if names_file { u32_at(place(follow(dentry, &layout::DENTRY_SB), &layout::SB_DEV)) } else { UNKNOWN_U32 };
    let key = SyncKey { cgroup: cgroup::of(current), tgid: task::tgid(current), call, device, reserved: 0 };
    let nothing: &Syncs = &NOTHING;
    let known = SYNCS.get_ptr_mut(key);
    if known.is_none() {
        let _ = SYNCS.insert(key, nothing, 0);
    }
    let Some(syncs) = known.or_else(|| SYNCS.get_ptr_mut(key)) else { return };
    // SAFETY: this CPU's own value.
    let syncs = unsafe { &mut *syncs };
    syncs.count += 1;
    syncs.total_ns += took;
    if took >= SLOW_NS {
        syncs.slow += 1;
        syncs.slow_ns += took;
    }
    let bucket = bucket::<BUCKETS>(took, FIRST_BOUND_NS);
    if bucket < BUCKETS {
        syncs.histogram[bucket] += 1;
    }
    if syncs.count == 1 {
        // SAFETY: a Task, within the map's value.
        unsafe { task::describe(current, &raw mut syncs.who) };
    }
    if took > syncs.worst_ns {
        syncs.worst_ns = took;
        let name = follow(dentry, &layout::DENTRY_NAME);
        // SAFETY: the helper checks the address, and writes at most an array of that size.
        unsafe { bpf_probe_read_kernel_str((&raw mut syncs.name).cast(), NAME_LEN as u32, name as *const _) };
    }
}

/// Both may also only begin to write, and return.
#[inline(always)]
fn waits(call: u32, regs: Ptr) -> bool {
    const MS_SYNC: u64 = 4;
    const WAIT_BEFORE_OR_AFTER: u64 = 1 | 4;
    match call {
        MSYNC => syscall::argument(regs, 2) & MS_SYNC != 0,
        SYNC_FILE_RANGE => syscall::argument(regs, 3) & WAIT_BEFORE_OR_AFTER != 0,
        _ => true,
    }
}

/// arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h.
#[inline(always)]
fn call_of(number: u32) -> Option<u32> {
    let is_x86 = layout::REGS_CS.load() != ABSENT;
    Some(match (is_x86, number) {
        (true, 74) | (false, 82) => FSYNC,
        (true, 75) | (false, 83) => FDATASYNC,
        (true, 162) | (false, 81) => SYNC,
        (true, 306) | (false, 267) => SYNCFS,
        (true, 277) | (false, 84) => SYNC_FILE_RANGE,
        (true, 26) | (false, 227) => MSYNC,
        _ => return None,
    })
}
