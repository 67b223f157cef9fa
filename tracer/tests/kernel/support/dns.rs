//! Names over UDP: who asks, and who answers, late or never.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use nix::libc;

use super::tcp::counted;

/// A query for `a.test`, with that number.
fn query(id: u16) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    query.extend(b"\x01a\x04test\x00\x00\x01\x00\x01");
    query
}

fn send(peer: &str, count: u64) -> UdpSocket {
    let peer: SocketAddr = peer.parse().expect("an address");
    let any = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).expect("a socket");
    for id in 0..count {
        socket.send_to(&query(id as u16), peer).expect("a query");
    }
    socket
}

/// `ADDRESS:PORT=N`: so many queries of one socket, which stays.
pub fn ask(text: &str) {
    let (peer, count) = counted(text);
    std::mem::forget(send(peer, count));
}

/// The same, and waits for as many answers.
pub fn ask_and_hear(text: &str) {
    let (peer, count) = counted(text);
    let socket = send(peer, count);
    for _ in 0..count {
        let mut answer = [0; 512];
        socket.recv(&mut answer).expect("an answer");
    }
    // Open until the process ends: what else comes is not refused.
    std::mem::forget(socket);
}

/// `ADDRESS:PORT=MS`: answers that there is no such name, each after so long, in a thread of its own.
pub fn answer(text: &str) {
    let (address, ms) = counted(text);
    let socket = UdpSocket::bind(address).expect("a port");
    thread::spawn(move || {
        loop {
            let mut bytes = [0; 512];
            let (size, from) = socket.recv_from(&mut bytes).expect("a query");
            let socket = socket.try_clone().expect("another handle");
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(ms));
                // An answer: NXDOMAIN.
                (bytes[2], bytes[3]) = (0x81, 0x83);
                socket.send_to(&bytes[..size], from).expect("an answer");
            });
        }
    });
}

/// `ADDRESS:PORT=N`: one query, asked up to so often as resolvers do, until its answer comes.
pub fn resolve(text: &str) {
    let (peer, tries) = counted(text);
    let socket = send(peer, 0);
    socket.connect(peer).expect("an address");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    for _ in 0..tries {
        socket.send(&query(7)).expect("a query");
        if socket.recv(&mut [0; 512]).is_ok() {
            return;
        }
    }
}

/// `ADDRESS:PORT`: answers only who asks for the second time.
pub fn answer_the_second(address: &str) {
    let socket = UdpSocket::bind(address).expect("a port");
    thread::spawn(move || {
        let mut first = Vec::new();
        loop {
            let mut bytes = [0; 512];
            let (size, from) = socket.recv_from(&mut bytes).expect("a query");
            if first == bytes[..size] {
                (bytes[2], bytes[3]) = (0x81, 0x83);
                socket.send_to(&bytes[..size], from).expect("an answer");
            }
            first = bytes[..size].to_vec();
        }
    });
}

/// `ADDRESS:PORT=N`: as [`ask`], and what is sent is not copied.
pub fn ask_from_pages(text: &str) {
    let (peer, count) = counted(text);
    let socket = send(peer, 0);
    socket.connect(peer).expect("an address");
    for id in 0..count {
        send_from_pages(&socket, query(id as u16));
    }
    std::mem::forget(socket);
}

/// To the one that the socket is connected to: what is sent stays where it is.
fn send_from_pages(socket: &UdpSocket, bytes: Vec<u8>) {
    let on: libc::c_int = 1;
    let (value, size) = ((&raw const on).cast(), size_of::<libc::c_int>() as u32);
    // SAFETY: an option whose value is an int, which outlives the call.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, value, size) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    let bytes = bytes.leak();
    // SAFETY: the buffer lives as long as this process.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_ZEROCOPY) };
    assert_eq!(sent, bytes.len() as isize, "{}", std::io::Error::last_os_error());
}

/// `ADDRESS:PORT`: answers one, and what is sent is not copied.
pub fn answer_from_pages(address: &str) {
    let socket = UdpSocket::bind(address).expect("a port");
    thread::spawn(move || {
        let (query, from) = heard(&socket);
        socket.connect(from).expect("an address");
        send_from_pages(&socket, answer_to(query));
        thread::park();
    });
}

/// `ADDRESS`: to one query comes what is no answer: the query itself, and from another port what would be one.
pub fn mislead(address: &str) {
    let socket = UdpSocket::bind((address, 53)).expect("a port");
    let other = UdpSocket::bind((address, OTHER_PORT)).expect("a port");
    thread::spawn(move || {
        let (query, from) = heard(&socket);
        socket.send_to(&query, from).expect("the query");
        other.connect(from).expect("an address");
        other.send(&answer_to(query.clone())).expect("an answer");
        send_from_pages(&other, answer_to(query));
        thread::park();
    });
}

fn heard(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = [0; 512];
    let (size, from) = socket.recv_from(&mut bytes).expect("a query");
    (bytes[..size].to_vec(), from)
}

/// There is no such name.
fn answer_to(mut query: Vec<u8>) -> Vec<u8> {
    (query[2], query[3]) = (0x81, 0x83);
    query
}

/// `ADDRESS:PORT`: hears, and never answers.
pub fn be_silent(address: &str) {
    std::mem::forget(UdpSocket::bind(address).expect("a port"));
}

/// `ADDRESS`: what looks like a query, and is none: one to another port, what is too short, and an answer.
pub fn ask_nothing(address: &str) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    let mut answer = query(3);
    answer[2] |= 0x80;
    let some = [(OTHER_PORT, query(1)), (53, query(2)[..11].to_vec()), (53, answer)];
    for (port, bytes) in &some {
        let sent = socket.send_to(bytes, (address, *port)).expect("a packet");
        assert_eq!(sent, bytes.len());
    }
    std::mem::forget(socket);
}

/// Of multicast DNS, whose queries need no answer.
pub const OTHER_PORT: u16 = 5353;
