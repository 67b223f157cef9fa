//! The TUI's shell: it takes the terminal, keys and findings change the state, and the state is drawn when that is due.
//!
//! [`state`] knows no widget and does no I/O; [`view`] turns state into a frame and does no I/O either; [`panel`] is
//! what a lens adds; [`keys`] is the one table of bindings. Only this module and [`terminal`] touch the terminal.

pub mod keys;
mod pace;
pub mod panel;
pub mod picture;
#[cfg(test)]
mod samples;
pub mod state;
mod terminal;
mod text;
pub mod theme;
pub mod view;

use std::{
    future::pending,
    io,
    sync::Arc,
    time::{Instant, SystemTime},
};

use crossterm::{
    clipboard::CopyToClipboard,
    event::{Event, EventStream, KeyEventKind},
    execute,
};
use futures_util::StreamExt;
use jiff::tz::TimeZone;
use ratatui::{Terminal, backend::Backend};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep_until,
};

use self::{
    pace::Pace,
    state::{App, Effect, Position},
    terminal::Taken,
    theme::Theme,
};
use crate::{
    model::{Container, Finding, Timestamp},
    pipeline::Output,
};

/// What doesn't change during a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `false`: `NO_COLOR` or `--no-color`. Severity is shown by symbol in any case.
    pub color: bool,
    /// The top line's left: `oom · node-7 · 6.12 · cgroup v2`.
    pub title: String,
    pub zone: TimeZone,
    /// `panel::tabs` of the lenses at work.
    pub tabs: Vec<&'static panel::Panel>,
    /// When the recording that is shown began; `None`: live.
    pub replay: Option<Timestamp>,
}

/// What the user wants of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    Quit,
    Record,
    Play(keys::Play),
}

/// How the run is doing: the top line's right.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Status {
    pub events_per_s: f64,
    /// Since the start.
    pub lost: u64,
    pub containers: usize,
    /// Of one CPU.
    pub cpu_pct: f64,
    pub rss_bytes: u64,
}

/// A status as it is written: what looks the same is the same, and costs no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub containers: String,
    pub events: String,
    pub lost: u64,
    pub own: String,
}

impl Status {
    pub fn shown(&self) -> Shown {
        let containers = self.containers;
        Shown {
            containers: format!("{containers} container{}", if containers == 1 { "" } else { "s" }),
            events: match self.events_per_s {
                rate if rate >= 1e6 => format!("{:.1}M ev/s", rate / 1e6),
                rate if rate >= 1e3 => format!("{:.1}k ev/s", rate / 1e3),
                rate => format!("{rate:.0} ev/s"),
            },
            lost: self.lost,
            own: format!("self {:.1}% {}M", self.cpu_pct, self.rss_bytes >> 20),
        }
    }
}

/// The TUI on the real terminal. Dropping it gives the terminal back, and so does a panic.
pub struct Tui {
    settings: Settings,
    /// A replay's clock; `None`: the wall's.
    at: Option<Timestamp>,
    shell: Shell<terminal::Backend>,
    events: EventStream,
    stop: Signal,
    go_on: Signal,
    // Last: the terminal is given back after all else is gone.
    _taken: Taken,
}

impl Tui {
    /// Takes the terminal, and shows the first frame. Must be called within a tokio runtime.
    pub fn open(settings: Settings) -> io::Result<Self> {
        let stop = signal(SignalKind::from_raw(nix::libc::SIGTSTP))?;
        let go_on = signal(SignalKind::from_raw(nix::libc::SIGCONT))?;
        let theme = Theme::new(settings.color, theme::is_utf8(|name| std::env::var(name).ok()));
        let app = fresh(&settings);
        let taken = Taken::take()?;
        let terminal = Terminal::new(terminal::backend())?;
        let mut shell = Shell { app, theme, terminal, pace: Pace::default() };
        shell.pace.key(Instant::now());
        shell.draw_if_due(Instant::now())?;
        Ok(Self { at: settings.replay, settings, shell, events: EventStream::new(), stop, go_on, _taken: taken })
    }

    /// Takes in what ctrace says. Changes state alone: the frame is drawn when it is due.
    pub fn show(&mut self, output: &Output) {
        self.shell.show(output, self.at.unwrap_or_else(now), Instant::now());
    }

    /// Is what this lens tells on the screen: its own tab, or a page of all that is known?
    pub fn looks_at(&self, lens: &str) -> bool {
        self.shell.app.looks_at(lens)
    }

    /// The container of which the capability checks are asked for: the tab for that is open.
    pub fn asks_for(&self) -> Option<&Arc<Container>> {
        self.shell.app.asks_for()
    }

    /// A replay's clock.
    pub fn at(&mut self, at: Timestamp, position: Position) {
        self.at = Some(at);
        if self.shell.app.position.replace(position) != Some(position) {
            self.shell.pace.data(Instant::now());
        }
    }

    /// Forgets what was shown: a replay went back.
    pub fn begin_again(&mut self) {
        let fresh = fresh(&self.settings);
        let old = std::mem::replace(&mut self.shell.app, fresh);
        let app = &mut self.shell.app;
        (app.tab, app.filter, app.meant) = (old.tab, old.filter, old.meant);
        self.shell.pace.data(Instant::now());
    }

    /// How many findings were told until now.
    pub fn told(&self) -> u64 {
        self.shell.app.history.told()
    }

    /// Of the first `told` findings those that are over, as far as they are held.
    pub fn told_before(&self, told: u64) -> impl Iterator<Item = &Finding> {
        self.shell.app.history.told_before(told)
    }

    /// What is being recorded, in words.
    pub fn recording(&mut self, recording: Option<String>) {
        if self.shell.app.recording != recording {
            self.shell.app.recording = recording;
            self.shell.pace.data(Instant::now());
        }
    }

    /// An answer to the last key.
    pub fn notice(&mut self, notice: String) {
        self.shell.app.notice = Some(notice);
        self.shell.pace.key(Instant::now());
    }

    pub fn status(&mut self, status: Status) {
        self.shell.status(status, Instant::now());
    }

    /// The containers that are here.
    pub fn containers(&mut self, containers: Vec<Arc<Container>>) {
        self.shell.containers(containers, Instant::now());
    }

    /// Waits for a key, a new size or a frame that is due, and deals with it.
    ///
    /// May be dropped at any await (`tokio::select!`): nothing is lost.
    pub async fn input(&mut self) -> io::Result<Wish> {
        let due = self.shell.pace.due();
        let frame = async {
            match due {
                Some(due) => sleep_until(due.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            event = self.events.next() => match event {
                Some(event) => return self.event(&event?),
                // The terminal is gone, and with it whoever looked at it.
                None => return Ok(Wish::Quit),
            },
            _ = self.stop.recv() => self.suspend()?,
            _ = self.go_on.recv() => {
                terminal::retake()?;
                self.shell.redraw()?;
            }
            () = frame => {}
        }
        self.draw_if_due()?;
        Ok(Wish::Nothing)
    }

    pub fn draw_if_due(&mut self) -> io::Result<()> {
        self.shell.draw_if_due(Instant::now())
    }

    /// Gives the terminal back.
    pub fn close(self) -> io::Result<()> {
        terminal::give_back()
    }

    fn event(&mut self, event: &Event) -> io::Result<Wish> {
        let effect = self.shell.event(event, Instant::now());
        match effect {
            Effect::None => {}
            Effect::Quit => return Ok(Wish::Quit),
            Effect::Record => return Ok(Wish::Record),
            Effect::Play(play) => return Ok(Wish::Play(play)),
            Effect::Suspend => self.suspend()?,
            Effect::Copy(text) => execute!(io::stdout(), CopyToClipboard::to_clipboard_from(text))?,
        }
        self.draw_if_due()?;
        Ok(Wish::Nothing)
    }

    fn suspend(&mut self) -> io::Result<()> {
        terminal::suspend()?;
        self.shell.redraw()
    }
}

/// The TUI on any terminal: the tests' too.
struct Shell<B: Backend> {
    app: App,
    theme: Theme,
    terminal: Terminal<B>,
    pace: Pace,
}

impl<B: Backend> Shell<B>
where
    B::Error: Send + Sync + 'static,
{
    fn show(&mut self, output: &Output, time: Timestamp, now: Instant) {
        if self.app.show(output, time) {
            self.pace.data(now);
        }
    }

    fn containers(&mut self, containers: Vec<Arc<Container>>, now: Instant) {
        if self.app.containers(containers) {
            self.pace.data(now);
        }
    }

    fn status(&mut self, status: Status, now: Instant) {
        if self.app.status(status) {
            self.pace.data(now);
        }
    }

    fn event(&mut self, event: &Event, now: Instant) -> Effect {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                self.pace.key(now);
                self.app.key(*key)
            }
            Event::Resize(..) => {
                self.pace.key(now);
                Effect::None
            }
            _ => Effect::None,
        }
    }

    fn draw_if_due(&mut self, now: Instant) -> io::Result<()> {
        if !self.pace.is_due(now) {
            return Ok(());
        }
        self.app.refresh();
        let (app, theme) = (&self.app, self.theme);
        let mut measured = None;
        self.terminal.draw(|frame| measured = Some(view::draw(app, theme, frame))).map_err(io::Error::other)?;
        if let Some(measured) = measured {
            self.app.measured(measured);
        }
        self.pace.drew(now);
        Ok(())
    }

    /// Draws all of it anew: something else was on the screen.
    fn redraw(&mut self) -> io::Result<()> {
        // Not `clear`, which asks the terminal where the cursor is and would race the reader of keys for the answer.
        let size = self.terminal.size().map_err(io::Error::other)?;
        self.terminal.resize(size.into()).map_err(io::Error::other)?;
        self.pace = Pace::default();
        self.pace.key(Instant::now());
        self.draw_if_due(Instant::now())
    }
}

fn fresh(settings: &Settings) -> App {
    let Settings { title, zone, tabs, replay, .. } = settings;
    let mut app = App::new(title.clone(), zone.clone(), tabs, replay.unwrap_or_else(now));
    app.position = replay.map(|_| Position::default());
    app
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod caps_tests;
#[cfg(test)]
mod io_tests;
#[cfg(test)]
mod overview_tests;
#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod way_tests;
