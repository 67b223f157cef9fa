//! `io.dirty-throttled`: write() is paused because too much is dirty.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tracer_common::{
    block::WRITE,
    dirty::{FIRST_BOUND_NS, PauseKey},
};

use super::{
    Seen, histogram,
    reading::{Control, PauseTotal},
};
use crate::{
    findings::{
        numbers::{Numbers, total},
        state::{Conditions, News},
        window::Total,
    },
    model::{Code, Finding, Owner, Severity, size, span},
};

pub const DIRTY_THROTTLED: Code = Code("io.dirty-throttled");
/// Paused within the window, ns.
const PAUSED_NS: u64 = 100_000_000;
/// Processes that a finding names.
const NAMED: usize = 5;

/// Whose share of dirty pages was used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Domain {
    /// vm.dirty_ratio or vm.dirty_bytes.
    Host,
    /// The memory cgroup's own share of that.
    Memcg,
    /// The device's own, where it is held to that (FUSE, strict_limit).
    Device,
}

impl Domain {
    /// Below the middle of the thresholds nobody is paused, but for a device that is held to its own share. Kernels that
    /// do not say whose limits they are tell them by size: a cgroup's are smaller than the host's.
    fn of(last: &Control, v2: bool, host_threshold: Option<u64>) -> (Self, bool) {
        if last.dirty < last.threshold.saturating_add(last.background) / 2 {
            return (Self::Device, true);
        }
        match last.in_memcg {
            Some(true) => (Self::Memcg, false),
            Some(false) => (Self::Host, false),
            None if !v2 => (Self::Host, false),
            None => match host_threshold {
                Some(host) if last.threshold.saturating_mul(10) < host.saturating_mul(9) => (Self::Memcg, true),
                _ => (Self::Host, true),
            },
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Memcg => "memcg",
            Self::Device => "device",
        }
    }
}

pub fn judge(seen: &Seen, conditions: &mut Conditions) -> Vec<Finding> {
    let mut by_owner: BTreeMap<String, (Owner, BTreeMap<PauseKey, PauseTotal>)> = BTreeMap::new();
    for (key, total) in seen.pauses.within(|_| true) {
        let Some(path) = seen.world.containers.path(key.cgroup) else { continue };
        let owner = seen.world.containers.owner(key.cgroup);
        let subject = owner.as_ref().map_or_else(|| path.to_string(), |container| container.cgroup.clone());
        by_owner.entry(subject).or_insert_with(|| (owner, BTreeMap::new())).1.insert(key, total);
    }
    let mut findings = Vec::new();
    for (cgroup, (owner, pauses)) in by_owner {
        let Some(sum) = sum(&pauses).filter(|sum| sum.total_ns >= PAUSED_NS) else { continue };
        if let Some(news) = conditions.holds(DIRTY_THROTTLED, &cgroup, sum.total_ns, seen.counts.at_ns) {
            findings.push(finding(seen, news, &cgroup, owner, &pauses, &sum));
        }
    }
    findings
}

fn sum(pauses: &BTreeMap<PauseKey, PauseTotal>) -> Option<PauseTotal> {
    let mut all = pauses.values();
    let mut sum = all.next()?.clone();
    all.for_each(|pauses| sum.add(pauses));
    Some(sum)
}

fn finding(
    seen: &Seen,
    news: News,
    cgroup: &str,
    owner: Owner,
    pauses: &BTreeMap<PauseKey, PauseTotal>,
    sum: &PauseTotal,
) -> Finding {
    let (host, page) = (&seen.counts.host, seen.world.host.page_bytes);
    let last = &sum.last;
    let (domain, inferred) = Domain::of(last, seen.world.host.cgroup_version == 2, host.threshold);
    let device = device_name(seen, &last.device);
    let written = written_per_s(seen, &last.device);
    let mut worst: Vec<&PauseTotal> = pauses.values().filter(|pauses| pauses.who.is_some()).collect();
    worst.sort_by_key(|pauses| std::cmp::Reverse(pauses.total_ns));
    let processes: Vec<Value> = worst
        .iter()
        .take(NAMED)
        .map(|pauses| {
            json!({"process": pauses.who, "pauses": pauses.count, "total_ns": pauses.total_ns,
                "worst_ns": pauses.worst_ns})
        })
        .collect();
    let mut numbers = Numbers::default();
    numbers.set("pauses", sum.count);
    numbers.set("total_ns", sum.total_ns);
    numbers.set("worst_ns", sum.worst_ns);
    numbers.set("worst_call_ns", sum.worst_call_ns);
    numbers.set("window_ns", seen.pauses.length_ns());
    numbers.set("histogram", histogram(&sum.histogram, FIRST_BOUND_NS));
    numbers.set("domain", domain.name());
    numbers.set("inferred", inferred);
    let bytes = |pages: u64| Some(pages).filter(|pages| *pages != u64::MAX).map(|pages| pages.saturating_mul(page));
    let unread = "it could not be read in the kernel";
    for (key, pages) in [
        ("dirty_bytes", last.dirty),
        ("limit_bytes", last.threshold),
        ("background_bytes", last.background),
        ("device_dirty_bytes", last.device_dirty),
        ("device_limit_bytes", last.device_threshold),
        ("bandwidth_bytes_per_s", last.bandwidth),
        ("task_bytes_per_s", last.task_rate),
    ] {
        numbers.put(key, bytes(pages), unread);
    }
    numbers.put("device", Some(device.as_str()).filter(|name| !name.is_empty()), unread);
    numbers.put("written_bytes_per_s", written, "requests to that device were not seen");
    numbers.set("processes", processes);
    numbers.set("cgroup", cgroup);
    let shown = |pages: u64| bytes(pages).map_or_else(|| "unknown".to_owned(), size);
    let (dirty, limit) = match domain {
        Domain::Device => (shown(last.device_dirty), shown(last.device_threshold)),
        _ => (shown(last.dirty), shown(last.threshold)),
    };
    let whose = match domain {
        Domain::Host => "the host's dirty limit",
        Domain::Memcg => "its memory cgroup's own dirty limit",
        Domain::Device => "the device's own dirty limit",
    };
    let summary = format!(
        "write() was paused {} times for {} of {}, one call for {}: {dirty} dirty against {whose} of {limit}; {device} takes {}/s",
        sum.count,
        span(sum.total_ns),
        span(seen.pauses.length_ns()),
        span(sum.worst_call_ns),
        written.map_or_else(|| shown(last.bandwidth), size)
    );
    Finding {
        code: DIRTY_THROTTLED,
        severity: Severity::Warning,
        id: news.id,
        state: Some(news.state),
        time: seen.world.at(seen.counts.at_ns),
        container: owner,
        process: worst.first().and_then(|pauses| pauses.who.clone()),
        summary,
        evidence: numbers.values,
        why: why(domain),
        fix: fix(domain, seen, &device, last, written),
        refers_to: None,
        unknown: numbers.unknown,
    }
}

fn why(domain: Domain) -> String {
    let share = match domain {
        Domain::Host => "vm.dirty_ratio (or vm.dirty_bytes) of the host's available memory",
        Domain::Memcg => {
            "vm.dirty_ratio of what the container may use as page cache, which its memory limit makes small"
        }
        Domain::Device => "its own share, which the kernel holds it to (FUSE, strict_limit)",
    };
    format!(
        "writes go to the page cache faster than the device takes them: what is dirty has reached {share}, so the kernel makes the writer itself wait in balance_dirty_pages"
    )
}

fn fix(domain: Domain, seen: &Seen, device: &str, last: &Control, written: Option<u64>) -> Vec<String> {
    let (host, page) = (&seen.counts.host, seen.world.host.page_bytes);
    let bytes = |pages: u64| pages.min(u64::MAX / page.max(1)).saturating_mul(page);
    let rate = written.unwrap_or_else(|| bytes(last.bandwidth));
    let slower = format!(
        "write no faster than {device} does ({}/s): spread the burst, or write less (logs, temporary files)",
        size(rate)
    );
    let direct = "write past the page cache where latency matters: O_DIRECT, or fdatasync little by little".to_owned();
    let mut fix = match domain {
        Domain::Memcg => {
            let ratio = host.ratio.filter(|ratio| *ratio > 0).unwrap_or(20);
            let burst = bytes(last.dirty).saturating_mul(2);
            vec![format!(
                "leave room for page cache in the memory limit: with vm.dirty_ratio {ratio}, a burst of {} wants some {} of cache beside what the processes hold",
                size(burst),
                size(burst.saturating_mul(100) / ratio)
            )]
        }
        Domain::Host => {
            let knob = match host.bytes {
                Some(bytes) if bytes > 0 => format!("vm.dirty_bytes is {}: raise it for longer bursts", size(bytes)),
                _ => format!(
                    "on a slow device large ratios make few long pauses: set the bytes knobs to some seconds of it, sysctl vm.dirty_background_bytes={} vm.dirty_bytes={}",
                    rate.saturating_mul(2),
                    rate.saturating_mul(6)
                ),
            };
            vec![knob]
        }
        Domain::Device => {
            vec![format!("its share is /sys/class/bdi/{}/max_ratio (and strict_limit): raise it", last.device)]
        }
    };
    fix.extend([slower, direct]);
    fix
}

/// What was written to that device within the window, by anybody.
fn written_per_s(seen: &Seen, device: &str) -> Option<u64> {
    let device = parsed(device)?;
    let requests = seen.requests.within(|key| key.op == WRITE && (key.major, key.minor) == device);
    let bytes = total(requests.values().map(|total| total.bytes));
    let window = u128::from(seen.requests.length_ns().max(1));
    u64::try_from(u128::from(bytes) * 1_000_000_000 / window).ok().filter(|rate| *rate > 0)
}

fn parsed(numbers: &str) -> Option<(u32, u32)> {
    let (major, minor) = numbers.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `sda`, else `8:0` as the kernel names it.
fn device_name(seen: &Seen, numbers: &str) -> String {
    let device = parsed(numbers).and_then(|device| seen.counts.devices.get(&device));
    device.cloned().unwrap_or_else(|| numbers.to_owned())
}
