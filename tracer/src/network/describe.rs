//! One container's part of the map, as it is shown. Pure.

use std::sync::Arc;

use serde::Serialize;

use super::{Address, Counters, Device, Link, Map, PortState, Role, Settings, Way, nat};
use crate::model::Unknown;

/// How a container is on the network.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Network {
    /// Inode of its network namespace.
    pub netns: Option<u64>,
    /// Is that the host's?
    pub host: bool,
    /// The other containers in it, by their cgroups; of the host's namespace none are named.
    pub shared_with: Vec<Arc<str>>,
    /// All but `lo` and what leads nowhere; of the host's namespace those of no container.
    pub interfaces: Option<Vec<Interface>>,
    /// The devices that a packet from here to the outside passes, in this order.
    pub way: Option<Vec<Stop>>,
    pub uplink: Option<Stop>,
    /// Of its own namespace.
    pub settings: Option<Settings>,
    /// Of the namespace that forwards its packets: the one that its pair's other end is in.
    pub forwarding: Option<Settings>,
    /// Rules that rewrite addresses of its packets.
    pub nat: Option<Vec<nat::Rule>>,
    #[serde(skip_serializing_if = "Unknown::is_empty")]
    pub unknown: Unknown,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interface {
    pub name: String,
    pub ifindex: u32,
    /// `veth`, `macvlan`, …; `device` for what no driver of the kernel's makes up.
    pub kind: String,
    pub mode: Option<&'static str>,
    pub mtu: Option<u32>,
    pub up: bool,
    pub lower_up: bool,
    pub addresses: Vec<Address>,
    pub rx_queues: Option<u32>,
    pub tx_queues: Option<u32>,
    pub rp_filter: Option<u8>,
    pub counters: Option<Counters>,
    /// The other end of a pair; of a macvlan, ipvlan or VLAN what it stands on.
    pub peer: Option<End>,
    #[serde(skip_serializing_if = "Unknown::is_empty")]
    pub unknown: Unknown,
}

/// The other end of an interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct End {
    #[serde(flatten)]
    pub device: Device,
    pub name: String,
    /// Is it in the host's namespace?
    pub host: bool,
    pub mtu: Option<u32>,
    pub up: bool,
    pub lower_up: bool,
    /// How many it can have.
    pub rx_queues: Option<u32>,
    pub tx_queues: Option<u32>,
    /// The mask of CPUs of each queue that it uses.
    pub rps_cpus: Option<Vec<String>>,
    pub counters: Option<Counters>,
    pub bridge: Option<Port>,
    #[serde(skip_serializing_if = "Unknown::is_empty")]
    pub unknown: Unknown,
}

/// What an end is a port of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Port {
    pub name: String,
    pub ifindex: u32,
    pub kind: Option<String>,
    pub up: bool,
    pub lower_up: bool,
    /// Of the port.
    pub state: Option<PortState>,
    pub addresses: Vec<Address>,
}

/// A device on the way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stop {
    #[serde(flatten)]
    pub device: Device,
    pub name: String,
    pub role: &'static str,
    pub up: bool,
    pub lower_up: bool,
}

impl Network {
    /// Without the rules of [`nat`], which are read apart.
    pub fn of(map: &Map, cgroup: &str) -> Self {
        let mut network = Self::default();
        network.unknown.insert("nat", "not read".to_owned());
        let Some(netns) = map.netns_of(cgroup) else {
            for field in ["netns", "interfaces", "way", "uplink", "settings", "forwarding"] {
                network.unknown.insert(field, "it has no process, or its namespace may not be looked at".to_owned());
            }
            return network;
        };
        network.netns = Some(netns);
        network.host = map.host() == Some(netns);
        if !network.host {
            let others = map.containers_in(netns).iter().filter(|other| ***other != *cgroup);
            network.shared_with = others.cloned().collect();
        }
        let own = match map.namespace(netns).map(|own| (own, &own.problem)) {
            Some((own, None)) => own,
            unread => {
                let why = unread.and_then(|(_, problem)| problem.clone()).unwrap_or_else(|| "it is gone".to_owned());
                for field in ["interfaces", "way", "uplink", "settings", "forwarding"] {
                    network.unknown.insert(field, why.clone());
                }
                return network;
            }
        };
        network.settings = Some(own.settings);
        let shown = |link: &&Link| {
            let device = Device { netns, ifindex: link.ifindex };
            link.is_real() && !(network.host && matches!(map.role(device), Role::HostVeth(_)))
        };
        network.interfaces = Some(own.links.values().filter(shown).map(|link| interface(map, netns, link)).collect());
        network.lead(map, &map.way(netns), netns);
        network
    }

    fn lead(&mut self, map: &Map, way: &Way, own: u64) {
        let stop = |device: &Device| {
            let link = map.link(*device)?;
            let role = match map.role(*device) {
                Role::ContainerDevice(_) => "container-device",
                Role::HostVeth(_) => "host-veth",
                Role::Bridge => "bridge",
                Role::Uplink => "uplink",
                Role::Other => "other",
            };
            let Link { up, lower_up, .. } = *link;
            Some(Stop { device: *device, name: link.name.clone(), role, up, lower_up })
        };
        self.way = Some(way.devices.iter().filter_map(stop).collect());
        self.uplink = way.uplink.as_ref().and_then(stop);
        if self.uplink.is_none() {
            self.unknown.insert("uplink", way.ends.clone().unwrap_or_else(|| "it is gone".to_owned()));
        }
        let beyond = way.devices.iter().find(|device| device.netns != own);
        self.forwarding = beyond.and_then(|device| map.namespace(device.netns)).map(|namespace| namespace.settings);
        if self.forwarding.is_none() {
            self.unknown.insert("forwarding", "no other namespace forwards its packets".to_owned());
        }
    }

    /// `network_mode`, by the devices: `None` where the namespace could not be read.
    pub fn mode(&self) -> Option<String> {
        if self.host {
            return Some("host".to_owned());
        }
        let interfaces = self.interfaces.as_ref()?;
        // The one that it leaves by decides; of those without a way any.
        let first = self.way.as_ref().and_then(|way| way.first());
        let by = first.and_then(|first| interfaces.iter().find(|one| one.ifindex == first.device.ifindex));
        let Some(main) = by.or_else(|| interfaces.first()) else { return Some("none".to_owned()) };
        Some(match main.kind.as_str() {
            "veth" => match &main.peer {
                Some(End { bridge: Some(_), .. }) => "bridge".to_owned(),
                Some(_) => "veth".to_owned(),
                None => return None, // its other end may well be a bridge's port
            },
            "macvtap" => "macvlan".to_owned(),
            "ipvtap" => "ipvlan".to_owned(),
            kind => kind.to_owned(),
        })
    }
}

fn interface(map: &Map, netns: u64, link: &Link) -> Interface {
    let mut unknown = Unknown::new();
    let peer = match map.end_of(Device { netns, ifindex: link.ifindex }) {
        Ok(device) => map.link(device).map(|other| end(map, device, other)),
        Err(why) => {
            unknown.insert("peer", why);
            None
        }
    };
    Interface {
        name: link.name.clone(),
        ifindex: link.ifindex,
        kind: link.kind.clone().unwrap_or_else(|| "device".to_owned()),
        mode: link.mode,
        mtu: link.mtu,
        up: link.up,
        lower_up: link.lower_up,
        addresses: link.addresses.clone(),
        rx_queues: link.rx_queues,
        tx_queues: link.tx_queues,
        rp_filter: link.rp_filter,
        counters: link.counters,
        peer,
        unknown,
    }
}

fn end(map: &Map, device: Device, link: &Link) -> End {
    let mut unknown = Unknown::new();
    let host = map.host() == Some(device.netns);
    if link.rps.is_none() {
        let why = match () {
            () if !link.is_kind("veth") => "it is read of the other ends of pairs",
            () if host => "/sys/devices/virtual/net does not show it",
            () => "/sys shows the host's devices, and this one is in another namespace",
        };
        unknown.insert("rps_cpus", why.to_owned());
    }
    let port = |ifindex: u32| {
        let master = map.link(Device { netns: device.netns, ifindex })?;
        Some(Port {
            name: master.name.clone(),
            ifindex,
            kind: master.kind.clone(),
            up: master.up,
            lower_up: master.lower_up,
            state: link.port,
            addresses: master.addresses.clone(),
        })
    };
    let bridge = link.master.and_then(port);
    if bridge.is_none() {
        let why = if link.master.is_some() { "it is gone" } else { "it is a port of none" };
        unknown.insert("bridge", why.to_owned());
    }
    End {
        device,
        name: link.name.clone(),
        host,
        mtu: link.mtu,
        up: link.up,
        lower_up: link.lower_up,
        rx_queues: link.rx_queues,
        tx_queues: link.tx_queues,
        rps_cpus: link.rps.clone(),
        counters: link.counters,
        bridge,
        unknown,
    }
}
