//! How a container is on the network, as far as files tell: nothing is entered, no netlink is asked.

use std::collections::HashMap;

use super::{
    super::{Facts, Files, Table},
    process::{Namespaces, Process, init, oldest, start_ticks},
};
use crate::model::Container;

pub struct Modes {
    /// The containers in each network namespace, by its link.
    shared: HashMap<String, Vec<Sharer>>,
    /// The host's ends of pairs: the index of the other end, and whether this one hangs on a bridge.
    pairs: Vec<(u32, bool)>,
}

struct Sharer {
    cgroup: String,
    label: String,
    sandbox: bool,
    /// Of its main process.
    start: Option<u64>,
}

pub struct Seen {
    pub mode: Result<String, String>,
    pub devices: Option<Vec<String>>,
}

impl Modes {
    pub fn survey(files: &dyn Files, processes: &HashMap<String, Vec<Process>>, table: &Table) -> Self {
        let mut shared: HashMap<String, Vec<Sharer>> = HashMap::new();
        for entry in table.containers() {
            let Some(processes) = processes.get(&entry.container.cgroup) else { continue };
            let main = init(processes).or_else(|| oldest(processes));
            let Some(main) = main else { continue };
            if let Some(link) = Namespaces::of(files, main.pid).net {
                shared.entry(link).or_default().push(Sharer {
                    cgroup: entry.container.cgroup.clone(),
                    label: entry.container.label(),
                    sandbox: entry.facts.is_some_and(|facts| facts.sandbox),
                    start: start_ticks(files, main.pid),
                });
            }
        }
        Self { shared, pairs: pairs(files) }
    }

    pub fn of(&self, files: &dyn Files, host: &Namespaces, pid: u32, container: &Container, facts: &Facts) -> Seen {
        let unreadable = || format!("/proc/{pid}/ns/net may not be read (run as root)");
        let Some(own) = Namespaces::of(files, pid).net else {
            return Seen { mode: Err(unreadable()), devices: None };
        };
        if host.net.as_ref() == Some(&own) {
            return Seen { mode: Ok("host".to_owned()), devices: None };
        }
        let Some(indexed) = files.text(&format!("/proc/{pid}/net/dev")).map(|dev| devices(&dev)) else {
            return Seen { mode: Err(unreadable()), devices: None };
        };
        let names: Vec<String> = indexed.into_iter().filter(|name| name != "lo").collect();
        let mode = match Self::stated(files, facts).or_else(|| self.joined(&own, container)) {
            Some(mode) => Ok(mode),
            // Tunnels that the kernel puts into every namespace lead nowhere.
            None if names.iter().all(|name| FALLBACKS.contains(&name.as_str())) => Ok("none".to_owned()),
            None => self
                .paired(files, pid)
                .ok_or_else(|| format!("no file tells what kind of device {} is", names.join(", "))),
        };
        Seen { mode, devices: Some(names) }
    }

    /// Docker writes down what was asked for; a network with a name of its own is told by its devices.
    fn stated(files: &dyn Files, facts: &Facts) -> Option<String> {
        let directory = facts.name_source.as_ref()?.strip_suffix("/config.v2.json")?;
        let config: serde_json::Value =
            serde_json::from_slice(&files.read(&format!("{directory}/hostconfig.json")).ok()?.bytes).ok()?;
        match config.get("NetworkMode")?.as_str()? {
            "default" | "bridge" => Some("bridge".to_owned()),
            mode @ ("none" | "host") => Some(mode.to_owned()),
            _ => None,
        }
    }

    /// Another container's namespace: that of the sandbox, if one of those is in it, else of the one that was there first.
    fn joined(&self, own: &str, container: &Container) -> Option<String> {
        let sharers = self.shared.get(own)?;
        let owner = sharers.iter().min_by_key(|one| (!one.sandbox, one.start.unwrap_or(u64::MAX), &one.cgroup))?;
        if owner.cgroup == container.cgroup {
            return None;
        }
        let pod = owner.sandbox && container.pod.is_some();
        Some(if pod { "pod".to_owned() } else { format!("container:{}", owner.label) })
    }

    /// One of its devices is the other end of a pair of the host's.
    fn paired(&self, files: &dyn Files, pid: u32) -> Option<String> {
        let multicast = files.text(&format!("/proc/{pid}/net/dev_mcast")).unwrap_or_default();
        let mut kinds = indexes(&multicast).into_iter().filter_map(|index| {
            let mut ends = self.pairs.iter().filter(|(other, _)| *other == index);
            let (first, second) = (ends.next()?, ends.next());
            // Indexes repeat from one namespace to the next: where two pairs fit, both must say the same.
            second.is_none_or(|second| second.1 == first.1).then_some(first.1)
        });
        kinds.next().map(|bridged| if bridged { "bridge" } else { "veth" }.to_owned())
    }
}

/// Made in each namespace by a module that is loaded.
pub const FALLBACKS: [&str; 10] =
    ["lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"];

/// From the text of `/proc/PID/net/dev`.
fn devices(dev: &str) -> Vec<String> {
    dev.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect()
}

/// From the text of `/proc/PID/net/dev_mcast`: index, name, …
fn indexes(multicast: &str) -> Vec<u32> {
    let mut found: Vec<u32> = multicast
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .filter(|&index| index != 1)
        .collect();
    found.dedup();
    found
}

fn pairs(files: &dyn Files) -> Vec<(u32, bool)> {
    let devices = files.list(DEVICES).map(|listing| listing.items).unwrap_or_default();
    let pair = |name: &str| {
        let number = |file: &str| files.text(&format!("{DEVICES}/{name}/{file}"))?.trim().parse::<u32>().ok();
        let (own, other) = (number("ifindex")?, number("iflink")?);
        (own != other).then(|| (other, files.link(&format!("{DEVICES}/{name}/master")).is_ok()))
    };
    devices.iter().filter_map(|device| pair(&device.name)).collect()
}

const DEVICES: &str = "/sys/devices/virtual/net";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_proc() {
        let dev = "Inter-|   Receive\n face |bytes\n    lo:       0       0\n  eth0: 1 2 3\n";
        assert_eq!(devices(dev), ["lo", "eth0"]);
        assert_eq!(devices(""), Vec::<String>::new());
        let multicast = "1    lo              1     0     01005e000001\n7    eth0            1     0     333300000001\n7    eth0            1     0     01005e000001\n";
        assert_eq!(indexes(multicast), [7]);
    }
}
