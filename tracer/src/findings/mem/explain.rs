//! The long text behind each code of the mem lens.

use crate::{
    findings::Explained,
    model::{
        Code,
        Severity::{Info, Warning},
    },
};

pub const EXPLAINED: &[Explained] = &[
    Explained {
        code: Code("mem.page-cache"),
        severity: Info,
        lens: "mem",
        title: "memory is at its limit, and most of it is page cache: not a leak",
        text: "\
A cgroup's memory is more than what its processes hold: file pages that were read or written are kept as cache and are
charged to the cgroup as well. Nobody takes them away before somebody needs the memory, so that usage climbs to the limit
and stays there. Monitoring that shows usage alone then looks like a leak.

It fires when usage is at 90 % of the binding limit or above and at least half of it is file cache that can be dropped at once
(active and inactive file pages, neither dirty nor under writeback). `limiting_cgroup` is the level with the least room: the
container's own, or a parent. The working set is what Kubernetes evicts by: usage without inactive file pages.

What to do: nothing. Where the same files are read again and again (`refaults_file_per_s`), more memory keeps them.",
    },
    Explained {
        code: Code("mem.near-limit"),
        severity: Warning,
        lens: "mem",
        title: "what can't be reclaimed is 80 % of the limit or more",
        text: "\
At the limit the kernel first drops file cache, reclaimable slab, and anonymous memory as far as swap has room and may be
used. What is left (anonymous memory, shared memory and tmpfs files, kernel memory) can't be had back: when that reaches the
limit, somebody is killed.

`unreclaimable_bytes` is usage without all that; on cgroup v1 slab counts as held, since its share is not told. The forecast
(`time_to_limit_ns`) is of the growth of anonymous memory in the last minute alone: cache comes and goes, and says nothing.

What to do: raise the limit, or find what grows. For heaps that size themselves by the machine (JVM, Go, Node) set their
own limit below the cgroup's. Files in a tmpfs or in /dev/shm count too: delete them.",
    },
    Explained {
        code: Code("mem.reclaim-stall"),
        severity: Warning,
        lens: "mem",
        title: "its own tasks spend their time in reclaim",
        text: "\
A task that needs a page while a limit is reached frees pages itself before it goes on: it scans, drops, writes, waits. The
time is missing in the request it was serving. It needs no OOM kill to be slow.

It fires at 200 ms within 2 s, summed over the container's tasks. The time is measured in the kernel around reclaim at a
limit (vmscan's memcg tracepoints) and around reclaim for the host (`host_stalled_ns`), per process; reclaim above memory.high
is part of mem.high-stall. What kswapd and other kernel threads do for it is not counted: nobody waits for that.

What to do: where the working set is below the limit, leave more room for cache; where it is not, see mem.near-limit. On v2,
memory.high some way below memory.max begins earlier. Where the host is short, another container is the cause.",
    },
    Explained {
        code: Code("mem.high-stall"),
        severity: Warning,
        lens: "mem",
        title: "its tasks are held back because it is above memory.high",
        text: "\
memory.high (cgroup v2; MemoryHigh= of systemd, Kubernetes' MemoryQoS) is a limit that never kills. Above it each task, on
its way back to user mode, reclaims, and then sleeps: the longer the further above, up to 2 s each time. From outside that
looks like a hang without any load.

It fires at 200 ms within 2 s, measured in mem_cgroup_handle_over_high by kprobe. Where the kernel has none, memory.events'
count of `high` is all there is: it fires when that grows, and says that the time is unknown.

What to do: raise memory.high above what is used, or let it use less.",
    },
    Explained {
        code: Code("mem.swapping"),
        severity: Warning,
        lens: "mem",
        title: "its anonymous memory goes to swap and comes back",
        text: "\
Swap takes anonymous memory; clean cache is dropped instead, which is cheaper. What is in swap and is needed again costs a
read from the device for each few pages.

It fires at 1 MiB within 2 s, out and in together. Newer kernels count both for a cgroup (pswpin, pswpout of memory.stat);
else growth of swap usage is what went out, and refaults of anonymous pages are what came back.

What to do: give it the memory, or keep it from swapping: memory.swappiness 0 (v1) or memory.swap.max 0 (v2); in Docker
--memory-swap as large as --memory. Then it is killed instead, when it does not fit.",
    },
];
