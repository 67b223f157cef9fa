//! The map: what was read of each namespace, joined. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{Device, Link, Namespace, Placed};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    host: Option<u64>,
    namespaces: BTreeMap<u64, Namespace>,
    /// By the container's cgroup.
    placed: BTreeMap<Arc<str>, u64>,
    /// Who is in a namespace.
    inhabitants: BTreeMap<u64, Vec<Arc<str>>>,
    /// The other end of a pair, and what a macvlan stands on.
    ends: HashMap<Device, Device>,
    /// Where the containers' ways end, and the host's own.
    uplinks: BTreeSet<Device>,
    addresses: HashMap<IpAddr, Vec<u64>>,
}

/// What a device is to the containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// In the namespace of these containers.
    ContainerDevice(Vec<Arc<str>>),
    /// The other end of a pair of these containers: mostly in the host's namespace.
    HostVeth(Vec<Arc<str>>),
    Bridge,
    /// The last device before the wire.
    Uplink,
    Other,
}

/// The devices that a packet from a container to the outside passes, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    pub devices: Vec<Device>,
    /// The last of them, where it leads outside.
    pub uplink: Option<Device>,
    /// Why the way is not known further.
    pub ends: Option<String>,
}

/// A way through more namespaces than this is a loop that no packet takes.
const DEPTH: usize = 8;

impl Map {
    /// `host`: the host's namespace, where it is known.
    pub fn of(host: Option<u64>, namespaces: Vec<Namespace>, placed: Vec<Placed>) -> Self {
        let mut map = Self { host, ..Self::default() };
        for namespace in namespaces {
            for link in namespace.links.values() {
                for address in link.addresses.iter().filter(|address| !address.ip.is_loopback()) {
                    map.addresses.entry(address.ip).or_default().push(namespace.inode);
                }
            }
            map.namespaces.insert(namespace.inode, namespace);
        }
        for Placed { cgroup, netns } in placed {
            map.inhabitants.entry(netns).or_default().push(Arc::clone(&cgroup));
            map.placed.insert(cgroup, netns);
        }
        for inhabitants in map.inhabitants.values_mut() {
            inhabitants.sort_unstable();
        }
        for netns in map.addresses.values_mut() {
            netns.dedup();
        }
        map.ends = map.find_ends();
        let starts = map.inhabitants.keys().copied().chain(host);
        map.uplinks = starts.filter_map(|netns| map.way(netns).uplink).collect();
        map
    }

    /// The inode of the namespace that the container is in.
    pub fn netns_of(&self, cgroup: &str) -> Option<u64> {
        self.placed.get(cgroup).copied()
    }

    /// The containers in a namespace, by their cgroups.
    pub fn containers_in(&self, netns: u64) -> &[Arc<str>] {
        self.inhabitants.get(&netns).map_or(&[], Vec::as_slice)
    }

    /// The namespace that has this address, if exactly one has it.
    pub fn netns_with(&self, ip: IpAddr) -> Option<u64> {
        match self.addresses.get(&ip).map(Vec::as_slice) {
            Some([only]) => Some(*only),
            _ => None,
        }
    }

    pub fn host(&self) -> Option<u64> {
        self.host
    }

    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    pub fn namespace(&self, netns: u64) -> Option<&Namespace> {
        self.namespaces.get(&netns)
    }

    pub fn link(&self, device: Device) -> Option<&Link> {
        self.namespaces.get(&device.netns)?.links.get(&device.ifindex)
    }

    /// The other end of a pair; of a macvlan, ipvlan or VLAN what it stands on.
    ///
    /// # Errors
    /// Why it is not known, for a person.
    pub fn end_of(&self, device: Device) -> Result<Device, String> {
        self.ends.get(&device).copied().ok_or_else(|| match self.link(device) {
            None => "it is gone".to_owned(),
            Some(link) if link.link.is_none() => "it has none".to_owned(),
            Some(_) => "it is in a network namespace that no process is in, or that may not be read".to_owned(),
        })
    }

    pub fn role(&self, device: Device) -> Role {
        let Some(link) = self.link(device) else { return Role::Other };
        if link.is_kind("bridge") {
            return Role::Bridge;
        }
        if let Some(pair) = self.ends.get(&device).filter(|_| link.is_kind("veth")) {
            let inner = self.containers_in(pair.netns);
            if !inner.is_empty() && Some(pair.netns) != self.host && self.is_inner(*pair, device) {
                return Role::HostVeth(inner.to_vec());
            }
        }
        let own = self.containers_in(device.netns);
        match () {
            () if !own.is_empty() && Some(device.netns) != self.host && link.is_real() => {
                Role::ContainerDevice(own.to_vec())
            }
            () if self.uplinks.contains(&device) => Role::Uplink,
            () => Role::Other,
        }
    }

    /// Of the two ends of a pair, is the first one the container's? Where containers are on both sides (an engine in a
    /// container), it is the one by which its namespace reaches the outside.
    fn is_inner(&self, end: Device, other: Device) -> bool {
        let leaves_by =
            |end: Device| self.namespaces.get(&end.netns).is_some_and(|one| one.way_out.contains(&end.ifindex));
        let lodges = |end: Device| Some(end.netns) != self.host && !self.containers_in(end.netns).is_empty();
        !lodges(other) || (leaves_by(end) && !leaves_by(other))
    }

    /// The way from a namespace to the outside.
    pub fn way(&self, netns: u64) -> Way {
        let (mut way, mut at) = (Way::default(), netns);
        for _ in 0..DEPTH {
            let Some(namespace) = self.namespaces.get(&at) else {
                return way.ending("the namespace could not be read");
            };
            if let Some(problem) = &namespace.problem {
                return way.ending(problem);
            }
            let Some(device) = self.leaves_by(namespace, at == netns) else {
                let whose = if at == netns { "it has no route" } else { "there is no route" };
                return way.ending(&format!("{whose} to the outside"));
            };
            let Some(link) = self.link(device) else { return way.ending("the interface is gone") };
            if way.devices.contains(&device) {
                return way.ending("the route leads back");
            }
            // A packet that comes in by a bridge and leaves by it has it once.
            way.devices.push(device);
            if link.is_kind("bridge") {
                // The host's own address is on a bridge: its wire is a port of that.
                let Some(port) = self.wire_of(device) else { return way.ending("no port of the bridge leads outside") };
                way.devices.push(port);
                return way.leaving(port);
            }
            // Outside the host's namespace there is nothing to follow a pair to.
            let outermost = Some(at) == self.host && !link.is_upper();
            if outermost || (!link.is_kind("veth") && !link.is_upper()) {
                return way.leaving(device);
            }
            let end = match self.end_of(device) {
                Ok(end) => end,
                // Its own namespace shows a device all the same: the container's way ends there.
                Err(why) => return way.ending(&format!("the other end is not known: {why}")),
            };
            way.devices.push(end);
            if link.is_upper() {
                return way.leaving(end);
            }
            let master = self.link(end).and_then(|end| end.master);
            if let Some(master) = master.map(|ifindex| Device { netns: end.netns, ifindex }) {
                way.devices.push(master);
                let bridged = self.link(master).is_some_and(|master| master.is_kind("bridge"));
                if let Some(port) = self.wire_of(master).filter(|_| bridged) {
                    way.devices.push(port);
                    return way.leaving(port);
                }
            }
            at = end.netns;
        }
        way.ending("it leads through too many namespaces")
    }

    /// The interface that a namespace's packets to the outside leave by. A container without such a route still has one
    /// where it has only one.
    fn leaves_by(&self, namespace: &Namespace, is_first: bool) -> Option<Device> {
        let device = |ifindex: u32| Device { netns: namespace.inode, ifindex };
        if let Some(out) = namespace.way_out.iter().find(|out| namespace.links.contains_key(out)) {
            return Some(device(*out));
        }
        if !is_first || Some(namespace.inode) == self.host {
            return None;
        }
        let mut real = namespace.links.values().filter(|link| link.is_real());
        let (only, second) = (real.next()?, real.next());
        second.is_none().then(|| device(only.ifindex))
    }

    /// The one port of a bridge that is nobody's pair: a device of hardware, a VLAN, a bond.
    fn wire_of(&self, bridge: Device) -> Option<Device> {
        let namespace = self.namespaces.get(&bridge.netns)?;
        let wire = |link: &&Link| {
            let inner = matches!(link.kind.as_deref(), Some("veth" | "tun" | "dummy" | "vxlan" | "geneve"));
            link.master == Some(bridge.ifindex) && !inner
        };
        let mut wires = namespace.links.values().filter(wire);
        let (only, second) = (wires.next()?, wires.next());
        second.is_none().then_some(Device { netns: bridge.netns, ifindex: only.ifindex })
    }

    fn find_ends(&self) -> HashMap<Device, Device> {
        let mut ends = HashMap::new();
        for (device, link) in self.devices() {
            let Some(other) = link.link.filter(|other| *other != 0) else { continue };
            let netns = match link.link_netnsid {
                None => Some(device.netns),
                Some(id) => self.namespaces.get(&device.netns).and_then(|own| own.ids.get(&id)).copied(),
            };
            let Some(netns) = netns else { continue };
            let end = Device { netns, ifindex: other };
            // What is gone meanwhile, or was made anew between two readings, is not guessed at.
            let fits = |end: &Link| !link.is_kind("veth") || (end.is_kind("veth") && end.link == Some(device.ifindex));
            if self.link(end).is_some_and(fits) {
                ends.insert(device, end);
                if link.is_kind("veth") {
                    ends.insert(end, device); // that one's id may not have been found
                }
            }
        }
        ends
    }

    pub fn devices(&self) -> impl Iterator<Item = (Device, &Link)> {
        self.namespaces.values().flat_map(|namespace| {
            namespace.links.values().map(|link| (Device { netns: namespace.inode, ifindex: link.ifindex }, link))
        })
    }
}

impl Way {
    fn ending(mut self, why: &str) -> Self {
        self.ends = Some(why.to_owned());
        self
    }

    fn leaving(mut self, by: Device) -> Self {
        self.uplink = Some(by);
        self
    }
}
