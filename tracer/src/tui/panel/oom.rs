//! `oom`: the list of kills, and what is known of each.

use std::fmt::Write;

use serde_json::Value;

use super::{Column, Depth, Doc, Grows, Item, Key, Look, Of, Panel, Tone, amount, evidence, whom};
use crate::{
    model::{Finding, Severity},
    tui::{state::Row, text::fit},
};

pub static PANEL: Panel = Panel {
    lens: "oom",
    of: Of::Lens,
    noun: ["OOM event", "OOM events"],
    columns: COLUMNS,
    detail,
    empty: "No OOM kill so far. The next one stands here within a second of it.",
};

/// A column of sizes. A macro: a column holds plain functions, which capture nothing.
macro_rules! bytes {
    ($title:expr, $rank:expr, $of:expr) => {
        Column {
            title: $title,
            width: 10,
            grows: Grows::No,
            right: true,
            rank: $rank,
            cell: |row, _| ($of(row).map_or_else(unknown, amount), Tone::Plain),
            key: |row| Key::Number($of(row).unwrap_or(0)),
        }
    };
}

static COLUMNS: &[Column] = &[
    Column {
        title: "TIME",
        width: 9,
        grows: Grows::No,
        right: false,
        rank: 0,
        cell: |row, look| (look.time(row.finding.time), Tone::Plain),
        key: |row| Key::Number(row.finding.time.0.max(0) as u64),
    },
    Column {
        title: "CONTAINER",
        width: 22,
        grows: Grows::Name,
        right: false,
        rank: 0,
        cell: |row, _| (whom(&row.finding), Tone::Strong),
        key: |row| Key::Text(whom(&row.finding)),
    },
    Column {
        title: "KILLED",
        width: 15,
        grows: Grows::No,
        right: false,
        rank: 0,
        cell: |row, _| (killed(&row.finding), Tone::Plain),
        key: |row| Key::Text(killed(&row.finding)),
    },
    Column {
        title: "PID",
        width: 7,
        grows: Grows::No,
        right: true,
        rank: 4,
        cell: |row, _| {
            (row.finding.process.as_ref().map_or_else(unknown, |process| process.pid.to_string()), Tone::Plain)
        },
        key: |row| Key::Number(row.finding.process.as_ref().map_or(0, |process| u64::from(process.pid))),
    },
    bytes!("LIMIT", 0, |row: &Row| number(&row.finding, "limit_bytes")),
    Column {
        title: "OF",
        width: 6,
        grows: Grows::No,
        right: false,
        rank: 2,
        cell: |row, _| (whose(&row.finding).to_owned(), Tone::Plain),
        key: |row| Key::Text(whose(&row.finding).to_owned()),
    },
    bytes!("RSS", 3, |row: &Row| row.finding.evidence.get("victims").and_then(|victims| rss(&victims[0]))),
    bytes!("ANON", 5, |row: &Row| number(&row.finding, "anon_bytes")),
    bytes!("FILE", 6, |row: &Row| number(&row.finding, "file_bytes")),
    bytes!("SHMEM", 6, |row: &Row| number(&row.finding, "shmem_bytes")),
    bytes!("KERNEL", 6, |row: &Row| number(&row.finding, "kernel_bytes")),
    Column {
        title: "PID 1",
        width: 5,
        grows: Grows::No,
        right: false,
        rank: 1,
        cell: |row, _| match init_alive(&row.finding) {
            _ if is_past(&row.finding) => ("past".to_owned(), Tone::Quiet),
            Some(true) => ("alive".to_owned(), Tone::Of(Severity::Warning)),
            Some(false) => ("gone".to_owned(), Tone::Plain),
            None => (unknown(), Tone::Quiet),
        },
        key: |row| Key::Number(u64::from(init_alive(&row.finding) == Some(true))),
    },
];

/// What stands where a number would, if it isn't known.
fn unknown() -> String {
    "–".to_owned()
}

fn number(finding: &Finding, key: &str) -> Option<u64> {
    finding.evidence.get(key).and_then(Value::as_u64)
}

fn text<'a>(finding: &'a Finding, key: &str) -> Option<&'a str> {
    finding.evidence.get(key).and_then(Value::as_str)
}

fn init_alive(finding: &Finding) -> Option<bool> {
    finding.evidence.get("init_alive").and_then(Value::as_bool)
}

/// Told by the kernel's memory of it: ctrace was not there.
fn is_past(finding: &Finding) -> bool {
    finding.evidence.get("before_attach").and_then(Value::as_bool) == Some(true)
}

fn victims(finding: &Finding) -> &[Value] {
    finding.evidence.get("victims").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `java`, or `java +2`.
fn killed(finding: &Finding) -> String {
    // Of some past kills only their number is left.
    let counted = number(finding, "kills").unwrap_or(0) as usize;
    let Some(comm) = finding.process.as_ref().map(|process| process.comm.as_str()) else {
        return if counted > 1 { format!("{counted} processes") } else { unknown() };
    };
    match victims(finding).len().max(counted) {
        0 | 1 => comm.to_owned(),
        // The count is what must not be cut off.
        count => format!("{} +{}", fit(comm, 10), count - 1),
    }
}

/// Whose limit it was.
fn whose(finding: &Finding) -> &'static str {
    match finding.code.0 {
        "oom.container-limit" => "own",
        "oom.parent-limit" => "parent",
        "oom.host" => "host",
        "oom.cpuset" => "nodes",
        "oom.group-kill" => "group",
        "oom.hung" => "hung",
        _ => "",
    }
}

/// `None`: it shares the memory of another victim.
fn rss(victim: &Value) -> Option<u64> {
    ["anon_bytes", "file_bytes", "shmem_bytes"].iter().map(|key| victim[key].as_u64()).sum()
}

const PARTS: &[(&str, &str)] = &[
    ("usage", "usage_bytes"),
    ("anon", "anon_bytes"),
    ("file", "file_bytes"),
    ("shmem", "shmem_bytes"),
    ("kernel", "kernel_bytes"),
    ("swap", "swap_bytes"),
];

/// Of the evidence, what the detail shows in its own way.
const SHOWN: &[&str] = &[
    "limit_bytes",
    "usage_bytes",
    "anon_bytes",
    "file_bytes",
    "shmem_bytes",
    "kernel_bytes",
    "swap_bytes",
    "limiting_cgroup",
    "cgroup",
    "victims",
    "trigger",
    "init_alive",
    "order",
    "inferred",
];

fn detail(row: &Row, look: &Look, depth: Depth) -> Doc {
    let finding = &*row.finding;
    let mut doc = Doc::default();
    doc.answer(finding.severity, &finding.summary);
    if init_alive(finding) == Some(true) && finding.code.0 != "oom.child-killed" {
        doc.answer(Severity::Warning, "PID 1 is alive: the container looks healthy and is not");
    }
    doc.blank();
    doc.row("why", &finding.why);
    evidence::fixes(&mut doc, &finding.fix);
    if depth == Depth::Full {
        doc.blank();
    }
    memory(&mut doc, finding, depth);
    for victim in victims(finding) {
        doc.row("victim", victim_line(victim));
    }
    if let Some(asked) = asked_by(finding) {
        doc.row("asked by", asked);
    }
    if depth == Depth::Full && init_alive(finding) == Some(false) {
        doc.row("PID 1", "gone: the container ended");
    }
    if depth == Depth::Full {
        doc.blank();
    }
    // Where it is its own, the cgroup is told below.
    if let Some(limiting) =
        text(finding, "limiting_cgroup").filter(|limiting| Some(*limiting) != text(finding, "cgroup"))
    {
        doc.quiet("limit of", limiting);
    }
    evidence::identity(&mut doc, finding, look);
    if finding.evidence.get("inferred").and_then(Value::as_bool) == Some(true) {
        doc.quiet("inferred", "no hook saw the decision: whose limit it was is read from the counters at the kill");
    }
    evidence::rest(&mut doc, finding, SHOWN);
    evidence::unknown(&mut doc, finding, |_| true);
    if depth == Depth::Full {
        for follower in &row.followers {
            evidence::follower(&mut doc, follower);
        }
    }
    doc
}

fn memory(doc: &mut Doc, finding: &Finding, depth: Depth) {
    let limit = number(finding, "limit_bytes");
    let value = |key: &str| number(finding, key).map_or_else(unknown, amount);
    // Where all the parts are unknown, dashes say less than nothing; why they are stands below.
    let parts = if PARTS.iter().any(|(_, key)| number(finding, key).is_some()) { PARTS } else { &[] };
    if parts.is_empty() && limit.is_none() {
        return;
    }
    if depth == Depth::Terse {
        let mut numbers = vec![("limit".to_owned(), value("limit_bytes"))];
        numbers.extend(parts.iter().map(|(name, key)| ((*name).to_owned(), value(key))));
        doc.push(Item::Numbers("memory", numbers));
        return;
    }
    doc.push(Item::Bar { label: "limit", value: value("limit_bytes"), share: None });
    for (name, key) in parts {
        let share = number(finding, key).zip(limit).map(|(part, limit)| part as f64 / limit.max(1) as f64);
        doc.push(Item::Bar { label: name, value: value(key), share });
    }
}

fn victim_line(victim: &Value) -> String {
    let process = &victim["process"];
    let mut text = format!("{} {}", process["comm"].as_str().unwrap_or("?"), process["pid"]);
    if process["tid"] != process["pid"] {
        let _ = write!(text, " (thread {})", process["tid"]);
    }
    if let Some(ns_pid) = process["ns_pid"].as_u64().filter(|ns_pid| Some(*ns_pid) != process["pid"].as_u64()) {
        let _ = write!(text, " (inside {ns_pid})");
    }
    let uid = process["uid"].as_u64().map_or_else(unknown, |uid| uid.to_string());
    let rss = rss(victim).map_or_else(|| "shared with another victim".to_owned(), amount);
    let adj = victim["oom_score_adj"].as_i64().map_or_else(unknown, |adj| adj.to_string());
    let _ = write!(text, "  uid {uid}  rss {rss}  oom_score_adj {adj}");
    text
}

fn asked_by(finding: &Finding) -> Option<String> {
    let trigger = finding.evidence.get("trigger")?;
    let process = trigger.get("process").filter(|process| process.is_object())?;
    let container = &trigger["container"];
    let comm = process["comm"].as_str().unwrap_or("?");
    let name = container["name"].as_str().map(ToOwned::to_owned);
    let place = match name.or_else(|| container["id"].as_str().map(|id| id.chars().take(12).collect())) {
        Some(name) => format!("{name}/"),
        // The kernel's log names no container: that it was the host is not known.
        None if is_past(finding) => String::new(),
        None => "host/".to_owned(),
    };
    let mut text = format!("{place}{comm} ({})", process["tid"]);
    if let Some(order) = number(finding, "order") {
        let _ = write!(text, ", order {order}");
    }
    Some(text)
}
