//! When to draw: never without a change, seldom under load, at once for a key.

use std::time::{Duration, Instant};

/// Ten frames a second at most, however much arrives.
const DATA: Duration = Duration::from_millis(100);
/// A key that is held down repeats about thirty times a second; each is answered well within 50 ms.
const KEY: Duration = Duration::from_millis(30);

/// What was drawn last, and what is owed. Plain values: the time is passed in.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    due: Option<Instant>,
}

impl Pace {
    /// Something that is shown has changed.
    pub(super) fn data(&mut self, now: Instant) {
        self.owe(now, DATA);
    }

    /// The user did something, and looks.
    pub(super) fn key(&mut self, now: Instant) {
        self.owe(now, KEY);
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    pub(super) fn drew(&mut self, now: Instant) {
        self.last = Some(now);
        self.due = None;
    }

    fn owe(&mut self, now: Instant, gap: Duration) {
        let at = self.last.map_or(now, |last| now.max(last + gap));
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_owed_where_nothing_changed() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert!(!pace.is_due(start + Duration::from_hours(1)));
        pace.data(start);
        assert!(pace.is_due(start));
        pace.drew(start);
        assert!(!pace.is_due(start + Duration::from_hours(1)));
    }

    #[test]
    fn a_flood_is_ten_frames_a_second_and_a_key_does_not_wait_for_it() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut frames = 0;
        for ms in 0..1000 {
            let now = start + Duration::from_millis(ms);
            pace.data(now);
            if pace.is_due(now) {
                pace.drew(now);
                frames += 1;
            }
        }
        assert_eq!(frames, 10);

        let key = start + Duration::from_millis(905);
        pace.key(key);
        assert!(pace.due().is_some_and(|due| due <= key + Duration::from_millis(50)));
    }
}
