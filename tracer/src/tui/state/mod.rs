//! What the TUI knows and what the user chose. No widget, no terminal, no clock of its own.

mod capabilities;
mod history;
mod input;
mod list;
mod notes;
mod overview;
mod popup;

use std::sync::Arc;

use crossterm::event::KeyEvent;
use jiff::{civil::Date, tz::TimeZone};
use serde_json::json;

pub use self::{
    capabilities::{ASKED_FOR, Capabilities},
    history::{History, Row, Standing},
    list::{Frozen, Tab},
    notes::{Notes, Said},
    overview::{Overview, QUIET, urgency},
    popup::{Kind, Popup},
};
use super::{
    Status,
    keys::{self, Action, Play},
    panel::{Of, Panel},
};
use crate::{
    model::{Container, Timestamp},
    pipeline::{EventRow, Note, Output},
    views::escape::{escape, word},
};

/// What findings may take: some five hundred OOM kills with all their numbers, and as many again while frozen.
const HISTORY_BYTES: usize = 4 << 20;
/// What events may take.
const EVENT_BYTES: usize = 1 << 20;
/// Events are numbered from here on, findings from 0.
const EVENTS_FROM: u64 = 1 << 63;
/// More events than this between two looks at the clock nobody reads: the rest is counted as gone.
const EVENTS_AT_ONCE: u32 = 500;
/// A terminal takes no more by OSC 52 than about this.
const COPY_BYTES: usize = 32 << 10;

/// What the user asked for that is not a change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    None,
    Quit,
    Suspend,
    Copy(String),
    /// Begin a recording, or end it.
    Record,
    Play(Play),
}

/// Where a replay is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub at_s: u64,
    pub of_s: u64,
    /// `None`: as fast as it goes.
    pub speed: Option<u32>,
    pub paused: bool,
}

/// What only drawing can tell, for the keys that come after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Rows of the list that fit.
    pub list: usize,
    /// Lines of the top popup that fit, and how far it can scroll.
    pub page: usize,
    pub scroll: usize,
}

#[derive(Debug)]
pub struct App {
    pub title: String,
    pub zone: TimeZone,
    pub history: History,
    /// What is no finding: exits and signals.
    pub events: History,
    at_once: u32,
    pub overview: Overview,
    pub capabilities: Capabilities,
    pub notes: Notes,
    pub status: Status,
    /// Told by losses; the status may know of more.
    lost: u64,
    pub tabs: Vec<Tab>,
    pub tab: usize,
    /// The container that was chosen in the overview when the tab of capabilities was opened.
    pub meant: Option<Arc<Container>>,
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    pub frozen: Option<Frozen>,
    pub popups: Vec<Popup>,
    /// An answer to the last key, until the next one.
    pub notice: Option<String>,
    /// `None`: live.
    pub position: Option<Position>,
    /// What is being recorded, in words.
    pub recording: Option<String>,
    /// When all was attached.
    pub since: Timestamp,
    now: Timestamp,
    measured: Measured,
}

impl App {
    pub fn new(title: String, zone: TimeZone, panels: &[&'static Panel], now: Timestamp) -> Self {
        Self {
            title,
            zone,
            history: History::new(HISTORY_BYTES, 0),
            events: History::new(EVENT_BYTES, EVENTS_FROM),
            at_once: 0,
            overview: Overview::default(),
            capabilities: Capabilities::default(),
            notes: Notes::default(),
            status: Status::default(),
            lost: 0,
            tabs: panels.iter().map(|panel| Tab::new(panel)).collect(),
            tab: 0,
            meant: None,
            filter: String::new(),
            typing: false,
            frozen: None,
            popups: Vec::new(),
            notice: None,
            position: None,
            recording: None,
            since: now,
            now,
            measured: Measured::default(),
        }
    }

    /// Takes in what ctrace says. `true`: the screen is no longer right.
    pub fn show(&mut self, output: &Output, now: Timestamp) -> bool {
        self.now = now;
        match output {
            Output::Finding(finding) => {
                self.history.push(finding);
                self.overview.stale();
                if let Some(frozen) = &mut self.frozen {
                    frozen.new += 1;
                }
                true
            }
            Output::Note(note) => match note.code {
                "named" => self.named(note),
                "ready" => {
                    self.since = note.time;
                    self.notes.say(note.time, note.text.clone());
                    true
                }
                code => {
                    self.notes.say(note.time, note.text.clone());
                    if code == "waiting" || code == "found" {
                        self.notice = Some(escape(&note.text).into_owned());
                    }
                    true
                }
            },
            Output::Loss(loss) => {
                self.lost = self.lost.saturating_add(loss.count);
                self.notes.lost(loss);
                true
            }
            Output::Event(event) => self.event(event),
            Output::Sample(sample) => {
                self.overview.sample(sample);
                false
            }
            Output::Caps(report) | Output::CapsSoFar(report) => self.capabilities.take(report, now),
            Output::Ask(_) => false,
        }
    }

    fn event(&mut self, event: &EventRow) -> bool {
        if event.event == "exit" {
            self.overview.ended(event);
        }
        // Of a process that failed its finding tells.
        let failed = |key: &str| event.fields.get(key).is_some_and(|value| !value.is_null() && value != &json!(0));
        if event.event == "exit" && (failed("exit_code") || failed("signal")) {
            return false;
        }
        self.at_once += 1;
        if self.at_once > EVENTS_AT_ONCE {
            self.events.gone += 1;
            return false;
        }
        self.events.event(event);
        true
    }

    /// The containers that are here, once a second. `true`: the screen is no longer right.
    pub fn containers(&mut self, containers: Vec<Arc<Container>>) -> bool {
        self.at_once = 0;
        self.overview.containers(containers);
        self.overview.refresh(&self.history, self.now)
    }

    /// Before drawing.
    pub fn refresh(&mut self) {
        self.overview.refresh(&self.history, self.now);
    }

    /// `true`: something that is shown of it has changed.
    pub fn status(&mut self, status: Status) -> bool {
        let before = self.status.shown();
        self.status = status;
        self.status.shown() != before
    }

    pub fn lost(&self) -> u64 {
        self.lost.max(self.status.lost)
    }

    pub fn measured(&mut self, measured: Measured) {
        self.measured = measured;
        if let Some(popup) = self.popups.last_mut() {
            popup.scroll = popup.scroll.min(measured.scroll);
        }
    }

    /// The day that a time without a date is of.
    pub fn today(&self) -> Date {
        let now = jiff::Timestamp::from_nanosecond(i128::from(self.now.0)).unwrap_or_default();
        now.to_zoned_datetime(self.zone.clone()).date()
    }

    pub fn key(&mut self, event: KeyEvent) -> Effect {
        self.notice = None;
        if self.typing
            && let Some(effect) = self.typed(event)
        {
            return effect;
        }
        keys::action(event, self.position.is_some()).map_or(Effect::None, |action| self.act(action))
    }

    fn act(&mut self, action: Action) -> Effect {
        match action {
            Action::Quit => return Effect::Quit,
            Action::Suspend => return Effect::Suspend,
            Action::Record => return Effect::Record,
            Action::Play(play) => return Effect::Play(play),
            Action::CopyFix => return self.copy_fix(),
            Action::Help => self.toggle(Kind::Help),
            Action::Notes => self.toggle(Kind::Notes),
            Action::Explain => {
                // An event in a row of its own has nothing to explain.
                if let Some(code) = self.chosen().filter(|row| !row.finding.id.is_empty()).map(|row| row.finding.code) {
                    self.toggle(Kind::Explain(code));
                }
            }
            _ if !self.popups.is_empty() => self.act_in_popup(action),
            _ => self.act_in_list(action),
        }
        Effect::None
    }

    fn act_in_popup(&mut self, action: Action) {
        let page = self.measured.page.max(2) - 1; // a line stays, to read on from
        let Some(popup) = self.popups.last_mut() else { return };
        let end = self.measured.scroll;
        match action {
            Action::Up => popup.scroll = popup.scroll.saturating_sub(1),
            Action::Down => popup.scroll = (popup.scroll + 1).min(end),
            Action::PageUp => popup.scroll = popup.scroll.saturating_sub(page),
            Action::PageDown => popup.scroll = (popup.scroll + page).min(end),
            Action::First => popup.scroll = 0,
            Action::Last => popup.scroll = end,
            Action::Back => {
                self.popups.pop();
            }
            _ => {}
        }
    }

    /// Opens a popup; the same key closes it.
    fn toggle(&mut self, kind: Kind) {
        let is_open =
            self.popups.last().is_some_and(|top| std::mem::discriminant(&top.kind) == std::mem::discriminant(&kind));
        if is_open {
            self.popups.pop();
        } else {
            self.popups.push(Popup::new(kind));
        }
    }

    pub fn looks_at(&self, lens: &str) -> bool {
        let is_page = |popup: &Popup| matches!(popup.kind, popup::Kind::Page(_));
        self.tabs.get(self.tab).is_some_and(|tab| tab.panel.lens == lens) || self.popups.iter().any(is_page)
    }

    /// The container of which the capability checks are asked for. A replay has those that it has.
    pub fn asks_for(&self) -> Option<&Arc<Container>> {
        let is_open = self.current().is_some_and(|tab| tab.panel.of == Of::Capabilities);
        self.meant.as_ref().filter(|_| is_open && self.position.is_none())
    }

    /// While a tab has nothing to list: what is waited for, and since when. Not escaped.
    pub fn empty(&self, since: &str) -> String {
        let Some(tab) = self.current() else { return String::new() };
        if tab.panel.of != Of::Capabilities || !self.has_overview() {
            return format!("{} Watching since {since}.", tab.panel.empty);
        }
        let Some(container) = &self.meant else {
            let choose = "No container is chosen. Choose one in the tab overview (arrows), then open this tab";
            return if self.position.is_some() {
                format!("{choose}: what was watched of it is shown here.")
            } else {
                format!("{choose}: what it asks of its capabilities is watched from then on.")
            };
        };
        let name = container.label();
        if self.capabilities.has(&container.cgroup) {
            format!("{name} has no capabilities, and asked for none since it is watched.")
        } else if self.position.is_some() {
            format!("What {name} asks of its capabilities was not watched in this recording, up to here.")
        } else {
            format!(
                "What {name} asks of its capabilities is watched once this tab has been open for a second, and from then \
                 on until it ends. Its start is not seen: that takes `ctrace caps --container {} --from-start`.",
                word(&name)
            )
        }
    }

    /// The finding that keys are about: the open page's, else the list's.
    pub fn chosen(&self) -> Option<&Row> {
        let page = self.popups.iter().rev().find_map(|popup| match &popup.kind {
            Kind::Page(row) => Some(&**row),
            _ => None,
        });
        page.or_else(|| self.selected())
    }

    fn copy_fix(&mut self) -> Effect {
        let Some(row) = self.chosen() else { return Effect::None };
        // It will be pasted into a shell or a chat: what a container put into it must be inert there as well.
        let fixes: Vec<_> = row.finding.fix.iter().map(|fix| escape(fix)).collect();
        let mut text = fixes.join("\n");
        text.truncate(text.floor_char_boundary(COPY_BYTES));
        if text.is_empty() {
            self.notice = Some("this finding has no fix to copy".to_owned());
            return Effect::None;
        }
        self.notice = Some(
            "the fix is in the clipboard, if the terminal takes OSC 52 (tmux: set -g set-clipboard on)".to_owned(),
        );
        Effect::Copy(text)
    }

    /// A container's name was found out: rows that are already here get it too.
    fn named(&mut self, note: &Note) -> bool {
        let Some(value) = note.fields.get("container") else { return false };
        let Some(cgroup) = value["cgroup"].as_str() else { return false };
        let text = |key: &str| value[key].as_str().map(ToOwned::to_owned);
        self.overview.stale();
        let lists = self
            .history
            .rows_mut()
            .chain(self.events.rows_mut())
            .chain(self.frozen.iter_mut().flat_map(|frozen| &mut frozen.rows));
        let pages = self.popups.iter_mut().filter_map(|popup| match &mut popup.kind {
            Kind::Page(row) => Some(&mut **row),
            _ => None,
        });
        let mut known: Option<Arc<Container>> = None;
        let mut changed = false;
        for row in lists.chain(pages) {
            let Some(own) = row.finding.container.as_ref().filter(|own| own.cgroup == cgroup) else { continue };
            let container = known.get_or_insert_with(|| {
                let mut container = Container::clone(own);
                container.name = text("name");
                container.namespace = text("namespace");
                container.pod = text("pod");
                container.unknown.remove("name");
                Arc::new(container)
            });
            changed |= row.rename(container);
        }
        changed
    }
}

#[cfg(test)]
mod tests;
