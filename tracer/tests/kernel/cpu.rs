//! `ctrace cpu`: throttled, contended and blocked, and what must be none of them.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    harness::{Test, in_virtual_machine},
    support::{
        cgroups::Group,
        cpu::{CpuTree, freeze, periods, play, quota, quota_of, shares, throttled_ns, weight},
        ctrace::{Ctrace, Line, Said, command},
        wait_until,
    },
};

pub static TESTS: &[&[Test]] = &[&[
    Test::core("cpu::throttled", throttled),
    Test::core("cpu::bursts_against_a_short_quota", bursts_against_a_short_quota),
    Test::full("cpu::samples_add_up_to_cpu_stat", samples_add_up_to_cpu_stat),
    Test::core("cpu::busy_below_its_quota", busy_below_its_quota),
    Test::full("cpu::throttled_by_its_parent", throttled_by_its_parent),
    Test::core("cpu::contended", contended),
    Test::core("cpu::blocked_in_vfork", blocked_in_vfork),
    Test::core("cpu::frozen_is_not_blocked", frozen_is_not_blocked),
    Test::full("cpu::blocked_from_before_attach", blocked_from_before_attach),
    Test::full("cpu::frozen_from_before_attach", frozen_from_before_attach),
    Test::full("cpu::samples", samples),
]];

pub fn ctrace() -> Ctrace {
    Ctrace::ready(command(&["cpu", "--json"]))
}

pub fn finding(ctrace: &Ctrace, code: &str, of: &Group, state: &str) -> Value {
    let wanted = |line: &Line| {
        line.json["code"] == code && line.json["container"]["cgroup"] == of.path && line.json["state"] == state
    };
    ctrace.wait_for(&format!("{code} of {}, {state}", of.path), wanted).json
}

pub fn sample(ctrace: &Ctrace, of: &Group, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let wanted = |line: &Line| line.json["sample"] == "cpu" && line.json["cgroup"] == of.path && is(&line.json);
    ctrace.wait_for(&format!("a sample of {} {what}", of.path), wanted).json
}

/// Until ctrace has said so many samples of it: it had time to say more.
pub fn watched(ctrace: &Ctrace, of: &Group, samples: usize) {
    let count = || {
        let lines = ctrace.lines();
        lines.iter().filter(|line| line.json["sample"] == "cpu" && line.json["cgroup"] == of.path).count()
    };
    wait_until(&format!("{samples} samples of {}", of.path), || (count() >= samples).then_some(()));
}

pub fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// A young container's are null.
pub fn above(value: &Value, least: f64) -> bool {
    value.as_f64().is_some_and(|value| value > least)
}

fn throttled() {
    let tree = CpuTree::new();
    let container = tree.container();
    quota(&container, 50);
    let ctrace = ctrace();
    let before = periods(&container);
    let busy = play(&container, &["busy=4", "pause"]);
    let open = finding(&ctrace, "cpu.throttled", &container, "open");
    let now = periods(&container);
    let evidence = &open["evidence"];
    assert_eq!(open["severity"], "warning");
    assert_eq!(evidence["quota_cpus"], 0.5);
    // On a starved machine their turns take as long as a stop, and the two are not told apart.
    let is_told = !in_virtual_machine() || open["unknown"]["threads"].is_null();
    assert!(!is_told || float(&evidence["threads"]) > 1.4, "all four are stopped again and again: {evidence}");
    assert!(!is_told || evidence["then_wait_ns"].as_u64().is_some_and(|ns| ns >= 50_000_000), "{evidence}");
    assert_eq!(
        (evidence["whose"].as_str(), evidence["limiting_cgroup"].as_str()),
        (Some("own"), Some(&*container.path))
    );
    let (all, throttled) = (evidence["periods"].as_u64(), evidence["throttled_periods"].as_u64());
    // What cpu.stat counted in the meantime, or less: its window is a part of that.
    assert!(all.is_some_and(|all| all > 0 && all <= now.0 - before.0), "{all:?} of {before:?} to {now:?}");
    assert!(throttled.is_some_and(|throttled| throttled > 0 && throttled <= now.1 - before.1));
    assert!(evidence["throttled_ns"].as_u64().is_some_and(|ns| ns > 100_000_000), "{evidence}");
    // Four threads ask for four CPUs as soon as the window begins with them.
    let row = sample(&ctrace, &container, "with all that it asks for", |row| above(&row["demand_cpus"], 2.5));
    assert!(float(&row["used_cpus"]) < 0.8, "{row}");
    assert!(float(&row["throttled_pct"]) > 50.0, "{row}");
    drop(busy);
    let closed = finding(&ctrace, "cpu.throttled", &container, "closed");
    assert_eq!(closed["id"], open["id"]);
    let said = ctrace.stop();
    assert!(!said.codes(&container).contains(&"cpu.contended"), "its quota is the cause");
}

/// Four threads burst every 100 ms, and use less than the quota on average: it is that of one period which stops them.
fn bursts_against_a_short_quota() {
    let tree = CpuTree::new();
    let container = tree.container();
    shares(&container, 200_000);
    quota_of(&container, 10, 20);
    let ctrace = ctrace();
    let busy = play(&container, &["say=parent", "bursts=4=8=100", "pause"]);
    let who = busy.said("parent");
    let open = finding(&ctrace, "cpu.throttled", &container, "open");
    let evidence = &open["evidence"];
    assert_eq!((&evidence["quota_ns"], &evidence["period_ns"]), (&10_000_000.into(), &20_000_000.into()));
    // On one CPU their turns take as long as a stop: then it is not known.
    if evidence["threads"].is_null() {
        assert!(open["unknown"]["threads"].is_string() && evidence["run_out_ns"].is_null(), "{open}");
    } else {
        let threads = float(&evidence["threads"]);
        assert!(threads > 0.4 && threads <= 5.0, "{evidence}");
        let (after, rest) = (evidence["run_out_ns"].as_u64(), evidence["then_wait_ns"].as_u64());
        assert_eq!(after.zip(rest).map(|(after, rest)| after + rest), Some(20_000_000), "{evidence}");
        assert!(open["why"].as_str().is_some_and(|why| why.contains("run") && why.contains("then wait")), "{open}");
    }
    assert!(open["why"].as_str().is_some_and(|why| why.contains("a burst meets the quota of one period")), "{open}");
    let longest = &evidence["longest"];
    assert!(longest["wait_ns"].as_u64().is_some_and(|ns| ns > 4_000_000), "{longest}");
    assert_ne!(longest["pid"], who.pid, "it only waits for its children");
    assert_eq!(longest["comm"].as_str(), Some("burst"), "{longest}");
    assert!(float(&evidence["used_cpus"]) <= 0.55, "no more than the quota: {evidence}");
    ctrace.stop();
}

/// What the samples say was throttled is what cpu.stat counted, to the last period and nanosecond.
fn samples_add_up_to_cpu_stat() {
    let tree = CpuTree::new();
    let container = tree.container();
    quota(&container, 30);
    let before = throttled_ns(&container);
    let ctrace = ctrace();
    sample(&ctrace, &container, "at rest", |row| row["throttled_periods"] == 0);
    let busy = play(&container, &["busy=2", "pause"]);
    finding(&ctrace, "cpu.throttled", &container, "open");
    drop(busy);
    finding(&ctrace, "cpu.throttled", &container, "closed");
    let (_, periods) = periods(&container);
    let ns = throttled_ns(&container) - before;
    assert!(periods > 5 && ns > 0);
    let said = ctrace.stop();
    let rows = said.lines.iter().map(|line| &line.json);
    let rows: Vec<&Value> = rows.filter(|json| json["sample"] == "cpu" && json["cgroup"] == container.path).collect();
    let sum = |key: &str| rows.iter().filter_map(|row| row[key].as_u64()).sum::<u64>();
    assert_eq!((sum("throttled_periods"), sum("throttled_ns")), (periods, ns));
}

/// One thread may use one CPU, and has a quota of one and a half.
fn busy_below_its_quota() {
    let tree = CpuTree::new();
    let container = tree.container();
    quota(&container, 150);
    shares(&container, 200_000);
    let ctrace = ctrace();
    let _busy = play(&container, &["busy=1", "pause"]);
    sample(&ctrace, &container, "at work", |row| above(&row["used_cpus"], 0.2));
    watched(&ctrace, &container, 7);
    let row = sample(&ctrace, &container, "with its ceiling", |row| row["quota_cpus"] == 1.5);
    assert_eq!(row["limiting_cgroup"], container.path);
    assert_eq!(row["weight"], weight(200_000));
    let said = ctrace.stop();
    assert_eq!(of_its_own(&said, &container), Vec::<&Value>::new());
}

/// Its findings, without those that were the host's doing at any time until they were over.
fn of_its_own<'a>(said: &'a Said, of: &Group) -> Vec<&'a Value> {
    let hosts: Vec<&Value> =
        said.about(of).filter(|finding| by_the_host(finding)).map(|finding| &finding["id"]).collect();
    said.about(of).filter(|finding| !hosts.contains(&&finding["id"])).collect()
}

/// In an emulated machine ctrace and this test themselves may take a part of the CPUs that counts: it is true then.
fn by_the_host(finding: &Value) -> bool {
    let others = finding["evidence"]["ran_instead"].as_array().into_iter().flatten();
    let hosts = |other: &Value| other["container"].is_null() && above(&other["share_pct"], 5.0);
    in_virtual_machine() && finding["code"] == "cpu.contended" && others.into_iter().any(hosts)
}

fn throttled_by_its_parent() {
    let tree = CpuTree::new();
    let container = tree.container_below("slice");
    let parent = tree.parent("slice");
    quota(&parent, 30);
    let ctrace = ctrace();
    let _busy = play(&container, &["busy=2", "pause"]);
    let open = finding(&ctrace, "cpu.throttled", &container, "open");
    assert_eq!(open["evidence"]["whose"], "parent");
    assert_eq!(open["evidence"]["limiting_cgroup"], parent.path);
    assert_eq!(open["evidence"]["quota_cpus"], 0.3);
    ctrace.stop();
}

/// The CPUs are full, and weights decide; then they are not, and weights mean nothing.
fn contended() {
    let tree = CpuTree::new();
    let (small, large) = (tree.container_below("slice"), tree.container_below("slice"));
    shares(&small, 256);
    shares(&large, 200_000);
    let ctrace = ctrace();
    let cpus = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    // No more threads than CPUs: none has to wait for another of its own.
    let busy = format!("busy={cpus}");
    let its = play(&small, &[&busy, "pause"]);
    let rest = play(&large, &[&busy, "pause"]);
    let open = finding(&ctrace, "cpu.contended", &small, "open");
    let evidence = &open["evidence"];
    assert_eq!(evidence["weight"], weight(256));
    assert!(float(&evidence["weight_pct"]) < 2.0, "{evidence}");
    assert!(float(&evidence["wait_pct"]) > 20.0, "{evidence}");
    assert!(float(&evidence["idle_pct"]) < 10.0, "{evidence}");
    assert!(evidence["wait_worst_ns"].as_u64().is_some_and(|ns| ns > 1_000_000), "{evidence}");
    assert_eq!(evidence["ran_instead"][0]["container"]["cgroup"], large.path, "{evidence}");
    drop(rest);
    // Alone it has what it wants, whatever else this machine does.
    shares(&small, 200_000);
    // An only CPU it would have to share with this test and ctrace.
    let _its = (cpus > 1).then_some(its);
    let closed = finding(&ctrace, "cpu.contended", &small, "closed");
    assert_eq!(closed["id"], open["id"]);
    let said = ctrace.stop();
    let of_large = of_its_own(&said, &large);
    assert!(of_large.is_empty(), "it has the weight for all that it wants: {of_large:?}");
}

fn blocked_in_vfork() {
    let tree = CpuTree::new();
    let container = tree.container();
    let ctrace = ctrace();
    let start = Instant::now();
    let parent = play(&container, &["say=parent", "vfork"]);
    let who = parent.said("parent");
    let open = finding(&ctrace, "load.blocked", &container, "open");
    assert!(start.elapsed() >= Duration::from_secs(1));
    let task = &open["evidence"]["tasks"][0];
    assert_eq!(task["process"]["pid"], who.pid);
    assert_eq!(task["process"]["tid"], who.tid);
    assert_eq!(task["cause"], "vfork", "{task}");
    let blocked = task["blocked_ns"].as_u64().expect("how long");
    assert!(blocked >= 1_000_000_000 && blocked <= start.elapsed().as_nanos() as u64, "{task}");
    assert_eq!(task["at_least"], false);
    let frames: Vec<&str> = task["stack"].as_array().expect("a stack").iter().filter_map(Value::as_str).collect();
    assert!(frames.iter().any(|frame| frame.contains("sys_clone") || frame.contains("kernel_clone")), "{frames:?}");
    let row = sample(&ctrace, &container, "with it in the load", |row| row["blocked"] == 1);
    assert!(float(&row["load1"]) > 0.0);
    drop(parent);
    let closed = finding(&ctrace, "load.blocked", &container, "closed");
    assert_eq!(closed["id"], open["id"]);
    ctrace.stop();
}

/// A frozen container: /proc shows D on cgroup v1, and Linux counts none of it.
fn frozen_is_not_blocked() {
    let tree = CpuTree::new();
    let (container, other) = (tree.container(), tree.container());
    let ctrace = ctrace();
    let herd = play(&container, &["herd=3", "busy=1", "say=there", "pause"]);
    herd.said("there");
    let _frozen = freeze(&container);
    // Who is blocked after that is told, and by then this one would be as well.
    let _parent = play(&other, &["vfork"]);
    finding(&ctrace, "load.blocked", &other, "open");
    watched(&ctrace, &container, 4);
    let said = ctrace.stop();
    assert_eq!(said.about(&container).collect::<Vec<_>>(), Vec::<&Value>::new());
}

fn blocked_from_before_attach() {
    let tree = CpuTree::new();
    let container = tree.container();
    let parent = play(&container, &["say=parent", "vfork"]);
    let who = parent.said("parent");
    wait_until("it to be blocked", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", who.pid)).ok()?;
        stat.contains(") D ").then_some(())
    });
    let ctrace = ctrace();
    let open = finding(&ctrace, "load.blocked", &container, "open");
    assert_eq!(open["evidence"]["tasks"][0]["process"]["pid"], who.pid);
    assert_eq!(open["evidence"]["tasks"][0]["at_least"], true);
    ctrace.stop();
}

fn frozen_from_before_attach() {
    let tree = CpuTree::new();
    let (container, other) = (tree.container(), tree.container());
    let herd = play(&container, &["herd=3", "busy=1", "say=there", "pause"]);
    herd.said("there");
    let _frozen = freeze(&container);
    let parent = play(&other, &["say=parent", "vfork"]);
    parent.said("parent");
    let ctrace = ctrace();
    finding(&ctrace, "load.blocked", &other, "open");
    watched(&ctrace, &container, 4);
    let said = ctrace.stop();
    assert_eq!(said.about(&container).collect::<Vec<_>>(), Vec::<&Value>::new());
}

fn samples() {
    let tree = CpuTree::new();
    let container = tree.container();
    shares(&container, 200_000);
    let ctrace = ctrace();
    let _busy = play(&container, &["comm=spinner", "busy=1", "pause"]);
    let row = sample(&ctrace, &container, "at work", |row| {
        // A process has a use once it was read twice.
        above(&row["used_cpus"], 0.2) && above(&row["processes"][0]["user_cpus"], 0.1)
    });
    assert_eq!(row["container"]["id"], container.name());
    assert!(float(&row["user_cpus"]) > float(&row["system_cpus"]), "{row}");
    assert_eq!(row["processes"][0]["comm"], "spinner");
    assert!(float(&row["processes"][0]["user_cpus"]) > 0.1, "{row}");
    assert!(row["quota_cpus"].is_null() && row["unknown"]["quota_cpus"].is_string());
    assert!(float(&row["runnable"]) > 0.2, "{row}");
    let host =
        ctrace.wait_for("the host's numbers", |line| line.json["sample"] == "cpu" && line.json["container"].is_null());
    let times = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
    let sum: f64 = times.iter().map(|name| float(&host.json[format!("{name}_pct")])).sum();
    assert!((sum - 100.0).abs() < 0.1, "{sum}");
    assert!(host.json["loadavg"].as_array().is_some_and(|load| load.len() == 3));
    ctrace.stop();
}
