//! How a run ends: by a signal, by time, by its reader.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    harness::Test,
    support::{
        cgroups::Tree,
        ctrace::{self, Ctrace},
        player::Player,
        wait_until,
    },
};

pub static TESTS: &[Test] = &[
    Test::core("robust::ends::by_signals", by_signals),
    Test::full("robust::ends::by_time", by_time),
    Test::full("robust::ends::what_was_seen_is_said_before_the_end", what_was_seen_is_said_before_the_end),
    Test::full("robust::ends::with_its_reader", with_its_reader),
    Test::full("robust::ends::only_what_is_wanted", only_what_is_wanted),
];

fn by_signals() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        for mode in ["--json", "--lines"] {
            let mut ctrace = Ctrace::ready(ctrace::command(&["oom", mode]));
            ctrace.signal(signal);
            assert_eq!(ctrace.exited().code(), Some(0), "{signal} {mode}");
            assert!(ctrace.errors().is_empty(), "{signal} {mode}");
        }
    }
}

fn by_time() {
    let mut ctrace = Ctrace::start(ctrace::command(&["oom", "--json", "--for", "2s"]));
    let ready = ctrace.wait_for("the ready note", |line| line.json["code"] == "ready");
    assert_eq!(ctrace.exited().code(), Some(0));
    assert!(ctrace.errors().is_empty());
    let took = tracer::kernel::host::boottime_ns() - ready.at_ns;
    assert!(took > 1_500_000_000, "it counts from when all is attached, and ended {took} ns after it");
}

/// A finding waits a moment for what follows the kill; the end of the run does not take it away.
fn what_was_seen_is_said_before_the_end() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container().limited(24);
    let mut hog = Player::as_init(&container, &["child", "say=child", "anon"]);
    hog.said("child");
    wait_until("the kill", || (container.kills() > 0).then_some(()));
    let told = ctrace
        .lines()
        .iter()
        .any(|line| line.json["code"] == "oom.container-limit" && line.json["container"]["id"] == container.name());
    let said = ctrace.stop();
    assert_eq!(said.codes(&container), ["oom.container-limit", "oom.child-killed"], "told before the end: {told}");
    assert!(hog.lives());
}

/// `ctrace oom | head -1`.
fn with_its_reader() {
    let tree = Tree::new();
    for mode in ["--json", "--lines"] {
        let mut command = ctrace::command(&["oom", mode]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ctrace");
        let mut out = child.stdout.take().expect("a pipe");
        let mut first = [0];
        std::io::Read::read_exact(&mut out, &mut first).expect("its first line");
        drop(out);
        // It notices when it has something to say.
        let mut hog = Player::within(&tree.container().limited(24), &["anon"]);
        hog.ended();
        let status = wait_until("ctrace to end with its reader", || child.try_wait().expect("a child"));
        let said = std::io::read_to_string(child.stderr.take().expect("a pipe")).expect("text");
        assert_eq!((status.code(), said.as_str()), (Some(0), ""), "{mode}");
    }
}

/// `--container` and `--pid` leave everything else out.
fn only_what_is_wanted() {
    let tree = Tree::new();
    let (wanted, other) = (tree.container().limited(24), tree.container().limited(24));
    let mut ours = Player::within(&wanted, &["child", "say=ours", "await", "anon"]);
    ours.said("ours");
    let pid = ours.pid().to_string();
    let container = Ctrace::ready(ctrace::command(&["oom", "--json", "--container", &wanted.name()[..12]]));
    let process = Ctrace::ready(ctrace::command(&["oom", "--json", "--pid", &pid]));
    let mut theirs = Player::within(&other, &["anon"]);
    theirs.ended();
    ours.go();
    let start = Instant::now();
    container.finding("oom.container-limit", &wanted);
    process.finding("oom.container-limit", &wanted);
    assert!(start.elapsed() < Duration::from_mins(1));
    for ctrace in [container, process] {
        let said = ctrace.stop();
        assert_eq!(said.codes(&wanted), ["oom.container-limit"]);
        let findings = said.lines.iter().filter(|line| line.json["type"] == "finding");
        assert_eq!(findings.count(), 1, "others' findings");
    }
}
