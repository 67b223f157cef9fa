//! Three network namespaces in a row: a container, its host with a bridge, and somebody outside.
//!
//!     container eth0 ─ port br0 up0 ─ eth0 outside
//!     10.97.0.2        10.97.0.1 10.98.0.1 10.98.0.2

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket},
    os::{fd::AsFd, unix::fs::MetadataExt},
    process::Command,
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    libc,
    sched::{CloneFlags, setns},
};
use serde_json::Value;

use crate::support::{
    cgroups::Group,
    ctrace::with_us,
    engines::run,
    player::{Player, enter},
    unique,
};

pub const INSIDE: &str = "10.97.0.2";
pub const OUTSIDE: &str = "10.98.0.2";
pub const OUTSIDE6: &str = "fd98::2";
/// Nobody listens there, or the test does.
pub const PORT: u16 = 4711;

pub struct Street {
    name: String,
    /// The container's process.
    player: Player,
}

impl Street {
    pub fn new(container: &Group) -> Self {
        let name = format!("ctrace{:x}", unique());
        for end in ["c", "h", "o"] {
            run(Command::new("ip").args(["netns", "add", &format!("{name}{end}")]));
        }
        let street = Self { player: play(&name, "c", container, &["say=here", "pause"]), name };
        street.player.said("here");
        for end in ["c", "h", "o"] {
            // Without IPv6 nothing is sent that the test did not send.
            street.set(end, "net.ipv6.conf.all.disable_ipv6=1");
            street.set(end, "net.ipv6.conf.default.disable_ipv6=1");
            street.ip(end, "link set lo up");
        }
        street.ip("h", "link add br0 type bridge mcast_snooping 0");
        street.ip("h", &format!("link add port type veth peer name eth0 netns {}c", street.name));
        street.ip("h", &format!("link add up0 type veth peer name eth0 netns {}o", street.name));
        street.ip("h", "link set port master br0");
        for (end, device, address) in [
            ("c", "eth0", Some("10.97.0.2/24")),
            ("h", "port", None),
            ("h", "br0", Some("10.97.0.1/24")),
            ("h", "up0", Some("10.98.0.1/24")),
            ("o", "eth0", Some("10.98.0.2/24")),
        ] {
            if let Some(address) = address {
                street.ip(end, &format!("addr add {address} dev {device}"));
            }
            street.ip(end, &format!("link set {device} up"));
        }
        street.ip("c", "route add default via 10.97.0.1");
        street.ip("o", "route add 10.97.0.0/24 via 10.98.0.1");
        street.set("h", "net.ipv4.ip_forward=1");
        street
    }

    /// A second network, by which the container's way out leads now:
    ///
    ///     container eth1 ─ port1 br1
    ///     10.99.0.2        10.99.0.1
    pub fn second_network(&self) {
        self.ip("h", "link add br1 type bridge mcast_snooping 0");
        self.ip("h", &format!("link add port1 type veth peer name eth1 netns {}c", self.name));
        self.ip("h", "link set port1 master br1");
        self.ip("c", "addr add 10.99.0.2/24 dev eth1");
        self.ip("h", "addr add 10.99.0.1/24 dev br1");
        for (end, device) in [("c", "eth1"), ("h", "port1"), ("h", "br1")] {
            self.ip(end, &format!("link set {device} up"));
        }
        self.ip("c", "route replace default via 10.99.0.1");
    }

    /// Another container's network beside it on the bridge, the end `d`, with 10.97.0.3.
    pub fn with_neighbour(&self) {
        let name = format!("{}d", self.name);
        run(Command::new("ip").args(["netns", "add", &name]));
        self.set("d", "net.ipv6.conf.all.disable_ipv6=1");
        self.set("d", "net.ipv6.conf.default.disable_ipv6=1");
        self.ip("h", &format!("link add port2 type veth peer name eth0 netns {name}"));
        self.ip("h", "link set port2 master br0");
        self.ip("d", "addr add 10.97.0.3/24 dev eth0");
        self.ip("d", "link set eth0 up");
        self.ip("h", "link set port2 up");
        self.ip("d", "route add default via 10.97.0.1");
    }

    /// A second device of the container's, on the uplink itself, by which it reaches who is outside now:
    ///
    ///     container own0 ─ up0
    ///     10.98.0.3
    pub fn with_macvlan(&self) {
        self.ip("h", &format!("link add link up0 name own0 netns {}c type macvlan mode bridge", self.name));
        self.ip("c", "addr add 10.98.0.3/24 dev own0");
        self.ip("c", "link set own0 up");
    }

    /// The same way with IPv6: the container has fd97::2.
    pub fn with_ipv6(&self) {
        for (end, device, address) in
            [("c", "eth0", "fd97::2"), ("h", "br0", "fd97::1"), ("h", "up0", "fd98::1"), ("o", "eth0", OUTSIDE6)]
        {
            self.set(end, &format!("net.ipv6.conf.{device}.disable_ipv6=0"));
            self.ip(end, &format!("addr add {address}/64 dev {device} nodad"));
        }
        self.set("h", "net.ipv6.conf.all.forwarding=1");
        self.ip("c", "route add default via fd97::1");
        self.ip("o", "route add fd97::/64 via fd98::1");
    }

    /// Another pair to who is outside, of that name and index, where the first one was.
    pub fn another_uplink(&self, device: &str, ifindex: u64) {
        let peer = format!("peer name eth0 netns {}o", self.name);
        self.ip("h", &format!("link add {device} index {ifindex} type veth {peer}"));
        self.ip("h", &format!("addr add 10.98.0.1/24 dev {device}"));
        self.ip("o", "addr add 10.98.0.2/24 dev eth0");
        self.ip("h", &format!("link set {device} up"));
        self.ip("o", "link set eth0 up");
        self.ip("o", "route add 10.97.0.0/24 via 10.98.0.1");
    }

    /// No questions for neighbours: those of the host are not the container's, and those of the container end at the bridge.
    pub fn knows_its_neighbours(&self) {
        self.knows(("h", "up0"), OUTSIDE, ("o", "eth0"));
        self.knows(("o", "eth0"), "10.98.0.1", ("h", "up0"));
        self.knows(("c", "eth0"), "10.97.0.1", ("h", "br0"));
        self.knows(("h", "br0"), INSIDE, ("c", "eth0"));
    }

    /// At one end that address is known, for ever, to be at another's device.
    pub fn knows(&self, (end, device): (&str, &str), address: &str, (other, others): (&str, &str)) {
        let hardware = self.hardware(other, others);
        self.ip(end, &format!("neigh replace {address} lladdr {hardware} dev {device} nud permanent"));
    }

    /// `ip` at one end: the container (`c`), its host (`h`), outside (`o`), its neighbour (`d`).
    pub fn ip(&self, end: &str, words: &str) -> String {
        run(Command::new("ip").args(["-n", &format!("{}{end}", self.name)]).args(words.split(' ')))
    }

    /// Any program there.
    pub fn run(&self, end: &str, words: &str) -> String {
        let net = format!("--net=/run/netns/{}{end}", self.name);
        run(Command::new("nsenter").arg(net).args(words.split(' ')))
    }

    pub fn set(&self, end: &str, sysctl: &str) {
        self.run(end, &format!("sysctl -q -w {sysctl}"));
    }

    /// The device's own counters.
    pub fn counters(&self, end: &str, device: &str) -> Value {
        let links: Value = serde_json::from_str(&self.ip(end, &format!("-s -j link show {device}"))).expect("JSON");
        let link = &links[0];
        if link["stats64"].is_object() { link["stats64"].clone() } else { link["stats"].clone() }
    }

    fn link(&self, end: &str, device: &str) -> Value {
        let links: Value = serde_json::from_str(&self.ip(end, &format!("-j link show {device}"))).expect("JSON");
        links[0].clone()
    }

    /// Its hardware address.
    pub fn hardware(&self, end: &str, device: &str) -> String {
        self.link(end, device)["address"].as_str().expect("an address").to_owned()
    }

    pub fn ifindex(&self, end: &str, device: &str) -> u32 {
        self.link(end, device)["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok()).expect("an index")
    }

    /// The inode of that end's namespace.
    pub fn netns(&self, end: &str) -> u32 {
        fs::metadata(format!("/run/netns/{}{end}", self.name)).expect("the namespace").ino() as u32
    }

    /// Plays the steps in a container's cgroup and in the network of that end.
    pub fn play(&self, end: &str, group: &Group, steps: &[&str]) -> Player {
        play(&self.name, end, group, steps)
    }

    /// Does something on a thread in the network of that end.
    pub fn at<T: Send + 'static>(&self, end: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let path = format!("/run/netns/{}{end}", self.name);
        thread::spawn(move || {
            let network = File::open(path).expect("the namespace");
            setns(network.as_fd(), CloneFlags::CLONE_NEWNET).expect("its network");
            work()
        })
    }

    /// UDP packets of that size from the container to who is outside; they may not be cut in pieces, and no answer makes
    /// them smaller.
    pub fn send(&self, packets: usize, bytes: usize) {
        self.send_from("c", packets, bytes);
    }

    /// The same from another end.
    pub fn send_from(&self, end: &str, packets: usize, bytes: usize) {
        let sent = self.at(end, move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            let probe = libc::IP_PMTUDISC_PROBE;
            // SAFETY: an option whose value is an int, which outlives the call.
            let result = unsafe {
                libc::setsockopt(
                    std::os::fd::AsRawFd::as_raw_fd(&socket),
                    libc::IPPROTO_IP,
                    libc::IP_MTU_DISCOVER,
                    (&raw const probe).cast(),
                    size_of::<libc::c_int>() as u32,
                )
            };
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            for _ in 0..packets {
                // What is refused, or has no way out, is what some tests are about.
                let _ = socket.send_to(&vec![0; bytes], (OUTSIDE, PORT));
            }
        });
        sent.join().expect("its thread");
    }

    /// So many UDP packets of 100 bytes from the container to that address, of either IP.
    pub fn send_to(&self, packets: usize, address: &str, port: u16) {
        let to: IpAddr = address.parse().expect("an address");
        let sent = self.at("c", move || {
            let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
            let socket = UdpSocket::bind((any, 0)).expect("a socket");
            for _ in 0..packets {
                socket.send_to(&[7; 100], (to, port)).expect("a packet");
            }
        });
        sent.join().expect("the container's thread");
    }

    /// A connection that the container tries to make, until it gives up.
    pub fn connect(&self) -> JoinHandle<bool> {
        let address = format!("{OUTSIDE}:{PORT}").parse().expect("an address");
        self.at("c", move || TcpStream::connect_timeout(&address, Duration::from_secs(12)).is_ok())
    }
}

impl Drop for Street {
    fn drop(&mut self) {
        for end in ["c", "h", "o", "d"] {
            let name = format!("{}{end}", self.name);
            // Few have all of them.
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
            let _ = fs::remove_file(format!("/run/netns/{name}"));
        }
    }
}

fn play(street: &str, end: &str, group: &Group, steps: &[&str]) -> Player {
    let mut player = Command::new("nsenter");
    player
        .arg(format!("--net=/run/netns/{street}{end}"))
        .arg(std::env::current_exe().expect("the path of this program"));
    player.args(["play", &enter(group)]).args(steps);
    with_us(&mut player);
    Player::of(player)
}
