//! What every finding must hold, and how far its numbers may be from the kernel's.

use std::sync::OnceLock;

use serde_json::Value;
use tracer::history::report::{Header, OomReport};

/// Keys of an oom finding's evidence, as the design fixes them.
pub const OOM_KEYS: [&str; 10] = [
    "limit_bytes",
    "usage_bytes",
    "anon_bytes",
    "file_bytes",
    "shmem_bytes",
    "kernel_bytes",
    "swap_bytes",
    "limiting_cgroup",
    "victims",
    "trigger",
];
const PAGE: u64 = 4096;

fn schema() -> &'static jsonschema::Validator {
    static SCHEMA: OnceLock<jsonschema::Validator> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let schema =
            serde_json::from_str(include_str!("../../../../docs/json.schema.json")).expect("the schema is JSON");
        jsonschema::validator_for(&schema).expect("the schema is a schema")
    })
}

/// The contract of `ctrace caps verify --format json`.
pub fn check_proof(proof: &Value) {
    let whole: Value =
        serde_json::from_str(include_str!("../../../../docs/json.schema.json")).expect("the schema is JSON");
    let own = serde_json::json!({"$ref": "#/$defs/verify", "$defs": whole["$defs"]});
    let schema = jsonschema::validator_for(&own).expect("the schema is a schema");
    if let Err(error) = schema.validate(proof) {
        panic!("docs/json.schema.json: {error}: {proof}");
    }
}

/// The contract of one line: it is as the schema says, its keys are there, and each null has its reason beside it.
pub fn check(line: &Value) {
    if let Err(error) = schema().validate(line) {
        panic!("docs/json.schema.json: {error}: {line}");
    }
    assert_eq!(line["v"], 1, "{line}");
    assert!(line["time"].as_str().is_some_and(is_rfc3339), "no time: {line}");
    if line["type"] != "finding" {
        return;
    }
    for key in ["code", "severity", "id", "container", "process", "summary", "evidence", "why", "fix", "refers_to"] {
        assert!(line.get(key).is_some(), "a finding without {key}: {line}");
    }
    assert!(line["fix"].as_array().is_some_and(|fix| !fix.is_empty()), "a finding without a fix: {line}");
    if line["code"]
        .as_str()
        .is_some_and(|code| code.starts_with("oom.") && !matches!(code, "oom.child-killed" | "oom.hung"))
    {
        for key in OOM_KEYS.into_iter().chain(["init_alive", "cgroup"]) {
            assert!(line["evidence"].get(key).is_some(), "no {key} in the evidence: {line}");
        }
        for victim in line["evidence"]["victims"].as_array().into_iter().flatten() {
            for key in ["pid", "tid", "ns_pid", "ppid", "comm", "uid"] {
                assert!(victim["process"].get(key).is_some(), "no {key} of a victim: {line}");
            }
            for key in ["anon_bytes", "file_bytes", "shmem_bytes", "oom_score_adj"] {
                assert!(victim.get(key).is_some(), "no {key} of a victim: {line}");
            }
        }
    }
    reasons(&line["evidence"], &mut vec![line], line);
}

/// Each null below `value` must be explained by an `unknown` of one of the objects around it.
fn reasons<'a>(value: &'a Value, around: &mut Vec<&'a Value>, line: &Value) {
    match value {
        Value::Object(map) => {
            around.push(value);
            for (key, inner) in map {
                // No container is the host; no engine was asked; a process ends by a status or a signal; nobody sent it.
                if inner.is_null() && !matches!(key.as_str(), "container" | "engine" | "exit_code" | "signal" | "by") {
                    let explained =
                        around.iter().any(|object| object["unknown"][key].as_str().is_some_and(|why| !why.is_empty()));
                    assert!(explained, "{key} is null without a reason: {line}");
                }
                if key != "container" && key != "engine" {
                    reasons(inner, around, line);
                }
            }
            around.pop();
        }
        Value::Array(items) => items.iter().for_each(|item| reasons(item, around, line)),
        _ => {}
    }
}

fn is_rfc3339(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    digits == 23 && text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T') // nanoseconds
}

/// The names of all nulls of the evidence itself and of its victims.
pub fn nulls(finding: &Value) -> Vec<String> {
    let mut names = Vec::new();
    let mut of = |value: &Value, prefix: &str| {
        for (key, _) in value.as_object().into_iter().flatten().filter(|(_, inner)| inner.is_null()) {
            names.push(format!("{prefix}{key}"));
        }
    };
    let evidence = &finding["evidence"];
    of(evidence, "");
    of(&evidence["trigger"]["process"], "trigger.process.");
    for victim in evidence["victims"].as_array().into_iter().flatten() {
        of(victim, "victims.");
        of(&victim["process"], "victims.process.");
    }
    names
}

pub fn victim_pids(finding: &Value) -> Vec<u64> {
    let victims = finding["evidence"]["victims"].as_array().into_iter().flatten();
    victims.filter_map(|victim| victim["process"]["pid"].as_u64()).collect()
}

/// Compares a finding with the kernel's own report of the same decision. False: the kernel suppressed that report (ten in
/// five seconds), so there is nothing to compare.
pub fn agrees(finding: &Value, report: &OomReport) -> bool {
    if report.header != Header::Whole {
        return false;
    }
    let number = |key: &str| finding["evidence"][key].as_u64();
    let memory = report.memory.as_ref().expect("a report of a cgroup's limit has its numbers");
    assert_eq!(number("limit_bytes"), memory.limit_bytes, "limit");
    assert_eq!(finding["evidence"]["limiting_cgroup"].as_str(), report.oom_memcg.as_deref(), "whose limit");
    assert_eq!(finding["evidence"]["cgroup"].as_str(), report.task_memcg.as_deref(), "the victim's cgroup");
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
    // Each CPU holds back up to a batch: 64 pages of a cgroup's statistics and of its counter…
    let statistics = 64 * cpus * PAGE;
    close("usage", number("usage_bytes"), Some(memory.usage_bytes), statistics);
    close("anon", number("anon_bytes"), report.anon_bytes(), statistics);
    close("file", number("file_bytes"), report.file_bytes(), statistics);
    close("shmem", number("shmem_bytes"), report.shmem_bytes(), statistics);
    if let Some(kernel) = report.kernel_bytes() {
        close("kernel", number("kernel_bytes"), Some(kernel), statistics);
    } else {
        assert!(number("kernel_bytes").is_some(), "kernel memory is the sum of its kinds where no one number has it");
    }
    close("swap", number("swap_bytes"), report.swap_bytes(), statistics);
    // … and max(32, 2 × CPUs) pages of a process's memory.
    let rss = 32_u64.max(2 * cpus) * cpus * PAGE;
    for victim in finding["evidence"]["victims"].as_array().into_iter().flatten() {
        let Some(logged) =
            report.victims.iter().find(|logged| Some(u64::from(logged.pid)) == victim["process"]["tid"].as_u64())
        else {
            continue; // a sharer: the kernel does not log it
        };
        assert_eq!(victim["process"]["comm"].as_str(), Some(logged.comm.as_str()), "the victim's name");
        assert_eq!(victim["process"]["uid"].as_u64(), logged.uid.map(u64::from), "the victim's user");
        assert_eq!(victim["oom_score_adj"].as_i64(), logged.oom_score_adj.map(i64::from), "oom_score_adj");
        close("the victim's anon", victim["anon_bytes"].as_u64(), logged.anon_bytes, rss);
        close("the victim's file", victim["file_bytes"].as_u64(), logged.file_bytes, rss);
        close("the victim's shmem", victim["shmem_bytes"].as_u64(), logged.shmem_bytes, rss);
    }
    if let Some(trigger) = report.trigger_pid {
        assert_eq!(finding["evidence"]["trigger"]["process"]["tid"].as_u64(), Some(u64::from(trigger)), "who asked");
    }
    true
}

fn close(what: &str, said: Option<u64>, logged: Option<u64>, tolerance: u64) {
    let (Some(said), Some(logged)) = (said, logged) else {
        panic!("{what}: ctrace says {said:?}, the kernel's report {logged:?}");
    };
    let off = said.abs_diff(logged);
    assert!(
        off <= tolerance,
        "{what}: ctrace says {said}, the kernel's report {logged}: {off} apart, allowed are {tolerance}"
    );
}
