//! What `ctrace io` adds to lines: the table of containers, and the numbers of its findings.

use serde_json::Value;

use super::{
    escape::escape,
    lines::{row, unknown},
    mem::short,
    table::{Line, Shape, name},
};
use crate::{
    model::{Finding, size, span},
    pipeline::SampleRow,
};

pub static TABLE: Shape = Shape { sample: "io", codes: &["io.", "fs."], head, line, rank, below };

fn number(sample: &SampleRow, key: &str) -> u64 {
    sample.fields.get(key).and_then(Value::as_u64).unwrap_or(0)
}

/// By bytes, and by time in pauses and syncs.
fn rank(sample: &SampleRow) -> u64 {
    let keys = ["read_bytes_per_s", "write_bytes_per_s", "paused_ns", "sync_ns"];
    keys.iter().fold(0, |sum: u64, key| sum.saturating_add(number(sample, key)))
}

fn head() -> Line {
    let numbers = ["READ/S", "WRITE/S", "READS/S", "WRITES/S", "QUEUED", "DEVICE", "PAUSED", "SYNCING"]
        .map(str::to_owned)
        .to_vec();
    Line { name: "CONTAINER".to_owned(), numbers, last: "DEVICES".to_owned() }
}

fn line(sample: &SampleRow) -> Line {
    let known = |key: &str| sample.fields.get(key).and_then(Value::as_u64);
    let none = || "-".to_owned();
    let time = |key: &str| known(key).map_or_else(none, span);
    let window = number(sample, "window_ns").max(1);
    // Of all its tasks: it may be more than 100.
    let share =
        |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), |ns| format!("{} %", ns.saturating_mul(100) / window));
    let numbers = vec![
        known("read_bytes_per_s").map_or_else(none, short),
        known("write_bytes_per_s").map_or_else(none, short),
        known("reads_per_s").map_or_else(none, |count| count.to_string()),
        known("writes_per_s").map_or_else(none, |count| count.to_string()),
        time("queued_ns"),
        time("device_ns"),
        share(known("paused_ns")),
        share(known("sync_ns")),
    ];
    let devices = sample.fields.get("devices").and_then(Value::as_array).into_iter().flatten();
    let devices: Vec<&str> = devices.filter_map(|device| device["device"].as_str()).collect();
    let devices = devices.join(" ");
    let last = held(sample).map_or_else(|| devices.clone(), |held| format!("{devices} ({held})"));
    Line { name: name(sample), numbers, last: last.trim().to_owned() }
}

/// What the cgroup sets on devices that is no default.
fn held(sample: &SampleRow) -> Option<String> {
    /// Of io.weight and of io.bfq.weight.
    const DEFAULT_WEIGHT: u64 = 100;
    let rows = |key: &str| sample.fields.get(key).and_then(Value::as_array).into_iter().flatten();
    let limited = rows("limits").next().map(|_| "limited".to_owned());
    let shares = rows("weights").flat_map(|weights| {
        let own = weights["weight"].as_u64().filter(|weight| *weight != DEFAULT_WEIGHT);
        let devices = weights["devices"].as_array().into_iter().flatten();
        let of = |row: &Value| Some(format!("weight {} on {}", row["weight"].as_u64()?, row["device"].as_str()?));
        own.map(|weight| format!("weight {weight}")).into_iter().chain(devices.filter_map(of)).collect::<Vec<_>>()
    });
    let held: Vec<String> = limited.into_iter().chain(shares).collect();
    (!held.is_empty()).then(|| held.join(", "))
}

/// How full its root is.
fn below(sample: &SampleRow) -> Option<String> {
    let upper = sample.fields.get("upper").and_then(Value::as_str)?;
    let bytes = |key: &str| sample.fields.get(key).and_then(Value::as_u64).map(size);
    let own = match (bytes("upper_used_bytes"), bytes("upper_limit_bytes")) {
        (Some(used), Some(limit)) => format!("{used} of its quota of {limit}"),
        _ => "no quota: how much is its own is not known".to_owned(),
    };
    let mount = sample.fields.get("upper_disk_mount").and_then(Value::as_str).unwrap_or("(where is not known)");
    let disk = match (bytes("upper_disk_used_bytes"), bytes("upper_disk_bytes")) {
        (Some(used), Some(all)) => format!("{used} of {all} used by all"),
        _ => "how full is not known".to_owned(),
    };
    Some(format!("  writes to {upper}: {own}; {mount}: {disk}"))
}

/// The numbers below a finding's first line.
pub fn body(finding: &Finding, out: &mut String) {
    for (label, text) in facts(finding) {
        row(out, label, &escape(&text));
    }
    unknown(out, finding, is_shown);
}

/// Is a number that is not known worth a word?
pub fn is_shown(field: &str) -> bool {
    !matches!(
        field,
        "upper" | "writers" | "disk_bytes" | "disk_used_bytes" | "limit_bytes_per_s" | "limit_requests_per_s"
    )
}

/// What a finding rests on, in rows of a label and a text, which is not escaped yet.
pub fn facts(finding: &Finding) -> Vec<(&'static str, String)> {
    match finding.code.0 {
        "io.dirty-throttled" => paused(finding),
        "io.slow-sync" => slow(finding),
        "fs.copy-up" => copied(finding),
        code if code.starts_with("fs.") => full(finding),
        _ => Vec::new(),
    }
}

/// What [`facts`] tells of the evidence.
pub fn told(finding: &Finding) -> &'static [&'static str] {
    match finding.code.0 {
        "io.dirty-throttled" => &[
            "dirty_bytes",
            "background_bytes",
            "limit_bytes",
            "domain",
            "inferred",
            "device_dirty_bytes",
            "device_limit_bytes",
            "written_bytes_per_s",
            "histogram",
            "processes",
        ],
        "io.slow-sync" => &["histogram", "calls"],
        "fs.copy-up" => &["path", "bytes", "took_ns"],
        code if code.starts_with("fs.") => &[
            "path",
            "file_system",
            "mount",
            "used_bytes",
            "limit_bytes",
            "inodes",
            "inodes_free",
            "writers",
            "upper",
            "disk_bytes",
            "disk_used_bytes",
        ],
        _ => &[],
    }
}

/// Numbers of a finding's evidence.
fn evidence<'a>(finding: &'a Finding, key: &str) -> Option<&'a Value> {
    finding.evidence.get(key).filter(|value| !value.is_null())
}

fn bytes(finding: &Finding, key: &str) -> String {
    evidence(finding, key).and_then(Value::as_u64).map_or_else(|| "unknown".to_owned(), size)
}

fn text<'a>(finding: &'a Finding, key: &str) -> &'a str {
    evidence(finding, key).and_then(Value::as_str).unwrap_or("unknown")
}

fn list<'a>(finding: &'a Finding, key: &str) -> impl Iterator<Item = &'a Value> {
    evidence(finding, key).and_then(Value::as_array).into_iter().flatten()
}

fn paused(finding: &Finding) -> Vec<(&'static str, String)> {
    let bytes = |key: &str| bytes(finding, key);
    let inferred = if evidence(finding, "inferred") == Some(&Value::Bool(true)) { " (inferred)" } else { "" };
    let dirty = format!(
        "{}   flushed above {}   limit {}   of {}{inferred}   on the device {} of {}   written {}/s",
        bytes("dirty_bytes"),
        bytes("background_bytes"),
        bytes("limit_bytes"),
        text(finding, "domain"),
        bytes("device_dirty_bytes"),
        bytes("device_limit_bytes"),
        bytes("written_bytes_per_s")
    );
    let mut rows = vec![("dirty", dirty), ("pauses", histogram(finding.evidence.get("histogram")))];
    rows.extend(list(finding, "processes").map(|paused| {
        let time = |key: &str| span(paused[key].as_u64().unwrap_or(0));
        let process = &paused["process"];
        let text = format!(
            "{} {}   {} in {} pauses, the longest {}",
            process["comm"].as_str().unwrap_or("?"),
            process["pid"].as_u64().unwrap_or(0),
            time("total_ns"),
            paused["pauses"].as_u64().unwrap_or(0),
            time("worst_ns")
        );
        ("writer", text)
    }));
    rows
}

fn slow(finding: &Finding) -> Vec<(&'static str, String)> {
    let mut rows = vec![("calls", histogram(finding.evidence.get("histogram")))];
    rows.extend(list(finding, "calls").map(|slow| ("waited", slow_calls(slow))));
    rows
}

fn copied(finding: &Finding) -> Vec<(&'static str, String)> {
    let took = evidence(finding, "took_ns").and_then(Value::as_u64).map_or_else(|| "unknown".to_owned(), span);
    vec![("file", text(finding, "path").to_owned()), ("copied", format!("{} in {took}", bytes(finding, "bytes")))]
}

fn full(finding: &Finding) -> Vec<(&'static str, String)> {
    let count = |key: &str| {
        evidence(finding, key).and_then(Value::as_u64).map_or_else(|| "unknown".to_owned(), |count| count.to_string())
    };
    let space = format!(
        "{} {}   used {} of {}   inodes free {} of {}",
        text(finding, "file_system"),
        text(finding, "mount"),
        bytes(finding, "used_bytes"),
        bytes(finding, "limit_bytes"),
        count("inodes_free"),
        count("inodes")
    );
    let mut rows = vec![("file", text(finding, "path").to_owned()), ("space", space)];
    rows.extend(list(finding, "writers").map(|writer| {
        let bytes = |key: &str| writer[key].as_u64().map_or_else(|| "not counted".to_owned(), size);
        let container = &writer["container"];
        let name = container["name"].as_str().or_else(|| container["id"].as_str()).unwrap_or("?");
        let text = format!(
            "{name}   charged at the disk {}   given to write by living processes {}",
            bytes("charged_bytes"),
            bytes("given_bytes")
        );
        ("wrote", text)
    }));
    if let Some(upper) = evidence(finding, "upper").and_then(Value::as_str) {
        rows.push(("upper", upper.to_owned()));
        if evidence(finding, "disk_bytes").is_some() {
            let (used, all) = (bytes(finding, "disk_used_bytes"), bytes(finding, "disk_bytes"));
            rows.push(("disk", format!("{used} of {all} used by all")));
        }
    }
    rows
}

/// `postgres 4711   fsync of 000000010000 on vda   3 of 12 slow, 1.2 s, the longest 800 ms`.
fn slow_calls(slow: &Value) -> String {
    let number = |key: &str| slow[key].as_u64().unwrap_or(0);
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let part = |word: &str, key: &str| slow[key].as_str().map_or_else(String::new, |it| format!(" {word} {it}"));
    format!(
        "{} {}   {}{}{}   {} of {} slow, {}, the longest so far {}",
        text(&slow["process"]["comm"]),
        slow["process"]["pid"].as_u64().unwrap_or(0),
        text(&slow["call"]),
        part("of", "file"),
        part("on", "file_system"),
        number("slow"),
        number("count"),
        span(number("slow_ns")),
        span(number("worst_ns"))
    )
}

/// `3 below 8 ms   1 below 256 ms`.
fn histogram(buckets: Option<&Value>) -> String {
    let buckets = buckets.and_then(Value::as_array).into_iter().flatten();
    let text = buckets.map(|bucket| {
        let count = bucket["count"].as_u64().unwrap_or(0);
        match bucket["below_ns"].as_u64() {
            Some(bound) => format!("{count} below {}", span(bound)),
            None => format!("{count} longer"),
        }
    });
    text.collect::<Vec<_>>().join("   ")
}
