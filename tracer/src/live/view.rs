//! Where what ctrace says goes: lines, JSON, or the TUI.

use std::io::{self, Write};

use anyhow::{Context, Result};

use super::Show;
use crate::{
    kernel::load::Kernel,
    lenses::Registered,
    pipeline::{Output, Pipeline},
    views::{json, lines, rows},
};

pub enum View {
    Text { style: Option<lines::Style>, out: io::BufWriter<io::Stdout>, over: bool },
    Tui(Box<crate::tui::Tui>),
}

impl View {
    pub fn open(show: &Show, lens: &Registered) -> Result<Self> {
        let out = || io::BufWriter::new(io::stdout());
        Ok(match show {
            Show::Lines(style) => {
                let mut view = Self::Text { style: Some(style.clone()), out: out(), over: false };
                if let (Self::Text { out, over, .. }, Some(header)) = (&mut view, rows::header(lens.name)) {
                    written(out.write_all(header.as_bytes()), over)?;
                }
                view
            }
            Show::Json => Self::Text { style: None, out: out(), over: false },
            Show::Tui { color } => {
                let settings = crate::tui::Settings {
                    color: *color,
                    title: lens.name.to_owned(),
                    zone: jiff::tz::TimeZone::system(),
                };
                Self::Tui(Box::new(crate::tui::Tui::open(settings).context("opening the terminal")?))
            }
        })
    }

    pub fn show(&mut self, output: &Output) -> Result<()> {
        match self {
            Self::Text { style, out, over } => {
                let text = match style {
                    Some(style) => lines::text(output, style),
                    None => json::line(output).map(|line| line + "\n"),
                };
                let Some(text) = text else { return Ok(()) };
                written(out.write_all(text.as_bytes()), over)
            }
            Self::Tui(tui) => {
                tui.show(output);
                Ok(())
            }
        }
    }

    /// What was said is seen at once, not when a buffer is full.
    pub fn flush(&mut self) -> Result<()> {
        match self {
            Self::Text { out, over, .. } => written(out.flush(), over),
            Self::Tui(tui) => tui.draw_if_due().context("drawing"),
        }
    }

    /// The reader of the output has gone away.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Text { over: true, .. })
    }

    /// Waits for a key that ends the run; for ever where there are no keys.
    pub async fn input(&mut self) -> Result<bool> {
        match self {
            Self::Text { .. } => std::future::pending().await,
            Self::Tui(tui) => tui.input().await.context("reading keys"),
        }
    }

    pub fn status(&mut self, pipeline: &Pipeline, _: &Kernel) {
        if let Self::Tui(tui) = self {
            let _ = (tui, pipeline);
        }
    }

    pub fn close(mut self) -> Result<()> {
        self.flush()?;
        match self {
            Self::Text { .. } => Ok(()),
            Self::Tui(tui) => tui.close().context("giving the terminal back"),
        }
    }
}

/// `ctrace oom | head` ends quietly; a full disk does not.
fn written(result: io::Result<()>, over: &mut bool) -> Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            *over = true;
            Ok(())
        }
        other => other.context("writing the output (is the disk full, or stdout closed?)"),
    }
}
