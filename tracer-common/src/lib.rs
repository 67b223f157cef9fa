//! What both sides of ctrace share: the records that travel through the ring buffer, and the list of kernel fields
//! that the kernel side reads.
//!
//! Every record starts with a [`Header`]. All are `repr(C)`, without unnamed padding (`bytemuck::Pod` refuses it at
//! compile time), so that both sides agree and the verifier never sees an uninitialised byte.
#![no_std]

pub mod block;
pub mod caps;
pub mod cgroup;
pub mod copy_up;
pub mod cpu;
pub mod dirty;
pub mod dns;
pub mod dropped;
pub mod flow;
pub mod hops;
pub mod layout;
pub mod loss;
pub mod oom;
pub mod pids;
pub mod signal;
pub mod space;
pub mod stall;
pub mod sync;
pub mod task;
pub mod tcp;

use bytemuck::{Pod, Zeroable};

/// A number that the kernel side could not read: all ones.
pub const UNKNOWN_U32: u32 = u32::MAX;
pub const UNKNOWN_U64: u64 = u64::MAX;
pub const UNKNOWN_I64: i64 = -1;

/// The offset or index of something that this kernel lacks: branches on it are pruned by the verifier.
pub const ABSENT: u32 = u32::MAX;

/// What a record is. Part of the recording format: add, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Kind {
    OomDecision = 1,
    OomVictim = 2,
    OomSharer = 3,
    OomDone = 4,
    Exit = 5,
    CgroupMkdir = 6,
    CgroupRmdir = 7,
    Signal = 9,
    ForkRefused = 10,
    CapCheck = 11,
    CapOutcome = 12,
    CapStart = 13,
    FileRefused = 24,
    ForkFailed = 25,
    SignalDropped = 26,
    CopyUp = 27,
    PacketStep = 28,
    CapBusy = 29,
}

impl Kind {
    pub const ALL: [Self; 18] = [
        Self::OomDecision,
        Self::OomVictim,
        Self::OomSharer,
        Self::OomDone,
        Self::Exit,
        Self::CgroupMkdir,
        Self::CgroupRmdir,
        Self::Signal,
        Self::ForkRefused,
        Self::FileRefused,
        Self::CapCheck,
        Self::CapOutcome,
        Self::CapStart,
        Self::ForkFailed,
        Self::SignalDropped,
        Self::CopyUp,
        Self::PacketStep,
        Self::CapBusy,
    ];

    pub fn from_u32(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }

    /// As losses and recordings show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OomDecision => "oom_decision",
            Self::OomVictim => "oom_victim",
            Self::OomSharer => "oom_sharer",
            Self::OomDone => "oom_done",
            Self::Exit => "exit",
            Self::CgroupMkdir => "cgroup_mkdir",
            Self::CgroupRmdir => "cgroup_rmdir",
            Self::Signal => "signal",
            Self::ForkRefused => "fork_refused",
            Self::FileRefused => "file_refused",
            Self::CapCheck => "cap_check",
            Self::CapOutcome => "cap_outcome",
            Self::CapStart => "cap_start",
            Self::ForkFailed => "fork_failed",
            Self::SignalDropped => "signal_dropped",
            Self::CopyUp => "copy_up",
            Self::PacketStep => "packet_step",
            Self::CapBusy => "cap_busy",
        }
    }
}

/// The start of every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// A [`Kind`].
    pub kind: u32,
    /// Size of the whole record, in bytes.
    pub size: u32,
    /// `CLOCK_BOOTTIME`, in nanoseconds.
    pub time_ns: u64,
    /// Cgroup of the task that the event happened to, in the hierarchy that carries the key (v2: the default one; v1:
    /// memory, else pids): the kernfs id, which is the inode number of its directory. [`UNKNOWN_U64`] where unread.
    pub cgroup: u64,
}

/// A record type and its kind.
pub trait Record: Pod {
    const KIND: Kind;
}

macro_rules! record {
    ($type:ty, $kind:ident, $size:literal) => {
        impl $crate::Record for $type {
            const KIND: $crate::Kind = $crate::Kind::$kind;
        }
        const _: () = assert!(core::mem::size_of::<$type>() == $size && core::mem::align_of::<$type>() == 8);
    };
}
pub(crate) use record;

const _: () = assert!(size_of::<Header>() == 24 && align_of::<Header>() == 8);
