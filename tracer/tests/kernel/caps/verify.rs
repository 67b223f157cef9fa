//! `ctrace caps verify`: a program, and a container.

use std::{path::PathBuf, process::Command};

use ::caps::Capability;
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::{Value, json};

use super::{has, report};
use crate::{
    harness::{Lack, Test},
    support::{
        ctrace::{Ctrace, command, run},
        evidence,
        player::program,
        wait_until,
    },
};

pub static TESTS: &[Test] = &[
    Test::core("caps::verify_a_program", verify_a_program),
    Test::full("caps::verify_a_container", verify_a_container).needs(&[Lack::Runc]),
    Test::full("caps::verify_leaves_nothing", nothing_is_left).needs(&[Lack::Runc]),
];

/// `ctrace caps verify` with a check that needs to change its root, and nothing else.
fn verify_a_program() {
    let own = program();
    let check = ["--", &own, "play", "chroot"];
    let ended =
        run(command(&[&["caps", "verify", "--set", "KILL,SYS_CHROOT", "--format", "json"], &check[..]].concat()));
    assert_eq!((ended.code, ended.out.len()), (Some(0), 1), "{ended:?}");
    let proof: Value = serde_json::from_str(&ended.out[0]).expect("an object");
    assert_eq!(proof["required"], json!(["CAP_SYS_CHROOT"]), "{proof:#}");
    assert_eq!((&proof["tolerated"], &proof["unproven"]), (&json!(["CAP_KILL"]), &json!([])));
    assert_eq!(proof["trials"].as_array().map(Vec::len), Some(4), "{proof:#}");
    evidence::check_proof(&proof);
    // A program alone is not watched.
    let ended = run(command(&[&["caps", "verify"], &check[..]].concat()));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    // A set that is not enough proves nothing.
    let ended = run(command(&[&["caps", "verify", "--set", "KILL"], &check[..]].concat()));
    assert_eq!(ended.code, Some(1));
    assert!(ended.err[0].contains("the check does not pass with this set (CAP_KILL)"), "{ended:?}");
}

/// A container of runc's whose program waits for its fate behind a call that needs a capability.
struct Runc {
    home: tempfile::TempDir,
    name: String,
    child: std::process::Child,
}

impl Runc {
    /// Runs these steps with those capabilities, over the host's own programs and libraries.
    fn run(steps: &[&str], capabilities: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(home.path().join("rootfs")).expect("a folder");
        let own = std::env::current_exe().expect("the path of this program");
        let args: Vec<&str> = ["/kernel", "play"].into_iter().chain(steps.iter().copied()).collect();
        let bind = |path: &str, to: &str| json!({"destination": to, "type": "bind", "source": path, "options": ["rbind", "ro"]});
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            bind(&own.display().to_string(), "/kernel"),
        ];
        let there = ["/lib", "/lib64", "/usr"].into_iter().filter(|path| std::path::Path::new(path).exists());
        mounts.extend(there.map(|path| bind(path, path)));
        let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|kind| json!({"type": kind}));
        let spec = json!({
            "ociVersion": "1.0.0",
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": args, "env": ["PATH=/usr/bin"],
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
            "root": {"path": "rootfs"}, "mounts": mounts, "linux": {"namespaces": namespaces},
        });
        std::fs::write(home.path().join("config.json"), spec.to_string()).expect("a spec");
        let name = format!("ctrace-test-{:x}", crate::support::unique());
        let child = Command::new("runc")
            .args(["run", &name])
            .current_dir(home.path())
            .stdin(std::process::Stdio::null())
            .spawn()
            .expect("runc runs");
        Self { home, name, child }
    }
}

impl Drop for Runc {
    fn drop(&mut self) {
        let _ = Command::new("runc").args(["delete", "--force", &self.name]).status();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(self.home.path().join("rootfs"));
    }
}

/// A real container from its start: runc's own work is apart, the derived set is proven with others of the same spec.
fn verify_a_container() {
    let name = format!("ctrace-test-{:x}", crate::support::unique() + 1);
    let ctrace = Ctrace::ready(command(&["caps", "--json", "--from-start", "--container", &name]));
    ctrace.wait_for("that it waits", |line| line.json["code"] == "waiting");
    let container = Runc::run(&["chroot", "pause"], &["CAP_SYS_CHROOT", "CAP_KILL", "CAP_CHOWN"]);
    assert_eq!(container.name, name, "the next one");
    wait_until("its program to have changed its root", || {
        ctrace.lines().iter().any(|line| line.json["code"] == "found").then_some(())
    });
    wait_until("its program to wait", || {
        let state = Command::new("runc").args(["ps", &name]).output().ok()?;
        String::from_utf8_lossy(&state.stdout).contains("/kernel play").then_some(())
    });
    let seen = report(ctrace);
    assert_eq!((&seen["needed"], &seen["startup_seen"]), (&json!(["CAP_SYS_CHROOT"]), &json!(true)), "{seen:#}");
    assert_eq!(seen["granted"], json!(["CAP_CHOWN", "CAP_KILL", "CAP_SYS_CHROOT"]));
    assert!(has(&seen, "runtime", Capability::CAP_SYS_ADMIN) && seen["container"]["runtime"] == "runc", "{seen:#}");
    // It lives for as long as its PID 1 does, which ends at once where it may not change its root.
    let alive = ["--", "sh", "-c", "sleep 0.3; test -d /proc/$CTRACE_PID/root/proc"];
    let verify = ["caps", "verify", "--container", &name, "--set", "SYS_CHROOT,KILL", "--format", "json"];
    let ended = run(command(&[&verify[..], &alive[..]].concat()));
    assert_eq!((ended.code, ended.out.len()), (Some(0), 1), "{ended:?}");
    let proof: Value = serde_json::from_str(&ended.out[0]).expect("an object");
    assert_eq!(
        (&proof["required"], &proof["tolerated"]),
        (&json!(["CAP_SYS_CHROOT"]), &json!(["CAP_KILL"])),
        "{proof:#}"
    );
    // Without a set: another of the same spec is watched first.
    let verify = ["caps", "verify", "--container", &name, "--format", "json"];
    let mut watched = Ctrace::start(command(&[&verify[..], &alive[..]].concat()));
    assert_eq!((watched.exited().code(), watched.lines().len()), (Some(0), 1), "{:?}", watched.errors());
    assert_eq!(made_by(watched.pid()), Vec::<PathBuf>::new());
    let proof = &watched.lines()[0].json;
    evidence::check_proof(proof);
    assert_eq!(
        (&proof["trials"][0]["set"], &proof["required"], &proof["tolerated"]),
        (&json!(["CAP_SYS_CHROOT"]), &json!(["CAP_SYS_CHROOT"]), &json!([])),
        "{proof:#}"
    );
    assert!(proof["notes"][0].as_str().is_some_and(|note| note.contains("with all 3 that it is given")), "{proof:#}");
}

/// What a run has made: its directory, and the cgroups of its containers.
fn made_by(verify: Pid) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let cgroups = mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    let all = cgroups.chain(["/run"]).flat_map(|path| std::fs::read_dir(path).into_iter().flatten().flatten());
    let own = |entry: &std::fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name == format!("ctrace-verify-{verify}") || name.starts_with(&format!("runc-ctrace-verify-{verify}-"))
    };
    all.filter(own).map(|entry| entry.path()).collect()
}

/// A verify that is in the middle of a trial: its check says so in a file, and hangs.
fn in_a_trial(container: &Runc) -> Ctrace {
    let here = container.home.path().join("here");
    let check = format!("echo $CTRACE_PID > {0}.new; mv {0}.new {0}; exec sleep 1000", here.display());
    let verify = ["caps", "verify", "--container", &container.name, "--set", "SYS_CHROOT", "--timeout", "1000s"];
    let verify = Ctrace::start(command(&[&verify[..], &["--", "sh", "-c", &check]].concat()));
    wait_until("the check to run", || here.exists().then_some(()));
    std::fs::remove_file(&here).expect("the file");
    assert!(made_by(verify.pid()).len() > 1, "a directory and cgroups");
    verify
}

/// Whatever ends it, nothing stays: what no end can clear away is gone with the next start.
fn nothing_is_left() {
    let container = Runc::run(&["chroot", "pause"], &["CAP_SYS_CHROOT"]);
    wait_until("the container to run", || {
        let state = Command::new("runc").args(["state", &container.name]).output().ok()?;
        String::from_utf8_lossy(&state.stdout).contains("\"running\"").then_some(())
    });
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut verify = in_a_trial(&container);
        verify.signal(signal);
        assert_eq!(verify.exited().code(), Some(1), "{signal}: {:?}", verify.errors());
        assert_eq!(verify.errors(), ["ctrace: ended by a signal: nothing is proven"], "{signal}");
        assert_eq!(made_by(verify.pid()), Vec::<PathBuf>::new(), "{signal}");
    }
    let mut killed = in_a_trial(&container);
    killed.signal(Signal::SIGKILL);
    killed.exited();
    assert!(made_by(killed.pid()).len() > 1, "nobody could clear away");
    let mut lives = in_a_trial(&container);
    assert_eq!(made_by(killed.pid()), Vec::<PathBuf>::new(), "the next one did");
    // A run beside it leaves it alone.
    let mut beside = in_a_trial(&container);
    beside.signal(Signal::SIGTERM);
    assert_eq!(beside.exited().code(), Some(1), "{:?}", beside.errors());
    assert!(made_by(lives.pid()).len() > 1, "it lives");
    lives.signal(Signal::SIGTERM);
    lives.exited();
}
