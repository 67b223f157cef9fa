//! What the kernel side is built with, brought where it is missing: rust-src and bpf-linker.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, process, rust_src};

/// The last bpf-linker that loads the LLVM of the Rust in rust-toolchain.toml.
const BPF_LINKER: &str = "0.10.3";

pub fn setup() -> Result<()> {
    let brought = [rust_src::ensure()?, ensure_bpf_linker()?];
    if !brought.contains(&true) {
        eprintln!("rust-src and bpf-linker {BPF_LINKER} are there");
    }
    Ok(())
}

/// The same, silent when there is nothing to do.
pub fn ensure() -> Result<()> {
    rust_src::ensure()?;
    ensure_bpf_linker()?;
    Ok(())
}

fn ensure_bpf_linker() -> Result<bool> {
    if found_bpf_linker().as_deref() == Some(BPF_LINKER) {
        return Ok(false);
    }
    eprintln!("installing bpf-linker {BPF_LINKER} (cargo install, a minute or two)");
    let mut install = cargo::cargo();
    install.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force", "--quiet"]);
    // Out of the workspace, whose .cargo/config.toml is not meant for it.
    install.current_dir("/");
    process::run(&mut install).with_context(|| {
        format!("cannot install bpf-linker; by hand: cargo install bpf-linker --version {BPF_LINKER} --locked")
    })?;
    match found_bpf_linker() {
        Some(found) if found == BPF_LINKER => Ok(true),
        Some(found) => bail!(
            "another bpf-linker ({found}) comes before {} in PATH: remove it, or put cargo's folder first",
            cargo::bin_dir()?.display()
        ),
        None => {
            bail!("bpf-linker was installed, but doesn't run: try {}/bpf-linker --version", cargo::bin_dir()?.display())
        }
    }
}

/// The version that a build would find.
fn found_bpf_linker() -> Option<String> {
    let path = cargo::path_with_cargo_bin();
    // Command looks its program up in the PATH of the child.
    let version = process::output(Command::new("bpf-linker").arg("--version").env("PATH", path)).ok()?;
    version.split_whitespace().nth(1).map(str::to_owned)
}
