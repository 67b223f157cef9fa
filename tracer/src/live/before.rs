//! What happened before ctrace was attached, as far as the kernel still knows, read once at the start.

use std::{collections::BTreeSet, fs, path::Path};

use bytes::Bytes;
use tracer_common::oom::{VICTIM_KILLED, Victim};

use crate::{
    containers::Engines,
    events::{self, Event},
    findings::{World, oom},
    history::{self, CgroupCounts, Reports, Witnessed, counters, kmsg, report},
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

    /// The findings, oldest first, without those that were witnessed. What is too old to be shown is counted among the
    /// doubts.
    pub fn findings(
        &mut self,
        counts: &[CgroupCounts],
        witnesses: &Witnesses,
        world: &World,
        host: &Host,
    ) -> Vec<Finding> {
        let verdicts = verdicts(world, host.engines());
        let witnessed = witnesses.kills(world);
        let kills = history::merge(&self.reports, counts, &verdicts, &witnessed, self.offset_ns);
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

/// What the cgroups counted by now.
pub fn counts(world: &World, host: &Host) -> Vec<CgroupCounts> {
    let paths: Vec<&str> = world.containers.paths().collect();
    let hierarchy = if host.hierarchy.controller.is_some() { counters::Hierarchy::V1 } else { counters::Hierarchy::V2 };
    if kills_since_boot() == Some(0) && hierarchy == counters::Hierarchy::V2 {
        return Vec::new();
    }
    let root = host.hierarchy.directory("/");
    counters::walk(Path::new(&root), hierarchy, &paths, &mut |path| counters::read_file(path))
}

/// Kills that came out of the ring before the counters were read: log and counters may have them, and they are not past.
#[derive(Default)]
pub struct Witnesses(Vec<Victim>);

impl Witnesses {
    pub fn hear(&mut self, record: &Bytes) {
        if let Ok(Event::OomVictim(victim)) = events::decode(record) {
            self.0.push(*victim);
        }
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    fn kills(&self, world: &World) -> Vec<Witnessed> {
        // Who was only marked was dying already, and is not counted.
        let is_killed = |victim: &&Victim| victim.flags & VICTIM_KILLED != 0 || !world.attached("oom_sharer");
        let mut triggers = BTreeSet::new();
        let kills = self.0.iter().filter(is_killed).map(|victim| {
            let levels = victim.levels.iter().take(victim.depth as usize);
            let group = levels.into_iter().any(|level| level.oom_group == 1);
            Witnessed {
                pids: [victim.victim.tid, victim.victim.tgid],
                time: world.at(victim.header.time_ns),
                cgroup: world.containers.path(victim.header.cgroup).map(ToString::to_string).unwrap_or_default(),
                twice: triggers.insert(victim.trigger.tid) && group,
            }
        });
        kills.collect()
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
