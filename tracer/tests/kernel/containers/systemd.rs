//! Engines where systemd is PID 1: scopes and slices in place of plain directories, services, a user's own engine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::json;

use super::{HOG, listed, live, one, oom_of};
use crate::support::{
    ctrace::{Ctrace, Line},
    engines::{
        Place,
        docker::Docker,
        output,
        podman::{IMAGE, Podman},
        run,
    },
    wait_until,
};

/// The ordinary user of the guest.
const USER: &str = "rl";

pub fn docker_s_scopes() {
    let docker = Docker::with(&["--exec-opt", "native.cgroupdriver=systemd"]);
    let id = docker.detached("web", &["--memory", "24m"], &["sleep", "600"]);
    let web = one("web");
    assert_eq!((&web["id"], &web["cgroup"]), (&json!(id), &json!(format!("/system.slice/docker-{id}.scope"))));
    let id = docker.detached("sliced", &["--cgroup-parent", "shop.slice"], &["sleep", "600"]);
    assert_eq!(one("sliced")["cgroup"], json!(format!("/shop.slice/docker-{id}.scope")));
    let (web, twin) = (live("oom", &["--container", "web"]), live("oom", &["--container", "sliced"]));
    let _ = docker.command(&["exec", "web"]).args(HOG).output();
    let finding = oom_of(&web, "web");
    assert_eq!(
        (&finding["evidence"]["limit_bytes"], &finding["container"]["runtime"]),
        (&json!(24 << 20), &json!("docker"))
    );
    assert_eq!(kills(twin), 0);
}

/// Ends it; how many kills it told of, those before its start left out.
fn kills(ctrace: Ctrace) -> usize {
    let lines = ctrace.stop().lines;
    let of =
        |line: &&Line| line.json["code"] == "oom.container-limit" && line.json["evidence"]["before_attach"] != true;
    lines.iter().filter(of).count()
}

pub fn podman_s_scopes() {
    for runtime in ["crun", "runc"] {
        let podman = Podman::with("systemd", runtime);
        let name = format!("p-{runtime}");
        let id = podman.run(&["run", "--detach", "--name", &name, "--network", "none", IMAGE, "sleep", "600"]);
        let own = one(&name);
        assert_eq!(own["cgroup"], json!(format!("/machine.slice/libpod-{id}.scope")), "{own}");
        // crun's processes are in a cgroup below: the container's all the same.
        let pid = own["init_pid"].as_u64().expect("a pid");
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
        assert_eq!(cgroup.trim_end().ends_with(".scope/container"), runtime == "crun", "{cgroup}");
        let all = listed(&[]);
        let monitors = all.iter().filter(|line| line["cgroup"].as_str().is_some_and(|path| path.contains("conmon")));
        assert_eq!(monitors.count(), 0, "its monitor beside it is no container");
        let ctrace = live("oom", &["--runtime", "podman"]);
        let hog = ["run", "--name", "hog", "--memory", "20m", "--network", "none", IMAGE];
        let _ = podman.command(&hog).args(HOG).output();
        let finding = oom_of(&ctrace, "hog");
        assert_eq!(finding["evidence"]["limit_bytes"], 20 << 20, "{finding}");
        let _ = ctrace.stop();
    }
}

pub fn a_user_s_own_podman() {
    let user = User::ready();
    let ctrace = live("oom", &[]);
    let detached = user.podman(&["run", "--detach", "--name", "mine", "--network", "none", IMAGE, "sleep", "600"]);
    let id = run(&mut { detached });
    let own = one("mine");
    let slice = format!("/user.slice/user-{}.slice/", user.uid);
    assert!(own["cgroup"].as_str().is_some_and(|path| path.starts_with(&slice) && path.contains(&id)), "{own}");
    assert_eq!((&own["runtime"], &own["image"]), (&json!("podman"), &json!(IMAGE)));
    assert_eq!((&own["userns"]["own"], &own["userns"]["rootless"]), (&json!(true), &json!(true)), "{own}");
    assert_eq!(own["user"], json!({"inside": 0, "outside": user.uid}));
    let about = |line: &&serde_json::Value| line["type"] == "finding" && line["container"]["name"] == "mine";
    assert_eq!(listed(&[]).iter().filter(about).count(), 0, "its root is nobody's");
    let hog = ["run", "--name", "myhog", "--memory", "20m", "--network", "none", IMAGE];
    let _ = output(user.podman(&hog).args(HOG));
    let finding = oom_of(&ctrace, "myhog");
    assert_eq!(finding["evidence"]["limit_bytes"], 20 << 20, "{finding}");
    let _ = ctrace.stop();
}

pub fn a_service() {
    let place = Place::new();
    let busybox = place.rootfs().join("bin/busybox").display().to_string();
    let (shop, twin) = (live("oom", &["--container", "shop", "--wait"]), live("oom", &["--runtime", "docker"]));
    let mut service = Command::new("systemd-run");
    service.args(["--quiet", "--wait", "--unit=shop", "--property=MemoryMax=20M", &busybox]);
    let _ = output(service.args(HOG));
    let line = shop.wait_for("an OOM kill in a service", |line| line.json["code"] == "oom.container-limit");
    let own = &line.json["container"];
    assert_eq!((&own["id"], &own["runtime"]), (&json!("shop.service"), &json!("systemd")), "{own}");
    assert_eq!(line.json["evidence"]["limit_bytes"], 20 << 20);
    assert_eq!(kills(twin), 0);
    // Units are not in the table of containers, unless they are asked for.
    let units = |options: &[&str]| listed(options).iter().filter(|line| line["runtime"] == "systemd").count();
    assert_eq!(units(&[]), 0);
    assert!(units(&["--all"]) > 0);
}

pub fn a_machine_of_nspawn() {
    let place = Place::new();
    let name = "box-1";
    let mut nspawn = Command::new("systemd-nspawn");
    nspawn.args(["--quiet", "--register=yes", "--machine", name, "--directory"]).arg(place.rootfs());
    nspawn.args(["/bin/sleep", "600"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    fs::create_dir_all(place.rootfs().join("usr")).expect("what nspawn asks of a root");
    let mut child = nspawn.spawn().expect("systemd-nspawn");
    let listed = || listed(&[]).into_iter().find(|line| line["name"] == name);
    let own = wait_until("the machine to be listed", listed);
    let _ = Command::new("machinectl").args(["terminate", name]).output();
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!((&own["runtime"], &own["id"]), (&json!("nspawn"), &json!(name)));
    assert_eq!(own["cgroup"], r"/machine.slice/machine-box\x2d1.scope", "{own}");
}

/// A user who is logged in, as far as an engine without root needs it.
struct User {
    uid: u32,
    home: PathBuf,
}

impl User {
    fn ready() -> Self {
        let uid: u32 = run(Command::new("id").args(["-u", USER])).parse().expect("a number");
        let user = Self { uid, home: Path::new("/home").join(USER) };
        let _ = output(Command::new("modprobe").arg("tun"));
        run(Command::new("loginctl").args(["enable-linger", USER]));
        wait_until("the user's bus", || fs::metadata(format!("/run/user/{uid}/bus")).is_ok().then_some(()));
        let place = Place::new();
        let tar = user.home.join("image.tar");
        fs::copy(place.tar(), &tar).expect("an image");
        run(Command::new("chown").arg(USER).arg(&tar));
        run(user.podman(&["import", "--quiet"]).arg(&tar).arg(IMAGE));
        user
    }

    fn podman(&self, arguments: &[&str]) -> Command {
        let mut podman = Command::new("setpriv");
        let uid = self.uid.to_string();
        podman.args(["--reuid", &uid, "--regid", &uid, "--init-groups", "--reset-env", "env"]);
        podman.arg(format!("XDG_RUNTIME_DIR=/run/user/{uid}"));
        podman.arg(format!("DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/{uid}/bus"));
        podman.arg("podman").args(arguments).current_dir(&self.home);
        podman
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = output(&mut self.podman(&["rm", "--all", "--force", "--time", "0"]));
    }
}
