//! The map, kept: read again when the kernel says that something changed, or containers came or went.

use std::time::{Duration, Instant};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{
    Map,
    survey::{self, Placement},
};
use crate::containers::{Hierarchy, HostFiles, Table};

/// Reading takes at most this part of the time: a host where containers come and go without pause must not cost a CPU.
const SHARE: u32 = 20;
/// Where the kernel says nothing, a map is believed this long.
const BLIND: Duration = Duration::from_secs(10);

/// RTNLGRP_*: links, addresses, routes, settings (forwarding, rp_filter), ids of namespaces.
const GROUPS: [u32; 8] = [1, 5, 7, 9, 11, 24, 25, 28];
/// Events that are taken at once; what is left says the same at the next look.
const MOST: usize = 100_000;

#[derive(Default)]
pub struct Cache {
    map: Map,
    placement: Placement,
    /// `None`: it could not be had, or was not asked for yet.
    events: Option<Socket>,
    read_at: Option<Instant>,
    /// Not again before this.
    next: Option<Instant>,
    pub readings: u64,
}

impl Cache {
    /// The map as it is now, or was a moment ago. Its counters are those of the last reading.
    pub fn current(&mut self, files: &HostFiles, hierarchy: &Hierarchy, table: &Table, now: Instant) -> &Map {
        if self.next.is_some_and(|next| now < next) {
            return &self.map;
        }
        let started = Instant::now();
        let placement = Placement::find(files, hierarchy, table);
        if self.is_stale(files, &placement, now) {
            self.map = survey::survey(files, &placement);
            self.placement = placement;
            self.read_at = Some(now);
            self.readings += 1;
        }
        self.next = Some(now + started.elapsed() * SHARE);
        &self.map
    }

    /// As it was at the last reading.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// Where its namespaces can be entered, for what is read apart: [`super::nat::read`].
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Asked before a reading: what changes during it is read again.
    fn is_stale(&mut self, files: &HostFiles, placement: &Placement, now: Instant) -> bool {
        let Some(read_at) = self.read_at else {
            self.events = survey::in_host(files, placement, subscribed).and_then(Result::ok);
            return true;
        };
        let changed = match &self.events {
            Some(events) => drained(events),
            None => now.duration_since(read_at) >= BLIND,
        };
        changed || *placement != self.placement
    }
}

/// A socket that hears of changes in the namespace that this thread is in, and where the kernel lets it, in all others
/// that this one has links to.
fn subscribed() -> std::io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    let _ = socket.set_listen_all_namespaces(true); // CAP_NET_BROADCAST
    Ok(socket)
}

/// Was there anything?
fn drained(events: &Socket) -> bool {
    let mut any = false;
    for _ in 0..MOST {
        match events.recv(&mut &mut [0_u8; 64][..], libc::MSG_TRUNC) {
            Ok(_) => any = true,
            // ENOBUFS: more than it could hold.
            Err(error) => return any || error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
    any
}
