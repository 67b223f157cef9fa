use super::*;
use crate::containers::files::Memory;

const A: &str = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1";

fn v2() -> Hierarchy {
    Hierarchy { controller: None, mount: "/sys/fs/cgroup".into(), root: "/".into() }
}

fn paths(places: &[Place]) -> Vec<&str> {
    places.iter().map(|place| place.path.as_str()).collect()
}

#[test]
fn engines_say_where_they_keep_things() {
    let mut host = Memory::default();
    host.process(
        10,
        "/usr/sbin/dockerd",
        "dockerd --data-root /data/d -g=/data/other --exec-root=/data/x",
        "/",
        "/system.slice/docker.service",
        0,
    );
    host.file("/srv/daemon.json", r#"{"data-root":"rel/d2","exec-root":"/data/x2"}"#);
    host.process(11, "/usr/sbin/dockerd (deleted)", "dockerd --config-file daemon.json", "/srv", "/", 0);
    host.file(
        "/srv/c.toml",
        "version = 2\n# state = \"/no\"\nroot = '/data/c'\nstate = \"/data/cs\" # here\n[grpc]\nstate = \"/grpc\"\n",
    );
    host.process(12, "/usr/bin/containerd", "containerd -c c.toml", "/srv", "/", 0);
    host.process(13, "/usr/bin/containerd", "containerd --state /data/k3s", "/", "/", 0);
    host.process(
        14,
        "/usr/bin/containerd-shim-runc-v2",
        "x -namespace moby",
        &format!("/data/y/{TASKS}/moby/{A}"),
        "/",
        0,
    );
    host.process(
        15,
        "/usr/bin/conmon",
        &format!("conmon -c {A} -r /usr/bin/crun -b /data/p/overlay-containers/{A}/userdata -n web --runtime-arg --log --runtime-arg=/l --runtime-arg --root --runtime-arg /data/crun"),
        "/",
        "/machine.slice/libpod-conmon-x.scope",
        0,
    );
    host.process(16, "/usr/bin/lxc-start", "lxc-start -n a -P /data/lxc", "/", "/", 0);
    host.process(20, "/usr/bin/lxc-start", "", "/", "/lxc.monitor.box", 0);
    host.file("/proc/20/cmdline", "[lxc monitor] /data/my lxc box\0");
    host.process(17, "/memfd:runc_cloned:/proc/self/exe (deleted)", "runc --root /data/runc run web", "/", "/", 0);
    host.process(18, "/", "/usr/bin/crun --root=/data/crun2 run api", "/", "/", 0);
    host.process(19, "/", "/usr/bin/dockerd --data-root /data/evil", "/", "/", 0);
    let (engines, _) = survey(&host, &v2());
    assert_eq!(paths(&engines.docker), ["/data/other", "/srv/rel/d2", "/var/lib/docker"]);
    for place in [
        format!("/data/x/containerd/daemon/{TASKS}"),
        format!("/data/x2/containerd/daemon/{TASKS}"),
        format!("/data/cs/{TASKS}"),
        format!("/data/k3s/{TASKS}"),
        format!("/data/y/{TASKS}"),
        format!("/run/containerd/{TASKS}"),
    ] {
        assert!(paths(&engines.tasks).contains(&place.as_str()), "{place} in {:?}", engines.tasks);
    }
    assert!(
        paths(&engines.runc).contains(&"/data/x/runtime-runc/moby") && paths(&engines.runc).contains(&"/data/runc")
    );
    assert_eq!(paths(&engines.crun), ["/data/crun", "/data/crun2", "/run/crun"]);
    assert_eq!(paths(&engines.storage), ["/data/p", "/var/lib/containers/storage"]);
    assert_eq!(paths(&engines.lxc), ["/data/lxc", "/data/my lxc", "/var/lib/lxc"]);
    assert_eq!(engines.conmons.len(), 1);
    assert_eq!((engines.conmons[0].id.as_str(), engines.conmons[0].name.as_deref()), (A, Some("web")));
}

#[test]
fn who_only_calls_himself_an_engine_is_not_heard() {
    let mut host = Memory::default();
    let args = "dockerd --data-root /evil";
    host.process(10, "/usr/bin/dockerd", args, "/", &format!("/docker/{A}"), 0); // in a container
    host.process(11, "/usr/bin/sleep", args, "/", "/", 0); // another program
    host.process(12, "/usr/bin/dockerd", args, "/", "/user.slice/user-1000.slice/session-1.scope", 1000);
    host.process(13, "/usr/bin/dockerd", args, "/", "/", 0);
    host.file("/proc/13/status", "Uid:\t0\t0\t0\t0\nNSpid:\t13\t1\n"); // PID 1 of a namespace
    // A bare container in no runtime's form, which runc's own record makes known.
    host.file("/run/runc/web/state.json", r#"{"cgroup_paths":{"":"/sys/fs/cgroup/web"}}"#);
    host.process(14, "/usr/bin/dockerd", args, "/", "/web/sub", 0);
    host.links.insert("/proc/15/exe".into(), "/usr/bin/dockerd".into()); // gone meanwhile
    let (engines, known) = survey(&host, &v2());
    assert_eq!(
        engines.docker,
        [Place { path: "/evil".into(), uid: 1000 }, Place { path: "/var/lib/docker".into(), uid: 0 }]
    );
    assert_eq!(known.at("/web").map(|known| known.source.as_str()), Some("/run/runc/web/state.json"));
}

#[test]
fn free_form_containers_are_known_by_state() {
    let mut host = Memory::default();
    host.file("/run/runc/web/state.json", r#"{"cgroup_paths":{"":"/sys/fs/cgroup/caller/web"}}"#);
    host.file(&format!("/run/runc/{A}/state.json"), r#"{"cgroup_paths":{"":"/sys/fs/cgroup/never-read"}}"#);
    host.file("/run/runc/broken/state.json", "{");
    host.file("/run/runc/root/state.json", r#"{"cgroup_paths":{"":"/sys/fs/cgroup"}}"#);
    host.owned("/run/runc/theirs/state.json", r#"{"cgroup_paths":{"":"/sys/fs/cgroup/theirs"}}"#, 1000);
    host.file("/run/crun/api/status", r#"{"cgroup-path":"/api","bundle":"/srv/api"}"#);
    let task = format!("/run/containerd/{TASKS}/default/c1");
    host.file(&format!("{task}/config.json"), r#"{"ociVersion":"1.0","linux":{"cgroupsPath":"/default/c1"}}"#);
    host.file(&format!("{task}/init.pid"), "77\n");
    host.file("/proc/77/cgroup", "0::/below/default/c1/inner\n");
    host.file(&format!("/run/containerd/{TASKS}/default/c2/config.json"), r#"{"linux":{"cgroupsPath":"/default/c2"}}"#);
    let (_, known) = survey(&host, &v2());
    let at = |path: &str| known.at(path).map(|known| (known.id.as_str(), known.runtime));
    assert_eq!(at("/caller/web"), Some(("web", Some(Runtime::Runc))));
    assert_eq!(at("/api"), Some(("api", Some(Runtime::Crun))));
    assert_eq!(at("/below/default/c1"), Some(("c1", Some(Runtime::Containerd))), "where its first process is");
    assert_eq!(at("/default/c2"), Some(("c2", Some(Runtime::Containerd))));
    assert_eq!(known.len(), 4, "{known:?}");
}

#[test]
fn a_user_s_engine_speaks_for_that_user() {
    let mut host = Memory::default();
    let cgroup = "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-x.scope";
    host.process(
        20,
        "/usr/bin/conmon",
        &format!(
            "conmon -c {A} -r /usr/bin/crun -b /home/u/.local/share/containers/storage/overlay-containers/{A}/userdata"
        ),
        "/",
        cgroup,
        1000,
    );
    host.owned(
        "/run/user/1000/crun/mine/status",
        r#"{"cgroup-path":"/user.slice/user-1000.slice/user@1000.service/mine"}"#,
        1000,
    );
    host.owned("/run/user/1000/crun/claimed/status", r#"{"cgroup-path":"/claimed"}"#, 1000);
    let (engines, known) = survey(&host, &v2());
    assert!(engines.crun.contains(&Place { path: "/run/user/1000/crun".into(), uid: 1000 }));
    assert!(engines.storage.contains(&Place { path: "/home/u/.local/share/containers/storage".into(), uid: 1000 }));
    assert_eq!(known.len(), 1, "{known:?}");
    assert!(of_user("/user.slice/user-1000.slice/x", 1000) && !of_user("/user.slice/user-10001.slice/x", 1000));
}

#[test]
fn top_level_strings_of_toml() {
    for (text, want) in [
        ("state = \"/a\"", Some("/a")),
        ("  state='/a b' ", Some("/a b")),
        ("state = 5", None),
        ("state = \"\"", None),
        ("[x]\nstate = \"/a\"", None),
        ("stated = \"/a\"", None),
        ("state = é", None),
    ] {
        assert_eq!(toml_string(text, "state").as_deref(), want, "{text}");
    }
}
