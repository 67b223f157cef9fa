//! The network map: which interfaces each container has, where their other ends are, and the way from there to the
//! outside. Only this module knows netlink.
//!
//! `survey` enters each network namespace in a short-lived thread and reads it, `parse` makes values of the answers,
//! [`Map`] joins them: pure, and the one place that knows how a pair, a bridge and a route follow each other. `nat` reads
//! the rules that rewrite addresses, `advice` says what to do. An interface is (inode of its network namespace, its
//! index): an index alone repeats in every namespace.

pub mod advice;
mod cache;
mod describe;
mod map;
#[cfg(test)]
mod map_tests;
pub mod nat;
mod netlink;
mod parse;
mod survey;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use serde::Serialize;

pub use self::{
    cache::Cache,
    describe::{End, Interface, Network, Stop},
    map::{Map, Role, Way},
    survey::{Placement, survey},
};

/// An interface, wherever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Device {
    /// Inode of its network namespace.
    pub netns: u64,
    pub ifindex: u32,
}

/// A container, and the namespace that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub cgroup: Arc<str>,
    pub netns: u64,
}

/// All that was read of one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    pub inode: u64,
    /// By index.
    pub links: BTreeMap<u32, Link>,
    /// Where packets to the internet leave, IPv4 before IPv6; empty: nowhere.
    pub way_out: Vec<u32>,
    /// The ids by which links here name other namespaces, to their inodes; as far as they were found.
    pub ids: BTreeMap<i32, u64>,
    pub settings: Settings,
    /// Why it, or a part of it, could not be read.
    pub problem: Option<String>,
}

/// `net.*` of a namespace, as far as packets depend on it; `None`: not readable, or this kernel has no such setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Settings {
    pub ip_forward: Option<bool>,
    pub ipv6_forwarding: Option<bool>,
    /// `conf/all`: the higher of this one and the interface's own counts.
    pub rp_filter: Option<u8>,
    /// Do bridged packets pass iptables?
    pub bridge_nf_call_iptables: Option<bool>,
}

/// An interface as its own namespace sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    /// Made by who may be hostile.
    pub name: String,
    /// `veth`, `bridge`, …; `None`: a device of hardware, or `lo`.
    pub kind: Option<String>,
    pub mtu: Option<u32>,
    pub up: bool,
    pub lower_up: bool,
    /// The other end of a pair, or what this one stands on: its index, in the namespace of that id (none: in this one).
    pub link: Option<u32>,
    pub link_netnsid: Option<i32>,
    /// The bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// Where it is a port of a bridge.
    pub port: Option<PortState>,
    /// Of a macvlan or ipvlan.
    pub mode: Option<&'static str>,
    /// How many it can have; how many are in use, [`Link::rps`] shows.
    pub rx_queues: Option<u32>,
    pub tx_queues: Option<u32>,
    pub counters: Option<Counters>,
    pub addresses: Vec<Address>,
    pub rp_filter: Option<u8>,
    /// The CPUs that each queue's packets are spread over, as hexadecimal masks; read of the host's ends of pairs only.
    pub rps: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PortState {
    Disabled,
    Listening,
    Learning,
    Forwarding,
    Blocking,
}

/// `10.0.0.2/24`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub ip: IpAddr,
    pub prefix: u8,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Address {
    /// Is that one in its network?
    pub fn covers(&self, other: IpAddr) -> bool {
        match (self.ip, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
                (u32::from(own) ^ u32::from(other)) & mask == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix.min(128))).unwrap_or(0);
                (u128::from(own) ^ u128::from(other)) & mask == 0
            }
            _ => false,
        }
    }

    /// `10.0.0.0/8`, `10.0.0.1`, `fd00::/8`.
    pub fn parse(text: &str) -> Option<Self> {
        let (ip, prefix) = text.split_once('/').map_or((text, None), |(ip, prefix)| (ip, Some(prefix)));
        let ip: IpAddr = ip.parse().ok()?;
        let full = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => full,
            // iptables also writes masks.
            Some(prefix) => match (prefix.parse::<u8>(), prefix.parse::<Ipv4Addr>(), prefix.parse::<Ipv6Addr>()) {
                (Ok(prefix), ..) if prefix <= full => prefix,
                (_, Ok(mask), _) => u32::from(mask).leading_ones() as u8,
                (_, _, Ok(mask)) => u128::from(mask).leading_ones() as u8,
                _ => return None,
            },
        };
        Some(Self { ip, prefix })
    }
}

impl Link {
    pub fn is_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    /// Does it stand on another device, sharing its wire?
    pub fn is_upper(&self) -> bool {
        matches!(self.kind.as_deref(), Some("macvlan" | "macvtap" | "ipvlan" | "ipvtap" | "vlan"))
    }

    /// Does it lead anywhere? `lo` does not, nor do the tunnels that a loaded module puts into every namespace.
    pub fn is_real(&self) -> bool {
        !crate::containers::inspect::FALLBACKS.contains(&self.name.as_str())
    }
}
