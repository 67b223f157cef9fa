//! `ctrace doctor`: what this kernel and host give, probe by probe, in words that a person can act on.

use std::{collections::BTreeSet, io::Write, process::ExitCode};

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::{
    kernel::{
        host::{self, Hierarchy},
        load::{Kernel, Wishes},
        plan::{Probe, Taken},
    },
    lenses::{ATTRIBUTION, REGISTERED, Registered},
};

/// Attaches everything once, says what became of it, and lets go. Exit code 1 if a lens cannot work at all.
pub fn run(json: bool) -> Result<ExitCode> {
    let mut probes: Vec<&'static Probe> =
        REGISTERED.iter().flat_map(|lens| lens.probes).chain(ATTRIBUTION).copied().collect();
    let mut seen = BTreeSet::new();
    probes.retain(|probe| seen.insert(probe.name)); // lenses share probes
    let facts = facts();
    let attached = Kernel::attach(&Wishes { probes, ring_bytes: 1 << 16, ..Wishes::default() });
    let (taken, problem) = match attached {
        Ok(kernel) => (kernel.taken.clone(), None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    let broken = broken(&taken, problem.is_some());
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", as_json(&facts, &taken, problem.as_deref(), &broken))?;
    } else {
        write!(out, "{}", as_text(&facts, &taken, problem.as_deref(), &broken))?;
    }
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// (name, value, what it costs or what to do) of the host.
fn facts() -> Vec<(&'static str, Value, &'static str)> {
    let hierarchy = Hierarchy::of_this_host();
    let missing = host::missing_privileges();
    let lockdown = host::lockdown();
    vec![
        ("kernel", json!(host::release()), ""),
        (
            "btf",
            json!(host::has_btf()),
            if host::has_btf() {
                ""
            } else {
                "no layout: ctrace cannot work; the kernel needs CONFIG_DEBUG_INFO_BTF=y"
            },
        ),
        (
            "kprobes",
            json!(host::has_kprobes()),
            if host::has_kprobes() {
                ""
            } else {
                "built without CONFIG_KPROBE_EVENTS: tracepoints carry what they can"
            },
        ),
        ("cgroup_version", json!(hierarchy.version), ""),
        ("cgroup_key", json!(hierarchy.controller.as_deref().unwrap_or("the default hierarchy")), ""),
        (
            "lockdown",
            json!(lockdown),
            match lockdown.as_deref() {
                Some("confidentiality") => "BPF may not read kernel memory: boot with lockdown=integrity or none",
                None => "not told: no such thing in this kernel, or securityfs is not mounted",
                Some(_) => "",
            },
        ),
        ("missing_privileges", json!(missing), if missing.is_empty() { "" } else { "run it with sudo" }),
    ]
}

/// Lenses that cannot work at all.
fn broken(taken: &[Taken], all: bool) -> Vec<&'static str> {
    let works = |lens: &Registered| {
        !all && lens.probes.iter().all(|probe| {
            probe.without.is_some() || taken.iter().any(|taken| taken.probe.name == probe.name && taken.attached())
        })
    };
    REGISTERED.iter().filter(|lens| !works(lens)).map(|lens| lens.name).collect()
}

fn as_json(facts: &[(&str, Value, &str)], taken: &[Taken], problem: Option<&str>, broken: &[&str]) -> Value {
    let mut host = Map::new();
    for (name, value, _) in facts {
        host.insert((*name).to_owned(), value.clone());
    }
    let probes: Vec<Value> = taken
        .iter()
        .map(|taken| {
            let refused: Vec<Value> = taken.refused.iter().map(|(way, why)| json!({"way": way, "why": why})).collect();
            json!({
                "name": taken.probe.name,
                "question": taken.probe.question,
                "hook": taken.branch.map(|branch| branch.hook.to_string()),
                "costs": if taken.attached() { taken.branch.map(|branch| branch.costs).filter(|costs| !costs.is_empty()) } else { taken.probe.without.or(Some("the lens cannot work")) },
                "refused": refused,
            })
        })
        .collect();
    let lenses: Vec<Value> =
        REGISTERED.iter().map(|lens| json!({"name": lens.name, "works": !broken.contains(&lens.name)})).collect();
    json!({"v": 1, "type": "doctor", "host": host, "problem": problem, "probes": probes, "lenses": lenses})
}

fn as_text(facts: &[(&str, Value, &str)], taken: &[Taken], problem: Option<&str>, broken: &[&str]) -> String {
    let mut text = String::new();
    for lens in REGISTERED {
        let verdict = if broken.contains(&lens.name) { "cannot work here" } else { "works" };
        text.push_str(&format!("ctrace {}: {verdict}\n", lens.name));
    }
    if let Some(problem) = problem {
        text.push_str(&format!("\nproblem  {problem}\n"));
    }
    text.push('\n');
    for (name, value, advice) in facts {
        let value = match value {
            Value::Bool(true) => "yes".to_owned(),
            Value::Bool(false) => "no".to_owned(),
            Value::Null => "unknown".to_owned(),
            Value::String(text) => text.clone(),
            Value::Array(list) if list.is_empty() => "none".to_owned(),
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        };
        let advice = if advice.is_empty() { String::new() } else { format!("   {advice}") };
        text.push_str(&format!("{:20}{value}{advice}\n", name.replace('_', " ")));
    }
    text.push('\n');
    let hook = |taken: &Taken| taken.branch.map_or_else(|| "NOT ATTACHED".to_owned(), |branch| branch.hook.to_string());
    let names = taken.iter().map(|taken| taken.probe.name.len()).max().unwrap_or(0);
    let hooks = taken.iter().map(|taken| hook(taken).len()).max().unwrap_or(0);
    for taken in taken {
        text.push_str(&format!("{:names$}  {:hooks$}  {}\n", taken.probe.name, hook(taken), taken.probe.question));
        for (way, why) in &taken.refused {
            text.push_str(&format!("{:14}  {way}: {why}\n", ""));
        }
        if !taken.attached() {
            text.push_str(&format!("{:14}  so {}\n", "", taken.probe.without.unwrap_or("the lens cannot work")));
        } else if let Some(costs) = taken.branch.map(|branch| branch.costs).filter(|costs| !costs.is_empty()) {
            text.push_str(&format!("{:14}  so {costs}\n", ""));
        }
    }
    text
}
