//! ctr, Kubernetes' annotations, Podman, bare runc and crun; what comes late, and what is held.

use std::{collections::BTreeSet, fs, process::Command};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{listed, live, one, oom_of, open_files};
use crate::support::{
    cgroups::{Tree, container_id},
    ctrace::Ctrace,
    engines::{
        Place,
        containerd::Containerd,
        lxc::Lxc,
        output,
        podman::{IMAGE, Podman},
        runc::Bundle,
    },
    player::Player,
    unique, wait_until,
};

fn exit_of(ctrace: &Ctrace, pid: u64) -> Value {
    let is_it = |line: &Value| line["event"] == "exit" && line["process"]["pid"] == pid;
    ctrace.wait_for(&format!("the exit of {pid}"), |line| is_it(&line.json)).json
}

fn kill_and_see(ctrace: &Ctrace, pid: u64) -> Value {
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("it runs");
    exit_of(ctrace, pid)
}

pub fn ctr_and_kubernetes() {
    let containerd = Containerd::start();
    let id = format!("c{:x}", unique());
    let ctrace = live("exits", &[]);
    containerd.detached(&id, &[], &["/bin/sleep", "600"]);
    let own = one(&id);
    assert_eq!((&own["name"], &own["runtime"]), (&json!(id), &json!("containerd")));
    let seen = kill_and_see(&ctrace, own["init_pid"].as_u64().expect("a pid"));
    assert_eq!((&seen["container"]["id"], &seen["container"]["runtime"]), (&json!(id), &json!("containerd")));
    // The kubelet's containers: an id that nobody knows by heart, and the names in annotations.
    let uid = "0a1b2c3d-1111-2222-3333-444455556666";
    let kube = container_id();
    let cgroup = format!("/kubepods/burstable/pod{uid}/{kube}");
    let annotations = [
        "io.kubernetes.cri.container-type=container",
        "io.kubernetes.cri.container-name=app",
        "io.kubernetes.cri.sandbox-name=shop-0",
        "io.kubernetes.cri.sandbox-namespace=prod",
        "io.kubernetes.cri.image-name=registry/app:1",
    ];
    let mut options = vec!["--cgroup", cgroup.as_str(), "--memory-limit", "25165824"];
    for annotation in annotations {
        options.extend(["--annotation", annotation]);
    }
    containerd.detached(&kube, &options, &["/bin/sh", "-c", "while :; do sleep 1; done"]);
    for wanted in ["prod/shop-0", "shop-0/app", "prod/shop-0/app", &kube[..12]] {
        let app = one(wanted);
        assert_eq!((&app["namespace"], &app["pod"], &app["name"]), (&json!("prod"), &json!("shop-0"), &json!("app")));
        assert_eq!(app["image"], "registry/app:1");
    }
    let oom = live("oom", &["--container", "shop-0"]);
    let hog =
        ["tasks", "exec", "--exec-id", "hog", &kube, "/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"];
    let _ = output(&mut containerd.command(&hog));
    let finding = oom_of(&oom, "app");
    assert_eq!((&finding["container"]["pod"], &finding["evidence"]["init_alive"]), (&json!("shop-0"), &json!(true)));
    assert_eq!(finding["evidence"]["limit_bytes"], 24 << 20, "{finding}");
    // The pod goes away under ctrace's eyes: nothing of it is held.
    let pid = oom.pid().as_raw();
    let cgroup = finding["container"]["cgroup"].as_str().expect("a path").to_owned();
    containerd.remove(&kube);
    wait_until("the cgroup to be removed", || (!any_hierarchy_has(&cgroup)).then_some(()));
    let held: Vec<String> =
        open_files(pid).into_iter().filter(|file| file.contains(&kube) || file.contains("ns:[")).collect();
    assert!(held.is_empty(), "held: {held:?}");
    let _ = oom.stop();
    remove_pod(uid);
}

fn any_hierarchy_has(cgroup: &str) -> bool {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"]
        .iter()
        .any(|mount| fs::metadata(format!("{mount}{cgroup}")).is_ok())
}

/// The parents that containerd made and leaves.
pub fn remove_pod(uid: &str) {
    let mounts = fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|entry| entry.path());
    for mount in mounts.chain(["/sys/fs/cgroup".into()]) {
        for part in [format!("kubepods/burstable/pod{uid}"), "kubepods/burstable".to_owned(), "kubepods".to_owned()] {
            let _ = fs::remove_dir(mount.join(part));
        }
    }
}

pub fn podman_where_its_flag_is_wrong() {
    let podman = Podman::new();
    podman.run(&["pod", "create", "--infra=false", "--name", "shop"]);
    podman.run(&["run", "--detach", "--pod", "shop", "--name", "till", "--network", "none", IMAGE, "sleep", "600"]);
    podman.run(&["run", "--detach", "--name", "pweb", "--network", "none", IMAGE, "sleep", "600"]);
    let web = one("pweb");
    assert_eq!(
        (&web["runtime"], &web["image"], &web["network_mode"]),
        (&json!("podman"), &json!(IMAGE), &json!("none"))
    );
    assert_eq!(one("shop/till")["pod"], "shop");
    let ctrace = live("oom", &[]);
    let hog = ["run", "--name", "hog", "--memory", "20m", "--network", "none", IMAGE];
    let hog = podman.command(&hog).args(["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"]).output();
    assert_eq!(hog.expect("podman").status.code(), Some(137));
    let flag = podman.run(&["inspect", "--format", "{{.State.OOMKilled}}", "hog"]);
    // The kernel did kill: ctrace says so by name, whatever the engine noted.
    let finding = oom_of(&ctrace, "hog");
    assert_eq!(
        (&finding["container"]["runtime"], &finding["evidence"]["limit_bytes"]),
        (&json!("podman"), &json!(20 << 20))
    );
    assert!(["true", "false"].contains(&flag.as_str()), "{flag}");
    let _ = ctrace.stop();
}

pub fn lxc() {
    let ctrace = live("oom", &[]);
    let web = Lxc::started(16 << 20, &["/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=100M count=1; sleep 600"]);
    let own = one(&web.name);
    assert_eq!(
        (&own["name"], &own["runtime"], &own["init_pid"]),
        (&json!(web.name), &json!("lxc"), &json!(web.init()))
    );
    let finding = oom_of(&ctrace, &web.name);
    assert_eq!(
        (&finding["evidence"]["limit_bytes"], &finding["evidence"]["init_alive"]),
        (&json!(16 << 20), &json!(true))
    );
    let _ = ctrace.stop();
}

fn bare(runtime: &'static str) {
    let place = Place::new();
    let id = format!("bare-{:x}", unique());
    let bundle = Bundle::new(&place, runtime, &id, &["/bin/sleep", "600"]);
    let ctrace = live("exits", &[]);
    let pid = bundle.detached();
    let own = one(&id);
    assert_eq!((&own["name"], &own["runtime"], &own["init_pid"]), (&json!(id), &json!(runtime), &json!(pid)));
    assert_eq!(own["capabilities"], json!(["CAP_KILL"]));
    assert_eq!(own["capabilities_difference"]["effective"], json!({"beyond_spec": [], "below_spec": []}));
    let seen = kill_and_see(&ctrace, pid);
    assert_eq!((&seen["container"]["id"], &seen["container"]["runtime"]), (&json!(id), &json!(runtime)));
    assert_eq!(seen["process"]["ns_pid"], 1);
    // A container in a user namespace of its own: its root is somebody else.
    let id = format!("mapped-{:x}", unique());
    let mut bundle = Bundle::new(&place, runtime, &id, &["/bin/sleep", "600"]);
    bundle.config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    (bundle.config["linux"]["uidMappings"], bundle.config["linux"]["gidMappings"]) = (map.clone(), map);
    chown(&place, 100_000);
    bundle.detached();
    let lines = listed(&[&id]);
    assert_eq!(lines[0]["user"], json!({"inside": 0, "outside": 100_000}), "{}", lines[0]);
    assert_eq!((&lines[0]["userns"]["own"], &lines[0]["userns"]["rootless"]), (&json!(true), &json!(false)));
    assert_eq!(lines.len(), 1, "its root is not the host's, and nothing is to be said: {lines:?}");
}

fn chown(place: &Place, uid: u32) {
    let status = Command::new("chown").arg("-R").arg(uid.to_string()).arg(&place.dir).status().expect("chown");
    assert!(status.success());
}

pub fn bare_runc() {
    bare("runc");
}

pub fn bare_crun() {
    bare("crun");
}

/// No event tells of a move: each event of a process carries the cgroup that it is in by then.
pub fn moved_in_later() {
    let tree = Tree::new();
    let (first, second) = (tree.container(), tree.container());
    let ctrace = live("exits", &[]);
    let mut player = Player::within(&first, &["say=here", "await", "exit=3"]);
    let pid = player.said("here").pid;
    second.set("cgroup.procs", &pid.to_string());
    player.go();
    player.ended();
    let seen = exit_of(&ctrace, pid);
    assert_eq!(seen["container"]["id"], json!(second.name()), "{seen}");
    assert_eq!(ctrace.finding("exit.error", &second).json["container"]["id"], json!(second.name()));
    assert!(ctrace.stop().codes(&first).is_empty());
}

pub fn waits_for_one() {
    let place = Place::new();
    let wanted = format!("late-{:x}", unique());
    let other = Bundle::new(&place, "runc", &format!("other-{:x}", unique()), &["/bin/sh", "-c", "exit 3"]);
    let ctrace = live("exits", &["--container", &wanted, "--wait"]);
    ctrace.wait_for("that it waits", |line| line.json["code"] == "waiting");
    let run = |bundle: &Bundle| assert_eq!(output(&mut bundle.runner(&[])).status.code(), Some(3));
    run(&other);
    // Its life is over within moments, and all of it is told; so is that of its successor.
    for _ in 0..2 {
        run(&Bundle::new(&place, "runc", &wanted, &["/bin/sh", "-c", "exit 3"]));
    }
    let errors = || ctrace.lines().into_iter().filter(|line| line.json["code"] == "exit.error").count();
    wait_until("both ends", || (errors() == 2).then_some(()));
    let said = ctrace.stop();
    let strangers = |line: &Value| !line["container"].is_null() && line["container"]["id"] != json!(wanted);
    assert!(!said.lines.iter().any(|line| strangers(&line.json)), "told of {}", other.id);
}

/// A runtime at work in a container: whoever runs in there is of the innermost, and the outer one is said.
pub fn nested() {
    let (place, within) = (Place::new(), Place::new());
    let (outer_id, inner_id) = (format!("outer-{:x}", unique()), container_id());
    let mut inner = Bundle::new(&within, "runc", &inner_id, &["/bin/sleep", "600"]);
    inner.config["linux"]["cgroupsPath"] = json!(format!("/{outer_id}/docker/{inner_id}"));
    inner.config["root"]["path"] = json!("rootfs");
    within.write("config.json", &inner.config.to_string());
    place.add_program("runc");
    let start = "runc run --detach --bundle /inner inner >/tmp/log 2>&1 && exec sleep 600; cat /tmp/log; echo failed";
    let mut outer = Bundle::new(&place, "runc", &outer_id, &["/bin/sh", "-c", start]);
    let all = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "KILL",
        "MKNOD",
        "NET_ADMIN",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_ADMIN",
        "SYS_CHROOT",
    ];
    let all = json!(all.map(|name| format!("CAP_{name}")));
    outer.config["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    let mounts = outer.config["mounts"].as_array_mut().expect("a list");
    // What its own runtime knows stays within.
    mounts.push(json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs"}));
    mounts.push(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
    mounts.push(json!({"destination": "/inner", "type": "bind", "source": within.dir, "options": ["bind"]}));
    let cgroups =
        json!({"destination": "/sys/fs/cgroup", "type": "bind", "source": "/sys/fs/cgroup", "options": ["rbind"]});
    mounts.push(cgroups);
    let ctrace = live("exits", &[]);
    outer.detached();
    let own = wait_until("the inner one", || {
        let log = fs::read_to_string(outer.dir.join("log")).unwrap_or_default();
        assert!(!log.contains("failed\n"), "{log}");
        let is_it = |line: &Value| line["id"] == json!(inner_id) && !line["init_pid"].is_null();
        listed(&[]).into_iter().find(|line| line["type"] == "container" && is_it(line))
    });
    assert_eq!(own["runtime"], "docker", "{own}");
    let around = |container: &Value| container["ancestors"][0]["id"] == json!(outer_id);
    assert!(around(&own), "{own}");
    let init = own["init_pid"].as_u64().expect("its PID 1");
    let seen = kill_and_see(&ctrace, init);
    assert_eq!(seen["container"]["id"], json!(inner_id), "{seen}");
    assert!(around(&seen["container"]), "{seen}");
    assert_eq!(seen["process"]["ns_pid"], 1);
    let _ = ctrace.stop();
}

/// The mount points that a process sees.
fn mounts_of(pid: i32) -> BTreeSet<String> {
    let mountinfo = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("its mounts");
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

pub fn nothing_is_held() {
    let place = Place::new();
    let ours = mounts_of(std::process::id().cast_signed());
    let ctrace = live("exits", &[]);
    let pid = ctrace.pid().as_raw();
    let mut before = Vec::new();
    let (mut ids, mut cgroups) = (Vec::new(), Vec::new());
    for round in 0..4 {
        let bundle = Bundle::new(&place, "runc", &format!("held-{:x}", unique()), &["/bin/sleep", "600"]);
        let init = bundle.detached();
        cgroups.push(one(&bundle.id)["cgroup"].as_str().expect("a path").to_owned());
        let files = open_files(pid);
        assert!(!files.iter().any(|file| file.contains("ns:[") || file.contains("/cgroup/")), "held: {files:?}");
        let mounts = mounts_of(pid);
        let own: Vec<_> = mounts.difference(&ours).filter(|mount| !mount.ends_with("/tracing")).collect();
        assert!(own.is_empty(), "mounted: {own:?}");
        bundle.remove();
        exit_of(&ctrace, init);
        ids.push(bundle.id.clone());
        if round == 0 {
            before = open_files(pid); // by now it has all that it works with
        }
    }
    for cgroup in &cgroups {
        wait_until("the cgroup to be removed", || (!any_hierarchy_has(cgroup)).then_some(()));
    }
    // More only while it reads something.
    wait_until("ctrace to have no more open than before", || (open_files(pid).len() <= before.len()).then_some(()));
    // Gone, and still known.
    let said = ctrace.stop();
    for id in ids {
        assert!(
            said.lines.iter().any(|line| line.json["event"] == "exit" && line.json["container"]["id"] == json!(id))
        );
    }
}
