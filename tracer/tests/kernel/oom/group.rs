//! `oom.group-kill`: `memory.oom.group` takes all processes of a cgroup along, in one finding.

use super::sentinel;
use crate::{
    harness::{Lack, Test},
    support::{
        cgroups::Tree,
        ctrace::Ctrace,
        evidence::{agrees, victim_pids},
        kernel_log,
        player::Player,
        wait_until,
    },
};

const V2: &[Lack] = &[Lack::CgroupV2];

pub static TESTS: &[Test] = &[
    Test::core("oom::group::all_die_together", all_die_together).needs(V2),
    Test::core("oom::group::without_the_flag_only_one_dies", without_the_flag_only_one_dies),
    Test::full("oom::group::at_the_parents_limit", at_the_parents_limit).needs(V2),
    Test::full("oom::group::a_flag_above_the_limit_counts_for_nothing", a_flag_above_the_limit_counts_for_nothing)
        .needs(V2),
    Test::full("oom::group::a_protected_init_outlives_its_group", a_protected_init_outlives_its_group).needs(V2),
];

fn all_die_together() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    wait_until("a kill that the kernel reports in full", || {
        let container = tree.container().limited(24);
        container.set("memory.oom.group", "1");
        let mut hog = Player::as_init(&container, &["herd=2", "say=hog", "anon"]);
        let who = hog.said("hog");
        hog.ended();
        let finding = ctrace.finding("oom.group-kill", &container).json;
        let victims = victim_pids(&finding);
        assert_eq!(victims.len(), 3, "{finding}");
        assert_eq!(victims[0], who.pid, "the chosen one stands first");
        assert_eq!(finding["evidence"]["limiting_cgroup"], container.path);
        assert_eq!(finding["evidence"]["init_alive"], false);
        assert!(finding["summary"].as_str().is_some_and(|text| text.contains("2 more")), "{finding}");
        agrees(&finding, &kernel_log::report_of(who.tid)).then_some(())
    });
    let said = ctrace.stop();
    let others = said.lines.iter().filter(|line| {
        line.json["type"] == "finding"
            && line.json["evidence"]["before_attach"] != true
            && line.json["code"] != "oom.group-kill"
    });
    assert_eq!(others.count(), 0, "one decision is one finding");
}

/// The near miss: three processes, no flag.
fn without_the_flag_only_one_dies() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container().limited(24);
    let mut hog = Player::as_init(&container, &["herd=2", "child", "say=hog", "anon"]);
    let who = hog.said("hog");
    let finding = ctrace.finding("oom.container-limit", &container).json;
    sentinel(&ctrace, &tree);
    assert!(hog.lives());
    assert_eq!(victim_pids(&finding), [who.pid]);
    assert_eq!(ctrace.stop().codes(&container), ["oom.container-limit", "oom.child-killed"]);
}

/// Whoever's limit it was: it is a group kill, and `limiting_cgroup` says the rest.
fn at_the_parents_limit() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let pod = tree.group("pod").limited(32);
    let (container, sibling) = (tree.container_below("pod"), tree.container_below("pod"));
    container.set("memory.oom.group", "1");
    let mut bystander = Player::within(&sibling, &["anon=2", "say=there", "pause"]);
    bystander.said("there");
    let hog = Player::within(&container, &["herd=2", "say=hog", "anon"]);
    let who = hog.said("hog");
    let finding = ctrace.finding("oom.group-kill", &container).json;
    sentinel(&ctrace, &tree);
    assert!(bystander.lives(), "another cgroup's process");
    assert_eq!(finding["evidence"]["limiting_cgroup"], pod.path);
    let victims = victim_pids(&finding);
    assert!(victims.len() == 3 && victims[0] == who.pid, "{finding}");
    let said = ctrace.stop();
    assert_eq!(said.codes(&container), ["oom.group-kill"]);
    assert_eq!(said.codes(&sibling), [""; 0]);
}

/// The kernel looks for the flag between the victim and the limit, not above.
fn a_flag_above_the_limit_counts_for_nothing() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    tree.group("pod").set("memory.oom.group", "1");
    let container = tree.container_below("pod").limited(24);
    let mut hog = Player::within(&container, &["child", "say=hog", "anon"]);
    let who = hog.said("hog");
    let finding = ctrace.finding("oom.container-limit", &container).json;
    assert!(hog.lives());
    assert_eq!(victim_pids(&finding), [who.pid]);
    assert_eq!(ctrace.stop().codes(&container), ["oom.container-limit"]);
}

/// `oom_score_adj` -1000 spares a process, even of the group: here PID 1, so that the container looks healthy.
fn a_protected_init_outlives_its_group() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container().limited(24);
    container.set("memory.oom.group", "1");
    let mut hog = Player::as_init(&container, &["adj=-1000", "child", "adj=0", "herd=1", "say=hog", "anon"]);
    let who = hog.said("hog");
    let second = ctrace.finding("oom.child-killed", &container).json;
    let first = ctrace.finding("oom.group-kill", &container).json;
    assert!(hog.lives());
    let victims = victim_pids(&first);
    assert!(victims.len() == 2 && victims[0] == who.pid, "{first}");
    assert_eq!(first["evidence"]["init_alive"], true);
    assert_eq!(second["refers_to"], first["id"]);
    assert_eq!(ctrace.stop().codes(&container), ["oom.group-kill", "oom.child-killed"]);
}
