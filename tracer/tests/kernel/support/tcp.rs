//! Two network namespaces, a veth pair between them, and workloads that talk across it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    process::Command,
    thread,
    time::Duration,
};

use nix::libc;

use super::{cgroups::Group, player::Player, unique};

/// A container's namespace and its peer's. Their addresses are in no namespace but these.
pub struct Link {
    pub container: String,
    pub peer: String,
}

pub const OWN: &str = "10.251.7.1";
pub const PEER: &str = "10.251.7.2";

pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a program");
    let output = Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Link {
    pub fn new() -> Self {
        let number = unique();
        let link = Self { container: format!("ctrace-{number:x}-a"), peer: format!("ctrace-{number:x}-b") };
        let Self { container, peer } = &link;
        for command in [
            format!("ip netns add {container}"),
            format!("ip netns add {peer}"),
            format!("ip -n {container} link add eth0 type veth peer name eth0 netns {peer}"),
            format!("ip -n {container} addr add {OWN}/24 dev eth0"),
            format!("ip -n {peer} addr add {PEER}/24 dev eth0"),
            format!("ip -n {container} link set lo up"),
            format!("ip -n {peer} link set lo up"),
            format!("ip -n {container} link set eth0 up"),
            format!("ip -n {peer} link set eth0 up"),
        ] {
            run(&command);
        }
        link
    }

    /// Limits the ports that connections out of the container's namespace may have.
    pub fn local_ports(&self, first: u16, last: u16) {
        let setting = format!("net.ipv4.ip_local_port_range={first} {last}");
        let command = ["netns", "exec", &self.container, "sysctl", "-q", "-w", &setting];
        let output = Command::new("ip").args(command).output().expect("ip");
        assert!(output.status.success(), "{setting}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn inside(&self, command: &str) {
        run(&format!("ip netns exec {} {command}", self.container));
    }

    pub fn in_peer(&self, command: &str) {
        run(&format!("ip netns exec {} {command}", self.peer));
    }

    /// Plays the steps in a container's cgroup and in its namespace.
    pub fn play(&self, group: &Group, steps: &[&str]) -> Player {
        let enter = format!("netns={}", self.container);
        let all: Vec<&str> = std::iter::once(enter.as_str()).chain(steps.iter().copied()).collect();
        Player::within(group, &all)
    }

    /// … in the peer's, of the host.
    pub fn play_peer(&self, steps: &[&str]) -> Player {
        let enter = format!("netns={}", self.peer);
        let all: Vec<&str> = std::iter::once(enter.as_str()).chain(steps.iter().copied()).collect();
        Player::bare(&all)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for name in [&self.container, &self.peer] {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// `ADDRESS:PORT=N`: the rest of it, and N.
pub fn counted(text: &str) -> (&str, u64) {
    let (rest, count) = text.rsplit_once('=').expect("a count");
    (rest, count.parse().expect("a number"))
}

/// `ADDRESS:PORT=N`: tries so often, whatever comes of it.
pub fn connect(text: &str) {
    let (peer, count) = counted(text);
    for _ in 0..count {
        drop(TcpStream::connect(peer));
    }
}

/// `ADDRESS:PORT=MS`: one attempt, given up after that time.
pub fn try_for(text: &str) {
    let (peer, ms) = counted(text);
    let peer: SocketAddr = peer.parse().expect("an address");
    drop(TcpStream::connect_timeout(&peer, Duration::from_millis(ms)));
}

/// `ADDRESS:PORT=N`: so many connections that stay.
pub fn hold(text: &str) {
    let (peer, count) = counted(text);
    let peer: SocketAddr = peer.parse().expect("an address");
    for _ in 0..count {
        thread::spawn(move || {
            let stream = TcpStream::connect_timeout(&peer, Duration::from_secs(20));
            thread::park();
            drop(stream);
        });
    }
}

/// `ADDRESS:PORT`: accepts and reads for ever, in a thread of its own.
pub fn serve(address: &str) {
    let listener = TcpListener::bind(address).expect("a port");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
            });
        }
    });
}

/// `ADDRESS:PORT=BACKLOG`: listens, and never accepts.
pub fn listen_only(text: &str) {
    let (address, backlog) = counted(text);
    let listener = TcpListener::bind(address).expect("a port");
    // SAFETY: one system call on a descriptor that is open.
    let again = unsafe { libc::listen(listener.as_raw_fd(), backlog as libc::c_int) };
    assert_eq!(again, 0, "another backlog: {}", std::io::Error::last_os_error());
    std::mem::forget(listener);
}

/// `ADDRESS:PORT=KIB`: sends that much.
pub fn stream(text: &str) {
    let (peer, kib) = counted(text);
    let mut stream = TcpStream::connect(peer).expect("a connection");
    let chunk = vec![7; 1 << 10];
    for _ in 0..kib {
        if stream.write_all(&chunk).is_err() {
            return;
        }
    }
}

/// `ADDRESS:PORT`: asks for that port, whatever comes of it.
pub fn take_port(address: &str) {
    std::mem::forget(TcpListener::bind(address));
}

/// `ADDRESS:PORT=N`: so many packets of UDP, whatever comes of them.
pub fn send_to(text: &str) {
    let (peer, count) = counted(text);
    let peer: SocketAddr = peer.parse().expect("an address");
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    for _ in 0..count {
        let _ = socket.send_to(&[7; 10], peer);
    }
}

/// A path of this process's own, twice: the second time it is in use.
pub fn take_path_twice() {
    let path = std::env::temp_dir().join(format!("ctrace-path-{:x}", unique()));
    let first = UnixListener::bind(&path).expect("a path");
    let second = UnixListener::bind(&path).expect_err("it is taken");
    assert_eq!(second.kind(), std::io::ErrorKind::AddrInUse);
    let _ = std::fs::remove_file(&path);
    drop(first);
}

/// `ADDRESS:PORT`: two sockets share it, until both listen.
pub fn listen_twice(address: &str) {
    let address: SocketAddrV4 = address.parse().expect("an address of IPv4");
    let first = bound(&address);
    let second = bound(&address);
    // SAFETY: system calls on descriptors that are open.
    let (heard, refused) = unsafe { (libc::listen(first.as_raw_fd(), 1), libc::listen(second.as_raw_fd(), 1)) };
    assert_eq!((heard, refused), (0, -1), "the second one is refused");
}

/// A socket that has that port, and shares it.
fn bound(address: &SocketAddrV4) -> OwnedFd {
    // SAFETY: plain system calls; each structure outlives its call, and the descriptor is nobody else's.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(socket >= 0, "a socket: {}", std::io::Error::last_os_error());
        let on: libc::c_int = 1;
        let (on, size) = ((&raw const on).cast(), size_of::<libc::c_int>() as u32);
        assert_eq!(libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, on, size), 0);
        let name = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
            sin_zero: [0; 8],
        };
        let size = size_of::<libc::sockaddr_in>() as u32;
        assert_eq!(libc::bind(socket, (&raw const name).cast(), size), 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(socket)
    }
}
