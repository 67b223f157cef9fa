//! What happened before ctrace was started, as far as the kernel still knows.

use serde_json::Value;

use crate::{
    harness::{Lack, Test},
    support::{
        cgroups::{Group, Tree},
        ctrace::{self, Ctrace},
        evidence,
        player::{self, Player},
    },
};

pub static TESTS: &[Test] = &[
    Test::core("oom::past::a_kill_before_the_start", a_kill_before_the_start),
    Test::full("oom::past::a_kill_while_it_starts", a_kill_while_it_starts),
    Test::full("oom::past::a_kill_at_the_parents_limit", a_kill_at_the_parents_limit),
    Test::full("oom::past::where_the_engine_says_otherwise", where_the_engine_says_otherwise),
    Test::full("oom::past::hung_without_a_killer", hung_without_a_killer).needs(&[Lack::CgroupV1]),
];

fn is_past_of(json: &Value, of: &Group) -> bool {
    json["evidence"]["before_attach"] == true && json["evidence"]["cgroup"] == *of.path
}

fn past(ctrace: &Ctrace, of: &Group) -> Value {
    ctrace.wait_for("the kill before it started", |line| is_past_of(&line.json, of)).json
}

/// The container that was hit is told; the one that was full and not hit is not; and what is past is not told as new.
fn a_kill_before_the_start() {
    let tree = Tree::new();
    let (hit, full) = (tree.container().limited(24), tree.container().limited(24));
    let mut hog = Player::within(&hit, &["say=hog", "anon"]);
    let who = hog.said("hog");
    hog.ended();
    let bystander = Player::within(&full, &["anon=20", "say=full", "pause"]);
    bystander.said("full");
    let ctrace = Ctrace::oom();
    let finding = past(&ctrace, &hit);
    assert_eq!(finding["code"], "oom.container-limit");
    assert_eq!(finding["container"]["id"], hit.name());
    assert_eq!(finding["container"]["runtime"], "docker");
    if finding["evidence"]["source"] == "kernel-log" {
        assert_eq!(evidence::victim_pids(&finding), [who.pid]);
    }
    // The header that holds the limit may have been suppressed: then it is null with its reason, which `stop` checks.
    if let Some(limit) = finding["evidence"]["limit_bytes"].as_u64() {
        assert_eq!(limit, 24 << 20);
        assert_eq!(finding["evidence"]["limiting_cgroup"], hit.path);
    }
    let said = ctrace.stop();
    assert_eq!(said.codes(&hit), [""; 0], "as new");
    assert_eq!(said.lines.iter().filter(|line| is_past_of(&line.json, &hit)).count(), 1, "told once");
    assert!(!said.lines.iter().any(|line| is_past_of(&line.json, &full)), "nothing happened there");
}

/// After it is attached and before it reads what the kernel still knows of the past: told once, as new, by the record that
/// is in the ring; and a kill of the same container that is past stays one.
fn a_kill_while_it_starts() {
    let tree = Tree::new();
    let (new, again) = (tree.container().limited(24), tree.container().limited(24));
    let hog = |group: &Group| {
        let mut hog = Player::within(group, &["say=hog", "anon"]);
        let who = hog.said("hog");
        hog.ended();
        who.pid
    };
    let past_pid = hog(&again);
    let held = Ctrace::held(ctrace::command(&["oom", "--json"]));
    let pids = [hog(&new), hog(&again)];
    let ctrace = held.release();
    for (group, pid) in [&new, &again].into_iter().zip(pids) {
        let finding = ctrace.finding("oom.container-limit", group).json;
        assert_eq!(evidence::victim_pids(&finding), [pid]);
    }
    past(&ctrace, &again);
    let said = ctrace.stop();
    let past_of = |group: &Group| -> Vec<&Value> {
        said.lines.iter().map(|line| &line.json).filter(|json| is_past_of(json, group)).collect()
    };
    assert_eq!(past_of(&new), [&Value::Null; 0], "told as past too");
    let [past] = past_of(&again)[..] else { panic!("{:#?}", past_of(&again)) };
    assert_eq!(past["evidence"]["kills"], 1, "{past}");
    if past["evidence"]["source"] == "kernel-log" {
        assert_eq!(evidence::victim_pids(past), [past_pid]);
    }
    for group in [&new, &again] {
        assert_eq!(said.codes(group), ["oom.container-limit"]);
    }
}

fn a_kill_at_the_parents_limit() {
    let mut whole = false;
    // A suppressed report does not say whose limit it was.
    crate::support::wait_until("a kill that the kernel reports in full", || {
        // Of its own each time: what its counters say goes with it.
        let tree = Tree::new();
        let pod = tree.group(&format!("pod-{}", tree.container().name())).limited(24);
        let container = tree.container_below(pod.name());
        let mut hog = Player::within(&container, &["anon"]);
        hog.ended();
        let ctrace = Ctrace::oom();
        let finding = past(&ctrace, &container);
        ctrace.stop();
        whole = !finding["evidence"]["limiting_cgroup"].is_null();
        if whole {
            assert_eq!(finding["code"], "oom.parent-limit", "{finding}");
            assert_eq!(finding["evidence"]["limiting_cgroup"], pod.path);
            assert_eq!(finding["evidence"]["limit_bytes"], 24 << 20);
        }
        whole.then_some(())
    });
}

/// Docker's `OOMKilled` is set by a race: where the kernel knows better, the row says so.
fn where_the_engine_says_otherwise() {
    let tree = Tree::new();
    let (wrong, right) = (tree.container().limited(24), tree.container().limited(24));
    let mut steps = vec!["mounts".to_owned(), "tmpfs=/var/lib".to_owned()];
    for (container, flag, name) in [(&wrong, false, "web"), (&right, true, "db")] {
        let mut hog = Player::within(container, &["anon"]);
        hog.ended();
        let id = container.name();
        let config = format!(
            r#"{{"ID":"{id}","Name":"/{name}","State":{{"Running":false,"OOMKilled":{flag},"ExitCode":137,"StartedAt":"2020-01-01T00:00:00Z","FinishedAt":"0001-01-01T00:00:00Z"}}}}"#
        );
        steps.push(format!("write=/var/lib/docker/containers/{id}/config.v2.json={config}"));
    }
    steps.extend(["exec".to_owned(), ctrace::binary().display().to_string(), "oom".to_owned(), "--json".to_owned()]);
    let ctrace = Ctrace::ready(player::command(steps));
    let finding = past(&ctrace, &wrong);
    assert_eq!(finding["evidence"]["engine"]["oom_killed"], false, "{finding}");
    assert_eq!(finding["container"]["name"], "web");
    assert!(finding["summary"].as_str().is_some_and(|text| text.contains("OOMKilled=false")), "{finding}");
    let finding = past(&ctrace, &right);
    assert_eq!(finding["evidence"]["engine"]["oom_killed"], true, "{finding}");
    assert!(finding["summary"].as_str().is_some_and(|text| !text.contains("OOMKilled")), "{finding}");
    ctrace.stop();
}

/// v1's `oom_kill_disable`: at the limit nobody is killed and all wait. Below the limit it is nothing.
fn hung_without_a_killer() {
    let tree = Tree::new();
    let (hung, well) = (tree.container().limited(24), tree.container().limited(24));
    for container in [&hung, &well] {
        container.set("memory.oom_control", "1");
    }
    let mut waits = Player::within(&hung, &["anon"]);
    let well_within = Player::within(&well, &["anon=20", "say=full", "pause"]);
    well_within.said("full");
    crate::support::wait_until("the cgroup to be under OOM", || {
        hung.get("memory.oom_control").contains("under_oom 1").then_some(())
    });
    let ctrace = Ctrace::oom();
    let finding = ctrace.finding("oom.hung", &hung).json;
    assert_eq!((&finding["state"], &finding["evidence"]["limit_bytes"]), (&"open".into(), &(24 << 20).into()));
    assert_eq!(finding["container"]["id"], hung.name());
    assert_eq!(finding["evidence"]["limiting_cgroup"], hung.path);
    assert!(waits.lives());
    // It ends: with the killer on again, the one who waits is chosen.
    hung.set("memory.oom_control", "0");
    waits.ended();
    let began_ns = tracer::kernel::host::boottime_ns();
    ctrace.finding("oom.container-limit", &hung);
    let closed =
        ctrace.wait_for("its end", |line| line.json["id"] == finding["id"] && line.json["state"] == "closed").json;
    assert!(closed["summary"].as_str().is_some_and(|text| text.contains("killer is on again")), "{closed}");
    // It begins while ctrace runs.
    hung.set("memory.oom_control", "1");
    let mut waits = Player::within(&hung, &["anon"]);
    let again =
        |line: &ctrace::Line| line.at_ns > began_ns && line.json["id"] == finding["id"] && line.json["state"] == "open";
    ctrace.wait_for("that it hangs again", again);
    assert!(waits.lives());
    let said = ctrace.stop();
    assert_eq!(said.codes(&well), [""; 0]);
    assert_eq!(said.codes(&hung).iter().filter(|code| **code == "oom.hung").count(), 3, "each change once");
}
