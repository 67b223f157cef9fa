//! What the net lens reads of TCP: the kernel side's sums, and what network namespaces have no room for.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use tracer_common::tcp::{Flow, FlowKey, Refusal, RefusalKey, Waiter};

use super::dns;
use crate::{
    containers::{Files, HostFiles},
    events,
    findings::net::tcp::{FlowTotal, Queues, Reading, RefusalTotal, Rps},
    kernel::{host, load::Kernel},
    lenses::net::{FLOWS, REFUSALS, WAITERS},
};

/// What was read before.
#[derive(Debug, Default)]
pub struct Reader {
    /// Overflows of each namespace: who is to blame is looked for where there are more.
    overflows: BTreeMap<u32, u64>,
    /// Namespaces whose pair was looked for.
    pairs: BTreeMap<u32, Option<String>>,
    dns: dns::Reader,
}

impl Reader {
    /// `inhabitants`: a process in each network namespace, the host's too.
    pub fn read(
        &mut self,
        inhabitants: &BTreeMap<u32, u32>,
        files: &HostFiles,
        kernel: &mut Kernel,
    ) -> Result<Reading> {
        let flows = flows(kernel)?;
        let refusals = refusals(kernel)?;
        let queues = inhabitants.iter().map(|(netns, pid)| (*netns, self.queues(*netns, *pid, files))).collect();
        let disordered: BTreeSet<u32> =
            flows.iter().filter(|(_, flow)| flow.dsacks > 0).map(|(key, _)| key.netns).collect();
        let rps = disordered.into_iter().filter_map(|netns| {
            let pid = inhabitants.get(&netns)?;
            let device = self.pair(netns, *pid, files)?;
            let cpus = files.text(&format!("{DEVICES}/{device}/queues/rx-0/rps_cpus"))?.trim().to_owned();
            Some((netns, Rps { device, cpus }))
        });
        let rps = rps.collect();
        self.overflows.retain(|netns, _| inhabitants.contains_key(netns));
        self.pairs.retain(|netns, _| inhabitants.contains_key(netns));
        Ok(Reading { flows, refusals, waiting: attempts(kernel)?, dns: self.dns.read(kernel)?, queues, rps })
    }

    /// The host's end of its pair, which may be another one by now.
    fn pair(&mut self, netns: u32, pid: u32, files: &HostFiles) -> Option<String> {
        let known = self.pairs.entry(netns).or_default();
        let own = own_devices(files, pid)?;
        if !known.as_ref().is_some_and(|device| is_other_end(files, device, &own)) {
            *known = pair(files, &own);
        }
        known.clone()
    }

    fn queues(&mut self, netns: u32, pid: u32, files: &HostFiles) -> Queues {
        let of = |file: &str| files.text(&format!("/proc/{pid}/net/{file}"));
        let netstat = of("netstat").unwrap_or_default();
        let accept_overflows = netstat_count(&netstat, "ListenOverflows");
        let before = self.overflows.insert(netns, accept_overflows.unwrap_or(0));
        let grew = before.is_some_and(|before| accept_overflows.is_some_and(|now| now > before));
        let listeners = if grew {
            let tables = [of("tcp"), of("tcp6")];
            tables.iter().flatten().flat_map(|table| waiting(table)).collect()
        } else {
            Vec::new()
        };
        let (entries, drops) = of("stat/nf_conntrack").and_then(|table| conntrack(&table)).unzip();
        let max = drops.filter(|drops| *drops > 0).and_then(|_| files.text(CONNTRACK_MAX)?.trim().parse().ok());
        Queues {
            accept_overflows,
            syn_drops: netstat_count(&netstat, "TCPReqQFullDrop"),
            syn_cookies: netstat_count(&netstat, "TCPReqQFullDoCookies"),
            conntrack_drops: drops,
            conntrack_entries: entries,
            conntrack_max: max,
            listeners,
        }
    }
}

const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const DEVICES: &str = "/sys/devices/virtual/net";

fn flows(kernel: &Kernel) -> Result<Vec<(FlowKey, FlowTotal)>> {
    let total = |flow: Flow| {
        let since = |now: u32, before: u32| {
            u64::from(events::known(now).unwrap_or(0)).saturating_sub(u64::from(events::known(before).unwrap_or(0)))
        };
        let known = |number: u32| u64::from(events::known(number).unwrap_or(0));
        FlowTotal {
            fast: flow.fast.into(),
            timeouts: flow.timeout.into(),
            probes: flow.probe.into(),
            sent: known(flow.sent),
            resent: since(flow.resent, flow.resent_before),
            dsacks: since(flow.dsacks, flow.dsacks_before),
            reorderings: since(flow.reorderings, flow.reorderings_before),
            degree: known(flow.degree),
            unanswered: flow.unanswered.into(),
            rtt_ns: u64::from(flow.rtt_us) * 1000,
        }
    };
    let found: BTreeMap<FlowKey, Flow> = kernel.entries("FLOWS", FLOWS as usize)?.into_iter().collect();
    Ok(found.into_iter().map(|(key, flow)| (key, total(flow))).collect())
}

fn refusals(kernel: &Kernel) -> Result<Vec<(RefusalKey, RefusalTotal)>> {
    let mut totals = BTreeMap::new();
    for (key, values) in kernel.entries_per_cpu::<RefusalKey, Refusal>("NET_REFUSALS", REFUSALS as usize)? {
        let count = values.iter().map(|refusal| refusal.count).sum();
        let lost = values.iter().map(|refusal| refusal.lost).sum();
        let who = values.iter().find(|refusal| refusal.who.tgid != 0).map(|refusal| events::process(&refusal.who));
        totals.insert(key, RefusalTotal { count, lost, who });
    }
    Ok(totals.into_iter().collect())
}

/// Attempts that go on, by what they are counted as.
fn attempts(kernel: &mut Kernel) -> Result<Vec<(RefusalKey, u64)>> {
    let oldest = host::boottime_ns().saturating_sub(LONGEST_WAIT_NS);
    let found: BTreeMap<u64, Waiter> = kernel.entries("SYN_WAITERS", WAITERS as usize)?.into_iter().collect();
    let mut counts: BTreeMap<RefusalKey, u64> = BTreeMap::new();
    for (sock, waiter) in found {
        if waiter.last_ns > oldest {
            *counts.entry(waiter.key).or_default() += 1;
        } else {
            // Where the kernel side did not see the end of an attempt, that one's next SYN does not come either.
            kernel.remove::<u64, Waiter>("SYN_WAITERS", sock)?;
        }
    }
    Ok(counts.into_iter().collect())
}

/// TCP_RTO_MAX, and a bit: SYNs of one attempt are no further apart.
const LONGEST_WAIT_NS: u64 = 130_000_000_000;

/// From /proc/PID/net/netstat: a line of names, and one of their numbers.
fn netstat_count(netstat: &str, name: &str) -> Option<u64> {
    let mut lines = netstat.lines();
    while let (Some(names), Some(numbers)) = (lines.next(), lines.next()) {
        let mut both = names.split(' ').zip(numbers.split(' '));
        if let Some((_, number)) = both.find(|(found, _)| *found == name) {
            return number.parse().ok();
        }
    }
    None
}

/// Listeners of /proc/PID/net/tcp with connections that wait to be accepted: port, and how many.
fn waiting(table: &str) -> Vec<(u16, u64)> {
    const LISTEN: &str = "0A";
    let row = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (local, _, state, queue) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        let waiting = u64::from_str_radix(queue.split_once(':')?.1, 16).ok()?;
        (state == LISTEN && waiting > 0).then_some((port, waiting))
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// Entries, and packets that had no room, of all CPUs: /proc/PID/net/stat/nf_conntrack.
fn conntrack(table: &str) -> Option<(u64, u64)> {
    let mut lines = table.lines();
    let column = lines.next()?.split_whitespace().position(|name| name == "drop")?;
    let mut sums = (None, 0);
    for line in lines {
        let number = |at: usize| u64::from_str_radix(line.split_whitespace().nth(at)?, 16).ok();
        sums.0 = sums.0.or(number(0)); // of all of them, on each line
        sums.1 += number(column)?;
    }
    Some((sums.0?, sums.1))
}

/// Indices of the devices in the namespace of that process.
fn own_devices(files: &HostFiles, pid: u32) -> Option<BTreeSet<u32>> {
    let multicast = files.text(&format!("/proc/{pid}/net/dev_mcast"))?;
    Some(multicast.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect())
}

fn is_other_end(files: &HostFiles, device: &str, own: &BTreeSet<u32>) -> bool {
    let number = |file: &str| files.text(&format!("{DEVICES}/{device}/{file}"))?.trim().parse::<u32>().ok();
    let (index, other) = (number("ifindex"), number("iflink"));
    index != other && other.is_some_and(|other| own.contains(&other))
}

/// The host's end of a container's pair, where its index leaves no doubt.
fn pair(files: &HostFiles, own: &BTreeSet<u32>) -> Option<String> {
    let devices = files.list(DEVICES).ok()?.items;
    let mut ends = devices.iter().filter(|device| is_other_end(files, &device.name, own));
    let first = ends.next()?.name.clone();
    ends.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_a_namespace() {
        let netstat =
            "TcpExt: SyncookiesSent ListenOverflows TCPReqQFullDrop\nTcpExt: 0 7 3\nIpExt: InNoRoutes\nIpExt: 9\n";
        assert_eq!(netstat_count(netstat, "ListenOverflows"), Some(7));
        assert_eq!(netstat_count(netstat, "InNoRoutes"), Some(9));
        assert_eq!(netstat_count(netstat, "TCPReqQFullDoCookies"), None);
        assert_eq!(netstat_count("", "ListenOverflows"), None);
    }

    #[test]
    fn listeners_that_wait() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000\n\
            \x20  1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n\
            \x20  2: 0100007F:1F92 0100007F:C000 01 00000000:00000009 00:00000000 00000000\n";
        assert_eq!(waiting(table), [(8080, 3)]);
        assert_eq!(waiting("\n\nx"), []);
    }

    #[test]
    fn table_of_connections() {
        let table = "entries  clashres found drop early_drop\n0000000a  00000000 00000001 00000002 00000000\n0000000a  00000000 00000001 00000010 00000000\n";
        assert_eq!(conntrack(table), Some((10, 18)));
        assert_eq!(conntrack("entries  clashres\n"), None);
        assert_eq!(conntrack(""), None);
    }
}
