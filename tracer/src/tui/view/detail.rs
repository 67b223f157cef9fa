//! The chosen finding, below or beside the list: the first line is the answer.

use ratatui::{
    buffer::Buffer,
    layout::{Margin, Rect},
    text::Line,
    widgets::{Block, Borders, Widget},
};

use super::doc;
use crate::{
    tui::{
        panel::{Depth, Look, Panel, whom},
        state::Row,
        text::fit_middle,
        theme::Theme,
    },
    views::escape::escape,
};

pub(super) fn draw(panel: &Panel, row: &Row, look: &Look, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let title = format!(" {} ", fit_middle(&escape(&whom(&row.finding)), usize::from(area.width).saturating_sub(8)));
    Block::new()
        .borders(Borders::TOP)
        .border_style(theme.quiet())
        .title(Line::styled(title, theme.strong()))
        .render(area, buffer);
    let area = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area }.inner(Margin::new(1, 0));
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    // All of it where there is room, else the short form.
    let mut lines = doc::lines(&(panel.detail)(row, look, Depth::Full), width, theme);
    if lines.len() > height {
        lines = doc::lines(&(panel.detail)(row, look, Depth::Terse), width, theme);
    }
    if lines.len() > height {
        let more = lines.len() + 1 - height;
        lines.truncate(height.saturating_sub(1));
        lines.push(Line::styled(format!("{more} more lines: Enter"), theme.quiet()).right_aligned());
    }
    put(&lines, area, buffer);
}

pub(super) fn put(lines: &[Line], area: Rect, buffer: &mut Buffer) {
    for (line, y) in lines.iter().zip(area.top()..area.bottom()) {
        line.render(Rect { y, height: 1, ..area }, buffer);
    }
}
