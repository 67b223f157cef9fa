//! What lies over the list: the page of a finding, the explanation of its code, notes, help.

use ratatui::{
    buffer::Buffer,
    layout::{Margin, Rect},
    text::{Line, Span},
    widgets::{Block, Clear, Widget},
};
use unicode_width::UnicodeWidthStr;

use super::{detail::put, doc};
use crate::{
    findings,
    model::{Code, Severity},
    tui::{
        keys::{Action, BINDINGS, Binding},
        panel::{Depth, Doc, Item, Look, Of, Tone, whom},
        state::{App, Kind, Measured, Popup, Row},
        text::{fit, wrap},
        theme::Theme,
    },
    views::escape::escape,
};

/// A box no wider than its text is good to read.
const WIDEST: u16 = 100;

/// A finding's page, in place of the list.
pub(super) fn page(app: &App, popup: &Popup, look: &Look, theme: Theme, area: Rect, buffer: &mut Buffer) -> Measured {
    let Kind::Page(row) = &popup.kind else { return Measured::default() };
    let title = format!("{}  {}", look.time(row.finding.time), whom(&row.finding));
    let inner = frame(&title, theme, area, buffer);
    let lines = doc::lines(&page_doc(app, row, look), usize::from(inner.width), theme);
    scrolled(&lines, popup.scroll, theme, area, inner, buffer)
}

/// Any other popup, in a box over what is below.
pub(super) fn over(app: &App, popup: &Popup, look: &Look, theme: Theme, area: Rect, buffer: &mut Buffer) -> Measured {
    let width = area.width.saturating_sub(4).min(WIDEST);
    let text_width = usize::from(width.saturating_sub(4));
    let (title, lines) = match &popup.kind {
        Kind::Help => ("keys".to_owned(), help(app, text_width, theme)),
        Kind::Notes => ("notes".to_owned(), notes(app, look, text_width, theme)),
        Kind::Explain(code) => (code.0.to_owned(), doc::lines(&explained(*code), text_width, theme)),
        Kind::Page(_) => return Measured::default(),
    };
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let over = Rect::new(area.x + (area.width - width) / 2, area.y + (area.height - height) / 2, width, height);
    // Of what is below, no ragged ends beside the box.
    Clear.render(if area.width - width < 20 { Rect { x: area.x, width: area.width, ..over } } else { over }, buffer);
    let inner = frame(&title, theme, over, buffer);
    scrolled(&lines, popup.scroll, theme, over, inner, buffer)
}

fn page_doc(app: &App, row: &Row, look: &Look) -> Doc {
    let here = app.current().map(|tab| tab.panel).filter(|panel| panel.of == Of::Containers);
    let panel = here.or_else(|| app.tabs.iter().map(|tab| tab.panel).find(|panel| panel.lens == row.lens()));
    let mut doc = panel.map(|panel| (panel.detail)(row, look, Depth::Full)).unwrap_or_default();
    if here.is_some() {
        let ends = app.overview.ends(&row.finding.container);
        let ends: Vec<Item> =
            ends.map(|end| Item::Row(look.time(end.time).into(), end.text.clone(), Tone::Plain)).collect();
        if !ends.is_empty() {
            doc.heading("the last processes that ended here");
            doc.items.extend(ends);
        }
    }
    if !row.finding.id.is_empty() {
        doc.heading(&format!("about {}", row.finding.code.0));
        doc.items.extend(explained(row.finding.code).items);
    }
    doc
}

fn explained(code: Code) -> Doc {
    let text = findings::all().find(|explained| explained.code == code).map(|explained| explained.text);
    Doc { items: vec![Item::Text(text.unwrap_or("there is no longer text for this code").to_owned())] }
}

/// From the table of bindings: what it doesn't say no key does.
fn help(app: &App, width: usize, theme: Theme) -> Vec<Line<'static>> {
    let column = BINDINGS.iter().map(|binding| binding.shown.width()).max().unwrap_or(0) + 2;
    let mut lines = Vec::new();
    let is_of_use =
        |binding: &&Binding| app.tabs.len() > 1 || !matches!(binding.action, Action::NextTab | Action::PreviousTab);
    for binding in BINDINGS.iter().filter(|binding| binding.on.is(app.position.is_some())).filter(is_of_use) {
        let gap = " ".repeat(column - binding.shown.width());
        let mut lead = vec![Span::styled(binding.shown, theme.key()), Span::raw(gap)];
        for piece in wrap(binding.text, width.saturating_sub(column)) {
            lead.push(Span::raw(piece));
            lines.push(Line::from(std::mem::replace(&mut lead, vec![Span::raw(" ".repeat(column))])));
        }
    }
    lines
}

fn notes(app: &App, look: &Look, width: usize, theme: Theme) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for said in app.notes.newest_first() {
        let style = if said.is_loss { theme.severity(Severity::Warning) } else { ratatui::style::Style::new() };
        let mut lead = format!("{:<10}", look.time(said.time));
        for piece in wrap(&escape(&said.text), width.saturating_sub(10)) {
            let time = std::mem::replace(&mut lead, " ".repeat(10));
            lines.push(Line::from(vec![Span::styled(time, theme.quiet()), Span::styled(piece, style)]));
        }
    }
    if lines.is_empty() {
        lines.push(Line::raw("nothing was lost, and there is nothing to note"));
    }
    lines
}

fn frame(title: &str, theme: Theme, area: Rect, buffer: &mut Buffer) -> Rect {
    let title = format!(" {} ", fit(&escape(title), usize::from(area.width).saturating_sub(8)));
    Block::bordered().border_style(theme.quiet()).title(Line::styled(title, theme.strong())).render(area, buffer);
    area.inner(Margin::new(2, 1))
}

fn scrolled(lines: &[Line], scroll: usize, theme: Theme, area: Rect, inner: Rect, buffer: &mut Buffer) -> Measured {
    let page = usize::from(inner.height);
    let end = lines.len().saturating_sub(page);
    let first = scroll.min(end);
    put(&lines[first..], inner, buffer);
    if end > 0 {
        let place = format!(" {}–{} of {} ", first + 1, (first + page).min(lines.len()), lines.len());
        let x = area.right().saturating_sub(place.width() as u16 + 2);
        buffer.set_stringn(x, area.bottom() - 1, &place, place.width(), theme.quiet());
    }
    Measured { list: 0, page, scroll: end }
}
