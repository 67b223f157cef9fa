//! Questions to the kernel about the network namespace that this thread is in. A socket stays in the namespace that it
//! was made in: none is kept.

use std::{
    collections::BTreeMap,
    io::{Error, ErrorKind, Result},
    net::IpAddr,
    os::fd::AsFd,
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    link::LinkMessage,
    nsid::{NsidAttribute, NsidMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage},
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike},
};

use super::{Address, Link, parse};

/// The kernel answers within microseconds; a thread must not wait for ever all the same.
const PATIENCE_S: i64 = 2;
/// What the kernel puts into one datagram of a dump at most (`NLMSG_GOODSIZE` is less than this).
const DATAGRAM: usize = 64 * 1024;
/// A list that changed while it was given is asked for again so often.
const TRIES: usize = 4;
const DONE: u16 = 3;
const ERROR: u16 = 2;

pub struct Questions {
    socket: Socket,
    number: u32,
}

/// How the kernel is to find a namespace.
#[derive(Clone, Copy, Debug)]
pub enum By {
    Pid(u32),
    Fd(i32),
}

impl Questions {
    pub fn here() -> Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        setsockopt(&socket.as_fd(), ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))?;
        Ok(Self { socket, number: 0 })
    }

    pub fn links(&mut self) -> Result<BTreeMap<u32, Link>> {
        let answers = self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers.iter().filter_map(|answer| parse::link(answer)).map(|link| (link.ifindex, link)).collect())
    }

    pub fn addresses(&mut self) -> Result<Vec<(u32, Address)>> {
        let answers = self.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(answers.iter().filter_map(|answer| parse::address(answer)).collect())
    }

    /// By which interface a packet to this address would leave; `None`: no route.
    pub fn way_to(&mut self, ip: IpAddr) -> Result<Option<u32>> {
        let mut route = RouteMessage::default();
        let (family, length) = if ip.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
        route.header.address_family = family;
        route.header.destination_prefix_length = length;
        route.attributes.push(RouteAttribute::Destination(RouteAddress::from(ip)));
        match self.one(&RouteNetlinkMessage::GetRoute(route)) {
            Ok(answer) => Ok(parse::route_device(&answer)),
            // No route, a prohibiting one, no IPv6 at all.
            Err(error) if error.kind() != ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The id by which links here name that namespace; `None`: it has none.
    pub fn id_of(&mut self, by: By) -> Option<i32> {
        let mut ask = NsidMessage::default();
        ask.attributes.push(match by {
            By::Pid(pid) => NsidAttribute::Pid(pid),
            By::Fd(fd) => NsidAttribute::Fd(u32::try_from(fd).ok()?),
        });
        parse::namespace_id(&self.one(&RouteNetlinkMessage::GetNsId(ask)).ok()?)
    }

    fn dump(&mut self, ask: &RouteNetlinkMessage) -> Result<Vec<Vec<u8>>> {
        for _ in 0..TRIES {
            self.send(ask, NLM_F_REQUEST | NLM_F_DUMP)?;
            let (answers, whole) = self.answers(true)?;
            if whole {
                return Ok(answers);
            }
        }
        Err(Error::other("the list of interfaces changes faster than it can be read"))
    }

    fn one(&mut self, ask: &RouteNetlinkMessage) -> Result<Vec<u8>> {
        self.send(ask, NLM_F_REQUEST)?;
        self.answers(false)?.0.pop().ok_or_else(|| Error::other("the kernel answered with nothing"))
    }

    fn send(&mut self, ask: &RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.number += 1;
        let mut message = NetlinkMessage::from(ask.clone());
        message.header.flags = flags;
        message.header.sequence_number = self.number;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// The payloads of the answers, and whether nothing changed meanwhile.
    fn answers(&mut self, many: bool) -> Result<(Vec<Vec<u8>>, bool)> {
        let (mut answers, mut whole) = (Vec::new(), true);
        let mut buffer = Vec::with_capacity(DATAGRAM);
        loop {
            buffer.clear();
            self.socket.recv(&mut &mut buffer, 0)?;
            let mut rest: &[u8] = &buffer;
            while let Ok(message) = NetlinkBuffer::new_checked(&rest) {
                let length = (message.length() as usize).next_multiple_of(4).min(rest.len());
                let ours = message.sequence_number() == self.number;
                whole &= !ours || message.flags() & NLM_F_DUMP_INTR == 0;
                match message.message_type() {
                    _ if !ours => {}
                    DONE => return Ok((answers, whole)),
                    ERROR => return Err(refusal(message.payload())),
                    _ => {
                        answers.push(message.payload().to_vec());
                        if !many {
                            return Ok((answers, whole));
                        }
                    }
                }
                rest = &rest[length..];
            }
        }
    }
}

/// `struct nlmsgerr` starts with a negative errno.
fn refusal(payload: &[u8]) -> Error {
    let code = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    Error::from_raw_os_error(code.checked_neg().unwrap_or(libc::EIO))
}
