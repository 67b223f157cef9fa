//! `ctrace mem`: cache that is no leak, memory that runs out, stalls and swap, and what must be none of it.

use std::fs;

use serde_json::Value;

use crate::{
    harness::{Lack, Test},
    support::{
        cgroups::{Group, Tree, is_v1},
        ctrace::{Ctrace, Line, command},
        disk::{Scratch, run},
        player::Player,
    },
};

pub static TESTS: &[&[Test]] = &[&[
    Test::core("mem::page_cache", page_cache),
    Test::core("mem::near_limit", near_limit),
    Test::full("mem::parent_limit", parent_limit),
    Test::core("mem::neither", neither),
    Test::full("mem::forecast", forecast),
    Test::core("mem::reclaim_stall", reclaim_stall),
    Test::core("mem::high_stall", high_stall).needs(&[Lack::CgroupV2]),
    Test::full("mem::controller_is_off", controller_is_off).needs(&[Lack::CgroupV2]),
    Test::core("mem::swapping", swapping),
    Test::full("mem::sample_is_memory_stat", sample_is_memory_stat),
]];

const MIB: u64 = 1 << 20;

fn ctrace() -> Ctrace {
    Ctrace::ready(command(&["mem", "--json"]))
}

/// Waits for the numbers of a container of which something is true.
fn sample(ctrace: &Ctrace, of: &Group, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let wanted = |line: &Line| line.json["sample"] == "mem" && line.json["cgroup"] == of.path && is(&line.json);
    ctrace.wait_for(&format!("the memory of {} {what}", of.path), wanted).json
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// So many stalls, of which none was longer than the longest.
fn within_the_longest(evidence: &Value) {
    let (count, worst) = (number(evidence, "stalls"), number(evidence, "worst_ns"));
    assert!(count.saturating_mul(worst) >= number(evidence, "stalled_ns"), "{evidence}");
}

fn page_cache() {
    let tree = Tree::new();
    let container = tree.container().limited(32);
    let file = Scratch::new();
    let ctrace = ctrace();
    let write = format!("file={}=64", file.path().display());
    let _writer = Player::within(&container, &[&write, "pause"]);
    let finding = ctrace.finding("mem.page-cache", &container).json;
    assert_eq!(finding["severity"], "info");
    assert_eq!(finding["state"], "open");
    let evidence = &finding["evidence"];
    assert_eq!(number(evidence, "limit_bytes"), 32 * MIB);
    assert_eq!(evidence["limiting_cgroup"], container.path);
    assert!(number(evidence, "usage_bytes") >= 28 * MIB, "{evidence}");
    assert!(number(evidence, "cache_bytes") >= 16 * MIB, "{evidence}");
    assert!(number(evidence, "anon_bytes") < 8 * MIB, "{evidence}");
    let said = ctrace.stop();
    assert!(!said.codes(&container).contains(&"mem.near-limit"));
}

fn near_limit() {
    let tree = Tree::new();
    let container = tree.container().limited(48);
    let ctrace = ctrace();
    let hog = Player::within(&container, &["anon=42", "say=full", "pause"]);
    hog.said("full");
    let finding = ctrace.finding("mem.near-limit", &container).json;
    assert_eq!(finding["severity"], "warning");
    let evidence = &finding["evidence"];
    assert!(number(evidence, "unreclaimable_bytes") >= 42 * MIB, "{evidence}");
    assert!(number(evidence, "anon_bytes") >= 41 * MIB, "{evidence}");
    assert_eq!(evidence["limiting_cgroup"], container.path);
    drop(hog);
    let closed =
        ctrace.wait_for("that it is over", |line| line.json["id"] == finding["id"] && line.json["state"] == "closed");
    assert_eq!(closed.json["container"]["cgroup"], container.path);
    assert!(!ctrace.stop().codes(&container).contains(&"mem.page-cache"));
}

fn parent_limit() {
    let tree = Tree::new();
    let container = tree.container_below("slice").limited(64);
    let parent = tree.group("slice").limited(40);
    let ctrace = ctrace();
    let hog = Player::within(&container, &["anon=36", "say=full", "pause"]);
    hog.said("full");
    let finding = ctrace.finding("mem.near-limit", &container).json;
    assert_eq!(finding["evidence"]["limiting_cgroup"], parent.path);
    assert_eq!(number(&finding["evidence"], "limit_bytes"), 40 * MIB);
    assert!(finding["summary"].as_str().is_some_and(|text| text.contains("its parent")), "{finding}");
    ctrace.stop();
}

/// Room left, of each kind: half full of anonymous memory, and of cache.
fn neither() {
    let tree = Tree::new();
    let (anon, cache) = (tree.container().limited(64), tree.container().limited(64));
    let file = Scratch::new();
    let ctrace = ctrace();
    let hog = Player::within(&anon, &["anon=30", "say=full", "pause"]);
    let write = format!("file={}=30", file.path().display());
    let writer = Player::within(&cache, &[&write, "say=full", "pause"]);
    hog.said("full");
    writer.said("full");
    for group in [&anon, &cache] {
        sample(&ctrace, group, "as it is now", |row| number(row, "usage_bytes") >= 30 * MIB);
    }
    let said = ctrace.stop();
    assert!(said.codes(&anon).is_empty() && said.codes(&cache).is_empty());
}

fn forecast() {
    let tree = Tree::new();
    let container = tree.container().limited(128);
    let ctrace = ctrace();
    let _hog = Player::within(&container, &["drip=100", "pause"]);
    let row = sample(&ctrace, &container, "with a forecast", |row| row["time_to_limit_ns"].is_u64());
    let growth = number(&row, "anon_growth_bytes_per_s");
    // Five MiB a second, less what the machine is late.
    assert!((MIB / 2..6 * MIB).contains(&growth), "{row}");
    let seconds = number(&row, "time_to_limit_ns") / 1_000_000_000;
    assert!((10..250).contains(&seconds), "{row}");
    ctrace.stop();
}

fn reclaim_stall() {
    let tree = Tree::new();
    let (tight, roomy) = (tree.container().limited(24), tree.container());
    let file = Scratch::new().sparse(256);
    let small = Scratch::new().sparse(8);
    let ctrace = ctrace();
    let churn = format!("churn={}", file.path().display());
    let churners: Vec<Player> =
        (0..4).map(|_| Player::within(&tight, &["comm=churner", "say=churns", &churn])).collect();
    // It reads as much, and has all of it in memory.
    let _calm = Player::within(&roomy, &[&format!("churn={}", small.path().display())]);
    let finding = ctrace.finding("mem.reclaim-stall", &tight).json;
    let evidence = &finding["evidence"];
    assert_eq!(evidence["limiting_cgroup"], tight.path);
    assert!(number(evidence, "stalled_ns") >= 200_000_000, "{evidence}");
    within_the_longest(evidence);
    assert_eq!(evidence["host_stalled_ns"], 0);
    assert_eq!(finding["process"]["comm"], "churner");
    let pids: Vec<u64> = churners.iter().map(|churner| churner.said("churns").pid).collect();
    assert!(pids.contains(&number(&finding["process"], "pid")));
    ctrace.wait_for("each of them to be told", |line| {
        let rows = || line.json["evidence"]["processes"].as_array().into_iter().flatten();
        let is_told = |pid: &u64| rows().filter(|row| row["process"]["pid"] == *pid).count() == 1;
        line.json["code"] == "mem.reclaim-stall" && pids.iter().all(is_told)
    });
    assert!(number(evidence, "stalled_ns") <= 4 * number(evidence, "window_ns"), "more than the time of all of them");
    sample(&ctrace, &roomy, "as it is now", |row| row["reclaim_stall_pct"] == 0.0);
    assert!(!ctrace.stop().codes(&roomy).contains(&"mem.reclaim-stall"));
}

fn high_stall() {
    let tree = Tree::new();
    let ctrace = ctrace();
    let (held, free) = (tree.container(), tree.container());
    held.set("memory.high", &(16 * MIB).to_string());
    free.set("memory.high", &(64 * MIB).to_string());
    let file = Scratch::new().sparse(256);
    let churn = format!("churn={}", file.path().display());
    let mut slow = Player::within(&held, &["comm=slow", "say=slow", "anon=48", "await", &churn]);
    let _fast = Player::within(&free, &["anon=32", "pause"]);
    let finding = ctrace.finding("mem.high-stall", &held).json;
    let evidence = &finding["evidence"];
    assert_eq!(number(evidence, "high_bytes"), 16 * MIB);
    assert_eq!(evidence["limiting_cgroup"], held.path);
    assert!(number(evidence, "stalled_ns") >= 200_000_000, "{evidence}");
    assert!(number(evidence, "stalled_ns") <= number(evidence, "window_ns"), "one task: {evidence}");
    within_the_longest(evidence);
    assert!(number(evidence, "high_events") > 0, "{evidence}");
    assert_eq!(finding["process"]["pid"], slow.said("slow").pid);
    // What it reclaimed there is no reclaim at a limit …
    let at_a_limit =
        |line: &Line| line.json["cgroup"] == held.path && line.json["reclaim_stall_pct"].as_f64() > Some(0.0);
    assert!(!ctrace.lines().iter().any(at_a_limit), "there is none");
    // … and what the same task reclaims afterwards at one is none of that.
    held.set("memory.high", "max");
    held.set("memory.max", &(64 * MIB).to_string());
    slow.go();
    ctrace.finding("mem.reclaim-stall", &held);
    assert!(!ctrace.stop().codes(&free).contains(&"mem.high-stall"));
}

/// It has a row, which says so.
fn controller_is_off() {
    let tree = Tree::new();
    let container = tree.container();
    let parent = container.directory().parent().expect("a cgroup above it").join("cgroup.subtree_control");
    fs::write(parent, "-memory").expect("no memory controller");
    let _player = Player::within(&container, &["anon=8", "pause"]);
    let ctrace = ctrace();
    let row = sample(&ctrace, &container, "that it is not controlled", |row| row["usage_bytes"].is_null());
    let why = |key: &str| row["unknown"][key].as_str().unwrap_or_default().to_owned();
    assert!(why("usage_bytes").contains("the memory controller is off"), "{row}");
    assert!(row["anon_bytes"].is_null() && !why("anon_bytes").is_empty(), "{row}");
    assert!(ctrace.stop().codes(&container).is_empty());
}

/// Swap of this test's own: a file, or the virtual machine's disk, whose files are the host's.
pub struct Swap {
    at: String,
    _file: Option<Scratch>,
}

impl Swap {
    pub fn on() -> Self {
        let (at, file) = if let Ok(disk) = std::env::var("CTRACE_TEST_DISK") {
            (disk, None)
        } else {
            let file = Scratch::new();
            fs::write(file.path(), vec![0; 128 << 20]).expect("a swap file");
            let at = file.path().to_string_lossy().into_owned();
            run("chmod", &["600", &at]);
            (at, Some(file))
        };
        run("mkswap", &[&at]);
        run("swapon", &[&at]);
        Self { at, _file: file }
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        run("swapoff", &[&self.at]);
    }
}

fn swapping() {
    let _swap = Swap::on();
    let tree = Tree::new();
    let ctrace = ctrace();
    let (tight, keeps) = (tree.container().limited(24), tree.container().limited(64));
    let hog = Player::within(&tight, &["anon=48", "pause"]);
    let calm = Player::within(&keeps, &["anon=48", "pause"]);
    let finding = ctrace.finding("mem.swapping", &tight).json;
    let evidence = &finding["evidence"];
    assert!(number(evidence, "swap_bytes") > 0, "{evidence}");
    assert!(number(evidence, "swap_free_bytes") > 0, "{evidence}");
    sample(&ctrace, &keeps, "in full", |row| number(row, "anon_bytes") >= 47 * MIB);
    assert!(!ctrace.stop().codes(&keeps).contains(&"mem.swapping"));
    drop((hog, calm));
}

/// At a quiet moment the numbers are those of the kernel's file, to the page.
fn sample_is_memory_stat() {
    let tree = Tree::new();
    let container = tree.container().limited(64);
    let file = Scratch::new();
    let write = format!("file={}=8", file.path().display());
    let quiet = Player::within(&container, &["anon=12", "shmem=4", &write, "say=quiet", "pause"]);
    quiet.said("quiet");
    let ctrace = ctrace();
    let stat = |name: &str| -> u64 {
        let text = container.get("memory.stat");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in memory.stat")).parse().expect("a number")
    };
    let names = if is_v1() {
        ["total_rss", "total_cache", "total_shmem", "total_inactive_file"]
    } else {
        ["anon", "file", "shmem", "inactive_file"]
    };
    let row = sample(&ctrace, &container, "as the kernel has it", |row| {
        let keys = ["anon_bytes", "file_bytes", "shmem_bytes", "inactive_file_bytes"];
        keys.iter().zip(names).all(|(key, name)| row[key] == stat(name))
    });
    // Older kernels hold the last pages back, CPU by CPU.
    assert!(number(&row, "anon_bytes") >= 11 * MIB && number(&row, "shmem_bytes") >= 3 * MIB, "{row}");
    let working_set = number(&row, "usage_bytes") - number(&row, "inactive_file_bytes");
    assert_eq!(number(&row, "working_set_bytes"), working_set);
    assert_eq!(number(&row, "limit_bytes"), 64 * MIB);
    ctrace.stop();
}
