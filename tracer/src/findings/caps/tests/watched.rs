//! What is seen of a container from its start to its end, and what a recording or another observation adds.

use super::*;

/// Watched from its start it has the runtime's sets at first, which are all: what it runs with is told once, when its own
/// program has started.
#[test]
fn what_the_runtime_has_is_not_the_containers() {
    let privileged = |bench: &mut Bench| {
        let finding = Finding {
            code: Code("caps.privileged"),
            severity: Severity::Warning,
            id: "caps.privileged:web".to_owned(),
            state: None,
            time: Timestamp(0),
            container: None,
            process: None,
            summary: String::new(),
            evidence: serde_json::Map::new(),
            why: String::new(),
            fix: Vec::new(),
            refers_to: None,
            unknown: Unknown::new(),
        };
        let sets = Sets { findings: vec![finding], ..Sets::default() };
        let reading = Reading::Sets(WEB.to_owned(), Some(Box::new(sets)));
        bench.with(T, |rule, world, out| rule.reading(&reading, T, world, out));
        bench.findings("caps.privileged").len()
    };
    let mut bench = Bench { rule: Rule::default(), ..Bench::new() };
    bench.watch(false);
    assert_eq!(privileged(&mut bench), 0);
    bench.start();
    assert_eq!(privileged(&mut bench), 1);
    assert_eq!(privileged(&mut bench), 1);
    let mut ran = Bench { rule: Rule::default(), ..Bench::new() };
    let container = ran.containers.owner(WEB_CGROUP).expect("the fixture's");
    let reading = Reading::Watching { container, since_ns: T, ran: true };
    ran.with(T, |rule, world, out| rule.reading(&reading, T, world, out));
    assert_eq!(privileged(&mut ran), 1);
}

#[test]
fn its_start_and_its_end_are_seen() {
    let fixture::Host { containers, facts } = fixture::Host::new();
    let mut bench = Bench { rule: Rule::default(), containers, facts, out: Vec::new(), totals: Totals::default() };
    // The name, and with it that this one is meant, may come after the start.
    bench.start();
    bench.watch(false);
    bench.asked(Bench::key(Capability::CAP_CHOWN, "fchownat", 0));
    let mut rmdir = Rmdir::zeroed();
    rmdir.header = Header { kind: Kind::CgroupRmdir as u32, size: 24, time_ns: T + 4 * SECOND, cgroup: WEB_CGROUP };
    bench.with(T + 4 * SECOND, |rule, world, out| rule.event(&Event::CgroupRmdir(rmdir), world, out));
    let report = bench.report();
    assert_eq!((report.startup_seen, report.ended, report.watched_ns), (true, true, 4 * SECOND));
    assert_eq!(report.not_exercised, ["reload", "restart"]);
    assert!(report.unknown.contains_key("results"), "no hook on the returns");
}

#[test]
fn one_whose_end_was_missed_has_ended() {
    let mut bench = Bench::new();
    bench.containers.rmdir(WEB_CGROUP, T + 3 * SECOND);
    let report = bench.report();
    assert_eq!((report.ended, report.watched_ns), (true, 10 * SECOND), "it is gone since the last look at the latest");
}

#[test]
fn merging_unites_and_takes_away_what_was_used_elsewhere() {
    let mut one = Bench::new();
    one.asked(Bench::key(Capability::CAP_CHOWN, "fchownat", 0));
    let mut other = Bench::new();
    other.asked(Bench::key(Capability::CAP_NET_RAW, "socket", 0));
    other.asked(Bench::key(Capability::CAP_CHOWN, "fchownat", how::DENIED));
    other.came("fchownat", &[Capability::CAP_CHOWN], &[], -1);
    let (one, other) = (one.report(), other.report());
    assert_eq!(other.denied, ["CAP_CHOWN"]);
    // As they come from files.
    let read = |report: &Report| serde_json::from_str(&serde_json::to_string(report).expect("plain")).expect("its own");
    let all = merge(vec![read(&one), read(&other)]).expect("two");
    assert_eq!(all.needed, ["CAP_CHOWN", "CAP_NET_RAW"]);
    assert_eq!((all.denied.len(), all.observations, all.watched_ns), (0, 2, 20 * SECOND));
    assert_eq!(all.unused, ["CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"]);
    assert_eq!(all.container, one.container);
    assert_eq!(merge(Vec::new()), None);
}

/// The ring was full, or the container's share of it used up: what is counted all the same was asked for.
#[test]
fn a_check_whose_record_was_lost_is_needed_all_the_same() {
    let mut bench = Bench::new();
    bench.totals.checks.push((Bench::key(Capability::CAP_CHOWN, "fchownat", 0), 3));
    bench.totals.outcomes.push((
        OutcomeKey {
            cgroup: WEB_CGROUP,
            image: 7,
            denied: 0,
            granted: 0,
            syscall: call("keyctl"),
            result: -1,
            origin: Origin::Application as u32,
            reserved: 0,
        },
        2,
    ));
    let report = bench.report();
    assert_eq!(report.needed, ["CAP_CHOWN"]);
    let row = &report.evidence[0];
    assert_eq!((&row.comm, row.pid, row.count), (&None, None, 3));
    assert!(report.unknown.contains_key("comm"), "{:?}", report.unknown);
    assert_eq!((report.not_a_capability[0].count, &report.not_a_capability[0].comm), (2, &None));
}

/// A build server runs a thousand programs, each of them asks in passing; the last one's need is in the set.
#[test]
fn a_need_is_in_the_set_however_many_kinds_there_are() {
    let mut bench = Bench::new();
    for program in 0..700 {
        let mut check = Check::zeroed();
        check.header = fixture::header::<Check>(T, WEB_CGROUP);
        check.task = web_task(501, &format!("cc{program}"));
        check.key = CheckKey { image: program, ..Bench::key(Capability::CAP_SYS_ADMIN, "mmap", how::QUIET) };
        bench.with(T, |rule, world, out| rule.event(&Event::CapCheck(Box::new(check)), world, out));
    }
    bench.asked(CheckKey { image: 9999, ..Bench::key(Capability::CAP_CHOWN, "fchownat", 0) });
    let report = bench.report();
    assert_eq!((&report.needed, &report.probed), (&vec!["CAP_CHOWN".to_owned()], &vec!["CAP_SYS_ADMIN".to_owned()]));
    assert_eq!((report.evidence.len(), report.left_off), (500, 201), "and that rows are left off is said");
    assert_eq!(report.evidence[0].verdict, "needed");
}

/// A container that is started again and again for hours: what its first cgroup asked for is not forgotten with it.
#[test]
fn what_a_cgroup_that_is_long_gone_asked_for_counts() {
    let mut bench = Bench::new();
    bench.asked(Bench::key(Capability::CAP_CHOWN, "fchownat", 0));
    bench.containers.rmdir(WEB_CGROUP, T);
    bench.containers.expire(T + 3600 * SECOND);
    assert!(bench.containers.owner(WEB_CGROUP).is_none(), "even its tomb is gone");
    assert_eq!(bench.report().needed, ["CAP_CHOWN"]);
}

#[test]
fn nothing_seen_is_no_finding() {
    let mut bench = Bench::new();
    let report = bench.report();
    assert!(report.evidence.is_empty() && report.unused.len() == 4);
    assert!(bench.findings("caps.unused").is_empty(), "a watch that saw nothing says nothing");
}

/// Where a recording begins in the middle of a watch it says what goes on to be said, with the same numbers.
#[test]
fn a_recording_begins_in_the_middle() {
    let mut bench = Bench::new();
    bench.start();
    bench.asked(Bench::key(Capability::CAP_CHOWN, "chown", 0));
    bench.asked(Bench::key(Capability::CAP_KILL, "kill", how::DENIED));
    bench.came("kill", &[Capability::CAP_KILL], &[], -1);
    let names = [(OVERCOMMIT, "__vm_enough_memory".to_owned())].into();
    bench.with(T, |rule, world, out| rule.reading(&Reading::Symbols(Ok(names)), T, world, out));
    let so_far = bench.rule.so_far().expect("one is watched");
    let line = serde_json::to_string(&so_far).expect("JSON");
    let mut other = Bench { rule: Rule::default(), ..Bench::new() };
    assert!(other.rule.so_far().is_none(), "nobody is watched");
    let reading = Reading::SoFar(Box::new(serde_json::from_str(&line).expect("what was written")));
    other.with(T, |rule, world, out| rule.reading(&reading, T, world, out));
    other.totals = bench.totals.clone();
    let mut said = Vec::new();
    for bench in [&mut bench, &mut other] {
        bench.out.clear();
        // Told already; another one is told with the next number.
        bench.came("kill", &[Capability::CAP_KILL], &[], -1);
        bench.came("mount", &[Capability::CAP_SYS_ADMIN], &[], -1);
        bench.asked(Bench::key(Capability::CAP_NET_RAW, "socket", 0));
        let totals = Reading::Totals(Totals { checks: bench.totals.checks.clone(), ..Totals::default() });
        bench.with(T + SECOND, |rule, world, out| rule.reading(&totals, T + SECOND, world, out));
        bench.with(T + SECOND, |rule, _, out| rule.finish(T + SECOND, out));
        let totals = Reading::Totals(bench.totals.clone());
        bench.with(T + SECOND, |rule, world, out| rule.reading(&totals, T + SECOND, world, out));
        bench.with(T + SECOND, |rule, world, out| rule.reading(&Reading::Symbols(Ok(HashMap::new())), T, world, out));
        said.push(std::mem::take(&mut bench.out));
    }
    assert!(said[0].iter().any(|output| matches!(output, Output::Caps(report) if report.needed.len() == 2)));
    let denied = said[0].iter().filter(|output| matches!(output, Output::Finding(own) if own.code.0 == "caps.denied"));
    assert_eq!(denied.count(), 1, "that of mount");
    assert_eq!(said[0], said[1]);
}
