//! The kernel seen from the kernel side: where its fields are, who a task is, which cgroup it is in, and how a record
//! leaves.

pub mod cgroup;
pub mod diagnose;
pub mod emit;
pub mod histogram;
pub mod layout;
pub mod packet;
pub mod read;
pub mod spread;
pub mod syscall;
pub mod task;
