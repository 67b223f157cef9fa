//! What the tools are made to watch: exits, signals, OOM kills and requests to a disk, at a rate, by a process of a name of its own.

use std::{
    ffi::c_void,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    ptr, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{checks, packets, tcp};

/// The name of the processes that make the load: a tool's line with it is about them.
pub const NAME: &str = "ctbench";
const NAME_C: &std::ffi::CStr = c"ctbench";

/// Enough to be killed for, and little enough to be filled at once.
const LIMIT: usize = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Exits,
    Signals,
    Kills,
    Wakeups,
    /// Direct writes to a device in memory.
    Requests,
    /// From a container's device through a veth pair.
    Packets,
    /// The same as fast as they can be sent, timed.
    Floods,
    /// One stream, and then a byte there and a byte back, over and over, through the same pair.
    Tcp,
    /// Of a capability, by a process of a container.
    Checks,
}

impl Kind {
    /// One of it, in the tables.
    pub fn event(self) -> &'static str {
        match self {
            Self::Exits => "exit",
            Self::Signals => "signal",
            Self::Kills => "kill",
            Self::Wakeups => "wakeup",
            Self::Requests => "request",
            Self::Packets | Self::Floods => "packet",
            Self::Tcp => "transaction",
            Self::Checks => "check",
        }
    }

    /// Is it the load itself that is timed, on its processors?
    pub fn is_timed(self) -> bool {
        matches!(self, Self::Floods | Self::Tcp | Self::Checks)
    }
}

#[derive(clap::Args)]
pub struct Args {
    #[arg(value_enum)]
    kind: Kind,
    count: u32,
    /// Events a second, 0: as many as there can be
    #[arg(long, default_value_t = 0)]
    rate: u32,
}

/// The hidden command: prints the seconds that it took; for `tcp`, what each run found.
pub fn command(args: &Args) -> Result<ExitCode> {
    // SAFETY: a name that ends in a zero byte; this process has no other threads.
    unsafe { libc::prctl(libc::PR_SET_NAME, NAME_C.as_ptr()) };
    let mut start = Instant::now();
    let pace = Pace { start, rate: args.rate };
    match args.kind {
        Kind::Checks => {
            println!("{}", checks::ask(args.count)?.as_secs_f64());
            return Ok(ExitCode::SUCCESS);
        }
        Kind::Floods => {
            println!("{}", packets::flood(args.count)?.as_secs_f64());
            return Ok(ExitCode::SUCCESS);
        }
        Kind::Tcp => {
            tcp::serve(args.count)?;
            return Ok(ExitCode::SUCCESS);
        }
        Kind::Packets => start = packets::send(args.count, args.rate)?,
        Kind::Exits => exits(args.count, &pace)?,
        Kind::Signals => signals(args.count, &pace)?,
        Kind::Kills => kills(args.count, &pace)?,
        Kind::Wakeups => wakeups(args.count)?,
        Kind::Requests => requests(args.count, &pace)?,
    }
    println!("{}", start.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// Runs it in a process of its own; the seconds it took.
pub fn run(kind: Kind, count: u32, rate: u32) -> Result<f64> {
    let mut load = Command::new("/proc/self/exe");
    let kind = format!("{kind:?}").to_lowercase();
    load.args(["bench-load", &kind, &count.to_string(), "--rate", &rate.to_string()]);
    let said = crate::process::output(&mut load)?;
    said.trim().parse().context("the load did not say how long it took")
}

pub(super) struct Pace {
    pub start: Instant,
    pub rate: u32,
}

impl Pace {
    /// Waits until event `number` is due. The kernel sleeps 50 us longer than asked, so what is near is not waited for.
    pub(super) fn wait(&self, number: u32) {
        if self.rate == 0 {
            return;
        }
        let due = self.start + Duration::from_secs_f64(f64::from(number) / f64::from(self.rate));
        let ahead = due.saturating_duration_since(Instant::now());
        if ahead > Duration::from_millis(1) {
            thread::sleep(ahead);
        }
    }
}

/// The shortest lives there are: the parent's memory, and gone.
fn exits(count: u32, pace: &Pace) -> Result<()> {
    extern "C" fn gone(_: *mut c_void) -> i32 {
        0
    }
    let mut stack = vec![0u64; 4096];
    for number in 0..count {
        pace.wait(number);
        // SAFETY: the stack is this function's, and the parent waits (CLONE_VFORK) until the child has left it.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(stack.len());
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
            libc::clone(gone, top.cast(), flags, ptr::null_mut())
        };
        reap(pid)?;
    }
    Ok(())
}

/// To a child that ignores them: nothing but the signal itself happens.
fn signals(count: u32, pace: &Pace) -> Result<()> {
    let child = fork(|| {
        // SAFETY: only changes this process's own handling of a signal, then waits.
        unsafe {
            libc::signal(libc::SIGUSR1, libc::SIG_IGN);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            loop {
                libc::pause();
            }
        }
    })?;
    // Until it ignores them.
    thread::sleep(Duration::from_millis(100));
    for number in 0..count {
        pace.wait(number);
        // SAFETY: a signal to a child that is not reaped yet, so the pid is still its own.
        if unsafe { libc::kill(child, libc::SIGUSR1) } != 0 {
            bail!("the target of the signals is gone");
        }
    }
    // SAFETY: as above.
    unsafe { libc::kill(child, libc::SIGKILL) };
    reap(child)
}

/// Real kills in a cgroup of our own, below one limit.
fn kills(count: u32, pace: &Pace) -> Result<()> {
    let group = LimitedGroup::make()?;
    for number in 0..count {
        pace.wait(number);
        let procs = group.0.join("cgroup.procs");
        let victim = fork(|| {
            let moved = fs::write(&procs, "0").is_ok();
            if moved {
                fill_memory(4 * LIMIT);
            }
            // SAFETY: ends this process only; reached only where nobody killed it.
            unsafe { libc::_exit(1) }
        })?;
        let mut status = 0;
        // SAFETY: our own child, and a place for its status.
        if unsafe { libc::waitpid(victim, &raw mut status, 0) } != victim || !libc::WIFSIGNALED(status) {
            bail!("no OOM kill under a limit of {LIMIT} bytes: is the memory controller there?");
        }
    }
    Ok(())
}

/// Two processes that wake each other through pipes, as `perf bench sched pipe` does.
fn wakeups(count: u32) -> Result<()> {
    let (mut here, mut there) = (io::pipe()?, io::pipe()?);
    let mut byte = [0];
    let child = fork(|| {
        let mut byte = [0];
        for _ in 0..count / 2 {
            if here.0.read_exact(&mut byte).and_then(|()| there.1.write_all(&byte)).is_err() {
                break;
            }
        }
    })?;
    for _ in 0..count / 2 {
        here.1.write_all(&byte)?;
        there.0.read_exact(&mut byte)?;
    }
    reap(child)
}

/// One block, written directly over and over.
fn requests(count: u32, pace: &Pace) -> Result<()> {
    const BLOCK: usize = 4096;
    let device = LoopDevice::make()?;
    let file = fs::OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(&device.device)?;
    let layout = std::alloc::Layout::from_size_align(BLOCK, BLOCK)?;
    // SAFETY: of that size, zeroed, and never freed.
    let block = unsafe { std::slice::from_raw_parts(std::alloc::alloc_zeroed(layout), BLOCK) };
    for number in 0..count {
        pace.wait(number);
        file.write_all_at(block, 0).context("a direct write to a loop device")?;
    }
    Ok(())
}

/// A disk whose sectors are in a tmpfs.
struct LoopDevice {
    device: String,
    backing: PathBuf,
}

impl LoopDevice {
    fn make() -> Result<Self> {
        let backing = Path::new("/dev/shm").join(format!("{NAME}-{}", std::process::id()));
        fs::File::create(&backing)?.set_len(8 << 20)?;
        let mut losetup = Command::new("losetup");
        let device = crate::process::output(losetup.args(["--find", "--show"]).arg(&backing))?;
        Ok(Self { device: device.trim().to_owned(), backing })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = crate::process::output(Command::new("losetup").args(["--detach", &self.device]));
        let _ = fs::remove_file(&self.backing);
    }
}

fn fill_memory(bytes: usize) {
    // SAFETY: memory of our own, written within its bounds.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let memory = libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if memory != libc::MAP_FAILED {
            for at in (0..bytes).step_by(4096) {
                memory.cast::<u8>().add(at).write_volatile(1);
            }
        }
    }
}

struct LimitedGroup(PathBuf);

impl LimitedGroup {
    fn make() -> Result<Self> {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let (parent, limit) =
            if unified { ("/sys/fs/cgroup", "memory.max") } else { ("/sys/fs/cgroup/memory", "memory.limit_in_bytes") };
        let group = Self(Path::new(parent).join(format!("{NAME}-{}", std::process::id())));
        fs::create_dir(&group.0).with_context(|| format!("cannot make a memory cgroup below {parent}"))?;
        fs::write(group.0.join(limit), LIMIT.to_string()).context("cannot limit a cgroup's memory")?;
        // Where there is swap, a hog would go there instead.
        let _ = fs::write(group.0.join("memory.swap.max"), "0");
        let _ = fs::write(group.0.join("memory.swappiness"), "0");
        Ok(group)
    }
}

impl Drop for LimitedGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

pub(super) fn fork(child: impl FnOnce()) -> Result<i32> {
    // SAFETY: this process has one thread, so the child may do whatever it may.
    match unsafe { libc::fork() } {
        0 => {
            child();
            // SAFETY: ends the child without the parent's destructors.
            unsafe { libc::_exit(0) }
        }
        pid if pid > 0 => Ok(pid),
        _ => Err(std::io::Error::last_os_error()).context("fork"),
    }
}

pub(super) fn reap(pid: i32) -> Result<()> {
    // SAFETY: no status is asked for.
    if pid < 0 || unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } != pid {
        return Err(std::io::Error::last_os_error()).context("a child of the load");
    }
    Ok(())
}
