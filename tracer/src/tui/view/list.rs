//! The rows of a lens: columns that line up, the chosen row reversed.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
};
use unicode_width::UnicodeWidthStr;

use super::doc::tone_style;
use crate::{
    tui::{
        panel::{Column, Grows, Look},
        state::{App, QUIET, Row, Tab},
        text::{fit, fit_middle, wrap},
        theme::{Theme, symbol},
    },
    views::escape::escape,
};

const GAP: u16 = 2;
/// Before the first column: the severity's symbol.
const MARGIN: u16 = 3;
/// Columns up to this rank are worth more than whole names; so much of these can be cut.
const PART_OF_THE_ANSWER: u8 = 2;
const SQUEEZED: u16 = 10;

pub(super) fn draw(tab: &Tab, rows: &[&Row], index: usize, look: &Look, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let columns = layout(tab.panel.columns, area.width);
    for (column, x, width) in &columns {
        let is_sorted = std::ptr::eq(*column, &raw const tab.panel.columns[tab.sort.min(tab.panel.columns.len() - 1)]);
        let mark = if tab.reversed { "▴" } else { "▾" };
        let title = if is_sorted { format!("{}{mark}", column.title) } else { column.title.to_owned() };
        let style = if is_sorted { theme.strong() } else { theme.quiet() };
        put(&title, style, column, Rect::new(area.x + x, area.y, *width, 1), buffer);
    }
    let height = usize::from(area.height.saturating_sub(1));
    // The chosen row stays in the middle where the list is longer than the screen: no offset to remember.
    let first = index.saturating_sub(height / 2).min(rows.len().saturating_sub(height));
    for (at, y) in (first..rows.len()).zip(area.y + 1..area.bottom()) {
        let row = rows[at];
        let severity = row.finding.severity;
        if row.finding.code != QUIET {
            buffer.set_stringn(area.x + 1, y, symbol(severity), 1, theme.severity(severity));
        }
        for (column, x, width) in &columns {
            let (text, tone) = (column.cell)(row, look);
            put(&escape(&text), tone_style(tone, theme), column, Rect::new(area.x + x, y, *width, 1), buffer);
        }
        if at == index {
            buffer.set_style(Rect::new(area.x, y, area.width, 1), theme.chosen().remove_modifier(Modifier::DIM));
        }
    }
}

/// While nothing has happened: what is waited for, and since when.
pub(super) fn empty(app: &App, look: &Look, theme: Theme, area: Rect, buffer: &mut Buffer) {
    // The filter of the overview may be what chose the container.
    let is_filtered = !app.filter.is_empty() && app.current().is_some_and(|tab| app.count(tab) > 0);
    let text = if is_filtered {
        format!("nothing matches \"{}\"; Esc drops the filter", escape(&app.filter))
    } else {
        escape(&app.empty(&look.time(app.since))).into_owned()
    };
    let width = usize::from(area.width.saturating_sub(4));
    for (line, y) in wrap(&text, width).into_iter().zip(area.y + 1..area.bottom()) {
        buffer.set_stringn(area.x + 2, y, line, width, theme.quiet());
    }
}

/// Where each column stands, of those that fit.
fn layout(columns: &'static [Column], width: u16) -> Vec<(&'static Column, u16, u16)> {
    let mut shown: Vec<&Column> = columns.iter().collect();
    let needed = |shown: &[&Column]| MARGIN + shown.iter().map(|column| column.width + GAP).sum::<u16>();
    while let Some(worst) = shown.iter().map(|column| column.rank).max().filter(|rank| *rank > 0) {
        // Names are cut before a column goes that is part of the answer.
        let squeezed = if worst > PART_OF_THE_ANSWER { 0 } else { SQUEEZED };
        if needed(&shown) <= width + GAP + squeezed {
            break;
        }
        if let Some(at) = shown.iter().rposition(|column| column.rank == worst) {
            shown.remove(at);
        }
    }
    let missing = needed(&shown).saturating_sub(width + GAP);
    let spare = (width + GAP).saturating_sub(needed(&shown) + 1);
    let has_text = shown.iter().any(|column| column.grows == Grows::Text);
    let mut x = MARGIN;
    let mut placed = Vec::new();
    for column in shown {
        let own = match column.grows {
            Grows::Text => column.width.saturating_sub(missing) + spare,
            // No wider than names are: what is to be read together must not be far apart.
            Grows::Name if !has_text => column.width.saturating_sub(missing) + spare.min(30),
            Grows::Name | Grows::No => column.width,
        };
        placed.push((column, x, own.min(width.saturating_sub(x))));
        x += own + GAP;
    }
    placed
}

fn put(text: &str, style: Style, column: &Column, area: Rect, buffer: &mut Buffer) {
    let cut = if column.grows == Grows::Name { fit_middle } else { fit };
    let text = cut(text, usize::from(area.width));
    let indent = if column.right { usize::from(area.width).saturating_sub(text.width()) } else { 0 };
    buffer.set_stringn(area.x + indent as u16, area.y, &text, usize::from(area.width), style);
}
