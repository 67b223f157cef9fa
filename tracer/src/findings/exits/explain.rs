//! The long text behind each code of the exits lens.

use crate::{
    findings::Explained,
    model::{
        Code,
        Severity::{Info, Warning},
    },
};

pub const EXPLAINED: &[Explained] = &[
    Explained {
        code: Code("exit.signal"),
        severity: Warning,
        lens: "exits",
        title: "a process was killed by a signal that another process sent",
        text: "\
The status says only which signal it was: 137 is 128 + 9, SIGKILL, and nothing more. ctrace joins the death with the call
that sent the signal: pid, command and container of the sender, and behind runc or crun the shim and the engine that asked
(`via`). A kill by the OOM killer is told as that, with its finding's id, and never guessed from 137.",
    },
    Explained {
        code: Code("exit.init-died"),
        severity: Info,
        lens: "exits",
        title: "these processes died because PID 1 of their container did",
        text: "\
When PID 1 of a pid namespace ends, the kernel kills every other process in it with SIGKILL. Nobody sent those signals: the
cause is whatever ended PID 1.",
    },
    Explained {
        code: Code("exit.stop-timeout"),
        severity: Warning,
        lens: "exits",
        title: "PID 1 did not obey the stop signal, and was killed after the grace time",
        text: "\
A runtime stops a container by sending its stop signal (SIGTERM unless the image says otherwise) to PID 1, waits the grace
time (docker 10 s, Kubernetes 30 s), and sends SIGKILL. Here the process was still there: requests in flight were cut, and
nothing was cleaned up. The measured time between the two signals is in the evidence.

What to do: see whether PID 1 handles the signal at all (`ctrace signals --to-init`; signal.init-ignored says so at once),
let a shell entrypoint `exec` the program, run an init, or raise the grace time if the work really takes so long.",
    },
    Explained {
        code: Code("exit.crash"),
        severity: Warning,
        lens: "exits",
        title: "a process died of its own fault: SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS",
        text: "\
The kernel (or the program itself, by abort()) raised a fatal signal. For SIGSEGV and SIGBUS the evidence has the address
that was touched. SIGSYS is a system call that seccomp refused by killing.

What to do: get the core (coredumpctl, or kernel.core_pattern) and its backtrace; repeated crashes of PID 1 are counted as
a restart loop.",
    },
    Explained {
        code: Code("exit.error"),
        severity: Info,
        lens: "exits",
        title: "a process ended by itself with a status other than 0",
        text: "\
126 means that the program could not be executed, 127 that it was not found; 128 + N from a shell means that its child died
of signal N. Everything else is the program's own.",
    },
    Explained {
        code: Code("exit.killed-by-oomd"),
        severity: Warning,
        lens: "exits",
        title: "a user-space memory guard killed it: systemd-oomd, earlyoom, the kubelet",
        text: "\
These watch memory pressure and kill before the kernel must. The kernel's own counters (memory.events oom_kill) do not move,
and the status is 137 all the same.

What to do: look at the guard's own limits (oomctl; earlyoom -m; kubelet --eviction-hard) and at who used the memory.",
    },
];
