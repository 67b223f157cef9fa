use std::collections::BTreeMap;

use serde_json::json;

use super::{cause::Cause, *};
use crate::{
    findings::fixture::{HOST_CGROUP, Host, MS, OTHER, OTHER_CGROUP, PARENT, SECOND, T, WEB, WEB_CGROUP},
    model::{Process, State},
    pipeline::SampleRow,
};

/// The lens, fed with one reading a second.
struct Bench {
    rule: Rule,
    host: Host,
    usage: Usage,
    samples: Vec<SampleRow>,
}

/// What happens in a second, per second: CPU time of a container, its waits, its periods, the host's idle time.
#[derive(Clone, Copy, Default)]
struct Second {
    web: u64,
    web_waits: u64,
    other: u64,
    other_waits: u64,
    /// Periods, throttled ones, and for how long; of the container, and of its parent.
    own: (u64, u64, u64),
    parent: (u64, u64, u64),
    idle: u64,
    iowait: u64,
}

const QUOTA: Quota = Quota { quota_ns: 50 * MS, period_ns: 100 * MS, burst_ns: 0 };

impl Bench {
    fn new() -> Self {
        let mut host = Host::new();
        host.facts.attached = vec!["sched_switch"];
        let level = |path: &str, quota, weight| Level {
            path: path.to_owned(),
            quota,
            weight: Some(weight),
            bandwidth: Some(Bandwidth::default()),
        };
        let group = |path: &str| Group {
            cgroup: path.into(),
            cpu_path: Some(path.to_owned()),
            used: Some(Used::default()),
            cpus: None,
        };
        let usage = Usage {
            at_ns: T,
            host: HostCpu { each: vec![Times::default(); 2], ..HostCpu::default() },
            groups: vec![group(WEB), group(OTHER)],
            levels: vec![level(PARENT, None, 100), level(WEB, Some(QUOTA), 256), level(OTHER, None, 1024)],
            waits: Some([WEB_CGROUP, OTHER_CGROUP, HOST_CGROUP].map(|key| (key, Waited::default())).into()),
            ..Usage::default()
        };
        let mut bench = Self { rule: Rule::default(), host, usage, samples: Vec::new() };
        assert!(bench.read().is_empty());
        bench
    }

    fn read(&mut self) -> Vec<Finding> {
        let reading = Reading::Usage(Box::new(self.usage.clone()));
        self.say(&reading)
    }

    fn say(&mut self, reading: &Reading) -> Vec<Finding> {
        let mut out = Vec::new();
        self.rule.reading(reading, self.usage.at_ns, &self.host.world(), &mut out);
        let mut findings = Vec::new();
        for output in out {
            match output {
                Output::Finding(finding) => findings.push(*finding),
                Output::Sample(sample) => self.samples.push(*sample),
                _ => {}
            }
        }
        findings
    }

    fn second(&mut self, of: Second) -> Vec<Finding> {
        let usage = &mut self.usage;
        usage.at_ns += SECOND;
        for (group, used) in usage.groups.iter_mut().zip([of.web, of.other]) {
            let total = group.used.get_or_insert_default();
            total.total_ns += used;
            total.user_ns += used / 4 * 3;
            total.system_ns += used / 4;
        }
        for (level, more) in usage.levels.iter_mut().zip([of.parent, of.own]) {
            let counted = level.bandwidth.get_or_insert_default();
            counted.periods += more.0;
            counted.throttled += more.1;
            counted.throttled_ns += more.2;
        }
        if let Some(waits) = &mut usage.waits {
            for (key, ns) in [(WEB_CGROUP, of.web_waits), (OTHER_CGROUP, of.other_waits)] {
                let waited = waits.entry(key).or_default();
                waited.count += 10;
                waited.total_ns += ns;
                waited.histogram[3] += 10;
            }
        }
        for times in usage.host.each.iter_mut().chain([&mut usage.host.all]) {
            times.idle += of.idle;
            times.iowait += of.iowait;
            times.user += SECOND - of.idle - of.iowait;
        }
        self.read()
    }

    fn seconds(&mut self, count: u32, of: Second) -> Vec<Finding> {
        (0..count).flat_map(|_| self.second(of)).collect()
    }

    fn last(&self, cgroup: Option<&str>) -> &SampleRow {
        self.samples.iter().rfind(|sample| sample.cgroup.as_deref() == cgroup).expect("a sample")
    }
}

fn states(findings: &[Finding]) -> Vec<(&str, State)> {
    findings.iter().filter_map(|finding| Some((finding.id.as_str(), finding.state?))).collect()
}

/// Half a CPU, four busy threads, one CPU idle.
const THROTTLED: Second = Second {
    web: SECOND / 2,
    web_waits: 3 * SECOND + SECOND / 2,
    own: (10, 10, SECOND / 2),
    idle: SECOND / 2,
    other: 0,
    other_waits: 0,
    parent: (0, 0, 0),
    iowait: 0,
};

#[test]
fn throttled_opens_after_two_seconds_and_closes() {
    let mut bench = Bench::new();
    assert!(bench.second(THROTTLED).is_empty(), "one second is not two");
    let open = bench.second(THROTTLED);
    assert_eq!(states(&open), [("cpu-throttled-1", State::Open)]);
    let finding = &open[0];
    assert_eq!(
        finding.summary,
        "throttled in 100 % of the periods by its own quota of 0.50 CPUs, 1.0 s in 2.0 s; asks for 4.0 CPUs"
    );
    assert_eq!(finding.container.as_ref().map(|container| container.cgroup.clone()).as_deref(), Some(WEB));
    for (key, value) in [
        ("quota_cpus", json!(0.5)),
        ("throttled_pct", json!(100.0)),
        ("throttled_periods", json!(20)),
        ("throttled_ns", json!(SECOND)),
        ("used_cpus", json!(0.5)),
        ("demand_cpus", json!(4.0)),
        // There are two.
        ("enough_cpus", json!(2.0)),
        ("whose", json!("own")),
        ("limiting_cgroup", json!(WEB)),
    ] {
        assert_eq!(finding.evidence[key], value, "{key}");
    }
    assert!(bench.seconds(6, THROTTLED).is_empty(), "nothing new");
    let calm = Second { own: (10, 0, 0), web: SECOND / 4, web_waits: 0, ..THROTTLED };
    let rest = bench.seconds(4, calm);
    assert_eq!(states(&rest).last(), Some(&("cpu-throttled-1", State::Closed)));
    assert_eq!(rest.last().map(|closed| &closed.evidence["throttled_pct"]), Some(&json!(0.0)));
}

/// In each of so many throttled periods, so many threads waited for as long as a stop takes.
fn stopped(threads: u64, quota: Quota, used: u64) -> Finding {
    let mut bench = Bench::new();
    bench.usage.levels[1].quota = Some(quota);
    let mut said = Vec::new();
    for _ in 0..3 {
        let waited = bench.usage.waits.as_mut().and_then(|waits| waits.get_mut(&WEB_CGROUP)).expect("hooked");
        // 67 to 134 ms: as long as a stop of 75 ms on one CPU of two.
        waited.histogram[16] += threads * 10;
        // Turns among themselves.
        waited.histogram[11] += 1000;
        let worst = Worst { wait_ns: 88 * MS, tid: 72, pid: Some(70), comm: Some("sh".to_owned()), ..Worst::default() };
        waited.worst = Some(worst);
        said.extend(bench.second(Second { web: used, own: (10, 10, 10 * 75 * MS), ..THROTTLED }));
    }
    said.into_iter().find(|finding| finding.code.0 == "cpu.throttled").expect("throttled")
}

#[test]
fn a_quota_smaller_than_a_burst_is_explained_with_numbers() {
    let all = stopped(4, QUOTA, SECOND / 2);
    assert_eq!(all.evidence["threads"], 4.0);
    assert_eq!((&all.evidence["run_out_ns"], &all.evidence["then_wait_ns"]), (&json!(25 * MS), &json!(75 * MS)));
    assert_eq!(all.evidence["longest"]["pid"], 70);
    assert_eq!(
        all.why,
        "the quota is 50 ms of CPU time in each 100 ms: 4 threads on 2 CPUs run that out in 25 ms, then wait 75 ms, whatever the host has idle; the longest wait for a CPU was 88 ms: sh (72 of process 70); cpu.stat counts for the whole cgroup, not for each process"
    );
    assert!(all.fix.iter().any(|fix| fix.contains("will not help")), "{:?}", all.fix);
    let one = stopped(1, QUOTA, SECOND / 2);
    assert!(one.why.contains(": 1 thread runs that out in 50 ms, then waits 50 ms,"), "{}", one.why);
    // On average it uses less than it may: bursts meet the quota, and saving up helps.
    let burst = stopped(4, Quota { burst_ns: 20 * MS, ..QUOTA }, SECOND / 4);
    assert!(burst.why.contains("on average it uses 0.25 of its 0.50 CPUs"), "{}", burst.why);
    assert!(burst.why.contains("(and up to 20 ms saved up)"), "{}", burst.why);
    assert!(burst.fix.iter().any(|fix| fix.starts_with("or let it save up")), "{:?}", burst.fix);
    // A quota of two CPUs for two threads on two: none runs out of it.
    let wide = stopped(2, Quota { quota_ns: 200 * MS, ..QUOTA }, SECOND / 2);
    assert!(wide.evidence["run_out_ns"].is_null() && wide.why.contains("whoever has used it up"), "{}", wide.why);
}

#[test]
fn below_the_quota_nothing_is_said() {
    let mut bench = Bench::new();
    // One period of 40: less than 5 %.
    let busy = Second { own: (20, 0, 0), web_waits: 0, ..THROTTLED };
    assert!(bench.second(Second { own: (20, 1, 10 * MS), ..busy }).is_empty());
    assert!(bench.seconds(8, busy).is_empty());
    // Two of 40 are 5 %.
    let said = bench.second(Second { own: (20, 2, 20 * MS), ..busy });
    assert_eq!(states(&said), [("cpu-throttled-1", State::Open)], "{:?}", bench.last(Some(WEB)));
}

#[test]
fn a_throttled_share_that_moves_is_told_again() {
    let mut bench = Bench::new();
    bench.seconds(2, THROTTLED);
    let half = Second { own: (10, 5, SECOND / 4), ..THROTTLED };
    let updates = bench.seconds(5, half);
    assert_eq!(states(&updates), [("cpu-throttled-1", State::Update)]);
    assert_eq!(updates[0].evidence["throttled_pct"], 50.0);
}

#[test]
fn a_parents_quota_holds_those_that_run_in_it() {
    let mut bench = Bench::new();
    bench.usage.levels[0].quota = Some(QUOTA);
    let held = Second { own: (10, 0, 0), parent: (10, 9, SECOND), ..THROTTLED };
    let open = bench.seconds(2, held);
    assert_eq!(states(&open), [("cpu-throttled-1", State::Open)], "not the other container, which is elsewhere");
    assert_eq!(open[0].evidence["whose"], "parent");
    assert_eq!(open[0].evidence["limiting_cgroup"], PARENT);
    // One that sleeps is not held.
    let mut bench = Bench::new();
    assert!(bench.seconds(3, Second { web: 0, ..held }).is_empty());
}

#[test]
fn without_the_hook_the_demand_is_the_least_that_it_can_be() {
    let mut bench = Bench::new();
    bench.usage.waits = None;
    bench.rule.readings.clear();
    bench.read();
    let open = bench.seconds(2, THROTTLED);
    assert_eq!(open[0].evidence["demand_cpus"], 1.0, "0.5 used, and 0.5 CPUs throttled");
    assert_eq!(open[0].evidence["demand_is_least"], true);
    assert!(open[0].summary.ends_with("asks for at least 1.0 CPUs"));
    let row = bench.last(Some(WEB));
    assert!(row.fields["wait_pct"].is_null() && row.unknown.contains_key("wait_pct"));
}

/// Two containers on two full CPUs: one gets a fifth of what the other does.
const CONTENDED: Second = Second {
    web: SECOND / 5 * 2,
    web_waits: SECOND / 5 * 8,
    other: SECOND / 5 * 8,
    other_waits: SECOND / 5,
    own: (10, 0, 0),
    parent: (0, 0, 0),
    idle: 0,
    iowait: 0,
};

#[test]
fn contended_is_who_waits_on_full_cpus() {
    let mut bench = Bench::new();
    bench.usage.levels[1].quota = None;
    bench.usage.levels[1].path = "/docker/x".to_owned();
    bench.usage.groups[0].cpu_path = Some("/docker/x".to_owned());
    bench.rule.readings.clear();
    bench.read();
    assert!(bench.second(CONTENDED).is_empty());
    let open = bench.second(CONTENDED);
    assert_eq!(states(&open), [("cpu-contended-1", State::Open)], "the other waits for 11 % only");
    let finding = &open[0];
    assert_eq!(
        finding.summary,
        "waited 80 % of its runnable time for a CPU: got 0.40 of the 2.0 CPUs it asks for; b2b2b2b2b2b2 had 80 % of what ran"
    );
    assert_eq!(finding.evidence["wait_pct"], 80.0);
    assert_eq!(finding.evidence["weight"], 256);
    assert_eq!(finding.evidence["weight_pct"], 20.0);
    assert_eq!(finding.evidence["idle_pct"], 0.0);
    let ran = &finding.evidence["ran_instead"];
    assert_eq!(ran[0]["container"]["cgroup"], OTHER);
    assert_eq!((&ran[1]["container"]["cgroup"], &ran[1]["share_pct"]), (&json!(WEB), &json!(20.0)));
    assert_eq!(finding.evidence["wait_p99_ns"], 2048 << 3);
    let closed = bench.seconds(4, Second { web_waits: 0, ..CONTENDED });
    assert_eq!(states(&closed), [("cpu-contended-1", State::Closed)]);
}

#[test]
fn its_own_threads_are_the_rivals_where_there_are_too_many() {
    let fix_of = |second: Second| {
        let mut bench = Bench::new();
        bench.seconds(2, second).into_iter().find(|finding| finding.code.0 == "cpu.contended").map(|found| found.fix)
    };
    let most = Second { web: SECOND / 2 * 3, other: SECOND / 2, other_waits: 0, ..CONTENDED };
    let crowded = fix_of(Second { web_waits: 3 * SECOND, ..most }).expect("contended");
    assert!(crowded[0].starts_with("let it run fewer threads"), "{crowded:?}");
    let beaten = fix_of(Second { web_waits: SECOND / 2, ..most }).expect("contended");
    assert!(beaten[1].contains("give b2b2b2b2b2b2 a quota"), "{beaten:?}");
}

#[test]
fn who_waits_is_not_contended_on_idle_cpus_nor_by_its_quota_nor_for_a_moment() {
    for (what, second) in [
        ("a tenth idle", Second { idle: SECOND / 10, ..CONTENDED }),
        ("waiting for a disk is idle", Second { iowait: SECOND / 10, ..CONTENDED }),
        ("nineteen percent", Second { web: SECOND, web_waits: SECOND / 100 * 23, ..CONTENDED }),
        ("little time, whatever the share", Second { web: MS, web_waits: 100 * MS, ..CONTENDED }),
        ("its quota", Second { own: (10, 10, SECOND), ..CONTENDED }),
    ] {
        let mut bench = Bench::new();
        let said = bench.seconds(4, second);
        let codes: Vec<_> = said.iter().map(|finding| finding.code.0).filter(|code| *code == "cpu.contended").collect();
        assert!(codes.is_empty(), "{what}");
    }
    // The same, and a little less idle.
    let mut bench = Bench::new();
    assert_eq!(bench.seconds(2, Second { idle: SECOND / 11, ..CONTENDED })[0].code.0, "cpu.contended");
}

#[test]
fn only_the_cpus_that_it_may_use_matter() {
    let mut bench = Bench::new();
    bench.usage.groups[0].cpus = Some(vec![1]);
    bench.rule.readings.clear();
    bench.read();
    for _ in 0..2 {
        // The first CPU idles, the second is full.
        bench.usage.host.each[0].idle += 10 * SECOND;
        bench.second(CONTENDED);
    }
    assert_eq!(bench.last(Some(WEB)).fields["ceiling_cpus"], 0.5, "its quota is still lower");
    let said = bench.second(CONTENDED);
    assert!(said.is_empty(), "it was said before");
    assert!(bench.rule.contended.open.contains_key(WEB));
    assert!(!bench.rule.contended.open.contains_key(OTHER));
}

#[test]
fn counts_that_began_anew_are_no_waits() {
    let mut bench = Bench::new();
    bench.seconds(3, Second { idle: SECOND / 2, ..CONTENDED });
    let forgotten = Waited { count: 1, total_ns: 5 * MS, ..Waited::default() };
    if let Some(waits) = &mut bench.usage.waits {
        waits.insert(WEB_CGROUP, forgotten);
    }
    bench.second(Second { web_waits: 0, idle: SECOND / 2, ..CONTENDED });
    let demand = bench.last(Some(WEB)).fields["demand_cpus"].as_f64();
    assert!(demand.is_some_and(|demand| (0.4..0.42).contains(&demand)), "{demand:?}");
}

#[test]
fn samples_hold_use_and_the_machines_own_times() {
    let mut bench = Bench::new();
    let busy = Second { iowait: SECOND / 2, web_waits: 0, own: (10, 0, 0), idle: 0, ..THROTTLED };
    assert!(bench.seconds(3, busy).is_empty(), "iowait is nobody's");
    let row = bench.last(Some(WEB));
    assert_eq!(row.fields["used_cpus"], 0.5);
    assert!(row.fields["user_cpus"].as_f64() > row.fields["system_cpus"].as_f64());
    assert_eq!(row.fields["quota_cpus"], 0.5);
    assert_eq!(row.fields["ceiling_pct"], 100.0);
    assert_eq!(row.fields["throttled_pct"], 0.0);
    assert_eq!(row.fields["load1"], 0.5);
    let host = bench.last(None);
    assert_eq!(host.fields["iowait_pct"], 50.0);
    assert!(host.container.is_none());
    let free = bench.last(Some(OTHER));
    assert!(free.fields["quota_cpus"].is_null() && free.unknown.contains_key("quota_cpus"));
    assert_eq!(free.fields["ceiling_cpus"], 2.0);
}

fn sleeper(tid: u32, cgroup: &str, since_ns: Option<u64>, stack: &[&str]) -> Sleeper {
    Sleeper {
        process: Process { pid: 70, tid, ns_pid: Some(7), ppid: Some(1), comm: "sh".to_owned(), uid: Some(0) },
        cgroup: Some(cgroup.to_owned()),
        since_ns,
        switches: Some(5),
        frozen: false,
        wchan: stack.first().map(|&name| name.to_owned()),
        stack: Ok(stack.iter().map(|&name| name.to_owned()).collect()),
        file_system: Err("it is in no system call that was given a file".to_owned()),
    }
}

impl Bench {
    fn asleep(&mut self, after_ms: u64, tasks: Vec<Sleeper>) -> Vec<Finding> {
        self.usage.at_ns += after_ms * MS;
        self.say(&Reading::Blocked(Sleepers { tasks, now: Some(BTreeMap::new()), took_ns: 0 }))
    }
}

const VFORK: &[&str] = &["kernel_clone", "__do_sys_vfork", "do_syscall_64"];

#[test]
fn blocked_opens_after_a_second_and_closes() {
    let mut bench = Bench::new();
    let task = || vec![sleeper(71, WEB, Some(T), VFORK)];
    assert!(bench.asleep(900, task()).is_empty());
    let open = bench.asleep(200, task());
    assert_eq!(states(&open), [("load-blocked-1", State::Open)]);
    assert_eq!(open[0].code.0, "load.blocked");
    assert_eq!(
        open[0].summary,
        "1 task in uninterruptible sleep: sh (71) for 1.1 s waits for its vfork child, which has neither exec'd nor ended (kernel_clone); adds 1 to the load, uses no CPU"
    );
    let evidence = &open[0].evidence;
    assert_eq!(evidence["tasks"][0]["process"]["tid"], 71);
    assert_eq!(evidence["tasks"][0]["blocked_ns"], 1100 * MS);
    assert_eq!(evidence["tasks"][0]["cause"], "vfork");
    assert_eq!(evidence["tasks"][0]["stack"][1], "__do_sys_vfork");
    assert_eq!(open[0].container.as_ref().map(|container| container.cgroup.clone()).as_deref(), Some(WEB));
    assert!(bench.asleep(1000, task()).is_empty());
    let two = || vec![sleeper(71, WEB, Some(T), VFORK), sleeper(72, WEB, Some(T), &["io_schedule"])];
    let update = bench.asleep(1000, two());
    assert_eq!(states(&update), [("load-blocked-1", State::Update)]);
    assert!(update[0].why.ends_with("1 for its vfork child, which has neither exec'd nor ended, 1 for a disk"));
    let closed = bench.asleep(1000, Vec::new());
    assert_eq!(states(&closed), [("load-blocked-1", State::Closed)]);
}

#[test]
fn short_sleeps_and_frozen_tasks_are_not_blocked() {
    let mut bench = Bench::new();
    for _ in 0..5 {
        // Another sleep each time, as the hook tells.
        let since = bench.usage.at_ns + 500 * MS;
        assert!(bench.asleep(1000, vec![sleeper(71, WEB, Some(since), VFORK)]).is_empty());
    }
    for switches in 0..5 {
        // … or as the count of its switches does.
        let task = Sleeper { switches: Some(switches), ..sleeper(72, WEB, None, VFORK) };
        assert!(bench.asleep(1000, vec![task]).is_empty());
    }
    let frozen = Sleeper { frozen: true, ..sleeper(73, WEB, Some(T), &["do_nanosleep"]) };
    assert!(bench.asleep(9000, vec![frozen]).is_empty());
}

#[test]
fn who_slept_before_ctrace_came_is_counted_from_then() {
    let mut bench = Bench::new();
    let task = || vec![sleeper(71, "/", None, &["rpc_wait_bit_killable", "nfs4_do_open"])];
    assert!(bench.asleep(0, task()).is_empty());
    let open = bench.asleep(1500, task());
    assert!(open[0].summary.contains("for at least 1.5 s waits for an NFS server"), "{}", open[0].summary);
    assert!(open[0].container.is_none());
    assert_eq!(bench.rule.tasks.count(None, &bench.host.world()), 1);
    assert_eq!(bench.rule.tasks.count(Some(WEB), &bench.host.world()), 0);
}

#[test]
fn what_a_stack_tells() {
    for (stack, cause) in [
        (&["folio_wait_bit_common", "fuse_readahead", "filemap_read"][..], Cause::Fuse),
        (&["jbd2_log_wait_commit", "ext4_sync_file", "do_fsync"], Cause::Fsync),
        (&["io_schedule", "folio_wait_bit_common", "filemap_read"], Cause::Disk),
        (&["__iomap_dio_rw", "iomap_dio_rw", "ext4_file_write_iter"], Cause::Disk),
        (&["shrink_lruvec", "try_to_free_mem_cgroup_pages", "try_charge_memcg"], Cause::Reclaim),
        (&["balance_dirty_pages", "generic_perform_write"], Cause::DirtyPages),
        (&["rwsem_down_write_slowpath", "vm_mmap_pgoff"], Cause::Lock),
        // A fork that waits for something is not a vfork.
        (&["rwsem_down_write_slowpath", "dup_mmap", "copy_process", "kernel_clone", "__do_sys_clone"], Cause::Lock),
        (&["kernel_clone", "__do_sys_clone"], Cause::Vfork),
        (&["ceph_mdsc_wait"], Cause::Other),
    ] {
        let mut bench = Bench::new();
        let found = bench.asleep(2000, vec![sleeper(71, WEB, Some(T), stack)]);
        assert_eq!(found[0].evidence["cause"], cause.name(), "{stack:?}");
    }
}

#[test]
fn short_sleeps_are_summed_by_stack() {
    let mut bench = Bench::new();
    let stack = |names: &[&str]| Ok(names.iter().map(|&name| name.to_owned()).collect());
    bench.usage.stacks = BTreeMap::from([
        (1, stack(&["io_schedule", "__iomap_dio_rw", "ext4_file_write_iter"])),
        (2, stack(&["rwsem_down_read_slowpath", "do_user_addr_fault"])),
        (3, Err("no room".into())),
    ]);
    let slept = |count, ms| Slept { count, total_ns: ms * MS };
    // What came before the last reading is no news; a count that fell began anew.
    bench.usage.sleeps = BTreeMap::from([
        ((WEB_CGROUP, 1), slept(100, 5000)),
        ((WEB_CGROUP, 2), slept(70, 900)),
        ((HOST_CGROUP, 1), slept(1, 1)),
    ]);
    bench.second(THROTTLED);
    let news = [((WEB_CGROUP, 1), slept(104, 5400)), ((WEB_CGROUP, 2), slept(2, 30)), ((WEB_CGROUP, 3), slept(1, 20))];
    bench.usage.sleeps.extend(news);
    bench.usage.sleeps.insert((WEB_CGROUP, 4), slept(9, 9)); // its stack was not looked up
    bench.second(THROTTLED);
    let kinds = &bench.last(Some(WEB)).fields["sleeps"];
    let numbers = |kind: &serde_json::Value| json!([kind["count"], kind["total_ns"], kind["cause"]]);
    let kinds: Vec<_> = kinds.as_array().into_iter().flatten().collect();
    assert_eq!(
        kinds.iter().map(|kind| numbers(kind)).collect::<Vec<_>>(),
        [json!([4, 400 * MS, "disk"]), json!([2, 30 * MS, "lock"]), json!([1, 20 * MS, "other"])]
    );
    assert_eq!(kinds[0]["stack"][1], "__iomap_dio_rw");
    assert_eq!(kinds[2]["unknown"]["stack"], "no room");
    assert_eq!(bench.last(None).fields["sleeps"], json!([]), "none of the host's is new");
    assert_eq!(bench.last(Some(OTHER)).fields["sleeps"], json!([]));
}

/// A page is waited for in the same functions, whoever is to bring it.
#[test]
fn the_file_system_tells_who_is_to_bring_a_page() {
    let pages = &["io_schedule", "folio_wait_bit_common", "filemap_read"][..];
    for (kind, stack, cause) in [
        ("fuse.sshfs", pages, Cause::Fuse),
        ("nfs4", pages, Cause::Nfs),
        ("ext4", pages, Cause::Disk),
        ("fuse", &["__mutex_lock", "vfs_write"], Cause::Lock),
    ] {
        let mut bench = Bench::new();
        let mounted = Mounted { kind: kind.to_owned(), at: "/data".to_owned() };
        let task = Sleeper { file_system: Ok(mounted), ..sleeper(71, WEB, Some(T), stack) };
        let found = bench.asleep(2000, vec![task]);
        assert_eq!(found[0].evidence["cause"], cause.name(), "{kind}");
        assert!(found[0].summary.contains(&format!(": {kind} at /data")), "{}", found[0].summary);
    }
}

#[test]
fn files_as_the_kernel_writes_them() {
    use reading::{cpu_list, frames};
    let v1 = "nr_periods 12\nnr_throttled 3\nthrottled_time 4500000\nnr_bursts 0\nburst_time 0\n";
    let v2 = "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 12\nnr_throttled 3\nthrottled_usec 4500\n";
    let want =
        Bandwidth { periods: 12, throttled: 3, throttled_ns: 4_500_000, bursts: Some(0), burst_used_ns: Some(0) };
    // Without bursts, as before 5.15.
    let older = Bandwidth { bursts: None, burst_used_ns: None, ..want };
    assert_eq!([v1, v2].map(Bandwidth::parse), [Some(want), Some(older)]);
    assert_eq!(Bandwidth::parse("usage_usec 9\nuser_usec 5\nsystem_usec 4\n"), None, "the controller is off");
    let stat = "cpu  10 1 5 100 7 1 2 3 0 0\ncpu0 5 0 2 50 3 1 1 1 0 0\ncpu1 5 1 3 50 4 0 1 2 0 0\nintr 5\n";
    let host = HostCpu::parse(stat, "7.52 5.69 3.78 9/300 12345\n", 10 * MS);
    assert_eq!((host.all.iowait, host.all.steal, host.each.len()), (70 * MS, 30 * MS, 2));
    assert_eq!(host.load, Some([7.52, 5.69, 3.78]));
    assert_eq!(HostCpu::parse("cpu  x\n", "", 1), HostCpu::default());
    assert_eq!(cpu_list("0-2,5\n"), Some(vec![0, 1, 2, 5]));
    assert_eq!([cpu_list("\n"), cpu_list("0-99999999"), cpu_list("a-b")], [None, None, None]);
    let text = "[<0>] kernel_clone+0x1af/0x3e0\n[<0>] ext4_sync_file+0x1/0x2 [ext4]\n[<0>] 0xffff\n\n";
    assert_eq!(frames(text), ["kernel_clone", "ext4_sync_file", "0xffff"]);
}
