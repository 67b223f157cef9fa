//! Aligned lines, one block a finding: the first line is the answer.

use std::fmt::Write;

use jiff::tz::TimeZone;
use serde_json::Value;

use super::{cpu, escape::escape, io, mem, net, pids, rows};
use crate::{
    model::{Finding, Owner, Severity, State, by_reason, size},
    pipeline::{LossNote, Note, Output},
};

/// How lines are to look.
#[derive(Clone, Debug)]
pub struct Style {
    pub zone: TimeZone,
    pub color: bool,
}

/// Column at which the text of a block starts: behind `14:02:11  `.
const INDENT: usize = 10;
const LABEL: usize = 10;

/// The text for an output, with its last newline; `None` for what is no output to users.
pub fn text(output: &Output, style: &Style) -> Option<String> {
    match output {
        // A row says it already.
        Output::Finding(finding) if matches!(finding.code.0, "exit.signal" | "exit.crash" | "exit.error") => None,
        Output::Finding(finding) => Some(block(finding, style)),
        Output::Note(note) => Some(note_line(note, style)),
        Output::Loss(loss) => Some(loss_line(loss, style)),
        Output::Event(event) => rows::line(event, style),
        Output::Caps(report) => Some(super::caps::text(report, style)),
        Output::Sample(_) | Output::CapsSoFar(_) | Output::Ask(_) => None,
    }
}

fn block(finding: &Finding, style: &Style) -> String {
    let mut out = String::new();
    let head = format!("{}  {}", label(&finding.container, finding), escape(&finding.summary));
    let _ = writeln!(out, "{}  {}", finding.time.clock(&style.zone), paint(&head, finding.severity, style));
    if finding.code.0.starts_with("oom.") && finding.code.0 != "oom.child-killed" {
        oom_body(finding, &mut out);
    }
    // Of a state, why and what to do were said when it opened.
    if matches!(finding.state, Some(State::Update | State::Closed)) {
        return out;
    }
    if finding.code.0.starts_with("pids.") {
        pids::body(finding, &mut out);
    }
    if finding.code.0.starts_with("mem.") {
        mem::body(finding, &mut out);
    }
    if finding.code.0.starts_with("io.") || finding.code.0.starts_with("fs.") {
        io::body(finding, &mut out);
    }
    cpu::body(finding, &mut out);
    net::body(finding, &mut out);
    row(&mut out, "why", &escape(&finding.why));
    for fix in &finding.fix {
        row(&mut out, "fix", &escape(fix));
    }
    let mut last = format!("finding {}  {}", finding.code.0, finding.id);
    if let Some(other) = &finding.refers_to {
        let _ = write!(last, "  refers to {other}");
    }
    if let Some(cgroup) = finding.evidence.get("cgroup").and_then(Value::as_str) {
        last = format!("{}  {last}", escape(cgroup));
    }
    row(&mut out, "cgroup", &last);
    out
}

fn oom_body(finding: &Finding, out: &mut String) {
    let evidence = &finding.evidence;
    let bytes = |key: &str| evidence.get(key).and_then(Value::as_u64);
    let mut numbers = Vec::new();
    for (name, key) in [
        ("limit", "limit_bytes"),
        ("usage", "usage_bytes"),
        ("anon", "anon_bytes"),
        ("file", "file_bytes"),
        ("shmem", "shmem_bytes"),
        ("kernel", "kernel_bytes"),
        ("swap", "swap_bytes"),
    ] {
        numbers.push(format!("{name} {}", bytes(key).map_or_else(|| "unknown".to_owned(), size)));
    }
    row(out, "memory", &numbers.join("   "));
    for victim in evidence.get("victims").and_then(Value::as_array).into_iter().flatten() {
        let process = &victim["process"];
        let comm = escape(process["comm"].as_str().unwrap_or("?")).into_owned();
        let sum: Option<u64> = ["anon_bytes", "file_bytes", "shmem_bytes"].iter().map(|key| victim[key].as_u64()).sum();
        let rss = sum.map_or_else(|| "shared with another victim".to_owned(), size);
        let mut text = format!("{comm} {}", number(&process["pid"]));
        if process["tid"] != process["pid"] {
            let _ = write!(text, " (thread {})", number(&process["tid"]));
        }
        if let Some(ns_pid) = process["ns_pid"].as_u64().filter(|ns_pid| Some(*ns_pid) != process["pid"].as_u64()) {
            let _ = write!(text, " (in the container: {ns_pid})");
        }
        let _ = write!(
            text,
            " uid {}   rss {rss}   oom_score_adj {}",
            number(&process["uid"]),
            number(&victim["oom_score_adj"])
        );
        row(out, "victim", &text);
    }
    row(
        out,
        "PID 1",
        match evidence.get("init_alive").and_then(Value::as_bool) {
            Some(true) => "alive: the container looks healthy and is not",
            Some(false) => "gone: the container ended",
            None => finding.unknown.get("init_alive").map_or("unknown", String::as_str),
        },
    );
    if let Some(process) =
        evidence.get("trigger").and_then(|trigger| trigger.get("process")).filter(|process| process.is_object())
    {
        let container = &evidence["trigger"]["container"];
        let place = if container.is_null() {
            "host".to_owned()
        } else {
            escape(container["name"].as_str().or_else(|| container["id"].as_str()).unwrap_or("?")).into_owned()
        };
        let mut text =
            format!("{place}/{} ({})", escape(process["comm"].as_str().unwrap_or("?")), number(&process["tid"]));
        if let Some(order) = evidence.get("order").and_then(Value::as_u64) {
            let _ = write!(text, ", order {order}");
        }
        row(out, "asked by", &text);
    }
    if let Some(limiting) = evidence.get("limiting_cgroup").and_then(Value::as_str) {
        row(out, "limit of", &escape(limiting));
    }
    unknown(out, finding, |field| !matches!(field, "init_alive" | "limiting_cgroup" | "order"));
}

/// What nobody knows of a finding, and why.
pub(super) fn unknown(out: &mut String, finding: &Finding, is_shown: impl Fn(&str) -> bool) {
    for (fields, reason) in by_reason(&finding.unknown, is_shown) {
        row(out, "unknown", &format!("{fields}: {}", escape(reason)));
    }
}

fn number(value: &Value) -> String {
    value.as_i64().map_or_else(|| "unknown".to_owned(), |number| number.to_string())
}

pub(super) fn row(out: &mut String, label: &str, text: &str) {
    let _ = writeln!(out, "{:INDENT$}{label:LABEL$}{text}", "");
}

/// Whom a finding is about: the container, else the cgroup, else the host.
pub fn label(container: &Owner, finding: &Finding) -> String {
    if let Some(container) = container {
        return escape(&container.label()).into_owned();
    }
    match finding.evidence.get("cgroup").and_then(Value::as_str) {
        Some(cgroup) if cgroup != "/" => format!("host {}", escape(cgroup)),
        _ => "host".to_owned(),
    }
}

fn note_line(note: &Note, style: &Style) -> String {
    format!("{}  {}\n", note.time.clock(&style.zone), escape(&note.text))
}

fn loss_line(loss: &LossNote, style: &Style) -> String {
    let whose = match (&loss.container, &loss.cgroup) {
        (Some(container), _) => escape(&container.label()).into_owned(),
        (None, Some(cgroup)) => format!("host {}", escape(cgroup)),
        (None, None) => "unknown cgroups".to_owned(),
    };
    let text = format!(
        "LOST  {} {} event{} of {whose}: {}",
        loss.count,
        loss.event,
        if loss.count == 1 { "" } else { "s" },
        loss.cause
    );
    format!("{}  {}\n", loss.time.clock(&style.zone), paint(&text, Severity::Warning, style))
}

pub fn paint(text: &str, severity: Severity, style: &Style) -> String {
    if !style.color {
        return text.to_owned();
    }
    let code = match severity {
        Severity::Critical => "1;31",
        Severity::Warning => "1;33",
        Severity::Info => "1",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}
