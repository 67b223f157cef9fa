//! What a container needs, what it was refused, and what only looks like a need.

use std::{os::unix::fs::symlink, process::Command};

use ::caps::Capability;
use serde_json::{Value, json};

use super::{has, report};
use crate::{
    harness::{Lack, Test},
    support::{
        capable::{self, EXCUSED, EXERCISES},
        cgroups::{Group, Tree},
        ctrace::{Ctrace, binary, command, run},
        evidence,
        player::{self, Player},
        tmux::Tmux,
        wait_until,
    },
};

pub static TESTS: &[Test] = &[
    Test::core("caps::each_capability_has_a_program_or_an_excuse", each_capability_has_a_program_or_an_excuse),
    Test::core("caps::each_capability_is_needed", each_capability_is_needed),
    Test::core("caps::each_capability_is_missed", each_capability_is_missed),
    Test::core("caps::by_a_kprobe_and_a_kretprobe", by_a_kprobe_and_a_kretprobe).needs(&[Lack::Kprobes]),
    Test::core("caps::from_the_start_without_the_runtime", from_the_start_without_the_runtime),
    Test::core("caps::what_comes_by_exec", what_comes_by_exec),
    Test::core("caps::what_came_by_exec_before", what_came_by_exec_before),
    Test::core("caps::what_came_by_exec_is_an_orphan", what_came_by_exec_is_an_orphan),
    Test::core("caps::a_fork_that_was_missed", a_fork_that_was_missed),
    Test::core("caps::what_a_files_opener_has", what_a_files_opener_has),
    Test::core("caps::a_unit_from_its_start", a_unit_from_its_start),
    Test::full("caps::a_unit_by_its_executor", a_unit_by_its_executor),
    Test::full("caps::one_of_two_is_enough", one_of_two_is_enough),
    Test::core("caps::what_a_fault_asks_is_no_calls", what_a_fault_asks_is_no_calls),
    Test::core("caps::below_and_outside", below_and_outside),
    Test::core("caps::each_check_is_counted", each_check_is_counted),
    Test::core("caps::eperm_of_a_filter", eperm_of_a_filter),
    Test::native("caps::returns_that_are_too_many", returns_that_are_too_many),
    Test::full("caps::another_user_namespace", another_user_namespace),
    Test::full("caps::on_a_terminal", on_a_terminal).needs(&[Lack::Tmux]),
    Test::full("caps::it_ends_with_the_container", it_ends_with_the_container),
    Test::full("caps::one_object_on_stdout", one_object_on_stdout),
];

/// `ctrace caps` of a container that runs, attached.
fn watching(group: &Group) -> Ctrace {
    Ctrace::ready(command(&["caps", "--json", "--container", group.name()]))
}

/// Plays the steps as the container's own program: PID 1, after an exec.
fn application(group: &Group, steps: &[&str]) -> Player {
    let own = player::program();
    let exec = ["exec", own.as_str(), "play"];
    Player::as_init(group, &exec.into_iter().chain(steps.iter().copied()).collect::<Vec<_>>())
}

/// The capabilities that this machine gives, of those that there is a program for.
fn here() -> Vec<(Capability, &'static str)> {
    let all = capable::all();
    let asked = |own: &Capability| all.contains(own) && capable::is_asked(*own);
    EXERCISES.iter().filter(|(own, ..)| asked(own)).map(|(own, call, _)| (*own, *call)).collect()
}

/// The evidence of a verdict on a capability in a call.
fn row<'a>(report: &'a Value, capability: Capability, call: &str, verdict: &str) -> Option<&'a Value> {
    let rows = report["evidence"].as_array().expect("evidence");
    rows.iter()
        .find(|row| row["capability"] == capability.to_string() && row["syscall"] == call && row["verdict"] == verdict)
}

fn each_capability_has_a_program_or_an_excuse() {
    for one in ::caps::all() {
        let programs = EXERCISES.iter().filter(|(own, ..)| *own == one).count();
        let excuses = EXCUSED.iter().filter(|(own, _)| *own == one).count();
        assert_eq!(programs + excuses, 1, "{one}");
    }
}

fn each_capability_is_needed() {
    needed(watching);
}

/// `watch`: has ctrace watch it.
fn needed(watch: fn(&Group) -> Ctrace) {
    let tree = Tree::new();
    let group = tree.container();
    let mut app = application(&group, &["caps", "pause"]);
    app.said("ready");
    let ctrace = watch(&group);
    app.go();
    app.said("done");
    let report = report(ctrace);
    assert_eq!(report["container"]["id"], group.name());
    assert_eq!((&report["startup_seen"], &report["uncounted"]), (&json!(false), &json!(0)));
    for (capability, call) in here() {
        assert!(app.heard(&format!("{capability} 0")), "{capability}: {:?}", app.lines());
        let found = row(&report, capability, call, "needed");
        assert!(found.is_some() && has(&report, "needed", capability), "{capability} in {call}: {report:#}");
        let found = found.expect("looked at above");
        assert!(found["stack"].as_array().is_some_and(|stack| !stack.is_empty()), "no stack: {found}");
        assert!(!has(&report, "unused", capability), "{capability} is used");
    }
    // Memory is accounted at every mapping, and that is no need of anything.
    assert!(row(&report, Capability::CAP_SYS_ADMIN, "mmap", "needed").is_none(), "{report:#}");
    app.go();
    app.said("over");
}

/// Near misses: the same programs, each without its own capability. Nothing of it is called needed.
fn each_capability_is_missed() {
    missed(watching);
}

fn missed(watch: fn(&Group) -> Ctrace) {
    let tree = Tree::new();
    let group = tree.container();
    let mut app = application(&group, &["caps=without", "pause"]);
    app.said("ready");
    let ctrace = watch(&group);
    app.go();
    app.said("done");
    for (capability, call) in here() {
        ctrace.wait_for(&format!("caps.denied of {capability}"), |line| {
            let evidence = &line.json["evidence"];
            line.json["code"] == "caps.denied"
                && evidence["capability"] == capability.to_string()
                && evidence["syscall"] == call
                && line.json["container"]["id"] == group.name()
        });
    }
    let report = report(ctrace);
    for (capability, call) in here() {
        assert!(!app.heard(&format!("{capability} 0")), "{capability} was not needed: {:?}", app.lines());
        let found = row(&report, capability, call, "denied");
        let result = found.map(|row| &row["results"][0]);
        assert!(
            result == Some(&json!("EPERM")) || result == Some(&json!("EACCES")),
            "{capability} in {call}: {report:#}"
        );
        // To be without one, the others ask for SETPCAP.
        let needed = capability != Capability::CAP_SETPCAP && has(&report, "needed", capability);
        assert!(!needed, "{capability}: {report:#}");
    }
    app.go();
    app.said("over");
}

/// The last branch of the plan: needs and refusals are the same as by the others.
fn by_a_kprobe_and_a_kretprobe() {
    let watch = |group: &Group| {
        let mut ctrace = command(&["caps", "--json", "--container", group.name()]);
        ctrace.env("CTRACE_WITHOUT", "cap_checked_fexit,cap_checked");
        let ctrace = Ctrace::ready(ctrace);
        let ready = ctrace.wait_for("by what", |line| line.json["code"] == "ready");
        assert_eq!(ready.json["probes"]["cap_check"], "kprobe and kretprobe cap_capable", "{ready:?}");
        ctrace
    };
    needed(watch);
    missed(watch);
}

/// What happens before the container's own program runs is the runtime's, and no need.
fn from_the_start_without_the_runtime() {
    let tree = Tree::new();
    let group = tree.group("docker"); // its parent is there; the container itself is not
    let id = crate::support::cgroups::container_id();
    let ctrace = Ctrace::ready(command(&["caps", "--json", "--from-start", "--container", &id]));
    ctrace.wait_for("that it waits", |line| line.json["code"] == "waiting");
    let own = player::program();
    let group = tree.group(&format!("{}/{id}", group.name()));
    // The runtime changes its user and its root; the application sends a signal.
    let runtime = [
        "try=CAP_SYS_CHROOT",
        "try=CAP_SETGID",
        "exec",
        &own,
        "play",
        "say=ready",
        "try=CAP_KILL",
        "say=done",
        "pause",
    ];
    let app = Player::as_init(&group, &runtime);
    app.said("done");
    ctrace.wait_for("that it is here", |line| line.json["code"] == "found");
    let report = report(ctrace);
    assert_eq!(report["startup_seen"], true);
    for capability in [Capability::CAP_SYS_CHROOT, Capability::CAP_SETGID] {
        assert!(has(&report, "runtime", capability) && !has(&report, "needed", capability), "{capability}: {report:#}");
        assert!(has(&report, "unused", capability), "{capability}: {report:#}");
    }
    assert!(has(&report, "needed", Capability::CAP_KILL), "{report:#}");
    let not = report["not_exercised"].as_array().expect("a list");
    assert!(!not.contains(&json!("startup")) && not.contains(&json!("stop")), "{report:#}");
}

/// What is started beside the application, as `docker exec` does, is kept apart; also its children.
fn what_comes_by_exec() {
    guest_is_kept_apart(watching, &["try=CAP_CHOWN"], "child");
}

/// What `docker exec` started goes into the background: whose it was is known of its fork alone.
fn what_came_by_exec_is_an_orphan() {
    guest_is_kept_apart(watching, &["try=CAP_CHOWN"], "orphan");
}

/// The kernel side keeps so many processes and no more, and the kernel may skip a program: a child of the application's
/// that it does not know is the application's, and one of what came by exec is that one's.
fn a_fork_that_was_missed() {
    let watch = |group: &Group| {
        let mut ctrace = command(&["caps", "--json", "--container", group.name()]);
        ctrace.env("CTRACE_WITHOUT", "cap_fork");
        Ctrace::ready(ctrace)
    };
    guest_is_kept_apart(watch, &["child", "try=CAP_CHOWN"], "child");
}

/// `own`: how the application asks for CAP_CHOWN; `guest`: in which process what comes by exec asks for CAP_SYS_CHROOT.
fn guest_is_kept_apart(watch: fn(&Group) -> Ctrace, own: &[&str], guest: &str) {
    let tree = Tree::new();
    let group = tree.container();
    let mut app = application(&group, &[&["say=ready", "await"], own, &["say=done", "pause"]].concat());
    app.said("ready");
    let ctrace = watch(&group);
    let program = player::program();
    let guest = Player::within(&group, &["mounts", "exec", &program, "play", guest, "chroot", "say=guest", "pause"]);
    guest.said("guest");
    app.go();
    app.said("done");
    are_apart(&report(ctrace));
}

fn are_apart(report: &Value) {
    for (capability, whose) in [(Capability::CAP_CHOWN, "needed"), (Capability::CAP_SYS_CHROOT, "exec")] {
        for list in ["needed", "exec", "runtime"] {
            assert_eq!(has(report, list, capability), list == whose, "{capability} in {list}: {report:#}");
        }
    }
}

/// Also what came before the watch began: its parents lead out of the container.
fn what_came_by_exec_before() {
    let tree = Tree::new();
    let group = tree.container();
    let mut app = application(&group, &["say=ready", "await", "try=CAP_CHOWN", "say=done", "pause"]);
    app.said("ready");
    let own = player::program();
    let steps = ["mounts", "exec", &own, "play", "say=guest", "await", "chroot", "say=asked", "pause"];
    let mut guest = Player::within(&group, &steps);
    guest.said("guest");
    let ctrace = watching(&group);
    guest.go();
    guest.said("asked");
    app.go();
    app.said("done");
    are_apart(&report(ctrace));
}

/// Who reads /proc/PID/pagemap is shown frames where whoever opened the file had CAP_SYS_ADMIN: no need of the reader's.
fn what_a_files_opener_has() {
    let tree = Tree::new();
    let group = tree.container();
    let mut app = application(&group, &["say=ready", "await", "pagemap=65534", "say=done", "pause"]);
    app.said("ready");
    let ctrace = watching(&group);
    app.go();
    app.said("done");
    let report = report(ctrace);
    let admin = Capability::CAP_SYS_ADMIN;
    let asked = row(&report, admin, "read", "probed");
    assert!(asked.is_some_and(|row| row["reason"].as_str().is_some_and(|why| why.contains("opener"))), "{report:#}");
    assert!(row(&report, admin, "read", "needed").is_none(), "{report:#}");
}

/// A service has no namespaces of its own: its first exec is its start.
fn a_unit_from_its_start() {
    from_its_start(|own| vec!["try=CAP_SYS_CHROOT".to_owned(), "exec".to_owned(), own]);
}

/// Since systemd 254 a program of its own sets the service up.
fn a_unit_by_its_executor() {
    let folder = tempfile::tempdir().expect("a folder");
    let executor = folder.path().join("systemd-executor");
    symlink(player::program(), &executor).expect("another name");
    from_its_start(|own| {
        let steps = ["exec", executor.to_str().expect("text"), "play", "try=CAP_SYS_CHROOT", "exec", &own];
        steps.map(str::to_owned).to_vec()
    });
}

/// `set_up`: what runs in the service's cgroup until its program is run, whose path it is given.
fn from_its_start(set_up: impl FnOnce(String) -> Vec<String>) {
    let tree = Tree::new();
    let slice = tree.group("system.slice");
    let name = format!("ctrace-{:x}.service", crate::support::unique());
    let ctrace = Ctrace::ready(command(&["caps", "--json", "--from-start", "--container", &name]));
    ctrace.wait_for("that it waits", |line| line.json["code"] == "waiting");
    let own = player::program();
    let unit = tree.group(&format!("{}/{name}", slice.name()));
    let set_up = set_up(own);
    let steps = set_up.iter().map(String::as_str).chain(["play", "say=ready", "try=CAP_KILL", "say=done", "pause"]);
    let app = Player::within(&unit, &steps.collect::<Vec<_>>());
    app.said("done");
    ctrace.wait_for("that it is here", |line| line.json["code"] == "found");
    let report = report(ctrace);
    assert_eq!((&report["startup_seen"], &report["container"]["runtime"]), (&json!(true), &json!("systemd")));
    assert!(has(&report, "needed", Capability::CAP_KILL), "{report:#}");
    let chroot = Capability::CAP_SYS_CHROOT;
    assert!(has(&report, "runtime", chroot) && !has(&report, "needed", chroot), "{report:#}");
}

/// Refused the one and granted the other in the same call: nothing is missing.
fn one_of_two_is_enough() {
    let tree = Tree::new();
    let group = tree.container();
    let mut app = application(&group, &["say=ready", "await", "read-by-override", "say=done", "pause"]);
    app.said("ready");
    let ctrace = watching(&group);
    app.go();
    app.said("done");
    let report = report(ctrace);
    let (search, other) = (Capability::CAP_DAC_READ_SEARCH, Capability::CAP_DAC_OVERRIDE);
    let asked = row(&report, search, "openat", "probed").expect("asked first");
    assert!(asked["reason"].as_str().is_some_and(|why| why.contains("granted in the same call")), "{report:#}");
    assert!(!has(&report, "denied", search) && has(&report, "needed", other), "{report:#}");
}

/// A stack that grows asks in passing, in no call: the next call that fails was refused nothing.
fn what_a_fault_asks_is_no_calls() {
    let tree = Tree::new();
    let group = tree.container();
    // Another user has none.
    let steps = ["uid=65534", "say=ready", "await", "grow-stack", "anon=4", "say=done", "pause"];
    let mut app = application(&group, &steps);
    app.said("ready");
    let ctrace = watching(&group);
    app.go();
    app.said("done");
    // It comes after, and is told.
    ctrace.wait_for("what was refused", |line| line.json["evidence"]["capability"] == "CAP_SYS_CHROOT");
    let admin = |json: &Value| json["evidence"]["capability"] == "CAP_SYS_ADMIN";
    let told = ctrace.lines().into_iter().find(|line| line.json["code"] == "caps.denied" && admin(&line.json));
    assert!(told.is_none(), "{told:?}");
    let report = report(ctrace);
    let rows = report["evidence"].as_array().expect("evidence");
    let admin = |call: &Value| rows.iter().any(|row| row["capability"] == "CAP_SYS_ADMIN" && row["syscall"] == *call);
    // In older kernels the compiler has drawn the accounting's question into its caller: it is not seen in any call either.
    assert_eq!(admin(&Value::Null), admin(&json!("mmap")), "the stack grew by a fault: {report:#}");
}

/// A cgroup that is made below the container's is the container's; whoever moves out of it is no longer.
fn below_and_outside() {
    let tree = Tree::new();
    let (group, outside) = (tree.container(), tree.container());
    let below = group.directory().join("below");
    let steps = ["say=ready", "await", &format!("enter={}", below.display()), "try=CAP_CHOWN", "name-hosts=3,0"];
    let leave = [&player::enter(&outside), "name-hosts=100,0", "chroot", "say=done", "pause"];
    let mut app = application(&group, &[&steps[..], &leave[..]].concat());
    app.said("ready");
    let ctrace = watching(&group);
    std::fs::create_dir(&below).expect("a cgroup");
    app.go();
    app.said("done");
    let report = report(ctrace);
    assert!(has(&report, "needed", Capability::CAP_CHOWN), "{report:#}");
    let rows = report["evidence"].as_array().expect("evidence");
    assert!(!rows.iter().any(|row| row["capability"] == "CAP_SYS_CHROOT"), "{report:#}");
    let within = row(&report, Capability::CAP_SYS_ADMIN, "sethostname", "needed");
    assert_eq!(within.map(|row| &row["count"]), Some(&json!(3)), "it asked outside for the same: {report:#}");
}

/// One that asks the same again and again is counted in a shorter way, which must not lose any, nor take one for another.
fn each_check_is_counted() {
    let tree = Tree::new();
    let group = tree.container();
    let steps =
        ["say=ready", "await", "name-hosts=1250,630", "say=done", "await", "name-hosts=7,0", "say=over", "pause"];
    let mut app = application(&group, &steps);
    app.said("ready");
    let ctrace = watching(&group);
    for word in ["done", "over"] {
        app.go();
        app.said(word);
    }
    let report = report(ctrace);
    for (call, count) in [("sethostname", 1257), ("setdomainname", 630)] {
        let row = row(&report, Capability::CAP_SYS_ADMIN, call, "needed");
        assert_eq!(row.map(|row| &row["count"]), Some(&json!(count)), "{call}: {report:#}");
    }
}

/// EPERM that no capability is the reason of; beside it one of which a capability is.
fn eperm_of_a_filter() {
    let tree = Tree::new();
    let (filtered, free) = (tree.container(), tree.container());
    let mut app = application(&filtered, &["say=ready", "await", "filter", "keyctl", "say=done", "pause"]);
    let mut other = application(&free, &["say=ready", "await", "keyctl", "say=done", "pause"]);
    app.said("ready");
    other.said("ready");
    let (ctrace, beside) = (watching(&filtered), watching(&free));
    app.go();
    other.go();
    let finding = ctrace.finding("caps.not-a-capability", &filtered).json;
    assert_eq!(finding["evidence"]["syscall"], "keyctl");
    other.said("done");
    let ended = report(ctrace);
    assert_eq!(ended["not_a_capability"][0]["results"], json!(["EPERM"]), "{ended:#}");
    assert!(ended["not_a_capability"][0]["reason"].as_str().is_some_and(|why| why.contains("seccomp")), "{ended:#}");
    let near = report(beside);
    assert_eq!(near["not_a_capability"], json!([]), "{near:#}");
}

/// Calls that return so fast that each CPU would spend a part of its time on looking at them: they are not looked at for a
/// while, which is said, and then again.
fn returns_that_are_too_many() {
    let tree = Tree::new();
    let group = tree.container();
    let steps = ["say=ready", "await", "calls=5000000", "say=done", "await", "filter", "keyctl-often"];
    let mut app = application(&group, &steps);
    app.said("ready");
    let ctrace = watching(&group);
    app.go();
    app.said("done");
    app.go();
    let finding = ctrace.finding("caps.not-a-capability", &group).json;
    assert_eq!(finding["evidence"]["syscall"], "keyctl");
    let report = report(ctrace);
    let why = report["unknown"]["results"].as_str().unwrap_or_default();
    assert!(why.contains("were not looked at for") && why.contains("a CPU had more"), "{report:#}");
}

/// In a user namespace of its own, what is asked of the host's is not the container's to have.
fn another_user_namespace() {
    let tree = Tree::new();
    let group = tree.container();
    let own = player::program();
    let enter = player::enter(&group);
    let steps = [&enter, "userns", "pidns", "exec", &own, "play", "caps", "pause"];
    let mut app = Player::bare(&steps);
    app.said("ready");
    let ctrace = watching(&group);
    app.go();
    app.said("done");
    let report = report(ctrace);
    let mknod = Capability::CAP_MKNOD;
    assert!(has(&report, "other_namespace", mknod) && !has(&report, "denied", mknod), "{report:#}");
    let chroot = Capability::CAP_SYS_CHROOT;
    assert!(has(&report, "needed", chroot) && !has(&report, "other_namespace", chroot), "{report:#}");
    app.go();
    app.said("over");
}

/// What is asked for is seen while it is watched; q ends the watch, and leaves the set to paste.
fn on_a_terminal() {
    let tree = Tree::new();
    let group = tree.container();
    let steps = ["say=ready", "await", "try=CAP_CHOWN", "say=one", "await", "chroot", "say=two", "pause"];
    let mut app = application(&group, &steps);
    app.said("ready");
    let tmux = Tmux::shell(80, 24, &[]);
    tmux.types(&format!("clear; {} caps --container {}", binary().display(), group.name()));
    // The screen is there before anything is watched; what was given is read afterwards.
    tmux.sees("never used");
    app.go();
    app.said("one");
    let row = |screen: &str, name: &str| {
        screen.lines().any(|line| line.contains(name) && line.contains("needed") && line.contains("kernel"))
    };
    tmux.until("what it needs", |screen| row(screen, "CHOWN") && !row(screen, "SYS_CHROOT"));
    app.go();
    app.said("two");
    tmux.until("what it needs later", |screen| row(screen, "CHOWN") && row(screen, "SYS_CHROOT"));
    tmux.keys(&["q"]);
    let result = |screen: &str| {
        screen.contains("docker run --cap-drop ALL --cap-add CHOWN") && screen.contains("not exercised while watching")
    };
    tmux.until("the result", result);
}

fn it_ends_with_the_container() {
    let tree = Tree::new();
    let group = tree.container();
    let mut app = application(&group, &["say=ready", "await", "try=CAP_CHOWN", "say=done"]);
    app.said("ready");
    let mut ctrace = watching(&group);
    app.go();
    app.ended();
    wait_until("the cgroup to go", || std::fs::remove_dir(group.directory()).ok());
    assert_eq!(ctrace.exited().code(), Some(0));
    let lines = ctrace.lines();
    let report = &lines.last().expect("a report").json;
    evidence::check(report);
    assert_eq!((&report["type"], &report["ended"]), (&json!("caps"), &json!(true)));
    assert!(has(report, "needed", Capability::CAP_CHOWN), "{report:#}");
}

/// What is pasted or read by a program has stdout for itself; too short a watch says that it is.
fn one_object_on_stdout() {
    let tree = Tree::new();
    let group = tree.container();
    let app = application(&group, &["say=ready", "pause"]);
    app.said("ready");
    let with = |arguments: &[&str]| -> Command {
        command(&[&["caps", "--container", group.name(), "--for", "200ms"], arguments].concat())
    };
    let ended = run(with(&["--format", "json"]));
    assert_eq!((ended.code, ended.out.len()), (Some(0), 1), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.out[0]).expect("an object");
    evidence::check(&report);
    assert_eq!(report["evidence"], json!([]));
    let ended = run(with(&["--format", "docker"]));
    assert!(ended.out.iter().any(|line| line == "docker run --cap-drop ALL"), "{ended:?}");
    assert!(ended.out.iter().any(|line| line.contains("NOTHING WAS ASKED FOR")), "{ended:?}");
    let ended = run(with(&[]));
    assert!(ended.out.iter().any(|line| line.contains("Watch longer")), "{ended:?}");
    let unknown = run(command(&["caps", "--container", "no-such-one"]));
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.err[0].contains("no container no-such-one"), "{unknown:?}");
}
