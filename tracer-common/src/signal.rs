//! Signals as the kernel generates them.

use bytemuck::{Pod, Zeroable};

use crate::{Header, record, task::Task};

/// `signal:signal_generate`. `header.cgroup` is the target's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Signal {
    pub header: Header,
    pub target: Task,
    pub sender: Task,
    pub sender_cgroup: u64,
    pub signal: u32,
    /// `si_code`; for the kernel's own (`SEND_SIG_PRIV`) `SI_KERNEL`.
    pub code: i32,
    /// `TRACE_SIGNAL_*`: 0 queued, 1 ignored, 2 already pending, 3 overflow, 4 lost information.
    pub result: u32,
    /// 1: to the whole process.
    pub group: u32,
    /// The target's disposition: 0 default, 1 ignored, 2 handler; `UNKNOWN_U32`.
    pub disposition: u32,
    /// 1: blocked by the target's mask.
    pub blocked: u32,
    /// 1: `SIGNAL_UNKILLABLE`, PID 1 of a pid namespace.
    pub unkillable: u32,
    /// How many further equal ones were folded into this record by the kernel side.
    pub folded: u32,
}
record!(Signal, Signal, 192);
