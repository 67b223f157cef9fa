//! Many lives, short ones, at once: every exit has the right container, none a wrong one.

use std::{
    collections::HashMap,
    fs,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::live;
use crate::{
    harness::{in_virtual_machine, measured},
    support::{
        cgroups::{Group, Tree},
        ctrace::{Ctrace, Said, command, is_skip},
        engines::{Place, containerd::Containerd, docker::Docker, output, runc::Bundle},
        player::Player,
        unique,
    },
};

/// An emulated machine has no time for as many.
fn count(natively: usize, in_a_machine: usize) -> usize {
    if in_virtual_machine() { in_a_machine } else { natively }
}

/// Runs `work` for each number, so many at once.
fn in_parallel<T: Send>(count: usize, at_once: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = Mutex::new(0..count);
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_once.min(count) {
            scope.spawn(|| {
                loop {
                    let Some(number) = next.lock().expect("no panic").next() else { return };
                    let result = work(number);
                    results.lock().expect("no panic").push(result);
                }
            });
        }
    });
    results.into_inner().expect("no panic")
}

/// All that ctrace told, once it has told what was before this.
fn told_all(ctrace: Ctrace) -> Said {
    // One more exit behind all others: what is told is told in order.
    let tree = Tree::new();
    let mut last = Player::within(&tree.container(), &["say=last", "exit=0"]);
    let pid = last.said("last").pid;
    last.ended();
    ctrace.wait_for("the last exit", |line| line.json["event"] == "exit" && line.json["process"]["pid"] == pid);
    ctrace.stop()
}

/// Waits until ctrace has told the exits of all these, and ends it.
fn settled(ctrace: Ctrace, truth: &HashMap<u64, String>, is_pid: impl Fn(&Value) -> Option<u64>) -> Said {
    let said = told_all(ctrace);
    let losses = said.lines.iter().map(|line| &line.json).filter(|line| line["type"] == "loss" && !is_skip(line));
    let lost: Vec<&Value> = losses.collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    let skipped = said.skipped("exit");
    let mut right = 0;
    let mut named = 0;
    for exit in said.lines.iter().map(|line| &line.json).filter(|line| line["event"] == "exit") {
        let Some(want) = is_pid(exit).and_then(|pid| truth.get(&pid)) else { continue };
        assert_eq!(exit["container"]["id"], json!(want), "a wrong container: {exit}");
        right += 1;
        named += usize::from(exit["container"]["name"].is_string());
    }
    let missing = truth.len() - right;
    assert!(
        missing <= skipped && missing * 5 <= truth.len(),
        "{right} exits told, {skipped} skipped, of {}",
        truth.len()
    );
    measured(format!(
        "{right} exits, all of the right container; {named} with its name; {skipped} skipped by the kernel"
    ));
    assert!(named * 100 >= right * 99, "only {named} of {right} exits have the container's name");
    said
}

/// The host's pid of a container's PID 1.
fn init_pid(exit: &Value) -> Option<u64> {
    if exit["process"]["ns_pid"] == 1 { exit["process"]["pid"].as_u64() } else { None }
}

/// No exit of a PID 1 is told of a container of ours that is not its own.
fn none_too_many(said: &Said, truth: &HashMap<u64, String>) {
    let ours: Vec<&String> = truth.values().collect();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for exit in said.lines.iter().map(|line| &line.json).filter(|line| init_pid(line).is_some()) {
        if let Some(id) = exit["container"]["id"].as_str()
            && ours.iter().any(|own| *own == id)
        {
            *seen.entry(id).or_default() += 1;
        }
    }
    let more: Vec<_> = seen.iter().filter(|(_, count)| **count != 1).collect();
    assert!(more.is_empty(), "not one PID 1 each: {more:?}");
}

pub fn short_lives_by_runc() {
    let place = Place::new();
    let ctrace = live("exits", &[]);
    let truth: HashMap<u64, String> = in_parallel(count(1000, 50), 50, |_| {
        let id = format!("short-{:x}", unique());
        let bundle = Bundle::new(&place, "runc", &id, &["/bin/true"]);
        let pid = bundle.dir.join("pid");
        let ended = output(&mut bundle.runner(&["--pid-file", &pid.display().to_string()]));
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let pid = fs::read_to_string(pid).expect("a pid").trim().parse().expect("a pid");
        std::mem::forget(bundle); // it is gone by itself, and to ask runc once more costs as much as the test
        (pid, id)
    })
    .into_iter()
    .collect();
    let said = settled(ctrace, &truth, init_pid);
    none_too_many(&said, &truth);
}

pub fn short_lives_by_engines() {
    let (containerd, docker) = (Containerd::start(), Docker::start());
    let ctrace = live("exits", &["--ring-kib", "2048"]);
    let by_ctr = in_parallel(count(100, 3), 4, |_| {
        let id = format!("ctr-{:x}", unique());
        let ended = containerd.run(&id, &["--rm"], &["/bin/true"]);
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        (id.clone(), id)
    });
    let by_docker = in_parallel(count(30, 3), 4, |number| {
        let name = format!("d{number}-{:x}", unique());
        let run = ["run", "--rm", "--network", "none", "--name", &name, "--cidfile"];
        let file = docker.place.dir.join(&name);
        let mut run = docker.command(&run);
        run.arg(&file).args(["bb:1", "true"]);
        let ended = output(&mut run);
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        (fs::read_to_string(file).expect("an id"), name)
    });
    let said = told_all(ctrace);
    let (mut missing, skipped) = (0, said.skipped("exit"));
    for (id, name) in by_ctr.iter().chain(&by_docker) {
        let ends: Vec<&Value> = said
            .lines
            .iter()
            .map(|line| &line.json)
            .filter(|exit| exit["event"] == "exit" && init_pid(exit).is_some() && exit["container"]["id"] == json!(id))
            .collect();
        if ends.is_empty() {
            missing += 1;
            continue;
        }
        assert_eq!(ends.len(), 1, "{id} {name}: one PID 1 each: {ends:?}");
        assert_eq!(ends[0]["container"]["name"], json!(name));
    }
    assert!(
        missing <= skipped && missing * 2 <= by_ctr.len() + by_docker.len(),
        "{missing} missing, {skipped} skipped"
    );
}

/// 200 cgroups a second, each with one process that ends at once.
pub fn cgroups_that_come_and_go() {
    let tree = Tree::new();
    let ctrace = live("exits", &[]);
    let pace = Duration::from_millis(5);
    let start = Instant::now();
    let truth: HashMap<u64, String> = (0..count(2000, 60))
        .map(|number| {
            let group = tree.container();
            let pid = lives_and_dies(&group);
            fs::remove_dir(group.directory()).expect("it is empty");
            thread::sleep((start + pace * (number as u32 + 1)).saturating_duration_since(Instant::now()));
            (pid, group.name().to_owned())
        })
        .collect();
    let rate = truth.len() as f64 / start.elapsed().as_secs_f64();
    // A busy machine makes fewer, which is no fault of ctrace's.
    measured(format!("{rate:.0} cgroups a second"));
    let said = told_all(ctrace);
    let mut right = 0;
    for exit in said.lines.iter().map(|line| &line.json).filter(|line| line["event"] == "exit") {
        // Pids wrap around on a busy machine: only our own children count.
        if exit["process"]["ppid"] != std::process::id() {
            continue;
        }
        let Some(want) = exit["process"]["pid"].as_u64().and_then(|pid| truth.get(&pid)) else { continue };
        assert_eq!(exit["container"]["id"], json!(want), "a wrong container: {exit}");
        right += 1;
    }
    assert_eq!(right, truth.len());
}

/// A process that enters the cgroup and ends.
fn lives_and_dies(group: &Group) -> u64 {
    use std::os::fd::AsRawFd;
    let procs = fs::OpenOptions::new().write(true).open(group.directory().join("cgroup.procs")).expect("the cgroup");
    let fd = procs.as_raw_fd();
    // SAFETY: the child makes two system calls and ends.
    match unsafe { libc::fork() } {
        // SAFETY: as said.
        0 => unsafe {
            libc::write(fd, b"0".as_ptr().cast(), 1);
            libc::_exit(0)
        },
        pid if pid > 0 => {
            // SAFETY: waits for that child.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            pid as u64
        }
        _ => panic!("no child"),
    }
}

pub fn five_thousand_idle_cgroups() {
    let tree = Tree::new();
    let wanted = tree.container();
    let total = count(5000, 500);
    for part in 0..total / 100 {
        for number in 0..100 {
            tree.group(&format!("part-{part}/idle-{number}"));
        }
    }
    // With --container it says that it is ready when it has looked at all of them.
    let start = Instant::now();
    let ctrace = Ctrace::ready(command(&["oom", "--json", "--container", &wanted.path]));
    let took = start.elapsed();
    let status = fs::read_to_string(format!("/proc/{}/status", ctrace.pid())).expect("it runs");
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a size");
        line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
    };
    let (now, peak) = (field("VmRSS:"), field("VmHWM:"));
    measured(format!("{total} idle cgroups: ready after {} ms, {now} KiB, at most {peak} KiB", took.as_millis()));
    assert!(now < 30 << 10, "{now} KiB of memory");
    assert!(in_virtual_machine() || took < Duration::from_secs(1), "ready after {} ms", took.as_millis());
    let _ = ctrace.stop();
}
