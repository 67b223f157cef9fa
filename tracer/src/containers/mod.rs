//! Any event to its container: cgroup paths, runtimes' files, the live table.
//!
//! `path` classifies, `known` holds what paths can't tell, `table` keeps both current: pure, with the clock passed in.
//! What they are fed comes from elsewhere: the kernel's events, a walk of the hierarchy, the runtimes' files. All of
//! these pass one gate, [`Files`].
//!
//! At start: [`Hierarchy::detect`], [`survey`] (engines, and containers with free-form ids), [`walk`], [`Table::seed`],
//! then [`read_facts`] for each of [`Table::nameless`] into [`Table::named`]. Later, by what [`Table::mkdir`] wants.

mod engines;
mod facts;
mod files;
mod forms;
mod hierarchy;
pub mod inspect;
mod known;
mod lookup;
mod mounts;
mod names;
pub mod oci;
mod path;
mod select;
#[cfg(feature = "sockets")]
pub mod sockets;
mod state;
mod table;

pub use engines::{Conmon, Engines, Place as EnginePlace, survey};
pub use facts::Facts;
pub use files::{Content, FILE_CAP, Files, HostFiles, Item, Listing, Refused, Space};
pub use forms::is_generated;
pub use hierarchy::{Hierarchy, walk};
pub use known::{Known, KnownContainer};
pub use mounts::{Mount, unescape};
pub use names::read as read_facts;
pub use path::{Classified, Level, Match, PodKey, classify, is_within, level};
pub use select::{Selection, Unselected, is_called, select};
pub use table::{Born, Entry, Place, Seen, Table, Want};
