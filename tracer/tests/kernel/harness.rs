//! A list of tests, run one after another: they share one kernel, its log and the rate limit on its reports.

use std::{
    collections::HashSet,
    fmt, fs,
    path::Path,
    process::ExitCode,
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::support::engines::installed;

/// A test that takes longer than this hangs, and so would all that follow.
const HUNG: Duration = Duration::from_mins(4);

/// A test that fails, and then passes twice in a row, is unsteady: a busy machine may starve one. More than so many of a
/// list fail, since a fault in ctrace may show itself only now and then, too.
const UNSTEADY: usize = 2;

/// So many lines of a failure are said again at the end.
const SAID_AGAIN: usize = 40;

/// Which tests to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// One trigger and one near miss of each rule.
    Core,
    /// All that leave the machine as it was; the core among them.
    Full,
    /// Of the full list, where the machine is a real one: an emulated one takes minutes, and has one test of its kind.
    Native,
    /// Takes the whole machine's memory.
    HostOom,
    /// For a kernel booted with lockdown=confidentiality.
    Lockdown,
    /// For a machine whose PID 1 is systemd, with engines of its own.
    Systemd,
    /// Needs the feature `sockets`.
    Cri,
}

impl List {
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "core" => Self::Core,
            "full" => Self::Full,
            "host-oom" => Self::HostOom,
            "lockdown" => Self::Lockdown,
            "systemd" => Self::Systemd,
            "cri" => Self::Cri,
            _ => return None,
        })
    }
}

/// What a place may lack, so that a test cannot be run there. There is no other reason to skip one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    #[allow(dead_code, reason = "each list of tests names the lacks that it meets")]
    Kprobes,
    /// The memory controller in v2: `memory.oom.group`.
    CgroupV2,
    /// The memory controller in v1: `memory.oom_control`.
    CgroupV1,
    /// Quotas in the format that ext4 has them in.
    Quotas,
    /// A `kernel.pid_max` for each pid namespace.
    OwnPidMax,
    /// The flag of a bio whose pages are a process's (since 6.5).
    PinnedBios,
    /// A machine of its own: what the test changes holds for all of it.
    OwnMachine,
    /// Device-mapper, and its tool.
    Mapper,
    /// A queue that loses packets, and lets some overtake others.
    Netem,
    /// An engine's packages.
    Docker,
    Containerd,
    Podman,
    Runc,
    Crun,
    Lxc,
    /// The root file system with Debian's daemons, which xtask makes.
    Daemons,
    /// `capable` of the libbpf-tools, to compare with.
    Capable,
    /// A load that says itself what it did.
    Fio,
    /// XFS with quotas, and the tool that makes one.
    Xfs,
    /// The programs that make rules.
    IptablesLegacy,
    Nftables,
    /// A terminal to look at.
    Tmux,
    /// PID 1 of the host that may be looked at: one with a capability that this process lacks may not.
    OpenInit,
}

impl Lack {
    /// Is it really lacking? Asked of the kernel, never of its version.
    fn here(self) -> bool {
        match self {
            Self::Kprobes => !Path::new("/sys/bus/event_source/devices/kprobe/type").exists(),
            Self::CgroupV2 => !fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
                .is_ok_and(|list| list.split_whitespace().any(|controller| controller == "memory")),
            Self::Quotas => {
                let _ = std::process::Command::new("modprobe").arg("quota_v2").output();
                !Path::new("/sys/module/quota_v2").exists()
            }
            Self::CgroupV1 => !Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists(),
            Self::Docker => installed("dockerd").and(installed("docker")).is_none(),
            Self::Containerd => installed("containerd").and(installed("ctr")).is_none(),
            Self::Podman => installed("podman").is_none(),
            Self::Runc => installed("runc").is_none(),
            Self::Crun => installed("crun").is_none(),
            Self::Lxc => installed("lxc-start").is_none(),
            Self::Daemons => std::env::var_os("CTRACE_DAEMONS").is_none_or(|root| !Path::new(&root).is_dir()),
            Self::Capable => installed("capable").is_none(),
            Self::Fio => installed("fio").is_none(),
            Self::Xfs => {
                let _ = std::process::Command::new("modprobe").arg("xfs").output();
                // There only with CONFIG_XFS_QUOTA.
                installed("mkfs.xfs").is_none() || !Path::new("/proc/fs/xfs/xqmstat").exists()
            }
            Self::IptablesLegacy => installed("iptables-legacy").is_none(),
            Self::Nftables => installed("nft").is_none(),
            Self::Tmux => installed("tmux").is_none(),
            Self::OwnPidMax => {
                let layout = tracer::kernel::layout::Layout::of_this_kernel(&[]);
                layout.map_or(true, |layout| layout.get("PIDNS_PID_MAX") == tracer_common::ABSENT)
            }
            Self::PinnedBios => {
                let layout = tracer::kernel::layout::Layout::of_this_kernel(&[]);
                layout.map_or(true, |layout| layout.get("BIO_PINNED") == tracer_common::ABSENT)
            }
            Self::OwnMachine => !in_virtual_machine(),
            Self::Mapper => {
                let _ = std::process::Command::new("modprobe").arg("dm-zero").output();
                !Path::new("/sys/class/misc/device-mapper").exists()
            }
            Self::Netem => {
                let _ = std::process::Command::new("modprobe").arg("sch_netem").output();
                !Path::new("/sys/module/sch_netem").exists()
            }
            Self::OpenInit => fs::metadata("/proc/1/root/").is_err(),
        }
    }

    /// The virtual machines have all but cgroup v1: there another lack is a fault of the test run.
    fn may_be(self) -> bool {
        let packages = [
            Self::Docker,
            Self::Containerd,
            Self::Podman,
            Self::Runc,
            Self::Crun,
            Self::Lxc,
            Self::Daemons,
            Self::Capable,
            Self::Fio,
            Self::Xfs,
            Self::IptablesLegacy,
            Self::Nftables,
            Self::Tmux,
        ];
        !in_virtual_machine()
            || matches!(self, Self::CgroupV1 | Self::OwnPidMax | Self::PinnedBios)
            || packages.contains(&self)
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kprobes => "this kernel was built without kprobes",
            Self::CgroupV2 => "the memory controller is not in cgroup v2 here",
            Self::Quotas => "this kernel was built without quotas (CONFIG_QFMT_V2)",
            Self::CgroupV1 => "the memory controller is not in cgroup v1 here",
            Self::OwnPidMax => "kernel.pid_max is one for all pid namespaces here",
            Self::PinnedBios => "bios do not say here that their pages are a process's",
            Self::OwnMachine => "it changes the whole machine's limits",
            Self::Mapper => "this kernel was built without device-mapper",
            Self::Netem => "this kernel was built without netem (CONFIG_NET_SCH_NETEM)",
            Self::Docker => "docker.io is not installed",
            Self::Containerd => "containerd is not installed",
            Self::Podman => "podman is not installed",
            Self::Runc => "runc is not installed",
            Self::Crun => "crun is not installed",
            Self::Lxc => "lxc is not installed",
            Self::Daemons => "there is no root file system with daemons (mmdebstrap makes it for `cargo xtask test`)",
            Self::Capable => "libbpf-tools are not installed",
            Self::Fio => "fio is not installed",
            Self::Xfs => "xfsprogs is not installed, or this kernel was built without quotas of XFS",
            Self::IptablesLegacy => "iptables is not installed",
            Self::Nftables => "nftables is not installed",
            Self::Tmux => "tmux is not installed",
            Self::OpenInit => "PID 1 of this machine may not be looked at",
        })
    }
}

/// xtask's machines are emulated: everything takes ten times as long.
pub fn in_virtual_machine() -> bool {
    Path::new("/.vm/stage2").exists()
}

pub struct Test {
    pub name: &'static str,
    list: List,
    needs: &'static [Lack],
    run: fn(),
}

impl Test {
    pub const fn core(name: &'static str, run: fn()) -> Self {
        Self { name, list: List::Core, needs: &[], run }
    }

    pub const fn full(name: &'static str, run: fn()) -> Self {
        Self { name, list: List::Full, needs: &[], run }
    }

    pub const fn native(name: &'static str, run: fn()) -> Self {
        Self { name, list: List::Native, needs: &[], run }
    }

    pub const fn of(list: List, name: &'static str, run: fn()) -> Self {
        Self { name, list, needs: &[], run }
    }

    pub const fn needs(mut self, needs: &'static [Lack]) -> Self {
        self.needs = needs;
        self
    }
}

/// What is to be shown of a test if it fails: panics first, then what its programs said.
static DETAILS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps a text that explains a failure.
pub fn detail(text: String) {
    DETAILS.lock().unwrap_or_else(PoisonError::into_inner).push(text);
}

/// What a test measured: shown with its outcome, whichever it is.
static MEASURED: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub fn measured(text: String) {
    MEASURED.lock().unwrap_or_else(PoisonError::into_inner).push(text);
}

pub fn run(all: impl Iterator<Item = &'static Test>, list: List, filter: &str) -> ExitCode {
    let of_full = |test: &Test| test.list == List::Core || (test.list == List::Native && !in_virtual_machine());
    let listed = |test: &&Test| test.list == list || (list == List::Full && of_full(test));
    let tests: Vec<&'static Test> = all.filter(listed).filter(|test| test.name.contains(filter)).collect();
    let names: HashSet<&str> = tests.iter().map(|test| test.name).collect();
    assert_eq!(names.len(), tests.len(), "two tests have one name");
    std::panic::set_hook(Box::new(|panic| detail(panic.to_string())));
    let (mut passed, mut skipped) = (0, 0);
    let (mut failed, mut unsteady) = (Vec::new(), Vec::new());
    for (number, test) in tests.iter().enumerate() {
        if let Some(lack) = test.needs.iter().find(|lack| lack.here()) {
            if lack.may_be() {
                println!("test {} ... skipped: {lack}", test.name);
                skipped += 1;
            } else {
                let why = format!("{lack}, but a virtual machine should have it");
                println!("test {} ... FAILED\n    {why}", test.name);
                failed.push(Failure::new(test, &[why]));
            }
            continue;
        }
        let mut runs = ["", " again", " once more"].iter();
        let first = runs.next().map_or(Outcome::Hangs, |which| told(test, which));
        let last = match &first {
            Outcome::Failed(_) => runs.map(|which| told(test, which)).find(|run| !matches!(run, Outcome::Passed)),
            Outcome::Passed | Outcome::Hangs => None,
        };
        match (first, last) {
            (Outcome::Passed, _) => passed += 1,
            (Outcome::Failed(failure), None) => unsteady.push(failure),
            (Outcome::Failed(failure), Some(Outcome::Failed(_) | Outcome::Passed)) => failed.push(failure),
            (Outcome::Hangs, _) | (_, Some(Outcome::Hangs)) => {
                let behind = tests.len() - number - 1;
                let hangs = format!("hangs for {} s; the {behind} tests behind it fail with it", HUNG.as_secs());
                println!("    {hangs}");
                failed.push(Failure::new(test, &[hangs]));
                close(passed, failed.len() + behind, skipped, &failed, &unsteady);
                std::process::exit(1);
            }
        }
    }
    if unsteady.len() > UNSTEADY {
        failed.append(&mut unsteady);
    }
    passed += unsteady.len();
    close(passed, failed.len(), skipped, &failed, &unsteady);
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is said again at the end, where nobody has to look for it.
struct Failure {
    test: &'static str,
    lines: Vec<String>,
}

impl Failure {
    fn new(test: &Test, lines: &[String]) -> Self {
        Self { test: test.name, lines: lines.iter().take(SAID_AGAIN).cloned().collect() }
    }
}

/// The closing lines. xtask reads the last one, and says those before it again at its own end.
fn close(passed: usize, failed: usize, skipped: usize, failures: &[Failure], unsteady: &[Failure]) {
    let unsteady_ones = unsteady.iter().map(|failure| (failure, "is unsteady: it failed, and then passed twice"));
    for (failure, verdict) in failures.iter().map(|failure| (failure, "FAILED")).chain(unsteady_ones) {
        println!("kernel: {} {verdict}", failure.test);
        for line in &failure.lines {
            println!("    {line}");
        }
    }
    print!("kernel: {passed} passed, {failed} failed, {skipped} skipped");
    println!("{}", if unsteady.is_empty() { String::new() } else { format!(", {} unsteady", unsteady.len()) });
}

/// How one run of a test ended.
enum Outcome {
    Passed,
    Failed(Failure),
    /// It came to no end, and still runs.
    Hangs,
}

/// Runs it and says how it ended.
fn told(test: &'static Test, which: &str) -> Outcome {
    for texts in [&DETAILS, &MEASURED] {
        texts.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
    print!("test {}{which} ... ", test.name);
    let _ = std::io::Write::flush(&mut std::io::stdout());
    let start = Instant::now();
    let passed = passes(test);
    let verdict = if passed == Some(true) { "ok" } else { "FAILED" };
    println!("{verdict} ({:.1} s)", start.elapsed().as_secs_f64());
    let details = if passed == Some(true) { Vec::new() } else { lines(&DETAILS) };
    for line in lines(&MEASURED).iter().chain(&details) {
        println!("    {line}");
    }
    match passed {
        Some(true) => Outcome::Passed,
        Some(false) => Outcome::Failed(Failure::new(test, &details)),
        None => Outcome::Hangs,
    }
}

/// Whether it passed; `None`: it came to no end.
fn passes(test: &'static Test) -> Option<bool> {
    let (ended, end) = mpsc::channel();
    let work = move || {
        let passed = std::panic::catch_unwind(test.run).is_ok();
        let _ = ended.send(passed);
    };
    thread::Builder::new().name(test.name.to_owned()).spawn(work).expect("a thread for a test");
    end.recv_timeout(HUNG).ok()
}

fn lines(texts: &Mutex<Vec<String>>) -> Vec<String> {
    let texts = texts.lock().unwrap_or_else(PoisonError::into_inner);
    texts.iter().flat_map(|text| text.lines()).map(str::to_owned).collect()
}
