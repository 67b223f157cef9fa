//! net.dropped: packets of a container that stop at one hop.

use std::collections::BTreeMap;

use tracer_common::{
    UNKNOWN_U32,
    dropped::{DropKey, INWARD, MULTICAST, NO_CARRIER, OUTWARD},
};

use super::{
    DropTotal, Hop, Seen, advice,
    packet::{self, Packet},
    stop::{self, Cause, Verdict},
};
use crate::{
    findings::{
        numbers::{self, Numbers, grow},
        state::{Conditions, News},
        window::Total,
    },
    model::{Code, Finding, Severity, span},
};

pub const DROPPED: Code = Code("net.dropped");
/// Fewer may be what TCP and others do to find out how fast they can go.
pub const PACKETS: u64 = 3;

const IPV4: u32 = 0x0800;
const ARP: u32 = 0x0806;
const IPV6: u32 = 0x86dd;

/// Drops that are one and the same to a person: those of IPv4 and of ARP are not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub container: u32,
    pub hop: Hop,
    pub cause: Cause,
    pub reason: Option<String>,
    pub function: Option<String>,
    /// Its namespace and index; `None`: the packet had no device.
    pub device: Option<(u32, u32)>,
    pub protocol: u32,
}

/// Where on which way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stop {
    pub container: u32,
    /// `out`, `in`; `None`: not known.
    pub flow: Option<&'static str>,
    pub hop: Hop,
    /// Its namespace, index and name.
    pub device: Option<(u32, u32, String)>,
    pub reason: Option<String>,
}

/// Drops by what they mean: those that stop packets, and how many mean nothing, or not enough.
#[derive(Debug, Default)]
pub struct Sorted {
    pub stopped: BTreeMap<Place, DropTotal>,
    /// The same as the way of packets is drawn: which way they went.
    pub stops: BTreeMap<Stop, u64>,
    /// By container: nobody listens there.
    pub refused: BTreeMap<u32, u64>,
    /// By container: not lost, or this kernel does not say.
    pub other: BTreeMap<u32, u64>,
    /// Of no container.
    pub host: u64,
}

pub fn sort(seen: &Seen) -> Sorted {
    let mut sorted = Sorted::default();
    for (key, total) in seen.drops.within(|_| true) {
        let Some(container) = seen.container_of(&key) else {
            grow(&mut sorted.host, total.packets);
            continue;
        };
        match verdict(seen, container, &key, &total) {
            Verdict::Stopped(hop, cause) => {
                let place = Place {
                    container,
                    hop,
                    cause,
                    reason: reason(seen, &key),
                    function: seen.counts.functions.get(&key.location).cloned(),
                    device: (key.ifindex != UNKNOWN_U32).then_some((key.netns, key.ifindex)),
                    protocol: key.protocol,
                };
                let stop = Stop {
                    container,
                    flow: match key.flags & (OUTWARD | INWARD) {
                        OUTWARD => Some("out"),
                        INWARD => Some("in"),
                        _ => None,
                    },
                    hop,
                    device: place.device.map(|(netns, ifindex)| (netns, ifindex, total.device.name.clone())),
                    reason: place.reason.clone(),
                };
                grow(sorted.stops.entry(stop).or_default(), total.packets);
                sorted.stopped.entry(place).and_modify(|sum| sum.add(&total)).or_insert(total);
            }
            Verdict::Refused => grow(sorted.refused.entry(container).or_default(), total.packets),
            Verdict::Harmless | Verdict::Unclear => grow(sorted.other.entry(container).or_default(), total.packets),
        }
    }
    sorted
}

pub fn verdict(seen: &Seen, container: u32, key: &DropKey, total: &DropTotal) -> Verdict {
    // Groups are joined or not; and what no IP runs over (LLDP, spanning tree) is not the container's.
    if key.flags & MULTICAST != 0 || ![IPV4, ARP, IPV6].contains(&key.protocol) {
        return Verdict::Harmless;
    }
    let role = (key.ifindex != UNKNOWN_U32).then(|| seen.role_at_drop(container, key, &total.device));
    let function = seen.counts.functions.get(&key.location);
    let why = reason(seen, key);
    // A router drops what has no hops left, and tells its sender: traceroute lives on that.
    let hops_left = match total.first[0] >> 4 {
        4 => total.first[8],
        6 => total.first[7],
        _ => u8::MAX,
    };
    let forwards = why.as_deref() == Some("IP_INHDR")
        || function.is_some_and(|name| name.starts_with("ip_forward") || name.starts_with("ip6_forward"));
    if forwards && hops_left <= 1 {
        return Verdict::Harmless;
    }
    match stop::judge(why.as_deref(), function.map(String::as_str), role) {
        // A queue without a device behind it takes nothing.
        Verdict::Stopped(hop, Cause::QueueFull) if key.flags & NO_CARRIER != 0 => {
            Verdict::Stopped(hop, Cause::DeviceDown)
        }
        verdict => verdict,
    }
}

/// The kernel's own name of it; a number where its BTF has none (those of subsystems); `None`: this kernel gives none.
pub fn reason(seen: &Seen, key: &DropKey) -> Option<String> {
    let named = || seen.counts.reasons.get(&key.reason).cloned();
    (key.reason != UNKNOWN_U32).then(|| named().unwrap_or_else(|| format!("{:#x}", key.reason)))
}

pub fn judge(seen: &Seen, conditions: &mut Conditions) -> Vec<Finding> {
    let sorted = sort(seen);
    let mut findings = Vec::new();
    for (place, total) in &sorted.stopped {
        if stops(place, total, &sorted) < PACKETS || is_consequence(place, &sorted) {
            continue;
        }
        let subject = format!(
            "{} {} {:?} {:?} {:?} {} {}",
            place.container,
            place.hop.name(),
            place.reason,
            place.function,
            place.device,
            place.protocol,
            total.device.name
        );
        if let Some(news) = conditions.holds(DROPPED, &subject, total.packets, seen.counts.at_ns) {
            findings.push(finding(seen, news, place, total));
        }
    }
    findings
}

/// Who asked for a neighbour in vain: where the question itself was stopped on its way, that is the finding.
fn is_consequence(place: &Place, sorted: &Sorted) -> bool {
    place.cause == Cause::NoNeighbour
        && sorted.stopped.keys().any(|other| other.container == place.container && is_question(other))
}

fn is_question(place: &Place) -> bool {
    place.protocol == ARP && place.cause != Cause::NoNeighbour
}

/// Packets that this place stops: with a question all that waited for its answer, for it is asked only once a second.
fn stops(place: &Place, total: &DropTotal, sorted: &Sorted) -> u64 {
    let waited = |(other, _): &(&Place, &DropTotal)| {
        is_question(place) && other.container == place.container && other.cause == Cause::NoNeighbour
    };
    total.packets.saturating_add(numbers::total(sorted.stopped.iter().filter(waited).map(|(_, total)| total.packets)))
}

fn finding(seen: &Seen, news: News, place: &Place, total: &DropTotal) -> Finding {
    let mut numbers = Numbers::default();
    let unnamed = seen.counts.nameless.as_deref().unwrap_or("no function of this kernel has that address");
    numbers.set("hop", place.hop.name());
    numbers.put("reason", place.reason.as_deref(), "this kernel gives no reasons (before 5.17): the function tells");
    numbers.put("location", place.function.as_deref(), unnamed);
    numbers.set("packets", total.packets);
    numbers.set("inferred", false);
    let device = Some(total.device.name.as_str()).filter(|name| !name.is_empty() && place.device.is_some());
    numbers.put("device", device, "the packet was on no device yet");
    numbers.put("netns", place.device.map(|(netns, _)| netns), "the packet was on no device yet");
    numbers.set("window_ns", seen.drops.length_ns());
    numbers.set("protocol", packet::describe(place.protocol, total.header()));
    let first = Packet::parse(total.header()).filter(|_| place.protocol != ARP);
    numbers.put("first_packet", first.map(|first| first.json()), "it is no IP packet, or could not be read");
    let routed = Some(&total.next).filter(|next| !next.name.is_empty());
    let next = if place.cause == Cause::TooBig {
        let next = routed.or_else(|| seen.narrowest(place.container)).cloned().unwrap_or_default();
        let why = "the packet had no route (yet), and none passed on";
        numbers.put("next_device", Some(next.name.as_str()).filter(|name| !name.is_empty()), why);
        numbers.put("next_mtu_bytes", next.mtu, why);
        let own = seen.own_device(place.container);
        let why = "no packet of the container's was seen at a device of its own";
        numbers.put("container_device", own.map(|own| own.name.as_str()), why);
        numbers.put("container_mtu_bytes", own.and_then(|own| own.mtu), why);
        next
    } else {
        let next = routed.filter(|next| Some(next.name.as_str()) != device).cloned().unwrap_or_default();
        if !next.name.is_empty() {
            numbers.set("next_device", &next.name);
        }
        next
    };
    let owner = seen.owner(place.container);
    let cgroup = owner.as_ref().map(|owner| owner.cgroup.clone());
    numbers.put("cgroup", cgroup, "no container is in that network namespace any more");
    let sharers = seen.owners.get(&place.container).into_iter().flatten().flatten();
    let sharers: Vec<String> = sharers.skip(1).map(|container| container.label()).collect();
    if !sharers.is_empty() {
        numbers.set("shared_with", sharers);
    }
    let mut on = device.map_or_else(String::new, |device| format!(" on {device}"));
    if matches!(place.hop, Hop::Netfilter | Hop::Routing) && !next.name.is_empty() {
        on = format!("{on}, on the way to {}", next.name);
    }
    let why: Vec<&str> = [place.reason.as_deref(), place.function.as_deref()].into_iter().flatten().collect();
    let summary = format!(
        "{} packets in {} stopped at {}{on}: {} ({}), {}",
        total.packets,
        span(seen.drops.length_ns()),
        place.hop.name(),
        advice::what(place.cause),
        why.join(" in "),
        packet::describe(place.protocol, total.header())
    );
    Finding {
        code: DROPPED,
        severity: Severity::Warning,
        id: news.id,
        state: Some(news.state),
        time: seen.world.at(seen.counts.at_ns),
        container: owner,
        process: None,
        summary,
        evidence: numbers.values,
        why: advice::why(place.cause),
        fix: advice::fix(place, device, first.as_ref(), &next),
        refers_to: None,
        unknown: numbers.unknown,
    }
}
