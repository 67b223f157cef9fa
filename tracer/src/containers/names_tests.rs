use super::*;
use crate::containers::{Seen, Table, engines::TASKS, files::Memory, survey};

const A: &str = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1";
const B: &str = "b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2";
const POD: &str =
    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_1111_2222_3333_444455556666.slice";

fn v2() -> Hierarchy {
    Hierarchy { controller: None, mount: "/sys/fs/cgroup".into(), root: "/".into() }
}

/// The container of that cgroup with its facts, by the way that a live run takes.
fn named(host: &Memory, cgroup: &str) -> (Container, Facts) {
    let (engines, known) = survey(host, &v2());
    let mut table = Table::new(known);
    table.seed([Seen { id: 7, path: cgroup.to_owned() }], 0);
    let container = table.owner(7).expect("a container");
    let facts = read(host, &engines, &v2(), &container);
    table.named(7, facts.clone());
    ((*table.owner(7).expect("still a container")).clone(), facts)
}

/// dockerd on a data root of its own, with one container: as captured from Docker 20.10, cut to what is read.
fn docker(host: &mut Memory, id: &str, cgroups_path: &str, name: &str) {
    host.process(
        10,
        "/usr/sbin/dockerd",
        "dockerd --data-root /data/d --exec-root /data/x",
        "/",
        "/system.slice/docker.service",
        0,
    );
    host.file(
        &format!("/data/x/containerd/daemon/{TASKS}/moby/{id}/config.json"),
        &format!(
            r#"{{"ociVersion":"1.0.2-dev","process":{{"cwd":"/","user":{{"uid":0,"gid":0}},"args":["/bin/sleep"]}},"root":{{"path":"/data/d/overlay2/x/merged"}},
            "mounts":[{{"destination":"/proc","type":"proc","source":"proc"}},{{"destination":"/etc/hostname","type":"bind","source":"/data/d/containers/{id}/hostname","options":["rbind"]}}],
            "linux":{{"cgroupsPath":"{cgroups_path}","namespaces":[{{"type":"mount"}}]}}}}"#
        ),
    );
    host.file(
        &format!("/data/d/containers/{id}/config.v2.json"),
        &format!(
            r#"{{"State":{{"Running":true,"StartedAt":"2026-11-24T04:08:52.79592618Z"}},"ID":"{id}","Name":"/{name}",
            "Config":{{"Image":"bb:1","Labels":{{"team":"shop"}},"StopSignal":"SIGQUIT"}}}}"#
        ),
    );
}

#[test]
fn docker_on_another_data_root() {
    for (asked, cgroup) in [
        (format!("/docker/{A}"), format!("/docker/{A}")),
        (format!("/docker/{A}"), format!("/caller/docker/{A}")), // v1
        (format!("/custom/{A}"), format!("/custom/{A}")),
        (format!("system.slice:docker:{A}"), format!("/system.slice/docker-{A}.scope")),
        (format!("a-b.slice:docker:{A}"), format!("/a.slice/a-b.slice/docker-{A}.scope")),
        (format!("system.slice:docker:{A}"), format!("/x/system.slice:docker:{A}")),
    ] {
        let mut host = Memory::default();
        docker(&mut host, A, &asked, "web");
        let (container, facts) = named(&host, &cgroup);
        assert_eq!(container.name.as_deref(), Some("web"), "{cgroup}: {facts:?}");
        assert_eq!(container.runtime, Some(Runtime::Docker));
        assert!(container.unknown.is_empty(), "{:?}", container.unknown);
        assert_eq!(facts.name_source, Some(format!("/data/d/containers/{A}/config.v2.json")));
        assert_eq!((facts.image.as_deref(), facts.stop_signal.as_deref()), (Some("bb:1"), Some("SIGQUIT")));
        assert!(facts.started.is_some() && facts.notes.is_empty() && facts.unknown.is_empty(), "{facts:?}");
    }
}

#[test]
fn docker_whose_bundle_is_gone() {
    let mut host = Memory::default();
    docker(&mut host, A, "x", "web");
    host.files.retain(|path, _| !path.contains(TASKS));
    assert_eq!(named(&host, &format!("/docker/{A}")).0.name.as_deref(), Some("web"));
}

#[test]
fn a_cgroup_that_bears_another_s_id_is_not_called_by_its_name() {
    let mut host = Memory::default();
    docker(&mut host, A, &format!("/docker/{A}"), "web");
    host.file("/run/runc/x/state.json", "{}");
    // Made by a container below its own cgroup, and by a user in his own slice.
    for cgroup in [format!("/docker/{B}/docker/{A}"), format!("/user.slice/user-1000.slice/docker-{A}.scope")] {
        let (container, facts) = named(&host, &cgroup);
        assert_eq!((container.id.as_str(), container.name.as_ref()), (A, None), "its path stands, the name does not");
        assert_eq!(container.unknown["name"], "the files of that id speak of another cgroup");
        assert!(facts.notes.iter().any(|note| note.starts_with("not believed: ")), "{facts:?}");
        assert_eq!(facts.image, None);
    }
    // By the low-level runtime's record too.
    host.file(
        &format!("/run/runc/{A}/state.json"),
        &format!(r#"{{"cgroup_paths":{{"":"/sys/fs/cgroup/docker/{A}"}}}}"#),
    );
    assert_eq!(named(&host, &format!("/docker/{B}/docker/{A}")).0.name, None);
    assert_eq!(named(&host, &format!("/docker/{A}")).0.name.as_deref(), Some("web"));
}

#[test]
fn a_container_below_another_by_the_engine_s_own_order() {
    let mut host = Memory::default();
    docker(&mut host, A, &format!("/docker/{B}/{A}"), "inner");
    let (container, _) = named(&host, &format!("/docker/{B}/{A}"));
    assert_eq!((container.name.as_deref(), container.ancestors[0].id.as_str()), (Some("inner"), B));
}

#[test]
fn nested_and_nobody_s() {
    let mut host = Memory::default();
    docker(&mut host, B, &format!("/docker/{B}"), "node");
    let (container, _) = named(&host, &format!("/docker/{B}/docker/{A}"));
    assert!(container.unknown["name"].contains("inside container"), "{:?}", container.unknown);
    let (container, _) = named(&host, &format!("/docker/{A}"));
    assert_eq!(container.unknown["name"], "no runtime's file on this host tells of it");
}

#[test]
fn kubernetes_through_containerd() {
    let mut host = Memory::default();
    let bundle = format!("/run/k3s/containerd/{TASKS}/k8s.io");
    host.process(9, "/usr/bin/containerd-shim-runc-v2", "shim", &format!("{bundle}/{B}"), "/", 0);
    let config = |annotations: &str, id: &str| {
        format!(
            r#"{{"ociVersion":"1.1.0","annotations":{{{annotations}"io.kubernetes.cri.sandbox-name":"shop-0","io.kubernetes.cri.sandbox-namespace":"prod"}},
            "mounts":[{{"destination":"/etc/hostname","source":"/var/lib/containerd/sandboxes/x/hostname"}}],
            "linux":{{"cgroupsPath":"kubepods-burstable-pod0a1b2c3d_1111_2222_3333_444455556666.slice:cri-containerd:{id}"}}}}"#
        )
    };
    let container = r#""io.kubernetes.cri.container-type":"container","io.kubernetes.cri.container-name":"app","io.kubernetes.cri.image-name":"registry/app:1","#;
    host.file(&format!("{bundle}/{A}/config.json"), &config(container, A));
    host.file(&format!("{bundle}/{B}/config.json"), &config(r#""io.kubernetes.cri.container-type":"sandbox","#, B));
    let (app, facts) = named(&host, &format!("{POD}/cri-containerd-{A}.scope"));
    assert_eq!(app.label(), "prod/shop-0/app");
    assert!(app.unknown.is_empty(), "{:?}", app.unknown);
    assert_eq!((facts.image.as_deref(), facts.sandbox), (Some("registry/app:1"), false));
    let (pause, facts) = named(&host, &format!("{POD}/cri-containerd-{B}.scope"));
    assert_eq!((pause.label().as_str(), facts.sandbox), ("prod/shop-0/pause", true));
    // By the cgroupfs driver's path nobody can tell whose it is, and runc's record is found first: it leads to the bundle.
    let cgroup = format!("/kubepods/burstable/pod0a1b2c3d-1111-2222-3333-444455556666/{A}");
    let record =
        format!(r#"{{"cgroup_paths":{{"":"/sys/fs/cgroup{cgroup}"}},"config":{{"labels":["bundle={bundle}/{A}"]}}}}"#);
    host.file("/run/containerd/runc/k8s.io/x/state.json", "{}");
    host.file(&format!("/run/containerd/runc/k8s.io/{A}/state.json"), &record);
    let (app, facts) = named(&host, &cgroup);
    assert_eq!((app.label().as_str(), app.runtime), ("prod/shop-0/app", Some(Runtime::Containerd)), "{facts:?}");
}

#[test]
fn kubernetes_through_cri_o() {
    let mut host = Memory::default();
    let userdata = format!("/run/containers/storage/overlay-containers/{A}/userdata");
    host.process(
        9,
        "/usr/bin/conmon",
        &format!(
            "conmon -b {userdata} -c {A} -n k8s_app_shop-0_prod_uid_0 -r /usr/bin/runc --runtime-arg --root=/run/runc"
        ),
        "/",
        &format!("{POD}/crio-conmon-{A}.scope"),
        0,
    );
    host.file(
        &format!("{userdata}/config.json"),
        &format!(
            r#"{{"annotations":{{"io.container.manager":"cri-o","io.kubernetes.container.name":"app","io.kubernetes.pod.name":"shop-0","io.kubernetes.pod.namespace":"prod",
            "io.kubernetes.cri-o.ContainerType":"container","io.kubernetes.cri-o.ImageName":"registry/app:1"}},
            "linux":{{"cgroupsPath":"kubepods-burstable-pod0a1b2c3d_1111_2222_3333_444455556666.slice:crio:{A}"}}}}"#
        ),
    );
    let (app, facts) = named(&host, &format!("{POD}/crio-{A}.scope/container"));
    assert_eq!((app.label().as_str(), app.runtime), ("prod/shop-0/app", Some(Runtime::CriO)), "{facts:?}");
    assert_eq!(facts.name_source, Some(format!("{userdata}/config.json")));
}

#[test]
fn podman_with_a_pod() {
    let mut host = Memory::default();
    let root = "/data/p";
    let userdata = format!("{root}/vfs-containers/{A}/userdata");
    host.process(
        9,
        "/usr/bin/conmon",
        &format!("conmon --api-version 1 -c {A} -u {A} -r /usr/bin/runc -b {userdata} -n by-conmon"),
        "/",
        "/libpod_parent/conmon",
        0,
    );
    let (container, facts) = named(&host, &format!("/libpod_parent/libpod-{A}"));
    assert_eq!((container.name.as_deref(), facts.name_source.as_deref()), (Some("by-conmon"), Some("/proc/9/cmdline")));
    host.file(
        &format!("{userdata}/config.json"),
        &format!(
            r#"{{"annotations":{{"io.container.manager":"libpod","io.kubernetes.cri-o.SandboxID":"{B}","org.opencontainers.image.stopSignal":"15"}},"linux":{{"cgroupsPath":"/libpod_parent/libpod-{A}"}}}}"#
        ),
    );
    host.file(&format!("{root}/vfs-containers/containers.json"), &format!(r#"[{{"id":"{A}","names":["inpod"],"metadata":"{{\"image-name\":\"localhost/bb:1\",\"name\":\"inpod\"}}"}}]"#));
    host.file(&format!("{root}/libpod/bolt_state.db"), &format!(r#"....{{"id":"{B}","name":"shop","labels":{{}}}}.."#));
    let (container, facts) = named(&host, &format!("/libpod_parent/libpod-{A}"));
    assert_eq!(container.label(), "shop/inpod", "{facts:?}");
    assert_eq!((facts.image.as_deref(), facts.stop_signal.as_deref()), (Some("localhost/bb:1"), Some("SIGTERM")));
}

#[test]
fn rootless_podman_is_believed_for_its_user() {
    let own = "/user.slice/user-1000.slice/user@1000.service/user.slice";
    let root = "/home/u/.local/share/containers/storage";
    let mut host = Memory::default();
    let args = format!("conmon -c {A} -r /usr/bin/crun -b {root}/overlay-containers/{A}/userdata -n mine");
    host.process(9, "/usr/bin/conmon", &args, "/", &format!("{own}/libpod-conmon-{A}.scope"), 1000);
    let list = format!(r#"[{{"id":"{A}","names":["mine"]}}]"#);
    host.owned(&format!("{root}/overlay-containers/containers.json"), &list, 1000);
    let (container, _) = named(&host, &format!("{own}/libpod-{A}.scope/container"));
    assert_eq!(container.name.as_deref(), Some("mine"));
    let (container, _) = named(&host, &format!("/machine.slice/libpod-{A}.scope"));
    assert_eq!(container.name, None, "of root's containers he tells nothing");
    host.owned(&format!("{root}/overlay-containers/containers.json"), &list, 1001);
    host.process(9, "/usr/bin/conmon", args.trim_end_matches(" -n mine"), "/", "/", 1000);
    let (container, facts) = named(&host, &format!("{own}/libpod-{A}.scope/container"));
    assert_eq!(container.name, None);
    assert!(facts.notes.iter().any(|note| note.contains("uid 1001")), "{facts:?}");
}

#[test]
fn bare_runc_crun_ctr_and_lxc() {
    let mut host = Memory::default();
    host.file("/run/runc/web/state.json", r#"{"created":"2026-11-24T04:08:53Z","cgroup_paths":{"":"/sys/fs/cgroup/web"},"config":{"labels":["bundle=/srv/web"]}}"#);
    host.file("/srv/web/config.json", r#"{"ociVersion":"1.0.2","annotations":{"owner":"me"}}"#);
    host.file(
        "/run/crun/api/status",
        r#"{"cgroup-path":"/system.slice/crun-api.scope/container","bundle":"/srv/api"}"#,
    );
    host.file("/srv/api/config.json", "{}");
    host.file(
        &format!("/run/containerd/{TASKS}/default/c1/config.json"),
        r#"{"linux":{"cgroupsPath":"/default/c1"},"annotations":{"nerdctl/name":"nice"}}"#,
    );
    host.file("/var/lib/lxc/box/config", "lxc.rootfs.path = dir:/var/lib/lxc/box/rootfs\n");
    for (cgroup, runtime, name, source) in [
        ("/web/sub", Runtime::Runc, "web", "/srv/web/config.json"),
        ("/system.slice/crun-api.scope/container", Runtime::Crun, "api", "/srv/api/config.json"),
        (
            "/default/c1",
            Runtime::Containerd,
            "nice",
            "/run/containerd/io.containerd.runtime.v2.task/default/c1/config.json",
        ),
        ("/lxc.payload.box", Runtime::Lxc, "box", "cgroup /lxc.payload.box"),
    ] {
        let (container, facts) = named(&host, cgroup);
        assert_eq!((container.runtime, container.name.as_deref()), (Some(runtime), Some(name)), "{cgroup}: {facts:?}");
        assert_eq!(facts.name_source.as_deref(), Some(source));
    }
    assert_eq!(named(&host, "/lxc.payload.box").1.stop_signal.as_deref(), Some("SIGPWR"));
    assert_eq!(named(&host, "/web").1.labels["owner"], "me");
}

#[test]
fn huge_and_malformed_files_cost_a_note() {
    let cgroup = format!("/docker/{A}");
    let bundle = format!("/data/x/containerd/daemon/{TASKS}/moby/{A}/config.json");
    for text in ["{".to_owned(), "x".repeat((1 << 20) + 1), "[".repeat(100_000), String::new(), "\u{0}".to_owned()] {
        let mut host = Memory::default();
        docker(&mut host, A, &cgroup, "web");
        host.file(&format!("/data/d/containers/{A}/config.v2.json"), &text);
        let (container, facts) = named(&host, &cgroup);
        assert_eq!(container.name, None);
        assert!(facts.notes.iter().any(|note| note.contains("config.v2.json: ")), "{:?}", facts.notes);
        docker(&mut host, A, &cgroup, "web");
        host.file(&bundle, &text);
        let (container, facts) = named(&host, &cgroup);
        assert_eq!(container.name.as_deref(), Some("web"), "the other file is good");
        assert!(facts.notes.iter().any(|note| note.contains("/config.json: ")), "{:?}", facts.notes);
    }
}

#[test]
fn ids_that_are_no_file_names() {
    let container = |id: &str| {
        let mut table = Table::default();
        table.seed([Seen { id: 1, path: format!("/docker/{A}") }], 0);
        Container { id: id.to_owned(), ..(*table.owner(1).expect("a container")).clone() }
    };
    for id in ["", ".", "..", "a/b", "../../etc", "a\0b", &"x".repeat(300)] {
        let facts = read(&Memory::default(), &Engines::default(), &v2(), &container(id));
        assert_eq!(facts.unknown["name"], "its id cannot be the name of a file", "{id}");
    }
}

#[test]
fn the_part_of_a_path_that_was_asked_for() {
    for (path, asked, want) in [
        ("/default/c1", "/default/c1", Some("/default/c1")),
        ("/default/c1/x", "/default/c1", Some("/default/c1")),
        ("/default/c10", "/default/c1", None),
        ("/a/default/c1", "default/c1/", Some("/a/default/c1")),
        ("/a/c1", "", Some("/a/c1")),
        ("/system.slice/docker-c1.scope/init", "system.slice:docker:c1", Some("/system.slice/docker-c1.scope")),
        ("/other.slice/docker-c1.scope", "system.slice:docker:c1", None),
        ("/other.slice/docker-c1.scope", ":docker:c1", Some("/other.slice/docker-c1.scope")),
        ("/x.slice", ":x:c1", None),
        ("", "", None),
    ] {
        assert_eq!(own_cgroup(path, asked, "c1").as_deref(), want, "{path} {asked}");
    }
}
