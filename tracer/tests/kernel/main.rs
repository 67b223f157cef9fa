//! The tests that meet a kernel: real kills in real cgroups, seen by the real `ctrace`.
//!
//! `kernel [--list core|full|host-oom|lockdown|systemd|cri] [FILTER]`, as root. `cargo xtask test` runs it here and in each virtual
//! machine. One program plays two parts: as `kernel play …` it is the workload (see `support::play`).
#![allow(
    clippy::redundant_closure,
    clippy::needless_pass_by_value,
    clippy::format_collect,
    reason = "the workload forks and never returns: its functions take what they consume, whatever their type says"
)]
#![allow(
    unreachable_code,
    reason = "a call that never returns ends its arm, and the compiler still wants the empty match"
)]

mod caps;
mod containers;
mod cpu;
mod drops;
mod exits;
mod fio;
mod harness;
mod io;
mod load;
mod loss;
mod mem;
mod net;
mod network;
mod oom;
mod overview;
mod pids;
mod record;
mod robust;
mod signals;
mod support;
mod tui;

use std::process::ExitCode;

use harness::{List, Test};

/// Every test, in the order in which they run.
fn all() -> impl Iterator<Item = &'static Test> {
    let processes =
        [exits::TESTS, signals::TESTS, overview::TESTS, record::TESTS, tui::TESTS, containers::TESTS, network::TESTS];
    let lenses = [
        oom::TESTS,
        pids::TESTS,
        mem::TESTS,
        io::TESTS,
        fio::TESTS,
        cpu::TESTS,
        load::TESTS,
        drops::TESTS,
        net::TESTS,
        robust::TESTS,
        loss::TESTS,
    ]
    .into_iter()
    .flatten()
    .copied();
    let processes = processes.into_iter().chain(caps::TESTS.iter().copied());
    lenses.chain(processes).flat_map(|tests| tests.iter())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if std::env::args_os().nth(1).is_some_and(|word| word == "play") {
        support::play::play(arguments.skip(1).collect());
    }
    let (mut list, mut filter) = (List::Full, String::new());
    while let Some(argument) = arguments.next() {
        let argument = argument.to_string_lossy().into_owned();
        match argument.as_str() {
            "--list" => {
                let name = arguments.next().unwrap_or_default();
                match List::named(&name.to_string_lossy()) {
                    Some(named) => list = named,
                    None => return usage(&format!("--list {}", name.display())),
                }
            }
            // What `cargo test -- …` may pass to any harness.
            "--nocapture" | "--quiet" | "-q" => {}
            _ if argument.starts_with('-') => return usage(&argument),
            _ => filter = argument,
        }
    }
    harness::run(all(), list, &filter)
}

fn usage(problem: &str) -> ExitCode {
    eprintln!(
        "kernel: {problem} is not understood; usage: kernel [--list core|full|host-oom|lockdown|systemd|cri] [FILTER]"
    );
    ExitCode::from(2)
}
