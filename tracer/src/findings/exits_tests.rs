use bytemuck::Zeroable;
use tracer_common::oom::{Decision, Done, VICTIM_ANNOUNCED, VICTIM_KILLED, Victim};

use super::super::fixture::{
    HOST_CGROUP, Host, MS, OTHER_CGROUP, SECOND, SEGV_MAPERR, SI_KERNEL, SI_TKILL, SIGABRT, SIGHUP, SIGINT, SIGKILL,
    SIGPIPE, SIGQUIT, SIGSEGV, SIGTERM, T, WEB, WEB_CGROUP, exit, header, host_task, sent, signal, web_task,
};
use tracer_common::task::Task;

use super::*;
use crate::model::Process;
use crate::model::Severity::{Info, Warning};

/// All that a rule makes of these events, until nothing waits any more.
fn told(host: &Host, rule: &mut Rule, events: impl IntoIterator<Item = Event>) -> Told {
    let world = host.world();
    let mut all = Told::default();
    let mut add = |told: Told| {
        all.rows.extend(told.rows);
        all.findings.extend(told.findings);
        all.ask.extend(told.ask);
    };
    for event in events {
        // As the pipeline does: what is due goes first.
        let now = event.header().time_ns;
        while let Some(due) = rule.next_ns().filter(|due| *due <= now) {
            add(rule.tick(due, &world));
        }
        add(rule.event(&event, &world));
    }
    while let Some(due) = rule.next_ns() {
        add(rule.tick(due, &world));
    }
    all
}

fn tell(events: impl IntoIterator<Item = Event>) -> Told {
    told(&Host::new(), &mut Rule::default(), events)
}

fn codes(told: &Told) -> Vec<&'static str> {
    told.findings.iter().map(|finding| finding.code.0).collect()
}

fn cause(told: &Told, row: usize) -> &Value {
    &told.rows[row].fields["cause"]
}

fn finding<'a>(told: &'a Told, code: &str) -> &'a Finding {
    told.findings.iter().find(|finding| finding.code.0 == code).unwrap_or_else(|| panic!("no {code}"))
}

/// A kill decision of the kernel, up to its end.
fn oom_kill(at: u64, victim: Task) -> [Event; 3] {
    let (mut decision, mut mark, mut done) = (Decision::zeroed(), Victim::zeroed(), Done::zeroed());
    decision.header = header::<Decision>(at, WEB_CGROUP);
    (decision.trigger, decision.trigger_cgroup, decision.chosen) = (victim, WEB_CGROUP, victim.tgid);
    decision.level.cgroup = WEB_CGROUP;
    mark.header = header::<Victim>(at + MS, WEB_CGROUP);
    (mark.victim, mark.trigger, mark.flags) = (victim, victim, VICTIM_ANNOUNCED | VICTIM_KILLED);
    done.header = header::<Done>(at + 2 * MS, WEB_CGROUP);
    done.trigger_tid = victim.tid;
    [Event::OomDecision(decision), Event::OomVictim(Box::new(mark)), Event::OomDone(done)]
}

/// The kernel's own SIGKILL, as `SEND_SIG_PRIV` sends it: in the context of whoever ran.
fn by_kernel(at: u64, number: u32, runs: Task, target: Task) -> Signal {
    Signal { code: SI_KERNEL, ..signal(at, number, runs, target) }
}

#[test]
fn killed_by_another_process() {
    let app = web_task(510, "app");
    let told = tell([sent(signal(T, SIGKILL, host_task(70, "bash"), app)), Event::Exit(exit(T + MS, app, SIGKILL))]);
    assert_eq!(codes(&told), ["exit.signal"]);
    let finding = &told.findings[0];
    assert_eq!(finding.severity, Warning);
    assert_eq!(finding.process.as_ref().map(|process| process.pid), Some(510));
    assert_eq!(finding.container.as_ref().map(|container| container.cgroup.as_str()), Some(WEB));
    assert!(
        finding.summary.contains("app (pid 510) was killed by SIGKILL from bash (70, host)"),
        "{}",
        finding.summary
    );
    let row = &told.rows[0];
    assert_eq!(row.fields["signal"], "SIGKILL");
    assert_eq!(row.fields["exit_code"], Value::Null);
    assert_eq!(cause(&told, 0)["kind"], "signal");
    assert_eq!(cause(&told, 0)["by"]["process"]["pid"], 70);
    assert_eq!(cause(&told, 0)["by"]["container"], Value::Null);
    assert_eq!(cause(&told, 0)["finding"], json!(finding.id));
    assert_eq!(row.fields["lifetime_ns"], 100 * SECOND - 510 + MS);
}

/// A process that ends itself by a signal is nobody's victim; nor is one that only got a signal which it survived.
#[test]
fn near_misses_of_killed_by_another() {
    let app = web_task(510, "app");
    let itself = tell([sent(signal(T, SIGKILL, app, app)), Event::Exit(exit(T + MS, app, SIGKILL))]);
    assert_eq!(codes(&itself), [""; 0]);
    assert_eq!(cause(&itself, 0)["kind"], "signal");
    let survived = tell([sent(signal(T, SIGTERM, host_task(70, "bash"), app)), Event::Exit(exit(T + SECOND, app, 0))]);
    assert_eq!(codes(&survived), [""; 0]);
    assert_eq!(cause(&survived, 0)["kind"], "status");
    // A namesake: the same pid, but an older process.
    let mut older = app;
    older.start_ns -= SECOND;
    let reused =
        tell([sent(signal(T, SIGKILL, host_task(70, "bash"), older)), Event::Exit(exit(T + MS, app, SIGKILL))]);
    assert_eq!(codes(&reused), [""; 0]);
    assert!(reused.rows[0].unknown["cause"].contains("not seen"));
    assert_eq!(cause(&reused, 0)["by"], Value::Null);
    // Dropped by the kernel, so it ended nothing.
    let dropped = Signal { result: 1, ..signal(T, SIGKILL, web_task(511, "sh"), app) };
    let other = tell([sent(dropped), Event::Exit(exit(T + MS, app, SIGKILL))]);
    assert_eq!(cause(&other, 0)["by"], Value::Null);
}

/// The first of two killers did it.
#[test]
fn the_first_killer_is_named() {
    let app = web_task(510, "app");
    let told = tell([
        sent(signal(T, SIGKILL, host_task(70, "bash"), app)),
        sent(signal(T + MS, SIGKILL, host_task(71, "pkill"), app)),
        Event::Exit(exit(T + 2 * MS, app, SIGKILL)),
    ]);
    assert_eq!(codes(&told), ["exit.signal"]);
    assert_eq!(cause(&told, 0)["by"]["process"]["pid"], 70);
}

/// The last two threads may both see themselves as the last.
#[test]
fn one_process_dies_once() {
    let app = web_task(510, "app");
    let told = tell([Event::Exit(exit(T, app, 3 << 8)), Event::Exit(exit(T, app, 3 << 8))]);
    assert_eq!(told.rows.len(), 1);
    let mut next = app;
    next.start_ns += 1;
    let told = tell([Event::Exit(exit(T, app, 3 << 8)), Event::Exit(exit(T + MS, next, 3 << 8))]);
    assert_eq!(told.rows.len(), 2, "another process with that pid");
}

#[test]
fn the_engine_behind_runc_is_named() {
    let (host, mut rule) = (Host::new(), Rule::default());
    let (app, runc) = (web_task(500, "app"), host_task(70, "runc"));
    let asked = told(&host, &mut rule, [sent(signal(T, SIGKILL, runc, app))]).ask;
    assert_eq!(asked, [70, 1], "runc may be gone: its parent too");
    let ancestor = |pid, comm: &str| Ancestor {
        process: Process { pid, tid: pid, ns_pid: None, ppid: None, comm: comm.to_owned(), uid: None },
        cgroup: None,
    };
    rule.ancestry(70, &[ancestor(70, "runc"), ancestor(60, "containerd-shim"), ancestor(50, "dockerd")], T);
    let told = told(&host, &mut rule, [Event::Exit(exit(T + MS, app, SIGKILL))]);
    let via: Vec<u64> = cause(&told, 0)["via"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|via| via["process"]["pid"].as_u64())
        .collect();
    assert_eq!(via, [60, 50]);
    assert!(finding(&told, "exit.signal").summary.contains("for containerd-shim ← dockerd"));
}

#[test]
fn the_engine_behind_a_runc_that_is_gone_is_named() {
    let (host, mut rule) = (Host::new(), Rule::default());
    let (app, mut runc) = (web_task(500, "app"), host_task(70, "runc"));
    runc.ppid = 60;
    assert_eq!(told(&host, &mut rule, [sent(signal(T, SIGKILL, runc, app))]).ask, [70, 60]);
    let shim = Process { pid: 60, tid: 60, ns_pid: None, ppid: None, comm: "containerd-shim".to_owned(), uid: None };
    rule.ancestry(70, &[], T);
    rule.ancestry(60, &[Ancestor { process: shim, cgroup: None }], T);
    let told = told(&host, &mut rule, [Event::Exit(exit(T + MS, app, SIGKILL))]);
    assert_eq!(cause(&told, 0)["via"][0]["process"]["pid"], 60);
}

/// Pids come round: who stood behind one a while ago need not stand behind it now.
#[test]
fn who_stands_behind_a_pid_is_asked_again() {
    let (host, mut rule) = (Host::new(), Rule::default());
    let (app, runc) = (web_task(500, "app"), host_task(70, "runc"));
    for pid in [70, 1] {
        rule.ancestry(pid, &[], T);
    }
    assert!(told(&host, &mut rule, [sent(signal(T + 9 * SECOND, SIGKILL, runc, app))]).ask.is_empty());
    assert_eq!(told(&host, &mut rule, [sent(signal(T + 10 * SECOND, SIGKILL, runc, app))]).ask, [70, 1]);
}

/// Who sits beside the victim in its container needs no parents; nor has a shell any that matter.
#[test]
fn nobody_stands_behind_an_ordinary_sender() {
    let (host, mut rule) = (Host::new(), Rule::default());
    let app = web_task(510, "app");
    assert!(told(&host, &mut rule, [sent(signal(T, SIGKILL, web_task(511, "sh"), app))]).ask.is_empty());
    let mut elsewhere = signal(T, SIGKILL, host_task(72, "runc"), host_task(73, "app"));
    elsewhere.header.cgroup = HOST_CGROUP;
    assert!(told(&host, &mut rule, [sent(elsewhere)]).ask.is_empty(), "a victim of the host");
    elsewhere = signal(T, SIGKILL, host_task(72, "runc"), app);
    elsewhere.sender_cgroup = OTHER_CGROUP;
    assert_eq!(told(&host, &mut rule, [sent(elsewhere)]).ask, [72, 1], "a sender in another container");
}

#[test]
fn an_oom_kill_is_told_as_the_decision_says() {
    let app = web_task(510, "app");
    let [decision, mark, done] = oom_kill(T, app);
    let kernels = sent(by_kernel(T + MS, SIGKILL, app, app));
    let told = tell([decision, kernels, mark, done, Event::Exit(exit(T + 3 * MS, app, SIGKILL))]);
    assert_eq!(cause(&told, 0)["kind"], "oom");
    assert_eq!(cause(&told, 0)["by"], Value::Null);
    let oom = told.findings.iter().find(|finding| finding.code.0.starts_with("oom.")).expect("the decision is told");
    assert_eq!(cause(&told, 0)["finding"], json!(oom.id));
    assert!(!codes(&told).iter().any(|code| code.starts_with("exit.")), "{:?}", codes(&told));
}

/// 137 is SIGKILL's, and nothing more: without a decision about this very process it is no OOM kill.
#[test]
fn kill_9_is_no_oom_kill() {
    let (app, other) = (web_task(510, "app"), web_task(511, "app"));
    let mut events = Vec::from(oom_kill(T, other));
    events.push(sent(signal(T + MS, SIGKILL, host_task(70, "bash"), app)));
    events.push(Event::Exit(exit(T + 2 * MS, app, SIGKILL)));
    let told = tell(events);
    assert_eq!(cause(&told, 0)["kind"], "signal");
    assert_eq!(finding(&told, "exit.signal").process.as_ref().map(|process| process.pid), Some(510));
    // A status of 137 is not even a signal.
    let told = tell([Event::Exit(exit(T, app, 137 << 8))]);
    assert_eq!(cause(&told, 0)["kind"], "status");
    assert_eq!(told.rows[0].fields["exit_code"], 137);
    assert_eq!(codes(&told), ["exit.error"]);
}

/// An OOM victim that ended by another signal first was not killed by the OOM killer.
#[test]
fn an_oom_victim_that_crashed_first_crashed() {
    let app = web_task(510, "app");
    let mut events = vec![sent(Signal { address: 8, code: SEGV_MAPERR, ..signal(T, SIGSEGV, app, app) })];
    events.extend(oom_kill(T + MS, app));
    events.push(Event::Exit(exit(T + 4 * MS, app, SIGSEGV)));
    assert_eq!(cause(&tell(events), 0)["kind"], "crash");
}

fn dead_init(with: &[Task]) -> Told {
    let init = web_task(500, "app");
    let mut events = vec![Event::Exit(exit(T, init, 3 << 8))];
    for (at, child) in with.iter().enumerate() {
        let at = T + MS * (1 + at as u64);
        events.push(sent(by_kernel(at, SIGKILL, init, *child)));
        events.push(Event::Exit(exit(at, Task { init_exiting: 1, ..*child }, SIGKILL)));
    }
    tell(events)
}

#[test]
fn children_die_with_their_pid_1() {
    let children: Vec<Task> = (501..511).map(|pid| web_task(pid, "worker")).collect();
    let told = dead_init(&children);
    assert_eq!(codes(&told), ["exit.error", "exit.init-died"]);
    let found = finding(&told, "exit.init-died");
    assert_eq!(found.severity, Info);
    assert_eq!(found.evidence["count"], 10);
    assert_eq!(found.evidence["init"]["pid"], 500);
    assert!(found.summary.starts_with("10 processes died because PID 1 app did (status 3)"), "{}", found.summary);
    assert_eq!(told.rows.len(), 11);
    for row in &told.rows[1..] {
        assert_eq!(row.fields["cause"]["kind"], "init-died");
        assert_eq!(row.fields["cause"]["finding"], json!(found.id));
    }
    let one = dead_init(&children[..1]);
    assert!(finding(&one, "exit.init-died").summary.starts_with("1 process died"));
}

/// A PID 1 that died alone took nobody with it; who was killed by a process, or before PID 1 ended, or in another
/// namespace, is not its victim.
#[test]
fn near_misses_of_init_died() {
    assert_eq!(codes(&dead_init(&[])), ["exit.error"]);
    let init = web_task(500, "app");
    let end = Event::Exit(exit(T, init, 0));
    let child = Task { init_exiting: 1, ..web_task(501, "worker") };
    let by_process = tell([
        end.clone(),
        sent(signal(T + MS, SIGKILL, host_task(70, "runc"), child)),
        Event::Exit(exit(T + 2 * MS, child, SIGKILL)),
    ]);
    assert_eq!(cause(&by_process, 1)["kind"], "signal");
    assert!(!codes(&by_process).contains(&"exit.init-died"));
    let living = Task { init_exiting: 0, ..child };
    let before = tell([end.clone(), Event::Exit(exit(T + MS, living, SIGKILL))]);
    assert_eq!(cause(&before, 1)["kind"], "signal");
    let elsewhere = Task { pidns: 4_026_532_999, ..child };
    let other = tell([end.clone(), Event::Exit(exit(T + MS, elsewhere, SIGKILL))]);
    assert_eq!(cause(&other, 1)["kind"], "signal");
    let by_itself = tell([end, Event::Exit(exit(T + MS, child, 0))]);
    assert_eq!(cause(&by_itself, 1)["kind"], "status");
    assert_eq!(codes(&by_itself), [""; 0]);
}

/// A stop of PID 1 by this signal, and SIGKILL so much later.
fn stop(stop: Signal, after_ns: u64) -> Told {
    let kill = signal(stop.header.time_ns + after_ns, SIGKILL, host_task(80, "runc"), stop.target);
    tell([sent(stop), sent(kill), Event::Exit(exit(kill.header.time_ns + MS, stop.target, SIGKILL))])
}

#[test]
fn a_stop_that_was_not_obeyed() {
    for number in [SIGTERM, SIGQUIT, SIGINT, 37] {
        let ignored = Signal { result: 1, ..signal(T, number, host_task(70, "runc"), web_task(500, "sh")) };
        let told = stop(ignored, 1200 * MS);
        assert_eq!(codes(&told), ["exit.signal", "exit.stop-timeout"], "{}", signal_name(number));
        let found = finding(&told, "exit.stop-timeout");
        assert_eq!(found.severity, Warning);
        assert_eq!(found.evidence["grace_ns"], 1200 * MS);
        assert_eq!(found.evidence["stop_signal"], signal_name(number));
        assert!(found.summary.contains("killed 1.2 s later"), "{}", found.summary);
        assert!(found.why.contains("no handler"), "{}", found.why);
    }
    let handled = Signal { disposition: 2, ..signal(T, SIGTERM, host_task(70, "runc"), web_task(500, "sh")) };
    assert!(finding(&stop(handled, 10 * SECOND), "exit.stop-timeout").why.contains("its handler did not end it"));
}

#[test]
fn near_misses_of_the_stop_timeout() {
    let term = signal(T, SIGTERM, host_task(70, "runc"), web_task(500, "app"));
    assert_eq!(codes(&stop(term, 300 * MS)), ["exit.signal"], "within the shortest grace time");
    assert_eq!(codes(&stop(term, 601 * SECOND)), ["exit.signal"], "another story");
    let user = signal(T, 10, host_task(70, "runc"), web_task(500, "app"));
    assert_eq!(codes(&stop(user, 10 * SECOND)), ["exit.signal"], "SIGUSR1 stops nobody");
    let inside = signal(T, SIGTERM, web_task(501, "sh"), web_task(500, "app"));
    assert_eq!(codes(&stop(inside, 10 * SECOND)), ["exit.signal"], "from inside");
    let child = signal(T, SIGTERM, host_task(70, "runc"), web_task(501, "app"));
    assert_eq!(codes(&stop(child, 10 * SECOND)), ["exit.signal"], "not PID 1");
    let obeyed = tell([sent(term), Event::Exit(exit(T + 2 * SECOND, term.target, 0))]);
    assert_eq!(codes(&obeyed), [""; 0], "it ended by itself");
    let ended = tell([sent(term), Event::Exit(exit(T + 2 * SECOND, term.target, SIGTERM))]);
    assert_eq!(codes(&ended), ["exit.signal"], "it ended of the stop signal");
}

/// A reload long before is not the stop.
#[test]
fn the_grace_time_counts_from_the_last_stop_signal() {
    let app = web_task(500, "nginx");
    let told = tell([
        sent(Signal { disposition: 2, ..signal(T, SIGHUP, host_task(69, "runc"), app) }),
        sent(signal(T + 300 * SECOND, SIGTERM, host_task(70, "runc"), app)),
        sent(signal(T + 310 * SECOND, SIGKILL, host_task(71, "runc"), app)),
        Event::Exit(exit(T + 310 * SECOND, app, SIGKILL)),
    ]);
    let found = finding(&told, "exit.stop-timeout");
    assert_eq!(found.evidence["stop_signal"], "SIGTERM");
    assert_eq!(found.evidence["grace_ns"], 10 * SECOND);
}

/// A flood of one signal does not push the stop signal out of what is remembered.
#[test]
fn a_flood_does_not_hide_the_stop() {
    let app = web_task(500, "app");
    let mut events = vec![sent(Signal { result: 1, ..signal(T, SIGTERM, host_task(70, "runc"), app) })];
    events.extend((1..=100).map(|n| sent(signal(T + n * 100 * MS, 10, host_task(72, "kill"), app))));
    events.push(sent(signal(T + 11 * SECOND, SIGKILL, host_task(71, "runc"), app)));
    events.push(Event::Exit(exit(T + 11 * SECOND, app, SIGKILL)));
    assert_eq!(finding(&tell(events), "exit.stop-timeout").evidence["grace_ns"], 11 * SECOND);
}

#[test]
fn crashes_of_its_own() {
    let app = web_task(510, "app");
    let fault = Signal { code: SEGV_MAPERR, address: 0xdead, ..signal(T, SIGSEGV, app, app) };
    let told = tell([sent(fault), Event::Exit(exit(T + MS, app, SIGSEGV | 0x80))]);
    assert_eq!(codes(&told), ["exit.crash"]);
    let found = finding(&told, "exit.crash");
    assert_eq!(found.severity, Warning);
    assert_eq!(found.evidence["fault_address"], "0xdead");
    assert!(found.summary.ends_with("crashed with SIGSEGV at address 0xdead"), "{}", found.summary);
    assert_eq!(found.why, "a fault of its own; a core was written");
    assert_eq!(told.rows[0].fields["fault_address"], "0xdead");
    assert_eq!(told.rows[0].fields["core"], true);
    assert_eq!(cause(&told, 0)["kind"], "crash");
    assert_eq!(cause(&told, 0)["by"], Value::Null);
    // abort() sends the signal to itself.
    let abort = Signal { code: SI_TKILL, ..signal(T, SIGABRT, app, app) };
    let told = tell([sent(abort), Event::Exit(exit(T + MS, app, SIGABRT))]);
    assert_eq!(codes(&told), ["exit.crash"]);
    assert!(!finding(&told, "exit.crash").evidence.contains_key("fault_address"), "an abort touches nothing");
    assert_eq!(finding(&told, "exit.crash").why, "a fault of its own; no core was written");
}

/// A fault without an address (a general protection fault): said so.
#[test]
fn a_fault_whose_address_the_kernel_does_not_give() {
    let app = web_task(510, "app");
    let told = tell([sent(by_kernel(T, SIGSEGV, app, app)), Event::Exit(exit(T + MS, app, SIGSEGV))]);
    let found = finding(&told, "exit.crash");
    assert_eq!(found.evidence["fault_address"], Value::Null);
    assert!(found.unknown.contains_key("fault_address"));
}

/// SIGSEGV is a number that anybody may send.
#[test]
fn a_crash_from_outside_is_none() {
    let app = web_task(510, "app");
    for number in [SIGSEGV, SIGABRT] {
        let told = tell([sent(signal(T, number, host_task(70, "bash"), app)), Event::Exit(exit(T + MS, app, number))]);
        assert_eq!(codes(&told), ["exit.signal"]);
        assert_eq!(told.rows[0].fields["fault_address"], Value::Null);
    }
    // SIGPIPE is no fault, though the kernel makes it.
    let pipe = tell([sent(by_kernel(T, SIGPIPE, app, app)), Event::Exit(exit(T + MS, app, SIGPIPE))]);
    assert_eq!(codes(&pipe), [""; 0]);
}

#[test]
fn a_status_other_than_0() {
    let app = web_task(510, "app");
    let of = |code: u32| tell([Event::Exit(exit(T, app, code << 8))]);
    let told = of(3);
    assert_eq!(codes(&told), ["exit.error"]);
    assert_eq!(told.findings[0].severity, Info);
    assert!(told.findings[0].summary.ends_with("app (pid 510) ended with status 3"));
    assert_eq!(told.rows[0].fields["exit_code"], 3);
    assert_eq!(told.rows[0].fields["signal"], Value::Null);
    assert!(of(126).findings[0].summary.contains("could not be executed"));
    assert!(of(127).findings[0].summary.contains("not found"));
    assert!(of(143).findings[0].summary.contains("SIGTERM"));
    let plain = of(128).findings[0].summary.clone();
    assert!(plain.ends_with("status 128"), "{plain}");
    assert_eq!(codes(&of(0)), [""; 0]);
    assert_eq!(of(0).rows[0].fields["exit_code"], 0);
}

#[test]
fn a_memory_guard_is_named_as_one() {
    let app = web_task(510, "app");
    let killed_by = |name: &str, number| {
        let told = tell([sent(signal(T, number, host_task(70, name), app)), Event::Exit(exit(T + MS, app, number))]);
        codes(&told)
    };
    for name in ["systemd-oomd", "earlyoom", "kubelet", "nohang"] {
        assert_eq!(killed_by(name, SIGKILL), ["exit.signal", "exit.killed-by-oomd"], "{name}");
    }
    for name in ["systemd", "earlyoo", "kubelet-x", "bash", ""] {
        assert_eq!(killed_by(name, SIGKILL), ["exit.signal"], "{name}");
    }
    assert_eq!(killed_by("systemd-oomd", SIGTERM), ["exit.signal"], "it kills by SIGKILL only");
}

#[test]
fn restarts_of_pid_1_are_counted() {
    let (host, mut rule) = (Host::new(), Rule::default());
    let mut summaries = Vec::new();
    for start in 0..4 {
        let at = T + start * 60 * SECOND;
        let init = Task { start_ns: at - SECOND, ..web_task(500, "app") };
        let told = told(&host, &mut rule, [Event::Exit(exit(at, init, 1 << 8))]);
        summaries.push(told.findings[0].summary.clone());
        assert_eq!(told.findings[0].evidence["init_exits"], start + 1);
    }
    assert!(!summaries[1].contains("times"), "{summaries:?}");
    assert!(summaries[2].contains("PID 1 ended 3 times"), "{summaries:?}");
    let child = told(&host, &mut rule, [Event::Exit(exit(T + 200 * SECOND, web_task(600, "x"), 1 << 8))]);
    assert!(!child.findings[0].summary.contains("times"), "a child is no restart");
    let later = Task { start_ns: T + 900 * SECOND, ..web_task(500, "app") };
    let later = told(&host, &mut rule, [Event::Exit(exit(T + 901 * SECOND, later, 1 << 8))]);
    assert_eq!(later.findings[0].evidence["init_exits"], 1, "ten minutes later it begins again");
}

#[test]
fn what_could_not_be_read_is_null() {
    let mut record = exit(T, web_task(510, "app"), 0);
    (record.utime_ns, record.stime_ns, record.peak_rss_pages) = (u64::MAX - 7, 2 * SECOND, 300);
    let told = tell([Event::Exit(record)]);
    assert_eq!(told.rows[0].fields["utime_ns"], Value::Null);
    assert_eq!(told.rows[0].fields["stime_ns"], 2 * SECOND);
    assert_eq!(told.rows[0].fields["peak_rss_bytes"], 300 * 4096);
}
