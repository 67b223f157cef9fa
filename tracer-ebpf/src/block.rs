//! Whose requests do block devices serve, how many, and how fast? (block/blk-mq.c)

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns,
    macros::{map, raw_tracepoint},
    maps::{LruHashMap, LruPerCpuHashMap},
    programs::RawTracePointContext,
};
use tracer_common::block::{BUCKETS, FIRST_BOUND_NS, Io, IoKey, OTHER, READ, WRITE};

use crate::kernel::{
    cgroup, layout,
    read::{Ptr, follow, place, u32_at, u64_at},
    task,
};

/// When a request went to its device, by its address.
#[map]
static ISSUED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1, 0);

#[map]
static DEVICE_IO: LruPerCpuHashMap<IoKey, Io> = LruPerCpuHashMap::with_max_entries(1, 0);

/// `block:block_rq_issue`: (request); before 5.11 (queue, request).
#[raw_tracepoint(tracepoint = "block_rq_issue")]
pub fn block_issue(ctx: RawTracePointContext) -> i32 {
    let request = task::argument_at(&ctx, u64::from(layout::RQ_ISSUE_ARGUMENT.load()));
    let _ = ISSUED.insert(request, now(), 0);
    0
}

/// `block:block_rq_complete(struct request *rq, error, unsigned int nr_bytes)`: once for each part that completes, before
/// its bios are let go.
#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn block_complete(ctx: RawTracePointContext) -> i32 {
    let request = ctx.arg::<u64>(0);
    let bytes = u64::from(ctx.arg::<u32>(2));
    let Some(issued) = ISSUED.get_ptr(request) else { return 0 };
    // SAFETY: the map's value, copied out at once.
    let issued = unsafe { *issued };
    let key = key(request);
    let nothing: &Io = &NOTHING;
    let known = DEVICE_IO.get_ptr_mut(key);
    if known.is_none() {
        let _ = DEVICE_IO.insert(key, nothing, 0);
    }
    let Some(io) = known.or_else(|| DEVICE_IO.get_ptr_mut(key)) else { return 0 };
    // SAFETY: this CPU's own value.
    let io = unsafe { &mut *io };
    io.bytes += bytes;
    if bytes < u64::from(u32_at(place(request, &layout::RQ_DATA_LEN))) {
        return 0; // the rest is still to come
    }
    let _ = ISSUED.remove(request);
    let took = now().wrapping_sub(issued);
    io.count += 1;
    io.device_ns += took;
    io.worst_ns = io.worst_ns.max(took);
    let made = u64_at(place(request, &layout::RQ_START));
    if made != 0 && made <= issued {
        io.queued_ns += issued - made;
    }
    let bucket = bucket(took);
    if bucket < BUCKETS {
        io.histogram[bucket] += 1;
    }
    0
}

#[inline(always)]
fn key(request: Ptr) -> IoKey {
    // The cgroup that pays: of the bio, as the block layer throttles and counts by it.
    let group = follow(follow(request, &layout::RQ_BIO), &layout::BIO_BLKG);
    let css = place(follow(group, &layout::BLKG_BLKCG), &layout::BLKCG_CSS);
    // Older kernels keep the disk in the request, newer ones in its queue.
    let disk = follow(request, &layout::RQ_DISK);
    let disk = if disk == u64::MAX { follow(follow(request, &layout::RQ_QUEUE), &layout::QUEUE_DISK) } else { disk };
    let op = match u32_at(place(request, &layout::RQ_FLAGS)) & 0xff {
        0 => READ,
        1 => WRITE,
        _ => OTHER,
    };
    IoKey {
        cgroup: cgroup::css_id(css),
        major: u32_at(place(disk, &layout::DISK_MAJOR)),
        minor: u32_at(place(disk, &layout::DISK_MINOR)),
        op,
        reserved: 0,
    }
}

/// The clock that requests are stamped by.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: takes no argument and cannot fail.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn bucket(ns: u64) -> usize {
    let mut bucket = 0;
    let mut bound = FIRST_BOUND_NS;
    for _ in 0..BUCKETS - 1 {
        bucket += usize::from(ns >= bound);
        bound *= 2;
    }
    bucket
}

/// From here and not from the stack, which it would fill.
static NOTHING: Io = Io { count: 0, bytes: 0, device_ns: 0, worst_ns: 0, queued_ns: 0, histogram: [0; BUCKETS] };
