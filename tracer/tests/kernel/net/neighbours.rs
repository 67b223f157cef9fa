//! Who has an address is asked on the link (by ARP, or by neighbour discovery of IPv6), and nobody answers: packets that wait for
//! it are dropped, some seconds later.
//!
//! A twin has the same addresses, so whose a packet is can only be known by the device of the container that it left by.

use serde_json::Value;

use super::{
    path::{PACKETS, Scene, packets, stopped_at},
    street::{OUTSIDE, OUTSIDE6, PORT, Street},
};
use crate::{
    harness::Test,
    support::{cgroups::Group, ctrace::Line},
};

pub static TESTS: &[Test] = &[
    Test::full("net::neighbours::of_the_container", of_the_container),
    Test::full("net::neighbours::of_the_host", of_the_host),
    Test::full("net::neighbours::of_the_container_by_ipv6", of_the_container_by_ipv6),
    Test::full("net::neighbours::of_the_host_by_ipv6", of_the_host_by_ipv6),
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
    // Of IPv6 the kernel says where alone.
    assert!(reason.is_none_or(|reason| ["NEIGH_FAILED", "NOT_SPECIFIED"].contains(&reason)), "{evidence}");
    let summary = finding.json["summary"].as_str().unwrap_or_default();
    assert!(summary.contains("nobody answers for the next address"), "{summary}");
    evidence
}

fn of_the_container() {
    asked_by_the_container(|_| {}, "10.97.0.77");
}

fn of_the_container_by_ipv6() {
    asked_by_the_container(Street::with_ipv6, "fd97::77");
}

fn of_the_host() {
    asked_by_the_host(|_| {}, OUTSIDE, "10.98.0.2/24");
}

fn of_the_host_by_ipv6() {
    asked_by_the_host(Street::with_ipv6, OUTSIDE6, "fd98::2/64");
}

/// It asks on its own network for that address; its questions are followed to the bridge.
fn asked_by_the_container(prepare: fn(&Street), nobodys: &str) {
    let scene = Scene::new();
    let twin = twin(&scene);
    prepare(&scene.street);
    prepare(&twin.1);
    scene.street.send_to(PACKETS, nobodys, PORT);
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
    assert_eq!((&evidence["device"], &evidence["first_packet"]["destination"]), (&"eth0".into(), &nobodys.into()));
}

/// The host asks, for packets that it forwards to an address that nobody has any more.
fn asked_by_the_host(prepare: fn(&Street), to: &str, lost: &str) {
    let scene = Scene::new();
    let twin = twin(&scene);
    prepare(&scene.street);
    prepare(&twin.1);
    scene.street.ip("o", &format!("addr del {lost} dev eth0"));
    scene.street.send_to(PACKETS, to, PORT);
    let sample = scene.stops("uplink", PACKETS);
    assert_eq!(sample["stops"][0]["flow"], "out", "{sample:#}");
    let evidence = stopped(scene, twin, "uplink");
    assert_eq!((&evidence["device"], &evidence["first_packet"]["destination"]), (&"up0".into(), &to.into()));
}
