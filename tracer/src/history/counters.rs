//! What the cgroups themselves counted of OOM, since each was made (mm/memcontrol.c `memory_events_show`,
//! mm/memcontrol-v1.c `mem_cgroup_oom_control_read`).
//!
//! Units are events. `oom_kill` counts killed tasks *of* a cgroup, whoever's limit it was; `oom` counts how often its
//! limit led to the OOM killer. Kills of a container that is gone are gone with its cgroup, but for its ancestors' sums.

use std::{io, path::Path};

use serde::{Deserialize, Serialize};

/// `memory.events` or `memory.events.local`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Events {
    pub oom: u64,
    /// A group kill counts its chosen victim twice while that is still there to be killed again.
    pub oom_kill: u64,
    /// From 5.17 on.
    pub oom_group_kill: Option<u64>,
}

/// v1's `memory.oom_control`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomControl {
    pub oom_kill_disable: bool,
    /// With `oom_kill_disable`: all who ask for memory wait, now. The kernel log says nothing of it.
    pub under_oom: bool,
    /// This cgroup's own tasks alone. From 4.13 on.
    pub oom_kill: Option<u64>,
}

/// What one cgroup counted. Only what its version of cgroups has is `Some`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CgroupCounts {
    /// Below the root that was passed in, starting with `/`.
    pub cgroup: String,
    /// v2: with all below, unless the hierarchy is mounted with `memory_localevents`.
    pub subtree: Option<Events>,
    /// v2, from 5.2 on: this cgroup's own.
    pub local: Option<Events>,
    pub v1: Option<OomControl>,
}

impl CgroupCounts {
    /// Kills of this cgroup's own tasks. `None` where only the sum with its descendants is known.
    pub fn own_kills(&self) -> Option<u64> {
        self.local.map(|events| events.oom_kill).or(self.v1.and_then(|control| control.oom_kill))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    V1,
    V2,
    /// v2 mounted with `memory_localevents`: a parent does not sum.
    V2Local,
}

pub fn parse_events(text: &str) -> Events {
    let value = |key| value(text, key);
    Events {
        oom: value("oom").unwrap_or(0),
        oom_kill: value("oom_kill").unwrap_or(0),
        oom_group_kill: value("oom_group_kill"),
    }
}

pub fn parse_oom_control(text: &str) -> OomControl {
    let set = |key| value(text, key).is_some_and(|value| value != 0);
    OomControl {
        oom_kill_disable: set("oom_kill_disable"),
        under_oom: set("under_oom"),
        oom_kill: value(text, "oom_kill"),
    }
}

/// All kills since boot on this host, from `/proc/vmstat` (from 4.13 on). Where it is 0 no counter needs to be read.
pub fn parse_vmstat(text: &str) -> Option<u64> {
    value(text, "oom_kill")
}

fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Reads the counters of the cgroups asked for, and gives those that counted anything (v1: or that wait under OOM).
///
/// Cheap for thousands: on v2 a parent's `memory.events` is the sum of all below it, also of those that are gone, so the
/// topmost cgroup of each path is read first and nothing below one that counted nothing. On a host without any kill that
/// is a handful of files. v1 does not sum, and `under_oom` is a state: there every cgroup asked for is read, one small
/// file each. Limits are not looked at: a kill at a parent's limit counts in a cgroup without one.
///
/// `read` gives a file's text; a file that is not there is skipped (the cgroup was removed, the controller is off).
pub fn walk(
    root: &Path,
    hierarchy: Hierarchy,
    cgroups: &[&str],
    read: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> Vec<CgroupCounts> {
    let mut sorted = cgroups.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut counts = Vec::new();
    // The topmost ancestors that were read already, and whether anything is to be found below: paths are sorted, so
    // one at a time is enough.
    let mut top: Option<(String, bool)> = None;
    for cgroup in sorted {
        let directory = root.join(cgroup.trim_start_matches('/'));
        let mut text = |name: &str| read(&directory.join(name)).ok();
        let mut found = CgroupCounts { cgroup: cgroup.to_owned(), ..CgroupCounts::default() };
        if hierarchy == Hierarchy::V1 {
            found.v1 = text("memory.oom_control").map(|text| parse_oom_control(&text));
            if found.v1.is_some_and(|control| control.under_oom || control.oom_kill.is_some_and(|kills| kills > 0)) {
                counts.push(found);
            }
            continue;
        }
        if hierarchy == Hierarchy::V2 {
            let first = first_level(cgroup);
            if top.as_ref().is_none_or(|(path, _)| path != first) {
                let path = root.join(first.trim_start_matches('/')).join("memory.events");
                // Unreadable is not zero: then its descendants are read.
                let any = read(&path).map_or(true, |text| any(parse_events(&text)));
                top = Some((first.to_owned(), any));
            }
            if top.as_ref().is_some_and(|(_, any)| !any) {
                continue;
            }
        }
        let mut text = |name: &str| read(&directory.join(name)).ok();
        found.subtree = text("memory.events").map(|text| parse_events(&text)).filter(|events| any(*events));
        if found.subtree.is_some() {
            found.local = text("memory.events.local").map(|text| parse_events(&text));
            counts.push(found);
        }
    }
    counts
}

fn any(events: Events) -> bool {
    events.oom > 0 || events.oom_kill > 0
}

/// `/kubepods.slice` of `/kubepods.slice/pod/container`.
fn first_level(cgroup: &str) -> &str {
    let rest = cgroup.trim_start_matches('/');
    let start = cgroup.len() - rest.len();
    &cgroup[..start + rest.find('/').unwrap_or(rest.len())]
}

/// The `read` of [`walk`] on the live system.
pub fn read_file(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &'static [(&str, &str)], asked: &mut Vec<String>) -> impl FnMut(&Path) -> io::Result<String> {
        move |path: &Path| {
            asked.push(path.display().to_string());
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
        }
    }

    #[test]
    fn nothing_below_a_quiet_parent_is_read() {
        let mut asked = Vec::new();
        let files = &[
            ("/r/quiet/memory.events", "oom 0\noom_kill 0\n"),
            ("/r/hit/memory.events", "oom 0\noom_kill 2\noom_group_kill 0\n"),
            ("/r/hit/a/memory.events", "oom 1\noom_kill 2\noom_group_kill 0\n"),
            ("/r/hit/a/memory.events.local", "oom 1\noom_kill 2\noom_group_kill 0\n"),
            ("/r/hit/b/memory.events", "oom 0\noom_kill 0\noom_group_kill 0\n"),
        ];
        let mut read = tree(files, &mut asked);
        let cgroups = ["/quiet/a", "/quiet/b", "/hit/b", "/hit/a", "/gone/x"];
        let counts = walk(Path::new("/r"), Hierarchy::V2, &cgroups, &mut read);
        drop(read);
        assert_eq!(counts.len(), 1);
        assert_eq!((counts[0].cgroup.as_str(), counts[0].own_kills()), ("/hit/a", Some(2)));
        assert_eq!(asked.iter().filter(|path| path.starts_with("/r/quiet")).count(), 1);
    }

    #[test]
    fn v1_shows_kills_and_those_who_wait() {
        let mut asked = Vec::new();
        let files = &[
            ("/r/a/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
            ("/r/b/memory.oom_control", "oom_kill_disable 1\nunder_oom 1\noom_kill 0\n"),
            ("/r/c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"),
        ];
        let counts = walk(Path::new("/r"), Hierarchy::V1, &["/a", "/b", "/c"], &mut tree(files, &mut asked));
        let names: Vec<_> = counts.iter().map(|count| count.cgroup.as_str()).collect();
        assert_eq!(names, ["/a", "/b"]);
        assert!(counts[1].v1.is_some_and(|control| control.oom_kill_disable && control.under_oom));
    }

    #[test]
    fn oom_kill_is_not_oom() {
        assert_eq!(parse_vmstat("oom_kill_x 9\noom_kill 3\n"), Some(3));
        assert_eq!(parse_events("oom_kill 3\noom 1\n").oom, 1);
        assert_eq!(parse_events("garbage"), Events::default());
    }
}
