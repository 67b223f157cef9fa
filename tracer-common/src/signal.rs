//! Signals as the kernel generates them.

use bytemuck::{Pod, Zeroable};

use crate::{Header, record, task::Task};

/// `signal:signal_generate`. `header.cgroup` is the target's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Signal {
    pub header: Header,
    pub target: Task,
    /// Whoever ran when the signal was made: the sender, where a process sent it.
    pub sender: Task,
    pub sender_cgroup: u64,
    pub signal: u32,
    /// `si_code`: above 0 the kernel made it. `SI_KERNEL` for `SEND_SIG_PRIV`, `SI_USER` for `SEND_SIG_NOINFO`.
    pub code: i32,
    /// `TRACE_SIGNAL_*` (include/trace/events/signal.h): 0 queued, 1 ignored, 2 already pending, 3 overflow, 4 queued
    /// without its information.
    pub result: u32,
    /// The target's disposition: 0 default, 1 ignored, 2 handler; `UNKNOWN_U32`.
    pub disposition: u32,
    /// 1: blocked by the target thread's mask.
    pub blocked: u32,
    /// 1: `SIGNAL_UNKILLABLE`: PID 1 of a pid namespace.
    pub unkillable: u32,
    /// Signals like this one (same [`FoldKey`]) since the first, this one too: those in between were not sent one by one.
    pub total: u64,
    /// `si_addr` of a fault.
    pub address: u64,
}
record!(Signal, Signal, 200);

/// `signal:signal_deliver` to a process with `SIGNAL_UNKILLABLE` and the default disposition: it had the signal blocked
/// when that was sent, and now that it takes it the kernel drops it. `header.cgroup` is the target's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Dropped {
    pub header: Header,
    pub target: Task,
    pub signal: u32,
    pub reserved: u32,
}
record!(Dropped, SignalDropped, 96);

/// What makes two signals alike: at most one record of each kind is sent in [`FOLD_NS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct FoldKey {
    /// Process of the target.
    pub target: u32,
    /// Process of the sender; 0: the kernel.
    pub sender: u32,
    pub signal: u32,
    pub result: u32,
}

/// The state of one kind of signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Fold {
    pub sent_ns: u64,
    pub total: u64,
}

pub const FOLD_NS: u64 = 100_000_000;

/// `WANT_SIGNALS`: those that may end a process, or ask a PID 1 to end.
pub const SCOPE_FATAL: u32 = 1;
/// … all of them.
pub const SCOPE_ALL: u32 = 2;

/// Signals whose default is to be ignored: CHLD, CONT, URG, WINCH (as bits `1 << (signal - 1)`).
pub const IGNORED_BY_DEFAULT: u64 = 1 << 16 | 1 << 17 | 1 << 22 | 1 << 27;
/// … to stop: STOP, TSTP, TTIN, TTOU.
pub const STOPS_BY_DEFAULT: u64 = 1 << 18 | 1 << 19 | 1 << 20 | 1 << 21;
