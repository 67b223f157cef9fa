//! Verdicts: from the kinds of checks that were seen to what is needed. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use caps::Capability;
use serde_json::json;
use tracer_common::caps::{CheckKey, Origin, OutcomeKey, Relation, how};

use super::{
    Evidence, Report, Seen, Sets, Warning, Watched, capability_name, errno_name, explain, relation,
    report::{VERDICTS, position},
    rules::{self, ALTERNATIVES, EQUAL_ROOT, SILENT},
    syscall_name,
};
use crate::{
    containers::inspect::capability_names,
    model::{Container, Finding, Severity, Timestamp, Unknown},
};

/// All that was seen of one container.
pub struct Observed<'a> {
    pub checks: Vec<(&'a CheckKey, &'a Seen)>,
    pub outcomes: Vec<(&'a OutcomeKey, &'a Seen)>,
    pub uncounted: u64,
    /// Of addresses in the kernel.
    pub names: &'a HashMap<u64, String>,
    /// Why there are none.
    pub nameless: Option<&'a str>,
    /// When its programs started.
    pub starts: &'a [u64],
    /// Why not all that came of calls is known.
    pub outcomes_unknown: Option<String>,
}

/// Rows of one report. Each kind of check may be one, and a hostile container can make thousands.
const ROWS: usize = 500;
const LOST: &str = "the record of the first check of its kind was lost: who asked is not known";

pub fn report(watched: &Watched, container: &Container, observed: &Observed, now_ns: u64, time: Timestamp) -> Report {
    let mut rows = united(observed.checks.iter().map(|(key, seen)| evidence(key, seen, observed)));
    let of = |verdict: &str| -> Vec<String> {
        let names = rows.iter().filter(|row| row.verdict == verdict).filter_map(|row| row.capability.clone());
        let names: BTreeSet<(u32, String)> = names.map(|name| position(&name)).collect();
        names.into_iter().map(|(_, name)| name).collect()
    };
    let needed = of("needed");
    let mut denied = of("denied");
    denied.retain(|name| !needed.contains(name)); // passed in one call, refused in another: it is there
    let mut probed = of("probed");
    probed.retain(|name| !needed.contains(name) && !denied.contains(name));
    let mut unknown = BTreeMap::new();
    let granted = watched.sets.as_ref().map(|sets| capability_names(sets.init.bounding)).unwrap_or_default();
    if watched.sets.is_none() {
        unknown.insert("granted".to_owned(), "it had no process when its sets were read".to_owned());
    }
    if let Some(why) = watched.sets.as_ref().and_then(|sets| sets.files_unknown.as_ref()) {
        unknown.insert("files".to_owned(), why.clone());
    }
    if let Some(why) = observed.nameless {
        unknown.insert("stack".to_owned(), why.to_owned());
    }
    if rows.iter().any(|row| row.comm.is_none()) {
        unknown.insert("comm".to_owned(), LOST.to_owned());
    }
    if let Some(why) = &observed.outcomes_unknown {
        unknown.insert("results".to_owned(), why.clone());
    }
    let unused = granted.iter().filter(|name| !needed.contains(name) && !probed.contains(name)).cloned().collect();
    let (runtime, exec, other_namespace) = (of("runtime"), of("exec"), of("other_namespace"));
    let startup_seen = !observed.starts.is_empty() && !watched.ran;
    let mut not_exercised = vec!["startup", "reload", "stop", "restart"];
    not_exercised.retain(|what| match *what {
        "startup" => !startup_seen,
        "stop" => watched.ended_ns.is_none(),
        "restart" => observed.starts.len() + usize::from(watched.ran) < 2,
        _ => true,
    });
    let without = observed.outcomes.iter().filter(|(key, _)| key.denied == 0 && key.origin != Origin::Runtime as u32);
    let mut not_a_capability = united(without.map(|(key, seen)| without_capability(key, seen, watched.sets.as_ref())));
    // Of what is too much, the least important goes: no list hangs on it any more.
    let left_off = rows.len().saturating_sub(ROWS) + not_a_capability.len().saturating_sub(ROWS);
    rows.sort_by_cached_key(order);
    rows.truncate(ROWS);
    not_a_capability.sort_by_cached_key(order);
    not_a_capability.truncate(ROWS);
    let end = watched.ended_ns.unwrap_or(now_ns);
    Report {
        time: serde_json::to_value(time).unwrap_or_default(),
        container: serde_json::to_value(container).unwrap_or_default(),
        equal_root: equal_root(&granted),
        granted,
        needed,
        probed,
        denied,
        unused,
        runtime,
        exec,
        other_namespace,
        startup_seen,
        watched_ns: end
            .saturating_sub(observed.starts.first().map_or(watched.since_ns, |start| watched.since_ns.min(*start))),
        evidence: rows,
        not_a_capability,
        sets: watched.sets.as_ref().map(Sets::json),
        not_exercised: not_exercised.into_iter().map(str::to_owned).collect(),
        ambient: watched.sets.as_ref().is_some_and(|sets| sets.uid.is_some_and(|uid| uid != 0)),
        ended: watched.ended_ns.is_some(),
        warnings: watched.sets.iter().flat_map(|sets| &sets.findings).map(warning).collect(),
        uncounted: observed.uncounted,
        left_off: left_off as u64,
        observations: 1,
        unknown,
    }
}

fn warning(finding: &Finding) -> Warning {
    Warning {
        code: finding.code.0.to_owned(),
        severity: format!("{:?}", finding.severity).to_lowercase(),
        summary: finding.summary.clone(),
    }
}

/// Rows that say the same are one.
fn united(rows: impl Iterator<Item = Evidence>) -> Vec<Evidence> {
    let mut united: Vec<Evidence> = Vec::new();
    let mut places = HashMap::new();
    for row in rows {
        let of = (
            row.capability.clone(),
            row.verdict.clone(),
            row.comm.clone(),
            row.syscall.clone(),
            row.reason.clone(),
            row.granted,
        );
        if let Some(&at) = places.get(&of) {
            let own: &mut Evidence = &mut united[at];
            own.count = own.count.saturating_add(row.count);
            for result in row.results {
                if !own.results.contains(&result) {
                    own.results.push(result);
                }
            }
        } else {
            places.insert(of, united.len());
            united.push(row);
        }
    }
    united
}

fn order(row: &Evidence) -> (usize, (u32, String), std::cmp::Reverse<u64>) {
    let verdict = VERDICTS.iter().position(|verdict| *verdict == row.verdict).unwrap_or(VERDICTS.len());
    (verdict, position(row.capability.as_deref().unwrap_or_default()), std::cmp::Reverse(row.count))
}

fn evidence(key: &CheckKey, seen: &Seen, observed: &Observed) -> Evidence {
    let stack = stack(seen, observed.names);
    let syscall = syscall_name(key.syscall);
    let (verdict, reason, source, results) = verdict(key, syscall.as_deref(), &stack, observed);
    Evidence {
        capability: Some(capability_name(u32::from(key.capability))),
        verdict: verdict.to_owned(),
        comm: seen.process.as_ref().map(|process| process.comm.clone()),
        pid: seen.process.as_ref().map(|process| process.pid),
        syscall,
        count: seen.count,
        reason,
        source,
        granted: Some(key.how & how::DENIED == 0),
        results,
        stack,
    }
}

type Verdict = (&'static str, String, Option<String>, Vec<String>);

fn verdict(key: &CheckKey, syscall: Option<&str>, stack: &[String], observed: &Observed) -> Verdict {
    let denied = key.how & how::DENIED != 0;
    let said = |verdict, reason: &str| (verdict, reason.to_owned(), None, Vec::new());
    if key.origin == Origin::Runtime as u8 {
        return said("runtime", "asked by the runtime before the container's own program ran");
    }
    match relation(key) {
        Relation::Own => {}
        Relation::Outer => {
            return said(
                "other_namespace",
                "asked of a user namespace around the container's: nothing that it is given counts there",
            );
        }
        Relation::Inner => {
            return said(
                "other_namespace",
                "asked of a user namespace that the container made itself: its maker has all of it",
            );
        }
    }
    // access(2) asks on behalf of the real user, for these two alone; what else is asked in it is overlayfs' own.
    let access = matches!(syscall, Some("access" | "faccessat" | "faccessat2"))
        && [Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH]
            .iter()
            .any(|one| one.index() == key.capability);
    let quiet = (key.how & how::OPTIONS_UNKNOWN == 0).then_some(key.how & how::QUIET != 0);
    let capability = caps::all().into_iter().find(|known| known.index() == key.capability);
    let probe = capability.and_then(|known| rules::probe(known, syscall.unwrap_or("exceptions"), quiet, stack));
    let (verdict, reason, source, results) = if key.how & how::BORROWED != 0 && !access {
        said("probed", "asked of another's credentials (a file's opener, overlayfs' mounter), not of the program's")
    } else if let Some(row) = probe {
        ("probed", row.reason.to_owned(), Some(row.source.to_owned()), Vec::new())
    } else if denied {
        refused(key, capability, syscall, observed)
    } else {
        let remark = capability.and_then(|known| rules::remark(known, syscall.unwrap_or_default()));
        said("needed", remark.unwrap_or("granted, and the call was made"))
    };
    if key.origin == Origin::Exec as u8 {
        let reason = match verdict {
            "needed" => format!("used by what came with exec, not by the container's own program: {reason}"),
            _ => format!("{verdict} of what came with exec: {reason}"),
        };
        return ("exec", reason, source, results);
    }
    (verdict, reason, source, results)
}

/// A refusal, by what became of the calls in which it was.
fn refused(key: &CheckKey, capability: Option<Capability>, syscall: Option<&str>, observed: &Observed) -> Verdict {
    let bit = 1_u64 << (key.capability & 63);
    let calls: Vec<&OutcomeKey> = observed
        .outcomes
        .iter()
        .map(|(outcome, _)| *outcome)
        .filter(|outcome| {
            outcome.denied & bit != 0
                && (outcome.cgroup, outcome.image, outcome.syscall) == (key.cgroup, key.image, key.syscall)
                && outcome.origin == u32::from(key.origin)
        })
        .collect();
    let names: BTreeSet<String> =
        calls.iter().map(|call| if call.result == 0 { "0".to_owned() } else { errno_name(call.result) }).collect();
    let results: Vec<String> = names.into_iter().collect();
    if calls.is_empty() {
        return ("denied", "refused; what became of the call is not known".to_owned(), None, results);
    }
    let pairs = || ALTERNATIVES.iter().filter(|(first, ..)| Some(*first) == capability);
    if let Some((_, other, source)) =
        pairs().find(|(_, other, _)| calls.iter().all(|call| call.granted & other.bitmask() != 0))
    {
        return (
            "probed",
            format!("asked first; {other} was granted in the same call, and one is enough"),
            Some((*source).to_owned()),
            results,
        );
    }
    let silent = SILENT
        .iter()
        .find(|(own, calls, _)| Some(*own) == capability && syscall.is_some_and(|call| calls.contains(&call)));
    if let Some((.., reason)) = silent {
        return ("denied", (*reason).to_owned(), None, results);
    }
    if calls.iter().all(|call| call.result == 0) {
        return ("probed", "refused, and the call went on without it".to_owned(), None, results);
    }
    let instead = pairs().find(|(_, other, _)| calls.iter().any(|call| call.denied & other.bitmask() != 0));
    let reason = match instead {
        Some((_, other, _)) => format!("refused, and the call failed; {other} would do as well"),
        None => "refused, and the call failed".to_owned(),
    };
    ("denied", reason, None, results)
}

fn without_capability(key: &OutcomeKey, seen: &Seen, sets: Option<&Sets>) -> Evidence {
    let syscall = syscall_name(key.syscall);
    Evidence {
        capability: None,
        verdict: "not_a_capability".to_owned(),
        comm: seen.process.as_ref().map(|process| process.comm.clone()),
        pid: seen.process.as_ref().map(|process| process.pid),
        reason: no_capability(syscall.as_deref(), sets.and_then(|sets| sets.seccomp)),
        syscall,
        count: seen.count,
        results: vec![errno_name(key.result)],
        ..Evidence::default()
    }
}

/// Why EPERM, where no capability was refused. `seccomp`: of PID 1, where its sets were read.
pub fn no_capability(syscall: Option<&str>, seccomp: Option<&str>) -> String {
    let harmless = syscall.and_then(|call| rules::HARMLESS.iter().find(|(calls, _)| calls.contains(&call)));
    if let Some((_, reason)) = harmless {
        return (*reason).to_owned();
    }
    let known = syscall.and_then(|call| rules::NO_CAPABILITY.iter().find(|(calls, _)| calls.contains(&call)));
    let own = known.map(|(_, reason)| format!("; or {reason}")).unwrap_or_default();
    let filter = match seccomp {
        Some("disabled") => "no seccomp filter is on: an LSM (AppArmor, SELinux), or a rule of the call itself",
        Some("filter") => "its seccomp filter (which refuses before any capability is asked for), or an LSM",
        _ => "a seccomp filter, an LSM, or a rule of the call itself",
    };
    format!("{filter}{own}")
}

/// Innermost first; the check's own machinery and the way into the kernel are left out.
fn stack(seen: &Seen, names: &HashMap<u64, String>) -> Vec<String> {
    const OWN: &[&str] = &[
        "cap_capable",
        "security_capable",
        "ns_capable",
        "ns_capable_common",
        "capable",
        "has_capability_noaudit",
        "ns_capable_noaudit",
        "ns_capable_setid",
        "bpf_get_stack",
        "bpf_get_stack_raw_tp",
        "trace_call_bpf",
        "__traceiter_cap_capable",
        "capable_wrt_inode_uidgid",
        "__bpf_trace_cap_capable",
    ];
    let frames = seen.stack.iter().filter_map(|address| names.get(address)).map(String::as_str);
    let machinery = |name: &&str| OWN.contains(name) || name.contains("[bpf]") || name.starts_with("bpf_");
    let frames = frames.skip_while(machinery).filter(|name| !machinery(name));
    frames
        .take_while(|name| !matches!(*name, "do_syscall_64" | "entry_SYSCALL_64_after_hwframe"))
        .map(str::to_owned)
        .collect()
}

fn equal_root(granted: &[String]) -> BTreeMap<String, String> {
    let row = |name: &String| {
        let (_, why) = EQUAL_ROOT.iter().find(|(own, _)| own.to_string() == *name)?;
        Some((name.clone(), (*why).to_owned()))
    };
    granted.iter().filter_map(row).collect()
}

/// Granted, and never asked for.
pub fn unused(report: &Report, watched: &Watched, time: Timestamp) -> Option<Finding> {
    if report.unused.is_empty() || report.evidence.is_empty() {
        return None;
    }
    let seconds = report.watched_ns / 1_000_000_000;
    let start = if report.startup_seen { "its start was seen" } else { "its start was not seen" };
    Some(Finding {
        code: explain::UNUSED.code,
        severity: Severity::Info,
        id: format!("caps.unused:{}", watched.container.cgroup),
        state: None,
        time,
        container: Some(watched.container.clone()),
        process: None,
        summary: format!(
            "{} of {} granted capabilities were not asked for in {seconds} s ({start})",
            report.unused.len(),
            report.granted.len()
        ),
        evidence: [
            ("unused", json!(report.unused)),
            ("granted", json!(report.granted)),
            ("needed", json!(report.needed)),
            ("watched_ns", json!(report.watched_ns)),
            ("startup_seen", json!(report.startup_seen)),
            ("cgroup", json!(watched.container.cgroup)),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect(),
        why: "each one that is not used is a power that an intruder has for nothing".to_owned(),
        fix: vec![
            "drop ALL and add what is needed: ctrace caps --container X --format docker|compose|k8s prints it"
                .to_owned(),
        ],
        refers_to: None,
        unknown: Unknown::new(),
    })
}

impl Sets {
    /// As in the report.
    pub fn json(&self) -> serde_json::Value {
        json!({
            "init": self.init.json(),
            "spec": self.spec.map(|spec| spec.json()),
            "no_new_privs": self.no_new_privs,
            "seccomp": self.seccomp,
            "uid": self.uid,
            "files": self.files.iter().map(|file| {
                json!({
                    "pid": file.pid, "comm": file.comm, "permitted": capability_names(file.sets.permitted),
                    "inheritable": capability_names(file.sets.inheritable), "effective": file.sets.effective,
                })
            }).collect::<Vec<_>>(),
            "processes": self.processes.iter().map(|process| {
                json!({"pid": process.pid, "comm": process.comm, "sets": process.sets.json()})
            }).collect::<Vec<_>>(),
        })
    }
}
