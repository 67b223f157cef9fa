//! State to frame. No I/O; nothing here changes the state: what only drawing can tell goes back as [`Measured`].

mod bar;
mod detail;
mod doc;
mod list;
mod popup;
mod small;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
};

use super::{
    panel::Look,
    state::{App, Kind, Measured},
    theme::Theme,
};

/// Below this the list and its detail can't be read, and the screen says so instead.
const SMALLEST: (u16, u16) = (60, 14);
/// From here on list and detail stand side by side.
const WIDE: u16 = 150;

pub fn draw(app: &App, theme: Theme, frame: &mut Frame) -> Measured {
    let area = frame.area();
    let mut measured = Measured::default();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        small::draw(app, SMALLEST, area, frame.buffer_mut());
    } else {
        let [top, tabs, middle, bottom] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(area);
        let look = Look { zone: app.zone.clone(), today: app.today() };
        bar::top(app, theme, top, frame.buffer_mut());
        bar::tabs(app, theme, tabs, frame.buffer_mut());
        match app.popups.iter().rfind(|popup| matches!(popup.kind, Kind::Page(_))) {
            Some(page) => measured = popup::page(app, page, &look, theme, middle, frame.buffer_mut()),
            None => measured.list = lists(app, &look, theme, middle, frame),
        }
        if let Some(top) = app.popups.last().filter(|popup| !matches!(popup.kind, Kind::Page(_))) {
            measured = popup::over(app, top, &look, theme, middle, frame.buffer_mut());
        }
        bar::bottom(app, theme, bottom, frame.buffer_mut());
    }
    theme.settle(frame.buffer_mut());
    measured
}

/// List and detail. Gives the rows that the list has room for.
fn lists(app: &App, look: &Look, theme: Theme, area: Rect, frame: &mut Frame) -> usize {
    let rows = app.rows();
    let index = app.index(&rows);
    let buffer = frame.buffer_mut();
    if rows.is_empty() {
        list::empty(app, look, theme, area, buffer);
        return 0;
    }
    let (list, detail) = if area.width >= WIDE {
        let [list, _, detail] =
            Layout::horizontal([Constraint::Percentage(50), Constraint::Length(1), Constraint::Fill(1)]).areas(area);
        (list, detail)
    } else {
        // The detail is the answer, and gets the most; the list keeps enough to see what else there was.
        let most = (area.height * 2 / 5).max(4);
        let wanted = u16::try_from(rows.len() + 1).unwrap_or(u16::MAX);
        let [list, detail] =
            Layout::vertical([Constraint::Length(wanted.clamp(4, most)), Constraint::Fill(1)]).areas(area);
        (list, detail)
    };
    if let Some(tab) = app.current() {
        list::draw(tab, &rows, index, look, theme, list, buffer);
        if let Some(row) = rows.get(index) {
            detail::draw(tab.panel, row, look, theme, detail, buffer);
        }
    }
    usize::from(list.height.saturating_sub(1))
}
