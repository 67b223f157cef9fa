//! The lines at the edges: who we are and how we do, the tabs, the keys.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::Widget,
};
use unicode_width::UnicodeWidthStr;

use crate::{
    model::Severity,
    tui::{
        keys::{self, Action, Play},
        state::{App, Kind, Position, Tab},
        text::fit,
        theme::Theme,
    },
    views::escape::escape,
};

/// Between hints.
const GAP: usize = 2;

/// Left the title, right the state of the run; what was lost is never cut off.
pub(super) fn top(app: &App, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let lost = app.lost();
    let shown = app.status.shown();
    let title = escape(&app.title);
    let left = format!(" ctrace  {title}");
    let lost_text = format!("lost {lost}");
    // From the right, what matters least goes first where there isn't room for all.
    let state = state(app, &shown.own);
    let parts = [Some(shown.containers.as_str()), Some(&*shown.events), Some(&*lost_text), Some(&*state)];
    // Where a replay stands, and that something is recorded, goes before the title as well.
    let orders: [&[usize]; 4] = match app.position {
        Some(_) if lost > 0 => [&[0, 2, 3], &[2, 3], &[2, 3], &[2, 3]],
        Some(_) => [&[0, 2, 3], &[2, 3], &[3], &[3]],
        None if app.recording.is_some() => [&[0, 1, 2, 3], &[1, 2, 3], &[2, 3], &[2, 3]],
        None => [&[0, 1, 2, 3], &[1, 2, 3], &[1, 2], &[2]],
    };
    let width = usize::from(area.width);
    let order = orders
        .into_iter()
        .find(|order| {
            let right: usize = order.iter().filter_map(|at| parts[*at]).map(|part| part.width() + 2).sum();
            left.width() + 1 + right <= width
        })
        .unwrap_or(orders[3]);
    let mut spans = Vec::new();
    for at in order {
        let style = if *at == 2 && lost > 0 { theme.severity(Severity::Warning) } else { theme.quiet() };
        spans.push(Span::raw("  "));
        spans.push(Span::styled(parts[*at].unwrap_or_default().to_owned(), style));
    }
    let right = Line::from(spans);
    let room = width.saturating_sub(right.width() + 2);
    buffer.set_stringn(area.x, area.y, fit(&left, room), room, theme.strong());
    let right_area = Rect { width: area.width.saturating_sub(1), ..area };
    right.right_aligned().render(right_area, buffer);
}

/// What the run is at: a replay's time and speed; what is recorded; what ctrace itself takes.
fn state(app: &App, own: &str) -> String {
    let clock = |seconds: u64| format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (app.position, &app.recording) {
        (Some(Position { at_s, of_s, speed, paused }), _) => {
            let speed = speed.map_or_else(|| "max".to_owned(), |speed| format!("{speed}x"));
            format!("replay {}/{} {}", clock(at_s), clock(of_s), if paused { "paused" } else { &speed })
        }
        (None, Some(recording)) => format!("{recording}  {own}"),
        (None, None) => own.to_owned(),
    }
}

/// Where not all counts have room, only the open tab has its own.
fn tab_texts(app: &App, width: usize) -> Vec<String> {
    if let [tab] = app.tabs.as_slice() {
        let count = app.count(tab);
        return vec![format!("{count} {}", tab.panel.noun[usize::from(count != 1)])];
    }
    let counted: Vec<String> = app.tabs.iter().map(|tab| format!("{} {}", tab.panel.lens, app.count(tab))).collect();
    if counted.iter().map(|text| text.len() + 2).sum::<usize>() <= width {
        return counted;
    }
    let short =
        |(at, (text, tab)): (usize, (String, &Tab))| if at == app.tab { text } else { tab.panel.lens.to_owned() };
    counted.into_iter().zip(&app.tabs).enumerate().map(short).collect()
}

/// Left the tabs, right what the user did to the view.
pub(super) fn tabs(app: &App, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let mut spans = Vec::new();
    let texts = tab_texts(app, usize::from(area.width));
    for (at, text) in texts.into_iter().enumerate() {
        let is_open = at == app.tab;
        spans.push(Span::raw(if is_open && app.tabs.len() > 1 { "▏" } else { " " }));
        spans.push(Span::styled(text, if is_open { theme.strong() } else { theme.quiet() }));
        spans.push(Span::raw(" "));
    }
    let past = app.past();
    if past > 0 {
        spans.push(Span::styled(format!(" ({past} before ctrace started)"), theme.quiet()));
    }
    let gone = app.history.gone + app.events.gone;
    if gone > 0 {
        spans.push(Span::styled(format!("  {gone} are not kept"), theme.quiet()));
    }
    Line::from(spans).render(area, buffer);
    let mut marks = Vec::new();
    if !app.filter.is_empty() || app.typing {
        marks
            .push(Span::styled(format!("filter \"{}\": {} shown", escape(&app.filter), app.rows().len()), theme.key()));
    }
    if let Some(frozen) = &app.frozen {
        marks.push(Span::styled(format!("frozen, {} new", frozen.new), theme.severity(Severity::Warning)));
    }
    let spans: Vec<Span> = marks.into_iter().flat_map(|mark| [Span::raw("   "), mark]).collect();
    let area = Rect { width: area.width.saturating_sub(1), ..area };
    Line::from(spans).right_aligned().render(area, buffer);
}

/// What can be done here; or the answer to the last key; or the filter as it is typed.
pub(super) fn bottom(app: &App, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let width = usize::from(area.width);
    if app.typing {
        let typed = escape(&app.filter).into_owned();
        let line = Line::from(vec![
            Span::styled(" / ", theme.key()),
            Span::raw(typed),
            Span::styled(" ", theme.chosen()),
            Span::styled("   Enter keeps it, Esc drops it", theme.quiet()),
        ]);
        line.render(area, buffer);
        return;
    }
    if let Some(notice) = &app.notice {
        buffer.set_stringn(area.x + 1, area.y, fit(notice, width.saturating_sub(1)), width, Style::new());
        return;
    }
    let actions: &[Action] = match app.popups.last().map(|popup| &popup.kind) {
        None if app.position.is_some() => &[
            Action::Play(Play::Pause),
            Action::Play(Play::Faster),
            Action::Play(Play::Skip(10)),
            Action::Open,
            Action::Filter,
            Action::Explain,
        ],
        None => &[
            Action::Open,
            Action::Filter,
            Action::Sort,
            Action::Freeze,
            Action::CopyFix,
            Action::Explain,
            Action::Down,
        ],
        Some(Kind::Page(_)) => &[Action::Down, Action::Back, Action::CopyFix, Action::Explain],
        Some(_) => &[Action::Down, Action::Back],
    };
    let last = [Action::Help, Action::Quit];
    let fixed: usize = last.into_iter().filter_map(keys::hint).map(hint_width).sum();
    let mut used = 1 + fixed;
    let mut spans = vec![Span::raw(" ")];
    let mut add = |(key, word): (&'static str, &'static str)| {
        spans.extend([
            Span::styled(key, theme.key()),
            Span::raw(" "),
            Span::styled(word, theme.quiet()),
            Span::raw("  "),
        ]);
    };
    for hint in actions.iter().filter_map(|action| keys::hint(*action)) {
        if used + hint_width(hint) <= width + GAP {
            used += hint_width(hint);
            add(hint);
        }
    }
    last.into_iter().filter_map(keys::hint).for_each(add);
    Line::from(spans).render(area, buffer);
}

fn hint_width((key, word): (&str, &str)) -> usize {
    key.width() + 1 + word.width() + GAP
}
