//! `oom`: the list of kills, and what is known of each.

use serde_json::Value;

use super::{Column, Depth, Doc, Item, Key, Look, Panel, Tone, evidence, whom};
use crate::{
    model::{Finding, Severity},
    tui::state::Row,
    views::lines::size,
};

pub static PANEL: Panel = Panel {
    lens: "oom",
    noun: ["kill", "kills"],
    columns: COLUMNS,
    detail,
    empty: "no OOM kill so far; the first one stands here within a second of it",
};

/// A column of sizes. A macro: a column holds plain functions, which capture nothing.
macro_rules! bytes {
    ($title:expr, $rank:expr, $of:expr) => {
        Column {
            title: $title,
            width: 10,
            grows: false,
            right: true,
            rank: $rank,
            cell: |row, _| ($of(row).map_or_else(unknown, size), Tone::Plain),
            key: |row| Key::Number($of(row).unwrap_or(0)),
        }
    };
}

static COLUMNS: &[Column] = &[
    Column {
        title: "TIME",
        width: 8,
        grows: false,
        right: false,
        rank: 0,
        cell: |row, look| (look.time(row.finding.time), Tone::Plain),
        key: |row| Key::Number(row.finding.time.0.max(0) as u64),
    },
    Column {
        title: "CONTAINER",
        width: 16,
        grows: true,
        right: false,
        rank: 0,
        cell: |row, _| (whom(&row.finding), Tone::Strong),
        key: |row| Key::Text(whom(&row.finding)),
    },
    Column {
        title: "KILLED",
        width: 15,
        grows: false,
        right: false,
        rank: 0,
        cell: |row, _| (killed(&row.finding), Tone::Plain),
        key: |row| Key::Text(killed(&row.finding)),
    },
    Column {
        title: "PID",
        width: 7,
        grows: false,
        right: true,
        rank: 3,
        cell: |row, _| {
            (row.finding.process.as_ref().map_or_else(unknown, |process| process.pid.to_string()), Tone::Plain)
        },
        key: |row| Key::Number(row.finding.process.as_ref().map_or(0, |process| u64::from(process.pid))),
    },
    bytes!("LIMIT", 0, |row: &Row| number(&row.finding, "limit_bytes")),
    Column {
        title: "OF",
        width: 6,
        grows: false,
        right: false,
        rank: 1,
        cell: |row, _| (whose(&row.finding).to_owned(), Tone::Plain),
        key: |row| Key::Text(whose(&row.finding).to_owned()),
    },
    bytes!("RSS", 2, |row: &Row| row.finding.evidence.get("victims").and_then(|victims| rss(&victims[0]))),
    bytes!("ANON", 4, |row: &Row| number(&row.finding, "anon_bytes")),
    bytes!("FILE", 5, |row: &Row| number(&row.finding, "file_bytes")),
    bytes!("SHMEM", 5, |row: &Row| number(&row.finding, "shmem_bytes")),
    bytes!("KERNEL", 5, |row: &Row| number(&row.finding, "kernel_bytes")),
    Column {
        title: "PID 1",
        width: 5,
        grows: false,
        right: false,
        rank: 0,
        cell: |row, _| match init_alive(&row.finding) {
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

fn init_alive(finding: &Finding) -> Option<bool> {
    finding.evidence.get("init_alive").and_then(Value::as_bool)
}

fn victims(finding: &Finding) -> &[Value] {
    finding.evidence.get("victims").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `java`, or `java +2`.
fn killed(finding: &Finding) -> String {
    let comm = finding.process.as_ref().map_or("?", |process| process.comm.as_str());
    match victims(finding).len() {
        0 | 1 => comm.to_owned(),
        // The count is what must not be cut off.
        count => format!("{} +{}", super::super::text::fit(comm, 10), count - 1),
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
];

fn detail(row: &Row, look: &Look, depth: Depth) -> Doc {
    let finding = &*row.finding;
    let mut doc = Doc::default();
    doc.answer(finding.severity, &finding.summary);
    if init_alive(finding) == Some(true) && finding.code.0 != "oom.child-killed" {
        doc.answer(Severity::Warning, "PID 1 is alive: the container looks healthy and is not");
    }
    if depth == Depth::Full {
        doc.blank();
    }
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
    if let Some(limiting) = finding.evidence.get("limiting_cgroup").and_then(Value::as_str) {
        doc.quiet("limit of", limiting);
    }
    evidence::identity(&mut doc, finding, look);
    evidence::rest(&mut doc, finding, SHOWN);
    for (field, reason) in &finding.unknown {
        doc.quiet("unknown", format!("{field}: {reason}"));
    }
    if depth == Depth::Full {
        for follower in &row.followers {
            evidence::follower(&mut doc, follower);
        }
    }
    doc
}

fn memory(doc: &mut Doc, finding: &Finding, depth: Depth) {
    let limit = number(finding, "limit_bytes");
    let value = |key: &str| number(finding, key).map_or_else(unknown, size);
    if depth == Depth::Terse {
        let mut numbers = vec![("limit".to_owned(), value("limit_bytes"))];
        numbers.extend(PARTS.iter().map(|(name, key)| ((*name).to_owned(), value(key))));
        doc.push(Item::Numbers("memory", numbers));
        return;
    }
    doc.push(Item::Bar { label: "limit", value: value("limit_bytes"), share: None });
    for (name, key) in PARTS {
        let share = number(finding, key).zip(limit).map(|(part, limit)| part as f64 / limit.max(1) as f64);
        doc.push(Item::Bar { label: name, value: value(key), share });
    }
}

fn victim_line(victim: &Value) -> String {
    let process = &victim["process"];
    let mut text = format!("{} {}", process["comm"].as_str().unwrap_or("?"), process["pid"]);
    if process["tid"] != process["pid"] {
        text.push_str(&format!(" (thread {})", process["tid"]));
    }
    if let Some(ns_pid) = process["ns_pid"].as_u64().filter(|ns_pid| Some(*ns_pid) != process["pid"].as_u64()) {
        text.push_str(&format!(" (inside: {ns_pid})"));
    }
    let uid = process["uid"].as_u64().map_or_else(unknown, |uid| uid.to_string());
    let rss = rss(victim).map_or_else(|| "shared with another victim".to_owned(), size);
    let adj = victim["oom_score_adj"].as_i64().map_or_else(unknown, |adj| adj.to_string());
    text.push_str(&format!("  uid {uid}  rss {rss}  oom_score_adj {adj}"));
    text
}

fn asked_by(finding: &Finding) -> Option<String> {
    let trigger = finding.evidence.get("trigger")?;
    let process = trigger.get("process").filter(|process| process.is_object())?;
    let container = &trigger["container"];
    let place = container["name"].as_str().or_else(|| container["id"].as_str()).unwrap_or("host");
    let mut text = format!("{place}/{} ({})", process["comm"].as_str().unwrap_or("?"), process["tid"]);
    if let Some(order) = number(finding, "order") {
        text.push_str(&format!(", order {order}"));
    }
    Some(text)
}
