//! Tables of samples among the lines: at the start, when a finding opens or closes, at the end.

use std::fmt::Write;

use unicode_width::UnicodeWidthStr;

use super::{cpu, lines::Style, pids};
use crate::{
    model::{State, Timestamp},
    pipeline::{Output, SampleRow},
};

/// Rows that a table shows at the most.
pub const ROWS: usize = 20;

/// The latest samples of a lens, and whether they are worth a table now.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<SampleRow>,
    due: bool,
    shown: Option<Timestamp>,
}

/// A row of a table; the first names the columns.
#[derive(Debug, Default)]
pub struct Line {
    pub name: String,
    /// Right-aligned.
    pub numbers: Vec<String>,
    pub last: String,
}

impl Line {
    /// How many are not shown, if any.
    pub fn more(containers: usize) -> Option<Self> {
        let more = containers.saturating_sub(ROWS);
        (more > 0).then(|| Self { name: format!("and {more} more"), ..Self::default() })
    }
}

impl Table {
    pub fn take(&mut self, output: &Output) {
        match output {
            Output::Sample(sample) => {
                if self.rows.first().is_some_and(|first| first.time != sample.time) {
                    self.rows.clear();
                }
                self.due |= self.shown.is_none();
                self.rows.push((**sample).clone());
            }
            Output::Finding(finding) if finding.state.is_some() => self.due |= finding.state != Some(State::Update),
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
        let first = self.rows.first()?;
        let (time, sample) = (first.time, first.sample);
        self.shown = Some(time);
        let lines = match sample {
            "pids" => pids::table(&mut self.rows),
            "cpu" => cpu::table(&mut self.rows),
            _ => return None,
        };
        Some(aligned(&lines, &format!("{}  ", time.clock(&style.zone))))
    }
}

fn aligned(lines: &[Line], first: &str) -> String {
    // A line without numbers is a sentence.
    let rows = lines.iter().filter(|line| !line.numbers.is_empty());
    let name_width = rows.map(|line| line.name.width()).max().unwrap_or(0);
    let columns = lines.iter().map(|line| line.numbers.len()).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.numbers.get(column)).map(String::len).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let mut out = if number == 0 { first.to_owned() } else { " ".repeat(first.len()) };
        let _ = write!(out, "{}{}", line.name, " ".repeat(name_width.saturating_sub(line.name.width())));
        for (number, width) in line.numbers.iter().zip(&widths) {
            let _ = write!(out, "  {number:>width$}");
        }
        let _ = write!(out, "  {}", line.last);
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}
