//! Any event to its container: cgroup paths, runtimes' files, the live table.
//!
//! `path` classifies, `known` holds what paths can't tell, `table` keeps both current: pure, with the clock passed in.
//! What they are fed comes from elsewhere: the kernel's events, a walk of the hierarchy, the runtimes' files.

mod facts;
mod forms;
mod known;
mod lookup;
mod path;
mod table;

pub use facts::Facts;
pub use forms::is_generated;
pub use known::{Known, KnownContainer};
pub use path::{Classified, Level, Match, PodKey, classify, level};
pub use table::{Born, Entry, Place, Seen, Table, Want};
