//! Who is paused in write(), and by which limit? (mm/page-writeback.c)

use aya_ebpf::{
    helpers::generated::{bpf_jiffies64, bpf_probe_read_kernel},
    macros::{map, raw_tracepoint},
    maps::LruPerCpuHashMap,
    programs::RawTracePointContext,
};
use tracer_common::{
    ABSENT, UNKNOWN_U32,
    dirty::{BUCKETS, FIRST_BOUND_NS, PauseKey, Pauses},
};

use crate::kernel::{
    cgroup,
    emit::now,
    histogram::bucket,
    layout,
    read::{Ptr, follow, place, u64_at},
    task,
};

/// From here and not from the stack, which it would fill.
// SAFETY: plain numbers, for which zeros are a value.
static NOTHING: Pauses = unsafe { core::mem::zeroed() };

#[map]
static PAUSES: LruPerCpuHashMap<PauseKey, Pauses> = LruPerCpuHashMap::with_max_entries(1, 0);

/// `writeback:balance_dirty_pages`, in the writer's context, before it sleeps: (wb, thresh, bg_thresh, dirty, bdi_thresh,
/// bdi_dirty, dirty_ratelimit, task_ratelimit, dirtied, period, pause, start_time); since 6.17 or so (wb, dtc,
/// dirty_ratelimit, task_ratelimit, dirtied, period, pause, start_time). It fires also where nobody sleeps.
#[raw_tracepoint(tracepoint = "balance_dirty_pages")]
pub fn dirty_pause(ctx: RawTracePointContext) -> i32 {
    let control = layout::PAUSE_HAS_CONTROL.load() == 1;
    let pause = task::argument_at(&ctx, if control { 6 } else { 10 }) as i64;
    if pause <= 0 {
        return 0;
    }
    let tick = u64::from(layout::TICK_NS.load());
    let took = pause as u64 * tick;
    let start = task::argument_at(&ctx, if control { 7 } else { 11 });
    // SAFETY: takes no argument and cannot fail.
    let before = unsafe { bpf_jiffies64() }.wrapping_sub(start) * tick;
    let current = task::current();
    let key = PauseKey { cgroup: cgroup::of(current), tgid: task::tgid(current), reserved: 0 };
    let nothing: &Pauses = &NOTHING;
    let known = PAUSES.get_ptr_mut(key);
    if known.is_none() {
        let _ = PAUSES.insert(key, nothing, 0);
    }
    let Some(pauses) = known.or_else(|| PAUSES.get_ptr_mut(key)) else { return 0 };
    // SAFETY: this CPU's own value.
    unsafe {
        if known.is_none() {
            task::describe(current, &raw mut (*pauses).who);
        }
        add(pauses, took, before, &ctx);
    }
    0
}

/// # Safety
/// `pauses` is one that nobody else writes.
#[inline(always)]
unsafe fn add(pauses: *mut Pauses, took: u64, before: u64, ctx: &RawTracePointContext) {
    let wb = ctx.arg::<u64>(0);
    // SAFETY: as the caller promised.
    let pauses = unsafe { &mut *pauses };
    pauses.count += 1;
    pauses.total_ns += took;
    pauses.worst_ns = pauses.worst_ns.max(took);
    pauses.worst_call_ns = pauses.worst_call_ns.max(before + took);
    let bucket = bucket::<BUCKETS>(took, FIRST_BOUND_NS);
    if bucket < BUCKETS {
        pauses.histogram[bucket] += 1;
    }
    pauses.last_ns = now();
    if layout::PAUSE_HAS_CONTROL.load() == 1 {
        let control: Ptr = task::argument_at(ctx, 1);
        pauses.threshold = u64_at(place(control, &layout::DTC_THRESH));
        pauses.background = u64_at(place(control, &layout::DTC_BG_THRESH));
        pauses.dirty = u64_at(place(control, &layout::DTC_DIRTY));
        pauses.device_threshold = u64_at(place(control, &layout::DTC_WB_THRESH));
        pauses.device_dirty = u64_at(place(control, &layout::DTC_WB_DIRTY));
        pauses.task_rate = task::argument_at(ctx, 3);
        // A memory cgroup's limits point to the host's; those point nowhere.
        let host = follow(control, &layout::DTC_GDTC);
        pauses.in_memcg = if layout::DTC_GDTC.load() == ABSENT { UNKNOWN_U32 } else { u32::from(host != 0) };
    } else {
        pauses.threshold = task::argument_at(ctx, 1);
        pauses.background = task::argument_at(ctx, 2);
        pauses.dirty = task::argument_at(ctx, 3);
        pauses.device_threshold = task::argument_at(ctx, 4);
        pauses.device_dirty = task::argument_at(ctx, 5);
        pauses.task_rate = task::argument_at(ctx, 7);
        pauses.in_memcg = UNKNOWN_U32;
    }
    pauses.bandwidth = u64_at(place(wb, &layout::WB_BANDWIDTH));
    let name = place(follow(wb, &layout::WB_BDI), &layout::BDI_DEV_NAME);
    // SAFETY: the helper checks the address, and writes 16 bytes of an array of that size; on failure it zeroes them.
    unsafe { bpf_probe_read_kernel((&raw mut pauses.device).cast(), 16, name as *const _) };
}
