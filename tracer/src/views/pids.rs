//! What `ctrace pids` adds to lines: the table of counts, and the numbers of its findings.

use std::fmt::Write;

use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use super::{
    escape::escape,
    lines::{Style, row},
};
use crate::{
    model::{Finding, State, Timestamp},
    pipeline::{Output, SampleRow},
};

/// Rows that a table shows at the most: those nearest to their limits.
const ROWS: usize = 20;
const STATES: [&str; 6] = ["R", "S", "D", "T", "Z", "I"];

/// The latest counts, and whether they are worth a table now: at the start, when a finding opens or closes, at the end.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<SampleRow>,
    due: bool,
    shown: Option<Timestamp>,
}

impl Table {
    pub fn take(&mut self, output: &Output) {
        match output {
            Output::Sample(sample) if sample.sample == "pids" => {
                if self.rows.first().is_some_and(|first| first.time != sample.time) {
                    self.rows.clear();
                }
                self.due |= self.shown.is_none();
                self.rows.push((**sample).clone());
            }
            Output::Finding(finding) if finding.code.0.starts_with("pids.") => {
                self.due |= finding.state != Some(State::Update);
            }
            _ => {}
        }
    }

    /// The table, if it is time for one.
    pub fn if_due(&mut self, style: &Style) -> Option<String> {
        if std::mem::take(&mut self.due) { self.text(style) } else { None }
    }

    /// The last one, unless it was shown.
    pub fn at_end(&mut self, style: &Style) -> Option<String> {
        let time = self.rows.first()?.time;
        (self.shown != Some(time)).then(|| self.text(style))?
    }

    fn text(&mut self, style: &Style) -> Option<String> {
        let time = self.rows.first()?.time;
        self.shown = Some(time);
        self.rows.sort_by_key(|sample| (sample.container.is_none(), std::cmp::Reverse(share(sample))));
        let (containers, host): (Vec<_>, Vec<_>) = self.rows.iter().partition(|sample| sample.container.is_some());
        let mut lines = vec![head()];
        lines.extend(containers.iter().take(ROWS).chain(&host).map(|sample| line(sample)));
        let more = containers.len().saturating_sub(ROWS);
        if more > 0 {
            lines.push(Line { name: format!("and {more} more"), ..Line::default() });
        }
        Some(aligned(&lines, &format!("{}  ", time.clock(&style.zone))))
    }
}

/// Used of the nearest limit, in ten-thousandths.
fn share(sample: &SampleRow) -> u64 {
    let number = |key: &str| sample.fields.get(key).and_then(Value::as_u64);
    number("limiting_current").zip(number("limit")).map_or(0, |(current, limit)| current * 10_000 / limit.max(1))
}

#[derive(Default)]
struct Line {
    name: String,
    /// Right-aligned.
    numbers: Vec<String>,
    last: String,
}

fn head() -> Line {
    let numbers = STATES.iter().copied().chain(["THREADS", "PIDS", "LIMIT", "USED"]).map(str::to_owned).collect();
    Line { name: "CONTAINER".to_owned(), numbers, last: "LIMIT OF".to_owned() }
}

fn line(sample: &SampleRow) -> Line {
    let number = |value: Option<&Value>| value.and_then(Value::as_u64);
    let field = |key: &str| number(sample.fields.get(key));
    let shown = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let states = sample.fields.get("states");
    let mut numbers: Vec<String> =
        STATES.iter().map(|state| shown(number(states.and_then(|states| states.get(*state))))).collect();
    numbers.push(shown(field("threads")));
    let (current, limit, last) = if sample.container.is_some() {
        let last = sample.fields.get("limiting_cgroup").and_then(Value::as_str).unwrap_or("no limit");
        (field("limiting_current").or(field("current")), field("limit"), escape(last).into_owned())
    } else {
        let (pid_max, threads_max) = (field("pid_max"), field("threads_max"));
        let nearest = pid_max.into_iter().chain(threads_max).min();
        let which = if nearest == pid_max { "kernel.pid_max" } else { "kernel.threads-max" };
        (field("threads"), nearest, which.to_owned())
    };
    numbers.push(shown(current));
    numbers.push(shown(limit));
    let used = current.zip(limit).map(|(current, limit)| format!("{} %", current * 100 / limit.max(1)));
    numbers.push(used.unwrap_or_else(|| "-".to_owned()));
    let name = sample.container.as_ref().map_or_else(|| "host".to_owned(), |container| container.label());
    Line { name: escape(&name).into_owned(), numbers, last }
}

fn aligned(lines: &[Line], first: &str) -> String {
    let name_width = lines.iter().map(|line| line.name.width()).max().unwrap_or(0);
    let columns = lines.iter().map(|line| line.numbers.len()).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.numbers.get(column)).map(String::len).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let mut out = if number == 0 { first.to_owned() } else { " ".repeat(first.len()) };
        let _ = write!(out, "{}{}", line.name, " ".repeat(name_width - line.name.width()));
        for (number, width) in line.numbers.iter().zip(&widths) {
            let _ = write!(out, "  {number:>width$}");
        }
        let _ = write!(out, "  {}", line.last);
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
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
    }
    for (field, reason) in &finding.unknown {
        if matches!(*field, "asker" | "limit" | "limiting_cgroup" | "growth_per_s") {
            row(out, "unknown", &format!("{field}: {}", escape(reason)));
        }
    }
}
