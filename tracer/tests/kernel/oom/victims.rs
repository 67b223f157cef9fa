//! Who is a victim, and as what it is shown: threads, sharers of one memory, names that bite.

use std::os::unix::process::ExitStatusExt;

use serde_json::json;

use super::sentinel;
use crate::{
    harness::Test,
    support::{
        cgroups::Tree,
        ctrace::{self, Ctrace},
        evidence::{agrees, victim_pids},
        kernel_log,
        player::Player,
        wait_until,
    },
};

pub static TESTS: &[Test] = &[
    Test::core("oom::victims::a_sharer_of_the_memory_dies_too", a_sharer_of_the_memory_dies_too),
    Test::core("oom::victims::a_child_with_its_own_memory_lives", a_child_with_its_own_memory_lives),
    Test::full("oom::victims::a_thread_asks", a_thread_asks),
    Test::full("oom::victims::a_process_whose_leader_is_gone", a_process_whose_leader_is_gone),
    Test::full("oom::victims::shared_memory_is_told_apart", shared_memory_is_told_apart),
    Test::full("oom::victims::a_name_that_bites_is_inert", a_name_that_bites_is_inert),
    Test::full("oom::victims::many_kills_in_a_row", many_kills_in_a_row),
];

/// The kernel kills it without a word: no `mark_victim`, no line in the log.
fn a_sharer_of_the_memory_dies_too() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container().limited(24);
    let mut hog = Player::within(&container, &["sharer", "say=hog", "anon"]);
    let (who, sharer) = (hog.said("hog"), hog.said("sharer"));
    assert_eq!(hog.ended().0.signal(), Some(9));
    let finding = ctrace.finding("oom.container-limit", &container).json;
    let mut victims = victim_pids(&finding);
    victims.sort_unstable();
    let mut killed = [who.pid, sharer.pid];
    killed.sort_unstable();
    assert_eq!(victims, killed);
    // One memory is counted once.
    let counted =
        finding["evidence"]["victims"].as_array().expect("two").iter().filter(|victim| !victim["anon_bytes"].is_null());
    assert_eq!(counted.count(), 1, "{finding}");
    assert_eq!(ctrace.stop().codes(&container), ["oom.container-limit"]);
}

/// The near miss.
fn a_child_with_its_own_memory_lives() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container().limited(24);
    let hog = Player::within(&container, &["child", "herd=1", "say=hog", "anon"]);
    let who = hog.said("hog");
    let finding = ctrace.finding("oom.container-limit", &container).json;
    sentinel(&ctrace, &tree);
    assert_eq!(victim_pids(&finding), [who.pid]);
    assert_eq!(ctrace.stop().codes(&container), ["oom.container-limit"]);
}

fn a_thread_asks() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container().limited(24);
    let hog = Player::within(&container, &["say=leader", "thread", "comm=worker", "say=asker", "anon"]);
    let (leader, asker) = (hog.said("leader"), hog.said("asker"));
    assert!(leader.pid == asker.pid && leader.tid != asker.tid);
    let finding = ctrace.finding("oom.container-limit", &container).json;
    assert_eq!(victim_pids(&finding), [leader.pid]);
    let trigger = &finding["evidence"]["trigger"]["process"];
    assert_eq!(
        (&trigger["pid"], &trigger["tid"], &trigger["comm"]),
        (&json!(leader.pid), &json!(asker.tid), &json!("worker"))
    );
    assert_eq!(ctrace.stop().codes(&container), ["oom.container-limit"]);
}

/// The kernel marks a thread that still has the memory: its id is no process's.
fn a_process_whose_leader_is_gone() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container().limited(24);
    let mut hog = Player::as_init(&container, &["child", "leaderless", "say=asker", "anon"]);
    let asker = hog.said("asker");
    assert_ne!(asker.pid, asker.tid);
    let finding = ctrace.finding("oom.container-limit", &container).json;
    assert_eq!(victim_pids(&finding), [asker.pid]);
    assert_eq!(finding["process"]["tid"], asker.tid);
    assert_eq!(finding["process"]["ns_pid"], 2, "the process's, not the thread's");
    ctrace.finding("oom.child-killed", &container);
    assert!(hog.lives());
    ctrace.stop();
}

fn shared_memory_is_told_apart() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    wait_until("a kill that the kernel reports in full", || {
        let container = tree.container().limited(32);
        let hog = Player::within(&container, &["say=hog", "anon=6", "shmem"]);
        let who = hog.said("hog");
        let finding = ctrace.finding("oom.container-limit", &container).json;
        let number = |key: &str| finding["evidence"][key].as_u64();
        if !agrees(&finding, &kernel_log::report_of(who.tid)) {
            return None;
        }
        let (anon, file, shmem) = (number("anon_bytes")?, number("file_bytes")?, number("shmem_bytes")?);
        assert!(shmem > 20 << 20 && file >= shmem && anon > 5 << 20 && anon < 10 << 20, "{finding}");
        assert!(finding["why"].as_str().is_some_and(|why| why.contains("shared memory")), "{finding}");
        let victim = &finding["evidence"]["victims"][0];
        assert!(victim["shmem_bytes"].as_u64().is_some_and(|bytes| bytes > 20 << 20), "{finding}");
        Some(())
    });
    ctrace.stop();
}

/// A container chooses the names of its processes.
fn a_name_that_bites_is_inert() {
    let tree = Tree::new();
    let lines = Ctrace::ready(ctrace::command(&["oom", "--lines"]));
    let json = Ctrace::oom();
    let container = tree.container().limited(24);
    let mut hog = Player::within(&container, &["comm=\x1b[31m a\n(b)\t\u{9b}x", "say=hog", "anon"]);
    let who = hog.said("hog");
    hog.ended();
    let finding = json.finding("oom.container-limit", &container).json;
    assert_eq!(finding["process"]["comm"], "\x1b[31m a\n(b)\t\u{9b}x");
    let shown = lines.wait_for("the kill", |line| {
        line.text.contains("was killed") && line.text.contains(&format!("(pid {})", who.pid))
    });
    assert!(shown.text.contains("\\x1b[31m a\\n(b)\\t\\x9bx (pid "), "{}", shown.text);
    lines.wait_for("its end", |line| line.text.contains("oom.container-limit") && line.text.contains(&container.path));
    for line in lines.stop().lines {
        assert!(!line.text.chars().any(char::is_control), "a control character: {:?}", line.text);
    }
    json.stop();
}

/// The kernel reports ten kills in five seconds, and flushes the statistics for its reports only. Past that the split is
/// left out, with the reason, or it is right; and no kill is.
fn many_kills_in_a_row() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    // The kernel reports ten in five seconds: all at once, so that they cannot straddle two such windows and fit both.
    let containers: Vec<_> = (0..22).map(|_| tree.container().limited(16)).collect();
    let hogs: Vec<_> = containers.iter().map(|container| Player::within(container, &["say=hog", "anon"])).collect();
    let killed: Vec<_> = hogs
        .into_iter()
        .map(|mut hog| {
            let who = hog.said("hog");
            hog.ended();
            who
        })
        .collect();
    let mut bare = 0;
    for (container, who) in containers.iter().zip(killed) {
        let finding = ctrace.finding("oom.container-limit", container).json;
        assert_eq!(victim_pids(&finding), [who.pid]);
        assert_eq!(finding["evidence"]["limit_bytes"], 16 << 20);
        // Where many flush at once the kernel skips its own flush as well, and its report is as old: null is right then.
        let Some(anon) = finding["evidence"]["anon_bytes"].as_u64() else {
            assert!(finding["unknown"]["anon_bytes"].as_str().is_some_and(|why| why.contains("stale")), "{finding}");
            bare += 1;
            continue;
        };
        let report = kernel_log::report_of(who.tid);
        if agrees(&finding, &report) {
            continue;
        }
        bare += 1;
        // The process is all there is in its cgroup; its own memory is always exact.
        let held = report.victims[0].anon_bytes.expect("the kill line has it");
        assert!(anon.abs_diff(held) < held / 8, "anon {anon} of a cgroup whose only process held {held}: {finding}");
    }
    assert!(bare > 0, "the kernel reported all 22: the test did not test what it is for");
    assert_eq!(ctrace.stop().codes(&containers[21]), ["oom.container-limit"]);
}
