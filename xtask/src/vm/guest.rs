//! The `guest` root: a Debian with every container engine, as an ext4 image.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use super::{bootstrap::bootstrap, cache::Cache};
use crate::{apt, process};

/// Changes when the image has to be made anew.
const REVISION: u32 = 2;
const SIZE: &str = "2G";
const PACKAGES: &str = "systemd,systemd-sysv,dbus,libpam-systemd,dbus-user-session,docker.io,containerd,runc,crun,\
    podman,catatonit,systemd-container,uidmap,slirp4netns,fuse-overlayfs,iptables,nftables,iproute2,iputils-ping,procps,kmod,\
    busybox-static,xfsprogs,e2fsprogs";

/// Runs in the new root. The user `rl` is there for rootless engines; services that only slow a boot down stay off.
const CUSTOMIZE: &[&str] = &[
    r#"echo vm >"$1/etc/hostname"; : >"$1/etc/fstab"; rm -f "$1/etc/resolv.conf"; : >"$1/etc/machine-id""#,
    r#"chroot "$1" useradd -m -s /bin/bash rl"#,
    r#"chroot "$1" update-alternatives --set iptables /usr/sbin/iptables-nft >/dev/null"#,
    r#"chroot "$1" systemctl mask systemd-udevd.service systemd-udev-trigger.service systemd-udevd-kernel.socket \
        systemd-udevd-control.socket systemd-tmpfiles-setup.service systemd-tmpfiles-clean.timer apt-daily.timer \
        apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
        xfs_scrub_all.timer getty.target getty@tty1.service serial-getty@ttyS0.service systemd-journal-flush.service \
        systemd-update-utmp.service systemd-random-seed.service systemd-timesyncd.service podman.service \
        podman-auto-update.timer podman-restart.service"#,
    r#"chroot "$1" systemctl disable docker.service docker.socket containerd.service podman.socket || true"#,
];

/// The image, built if this revision of it isn't there (under a minute, 600 MB).
pub fn image(cache: &Cache) -> Result<PathBuf> {
    let image = cache.path(&format!("guest-{REVISION}.ext4"));
    if image.is_file() {
        return Ok(image);
    }
    if process::find("mke2fs").is_none() {
        apt::install(&["e2fsprogs"])?;
    }
    eprintln!("building the guest's root: Debian with docker, containerd, podman, runc and crun");
    let root = cache.path("guest.new");
    bootstrap(PACKAGES, CUSTOMIZE, &root).context("cannot build the guest's root")?;

    // As root too: the files keep their owners.
    let new = image.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut make = process::as_root(process::find("mke2fs").context("mke2fs is missing: install e2fsprogs")?);
    make.args(["-q", "-t", "ext4", "-O", "^metadata_csum,^has_journal", "-m", "0", "-L", "guest", "-d"]);
    process::output(make.arg(&root).arg(&new).arg(SIZE))?;
    process::output(process::as_root("rm").arg("-rf").arg(&root))?;
    if !process::is_root() {
        let owner = process::output(Command::new("id").arg("-u"))?;
        process::output(process::as_root("chown").arg(owner.trim()).arg(&new))?;
    }
    fs::rename(&new, &image)?;
    Ok(image)
}
