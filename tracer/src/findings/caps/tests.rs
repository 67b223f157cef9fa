use bytemuck::Zeroable;
use caps::Capability;
use tracer_common::{
    Header, Kind,
    caps::{Start, how},
    cgroup::Rmdir,
};

use super::*;
use crate::{
    containers::{Table, inspect::CapabilitySets},
    findings::{
        HostFacts,
        fixture::{self, SECOND, T, WEB, WEB_CGROUP, web_task},
    },
    model::{Code, Finding, Severity, Timestamp, Unknown},
};

const OVERCOMMIT: u64 = 0xffff_ffff_8100_0100;

/// One container, watched while it runs.
struct Bench {
    rule: Rule,
    containers: Table,
    facts: HostFacts,
    out: Vec<Output>,
    totals: Totals,
}

fn number(capability: Capability) -> u8 {
    capability.index()
}

fn call(name: &str) -> u32 {
    name.parse::<Sysno>().map_or(NO_SYSCALL, |number| number.id() as u32)
}

impl Bench {
    fn new() -> Self {
        let fixture::Host { containers, mut facts } = fixture::Host::new();
        facts.attached.push("cap_outcome");
        let mut bench = Self { rule: Rule::default(), containers, facts, out: Vec::new(), totals: Totals::default() };
        bench.watch(true);
        bench
    }

    fn with(&mut self, now_ns: u64, work: impl FnOnce(&mut Rule, &World, &mut Vec<Output>)) {
        let world = World { containers: &self.containers, host: &self.facts, boot_to_wall_ns: 0, now_ns };
        work(&mut self.rule, &world, &mut self.out);
    }

    fn watch(&mut self, ran: bool) {
        let container = self.containers.owner(WEB_CGROUP).expect("the fixture's");
        let reading = Reading::Watching { container, since_ns: T, ran };
        self.with(T, |rule, world, out| rule.reading(&reading, T, world, out));
        let granted =
            [Capability::CAP_CHOWN, Capability::CAP_NET_RAW, Capability::CAP_DAC_OVERRIDE, Capability::CAP_SYS_ADMIN];
        let bounding = granted.iter().fold(0, |set, one| set | one.bitmask());
        let sets = Sets {
            init: CapabilitySets { bounding, ..CapabilitySets::default() },
            seccomp: Some("filter"),
            ..Sets::default()
        };
        let reading = Reading::Sets(WEB.to_owned(), Some(Box::new(sets)));
        self.with(T, |rule, world, out| rule.reading(&reading, T, world, out));
    }

    fn key(capability: Capability, syscall: &str, how: u8) -> CheckKey {
        CheckKey {
            cgroup: WEB_CGROUP,
            image: 7,
            syscall: call(syscall),
            capability: number(capability),
            origin: Origin::Application as u8,
            relation: Relation::Own as u8,
            how,
        }
    }

    fn asked(&mut self, key: CheckKey) {
        self.asked_below(key, OVERCOMMIT);
    }

    fn asked_below(&mut self, key: CheckKey, function: u64) {
        let mut check = Check::zeroed();
        check.header = fixture::header::<Check>(T, WEB_CGROUP);
        (check.task, check.key) = (web_task(501, "nginx"), key);
        check.stack[0] = function;
        self.totals.checks.push((key, 5));
        self.with(T, |rule, world, out| rule.event(&Event::CapCheck(Box::new(check)), world, out));
    }

    fn came(&mut self, syscall: &str, denied: &[Capability], granted: &[Capability], result: i32) {
        let bits = |set: &[Capability]| set.iter().fold(0, |bits, one| bits | one.bitmask());
        let mut outcome = Outcome::zeroed();
        outcome.header = fixture::header::<Outcome>(T, WEB_CGROUP);
        outcome.task = web_task(501, "nginx");
        outcome.key = OutcomeKey {
            cgroup: WEB_CGROUP,
            image: 7,
            denied: bits(denied),
            granted: bits(granted),
            syscall: call(syscall),
            result,
            origin: Origin::Application as u32,
            reserved: 0,
        };
        self.with(T, |rule, world, out| rule.event(&Event::CapOutcome(Box::new(outcome)), world, out));
    }

    fn start(&mut self) {
        let mut start = Start::zeroed();
        start.header = fixture::header::<Start>(T + SECOND, WEB_CGROUP);
        self.with(T + SECOND, |rule, world, out| rule.event(&Event::CapStart(start), world, out));
    }

    fn findings(&self, code: &str) -> Vec<Finding> {
        let findings = self.out.iter().filter_map(|output| match output {
            Output::Finding(finding) => Some((**finding).clone()),
            _ => None,
        });
        findings.filter(|finding| finding.code.0 == code).collect()
    }

    /// Ends the run, ten seconds in, where one address has a name.
    fn report(&mut self) -> Report {
        let now = T + 10 * SECOND;
        self.with(now, |rule, _, out| rule.finish(now, out));
        let totals = Reading::Totals(self.totals.clone());
        self.with(now, |rule, world, out| rule.reading(&totals, now, world, out));
        let asked = self.out.iter().any(|output| matches!(output, Output::Ask(Question::Caps(Ask::Symbols(_)))));
        assert!(asked, "names are asked for at the end");
        let names = Reading::Symbols(Ok(HashMap::from([(OVERCOMMIT, "__vm_enough_memory".to_owned())])));
        self.with(now, |rule, world, out| rule.reading(&names, now, world, out));
        let reports: Vec<Report> = self
            .out
            .iter()
            .filter_map(|output| match output {
                Output::Caps(report) => Some((**report).clone()),
                _ => None,
            })
            .collect();
        let [report] = &reports[..] else { panic!("{} reports", reports.len()) };
        report.clone()
    }
}

/// The verdict on one check alone.
fn verdict(key: CheckKey) -> (String, Evidence) {
    let mut bench = Bench::new();
    bench.asked(key);
    let row = bench.report().evidence.remove(0);
    (row.verdict.clone(), row)
}

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
fn needed_is_what_was_granted_to_the_application() {
    let mut bench = Bench::new();
    bench.asked(Bench::key(Capability::CAP_CHOWN, "fchownat", how::OPTIONS_UNKNOWN));
    let report = bench.report();
    assert_eq!(report.needed, ["CAP_CHOWN"]);
    assert_eq!(report.unused, ["CAP_DAC_OVERRIDE", "CAP_NET_RAW", "CAP_SYS_ADMIN"]);
    let row = &report.evidence[0];
    assert_eq!((row.comm.as_deref(), row.syscall.as_deref(), row.count), (Some("nginx"), Some("fchownat"), 5));
    assert!(report.equal_root.contains_key("CAP_SYS_ADMIN") && !report.equal_root.contains_key("CAP_CHOWN"));
    assert_eq!((report.watched_ns, report.startup_seen, report.ended), (10 * SECOND, false, false));
    assert_eq!(bench.findings("caps.unused").len(), 1);
}

#[test]
fn probes_are_told_from_needs() {
    let key = |capability, syscall, how| verdict(Bench::key(capability, syscall, how)).0;
    let unknown = how::OPTIONS_UNKNOWN;
    assert_eq!(key(Capability::CAP_SYS_ADMIN, "mmap", how::QUIET), "probed");
    assert_eq!(key(Capability::CAP_SYS_ADMIN, "mmap", unknown), "probed");
    // The function tells it in calls that no list has.
    assert_eq!(key(Capability::CAP_SYS_ADMIN, "prctl", unknown), "probed");
    assert_eq!(key(Capability::CAP_SETPCAP, "capset", 0), "probed");
    assert_eq!(key(Capability::CAP_SETPCAP, "prctl", 0), "needed", "dropping from the bounding set");
    assert_eq!(key(Capability::CAP_FSETID, "fchmod", 0), "probed");
    assert_eq!(key(Capability::CAP_SYS_PTRACE, "read", how::QUIET), "probed");
    assert_eq!(key(Capability::CAP_SYS_PTRACE, "read", 0), "needed", "not quiet");
    assert_eq!(key(Capability::CAP_SYS_PTRACE, "ptrace", unknown), "needed");
    // A quiet check may be a need: seccomp(2) without no_new_privs.
    assert_eq!(key(Capability::CAP_NET_ADMIN, "seccomp", how::QUIET), "needed");
    assert_eq!(key(Capability::CAP_DAC_OVERRIDE, "openat", how::BORROWED), "probed");
    assert_eq!(
        key(Capability::CAP_DAC_OVERRIDE, "faccessat2", how::BORROWED),
        "needed",
        "access(2) asks as the real user"
    );
    assert_eq!(key(Capability::CAP_NET_ADMIN, "access", how::BORROWED), "probed", "overlayfs looks for its xattrs");
    assert_eq!(key(Capability::CAP_SYS_ADMIN, "mmap", how::DENIED | how::QUIET), "probed", "refused or not");
}

/// fork asks for SYS_ADMIN beyond RLIMIT_NPROC, and that is no accounting of memory: the stack tells them apart.
#[test]
fn a_limit_that_is_passed_is_no_accounting() {
    let probed = |call: &str, quiet, stack: &[&str]| {
        let stack: Vec<String> = stack.iter().map(|name| (*name).to_owned()).collect();
        rules::probe(Capability::CAP_SYS_ADMIN, call, quiet, &stack).is_some()
    };
    assert!(!probed("fork", None, &["copy_process", "kernel_clone"]));
    assert!(!probed("madvise", None, &["madvise_vma_behavior"]));
    assert!(probed("fork", None, &["__vm_enough_memory", "dup_mmap"]));
    assert!(probed("fork", None, &[]), "where the stack has no names the call tells");
    assert!(probed("fork", Some(true), &["inlined"]));
    assert!(!probed("fork", Some(false), &["copy_process"]));
}

/// What the kernel has a name for in no list: the function decides, where it has a name.
#[test]
fn a_mount_is_no_overcommit() {
    let mut bench = Bench::new();
    bench.asked(Bench::key(Capability::CAP_SYS_ADMIN, "mount", how::OPTIONS_UNKNOWN));
    bench.with(T, |rule, _, out| rule.finish(T, out));
    let names = Reading::Symbols(Err("hidden".to_owned()));
    bench.with(T, |rule, world, out| rule.reading(&names, T, world, out));
    let report = bench.out.iter().find_map(|output| match output {
        Output::Caps(report) => Some(report.clone()),
        _ => None,
    });
    let report = report.expect("a report");
    assert_eq!(report.needed, ["CAP_SYS_ADMIN"]);
    assert_eq!(report.unknown["stack"], "hidden");
}

#[test]
fn the_runtime_exec_and_other_namespaces_are_kept_apart() {
    let own = Bench::key(Capability::CAP_CHOWN, "fchownat", 0);
    let of = |origin: Origin, relation: Relation, how| {
        verdict(CheckKey { origin: origin as u8, relation: relation as u8, how, ..own }).0
    };
    assert_eq!(of(Origin::Application, Relation::Own, 0), "needed");
    assert_eq!(of(Origin::Runtime, Relation::Own, 0), "runtime");
    assert_eq!(of(Origin::Exec, Relation::Own, 0), "exec");
    assert_eq!(of(Origin::Application, Relation::Outer, how::DENIED), "other_namespace");
    assert_eq!(of(Origin::Application, Relation::Inner, 0), "other_namespace");
    // None of them makes the set larger.
    let mut bench = Bench::new();
    bench.asked(CheckKey { origin: Origin::Exec as u8, ..own });
    let report = bench.report();
    assert_eq!((report.needed.len(), report.exec.as_slice()), (0, &["CAP_CHOWN".to_owned()][..]));
    assert!(report.unused.contains(&"CAP_CHOWN".to_owned()));
}

#[test]
fn a_refusal_is_judged_by_what_became_of_the_call() {
    let denied = how::DENIED | how::OPTIONS_UNKNOWN;
    let judged = |capability, syscall: &str, all: &[Capability], granted: &[Capability], result| {
        let mut bench = Bench::new();
        bench.asked(Bench::key(capability, syscall, denied));
        bench.came(syscall, all, granted, result);
        let findings = bench.findings("caps.denied").len();
        let report = bench.report();
        (report.evidence[0].verdict.clone(), findings)
    };
    let is = |verdict: &str, findings| (verdict.to_owned(), findings);
    use Capability::{CAP_AUDIT_WRITE, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SETUID, CAP_SYS_TIME};
    assert_eq!(judged(CAP_SYS_TIME, "clock_settime", &[CAP_SYS_TIME], &[], -1), is("denied", 1));
    // setuid asks first, and then finds that the id is the process's own.
    assert_eq!(judged(CAP_SETUID, "setuid", &[CAP_SETUID], &[], 0), is("probed", 0));
    assert_eq!(judged(CAP_DAC_READ_SEARCH, "openat", &[CAP_DAC_READ_SEARCH], &[CAP_DAC_OVERRIDE], 3), is("probed", 0));
    assert_eq!(judged(CAP_DAC_READ_SEARCH, "openat", &[CAP_DAC_READ_SEARCH], &[], -13), is("denied", 1));
    let both = [CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE];
    assert_eq!(judged(CAP_DAC_OVERRIDE, "openat", &both, &[], -13), is("denied", 2));
    // The refusal is in the netlink ack.
    assert_eq!(judged(CAP_AUDIT_WRITE, "sendto", &[CAP_AUDIT_WRITE], &[], 0), is("denied", 1));
}

#[test]
fn refused_in_one_call_and_used_in_another_is_needed() {
    let mut bench = Bench::new();
    bench.asked(Bench::key(Capability::CAP_NET_RAW, "socket", how::DENIED));
    bench.asked(Bench::key(Capability::CAP_NET_RAW, "setsockopt", 0));
    let report = bench.report();
    assert_eq!((report.needed, report.denied.len()), (vec!["CAP_NET_RAW".to_owned()], 0));
}

#[test]
fn one_alternative_is_said_to_do_for_the_other() {
    let mut bench = Bench::new();
    let both = [Capability::CAP_DAC_READ_SEARCH, Capability::CAP_DAC_OVERRIDE];
    bench.asked(Bench::key(both[1], "openat", how::DENIED));
    bench.came("openat", &both, &[], -13);
    let row = &bench.report().evidence[0];
    assert!(row.reason.contains("CAP_DAC_READ_SEARCH would do"), "{}", row.reason);
    assert_eq!(row.results, ["EACCES"]);
}

#[test]
fn eperm_without_a_capability_is_said_once_and_not_of_harmless_calls() {
    let mut bench = Bench::new();
    bench.came("keyctl", &[], &[], -1);
    bench.came("keyctl", &[], &[], -1);
    bench.came("setsid", &[], &[], -1);
    bench.came("keyctl", &[Capability::CAP_SYS_ADMIN], &[], -1);
    let found = bench.findings("caps.not-a-capability");
    let [finding] = &found[..] else { panic!("{} findings", found.len()) };
    assert!(finding.summary.contains("keyctl") && finding.why.contains("seccomp"), "{finding:?}");
    assert_eq!(bench.findings("caps.denied").len(), 1, "the one with a refusal");
    let report = bench.report();
    assert_eq!(report.not_a_capability.len(), 2, "{:?}", report.not_a_capability);
}

#[test]
fn asked_of_the_host_there_is_nothing_to_add() {
    let mut bench = Bench::new();
    let key = CheckKey { relation: Relation::Outer as u8, ..Bench::key(Capability::CAP_MKNOD, "mknodat", how::DENIED) };
    bench.asked(key);
    bench.came("mknodat", &[Capability::CAP_MKNOD], &[], -1);
    let found = bench.findings("caps.denied");
    assert_eq!(found[0].evidence["other_namespace"], true);
    assert!(found[0].fix[0].starts_with("nothing to add"));
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
fn a_capability_that_is_newer_than_this_build() {
    let mut bench = Bench::new();
    bench.asked(CheckKey { capability: 61, ..Bench::key(Capability::CAP_CHOWN, "fchownat", 0) });
    assert_eq!(bench.report().needed, ["CAP_61"]);
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

/// The same program as the container's own and by `docker exec`: each refusal is judged by its own calls.
#[test]
fn a_refusal_is_not_judged_by_what_came_by_exec() {
    let mut bench = Bench::new();
    bench.asked(Bench::key(Capability::CAP_SETUID, "setuid", how::DENIED));
    bench.came("setuid", &[Capability::CAP_SETUID], &[], 0);
    let mut outcome = Outcome::zeroed();
    outcome.header = fixture::header::<Outcome>(T, WEB_CGROUP);
    outcome.task = web_task(502, "nginx");
    outcome.key = OutcomeKey {
        cgroup: WEB_CGROUP,
        image: 7,
        denied: Capability::CAP_SETUID.bitmask(),
        granted: 0,
        syscall: call("setuid"),
        result: -1,
        origin: Origin::Exec as u32,
        reserved: 0,
    };
    bench.with(T, |rule, world, out| rule.event(&Event::CapOutcome(Box::new(outcome)), world, out));
    let report = bench.report();
    assert_eq!((report.probed, report.denied.len()), (vec!["CAP_SETUID".to_owned()], 0));
}

#[test]
fn nothing_seen_is_no_finding() {
    let mut bench = Bench::new();
    let report = bench.report();
    assert!(report.evidence.is_empty() && report.unused.len() == 4);
    assert!(bench.findings("caps.unused").is_empty(), "a watch that saw nothing says nothing");
}

#[test]
fn names_of_calls() {
    assert_eq!(syscall_name(NO_SYSCALL), None);
    assert_eq!(syscall_name(call("openat")).as_deref(), Some("openat"));
    assert_eq!(syscall_name(5 | COMPAT).as_deref(), Some("32-bit call 5"));
    assert_eq!(syscall_name(9999).as_deref(), Some("call 9999"));
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

/// Each row of the table of probes, and what is nearly one.
#[test]
fn each_probe_has_its_row() {
    use Capability::{
        CAP_FSETID, CAP_IPC_LOCK, CAP_NET_ADMIN, CAP_SETPCAP, CAP_SYS_ADMIN, CAP_SYS_MODULE, CAP_SYS_PTRACE,
        CAP_SYS_RESOURCE, CAP_SYS_TTY_CONFIG, CAP_SYSLOG,
    };
    let of = |capability, call, quiet, stack: &[&str]| {
        let stack: Vec<String> = stack.iter().map(|name| (*name).to_owned()).collect();
        rules::probe(capability, call, quiet, &stack).map(|row| row.source)
    };
    let anywhere = |capability, call| of(capability, call, None, &[]);
    let below = |capability, call, function| of(capability, call, None, &[function]);
    let memory = Some("mm/util.c __vm_enough_memory, security/commoncap.c cap_vm_enough_memory");
    assert_eq!(below(CAP_SYS_ADMIN, "clone", "__vm_enough_memory"), memory);
    assert_eq!(anywhere(CAP_SYS_ADMIN, "clone"), None, "a namespace");
    assert_eq!(anywhere(CAP_SYS_ADMIN, "brk"), memory);
    assert_eq!(of(CAP_SYS_ADMIN, "brk", Some(false), &[]), None);
    let capset = "security/commoncap.c cap_capset, cap_inh_is_capped";
    assert_eq!((anywhere(CAP_SETPCAP, "capset"), anywhere(CAP_SETPCAP, "prctl")), (Some(capset), None));
    assert!(anywhere(CAP_FSETID, "chmod").is_some_and(|source| source.contains("setattr_prepare")));
    assert!(anywhere(CAP_SYS_PTRACE, "read").is_some_and(|source| source.contains("do_task_stat")));
    assert_eq!(of(CAP_SYS_PTRACE, "read", Some(false), &[]), None);
    assert_eq!(anywhere(CAP_SYS_PTRACE, "ptrace"), None);
    assert!(below(CAP_SYSLOG, "read", "restricted_pointer").is_some_and(|source| source.contains("vsprintf")));
    assert_eq!(below(CAP_SYSLOG, "read", "do_syslog"), None);
    assert!(anywhere(CAP_SYS_ADMIN, "statmount").is_some_and(|source| source.contains("do_statmount")));
    assert_eq!(anywhere(CAP_SYS_ADMIN, "mount"), None);
    let device = Some("net/core/dev_ioctl.c dev_load");
    assert_eq!(below(CAP_NET_ADMIN, "ioctl", "dev_load"), device);
    assert_eq!(below(CAP_NET_ADMIN, "ioctl", "dev_ioctl"), None, "it changes the device");
    assert_eq!(anywhere(CAP_SYS_MODULE, "socket"), device);
    assert_eq!(anywhere(CAP_SYS_MODULE, "init_module"), None);
    assert!(anywhere(CAP_NET_ADMIN, "recvmsg").is_some_and(|source| source.contains("inet_diag")));
    assert_eq!(anywhere(CAP_NET_ADMIN, "sendmsg"), None);
    assert!(anywhere(CAP_IPC_LOCK, "io_uring_setup").is_some_and(|source| source.contains("io_uring")));
    assert_eq!(anywhere(CAP_IPC_LOCK, "mlock"), None);
    for capability in [CAP_SYS_RESOURCE, CAP_SYS_ADMIN] {
        assert!(anywhere(capability, "pipe2").is_some_and(|source| source.contains("fs/pipe.c")));
    }
    assert_eq!(anywhere(CAP_SYS_RESOURCE, "prlimit64"), None);
    assert!(below(CAP_SYS_TTY_CONFIG, "ioctl", "vt_ioctl").is_some_and(|source| source.contains("vt_ioctl")));
    assert_eq!(below(CAP_SYS_TTY_CONFIG, "ioctl", "tty_ioctl"), None);
}

/// Refused the first and granted the second, whatever else the call failed of: one is enough.
#[test]
fn each_alternative_does() {
    use Capability::{
        CAP_BPF, CAP_CHECKPOINT_RESTORE, CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_NET_RAW,
        CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_NICE, CAP_SYS_RESOURCE, CAP_SYSLOG,
    };
    let judged = |first, second| {
        let mut bench = Bench::new();
        bench.asked_below(Bench::key(first, "openat", how::DENIED), OVERCOMMIT - 1);
        bench.came("openat", &[first], &[second], -1);
        bench.report().evidence[0].verdict.clone()
    };
    for (first, second) in [
        (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE),
        (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH),
        (CAP_PERFMON, CAP_SYS_ADMIN),
        (CAP_BPF, CAP_SYS_ADMIN),
        (CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN),
        (CAP_SYSLOG, CAP_SYS_ADMIN),
        (CAP_NET_ADMIN, CAP_SYS_ADMIN),
        (CAP_NET_RAW, CAP_NET_ADMIN),
        (CAP_SYS_RESOURCE, CAP_SYS_ADMIN),
        (CAP_SYS_ADMIN, CAP_SYS_NICE),
    ] {
        assert_eq!(judged(first, second), "probed", "{first}, {second}");
        assert_eq!(judged(first, CAP_CHOWN), "denied", "{first}: another one does not do");
    }
}
