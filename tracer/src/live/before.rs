//! What happened before ctrace was attached, as far as the kernel still knows, read once at the start.

use std::{fs, path::Path};

use crate::{
    containers::Engines,
    findings::{World, oom},
    history::{self, Reports, counters, kmsg, report},
    live::host::Host,
    model::{Finding, Runtime},
};

/// Findings of this many past kills at the most: the latest.
const SHOWN: usize = 50;

/// The kernel log's side of it: read while the privilege for it is there.
pub struct Log {
    reports: Reports,
    offset_ns: i64,
    /// Why the log is not whole, or could not be read.
    pub doubts: Vec<String>,
}

impl Log {
    pub fn read() -> Self {
        let mut records = Vec::new();
        let mut doubts = Vec::new();
        match kmsg::read(Path::new("/dev/kmsg"), |raw| records.extend(kmsg::parse(raw))) {
            Ok(extent) if extent.lost > 0 => doubts.push("the kernel log was overwritten while it was read".to_owned()),
            Ok(_) => {}
            Err(reason) => doubts.push(reason),
        }
        Self { reports: report::reports(&records), offset_ns: kmsg::offset_now(), doubts }
    }

    /// The findings, oldest first. What is too old to be shown is counted among the doubts.
    pub fn findings(&mut self, world: &World, host: &Host) -> Vec<Finding> {
        let paths: Vec<&str> = world.containers.paths().collect();
        let hierarchy =
            if host.hierarchy.controller.is_some() { counters::Hierarchy::V1 } else { counters::Hierarchy::V2 };
        let root = host.hierarchy.directory("/");
        let counts = if kills_since_boot() == Some(0) && hierarchy == counters::Hierarchy::V2 {
            Vec::new()
        } else {
            counters::walk(Path::new(&root), hierarchy, &paths, &mut |path| counters::read_file(path))
        };
        let verdicts = verdicts(world, host.engines());
        let kills = history::merge(&self.reports, &counts, &verdicts, self.offset_ns);
        // Those that only a counter tells of have no time: they are bounded apart, and crowd out none that have one.
        let timed = kills.iter().filter(|kill| kill.time.is_some()).count();
        let older = timed.saturating_sub(SHOWN);
        let skipped = older + (kills.len() - timed).saturating_sub(SHOWN);
        if skipped > 0 {
            self.doubts.push(format!(
                "{skipped} more OOM kills from before the start are known; the latest {SHOWN} are shown"
            ));
        }
        let shown = kills.iter().enumerate().skip(older).take(timed - older + SHOWN);
        shown.filter_map(|(number, kill)| oom::past(kill, number + 1, world)).collect()
    }
}

/// Since boot, on the whole host.
fn kills_since_boot() -> Option<u64> {
    counters::parse_vmstat(&fs::read_to_string("/proc/vmstat").ok()?)
}

/// What the engines believe of the containers that are here.
fn verdicts(world: &World, engines: &Engines) -> Vec<(String, history::Verdict)> {
    let mut verdicts = Vec::new();
    for entry in world.containers.containers() {
        let Some(runtime) = entry.container.runtime.filter(|runtime| *runtime != Runtime::Systemd) else { continue };
        let places = match runtime {
            Runtime::Docker => &engines.docker,
            Runtime::Podman | Runtime::CriO => &engines.storage,
            _ => continue,
        };
        for place in places {
            let roots = history::engine::Roots { data: Path::new(&place.path), run: None };
            if let Some(verdict) =
                history::engine::verdict(runtime, &entry.container.id, roots, &mut |path: &Path| fs::read(path))
            {
                verdicts.push((entry.container.cgroup.clone(), verdict));
                break;
            }
        }
    }
    verdicts
}
