//! Whose requests do block devices serve, how many, and how fast? (block/blk-mq.c)

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns,
    macros::{map, raw_tracepoint},
    maps::{Array, LruHashMap, LruPerCpuHashMap},
    programs::RawTracePointContext,
};
use tracer_common::{
    ABSENT, UNKNOWN_U64,
    block::{BUCKETS, FIRST_BOUND_NS, Io, IoKey, Issued, OTHER, READ, REQUESTS_BITS, WRITE},
};

use crate::kernel::{
    cgroup,
    histogram::bucket,
    layout,
    read::{Head, Ptr, follow, place, u32_at, u64_at},
};

/// Requests that went to their device, each at a place that its address gives: neither a bucket's lock nor an allocation.
/// Two CPUs that take one free place at the same moment lose one of the two.
#[map]
static REQUESTS: Array<Issued> = Array::with_max_entries(1, 0);

/// … those that found their place taken by one that is still under way: when they went, by address.
#[map]
static CROWDED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1, 0);

#[map]
static DEVICE_IO: LruPerCpuHashMap<IoKey, Io> = LruPerCpuHashMap::with_max_entries(1, 0);

/// `block:block_rq_issue`: (request); before 5.11 (queue, request).
#[raw_tracepoint(tracepoint = "block_rq_issue")]
pub fn block_issue(ctx: RawTracePointContext) -> i32 {
    let request = if layout::RQ_ISSUE_ARGUMENT.load() == 0 { ctx.arg::<u64>(0) } else { ctx.arg::<u64>(1) };
    let Some(place) = REQUESTS.get_ptr_mut(at(request)) else { return 0 };
    // SAFETY: the map's value; a request is issued on one CPU at a time.
    let place = unsafe { &mut *place };
    if place.request == 0 || place.request == request {
        place.at_ns = now();
        place.request = request;
    } else {
        let _ = CROWDED.insert(request, now(), 0);
    }
    0
}

/// `block:block_rq_complete(struct request *rq, error, unsigned int nr_bytes)`: once for each part that completes, before
/// its bios are let go.
#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn block_complete(ctx: RawTracePointContext) -> i32 {
    let request = ctx.arg::<u64>(0);
    let bytes = u64::from(ctx.arg::<u32>(2));
    let Some(place) = REQUESTS.get_ptr_mut(at(request)) else { return 0 };
    // SAFETY: the map's value; a request completes on one CPU at a time.
    let place = unsafe { &mut *place };
    let head = Head::of(request);
    let is_last = bytes >= u64::from(head.u32(&layout::RQ_DATA_LEN));
    let issued = if place.request == request {
        // Before the place is free: the next one writes its own there.
        let at_ns = place.at_ns;
        if is_last {
            place.request = 0;
        }
        at_ns
    } else {
        // Went to its device before ctrace came, where it is not there either.
        let Some(issued) = CROWDED.get_ptr(request) else { return 0 };
        // SAFETY: the map's value, copied out at once.
        let issued = unsafe { *issued };
        if is_last {
            let _ = CROWDED.remove(request);
        }
        issued
    };
    count(&head, bytes, issued, is_last);
    0
}

#[inline(always)]
fn count(request: &Head, bytes: u64, issued: u64, is_last: bool) {
    let key = key(request);
    let nothing: &Io = &NOTHING;
    let known = DEVICE_IO.get_ptr_mut(key);
    if known.is_none() {
        let _ = DEVICE_IO.insert(key, nothing, 0);
    }
    let Some(io) = known.or_else(|| DEVICE_IO.get_ptr_mut(key)) else { return };
    // SAFETY: this CPU's own value.
    let io = unsafe { &mut *io };
    io.bytes += bytes;
    if key.op != OTHER {
        match asked(request) {
            Asked::Direct => io.direct_bytes += bytes,
            Asked::Buffered => io.buffered_bytes += bytes,
            Asked::Untold => {}
        }
    }
    if !is_last {
        return; // the rest is still to come
    }
    let took = now().wrapping_sub(issued);
    io.count += 1;
    io.device_ns += took;
    io.worst_ns = io.worst_ns.max(took);
    let made = request.u64(&layout::RQ_START);
    if made != 0 && made <= issued {
        io.queued_ns += issued - made;
    }
    let bucket = bucket::<BUCKETS>(took, FIRST_BOUND_NS);
    if bucket < BUCKETS {
        io.histogram[bucket] += 1;
    }
}

/// How a request was asked for.
enum Asked {
    Direct,
    Buffered,
    Untold,
}

/// Its memory tells: a process's own is direct I/O, a page of the page cache is buffered. By its first page: what is merged
/// into one request is of one kind. Not told: swap, and what a layer above (encryption, say) has copied to pages of its own.
#[inline(always)]
fn asked(request: &Head) -> Asked {
    const ANONYMOUS: u64 = 1; // include/linux/page-flags.h
    const TMPFS: u64 = 0x0102_1994;
    const HUGETLBFS: u64 = 0x9584_58f6;
    let first = follow(request.u64(&layout::RQ_BIO), &layout::BIO_VECTOR);
    let page = head_of(follow(first, &layout::VECTOR_PAGE));
    let mapping = follow(page, &layout::PAGE_MAPPING);
    if mapping == 0 || mapping == UNKNOWN_U64 {
        return Asked::Untold;
    }
    if mapping & ANONYMOUS != 0 {
        let is_swap = request.u32(&layout::RQ_FLAGS) & layout::RQ_SWAP.load() != 0;
        return if is_swap { Asked::Untold } else { Asked::Direct };
    }
    // Memory that processes share is a file of a tmpfs: nothing is written from there but swap.
    let owner = follow(follow(mapping, &layout::MAPPING_HOST), &layout::INODE_SB);
    match u64_at(place(owner, &layout::SB_MAGIC)) {
        TMPFS | HUGETLBFS => Asked::Direct,
        UNKNOWN_U64 => Asked::Untold,
        _ => Asked::Buffered,
    }
}

/// The first page of those that make a larger one (`compound_head`, include/linux/page-flags.h).
#[inline(always)]
fn head_of(page: Ptr) -> Ptr {
    let head = u64_at(place(page, &layout::PAGE_HEAD));
    if head & 1 == 0 {
        page
    } else if layout::PAGE_HEAD_IS_MASK.load() == 1 && head != UNKNOWN_U64 {
        page & head
    } else {
        head - 1
    }
}

/// The place of a request. They stand side by side, at multiples of 64 bytes: a multiplication spreads them.
#[inline(always)]
fn at(request: Ptr) -> u32 {
    (request.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - REQUESTS_BITS)) as u32
}

#[inline(always)]
fn key(request: &Head) -> IoKey {
    // The cgroup that pays: of the bio, as the block layer throttles and counts by it.
    let group = follow(request.u64(&layout::RQ_BIO), &layout::BIO_BLKG);
    let css = place(follow(group, &layout::BLKG_BLKCG), &layout::BLKCG_CSS);
    // Older kernels keep the disk in the request, newer ones in its queue.
    let disk = if layout::RQ_DISK.load() == ABSENT {
        follow(request.u64(&layout::RQ_QUEUE), &layout::QUEUE_DISK)
    } else {
        request.u64(&layout::RQ_DISK)
    };
    let op = match request.u32(&layout::RQ_FLAGS) & 0xff {
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

/// From here and not from the stack, which it would fill.
static NOTHING: Io = Io {
    count: 0,
    bytes: 0,
    device_ns: 0,
    worst_ns: 0,
    queued_ns: 0,
    direct_bytes: 0,
    buffered_bytes: 0,
    histogram: [0; BUCKETS],
};
