//! Builds target/<profile>/ctrace.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{cargo, process, setup};

#[derive(clap::Args)]
pub struct Args {
    /// With optimisations, as it is installed
    #[arg(long)]
    release: bool,
}

pub fn command(args: &Args) -> Result<ExitCode> {
    let binary = ctrace(if args.release { "release" } else { "dev" }, &[], Output::Cargos)?;
    eprintln!("{}", binary.display());
    Ok(ExitCode::SUCCESS)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// All that cargo says.
    Cargos,
    /// Only warnings, errors, and that a first build takes its time.
    Little,
}

/// Builds ctrace by a profile of Cargo.toml (the directory below target/ is called like it) and says where it is.
pub fn ctrace(profile: &str, features: &[&str], output: Output) -> Result<PathBuf> {
    setup::ensure()?;
    let binary = cargo::target_dir()?.join(if profile == "dev" { "debug" } else { profile }).join("ctrace");
    let mut build = cargo::cargo();
    build.args(["build", "--profile", profile, "--package", "tracer", "--bin", "ctrace"]);
    if !features.is_empty() {
        build.arg("--features").arg(features.join(","));
    }
    if output == Output::Little {
        build.arg("--quiet");
        if !binary.exists() {
            eprintln!("building ctrace (a minute or two, the first time)");
        }
    }
    process::run(&mut build)?;
    Ok(binary)
}
