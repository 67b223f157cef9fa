//! What the kernel still knows of OOM kills from before ctrace was attached.
//!
//! Three sources, each with a different truth: the kernel log (`kmsg` reads it, `report` parses it) has the numbers and
//! the victims of every kill that was not overwritten; the cgroups' counters (`counters`) say how many there were while
//! the cgroup lived; the engine's files (`engine`) say what the engine believed. `merge` makes one list of them.
//! Only `kmsg::read` and `counters::read_file` touch the system; all else are functions of values.

pub mod counters;
pub mod engine;
pub mod kmsg;
pub mod merge;
pub mod report;

pub use counters::CgroupCounts;
pub use engine::Verdict;
pub use merge::{PastKill, Source, Witnessed, merge};
pub use report::{OomReport, Reports};
