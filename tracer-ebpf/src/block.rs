//! Whose requests do block devices serve, how many, and how fast? (block/blk-mq.c)

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns,
    macros::{map, raw_tracepoint},
    maps::{Array, LruHashMap, LruPerCpuHashMap, PerCpuArray},
    programs::RawTracePointContext,
};
use tracer_common::{
    ABSENT, UNKNOWN_U32, UNKNOWN_U64,
    block::{
        BUCKETS, CHARGE_NS, CHARGES_BITS, Charge, FIRST_BOUND_NS, Io, IoKey, Issued, OTHER, READ, REQUESTS_BITS, WRITE,
    },
};

use crate::kernel::{
    cgroup,
    histogram::bucket,
    layout,
    read::{NOWHERE, Part, Ptr, follow, place, u32_at, u64_at},
    spread::spread,
};

/// Requests that went to their device, each at a place that its address gives: neither a bucket's lock nor an allocation.
/// Two CPUs that take one free place at the same moment lose one of the two.
#[map]
static REQUESTS: Array<Issued> = Array::with_max_entries(1, 0);

/// … those that found their place taken by one that is still under way: when they went, by address.
#[map]
static CROWDED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1, 0);

/// Whose requests to which disk completed here a moment ago, at places that the charge and the queue give: eight reads less.
#[map]
static CHARGES: PerCpuArray<Charge> = PerCpuArray::with_max_entries(1, 0);

#[map]
static DEVICE_IO: LruPerCpuHashMap<IoKey, Io> = LruPerCpuHashMap::with_max_entries(1, 0);

/// `block:block_rq_issue`: (request); before 5.11 (queue, request).
#[raw_tracepoint(tracepoint = "block_rq_issue")]
pub fn block_issue(ctx: RawTracePointContext) -> i32 {
    let request = if layout::RQ_ISSUE_ARGUMENT.load() == 0 { ctx.arg::<u64>(0) } else { ctx.arg::<u64>(1) };
    let Some(place) = REQUESTS.get_ptr_mut(spread::<REQUESTS_BITS>(request)) else { return 0 };
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
    let Some(place) = REQUESTS.get_ptr_mut(spread::<REQUESTS_BITS>(request)) else { return 0 };
    // SAFETY: the map's value; a request completes on one CPU at a time.
    let place = unsafe { &mut *place };
    let asked_for = Request::at(request);
    let is_last = bytes >= u64::from(asked_for.bytes);
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
    count(&asked_for, bytes, issued, is_last);
    0
}

/// What is wanted of a request (`struct request`, include/linux/blk-mq.h).
struct Request {
    flags: u32,
    /// What is still to be done of it.
    bytes: u32,
    bio: Ptr,
    queue: Ptr,
    /// Where this kernel keeps it here.
    disk: Ptr,
    made_ns: u64,
}

impl Request {
    #[inline(always)]
    fn at(request: Ptr) -> Self {
        let head = Part::<16>::of(request);
        Self {
            flags: head.u32(&layout::RQ_FLAGS),
            bytes: head.u32(&layout::RQ_DATA_LEN),
            bio: head.u64(&layout::RQ_BIO),
            queue: head.u64(&layout::RQ_QUEUE),
            disk: if layout::RQ_DISK.load() == ABSENT { NOWHERE } else { head.u64(&layout::RQ_DISK) },
            made_ns: head.u64(&layout::RQ_START),
        }
    }
}

/// What is wanted of its first bio (`struct bio`, include/linux/blk_types.h).
struct Bio {
    /// What it is charged to.
    charge: Ptr,
    flags: u16,
    /// Where its memory is.
    vector: Ptr,
}

impl Bio {
    #[inline(always)]
    fn at(bio: Ptr) -> Self {
        let head = Part::<16>::of(bio);
        Self {
            charge: head.u64(&layout::BIO_BLKG),
            flags: head.u16(&layout::BIO_FLAGS),
            vector: head.u64(&layout::BIO_VECTOR),
        }
    }
}

#[inline(always)]
fn count(request: &Request, bytes: u64, issued: u64, is_last: bool) {
    let at_ns = now();
    let bio = Bio::at(request.bio);
    let key = key(bio.charge, request, at_ns);
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
        match asked(request, &bio) {
            Asked::Direct => io.direct_bytes += bytes,
            Asked::Buffered => io.buffered_bytes += bytes,
            Asked::Untold => {}
        }
    }
    if !is_last {
        return; // the rest is still to come
    }
    let took = at_ns.wrapping_sub(issued);
    io.count += 1;
    io.device_ns += took;
    io.worst_ns = io.worst_ns.max(took);
    if request.made_ns != 0 && request.made_ns <= issued {
        io.queued_ns += issued - request.made_ns;
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
fn asked(request: &Request, bio: &Bio) -> Asked {
    const ANONYMOUS: u64 = 1; // include/linux/page-flags.h
    const TMPFS: u64 = 0x0102_1994;
    const HUGETLBFS: u64 = 0x9584_58f6;
    // Newer kernels say so in the bio.
    let pinned = layout::BIO_PINNED.load();
    if pinned != ABSENT && bio.flags != u16::MAX && u32::from(bio.flags) & pinned != 0 {
        return Asked::Direct;
    }
    let mapping = mapping_of(follow(bio.vector, &layout::VECTOR_PAGE));
    if mapping == 0 || mapping == UNKNOWN_U64 {
        return Asked::Untold;
    }
    if mapping & ANONYMOUS != 0 {
        let is_swap = request.flags & layout::RQ_SWAP.load() != 0;
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

/// Where a page belongs: of several that make a larger one the first one tells (`compound_head`, include/linux/page-flags.h).
#[inline(always)]
fn mapping_of(page: Ptr) -> Ptr {
    let words = Part::<4>::of(page);
    let head = words.u64(&layout::PAGE_HEAD);
    if head & 1 == 0 {
        return words.u64(&layout::PAGE_MAPPING);
    }
    let first =
        if layout::PAGE_HEAD_IS_MASK.load() == 1 && head != UNKNOWN_U64 { page & head } else { head.wrapping_sub(1) };
    follow(first, &layout::PAGE_MAPPING)
}

#[inline(always)]
fn key(charge: Ptr, request: &Request, at_ns: u64) -> IoKey {
    let op = match request.flags & 0xff {
        0 => READ,
        1 => WRITE,
        _ => OTHER,
    };
    let Some(place) = CHARGES.get_ptr_mut(spread::<CHARGES_BITS>(charge ^ request.queue)) else {
        return IoKey { cgroup: UNKNOWN_U64, major: UNKNOWN_U32, minor: UNKNOWN_U32, op, reserved: 0 };
    };
    // SAFETY: this CPU's own value.
    let known = unsafe { &mut *place };
    let is_it = known.charge == charge && known.queue == request.queue;
    if !is_it || at_ns.wrapping_sub(known.read_ns) >= CHARGE_NS {
        let (cgroup, major, minor) = read_charge(charge, request);
        *known = Charge { charge, queue: request.queue, read_ns: at_ns, cgroup, major, minor };
    }
    IoKey { cgroup: known.cgroup, major: known.major, minor: known.minor, op, reserved: 0 }
}

/// The cgroup that pays, as the block layer throttles and counts by it; and the disk.
#[inline(always)]
fn read_charge(charge: Ptr, request: &Request) -> (u64, u32, u32) {
    let css = place(follow(charge, &layout::BLKG_BLKCG), &layout::BLKCG_CSS);
    // Older kernels keep the disk in the request, newer ones in its queue.
    let is_newer = layout::RQ_DISK.load() == ABSENT;
    let disk = if is_newer { follow(request.queue, &layout::QUEUE_DISK) } else { request.disk };
    (cgroup::css_id(css), u32_at(place(disk, &layout::DISK_MAJOR)), u32_at(place(disk, &layout::DISK_MINOR)))
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
