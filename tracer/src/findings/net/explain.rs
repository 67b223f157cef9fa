//! The long text behind each code of the net lens.

use crate::{
    findings::Explained,
    model::{
        Code,
        Severity::{Info, Warning},
    },
};

pub const EXPLAINED: &[Explained] = &[Explained {
    code: Code("net.dropped"),
    severity: Warning,
    lens: "net",
    title: "packets of the container stop at one hop",
    text: "\
A packet of a container goes from its own device through the veth pair to the host's end, the bridge, the host's netfilter and
routing, and out by the uplink. Where the kernel throws one away it says so in the tracepoint kfree_skb, with the place in its
code and, since 5.17, with the reason. It fires at 3 packets within 5 s at one hop, for one reason, on one device.

`hop` is where: the container device, the host veth, the bridge, netfilter, routing, or the uplink. `reason` is the kernel's own
name (enum skb_drop_reason of its BTF), `location` the function. A packet is the container's when it is on a device of its network
namespace; when the container sent it and it is still the same buffer, across veth, bridge and NAT; or when one of its addresses
is the container's. Where several containers share a namespace (a pod), one is named and the others are in `shared_with`.

Not counted, because nothing is lost: what nobody listens for (NO_SOCKET: the sender is told, and `refused` in the samples
counts it), what TCP mends by itself (duplicates, old data, resets), packets for others that a bridge floods, groups that nobody
joined, copies for sniffers. A drop without a particular reason counts only where the function tells what it was. Kernels before
5.17 give no reasons: a full queue is not told there.

What to do stands beside each finding: the command that shows the rule, the route, the queue or the device that stops them.",
}, Explained {
    code: Code("net.hop-latency"),
    severity: Info,
    lens: "net",
    title: "the way from the container's device to the uplink takes long",
    text: "\
A packet that a container sends is stamped at its own device, and the time since then is taken at every device that it passes: the
other end of the pair, the bridge, the uplink. Where there are many, some are: of those that a CPU sends by one device within a tick
(1 to 10 ms) the first 32, and each 17th of the rest. It fires when the mean of 20 or more of them in 5 s is 0.1 ms or more at the
uplink: the pair, the bridge and the rules between take some microseconds, all in one softirq, so what takes longer has waited.

`hops` has the mean at each device and how many were timed (`packets`), `took_ns` of it the time since the one before; `hop` and `device` are where most of it went. At
a device that sends, packets wait in its queue (qdisc); at one that receives, in the queue of a CPU that has no time (softirq).

What to do: tc -s qdisc shows the queue and its limit; mpstat -P ALL shows the CPU. Where the pair and the bridge themselves are too
dear, macvlan or ipvlan leave them out, but pass none of the host's iptables or nftables rules, which Kubernetes services need.",
}];
