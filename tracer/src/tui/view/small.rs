//! A screen that is too small says so, and the one thing that matters.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use crate::tui::{panel::whom, state::App, text};
use crate::views::escape::escape;

pub(super) fn draw(app: &App, needed: (u16, u16), area: Rect, buffer: &mut Buffer) {
    let mut lines = vec![
        format!("ctrace needs {}x{}; this is {}x{}.", needed.0, needed.1, area.width, area.height),
        "Make it larger, or use --lines. q quits.".to_owned(),
    ];
    if let Some(row) = app.rows().first() {
        lines.push(String::new());
        lines.push(format!("{}: {}", escape(&whom(&row.finding)), escape(&row.finding.summary)));
    }
    let lines = lines.iter().flat_map(|line| text::wrap(line, usize::from(area.width)));
    for (line, y) in lines.zip(area.top()..area.bottom()) {
        buffer.set_stringn(area.x, y, line, usize::from(area.width), Style::new());
    }
}
