//! rtnetlink's answers to values. Attribute by attribute: one that is not understood costs that one alone, and a name
//! may be any bytes (a container makes it).

use std::net::IpAddr;

use netlink_packet_core::{NlaBuffer, NlasIterator, parse_ip, parse_u8, parse_u32};
use netlink_packet_route::{
    address::AddressHeader,
    link::{LinkFlags, LinkHeader},
    route::RouteHeader,
};

use super::{Address, Counters, Link, PortState};

const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const NSID_HEADER: usize = 4;
/// Within IFLA_INFO_SLAVE_DATA of a bridge's port.
const IFLA_BRPORT_STATE: u16 = 1;
/// Within IFLA_INFO_DATA of a macvlan, and of an ipvlan.
const IFLA_MODE: u16 = 1;
const NETNSA_NSID: u16 = 1;

/// The payload of RTM_NEWLINK.
pub fn link(payload: &[u8]) -> Option<Link> {
    let header = LinkHeader::parse(payload).ok()?;
    let mut link = Link {
        ifindex: header.index,
        up: header.flags.contains(LinkFlags::Up),
        lower_up: header.flags.contains(LinkFlags::LowerUp),
        ..Link::default()
    };
    let (mut data, mut slave_data, mut slave_kind) = (None, None, None);
    for attribute in attributes(payload.get(LINK_HEADER..)?) {
        let value = attribute.value();
        match attribute.kind() {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_MTU => link.mtu = parse_u32(value).ok(),
            libc::IFLA_LINK => link.link = parse_u32(value).ok(),
            libc::IFLA_LINK_NETNSID => link.link_netnsid = id(value),
            libc::IFLA_MASTER => link.master = parse_u32(value).ok(),
            libc::IFLA_NUM_RX_QUEUES => link.rx_queues = parse_u32(value).ok(),
            libc::IFLA_NUM_TX_QUEUES => link.tx_queues = parse_u32(value).ok(),
            libc::IFLA_STATS64 => link.counters = counters(value),
            libc::IFLA_LINKINFO => {
                for info in attributes(value) {
                    match info.kind() {
                        libc::IFLA_INFO_KIND => link.kind = Some(text(info.value())),
                        libc::IFLA_INFO_DATA => data = Some(info.value().to_vec()),
                        libc::IFLA_INFO_SLAVE_KIND => slave_kind = Some(text(info.value())),
                        libc::IFLA_INFO_SLAVE_DATA => slave_data = Some(info.value().to_vec()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let number = |data: &[u8], kind: u16| {
        let found = attributes(data).find(|attribute| attribute.kind() == kind)?;
        number(found.value())
    };
    if let Some(data) = data {
        link.mode = number(&data, IFLA_MODE).and_then(|mode| mode_name(link.kind.as_deref()?, mode));
    }
    if slave_kind.as_deref() == Some("bridge") {
        link.port = slave_data.and_then(|data| number(&data, IFLA_BRPORT_STATE)).and_then(port_state);
    }
    Some(link)
}

/// The payload of RTM_NEWADDR: of which interface, and the address.
pub fn address(payload: &[u8]) -> Option<(u32, Address)> {
    let header = AddressHeader::parse(payload).ok()?;
    let mut found = None;
    for attribute in attributes(payload.get(ADDRESS_HEADER..)?) {
        // Where both are there, the other one is the far end of a point-to-point link.
        if attribute.kind() == libc::IFA_LOCAL || (attribute.kind() == libc::IFA_ADDRESS && found.is_none()) {
            found = parse_ip(attribute.value()).ok();
        }
    }
    Some((header.index, Address { ip: found?, prefix: header.prefix_len }))
}

/// The payload of RTM_NEWROUTE, the answer about one destination: by which interface.
pub fn route_device(payload: &[u8]) -> Option<u32> {
    RouteHeader::parse(payload).ok()?;
    attributes(payload.get(ROUTE_HEADER..)?)
        .find(|attribute| attribute.kind() == libc::RTA_OIF)
        .and_then(|attribute| parse_u32(attribute.value()).ok())
}

/// The payload of RTM_NEWNSID: the id that the namespace asked about has here, if it has one.
pub fn namespace_id(payload: &[u8]) -> Option<i32> {
    attributes(payload.get(NSID_HEADER..)?)
        .find(|attribute| attribute.kind() == NETNSA_NSID)
        .and_then(|attribute| id(attribute.value()))
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

fn id(value: &[u8]) -> Option<i32> {
    parse_u32(value).ok().map(u32::cast_signed).filter(|id| *id >= 0)
}

fn number(value: &[u8]) -> Option<u32> {
    parse_u32(value).ok().or_else(|| parse_u8(value).ok().map(u32::from)).or_else(|| {
        let bytes: [u8; 2] = value.try_into().ok()?;
        Some(u32::from(u16::from_ne_bytes(bytes)))
    })
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// `struct rtnl_link_stats64`, as far as every kernel has it.
fn counters(value: &[u8]) -> Option<Counters> {
    let mut numbers = value.chunks_exact(8).map(|bytes| u64::from_ne_bytes(bytes.try_into().unwrap_or_default()));
    let mut next = || numbers.next();
    Some(Counters {
        rx_packets: next()?,
        tx_packets: next()?,
        rx_bytes: next()?,
        tx_bytes: next()?,
        rx_errors: next()?,
        tx_errors: next()?,
        rx_dropped: next()?,
        tx_dropped: next()?,
    })
}

fn port_state(state: u32) -> Option<PortState> {
    // BR_STATE_*
    Some(match state {
        0 => PortState::Disabled,
        1 => PortState::Listening,
        2 => PortState::Learning,
        3 => PortState::Forwarding,
        4 => PortState::Blocking,
        _ => return None,
    })
}

fn mode_name(kind: &str, mode: u32) -> Option<&'static str> {
    Some(match (kind, mode) {
        ("macvlan" | "macvtap", 1) => "private",
        ("macvlan" | "macvtap", 2) => "vepa",
        ("macvlan" | "macvtap", 4) => "bridge",
        ("macvlan" | "macvtap", 8) => "passthru",
        ("macvlan" | "macvtap", 16) => "source",
        ("ipvlan" | "ipvtap", 0) => "l2",
        ("ipvlan" | "ipvtap", 1) => "l3",
        ("ipvlan" | "ipvtap", 2) => "l3s",
        _ => return None,
    })
}

/// Where packets for an address of the internet would leave: asked of the kernel, which sends nothing for it.
pub const FAR: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(1, 1, 1, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111)),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a namespace with a bridge, the outer end of a pair in it, and a macvlan; and of the one with the inner end.
    /// Linux 6.18; a line is the message's kind and its payload.
    const OUTER: &str = include_str!("captured/outer.txt");
    const INNER: &str = include_str!("captured/inner.txt");

    fn captured(text: &str, kind: &str) -> Vec<Vec<u8>> {
        let lines = text.lines().filter_map(|line| line.split_once(' ')).filter(|(own, _)| *own == kind);
        let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).expect("hex"), 16).expect("hex");
        lines.map(|(_, hex)| hex.as_bytes().chunks(2).map(byte).collect()).collect()
    }

    fn links(text: &str) -> Vec<Link> {
        captured(text, "link").iter().map(|payload| link(payload).expect("a link")).collect()
    }

    #[test]
    fn captured_links() {
        let (outer, inner) = (links(OUTER), links(INNER));
        let named = |links: &[Link], name: &str| links.iter().find(|link| link.name == name).expect(name).clone();
        let (bridge, veth, macvlan) = (named(&outer, "br0"), named(&outer, "vethX"), named(&outer, "mv0"));
        let eth0 = named(&inner, "eth0");
        assert_eq!((bridge.kind.as_deref(), bridge.link, bridge.up), (Some("bridge"), None, true));
        assert_eq!(
            (veth.kind.as_deref(), veth.master, veth.port),
            (Some("veth"), Some(bridge.ifindex), Some(PortState::Forwarding))
        );
        assert_eq!((veth.link, veth.link_netnsid), (Some(eth0.ifindex), Some(0)));
        assert_eq!((eth0.link, eth0.link_netnsid, eth0.mtu), (Some(veth.ifindex), Some(0), Some(1500)));
        assert_eq!((eth0.up, eth0.lower_up, eth0.rx_queues), (true, true, Some(2)));
        let (sent, came) = (eth0.counters.expect("counted"), veth.counters.expect("counted"));
        assert_eq!((sent.tx_packets, sent.tx_bytes), (5, 486));
        assert_eq!((came.rx_packets, came.rx_bytes, came.tx_dropped), (3, 306, 0));
        assert_eq!(
            (macvlan.kind.as_deref(), macvlan.mode, macvlan.link_netnsid),
            (Some("macvlan"), Some("private"), None)
        );
        let lo = named(&inner, "lo");
        assert_eq!((lo.kind, lo.link, lo.up), (None, None, false));
        // A name that is no UTF-8 hides nothing.
        assert_eq!(outer.last().map(|link| link.name.as_str()), Some("h\u{fffd}\u{1b}[31m"));
    }

    #[test]
    fn captured_addresses() {
        let found: Vec<(u32, String)> = captured(INNER, "address")
            .iter()
            .filter_map(|payload| address(payload))
            .map(|(ifindex, address)| (ifindex, address.to_string()))
            .collect();
        let eth0 = links(INNER).iter().find(|link| link.name == "eth0").expect("eth0").ifindex;
        assert!(found.contains(&(eth0, "10.9.0.2/24".to_owned())), "{found:?}");
        assert!(found.contains(&(eth0, "fd00::2/64".to_owned())), "{found:?}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), at in 0..600_usize, byte in 0..=255_u8) {
            let _ = (link(&bytes), address(&bytes), route_device(&bytes), namespace_id(&bytes));
            // And a true one with a fault, also within what is nested.
            for mut payload in captured(OUTER, "link") {
                if let Some(changed) = payload.get_mut(at) {
                    *changed = byte;
                }
                let _ = link(&payload);
            }
        }
    }

    #[test]
    fn torn_messages() {
        let whole = captured(OUTER, "link").pop().expect("one");
        for end in 0..whole.len() {
            if let Some(link) = link(&whole[..end]) {
                assert_eq!(link.ifindex, 8);
            }
            let _ = (address(&whole[..end]), route_device(&whole[..end]), namespace_id(&whole[..end]));
        }
        assert_eq!(link(&[]), None);
        assert_eq!(namespace_id(&[0, 0, 0, 0, 8, 0, 1, 0, 255, 255, 255, 255]), None, "-1: it has none");
        assert_eq!(namespace_id(&[0, 0, 0, 0, 8, 0, 1, 0, 3, 0, 0, 0]), Some(3));
    }
}
