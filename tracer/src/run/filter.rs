//! `--container` and `--pid`: which of what is said is wanted.

use std::{collections::HashSet, fs, sync::Arc};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    containers::{Entry, Selection, Table, Unselected, is_called, is_within, select},
    findings::pids::Stat,
    model::{Container, Finding, Process, Runtime},
    pipeline::{EventRow, Output},
};

/// Which rows of a lens are wanted; findings are always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a wish of its own")]
pub struct Rows {
    /// Exits: not those with status 0.
    pub failed: bool,
    /// Signals by name; empty: all.
    pub signals: Vec<String>,
    pub to_init: bool,
    pub ignored: bool,
    /// None at all: what is found is enough.
    pub none: bool,
}

impl Rows {
    fn wants(&self, row: &EventRow) -> bool {
        let field = |key: &str| row.fields.get(key).unwrap_or(&Value::Null);
        match row.event {
            _ if self.none => false,
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

/// Of whom to show what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub container: Option<String>,
    /// For a container that is not here yet.
    pub wait: bool,
    /// Not what runs, but the next start of a container of that name.
    pub from_start: bool,
    pub runtime: Option<Runtime>,
    /// Which processes are below it only the process table tells: a recording holds no such wish.
    #[serde(skip)]
    pub pid: Option<u32>,
    pub rows: Rows,
}

#[derive(Default)]
pub struct Filter {
    rows: Rows,
    /// What was asked for.
    container: Option<String>,
    /// No such container was here until now.
    awaiting: bool,
    /// Cgroup paths of the containers meant: those that were here, and those of the same name that came later.
    cgroups: Option<Vec<String>>,
    runtime: Option<Runtime>,
    pid: Option<u32>,
    /// Of the table, when it was looked at last.
    generation: u64,
    /// Only containers of which the cgroup is none of these are meant: those that start from now on.
    old: Option<HashSet<u64>>,
}

impl Filter {
    /// # Errors
    /// No container is called so (with the nearest names) and none is to be waited for, or several are.
    pub fn new(asked: &Asked, containers: &Table) -> Result<Self> {
        let (container, pid) = (asked.container.clone(), asked.pid);
        let mut awaiting = false;
        let old = asked.from_start.then(|| containers.containers().map(|entry| entry.cgroup_id).collect());
        let cgroups = match container
            .as_deref()
            .filter(|_| old.is_none())
            .map(|wanted| select(wanted, containers.containers()))
        {
            None if old.is_some() => {
                awaiting = true;
                Some(Vec::new())
            }
            None => None,
            Some(Ok(selection)) => Some(cgroups_of(&selection)),
            Some(Err(Unselected::Unknown { .. })) if asked.wait => {
                awaiting = true;
                Some(Vec::new())
            }
            Some(Err(error)) => return Err(error.into()),
        };
        if let Some(pid) = pid
            && !std::path::Path::new(&format!("/proc/{pid}")).exists()
        {
            anyhow::bail!("no process {pid} here: `ps -e` lists them (pids as the host sees them)");
        }
        let generation = containers.generation();
        Ok(Self {
            rows: asked.rows.clone(),
            container,
            awaiting,
            cgroups,
            runtime: asked.runtime,
            pid,
            generation,
            old,
        })
    }

    /// The container that is waited for.
    pub fn awaits(&self) -> Option<&str> {
        self.container.as_deref().filter(|_| self.awaiting)
    }

    /// Takes in containers that came since the last look, also those that are gone again: the one waited for, or another
    /// of the same name (a restarted pod's, a recreated `web`).
    ///
    /// # Errors
    /// Several came at once where one was waited for.
    pub fn look(&mut self, containers: &Table) -> Result<Vec<Arc<Container>>> {
        let (Some(wanted), Some(cgroups)) = (&self.container, &mut self.cgroups) else { return Ok(Vec::new()) };
        if self.generation == containers.generation() {
            return Ok(Vec::new());
        }
        self.generation = containers.generation();
        let named = |cgroups: &[String]| -> Vec<Arc<Container>> {
            let here = containers.containers().chain(containers.gone()).map(|entry| entry.container);
            let new = |container: &Container| is_called(wanted, container) && !cgroups.contains(&container.cgroup);
            here.filter(|container| new(container)).cloned().collect()
        };
        if let Some(old) = &mut self.old {
            let here = containers.containers().chain(containers.gone());
            let new = |entry: &Entry<'_>| is_called(wanted, entry.container) && !old.contains(&entry.cgroup_id);
            let found: Vec<(u64, Arc<Container>)> =
                here.filter(new).map(|entry| (entry.cgroup_id, entry.container.clone())).collect();
            self.awaiting &= found.is_empty();
            old.extend(found.iter().map(|(id, _)| *id));
            cgroups.extend(found.iter().map(|(_, container)| container.cgroup.clone()));
            return Ok(found.into_iter().map(|(_, container)| container).collect());
        }
        let found = match self.awaiting.then(|| select(wanted, containers.containers())) {
            Some(Ok(selection)) => selection.containers().to_vec(),
            Some(Err(error @ Unselected::Ambiguous { .. })) => return Err(error.into()),
            Some(Err(Unselected::Unknown { .. })) | None => named(cgroups),
        };
        self.awaiting &= found.is_empty();
        cgroups.extend(found.iter().map(|container| container.cgroup.clone()));
        Ok(found)
    }

    /// The containers meant that run now.
    pub fn here(&self, containers: &Table) -> Vec<Arc<Container>> {
        let meant = |cgroup: &String| self.cgroups.as_ref().is_some_and(|meant| meant.contains(cgroup));
        containers.containers().map(|entry| entry.container).filter(|own| meant(&own.cgroup)).cloned().collect()
    }

    /// Were there containers that were meant, and is none of them left?
    pub fn is_over(&self, containers: &Table) -> bool {
        self.cgroups.as_ref().is_some_and(|meant| !meant.is_empty()) && self.here(containers).is_empty()
    }

    pub fn wants(&self, output: &Output) -> bool {
        match output {
            Output::Finding(finding) => self.wants_finding(finding),
            Output::Event(event) => {
                self.rows.wants(event)
                    && self.of_runtime(event.container.as_deref())
                    && self.wants_row(event.cgroup.as_deref(), event.process.as_ref())
            }
            Output::Sample(sample) => {
                self.of_runtime(sample.container.as_deref()) && self.wants_row(sample.cgroup.as_deref(), None)
            }
            Output::Loss(loss) => {
                self.of_runtime(loss.container.as_deref())
                    && (self.cgroups.is_none() || self.within(loss.cgroup.as_deref()))
            }
            Output::Note(note) => {
                self.cgroups.is_none()
                    || note.fields.get("container").is_none_or(|container| self.within(container["cgroup"].as_str()))
            }
            Output::Caps(_) | Output::CapsSoFar(_) | Output::Ask(_) => true,
        }
    }

    fn wants_finding(&self, finding: &Finding) -> bool {
        let cgroup = finding.container.as_ref().map(|container| container.cgroup.as_str());
        let cgroup = cgroup.or_else(|| finding.evidence.get("cgroup").and_then(Value::as_str));
        if !self.of_runtime(finding.container.as_deref()) || (self.cgroups.is_some() && !self.within(cgroup)) {
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

    /// The host is of no runtime.
    fn of_runtime(&self, container: Option<&Container>) -> bool {
        self.runtime.is_none() || container.is_some_and(|container| container.runtime == self.runtime)
    }

    fn within(&self, cgroup: Option<&str>) -> bool {
        let (Some(wanted), Some(cgroup)) = (&self.cgroups, cgroup) else { return false };
        wanted.iter().any(|own| is_within(cgroup, own))
    }
}

fn cgroups_of(selection: &Selection) -> Vec<String> {
    selection.containers().iter().map(|container| container.cgroup.clone()).collect()
}

/// Is `pid` the process `ancestor`, or below it, as the process table stands now?
fn descends(mut pid: u32, ancestor: u32) -> bool {
    let mut seen = HashSet::new();
    while pid != 0 && seen.insert(pid) {
        if pid == ancestor {
            return true;
        }
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        let Some(stat) = Stat::parse(&stat) else { return false };
        pid = stat.ppid;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        containers::{Born, Facts},
        model::Timestamp,
        pipeline::Note,
    };

    fn wish(container: &str, wait: bool, runtime: Option<Runtime>) -> Asked {
        let container = (!container.is_empty()).then(|| container.to_owned());
        Asked { container, wait, runtime, ..Asked::default() }
    }

    fn start(table: &mut Table, id: u64, name: &str) {
        let path = format!("/docker/{id:064x}");
        table.mkdir(&Born { id, path, ..Born::default() }, 0);
        table.named(id, Facts { name: Some(name.to_owned()), ..Facts::default() });
    }

    fn wants(filter: &Filter, table: &Table, id: u64) -> bool {
        let mut fields = serde_json::Map::new();
        fields.insert("container".to_owned(), serde_json::to_value(table.owner(id)).expect("plain values"));
        filter.wants(&Output::Note(Note { time: Timestamp(0), code: "named", text: String::new(), fields }))
    }

    #[test]
    fn waits_for_one_and_follows_its_name() {
        let mut table = Table::default();
        start(&mut table, 1, "api");
        assert!(Filter::new(&wish("web", false, None), &table).is_err());
        let mut filter = Filter::new(&wish("web", true, None), &table).expect("it waits");
        assert_eq!(filter.awaits(), Some("web"));
        start(&mut table, 2, "web2");
        assert!(filter.look(&table).expect("none yet").is_empty());
        assert_eq!([1, 2].map(|id| wants(&filter, &table, id)), [false, false]);
        // It may be gone before anybody looks.
        start(&mut table, 3, "web");
        table.rmdir(3, 1);
        assert_eq!(filter.look(&table).expect("one").len(), 1);
        assert_eq!(filter.awaits(), None);
        start(&mut table, 4, "web");
        assert_eq!(filter.look(&table).expect("another").len(), 1);
        assert!(filter.look(&table).expect("no more").is_empty());
        assert_eq!([1, 2, 3, 4].map(|id| wants(&filter, &table, id)), [false, false, true, true]);
    }

    #[test]
    fn by_runtime() {
        let mut table = Table::default();
        start(&mut table, 1, "web");
        let loss = |container| {
            Output::Loss(crate::pipeline::LossNote {
                time: Timestamp(0),
                event: "exit",
                container,
                cgroup: None,
                count: 1,
                cause: "",
            })
        };
        let filter = |runtime| Filter::new(&wish("", false, Some(runtime)), &table).expect("no name");
        assert!(filter(Runtime::Docker).wants(&loss(table.owner(1))));
        assert!(!filter(Runtime::Podman).wants(&loss(table.owner(1))));
        assert!(!filter(Runtime::Docker).wants(&loss(None)));
    }
}
