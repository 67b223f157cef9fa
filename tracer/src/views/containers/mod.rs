//! `ctrace containers`: a table, one container in full, or one JSON object a line.

mod block;
mod json;
mod network;

use std::{collections::BTreeMap, fmt::Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

pub use self::{block::block, json::json};
use super::{
    escape::escape,
    lines::{Style, paint},
};
use crate::{
    containers::{inspect::Inspected, is_generated},
    model::{Code, Finding, Severity, Timestamp},
};

/// A name can be 64 KiB long; whole it is in the JSON and in `ctrace containers X`.
const CELL: usize = 48;
/// Containers named below a table, of each verdict.
const NAMES: usize = 12;
const COLUMNS: [&str; 15] = [
    "NAME", "RUNTIME", "ID", "POD", "IMAGE", "AGE", "INIT", "MEM", "PIDS", "CPU", "USER", "USERNS", "CAPS", "NET",
    "WARNINGS",
];

/// The table: one line a container, no blanks within a cell, `-` for what is not there and `?` for what is not known.
pub fn table(rows: &[(Inspected, Vec<Finding>)], now: Timestamp) -> String {
    let mut lines = vec![COLUMNS.map(str::to_owned)];
    lines.extend(rows.iter().map(|(inspected, findings)| row(inspected, findings, now)));
    let widths: Vec<usize> =
        (0..COLUMNS.len()).map(|at| lines.iter().map(|line| line[at].width()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for line in lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, "{cell}{:pad$}  ", "", pad = width - cell.width());
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

fn row(inspected: &Inspected, findings: &[Finding], now: Timestamp) -> [String; COLUMNS.len()] {
    let Inspected { container, facts, limits, unknown, .. } = inspected;
    let missing = |field: &str| if unknown.contains_key(field) { "?" } else { "-" };
    let or = |value: Option<String>, field: &str| value.unwrap_or_else(|| missing(field).to_owned());
    let pod = match (&container.namespace, &container.pod) {
        (Some(namespace), Some(pod)) => Some(format!("{namespace}/{pod}")),
        (None, pod) => pod.clone(),
        (Some(_), None) => None,
    };
    let id = if is_generated(&container.id) { container.id.chars().take(12).collect() } else { container.id.clone() };
    let warnings: Vec<&str> = findings.iter().map(|finding| finding.code.0).collect();
    let started = inspected.started.map(|started| age(now.0.saturating_sub(started.0)));
    let cells = [
        or(container.name.clone(), "name"),
        or(container.runtime.map(|runtime| runtime.to_string()), "runtime"),
        id,
        or(pod, "pod"),
        or(facts.image.clone(), "image"),
        or(started, "started"),
        or(inspected.init_pid.map(|pid| pid.to_string()), "init_pid"),
        pair(
            limits.memory_used_bytes.map(short).ok_or_else(|| missing("limits.memory_used_bytes")),
            limits.memory_bytes.map(short).ok_or_else(|| missing("limits.memory_bytes")),
        ),
        pair(
            limits.pids_used.map(|count| count.to_string()).ok_or_else(|| missing("limits.pids_used")),
            limits.pids_max.map(|count| count.to_string()).ok_or_else(|| missing("limits.pids_max")),
        ),
        or(limits.cpu_quota_cpus.map(|cpus| format!("{cpus:.2}")), "limits.cpu_quota_cpus"),
        user(inspected),
        userns(inspected).to_owned(),
        or(capabilities(inspected), "capabilities"),
        or(inspected.network_mode.clone(), "network_mode"),
        if warnings.is_empty() { "-".to_owned() } else { warnings.join(",") },
    ];
    cells.map(|text| cell(&text))
}

/// Escaped, without blanks, and not longer than a cell.
fn cell(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    let start = &text[..text.floor_char_boundary(4 * CELL)];
    let safe = escape(start).replace(char::is_whitespace, "\\x20");
    if start.len() == text.len() && safe.width() <= CELL {
        return safe;
    }
    let mut cut = String::new();
    for letter in safe.chars() {
        if cut.width() + letter.width().unwrap_or(0) + 1 > CELL {
            break;
        }
        cut.push(letter);
    }
    cut + "…"
}

fn pair(used: Result<String, &str>, limit: Result<String, &str>) -> String {
    format!("{}/{}", used.unwrap_or_else(str::to_owned), limit.unwrap_or_else(str::to_owned))
}

fn number(value: Option<u32>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| value.to_string())
}

fn user(inspected: &Inspected) -> String {
    if inspected.user.outside.is_none() {
        return "?".to_owned();
    }
    format!("{}→{}", number(inspected.user.inside), number(inspected.user.outside))
}

fn userns(inspected: &Inspected) -> &'static str {
    match (inspected.userns.own, inspected.userns.rootless) {
        (_, Some(true)) => "rootless",
        (Some(true), _) => "own",
        (Some(false), _) => "host",
        (None, _) => "?",
    }
}

/// What PID 1 has now, and behind the slash what an exec could give it.
fn capabilities(inspected: &Inspected) -> Option<String> {
    let sets = inspected.capabilities?;
    let all = inspected.all_capabilities;
    let count = |set: u64| if all != 0 && set & all == all { "all".to_owned() } else { set.count_ones().to_string() };
    let (effective, bounding) = (count(sets.effective), count(sets.bounding));
    Some(if effective == bounding { effective } else { format!("{effective}/{bounding}") })
}

/// What is to be said of the containers in a table: once for each code, with the names of all that it is true of.
pub fn verdicts(rows: &[(Inspected, Vec<Finding>)], style: &Style) -> String {
    let mut by_code: BTreeMap<(Severity, Code), Vec<&Finding>> = BTreeMap::new();
    for finding in rows.iter().flat_map(|(_, findings)| findings) {
        by_code.entry((finding.severity, finding.code)).or_default().push(finding);
    }
    let mut out = String::new();
    for ((severity, code), findings) in by_code {
        let Some(first) = findings.first() else { continue };
        let (what, _) = first.summary.split_once([':', ';']).unwrap_or((&first.summary, ""));
        let mut names: Vec<String> = findings
            .iter()
            .take(NAMES)
            .map(|finding| finding.container.as_ref().map_or_else(String::new, |container| cell(&container.label())))
            .collect();
        if findings.len() > NAMES {
            names.push(format!("and {} more", findings.len() - NAMES));
        }
        let head = format!("{}  {}", code.0, escape(what));
        let _ = writeln!(out, "\n{}", paint(&head, severity, style));
        let _ = writeln!(out, "    of      {}", names.join(", "));
        let _ = writeln!(out, "    why     {}", escape(&first.why));
        for fix in &first.fix {
            let _ = writeln!(out, "    fix     {}", escape(fix));
        }
        let _ = writeln!(out, "    more    ctrace explain {}", code.0);
    }
    out
}

/// `64M`, `1.5G`: one cell, no blank.
fn short(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "K", "M", "G", "T", "P"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 9.95 && (value * 10.0).round() % 10.0 >= 1.0);
    format!("{value:.digits$}{}", UNITS[unit])
}

/// `12s`, `3m05s`, `3h12m`, `4d07h`.
fn age(nanoseconds: i64) -> String {
    let seconds = (nanoseconds / 1_000_000_000).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if minutes == 0 => format!("{seconds}s"),
        () if hours == 0 => format!("{minutes}m{:02}s", seconds % 60),
        () if days == 0 => format!("{hours}h{:02}m", minutes % 60),
        () => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        assert_eq!(cell("a b\n\x1b[31m"), "a\\x20b\\n\\x1b[31m");
        assert_eq!(cell(""), "-");
        let long = cell(&"é".repeat(70_000));
        assert_eq!((long.width(), long.ends_with('…')), (CELL, true));
        assert!(cell(&"日".repeat(60)).width() <= CELL);
    }

    #[test]
    fn numbers() {
        for (bytes, want) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1K"),
            (1536, "1.5K"),
            (64 << 20, "64M"),
            ((1 << 20) - 1, "1M"),
            (u64::MAX, "16384P"),
        ] {
            assert_eq!(short(bytes), want);
        }
        let second = 1_000_000_000;
        for (seconds, want) in [(-5, "0s"), (59, "59s"), (185, "3m05s"), (11_520, "3h12m"), (370_800, "4d07h")] {
            assert_eq!(age(seconds * second), want);
        }
    }
}
