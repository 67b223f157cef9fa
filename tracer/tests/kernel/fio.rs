//! `ctrace io` against what fio says of itself.

use std::{fs, ops::RangeInclusive};

use serde_json::Value;

use crate::{
    harness::{Lack, Test, in_virtual_machine},
    io::{ctrace, number, slow_device},
    support::{
        cgroups::Group,
        ctrace::{Ctrace, Said, is_skip},
        disk::{Disk, Scratch},
        io::{IoTree, play},
        wait_until,
    },
};

pub static TESTS: &[&[Test]] = &[&[
    Test::full("fio::direct", direct).needs(&[Lack::Fio]),
    Test::full("fio::direct_from_shared_memory", direct_from_shared_memory).needs(&[Lack::Fio]),
    Test::full("fio::direct_from_a_mapped_file", direct_from_a_mapped_file).needs(&[Lack::Fio, Lack::PinnedBios]),
    Test::full("fio::buffered", buffered).needs(&[Lack::Fio]),
    Test::full("fio::pauses", pauses).needs(&[Lack::Fio]),
]];

/// fio in a container, and the job of its report.
fn fio(group: &Group, file: &str, options: &[&str]) -> Value {
    let report = Scratch::new();
    let (name, output) = (format!("--filename={file}"), format!("--output={}", report.path().display()));
    let always = ["exec", "fio", "--name=load", "--ioengine=psync", "--output-format=json", &name, &output];
    let steps: Vec<&str> = always.iter().chain(options).copied().collect();
    let (status, _) = play(group, &steps).ended();
    assert!(status.success(), "fio: {status}");
    let text = fs::read_to_string(report.path()).expect("fio's report");
    let mut report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    report["jobs"][0].take()
}

/// What was counted of one kind of requests, in samples whose windows lie side by side up to the last one: each request is in
/// one of them, however long a busy machine makes a window.
pub fn counted(ctrace: &Ctrace, whose: impl Fn(&Value) -> bool, kind: &str) -> Value {
    let lines = ctrace.lines();
    let rows: Vec<&Value> = lines.iter().map(|line| &line.json).filter(|row| row["sample"] == "io").collect();
    let at = |row: &Value| {
        let time = row["time"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok());
        time.expect("a time").as_nanosecond()
    };
    let mut sums = serde_json::json!({"waited_ns": 0});
    let mut next = rows.last().map(|row| at(row));
    // The host has a row in each.
    for last in rows.iter().rev().filter(|row| row["cgroup"].is_null()) {
        if next != Some(at(last)) {
            continue;
        }
        next = Some(at(last) - i128::from(number(last, "window_ns")));
        for row in rows.iter().filter(|row| row["time"] == last["time"] && whose(row)) {
            let of = &row["devices"][0][kind];
            let Some(of) = of.as_object() else { continue };
            for (key, value) in of {
                if let Some(more) = value.as_u64() {
                    sums[key] = (sums[key].as_u64().unwrap_or(0) + more).into();
                }
            }
            let waited = number(&row["devices"][0][kind], "count") * number(&row["devices"][0][kind], "device_ns");
            sums["waited_ns"] = (number(&sums, "waited_ns") + waited).into();
        }
    }
    sums
}

/// Within 2 %.
fn about(count: u64) -> RangeInclusive<u64> {
    count - count / 50..=count + count / 50
}

/// Requests are summed in the kernel: none is a record of its own. Where a program is preempted (7.3) the kernel may skip one
/// of another hook, which is said.
fn no_record_each(said: &Said) {
    assert!(!said.lines.iter().any(|line| line.json["type"] == "event"), "a record for a request");
    let losses = said.lines.iter().map(|line| &line.json).filter(|line| line["type"] == "loss");
    let lost: Vec<_> = losses.filter(|line| !is_skip(line)).collect();
    assert!(lost.is_empty(), "something was lost: {lost:?}");
}

/// Reads and writes past the page cache: as many, and as many bytes.
fn direct() {
    direct_from("--mem=malloc");
}

/// Its buffers are a file of the kernel's own tmpfs.
fn direct_from_shared_memory() {
    direct_from("--mem=shm");
}

/// Its buffers are pages of a file on another disk: only the bio tells that they are no page cache that is written back.
fn direct_from_a_mapped_file() {
    // The first one, which has the lower number: its rows come first.
    let disk = Disk::fast(64);
    let other = Disk::fast(64);
    // fio makes room in it for private mappings alone.
    let buffers = other.file("buffers");
    fs::write(&buffers, vec![0; 1 << 20]).expect("room");
    direct_from_to(&format!("--mem=mmapshared:{buffers}"), &disk);
}

fn direct_from(memory: &str) {
    direct_from_to(memory, &Disk::fast(64));
}

fn direct_from_to(memory: &str, disk: &Disk) {
    let tree = IoTree::new();
    let (busy, idle) = (tree.container(), tree.container());
    let file = disk.file("direct");
    fs::write(&file, vec![7; 16 << 20]).expect("room");
    nix::unistd::sync();
    let ctrace = ctrace();
    let job = fio(&busy, &file, &["--rw=randrw", "--bs=8k", "--direct=1", "--size=16M", "--io_size=8M", memory]);
    let (reads, writes) = (number(&job["read"], "total_ios"), number(&job["write"], "total_ios"));
    assert!(reads > 300 && writes > 300, "{job}");
    let own = |kind: &str| {
        counted(&ctrace, |row| row["cgroup"] == busy.path && row["devices"][0]["device"] == disk.name(), kind)
    };
    let both = wait_until("all that fio did", || {
        let both = ["read", "write"].map(own);
        let count = |at: usize| both[at]["count"].as_u64().unwrap_or(0);
        (count(0) >= *about(reads).start() && count(1) >= *about(writes).start()).then_some(both)
    });
    for (kind, own) in ["read", "write"].into_iter().zip(&both) {
        let theirs = &job[kind];
        assert!(about(number(theirs, "total_ios")).contains(&number(own, "count")), "{kind}: {own} against {theirs}");
        assert!(about(number(theirs, "io_bytes")).contains(&number(own, "bytes")), "{kind}: {own} against {theirs}");
        assert_eq!(number(own, "direct_bytes"), number(own, "bytes"), "{kind}: {own}");
        assert_eq!((number(own, "buffered_bytes"), number(own, "untold_bytes")), (0, 0), "{kind}: {own}");
        // What the device takes is a part of what the program waits.
        let waited = theirs["lat_ns"]["mean"].as_f64().expect("a latency");
        let taken = number(own, "waited_ns") as f64 / number(own, "count") as f64;
        assert!(taken < waited, "{kind}: {own} against {theirs}");
    }
    let said = ctrace.stop();
    no_record_each(&said);
    assert!(said.codes(&busy).is_empty() && said.codes(&idle).is_empty());
    let moved = |line: &Value| line["cgroup"] == idle.path && line["writes_per_s"].as_u64().unwrap_or(0) > 0;
    assert!(!said.lines.iter().any(|line| moved(&line.json)), "the other container wrote nothing");
}

/// Through the page cache: as many bytes once they are synced, in larger requests.
fn buffered() {
    let disk = Disk::fast(64);
    let tree = IoTree::new();
    let container = tree.container();
    let file = disk.file("buffered");
    fs::write(&file, vec![7; 16 << 20]).expect("room");
    nix::unistd::sync();
    let ctrace = ctrace();
    let job = fio(&container, &file, &["--rw=write", "--bs=4k", "--size=16M", "--end_fsync=1"]);
    let bytes = number(&job["write"], "io_bytes");
    assert_eq!(bytes, 16 << 20);
    // On v1 what the flusher writes for it is the host's; and the file system writes of its own.
    let its = |row: &Value| row["cgroup"] == container.path || row["cgroup"].is_null();
    let all = wait_until("all that fio wrote", || {
        Some(counted(&ctrace, its, "write")).filter(|all| all["bytes"].as_u64() >= Some(*about(bytes).start()))
    });
    let (written, requests) = (number(&all, "bytes"), number(&all, "count"));
    assert!(written < bytes / 2 * 3, "{written} against {job}");
    // What ext4 zeroes by itself is in no page cache.
    assert_eq!(number(&all, "direct_bytes"), 0);
    assert!(
        about(bytes).contains(&number(&all, "buffered_bytes")),
        "all of it through the page cache: {written} written"
    );
    assert!(requests < number(&job["write"], "total_ios") / 4, "merged: {requests} against {job}");
    no_record_each(&ctrace.stop());
}

/// The part of its time that a buffered writer is paused is what fio lost in write().
fn pauses() {
    let disk = slow_device();
    let tree = IoTree::new();
    let container = tree.container().limited(192);
    let file = disk.file("paused");
    let ctrace = ctrace();
    let options = ["--rw=write", "--bs=64k", "--size=64M", "--time_based", "--runtime=10", "--fallocate=none"];
    let job = fio(&container, &file, &options);
    let write = &job["write"];
    let waited = write["clat_ns"]["mean"].as_f64().expect("a mean") * number(write, "total_ios") as f64;
    let lost = waited / (number(write, "runtime") as f64 * 1e6);
    let said = ctrace.stop();
    let calls = said.lines.iter().filter(|line| line.json["code"] == "io.dirty-throttled");
    let longest = calls.filter_map(|line| line.json["evidence"]["worst_call_ns"].as_u64()).max().unwrap_or(0);
    let slowest = number(&write["clat_ns"], "max");
    // Where each pause is of one tick, the slowest call waited for something else.
    let is_it = !in_virtual_machine() || (slowest / 4..slowest + slowest / 10).contains(&longest);
    assert!(is_it, "{longest} ns, and fio waited {slowest}");
    let rows = said.lines.iter().map(|line| &line.json);
    let rows = rows.filter(|row| row["sample"] == "io" && row["cgroup"] == container.path);
    let shares: Vec<f64> = rows
        .map(|row| number(row, "paused_ns") as f64 / number(row, "window_ns") as f64)
        .skip_while(|share| *share == 0.0)
        .collect();
    // The first windows and the last ones are only partly fio's.
    assert!(shares.len() > 7, "{shares:?}");
    let within = &shares[2..shares.len() - 3];
    let paused = within.iter().sum::<f64>() / within.len() as f64;
    assert!(lost > 0.3, "the device is slow: {lost} of its time, {job}");
    // The kernel says for how long it means to pause. A pause ends with a tick, and somebody else may be on the CPU then:
    // where each is of one tick, as here on a fast device, it takes about twice that.
    let least = if in_virtual_machine() { 0.6 } else { 0.25 };
    assert!((lost * least..lost * 1.1).contains(&paused), "paused {paused} of the time, fio waited {lost}: {shares:?}");
}
