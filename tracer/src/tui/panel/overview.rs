//! Every container in a line, the worst first.

use serde_json::Value;

use super::{Column, Depth, Doc, Grows, Item, Key, Look, Of, Panel, Tone, evidence, findings, whom};
use crate::tui::state::{QUIET, Row, Standing, urgency};

pub static PANEL: Panel = Panel {
    lens: "overview",
    of: Of::Containers,
    noun: ["container", "containers"],
    columns: COLUMNS,
    detail,
    empty: "No container is here, and nothing was found in the host.",
};

static COLUMNS: &[Column] = &[
    Column {
        title: "CONTAINER",
        width: 20,
        grows: Grows::Name,
        right: false,
        rank: 0,
        cell: |row, _| (whom(&row.finding), Tone::Strong),
        // The order that rows come in: the worst first.
        key: |row| Key::Number(urgency(&row.finding).1.max(0) as u64 / 4 + (u64::from(urgency(&row.finding).0) << 62)),
    },
    Column {
        title: "STATE",
        width: 5,
        grows: Grows::No,
        right: false,
        rank: 2,
        cell: |row, _| match row.standing {
            Standing::Here => ("runs".to_owned(), Tone::Plain),
            Standing::Gone => ("gone".to_owned(), Tone::Quiet),
            Standing::Host => (String::new(), Tone::Plain),
        },
        key: |row| Key::Number(u64::from(row.standing == Standing::Here)),
    },
    Column {
        title: "RUNTIME",
        width: 10,
        grows: Grows::No,
        right: false,
        rank: 5,
        cell: |row, _| (runtime(row), Tone::Quiet),
        key: |row| Key::Text(runtime(row)),
    },
    Column {
        title: "CPUS",
        width: 5,
        grows: Grows::No,
        right: true,
        rank: 3,
        cell: |row, _| {
            (number(row, "cpu", "usage_cpus").map_or_else(unknown, |cpus| format!("{cpus:.2}")), Tone::Plain)
        },
        key: |row| Key::Number((number(row, "cpu", "usage_cpus").unwrap_or(0.0) * 1000.0) as u64),
    },
    Column {
        title: "MEMORY",
        width: 11,
        grows: Grows::No,
        right: true,
        rank: 3,
        cell: |row, _| (of_limit(row, "mem", "usage_bytes", "limit_bytes", short), Tone::Plain),
        key: |row| Key::Number(number(row, "mem", "usage_bytes").unwrap_or(0.0) as u64),
    },
    Column {
        title: "PIDS",
        width: 9,
        grows: Grows::No,
        right: true,
        rank: 4,
        cell: |row, _| (of_limit(row, "pids", "current", "limit", |count| format!("{count:.0}")), Tone::Plain),
        key: |row| Key::Number(number(row, "pids", "current").unwrap_or(0.0) as u64),
    },
    Column {
        title: "WORST",
        width: 36,
        grows: Grows::Text,
        right: false,
        rank: 0,
        cell: |row, _| (row.finding.summary.clone(), Tone::Plain),
        key: |row| Key::Text(row.finding.summary.clone()),
    },
];

fn unknown() -> String {
    "–".to_owned()
}

fn runtime(row: &Row) -> String {
    row.finding.container.as_ref().and_then(|own| own.runtime).map_or_else(String::new, |runtime| runtime.to_string())
}

fn number(row: &Row, lens: &str, key: &str) -> Option<f64> {
    row.samples.get(lens)?.fields.get(key).and_then(Value::as_f64)
}

/// `12/64`; `12` where there is no limit.
fn of_limit(row: &Row, lens: &str, key: &str, limit: &str, form: impl Fn(f64) -> String) -> String {
    let Some(value) = number(row, lens, key) else { return unknown() };
    let limit = number(row, lens, limit).map_or_else(String::new, |limit| format!("/{}", form(limit)));
    form(value) + &limit
}

/// `308K`, `1.5G`.
fn short(bytes: f64) -> String {
    let (unit, value) = [('T', 40), ('G', 30), ('M', 20), ('K', 10)]
        .into_iter()
        .map(|(unit, shift)| (unit, bytes / 2_f64.powi(shift)))
        .find(|(_, value)| *value >= 1.0)
        .unwrap_or(('B', bytes));
    if value < 10.0 && unit != 'B' { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

fn detail(row: &Row, look: &Look, depth: Depth) -> Doc {
    let mut doc = Doc::default();
    if row.finding.code == QUIET {
        doc.push(Item::Row("".into(), "nothing was found here in the last quarter of an hour".to_owned(), Tone::Quiet));
    } else {
        findings::verdict(&mut doc, &row.finding);
    }
    for (lens, sample) in &row.samples {
        let numbers: Vec<(String, String)> = sample
            .fields
            .iter()
            .filter(|(_, value)| value.is_number())
            .map(|(key, value)| evidence::with_unit(key, value))
            .collect();
        if depth == Depth::Full && !numbers.is_empty() {
            doc.push(Item::Numbers(lens, numbers));
        }
    }
    if depth == Depth::Full {
        if !row.followers.is_empty() {
            doc.heading("what was found here, the newest first");
        }
        for finding in &row.followers {
            doc.push(Item::Row(look.time(finding.time).into(), finding.summary.clone(), Tone::Of(finding.severity)));
        }
    }
    if row.finding.code != QUIET {
        evidence::identity(&mut doc, &row.finding, look);
    }
    doc
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn sizes_take_five_columns_at_most() {
        let said = [0.0, 1023.0, 1024.0, 315_392.0, 67_108_864.0, 1.5 * 1_073_741_824.0, 2e13].map(short);
        assert_eq!(said, ["0B", "1023B", "1.0K", "308K", "64M", "1.5G", "18T"]);
    }
}
