//! The container engines that the kernel tests start, what makes firewall rules, and a terminal to look at, from Debian's
//! packages: brought where they are missing.

use super::List;
use crate::{apt, process};

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
];

/// The CRI crate is made from its protocol's files when it is built.
const CRI: &[(&str, &str)] = &[("containerd", "containerd"), ("dockerd", "docker.io"), ("protoc", "protobuf-compiler")];

/// Where they can't be had, their tests say that they are left out.
pub fn ensure(lists: &[List]) {
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
}
