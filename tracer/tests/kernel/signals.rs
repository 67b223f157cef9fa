//! `ctrace signals`: what the kernel makes of each, above all for PID 1.

use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    harness::{Test, in_virtual_machine},
    support::{
        cgroups::{Group, Tree},
        ctrace::{Ctrace, command},
        player::Player,
        wait_until,
    },
};

pub static TESTS: &[Test] = &[
    Test::core("signals::a_shell_as_pid_1", a_shell_as_pid_1),
    Test::core("signals::a_pid_1_that_takes_it", a_pid_1_that_takes_it),
    Test::core("signals::a_pid_1_that_had_it_blocked", a_pid_1_that_had_it_blocked),
    Test::core("signals::a_pid_1_that_waits_for_what_it_blocks", a_pid_1_that_waits_for_what_it_blocks),
    Test::full("signals::what_is_ignored_anyway", what_is_ignored_anyway),
    Test::core("signals::kill_from_inside", kill_from_inside),
    Test::full("signals::stop_from_inside", stop_from_inside),
    Test::full("signals::a_flood_hides_nobody", a_flood_hides_nobody),
];

fn signals() -> Ctrace {
    Ctrace::ready(command(&["signals", "--json"]))
}

fn send(pid: u64, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).expect("it lives");
}

/// The process of that name in a cgroup, once it is there.
pub fn only_process(group: &Group, comm: &str) -> u64 {
    wait_until(&format!("{comm} in {}", group.path), || {
        group
            .get("cgroup.procs")
            .lines()
            .filter_map(|line| line.parse().ok())
            .find(|pid: &u64| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == comm))
    })
}

/// The row about a signal that this test sent.
fn row(ctrace: &Ctrace, pid: u64, signal: &str) -> Value {
    ctrace
        .wait_for(&format!("{signal} to {pid}"), |line| {
            line.json["event"] == "signal"
                && line.json["target"]["process"]["pid"] == pid
                && line.json["signal"] == signal
        })
        .json
}

/// A verdict after a near miss: once ctrace tells it, it has told all that came before.
fn sentinel(ctrace: &Ctrace, tree: &Tree) {
    let container = tree.container();
    let app = Player::as_init(&container, &["say=init", "pause"]);
    send(app.said("init").pid, Signal::SIGTERM);
    ctrace.finding("signal.init-ignored", &container);
}

/// Waits until a process blocks no signal: a shell does, around each fork.
fn blocks_nothing(pid: u64) {
    wait_until(&format!("{pid} to block no signal"), || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().any(|line| line == "SigBlk:\t0000000000000000").then_some(())
    });
}

fn a_shell_as_pid_1() {
    let tree = Tree::new();
    let ctrace = signals();
    let (bare, trap) = (tree.container(), tree.container());
    let mut without = Player::as_init(&bare, &["exec", "/bin/sh", "-c", "sleep 600; :"]);
    let script = "trap 'exit 0' TERM; echo ready $PPID $$; while :; do sleep 0.1; done";
    let mut with = Player::as_init(&trap, &["exec", "/bin/sh", "-c", script]);
    with.said("ready");
    only_process(&bare, "sleep");
    let (bare_pid, trap_pid) = (only_process(&bare, "sh"), only_process(&trap, "sh"));
    blocks_nothing(bare_pid);
    send(trap_pid, Signal::SIGTERM);
    send(bare_pid, Signal::SIGTERM);
    let finding = ctrace.finding("signal.init-ignored", &bare).json;
    assert_eq!(finding["severity"], "warning");
    assert_eq!(finding["process"]["pid"], bare_pid);
    assert_eq!(finding["evidence"]["signal"], "SIGTERM");
    assert_eq!(finding["evidence"]["sender"]["process"]["pid"], std::process::id());
    let told = row(&ctrace, bare_pid, "SIGTERM");
    assert_eq!((&told["result"], &told["handler"]), (&json!("ignored"), &json!(false)));
    assert_eq!((&told["to_init"], &told["container"]["id"]), (&json!(true), &json!(bare.name())));
    assert!(without.lives());
    let told = row(&ctrace, trap_pid, "SIGTERM");
    assert_eq!(told["handler"], true);
    assert!(["delivered", "blocked"].contains(&told["result"].as_str().unwrap_or_default()), "{told}");
    assert_eq!(with.ended().0.code(), Some(0), "its trap ended it");
    let said = ctrace.stop();
    assert_eq!(said.codes(&bare), ["signal.init-ignored"]);
    assert_eq!(said.codes(&trap), [""; 0]);
}

/// Near misses: it waits for the signal with it blocked (tini, systemd), ignores it on purpose, or is not PID 1.
fn a_pid_1_that_takes_it() {
    let tree = Tree::new();
    let ctrace = signals();
    let (blocks, ignores, child) = (tree.container(), tree.container(), tree.container());
    let waits = Player::as_init(&blocks, &["block=15", "say=init", "pause"]);
    let deaf = Player::as_init(&ignores, &["ignore=15", "say=init", "pause"]);
    let other = Player::as_init(&child, &["child", "ignore=15", "say=child", "pause"]);
    let pids = [waits.said("init").pid, deaf.said("init").pid, other.said("child").pid];
    for pid in pids {
        send(pid, Signal::SIGTERM);
    }
    for (pid, result, disposition) in
        [(pids[0], "blocked", "default"), (pids[1], "ignored", "ignore"), (pids[2], "ignored", "ignore")]
    {
        let told = row(&ctrace, pid, "SIGTERM");
        assert_eq!((&told["result"], &told["disposition"]), (&json!(result), &json!(disposition)), "{told}");
        assert_eq!(told["handler"], false);
    }
    assert_eq!(row(&ctrace, pids[2], "SIGTERM")["to_init"], false);
    sentinel(&ctrace, &tree);
    let said = ctrace.stop();
    for container in [&blocks, &ignores, &child] {
        assert_eq!(said.codes(container), [""; 0]);
    }
}

/// It has the signal blocked for a while, as a shell has around each fork, and takes it without a handler.
fn a_pid_1_that_had_it_blocked() {
    let tree = Tree::new();
    let ctrace = signals();
    let container = tree.container();
    let mut app = Player::as_init(&container, &["block=15", "say=init", "await", "unblock=15", "say=took", "pause"]);
    let pid = app.said("init").pid;
    send(pid, Signal::SIGTERM);
    assert_eq!(row(&ctrace, pid, "SIGTERM")["result"], "blocked");
    let none = |line: &crate::support::ctrace::Line| line.json["code"] == "signal.init-ignored";
    assert!(!ctrace.lines().iter().any(none), "it may still be waited for");
    app.go();
    let finding = ctrace.finding("signal.init-ignored", &container).json;
    assert_eq!(finding["process"]["pid"], pid);
    assert_eq!(finding["evidence"]["sender"]["process"]["pid"], std::process::id());
    assert_eq!((&finding["evidence"]["signal"], &finding["evidence"]["handler"]), (&json!("SIGTERM"), &json!(false)));
    assert!(finding["evidence"]["blocked_ns"].as_u64().is_some_and(|ns| ns > 0), "{finding}");
    app.said("took");
    assert!(app.lives(), "it was dropped");
    assert_eq!(ctrace.stop().codes(&container), ["signal.init-ignored"]);
}

/// Near misses: it waits for it, or has a handler by the time that it takes it.
fn a_pid_1_that_waits_for_what_it_blocks() {
    let tree = Tree::new();
    let ctrace = signals();
    let (waits, handles) = (tree.container(), tree.container());
    let mut first = Player::as_init(&waits, &["block=15", "say=init", "await", "sigwait=15", "say=took", "pause"]);
    let mut second =
        Player::as_init(&handles, &["block=15", "say=init", "await", "handle=15", "unblock=15", "say=took", "pause"]);
    for app in [&mut first, &mut second] {
        let pid = app.said("init").pid;
        send(pid, Signal::SIGTERM);
        assert_eq!(row(&ctrace, pid, "SIGTERM")["result"], "blocked");
        app.go();
        app.said("took");
    }
    sentinel(&ctrace, &tree);
    let said = ctrace.stop();
    for container in [&waits, &handles] {
        assert_eq!(said.codes(container), [""; 0]);
    }
}

/// Signals whose default is to be ignored are dropped for everybody.
fn what_is_ignored_anyway() {
    let tree = Tree::new();
    let ctrace = signals();
    let container = tree.container();
    let app = Player::as_init(&container, &["say=init", "pause"]);
    let pid = app.said("init").pid;
    for signal in [Signal::SIGCHLD, Signal::SIGWINCH, Signal::SIGURG] {
        send(pid, signal);
        assert_eq!(row(&ctrace, pid, signal.as_str())["result"], "ignored", "{signal}");
    }
    sentinel(&ctrace, &tree);
    assert_eq!(ctrace.stop().codes(&container), [""; 0]);
}

fn kill_from_inside() {
    let tree = Tree::new();
    let ctrace = signals();
    let (inside, outside) = (tree.container(), tree.container());
    let mut app = Player::as_init(&inside, &["say=init", "child", "kill=9", "say=sent", "pause"]);
    let (init, sent) = (app.said("init").pid, app.said("sent").pid);
    let finding = ctrace.finding("signal.init-kill-from-inside", &inside).json;
    assert_eq!(finding["process"]["pid"], init);
    assert_eq!(finding["evidence"]["sender"]["process"]["pid"], sent);
    assert_eq!(finding["evidence"]["sender"]["container"]["id"], inside.name());
    assert!(app.lives());
    // The near miss: from outside it works.
    let mut other = Player::as_init(&outside, &["say=init", "pause"]);
    let pid = other.said("init").pid;
    send(pid, Signal::SIGKILL);
    other.ended();
    assert_eq!(row(&ctrace, pid, "SIGKILL")["result"], "delivered");
    sentinel(&ctrace, &tree);
    let said = ctrace.stop();
    assert_eq!(said.codes(&inside), ["signal.init-kill-from-inside"]);
    assert_eq!(said.codes(&outside), [""; 0]);
}

/// SIGSTOP, as SIGKILL: dropped from inside; from outside it stops PID 1.
fn stop_from_inside() {
    let tree = Tree::new();
    let ctrace = signals();
    let (inside, outside) = (tree.container(), tree.container());
    let mut app = Player::as_init(&inside, &["say=init", "child", "kill=19", "say=sent", "pause"]);
    let (init, sent) = (app.said("init").pid, app.said("sent").pid);
    let finding = ctrace.finding("signal.init-kill-from-inside", &inside).json;
    assert_eq!((&finding["process"]["pid"], &finding["evidence"]["signal"]), (&json!(init), &json!("SIGSTOP")));
    assert_eq!(finding["evidence"]["sender"]["process"]["pid"], sent);
    assert!(app.lives());
    let other = Player::as_init(&outside, &["say=init", "pause"]);
    let pid = other.said("init").pid;
    send(pid, Signal::SIGSTOP);
    wait_until("PID 1 to be stopped", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.contains("State:\tT").then_some(())
    });
    assert_eq!(row(&ctrace, pid, "SIGSTOP")["result"], "delivered");
    send(pid, Signal::SIGCONT);
    sentinel(&ctrace, &tree);
    let said = ctrace.stop();
    assert_eq!(said.codes(&inside), ["signal.init-kill-from-inside"]);
    assert_eq!(said.codes(&outside), [""; 0]);
}

/// Thousands of signals a second in one container are a few rows that count them all, and hide no other's.
fn a_flood_hides_nobody() {
    let tree = Tree::new();
    let ctrace = signals();
    let sent: u64 = if in_virtual_machine() { 5_000 } else { 20_000 };
    let (loud, quiet) = (tree.container(), tree.container());
    let mut flood = Player::within(&loud, &["handle=10", "say=loud", &format!("flood={sent}"), "say=end", "pause"]);
    let pid = flood.said("loud").pid;
    let app = Player::as_init(&quiet, &["say=init", "pause"]);
    let init = app.said("init").pid;
    row(&ctrace, pid, "SIGUSR1");
    send(init, Signal::SIGTERM);
    ctrace.finding("signal.init-ignored", &quiet);
    flood.said("end");
    let rows = || -> Vec<Value> {
        let lines = ctrace.lines().into_iter().map(|line| line.json);
        lines.filter(|json| json["target"]["process"]["pid"] == pid && json["signal"] == "SIGUSR1").collect()
    };
    let counted = || rows().iter().filter_map(|row| row["count"].as_u64()).sum::<u64>();
    wait_until("all of the flood to be counted", || (counted() >= sent).then_some(()));
    assert_eq!(counted(), sent);
    assert!(rows().len() < 400, "{} rows for {sent} signals", rows().len());
    assert!(flood.lives());
    ctrace.stop();
}
