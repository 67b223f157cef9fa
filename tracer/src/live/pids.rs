//! What the pids lens asks to be read: the pids hierarchy, /proc, and the kernel side's maps.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use anyhow::Result;
use tracer_common::pids::{Refusals, Unreaped};

use super::ancestry;
use crate::{
    containers::{Files, Hierarchy, HostFiles},
    findings::pids::{Ask, Asker, Counts, Dead, Group, HostPids, Level, Reading, Stat, States, Sweep, Waiting},
    kernel::{host as machine, load::Kernel},
    lenses::pids::UNREAPED,
};

/// As many cgroups as the kernel side's map has room for.
const REFUSALS: usize = 1024;

const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_SYS_RESOURCE: u64 = 1 << 24;
/// Far above what a host has, far below what would be felt.
const CGROUPS: usize = 20_000;
/// Those that ended a moment ago may be reaped yet; they are looked at after this.
const OLD_NS: u64 = 3_000_000_000;
/// Below this a parent is not late.
const YOUNG_NS: u64 = 500_000_000;

/// Reads for the pids lens.
#[derive(Debug)]
pub struct Reader {
    /// Of the pids controller; `None`: nobody mounted it.
    pids: Option<Hierarchy>,
    /// The path in the hierarchy of the key, of pids cgroups whose path there is another: by path and id.
    keys: HashMap<(String, u64), String>,
}

impl Reader {
    pub fn new(mountinfo: &str) -> Self {
        let having = |wanted: &str| {
            let lines = mountinfo.lines().filter(|line| {
                let Some((_, source)) = line.split_once(" - ") else { return false };
                let mut words = source.split(' ');
                match words.next() {
                    Some("cgroup") => {
                        wanted == "v1"
                            && words.nth(1).is_some_and(|options| options.split(',').any(|option| option == "pids"))
                    }
                    Some("cgroup2") => wanted == "v2",
                    _ => false,
                }
            });
            Hierarchy::detect(&lines.collect::<Vec<_>>().join("\n"))
        };
        Self { pids: having("v1").or_else(|| having("v2")), keys: HashMap::new() }
    }

    pub fn answer(&mut self, ask: &Ask, files: &HostFiles, key: &Hierarchy, kernel: &Kernel) -> Result<Reading> {
        let start = Instant::now();
        let took = || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(match ask {
            Ask::Counts { of, events } => {
                let refusals = if *events { BTreeMap::new() } else { refusals_in(kernel, "REFUSALS")? };
                let at_ns = machine::boottime_ns();
                let counts = self.counts(of, *events, files, key);
                let failed = refusals_in(kernel, "FORKS_FAILED")?;
                Reading::Counts(Counts { at_ns, refusals, failed, events: *events, took_ns: took(), ..counts })
            }
            Ask::Unreaped { known } => {
                let unreaped = kernel.entries("UNREAPED", UNREAPED as usize)?.into_iter().collect();
                let mut waiting = waiting(known, &unreaped, files, key, machine::boottime_ns());
                waiting.took_ns = took();
                Reading::Unreaped(waiting)
            }
            Ask::Sweep => {
                let mut sweep = sweep(files, key);
                sweep.took_ns = took();
                Reading::Sweep(sweep)
            }
            Ask::Asker { pid, from, uid } => Reading::Asker(asker(*pid, *from, *uid, files)),
        })
    }

    fn counts(&mut self, of: &[Arc<str>], events: bool, files: &HostFiles, key: &Hierarchy) -> Counts {
        let same = self.pids.as_ref() == Some(key);
        let groups = of.iter().map(|cgroup| group(cgroup, files, key)).collect();
        let levels = self.levels(events, same, files, key);
        Counts { groups, levels, host: host(files), same, ..Counts::default() }
    }

    fn levels(&mut self, events: bool, same: bool, files: &HostFiles, key: &Hierarchy) -> Vec<Level> {
        let Some(pids) = self.pids.clone() else { return Vec::new() };
        let mut levels = Vec::new();
        let mut keys = HashMap::new();
        let mut open = vec![pids.root.trim_end_matches('/').to_owned()];
        while let Some(path) = open.pop() {
            let directory = pids.directory(&path);
            let Ok(listing) = files.list(&directory) else { continue };
            let below = listing.items.iter().map(|item| format!("{path}/{}", item.name));
            open.extend(below.take(CGROUPS.saturating_sub(levels.len() + open.len())));
            // The root has no counter, and what has no counter is not in the hierarchy of pids.
            let read = |name: &str| files.text(&format!("{directory}/{name}"));
            let Some(current) = read("pids.current").and_then(|text| text.trim().parse().ok()) else { continue };
            let refused = |name: &str| {
                let text = read(name).filter(|_| events)?;
                text.lines().find_map(|line| line.strip_prefix("max ")?.trim().parse().ok())
            };
            let level = Level {
                id: listing.inode,
                current,
                limit: read("pids.max").and_then(|text| text.trim().parse().ok()),
                refused: if events { refused("pids.events") } else { None },
                refused_here: if events { refused("pids.events.local") } else { None },
                key: None,
                path,
            };
            let key = if same { None } else { self.key_of(&level, &directory, files, key) };
            if let Some(key) = &key {
                keys.insert((level.path.clone(), level.id), key.clone());
            }
            levels.push(Level { key, ..level });
        }
        self.keys = keys;
        levels.sort_by_key(|level| level.path.matches('/').count());
        levels
    }

    /// The path in the hierarchy of the key of a process in this pids cgroup.
    fn key_of(&self, level: &Level, directory: &str, files: &HostFiles, key: &Hierarchy) -> Option<String> {
        if let Some(known) = self.keys.get(&(level.path.clone(), level.id)) {
            return Some(known.clone());
        }
        let procs = files.text(&format!("{directory}/cgroup.procs"))?;
        let pid = procs.lines().next()?;
        key.path_of(&files.text(&format!("/proc/{pid}/cgroup"))?).map(str::to_owned)
    }
}

fn host(files: &HostFiles) -> HostPids {
    let number = |path: &str| files.text(path)?.trim().parse().ok();
    HostPids {
        pid_max: number("/proc/sys/kernel/pid_max"),
        threads_max: number("/proc/sys/kernel/threads-max"),
        // 0.00 0.01 0.05 RUNNING/ALL LAST
        threads: files.text("/proc/loadavg").and_then(|text| text.split(['/', ' ']).nth(4)?.parse().ok()),
    }
}

/// What may have refused it: the host's numbers first, they change fastest.
fn asker(pid: u32, from: u64, uid: u32, files: &HostFiles) -> Asker {
    let host = host(files);
    let limits = files.text(&format!("/proc/{pid}/limits"));
    let soft = |text: String| {
        text.lines().find_map(|line| line.strip_prefix("Max processes")?.split_whitespace().next()?.parse().ok())
    };
    let status = files.text(&format!("/proc/{pid}/status"));
    let capable = status.as_deref().and_then(|status| u64::from_str_radix(field(status, "CapEff:")?, 16).ok());
    // What a user namespace's root may is nothing to the host: the kernel asks for its capabilities there.
    let namespace = |pid: u32| files.link(&format!("/proc/{pid}/ns/user")).ok();
    let own = namespace(pid);
    let is_hosts = own.is_some() && own == namespace(std::process::id());
    Asker {
        from,
        nproc_limit: limits.and_then(soft),
        user_threads: Some(threads_of(uid, files)),
        privileged: capable.map(|capable| uid == 0 || (is_hosts && capable & (CAP_SYS_RESOURCE | CAP_SYS_ADMIN) != 0)),
        host,
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
}

/// As RLIMIT_NPROC counts them: of a real user, wherever they are.
fn threads_of(uid: u32, files: &HostFiles) -> u64 {
    let listing = files.list("/proc").map(|listing| listing.items).unwrap_or_default();
    let pids = listing.iter().filter(|item| item.name.bytes().all(|byte| byte.is_ascii_digit()));
    let threads = |status: String| {
        let own = field(&status, "Uid:")?.parse() == Ok(uid);
        // A zombie has none, and still counts.
        own.then(|| field(&status, "Threads:").and_then(|count| count.parse().ok()).unwrap_or(1_u64).max(1))
    };
    pids.filter_map(|item| threads(files.text(&format!("/proc/{}/status", item.name))?)).sum()
}

fn stat(files: &HostFiles, pid: u32) -> Option<Stat> {
    Stat::parse(&files.text(&format!("/proc/{pid}/stat"))?)
}

fn group(cgroup: &Arc<str>, files: &HostFiles, key: &Hierarchy) -> Group {
    let mut group = Group { cgroup: cgroup.clone(), ..Group::default() };
    let procs = files.text(&format!("{}/cgroup.procs", key.directory(cgroup))).unwrap_or_default();
    for stat in procs.lines().filter_map(|line| line.parse().ok()).filter_map(|pid| stat(files, pid)) {
        if stat.is_zombie() {
            continue; // it died since; who is dead is counted elsewhere
        }
        group.processes += 1;
        group.threads += stat.threads;
        group.states.add(living_state(&stat, files));
    }
    group
}

/// A leader that ended before its threads shows Z: then the state of one of those.
fn living_state(stat: &Stat, files: &HostFiles) -> char {
    if stat.state != 'Z' {
        return stat.state;
    }
    let threads = files.list(&format!("/proc/{}/task", stat.pid)).map(|listing| listing.items).unwrap_or_default();
    let mut states = threads.iter().filter_map(|thread| {
        let text = files.text(&format!("/proc/{}/task/{}/stat", stat.pid, thread.name))?;
        Some(Stat::parse(&text)?.state)
    });
    states.rfind(|state| !matches!(state, 'Z' | 'X')).unwrap_or('S')
}

/// Refused forks so far, by the pids cgroup of those who asked.
fn refusals_in(kernel: &Kernel, map: &str) -> Result<BTreeMap<u64, u64>> {
    let refusals = kernel.entries::<u64, Refusals>(map, REFUSALS)?;
    Ok(refusals.into_iter().map(|(cgroup, refusals)| (cgroup, refusals.count)).collect())
}

fn waiting(
    known: &[u32],
    kernel: &BTreeMap<u32, Unreaped>,
    files: &HostFiles,
    key: &Hierarchy,
    now_ns: u64,
) -> Waiting {
    let age = |dead: &Unreaped| now_ns.saturating_sub(dead.exit_ns);
    let old = kernel.iter().filter(|(_, dead)| age(dead) >= OLD_NS).map(|(pid, _)| *pid);
    let mut pids: Vec<u32> = old.chain(known.iter().copied()).collect();
    pids.sort_unstable();
    pids.dedup();
    let mut dead = Vec::new();
    for stat in pids.into_iter().filter_map(|pid| stat(files, pid)).filter(|stat| stat.state == 'Z') {
        let seen = kernel.get(&stat.pid);
        dead.push(Dead {
            exit_ns: seen.map(|seen| seen.exit_ns),
            parent: seen.map(|seen| seen.parent).filter(|parent| *parent != u32::MAX),
            key: seen.map(|seen| seen.cgroup).filter(|key| *key != u64::MAX),
            cgroup: if seen.is_some() { None } else { cgroup_of(files, key, stat.pid) },
            stat,
        });
    }
    let young = kernel.values().filter(|dead| (YOUNG_NS..OLD_NS).contains(&age(dead)));
    let parents: HashSet<u32> = dead.iter().map(|dead| dead.stat.ppid).collect();
    Waiting {
        took_ns: 0,
        young: young.map(|dead| (dead.parent, dead.exit_ns)).collect(),
        parents: parents.into_iter().filter_map(|pid| ancestry::one(files, key, pid)).collect(),
        dead,
    }
}

/// On v1 a process that ended has left its cgroup for the root's, as /proc shows it: that says nothing.
fn cgroup_of(files: &HostFiles, key: &Hierarchy, pid: u32) -> Option<String> {
    let text = files.text(&format!("/proc/{pid}/cgroup"))?;
    let path = key.path_of(&text)?;
    (key.controller.is_none() || path != "/").then(|| path.to_owned())
}

fn sweep(files: &HostFiles, key: &Hierarchy) -> Sweep {
    let mut sweep = Sweep { took_ns: 0, dead: Vec::new(), states: States::default() };
    for item in files.list("/proc").map(|listing| listing.items).unwrap_or_default() {
        let Some(stat) = item.name.parse().ok().and_then(|pid| stat(files, pid)) else { continue };
        if stat.is_zombie() {
            sweep.dead.push(Dead {
                exit_ns: None,
                parent: None,
                key: None,
                cgroup: cgroup_of(files, key, stat.pid),
                stat,
            });
        } else {
            sweep.states.add(living_state(&stat, files));
        }
    }
    sweep
}
