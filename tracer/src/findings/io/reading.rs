//! What was read for the io lens: the kernel side's sums, limits, and where a full file system is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tracer_common::{
    block::{self, IoKey},
    dirty::{self, PauseKey},
    sync::{self, SyncKey},
};

use crate::{
    containers::Space,
    findings::{numbers::grow, window::Total},
    model::{Process, recorded},
};

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The kernel side's sums, the host's dirty pages, and the limits of these cgroups.
    Counts { of: Vec<Arc<str>> },
    /// Where the file of a refused call is, how full that is, and which of these cgroups wrote how much there.
    Place { wanted: Where, of: Vec<Arc<str>> },
    /// The root file systems of these containers, each with its cgroups.
    Roots { of: BTreeMap<Arc<str>, Vec<Arc<str>>> },
}

/// The file of a refused call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Where {
    pub pid: u32,
    /// Whose mounts may be looked at, where that process is gone.
    pub cgroup: Option<String>,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// An open file: the device of its file system (major, minor), and its path in there.
    File { device: (u32, u32), path: String },
    /// A path as the process named it, relative to its open directory `at`, or to its working directory (-100).
    Path { at: i32, path: String },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    Counts(Box<Counts>),
    Place(Where, Box<Place>),
    Roots(Roots),
}

/// All that was read at one time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    pub at_ns: u64,
    /// Of a processor.
    pub took_ns: u64,
    /// Since attach.
    pub pauses: Vec<(PauseKey, PauseTotal)>,
    pub requests: Vec<(IoKey, IoTotal)>,
    #[serde(default)]
    pub syncs: Vec<(SyncKey, SyncTotal)>,
    /// The hooks that see them are not attached now: nobody looks.
    #[serde(default)]
    pub syncs_idle: bool,
    /// v1: paths of cgroups of the blkio hierarchy, by id; on v2 the ids are those of the containers.
    pub blkio: Option<BTreeMap<u64, Arc<str>>>,
    /// Limits in force, those without any left out.
    pub limits: BTreeMap<Arc<str>, Vec<Limit>>,
    /// Those that no io (v1: blkio) controller holds: their limits are not known to be none.
    #[serde(default)]
    pub uncontrolled: BTreeSet<Arc<str>>,
    /// Shares of a device's time, of cgroups that have any.
    #[serde(default)]
    pub weights: BTreeMap<Arc<str>, Vec<Weights>>,
    /// v1: bytes that processes of a cgroup with a limit gave to write so far, buffered or not.
    pub written: BTreeMap<Arc<str>, u64>,
    /// Names of devices: `sda`.
    #[serde(with = "recorded::pairs")]
    pub devices: BTreeMap<(u32, u32), String>,
    /// Those whose queue keeps no statistics (queue/iostats): when a request was made is not noted there.
    #[serde(default)]
    pub unnoted: BTreeSet<(u32, u32)>,
    pub host: HostDirty,
}

/// The host's dirty pages and its knobs; `None`: not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDirty {
    /// Pages above which writers are paused, of /proc/vmstat.
    pub threshold: Option<u64>,
    pub ratio: Option<u64>,
    pub background_ratio: Option<u64>,
    /// 0: the ratio is in force.
    pub bytes: Option<u64>,
}

/// Pauses of one process's writers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseTotal {
    pub who: Option<Process>,
    pub count: u64,
    pub total_ns: u64,
    pub worst_ns: u64,
    pub worst_call_ns: u64,
    pub histogram: [u64; dirty::BUCKETS],
    pub last: Control,
}

/// What the kernel went by at the last pause: pages, and pages a second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    pub at_ns: u64,
    pub dirty: u64,
    pub threshold: u64,
    pub background: u64,
    pub device_dirty: u64,
    pub device_threshold: u64,
    pub bandwidth: u64,
    pub task_rate: u64,
    /// `None`: this kernel does not say.
    pub in_memcg: Option<bool>,
    /// `8:0`.
    pub device: String,
}

/// Requests of one cgroup to one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoTotal {
    pub count: u64,
    pub bytes: u64,
    pub device_ns: u64,
    pub queued_ns: u64,
    pub worst_ns: u64,
    /// Of reads and writes: past the page cache, and through it. The rest is not told, as nothing is in older recordings.
    #[serde(default)]
    pub direct_bytes: u64,
    #[serde(default)]
    pub buffered_bytes: u64,
    pub histogram: [u64; block::BUCKETS],
}

/// Calls of one process that waited until what was written was on the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncTotal {
    pub who: Option<Process>,
    pub count: u64,
    pub total_ns: u64,
    pub worst_ns: u64,
    /// Those of `SLOW_NS` and more.
    pub slow: u64,
    pub slow_ns: u64,
    pub histogram: [u64; sync::BUCKETS],
    /// The name of the file of the longest one; empty where there is none.
    pub file: String,
}

/// A cgroup's limit on one device; `None`: no limit of that kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub device: (u32, u32),
    pub read_bps: Option<u64>,
    pub write_bps: Option<u64>,
    pub read_iops: Option<u64>,
    pub write_iops: Option<u64>,
}

/// A cgroup's shares of devices, as one file has them: they matter where a device is served by what reads that file (io.cost, BFQ).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    pub file: String,
    /// Of each device that has none of its own.
    pub default: u64,
    pub devices: Vec<((u32, u32), u64)>,
}

/// The containers' root file systems, by their cgroups.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Roots {
    /// Of a processor.
    pub took_ns: u64,
    pub of: BTreeMap<Arc<str>, Place>,
}

/// Where a file is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// As the process sees it.
    pub path: Option<String>,
    /// Type of the file system, and where it is mounted there.
    pub kind: Option<String>,
    pub mount: Option<String>,
    /// What a project quota leaves of it, where there is one.
    pub space: Option<Space>,
    /// Of an overlay: the real directory that is written to, the file system that it is on, and how full that is.
    pub upper: Option<String>,
    pub disk_kind: Option<String>,
    pub disk_mount: Option<String>,
    pub disk: Option<Space>,
    /// The device of the file system that is written to.
    #[serde(default)]
    pub device: Option<(u32, u32)>,
    /// Why there are no numbers.
    pub unknown: Option<String>,
    /// Where no quota bounds it: the cgroups that can write to the same file system, and what they wrote.
    #[serde(default)]
    pub writers: Option<Vec<Writer>>,
}

/// What one cgroup wrote so far; `None`: not counted here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    pub cgroup: Arc<str>,
    /// To the disk, charged to it and all below it since it was made (v2's io.stat).
    pub charged: Option<u64>,
    /// Given to write by its living processes, to any file system, whether it is on a device yet or not.
    pub given: u64,
}

impl Place {
    /// What all share that write there: no quota, and no tmpfs of its own bounds them.
    pub fn disk_of_all(&self) -> Option<(u32, u32)> {
        let is_shared = self.space.is_some() && !self.has_quota() && self.kind.as_deref() != Some("tmpfs");
        self.device.filter(|_| is_shared)
    }

    /// A project quota has another size than the disk that it is on.
    pub fn has_quota(&self) -> bool {
        self.space.zip(self.disk).is_some_and(|(own, disk)| own.total_bytes != disk.total_bytes)
    }
}

impl Total for PauseTotal {
    fn count(&self) -> u64 {
        self.count
    }

    fn since(&self, before: &Self) -> Self {
        let histogram = std::array::from_fn(|at| self.histogram[at].saturating_sub(before.histogram[at]));
        let (count, total_ns) =
            (self.count.saturating_sub(before.count), self.total_ns.saturating_sub(before.total_ns));
        Self { count, total_ns, histogram, ..self.clone() }
    }

    fn add(&mut self, more: &Self) {
        grow(&mut self.count, more.count);
        grow(&mut self.total_ns, more.total_ns);
        self.worst_ns = self.worst_ns.max(more.worst_ns);
        self.worst_call_ns = self.worst_call_ns.max(more.worst_call_ns);
        for (bucket, more) in self.histogram.iter_mut().zip(more.histogram) {
            grow(bucket, more);
        }
        if more.last.at_ns > self.last.at_ns {
            self.last = more.last.clone();
        }
    }
}

impl Total for IoTotal {
    fn count(&self) -> u64 {
        self.count
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            count: self.count.saturating_sub(before.count),
            bytes: self.bytes.saturating_sub(before.bytes),
            device_ns: self.device_ns.saturating_sub(before.device_ns),
            queued_ns: self.queued_ns.saturating_sub(before.queued_ns),
            worst_ns: self.worst_ns,
            direct_bytes: self.direct_bytes.saturating_sub(before.direct_bytes),
            buffered_bytes: self.buffered_bytes.saturating_sub(before.buffered_bytes),
            histogram: std::array::from_fn(|at| self.histogram[at].saturating_sub(before.histogram[at])),
        }
    }

    fn add(&mut self, more: &Self) {
        grow(&mut self.count, more.count);
        grow(&mut self.bytes, more.bytes);
        grow(&mut self.device_ns, more.device_ns);
        grow(&mut self.queued_ns, more.queued_ns);
        grow(&mut self.direct_bytes, more.direct_bytes);
        grow(&mut self.buffered_bytes, more.buffered_bytes);
        self.worst_ns = self.worst_ns.max(more.worst_ns);
        for (bucket, more) in self.histogram.iter_mut().zip(more.histogram) {
            grow(bucket, more);
        }
    }
}

impl Total for SyncTotal {
    fn count(&self) -> u64 {
        self.count
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            count: self.count.saturating_sub(before.count),
            total_ns: self.total_ns.saturating_sub(before.total_ns),
            slow: self.slow.saturating_sub(before.slow),
            slow_ns: self.slow_ns.saturating_sub(before.slow_ns),
            histogram: std::array::from_fn(|at| self.histogram[at].saturating_sub(before.histogram[at])),
            ..self.clone()
        }
    }

    fn add(&mut self, more: &Self) {
        grow(&mut self.count, more.count);
        grow(&mut self.total_ns, more.total_ns);
        grow(&mut self.slow, more.slow);
        grow(&mut self.slow_ns, more.slow_ns);
        for (bucket, more) in self.histogram.iter_mut().zip(more.histogram) {
            grow(bucket, more);
        }
        if more.worst_ns > self.worst_ns {
            (self.worst_ns, self.file) = (more.worst_ns, more.file.clone());
        }
    }
}
