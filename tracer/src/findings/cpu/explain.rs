//! The long text behind each code of the cpu lens.

use crate::{
    findings::Explained,
    model::{Code, Severity::Warning},
};

pub const EXPLAINED: &[Explained] = &[
    Explained {
        code: Code("cpu.throttled"),
        severity: Warning,
        lens: "cpu",
        title: "its CPU quota, or a parent's, held it back in 5 % or more of the periods of 2 s",
        text: "\
A quota (docker --cpus, resources.limits.cpu, CPUQuota=; cpu.max, on v1 cpu.cfs_quota_us) is a ceiling of CPU time in each
period, mostly 100 ms, for all threads of the cgroup together. Half a CPU is 50 ms in each 100 ms: four threads that run at
once have used that up after 12.5 ms, and then all of them wait for 87.5 ms, though the host may be idle. So an average far
below the quota and throttling go together: a burst of many threads meets the quota of one period, not the average.
`threads` is how many of its own a throttled period stopped, on average: waits for a CPU as long as a stop, by throttled
periods. So many, or as many as there are CPUs, use the quota up after `run_out_ns` and wait for `then_wait_ns`. `longest`
is whoever waited longest for a CPU: cpu.stat counts for the whole cgroup, and does not say whom it stopped.

`throttled_pct` is nr_throttled of nr_periods, `throttled_ns` throttled_time, both from cpu.stat of the level named in
`limiting_cgroup`, over `window_ns`. The kernel sums throttled time over CPUs, and counts a CPU once however many threads
wait there. `demand_cpus` is what ran plus what waited to run, as sched_switch tells it: what it would use if nothing held
it, at the most; where that hook is missing it is the least (`demand_is_least`). `enough_cpus` is that, bounded by the CPUs that there are.

What to do: raise the quota to `enough_cpus`; or run no more threads at once than the quota has CPUs (runtimes count the
host's CPUs: GOMAXPROCS, -XX:ActiveProcessorCount, worker processes); or allow bursts (cpu.max.burst, cpu.cfs_burst_us); or
take the quota away and let the weight share the host. Lowering the host's load does not help: see cpu.contended for that.",
    },
    Explained {
        code: Code("cpu.contended"),
        severity: Warning,
        lens: "cpu",
        title: "runnable, and waiting for a CPU 20 % or more of the time of 2 s, without a quota as cause",
        text: "\
No limit holds it: the CPUs are full, and others run. Between cgroups below one parent, the weight (docker --cpu-shares,
resources.requests.cpu, CPUWeight=; cpu.weight, on v1 cpu.shares) decides who gets how much of a full CPU; while there is
idle CPU it means nothing. From inside it looks like throttling, and the cure is another one: a higher quota does nothing.

`wait_pct` is the share of its runnable time that it waited, from sched_wakeup, sched_wakeup_new and sched_switch, summed in
the kernel when a wait ends; said from 20 % of that and of the clock on, when the CPUs that it may use are less than 10 % idle (waits
on idle CPUs are wake-ups, or threads bound to one CPU), and when no level throttles it. `weight_pct` is its part of the
weights of the containers that run beside it. `ran_instead` says who had the CPUs meanwhile, `worst` who ran before the end of the longest wait.

What to do: give it more weight, or the others a quota or another host. If `ran_instead` names mostly itself, it
has more of them than there are CPUs: fewer would do the same work. If the host shows steal, the CPUs are the hypervisor's.",
    },
    Explained {
        code: Code("load.blocked"),
        severity: Warning,
        lens: "cpu",
        title: "a task is in uninterruptible sleep for 1 s or more, and counts as load",
        text: "\
The load average of Linux is not about CPUs alone: it counts runnable tasks and those in uninterruptible sleep (D), averaged
over 1, 5 and 15 minutes. A high load on an idle CPU means tasks in D: they wait in the kernel for a disk, a server, memory,
a lock, or (a vfork's parent) for a child. They cannot be killed until that comes, and more CPU does not help them.

Seen where a task is switched out: uninterruptible and not TASK_NOLOAD (shown as I: kernel threads that wait for work), and
not frozen (a paused container shows D on cgroup v1, and is no load). A task that slept before ctrace came is found in /proc,
and its time counts from there (`at_least`). `stack` is /proc/PID/stack, innermost first; `cause` what its functions
tell: vfork, nfs, fuse, fsync, dirty-pages, reclaim, disk, lock, other. `file_system` is that of the file which its system call
was given: a page of a file is waited for in the same functions, whether a disk or a FUSE or NFS server is to bring it. The
samples sum the short sleeps of each container (`blocked_count`, `blocked_ns`; `sleeps`: by kernel stack), and hold each
container's part of the load (`load1`).

What to do: follow the stack. Disk and fsync: iostat -x, and who else writes there. NFS: the server. FUSE: the process that
serves the mount. Reclaim: more memory for the cgroup. A lock: its holder is another of these tasks, mostly the oldest.",
    },
];
