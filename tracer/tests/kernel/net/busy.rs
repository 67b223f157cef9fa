//! Much traffic, and no fault: nothing is said of it.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use super::{
    path::{Scene, on_one_cpu, packets},
    street::{INSIDE, OUTSIDE, PORT, Street},
};
use crate::harness::Test;

pub static TESTS: &[Test] = &[
    Test::full("net::busy::streams", || quiet(streams)),
    Test::full("net::busy::requests", || quiet(requests)),
    Test::full("net::busy::http", || quiet(http)),
];

/// Nothing is said of that load, all of which was seen.
fn quiet(load: fn(&Street)) {
    let scene = Scene::new();
    let street = &scene.street;
    // A sender that moves from CPU to CPU has its pair of veth reorder.
    on_one_cpu();
    street.knows_its_neighbours();
    let before = street.counters("c", "eth0");
    load(street);
    scene.sample("as many as the device counted", |sample| {
        let now = street.counters("c", "eth0");
        let grew = |way: &str| now[way]["packets"].as_u64().zip(before[way]["packets"].as_u64()).map(|(a, b)| a - b);
        Some(packets(sample, "out", "container device", "xmit", "packets")) == grew("tx")
            && Some(packets(sample, "in", "container device", "receive", "packets")) == grew("rx")
            && grew("tx").is_some_and(|packets| packets > 100)
    });
    let said = scene.ctrace.stop();
    // An emulated machine takes its time on the way.
    let found = said.codes(&scene.container).into_iter().filter(|code| *code != "net.hop-latency");
    assert_eq!(found.collect::<Vec<_>>(), [] as [&str; 0], "no fault, and yet");
}

/// A connection between the two: what each end does.
fn between<T: Send + 'static>(
    street: &Street,
    server: impl FnOnce(TcpStream) + Send + 'static,
    client: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> T {
    let listener = street.at("o", || TcpListener::bind((OUTSIDE, PORT)).expect("a port")).join().expect("a socket");
    let served = std::thread::spawn(move || server(listener.accept().expect("a connection").0));
    let asked = street.at("c", || client(TcpStream::connect((OUTSIDE, PORT)).expect("a connection")));
    let result = asked.join().expect("the container's thread");
    served.join().expect("the thread outside");
    result
}

/// As iperf3 does: all that goes through, one way and the other.
fn streams(street: &Street) {
    const BYTES: usize = 16 << 20;
    let send = |mut stream: TcpStream| stream.write_all(&vec![7; BYTES]).expect("all of it");
    let receive = |mut stream: TcpStream| std::io::copy(&mut stream, &mut std::io::sink()).expect("all of it");
    between(street, move |stream| assert_eq!(receive(stream), BYTES as u64), send);
    assert_eq!(between(street, send, receive), BYTES as u64);
}

/// As netperf does: a byte there, a byte back.
fn requests(street: &Street) {
    const REQUESTS: usize = 2000;
    let answer = |mut stream: TcpStream| {
        let mut byte = [0];
        while stream.read(&mut byte).expect("a request") > 0 {
            stream.write_all(&byte).expect("an answer");
        }
    };
    let ask = |mut stream: TcpStream| {
        let mut byte = [7];
        for _ in 0..REQUESTS {
            stream.write_all(&byte).expect("a request");
            stream.read_exact(&mut byte).expect("an answer");
        }
    };
    between(street, answer, ask);
}

/// A server in the container that closes each connection after its answer.
fn http(street: &Street) {
    const REQUESTS: usize = 200;
    let listener = street.at("c", || TcpListener::bind((INSIDE, PORT)).expect("a port")).join().expect("a socket");
    let server = std::thread::spawn(move || {
        let body = "x".repeat(3000);
        for _ in 0..REQUESTS {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut bytes = [0; 256];
                let size = stream.read(&mut bytes).expect("a request");
                request.extend_from_slice(&bytes[..size]);
            }
            assert!(request.starts_with(b"GET / HTTP/1.1\r\n"));
            let size = body.len();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n{body}")
                .expect("an answer");
        }
    });
    let client = street.at("o", || {
        for _ in 0..REQUESTS {
            let mut stream = TcpStream::connect((INSIDE, PORT)).expect("a connection");
            write!(stream, "GET / HTTP/1.1\r\nHost: {INSIDE}\r\n\r\n").expect("a request");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with('x'), "{answer}");
        }
    });
    client.join().expect("the thread outside");
    server.join().expect("the server");
}
