//! Calls that a file system refused: no space, no quota, read-only.

use bytemuck::{Pod, Zeroable};

use crate::{Header, record, task::Task};

pub const EROFS: u32 = 30;
pub const ENOSPC: u32 = 28;
pub const EDQUOT: u32 = 122;

pub const PATH_LEN: usize = 256;

/// `on`: the call named a path; `path` has it, `at` the directory that it is relative to.
pub const ON_PATH: u32 = 1;
/// … an open file; `at` is its descriptor, `path` its last [`NAMES`] names in its file system, innermost first, each
/// NUL-terminated in [`NAME_LEN`] bytes and maybe cut; `/` is the root.
pub const ON_FILE: u32 = 2;
pub const NAMES: usize = 8;
pub const NAME_LEN: usize = PATH_LEN / NAMES;

/// A file system's refusal. `header.cgroup` is the key of the task that asked. Folded: the first of a process, call and
/// error comes at once, then one record a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Refused {
    pub header: Header,
    pub asker: Task,
    /// The system call's number.
    pub syscall: u32,
    pub errno: u32,
    /// Refusals of this process, call and error so far.
    pub count: u64,
    pub on: u32,
    pub at: i32,
    /// Of the open file: its file system's magic number and device, and its mode; `UNKNOWN_*`.
    pub magic: u64,
    /// Recordings hold records as they are: older ones have an inode here.
    pub reserved: u64,
    pub device: u32,
    pub mode: u32,
    /// NUL-terminated, maybe cut.
    pub path: [u8; PATH_LEN],
}
record!(Refused, FileRefused, 392);

/// What makes two refusals alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RefusedKey {
    pub tgid: u32,
    pub syscall: u32,
    pub errno: u32,
    pub device: u32,
}

/// The state of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RefusedCount {
    pub count: u64,
    pub told_ns: u64,
}

pub const FOLD_NS: u64 = 1_000_000_000;
