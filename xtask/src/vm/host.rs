//! The host's part of a virtual machine: QEMU, virtiofsd and the tools that unpack kernels.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::cache::Cache;
use crate::{apt, process};

/// The first QEMU whose TCG is right: 7.2 corrupts EFLAGS, and one boot in six panics.
const QEMU: u32 = 10;

/// Programs on the host that a boot needs.
pub struct Host {
    pub qemu: PathBuf,
    /// `-L` folders: a privately unpacked QEMU doesn't find its firmware.
    pub firmware: Vec<PathBuf>,
    pub virtiofsd: PathBuf,
    pub busybox: PathBuf,
}

impl Host {
    /// Finds them, and installs those that are missing.
    pub fn ready(cache: &Cache) -> Result<Self> {
        apt::install(&missing())?;
        let (qemu, firmware) = qemu(cache)?;
        Ok(Self {
            qemu,
            firmware,
            virtiofsd: virtiofsd().context("virtiofsd is missing: install qemu-system-common or virtiofsd")?,
            busybox: static_busybox().context("a static busybox is missing: install busybox-static")?,
        })
    }
}

fn missing() -> Vec<&'static str> {
    let mut packages = Vec::new();
    let mut need = |there: bool, package| {
        if !there {
            packages.push(package);
        }
    };
    need(process::find("qemu-system-x86_64").is_some(), "qemu-system-x86");
    need(virtiofsd().is_some(), virtiofsd_package());
    need(process::find("cpio").is_some(), "cpio");
    need(process::find("depmod").is_some() && process::find("modprobe").is_some(), "kmod");
    need(process::find("xz").is_some(), "xz-utils");
    need(static_busybox().is_some(), "busybox-static");
    packages
}

fn virtiofsd() -> Option<PathBuf> {
    let places = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"].map(PathBuf::from);
    places.into_iter().find(|place| process::is_executable(place)).or_else(|| process::find("virtiofsd"))
}

/// Its own package since Debian 13, a part of QEMU's before.
fn virtiofsd_package() -> &'static str {
    match process::output(Command::new("apt-cache").args(["show", "virtiofsd"])) {
        Ok(_) => "virtiofsd",
        Err(_) => "qemu-system-common",
    }
}

fn static_busybox() -> Option<PathBuf> {
    let busybox = process::find("busybox")?;
    // ldd fails on a static program.
    process::output(Command::new("ldd").arg(&busybox)).is_err().then_some(busybox)
}

/// The system's QEMU where it is new enough; else the one of the release's backports, unpacked privately.
/// The system's package then brings the libraries and the firmware that it needs.
fn qemu(cache: &Cache) -> Result<(PathBuf, Vec<PathBuf>)> {
    let system =
        process::find("qemu-system-x86_64").context("qemu-system-x86_64 is missing: install qemu-system-x86")?;
    if major_version(&system).is_some_and(|major| major >= QEMU) {
        return Ok((system, Vec::new()));
    }
    let folder = cache.path("qemu");
    let private = folder.join("usr/bin/qemu-system-x86_64");
    if !private.is_file() {
        let suite = format!("{}-backports", codename().context("no VERSION_CODENAME in /etc/os-release")?);
        eprintln!("fetching QEMU {QEMU} ({suite}): this system's own one miscomputes");
        let apt = apt::PrivateApt::update(cache.folder(), &[suite.as_str()])?;
        let unpacked = cache.path("qemu.new");
        let _ = fs::remove_dir_all(&unpacked);
        apt.unpack(&["qemu-system-x86".to_owned(), "qemu-system-data".to_owned()], &unpacked)?;
        let _ = fs::remove_dir_all(&folder);
        fs::rename(&unpacked, &folder)?;
        major_version(&private).context("the QEMU of the backports doesn't run here")?;
    }
    Ok((private, vec![folder.join("usr/share/qemu"), PathBuf::from("/usr/share/seabios")]))
}

fn major_version(qemu: &Path) -> Option<u32> {
    let said = process::output(Command::new(qemu).arg("--version")).ok()?;
    let version = said.split_whitespace().skip_while(|word| *word != "version").nth(1)?;
    version.split('.').next()?.parse().ok()
}

fn codename() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(name.trim_matches('"').to_owned())
}
