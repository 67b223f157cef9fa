//! Requests to devices, and what holds them back.

use super::*;

#[test]
fn who_waits_has_a_row_without_any_request_of_its_own() {
    let mut bench = Bench::new(2);
    let pauses = vec![pauses(42, 2, 30)];
    let reading = Reading::Counts(Box::new(Counts { at_ns: T, pauses, ..Counts::default() }));
    let mut out = Vec::new();
    bench.rule.reading(&reading, T, &bench.host.world(), &mut out);
    let rows: Vec<_> = out
        .into_iter()
        .filter_map(|output| if let Output::Sample(row) = output { Some(*row) } else { None })
        .map(|row| (row.cgroup, row.fields["paused_ns"].as_u64()))
        .collect();
    assert_eq!(rows, [(None, Some(0)), (Some(WEB.to_owned()), Some(30_000_000))]);
}

#[test]
fn a_queue_without_statistics_does_not_note_when_a_request_was_made() {
    let row = |unnoted: &[(u32, u32)]| {
        let mut bench = Bench::new(2);
        let (key, total) = io(WEB_CGROUP, WRITE, 4, 4 * MIB);
        let requests = vec![(key, IoTotal { queued_ns: 8 * MS, ..total })];
        let unnoted = unnoted.iter().copied().collect();
        let reading = Reading::Counts(Box::new(Counts { at_ns: T, requests, unnoted, ..Counts::default() }));
        bench.row_of_web(&reading)
    };
    let noted = row(&[(DISK.0, DISK.1 + 1)]);
    assert_eq!(noted.fields["queued_ns"], 2 * MS);
    assert_eq!(noted.fields["devices"][0]["write"]["queued_ns"], 2 * MS);
    let unnoted = row(&[DISK]);
    assert!(unnoted.fields["queued_ns"].is_null() && unnoted.unknown["queued_ns"].contains("iostats"), "{unnoted:?}");
    assert!(unnoted.fields["devices"][0]["write"]["queued_ns"].is_null());
    assert_eq!(unnoted.fields["device_ns"], MS, "that is noted all the same");
}

#[test]
fn at_nine_tenths_of_a_limit_it_is_held_back() {
    let limit = Limit { device: DISK, write_bps: Some(10 * MIB), read_iops: Some(100), ..Limit::default() };
    let judge = |requests: &dyn Fn(u64) -> Vec<(IoKey, IoTotal)>| {
        let mut bench = Bench::new(2);
        let limits: BTreeMap<Arc<str>, Vec<Limit>> = [(WEB.into(), vec![limit])].into();
        let read = |second| Counts { requests: requests(second), limits: limits.clone(), ..Counts::default() };
        (0..4).flat_map(|second| bench.counts(second, read(second))).collect::<Vec<_>>()
    };
    let found = judge(&|second| vec![io(WEB_CGROUP, WRITE, second + 1, (second + 1) * 9 * MIB)]);
    assert_eq!(codes(&found), [("io.throttled", State::Open)]);
    assert_eq!(found[0].evidence["used_bytes_per_s"], 9 * MIB);
    assert_eq!(found[0].evidence["limit_bytes_per_s"], 10 * MIB);
    assert!(found[0].unknown.contains_key("held_ns"));
    assert!(judge(&|second| vec![io(WEB_CGROUP, WRITE, second + 1, (second + 1) * 8 * MIB)]).is_empty());
    let found = judge(&|second| vec![io(WEB_CGROUP, READ, (second + 1) * 95, 1)]);
    assert_eq!(found[0].evidence["limit_requests_per_s"], 100);
    assert!(judge(&|second| vec![io(WEB_CGROUP, READ, (second + 1) * 50, 1)]).is_empty());
    // Another's requests, and those to another device, are not its own.
    assert!(judge(&|second| vec![io(OTHER_CGROUP, WRITE, second + 1, (second + 1) * 90 * MIB)]).is_empty());
    let elsewhere = |second| {
        let (key, total) = io(WEB_CGROUP, WRITE, second + 1, (second + 1) * 90 * MIB);
        vec![(IoKey { minor: 16, ..key }, total)]
    };
    assert!(judge(&elsewhere).is_empty());
}

#[test]
fn what_is_written_and_not_charged_passes_a_v1_limit() {
    let judge = |limit: Limit, charged: u64| {
        let mut bench = Bench::new(1);
        let limits: BTreeMap<Arc<str>, Vec<Limit>> = [(WEB.into(), vec![limit])].into();
        // Six MiB a second are given to write; in v1 the payer's id is of another hierarchy.
        let read = |second: u64| Counts {
            requests: vec![io(77, WRITE, second + 1, (second + 1) * charged)],
            blkio: Some([(77, WEB.into())].into()),
            written: [(WEB.into(), 500 * MIB + second * 6 * MIB)].into(),
            limits: limits.clone(),
            ..Counts::default()
        };
        (0..3).flat_map(|second| bench.counts(second, read(second))).collect::<Vec<_>>()
    };
    let writes = Limit { device: DISK, write_bps: Some(100 * MIB), ..Limit::default() };
    let found = judge(writes, 0);
    assert_eq!(codes(&found), [("io.blkio-v1-buffered", State::Open)]);
    assert_eq!(found[0].evidence["buffered_bytes"], 6 * MIB);
    assert!(judge(writes, 6 * MIB).is_empty(), "all of it is direct");
    assert!(judge(Limit { device: DISK, read_bps: Some(MIB), ..Limit::default() }, 0).is_empty(), "reads are limited");
}

#[test]
fn what_is_not_seen_or_not_controlled_is_unknown() {
    let row = |without: &[&str], is_controlled: bool| {
        let mut bench = Bench::new(2);
        bench.host.facts.attached.retain(|probe| !without.contains(probe));
        let uncontrolled = if is_controlled { [].into() } else { [WEB.into()].into() };
        let counts = Counts { at_ns: T, pauses: vec![pauses(42, 3, 30)], uncontrolled, ..Counts::default() };
        bench.row_of_web(&Reading::Counts(Box::new(counts)))
    };
    let unknown = |row: &crate::pipeline::SampleRow, key: &str, why: &str| {
        assert!(row.fields[key].is_null() && row.unknown[key].contains(why), "{key}: {:?}", row.unknown);
    };
    let whole = row(&[], true);
    assert_eq!((&whole.fields["paused_ns"], &whole.fields["writes_per_s"]), (&(30 * MS).into(), &0.into()));
    assert_eq!((&whole.fields["limits"], &whole.fields["devices"]), (&serde_json::json!([]), &serde_json::json!([])));
    unknown(&row(&["dirty_pause"], true), "paused_ns", "pauses of buffered writers");
    for probe in ["block_issue", "block_complete"] {
        let blind = row(&[probe], true);
        for key in ["read_bytes_per_s", "write_bytes_per_s", "reads_per_s", "writes_per_s", "device_ns", "devices"] {
            unknown(&blind, key, "requests to block devices");
        }
    }
    for key in ["limits", "weights"] {
        unknown(&row(&[], false), key, "the io controller");
    }
}

#[test]
fn what_is_neither_direct_nor_buffered_is_untold() {
    let mut bench = Bench::new(2);
    let (key, total) = io(WEB_CGROUP, READ, 3, 10_000);
    let requests = vec![(key, IoTotal { direct_bytes: 6_000, buffered_bytes: 3_000, ..total })];
    let reading = Reading::Counts(Box::new(Counts { at_ns: T, requests, ..Counts::default() }));
    let mut out = Vec::new();
    bench.rule.reading(&reading, T, &bench.host.world(), &mut out);
    let row = out.into_iter().find_map(|output| match output {
        Output::Sample(row) if row.container.is_some() => Some(*row),
        _ => None,
    });
    let read = &row.expect("a row").fields["devices"][0]["read"];
    let bytes = ["direct_bytes", "buffered_bytes", "untold_bytes"].map(|key| read[key].as_u64());
    assert_eq!(bytes, [Some(6_000), Some(3_000), Some(1_000)]);
}

#[test]
fn shares_are_told_by_the_file_that_has_them() {
    let weights = Weights { file: "io.weight".to_owned(), default: 50, devices: vec![(DISK, 800)] };
    let counts = |weights| Counts { at_ns: T, pauses: vec![pauses(42, 3, 30)], weights, ..Counts::default() };
    let row = |weights| Bench::new(2).row_of_web(&Reading::Counts(Box::new(counts(weights))));
    let told = row([(WEB.into(), vec![weights])].into());
    let own = serde_json::json!([{"file": "io.weight", "weight": 50, "devices": [{"device": "8:0", "weight": 800}]}]);
    assert_eq!(told.fields["weights"], own);
    assert_eq!(row([].into()).fields["weights"], serde_json::json!([]), "the kernel has none");
}
