use tracer_common::stall::{HIGH, HOST, LIMIT, StallKey};

use super::*;
use crate::{
    findings::fixture::{self, Host, OTHER_CGROUP, PARENT, SECOND, T, WEB, WEB_CGROUP},
    model::{Process, State},
    pipeline::SampleRow,
};

const MIB: u64 = 1 << 20;

/// The lens in a world of one pod with one container.
struct Bench {
    rule: Rule,
    host: Host,
}

impl Bench {
    fn new() -> Self {
        let mut host = Host::new();
        host.facts.attached = vec!["reclaim_begin", "reclaim_end", "over_high_begin", "over_high_end"];
        Self { rule: Rule::default(), host }
    }

    fn read(&mut self, second: u64, levels: &[(&str, Level)], stalls: Vec<(StallKey, StallTotal)>) -> Vec<Output> {
        let levels = levels.iter().map(|(path, level)| ((*path).into(), level.clone())).collect();
        let at_ns = T + second * SECOND;
        let reading = Reading { at_ns, levels, stalls, swap_total: Some(0), swap_free: Some(0), ..Reading::default() };
        let mut out = Vec::new();
        self.rule.reading(&reading, at_ns, &self.host.world(), &mut out);
        out
    }

    fn findings(&mut self, second: u64, levels: &[(&str, Level)]) -> Vec<Finding> {
        findings(self.read(second, levels, Vec::new()))
    }

    fn stalled(&mut self, second: u64, stalls: Vec<(StallKey, StallTotal)>) -> Vec<Finding> {
        findings(self.read(second, &[(WEB, level(50, 100, 10, 20))], stalls))
    }
}

fn findings(out: Vec<Output>) -> Vec<Finding> {
    let finding = |output| if let Output::Finding(finding) = output { Some(*finding) } else { None };
    out.into_iter().filter_map(finding).collect()
}

fn sample(out: Vec<Output>, path: &str) -> SampleRow {
    let row = |output| if let Output::Sample(row) = output { Some(*row) } else { None };
    out.into_iter().filter_map(row).find(|row| row.cgroup.as_deref() == Some(path)).expect("a sample")
}

fn codes(findings: &[Finding]) -> Vec<(&'static str, State)> {
    findings.iter().map(|finding| (finding.code.0, finding.state.expect("a state"))).collect()
}

/// In MiB: usage, limit, anonymous memory, file cache (clean, a quarter of it active).
fn level(usage: u64, limit: u64, anon: u64, cache: u64) -> Level {
    let stat = Stat {
        anon: Some(anon * MIB),
        file: Some(cache * MIB),
        shmem: Some(0),
        active_file: Some(cache * MIB / 4),
        inactive_file: Some(cache * MIB * 3 / 4),
        dirty: Some(0),
        writeback: Some(0),
        ..Stat::default()
    };
    Level { usage: Some(usage * MIB), limit: Some(limit * MIB), stat, ..Level::default() }
}

fn stall(cgroup: u64, pid: u32, kind: u32, count: u64, ms: u64) -> (StallKey, StallTotal) {
    let who = Process { pid, tid: pid, ns_pid: Some(7), ppid: Some(1), comm: "java".to_owned(), uid: Some(0) };
    let total = StallTotal { who: Some(who), count, total_ns: ms * 1_000_000, worst_ns: ms * 1_000_000 / count.max(1) };
    (StallKey { cgroup, tgid: pid, kind }, total)
}

#[test]
fn full_of_cache_is_no_leak() {
    let mut bench = Bench::new();
    let found = bench.findings(0, &[(WEB, level(95, 100, 15, 80))]);
    assert_eq!(codes(&found), [("mem.page-cache", State::Open)]);
    assert_eq!(
        found[0].summary,
        "memory is at 95 % of its limit of 100.0 MiB, and 80.0 MiB of it is page cache: not a leak"
    );
    assert_eq!(found[0].evidence["working_set_bytes"], 35 * MIB);
    assert_eq!(found[0].evidence["unreclaimable_bytes"], 15 * MIB);
    // It stays so, and then memory is given back.
    assert!(bench.findings(3, &[(WEB, level(96, 100, 10, 80))]).is_empty());
    assert!(bench.findings(6, &[(WEB, level(20, 100, 10, 8))]).is_empty());
    let closed = bench.findings(9, &[(WEB, level(20, 100, 10, 8))]);
    assert_eq!(codes(&closed), [("mem.page-cache", State::Closed)]);
    assert_eq!(closed[0].id, found[0].id);
}

#[test]
fn what_is_not_full_or_not_cache_is_silent() {
    let quiet = |level: Level| Bench::new().findings(0, &[(WEB, level)]).is_empty();
    assert!(quiet(level(89, 100, 5, 80)), "room is left");
    assert!(quiet(level(92, 100, 45, 44)), "less than half is cache");
    let mut dirty = level(92, 100, 20, 60);
    dirty.stat.dirty = Some(20 * MIB);
    assert!(quiet(dirty), "what is dirty can't be dropped at once");
    assert!(quiet(level(79, 100, 79, 0)), "anonymous, and below 80 %");
    let mut late = level(95, 100, 20, 0);
    late.stat.file = Some(0);
    assert!(quiet(late), "memory.stat is late");
    assert!(quiet(Level { limit: None, ..level(900, 1, 900, 0) }), "no limit");
}

#[test]
fn near_the_limit_is_what_cannot_be_reclaimed() {
    let found = Bench::new().findings(0, &[(WEB, level(85, 100, 80, 5))]);
    assert_eq!(codes(&found), [("mem.near-limit", State::Open)]);
    assert_eq!(found[0].summary, "80.0 MiB of its limit of 100.0 MiB can't be reclaimed (80 %)");
    assert!(found[0].unknown.contains_key("time_to_limit_ns"));
    assert!(Bench::new().findings(0, &[(WEB, level(85, 100, 79, 6))]).is_empty(), "a little more can be reclaimed");
    // With room in swap, and swapping allowed, anonymous memory can go.
    let mut bench = Bench::new();
    let mut reading = Reading { at_ns: T, swap_free: Some(50 * MIB), ..Reading::default() };
    reading.levels.insert(WEB.into(), level(85, 100, 80, 5));
    let mut out = Vec::new();
    bench.rule.reading(&reading, T, &bench.host.world(), &mut out);
    assert!(findings(std::mem::take(&mut out)).is_empty());
    reading.levels.insert(WEB.into(), Level { swappiness: Some(0), ..level(85, 100, 80, 5) });
    bench.rule.reading(&reading, T + SECOND, &bench.host.world(), &mut out);
    assert_eq!(codes(&findings(out)), [("mem.near-limit", State::Open)]);
}

#[test]
fn the_level_with_the_least_room_binds() {
    let mut bench = Bench::new();
    let found = bench.findings(0, &[(WEB, level(60, 100, 60, 0)), (PARENT, level(65, 70, 62, 0))]);
    assert_eq!(codes(&found), [("mem.near-limit", State::Open)]);
    assert_eq!(found[0].evidence["limiting_cgroup"], PARENT);
    assert_eq!(found[0].evidence["cgroup"], WEB);
    assert_eq!(found[0].container.as_ref().map(|container| container.cgroup.as_str()), Some(WEB));
    assert!(found[0].summary.contains("the limit of its parent /pods"), "{}", found[0].summary);
}

#[test]
fn the_forecast_is_of_anonymous_memory_alone() {
    let mut bench = Bench::new();
    // Two MiB a second of anonymous memory, and cache that comes much faster.
    let at = |second: u64| level(10 + 12 * second, 200, 10 + 2 * second, 10 * second);
    for second in 0..4 {
        let row = sample(bench.read(second, &[(WEB, at(second))], Vec::new()), WEB);
        assert!(row.fields["time_to_limit_ns"].is_null() && row.unknown.contains_key("time_to_limit_ns"));
    }
    let row = sample(bench.read(4, &[(WEB, at(4))], Vec::new()), WEB);
    assert_eq!(row.fields["anon_growth_bytes_per_s"], 2 * MIB);
    // 18 MiB of 200 are held.
    assert_eq!(row.fields["time_to_limit_ns"], 91 * SECOND);
    let mut shrinking = Bench::new();
    for second in 0..6 {
        let row = sample(shrinking.read(second, &[(WEB, level(90 - second, 200, 90 - second, 0))], Vec::new()), WEB);
        assert!(row.fields["time_to_limit_ns"].is_null());
    }
}

#[test]
fn stalls_of_a_tenth_of_the_time_are_told_with_their_process() {
    let mut bench = Bench::new();
    assert!(bench.stalled(0, vec![stall(WEB_CGROUP, 42, LIMIT, 10, 90)]).is_empty());
    let found = bench.stalled(1, vec![stall(WEB_CGROUP, 42, LIMIT, 25, 190), stall(WEB_CGROUP, 43, LIMIT, 1, 15)]);
    assert_eq!(codes(&found), [("mem.reclaim-stall", State::Open)]);
    let evidence = &found[0].evidence;
    assert_eq!(evidence["stalled_ns"], 205_000_000);
    assert_eq!(evidence["stalls"], 26);
    assert_eq!(evidence["window_ns"], 2 * SECOND);
    assert_eq!(evidence["processes"][0]["process"]["pid"], 42);
    assert_eq!(evidence["processes"][1]["stalled_ns"], 15_000_000);
    assert_eq!(found[0].process.as_ref().map(|process| process.pid), Some(42));
    assert!(
        found[0].summary.starts_with("its tasks spent 205 ms of 2.0 s in reclaim, at its own limit"),
        "{}",
        found[0].summary
    );
}

#[test]
fn little_or_slow_stalls_and_those_of_others_are_silent() {
    let mut bench = Bench::new();
    for second in 0..10 {
        // 99 ms a second, for ever.
        let total = stall(WEB_CGROUP, 42, LIMIT, second + 1, 99 * (second + 1));
        assert!(bench.stalled(second, vec![total]).is_empty());
    }
    let mut bench = Bench::new();
    assert!(bench.stalled(0, vec![stall(OTHER_CGROUP, 42, LIMIT, 1, 900)]).is_empty(), "another container's");
    assert!(Bench::new().stalled(0, vec![stall(77, 42, LIMIT, 1, 900)]).is_empty(), "an unknown cgroup's");
    // What was before the window does not count for ever.
    let mut bench = Bench::new();
    let old = vec![stall(WEB_CGROUP, 42, LIMIT, 5, 190)];
    bench.stalled(0, old.clone());
    bench.stalled(1, old.clone());
    bench.stalled(2, old.clone());
    let more = vec![stall(WEB_CGROUP, 42, LIMIT, 6, 300)];
    assert!(bench.stalled(3, more).is_empty());
}

#[test]
fn a_host_that_is_short_is_another_cause() {
    let found = Bench::new().stalled(0, vec![stall(WEB_CGROUP, 42, HOST, 3, 300), stall(WEB_CGROUP, 42, LIMIT, 1, 50)]);
    assert_eq!(codes(&found), [("mem.reclaim-stall", State::Open)]);
    assert_eq!(found[0].evidence["host_stalled_ns"], 300_000_000);
    assert!(found[0].summary.contains("the host is short of memory"), "{}", found[0].summary);
}

#[test]
fn a_process_that_the_kernel_side_forgot_counts_from_nothing() {
    let mut bench = Bench::new();
    bench.stalled(0, vec![stall(WEB_CGROUP, 42, LIMIT, 100, 5_000)]);
    for second in 1..9 {
        bench.stalled(second, vec![stall(WEB_CGROUP, 42, LIMIT, 100, 5_000)]);
    }
    let found = bench.stalled(9, vec![stall(WEB_CGROUP, 42, LIMIT, 4, 250)]);
    assert_eq!(codes(&found), [("mem.reclaim-stall", State::Open)]);
    assert_eq!(found[0].evidence["stalled_ns"], 250_000_000);
}

#[test]
fn held_at_high_by_time_or_where_no_hook_is_by_count() {
    let at = |events| Level { high: Some(16 * MIB), high_events: Some(events), limit: None, ..level(17, 1, 15, 0) };
    let mut bench = Bench::new();
    assert!(bench.findings(0, &[(WEB, at(5))]).is_empty());
    assert!(bench.findings(1, &[(WEB, at(9))]).is_empty(), "counted, but no time lost");
    let held = bench.read(2, &[(WEB, at(12))], vec![stall(WEB_CGROUP, 42, HIGH, 2, 400)]);
    let found = findings(held);
    assert_eq!(codes(&found), [("mem.high-stall", State::Open)]);
    assert_eq!(found[0].evidence["high_bytes"], 16 * MIB);
    assert_eq!(found[0].evidence["high_events"], 7);
    assert_eq!(found[0].evidence["stalled_ns"], 400_000_000);
    let mut bench = Bench::new();
    bench.host.facts.attached.retain(|probe| !probe.starts_with("over_high"));
    assert!(bench.findings(0, &[(WEB, at(5))]).is_empty());
    assert!(bench.findings(1, &[(WEB, at(5))]).is_empty());
    let found = bench.findings(2, &[(WEB, at(6))]);
    assert_eq!(codes(&found), [("mem.high-stall", State::Open)]);
    assert!(found[0].evidence["stalled_ns"].is_null() && found[0].unknown.contains_key("stalled_ns"));
}

#[test]
fn what_could_not_be_read_at_first_is_counted_from_then_on() {
    let at = |events| Level { high: Some(16 * MIB), high_events: events, limit: None, ..level(17, 1, 15, 0) };
    let mut bench = Bench::new();
    bench.findings(0, &[(WEB, at(None))]);
    bench.findings(1, &[(WEB, at(Some(5)))]);
    let found = findings(bench.read(2, &[(WEB, at(Some(12)))], vec![stall(WEB_CGROUP, 42, HIGH, 2, 400)]));
    assert_eq!(codes(&found), [("mem.high-stall", State::Open)]);
    assert_eq!(found[0].evidence["high_events"], 7);
    let mut bench = Bench::new();
    bench.findings(1, &[(WEB, at(None))]);
    let found = findings(bench.read(2, &[(WEB, at(Some(12)))], vec![stall(WEB_CGROUP, 42, HIGH, 2, 400)]));
    assert!(found[0].evidence["high_events"].is_null(), "it was read once");
}

#[test]
fn swapping_is_a_mebibyte_within_the_window() {
    let at = |swap: u64, out: Option<u64>, back: u64| {
        let mut level = Level { swap: Some(swap), ..level(50, 100, 40, 0) };
        (level.stat.swap_out, level.stat.refault_anon) = (out, Some(back));
        level
    };
    // By growth of swap usage, where pages are not counted.
    let mut bench = Bench::new();
    assert!(bench.findings(0, &[(WEB, at(10 * MIB, None, 0))]).is_empty(), "from before attach");
    assert!(bench.findings(1, &[(WEB, at(11 * MIB - 4096, None, 0))]).is_empty());
    let found = bench.findings(2, &[(WEB, at(11 * MIB, None, 0))]);
    assert_eq!(codes(&found), [("mem.swapping", State::Open)]);
    assert_eq!(found[0].evidence["swap_out_bytes_per_s"], MIB / 2);
    // By pages, in and out together: half a MiB each way.
    let mut bench = Bench::new();
    bench.findings(0, &[(WEB, at(0, Some(1000), 1000))]);
    assert!(bench.findings(1, &[(WEB, at(0, Some(1127), 1128))]).is_empty());
    assert_eq!(codes(&bench.findings(2, &[(WEB, at(0, Some(1128), 1128))])), [("mem.swapping", State::Open)]);
}

#[test]
fn a_machine_without_swap_is_told_in_the_row() {
    let swap_column = |swap_total| {
        let mut bench = Bench::new();
        let levels = [(WEB.into(), Level { swap: Some(0), ..level(50, 100, 40, 0) })].into();
        let mut out = Vec::new();
        let reading = Reading { at_ns: T, levels, swap_total, ..Reading::default() };
        bench.rule.reading(&reading, T, &bench.host.world(), &mut out);
        let row = sample(out, WEB);
        assert_eq!(row.fields["swap_total_bytes"].as_u64(), swap_total);
        assert_eq!(row.unknown.contains_key("swap_total_bytes"), swap_total.is_none());
        (crate::views::mem::TABLE.line)(&row).numbers[7].clone()
    };
    assert_eq!([Some(0), Some(MIB), None].map(swap_column), ["none", "0", "0"]);
}

#[test]
fn a_cgroup_that_was_just_made_counts_from_nothing() {
    use bytemuck::Zeroable;
    use tracer_common::cgroup::Mkdir;
    let mut bench = Bench::new();
    let mut mkdir = Mkdir::zeroed();
    mkdir.header = fixture::header::<Mkdir>(T, WEB_CGROUP);
    bench.rule.event(&Event::CgroupMkdir(Box::new(mkdir)));
    let found = bench.findings(1, &[(WEB, Level { swap: Some(2 * MIB), ..level(50, 100, 40, 0) })]);
    assert_eq!(codes(&found), [("mem.swapping", State::Open)]);
}

#[test]
fn a_reading_that_comes_late_tells_of_a_longer_time() {
    let at = |events| Level { high: Some(16 * MIB), high_events: Some(events), limit: None, ..level(17, 1, 15, 0) };
    let mut bench = Bench::new();
    bench.findings(0, &[(WEB, at(5))]);
    let out = bench.read(7, &[(WEB, at(12))], vec![stall(WEB_CGROUP, 42, HIGH, 2, 400)]);
    assert_eq!(findings(out)[0].evidence["high_events"], 7);
}

#[test]
fn pressure_is_told_or_why_it_is_not() {
    let at = |psi: Psi| [(WEB, Level { psi, ..level(50, 100, 40, 0) })];
    let on = |some_us: u64| Psi::On { some_us, full_us: 0 };
    let second = |first: Psi, then: Psi| {
        let mut bench = Bench::new();
        bench.read(0, &at(first), vec![]);
        sample(bench.read(1, &at(then), vec![]), WEB)
    };
    assert_eq!(second(on(5_000), on(130_000)).fields["psi_some_pct"], 12.5);
    for (psi, why) in [(Psi::Off, "boot with psi=1"), (Psi::Absent, "no pressure for a cgroup")] {
        let row = second(psi, psi);
        assert!(row.fields["psi_some_pct"].is_null() && row.unknown["psi_some_pct"].contains(why), "{:?}", row.unknown);
    }
    let once = sample(Bench::new().read(0, &at(on(5_000)), vec![]), WEB);
    assert_eq!(once.unknown["psi_some_pct"], "not read twice yet");
}

#[test]
fn without_the_controller_nothing_is_known_and_nothing_told() {
    let mut bench = Bench::new();
    let out = bench.read(0, &[(WEB, Level::default())], vec![]);
    let row = sample(out, WEB);
    for key in ["usage_bytes", "anon_bytes", "limit_bytes", "working_set_bytes", "time_to_limit_ns"] {
        assert!(row.fields[key].is_null() && row.unknown.contains_key(key), "{key}: {:?}", row.unknown);
    }
    assert!(row.unknown["usage_bytes"].contains("the memory controller is off"), "{:?}", row.unknown);
    assert!(bench.findings(3, &[(WEB, Level::default())]).is_empty());
}

#[test]
fn both_versions_of_memory_stat() {
    let v2 = "anon 4096\nfile 8192\nfile_dirty 1\nkernel_stack 2\nslab_reclaimable 3\npgfault 4\npgsteal 5\nactive_file 6\ninactive_file 7\n";
    let stat = Stat::parse(v2, false);
    assert_eq!((stat.anon, stat.file, stat.dirty, stat.stack), (Some(4096), Some(8192), Some(1), Some(2)));
    assert_eq!((stat.faults, stat.reclaimed, stat.swap_in), (Some(4), Some(5), None));
    let v1 =
        "cache 1\nrss 2\ntotal_cache 8192\ntotal_rss 4096\ntotal_dirty 1\ntotal_swap 9\ntotal_pgfault 4\nbroken\nx y\n";
    let stat = Stat::parse(v1, true);
    assert_eq!((stat.anon, stat.file, stat.dirty, stat.swap), (Some(4096), Some(8192), Some(1), Some(9)));
    assert_eq!((stat.faults, stat.reclaimed, stat.slab), (Some(4), None, None));
}
