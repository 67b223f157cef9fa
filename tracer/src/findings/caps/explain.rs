//! The long texts of `ctrace explain`.

use crate::{
    findings::Explained,
    model::{
        Code,
        Severity::{Info, Warning},
    },
};

pub static EXPLAINED: &[Explained] = &[DENIED, UNUSED, NOT_A_CAPABILITY];

pub const DENIED: Explained = Explained {
    code: Code("caps.denied"),
    severity: Warning,
    lens: "caps",
    title: "a capability was refused, and the system call failed",
    text: "\
The kernel asked whether a process of the container has a capability, the answer was no, and the call that asked came
back with an error. The finding names the capability, the program, the call and its result.

It is not yet a reason to add it. Programs try things and live without them: see whether something is missing, add that
one capability, and prove it with `ctrace caps verify`. Where the kernel asks for two in turn and one is enough
(DAC_READ_SEARCH, then DAC_OVERRIDE; PERFMON, BPF or SYSLOG, then SYS_ADMIN), the refusal of the first is not told when
the other was granted in the same call. Checks for accounting (memory overcommit) and glances at /proc are not told
either. With `other_namespace: true` it was asked of the host's user namespace: nothing that a container in a user
namespace of its own is given counts there.

What is refused before the kernel asks (by seccomp, by an LSM, at the exec of a program with file capabilities outside
the bounding set) is not in here: see caps.not-a-capability.",
};

pub const UNUSED: Explained = Explained {
    code: Code("caps.unused"),
    severity: Info,
    lens: "caps",
    title: "capabilities were granted and never asked for while ctrace watched",
    text: "\
The bounding set of the container's PID 1 holds capabilities that no check asked its own processes for. The runtime's
checks before the container's program ran, and those of what came by `docker exec`, are not counted as use.

A watch sees what happens in its time. Daemons need most at their start (binding ports, changing the user) and some only
at a reload, at log rotation or at the end: watch from the start with --from-start, let it do all that it does, unite
several watches with --merge, and prove the set with `ctrace caps verify`.

What to do: drop ALL and add what is needed; --format docker, podman, compose, k8s, oci or systemd prints it to paste.",
};

pub const NOT_A_CAPABILITY: Explained = Explained {
    code: Code("caps.not-a-capability"),
    severity: Warning,
    lens: "caps",
    title: "EPERM without any refused capability: seccomp, an LSM, or a rule of the call itself",
    text: "\
A system call of the container came back with EPERM, and no capability was refused in it. Adding capabilities, or
--privileged, is the wrong answer, though the latter may hide the cause: it switches the seccomp filter off as well.

Who refuses so: the seccomp profile of the runtime, which answers before the kernel's own code runs (therefore a call
that seccomp stops never shows what capability it would need: no denial seen is not \"not needed\"); an LSM such as AppArmor,
SELinux or Landlock; at an exec, file capabilities outside the bounding set; or the call's own rules (setpgid of a session
leader, an immutable file).

What to do: `Seccomp:` in /proc/PID/status tells whether a filter is on; the kernel's audit log names the call that it or
an LSM refused. Allow that one call in a profile of your own.",
};
