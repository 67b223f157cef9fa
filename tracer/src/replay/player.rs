//! A recording on the screen, at the pace that the user wants. Time goes on by itself, is held, or is on its way to a
//! place that was asked for: backwards means from the start again.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::time::sleep_until;

use super::{Options, asked, position, said_of, sane, start};
use crate::{
    lenses::Registered,
    model::Timestamp,
    recording::{Header, Reader},
    run::{Entry, Run, view::View},
    tui::{Wish, keys::Play, state::Position},
};

/// A key is answered within this while entries are read.
const SLICE: Duration = Duration::from_millis(20);
/// The clock on the screen.
const CLOCK: Duration = Duration::from_millis(250);
/// Speeds: 1, 2, 4 … times, then as fast as it goes.
const SPEEDS: u32 = 7;

pub struct Player<'a> {
    options: &'a Options,
    header: Header,
    lenses: Vec<&'static Registered>,
    reader: Reader,
    run: Run,
    /// Read, and not entered yet.
    next: Option<(u64, Entry)>,
    pace: Pace,
    end_ns: u64,
    /// What is wrong with the recording, once its end was read.
    said: Option<String>,
}

impl<'a> Player<'a> {
    /// `last_ns`: of the recording, see [`Reader::last_ns`].
    pub fn new(
        options: &'a Options,
        reader: Reader,
        lenses: Vec<&'static Registered>,
        last_ns: u64,
        view: View,
    ) -> Self {
        let header = reader.header().clone();
        let last_ns = last_ns.max(header.started_ns);
        let end_ns = options.to.map_or(last_ns, |to| position(&header, to).min(last_ns));
        let run = start(&header, &lenses, asked(&header, options, lenses.len()), view);
        let mut pace = Pace::new(header.started_ns, Instant::now());
        pace.go_to(position(&header, options.from).min(end_ns));
        Self { options, header, lenses, reader, run, next: None, pace, end_ns, said: None }
    }

    pub async fn play(mut self) -> Result<()> {
        loop {
            let more = self.advance()?;
            self.tell();
            self.run.view.flush()?;
            let wake = if more { Instant::now() } else { Instant::now() + CLOCK };
            let due = self.next.as_ref().and_then(|(time_ns, _)| self.pace.due(*time_ns));
            let wake = due.map_or(wake, |due| wake.min(due));
            tokio::select! {
                biased;
                wish = self.run.view.input() => match wish? {
                    Wish::Quit => return self.close(),
                    Wish::Play(play) => self.wish(play)?,
                    Wish::Nothing | Wish::Record => {}
                },
                () = sleep_until(wake.into()) => {}
            }
        }
    }

    /// What the recording suffered from outlasts the screen.
    fn close(self) -> Result<()> {
        self.run.view.close()?;
        if let Some(text) = self.said {
            writeln!(std::io::stderr(), "ctrace: {text}")?;
        }
        Ok(())
    }

    /// Lets in what is due. `true`: there is more that is.
    fn advance(&mut self) -> Result<bool> {
        let begun = Instant::now();
        loop {
            if self.next.is_none() {
                self.next = self.reader.next();
            }
            let Some((time_ns, _)) = &self.next else {
                self.pace.stop_at(self.end_ns);
                self.doubt();
                return Ok(false);
            };
            if *time_ns > self.end_ns {
                self.pace.stop_at(self.end_ns);
                return Ok(false);
            }
            if !self.pace.lets_in(*time_ns, Instant::now()) {
                return Ok(false);
            }
            if let Some((time_ns, entry)) = self.next.take() {
                self.pace.entered(time_ns);
                if let Some(tui) = self.run.view.tui() {
                    tui.at(wall(&self.header, self.pace.at_ns), shown(&self.pace, &self.header, self.end_ns));
                }
                self.run.enter(entry, time_ns)?;
                sane(&self.run)?;
            }
            if begun.elapsed() >= SLICE {
                return Ok(true);
            }
        }
    }

    /// Once: it may be looked at again and again.
    fn doubt(&mut self) {
        if self.said.is_none() {
            self.said = said_of(self.reader.ending(), &self.header);
            if let (Some(tui), Some(text)) = (self.run.view.tui(), &self.said) {
                tui.notice(text.clone());
            }
        }
    }

    fn wish(&mut self, play: Play) -> Result<()> {
        let now = Instant::now();
        let at_ns = self.pace.clock(now);
        match play {
            Play::Pause => self.pace.pause(now),
            Play::Faster => self.pace.faster(now),
            Play::Slower => self.pace.slower(now),
            Play::Skip(seconds) => {
                let far_ns = seconds.unsigned_abs() * 1_000_000_000;
                let to_ns = if seconds < 0 { at_ns.saturating_sub(far_ns) } else { at_ns.saturating_add(far_ns) };
                self.seek(to_ns)?;
            }
            Play::Start => self.seek(0)?,
            Play::End => self.seek(u64::MAX)?,
        }
        Ok(())
    }

    fn seek(&mut self, to_ns: u64) -> Result<()> {
        let to_ns = to_ns.clamp(self.header.started_ns, self.end_ns);
        if to_ns < self.pace.at_ns {
            self.reader = Reader::open(&self.options.file)?;
            self.next = None;
            let asked = asked(&self.header, self.options, self.lenses.len());
            let view = std::mem::replace(&mut self.run.view, View::Nothing);
            self.run = start(&self.header, &self.lenses, asked, view);
            if let Some(tui) = self.run.view.tui() {
                tui.begin_again();
            }
            self.pace.again(self.header.started_ns);
        }
        self.pace.go_to(to_ns);
        Ok(())
    }

    /// What is not said by what entered: the time, the containers, losses.
    fn tell(&mut self) {
        let at_ns = self.pace.clock(Instant::now()).min(self.end_ns);
        let lost = self.run.lost;
        self.run.view.replayed(&self.run.pipeline, lost);
        let pace = Pace { at_ns, ..self.pace };
        if let Some(tui) = self.run.view.tui() {
            tui.at(wall(&self.header, at_ns), shown(&pace, &self.header, self.end_ns));
        }
    }
}

pub(super) fn wall(header: &Header, at_ns: u64) -> Timestamp {
    Timestamp((at_ns as i64).saturating_add(header.boot_to_wall_ns))
}

fn shown(pace: &Pace, header: &Header, end_ns: u64) -> Position {
    let seconds = |ns: u64| ns.saturating_sub(header.started_ns) / 1_000_000_000;
    Position { at_s: seconds(pace.at_ns), of_s: seconds(end_ns), speed: pace.speed(), paused: pace.paused }
}

/// How the recording's clock goes by the wall's. Plain values: the time is passed in.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// The latest that entered.
    at_ns: u64,
    /// The recording's clock stood here…
    base_ns: u64,
    /// … then.
    base: Instant,
    /// A power of two; [`SPEEDS`]: as fast as it goes.
    speed: u32,
    paused: bool,
    /// As fast as it goes until here.
    target_ns: Option<u64>,
}

impl Pace {
    fn new(at_ns: u64, now: Instant) -> Self {
        Self { at_ns, base_ns: at_ns, base: now, speed: 0, paused: false, target_ns: None }
    }

    fn speed(&self) -> Option<u32> {
        (self.speed < SPEEDS).then(|| 1 << self.speed)
    }

    /// The recording's clock.
    fn clock(&self, now: Instant) -> u64 {
        match self.speed() {
            _ if self.target_ns.is_some() => self.at_ns,
            _ if self.paused => self.base_ns,
            Some(speed) => {
                let gone = now.saturating_duration_since(self.base).as_nanos() as u64;
                self.base_ns.saturating_add(gone.saturating_mul(u64::from(speed)))
            }
            None => self.at_ns.max(self.base_ns),
        }
    }

    /// Is it time for what entered at `time_ns`? Where a target is reached, time goes on from there as before.
    fn lets_in(&mut self, time_ns: u64, now: Instant) -> bool {
        if let Some(target_ns) = self.target_ns {
            if time_ns <= target_ns {
                return true;
            }
            self.target_ns = None;
            (self.base_ns, self.base) = (target_ns, now);
        }
        !self.paused && (self.speed().is_none() || time_ns <= self.clock(now))
    }

    fn due(&self, time_ns: u64) -> Option<Instant> {
        if self.paused || self.target_ns.is_some() {
            return None;
        }
        let speed = self.speed()?;
        let wait_ns = time_ns.saturating_sub(self.base_ns) / u64::from(speed);
        self.base.checked_add(Duration::from_nanos(wait_ns))
    }

    fn entered(&mut self, time_ns: u64) {
        self.at_ns = self.at_ns.max(time_ns);
    }

    fn go_to(&mut self, target_ns: u64) {
        self.target_ns = Some(target_ns);
    }

    /// There is no more.
    fn stop_at(&mut self, end_ns: u64) {
        (self.target_ns, self.paused) = (None, true);
        (self.base_ns, self.at_ns) = (end_ns, end_ns);
    }

    fn again(&mut self, at_ns: u64) {
        (self.at_ns, self.base_ns) = (at_ns, at_ns);
    }

    fn pause(&mut self, now: Instant) {
        self.rebase(now);
        self.paused = !self.paused;
    }

    fn faster(&mut self, now: Instant) {
        self.rebase(now);
        self.speed = (self.speed + 1).min(SPEEDS);
    }

    fn slower(&mut self, now: Instant) {
        self.rebase(now);
        self.speed = self.speed.saturating_sub(1);
    }

    fn rebase(&mut self, now: Instant) {
        (self.base_ns, self.base) = (self.clock(now), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn time_goes_at_its_speed_and_not_while_it_is_held() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(100 * S, start);
        assert_eq!(pace.clock(after(3)), 103 * S);
        assert!(pace.lets_in(103 * S, after(3)) && !pace.lets_in(104 * S, after(3)));
        assert_eq!(pace.due(104 * S), Some(after(4)));
        pace.faster(after(3));
        pace.faster(after(3));
        assert_eq!((pace.speed(), pace.clock(after(5))), (Some(4), 111 * S));
        pace.pause(after(5));
        assert_eq!((pace.clock(after(9)), pace.due(112 * S)), (111 * S, None));
        assert!(!pace.lets_in(112 * S, after(9)));
        pace.pause(after(9));
        pace.slower(after(9));
        assert_eq!((pace.speed(), pace.clock(after(10))), (Some(2), 113 * S));
        for _ in 0..9 {
            pace.faster(after(10));
        }
        assert_eq!(pace.speed(), None);
        assert!(pace.lets_in(1_000_000 * S, after(10)));
    }

    #[test]
    fn what_lies_before_a_target_comes_at_once_and_what_is_after_it_in_its_time() {
        let start = Instant::now();
        let mut pace = Pace::new(100 * S, start);
        pace.pause(start);
        pace.go_to(160 * S);
        assert!(pace.lets_in(160 * S, start));
        pace.entered(160 * S);
        assert!(!pace.lets_in(161 * S, start), "it was held before, and is again");
        pace.pause(start);
        assert_eq!(pace.clock(start + Duration::from_secs(1)), 161 * S);
        pace.stop_at(170 * S);
        assert_eq!(pace.clock(start + Duration::from_mins(1)), 170 * S);
    }
}
