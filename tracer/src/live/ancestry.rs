//! Who stands behind a process: its parents, and the engine behind a runtime's shim.

use crate::{
    containers::{Files, Hierarchy},
    model::Process,
    pipeline::Ancestor,
};

/// Deeper than any shell nests; a loop in a torn reading ends here.
const DEEPEST: usize = 32;

/// The process and its parents up to PID 1 (which is left out), nearest first. A shim's parent is PID 1: the engine that
/// it works for is added behind it, as the shim's own namespace argument names it.
pub fn read(files: &dyn Files, hierarchy: &Hierarchy, pid: u32) -> Vec<Ancestor> {
    let mut found = Vec::new();
    let mut next = pid;
    while next > 1 && found.len() < DEEPEST {
        let Some(ancestor) = one(files, hierarchy, next) else { break };
        next = ancestor.process.ppid.unwrap_or(0);
        found.push(ancestor);
    }
    if let Some(shim) = found.iter().find(|ancestor| ancestor.process.comm.starts_with("containerd-shim"))
        && let Some(engine) = engine_of(files, hierarchy, shim.process.pid)
    {
        found.push(engine);
    }
    found
}

pub(super) fn one(files: &dyn Files, hierarchy: &Hierarchy, pid: u32) -> Option<Ancestor> {
    let text = |name: &str| {
        files
            .read(&format!("/proc/{pid}/{name}"))
            .ok()
            .map(|content| String::from_utf8_lossy(&content.bytes).into_owned())
    };
    let status = text("status")?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let process = Process {
        pid,
        tid: pid,
        ns_pid: field("NSpid").and_then(|pids| pids.split_whitespace().last()?.parse().ok()),
        ppid: field("PPid").and_then(|pid| pid.parse().ok()),
        comm: text("comm")
            .map(|comm| comm.trim_end_matches('\n').to_owned())
            .or_else(|| field("Name").map(str::to_owned))?,
        uid: field("Uid").and_then(|uids| uids.split_whitespace().next()?.parse().ok()),
    };
    let cgroup = text("cgroup").and_then(|text| hierarchy.path_of(&text).map(str::to_owned));
    Some(Ancestor { process, cgroup })
}

/// Docker's containers live in containerd's namespace `moby`; the kubelet's in `k8s.io`.
fn engine_of(files: &dyn Files, hierarchy: &Hierarchy, shim: u32) -> Option<Ancestor> {
    let cmdline = files.read(&format!("/proc/{shim}/cmdline")).ok()?;
    let args: Vec<String> = String::from_utf8_lossy(&cmdline.bytes).split_terminator('\0').map(str::to_owned).collect();
    let namespace = args.windows(2).find(|pair| pair[0] == "-namespace").map(|pair| pair[1].as_str())?;
    let engine = if namespace == "moby" { "dockerd" } else { "containerd" };
    for item in files.list("/proc").map(|listing| listing.items).unwrap_or_default() {
        let Ok(pid) = item.name.parse::<u32>() else { continue };
        let exe = files.link(&format!("/proc/{pid}/exe")).unwrap_or_default();
        if exe.rsplit('/').next().is_some_and(|name| name.strip_suffix(" (deleted)").unwrap_or(name) == engine) {
            return one(files, hierarchy, pid);
        }
    }
    None
}
