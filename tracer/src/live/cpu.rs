//! What the cpu lens asks to be read: the cpu hierarchy, /proc, and the kernel side's maps.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use anyhow::Result;
use tracer_common::cpu::{BUCKETS, Blocked, WINDOW_SHIFT, Waits};

use super::{
    ancestry, call,
    demand::Signs,
    sleeps::{self, Stacks},
};
use crate::{
    containers::{Files, Hierarchy, HostFiles},
    events,
    findings::{
        cpu::{
            Ask, Bandwidth, Group, HostCpu, Level, ProcessTime, Quota, Reading, Sleeper, Sleepers, Usage, Used, Waited,
            Worst,
            reading::{cpu_list, frames},
        },
        pids::Stat,
    },
    kernel::{host as machine, load::Kernel, plan, symbols::Symbols},
    lenses::cpu::{self as sizes, LENS},
    privileges,
};

/// `USER_HZ` is 100 on every Linux that there is.
pub(super) const TICK_NS: u64 = 10_000_000;
/// Who went to sleep a moment ago is not looked at one by one.
const SHORT_NS: u64 = 100_000_000;
/// Tasks that are looked at, those asleep longest: thousands are one disk.
const SLEEPERS: usize = 256;

/// Reads for the cpu lens.
#[derive(Debug)]
pub struct Reader {
    cpu: Option<Hierarchy>,
    /// v1 accounts in a hierarchy of its own.
    cpuacct: Option<Hierarchy>,
    cpuset: Option<Hierarchy>,
    /// v1 only: on v2 who is frozen shows S.
    freezer: Option<Hierarchy>,
    /// The path in another hierarchy, by the path in the key's and that hierarchy's controller.
    paths: HashMap<(Arc<str>, &'static str), String>,
    stacks: Stacks,
    pub signs: Signs,
}

impl Reader {
    pub fn new(mountinfo: &str) -> Self {
        let of = |controller| Hierarchy::of_controller(mountinfo, controller);
        let cpu = of("cpu");
        let v1 = cpu.as_ref().is_some_and(|cpu| cpu.controller.is_some());
        Self {
            cpuacct: if v1 { of("cpuacct") } else { cpu.clone() },
            cpu,
            cpuset: of("cpuset"),
            freezer: of("freezer").filter(|freezer| freezer.controller.is_some()),
            paths: HashMap::new(),
            stacks: Stacks::default(),
            signs: Signs::default(),
        }
    }

    pub fn answer(
        &mut self,
        ask: &Ask,
        files: &HostFiles,
        key: &Hierarchy,
        kernel: &Kernel,
        symbols: &Symbols,
    ) -> Result<Reading> {
        let start = Instant::now();
        let took = || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(match ask {
            Ask::Usage { of, within } => {
                let mut usage = self.usage(of, within, files, key);
                self.signs.used(&usage);
                let took_ns = took();
                usage.is_idle = kernel.is_idle(LENS.on_demand);
                if kernel.attached(&plan::SCHED_SWITCH) {
                    usage.waits = Some(waits(kernel, files)?);
                    usage.sleeps = sleeps::read(kernel)?;
                    // Seldom, and slow: that need not make all readings rare.
                    usage.stacks = self.stacks.of(&usage.sleeps, kernel, symbols)?;
                }
                Reading::Usage(Box::new(Usage { took_ns, ..usage }))
            }
            Ask::Blocked { known, sweep } => {
                let mut sleepers = self.sleepers(known, *sweep, files, key, kernel)?;
                sleepers.took_ns = took();
                self.signs.slept(&sleepers, machine::boottime_ns());
                Reading::Blocked(sleepers)
            }
        })
    }

    fn usage(&mut self, of: &[Arc<str>], within: &[Arc<str>], files: &HostFiles, key: &Hierarchy) -> Usage {
        self.paths.retain(|(cgroup, _), _| of.binary_search(cgroup).is_ok());
        let mut usage = Usage { at_ns: machine::boottime_ns(), ..Usage::default() };
        let read = |path: &str| files.text(path).unwrap_or_default();
        usage.host = HostCpu::parse(&read("/proc/stat"), &read("/proc/loadavg"), TICK_NS);
        let mut levels: BTreeMap<String, Level> = BTreeMap::new();
        for cgroup in of {
            let cpu_path = self.path_in(Controller::Cpu, cgroup, files, key);
            let used = self.path_in(Controller::Cpuacct, cgroup, files, key).and_then(|path| self.used(&path, files));
            let cpus = self.path_in(Controller::Cpuset, cgroup, files, key).and_then(|path| self.cpus(&path, files));
            let mut above = cpu_path.as_deref();
            while let Some(path) = above.filter(|path| !path.is_empty()) {
                if let (false, Some(cpu)) = (levels.contains_key(path), &self.cpu) {
                    levels.insert(path.to_owned(), level(path, cpu, files));
                }
                above = path.rsplit_once('/').map(|(above, _)| above);
            }
            usage.groups.push(Group { cgroup: Arc::clone(cgroup), cpu_path, used, cpus });
        }
        usage.levels = levels.into_values().collect();
        for cgroup in within {
            let procs = read(&format!("{}/cgroup.procs", key.directory(cgroup)));
            let stats = procs.lines().filter_map(|pid| Stat::parse(&files.text(&format!("/proc/{pid}/stat"))?));
            usage.processes.extend(stats.map(|stat| ProcessTime { stat, cgroup: Arc::clone(cgroup) }));
        }
        usage
    }

    fn hierarchy(&self, controller: Controller) -> Option<&Hierarchy> {
        match controller {
            Controller::Cpu => self.cpu.as_ref(),
            Controller::Cpuacct => self.cpuacct.as_ref(),
            Controller::Cpuset => self.cpuset.as_ref(),
        }
    }

    /// Where a container is in a hierarchy; `None`: at its root, as good as not at all.
    fn path_in(
        &mut self,
        controller: Controller,
        cgroup: &Arc<str>,
        files: &HostFiles,
        key: &Hierarchy,
    ) -> Option<String> {
        let hierarchy = self.hierarchy(controller)?;
        if hierarchy.controller == key.controller {
            return Some(cgroup.to_string());
        }
        let at = (Arc::clone(cgroup), hierarchy.controller.unwrap_or_default());
        if let Some(path) = self.paths.get(&at) {
            return Some(path.clone());
        }
        let there = files.list(&hierarchy.directory(cgroup)).is_ok();
        let path = if there { cgroup.to_string() } else { by_process(cgroup, hierarchy, files, key)? };
        self.paths.insert(at, path.clone());
        Some(path)
    }

    fn used(&self, path: &str, files: &HostFiles) -> Option<Used> {
        let hierarchy = self.cpuacct.as_ref()?;
        let directory = hierarchy.directory(path);
        let v1 = hierarchy.controller.is_some();
        let stat = files.text(&format!("{directory}/{}", if v1 { "cpuacct.stat" } else { "cpu.stat" }))?;
        let field = |name: &str| {
            stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
        };
        if v1 {
            let total = files.text(&format!("{directory}/cpuacct.usage"))?;
            return Some(Used {
                total_ns: total.trim().parse().ok()?,
                user_ns: field("user")?.saturating_mul(TICK_NS),
                system_ns: field("system")?.saturating_mul(TICK_NS),
            });
        }
        let micros = |name: &str| field(name).map(|micros| micros.saturating_mul(1000));
        Some(Used { total_ns: micros("usage_usec")?, user_ns: micros("user_usec")?, system_ns: micros("system_usec")? })
    }

    fn cpus(&self, path: &str, files: &HostFiles) -> Option<Vec<u32>> {
        let hierarchy = self.cpuset.as_ref()?;
        let name = if hierarchy.controller.is_some() { "cpuset.effective_cpus" } else { "cpuset.cpus.effective" };
        cpu_list(&files.text(&format!("{}/{name}", hierarchy.directory(path)))?)
    }

    fn sleepers(
        &self,
        known: &[u32],
        sweep: bool,
        files: &HostFiles,
        key: &Hierarchy,
        kernel: &Kernel,
    ) -> Result<Sleepers> {
        let mut since: BTreeMap<u32, Blocked> = BTreeMap::new();
        let attached = kernel.attached(&plan::SCHED_SWITCH);
        if attached {
            since.extend(kernel.entries::<u32, Blocked>("BLOCKED", sizes::BLOCKED as usize)?);
        }
        let now_ns = machine::boottime_ns();
        let mut tids: Vec<u32> = if sweep { every_sleeper(files) } else { known.to_vec() };
        let long = since.iter().filter(|(_, blocked)| now_ns.saturating_sub(blocked.since_ns) >= SHORT_NS);
        tids.extend(long.map(|(tid, _)| *tid));
        tids.sort_unstable();
        tids.dedup();
        tids.sort_by_key(|tid| since.get(tid).map(|blocked| blocked.since_ns));
        let mut tasks = Vec::new();
        for tid in tids {
            let blocked = since.get(&tid).map(|blocked| blocked.since_ns);
            if let Some(sleeper) = self.sleeper(tid, blocked, files, key) {
                tasks.push(sleeper);
                if tasks.len() == SLEEPERS {
                    break;
                }
            } else {
                // Awake, or gone: the kernel skipped the programs that would have heard of it.
                since.remove(&tid);
            }
        }
        let now = attached.then(|| {
            let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
            for blocked in since.values() {
                *counts.entry(blocked.cgroup).or_default() += 1;
            }
            counts
        });
        if !tasks.is_empty() {
            // Only who has this may look at another's stack.
            privileges::with_sys_admin(|| {
                for task in &mut tasks {
                    task.stack = stack(task.process.tid, files);
                }
            });
        }
        Ok(Sleepers { took_ns: 0, tasks, now })
    }

    fn sleeper(&self, tid: u32, since_ns: Option<u64>, files: &HostFiles, key: &Hierarchy) -> Option<Sleeper> {
        if Stat::parse(&files.text(&format!("/proc/{tid}/stat"))?)?.state != 'D' {
            return None;
        }
        let status = files.text(&format!("/proc/{tid}/status"))?;
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok())
        };
        let mut found = ancestry::one(files, key, tid)?;
        found.process.pid = field("Tgid").and_then(|pid| u32::try_from(pid).ok()).unwrap_or(tid);
        let wchan = files.text(&format!("/proc/{tid}/wchan")).filter(|name| !matches!(name.as_str(), "" | "0"));
        Some(Sleeper {
            frozen: self.frozen(tid, files) || wchan.as_deref() == Some("__refrigerator"),
            process: found.process,
            cgroup: found.cgroup,
            since_ns,
            switches: field("voluntary_ctxt_switches").zip(field("nonvoluntary_ctxt_switches")).map(|(a, b)| a + b),
            wchan,
            stack: Err("it was not read".to_owned()),
            file_system: call::file_system(tid, files),
        })
    }

    fn frozen(&self, tid: u32, files: &HostFiles) -> bool {
        let state = self.freezer.as_ref().and_then(|freezer| {
            let cgroups = files.text(&format!("/proc/{tid}/cgroup"))?;
            files.text(&format!("{}/freezer.state", freezer.directory(freezer.path_of(&cgroups)?)))
        });
        state.is_some_and(|state| state.trim() != "THAWED")
    }
}

#[derive(Clone, Copy)]
enum Controller {
    Cpu,
    Cpuacct,
    Cpuset,
}

/// Where the container's processes are in another hierarchy: by the same names below, or in this one alone.
fn by_process(cgroup: &str, hierarchy: &Hierarchy, files: &HostFiles, key: &Hierarchy) -> Option<String> {
    let procs = files.text(&format!("{}/cgroup.procs", key.directory(cgroup)))?;
    let cgroups = files.text(&format!("/proc/{}/cgroup", procs.lines().next()?))?;
    let path = hierarchy.path_of(&cgroups)?;
    (path != "/").then(|| path.to_owned())
}

fn level(path: &str, cpu: &Hierarchy, files: &HostFiles) -> Level {
    let directory = cpu.directory(path);
    let read = |name: &str| files.text(&format!("{directory}/{name}"));
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let micros = |micros: u64| micros.saturating_mul(1000);
    let v1 = cpu.controller.is_some();
    let quota = if v1 {
        // -1 is none.
        number("cpu.cfs_quota_us").zip(number("cpu.cfs_period_us"))
    } else {
        read("cpu.max").and_then(|max| {
            let (quota, period) = max.trim().split_once(' ')?;
            Some((quota.parse().ok()?, period.parse().ok()?))
        })
    };
    let burst = number(if v1 { "cpu.cfs_burst_us" } else { "cpu.max.burst" }).unwrap_or(0);
    Level {
        path: path.to_owned(),
        quota: quota.map(|(quota, period)| Quota {
            quota_ns: micros(quota),
            period_ns: micros(period),
            burst_ns: micros(burst),
        }),
        weight: number(if v1 { "cpu.shares" } else { "cpu.weight" }),
        bandwidth: read("cpu.stat").and_then(|text| Bandwidth::parse(&text)),
    }
}

fn waits(kernel: &Kernel, files: &HostFiles) -> Result<BTreeMap<u64, Waited>> {
    let mut found = BTreeMap::new();
    let now_ns = machine::boottime_ns();
    for (cgroup, each) in kernel.entries_per_cpu::<u64, Waits>("WAITS", sizes::WAITS as usize)? {
        let mut sum = Waited::default();
        for waits in &each {
            sum.count += waits.count;
            sum.total_ns += waits.total_ns;
            sum.blocked += waits.blocked;
            sum.blocked_ns += waits.blocked_ns;
            for bucket in 0..BUCKETS {
                sum.histogram[bucket] += u64::from(waits.histogram[bucket]);
            }
            // An older one is no news.
            let lately = waits.worst_window.saturating_add(1) >= now_ns >> WINDOW_SHIFT;
            if lately && sum.worst.as_ref().is_none_or(|worst| waits.worst_ns > worst.wait_ns) && waits.worst_ns > 0 {
                sum.worst = Some(Worst {
                    wait_ns: waits.worst_ns,
                    tid: waits.worst_tid,
                    pid: None,
                    comm: None,
                    instead_tid: waits.instead_tid,
                    instead_comm: events::text(&waits.instead_comm),
                });
            }
        }
        if let Some(worst) = &mut sum.worst {
            let status = files.text(&format!("/proc/{}/status", worst.tid)).unwrap_or_default();
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            (worst.pid, worst.comm) =
                (field("Tgid").and_then(|pid| pid.parse().ok()), field("Name").map(str::to_owned));
        }
        found.insert(cgroup, sum);
    }
    Ok(found)
}

fn every_sleeper(files: &HostFiles) -> Vec<u32> {
    let mut found = Vec::new();
    for item in files.list("/proc").map(|listing| listing.items).unwrap_or_default() {
        let Some(stat) = item.name.parse().ok().and_then(|pid: u32| stat(files, &format!("/proc/{pid}"))) else {
            continue;
        };
        if stat.threads <= 1 {
            found.extend((stat.state == 'D').then_some(stat.pid));
            continue;
        }
        let threads = files.list(&format!("/proc/{}/task", stat.pid)).map(|listing| listing.items).unwrap_or_default();
        let of = |name: &str| stat_of(files, stat.pid, name);
        found.extend(
            threads.iter().filter_map(|thread| of(&thread.name)).filter(|stat| stat.state == 'D').map(|stat| stat.pid),
        );
    }
    found
}

fn stat(files: &HostFiles, directory: &str) -> Option<Stat> {
    Stat::parse(&files.text(&format!("{directory}/stat"))?)
}

fn stat_of(files: &HostFiles, pid: u32, tid: &str) -> Option<Stat> {
    stat(files, &format!("/proc/{pid}/task/{tid}"))
}

fn stack(tid: u32, files: &HostFiles) -> Result<Vec<String>, String> {
    match files.read(&format!("/proc/{tid}/stack")) {
        Ok(content) => {
            let frames = frames(&String::from_utf8_lossy(&content.bytes));
            if frames.is_empty() { Err("the kernel shows no stack of it".to_owned()) } else { Ok(frames) }
        }
        Err(error) => Err(format!("/proc/{tid}/stack: {error}")),
    }
}
