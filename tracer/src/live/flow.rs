//! `--flow`: the packets that the kernel side follows.

use std::{net::IpAddr, str::FromStr};

use tracer_common::flow::{ICMP, TCP, UDP};

/// One end of a flow, whoever has the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    protocol: u32,
    address: IpAddr,
    /// 0: its protocol has none.
    port: u16,
}

/// Packets that are followed at once.
const FOLLOWED: u32 = 4096;

impl Flow {
    /// What the kernel side is told of it.
    pub fn wants(&self) -> [(&'static str, u32); 6] {
        let address = match self.address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let words = address.to_bits();
        let word = |from: u32| (words >> from) as u32;
        [
            ("WANT_FLOW_PROTOCOL", self.protocol),
            ("WANT_FLOW_PORT", self.port.into()),
            ("WANT_FLOW_ADDRESS_0", word(96)),
            ("WANT_FLOW_ADDRESS_1", word(64)),
            ("WANT_FLOW_ADDRESS_2", word(32)),
            ("WANT_FLOW_ADDRESS_3", word(0)),
        ]
    }

    pub fn maps(&self) -> [(&'static str, u32); 1] {
        [("FOLLOWED", FOLLOWED)]
    }
}

impl std::fmt::Display for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.protocol {
            TCP => write!(f, "tcp/{}/{}", self.address, self.port),
            UDP => write!(f, "udp/{}/{}", self.address, self.port),
            _ => write!(f, "icmp/{}", self.address),
        }
    }
}

impl FromStr for Flow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write it as tcp/10.0.0.2/80, udp/fd00::2/53 or icmp/10.0.0.2";
        let mut parts = text.split('/');
        let (protocol, address) = (parts.next().unwrap_or_default(), parts.next());
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => TCP,
            "udp" => UDP,
            "icmp" => ICMP,
            _ => return Err(format!("its protocol is one of tcp, udp, icmp; {FORM}")),
        };
        let address = address.and_then(|address| address.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified()));
        let address = address.ok_or_else(|| format!("it needs the address of one end, IPv4 or IPv6; {FORM}"))?;
        let port = match (parts.next(), protocol) {
            (None, ICMP) => 0,
            (Some(_), ICMP) => return Err(format!("icmp has no ports; {FORM}")),
            (port, _) => port
                .and_then(|port| port.parse().ok().filter(|port| *port > 0))
                .ok_or_else(|| format!("it needs a port from 1 to 65535; {FORM}"))?,
        };
        match parts.next() {
            None => Ok(Self { protocol, address: address.to_canonical(), port }),
            Some(_) => Err(format!("it has three parts at the most; {FORM}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_of_a_flow() {
        for text in ["tcp/10.0.0.2/80", "udp/fd00::2/53", "icmp/10.0.0.2", "icmp/fd00::2"] {
            assert_eq!(text.parse::<Flow>().map(|flow| flow.to_string()), Ok(text.to_owned()));
        }
        let flow: Flow = "TCP/::ffff:10.0.0.2/65535".parse().expect("one end");
        assert_eq!(flow.to_string(), "tcp/10.0.0.2/65535");
        let values = flow.wants().map(|(_, value)| value);
        assert_eq!(values, [6, 65535, 0, 0, 0xffff, 0x0a00_0002]);
        let flow: Flow = "icmp/fd00::2".parse().expect("one end");
        assert_eq!(flow.wants().map(|(_, value)| value), [1, 0, 0xfd00_0000, 0, 0, 2]);
    }

    #[test]
    fn what_is_none() {
        for (text, why) in [
            ("", "protocol"),
            ("sctp/10.0.0.2/80", "protocol"),
            ("tcp", "address"),
            ("tcp/10.0.0/80", "address"),
            ("tcp/0.0.0.0/80", "address"),
            ("tcp/fe80::1%eth0/80", "address"),
            ("tcp/example.org/80", "address"),
            ("tcp/10.0.0.2", "port"),
            ("tcp/10.0.0.2/", "port"),
            ("udp/10.0.0.2/0", "port"),
            ("udp/10.0.0.2/65536", "port"),
            ("udp/10.0.0.2/-1", "port"),
            ("icmp/10.0.0.2/8", "no ports"),
            ("tcp/10.0.0.2/80/1", "three parts"),
        ] {
            let error = text.parse::<Flow>().expect_err(text);
            assert!(error.contains(why) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
