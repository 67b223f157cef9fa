//! What a running container is allowed: root that is the host's root, and everything at once. Pure.

use serde_json::json;

use super::Explained;
use crate::{
    containers::inspect::{Inspected, capability_names},
    model::{
        Code, Evidence, Finding, Runtime,
        Severity::{Info, Warning},
        State, Timestamp, Unknown,
    },
};

/// The findings of one container. A unit is none: root and its powers are what it is for.
pub fn judge(inspected: &Inspected, now: Timestamp) -> Vec<Finding> {
    if inspected.container.runtime == Some(Runtime::Systemd) || inspected.main_pid.is_none() {
        return Vec::new();
    }
    [privileged(inspected), host_root(inspected)]
        .into_iter()
        .flatten()
        .map(|verdict| Finding {
            code: verdict.code,
            severity: verdict.severity,
            id: format!("{}:{}", verdict.code.0, inspected.container.cgroup),
            state: Some(State::Open),
            time: now,
            container: Some(inspected.container.clone()),
            process: None,
            summary: verdict.summary,
            unknown: unread(&verdict.evidence),
            evidence: verdict.evidence,
            why: verdict.why.to_owned(),
            fix: verdict.fix.iter().map(|fix| (*fix).to_owned()).collect(),
            refers_to: None,
        })
        .collect()
}

/// What is null in the evidence or in one of its objects, with the reason.
fn unread(evidence: &Evidence) -> Unknown {
    let fields = ["seccomp", "privileged", "user_outside", "inside", "outside", "own", "rootless", "uid_map"];
    let objects = || std::iter::once(evidence).chain(evidence.values().filter_map(serde_json::Value::as_object));
    let is_null = |field: &&str| objects().any(|object| object.get(*field).is_some_and(serde_json::Value::is_null));
    let reason = "it could not be read: its process may have ended meanwhile";
    fields.into_iter().filter(is_null).map(|field| (field, reason.to_owned())).collect()
}

struct Verdict {
    code: Code,
    severity: crate::model::Severity,
    summary: String,
    evidence: Evidence,
    why: &'static str,
    fix: &'static [&'static str],
}

fn evidence<const N: usize>(inspected: &Inspected, own: [(&str, serde_json::Value); N]) -> Evidence {
    let mut evidence: Evidence = own.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    evidence.insert("cgroup".to_owned(), json!(inspected.container.cgroup));
    evidence
}

/// Every capability, and none of them confined to a user namespace of its own.
fn privileged(inspected: &Inspected) -> Option<Verdict> {
    if inspected.userns.own != Some(false) || !inspected.has_every_capability() {
        return None;
    }
    let sets = inspected.capabilities?;
    let count = sets.bounding.count_ones();
    let lacking = inspected.all_capabilities & !sets.bounding;
    let all = match lacking.count_ones() {
        0 => format!("all {count} capabilities"),
        _ => format!("{count} capabilities, and CAP_SYS_ADMIN stands for {}", capability_names(lacking).join(", ")),
    };
    let filter = match inspected.seccomp {
        Some("disabled") => " and no seccomp filter",
        Some(_) => "; only its seccomp filter is left",
        None => "",
    };
    Some(Verdict {
        code: PRIVILEGED.code,
        severity: Warning,
        summary: format!("runs with everything: {all}{filter}"),
        evidence: evidence(
            inspected,
            [
                ("capabilities", json!(capability_names(sets.bounding))),
                ("effective", json!(sets.effective.count_ones())),
                ("bounding", json!(count)),
                ("seccomp", json!(inspected.seccomp)),
                ("privileged", json!(inspected.privileged)),
                ("user_outside", json!(inspected.user.outside)),
            ],
        ),
        why: "with every capability and no user namespace, who takes over this container has the host: \
              it can load modules, mount the host's disks, read every process",
        fix: &[
            "leave --privileged away (Kubernetes: securityContext.privileged: false); start from nothing: \
             --cap-drop ALL, and --cap-add what it is refused",
            "for one device or one mount: docker run --device, -v; for net.* settings: --sysctl",
        ],
    })
}

/// A process that is uid 0 of the host.
fn host_root(inspected: &Inspected) -> Option<Verdict> {
    if inspected.root_processes == 0 || inspected.userns.root_outside() != Some(0) {
        return None;
    }
    let (processes, total) = (inspected.root_processes, inspected.processes);
    let mapped = inspected.userns.own == Some(true);
    let how = if mapped { "its user namespace maps root to the host's root" } else { "no user namespace" };
    Some(Verdict {
        code: HOST_ROOT.code,
        severity: Info,
        summary: format!("container root is host root: {how}; {processes} of {total} processes run as uid 0"),
        evidence: evidence(
            inspected,
            [
                ("root_processes", json!(processes)),
                ("processes", json!(total)),
                ("user", json!(inspected.user)),
                ("userns", json!(inspected.userns)),
            ],
        ),
        why: "uid 0 in this container is uid 0 of the host: what it reaches of the host (a mount, a socket, a way out \
              through a bug) it reaches as root",
        fix: &[
            "run as an ordinary user: docker run --user 10001, USER in the Dockerfile, Kubernetes runAsNonRoot: true",
            "or give it a user namespace: dockerd --userns-remap, podman run --userns=auto, Kubernetes hostUsers: \
             false, or a rootless engine",
        ],
    })
}

pub static EXPLAINED: &[Explained] = &[PRIVILEGED, HOST_ROOT];

const PRIVILEGED: Explained = Explained {
    code: Code("caps.privileged"),
    severity: Warning,
    lens: "containers",
    title: "the container runs with every capability that the host has, outside any user namespace",
    text: "\
Capabilities split root's power into some forty parts. A container's root gets a dozen of them by default; this one got
all that this kernel gives to anybody (the bounding set of the host's own PID 1 is the measure, for a host may lack some
itself). That is what `--privileged` does; beside it, it switches the seccomp filter off and shows every device. `ctrace
containers X` shows the five sets of its PID 1 beside those that its bundle asks for, and whether a filter is left.

Not told of a container in a user namespace of its own: there the same set has power over that namespace alone.

What to do: find out why it was done. Mostly one capability, one device or one mount was missing, and the error message
named none. Start with --cap-drop ALL, add what is refused, and give devices with --device. Some containers (CNI
agents, storage drivers) manage the host and need much of it: then let few people start them, and pin their images.",
};

const HOST_ROOT: Explained = Explained {
    code: Code("sec.host-root"),
    severity: Info,
    lens: "containers",
    title: "container root is host root: no user namespace",
    text: "\
A process of this container runs as uid 0, and no user namespace maps that to another user: for the kernel it is the
same root as the host's, held only by capabilities, seccomp and mounts. A file of the host that is mounted into it is
read and written as root; a kernel bug or a mounted engine socket is a way out, as root. It is the default of Docker and
Kubernetes, and so an info, not a warning.

How ctrace knows: the uids of its processes, and `uid_map` of their user namespace, read from outside. Containers whose
processes are all ordinary users, or whose root is mapped to one, are not named.

What to do: run as an ordinary user (USER in the Dockerfile, --user, Kubernetes runAsNonRoot and runAsUser); or map root
away: dockerd's userns-remap, podman run --userns=auto, Kubernetes hostUsers: false; or run the whole engine without
root (rootless Docker or Podman).",
};

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        containers::{
            Facts,
            inspect::{CapabilitySets, Limits, User, UserNs},
        },
        model::Container,
    };

    const ALL: u64 = (1 << 41) - 1;

    fn container(userns: bool, root_processes: usize, bounding: u64) -> Inspected {
        let container = Container {
            id: "web".into(),
            name: Some("web".into()),
            runtime: Some(Runtime::Docker),
            namespace: None,
            pod: None,
            cgroup: "/docker/web".into(),
            ancestors: Vec::new(),
            unknown: Unknown::new(),
        };
        let map = if userns { "0 100000 65536" } else { "0 0 4294967295" };
        Inspected {
            container: Arc::new(container),
            facts: Facts::default(),
            init_pid: Some(7),
            main_pid: Some(7),
            processes: 2,
            root_processes,
            started: None,
            limits: Limits::default(),
            user: User::default(),
            userns: UserNs::read_from("user:[1]", if userns { "user:[2]" } else { "user:[1]" }, map),
            capabilities: Some(CapabilitySets { bounding, ..CapabilitySets::default() }),
            spec_capabilities: None,
            all_capabilities: ALL & !(1 << 24),
            no_new_privs: None,
            seccomp: Some("disabled"),
            privileged: None,
            network_mode: None,
            network_devices: None,
            network: None,
            rootfs_readonly: None,
            unknown: Unknown::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn each_has_its_near_miss() {
        let codes = |container: &Inspected| -> Vec<&str> {
            judge(container, Timestamp(0)).iter().map(|finding| finding.code.0).collect()
        };
        assert_eq!(codes(&container(false, 2, ALL)), ["caps.privileged", "sec.host-root"]);
        // The host lacks one itself: everything is what it has.
        assert_eq!(codes(&container(false, 0, ALL & !(1 << 24))), ["caps.privileged"]);
        assert_eq!(codes(&container(false, 1, ALL & !(1 << 21))), ["sec.host-root"]);
        // An engine older than the kernel gives all that it knows: what was split from SYS_ADMIN goes with it.
        let old = container(false, 0, ALL & !(0b111 << 38));
        assert_eq!(codes(&old), ["caps.privileged"]);
        let said = &judge(&old, Timestamp(0))[0].summary;
        assert!(said.contains("CAP_SYS_ADMIN stands for CAP_PERFMON, CAP_BPF, CAP_CHECKPOINT_RESTORE"), "{said}");
        assert_eq!(codes(&container(false, 0, ALL & !(0b111 << 38) & !(1 << 21))), [""; 0]);
        assert_eq!(codes(&container(false, 0, 0xa804_25fb)), [""; 0], "an ordinary user");
        assert_eq!(codes(&container(true, 0, ALL)), [""; 0], "all of it in a user namespace");
        let mut unit = container(false, 2, ALL);
        Arc::make_mut(&mut unit.container).runtime = Some(Runtime::Systemd);
        assert_eq!(codes(&unit), [""; 0]);
        let mut mapped = container(true, 1, 0);
        mapped.userns = UserNs::read_from("user:[1]", "user:[2]", "0 0 65536");
        assert_eq!(codes(&mapped), ["sec.host-root"]);
        let mut unread = container(false, 2, ALL);
        unread.userns = UserNs::default();
        assert_eq!(codes(&unread), [""; 0], "what is not known is not said");
    }

    #[test]
    fn what_is_null_has_its_reason() {
        let mut ended = container(false, 2, ALL);
        ended.userns.uid_map = None;
        let findings = judge(&ended, Timestamp(0));
        let [_, root] = &findings[..] else { panic!("{findings:?}") };
        assert!(root.evidence["userns"]["uid_map"].is_null() && root.unknown.contains_key("uid_map"), "{root:?}");
        assert!(!root.unknown.contains_key("own"), "{root:?}");
    }
}
