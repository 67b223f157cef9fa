//! Conditions that hold for a while: when one opens, changes and closes, and what it is called meanwhile.

use std::collections::BTreeMap;

use super::World;
use crate::model::{Code, Finding, State};

/// A condition that does not hold for so long is over: between two bursts it is the same one.
const LINGER_NS: u64 = 5_000_000_000;
/// News of one condition come at most this often, …
const UPDATE_NS: u64 = 5_000_000_000;
/// … and only where its number changed by one part in this many.
const UPDATE_SHARE: u64 = 10;

/// The conditions that hold, by code and by what they are about.
#[derive(Debug, Default)]
pub struct Conditions {
    open: BTreeMap<(Code, String), Open>,
    told: BTreeMap<Code, u64>,
}

#[derive(Debug)]
struct Open {
    id: String,
    held_ns: u64,
    said_ns: u64,
    said: u64,
}

/// Something to say of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub id: String,
    pub state: State,
}

impl Conditions {
    /// The condition holds now, and this is its number.
    pub fn holds(&mut self, code: Code, subject: &str, number: u64, now_ns: u64) -> Option<News> {
        if let Some(open) = self.open.get_mut(&(code, subject.to_owned())) {
            open.held_ns = now_ns;
            let changed = number.abs_diff(open.said).saturating_mul(UPDATE_SHARE) >= open.said.max(1);
            let since_ns = now_ns.saturating_sub(open.said_ns);
            if !changed || since_ns < UPDATE_NS && !is_burst(open.said, number, since_ns) {
                return None;
            }
            (open.said, open.said_ns) = (number, now_ns);
            return Some(News { id: open.id.clone(), state: State::Update });
        }
        let told = self.told.entry(code).or_default();
        *told += 1;
        let id = format!("{}-{told}", code.0.replace('.', "-"));
        let open = Open { id: id.clone(), held_ns: now_ns, said_ns: now_ns, said: number };
        self.open.insert((code, subject.to_owned()), open);
        Some(News { id, state: State::Open })
    }

    /// Those that are over, with their subjects.
    pub fn over(&mut self, now_ns: u64) -> Vec<(Code, String, News)> {
        let over = |_: &(Code, String), open: &mut Open| now_ns.saturating_sub(open.held_ns) >= LINGER_NS;
        let closed = self.open.extract_if(.., over);
        closed.map(|((code, subject), open)| (code, subject, News { id: open.id, state: State::Closed })).collect()
    }
}

/// It grew by half more than if it had gone on as it began, in a second: that may be over before the time for news has come.
fn is_burst(said: u64, number: u64, since_ns: u64) -> bool {
    const SECOND_NS: u128 = 1_000_000_000;
    u128::from(number) * 2 * SECOND_NS >= u128::from(said) * 3 * (SECOND_NS + u128::from(since_ns))
}

/// What was last said of each condition, to close it with.
#[derive(Debug, Default)]
pub struct Said(BTreeMap<String, Finding>);

impl Said {
    pub fn say(&mut self, finding: Finding) -> Finding {
        self.0.insert(finding.id.clone(), finding.clone());
        finding
    }

    /// Those that are over: the last that was said, ended, with what there is to say now.
    pub fn over(
        &mut self,
        conditions: &mut Conditions,
        now_ns: u64,
        world: &World,
        summary: impl Fn(Code) -> &'static str,
    ) -> Vec<Finding> {
        let over = conditions.over(now_ns).into_iter().filter_map(|(_, _, news)| self.0.remove(&news.id));
        let closed = over.map(|last| Finding {
            state: Some(State::Closed),
            time: world.at(now_ns),
            summary: summary(last.code).to_owned(),
            ..last
        });
        closed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const CODE: Code = Code("mem.near-limit");

    #[test]
    fn opens_once_changes_seldom_and_closes_after_a_while() {
        let mut conditions = Conditions::default();
        let open = conditions.holds(CODE, "/a", 100, SECOND);
        assert_eq!(open, Some(News { id: "mem-near-limit-1".to_owned(), state: State::Open }));
        assert_eq!(conditions.holds(CODE, "/a", 200, 2 * SECOND), None, "too soon");
        assert_eq!(conditions.holds(CODE, "/a", 109, 6 * SECOND), None, "the same");
        let update = Some(News { id: "mem-near-limit-1".to_owned(), state: State::Update });
        assert_eq!(conditions.holds(CODE, "/a", 110, 7 * SECOND), update);
        assert_eq!(conditions.over(11 * SECOND), []);
        let closed = News { id: "mem-near-limit-1".to_owned(), state: State::Closed };
        assert_eq!(conditions.over(12 * SECOND), [(CODE, "/a".to_owned(), closed)]);
        assert_eq!(conditions.over(20 * SECOND), []);
        assert_eq!(
            conditions.holds(CODE, "/a", 1, 13 * SECOND).map(|news| news.id).as_deref(),
            Some("mem-near-limit-2")
        );
    }

    #[test]
    fn a_burst_is_news_at_once() {
        let mut conditions = Conditions::default();
        let mut said = |number: u64, at: u64| conditions.holds(CODE, "/a", number, at * SECOND).is_some();
        assert!(said(1, 1) && said(3, 2), "it may be over soon");
        assert!(!said(6, 3) && !said(9, 4) && !said(12, 5), "as much in each second");
        assert!(said(23, 5) && !said(1, 6), "less can wait");
    }
}
