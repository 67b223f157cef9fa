//! The initramfs of a kernel: busybox, and the few modules that reach the host's files.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{cache::Cache, host::Host, kernel::Kernel};
use crate::process;

const INIT: &str = include_str!("early.sh");
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_console", "virtiofs", "overlay"];
const FOLDERS: &[&str] = &[
    "bin",
    "sbin",
    "proc",
    "sys",
    "dev",
    "run",
    "tmp",
    "root",
    "etc",
    "host",
    "share",
    "newroot",
    "mods",
    "lib/modules",
    "usr/bin",
    "usr/sbin",
    "var",
];

/// Made once for each kernel and each version of the script within.
pub fn initramfs(cache: &Cache, host: &Host, kernel: &Kernel) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (INIT, MODULES, FOLDERS).hash(&mut hasher);
    let archive = kernel.folder.join(format!("initramfs-{:016x}.cpio", hasher.finish()));
    if archive.is_file() {
        return Ok(archive);
    }
    let root = cache.run_folder()?;
    fill(root.path(), host, kernel)?;
    let new = archive.with_extension("new");
    let pack = format!("find . | cpio -o -H newc --quiet >{}", process::shell_word(&new.to_string_lossy()));
    process::output(Command::new("sh").args(["-c", &pack]).current_dir(root.path()))?;
    fs::rename(&new, &archive)?;
    Ok(archive)
}

fn fill(root: &Path, host: &Host, kernel: &Kernel) -> Result<()> {
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(&host.busybox, root.join("bin/busybox"))?;
    for applet in process::output(Command::new(&host.busybox).arg("--list"))?.lines().filter(|name| *name != "busybox")
    {
        symlink("/bin/busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    fs::copy(kernel.folder.join("config"), root.join("etc/kconfig"))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;

    let mut order: Vec<String> = Vec::new();
    for module in MODULES.iter().flat_map(|module| with_dependencies(kernel, module)) {
        let name = module.file_name().context("a module's file has a name")?.to_string_lossy().into_owned();
        if !order.contains(&name) {
            fs::copy(&module, root.join("mods").join(&name))?;
            order.push(name);
        }
    }
    fs::write(root.join("mods/order"), order.join("\n"))?;
    Ok(())
}

/// In the order in which they load; none where the kernel has it built in or doesn't have it.
fn with_dependencies(kernel: &Kernel, module: &str) -> Vec<PathBuf> {
    let Some(modprobe) = process::find("modprobe") else { return Vec::new() };
    let mut modprobe = Command::new(modprobe);
    modprobe.arg("-d").arg(&kernel.folder).args(["-S", &kernel.release, "--show-depends", module]);
    let said = process::output(&mut modprobe).unwrap_or_default();
    said.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|file| PathBuf::from(file.trim())).collect()
}
