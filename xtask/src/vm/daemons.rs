//! The root file system of the containers that real daemons run in: Debian's packages, below which tests only lay layers.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use super::{bootstrap::bootstrap, cache::Cache};

/// Changes when the folder has to be made anew.
const REVISION: u32 = 1;
/// libcap2-bin gives ping its file capability; without, it is set-user-id.
const PACKAGES: &str = "apache2,haproxy,vsftpd,rsyslog,unbound,cron,libcap2-bin,iputils-ping,iperf3";

/// The folder, made if this revision of it isn't there (two minutes, 230 MB).
pub fn root() -> Result<PathBuf> {
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    let root = cache.path(&format!("daemons-{REVISION}"));
    if root.is_dir() {
        return Ok(root);
    }
    eprintln!("building the daemons' root: Debian with apache2, haproxy, unbound and others");
    let new = cache.path("daemons.new");
    bootstrap(PACKAGES, &[], &new).context("cannot build the daemons' root")?;
    fs::rename(&new, &root)?;
    Ok(root)
}
