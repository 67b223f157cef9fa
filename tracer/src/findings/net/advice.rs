//! Why packets stop, in words, and what to look at or to mend.

use super::{Device, Hop, dropped::Place, packet::Packet, stop::Cause};

/// A few words for the summary.
pub fn what(cause: Cause) -> &'static str {
    match cause {
        Cause::Firewall => "a firewall rule drops them",
        Cause::BridgePort => "the bridge does not forward them",
        Cause::NoRoute => "there is no route",
        Cause::ReversePath => "rp_filter refuses their source",
        Cause::Address => "their address may not come from there",
        Cause::TooBig => "they are larger than the next device takes",
        Cause::NoNeighbour => "nobody answers for the next address",
        Cause::QueueFull => "its queue is full",
        Cause::DeviceDown => "it is down, or has no carrier",
        Cause::Policer => "a filter there drops them",
        Cause::SocketFull => "the receiving socket is full",
        Cause::BacklogFull => "the CPU's backlog is full",
        Cause::Broken => "their checksum is wrong",
        Cause::Other => "the kernel drops them",
    }
}

pub fn why(cause: Cause) -> String {
    match cause {
        Cause::Firewall => "a rule or a chain's policy says drop (nobody is told: the sender waits and tries again) or reject (the sender is told)",
        Cause::BridgePort => {
            "the bridge, or its port, is down or blocking, or VLAN and isolation rules let nothing through"
        }
        Cause::NoRoute => "the routing table has no way to that address, or forwarding is off",
        Cause::ReversePath => {
            "rp_filter=1 drops a packet whose source address would be answered through another device than it came in by"
        }
        Cause::Address => {
            "an address that cannot be right on that device: 127.0.0.0/8 or one of this host's own from outside"
        }
        Cause::TooBig => {
            "the packet may not be cut in pieces (DF), and a device on the way has a smaller MTU: an ICMP answer says so, which firewalls often drop"
        }
        Cause::NoNeighbour => {
            "ARP (or neighbour discovery) asked three times who has the address, and nobody answered: after that the waiting packets are dropped"
        }
        Cause::QueueFull => "packets come faster than the device, or the limit set on it, lets them go",
        Cause::DeviceDown => "the device or its other end is down: its queue throws away all that comes",
        Cause::Policer => "a tc filter, an XDP or a cgroup program drops them",
        Cause::SocketFull => "the application reads more slowly than packets come, and its receive buffer is full",
        Cause::BacklogFull => "more packets came to one CPU than it could take: net.core.netdev_max_backlog",
        Cause::Broken => "the checksum does not fit the content: a broken offload, or a broken wire",
        Cause::Other => "the kernel's own name for it is the reason",
    }
    .to_owned()
}

pub fn fix(place: &Place, device: Option<&str>, packet: Option<&Packet>, next: &Device) -> Vec<String> {
    // Names come from containers: what is pasted into a shell must be a plain word.
    let plain = |name: &&str| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c));
    let device = device.filter(plain).unwrap_or("DEVICE");
    let inside = place.device.is_none_or(|(netns, _)| netns == place.container);
    let at = if inside { "nsenter -t PID -n " } else { "" };
    let address = packet.map_or_else(|| "ADDRESS".to_owned(), |packet| packet.destination.0.to_string());
    match place.cause {
        Cause::Firewall => vec![
            format!("see which rule counts: {at}nft list ruleset, or {at}iptables -L -v -n (policies of the chains as well)"),
            "let the packets through in that chain; Docker's own place for it is the chain DOCKER-USER".to_owned(),
        ],
        Cause::BridgePort => vec![
            format!("see the bridge and the states of its ports: ip -d link show {device}; bridge link show"),
            "a bridge that is down: ip link set BRIDGE up; a port: ip link set PORT up".to_owned(),
        ],
        Cause::NoRoute => vec![
            format!("see the way: {at}ip route get {address}"),
            "add the missing route, or bring the device up that has it; between devices sysctl net.ipv4.ip_forward must be 1"
                .to_owned(),
        ],
        Cause::ReversePath => {
            let source = packet.map_or_else(|| "SOURCE".to_owned(), |packet| packet.source.0.to_string());
            vec![
                format!("see where its source is answered: {at}ip route get {source}"),
                format!("mend that route, or loosen the check: {at}sysctl -w net.ipv4.conf.{device}.rp_filter=2"),
            ]
        }
        Cause::Address => vec![format!("see the addresses on both sides: {at}ip addr; {at}ip route")],
        Cause::TooBig => {
            let size = packet.filter(|packet| packet.length > 0);
            let size = size.map_or_else(String::new, |packet| format!(" (the first was {} bytes)", packet.length));
            let name = Some(next.name.clone()).filter(|name| !name.is_empty() && plain(&name.as_str()));
            let name = name.unwrap_or_else(|| "the next device".to_owned());
            let next = next.mtu.map_or_else(String::new, |mtu| format!(", of which {name} takes {mtu} bytes"));
            vec![
                format!("compare the MTUs on the way{next}{size}: ip link; give the container's network the smallest of them (Docker: --opt com.docker.network.driver.mtu=N)"),
                "let ICMP 'fragmentation needed' back through the firewall, or clamp TCP: nft … tcp option maxseg size set rt mtu"
                    .to_owned(),
            ]
        }
        Cause::NoNeighbour => vec![
            format!("see who is asked: {at}ip neigh show dev {device}"),
            "is that address in use, and on this network at all? A wrong netmask or gateway asks for what is elsewhere"
                .to_owned(),
        ],
        Cause::QueueFull => vec![
            format!("see the queue and its drops: {at}tc -s qdisc show dev {device}"),
            "send more slowly, or raise the rate or the limit of that queue; a queue `noop` means that the device has no carrier"
                .to_owned(),
        ],
        Cause::DeviceDown => vec![format!("see its state: {at}ip link show {device}; bring both ends up: ip link set {device} up")],
        Cause::Policer => vec![format!("see what filters: tc filter show dev {device} ingress; bpftool net show dev {device}")],
        Cause::SocketFull => vec![
            format!("see the buffers: {at}ss -u -m -a (d counts drops)"),
            "read faster, or allow larger buffers: sysctl net.core.rmem_max and SO_RCVBUF".to_owned(),
        ],
        Cause::BacklogFull => vec!["sysctl -w net.core.netdev_max_backlog=10000, and spread the load: RPS on the device".to_owned()],
        Cause::Broken => vec![format!("see the offloads: ethtool -k {device}; try ethtool -K {device} tx off")],
        Cause::Other if place.hop == Hop::Routing => vec![format!("see the way: {at}ip route get {address}")],
        Cause::Other => vec![format!("see the counters: {at}ip -s -d link show {device}; {at}nstat -az")],
    }
}
