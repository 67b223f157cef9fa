use super::super::fixture::{
    Host, MS, SECOND, SI_KERNEL, SI_TKILL, SIGCHLD, SIGKILL, SIGSTOP, SIGTERM, SIGWINCH, T, WEB_PIDNS, host_task,
    signal, web_task,
};
use super::*;

/// SIGTERM from outside to a shell that is PID 1: dropped.
fn ignored() -> Signal {
    Signal { result: 1, ..signal(T, SIGTERM, host_task(70, "runc"), web_task(500, "sh")) }
}

fn code(record: &Signal) -> Option<&'static str> {
    let host = Host::new();
    Rule::default().event(record, &host.world()).1.map(|finding| finding.code.0)
}

fn row_of(record: &Signal) -> Value {
    let host = Host::new();
    serde_json::to_value(Rule::default().event(record, &host.world()).0).expect("a row is JSON")
}

#[test]
fn a_signal_to_pid_1_with_the_default_disposition_is_dropped() {
    let host = Host::new();
    let (row, finding) = Rule::default().event(&ignored(), &host.world());
    let finding = finding.expect("a verdict");
    assert_eq!(finding.code, Code("signal.init-ignored"));
    assert_eq!(finding.severity, Warning);
    assert_eq!(finding.evidence["signal"], "SIGTERM");
    assert_eq!(finding.evidence["sender"]["process"]["comm"], "runc");
    assert_eq!(finding.evidence["sender"]["container"], Value::Null, "runc runs on the host");
    assert_eq!(finding.evidence["target"]["process"]["ns_pid"], 1);
    assert!(finding.container.is_some(), "the target's container");
    assert!(finding.summary.contains("SIGTERM from runc (70, host) to PID 1 sh"), "{}", finding.summary);
    assert_eq!(row.fields["result"], "ignored");
    assert_eq!(row.fields["handler"], false);
    assert_eq!(row.fields["to_init"], true);
}

/// PID 1 takes what it had blocked.
fn dropped(at_ns: u64, target: tracer_common::task::Task) -> Dropped {
    let mut record: Dropped = bytemuck::Zeroable::zeroed();
    record.header = ignored().header;
    record.header.time_ns = at_ns;
    (record.target, record.signal) = (target, SIGTERM);
    record
}

#[test]
fn what_pid_1_had_blocked_is_said_when_it_is_dropped() {
    let (host, mut rule) = (Host::new(), Rule::default());
    let queued = Signal { blocked: 1, result: 0, ..ignored() };
    assert!(rule.event(&queued, &host.world()).1.is_none(), "it may be waited for");
    let finding = rule.dropped(&dropped(T + SECOND, web_task(500, "sh")), &host.world()).expect("a verdict");
    assert_eq!(finding.code, Code("signal.init-ignored"));
    assert_eq!(finding.evidence["sender"]["process"]["comm"], "runc");
    assert_eq!(finding.evidence["blocked_ns"], SECOND);
    assert!(finding.summary.starts_with("SIGTERM from runc (70, host) to PID 1 sh was dropped"), "{}", finding.summary);
    assert!(rule.dropped(&dropped(T + 2 * SECOND, web_task(500, "sh")), &host.world()).is_none(), "told a moment ago");
    assert!(rule.dropped(&dropped(T + 12 * SECOND, web_task(500, "sh")), &host.world()).is_some());
    assert!(rule.dropped(&dropped(T, host_task(1, "systemd")), &host.world()).is_none(), "the host's own PID 1");
    // Nobody saw it sent.
    let unseen = Rule::default().dropped(&dropped(T, web_task(500, "sh")), &host.world()).expect("a verdict");
    assert!(unseen.evidence["sender"].is_null() && unseen.unknown.contains_key("sender"));
}

#[test]
fn near_misses_of_init_ignored() {
    let base = ignored();
    let with_handler = Signal { disposition: 2, result: 0, ..base };
    let ignored_on_purpose = Signal { disposition: 1, ..base };
    let blocked_and_waited_for = Signal { blocked: 1, result: 0, ..base };
    let to_another = Signal { target: web_task(501, "sleep"), unkillable: 0, ..base };
    let mut systemd_of_the_host = base;
    systemd_of_the_host.target = host_task(1, "systemd");
    let unread = Signal { disposition: tracer_common::UNKNOWN_U32, ..base };
    let killable = Signal { unkillable: 0, ..base };
    for (what, record) in [
        ("a handler", with_handler),
        ("SIG_IGN", ignored_on_purpose),
        ("blocked", blocked_and_waited_for),
        ("not PID 1", to_another),
        ("the host's own PID 1", systemd_of_the_host),
        ("a disposition that could not be read", unread),
        ("a PID 1 without the kernel's protection", killable),
    ] {
        assert_eq!(code(&record), None, "{what}");
    }
    // CHLD, CONT, URG, WINCH: dropping them is their default, for everybody.
    for number in [SIGCHLD, 18, 23, SIGWINCH] {
        assert_eq!(code(&Signal { signal: number, ..base }), None, "{}", signal_name(number));
    }
    for number in [1, 2, 3, 10, 12, 30, 37, 64] {
        assert_eq!(code(&Signal { signal: number, ..base }), Some("signal.init-ignored"), "{}", signal_name(number));
    }
}

#[test]
fn sigkill_and_sigstop_from_inside_are_dropped() {
    for number in [SIGKILL, SIGSTOP] {
        let inside = Signal { result: 1, ..signal(T, number, web_task(505, "sh"), web_task(500, "app")) };
        assert_eq!(code(&inside), Some("signal.init-kill-from-inside"));
        // From an ancestor's namespace the kernel lets them through.
        let outside = signal(T, number, host_task(70, "runc"), web_task(500, "app"));
        assert_eq!(code(&outside), None);
        let to_child = signal(T, number, web_task(505, "sh"), web_task(501, "app"));
        assert_eq!(code(&to_child), None);
    }
}

#[test]
fn what_the_kernel_made_of_it() {
    let base = signal(T, SIGTERM, host_task(70, "runc"), web_task(501, "app"));
    for (result, blocked, said) in
        [(0, 0, "delivered"), (0, 1, "blocked"), (1, 0, "ignored"), (2, 1, "pending"), (3, 0, "lost"), (4, 0, "lost")]
    {
        assert_eq!(row_of(&Signal { result, blocked, ..base })["result"], said, "{result} {blocked}");
    }
    for (disposition, handler) in [(0, json!(false)), (1, json!(false)), (2, json!(true))] {
        assert_eq!(row_of(&Signal { disposition, ..base })["handler"], handler);
    }
    let unread = row_of(&Signal { disposition: tracer_common::UNKNOWN_U32, ..base });
    assert_eq!(unread["handler"], Value::Null);
    assert!(unread["unknown"]["handler"].is_string(), "null has its reason: {unread}");
}

#[test]
fn the_kernels_own_signals_have_no_sender() {
    let base = signal(T, SIGTERM, web_task(505, "sh"), web_task(501, "app"));
    for (what, record) in [
        ("sent by the kernel", Signal { code: SI_KERNEL, ..base }),
        ("a fault", Signal { code: 1, signal: 11, ..base }),
        ("a timer", Signal { code: -2, signal: 14, ..base }),
        ("a child's end", Signal { signal: SIGCHLD, ..base }),
    ] {
        assert_eq!(row_of(&record)["sender"], "kernel", "{what}");
    }
    assert_eq!(row_of(&base)["sender"]["process"]["pid"], 505);
    assert_eq!(row_of(&Signal { code: SI_TKILL, ..base })["sender"]["process"]["pid"], 505);
    assert_eq!(row_of(&Signal { code: -1, ..base })["sender"]["process"]["pid"], 505, "sigqueue");
}

#[test]
fn init_is_pid_1_below_the_hosts_namespace() {
    let of = |target| to_init(&signal(T, SIGTERM, host_task(70, "kill"), target));
    assert!(of(web_task(500, "app")));
    assert!(!of(web_task(501, "app")));
    assert!(!of(host_task(1, "systemd")));
    let mut unread = web_task(500, "app");
    unread.ns_level = tracer_common::UNKNOWN_U32;
    assert!(!of(unread));
    assert_eq!(web_task(500, "app").pidns, WEB_PIDNS);
}

/// The `count` of rows, in the order in which they were said.
fn counts(rows: &[EventRow]) -> Vec<u64> {
    rows.iter().filter_map(|row| row.fields["count"].as_u64()).collect()
}

fn flood(at: u64, total: u64) -> Signal {
    Signal { total, ..signal(at, 10, web_task(505, "timer"), web_task(501, "app")) }
}

#[test]
fn what_was_folded_is_counted_once() {
    let (host, mut rule) = (Host::new(), Rule::default());
    let world = host.world();
    let mut rows: Vec<EventRow> = [flood(T, 1), flood(T + 100 * MS, 500), flood(T + 200 * MS, 501)]
        .iter()
        .map(|record| rule.event(record, &world).0)
        .collect();
    assert_eq!(counts(&rows), [1, 499, 1]);
    // The end of the flood comes with the next question.
    let key = fold_key(&flood(T, 1));
    rows.extend(rule.totals(&[(key, 800)], T + SECOND, &world));
    assert_eq!(counts(&rows), [1, 499, 1, 299]);
    assert_eq!(rows[3].fields["signal"], "SIGUSR1");
    assert_eq!(rows[3].time, world.at(T + SECOND));
    assert!(rule.totals(&[(key, 800)], T + 2 * SECOND, &world).is_empty(), "nothing new");
    rows.extend([rule.event(&flood(T + 2 * SECOND, 801), &world).0]);
    assert_eq!(counts(&rows).iter().sum::<u64>(), 801);
}

#[test]
fn kinds_are_counted_apart() {
    let (host, mut rule) = (Host::new(), Rule::default());
    let world = host.world();
    let base = flood(T, 600);
    let others = [
        Signal { signal: 12, ..base },
        Signal { result: 2, ..base },
        Signal { sender: web_task(506, "timer"), ..base },
        Signal { target: web_task(507, "app"), ..base },
        Signal { code: SI_KERNEL, ..base },
    ];
    rule.event(&flood(T, 1), &world);
    rule.event(&flood(T, 500), &world);
    let rows: Vec<EventRow> = others.iter().map(|record| rule.event(record, &world).0).collect();
    assert_eq!(counts(&rows), [600; 5], "nothing of the 500 is theirs");
}

/// The kernel side counts a kind on over any silence: one more after a minute is one more.
#[test]
fn a_signal_after_a_silence_is_one() {
    let (host, mut rule) = (Host::new(), Rule::default());
    let world = host.world();
    let key = fold_key(&flood(T, 1));
    rule.event(&flood(T, 1), &world);
    rule.event(&flood(T + 100 * MS, 500), &world);
    for second in 1..60 {
        rule.totals(&[(key, 500)], T + second * SECOND, &world);
    }
    let row = rule.event(&flood(T + 60 * SECOND, 501), &world).0;
    assert_eq!(counts(&[row]), [1]);
    // Unless it forgot the kind, and began again.
    let row = rule.event(&flood(T + 120 * SECOND, 1), &world).0;
    assert_eq!(counts(&[row]), [1]);
}

/// A kind is asked for until its count has settled.
#[test]
fn a_settled_kind_is_not_asked_for() {
    let (host, mut rule) = (Host::new(), Rule::default());
    let key = fold_key(&flood(T, 1));
    rule.event(&flood(T, 1), &host.world());
    assert_eq!(rule.open(T + SECOND), [key]);
    rule.totals(&[(key, 9)], T + SECOND, &host.world());
    assert_eq!(rule.open(T + 2 * SECOND), [key], "it grew a second ago");
    assert!(rule.open(T + 3 * SECOND).is_empty());
}

/// A script that sends SIGTERM in a loop is one verdict in ten seconds, which counts; another sender's is told at once.
#[test]
fn a_flood_of_dropped_signals_is_one_verdict_in_ten_seconds() {
    let host = Host::new();
    let mut rule = Rule::default();
    let mut told = Vec::new();
    for number in 0..150 {
        let mut record = Signal { total: number + 1, ..ignored() };
        record.header.time_ns = T + number * 100 * MS;
        told.extend(rule.event(&record, &host.world()).1);
    }
    let counts: Vec<&Value> = told.iter().map(|finding| &finding.evidence["count"]).collect();
    assert_eq!(counts, [1, 100]);
    assert!(told[1].summary.ends_with("(100 times since the last was told)"), "{}", told[1].summary);
    let mut other = Signal { total: 1, sender: host_task(71, "kill"), ..ignored() };
    other.header.time_ns = T + 15 * SECOND;
    assert!(rule.event(&other, &host.world()).1.is_some());
}
