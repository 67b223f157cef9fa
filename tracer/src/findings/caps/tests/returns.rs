//! Where calls return too fast to look at each of them.

use super::*;

impl Bench {
    /// What is asked about the returns of calls at that moment.
    fn asks(&mut self, now_ns: u64, work: impl FnOnce(&mut Rule, &World, &mut Vec<Output>)) -> Vec<bool> {
        self.out.clear();
        self.with(now_ns, work);
        let asks = self.out.iter().filter_map(|output| match output {
            Output::Ask(Question::Caps(Ask::Returns(seen))) => Some(*seen),
            _ => None,
        });
        asks.collect()
    }

    fn busy(&mut self, now_ns: u64) -> Vec<bool> {
        let mut busy = Busy::zeroed();
        busy.header = fixture::header::<Busy>(now_ns, u64::MAX);
        self.asks(now_ns, |rule, world, out| rule.event(&Event::CapBusy(busy), world, out))
    }

    fn tick(&mut self, now_ns: u64) -> Vec<bool> {
        self.asks(now_ns, |rule, _, out| rule.tick(now_ns, out))
    }

    fn answered(&mut self, seen: bool, at_ns: u64, why: Option<&str>) {
        let reading = Reading::Returns { seen, at_ns, why: why.map(str::to_owned) };
        self.with(at_ns, |rule, world, out| rule.reading(&reading, at_ns, world, out));
    }

    fn results(&mut self) -> Option<String> {
        self.report().unknown.remove("results")
    }
}

const MS: u64 = 1_000_000;
const NOTHING: [bool; 0] = [];

#[test]
fn they_rest_and_that_is_said() {
    let mut bench = Bench::new();
    assert_eq!(bench.tick(T), NOTHING);
    assert_eq!(bench.busy(T + SECOND), [false]);
    bench.answered(false, T + SECOND, None);
    assert_eq!(bench.busy(T + SECOND + MS), NOTHING, "another CPU says the same");
    assert_eq!(bench.rule.next_ns(), Some(T + SECOND + 300 * MS));
    assert_eq!(bench.tick(T + SECOND + 299 * MS), NOTHING);
    assert_eq!(bench.tick(T + SECOND + 300 * MS), [true]);
    assert_eq!(bench.rule.next_ns(), None, "it is asked once");
    bench.answered(true, T + SECOND + 310 * MS, None);
    assert_eq!(bench.busy(T + 2 * SECOND), [false], "they come too fast again");
    bench.answered(false, T + 9 * SECOND, None);
    let why = bench.results().expect("not all was seen");
    assert!(why.contains("for 1.3 s of 10.0 s") && why.contains("a CPU had more than 600,000"), "{why}");
}

#[test]
fn where_all_is_seen_nothing_is_said_and_nobody_is_asked_where_nothing_is_watched() {
    assert_eq!(Bench::new().results(), None);
    let mut bench = Bench::new();
    bench.rule.watched.clear();
    assert_eq!(bench.busy(T), NOTHING);
}

#[test]
fn what_cannot_be_looked_at_again_is_said_with_its_reason() {
    let mut bench = Bench::new();
    bench.answered(false, T + SECOND, None);
    assert_eq!(bench.tick(T + 2 * SECOND), [true]);
    bench.answered(false, T + 2 * SECOND, Some("no memory"));
    assert_eq!(bench.rule.next_ns(), None);
    let why = bench.results().expect("not all was seen");
    assert!(why.contains("for 9.0 s of 10.0 s") && why.contains("no memory"), "{why}");
}

/// What its own end and its own start leave of a rest.
#[test]
fn a_rest_before_it_was_watched_or_after_it_ended_is_not_its_own() {
    let mut bench = Bench::new();
    bench.answered(false, T - SECOND, None);
    bench.answered(true, T + SECOND, None);
    bench.rule.watched.values_mut().for_each(|watched| watched.ended_ns = Some(T + 4 * SECOND));
    bench.answered(false, T + 3 * SECOND, None);
    bench.answered(true, T + 6 * SECOND, None);
    let why = bench.results().expect("not all was seen");
    assert!(why.contains("for 2.0 s of 4.0 s"), "{why}");
}

/// A recording that begins while they rest says the same at its end.
#[test]
fn a_recording_begins_while_they_rest() {
    let mut bench = Bench::new();
    bench.answered(false, T + SECOND, None);
    let so_far = bench.rule.so_far().expect("one is watched");
    let mut later = Bench::new();
    later.with(T, |rule, _, _| rule.resume(&so_far));
    for each in [&mut bench, &mut later] {
        each.answered(true, T + 2 * SECOND, None);
        let why = each.results().expect("not all was seen");
        assert!(why.contains("for 1.0 s of 10.0 s"), "{why}");
    }
}
