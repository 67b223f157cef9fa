//! `cargo xtask`: everything around ctrace that isn't ctrace. One module per question.

mod apt;
mod bench;
mod build;
mod cargo;
mod debian;
mod install;
mod process;
mod run;
mod rust_src;
mod setup;
mod test;
mod vm;

use std::{env, ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, build, run, install and test ctrace", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Bring what the kernel side is built with: rust-src and bpf-linker
    Setup,
    /// Build target/<profile>/ctrace, setting up first where needed
    Build(build::Args),
    /// Build ctrace and run it as root: everything after `run` is ctrace's (only a leading --release is taken)
    #[command(disable_help_flag = true)]
    Run {
        #[arg(value_name = "ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Build ctrace and put it where `sudo ctrace` finds it
    Install(install::Args),
    /// Run every tier of the tests: lints, unit tests, kernel tests here and in virtual machines
    Test(test::Args),
    /// Check the licences, sources and known holes of the dependencies (a part of test once cargo-deny is there)
    Deny,
    /// Measure ctrace against libbpf-tools and bpftrace, and write docs/bench.md
    Bench(bench::Args),
    /// One group of the benchmarks, on the kernel that this runs on
    #[command(hide = true)]
    BenchHere(bench::HereArgs),
    /// What the tools are made to watch
    #[command(hide = true)]
    BenchLoad(bench::LoadArgs),
    /// Run a command as root in virtual machines with Debian's kernels
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    // Before clap, which would take `--` and `--help` for itself.
    let outcome = match run::ctrace_arguments(&args) {
        Some(ctrace_args) => run::run(ctrace_args),
        None => dispatch(Cli::parse().task),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(125)
    })
}

fn dispatch(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup => setup::setup().map(|()| ExitCode::SUCCESS),
        Task::Build(args) => build::command(&args),
        Task::Run { args } => run::run(&args),
        Task::Install(args) => install::install(&args),
        Task::Test(args) => test::command(&args),
        Task::Deny => test::licences(),
        Task::Bench(args) => bench::command(&args),
        Task::BenchHere(args) => bench::here(&args),
        Task::BenchLoad(args) => bench::load(&args),
        Task::Vm(args) => vm::command(&args),
    }
}
