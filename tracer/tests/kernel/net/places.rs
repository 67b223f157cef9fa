//! Containers without a network of their own, and those that are gone.

use serde_json::Value;
use tracer::kernel::host::boottime_ns;

use super::{
    path::{PACKETS, Scene, packets},
    street::Street,
};
use crate::{
    harness::{Lack, Test},
    support::{
        cgroups::Tree,
        ctrace::{Ctrace, Line, command, run},
        player::Player,
    },
};

pub static TESTS: &[Test] =
    &[Test::full("net::places::host", host).needs(&[Lack::OpenInit]), Test::full("net::places::gone", gone)];

/// On the host's network its packets are anybody's: that is said, and what is known of the host's stands beside it.
fn host() {
    let tree = Tree::new();
    let container = tree.container();
    let _player = Player::within(&container, &["pause"]);
    let ctrace = Ctrace::ready(command(&["net", "--json", "--container", container.name()]));
    let row =
        ctrace.wait_for("its row", |line| line.json["sample"] == "net" && line.json["cgroup"] == container.path).json;
    assert_eq!(row["network"], "host", "{row}");
    for field in ["hops", "stops", "dropped"] {
        assert_eq!(row[field], Value::Null, "{row}");
        let why = row["unknown"][field].as_str().unwrap_or_default();
        assert!(why.contains("it is on the host's network"), "{row}");
    }
    ctrace.stop();
    let ended = run(command(&["net", "--lines", "--for", "2s", "--container", container.name()]));
    let text = ended.out.join("\n");
    let offered = format!("on the host's network: `ctrace containers {}` shows", &container.name()[..12]);
    assert!(text.contains(&offered), "{ended:?}");
}

/// Its row ends with it, another's goes on, and nothing is found. By its name it is asked for in vain.
fn gone() {
    let scene = Scene::new();
    let tree = Tree::new();
    let container = tree.container();
    let street = Street::new(&container);
    let of_it = |line: &Line| line.json["sample"] == "net" && line.json["cgroup"] == container.path;
    scene.ctrace.wait_for("numbers of both", of_it);
    street.send(PACKETS, 100);
    let sent = |line: &Line| of_it(line) && packets(&line.json, "out", "container device", "xmit", "packets") > 0;
    scene.ctrace.wait_for("its packets", sent);
    drop(street);
    drop(tree);
    let gone_ns = boottime_ns();
    // The row of what is no container's is a reading's last.
    scene.ctrace.wait_for("a reading without it", |last| {
        let is_last = last.json["sample"] == "net" && last.json["container"].is_null() && last.at_ns > gone_ns;
        let lines = scene.ctrace.lines();
        let rows: Vec<_> = lines.iter().filter(|line| line.json["time"] == last.json["time"]).collect();
        let has = |path: &str| rows.iter().any(|line| line.json["sample"] == "net" && line.json["cgroup"] == path);
        is_last && has(&scene.container.path) && !has(&container.path)
    });
    let said = scene.ctrace.stop();
    assert_eq!(said.codes(&container), [] as [&str; 0], "it only ended");
    let ended = run(command(&["net", "--for", "1s", "--container", container.name()]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.join("\n").contains("no container"), "{ended:?}");
}
