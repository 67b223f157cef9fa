//! The one way out: a record into the ring, or a count of what did not fit.
//!
//! One cgroup's flood must not blind the others: as long as the ring is at most half full anybody may write; beyond
//! that each cgroup has an eighth of the ring until user space has drained it again.
//!
//! Waking the reader costs ten times what a record does, so it is done for the first record after a pause, and when the
//! ring fills up; in between the reader looks by itself every few dozen milliseconds.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use tracer_common::{
    Header, Record,
    loss::{Cause, LOSS_KEYS, LossKey, Reader, Spent},
};

use super::{diagnose::diagnose, layout};

/// The size is this run's; the default stands here.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Losses by (cgroup, kind, cause), per CPU. Not an LRU map: a count of losses must not get lost itself.
#[map]
static LOST: PerCpuHashMap<LossKey, u64> = PerCpuHashMap::with_max_entries(LOSS_KEYS, 0);

/// Losses by kind, per CPU, of cgroups that `LOST` has no room for.
#[map]
static LOST_ELSEWHERE: PerCpuArray<u64> = PerCpuArray::with_max_entries(32, 0);

#[map]
static READER: Array<Reader> = Array::with_max_entries(1, 0);

/// What each cgroup wrote since the last drain, while the ring was more than half full.
#[map]
static SPENT: LruHashMap<u64, Spent> = LruHashMap::with_max_entries(4096, 0);

#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: takes no argument and cannot fail.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Sends a record of type `T` about `cgroup`. `fill` must write every field but the header.
#[inline(always)]
pub fn emit<T: Record + 'static>(cgroup: u64, fill: impl FnOnce(*mut T)) {
    send(cgroup, fill, wakeup);
}

/// The same for what must be read at once: a container's files may be gone in 10 ms.
#[inline(always)]
pub fn emit_at_once<T: Record + 'static>(cgroup: u64, fill: impl FnOnce(*mut T)) {
    send(cgroup, fill, || u64::from(BPF_RB_FORCE_WAKEUP));
}

#[inline(always)]
fn send<T: Record + 'static>(cgroup: u64, fill: impl FnOnce(*mut T), wakeup: impl FnOnce() -> u64) {
    let size = size_of::<T>() as u64;
    if !within_budget(cgroup, size) {
        return lost::<T>(cgroup, Cause::Budget);
    }
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        return lost::<T>(cgroup, Cause::Full);
    };
    let record = entry.as_mut_ptr();
    // SAFETY: a reserved record is at least as large as `T`, 8-byte aligned, and starts with a Header, as every Record does.
    unsafe {
        *record.cast::<Header>() = Header { kind: T::KIND as u32, size: size as u32, time_ns: now(), cgroup };
    }
    fill(record);
    entry.submit(wakeup());
}

/// Asked for anew where it is needed: a number kept over the filling of a record doubles the verifier's states.
#[inline(always)]
fn used() -> u64 {
    EVENTS.query(u64::from(BPF_RB_AVAIL_DATA))
}

#[inline(always)]
fn wakeup() -> u64 {
    let Some(reader) = READER.get_ptr_mut(0) else { return 0 };
    // SAFETY: the map's value; where CPUs or user space race for it, the reader is woken once too often, or looks by
    // itself a moment later.
    let reader = unsafe { &mut *reader };
    if reader.asleep != 0 {
        reader.asleep = 0;
        return u64::from(BPF_RB_FORCE_WAKEUP);
    }
    if used() > u64::from(layout::RING_BYTES.load()) / 4 && reader.pressed != reader.epoch {
        reader.pressed = reader.epoch;
        return u64::from(BPF_RB_FORCE_WAKEUP);
    }
    u64::from(BPF_RB_NO_WAKEUP)
}

#[inline(always)]
fn within_budget(cgroup: u64, size: u64) -> bool {
    let ring = u64::from(layout::RING_BYTES.load());
    if used() <= ring / 2 {
        return true;
    }
    let epoch = READER.get(0).map_or(0, |reader| reader.epoch);
    if let Some(spent) = SPENT.get_ptr_mut(cgroup) {
        // SAFETY: the map's value; two CPUs may race for it, which costs at most one record of precision.
        let spent = unsafe { &mut *spent };
        if spent.epoch != epoch {
            *spent = Spent { epoch, bytes: 0 };
        }
        spent.bytes += size;
        return spent.bytes <= ring / 8;
    }
    let _ = SPENT.insert(cgroup, Spent { epoch, bytes: size }, 0);
    true
}

#[inline(never)]
fn lost_of(cgroup: u64, kind: u32, cause: u32) {
    diagnose!((), "lost a record of kind {} of cgroup {}: cause {}", kind, cgroup, cause);
    let key = LossKey { cgroup, kind, cause };
    if let Some(count) = LOST.get_ptr_mut(key) {
        // SAFETY: this CPU's own slot, and a BPF program is not preempted by another use of it.
        unsafe { *count += 1 };
    } else if LOST.insert(key, 1, 0).is_err()
        && let Some(count) = LOST_ELSEWHERE.get_ptr_mut(kind)
    {
        // SAFETY: as above.
        unsafe { *count += 1 };
    }
}

#[inline(always)]
fn lost<T: Record>(cgroup: u64, cause: Cause) {
    lost_of(cgroup, T::KIND as u32, cause as u32);
}
