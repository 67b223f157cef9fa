//! Where calls return too fast, what comes of them is looked at a part of the time. Pure.

use super::{Ask, Rule};
use crate::{
    model::span,
    pipeline::{Output, Question},
};

/// How long the returns of calls are left alone, before it is asked again how fast they come.
const REST_NS: u64 = 300_000_000;

impl Rule {
    /// They come too fast.
    pub(super) fn busy(&self, out: &mut Vec<Output>) {
        if self.rests_since.is_none() && !self.watched.is_empty() {
            out.push(ask(false));
        }
    }

    /// When they are to be looked at again.
    pub fn next_ns(&self) -> Option<u64> {
        self.rests_until
    }

    pub fn tick(&mut self, now_ns: u64, out: &mut Vec<Output>) {
        if self.rests_until.take_if(|until| now_ns >= *until).is_some() {
            out.push(ask(true));
        }
    }

    /// From here on they are looked at, or not; `why` they cannot be, though they should.
    pub(super) fn returns(&mut self, seen: bool, at_ns: u64, why: Option<&String>) {
        self.blind = why.cloned();
        self.rests_until = (!seen && why.is_none()).then(|| at_ns.saturating_add(REST_NS));
        if seen && let Some(since) = self.rests_since.take() {
            for watched in self.watched.values_mut() {
                let (from, until) = (since.max(watched.since_ns), watched.ended_ns.map_or(at_ns, |end| end.min(at_ns)));
                watched.unseen_ns += until.saturating_sub(from);
            }
        } else if !seen {
            self.rests_since.get_or_insert(at_ns);
        }
    }

    /// Why not all that came of calls is known, from its start to `end_ns`.
    pub(super) fn unseen(&self, watched: &super::Watched, end_ns: u64) -> Option<String> {
        let rests = self.rests_since.map_or(0, |since| end_ns.saturating_sub(since.max(watched.since_ns)));
        let (unseen, all) = (watched.unseen_ns + rests, end_ns.saturating_sub(watched.since_ns));
        let why = match &self.blind {
            Some(why) => why.as_str(),
            None => "a CPU had more than 600,000 of them a second",
        };
        (unseen > 0).then(|| {
            let (unseen, all) = (span(unseen), span(all));
            format!("the returns of system calls were not looked at for {unseen} of {all}: {why}")
        })
    }
}

fn ask(seen: bool) -> Output {
    Output::Ask(Question::Caps(Ask::Returns(seen)))
}
