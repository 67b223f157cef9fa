//! Names, labels and files that want to be taken for something else.

use std::fs;

use serde_json::json;

use super::{containers, listed, one};
use crate::support::{
    cgroups::{Tree, container_id},
    engines::{Place, containerd::Containerd, runc::Bundle},
    player::Player,
    unique,
};

pub fn names() {
    let containerd = Containerd::start();
    let id = format!("x{:x}", unique());
    let name = format!("io.kubernetes.cri.container-name=we\u{1b}[31mb\n{}", "y".repeat(60_000));
    let label = "evil=\u{1b}]0;title\u{7}\u{202e}line\ntwo";
    let options =
        ["--annotation", &name, "--annotation", label, "--annotation", "io.kubernetes.cri.sandbox-name=p\tod"];
    containerd.detached(&id, &options, &["/bin/sleep", "600"]);
    for arguments in [&[][..], &[id.as_str()]] {
        let shown = containers(arguments);
        assert_eq!(shown.code, Some(0), "{:?}", shown.err);
        let text = shown.out.join("\n");
        assert!(!text.chars().any(|char| char.is_control() && char != '\n'), "raw: {text:?}");
        assert!(!text.contains('\u{202e}') && text.contains("we\\x1b[31mb\\n"), "{text:?}");
        assert!(shown.out.iter().all(|line| line.len() < 20_000), "a line without end");
    }
    let rows = containers(&[]).out.iter().filter(|line| line.contains("we\\x1b")).count();
    assert!(rows >= 1, "no row of its own");
    let lines = listed(&[]);
    let own = lines.iter().find(|line| line["type"] == "container" && line["id"] == json!(id)).expect("it is listed");
    // JSON carries the text itself, cut.
    assert!(own["name"].as_str().is_some_and(|name| name.starts_with("we\u{1b}[31mb\n") && name.len() <= 4096));
    containerd.remove(&id);
}

pub fn a_fake_runtime_directory() {
    // Somebody's cgroup, named like a container of Docker's, of which no engine knows.
    let tree = Tree::new();
    let victim = tree.container();
    let player = Player::within(&victim, &["say=here", "pause"]);
    player.said("here");
    // A container that brings along what engines would write about it.
    let place = Place::new();
    let fake = container_id();
    let files = [
        (
            format!("run/runc/{}/state.json", victim.name()),
            json!({"cgroup_paths": {"": victim.path, "memory": victim.path}}),
        ),
        (
            format!("var/lib/docker/containers/{}/config.v2.json", victim.name()),
            json!({"ID": victim.name(), "Name": "/believe-me"}),
        ),
        (format!("var/lib/docker/containers/{fake}/config.v2.json"), json!({"ID": fake, "Name": "/believe-me"})),
    ];
    for (file, text) in &files {
        place.write(&format!("rootfs/{file}"), &text.to_string());
    }
    let id = format!("liar-{:x}", unique());
    let mut bundle = Bundle::new(&place, "runc", &id, &["/bin/sh", "-c", "exec sleep 600"]);
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/docker/{fake}"));
    // It calls itself dockerd, and says where its files are.
    fs::copy(place.rootfs().join("bin/busybox"), place.rootfs().join("bin/dockerd")).expect("a copy");
    let daemon = "exec -a sh /bin/dockerd -c 'while :; do sleep 1; done' --data-root /var/lib/docker";
    bundle.config["process"]["args"] = json!(["/bin/sh", "-c", daemon]);
    bundle.detached();
    let lines = listed(&[]);
    assert!(!lines.iter().any(|line| line["name"] == "believe-me"), "believed a container about itself");
    let nameless = one(victim.name());
    assert_eq!((&nameless["name"], &nameless["runtime"]), (&json!(null), &json!("docker")));
    assert!(nameless["unknown"]["name"].is_string(), "{nameless}");
    // By its path it is that container of Docker's, as the runtime made it; that the files are another's is said.
    let liar = one(&fake);
    assert_eq!(liar["name"], json!(null), "{liar}");
    assert!(liar["unknown"]["name"].is_string(), "{liar}");
}
