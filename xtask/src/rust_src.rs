//! The standard library's source in the toolchain's sysroot: by rustup, or else from Debian's package.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{apt::PrivateApt, debian, process};

/// Debian's suites that have a recent Rust.
const SUITES: &[&str] = &["trixie", "trixie-backports"];

/// Brings it where it is missing; true if it had to.
pub fn ensure() -> Result<bool> {
    let source = sysroot()?.join("lib/rustlib/src/rust");
    if is_whole(&source) {
        return Ok(false);
    }
    if by_rustup() && is_whole(&source) {
        eprintln!("rust-src installed by rustup");
        return Ok(true);
    }
    from_debian(&source).context(
        "rustup could not bring rust-src, and neither could Debian's package; see `rustup component add rust-src`",
    )?;
    Ok(true)
}

pub fn sysroot() -> Result<PathBuf> {
    let sysroot = process::output(rustc().args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(sysroot.trim()))
}

fn rustc() -> Command {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(crate::cargo::workspace());
    rustc
}

fn is_whole(source: &Path) -> bool {
    source.join("library/core/Cargo.toml").is_file()
}

fn by_rustup() -> bool {
    let mut rustup = Command::new("rustup");
    process::output(rustup.args(["component", "add", "rust-src"]).current_dir(crate::cargo::workspace())).is_ok()
}

fn from_debian(source: &Path) -> Result<()> {
    let version = process::output(rustc().arg("--version"))?;
    let version = version.split_whitespace().nth(1).context("rustc --version")?.to_owned();
    let cache = cache_dir()?;
    let apt = PrivateApt::update(&cache, SUITES)?;
    let package = debian::version_of_upstream(&apt.madison("rust-src")?, &version)
        .with_context(|| format!("Debian has no rust-src of version {version}"))?;
    eprintln!("installing rust-src {package} (Debian's package, unpacked into {})", cache.display());
    let unpacked = cache.join(format!("rust-src-{version}"));
    apt.unpack(&[format!("rust-src={package}")], &unpacked)?;
    link(&unpacked.join(format!("usr/src/rustc-{version}")), source)
}

/// The sysroot may belong to root where the toolchain is the system's.
fn link(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("a sysroot has folders")?;
    let own = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        if to.symlink_metadata().is_ok_and(|old| old.is_symlink()) {
            fs::remove_file(to)?;
        }
        symlink(from, to)
    };
    match own() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            process::run(process::as_root("mkdir").arg("-p").arg(folder))?;
            process::run(process::as_root("ln").arg("-sfn").arg(from).arg(to))
        }
        other => other.with_context(|| format!("cannot link {}", to.display())),
    }
}

fn cache_dir() -> Result<PathBuf> {
    let cache = cache_home()?.join("ctrace-build");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    Ok(cache)
}

/// `XDG_CACHE_HOME`, or ~/.cache.
pub fn cache_home() -> Result<PathBuf> {
    let xdg = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    xdg.or_else(|| env::home_dir().map(|home| home.join(".cache"))).context("neither XDG_CACHE_HOME nor HOME is set")
}
