//! `ctrace io`: who waits in write(), what devices and their limits do, and which file system is full.

use tracer_common::{
    block::{CHARGES_BITS, REQUESTS_BITS},
    sync::SYNCING_PLACES,
};

use super::{Lens, Registered};
use crate::{
    events::Event,
    findings::{World, io::Rule},
    kernel::plan,
    pipeline::{Answer, Output},
};

pub static LENS: Registered = Registered {
    name: "io",
    about: "Files and disks: paused writers, devices against limits, full file systems",
    // What ends a wait is hooked before what begins one.
    probes: &[
        &plan::BLOCK_COMPLETE,
        &plan::BLOCK_ISSUE,
        &plan::DIRTY_PAUSE,
        &plan::FILE_REFUSED,
        &plan::SYNC_BEGIN,
        &plan::COPY_UP,
    ],
    // Where each system call passes by.
    on_demand: &[&plan::SYNC_BEGIN],
    wants: &[],
    maps: &[
        ("PAUSES", PAUSES),
        ("DEVICE_IO", DEVICE_IO),
        ("REQUESTS", 1 << REQUESTS_BITS),
        ("CROWDED", 4096),
        ("CHARGES", 1 << CHARGES_BITS),
        ("REFUSED", 4096),
        ("SYNCS", SYNCS),
        ("SYNCING", SYNCING_PLACES),
        ("COPYING", 256),
    ],
    ring_kib: 512,
    in_overview: true,
    make: || Box::new(Io::default()),
};

/// Writers that are counted apart.
pub const PAUSES: u32 = 2048;
/// Cgroups, devices and kinds of requests that are counted apart.
pub const DEVICE_IO: u32 = 4096;

/// Processes, calls and file systems whose waits are counted apart.
pub const SYNCS: u32 = 2048;

#[derive(Default)]
struct Io {
    rule: Rule,
}

impl Lens for Io {
    fn event(&mut self, event: &Event, world: &World, out: &mut Vec<Output>) {
        self.rule.event(event, world, out);
    }

    fn answer(&mut self, answer: &Answer, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        if let Answer::Io(reading) = answer {
            self.rule.reading(reading, now_ns, world, out);
        }
    }

    fn tick(&mut self, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        self.rule.tick(now_ns, world, out);
    }

    /// What it says comes of readings: nothing is ripe between.
    fn next_ns(&self) -> Option<u64> {
        None
    }
}
