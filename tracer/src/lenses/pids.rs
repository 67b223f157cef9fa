//! `ctrace pids`: why can't it fork, and who does not reap.

use super::{Lens, Registered};
use crate::{events::Event, findings::World, kernel::plan, pipeline::Output};

pub static LENS: Registered = Registered {
    name: "pids",
    about: "refused forks, zombies, and process counts against every limit",
    // Who is reaped is watched before who ends, or the map would keep some for ever.
    probes: &[&plan::FORK_REFUSED, &plan::PROCESS_FREE, &plan::EXIT],
    all_exits: false,
    signal_scope: 0,
    make: || Box::new(Pids),
};

#[derive(Default)]
struct Pids;

impl Lens for Pids {
    fn event(&mut self, _: &Event, _: &World, _: &mut Vec<Output>) {}
    fn tick(&mut self, _: u64, _: &World, _: &mut Vec<Output>) {}
    fn next_ns(&self) -> Option<u64> {
        None
    }
}
