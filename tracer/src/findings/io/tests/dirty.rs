//! Pauses of buffered writers.

use super::*;

#[test]
fn a_tenth_of_a_second_in_two_is_told_with_whom_and_why() {
    let mut bench = Bench::new(2);
    assert!(bench.paused(0, vec![pauses(42, 8, 60)]).is_empty());
    let found = bench.paused(1, vec![pauses(42, 12, 90), pauses(43, 1, 12)]);
    assert_eq!(codes(&found), [("io.dirty-throttled", State::Open)]);
    let evidence = &found[0].evidence;
    assert_eq!(evidence["pauses"], 13);
    assert_eq!(evidence["total_ns"], 102_000_000);
    assert_eq!(evidence["worst_call_ns"], 90_000_000);
    assert_eq!(evidence["histogram"], serde_json::json!([{"below_ns": 8_000_000, "count": 13}]));
    assert_eq!(evidence["domain"], "memcg");
    assert_eq!(evidence["inferred"], false);
    assert_eq!(evidence["dirty_bytes"], 90 * 4096);
    assert_eq!(evidence["limit_bytes"], 100 * 4096);
    assert_eq!(evidence["device"], "sda");
    assert!(evidence["written_bytes_per_s"].is_null() && found[0].unknown.contains_key("written_bytes_per_s"));
    assert_eq!(evidence["bandwidth_bytes_per_s"], MIB);
    assert_eq!(evidence["processes"][0]["process"]["pid"], 42);
    assert_eq!(found[0].process.as_ref().map(|process| process.pid), Some(42));
    assert_eq!(found[0].container.as_ref().map(|container| container.cgroup.as_str()), Some(WEB));
    assert!(found[0].fix[0].contains("leave room for page cache"), "{:?}", found[0].fix);
    // Nothing more comes, and it is over.
    for second in 2..6 {
        assert!(bench.paused(second, vec![pauses(42, 12, 90), pauses(43, 1, 12)]).is_empty());
    }
    let closed = bench.paused(6, vec![pauses(42, 12, 90), pauses(43, 1, 12)]);
    assert_eq!(codes(&closed), [("io.dirty-throttled", State::Closed)]);
}

#[test]
fn few_short_pauses_and_those_of_another_are_silent() {
    let mut bench = Bench::new(2);
    for second in 0..10 {
        // 49 ms a second, for ever.
        assert!(bench.paused(second, vec![pauses(42, second + 1, 49 * (second + 1))]).is_empty());
    }
    let mut bench = Bench::new(2);
    let mut others = pauses(42, 10, 900);
    others.0.cgroup = OTHER_CGROUP;
    let found = bench.paused(0, vec![others]);
    assert_ne!(found[0].container.as_ref().map(|container| container.cgroup.as_str()), Some(WEB));
    let mut unknown = pauses(42, 10, 900);
    unknown.0.cgroup = 4711;
    assert!(Bench::new(2).paused(0, vec![unknown]).is_empty());
}

#[test]
fn whose_dirty_limit_it_was() {
    let domain = |version: u8, change: &dyn Fn(&mut Control)| {
        let mut paused = pauses(42, 10, 900);
        change(&mut paused.1.last);
        let found = Bench::new(version).paused(0, vec![paused]);
        (found[0].evidence["domain"].as_str().map(str::to_owned), found[0].evidence["inferred"] == true)
    };
    let named = |name: &str, inferred| (Some(name.to_owned()), inferred);
    assert_eq!(domain(2, &|_| ()), named("memcg", false));
    assert_eq!(domain(2, &|last| last.in_memcg = Some(false)), named("host", false));
    // Older kernels do not say: by size, against the host's 100,000 pages.
    assert_eq!(domain(2, &|last| last.in_memcg = None), named("memcg", true));
    let like_the_hosts = |last: &mut Control| {
        (last.in_memcg, last.dirty, last.threshold, last.background) = (None, 99_000, 100_000, 50_000);
    };
    assert_eq!(domain(2, &like_the_hosts), named("host", true));
    assert_eq!(domain(1, &|last| last.in_memcg = None), named("host", false));
    // Below the middle of both thresholds only a device's own share can be the cause.
    assert_eq!(domain(2, &|last| last.dirty = 74), named("device", true));
    assert_eq!(domain(2, &|last| last.dirty = 75), named("memcg", false));
}
