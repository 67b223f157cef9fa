//! Attach plans: for each question a chain of hooks, the first that works is taken, and what was taken is kept.

use std::fmt;

/// Where in the kernel a program hooks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The tracepoint's own arguments, as the kernel passes them; needs no BTF to load.
    RawTracepoint(&'static str),
    /// The same by its BTF, so that the verifier knows what the arguments point to: fields are read without a helper, which
    /// takes a twentieth of the time.
    TypedTracepoint(&'static str),
    /// Some of a category, as tracefs knows them: for what has no others, since the kernel writes down their fields first.
    Tracepoints(&'static str, &'static [&'static str]),
    Kprobe(&'static str),
    Kretprobe(&'static str),
    /// Several, of which none may be missing, each with its program.
    All(&'static [(Hook, &'static str)]),
    /// A function's return with its arguments, where neither fexit nor a tracepoint gives them: a kretprobe, and the
    /// program `…_entry` as its kprobe.
    KprobePair(&'static str),
    /// A function's entry, by its BTF: cheaper than a kprobe, for hot functions.
    Fentry(&'static str),
    /// … and its return, with its arguments.
    Fexit(&'static str),
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first(f)?;
        match self.places() {
            0 | 1 => Ok(()),
            places => write!(f, " and {} more", places - 1),
        }
    }
}

impl Hook {
    fn places(&self) -> usize {
        match self {
            Self::All(hooks) => hooks.iter().map(|(hook, _)| hook.places()).sum(),
            Self::Tracepoints(_, names) => names.len(),
            _ => 1,
        }
    }

    fn first(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(hooks) => hooks.first().map_or(Ok(()), |(hook, _)| hook.first(f)),
            Self::RawTracepoint(name) => write!(f, "raw tracepoint {name}"),
            Self::TypedTracepoint(name) => write!(f, "BTF tracepoint {name}"),
            Self::Tracepoints(category, names) => {
                write!(f, "tracepoint {category}:{}", names.first().unwrap_or(&"none"))
            }
            Self::Kprobe(function) => write!(f, "kprobe {function}"),
            Self::Kretprobe(function) => write!(f, "kretprobe {function}"),
            Self::KprobePair(function) => write!(f, "kprobe and kretprobe {function}"),
            Self::Fentry(function) => write!(f, "fentry {function}"),
            Self::Fexit(function) => write!(f, "fexit {function}"),
        }
    }
}

/// One way to answer a probe's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    pub hook: Hook,
    /// The program's name in the kernel side's object.
    pub program: &'static str,
    /// What this way cannot tell, where it is not the best one.
    pub costs: &'static str,
}

/// A question to the kernel, and the ways to ask it, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub name: &'static str,
    pub question: &'static str,
    pub branches: &'static [Branch],
    /// A global of the layout without which every branch is void.
    pub needs: &'static [&'static str],
    /// What is lost where no branch works; `None`: the lens cannot work at all.
    pub without: Option<&'static str>,
}

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub probe: &'static Probe,
    pub branch: Option<Branch>,
    /// Each way that failed before, and why.
    pub refused: Vec<(String, String)>,
}

impl Taken {
    pub fn attached(&self) -> bool {
        self.branch.is_some()
    }
}

impl Branch {
    /// Every program that it takes.
    pub fn programs(&self) -> Vec<String> {
        match self.hook {
            Hook::All(hooks) => hooks.iter().map(|(_, program)| (*program).to_owned()).collect(),
            Hook::KprobePair(_) => vec![self.program.to_owned(), entry_of(self.program)],
            _ => vec![self.program.to_owned()],
        }
    }
}

/// The program that sees the arguments, of the one that sees what is returned.
pub fn entry_of(program: &str) -> String {
    format!("{program}_entry")
}

const fn branch(hook: Hook, program: &'static str) -> Branch {
    Branch { hook, program, costs: "" }
}

pub static OOM_DECISION: Probe = Probe {
    name: "oom_decision",
    question: "which limit was hit, and who asked for memory",
    branches: &[branch(Hook::Kprobe("oom_kill_process"), "oom_decision")],
    needs: &["OOM_MEMCG", "OOM_CHOSEN"],
    without: Some(
        "the level whose limit was hit is inferred from the counters when the victim is marked; the constraint (cpuset) is not known",
    ),
};
pub static OOM_DONE: Probe = Probe {
    name: "oom_done",
    question: "when is a decision complete",
    branches: &[branch(Hook::Kretprobe("oom_kill_process"), "oom_done")],
    needs: &["OOM_MEMCG"],
    without: Some("the victims of one decision are told apart by thread and time"),
};
pub static OOM_VICTIM: Probe = Probe {
    name: "oom_victim",
    question: "who was killed, and what filled the limit",
    branches: &[branch(Hook::RawTracepoint("mark_victim"), "oom_victim")],
    needs: &["MARK_VICTIM_HAS_TASK", "MEMORY_SUBSYS"],
    without: None,
};
pub static OOM_SHARER: Probe = Probe {
    name: "oom_sharer",
    question: "who died with the victim because they shared its memory",
    branches: &[branch(Hook::RawTracepoint("signal_generate"), "oom_sharer")],
    needs: &["TASK_MM"],
    without: Some("processes that share a victim's memory are not listed"),
};
pub static SIGNAL: Probe = Probe {
    name: "signal",
    question: "who sends which signal, and what the kernel makes of it",
    branches: &[branch(Hook::RawTracepoint("signal_generate"), "signal")],
    needs: &["TASK_SIGHAND", "SIGHAND_ACTION", "KSIGACTION_SIZE", "SIGINFO_CODE"],
    without: Some("who sent a fatal signal is not known"),
};
pub static SIGNAL_DROPPED: Probe = Probe {
    name: "signal_dropped",
    question: "which signals PID 1 had blocked, and lost when it took them",
    branches: &[branch(Hook::RawTracepoint("signal_deliver"), "signal_dropped")],
    needs: &["TASK_SIGNAL", "SIGNAL_FLAGS", "KSIGACTION_HANDLER"],
    without: Some("a signal that PID 1 had blocked, and that is dropped later, has no verdict"),
};
pub static EXIT: Probe = Probe {
    name: "exit",
    question: "which processes ended, and how",
    branches: &[branch(Hook::RawTracepoint("sched_process_exit"), "exit")],
    needs: &["TASK_SIGNAL"],
    without: Some("whether PID 1 survived is not known"),
};
pub static CGROUP_MKDIR: Probe = Probe {
    name: "cgroup_mkdir",
    question: "which containers come",
    branches: &[branch(Hook::RawTracepoint("cgroup_mkdir"), "cgroup_mkdir")],
    needs: &["CGROUP_KN", "KERNFS_NAME", "CGROUP_ROOT_HIERARCHY"],
    without: Some("containers that live shorter than a second may stay nameless"),
};
pub static CGROUP_RMDIR: Probe = Probe {
    name: "cgroup_rmdir",
    question: "which containers go",
    branches: &[branch(Hook::RawTracepoint("cgroup_rmdir"), "cgroup_rmdir")],
    needs: &["CGROUP_KN", "CGROUP_ROOT_HIERARCHY"],
    without: Some("containers that are gone are forgotten later"),
};
pub static FORK_REFUSED: Probe = Probe {
    name: "fork_refused",
    question: "which forks were refused, by whose limit, and who asked",
    branches: &[branch(Hook::Kretprobe("pids_can_fork"), "fork_refused")],
    needs: &["PIDS_SUBSYS", "PIDS_CURRENT", "PIDS_LIMIT"],
    without: Some("refused forks are read from pids.events once a second: who asked is not known"),
};
pub static FORK_FAILED: Probe = Probe {
    name: "fork_failed",
    question: "which forks a limit refused that is no cgroup's: the user's, the pid namespace's, the host's",
    branches: &[
        branch(Hook::Kretprobe("copy_process"), "fork_failed"),
        Branch {
            hook: Hook::RawTracepoint("sys_exit"),
            program: "fork_failed_exit",
            costs: "every system call passes by, and nearly all at once",
        },
    ],
    needs: &["PIDS_SUBSYS", "TASK_NSPROXY"],
    without: Some("forks that another limit than pids.max refused are not seen"),
};
pub static PROCESS_FREE: Probe = Probe {
    name: "process_free",
    question: "which of those that ended were reaped",
    branches: &[branch(Hook::RawTracepoint("sched_process_free"), "process_free")],
    needs: &["TASK_TGID", "TASK_PID", "TASK_START_BOOTTIME"],
    without: Some("zombies are found by a sweep of /proc every 10 s, and their age counts from there"),
};
pub static RECLAIM_BEGIN: Probe = Probe {
    name: "reclaim_begin",
    question: "who reclaims memory because a cgroup is at its limit",
    branches: &[branch(Hook::RawTracepoint("mm_vmscan_memcg_reclaim_begin"), "reclaim_begin")],
    needs: &["MEMORY_SUBSYS"],
    without: Some("time that a container's tasks spend in reclaim is not known"),
};
pub static RECLAIM_END: Probe = Probe {
    name: "reclaim_end",
    question: "how long that takes",
    branches: &[branch(Hook::RawTracepoint("mm_vmscan_memcg_reclaim_end"), "reclaim_end")],
    needs: &["MEMORY_SUBSYS"],
    without: Some("time that a container's tasks spend in reclaim is not known"),
};
pub static HOST_RECLAIM_BEGIN: Probe = Probe {
    name: "host_reclaim_begin",
    question: "who reclaims memory because the host is short of it",
    branches: &[branch(Hook::RawTracepoint("mm_vmscan_direct_reclaim_begin"), "host_reclaim_begin")],
    needs: &["TASK_TGID"],
    without: Some("stalls because the host is short of memory are not seen"),
};
pub static HOST_RECLAIM_END: Probe = Probe {
    name: "host_reclaim_end",
    question: "how long that takes",
    branches: &[branch(Hook::RawTracepoint("mm_vmscan_direct_reclaim_end"), "host_reclaim_end")],
    needs: &["TASK_TGID"],
    without: Some("stalls because the host is short of memory are not seen"),
};
pub static OVER_HIGH_BEGIN: Probe = Probe {
    name: "over_high_begin",
    question: "who is held because its cgroup is above memory.high",
    branches: &[
        branch(Hook::Kprobe("__mem_cgroup_handle_over_high"), "over_high_begin"),
        branch(Hook::Kprobe("mem_cgroup_handle_over_high"), "over_high_begin"),
    ],
    needs: &["MEMORY_SUBSYS"],
    without: Some("how long tasks are held at memory.high (v2) is not known, only how often"),
};
pub static OVER_HIGH_END: Probe = Probe {
    name: "over_high_end",
    question: "how long it is held",
    branches: &[
        branch(Hook::Kretprobe("__mem_cgroup_handle_over_high"), "over_high_end"),
        branch(Hook::Kretprobe("mem_cgroup_handle_over_high"), "over_high_end"),
    ],
    needs: &["MEMORY_SUBSYS"],
    without: Some("how long tasks are held at memory.high (v2) is not known, only how often"),
};
pub static DIRTY_PAUSE: Probe = Probe {
    name: "dirty_pause",
    question: "who is paused in write() because too much is dirty",
    branches: &[branch(Hook::RawTracepoint("balance_dirty_pages"), "dirty_pause")],
    needs: &["PAUSE_HAS_CONTROL", "TICK_NS"],
    without: Some("pauses of buffered writers are not seen"),
};
pub static BLOCK_ISSUE: Probe = Probe {
    name: "block_issue",
    question: "when requests go to their device",
    branches: &[branch(Hook::RawTracepoint("block_rq_issue"), "block_issue")],
    needs: &["RQ_ISSUE_ARGUMENT", "RQ_BIO"],
    without: Some("requests to block devices are not seen"),
};
pub static BLOCK_COMPLETE: Probe = Probe {
    name: "block_complete",
    question: "whose requests complete, how large, and how fast",
    branches: &[branch(Hook::RawTracepoint("block_rq_complete"), "block_complete")],
    needs: &["RQ_DATA_LEN", "DISK_MAJOR"],
    without: Some("requests to block devices are not seen"),
};
pub static PACKET_DROP: Probe = Probe {
    name: "packet_drop",
    question: "which packets the kernel drops, where and why",
    branches: &[
        branch(Hook::TypedTracepoint("kfree_skb"), "packet_drop_typed"),
        Branch { hook: Hook::RawTracepoint("kfree_skb"), program: "packet_drop", costs: DEARER },
    ],
    needs: &["SKB_DEV", "DEVICE_NET", "NET_INUM"],
    without: None,
};
const DEARER: &str = "twice as dear per packet";
pub static PACKET_SENT: Probe = Probe {
    name: "packet_sent",
    question: "which packets of containers do devices send, and how long after the container did",
    branches: &[
        branch(Hook::TypedTracepoint("net_dev_start_xmit"), "packet_sent_typed"),
        Branch { hook: Hook::RawTracepoint("net_dev_start_xmit"), program: "packet_sent", costs: DEARER },
    ],
    needs: &["SKB_DEV", "DEVICE_NET", "NET_INUM", "SKB_HEAD"],
    without: Some(
        "packets are not counted hop by hop, drops behind NAT have no container, and DNS queries are not seen",
    ),
};
pub static PACKET_RECEIVED: Probe = Probe {
    name: "packet_received",
    question: "which packets of containers do devices receive",
    branches: &[
        branch(Hook::TypedTracepoint("netif_receive_skb"), "packet_received_typed"),
        Branch { hook: Hook::RawTracepoint("netif_receive_skb"), program: "packet_received", costs: DEARER },
    ],
    needs: &["SKB_DEV", "DEVICE_NET", "NET_INUM", "SKB_HEAD"],
    without: Some("only packets that devices send are counted, and DNS queries are not told"),
};
pub static TCP_RESENT: Probe = Probe {
    name: "tcp_resent",
    question: "what TCP sends again, of which connection and why",
    branches: &[branch(Hook::RawTracepoint("tcp_retransmit_skb"), "tcp_resent")],
    needs: &["SOCK_NET", "NET_INUM", "ICSK_CA_STATE", "TCP_TOTAL_RETRANS"],
    without: Some("retransmissions are not seen"),
};
pub static TCP_CLOSED: Probe = Probe {
    name: "tcp_closed",
    question: "which connections come to nothing, and what the peer said of what was sent twice",
    branches: &[branch(Hook::RawTracepoint("inet_sock_set_state"), "tcp_closed")],
    needs: &["SOCK_NET", "NET_INUM", "SOCK_ERR", "TCP_TOTAL_RETRANS"],
    without: Some("connections that are refused or time out are not seen"),
};
pub static FILE_REFUSED: Probe = Probe {
    name: "file_refused",
    question: "which calls a file system refuses: no space, no quota, /proc/sys read-only; which the network does: no route, no free port, a port in use; and which waits for a device end",
    branches: &[branch(Hook::RawTracepoint("sys_exit"), "file_refused")],
    needs: &["REGS_SYSCALL", "REGS_ARG0"],
    without: Some(
        "full disks, quotas, calls without a route or a free port, and how long fsync and its like take are not seen",
    ),
};
pub static COPY_UP: Probe = Probe {
    name: "copy_up",
    question: "which files an overlay copies up before they can be written, and how long that takes",
    branches: &[
        branch(Hook::KprobePair("ovl_copy_up_file"), "copied_up"),
        branch(Hook::KprobePair("ovl_copy_up_data"), "copied_up_path"),
    ],
    needs: &["DENTRY_NAME", "PATH_DENTRY"],
    without: Some(
        "copies of large files from an image's layers are not seen (also where the module overlay is not loaded yet)",
    ),
};
pub static SYNC_BEGIN: Probe = Probe {
    name: "sync_begin",
    question: "who begins to wait until what was written is on the device",
    branches: &[
        branch(Hook::All(SYNC_CALLS), "sync_begin_call"),
        Branch {
            hook: Hook::RawTracepoint("sys_enter"),
            program: "sync_begin",
            costs: "every system call passes by, and nearly all at once",
        },
    ],
    needs: &["REGS_SYSCALL", "REGS_ARG0"],
    without: Some("how long fsync and its like take is not known"),
};
/// The function of a call, since 4.17: (const struct pt_regs *regs).
#[cfg(target_arch = "x86_64")]
macro_rules! function_of {
    ($call:literal) => {
        concat!("__x64_sys_", $call)
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! function_of {
    ($call:literal) => {
        concat!("__arm64_sys_", $call)
    };
}

/// fs/sync.c and mm/msync.c.
const SYNC_CALLS: &[(Hook, &str)] = &[
    (Hook::Kprobe(function_of!("fsync")), "sync_begin_call"),
    (Hook::Kprobe(function_of!("fdatasync")), "sync_begin_call"),
    (Hook::Kprobe(function_of!("sync")), "sync_begin_call"),
    (Hook::Kprobe(function_of!("syncfs")), "sync_begin_call"),
    (Hook::Kprobe(function_of!("sync_file_range")), "sync_begin_call"),
    (Hook::Kprobe(function_of!("msync")), "sync_begin_call"),
];

/// Not needed where [`FILE_REFUSED`] is, which sees the return of every call.
pub static CALL_REFUSED: Probe = Probe {
    name: "call_refused",
    question: "which calls does the network refuse: no route, no free port, a port in use; and which files of /proc/sys are read-only",
    branches: &[
        branch(Hook::All(RETURNS_OF_CALLS), "call_returned"),
        Branch {
            hook: Hook::All(TRACED_CALLS),
            program: "call_traced",
            costs: "every system call takes the kernel's slow way out",
        },
        Branch {
            hook: Hook::RawTracepoint("sys_exit"),
            program: "call_exited",
            costs: "every system call takes the kernel's slow way out, and passes by",
        },
    ],
    needs: &["REGS_SYSCALL", "REGS_ARG0"],
    without: Some("calls without a route or a free port are not seen, nor that /proc/sys is read-only"),
};
const RETURNS_OF_CALLS: &[(Hook, &str)] = &[
    (Hook::Fexit(function_of!("connect")), "connect_returned"),
    (Hook::Fexit(function_of!("bind")), "bind_returned"),
    (Hook::Fexit(function_of!("listen")), "listen_returned"),
    (Hook::Fexit(function_of!("sendto")), "sendto_returned"),
    (Hook::Fexit(function_of!("open")), "open_returned"),
    (Hook::Fexit(function_of!("openat")), "openat_returned"),
    (Hook::Fexit(function_of!("openat2")), "openat2_returned"),
];
const TRACED_CALLS: &[(Hook, &str)] = &[
    // First, since before 6.3 there is none.
    (Hook::RawTracepoint("sock_send_length"), "send_traced"),
    (Hook::Tracepoints("syscalls", ENDS_OF_CALLS), "call_traced"),
];
const ENDS_OF_CALLS: &[&str] = &[
    "sys_exit_connect",
    "sys_exit_bind",
    "sys_exit_listen",
    // Only old architectures have it.
    #[cfg(target_arch = "x86_64")]
    "sys_exit_open",
    "sys_exit_openat",
    "sys_exit_openat2",
];
pub static SCHED_WAKEUP: Probe = Probe {
    name: "sched_wakeup",
    question: "since when does a task wait for a CPU",
    branches: &[branch(Hook::TypedTracepoint("sched_wakeup"), "wakeup")],
    needs: &["TASK_PID", "TASK_CGROUPS"],
    without: Some("only waits of tasks that were preempted are seen, and no end of an uninterruptible sleep"),
};
pub static SCHED_WAKEUP_NEW: Probe = Probe {
    name: "sched_wakeup_new",
    question: "which tasks are new",
    branches: &[branch(Hook::TypedTracepoint("sched_wakeup_new"), "wakeup_new")],
    needs: &["TASK_PID"],
    without: Some("a new task's first wait is not seen"),
};
pub static SCHED_SWITCH: Probe = Probe {
    name: "sched_switch",
    question: "who waits for a CPU and how long, and who sleeps uninterruptibly",
    branches: &[branch(Hook::TypedTracepoint("sched_switch"), "switch")],
    needs: &["TASK_PID", "TASK_CGROUPS", "TASK_STATE", "SWITCH_HAS_STATE"],
    without: Some("no waits for a CPU: contention is not seen; blocked tasks come from sweeps of /proc"),
};
pub static CAP_CHECK: Probe = Probe {
    name: "cap_check",
    question: "who asks for which capability, and what the kernel says",
    branches: &[
        branch(Hook::Fexit("cap_capable"), "cap_checked_fexit"),
        Branch {
            hook: Hook::RawTracepoint("cap_capable"),
            program: "cap_checked",
            costs: "whether a check was quiet (NOAUDIT) is not known; the system call tells what it was for",
        },
        Branch {
            hook: Hook::KprobePair("cap_capable"),
            program: "cap_checked_return",
            costs: "three times as dear per check",
        },
    ],
    needs: &["TASK_REAL_CRED", "USERNS_INUM", "USERNS_LEVEL", "CRED_USER_NS"],
    without: None,
};
pub static CAP_FORK: Probe = Probe {
    name: "cap_fork",
    question: "whose child is a process: the container's, its runtime's, or of docker exec",
    branches: &[branch(Hook::RawTracepoint("sched_process_fork"), "cap_fork")],
    needs: &["TASK_TGID", "TASK_PID"],
    without: Some("children of what came by docker exec count as the application's"),
};
pub static CAP_EXEC: Probe = Probe {
    name: "cap_exec",
    question: "when does the container's own program start",
    branches: &[branch(Hook::RawTracepoint("sched_process_exec"), "cap_exec")],
    needs: &["TASK_NSPROXY", "NSPROXY_MNT"],
    without: Some("the runtime's own checks cannot be told from the application's while it starts"),
};
pub static CAP_MOVE: Probe = Probe {
    name: "cap_move",
    question: "which processes move to another cgroup",
    branches: &[branch(Hook::RawTracepoint("cgroup_attach_task"), "cap_move")],
    needs: &["TASK_TGID"],
    without: Some("a process that leaves the container counts as its own"),
};
pub static CAP_OUTCOME: Probe = Probe {
    name: "cap_outcome",
    question: "what came of a refused call, and which EPERM no capability is the reason of",
    branches: &[branch(Hook::RawTracepoint("sys_exit"), "cap_outcome")],
    needs: &["REGS_SYSCALL"],
    without: Some("whether a call went on after a refusal is not known"),
};
