//! Where no set is given: a container is watched by `ctrace caps` itself, from before it starts.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::Value;

use crate::findings::caps::Report;

/// Attaching takes some ten milliseconds; a machine that needs this long for it is in trouble.
const PATIENCE: Duration = Duration::from_secs(30);

/// `ctrace caps --from-start` of a container that is not there yet, attached.
pub struct Watch {
    child: Child,
    lines: Receiver<Value>,
}

impl Watch {
    /// # Errors
    /// It did not come so far; with its own reason.
    pub fn start(container: &str) -> Result<Self> {
        let own = std::env::current_exe().context("the own program")?;
        let mut command = Command::new(own);
        command.args(["caps", "--json", "--from-start", "--container", container]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).process_group(0);
        // SAFETY: one system call, between fork and exec.
        unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
        let mut child = command.spawn().context("cannot run ctrace caps")?;
        let out = child.stdout.take().context("its output")?;
        let (said, lines) = mpsc::channel();
        // It ends with the child's output.
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str(&line)
                    && said.send(line).is_err()
                {
                    break;
                }
            }
        });
        let watch = Self { child, lines };
        loop {
            match watch.lines.recv_timeout(PATIENCE) {
                Ok(line) if line["code"] == "waiting" => return Ok(watch),
                Ok(_) => {}
                Err(_) => bail!("the container could not be watched; give the set by --set or --from"),
            }
        }
    }

    /// Ends the watch; what it saw.
    ///
    /// # Errors
    /// It saw no container of that name.
    pub fn report(self) -> Result<Report> {
        // Not reaped yet, so the pid is still its own, also where it ended with its container.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT);
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line["type"] == "caps" => {
                    return serde_json::from_value(line).context("reading the report");
                }
                Ok(_) => {}
                Err(_) => bail!("the watch saw no container start; give the set by --set or --from"),
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
