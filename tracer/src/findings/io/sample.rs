//! What each container reads and writes, device by device, once a reading: rows for tables and JSON, no verdicts.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tracer_common::{
    block::{FIRST_BOUND_NS, IoKey, OTHER, READ, WRITE},
    sync,
};

use super::{
    Seen, histogram,
    reading::{IoTotal, Limit, Place, SyncTotal, Weights},
    space::used,
    syncs,
};
use crate::{
    findings::{
        numbers::{Numbers, total},
        window::Total,
    },
    model::Owner,
    pipeline::{Output, SampleRow},
};

/// The sums of one container and one device, by `READ`, `WRITE`, `OTHER`.
type Sums = BTreeMap<(u32, u32), [IoTotal; 3]>;

/// One row for each container that has requests, pauses or a limit, and one for what is charged to none.
pub fn rows(seen: &Seen) -> Vec<Output> {
    let mut owners: BTreeMap<Option<String>, (Owner, Sums)> = BTreeMap::new();
    for (key, total) in seen.requests.within(|_| true) {
        let owner = seen.payer(&key).and_then(|path| seen.world.containers.owner_of_path(path));
        let cgroup = owner.as_ref().map(|container| container.cgroup.clone());
        let sums = &mut owners.entry(cgroup).or_insert_with(|| (owner, Sums::new())).1;
        let of = sums.entry((key.major, key.minor)).or_default();
        of[op(&key)].add(&total);
    }
    for path in seen.counts.limits.keys() {
        let owner = seen.world.containers.owner_of_path(path);
        owners.entry(Some(path.to_string())).or_insert_with(|| (owner, Sums::new()));
    }
    // Who waits need not be who is charged: on v1, and where the io controller is off, flushers write for nobody.
    let (paused, syncing) = (seen.pauses.within(|_| true), seen.syncs.within(|_| true));
    for cgroup in paused.keys().map(|key| key.cgroup).chain(syncing.keys().map(|key| key.cgroup)) {
        if let Some(owner) = seen.world.containers.owner(cgroup) {
            let cgroup = Some(owner.cgroup.clone());
            owners.entry(cgroup).or_insert_with(|| (Some(owner), Sums::new()));
        }
    }
    for path in seen.roots.iter().filter(|(_, root)| root.upper.is_some()).map(|(path, _)| path) {
        if let Some(owner) = seen.world.containers.owner_of_path(path) {
            owners.entry(Some(path.to_string())).or_insert_with(|| (Some(owner), Sums::new()));
        }
    }
    owners.entry(None).or_default();
    owners.into_iter().map(|(cgroup, (owner, sums))| row(seen, cgroup, owner, &sums)).collect()
}

fn op(key: &IoKey) -> usize {
    [READ, WRITE, OTHER].iter().position(|op| *op == key.op).unwrap_or(2)
}

fn row(seen: &Seen, cgroup: Option<String>, owner: Owner, sums: &Sums) -> Output {
    let window = seen.requests.length_ns().max(1);
    let per_s = |count: u64| u64::try_from(u128::from(count) * 1_000_000_000 / u128::from(window)).unwrap_or(u64::MAX);
    let mut numbers = Numbers::default();
    let mut all = [IoTotal::default(); 3];
    for (sum, total) in sums.values().flat_map(|of| of.iter().enumerate()) {
        all[sum].add(total);
    }
    let requests_seen = seen.world.attached("block_issue") && seen.world.attached("block_complete");
    let unseen = "requests to block devices are not seen";
    for (key, count) in [
        ("read_bytes_per_s", all[0].bytes),
        ("write_bytes_per_s", all[1].bytes),
        ("reads_per_s", all[0].count),
        ("writes_per_s", all[1].count),
    ] {
        numbers.put(key, requests_seen.then(|| per_s(count)), unseen);
    }
    let served = total(all.iter().map(|total| total.count));
    let idle = if requests_seen { "no request completed within the window" } else { unseen };
    let mean = |ns: u64| ns.checked_div(served);
    numbers.put("device_ns", mean(total(all.iter().map(|total| total.device_ns))), idle);
    let unnoted = sums.keys().find(|device| seen.counts.unnoted.contains(device)).map(|device| seen.device(*device));
    let queued = mean(total(all.iter().map(|total| total.queued_ns))).filter(|_| unnoted.is_none());
    let not_noted = |device: String| format!("queue/iostats of {device} is 0: when a request was made is not noted");
    numbers.put("queued_ns", queued, &unnoted.map_or_else(|| idle.to_owned(), not_noted));
    let own = |id: u64| match (&cgroup, seen.world.containers.owner(id)) {
        (Some(cgroup), Some(container)) => container.cgroup == *cgroup,
        (None, None) => true,
        _ => false,
    };
    let paused = seen.pauses.within(|key| own(key.cgroup));
    let paused = total(paused.values().map(|pauses| pauses.total_ns));
    let pauses_seen = seen.world.attached("dirty_pause");
    numbers.put("paused_ns", pauses_seen.then_some(paused), "pauses of buffered writers are not seen");
    let syncs = sync_sums(seen, own);
    let are_seen = seen.world.attached("file_refused") && seen.world.attached("sync_begin") && !seen.counts.syncs_idle;
    let not_seen = if seen.counts.syncs_idle {
        "not watched: nobody looks; the tab io has them watched"
    } else {
        "calls that wait for a device were not watched"
    };
    let waited = total(syncs.values().map(|syncs| syncs.total_ns));
    numbers.put("sync_ns", are_seen.then_some(waited), not_seen);
    let syncs: Vec<Value> = syncs.iter().map(|(call, total)| sync_row(*call, total)).collect();
    numbers.put("syncs", are_seen.then_some(syncs), not_seen);
    numbers.set("window_ns", window);
    let devices: Vec<Value> = sums.iter().map(|(device, of)| device_row(seen, *device, of, &per_s)).collect();
    numbers.put("devices", requests_seen.then_some(devices), unseen);
    let limits = cgroup.as_deref().and_then(|cgroup| seen.counts.limits.get(cgroup));
    let limits: Vec<Value> = limits.into_iter().flatten().map(|limit| limit_row(seen, limit)).collect();
    let is_controlled = !cgroup.as_deref().is_some_and(|cgroup| seen.counts.uncontrolled.contains(cgroup));
    let off = "the io controller (v1: blkio) is off for this cgroup, or this kernel holds nobody back";
    numbers.put("limits", is_controlled.then_some(limits), off);
    let weights = cgroup.as_deref().and_then(|cgroup| seen.counts.weights.get(cgroup));
    let weights: Vec<Value> = weights.into_iter().flatten().map(|weights| weights_row(seen, weights)).collect();
    numbers.put("weights", is_controlled.then_some(weights), off);
    upper(cgroup.as_deref().and_then(|cgroup| seen.roots.get(cgroup)), &mut numbers);
    Output::Sample(Box::new(SampleRow {
        time: seen.world.at(seen.counts.at_ns),
        sample: "io",
        container: owner,
        cgroup,
        fields: numbers.values,
        unknown: numbers.unknown,
    }))
}

/// What a container wrote outside of its volumes: told by a quota, never by walking its directory.
fn upper(root: Option<&Place>, numbers: &mut Numbers) {
    let not_read = "its root was not read: no process of it was there";
    let no_overlay = root.map_or(not_read, |_| "its root is no overlay");
    let upper = root.and_then(|root| root.upper.as_deref());
    numbers.put("upper", upper, no_overlay);
    let root = root.filter(|root| root.upper.is_some());
    let unread = root.map_or(no_overlay, |root| root.unknown.as_deref().unwrap_or("it could not be read"));
    let quota = root.filter(|root| root.has_quota()).and_then(|root| root.space);
    let no_quota = match root.map(|root| (root.space, root.disk)) {
        Some((Some(_), Some(_))) => "no quota bounds it, and only a walk through it could tell",
        _ => unread,
    };
    numbers.put("upper_limit_bytes", quota.map(|space| space.total_bytes), no_quota);
    numbers.put("upper_used_bytes", quota.map(used), no_quota);
    let disk = root.and_then(|root| root.disk);
    numbers.put("upper_disk_bytes", disk.map(|disk| disk.total_bytes), unread);
    numbers.put("upper_disk_used_bytes", disk.map(used), unread);
    numbers.put("upper_disk_mount", root.and_then(|root| root.disk_mount.as_deref()), unread);
}

/// By call.
fn sync_sums(seen: &Seen, own: impl Fn(u64) -> bool) -> BTreeMap<u32, SyncTotal> {
    let mut sums: BTreeMap<u32, SyncTotal> = BTreeMap::new();
    for (key, total) in seen.syncs.within(|key| own(key.cgroup)) {
        sums.entry(key.call).and_modify(|sum| sum.add(&total)).or_insert(total);
    }
    sums
}

fn sync_row(call: u32, total: &SyncTotal) -> Value {
    json!({"call": syncs::call(call), "count": total.count, "total_ns": total.total_ns, "worst_ns": total.worst_ns,
        "slow": total.slow, "histogram": histogram(&total.histogram, sync::FIRST_BOUND_NS)})
}

fn device_row(seen: &Seen, device: (u32, u32), of: &[IoTotal; 3], per_s: &dyn Fn(u64) -> u64) -> Value {
    let is_noted = !seen.counts.unnoted.contains(&device);
    let kinds = ["read", "write", "other"].iter().zip(of).filter(|(_, total)| total.count > 0 || total.bytes > 0);
    let kinds = kinds.map(|(name, total)| {
        let each = |ns: u64| ns.checked_div(total.count).unwrap_or(0);
        let value = json!({"count": total.count, "bytes": total.bytes, "bytes_per_s": per_s(total.bytes),
            "per_s": per_s(total.count), "device_ns": each(total.device_ns), "queued_ns": is_noted.then(|| each(total.queued_ns)),
            "worst_ns": total.worst_ns, "direct_bytes": total.direct_bytes, "buffered_bytes": total.buffered_bytes,
            "untold_bytes": total.bytes.saturating_sub(total.direct_bytes).saturating_sub(total.buffered_bytes),
            "histogram": histogram(&total.histogram, FIRST_BOUND_NS)});
        ((*name).to_owned(), value)
    });
    let mut row: serde_json::Map<String, Value> = kinds.collect();
    row.insert("device".to_owned(), json!(seen.device(device)));
    Value::Object(row)
}

fn limit_row(seen: &Seen, limit: &Limit) -> Value {
    let mut row = serde_json::Map::new();
    row.insert("device".to_owned(), json!(seen.device(limit.device)));
    for (key, value) in [
        ("read_bytes_per_s", limit.read_bps),
        ("write_bytes_per_s", limit.write_bps),
        ("reads_per_s", limit.read_iops),
        ("writes_per_s", limit.write_iops),
    ] {
        if let Some(value) = value {
            row.insert(key.to_owned(), json!(value));
        }
    }
    Value::Object(row)
}

fn weights_row(seen: &Seen, weights: &Weights) -> Value {
    let of_device = |(device, weight): &((u32, u32), u64)| json!({"device": seen.device(*device), "weight": weight});
    json!({"file": weights.file, "weight": weights.default,
        "devices": weights.devices.iter().map(of_device).collect::<Vec<_>>()})
}
