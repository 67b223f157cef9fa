//! What the kernel side is built with, brought where it is missing: rust-src and bpf-linker.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, process, rust_src};

/// The last bpf-linker that loads the LLVM of the Rust in rust-toolchain.toml.
const BPF_LINKER: Tool = Tool { name: "bpf-linker", version: "0.10.3" };

pub fn setup() -> Result<()> {
    let brought = [rust_src::ensure()?, BPF_LINKER.ensure()?];
    if !brought.contains(&true) {
        eprintln!("rust-src and bpf-linker {} are there", BPF_LINKER.version);
    }
    Ok(())
}

/// The same, silent when there is nothing to do.
pub fn ensure() -> Result<()> {
    rust_src::ensure()?;
    BPF_LINKER.ensure()?;
    Ok(())
}

/// A program that cargo installs, of exactly one version.
pub struct Tool {
    pub name: &'static str,
    pub version: &'static str,
}

impl Tool {
    /// Installs it where it is missing; true if it had to.
    pub fn ensure(&self) -> Result<bool> {
        let Self { name, version } = self;
        if self.is_there() {
            return Ok(false);
        }
        eprintln!("installing {name} {version} (cargo install, a minute or two)");
        let mut install = cargo::cargo();
        install.args(["install", name, "--version", version, "--locked", "--force", "--quiet"]);
        // Out of the workspace, whose .cargo/config.toml is not meant for it.
        install.current_dir("/");
        process::run(&mut install).with_context(|| {
            format!("cannot install {name}: is the network there? By hand: cargo install {name} --version {version} --locked")
        })?;
        let bin = cargo::bin_dir()?;
        match self.found() {
            Some(found) if found == *version => Ok(true),
            Some(found) => bail!(
                "another {name} ({found}) comes before {} in PATH: remove it, or put cargo's folder first",
                bin.display()
            ),
            None => bail!("{name} was installed, but doesn't run: try {}/{name} --version", bin.display()),
        }
    }

    /// True if this version is there already.
    pub fn is_there(&self) -> bool {
        self.found().as_deref() == Some(self.version)
    }

    /// The version that a build would find.
    fn found(&self) -> Option<String> {
        let path = cargo::path_with_cargo_bin();
        // Command looks its program up in the PATH of the child.
        let said = process::output(Command::new(self.name).arg("--version").env("PATH", path)).ok()?;
        said.split_whitespace().nth(1).map(str::to_owned)
    }
}
