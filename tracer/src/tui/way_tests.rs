//! The way of a container's packets, on a terminal that is only memory.

use std::{sync::Arc, time::Duration};

use ratatui::backend::TestBackend;
use serde_json::{Value, json};

use super::{samples::NOON, *};
use crate::{
    model::{Container, Runtime, Unknown},
    pipeline::SampleRow,
};

fn hop(flow: &str, hop: &str, device: &str, ifindex: u64, packets: u64) -> Value {
    let netns = if hop == "container device" { 2 } else { 1 };
    json!({
        "flow": flow, "hop": hop, "device": device, "netns": netns, "ifindex": ifindex, "packets": packets, "packets_per_s": packets,
        "untranslated": if hop == "uplink" { 0 } else { packets }, "mtu_bytes": if hop == "uplink" { 1400 } else { 1500 },
        "since_container_ns": ifindex * 1000,
    })
}

fn screen(width: u16, height: u16, unicode: bool) -> String {
    let app =
        App::new("net · node-7 · 6.12 · cgroup v2".to_owned(), TimeZone::UTC, &panel::tabs(&["net"]), Timestamp(NOON));
    let Ok(terminal) = Terminal::new(TestBackend::new(width, height));
    let mut shell = Shell { app, theme: Theme::new(true, unicode), terminal, pace: Pace::default() };
    let here: Vec<Arc<Container>> = [("web", 1), ("db", 2), ("proxy", 3)]
        .map(|(name, number)| Arc::new(samples::container(Some(name), Runtime::Docker, number)))
        .to_vec();
    let web = json!({
        "network": "own", "dropped": 7,
        "hops": [
            hop("out", "container device", "eth0", 2, 11), hop("out", "host veth", "veth1a2b3c4", 7, 11),
            hop("out", "bridge", "docker0", 5, 11), hop("out", "uplink", "enp3s0", 6, 4),
            hop("in", "bridge", "docker0", 5, 3), hop("in", "container device", "eth0", 2, 3),
        ],
        "stops": [{
            "flow": "out", "hop": "netfilter", "device": "docker0", "netns": 1, "ifindex": 5, "reason": "NETFILTER_DROP", "packets": 7,
        }],
    });
    let db = json!({"network": "own", "dropped": 0, "hops": [], "stops": []});
    let proxy = json!({"network": "host", "dropped": null, "hops": null, "stops": null});
    for (container, fields) in here.iter().zip([web, db, proxy]) {
        let sample = SampleRow {
            time: Timestamp(NOON),
            sample: "net",
            container: Some(Arc::clone(container)),
            cgroup: Some(container.cgroup.clone()),
            fields: fields.as_object().cloned().unwrap_or_default(),
            unknown: Unknown::new(),
        };
        shell.show(&Output::Sample(Box::new(sample)), Timestamp(NOON), Instant::now());
    }
    shell.containers(here, Instant::now());
    assert!(shell.draw_if_due(Instant::now() + Duration::from_secs(1)).is_ok());
    shell.terminal.backend().to_string()
}

#[test]
fn the_way_is_a_line_of_hops() {
    insta::assert_snapshot!("way_80x24", screen(80, 24, true));
    let ascii = screen(80, 24, false);
    assert!(ascii.is_ascii(), "{ascii}");
    insta::assert_snapshot!("way_ascii_80x24", ascii);
}
