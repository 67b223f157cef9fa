//! What `ctrace net` adds to lines: the way of each container's packets, and the numbers of its findings.

use serde_json::Value;

use super::{
    escape::escape,
    lines::row,
    table::{Line, Shape, name},
};
use crate::{model::Finding, pipeline::SampleRow};

pub static TABLE: Shape = Shape { sample: "net", codes: &["net."], head, line, rank, below: |_| None };

fn number(sample: &SampleRow, key: &str) -> Option<u64> {
    sample.fields.get(key).and_then(Value::as_u64)
}

fn hops<'a>(sample: &'a SampleRow, flow: &'a str) -> impl Iterator<Item = &'a Value> {
    let hops = sample.fields.get("hops").and_then(Value::as_array).into_iter().flatten();
    hops.filter(move |hop| hop["flow"] == flow)
}

/// Packets of the container's own device.
fn own(sample: &SampleRow, flow: &str, key: &str) -> u64 {
    let own = hops(sample, flow).filter(|hop| hop["hop"] == "container device" && hop["device"] != "lo");
    own.filter_map(|hop| hop[key].as_u64()).sum()
}

/// By what was lost, then by what passed.
fn rank(sample: &SampleRow) -> u64 {
    let lost = number(sample, "dropped").unwrap_or(0);
    lost.saturating_mul(1 << 32)
        .saturating_add(own(sample, "out", "packets"))
        .saturating_add(own(sample, "in", "packets"))
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
    let rate = |flow: &str| if host { "-".to_owned() } else { own(sample, flow, "packets_per_s").to_string() };
    let ways: Vec<String> = ["out", "in"].into_iter().flat_map(|flow| ways(sample, flow)).collect();
    let last = if host { "on the host's network".to_owned() } else { ways.join("   ") };
    Line { name: name(sample), numbers: vec![rate("out"), rate("in"), shown("dropped"), shown("refused")], last }
}

/// `out: eth0 3 → hv1 3 → br0 3`, one for each device of the container's that packets leave or come by.
fn ways(sample: &SampleRow, flow: &str) -> Vec<String> {
    let shown: Vec<&Value> = hops(sample, flow).filter(|hop| hop["device"] != "lo").collect();
    let way = |hops: &[&Value]| {
        let hop = |hop: &&Value| {
            format!("{} {}", hop["device"].as_str().unwrap_or("?"), hop["packets"].as_u64().unwrap_or(0))
        };
        format!("{flow}: {}", hops.iter().map(hop).collect::<Vec<_>>().join(" → "))
    };
    shown.chunk_by(|one, next| one["through"] == next["through"]).map(way).collect()
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
