//! What to do about what the map shows, in the form to paste. Pure.

use super::{End, Network};

/// Spreads one veth's packets so that each flow stays on one CPU: the command for each of its queues, where it has none
/// set. `cpus`: how many the machine has.
pub fn rps_commands(end: &End, cpus: u64) -> Vec<String> {
    if end.rps_cpus.as_ref().is_some_and(|masks| masks.iter().any(|mask| is_set(mask))) {
        return Vec::new();
    }
    let queues = end.rps_cpus.as_ref().map_or(1, Vec::len); // not known: the first one is always there
    // A name may hold what a shell acts on: a container made it.
    let name = shell_word(&end.name);
    let command = |queue: usize| format!("echo {} > /sys/class/net/{name}/queues/rx-{queue}/rps_cpus", rps_mask(cpus));
    (0..queues).map(command).collect()
}

/// Is any CPU in a mask of `rps_cpus`?
pub fn is_set(mask: &str) -> bool {
    mask.chars().any(|digit| digit.is_ascii_hexdigit() && digit != '0')
}

/// All CPUs, as `rps_cpus` wants it: groups of 32 bits, the highest first.
pub fn rps_mask(cpus: u64) -> String {
    let cpus = cpus.max(1);
    let (full, rest) = (cpus / 32, cpus % 32);
    let mut groups: Vec<String> = Vec::new();
    if rest > 0 {
        groups.push(format!("{:x}", (1_u64 << rest) - 1));
    }
    groups.extend((0..full).map(|_| "ffffffff".to_owned()));
    groups.join(",")
}

/// As one word of a shell.
fn shell_word(text: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_.@:+".contains(char);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// What a container with a pair could have instead, and at which price.
pub const INSTEAD_OF_VETH: &str = "macvlan or ipvlan leave out the pair and the bridge, and cost less; but their packets \
pass none of the host's iptables or nftables rules, which Kubernetes services, network policies and published ports \
need, and a macvlan container cannot talk to its own host";

/// What is to be said of a container on the host's network.
pub fn host_network(network: &Network) -> Option<&'static str> {
    network.host.then_some(
        "it is on the host's network: these interfaces are the host's, with no pair and no bridge between, and its packets \
         are counted and filtered with the host's own",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Unknown, network::Device};

    fn end(name: &str, queues: Option<u32>, rps: Option<&[&str]>) -> End {
        End {
            device: Device { netns: 1, ifindex: 8 },
            name: name.to_owned(),
            host: true,
            mtu: Some(1500),
            up: true,
            lower_up: true,
            rx_queues: queues,
            tx_queues: queues,
            rps_cpus: rps.map(|masks| masks.iter().map(|mask| (*mask).to_owned()).collect()),
            counters: None,
            bridge: None,
            unknown: Unknown::new(),
        }
    }

    #[test]
    fn the_command_for_a_veth() {
        assert_eq!(
            rps_commands(&end("veth1a", Some(1), Some(&["0"])), 4),
            ["echo f > /sys/class/net/veth1a/queues/rx-0/rps_cpus"]
        );
        assert_eq!(rps_commands(&end("v", Some(2), Some(&["00", "00"])), 2).len(), 2, "each queue");
        assert_eq!(rps_commands(&end("v", Some(2), None), 2).len(), 1, "not known: the first");
        assert!(rps_commands(&end("v", Some(1), Some(&["3"])), 4).is_empty(), "it is set");
        assert!(rps_commands(&end("v", Some(2), Some(&["0", "00000001,00000000"])), 4).is_empty());
        assert_eq!(
            rps_commands(&end("a;reboot'", Some(1), None), 1),
            [r"echo 1 > /sys/class/net/'a;reboot'\'''/queues/rx-0/rps_cpus"]
        );
    }

    #[test]
    fn masks() {
        for (cpus, want) in [
            (0, "1"),
            (1, "1"),
            (2, "3"),
            (32, "ffffffff"),
            (33, "1,ffffffff"),
            (64, "ffffffff,ffffffff"),
            (72, "ff,ffffffff,ffffffff"),
        ] {
            assert_eq!(rps_mask(cpus), want, "{cpus}");
        }
    }
}
