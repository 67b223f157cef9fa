//! The long text behind each code of the oom lens.

use crate::{
    findings::Explained,
    model::{
        Code,
        Severity::{Critical, Warning},
    },
};

pub const EXPLAINED: &[Explained] = &[
    Explained {
        code: Code("oom.container-limit"),
        severity: Critical,
        lens: "oom",
        title: "the container hit its own memory limit, and the kernel killed a process in it",
        text: "\
Every page that a container's processes touch is charged to its memory cgroup: anonymous memory (heap, stacks), page
cache, shared memory and tmpfs, kernel memory. At the limit the kernel first reclaims: it drops clean page cache, writes
dirty pages back, swaps where it may. When that gives nothing, the OOM killer picks the process with the highest badness
in the cgroup and kills it with SIGKILL.

The numbers are those of the cgroup at the kill: limit and usage from its page counter; anon, file, shmem and kernel from
the statistics that the kernel flushes for its own report. `file` includes `shmem`. The victim's RSS is its own, and a
process can die for memory that others hold.

What to do: look at the largest part. Anonymous memory: a heap larger than the limit (JVM -Xmx, GOMEMLIMIT, worker count)
or a leak. Shared memory: a tmpfs or /dev/shm without a size. Kernel memory: many open files, sockets, processes. If the
need is real, raise the limit (docker --memory, Kubernetes resources.limits.memory).",
    },
    Explained {
        code: Code("oom.parent-limit"),
        severity: Critical,
        lens: "oom",
        title: "an ancestor's memory limit was hit: the pod's or the slice's, not the container's own",
        text: "\
Limits nest: a charge must fit every cgroup from the process's own up to the root. Here the container was below its own
limit, but an ancestor (a Kubernetes pod, a systemd slice, a --cgroup-parent) was full. The victim is the worst process
anywhere below that ancestor, so a well-behaved container can die for its sibling's memory, and engines that watch only
the container's own cgroup do not call it an OOM kill.

What to do: `limiting_cgroup` says which level it was. Compare the siblings' usage there, and raise that level's limit or
lower theirs so that the sum fits.",
    },
    Explained {
        code: Code("oom.host"),
        severity: Critical,
        lens: "oom",
        title: "the host ran out of memory, and the kernel killed a container's process",
        text: "\
No cgroup limit was involved: the machine itself had no free page and reclaim gave none. The victim is the process with
the highest badness on the host: its memory in relation to the host's, moved by oom_score_adj (Kubernetes sets 1000 for
best-effort pods, and less the more memory a pod requested).

What to do: find who holds the memory (`ctrace containers` lists usage). Containers without a limit are the usual cause:
give each one, reserve memory for the system (kubelet --system-reserved), and add swap or memory if the sum is needed.",
    },
    Explained {
        code: Code("oom.cpuset"),
        severity: Critical,
        lens: "oom",
        title: "the NUMA nodes that the task may use ran out of memory, while others may have some",
        text: "\
The allocation was bound to some NUMA nodes, by cpuset.mems or a memory policy (numactl --membind), and those are full.

What to do: widen cpuset.mems, or move load away from those nodes. `numastat -m` shows memory by node.",
    },
    Explained {
        code: Code("oom.hung"),
        severity: Critical,
        lens: "oom",
        title: "a v1 cgroup is at its limit with the OOM killer off: nobody is killed, everybody waits",
        text: "\
With oom_kill_disable=1 (docker --oom-kill-disable, cgroup v1 only) the kernel kills nobody at the limit. Each task that
needs a page sleeps in D state until another frees some or the limit is raised. Health checks time out, CPU is idle, no
log says anything.

What to do: raise memory.limit_in_bytes, or write 0 to memory.oom_control so that the kernel chooses a victim. On cgroup
v2 the knob does not exist any more.",
    },
    Explained {
        code: Code("oom.group-kill"),
        severity: Critical,
        lens: "oom",
        title: "memory.oom.group is set: every process of the cgroup was killed together",
        text: "\
With memory.oom.group=1 the kernel treats the cgroup as one workload: when it picks a victim there, all processes of the
cgroup die (but those with oom_score_adj -1000). Kubernetes sets it for containers on cgroup v2 since 1.28. All victims
stand in this one finding; `limiting_cgroup` says whose limit it was.

It is what most services want, since a half-killed one looks healthy. Where independent workers share a container, each
kill takes all of them: then set it to 0 (kubelet --single-process-oom-kill), or give the workers containers of their own.",
    },
    Explained {
        code: Code("oom.child-killed"),
        severity: Warning,
        lens: "oom",
        title: "a child was OOM-killed, PID 1 lives on: the container looks healthy and is not",
        text: "\
The runtime watches PID 1 only. When the OOM killer takes another process, the container keeps running, its restart count
does not rise, and `docker ps` or `kubectl get pods` show nothing. The finding refers to the kill it follows.

What to do: let PID 1 exit when a child that it needs dies; or set memory.oom.group=1, so that all die together and the
runtime restarts the container; or probe the child's service, not PID 1.",
    },
];
