//! What `ctrace net` adds to lines: the way of each container's packets, and the numbers of its findings.

use jiff::tz::TimeZone;
use serde_json::Value;

use super::{
    escape::escape,
    lines::row,
    table::{Line, Shape, name},
};
use crate::{
    model::{Finding, span},
    pipeline::{EventRow, SampleRow},
};

pub static TABLE: Shape = Shape { sample: "net", codes: &["net."], head, line, rank, below: |_| None };

fn number(sample: &SampleRow, key: &str) -> Option<u64> {
    sample.fields.get(key).and_then(Value::as_u64)
}

fn hops<'a>(sample: &'a SampleRow, flow: &'a str) -> impl Iterator<Item = &'a Value> {
    let hops = sample.fields.get("hops").and_then(Value::as_array).into_iter().flatten();
    hops.filter(move |hop| hop["flow"] == flow)
}

/// Packets of the container's own devices; `None`: those of one are not known.
pub fn own(sample: &SampleRow, flow: &str, key: &str) -> Option<u64> {
    let mut own = hops(sample, flow).filter(|hop| hop["hop"] == "container device" && hop["device"] != "lo");
    own.try_fold(0_u64, |sum, hop| Some(sum.saturating_add(hop[key].as_u64()?)))
}

/// By what was lost, then by what passed.
fn rank(sample: &SampleRow) -> u64 {
    let lost = number(sample, "dropped").unwrap_or(0);
    lost.saturating_mul(1 << 32)
        .saturating_add(own(sample, "out", "packets").unwrap_or(0))
        .saturating_add(own(sample, "in", "packets").unwrap_or(0))
}

fn head() -> Line {
    let numbers = ["OUT/S", "IN/S", "STOPPED", "REFUSED"].map(str::to_owned).to_vec();
    Line { name: "CONTAINER".to_owned(), numbers, last: "PACKETS BY HOP".to_owned() }
}

fn line(sample: &SampleRow) -> Line {
    if sample.container.is_none() {
        let other = number(sample, "other_drops").unwrap_or(0);
        let last = format!("{other} drops of no container");
        return Line { name: name(sample), numbers: vec!["-".to_owned(); 4], last };
    }
    let shown = |key: &str| number(sample, key).map_or_else(|| "-".to_owned(), |count| count.to_string());
    let host = sample.fields.get("network").and_then(Value::as_str) == Some("host");
    let own = |flow: &str| own(sample, flow, "packets_per_s").filter(|_| !host);
    let rate = |flow: &str| own(flow).map_or_else(|| "-".to_owned(), |rate| rate.to_string());
    let ways: Vec<String> = ["out", "in"].into_iter().flat_map(|flow| ways(sample, flow)).collect();
    let last = if host { format!("on the host's network: {}", hosts_view(&name(sample))) } else { ways.join("   ") };
    Line { name: name(sample), numbers: vec![rate("out"), rate("in"), shown("dropped"), shown("refused")], last }
}

/// Where there is more to see of a container on the host's network.
pub fn hosts_view(container: &str) -> String {
    format!("`ctrace containers {container}` shows the host's devices, routes and rules, `ctrace net` its drops")
}

/// `out: eth0 3 → hv1 3 → br0 3`, one for each device of the container's that packets leave or come by.
fn ways(sample: &SampleRow, flow: &str) -> Vec<String> {
    let shown: Vec<&Value> = hops(sample, flow).filter(|hop| hop["device"] != "lo").collect();
    let way = |hops: &[&Value]| {
        let hop =
            |hop: &&Value| format!("{} {}", hop["device"].as_str().unwrap_or("?"), passed(hop["packets"].as_u64()));
        format!("{flow}: {}", hops.iter().map(hop).collect::<Vec<_>>().join(" → "))
    };
    shown.chunk_by(|one, next| one["through"] == next["through"]).map(way).collect()
}

/// How many passed a hop.
pub fn passed(packets: Option<u64>) -> String {
    packets.map_or_else(|| "(not counted)".to_owned(), |packets| packets.to_string())
}

/// A packet that was followed.
pub fn packet_line(event: &EventRow, zone: &TimeZone) -> String {
    let name = event.container.as_ref().map_or_else(|| "host".to_owned(), |container| container.label());
    format!("{}  {}  {}\n", event.time.clock(zone), escape(&name), escape(&packet_way(event)))
}

/// `packet 1 out udp 10.97.0.2:4000 → 10.98.0.2:4711, 128 bytes: eth0 → 3.1 µs hv1 → 1.2 µs br0 ─✗ 2.0 µs netfilter
/// (NETFILTER_DROP in nft_do_chain)`. Not escaped.
pub fn packet_way(event: &EventRow) -> String {
    let field = |key: &str| event.fields.get(key).unwrap_or(&Value::Null);
    let text = |value: &Value, key: &str| value[key].as_str().map(str::to_owned);
    let fields = Value::Object(event.fields.clone());
    let flow = text(&fields, "flow").map_or_else(String::new, |flow| format!(" {flow}"));
    let protocol = text(&fields, "protocol").unwrap_or_else(|| "unreadable".to_owned());
    let length = field("length_bytes").as_u64().map_or_else(String::new, |bytes| format!(", {bytes} bytes"));
    let (from, to) = (end(&fields, "source"), end(&fields, "destination"));
    let again = if field("continues") == &Value::Bool(true) { " goes on" } else { "" };
    let mut way = format!("packet {}{again}{flow} {protocol} {from} → {to}{length}:", field("packet"));
    let took = |step: &Value| step["took_ns"].as_u64().map_or_else(String::new, |ns| format!(" {}", micros(ns)));
    for (at, hop) in field("hops").as_array().into_iter().flatten().enumerate() {
        let arrow = if at == 0 && again.is_empty() { "" } else { " →" };
        let device = text(hop, "device").unwrap_or_else(|| "?".to_owned());
        way.push_str(&format!("{arrow}{} {device}", took(hop)));
        if hop["source"].is_string() {
            way.push_str(&format!(" (now {} → {})", end(hop, "source"), end(hop, "destination")));
        }
    }
    let stopped = field("stopped");
    if stopped.is_object() {
        let mark = if stopped["lost"] == Value::Bool(false) { "─■" } else { "─✗" };
        let why: Vec<String> = ["reason", "location"].into_iter().filter_map(|key| text(stopped, key)).collect();
        let at = text(stopped, "hop").map_or_else(String::new, |hop| format!(" {hop}"));
        let on = text(stopped, "device").map_or_else(String::new, |device| format!(" on {device}"));
        way.push_str(&format!(" {mark}{}{at}{on} ({})", took(stopped), why.join(" in ")));
    }
    way
}

/// `10.97.0.2:4000`, `[fd00::2]:53`.
fn end(packet: &Value, which: &str) -> String {
    let address = packet[which].as_str().unwrap_or("?");
    match packet[format!("{which}_port")].as_u64() {
        Some(port) if address.contains(':') => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
        None => address.to_owned(),
    }
}

/// Steps take some microseconds: `3.1 µs`.
fn micros(ns: u64) -> String {
    if ns < 1_000_000 { format!("{}.{} µs", ns / 1000, ns % 1000 / 100) } else { span(ns) }
}

/// The numbers below a finding's first line.
pub fn body(finding: &Finding, out: &mut String) {
    if finding.code.0 != "net.dropped" {
        return;
    }
    let text = |key: &str| {
        let text = finding.evidence.get(key).and_then(Value::as_str);
        text.map_or_else(|| "unknown".to_owned(), |text| escape(text).into_owned())
    };
    row(
        out,
        "stopped",
        &format!(
            "hop {}   device {}   reason {}   in {}",
            text("hop"),
            text("device"),
            text("reason"),
            text("location")
        ),
    );
    if let Some(packet) = finding.evidence.get("first_packet").filter(|packet| packet.is_object()) {
        let end = |address: &str, port: &str| {
            let port = packet[port].as_u64().map_or_else(String::new, |port| format!(" port {port}"));
            format!("{}{port}", escape(packet[address].as_str().unwrap_or("?")))
        };
        let length = packet["length_bytes"].as_u64().map_or_else(String::new, |bytes| format!(", {bytes} bytes"));
        row(
            out,
            "the first",
            &format!(
                "{} from {} to {}{length}",
                packet["protocol"].as_str().unwrap_or("?"),
                end("source", "source_port"),
                end("destination", "destination_port")
            ),
        );
    }
    for (field, reason) in &finding.unknown {
        row(out, "unknown", &format!("{field}: {}", escape(reason)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Timestamp, Unknown};

    fn said(fields: &Value) -> String {
        let fields = fields.as_object().cloned().unwrap_or_default();
        let (container, unknown) = (None, Unknown::new());
        packet_way(&EventRow {
            time: Timestamp(0),
            event: "packet",
            container,
            cgroup: None,
            process: None,
            fields,
            unknown,
        })
    }

    #[test]
    fn what_is_not_counted_is_no_number() {
        let hop = |flow: &str, hop: &str, device: &str, packets: Value| json!({"flow": flow, "hop": hop, "device": device, "packets": packets, "packets_per_s": packets});
        let own = |flow: &str, packets: Value| hop(flow, "container device", "own0", packets);
        let hops = [own("out", json!(3)), hop("in", "uplink", "up0", json!(7)), own("in", Value::Null)];
        let fields = json!({"hops": hops});
        let sample = SampleRow {
            time: Timestamp(0),
            sample: "net",
            cgroup: None,
            container: None,
            fields: fields.as_object().cloned().unwrap_or_default(),
            unknown: Unknown::new(),
        };
        let rates = ["out", "in"].map(|flow| super::own(&sample, flow, "packets_per_s"));
        assert_eq!(rates, [Some(3), None]);
        assert_eq!(ways(&sample, "in"), ["in: up0 7 → own0 (not counted)"]);
    }

    #[test]
    fn the_way_of_a_packet() {
        let stopped = json!({"hop": "netfilter", "device": "br0", "reason": "NETFILTER_DROP", "location": "nft_do_chain",
            "lost": true, "took_ns": 2040});
        let mut packet = json!({"packet": 1, "flow": "out", "protocol": "udp", "source": "10.97.0.2", "source_port": 4000,
        "destination": "10.98.0.2", "destination_port": 4711, "length_bytes": 128, "stopped": stopped, "hops": [
            {"device": "eth0", "direction": "xmit"}, {"device": "br0", "direction": "receive", "took_ns": 3199},
        ]});
        assert_eq!(
            said(&packet),
            "packet 1 out udp 10.97.0.2:4000 → 10.98.0.2:4711, 128 bytes: eth0 → 3.1 µs br0 \
             ─✗ 2.0 µs netfilter on br0 (NETFILTER_DROP in nft_do_chain)"
        );
        packet["stopped"] = json!({"lost": false, "location": "tcp_v4_rcv"});
        packet["hops"][1]["source"] = json!("fd00::2");
        packet["hops"][1]["source_port"] = json!(1);
        assert!(
            said(&packet).ends_with("eth0 → 3.1 µs br0 (now [fd00::2]:1 → ?) ─■ (tcp_v4_rcv)"),
            "{}",
            said(&packet)
        );
        let again = json!({"packet": 2, "flow": null, "continues": true, "hops": [{"device": "up0", "took_ns": 3_000_000_000_u64}]});
        assert_eq!(said(&again), "packet 2 goes on unreadable ? → ?: → 3.0 s up0");
    }
}
