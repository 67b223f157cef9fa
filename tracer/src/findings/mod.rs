//! Events to findings: one module per lens, pure functions of values and of a clock that is passed in. The text of
//! `ctrace explain` stands beside each rule.

pub mod caps;
pub mod containers;
pub mod cpu;
pub mod exits;
#[cfg(test)]
mod fixture;
pub mod io;
pub mod mem;
pub mod net;
mod numbers;
pub mod oom;
mod pace;
pub mod pids;
pub mod signals;
mod state;
pub mod sysctl;
mod window;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    containers::Table,
    model::{
        Code, Severity, Timestamp,
        recorded::{self, Name},
    },
};

/// What `ctrace explain` knows of a code.
#[derive(Debug)]
pub struct Explained {
    pub code: Code,
    pub severity: Severity,
    pub lens: &'static str,
    /// One line.
    pub title: &'static str,
    /// The long text: what it is, how ctrace knows, what to do.
    pub text: &'static str,
}

/// Every code that exists, in the order to list them.
pub fn all() -> impl Iterator<Item = &'static Explained> {
    oom::EXPLAINED
        .iter()
        .chain(exits::EXPLAINED)
        .chain(signals::EXPLAINED)
        .chain(pids::EXPLAINED)
        .chain(mem::EXPLAINED)
        .chain(io::EXPLAINED)
        .chain(cpu::EXPLAINED)
        .chain(net::EXPLAINED)
        .chain(net::tcp::EXPLAINED)
        .chain(caps::EXPLAINED)
        .chain(containers::EXPLAINED)
}

/// What a rule may look at besides its events.
pub struct World<'a> {
    pub containers: &'a Table,
    pub host: &'a HostFacts,
    /// To add to a record's time to get wall-clock time, ns.
    pub boot_to_wall_ns: i64,
    /// The records' clock.
    pub now_ns: u64,
}

/// What of this host rules depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    pub page_bytes: u64,
    /// 1 or 2: the hierarchy that limits memory.
    pub cgroup_version: u8,
    /// Names of the probes that are attached.
    #[serde(deserialize_with = "recorded::names")]
    pub attached: Vec<Name>,
    pub cpus: u64,
    /// The records begin later than the kernel side, which had counted by then: a recording that was begun in between.
    #[serde(default)]
    pub began_later: bool,
}

impl World<'_> {
    /// The containers' cgroups, and those below them: what is counted in them is the containers'.
    pub fn owned_paths(&self) -> Vec<Arc<str>> {
        let owned = self.containers.paths().filter(|path| self.containers.owner_of_path(path).is_some());
        let mut paths: Vec<Arc<str>> = owned.map(Into::into).collect();
        paths.sort_unstable();
        paths
    }

    /// The containers' own cgroups.
    pub fn owners(&self) -> Vec<Arc<str>> {
        let owners = self.containers.paths().filter_map(|path| self.containers.owner_of_path(path));
        let mut cgroups: Vec<Arc<str>> = owners.map(|container| container.cgroup.as_str().into()).collect();
        cgroups.sort_unstable();
        cgroups.dedup();
        cgroups
    }

    pub fn at(&self, time_ns: u64) -> Timestamp {
        Timestamp((time_ns as i64).saturating_add(self.boot_to_wall_ns))
    }

    pub fn attached(&self, probe: &str) -> bool {
        self.host.attached.contains(&probe)
    }
}
