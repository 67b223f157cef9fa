//! The long text behind each code of the pids lens.

use crate::{
    findings::Explained,
    model::{
        Code,
        Severity::{Critical, Warning},
    },
};

pub const EXPLAINED: &[Explained] = &[
    Explained {
        code: Code("pids.limit"),
        severity: Critical,
        lens: "pids",
        title: "a fork was refused: a cgroup's pids.max is used up, or the user's or the host's limit",
        text: "\
The pids controller counts every process and every thread in a cgroup and below it, zombies too, until they are reaped.
A fork or a new thread must fit every level from its own cgroup up to the root. Where one is full, fork, clone and
pthread_create fail with EAGAIN: \"Resource temporarily unavailable\", \"cannot fork\", \"unable to create new native thread\".
It hits every process of that cgroup alike, and often the wrong one first: a health check, a shell, a signal handler.

`limiting_cgroup` is the lowest level that had no room at the refusal: the container's own, or a parent (a pod, a slice);
`inferred` says that others had ended before it could be read, and the level nearest to its limit is named. Refusals are
counted in the kernel, at most ten a second are sent one by one. Where the kernel has no kprobes, pids.events is read once a
second: it counts, and does not say who asked.

`what` names the limit. Where it is not pids.max, no cgroup of the asker was full, and the kernel gave the same EAGAIN for the
user's RLIMIT_NPROC (ulimit -u: all threads of a uid, across containers; root is not bound), for kernel.threads-max or for
kernel.pid_max (since 6.14 one for each pid namespace). The kernel does not say which: it is the first of these, in the
kernel's own order, that is used up when they are read a moment later (`inferred`); `what` is null where none is.

What to do: if `zombies` is a large part, cure that first (see pids.zombies). Else find what multiplies: a thread pool
without a bound, a worker per request, a fork bomb. If the need is real, raise the level's limit: docker run --pids-limit,
podman --pids-limit, podPidsLimit of the kubelet, TasksMax of a systemd unit; pids.max can be written at any time.",
    },
    Explained {
        code: Code("pids.zombies"),
        severity: Warning,
        lens: "pids",
        title: "ten or more dead children older than 3 s below one parent that does not reap them",
        text: "\
A process that ended stays as a zombie (state Z, <defunct>) until its parent has waited for it. It has no memory any more,
but it holds its pid, and counts against pids.max of each level and against the host's kernel.pid_max. A child whose parent
ended goes to the container's PID 1 (or a subreaper), which must reap it: a program that was not written as an init, run as
PID 1, does not. When the pids are used up, every fork in the container fails (pids.limit).

ctrace keeps each process whose last thread ended until the kernel frees it, and confirms those older than 3 s in /proc; a
sweep of /proc every 10 s finds those that ended before it was started. A leader that ended before its threads shows Z as
well, and is none. `growth_per_s` is how fast they come lately; `time_to_limit_ns` how long the room lasts at that rate.

What to do: a zombie cannot be killed: it is dead. Let the parent wait (waitpid, or SIGCHLD set to SIG_IGN: then the kernel
reaps). Where the parent is PID 1 and only inherits orphans, run an init in front of it: docker run --init, tini, dumb-init;
in a Kubernetes pod shareProcessNamespace makes pause the reaper. When the parent ends, its zombies go with it.",
    },
];
