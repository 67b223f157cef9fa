//! Builds the kernel side for its own target, so that `cargo build` alone gives a whole ctrace.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use aya_build::{Package, Toolchain};

/// rustc's own LLVM and bpf-linker's must match: both are pinned in rust-toolchain.toml and xtask.
const TOOLCHAIN: &str = "1.95.0";

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=PATH");
    println!("cargo:rerun-if-changed=../tracer-common");
    need_bpf_linker()?;
    need_rust_src()?;
    // SAFETY: a build script is single-threaded here; -Z build-std on a stable compiler, for the kernel side alone.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    let debug = env::var("PROFILE").is_ok_and(|profile| profile == "debug");
    aya_build::build_ebpf(
        [Package {
            name: "tracer-ebpf",
            root_dir: "../tracer-ebpf",
            no_default_features: false,
            features: if debug { &["log"] } else { &[] },
        }],
        Toolchain::Custom(TOOLCHAIN),
    )
}

fn need_bpf_linker() -> Result<()> {
    if which::which("bpf-linker").is_err() {
        bail!("bpf-linker is missing, and the kernel side needs it.\n\n    Run: cargo xtask setup\n");
    }
    Ok(())
}

fn need_rust_src() -> Result<()> {
    let rustc = env::var("RUSTC").context("cargo sets RUSTC")?;
    let sysroot = Command::new(rustc).args(["--print", "sysroot"]).output().context("rustc --print sysroot")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    if !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
        bail!(
            "the standard library's source (rust-src) is missing, and the kernel side is built from it.\n\n    Run: cargo xtask setup\n"
        );
    }
    Ok(())
}
