//! Where what ctrace says goes: lines, JSON, or the TUI.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    kernel::host,
    lenses::Registered,
    model::{Container, Timestamp},
    pipeline::{Output, Pipeline},
    tui::{Tui, Wish, picture::Picture},
    views::{
        caps::{self, Format},
        json, lines, rows,
        table::Table,
    },
};

/// What to make of it all.
pub enum Show {
    Lines(lines::Style),
    Json,
    /// One report for each container at the end; all else goes to stderr.
    Caps {
        format: Format,
        style: lines::Style,
    },
    Tui {
        color: bool,
        /// What caps found out is printed when the screen is closed.
        report: Option<lines::Style>,
    },
    /// The screen at the end, in a file.
    Picture {
        path: PathBuf,
        size: (u16, u16),
        color: bool,
    },
    /// It is recorded.
    Nothing,
}

pub enum View {
    Nothing,
    Text { style: Option<lines::Style>, out: io::BufWriter<io::Stdout>, over: bool, table: Table },
    Caps { format: Format, style: lines::Style, over: bool, said: bool },
    Tui { tui: Box<crate::tui::Tui>, before: Usage, report: Option<(lines::Style, String)> },
    Picture(Box<Picture>),
}

/// What the status line's rates are made of.
#[derive(Default)]
pub struct Usage {
    records: u64,
    cpu: Duration,
}

impl View {
    /// `host`: the title's second half, see [`host_title`]. `replay`: when the recording began.
    pub fn open(show: &Show, lenses: &[&'static Registered], host: &str, replay: Option<Timestamp>) -> Result<Self> {
        let name = if let [lens] = lenses { lens.name } else { "overview" };
        let out = || io::BufWriter::new(io::stdout());
        let settings = |color| {
            let names: Vec<&str> = lenses.iter().map(|lens| lens.name).collect();
            crate::tui::Settings {
                color,
                title: format!("{name} · {host}"),
                zone: jiff::tz::TimeZone::system(),
                tabs: crate::tui::panel::tabs(&names),
                replay,
            }
        };
        Ok(match show {
            Show::Nothing => Self::Nothing,
            Show::Lines(style) => {
                let table = Table::of(name);
                let mut view = Self::Text { style: Some(style.clone()), out: out(), over: false, table };
                if let (Self::Text { out, over, .. }, Some(header)) = (&mut view, rows::header(name)) {
                    written(out.write_all(header.as_bytes()), over)?;
                }
                view
            }
            Show::Json => Self::Text { style: None, out: out(), over: false, table: Table::default() },
            Show::Caps { format, style } => {
                Self::Caps { format: *format, style: style.clone(), over: false, said: false }
            }
            Show::Picture { path, size, color } => {
                Self::Picture(Box::new(Picture::new(&settings(*color), *size, path.clone())?))
            }
            Show::Tui { color, report } => {
                let tui = Box::new(crate::tui::Tui::open(settings(*color)).context("opening the terminal")?);
                let report = report.clone().map(|style| (style, String::new()));
                Self::Tui { tui, before: Usage { records: 0, cpu: own_cpu() }, report }
            }
        })
    }

    pub fn show(&mut self, output: &Output) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Text { style, out, over, table } => {
                table.take(output);
                let text = match style {
                    Some(style) => lines::text(output, style),
                    None => json::line(output).map(|line| line + "\n"),
                };
                let Some(text) = text else { return Ok(()) };
                written(out.write_all(text.as_bytes()), over)
            }
            Self::Caps { format, style, over, said } => caps(output, *format, style, over, said),
            Self::Tui { tui, report, .. } => {
                if let (Some((style, text)), Output::Caps(found)) = (report, output) {
                    text.push_str(&caps::text(found, style));
                }
                tui.show(output);
                Ok(())
            }
            Self::Picture(picture) => {
                picture.show(output);
                Ok(())
            }
        }
    }

    /// Is what this lens tells looked at now? All that is written down is; on a screen what is open.
    pub fn looks_at(&self, lens: &str) -> bool {
        match self {
            Self::Tui { tui, .. } => tui.looks_at(lens),
            Self::Nothing | Self::Text { .. } | Self::Caps { .. } | Self::Picture(_) => true,
        }
    }

    /// The container of which the capability checks are asked for on the screen.
    pub fn asks_for(&self) -> Option<&Arc<Container>> {
        if let Self::Tui { tui, .. } = self { tui.asks_for() } else { None }
    }

    /// Is what a container asks for shown as it does?
    pub fn shows_caps(&self) -> bool {
        matches!(self, Self::Tui { report: Some(_), .. })
    }

    /// What was said is seen at once, not when a buffer is full.
    pub fn flush(&mut self) -> Result<()> {
        match self {
            Self::Text { style, out, over, table } => {
                if let Some(text) = style.as_ref().and_then(|style| table.if_due(style)) {
                    written(out.write_all(text.as_bytes()), over)?;
                }
                written(out.flush(), over)
            }
            Self::Nothing | Self::Caps { .. } | Self::Picture(_) => Ok(()),
            Self::Tui { tui, .. } => tui.draw_if_due().context("drawing"),
        }
    }

    /// The reader of the output has gone away.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Text { over: true, .. } | Self::Caps { over: true, .. })
    }

    /// Waits for a key that is about the run; for ever where there are no keys.
    pub async fn input(&mut self) -> Result<Wish> {
        match self {
            Self::Nothing | Self::Text { .. } | Self::Caps { .. } | Self::Picture(_) => std::future::pending().await,
            Self::Tui { tui, .. } => tui.input().await.context("reading keys"),
        }
    }

    /// How the run is doing, once a tick; `lost` since the start.
    pub fn status(&mut self, pipeline: &Pipeline, lost: u64, tick: Duration) {
        let Self::Tui { tui, before, .. } = self else { return };
        tui.containers(pipeline.containers.containers().map(|entry| Arc::clone(entry.container)).collect());
        let now = Usage { records: pipeline.records, cpu: own_cpu() };
        let seconds = tick.as_secs_f64();
        tui.status(crate::tui::Status {
            events_per_s: (now.records - before.records) as f64 / seconds,
            lost,
            containers: pipeline.containers.containers().count(),
            cpu_pct: now.cpu.saturating_sub(before.cpu).as_secs_f64() / seconds * 100.0,
            rss_bytes: own_rss(),
        });
        *before = now;
    }

    /// The same of a replay, whose own use is no news.
    pub fn replayed(&mut self, pipeline: &Pipeline, lost: u64) {
        let containers: Vec<_> = pipeline.containers.containers().map(|entry| Arc::clone(entry.container)).collect();
        let status = crate::tui::Status { lost, containers: containers.len(), ..crate::tui::Status::default() };
        match self {
            Self::Tui { tui, .. } => {
                tui.status(status);
                tui.containers(containers);
            }
            Self::Picture(picture) => picture.status(status, containers),
            Self::Nothing | Self::Text { .. } | Self::Caps { .. } => {}
        }
    }

    /// The picture, where that is what is made.
    pub fn picture(&mut self) -> Option<&mut Picture> {
        if let Self::Picture(picture) = self { Some(picture) } else { None }
    }

    /// The TUI, where that is what there is.
    pub fn tui(&mut self) -> Option<&mut Tui> {
        if let Self::Tui { tui, .. } = self { Some(tui) } else { None }
    }

    pub fn close(mut self) -> Result<()> {
        if let Self::Text { style: Some(style), out, over, table } = &mut self
            && let Some(text) = table.at_end(style)
        {
            written(out.write_all(text.as_bytes()), over)?;
        }
        self.flush()?;
        match self {
            Self::Caps { said: false, .. } => anyhow::bail!(NOBODY_CAME),
            Self::Nothing | Self::Text { .. } | Self::Caps { .. } => Ok(()),
            Self::Tui { tui, report, .. } => {
                tui.close().context("giving the terminal back")?;
                match report {
                    Some((_, text)) if text.is_empty() => anyhow::bail!(NOBODY_CAME),
                    Some((_, text)) => written(io::stdout().write_all(text.as_bytes()), &mut false),
                    None => Ok(()),
                }
            }
            Self::Picture(picture) => picture.close(),
        }
    }
}

const NOBODY_CAME: &str =
    "no container of that name started while it was waited for; `ctrace containers` lists those that are here";

/// Reports alone are for stdout: it may be pasted, or read by a program.
fn caps(output: &Output, format: Format, style: &lines::Style, over: &mut bool, said: &mut bool) -> Result<()> {
    match output {
        Output::Caps(report) => {
            *said = true;
            let (text, aside) = caps::formatted(report, format, style);
            written(io::stderr().write_all(aside.as_bytes()), &mut false)?;
            written(io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()), over)
        }
        Output::Note(_) | Output::Loss(_) => {
            let text = lines::text(output, style).unwrap_or_default();
            written(io::stderr().write_all(text.as_bytes()), &mut false)
        }
        _ => Ok(()),
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

/// `node-7 · 6.12 · cgroup v2`.
pub fn host_title(name: &str, release: &str, cgroup_version: u8) -> String {
    format!("{name} · {release} · cgroup v{cgroup_version}")
}

fn own_cpu() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    getrusage(UsageWho::RUSAGE_SELF).map_or(Duration::ZERO, |usage| {
        [usage.user_time(), usage.system_time()]
            .iter()
            .map(|time| Duration::from_micros(time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64))
            .sum()
    })
}

fn own_rss() -> u64 {
    let pages =
        fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * host::page_size()
}
