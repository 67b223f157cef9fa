//! `io.slow-sync`: fsync and its like wait long for the device.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tracer_common::{
    block::WRITE,
    sync::{FDATASYNC, FIRST_BOUND_NS, FSYNC, MSYNC, SLOW_NS, SYNC, SYNC_FILE_RANGE, SYNCFS, SyncKey},
};

use super::{
    Seen, histogram,
    reading::{IoTotal, SyncTotal},
};
use crate::{
    containers::is_within,
    findings::{
        numbers::Numbers,
        state::{Conditions, News},
        window::Total,
    },
    model::{Code, Finding, Owner, Severity, span},
};

pub const SLOW_SYNC: Code = Code("io.slow-sync");
/// Calls that a finding names, by process, call and file system.
const NAMED: usize = 5;

pub fn call(number: u32) -> &'static str {
    match number {
        FSYNC => "fsync",
        FDATASYNC => "fdatasync",
        SYNC => "sync",
        SYNCFS => "syncfs",
        SYNC_FILE_RANGE => "sync_file_range",
        MSYNC => "msync",
        _ => "unknown",
    }
}

pub fn judge(seen: &Seen, conditions: &mut Conditions) -> Vec<Finding> {
    let mut by_owner: BTreeMap<String, (Owner, BTreeMap<SyncKey, SyncTotal>)> = BTreeMap::new();
    for (key, total) in seen.syncs.within(|_| true) {
        let Some(path) = seen.world.containers.path(key.cgroup) else { continue };
        let owner = seen.world.containers.owner(key.cgroup);
        let subject = owner.as_ref().map_or_else(|| path.to_string(), |container| container.cgroup.clone());
        by_owner.entry(subject).or_insert_with(|| (owner, BTreeMap::new())).1.insert(key, total);
    }
    let mut findings = Vec::new();
    for (cgroup, (owner, syncs)) in by_owner {
        let Some(sum) = sum(&syncs).filter(|sum| sum.slow > 0) else { continue };
        if let Some(news) = conditions.holds(SLOW_SYNC, &cgroup, sum.slow_ns, seen.counts.at_ns) {
            findings.push(finding(seen, news, &cgroup, owner, &syncs, &sum));
        }
    }
    findings
}

fn sum(syncs: &BTreeMap<SyncKey, SyncTotal>) -> Option<SyncTotal> {
    let mut all = syncs.values();
    let mut sum = all.next()?.clone();
    all.for_each(|syncs| sum.add(syncs));
    Some(sum)
}

/// The device that most of what the cgroup wrote within the window went to (whoever syncs submits the writes), and what
/// became of all writes to it.
fn device(seen: &Seen, cgroup: &str) -> Option<((u32, u32), IoTotal)> {
    let own = |key: &_| seen.payer(key).is_some_and(|payer| is_within(payer, cgroup));
    let writes = seen.requests.within(|key| key.op == WRITE);
    let mut bytes: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    for (key, total) in writes.iter().filter(|(key, _)| own(key)) {
        let sum = bytes.entry((key.major, key.minor)).or_default();
        *sum = sum.saturating_add(total.bytes);
    }
    let (device, _) = bytes.into_iter().max_by_key(|(_, bytes)| *bytes)?;
    let mut all = IoTotal::default();
    writes.iter().filter(|(key, _)| (key.major, key.minor) == device).for_each(|(_, total)| all.add(total));
    Some((device, all))
}

fn finding(
    seen: &Seen,
    news: News,
    cgroup: &str,
    owner: Owner,
    syncs: &BTreeMap<SyncKey, SyncTotal>,
    sum: &SyncTotal,
) -> Finding {
    let mut worst: Vec<(&SyncKey, &SyncTotal)> = syncs.iter().filter(|(_, total)| total.slow > 0).collect();
    worst.sort_by_key(|(_, total)| std::cmp::Reverse(total.slow_ns));
    let named: Vec<Value> = worst.iter().take(NAMED).map(|(key, total)| call_row(seen, key, total)).collect();
    let device = device(seen, cgroup);
    let name = device.as_ref().map(|(device, _)| seen.device(*device));
    let device_ns = device.as_ref().and_then(|(_, total)| total.device_ns.checked_div(total.count));
    let window_ns = seen.syncs.length_ns();
    let mut numbers = Numbers::default();
    numbers.set("count", sum.count);
    numbers.set("total_ns", sum.total_ns);
    numbers.set("slow", sum.slow);
    numbers.set("slow_ns", sum.slow_ns);
    numbers.set("worst_ns", sum.worst_ns);
    numbers.set("window_ns", window_ns);
    numbers.set("histogram", histogram(&sum.histogram, FIRST_BOUND_NS));
    let not_seen = "no write that is charged to it completed at a device within the window";
    numbers.put("device", name.as_deref(), not_seen);
    numbers.put("device_ns", device_ns, not_seen);
    numbers.set("calls", named);
    numbers.set("cgroup", cgroup);
    let first = worst.first();
    let calls = first.map_or("fsync", |(key, _)| call(key.call));
    let file = first.map(|(_, total)| total.file.as_str()).filter(|file| !file.is_empty());
    let of = file.map_or_else(String::new, |file| format!(" of {file}"));
    let plural = if sum.slow == 1 { "" } else { "s" };
    let served = match (&name, device_ns) {
        (Some(name), Some(ns)) => format!("; {name} takes {} for a write", span(ns)),
        _ => String::new(),
    };
    Finding {
        code: SLOW_SYNC,
        severity: Severity::Warning,
        id: news.id,
        state: Some(news.state),
        time: seen.world.at(seen.counts.at_ns),
        container: owner,
        process: first.and_then(|(_, total)| total.who.clone()),
        summary: format!(
            "{calls}{of} took {} or more: {} call{plural} waited {} within {}, the longest so far {}{served}",
            span(SLOW_NS),
            sum.slow,
            span(sum.slow_ns),
            span(window_ns),
            span(sum.worst_ns)
        ),
        evidence: numbers.values,
        why: why(seen, cgroup, first.map(|(key, _)| key.call)),
        fix: fix(first.map(|(key, _)| key.call)),
        refers_to: None,
        unknown: numbers.unknown,
    }
}

/// sync and msync name no file.
fn call_row(seen: &Seen, key: &SyncKey, total: &SyncTotal) -> Value {
    let mut row = json!({"process": total.who, "call": call(key.call), "count": total.count, "slow": total.slow,
        "slow_ns": total.slow_ns, "worst_ns": total.worst_ns});
    if !total.file.is_empty() {
        row["file"] = json!(total.file);
    }
    if let Some(device) = key.device() {
        row["file_system"] = json!(seen.device(device));
    }
    row
}

fn why(seen: &Seen, cgroup: &str, number: Option<u32>) -> String {
    let all = match number {
        Some(SYNC | SYNCFS) => "it writes out what everybody wrote to the file system, not only its caller",
        _ => {
            "it writes out all of the file that is dirty, and waits for the journal, which may hold other files' data and metadata as well"
        }
    };
    let is_limited = seen.counts.limits.iter().any(|(path, limits)| is_within(cgroup, path) && !limits.is_empty());
    let limit = if is_limited { "; a limit on a device is in force, and holds such writes back too" } else { "" };
    format!("the call returns when the device has all of it: {all}{limit}")
}

fn fix(number: Option<u32>) -> Vec<String> {
    let first = match number {
        Some(SYNC | SYNCFS) => "fsync the files that matter, not the whole file system",
        _ => {
            "let less pile up: sync little by little, several changes in one sync (group commit), and big writers on another file system"
        }
    };
    vec![
        first.to_owned(),
        "a device with a write cache that survives a loss of power, or a faster one, for what must sync".to_owned(),
    ]
}
