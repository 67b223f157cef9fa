//! Totals that only grow, read again and again: what came within the last two seconds.

use std::collections::{BTreeMap, VecDeque};

use super::World;

/// Verdicts look back this far, and a bit: readings are about a second apart.
pub const WINDOW_NS: u64 = 2_000_000_000;
pub const SLACK_NS: u64 = 300_000_000;
/// The first reading has what came since attach.
const FIRST_NS: u64 = 1_000_000_000;

/// A total of the kernel side.
pub trait Total: Clone {
    fn count(&self) -> u64;
    /// What came since `before`, which was less.
    fn since(&self, before: &Self) -> Self;
    fn add(&mut self, more: &Self);
}

#[derive(Debug)]
pub struct Window<K, T> {
    length_ns: u64,
    totals: BTreeMap<K, T>,
    /// When, and what came since the reading before.
    recent: VecDeque<(u64, Vec<(K, T)>)>,
    /// When the reading before the oldest of those was.
    since_ns: u64,
    last_ns: u64,
    forgotten: u64,
}

impl<K, T> Default for Window<K, T> {
    fn default() -> Self {
        Self::lasting(WINDOW_NS)
    }
}

impl<K, T> Window<K, T> {
    /// One that looks back further.
    pub fn lasting(length_ns: u64) -> Self {
        Self { length_ns, totals: BTreeMap::new(), recent: VecDeque::new(), since_ns: 0, last_ns: 0, forgotten: 0 }
    }
}

impl<K: Ord + Copy, T: Total> Window<K, T> {
    /// As [`Window::take`], of totals that were there before ctrace was: one that is new counts from here on.
    pub fn take_grown(&mut self, at_ns: u64, totals: &[(K, T)]) {
        for (key, total) in totals {
            self.totals.entry(*key).or_insert_with(|| total.clone());
        }
        self.take(at_ns, totals);
    }

    /// Takes a reading in. Of the first one all counts, unless the kernel side had counted long before.
    pub fn take_in(&mut self, world: &World, at_ns: u64, totals: &[(K, T)]) {
        if self.last_ns == 0 && world.host.began_later {
            self.totals = totals.iter().cloned().collect();
        }
        self.take(at_ns, totals);
    }

    pub fn take(&mut self, at_ns: u64, totals: &[(K, T)]) {
        if self.last_ns == 0 {
            self.last_ns = at_ns.saturating_sub(FIRST_NS);
        }
        while self.recent.front().is_some_and(|(then, _)| at_ns.saturating_sub(*then) > self.length_ns - SLACK_NS) {
            self.since_ns = self.recent.pop_front().map_or(0, |(then, _)| then);
        }
        if self.recent.is_empty() {
            self.since_ns = self.last_ns;
        }
        self.last_ns = at_ns;
        let mut new = Vec::new();
        for (key, total) in totals {
            // The kernel side may have had to forget it, and counts from nothing then.
            let fresh = match self.totals.get(key).filter(|before| before.count() <= total.count()) {
                Some(before) => total.since(before),
                None => total.clone(),
            };
            if fresh.count() > 0 {
                new.push((*key, fresh));
            }
        }
        let now: BTreeMap<K, T> = totals.iter().cloned().collect();
        self.forgotten += self.totals.keys().filter(|key| !now.contains_key(key)).count() as u64;
        self.totals = now;
        self.recent.push_back((at_ns, new));
    }

    /// What is gone is not forgotten where nothing is read of it any more; and what has its key now counts from nothing.
    pub fn release(&mut self, gone: impl Fn(&K, &T) -> bool) {
        self.totals.retain(|key, total| !gone(key, total));
    }

    /// Neither is what came of late of it what its key means now.
    pub fn forget(&mut self, gone: impl Fn(&K) -> bool) {
        for (_, new) in &mut self.recent {
            new.retain(|(key, _)| !gone(key));
        }
    }

    /// What came within the window, of those that are meant.
    pub fn within(&self, meant: impl Fn(&K) -> bool) -> BTreeMap<K, T> {
        sums(self.recent.iter().flat_map(|(_, new)| new).filter(|(key, _)| meant(key)))
    }

    /// … without what the last reading brought.
    pub fn settled(&self) -> BTreeMap<K, T> {
        sums(self.recent.iter().filter(|(then, _)| *then != self.last_ns).flat_map(|(_, new)| new))
    }

    /// How many keys the kernel side had no more room for, of those that were read before; since this was last asked. Means
    /// nothing where it takes keys out by itself.
    pub fn forgotten(&mut self) -> u64 {
        std::mem::take(&mut self.forgotten)
    }

    /// Of the last reading: how much that number of all keys grew.
    pub fn newest(&self, number: impl Fn(&T) -> u64) -> u64 {
        let last = self.recent.back().filter(|(then, _)| *then == self.last_ns);
        last.into_iter().flat_map(|(_, new)| new).map(|(_, fresh)| number(fresh)).fold(0, u64::saturating_add)
    }

    /// How long the window is.
    pub fn length_ns(&self) -> u64 {
        self.last_ns.saturating_sub(self.since_ns)
    }
}
fn sums<'a, K: Ord + Copy + 'a, T: Total + 'a>(all: impl Iterator<Item = &'a (K, T)>) -> BTreeMap<K, T> {
    let mut sums: BTreeMap<K, T> = BTreeMap::new();
    for (key, fresh) in all {
        sums.entry(*key).and_modify(|sum| sum.add(fresh)).or_insert_with(|| fresh.clone());
    }
    sums
}
