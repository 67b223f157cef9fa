//! What the io lens asks to be read: the kernel side's sums, limits, the host's knobs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::Result;
use tracer_common::{
    block::{self, IoKey},
    dirty::{self, PauseKey, Pauses},
    sync::{self, SyncKey, Syncs},
};

use super::{place, writers};
use crate::{
    containers::{Files, Hierarchy, HostFiles},
    events,
    findings::io::{
        Ask, Control, Counts, HostDirty, IoTotal, Limit, PauseTotal, Reading, Roots, SyncTotal, Weights, Writer,
    },
    kernel::{host as machine, load::Kernel},
    lenses::io::{DEVICE_IO, LENS, PAUSES, SYNCS},
};

/// Reads for the io lens.
#[derive(Debug)]
pub struct Reader {
    mountinfo: String,
    /// v1: of the blkio controller.
    blkio: Option<Hierarchy>,
    devices: BTreeMap<(u32, u32), String>,
    /// By disk: when they were read, and what they were.
    writers: BTreeMap<(u32, u32), (u64, Vec<Writer>)>,
}

const WRITERS_NS: u64 = 5_000_000_000;

impl Reader {
    pub fn new(mountinfo: &str) -> Self {
        let blkio = Hierarchy::of_controller(mountinfo, "blkio").filter(|found| found.controller.is_some());
        Self { mountinfo: mountinfo.to_owned(), blkio, devices: BTreeMap::new(), writers: BTreeMap::new() }
    }

    pub fn answer(&mut self, ask: &Ask, files: &HostFiles, key: &Hierarchy, kernel: &Kernel) -> Result<Reading> {
        match ask {
            Ask::Counts { of } => Ok(Reading::Counts(Box::new(self.counts(of, files, key, kernel)?))),
            Ask::Roots { of } => {
                let start = machine::cpu_ns();
                let root = |cgroups: &Vec<Arc<str>>| place::root_of(cgroups, files, key, &self.mountinfo);
                let of = of.iter().filter_map(|(owner, cgroups)| Some((owner.clone(), root(cgroups)?))).collect();
                Ok(Reading::Roots(Roots { took_ns: machine::cpu_ns().saturating_sub(start), of }))
            }
            Ask::Place { wanted, of } => {
                let mut found = place::find(wanted, files, key, &self.mountinfo);
                if let Some(disk) = found.disk_of_all() {
                    found.writers = Some(self.writers(disk, of, files, key));
                }
                Ok(Reading::Place(wanted.clone(), Box::new(found)))
            }
        }
    }

    /// Read anew after some seconds: it is asked for each refused call.
    fn writers(&mut self, disk: (u32, u32), of: &[Arc<str>], files: &HostFiles, key: &Hierarchy) -> Vec<Writer> {
        let now_ns = machine::boottime_ns();
        if let Some((at_ns, known)) = self.writers.get(&disk)
            && now_ns.saturating_sub(*at_ns) < WRITERS_NS
        {
            return known.clone();
        }
        let found = writers::of(disk, of, files, key, &self.mountinfo);
        self.writers.insert(disk, (now_ns, found.clone()));
        found
    }

    fn counts(&mut self, of: &[Arc<str>], files: &HostFiles, key: &Hierarchy, kernel: &Kernel) -> Result<Counts> {
        let start = machine::cpu_ns();
        let at_ns = machine::boottime_ns();
        let pauses = pauses(kernel)?;
        let requests = requests(kernel)?;
        let syncs = syncs(kernel)?;
        let mut limits = BTreeMap::new();
        let mut uncontrolled = BTreeSet::new();
        let mut weights = BTreeMap::new();
        let mut written = BTreeMap::new();
        let mut ids = BTreeMap::new();
        for path in of {
            let own = match &self.blkio {
                Some(blkio) => {
                    let directory = blkio.directory(path);
                    if let Ok(listing) = files.list(&directory) {
                        ids.insert(listing.inode, path.clone());
                    }
                    v1_limits(files, &directory)
                }
                None => files.text(&format!("{}/io.max", key.directory(path))).map(|text| v2_limits(&text)),
            };
            let Some(own) = own else {
                uncontrolled.insert(path.clone());
                continue;
            };
            let shares = match &self.blkio {
                Some(blkio) => weights_in(files, &blkio.directory(path), &["blkio.bfq.weight_device"]),
                None => weights_in(files, &key.directory(path), &["io.weight", "io.bfq.weight"]),
            };
            if !shares.is_empty() {
                weights.insert(path.clone(), shares);
            }
            if own.is_empty() {
                continue;
            }
            if self.blkio.is_some() && own.iter().any(|limit| limit.write_bps.or(limit.write_iops).is_some()) {
                written.insert(path.clone(), written_by(files, &key.directory(path)));
            }
            limits.insert(path.clone(), own);
        }
        for device in requests
            .iter()
            .map(|(key, _)| (key.major, key.minor))
            .chain(limits.values().flatten().map(|limit| limit.device))
            .chain(weights.values().flatten().flat_map(|weights| weights.devices.iter().map(|(device, _)| *device)))
            .chain(syncs.iter().filter_map(|(key, _)| key.device()))
            .chain(pauses.iter().filter_map(|(_, total)| numbers(&total.last.device)))
        {
            self.devices.entry(device).or_insert_with(|| name(files, device));
        }
        let disks: BTreeSet<(u32, u32)> = requests.iter().map(|(key, _)| (key.major, key.minor)).collect();
        let unnoted = disks.into_iter().filter(|disk| is_unnoted(files, *disk)).collect();
        Ok(Counts {
            at_ns,
            pauses,
            requests,
            syncs,
            syncs_idle: kernel.is_idle(LENS.on_demand),
            blkio: self.blkio.is_some().then_some(ids),
            limits,
            uncontrolled,
            weights,
            written,
            devices: self.devices.clone(),
            unnoted,
            host: host_dirty(files),
            took_ns: machine::cpu_ns().saturating_sub(start),
        })
    }
}

fn pauses(kernel: &Kernel) -> Result<Vec<(PauseKey, PauseTotal)>> {
    let mut totals = BTreeMap::new();
    for (key, values) in kernel.entries_per_cpu::<PauseKey, Pauses>("PAUSES", PAUSES as usize)? {
        let mut histogram = [0; dirty::BUCKETS];
        for (bucket, count) in values.iter().flat_map(|pauses| pauses.histogram.iter().enumerate()) {
            histogram[bucket] += u64::from(*count);
        }
        let Some(last) = values.iter().max_by_key(|pauses| pauses.last_ns) else { continue };
        let total = PauseTotal {
            who: values.iter().find(|pauses| pauses.who.tgid != 0).map(|pauses| events::process(&pauses.who)),
            count: values.iter().map(|pauses| pauses.count).sum(),
            total_ns: values.iter().map(|pauses| pauses.total_ns).sum(),
            worst_ns: values.iter().map(|pauses| pauses.worst_ns).max().unwrap_or(0),
            worst_call_ns: values.iter().map(|pauses| pauses.worst_call_ns).max().unwrap_or(0),
            histogram,
            last: Control {
                at_ns: last.last_ns,
                dirty: last.dirty,
                threshold: last.threshold,
                background: last.background,
                device_dirty: last.device_dirty,
                device_threshold: last.device_threshold,
                bandwidth: last.bandwidth,
                task_rate: last.task_rate,
                in_memcg: events::known(last.in_memcg).map(|in_memcg| in_memcg == 1),
                device: events::text(&last.device),
            },
        };
        totals.insert(key, total);
    }
    Ok(totals.into_iter().collect())
}

fn requests(kernel: &Kernel) -> Result<Vec<(IoKey, IoTotal)>> {
    let mut totals = BTreeMap::new();
    for (key, values) in kernel.entries_per_cpu::<IoKey, block::Io>("DEVICE_IO", DEVICE_IO as usize)? {
        let mut total = IoTotal::default();
        for io in values {
            total.count += io.count;
            total.bytes += io.bytes;
            total.device_ns += io.device_ns;
            total.queued_ns += io.queued_ns;
            total.direct_bytes += io.direct_bytes;
            total.buffered_bytes += io.buffered_bytes;
            total.worst_ns = total.worst_ns.max(io.worst_ns);
            for (bucket, count) in total.histogram.iter_mut().zip(io.histogram) {
                *bucket += u64::from(count);
            }
        }
        totals.insert(key, total);
    }
    Ok(totals.into_iter().collect())
}

fn syncs(kernel: &Kernel) -> Result<Vec<(SyncKey, SyncTotal)>> {
    let mut totals = BTreeMap::new();
    for (key, values) in kernel.entries_per_cpu::<SyncKey, Syncs>("SYNCS", SYNCS as usize)? {
        let mut histogram = [0; sync::BUCKETS];
        for (bucket, count) in values.iter().flat_map(|syncs| syncs.histogram.iter().enumerate()) {
            histogram[bucket] += u64::from(*count);
        }
        let Some(worst) = values.iter().max_by_key(|syncs| syncs.worst_ns) else { continue };
        let total = SyncTotal {
            who: values.iter().find(|syncs| syncs.who.tgid != 0).map(|syncs| events::process(&syncs.who)),
            count: values.iter().map(|syncs| syncs.count).sum(),
            total_ns: values.iter().map(|syncs| syncs.total_ns).sum(),
            worst_ns: worst.worst_ns,
            slow: values.iter().map(|syncs| syncs.slow).sum(),
            slow_ns: values.iter().map(|syncs| syncs.slow_ns).sum(),
            histogram,
            file: events::text(&worst.name),
        };
        totals.insert(key, total);
    }
    Ok(totals.into_iter().collect())
}

/// `8:0`.
fn numbers(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn name(files: &HostFiles, (major, minor): (u32, u32)) -> String {
    let text = files.text(&format!("/sys/dev/block/{major}:{minor}/uevent")).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map_or_else(|| format!("{major}:{minor}"), str::to_owned)
}

fn is_unnoted(files: &HostFiles, (major, minor): (u32, u32)) -> bool {
    let knob = files.text(&format!("/sys/dev/block/{major}:{minor}/queue/iostats"));
    knob.is_some_and(|text| text.trim() == "0")
}

/// `8:0 rbps=1048576 wbps=max riops=max wiops=max` a line.
fn v2_limits(text: &str) -> Vec<Limit> {
    let limit = |line: &str| {
        let mut words = line.split(' ');
        let mut limit = Limit { device: numbers(words.next()?)?, ..Limit::default() };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().ok();
            match key {
                "rbps" => limit.read_bps = value,
                "wbps" => limit.write_bps = value,
                "riops" => limit.read_iops = value,
                "wiops" => limit.write_iops = value,
                _ => {}
            }
        }
        Some(limit)
    };
    text.lines()
        .filter_map(limit)
        .filter(|limit| *limit != Limit { device: limit.device, ..Limit::default() })
        .collect()
}

fn weights_in(files: &HostFiles, directory: &str, names: &[&str]) -> Vec<Weights> {
    names.iter().filter_map(|name| weights_of(name, &files.text(&format!("{directory}/{name}"))?)).collect()
}

/// `default 100`, and `8:0 50` for each device that has its own (block/blk-iocost.c, block/bfq-cgroup.c).
fn weights_of(file: &str, text: &str) -> Option<Weights> {
    let mut default = None;
    let mut devices = Vec::new();
    for (of, weight) in text.lines().filter_map(|line| line.split_once(' ')) {
        let Ok(weight) = weight.trim().parse() else { continue };
        if of == "default" {
            default = Some(weight);
        } else if let Some(device) = numbers(of) {
            devices.push((device, weight));
        }
    }
    Some(Weights { file: file.to_owned(), default: default?, devices })
}

/// `8:0 1048576` a line, one file for each kind; `None`: the controller is not there.
fn v1_limits(files: &HostFiles, directory: &str) -> Option<Vec<Limit>> {
    let mut limits: BTreeMap<(u32, u32), Limit> = BTreeMap::new();
    let mut read = |kind: &str, set: fn(&mut Limit, u64)| {
        let text = files.text(&format!("{directory}/blkio.throttle.{kind}_device"))?;
        for (device, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            if let (Some(device), Ok(value)) = (numbers(device), value.trim().parse()) {
                set(limits.entry(device).or_insert(Limit { device, ..Limit::default() }), value);
            }
        }
        Some(())
    };
    read("read_bps", |limit, value| limit.read_bps = Some(value))?;
    read("write_bps", |limit, value| limit.write_bps = Some(value))?;
    read("read_iops", |limit, value| limit.read_iops = Some(value))?;
    read("write_iops", |limit, value| limit.write_iops = Some(value))?;
    Some(limits.into_values().collect())
}

/// What the processes of a cgroup gave to write so far, to the page cache or to a device.
pub(super) fn written_by(files: &HostFiles, directory: &str) -> u64 {
    let procs = files.text(&format!("{directory}/cgroup.procs")).unwrap_or_default();
    let of = |pid: &str| {
        let text = files.text(&format!("/proc/{pid}/io"))?;
        text.lines().find_map(|line| line.strip_prefix("write_bytes:")?.trim().parse::<u64>().ok())
    };
    procs.lines().filter_map(of).sum()
}

fn host_dirty(files: &HostFiles) -> HostDirty {
    let vmstat = files.text("/proc/vmstat").unwrap_or_default();
    let number = |knob: &str| files.text(&format!("/proc/sys/vm/{knob}"))?.trim().parse().ok();
    HostDirty {
        threshold: vmstat.lines().find_map(|line| line.strip_prefix("nr_dirty_threshold ")?.trim().parse().ok()),
        ratio: number("dirty_ratio"),
        background_ratio: number("dirty_background_ratio"),
        bytes: number("dirty_bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_v2() {
        let limits = v2_limits(
            "8:0 rbps=1048576 wbps=max riops=max wiops=120\n7:1 rbps=max wbps=max riops=max wiops=max\n\nx\n",
        );
        let one = Limit { device: (8, 0), read_bps: Some(1 << 20), write_iops: Some(120), ..Limit::default() };
        assert_eq!(limits, [one]);
    }
    #[test]
    fn weights_have_a_default_and_may_have_others_by_device() {
        let all = |file: &str, default, devices| Some(Weights { file: file.to_owned(), default, devices });
        assert_eq!(weights_of("io.weight", "default 100\n8:0 50\n"), all("io.weight", 100, vec![((8, 0), 50)]));
        assert_eq!(weights_of("io.bfq.weight", "default 30\n"), all("io.bfq.weight", 30, vec![]));
        assert_eq!(weights_of("io.weight", "8:0 50\nsomething else\n"), None, "no default: not understood");
    }
}
