//! Names over UDP: who asks, and who answers, late or never.

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

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

/// `ADDRESS:PORT`: hears, and never answers.
pub fn be_silent(address: &str) {
    std::mem::forget(UdpSocket::bind(address).expect("a port"));
}
