//! Debian's kernels, from packages that are unpacked and never installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::cache::Cache;
use crate::{apt::PrivateApt, debian, process};

/// Small, and with everything that ctrace looks at.
const FLAVOUR: &str = "cloud-amd64";

/// The kernels that ctrace is tested on.
pub const MATRIX: &[&str] = &["5.10", "6.1", "6.12", "6.18", "7.3"];

pub struct Kernel {
    /// What `uname -r` says.
    pub release: String,
    /// vmlinuz, config, lib/modules.
    pub folder: PathBuf,
}

impl Kernel {
    /// The newest kernel of a series, or exactly this one; fetched if it isn't in the cache or a newer one is asked for.
    pub fn get(cache: &Cache, want: &str, refresh: bool) -> Result<Self> {
        let chosen = cache.path(&format!("kernel-{want}"));
        if let Ok(release) = fs::read_to_string(&chosen)
            && !refresh
            && let kernel = Self::in_cache(cache, release.trim())
            && kernel.is_whole()
        {
            return Ok(kernel);
        }
        let suites = debian::kernel_suites(want);
        let apt = PrivateApt::update(cache.folder(), suites)?;
        let available = apt.dump_available()?;
        let version = debian::newest_kernel(&available, want, FLAVOUR)
            .with_context(|| format!("Debian has no whole kernel {want} in {}", suites.join(", ")))?;
        let kernel = Self::in_cache(cache, &format!("{version}-{FLAVOUR}"));
        if !kernel.is_whole() {
            eprintln!("fetching kernel {}", kernel.release);
            kernel.fetch(&apt, &debian::kernel_packages(&available, &kernel.release))?;
        }
        fs::write(chosen, &kernel.release)?;
        Ok(kernel)
    }

    fn in_cache(cache: &Cache, release: &str) -> Self {
        Self { release: release.to_owned(), folder: cache.path("kernels").join(release) }
    }

    /// The folder gets its name only when all is in it.
    fn is_whole(&self) -> bool {
        !self.release.is_empty() && self.folder.join("vmlinuz").is_file()
    }

    fn fetch(&self, apt: &PrivateApt, packages: &[String]) -> Result<()> {
        let new = self.folder.with_extension("new");
        let unpacked = new.join("unpacked");
        let _ = fs::remove_dir_all(&new);
        apt.unpack(packages, &unpacked)?;
        let release = &self.release;
        let modules = first_of(&unpacked, &[format!("usr/lib/modules/{release}"), format!("lib/modules/{release}")])?;
        for (name, places) in [
            ("vmlinuz", [format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")]),
            ("config", [format!("boot/config-{release}"), format!("usr/lib/modules/{release}/config")]),
        ] {
            fs::rename(first_of(&unpacked, &places)?, new.join(name))?;
        }
        fs::create_dir_all(new.join("lib/modules"))?;
        fs::rename(modules, new.join("lib/modules").join(release))?;
        fs::remove_dir_all(&unpacked)?;
        decompress_modules(&new.join("lib/modules"))?;
        let depmod = process::find("depmod").context("depmod is missing: install kmod")?;
        process::output(Command::new(depmod).arg("-b").arg(&new).arg(release))?;
        let _ = fs::remove_dir_all(&self.folder);
        fs::rename(&new, &self.folder)?;
        Ok(())
    }
}

fn first_of(folder: &Path, places: &[String]) -> Result<PathBuf> {
    let mut places = places.iter().map(|place| folder.join(place));
    places.find(|place| place.exists()).context("the kernel package isn't laid out as expected")
}

/// Once here: the guest would take seconds for each.
fn decompress_modules(folder: &Path) -> Result<()> {
    let mut folders = vec![folder.to_owned()];
    let mut compressed = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match entry.path() {
                path if entry.file_type()?.is_dir() => folders.push(path),
                path if path.extension().is_some_and(|extension| extension == "xz") => compressed.push(path),
                _ => {}
            }
        }
    }
    for chunk in compressed.chunks(500) {
        process::output(Command::new("xz").arg("-d").args(chunk))?;
    }
    Ok(())
}
