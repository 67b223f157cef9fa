//! The way of each container's packets as a line of hops: what passed each, and where it stops.

use std::fmt::Write;

use serde_json::Value;

use super::{Column, Depth, Doc, Grows, Item, Key, Look, Of, Panel, Tone, evidence, whom};
use crate::{
    model::{Severity, span},
    pipeline::SampleRow,
    tui::state::{QUIET, Row},
    views::{net, table},
};

pub static PANEL: Panel = Panel {
    lens: "hops",
    of: Of::Containers,
    noun: ["container", "containers"],
    columns: COLUMNS,
    detail,
    empty: "No container is here.",
};

static COLUMNS: &[Column] = &[
    Column {
        title: "CONTAINER",
        width: 16,
        grows: Grows::Name,
        right: false,
        rank: 0,
        cell: |row, _| (whom(&row.finding), Tone::Strong),
        // By what was stopped, then by what passes.
        key: |row| {
            let rates = ["out", "in"].map(|flow| rate(row, flow).unwrap_or(0));
            Key::Number((number(row, "dropped").unwrap_or(0) << 32) + rates[0] + rates[1])
        },
    },
    Column {
        title: "OUT/S",
        width: 6,
        grows: Grows::No,
        right: true,
        rank: 2,
        cell: |row, _| (shown(row, "out"), Tone::Plain),
        key: |row| Key::Number(rate(row, "out").unwrap_or(0)),
    },
    Column {
        title: "IN/S",
        width: 6,
        grows: Grows::No,
        right: true,
        rank: 2,
        cell: |row, _| (shown(row, "in"), Tone::Plain),
        key: |row| Key::Number(rate(row, "in").unwrap_or(0)),
    },
    Column {
        title: "STOPPED",
        width: 7,
        grows: Grows::No,
        right: true,
        rank: 0,
        cell: |row, _| match number(row, "dropped") {
            Some(0) => ("0".to_owned(), Tone::Plain),
            Some(count) => (count.to_string(), Tone::Of(Severity::Warning)),
            None => ("–".to_owned(), Tone::Quiet),
        },
        key: |row| Key::Number(number(row, "dropped").unwrap_or(0)),
    },
    Column {
        title: "WAY OUT",
        width: 30,
        grows: Grows::Text,
        right: false,
        rank: 0,
        cell: |row, _| match sample(row) {
            Some(sample) if is_hosts(sample) => ("on the host's network".to_owned(), Tone::Quiet),
            Some(sample) => match worst(sample) {
                Some(place) => (format!("✗ {place}"), Tone::Of(Severity::Warning)),
                None => (lines(sample, "out").join("   "), Tone::Plain),
            },
            None => (String::new(), Tone::Quiet),
        },
        key: |row| Key::Text(sample(row).map(|sample| lines(sample, "out").join("   ")).unwrap_or_default()),
    },
];

fn sample(row: &Row) -> Option<&SampleRow> {
    row.samples.get("net").map(AsRef::as_ref)
}

fn number(row: &Row, key: &str) -> Option<u64> {
    sample(row)?.fields.get(key).and_then(Value::as_u64)
}

fn is_hosts(sample: &SampleRow) -> bool {
    sample.fields.get("network").and_then(Value::as_str) == Some("host")
}

fn list<'a>(sample: &'a SampleRow, key: &str) -> impl Iterator<Item = &'a Value> {
    sample.fields.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// Where most packets stop: `netfilter on br0`.
fn worst(sample: &SampleRow) -> Option<String> {
    let stop = list(sample, "stops").max_by_key(|stop| stop["packets"].as_u64())?;
    let on = stop["device"].as_str().map_or_else(String::new, |device| format!(" on {device}"));
    Some(stop["hop"].as_str().unwrap_or("?").to_owned() + &on)
}

/// Packets a second of the container's own devices; `None`: those of one are not known.
fn rate(row: &Row, flow: &str) -> Option<u64> {
    net::own(sample(row).filter(|sample| !is_hosts(sample))?, flow, "packets_per_s")
}

fn shown(row: &Row, flow: &str) -> String {
    rate(row, flow).map_or_else(|| "–".to_owned(), |rate| rate.to_string())
}

const CONTAINER_DEVICE: &str = "container device";

/// A device on the way.
struct Node<'a> {
    /// The container's own device that its way leads by.
    through: &'a Value,
    hop: &'a str,
    device: &'a str,
    place: (Option<u64>, Option<u64>),
    packets: Option<u64>,
    untranslated: u64,
    mtu: Option<u64>,
}

/// Each device once, in the order of the way: a bridge receives, and sends.
fn nodes<'a>(sample: &'a SampleRow, flow: &str) -> Vec<Node<'a>> {
    let mut nodes: Vec<Node> = Vec::new();
    for hop in list(sample, "hops").filter(|hop| hop["flow"] == flow && hop["device"] != "lo") {
        let place = (hop["netns"].as_u64(), hop["ifindex"].as_u64());
        let packets = hop["packets"].as_u64();
        let through = &hop["through"];
        if let Some(known) = nodes.iter_mut().find(|node| node.place == place && node.through == through) {
            known.packets = known.packets.max(packets);
            continue;
        }
        nodes.push(Node {
            through,
            hop: hop["hop"].as_str().unwrap_or_default(),
            device: hop["device"].as_str().unwrap_or("?"),
            place,
            packets,
            untranslated: hop["untranslated"].as_u64().or(packets).unwrap_or(0),
            mtu: hop["mtu_bytes"].as_u64(),
        });
    }
    nodes
}

/// A line for each of the container's own devices; none: nothing passed, and nothing stopped.
fn lines(sample: &SampleRow, flow: &str) -> Vec<String> {
    let nodes = nodes(sample, flow);
    let mut stops: Vec<&Value> =
        list(sample, "stops").filter(|stop| stop["flow"].as_str().unwrap_or("out") == flow).collect();
    let mut ways: Vec<&[Node]> = nodes.chunk_by(|one, next| one.through == next.through).collect();
    if ways.is_empty() && !stops.is_empty() {
        ways.push(&[]);
    }
    let last = ways.len().saturating_sub(1);
    let mut lines = Vec::new();
    for (at, way) in ways.into_iter().enumerate() {
        // What stops at a device of no way is told with the last.
        let own: Vec<&Value> = stops.extract_if(.., |stop| at == last || is_on(way, stop)).collect();
        lines.push(line(way, &own, flow));
    }
    lines
}

fn is_on(way: &[Node], stop: &Value) -> bool {
    way.iter().any(|node| node.place == (stop["netns"].as_u64(), stop["ifindex"].as_u64()))
}

/// `eth0 11 ─► veth12 11 ─► br0 11 ─✗ 7 netfilter ─► nat ─► up0 4`
fn line(nodes: &[Node], stops: &[&Value], flow: &str) -> String {
    let places: Vec<usize> = stops.iter().map(|stop| after(nodes, stop, flow)).collect();
    let mut line = String::new();
    let marks = |line: &mut String, at: usize, hop: &str| {
        for (stop, _) in stops.iter().zip(&places).filter(|(_, place)| **place == at) {
            let own = stop["hop"].as_str().unwrap_or("?");
            let _ = write!(line, " ─✗ {}", stop["packets"].as_u64().unwrap_or(0));
            if own != hop {
                let _ = write!(line, " {own}");
            }
        }
    };
    if places.contains(&0) {
        line.push_str(if flow == "out" { "programs" } else { "outside" });
        marks(&mut line, 0, "");
    }
    // In what a packet to the container was before is not known: its address is the host's then.
    let uplink = nodes.iter().find(|node| node.hop == "uplink" && flow == "out");
    let is_translated = |node: &Node| node.untranslated.saturating_mul(2) < node.packets.unwrap_or(0);
    let between = uplink.map(|node| if is_translated(node) { "nat" } else { "forward" });
    for (at, node) in nodes.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| nodes[before].hop);
        if node.hop == "uplink"
            && matches!(before, Some("bridge" | "host veth"))
            && let Some(between) = between
        {
            let _ = write!(line, " ─► {between}");
        }
        let arrow = if line.is_empty() { "" } else { " ─► " };
        let _ = write!(line, "{arrow}{} {}", node.device, net::passed(node.packets));
        marks(&mut line, at + 1, node.hop);
    }
    line
}

/// Behind how many of the devices it stops.
fn after(nodes: &[Node], stop: &Value, flow: &str) -> usize {
    let place = (stop["netns"].as_u64(), stop["ifindex"].as_u64());
    let rules = matches!(stop["hop"].as_str(), Some("netfilter" | "routing"));
    if let Some(at) = nodes.iter().position(|node| node.place == place) {
        // The container's own rules come before its device has the packet.
        return if rules && flow == "out" && nodes[at].hop == CONTAINER_DEVICE { at } else { at + 1 };
    }
    let inside = place.0.is_some() && nodes.iter().any(|node| node.hop == CONTAINER_DEVICE && node.place.0 == place.0);
    match stop["hop"].as_str() {
        Some(CONTAINER_DEVICE) if flow == "out" => 0,
        Some("netfilter" | "routing") if inside => {
            if flow == "out" {
                0
            } else {
                nodes.len()
            }
        }
        Some("netfilter" | "routing") => {
            nodes.iter().position(|node| node.hop == "uplink").filter(|_| flow == "out").unwrap_or(nodes.len())
        }
        hop => nodes.iter().rposition(|node| Some(node.hop) == hop).map_or(nodes.len(), |at| at + 1),
    }
}

fn detail(row: &Row, look: &Look, depth: Depth) -> Doc {
    let mut doc = Doc::default();
    if row.finding.code != QUIET {
        doc.answer(row.finding.severity, &row.finding.summary);
    }
    match sample(row) {
        None => doc.quiet("", "no numbers of its network yet"),
        Some(sample) if is_hosts(sample) => {
            doc.quiet("", "it is on the host's network, where its packets cannot be told from others'");
            doc.row("see", net::hosts_view(&table::name(sample)));
        }
        Some(sample) => way(&mut doc, sample),
    }
    if row.finding.code != QUIET {
        doc.blank();
        if !row.finding.why.is_empty() {
            doc.row("why", &row.finding.why);
        }
        evidence::fixes(&mut doc, &row.finding.fix);
    }
    if depth == Depth::Full {
        if !row.followers.is_empty() {
            doc.heading("what was found here, the newest first");
        }
        for finding in &row.followers {
            doc.push(Item::Row(look.time(finding.time).into(), finding.summary.clone(), Tone::Of(finding.severity)));
        }
    }
    doc
}

fn way(doc: &mut Doc, sample: &SampleRow) {
    for flow in ["out", "in"] {
        let lines = lines(sample, flow);
        if lines.is_empty() {
            doc.row(flow, "nothing so far".to_owned());
        }
        for line in lines {
            doc.row(flow, line);
        }
    }
    for stop in list(sample, "stops") {
        let text = |key: &str| stop[key].as_str();
        let on = text("device").map_or_else(String::new, |device| format!(" on {device}"));
        let why = text("reason").map_or_else(String::new, |reason| format!(": {reason}"));
        let line = format!("{} at {}{on}{why}", stop["packets"].as_u64().unwrap_or(0), text("hop").unwrap_or("?"));
        doc.push(Item::Row("stopped".into(), line, Tone::Of(Severity::Warning)));
    }
    let nodes = nodes(sample, "out");
    let mtus: Vec<(&str, u64)> = nodes.iter().filter_map(|node| Some((node.device, node.mtu?))).collect();
    let (first, least) = (mtus.first(), mtus.iter().min_by_key(|(_, mtu)| *mtu));
    if let Some(((own, mtu), (device, least))) = first.zip(least) {
        if least < mtu {
            let line = format!("{own} {mtu}, {device} {least}: larger packets stop there, or are cut");
            doc.push(Item::Row("MTU".into(), line, Tone::Of(Severity::Info)));
        } else {
            doc.quiet("MTU", format!("{mtu} all the way"));
        }
    }
    let took: Vec<String> = list(sample, "hops")
        .filter(|hop| hop["flow"] == "out")
        .filter_map(|hop| Some(format!("{} {}", hop["device"].as_str()?, span(hop["since_container_ns"].as_u64()?))))
        .collect();
    if !took.is_empty() {
        doc.quiet("took", took.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Timestamp, Unknown};

    fn hop(flow: &str, hop: &str, device: &str, ifindex: u64, packets: u64) -> Value {
        let netns = if hop == CONTAINER_DEVICE { 2 } else { 1 };
        json!({"flow": flow, "hop": hop, "device": device, "netns": netns, "ifindex": ifindex, "packets": packets, "untranslated": packets})
    }

    fn stop(flow: Option<&str>, hop: &str, netns: u64, ifindex: u64) -> Value {
        json!({"flow": flow, "hop": hop, "device": "x", "netns": netns, "ifindex": ifindex, "reason": null, "packets": 7})
    }

    fn said(flow: &str, stops: &[Value]) -> String {
        let hops = json!([
            hop("out", CONTAINER_DEVICE, "eth0", 2, 11),
            hop("out", "host veth", "hv1", 7, 11),
            hop("out", "bridge", "br0", 5, 11),
            hop("out", "uplink", "up0", 6, 4),
            hop("in", "bridge", "br0", 5, 3),
            hop("in", "host veth", "hv1", 7, 3),
            hop("in", CONTAINER_DEVICE, "eth0", 2, 3),
            hop("in", CONTAINER_DEVICE, "lo", 1, 99),
        ]);
        lines(&row(&hops, stops), flow).join("\n")
    }

    fn row(hops: &Value, stops: &[Value]) -> SampleRow {
        let fields = json!({"hops": hops, "stops": stops});
        SampleRow {
            time: Timestamp(0),
            sample: "net",
            container: None,
            cgroup: None,
            fields: fields.as_object().cloned().unwrap_or_default(),
            unknown: Unknown::new(),
        }
    }

    #[test]
    fn hops_in_a_line() {
        assert_eq!(said("out", &[]), "eth0 11 ─► hv1 11 ─► br0 11 ─► forward ─► up0 4");
        assert_eq!(said("in", &[]), "br0 3 ─► hv1 3 ─► eth0 3");
        assert!(lines(&row(&json!([]), &[]), "out").is_empty());
        let mut translated = hop("out", "uplink", "up0", 6, 4);
        translated["untranslated"] = json!(1);
        let hops = json!([hop("out", "host veth", "hv1", 7, 4), translated]);
        assert_eq!(lines(&row(&hops, &[]), "out"), ["hv1 4 ─► nat ─► up0 4"]);
        let mut unheard = hop("in", CONTAINER_DEVICE, "own0", 2, 0);
        unheard["packets"] = Value::Null;
        let hops = json!([hop("in", "uplink", "up0", 6, 7), unheard]);
        assert_eq!(lines(&row(&hops, &[]), "in"), ["up0 7 ─► own0 (not counted)"]);
    }

    /// A bridge or an uplink may be on both ways.
    #[test]
    fn two_networks_are_two_ways() {
        let by = |through: &str, mut hop: Value| {
            hop["through"] = json!(through);
            hop
        };
        let hops = json!([
            by("eth0", hop("out", CONTAINER_DEVICE, "eth0", 2, 11)),
            by("eth0", hop("out", "uplink", "up0", 6, 11)),
            by("eth1", hop("out", CONTAINER_DEVICE, "eth1", 3, 4)),
            by("eth1", hop("out", "host veth", "hv2", 8, 4)),
            by("eth1", hop("out", "uplink", "up0", 6, 4)),
        ]);
        let stops = [stop(Some("out"), "host veth", 1, 8), stop(Some("out"), "uplink", 1, 6)];
        assert_eq!(
            lines(&row(&hops, &stops), "out"),
            ["eth0 11 ─► up0 11 ─✗ 7", "eth1 4 ─► hv2 4 ─✗ 7 ─► forward ─► up0 4"]
        );
    }

    #[test]
    fn the_place_where_they_stop_is_marked() {
        let marked = |flow, stop| said(flow, &[stop]);
        for (stop, expected) in [
            (stop(Some("out"), "netfilter", 1, 5), "eth0 11 ─► hv1 11 ─► br0 11 ─✗ 7 netfilter ─► forward ─► up0 4"),
            (stop(Some("out"), "bridge", 1, 7), "eth0 11 ─► hv1 11 ─✗ 7 bridge ─► br0 11 ─► forward ─► up0 4"),
            (stop(Some("out"), "uplink", 1, 6), "eth0 11 ─► hv1 11 ─► br0 11 ─► forward ─► up0 4 ─✗ 7"),
            // Its own rules come first.
            (
                stop(Some("out"), "netfilter", 2, 2),
                "programs ─✗ 7 netfilter ─► eth0 11 ─► hv1 11 ─► br0 11 ─► forward ─► up0 4",
            ),
            // On no device that was passed.
            (stop(None, "routing", 1, 99), "eth0 11 ─► hv1 11 ─► br0 11 ─✗ 7 routing ─► forward ─► up0 4"),
        ] {
            assert_eq!(marked("out", stop), expected);
        }
        assert_eq!(marked("in", stop(Some("out"), "bridge", 1, 7)), "br0 3 ─► hv1 3 ─► eth0 3", "the other way");
        assert_eq!(marked("in", stop(Some("in"), "netfilter", 2, 2)), "br0 3 ─► hv1 3 ─► eth0 3 ─✗ 7 netfilter");
        let nothing = row(&json!([]), &[stop(Some("out"), "netfilter", 2, 2)]);
        assert_eq!(lines(&nothing, "out"), ["programs ─✗ 7 netfilter"]);
    }
}
