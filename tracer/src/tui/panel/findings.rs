//! The panel of a lens that has no form of its own: each finding in words, and its numbers by the units in their keys.

use super::{Column, Depth, Doc, Grows, Key, Look, Of, Panel, Tone, evidence, whom};
use crate::{model::Finding, tui::state::Row, views::io};

/// Every finding of every lens: what happened, in its order.
pub static TIMELINE: Panel = Panel {
    of: Of::Every,
    noun: ["finding", "findings"],
    empty: "Nothing was found so far. What is found stands here at once.",
    ..of("all")
};
pub static EXITS: Panel = Panel {
    noun: ["exit", "exits"],
    empty: "No process ended so far. The next one stands here as it ends.",
    ..of("exits")
};
pub static SIGNALS: Panel = Panel {
    noun: ["signal", "signals"],
    empty: "No signal so far. The next one stands here as it is sent.",
    ..of("signals")
};
pub static PIDS: Panel =
    Panel { empty: "No fork was refused, and nobody leaves zombies behind, so far.", ..of("pids") };
pub static MEM: Panel = Panel { empty: "No container is near its limit, stalls or swaps, so far.", ..of("mem") };
pub static IO: Panel = Panel {
    empty: "No writer was paused, no device's limit held anybody, and no file system was full, so far.",
    ..of("io")
};
pub static CPU: Panel =
    Panel { empty: "No container is throttled, waits for a CPU or is blocked, so far.", ..of("cpu") };
pub static NET: Panel = Panel { empty: "No container's packets were stopped on their way, so far.", ..of("net") };
pub static CAPS: Panel = Panel { empty: "Nothing was refused so far.", ..of("caps") };

/// What most lenses' panels are like.
const fn of(lens: &'static str) -> Panel {
    Panel {
        lens,
        of: Of::Lens,
        noun: ["finding", "findings"],
        columns: COLUMNS,
        detail,
        empty: "Nothing was found so far.",
    }
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
        width: 18,
        grows: Grows::Name,
        right: false,
        rank: 0,
        cell: |row, _| (whom(&row.finding), Tone::Strong),
        key: |row| Key::Text(whom(&row.finding)),
    },
    Column {
        title: "PROCESS",
        width: 15,
        grows: Grows::No,
        right: false,
        rank: 3,
        cell: |row, _| (comm(&row.finding), Tone::Plain),
        key: |row| Key::Text(comm(&row.finding)),
    },
    Column {
        title: "PID",
        width: 7,
        grows: Grows::No,
        right: true,
        rank: 4,
        cell: |row, _| (row.finding.process.as_ref().map_or_else(String::new, |own| own.pid.to_string()), Tone::Plain),
        key: |row| Key::Number(row.finding.process.as_ref().map_or(0, |own| u64::from(own.pid))),
    },
    Column {
        title: "WHAT",
        width: 40,
        grows: Grows::Text,
        right: false,
        rank: 0,
        cell: |row, _| (row.finding.summary.clone(), Tone::Plain),
        key: |row| Key::Text(row.finding.summary.clone()),
    },
    Column {
        title: "FINDING",
        width: 20,
        grows: Grows::No,
        right: false,
        rank: 5,
        cell: |row, _| (row.finding.code.0.to_owned(), Tone::Quiet),
        key: |row| Key::Text(row.finding.code.0.to_owned()),
    },
];

fn comm(finding: &Finding) -> String {
    finding.process.as_ref().map_or_else(String::new, |process| process.comm.clone())
}

fn detail(row: &Row, look: &Look, depth: Depth) -> Doc {
    let mut doc = Doc::default();
    verdict(&mut doc, &row.finding);
    if let Some(process) = &row.finding.process {
        let inside = process.ns_pid.filter(|inside| *inside != process.pid);
        let inside = inside.map_or_else(String::new, |pid| format!("  (inside {pid})"));
        let uid = process.uid.map_or_else(String::new, |uid| format!("  uid {uid}"));
        doc.row("process", format!("{} {}{inside}{uid}", process.comm, process.pid));
    }
    for (label, text) in io::facts(&row.finding) {
        doc.row(label, text);
    }
    evidence::rest(&mut doc, &row.finding, &[&["cgroup"], io::told(&row.finding)].concat());
    evidence::identity(&mut doc, &row.finding, look);
    evidence::unknown(&mut doc, &row.finding, io::is_shown);
    if depth == Depth::Full {
        for follower in &row.followers {
            evidence::follower(&mut doc, follower);
        }
    }
    doc
}

/// What, why, and what to do.
pub(super) fn verdict(doc: &mut Doc, finding: &Finding) {
    doc.answer(finding.severity, &finding.summary);
    doc.blank();
    if !finding.why.is_empty() {
        doc.row("why", &finding.why);
    }
    evidence::fixes(doc, &finding.fix);
}
