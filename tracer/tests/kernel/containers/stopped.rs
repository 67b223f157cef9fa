//! Who asked, when an engine stops a container: behind runc, which sends the signal, whoever ran it.

use serde_json::Value;

use super::live;
use crate::support::{
    ctrace::Ctrace,
    engines::{
        docker::Docker,
        podman::{IMAGE, Podman},
    },
};

/// The names of those behind the signal that ended a container's PID 1, nearest first: the sender's is the first.
fn behind(ctrace: &Ctrace, name: &str) -> Vec<String> {
    let wanted = |json: &Value| {
        json["event"] == "exit"
            && json["container"]["name"] == name
            && json["process"]["ns_pid"] == 1
            && json["process"]["comm"] == "sleep"
    };
    let exit = ctrace.wait_for(&format!("the end of {name}"), |line| wanted(&line.json)).json;
    assert_eq!(exit["signal"], "SIGKILL", "{exit}");
    let cause = &exit["cause"];
    assert_eq!(cause["kind"], "signal", "{exit}");
    assert!(cause["by"]["container"].is_null(), "the engine is on the host: {exit}");
    let all = std::iter::once(&cause["by"]).chain(cause["via"].as_array().into_iter().flatten());
    all.map(|who| who["process"]["comm"].as_str().expect("a name").to_owned()).collect()
}

/// dockerd asks the shim, and that runs runc: dockerd is no parent of either.
pub fn by_docker() {
    let docker = Docker::start();
    docker.detached("web", &[], &["sleep", "600"]);
    let ctrace = live("exits", &[]);
    docker.run(&["stop", "--time", "1", "web"]);
    let behind = behind(&ctrace, "web");
    assert!(behind[0].starts_with("runc"), "{behind:?}");
    assert!(behind[1..].iter().any(|comm| comm.starts_with("containerd-shim")), "{behind:?}");
    let finding = ctrace.wait_for("the stop that timed out", |line| {
        line.json["code"] == "exit.stop-timeout" && line.json["container"]["name"] == "web"
    });
    assert!(finding.json["evidence"]["via"].as_array().is_some_and(|via| !via.is_empty()), "{}", finding.json);
    ctrace.stop();
}

/// podman runs runc itself.
pub fn by_podman() {
    let podman = Podman::new();
    let run = ["run", "--detach", "--name", "app", "--network", "none", IMAGE, "sleep", "600"];
    podman.run(&run);
    let ctrace = live("exits", &[]);
    podman.run(&["stop", "--time", "1", "app"]);
    let behind = behind(&ctrace, "app");
    assert!(behind[0].starts_with("runc"), "{behind:?}");
    assert!(behind[1..].iter().any(|comm| comm.starts_with("podman")), "{behind:?}");
    ctrace.stop();
}
