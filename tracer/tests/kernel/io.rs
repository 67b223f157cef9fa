//! `ctrace io`: paused writers, devices and their limits, full file systems, and what must be none of it.

use std::{fs, ops::RangeInclusive};

use serde_json::Value;

use crate::{
    fio::counted,
    harness::{Lack, Test, in_virtual_machine},
    mem::Swap,
    support::{
        cgroups::{Group, Tree, is_v1},
        ctrace::{Ctrace, Line, command, is_skip},
        disk::{Disk, Loop, Scratch, calls_refused},
        io::{IoTree, limit_writes, play, weigh},
        player::Player,
        unique, wait_until,
    },
};

pub static TESTS: &[&[Test]] = &[&[
    Test::core("io::dirty_throttled", dirty_throttled),
    Test::full("io::requests_are_counted", requests_are_counted),
    Test::full("io::requests_of_those_that_come_and_go", requests_of_those_that_come_and_go),
    Test::full("io::requests_of_many", requests_of_many),
    Test::full("io::one_request_in_two_parts", one_request_in_two_parts),
    Test::full("io::swap_is_not_told", swap_is_not_told),
    Test::core("io::throttled", throttled),
    Test::core("io::buffered_passes_blkio", buffered_passes_blkio).needs(&[Lack::CgroupV1]),
    Test::core("io::slow_sync", slow_sync),
    Test::full("io::each_that_syncs_is_told", each_that_syncs_is_told),
    Test::core("io::each_sync_is_counted", each_sync_is_counted),
    Test::full("io::syncs_without_kprobes", syncs_without_kprobes),
    Test::core("io::tmpfs_is_full", tmpfs_is_full),
    Test::full("io::disk_is_full", disk_is_full),
    Test::core("io::quota_of_an_overlay", quota_of_an_overlay).needs(&[Lack::Quotas]),
    Test::full("io::quota_of_xfs", quota_of_xfs).needs(&[Lack::Xfs]),
    Test::core("io::who_filled_the_disk", who_filled_the_disk),
    Test::core("io::upper_without_a_quota", upper_without_a_quota),
    Test::core("io::upper_within_a_quota", upper_within_a_quota).needs(&[Lack::Quotas]),
    Test::core("io::copy_up", copy_up).needs(&[Lack::Kprobes]),
    Test::full("io::inodes_are_used_up", inodes_are_used_up),
    Test::full("io::refused_each_way", refused_each_way),
    Test::full("io::refused_often", refused_often),
    Test::full("io::calls_of_32_bits", calls_of_32_bits),
    Test::core("io::other_enospc_is_no_disk", other_enospc_is_no_disk),
    Test::core("io::sysctl_is_read_only", sysctl_is_read_only),
]];

const MIB: u64 = 1 << 20;

pub fn ctrace() -> Ctrace {
    Ctrace::ready(command(&["io", "--json"]))
}

pub fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// What a histogram says of the sum of its times, at the least and at the most, and of the longest. Its first bucket has no end
/// below, its last none above.
fn bounds(histogram: &Value, first_ns: u64) -> (RangeInclusive<u64>, u64) {
    let (mut least, mut most, mut longest) = (0_u64, 0_u64, 0);
    for bucket in histogram.as_array().into_iter().flatten() {
        let (count, below) = (number(bucket, "count"), bucket["below_ns"].as_u64());
        let above = below.map_or(longest, |below| if below == first_ns { 0 } else { below / 2 });
        (least, longest) = (least + count * above, above);
        most = most.saturating_add(below.map_or(u64::MAX, |below| count * below));
    }
    (least..=most, longest)
}

/// Do a sum and the longest agree with the histogram?
fn agrees(row: &Value, total_ns: u64, first_ns: u64) {
    let (sum, longest) = bounds(&row["histogram"], first_ns);
    assert!(sum.contains(&total_ns), "{total_ns} is not within {sum:?}: {row}");
    assert!(number(row, "worst_ns") >= longest, "{row}");
}

/// Waits for the numbers of a container of which something is true.
pub fn sample(ctrace: &Ctrace, of: &Group, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let wanted = |line: &Line| line.json["sample"] == "io" && line.json["cgroup"] == of.path && is(&line.json);
    ctrace.wait_for(&format!("what {} reads and writes, {what}", of.path), wanted).json
}

/// A device that is slow: the virtual machine's disk. Elsewhere one that is held to a small share of its own, so that
/// nobody else on the machine is paused.
pub fn slow_device() -> Disk {
    Disk::slow().unwrap_or_else(|| {
        let disk = Disk::fast(512);
        let knobs = format!("/sys/class/bdi/{}", disk.numbers());
        fs::write(format!("{knobs}/strict_limit"), "1").expect("strict_limit");
        fs::write(format!("{knobs}/max_bytes"), (2 * MIB).to_string()).expect("max_bytes");
        disk
    })
}

fn dirty_throttled() {
    let disk = slow_device();
    let tree = Tree::new();
    let (bursts, calm) = (tree.container().limited(128), tree.container().limited(128));
    let ctrace = ctrace();
    // Before them: on a device that is held to a small share, any writer would be paused beside two.
    let little = format!("burst={}=1=0", disk.file("little"));
    let little = Player::within(&calm, &[&little, "say=written", "pause"]);
    little.said("written");
    // Three times as fast as the slow disk, and no faster: the kernel looks at what is dirty in a cgroup every two seconds,
    // and kills in one that has filled up meanwhile.
    let pause = if in_virtual_machine() { 80 } else { 0 };
    let burst = format!("burst={}=96={pause}", disk.file("burst"));
    let writer = Player::within(&bursts, &["comm=writer", "say=writes", &burst, &burst, "pause"]);
    let burst = format!("burst={}=96={pause}", disk.file("other"));
    let other = Player::within(&bursts, &["comm=other", "say=writes", &burst, &burst, "pause"]);
    let finding = ctrace.finding("io.dirty-throttled", &bursts).json;
    assert_eq!(finding["severity"], "warning");
    let pids = [writer.said("writes").pid, other.said("writes").pid];
    assert!(pids.contains(&number(&finding["process"], "pid")), "{finding}");
    let both = ctrace.wait_for("both to be told", |line| {
        let of = |pid: &u64| {
            let rows = line.json["evidence"]["processes"].as_array().into_iter().flatten();
            rows.filter(|row| row["process"]["pid"] == *pid).count() == 1
        };
        line.json["code"] == "io.dirty-throttled" && pids.iter().all(of)
    });
    assert_eq!(both.json["id"], finding["id"]);
    let evidence = &finding["evidence"];
    assert!(number(evidence, "total_ns") >= 100_000_000, "{evidence}");
    assert!(number(evidence, "pauses") > 0, "{evidence}");
    let (worst, call) = (number(evidence, "worst_ns"), number(evidence, "worst_call_ns"));
    assert!(
        (1_000_000..=200_000_000).contains(&worst),
        "a pause is a jiffy at least, and 200 ms at the most: {evidence}"
    );
    assert!(call >= worst && number(evidence, "total_ns") >= worst, "{evidence}");
    let counted: u64 =
        evidence["histogram"].as_array().into_iter().flatten().map(|bucket| number(bucket, "count")).sum();
    assert_eq!(counted, number(evidence, "pauses"));
    agrees(evidence, number(evidence, "total_ns"), 1_000_000);
    // Of a memory cgroup's own share the kernel may hold as little as nothing.
    let own = if in_virtual_machine() { &[][..] } else { &["bandwidth_bytes_per_s", "device_dirty_bytes"] };
    for key in own {
        assert!(number(evidence, key) > 0, "{key}: {evidence}");
    }
    assert!(number(evidence, "device_limit_bytes") <= number(evidence, "limit_bytes"), "a share of it: {evidence}");
    assert!(number(evidence, "background_bytes") < number(evidence, "limit_bytes"), "{evidence}");
    assert_eq!(evidence["device"], disk.name());
    let domain = if in_virtual_machine() { "memcg" } else { "device" };
    assert_eq!(evidence["domain"], domain, "{evidence}");
    if domain == "memcg" {
        assert!(number(evidence, "limit_bytes") < 128 * MIB, "a share of the container's memory: {evidence}");
        assert!(number(evidence, "dirty_bytes") >= number(evidence, "background_bytes"), "{evidence}");
    } else {
        assert!(number(evidence, "device_limit_bytes") <= 4 * MIB, "{evidence}");
    }
    assert!(!ctrace.stop().codes(&calm).contains(&"io.dirty-throttled"));
    drop((writer, other, little));
}

/// Direct writes: the numbers are those of the workload.
fn requests_are_counted() {
    let disk = Disk::fast(64);
    let tree = IoTree::new();
    let container = tree.container();
    let file = disk.file("direct");
    fs::write(&file, vec![0; 1 << 20]).expect("room");
    nix::unistd::sync();
    let ctrace = ctrace();
    let (direct, again) = (format!("direct={file}=200=8192=0"), format!("direct={file}=100000=8192=10"));
    let mut writer = play(&container, &[&direct, "say=written", "await", &again]);
    writer.said("written");
    let row = sample(&ctrace, &container, "all of it", |row| {
        row["devices"][0]["write"]["count"].as_u64().is_some_and(|count| count >= 200)
    });
    let device = &row["devices"][0];
    assert_eq!(device["device"], disk.name());
    assert_eq!(number(&device["write"], "count"), 200, "{device}");
    assert_eq!(number(&device["write"], "bytes"), 200 * 8192, "{device}");
    let buckets = device["write"]["histogram"].as_array().into_iter().flatten();
    assert_eq!(buckets.map(|bucket| number(bucket, "count")).sum::<u64>(), 200);
    let (device_ns, queued_ns) = (number(&device["write"], "device_ns"), number(&device["write"], "queued_ns"));
    assert!(number(&device["write"], "worst_ns") >= device_ns, "{device}");
    // The mean is cut.
    agrees(&device["write"], device_ns * 200 + 199, 16_000);
    assert!(0 < queued_ns && queued_ns < device_ns, "one at a time waits for no other: {device}");
    assert!(writer.lives());
    // Then the kernel does not note when a request is made.
    disk.keep_statistics(false);
    writer.go();
    let row = sample(&ctrace, &container, "that the queue keeps no statistics", |row| {
        row["unknown"]["queued_ns"].as_str().is_some_and(|why| why.contains("iostats"))
    });
    assert!(row["queued_ns"].is_null() && row["devices"][0]["write"]["queued_ns"].is_null(), "{row}");
    let said = ctrace.stop();
    assert!(!said.lines.iter().any(|line| line.json["type"] == "event"), "requests are summed in the kernel");
    assert!(said.codes(&container).is_empty());
}

/// Several write to one disk at a time, and are gone before the next ones come: in the kernel these may stand where those stood.
fn requests_of_those_that_come_and_go() {
    let (disk, files) = disk_for_eight();
    let ctrace = ctrace();
    for round in 0..5 {
        each_has_its_own(&ctrace, &files, 8, 100 + 10 * round);
    }
    ctrace.stop();
    drop(disk);
}

/// More at a time than the kernel side has places for what they are charged to.
fn requests_of_many() {
    let (disk, files) = disk_for_eight();
    let ctrace = ctrace();
    each_has_its_own(&ctrace, &files, 80, 20);
    ctrace.stop();
    drop(disk);
}

fn disk_for_eight() -> (Disk, Vec<String>) {
    let disk = Disk::fast(64);
    let files: Vec<String> = (0..8).map(|number| disk.file(&number.to_string())).collect();
    for file in &files {
        fs::write(file, vec![0; 1 << 20]).expect("room");
    }
    nix::unistd::sync();
    (disk, files)
}

/// So many containers write at a time, the first one `least` requests and each one more than the one before: as many are counted.
/// Where a program is preempted (7.3) the kernel may skip one, which is said.
fn each_has_its_own(ctrace: &Ctrace, files: &[String], containers: u64, least: u64) {
    let tree = IoTree::new();
    let writers = (least..).take(containers as usize).zip(files.iter().cycle()).map(|(count, file)| {
        let container = tree.container();
        let player = play(&container, &["await", &format!("direct={file}={count}=4096=0"), "pause"]);
        (container, count, player)
    });
    let mut writers: Vec<_> = writers.collect();
    for (_, _, player) in &mut writers {
        player.go();
    }
    for (container, count, _player) in &writers {
        wait_until(&format!("{count} requests of {} alone", container.path), || {
            let own = counted(ctrace, |row| row["cgroup"] == container.path, "write");
            let lines = ctrace.lines();
            let skips = lines.iter().map(|line| &line.json).filter(|line| line["type"] == "loss" && is_skip(line));
            let least = count - skips.map(|skip| number(skip, "count")).sum::<u64>().min(*count);
            own["count"].as_u64().filter(|own| (least..=*count).contains(own))
        });
    }
}

/// A loop device reads what its file still has, and asks again for the rest: one request, and all of its bytes.
fn one_request_in_two_parts() {
    const WHOLE: u64 = 64 << 10;
    let disk = Disk::fast(64);
    let tree = IoTree::new();
    let container = tree.container();
    let file = disk.file("cut");
    fs::write(&file, vec![7; WHOLE as usize]).expect("room");
    nix::unistd::sync();
    let cut = Loop::past_the_cache(&file);
    fs::OpenOptions::new().write(true).open(&file).and_then(|file| file.set_len(WHOLE / 2)).expect("a shorter file");
    let ctrace = ctrace();
    // It says that it cannot read all of it.
    let dd = format!("exec dd if={} of=/dev/null bs=64k count=1 iflag=direct 2> /dev/null", cut.device());
    let (status, _) = play(&container, &["exec", "sh", "-c", &dd]).ended();
    assert!(!status.success(), "the second half is there");
    let own = |row: &Value| {
        let devices = row["devices"].as_array().into_iter().flatten();
        devices.filter(|device| device["device"] == cut.name()).map(|device| device["read"].clone()).next()
    };
    let row = sample(&ctrace, &container, "what was read", |row| own(row).is_some_and(|read| read["bytes"] == WHOLE));
    assert_eq!(own(&row).map(|read| number(&read, "count")), Some(1), "{row}");
    ctrace.stop();
}

/// What goes to swap is neither direct nor buffered. On v1 it is charged to nobody.
fn swap_is_not_told() {
    let _swap = Swap::on();
    let tree = IoTree::new();
    let tight = tree.container().limited(24);
    let ctrace = ctrace();
    let _hog = play(&tight, &["anon=48", "pause"]);
    let sum = |row: &Value, key: &str| -> u64 {
        let devices = row["devices"].as_array().into_iter().flatten();
        devices.map(|device| device["write"][key].as_u64().unwrap_or(0)).sum()
    };
    let row = ctrace.wait_for("what went to swap", |line| {
        let is_its = line.json["cgroup"] == tight.path || (is_v1() && line.json["cgroup"].is_null());
        line.json["sample"] == "io" && is_its && sum(&line.json, "untold_bytes") >= 4 * MIB
    });
    assert!(sum(&row.json, "direct_bytes") < MIB, "{}", row.json);
    ctrace.stop();
}

fn throttled() {
    let disk = Disk::fast(64);
    let tree = IoTree::new();
    let (held, free) = (tree.container(), tree.container());
    let files = [disk.file("held"), disk.file("free")];
    for file in &files {
        fs::write(file, vec![0; 1 << 20]).expect("room");
    }
    nix::unistd::sync();
    limit_writes(&held, &disk.numbers(), MIB);
    limit_writes(&free, &disk.numbers(), 64 * MIB);
    let shares = weigh(&free, 50);
    let ctrace = ctrace();
    // The limit makes the first one slow; the other one writes half a MiB a second.
    let _held = play(&held, &[&format!("direct={}=100000=65536=0", files[0])]);
    let _free = play(&free, &[&format!("direct={}=100000=65536=125", files[1])]);
    let finding = ctrace.finding("io.throttled", &held).json;
    assert_eq!(finding["severity"], "info");
    let evidence = &finding["evidence"];
    assert_eq!(number(evidence, "limit_bytes_per_s"), MIB);
    assert_eq!(evidence["direction"], "write");
    assert_eq!(evidence["device"], disk.name());
    assert_eq!(evidence["inferred"], true);
    let used = number(evidence, "used_bytes_per_s");
    assert!((MIB * 9 / 10..MIB * 3 / 2).contains(&used), "{evidence}");
    let row = sample(&ctrace, &free, "some", |row| row["write_bytes_per_s"].as_u64().is_some_and(|rate| rate > 0));
    let told: Vec<(&str, u64)> = row["weights"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|share| Some((share["file"].as_str()?, share["weight"].as_u64()?)))
        .collect();
    assert_eq!(told, shares.into_iter().map(|file| (file, 50)).collect::<Vec<_>>(), "{row}");
    assert!(!ctrace.stop().codes(&free).contains(&"io.throttled"));
}

fn buffered_passes_blkio() {
    let disk = Disk::fast(256);
    let tree = IoTree::new();
    let (buffered, direct) = (tree.container(), tree.container());
    let file = disk.file("direct");
    fs::write(&file, vec![0; 1 << 20]).expect("room");
    nix::unistd::sync();
    for group in [&buffered, &direct] {
        limit_writes(group, &disk.numbers(), 4 * MIB);
    }
    let ctrace = ctrace();
    let burst = format!("burst={}=40=0", disk.file("burst"));
    let mut writer = play(&buffered, &["await", &burst, "say=written", "pause"]);
    let _direct = play(&direct, &[&format!("direct={file}=100000=65536=10")]);
    // It must have been seen before it writes: what it gave before is no news.
    sample(&ctrace, &buffered, "before it does", |_| true);
    writer.go();
    let finding = ctrace.finding("io.blkio-v1-buffered", &buffered).json;
    writer.said("written");
    assert_eq!(number(&finding["evidence"], "limit_bytes_per_s"), 4 * MIB);
    assert!(number(&finding["evidence"], "buffered_bytes") >= MIB, "{finding}");
    sample(&ctrace, &direct, "some", |row| row["write_bytes_per_s"].as_u64().is_some_and(|rate| rate > 0));
    assert!(!ctrace.stop().codes(&direct).contains(&"io.blkio-v1-buffered"));
}

/// Its own limit makes one wait, since whoever syncs submits the writes; the other one syncs the same disk, and is not limited.
fn slow_sync() {
    let disk = Disk::fast(64);
    let tree = IoTree::new();
    let (held, free) = (tree.container(), tree.container());
    limit_writes(&held, &disk.numbers(), MIB);
    let ctrace = ctrace();
    let often = format!("fsyncs={}=50", disk.file("free"));
    let quick = play(&free, &[&often, "pause"]);
    let slow = format!("timed-fsync={}=1", disk.file("held"));
    // Quick ones on each CPU, of another file: the longest stays what it was.
    let quickly = format!("fsyncs={}=20", disk.file("small"));
    let waiter = play(&held, &["comm=postgres", &slow, &quickly, "pause"]);
    let finding = ctrace.finding("io.slow-sync", &held).json;
    let waited = waiter.said("waited").pid;
    assert!(waited > 500_000_000, "a MiB at a MiB a second: {waited} ns");
    assert_eq!(finding["severity"], "warning");
    assert_eq!(finding["process"]["comm"], "postgres");
    assert_eq!(finding["process"]["pid"], waiter.pid());
    let evidence = &finding["evidence"];
    let took = number(evidence, "worst_ns");
    assert!((waited / 2..=waited).contains(&took), "it waited {waited} ns: {evidence}");
    assert_eq!((number(evidence, "slow"), number(evidence, "slow_ns")), (1, took), "{evidence}");
    assert_eq!(evidence["device"], disk.name());
    let call = &evidence["calls"][0];
    assert_eq!(
        (&call["call"], &call["file"], &call["file_system"]),
        (&"fsync".into(), &"held".into(), &disk.name().into())
    );
    assert!(finding["why"].as_str().is_some_and(|why| why.contains("a limit on a device is in force")), "{finding}");
    let row = sample(&ctrace, &held, "all its syncs", |row| row["syncs"][0]["count"] == 21);
    assert_eq!(number(&row["syncs"][0], "worst_ns"), took, "{row}");
    let row = sample(&ctrace, &free, "all its syncs", |row| row["syncs"][0]["count"] == 50);
    assert!(number(&row, "sync_ns") > 0, "{row}");
    // A busy machine may make one of them slow as well: then it is no near miss.
    let was_slow = quick.said("longest").pid >= 100_000_000;
    assert!(was_slow || !ctrace.stop().codes(&free).contains(&"io.slow-sync"));
}

/// Two processes of one container: each is told with its own call.
fn each_that_syncs_is_told() {
    let disk = Disk::fast(64);
    let tree = IoTree::new();
    let held = tree.container();
    limit_writes(&held, &disk.numbers(), 2 * MIB);
    let ctrace = ctrace();
    let waiters = ["one", "two"].map(|name| {
        let (comm, sync) = (format!("comm={name}"), format!("timed-fsync={}=1", disk.file(name)));
        (name, play(&held, &[&comm, &sync, "pause"]))
    });
    ctrace.wait_for("both to be told", |line| {
        let calls = || line.json["evidence"]["calls"].as_array().into_iter().flatten();
        let is_told = |(name, waiter): &(&str, Player)| {
            let own =
                |call: &&Value| call["process"]["pid"] == waiter.pid() && call["file"] == *name && call["slow"] == 1;
            calls().filter(own).count() == 1
        };
        line.json["code"] == "io.slow-sync" && waiters.iter().all(is_told)
    });
    ctrace.stop();
}

fn each_sync_is_counted() {
    count_each_sync(ctrace());
}

/// As on a kernel whose functions cannot be hooked.
fn syncs_without_kprobes() {
    let mut command = command(&["io", "--json"]);
    command.env("CTRACE_WITHOUT", "sync_begin_call");
    count_each_sync(Ctrace::ready(command));
}

fn count_each_sync(ctrace: Ctrace) {
    let disk = Disk::fast(64);
    let tree = Tree::new();
    let container = tree.container();
    let each = format!("sync-each-way={}", disk.file("file"));
    let _player = Player::within(&container, &[&each, "pause"]);
    let counts = |row: &Value| -> Vec<(String, u64)> {
        let syncs = row["syncs"].as_array().into_iter().flatten();
        let named = syncs.map(|sync| (sync["call"].as_str().unwrap_or_default().to_owned(), number(sync, "count")));
        named.collect()
    };
    let wanted = [("fsync", 2), ("fdatasync", 3), ("sync", 1), ("syncfs", 4), ("sync_file_range", 5), ("msync", 6)];
    let skipped = || -> u64 {
        let lines = ctrace.lines();
        let skips = lines.iter().map(|line| &line.json).filter(|line| line["type"] == "loss" && is_skip(line));
        skips.map(|skip| number(skip, "count")).sum()
    };
    let is_whole = |row: &Value| {
        let counts = counts(row);
        counts.len() == 6 && counts.iter().map(|(_, count)| count).sum::<u64>() + skipped() >= 21
    };
    let row = sample(&ctrace, &container, "each call, as often as it was made", is_whole);
    // It has no io controller.
    let why = row["unknown"]["limits"].as_str().unwrap_or_default();
    assert!(row["limits"].is_null() && why.contains("the io controller"), "{row}");
    for ((call, count), (own, most)) in counts(&row).into_iter().zip(wanted) {
        assert!(call == own && count <= most && count + skipped() >= most, "{call} {count} times: {row}");
    }
    for sync in row["syncs"].as_array().into_iter().flatten() {
        let counted: u64 =
            sync["histogram"].as_array().into_iter().flatten().map(|bucket| number(bucket, "count")).sum();
        assert_eq!(counted, number(sync, "count"), "{sync}");
        assert!(number(sync, "total_ns") >= number(sync, "worst_ns") && number(sync, "worst_ns") > 0, "{sync}");
        agrees(sync, number(sync, "total_ns"), 100_000);
    }
    ctrace.stop();
}

/// Not on the share of a virtual machine: what is below a FUSE file system is not asked.
fn mount_point() -> String {
    let at = format!("/tmp/ctrace-test-{:x}", unique());
    fs::create_dir(&at).expect("a mount point");
    at
}

fn tmpfs_is_full() {
    let tree = Tree::new();
    let container = tree.container();
    let ctrace = ctrace();
    let at = mount_point();
    let (tmpfs, fill) = (format!("tmpfs={at}=size=1m"), format!("fill={at}/data"));
    let writer = Player::within(&container, &["mounts", &tmpfs, "say=writer", &fill, "pause"]);
    let finding = ctrace.finding("fs.no-space", &container).json;
    let _ = fs::remove_dir(&at);
    assert_eq!(finding["severity"], "critical");
    assert_eq!(finding["process"]["pid"], writer.said("writer").pid);
    let evidence = &finding["evidence"];
    assert_eq!(evidence["errno"], "ENOSPC");
    assert_eq!(evidence["layer"], "tmpfs");
    assert_eq!(evidence["syscall"], "write");
    assert_eq!(evidence["path"], format!("{at}/data"));
    assert_eq!(evidence["mount"], at);
    assert_eq!(number(evidence, "limit_bytes"), MIB);
    assert_eq!(number(evidence, "used_bytes"), MIB);
    ctrace.stop();
}

fn disk_is_full() {
    let disk = Disk::fast(16);
    let tree = Tree::new();
    let container = tree.container();
    let ctrace = ctrace();
    let fill = format!("fill={}", disk.file("data"));
    let _writer = Player::within(&container, &[&fill, "pause"]);
    let finding = ctrace.finding("fs.no-space", &container).json;
    let evidence = &finding["evidence"];
    assert_eq!(evidence["layer"], "disk");
    assert_eq!(evidence["file_system"], "ext4");
    assert_eq!(evidence["mount"], disk.directory());
    assert_eq!(number(evidence, "available_bytes"), 0);
    assert!(number(evidence, "limit_bytes") <= 16 * MIB, "{evidence}");
    ctrace.stop();
}

/// Who gets the refusal is not who filled it. A third one writes as much, and cannot reach that disk.
fn who_filled_the_disk() {
    let (disk, elsewhere) = (Disk::fast(24), Disk::fast(64));
    let tree = IoTree::new();
    let (hog, refused, other) = (tree.container(), tree.container(), tree.container());
    let ctrace = ctrace();
    let much = format!("burst={}=12=0", disk.file("hog"));
    // The very file: what is not on the disk yet is charged to nobody.
    let (synced, unmount) = (format!("fsync={}", disk.file("hog")), format!("unmount={}", disk.directory()));
    let filler = play(&hog, &[&much, &synced, "say=written", "pause"]);
    filler.said("written");
    let burst = format!("burst={}=20=0", elsewhere.file("other"));
    let bystander = play(&other, &["mounts", &unmount, &burst, "say=written", "pause"]);
    bystander.said("written");
    let fill = format!("fill={}", disk.file("data"));
    let _refused = play(&refused, &[&fill, "pause"]);
    let finding = ctrace.finding("fs.no-space", &refused).json;
    let evidence = &finding["evidence"];
    let writers = evidence["writers"].as_array().expect("writers");
    assert_eq!(writers[0]["container"]["cgroup"], hog.path, "{evidence}");
    let given = number(&writers[0], "given_bytes");
    assert!((12 * MIB..13 * MIB).contains(&given), "{evidence}");
    if is_v1() {
        assert!(writers[0].get("charged_bytes").is_none(), "v1 does not charge it: {evidence}");
    } else {
        let charged = number(&writers[0], "charged_bytes");
        assert!((12 * MIB..14 * MIB).contains(&charged), "{evidence}");
    }
    assert!(!writers.iter().any(|writer| writer["container"]["cgroup"] == other.path), "{evidence}");
    assert!(finding["why"].as_str().is_some_and(|why| why.contains("most was written by")), "{finding}");
    ctrace.stop();
}

fn upper_without_a_quota() {
    let disk = Disk::fast(64);
    let directory = disk.file("free");
    fs::create_dir(&directory).expect("a directory");
    let row = row_with_a_root(&directory);
    assert!(row["upper_used_bytes"].is_null() && row["upper_limit_bytes"].is_null(), "{row}");
    assert!(row["unknown"]["upper_used_bytes"].as_str().is_some_and(|why| why.contains("no quota")), "{row}");
    let stat = nix::sys::statvfs::statvfs(disk.directory().as_str()).expect("the disk");
    assert_eq!(number(&row, "upper_disk_bytes"), stat.blocks() * stat.fragment_size());
    let used = (stat.blocks() - stat.blocks_free()) * stat.fragment_size();
    assert!(number(&row, "upper_disk_used_bytes").abs_diff(used) < MIB, "{used}: {row}");
}

fn upper_within_a_quota() {
    let disk = Disk::with_quotas(64);
    let row = row_with_a_root(&disk.bounded("bounded", 42, 4096));
    assert_eq!(number(&row, "upper_limit_bytes"), 4 * MIB, "{row}");
    assert!((2 * MIB..3 * MIB).contains(&number(&row, "upper_used_bytes")), "{row}");
    assert!(number(&row, "upper_disk_bytes") > 32 * MIB, "{row}");
}

/// What is said of a container whose root is an overlay, and which wrote two MiB there.
fn row_with_a_root(directory: &str) -> Value {
    for name in ["lower", "upper", "work"] {
        fs::create_dir(format!("{directory}/{name}")).expect("a directory");
    }
    let tree = Tree::new();
    let container = tree.container();
    let at = mount_point();
    let (overlay, root) = (format!("overlay={at}={directory}"), format!("root={at}"));
    let steps = ["mounts", &overlay, &root, "burst=/data=2=0", "fsync=/data", "write=/here=yes", "pause"];
    let _player = Player::within(&container, &steps);
    wait_until("it to have written", || fs::exists(format!("{directory}/upper/here")).is_ok_and(|is| is).then_some(()));
    let ctrace = ctrace();
    let upper = format!("{directory}/upper");
    let row = sample(&ctrace, &container, "with its root", |row| row["upper"] == upper);
    let _ = fs::remove_dir(&at);
    ctrace.stop();
    row
}

/// A large file of a lower layer is opened for writing. Small ones before and after it are none of it, nor is the large one again,
/// nor one for which there is no room.
fn copy_up() {
    let disk = Disk::fast(160);
    let directory = disk.file("layers");
    for name in ["", "lower", "upper", "work"] {
        fs::create_dir_all(format!("{directory}/{name}")).expect("a directory");
    }
    for (name, kib) in [("large", 20 << 10), ("small", 2 << 10), ("huge", 70 << 10), ("tiny", 4)] {
        fs::write(format!("{directory}/lower/{name}"), vec![7; kib << 10]).expect("room");
    }
    // Where it is a module, its functions can be hooked once it is there.
    let _ = std::process::Command::new("modprobe").arg("overlay").output();
    let tree = Tree::new();
    let (container, reader) = (tree.container(), tree.container());
    let ctrace = ctrace();
    let at = mount_point();
    let overlay = format!("overlay={at}={directory}");
    let [small, large, huge, tiny] =
        ["small", "large", "huge", "tiny"].map(|name| format!("open-to-write={at}/{name}"));
    let steps = ["mounts", &overlay, &small, &large, &large, &huge, &tiny, "say=opened", "pause"];
    let writer = Player::within(&container, &steps);
    // The small one may take its time on a busy machine.
    let is_large = |line: &Line| line.json["code"] == "fs.copy-up" && line.json["evidence"]["bytes"] == 20 * MIB;
    let finding = ctrace.wait_for("the copy of the large one", is_large).json;
    let pid = writer.said("opened").pid;
    assert_eq!((&finding["severity"], &finding["process"]["pid"]), (&"info".into(), &pid.into()));
    let evidence = &finding["evidence"];
    assert_eq!(number(evidence, "bytes"), 20 * MIB);
    assert!(number(evidence, "took_ns") > 100_000, "20 MiB in no time: {evidence}");
    assert!(evidence["path"].as_str().is_some_and(|path| path.ends_with("/large")), "{evidence}");
    let size = fs::metadata(format!("{directory}/upper/large")).expect("the copy").len();
    assert_eq!(size, 20 * MIB);
    let said = ctrace.stop();
    let _ = fs::remove_dir(&at);
    assert_eq!(said.lines.iter().filter(|line| is_large(line)).count(), 1, "copied once");
    let huge = |line: &&Line| line.json["code"] == "fs.copy-up" && line.json["evidence"]["bytes"] == 70 * MIB;
    assert_eq!(said.lines.iter().filter(huge).count(), 0, "there was no room for it");
    assert!(said.codes(&reader).is_empty());
}

/// As an engine bounds a container: a project quota on the directory that holds the overlay's upper one.
fn quota_of_an_overlay() {
    let disk = Disk::with_quotas(64);
    let directory = disk.bounded("bounded", 42, 4096);
    bounded_overlay(&disk, &directory, "EDQUOT", 32 * MIB);
}

/// The same where XFS keeps the quota: it says ENOSPC, as a full disk does, and the disk has room.
fn quota_of_xfs() {
    let disk = Disk::xfs(320);
    let directory = disk.bounded_xfs("bounded", 42, 4);
    bounded_overlay(&disk, &directory, "ENOSPC", 128 * MIB);
}

fn bounded_overlay(disk: &Disk, directory: &str, errno: &str, at_least: u64) {
    for name in ["lower", "upper", "work"] {
        fs::create_dir(format!("{directory}/{name}")).expect("a directory");
    }
    let tree = Tree::new();
    let container = tree.container();
    let ctrace = ctrace();
    let at = mount_point();
    let (overlay, fill) = (format!("overlay={at}={directory}"), format!("fill={at}/data"));
    let _writer = Player::within(&container, &["mounts", &overlay, &fill, "pause"]);
    let finding = ctrace.finding("fs.quota", &container).json;
    let _ = fs::remove_dir(&at);
    assert_eq!(finding["severity"], "critical");
    let evidence = &finding["evidence"];
    assert_eq!(evidence["layer"], "quota");
    assert_eq!(evidence["errno"], errno);
    assert_eq!(evidence["file_system"], "overlay");
    assert_eq!(evidence["path"], format!("{at}/data"));
    assert_eq!(evidence["upper"], format!("{directory}/upper"));
    assert_eq!(number(evidence, "limit_bytes"), 4 * MIB);
    assert!(number(evidence, "used_bytes") > 4 * MIB * 9 / 10, "{evidence}");
    assert!(number(evidence, "disk_bytes") > at_least, "{evidence}");
    assert!(
        number(evidence, "disk_used_bytes") < number(evidence, "disk_bytes") / 2,
        "{} is not full: {evidence}",
        disk.name()
    );
    assert!(!ctrace.stop().codes(&container).contains(&"fs.no-space"));
}

fn inodes_are_used_up() {
    let tree = Tree::new();
    let container = tree.container();
    let ctrace = ctrace();
    let at = mount_point();
    let (tmpfs, fill) = (format!("tmpfs={at}=size=4m,nr_inodes=10"), format!("fill-inodes={at}"));
    let _writer = Player::within(&container, &["mounts", &tmpfs, &fill, "pause"]);
    let finding = ctrace.finding("fs.no-space", &container).json;
    let _ = fs::remove_dir(&at);
    let evidence = &finding["evidence"];
    assert_eq!(evidence["layer"], "inodes");
    assert_eq!(evidence["syscall"], "openat");
    assert_eq!(number(evidence, "inodes"), 10);
    assert_eq!(number(evidence, "inodes_free"), 0);
    assert!(number(evidence, "available_bytes") > MIB, "{evidence}");
    ctrace.stop();
}

/// Whichever call it is: its name, and the file that it was about.
fn refused_each_way() {
    let tree = Tree::new();
    let at = mount_point();
    let ctrace = ctrace();
    // Two containers have the same calls refused at the same time.
    let ways = ["data", "moved", "files", "links", "links"];
    let played = ways.iter().enumerate().map(|(number, way)| {
        let (container, folder) = (tree.container(), format!("{at}/{number}"));
        fs::create_dir(&folder).expect("a folder");
        let each = format!("refused-each-way={way}={folder}");
        let player = Player::within(&container, &["mounts", &each, "pause"]);
        (*way, folder, container, player)
    });
    let played: Vec<_> = played.collect();
    for (way, folder, container, _player) in &played {
        for call in calls_refused(way) {
            let line = ctrace.wait_for(&format!("{call} to be refused"), |line| {
                line.json["code"] == "fs.no-space"
                    && line.json["container"]["cgroup"] == container.path
                    && line.json["evidence"]["syscall"] == *call
            });
            let evidence = &line.json["evidence"];
            let (file, layer) = if *way == "data" || *way == "moved" { ("file", "tmpfs") } else { ("new", "inodes") };
            assert_eq!(evidence["path"], format!("{folder}/{call}/{file}"), "{evidence}");
            assert_eq!((&evidence["layer"], &evidence["mount"]), (&layer.into(), &format!("{folder}/{call}").into()));
        }
    }
    ctrace.stop();
    drop(played);
    let _ = fs::remove_dir_all(&at);
}

/// All are counted, and told of once a second.
fn refused_often() {
    let tree = Tree::new();
    let container = tree.container();
    let ctrace = ctrace();
    let at = mount_point();
    let (tmpfs, often) = (format!("tmpfs={at}=size=16k"), format!("refused-often={at}/data=400=20"));
    let fill = format!("fill={at}/other");
    let _writer = Player::within(&container, &["mounts", &tmpfs, &fill, "comm=often", &often, "pause"]);
    let more = ctrace.wait_for("it to be told again", |line| {
        line.json["code"] == "fs.no-space"
            && line.json["container"]["cgroup"] == container.path
            && line.json["evidence"]["refused"].as_u64().is_some_and(|refused| refused > 20)
    });
    assert_eq!((&more.json["state"], &more.json["process"]["comm"]), (&"update".into(), &"often".into()));
    let said = ctrace.stop();
    let _ = fs::remove_dir(&at);
    let told = said.lines.iter().filter(|line| line.json["code"] == "fs.no-space").count();
    assert!(told < 10, "told {told} times");
}

/// Their numbers mean other calls: neither a nanosleep nor a refused symlink is what it would be for 64 bits.
fn calls_of_32_bits() {
    let tree = Tree::new();
    let (old, new) = (tree.container(), tree.container());
    let disk = Disk::fast(64);
    let ctrace = ctrace();
    let at = mount_point();
    let (tmpfs, fill) = (format!("tmpfs={at}=size=64k,nr_inodes=1"), format!("32-bit={at}"));
    let player = Player::within(&old, &["mounts", &tmpfs, &fill]);
    player.said("done");
    let _sync = Player::within(&new, &[&format!("fsync={}", disk.file("file")), "pause"]);
    sample(&ctrace, &new, "what came after it", |row| row["syncs"][0]["call"] == "fsync");
    let said = ctrace.stop();
    let _ = fs::remove_dir(&at);
    assert!(said.codes(&old).is_empty(), "{:?}", said.codes(&old));
    let synced = |line: &Value| line["cgroup"] == old.path && line["syncs"][0].is_object();
    assert!(!said.lines.iter().any(|line| synced(&line.json)), "it only slept");
}

/// /dev/full says ENOSPC, and no disk is full; nor is one where a cpuset without CPUs refuses a process (v1).
fn other_enospc_is_no_disk() {
    let tree = Tree::new();
    let (other, full) = (tree.container(), tree.container());
    let ctrace = ctrace();
    let first = Player::within(&other, &["fill=/dev/full", "say=refused", "pause"]);
    first.said("refused");
    if is_v1() {
        let cpuset = format!("/sys/fs/cgroup/cpuset/ctrace-test-{:x}", unique());
        fs::create_dir(&cpuset).expect("a cpuset");
        let refused = fs::write(format!("{cpuset}/cgroup.procs"), "0").map_err(|error| error.raw_os_error());
        let _ = fs::remove_dir(&cpuset);
        assert_eq!(refused, Err(Some(libc::ENOSPC)));
    }
    let at = mount_point();
    let (tmpfs, fill) = (format!("tmpfs={at}=size=64k"), format!("fill={at}/data"));
    let _second = Player::within(&full, &["mounts", &tmpfs, &fill, "pause"]);
    ctrace.finding("fs.no-space", &full);
    let _ = fs::remove_dir(&at);
    let said = ctrace.stop();
    assert!(said.codes(&other).is_empty());
    let of_another =
        |line: &&Line| line.json["code"] == "fs.no-space" && line.json["process"]["pid"] == std::process::id();
    assert_eq!(said.lines.iter().filter(of_another).count(), 0, "a cpuset is no disk");
}

fn sysctl_is_read_only() {
    let tree = Tree::new();
    let (refused, elsewhere) = (tree.container(), tree.container());
    let ctrace = ctrace();
    let folder = Scratch::new();
    fs::create_dir(folder.path()).expect("a folder");
    fs::write(folder.path().join("file"), "x").expect("a file");
    let at = folder.path().to_string_lossy().into_owned();
    let (read_only, open) = (format!("read-only={at}"), format!("open-to-write={at}/file"));
    let other = Player::within(&elsewhere, &["mounts", &read_only, &open, "say=refused", "pause"]);
    other.said("refused");
    let steps = ["mounts", "read-only=/proc/sys", "comm=tuner", "open-to-write=/proc/sys/net/core/somaxconn", "pause"];
    let _tuner = Player::within(&refused, &steps);
    let finding = ctrace.finding("net.sysctl-readonly", &refused).json;
    let _ = fs::remove_dir_all(&at);
    assert_eq!(finding["severity"], "warning");
    assert_eq!(finding["evidence"]["sysctl"], "net.core.somaxconn");
    assert_eq!(finding["process"]["comm"], "tuner");
    let fixes: Vec<&str> = finding["fix"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for form in ["docker run --sysctl net.core.somaxconn=", "securityContext", "\"sysctl\": {\"net.core.somaxconn\""] {
        assert!(fixes.iter().any(|fix| fix.contains(form)), "{form} is not in {fixes:?}");
    }
    assert!(ctrace.stop().codes(&elsewhere).is_empty());
}
