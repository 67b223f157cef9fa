//! Capability checks: who asked for which capability, in which call, and what the kernel said.

use bytemuck::{Pod, Zeroable};

use crate::{Header, record, task::Task};

/// Entries of the map `CAP_CHECKS`: kinds of checks of all watched cgroups.
pub const CHECKS: u32 = 4096;
/// Entries of the map `CAP_OUTCOMES`.
pub const OUTCOMES: u32 = 2048;
/// Entries of the map `CAP_WATCHED`.
pub const WATCHED: u32 = 1024;
/// Entries of the map `CAP_PROCESSES`: those beyond are taken anew for what their start tells.
pub const PROCESSES: u32 = 16_384;
/// Entries of the map `CAP_CALLS`: threads that were refused a capability in the call that they are in.
pub const CALLS: u32 = 4096;
/// Kernel stack of a first check, innermost frame first.
pub const FRAMES: usize = 20;

/// `WANT_CAPS`: the checks of watched cgroups are wanted.
pub const WANT_WATCHED: u32 = 1;
/// … and every cgroup that is made from now on is watched.
pub const WANT_NEW: u32 = 2;

/// Not a system call's number: an exception, a kernel thread, or unreadable.
pub const NO_SYSCALL: u32 = u32::MAX;
/// Added to the number where the call was made by the 32-bit way, whose numbers are others.
pub const COMPAT: u32 = 1 << 30;

/// What a process is to its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Origin {
    /// The runtime that makes the container, until it execs the container's own program.
    Runtime = 0,
    Application = 1,
    /// Came by `docker exec` and the like, or is a child of such a one.
    Exec = 2,
}

/// The user namespace that was asked about, against the container's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Relation {
    Own = 0,
    /// One around it: no capability of the container counts there.
    Outer = 1,
    /// One that a process of the container made.
    Inner = 2,
}

/// Bits of [`CheckKey::how`].
pub mod how {
    /// The kernel said -EPERM.
    pub const DENIED: u8 = 1;
    /// `CAP_OPT_NOAUDIT`: a refusal is not to be logged.
    pub const QUIET: u8 = 2;
    /// `CAP_OPT_INSETID`.
    pub const SETID: u8 = 4;
    /// The two above are not known on this way.
    pub const OPTIONS_UNKNOWN: u8 = 8;
    /// Another's credentials were asked about: those of overlayfs' mounter, of whoever opened a file, of another task.
    pub const BORROWED: u8 = 16;
}

/// What makes two checks alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct CheckKey {
    pub cgroup: u64,
    /// Inode number of the program's file.
    pub image: u64,
    pub syscall: u32,
    pub capability: u8,
    /// An [`Origin`].
    pub origin: u8,
    /// A [`Relation`].
    pub relation: u8,
    /// Bits of [`how`].
    pub how: u8,
}
const _: () = assert!(size_of::<CheckKey>() == 24);

/// Per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Count {
    pub count: u64,
}

/// The last check that a CPU saw granted: value of the map `CAP_LAST`. What is quite like it is counted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Last {
    pub key: CheckKey,
    /// Process and thread id, as `bpf_get_current_pid_tgid` gives them.
    pub thread: u64,
    /// Addresses of the credentials and the user namespace that were asked about.
    pub cred: u64,
    pub namespace: u64,
    /// `CAP_CHANGED` before it was looked up.
    pub changed_ns: u64,
    /// Not in `CAP_CHECKS` as yet.
    pub count: u64,
}

/// The first check of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Check {
    pub header: Header,
    pub task: Task,
    pub key: CheckKey,
    /// Return addresses in the kernel; 0 where there are no more.
    pub stack: [u64; FRAMES],
}
record!(Check, CapCheck, 272);

/// What came of calls in which a capability was refused, or that said EPERM without any refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct OutcomeKey {
    pub cgroup: u64,
    pub image: u64,
    /// Bits of the capabilities refused and granted within the call; granted ones are noted from the first refusal on.
    pub denied: u64,
    pub granted: u64,
    pub syscall: u32,
    /// 0, or the negative errno.
    pub result: i32,
    /// An [`Origin`].
    pub origin: u32,
    pub reserved: u32,
}
const _: () = assert!(size_of::<OutcomeKey>() == 48);

/// The first of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Outcome {
    pub header: Header,
    pub task: Task,
    pub key: OutcomeKey,
}
record!(Outcome, CapOutcome, 136);

/// A container's own program has started: the first exec of its PID 1, or of its first process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Start {
    pub header: Header,
    pub task: Task,
}
record!(Start, CapStart, 88);

/// So many calls returned on one CPU, one after the other, in less than [`BUSY_NS`]: to look at each of them would cost it
/// dearly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Busy {
    pub header: Header,
    pub returns: u64,
    pub took_ns: u64,
}
record!(Busy, CapBusy, 40);

/// A power of two.
pub const BUSY_RETURNS: u64 = 1 << 15;
pub const BUSY_NS: u64 = 50_000_000;

/// How fast calls return on a CPU: value of the map `CAP_PACE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Pace {
    pub returns: u64,
    /// When the last so many of them began.
    pub since_ns: u64,
}

/// A cgroup whose checks are wanted: value of the map `CAP_WATCHED`, by its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Watched {
    /// Processes older than this are the container's own, unless `CAP_PROCESSES` says otherwise.
    pub since_ns: u64,
    /// The container's user namespace: inode number; 0 as long as its program has not started.
    pub userns: u32,
    pub userns_level: u32,
    /// 1: its own program has started.
    pub started: u32,
    /// 1: a unit or a mere cgroup, which has no namespaces to tell a runtime by.
    pub plain: u32,
}

/// A process of a watched cgroup: value of the map `CAP_PROCESSES`, by process id. What a check needs is read once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Process {
    /// 0: only the origin is known as yet.
    pub cgroup: u64,
    pub image: u64,
    /// Address of the container's user namespace; 0 where the process is in another one.
    pub namespace: u64,
    /// An [`Origin`].
    pub origin: u32,
    /// 1: a thread of it was refused a capability: then what is granted in the same call matters.
    pub refused: u32,
}

/// The call that a thread is in: value of the map `CAP_CALLS`, by thread id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Call {
    pub denied: u64,
    pub granted: u64,
}
