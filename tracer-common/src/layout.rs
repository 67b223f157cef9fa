//! Every kernel field that the kernel side reads, in this one place.
//!
//! `NAME = "struct.member…"`: user space finds the byte offset in the running kernel's BTF and writes it into the
//! read-only global `NAME` before load. `a|b` gives alternatives: the first that exists. Where none does, the global
//! stays `ABSENT`, and the verifier prunes the branch that needs it.
//!
//! Call with the name of a macro that takes the list: each side makes of it what it needs.

/// Byte offsets.
#[macro_export]
macro_rules! kernel_fields {
    ($with:ident) => {
        $with! {
            TASK_TGID = "task_struct.tgid";
            TASK_PID = "task_struct.pid";
            TASK_FLAGS = "task_struct.flags";
            TASK_COMM = "task_struct.comm";
            TASK_REAL_PARENT = "task_struct.real_parent";
            TASK_GROUP_LEADER = "task_struct.group_leader";
            TASK_REAL_CRED = "task_struct.real_cred";
            TASK_SIGNAL = "task_struct.signal";
            TASK_SIGHAND = "task_struct.sighand";
            TASK_BLOCKED = "task_struct.blocked";
            TASK_MM = "task_struct.mm";
            TASK_CGROUPS = "task_struct.cgroups";
            TASK_THREAD_PID = "task_struct.thread_pid";
            TASK_OVER_HIGH = "task_struct.memcg_nr_pages_over_high";
            TASK_START_BOOTTIME = "task_struct.start_boottime|task_struct.real_start_time";
            TASK_EXIT_CODE = "task_struct.exit_code";
            TASK_UTIME = "task_struct.utime";
            TASK_STIME = "task_struct.stime";
            TASK_STATE = "task_struct.__state|task_struct.state";
            TASK_STACK = "task_struct.stack";
            TASK_NSPROXY = "task_struct.nsproxy";
            CRED_UID = "cred.uid";
            CRED_USER_NS = "cred.user_ns";
            USERNS_INUM = "user_namespace.ns.inum";
            USERNS_LEVEL = "user_namespace.level";
            NSPROXY_MNT = "nsproxy.mnt_ns";
            NSPROXY_PID_FOR_CHILDREN = "nsproxy.pid_ns_for_children";
            MM_EXE_FILE = "mm_struct.exe_file";
            FILE_INODE = "file.f_inode";
            INODE_INO = "inode.i_ino";
            SIGNAL_LIVE = "signal_struct.live";
            SIGNAL_FLAGS = "signal_struct.flags";
            SIGNAL_GROUP_EXIT_CODE = "signal_struct.group_exit_code";
            SIGNAL_OOM_SCORE_ADJ = "signal_struct.oom_score_adj";
            SIGNAL_UTIME = "signal_struct.utime";
            SIGNAL_STIME = "signal_struct.stime";
            SIGNAL_MAXRSS = "signal_struct.maxrss";
            SIGHAND_ACTION = "sighand_struct.action";
            KSIGACTION_HANDLER = "k_sigaction.sa.sa_handler";
            SIGINFO_CODE = "kernel_siginfo.si_code";
            SIGINFO_ADDR = "kernel_siginfo._sifields._sigfault._addr";
            PID_LEVEL = "pid.level";
            PID_NUMBERS = "pid.numbers";
            UPID_NR = "upid.nr";
            UPID_NS = "upid.ns";
            PIDNS_CHILD_REAPER = "pid_namespace.child_reaper";
            PIDNS_INUM = "pid_namespace.ns.inum";
            PIDNS_ALLOCATED = "pid_namespace.pid_allocated";
            PIDNS_PID_MAX = "pid_namespace.pid_max";
            CSS_SET_DFL_CGRP = "css_set.dfl_cgrp";
            CSS_SET_SUBSYS = "css_set.subsys";
            CSS_CGROUP = "cgroup_subsys_state.cgroup";
            CSS_PARENT = "cgroup_subsys_state.parent";
            CGROUP_KN = "cgroup.kn";
            CGROUP_ROOT = "cgroup.root";
            CGROUP_LEVEL = "cgroup.level";
            CGROUP_ROOT_HIERARCHY = "cgroup_root.hierarchy_id";
            KERNFS_ID = "kernfs_node.id";
            KERNFS_NAME = "kernfs_node.name";
            KERNFS_PARENT = "kernfs_node.parent|kernfs_node.__parent";
            MEMCG_CSS = "mem_cgroup.css";
            MEMCG_MEMORY_USAGE = "mem_cgroup.memory.usage";
            MEMCG_MEMORY_MAX = "mem_cgroup.memory.max";
            MEMCG_SWAP_USAGE = "mem_cgroup.memsw.usage";
            MEMCG_SWAP_MAX = "mem_cgroup.memsw.max";
            MEMCG_OOM_GROUP = "mem_cgroup.oom_group";
            MEMCG_VMSTATS = "mem_cgroup.vmstats";
            VMSTATS_STATE = "memcg_vmstats.state";
            MM_RSS_STAT = "mm_struct.rss_stat";
            PERCPU_COUNTER_COUNT = "percpu_counter.count";
            OOM_MEMCG = "oom_control.memcg";
            OOM_CHOSEN = "oom_control.chosen";
            OOM_CONSTRAINT = "oom_control.constraint";
            OOM_ORDER = "oom_control.order";
            OOM_TOTALPAGES = "oom_control.totalpages";
            DTC_GDTC = "dirty_throttle_control.gdtc";
            DTC_DIRTY = "dirty_throttle_control.dirty";
            DTC_THRESH = "dirty_throttle_control.thresh";
            DTC_BG_THRESH = "dirty_throttle_control.bg_thresh";
            DTC_WB_DIRTY = "dirty_throttle_control.wb_dirty";
            DTC_WB_THRESH = "dirty_throttle_control.wb_thresh";
            WB_BDI = "bdi_writeback.bdi";
            WB_BANDWIDTH = "bdi_writeback.avg_write_bandwidth";
            BDI_DEV_NAME = "backing_dev_info.dev_name";
            RQ_QUEUE = "request.q";
            RQ_FLAGS = "request.cmd_flags";
            RQ_DATA_LEN = "request.__data_len";
            RQ_BIO = "request.bio";
            RQ_DISK = "request.rq_disk";
            RQ_START = "request.start_time_ns";
            QUEUE_DISK = "request_queue.disk";
            DISK_MAJOR = "gendisk.major";
            DISK_MINOR = "gendisk.first_minor";
            BIO_BLKG = "bio.bi_blkg";
            BIO_FLAGS = "bio.bi_flags";
            BIO_VECTOR = "bio.bi_io_vec";
            VECTOR_PAGE = "bio_vec.bv_page";
            PAGE_HEAD = "page.compound_head|page.compound_info";
            PAGE_MAPPING = "page.mapping";
            MAPPING_HOST = "address_space.host";
            INODE_SB = "inode.i_sb";
            BLKG_BLKCG = "blkcg_gq.blkcg";
            BLKCG_CSS = "blkcg.css";
            REGS_SYSCALL = "pt_regs.orig_ax|pt_regs.syscallno";
            REGS_ARG0 = "pt_regs.di|pt_regs.orig_x0";
            REGS_ARG1 = "pt_regs.si";
            REGS_ARG2 = "pt_regs.dx";
            REGS_ARG3 = "pt_regs.r10";
            REGS_ARG4 = "pt_regs.r8";
            REGS_CS = "pt_regs.cs|pt_regs.csx";
            TASK_FILES = "task_struct.files";
            FILES_FDT = "files_struct.fdt";
            FDT_MAX = "fdtable.max_fds";
            FDT_FD = "fdtable.fd";
            FILE_DENTRY = "file.f_path.dentry";
            PATH_DENTRY = "path.dentry";
            DENTRY_SB = "dentry.d_sb";
            DENTRY_INODE = "dentry.d_inode";
            DENTRY_PARENT = "dentry.d_parent";
            DENTRY_NAME = "dentry.d_name.name";
            SB_DEV = "super_block.s_dev";
            SB_MAGIC = "super_block.s_magic";
            INODE_MODE = "inode.i_mode";
            SKB_DEV = "sk_buff.dev";
            SKB_SK = "sk_buff.sk";
            SKB_DST = "sk_buff._skb_refdst";
            DST_DEV = "dst_entry.dev";
            DEVICE_MTU = "net_device.mtu";
            SKB_PROTOCOL = "sk_buff.protocol";
            SKB_HEAD = "sk_buff.head";
            SKB_NETWORK_HEADER = "sk_buff.network_header";
            SKB_MAC_HEADER = "sk_buff.mac_header";
            SKB_DATA = "sk_buff.data";
            SKB_TAIL = "sk_buff.tail";
            SKB_END = "sk_buff.end";
            SKB_LEN = "sk_buff.len";
            SHARED_GSO_SEGS = "skb_shared_info.gso_segs";
            DEVICE_STATE = "net_device.state";
            DEVICE_NAME = "net_device.name";
            DEVICE_LINK_OPS = "net_device.rtnl_link_ops";
            LINK_KIND = "rtnl_link_ops.kind";
            DEVICE_IFINDEX = "net_device.ifindex";
            DEVICE_NET = "net_device.nd_net.net";
            SOCK_NET = "sock.__sk_common.skc_net.net";
            NET_INUM = "net.ns.inum";
            SOCK_CGROUP = "sock.sk_cgrp_data";
            SOCK_STATE = "sock.__sk_common.skc_state";
            SOCK_FAMILY = "sock.__sk_common.skc_family";
            SOCK_PROTOCOL = "sock.sk_protocol";
            SOCK_ERR = "sock.sk_err";
            SOCK_DPORT = "sock.__sk_common.skc_dport";
            SOCK_LOCAL = "sock.__sk_common.skc_rcv_saddr";
            SOCK_REMOTE = "sock.__sk_common.skc_daddr";
            SOCK_LOCAL6 = "sock.__sk_common.skc_v6_rcv_saddr";
            SOCK_REMOTE6 = "sock.__sk_common.skc_v6_daddr";
            INET_SPORT = "inet_sock.inet_sport";
            ICSK_CA_STATE = "inet_connection_sock.icsk_ca_state";
            ICSK_RETRANSMITS = "inet_connection_sock.icsk_retransmits";
            TCP_TOTAL_RETRANS = "tcp_sock.total_retrans";
            TCP_DATA_SEGS_OUT = "tcp_sock.data_segs_out";
            TCP_DSACKS = "tcp_sock.dsack_dups";
            TCP_REORD_SEEN = "tcp_sock.reord_seen";
            TCP_REORDERING = "tcp_sock.reordering";
            TCP_SRTT = "tcp_sock.srtt_us";
            PIDS_CSS = "pids_cgroup.css";
            PIDS_CURRENT = "pids_cgroup.counter";
            PIDS_LIMIT = "pids_cgroup.limit";
        }
    };
}

/// Numbers that are no offsets: indices, sizes, shapes, and what this run wants.
///
/// `NAME: how it is found`.
#[macro_export]
macro_rules! kernel_facts {
    ($with:ident) => {
        $with! {
            /// Index in `css_set.subsys` of the controller whose hierarchy carries the key; absent: the default hierarchy.
            KEY_SUBSYS;
            /// Index of the memory controller.
            MEMORY_SUBSYS;
            /// Index of the pids controller.
            PIDS_SUBSYS;
            /// `cgroup_root.hierarchy_id` of the hierarchy that carries the key.
            KEY_HIERARCHY;
            /// How `mem_cgroup.vmstats` looks: one of `VMSTATS_*`.
            VMSTATS_SHAPE;
            /// How `mm_struct.rss_stat` looks: one of `RSS_*`.
            RSS_SHAPE;
            /// Size of a `percpu_counter`, the stride of `rss_stat` in `RSS_PERCPU`.
            RSS_STRIDE;
            /// 1: `mark_victim`'s first argument is the task; 0: it is only a pid.
            MARK_VICTIM_HAS_TASK;
            /// 1: `sched_process_exit` has the argument `group_dead`.
            EXIT_HAS_GROUP_DEAD;
            /// 1: `balance_dirty_pages` passes its `dirty_throttle_control`; 0: the numbers in it.
            PAUSE_HAS_CONTROL;
            /// The flag of a request that is of swap.
            RQ_SWAP;
            /// The flag of a bio whose memory is a process's, kept in its place.
            BIO_PINNED;
            /// 1: a page that is part of a larger one has a mask that leads to the first; 0: that one's address.
            PAGE_HEAD_IS_MASK;
            /// Which argument of `block_rq_issue` is the request.
            RQ_ISSUE_ARGUMENT;
            /// 1: `kfree_skb` says why a packet is dropped.
            DROP_HAS_REASON;
            /// 1: `tcp_retransmit_skb` also fires where sending failed, and says so.
            RESENT_HAS_ERROR;
            /// Nanoseconds of a jiffy.
            TICK_NS;
            /// 1: `sched_switch` has the argument `prev_state` behind the others; 0: it ends with `next`.
            SWITCH_HAS_STATE;
            /// `sizeof(struct k_sigaction)`.
            KSIGACTION_SIZE;
            /// Indices into the memcg's statistics.
            STAT_INDEX_ANON;
            STAT_INDEX_FILE;
            STAT_INDEX_SHMEM;
            STAT_INDEX_KMEM;
            STAT_INDEX_SWAP;
            STAT_INDEX_SLAB_RECLAIMABLE;
            STAT_INDEX_SLAB_UNRECLAIMABLE;
            STAT_INDEX_KERNEL_STACK;
            STAT_INDEX_PERCPU;
            STAT_INDEX_SOCK;
            /// 1: every exit is wanted; else only those in cgroups that an OOM kill hit.
            WANT_ALL_EXITS;
            /// Which signals are wanted: `SCOPE_*` of the signal records.
            WANT_SIGNALS;
            /// 1: processes that nobody reaped are kept in a map.
            WANT_UNREAPED;
            /// Which capability checks are wanted: bits `WANT_*` of the records of capabilities.
            WANT_CAPS;
            /// 1: calls that the network refuses are counted.
            WANT_NET_REFUSALS;
            /// The flow whose packets are followed: its protocol (0: none is), the port and the address of one end, as IPv6 in
            /// words, the first the highest.
            WANT_FLOW_PROTOCOL;
            WANT_FLOW_PORT;
            WANT_FLOW_ADDRESS_0;
            WANT_FLOW_ADDRESS_1;
            WANT_FLOW_ADDRESS_2;
            WANT_FLOW_ADDRESS_3;
            /// 1: the kernel can say where a task's registers are.
            HAS_TASK_PT_REGS;
            /// Id of a structure of nothing but words, where the kernel can be told to take an address for one of these; else 0.
            WORDS_TYPE;
            /// Where a task's registers are otherwise, from the low end of its kernel stack.
            REGS_IN_STACK;
            /// Size of the ring, bytes.
            RING_BYTES;
            /// The tracer's own process: its signals and forks are not events.
            SELF_TGID;
        }
    };
}

/// What is called in place of `bpf_rdonly_cast`, whose id user space puts there before it loads the programs.
pub const CAST_CALL: u32 = 0x7fff_4711;

/// `mem_cgroup.vmstats` is an array of longs within the struct (5.10).
pub const VMSTATS_ARRAY: u32 = 1;
/// … a struct within the struct.
pub const VMSTATS_STRUCT: u32 = 2;
/// … a pointer to a struct (6.1 and newer).
pub const VMSTATS_POINTER: u32 = 3;

/// `mm_struct.rss_stat` is an array of longs.
pub const RSS_ARRAY: u32 = 1;
/// … an array of `percpu_counter` (6.2 and newer).
pub const RSS_PERCPU: u32 = 2;
