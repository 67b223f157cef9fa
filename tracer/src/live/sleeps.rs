//! Uninterruptible sleeps that ended, as the kernel side summed them by stack, and the functions of those stacks.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use tracer_common::cpu::{NO_STACK, SleepKey, Sleeps};

use crate::{
    findings::cpu::{Slept, Stack},
    kernel::{load::Kernel, symbols::Symbols},
    lenses::cpu as sizes,
};

/// Stacks below which less was slept are not looked up: all of the kernel's symbols are read for it.
const LEAST_NS: u64 = 10_000_000;
/// … and at most so often.
const PAUSE: Duration = Duration::from_secs(5);
/// Functions that are kept of a stack.
const FRAMES: usize = 24;

pub fn read(kernel: &Kernel) -> Result<BTreeMap<(u64, u32), Slept>> {
    let mut found = BTreeMap::new();
    for (key, each) in kernel.entries_per_cpu::<SleepKey, Sleeps>("SLEEPS", sizes::SLEEPS as usize)? {
        let sum = each.iter().fold(Slept::default(), |sum, cpu| Slept {
            count: sum.count + cpu.count,
            total_ns: sum.total_ns + cpu.total_ns,
        });
        found.insert((key.cgroup, key.stack), sum);
    }
    Ok(found)
}

/// The stacks that were looked up: what stands behind a key never changes.
#[derive(Debug, Default)]
pub struct Stacks {
    known: BTreeMap<u32, Stack>,
    looked: Option<Instant>,
}

impl Stacks {
    /// The stacks of all sleeps that sum up to something.
    pub fn of(
        &mut self,
        sleeps: &BTreeMap<(u64, u32), Slept>,
        kernel: &Kernel,
        symbols: &Symbols,
    ) -> Result<BTreeMap<u32, Stack>> {
        let mut by_stack: BTreeMap<u32, u64> = BTreeMap::new();
        for ((_, stack), slept) in sleeps {
            *by_stack.entry(*stack).or_default() += slept.total_ns;
        }
        by_stack.retain(|_, total_ns| *total_ns >= LEAST_NS);
        let mut new: Vec<(u32, Vec<u64>)> = Vec::new();
        let mut unknown: Vec<u32> = by_stack.keys().filter(|key| !self.known.contains_key(key)).copied().collect();
        if self.looked.is_some_and(|looked| looked.elapsed() < PAUSE) {
            unknown.clear();
        }
        for key in unknown {
            let addresses = if key == NO_STACK { None } else { kernel.stack("STACKS", key)? };
            match addresses {
                Some(addresses) => new.push((key, addresses)),
                None => {
                    self.known.insert(key, Err("the kernel side had no room for its stack".into()));
                }
            }
        }
        if !new.is_empty() {
            self.look_up(&new, symbols);
            self.looked = Some(Instant::now());
        }
        let known = |key: u32| Some((key, self.known.get(&key)?.clone()));
        Ok(by_stack.into_keys().filter_map(known).collect())
    }

    fn look_up(&mut self, new: &[(u32, Vec<u64>)], symbols: &Symbols) {
        let all: Vec<u64> = new.iter().flat_map(|(_, addresses)| addresses.iter().copied()).collect();
        match symbols.names(&all) {
            Ok(names) => {
                let mut names = names.into_iter();
                for (key, addresses) in new {
                    let functions: Vec<String> = names.by_ref().take(addresses.len()).flatten().collect();
                    let functions: Arc<[String]> = asleep(&functions).iter().take(FRAMES).cloned().collect();
                    self.known.insert(*key, Ok(functions));
                }
            }
            Err(why) => {
                let why: Arc<str> = why.to_string().into();
                self.known.extend(new.iter().map(|(key, _)| (*key, Err(Arc::clone(&why)))));
            }
        }
    }
}

/// Without the switch itself and the program that saw it.
fn asleep(functions: &[String]) -> &[String] {
    let last = functions.iter().rposition(|function| matches!(function.as_str(), "__schedule" | "schedule"));
    last.map_or(functions, |last| &functions[last + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_begins_behind_the_scheduler() {
        let of = |names: &[&str]| asleep(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).to_vec();
        let names = ["bpf_trace_run4", "__traceiter_sched_switch", "__schedule", "schedule", "io_schedule", "do_read"];
        assert_eq!(of(&names), ["io_schedule", "do_read"]);
        assert_eq!(of(&["do_read"]), ["do_read"]);
        assert_eq!(of(&[]), [""; 0]);
    }
}
