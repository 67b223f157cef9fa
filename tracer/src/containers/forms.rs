//! The names that runtimes give to cgroups: one name, and those of its parents, to what it says.
//!
//! Forms and where they come from: Docker `daemon/oci_linux.go`, containerd `pkg/cri/server/helpers_linux.go`, CRI-O
//! `internal/config/cgmgr`, Podman `libpod/container_internal_linux.go`, kubelet `pkg/kubelet/cm/cgroup_manager_linux.go`,
//! runc `libcontainer/cgroups/systemd`, LXC `src/lxc/cgroups/cgfsng.c`, systemd `src/nspawn/nspawn-register.c`.

use super::path::PodKey;
use crate::model::Runtime;

/// 64 lower-case hex digits: an id that a runtime made up, and no person did.
pub fn is_generated(id: &str) -> bool {
    is_hex(id, 64) || is_build_id(id) || (id.len() == 36 && is_uuid(id))
}

/// A name that is a container's.
pub(super) struct Form {
    pub id: String,
    pub runtime: Option<Runtime>,
    pub kubernetes: bool,
    /// The colon form holds the pod's slice in the same name.
    pub pod: Option<String>,
}

impl Form {
    #[expect(clippy::unnecessary_wraps, reason = "every caller gives it on as it is")]
    fn new(id: &str, runtime: impl Into<Option<Runtime>>) -> Option<Self> {
        Some(Self { id: id.to_owned(), runtime: runtime.into(), kubernetes: false, pod: None })
    }
}

/// What a runtime puts before the id, in a scope's name or between the colons.
fn runtime_of_prefix(prefix: &str) -> Option<Runtime> {
    Some(match prefix {
        "docker" => Runtime::Docker,
        "cri-containerd" | "nerdctl" | "containerd" | "ctr" => Runtime::Containerd,
        "crio" => Runtime::CriO,
        "libpod" => Runtime::Podman,
        "runc" => Runtime::Runc,
        "crun" => Runtime::Crun,
        _ => return None,
    })
}

pub(super) fn form(name: &str, parents: [&str; 2]) -> Option<Form> {
    if let Some(scope) = name.strip_suffix(".scope") {
        return machine(scope, parents[0]).or_else(|| scope_form(scope));
    }
    if let Some(machine) = name
        .strip_prefix("systemd-nspawn@")
        .and_then(|rest| rest.strip_suffix(".service"))
        .filter(|name| !name.is_empty())
    {
        return Form::new(&unescape(machine), Runtime::Nspawn);
    }
    if name.contains(':') {
        return colon_form(name);
    }
    if let Some(lxc) = name.strip_prefix("lxc.payload.").filter(|name| !name.is_empty()) {
        return Form::new(lxc, Runtime::Lxc);
    }
    match parents[0] {
        "lxc" | "lxc.payload" => return Form::new(name, Runtime::Lxc),
        "buildkit" if is_build_id(name) => {
            return Form::new(name, (parents[1] == "docker").then_some(Runtime::Docker));
        }
        _ => {}
    }
    for (prefix, runtime) in
        [("libpod-payload-", Runtime::Podman), ("libpod-", Runtime::Podman), ("crio-", Runtime::CriO)]
    {
        if let Some(id) = name.strip_prefix(prefix).filter(|id| is_hex(id, 64)) {
            return kubernetes_if(runtime == Runtime::CriO, Form::new(id, runtime));
        }
    }
    bare(name, parents)
}

/// `PREFIX-ID.scope`, from runc's and crun's systemd drivers.
fn scope_form(scope: &str) -> Option<Form> {
    let runtimes = ["docker", "cri-containerd", "nerdctl", "crio", "libpod"];
    for prefix in runtimes {
        let id = scope.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-'));
        // A person may well call a scope docker-build: an id is what the engine makes.
        if let Some(id) = id.filter(|id| is_build_id(id) || (id.len() >= 12 && id.bytes().all(is_hex_digit))) {
            return kubernetes_if(
                matches!(prefix, "cri-containerd" | "crio"),
                Form::new(id, runtime_of_prefix(prefix)),
            );
        }
    }
    for prefix in ["runc", "crun"] {
        let id = scope.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-'));
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            return Form::new(id, runtime_of_prefix(prefix)); // their ids are free text
        }
    }
    let (prefix, id) = scope.rsplit_once('-')?;
    if is_hex(id, 64) { Form::new(id, runtime_of_prefix(prefix)) } else { None }
}

/// `SLICE:PREFIX:ID` as a directory: what the cgroupfs driver makes of a path meant for systemd, when kubelet and
/// runtime disagree about the driver.
fn colon_form(name: &str) -> Option<Form> {
    let mut parts = name.splitn(3, ':');
    let (slice, prefix, id) = (parts.next()?, parts.next()?, parts.next()?);
    if !is_slice(slice) || id.is_empty() {
        return None;
    }
    let runtime = runtime_of_prefix(prefix);
    if runtime.is_none() && !is_hex(id, 64) {
        return None;
    }
    let mut form = kubernetes_if(matches!(prefix, "cri-containerd" | "crio"), Form::new(id, runtime))?;
    if let Some(PodKey::Kubernetes(uid)) = pod(slice, "", true) {
        form.pod = Some(uid);
    }
    Some(form)
}

/// systemd-machined's scopes. libvirt registers its virtual machines and LXC containers here too.
fn machine(scope: &str, parent: &str) -> Option<Form> {
    let name = unescape(scope.strip_prefix("machine-").filter(|name| !name.is_empty() && parent == "machine.slice")?);
    if name.starts_with("qemu-") {
        return None;
    }
    match name.strip_prefix("lxc-").and_then(|rest| rest.split_once('-')) {
        Some((pid, name)) if pid.bytes().all(|byte| byte.is_ascii_digit()) => Form::new(name, Runtime::Lxc),
        _ => Form::new(&name, Runtime::Nspawn),
    }
}

/// An id and nothing else: the cgroupfs drivers. Which runtime's, only the parent can tell.
fn bare(name: &str, [parent, above]: [&str; 2]) -> Option<Form> {
    if !is_hex(name, 64) {
        // Amazon ECS: TASK-NUMBER below the task.
        let ecs = above == "ecs" || parent == "ecs";
        let (task, number) = name.rsplit_once('-').filter(|_| ecs)?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        return if is_hex(task, 32) && digits { Form::new(name, None) } else { None };
    }
    match parent {
        "docker" => Form::new(name, Runtime::Docker),
        "k8s.io" => kubernetes_if(true, Form::new(name, Runtime::Containerd)),
        "default" => Form::new(name, Runtime::Containerd), // nerdctl: NAMESPACE/ID
        _ => Form::new(name, None),
    }
}

/// Whatever stands directly below a pod is a container of it: its own name is the id, without the runtime's dress.
pub(super) fn pod_member(name: &str) -> Option<Form> {
    let bare = name.strip_suffix(".scope").unwrap_or(name);
    let dressed = ["docker-", "cri-containerd-", "crio-", "libpod-"]
        .iter()
        .find_map(|prefix| bare.strip_prefix(prefix).map(|id| (prefix, id)));
    match dressed {
        Some((prefix, id)) if !id.is_empty() => Form::new(id, runtime_of_prefix(prefix.trim_end_matches('-'))),
        _ if is_unit(name) || is_slice(name) => None,
        _ => Form::new(bare, None),
    }
}

fn kubernetes_if(yes: bool, form: Option<Form>) -> Option<Form> {
    form.map(|form| Form { kubernetes: form.kubernetes || yes, ..form })
}

/// A pod's cgroup: `podUID` (cgroupfs), `…kubepods-QOS-podUID.slice` (systemd, any kubelet root, `_` for `-`), or
/// Podman's `…-libpod_pod_ID.slice` and `libpod_parent/ID`.
pub(super) fn pod(name: &str, parent: &str, kubepods: bool) -> Option<PodKey> {
    if let Some(slice) = name.strip_suffix(".slice") {
        if let Some((_, id)) = slice.split_once("libpod_pod_") {
            return is_hex(id, 64).then(|| PodKey::Podman(id.to_owned()));
        }
        let (root, uid) = slice.rsplit_once("-pod")?;
        return (root.contains("kubepods") && !uid.is_empty()).then(|| PodKey::Kubernetes(uid.replace('_', "-")));
    }
    if parent == "libpod_parent" && is_hex(name, 64) {
        return Some(PodKey::Podman(name.to_owned()));
    }
    let uid = name.strip_prefix("pod").filter(|uid| !uid.is_empty())?;
    let shaped = is_uuid(uid) || is_hex(uid, 32);
    (shaped || (kubepods && !name.contains('.'))).then(|| PodKey::Kubernetes(uid.to_owned()))
}

/// Cgroups of a runtime's own helpers, beside the container.
pub(super) fn beside(name: &str) -> bool {
    ["crio-conmon-", "libpod-conmon-", "lxc.monitor", "lxc.pivot"].iter().any(|prefix| name.starts_with(prefix))
}

pub(super) fn is_unit(name: &str) -> bool {
    if let Some(scope) = name.strip_suffix(".scope") {
        return scope != "init" && !scope.starts_with("session-");
    }
    [".service", ".socket", ".mount", ".swap"].iter().any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
}

pub(super) fn is_slice(name: &str) -> bool {
    name.strip_suffix(".slice").is_some()
}

fn is_hex_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

pub(super) fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(is_hex_digit)
}

/// `BuildKit`'s ids: 25 digits of base 36.
fn is_build_id(text: &str) -> bool {
    text.len() == 25 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z'))
}

fn is_uuid(text: &str) -> bool {
    let mut parts = text.split('-');
    [8, 4, 4, 4, 12].iter().all(|&len| parts.next().is_some_and(|part| is_hex(part, len))) && parts.next().is_none()
}

/// systemd's `\x2d`. What is no escape, or would give no UTF-8, stays as it is.
pub(super) fn unescape(name: &str) -> String {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = tail.get(..3).filter(|hex| byte == b'\\' && hex[0] == b'x');
        let value = escaped
            .and_then(|hex| std::str::from_utf8(&hex[1..]).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let (byte, tail) = value.map_or((byte, tail), |value| (value, &tail[3..]));
        out.push(byte);
        rest = tail;
    }
    String::from_utf8(out).unwrap_or_else(|_| name.to_owned())
}

/// The directories that runtimes put their containers into.
pub(super) fn is_parent_name(name: &str) -> bool {
    let known = [
        "docker",
        "default",
        "k8s.io",
        "moby",
        "buildkit",
        "libpod_parent",
        "kubepods",
        "burstable",
        "besteffort",
        "lxc",
        "garden",
    ];
    known.contains(&name) || is_slice(name)
}
