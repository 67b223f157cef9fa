//! `ctrace` alone: every lens at once, over the same events.

use crate::{
    harness::Test,
    support::{
        cgroups::Tree,
        ctrace::{Ctrace, command},
        player::Player,
    },
};

pub static TESTS: &[Test] = &[Test::core("overview::one_incident_in_every_lens", one_incident_in_every_lens)];

/// A kill, an end with a status and twelve zombies, each in a container of its own: each is found once, and no event is a
/// row.
fn one_incident_in_every_lens() {
    let tree = Tree::new();
    let ctrace = Ctrace::ready(command(&["--json"]));
    let (killed, failed, littered) = (tree.container().limited(24), tree.container(), tree.container());
    let litter = Player::within(&littered, &["zombies=12", "say=left", "pause"]);
    litter.said("left");
    Player::within(&killed, &["anon"]).ended();
    Player::within(&failed, &["exit=3"]).ended();
    ctrace.finding("oom.container-limit", &killed);
    ctrace.finding("exit.error", &failed);
    ctrace.finding("pids.zombies", &littered);
    let said = ctrace.stop();
    assert_eq!(said.codes(&failed), ["exit.error"]);
    assert_eq!(said.codes(&littered), ["pids.zombies"]);
    // Two lenses come to it: it is told once.
    assert_eq!(said.codes(&killed), ["oom.container-limit"]);
    assert!(said.lines.iter().all(|line| line.json["type"] != "event"));
}
