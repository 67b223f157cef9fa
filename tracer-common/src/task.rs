//! Processes: who they are, and how they end.

use bytemuck::{Pod, Zeroable};

use crate::{Header, record};

/// A task as the kernel knows it at the moment of the event. Unread numbers are `UNKNOWN_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Task {
    /// Process (thread group) and thread, in the host's pid namespace.
    pub tgid: u32,
    pub tid: u32,
    /// The process in its innermost pid namespace, and that namespace's depth (0: the host's).
    pub ns_pid: u32,
    pub ns_level: u32,
    /// Process id of the real parent, in the host's pid namespace.
    pub ppid: u32,
    /// Real uid, in the host's user namespace.
    pub uid: u32,
    /// PID 1 of its pid namespace: process id in the host's namespace.
    pub init: u32,
    /// 1: that PID 1 is exiting; 0: it is not.
    pub init_exiting: u32,
    /// When the process started: `CLOCK_BOOTTIME`, ns. With `tgid` it names one process for ever.
    pub start_ns: u64,
    /// Inode number of the innermost pid namespace.
    pub pidns: u32,
    /// The group leader's `task_struct.flags`.
    pub flags: u32,
    /// Of the thread; NUL-padded, any bytes.
    pub comm: [u8; 16],
}
const _: () = assert!(size_of::<Task>() == 64);

/// The last thread of a process ended (`sched_process_exit` with `signal->live` at 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Exit {
    pub header: Header,
    pub task: Task,
    /// As `wait(2)` gives it: low 7 bits the signal, bit 7 core dumped, the next 8 the status.
    pub status: u32,
    pub reserved: u32,
    /// User and system time of all its threads, ns.
    pub utime_ns: u64,
    pub stime_ns: u64,
    /// Highest resident set, in pages.
    pub peak_rss_pages: u64,
}
record!(Exit, Exit, 120);
