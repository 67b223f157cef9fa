//! The way of each packet of the flow that is followed: a row for each, once it was dropped or nothing more was seen of it for a
//! while. No findings.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tracer_common::{
    UNKNOWN_U32,
    dropped::{DropKey, INWARD, OUTWARD},
    flow::{DROPPED, Step},
    hops::XMIT,
};

use super::{Device, DropTotal, Hop, Seen, dropped, packet::Packet, stop::Verdict};
use crate::{
    events::{known, text},
    findings::numbers::Numbers,
    pipeline::{EventRow, Output},
};

/// A packet of which nothing more was seen for so long has arrived, or left this host; some wait longer for a neighbour.
const SETTLE_NS: u64 = 1_000_000_000;
/// … and after this it does not go on any more.
const KEEP_NS: u64 = 6_000_000_000;
/// What is held at the most: of a flow that is faster the rest is counted.
const PACKETS: usize = 4096;
const STEPS: usize = 64;

#[derive(Debug, Default)]
pub struct Rule {
    /// By when they were met first, and their buffer.
    packets: BTreeMap<(u64, u64), Followed>,
    met: u64,
    lost: u64,
    /// The run ends: what is held is told with the next reading.
    ends: bool,
}

#[derive(Debug)]
struct Followed {
    number: u64,
    /// Those that were not told.
    steps: Vec<Step>,
    first_ns: u64,
    last_ns: u64,
    /// The time of the last one that was told.
    told_ns: Option<u64>,
}

impl Rule {
    pub fn step(&mut self, step: &Step) {
        let key = (step.first_ns, step.packet);
        if !self.packets.contains_key(&key) {
            if self.packets.len() >= PACKETS {
                self.lost = self.lost.saturating_add(1);
                return;
            }
            self.met = self.met.saturating_add(1);
        }
        let (number, time_ns) = (self.met, step.header.time_ns);
        let new = || Followed { number, steps: Vec::new(), first_ns: time_ns, last_ns: time_ns, told_ns: None };
        let followed = self.packets.entry(key).or_insert_with(new);
        if followed.steps.len() >= STEPS {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        followed.steps.push(*step);
        followed.last_ns = followed.last_ns.max(time_ns);
    }

    /// Is there anything that is not told? It will be, with the next reading, whatever may follow.
    pub fn end(&mut self) -> bool {
        self.ends = true;
        self.packets.values().any(|followed| !followed.steps.is_empty())
    }

    pub fn lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    pub(super) fn tell(&mut self, seen: &Seen, out: &mut Vec<Output>) {
        let now_ns = seen.counts.at_ns;
        let ends = self.ends;
        self.packets.retain(|_, followed| {
            let stopped = followed.steps.iter().any(|step| step.what == DROPPED);
            let waited_ns = now_ns.saturating_sub(followed.last_ns);
            if !followed.steps.is_empty() && (stopped || ends || waited_ns >= SETTLE_NS) {
                out.push(Output::Event(Box::new(row(seen, followed))));
                followed.told_ns = Some(followed.last_ns);
                followed.steps.clear();
            }
            !stopped && waited_ns < KEEP_NS
        });
    }
}

fn row(seen: &Seen, followed: &Followed) -> EventRow {
    let (steps, first_ns) = (&followed.steps, followed.first_ns);
    let container = steps.iter().map(|step| step.container).find(|netns| seen.owners.contains_key(netns));
    let owner = container.and_then(|netns| seen.owner(netns));
    let mut numbers = Numbers::default();
    numbers.set("packet", followed.number);
    let ways = steps.iter().map(|step| step.flags & (OUTWARD | INWARD));
    let way = ways.clone().find(|way| *way != 0);
    let way = way.map(|way| if way == OUTWARD { "out" } else { "in" });
    numbers.put("flow", way, "no container is known to have it");
    let mut before = steps.first().and_then(packet_of);
    let described = before.map_or_else(Map::new, |packet| packet.json().as_object().cloned().unwrap_or_default());
    numbers.values.extend(described);
    let mut last_ns = followed.told_ns;
    let mut hops = Vec::new();
    let mut stopped = None;
    for step in steps {
        let at_ns = step.header.time_ns;
        let mut hop = if step.what == DROPPED { end(seen, container, step) } else { passed(seen, container, step) };
        hop.insert("since_first_ns".to_owned(), json!(at_ns.saturating_sub(first_ns)));
        if let Some(last_ns) = last_ns {
            hop.insert("took_ns".to_owned(), json!(at_ns.saturating_sub(last_ns)));
        }
        last_ns = Some(at_ns);
        // NAT gave it another end.
        let now = packet_of(step);
        if let Some(now) = now.filter(|now| before.is_some_and(|before| ends(now) != ends(&before))) {
            let json = now.json();
            let ends = ["source", "source_port", "destination", "destination_port"];
            hop.extend(ends.iter().filter_map(|key| Some(((*key).to_owned(), json.get(key)?.clone()))));
        }
        before = now.or(before);
        if step.what == DROPPED {
            stopped = Some(hop);
        } else {
            hops.push(hop);
        }
    }
    numbers.set("hops", hops);
    if let Some(stopped) = stopped {
        numbers.set("stopped", stopped);
    }
    if followed.told_ns.is_some() {
        numbers.set("continues", true);
    }
    EventRow {
        time: seen.world.at(steps.first().map_or(first_ns, |step| step.header.time_ns)),
        event: "packet",
        cgroup: owner.as_ref().map(|owner| owner.cgroup.clone()),
        container: owner,
        process: None,
        fields: numbers.values,
        unknown: numbers.unknown,
    }
}

fn packet_of(step: &Step) -> Option<Packet> {
    let readable = usize::try_from(step.readable).ok()?;
    Packet::parse(step.bytes.get(..readable)?)
}

fn ends(packet: &Packet) -> [(std::net::IpAddr, Option<u16>); 2] {
    [packet.source, packet.destination]
}

/// Its device, as far as it is on one.
fn place(step: &Step) -> (Map<String, Value>, Device) {
    let device = Device { name: text(&step.device.name), kind: text(&step.device.kind), mtu: None };
    let mut place = Map::new();
    if known(step.ifindex).is_some() {
        place.insert("device".to_owned(), json!(device.name));
        place.insert("netns".to_owned(), json!(step.netns));
        place.insert("ifindex".to_owned(), json!(step.ifindex));
    }
    (place, device)
}

fn passed(seen: &Seen, container: Option<u32>, step: &Step) -> Map<String, Value> {
    let (mut hop, device) = place(step);
    if let Some(container) = container.filter(|_| known(step.ifindex).is_some()) {
        hop.insert("hop".to_owned(), json!(seen.role(container, step.netns, step.ifindex, &device).name()));
    }
    hop.insert("direction".to_owned(), json!(if step.what == XMIT { "xmit" } else { "receive" }));
    hop
}

/// Where it was let go, and whether that is a loss, where this kernel says enough.
fn end(seen: &Seen, container: Option<u32>, step: &Step) -> Map<String, Value> {
    let (mut end, device) = place(step);
    let key = DropKey {
        location: step.location,
        container: container.unwrap_or(0),
        netns: step.netns,
        ifindex: step.ifindex,
        reason: step.reason,
        protocol: step.protocol,
        flags: step.flags,
    };
    let readable = Some(step.readable.into());
    let total = DropTotal { packets: 1, first: step.bytes, readable, device, next: Device::default() };
    let (lost, hop) = match dropped::verdict(seen, key.container, &key, &total) {
        // What a device is is said to a container only.
        Verdict::Stopped(hop @ (Hop::Netfilter | Hop::Routing), _) => (Some(true), Some(hop.name())),
        Verdict::Stopped(hop, _) => (Some(true), container.map(|_| hop.name())),
        Verdict::Refused => (Some(true), None),
        Verdict::Harmless => (Some(false), None),
        Verdict::Unclear => (None, None),
    };
    if let Some(lost) = lost {
        end.insert("lost".to_owned(), json!(lost));
    }
    if let Some(hop) = hop {
        end.insert("hop".to_owned(), json!(hop));
    }
    let reason = (step.reason != UNKNOWN_U32).then(|| dropped::reason(seen, &key)).flatten();
    for (name, value) in [("reason", reason), ("location", seen.counts.functions.get(&step.location).cloned())] {
        if let Some(value) = value {
            end.insert(name.to_owned(), json!(value));
        }
    }
    end
}
