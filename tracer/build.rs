//! Builds the kernel side for its own target, so that `cargo build` alone gives a whole ctrace.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use aya_build::{Package, Toolchain};
use object::{
    build::elf::{Builder, SectionData},
    elf,
};

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
    )?;
    if !debug {
        let out = env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?;
        strip(&Path::new(&out).join("ctrace-ebpf")).context("leaving out what only a debugger reads")?;
    }
    Ok(())
}

/// Nine tenths of the object are for debuggers, and would be read at each start: DWARF, and the lines that the verifier's
/// log quotes. `.BTF` stays, for the programs' and maps' own types in `bpftool`.
fn strip(path: &Path) -> Result<()> {
    let whole = fs::read(path)?;
    let mut object = Builder::read(&*whole)?;
    for section in &mut object.sections {
        let name = section.name.to_string();
        let name = name.strip_prefix(".rel").unwrap_or(&name);
        section.delete = name.starts_with(".debug_") || name == ".BTF.ext";
    }
    object.delete_orphans();
    // LLVM keeps sections' names among the symbols'; here they are apart.
    let names = object.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = elf::SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    object.write(&mut stripped)?;
    Ok(fs::write(path, stripped)?)
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
