//! The vocabulary: what a container, a process and a finding are, and how each looks as JSON.

mod container;
mod finding;
mod process;
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

/// The fields that nobody knows, those with one reason together: `limit, usage` and why.
pub fn by_reason(unknown: &Unknown, is_shown: impl Fn(&str) -> bool) -> Vec<(String, &str)> {
    let mut told: Vec<(String, &str)> = Vec::new();
    for (field, reason) in unknown.iter().filter(|(field, _)| is_shown(field)) {
        match told.iter_mut().find(|(_, other)| other == reason) {
            Some((fields, _)) => {
                fields.push_str(", ");
                fields.push_str(field);
            }
            None => told.push(((*field).to_owned(), reason)),
        }
    }
    told
}
