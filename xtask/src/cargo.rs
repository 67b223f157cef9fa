//! cargo as xtask calls it, and what it says about the workspace.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

/// The checkout that this xtask was built from.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// cargo in the workspace, by the toolchain that runs xtask, finding bpf-linker wherever `setup` put it.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).env("PATH", path_with_cargo_bin());
    cargo
}

pub fn target_dir() -> Result<PathBuf> {
    let metadata = metadata()?;
    metadata["target_directory"].as_str().map(PathBuf::from).context("cargo metadata names no target directory")
}

/// The names of the workspace's `tests/`.
pub fn test_targets() -> Result<Vec<String>> {
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.filter_map(|package| package["targets"].as_array()).flatten();
    let tests = targets.filter(|target| target["kind"][0] == "test").filter_map(|target| target["name"].as_str());
    Ok(tests.map(str::to_owned).collect())
}

fn metadata() -> Result<Value> {
    let json = process::output(cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    serde_json::from_str(&json).context("cargo metadata")
}

/// Where `cargo install` puts programs.
pub fn bin_dir() -> Result<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    Ok(home.context("neither CARGO_HOME nor HOME is set")?.join("bin"))
}

/// A changed PATH makes build scripts run again, so it changes only where it has to.
pub fn path_with_cargo_bin() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let Ok(bin) = bin_dir() else { return path };
    if env::split_paths(&path).any(|folder| folder == bin) {
        return path;
    }
    env::join_paths(std::iter::once(bin).chain(env::split_paths(&path))).unwrap_or(path)
}

/// What the user's own programs should see: without the library path that `cargo run` sets for xtask.
pub fn without_cargo_libraries(command: &mut Command) -> Result<&mut Command> {
    let Some(path) = env::var_os("LD_LIBRARY_PATH") else { return Ok(command) };
    let own = [target_dir()?, crate::rust_src::sysroot()?];
    let kept: Vec<_> = env::split_paths(&path)
        .filter(|folder| !folder.as_os_str().is_empty() && !own.iter().any(|own| folder.starts_with(own)))
        .collect();
    if kept.is_empty() {
        return Ok(command.env_remove("LD_LIBRARY_PATH"));
    }
    Ok(command.env("LD_LIBRARY_PATH", env::join_paths(kept)?))
}
