//! `load.blocked`: what uninterruptible sleeps are made of in real life, and what only looks like one.

use serde_json::Value;

use crate::{
    cpu::{ctrace, finding, float, sample, watched},
    harness::{Lack, Test},
    support::{
        cgroups::Group,
        cpu::{CpuTree, freeze, play},
        ctrace::Ctrace,
        disk::Disk,
        fuse::Fuse,
        io::{IoTree, limit_writes, play as play_io},
        mapper::Mapped,
    },
};

pub static TESTS: &[&[Test]] = &[&[
    Test::core("load::suspended_device", suspended_device).needs(&[Lack::Mapper]),
    Test::core("load::frozen_fuse", frozen_fuse),
    Test::core("load::asking_fuse_is_no_load", asking_fuse_is_no_load),
    Test::core("load::fsync", fsync),
    Test::core("load::short_sleeps_are_summed", short_sleeps_are_summed),
    Test::full("load::iowait_of_the_host", iowait_of_the_host),
]];

/// The task that is blocked, of an open finding.
fn task(ctrace: &Ctrace, of: &Group, who: u64) -> Value {
    let open = finding(ctrace, "load.blocked", of, "open");
    let task = open["evidence"]["tasks"][0].clone();
    assert_eq!(task["process"]["pid"], who, "{open}");
    assert!(task["blocked_ns"].as_u64().is_some_and(|ns| ns >= 1_000_000_000), "{task}");
    // Some kernels tell nobody (5.10): then that is said.
    assert!(task["wchan"].is_string() || task["unknown"]["wchan"].is_string(), "{task}");
    task
}

fn is_on_stack(task: &Value, what: &str) -> bool {
    task["stack"].as_array().into_iter().flatten().filter_map(Value::as_str).any(|frame| frame.contains(what))
}

/// A device that does not answer: a path that failed, a snapshot in the making.
fn suspended_device() {
    let tree = CpuTree::new();
    let container = tree.container();
    let device = Mapped::zero(4);
    let ctrace = ctrace();
    let direct = format!("direct={}=1=4096=0", device.device());
    let mut writer = play(&container, &["say=there", "await", &direct, "pause"]);
    let who = writer.said("there");
    let suspended = device.suspend();
    writer.go();
    let task = task(&ctrace, &container, who.pid);
    assert_eq!(task["cause"], "disk", "{task}");
    assert!(is_on_stack(&task, "blkdev"), "{task}");
    assert!(task["file_system"].is_null(), "where the device's name is matters to nobody: {task}");
    drop(suspended);
    finding(&ctrace, "load.blocked", &container, "closed");
    ctrace.stop();
}

/// Its pages are waited for in functions that any file's are: the mount tells.
fn frozen_fuse() {
    let tree = CpuTree::new();
    let container = tree.container();
    let fuse = Fuse::mounted();
    let ctrace = ctrace();
    let opened = format!("opened={}", fuse.file());
    let mut reader = play(&container, &[&opened, "pause"]);
    let who = reader.said("opened");
    let held = fuse.hold();
    reader.go();
    let task = task(&ctrace, &container, who.pid);
    assert_eq!(task["cause"], "fuse", "{task}");
    assert_eq!(task["file_system"]["type"], "fuse");
    assert_eq!(task["file_system"]["mounted_at"], fuse.directory());
    drop(held);
    finding(&ctrace, "load.blocked", &container, "closed");
    ctrace.stop();
}

/// Who asks a FUSE server itself sleeps interruptibly.
fn asking_fuse_is_no_load() {
    let tree = CpuTree::new();
    let (container, other) = (tree.container(), tree.container());
    let fuse = Fuse::mounted();
    let ctrace = ctrace();
    let held = fuse.hold();
    let asks = format!("open-to-write={}", fuse.file());
    let asker = play(&container, &["say=there", &asks, "pause"]);
    asker.said("there");
    let frozen = play(&other, &["herd=2", "say=there", "pause"]);
    frozen.said("there");
    let still = freeze(&other);
    // Who is blocked after that is told, and by then these would be as well.
    let third = tree.container();
    let _parent = play(&third, &["vfork"]);
    finding(&ctrace, "load.blocked", &third, "open");
    watched(&ctrace, &container, 4);
    drop((held, still));
    let said = ctrace.stop();
    for innocent in [&container, &other] {
        assert_eq!(said.about(innocent).collect::<Vec<_>>(), Vec::<&Value>::new());
    }
}

/// On a disk that lets a page through in four seconds.
fn fsync() {
    let tree = IoTree::new();
    let container = tree.container();
    let disk = Disk::fast(16);
    limit_writes(&container, &disk.numbers(), 1024);
    let ctrace = ctrace();
    let sync = format!("fsync={}", disk.file("data"));
    let writer = play_io(&container, &["say=there", &sync, "pause"]);
    let who = writer.said("there");
    let task = task(&ctrace, &container, who.pid);
    assert_eq!(task["cause"], "fsync", "{task}");
    assert_eq!(task["file_system"]["type"], "ext4", "{task}");
    limit_writes(&container, &disk.numbers(), 0);
    finding(&ctrace, "load.blocked", &container, "closed");
    ctrace.stop();
}

/// No sleep of it is long enough to be said: the sum is.
fn short_sleeps_are_summed() {
    let tree = IoTree::new();
    let (container, innocent) = (tree.container(), tree.container());
    let disk = Disk::fast(16);
    // A page takes a tenth of a second.
    limit_writes(&container, &disk.numbers(), 40 * 1024);
    let ctrace = ctrace();
    let bystander = play_io(&innocent, &["say=there", "pause"]);
    bystander.said("there");
    let direct = format!("direct={}=1000=4096=0", disk.file("data"));
    let writer = play_io(&container, &["say=there", &direct, "pause"]);
    writer.said("there");
    let disk_sleeps = |row: &Value| {
        let kinds = row["sleeps"].as_array().cloned().unwrap_or_default();
        kinds.into_iter().find(|kind| kind["cause"] == "disk" && kind["count"].as_u64().is_some_and(|count| count > 2))
    };
    let row = sample(&ctrace, &container, "with short sleeps", |row| disk_sleeps(row).is_some());
    let kind = disk_sleeps(&row).expect("it was there");
    let total = kind["total_ns"].as_u64().expect("how long");
    assert!(total > 100_000_000 && total < 10_000_000_000, "{kind}");
    let all = row["blocked_ns"].as_u64().expect("a sum");
    assert!(total <= all, "part of what the sample says of all: {row}");
    let functions: Vec<&str> = kind["stack"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert!(functions.iter().any(|name| name.contains("dio") || name.contains("direct_IO")), "{functions:?}");
    let switch = |name: &&str| matches!(*name, "schedule" | "__schedule") || name.contains("sched_switch");
    assert!(!functions.iter().any(|name| switch(name)), "{functions:?}");
    let beside = sample(&ctrace, &innocent, "beside it", |row| !row["blocked_ns"].is_null());
    assert_eq!(disk_sleeps(&beside), None);
    limit_writes(&container, &disk.numbers(), 0);
    let said = ctrace.stop();
    assert_eq!(said.codes(&container), Vec::<&str>::new(), "none of them is long");
}

/// The host waits for its disk: the container beside has nothing to do with it.
fn iowait_of_the_host() {
    let tree = IoTree::new();
    let cpu = CpuTree::new();
    let (host, container) = (tree.host("backup"), cpu.container());
    let disk = Disk::fast(16);
    let device = disk.numbers();
    limit_writes(&host, &device, 1024);
    let ctrace = ctrace();
    let bystander = play(&container, &["herd=2", "say=there", "pause"]);
    bystander.said("there");
    let direct = format!("direct={}=8=4096=0", disk.file("data"));
    let writer = play_io(&host, &["say=there", &direct, "pause"]);
    let who = writer.said("there");
    let open = ctrace.wait_for("load.blocked of the host", |line| {
        let tasks = line.json["evidence"]["tasks"].as_array();
        line.json["code"] == "load.blocked"
            && tasks.into_iter().flatten().any(|task| task["process"]["pid"] == who.pid && task["cause"] == "disk")
    });
    assert!(open.json["container"].is_null(), "{}", open.json);
    let of_host = |line: &crate::support::ctrace::Line| {
        let sample = &line.json;
        sample["sample"] == "cpu" && sample["container"].is_null() && float(&sample["iowait_pct"]) > 0.0
    };
    ctrace.wait_for("the host's iowait", of_host);
    let row = sample(&ctrace, &container, "beside it", |row| row["blocked"] == 0);
    assert!(row.get("iowait_pct").is_none(), "no container's: {row}");
    limit_writes(&host, &device, 0);
    let said = ctrace.stop();
    assert_eq!(said.about(&container).collect::<Vec<_>>(), Vec::<&Value>::new());
}
