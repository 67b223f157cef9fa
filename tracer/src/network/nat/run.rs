//! One of the machine's own tools, run for what it prints. Its output is bounded, and so is the time it gets.

use std::{
    env,
    io::Read,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const PATIENCE: Duration = Duration::from_secs(3);
/// A container may have made a million rules.
const OUTPUT: usize = 8 << 20;
/// Where administrators' tools are, whatever PATH a person has.
const ALSO: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Runs it in the namespaces that this thread is in.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let path = find(program).ok_or_else(|| format!("{program} is not on PATH: install it to see these rules"))?;
    let mut command = Command::new(path);
    command.args(arguments).env_clear().env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("{program} could not be started: {error}"))?;
    let output = collect(&mut child);
    if output.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| format!("{program}: {error}"))?;
    let output = output.map_err(|why| format!("{program}: {why}"))?;
    if !status.success() {
        return Err(format!("{program} failed ({status}): run ctrace as root"));
    }
    Ok(String::from_utf8_lossy(&output).into_owned())
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).filter(|folder| folder.is_absolute()).chain(ALSO.map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| Path::is_file(file))
}

fn collect(child: &mut Child) -> Result<Vec<u8>, String> {
    let end = Instant::now() + PATIENCE;
    let mut stdout = child.stdout.take().ok_or("it has no output")?;
    let (mut output, mut part) = (Vec::new(), [0; 8192]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let ready = poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], wait);
        match ready {
            Ok(0) => return Err(format!("it took more than {} s", PATIENCE.as_secs())),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.desc().to_owned()),
        }
        match stdout.read(&mut part).map_err(|error| error.to_string())? {
            0 => return Ok(output),
            read => output.extend(part.iter().take(read)),
        }
        if output.len() > OUTPUT {
            return Err(format!("it lists more than {} MiB of rules", OUTPUT >> 20));
        }
    }
}
