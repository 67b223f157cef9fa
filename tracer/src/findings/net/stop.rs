//! What a drop means: at which hop the packet stopped and why, or that nothing was lost. Pure, from this kernel's name
//! for the reason, the function that let the packet go, and what its device is to the container.

/// Where on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    ContainerDevice,
    HostVeth,
    Bridge,
    Netfilter,
    Routing,
    Uplink,
}

impl Hop {
    pub fn name(self) -> &'static str {
        match self {
            Self::ContainerDevice => "container device",
            Self::HostVeth => "host veth",
            Self::Bridge => "bridge",
            Self::Netfilter => "netfilter",
            Self::Routing => "routing",
            Self::Uplink => "uplink",
        }
    }
}

/// What kind of fault: what to say of it, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    Firewall,
    BridgePort,
    NoRoute,
    /// The source address has another way back.
    ReversePath,
    /// An address that must not come from there.
    Address,
    TooBig,
    NoNeighbour,
    QueueFull,
    DeviceDown,
    Policer,
    SocketFull,
    BacklogFull,
    Broken,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Stopped(Hop, Cause),
    /// Nothing that somebody waits for was lost.
    Harmless,
    /// Nobody listens there: the sender is told so.
    Refused,
    /// This kernel does not say enough.
    Unclear,
}

/// Reasons (include/net/dropreason-core.h) and what they mean. Names that end with `*` stand for all that begin so.
static REASONS: &[(&str, Verdict)] = {
    use Verdict::{Harmless, Refused, Stopped, Unclear};
    // A hop that the device decides stands here as the container's device: see `at_device`.
    const DEVICE: Hop = Hop::ContainerDevice;
    &[
        ("NOT_SPECIFIED", Unclear),
        // What a socket had not read when it was closed; before 6.7 not specified.
        ("QUEUE_PURGE", Unclear),
        // net/netfilter/core.c nf_hook_slow
        ("NETFILTER_DROP", Stopped(Hop::Netfilter, Cause::Firewall)),
        // net/ipv4/udp.c __udp4_lib_rcv, net/ipv4/tcp_ipv4.c tcp_v4_rcv: answered with an ICMP error or a reset
        ("NO_SOCKET", Refused),
        // net/ipv4/ip_input.c ip_rcv_core: flooded or mirrored to us, and meant for another machine
        ("OTHERHOST", Harmless),
        // net/core/dev.c __netif_receive_skb_core: nobody here speaks that protocol
        ("UNHANDLED_PROTO", Harmless),
        ("IP_NOPROTO", Harmless),
        // net/ipv6: neighbour discovery and its like
        ("IPV6_NDISC*", Harmless),
        ("IPV6DISABLED", Harmless),
        ("UNICAST_IN_L2_MULTICAST", Harmless),
        // net/packet/af_packet.c: a sniffer's copy
        ("PACKET_SOCK_ERROR", Harmless),
        ("PACKET_SOCK*", Harmless),
        ("SOCKET_FILTER", Harmless),
        // net/ipv4/tcp*.c: TCP mends it, or has what was in it already
        ("TCP_CSUM", Stopped(DEVICE, Cause::Broken)),
        ("TCP_*", Harmless),
        ("SOCKET_BACKLOG", Stopped(DEVICE, Cause::SocketFull)),
        ("DUP_FRAG", Harmless),
        // net/core/sock.c __sock_queue_rcv_skb, net/ipv4/udp.c
        ("SOCKET_RCVBUFF", Stopped(DEVICE, Cause::SocketFull)),
        ("PROTO_MEM", Stopped(DEVICE, Cause::SocketFull)),
        // net/ipv4/route.c, net/ipv4/ip_output.c
        ("IP_OUTNOROUTES", Stopped(Hop::Routing, Cause::NoRoute)),
        ("IP_INNOROUTES", Stopped(Hop::Routing, Cause::NoRoute)),
        ("IP_INADDRERRORS", Stopped(Hop::Routing, Cause::NoRoute)),
        ("IP_RPFILTER", Stopped(Hop::Routing, Cause::ReversePath)),
        ("IP_INVALID_SOURCE", Stopped(Hop::Routing, Cause::Address)),
        ("IP_INVALID_DEST", Stopped(Hop::Routing, Cause::Address)),
        ("IP_LOCALNET", Stopped(Hop::Routing, Cause::Address)),
        ("IP_LOCAL_SOURCE", Stopped(Hop::Routing, Cause::Address)),
        ("PKT_TOO_BIG", Stopped(Hop::Routing, Cause::TooBig)),
        // net/core/neighbour.c, net/ipv4/arp.c
        ("NEIGH_QUEUEFULL", Stopped(DEVICE, Cause::QueueFull)),
        ("NEIGH_*", Stopped(DEVICE, Cause::NoNeighbour)),
        // net/sched
        ("QDISC_*", Stopped(DEVICE, Cause::QueueFull)),
        ("FQ_*", Stopped(DEVICE, Cause::QueueFull)),
        ("CAKE_*", Stopped(DEVICE, Cause::QueueFull)),
        ("TC_*", Stopped(DEVICE, Cause::Policer)),
        ("XDP", Stopped(DEVICE, Cause::Policer)),
        ("BPF_CGROUP_EGRESS", Stopped(DEVICE, Cause::Policer)),
        // drivers, net/core/dev.c
        ("DEV_READY", Stopped(DEVICE, Cause::DeviceDown)),
        ("FULL_RING", Stopped(DEVICE, Cause::QueueFull)),
        ("CPU_BACKLOG", Stopped(DEVICE, Cause::BacklogFull)),
        // net/bridge
        ("BRIDGE_*", Stopped(Hop::Bridge, Cause::BridgePort)),
        ("NO_TX_TARGET", Stopped(Hop::Bridge, Cause::BridgePort)),
        ("IP_CSUM", Stopped(DEVICE, Cause::Broken)),
        ("UDP_CSUM", Stopped(DEVICE, Cause::Broken)),
        ("ICMP_CSUM", Stopped(DEVICE, Cause::Broken)),
        ("SKB_CSUM", Stopped(DEVICE, Cause::Broken)),
    ]
};

/// Functions, for kernels before 5.17 and for drops without a particular reason.
static FUNCTIONS: &[(&str, Verdict)] = {
    use Verdict::{Harmless, Refused, Stopped};
    const DEVICE: Hop = Hop::ContainerDevice;
    &[
        ("nf_hook_slow*", Stopped(Hop::Netfilter, Cause::Firewall)),
        ("nft_do_chain*", Stopped(Hop::Netfilter, Cause::Firewall)),
        ("ipt_do_table", Stopped(Hop::Netfilter, Cause::Firewall)),
        ("ip6t_do_table", Stopped(Hop::Netfilter, Cause::Firewall)),
        ("br_*", Stopped(Hop::Bridge, Cause::BridgePort)),
        ("__br_*", Stopped(Hop::Bridge, Cause::BridgePort)),
        // With no reason in the record, the route, rp_filter and martians all end here: the route is the likeliest.
        ("ip_rcv_finish*", Stopped(Hop::Routing, Cause::NoRoute)),
        ("ip_route_input*", Stopped(Hop::Routing, Cause::NoRoute)),
        ("ip_error", Stopped(Hop::Routing, Cause::NoRoute)),
        ("ip6_pkt_drop", Stopped(Hop::Routing, Cause::NoRoute)),
        ("ip_forward", Stopped(Hop::Routing, Cause::TooBig)),
        ("ip6_forward", Stopped(Hop::Routing, Cause::TooBig)),
        ("ip_fragment*", Stopped(Hop::Routing, Cause::TooBig)),
        ("__dev_forward_skb*", Stopped(DEVICE, Cause::TooBig)),
        ("____dev_forward_skb*", Stopped(DEVICE, Cause::TooBig)),
        ("veth_xmit", Stopped(DEVICE, Cause::DeviceDown)),
        ("arp_error_report", Stopped(DEVICE, Cause::NoNeighbour)),
        ("ndisc_error_report", Stopped(DEVICE, Cause::NoNeighbour)),
        ("__neigh_event_send", Stopped(DEVICE, Cause::NoNeighbour)),
        ("neigh_*", Stopped(DEVICE, Cause::NoNeighbour)),
        ("__dev_queue_xmit", Stopped(DEVICE, Cause::QueueFull)),
        ("enqueue_to_backlog", Stopped(DEVICE, Cause::BacklogFull)),
        ("udp_queue_rcv*", Stopped(DEVICE, Cause::SocketFull)),
        ("__udp4_lib_rcv", Refused),
        ("__udp6_lib_rcv", Refused),
        ("tcp_v4_rcv", Harmless),
        ("tcp_v6_rcv", Harmless),
    ]
};

fn find(table: &[(&str, Verdict)], name: &str) -> Option<Verdict> {
    let fits = |known: &str| known.strip_suffix('*').map_or(known == name, |begin| name.starts_with(begin));
    table.iter().find(|(known, _)| fits(known)).map(|(_, verdict)| *verdict)
}

/// `role`: what the device is to the container, where it has one.
pub fn judge(reason: Option<&str>, function: Option<&str>, role: Option<Hop>) -> Verdict {
    let by_reason = reason.map(|reason| find(REASONS, reason).unwrap_or(Verdict::Stopped(DEVICE, Cause::Other)));
    let verdict = match by_reason {
        Some(Verdict::Unclear) | None => {
            // `nft_do_chain [nf_tables]`
            let function = function.and_then(|function| function.split(' ').next()).unwrap_or_default();
            find(FUNCTIONS, function).unwrap_or(Verdict::Unclear)
        }
        Some(verdict) => verdict,
    };
    match verdict {
        Verdict::Stopped(DEVICE, cause) => Verdict::Stopped(role.unwrap_or(DEVICE), cause),
        verdict => verdict,
    }
}

/// Where the device decides the hop.
const DEVICE: Hop = Hop::ContainerDevice;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_first_then_functions() {
        let stopped = |reason, function, role| judge(Some(reason), Some(function), role);
        assert_eq!(
            stopped("NETFILTER_DROP", "nf_hook_slow", Some(Hop::Bridge)),
            Verdict::Stopped(Hop::Netfilter, Cause::Firewall)
        );
        assert_eq!(
            stopped("QDISC_DROP", "kfree_skb_list_reason", Some(Hop::Uplink)),
            Verdict::Stopped(Hop::Uplink, Cause::QueueFull)
        );
        assert_eq!(stopped("NO_SOCKET", "__udp4_lib_rcv", None), Verdict::Refused);
        assert_eq!(stopped("TCP_OLD_DATA", "tcp_data_queue", None), Verdict::Harmless);
        assert_eq!(
            stopped("TCP_CSUM", "tcp_v4_rcv", None),
            Verdict::Stopped(Hop::ContainerDevice, Cause::Broken),
            "the particular before the general"
        );
        assert_eq!(
            stopped("NOT_SPECIFIED", "br_handle_frame", Some(Hop::HostVeth)),
            Verdict::Stopped(Hop::Bridge, Cause::BridgePort)
        );
        assert_eq!(stopped("NOT_SPECIFIED", "skb_queue_purge", Some(Hop::HostVeth)), Verdict::Unclear);
        assert_eq!(
            judge(None, Some("nft_do_chain_ipv4 [nf_tables]"), None),
            Verdict::Stopped(Hop::Netfilter, Cause::Firewall)
        );
        assert_eq!(judge(None, None, Some(Hop::Uplink)), Verdict::Unclear, "nothing is known");
        assert_eq!(
            judge(Some("NEW_IN_9_9"), None, Some(Hop::Uplink)),
            Verdict::Stopped(Hop::Uplink, Cause::Other),
            "a reason that says something, though not to us"
        );
    }
}
