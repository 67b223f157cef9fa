//! net.hop-latency: what the way from a container's device to the uplink costs, and at which hop.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tracer_common::hops::{FIRST_BUCKET_SHIFT, HopKey, OUT, XMIT};

use super::{Hop, HopTotal, Seen};
use crate::{
    findings::{numbers::Numbers, state::Conditions, state::News, window::Total},
    model::{Code, Finding, Severity, span},
    network::advice::INSTEAD_OF_VETH,
};

pub const LATENCY: Code = Code("net.hop-latency");

/// A pair, a bridge and the rules between take some microseconds of one softirq. What takes longer, waited.
const SLOW_NS: u64 = 100_000;
/// Fewer say nothing of the way.
const PACKETS: u64 = 20;
/// The first bucket of times that long: a few packets that waited for a neighbour's address are no slow way.
const SLOW_BUCKET: usize = (SLOW_NS.ilog2() - FIRST_BUCKET_SHIFT) as usize;

/// A hop with the mean time since the container's own device.
struct Stage {
    hop: Hop,
    direction: &'static str,
    device: String,
    since_ns: u64,
    packets: u64,
    /// Of them took long.
    slow: u64,
}

pub fn judge(seen: &Seen, conditions: &mut Conditions) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (container, through) in ways(seen) {
        let stages = stages(seen, container, through);
        let Some(last) = stages.iter().rfind(|stage| stage.hop == Hop::Uplink) else { continue };
        if last.packets < PACKETS || last.since_ns < SLOW_NS || last.slow.saturating_mul(2) < last.packets {
            continue;
        }
        let subject = through.map_or_else(|| container.to_string(), |through| format!("{container} {through}"));
        let Some(news) = conditions.holds(LATENCY, &subject, last.since_ns, seen.counts.at_ns) else {
            continue;
        };
        findings.push(finding(seen, news, container, &stages));
    }
    findings
}

/// Each container, and each of its own devices by which packets leave: the times of two networks do not follow each other.
fn ways(seen: &Seen) -> BTreeSet<(u32, Option<u32>)> {
    let out = seen.counts.hops.iter().filter(|(key, _)| key.flow == OUT && seen.owners.contains_key(&key.container));
    out.map(|(key, total)| (key.container, seen.devices.through(key, &total.device))).collect()
}

/// In the order of time.
fn stages(seen: &Seen, container: u32, through: Option<u32>) -> Vec<Stage> {
    let timed = seen.hops.within(|key| key.container == container && key.flow == OUT).into_iter();
    let timed = timed.filter(|(key, total)| seen.devices.through(key, &total.device) == through);
    // Of one device there are several: one for each protocol.
    let mut sums: Vec<(HopKey, HopTotal)> = Vec::new();
    for (key, total) in timed.filter(|(_, total)| total.since_count > 0) {
        let place = |other: &HopKey| (other.netns, other.ifindex, other.direction);
        match sums.iter_mut().find(|(other, _)| place(other) == place(&key)) {
            Some((_, sum)) => sum.add(&total),
            None => sums.push((key, total)),
        }
    }
    let mut stages: Vec<Stage> = sums
        .into_iter()
        .map(|(key, total)| Stage {
            hop: seen.role(container, key.netns, key.ifindex, &total.device),
            direction: if key.direction == XMIT { "xmit" } else { "receive" },
            since_ns: total.since_ns / total.since_count.max(1),
            packets: total.since_count,
            slow: total.since.iter().skip(SLOW_BUCKET).fold(0, |sum, count| sum.saturating_add(*count)),
            device: total.device.name,
        })
        .collect();
    stages.sort_by_key(|stage| stage.since_ns);
    stages
}

fn finding(seen: &Seen, news: News, container: u32, stages: &[Stage]) -> Finding {
    let owner = seen.owner(container);
    // Where most of the time went: what lies before that stage.
    let steps = stages.iter().zip(std::iter::once(0).chain(stages.iter().map(|stage| stage.since_ns)));
    let took = |(stage, before): (&Stage, u64)| stage.since_ns.saturating_sub(before);
    let slowest = steps.clone().max_by_key(|step| took(*step));
    let whole_ns = stages.iter().rfind(|stage| stage.hop == Hop::Uplink).map_or(0, |stage| stage.since_ns);
    let uplink = stages.iter().rfind(|stage| stage.hop == Hop::Uplink);
    let rows: Vec<Value> = steps
        .map(|(stage, before)| {
            json!({
                "hop": stage.hop.name(), "direction": stage.direction, "device": stage.device, "packets": stage.packets,
                "since_container_ns": stage.since_ns, "took_ns": stage.since_ns.saturating_sub(before),
            })
        })
        .collect();
    let (hop, device, most_ns) =
        slowest.map_or(("unknown", "", 0), |step| (step.0.hop.name(), step.0.device.as_str(), took(step)));
    let mut numbers = Numbers::default();
    numbers.set("hop", hop);
    numbers.set("device", device);
    numbers.set("took_ns", most_ns);
    numbers.set("since_container_ns", whole_ns);
    numbers.set("packets", uplink.map_or(0, |stage| stage.packets));
    numbers.set("window_ns", seen.hops.length_ns());
    numbers.set("hops", rows);
    let cgroup = owner.as_ref().map(|owner| owner.cgroup.clone());
    numbers.put("cgroup", cgroup, "no container is in that network namespace any more");
    let sends = slowest.is_some_and(|(stage, _)| stage.direction == "xmit");
    let why = if sends {
        format!(
            "before {device} sends a packet it waits in that device's queue (qdisc): the device, or a limit on it, is slower than what comes"
        )
    } else {
        format!(
            "between two devices packets wait in the queue of a CPU (softirq) before {device} receives them: that CPU is busy, or RPS sends them to another"
        )
    };
    Finding {
        code: LATENCY,
        severity: Severity::Info,
        id: news.id,
        state: Some(news.state),
        time: seen.world.at(seen.counts.at_ns),
        container: owner,
        process: None,
        summary: format!(
            "its packets take {} from its device to {}, {} of it at {hop} on {device}",
            span(whole_ns),
            uplink.map_or("the uplink", |stage| stage.device.as_str()),
            span(most_ns),
        ),
        evidence: numbers.values,
        why,
        fix: vec![
            if sends {
                "see what waits, and by which limit: tc -s qdisc show, in the namespace of that device".to_owned()
            } else {
                "see which CPU has no time: mpstat -P ALL 1 (%soft), /proc/net/softnet_stat".to_owned()
            },
            format!("where the pair and the bridge are what costs: {INSTEAD_OF_VETH}"),
        ],
        refers_to: None,
        unknown: numbers.unknown,
    }
}
