//! The processes of this host, as far as a list of containers needs them.

use super::{super::Files, CapabilitySets, Hierarchy};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// One for each pid namespace from the host's down.
    pub ns_pids: Vec<u32>,
    /// The effective one, as the host sees it.
    pub uid: u32,
    /// In the hierarchy that carries the key.
    pub cgroup: String,
    pub capabilities: CapabilitySets,
    pub no_new_privs: Option<bool>,
    pub seccomp: Option<&'static str>,
    /// In ticks since boot; read only where it decides.
    pub start: Option<u64>,
}

/// Links of a process's namespaces: `user:[4026531837]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    pub user: Option<String>,
    pub net: Option<String>,
}

impl Namespaces {
    pub fn of(files: &dyn Files, pid: u32) -> Self {
        let link = |name: &str| files.link(&format!("/proc/{pid}/ns/{name}")).ok();
        Self { user: link("user"), net: link("net") }
    }

    /// The host's: those of PID 1; where that one may not be looked at (it has a capability that this process lacks),
    /// those of the kernel's own threads; else this process's.
    pub fn of_host(files: &dyn Files) -> Self {
        let init = Self::of(files, 1);
        let kernel =
            files.text("/proc/2/comm").filter(|comm| comm.trim_end() == "kthreadd").map(|_| Self::of(files, 2));
        let own = Self { user: files.link("/proc/self/ns/user").ok(), net: files.link("/proc/self/ns/net").ok() };
        let kernel = kernel.unwrap_or_default();
        Self { user: init.user.or(kernel.user).or(own.user), net: init.net.or(kernel.net).or(own.net) }
    }
}

/// All that are there while this looks.
pub fn all(files: &dyn Files, hierarchy: &Hierarchy) -> Vec<Process> {
    let items = files.list("/proc").map(|listing| listing.items).unwrap_or_default();
    items.iter().filter_map(|item| read(files, hierarchy, item.name.parse().ok()?)).collect()
}

pub fn read(files: &dyn Files, hierarchy: &Hierarchy, pid: u32) -> Option<Process> {
    let cgroup = files.text(&format!("/proc/{pid}/cgroup"))?;
    let cgroup = hierarchy.path_of(&cgroup)?.to_owned();
    let status = files.text(&format!("/proc/{pid}/status"))?;
    let mut process = parse(pid, &status)?;
    process.cgroup = cgroup;
    Some(process)
}

fn parse(pid: u32, status: &str) -> Option<Process> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if field("State").is_some_and(|state| state.starts_with('Z')) {
        return None; // it has neither memory nor namespaces any more
    }
    Some(Process {
        pid,
        ns_pids: field("NSpid")
            .map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
            .unwrap_or_default(),
        uid: field("Uid")?.split_whitespace().nth(1)?.parse().ok()?,
        cgroup: String::new(),
        capabilities: CapabilitySets::of_status(status)?,
        no_new_privs: field("NoNewPrivs").map(|value| value == "1"),
        seccomp: match field("Seccomp") {
            Some("0") => Some("disabled"),
            Some("1") => Some("strict"),
            Some("2") => Some("filter"),
            _ => None,
        },
        start: None,
    })
}

/// PID 1 of the outermost pid namespace that these processes have below the host's.
pub fn init(processes: &[Process]) -> Option<&Process> {
    let inits = processes.iter().filter(|process| process.ns_pids.len() > 1 && process.ns_pids.last() == Some(&1));
    inits.min_by_key(|process| (process.ns_pids.len(), process.pid))
}

/// Pids wrap around, and so the start decides.
pub fn oldest(processes: &[Process]) -> Option<&Process> {
    processes.iter().min_by_key(|process| (process.start.unwrap_or(u64::MAX), process.pid))
}

/// In ticks since boot.
pub fn start_ticks(files: &dyn Files, pid: u32) -> Option<u64> {
    let stat = files.text(&format!("/proc/{pid}/stat"))?;
    // The command stands in parentheses and may hold any of these.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tsh\nState:\tS (sleeping)\nUid:\t0\t33\t0\t0\nNSpid:\t700\t1\nCapInh:\t0\nCapPrm:\t1\nCapEff:\t1\nCapBnd:\t3\nCapAmb:\t0\nNoNewPrivs:\t1\nSeccomp:\t2\n";

    #[test]
    fn a_status() {
        let process = parse(700, STATUS).expect("whole");
        assert_eq!((process.uid, process.ns_pids.as_slice()), (33, &[700, 1][..]));
        assert_eq!((process.no_new_privs, process.seccomp), (Some(true), Some("filter")));
        assert_eq!(parse(1, "State:\tZ (zombie)\nUid:\t0 0 0 0"), None);
        assert_eq!(parse(1, ""), None);
    }

    #[test]
    fn who_is_pid_1() {
        let process = |pid, ns_pids: &[u32], start| Process {
            ns_pids: ns_pids.to_vec(),
            start,
            ..parse(pid, STATUS).expect("whole")
        };
        let nested = [process(9, &[9, 4, 1], None), process(12, &[12, 1], None), process(3, &[3], None)];
        assert_eq!(init(&nested).map(|init| init.pid), Some(12));
        let shared = [process(9, &[9], Some(70)), process(12, &[12], Some(50)), process(1, &[1], None)];
        assert_eq!(init(&shared), None, "the host's own PID 1 is nobody's");
        assert_eq!(oldest(&shared).map(|oldest| oldest.pid), Some(12));
    }
}
