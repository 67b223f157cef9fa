//! The start of a packet in words: who to whom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

const ARP: u32 = 0x0806;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub protocol: u8,
    pub source: (IpAddr, Option<u16>),
    pub destination: (IpAddr, Option<u16>),
    /// All of it, as its header says; 0: not said (segmentation offload).
    pub length: u32,
}

impl Packet {
    /// From its network header on; `None`: no IP, or not readable.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let at = |from: usize| Some(u16::from_be_bytes([*bytes.get(from)?, *bytes.get(from + 1)?]));
        let (protocol, source, destination, ports, length) = match bytes.first()? >> 4 {
            4 => {
                let address = |from: usize| {
                    let four: [u8; 4] = bytes.get(from..from + 4)?.try_into().ok()?;
                    Some(IpAddr::V4(Ipv4Addr::from(four)))
                };
                // Below three flags stands the offset: a later fragment has no ports.
                let ports = (at(6)? << 3 == 0).then_some(usize::from(bytes[0] & 0xf) * 4);
                (*bytes.get(9)?, address(12)?, address(16)?, ports, u32::from(at(2)?))
            }
            6 => {
                let address = |from: usize| {
                    let sixteen: [u8; 16] = bytes.get(from..from + 16)?.try_into().ok()?;
                    Some(IpAddr::V6(Ipv6Addr::from(sixteen)))
                };
                let payload = u32::from(at(4)?);
                let length = if payload == 0 { 0 } else { payload + 40 };
                (*bytes.get(6)?, address(8)?, address(24)?, Some(40), length)
            }
            _ => return None,
        };
        let ports = ports.filter(|_| matches!(protocol, TCP | UDP));
        let port = |offset: usize| at(ports? + offset);
        Some(Self { protocol, source: (source, port(0)), destination: (destination, port(2)), length })
    }

    pub fn protocol_name(&self) -> String {
        match self.protocol {
            ICMP => "icmp".to_owned(),
            TCP => "tcp".to_owned(),
            UDP => "udp".to_owned(),
            ICMPV6 => "icmpv6".to_owned(),
            other => format!("protocol {other}"),
        }
    }

    /// Ports only where its protocol has them.
    pub fn json(&self) -> Value {
        let mut packet = json!({
            "protocol": self.protocol_name(),
            "source": self.source.0,
            "destination": self.destination.0,
        });
        let length = (self.length > 0).then_some(self.length);
        for (key, number) in [
            ("source_port", self.source.1.map(u32::from)),
            ("destination_port", self.destination.1.map(u32::from)),
            ("length_bytes", length),
        ] {
            if let Some(number) = number {
                packet[key] = json!(number);
            }
        }
        packet
    }

    /// `tcp to 10.0.0.1:80`
    pub fn to(&self) -> String {
        let (address, port) = self.destination;
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        match address {
            IpAddr::V6(address) if !port.is_empty() => format!("{} to [{address}]{port}", self.protocol_name()),
            address => format!("{} to {address}{port}", self.protocol_name()),
        }
    }
}

/// `tcp to 10.0.0.1:80`, `ARP`, `ethertype 0x88cc`.
pub fn describe(protocol: u32, bytes: &[u8]) -> String {
    match Packet::parse(bytes) {
        Some(packet) if protocol != ARP => packet.to(),
        _ if protocol == ARP => "ARP".to_owned(),
        _ => format!("ethertype {protocol:#06x}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_families() {
        let mut v4 = vec![0x45, 0, 0x05, 0xdc, 0, 1, 0x40, 0, 64, UDP, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
        v4.extend([0x30, 0x39, 0, 53]);
        assert_eq!(describe(0x0800, &v4), "udp to 10.0.0.1:53");
        assert_eq!(Packet::parse(&v4).map(|packet| packet.length), Some(1500));
        v4[7] = 1;
        assert_eq!(describe(0x0800, &v4), "udp to 10.0.0.1", "a later fragment");
        let mut v6 = vec![0x60, 0, 0, 0, 0, 20, TCP, 64];
        v6.extend([0; 31]);
        v6.extend([1, 0x30, 0x39, 0, 80]);
        assert_eq!(describe(0x86dd, &v6), "tcp to [::1]:80");
        assert_eq!(describe(ARP, &[0; 64]), "ARP");
        assert_eq!(describe(0x88cc, &[0; 64]), "ethertype 0x88cc");
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in any::<Vec<u8>>()) {
            let _ = Packet::parse(&bytes);
        }
    }
}
