//! What the memory lens asks to be read: memory cgroups, and the kernel side's stalls.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Result;
use tracer_common::stall::{Stall, StallKey};

use crate::{
    containers::{Files, Hierarchy, HostFiles},
    events,
    findings::mem::{Ask, Level, Psi, Reading, StallTotal, Stat},
    kernel::{host as machine, load::Kernel},
    lenses::mem::STALLS,
};

/// v1 writes `no limit` as the largest number of whole pages.
const V1_NO_LIMIT: u64 = i64::MAX as u64 - (1 << 16);

pub fn read(ask: &Ask, files: &HostFiles, key: &Hierarchy, kernel: &Kernel) -> Result<Reading> {
    let start = machine::cpu_ns();
    let at_ns = machine::boottime_ns();
    let mut levels: BTreeMap<Arc<str>, Level> = BTreeMap::new();
    for cgroup in &ask.of {
        let above = std::iter::successors(Some(&**cgroup), |path| path.rsplit_once('/').map(|(parent, _)| parent));
        for path in above.filter(|path| !path.is_empty()) {
            if levels.contains_key(path) {
                break; // and so are all above it
            }
            let Some(level) = level(files, key, path) else { continue };
            levels.insert(path.into(), level);
        }
    }
    let meminfo = files.text("/proc/meminfo").unwrap_or_default();
    let bytes = |field: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(field))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.saturating_mul(1024))
    };
    let (swap_total, swap_free) = (bytes("SwapTotal:"), bytes("SwapFree:"));
    let stalls = stalls(kernel)?;
    let took_ns = machine::cpu_ns().saturating_sub(start);
    Ok(Reading { at_ns, took_ns, levels, stalls, swap_total, swap_free })
}

/// `None`: the cgroup is gone, or (v1) memory is not controlled there.
fn level(files: &HostFiles, key: &Hierarchy, path: &str) -> Option<Level> {
    let directory = key.directory(path);
    let of = |file: &str| files.text(&format!("{directory}/{file}"));
    let number = |file: &str| of(file).and_then(|text| text.trim().parse::<u64>().ok());
    let limit = |file: &str| number(file).filter(|limit| *limit < V1_NO_LIMIT);
    if key.controller.is_some() {
        let stat = Stat::parse(&of("memory.stat")?, true);
        let memsw = limit("memory.memsw.limit_in_bytes").zip(number("memory.memsw.usage_in_bytes"));
        return Some(Level {
            usage: number("memory.usage_in_bytes"),
            limit: limit("memory.limit_in_bytes"),
            swap: stat.swap,
            swap_room: memsw.map(|(limit, usage)| limit.saturating_sub(usage)),
            swappiness: number("memory.swappiness"),
            kernel: number("memory.kmem.usage_in_bytes"),
            stat,
            ..Level::default()
        });
    }
    let Some(usage) = number("memory.current") else {
        // It is there, and its memory is not controlled: all of it is unknown.
        return of("cgroup.controllers").map(|_| Level::default());
    };
    let swap = number("memory.swap.current");
    Some(Level {
        usage: Some(usage),
        limit: limit("memory.max"),
        high: limit("memory.high"),
        swap,
        swap_room: limit("memory.swap.max").map(|limit| limit.saturating_sub(swap.unwrap_or(0))),
        high_events: of("memory.events")
            .and_then(|text| text.lines().find_map(|line| line.strip_prefix("high ")?.trim().parse().ok())),
        stat: Stat::parse(&of("memory.stat").unwrap_or_default(), false),
        psi: psi(files, &format!("{directory}/memory.pressure")),
        ..Level::default()
    })
}

fn psi(files: &HostFiles, file: &str) -> Psi {
    // Where PSI is off, the file is there and reading it fails with EOPNOTSUPP.
    match files.read(file) {
        Ok(content) => {
            let text = String::from_utf8_lossy(&content.bytes).into_owned();
            let total = |which: &str| {
                let line = text.lines().find(|line| line.starts_with(which))?;
                line.rsplit_once("total=")?.1.trim().parse().ok()
            };
            total("some").map_or(Psi::Absent, |some_us| Psi::On { some_us, full_us: total("full").unwrap_or(0) })
        }
        Err(crate::containers::Refused::Missing) => Psi::Absent,
        Err(_) => Psi::Off,
    }
}

/// Each process's stalls, of all CPUs.
fn stalls(kernel: &Kernel) -> Result<Vec<(StallKey, StallTotal)>> {
    let mut totals = BTreeMap::new();
    for (key, values) in kernel.entries_per_cpu::<StallKey, Stall>("STALLS", STALLS as usize)? {
        let who = values.iter().find(|stall| stall.who.tgid != 0).map(|stall| events::process(&stall.who));
        let total = StallTotal {
            who,
            count: values.iter().map(|stall| stall.count).sum(),
            total_ns: values.iter().map(|stall| stall.total_ns).sum(),
            worst_ns: values.iter().map(|stall| stall.worst_ns).max().unwrap_or(0),
        };
        totals.insert(key, total);
    }
    Ok(totals.into_iter().collect())
}
