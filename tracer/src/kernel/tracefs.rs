//! Where the kernel tells the numbers of its classic tracepoints.

use std::{path::Path, thread};

use anyhow::{Context, Result, anyhow, bail};
use aya::programs::{ProgramError, TracePoint};
use nix::{
    mount::{self, MsFlags},
    sched::{self, CloneFlags},
};

const PLACE: &str = "/sys/kernel/tracing";
const OTHER: &str = "/sys/kernel/debug/tracing";

/// Attaches a program to these tracepoints. Where tracefs is not mounted it is so for a thread that ends with this: the machine's
/// mounts stay as they are. To detach one takes the kernel some 70 ms.
///
/// # Errors
/// It cannot be mounted, or the kernel has not all of them: then the program is to be unloaded.
pub fn attach(program: &mut TracePoint, category: &str, names: &[&str]) -> Result<()> {
    let mut attach =
        || -> Result<(), ProgramError> { names.iter().try_for_each(|name| program.attach(category, name).map(drop)) };
    if [PLACE, OTHER].iter().any(|place| Path::new(place).join("events").exists()) {
        return Ok(attach()?);
    }
    let alone = || -> Result<()> {
        mount_alone()?;
        Ok(attach()?)
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, alone).context("a thread for tracefs")?;
        thread.join().map_err(|_| anyhow!("the thread for tracefs ended early"))?
    })
}

fn mount_alone() -> Result<()> {
    if !Path::new(PLACE).exists() {
        bail!("this kernel has no tracefs");
    }
    sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).context("a mount namespace for tracefs")?;
    // First: what is mounted here goes nowhere else.
    mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("mounts of its own")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount::mount(Some("tracefs"), PLACE, Some("tracefs"), flags, None::<&str>).context("mounting tracefs")
}
