//! dockerd on a data root that nobody would guess.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{HOG, codes, containers, listed, live, one, oom_of};
use crate::{harness::measured, support::engines::docker::Docker};

pub fn by_the_name_a_person_gave() {
    let docker = Docker::start();
    let id = docker.detached("web", &["--memory", "24m", "--label", "team=shop"], &["sleep", "600"]);
    docker.detached("api", &["--memory", "24m"], &["sleep", "600"]);
    let (web, api) = (live("oom", &["--container", "web"]), live("oom", &["--container", "api"]));
    let podman = live("oom", &["--runtime", "podman"]);
    // A child is killed; PID 1, and so the container, lives on.
    let mut exec = vec!["exec", "web"];
    exec.extend(HOG);
    assert_eq!(docker.command(&exec).output().expect("docker").status.code(), Some(137));
    let finding = oom_of(&web, "web");
    assert_eq!(finding["container"]["id"], json!(id));
    assert_eq!(finding["container"]["runtime"], "docker");
    assert_eq!(finding["evidence"]["limit_bytes"], 24 << 20, "{finding}");
    assert_eq!(finding["evidence"]["init_alive"], true, "{finding}");
    web.wait_for("that PID 1 lives", |line| line.json["code"] == "oom.child-killed");
    // The twins see nothing of it, though they see what is theirs.
    exec[1] = "api";
    let _ = docker.command(&exec).output();
    oom_of(&api, "api");
    for (ctrace, other) in [(web, "api"), (api, "web"), (podman, "web")] {
        let said = ctrace.stop();
        let about = |line: &&Value| {
            line["type"] == "finding" && line["container"]["name"] == other && line["evidence"]["before_attach"] != true
        };
        assert_eq!(said.lines.iter().map(|line| &line.json).filter(about).count(), 0, "told of {other}");
    }
    // PID 1 itself: the engine's flag may be false, the kernel's word is not.
    let all = live("oom", &[]);
    let mut run =
        vec!["run", "--name", "hog", "--network", "none", "--memory", "20m", crate::support::engines::docker::IMAGE];
    run.extend(HOG);
    assert_eq!(docker.command(&run).output().expect("docker").status.code(), Some(137));
    let finding = oom_of(&all, "hog");
    assert_eq!(finding["evidence"]["limit_bytes"], 20 << 20, "{finding}");
    let said = all.stop();
    let kills = said
        .lines
        .iter()
        .filter(|line| line.json["code"] == "oom.container-limit" && line.json["container"]["name"] == "hog");
    assert_eq!(kills.count(), 1, "one kill, one finding");
    // It is over for ctrace as well.
    let gone = containers(&["hog"]);
    assert_eq!(gone.code, Some(1), "{gone:?}");
    let unknown = containers(&["wbe"]);
    assert_eq!((unknown.code, unknown.out.len()), (Some(1), 0));
    assert!(unknown.err.join("\n").contains("did you mean web"), "{unknown:?}");
}

/// A child met the limit and PID 1 lived on; then somebody killed that. Docker says OOMKilled, with 137.
pub fn where_its_flag_is_wrong() {
    let docker = Docker::start();
    docker.detached("victim", &["--memory", "24m"], &["sleep", "600"]);
    let init = docker.run(&["inspect", "--format", "{{.State.Pid}}", "victim"]).parse::<i32>().expect("a pid");
    let exits = live("exits", &["--container", "victim"]);
    let _ = docker.command(&[&["exec", "victim"], &HOG[..]].concat()).output();
    let of_hog = |line: &Value| line["event"] == "exit" && line["process"]["comm"] == "dd";
    let hog = exits.wait_for("the end of the child", |line| of_hog(&line.json)).json;
    assert_eq!(hog["cause"]["kind"], "oom", "{hog}");
    kill(Pid::from_raw(init), Signal::SIGKILL).expect("it lives");
    let of_init = |line: &Value| line["event"] == "exit" && line["process"]["pid"] == init;
    let end = exits.wait_for("the end of PID 1", |line| of_init(&line.json)).json;
    assert_eq!(docker.run(&["wait", "victim"]), "137");
    let flag = docker.run(&["inspect", "--format", "{{.State.OOMKilled}}", "victim"]);
    measured(format!("Docker's OOMKilled of a container that was killed by hand: {flag}"));
    assert_eq!(end["cause"]["kind"], "signal", "{end}");
    assert_eq!(end["cause"]["by"]["process"]["pid"], std::process::id(), "{end}");
    let _ = exits.stop();
}

pub fn rights_and_limits() {
    let docker = Docker::start();
    let limits = ["--memory", "64m", "--pids-limit", "50", "--cpus", "0.5"];
    docker.detached("limited", &limits, &["sleep", "600"]);
    docker.detached(
        "user",
        &["--user", "1000:1000", "--read-only", "--security-opt", "no-new-privileges"],
        &["sleep", "600"],
    );
    docker.detached(
        "bare",
        &["--cap-drop", "ALL", "--network", "host", "--security-opt", "seccomp=unconfined"],
        &["sleep", "600"],
    );
    docker.detached("joined", &["--network", "container:limited"], &["sleep", "600"]);
    let lines = listed(&[]);
    let limited = one("limited");
    let state = docker.run(&["inspect", "--format", "{{.State.Pid}} {{.State.StartedAt}}", "limited"]);
    let (pid, started) = state.split_once(' ').expect("two words");
    assert_eq!(limited["init_pid"].to_string(), pid);
    assert_eq!(&limited["started"].as_str().expect("a time")[..19], &started[..19]);
    assert_eq!(
        (&limited["runtime"], &limited["image"], &limited["network_mode"]),
        (&json!("docker"), &json!("bb:1"), &json!("none"))
    );
    assert_eq!((&limited["limits"]["memory_bytes"], &limited["limits"]["pids_max"]), (&json!(64 << 20), &json!(50)));
    assert_eq!(limited["limits"]["cpu_quota_cpus"], 0.5);
    assert!(
        limited["limits"]["memory_used_bytes"].as_u64().is_some_and(|used| used > 0 && used < 64 << 20),
        "{limited}"
    );
    assert_eq!(limited["limits"]["pids_used"], 1);
    assert_eq!(limited["user"], json!({"inside": 0, "outside": 0}));
    assert_eq!((&limited["userns"]["own"], &limited["userns"]["rootless"]), (&json!(false), &json!(false)));
    assert_eq!(
        (&limited["seccomp"], &limited["privileged"], &limited["no_new_privs"]),
        (&json!("filter"), &json!(false), &json!(false))
    );
    // As the kernel has them, and as the bundle asks for them.
    assert_eq!(limited["capabilities"], limited["capabilities_spec"]["effective"]);
    assert!(limited["capabilities"].as_array().expect("a set").iter().any(|cap| cap == "CAP_CHOWN"), "{limited}");
    assert_eq!(limited["capabilities_difference"]["bounding"], json!({"beyond_spec": [], "below_spec": []}));
    let source = limited["name_source"].as_str().expect("a file");
    assert!(source.starts_with(&docker.place.dir.join("data").display().to_string()), "{source}");
    let user = one("user");
    assert_eq!(user["user"], json!({"inside": 1000, "outside": 1000}));
    assert_eq!(
        (&user["rootfs_readonly"], &user["no_new_privs"], &user["capabilities"]),
        (&json!(true), &json!(true), &json!([]))
    );
    let bare = one("bare");
    assert_eq!((&bare["network_mode"], &bare["seccomp"]), (&json!("host"), &json!("disabled")));
    assert_eq!(bare["capability_sets"]["bounding"], json!([]));
    assert_eq!(one("joined")["network_mode"], "container:limited");
    for (name, want) in [("limited", &["sec.host-root"][..]), ("user", &[]), ("bare", &["sec.host-root"])] {
        assert_eq!(codes(&lines, name), want, "{name}");
    }
    privileged(&docker);
    let table = containers(&[]);
    let head = &table.out[0];
    assert!(head.starts_with("NAME") && head.contains("WARNINGS"), "{head}");
    let row = table.out.iter().find(|line| line.starts_with("limited ")).expect("a row");
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells.len(), head.split_whitespace().count(), "a cell has no blanks: {row}");
    assert!(cells.contains(&"1/50") && cells.contains(&"0.50") && cells.contains(&"0→0"), "{row}");
}

/// Everything, where this machine can give it: dockerd asks for all that the kernel knows.
fn privileged(docker: &Docker) {
    let run = ["run", "--detach", "--name", "priv", "--privileged", "--network", "none", "bb:1", "sleep", "600"];
    if !docker.command(&run).output().expect("docker").status.success() {
        return; // a host that lacks a capability itself
    }
    let priv_ = one("priv");
    assert_eq!((&priv_["privileged"], &priv_["seccomp"]), (&json!(true), &json!("disabled")));
    assert_eq!(codes(&listed(&[]), "priv"), ["caps.privileged", "sec.host-root"]);
}
