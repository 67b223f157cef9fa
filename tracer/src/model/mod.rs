//! The vocabulary: what a container, a process and a finding are, and how each looks as JSON.

mod container;
mod finding;
mod process;
pub mod recorded;
mod signal;
mod size;
mod time;

pub use container::{Container, ContainerRef, Owner, Runtime};
pub use finding::{Code, Evidence, Finding, Severity, State};
pub use process::{Process, ProcessIn};
pub use signal::{signal_name, signal_names, signal_number};
pub use size::size;
pub use time::{Timestamp, span};

use std::collections::BTreeMap;

/// Why a field is null: field name to reason, in words for a person. Shown beside the nulls in JSON.
pub type Unknown = BTreeMap<&'static str, String>;
