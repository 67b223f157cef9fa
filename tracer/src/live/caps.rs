//! What the caps lens asks to be read and written: which cgroups the kernel side watches, what it counted, the sets of
//! processes, and the names of addresses.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use tokio::time::Instant;
use tracer_common::caps::{
    CALLS, CHECKS, Call, CheckKey, Count, Last, OUTCOMES, Origin, OutcomeKey, PROCESSES as FOLLOWED, Process, WATCHED,
    Watched,
};

use super::{host::Host, program};
use crate::{
    containers::{Files, Table, inspect::Inspector},
    findings::{
        self,
        caps::{Ask, ProcessSets, ProgramFile, Reading, Sets, Totals},
    },
    kernel::{
        host as machine,
        load::Kernel,
        plan::{self, Probe},
        symbols::Symbols,
    },
    lenses::caps::LENS,
    model::{Container, Runtime, Timestamp},
    pipeline::{Answer, Record},
    privileges,
};

/// Processes whose sets are told one by one.
const PROCESSES: usize = 64;

/// A tab that is only passed on the way to another one begins no watch.
const SETTLED: Duration = Duration::from_secs(1);

/// What is watched because somebody asked for it on the screen, container by container. The hooks are there from the first
/// of them on until the last is gone: a set is worth as much as what was seen, and what is not looked at is still seen.
#[derive(Debug, Default)]
pub struct OnScreen {
    /// By cgroup path: whose checks are asked for, and since when.
    asked: Option<(String, Instant)>,
    /// By cgroup path.
    watched: HashSet<String>,
    has_watched: bool,
    /// Those of whom the kernel did not let it begin: it is not tried again.
    refused: HashSet<String>,
}

impl OnScreen {
    /// Was there anything to watch at all?
    pub fn has_watched(&self) -> bool {
        self.has_watched
    }

    /// The container of which the watch is to begin.
    pub fn due(&mut self, asked: Option<&Arc<Container>>, now: Instant) -> Option<Arc<Container>> {
        let asked = asked.filter(|own| !self.watched.contains(&own.cgroup) && !self.refused.contains(&own.cgroup));
        let Some(container) = asked else {
            self.asked = None;
            return None;
        };
        match &self.asked {
            Some((cgroup, since)) if *cgroup == container.cgroup => {
                (now.duration_since(*since) >= SETTLED).then(|| Arc::clone(container))
            }
            _ => {
                self.asked = Some((container.cgroup.clone(), now));
                None
            }
        }
    }

    /// Attaches the hooks, where they are not.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn begin(&mut self, container: &Container, kernel: &mut Kernel) -> Result<()> {
        let begun = privileges::with(privileges::ATTACH, || {
            if self.watched.is_empty() {
                forget(kernel)?;
                kernel.begin(LENS.on_demand)?;
                returns(true, kernel)?;
            }
            Ok(())
        });
        let of = if begun.is_ok() { &mut self.watched } else { &mut self.refused };
        of.insert(container.cgroup.clone());
        self.has_watched |= begun.is_ok();
        begun
    }

    /// Detaches them, where none of the containers is left.
    pub fn end(&mut self, table: &Table, kernel: &mut Kernel) {
        if self.watched.is_empty() {
            return;
        }
        let here: HashSet<&str> = table.containers().map(|entry| entry.container.cgroup.as_str()).collect();
        self.watched.retain(|cgroup| here.contains(cgroup.as_str()));
        if self.watched.is_empty() {
            kernel.end(LENS.on_demand);
        }
    }
}

/// Nobody saw what became of these processes and calls meanwhile. What was counted stays.
fn forget(kernel: &mut Kernel) -> Result<()> {
    for (cgroup, _) in kernel.entries::<u64, Watched>("CAP_WATCHED", WATCHED as usize)? {
        kernel.remove::<u64, Watched>("CAP_WATCHED", cgroup)?;
    }
    for (pid, _) in kernel.entries::<u32, Process>("CAP_PROCESSES", FOLLOWED as usize)? {
        kernel.remove::<u32, Process>("CAP_PROCESSES", pid)?;
    }
    kernel.set("CAP_CHANGED", machine::boottime_ns())?;
    kernel.set("CAP_REFUSED", 0_u32)
}

/// Has the kernel side watch these containers. `ran`: they are running already.
pub fn watch(
    containers: &[Arc<Container>],
    ran: bool,
    table: &Table,
    host: &Host,
    kernel: &mut Kernel,
) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for container in containers {
        let since_ns = machine::boottime_ns();
        if ran {
            let plain = container.runtime == Some(Runtime::Systemd);
            let pids = table.within(&container.cgroup).into_iter().filter_map(|id| Some((id, table.path(id)?)));
            let pids: Vec<(u64, Vec<u32>)> = pids.map(|(id, path)| (id, host.pids(path))).collect();
            let all: Vec<u32> = pids.iter().flat_map(|(_, pids)| pids.iter().copied()).collect();
            let init = init_of(host, &all).or_else(|| all.first().copied());
            let (userns, userns_level) = init.and_then(user_namespace).unwrap_or((0, 0));
            for (pid, origin) in strangers(host, &all) {
                kernel.put("CAP_PROCESSES", pid, Process { origin: origin as u32, ..Process::default() })?;
            }
            for (id, _) in pids {
                let started = u32::from(!all.is_empty());
                let watched = Watched { since_ns, userns, userns_level, started, plain: u32::from(plain) };
                kernel.put("CAP_WATCHED", id, watched)?;
            }
        }
        let reading = Reading::Watching { container: container.clone(), since_ns, ran };
        records.push(Record::Answer(Answer::Caps(Box::new(reading))));
    }
    Ok(records)
}

/// Looks at the returns of calls from now on, or not: each of them costs the call what the kernel's slow way out of it does.
///
/// # Errors
/// The kernel refuses to attach what looks at them.
pub fn returns(seen: bool, kernel: &mut Kernel) -> Result<()> {
    const OWN: &[&Probe] = &[&plan::CAP_OUTCOME];
    kernel.set("CAP_RETURNS", 0_u32)?;
    if !seen {
        kernel.end(OWN);
        return Ok(());
    }
    // Nobody saw these calls return.
    for (thread, _) in kernel.entries::<u32, Call>("CAP_CALLS", CALLS as usize)? {
        kernel.remove::<u32, Call>("CAP_CALLS", thread)?;
    }
    // Where nothing is watched any more there is nothing to look at.
    if !kernel.is_idle(&[&plan::CAP_CHECK]) {
        privileges::with(privileges::ATTACH, || kernel.begin(OWN))?;
    }
    kernel.set("CAP_RETURNS", 1_u32)
}

pub fn answer(ask: &Ask, symbols: &Symbols, table: &Table, host: &Host, kernel: &mut Kernel) -> Result<Reading> {
    Ok(match ask {
        Ask::Sets(path) => Reading::Sets(path.clone(), sets(path, table, host).map(Box::new)),
        Ask::Totals => Reading::Totals(Totals {
            checks: checks(kernel)?,
            outcomes: sums::<OutcomeKey>(kernel, "CAP_OUTCOMES", OUTCOMES)?,
            uncounted: sums::<u64>(kernel, "CAP_UNCOUNTED", WATCHED)?,
        }),
        Ask::Symbols(addresses) => {
            let names = symbols.names(addresses).map(|names| {
                let named = addresses.iter().zip(names).filter_map(|(address, name)| Some((*address, name?)));
                named.collect::<HashMap<_, _>>()
            });
            Reading::Symbols(names.map_err(|why| why.to_string()))
        }
        Ask::Returns(seen) => {
            let why = returns(*seen, kernel).err().map(|error| format!("{error:#}"));
            Reading::Returns { seen: *seen && why.is_none(), at_ns: machine::boottime_ns(), why }
        }
    })
}

/// What each CPU keeps of the last kind that it saw is read afterwards: what it adds to the others meanwhile is counted by
/// the next look, and not twice by this one.
fn checks(kernel: &Kernel) -> Result<Vec<(CheckKey, u64)>> {
    let mut checks = sums::<CheckKey>(kernel, "CAP_CHECKS", CHECKS)?;
    let last = kernel.entry_per_cpu::<Last>("CAP_LAST")?;
    for (key, count) in &mut checks {
        *count += last.iter().filter(|last| last.key == *key).map(|last| last.count).sum::<u64>();
    }
    Ok(checks)
}

fn sums<K: bytemuck::Pod>(kernel: &Kernel, map: &str, most: u32) -> Result<Vec<(K, u64)>> {
    let entries = kernel.entries_per_cpu::<K, Count>(map, most as usize)?;
    Ok(entries.into_iter().map(|(key, counts)| (key, counts.iter().map(|count| count.count).sum())).collect())
}

fn sets(path: &str, table: &Table, host: &Host) -> Option<Sets> {
    let entry = table.containers().find(|entry| entry.container.cgroup == path)?;
    let mountinfo = host.files().mountinfo();
    let boot_ns = machine::boot_to_wall_ns();
    let inspector = Inspector::new(host.files(), &host.hierarchy, &mountinfo, table, boot_ns);
    let now = Timestamp((machine::boottime_ns() as i64).saturating_add(boot_ns));
    let inspected = inspector.inspect(entry);
    let init = inspected.capabilities?;
    let all = inspector.processes(&inspected.container);
    let comm = |pid: u32| host.files().text(&format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned();
    let (mut files, mut files_unknown) = (Vec::new(), None);
    let mut seen = HashSet::new();
    for process in all.iter().take(PROCESSES) {
        // One program is mostly many processes.
        if !seen.insert(host.files().link(&format!("/proc/{}/exe", process.pid)).ok()) {
            continue;
        }
        match program::capabilities(process.pid) {
            Ok(Some(sets)) => files.push(ProgramFile { pid: process.pid, comm: comm(process.pid), sets }),
            Ok(None) => {}
            Err(why) => files_unknown = Some(why),
        }
    }
    let others = all.iter().filter(|process| process.capabilities != init);
    Some(Sets {
        files,
        files_unknown,
        init,
        processes: others
            .take(PROCESSES)
            .map(|process| ProcessSets { pid: process.pid, comm: comm(process.pid), sets: process.capabilities })
            .collect(),
        spec: inspected.spec_capabilities,
        no_new_privs: inspected.no_new_privs,
        seccomp: inspected.seccomp,
        uid: inspected.user.inside.or(inspected.user.outside),
        findings: findings::containers::judge(&inspected, now),
    })
}

/// Processes of a container that are not its own: those that came by exec, and their children. Their parents lead out of
/// the container, and not to its PID 1.
fn strangers(host: &Host, pids: &[u32]) -> Vec<(u32, Origin)> {
    let Some(init) = init_of(host, pids) else { return Vec::new() };
    let parent = |pid: u32| status(host, pid, "PPid")?.parse::<u32>().ok();
    let mut found = Vec::new();
    for &pid in pids {
        let mut at = pid;
        // Deeper than any chain of parents is a torn reading.
        for _ in 0..64 {
            if at == init || !pids.contains(&at) {
                break;
            }
            let Some(next) = parent(at) else { break };
            at = next;
        }
        if at != init {
            let comm = host.files().text(&format!("/proc/{pid}/comm")).unwrap_or_default();
            found.push((pid, if comm.starts_with("runc:[") { Origin::Runtime } else { Origin::Exec }));
        }
    }
    found
}

/// PID 1 of a pid namespace below the host's.
fn init_of(host: &Host, pids: &[u32]) -> Option<u32> {
    let is_init = |pid: &&u32| {
        status(host, **pid, "NSpid").is_some_and(|pids| {
            let mut pids = pids.split_whitespace();
            pids.next_back() == Some("1") && pids.next().is_some()
        })
    };
    pids.iter().find(is_init).copied()
}

fn status(host: &Host, pid: u32, field: &str) -> Option<String> {
    let status = host.files().text(&format!("/proc/{pid}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.map(|value| value.trim().to_owned())
}

/// Inode number and depth of a process's user namespace. Its descriptor, and those of the namespaces around it, are
/// closed at once.
fn user_namespace(pid: u32) -> Option<(u32, u32)> {
    const NS_GET_PARENT: libc::Ioctl = 0xb702;
    let link = fs::read_link(format!("/proc/{pid}/ns/user")).ok()?;
    let inode = link.to_str()?.strip_prefix("user:[")?.strip_suffix(']')?.parse().ok()?;
    let mut namespace: OwnedFd = File::open(format!("/proc/{pid}/ns/user")).ok()?.into();
    let mut level = 0;
    // The kernel nests them 32 deep.
    while level < 33 {
        // SAFETY: a plain ioctl without an argument on a descriptor that is open.
        let parent = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT) };
        if parent < 0 {
            break;
        }
        // SAFETY: a new descriptor that the kernel just gave to this process alone.
        namespace = unsafe { OwnedFd::from_raw_fd(parent) };
        level += 1;
    }
    Some((inode, level))
}
