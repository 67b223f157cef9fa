//! `ctrace record`, `--record` and `ctrace replay`: what was seen comes back, byte for byte.

use std::{fs, path::Path};

use nix::sys::signal::Signal;

use crate::{
    harness::Test,
    net::street::{OUTSIDE, PORT, Street},
    support::{
        cgroups::Tree,
        cpu::{CpuTree, play as play_cpu, quota},
        ctrace::{Ctrace, Ended, command, run},
        disk::Scratch,
        pids::{PidsTree, play as play_pids},
        player::Player,
        unique, wait_until,
    },
};

pub static TESTS: &[Test] = &[
    Test::core("record::oom", oom),
    Test::full("record::oom_as_lines", oom_as_lines),
    Test::core("record::exits_and_signals", exits_and_signals),
    Test::full("record::pids", pids),
    Test::full("record::mem", mem),
    Test::full("record::io", io),
    Test::full("record::cpu", cpu),
    Test::full("record::net", net),
    Test::full("record::flow", flow),
    Test::full("record::caps", caps),
    Test::core("record::overview", overview),
    Test::core("record::killed_while_it_writes", killed_while_it_writes),
    Test::full("record::a_damaged_tail", a_damaged_tail),
    Test::full("record::nothing_is_written_over", nothing_is_written_over),
    Test::full("record::to_its_size", to_its_size),
];

fn replay(file: &Path, more: &[&str]) -> Ended {
    let file = file.to_str().expect("plain text");
    run(command(&[&["replay", file], more].concat()))
}

fn recorded(lens: &[&str], form: &str, file: &Path) -> Ctrace {
    let file = file.to_str().expect("plain text");
    Ctrace::ready(command(&[lens, &[form, "--record", file]].concat()))
}

/// What this run says, and what its recording says, are the same.
fn comes_back(lens: &[&str], form: &str, incident: impl FnOnce(&Ctrace)) {
    let file = Scratch::new();
    let ctrace = recorded(lens, form, file.path());
    incident(&ctrace);
    let live: Vec<String> = ctrace.stop().lines.into_iter().map(|line| line.text).collect();
    if lens[0] == "caps" {
        assert!(live.last().is_some_and(|report| report.contains("CAP_SYS_CHROOT")), "{live:?}");
    }
    let replayed = replay(file.path(), &[form]);
    assert_eq!((replayed.code, &replayed.err[..]), (Some(0), &[][..]));
    assert_eq!(replayed.out, live);
}

fn oom() {
    let tree = Tree::new();
    comes_back(&["oom"], "--json", |ctrace| {
        let container = tree.container().limited(24);
        Player::within(&container, &["anon"]).ended();
        ctrace.finding("oom.container-limit", &container);
    });
}

fn oom_as_lines() {
    let tree = Tree::new();
    comes_back(&["oom"], "--lines", |ctrace| {
        let container = tree.container().limited(24);
        Player::within(&container, &["anon"]).ended();
        let name = container.path.rsplit('/').next().expect("a path").chars().take(12).collect::<String>();
        ctrace.wait_for("the kill", |line| line.text.contains("oom.container-limit") && line.text.contains(&name));
    });
}

fn exits_and_signals() {
    let tree = Tree::new();
    comes_back(&["exits"], "--json", |ctrace| {
        let container = tree.container();
        Player::within(&container, &["exit=3"]).ended();
        ctrace.finding("exit.error", &container);
    });
    comes_back(&["signals"], "--json", |ctrace| {
        let container = tree.container();
        let init = Player::as_init(&container, &["say=init", "pause"]);
        let init = init.said("init").pid;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(init as i32), Signal::SIGTERM).expect("it lives");
        ctrace.finding("signal.init-ignored", &container);
    });
}

fn pids() {
    let tree = PidsTree::new();
    comes_back(&["pids"], "--json", |ctrace| {
        let container = tree.container();
        let littered = play_pids(&container, &["say=left", "zombies=12", "pause"]);
        littered.said("left");
        ctrace.finding("pids.zombies", &container);
    });
}

fn mem() {
    let tree = Tree::new();
    let file = Scratch::new();
    let write = format!("file={}=64", file.path().display());
    comes_back(&["mem"], "--json", |ctrace| {
        let container = tree.container().limited(32);
        let _writer = Player::within(&container, &[&write, "pause"]);
        ctrace.finding("mem.page-cache", &container);
    });
}

fn io() {
    let tree = Tree::new();
    let at = format!("/tmp/ctrace-test-{:x}", unique());
    fs::create_dir(&at).expect("a mount point");
    let (tmpfs, fill) = (format!("tmpfs={at}=size=1m"), format!("fill={at}/data"));
    comes_back(&["io"], "--json", |ctrace| {
        let container = tree.container();
        let _writer = Player::within(&container, &["mounts", &tmpfs, "say=writer", &fill, "pause"]);
        ctrace.finding("fs.no-space", &container);
    });
    let _ = fs::remove_dir(&at);
}

fn cpu() {
    let tree = CpuTree::new();
    comes_back(&["cpu"], "--json", |ctrace| {
        let container = tree.container();
        quota(&container, 50);
        let _busy = play_cpu(&container, &["busy=4", "pause"]);
        ctrace.finding("cpu.throttled", &container);
    });
}

/// Each packet of a flow, also those that are told at the end alone.
fn flow() {
    for form in ["--json", "--lines"] {
        let tree = Tree::new();
        let container = tree.container();
        let street = Street::new(&container);
        let flow = format!("udp/{OUTSIDE}/{PORT}");
        comes_back(&["net", "--flow", &flow], form, |ctrace| {
            street.send(3, 100);
            ctrace
                .wait_for("a packet's way", |line| line.text.contains("NO_SOCKET") || line.text.contains("__udp4_lib"));
            street.send(1, 100);
        });
    }
}

fn net() {
    let tree = Tree::new();
    let container = tree.container();
    let street = Street::new(&container);
    comes_back(&["net"], "--json", |ctrace| {
        // With the first sample the kernel side knows whose packets are meant.
        ctrace.wait_for("the hops", |line| line.json["sample"] == "net" && line.json["cgroup"] == container.path);
        street.run("c", "iptables -A OUTPUT -p udp -j DROP");
        street.send(7, 100);
        ctrace.finding("net.dropped", &container);
    });
}

fn caps() {
    let tree = Tree::new();
    let container = tree.container();
    let mut player = Player::as_init(&container, &["say=there", "await", "chroot", "say=done", "pause"]);
    player.said("there");
    comes_back(&["caps", "--container", container.name()], "--json", |_| {
        player.go();
        player.said("done");
    });
}

/// Every lens over one incident; and of its recording one lens, and one container.
fn overview() {
    let tree = Tree::new();
    let file = Scratch::new();
    let ctrace = recorded(&[], "--json", file.path());
    let (killed, failed) = (tree.container().limited(24), tree.container());
    Player::within(&killed, &["anon"]).ended();
    Player::within(&failed, &["exit=3"]).ended();
    ctrace.finding("oom.container-limit", &killed);
    ctrace.finding("exit.error", &failed);
    let live: Vec<String> = ctrace.stop().lines.into_iter().map(|line| line.text).collect();
    let all = replay(file.path(), &["--json"]);
    assert_eq!((all.code, &all.err[..]), (Some(0), &[][..]));
    assert_eq!(all.out, live);
    let findings = |ended: &Ended, code: &str| ended.out.iter().filter(|line| line.contains(code)).count();
    let one = replay(file.path(), &["exits", "--json", "--container", &failed.path]);
    assert_eq!(findings(&one, "\"code\":\"exit.error\""), 1, "{one:?}");
    assert_eq!(findings(&one, "\"code\":\"oom.container-limit\""), 0, "{one:?}");
    let none = replay(file.path(), &["caps", "--json"]);
    assert_eq!(none.code, Some(1));
    assert!(none.err.concat().contains("caps was not recorded"), "{none:?}");
}

/// What was said a second before it was killed is in the file, and is said again.
fn killed_while_it_writes() {
    let tree = Tree::new();
    let file = Scratch::new();
    let mut ctrace = recorded(&["exits"], "--json", file.path());
    let container = tree.container();
    Player::within(&container, &["exit=3"]).ended();
    let told = ctrace.finding("exit.error", &container).text;
    wait_until("the finding to be in the file", || replay(file.path(), &["--json"]).out.contains(&told).then_some(()));
    ctrace.signal(Signal::SIGKILL);
    ctrace.exited();
    let live: Vec<String> = ctrace.lines().into_iter().map(|line| line.text).collect();
    let replayed = replay(file.path(), &["--json"]);
    assert_eq!(replayed.code, Some(0));
    assert!(replayed.err.concat().contains("without an end"), "{:?}", replayed.err);
    assert!(replayed.out.contains(&told));
    assert_eq!(replayed.out[..], live[..replayed.out.len()]);
}

/// Cut, or changed: what is before that is read, and what is lost is told.
fn a_damaged_tail() {
    let tree = Tree::new();
    let (file, copy) = (Scratch::new(), Scratch::new());
    let ctrace = recorded(&["exits"], "--json", file.path());
    let container = tree.container();
    Player::within(&container, &["exit=3"]).ended();
    let told = ctrace.finding("exit.error", &container).text;
    wait_until("the finding to be in the file", || replay(file.path(), &["--json"]).out.contains(&told).then_some(()));
    ctrace.stop();
    let good = fs::read(file.path()).expect("the recording");
    let whole = replay(file.path(), &["--json"]).out;
    let mut changed = good.clone();
    *changed.last_mut().expect("bytes") ^= 1;
    for damaged in [&good[..good.len() - 5], &changed[..]] {
        fs::write(copy.path(), damaged).expect("a copy");
        let replayed = replay(copy.path(), &["--json"]);
        assert_eq!(replayed.code, Some(0));
        let said = replayed.err.concat();
        assert!(said.contains("damaged after") && said.contains("bytes were not read"), "{said}");
        assert!(replayed.out.contains(&told));
        assert_eq!(replayed.out[..], whole[..replayed.out.len()]);
    }
}

fn nothing_is_written_over() {
    let file = Scratch::new();
    fs::write(file.path(), "precious").expect("a file");
    let name = file.path().to_str().expect("plain text");
    let refused = run(command(&["record", "exits", "-o", name, "--for", "100ms"]));
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.concat().contains("is there already"), "{refused:?}");
    assert_eq!(fs::read(file.path()).expect("the file"), b"precious");
    let forced = run(command(&["record", "exits", "-o", name, "--for", "100ms", "--force"]));
    assert_eq!(forced.code, Some(0), "{forced:?}");
    assert!(forced.err.concat().contains("recorded"), "{forced:?}");
    assert_eq!(replay(file.path(), &["--json"]).code, Some(0));
}

/// A recording that is full ends well.
fn to_its_size() {
    let file = Scratch::new();
    let name = file.path().to_str().expect("plain text");
    let ended = run(command(&["record", "-o", name, "--max-size", "2kB"]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.concat().contains("its size"), "{ended:?}");
    let replayed = replay(file.path(), &["--json"]);
    assert_eq!((replayed.code, &replayed.err[..]), (Some(0), &[][..]));
}
