//! Who waits for the device.

use super::*;

/// So many syncs of a process of `web`, of which the last `slow` took 200 ms each.
fn syncs(call: u32, count: u64, slow: u64) -> (SyncKey, SyncTotal) {
    let who = Process { pid: 42, tid: 42, ns_pid: Some(7), ppid: Some(1), comm: "postgres".to_owned(), uid: Some(0) };
    let mut histogram = [0; sync::BUCKETS];
    (histogram[1], histogram[11]) = (count - slow, slow);
    let total = SyncTotal {
        who: Some(who),
        count,
        total_ns: (count - slow) * 150_000 + slow * 200 * MS,
        worst_ns: if slow > 0 { 200 * MS } else { SLOW_NS - 1 },
        slow,
        slow_ns: slow * 200 * MS,
        histogram,
        file: "wal".to_owned(),
    };
    (SyncKey { cgroup: WEB_CGROUP, tgid: 42, call, device: 8 << 20, reserved: 0 }, total)
}

#[test]
fn one_slow_sync_is_told_with_its_file_and_what_the_device_took() {
    let mut bench = Bench::new(2);
    let read = |calls| Counts {
        syncs: vec![
            syncs(FSYNC, calls, 0),
            (SyncKey { cgroup: OTHER_CGROUP, ..syncs(FSYNC, 9, 0).0 }, syncs(FSYNC, 9, 0).1),
        ],
        ..Counts::default()
    };
    assert!(bench.counts(0, read(1000)).is_empty(), "many, and fast");
    let (key, write) = io(WEB_CGROUP, WRITE, 4, 4 * MIB);
    let others = (IoKey { cgroup: OTHER_CGROUP, ..key }, IoTotal { count: 4, device_ns: 12 * MS, ..write });
    let requests = vec![(key, write), others];
    let found = bench
        .counts(1, Counts { syncs: vec![syncs(FSYNC, 1010, 2), syncs(SYNC, 1, 0)], requests, ..Counts::default() });
    assert_eq!(codes(&found), [("io.slow-sync", State::Open)]);
    let (evidence, finding) = (&found[0].evidence, &found[0]);
    assert_eq!((&evidence["count"], &evidence["slow"]), (&1011.into(), &2.into()), "of the last two seconds");
    assert_eq!(evidence["slow_ns"], 400 * MS);
    assert_eq!(evidence["worst_ns"], 200 * MS);
    assert_eq!(
        (&evidence["device"], &evidence["device_ns"]),
        (&"sda".into(), &(2 * MS).into()),
        "of everybody's writes"
    );
    let calls = evidence["calls"].as_array().map_or(0, Vec::len);
    assert_eq!((calls, &evidence["calls"][0]["call"]), (1, &"fsync".into()), "those that were slow");
    assert_eq!((&evidence["calls"][0]["file"], &evidence["calls"][0]["file_system"]), (&"wal".into(), &"sda".into()));
    assert_eq!(finding.process.as_ref().map(|process| process.comm.as_str()), Some("postgres"));
    assert_eq!(finding.container.as_ref().map(|container| container.cgroup.as_str()), Some(WEB));
    assert_eq!(
        finding.summary,
        "fsync of wal took 100 ms or more: 2 calls waited 400 ms within 2.0 s, the longest so far 200 ms; sda takes 2 ms for a write"
    );
    assert!(finding.why.contains("all of the file"), "{}", finding.why);
    // No more of them, and it is over.
    let again = || Counts { syncs: vec![syncs(FSYNC, 1010, 2), syncs(SYNC, 1, 0)], ..Counts::default() };
    for second in 2..6 {
        assert!(bench.counts(second, again()).is_empty());
    }
    assert_eq!(codes(&bench.counts(7, again())), [("io.slow-sync", State::Closed)]);
}

#[test]
fn a_slow_sync_of_all_is_told_as_such_and_what_is_not_known_is_null() {
    let mut bench = Bench::new(2);
    let limit = Limit { device: DISK, write_bps: Some(MIB), ..Limit::default() };
    let of_all = SyncKey { device: u32::MAX, ..syncs(SYNC, 1, 1).0 };
    let (limits, syncs) =
        ([(WEB.into(), vec![limit])].into(), vec![(of_all, SyncTotal { file: String::new(), ..syncs(SYNC, 1, 1).1 })]);
    let found = bench.counts(0, Counts { syncs, limits, ..Counts::default() });
    assert_eq!(codes(&found), [("io.slow-sync", State::Open)]);
    let (evidence, finding) = (&found[0].evidence, &found[0]);
    assert!(evidence["calls"][0].get("file").is_none() && evidence["calls"][0].get("file_system").is_none());
    assert!(
        evidence["device"].is_null()
            && finding.unknown.contains_key("device")
            && finding.unknown.contains_key("device_ns")
    );
    assert!(
        finding.why.contains("what everybody wrote") && finding.why.contains("a limit on a device"),
        "{}",
        finding.why
    );
    assert!(finding.summary.starts_with("sync took 100 ms or more: 1 call waited"), "{}", finding.summary);
    assert!(finding.fix[0].starts_with("fsync the files"), "{:?}", finding.fix);
}

#[test]
fn a_row_has_syncs_by_call_or_says_that_they_were_not_watched() {
    let row = |attached: &[&'static str], syncs_idle: bool| {
        let mut bench = Bench::new(2);
        bench.host.facts.attached.extend(attached);
        let syncs = vec![syncs(FSYNC, 10, 1), (SyncKey { tgid: 43, ..syncs(FSYNC, 1, 0).0 }, syncs(FSYNC, 2, 0).1)];
        let reading = Reading::Counts(Box::new(Counts { at_ns: T, syncs, syncs_idle, ..Counts::default() }));
        bench.row_of_web(&reading)
    };
    let watched = row(&["sync_begin", "file_refused"], false);
    assert_eq!(watched.fields["sync_ns"], 11 * 150_000 + 200 * MS);
    assert_eq!(watched.fields["syncs"].as_array().map(Vec::len), Some(1));
    let fsync = &watched.fields["syncs"][0];
    assert_eq!((&fsync["call"], &fsync["count"], &fsync["slow"]), (&"fsync".into(), &12.into(), &1.into()));
    assert_eq!(
        fsync["histogram"],
        serde_json::json!([{"below_ns": 200_000, "count": 11}, {"below_ns": 204_800_000, "count": 1}])
    );
    let none = [row(&["file_refused"], false), row(&["sync_begin", "file_refused"], true)];
    for (blind, why) in none.iter().zip(["were not watched", "nobody looks"]) {
        assert!(blind.fields["sync_ns"].is_null() && blind.fields["syncs"].is_null());
        assert!(["sync_ns", "syncs"].iter().all(|key| blind.unknown[key].contains(why)), "{:?}", blind.unknown);
    }
}
