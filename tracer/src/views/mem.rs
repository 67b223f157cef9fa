//! What `ctrace mem` adds to lines: the table of containers, and the numbers of its findings.

use serde_json::Value;

use super::{
    escape::escape,
    lines::{row, unknown},
    table::{Line, Shape, name},
};
use crate::{
    model::{Finding, size},
    pipeline::SampleRow,
};

pub static TABLE: Shape = Shape { sample: "mem", codes: &["mem."], head, line, rank, below: |_| None };

/// Column and field, in bytes.
const BYTES: [(&str, &str); 8] = [
    ("USED", "usage_bytes"),
    ("LIMIT", "limit_bytes"),
    ("WSET", "working_set_bytes"),
    ("ANON", "anon_bytes"),
    ("CACHE", "file_bytes"),
    ("DIRTY", "dirty_bytes"),
    ("SHMEM", "shmem_bytes"),
    ("SWAP", "swap_bytes"),
];

/// Used of the nearest limit, in ten-thousandths; behind those, by size.
fn rank(sample: &SampleRow) -> u64 {
    let number = |key: &str| sample.fields.get(key).and_then(Value::as_u64);
    let share = number("limiting_usage_bytes").zip(number("limit_bytes"));
    let share = share.map_or(0, |(used, limit)| used.saturating_mul(10_000) / limit.max(1));
    (share.min(u64::from(u32::MAX)) << 32).saturating_add(number("usage_bytes").unwrap_or(0) >> 16)
}

fn head() -> Line {
    let numbers = BYTES.iter().map(|(title, _)| (*title).to_owned());
    let rates = ["FULL", "REFAULT/S", "STALLED"].map(str::to_owned);
    Line { name: "CONTAINER".to_owned(), numbers: numbers.chain(rates).collect(), last: "LIMIT OF".to_owned() }
}

fn line(sample: &SampleRow) -> Line {
    let field = |key: &str| sample.fields.get(key).and_then(Value::as_u64);
    let shown = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let has_swap = field("swap_total_bytes") != Some(0);
    let bytes = |key: &str| {
        if key == "swap_bytes" && !has_swap { "none".to_owned() } else { shown(field(key).map(short)) }
    };
    let mut numbers: Vec<String> = BYTES.iter().map(|(_, key)| bytes(key)).collect();
    let full = field("limiting_usage_bytes").zip(field("limit_bytes"));
    numbers.push(shown(full.map(|(used, limit)| format!("{} %", used.saturating_mul(100) / limit.max(1)))));
    numbers.push(shown(field("refaults_file_per_s").map(|rate| rate.to_string())));
    let float = |key: &str| sample.fields.get(key).and_then(Value::as_f64);
    let stalled = float("reclaim_stall_pct").map(|pct| pct + float("high_stall_pct").unwrap_or(0.0));
    numbers.push(shown(stalled.map(|pct| format!("{pct:.0} %"))));
    let last = sample.fields.get("limiting_cgroup").and_then(Value::as_str).unwrap_or("no limit");
    Line { name: name(sample), numbers, last: last.to_owned() }
}

/// `512M`, `1.5G`.
pub fn short(bytes: u64) -> String {
    let scaled = |shift: u32| bytes as f64 / (1_u64 << shift) as f64;
    match bytes {
        0 => "0".to_owned(),
        b if b < 1 << 20 => format!("{:.0}K", scaled(10)),
        b if b < 1 << 30 => format!("{:.0}M", scaled(20)),
        _ => format!("{:.1}G", scaled(30)),
    }
}

/// The numbers below a finding's first line.
pub fn body(finding: &Finding, out: &mut String) {
    let number = |key: &str| finding.evidence.get(key).and_then(Value::as_u64);
    let numbers: Vec<String> = [
        ("limit", "limit_bytes"),
        ("usage", "usage_bytes"),
        ("anon", "anon_bytes"),
        ("file", "file_bytes"),
        ("shmem", "shmem_bytes"),
        ("kernel", "kernel_bytes"),
        ("swap", "swap_bytes"),
        ("working set", "working_set_bytes"),
    ]
    .iter()
    .map(|(name, key)| format!("{name} {}", number(key).map_or_else(|| "unknown".to_owned(), size)))
    .collect();
    row(out, "memory", &numbers.join("   "));
    for stalled in finding.evidence.get("processes").and_then(Value::as_array).into_iter().flatten() {
        let process = &stalled["process"];
        let comm = escape(process["comm"].as_str().unwrap_or("?")).into_owned();
        let ms = stalled["stalled_ns"].as_u64().unwrap_or(0) / 1_000_000;
        let stalls = stalled["stalls"].as_u64().unwrap_or(0);
        row(out, "stalled", &format!("{comm} {}   {ms} ms in {stalls} stalls", process["pid"].as_u64().unwrap_or(0)));
    }
    if let Some(limiting) = finding.evidence.get("limiting_cgroup").and_then(Value::as_str) {
        row(out, "limit of", &escape(limiting));
    }
    unknown(out, finding, |_| true);
}
