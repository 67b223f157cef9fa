//! The container engines that the kernel tests start, what makes firewall rules, and a terminal to look at, from Debian's
//! packages: brought where they are missing.

use std::path::PathBuf;

use super::List;
use crate::{apt, process, vm::daemons};

/// (a program of it, the package)
const ENGINES: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("dockerd", "docker.io"),
    ("docker", "docker.io"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("crun", "crun"),
    ("podman", "podman"),
    ("lxc-start", "lxc"),
    ("systemd-nspawn", "systemd-container"),
    ("iptables-legacy", "iptables"),
    ("nft", "nftables"),
    ("tmux", "tmux"),
    // Of the checks of daemons.
    ("curl", "curl"),
    ("pgrep", "procps"),
    // To compare with.
    ("capable", "libbpf-tools"),
    ("fio", "fio"),
    ("mkfs.xfs", "xfsprogs"),
];

/// The CRI crate is made from its protocol's files when it is built.
const CRI: &[(&str, &str)] = &[("containerd", "containerd"), ("dockerd", "docker.io"), ("protoc", "protobuf-compiler")];

/// Where they can't be had, their tests say that they are left out. `filter`: of the tests that are to run.
pub fn ensure(lists: &[List], filter: Option<&str>) -> Option<PathBuf> {
    let wanted = |list: &List| match list {
        List::Full => ENGINES,
        List::Cri => CRI,
        List::Core | List::HostOom | List::Lockdown | List::Systemd => &[],
    };
    let mut missing: Vec<&str> = lists
        .iter()
        .flat_map(wanted)
        .filter(|(program, _)| process::find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if let Err(error) = apt::install(&missing) {
        println!("   some container engines, firewall tools or tmux are missing: {error:#}");
    }
    // Two minutes: not for tests that have nothing to do with it.
    if !lists.contains(&List::Full) || !filter.is_none_or(|filter| DAEMONS.contains(filter) || filter.contains(DAEMONS))
    {
        return None;
    }
    daemons::root().inspect_err(|error| println!("   the daemons' tests are left out: {error:#}")).ok()
}

/// What the names of the tests with daemons begin with.
const DAEMONS: &str = "caps::daemons::";
