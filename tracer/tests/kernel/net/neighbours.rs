//! Who has an address is asked on the link (ARP), and nobody answers: packets that wait for it are dropped, some seconds later.
//!
//! A twin has the same addresses, so whose a packet is can only be known by the device of the container that it left by.

use std::net::UdpSocket;

use serde_json::Value;

use super::{
    path::{PACKETS, Scene, packets, stopped_at},
    street::{INSIDE, OUTSIDE, PORT, Street},
};
use crate::{
    harness::Test,
    support::{cgroups::Group, ctrace::Line},
};

pub static TESTS: &[Test] = &[
    Test::full("net::neighbours::of_the_container", of_the_container),
    Test::full("net::neighbours::of_the_host", of_the_host),
];

/// Another container with the same addresses, at the end of another street.
fn twin(scene: &Scene) -> (Group, Street) {
    let other = scene.tree.container();
    let street = Street::new(&other);
    let known = |line: &Line| line.json["sample"] == "net" && line.json["cgroup"] == other.path;
    scene.ctrace.wait_for("numbers of the other", known);
    (other, street)
}

/// What stopped at that hop, and that the other has none of it.
fn stopped(scene: Scene, (other, street): (Group, Street), hop: &str) -> Value {
    let finding = scene.ctrace.wait_for("that nobody answers", |line| {
        line.json["code"] == "net.dropped" && line.json["evidence"]["packets"] == PACKETS
    });
    assert_eq!(finding.json["container"]["cgroup"], scene.container.path);
    let said = scene.ctrace.stop();
    assert!(!said.codes(&other).contains(&"net.dropped"), "it sent nothing");
    drop(street);
    let evidence = finding.json["evidence"].clone();
    assert_eq!(evidence["hop"], hop, "{evidence}");
    let reason = evidence["reason"].as_str();
    assert!(reason.is_none_or(|reason| reason == "NEIGH_FAILED"), "{evidence}");
    evidence
}

/// It asks on its own network; its questions are followed to the bridge.
fn of_the_container() {
    let scene = Scene::new();
    let twin = twin(&scene);
    let sent = scene.street.at("c", || {
        let socket = UdpSocket::bind((INSIDE, 0)).expect("a socket");
        for _ in 0..PACKETS {
            socket.send_to(&[7; 100], ("10.97.0.77", PORT)).expect("a packet");
        }
    });
    sent.join().expect("the container's thread");
    scene.sample("its questions at each hop, and what waited for their answer", |sample| {
        // On lo the kernel tells each that it has no way.
        let own =
            sample["hops"].as_array().into_iter().flatten().find(|hop| hop["flow"] == "out" && hop["device"] == "eth0");
        let asked = own.and_then(|own| own["packets"].as_u64()).unwrap_or(0);
        let came = |hop: &str| packets(sample, "out", hop, "receive", "packets");
        asked >= 3
            && came("host veth") == asked
            && came("bridge") == asked
            && stopped_at(sample, "container device") == PACKETS as u64
    });
    let evidence = stopped(scene, twin, "container device");
    assert_eq!((&evidence["device"], &evidence["first_packet"]["destination"]), (&"eth0".into(), &"10.97.0.77".into()));
}

/// The host asks, for packets that it forwards.
fn of_the_host() {
    let scene = Scene::new();
    let twin = twin(&scene);
    scene.street.ip("o", "addr del 10.98.0.2/24 dev eth0");
    scene.street.send(PACKETS, 100);
    let sample = scene.stops("uplink", PACKETS);
    assert_eq!(sample["stops"][0]["flow"], "out", "{sample:#}");
    let evidence = stopped(scene, twin, "uplink");
    assert_eq!((&evidence["device"], &evidence["first_packet"]["destination"]), (&"up0".into(), &OUTSIDE.into()));
}
