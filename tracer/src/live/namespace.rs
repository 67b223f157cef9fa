//! ctrace may run in a container itself, with the host's pid namespace. What /proc says of cgroups is relative to the
//! reader's cgroup namespace: so ctrace takes the host's, once, before it reads anything.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
};

/// Enters the host's cgroup namespace where this process is in another one; the descriptor is closed at once. Gives what
/// could not be had, as sentences for a person.
pub fn become_the_hosts() -> Vec<String> {
    let mut doubts = Vec::new();
    if let Some(host) = other("cgroup")
        && let Err(error) = File::open(host)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
            .and_then(|namespace| setns(namespace, CloneFlags::CLONE_NEWCGROUP))
    {
        doubts.push(format!(
            "ctrace is in a cgroup namespace of its own and may not leave it ({}): containers of processes may not be told; \
             run it with --cgroupns=host, or with CAP_SYS_ADMIN",
            error.desc()
        ));
    }
    if other("mnt").is_some() && fs::metadata("/proc/1/root/").is_err() {
        doubts.push(
            "ctrace is in a mount namespace of its own and may not look at the host's files through /proc/1/root: names of \
             containers may be missing; run it with --pid=host and CAP_SYS_PTRACE"
                .to_owned(),
        );
    }
    doubts
}

/// The host's namespace of that kind, if it is known and not this process's.
fn other(kind: &str) -> Option<PathBuf> {
    let own = fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
    // PID 1 may have a capability that this process lacks, and not be looked at; the kernel's own threads may.
    [1, 2].into_iter().find_map(|pid| {
        let path = PathBuf::from(format!("/proc/{pid}/ns/{kind}"));
        let kernel = pid == 1 || fs::read_to_string("/proc/2/comm").is_ok_and(|comm| comm.trim_end() == "kthreadd");
        let link = fs::read_link(&path).ok().filter(|_| kernel)?;
        Some((link != own).then_some(path))
    })?
}
