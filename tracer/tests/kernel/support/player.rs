//! Starts the workload (`play`) and follows what it says.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use tracer::kernel::host::boottime_ns;

use super::{cgroups::Group, wait_until};

pub struct Player {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

/// A process that said who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    pub pid: u64,
    pub tid: u64,
}

/// This program with those steps to play.
pub fn command<S: Into<OsString>>(steps: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
    command.arg("play").args(steps.into_iter().map(Into::into));
    command
}

/// Its path, for steps that end with an exec of it.
pub fn program() -> String {
    std::env::current_exe().expect("the path of this program").display().to_string()
}

pub fn enter(group: &Group) -> String {
    format!("enter={}", group.directory().display())
}

impl Player {
    /// Plays the steps in a cgroup.
    pub fn within(group: &Group, steps: &[&str]) -> Self {
        let enter = enter(group);
        Self::start(std::iter::once(enter.as_str()).chain(steps.iter().copied()))
    }

    /// Plays the steps as PID 1 of a new pid namespace, in a cgroup.
    pub fn as_init(group: &Group, steps: &[&str]) -> Self {
        let enter = enter(group);
        Self::start(["pidns", enter.as_str()].into_iter().chain(steps.iter().copied()))
    }

    /// Plays the steps as they are.
    pub fn bare(steps: &[&str]) -> Self {
        Self::start(steps.iter().copied())
    }

    fn start<'a>(steps: impl Iterator<Item = &'a str>) -> Self {
        Self::of(command(steps))
    }

    /// What a command plays that ends in this program.
    pub fn of(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this program can be started again");
        let out = child.stdout.take().expect("a pipe");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                kept.lock().expect("nobody panics with it").push(line);
            }
        });
        Self { child, lines }
    }

    /// Waits until a process of it has said `word`.
    pub fn said(&self, word: &str) -> Who {
        wait_until(&format!("the workload to say {word:?}"), || {
            let lines = self.lines.lock().expect("nobody panics with it");
            lines.iter().find_map(|line| {
                let mut words = line.rsplitn(3, ' ');
                let (tid, pid, said) = (words.next()?, words.next()?, words.next()?);
                // The thread's link is PID/task/TID.
                (said == word).then_some(())?;
                Some(Who { pid: pid.parse().ok()?, tid: tid.parse().ok()? })
            })
        })
    }

    /// All that it has written so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("nobody panics with it").clone()
    }

    /// Has it written this line?
    pub fn heard(&self, line: &str) -> bool {
        self.lines().iter().any(|own| own == line)
    }

    /// Ends one `await`.
    pub fn go(&mut self) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        input.write_all(b"\n").and_then(|()| input.flush()).expect("it listens");
    }

    /// Waits for its end. Gives how it ended, and when (boot clock, ns).
    pub fn ended(&mut self) -> (ExitStatus, u64) {
        wait_until("the workload to end", || {
            let status = self.child.try_wait().expect("a child")?;
            Some((status, boottime_ns()))
        })
    }

    pub fn lives(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    pub fn pid(&self) -> u64 {
        u64::from(self.child.id())
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // What it started dies with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
