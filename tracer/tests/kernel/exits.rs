//! `ctrace exits`: how processes end, and who or what ended them.

use std::{thread::sleep, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    harness::Test,
    support::{
        cgroups::{Group, Tree},
        ctrace::{Ctrace, Said, command},
        play::BAD_ADDRESS,
        player::Player,
    },
};

pub static TESTS: &[Test] = &[
    Test::core("exits::a_status_of_its_own", a_status_of_its_own),
    Test::core("exits::crashes_of_its_own", crashes_of_its_own),
    Test::core("exits::a_signal_from_outside", a_signal_from_outside),
    Test::core("exits::oom_and_kill_9_are_told_apart", oom_and_kill_9_are_told_apart),
    Test::core("exits::children_die_with_pid_1", children_die_with_pid_1),
    Test::core("exits::a_stop_that_was_not_obeyed", a_stop_that_was_not_obeyed),
    Test::core("exits::a_stop_that_was_not_waited_for", a_stop_that_was_not_waited_for),
    Test::full("exits::the_leader_ends_first", the_leader_ends_first),
    Test::full("exits::right_after_exec", right_after_exec),
    Test::full("exits::exec_from_a_thread", exec_from_a_thread),
];

fn exits() -> Ctrace {
    Ctrace::ready(command(&["exits", "--json"]))
}

fn send(pid: u64, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).expect("it lives");
}

/// The row about the end of a process.
fn row(ctrace: &Ctrace, pid: u64) -> Value {
    ctrace
        .wait_for(&format!("the exit of {pid}"), |line| {
            line.json["event"] == "exit" && line.json["process"]["pid"] == pid
        })
        .json
}

/// An exit after a near miss: once ctrace tells it, it has told all that came before.
fn sentinel(ctrace: &Ctrace, tree: &Tree) {
    let group = tree.container();
    let mut app = Player::within(&group, &["exit=7"]);
    app.ended();
    ctrace.finding("exit.error", &group);
}

fn is_of(row: &Value, container: &Group) {
    assert_eq!(row["container"]["id"], container.name(), "{row}");
    assert_eq!(row["cgroup"], container.path, "{row}");
}

fn a_status_of_its_own() {
    let tree = Tree::new();
    let ctrace = exits();
    let (bad, good) = (tree.container(), tree.container());
    let mut app = Player::within(&bad, &["say=app", "exit=3"]);
    let who = app.said("app");
    assert_eq!(app.ended().0.code(), Some(3));
    let mut fine = Player::within(&good, &["say=fine", "exit=0"]);
    let fine_pid = fine.said("fine").pid;
    fine.ended();
    let told = row(&ctrace, who.pid);
    is_of(&told, &bad);
    assert_eq!((&told["exit_code"], &told["signal"], &told["core"]), (&json!(3), &json!(null), &json!(false)));
    assert_eq!((&told["cause"]["kind"], &told["cause"]["by"]), (&json!("status"), &json!(null)));
    assert!(told["lifetime_ns"].as_u64().is_some_and(|ns| ns > 0 && ns < 60_000_000_000), "{told}");
    assert!(told["peak_rss_bytes"].as_u64().is_some_and(|bytes| bytes > 100_000), "{told}");
    let finding = ctrace.finding("exit.error", &bad).json;
    assert_eq!(told["cause"]["finding"], finding["id"]);
    assert_eq!(row(&ctrace, fine_pid)["exit_code"], 0);
    sentinel(&ctrace, &tree);
    let said = ctrace.stop();
    assert_eq!(said.codes(&bad), ["exit.error"]);
    assert_eq!(said.codes(&good), [""; 0]);
}

fn crashes_of_its_own() {
    let tree = Tree::new();
    let ctrace = exits();
    let (fault, abort) = (tree.container(), tree.container());
    let mut app = Player::within(&fault, &["say=app", "segv"]);
    let pid = app.said("app").pid;
    app.ended();
    let told = row(&ctrace, pid);
    is_of(&told, &fault);
    assert_eq!((&told["signal"], &told["exit_code"]), (&json!("SIGSEGV"), &json!(null)));
    assert_eq!(told["fault_address"], format!("{BAD_ADDRESS:#x}"));
    assert_eq!((&told["cause"]["kind"], &told["cause"]["by"]), (&json!("crash"), &json!(null)));
    let mut app = Player::within(&abort, &["say=app", "abort"]);
    let pid = app.said("app").pid;
    app.ended();
    let told = row(&ctrace, pid);
    assert_eq!((&told["signal"], &told["cause"]["kind"]), (&json!("SIGABRT"), &json!("crash")));
    assert_eq!(told["fault_address"], json!(null));
    sentinel(&ctrace, &tree);
    let said = ctrace.stop();
    assert_eq!(said.codes(&fault), ["exit.crash"]);
    assert_eq!(said.codes(&abort), ["exit.crash"]);
}

/// SIGSEGV among them: it is no crash where somebody sent it.
fn a_signal_from_outside() {
    let tree = Tree::new();
    let ctrace = exits();
    for (signal, name) in [(Signal::SIGKILL, "SIGKILL"), (Signal::SIGTERM, "SIGTERM"), (Signal::SIGSEGV, "SIGSEGV")] {
        let container = tree.container();
        // Rust's runtime has a handler for SIGSEGV.
        let mut app = Player::within(&container, &["default=11", "say=app", "pause"]);
        let pid = app.said("app").pid;
        send(pid, signal);
        app.ended();
        let told = row(&ctrace, pid);
        is_of(&told, &container);
        assert_eq!((&told["signal"], &told["cause"]["kind"]), (&json!(name), &json!("signal")), "{told}");
        assert_eq!(told["cause"]["by"]["process"]["pid"], std::process::id(), "{told}");
        assert_eq!(told["cause"]["by"]["container"], json!(null), "this test runs on the host");
        assert_eq!(told["fault_address"], json!(null));
        ctrace.finding("exit.signal", &container);
    }
    ctrace.stop();
}

fn oom_and_kill_9_are_told_apart() {
    let tree = Tree::new();
    let ctrace = exits();
    let (full, killed, status) = (tree.container().limited(24), tree.container().limited(24), tree.container());
    let mut hog = Player::within(&full, &["say=hog", "anon"]);
    let hog_pid = hog.said("hog").pid;
    hog.ended();
    let mut app = Player::within(&killed, &["say=app", "anon=8", "pause"]);
    let app_pid = app.said("app").pid;
    send(app_pid, Signal::SIGKILL);
    app.ended();
    let mut says = Player::within(&status, &["say=says", "exit=137"]);
    let says_pid = says.said("says").pid;
    says.ended();
    let oom = ctrace.finding("oom.container-limit", &full).json;
    let told = row(&ctrace, hog_pid);
    assert_eq!((&told["signal"], &told["cause"]["kind"]), (&json!("SIGKILL"), &json!("oom")));
    assert_eq!(told["cause"]["finding"], oom["id"]);
    let told = row(&ctrace, app_pid);
    assert_eq!((&told["signal"], &told["cause"]["kind"]), (&json!("SIGKILL"), &json!("signal")));
    assert_eq!(told["cause"]["by"]["process"]["pid"], std::process::id());
    let told = row(&ctrace, says_pid);
    assert_eq!((&told["exit_code"], &told["cause"]["kind"]), (&json!(137), &json!("status")));
    sentinel(&ctrace, &tree);
    let said = ctrace.stop();
    assert_eq!(said.codes(&full), ["oom.container-limit"]);
    assert_eq!(said.codes(&killed), ["exit.signal"]);
    assert_eq!(said.codes(&status), ["exit.error"]);
}

fn children_die_with_pid_1() {
    let tree = Tree::new();
    let ctrace = exits();
    let container = tree.container();
    let mut app = Player::as_init(&container, &["say=init", "herd=10", "say=all", "await", "exit=3"]);
    let init = app.said("init").pid;
    app.said("all");
    app.go();
    app.ended();
    let finding = ctrace.finding("exit.init-died", &container).json;
    assert_eq!(finding["severity"], "info");
    assert_eq!(finding["evidence"]["count"], 10, "{finding}");
    assert_eq!(finding["evidence"]["init"]["pid"], init);
    let said = ctrace.stop();
    let killed = said.lines.iter().map(|line| &line.json).filter(|json| json["cause"]["finding"] == finding["id"]);
    assert_eq!(killed.filter(|json| json["cause"]["kind"] == "init-died" && json["signal"] == "SIGKILL").count(), 10);
    assert_eq!(said.codes(&container), ["exit.error", "exit.init-died"]);
}

fn a_stop_that_was_not_obeyed() {
    let tree = Tree::new();
    let ctrace = exits();
    // Of the stop signals that images use: the usual one, nginx's, and one that is handled without an end.
    let plans = [
        (Signal::SIGTERM, "default=15", "no handler"),
        (Signal::SIGQUIT, "default=3", "no handler"),
        (Signal::SIGTERM, "handle=15", "its handler did not end it"),
    ];
    let mut containers = Vec::new();
    for (signal, disposition, why) in plans {
        let container = tree.container();
        let app = Player::as_init(&container, &[disposition, "say=init", "pause"]);
        let init = app.said("init").pid;
        send(init, signal);
        containers.push((container, app, init, signal, why));
    }
    sleep(Duration::from_millis(1200));
    for (container, app, init, signal, why) in &mut containers {
        send(*init, Signal::SIGKILL);
        app.ended();
        let finding = ctrace.finding("exit.stop-timeout", container).json;
        assert_eq!(finding["evidence"]["stop_signal"], signal.as_str());
        assert!(finding["why"].as_str().is_some_and(|said| said.contains(*why)), "{finding}");
        let grace = finding["evidence"]["grace_ns"].as_u64().expect("a number");
        assert!((1_200_000_000..20_000_000_000).contains(&grace), "{grace}");
    }
    let said = ctrace.stop();
    for (container, ..) in &containers {
        assert_eq!(said.codes(container), ["exit.signal", "exit.stop-timeout"]);
    }
}

/// Near misses: killed at once, obeyed, and a process that is not PID 1.
fn a_stop_that_was_not_waited_for() {
    let tree = Tree::new();
    let ctrace = exits();
    let (at_once, obeyed, child) = (tree.container(), tree.container(), tree.container());
    let mut app = Player::as_init(&at_once, &["say=init", "pause"]);
    let init = app.said("init").pid;
    send(init, Signal::SIGTERM);
    send(init, Signal::SIGKILL);
    app.ended();
    let mut shell = Player::as_init(
        &obeyed,
        &["exec", "/bin/sh", "-c", "trap 'sleep 1.2; exit 0' TERM; echo ready $PPID $$; while :; do sleep 0.1; done"],
    );
    shell.said("ready");
    let init = super::signals::only_process(&obeyed, "sh");
    let mut other = Player::within(&child, &["block=15", "say=app", "pause"]);
    let pid = other.said("app").pid;
    send(pid, Signal::SIGTERM);
    send(init, Signal::SIGTERM);
    assert_eq!(shell.ended().0.code(), Some(0));
    send(pid, Signal::SIGKILL);
    other.ended();
    sentinel(&ctrace, &tree);
    let said = ctrace.stop();
    assert_eq!(said.codes(&at_once), ["exit.signal"]);
    assert_eq!(said.codes(&child), ["exit.signal"]);
    assert!(!said.codes(&obeyed).contains(&"exit.stop-timeout"));
}

/// A process ends with its last thread, once, whichever thread that is.
fn the_leader_ends_first() {
    let tree = Tree::new();
    let ctrace = exits();
    let container = tree.container();
    let mut app = Player::within(&container, &["say=app", "last-thread", "say=last", "await", "exit=3"]);
    let (pid, last) = (app.said("app").pid, app.said("last"));
    assert_eq!(last.pid, pid);
    assert_ne!(last.tid, pid, "another thread");
    sentinel(&ctrace, &tree);
    let of_it = |json: &Value| json["event"] == "exit" && json["process"]["pid"] == pid;
    assert!(!ctrace.lines().iter().any(|line| of_it(&line.json)), "it lives on");
    app.go();
    app.ended();
    assert_eq!(row(&ctrace, pid)["exit_code"], 3);
    sentinel(&ctrace, &tree);
    let said = ctrace.stop();
    assert_eq!(said.lines.iter().filter(|line| of_it(&line.json)).count(), 1);
}

/// All that was told of ends in a cgroup.
fn rows_of<'a>(said: &'a Said, group: &Group) -> Vec<&'a Value> {
    let lines = said.lines.iter().map(|line| &line.json);
    lines.filter(|json| json["event"] == "exit" && json["cgroup"] == *group.path).collect()
}

/// Gone before anybody can look into /proc: a hundred in a row, each with the name that it had last.
fn right_after_exec() {
    let tree = Tree::new();
    let ctrace = exits();
    let group = tree.container();
    for _ in 0..100 {
        Player::within(&group, &["exec", "/bin/true"]).ended();
    }
    sentinel(&ctrace, &tree);
    let said = ctrace.stop();
    let rows = rows_of(&said, &group);
    let named = rows.iter().filter(|row| row["process"]["comm"] == "true" && row["exit_code"] == 0).count();
    let skipped = said.skipped("exit").min(100 - rows.len());
    assert_eq!((named + skipped, rows.len() + skipped), (100, 100), "{rows:?}");
    assert!(rows.len() > 80, "{} rows", rows.len());
    for row in rows {
        is_of(row, &group);
    }
}

/// The thread that execs takes the leader's place: one process, one end, under the pid that it always had.
fn exec_from_a_thread() {
    let tree = Tree::new();
    let ctrace = exits();
    let group = tree.container();
    let mut app = Player::within(&group, &["say=app", "thread", "exec", "/bin/sh", "-c", "exit 5"]);
    let who = app.said("app");
    assert_eq!(app.ended().0.code(), Some(5));
    let told = row(&ctrace, who.pid);
    is_of(&told, &group);
    assert_eq!((&told["process"]["comm"], &told["process"]["tid"]), (&json!("sh"), &json!(who.pid)));
    assert_eq!((&told["exit_code"], &told["cause"]["kind"]), (&json!(5), &json!("status")));
    sentinel(&ctrace, &tree);
    let said = ctrace.stop();
    assert_eq!(rows_of(&said, &group).len(), 1);
    assert_eq!(said.codes(&group), ["exit.error"]);
}
