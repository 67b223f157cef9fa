//! What `--json` prints is what docs/json.schema.json says: each kind of line, and a line that breaks the contract.

use bytemuck::Zeroable;
use bytes::Bytes;
use serde_json::{Value, json};
use tracer::{
    containers::{Known, Seen, Table},
    findings::{HostFacts, caps, cpu, io, mem, net, pids},
    kernel::load::{Loss, LossCause},
    lenses,
    model::Process,
    pipeline::{Answer, Output, Pipeline, Question, Record},
    views,
};
use tracer_common::{
    Header, Kind,
    caps::{Check, CheckKey, Outcome, OutcomeKey},
    copy_up::CopyUp,
    flow::{DROPPED, Step},
    oom::{VICTIM_KILLED, Victim},
    pids::{ForkFailed, ForkRefused},
    signal::Signal,
    space::{ENOSPC, EROFS, ON_FILE, ON_PATH, Refused},
    task::{Exit, Task},
};

const CGROUP: u64 = 7;
const SECOND: u64 = 1_000_000_000;

fn schema() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(include_str!("../../docs/json.schema.json")).expect("the schema is JSON");
    jsonschema::validator_for(&schema).expect("the schema is a schema")
}

fn header(kind: Kind, size: usize, time_ns: u64) -> Header {
    Header { kind: kind as u32, size: size as u32, time_ns, cgroup: CGROUP }
}

fn task(pid: u32, ns_pid: u32) -> Task {
    Task {
        tgid: pid,
        tid: pid,
        ns_pid,
        ns_level: 1,
        ppid: 1,
        init: 100,
        start_ns: u64::from(pid),
        comm: *b"java\0\0\0\0\0\0\0\0\0\0\0\0",
        ..Task::zeroed()
    }
}

/// Lines of every lens: a kill, exits (by it, by a signal, with a status), signals, a loss.
fn lines() -> Vec<Value> {
    let mut out = Vec::new();
    for lens in lenses::REGISTERED {
        let host = HostFacts {
            page_bytes: 4096,
            cgroup_version: 2,
            attached: lens.probes.iter().map(|probe| probe.name).filter(|name| !name.starts_with("oom_d")).collect(),
            cpus: 2,
            began_later: false,
        };
        let mut pipeline = Pipeline::new(Table::new(Known::default()), host, 0, vec![(lens.make)()]);
        let path = format!("/docker/{}", "ab".repeat(32));
        let beside = Seen { id: CGROUP + 1, path: format!("/docker/{}", "cd".repeat(32)) };
        pipeline.record(Record::Cgroups(vec![Seen { id: CGROUP, path }, beside]), 0, &mut out);
        let mut victim = Victim::zeroed();
        victim.header = header(Kind::OomVictim, size_of::<Victim>(), SECOND);
        (victim.victim, victim.trigger, victim.flags, victim.depth) = (task(101, 2), task(101, 2), VICTIM_KILLED, 1);
        (victim.trigger_cgroup, victim.stats_cgroup) = (CGROUP, CGROUP);
        (victim.levels[0].cgroup, victim.levels[0].usage, victim.levels[0].max) = (CGROUP, 1000, 1000);
        let mut kill = Signal::zeroed();
        kill.header = header(Kind::Signal, size_of::<Signal>(), SECOND);
        (kill.target, kill.sender, kill.signal, kill.total) = (task(102, 3), task(55, 55), 9, 1);
        let mut dropped = kill;
        (dropped.target, dropped.signal, dropped.result, dropped.unkillable) = (task(100, 1), 15, 1, 1);
        let exit = |pid, ns_pid, status| Exit {
            header: header(Kind::Exit, size_of::<Exit>(), SECOND + 1),
            task: task(pid, ns_pid),
            status,
            ..Exit::zeroed()
        };
        for bytes in [
            bytemuck::bytes_of(&victim),
            bytemuck::bytes_of(&kill),
            bytemuck::bytes_of(&dropped),
            bytemuck::bytes_of(&exit(101, 2, 9)),
            bytemuck::bytes_of(&exit(102, 3, 9)),
            bytemuck::bytes_of(&exit(103, 4, 3 << 8)),
        ] {
            pipeline.record(Record::Kernel(Bytes::copy_from_slice(bytes)), 0, &mut out);
        }
        let mut step = Step::zeroed();
        step.header = header(Kind::PacketStep, size_of::<Step>(), SECOND);
        (step.packet, step.first_ns, step.container, step.netns, step.ifindex) = (1, SECOND, 2, 2, 2);
        (step.bytes[0], step.bytes[9], step.readable) = (0x45, 17, 28);
        let mut end = Step { what: DROPPED, reason: 6, protocol: 0x0800, ..step };
        end.bytes[19] = 7;
        for step in [step, end, Step { first_ns: SECOND + 1, container: 0, ..step }] {
            pipeline.record(Record::Kernel(Bytes::copy_from_slice(bytemuck::bytes_of(&step))), 0, &mut out);
        }
        let mut refused = ForkRefused::zeroed();
        refused.header = header(Kind::ForkRefused, size_of::<ForkRefused>(), SECOND);
        (refused.asker, refused.count, refused.depth) = (task(104, 5), 1, 1);
        refused.levels[0] = tracer_common::pids::Level { cgroup: CGROUP, current: 20, limit: 20 };
        pipeline.record(Record::Kernel(Bytes::copy_from_slice(bytemuck::bytes_of(&refused))), 0, &mut out);
        let mut failed = ForkFailed::zeroed();
        failed.header = header(Kind::ForkFailed, size_of::<ForkFailed>(), SECOND);
        (failed.asker, failed.count, failed.from) = (task(104, 5), 1, CGROUP);
        pipeline.record(Record::Kernel(Bytes::copy_from_slice(bytemuck::bytes_of(&failed))), 0, &mut out);
        for reading in pids_readings() {
            pipeline.record(Record::Answer(Answer::Pids(Box::new(reading))), 5 * SECOND, &mut out);
        }
        caps_lines(&mut pipeline, &mut out);
        pipeline.record(Record::Answer(Answer::Mem(Box::new(mem_reading()))), 5 * SECOND, &mut out);
        let mut full = Refused::zeroed();
        full.header = header(Kind::FileRefused, size_of::<Refused>(), SECOND);
        (full.asker, full.errno, full.on, full.count, full.mode) = (task(105, 6), ENOSPC, ON_FILE, 1, 0o100_644);
        let mut read_only = full;
        (read_only.errno, read_only.on) = (EROFS, ON_PATH);
        read_only.path[..28].copy_from_slice(b"/proc/sys/net/core/somaxconn");
        for refused in [full, read_only] {
            let from = out.len();
            pipeline.record(Record::Kernel(Bytes::copy_from_slice(bytemuck::bytes_of(&refused))), 0, &mut out);
            for output in out.split_off(from) {
                let Output::Ask(Question::Io(io::Ask::Place { wanted, .. })) = output else {
                    out.push(output);
                    continue;
                };
                let place = io::Reading::Place(wanted, Box::default());
                pipeline.record(Record::Answer(Answer::Io(Box::new(place))), 5 * SECOND, &mut out);
            }
        }
        let copy_header = header(Kind::CopyUp, size_of::<CopyUp>(), SECOND);
        let copy =
            CopyUp { header: copy_header, who: task(105, 6), bytes: 64 << 20, took_ns: SECOND, ..CopyUp::zeroed() };
        pipeline.record(Record::Kernel(Bytes::copy_from_slice(bytemuck::bytes_of(&copy))), 0, &mut out);
        for second in 5..8 {
            pipeline.record(Record::Answer(Answer::Io(Box::new(io_reading(second)))), second * SECOND, &mut out);
        }
        for second in 0..4 {
            let reading = cpu::Reading::Usage(Box::new(cpu_usage(second)));
            pipeline.record(Record::Answer(Answer::Cpu(Box::new(reading))), second * SECOND, &mut out);
        }
        for second in 1..3 {
            pipeline.record(Record::Answer(Answer::Net(Box::new(net_reading(second)))), second * SECOND, &mut out);
        }
        let reading = cpu::Reading::Blocked(blocked());
        pipeline.record(Record::Answer(Answer::Cpu(Box::new(reading))), 4 * SECOND, &mut out);
        let loss = Loss { event: "exit", cgroup: Some(CGROUP), cause: LossCause::Budget, count: 3 };
        pipeline.record(Record::Loss(loss), SECOND, &mut out);
        pipeline.tick(10 * SECOND, &mut out);
    }
    out.iter().filter_map(views::json::line).map(|line| serde_json::from_str(&line).expect("a line is JSON")).collect()
}

/// A check, a refusal, an EPERM without one, and the report at the end.
fn caps_lines(pipeline: &mut Pipeline, out: &mut Vec<Output>) {
    let key = CheckKey { cgroup: CGROUP, origin: 1, how: 1, capability: 25, syscall: 227, ..CheckKey::zeroed() };
    let check = Check {
        header: header(Kind::CapCheck, size_of::<Check>(), SECOND),
        task: task(105, 6),
        key,
        ..Check::zeroed()
    };
    let outcome = |denied| Outcome {
        header: header(Kind::CapOutcome, size_of::<Outcome>(), SECOND),
        task: task(105, 6),
        key: OutcomeKey { cgroup: CGROUP, denied, syscall: 227, result: -1, origin: 1, ..OutcomeKey::zeroed() },
    };
    let container = pipeline.containers.owner(CGROUP).expect("a container");
    let watching = caps::Reading::Watching { container, since_ns: SECOND, ran: true };
    pipeline.record(Record::Answer(Answer::Caps(Box::new(watching))), SECOND, out);
    for bytes in [bytemuck::bytes_of(&check), bytemuck::bytes_of(&outcome(1 << 25)), bytemuck::bytes_of(&outcome(0))] {
        pipeline.record(Record::Kernel(Bytes::copy_from_slice(bytes)), 0, out);
    }
    pipeline.finish(5 * SECOND, out);
    let names = caps::Reading::Symbols(Ok(std::collections::HashMap::new()));
    pipeline.record(Record::Answer(Answer::Caps(Box::new(names))), 5 * SECOND, out);
}

/// Twelve dead children, and the counters of the cgroup.
fn pids_readings() -> [pids::Reading; 3] {
    let dead = |pid| pids::Dead {
        stat: pids::Stat { pid, state: 'Z', ppid: 100, threads: 1, ..pids::Stat::default() },
        exit_ns: Some(SECOND),
        parent: Some(100),
        key: Some(CGROUP),
        cgroup: None,
    };
    let dead = (200..212).map(dead).collect();
    let path = format!("/docker/{}", "ab".repeat(32));
    let group = pids::Group { cgroup: path.as_str().into(), ..pids::Group::default() };
    let level = pids::Level { id: CGROUP, path, current: 20, limit: Some(20), ..pids::Level::default() };
    let counts = pids::Counts { groups: vec![group], levels: vec![level], same: true, ..pids::Counts::default() };
    let asker = pids::Asker { from: CGROUP, nproc_limit: Some(5), user_threads: Some(5), ..pids::Asker::default() };
    let asker = pids::Asker { privileged: Some(false), ..asker };
    let unreaped = pids::Reading::Unreaped(pids::Waiting { dead, ..pids::Waiting::default() });
    [unreaped, pids::Reading::Counts(counts), pids::Reading::Asker(asker)]
}

/// A writer that is paused, requests at their limit.
fn io_reading(second: u64) -> io::Reading {
    use tracer_common::{block, dirty, sync};
    let path: std::sync::Arc<str> = format!("/docker/{}", "ab".repeat(32)).into();
    let who = Some(tracer::events::process(&task(101, 2)));
    let (histogram, last) = ([second; dirty::BUCKETS], io::Control::default());
    let (count, total_ns) = (12 * second, second * SECOND);
    let pauses = io::PauseTotal { who, count, total_ns, worst_ns: 9, worst_call_ns: 9, histogram, last };
    let (who, file) = (pauses.who.clone(), "wal".to_owned());
    let slow_ns = sync::SLOW_NS * second;
    let syncs = io::SyncTotal {
        who,
        count: second,
        total_ns: slow_ns,
        worst_ns: sync::SLOW_NS,
        slow: second,
        slow_ns,
        histogram: [second; sync::BUCKETS],
        file,
    };
    let sync_key = sync::SyncKey { cgroup: CGROUP, tgid: 101, call: sync::FSYNC, device: 8 << 20, reserved: 0 };
    let requests = io::IoTotal { count: second, bytes: second * 1000, ..io::IoTotal::default() };
    let limit = io::Limit { device: (8, 0), write_bps: Some(1000), ..io::Limit::default() };
    io::Reading::Counts(Box::new(io::Counts {
        at_ns: second * SECOND,
        pauses: vec![(dirty::PauseKey { cgroup: CGROUP, tgid: 101, reserved: 0 }, pauses)],
        requests: vec![(block::IoKey { cgroup: CGROUP, major: 8, minor: 0, op: block::WRITE, reserved: 0 }, requests)],
        syncs: vec![(sync_key, syncs)],
        limits: [(path, vec![limit])].into(),
        ..io::Counts::default()
    }))
}

/// A container full of cache, whose tasks stall.
fn mem_reading() -> mem::Reading {
    let path: std::sync::Arc<str> = format!("/docker/{}", "ab".repeat(32)).into();
    let (active_file, inactive_file) = (Some(10), Some(80));
    let stat = mem::Stat { active_file, inactive_file, file: Some(90), anon: Some(5), ..mem::Stat::default() };
    let level = mem::Level { usage: Some(99), limit: Some(100), stat, ..mem::Level::default() };
    let who = tracer::events::process(&task(101, 2));
    let total = mem::StallTotal { who: Some(who), count: 7, total_ns: SECOND, worst_ns: 9 };
    let key = tracer_common::stall::StallKey { cgroup: CGROUP, tgid: 101, kind: tracer_common::stall::LIMIT };
    let levels = [(path, level)].into();
    mem::Reading { at_ns: 5 * SECOND, levels, stalls: vec![(key, total)], ..mem::Reading::default() }
}

/// A container that is throttled, and whose neighbour waits.
fn cpu_usage(second: u64) -> cpu::Usage {
    let paths = ["ab", "cd"].map(|half| format!("/docker/{}", half.repeat(32)));
    let group = |path: &String| cpu::Group {
        cgroup: path.as_str().into(),
        cpu_path: Some(path.clone()),
        used: Some(cpu::Used { total_ns: second * SECOND / 2, ..cpu::Used::default() }),
        cpus: None,
    };
    let level = |path: &String, throttled, quota| cpu::Level {
        path: path.clone(),
        quota,
        weight: Some(100),
        bandwidth: Some(cpu::Bandwidth {
            periods: second * 10,
            throttled,
            throttled_ns: throttled,
            ..cpu::Bandwidth::default()
        }),
    };
    let quota = cpu::Quota { quota_ns: 50_000_000, period_ns: 100_000_000, burst_ns: 0 };
    let waited = || cpu::Waited {
        count: second * 100,
        total_ns: second * SECOND,
        worst: Some(cpu::Worst {
            wait_ns: 7,
            tid: 5,
            instead_tid: 6,
            instead_comm: "java".to_owned(),
            ..cpu::Worst::default()
        }),
        ..cpu::Waited::default()
    };
    cpu::Usage {
        at_ns: second * SECOND,
        host: cpu::HostCpu {
            all: cpu::Times { user: second * SECOND, ..cpu::Times::default() },
            each: vec![cpu::Times { user: second * SECOND, ..cpu::Times::default() }; 2],
            load: Some([1.0, 2.0, 3.0]),
            runnable: Some(1),
        },
        groups: paths.iter().map(group).collect(),
        levels: vec![level(&paths[0], second * 10, Some(quota)), level(&paths[1], 0, None)],
        waits: Some([(CGROUP, waited()), (CGROUP + 1, waited())].into()),
        ..cpu::Usage::default()
    }
}

/// A container whose packets a firewall drops, beside one on the host's network.
fn net_reading(second: u64) -> net::Reading {
    use tracer_common::{dropped, hops};
    let paths = ["ab", "cd"].map(|half| std::sync::Arc::from(format!("/docker/{}", half.repeat(32))));
    let [own, hosts] = paths;
    let device = net::Device { name: "eth0".to_owned(), kind: "veth".to_owned(), mtu: Some(1500) };
    let key =
        dropped::DropKey { location: 7, container: 2, netns: 2, ifindex: 2, reason: 6, protocol: 0x0800, flags: 0 };
    let mut first = [0; dropped::SAMPLE];
    (first[0], first[9]) = (0x45, 1);
    let hop = hops::HopKey {
        container: 2,
        netns: 2,
        ifindex: 2,
        direction: hops::XMIT,
        flow: hops::OUT,
        protocol: 0x0800,
        through: 2,
    };
    let total =
        net::HopTotal { packets: second, since: [second; hops::BUCKETS], device: device.clone(), ..Default::default() };
    net::Reading::Counts(net::Counts {
        at_ns: second * SECOND,
        netns: [(own, 2), (hosts, 1)].into(),
        host: Some(1),
        drops: vec![(
            key,
            net::DropTotal { packets: 4 * second, first, readable: Some(20), device, next: net::Device::default() },
        )],
        hops: vec![(hop, total)],
        reasons: [(6, "NETFILTER_DROP".to_owned())].into(),
        ..net::Counts::default()
    })
}

fn blocked() -> cpu::Sleepers {
    let process = Process { pid: 7, tid: 8, ns_pid: Some(1), ppid: Some(1), comm: "dd".to_owned(), uid: Some(0) };
    let task = cpu::Sleeper {
        process,
        cgroup: Some(format!("/docker/{}", "ab".repeat(32))),
        since_ns: Some(SECOND),
        switches: Some(1),
        frozen: false,
        wchan: None,
        stack: Err("not permitted".to_owned()),
        file_system: Ok(cpu::Mounted { kind: "ext4".to_owned(), at: "/data".to_owned() }),
    };
    cpu::Sleepers { tasks: vec![task], ..cpu::Sleepers::default() }
}

#[test]
fn every_line_is_as_documented() {
    let schema = schema();
    let lines = lines();
    for line in &lines {
        let errors: Vec<String> =
            schema.iter_errors(line).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{errors:#?}\n{line:#}");
    }
    for (key, value) in [
        ("code", "oom.container-limit"),
        ("code", "oom.child-killed"),
        ("code", "exit.signal"),
        ("code", "exit.error"),
        ("code", "signal.init-ignored"),
        ("code", "pids.limit"),
        ("code", "pids.zombies"),
        ("code", "mem.page-cache"),
        ("code", "mem.reclaim-stall"),
        ("sample", "pids"),
        ("sample", "mem"),
        ("code", "io.dirty-throttled"),
        ("code", "io.slow-sync"),
        ("code", "io.throttled"),
        ("code", "fs.copy-up"),
        ("code", "fs.no-space"),
        ("code", "net.sysctl-readonly"),
        ("sample", "io"),
        ("code", "cpu.throttled"),
        ("code", "cpu.contended"),
        ("code", "load.blocked"),
        ("sample", "pids"),
        ("sample", "cpu"),
        ("code", "net.dropped"),
        ("sample", "net"),
        ("event", "exit"),
        ("event", "signal"),
        ("event", "packet"),
        ("code", "caps.denied"),
        ("code", "caps.not-a-capability"),
        ("type", "caps"),
        ("type", "loss"),
    ] {
        assert!(lines.iter().any(|line| line[key] == value), "no line has {key} {value}");
    }
}

#[test]
fn what_breaks_the_contract_is_refused() {
    let schema = schema();
    let finding = lines().into_iter().find(|line| line["code"] == "oom.container-limit").expect("a kill");
    let broken = |change: &dyn Fn(&mut Value)| {
        let mut line = finding.clone();
        change(&mut line);
        !schema.is_valid(&line)
    };
    assert!(!broken(&|_| ()));
    assert!(broken(&|line| line["v"] = json!(2)));
    assert!(broken(&|line| line["time"] = json!("yesterday")));
    assert!(broken(&|line| line["evidence"]["limit_bytes"] = json!("1000")));
    assert!(broken(&|line| drop(line["evidence"].as_object_mut().expect("an object").remove("victims"))));
    assert!(broken(&|line| line["container"]["runtime"] = json!("rkt")));
    assert!(broken(&|line| line["severity"] = json!("bad")));
}

/// The one object of `ctrace caps verify --format json`, which is no line of a run.
#[test]
fn a_proof_is_as_documented() {
    let whole: Value = serde_json::from_str(include_str!("../../docs/json.schema.json")).expect("the schema is JSON");
    let own = json!({"$ref": "#/$defs/verify", "$defs": whole["$defs"]});
    let schema = jsonschema::validator_for(&own).expect("the schema is a schema");
    let trial = |without: Option<&str>| tracer::verify::Trial {
        set: vec!["CAP_KILL".to_owned()],
        without: without.map(str::to_owned),
        passed: without.is_none(),
        took_ns: 7,
        how: "exit status: 0".to_owned(),
    };
    let proof = tracer::verify::Proof {
        required: vec!["CAP_KILL".to_owned()],
        notes: vec!["take care".to_owned()],
        trials: vec![trial(None), trial(Some("CAP_KILL"))],
        ..tracer::verify::Proof::default()
    };
    let proof = serde_json::to_value(proof).expect("plain values");
    let errors: Vec<String> = schema.iter_errors(&proof).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{proof:#}");
    let broken = |change: &dyn Fn(&mut Value)| {
        let mut other = proof.clone();
        change(&mut other);
        !schema.is_valid(&other)
    };
    assert!(broken(&|proof| proof["required"][0] = json!("kill")));
    assert!(broken(&|proof| proof["trials"] = json!([])));
    assert!(broken(&|proof| proof["trials"][1]["took_ns"] = json!("7 ns")));
    assert!(broken(&|proof| drop(proof.as_object_mut().expect("an object").remove("unproven"))));
}

#[test]
fn the_documents_name_every_code() {
    let documents = include_str!("../../docs/findings.md");
    for known in tracer::findings::all() {
        assert!(documents.contains(known.code.0), "docs/findings.md lacks {}", known.code.0);
    }
}
