//! What a lens adds to the TUI: the columns of its list, and the detail of a row. A new lens is one file here and its
//! row in [`REGISTERED`].
//!
//! Panels write plain text, as it came: whoever puts it on the screen escapes it, once, for all of them.

mod capabilities;
mod doc;
mod evidence;
mod findings;
mod oom;
mod overview;
mod way;

use jiff::{civil::Date, tz::TimeZone};

pub use self::doc::{Doc, Item, Tone};
use super::state::Row;
use crate::model::{Finding, Timestamp, size};

/// The lenses' tabs, in their order.
pub static REGISTERED: &[&Panel] = &[
    &oom::PANEL,
    &findings::EXITS,
    &findings::SIGNALS,
    &findings::PIDS,
    &findings::MEM,
    &findings::IO,
    &findings::CPU,
    &way::PANEL,
    &findings::NET,
    &capabilities::PANEL,
    &findings::CAPS,
];

/// The tabs for these lenses. Several have an overview before them, and all that was found.
pub fn tabs(lenses: &[&str]) -> Vec<&'static Panel> {
    let several = lenses.len() > 1;
    // Some lenses have more to show than what they found.
    let more = [(way::PANEL.lens, "net"), (capabilities::PANEL.lens, "caps")];
    let is_meant = |panel: &&Panel| {
        lenses.contains(&panel.lens) || more.iter().any(|(own, lens)| *own == panel.lens && lenses.contains(lens))
    };
    let own = REGISTERED.iter().copied().filter(is_meant);
    if several {
        // One tab has room for caps.
        let own = own
            .filter(|panel| panel.lens != findings::CAPS.lens)
            .map(|panel| if panel.of == Of::Capabilities { &capabilities::TAB } else { panel });
        [&overview::PANEL, &findings::TIMELINE].into_iter().chain(own).collect()
    } else {
        own.collect()
    }
}

/// What a tab lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The findings and events of its lens.
    Lens,
    /// The findings of every lens.
    Every,
    Containers,
    /// What containers that caps watches ask for.
    Capabilities,
}

#[derive(Debug)]
pub struct Panel {
    /// The lens whose findings it lists, or what the tab is called.
    pub lens: &'static str,
    pub of: Of,
    /// What the findings are, counted: `OOM event`, `OOM events`.
    pub noun: [&'static str; 2],
    pub columns: &'static [Column],
    pub detail: fn(&Row, &Look, Depth) -> Doc,
    /// While there is nothing to list.
    pub empty: &'static str,
}

#[derive(Debug)]
pub struct Column {
    pub title: &'static str,
    /// Columns on the screen; the one that grows takes at least this.
    pub width: u16,
    pub grows: Grows,
    pub right: bool,
    /// Where there is no room for all, the highest go first; 0 stays.
    pub rank: u8,
    pub cell: fn(&Row, &Look) -> (String, Tone),
    pub key: fn(&Row) -> Key,
}

/// Whether a column takes the room that is left, and where its text is cut if that is too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grows {
    No,
    /// In the middle: both ends of a name tell it apart.
    Name,
    /// At its end: a sentence.
    Text,
}

/// What rows are sorted by: numbers from the largest, text from A.
#[derive(Debug)]
pub enum Key {
    Number(u64),
    Text(String),
}

/// What cells and details need besides the row.
#[derive(Debug)]
pub struct Look {
    pub zone: TimeZone,
    pub today: Date,
}

/// How much room a detail has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Some lines below the list.
    Terse,
    /// As many as it takes.
    Full,
}

impl Look {
    /// `14:02:11`; of another day `Fri 22:10`, or `Mar  9`, since an hour alone would mislead.
    pub fn time(&self, time: Timestamp) -> String {
        match jiff::Timestamp::from_nanosecond(i128::from(time.0)) {
            Ok(moment) => {
                let local = moment.to_zoned_datetime(self.zone.clone());
                let days = self.today.duration_since(local.date()).as_hours() / 24;
                let form = match days {
                    0 => "%H:%M:%S",
                    1..7 => "%a %H:%M",
                    _ => "%b %e",
                };
                local.strftime(form).to_string()
            }
            Err(_) => "?".to_owned(),
        }
    }

    /// Date, time and zone.
    pub fn moment(&self, time: Timestamp) -> String {
        jiff::Timestamp::from_nanosecond(i128::from(time.0)).map_or_else(
            |_| "?".to_owned(),
            |moment| moment.to_zoned_datetime(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S%.3f %Z").to_string(),
        )
    }
}

/// `512.0 MiB`; nothing is just `0`.
fn amount(bytes: u64) -> String {
    if bytes == 0 { "0".to_owned() } else { size(bytes) }
}

/// Whom a finding is about: the container, else the cgroup, else the host. Not escaped.
pub fn whom(finding: &Finding) -> String {
    if let Some(container) = &finding.container {
        return container.label();
    }
    match finding.evidence.get("cgroup").and_then(serde_json::Value::as_str) {
        Some(cgroup) if cgroup != "/" => format!("host {cgroup}"),
        _ => "host".to_owned(),
    }
}
