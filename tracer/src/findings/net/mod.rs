//! Packets of containers: the hops they pass, and where they stop. What is read for it is asked for, and comes back as a
//! [`Reading`].

mod advice;
mod dropped;
mod explain;
mod flow;
mod latency;
mod packet;
pub mod reading;
mod sample;
mod stop;
pub mod tcp;
#[cfg(test)]
mod tests;
mod unanswered;

use std::collections::{BTreeMap, BTreeSet};

use tracer_common::{
    dropped::{DropKey, INWARD},
    hops::{HopKey, IN, OUT, RECEIVE, XMIT},
};

pub use explain::EXPLAINED;
pub use reading::{Ask, Counts, Device, DropTotal, HopTotal, Reading};
pub use stop::Hop;

use super::{
    World,
    pace::{EVERY_NS, Pace},
    state::{Conditions, Said},
    sysctl,
    window::Window,
};
use crate::{
    events::Event,
    model::{Code, Finding, Owner},
    pipeline::{LossNote, Output, Question},
};

/// A neighbour is asked for three times, a second apart, and packets wait for it meanwhile: two seconds would be too short.
const WINDOW_NS: u64 = 5_000_000_000;

/// Why something of the kernel side's is lost.
const TABLE_FULL: &str = "the kernel side's table of them was full: those met longest ago count from nothing again";

/// The state of the lens.
#[derive(Debug)]
pub struct Rule {
    drops: Window<DropKey, DropTotal>,
    hops: Window<HopKey, HopTotal>,
    tcp: tcp::Rule,
    sysctls: sysctl::Rule,
    flow: flow::Rule,
    conditions: Conditions,
    said: Said,
    pace: Pace,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            drops: Window::lasting(WINDOW_NS),
            hops: Window::lasting(WINDOW_NS),
            tcp: tcp::Rule::default(),
            sysctls: sysctl::Rule::default(),
            flow: flow::Rule::default(),
            conditions: Conditions::default(),
            said: Said::default(),
            pace: Pace::default(),
        }
    }
}

/// What the verdicts of one reading rest on.
struct Seen<'a> {
    counts: &'a Counts,
    drops: &'a Window<DropKey, DropTotal>,
    hops: &'a Window<HopKey, HopTotal>,
    /// The containers in each network namespace but the host's.
    owners: BTreeMap<u32, Vec<Owner>>,
    devices: Devices,
    world: &'a World<'a>,
}

/// What the counts say of devices, each a namespace and an index.
#[derive(Debug, Default)]
struct Devices {
    /// The other ends of containers' pairs.
    ends: BTreeSet<(u32, u32)>,
    /// Containers whose pair is known.
    paired: BTreeSet<u32>,
    /// Where packets of a container passed.
    passed: BTreeSet<(u32, u32, u32)>,
    /// By which of its own devices a container's packets left that passed there: container, namespace and index.
    through: BTreeMap<(u32, u32, u32), BTreeSet<u32>>,
    /// A container's own devices that have packets of that direction.
    own: BTreeMap<(u32, u32), BTreeSet<u32>>,
}

/// Index of `lo` in each namespace.
const LOOPBACK: u32 = 1;

impl Devices {
    /// At the other end of a pair packets come straight from the container's device: most of those of late, or of all where
    /// none came of late. A few elsewhere are buffers that were taken for others, and what was an end once need not be one.
    fn of(counts: &Counts, hops: &Window<HopKey, HopTotal>) -> Self {
        fn sum<'a>(hops: impl Iterator<Item = (&'a HopKey, &'a HopTotal)>) -> BTreeMap<(u32, u32), (u64, u64)> {
            let mut sums: BTreeMap<(u32, u32), (u64, u64)> = BTreeMap::new();
            for (key, hop) in hops.filter(|(key, _)| key.flow == OUT && key.direction == RECEIVE) {
                let sum = sums.entry((key.netns, key.ifindex)).or_default();
                *sum = (sum.0.saturating_add(hop.direct), sum.1.saturating_add(hop.packets));
            }
            sums
        }
        let recent = hops.within(|_| true);
        let mut came = sum(counts.hops.iter().map(|(key, hop)| (key, hop)));
        came.extend(sum(recent.iter()));
        let most = came.into_iter().filter(|(_, (direct, all))| *direct > 0 && direct.saturating_mul(2) >= *all);
        let ends: BTreeSet<(u32, u32)> = most.map(|(device, _)| device).collect();
        let mut devices = Self { ends, ..Self::default() };
        devices.ends.extend(outlets(counts));
        for (key, hop) in &counts.hops {
            let place = (key.container, key.netns, key.ifindex);
            devices.passed.insert(place);
            if hop.direct > 0 && devices.ends.contains(&(key.netns, key.ifindex)) {
                devices.paired.insert(key.container);
            }
            if key.netns == key.container && key.ifindex != LOOPBACK {
                devices.own.entry((key.container, key.flow)).or_default().insert(key.ifindex);
                if !hop.device.is_heard() {
                    devices.own.entry((key.container, IN)).or_default().insert(key.ifindex);
                }
            }
            if key.flow == OUT && key.through != 0 {
                devices.through.entry(place).or_default().insert(key.through);
            }
        }
        devices
    }

    /// By which of the container's own devices they left or come, as far as that is known. On the way to it a pair or a bridge is
    /// that one's by which all left that passed there; an uplink may be both.
    fn through(&self, key: &HopKey, device: &Device) -> Option<u32> {
        let only = |devices: Option<&BTreeSet<u32>>| devices.filter(|own| own.len() == 1)?.first().copied();
        let said = (key.through != 0).then_some(key.through);
        let is_near = device.kind == "bridge" || self.ends.contains(&(key.netns, key.ifindex));
        let left = || only(self.through.get(&(key.container, key.netns, key.ifindex))).filter(|_| is_near);
        said.or_else(|| only(self.own.get(&(key.container, key.flow)))).or_else(left)
    }
}

/// Ends of pairs by which packets only go to a container, where what it sends leaves by another: they come to no other device of
/// that namespace from there. Where somebody outside sends to the container, nothing for it comes to a device before.
fn outlets(counts: &Counts) -> impl Iterator<Item = (u32, u32)> {
    let foreign = counts.hops.iter().filter(|(key, _)| key.netns != key.container);
    let mut outlets: BTreeSet<(u32, u32)> = BTreeSet::new();
    let mut others: BTreeSet<(u32, u32)> = BTreeSet::new();
    let mut entered: BTreeSet<u32> = counts.host.into_iter().collect();
    for (key, hop) in foreign {
        let device = (key.netns, key.ifindex);
        match (key.flow, key.direction) {
            (IN, XMIT) if hop.device.kind == "veth" => drop(outlets.insert(device)),
            (IN, XMIT) => {}
            _ => drop(others.insert(device)),
        }
        if key.flow == IN && key.direction == RECEIVE {
            entered.insert(key.netns);
        }
    }
    outlets.into_iter().filter(move |device| !others.contains(device) && entered.contains(&device.0))
}

impl<'a> Seen<'a> {
    fn new(
        counts: &'a Counts,
        drops: &'a Window<DropKey, DropTotal>,
        hops: &'a Window<HopKey, HopTotal>,
        world: &'a World,
    ) -> Self {
        let mut owners: BTreeMap<u32, Vec<Owner>> = BTreeMap::new();
        for (path, netns) in &counts.netns {
            let owner = world.containers.owner_of_path(path);
            let here = owners.entry(*netns).or_default();
            if Some(*netns) != counts.host && !here.contains(&owner) {
                here.push(owner);
            }
        }
        owners.retain(|_, owners| !owners.is_empty());
        Self { counts, drops, hops, owners, devices: Devices::of(counts, hops), world }
    }

    /// The namespace of the container whose packet was dropped, if it is a container's.
    fn container_of(&self, key: &DropKey) -> Option<u32> {
        let known = |netns: u32| self.owners.contains_key(&netns).then_some(netns);
        known(key.container).or_else(|| known(key.netns))
    }

    /// Who is meant where several share a namespace: the first, by its cgroup.
    fn owner(&self, netns: u32) -> Owner {
        self.owners.get(&netns).and_then(|owners| owners.first().cloned().flatten())
    }

    /// Of the devices that the container's packets pass after its own the one that takes the smallest packets.
    fn narrowest(&self, container: u32) -> Option<&Device> {
        let foreign = self.counts.hops.iter().filter(|(key, _)| key.container == container && key.netns != container);
        let out = foreign.filter(|(key, hop)| key.flow == OUT && hop.device.mtu.is_some()).map(|(_, hop)| &hop.device);
        out.min_by_key(|device| device.mtu)
    }

    /// The container's own device, by which most of its packets leave.
    fn own_device(&self, container: u32) -> Option<&Device> {
        let is_own = |key: &HopKey| key.container == container && key.netns == container && key.ifindex != LOOPBACK;
        let own = self.counts.hops.iter().filter(|(key, _)| is_own(key) && key.flow == OUT);
        own.max_by_key(|(_, hop)| hop.packets).map(|(_, hop)| &hop.device)
    }

    /// What the device of a drop is to its container.
    fn role_at_drop(&self, container: u32, key: &DropKey, device: &Device) -> Hop {
        let unknown = !self.devices.passed.contains(&(container, key.netns, key.ifindex));
        // Before a packet to the container was dropped there it came by another device, which that one was passed by.
        if unknown && key.netns != container && device.kind == "veth" && key.flags & INWARD != 0 {
            return Hop::HostVeth;
        }
        self.role(container, key.netns, key.ifindex, device)
    }

    /// What a device is to a container.
    fn role(&self, container: u32, netns: u32, ifindex: u32, device: &Device) -> Hop {
        if netns == container {
            return Hop::ContainerDevice;
        }
        if device.kind == "bridge" {
            return Hop::Bridge;
        }
        // Whichever container's.
        if self.devices.ends.contains(&(netns, ifindex)) {
            return Hop::HostVeth;
        }
        // Packets that came here came from elsewhere. Where none came, a pair's end is taken for the container's, unless that
        // one is known.
        let known =
            self.devices.passed.contains(&(container, netns, ifindex)) || self.devices.paired.contains(&container);
        if device.kind == "veth" && !known { Hop::HostVeth } else { Hop::Uplink }
    }
}

impl Rule {
    pub fn event(&mut self, event: &Event, world: &World, out: &mut Vec<Output>) {
        if let Event::PacketStep(step) = event {
            self.flow.step(step);
        }
        out.extend(self.sysctls.event(event, world).map(|finding| Output::Finding(Box::new(finding))));
    }

    pub fn tick(&mut self, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        out.extend(self.sysctls.tick(now_ns, world).into_iter().map(|finding| Output::Finding(Box::new(finding))));
        if !self.pace.is_due(now_ns) {
            return;
        }
        self.pace.asked(now_ns, EVERY_NS);
        out.push(Output::Ask(Question::Net(Ask::Counts { of: world.owned_paths() })));
    }

    /// What is known of packets that are followed is told with a last reading, which names the place of a drop.
    pub fn finish(&mut self, world: &World, out: &mut Vec<Output>) {
        if self.flow.end() {
            out.push(Output::Ask(Question::Net(Ask::Counts { of: world.owned_paths() })));
        }
    }

    pub fn reading(&mut self, reading: &Reading, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        let Reading::Counts(counts) = reading;
        self.pace.came(now_ns, counts.took_ns);
        let here: BTreeSet<u32> = counts.netns.values().copied().collect();
        let hops = counts.hops.iter().map(|(key, hop)| ((key.netns, key.ifindex), hop.device.name.as_str()));
        let drops = counts.drops.iter().map(|(key, drops)| (*key, drops.device.name.as_str()));
        let (hops, drops): (BTreeMap<_, _>, BTreeMap<_, _>) = (hops.collect(), drops.collect());
        let gone = |netns: u32| !here.contains(&netns) || counts.renewed.contains(&netns);
        self.hops.forget(|key| gone(key.container));
        let renewed = |key: &DropKey| counts.renewed.contains(&key.container) || counts.renewed.contains(&key.netns);
        self.drops.forget(|key| renewed(key) || key.container != 0 && !here.contains(&key.container));
        self.tcp.forget(&counts.renewed);
        self.hops.release(|key, total| {
            let is_another = |now: &&str| **now != total.device.name;
            gone(key.container) || hops.get(&(key.netns, key.ifindex)).is_some_and(is_another)
        });
        self.drops.release(|key, total| renewed(key) || drops.get(key).is_some_and(|now| *now != total.device.name));
        self.drops.take_in(world, counts.at_ns, &counts.drops);
        self.hops.take_in(world, counts.at_ns, &counts.hops);
        let seen = Seen::new(counts, &self.drops, &self.hops, world);
        let mut findings = dropped::judge(&seen, &mut self.conditions);
        findings.extend(unanswered::judge(&seen, &mut self.conditions));
        findings.extend(latency::judge(&seen, &mut self.conditions));
        findings.extend(self.tcp.judge(&seen, &mut self.conditions));
        out.extend(sample::rows(&seen));
        self.flow.tell(&seen, out);
        let lost = [
            ("packet_drop", self.drops.forgotten(), TABLE_FULL),
            ("packet_hop", self.hops.forgotten(), TABLE_FULL),
            ("packet_step", self.flow.lost(), "more packets of the flow than can be followed"),
        ];
        let lost = lost.into_iter().chain(self.tcp.lost()).filter(|(_, count, _)| *count > 0);
        out.extend(lost.map(|(event, count, cause)| {
            Output::Loss(LossNote { time: world.at(counts.at_ns), event, container: None, cgroup: None, count, cause })
        }));
        let said: Vec<Finding> = findings.into_iter().map(|finding| self.said.say(finding)).collect();
        let over = self.said.over(&mut self.conditions, now_ns, world, over);
        out.extend(said.into_iter().chain(over).map(|finding| Output::Finding(Box::new(finding))));
    }
}

/// What there is to say where one of them is over.
fn over(code: Code) -> &'static str {
    let otherwise = if code == latency::LATENCY {
        "its packets do not wait on their way any more"
    } else {
        "no packet has stopped there for a while"
    };
    tcp::over(code.0).unwrap_or(otherwise)
}
