//! Findings as `findings::oom` makes them, for tests and for `cargo run --example tui`: an afternoon on a busy node.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::model::{Code, Container, Evidence, Finding, Process, Runtime, Severity, State, Timestamp, Unknown};

/// 2026-03-14 14:02:11 UTC.
pub const NOON: i64 = 1_773_496_931_000_000_000;
const MIB: u64 = 1 << 20;

pub fn container(name: Option<&str>, runtime: Runtime, number: u64) -> Container {
    let id = format!("{number:012x}{}", "5e".repeat(26));
    let mut unknown = Unknown::new();
    if name.is_none() {
        unknown.insert("name", "no engine knows this container".to_owned());
    }
    Container {
        cgroup: format!("/system.slice/{runtime}-{id}.scope"),
        name: name.map(ToOwned::to_owned),
        runtime: Some(runtime),
        namespace: None,
        pod: None,
        ancestors: Vec::new(),
        unknown,
        id,
    }
}

fn in_pod(namespace: &str, pod: &str, name: &str, number: u64) -> Container {
    let mut container = container(Some(name), Runtime::Containerd, number);
    container.cgroup = format!(
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{number:08x}.slice/cri-containerd-{}.scope",
        container.id
    );
    container.namespace = Some(namespace.to_owned());
    container.pod = Some(pod.to_owned());
    container
}

pub struct Kill<'a> {
    pub code: &'static str,
    pub number: u64,
    pub now: i64,
    /// Before that, seconds.
    pub ago: i64,
    pub container: Option<Container>,
    pub victims: &'a [(&'a str, u32, u64)],
    pub limit_mib: u64,
    /// In percent of the limit: anon, file, shmem, kernel.
    pub parts: [u64; 4],
    pub init_alive: Option<bool>,
}

/// The finding, and the one that refers to it where PID 1 lives on.
pub fn kill(kill: &Kill) -> Vec<Finding> {
    let limit = kill.limit_mib * MIB;
    let cgroup = kill.container.as_ref().map_or("/user.slice".to_owned(), |container| container.cgroup.clone());
    let parent = cgroup.rsplit_once('/').map_or("/", |(parent, _)| parent).to_owned();
    let (comm, pid, _) = kill.victims[0];
    let process =
        Process { pid, tid: pid, ns_pid: Some(17), ppid: Some(pid - 1), comm: comm.to_owned(), uid: Some(1000) };
    let killed = match kill.victims.len() {
        1 => format!("{comm} (pid {pid}) was killed"),
        count => format!("{comm} (pid {pid}) and {} more were killed", count - 1),
    };
    let (what, limiting) = match kill.code {
        "oom.parent-limit" => {
            (format!("the limit of {}.0 MiB of its parent {parent} was hit", kill.limit_mib), json!(parent))
        }
        "oom.host" => ("the host ran out of memory".to_owned(), Value::Null),
        _ => (format!("its own limit of {}.0 MiB was hit", kill.limit_mib), json!(cgroup)),
    };
    let mut unknown = Unknown::new();
    let part = |index: usize| {
        if kill.code == "oom.host" { Value::Null } else { json!(limit * kill.parts[index] / 100) }
    };
    if kill.code == "oom.host" {
        for key in ["usage_bytes", "anon_bytes", "file_bytes", "shmem_bytes", "kernel_bytes", "swap_bytes"] {
            unknown.insert(key, "the host's memory ran out, not a cgroup's".to_owned());
        }
    }
    let victims: Vec<Value> = kill
        .victims
        .iter()
        .map(|(comm, pid, rss_mib)| {
            let process =
                Process { pid: *pid, tid: *pid, ns_pid: Some(17), ppid: Some(1), comm: (*comm).to_owned(), uid: Some(1000) };
            json!({"process": process, "anon_bytes": rss_mib * MIB, "file_bytes": 0, "shmem_bytes": 0, "oom_score_adj": 986})
        })
        .collect();
    let asked = Process { tid: pid + 23, comm: "GC-Thread-3".to_owned(), ..process.clone() };
    let mut evidence = Evidence::new();
    for (key, value) in [
        ("limit_bytes", json!(limit)),
        ("usage_bytes", if kill.code == "oom.host" { Value::Null } else { json!(limit) }),
        ("anon_bytes", part(0)),
        ("file_bytes", part(1)),
        ("shmem_bytes", part(2)),
        ("kernel_bytes", part(3)),
        ("swap_bytes", if kill.code == "oom.host" { Value::Null } else { json!(0) }),
        ("limiting_cgroup", limiting),
        ("cgroup", json!(cgroup)),
        ("victims", Value::Array(victims)),
        ("trigger", json!({"process": asked, "container": kill.container})),
        ("init_alive", json!(kill.init_alive)),
        ("order", json!(0)),
        ("inferred", json!(false)),
    ] {
        evidence.insert(key.to_owned(), value);
    }
    let id = format!("oom-{}", kill.number);
    let finding = Finding {
        code: Code(kill.code),
        severity: Severity::Critical,
        id: id.clone(),
        state: None,
        time: Timestamp(kill.now - kill.ago * 1_000_000_000),
        container: kill.container.clone().map(Arc::new),
        process: Some(process),
        summary: format!("OOM: {what}; {killed}"),
        evidence,
        why: why(kill),
        fix: fix(kill, &parent),
        refers_to: None,
        unknown,
    };
    let mut findings = vec![finding];
    if kill.init_alive == Some(true) {
        let of = &findings[0];
        findings.push(Finding {
            code: Code("oom.child-killed"),
            severity: Severity::Warning,
            id: format!("{id}-child"),
            summary: format!("PID 1 is alive after the OOM kill of {comm}: the container looks healthy and is not"),
            why: "the kernel killed a child; PID 1 (pid 48100 on the host) was not chosen, so the runtime sees a running container and restarts nothing".to_owned(),
            fix: vec!["let PID 1 exit when a child it needs dies (wait for it, and exit with its status)".to_owned()],
            refers_to: Some(id),
            ..of.clone()
        });
    }
    findings
}

fn why(kill: &Kill) -> String {
    let filled =
        format!("anonymous memory alone fills the limit ({} %); there was no page cache left to drop", kill.parts[0]);
    match kill.code {
        "oom.host" => "free memory of the whole host was used up; the kernel chose the process with the highest badness (its memory, moved by oom_score_adj)".to_owned(),
        "oom.parent-limit" => format!(
            "anonymous memory is {} % of it; 10.2 MiB of page cache were in use or could not be dropped in time; the limit belongs to an ancestor, so siblings' memory counts as well",
            kill.parts[0]
        ),
        "oom.group-kill" => format!("{filled}; memory.oom.group is set, so every process of the group was killed with the victim"),
        _ => format!("{filled}; oom_score_adj 986 made it the preferred victim"),
    }
}

fn fix(kill: &Kill, parent: &str) -> Vec<String> {
    let (comm, _, held) = kill.victims[0];
    if kill.code == "oom.host" {
        return vec![
            "give every container a memory limit, so that the one that grows is the one that is killed".to_owned(),
            format!("{comm} held {held}.0 MiB: move it, shrink it, or add memory or swap to the host"),
        ];
    }
    let of = if kill.code == "oom.parent-limit" { format!(" of {parent}") } else { String::new() };
    vec![
        format!(
            "raise the limit{of} above {}.0 MiB ({}.0 MiB more), or make {comm} use less (it held {held}.0 MiB)",
            kill.limit_mib * 11 / 10,
            kill.limit_mib / 10,
        ),
        "no swap was used: a little (memory.swap.max, docker --memory-swap) turns short peaks into slowness".to_owned(),
    ]
}

/// What the kernel's log still knew when ctrace started.
fn before(now: i64) -> Finding {
    let told = kill(&Kill {
        code: "oom.container-limit",
        number: 0,
        now,
        ago: 57_600,
        container: Some(container(Some("redis"), Runtime::Docker, 0x3f2a)),
        victims: &[("redis-server", 2211, 250)],
        limit_mib: 256,
        parts: [97, 1, 0, 2],
        init_alive: None,
    })
    .remove(0);
    let mut finding = Finding {
        id: "oom-before-0".to_owned(),
        summary: "OOM before ctrace started: its own limit of 256.0 MiB was hit; redis-server (pid 2211) was killed"
            .to_owned(),
        why: "read from the kernel log".to_owned(),
        ..told
    };
    finding.fix =
        vec!["see `ctrace explain` for this code; the next kill is told in full while ctrace runs".to_owned()];
    finding.unknown.insert("init_alive", "it was not watched then".to_owned());
    finding.evidence.insert("before_attach".to_owned(), json!(true));
    finding.evidence.insert("source".to_owned(), json!("kernel-log"));
    finding.evidence.insert(
        "trigger".to_owned(),
        json!({"process": {"pid": null, "tid": 2214, "ns_pid": null, "ppid": null, "comm": "bio_lazy_free", "uid": null}, "container": null}),
    );
    finding
}

/// A v1 cgroup whose OOM killer is off.
fn hung(now: i64) -> Finding {
    let owner = container(Some("legacy-import"), Runtime::Docker, 0x7777);
    let mut evidence = Evidence::new();
    evidence.insert("limiting_cgroup".to_owned(), json!(owner.cgroup));
    evidence.insert("cgroup".to_owned(), json!(owner.cgroup));
    evidence.insert("oom_kill_disable".to_owned(), json!(true));
    evidence.insert("under_oom".to_owned(), json!(true));
    Finding {
        code: Code("oom.hung"),
        severity: Severity::Critical,
        id: "oom-hung-1".to_owned(),
        state: Some(State::Open),
        time: Timestamp(now - 1200 * 1_000_000_000),
        container: Some(Arc::new(owner)),
        process: None,
        summary: "hung at its memory limit: the OOM killer is off (oom_kill_disable), so nobody is killed and all wait".to_owned(),
        evidence,
        why: "memory.oom_control says oom_kill_disable 1 and under_oom 1: each task that asks for memory sleeps until some is freed".to_owned(),
        fix: vec!["or let the kernel choose: echo 0 > memory.oom_control (docker: without --oom-kill-disable)".to_owned()],
        refers_to: None,
        unknown: Unknown::new(),
    }
}

/// In the order of their telling.
pub fn afternoon(now: i64) -> Vec<Finding> {
    let mut all = vec![before(now), hung(now)];
    all.extend(kill(&Kill {
        code: "oom.host",
        number: 1,
        now,
        ago: 1112,
        container: Some(container(None, Runtime::Docker, 0x009d_41c0_77aa)),
        victims: &[("mysqld", 30_211, 9_320)],
        limit_mib: 15_936,
        parts: [0, 0, 0, 0],
        init_alive: Some(false),
    }));
    all.extend(kill(&Kill {
        code: "oom.parent-limit",
        number: 2,
        now,
        ago: 640,
        container: Some(in_pod("payments", "ledger-5c6f7", "sidecar", 0x51d0)),
        victims: &[("envoy", 41_007, 88)],
        limit_mib: 900,
        parts: [62, 30, 28, 6],
        init_alive: Some(false),
    }));
    all.extend(kill(&Kill {
        code: "oom.group-kill",
        number: 3,
        now,
        ago: 211,
        container: Some(container(Some("batch"), Runtime::Podman, 0xba7c)),
        victims: &[("worker", 51_002, 60), ("worker", 51_003, 41), ("sh", 50_990, 1)],
        limit_mib: 128,
        parts: [91, 2, 0, 7],
        init_alive: Some(false),
    }));
    all.extend(kill(&Kill {
        code: "oom.container-limit",
        number: 4,
        now,
        ago: 0,
        container: Some(in_pod("checkout", "api-7d9f", "api", 0x9f0c)),
        victims: &[("java", 48_121, 486)],
        limit_mib: 512,
        parts: [97, 1, 0, 2],
        init_alive: Some(true),
    }));
    all
}
