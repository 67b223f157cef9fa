//! One container in full, for a person.

use std::fmt::Write;

use super::{age, network, number, userns};
use crate::{
    containers::inspect::{Inspected, capability_names},
    model::{Timestamp, size},
    views::escape::escape,
};

/// One container in full.
pub fn block(inspected: &Inspected, now: Timestamp) -> String {
    let Inspected { container, facts, limits, unknown, .. } = inspected;
    let mut out = String::new();
    let because = |field: &str, none: &str| {
        unknown.get(field).map_or_else(|| none.to_owned(), |reason| format!("unknown: {reason}"))
    };
    let runtime = container.runtime.map_or_else(|| "unknown runtime".to_owned(), |runtime| runtime.to_string());
    let _ = writeln!(out, "{}  ({runtime}, {})", escape(&container.label()), escape(&container.id));
    let mut line = |label: &str, text: &str| {
        let _ = writeln!(out, "  {label:14}{}", escape(text));
    };
    let own = container.name.clone().unwrap_or_else(|| because("name", "none"));
    let source = facts.name_source.as_ref().map_or_else(String::new, |source| format!("   (from {source})"));
    line("name", &(own + &source));
    if container.runtime.is_none() {
        line("runtime", &because("runtime", "none"));
    }
    if container.pod.is_some() || unknown.contains_key("pod") {
        let namespace = container.namespace.as_ref().map_or_else(String::new, |name| format!("{name}/"));
        let sandbox = if facts.sandbox { "   (its pause container)" } else { "" };
        let pod = container.pod.as_ref().map(|pod| format!("{namespace}{pod}{sandbox}"));
        line("pod", &pod.unwrap_or_else(|| because("pod", "none")));
    }
    line("cgroup", &container.cgroup);
    for outer in &container.ancestors {
        line("inside", &format!("{} {}", outer.name.as_deref().unwrap_or("-"), outer.id));
    }
    line("image", &facts.image.clone().unwrap_or_else(|| because("image", "none")));
    let started = inspected.started.map(|at| format!("{}   ({} ago)", at.rfc3339(), age(now.0.saturating_sub(at.0))));
    line("started", &started.unwrap_or_else(|| because("started", "unknown")));
    line("stop signal", &facts.stop_signal.clone().unwrap_or_else(|| because("stop_signal", "unknown")));
    let init = inspected.init_pid.map_or_else(|| because("init_pid", "none"), |pid| pid.to_string());
    line("PID 1", &init);
    line("processes", &format!("{}   of them uid 0 of the host: {}", inspected.processes, inspected.root_processes));
    let of = |used: Option<String>, used_field: &str, limit: Option<String>, limit_field: &str| {
        let used = used.unwrap_or_else(|| because(used_field, "unknown"));
        format!("{used} of {}", limit.unwrap_or_else(|| because(limit_field, "no limit")))
    };
    let mut memory = of(
        limits.memory_used_bytes.map(size),
        "limits.memory_used_bytes",
        limits.memory_bytes.map(size),
        "limits.memory_bytes",
    );
    if let (Some(lowest), Some(whose)) = (limits.memory_effective_bytes, &limits.memory_effective_cgroup)
        && limits.memory_bytes != Some(lowest)
    {
        let _ = write!(memory, "; {} of {whose} binds first", size(lowest));
    }
    line("memory", &memory);
    let text = |count: Option<u64>| count.map(|count| count.to_string());
    line("pids", &of(text(limits.pids_used), "limits.pids_used", text(limits.pids_max), "limits.pids_max"));
    let quota = limits.cpu_quota_cpus.map(|cpus| format!("{cpus:.2} CPUs"));
    let mut cpu = quota.unwrap_or_else(|| because("limits.cpu_quota_cpus", "no limit"));
    for (name, value) in [("weight", limits.cpu_weight), ("shares", limits.cpu_shares)] {
        if let Some(value) = value {
            let _ = write!(cpu, "   {name} {value}");
        }
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        let _ = write!(cpu, "   CPUs {cpus}");
    }
    line("cpu", &cpu);
    standing(inspected, &because, &mut line);
    for (key, value) in &facts.labels {
        line("label", &format!("{key}={value}"));
    }
    for note in &inspected.notes {
        line("note", note);
    }
    out
}

/// User, capabilities, network: what the container is allowed.
fn standing(inspected: &Inspected, because: &dyn Fn(&str, &str) -> String, line: &mut dyn FnMut(&str, &str)) {
    let user = &inspected.user;
    match user.outside {
        Some(outside) => {
            line("user", &format!("{} inside, {outside} on the host", number(user.inside)));
        }
        None => line("user", &because("user", "unknown")),
    }
    let map: Vec<String> = inspected
        .userns
        .uid_map
        .iter()
        .flatten()
        .map(|range| format!("{}→{} ({})", range.inside, range.outside, range.count))
        .collect();
    line(
        "user ns",
        &match userns(inspected) {
            "host" => "none of its own: its root is the host's root".to_owned(),
            "own" => format!("its own: {}", map.join(", ")),
            "rootless" => format!("its own, of an engine without root: {}", map.join(", ")),
            _ => because("userns", "unknown"),
        },
    );
    match &inspected.capabilities {
        None => line("capabilities", &because("capabilities", "unknown")),
        Some(sets) => {
            for (name, set) in sets.named() {
                let all = inspected.all_capabilities;
                let every = all != 0 && set & all == all;
                let names = if every { "all".to_owned() } else { short_names(set) };
                line(if name == "effective" { "capabilities" } else { "" }, &format!("{name:12}{names}"));
            }
            match &inspected.spec_capabilities {
                Some(spec) => {
                    for (name, difference) in sets.against(spec) {
                        for (what, set) in [
                            ("its bundle does not ask for", difference.beyond_spec),
                            ("its bundle asks for, and it has not", difference.below_spec),
                        ] {
                            if set != 0 {
                                line("", &format!("{name}: {what}: {}", short_names(set)));
                            }
                        }
                    }
                }
                None => line("", &format!("bundle      {}", because("capabilities_spec", "none"))),
            }
        }
    }
    let yes_no = |value: Option<bool>, field: &str| match value {
        Some(true) => "yes".to_owned(),
        Some(false) => "no".to_owned(),
        None => because(field, "unknown"),
    };
    line("no_new_privs", &yes_no(inspected.no_new_privs, "no_new_privs"));
    line("seccomp", &inspected.seccomp.map_or_else(|| because("seccomp", "unknown"), str::to_owned));
    line("privileged", &yes_no(inspected.privileged, "privileged"));
    line("rootfs r/o", &yes_no(inspected.rootfs_readonly, "rootfs_readonly"));
    network::network(inspected, because, line);
}

fn short_names(set: u64) -> String {
    if set == 0 {
        return "none".to_owned();
    }
    capability_names(set).iter().map(|name| name.trim_start_matches("CAP_").to_owned()).collect::<Vec<_>>().join(" ")
}
