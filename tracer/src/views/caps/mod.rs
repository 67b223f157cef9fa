//! What a container needs of its capabilities, as a table to read or as text to paste.

mod formats;

use std::{borrow::Cow, fmt::Write};

use serde_json::Value;

pub use self::formats::{Format, formatted};
use super::{
    escape::{escape, word},
    lines::{Style, paint},
};
use crate::{
    findings::caps::{Evidence, Report},
    model::Severity,
    verify::{GIVE_UP, Proof},
};

const LABEL: usize = 17;
/// Rows of one verdict; all are in the JSON.
const ROWS: usize = 40;

/// What the container is called.
pub fn name(report: &Report) -> String {
    let text = |key: &str| report.container[key].as_str().filter(|text| !text.is_empty());
    let Some(id) = text("id") else { return "several containers".to_owned() };
    let short: String = id.chars().take(12).collect();
    let own = text("name").unwrap_or(&short);
    let name = match (text("namespace"), text("pod")) {
        (Some(namespace), Some(pod)) => format!("{namespace}/{pod}/{own}"),
        (None, Some(pod)) => format!("{pod}/{own}"),
        _ => own.to_owned(),
    };
    escape(&name).into_owned()
}

/// `3.2 s`, `61 s`, `2 h 3 min`.
fn duration(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    match seconds {
        0..10 => format!("{:.1} s", ns as f64 / 1e9),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// How long was watched, and what of its life was not seen.
pub fn seen(report: &Report) -> String {
    let start = if report.startup_seen { " from its start" } else { ", its start was not seen" };
    let several = match report.observations {
        0 | 1 => String::new(),
        several => format!(" in {several} observations"),
    };
    format!("watched {}{start}{several}", duration(report.watched_ns))
}

/// What was not seen, in words; `None`: all was.
fn not_exercised(report: &Report) -> Option<String> {
    let words = report.not_exercised.iter().map(|what| match what.as_str() {
        "stop" => "graceful stop",
        other => other,
    });
    let words: Vec<&str> = words.collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// What is to be pasted where Docker runs it.
pub fn pasted(report: &Report) -> String {
    formats::body(report, Format::Docker).0.trim_end().to_owned()
}

pub fn text(report: &Report, style: &Style) -> String {
    let mut out = String::new();
    let runtime = report.container["runtime"].as_str().unwrap_or("container");
    let id: String = report.container["id"].as_str().unwrap_or_default().chars().take(12).collect();
    let _ = writeln!(
        out,
        "{} ({runtime}, {})  {}  {} granted, {} needed\n",
        name(report),
        escape(&id),
        seen(report),
        report.granted.len(),
        report.needed.len()
    );
    let rows = |verdict: &'static str| report.evidence.iter().filter(move |row| row.verdict == verdict);
    table(&mut out, "NEEDED", rows("needed"), Some(Severity::Warning), style);
    table(&mut out, "ASKED, REFUSED", rows("denied"), Some(Severity::Critical), style);
    passing(&mut out, "ASKED IN PASSING", rows("probed"));
    table(&mut out, "BY EXEC", rows("exec"), None, style);
    table(&mut out, "OTHER NAMESPACE", rows("other_namespace"), None, style);
    table(&mut out, "NO CAPABILITY", report.not_a_capability.iter(), Some(Severity::Critical), style);
    names(&mut out, "THE RUNTIME'S", &report.runtime);
    names(&mut out, "NEVER USED", &report.unused);
    for (name, why) in &report.equal_root {
        let used = if report.needed.contains(name) { "" } else { " and is not needed" };
        let _ = writeln!(out, "{:LABEL$}{name} {why}{used}", "AS GOOD AS ROOT");
    }
    for warning in &report.warnings {
        let severity = if warning.severity == "warning" { Severity::Warning } else { Severity::Info };
        let pad = " ".repeat(LABEL.saturating_sub(warning.code.len()).max(1));
        let _ = writeln!(out, "{}{pad}{}", paint(&escape(&warning.code), severity, style), escape(&warning.summary));
    }
    sets(&mut out, report);
    out.push('\n');
    out.push_str(&verdict(report));
    out
}

/// The last lines: the set to paste, and what to think of it.
fn verdict(report: &Report) -> String {
    let mut out = String::new();
    if report.evidence.is_empty() {
        let _ = writeln!(
            out,
            "Nothing was asked for in this time: that says little. Watch longer, let it do its work meanwhile, or see its \
             start:\n    ctrace caps --container {} --from-start",
            word(&name(report))
        );
    } else {
        let (line, _) = formats::body(report, Format::Docker);
        out.push_str(&line);
    }
    if report.ended {
        out.push_str("it ended while it was watched: this is what was seen until then\n");
    }
    if report.uncounted > 0 {
        let _ =
            writeln!(out, "{} checks found no room and are not in here: watch one container alone", report.uncounted);
    }
    if report.left_off > 0 {
        let _ = writeln!(
            out,
            "{} kinds of checks more than can be listed are in the verdict, and in no row",
            report.left_off
        );
    }
    for (field, why) in &report.unknown {
        let _ = writeln!(out, "unknown: {field}: {}", escape(why));
    }
    let set: Vec<&str> = report.needed.iter().map(|name| name.strip_prefix("CAP_").unwrap_or(name)).collect();
    let set = if set.is_empty() { "none".to_owned() } else { set.join(",") };
    if let Some(words) = not_exercised(report) {
        let _ = writeln!(out, "not exercised while watching: {words}");
    }
    let _ = writeln!(out, "prove it: ctrace caps verify --container {} --set {} -- CHECK", word(&name(report)), set);
    out
}

fn table<'a>(
    out: &mut String,
    label: &str,
    rows: impl Iterator<Item = &'a Evidence>,
    severity: Option<Severity>,
    style: &Style,
) {
    let rows: Vec<&Evidence> = rows.collect();
    let mut label = label;
    for row in rows.iter().take(ROWS) {
        let capability = row.capability.as_deref().unwrap_or("-");
        let call = row.syscall.as_deref().unwrap_or("(no call)");
        let result = match row.results.as_slice() {
            [] => String::new(),
            results => format!(" = {}", results.join(", ")),
        };
        let call = format!("{call}{result}");
        let painted = severity.map_or_else(|| label.to_owned(), |severity| paint(label, severity, style));
        let pad = " ".repeat(LABEL.saturating_sub(label.len()));
        let count = format!("{}×", row.count);
        let _ = writeln!(
            out,
            "{painted}{pad}{capability:22} {:16} {call:24} {count:>8}  {}",
            comm(row),
            escape(&row.reason)
        );
        label = "";
    }
    if rows.len() > ROWS {
        let _ = writeln!(out, "{:LABEL$}and {} more: --format json has all", "", rows.len() - ROWS);
    }
}

fn comm(row: &Evidence) -> Cow<'_, str> {
    row.comm.as_deref().map_or(Cow::Borrowed("unknown"), escape)
}

/// One line for each capability and reason: who asked matters little where nobody needs it.
fn passing<'a>(out: &mut String, label: &str, rows: impl Iterator<Item = &'a Evidence>) {
    let mut lines: Vec<(&Evidence, u64, Vec<Option<&str>>)> = Vec::new();
    for row in rows {
        match lines.iter_mut().find(|(own, ..)| own.capability == row.capability && own.reason == row.reason) {
            Some((_, count, comms)) => {
                *count = count.saturating_add(row.count);
                if !comms.contains(&row.comm.as_deref()) {
                    comms.push(row.comm.as_deref());
                }
            }
            None => lines.push((row, row.count, vec![row.comm.as_deref()])),
        }
    }
    let mut label = label;
    for (row, count, comms) in lines {
        let more = if comms.len() > 1 { format!(" and {} more", comms.len() - 1) } else { String::new() };
        let _ = writeln!(
            out,
            "{label:LABEL$}{:22} {:41} {:>8}  {}",
            row.capability.as_deref().unwrap_or("-"),
            format!("{}{more}", comm(row)),
            format!("{count}×"),
            escape(&row.reason)
        );
        label = "";
    }
}

fn names(out: &mut String, label: &str, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let short: Vec<&str> = names.iter().map(|name| name.strip_prefix("CAP_").unwrap_or(name)).collect();
    let text = textwrap::fill(&short.join(" "), 100 - LABEL).replace('\n', &format!("\n{:LABEL$}", ""));
    let _ = writeln!(out, "{label:LABEL$}{text}");
}

/// The proof as a table.
pub fn proof(proof: &Proof) -> String {
    let mut out = format!("{:24} {:8} {:>8}  HOW\n", "WITHOUT", "CHECK", "TOOK");
    for trial in &proof.trials {
        let _ = writeln!(
            out,
            "{:24} {:8} {:>8}  {}",
            trial.without.as_deref().unwrap_or("(the whole set)"),
            if trial.passed { "passed" } else { "FAILED" },
            duration(trial.took_ns),
            escape(&trial.how)
        );
    }
    out.push('\n');
    names(&mut out, "REQUIRED", &proof.required);
    names(&mut out, "TOLERATED", &proof.tolerated);
    names(&mut out, "UNPROVEN", &proof.unproven);
    for note in &proof.notes {
        let _ = writeln!(out, "{:LABEL$}{}", "TAKE CARE", escape(note));
    }
    let kept = proof.tolerated.iter().filter(|name| GIVE_UP.contains(&name.as_str()));
    let left: Vec<&str> = proof.required.iter().chain(&proof.unproven).chain(kept).map(String::as_str).collect();
    let add: Vec<String> =
        left.iter().map(|name| format!(" --cap-add {}", name.strip_prefix("CAP_").unwrap_or(name))).collect();
    let _ = writeln!(out, "\ndocker run --cap-drop ALL{}", add.concat());
    out
}

/// What a program's file gives, and whether it can.
fn file_capabilities(file: &Value, granted: &[String], no_new_privs: bool) -> String {
    let list =
        |set: &str| -> Vec<&str> { file[set].as_array().into_iter().flatten().filter_map(Value::as_str).collect() };
    let (permitted, inheritable) = (list("permitted"), list("inheritable"));
    let mut line = format!("{} ({}): its file gives", escape(file["comm"].as_str().unwrap_or("?")), file["pid"]);
    for (set, names) in [("", &permitted), (", of the inheritable set ", &inheritable)] {
        if !names.is_empty() {
            let _ = write!(line, "{}{}", if set.is_empty() { " " } else { set }, names.join(" "));
        }
    }
    let beyond: Vec<&str> = permitted.iter().copied().filter(|name| !granted.iter().any(|own| own == name)).collect();
    if no_new_privs {
        line.push_str("; not with no_new_privs, which is on");
    } else if !beyond.is_empty() && file["effective"] == true {
        let _ = write!(line, "; without {} in the bounding set its exec is EPERM", beyond.join(" "));
    }
    line
}

/// Where the sets of PID 1, its bundle's and those of others differ.
fn sets(out: &mut String, report: &Report) {
    let Some(sets) = &report.sets else { return };
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let counts: Vec<String> = ["effective", "permitted", "bounding", "inheritable", "ambient"]
        .iter()
        .map(|set| format!("{set} {}", list(&sets["init"][*set]).len()))
        .collect();
    let mut line = format!("PID 1: {}", counts.join(", "));
    if sets["no_new_privs"] == true {
        line.push_str("; no_new_privs: no exec gains any");
    }
    if let Some(seccomp) = sets["seccomp"].as_str() {
        let _ = write!(line, "; seccomp {seccomp}");
    }
    let _ = writeln!(out, "{:LABEL$}{line}", "SETS");
    for file in sets["files"].as_array().into_iter().flatten().take(8) {
        let _ =
            writeln!(out, "{:LABEL$}{}", "", file_capabilities(file, &report.granted, sets["no_new_privs"] == true));
    }
    let ambient = list(&sets["init"]["ambient"]);
    if !ambient.is_empty() {
        let _ =
            writeln!(out, "{:LABEL$}ambient, kept by programs without file capabilities: {}", "", ambient.join(" "));
    }
    let spec = list(&sets["spec"]["bounding"]);
    let beyond: Vec<String> = report.granted.iter().filter(|name| !spec.contains(name)).cloned().collect();
    if !spec.is_empty() && !beyond.is_empty() {
        let _ = writeln!(out, "{:LABEL$}beyond its bundle: {}", "", beyond.join(" "));
    }
    for process in sets["processes"].as_array().into_iter().flatten().take(8) {
        let _ = writeln!(
            out,
            "{:LABEL$}{} ({}): effective {}, permitted {}, ambient {}",
            "",
            escape(process["comm"].as_str().unwrap_or("?")),
            process["pid"],
            list(&process["sets"]["effective"]).len(),
            list(&process["sets"]["permitted"]).len(),
            list(&process["sets"]["ambient"]).len()
        );
    }
}
