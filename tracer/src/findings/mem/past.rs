//! What was read before: rates, growth, and who stalled lately.

use std::{collections::VecDeque, time::Duration};

use tracer_common::stall::StallKey;

use super::reading::{Level, StallTotal};
use crate::findings::{
    numbers::grow,
    window::{SLACK_NS, Total, WINDOW_NS, Window},
};

/// Growth is that of so long, seen every so often, and not judged from less.
const GROWTH_NS: u64 = 60_000_000_000;
const GROWTH_STEP_NS: u64 = 2_000_000_000;
const GROWTH_LEAST_NS: u64 = 4_000_000_000;

/// One level's last readings.
#[derive(Debug, Default)]
pub struct Past {
    /// `None`: it was just made, and all its counts were 0.
    levels: VecDeque<(u64, Option<Level>)>,
    anon: VecDeque<(u64, u64)>,
}

impl Past {
    /// Of a cgroup that was made at that time, while ctrace watched.
    pub fn since(born_ns: u64) -> Self {
        Self { levels: VecDeque::from([(born_ns, None)]), anon: VecDeque::new() }
    }

    pub fn take(&mut self, at_ns: u64, level: &Level) {
        // Not the last one: on a busy machine the next reading may come late, and tells of a longer time then.
        let is_old = |levels: &VecDeque<(u64, Option<Level>)>| {
            levels.len() > 1 && at_ns.saturating_sub(levels[0].0) > WINDOW_NS + SLACK_NS
        };
        while is_old(&self.levels) {
            self.levels.pop_front();
        }
        self.levels.push_back((at_ns, Some(level.clone())));
        let Some(anon) = level.stat.anon else { return };
        if self.anon.back().is_none_or(|(then, _)| at_ns.saturating_sub(*then) >= GROWTH_STEP_NS) {
            self.anon.push_back((at_ns, anon));
        }
        while self.anon.front().is_some_and(|(then, _)| at_ns.saturating_sub(*then) > GROWTH_NS) {
            self.anon.pop_front();
        }
    }

    /// By how much a count grew within the window, and the window; `None`: not read twice.
    pub fn grown(&self, count: impl Fn(&Level) -> Option<u64>) -> Option<(u64, Duration)> {
        let (now, last) = self.levels.back()?;
        // A cgroup that was just made may have been read before its controller was on.
        let counted = |(then, level): &(u64, Option<Level>)| Some((*then, level.as_ref().map_or(Some(0), &count)?));
        let (then, before) = self.levels.iter().find_map(counted)?;
        let window = now.checked_sub(then).filter(|window| *window > 0)?;
        Some((count(last.as_ref()?)?.saturating_sub(before), Duration::from_nanos(window)))
    }

    pub fn per_s(&self, count: impl Fn(&Level) -> Option<u64>) -> Option<f64> {
        self.grown(count).map(|(grown, window)| grown as f64 / window.as_secs_f64())
    }

    /// Was it read twice, so that there are rates?
    pub fn twice(&self) -> bool {
        self.levels.len() > 1
    }

    /// Bytes a second that anonymous memory grows, negative where it shrinks.
    pub fn anon_growth(&self) -> Option<f64> {
        let (then, first) = self.anon.front()?;
        let (now, last) = self.levels.back().and_then(|(now, level)| Some((*now, level.as_ref()?.stat.anon?)))?;
        let window = now.checked_sub(*then).filter(|window| *window >= GROWTH_LEAST_NS)?;
        Some((last as f64 - *first as f64) / (window as f64 / 1e9))
    }
}

/// Stalls within the window.
pub type Stalls = Window<StallKey, StallTotal>;

impl Total for StallTotal {
    fn count(&self) -> u64 {
        self.count
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            count: self.count.saturating_sub(before.count),
            total_ns: self.total_ns.saturating_sub(before.total_ns),
            ..self.clone()
        }
    }

    fn add(&mut self, more: &Self) {
        grow(&mut self.count, more.count);
        grow(&mut self.total_ns, more.total_ns);
        self.worst_ns = self.worst_ns.max(more.worst_ns);
    }
}
