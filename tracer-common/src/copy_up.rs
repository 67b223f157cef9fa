//! Files that an overlay copied up from a lower layer before they could be written (fs/overlayfs/copy_up.c).

use bytemuck::{Pod, Zeroable};

use crate::{Header, record, space::PATH_LEN, task::Task};

/// Smaller files are not told of.
pub const LEAST_BYTES: u64 = 1 << 20;

/// A copy that ended well. `header.cgroup` is the key of the task that had to wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CopyUp {
    pub header: Header,
    pub who: Task,
    /// The file's size: holes in it are not copied.
    pub bytes: u64,
    pub took_ns: u64,
    /// As in a refused call of an open file: the last names, innermost first.
    pub path: [u8; PATH_LEN],
}
record!(CopyUp, CopyUp, 360);

/// A copy that has begun, by thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Copying {
    pub at_ns: u64,
    /// Address of the file's dentry, which the copy holds.
    pub dentry: u64,
    pub bytes: u64,
}
