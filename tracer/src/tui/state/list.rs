//! Which rows are listed, in which order, and which one is chosen.

use std::{cmp::Reverse, sync::Arc};

use serde_json::Value;

use super::{App, Kind, Popup, Row};
use crate::{
    model::Container,
    tui::{
        keys::Action,
        panel::{Key, Of, Panel},
    },
};

/// A lens's list, and what the user made of it.
#[derive(Debug)]
pub struct Tab {
    pub panel: &'static Panel,
    /// The column that it is sorted by.
    pub sort: usize,
    pub reversed: bool,
    /// The number of the chosen row; `None`: whichever stands on top, so that the newest is shown as it comes.
    chosen: Option<u64>,
}

impl Tab {
    pub(super) fn new(panel: &'static Panel) -> Self {
        Self { panel, sort: 0, reversed: false, chosen: None }
    }
}

/// The rows as they were when the user froze them.
#[derive(Debug)]
pub struct Frozen {
    pub rows: Vec<Row>,
    pub containers: Vec<Row>,
    pub capabilities: Vec<Row>,
    /// Findings since.
    pub new: u64,
}

impl App {
    pub fn current(&self) -> Option<&Tab> {
        self.tabs.get(self.tab)
    }

    /// The rows of a tab before any filter.
    pub fn count(&self, tab: &Tab) -> usize {
        self.listed(tab).count()
    }

    /// Of the open tab's rows, those that ctrace was not there for.
    pub fn past(&self) -> usize {
        let Some(tab) = self.current().filter(|tab| tab.panel.of == Of::Lens) else { return 0 };
        let is_past = |row: &&Row| row.finding.evidence.get("before_attach").and_then(Value::as_bool) == Some(true);
        self.listed(tab).filter(is_past).count()
    }

    /// What the list shows, in its order.
    pub fn rows(&self) -> Vec<&Row> {
        self.current().map_or_else(Vec::new, |tab| self.rows_of(tab))
    }

    fn rows_of<'a>(&'a self, tab: &'a Tab) -> Vec<&'a Row> {
        let words: Vec<String> = self.filter.split_whitespace().map(str::to_lowercase).collect();
        let mut rows: Vec<&Row> = self.listed(tab).filter(|row| words.is_empty() || matches(row, &words)).collect();
        if let Some(column) = tab.panel.columns.get(tab.sort) {
            // Stable: among equals the newest is first.
            rows.sort_by_cached_key(|row| match (column.key)(row) {
                Key::Number(number) => (Some(Reverse(number)), String::new()),
                Key::Text(text) => (None, text.to_lowercase()),
            });
        }
        if tab.reversed {
            rows.reverse();
        }
        rows
    }

    /// Where in `rows` the chosen row stands. One that is gone leaves the choice to the top.
    pub fn index(&self, rows: &[&Row]) -> usize {
        self.current().map_or(0, |tab| index_of(tab, rows))
    }

    pub(super) fn has_overview(&self) -> bool {
        self.tabs.iter().any(|tab| tab.panel.of == Of::Containers)
    }

    /// The container that is chosen in the overview.
    fn chosen_container(&self) -> Option<Arc<Container>> {
        let tab = self.tabs.iter().find(|tab| tab.panel.of == Of::Containers)?;
        let rows = self.rows_of(tab);
        rows.get(index_of(tab, &rows))?.finding.container.clone()
    }

    fn open(&mut self, tab: usize) {
        self.tab = tab;
        if self.current().is_some_and(|tab| tab.panel.of == Of::Capabilities) {
            self.meant = self.chosen_container();
        }
    }

    pub fn selected(&self) -> Option<&Row> {
        let rows = self.rows();
        rows.get(self.index(&rows)).copied()
    }

    /// The rows of a tab before any filter, the newest first.
    fn listed<'a>(&'a self, tab: &'a Tab) -> Box<dyn Iterator<Item = &'a Row> + 'a> {
        let frozen = self.frozen.as_ref();
        if tab.panel.of == Of::Containers {
            return Box::new(frozen.map_or(self.overview.rows(), |frozen| &frozen.containers).iter());
        }
        if tab.panel.of == Of::Capabilities {
            let rows = frozen.map_or(self.capabilities.rows(), |frozen| &frozen.capabilities).iter();
            // Of the one that is looked at; where there is no overview, of all that were asked for.
            let is_meant = |row: &&Row| {
                let own = row.finding.container.as_ref().map(|container| &container.cgroup);
                !self.has_overview() || self.meant.as_ref().is_none_or(|meant| own == Some(&meant.cgroup))
            };
            return Box::new(rows.filter(is_meant));
        }
        let held: Box<dyn DoubleEndedIterator<Item = &Row>> = match frozen {
            Some(frozen) => Box::new(frozen.rows.iter()),
            None => Box::new(self.events.rows().chain(self.history.rows())),
        };
        match tab.panel.of {
            Of::Every => Box::new(held.rev().filter(|row| !row.finding.id.is_empty())),
            _ => Box::new(held.rev().filter(|row| row.lens() == tab.panel.lens)),
        }
    }

    pub(super) fn act_in_list(&mut self, action: Action) {
        let page = self.measured.list.max(2) - 1;
        match action {
            Action::Up => self.step(|at| at.saturating_sub(1)),
            Action::Down => self.step(|at| at + 1),
            Action::PageUp => self.step(|at| at.saturating_sub(page)),
            Action::PageDown => self.step(|at| at + page),
            Action::Last => self.step(|_| usize::MAX),
            Action::First => {
                if let Some(tab) = self.tabs.get_mut(self.tab) {
                    tab.chosen = None;
                }
            }
            Action::Open => {
                if let Some(row) = self.selected().cloned() {
                    self.popups.push(Popup::new(Kind::Page(Box::new(row))));
                }
            }
            Action::Back => self.filter.clear(),
            Action::Filter => self.typing = true,
            Action::Sort => {
                if let Some(tab) = self.tabs.get_mut(self.tab) {
                    tab.sort = (tab.sort + 1) % tab.panel.columns.len().max(1);
                    tab.reversed = false;
                }
            }
            Action::Reverse => {
                if let Some(tab) = self.tabs.get_mut(self.tab) {
                    tab.reversed = !tab.reversed;
                }
            }
            Action::NextTab => self.open((self.tab + 1) % self.tabs.len().max(1)),
            Action::PreviousTab => self.open((self.tab + self.tabs.len().max(1) - 1) % self.tabs.len().max(1)),
            Action::Freeze => {
                self.frozen = match self.frozen {
                    Some(_) => None,
                    None => Some(Frozen {
                        rows: self.events.rows().chain(self.history.rows()).cloned().collect(),
                        containers: self.overview.rows().to_vec(),
                        capabilities: self.capabilities.rows().to_vec(),
                        new: 0,
                    }),
                };
            }
            _ => {}
        }
    }

    fn step(&mut self, to: impl Fn(usize) -> usize) {
        let rows = self.rows();
        let at = to(self.index(&rows)).min(rows.len().saturating_sub(1));
        // Back on top means: stay on top. Whoever moved away keeps the row that was chosen.
        let chosen = if at == 0 { None } else { rows.get(at).map(|row| row.number) };
        if let Some(tab) = self.tabs.get_mut(self.tab) {
            tab.chosen = chosen;
        }
    }
}

/// Where in `rows` the chosen row of a tab stands.
fn index_of(tab: &Tab, rows: &[&Row]) -> usize {
    tab.chosen.and_then(|number| rows.iter().position(|row| row.number == number)).unwrap_or(0)
}

/// Does each word stand somewhere in what names the row?
fn matches(row: &Row, words: &[String]) -> bool {
    let finding = &row.finding;
    let mut text = format!("{} {} ", finding.code.0, finding.summary);
    if let Some(container) = &finding.container {
        text.extend([&container.label(), " ", &container.id, " ", &container.cgroup, " "]);
    }
    if let Some(cgroup) = finding.evidence.get("cgroup").and_then(Value::as_str) {
        text.extend([cgroup, " "]);
    }
    if let Some(process) = &finding.process {
        text.push_str(&process.comm);
    }
    let text = text.to_lowercase();
    words.iter().all(|word| text.contains(word.as_str()))
}
