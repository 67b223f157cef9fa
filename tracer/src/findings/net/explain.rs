//! The long text behind each code of the net lens.

use crate::{
    findings::Explained,
    model::{Code, Severity::Warning},
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
}];
