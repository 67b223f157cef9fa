//! `oom.child-killed` and `init_alive`: what became of PID 1.

use serde_json::json;

use super::sentinel;
use crate::{
    harness::Test,
    support::{cgroups::Tree, ctrace::Ctrace, evidence::victim_pids, player::Player, wait_until},
};

pub static TESTS: &[Test] = &[
    Test::core("oom::init::child_killed_under_a_living_init", child_killed_under_a_living_init),
    Test::core("oom::init::child_and_init_die_together", child_and_init_die_together),
    Test::full("oom::init::init_itself_is_the_victim", init_itself_is_the_victim),
    Test::full("oom::init::no_init_in_the_hosts_namespace", no_init_in_the_hosts_namespace),
];

fn child_killed_under_a_living_init() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container().limited(24);
    let mut hog = Player::as_init(&container, &["say=init", "child", "say=child", "anon"]);
    let (init, child) = (hog.said("init"), hog.said("child"));
    let second = ctrace.finding("oom.child-killed", &container).json;
    let first = ctrace.finding("oom.container-limit", &container).json;
    assert!(hog.lives());
    assert_eq!(victim_pids(&first), [child.pid]);
    assert_eq!(first["evidence"]["init_alive"], true);
    assert_eq!(first["process"]["ns_pid"], 2);
    assert_eq!(first["process"]["ppid"], init.pid);
    assert_eq!(second["severity"], "warning");
    assert_eq!(second["refers_to"], first["id"]);
    assert_eq!(second["evidence"]["init_alive"], true);
    assert_eq!(second["evidence"]["init_pid"], init.pid);
    assert_eq!(victim_pids(&second), [child.pid]);
    let said = ctrace.stop();
    assert_eq!(said.codes(&container), ["oom.container-limit", "oom.child-killed"]);
}

/// The near miss: PID 1 was not chosen, but ends because its child did. The container is gone, and looks so. On a starved
/// machine PID 1 may live on for longer than ctrace waits, which then rightly says so: it is tried until it doesn't.
fn child_and_init_die_together() {
    wait_until("PID 1 to end at once", || {
        let tree = Tree::new();
        let ctrace = Ctrace::oom();
        let container = tree.container().limited(24);
        let mut hog = Player::as_init(&container, &["fragile-child", "say=child", "anon"]);
        let child = hog.said("child");
        assert_eq!(hog.ended().0.code(), Some(137));
        sentinel(&ctrace, &tree);
        let said = ctrace.stop();
        let finding = said.about(&container).next().expect("one");
        assert_eq!(finding["code"], "oom.container-limit");
        assert_eq!(victim_pids(finding), [child.pid]);
        let dies_at_once = finding["evidence"]["init_alive"] == false;
        let codes: &[&str] =
            if dies_at_once { &["oom.container-limit"] } else { &["oom.container-limit", "oom.child-killed"] };
        assert_eq!(said.codes(&container), codes);
        dies_at_once.then_some(())
    });
}

fn init_itself_is_the_victim() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container().limited(24);
    let mut hog = Player::as_init(&container, &["say=init", "anon"]);
    let init = hog.said("init");
    hog.ended();
    let finding = ctrace.finding("oom.container-limit", &container).json;
    assert_eq!(victim_pids(&finding), [init.pid]);
    assert_eq!(finding["process"]["ns_pid"], 1);
    assert_eq!(finding["evidence"]["init_alive"], false);
    assert_eq!(ctrace.stop().codes(&container), ["oom.container-limit"]);
}

/// Membership is by cgroup alone; whether a PID 1 lives is a question about a namespace that is not there.
fn no_init_in_the_hosts_namespace() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container().limited(24);
    let hog = Player::within(&container, &["child", "say=child", "anon"]);
    let child = hog.said("child");
    let finding = ctrace.finding("oom.container-limit", &container).json;
    assert_eq!(victim_pids(&finding), [child.pid]);
    assert_eq!(finding["evidence"]["init_alive"], json!(null));
    assert!(finding["unknown"]["init_alive"].as_str().is_some_and(|why| why.contains("host's pid namespace")));
    assert_eq!(ctrace.stop().codes(&container), ["oom.container-limit"]);
}
