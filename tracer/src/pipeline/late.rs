//! When to look at files again: a runtime may write down what a container is called, or that a cgroup is one, after it
//! made the cgroup. Pure: times come from outside.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// A survey reads all of /proc: no host that makes cgroups all day long pays for it more often.
const SURVEY_NS: u64 = 1_000_000_000;
/// A cgroup whose path says nothing is asked about at once, and once more when its maker had time to write.
const SECOND_LOOK_NS: u64 = 2_000_000_000;
/// A container without a name is looked at again after these.
const AGAIN_NS: [u64; 3] = [500_000_000, 2_000_000_000, 10_000_000_000];
const WAITING: usize = 4096;

#[derive(Debug, Default)]
pub struct Late {
    /// The next survey, and a cgroup that it is for.
    survey: Option<(u64, u64, Arc<str>)>,
    second: Option<(u64, u64, Arc<str>)>,
    surveyed_ns: Option<u64>,
    /// (when, cgroup), by how often they were looked at before: each in order.
    nameless: [VecDeque<(u64, u64)>; AGAIN_NS.len()],
    /// Of cgroups made since the start.
    nameless_yet: HashMap<u64, Nameless>,
}

#[derive(Debug, Default)]
struct Nameless {
    /// How often its files were looked at.
    looks: usize,
    shown: bool,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    Survey(u64, Arc<str>),
    /// Once more for the container of this cgroup.
    Facts(u64),
}

impl Late {
    /// A cgroup was made whose path says nothing.
    pub fn unknown(&mut self, cgroup: u64, path: Arc<str>, now_ns: u64) {
        let first = self.surveyed_ns.map_or(now_ns, |last| now_ns.max(last.saturating_add(SURVEY_NS)));
        self.survey.get_or_insert((first, cgroup, path.clone()));
        // One that is waited for already covers a cgroup that is as old as its maker's writing takes.
        self.second = Some((now_ns.saturating_add(SECOND_LOOK_NS), cgroup, path));
    }

    /// A container was made whose files are to be read.
    pub fn expect(&mut self, cgroup: u64) {
        if self.nameless_yet.len() < WAITING {
            self.nameless_yet.entry(cgroup).or_default();
        }
    }

    /// It was shown as something else before it was known to be a container.
    pub fn shown(&mut self, cgroup: u64) {
        self.expect(cgroup);
        if let Some(state) = self.nameless_yet.get_mut(&cgroup) {
            state.shown = true;
        }
    }

    /// Its files did not name it.
    pub fn nameless(&mut self, cgroup: u64, now_ns: u64) {
        let Some(state) = self.nameless_yet.get_mut(&cgroup) else { return };
        state.shown = true;
        if let Some((queue, after)) = self.nameless.get_mut(state.looks).zip(AGAIN_NS.get(state.looks)) {
            queue.push_back((now_ns.saturating_add(*after), cgroup));
        }
        state.looks += 1;
    }

    /// May rows show it under another name than it has now?
    pub fn was_shown(&self, cgroup: u64) -> bool {
        // Of those that were here at the start nothing is known: they may.
        self.nameless_yet.get(&cgroup).is_none_or(|state| state.shown)
    }

    /// It has its name, or is gone.
    pub fn settled(&mut self, cgroup: u64) {
        self.nameless_yet.remove(&cgroup);
    }

    pub fn next_ns(&self) -> Option<u64> {
        let surveys = [&self.survey, &self.second].into_iter().flatten().map(|(due, ..)| *due);
        surveys.chain(self.nameless.iter().filter_map(|queue| queue.front().map(|(due, _)| *due))).min()
    }

    pub fn due(&mut self, now_ns: u64) -> Vec<Due> {
        let mut found = Vec::new();
        for slot in [&mut self.survey, &mut self.second] {
            if let Some((_, cgroup, path)) = slot.take_if(|(due, ..)| *due <= now_ns) {
                self.surveyed_ns = Some(now_ns);
                found.push(Due::Survey(cgroup, path));
            }
        }
        found.truncate(1); // one answers for every path
        for queue in &mut self.nameless {
            while let Some((_, cgroup)) = queue.pop_front_if(|(due, _)| *due <= now_ns) {
                found.extend(self.nameless_yet.contains_key(&cgroup).then_some(Due::Facts(cgroup)));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn surveys_are_few_however_many_cgroups_come() {
        let mut late = Late::default();
        let mut surveys = 0;
        for at in 0..2000 {
            late.unknown(at, "/x".into(), at * 5 * MS); // 200 a second, for ten
            surveys += late.due(at * 5 * MS).len();
        }
        assert!((8..=12).contains(&surveys), "{surveys}");
        // The last one gets its second look.
        let due = late.next_ns().expect("one more");
        let mut last = Vec::new();
        for at in [due, due + 5_000 * MS] {
            last.extend(late.due(at));
        }
        assert!(last.contains(&Due::Survey(1999, "/x".into())), "{last:?}");
        assert_eq!(late.next_ns(), None);
    }

    #[test]
    fn the_first_is_looked_at_at_once() {
        let mut late = Late::default();
        late.unknown(7, "/x".into(), 100);
        assert_eq!(late.due(100), [Due::Survey(7, "/x".into())]);
        assert_eq!(late.next_ns(), Some(100 + SECOND_LOOK_NS));
    }

    #[test]
    fn the_nameless_get_three_more_looks() {
        let mut late = Late::default();
        let (mut now, mut looks) = (0, Vec::new());
        late.expect(7);
        late.nameless(7, now);
        while let Some(due) = late.next_ns() {
            now = due;
            for due in late.due(now) {
                let Due::Facts(cgroup) = due else { continue };
                looks.push(now / MS);
                late.nameless(cgroup, now);
            }
        }
        assert_eq!(looks, [500, 2_500, 12_500]);
        // No look at one that is gone.
        late.expect(8);
        late.nameless(8, now);
        late.settled(8);
        assert_eq!(late.due(now + 1_000 * MS), []);
    }
}
