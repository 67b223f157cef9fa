//! `oom.parent-limit`: an ancestor's limit, not the container's own.

use super::sentinel;
use crate::{
    harness::Test,
    support::{
        cgroups::{Tree, container_id},
        ctrace::Ctrace,
        evidence::{agrees, victim_pids},
        kernel_log,
        player::Player,
        wait_until,
    },
};

pub static TESTS: &[Test] = &[
    Test::core("oom::parent::parent_limit", parent_limit),
    Test::core("oom::parent::own_limit_below_a_wider_parent", own_limit_below_a_wider_parent),
    Test::full("oom::parent::the_one_who_asked_is_another_container", the_one_who_asked_is_another_container),
    Test::full("oom::parent::a_container_within_a_container", a_container_within_a_container),
    Test::full("oom::parent::a_limit_inside_the_container_is_its_own", a_limit_inside_the_container_is_its_own),
];

fn parent_limit() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    wait_until("a kill that the kernel reports in full", || {
        let pod = tree.group(&format!("pod-{}", &container_id()[..8])).limited(24);
        let name = pod.name().to_owned();
        let container = tree.container_below(&name).limited(64);
        let hog = Player::within(&container, &["say=hog", "anon"]);
        let who = hog.said("hog");
        let finding = ctrace.finding("oom.parent-limit", &container).json;
        assert_eq!(finding["container"]["id"], container.name());
        assert_eq!(finding["evidence"]["limiting_cgroup"], pod.path);
        assert_eq!(finding["evidence"]["limit_bytes"], 24 << 20);
        assert_eq!(victim_pids(&finding), [who.pid]);
        let said =
            |key: &str| finding[key].as_str().is_some_and(|text| text.contains("ancestor") || text.contains(&pod.path));
        assert!(said("summary") && said("why"), "{finding}");
        agrees(&finding, &kernel_log::report_of(who.tid)).then_some(())
    });
    ctrace.stop();
}

/// The near miss: there is a parent with a limit, but it was the container's own that was hit.
fn own_limit_below_a_wider_parent() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let pod = tree.group("pod").limited(25);
    let container = tree.container_below("pod").limited(24);
    let mut hog = Player::within(&container, &["anon"]);
    hog.ended();
    let finding = ctrace.finding("oom.container-limit", &container).json;
    assert_eq!(finding["evidence"]["limiting_cgroup"], container.path);
    assert_eq!(finding["evidence"]["limit_bytes"], 24 << 20);
    // And a parent at nine tenths of its limit is nobody's end.
    let other = tree.container_below("pod");
    let mut hog = Player::within(&other, &["anon=21", "say=full", "pause"]);
    hog.said("full");
    assert!(pod.usage_bytes() > 21 << 20);
    sentinel(&ctrace, &tree);
    assert!(hog.lives());
    let said = ctrace.stop();
    assert_eq!(said.codes(&container), ["oom.container-limit"]);
    assert_eq!(said.codes(&other), [""; 0]);
}

/// The sibling that grows is not the one that dies: the largest does.
fn the_one_who_asked_is_another_container() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let pod = tree.group("pod").limited(32);
    let (large, growing) = (tree.container_below("pod"), tree.container_below("pod"));
    let mut victim = Player::within(&large, &["anon=22", "say=full", "pause"]);
    let killed = victim.said("full");
    let mut asker = Player::within(&growing, &["say=asker", "anon=12", "pause"]);
    let asked = asker.said("asker");
    victim.ended();
    let finding = ctrace.finding("oom.parent-limit", &large).json;
    assert_eq!(victim_pids(&finding), [killed.pid]);
    assert_eq!(finding["evidence"]["limiting_cgroup"], pod.path);
    assert_eq!(finding["evidence"]["trigger"]["process"]["pid"], asked.pid);
    assert_eq!(finding["evidence"]["trigger"]["container"]["id"], growing.name());
    sentinel(&ctrace, &tree);
    // Some kernels choose once more before the first victim's memory is free.
    let own: &[&str] = if asker.lives() { &[] } else { &["oom.parent-limit"] };
    let said = ctrace.stop();
    assert_eq!(said.codes(&large), ["oom.parent-limit"]);
    assert_eq!(said.codes(&growing), own);
}

/// The inner one is the container; the outer one's limit is a parent's.
fn a_container_within_a_container() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let outer = tree.container().limited(24);
    let inner = tree.group(&format!("docker/{}/docker/{}", outer.name(), container_id()));
    let hog = Player::within(&inner, &["say=hog", "anon"]);
    let who = hog.said("hog");
    let finding = ctrace.finding("oom.parent-limit", &inner).json;
    assert_eq!(finding["container"]["id"], inner.name());
    assert_eq!(finding["container"]["ancestors"][0]["id"], outer.name());
    assert_eq!(finding["evidence"]["limiting_cgroup"], outer.path);
    assert_eq!(victim_pids(&finding), [who.pid]);
    assert_eq!(ctrace.stop().codes(&outer), [""; 0]);
}

/// A cgroup that the container made for itself is part of it, and so is its limit.
fn a_limit_inside_the_container_is_its_own() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container().limited(64);
    let inside = tree.group(&format!("docker/{}/worker", container.name())).limited(24);
    let hog = Player::within(&inside, &["say=hog", "anon"]);
    hog.said("hog");
    let finding = ctrace.finding("oom.container-limit", &container).json;
    assert_eq!(finding["evidence"]["limiting_cgroup"], inside.path);
    assert_eq!(finding["evidence"]["cgroup"], inside.path);
    assert_eq!(ctrace.stop().codes(&container), ["oom.container-limit"]);
}
