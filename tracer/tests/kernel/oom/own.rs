//! `oom.container-limit`: a kill at the container's own limit, and no other end of a process.

use std::os::unix::process::ExitStatusExt;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::sentinel;
use crate::{
    harness::{Test, in_virtual_machine},
    support::{
        cgroups::Tree,
        ctrace::Ctrace,
        evidence::{agrees, nulls, victim_pids},
        kernel_log,
        player::Player,
        wait_until,
    },
};

pub static TESTS: &[Test] = &[
    Test::core("oom::own::container_limit", container_limit),
    Test::core("oom::own::near_the_limit_is_no_kill", near_the_limit_is_no_kill),
    Test::core("oom::own::kill_9_and_exit_137_are_no_oom", kill_9_and_exit_137_are_no_oom),
];

/// A kill, the finding, and the kernel's report say the same.
fn container_limit() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    // The kernel reports ten kills in five seconds, everybody's together: where ours is not among them, once more.
    let compared = wait_until("a kill that the kernel reports in full", || {
        let container = tree.container().limited(24);
        let mut hog = Player::within(&container, &["adj=300", "uid=65534", "say=hog", "anon"]);
        let who = hog.said("hog");
        let (status, ended_ns) = hog.ended();
        assert_eq!(status.signal(), Some(9), "{status}");
        let line = ctrace.finding("oom.container-limit", &container);
        let finding = &line.json;
        let late_ns = line.at_ns.saturating_sub(ended_ns);
        let allowed_ns = if in_virtual_machine() { 5_000_000_000 } else { 1_000_000_000 };
        assert!(late_ns < allowed_ns, "told {late_ns} ns after the kill");
        assert_eq!(finding["severity"], "critical");
        assert_eq!(finding["container"]["id"], container.name());
        assert_eq!(finding["container"]["runtime"], "docker");
        assert_eq!(finding["container"]["name"], json!(null), "no engine knows it, so it has no name");
        assert!(finding["container"]["unknown"]["name"].is_string(), "and the reason for that");
        assert_eq!(finding["evidence"]["cgroup"], container.path);
        assert_eq!(finding["evidence"]["limiting_cgroup"], container.path);
        assert_eq!(finding["evidence"]["limit_bytes"], 24 << 20);
        assert_eq!(victim_pids(finding), [who.pid]);
        assert_eq!(finding["process"]["pid"], who.pid);
        assert_eq!(finding["process"]["uid"], 65534);
        assert_eq!(finding["evidence"]["trigger"]["process"]["pid"], who.pid);
        assert_eq!(finding["evidence"]["trigger"]["container"]["id"], container.name());
        assert_eq!(finding["evidence"]["victims"][0]["oom_score_adj"], 300);
        assert!(finding["why"].as_str().is_some_and(|why| why.contains("anonymous memory")), "{}", finding["why"]);
        agrees(finding, &kernel_log::report_of(who.tid)).then(|| line.json.clone())
    });
    // What may be null: without a hook on oom_kill_process its `order`; in the host's pid namespace `init_alive`.
    let inferred = compared["evidence"]["inferred"] == true;
    let allowed: &[&str] = if inferred { &["init_alive", "order"] } else { &["init_alive"] };
    assert_eq!(nulls(&compared), allowed, "{compared}");
    ctrace.stop();
}

/// At nine tenths of the limit nothing happens, and nothing is said.
fn near_the_limit_is_no_kill() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container().limited(32);
    let mut hog = Player::within(&container, &["anon=26", "say=full", "pause"]);
    hog.said("full");
    let usage = container.usage_bytes();
    assert!(usage > 26 << 20 && usage < 32 << 20, "{usage} of {}", 32 << 20);
    sentinel(&ctrace, &tree);
    assert!(hog.lives());
    let said = ctrace.stop();
    assert_eq!(said.codes(&container), [""; 0]);
}

/// Exit code 137 is SIGKILL's, or anybody's: only the kernel's decision says OOM. Even near the limit, even where a real
/// kill came before.
fn kill_9_and_exit_137_are_no_oom() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container().limited(32);
    let hog = Player::within(&container, &["say=first", "anon"]);
    let first = hog.said("first");
    ctrace.finding("oom.container-limit", &container);
    let mut hog = Player::within(&container, &["anon=26", "say=second", "pause"]);
    kill(Pid::from_raw(hog.said("second").pid as i32), Signal::SIGKILL).expect("it lives");
    assert_eq!(hog.ended().0.signal(), Some(9));
    let mut hog = Player::within(&container, &["anon=26", "exit=137"]);
    assert_eq!(hog.ended().0.code(), Some(137));
    sentinel(&ctrace, &tree);
    assert_eq!(container.kills(), 1);
    let said = ctrace.stop();
    assert_eq!(said.codes(&container), ["oom.container-limit"]);
    assert_eq!(victim_pids(said.about(&container).next().expect("one")), [first.pid]);
}
