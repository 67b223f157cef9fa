//! `ctrace pids`: refused forks by whose limit, zombies by whose child, and what must be neither.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    harness::{Lack, Test},
    support::{
        cgroups::Group,
        ctrace::{Ctrace, Line, command},
        pids::{PidsTree, current, limit, play},
    },
};

pub static TESTS: &[&[Test]] = &[&[
    Test::core("pids::own_limit", own_limit),
    Test::core("pids::full_but_nobody_refused", full_but_nobody_refused),
    Test::full("pids::parent_limit", parent_limit),
    Test::full("pids::limit_closes", limit_closes),
    Test::full("pids::flood_is_counted_and_hides_nobody", flood_is_counted_and_hides_nobody),
    Test::full("pids::refused_while_others_leave", refused_while_others_leave),
    Test::core("pids::limit_of_the_user", limit_of_the_user),
    Test::core("pids::root_passes_a_users_limit", root_passes_a_users_limit),
    Test::core("pids::limit_of_the_namespace", limit_of_the_namespace).needs(&[Lack::OwnPidMax]),
    Test::core("pids::pid_max_of_the_host", pid_max_of_the_host).needs(&[Lack::OwnMachine]),
    Test::full("pids::threads_max", threads_max).needs(&[Lack::OwnMachine]),
    Test::core("pids::zombies", zombies),
    Test::core("pids::nine_zombies", nine_zombies),
    Test::full("pids::leaders_of_running_threads_are_no_zombies", leaders_of_running_threads_are_no_zombies),
    Test::full("pids::zombies_from_before_attach", zombies_from_before_attach),
    Test::full("pids::zombies_name_their_new_parent", zombies_name_their_new_parent),
    Test::full("pids::samples", samples),
]];

fn ctrace() -> Ctrace {
    Ctrace::ready(command(&["pids", "--json"]))
}

/// Waits for a finding about a container of which something is true.
fn finding(ctrace: &Ctrace, code: &str, of: &Group, what: &str, is: impl Fn(&Value) -> bool) -> Line {
    ctrace.wait_for(&format!("{code} of {} {what}", of.path), |line| {
        line.json["code"] == code && line.json["container"]["cgroup"] == of.path && is(&line.json)
    })
}

/// A refusal that comes after a near miss: once ctrace tells it, it has seen all that came before.
fn sentinel(ctrace: &Ctrace, tree: &PidsTree) {
    let sentinel = tree.container();
    limit(&sentinel, 3);
    let _bomb = play(&sentinel, &["bomb=10", "pause"]);
    ctrace.finding("pids.limit", &sentinel);
}

fn has_hook() -> bool {
    Path::new("/sys/bus/event_source/devices/kprobe/type").exists()
}

fn own_limit() {
    let tree = PidsTree::new();
    let ctrace = ctrace();
    let container = tree.container();
    limit(&container, 20);
    let bomb = play(&container, &["say=bomb", "bomb=60", "pause"]);
    let who = bomb.said("bomb");
    // Itself and 19 children fit.
    let tried = bomb.said("tried");
    assert_eq!((tried.pid, tried.tid), (19, 41), "forked, refused");
    let json =
        finding(&ctrace, "pids.limit", &container, "with every refusal", |json| json["evidence"]["refused"] == 41).json;
    let open = finding(&ctrace, "pids.limit", &container, "open", |json| json["state"] == "open").json;
    assert_eq!(json["id"], open["id"]);
    let evidence = &open["evidence"];
    assert_eq!(open["severity"], "critical");
    assert_eq!(open["container"]["id"], container.name());
    assert_eq!(evidence["limit"], 20);
    assert_eq!(evidence["current"], 20);
    assert_eq!(evidence["limiting_cgroup"], container.path);
    assert_eq!(evidence["whose"], "own");
    assert_eq!(evidence["inferred"], false);
    assert_eq!(evidence["zombies"], 0);
    if has_hook() {
        assert_eq!(evidence["asker"]["process"]["pid"], who.pid);
        assert_eq!(evidence["asker"]["container"]["id"], container.name());
        assert_eq!(open["process"]["pid"], who.pid);
    } else {
        assert!(open["unknown"]["asker"].as_str().is_some_and(|why| why.contains("pids.events")));
    }
    ctrace.stop();
}

/// Every pid is used, and nobody asked for one more.
fn full_but_nobody_refused() {
    let tree = PidsTree::new();
    let ctrace = ctrace();
    let container = tree.container();
    limit(&container, 20);
    let herd = play(&container, &["herd=19", "say=full", "pause"]);
    herd.said("full");
    assert_eq!(current(&container), 20);
    sentinel(&ctrace, &tree);
    assert!(ctrace.stop().codes(&container).is_empty());
}

fn parent_limit() {
    let tree = PidsTree::new();
    let ctrace = ctrace();
    let container = tree.container_below("slice");
    let parent = tree.parent("slice");
    limit(&parent, 15);
    limit(&container, 50);
    let bomb = play(&container, &["bomb=30", "pause"]);
    bomb.said("tried");
    let json = ctrace.finding("pids.limit", &container).json;
    assert_eq!(json["evidence"]["limiting_cgroup"], parent.path);
    assert_eq!(json["evidence"]["whose"], "parent");
    assert_eq!(json["evidence"]["limit"], 15);
    assert_eq!(json["evidence"]["current"], 15);
    ctrace.stop();
}

fn limit_closes() {
    let tree = PidsTree::new();
    let ctrace = ctrace();
    let container = tree.container();
    limit(&container, 5);
    let bomb = play(&container, &["bomb=10", "pause"]);
    bomb.said("tried");
    let open = ctrace.finding("pids.limit", &container).json;
    drop(bomb);
    let closed = finding(&ctrace, "pids.limit", &container, "closed", |json| json["state"] == "closed").json;
    assert_eq!(closed["id"], open["id"]);
    assert_eq!(closed["evidence"]["refused"], 6);
    assert_eq!(closed["evidence"]["current"], 0);
    ctrace.stop();
}

/// A bomb that is refused as fast as it can ask, with a ring of one page.
fn flood_is_counted_and_hides_nobody() {
    let tree = PidsTree::new();
    let ctrace = Ctrace::ready(command(&["pids", "--json", "--ring-kib", "4"]));
    let (loud, quiet) = (tree.container(), tree.container());
    limit(&loud, 2);
    limit(&quiet, 2);
    let bomb = play(&loud, &["bomb=5000", "pause"]);
    ctrace.finding("pids.limit", &loud);
    let other = play(&quiet, &["bomb=3", "pause"]);
    other.said("tried");
    finding(&ctrace, "pids.limit", &quiet, "with both refusals", |json| json["evidence"]["refused"] == 2);
    assert_eq!(bomb.said("tried").tid, 4_999);
    finding(&ctrace, "pids.limit", &loud, "with every refusal", |json| json["evidence"]["refused"] == 4_999);
    let said = ctrace.stop();
    assert!(!said.lines.iter().any(|line| line.json["type"] == "loss" && line.json["event"] == "fork_refused"));
    assert!(said.about(&loud).count() < 60, "at most one update a second");
}

/// When its fork fails there may be room again: what a level refused is nothing that another limit did.
fn refused_while_others_leave() {
    let tree = PidsTree::new();
    let ctrace = ctrace();
    let container = tree.container();
    limit(&container, 3);
    let bomb = play(&container, &["rival-bomb=20000", "pause"]);
    let tried = bomb.said("tried");
    assert!(tried.pid > 100 && tried.tid > 100, "some of both: {tried:?}");
    sentinel(&ctrace, &tree);
    let said = ctrace.stop();
    let mut whats: Vec<&Value> = said.about(&container).map(|finding| &finding["evidence"]["what"]).collect();
    whats.dedup();
    assert_eq!(whats, [&Value::from("pids.max")]);
}

/// A refusal by no cgroup: the limit that it names, and how many there were.
fn refused_by(ctrace: &Ctrace, of: &Group, what: &str, refused: u64) -> Value {
    let all = |json: &Value| json["evidence"]["refused"] == refused;
    let json = finding(ctrace, "pids.limit", of, "with every refusal", all).json;
    let evidence = &json["evidence"];
    assert_eq!(evidence["what"], what, "{json}");
    assert!(evidence["limiting_cgroup"].is_null(), "{json}");
    assert_eq!(evidence["inferred"], true);
    assert!(json["why"].as_str().is_some_and(|why| why.contains("inferred")), "{json}");
    json
}

fn limit_of_the_user() {
    let tree = PidsTree::new();
    let ctrace = ctrace();
    let container = tree.container();
    let bomb = play(&container, &["uid=54321", "nproc=5", "say=bomb", "bomb=20", "pause"]);
    let who = bomb.said("bomb");
    let tried = bomb.said("tried");
    assert_eq!((tried.pid, tried.tid), (4, 16), "forked, refused");
    let json = refused_by(&ctrace, &container, "RLIMIT_NPROC", 16);
    let evidence = &json["evidence"];
    assert_eq!((&evidence["limit"], &evidence["current"]), (&5.into(), &5.into()));
    assert_eq!(evidence["whose"], "user");
    assert_eq!(evidence["asker"]["process"]["pid"], who.pid);
    assert_eq!(evidence["asker"]["process"]["uid"], 54321);
    assert_eq!(evidence["asker"]["container"]["id"], container.name());
    drop(bomb);
    let closed = finding(&ctrace, "pids.limit", &container, "closed", |json| json["state"] == "closed").json;
    assert_eq!(closed["id"], json["id"]);
    ctrace.stop();
}

/// RLIMIT_NPROC does not bind root; and what pids.max refuses is no limit of the host's.
fn root_passes_a_users_limit() {
    let tree = PidsTree::new();
    let ctrace = ctrace();
    let (root, full) = (tree.container(), tree.container());
    limit(&full, 5);
    let herd = play(&root, &["nproc=2", "herd=5", "say=there", "pause"]);
    herd.said("there");
    let bomb = play(&full, &["bomb=20", "pause"]);
    bomb.said("tried");
    finding(&ctrace, "pids.limit", &full, "with every refusal", |json| json["evidence"]["refused"] == 16);
    sentinel(&ctrace, &tree);
    let said = ctrace.stop();
    assert!(said.codes(&root).is_empty());
    assert!(said.about(&full).all(|finding| finding["evidence"]["what"] == "pids.max"));
}

/// Its own `kernel.pid_max`: the host has room.
fn limit_of_the_namespace() {
    let tree = PidsTree::new();
    let ctrace = ctrace();
    let container = tree.container();
    let hosts = || fs::read_to_string("/proc/sys/kernel/pid_max").expect("pid_max");
    let before = hosts();
    let bomb = play(&container, &["pidns", "pid-max=310", "say=bomb", "bomb=320", "pause"]);
    let who = bomb.said("bomb");
    let tried = bomb.said("tried");
    assert_eq!(before, hosts(), "the host's stays");
    let json = refused_by(&ctrace, &container, "kernel.pid_max", tried.tid);
    assert_eq!(json["evidence"]["limit"], 310);
    assert_eq!(json["evidence"]["current"], tried.pid + 1, "the children, and PID 1");
    assert_eq!(json["process"]["pid"], who.pid);
    ctrace.stop();
}

/// Writes a number of the whole machine's, until this is dropped.
struct Sysctl(&'static str, String);

impl Sysctl {
    fn set(file: &'static str, value: u64) -> Self {
        let before = fs::read_to_string(file).expect("a sysctl");
        fs::write(file, value.to_string()).expect("another value");
        Self(file, before)
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        let _ = fs::write(self.0, self.1.trim());
    }
}

fn pid_max_of_the_host() {
    let tree = PidsTree::new();
    let ctrace = ctrace();
    let container = tree.container();
    let mut bomb = play(&container, &["say=bomb", "await", "bomb=500", "pause"]);
    bomb.said("bomb");
    let few = Sysctl::set("/proc/sys/kernel/pid_max", 400);
    bomb.go();
    let tried = bomb.said("tried");
    assert!(tried.tid >= 100, "{tried:?}");
    // It is looked at while it holds.
    let json = refused_by(&ctrace, &container, "kernel.pid_max", tried.tid);
    drop(few);
    assert_eq!(json["evidence"]["whose"], "host");
    ctrace.stop();
}

fn threads_max() {
    let tree = PidsTree::new();
    let ctrace = ctrace();
    let container = tree.container();
    let mut bomb = play(&container, &["say=bomb", "await", "bomb=200", "pause"]);
    bomb.said("bomb");
    let loadavg = fs::read_to_string("/proc/loadavg").expect("loadavg");
    let threads: u64 = loadavg.split(['/', ' ']).nth(4).and_then(|all| all.parse().ok()).expect("a number");
    let few = Sysctl::set("/proc/sys/kernel/threads-max", threads + 20);
    bomb.go();
    let tried = bomb.said("tried");
    // It is looked at while it holds.
    let json = refused_by(&ctrace, &container, "kernel.threads-max", tried.tid);
    drop(few);
    assert_eq!(json["evidence"]["limit"], threads + 20);
    assert!(tried.pid <= 25 && tried.tid >= 175, "{tried:?}");
    ctrace.stop();
}

fn zombies() {
    let tree = PidsTree::new();
    let ctrace = ctrace();
    let container = tree.container();
    limit(&container, 40);
    let parent = play(&container, &["say=parent", "zombies=12", "pause"]);
    let who = parent.said("parent");
    let open = ctrace.finding("pids.zombies", &container).json;
    assert_eq!(open["severity"], "warning");
    assert_eq!(open["state"], "open");
    assert_eq!(open["process"]["pid"], who.pid);
    let evidence = &open["evidence"];
    assert_eq!(evidence["parent"]["process"]["pid"], who.pid);
    let zombies = evidence["zombies"].as_u64().expect("a count");
    assert_eq!(evidence["limit"], 40);
    assert_eq!(evidence["current"], 13);
    assert_eq!(evidence["limiting_cgroup"], container.path);
    assert_eq!(evidence["growth_per_s"], 0.0, "they came at once, and no more come");
    assert!(evidence["oldest_ns"].as_u64().is_some_and(|age| age >= 3_000_000_000), "{evidence}");
    drop(parent);
    let closed =
        ctrace.wait_for("that they are gone", |line| line.json["id"] == open["id"] && line.json["state"] == "closed");
    assert!(closed.json["evidence"]["zombies"].as_u64().is_some_and(|left| left < 10));
    // An exit that the kernel did not show is found by the sweep alone, later; that it was skipped is said.
    let skipped = ctrace.stop().skipped("exit") as u64;
    assert!(zombies <= 12 && zombies + skipped >= 12, "{zombies} zombies, {skipped} skipped");
}

fn nine_zombies() {
    let tree = PidsTree::new();
    let ctrace = ctrace();
    let (few, many) = (tree.container(), tree.container());
    let nine = play(&few, &["zombies=9", "say=done", "pause"]);
    nine.said("done");
    let _twelve = play(&many, &["zombies=12", "pause"]);
    ctrace.finding("pids.zombies", &many);
    assert!(ctrace.stop().codes(&few).is_empty());
}

/// /proc shows Z for a leader that ended before its threads.
fn leaders_of_running_threads_are_no_zombies() {
    let tree = PidsTree::new();
    let container = tree.container();
    // From before attach, so that the sweep meets them, and after.
    let early = play(&container, &["leaderless-herd=12", "say=done", "pause"]);
    early.said("done");
    let ctrace = ctrace();
    let late = play(&container, &["leaderless-herd=12", "say=done", "pause"]);
    late.said("done");
    let many = tree.container();
    let _twelve = play(&many, &["zombies=12", "pause"]);
    ctrace.finding("pids.zombies", &many);
    assert!(ctrace.stop().codes(&container).is_empty());
}

fn zombies_from_before_attach() {
    let tree = PidsTree::new();
    let container = tree.container();
    let parent = play(&container, &["say=parent", "zombies=12", "say=done", "pause"]);
    let who = parent.said("parent");
    parent.said("done");
    let ctrace = ctrace();
    let open = ctrace.finding("pids.zombies", &container).json;
    assert_eq!(open["evidence"]["zombies"], 12);
    assert_eq!(open["process"]["pid"], who.pid);
    assert!(open["unknown"]["growth_per_s"].is_string(), "nobody saw them end");
    ctrace.stop();
}

/// Orphans go to the PID 1 of their namespace, which has to reap them, and here does not.
fn zombies_name_their_new_parent() {
    let tree = PidsTree::new();
    let ctrace = ctrace();
    let container = tree.container();
    let init = play(&container, &["pidns", "say=init", "orphans=12", "pause"]);
    let who = init.said("init");
    let open = ctrace.finding("pids.zombies", &container).json;
    assert_eq!(open["process"]["pid"], who.pid);
    assert_eq!(open["process"]["ns_pid"], 1);
    assert!(open["fix"][0].as_str().is_some_and(|fix| fix.contains("--init")), "{}", open["fix"]);
    ctrace.stop();
}

fn samples() {
    let tree = PidsTree::new();
    let container = tree.container_below("slice");
    let parent = tree.parent("slice");
    limit(&parent, 30);
    limit(&container, 25);
    let herd = play(&container, &["herd=5", "zombies=2", "say=there", "pause"]);
    herd.said("there");
    let ctrace = ctrace();
    let row = ctrace
        .wait_for("the container's numbers", |line| {
            line.json["sample"] == "pids" && line.json["cgroup"] == container.path && line.json["states"]["Z"] == 2
        })
        .json;
    assert_eq!(row["container"]["id"], container.name());
    assert_eq!(row["states"]["S"], 6);
    assert_eq!(row["processes"], 8);
    assert_eq!(row["threads"], 8);
    assert_eq!(row["current"], 8);
    assert_eq!(row["limit"], 25);
    assert_eq!(row["limiting_cgroup"], container.path);
    let levels: Vec<&Value> = row["levels"].as_array().into_iter().flatten().map(|level| &level["cgroup"]).collect();
    assert_eq!(levels, [container.path.as_str(), parent.path.as_str()]);
    let host = ctrace.wait_for("the host's numbers", |line| {
        line.json["sample"] == "pids" && line.json["container"].is_null() && line.json["states"].is_object()
    });
    assert!(host.json["pid_max"].as_u64().is_some_and(|most| most > 1000));
    assert!(host.json["threads"].as_u64().is_some_and(|threads| threads > 8));
    ctrace.stop();
}
