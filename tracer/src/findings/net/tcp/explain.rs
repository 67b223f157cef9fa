//! The long text behind the codes about TCP.

use crate::{
    findings::Explained,
    model::{Code, Severity::Warning},
};

pub const EXPLAINED: &[Explained] = &[
    Explained {
        code: Code("net.retransmits"),
        severity: Warning,
        lens: "net",
        title: "TCP sends much again: packets are lost",
        text: "\
TCP sends a segment again when three later ones were acknowledged without it (`fast`), when nothing came for 200 ms or more
(`timeouts`), or once, to find out whether the last one arrived (`probes`). Each costs a round trip or more, and makes the
sender slower: at 1 % loss a connection moves some twelve segments a round trip, however fast the link.

It fires at 10 retransmissions within 2 s that are 1 % or more of the segments of the connections that had any, or at three
timeouts in a row without an answer. Where net.reordering holds, what the receiver reports as needless (DSACK) is left out, and
there must be 10 that it has not reported among those of the last 5 s but the newest, of which it may say so yet. A
retransmission is counted at the sender (tracepoint tcp_retransmit_skb), so what others send to the container and lose on the way
is theirs to see. On cgroup v2 it is told by the socket's cgroup whose it is, else by its network namespace; where containers
share that, the others are in `shared_with`.

What to do: `ctrace net` names the hop where this host drops packets; if none does, the path beyond it does. Fewer than ten are
no finding: TCP finds out how fast a path is by losing some.",
    },
    Explained {
        code: Code("net.reordering"),
        severity: Warning,
        lens: "net",
        title: "packets overtake each other, and TCP takes that for loss",
        text: "\
Where the packets of one connection are handled by several CPUs, as a veth pair does without RPS, or take several paths, later
ones overtake earlier ones. The receiver acknowledges out of order, and the sender sends again what was on its way (`fast`). Then
the receiver reports that it came twice (DSACK: `dsacks`), and the sender that its order was lost (`reorderings`,
`reordering_degree`: how late a segment may be before it counts as lost).

It fires at 5 fast retransmissions within 2 s if half or more of the segments sent again were needless: `needless` are DSACKs without those that
answer probes and timeouts. `rps_cpus` is the mask of the host's end of the container's pair; all zeros: off.

What to do: RPS keeps each connection on one CPU. The command to do so at that pair is in the finding; it holds until the pair is
made anew.",
    },
    Explained {
        code: Code("net.refused"),
        severity: Warning,
        lens: "net",
        title: "connections or calls of the container come to nothing",
        text: "\
`reason` says why, `peers` to whom, most first, `count` how often within `window_ns`:

refused          the peer answered with a reset: nothing listens there, or a firewall rejects
timed-out        no answer to the SYN. Told from the second repetition on (3 s), or when the program gives up before; the kernel
                 gives up after two minutes. `syns_resent`: repetitions; `waiting`: attempts that go on now
dns-timeout      no answer to a query over UDP within 5 s, as long as resolvers wait; any answer is one, NXDOMAIN too. `queries`
                 and `answers` came within the window. Seen at the container's device: Docker's own resolver (127.0.0.11) is
                 not; what that asks in turn from the container's network is
no-route         no route here, no ARP answer, or an ICMP error from a router or a REJECT rule
port-in-use      bind() or listen(): another socket has the port
no-local-port    connect(): every local port towards that address is in use
no-such-address  bind(): the address is not of this network namespace
accept-queue-full  listen()'s backlog is full, connections are dropped (ListenOverflows): which `port`, how many wait
syn-queue-full   too many handshakes are open (TCPReqQFullDrop), and SYN cookies are off
conntrack-full   the table of connections is full, packets of new ones are dropped; also said of the host

Ends of connections are seen in the kernel (tracepoint inet_sock_set_state), calls by what they return, the three queues
by counters of the container's network namespace, once a second. DNS is seen in the packets of the container's device (port 53). A refusal by IPv6 for want of a route is no finding: programs
try that first where there is none.",
    },
];
