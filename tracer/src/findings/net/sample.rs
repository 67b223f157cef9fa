//! The hops that each container's packets pass, once a reading: rows for tables and JSON, no verdicts.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tracer_common::hops::{FIRST_BUCKET_SHIFT, HopKey, IN, OUT, RECEIVE, XMIT};

use super::{Device, Hop, HopTotal, Seen, dropped};
use crate::{
    findings::{
        numbers::{Numbers, grow, total},
        window::Total,
    },
    model::Owner,
    pipeline::{Output, SampleRow},
};

/// A device at which a container's packets were seen, and which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    flow: u32,
    /// Index of the container's own device; `None`: not known.
    through: Option<u32>,
    hop: Hop,
    netns: u32,
    ifindex: u32,
    direction: u32,
}

const IDLE: &str = "packets are counted hop by hop only while somebody looks at the tab net or a page";

const UNHEARD: &str = "what comes to a device that stands on another is only seen there";

/// One row for each container with a network of its own, one for those on the host's, and one for drops of no container.
pub fn rows(seen: &Seen) -> Vec<Output> {
    let sorted = dropped::sort(seen);
    let mut rows = Vec::new();
    for (netns, owners) in &seen.owners {
        let stopped = sorted.stopped.iter().filter(|(place, _)| place.container == *netns);
        let dropped = total(stopped.map(|(_, total)| total.packets));
        let of = |counts: &BTreeMap<u32, u64>| counts.get(netns).copied().unwrap_or(0);
        for owner in owners {
            let mut numbers = Numbers::default();
            numbers.set("network", "own");
            numbers.set("netns", netns);
            let hops = (!seen.counts.is_idle).then(|| hops(seen, *netns));
            numbers.put("hops", hops, IDLE);
            numbers.set("dropped", dropped);
            numbers.set(
                "stops",
                sorted.stops.iter().filter(|(stop, _)| stop.container == *netns).map(stop).collect::<Vec<_>>(),
            );
            numbers.set("refused", of(&sorted.refused));
            numbers.set("other_drops", of(&sorted.other));
            rows.push(row(seen, owner.clone(), numbers));
        }
    }
    for owner in on_the_hosts(seen) {
        let mut numbers = Numbers::default();
        numbers.set("network", "host");
        numbers.put("netns", seen.counts.host, "PID 1's may not be read");
        let why = "it is on the host's network, where its packets cannot be told from others'";
        for field in ["hops", "stops", "dropped", "refused", "other_drops"] {
            numbers.put(field, None::<u64>, why);
        }
        rows.push(row(seen, owner, numbers));
    }
    let mut host = Numbers::default();
    host.set("other_drops", sorted.host);
    rows.push(row(seen, None, host));
    rows
}

/// Containers in the host's network namespace.
fn on_the_hosts(seen: &Seen) -> Vec<Owner> {
    let there = seen.counts.netns.iter().filter(|(_, netns)| Some(**netns) == seen.counts.host);
    let mut cgroups = BTreeSet::new();
    let owners = there.map(|(path, _)| seen.world.containers.owner_of_path(path));
    owners.filter(|owner| owner.as_ref().is_some_and(|owner| cgroups.insert(owner.cgroup.clone()))).collect()
}

fn row(seen: &Seen, owner: Owner, mut numbers: Numbers) -> Output {
    numbers.set("window_ns", seen.drops.length_ns());
    Output::Sample(Box::new(SampleRow {
        time: seen.world.at(seen.counts.at_ns),
        sample: "net",
        cgroup: owner.as_ref().map(|owner| owner.cgroup.clone()),
        container: owner,
        fields: numbers.values,
        unknown: numbers.unknown,
    }))
}

/// In the order in which a packet passes them: those from the container, then those to it; where it has several devices, the way
/// of each.
fn hops(seen: &Seen, container: u32) -> Vec<Value> {
    let mut points: BTreeMap<Point, (HopTotal, u64)> = BTreeMap::new();
    let recent = seen.hops.within(|key| key.container == container);
    for (key, total) in seen.counts.hops.iter().filter(|(key, _)| key.container == container) {
        let point = point(seen, key, &total.device);
        let new = recent.get(key).map_or(0, |new| new.packets);
        let (sum, fresh) = points
            .entry(point)
            .or_insert_with(|| (HopTotal { device: total.device.clone(), ..HopTotal::default() }, 0));
        sum.add(total);
        grow(fresh, new);
    }
    let unheard: Vec<(Point, Device)> = points
        .iter()
        .filter(|(point, (total, _))| point.hop == Hop::ContainerDevice && !total.device.is_heard())
        .map(|(point, (total, _))| (Point { flow: IN, direction: RECEIVE, ..*point }, total.device.clone()))
        .collect();
    for (point, device) in unheard {
        points.entry(point).or_insert_with(|| (HopTotal { device, ..HopTotal::default() }, 0));
    }
    let window = u128::from(seen.hops.length_ns().max(1));
    let mut ordered: Vec<_> = points.iter().collect();
    // Several of a kind stand in the order of time, where that is known.
    let mean = |total: &HopTotal| total.since_ns.checked_div(total.since_count).unwrap_or(0);
    ordered.sort_by_key(|(point, (total, _))| (point.flow, point.through, order(point), mean(total)));
    let names: BTreeMap<u32, &str> = points
        .iter()
        .filter(|(point, _)| point.netns == container)
        .map(|(point, (total, _))| (point.ifindex, total.device.name.as_str()))
        .collect();
    let hop = |(point, (total, new)): (&Point, &(HopTotal, u64))| {
        let is_unheard = point.flow == IN && point.hop == Hop::ContainerDevice && !total.device.is_heard();
        let count = |count: u64| (!is_unheard).then_some(count);
        let mut row = json!({
            "flow": if point.flow == OUT { "out" } else { "in" },
            "hop": point.hop.name(),
            "device": total.device.name,
            "kind": total.device.kind,
            "netns": point.netns,
            "ifindex": point.ifindex,
            "direction": if point.direction == XMIT { "xmit" } else { "receive" },
            "packets": count(total.packets),
            "segments": count(total.segments),
            "bytes": count(total.bytes),
            "packets_per_s": count(u64::try_from(u128::from(*new) * 1_000_000_000 / window).unwrap_or(u64::MAX)),
            "since_container": histogram(&total.since),
        });
        if is_unheard {
            row["unknown"] =
                json!({"packets": UNHEARD, "segments": UNHEARD, "bytes": UNHEARD, "packets_per_s": UNHEARD});
        }
        if let Some(own) = point.through.and_then(|own| names.get(&own)) {
            row["through"] = json!(own);
        }
        if let Some(mtu) = total.device.mtu {
            row["mtu_bytes"] = json!(mtu);
        }
        if point.flow == OUT && point.direction == XMIT && point.hop != Hop::ContainerDevice {
            row["untranslated"] = json!(total.untranslated);
        }
        // Only of packets that the container sent, and that were recognised.
        if let Some(mean) = total.since_ns.checked_div(total.since_count) {
            row["since_container_ns"] = json!(mean);
        }
        row
    };
    ordered.into_iter().map(hop).collect()
}

fn stop((stop, packets): (&dropped::Stop, &u64)) -> Value {
    let (netns, ifindex, device) = match &stop.device {
        Some((netns, ifindex, device)) => (Some(netns), Some(ifindex), Some(device)),
        None => (None, None, None),
    };
    json!({
        "flow": stop.flow, "hop": stop.hop.name(), "device": device, "netns": netns, "ifindex": ifindex, "reason": stop.reason,
        "packets": packets,
    })
}

fn point(seen: &Seen, key: &HopKey, device: &Device) -> Point {
    let hop = seen.role(key.container, key.netns, key.ifindex, device);
    let through = seen.devices.through(key, device);
    Point { flow: key.flow, through, hop, netns: key.netns, ifindex: key.ifindex, direction: key.direction }
}

/// From the container: its device, the pair's other end, the bridge, the uplink; to it the other way round.
fn order(point: &Point) -> i8 {
    let outwards = match point.hop {
        Hop::ContainerDevice => 0,
        Hop::HostVeth => 1,
        Hop::Bridge => 2,
        Hop::Netfilter | Hop::Routing => 3,
        Hop::Uplink => 4,
    };
    if point.flow == IN { -outwards } else { outwards }
}

/// `[{"below_ns": 16000, "count": 3}, …]`, empty ones left out; the last has no bound.
fn histogram(buckets: &[u64]) -> Vec<Value> {
    let filled = buckets.iter().enumerate().filter(|(_, count)| **count > 0);
    filled
        .map(|(at, count)| {
            if at + 1 < buckets.len() {
                json!({"below_ns": 2_u64 << FIRST_BUCKET_SHIFT << at, "count": count})
            } else {
                json!({"count": count})
            }
        })
        .collect()
}
