//! The lenses: what each asks of the kernel, and what it makes of the answers. A new lens is one file here and its row
//! in [`REGISTERED`].

pub mod caps;
pub mod cpu;
pub mod exits;
pub mod io;
pub mod mem;
pub mod net;
pub mod oom;
pub mod pids;
pub mod signals;

use crate::{
    events::Event,
    findings::World,
    kernel::plan::{self, Probe},
    pipeline::{Answer, Output},
};

/// A lens at work. Pure: it sees events and the records' clock, and says what it makes of them.
pub trait Lens {
    fn event(&mut self, event: &Event, world: &World, out: &mut Vec<Output>);
    /// What was read because this lens (or another) asked for it.
    fn answer(&mut self, answer: &Answer, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        let _ = (answer, now_ns, world, out);
    }
    /// Called at least when [`Lens::next_ns`] is due, and once a second.
    fn tick(&mut self, now_ns: u64, world: &World, out: &mut Vec<Output>);
    /// The run ends: what was kept for the end is asked for now.
    fn finish(&mut self, now_ns: u64, world: &World, out: &mut Vec<Output>) {
        let _ = (now_ns, world, out);
    }
    /// What a recording that begins now must be told of the time before: what no later reading tells again.
    fn so_far(&self) -> Option<Answer> {
        None
    }
    /// When the lens has something to say at the latest, if nothing happens until then.
    fn next_ns(&self) -> Option<u64>;
}

/// A lens as the command line knows it.
#[derive(Debug)]
pub struct Registered {
    pub name: &'static str,
    pub about: &'static str,
    pub probes: &'static [&'static Probe],
    /// Those of them that are too hot for the overview: attached there only while somebody looks at what they tell, or
    /// files say that there is something to see.
    pub on_demand: &'static [&'static Probe],
    /// Globals of the kernel side (`WANT_*`) that this lens needs set; 0 where no lens asks, or-ed where several do.
    pub wants: &'static [(&'static str, u32)],
    /// How many entries each map of this lens gets, where it runs; 1 where it does not.
    pub maps: &'static [(&'static str, u32)],
    /// Size of the ring, where the command line says none: it counts as resident memory. A power of two.
    pub ring_kib: u32,
    /// Cheap enough to be always on, and of use without being asked about one container.
    pub in_overview: bool,
    pub make: fn() -> Box<dyn Lens>,
}

/// What every lens stands on: which cgroup is which container.
pub static ATTRIBUTION: &[&Probe] = &[&plan::CGROUP_MKDIR, &plan::CGROUP_RMDIR];

pub static REGISTERED: &[&Registered] = &[
    &oom::LENS,
    &exits::LENS,
    &signals::LENS,
    &pids::LENS,
    &mem::LENS,
    &io::LENS,
    &cpu::LENS,
    &net::LENS,
    &caps::LENS,
];

/// What `ctrace` alone shows.
pub fn overview() -> Vec<&'static Registered> {
    REGISTERED.iter().copied().filter(|lens| lens.in_overview).collect()
}

pub fn by_name(name: &str) -> Option<&'static Registered> {
    REGISTERED.iter().copied().find(|lens| lens.name == name)
}
