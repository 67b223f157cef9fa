//! What the net lens asks to be read: the kernel side's sums, and whose network namespace and addresses are whose. The
//! kernel side is told those, so that it knows which packets are meant.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use anyhow::Result;
use tracer_common::{
    dropped::{DropKey, Drops},
    hops::{self, Address, BUCKETS, Hop, HopKey, Met, Passed, Sum},
};

use super::{cpu::TICK_NS, tcp};
use crate::{
    containers::{Files, Hierarchy, HostFiles, inspect::start_ticks},
    events::{self, text},
    findings::net::{Ask, Counts, Device, DropTotal, HopTotal, Reading},
    kernel::{btf::Btf, btf_file::BtfFile, host as machine, load::Kernel, symbols::Symbols},
    lenses::net::{ADDRESSES, DROPS, HOPS, LENS, NETNS},
};

/// Reads for the net lens.
#[derive(Debug, Default)]
pub struct Reader {
    /// What the kernel side was told.
    netns: BTreeSet<u32>,
    residents: Residents,
    addresses: BTreeMap<Address, u32>,
    /// What was found of the places of drops; an address that is in no function is not looked for again.
    functions: BTreeMap<u64, Option<String>>,
    nameless: Option<String>,
    /// `None`: not looked for yet.
    reasons: Option<BTreeMap<u32, String>>,
    tcp: tcp::Reader,
    /// As they were read last.
    hops: BTreeMap<HopKey, HopTotal>,
}

impl Reader {
    pub fn answer(
        &mut self,
        ask: &Ask,
        files: &HostFiles,
        key: &Hierarchy,
        symbols: &Symbols,
        kernel: &mut Kernel,
    ) -> Result<Reading> {
        let Ask::Counts { of } = ask;
        let start = machine::cpu_ns();
        let host = host_netns(files);
        // Before who is there is asked: who started since may be of another namespace of that number.
        let looked_ns = machine::boottime_ns();
        let Places { netns, inhabitants, pids, addresses } = places(of, host, files, key);
        let renewed = self.residents.renewed(looked_ns, pids, |pid| started_ns(files, pid));
        self.tell(&netns, host, addresses, kernel)?;
        let at_ns = machine::boottime_ns();
        let drops = drops(&renewed, kernel)?;
        let hops = self.hops(&renewed, kernel)?;
        let tcp = self.tcp.read(&inhabitants, files, kernel)?;
        // Names are looked for once each: what that takes says nothing of the next reading.
        let took_ns = machine::cpu_ns().saturating_sub(start);
        self.name(&drops, symbols);
        Ok(Reading::Counts(Counts {
            at_ns,
            is_idle: kernel.is_idle(LENS.on_demand),
            netns,
            renewed,
            host,
            functions: self.functions.iter().filter_map(|(at, name)| Some((*at, name.clone()?))).collect(),
            nameless: self.nameless.clone(),
            reasons: self.reasons.clone().unwrap_or_default(),
            drops,
            hops,
            tcp,
            took_ns,
        }))
    }

    /// Brings the kernel side's two maps up to date.
    fn tell(
        &mut self,
        netns: &BTreeMap<Arc<str>, u32>,
        host: Option<u32>,
        addresses: BTreeMap<Address, u32>,
        kernel: &mut Kernel,
    ) -> Result<()> {
        let now: BTreeSet<u32> =
            netns.values().copied().filter(|inode| Some(*inode) != host).take(NETNS as usize).collect();
        for gone in self.netns.difference(&now) {
            kernel.remove::<u32, u32>("NETNS", *gone)?;
        }
        for new in now.difference(&self.netns) {
            kernel.put("NETNS", *new, 1_u32)?;
        }
        self.netns = now;
        for gone in self.addresses.keys().filter(|address| !addresses.contains_key(*address)) {
            kernel.remove::<Address, u32>("ADDRESSES", *gone)?;
        }
        for (address, inode) in addresses.iter().filter(|(address, inode)| self.addresses.get(*address) != Some(inode))
        {
            kernel.put("ADDRESSES", *address, *inode)?;
        }
        self.addresses = addresses;
        Ok(())
    }

    /// Those of the containers that are here: the number of a namespace is given again once it is gone, and what the next one's
    /// packets are counted into must be empty.
    fn hops(&mut self, renewed: &BTreeSet<u32>, kernel: &mut Kernel) -> Result<Vec<(HopKey, HopTotal)>> {
        let early = kernel.array_per_cpu::<Sum>("SUMS")?;
        let counted = kernel.entries_per_cpu::<HopKey, Hop>("HOPS", HOPS as usize)?;
        let sums = Sums::of(&early, &kernel.array_per_cpu::<Sum>("SUMS")?);
        let mut hops = hops(counted, &sums);
        for (key, total) in hops.iter_mut().filter(|(key, _)| sums.moved.contains(key)) {
            if let Some(before) = self.hops.get(key) {
                no_less(total, before);
            }
        }
        let is_gone = |key: &HopKey| !self.netns.contains(&key.container) || renewed.contains(&key.container);
        for (gone, _) in hops.extract_if(.., |key, _| is_gone(key)) {
            kernel.remove_per_cpu::<HopKey, Hop>("HOPS", gone)?;
        }
        self.hops.clone_from(&hops);
        Ok(hops.into_iter().collect())
    }

    /// Looks for the names of places and reasons that were not met before.
    fn name(&mut self, drops: &[(DropKey, DropTotal)], symbols: &Symbols) {
        let new: BTreeSet<u64> =
            drops.iter().map(|(key, _)| key.location).filter(|at| !self.functions.contains_key(at)).collect();
        let new: Vec<u64> = new.into_iter().collect();
        if !new.is_empty() && self.nameless.is_none() {
            match symbols.names(&new) {
                Ok(names) => self.functions.extend(new.into_iter().zip(names)),
                Err(why) => self.nameless = Some(why.to_string()),
            }
        }
        if self.reasons.is_none() && !drops.is_empty() {
            self.reasons = Some(reasons());
        }
    }
}

/// This kernel's `enum skb_drop_reason`, without its prefix; empty before 5.17.
fn reasons() -> BTreeMap<u32, String> {
    const ENUM: &str = "skb_drop_reason";
    let Ok(data) = BtfFile::of_this_kernel() else { return BTreeMap::new() };
    let Ok(btf) = Btf::parse(&data, &[ENUM]) else { return BTreeMap::new() };
    let all = btf.enumerators(ENUM).unwrap_or_default().into_iter();
    all.filter_map(|(name, value)| {
        let name = name.strip_prefix("SKB_DROP_REASON_").unwrap_or(name);
        Some((u32::try_from(value).ok()?, name.to_owned()))
    })
    .collect()
}

fn host_netns(files: &HostFiles) -> Option<u32> {
    // PID 1 may have a capability that this process lacks, and not be looked at; the kernel's own threads may.
    [1, 2].into_iter().find_map(|pid| netns_of(files, pid))
}

/// `net:[4026531840]`
fn netns_of(files: &HostFiles, pid: u32) -> Option<u32> {
    let link = files.link(&format!("/proc/{pid}/ns/net")).ok()?;
    link.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Who was in each namespace.
#[derive(Debug, Default)]
struct Residents {
    pids: BTreeMap<u32, BTreeSet<u32>>,
    looked_ns: u64,
}

impl Residents {
    /// The namespaces that were gone meanwhile, and whose number another one has: nobody is there who was there before, and all
    /// who are have started since. Who cannot be asked any more (`None`) tells nothing.
    fn renewed(
        &mut self,
        looked_ns: u64,
        pids: BTreeMap<u32, BTreeSet<u32>>,
        started_ns: impl Fn(u32) -> Option<u64>,
    ) -> BTreeSet<u32> {
        let before = std::mem::replace(self, Self { pids, looked_ns });
        let is_new = |pid: &u32| started_ns(*pid).is_some_and(|started| started > before.looked_ns);
        let other = |(netns, pids): &(&u32, &BTreeSet<u32>)| {
            before.pids.get(netns).is_some_and(|known| known.is_disjoint(pids)) && pids.iter().all(is_new)
        };
        self.pids.iter().filter(other).map(|(netns, _)| *netns).collect()
    }
}

/// When that process started, at the latest: /proc counts in ticks.
fn started_ns(files: &HostFiles, pid: u32) -> Option<u64> {
    Some(start_ticks(files, pid)?.saturating_add(1).saturating_mul(TICK_NS))
}

struct Places {
    /// The namespace of each cgroup's first process.
    netns: BTreeMap<Arc<str>, u32>,
    /// A process in each namespace, the host's too.
    inhabitants: BTreeMap<u32, u32>,
    /// The first process of each cgroup that is in it; the host's is none that goes.
    pids: BTreeMap<u32, BTreeSet<u32>>,
    /// The addresses that are in one namespace alone.
    addresses: BTreeMap<Address, u32>,
}

fn places(of: &[Arc<str>], host: Option<u32>, files: &HostFiles, key: &Hierarchy) -> Places {
    let mut netns = BTreeMap::new();
    let mut pids: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    let mut inhabitants: BTreeMap<u32, u32> = host.map(|host| (host, 1)).into_iter().collect();
    for path in of {
        let procs = read(files, &format!("{}/cgroup.procs", key.directory(path))).unwrap_or_default();
        let mut all = procs.lines().filter_map(|line| line.parse().ok());
        // The first may have ended meanwhile.
        let Some((pid, inode)) = all.find_map(|pid| Some((pid, netns_of(files, pid)?))) else { continue };
        netns.insert(path.clone(), inode);
        inhabitants.entry(inode).or_insert(pid);
        if Some(inode) != host {
            pids.entry(inode).or_default().insert(pid);
        }
    }
    let mut addresses: BTreeMap<Address, u32> = BTreeMap::new();
    let mut several = BTreeSet::new();
    for (&inode, pid) in inhabitants.iter().filter(|(inode, _)| Some(**inode) != host) {
        let v4 = read(files, &format!("/proc/{pid}/net/fib_trie")).unwrap_or_default();
        let v6 = read(files, &format!("/proc/{pid}/net/if_inet6")).unwrap_or_default();
        for address in local_v4(&v4).into_iter().chain(local_v6(&v6)) {
            if addresses.insert(address, inode).is_some_and(|other| other != inode) {
                several.insert(address);
            }
        }
    }
    addresses.retain(|address, _| !several.contains(address));
    while addresses.len() > ADDRESSES as usize {
        addresses.pop_last();
    }
    Places { netns, inhabitants, pids, addresses }
}

/// A namespace's own addresses: `/32 host LOCAL` below the address, in net/ipv4/fib_trie.c's own drawing. Those of `lo`
/// are everybody's.
fn local_v4(trie: &str) -> BTreeSet<Address> {
    let mut found = BTreeSet::new();
    let mut last = None;
    for line in trie.lines().map(str::trim_start) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.trim().parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found
                .extend(last.filter(|address| !address.is_loopback()).map(|address| address.to_ipv6_mapped().octets()));
        }
    }
    found
}

/// `fd000000000000000000000000000002 02 40 00 80     eth0`. Those of a link are not one namespace's alone.
fn local_v6(table: &str) -> BTreeSet<Address> {
    let addresses = table.lines().filter_map(|line| u128::from_str_radix(line.split(' ').next()?, 16).ok());
    let addresses = addresses.map(Ipv6Addr::from);
    addresses
        .filter(|address| !address.is_loopback() && !address.is_unicast_link_local())
        .map(|address| address.octets())
        .collect()
}

/// All but those of a namespace that is gone, and whose number another one has.
fn drops(renewed: &BTreeSet<u32>, kernel: &mut Kernel) -> Result<Vec<(DropKey, DropTotal)>> {
    let mut totals = BTreeMap::new();
    for (key, values) in kernel.entries_per_cpu::<DropKey, Drops>("DROPS", DROPS as usize)? {
        let values = of_one_device(values, |drops| (drops.packets, drops.met, drops.device.name));
        let Some(newest) = values.first() else { continue };
        let total = DropTotal {
            packets: values.iter().map(|drops| drops.packets).sum(),
            first: newest.first,
            readable: Some(newest.readable),
            device: device(&newest.device),
            next: device(&newest.next),
        };
        totals.insert(key, total);
    }
    let is_gone = |key: &DropKey| renewed.contains(&key.container) || renewed.contains(&key.netns);
    for (gone, _) in totals.extract_if(.., |key, _| is_gone(key)) {
        kernel.remove_per_cpu::<DropKey, Drops>("DROPS", gone)?;
    }
    Ok(totals.into_iter().collect())
}

/// What each CPU has not added to its counts yet, of the kind of hop that it met last.
#[derive(Debug, Default)]
struct Sums {
    /// With the device's address.
    waiting: BTreeMap<(HopKey, u64), Vec<Sum>>,
    /// Those that were added while the counts were read: they are in them, or missing until the next look.
    moved: BTreeSet<HopKey>,
}

impl Sums {
    /// Read before the counts, and after them: so none is in both.
    fn of(early: &[Vec<Sum>], late: &[Vec<Sum>]) -> Self {
        let mut sums = Self::default();
        for (before, now) in early.iter().flatten().zip(late.iter().flatten()) {
            let place = |sum: &Sum| (sum.key, sum.device, sum.tick);
            if before.passed.packets > 0 && place(before) != place(now) {
                sums.moved.insert(before.key);
            }
            if now.passed.packets > 0 {
                sums.waiting.entry((now.key, now.device)).or_default().push(*now);
            }
        }
        sums
    }
}

/// What was counted of a device is not taken back.
fn no_less(total: &mut HopTotal, before: &HopTotal) {
    if total.device.name == before.device.name {
        total.packets = total.packets.max(before.packets);
        total.segments = total.segments.max(before.segments);
        total.bytes = total.bytes.max(before.bytes);
        total.direct = total.direct.max(before.direct);
        total.untranslated = total.untranslated.max(before.untranslated);
    }
}

fn hops(counted: Vec<(HopKey, Vec<Hop>)>, sums: &Sums) -> BTreeMap<HopKey, HopTotal> {
    let mut totals = Vec::new();
    for (key, values) in counted {
        let values = of_one_device(values, |hop| (hop.passed.packets, hop.met, hop.device.name));
        let Some(newest) = values.first() else { continue };
        let mut since = [0; BUCKETS];
        for (bucket, count) in values.iter().flat_map(|hop| hop.since.iter().enumerate()) {
            since[bucket] += u64::from(*count);
        }
        let waiting = sums.waiting.get(&(key, newest.met.address)).map_or(&[][..], Vec::as_slice);
        let mut passed = Passed::NOTHING;
        for more in values.iter().map(|hop| &hop.passed).chain(waiting.iter().map(|sum| &sum.passed)) {
            passed.add(more);
        }
        let Passed { packets, segments, bytes, direct, untranslated } = passed;
        let total = HopTotal {
            packets,
            segments,
            bytes,
            direct,
            untranslated,
            since_ns: values.iter().map(|hop| hop.since_ns).sum(),
            since_count: values.iter().map(|hop| hop.since_count).sum(),
            since,
            device: device(&newest.device),
        };
        totals.push((key, total, newest.met.looked));
    }
    without_replaced(totals)
}

/// Of each device, by its namespace and index, the name that was met last: what else was counted there is of one that is gone.
fn without_replaced(hops: Vec<(HopKey, HopTotal, u64)>) -> BTreeMap<HopKey, HopTotal> {
    let mut newest: BTreeMap<(u32, u32), (u64, String)> = BTreeMap::new();
    for (key, total, looked) in &hops {
        let known = newest.entry((key.netns, key.ifindex)).or_default();
        if *looked >= known.0 {
            *known = (*looked, total.device.name.clone());
        }
    }
    let is_here = |key: &HopKey, total: &HopTotal| {
        newest.get(&(key.netns, key.ifindex)).is_some_and(|(_, name)| *name == total.device.name)
    };
    let here = hops.into_iter().filter(|(key, total, _)| is_here(key, total));
    here.map(|(key, total, _)| (key, total)).collect()
}

/// What each CPU counted of the device that was met last, by whoever met it last first: an index is given again, and a CPU
/// that has not met the new device still has the counts of the one that is gone.
fn of_one_device<V>(mut values: Vec<V>, of: impl Fn(&V) -> (u64, Met, [u8; 16])) -> Vec<V> {
    values.retain(|value| of(value).0 > 0);
    values.sort_by_key(|value| Reverse(of(value).1.looked));
    if let Some((_, newest, name)) = values.first().map(&of) {
        values.retain(|value| (of(value).1.address, of(value).2) == (newest.address, name));
    }
    values
}

fn device(device: &hops::Device) -> Device {
    let mtu = events::known(device.mtu).filter(|mtu| *mtu > 0);
    Device { name: text(&device.name), kind: text(&device.kind), mtu }
}

fn read(files: &HostFiles, path: &str) -> Option<String> {
    files.read(path).ok().map(|content| String::from_utf8_lossy(&content.bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use bytemuck::Zeroable;

    use super::*;

    fn ip(address: Address) -> IpAddr {
        Ipv6Addr::from(address).to_canonical()
    }

    #[test]
    fn counts_of_a_device_that_is_gone_are_not_the_new_ones() {
        let cpu = |packets: u64, address: u64, looked: u64| (packets, Met { address, looked }, [7; 16]);
        let counted = |cpus: &[(u64, Met, [u8; 16])]| {
            of_one_device(cpus.to_vec(), |cpu| *cpu).iter().map(|cpu| cpu.0).collect::<Vec<u64>>()
        };
        let none: Vec<u64> = Vec::new();
        assert_eq!(counted(&[cpu(9, 1, 10), cpu(0, 0, 0), cpu(7, 1, 20)]), [7, 9]);
        assert_eq!(counted(&[cpu(9, 1, 10), cpu(2, 5, 30), cpu(7, 1, 20)]), [2]);
        assert_eq!(counted(&[cpu(0, 0, 0)]), none);
        let renamed = (5, Met { address: 1, looked: 40 }, [8; 16]);
        assert_eq!(counted(&[cpu(9, 1, 10), renamed]), [5], "in the same place of memory");
    }

    fn sum(device: u64, tick: u64, packets: u64) -> Sum {
        let passed = Passed { packets, bytes: packets * 100, ..Passed::NOTHING };
        Sum { key: key(2), device, tick, passed, ..Sum::zeroed() }
    }

    fn key(ifindex: u32) -> HopKey {
        HopKey { container: 2, netns: 1, ifindex, direction: hops::XMIT, flow: hops::OUT, protocol: 0, through: 2 }
    }

    #[test]
    fn what_a_cpu_has_not_added_yet_counts() {
        let counted = |packets: u64, address: u64| Hop {
            passed: Passed { packets, ..Passed::NOTHING },
            met: Met { address, looked: 9 },
            ..Hop::zeroed()
        };
        let now = vec![vec![sum(0xa, 7, 3), sum(0xa, 7, 4)], vec![sum(0xb, 7, 50), sum(0, 0, 0)]];
        let sums = Sums::of(&now, &now);
        assert!(sums.moved.is_empty());
        let all = hops(vec![(key(2), vec![counted(10, 0xa), counted(20, 0xa)])], &sums);
        assert_eq!((all[&key(2)].packets, all[&key(2)].bytes), (37, 700), "another device's are not its own");
        let none = hops(vec![(key(3), vec![counted(10, 0xa)])], &sums);
        assert_eq!(none[&key(3)].packets, 10);
    }

    #[test]
    fn what_was_added_meanwhile_is_not_taken_back() {
        let moved = |now: Sum| !Sums::of(&[vec![sum(0xa, 7, 3)]], &[vec![now]]).moved.is_empty();
        assert!(!moved(sum(0xa, 7, 5)), "it grew");
        assert!(moved(sum(0xa, 8, 0)) && moved(sum(0xc, 7, 1)));
        assert!(Sums::of(&[vec![sum(0xa, 7, 0)]], &[vec![sum(0xa, 8, 0)]]).moved.is_empty(), "there was nothing");
        let total = |packets: u64, name: &str| HopTotal {
            packets,
            segments: packets,
            device: Device { name: name.to_owned(), ..Device::default() },
            ..HopTotal::default()
        };
        let less = |packets: u64, name: &str| {
            let mut now = total(packets, name);
            no_less(&mut now, &total(9, "eth0"));
            (now.packets, now.segments)
        };
        assert_eq!((less(7, "eth0"), less(10, "eth0"), less(7, "eth1")), ((9, 9), (10, 10), (7, 7)));
    }

    #[test]
    fn hops_of_a_device_that_is_gone_are_left_out() {
        let hop = |direction: u32, ifindex: u32, name: &str, looked: u64| {
            let key = HopKey { container: 2, netns: 1, ifindex, direction, flow: hops::OUT, protocol: 0, through: 2 };
            let device = Device { name: name.to_owned(), ..Device::default() };
            (key, HopTotal { device, ..HopTotal::default() }, looked)
        };
        let here = without_replaced(vec![hop(0, 5, "up0", 10), hop(1, 5, "up9", 20), hop(0, 6, "br0", 1)]);
        let names: Vec<&str> = here.values().map(|total| total.device.name.as_str()).collect();
        assert_eq!(names, ["up9", "br0"]);
    }

    #[test]
    fn a_namespace_of_that_number_is_another_one() {
        let mut residents = Residents::default();
        let mut look = |at_ns: u64, pids: &[u32], started: &[(u32, Option<u64>)]| {
            let all: BTreeMap<u32, Option<u64>> = started.iter().copied().collect();
            let renewed = residents.renewed(at_ns, [(7, pids.iter().copied().collect())].into(), |pid| all[&pid]);
            renewed.contains(&7)
        };
        assert!(!look(100, &[1], &[(1, Some(50))]), "nobody was there before");
        assert!(!look(200, &[1, 2], &[(1, Some(50)), (2, Some(150))]), "one of them was");
        assert!(!look(250, &[2], &[(2, Some(205))]), "one that was there; its start is rounded up");
        assert!(!look(300, &[3], &[(3, Some(190))]), "it was there, behind the first one");
        assert!(look(400, &[4, 5], &[(4, Some(301)), (5, Some(350))]));
        assert!(!look(500, &[6, 8], &[(6, Some(390)), (8, Some(450))]), "one of them is older");
        assert!(!look(600, &[9], &[(9, None)]), "it ended meanwhile");
    }

    #[test]
    fn own_addresses() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 10.0.0.0/24 2 0 2\n\
            \x20       |-- 10.0.0.2\n           /32 host LOCAL\n        |-- 10.0.0.255\n           /32 link BROADCAST\n\
            \x20    |-- 127.0.0.1\n           /32 host LOCAL\n";
        let found: Vec<IpAddr> = local_v4(trie).into_iter().map(ip).collect();
        assert_eq!(found, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        let table = "fd000000000000000000000000000002 02 40 00 80     eth0\n\
            fe80000000000000042f5cfffe1d4b2a 02 40 20 80     eth0\n00000000000000000000000000000001 01 80 10 80       lo\n";
        let found: Vec<IpAddr> = local_v6(table).into_iter().map(ip).collect();
        assert_eq!(found, ["fd00::2".parse::<IpAddr>().unwrap()]);
    }
}
