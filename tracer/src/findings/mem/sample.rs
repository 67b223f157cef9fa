//! The numbers of each container, once a reading: rows for tables and JSON, no verdicts.

use tracer_common::stall::{HIGH, HOST, LIMIT};

use super::{
    judge::{Seen, no_psi},
    past::Past,
    reading::{Level, Psi},
};
use crate::{
    findings::numbers::{Numbers, total},
    pipeline::{Output, SampleRow},
};

pub fn rows(seen: &Seen) -> Vec<Output> {
    seen.containers().into_iter().filter_map(|path| row(seen, path)).collect()
}

fn row(seen: &Seen, path: &str) -> Option<Output> {
    let level = seen.reading.levels.get(path)?;
    let mut row = Numbers::default();
    let uncounted = "this kernel does not count it for a cgroup, or cgroup v1 does not";
    let bound = seen.reading.binding(path);
    row.put("limit_bytes", bound.and_then(|(_, level)| level.limit), "no level has a limit");
    row.put("limiting_usage_bytes", bound.and_then(|(_, level)| level.usage), "no level has a limit");
    row.put("limiting_cgroup", bound.map(|(path, _)| path), "no level has a limit");
    row.put("high_bytes", level.high, "memory.high is not set, or cgroup v1 has none");
    row.put("usage_bytes", level.usage, "the memory controller is off for this cgroup");
    let stat = &level.stat;
    row.put("working_set_bytes", level.working_set(), "memory.stat was not read");
    for (key, value) in [
        ("anon_bytes", stat.anon),
        ("file_bytes", stat.file),
        ("active_file_bytes", stat.active_file),
        ("inactive_file_bytes", stat.inactive_file),
        ("dirty_bytes", stat.dirty),
        ("writeback_bytes", stat.writeback),
        ("shmem_bytes", stat.shmem),
        ("slab_bytes", stat.slab),
        ("stack_bytes", stat.stack),
        ("sock_bytes", stat.sock),
        ("kernel_bytes", stat.kernel.or(level.kernel)),
        ("swap_bytes", level.swap),
        ("swappiness", level.swappiness),
    ] {
        row.put(key, value, uncounted);
    }
    let past = seen.past.get(path);
    let page = seen.world.host.page_bytes;
    let per_s = |count: fn(&Level) -> Option<u64>| past.and_then(|past| past.per_s(count));
    let rates: [(&'static str, Option<f64>); 7] = [
        ("faults_per_s", per_s(|level| level.stat.faults)),
        ("major_faults_per_s", per_s(|level| level.stat.major_faults)),
        ("refaults_file_per_s", per_s(|level| level.stat.refault_file)),
        ("refaults_anon_per_s", per_s(|level| level.stat.refault_anon)),
        ("reclaimed_bytes_per_s", per_s(|level| level.stat.reclaimed).map(|pages| pages * page as f64)),
        ("swap_in_bytes_per_s", per_s(|level| level.stat.swap_in).map(|pages| pages * page as f64)),
        ("swap_out_bytes_per_s", per_s(|level| level.stat.swap_out).map(|pages| pages * page as f64)),
    ];
    for (key, rate) in rates {
        row.put(
            key,
            rate.map(|rate| rate.round() as u64),
            if past.is_some_and(Past::twice) { uncounted } else { "not read twice yet" },
        );
    }
    for (key, bytes) in [("swap_total_bytes", seen.reading.swap_total), ("swap_free_bytes", seen.reading.swap_free)] {
        row.put(key, bytes, "/proc/meminfo was not read");
    }
    let window = seen.stalls.length_ns().max(1);
    for (key, kinds, probe) in
        [("reclaim_stall_pct", &[LIMIT, HOST][..], "reclaim_end"), ("high_stall_pct", &[HIGH][..], "over_high_end")]
    {
        let ns = total(seen.stalls_of(path, kinds).values().map(|stall| stall.total_ns));
        let pct = seen.world.attached(probe).then_some((ns as f64 / window as f64 * 1000.0).round() / 10.0);
        row.put(key, pct, "this kernel lets nothing hook in there");
    }
    let pressure = past.and_then(|past| {
        past.per_s(|level| match level.psi {
            Psi::On { some_us, .. } => Some(some_us),
            _ => None,
        })
    });
    row.put("psi_some_pct", pressure.map(|us| (us / 1e3).round() / 10.0), no_psi(level.psi));
    let growth = past.and_then(Past::anon_growth);
    let held =
        level.usage.zip(level.reclaimable(seen.reading.swap_free)).map(|(usage, free)| usage.saturating_sub(free));
    row.put("unreclaimable_bytes", held, "memory.stat was not read");
    let growth = growth.map(|growth| growth.round() as i64);
    row.put("anon_growth_bytes_per_s", growth, "it was not watched for long enough");
    let forecast = bound.and_then(|(path, level)| {
        let growth = seen.past.get(path)?.anon_growth().filter(|growth| *growth >= 1.0)?;
        let free = level.limit?.saturating_sub(level.usage?.saturating_sub(level.reclaimable(seen.reading.swap_free)?));
        Some((free as f64 / growth * 1e9) as u64)
    });
    row.put("time_to_limit_ns", forecast, "there is no limit, or anonymous memory does not grow");
    Some(Output::Sample(Box::new(SampleRow {
        time: seen.world.at(seen.reading.at_ns),
        sample: "mem",
        container: seen.owner(path),
        cgroup: Some(path.to_owned()),
        fields: row.values,
        unknown: row.unknown,
    })))
}
