//! What is written comes back the same; and no bytes make the reader fail but with a sentence.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tracer_common::{
    block::{self, IoKey},
    caps::{CheckKey, OutcomeKey},
    cpu::BUCKETS,
    dirty::{self, PauseKey},
    signal::FoldKey,
    stall::StallKey,
    sync::{self, SyncKey},
};

use super::*;
use crate::{
    containers::{Facts, KnownContainer, Seen, Space, inspect::CapabilitySets},
    findings::{caps, cpu, io, mem, oom::HungReading, pids},
    history::counters::OomControl,
    kernel::load::{Loss, LossCause},
    model::{Code, Container, Finding, Process, Runtime, Severity, Unknown},
    pipeline::{Ancestor, Answer, Note, Record},
};

/// Through a line of the file, and back: `Debug` tells all there is.
fn comes_back<T: Serialize + DeserializeOwned + std::fmt::Debug>(value: &T) -> Result<(), TestCaseError> {
    let line = serde_json::to_string(value).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert!(!line.contains('\n'));
    let back: T = serde_json::from_str(&line).map_err(|error| TestCaseError::fail(format!("{error}: {line}")))?;
    prop_assert_eq!(format!("{:?}", value), format!("{:?}", &back));
    let again = serde_json::to_string(&back).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(line, again);
    Ok(())
}

pub(super) fn answered(answer: Answer) -> Result<(), TestCaseError> {
    comes_back(&Line { t: 7, entry: Entry::Record(Record::Answer(answer)) })
}

pub(super) fn process() -> impl Strategy<Value = Process> {
    (any::<[u32; 2]>(), any::<[Option<u32>; 3]>(), any::<String>())
        .prop_map(|([pid, tid], [ns_pid, ppid, uid], comm)| Process { pid, tid, ns_pid, ppid, comm, uid })
}

fn ancestor() -> impl Strategy<Value = Ancestor> {
    (process(), any::<Option<String>>()).prop_map(|(process, cgroup)| Ancestor { process, cgroup })
}

fn stat() -> impl Strategy<Value = pids::Stat> {
    (any::<[u32; 2]>(), any::<String>(), any::<char>(), any::<[u64; 4]>()).prop_map(
        |([pid, ppid], comm, state, [threads, user_ticks, system_ticks, start_ticks])| pids::Stat {
            pid,
            comm,
            state,
            ppid,
            threads,
            user_ticks,
            system_ticks,
            start_ticks,
        },
    )
}

fn container() -> impl Strategy<Value = Container> {
    (any::<[String; 2]>(), any::<[Option<String>; 3]>(), option::of(0..Runtime::ALL.len()), any::<Option<String>>())
        .prop_map(|([id, cgroup], [name, namespace, pod], runtime, why)| {
            let runtime = runtime.map(|at| Runtime::ALL[at]);
            let unknown: Unknown = why.into_iter().map(|why| ("name", why)).collect();
            let mut container = Container { id, name, runtime, namespace, pod, cgroup, ancestors: Vec::new(), unknown };
            container.ancestors.push(container.reference());
            container
        })
}

fn finding() -> impl Strategy<Value = Finding> {
    (option::of(container()), option::of(process()), any::<String>(), any::<(i64, f32, u64)>(), any::<Option<String>>())
        .prop_map(|(container, process, text, (time, float, number), why)| Finding {
            code: Code("oom.container-limit"),
            severity: Severity::Critical,
            id: text.clone(),
            state: None,
            time: Timestamp(time),
            container: container.map(Arc::new),
            process,
            summary: text.clone(),
            evidence: json!({"a": float, "z": number, "m": [null, true, text]})
                .as_object()
                .cloned()
                .unwrap_or_default(),
            why: text.clone(),
            fix: vec![text],
            refers_to: why.clone(),
            unknown: why.into_iter().map(|why| ("rss_bytes", why)).collect(),
        })
}

fn sets() -> impl Strategy<Value = CapabilitySets> {
    any::<[u64; 5]>().prop_map(|[effective, permitted, inheritable, bounding, ambient]| CapabilitySets {
        effective,
        permitted,
        inheritable,
        bounding,
        ambient,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn records(bytes: Vec<u8>, finding in finding(), at: u64, paths: Vec<(u64, String)>, offset: i64, cgroup: Option<u64>) {
        comes_back(&Line { t: at, entry: Entry::Record(Record::Kernel(Bytes::from(bytes))) })?;
        let seen = paths.into_iter().map(|(id, path)| Seen { id, path }).collect();
        comes_back(&Line { t: at, entry: Entry::Record(Record::Cgroups(seen)) })?;
        comes_back(&Line { t: at, entry: Entry::Record(Record::Clock(offset)) })?;
        comes_back(&Line { t: at, entry: Entry::Record(Record::Before(Box::new(finding))) })?;
        for cause in [LossCause::Full, LossCause::Budget, LossCause::Skipped] {
            let loss = Loss { event: "exit", cgroup, cause, count: at };
            comes_back(&Line { t: at, entry: Entry::Record(Record::Loss(loss)) })?;
        }
    }

    #[test]
    fn entries(text: String, time: i64, number: u64, float: f64) {
        let fields = json!({"probes": {text.clone(): null}, "n": number, "f": float}).as_object().cloned().unwrap_or_default();
        let note = Note { time: Timestamp(time), code: "doubt", text, fields };
        for entry in [Entry::Said(note), Entry::Tick, Entry::Surveyed, Entry::Look, Entry::Shown, Entry::Finish, Entry::End] {
            comes_back(&Line { t: number, entry })?;
        }
    }

    #[test]
    fn facts(texts: [Option<String>; 7], labels: BTreeMap<String, String>, started: Option<i64>, sandbox: bool, notes: Vec<String>) {
        let [name, image, pod, namespace, stop_signal, bundle, name_source] = texts;
        let unknown = name.iter().map(|why| ("image", why.clone())).collect();
        let started = started.map(Timestamp);
        let runtime = Some(Runtime::CriO);
        let facts = Facts {
            name, runtime, image, pod, namespace, labels, stop_signal, started, sandbox, bundle, name_source, unknown, notes,
        };
        answered(Answer::Facts(9, Box::new(facts)))?;
    }

    #[test]
    fn processes(known: Vec<(String, String, String)>, ancestors in vec(ancestor(), 0..4), totals: Vec<([u32; 4], u64)>) {
        let known = known.into_iter().map(|(id, cgroup, source)| KnownContainer { id, runtime: None, cgroup, source });
        answered(Answer::Identity(known.collect()))?;
        answered(Answer::Ancestry(1, ancestors))?;
        let key = |[target, sender, signal, result]: [u32; 4]| FoldKey { target, sender, signal, result };
        answered(Answer::SignalTotals(totals.into_iter().map(|(kind, count)| (key(kind), count)).collect()))?;
    }

    #[test]
    fn hung(cgroup: String, control: Option<(bool, bool, Option<u64>)>, numbers: [Option<u64>; 2]) {
        let control = control.map(|(oom_kill_disable, under_oom, oom_kill)| OomControl { oom_kill_disable, under_oom, oom_kill });
        let [limit_bytes, usage_bytes] = numbers;
        answered(Answer::OomControl(vec![HungReading { cgroup: cgroup.into(), control, limit_bytes, usage_bytes }]))?;
    }

    #[test]
    fn pids(n: [u64; 6], o: [Option<u64>; 5], path: String, key: Option<String>, stat in stat(), parents in vec(ancestor(), 0..3), refusals: BTreeMap<u64, u64>, same: bool) {
        let states = pids::States { running: n[0], sleeping: n[1], uninterruptible: n[2], stopped: n[3], zombie: n[4], idle: n[5] };
        let group = pids::Group { cgroup: path.as_str().into(), states, processes: n[0], threads: n[1] };
        let level = pids::Level { id: n[2], path, current: n[3], limit: o[0], refused: o[1], refused_here: o[2], key: key.clone() };
        let counts = pids::Counts {
            at_ns: n[4], took_ns: n[5], groups: vec![group], levels: vec![level], failed: refusals.clone(), refusals,
            host: pids::HostPids { pid_max: o[0], threads_max: o[3], threads: o[4] }, events: same, same,
        };
        let asker = pids::Asker {
            from: n[0], nproc_limit: o[0], user_threads: o[1], privileged: o[2].map(|_| same), host: counts.host,
        };
        answered(Answer::Pids(Box::new(pids::Reading::Counts(counts))))?;
        answered(Answer::Pids(Box::new(pids::Reading::Asker(asker))))?;
        let dead = vec![pids::Dead { stat, exit_ns: o[1], parent: None, key: o[2], cgroup: key }];
        let waiting = pids::Waiting { took_ns: n[0], dead: dead.clone(), young: vec![(7, n[1])], parents };
        answered(Answer::Pids(Box::new(pids::Reading::Unreaped(waiting))))?;
        answered(Answer::Pids(Box::new(pids::Reading::Sweep(pids::Sweep { took_ns: n[0], dead, states }))))?;
    }

    #[test]
    fn mem(o: [Option<u64>; 9], n: [u64; 3], who in option::of(process()), path: String) {
        let stat = mem::Stat { anon: o[0], swap_out: o[1], ..mem::Stat::default() };
        for psi in [mem::Psi::Absent, mem::Psi::Off, mem::Psi::On { some_us: n[0], full_us: n[1] }] {
            let level = mem::Level {
                usage: o[0], limit: o[1], high: o[2], swap: o[3], swap_room: o[4], swappiness: o[5], kernel: o[6],
                high_events: o[7], stat, psi,
            };
            let stall = mem::StallTotal { who: who.clone(), count: n[0], total_ns: n[1], worst_ns: n[2] };
            let reading = mem::Reading {
                at_ns: n[0], took_ns: n[1], levels: [(Arc::from(path.as_str()), level)].into(),
                stalls: vec![(StallKey { cgroup: n[0], tgid: 3, kind: 2 }, stall)], swap_total: o[0], swap_free: o[8],
            };
            answered(Answer::Mem(Box::new(reading)))?;
        }
    }

    #[test]
    fn io(o: [Option<u64>; 4], n: [u64; 8], who in option::of(process()), text: String, some: Option<String>, ids: BTreeMap<u64, String>, in_memcg: Option<bool>) {
        let last = io::Control {
            at_ns: n[0], dirty: n[1], threshold: n[2], background: n[3], device_dirty: n[4], device_threshold: n[5],
            bandwidth: n[6], task_rate: n[7], in_memcg, device: text.clone(),
        };
        let pause = io::PauseTotal {
            who, count: n[0], total_ns: n[1], worst_ns: n[2], worst_call_ns: n[3], histogram: [n[4]; dirty::BUCKETS], last,
        };
        let total = io::IoTotal {
            count: n[0], bytes: n[1], device_ns: n[2], queued_ns: n[3], worst_ns: n[4], direct_bytes: n[6],
            buffered_bytes: n[7], histogram: [n[5]; block::BUCKETS],
        };
        let synced = io::SyncTotal {
            who: pause.who.clone(), count: n[0], total_ns: n[1], worst_ns: n[2], slow: n[3], slow_ns: n[4],
            histogram: [n[5]; sync::BUCKETS], file: text.clone(),
        };
        let limit = io::Limit { device: (8, 0), read_bps: o[0], write_bps: o[1], read_iops: o[2], write_iops: o[3] };
        let path: Arc<str> = text.as_str().into();
        let counts = io::Counts {
            at_ns: n[0], took_ns: n[1],
            pauses: vec![(PauseKey { cgroup: n[0], tgid: 1, reserved: 0 }, pause)],
            requests: vec![(IoKey { cgroup: n[0], major: 8, minor: 1, op: 2, reserved: 0 }, total)],
            syncs: vec![(SyncKey { cgroup: n[1], tgid: 2, call: 6, device: 7 << 20, reserved: 0 }, synced)],
            syncs_idle: o[0].is_none(),
            blkio: in_memcg.map(|_| ids.into_iter().map(|(id, path)| (id, path.into())).collect()),
            limits: [(path.clone(), vec![limit])].into(), uncontrolled: [path.clone()].into(),
            weights: [(path.clone(), vec![io::Weights { file: text.clone(), default: n[0], devices: vec![((8, 0), n[1])] }])].into(),
            written: [(path.clone(), n[2])].into(),
            devices: [((8, 0), text.clone()), ((253, 1), String::new())].into(), unnoted: [(8, 1)].into(),
            host: io::HostDirty { threshold: o[0], ratio: o[1], background_ratio: o[2], bytes: o[3] },
        };
        answered(Answer::Io(Box::new(io::Reading::Counts(Box::new(counts)))))?;
        let space = Space { total_bytes: n[0], free_bytes: n[1], available_bytes: n[2], inodes: n[3], inodes_free: n[4] };
        for what in [io::What::File { device: (8, 1), path: text.clone() }, io::What::Path { at: -100, path: text.clone() }] {
            let asked = io::Where { pid: 1, cgroup: some.clone(), what };
            let writer = io::Writer { cgroup: path.clone(), charged: o[0], given: n[5] };
            let place = io::Place {
                path: some.clone(), kind: some.clone(), mount: None, space: Some(space), upper: some.clone(), disk_kind: None,
                disk_mount: some.clone(), disk: Some(space), unknown: some.clone(), device: Some((8, 1)),
                writers: Some(vec![writer]),
            };
            let roots = io::Roots { took_ns: n[6], of: [(path.clone(), place.clone())].into() };
            answered(Answer::Io(Box::new(io::Reading::Roots(roots))))?;
            answered(Answer::Io(Box::new(io::Reading::Place(asked, Box::new(place)))))?;
        }
    }

    #[test]
    fn cpu(n: [u64; 8], o: [Option<u64>; 2], load: Option<[f64; 3]>, path: String, some: Option<String>, stat in stat(), process in process(), cpus: Option<Vec<u32>>, now: Option<BTreeMap<u64, u64>>, stack: Result<Vec<String>, String>, file: Result<[String; 2], String>) {
        let times = cpu::Times {
            user: n[0], nice: n[1], system: n[2], idle: n[3], iowait: n[4], irq: n[5], softirq: n[6], steal: n[7],
        };
        let load = load.filter(|loads| loads.iter().all(|load| load.is_finite()));
        let used = Some(cpu::Used { total_ns: n[0], user_ns: n[1], system_ns: n[2] });
        let worst = some.clone().map(|comm| cpu::Worst {
            wait_ns: n[0], tid: 1, pid: o[0].map(|pid| pid as u32), comm: some.clone(), instead_tid: 2, instead_comm: comm,
        });
        let waited = cpu::Waited { count: n[0], total_ns: n[1], blocked: n[2], blocked_ns: n[3], worst, histogram: [n[4]; BUCKETS] };
        let usage = cpu::Usage {
            at_ns: n[0], took_ns: n[1], host: cpu::HostCpu { all: times, each: vec![times], load, runnable: o[0] },
            groups: vec![cpu::Group { cgroup: path.as_str().into(), cpu_path: some.clone(), used, cpus }],
            levels: vec![cpu::Level {
                path: path.clone(), quota: Some(cpu::Quota { quota_ns: n[0], period_ns: n[1], burst_ns: n[2] }), weight: o[0],
                bandwidth: Some(cpu::Bandwidth {
                    periods: n[3], throttled: n[4], throttled_ns: n[5], bursts: o[0], burst_used_ns: o[1],
                }),
            }],
            processes: vec![cpu::ProcessTime { stat, cgroup: path.into() }],
            waits: o[1].map(|key| [(key, waited)].into()),
            sleeps: [((n[0], 7), cpu::Slept { count: n[1], total_ns: n[2] })].into(),
            stacks: [(7, stack.clone().map(Arc::from).map_err(Arc::from))].into(),
            is_idle: o[1].is_none(),
        };
        answered(Answer::Cpu(Box::new(cpu::Reading::Usage(Box::new(usage)))))?;
        let sleeper = cpu::Sleeper {
            process, cgroup: some.clone(), since_ns: o[0], switches: o[1], frozen: true, wchan: some, stack,
            file_system: file.map(|[kind, at]| cpu::Mounted { kind, at }),
        };
        answered(Answer::Cpu(Box::new(cpu::Reading::Blocked(cpu::Sleepers { took_ns: n[0], tasks: vec![sleeper], now }))))?;
    }

    #[test]
    fn caps(container in container(), n: [u64; 4], sets in sets(), finding in finding(), text: String, no_new_privs: Option<bool>, names: Result<std::collections::HashMap<u64, String>, String>) {
        answered(Answer::Caps(Box::new(caps::Reading::Watching { container: Arc::new(container), since_ns: n[0], ran: true })))?;
        let own = caps::Sets {
            init: sets, processes: vec![caps::ProcessSets { pid: 1, comm: text.clone(), sets }], spec: Some(sets), no_new_privs,
            seccomp: no_new_privs.map(|_| "filter"), uid: Some(0), findings: vec![finding],
            files: vec![caps::ProgramFile {
                pid: 1, comm: text.clone(), sets: caps::FileSets { permitted: n[0], inheritable: n[1], effective: true },
            }],
            files_unknown: names.clone().err(),
        };
        answered(Answer::Caps(Box::new(caps::Reading::Sets(text.clone(), Some(Box::new(own))))))?;
        answered(Answer::Caps(Box::new(caps::Reading::Sets(text, None))))?;
        let check = CheckKey { cgroup: n[0], image: n[1], syscall: 1, capability: 2, origin: 1, relation: 0, how: 3 };
        let outcome = OutcomeKey { cgroup: n[0], image: n[1], denied: n[2], granted: n[3], syscall: 1, result: -1, origin: 1, reserved: 0 };
        let totals = caps::Totals { checks: vec![(check, n[0])], outcomes: vec![(outcome, n[1])], uncounted: vec![(n[2], n[3])] };
        answered(Answer::Caps(Box::new(caps::Reading::Totals(totals))))?;
        // The order in a hash map is nobody's.
        let names = names.map(|names| names.into_iter().take(1).collect());
        answered(Answer::Caps(Box::new(caps::Reading::Symbols(names))))?;
        answered(Answer::Caps(Box::new(caps::Reading::SoFar(Box::default()))))?;
    }
}

fn header() -> Header {
    Header {
        ctrace_recording: VERSION,
        ctrace: "0.1.0".to_owned(),
        host: "node-7".to_owned(),
        kernel: "6.12.0".to_owned(),
        started: Timestamp(1_000_000_000_000),
        started_ns: 1_000_000_000,
        boot_to_wall_ns: 999_000_000_000,
        lenses: vec!["exits".to_owned()],
        asked: Asked::default(),
        facts: HostFacts { page_bytes: 4096, cgroup_version: 2, attached: vec!["exit"], cpus: 2, began_later: false },
        probes: Map::new(),
        probes_unknown: Map::new(),
        known: Vec::new(),
        gone: 0,
    }
}

fn written(directory: &Path, frames: u64) -> PathBuf {
    let path = directory.join("a.ctrace");
    let mut recorder =
        Recorder::create(&Wish { path: path.clone(), force: true, max_bytes: u64::MAX }).expect("a file");
    recorder.begin(&header());
    for at in 0..frames {
        recorder.enter(&Entry::Tick, 2_000_000_000 + at);
        recorder.flush().expect("room");
    }
    recorder.end().expect("room");
    path
}

/// All that can be had of it.
fn read(path: &Path) -> anyhow::Result<(Vec<u64>, Ending)> {
    let mut reader = Reader::open(path)?;
    let times = reader.by_ref().map(|(time_ns, _)| time_ns).collect();
    Ok((times, reader.ending().clone()))
}

#[test]
fn a_whole_one_comes_back_and_tells_that_it_is_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = written(directory.path(), 3);
    let (times, ending) = read(&path).expect("it is good");
    assert_eq!(times, [2_000_000_000, 2_000_000_001, 2_000_000_002, 2_000_000_002]);
    assert_eq!(ending, Ending { whole: true, at_ns: 2_000_000_002, ..Ending::default() });
    assert_eq!(Reader::open(&path).expect("it is good").header(), &header());
    assert_eq!(Reader::last_ns(&path).expect("it is good"), 2_000_000_002);
    let refused = Recorder::create(&Wish { path, force: false, max_bytes: 1 }).err().expect("it is there");
    assert!(refused.to_string().contains("is there already"), "{refused}");
}

#[test]
fn what_is_written_over_stays_until_there_is_something_to_record() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = written(directory.path(), 3);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let old = fs::read(&path).expect("the file");
    let wish = Wish { path: path.clone(), force: true, max_bytes: u64::MAX };
    let files = || fs::read_dir(directory.path()).expect("the directory").count();
    let mut recorder = Recorder::create(&wish).expect("a file beside");
    recorder.begin(&header());
    recorder.discard();
    assert_eq!((fs::read(&path).expect("the old one"), files()), (old.clone(), 1));
    // An error before it is known that there is something to record.
    drop(Recorder::create(&wish).expect("a file beside"));
    assert_eq!((fs::read(&path).expect("the old one"), files()), (old, 1));
    // Killed before: what it left is in nobody's way.
    fs::write(directory.path().join("a.ctrace.part"), "left").expect("a file");
    let mut recorder = Recorder::create(&wish).expect("a file beside");
    recorder.begin(&header());
    recorder.arrive().expect("the place of the old one");
    recorder.enter(&Entry::Tick, 5_000_000_000);
    // No end: what entered is in the file nevertheless.
    drop(recorder);
    let (times, ending) = read(&path).expect("it is good");
    assert_eq!((times, ending.whole, files()), (vec![5_000_000_000], false, 1));
    assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
}

#[test]
fn force_follows_no_link_and_writes_over_plain_files_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let (target, path) = (directory.path().join("shadow"), directory.path().join("a.ctrace"));
    fs::write(&target, "secret").expect("a file");
    symlink(&target, &path).expect("a link");
    let refusal = |path: PathBuf| {
        Recorder::create(&Wish { path, force: true, max_bytes: 1 }).err().expect("it is refused").to_string()
    };
    assert!(refusal(path.clone()).contains("is no plain file"));
    assert!(refusal(directory.path().to_owned()).contains("is no plain file"));
    fs::remove_file(&path).expect("the link");
    fs::write(&path, "old").expect("a file");
    symlink(&target, directory.path().join("a.ctrace.part")).expect("a link");
    assert!(refusal(path.clone()).contains("a.ctrace.part is in the way"));
    let texts = [&path, &target].map(|path| fs::read_to_string(path).expect("as it was"));
    assert_eq!(texts, ["old", "secret"]);
}

#[test]
fn a_cut_at_any_byte_costs_the_frames_from_there_on_and_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let bytes = fs::read(written(directory.path(), 3)).expect("the file");
    let cut = directory.path().join("cut.ctrace");
    let mut before = 0;
    for length in 1..bytes.len() {
        fs::write(&cut, &bytes[..length]).expect("a file");
        let Ok((times, ending)) = read(&cut) else { continue };
        assert!(!ending.whole && times.len() >= before && times.len() < 4, "{length}: {times:?}");
        // Between two frames nothing is lost, but the end is missing.
        assert_eq!(ending.damage.is_some(), ending.bytes_left > 0);
        before = times.len();
    }
    assert_eq!(before, 3);
}

#[test]
fn a_newer_format_and_other_files_are_told_as_such() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.ctrace");
    let mut newer = header();
    newer.ctrace_recording = VERSION + 1;
    let line = serde_json::to_vec(&newer).expect("plain");
    fs::write(&path, zstd::encode_all(&line[..], 1).expect("memory")).expect("a file");
    let error = format!("{:#}", read(&path).expect_err("newer"));
    assert!(error.contains("take a newer one"), "{error}");
    for other in [&b""[..], b"hello", &zstd::encode_all(&b"{}"[..], 1).expect("memory")] {
        fs::write(&path, other).expect("a file");
        let error = format!("{:#}", read(&path).expect_err("no recording"));
        assert!(error.contains("is no recording"), "{error}");
    }
}

#[test]
fn a_bomb_is_not_unpacked() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("bomb.ctrace");
    let mut line = serde_json::to_vec(&header()).expect("plain");
    line.push(b'\n');
    let mut file = zstd::encode_all(&line[..], 1).expect("memory");
    // Several hundred bytes that unpack to as much as a frame may hold, again and again; and one larger than that.
    let blank = zstd::encode_all(&vec![b' '; 16 << 20][..], 19).expect("memory");
    assert!(blank.len() < 4096);
    for _ in 0..64 {
        file.extend_from_slice(&blank);
    }
    fs::write(&path, &file).expect("a file");
    let (_, ending) = read(&path).expect("the header is good");
    assert!(ending.damage.is_some_and(|damage| damage.contains("unpacks to more")));
    let mut file = zstd::encode_all(&line[..], 1).expect("memory");
    file.extend(zstd::encode_all(&vec![b' '; 48 << 20][..], 1).expect("memory"));
    fs::write(&path, &file).expect("a file");
    let (_, ending) = read(&path).expect("the header is good");
    assert!(ending.damage.is_some_and(|damage| damage.contains("larger than any")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes(bytes: Vec<u8>) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.ctrace");
        fs::write(&path, &bytes).expect("a file");
        prop_assert!(read(&path).is_err());
    }

    #[test]
    fn a_changed_byte(at: prop::sample::Index, bit in 0u8..8) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = written(directory.path(), 3);
        let mut bytes = fs::read(&path).expect("the file");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fs::write(&path, &bytes).expect("a file");
        // Each frame has a checksum: what comes back is a beginning of what was written.
        if let Ok((times, ending)) = read(&path) {
            prop_assert!(times.len() <= 4 && times.iter().zip(2_000_000_000..).take(3).all(|(time, want)| *time == want));
            prop_assert!(times.len() == 4 || !ending.whole);
        }
    }
}
