use proptest::prelude::*;

use super::*;
use crate::containers::KnownContainer;

/// `RUNTIME ID [pod=…] [k8s] | REST OF THE PATH [< OUTER…]`, or `host`; {A} to {D} stand for ids of 64 hex digits.
fn show(path: &str, known: &Known) -> String {
    let Some(Classified { inner, outer }) = classify(path, known) else { return "host".to_owned() };
    let runtime = |runtime: Option<Runtime>| runtime.map_or("-".to_owned(), |runtime| runtime.to_string());
    let pod = match inner.pod {
        Some(PodKey::Kubernetes(uid)) => format!(" pod={uid}"),
        Some(PodKey::Podman(id)) => format!(" podman-pod={id}"),
        None => String::new(),
    };
    let k8s = if inner.kubernetes { " k8s" } else { "" };
    let rest = path.strip_prefix(inner.cgroup.as_str()).expect("the container's cgroup is a prefix of the path");
    let outer: Vec<String> = outer.iter().map(|outer| format!(" < {} {}", runtime(outer.runtime), outer.id)).collect();
    format!("{} {}{pod}{k8s} | {rest}{}", runtime(inner.runtime), inner.id, outer.concat())
}

fn ids(text: &str) -> String {
    let mut text = text.replace("{P}", "0a1b2c3d-1111-2222-3333-444455556666");
    text = text.replace("{P_}", "0a1b2c3d_1111_2222_3333_444455556666").replace("{S}", &"5f".repeat(16));
    for (mark, digit) in [("{A}", "a1"), ("{B}", "b2"), ("{C}", "c3"), ("{D}", "d4")] {
        text = text.replace(mark, &digit.repeat(32));
    }
    text
}

/// Path, and what it is with what is left of it below the container.
const PATHS: &[(&str, &str)] = &[
    // The host.
    ("/", "host"),
    ("", "host"),
    ("/init.scope", "host"),
    ("/user.slice/user-1000.slice/session-3.scope", "host"),
    ("/system.slice", "host"),
    ("/docker", "host"),
    ("/docker/buildkit", "host"),
    ("/process_api/97f4d7e65a70adbfda95c6e917ce29e4", "host"),
    ("/kubepods/burstable", "host"),
    ("/kubepods/burstable/pod{P}", "host"),
    ("/kubepods.slice/kubepods-pod{P_}.slice", "host"),
    ("/default/c1", "host"), // ctr's free-form id: only its state on disk can tell
    ("/web", "host"),
    ("/../..", "host"),
    // systemd's units.
    ("/system.slice/nginx.service", "systemd nginx.service | "),
    ("/system.slice/docker.service", "systemd docker.service | "),
    ("/system.slice/nginx.service/workers/1", "systemd nginx.service | /workers/1"),
    ("/system.slice/system-getty.slice/getty@tty1.service", "systemd getty@tty1.service | "),
    ("/system.slice/run-r0123.scope", "systemd run-r0123.scope | "),
    ("/system.slice/docker-build.scope", "systemd docker-build.scope | "),
    ("/user.slice/user-1000.slice/user@1000.service/init.scope", "systemd user@1000.service | /init.scope"),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service", "systemd web.service | "),
    // Docker: cgroupfs, v1 below the caller's own cgroup, systemd, custom parents, rootless, BuildKit.
    ("/docker/{A}", "docker {A} | "),
    ("/docker/{A}/init.scope", "docker {A} | /init.scope"),
    ("/process_api/97f4d7e65a70adbfda95c6e917ce29e4/docker/{A}", "docker {A} | "),
    ("/system.slice/docker-{A}.scope", "docker {A} | "),
    ("/custom.slice/custom-web.slice/docker-{A}.scope", "docker {A} | "),
    ("/custom/{A}", "- {A} | "),
    ("/{A}", "- {A} | "),
    ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope", "docker {A} | "),
    ("/docker/buildkit/kqmz1x0cv2b7n5e8w3r4t6y9u", "docker kqmz1x0cv2b7n5e8w3r4t6y9u | "),
    ("/system.slice/docker-kqmz1x0cv2b7n5e8w3r4t6y9u.scope", "docker kqmz1x0cv2b7n5e8w3r4t6y9u | "),
    ("/system.slice/var-lib-docker-overlay2-{A}-merged.mount", "systemd var-lib-docker-overlay2-{A}-merged.mount | "),
    ("/ecs/{S}/{S}-1234567890", "- {S}-1234567890 | "),
    ("/ecs/0a1b2c3d-1111-2222-3333-444455556666/{A}", "- {A} | "),
    // containerd: nerdctl and CRI, also with the driver misconfigured.
    ("/default/{A}", "containerd {A} | "),
    ("/k8s.io/{A}", "containerd {A} k8s | "),
    ("/system.slice/nerdctl-{A}.scope", "containerd {A} | "),
    ("/system.slice/cri-containerd-{A}.scope", "containerd {A} k8s | "),
    ("/kubepods/besteffort/pod{P}/{A}", "- {A} pod={P} k8s | "),
    ("/kubepods/pod{P}/{A}/app", "- {A} pod={P} k8s | /app"),
    ("/kubepods/burstable/pod{S}/{A}", "- {A} pod={S} k8s | "), // static pod
    ("/kubepods/burstable/pod{P}/web", "- web pod={P} k8s | "),
    ("/elastic-agent/kubepods/burstable/pod{P}/{A}", "- {A} pod={P} k8s | "),
    ("/../../pod{P}/{A}", "- {A} pod={P} k8s | "),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{P_}.slice/cri-containerd-{A}.scope",
        "containerd {A} pod={P} k8s | ",
    ),
    ("/kubepods.slice/kubepods-pod{P_}.slice/cri-containerd-{A}.scope", "containerd {A} pod={P} k8s | "),
    ("/kubepods.slice/kubepods-pod{S}.slice/cri-containerd-web.scope", "containerd web pod={S} k8s | "),
    (
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{P_}.slice/cri-containerd-{A}.scope",
        "containerd {A} pod={P} k8s | ",
    ),
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{P_}.slice/docker-{A}.scope",
        "docker {A} pod={P} k8s | ",
    ),
    ("/system.slice:cri-containerd:{A}", "containerd {A} k8s | "),
    ("/kubepods/burstable/pod{P}/system.slice:docker:{A}", "docker {A} pod={P} k8s | "),
    (
        "/system.slice/containerd.service/kubepods-burstable-pod{P_}.slice:cri-containerd:{A}",
        "containerd {A} pod={P} k8s | ",
    ),
    ("/system.slice/odd:name:here", "host"),
    // CRI-O and what it puts beside.
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{P_}.slice/crio-{A}.scope",
        "cri-o {A} pod={P} k8s | ",
    ),
    ("/kubepods.slice/kubepods-pod{P_}.slice/crio-{A}.scope/container", "cri-o {A} pod={P} k8s | /container"),
    ("/kubepods/besteffort/pod{P}/crio-{A}", "cri-o {A} pod={P} k8s | "),
    ("/kubepods/besteffort/pod{P}/crio-conmon-{A}", "host"),
    ("/system.slice/crio-conmon-{A}.scope", "host"),
    ("/system.slice/crio.service", "systemd crio.service | "),
    // Podman: cgroupfs, systemd, crun's subgroup, pods, Quadlet's split, rootless.
    ("/libpod_parent/libpod-{A}", "podman {A} | "),
    ("/libpod_parent/libpod-conmon-{A}", "host"),
    ("/libpod_parent/conmon", "host"),
    ("/libpod_parent/{B}/conmon", "host"),
    ("/libpod_parent/{B}", "host"),
    ("/libpod_parent/{B}/libpod-{A}", "podman {A} podman-pod={B} | "),
    ("/pods/{B}/libpod-{A}", "podman {A} podman-pod={B} | "),
    ("/machine.slice/libpod-{A}.scope", "podman {A} | "),
    ("/machine.slice/libpod-{A}.scope/container", "podman {A} | /container"),
    ("/machine.slice/libpod-conmon-{A}.scope", "host"),
    ("/machine.slice/machine-libpod_pod_{B}.slice", "host"),
    ("/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope", "podman {A} podman-pod={B} | "),
    ("/system.slice/web.service/libpod-payload-{A}", "podman {A} | "),
    ("/system.slice/web.service/runtime", "systemd web.service | /runtime"),
    ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container", "podman {A} | /container"),
    (
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-{A}.scope",
        "systemd user@1000.service | /user.slice/libpod-conmon-{A}.scope",
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_{B}.slice/libpod-{A}.scope/container",
        "podman {A} podman-pod={B} | /container",
    ),
    // runc and crun under systemd; other OCI runtimes of the same habit.
    ("/system.slice/runc-web.scope", "runc web | "),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/crun-a.b_c.scope", "crun a.b_c | "),
    ("/system.slice/youki-{A}.scope", "- {A} | "),
    // LXC, LXD, Proxmox, libvirt.
    ("/lxc/web", "lxc web | "),
    ("/lxc/101/ns/system.slice/cron.service", "lxc 101 | /ns/system.slice/cron.service"),
    ("/lxc.payload.web/init.scope", "lxc web | /init.scope"),
    ("/lxc.payload/web", "lxc web | "),
    ("/lxc.payload.default_web", "lxc default_web | "),
    ("/lxc.monitor.web", "host"),
    ("/lxc.monitor/web", "host"),
    ("/lxc.pivot", "host"),
    ("/user.slice/user-1000.slice/user@1000.service/lxc.payload.me", "lxc me | "),
    (r"/machine.slice/machine-lxc\x2d4242\x2dweb.scope/libvirt", "lxc web | /libvirt"),
    // systemd-nspawn; a virtual machine is none.
    ("/machine.slice/systemd-nspawn@web.service/payload/init.scope", "nspawn web | /payload/init.scope"),
    (r"/machine.slice/systemd-nspawn@my\x2dweb.service", "nspawn my-web | "),
    (r"/machine.slice/machine-my\x2dweb.scope/system.slice/cron.service", "nspawn my-web | /system.slice/cron.service"),
    (r"/machine.slice/machine-qemu\x2d1\x2dvm.scope", r"systemd machine-qemu\x2d1\x2dvm.scope | "),
    // In each other: Docker in Docker, kind, Docker in nspawn, pods in a container, LXC in LXC, bare ids on v1.
    ("/docker/{A}/docker/{B}", "docker {B} |  < docker {A}"),
    ("/docker/{A}/docker/{B}/docker/{C}/x", "docker {C} | /x < docker {B} < docker {A}"),
    ("/docker/{A}/kubelet/kubepods/besteffort/pod{P}/{B}", "- {B} pod={P} k8s |  < docker {A}"),
    (
        "/system.slice/docker-{A}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{P_}.slice/cri-containerd-{B}.scope",
        "containerd {B} pod={P} k8s |  < docker {A}",
    ),
    ("/kubepods/pod{P}/{A}/docker/{B}", "docker {B} |  < - {A}"),
    ("/machine.slice/systemd-nspawn@web.service/payload/system.slice/docker-{A}.scope", "docker {A} |  < nspawn web"),
    ("/lxc/a/lxc/b", "lxc b |  < lxc a"),
    ("/docker/{A}/{B}", "- {B} |  < docker {A}"),
    ("/docker/{A}/system.slice/nginx.service", "docker {A} | /system.slice/nginx.service"),
    ("/docker/{A}/libpod_parent/libpod-conmon-{B}", "docker {A} | /libpod_parent/libpod-conmon-{B}"),
    ("/docker/{A}/docker/{A}", "docker {A} | /docker/{A}"),
    // Nearly, and not.
    ("/docker/{A}0", "host"),
    ("/docker/A1A1A1A1", "host"),
    ("/system.slice/docker-.scope", "systemd docker-.scope | "),
    ("/lxc.payload.", "host"),
    ("/machine.slice/machine-.scope", "systemd machine-.scope | "),
    ("/podcast", "host"),
    ("/podcast/web", "host"),
];

#[test]
fn paths_of_every_runtime() {
    let wrong: Vec<String> = PATHS
        .iter()
        .map(|(path, want)| (ids(path), ids(want)))
        .filter_map(|(path, want)| {
            let got = show(&path, &Known::default());
            (got != want).then(|| format!("{path}\n  want {want}\n  got  {got}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn stated(id: &str, runtime: Runtime, cgroup: &str) -> KnownContainer {
    KnownContainer { id: id.into(), runtime: Some(runtime), cgroup: cgroup.into(), source: "/run/test".into() }
}

#[test]
fn free_form_ids_need_the_runtimes_word() {
    let known: Known = [
        stated("c1", Runtime::Containerd, "/default/c1"),
        stated("web", Runtime::Runc, "/caller/web"),
        stated("mine", Runtime::Runc, &ids("/docker/{A}")),
        stated(&ids("{B}"), Runtime::Docker, &ids("/custom/{B}")),
    ]
    .into_iter()
    .collect();
    for (path, want) in [
        ("/default/c1", "containerd c1 | "),
        ("/default/c1/sub/x", "containerd c1 | /sub/x"),
        ("/default/c10", "host"),
        ("/default", "host"),
        ("/caller/web/docker/{C}", "docker {C} |  < runc web"),
        ("/docker/{A}", "docker {A} | "),                       // the form stands
        ("/custom/{B}", "docker {B} | "),                       // the runtime is what the form leaves open
        ("/docker/{C}/default/c1", "docker {C} | /default/c1"), // the same tail elsewhere is another cgroup
    ] {
        assert_eq!(show(&ids(path), &known), ids(want), "{path}");
    }
}

#[test]
fn levels() {
    let known = Known::default();
    let pod = PodKey::Kubernetes(ids("{P}"));
    for (path, want) in [
        ("/", Level::Root),
        ("/system.slice", Level::Slice),
        ("/kubepods/burstable", Level::Slice),
        ("/kubepods/burstable/pod{P}", Level::Pod(pod.clone())),
        ("/kubepods.slice/kubepods-pod{P_}.slice", Level::Pod(pod)),
        ("/libpod_parent/{A}", Level::Pod(PodKey::Podman(ids("{A}")))),
        ("/docker/{A}", Level::Container),
        ("/docker/{A}/", Level::Container),
        ("/docker/{A}/x", Level::Below),
        ("/system.slice/a.service", Level::Unit),
        ("/docker/{A}/system.slice/a.service", Level::Below),
    ] {
        assert_eq!(level(&ids(path), &known), want, "{path}");
    }
}

#[test]
fn escapes_of_systemd() {
    for (name, want) in [
        (r"a\x2db", "a-b"),
        (r"\x2d", "-"),
        (r"a\x2", r"a\x2"),
        (r"a\xzz", r"a\xzz"),
        (r"\xff", r"\xff"), // no UTF-8
        (r"\xc3\xa4", "ä"),
        ("plain", "plain"),
        (r"\x1b[2J", "\u{1b}[2J"), // raw: views escape
    ] {
        assert_eq!(super::super::forms::unescape(name), want, "{name}");
    }
}

#[test]
fn hostile_paths_cost_little() {
    let known = Known::default();
    let deep = ids("/docker/{A}").repeat(10_000);
    let found = classify(&deep, &known).expect("still a container");
    assert_eq!(found.inner.id, ids("{A}"));
    let many = "/lxc/a/lxc/b".repeat(500);
    assert!(classify(&many, &known).expect("a container").outer.len() < NESTING_CAP);
    assert_eq!(
        classify(&format!("/lxc/{}", "ä".repeat(40_000)), &known).map(|found| found.inner.cgroup.len() <= PATH_CAP),
        Some(true)
    );
    assert_eq!(show("/lxc/a\nb\u{1b}[31m", &known), "lxc a\nb\u{1b}[31m | ");
}

proptest! {
    #[test]
    fn any_path_is_classified(path in r"(/?(docker|lxc|kubepods|pod|\.slice|libpod-|\.scope|:|-|[0-9a-f]{64}|\PC|\\x..|é)){0,40}") {
        let known: Known = [stated("x", Runtime::Runc, "/a/b")].into_iter().collect();
        if let Some(found) = classify(&path, &known) {
            let rooted = if path.starts_with('/') { path.clone() } else { format!("/{path}") };
            prop_assert!(rooted.starts_with(&found.inner.cgroup));
            prop_assert!(!found.inner.id.is_empty());
            for pair in std::iter::once(&found.inner).chain(&found.outer).collect::<Vec<_>>().windows(2) {
                prop_assert!(pair[0].cgroup.starts_with(&pair[1].cgroup) && pair[0].cgroup != pair[1].cgroup);
            }
        }
        level(&path, &known);
    }

    #[test]
    fn any_text_is_no_trouble(path in any::<String>()) {
        classify(&path, &Known::default());
    }
}
