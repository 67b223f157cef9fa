//! The kernel log's OOM reports of real kernels, parsed. `fixtures/kmsg/README.md` says how they were made.

use std::{fs, path::PathBuf};

use proptest::prelude::*;
use tracer::{
    history::{
        CgroupCounts, OomReport, Reports, Source, Verdict, Witnessed, counters,
        kmsg::{self, Record},
        merge,
        report::{self, Constraint, Header},
    },
    model::{Runtime, Timestamp},
};

const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "7.3"];

fn fixture(kernel: &str, file: &str) -> Option<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kmsg").join(kernel).join(file);
    fs::read_to_string(path).ok()
}

fn records(kernel: &str, scenario: &str) -> Vec<Record> {
    kmsg::parse_dump(&fixture(kernel, &format!("{scenario}.kmsg")).unwrap_or_default())
}

fn parsed(kernel: &str, scenario: &str) -> Reports {
    report::reports(&records(kernel, scenario))
}

fn only(reports: Reports) -> OomReport {
    assert_eq!(reports.reports.len(), 1, "{reports:#?}");
    reports.reports.into_iter().next().unwrap()
}

/// `# /a/memory.events` before each file's text.
fn counted(kernel: &str, scenario: &str) -> Vec<CgroupCounts> {
    let text = fixture(kernel, &format!("{scenario}.events")).unwrap_or_default();
    let mut counts: Vec<CgroupCounts> = Vec::new();
    for part in text.split("# ").skip(1) {
        let (path, events) = part.split_once('\n').unwrap();
        let (cgroup, file) = path.rsplit_once('/').unwrap();
        if counts.last().is_none_or(|last| last.cgroup != cgroup) {
            counts.push(CgroupCounts { cgroup: cgroup.to_owned(), ..CgroupCounts::default() });
        }
        let last = counts.last_mut().unwrap();
        let events = Some(counters::parse_events(events));
        if file == "memory.events" { last.subtree = events } else { last.local = events }
    }
    counts
}

fn snapshot(kernel: &str) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kmsg").join(kernel);
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "kmsg"));
    files.sort();
    let all: serde_json::Map<String, serde_json::Value> = files
        .iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let reports = serde_json::to_value(parsed(kernel, &name)).unwrap();
            (name, reports)
        })
        .collect();
    insta::assert_json_snapshot!(format!("kmsg-{kernel}"), all);
}

#[test]
fn every_fixture_parses_to_what_it_did() {
    for kernel in KERNELS.into_iter().chain(["v1"]) {
        snapshot(kernel);
    }
}

#[test]
fn a_kill_at_the_own_limit_has_all_its_numbers() {
    for kernel in KERNELS {
        let report = only(parsed(kernel, "own"));
        assert_eq!(report.header, Header::Whole);
        assert_eq!(report.constraint, Some(Constraint::Memcg));
        assert_eq!((report.oom_memcg.as_deref(), report.task_memcg.as_deref()), (Some("/own"), Some("/own")));
        let memory = report.memory.as_ref().unwrap();
        assert_eq!((memory.usage_bytes, memory.limit_bytes), (24 << 20, Some(24 << 20)));
        let victim = &report.victims[0];
        assert_eq!(report.trigger_pid, Some(victim.pid));
        assert_eq!((victim.tgid, victim.shmem_bytes), (Some(victim.pid), Some(1 << 20)));
        // What the process had is most of what the cgroup had.
        let anon = report.anon_bytes().unwrap();
        assert!(victim.anon_bytes.unwrap().abs_diff(anon) < 1 << 20, "{kernel}: {victim:?} of {anon}");
        assert_eq!(report.kernel_bytes().is_some(), kernel != "5.10", "said from 5.18 on");
        assert_eq!(report.swap_bytes(), Some(0));
    }
}

#[test]
fn a_parents_limit_names_both_cgroups() {
    for kernel in KERNELS {
        let report = &parsed(kernel, "parent").reports[0];
        assert_eq!((report.oom_memcg.as_deref(), report.task_memcg.as_deref()), (Some("/pod"), Some("/pod/app")));
        assert_ne!(report.trigger_pid, Some(report.victims[0].pid), "{kernel}: the sidecar asked");
    }
}

#[test]
fn a_group_kill_is_one_report() {
    for kernel in KERNELS {
        let report = only(parsed(kernel, "group"));
        assert_eq!(report.group.as_deref(), Some("/crowd"));
        let names: Vec<_> = report.victims.iter().map(|victim| victim.comm.as_str()).collect();
        assert_eq!(names, ["hog", "hog-crowd", "hog-crowd"]);
        assert_eq!(report.counted, 4, "the kernel counts the chosen one twice");
    }
}

#[test]
fn a_hostile_name_is_a_name() {
    for kernel in KERNELS {
        let report = only(parsed(kernel, "comm"));
        let name = "a) b (\u{1b}[1m\n\\\u{fffd}";
        assert_eq!(report.victims[0].comm, name);
        assert_eq!(report.trigger_comm.as_deref(), Some(name));
        assert_eq!(report.tasks[0].comm, name);
        assert_eq!(report.task_memcg.as_deref(), Some("/comm"));
    }
}

#[test]
fn the_host_and_its_nodes_have_no_cgroup_at_its_limit() {
    for kernel in KERNELS {
        let report = only(parsed(kernel, "host"));
        assert_eq!((report.constraint, &report.oom_memcg), (Some(Constraint::None), &None));
        assert_eq!(report.task_memcg.as_deref(), Some("/"));
        assert!(report.host["ram"] > report.host["active_anon"] + report.host["inactive_anon"]);
    }
    let report = only(parsed("6.12", "cpuset"));
    assert_eq!((report.constraint, report.mems_allowed.as_deref()), (Some(Constraint::Cpuset), Some("1")));
    assert_eq!((report.oom_memcg, report.task_memcg.as_deref()), (None, Some("/nodes")));
}

#[test]
fn nobody_could_be_killed() {
    for kernel in ["5.10", "6.1"] {
        let report = only(parsed(kernel, "unkillable"));
        assert!(report.no_victim && report.victims.is_empty());
        assert_eq!(report.trigger_oom_score_adj, Some(-1000));
        assert_eq!(merge(&parsed(kernel, "unkillable"), &[], &[], &[], 0), []);
    }
}

#[test]
fn suppressed_headers_leave_bare_kills() {
    for kernel in ["5.10", "7.3"] {
        let log = parsed(kernel, "storm");
        let bare = log.reports.iter().filter(|report| report.header == Header::Suppressed).count();
        assert_eq!((log.reports.len(), bare, log.suppressed), (14, 3, 3), "{kernel}");
        // The one cgroup that lacks three kills is where they were.
        let kills = merge(&log, &counted(kernel, "storm"), &[], &[], 0);
        assert_eq!(kills.len(), 14);
        assert!(kills.iter().all(|kill| kill.cgroup.as_deref() == Some("/storm")));
        // Without counters nobody knows.
        let kills = merge(&log, &[], &[], &[], 0);
        assert_eq!(kills.iter().filter(|kill| kill.unknown.contains_key("cgroup")).count(), 3);
    }
}

#[test]
fn log_and_counters_agree() {
    for kernel in KERNELS {
        for scenario in ["own", "parent", "group", "child", "comm", "thread", "share"] {
            let counts = counted(kernel, scenario);
            assert!(!counts.is_empty());
            let log = parsed(kernel, scenario);
            let kills = merge(&log, &counts, &[], &[], 0);
            assert!(kills.iter().all(|kill| kill.source == Source::KernelLog), "{kernel} {scenario}: {kills:#?}");
            assert_eq!(kills.len(), log.reports.len());
            // Without the log the counters alone speak.
            let alone = merge(&Reports::default(), &counts, &[], &[], 0);
            let sum: u64 = alone.iter().map(|kill| kill.kills).sum();
            assert_eq!(sum, log.reports.iter().map(|report| report.counted).sum::<u64>(), "{kernel} {scenario}");
            assert!(alone.iter().all(|kill| kill.source == Source::Counter && kill.time.is_none()));
        }
    }
}

#[test]
fn a_past_kill_says_all_it_knows_and_why_not_the_rest() {
    insta::assert_json_snapshot!(
        "past-kill-group",
        merge(&parsed("6.18", "group"), &[], &[], &[], 1_700_000_000_000_000_000)
    );
    insta::assert_json_snapshot!(
        "past-kill-host",
        merge(&parsed("7.3", "host"), &[], &[], &[], 1_700_000_000_000_000_000)
    );
    insta::assert_json_snapshot!(
        "past-kill-v1",
        merge(&parsed("v1", "parent"), &[], &[], &[], 1_700_000_000_000_000_000)
    );
}

#[test]
fn v1_says_the_same_in_its_own_words() {
    let report = only(parsed("v1", "parent"));
    assert_eq!((report.oom_memcg.as_deref(), report.task_memcg.as_deref()), (Some("/fixture"), Some("/fixture/inner")));
    assert!(report.anon_bytes().unwrap() > 20 << 20, "the tree's, not the parent's own");
    assert_eq!(report.kmem.as_ref().map(|charge| charge.limit_bytes), Some(None));
    assert_eq!(report.swap_bytes(), Some(0));
    for scenario in ["own", "parent"] {
        let control = counters::parse_oom_control(&fixture("v1", &format!("{scenario}.oom_control")).unwrap());
        let counts =
            [CgroupCounts { cgroup: report_cgroup(scenario).to_owned(), v1: Some(control), ..CgroupCounts::default() }];
        let kills = merge(&parsed("v1", scenario), &counts, &[], &[], 0);
        assert_eq!(kills.iter().map(|kill| kill.source).collect::<Vec<_>>(), [Source::KernelLog]);
        assert_eq!(merge(&Reports::default(), &counts, &[], &[], 0)[0].kills, 1);
    }
    let hung = counters::parse_oom_control(&fixture("v1", "hung.oom_control").unwrap());
    assert_eq!((hung.oom_kill_disable, hung.under_oom, hung.oom_kill), (true, true, Some(0)));
}

fn report_cgroup(scenario: &str) -> &'static str {
    if scenario == "own" { "/fixture" } else { "/fixture/inner" }
}

#[test]
fn a_number_that_was_cut_is_left_out() {
    let filler = "x".repeat(930);
    let dump =
        |stats: &str| format!("6,1,1,-;Memory cgroup stats for /a:\n6,2,2,-;{stats}\n3,3,3,-;Killed process 1 (a)\n");
    let report = only(report::reports(&kmsg::parse_dump(&dump(&format!("anon 4096\\x0a{filler} 7\\x0afile 40")))));
    assert_eq!((report.anon_bytes(), report.file_bytes()), (Some(4096), None));
    let report = only(report::reports(&kmsg::parse_dump(&dump("anon 4096\\x0afile 40"))));
    assert_eq!((report.anon_bytes(), report.file_bytes()), (Some(4096), Some(40)));
}

#[test]
fn old_v1_kernels_say_it_in_one_line() {
    let log = report::reports(&kmsg::parse_dump(
        "4,1,1,-;a invoked oom-killer: gfp_mask=0x600040(GFP_NOFS), nodemask=(null), order=0, oom_score_adj=0\n\
         6,2,2,-;Task in /leaker/x killed as a result of limit of /leaker\n\
         6,3,3,-;memory: usage 524288kB, limit 524288kB, failcnt 158965\n\
         6,4,4,-;Memory cgroup stats for /leaker: cache:844KB rss:1KB swap:0KB\n\
         6,5,5,-;Memory cgroup stats for /leaker/x: cache:1KB rss:2KB swap:0KB\n\
         3,6,6,-;Memory cgroup out of memory: Kill process 2746 (a) score 998 or sacrifice child\n\
         3,7,7,-;Killed process 2746 (a) total-vm:536704kB, anon-rss:521176kB, file-rss:1208kB, shmem-rss:0kB\n\
         6,8,8,-;oom_reaper: reaped process 2746 (a), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB\n",
    ));
    let report = only(log);
    assert_eq!(report.task_memcg.as_deref(), Some("/leaker/x"));
    assert_eq!((report.anon_bytes(), report.file_bytes()), (Some(3 << 10), Some(845 << 10)));
    assert!(report.victims[0].reaped);
}

#[test]
fn user_space_forges_nothing() {
    let dump = fixture("6.18", "own.kmsg").unwrap();
    // The same text from user space has facility 1 at least.
    let forged: String = dump
        .lines()
        .map(|line| line.split_once(',').map_or(String::new(), |(_, rest)| format!("12,{rest}\n")))
        .collect();
    assert_eq!(report::reports(&kmsg::parse_dump(&forged)), Reports::default());
}

#[test]
fn a_cut_report_gives_what_is_there() {
    let records = records("7.3", "own");
    let from = |text: &str| {
        let at = records.iter().position(|record| record.text.starts_with(text)).unwrap();
        only(report::reports(&records[at..]))
    };
    let report = from("memory: usage");
    assert_eq!((report.header, &report.trigger_comm), (Header::Cut, &None));
    assert!(report.memory.is_some() && report.task_memcg.is_some() && report.victims.len() == 1);
    let report = from("oom-kill:");
    assert_eq!((report.header, report.task_memcg.as_deref()), (Header::Cut, Some("/own")));
    let report = from("Memory cgroup out of memory: Killed");
    assert_eq!((report.header, report.constraint), (Header::Suppressed, Some(Constraint::Memcg)));
}

#[test]
fn other_lines_and_torn_summaries_change_nothing() {
    for kernel in KERNELS {
        for scenario in ["own", "group", "comm", "parent"] {
            let clean = records(kernel, scenario);
            let mut noisy = Vec::new();
            for record in &clean {
                let noise = |text: &str| Record { text: text.to_owned(), ..record.clone() };
                noisy.push(noise("eth0: renamed from veth1"));
                noisy.push(noise("CPU feature: x"));
                if let Some((head, tail)) = record.text.split_once(",oom_memcg=") {
                    noisy.push(noise(head));
                    noisy.push(noise("usb 1-1: new device"));
                    let tail = Record { continuation: true, ..noise(&format!(",oom_memcg={tail}")) };
                    noisy.push(tail);
                } else {
                    noisy.push(record.clone());
                }
            }
            assert_eq!(report::reports(&noisy), report::reports(&clean), "{kernel} {scenario}");
        }
    }
}

#[test]
fn names_that_look_like_the_format() {
    let line = |comm: &str, cpuset: &str| {
        format!(
            "6,1,1,-;Memory cgroup stats for /a:\n6,2,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),\
             cpuset={cpuset},mems_allowed=0-1,3,oom_memcg=/a,task_memcg=/a/b,task={comm},pid=7,uid=0\n\
             3,3,3,-;Memory cgroup out of memory: Killed process 7 ({comm}) total-vm:4kB, anon-rss:4kB, file-rss:0kB, \
             shmem-rss:0kB, UID:5 pgtables:88kB oom_score_adj:-3\n"
        )
    };
    for comm in ["x,task=y,pid=1", ",task=", ") total-vm:9kB", "(sd-pam)", "x (y) z", "", " "] {
        let report = only(report::reports(&kmsg::parse_dump(&line(comm, "b"))));
        assert_eq!(
            (report.task_memcg.as_deref(), report.mems_allowed.as_deref()),
            (Some("/a/b"), Some("0-1,3")),
            "{comm}"
        );
        let victim = &report.victims[0];
        assert_eq!((victim.comm.as_str(), victim.uid, victim.oom_score_adj), (comm, Some(5), Some(-3)));
    }
    let report = only(report::reports(&kmsg::parse_dump(&line("x", "b,mems_allowed=0,oom_memcg=/c,task_memcg=/c"))));
    assert_eq!((report.oom_memcg.as_deref(), report.task_memcg), (Some("/a"), None), "a forged path is not believed");
}

#[test]
fn group_kills_without_headers_stay_apart() {
    let kill = |seq: u32, pid: u32| {
        format!("3,{seq},{seq},-;Memory cgroup out of memory: Killed process {pid} (x) total-vm:4kB, anon-rss:4kB\n")
    };
    let group = "6,9,9,-;Tasks in /g are going to be killed due to memory.oom.group set\n";
    let dump =
        [kill(1, 1), group.to_owned(), kill(2, 1), kill(3, 2), kill(4, 5), group.to_owned(), kill(5, 6)].concat();
    let log = report::reports(&kmsg::parse_dump(&dump));
    let pids: Vec<Vec<u32>> =
        log.reports.iter().map(|report| report.victims.iter().map(|victim| victim.pid).collect()).collect();
    assert_eq!(pids, [vec![1, 2], vec![5, 6]]);
    assert_eq!(log.reports.iter().map(|report| report.counted).collect::<Vec<_>>(), [3, 2]);
}

#[test]
fn the_engine_adds_only_what_nobody_knows() {
    let verdict = |oom_killed, started| Verdict {
        runtime: Runtime::Docker,
        oom_killed,
        exit_code: Some(137),
        started: Some(Timestamp(started)),
        finished: Some(Timestamp(9_000_000_000_000)),
        file: "config.v2.json".into(),
    };
    let log = parsed("6.12", "child");
    let engines = [
        ("/child".to_owned(), verdict(Some(false), 0)),
        ("/other".to_owned(), verdict(Some(true), 0)),
        ("/fine".to_owned(), verdict(Some(false), 0)),
    ];
    let kills = merge(&log, &[], &engines, &[], 0);
    assert_eq!(kills.iter().map(|kill| kill.source).collect::<Vec<_>>(), [Source::KernelLog, Source::Engine]);
    assert_eq!(kills[0].engine.as_ref().unwrap().oom_killed, Some(false), "and the row can say that it differs");
    // A verdict on a later run says nothing about this kill.
    let later = [("/child".to_owned(), verdict(Some(false), i64::MAX))];
    assert_eq!(merge(&log, &[], &later, &[], 0)[0].engine, None);
}

#[test]
fn the_live_log_is_read_or_refused_in_words() {
    let mut read = 0;
    match kmsg::read(kmsg::DEVICE.as_ref(), |raw| read += u64::from(kmsg::parse(raw).is_some())) {
        Ok(extent) => assert_eq!(extent.records, read, "each record is one"),
        Err(reason) => assert!(reason.starts_with(kmsg::DEVICE), "{reason}"),
    }
    assert!(kmsg::read("/nowhere/kmsg".as_ref(), |_| {}).unwrap_err().contains("does not exist here"));
    assert!(kmsg::offset_now() > 0);
}

/// What ctrace saw itself is no past kill, whichever of log, counter and engine tells of it, and hides none that is.
#[test]
fn a_kill_that_was_witnessed_is_not_past() {
    let log = parsed("7.3", "storm");
    let counts = counted("7.3", "storm");
    let witness = |report: &OomReport, cgroup: &str| Witnessed {
        pids: [1, report.victims[0].pid],
        time: kmsg::wall(report.usec, 0),
        cgroup: cgroup.to_owned(),
        twice: false,
    };
    // One with a header and one without: both are in the log, both were counted.
    for header in [Header::Whole, Header::Suppressed] {
        let seen = log.reports.iter().find(|report| report.header == header).unwrap();
        let kills = merge(&log, &counts, &[], &[witness(seen, "/storm")], 0);
        assert_eq!(kills.len(), 13, "{header:?}");
        assert!(kills.iter().all(|kill| kill.source == Source::KernelLog && kill.cgroup.is_some()));
        assert!(kills.iter().all(|kill| kill.victims[0].pid != seen.victims[0].pid));
    }
    // Counted after the log was read.
    let mut shorter = log.clone();
    let last = shorter.reports.pop().unwrap();
    let told = merge(&shorter, &counts, &[], &[witness(&last, "/storm")], 0);
    assert!(told.iter().all(|kill| kill.source == Source::KernelLog), "{told:#?}");
    let untold = merge(&shorter, &counts, &[], &[witness(&last, "/other")], 0);
    assert_eq!(untold.iter().filter(|kill| kill.source == Source::Counter).count(), 1, "another's hides nothing");
    // A pid comes round.
    let mut late = witness(&last, "/other");
    late.time.0 += 60_000_000_000;
    assert_eq!(merge(&log, &[], &[], &[late], 0).len(), 14);
    // The chosen one of a group counts twice where it still lived.
    let group = parsed("6.1", "group");
    let mut seen: Vec<_> = group.reports[0]
        .victims
        .iter()
        .map(|victim| victim.pid)
        .map(|pid| Witnessed { pids: [pid, pid], ..witness(&group.reports[0], "/crowd") })
        .collect();
    seen[0].twice = true;
    let counted = counted("6.1", "group");
    assert_eq!(merge(&Reports::default(), &counted, &[], &seen, 0), []);
    assert_eq!(merge(&group, &counted, &[], &seen, 0), []);
    // The engine saw it as well.
    let verdict = Verdict {
        runtime: Runtime::Docker,
        oom_killed: Some(true),
        exit_code: None,
        started: None,
        finished: None,
        file: "config.v2.json".into(),
    };
    assert_eq!(
        merge(&Reports::default(), &[], &[("/storm".to_owned(), verdict)], &[witness(&last, "/storm/a")], 0),
        []
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nothing_panics_on_any_text(texts in proptest::collection::vec(".{0,120}", 0..20)) {
        let records: Vec<Record> = texts.iter().enumerate().map(|(seq, text)| record(seq, text)).collect();
        report::reports(&records);
        for text in &texts {
            kmsg::parse(text);
            kmsg::unescape(text);
            counters::parse_events(text);
            counters::parse_oom_control(text);
        }
    }

    /// Real lines, shuffled, cut and with bytes changed: deeper than any text gets.
    #[test]
    fn nothing_panics_on_broken_reports(
        picks in proptest::collection::vec((0usize..10_000, 0usize..400, any::<char>(), any::<bool>()), 0..60)
    ) {
        let real: Vec<Record> = ["group", "storm", "host"].iter().flat_map(|name| records("5.10", name)).collect();
        let broken: Vec<Record> = picks.into_iter().enumerate().map(|(seq, (pick, at, with, cut))| {
            let mut text: Vec<char> = real[pick % real.len()].text.chars().collect();
            if cut { text.truncate(at) } else if let Some(char) = text.get_mut(at) { *char = with }
            Record { continuation: at % 7 == 0, ..record(seq, &text.into_iter().collect::<String>()) }
        }).collect();
        let log = report::reports(&broken);
        merge(&log, &[], &[], &[], i64::MAX);
    }
}

fn record(seq: usize, text: &str) -> Record {
    Record { level: 6, facility: 0, seq: seq as u64, usec: u64::MAX, continuation: false, text: text.to_owned() }
}
