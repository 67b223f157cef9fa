use bytemuck::Zeroable;
use tracer_common::{
    block::{READ, WRITE},
    copy_up::CopyUp,
    space::{EDQUOT, ENOSPC, EROFS, ON_FILE, ON_PATH, Refused},
    sync::{self, FSYNC, SLOW_NS, SYNC},
};

use super::*;
use crate::model::State;
use crate::{
    containers::Space,
    findings::fixture::{self, Host, OTHER, OTHER_CGROUP, SECOND, T, WEB, WEB_CGROUP},
    model::Process,
};

const MIB: u64 = 1 << 20;
const DISK: (u32, u32) = (8, 0);

struct Bench {
    rule: Rule,
    host: Host,
}

impl Bench {
    fn new(cgroup_version: u8) -> Self {
        let mut host = Host::new();
        host.facts.cgroup_version = cgroup_version;
        Self { rule: Rule::default(), host }
    }

    fn counts(&mut self, second: u64, counts: Counts) -> Vec<Finding> {
        let at_ns = T + second * SECOND;
        let devices = [(DISK, "sda".to_owned())].into();
        let reading = Reading::Counts(Box::new(Counts { at_ns, devices, ..counts }));
        let mut out = Vec::new();
        self.rule.reading(&reading, at_ns, &self.host.world(), &mut out);
        findings(out)
    }

    /// Of the container, once this was read.
    fn row_of_web(&mut self, reading: &Reading) -> crate::pipeline::SampleRow {
        let mut out = Vec::new();
        self.rule.reading(reading, T, &self.host.world(), &mut out);
        let own = |output| match output {
            Output::Sample(row) if row.cgroup.as_deref() == Some(WEB) => Some(*row),
            _ => None,
        };
        out.into_iter().find_map(own).expect("its row")
    }

    fn paused(&mut self, second: u64, pauses: Vec<(PauseKey, PauseTotal)>) -> Vec<Finding> {
        let host = HostDirty { threshold: Some(100_000), ratio: Some(20), ..HostDirty::default() };
        self.counts(second, Counts { pauses, host, ..Counts::default() })
    }

    /// A call is refused, and its place is found.
    fn refused(&mut self, refused: &Refused, place: Place) -> Vec<Finding> {
        let mut out = Vec::new();
        self.rule.event(&Event::FileRefused(Box::new(*refused)), &self.host.world(), &mut out);
        let asked = out.extract_if(.., |output| matches!(output, Output::Ask(_))).next();
        if let Some(Output::Ask(Question::Io(Ask::Place { wanted, .. }))) = asked {
            let reading = Reading::Place(wanted, Box::new(place));
            self.rule.reading(&reading, refused.header.time_ns, &self.host.world(), &mut out);
        }
        findings(out)
    }
}

fn findings(out: Vec<Output>) -> Vec<Finding> {
    let finding = |output| if let Output::Finding(finding) = output { Some(*finding) } else { None };
    out.into_iter().filter_map(finding).collect()
}

fn codes(findings: &[Finding]) -> Vec<(&'static str, State)> {
    findings.iter().map(|finding| (finding.code.0, finding.state.expect("a state"))).collect()
}

/// So many pauses of a process of `web`, so many ms in all, at a memory cgroup's threshold of 100 pages.
fn pauses(pid: u32, count: u64, ms: u64) -> (PauseKey, PauseTotal) {
    let who = Process { pid, tid: pid, ns_pid: Some(7), ppid: Some(1), comm: "fluentd".to_owned(), uid: Some(0) };
    let last = Control {
        at_ns: T,
        dirty: 90,
        threshold: 100,
        background: 50,
        device_dirty: 80,
        device_threshold: 95,
        bandwidth: 256,
        task_rate: 10,
        in_memcg: Some(true),
        device: "8:0".to_owned(),
    };
    let mut histogram = [0; tracer_common::dirty::BUCKETS];
    histogram[3] = count;
    let total = PauseTotal {
        who: Some(who),
        count,
        total_ns: ms * 1_000_000,
        worst_ns: ms * 1_000_000 / count,
        worst_call_ns: ms * 1_000_000,
        histogram,
        last,
    };
    (PauseKey { cgroup: WEB_CGROUP, tgid: pid, reserved: 0 }, total)
}

#[test]
fn a_tenth_of_a_second_in_two_is_told_with_whom_and_why() {
    let mut bench = Bench::new(2);
    assert!(bench.paused(0, vec![pauses(42, 8, 60)]).is_empty());
    let found = bench.paused(1, vec![pauses(42, 12, 90), pauses(43, 1, 12)]);
    assert_eq!(codes(&found), [("io.dirty-throttled", State::Open)]);
    let evidence = &found[0].evidence;
    assert_eq!(evidence["pauses"], 13);
    assert_eq!(evidence["total_ns"], 102_000_000);
    assert_eq!(evidence["worst_call_ns"], 90_000_000);
    assert_eq!(evidence["histogram"], serde_json::json!([{"below_ns": 8_000_000, "count": 13}]));
    assert_eq!(evidence["domain"], "memcg");
    assert_eq!(evidence["inferred"], false);
    assert_eq!(evidence["dirty_bytes"], 90 * 4096);
    assert_eq!(evidence["limit_bytes"], 100 * 4096);
    assert_eq!(evidence["device"], "sda");
    assert!(evidence["written_bytes_per_s"].is_null() && found[0].unknown.contains_key("written_bytes_per_s"));
    assert_eq!(evidence["bandwidth_bytes_per_s"], MIB);
    assert_eq!(evidence["processes"][0]["process"]["pid"], 42);
    assert_eq!(found[0].process.as_ref().map(|process| process.pid), Some(42));
    assert_eq!(found[0].container.as_ref().map(|container| container.cgroup.as_str()), Some(WEB));
    assert!(found[0].fix[0].contains("leave room for page cache"), "{:?}", found[0].fix);
    // Nothing more comes, and it is over.
    for second in 2..6 {
        assert!(bench.paused(second, vec![pauses(42, 12, 90), pauses(43, 1, 12)]).is_empty());
    }
    let closed = bench.paused(6, vec![pauses(42, 12, 90), pauses(43, 1, 12)]);
    assert_eq!(codes(&closed), [("io.dirty-throttled", State::Closed)]);
}

#[test]
fn few_short_pauses_and_those_of_another_are_silent() {
    let mut bench = Bench::new(2);
    for second in 0..10 {
        // 49 ms a second, for ever.
        assert!(bench.paused(second, vec![pauses(42, second + 1, 49 * (second + 1))]).is_empty());
    }
    let mut bench = Bench::new(2);
    let mut others = pauses(42, 10, 900);
    others.0.cgroup = OTHER_CGROUP;
    let found = bench.paused(0, vec![others]);
    assert_ne!(found[0].container.as_ref().map(|container| container.cgroup.as_str()), Some(WEB));
    let mut unknown = pauses(42, 10, 900);
    unknown.0.cgroup = 4711;
    assert!(Bench::new(2).paused(0, vec![unknown]).is_empty());
}

#[test]
fn whose_dirty_limit_it_was() {
    let domain = |version: u8, change: &dyn Fn(&mut Control)| {
        let mut paused = pauses(42, 10, 900);
        change(&mut paused.1.last);
        let found = Bench::new(version).paused(0, vec![paused]);
        (found[0].evidence["domain"].as_str().map(str::to_owned), found[0].evidence["inferred"] == true)
    };
    let named = |name: &str, inferred| (Some(name.to_owned()), inferred);
    assert_eq!(domain(2, &|_| ()), named("memcg", false));
    assert_eq!(domain(2, &|last| last.in_memcg = Some(false)), named("host", false));
    // Older kernels do not say: by size, against the host's 100,000 pages.
    assert_eq!(domain(2, &|last| last.in_memcg = None), named("memcg", true));
    let like_the_hosts = |last: &mut Control| {
        (last.in_memcg, last.dirty, last.threshold, last.background) = (None, 99_000, 100_000, 50_000);
    };
    assert_eq!(domain(2, &like_the_hosts), named("host", true));
    assert_eq!(domain(1, &|last| last.in_memcg = None), named("host", false));
    // Below the middle of both thresholds only a device's own share can be the cause.
    assert_eq!(domain(2, &|last| last.dirty = 74), named("device", true));
    assert_eq!(domain(2, &|last| last.dirty = 75), named("memcg", false));
}

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

fn io(cgroup: u64, op: u32, count: u64, bytes: u64) -> (IoKey, IoTotal) {
    let total = IoTotal { count, bytes, device_ns: count * 1_000_000, ..IoTotal::default() };
    (IoKey { cgroup, major: DISK.0, minor: DISK.1, op, reserved: 0 }, total)
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

const MS: u64 = 1_000_000;

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
    unknown(&row(&[], false), "limits", "the io controller");
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

fn call(errno: u32, on: u32, path: &str) -> Refused {
    let mut refused = Refused::zeroed();
    refused.header = fixture::header::<Refused>(T, WEB_CGROUP);
    refused.asker = fixture::web_task(512, "mysqld");
    (refused.syscall, refused.errno, refused.count, refused.on) = (libc::SYS_write as u32, errno, 3, on);
    (refused.device, refused.mode, refused.magic) = (8 << 20, 0o100_644, 0xef53);
    if on == ON_PATH {
        refused.path[..path.len()].copy_from_slice(path.as_bytes());
    } else {
        let names = path.rsplit('/').map(|name| if name.is_empty() { "/" } else { name });
        for (slot, name) in refused.path.chunks_mut(32).zip(names) {
            slot[..name.len()].copy_from_slice(name.as_bytes());
        }
    }
    refused
}

fn space(total: u64, free: u64) -> Space {
    Space { total_bytes: total, free_bytes: free, available_bytes: free, inodes: 1000, inodes_free: 500 }
}

fn place(kind: &str, space: Space) -> Place {
    Place {
        path: Some("/data/x".to_owned()),
        kind: Some(kind.to_owned()),
        mount: Some("/data".to_owned()),
        space: Some(space),
        ..Place::default()
    }
}

fn overlay(own: Space, disk: Space) -> Place {
    Place {
        upper: Some("/var/lib/docker/overlay2/x/diff".to_owned()),
        disk_kind: Some("xfs".to_owned()),
        disk_mount: Some("/var".to_owned()),
        disk: Some(disk),
        ..place("overlay", own)
    }
}

#[test]
fn which_layer_was_full() {
    let judge = |errno, place| Bench::new(2).refused(&call(errno, ON_FILE, "/data/x"), place);
    let found = judge(ENOSPC, place("tmpfs", space(MIB, 0)));
    assert_eq!(codes(&found), [("fs.no-space", State::Open)]);
    let evidence = &found[0].evidence;
    assert_eq!((&evidence["layer"], &evidence["used_bytes"]), (&"tmpfs".into(), &MIB.into()));
    assert_eq!(evidence["refused"], 3);
    assert_eq!(
        found[0].summary,
        "write of mysqld (pid 512) got ENOSPC: no space is left, tmpfs /data: 1.0 MiB of 1.0 MiB used"
    );
    assert!(found[0].fix[0].contains("--tmpfs /data:size="), "{:?}", found[0].fix);
    let layer = |errno, place| {
        let found = judge(errno, place);
        (found[0].code.0, found[0].evidence["layer"].as_str().unwrap_or("").to_owned())
    };
    assert_eq!(layer(ENOSPC, place("ext4", space(MIB, 0))), ("fs.no-space", "disk".to_owned()));
    let same = || overlay(space(MIB, 0), space(MIB, 0));
    assert_eq!(layer(ENOSPC, same()), ("fs.no-space", "overlay-upper".to_owned()));
    // XFS says ENOSPC where a project quota is used up; statfs tells of the quota then.
    assert_eq!(layer(ENOSPC, overlay(space(MIB, 0), space(99 * MIB, 50 * MIB))), ("fs.quota", "quota".to_owned()));
    assert_eq!(layer(EDQUOT, place("ext4", space(MIB, MIB))), ("fs.quota", "quota".to_owned()));
    let inodes = Space { inodes_free: 0, ..space(MIB, MIB / 2) };
    assert_eq!(layer(ENOSPC, place("ext4", inodes)), ("fs.no-space", "inodes".to_owned()));
    let unread = Place { unknown: Some("gone".to_owned()), ..Place::default() };
    let found = judge(ENOSPC, unread);
    assert_eq!(found[0].evidence["layer"], "unknown");
    assert_eq!(found[0].unknown["limit_bytes"], "gone");
    // An overlay whose disk is not asked is an overlay still.
    let unread = Place { disk: None, space: None, unknown: Some("not asked".to_owned()), ..same() };
    assert_eq!(judge(ENOSPC, unread)[0].unknown["disk_bytes"], "not asked");
    assert_eq!(judge(ENOSPC, place("ext4", space(MIB, 0)))[0].unknown["disk_bytes"], "it is on no overlay");
}

#[test]
fn a_large_or_a_long_copy_up_is_told() {
    let judge = |bytes: u64, took_ns: u64| {
        let mut copy = CopyUp::zeroed();
        copy.header = fixture::header::<CopyUp>(T, WEB_CGROUP);
        (copy.who, copy.bytes, copy.took_ns) = (fixture::web_task(512, "mysqld"), bytes, took_ns);
        for (slot, name) in copy.path.chunks_mut(32).zip(["ibdata1", "mysql", "/"]) {
            slot[..name.len()].copy_from_slice(name.as_bytes());
        }
        let mut bench = Bench::new(2);
        let mut out = Vec::new();
        bench.rule.event(&Event::CopyUp(Box::new(copy)), &bench.host.world(), &mut out);
        findings(out)
    };
    let found = judge(16 * MIB, MS);
    assert_eq!((found[0].code.0, found[0].state), ("fs.copy-up", None));
    let evidence = &found[0].evidence;
    assert_eq!((&evidence["path"], &evidence["bytes"]), (&"/mysql/ibdata1".into(), &(16 * MIB).into()));
    assert_eq!((&evidence["took_ns"], &evidence["cgroup"]), (&MS.into(), &WEB.into()));
    assert_eq!(
        found[0].summary,
        "mysqld waited 1 ms while all 16.0 MiB of /mysql/ibdata1 were copied up from the image, to be written"
    );
    assert_eq!(judge(MIB, 100 * MS).len(), 1, "long");
    assert!(judge(16 * MIB - 1, 100 * MS - 1).is_empty());
}

#[test]
fn who_wrote_most_to_a_full_disk_is_named() {
    let writer = |cgroup: &str, charged, given| Writer { cgroup: cgroup.into(), charged, given };
    let below = format!("{OTHER}/inner");
    let writers = || {
        // What is charged below the container is in its own number, and what is given is not; the last is of the host.
        Some(vec![
            writer(WEB, Some(MIB), 2 * MIB),
            writer(OTHER, Some(5 * MIB), MIB),
            writer(&below, Some(3 * MIB), MIB),
            writer("/", Some(90 * MIB), 90 * MIB),
        ])
    };
    let judge = |place: Place| Bench::new(2).refused(&call(ENOSPC, ON_FILE, "/data/x"), place);
    let found = judge(Place { writers: writers(), ..place("ext4", space(9 * MIB, 0)) });
    let named = found[0].evidence["writers"].as_array().expect("writers");
    let number = |at: usize, key: &str| named[at][key].as_u64();
    assert_eq!(named.len(), 2);
    assert_eq!((&named[0]["container"]["cgroup"], &named[1]["container"]["cgroup"]), (&OTHER.into(), &WEB.into()));
    assert_eq!((number(0, "charged_bytes"), number(0, "given_bytes")), (Some(5 * MIB), Some(2 * MIB)));
    assert_eq!((number(1, "charged_bytes"), number(1, "given_bytes")), (Some(MIB), Some(2 * MIB)));
    assert!(found[0].why.contains("most was written by") && found[0].why.contains("5.0 MiB"), "{}", found[0].why);
    let uncounted = judge(Place { writers: Some(vec![writer(WEB, None, MIB)]), ..place("ext4", space(MIB, 0)) });
    assert!(uncounted[0].evidence["writers"][0].get("charged_bytes").is_none(), "v1 charges nobody");
    let nobody = judge(Place { writers: Some(Vec::new()), ..place("ext4", space(MIB, 0)) });
    assert!(!nobody[0].why.contains("most was written"), "{}", nobody[0].why);
    // A quota bounds it: what others wrote has nothing to do with it.
    let bounded = Place { writers: writers(), ..overlay(space(MIB, 0), space(99 * MIB, 50 * MIB)) };
    let bounded = judge(bounded);
    assert!(bounded[0].evidence["writers"].is_null() && bounded[0].unknown.contains_key("writers"));
    // For whom they are read at all.
    let at = |place: Place| Place { device: Some((8, 1)), ..place }.disk_of_all();
    assert_eq!(at(place("ext4", space(MIB, 0))), Some((8, 1)));
    assert_eq!(at(overlay(space(MIB, 0), space(MIB, 0))), Some((8, 1)));
    assert_eq!(at(overlay(space(MIB, 0), space(2 * MIB, MIB))), None, "a quota");
    assert_eq!(at(place("tmpfs", space(MIB, 0))), None);
    assert_eq!(at(Place::default()), None);
}

#[test]
fn a_root_is_as_full_as_its_quota_says_and_no_walk_tells_else() {
    let row = |root: Option<Place>| {
        let mut bench = Bench::new(2);
        let of = root.into_iter().map(|root| (WEB.into(), root)).collect();
        let mut out = Vec::new();
        bench.rule.reading(&Reading::Roots(Roots { took_ns: 0, of }), T, &bench.host.world(), &mut out);
        let counts = Counts { at_ns: T, pauses: vec![pauses(42, 1, 1)], ..Counts::default() };
        bench.rule.reading(&Reading::Counts(Box::new(counts)), T, &bench.host.world(), &mut out);
        let own = |output| match output {
            Output::Sample(row) if row.cgroup.as_deref() == Some(WEB) => Some(*row),
            _ => None,
        };
        out.into_iter().find_map(own).expect("a row")
    };
    let numbers = |row: &crate::pipeline::SampleRow| {
        let keys = ["upper_limit_bytes", "upper_used_bytes", "upper_disk_bytes", "upper_disk_used_bytes"];
        let values = keys.map(|key| row.fields[key].as_u64());
        for key in keys.iter().filter(|key| row.fields[**key].is_null()) {
            assert!(row.unknown.contains_key(key), "{key} is null without a reason");
        }
        values.map(|bytes| bytes.map(|bytes| bytes / MIB))
    };
    let bounded = row(Some(overlay(space(4 * MIB, MIB), space(99 * MIB, 50 * MIB))));
    assert_eq!(numbers(&bounded), [Some(4), Some(3), Some(99), Some(49)]);
    assert_eq!(bounded.fields["upper"], "/var/lib/docker/overlay2/x/diff");
    let free = row(Some(overlay(space(99 * MIB, 50 * MIB), space(99 * MIB, 50 * MIB))));
    assert_eq!(numbers(&free), [None, None, Some(99), Some(49)]);
    assert!(free.unknown["upper_used_bytes"].contains("no quota"), "{:?}", free.unknown);
    let other = row(Some(place("ext4", space(MIB, 0))));
    assert_eq!(numbers(&other), [None; 4]);
    assert!(other.unknown["upper"].contains("no overlay"), "{:?}", other.unknown);
    assert!(row(None).unknown["upper"].contains("not read"));
    let unread = Place {
        unknown: Some("fuse is not asked".to_owned()),
        space: None,
        disk: None,
        ..overlay(space(0, 0), space(0, 0))
    };
    assert_eq!(row(Some(unread)).unknown["upper_used_bytes"], "fuse is not asked");
}

#[test]
fn roots_are_asked_for_now_and_then_with_all_cgroups_of_each() {
    let mut bench = Bench::new(2);
    let mut asked = |second: u64| {
        let mut out = Vec::new();
        bench.rule.tick(T + second * SECOND, &bench.host.world(), &mut out);
        out.into_iter().find_map(|output| match output {
            Output::Ask(Question::Io(Ask::Roots { of })) => Some(of),
            _ => None,
        })
    };
    let first = asked(0).expect("at once");
    assert_eq!(first.get(WEB).map(|cgroups| cgroups.iter().map(|path| &**path).collect()), Some(vec![WEB]));
    assert!(asked(9).is_none());
    assert!(asked(10).is_some());
}

#[test]
fn the_file_is_named_as_the_kernel_side_read_it() {
    let asked = |refused: Refused| {
        let mut out = Vec::new();
        let mut bench = Bench::new(2);
        bench.rule.event(&Event::FileRefused(Box::new(refused)), &bench.host.world(), &mut out);
        match out.pop() {
            Some(Output::Ask(Question::Io(Ask::Place { wanted, .. }))) => Some(wanted),
            _ => None,
        }
    };
    let file = |path: &str| What::File { device: (8, 0), path: path.to_owned() };
    let wanted = asked(call(ENOSPC, ON_FILE, "/data/x")).expect("a file");
    assert_eq!((wanted.pid, wanted.cgroup.as_deref(), wanted.what), (512, Some(WEB), file("/data/x")));
    let deep = asked(call(ENOSPC, ON_FILE, "/1/2/3/4/5/6/7/8/9")).expect("a file");
    assert_eq!(deep.what, file("/…/2/3/4/5/6/7/8/9"));
    let long = format!("/{}", "n".repeat(31));
    assert_eq!(asked(call(ENOSPC, ON_FILE, &long)).expect("a file").what, file(&format!("{long}…")));
    // Not a file system that can be full: a device, and a cgroup's file.
    assert_eq!(asked(Refused { mode: 0o020_666, ..call(ENOSPC, ON_FILE, "/full") }), None);
    assert_eq!(asked(Refused { magic: 0x6367_7270, ..call(ENOSPC, ON_FILE, "/x") }), None);
}

#[test]
fn many_refused_processes_do_not_cost_a_look_up_each() {
    let mut bench = Bench::new(2);
    let mut ask = |pid: u32, at_ns: u64| {
        let mut refused = call(ENOSPC, ON_FILE, "/data/x");
        (refused.asker.tgid, refused.header.time_ns) = (pid, at_ns);
        let mut out = Vec::new();
        bench.rule.event(&Event::FileRefused(Box::new(refused)), &bench.host.world(), &mut out);
        out.len()
    };
    assert_eq!((0..100).map(|pid| ask(pid, T)).sum::<usize>(), 8);
    assert_eq!(ask(200, T + SECOND), 1, "and a second later it is looked again");
}

#[test]
fn a_full_file_system_is_one_condition_and_closes() {
    let mut bench = Bench::new(2);
    let full = || place("ext4", space(MIB, 0));
    let first = bench.refused(&call(ENOSPC, ON_FILE, "/data/x"), full());
    assert_eq!(codes(&first), [("fs.no-space", State::Open)]);
    assert!(bench.refused(&call(ENOSPC, ON_FILE, "/data/y"), full()).is_empty(), "the same, a moment later");
    let closed = bench.counts(6, Counts::default());
    assert_eq!(codes(&closed), [("fs.no-space", State::Closed)]);
    assert_eq!(closed[0].id, first[0].id);
    // A path of a file system without a size is known by the mount table alone.
    assert!(bench.refused(&call(ENOSPC, ON_PATH, "/proc/x"), place("proc", space(0, 0))).is_empty());
}

#[test]
fn a_read_only_sysctl_comes_with_three_forms() {
    let mut bench = Bench::new(2);
    let found = bench.refused(&call(EROFS, ON_PATH, "/proc/sys/net/core/somaxconn"), Place::default());
    assert_eq!(codes(&found), [("net.sysctl-readonly", State::Open)]);
    assert_eq!(found[0].evidence["sysctl"], "net.core.somaxconn");
    assert_eq!(found[0].fix.len(), 3);
    assert!(bench.refused(&call(EROFS, ON_PATH, "/etc/passwd"), Place::default()).is_empty());
    // Another lens that stands on the same rule says the very same, and closes it at the same tick.
    let mut other = crate::findings::sysctl::Rule::default();
    let event = Event::FileRefused(Box::new(call(EROFS, ON_PATH, "/proc/sys/net/core/somaxconn")));
    assert_eq!(other.event(&event, &bench.host.world()).as_ref(), found.first());
    let mut ticked = |now_ns: u64| {
        let mut out = Vec::new();
        bench.rule.tick(now_ns, &bench.host.world(), &mut out);
        let own: Vec<Finding> = out
            .into_iter()
            .filter_map(|output| match output {
                Output::Finding(finding) => Some(*finding),
                _ => None,
            })
            .collect();
        assert_eq!(own, other.tick(now_ns, &bench.host.world()));
        own
    };
    assert_eq!(codes(&ticked(T + SECOND)), []);
    assert_eq!(codes(&ticked(T + 9 * SECOND)), [("net.sysctl-readonly", State::Closed)]);
}
