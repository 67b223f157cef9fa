//! What happened before ctrace was attached.

use serde_json::{Value, json};

use super::World;
use crate::{
    containers::is_within,
    history::{
        PastKill, Source,
        report::{Constraint, Victim},
    },
    model::{Code, Evidence, Finding, Owner, Process, Severity, Timestamp, size},
};

/// The finding for a kill that the kernel (or only the engine) still knows of. Marked with `before_attach`.
pub fn past(kill: &PastKill, number: usize, world: &World) -> Option<Finding> {
    let container: Owner = kill.cgroup.as_deref().and_then(|cgroup| world.containers.owner_of_path(cgroup));
    let own = match (&container, &kill.limiting_cgroup) {
        (Some(container), Some(limiting)) => is_within(limiting, &container.cgroup),
        (None, Some(limiting)) => Some(limiting) == kill.cgroup.as_ref(),
        (_, None) => true,
    };
    let code = match kill.constraint {
        _ if kill.group => "oom.group-kill",
        Some(Constraint::Cpuset | Constraint::MemoryPolicy) => "oom.cpuset",
        Some(Constraint::None) => "oom.host",
        Some(Constraint::Memcg) | None if own => "oom.container-limit",
        Some(Constraint::Memcg) | None => "oom.parent-limit",
    };
    let mut unknown = kill.unknown.clone();
    let first = kill.victims.first();
    let who = match (first, kill.kills) {
        (Some(victim), 0 | 1) => format!("{} (pid {}) was killed", victim.comm, victim.pid),
        (Some(victim), count) => format!("{} (pid {}) and {} more were killed", victim.comm, victim.pid, count - 1),
        (None, 1) => "one process was killed".to_owned(),
        (None, count) => format!("{count} processes were killed"),
    };
    let limit = kill.limit_bytes.map_or_else(String::new, |limit| format!(" of {}", size(limit)));
    let what = match code {
        "oom.host" => "the host ran out of memory".to_owned(),
        "oom.cpuset" => "the NUMA nodes it may use ran out of memory".to_owned(),
        "oom.parent-limit" => {
            format!("the limit{limit} of its parent {} was hit", kill.limiting_cgroup.as_deref().unwrap_or("cgroup"))
        }
        _ if kill.source == Source::Counter => "counted by its cgroup, no log shows more".to_owned(),
        _ if kill.limiting_cgroup.is_none() => {
            format!("the limit{limit} of a cgroup was hit, the log does not say which")
        }
        _ => format!("its own limit{limit} was hit"),
    };
    let mut summary = format!("OOM before ctrace started: {what}; {who}");
    let mut fix =
        vec!["see `ctrace explain` for this code; the next kill is told in full while ctrace runs".to_owned()];
    if let Some(engine) = &kill.engine
        && engine.oom_killed == Some(false)
        && kill.source != Source::Engine
    {
        summary.push_str(&format!("; {} says OOMKilled=false, which is wrong", engine.runtime));
        fix.push(format!(
            "do not trust the engine's flag here: {} is not where the kill is decided",
            engine.file.display()
        ));
    }
    unknown.insert("init_alive", "it was not watched then".to_owned());
    if first.is_some() {
        for key in ["ns_pid", "ppid"] {
            unknown.insert(key, "the kernel log does not say it".to_owned());
        }
    }
    let time = kill.time.unwrap_or_else(|| {
        unknown.entry("time").or_insert_with(|| "only a count is left: the time is that of reading it".to_owned());
        now(world)
    });
    Some(Finding {
        code: Code(code),
        severity: Severity::Critical,
        id: format!("oom-before-{number}"),
        state: None,
        time,
        container,
        process: first.map(process),
        summary,
        evidence: evidence(kill),
        why: match kill.source {
            Source::KernelLog => "read from the kernel log".to_owned(),
            Source::Counter => "read from the cgroup's own counters".to_owned(),
            Source::Engine => "only the engine says so: neither the kernel log nor a counter shows it".to_owned(),
        },
        fix,
        refers_to: None,
        unknown,
    })
}

fn now(world: &World) -> Timestamp {
    world.at(world.now_ns)
}

fn process(victim: &Victim) -> Process {
    Process {
        pid: victim.tgid.unwrap_or(victim.pid),
        tid: victim.pid,
        ns_pid: None,
        ppid: None,
        comm: victim.comm.clone(),
        uid: victim.uid,
    }
}

/// What the kernel log leaves out of who asked for memory.
fn trigger_unknown() -> Value {
    const WHY: &str = "the kernel log names only the thread";
    json!({"pid": WHY, "ns_pid": WHY, "ppid": WHY, "uid": WHY, "container": WHY})
}

fn evidence(kill: &PastKill) -> Evidence {
    let victims: Vec<Value> = kill
        .victims
        .iter()
        .map(|victim| {
            json!({
                "process": process(victim),
                "anon_bytes": victim.anon_bytes,
                "file_bytes": victim.file_bytes,
                "shmem_bytes": victim.shmem_bytes,
                "oom_score_adj": victim.oom_score_adj,
            })
        })
        .collect();
    let trigger = kill.trigger.as_ref().map(|trigger| {
        json!({"process": {"pid": null, "tid": trigger.pid, "ns_pid": null, "ppid": null, "comm": trigger.comm, "uid": null}, "container": null, "unknown": trigger_unknown()})
    });
    let mut evidence = Evidence::new();
    for (key, value) in [
        ("limit_bytes", json!(kill.limit_bytes)),
        ("usage_bytes", json!(kill.usage_bytes)),
        ("anon_bytes", json!(kill.anon_bytes)),
        ("file_bytes", json!(kill.file_bytes)),
        ("shmem_bytes", json!(kill.shmem_bytes)),
        ("kernel_bytes", json!(kill.kernel_bytes)),
        ("swap_bytes", json!(kill.swap_bytes)),
        ("limiting_cgroup", json!(kill.limiting_cgroup)),
        ("cgroup", json!(kill.cgroup)),
        ("victims", Value::Array(victims)),
        ("trigger", json!(trigger)),
        ("init_alive", Value::Null),
        ("kills", json!(kill.kills)),
        ("before_attach", json!(true)),
        ("source", json!(kill.source)),
        ("engine", json!(kill.engine)),
    ] {
        evidence.insert(key.to_owned(), value);
    }
    evidence
}
