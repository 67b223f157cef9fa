//! The check itself, run with fewer capabilities.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use caps::{CapSet, CapsHashSet};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use super::{Ended, Set, Stage, ending};
use crate::findings::caps::Report;

pub struct Program {
    check: Vec<String>,
}

impl Program {
    pub fn new(check: &[String]) -> Self {
        Self { check: check.to_vec() }
    }
}

impl Stage for Program {
    fn run(&mut self, set: &Set, timeout: Duration) -> Result<Ended> {
        let mut command = Command::new(&self.check[0]);
        command.args(&self.check[1..]);
        limit(&mut command, set);
        wait(command, timeout)
    }

    fn watch(&mut self, _: Duration) -> Result<Report> {
        bail!("only a container is watched: give the set of a program by --set or --from")
    }
}

/// Root gets the bounding set at an exec, another user the ambient one.
fn limit(command: &mut Command, set: &Set) {
    let set: CapsHashSet = set.iter().copied().collect();
    let away: Vec<_> = caps::all().difference(&set).copied().collect();
    let root = nix::unistd::geteuid().is_root();
    let restrict = move || -> Result<(), caps::errors::CapsError> {
        caps::clear(None, CapSet::Ambient)?;
        for one in &away {
            if caps::has_cap(None, CapSet::Bounding, *one)? {
                caps::drop(None, CapSet::Bounding, *one)?;
            }
        }
        let kept = if root { CapsHashSet::new() } else { set.clone() };
        caps::set(None, CapSet::Inheritable, &kept)?;
        for one in &kept {
            caps::raise(None, CapSet::Ambient, *one)?;
        }
        Ok(())
    };
    // SAFETY: this process has one thread, so nothing that the child could want is locked.
    unsafe { command.pre_exec(move || restrict().map_err(std::io::Error::other)) };
}

/// Runs it to its end, or for as long as it may.
pub fn wait(mut command: Command, timeout: Duration) -> Result<Ended> {
    let program = command.get_program().display().to_string();
    // In a group of its own: what it starts ends with it. Should verify be killed, it goes too.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    // SAFETY: one system call, between fork and exec.
    unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
    let start = Instant::now();
    let mut child = match command.spawn() {
        Ok(child) => child,
        // Without a capability its file may not be executed, or read.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Ok(Ended { passed: false, took: start.elapsed(), how: format!("{program}: {error}") });
        }
        Err(error) => return Err(error).with_context(|| format!("cannot run {program}")),
    };
    loop {
        if let Some(status) = child.try_wait().context("waiting for the check")? {
            return Ok(Ended { passed: status.success(), took: start.elapsed(), how: status.to_string() });
        }
        if start.elapsed() >= timeout || ending() {
            let _ = kill(Pid::from_raw(-(child.id() as i32)), Signal::SIGKILL);
            child.wait().context("waiting for the check")?;
            let how = format!("no end within {:.1} s", timeout.as_secs_f64());
            return Ok(Ended { passed: false, took: start.elapsed(), how });
        }
        thread::sleep(Duration::from_millis(5));
    }
}
