//! A [`Doc`] in lines of a given width. The one place where text of findings is escaped before the terminal sees it.

use ratatui::{
    style::Style,
    text::{Line, Span},
};
use unicode_width::UnicodeWidthStr;

use crate::{
    tui::{
        panel::{Doc, Item, Tone},
        text::{fit, wrap},
        theme::{Theme, symbol},
    },
    views::escape::escape,
};

/// The width of labels, and the gap behind them.
const LABEL: usize = 10;
/// Longer lines are hard to read, whatever the screen has room for.
const LONGEST: usize = 110;
const BAR: usize = 40;

pub(super) fn lines(doc: &Doc, width: usize, theme: Theme) -> Vec<Line<'static>> {
    let width = width.min(LONGEST);
    let mut lines = Vec::new();
    for item in &doc.items {
        match item {
            Item::Answer(severity, text) => {
                let style = theme.severity(*severity);
                hang(&mut lines, Span::styled(format!("{} ", symbol(*severity)), style), text, theme.strong(), width);
            }
            Item::Row(label, text, tone) => {
                hang(&mut lines, labelled(label, theme), text, tone_style(*tone, theme), width);
            }
            Item::Numbers(label, numbers) => table(&mut lines, label, numbers, width, theme),
            Item::Bar { label, value, share } => {
                let mut spans = vec![labelled(label, theme), Span::raw(format!("{:>10}", escape(value)))];
                if let Some(share) = share {
                    let room = width.saturating_sub(LABEL + 10 + 8).min(BAR);
                    spans.push(Span::raw(format!("  {:>3.0} %  ", share * 100.0)));
                    spans.push(Span::styled(bar(*share, room), theme.key()));
                }
                lines.push(Line::from(spans));
            }
            Item::Heading(text) => {
                lines.push(Line::default());
                lines.push(Line::styled(fit(&escape(text), width), theme.strong()));
            }
            Item::Text(text) => {
                for paragraph in text.split("\n\n") {
                    if !lines.is_empty() {
                        lines.push(Line::default());
                    }
                    let flowing = paragraph.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
                    lines.extend(wrap(&escape(&flowing), width).into_iter().map(Line::raw));
                }
            }
            Item::Blank => lines.push(Line::default()),
        }
    }
    lines
}

pub(super) fn tone_style(tone: Tone, theme: Theme) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Quiet => theme.quiet(),
        Tone::Strong => theme.strong(),
        Tone::Of(severity) => theme.severity(severity),
    }
}

fn labelled(label: &str, theme: Theme) -> Span<'static> {
    let label = fit(&escape(label), LABEL - 1);
    let gap = " ".repeat(LABEL - label.width());
    Span::styled(label + &gap, theme.quiet())
}

/// `text` behind `first`, its further lines below its first.
fn hang(lines: &mut Vec<Line<'static>>, first: Span<'static>, text: &str, style: Style, width: usize) {
    let indent = first.content.width();
    let mut lead = Some(first);
    for piece in wrap(&escape(text), width.saturating_sub(indent)) {
        let lead = lead.take().unwrap_or_else(|| Span::raw(" ".repeat(indent)));
        lines.push(Line::from(vec![lead, Span::styled(piece, style)]));
    }
}

/// Names above their numbers, both to the right, in as many rows as the width makes them.
fn table(
    lines: &mut Vec<Line<'static>>,
    label: &'static str,
    numbers: &[(String, String)],
    width: usize,
    theme: Theme,
) {
    let mut label = labelled(label, theme);
    let mut names = vec![label.clone()];
    let mut values = vec![labelled("", theme)];
    let mut used = LABEL;
    for (name, value) in numbers {
        let (name, value) = (escape(name), escape(value));
        let own = name.width().max(value.width());
        if used + own > width && values.len() > 1 {
            lines.push(Line::from(std::mem::take(&mut names)));
            lines.push(Line::from(std::mem::take(&mut values)));
            label = labelled("", theme);
            names.push(label.clone());
            values.push(label.clone());
            used = LABEL;
        }
        names.push(Span::styled(format!("{}{name}  ", " ".repeat(own - name.width())), theme.quiet()));
        values.push(Span::raw(format!("{}{value}  ", " ".repeat(own - value.width()))));
        used += own + 2;
    }
    lines.push(Line::from(names));
    lines.push(Line::from(values));
}

/// A share of `room` columns, to half a column.
fn bar(share: f64, room: usize) -> String {
    let halves = (share.clamp(0.0, 1.0) * room as f64 * 2.0).round() as usize;
    let mut bar = "█".repeat(halves / 2);
    if halves % 2 == 1 {
        bar.push('▌');
    }
    bar
}
