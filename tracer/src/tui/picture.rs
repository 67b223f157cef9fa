//! The screen as a picture (SVG): for a document, or to show somebody what was seen.

use std::{fmt::Write, fs, path::PathBuf, sync::Arc, time::Instant};

use anyhow::{Context, Result};
use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
};

use super::{Settings, Shell, Status, fresh, pace::Pace, state::Position, theme::Theme};
use crate::{
    model::{Container, Timestamp},
    pipeline::Output,
};

/// Of one cell, px: what a monospaced font of 14 px takes.
const CELL: (f32, f32) = (8.4, 18.0);
const FONT_PX: u32 = 14;
/// From a cell's upper edge to the line that letters stand on.
const BASE: f32 = 13.5;
const PAPER: &str = "#14171c";
const INK: &str = "#d7dae0";

/// A terminal's sixteen colours, dark first.
const COLORS: [&str; 16] = [
    "#14171c", "#d9534f", "#6cae57", "#d0a040", "#5a8fd6", "#b06fc9", "#4fb0b8", "#c8ccd4", "#7f8793", "#ff7b72",
    "#8ccf76", "#f0c35a", "#7fb2f5", "#d29be8", "#74d3da", "#ffffff",
];

/// A screen that is drawn once, at the end.
pub struct Picture {
    shell: Shell<TestBackend>,
    at: Timestamp,
    path: PathBuf,
}

impl Picture {
    pub fn new(settings: &Settings, (width, height): (u16, u16), path: PathBuf) -> Result<Self> {
        let terminal = Terminal::new(TestBackend::new(width, height)).context("making a screen in memory")?;
        let app = fresh(settings);
        let shell = Shell { app, theme: Theme::new(settings.color, true), terminal, pace: Pace::default() };
        Ok(Self { shell, at: settings.replay.unwrap_or_else(super::now), path })
    }

    pub fn show(&mut self, output: &Output) {
        self.shell.show(output, self.at, Instant::now());
    }

    pub fn at(&mut self, at: Timestamp, position: Position) {
        self.at = at;
        self.shell.app.position = Some(position);
    }

    pub fn status(&mut self, status: Status, containers: Vec<Arc<Container>>) {
        self.shell.status(status, Instant::now());
        self.shell.containers(containers, Instant::now());
    }

    /// Draws it, and writes the file.
    pub fn close(mut self) -> Result<()> {
        self.shell.redraw()?;
        let text = svg(self.shell.terminal.backend().buffer());
        fs::write(&self.path, text).with_context(|| format!("writing {}", self.path.display()))
    }
}

/// How a cell looks: ink, paper, bold.
type Look = (Option<String>, Option<String>, bool);

fn look(cell: &Cell) -> Look {
    let (mut ink, mut paper) = (color(cell.fg), color(cell.bg));
    if cell.modifier.contains(Modifier::REVERSED) {
        (ink, paper) = (Some(paper.unwrap_or_else(|| PAPER.to_owned())), Some(ink.unwrap_or_else(|| INK.to_owned())));
    }
    if cell.modifier.contains(Modifier::DIM) && ink.is_none() {
        ink = Some(COLORS[8].to_owned());
    }
    (ink, paper, cell.modifier.contains(Modifier::BOLD))
}

/// `None`: the terminal's own.
fn color(color: Color) -> Option<String> {
    let of = |index: usize| COLORS.get(index).map(|color| (*color).to_owned());
    match color {
        Color::Reset => None,
        Color::Black => of(0),
        Color::Red => of(1),
        Color::Green => of(2),
        Color::Yellow => of(3),
        Color::Blue => of(4),
        Color::Magenta => of(5),
        Color::Cyan => of(6),
        Color::Gray => of(7),
        Color::DarkGray => of(8),
        Color::LightRed => of(9),
        Color::LightGreen => of(10),
        Color::LightYellow => of(11),
        Color::LightBlue => of(12),
        Color::LightMagenta => of(13),
        Color::LightCyan => of(14),
        Color::White => of(15),
        Color::Indexed(index) => of(usize::from(index)),
        Color::Rgb(red, green, blue) => Some(format!("#{red:02x}{green:02x}{blue:02x}")),
    }
}

/// Cells that look alike are one text, set to the width of its cells: whatever font there is, columns stay columns.
fn svg(buffer: &Buffer) -> String {
    let (width, height) = (f32::from(buffer.area.width) * CELL.0, f32::from(buffer.area.height) * CELL.1);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" \
         font-size=\"{FONT_PX}\">\n<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{PAPER}\"/>\n"
    );
    for row in 0..buffer.area.height {
        let mut column = 0;
        while column < buffer.area.width {
            let same = look(&buffer[(column, row)]);
            let from = column;
            let mut text = String::new();
            while column < buffer.area.width && look(&buffer[(column, row)]) == same {
                text.push_str(buffer[(column, row)].symbol());
                column += 1;
            }
            span(&mut out, &text, (from, column, row), &same);
        }
    }
    out.push_str("</svg>\n");
    out
}

fn span(out: &mut String, text: &str, (from, to, row): (u16, u16, u16), (ink, paper, bold): &Look) {
    let (x, y) = (f32::from(from) * CELL.0, f32::from(row) * CELL.1);
    let width = f32::from(to - from) * CELL.0;
    if let Some(paper) = paper {
        let height = CELL.1;
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{paper}\"/>"
        );
    }
    let start = text.len() - text.trim_start_matches(' ').len();
    let shown = text.trim_matches(' ');
    if shown.is_empty() {
        return;
    }
    let cells = |text: &str| unicode_width::UnicodeWidthStr::width(text) as f32 * CELL.0;
    let (x, width) = (x + cells(&text[..start]), cells(shown));
    let ink = ink.as_deref().unwrap_or(INK);
    let weight = if *bold { " font-weight=\"bold\"" } else { "" };
    let shown = shown.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{width:.1}\" lengthAdjust=\"spacingAndGlyphs\" fill=\"{ink}\"{weight} \
         xml:space=\"preserve\">{shown}</text>",
        y + BASE
    );
}

#[cfg(test)]
mod tests {
    use ratatui::{buffer::Buffer, layout::Rect, style::Style};

    use super::*;

    #[test]
    fn cells_that_look_alike_are_one_text_and_nothing_in_them_is_markup() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 12, 2));
        buffer.set_string(0, 0, "a <b> & c", Style::new());
        buffer.set_string(2, 1, "red", Style::new().fg(Color::Red).add_modifier(Modifier::BOLD | Modifier::REVERSED));
        let text = svg(&buffer);
        assert!(text.contains(">a &lt;b&gt; &amp; c</text>"), "{text}");
        let reversed = "<rect x=\"16.8\" y=\"18.0\" width=\"25.2\" height=\"18.0\" fill=\"#d9534f\"/>";
        assert!(text.contains(reversed), "{text}");
        assert!(text.contains("fill=\"#14171c\" font-weight=\"bold\" xml:space=\"preserve\">red</text>"), "{text}");
        assert_eq!(text.matches("<text").count(), 2, "{text}");
    }
}
