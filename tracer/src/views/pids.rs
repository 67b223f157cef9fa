//! What `ctrace pids` adds to lines: the table of counts, and the numbers of its findings.

use std::fmt::Write;

use serde_json::Value;

use super::{
    escape::escape,
    lines::{row, unknown},
    table::{Line, Shape, name},
};
use crate::{model::Finding, pipeline::SampleRow};

pub static TABLE: Shape =
    Shape { sample: "pids", codes: &["pids."], head: table_head, line: table_line, rank: share, below: |_| None };
const STATES: [&str; 6] = ["R", "S", "D", "T", "Z", "I"];

/// Used of the nearest limit, in ten-thousandths.
fn share(sample: &SampleRow) -> u64 {
    let number = |key: &str| sample.fields.get(key).and_then(Value::as_u64);
    number("limiting_current")
        .zip(number("limit"))
        .map_or(0, |(current, limit)| current.saturating_mul(10_000) / limit.max(1))
}

fn table_head() -> Line {
    let numbers = STATES.iter().copied().chain(["THREADS", "PIDS", "LIMIT", "USED"]).map(str::to_owned).collect();
    Line { name: "CONTAINER".to_owned(), numbers, last: "LIMIT OF".to_owned() }
}

fn table_line(sample: &SampleRow) -> Line {
    let number = |value: Option<&Value>| value.and_then(Value::as_u64);
    let field = |key: &str| number(sample.fields.get(key));
    let shown = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let states = sample.fields.get("states");
    let mut numbers: Vec<String> =
        STATES.iter().map(|state| shown(number(states.and_then(|states| states.get(*state))))).collect();
    numbers.push(shown(field("threads")));
    let (current, limit, last) = if sample.container.is_some() {
        let last = sample.fields.get("limiting_cgroup").and_then(Value::as_str).unwrap_or("no limit");
        (field("limiting_current").or(field("current")), field("limit"), last.to_owned())
    } else {
        let (pid_max, threads_max) = (field("pid_max"), field("threads_max"));
        let nearest = pid_max.into_iter().chain(threads_max).min();
        let which = if nearest == pid_max { "kernel.pid_max" } else { "kernel.threads-max" };
        (field("threads"), nearest, which.to_owned())
    };
    numbers.push(shown(current));
    numbers.push(shown(limit));
    let used = current.zip(limit).map(|(current, limit)| format!("{} %", current.saturating_mul(100) / limit.max(1)));
    numbers.push(used.unwrap_or_else(|| "-".to_owned()));
    Line { name: name(sample), numbers, last }
}

/// The numbers below a finding's first line.
pub fn body(finding: &Finding, out: &mut String) {
    let evidence = &finding.evidence;
    let number = |key: &str| evidence.get(key).and_then(Value::as_u64);
    let shown = |key: &str| number(key).map_or_else(|| "unknown".to_owned(), |value| value.to_string());
    let mut numbers = format!("limit {}   current {}   zombies {}", shown("limit"), shown("current"), shown("zombies"));
    if let Some(refused) = number("refused") {
        let _ = write!(numbers, "   refused {refused}");
    }
    if let Some(growth) = evidence.get("growth_per_s").and_then(Value::as_f64) {
        let _ = write!(numbers, "   growth {growth:.1}/s");
    }
    if let Some(oldest) = number("oldest_ns") {
        let _ = write!(numbers, "   oldest {} s", oldest / 1_000_000_000);
    }
    row(out, "pids", &numbers);
    for (label, key) in [("asked by", "asker"), ("parent", "parent")] {
        let Some(process) = evidence.get(key).map(|by| &by["process"]).filter(|process| process.is_object()) else {
            continue;
        };
        let number = |key: &str| process[key].as_u64();
        let comm = escape(process["comm"].as_str().unwrap_or("?")).into_owned();
        let mut text = format!("{comm} {}", number("pid").unwrap_or(0));
        if let Some(ns_pid) = number("ns_pid").filter(|ns_pid| Some(*ns_pid) != number("pid")) {
            let _ = write!(text, " (in the container: {ns_pid})");
        }
        row(out, label, &text);
    }
    if let Some(limiting) = evidence.get("limiting_cgroup").and_then(Value::as_str) {
        row(out, "limit of", &escape(limiting));
    } else if let Some(what) = evidence.get("what").and_then(Value::as_str).filter(|what| *what != "pids.max") {
        row(out, "limit of", &format!("{}: {}", evidence["whose"].as_str().unwrap_or("host"), escape(what)));
    }
    unknown(out, finding, |field| matches!(field, "asker" | "limit" | "limiting_cgroup" | "growth_per_s"));
}
