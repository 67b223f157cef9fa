//! `io.throttled` and `io.blkio-v1-buffered`: limits on devices, kept and passed by.

use std::{collections::BTreeMap, sync::Arc};

use tracer_common::block::{IoKey, READ, WRITE};

use super::{
    Seen,
    reading::{IoTotal, Limit},
};
use crate::{
    containers::is_within,
    findings::{
        numbers::{Numbers, total},
        state::{Conditions, News},
    },
    model::{Code, Finding, Severity, size, span},
};

pub const THROTTLED: Code = Code("io.throttled");
pub const BLKIO_V1_BUFFERED: Code = Code("io.blkio-v1-buffered");
/// Percent of a limit at which a cgroup is at it.
const AT_LIMIT_PCT: u64 = 90;
/// A window that is shorter tells no rate.
const LEAST_NS: u64 = 1_500_000_000;
/// Buffered, within two readings, bytes.
const BUFFERED: u64 = 1 << 20;

/// What the processes of one cgroup with a v1 limit wrote.
#[derive(Debug, Default)]
pub struct Written {
    /// Given to write by them, and charged to the cgroup at devices, so far.
    last: Option<(u64, u64)>,
    /// Not charged, in each of the last readings.
    buffered: [u64; 2],
}

pub fn judge(seen: &Seen, written: &mut BTreeMap<Arc<str>, Written>, conditions: &mut Conditions) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, limits) in &seen.counts.limits {
        for limit in limits {
            findings.extend(throttled(seen, path, limit, conditions));
        }
    }
    written.retain(|path, _| seen.counts.written.contains_key(path));
    for (path, total) in &seen.counts.written {
        let limits = seen.counts.limits.get(path).map_or(&[][..], Vec::as_slice);
        let Some(limit) = limits.iter().find(|limit| limit.write_bps.or(limit.write_iops).is_some()) else { continue };
        findings.extend(buffered(seen, path, limit, *total, written.entry(path.clone()).or_default(), conditions));
    }
    findings
}

impl Seen<'_> {
    /// The cgroup that requests are charged to.
    pub fn payer(&self, key: &IoKey) -> Option<&Arc<str>> {
        match &self.counts.blkio {
            Some(paths) => paths.get(&key.cgroup),
            None => self.world.containers.path(key.cgroup),
        }
    }

    /// Requests to a device within the window, of a cgroup and those below it.
    fn used(&self, path: &str, device: (u32, u32), op: u32) -> IoTotal {
        let of = |key: &IoKey| {
            key.op == op
                && (key.major, key.minor) == device
                && self.payer(key).is_some_and(|payer| is_within(payer, path))
        };
        let mut sum = IoTotal::default();
        for total in self.requests.within(of).values() {
            crate::findings::window::Total::add(&mut sum, total);
        }
        sum
    }

    pub fn device(&self, device: (u32, u32)) -> String {
        self.counts.devices.get(&device).cloned().unwrap_or_else(|| format!("{}:{}", device.0, device.1))
    }
}

fn throttled(seen: &Seen, path: &str, limit: &Limit, conditions: &mut Conditions) -> Option<Finding> {
    let window_ns = seen.requests.length_ns();
    if window_ns < LEAST_NS {
        return None;
    }
    let per_s =
        |count: u64| u64::try_from(u128::from(count) * 1_000_000_000 / u128::from(window_ns)).unwrap_or(u64::MAX);
    let (read, write) = (seen.used(path, limit.device, READ), seen.used(path, limit.device, WRITE));
    let kinds = [
        ("read", "bps", limit.read_bps, per_s(read.bytes)),
        ("write", "bps", limit.write_bps, per_s(write.bytes)),
        ("read", "iops", limit.read_iops, per_s(read.count)),
        ("write", "iops", limit.write_iops, per_s(write.count)),
    ];
    let at_limit = |limit: Option<u64>, rate: u64| {
        limit.filter(|limit| rate.saturating_mul(100) >= limit.saturating_mul(AT_LIMIT_PCT))
    };
    let (what, unit, most, rate) = kinds.into_iter().find_map(|(what, unit, limit, rate)| {
        Some((what, unit, at_limit(limit, rate).filter(|limit| *limit > 0)?, rate))
    })?;
    let device = seen.device(limit.device);
    let news = conditions.holds(THROTTLED, &format!("{path} {device} {what} {unit}"), rate, seen.counts.at_ns)?;
    let total = if what == "read" { &read } else { &write };
    let mut numbers = Numbers::default();
    numbers.set("device", device.as_str());
    numbers.set("direction", what);
    let is_bytes = unit == "bps";
    let not_set = "the other kind of limit is meant";
    numbers.put("limit_bytes_per_s", is_bytes.then_some(most), not_set);
    numbers.put("used_bytes_per_s", Some(per_s(total.bytes)), "");
    numbers.put("limit_requests_per_s", (!is_bytes).then_some(most), not_set);
    numbers.put("used_requests_per_s", Some(per_s(total.count)), "");
    numbers.set("device_ns", total.device_ns.checked_div(total.count).unwrap_or(0));
    numbers.set("window_ns", window_ns);
    numbers.set("inferred", true);
    numbers.put("held_ns", None::<u64>, "the kernel holds requests back before any hook sees them");
    numbers.set("limiting_cgroup", path);
    numbers.set("cgroup", path);
    let shown = |rate: u64| if is_bytes { format!("{}/s", size(rate)) } else { format!("{rate} requests/s") };
    let file = match (seen.counts.blkio.is_some(), is_bytes) {
        (true, _) => format!("blkio.throttle.{what}_{unit}_device"),
        (false, true) => format!("io.max ({}bps)", &what[..1]),
        (false, false) => format!("io.max ({}iops)", &what[..1]),
    };
    Some(Finding {
        code: THROTTLED,
        severity: Severity::Info,
        id: news.id,
        state: Some(news.state),
        time: seen.world.at(seen.counts.at_ns),
        container: seen.world.containers.owner_of_path(path),
        process: None,
        summary: format!(
            "{what}s from and to {device} run at {} of the {} that its limit allows: held back (inferred)",
            shown(rate),
            shown(most)
        ),
        evidence: numbers.values,
        why: format!(
            "{file} is in force; the device itself took {} a request, what its users wait beyond that is the limit",
            span(total.device_ns.checked_div(total.count).unwrap_or(0))
        ),
        fix: vec![
            format!("raise {file}, or let it {what} less"),
            "a weight (io.weight, io.bfq.weight) shares a busy device without holding anybody back on an idle one"
                .to_owned(),
        ],
        refers_to: None,
        unknown: numbers.unknown,
    })
}

fn buffered(
    seen: &Seen,
    path: &str,
    limit: &Limit,
    written: u64,
    past: &mut Written,
    conditions: &mut Conditions,
) -> Option<Finding> {
    let own = |key: &IoKey| key.op == WRITE && seen.payer(key).is_some_and(|payer| is_within(payer, path));
    let totals = seen.counts.requests.iter().filter(|(key, _)| own(key));
    let charged = total(totals.map(|(_, total)| total.bytes));
    if let Some((before, charged_before)) = past.last {
        let gave = written.saturating_sub(before);
        past.buffered = [past.buffered[1], gave.saturating_sub(charged.saturating_sub(charged_before))];
    }
    past.last = Some((written, charged));
    let passed = total(past.buffered.iter());
    if passed < BUFFERED {
        return None;
    }
    let news: News = conditions.holds(BLKIO_V1_BUFFERED, path, passed, seen.counts.at_ns)?;
    let device = seen.device(limit.device);
    let mut numbers = Numbers::default();
    numbers.set("device", device.as_str());
    numbers.put("limit_bytes_per_s", limit.write_bps, "the limit is on requests");
    numbers.put("limit_requests_per_s", limit.write_iops, "the limit is on bytes");
    numbers.set("buffered_bytes", passed);
    numbers.set("limiting_cgroup", path);
    numbers.set("cgroup", path);
    let most = limit.write_bps.map(|bps| format!("{}/s", size(bps)));
    let most = most.or(limit.write_iops.map(|iops| format!("{iops} requests/s"))).unwrap_or_default();
    Some(Finding {
        code: BLKIO_V1_BUFFERED,
        severity: Severity::Warning,
        id: news.id,
        state: Some(news.state),
        time: seen.world.at(seen.counts.at_ns),
        container: seen.world.containers.owner_of_path(path),
        process: None,
        summary: format!("{} of buffered writes within 2 s pass its write limit of {most} on {device} by", size(passed)),
        evidence: numbers.values,
        why: "on cgroup v1 blkio holds back direct I/O alone: buffered writes go to the page cache, and the kernel's flushers write them later, charged to nobody".to_owned(),
        fix: vec![
            "move to cgroup v2 with io and memory together: there writeback is charged to whoever dirtied the pages".to_owned(),
            "or let it write with O_DIRECT; or bound what it may dirty by its memory limit".to_owned(),
        ],
        refers_to: None,
        unknown: numbers.unknown,
    })
}
