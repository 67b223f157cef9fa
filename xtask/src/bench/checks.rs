//! The load of capability checks: one process in a container's cgroup that asks over and over, and the time that this takes
//! it on a processor.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::load::NAME;

/// A cgroup in a form of runc's: by its name it is a container, for as long as the tools run.
pub struct Container(PathBuf);

impl Container {
    pub fn make() -> Result<Self> {
        let group = Self(path());
        let _ = fs::remove_dir(&group.0);
        fs::create_dir(&group.0).with_context(|| format!("making {}", group.0.display()))?;
        Ok(group)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn path() -> PathBuf {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    Path::new(if unified { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" }).join(format!("runc-{NAME}.scope"))
}

/// To drop no capability from the bounding set: the kernel asks for CAP_SETPCAP, and then finds nothing to drop.
pub fn ask(count: u32) -> Result<Duration> {
    const NONE: libc::c_ulong = 4711;
    fs::write(path().join("cgroup.procs"), "0").context("entering the container's cgroup")?;
    let before = on_a_processor();
    for _ in 0..count {
        // SAFETY: no pointer is passed, and nothing is changed.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, NONE, 0, 0, 0) } != -1 {
            bail!("a capability {NONE} was dropped");
        }
    }
    Ok(on_a_processor().saturating_sub(before))
}

/// Of this process, in its own code and in the kernel for it.
pub(super) fn on_a_processor() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for a time.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
