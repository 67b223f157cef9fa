//! The `ctrace` under test: started, listened to, ended.

use std::{
    io::{BufRead, BufReader, PipeReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::Value;
use tracer::kernel::host::boottime_ns;

use super::{cgroups::Group, evidence, wait_until};
use crate::harness;

/// Where the `ctrace` to test is: `CTRACE_BIN`, else beside the folder of this program.
pub fn binary() -> PathBuf {
    std::env::var_os("CTRACE_BIN").map_or_else(
        || {
            let own = std::env::current_exe().expect("the path of this program");
            own.ancestors().nth(2).unwrap_or(Path::new("/")).join("ctrace")
        },
        PathBuf::from,
    )
}

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments);
    with_us(&mut command);
    command
}

/// It ends when the test that started it does.
pub fn with_us(command: &mut Command) {
    // SAFETY: one system call, between fork and exec.
    unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
}

/// One line of its standard output.
#[derive(Clone, Debug)]
pub struct Line {
    pub text: String,
    /// As JSON; null where it is none.
    pub json: Value,
    /// When it arrived, boot clock.
    pub at_ns: u64,
}

/// A `ctrace` at work.
pub struct Ctrace {
    child: Child,
    out: Arc<Mutex<Vec<Line>>>,
    err: Arc<Mutex<Vec<Line>>>,
    readers: Vec<JoinHandle<()>>,
    shown: bool,
}

impl Ctrace {
    /// `ctrace oom --json`, attached.
    pub fn oom() -> Self {
        Self::ready(command(&["oom", "--json"]))
    }

    /// Waits until it says that it is ready.
    pub fn ready(command: Command) -> Self {
        let ctrace = Self::start(command);
        ctrace.wait_for("the ready note", |line| line.json["code"] == "ready" || line.text.contains("ready: "));
        ctrace
    }

    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", binary().display()));
        let (out, err) = (Arc::default(), Arc::default());
        let readers = vec![
            follow(child.stdout.take().expect("a pipe"), &out),
            follow(child.stderr.take().expect("a pipe"), &err),
        ];
        Self { child, out, err, readers, shown: false }
    }

    /// Held at the first thing that it writes, which is that it is attached: its standard output is full.
    pub fn held(mut command: Command) -> Held {
        let (end, writes) = std::io::pipe().expect("a pipe");
        let room = fcntl(&writes, FcntlArg::F_SETPIPE_SZ(1)).expect("a pipe as small as can be");
        (&writes).write_all(&vec![b'\n'; room as usize]).expect("that it takes as much");
        let mut child =
            command.stdin(Stdio::null()).stdout(writes).stderr(Stdio::piped()).spawn().expect("ctrace can be started");
        drop(command);
        let syscall = format!("/proc/{}/syscall", child.id());
        wait_until("ctrace to wait in write(1)", || {
            std::fs::read_to_string(&syscall).is_ok_and(|text| text.starts_with("1 0x1 ")).then_some(())
        });
        let err = Arc::default();
        let readers = vec![follow(child.stderr.take().expect("a pipe"), &err)];
        Held(Self { child, out: Arc::default(), err, readers, shown: false }, end)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// All that it has said so far.
    pub fn lines(&self) -> Vec<Line> {
        self.out.lock().expect("nobody panics with it").clone()
    }

    pub fn errors(&self) -> Vec<String> {
        self.err.lock().expect("nobody panics with it").iter().map(|line| line.text.clone()).collect()
    }

    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Line) -> bool) -> Line {
        wait_until(&format!("ctrace to say {what}"), || self.lines().into_iter().find(&wanted))
    }

    /// Waits for a finding about a container, or about a cgroup of the host.
    pub fn finding(&self, code: &str, of: &Group) -> Line {
        self.wait_for(&format!("{code} of {}", of.path), |line| line.json["code"] == code && is_about(&line.json, of))
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("ctrace runs");
    }

    /// Waits for its end.
    pub fn exited(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = wait_until("ctrace to end", || child.try_wait().expect("a child"));
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader");
        }
        status
    }

    /// Ends it with a SIGINT, and gives all that it said. It must end well, and each line must keep the contract.
    pub fn stop(mut self) -> Said {
        self.signal(Signal::SIGINT);
        let status = self.exited();
        assert!(status.code() == Some(0), "after SIGINT ctrace ended with {status}, not exit code 0");
        assert!(self.errors().is_empty(), "ctrace wrote to stderr");
        let lines = self.lines();
        self.shown = false;
        for line in lines.iter().filter(|line| !line.json.is_null()) {
            evidence::check(&line.json);
        }
        Said { lines }
    }
}

/// A `ctrace` that is attached, and waits until somebody reads what it writes.
pub struct Held(Ctrace, PipeReader);

impl Held {
    pub fn release(self) -> Ctrace {
        let Self(mut ctrace, end) = self;
        ctrace.readers.push(follow(end, &ctrace.out));
        ctrace
    }
}

/// All that a run said.
pub struct Said {
    pub lines: Vec<Line>,
}

impl Said {
    /// The findings about a cgroup, as its codes, in order.
    pub fn codes(&self, of: &Group) -> Vec<&str> {
        self.about(of).filter_map(|finding| finding["code"].as_str()).collect()
    }

    /// Events of this kind that ctrace said it did not see because the kernel skipped its program: where programs of raw
    /// tracepoints are preempted (7.3), which no test can prevent.
    pub fn skipped(&self, event: &str) -> usize {
        let losses = self.lines.iter().map(|line| &line.json).filter(|json| json["type"] == "loss");
        let ours = losses.filter(|json| json["event"] == event && is_skip(json));
        ours.filter_map(|json| json["count"].as_u64()).sum::<u64>() as usize
    }

    pub fn about(&self, of: &Group) -> impl Iterator<Item = &Value> {
        self.lines.iter().map(|line| &line.json).filter(|json| json["type"] == "finding" && is_about(json, of))
    }
}

/// Was it the kernel that did not run the program?
pub fn is_skip(loss: &Value) -> bool {
    loss["cause"].as_str().is_some_and(|cause| cause.starts_with("the kernel skipped"))
}

fn is_about(finding: &Value, of: &Group) -> bool {
    let cgroup = finding["container"]["cgroup"].as_str().or_else(|| finding["evidence"]["cgroup"].as_str());
    cgroup == Some(&of.path) && finding["evidence"]["before_attach"] != true
}

fn follow(stream: impl std::io::Read + Send + 'static, into: &Arc<Mutex<Vec<Line>>>) -> JoinHandle<()> {
    let lines = Arc::clone(into);
    thread::spawn(move || {
        for text in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&text).into_owned();
            let json = serde_json::from_str(&text).unwrap_or(Value::Null);
            lines.lock().expect("nobody panics with it").push(Line { text, json, at_ns: boottime_ns() });
        }
    })
}

impl Drop for Ctrace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        if thread::panicking() && !self.shown {
            // Past kills are mostly other tests'.
            let others = |line: &Line| line.json["evidence"]["before_attach"] == true;
            let lines: Vec<String> =
                self.lines().into_iter().filter(|line| !others(line)).map(|line| line.text).collect();
            harness::detail(format!("ctrace's output, past kills left out:\n{}", lines.join("\n")));
            harness::detail(format!("ctrace's stderr:\n{}", self.errors().join("\n")));
        }
    }
}

/// How a run that ends by itself ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: Vec<String>,
    pub err: Vec<String>,
}

/// The same where stdout is the caller's.
pub fn run_with_stdout(mut command: Command) -> Ended {
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("ctrace");
    let err: Arc<Mutex<Vec<Line>>> = Arc::default();
    let reader = follow(child.stderr.take().expect("a pipe"), &err);
    let status = wait_until("ctrace to end", || child.try_wait().expect("a child"));
    reader.join().expect("a reader");
    let err = err.lock().expect("nobody panics with it").iter().map(|line| line.text.clone()).collect();
    Ended { code: status.code(), out: Vec::new(), err }
}

/// Runs to its end, which must come soon.
pub fn run(command: Command) -> Ended {
    let mut ctrace = Ctrace::start(command);
    let status = ctrace.exited();
    let out = ctrace.lines().into_iter().map(|line| line.text).collect();
    Ended { code: status.code(), out, err: ctrace.errors() }
}
