//! The table of a lens that takes samples: the latest numbers, when they are worth showing.

use std::{cmp::Reverse, fmt::Write};

use unicode_width::UnicodeWidthStr;

use super::{cpu, escape::escape, io, lines::Style, mem, net, pids};
use crate::{
    model::{State, Timestamp},
    pipeline::{Output, SampleRow},
};

/// Rows that a table shows at the most: those that rank highest.
const ROWS: usize = 20;

/// How the samples of a lens look as a table.
pub struct Shape {
    pub sample: &'static str,
    /// How the codes begin whose findings make the table worth showing.
    pub codes: &'static [&'static str],
    pub head: fn() -> Line,
    pub line: fn(&SampleRow) -> Line,
    pub rank: fn(&SampleRow) -> u64,
    /// A sentence below a row, where one is worth it.
    pub below: fn(&SampleRow) -> Option<String>,
}

static SHAPES: &[&Shape] = &[&pids::TABLE, &mem::TABLE, &io::TABLE, &cpu::TABLE, &net::TABLE];

/// One row.
#[derive(Default)]
pub struct Line {
    /// Not escaped.
    pub name: String,
    /// Right-aligned.
    pub numbers: Vec<String>,
    /// Not escaped.
    pub last: String,
}

/// The latest samples, and whether they are worth a table now: at the start, when a finding opens or closes, at the end.
#[derive(Default)]
pub struct Table {
    shape: Option<&'static Shape>,
    rows: Vec<SampleRow>,
    due: bool,
    shown: Option<Timestamp>,
}

impl Table {
    /// Of a lens; of one that takes no samples it stays empty.
    pub fn of(lens: &str) -> Self {
        Self { shape: SHAPES.iter().copied().find(|shape| shape.sample == lens), ..Self::default() }
    }

    pub fn take(&mut self, output: &Output) {
        let Some(shape) = self.shape else { return };
        match output {
            Output::Sample(sample) if sample.sample == shape.sample => {
                if self.rows.first().is_some_and(|first| first.time != sample.time) {
                    self.rows.clear();
                }
                self.due |= self.shown.is_none();
                self.rows.push((**sample).clone());
            }
            Output::Finding(finding) if shape.codes.iter().any(|code| finding.code.0.starts_with(code)) => {
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
        let (shape, time) = (self.shape?, self.rows.first()?.time);
        self.shown = Some(time);
        self.rows.sort_by_key(|sample| (sample.container.is_none(), Reverse((shape.rank)(sample))));
        let (containers, host): (Vec<_>, Vec<_>) = self.rows.iter().partition(|sample| sample.container.is_some());
        let mut lines = vec![(shape.head)()];
        let sentence = |name: String| Line { name, ..Line::default() };
        for sample in containers.iter().take(ROWS) {
            lines.push((shape.line)(sample));
            lines.extend((shape.below)(sample).map(sentence));
        }
        let more = containers.len().saturating_sub(ROWS);
        lines.extend((more > 0).then(|| sentence(format!("and {more} more"))));
        for sample in host {
            lines.push((shape.line)(sample));
            lines.extend((shape.below)(sample).map(sentence));
        }
        Some(aligned(&lines, &format!("{}  ", time.clock(&style.zone))))
    }
}

/// The container's name.
pub fn name(sample: &SampleRow) -> String {
    sample.container.as_ref().map_or_else(|| "host".to_owned(), |container| container.label())
}

fn aligned(lines: &[Line], first: &str) -> String {
    let names: Vec<_> = lines.iter().map(|line| escape(&line.name)).collect();
    // A line without numbers is a sentence.
    let rows = lines.iter().zip(&names).filter(|(line, _)| !line.numbers.is_empty());
    let name_width = rows.map(|(_, name)| name.width()).max().unwrap_or(0);
    let columns = lines.iter().map(|line| line.numbers.len()).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.numbers.get(column)).map(|text| text.width()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, (line, name)) in lines.iter().zip(&names).enumerate() {
        let mut out = if number == 0 { first.to_owned() } else { " ".repeat(first.len()) };
        let _ = write!(out, "{name}{}", " ".repeat(name_width.saturating_sub(name.width())));
        for (number, width) in line.numbers.iter().zip(&widths) {
            let _ = write!(out, "  {}{number}", " ".repeat(width.saturating_sub(number.width())));
        }
        let _ = write!(out, "  {}", escape(&line.last));
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}
