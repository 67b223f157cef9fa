//! ctrace in a container itself: the host's pid namespace, but mounts and a cgroup namespace of its own.

use std::fs;

use serde_json::json;

use crate::support::{
    cgroups::Tree,
    ctrace::{Ctrace, binary, with_us},
    engines::{Place, runc::Bundle},
    player::Player,
    unique,
};

pub fn ctrace_in_a_container() {
    let place = Place::new();
    let own = format!("tool-{:x}", unique());
    let mut tool = Bundle::new(&place, "runc", &own, &["/ctrace", "exits", "--json"]);
    fs::write(place.rootfs().join("ctrace"), "").expect("a place to mount it");
    let bind = |at: &str| json!({"destination": at, "type": "bind", "source": at, "options": ["rbind", "ro"]});
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]}),
        json!({"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind"]}),
        json!({"destination": "/ctrace", "type": "bind", "source": binary().canonicalize().expect("ctrace"), "options": ["bind", "ro"]}),
    ];
    mounts.extend(["/usr", "/lib", "/lib64"].into_iter().filter(|at| fs::metadata(at).is_ok()).map(bind));
    tool.config["mounts"] = json!(mounts);
    let all: Vec<String> = caps::all().into_iter().map(|cap| cap.to_string()).collect();
    tool.config["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    tool.config["linux"]["namespaces"] =
        json!([{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}]);
    // A container that is there already, and one that comes.
    let neighbour = Bundle::new(&place, "runc", &format!("near-{:x}", unique()), &["/bin/sleep", "600"]);
    let pid = neighbour.detached();
    let mut runner = tool.runner(&[]);
    with_us(&mut runner);
    let ctrace = Ctrace::ready(runner);
    let tree = Tree::new();
    let group = tree.container();
    let mut player = Player::within(&group, &["say=here", "exit=3"]);
    let here = player.said("here").pid;
    player.ended();
    neighbour.remove();
    for (pid, id) in [(here, group.name()), (pid, &neighbour.id)] {
        let is_it = |line: &serde_json::Value| line["event"] == "exit" && line["process"]["pid"] == pid;
        let seen = ctrace.wait_for(&format!("the exit of {pid}"), |line| is_it(&line.json)).json;
        assert_eq!(seen["container"]["id"], json!(id), "{seen}");
    }
    let doubts: Vec<String> =
        ctrace.lines().into_iter().filter(|line| line.json["code"] == "doubt").map(|line| line.text).collect();
    assert!(doubts.is_empty(), "{doubts:?}");
    tool.remove();
}
