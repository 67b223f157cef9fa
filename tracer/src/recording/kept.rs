//! What entered of late, held in memory as a recording has it: so that the key `w` writes what led to what is on the
//! screen, and not only what comes after it. By budget: the oldest go, and are counted.

use std::collections::VecDeque;

use anyhow::Result;

use super::{Line, Recorder, packer::Packer};
use crate::{containers::KnownContainer, run::Entry};

/// All frames together: minutes of a host where little happens, some fifty thousand events where much does.
const BUDGET: usize = 1 << 20;
/// The oldest part goes whole, since only from the beginning of one can be read: so at most this share is lost at once.
const PARTS: usize = 8;
/// A frame is closed when it holds this much.
const FRAME_BYTES: usize = 128 << 10;
/// The fastest: most of what is packed is never written.
const LEVEL: i32 = 1;

/// What the beginning of a part stands on.
#[derive(Clone, Debug, PartialEq)]
pub struct Since {
    /// The records' clock.
    pub at_ns: u64,
    pub boot_to_wall_ns: i64,
    pub known: Vec<KnownContainer>,
    /// Findings that were told before.
    pub told: u64,
    /// The first part begins where the run does: all that came before it is nothing.
    pub first: bool,
}

struct Part {
    since: Since,
    /// What is here at its beginning: of use only where the file begins with it.
    survey: Vec<Vec<u8>>,
    frames: Vec<Vec<u8>>,
    bytes: usize,
    /// Of these the survey's.
    survey_bytes: usize,
    entries: u64,
}

pub struct Kept {
    packer: Packer,
    parts: VecDeque<Part>,
    budget: usize,
    frame_bytes: usize,
    gone: u64,
}

impl Kept {
    /// # Errors
    /// The compression does not start.
    pub fn new(since: Since) -> Result<Self> {
        Self::of(BUDGET, FRAME_BYTES, since)
    }

    pub(crate) fn of(budget: usize, frame_bytes: usize, since: Since) -> Result<Self> {
        let mut kept = Self { packer: Packer::new(LEVEL)?, parts: VecDeque::new(), budget, frame_bytes, gone: 0 };
        kept.begin(since, []);
        Ok(kept)
    }

    pub fn enter(&mut self, entry: &Entry, now_ns: u64) {
        let Some(part) = self.parts.back_mut() else {
            self.gone += 1;
            return;
        };
        part.entries += 1;
        if self.packer.line(&Line { t: now_ns, entry }).is_err() {
            self.start_over();
        } else if self.packer.waiting() >= self.frame_bytes {
            self.close();
        }
    }

    /// Is it time for [`Kept::begin`]?
    pub fn is_due(&self) -> bool {
        // A survey of thousands of containers is worth to be paid where as much was kept since the last.
        let is_full = |part: &Part| part.bytes - part.survey_bytes >= part.survey_bytes.max(self.budget / PARTS);
        self.parts.back().is_none_or(is_full)
    }

    /// A new part, from which a file may begin. `survey`: the entries that tell what is here.
    pub fn begin(&mut self, since: Since, survey: impl IntoIterator<Item = Entry>) {
        self.close();
        let at_ns = since.at_ns;
        self.parts.push_back(Part {
            since,
            survey: Vec::new(),
            frames: Vec::new(),
            bytes: 0,
            survey_bytes: 0,
            entries: 0,
        });
        for entry in survey {
            if self.packer.line(&Line { t: at_ns, entry }).is_err() {
                return self.start_over();
            }
            if self.packer.waiting() >= self.frame_bytes {
                self.close();
            }
        }
        self.close();
        if let Some(part) = self.parts.back_mut() {
            part.survey = std::mem::take(&mut part.frames);
            part.survey_bytes = part.bytes;
        }
        self.forget();
    }

    /// What a file of all that is held begins with.
    pub fn since(&self) -> Option<&Since> {
        self.parts.front().map(|part| &part.since)
    }

    /// Entries that are no longer held.
    pub fn gone(&self) -> u64 {
        self.gone
    }

    /// Writes all that is held, behind the header. `earlier`: entries of the time before, of which nothing is held.
    pub fn write(&mut self, recorder: &mut Recorder, earlier: impl IntoIterator<Item = Entry>) {
        let Some(at_ns) = self.since().map(|since| since.at_ns) else { return };
        let entries = self.entries();
        let (survey, frames) = self.frames();
        recorder.frames(survey, 0);
        for entry in earlier {
            recorder.enter(&entry, at_ns);
        }
        recorder.enter(&Entry::Shown, at_ns);
        recorder.frames(frames, entries);
    }

    fn entries(&self) -> u64 {
        self.parts.iter().map(|part| part.entries).sum()
    }

    /// The frames with what is here at the beginning, and those with all that entered since.
    fn frames(&mut self) -> (impl Iterator<Item = &[u8]>, impl Iterator<Item = &[u8]>) {
        self.close();
        let survey = self.parts.front().into_iter().flat_map(|part| &part.survey);
        let frames = self.parts.iter().flat_map(|part| &part.frames);
        (survey.map(Vec::as_slice), frames.map(Vec::as_slice))
    }

    fn close(&mut self) {
        match (self.packer.frame(), self.parts.back_mut()) {
            (Ok(Some(mut frame)), Some(part)) => {
                frame.shrink_to_fit();
                part.bytes += frame.len();
                part.frames.push(frame);
            }
            (Ok(_), _) => {}
            (Err(_), _) => self.start_over(),
        }
        self.forget();
    }

    /// The newest part stays, whatever it weighs: it is closed long before that is much.
    fn forget(&mut self) {
        while self.parts.len() > 1 && self.parts.iter().map(|part| part.bytes).sum::<usize>() > self.budget {
            self.gone += self.parts.pop_front().map_or(0, |part| part.entries);
        }
    }

    /// Something could not be kept: what goes on without it is no run that was.
    fn start_over(&mut self) {
        self.gone += self.entries();
        self.parts.clear();
        let _ = self.packer.frame();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Timestamp,
        pipeline::Note,
        recording::LINE_BYTES,
        run::Entry::{Said, Surveyed, Tick},
    };

    fn since(at_ns: u64) -> Since {
        Since { at_ns, boot_to_wall_ns: 0, known: Vec::new(), told: at_ns, first: at_ns == 0 }
    }

    fn said(text: String) -> Entry {
        Said(Note { time: Timestamp(0), code: "doubt", text, fields: serde_json::Map::new() })
    }

    /// The times of the entries: of the survey, and since.
    fn times(kept: &mut Kept) -> (Vec<u64>, Vec<u64>) {
        let read = |frame: &[u8]| {
            let content = zstd::decode_all(frame).expect("a frame");
            let lines: Vec<Line<Entry>> = content
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| serde_json::from_slice(line).expect("a line"))
                .collect();
            lines.into_iter().map(|line| line.t)
        };
        let (survey, frames) = kept.frames();
        (survey.flat_map(read).collect(), frames.flat_map(read).collect())
    }

    /// Text that hardly packs.
    fn noise(seed: u64) -> String {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            format!("{state:x}")
        };
        std::iter::repeat_with(next).take(64).collect()
    }

    #[test]
    fn all_of_a_short_run_is_there_from_its_beginning() {
        let mut kept = Kept::of(1 << 20, FRAME_BYTES, since(0)).expect("it starts");
        for at in 1..=1000 {
            kept.enter(&Tick, at);
        }
        assert!(!kept.is_due());
        assert_eq!(times(&mut kept), (vec![], (1..=1000).collect()));
        kept.enter(&Tick, 1001);
        assert_eq!(times(&mut kept).1.len(), 1001, "what was looked at is still there, and it goes on");
        assert_eq!((kept.gone(), kept.entries(), kept.since()), (0, 1001, Some(&since(0))));
    }

    #[test]
    fn the_oldest_go_and_are_counted_and_what_stays_begins_with_a_survey() {
        let budget = 256 << 10;
        let mut kept = Kept::of(budget, FRAME_BYTES, since(0)).expect("it starts");
        let mut most = 0;
        for at in 1..=10_000 {
            kept.enter(&said(noise(at)), at);
            if kept.is_due() {
                kept.begin(since(at), [Surveyed]);
            }
            most = most.max(kept.parts.iter().map(|part| part.bytes).sum());
        }
        assert!(most <= budget + budget / PARTS + FRAME_BYTES, "{most} bytes");
        let (survey, entries) = times(&mut kept);
        let first = kept.since().expect("a part").at_ns;
        assert_eq!(survey, [first], "and not those of the parts behind it");
        assert_eq!(entries, (first + 1..=10_000).collect::<Vec<_>>(), "whole, in order, from the survey on");
        assert!(first > 1000 && entries.len() > 100, "{first}");
        assert_eq!((kept.gone(), kept.gone() + kept.entries()), (first, 10_000));
    }

    /// Else each entry of a host with thousands of containers would begin a part of its own.
    #[test]
    fn a_survey_that_fills_a_part_is_not_taken_again_at_once() {
        let budget = 256 << 10;
        let survey = || (0..100).map(|number| said(noise(number)));
        let mut kept = Kept::of(budget, 4 << 10, since(0)).expect("it starts");
        kept.begin(since(1), survey());
        let weight = kept.parts.back().expect("a part").survey_bytes;
        assert!(weight > budget / PARTS && !kept.is_due(), "{weight}");
        let due = (0..10_000_u64).find(|number| {
            kept.enter(&said(noise(1000 + number)), 2 + number);
            kept.is_due()
        });
        assert!(due.is_some_and(|number| (90..150).contains(&number)), "{due:?}: as much as the survey");
    }

    #[test]
    fn where_an_entry_cannot_be_kept_it_begins_again() {
        let mut kept = Kept::of(1 << 20, FRAME_BYTES, since(0)).expect("it starts");
        kept.enter(&Tick, 1);
        kept.enter(&said("x".repeat(LINE_BYTES)), 2);
        assert!(kept.is_due() && kept.since().is_none());
        kept.enter(&Tick, 3);
        assert_eq!((kept.gone(), times(&mut kept)), (3, (vec![], vec![])));
        kept.begin(since(4), [Surveyed]);
        kept.enter(&Tick, 5);
        assert_eq!((kept.gone(), times(&mut kept)), (3, (vec![4], vec![5])));
    }
}
