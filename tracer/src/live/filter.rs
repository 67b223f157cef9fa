//! `--container` and `--pid`: which of what is said is wanted.

use std::{collections::HashSet, fs};

use anyhow::Result;
use serde_json::Value;

use crate::{
    containers::{Selection, Table, select},
    model::{Finding, Process},
    pipeline::{EventRow, Output},
};

/// Which rows of a lens are wanted; findings are always.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Exits: not those with status 0.
    pub failed: bool,
    /// Signals by name; empty: all.
    pub signals: Vec<String>,
    pub to_init: bool,
    pub ignored: bool,
}

impl Rows {
    fn wants(&self, row: &EventRow) -> bool {
        let field = |key: &str| row.fields.get(key).unwrap_or(&Value::Null);
        match row.event {
            "exit" => !self.failed || field("exit_code") != &Value::from(0),
            "signal" => {
                (self.signals.is_empty()
                    || field("signal").as_str().is_some_and(|name| self.signals.iter().any(|wanted| wanted == name)))
                    && (!self.to_init || field("to_init") == &Value::Bool(true))
                    && (!self.ignored || field("result") == "ignored")
            }
            _ => true,
        }
    }
}

#[derive(Default)]
pub struct Filter {
    rows: Rows,
    /// Cgroup paths of the containers meant.
    cgroups: Option<Vec<String>>,
    pid: Option<u32>,
}

impl Filter {
    /// # Errors
    /// No container is called so (with the nearest names), or several are.
    pub fn new(container: Option<&str>, pid: Option<u32>, rows: Rows, containers: &Table) -> Result<Self> {
        let cgroups = match container {
            None => None,
            Some(wanted) => {
                let selection: Selection = select(wanted, containers.containers())?;
                Some(selection.containers().iter().map(|container| container.cgroup.clone()).collect())
            }
        };
        if let Some(pid) = pid
            && !std::path::Path::new(&format!("/proc/{pid}")).exists()
        {
            anyhow::bail!("no process {pid} here: `ps -e` lists them (pids as the host sees them)");
        }
        Ok(Self { rows, cgroups, pid })
    }

    pub fn wants(&self, output: &Output) -> bool {
        match output {
            Output::Finding(finding) => self.wants_finding(finding),
            Output::Event(event) => {
                self.rows.wants(event) && self.wants_row(event.cgroup.as_deref(), event.process.as_ref())
            }
            Output::Sample(sample) => self.wants_row(sample.cgroup.as_deref(), None),
            Output::Loss(loss) => self.cgroups.is_none() || self.within(loss.cgroup.as_deref()),
            Output::Note(note) => {
                self.cgroups.is_none()
                    || note.fields.get("container").is_none_or(|container| self.within(container["cgroup"].as_str()))
            }
            Output::Ask(_) => true,
        }
    }

    fn wants_finding(&self, finding: &Finding) -> bool {
        let cgroup = finding.container.as_ref().map(|container| container.cgroup.as_str());
        let cgroup = cgroup.or_else(|| finding.evidence.get("cgroup").and_then(Value::as_str));
        if self.cgroups.is_some() && !self.within(cgroup) {
            return false;
        }
        let Some(pid) = self.pid else { return true };
        let victims = finding.evidence.get("victims").and_then(Value::as_array).into_iter().flatten();
        let processes = victims.map(|victim| &victim["process"]);
        let own = finding.process.as_ref().map(|process| (process.pid, process.ppid));
        processes
            .filter_map(|process| {
                Some((process["pid"].as_u64()? as u32, process["ppid"].as_u64().map(|pid| pid as u32)))
            })
            .chain(own)
            .any(|(victim, parent)| victim == pid || parent.is_some_and(|parent| descends(parent, pid)))
    }

    fn wants_row(&self, cgroup: Option<&str>, process: Option<&Process>) -> bool {
        if self.cgroups.is_some() && !self.within(cgroup) {
            return false;
        }
        let (Some(pid), Some(process)) = (self.pid, process) else { return true };
        process.pid == pid || process.ppid.is_some_and(|parent| descends(parent, pid))
    }

    fn within(&self, cgroup: Option<&str>) -> bool {
        let (Some(wanted), Some(cgroup)) = (&self.cgroups, cgroup) else { return false };
        wanted
            .iter()
            .any(|own| cgroup.strip_prefix(own.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }
}

/// Is `pid` the process `ancestor`, or below it, as the process table stands now?
fn descends(mut pid: u32, ancestor: u32) -> bool {
    let mut seen = HashSet::new();
    while pid != 0 && seen.insert(pid) {
        if pid == ancestor {
            return true;
        }
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        // The command is in parentheses and may hold anything, parentheses too.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        let Some(parent) = parent else { return false };
        pid = parent;
    }
    false
}
