//! What a container asks of its capabilities while it is watched: each with its verdict, who asked, and from where in the
//! kernel.

use serde_json::Value;

use super::{Column, Depth, Doc, Grows, Item, Key, Look, Of, Panel, Tone};
use crate::{
    findings::caps::{VERDICTS, position},
    model::Severity,
    tui::state::{ASKED_FOR, Row},
};

/// Of what was asked for by name: beside what was found.
pub static PANEL: Panel = panel(ASKED_FOR.0);

/// In the overview, where what was found has tabs of its own.
pub static TAB: Panel = panel("caps");

const fn panel(lens: &'static str) -> Panel {
    Panel {
        lens,
        of: Of::Capabilities,
        noun: ["capability", "capabilities"],
        columns: COLUMNS,
        detail,
        empty: "Nothing was asked for so far; what is asked for stands here within a second.",
    }
}

static COLUMNS: &[Column] = &[
    Column {
        title: "CAPABILITY",
        width: 18,
        grows: Grows::Name,
        right: false,
        rank: 0,
        cell: |row, _| (short(text(row, "capability").unwrap_or_default()).to_owned(), Tone::Strong),
        // By the verdict, then in the kernel's order.
        key: |row| Key::Number(order(row)),
    },
    Column {
        title: "VERDICT",
        width: 15,
        grows: Grows::No,
        right: false,
        rank: 0,
        cell: |row, _| {
            let tone = match row.finding.severity {
                Severity::Info => Tone::Quiet,
                other => Tone::Of(other),
            };
            (verdict(row).to_owned(), tone)
        },
        key: |row| Key::Number(order(row)),
    },
    Column {
        title: "COUNT",
        width: 7,
        grows: Grows::No,
        right: true,
        rank: 1,
        cell: |row, _| (count(row).map_or_else(String::new, |count| count.to_string()), Tone::Plain),
        key: |row| Key::Number(count(row).unwrap_or(0)),
    },
    Column {
        title: "ASKED BY",
        width: 15,
        grows: Grows::No,
        right: false,
        rank: 2,
        cell: |row, _| (asker(row).to_owned(), Tone::Plain),
        key: |row| Key::Text(asker(row).to_owned()),
    },
    Column {
        title: "IN",
        width: 12,
        grows: Grows::Text,
        right: false,
        rank: 0,
        cell: |row, _| (call(row).to_owned(), Tone::Plain),
        key: |row| Key::Text(call(row).to_owned()),
    },
];

fn text<'a>(row: &'a Row, key: &str) -> Option<&'a str> {
    row.finding.evidence.get(key).and_then(Value::as_str)
}

fn short(name: &str) -> &str {
    name.strip_prefix("CAP_").unwrap_or(name)
}

fn count(row: &Row) -> Option<u64> {
    row.finding.evidence.get("count").and_then(Value::as_u64).filter(|count| *count > 0)
}

fn is_asked(row: &Row) -> bool {
    text(row, "verdict") != Some("unused")
}

fn asker(row: &Row) -> &str {
    if is_asked(row) { text(row, "comm").unwrap_or("unknown") } else { "" }
}

fn call(row: &Row) -> &str {
    if is_asked(row) { text(row, "syscall").unwrap_or("(no call)") } else { "" }
}

/// In words.
fn verdict(row: &Row) -> &'static str {
    match text(row, "verdict") {
        Some("needed") => "needed",
        Some("denied") => "refused",
        Some("not_a_capability") => "no capability",
        Some("probed") => "in passing",
        Some("exec") => "by exec",
        Some("other_namespace") => "other namespace",
        Some("runtime") => "the runtime's",
        _ => "never used",
    }
}

/// The largest first.
fn order(row: &Row) -> u64 {
    let own = text(row, "verdict").unwrap_or_default();
    let rank = VERDICTS.iter().position(|verdict| *verdict == own).unwrap_or(VERDICTS.len()) as u64;
    let (number, _) = position(text(row, "capability").unwrap_or_default());
    (100 - rank) * 1000 + u64::from(999 - number.min(999))
}

/// Programs that asked, in the short form.
const FEW: usize = 3;

fn detail(row: &Row, _: &Look, depth: Depth) -> Doc {
    let mut doc = Doc::default();
    let name = text(row, "capability").unwrap_or("?");
    let finding = &row.finding;
    doc.answer(finding.severity, &format!("{name}: {}", finding.summary));
    if let Some(why) = text(row, "root") {
        doc.push(Item::Row("beware".into(), format!("as good as root: {why}"), Tone::Of(Severity::Warning)));
    }
    let asks = finding.evidence.get("asks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let shown = if depth == Depth::Full { asks.len() } else { FEW };
    for ask in asks.iter().take(shown) {
        doc.row("asked by", asked(ask));
        let stack: Vec<&str> = ask["stack"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !stack.is_empty() {
            doc.quiet("from", stack.join(" < "));
        }
        if depth == Depth::Full {
            if ask["reason"].as_str() != Some(&finding.summary) {
                doc.quiet("means", ask["reason"].as_str().unwrap_or("unknown"));
            }
            if let Some(source) = ask["source"].as_str() {
                doc.quiet("see", source);
            }
        }
    }
    if asks.len() > shown {
        doc.quiet("", format!("and {} more: Enter", asks.len() - shown));
    }
    for set in &finding.fix {
        doc.row("so far", set);
    }
    if let Some(seen) = text(row, "seen") {
        let ended = finding.evidence.get("ended") == Some(&Value::Bool(true));
        doc.quiet("seen", format!("{seen}{}", if ended { ", and it has ended" } else { "" }));
    }
    if depth == Depth::Full {
        let warnings = finding.evidence.get("warnings").and_then(Value::as_array).into_iter().flatten();
        for warning in warnings.filter_map(Value::as_str) {
            doc.push(Item::Row("beware".into(), warning.to_owned(), Tone::Of(Severity::Warning)));
        }
    }
    doc
}

/// `nginx (48121) in chown, 2 times, granted`.
fn asked(ask: &Value) -> String {
    let comm = ask["comm"].as_str().unwrap_or("unknown");
    let pid = ask["pid"].as_u64().map_or_else(String::new, |pid| format!(" ({pid})"));
    let call = ask["syscall"].as_str().map_or_else(|| "outside of any call".to_owned(), |call| format!("in {call}"));
    let times = match ask["count"].as_u64() {
        Some(1) => "once".to_owned(),
        Some(count) => format!("{count} times"),
        None => "unknown times".to_owned(),
    };
    let answer = match ask["granted"].as_bool() {
        Some(true) => ", granted",
        Some(false) => ", refused",
        None => "",
    };
    let results: Vec<&str> = ask["results"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let results = if results.is_empty() { String::new() } else { format!(", the call gave {}", results.join(" or ")) };
    format!("{comm}{pid} {call}, {times}{answer}{results}")
}
