//! Cgroups come and go.

use bytemuck::{Pod, Zeroable};

use crate::{Header, record, task::Task};

/// Longest name of a cgroup with its NUL (`NAME_MAX` is 255).
pub const NAME_LEN: usize = 256;

/// A cgroup was made. `header.cgroup` is its id. The last two names travel with it, so that a container that is gone
/// when user space looks still has its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Mkdir {
    pub header: Header,
    pub parent: u64,
    /// Its depth: 0 is the root.
    pub level: u32,
    pub reserved: u32,
    /// Who made it: a bare runc's containers are known by that alone until its state is on disk.
    pub maker: Task,
    pub name: [u8; NAME_LEN],
    pub parent_name: [u8; NAME_LEN],
}
record!(Mkdir, CgroupMkdir, 616);

/// A cgroup was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Rmdir {
    pub header: Header,
}
record!(Rmdir, CgroupRmdir, 24);
