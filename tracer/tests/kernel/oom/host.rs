//! `oom.host` and `oom.cpuset`, for a small machine of two NUMA nodes (`numa=fake=2`) that nobody else needs.

use std::{fs, path::Path};

use serde_json::Value;

use super::sentinel;
use crate::{
    harness::{List, Test},
    support::{
        cgroups::{Group, Tree},
        ctrace::Ctrace,
        evidence::{nulls, victim_pids},
        kernel_log,
        player::Player,
    },
};

pub static TESTS: &[Test] = &[
    Test::of(List::HostOom, "oom::host::out_of_memory", out_of_memory),
    Test::of(List::HostOom, "oom::host::a_node_is_full", a_node_is_full),
    Test::of(List::HostOom, "oom::host::a_limit_is_not_the_host", a_limit_is_not_the_host),
];

/// The kernel would rather kill this than anything else here.
const WORST: &str = "adj=900";

fn killed_by_host(container: &Group, ctrace: &Ctrace, code: &str) -> (Value, u64) {
    let mut hog = Player::as_init(container, &[WORST, "fragile-child", "say=hog", "anon"]);
    let who = hog.said("hog");
    assert_eq!(hog.ended().0.code(), Some(137));
    let finding = ctrace.finding(code, container).json;
    assert_eq!(victim_pids(&finding), [who.pid]);
    assert_eq!(finding["container"]["id"], container.name());
    assert_eq!(finding["evidence"]["limiting_cgroup"], Value::Null, "no cgroup's limit was hit");
    // The kernel's report has no numbers of cgroups here either.
    for key in ["usage_bytes", "anon_bytes", "file_bytes", "shmem_bytes", "kernel_bytes", "swap_bytes"] {
        assert!(nulls(&finding).contains(&key.to_owned()), "{key}: {finding}");
    }
    (finding, who.tid)
}

fn out_of_memory() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container();
    let (finding, tid) = killed_by_host(&container, &ctrace, "oom.host");
    let report = kernel_log::report_of(tid);
    assert_eq!(report.constraint, Some(tracer::history::report::Constraint::None));
    let total = fs::read_to_string("/proc/meminfo")
        .expect("meminfo")
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    let total = total.expect("MemTotal") * 1024;
    let limit = finding["evidence"]["limit_bytes"].as_u64().expect("all the memory that there is");
    assert!(limit.abs_diff(total) < total / 20, "{limit} of {total}");
    let held = &finding["evidence"]["victims"][0];
    assert!(held["anon_bytes"].as_u64().is_some_and(|anon| anon > total / 4), "{finding}");
    ctrace.stop();
}

fn a_node_is_full() {
    assert!(Path::new("/sys/devices/system/node/node1").exists(), "this list is for a machine with two nodes");
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container();
    tree.enable("cpuset", &container);
    container.set("cpuset.mems", "1");
    let (_, tid) = killed_by_host(&container, &ctrace, "oom.cpuset");
    assert_eq!(kernel_log::report_of(tid).constraint, Some(tracer::history::report::Constraint::Cpuset));
    let codes: Vec<Value> = ctrace.stop().about(&container).map(|finding| finding["code"].clone()).collect();
    assert_eq!(codes, ["oom.cpuset"]);
}

/// The near miss of both: the same hog, in the same small machine, below a limit of its own.
fn a_limit_is_not_the_host() {
    let tree = Tree::new();
    let ctrace = Ctrace::oom();
    let container = tree.container().limited(24);
    tree.enable("cpuset", &container);
    container.set("cpuset.mems", "1");
    let mut hog = Player::within(&container, &[WORST, "anon"]);
    hog.ended();
    ctrace.finding("oom.container-limit", &container);
    sentinel(&ctrace, &tree);
    assert_eq!(ctrace.stop().codes(&container), ["oom.container-limit"]);
}
