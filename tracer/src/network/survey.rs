//! Looks around: which network namespaces there are, who is in them, and what each holds. A namespace is entered by a
//! thread that ends afterwards; its descriptor is closed as soon as it is entered.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
    thread,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::{
        stat::fstat,
        statfs::{FsType, fstatfs},
    },
};

use super::{
    Link, Map, Namespace, Placed, Settings,
    netlink::{By, Questions},
    parse,
};
use crate::{
    containers::{Files, Hierarchy, HostFiles, Mount, Refused, Table, inspect::start_ticks},
    privileges,
};

const NSFS_MAGIC: FsType = FsType(0x6e73_6673);
/// A veth has a queue for each CPU at most; a hostile one has thousands.
const QUEUES: u32 = 64;
const DEVICES: &str = "/sys/devices/virtual/net";

/// Where a namespace can be entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// A process in it.
    Pid(u32),
    /// Where somebody mounted it: `ip netns add`, an engine's own.
    Mounted(String),
}

/// The namespaces of this machine, without entering one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    pub host: Option<u64>,
    pub doors: BTreeMap<u64, Door>,
    pub placed: Vec<Placed>,
}

impl Placement {
    /// From /proc: of each process its namespace, and its container.
    pub fn find(files: &HostFiles, hierarchy: &Hierarchy, table: &Table) -> Self {
        let mut found = Self { host: host(files), ..Self::default() };
        let mut of_containers: BTreeMap<Arc<str>, Vec<(u32, u64)>> = BTreeMap::new();
        let items = files.list("/proc").map(|listing| listing.items).unwrap_or_default();
        for pid in items.iter().filter_map(|item| item.name.parse::<u32>().ok()) {
            let Some(netns) = files.link(&format!("/proc/{pid}/ns/net")).ok().as_deref().and_then(inode) else {
                continue;
            };
            found.doors.entry(netns).or_insert(Door::Pid(pid));
            let cgroup = files.text(&format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let owner = hierarchy.path_of(&cgroup).and_then(|path| table.owner_of_path(path));
            if let Some(container) = owner {
                of_containers.entry(container.cgroup.as_str().into()).or_default().push((pid, netns));
            }
        }
        for (netns, at) in mounted(&files.mountinfo()) {
            found.doors.entry(netns).or_insert(Door::Mounted(at));
        }
        found.placed = of_containers
            .into_iter()
            .filter_map(|(cgroup, mut processes)| {
                // Where they differ, its oldest process tells.
                let differ = processes.iter().any(|(_, netns)| Some(*netns) != processes.first().map(|first| first.1));
                if differ {
                    processes.sort_by_key(|(pid, _)| (start(files, *pid), *pid));
                }
                Some(Placed { cgroup, netns: processes.first()?.1 })
            })
            .collect();
        found
    }
}

/// The whole map, now.
pub fn survey(files: &HostFiles, placement: &Placement) -> Map {
    // A thread of its own: what enters a namespace never comes back to the program's others.
    let namespaces = thread::scope(|scope| scope.spawn(|| read_all(files, placement)).join()).unwrap_or_default();
    Map::of(placement.host, namespaces, placement.placed.clone())
}

/// Does `work` in a thread that is in that namespace, and ends.
///
/// # Errors
/// Why it cannot be entered, for a person.
pub fn within<T: Send>(
    files: &HostFiles,
    placement: &Placement,
    netns: u64,
    work: impl FnOnce() -> T + Send,
) -> Result<T, String> {
    let door = placement.doors.get(&netns).ok_or("no process is in its network namespace any more")?;
    let job = || privileges::with_sys_admin(|| enter(files, netns, door)).map(|()| work());
    thread::scope(|scope| scope.spawn(job).join()).unwrap_or_else(|_| Err("reading it failed".to_owned()))
}

/// The same in the host's namespace.
pub fn in_host<T: Send>(files: &HostFiles, placement: &Placement, work: impl FnOnce() -> T + Send) -> Option<T> {
    within(files, placement, placement.host?, work).ok()
}

fn read_all(files: &HostFiles, placement: &Placement) -> Vec<Namespace> {
    privileges::with_sys_admin(|| {
        // The host's ids of the others are asked for first: most of the others name the host alone.
        let mut order: Vec<(u64, &Door)> = placement.doors.iter().map(|(netns, door)| (*netns, door)).collect();
        order.sort_by_key(|(netns, _)| (Some(*netns) != placement.host, *netns));
        order.iter().map(|(netns, door)| read(files, *netns, door, &order, Some(*netns) == placement.host)).collect()
    })
}

fn read(files: &HostFiles, netns: u64, door: &Door, all: &[(u64, &Door)], is_host: bool) -> Namespace {
    let mut namespace = Namespace { inode: netns, ..Namespace::default() };
    let read = enter(files, netns, door)
        .and_then(|()| fill(&mut namespace, files, all).map_err(|error| format!("netlink: {error}")));
    namespace.problem = read.err();
    if is_host {
        for link in namespace.links.values_mut().filter(|link| link.is_kind("veth")) {
            link.rps = rps(files, link);
        }
    }
    namespace
}

/// This thread goes into the namespace.
fn enter(files: &HostFiles, netns: u64, door: &Door) -> Result<(), String> {
    if own() == Some(netns) {
        return Ok(());
    }
    let fd = open(files, netns, door)?;
    setns(fd, CloneFlags::CLONE_NEWNET).map_err(|error| {
        format!("its network namespace may not be entered ({}): run as root, with CAP_SYS_ADMIN", error.desc())
    })
}

fn open(files: &HostFiles, netns: u64, door: &Door) -> Result<OwnedFd, String> {
    let fd = match door {
        // A link that only the kernel can follow; nothing on the way to it is anybody's.
        Door::Pid(pid) => File::open(format!("/proc/{pid}/ns/net")).map(OwnedFd::from).map_err(Refused::from),
        Door::Mounted(at) => files.open_mounted(at),
    };
    let fd = fd.map_err(|error| format!("its network namespace cannot be opened: {error}"))?;
    // The process may be another one by now, and a path is what somebody else mounted.
    let is_it = fstat(&fd).is_ok_and(|stat| stat.st_ino == netns)
        && fstatfs(&fd).is_ok_and(|stat| stat.filesystem_type() == NSFS_MAGIC);
    if is_it { Ok(fd) } else { Err("its network namespace is gone".to_owned()) }
}

fn own() -> Option<u64> {
    inode(&fs::read_link("/proc/thread-self/ns/net").ok()?.to_string_lossy())
}

fn fill(namespace: &mut Namespace, files: &HostFiles, all: &[(u64, &Door)]) -> std::io::Result<()> {
    let mut ask = Questions::here()?;
    namespace.links = ask.links()?;
    for (ifindex, address) in ask.addresses()? {
        if let Some(link) = namespace.links.get_mut(&ifindex) {
            link.addresses.push(address);
        }
    }
    for ip in parse::FAR {
        namespace.way_out.extend(ask.way_to(ip)?);
    }
    namespace.way_out.dedup();
    namespace.settings = settings();
    for link in namespace.links.values_mut() {
        link.rp_filter = number(&format!("/proc/sys/net/ipv4/conf/{}/rp_filter", link.name));
    }
    let mut wanted: BTreeSet<i32> = namespace.links.values().filter_map(|link| link.link_netnsid).collect();
    for (netns, door) in all.iter().filter(|(netns, _)| *netns != namespace.inode) {
        if wanted.is_empty() {
            break;
        }
        let id = match door {
            Door::Pid(pid) => ask.id_of(By::Pid(*pid)),
            Door::Mounted(_) => open(files, *netns, door).ok().and_then(|fd| ask.id_of(By::Fd(fd.as_fd().as_raw_fd()))),
        };
        if let Some(id) = id {
            wanted.remove(&id);
            namespace.ids.insert(id, *netns);
        }
    }
    Ok(())
}

/// Of the namespace that this thread is in.
fn settings() -> Settings {
    let net = |name: &str| number(&format!("/proc/sys/net/{name}"));
    let flag = |name: &str| net(name).map(|value: u8| value != 0);
    Settings {
        ip_forward: flag("ipv4/ip_forward"),
        ipv6_forwarding: flag("ipv6/conf/all/forwarding"),
        rp_filter: net("ipv4/conf/all/rp_filter"),
        bridge_nf_call_iptables: flag("bridge/bridge-nf-call-iptables"),
    }
}

fn number(file: &str) -> Option<u8> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Of a device of the host's namespace, by the host's sysfs.
fn rps(files: &dyn Files, link: &Link) -> Option<Vec<String>> {
    let file = |name: &str| files.text(&format!("{DEVICES}/{}/{name}", link.name)).map(|text| text.trim().to_owned());
    // That it shows the host's devices, and this one, is not taken for granted.
    if file("ifindex")?.parse() != Ok(link.ifindex) {
        return None;
    }
    // Of those that it could have, the ones that it has.
    let queues = (0..link.rx_queues?.min(QUEUES)).map_while(|queue| file(&format!("queues/rx-{queue}/rps_cpus")));
    Some(queues.collect()).filter(|masks: &Vec<String>| !masks.is_empty())
}

/// The host's namespace: PID 1's; where that one may not be looked at, that of the kernel's own threads; else this one.
fn host(files: &dyn Files) -> Option<u64> {
    let kernel = || files.text("/proc/2/comm").filter(|comm| comm.trim_end() == "kthreadd");
    let link = files.link("/proc/1/ns/net").ok();
    let link = link.or_else(|| kernel().and_then(|_| files.link("/proc/2/ns/net").ok()));
    link.or_else(|| files.link("/proc/self/ns/net").ok()).as_deref().and_then(inode)
}

/// From `net:[4026531840]`.
fn inode(link: &str) -> Option<u64> {
    link.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// From the text of mountinfo: the network namespaces that are mounted somewhere.
fn mounted(mountinfo: &str) -> Vec<(u64, String)> {
    let mounts = mountinfo.lines().filter(|line| line.contains(" net:[")).filter_map(Mount::of);
    mounts.filter(|mount| mount.kind == "nsfs").filter_map(|mount| Some((inode(&mount.root)?, mount.at))).collect()
}

/// In ticks since boot; one that is gone is nobody's oldest.
fn start(files: &dyn Files, pid: u32) -> u64 {
    start_ticks(files, pid).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_in_texts() {
        assert_eq!(inode("net:[4026531840]"), Some(4_026_531_840));
        for wrong in ["", "net:[", "net:[]", "mnt:[1]", "net:[-1]", "net:[1"] {
            assert_eq!(inode(wrong), None, "{wrong}");
        }
        let mountinfo = "\
26 1 0:24 / /run rw - tmpfs tmpfs rw
40 26 0:4 net:[4026532201] /run/netns/a\\040b rw shared:1 - nsfs nsfs rw
41 26 0:4 mnt:[4026532202] /run/x rw - nsfs nsfs rw
42 26 0:24 /net:[4026532203] /run/y rw - tmpfs tmpfs rw
";
        assert_eq!(mounted(mountinfo), [(4_026_532_201, "/run/netns/a b".to_owned())]);
    }
}
