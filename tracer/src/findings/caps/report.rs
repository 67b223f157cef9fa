//! What a watch found out: as `--format json` writes it, and as `--merge` reads it back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    containers::inspect::CapabilitySets,
    findings::numbers::grow,
    model::{
        Finding,
        recorded::{self, Name},
    },
};

/// What a check can mean, in the order of what matters.
pub const VERDICTS: [&str; 7] =
    ["needed", "denied", "not_a_capability", "probed", "exec", "other_namespace", "runtime"];

/// One container's capabilities, by verdict. Lists are in the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When it was made.
    #[serde(default)]
    pub time: Value,
    pub container: Value,
    /// The bounding set of PID 1: what the runtime gave.
    pub granted: Vec<String>,
    pub needed: Vec<String>,
    pub probed: Vec<String>,
    pub denied: Vec<String>,
    pub unused: Vec<String>,
    pub runtime: Vec<String>,
    pub exec: Vec<String>,
    pub other_namespace: Vec<String>,
    pub startup_seen: bool,
    pub watched_ns: u64,
    pub evidence: Vec<Evidence>,
    /// EPERM where no capability was refused.
    #[serde(default)]
    pub not_a_capability: Vec<Evidence>,
    #[serde(default)]
    pub sets: Option<Value>,
    /// Granted, and as good as root: with the reason.
    #[serde(default)]
    pub equal_root: BTreeMap<String, String>,
    /// What was not seen: `startup, reload, stop, restart`.
    #[serde(default)]
    pub not_exercised: Vec<String>,
    /// Its program runs as another user than root of its namespace: then only the ambient set reaches it.
    #[serde(default)]
    pub ambient: bool,
    /// It was gone before the watch ended.
    #[serde(default)]
    pub ended: bool,
    /// `caps.privileged` and `sec.host-root`, where they hold.
    #[serde(default)]
    pub warnings: Vec<Warning>,
    /// Checks that found no room in the kernel's map: lists may lack some.
    #[serde(default)]
    pub uncounted: u64,
    /// Rows of evidence beyond those in here, the least important ones. The lists rest on all of them.
    #[serde(default)]
    pub left_off: u64,
    /// Observations in this: 1, or as many as were merged.
    #[serde(default)]
    pub observations: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unknown: BTreeMap<String, String>,
}

/// A finding about the container as such, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    pub code: String,
    pub severity: String,
    pub summary: String,
}

/// One kind of check, or of refused call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// `None`: EPERM without one.
    pub capability: Option<String>,
    /// `needed, probed, denied, runtime, exec, other_namespace, not_a_capability`.
    pub verdict: String,
    /// Who asked first; `None`: the record that said so was lost.
    pub comm: Option<String>,
    #[serde(default)]
    pub pid: Option<u32>,
    pub syscall: Option<String>,
    pub count: u64,
    pub reason: String,
    /// Where in the kernel's source the rule can be read.
    #[serde(default)]
    pub source: Option<String>,
    /// What the kernel said: true where it was granted.
    #[serde(default)]
    pub granted: Option<bool>,
    /// What became of refused calls: `0`, `EPERM`.
    #[serde(default)]
    pub results: Vec<String>,
    /// Kernel functions below which it was first asked, innermost first.
    #[serde(default)]
    pub stack: Vec<String>,
}

/// The sets of a container's PID 1, of its processes, and of its bundle.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sets {
    pub init: CapabilitySets,
    /// Those of whom the sets differ from PID 1's.
    pub processes: Vec<ProcessSets>,
    pub spec: Option<CapabilitySets>,
    pub no_new_privs: Option<bool>,
    #[serde(deserialize_with = "recorded::optional_name")]
    pub seccomp: Option<Name>,
    /// Of PID 1, in its user namespace.
    pub uid: Option<u32>,
    /// `caps.privileged`, `sec.host-root`.
    pub findings: Vec<Finding>,
    /// Programs of it whose files give capabilities.
    #[serde(default)]
    pub files: Vec<ProgramFile>,
    /// Why the file of some program could not be asked.
    #[serde(default)]
    pub files_unknown: Option<String>,
}

/// What a file gives whoever executes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSets {
    pub permitted: u64,
    pub inheritable: u64,
    /// It is effective at once.
    pub effective: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramFile {
    pub pid: u32,
    pub comm: String,
    pub sets: FileSets,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessSets {
    pub pid: u32,
    pub comm: String,
    pub sets: CapabilitySets,
}

/// Unites observations of the same thing: replicas, days. `None` of none.
pub fn merge(reports: Vec<Report>) -> Option<Report> {
    let mut reports = reports.into_iter();
    let mut all = reports.next()?;
    all.observations = all.observations.max(1);
    for other in reports {
        all.time = other.time;
        if all.container != other.container {
            all.container = Value::Null;
            all.unknown.insert("container".to_owned(), "several were merged".to_owned());
        }
        unite(&mut all.granted, other.granted);
        unite(&mut all.needed, other.needed);
        unite(&mut all.probed, other.probed);
        unite(&mut all.denied, other.denied);
        unite(&mut all.unused, other.unused);
        unite(&mut all.runtime, other.runtime);
        unite(&mut all.exec, other.exec);
        unite(&mut all.other_namespace, other.other_namespace);
        all.startup_seen |= other.startup_seen;
        all.watched_ns = all.watched_ns.saturating_add(other.watched_ns);
        all.ambient |= other.ambient;
        all.ended |= other.ended;
        grow(&mut all.uncounted, other.uncounted);
        grow(&mut all.left_off, other.left_off);
        all.observations = all.observations.saturating_add(other.observations.max(1));
        all.equal_root.extend(other.equal_root);
        all.not_exercised.retain(|what| other.not_exercised.contains(what));
        for warning in other.warnings {
            if !all.warnings.iter().any(|own| own.code == warning.code) {
                all.warnings.push(warning);
            }
        }
        for row in other.evidence {
            add(&mut all.evidence, row);
        }
        for row in other.not_a_capability {
            add(&mut all.not_a_capability, row);
        }
        if all.sets != other.sets {
            all.sets = None;
        }
    }
    // Unused is what no observation saw; refused somewhere and used elsewhere is needed.
    all.unused.retain(|name| !all.needed.contains(name) && !all.probed.contains(name));
    all.denied.retain(|name| !all.needed.contains(name));
    all.probed.retain(|name| !all.needed.contains(name) && !all.denied.contains(name));
    Some(all)
}

fn unite(into: &mut Vec<String>, from: Vec<String>) {
    into.extend(from);
    into.sort_by_key(|name| position(name));
    into.dedup();
}

/// The kernel's number of a capability, for the order.
pub fn position(name: &str) -> (u32, String) {
    let known = caps::all().into_iter().find(|known| known.to_string() == name).map(|known| u32::from(known.index()));
    let number = known.or_else(|| name.strip_prefix("CAP_")?.parse().ok()).unwrap_or(u32::MAX);
    (number, name.to_owned())
}

fn add(rows: &mut Vec<Evidence>, row: Evidence) {
    let same = |own: &&mut Evidence| {
        own.capability == row.capability
            && own.verdict == row.verdict
            && own.comm == row.comm
            && own.syscall == row.syscall
            && own.reason == row.reason
    };
    match rows.iter_mut().find(same) {
        Some(own) => own.count = own.count.saturating_add(row.count),
        None => rows.push(row),
    }
}
