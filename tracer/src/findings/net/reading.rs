//! What was read for the net lens: the kernel side's sums, and which network namespace is whose.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tracer_common::{
    dropped::{DropKey, SAMPLE},
    hops::{BUCKETS, HopKey},
};

use super::tcp;
use crate::{findings::window::Total, model::recorded};

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The kernel side's sums, and the namespaces that these cgroups are in.
    Counts { of: Vec<Arc<str>> },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    Counts(Counts),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    pub at_ns: u64,
    /// The hooks that count hops and DNS are not attached now: nobody looks.
    #[serde(default)]
    pub is_idle: bool,
    /// On the CPU.
    pub took_ns: u64,
    /// The inode of the network namespace that each cgroup's processes are in, where it has any.
    pub netns: BTreeMap<Arc<str>, u32>,
    /// Those of them that another one had at the last reading: the number of a namespace is given again once it is gone.
    #[serde(default)]
    pub renewed: BTreeSet<u32>,
    /// The host's.
    pub host: Option<u32>,
    pub drops: Vec<(DropKey, DropTotal)>,
    pub hops: Vec<(HopKey, HopTotal)>,
    pub tcp: tcp::Reading,
    /// The function that each place of a drop is in.
    pub functions: BTreeMap<u64, String>,
    /// Why those have no names.
    pub nameless: Option<String>,
    /// What this kernel calls its reasons, without `SKB_DROP_REASON_`.
    pub reasons: BTreeMap<u32, String>,
}

/// What a device is called, and its kind; empty: hardware, or unread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    pub kind: String,
    /// The largest packet that it takes.
    #[serde(default)]
    pub mtu: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropTotal {
    pub packets: u64,
    /// One of them, from its network header on.
    #[serde(with = "recorded::array")]
    pub first: [u8; SAMPLE],
    /// How many bytes of that are the packet's; a recording from before that was known has no such number.
    #[serde(default)]
    pub readable: Option<u64>,
    pub device: Device,
    /// Where the first one's route led; without a name: it had none.
    #[serde(default)]
    pub next: Device,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopTotal {
    pub packets: u64,
    pub segments: u64,
    pub bytes: u64,
    /// Those that came straight from the container's own device.
    pub direct: u64,
    /// Those whose source is still the container's own address.
    pub untranslated: u64,
    pub since_ns: u64,
    pub since_count: u64,
    pub since: [u64; BUCKETS],
    pub device: Device,
}

impl Device {
    /// Is what comes to it seen? What one gets that stands on another passes the hook by, which has seen it as the other's
    /// (`another_round` in net/core/dev.c).
    pub fn is_heard(&self) -> bool {
        !matches!(self.kind.as_str(), "macvlan" | "macvtap" | "ipvlan" | "ipvtap" | "vlan")
    }
}

impl DropTotal {
    /// Of one of them, as far as it could be read.
    pub fn header(&self) -> &[u8] {
        let readable = self.readable.and_then(|bytes| usize::try_from(bytes).ok());
        readable.and_then(|bytes| self.first.get(..bytes)).unwrap_or(&self.first)
    }
}

impl Total for DropTotal {
    fn count(&self) -> u64 {
        self.packets
    }

    fn since(&self, before: &Self) -> Self {
        Self { packets: self.packets.saturating_sub(before.packets), ..self.clone() }
    }

    /// Of another device, which has the index now, that one's alone.
    fn add(&mut self, more: &Self) {
        if self.device.name != more.device.name {
            *self = more.clone();
            return;
        }
        self.packets = self.packets.saturating_add(more.packets);
    }
}

impl Total for HopTotal {
    fn count(&self) -> u64 {
        self.packets
    }

    fn since(&self, before: &Self) -> Self {
        let mut since = self.since;
        since.iter_mut().zip(before.since).for_each(|(own, before)| *own = own.saturating_sub(before));
        Self {
            packets: self.packets.saturating_sub(before.packets),
            segments: self.segments.saturating_sub(before.segments),
            bytes: self.bytes.saturating_sub(before.bytes),
            direct: self.direct.saturating_sub(before.direct),
            untranslated: self.untranslated.saturating_sub(before.untranslated),
            since_ns: self.since_ns.saturating_sub(before.since_ns),
            since_count: self.since_count.saturating_sub(before.since_count),
            since,
            device: self.device.clone(),
        }
    }

    fn add(&mut self, more: &Self) {
        if self.device.name != more.device.name {
            *self = more.clone();
            return;
        }
        self.packets = self.packets.saturating_add(more.packets);
        self.segments = self.segments.saturating_add(more.segments);
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.direct = self.direct.saturating_add(more.direct);
        self.untranslated = self.untranslated.saturating_add(more.untranslated);
        self.since_ns = self.since_ns.saturating_add(more.since_ns);
        self.since_count = self.since_count.saturating_add(more.since_count);
        self.since.iter_mut().zip(more.since).for_each(|(own, more)| *own = own.saturating_add(more));
    }
}
