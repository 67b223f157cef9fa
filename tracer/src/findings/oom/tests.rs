use bytemuck::Zeroable;
use serde_json::{Value, json};
use tracer_common::{
    UNKNOWN_U64,
    oom::{Done, Level, STAT_ANON, STAT_FILE, STAT_KMEM, STAT_SHMEM, STAT_SWAP},
};

use super::super::fixture::{
    HOST_CGROUP, Host, MS, PARENT, PARENT_CGROUP, SECOND, T, WEB, WEB_CGROUP, exit, header, host_task, web_task,
};
use super::*;
use crate::model::Severity;

const MIB_PAGES: u64 = 256;
const MIB: u64 = 1 << 20;
const NO_LIMIT: u64 = i64::MAX as u64 / 4096;

fn told(host: &Host, events: impl IntoIterator<Item = Event>) -> Vec<Finding> {
    let mut rule = Rule::default();
    let world = host.world();
    let mut findings = Vec::new();
    for event in events {
        findings.extend(rule.tick(event.header().time_ns, &world));
        rule.event(&event, &world);
    }
    findings.extend(rule.tick(T + 10 * SECOND, &world));
    findings
}

fn codes(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.code.0).collect()
}

fn level(cgroup: u64, usage_mib: u64, max_mib: Option<u64>) -> Level {
    Level {
        cgroup,
        usage: usage_mib * MIB_PAGES,
        max: max_mib.map_or(NO_LIMIT, |mib| mib * MIB_PAGES),
        swap_usage: 0,
        swap_max: NO_LIMIT,
        ..Level::zeroed()
    }
}

/// The container at its own limit of 64 MiB, below a parent without a limit.
fn own_limit() -> [Level; 3] {
    [level(WEB_CGROUP, 64, Some(64)), level(PARENT_CGROUP, 80, None), level(HOST_CGROUP, 900, None)]
}

/// A decision that some process of the container set off.
fn decision(trigger: Task, limiting: Level) -> Decision {
    let mut record = Decision::zeroed();
    record.header = header::<Decision>(T, limiting.cgroup);
    (record.trigger, record.trigger_cgroup) = (trigger, WEB_CGROUP);
    (record.constraint, record.total_pages, record.level) = (3, limiting.max, limiting);
    record
}

/// `decision` about the host's memory.
fn of_the_host(trigger: Task) -> Decision {
    let mut record = decision(trigger, Level::zeroed());
    record.header.cgroup = UNKNOWN_U64;
    (record.constraint, record.host, record.total_pages) = (0, 1, 1000 * MIB_PAGES);
    record
}

/// A process that was killed: 50 MiB of anonymous memory in a cgroup with 10 MiB more of other kinds.
fn victim(at: u64, task: Task, trigger: Task, levels: &[Level]) -> Victim {
    let mut record = Victim::zeroed();
    record.header = header::<Victim>(at, WEB_CGROUP);
    (record.victim, record.trigger, record.trigger_cgroup) = (task, trigger, WEB_CGROUP);
    record.mm = u64::from(task.tgid);
    (record.rss_anon_pages, record.rss_file_pages, record.rss_shmem_pages) = (50 * MIB_PAGES as i64, 512, 256);
    record.flags = VICTIM_ANNOUNCED | VICTIM_KILLED;
    record.depth = levels.len() as u32;
    record.levels[..levels.len()].copy_from_slice(levels);
    record.stats_cgroup = WEB_CGROUP;
    record.stats = [-1; tracer_common::oom::STATS];
    for (index, mib) in [(STAT_ANON, 50), (STAT_FILE, 6), (STAT_SHMEM, 2), (STAT_KMEM, 4), (STAT_SWAP, 0)] {
        record.stats[index] = mib * MIB_PAGES as i64;
    }
    record
}

fn done(at: u64, trigger: Task) -> Event {
    let mut record = Done::zeroed();
    record.header = header::<Done>(at, WEB_CGROUP);
    record.trigger_tid = trigger.tid;
    Event::OomDone(record)
}

#[expect(clippy::large_types_passed_by_value, reason = "each is made for this call")]
fn mark(record: Victim) -> Event {
    Event::OomVictim(Box::new(record))
}

fn gone(at: u64, task: Task) -> Event {
    Event::Exit(exit(at, task, 9))
}

/// One victim, PID 1 of the container, so that no child is left.
fn kill(limiting: Level, levels: &[Level]) -> [Event; 4] {
    let init = web_task(500, "app");
    [
        Event::OomDecision(decision(init, limiting)),
        mark(victim(T + MS, init, init, levels)),
        done(T + 2 * MS, init),
        gone(T + 3 * MS, init),
    ]
}

#[test]
fn its_own_limit() {
    let findings = told(&Host::new(), kill(own_limit()[0], &own_limit()));
    assert_eq!(codes(&findings), ["oom.container-limit"]);
    let finding = &findings[0];
    assert_eq!(finding.severity, Severity::Critical);
    assert_eq!(finding.container.as_ref().map(|container| container.cgroup.as_str()), Some(WEB));
    for (key, value) in [
        ("limit_bytes", json!(64 * MIB)),
        ("usage_bytes", json!(64 * MIB)),
        ("anon_bytes", json!(50 * MIB)),
        ("file_bytes", json!(6 * MIB)),
        ("shmem_bytes", json!(2 * MIB)),
        ("kernel_bytes", json!(4 * MIB)),
        ("swap_bytes", json!(0)),
        ("limiting_cgroup", json!(WEB)),
        ("cgroup", json!(WEB)),
        ("init_alive", json!(false)),
        ("inferred", json!(false)),
    ] {
        assert_eq!(finding.evidence[key], value, "{key}");
    }
    assert_eq!(finding.evidence["victims"][0]["anon_bytes"], 50 * MIB);
    assert_eq!(finding.evidence["victims"][0]["file_bytes"], 2 * MIB);
    assert_eq!(finding.evidence["victims"][0]["shmem_bytes"], MIB);
    assert!(finding.summary.contains("its own limit of 64.0 MiB"), "{}", finding.summary);
    assert!(finding.unknown.is_empty(), "{:?}", finding.unknown);
}

#[test]
fn a_parents_limit() {
    let levels = [level(WEB_CGROUP, 30, Some(64)), level(PARENT_CGROUP, 100, Some(100)), level(HOST_CGROUP, 900, None)];
    let findings = told(&Host::new(), kill(levels[1], &levels));
    assert_eq!(codes(&findings), ["oom.parent-limit"]);
    assert_eq!(findings[0].evidence["limiting_cgroup"], PARENT);
    assert_eq!(findings[0].evidence["limit_bytes"], 100 * MIB);
    assert_eq!(findings[0].evidence["cgroup"], WEB);
    assert!(findings[0].summary.contains(PARENT), "{}", findings[0].summary);
}

#[test]
fn the_hosts_memory() {
    let init = web_task(500, "app");
    let mut events = kill(own_limit()[0], &own_limit());
    events[0] = Event::OomDecision(of_the_host(init));
    let findings = told(&Host::new(), events.clone());
    assert_eq!(codes(&findings), ["oom.host"]);
    assert_eq!(findings[0].evidence["limit_bytes"], 1000 * MIB, "what the machine has");
    for key in ["usage_bytes", "anon_bytes", "swap_bytes", "limiting_cgroup"] {
        assert_eq!(findings[0].evidence[key], Value::Null, "{key}");
        assert!(findings[0].unknown[key].contains("host's memory"), "{key}");
    }
    for constraint in [1, 2] {
        events[0] = Event::OomDecision(Decision { constraint, ..of_the_host(init) });
        assert_eq!(codes(&told(&Host::new(), events.clone())), ["oom.cpuset"]);
    }
}

/// Without a hook on `oom_kill_process` the counters of the victim's cgroups say whose limit it was.
#[test]
fn without_the_decision_the_counters_decide() {
    let mut host = Host::new();
    host.facts.attached = vec!["oom_victim", "oom_sharer", "exit"];
    let init = web_task(500, "app");
    let marked = Victim { flags: VICTIM_KILLED, ..victim(T, init, init, &own_limit()) };
    let findings = told(&host, [mark(marked)]);
    assert_eq!(codes(&findings), ["oom.container-limit"]);
    assert_eq!(findings[0].evidence["inferred"], true);
    assert_eq!(findings[0].evidence["order"], Value::Null);
    assert!(findings[0].unknown.contains_key("order"));
    let findings = told(&host, [mark(Victim { stats_cgroup: PARENT_CGROUP, ..marked })]);
    assert_eq!(codes(&findings), ["oom.parent-limit"]);
    let findings = told(&host, [mark(Victim { stats_cgroup: UNKNOWN_U64, ..marked })]);
    assert_eq!(codes(&findings), ["oom.host"]);
}

#[test]
fn a_group_is_one_finding() {
    let mut levels = own_limit();
    levels[0].oom_group = 1;
    let init = web_task(500, "app");
    let mut events = vec![Event::OomDecision(decision(init, levels[0]))];
    for pid in [500, 501, 502] {
        events.push(mark(victim(T + MS, web_task(pid, "app"), init, &levels)));
    }
    events.push(done(T + 2 * MS, init));
    let findings = told(&Host::new(), events.clone());
    assert_eq!(codes(&findings), ["oom.group-kill"]);
    let pids: Vec<u64> = findings[0].evidence["victims"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|victim| victim["process"]["pid"].as_u64())
        .collect();
    assert_eq!(pids, [500, 501, 502]);
    assert!(findings[0].summary.contains("and 2 more were killed"), "{}", findings[0].summary);
    // The same without a decision: marks by one thread, of one group, close together.
    let mut host = Host::new();
    host.facts.attached = vec!["oom_victim", "oom_sharer", "exit"];
    events.retain(|event| matches!(event, Event::OomVictim(_)));
    for event in &mut events {
        if let Event::OomVictim(victim) = event {
            victim.flags = VICTIM_KILLED;
        }
    }
    let findings = told(&host, events);
    assert_eq!(codes(&findings), ["oom.group-kill"]);
    assert_eq!(findings[0].evidence["victims"].as_array().map(Vec::len), Some(3));
}

/// A group above the limit's cgroup does not die with it, and one that is off is none. 255: it could not be read.
#[test]
fn near_misses_of_the_group_kill() {
    let mut above = own_limit();
    above[1].oom_group = 1;
    assert_eq!(codes(&told(&Host::new(), kill(above[0], &above))), ["oom.container-limit"]);
    assert_eq!(
        codes(&told(&Host::new(), kill(above[1], &above))),
        ["oom.group-kill"],
        "but within the limit's it does"
    );
    let mut unread = own_limit();
    unread[0].oom_group = 255;
    assert_eq!(codes(&told(&Host::new(), kill(unread[0], &unread))), ["oom.container-limit"]);
}

/// Two decisions one after another are two findings, with and without the record of their end.
#[test]
fn two_decisions_are_two_findings() {
    let (init, first, second) = (web_task(500, "app"), web_task(501, "a"), web_task(502, "b"));
    let events = |with_done: bool| {
        let mut events =
            vec![Event::OomDecision(decision(init, own_limit()[0])), mark(victim(T + MS, first, init, &own_limit()))];
        events.extend(with_done.then(|| done(T + 2 * MS, init)));
        events.push(Event::OomDecision(decision(init, own_limit()[0])));
        events.push(mark(victim(T + 3 * MS, second, init, &own_limit())));
        told(&Host::new(), events)
    };
    for findings in [events(true), events(false)] {
        let firsts: Vec<&Finding> = findings.iter().filter(|finding| finding.refers_to.is_none()).collect();
        assert_eq!(firsts.len(), 2);
        assert_ne!(firsts[0].id, firsts[1].id);
        assert_eq!(firsts[0].evidence["victims"][0]["process"]["pid"], 501);
        assert_eq!(firsts[1].evidence["victims"][0]["process"]["pid"], 502);
    }
}

/// A child of the container is killed.
fn child_kill(child: Task, more: impl IntoIterator<Item = Event>) -> Vec<Finding> {
    let mut events =
        vec![Event::OomDecision(decision(child, own_limit()[0])), mark(victim(T + MS, child, child, &own_limit()))];
    events.extend(more);
    events.push(done(T + 2 * MS, child));
    events.push(gone(T + 3 * MS, child));
    told(&Host::new(), events)
}

#[test]
fn a_child_under_a_living_pid_1() {
    let findings = child_kill(web_task(501, "worker"), []);
    assert_eq!(codes(&findings), ["oom.container-limit", "oom.child-killed"]);
    assert_eq!(findings[0].evidence["init_alive"], true);
    assert_eq!(findings[1].severity, Severity::Warning);
    assert_eq!(findings[1].refers_to.as_ref(), Some(&findings[0].id));
    assert_eq!(findings[1].evidence["init_pid"], 500);
    assert!(findings[1].summary.contains("PID 1 is alive after the OOM kill of worker"), "{}", findings[1].summary);
}

#[test]
fn near_misses_of_the_killed_child() {
    let (child, init) = (web_task(501, "worker"), web_task(500, "app"));
    let both = child_kill(child, [mark(victim(T + MS, init, child, &own_limit()))]);
    assert_eq!(codes(&both), ["oom.container-limit"], "PID 1 is a victim as well");
    assert_eq!(both[0].evidence["init_alive"], false);
    let followed = child_kill(child, [gone(T + 2 * MS, init)]);
    assert_eq!(codes(&followed), ["oom.container-limit"], "PID 1 ended because its child did");
    let exiting = child_kill(Task { init_exiting: 1, ..child }, []);
    assert_eq!(codes(&exiting), ["oom.container-limit"], "PID 1 was ending already");
    let sharing = Sharer { victim: init, mm: 501, trigger_tid: 501, ..Sharer::zeroed() };
    let shared = child_kill(child, [Event::OomSharer(sharing)]);
    assert_eq!(codes(&shared), ["oom.container-limit"], "PID 1 shares its memory, and dies with it");
}

#[test]
fn whether_pid_1_lives_is_null_where_there_is_none() {
    let of = |task: Task| {
        let findings = child_kill(task, []);
        assert_eq!(codes(&findings), ["oom.container-limit"]);
        assert_eq!(findings[0].evidence["init_alive"], Value::Null);
        findings[0].unknown["init_alive"].clone()
    };
    assert!(of(host_task(501, "worker")).contains("host's pid namespace"));
    let unread = Task { init: u32::MAX, ..web_task(501, "worker") };
    assert!(of(unread).contains("could not be read"));
}

/// `mark_victim` without a kill before it marks who is dying already; without a decision where decisions are seen, it
/// belongs to none.
#[test]
fn marks_that_kill_nobody() {
    let init = web_task(500, "app");
    for flags in [0, VICTIM_ANNOUNCED, VICTIM_KILLED] {
        let marked = Victim { flags, ..victim(T + MS, init, init, &own_limit()) };
        let events = [Event::OomDecision(decision(init, own_limit()[0])), mark(marked), done(T + 2 * MS, init)];
        assert_eq!(codes(&told(&Host::new(), events)), [""; 0], "{flags}");
    }
    // Marked again while it dies: told once.
    let again = victim(T + 3 * MS, init, init, &own_limit());
    let mut events = Vec::from(kill(own_limit()[0], &own_limit()));
    events.insert(2, mark(again));
    let findings = told(&Host::new(), events);
    assert_eq!(findings[0].evidence["victims"].as_array().map(Vec::len), Some(1));
}

/// Who asked stands in the decision's record; the marks have no more than a name.
#[test]
fn a_decision_whose_record_was_lost() {
    let init = web_task(500, "app");
    let asked = Task { ns_pid: u32::MAX, ppid: u32::MAX, uid: u32::MAX, start_ns: u64::MAX, ..init };
    let events = [mark(victim(T + MS, init, asked, &own_limit())), done(T + 2 * MS, init), gone(T + 3 * MS, init)];
    let findings = told(&Host::new(), events);
    assert_eq!(codes(&findings), ["oom.container-limit"], "its counters tell whose limit it was");
    let trigger = &findings[0].evidence["trigger"];
    assert_eq!(trigger["process"]["comm"], "app");
    for key in ["ns_pid", "ppid", "uid"] {
        assert_eq!(trigger["process"][key], Value::Null);
        assert!(trigger["unknown"][key].as_str().is_some_and(|why| why.contains("lost")), "{trigger}");
    }
    assert!(findings[0].unknown["order"].contains("lost"));
    let seen = told(&Host::new(), kill(own_limit()[0], &own_limit()));
    assert_eq!(seen[0].evidence["trigger"]["unknown"], Value::Null);
}

#[test]
fn who_shares_the_memory_dies_once() {
    let (init, child) = (web_task(500, "app"), web_task(501, "vforked"));
    let sharer = |mm, trigger_tid| {
        Event::OomSharer(Sharer {
            header: header::<Sharer>(T + MS, WEB_CGROUP),
            victim: child,
            mm,
            trigger_tid,
            oom_score_adj: 7,
        })
    };
    let with = |more: Vec<Event>| {
        let mut events = Vec::from(kill(own_limit()[0], &own_limit()));
        events.splice(2..2, more);
        let findings = told(&Host::new(), events);
        findings[0].evidence["victims"].as_array().cloned().unwrap_or_default()
    };
    let victims = with(vec![sharer(500, 500), sharer(500, 500)]);
    assert_eq!(victims.len(), 2);
    assert_eq!(victims[1]["process"]["pid"], 501);
    assert_eq!(victims[1]["oom_score_adj"], 7);
    assert_eq!(victims[1]["anon_bytes"], Value::Null);
    assert!(victims[1]["unknown"]["anon_bytes"].is_string());
    // Announced as a sharer first, as a victim of its own after: once, with its numbers.
    let victims = with(vec![sharer(500, 500), mark(victim(T + MS, child, init, &own_limit()))]);
    assert_eq!(victims.len(), 2);
    assert_eq!(victims[1]["anon_bytes"], 50 * MIB);
    assert_eq!(with(vec![sharer(77, 500)]).len(), 1, "other memory");
    assert_eq!(with(vec![sharer(500, 77)]).len(), 1, "another decision");
}

/// The kernel flushes a cgroup's statistics for its own report; where it suppressed that, they are old.
#[test]
fn an_old_split_is_null_with_its_reason() {
    let split = |anon_mib: i64| {
        let mut events = kill(own_limit()[0], &own_limit());
        if let Event::OomVictim(victim) = &mut events[1] {
            victim.stats[STAT_ANON] = anon_mib * MIB_PAGES as i64;
        }
        told(&Host::new(), events).remove(0)
    };
    let old = split(45);
    for key in ["anon_bytes", "file_bytes", "shmem_bytes", "kernel_bytes"] {
        assert_eq!(old.evidence[key], Value::Null, "{key}");
        assert!(old.unknown[key].contains("stale"), "{key}");
    }
    assert_eq!(old.evidence["usage_bytes"], 64 * MIB, "the counter itself is never old");
    assert_eq!(split(50).evidence["anon_bytes"], 50 * MIB, "all but what the CPUs hold back");
    let mut events = kill(own_limit()[0], &own_limit());
    if let Event::OomVictim(victim) = &mut events[1] {
        victim.stats[STAT_ANON] = -1;
    }
    assert!(told(&Host::new(), events)[0].unknown["anon_bytes"].contains("cannot find"));
}

/// On v1 a limit of memory and swap together may be the one that was hit.
#[test]
fn v1_limits_memory_and_swap_together() {
    let mut levels = own_limit();
    levels[0] = Level { usage: 50 * MIB_PAGES, swap_usage: 96 * MIB_PAGES, swap_max: 96 * MIB_PAGES, ..levels[0] };
    let mut host = Host::new();
    host.facts.cgroup_version = 1;
    let findings = told(&host, kill(levels[0], &levels));
    assert_eq!(findings[0].evidence["limit_bytes"], 96 * MIB);
    assert_eq!(findings[0].evidence["usage_bytes"], 96 * MIB);
    assert_eq!(findings[0].evidence["swap_bytes"], 0, "from the statistics: the counter is the sum");
    // Memory is the shorter of the two.
    levels[0] = Level { usage: 64 * MIB_PAGES, swap_usage: 70 * MIB_PAGES, ..levels[0] };
    assert_eq!(told(&host, kill(levels[0], &levels))[0].evidence["limit_bytes"], 64 * MIB);
    // On v2 that counter is swap's own.
    levels[0] = Level { usage: 50 * MIB_PAGES, swap_usage: 96 * MIB_PAGES, ..levels[0] };
    let findings = told(&Host::new(), kill(levels[0], &levels));
    assert_eq!(findings[0].evidence["limit_bytes"], 64 * MIB);
    assert_eq!(findings[0].evidence["swap_bytes"], 96 * MIB);
}

#[test]
fn a_limit_that_is_no_more_is_null() {
    let levels = [level(WEB_CGROUP, 64, None), level(PARENT_CGROUP, 80, None)];
    let findings = told(&Host::new(), kill(levels[0], &levels));
    assert_eq!(findings[0].evidence["limit_bytes"], Value::Null);
    assert!(findings[0].unknown["limit_bytes"].contains("no limit now"));
}

/// Told once the victims are gone and whoever waited for them could react; at the latest after a while.
#[test]
fn when_it_is_told() {
    let host = Host::new();
    let world = host.world();
    let mut rule = Rule::default();
    let [decision, mark, done, gone] = kill(own_limit()[0], &own_limit());
    for event in [decision, mark, done] {
        rule.event(&event, &world);
    }
    assert_eq!(rule.next_ns(), Some(T + PATIENCE_NS), "the victim lives yet");
    assert!(rule.tick(T + 300 * MS, &world).is_empty());
    rule.event(&gone, &world);
    assert_eq!(rule.next_ns(), Some(T + 3 * MS + SETTLE_NS));
    assert!(rule.tick(T + 152 * MS, &world).is_empty());
    assert_eq!(rule.tick(T + 153 * MS, &world).len(), 1);
    assert!(rule.tick(T + 10 * SECOND, &world).is_empty(), "a point finding is told once");
    assert_eq!(rule.next_ns(), None);
}

#[test]
fn a_victim_is_known_by_its_decision() {
    let host = Host::new();
    let mut rule = Rule::default();
    for event in kill(own_limit()[0], &own_limit()) {
        rule.event(&event, &host.world());
    }
    let init = web_task(500, "app");
    let (id, at) = rule.killed_by(&init).expect("it was killed");
    assert_eq!(at, T + MS);
    assert_eq!(rule.killed_by(&Task { start_ns: init.start_ns + 1, ..init }), None, "a namesake");
    assert_eq!(rule.killed_by(&web_task(501, "worker")), None);
    assert_eq!(rule.tick(T + SECOND, &host.world())[0].id, id);
}
