//! What a check means: the kernel asks for many reasons, and only some of them are needs. Data, each with its reason and
//! the place in the kernel's source where it can be read. The first row that fits decides; where none does, a granted
//! check is a need, and a refused one a denial.

use caps::Capability::{
    self, CAP_AUDIT_WRITE, CAP_BPF, CAP_CHECKPOINT_RESTORE, CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH,
    CAP_FOWNER, CAP_FSETID, CAP_IPC_LOCK, CAP_KILL, CAP_MAC_ADMIN, CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_NET_RAW,
    CAP_PERFMON, CAP_SETGID, CAP_SETPCAP, CAP_SETUID, CAP_SYS_ADMIN, CAP_SYS_BOOT, CAP_SYS_CHROOT, CAP_SYS_MODULE,
    CAP_SYS_NICE, CAP_SYS_PTRACE, CAP_SYS_RAWIO, CAP_SYS_RESOURCE, CAP_SYS_TTY_CONFIG, CAP_SYSLOG,
};

/// What a check of the application means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    pub capabilities: &'static [Capability],
    /// In one of these calls; empty: in any.
    pub syscalls: &'static [&'static str],
    /// Only where the check was quiet (NOAUDIT), or whether it was is not known.
    pub quiet: bool,
    /// Only below one of these kernel functions; empty: below any. Where the stack cannot be named, such a row fits none.
    pub within: &'static [&'static str],
    /// Where it is not known whether the check was quiet, and the stack is: below one of these.
    pub else_within: &'static [&'static str],
    pub reason: &'static str,
    pub source: &'static str,
}

const fn row(
    capabilities: &'static [Capability],
    syscalls: &'static [&'static str],
    reason: &'static str,
    source: &'static str,
) -> Meaning {
    Meaning { capabilities, syscalls, quiet: false, within: &[], else_within: &[], reason, source }
}

const ACCOUNTING: &[&str] = &["__vm_enough_memory", "cap_vm_enough_memory", "security_vm_enough_memory_mm"];

/// Checks that are no needs: granted or refused, the program goes on.
pub static PROBES: &[Meaning] = &[
    Meaning {
        within: ACCOUNTING,
        ..row(
            &[CAP_SYS_ADMIN],
            &[],
            "memory accounting: who has it may use the last 3 % that are kept for root",
            "mm/util.c __vm_enough_memory, security/commoncap.c cap_vm_enough_memory",
        )
    },
    Meaning {
        quiet: true,
        // fork asks for it beyond RLIMIT_NPROC, madvise to poison a page: needs.
        else_within: ACCOUNTING,
        ..row(
            &[CAP_SYS_ADMIN],
            &[
                "mmap",
                "brk",
                "mremap",
                "mprotect",
                "execve",
                "execveat",
                "fork",
                "vfork",
                "shmget",
                "shmat",
                "memfd_create",
                "ftruncate",
                "madvise",
                "munmap",
                "exceptions",
            ],
            "memory accounting: who has it may use the last 3 % that are kept for root",
            "mm/util.c __vm_enough_memory, security/commoncap.c cap_vm_enough_memory",
        )
    },
    row(
        &[CAP_SETPCAP],
        &["capset"],
        "capset always asks; it is needed only where the inheritable set grows beyond the permitted one",
        "security/commoncap.c cap_capset, cap_inh_is_capped",
    ),
    row(
        &[CAP_FSETID],
        &[],
        "without it the call does the same, and a set-id bit of the file is dropped",
        "fs/attr.c setattr_prepare, fs/inode.c file_remove_privs, mode_strip_sgid",
    ),
    Meaning {
        quiet: true,
        ..row(
            &[CAP_SYS_PTRACE],
            &["read", "pread64", "readv", "getdents64", "getdents"],
            "a glance at another process's /proc: without it some numbers read as 0 (PID/stat) or entries are left out",
            "fs/proc/array.c do_task_stat, kernel/ptrace.c ptrace_has_cap",
        )
    },
    Meaning {
        within: &["kallsyms_show_value", "restricted_pointer"],
        ..row(
            &[CAP_SYSLOG],
            &[],
            "kernel addresses: without it they read as 0",
            "kernel/ksyms_common.c kallsyms_show_value, lib/vsprintf.c restricted_pointer",
        )
    },
    Meaning {
        quiet: true,
        ..row(
            &[CAP_SYS_ADMIN],
            &["listmount", "statmount", "listxattr", "llistxattr", "flistxattr"],
            "a listing: without it mounts that cannot be reached, or trusted.* attributes, are left out",
            "fs/namespace.c do_statmount, fs/xattr.c simple_xattr_list",
        )
    },
    Meaning {
        within: &["dev_load"],
        ..row(
            &[CAP_NET_ADMIN, CAP_SYS_MODULE],
            &[],
            "an unknown interface: who has it lets the kernel load a module for it",
            "net/core/dev_ioctl.c dev_load",
        )
    },
    row(
        &[CAP_SYS_MODULE],
        &["ioctl", "socket", "sendto", "sendmsg", "setsockopt"],
        "who has it lets the kernel load a module for what is not there",
        "net/core/dev_ioctl.c dev_load",
    ),
    row(
        &[CAP_NET_ADMIN],
        &["recvmsg", "recvfrom"],
        "socket listing: without it marks and classes are left out",
        "net/ipv4/inet_diag.c inet_diag_msg_attrs_fill",
    ),
    row(
        &[CAP_IPC_LOCK],
        &["io_uring_setup"],
        "memory of the ring is charged to the user without it",
        "io_uring/io_uring.c io_uring_create",
    ),
    row(
        &[CAP_SYS_RESOURCE, CAP_SYS_ADMIN],
        &["pipe", "pipe2"],
        "beyond the user's soft limit a pipe is smaller without it",
        "fs/pipe.c alloc_pipe_info",
    ),
    Meaning {
        within: &["vt_ioctl"],
        ..row(
            &[CAP_SYS_TTY_CONFIG],
            &["ioctl"],
            "asked before it is known whether the request needs it",
            "drivers/tty/vt/vt_ioctl.c vt_ioctl",
        )
    },
];

/// (asked first, granted instead): the kernel asks in turn, and one of them is enough.
pub static ALTERNATIVES: &[(Capability, Capability, &str)] = &[
    (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE, "fs/namei.c generic_permission"),
    (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, "fs/namei.c generic_permission"),
    (CAP_PERFMON, CAP_SYS_ADMIN, "include/linux/capability.h perfmon_capable"),
    (CAP_BPF, CAP_SYS_ADMIN, "include/linux/capability.h bpf_capable"),
    (CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN, "include/linux/capability.h checkpoint_restore_ns_capable"),
    (CAP_SYSLOG, CAP_SYS_ADMIN, "kernel/printk/printk.c check_syslog_permissions"),
    (CAP_NET_ADMIN, CAP_SYS_ADMIN, "kernel/bpf/syscall.c bpf_net_capable"),
    (CAP_NET_RAW, CAP_NET_ADMIN, "net/ipv4/ip_sockglue.c IP_TRANSPARENT"),
    (CAP_SYS_RESOURCE, CAP_SYS_ADMIN, "kernel/fork.c copy_process"),
    (CAP_SYS_ADMIN, CAP_SYS_NICE, "block/ioprio.c ioprio_check_cap"),
];

/// Calls that say nothing of the refusal themselves.
pub static SILENT: &[(Capability, &[&str], &str)] = &[(
    CAP_AUDIT_WRITE,
    &["sendto", "sendmsg", "sendmmsg", "write", "writev"],
    "the refusal comes back in the netlink ack (kernel/audit.c audit_netlink_ok), not from the call",
)];

/// What more is to be said of a need in one of these calls.
pub static REMARKS: &[(&[Capability], &[&str], &str)] = &[
    (
        &[CAP_SETUID, CAP_SETGID],
        &["setuid", "setgid"],
        "changes its identity (asked also where the id is its own already: kernel/sys.c)",
    ),
    (&[CAP_SETUID, CAP_SETGID], &[], "changes its identity or groups"),
    (&[CAP_NET_BIND_SERVICE], &[], "binds a port below net.ipv4.ip_unprivileged_port_start"),
    (&[CAP_NET_RAW], &["socket"], "opens a raw or packet socket"),
    (&[CAP_DAC_OVERRIDE], &[], "passes by the permissions of a file"),
    (&[CAP_DAC_READ_SEARCH], &[], "passes by the permissions of a file for reading, or of a directory"),
    (&[CAP_CHOWN], &[], "changes the owner of a file"),
    (&[CAP_FOWNER], &[], "changes a file that belongs to another user"),
    (&[CAP_KILL], &[], "signals a process of another user"),
    (&[CAP_SYS_CHROOT], &[], "changes its root directory"),
    (&[CAP_SYS_RESOURCE], &["prlimit64", "setrlimit"], "raises a hard limit"),
    (&[CAP_SETPCAP], &["prctl"], "drops from its bounding set, or sets securebits"),
];

/// Powers that are as good as root's, each with the reason.
pub static EQUAL_ROOT: &[(Capability, &str)] = &[
    (CAP_SYS_ADMIN, "mounts file systems, enters namespaces, and opens a hundred other doors"),
    (CAP_SYS_MODULE, "loads code into the kernel"),
    (CAP_SYS_PTRACE, "takes over every process that it can see"),
    (CAP_SYS_RAWIO, "reads and writes memory and devices below the kernel"),
    (CAP_DAC_READ_SEARCH, "reads any file of a mounted file system by its handle (open_by_handle_at)"),
    (CAP_BPF, "with CAP_PERFMON reads the kernel's memory"),
    (CAP_SYS_BOOT, "starts another kernel (kexec)"),
    (CAP_MAC_ADMIN, "changes the security policy"),
];

/// Why EPERM where no capability was refused, by call.
pub static NO_CAPABILITY: &[(&[&str], &str)] = &[
    (
        &["execve", "execveat"],
        "a program with file capabilities outside the bounding set is refused without any check (getcap shows them), as is \
         a set-id program under some policies",
    ),
    (
        &["ptrace", "process_vm_readv", "process_vm_writev"],
        "the process is protected, traced already, or an LSM (yama) refuses",
    ),
];

/// Calls of which EPERM says no more than that it was asked of the wrong thing: no capability, no filter, no finding.
pub static HARMLESS: &[(&[&str], &str)] = &[
    (&["setpgid", "setsid"], "the process is a leader already: nothing was missing"),
    (&["epoll_ctl"], "a file of a kind that cannot be waited for: nothing was missing"),
];

pub fn probe(capability: Capability, syscall: &str, quiet: Option<bool>, stack: &[String]) -> Option<&'static Meaning> {
    let below = |names: &[&str]| stack.iter().any(|name| names.contains(&name.as_str()));
    PROBES.iter().find(|row| {
        row.capabilities.contains(&capability)
            && (row.syscalls.is_empty() || row.syscalls.contains(&syscall))
            && (!row.quiet || quiet != Some(false))
            && (row.within.is_empty() || below(row.within))
            && (row.else_within.is_empty() || quiet.is_some() || stack.is_empty() || below(row.else_within))
    })
}

pub fn remark(capability: Capability, syscall: &str) -> Option<&'static str> {
    let fits = |(capabilities, syscalls, _): &&(&[Capability], &[&str], &str)| {
        capabilities.contains(&capability) && (syscalls.is_empty() || syscalls.contains(&syscall))
    };
    REMARKS.iter().find(fits).map(|(_, _, text)| *text)
}
